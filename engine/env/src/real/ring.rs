//! The ring of one core: an io_uring of our own beside glommio's, for disks, sockets and the core's sleep.
//!
//! What must hold:
//! - Memory and descriptors named by an operation live until the kernel has answered it. They are owned by the
//!   operation ([`Kept`]), not by the future that waits: a dropped future abandons the operation, the kernel's
//!   answer then frees it. A descriptor that an abandoned open brings is closed; an abandoned wait for a socket,
//!   which might never be answered, is cancelled.
//! - Operations are queued here and go to the kernel together, with one system call, when the core's tasks have run
//!   or some time has passed (see `core`); where nothing is left to run, the same call waits for answers.
//! - A device has at most [`IN_FLIGHT_PER_DEVICE_MAX`] operations in the kernel; the others wait here, in order.
//!   A disk that hangs therefore holds up no operation of another disk.
#![expect(unsafe_code, reason = "submission entries carry raw pointers; each is kept alive by its operation")]

use crate::{ALIGNMENT, AlignedBuf, AlignedBytes, WriteMode};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Operations of one device in the kernel at a time.
pub(super) const IN_FLIGHT_PER_DEVICE_MAX: u32 = 128;
/// Submission entries; more in one turn cost a second system call.
const SUBMISSION_ENTRIES: u32 = 256;
/// Kernel threads of one ring for what would block its core: flushes, opens, renames. The kernel's own limit, four
/// per CPU, is few enough that the flushes of one hanging disk would hold up those of all others.
const WORKERS_MAX: u32 = 64;
/// Completion entries; more answers than these wait in the kernel, none is lost (IORING_FEAT_NODROP).
const COMPLETION_ENTRIES: u32 = 4096;

const _: () = assert!(COMPLETION_ENTRIES >= 8 * IN_FLIGHT_PER_DEVICE_MAX);

/// The queue of one device, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lane(u32);

impl Lane {
    /// Operations on names (open, rename, remove): their device is not known before they end.
    pub(super) const NAMES: Lane = Lane(0);
    /// Waits for sockets: any number of them.
    const SOCKETS: Lane = Lane(1);
    /// The first of a device.
    const DEVICES: usize = 2;
}

/// What an operation needs until the kernel has answered it.
pub(super) enum Kept {
    Read {
        _file: Rc<OwnedFd>,
        _buffer: Rc<ReadBuffer>,
    },
    Write {
        _file: Rc<OwnedFd>,
        _data: AlignedBytes,
    },
    File {
        _file: Rc<OwnedFd>,
    },
    Status {
        _file: Rc<OwnedFd>,
        status: Box<libc::statx>,
    },
    Open {
        _path: CString,
    },
    Names {
        _from: CString,
        _to: Option<CString>,
    },
    Socket {
        _socket: Rc<OwnedFd>,
    },
    /// Closed by the kernel with its answer, and by its drop where the kernel never saw the operation.
    Closing {
        file: OwnedFd,
    },
    Nothing,
}

/// A buffer that the kernel fills, shared by the pieces of one read. Nothing looks at its bytes before
/// [`ReadBuffer::into_filled`], which only succeeds when no piece is left in the kernel.
pub(super) struct ReadBuffer {
    buffer: AlignedBuf,
    base: *mut u8,
}

impl ReadBuffer {
    pub(super) fn new(len: usize) -> Rc<ReadBuffer> {
        let mut buffer = AlignedBuf::with_len(len);
        let base = buffer.as_mut_ptr();
        Rc::new(ReadBuffer { buffer, base })
    }

    pub(super) fn into_filled(self: Rc<Self>) -> AlignedBuf {
        match Rc::try_unwrap(self) {
            Ok(whole) => whole.buffer,
            Err(_) => unreachable!("a piece of a finished read is still in the kernel"),
        }
    }
}

/// Who gets the kernel's answer.
enum Waiter {
    Future(Option<Waker>),
    /// The future was dropped, or never was.
    Nobody,
}

