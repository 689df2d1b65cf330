//! What goes on beside reads and writes: segments are freed and made ahead, abandoned chunks expire, failed indexes fence
//! the disk.
//!
//! What must hold: neither an idle replica nor one whose keys are written again and again keeps the log from being used
//! again: over the soft limit whoever pins the oldest segments is flushed, or logs its few entries again.

use crate::core::DiskCore;
use crate::wal::flusher::add_segment;
use crate::wal::segment;
use std::rc::Rc;

/// Reusable segments that stay when there are more than there need to be.
const REUSABLE_SEGMENTS_KEPT: usize = 2;
/// Where space is short: segments from which on the log is flushed into the indexes, so that they come free.
const SEGMENTS_SHORT_OF_SPACE: usize = 2;
/// Where space is short: retired segments for which the next one is begun. One takes the place of the spare one that is
/// begun, so that fewer would not free anything.
const RETIRED_SHORT_OF_SPACE: usize = 2;

/// Looks around at intervals, and when called, until the disk is closed.
pub(crate) async fn run(core: Rc<DiskCore>) {
    while !core.fence.is_closed() {
        let interval = core.options.housekeeping_interval;
        let _ = core.env.timeout(interval, core.housekeeping_called()).await;
        fence_for_failed_index(&core);
        if core.fence.is_closed() {
            return;
        }
        look_at_space(&core).await;
        core.chunks.expire_writers();
        for replica in core.replicas.borrow().values() {
            replica.compact();
            replica.bound_unflushed(core.options.unflushed_bytes_max);
        }
        free_segments(&core);
        make_segment_ahead(&core).await;
        begin_segment_where_short(&core);
        remove_surplus_segments(&core).await;
    }
}

async fn look_at_space(core: &Rc<DiskCore>) {
    // What cannot be told is left as it was: the writes themselves will say.
    if let Ok(space) = core.env.disk_space(&core.path).await {
        let short = space.free_bytes < core.options.floor_bytes;
        if short != core.short_of_space.replace(short) {
            let (disk, free_bytes) = (core.path.display(), space.free_bytes);
            match short {
                true => tracing::warn!(%disk, free_bytes, "the disk is full: new objects are refused"),
                false => tracing::info!(%disk, free_bytes, "the disk has space again"),
            }
        }
        core.replicas.borrow().values().for_each(|replica| replica.index().note_space(short));
        core.chunks.inner.table.note_space(short);
    }
}

/// An index that cannot be flushed would pin the log for ever: the disk is as good as gone.
fn fence_for_failed_index(core: &Rc<DiskCore>) {
    let replicas: Vec<_> = core.replicas.borrow().values().cloned().collect();
    let failed = replicas.iter().find_map(|replica| Some((replica.group(), replica.index().failure()?)));
    if let Some((group, error)) = failed {
        core.fence.close_for(&format!("flush of the index of group {group}"), &error);
    }
    if let Some(error) = core.chunks.inner.table.failure() {
        core.fence.close_for("flush of the chunk table", &error);
    }
}

fn free_segments(core: &Rc<DiskCore>) {
    let needed_lsn = core.needed_lsn();
    let unapplied_bytes: usize =
        core.replicas.borrow().values().map(crate::ReplicaStore::unapplied_bytes).sum();
    let mut segments = core.segments.borrow_mut();
    segments.retire_before(needed_lsn);
    core.wal.set_full(segments.live_count() >= core.options.wal_segments_max as usize);
    // What nobody can flush (it is not committed yet) is logged again and again: at least half of the log must be free
    // of it, or that would never end. Whole segments are enough for that, and where space is short there are no more.
    let segment_bytes = segments.segment_bytes() as usize;
    let unapplied_segments = match core.short_of_space.get() {
        true => unapplied_bytes / segment_bytes,
        false => unapplied_bytes.div_ceil(segment_bytes),
    };
    let allowed = segments_wanted(core).max(2 * unapplied_segments + 2);
    let surplus = segments.live_count().saturating_sub(allowed);
    let Some(until_lsn) = segments.end_of_oldest(surplus) else { return };
    drop(segments);
    let pinning: Vec<_> = {
        let replicas = core.replicas.borrow();
        replicas.values().filter(|r| r.needed_lsn().is_some_and(|lsn| lsn < until_lsn)).cloned().collect()
    };
    for replica in pinning {
        replica.release_log(core.options.relog_bytes_max, until_lsn);
    }
    if core.chunks.needed_lsn().is_some_and(|lsn| lsn < until_lsn) {
        core.chunks.start_table_flush();
    }
}

/// Over it the log is flushed into the indexes.
fn segments_wanted(core: &DiskCore) -> usize {
    match core.short_of_space.get() {
        true => SEGMENTS_SHORT_OF_SPACE,
        false => core.options.wal_segments_soft_max as usize,
    }
}

/// After a time of many segments, gives their space back.
async fn remove_surplus_segments(core: &Rc<DiskCore>) {
    let surplus = {
        let mut segments = core.segments.borrow_mut();
        // One stays in any case: the log must not have to wait for one.
        let kept = if core.short_of_space.get() { 1 } else { REUSABLE_SEGMENTS_KEPT };
        let many = segments.count() > segments_wanted(core) + kept;
        if many && segments.reusable_count() > kept { segments.take_reusable() } else { None }
    };
    let Some(surplus) = surplus else { return };
    let dir = core.segments.borrow().dir().to_owned();
    if let Err(error) = core.env.remove_file(&segment::path(&dir, surplus.slot)).await {
        tracing::warn!(disk = %core.uuid, %error, "cannot remove a log segment");
    }
}

/// Retired segments come free with the checkpoint of the next one. Where space is short few records come, and that would
/// be long from now: it is begun at once.
fn begin_segment_where_short(core: &DiskCore) {
    let wanted = {
        let segments = core.segments.borrow();
        segments.reusable_count() > 0 && segments.retired_count() >= RETIRED_SHORT_OF_SPACE
    };
    if core.short_of_space.get() && wanted {
        core.segment_wanted.set(true);
        core.wal.nudge();
    }
}

async fn make_segment_ahead(core: &Rc<DiskCore>) {
    let wanted = {
        let segments = core.segments.borrow();
        segments.reusable_count() == 0
            && !segments.creating
            && segments.count() < core.options.wal_segments_max as usize
    };
    if wanted && let Err(error) = add_segment(core).await {
        // Not needed yet: the log says when it is.
        tracing::warn!(disk = %core.uuid, %error, "cannot make a log segment ahead");
    }
}
