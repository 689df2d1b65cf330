//! One core: a named, pinned thread with one glommio executor, the ring of the core, its timers and its wake-ups.
//!
//! What must hold:
//! - A panic on a core ends the process: half a node must not go on.
//! - The core's tasks are glommio's. One of them, [`drive`], never rests: it comes up behind all that are runnable,
//!   and fires timers, answers other cores, and hands operations to the ring. Where no other task has run since it
//!   came up last, none is runnable, and it sleeps in the ring until an answer, a timer or another core ends that.
//!   A task that is woken by another thread in any other way than a [`CoreWaker`] is not seen before.
//! - glommio's own reactor, whose every turn costs three system calls, therefore turns only when its preempt timer
//!   fires ([`PREEMPT_TIMER`]). It can park then although tasks are runnable: its `run_task_queues` says "nothing
//!   ran" when that timer has expired before the first task. The `watchdog` ends such a sleep from outside.
//! - glommio's own reading of the CPU topology is not used: it knows neither affinity nor cgroups and panics on
//!   some machines. The thread is pinned here, within the process's affinity, before the executor is made.

use super::ring::Ring;
use super::timers::Timers;
use super::{CoreWaker, RealEnv, watchdog};
use crate::Env;
use futures::future::LocalBoxFuture;
use glommio::{LocalExecutorBuilder, Placement, Task};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PREEMPT_TIMER: Duration = Duration::from_secs(1);
/// Tasks that have run this long since the core last looked at its ring let it look at their next yield.
const SLICE: Duration = Duration::from_micros(200);
/// While there are tasks to run, the ring is looked at no more often than this: each look may be a system call.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// The longest sleep: the watchdog sees from it that the core lives.
const SLEEP_MAX: Duration = Duration::from_millis(200);
/// How long the end of a core waits for the answers of its disks.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// glommio's registered I/O memory. None of its disk I/O is used; this is the least it takes (bytes).
const GLOMMIO_IO_MEMORY_BYTES: usize = 64 << 10;
/// Submission entries of each of glommio's three rings.
const GLOMMIO_RING_ENTRIES: usize = 128;
/// Random numbers fetched from the operating system at a time.
const RANDOM_REFILL: usize = 64;

/// How a core is run.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The CPU to run on; it must be in the process's affinity. `None`: the `index`-th CPU of it, from the start
    /// again where there are more cores than CPUs.
    pub cpu: Option<usize>,
    /// The core's number in the node, from 0.
    pub index: usize,
    /// The thread's name (the kernel shows 15 bytes of it).
    pub name: String,
}

/// A running core.
pub struct CoreHandle {
    thread: JoinHandle<()>,
}

impl CoreHandle {
    /// Waits for the end of the core's `main`.
    pub fn join(self) {
        if self.thread.join().is_err() {
            unreachable!("a panic on a core ends the process");
        }
    }
}

/// Runs `main` as the first task of a new core. Returns when the executor is up, or why it cannot be. The core
/// ends with `main`: other tasks are then dropped where they are, after answers of the disks still outstanding
/// have come in.
pub fn run_core<M, F>(options: CoreOptions, waker: Arc<CoreWaker>, main: M) -> io::Result<CoreHandle>
where
    M: FnOnce(Env) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let cpu = choose_cpu(&options)?;
    waker.claim(&options.name);
    watchdog::watch(Arc::downgrade(&waker))?;
    let (report, started) = mpsc::sync_channel::<io::Result<()>>(1);
    let name = options.name.clone();
    let thread = std::thread::Builder::new().name(options.name).spawn(move || {
        let run = AssertUnwindSafe(|| run_here(cpu, &waker, main, &report));
        if std::panic::catch_unwind(run).is_err() {
            // The panic hook has already told where and why.
            eprintln!("core {name} panicked: the process ends");
            std::process::abort();
        }
    })?;
    match started.recv() {
        Ok(Ok(())) => Ok(CoreHandle { thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => unreachable!("a core reports before it ends"),
    }
}

/// The CPUs this process may run on.
pub fn usable_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|cpu| cpu.id).collect()
}

fn choose_cpu(options: &CoreOptions) -> io::Result<Option<usize>> {
    let usable = usable_cpus();
    match options.cpu {
        Some(cpu) if usable.contains(&cpu) => Ok(Some(cpu)),
        Some(cpu) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {cpu} is not among those this process may use ({usable:?})"),
        )),
        None if usable.is_empty() => Ok(None),
        None => Ok(Some(usable[options.index % usable.len()])),
    }
}

fn run_here<M, F>(
    cpu: Option<usize>,
    waker: &Arc<CoreWaker>,
    main: M,
    report: &mpsc::SyncSender<io::Result<()>>,
) where
    M: FnOnce(Env) -> F,
    F: Future<Output = ()> + 'static,
{
    if let Some(id) = cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        tracing::warn!(cpu = id, "cannot pin the core to its CPU");
    }
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .preempt_timer(PREEMPT_TIMER)
        .io_memory(GLOMMIO_IO_MEMORY_BYTES)
        .ring_depth(GLOMMIO_RING_ENTRIES)
        .make();
    let made = executor.map_err(io::Error::from).and_then(|executor| {
        let ring = Ring::new(waker.bell()?)?;
        Ok((executor, ring))
    });
    // The receiver waits for this one message; it is gone only if its thread is.
    let (executor, ring) = match made {
        Ok(made) => {
            let _ = report.send(Ok(()));
            made
        }
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let core = Rc::new(Core {
        ring,
        timers: Timers::default(),
        waker: waker.clone(),
        tasks: Rc::default(),
        last_look: Cell::new(Instant::now()),
        random: RefCell::new(Vec::new()),
    });
    executor.run(async move {
        let over = Rc::new(Cell::new(None));
        let (end, env) = (over.clone(), Env::Real(RealEnv::new(core.clone())));
        let main = main(env);
        core.spawn(Box::pin(async move {
            main.await;
            end.set(Some(Instant::now()));
        }));
        let waker = core.waker.clone();
        let kicked = waker.clone();
        drop(run_in_queue(async move { kicked.be_kicked().await }).detach());
        run_in_queue(drive(core, over)).await;
        waker.retire();
    });
}