struct Operation {
    lane: Lane,
    /// Told apart from earlier operations in the same slot.
    number: u32,
    kept: Kept,
    /// Until the kernel has it.
    entries: Option<Box<Entries>>,
    waiter: Waiter,
    answers_missing: u8,
    results: Results,
}

/// What the kernel is told to do: one thing, or one thing and, if it succeeded as a whole, another.
struct Entries {
    first: squeue::Entry,
    then: Option<squeue::Entry>,
}

/// The kernel's answers, negative for errors; `then` stays 0 where there is no second entry.
#[derive(Clone, Copy, Default)]
struct Results {
    first: i32,
    then: i32,
}

/// Marks the second entry of an operation beside its slot number.
const THEN: u64 = 1 << 32;
/// Where the operation's number begins in what the kernel gives back with an answer.
const NUMBER_SHIFT: u32 = 33;
/// Numbers of operations, modulo this.
const NUMBERS: u32 = 1 << (u64::BITS - NUMBER_SHIFT);
/// The answer that another thread ends the core's sleep with, and that of a cancellation: of no operation here.
const WAKE_UP: u64 = u64::MAX;
const CANCELLED: u64 = u64::MAX - 1;

/// How a device makes one write durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FlushBy {
    /// RWF_DSYNC: the device has no volatile cache, or takes a write through it (FUA). One command.
    #[default]
    WriteThrough,
    /// A write and a flush of the device's cache. RWF_DSYNC means the same there, but the kernel then flushes from a
    /// worker that is bound to the CPU of the interrupt, where it waits behind a busy core for milliseconds.
    FlushAfter,
}

#[derive(Default)]
struct LaneQueue {
    device: u64,
    flush_by: FlushBy,
    in_flight: u32,
    waiting: VecDeque<u32>,
}

struct State {
    uring: IoUring,
    /// Written by others to end the core's sleep.
    wake_up: OwnedFd,
    /// The kernel watches `wake_up`.
    watching: bool,
    next_number: u32,
    /// Slots and numbers of abandoned waits for sockets.
    to_cancel: Vec<u64>,
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
    lanes: Vec<LaneQueue>,
    /// Admitted operations that the next submission takes.
    admitted: VecDeque<u32>,
    /// Answers outstanding of the operations of devices and names.
    in_flight: u32,
}

/// What a look at the answers brought. Handed out when the state is no longer borrowed: waking and dropping can
/// both come back to the ring.
#[derive(Default)]
struct Reaped {
    wakers: Vec<Waker>,
    abandoned: Vec<Operation>,
}

impl Reaped {
    fn hand_out(self) {
        for operation in self.abandoned {
            operation.discard();
        }
        for waker in self.wakers {
            waker.wake();
        }
    }
}

/// The ring of one core.
pub(super) struct Ring {
    state: RefCell<State>,
}

impl Ring {
    /// A ring for this thread, whose waits also end when somebody writes to `wake_up`, an eventfd.
    pub(super) fn new(wake_up: OwnedFd) -> io::Result<Rc<Ring>> {
        let uring = build()?;
        if let Err(error) = uring.submitter().register_iowq_max_workers(&mut [WORKERS_MAX, WORKERS_MAX]) {
            // Linux before 5.15, or fewer processes allowed than that: the kernel's own limit holds.
            tracing::debug!(%error, "the core's ring keeps the kernel's number of workers");
        }
        Ok(Rc::new(Ring {
            state: RefCell::new(State {
                uring,
                wake_up,
                watching: false,
                next_number: 0,
                to_cancel: Vec::new(),
                operations: Vec::new(),
                free: Vec::new(),
                lanes: (0..Lane::DEVICES).map(|_| LaneQueue::default()).collect(),
                admitted: VecDeque::new(),
                in_flight: 0,
            }),
        }))
    }

