//! The rebuild of a disk of this core that was emptied: its partitions list what it lacks, and it counts as rebuilding until
//! all of that was written again.
//!
//! What must hold: that a disk was emptied stands on it before its replicas vote again, which is all else that would tell; so does
//! how far its rebuild is; begun twice it costs twice, and loses nothing.

use crate::core::Core;
use crate::map::DiskState;
use crate::message::{DiskIndex, PartitionOp, Refusal, Reply};
use crate::partition;
use buckets_disk::Disk;
use buckets_meta::Stage;
use buckets_ring::id::GroupId;
use buckets_ring::rebuild::RebuildJson;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Pause between two pages of a walk, so that others come first.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Pause before what failed is tried again, and between two looks at what is left.
const LOOK: Duration = Duration::from_secs(2);
const ADMISSION_LOOK: Duration = Duration::from_millis(10);

const REASON: &str = "it was emptied: its chunks are being written again";

/// Takes a disk into service whose replicas are there: at once where none of them may have forgotten anything; else when its groups have told whether it
/// is new or was emptied.
pub(crate) async fn admit(core: Rc<Core>, index: DiskIndex, disk: Disk, noted: Option<RebuildJson>) {
    let mapped = core.map.disk(index);
    if let Some(rebuild) = noted {
        return go_on(core, index, disk, rebuild).await;
    }
    loop {
        if !is_open(&core, index, &disk) {
            return;
        }
        if is_joining(&core, &disk) {
            break;
        }
        if remembers(&core, &disk) {
            return mapped.set_state(DiskState::InService, "");
        }
        mapped
            .set_state(DiskState::Starting, &format!("it is new or was emptied; {}", awaited(&core, index)));
        core.env.sleep(ADMISSION_LOOK).await;
    }
    let rebuild = RebuildJson::default();
    while let Err(error) = disk.write_rebuild(Some(&rebuild)).await {
        tracing::error!(disk = %disk.path().display(), %error, "that a disk was emptied cannot be noted on it");
        core.env.sleep(LOOK).await;
        if !is_open(&core, index, &disk) {
            return;
        }
    }
    go_on(core, index, disk, rebuild).await;
}

/// From where a rebuild is, to its end.
pub(crate) async fn go_on(core: Rc<Core>, index: DiskIndex, disk: Disk, mut rebuild: RebuildJson) {
    if !is_open(&core, index, &disk) {
        return;
    }
    core.emptied.borrow_mut().insert(index);
    let mapped = core.map.disk(index);
    tracing::warn!(disk = %mapped.path.display(), "the disk was emptied: its chunks will be written again");
    mapped.set_state(DiskState::Rebuilding, REASON);
    let groups = core.map.partitions_of(mapped.set);
    for group in &groups {
        while !rebuild.listed.contains(group) {
            if !is_same(&core, index, &disk) {
                return;
            }
            tell_what_is_awaited(&core, index);
            let listed = match list(&core, *group, index).await {
                Ok(()) => {
                    rebuild.listed.insert(*group);
                    disk.write_rebuild(Some(&rebuild)).await.map_err(|error| error.to_string())
                }
                Err(refusal) => Err(refusal.to_string()),
            };
            if let Err(error) = listed {
                tracing::debug!(%group, error, "what an emptied disk lacks is not known yet");
                rebuild.listed.remove(group);
                core.env.sleep(LOOK).await;
            }
        }
    }
    loop {
        if !is_same(&core, index, &disk) {
            return;
        }
        tell_what_is_awaited(&core, index);
        if remembers(&core, &disk) && is_nothing_left(&core, &groups, index).await {
            match end(&disk).await {
                Ok(()) => break,
                Err(error) => tracing::error!(%error, "the end of a rebuild cannot be noted"),
            }
        }
        core.env.sleep(LOOK).await;
    }
    if is_same(&core, index, &disk) {
        tracing::info!(disk = %mapped.path.display(), "the disk has its chunks again");
        mapped.set_state(DiskState::InService, "");
    }
}

async fn end(disk: &Disk) -> io::Result<()> {
    disk.write_rebuild(None).await
}

/// Still the disk that the rebuild was begun for, and still in service.
fn is_same(core: &Core, index: DiskIndex, disk: &Disk) -> bool {
    core.map.disk(index).state() == DiskState::Rebuilding && is_open(core, index, disk)
}

/// It has not been taken out of service, be it to be opened again.
fn is_open(core: &Core, index: DiskIndex, disk: &Disk) -> bool {
    core.disks.borrow().get(&index).is_some_and(|there| there.is(disk))
}

async fn list(core: &Rc<Core>, group: GroupId, disk: DiskIndex) -> Result<(), Refusal> {
    let mut next = Some(partition::first_page());
    while let Some(from) = next {
        next = match core.ask_group(group, PartitionOp::ListLost { disk, from }).await? {
            Reply::NextPage(next) => next,
            _ => return Err(Refusal::Unknown),
        };
        core.env.sleep(PAGE_PAUSE).await;
    }
    Ok(())
}

async fn is_nothing_left(core: &Rc<Core>, groups: &[GroupId], disk: DiskIndex) -> bool {
    for group in groups {
        if !matches!(core.ask_group(*group, PartitionOp::HasLost { disk }).await, Ok(Reply::Refers(false))) {
            return false;
        }
    }
    true
}

/// One of its replicas has found out that the disk was emptied; it votes again once that is noted.
fn is_joining(core: &Core, disk: &Disk) -> bool {
    core.host.statuses().iter().any(|status| status.disk == disk.uuid() && status.stage == Stage::Joining)
}

/// Its replicas know what they promised, from the beginning or again.
fn remembers(core: &Core, disk: &Disk) -> bool {
    let mut of_disk = core.host.statuses().into_iter().filter(|status| status.disk == disk.uuid());
    of_disk.all(|status| matches!(status.stage, Stage::Founding | Stage::Voting))
}

/// The disk's replicas may have to wait for voters that do not answer: whoever looks at the disk shall know for which.
fn tell_what_is_awaited(core: &Core, index: DiskIndex) {
    let disk = core.map.disk(index).uuid;
    let is_waiting =
        core.host.statuses().iter().any(|status| status.disk == disk && !status.awaits.is_empty());
    let reason = match is_waiting {
        true => format!("{REASON}; {}", awaited(core, index)),
        false => REASON.to_owned(),
    };
    core.map.disk(index).set_state(DiskState::Rebuilding, &reason);
}

fn awaited(core: &Core, index: DiskIndex) -> String {
    let uuid = core.map.disk(index).uuid;
    let statuses = core.host.statuses().into_iter().filter(|status| status.disk == uuid);
    let mut awaited: Vec<DiskIndex> =
        statuses.flat_map(|status| status.awaits).filter_map(|disk| core.map.disk_of(disk)).collect();
    awaited.sort_unstable();
    awaited.dedup();
    let names: Vec<String> = awaited.iter().map(|disk| core.map.disk_name(*disk)).collect();
    format!("its votes wait until these have told how they stand: {}", names.join(", "))
}
