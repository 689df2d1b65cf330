//! What goes on beside reads and writes: segments are freed and made ahead, abandoned chunks expire, failed indexes fence
//! the disk.
//!
//! What must hold: an idle replica does not keep the log from being used again: over the soft limit whoever pins the
//! oldest segments is flushed, or logs its few entries again.

use crate::core::DiskCore;
use crate::wal::flusher::add_segment;
use std::rc::Rc;

/// Looks around at intervals, and when called, until the disk is closed.
pub(crate) async fn run(core: Rc<DiskCore>) {
    while !core.fence.is_closed() {
        let interval = core.options.housekeeping_interval;
        let _ = core.env.timeout(interval, core.housekeeping_called()).await;
        fence_for_failed_index(&core);
        if core.fence.is_closed() {
            return;
        }
        core.chunks.expire_writers();
        core.replicas.borrow().values().for_each(crate::ReplicaStore::compact);
        free_segments(&core);
        make_segment_ahead(&core).await;
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
    let mut segments = core.segments.borrow_mut();
    segments.retire_before(needed_lsn);
    let surplus = segments.live_count().saturating_sub(core.options.wal_segments_soft_max as usize);
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

async fn make_segment_ahead(core: &Rc<DiskCore>) {
    let wanted = {
        let segments = core.segments.borrow();
        segments.reusable_count() == 0
            && !segments.creating
            && segments.count() < core.options.wal_segments_max as usize
    };
    if wanted {
        add_segment(core).await;
    }
}