    /// The queue of a device, given as [`FileStatus::device`].
    pub(super) fn lane(&self, device: u64) -> Lane {
        let lanes = &mut self.state.borrow_mut().lanes;
        // A core has a handful of devices: a scan is the fastest map.
        let found = (Lane::DEVICES..lanes.len()).find(|at| lanes[*at].device == device);
        let at = found.unwrap_or_else(|| {
            lanes.push(LaneQueue { device, flush_by: flush_by(device), ..LaneQueue::default() });
            lanes.len() - 1
        });
        Lane(at as u32)
    }

    /// Reads into `buffer[start..end]` from `offset`; the number of bytes read.
    pub(super) async fn read(
        self: &Rc<Self>,
        lane: Lane,
        file: &Rc<OwnedFd>,
        buffer: &Rc<ReadBuffer>,
        (start, end): (usize, usize),
        offset: u64,
    ) -> io::Result<usize> {
        assert!(start < end && end <= buffer.buffer.len());
        // SAFETY: `start` is within the allocation (asserted above).
        let pointer = unsafe { buffer.base.add(start) };
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), pointer, (end - start) as u32)
            .offset(offset)
            .build();
        let kept = Kept::Read { _file: file.clone(), _buffer: buffer.clone() };
        // SAFETY: the range lies in `buffer`, which `kept` keeps; nobody reads it or hands out a reference to it
        // before the last piece is answered (`into_filled`). The descriptor is kept too.
        let (result, _) = unsafe { self.start(lane, entry, kept) }.await;
        result.map(|n| n as usize)
    }

    /// Writes `data` at `offset`; the number of bytes written. A flushed write of fewer bytes than asked for may not
    /// be durable; its continuation makes the whole file so.
    pub(super) async fn write(
        self: &Rc<Self>,
        lane: Lane,
        file: &Rc<OwnedFd>,
        data: AlignedBytes,
        offset: u64,
        mode: WriteMode,
    ) -> io::Result<usize> {
        let len = data.len();
        let descriptor = types::Fd(file.as_raw_fd());
        let flush_by = self.state.borrow().lanes[lane.0 as usize].flush_by;
        let write = opcode::Write::new(descriptor, data.as_ptr(), len as u32).offset(offset);
        let entries = match (mode, flush_by) {
            (WriteMode::Unflushed, _) => Entries::one(write.build()),
            (WriteMode::Flushed, FlushBy::WriteThrough) => {
                Entries::one(write.rw_flags(libc::RWF_DSYNC).build())
            }
            (WriteMode::Flushed, FlushBy::FlushAfter) => Entries {
                first: write.build().flags(squeue::Flags::IO_LINK),
                then: Some(opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build()),
            },
        };
        let kept = Kept::Write { _file: file.clone(), _data: data };
        // SAFETY: the bytes are immutable and kept, as is the descriptor.
        let (results, _) = unsafe { self.start_entries(lane, entries, kept) }.await;
        let written = results.first()? as usize;
        if written == len {
            // Where the write fell short the flush was cancelled; the error is the write's, or comes with the rest.
            // Never transient: a flush that failed in any way is not repeated.
            results.then().map_err(|error| io::Error::other(format!("the flush failed: {error}")))?;
        }
        Ok(written)
    }

    /// fdatasync.
    pub(super) async fn sync_data(self: &Rc<Self>, lane: Lane, file: &Rc<OwnedFd>) -> io::Result<()> {
        let entry =
            opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
        self.on_file(lane, entry, file).await
    }

    /// fsync: for directories, whose entries are not "data".
    pub(super) async fn sync_all(self: &Rc<Self>, lane: Lane, file: &Rc<OwnedFd>) -> io::Result<()> {
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).build();
        self.on_file(lane, entry, file).await
    }

    /// fallocate with `mode` (`libc::FALLOC_FL_*`).
    pub(super) async fn fallocate(
        self: &Rc<Self>,
        lane: Lane,
        file: &Rc<OwnedFd>,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> io::Result<()> {
        let entry =
            opcode::Fallocate::new(types::Fd(file.as_raw_fd()), len).offset(offset).mode(mode).build();
        self.on_file(lane, entry, file).await
    }

    async fn on_file(
        self: &Rc<Self>,
        lane: Lane,
        entry: squeue::Entry,
        file: &Rc<OwnedFd>,
    ) -> io::Result<()> {
        // SAFETY: the entries that come here carry no pointers; the descriptor is kept.
        let (result, _) = unsafe { self.start(lane, entry, Kept::File { _file: file.clone() }) }.await;
        result.map(|_| ())
    }

    /// Size and device of an open file, from its descriptor: a path may have been renamed since.
    pub(super) async fn status(self: &Rc<Self>, lane: Lane, file: &Rc<OwnedFd>) -> io::Result<FileStatus> {
        // SAFETY: `statx` is plain integers, for which zero is a value.
        let mut status: Box<libc::statx> = Box::new(unsafe { std::mem::zeroed() });
        let target: *mut types::statx = std::ptr::from_mut(status.as_mut()).cast();
        let entry = opcode::Statx::new(types::Fd(file.as_raw_fd()), c"".as_ptr(), target)
            .flags(libc::AT_EMPTY_PATH)
            .mask(libc::STATX_SIZE)
            .build();
        let kept = Kept::Status { _file: file.clone(), status };
        // SAFETY: the box and the descriptor are kept, the path is static; nobody looks into the box meanwhile.
        let (result, kept) = unsafe { self.start(lane, entry, kept) }.await;
        result?;
        match kept {
            Kept::Status { status, .. } => Ok(FileStatus {
                size: status.stx_size,
                device: u64::from(status.stx_dev_major) << 32 | u64::from(status.stx_dev_minor),
            }),
            _ => unreachable!("an operation gives back what it was started with"),
        }
    }

    /// openat with `flags`, mode 0600.
    pub(super) async fn open(self: &Rc<Self>, path: CString, flags: i32) -> io::Result<OwnedFd> {
        let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
            .flags(flags | libc::O_CLOEXEC)
            .mode(0o600)
            .build();
        // SAFETY: the path is kept.
        let (result, _) = unsafe { self.start(Lane::NAMES, entry, Kept::Open { _path: path }) }.await;
        // SAFETY: a fresh descriptor that nothing else owns.
        result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// Closes a descriptor away from this core: the last close of a removed file frees its space, which may take
    /// milliseconds. Nobody waits for it.
    pub(super) fn close(self: &Rc<Self>, file: OwnedFd) {
        let entry = opcode::Close::new(types::Fd(file.as_raw_fd())).build().flags(squeue::Flags::ASYNC);
        let kept = Kept::Closing { file };
        self.state.borrow_mut().queue(Lane::NAMES, Entries::one(entry), kept, Waiter::Nobody);
    }

    /// renameat.
    pub(super) async fn rename(self: &Rc<Self>, from: CString, to: CString) -> io::Result<()> {
        let here = types::Fd(libc::AT_FDCWD);
        let entry = opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build();
        self.on_names(entry, from, Some(to)).await
    }

    /// unlinkat of a file.
    pub(super) async fn unlink(self: &Rc<Self>, path: CString) -> io::Result<()> {
        let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
        self.on_names(entry, path, None).await
    }

    /// mkdirat, mode 0700.
    pub(super) async fn make_dir(self: &Rc<Self>, path: CString) -> io::Result<()> {
        let entry = opcode::MkDirAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).mode(0o700).build();
        self.on_names(entry, path, None).await
    }

    async fn on_names(
        self: &Rc<Self>,
        entry: squeue::Entry,
        from: CString,
        to: Option<CString>,
    ) -> io::Result<()> {
        let kept = Kept::Names { _from: from, _to: to };
        // SAFETY: the entries that come here point into these strings, whose bytes do not move.
        let (result, _) = unsafe { self.start(Lane::NAMES, entry, kept) }.await;
        result.map(|_| ())
    }

    /// Queues an operation. Dropping the answer abandons it: the operation may still take place.
    ///
    /// # Safety
    /// Whatever `entry` points to or names must be kept alive, unmoved and unaliased by `kept`.
    async unsafe fn start(
        self: &Rc<Self>,
        lane: Lane,
        entry: squeue::Entry,
        kept: Kept,
    ) -> (io::Result<u32>, Kept) {
        // SAFETY: as the caller promises.
        let (results, kept) = unsafe { self.start_entries(lane, Entries::one(entry), kept) }.await;
        (results.first(), kept)
    }

    /// As [`Ring::start`], for one or two entries; queued at once.
    ///
    /// # Safety
    /// As there, for both.
    unsafe fn start_entries(self: &Rc<Self>, lane: Lane, entries: Entries, kept: Kept) -> Answer {
        let slot = self.state.borrow_mut().queue(lane, entries, kept, Waiter::Future(None));
        Answer { ring: self.clone(), slot: Some(slot) }
    }

    /// Waits until a socket is ready for `events` (`libc::POLLIN`, `libc::POLLOUT`), has failed or is closed.
    pub(super) async fn ready(self: &Rc<Self>, socket: &Rc<OwnedFd>, events: i16) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), events as u32).build();
        let kept = Kept::Socket { _socket: socket.clone() };
        // SAFETY: no pointers; the descriptor is kept.
        let (result, _) = unsafe { self.start(Lane::SOCKETS, entry, kept) }.await;
        result.map(|_| ())
    }

    /// Hands what is queued to the kernel, takes the answers that are there and wakes who waits for them.
    pub(super) fn pass(&self) {
        let reaped = {
            let mut state = self.state.borrow_mut();
            if state.has_queued() || state.has_answers() {
                state.submit();
                state.enter(None);
            }
            state.take_answers()
        };
        reaped.hand_out();
    }

    /// As [`Ring::pass`], but waits for the first answer, or a wake-up, for up to `limit`.
    pub(super) fn wait(&self, limit: Duration) {
        let reaped = {
            let mut state = self.state.borrow_mut();
            state.submit();
            // Answers taken already must not wait for others.
            let limit = if state.uring.completion().is_empty() { limit } else { Duration::ZERO };
            state.enter(Some(limit));
            state.take_answers()
        };
        reaped.hand_out();
    }

    /// True while the kernel holds memory of this ring's operations.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state.borrow();
        state.in_flight > 0 || !state.admitted.is_empty()
    }
}

