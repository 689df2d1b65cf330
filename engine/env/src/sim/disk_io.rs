//! Disk operations in virtual time.
//!
//! What must hold: an operation takes effect when it ends, whether somebody still waits for it or not; a crash
//! finds the others in flight and does some, all or nothing of each. The n-th changing operation, for
//! [`crash_at_io`](super::SimNode::crash_at_io), is counted when it starts.

use super::executor::{Event, Life};
use super::file_system::{FileSystem, Ino};
use super::inode::Change;
use super::rng::SimRng;
use super::world::{LifeEnd, Trace, World, draw_nanos};
use crate::{AlignedBuf, DiskSpace, WriteMode};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// An open file: which, and from between which pulls of its disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    pub(super) ino: Ino,
    pub(super) pulls: u32,
}

pub(super) enum DiskOp {
    Read { file: Handle, offset: u64, len: usize },
    Change { file: Handle, change: Change, mode: WriteMode },
    Flush { file: Handle, upto: u64 },
    Open { path: PathBuf },
    Create { path: PathBuf },
    CreateDirectories { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    SyncDirectory { path: PathBuf },
    List { path: PathBuf },
    Space { path: PathBuf },
}

/// What a disk operation gives.
pub(super) enum DiskAnswer {
    Done,
    Data(AlignedBuf),
    Opened(Handle),
    Names(Vec<String>),
    Space(DiskSpace),
}

impl DiskOp {
    /// True where a crash before and after it can leave different things on the disk.
    fn is_changing(&self) -> bool {
        match self {
            DiskOp::Read { .. } | DiskOp::Open { .. } | DiskOp::List { .. } | DiskOp::Space { .. } => false,
            DiskOp::Change { .. }
            | DiskOp::Flush { .. }
            | DiskOp::Create { .. }
            | DiskOp::CreateDirectories { .. }
            | DiskOp::Rename { .. }
            | DiskOp::Remove { .. }
            | DiskOp::SyncDirectory { .. } => true,
        }
    }

    /// What tells this operation from others in the trace.
    fn fingerprint(&self) -> (u64, u64) {
        let hash = xxhash_rust::xxh3::xxh3_64;
        let path = |path: &PathBuf| hash(path.as_os_str().as_encoded_bytes());
        match self {
            DiskOp::Read { file, offset, len } => {
                (1 << 32 | u64::from(file.ino), offset ^ (*len as u64) << 48)
            }
            DiskOp::Change { file, change, mode } => {
                let content = match change {
                    Change::Write { offset, data, end } => offset ^ end.rotate_left(32) ^ hash(data),
                    Change::Allocate { offset, len } => offset ^ len.rotate_left(32),
                    Change::Punch { offset, len } => !(offset ^ len.rotate_left(32)),
                };
                (2 << 32 | u64::from(file.ino), content ^ u64::from(*mode == WriteMode::Flushed))
            }
            DiskOp::Flush { file, upto } => (3 << 32 | u64::from(file.ino), *upto),
            DiskOp::Open { path: p } => (4 << 32, path(p)),
            DiskOp::Create { path: p } => (5 << 32, path(p)),
            DiskOp::CreateDirectories { path: p } => (6 << 32, path(p)),
            DiskOp::Rename { from, to } => (7 << 32, path(from).rotate_left(1) ^ path(to)),
            DiskOp::Remove { path: p } => (8 << 32, path(p)),
            DiskOp::SyncDirectory { path: p } => (9 << 32, path(p)),
            DiskOp::List { path: p } => (10 << 32, path(p)),
            DiskOp::Space { path: p } => (11 << 32, path(p)),
        }
    }

    fn disk(&self, files: &FileSystem) -> usize {
        match self {
            DiskOp::Read { file, .. } | DiskOp::Change { file, .. } | DiskOp::Flush { file, .. } => {
                files.disk_of_file(file.ino)
            }
            DiskOp::Open { path }
            | DiskOp::Create { path }
            | DiskOp::CreateDirectories { path }
            | DiskOp::Rename { from: path, .. }
            | DiskOp::Remove { path }
            | DiskOp::SyncDirectory { path }
            | DiskOp::List { path }
            | DiskOp::Space { path } => files.disk_of(path),
        }
    }

