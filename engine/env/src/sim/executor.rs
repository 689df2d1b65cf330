//! Tasks and timers of a simulation.
//!
//! What must hold: everything runs on the thread of the simulation; which task runs next is a function of the
//! seed and of what happened before, never of addresses, hash order or real time; a task that yields runs
//! again only after every task that was runnable with it.

use super::rng::SimRng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread::ThreadId;

/// A task's place in the table (low half) and the number of tasks that had that place before (high half).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskKey(u64);

impl TaskKey {
    /// The future given to `run_until`; it is not in the table.
    pub(super) const MAIN: TaskKey = TaskKey(u64::MAX);

    fn new(slot: usize, generation: u32) -> TaskKey {
        TaskKey((u64::from(generation) << 32) | slot as u64)
    }
    fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// Who runs: the life of a node that ends at its next crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: u32,
    /// Crashes of the node before this life.
    pub(super) number: u32,
}

/// The tasks that were woken since the last round, in the order of their wakes.
pub(super) struct WokenTasks {
    keys: Mutex<Vec<TaskKey>>,
    thread: ThreadId,
}

impl WokenTasks {
    pub(super) fn new() -> Arc<WokenTasks> {
        Arc::new(WokenTasks { keys: Mutex::new(Vec::new()), thread: std::thread::current().id() })
    }
    fn push(&self, key: TaskKey) {
        debug_assert_eq!(self.thread, std::thread::current().id(), "a simulated task was woken by a thread");
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }
    /// Moves the woken tasks into `runnable`, which must be empty.
    pub(super) fn take_into(&self, runnable: &mut Vec<TaskKey>) {
        debug_assert!(runnable.is_empty());
        std::mem::swap(runnable, &mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Wakes one task; wakes between two polls count once.
pub(super) struct TaskWaker {
    woken: Arc<WokenTasks>,
    key: TaskKey,
    queued: AtomicBool,
}

impl TaskWaker {
    pub(super) fn new(woken: Arc<WokenTasks>, key: TaskKey) -> Arc<TaskWaker> {
        Arc::new(TaskWaker { woken, key, queued: AtomicBool::new(false) })
    }
    /// To be called before the task is polled: a later wake counts again.
    pub(super) fn polled(&self) {
        self.queued.store(false, Ordering::Relaxed);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.woken.push(self.key);
        }
    }
}

pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A task on its way to be polled: out of the table, so that it can spawn, and be killed, meanwhile.
pub(super) struct Running {
    pub(super) future: TaskFuture,
    pub(super) waker: Waker,
    pub(super) life: Life,
    state: Arc<TaskWaker>,
}

struct Slot {
    generation: u32,
    /// Empty where no task has this place.
    life: Option<Life>,
    /// Empty while the task is being polled.
    resting: Option<Running>,
}

/// All tasks but the main one.
#[derive(Default)]
pub(super) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

impl Tasks {
    /// Adds a task that waits for its first wake, and gives the waker back for exactly that.
    #[must_use]
    pub(super) fn add(&mut self, future: TaskFuture, life: Life, woken: &Arc<WokenTasks>) -> Waker {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, life: None, resting: None });
            self.slots.len() - 1
        });
        let state = TaskWaker::new(woken.clone(), TaskKey::new(slot, self.slots[slot].generation));
        let waker = Waker::from(state.clone());
        self.slots[slot].life = Some(life);
        self.slots[slot].resting = Some(Running { future, waker: waker.clone(), life, state });
        waker
    }

    /// Takes a task out for a poll. `None` where it has ended.
    pub(super) fn take(&mut self, key: TaskKey) -> Option<Running> {
        let slot = &mut self.slots[key.slot()];
        if slot.generation != key.generation() {
            return None;
        }
        let running = slot.resting.take()?;
        running.state.polled();
        Some(running)
    }

    /// Puts a task back that is not done. A task killed meanwhile is handed back, to be dropped by the caller.
    #[must_use]
    pub(super) fn put_back(&mut self, key: TaskKey, running: Running) -> Option<Running> {
        let slot = &mut self.slots[key.slot()];
        if slot.generation != key.generation() {
            return Some(running);
        }
        slot.resting = Some(running);
        None
    }

    /// Frees the place of a task that is done (unless it was killed meanwhile).
    pub(super) fn end(&mut self, key: TaskKey) {
        if self.slots[key.slot()].generation == key.generation() {
            self.free(key.slot());
        }
    }

    /// Ends all tasks that `doomed` selects. The caller drops them once no borrow of the simulation is held:
    /// their destructors may use it.
    #[must_use]
    pub(super) fn kill(&mut self, doomed: impl Fn(Life) -> bool) -> Vec<Running> {
        let mut killed = Vec::new();
        for index in 0..self.slots.len() {
            if self.slots[index].life.is_some_and(&doomed) {
                killed.extend(self.slots[index].resting.take());
                self.free(index);
            }
        }
        killed
    }

    /// Tasks of the lives that `which` selects.
    pub(super) fn count(&self, which: impl Fn(Life) -> bool) -> usize {
        self.slots.iter().filter(|slot| slot.life.is_some_and(&which)).count()
    }

    fn free(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        slot.life = None;
        self.free.push(index);
    }
}