impl State {
    fn queue(&mut self, lane: Lane, mut entries: Entries, kept: Kept, waiter: Waiter) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.operations.push(None);
            (self.operations.len() - 1) as u32
        });
        let number = self.next_number;
        self.next_number = (number + 1) % NUMBERS;
        let name = name_of(slot, number);
        entries.first.set_user_data(name);
        let mut answers_missing = 1;
        if let Some(then) = &mut entries.then {
            then.set_user_data(name | THEN);
            answers_missing = 2;
        }
        let entries = Some(Box::new(entries));
        let results = Results::default();
        self.operations[slot as usize] =
            Some(Operation { lane, number, kept, entries, waiter, answers_missing, results });
        let queue = &mut self.lanes[lane.0 as usize];
        if lane == Lane::SOCKETS || queue.in_flight < IN_FLIGHT_PER_DEVICE_MAX {
            queue.in_flight += 1;
            self.admitted.push_back(slot);
        } else {
            queue.waiting.push_back(slot);
        }
        slot
    }

    fn operation(&mut self, slot: u32) -> &mut Operation {
        match self.operations[slot as usize].as_mut() {
            Some(operation) => operation,
            None => unreachable!("slot {slot} of the ring is empty"),
        }
    }

    fn release(&mut self, slot: u32) -> Operation {
        self.free.push(slot);
        match self.operations[slot as usize].take() {
            Some(operation) => operation,
            None => unreachable!("slot {slot} of the ring is empty"),
        }
    }

    /// An operation of `lane` left the kernel: the next that waits takes its place.
    fn leave_lane(&mut self, lane: Lane) {
        let queue = &mut self.lanes[lane.0 as usize];
        match queue.waiting.pop_front() {
            Some(next) => self.admitted.push_back(next),
            None => queue.in_flight -= 1,
        }
    }

    fn has_queued(&mut self) -> bool {
        !self.admitted.is_empty()
            || !self.to_cancel.is_empty()
            || !self.watching
            || !self.uring.submission().is_empty()
    }

    /// True where answers are in the queue, or in the kernel waiting to be let in. The kernel's flags may say so once
    /// too often: it adds an answer and then sets the flag, which stays where the core took the answer in between.
    fn has_answers(&mut self) -> bool {
        let submission = self.uring.submission();
        let held_back = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        held_back || !self.uring.completion().is_empty()
    }

    fn take_answers(&mut self) -> Reaped {
        let mut reaped = Reaped::default();
        loop {
            let Some(answer) = self.uring.completion().next() else { return reaped };
            if answer.user_data() >= CANCELLED {
                // The watch over `wake_up` answers for every wake-up, until the kernel ends it.
                self.watching &= answer.user_data() == CANCELLED || cqueue::more(answer.flags());
                continue;
            }
            let slot = answer.user_data() as u32;
            let operation = self.operation(slot);
            assert!(operation.entries.is_none() && operation.answers_missing > 0, "one answer each");
            assert!(
                answer.user_data() & !THEN == name_of(slot, operation.number),
                "an answer to an operation that is over"
            );
            let lane = operation.lane;
            if answer.user_data() & THEN == 0 {
                operation.results.first = answer.result();
            } else {
                operation.results.then = answer.result();
            }
            operation.answers_missing -= 1;
            let over = operation.answers_missing == 0;
            if over {
                match &mut operation.waiter {
                    Waiter::Future(waker) => reaped.wakers.extend(waker.take()),
                    Waiter::Nobody => reaped.abandoned.push(self.release(slot)),
                }
                self.leave_lane(lane);
            }
            self.in_flight -= u32::from(lane != Lane::SOCKETS);
        }
    }

    /// Writes what is queued into the submission ring, and enters the kernel only to make room there.
    fn submit(&mut self) {
        if !self.watching && self.make_room(1) {
            self.watching = true;
            let events = libc::POLLIN as u32;
            let watch = opcode::PollAdd::new(types::Fd(self.wake_up.as_raw_fd()), events).multi(true);
            self.push(&watch.build().user_data(WAKE_UP));
        }
        while let Some(&name) = self.to_cancel.last() {
            if !self.make_room(1) {
                return;
            }
            self.to_cancel.pop();
            self.push(&opcode::AsyncCancel::new(name).build().user_data(CANCELLED));
        }
        while let Some(&slot) = self.admitted.front() {
            // Two that belong together must go together.
            if !self.make_room(2) {
                return;
            }
            self.admitted.pop_front();
            let operation = self.operation(slot);
            let lane = operation.lane;
            let Some(entries) = operation.entries.take() else {
                // Abandoned meanwhile; what it kept is gone already.
                self.release(slot);
                self.leave_lane(lane);
                continue;
            };
            for entry in std::iter::once(&entries.first).chain(&entries.then) {
                self.in_flight += u32::from(lane != Lane::SOCKETS);
                self.push(entry);
            }
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to is kept by its operation until all its answers are reaped; the watch and
        // the cancellations point to nothing, and the watched descriptor lives as long as the ring.
        let pushed = unsafe { self.uring.submission().push(entry) };
        assert!(pushed.is_ok(), "there is room: looked before");
    }

    /// False where the kernel takes no more for now: the next pass tries again.
    fn make_room(&mut self, entries: usize) -> bool {
        if self.room() < entries {
            self.enter(None);
        }
        self.room() >= entries
    }

    fn room(&mut self) -> usize {
        let submission = self.uring.submission();
        submission.capacity() - submission.len()
    }

    /// Gives the kernel what is in the submission ring; waits for an answer for up to `limit`.
    fn enter(&mut self, limit: Option<Duration>) {
        let entered = match limit {
            None => self.uring.submit(),
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                let arguments = types::SubmitArgs::new().timespec(&limit);
                self.uring.submitter().submit_with_args(1, &arguments)
            }
        };
        match entered {
            // The kernel may stop at an entry that it refuses (before SUBMIT_ALL): the rest is still in the ring.
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // The limit; interrupted, or short of memory or completion room: the entries are still in the ring.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => panic!("io_uring_enter failed on the core's ring: {error}"),
            },
        }
    }
}

