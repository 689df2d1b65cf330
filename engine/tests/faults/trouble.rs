//! Which disks count against the tolerance now, and for which objects. Faults are let loose from here.
//!
//! What must hold: a fault begins only where afterwards no more disks are in trouble than reads tolerate, and no object
//! that may be read has lost more chunks than its code has parity. A disk leaves trouble only when it is in service
//! again and what it had open before is closed; one whose content was damaged never does.

use crate::model::history::Version;
use crate::model::path;
use crate::plan::{Event, What};
use buckets_engine::map::{DiskState, NodeMap};
use buckets_env::Env;
use buckets_env::sim::{DiskFaults, Fault, SimNode};
use buckets_ring::coding::Coding;
use futures::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// After so long the node has noticed that a disk was away: it looks twice a second.
const NOTICED: Duration = Duration::from_secs(3);
/// Between two looks at whether a disk is in service again.
const LOOK: Duration = Duration::from_millis(500);

type Disks = BTreeSet<u8>;

pub(crate) struct Trouble {
    node: SimNode,
    coding: Coding,
    map: RefCell<Option<Arc<NodeMap>>>,
    /// Faults at work, with the virtual time at which they end.
    at_work: RefCell<Vec<(Event, u64)>>,
    /// Disks whose faults have ended and that may not have recovered.
    recovering: RefCell<Disks>,
    /// Disks that had read errors in this life: some replica there may have been given up.
    until_restart: RefCell<Disks>,
    /// Disks with content that was damaged, or may have been.
    damaged: RefCell<Disks>,
    /// By version: disks that were in trouble while it was written.
    weak: RefCell<BTreeMap<Version, Disks>>,
    writing: RefCell<BTreeSet<Version>>,
    /// How often there have been too few disks for a majority of voters.
    deep: Cell<u64>,
}

/// A version is being written as long as this lives.
pub(crate) struct Writing<'a> {
    trouble: &'a Trouble,
    version: Version,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.trouble.note_weak(self.version);
        self.trouble.writing.borrow_mut().remove(&self.version);
    }
}

impl Trouble {
    pub(crate) fn new(node: &SimNode, coding: Coding) -> Trouble {
        Trouble {
            node: node.clone(),
            coding,
            map: RefCell::default(),
            at_work: RefCell::default(),
            recovering: RefCell::default(),
            until_restart: RefCell::default(),
            damaged: RefCell::default(),
            weak: RefCell::default(),
            writing: RefCell::default(),
            deep: Cell::new(0),
        }
    }

    /// The node has started again: what was open is closed.
    pub(crate) fn new_life(&self, map: &Arc<NodeMap>) {
        *self.map.borrow_mut() = Some(map.clone());
        self.recovering.borrow_mut().clear();
        self.until_restart.borrow_mut().clear();
        for (event, _) in self.at_work.borrow().iter() {
            self.note_unread_log(*event);
        }
        // Who was writing is gone.
        for version in std::mem::take(&mut *self.writing.borrow_mut()) {
            self.note_weak(version);
        }
    }

    /// A disk that is opened while its reads fail, again and again, is taken for damaged.
    fn note_unread_log(&self, event: Event) {
        let is_open = |disk: u8| {
            let map = self.map.borrow();
            map.as_ref().is_some_and(|map| map.disk(u16::from(disk)).state() == DiskState::InService)
        };
        if matches!(event.what, What::ReadErrors(_)) && !is_open(event.disk) {
            self.damaged.borrow_mut().insert(event.disk);
        }
    }

    /// Disks that the node holds for out of service.
    fn out_of_service(&self, starting_too: bool) -> Disks {
        let map = self.map.borrow();
        let is_out = |disk: &u8| {
            map.as_ref().is_some_and(|map| match map.disk(u16::from(*disk)).state() {
                DiskState::InService => false,
                DiskState::Starting => starting_too,
                _ => true,
            })
        };
        (0..self.coding.n()).filter(is_out).collect()
    }

    /// Disks that must not be counted on.
    fn now(&self, starting_too: bool) -> Disks {
        let mut disks = self.out_of_service(starting_too);
        disks.extend(self.at_work.borrow().iter().map(|(event, _)| event.disk));
        disks.extend(&*self.recovering.borrow());
        disks.extend(&*self.until_restart.borrow());
        disks.extend(&*self.damaged.borrow());
        disks
    }

    fn may_begin(&self, disk: u8) -> bool {
        let mut disks = self.now(false);
        disks.insert(disk);
        let tolerates = usize::from(self.coding.read_failures_tolerated());
        let is_fine = |weak: &Disks| weak.union(&disks).count() <= usize::from(self.coding.m());
        disks.len() <= tolerates && self.weak.borrow().values().all(is_fine)
    }

    fn note_weak(&self, version: Version) {
        let disks = self.now(true);
        self.weak.borrow_mut().entry(version).or_default().extend(disks);
    }