/// See the module's head. Ends some time after `over` is set, when the disks have given their answers.
async fn drive(core: Rc<Core>, over: Rc<Cell<Option<Instant>>>) {
    let mut polled_before = u64::MAX;
    loop {
        core.waker.tick();
        core.look_at_doorbell();
        core.timers.fire();
        if let Some(since) = over.get() {
            core.tasks.drop_all();
            if !core.ring.is_busy() || since.elapsed() > DRAIN_LIMIT {
                return;
            }
        }
        let polled = core.tasks.polled.get();
        if polled != polled_before {
            polled_before = polled;
            let now = Instant::now();
            if now.duration_since(core.last_look.get()) >= LOOK_EVERY {
                core.last_look.set(now);
                core.ring.pass();
            }
        } else {
            let limit = core.timers.next().min(SLEEP_MAX);
            if core.waker.fall_asleep() {
                core.ring.wait(limit);
                core.waker.wake_up();
            }
            core.last_look.set(Instant::now());
            // Who was woken has not run yet.
            polled_before = u64::MAX;
        }
        give_way().await;
    }
}

/// Comes up again behind every task that is runnable now.
async fn give_way() {
    let mut given = false;
    std::future::poll_fn(|cx| {
        if given {
            return Poll::Ready(());
        }
        given = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs a task behind those that are runnable: glommio's `spawn_local` would run it at once, inside its caller, who
/// may hold a borrow.
fn run_in_queue(task: impl Future<Output = ()> + 'static) -> Task<()> {
    match glommio::spawn_local_into(task, glommio::TaskQueueHandle::default()) {
        Ok(task) => task,
        Err(error) => unreachable!("the default task queue always exists: {error}"),
    }
}

/// The tasks of one core. glommio never drops those that are left when its executor ends; what they hold open would stay
/// open in a process that goes on.
#[derive(Default)]
struct Tasks {
    there: RefCell<BTreeMap<u64, TaskSlot>>,
    added: Cell<u64>,
    /// How often tasks were polled so far.
    polled: Cell<u64>,
}

type TaskSlot = Rc<RefCell<Option<LocalBoxFuture<'static, ()>>>>;

impl Tasks {
    fn add(&self, task: LocalBoxFuture<'static, ()>) -> (u64, TaskSlot) {
        let number = self.added.get();
        self.added.set(number + 1);
        let slot = Rc::new(RefCell::new(Some(task)));
        self.there.borrow_mut().insert(number, slot.clone());
        (number, slot)
    }

    /// Drops all tasks where they are. Not for calls out of one of them.
    fn drop_all(&self) {
        let there = std::mem::take(&mut *self.there.borrow_mut());
        for slot in there.into_values() {
            let task = slot.borrow_mut().take();
            drop(task);
        }
    }
}

/// What the parts of one core share.
pub(super) struct Core {
    pub(super) ring: Rc<Ring>,
    pub(super) timers: Timers,
    waker: Arc<CoreWaker>,
    tasks: Rc<Tasks>,
    /// When the ring was looked at.
    last_look: Cell<Instant>,
    /// Unused random numbers from the operating system.
    random: RefCell<Vec<u64>>,
}

impl Core {
    /// Runs a task of this core, from a later turn on.
    pub(super) fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        let tasks = self.tasks.clone();
        let (number, slot) = tasks.add(task);
        let task = run_in_queue(async move {
            std::future::poll_fn(|cx| {
                tasks.polled.set(tasks.polled.get().wrapping_add(1));
                match &mut *slot.borrow_mut() {
                    Some(task) => task.as_mut().poll(cx),
                    None => Poll::Ready(()),
                }
            })
            .await;
            tasks.there.borrow_mut().remove(&number);
        });
        drop(task.detach());
    }

    /// From the operating system.
    pub(super) fn random_u64(&self) -> u64 {
        let mut unused = self.random.borrow_mut();
        if unused.is_empty() {
            let mut bytes = [0u8; RANDOM_REFILL * 8];
            if let Err(error) = getrandom::fill(&mut bytes) {
                panic!("the operating system gives no random numbers: {error}");
            }
            let (words, _) = bytes.as_chunks::<8>();
            unused.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        }
        match unused.pop() {
            Some(number) => number,
            None => unreachable!("filled above"),
        }
    }

    /// Hands messages of other cores to their receivers if there are any. Called wherever a task passes through
    /// here anyway: a busy core then hears other cores without a system call.
    pub(super) fn look_at_doorbell(&self) -> bool {
        self.waker.answer()
    }

    /// Lets others run if the slice is used up or another core has said something.
    pub(super) async fn yield_if_needed(&self) {
        if self.look_at_doorbell() || self.last_look.get().elapsed() >= SLICE {
            give_way().await;
        }
    }

    /// Lets every runnable task run, and sockets, timers and disks be looked at.
    pub(super) async fn yield_now(&self) {
        self.look_at_doorbell();
        give_way().await;
    }
}