/// What the kernel gives back with an answer.
fn name_of(slot: u32, number: u32) -> u64 {
    u64::from(number) << NUMBER_SHIFT | u64::from(slot)
}

impl Entries {
    fn one(first: squeue::Entry) -> Entries {
        Entries { first, then: None }
    }
}

impl Results {
    fn first(self) -> io::Result<u32> {
        Self::read(self.first)
    }

    fn then(self) -> io::Result<u32> {
        Self::read(self.then)
    }

    fn read(result: i32) -> io::Result<u32> {
        u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
    }
}

impl Operation {
    /// Drops an answered operation that nobody waits for.
    fn discard(self) {
        match (self.kept, self.results) {
            // SAFETY: a fresh descriptor that nobody was told of.
            (Kept::Open { .. }, Results { first: descriptor @ 0.., .. }) => {
                drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
            // The number may belong to another file by now.
            (Kept::Closing { file }, _) => {
                let _ = file.into_raw_fd();
            }
            _ => {}
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for operation in self.state.get_mut().operations.drain(..).flatten() {
            if operation.entries.is_none() && operation.answers_missing > 0 && operation.lane != Lane::SOCKETS
            {
                // The kernel may still write into its buffer: that is given up for ever.
                std::mem::forget(operation);
            }
        }
    }
}

/// Size and place of an open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileStatus {
    pub(super) size: u64,
    pub(super) device: u64,
}

/// The kernel's answer to one operation.
struct Answer {
    ring: Rc<Ring>,
    slot: Option<u32>,
}

impl Future for Answer {
    type Output = (Results, Kept);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(slot) = self.slot else { unreachable!("polled after its end") };
        let mut state = self.ring.state.borrow_mut();
        let operation = state.operation(slot);
        if operation.answers_missing > 0 {
            match &mut operation.waiter {
                Waiter::Future(Some(waker)) if waker.will_wake(cx.waker()) => {}
                waiter => *waiter = Waiter::Future(Some(cx.waker().clone())),
            }
            return Poll::Pending;
        }
        let operation = state.release(slot);
        drop(state);
        self.slot = None;
        Poll::Ready((operation.results, operation.kept))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut state = self.ring.state.borrow_mut();
        let operation = state.operation(slot);
        operation.waiter = Waiter::Nobody;
        if operation.answers_missing == 0 {
            let operation = state.release(slot);
            drop(state);
            operation.discard();
        } else if operation.entries.take().is_some() {
            // The kernel never saw it. Where it is admitted, its place in the lane is given back in `submit`.
            let kept = std::mem::replace(&mut operation.kept, Kept::Nothing);
            let lane = operation.lane;
            let waiting = &mut state.lanes[lane.0 as usize].waiting;
            if let Some(at) = waiting.iter().position(|&other| other == slot) {
                waiting.remove(at);
                state.release(slot);
            }
            // May be the last handle of a file, whose drop comes back to this ring.
            drop(state);
            drop(kept);
        } else if operation.lane == Lane::SOCKETS {
            let name = name_of(slot, operation.number);
            state.to_cancel.push(name);
        }
    }
}