    fn apply(self, files: &mut FileSystem, rng: &mut SimRng) -> io::Result<DiskAnswer> {
        match self {
            DiskOp::Read { file, offset, len } => {
                files.read(file.ino, file.pulls, offset, len, rng).map(DiskAnswer::Data)
            }
            DiskOp::Change { file, change, mode } => {
                files.change(file.ino, file.pulls, change, mode, rng).map(|()| DiskAnswer::Done)
            }
            DiskOp::Flush { file, upto } => {
                files.flush(file.ino, file.pulls, upto, rng).map(|()| DiskAnswer::Done)
            }
            DiskOp::Open { path } => files.open(&path).map(|ino| opened(files, ino)),
            DiskOp::Create { path } => files.create(&path).map(|ino| opened(files, ino)),
            DiskOp::CreateDirectories { path } => files.create_directories(&path).map(|()| DiskAnswer::Done),
            DiskOp::Rename { from, to } => files.rename(&from, &to).map(|()| DiskAnswer::Done),
            DiskOp::Remove { path } => files.remove(&path).map(|()| DiskAnswer::Done),
            DiskOp::SyncDirectory { path } => files.sync_directory(&path, rng).map(|()| DiskAnswer::Done),
            DiskOp::List { path } => files.list(&path).map(DiskAnswer::Names),
            DiskOp::Space { path } => files.space(&path).map(DiskAnswer::Space),
        }
    }
}

fn opened(files: &mut FileSystem, ino: Ino) -> DiskAnswer {
    DiskAnswer::Opened(Handle { ino, pulls: files.open_handle(ino) })
}

enum State {
    InFlight {
        op: DiskOp,
        fingerprint: (u64, u64),
        life: Life,
        waker: Option<Waker>,
        timer: u32,
        crash_after: bool,
    },
    Ended(io::Result<DiskAnswer>),
    /// Its node crashed before it ended.
    Dead,
    Free,
}

struct DiskIo {
    state: State,
    awaited: bool,
}

/// Operations in flight, and those whose result was not taken yet.
#[derive(Default)]
pub(super) struct DiskIos {
    slots: Vec<DiskIo>,
    free: Vec<u32>,
}

impl DiskIos {
    fn add(&mut self, state: State) -> u32 {
        let io = DiskIo { state, awaited: true };
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = io;
                slot
            }
            None => {
                self.slots.push(io);
                (self.slots.len() - 1) as u32
            }
        }
    }

    fn release(&mut self, slot: u32) {
        self.slots[slot as usize].state = State::Free;
        self.free.push(slot);
    }

    /// Takes everything in flight of the lives of `current.node` before `current`.
    pub(super) fn abandon(&mut self, world: &World, current: Life) -> InFlight {
        let mut in_flight = InFlight { ops: Vec::new(), waiters: Vec::new() };
        for slot in 0..self.slots.len() as u32 {
            let io = &mut self.slots[slot as usize];
            let State::InFlight { life, .. } = &io.state else { continue };
            if life.node != current.node || life.number == current.number {
                continue;
            }
            let State::InFlight { op, waker, timer, .. } = std::mem::replace(&mut io.state, State::Dead)
            else {
                continue;
            };
            let _ = world.timers.borrow_mut().cancel(timer);
            in_flight.ops.push(op);
            in_flight.waiters.extend(waker);
            if !io.awaited {
                self.release(slot);
            }
        }
        in_flight
    }
}

/// What was in flight at a crash.
pub(super) struct InFlight {
    ops: Vec<DiskOp>,
    waiters: Vec<Waker>,
}

impl InFlight {
    pub(super) fn take_waiters(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiters)
    }

    /// Does some of it, and lets the disks lose what was not flushed where the power failed.
    pub(super) fn settle(self, files: &mut FileSystem, how: LifeEnd, rng: &mut SimRng) {
        let mut changes = Vec::new();
        for op in self.ops {
            match op {
                DiskOp::Change { file, change, .. } if how == LifeEnd::PowerFails => {
                    changes.push((file.ino, change));
                }
                op if op.is_changing() && rng.one_in(2) => {
                    // It may also fail; nobody is left to know.
                    let _ = op.apply(files, rng);
                }
                _ => {}
            }
        }
        if how == LifeEnd::PowerFails {
            files.lose_unflushed(changes, rng);
        }
        files.close_all_handles();
    }
}

/// Starts `op` on the node of `life`, and waits for its end.
pub(super) async fn run(world: &Rc<World>, life: Life, op: DiskOp) -> io::Result<DiskAnswer> {
    if !world.is_alive(life) {
        return never(world, life).await;
    }
    let slot = start(world, life, op);
    Ended { world, life, slot }.await
}

/// Does not end: the node that should go on from here has crashed.
pub(super) async fn never<T>(world: &Rc<World>, life: Life) -> T {
    std::future::poll_fn(|_| {
        world.assert_not_driving(life);
        Poll::Pending
    })
    .await
}

