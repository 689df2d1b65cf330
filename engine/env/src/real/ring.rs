//! The disk ring of one core: an io_uring of our own beside glommio's.
//!
//! What must hold:
//! - Memory and descriptors named by an operation live until the kernel has answered it. They are owned by the
//!   operation ([`Kept`]), not by the future that waits: a dropped future abandons the operation, the kernel's
//!   answer then frees it. A descriptor that an abandoned open brings is closed.
//! - All operations queued in one turn of the executor go to the kernel with one system call: the first one
//!   wakes the submit task, which runs behind every task that is runnable now.
//! - A device has at most [`IN_FLIGHT_PER_DEVICE_MAX`] operations in the kernel; the others wait here, in order.
//!   A disk that hangs therefore holds up no operation of another disk.
//! - Answers reach the core through the ring's eventfd, which the core reads through glommio. Whoever enters the
//!   kernel for this ring picks up what is there on the way.
#![expect(unsafe_code, reason = "submission entries carry raw pointers; each is kept alive by its operation")]

use crate::{ALIGNMENT, AlignedBuf, AlignedBytes, WriteMode};
use io_uring::{IoUring, opcode, squeue, types};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

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
}

/// What an operation needs until the kernel has answered it.
pub(super) enum Kept {
    Read { _file: Rc<OwnedFd>, _buffer: Rc<ReadBuffer> },
    Write { _file: Rc<OwnedFd>, _data: AlignedBytes },
    File { _file: Rc<OwnedFd> },
    Status { _file: Rc<OwnedFd>, status: Box<libc::statx> },
    Open { _path: CString },
    Names { _from: CString, _to: Option<CString> },
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
    operations: Vec<Option<Operation>>,
    free: Vec<u32>,
    lanes: Vec<LaneQueue>,
    /// Admitted operations that the next submission takes.
    admitted: VecDeque<u32>,
    submit_requested: bool,
    submit_task: Option<Waker>,
    /// Operations in the kernel, all lanes.
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

/// The disk ring of one core.
pub(super) struct DiskRing {
    state: RefCell<State>,
}

impl DiskRing {
    /// A ring whose answers are signalled on `completions`, an eventfd.
    pub(super) fn new(completions: &OwnedFd) -> io::Result<Rc<DiskRing>> {
        let uring = build()?;
        uring.submitter().register_eventfd(completions.as_raw_fd())?;
        if let Err(error) = uring.submitter().register_iowq_max_workers(&mut [WORKERS_MAX, WORKERS_MAX]) {
            // Linux before 5.15, or fewer processes allowed than that: the kernel's own limit holds.
            tracing::debug!(%error, "the disk ring keeps the kernel's number of workers");
        }
        Ok(Rc::new(DiskRing {
            state: RefCell::new(State {
                uring,
                operations: Vec::new(),
                free: Vec::new(),
                lanes: vec![LaneQueue::default()],
                admitted: VecDeque::new(),
                submit_requested: false,
                submit_task: None,
                in_flight: 0,
            }),
        }))
    }

