//! The state of a simulation and its main loop.
//!
//! What must hold: no borrow of a part of the world is held while a task, a waker or a destructor of a task
//! runs, for each of these may come back here. Virtual time moves only while nothing is runnable (or, slowly,
//! where tasks keep yielding to each other without end).

use super::clock::NodeClock;
use super::core_wake::{SimCoreWaker, WokenCores};
use super::disk_io::DiskIos;
use super::executor::{
    Event, Life, Round, Running, Schedule, TaskFuture, TaskKey, TaskWaker, Tasks, Timers, WokenTasks,
};
use super::file_system::FileSystem;
use super::net::{Network, NetworkOptions};
use super::rng::{SimRng, mix};
use super::stream::LeftEnds;
use crate::Instant;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How a simulation behaves apart from its seed.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Which task runs next.
    pub schedule: Schedule,
    /// How long disk operations take.
    pub disk_latency: DiskLatency,
    /// How the network behaves where no link was set otherwise.
    pub network: NetworkOptions,
    /// How long a wake-up takes from core to core.
    pub core_wake_delay: Range<Duration>,
    /// Virtual time after which one `run_until` is taken to hang, and panics.
    pub run_until_max: Duration,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions {
            schedule: Schedule::Seeded,
            disk_latency: DiskLatency::default(),
            network: NetworkOptions::default(),
            core_wake_delay: Duration::from_micros(2)..Duration::from_micros(60),
            run_until_max: Duration::from_secs(3600),
        }
    }
}

/// How long disk operations take: a random time in the range plus the transfer. One in 128 takes 16 times longer.
#[derive(Clone, Debug)]
pub struct DiskLatency {
    /// A read.
    pub read: Range<Duration>,
    /// A write, a reservation or a hole.
    pub write: Range<Duration>,
    /// A flush, and what a flushed write takes in addition.
    pub flush: Range<Duration>,
    /// An operation on names.
    pub name: Range<Duration>,
    /// Transfer rate of a disk.
    pub bytes_per_second: u64,
}

impl Default for DiskLatency {
    fn default() -> Self {
        DiskLatency {
            read: Duration::from_micros(60)..Duration::from_micros(120),
            write: Duration::from_micros(10)..Duration::from_micros(40),
            flush: Duration::from_micros(50)..Duration::from_micros(500),
            name: Duration::from_micros(5)..Duration::from_micros(50),
            bytes_per_second: 2_000_000_000,
        }
    }
}

/// Nanoseconds of `duration`, saturating.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn draw_nanos(rng: &mut SimRng, range: &Range<Duration>) -> u64 {
    rng.within(nanos(range.start)..nanos(range.end))
}

/// Kinds of trace events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    Poll = 1,
    DiskStart,
    DiskEnd,
    Crash,
    CoreWake,
    NetworkSend,
    NetworkArrival,
    Random,
}

/// One event of a run: when, what kind, and two numbers that tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceEvent {
    at: Instant,
    kind: Trace,
    a: u64,
    b: u64,
}

/// How the life of a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LifeEnd {
    /// The machine stops: what was not flushed is at risk.
    PowerFails,
    /// The process is killed: the machine keeps what it wrote.
    ProcessKilled,
}

pub(super) struct Node {
    pub(super) name: String,
    /// Crashes so far.
    pub(super) life: u32,
    pub(super) files: FileSystem,
    pub(super) disk_rng: SimRng,
    pub(super) random: SimRng,
    pub(super) wakers: Vec<Arc<SimCoreWaker>>,
    /// Changing disk operations submitted in all lives.
    pub(super) changing_ios: u64,
    /// The node crashes at this changing disk operation.
    pub(super) crash_at_io: Option<u64>,
    pub(super) clock: NodeClock,
    pub(super) wall_clock_offset_ms: i64,
    crash_waiters: Vec<Waker>,
    /// Its tasks run from then on, virtual nanoseconds.
    pub(super) paused_until: u64,
}

/// How often the same instant may be polled before time creeps on: tasks may wait for time by yielding.
const POLLS_PER_INSTANT_MAX: u32 = 20_000;
/// The step in which time creeps at first; up to 1024 times that where nothing else happens.
const CREEP_NANOS: u64 = 1_000;
/// Virtual time starts here, so that nothing takes zero for "never".
const START_NANOS: u64 = 1_000_000_000;
/// Wall-clock milliseconds since the Unix epoch at the start of virtual time.
const START_UNIX_MILLIS: i64 = 1_750_000_000_000;