/// How the next runnable task is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At random, from the seed, among those that were runnable at the start of the round.
    Seeded,
    /// In the order of their wakes.
    Fifo,
}

/// The tasks of the current round.
pub(super) struct Round {
    pub(super) runnable: Vec<TaskKey>,
    schedule: Schedule,
    rng: SimRng,
}

impl Round {
    pub(super) fn new(schedule: Schedule, rng: SimRng) -> Round {
        Round { runnable: Vec::new(), schedule, rng }
    }

    /// The next task; starts a new round from `woken` where this one is over.
    pub(super) fn next(&mut self, woken: &WokenTasks) -> Option<TaskKey> {
        if self.runnable.is_empty() {
            woken.take_into(&mut self.runnable);
            if self.schedule == Schedule::Fifo {
                self.runnable.reverse();
            }
        }
        match (self.schedule, self.runnable.len()) {
            (_, 0) => None,
            (Schedule::Fifo, _) | (_, 1) => self.runnable.pop(),
            (Schedule::Seeded, n) => Some(self.runnable.swap_remove(self.rng.below(n as u64) as usize)),
        }
    }
}

/// What happens at a point in virtual time.
pub(super) enum Event {
    /// A sleep ends.
    Wake(Waker),
    /// A disk operation takes effect and ends.
    Disk(u32),
    /// Receivers of a core's queues look again.
    CoreWake { node: u32, core: usize },
    /// A segment, end or reset of a connection arrives.
    Network(super::net::Arrival),
}

/// Future events: by time, then in the order in which they were scheduled.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// `None`: cancelled, and still in the heap.
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    cancelled: usize,
    scheduled: u64,
}

/// The heap is rebuilt where it holds more cancelled timers than this, and more than live ones.
const CANCELLED_MAX: usize = 64;

impl Timers {
    /// Adds an event; the result is good for `cancel` and `rearm` until the event happens.
    pub(super) fn schedule(&mut self, at: u64, event: Event) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            (self.events.len() - 1) as u32
        });
        self.events[slot as usize] = Some(event);
        self.scheduled += 1;
        self.heap.push(Reverse((at, self.scheduled, slot)));
        slot
    }

    /// Replaces the waker of a sleep.
    pub(super) fn rearm(&mut self, slot: u32, waker: &Waker) {
        if let Some(Event::Wake(current)) = &mut self.events[slot as usize] {
            current.clone_from(waker);
        }
    }

    /// Takes an event back that has not happened.
    #[must_use]
    pub(super) fn cancel(&mut self, slot: u32) -> Option<Event> {
        let event = self.events[slot as usize].take();
        self.cancelled += 1;
        if self.cancelled > CANCELLED_MAX && self.cancelled > self.heap.len() / 2 {
            let Timers { heap, events, free, .. } = self;
            heap.retain(|Reverse((_, _, slot))| {
                let live = events[*slot as usize].is_some();
                if !live {
                    free.push(*slot);
                }
                live
            });
            self.cancelled = 0;
        }
        event
    }

    /// The time of the next event.
    pub(super) fn next_at(&mut self) -> Option<u64> {
        while let Some(Reverse((at, _, slot))) = self.heap.peek() {
            if self.events[*slot as usize].is_some() {
                return Some(*at);
            }
            self.free.push(*slot);
            self.heap.pop();
            self.cancelled -= 1;
        }
        None
    }

    /// The next event, if it is due at `now`.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<Event> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse((_, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        self.events[slot as usize].take()
    }
}
