//! One core: a named, pinned thread with one glommio executor, its disk ring and its wake-ups.
//!
//! What must hold:
//! - A panic on a core ends the process: half a node must not go on.
//! - The executor is never parked for good while a task is runnable. glommio can park in that state: its
//!   `run_task_queues` says "nothing ran" when the preempt timer has expired before the first task, which takes no
//!   more than another thread getting the CPU at the wrong moment, and the timers that were due are used up by
//!   then. So [`TICKERS`] tick in turns, one of them is always armed, and ends such a sleep after [`TICK`]; where
//!   all were used up, the `watchdog` kicks the core from outside.
//! - [`PREEMPT_TIMER`] is therefore long enough to be rare. What it is for, looking at sockets, timers and disks
//!   while tasks compute, does not wait for it: a task that has used up its [`SLICE`] passes through the reactor
//!   at its next yield ([`Core::yield_now`]).
//! - glommio's own reading of the CPU topology is not used: it knows neither affinity nor cgroups and panics on
//!   some machines. The thread is pinned here, within the process's affinity, before the executor is made.

use super::ring::DiskRing;
use super::{CoreWaker, RealEnv, kernel, watchdog};
use crate::Env;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use glommio::channels::shared_channel::{self, SharedSender};
use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PREEMPT_TIMER: Duration = Duration::from_millis(10);
const TICK: Duration = Duration::from_millis(5);
const TICKERS: u32 = 4;
/// Tasks that have run this long since the last turn of the reactor let it turn at the next yield.
const SLICE: Duration = Duration::from_micros(200);
/// How long the end of a core waits for the answers of its disks.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// glommio's registered I/O memory. None of its disk I/O is used; this is the least it takes (bytes).
const GLOMMIO_IO_MEMORY_BYTES: usize = 64 << 10;
/// Submission entries of each of glommio's three rings.
const GLOMMIO_RING_ENTRIES: usize = 256;

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
        let completions = kernel::eventfd()?;
        let ring = DiskRing::new(&completions)?;
        Ok((executor, ring, completions))
    });
    // The receiver waits for this one message; it is gone only if its thread is.
    let (executor, ring, completions) = match made {
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
        waker: waker.clone(),
        slice_start: Cell::new(Instant::now()),
        random: RefCell::new(Vec::new()),
        turn: Turn::new(),
    });
    executor.run(async move {
        let doorbell = core.waker.clone();
        spawn(async move { doorbell.answer_for_ever().await });
        let ring = core.ring.clone();
        spawn(async move {
            loop {
                ring.submit_requested().await;
                ring.submit_and_reap();
            }
        });
        let ring = core.ring.clone();
        let completions = kernel::into_glommio_file(completions);
        spawn(reap_for_ever(ring, completions));
        for ticker in 0..TICKERS {
            spawn(tick_for_ever(core.clone(), ticker));
        }
        main(Env::Real(RealEnv::new(core.clone()))).await;
        core.waker.retire();
        let start = Instant::now();
        while core.ring.is_busy() && start.elapsed() < DRAIN_LIMIT {
            glommio::timer::sleep(Duration::from_millis(1)).await;
            core.ring.submit_and_reap();
        }
    });
}

async fn tick_for_ever(core: Rc<Core>, ticker: u32) {
    glommio::timer::sleep(TICK * ticker).await;
    loop {
        core.waker.tick();
        core.look_at_doorbell();
        core.ring.reap();
        glommio::timer::sleep(TICK * TICKERS).await;
    }
}

async fn reap_for_ever(ring: Rc<DiskRing>, completions: BufferedFile) {
    loop {
        if let Err(error) = completions.read_at(0, 8).await {
            panic!("the disk ring's eventfd cannot be read: {error}");
        }
        ring.reap();
    }
}

/// Runs a task of this core. It starts in a later turn: glommio's `spawn_local` would run it at once, inside its
/// caller, who may hold a borrow.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    match glommio::spawn_local_into(task, glommio::TaskQueueHandle::default()) {
        Ok(task) => drop(task.detach()),
        Err(error) => unreachable!("the default task queue always exists: {error}"),
    }
}

/// What the parts of one core share.
pub(super) struct Core {
    pub(super) ring: Rc<DiskRing>,
    waker: Arc<CoreWaker>,
    slice_start: Cell<Instant>,
    turn: Turn,
    /// Unused random numbers from the operating system.
    pub(super) random: RefCell<Vec<u64>>,
}

impl Core {
    /// Hands messages of other cores to their receivers if there are any. Called wherever a task passes through
    /// here anyway: a busy core then hears other cores without a system call.
    pub(super) fn look_at_doorbell(&self) -> bool {
        self.waker.answer()
    }

    /// Lets others run if the slice is used up or another core has said something.
    pub(super) async fn yield_if_needed(&self) {
        if self.look_at_doorbell() || self.slice_start.get().elapsed() >= SLICE {
            self.yield_now().await;
        }
    }

    /// Lets every runnable task run, and the reactor too where the slice is used up.
    pub(super) async fn yield_now(&self) {
        self.look_at_doorbell();
        if self.slice_start.get().elapsed() < SLICE {
            glommio::executor().yield_now().await;
        } else {
            self.turn.pass().await;
            self.slice_start.set(Instant::now());
        }
    }
}

/// Lets the reactor turn once: the run queue is left to drain, then sockets, timers and disks are looked at, then
/// the task goes on. A plain yield keeps the queue filled, and glommio looks at nothing else until it is empty or
/// the preempt timer fires.
///
/// glommio has no such call. But whoever waits for a shared channel's other end to connect is woken in every turn
/// to look again, without the executor going to sleep; so this waits, one turn, for an end that never connects.
struct Turn {
    connecting: RefCell<LocalBoxFuture<'static, ()>>,
    _other_end: SharedSender<()>,
}

impl Turn {
    fn new() -> Turn {
        let (other_end, end) = shared_channel::new_bounded::<()>(1);
        let connecting = async { drop(end.connect().await) }.boxed_local();
        Turn { connecting: RefCell::new(connecting), _other_end: other_end }
    }

    async fn pass(&self) {
        let mut registered = false;
        std::future::poll_fn(|cx| {
            if registered {
                return Poll::Ready(());
            }
            registered = true;
            let connected = self.connecting.borrow_mut().poll_unpin(cx);
            assert!(connected.is_pending(), "the other end is kept unconnected");
            Poll::Pending
        })
        .await;
    }
}