fn start(world: &World, life: Life, op: DiskOp) -> u32 {
    let (a, b) = op.fingerprint();
    world.trace(Trace::DiskStart, a ^ u64::from(life.node) << 40, b);
    let mut nodes = world.nodes.borrow_mut();
    let node = &mut nodes[life.node as usize];
    let duration =
        duration(world, &op, node.files.disks[op.disk(&node.files)].faults.slow_factor, &mut node.disk_rng);
    let mut crash_now = false;
    let mut crash_after = false;
    if op.is_changing() {
        node.changing_ios += 1;
        if node.crash_at_io == Some(node.changing_ios) {
            crash_now = node.disk_rng.one_in(2);
            crash_after = !crash_now;
        }
    }
    drop(nodes);
    let mut ios = world.disk_ios.borrow_mut();
    let slot = ios.add(State::Free);
    let timer = world.schedule(world.now() + duration, Event::Disk(slot));
    ios.slots[slot as usize].state =
        State::InFlight { op, fingerprint: (a, b), life, waker: None, timer, crash_after };
    drop(ios);
    if crash_now {
        world.crash(life.node, LifeEnd::PowerFails);
    }
    slot
}

/// How long `op` takes, in nanoseconds.
fn duration(world: &World, op: &DiskOp, slow_factor: u32, rng: &mut SimRng) -> u64 {
    let latency = &world.options.disk_latency;
    let transfer =
        |bytes: usize| (bytes as u64).saturating_mul(1_000_000_000) / latency.bytes_per_second.max(1);
    let normal = match op {
        DiskOp::Read { len, .. } => draw_nanos(rng, &latency.read) + transfer(*len),
        DiskOp::Change { change: Change::Write { data, .. }, mode, .. } => {
            let write = draw_nanos(rng, &latency.write) + transfer(data.len());
            match mode {
                WriteMode::Unflushed => write,
                WriteMode::Flushed => write + draw_nanos(rng, &latency.flush),
            }
        }
        DiskOp::Change { .. } => draw_nanos(rng, &latency.write),
        DiskOp::Flush { .. } | DiskOp::SyncDirectory { .. } => draw_nanos(rng, &latency.flush),
        DiskOp::Open { .. }
        | DiskOp::Create { .. }
        | DiskOp::CreateDirectories { .. }
        | DiskOp::Rename { .. }
        | DiskOp::Remove { .. }
        | DiskOp::List { .. }
        | DiskOp::Space { .. } => draw_nanos(rng, &latency.name),
    };
    let late = if rng.one_in(128) { 16 } else { 1 };
    normal.saturating_mul(late).saturating_mul(u64::from(slow_factor.max(1)))
}

/// The time of operation `slot` has come: it takes effect and ends.
pub(super) fn finish(world: &World, slot: u32) {
    let mut ios = world.disk_ios.borrow_mut();
    let io = &mut ios.slots[slot as usize];
    let State::InFlight { op, fingerprint: (a, b), life, waker, crash_after, .. } =
        std::mem::replace(&mut io.state, State::Dead)
    else {
        unreachable!("the end of a disk operation is scheduled once, and cancelled by a crash");
    };
    let awaited = io.awaited;
    let answer = {
        let node = &mut world.nodes.borrow_mut()[life.node as usize];
        op.apply(&mut node.files, &mut node.disk_rng)
    };
    world.trace(Trace::DiskEnd, a ^ u64::from(life.node) << 40, b ^ u64::from(answer.is_err()));
    if !crash_after {
        io.state = State::Ended(answer);
    }
    if !awaited {
        ios.release(slot);
    }
    drop(ios);
    if crash_after {
        world.crash(life.node, LifeEnd::PowerFails);
    }
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Waits for the end of an operation. Dropped before, the operation goes on.
struct Ended<'a> {
    world: &'a Rc<World>,
    life: Life,
    slot: u32,
}

impl Future for Ended<'_> {
    type Output = io::Result<DiskAnswer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.world.is_alive(self.life) {
            self.world.assert_not_driving(self.life);
            return Poll::Pending;
        }
        let mut ios = self.world.disk_ios.borrow_mut();
        let io = &mut ios.slots[self.slot as usize];
        match &mut io.state {
            State::InFlight { waker, .. } => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            State::Ended(_) => match std::mem::replace(&mut io.state, State::Dead) {
                State::Ended(answer) => Poll::Ready(answer),
                _ => unreachable!("matched just above"),
            },
            State::Dead | State::Free => unreachable!("polled after its end"),
        }
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut ios = self.world.disk_ios.borrow_mut();
        let io = &mut ios.slots[self.slot as usize];
        if matches!(io.state, State::InFlight { .. }) {
            io.awaited = false;
        } else {
            ios.release(self.slot);
        }
    }
}