    /// A version is being written from now on.
    pub(crate) fn writing(&self, version: Version) -> Writing<'_> {
        self.note_weak(version);
        self.writing.borrow_mut().insert(version);
        Writing { trouble: self, version }
    }

    /// Only these versions can be read from now on.
    pub(crate) fn only_these_are_left(&self, live: &[Version]) {
        self.weak.borrow_mut().retain(|version, _| live.contains(version));
    }

    /// To be asked about by [`Trouble::was_deep`].
    pub(crate) fn watch(&self) -> u64 {
        self.note_depth();
        self.deep.get()
    }

    /// Whether there may have been no majority of voters since the watch began, or is none now.
    pub(crate) fn was_deep(&self, watch: u64) -> bool {
        self.note_depth();
        self.deep.get() != watch || !self.leaves_a_majority_now()
    }

    fn leaves_a_majority_now(&self) -> bool {
        self.now(true).len() <= usize::from(self.coding.write_failures_tolerated())
    }

    fn note_depth(&self) {
        if !self.leaves_a_majority_now() {
            self.deep.set(self.deep.get() + 1);
        }
    }

    /// Whether the damage that stays lets writes go on.
    pub(crate) fn leaves_a_majority(&self) -> bool {
        self.damaged.borrow().len() <= usize::from(self.coding.write_failures_tolerated())
    }

    /// Lets a fault strike when it is due, and ends it.
    pub(crate) async fn at_work(&self, env: &Env, event: Event) {
        if let What::Crash(_) = event.what {
            return;
        }
        env.sleep(Duration::from_micros(event.at_us)).await;
        if event.what == What::Kill {
            self.node.kill();
            return std::future::pending().await;
        }
        if !self.may_begin(event.disk) {
            return;
        }
        let ends = nanos(env) + event.for_us * 1000;
        self.begin(event, ends);
        self.see_through(env, event, ends).await;
    }

    /// Goes on with the faults of the life before.
    pub(crate) async fn left_over(&self, env: &Env) {
        let left_over = self.at_work.borrow().clone();
        join_all(left_over.into_iter().map(|(event, ends)| self.see_through(env, event, ends))).await;
    }

    fn begin(&self, event: Event, ends: u64) {
        let disk = self.node.disk(path(event.disk));
        tracing::info!(?event, "a fault begins");
        match event.what {
            What::Crash(_) | What::Kill => {}
            What::ReadErrors(_) => drop(self.until_restart.borrow_mut().insert(event.disk)),
            What::WriteError(skip) => disk.strike(Fault::Write, skip),
            What::FlushError(skip) => disk.strike(Fault::Flush, skip),
            What::Slow(_) => {}
            What::Full(kib) => disk.leave_free(kib << 10),
            What::Remove => disk.remove(),
            What::Rot(bits) => drop(disk.rot(bits as usize)),
            What::RotWhileRead(_) => {}
            What::LostWrite(skip) => disk.strike(Fault::LostWrite, skip),
            What::MisdirectedWrite(skip) => disk.strike(Fault::MisdirectedWrite, skip),
            What::Wipe => disk.wipe(),
        }
        if stays(event.what) {
            self.damaged.borrow_mut().insert(event.disk);
        }
        self.at_work.borrow_mut().push((event, ends));
        self.set_chances(event.disk);
        self.note_depth();
        for version in &*self.writing.borrow() {
            self.weak.borrow_mut().entry(*version).or_default().insert(event.disk);
        }
    }

    async fn see_through(&self, env: &Env, event: Event, ends: u64) {
        while nanos(env) < ends {
            self.note_unread_log(event);
            env.sleep(LOOK.min(Duration::from_nanos(ends - nanos(env)))).await;
        }
        self.note_unread_log(event);
        self.recovering.borrow_mut().insert(event.disk);
        self.end(event);
        env.sleep(NOTICED).await;
        while self.out_of_service(true).contains(&event.disk) {
            env.sleep(LOOK).await;
        }
        self.recovering.borrow_mut().remove(&event.disk);
    }

    fn end(&self, event: Event) {
        let disk = self.node.disk(path(event.disk));
        tracing::info!(?event, "a fault ends");
        self.at_work.borrow_mut().retain(|(other, _)| *other != event);
        match event.what {
            What::WriteError(_) => disk.call_off(Fault::Write),
            What::FlushError(_) => disk.call_off(Fault::Flush),
            What::LostWrite(_) => disk.call_off(Fault::LostWrite),
            What::MisdirectedWrite(_) => disk.call_off(Fault::MisdirectedWrite),
            What::Full(_) => disk.set_capacity(1 << 40),
            What::Remove => disk.restore(),
            _ => {}
        }
        self.set_chances(event.disk);
    }

    /// Sets what the faults at work on a disk make of its reads and its speed.
    fn set_chances(&self, disk: u8) {
        let mut faults = DiskFaults::default();
        for (event, _) in self.at_work.borrow().iter().filter(|(event, _)| event.disk == disk) {
            match event.what {
                What::ReadErrors(per_million) => faults.read_error_per_million = per_million,
                What::RotWhileRead(per_million) => faults.bit_rot_per_million = per_million,
                What::Slow(factor) => faults.slow_factor = factor,
                _ => {}
            }
        }
        self.node.disk(path(disk)).faults(faults);
    }

    /// Ends every fault. Damage stays.
    pub(crate) fn end_all(&self) {
        let left_over = self.at_work.borrow().clone();
        left_over.into_iter().for_each(|(event, _)| self.end(event));
    }
}

/// Whether a disk never is what it was.
fn stays(what: What) -> bool {
    match what {
        What::Rot(_)
        | What::RotWhileRead(_)
        | What::LostWrite(_)
        | What::MisdirectedWrite(_)
        | What::Wipe => true,
        What::Crash(_)
        | What::Kill
        | What::ReadErrors(_)
        | What::WriteError(_)
        | What::FlushError(_)
        | What::Slow(_)
        | What::Full(_)
        | What::Remove => false,
    }
}

fn nanos(env: &Env) -> u64 {
    env.now().0
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faults at work {:?}, damaged disks {:?}", self.at_work.borrow(), self.damaged.borrow())?;
        write!(
            f,
            ", recovering {:?}, with read errors {:?}",
            self.recovering.borrow(),
            self.until_restart.borrow()
        )?;
        if let Some(map) = &*self.map.borrow() {
            for disk in &map.disks {
                write!(f, "; {} {:?} {}", disk.path.display(), disk.state(), disk.reason())?;
            }
        }
        Ok(())
    }
}