pub(super) struct World {
    pub(super) options: SimOptions,
    clock: Cell<u64>,
    trace: Cell<u64>,
    events: Cell<u64>,
    polls_at_instant: Cell<u32>,
    round: RefCell<Round>,
    woken: Arc<WokenTasks>,
    tasks: RefCell<Tasks>,
    pub(super) timers: RefCell<Timers>,
    woken_cores: Arc<WokenCores>,
    rng: RefCell<SimRng>,
    pub(super) nodes: RefCell<Vec<Node>>,
    pub(super) disk_ios: RefCell<DiskIos>,
    pub(super) network: RefCell<Network>,
    pub(super) left_ends: Arc<LeftEnds>,
    /// Whose task is being polled; `None` in the main future and outside.
    running: Cell<Option<Life>>,
    polling: Cell<bool>,
    /// Nodes that died within the current poll and are to be cleared after it.
    dying: RefCell<Vec<(u32, LifeEnd)>>,
    /// Events in full, where a test asked for them.
    recording: RefCell<Option<Vec<TraceEvent>>>,
}

/// What ended a run of the main loop.
enum Pause {
    /// The main future was woken.
    Main,
    /// No event is due before the limit.
    Limit,
    /// Something ran.
    Progress,
    /// Nothing is runnable and no event will come.
    Stuck,
}

impl World {
    pub(super) fn new(seed: u64, options: SimOptions) -> Rc<World> {
        let mut rng = SimRng::new(seed);
        Rc::new(World {
            round: RefCell::new(Round::new(options.schedule, rng.fork())),
            network: RefCell::new(Network::new(options.network.clone(), rng.fork())),
            options,
            clock: Cell::new(START_NANOS),
            trace: Cell::new(mix(seed)),
            events: Cell::new(0),
            polls_at_instant: Cell::new(0),
            woken: WokenTasks::new(),
            tasks: RefCell::new(Tasks::default()),
            timers: RefCell::new(Timers::default()),
            woken_cores: Arc::new(WokenCores::default()),
            rng: RefCell::new(rng),
            nodes: RefCell::new(Vec::new()),
            disk_ios: RefCell::new(DiskIos::default()),
            left_ends: Arc::default(),
            running: Cell::new(None),
            polling: Cell::new(false),
            dying: RefCell::new(Vec::new()),
            recording: RefCell::new(None),
        })
    }

    // Time and trace.

    pub(super) fn now(&self) -> u64 {
        self.clock.get()
    }

    /// Virtual time since the start.
    pub(super) fn age(&self) -> Duration {
        Duration::from_nanos(self.now() - START_NANOS)
    }

    pub(super) fn unix_millis(&self, node: u32) -> u64 {
        let passed = (self.now() - START_NANOS) / 1_000_000;
        let offset = self.nodes.borrow()[node as usize].wall_clock_offset_ms;
        (START_UNIX_MILLIS + offset).saturating_add_unsigned(passed).max(0).cast_unsigned()
    }

