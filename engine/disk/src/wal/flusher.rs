//! The one task that writes the log.
//!
//! What must hold: batches are written one at a time and in order; the next starts when the one before is durable. Every
//! segment starts with a checkpoint of all replicas, in a write of its own.

use super::OpenBatch;
use super::batch::{BatchHeader, BatchKind, HEADER_BYTES, batch_bytes};
use super::field::FieldBuf;
use super::record::Checkpoint;
use super::segment::{self, LiveSegment, Segment};
use crate::core::DiskCore;
use crate::counters::add;
use buckets_env::{ALIGNMENT, WriteMode};
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::time::Duration;

/// How long a full log waits before it looks for a reusable segment again.
const FULL_LOG_RETRY: Duration = Duration::from_millis(20);

/// Writes batches until the disk is fenced or closed.
pub(crate) async fn run(core: Rc<DiskCore>) {
    // The batch that recovery found last may be followed by no other: it is sealed like one of our own.
    let mut sealed = false;
    let called = || core.closing.get() || core.segment_wanted.get();
    while !core.fence.is_closed() {
        let written = if core.checkpoint_wanted.get() {
            write_checkpoint(&core).await
        } else if let Some(batch) = core.wal.take_batch() {
            sealed = false;
            write_records(&core, batch).await
        } else if core.closing.get() {
            if !sealed && let Err(error) = write_seal(&core).await {
                core.fence.close_for("write to the log", &error);
            }
            break;
        } else if core.segment_wanted.replace(false) {
            sealed = false;
            roll(&core, core.wal.next_unwritten_lsn()).await
        } else if sealed {
            core.wal.batch_ready(called).await;
            continue;
        } else {
            let idle = core.options.wal_seal_delay;
            if core.env.timeout(idle, core.wal.batch_ready(called)).await.is_some() {
                continue;
            }
            sealed = true;
            write_seal(&core).await
        };
        if let Err(error) = written {
            core.fence.close_for("write to the log", &error);
        }
    }
    core.flusher_ended.set(true);
    core.flusher_wait.reach_all();
}

async fn write_records(core: &Rc<DiskCore>, batch: OpenBatch) -> io::Result<()> {
    make_room(core, batch_bytes(batch.payload_bytes()), batch.first_lsn).await?;
    let count = batch.count;
    let end_lsn = batch.first_lsn + u64::from(count);
    let data_lsn = core.wal.data_lsn();
    write(core, BatchKind::Records, count, batch.first_lsn, data_lsn, batch.buffer).await?;
    add(&core.counters.wal_records, u64::from(count));
    core.counters.batch(count);
    if core.fence.is_closed() {
        // Something else failed meanwhile: these records are durable, but nobody is told any more.
        return Ok(());
    }
    core.wal.complete(end_lsn);
    core.chunks.settle();
    Ok(())
}

async fn write_seal(core: &Rc<DiskCore>) -> io::Result<()> {
    let first_lsn = core.wal.next_unwritten_lsn();
    make_room(core, batch_bytes(0), first_lsn).await?;
    let empty = FieldBuf::with_capacity(ALIGNMENT, HEADER_BYTES);
    write(core, BatchKind::Seal, 0, first_lsn, 0, empty).await?;
    add(&core.counters.wal_seals, 1);
    Ok(())
}

/// A checkpoint in the middle of a segment: what recovery learned must not depend on the damage staying there.
async fn write_checkpoint(core: &Rc<DiskCore>) -> io::Result<()> {
    core.checkpoint_wanted.set(false);
    let first_lsn = core.wal.next_unwritten_lsn();
    let payload = checkpoint_payload(&core.checkpoint());
    if !core.segments.borrow().fits(batch_bytes(payload.len() - HEADER_BYTES)) {
        // The next segment starts with one.
        return roll(core, first_lsn).await;
    }
    append_checkpoint(core, payload, first_lsn).await
}

/// Goes on in the next segment where `bytes` do not fit behind the last batch; the next record is `first_lsn`.
async fn make_room(core: &Rc<DiskCore>, bytes: usize, first_lsn: u64) -> io::Result<()> {
    while !core.segments.borrow().fits(bytes) {
        roll(core, first_lsn).await?;
        let usable = core.segments.borrow().fits(bytes);
        assert!(usable, "a batch and a checkpoint fit one segment");
    }
    Ok(())
}