/// The best ring this kernel has. Deferred task work (6.1) spares the core an interrupt per answer.
fn build() -> io::Result<IoUring> {
    let mut deferred = IoUring::builder();
    deferred.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    let mut cooperative = IoUring::builder();
    cooperative.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
    let plain = IoUring::builder();
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for mut builder in [deferred, cooperative, plain] {
        builder.dontfork().setup_cqsize(COMPLETION_ENTRIES);
        match builder.build(SUBMISSION_ENTRIES) {
            Ok(uring) => return Ok(uring),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Reads from sysfs what a device's cache is like. A file system without one device of its own (a network's, a
/// memory's) is left to RWF_DSYNC.
fn flush_by(device: u64) -> FlushBy {
    let (major, minor) = (device >> 32, device & u64::from(u32::MAX));
    // A partition has no queue of its own, its parent directory is the disk.
    let setting = |name: &str| {
        ["queue", "../queue"].into_iter().find_map(|queue| {
            std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{queue}/{name}")).ok()
        })
    };
    match (setting("write_cache").as_deref().map(str::trim), setting("fua").as_deref().map(str::trim)) {
        (Some("write back"), Some("0")) => FlushBy::FlushAfter,
        _ => FlushBy::WriteThrough,
    }
}

/// One I/O is at most this long: larger ones hold up others behind them and have hung old kernels.
pub(super) const PIECE_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(PIECE_BYTES_MAX.is_multiple_of(ALIGNMENT));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::kernel;

    /// `IORING_SQ_TASKRUN` and `IORING_SQ_CQ_OVERFLOW` of io_uring's ABI.
    const HELD_BACK: [u32; 2] = [1 << 2, 1 << 1];

    /// Where `flags` lies in the submission ring's memory: `sq_off.flags` of `struct io_uring_params`.
    fn offset_of_flags() -> usize {
        let mut params = [0_u32; 30];
        // SAFETY: 120 bytes, the size of `struct io_uring_params`, that the kernel fills in.
        let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, params.as_mut_ptr()) };
        assert!(descriptor >= 0, "{}", io::Error::last_os_error());
        // SAFETY: a fresh descriptor that nobody else knows.
        drop(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
        params[14] as usize
    }

    /// Sets flags of the ring as the kernel does, in the memory shared with it.
    fn set_flag(ring: &Ring, flag: u32) {
        let offset = offset_of_flags();
        let descriptor = ring.state.borrow().uring.as_raw_fd();
        // SAFETY: the kernel's memory of the ring, mapped once more (at IORING_OFF_SQ_RING, 0); one aligned word of
        // it is changed atomically, and the mapping ends before anybody else could see it.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            let memory = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, descriptor, 0);
            assert!(memory != libc::MAP_FAILED, "{}", io::Error::last_os_error());
            let word = memory.cast::<u8>().add(offset).cast::<std::sync::atomic::AtomicU32>();
            (*word).fetch_or(flag, std::sync::atomic::Ordering::SeqCst);
            libc::munmap(memory, 4096);
        }
    }

    #[test]
    fn a_flag_that_the_kernel_left_behind_does_not_hold_the_core() {
        for flag in HELD_BACK {
            let (report, ended) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let ring = Ring::new(kernel::eventfd().unwrap()).unwrap();
                set_flag(&ring, flag);
                assert!(ring.state.borrow_mut().has_answers(), "the flag is where the ring looks");
                ring.pass();
                ring.wait(Duration::from_millis(1));
                report.send(()).unwrap();
            });
            ended.recv_timeout(Duration::from_secs(20)).expect("the ring gives the core back");
        }
    }
}