    #[inline]
    pub(super) fn trace(&self, kind: Trace, a: u64, b: u64) {
        let event = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(32) ^ (kind as u64);
        let hash = (self.trace.get() ^ event).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29);
        self.trace.set(hash ^ self.clock.get());
        self.events.set(self.events.get() + 1);
        if let Some(events) = &mut *self.recording.borrow_mut() {
            events.push(TraceEvent { at: Instant(self.clock.get()), kind, a, b });
        }
    }

    pub(super) fn record(&self) {
        self.recording.borrow_mut().get_or_insert_default();
    }

    pub(super) fn take_recording(&self) -> Vec<TraceEvent> {
        self.recording.borrow_mut().take().unwrap_or_default()
    }

    pub(super) fn trace_hash(&self) -> u64 {
        mix(self.trace.get())
    }

    pub(super) fn events(&self) -> u64 {
        self.events.get()
    }

    pub(super) fn schedule(&self, at: u64, event: Event) -> u32 {
        self.timers.borrow_mut().schedule(at, event)
    }

    pub(super) fn fork_rng(&self) -> SimRng {
        self.rng.borrow_mut().fork()
    }

    // Nodes.

    pub(super) fn node(&self, name: &str) -> u32 {
        let mut nodes = self.nodes.borrow_mut();
        if let Some(index) = nodes.iter().position(|node| node.name == name) {
            return index as u32;
        }
        nodes.push(Node {
            name: name.to_owned(),
            life: 0,
            files: FileSystem::new(),
            disk_rng: self.fork_rng(),
            random: self.fork_rng(),
            wakers: Vec::new(),
            changing_ios: 0,
            crash_at_io: None,
            clock: NodeClock::default(),
            wall_clock_offset_ms: 0,
            crash_waiters: Vec::new(),
            paused_until: 0,
        });
        (nodes.len() - 1) as u32
    }

    pub(super) fn life(&self, node: u32) -> Life {
        Life { node, number: self.nodes.borrow()[node as usize].life }
    }

    pub(super) fn is_alive(&self, life: Life) -> bool {
        self.nodes.borrow()[life.node as usize].life == life.number
    }

    /// Called where a future of an ended life is polled. Only the rest of the poll that the crash happened in
    /// may do so; in the main future it would wait for ever.
    pub(super) fn assert_not_driving(&self, dead: Life) {
        assert!(
            !self.polling.get() || self.running.get().is_some(),
            "run_until waits for an operation of node {:?}, which has crashed: give the work to \
             SimNode::run, which ends with the crash, or take a new env",
            self.nodes.borrow()[dead.node as usize].name
        );
    }

    pub(super) fn waker(&self, node: u32, core: usize) -> Arc<SimCoreWaker> {
        let wakers = &mut self.nodes.borrow_mut()[node as usize].wakers;
        while wakers.len() <= core {
            wakers.push(SimCoreWaker::new(node, wakers.len(), self.woken_cores.clone()));
        }
        wakers[core].clone()
    }

    pub(super) fn spawn(&self, life: Life, task: TaskFuture) {
        if self.is_alive(life) {
            let waker = self.tasks.borrow_mut().add(task, life, &self.woken);
            waker.wake();
        }
    }

    pub(super) fn task_count(&self, node: u32) -> usize {
        self.tasks.borrow().count(|life| life.node == node)
    }

    /// Ends the life of a node. From within one of its own tasks the rest follows after the poll.
    pub(super) fn crash(&self, node: u32, how: LifeEnd) {
        {
            let now = self.now();
            let node = &mut self.nodes.borrow_mut()[node as usize];
            node.life += 1;
            node.crash_at_io = None;
            node.paused_until = 0;
            node.clock.stop(now, now);
        }
        self.trace(Trace::Crash, u64::from(node), 0);
        if self.running.get().is_some_and(|life| life.node == node) {
            self.dying.borrow_mut().push((node, how));
        } else {
            self.clear_crashed(node, how);
        }
    }

    fn clear_crashed(&self, node: u32, how: LifeEnd) {
        let current = self.life(node);
        let mut in_flight = self.disk_ios.borrow_mut().abandon(self, current);
        let mut waiters = in_flight.take_waiters();
        waiters.extend({
            let node = &mut self.nodes.borrow_mut()[node as usize];
            in_flight.settle(&mut node.files, how, &mut node.disk_rng);
            for waker in &node.wakers {
                waker.forget_receivers();
            }
            std::mem::take(&mut node.crash_waiters)
        });
        super::net::crash(self, current, how);
        let killed = self.tasks.borrow_mut().kill(|life| life.node == node && life.number != current.number);
        drop(killed);
        for waiter in waiters {
            waiter.wake();
        }
    }

    /// Ready once the life has ended.
    pub(super) fn poll_crashed(&self, life: Life, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_alive(life) {
            return Poll::Ready(());
        }
        let waiters = &mut self.nodes.borrow_mut()[life.node as usize].crash_waiters;
        if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends everything: tasks own handles on the world.
    pub(super) fn end(&self) {
        for node in self.nodes.borrow_mut().iter_mut() {
            node.life += 1;
        }
        let killed = self.tasks.borrow_mut().kill(|_| true);
        drop(killed);
        let timers = std::mem::take(&mut *self.timers.borrow_mut());
        drop(timers);
        self.network.borrow_mut().end();
    }

    // The main loop.

    /// Runs until `main` is done; `None` where `life` ended before.
    pub(super) fn run_until<T>(&self, main: impl Future<Output = T>, life: Option<Life>) -> Option<T> {
        assert!(!self.polling.get(), "a simulation runs one main future at a time");
        let mut main = std::pin::pin!(main);
        let state = TaskWaker::new(self.woken.clone(), TaskKey::MAIN);
        let waker = Waker::from(state.clone());
        let limit = self.now().saturating_add(nanos(self.options.run_until_max));
        waker.wake_by_ref();
        loop {
            if life.is_some_and(|life| !self.is_alive(life)) {
                return None;
            }
            match self.step(limit) {
                Pause::Progress => {}
                Pause::Main => {
                    state.polled();
                    let result = self.poll(TaskKey::MAIN, life, &waker, main.as_mut());
                    if let (Poll::Ready(value), true) = (result, life.is_none_or(|life| self.is_alive(life)))
                    {
                        return Some(value);
                    }
                }
                Pause::Limit => panic!(
                    "the simulation has run for {:?} of virtual time and its main future is not done",
                    self.options.run_until_max
                ),
                Pause::Stuck => {
                    panic!(
                        "the simulation is stuck: nothing is runnable, no event will come, main is not done"
                    )
                }
            }
        }
    }

    pub(super) fn run_for(&self, duration: Duration) {
        assert!(!self.polling.get(), "run_for is not for use within the simulation: sleep instead");
        let limit = self.now().saturating_add(nanos(duration));
        while !matches!(self.step(limit), Pause::Limit | Pause::Stuck) {}
        self.set_clock(limit);
    }

    /// Runs one task, or moves time to the next event up to `limit`.
    fn step(&self, limit: u64) -> Pause {
        let Some(key) = self.next_runnable() else {
            let Some(at) = self.timers.borrow_mut().next_at() else { return Pause::Stuck };
            if at > limit {
                return Pause::Limit;
            }
            self.set_clock(at);
            self.fire_due();
            return Pause::Progress;
        };
        if key == TaskKey::MAIN {
            return Pause::Main;
        }
        let taken = self.tasks.borrow_mut().take(key);
        if let Some(mut task) = taken {
            let paused_until = self.nodes.borrow()[task.life.node as usize].paused_until;
            if paused_until > self.now() {
                self.schedule(paused_until, Event::Wake(task.waker.clone()));
                let killed = self.tasks.borrow_mut().put_back(key, task);
                drop(killed);
                return Pause::Progress;
            }
            let Running { future, waker, life, .. } = &mut task;
            let over = match self.poll(key, Some(*life), waker, future.as_mut()) {
                Poll::Ready(()) => {
                    self.tasks.borrow_mut().end(key);
                    Some(task)
                }
                Poll::Pending => self.tasks.borrow_mut().put_back(key, task),
            };
            drop(over);
        }
        if self.now() > limit { Pause::Limit } else { Pause::Progress }
    }

    fn next_runnable(&self) -> Option<TaskKey> {
        let mut round = self.round.borrow_mut();
        if round.runnable.is_empty() && self.polls_at_instant.get() > POLLS_PER_INSTANT_MAX {
            drop(round);
            self.set_clock_creeping();
            self.fire_due();
            round = self.round.borrow_mut();
        }
        round.next(&self.woken)
    }

    fn poll<T>(
        &self,
        key: TaskKey,
        life: Option<Life>,
        waker: &Waker,
        future: Pin<&mut (impl Future<Output = T> + ?Sized)>,
    ) -> Poll<T> {
        self.trace(Trace::Poll, key.number(), 0);
        self.polls_at_instant.set(self.polls_at_instant.get() + 1);
        self.running.set(life);
        self.polling.set(true);
        let guard = PollEnd(self);
        let result = future.poll(&mut Context::from_waker(waker));
        drop(guard);
        while let Some((node, how)) = { self.dying.borrow_mut().pop() } {
            self.clear_crashed(node, how);
        }
        self.left_ends.close(self);
        if self.woken_cores.any() {
            for (node, core) in self.woken_cores.take() {
                let delay = draw_nanos(&mut self.rng.borrow_mut(), &self.options.core_wake_delay);
                self.schedule(self.now() + delay, Event::CoreWake { node, core });
            }
        }
        result
    }

    fn set_clock(&self, at: u64) {
        if at > self.clock.get() {
            self.clock.set(at);
            self.polls_at_instant.set(0);
        }
    }

    fn set_clock_creeping(&self) {
        let rounds_log = (self.polls_at_instant.get() / POLLS_PER_INSTANT_MAX).min(10);
        self.clock.set(self.clock.get() + (CREEP_NANOS << rounds_log));
    }

    fn fire_due(&self) {
        loop {
            let event = self.timers.borrow_mut().pop_due(self.now());
            let Some(event) = event else { return };
            match event {
                Event::Wake(waker) => waker.wake(),
                Event::Disk(io) => super::disk_io::finish(self, io),
                Event::CoreWake { node, core } => {
                    self.trace(Trace::CoreWake, u64::from(node), core as u64);
                    self.waker(node, core).arrive();
                }
                Event::Network(arrival) => super::net::arrive(self, arrival),
            }
        }
    }
}

/// Marks the end of a poll, also where it panics.
struct PollEnd<'a>(&'a World);

impl Drop for PollEnd<'_> {
    fn drop(&mut self) {
        self.0.running.set(None);
        self.0.polling.set(false);
    }
}