/// Starts the next segment with a checkpoint, then says so at the end of the one before: a segment that has begun and
/// is not found later is lost, not torn.
async fn roll(core: &Rc<DiskCore>, first_lsn: u64) -> io::Result<()> {
    let segment = free_segment(core).await?;
    let before = {
        let mut segments = core.segments.borrow_mut();
        let before = segments.current().map(|current| Place {
            segment: current.clone(),
            page: segments.page,
            number: segments.batch_number,
        });
        // The number of the word at the end of the segment before.
        segments.batch_number += u64::from(before.is_some());
        let number = segments.take_number();
        segments.push_live(LiveSegment { segment, number, end_lsn: first_lsn });
        segments.page = 0;
        before
    };
    add(&core.counters.wal_segments_started, 1);
    let checkpoint = core.checkpoint();
    append_checkpoint(core, checkpoint_payload(&checkpoint), first_lsn).await?;
    if let Some(before) = before {
        let empty = FieldBuf::with_capacity(ALIGNMENT, HEADER_BYTES);
        write_at(core, &before, BatchKind::Next, 0, first_lsn, 0, empty).await?;
    }
    core.segments.borrow_mut().checkpoint_durable(checkpoint.oldest_segment);
    core.call_housekeeping();
    Ok(())
}

async fn free_segment(core: &Rc<DiskCore>) -> io::Result<Segment> {
    loop {
        if core.fence.is_closed() {
            return Err(io::Error::other("the disk was closed while the log was full"));
        }
        if let Some(segment) = core.segments.borrow_mut().take_reusable() {
            return Ok(segment);
        }
        // Over the limit clients wait, but the log itself goes on: what frees segments is written to it, too.
        let allowed = !core.segments.borrow().creating;
        if allowed && add_segment(core).await? {
            continue;
        }
        core.call_housekeeping();
        core.env.sleep(FULL_LOG_RETRY).await;
    }
}

/// Makes one more reusable segment. False where there is no space for it: a full disk is no reason to fence. Any other
/// error is: it does not pass, and whoever waits for the log would wait for ever.
pub(crate) async fn add_segment(core: &Rc<DiskCore>) -> io::Result<bool> {
    let (slot, dir, segment_bytes) = {
        let mut segments = core.segments.borrow_mut();
        segments.creating = true;
        (segments.take_slot(), segments.dir().to_owned(), segments.segment_bytes())
    };
    let made = segment::create(&core.env, &dir, slot, segment_bytes).await;
    let mut segments = core.segments.borrow_mut();
    segments.creating = false;
    match made {
        Ok(segment) => {
            segments.give_reusable(segment);
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            tracing::warn!(disk = %core.uuid, %error, "cannot add a log segment");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn checkpoint_payload(checkpoint: &Checkpoint) -> FieldBuf {
    let mut payload = FieldBuf::with_capacity(ALIGNMENT, HEADER_BYTES);
    checkpoint.write(&mut payload);
    payload
}

async fn append_checkpoint(core: &Rc<DiskCore>, payload: FieldBuf, first_lsn: u64) -> io::Result<()> {
    write(core, BatchKind::Checkpoint, 0, first_lsn, 0, payload).await
}

/// Where a batch goes.
struct Place {
    segment: LiveSegment,
    page: u32,
    number: u64,
}

/// Writes a batch behind the last one.
async fn write(
    core: &Rc<DiskCore>,
    kind: BatchKind,
    record_count: u32,
    first_lsn: u64,
    data_lsn: u64,
    buffer: FieldBuf,
) -> io::Result<()> {
    let place = {
        let segments = core.segments.borrow();
        let Some(current) = segments.current() else { unreachable!("room was made") };
        Place { segment: current.clone(), page: segments.page, number: segments.batch_number }
    };
    let header = write_at(core, &place, kind, record_count, first_lsn, data_lsn, buffer).await?;
    let mut segments = core.segments.borrow_mut();
    segments.page += (header.batch_bytes() / ALIGNMENT) as u32;
    segments.batch_number += 1;
    if let Some(current) = segments.current_mut() {
        current.end_lsn = header.end_lsn();
    }
    Ok(())
}

async fn write_at(
    core: &Rc<DiskCore>,
    place: &Place,
    kind: BatchKind,
    record_count: u32,
    first_lsn: u64,
    data_lsn: u64,
    buffer: FieldBuf,
) -> io::Result<BatchHeader> {
    let header = BatchHeader {
        kind,
        record_count,
        segment: place.segment.number,
        number: place.number,
        first_lsn,
        data_lsn,
        page: place.page,
        payload_bytes: (buffer.len() - HEADER_BYTES) as u32,
    };
    let mut batch = buffer.into_padded(header.batch_bytes());
    core.seal.close(&header, &mut batch);
    let offset = u64::from(header.page) * ALIGNMENT as u64;
    place.segment.segment.file.write_at(offset, batch.freeze(), WriteMode::Flushed).await?;
    add(&core.counters.wal_batches, 1);
    add(&core.counters.wal_bytes, header.batch_bytes() as u64);
    Ok(header)
}