    /// The queue of a device, given as [`FileStatus::device`].
    pub(super) fn lane(&self, device: u64) -> Lane {
        let lanes = &mut self.state.borrow_mut().lanes;
        // Lane 0 is that of names. A core has a handful of devices: a scan is the fastest map.
        let found = lanes.iter().skip(1).position(|lane| lane.device == device).map(|at| at + 1);
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
        let entry = opcode::Close::new(types::Fd(file.into_raw_fd())).build().flags(squeue::Flags::ASYNC);
        self.state.borrow_mut().queue(Lane::NAMES, Entries::one(entry), Kept::Nothing, Waiter::Nobody);
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

    /// As [`DiskRing::start`], for one or two entries; queued at once.
    ///
    /// # Safety
    /// As there, for both.
    unsafe fn start_entries(self: &Rc<Self>, lane: Lane, entries: Entries, kept: Kept) -> Answer {
        let slot = self.state.borrow_mut().queue(lane, entries, kept, Waiter::Future(None));
        Answer { ring: self.clone(), slot: Some(slot) }
    }

    /// Ends when something waits to be submitted. For the one submit task.
    pub(super) async fn submit_requested(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if state.submit_requested {
                return Poll::Ready(());
            }
            state.submit_task = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Hands all admitted operations to the kernel and takes the answers that are there.
    pub(super) fn submit_and_reap(&self) {
        let mut reaped = Reaped::default();
        {
            let mut state = self.state.borrow_mut();
            state.quietly(&mut reaped, State::submit);
        }
        reaped.hand_out();
    }

    /// Takes the answers that are there and wakes who waits for them.
    pub(super) fn reap(&self) {
        let mut reaped = Reaped::default();
        {
            let mut state = self.state.borrow_mut();
            if !state.has_answers() {
                return;
            }
            state.quietly(&mut reaped, State::enter_for_answers);
        }
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
        entries.first.set_user_data(u64::from(slot));
        let mut answers_missing = 1;
        if let Some(then) = &mut entries.then {
            then.set_user_data(u64::from(slot) | THEN);
            answers_missing = 2;
        }
        let entries = Some(Box::new(entries));
        let results = Results::default();
        self.operations[slot as usize] =
            Some(Operation { lane, kept, entries, waiter, answers_missing, results });
        let queue = &mut self.lanes[lane.0 as usize];
        if queue.in_flight < IN_FLIGHT_PER_DEVICE_MAX {
            queue.in_flight += 1;
            self.admitted.push_back(slot);
            self.request_submit();
        } else {
            queue.waiting.push_back(slot);
        }
        slot
    }

    fn operation(&mut self, slot: u32) -> &mut Operation {
        match self.operations[slot as usize].as_mut() {
            Some(operation) => operation,
            None => unreachable!("slot {slot} of the disk ring is empty"),
        }
    }

    fn release(&mut self, slot: u32) -> Operation {
        self.free.push(slot);
        match self.operations[slot as usize].take() {
            Some(operation) => operation,
            None => unreachable!("slot {slot} of the disk ring is empty"),
        }
    }

    /// An operation of `lane` left the kernel: the next that waits takes its place.
    fn leave_lane(&mut self, lane: Lane) {
        let queue = &mut self.lanes[lane.0 as usize];
        match queue.waiting.pop_front() {
            Some(next) => {
                self.admitted.push_back(next);
                self.request_submit();
            }
            None => queue.in_flight -= 1,
        }
    }

    fn request_submit(&mut self) {
        if !self.submit_requested {
            self.submit_requested = true;
            if let Some(task) = self.submit_task.take() {
                task.wake();
            }
        }
    }

    /// Enters the kernel by `enter` and takes all answers, without a signal on the eventfd for what is seen here
    /// anyway: each would cost a read of the eventfd and a look at an empty queue.
    fn quietly(&mut self, reaped: &mut Reaped, enter: fn(&mut State)) {
        self.uring.completion().disable_eventfd();
        enter(self);
        loop {
            self.take_answers(reaped);
            self.uring.completion().enable_eventfd();
            // An answer that came before the kernel can have seen "enabled" was not signalled.
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            if !self.has_answers() {
                return;
            }
            self.uring.completion().disable_eventfd();
            self.enter_for_answers();
            if self.uring.completion().is_empty() {
                // The kernel adds an answer, then says so in the ring's flags: where the core took the answer in
                // between, the flag stays until the next one and means nothing. Looked at once more with signals on,
                // for an answer that came while they were off.
                self.uring.completion().enable_eventfd();
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                self.enter_for_answers();
                if self.uring.completion().is_empty() {
                    return;
                }
            }
        }
    }

    /// True where answers are in the queue, or in the kernel waiting to be let in.
    fn has_answers(&mut self) -> bool {
        let submission = self.uring.submission();
        let held_back = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        held_back || !self.uring.completion().is_empty()
    }

    fn enter_for_answers(&mut self) {
        let submission = self.uring.submission();
        let held_back = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if held_back {
            self.enter();
        }
    }

    fn take_answers(&mut self, reaped: &mut Reaped) {
        loop {
            let Some(answer) = self.uring.completion().next() else { return };
            let slot = answer.user_data() as u32;
            self.in_flight -= 1;
            let operation = self.operation(slot);
            assert!(operation.entries.is_none() && operation.answers_missing > 0, "one answer each");
            let lane = operation.lane;
            if answer.user_data() & THEN == 0 {
                operation.results.first = answer.result();
            } else {
                operation.results.then = answer.result();
            }
            operation.answers_missing -= 1;
            if operation.answers_missing > 0 {
                continue;
            }
            match &mut operation.waiter {
                Waiter::Future(waker) => reaped.wakers.extend(waker.take()),
                Waiter::Nobody => reaped.abandoned.push(self.release(slot)),
            }
            self.leave_lane(lane);
        }
    }

    fn submit(&mut self) {
        self.submit_requested = false;
        while let Some(slot) = self.admitted.pop_front() {
            // Two that belong together must go together.
            if self.room() < 2 {
                self.enter();
                if self.room() < 2 {
                    // The kernel takes no more for now; `enter` has asked for another turn.
                    self.admitted.push_front(slot);
                    return;
                }
            }
            let operation = self.operation(slot);
            let Some(entries) = operation.entries.take() else {
                // Abandoned meanwhile; what it kept is gone already.
                let lane = operation.lane;
                self.release(slot);
                self.leave_lane(lane);
                continue;
            };
            for entry in std::iter::once(&entries.first).chain(&entries.then) {
                self.in_flight += 1;
                // SAFETY: what the entry points to is kept by the operation in `slot` until all its answers are
                // reaped.
                let pushed = unsafe { self.uring.submission().push(entry) };
                assert!(pushed.is_ok(), "there is room: looked above");
            }
        }
        self.enter();
    }

    fn room(&mut self) -> usize {
        let submission = self.uring.submission();
        submission.capacity() - submission.len()
    }

    fn enter(&mut self) {
        match self.uring.submit() {
            // The kernel may stop at an entry that it refuses (before SUBMIT_ALL): the rest is still in the ring.
            Ok(_) if self.uring.submission().is_empty() => {}
            Ok(_) => self.request_submit(),
            Err(error) => match error.raw_os_error() {
                // Interrupted, or short of memory or completion room: the entries are still in the ring.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => self.request_submit(),
                _ => panic!("io_uring_enter failed on the disk ring: {error}"),
            },
        }
    }
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
        if let (Kept::Open { .. }, Results { first: descriptor @ 0.., .. }) = (&self.kept, self.results) {
            // SAFETY: a fresh descriptor that nobody was told of.
            drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}

impl Drop for DiskRing {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.in_flight > 0 {
            // The kernel may still write into these buffers: they are given up for ever.
            std::mem::forget(std::mem::take(&mut state.operations));
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
    ring: Rc<DiskRing>,
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
    use std::time::Duration;

    use super::*;

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
    fn set_flag(ring: &DiskRing, flag: u32) {
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
                let completions = crate::real::kernel::eventfd().unwrap();
                let ring = DiskRing::new(&completions).unwrap();
                set_flag(&ring, flag);
                assert!(ring.state.borrow_mut().has_answers(), "the flag is where the ring looks");
                ring.reap();
                ring.submit_and_reap();
                report.send(()).unwrap();
            });
            ended.recv_timeout(Duration::from_secs(20)).expect("the ring gives the core back");
        }
    }
}
