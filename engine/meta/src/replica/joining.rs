//! How a replica that knows nothing comes to vote (see [`crate::admission`]).

use super::Replica;
use crate::admission::{JOINING_NOTE, Verdict};
use crate::message::{GroupBody, GroupMessage, Stage, Standing};
use buckets_disk::HardState;
use buckets_env::Instant;
use buckets_ring::id::DiskUuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

impl Replica {
    /// Asks the other voters how they stand, where this one may not vote yet.
    pub(super) fn seek_admission(&mut self, now: Instant) {
        let seed = self.seed;
        let Some(round) = self.admission.ask(now, || xxh3_64_with_seed(&now.0.to_le_bytes(), seed)) else {
            return;
        };
        for to in self.offer.members.borrow().voters().iter().filter(|voter| **voter != self.disk) {
            let body = GroupBody::StandingRequest { round };
            self.out.push(GroupMessage { group: self.group, from: self.disk, to: *to, body });
        }
    }

    /// How it stands, for a voter that asks.
    pub(crate) fn standing(&self, round: u64) -> Standing {
        Standing { round, stage: self.admission.stage(), term: self.node.raft.term, last: self.last() }
    }

    /// An answer to [`Replica::seek_admission`].
    pub(crate) fn heard_standing(&mut self, from: DiskUuid, standing: Standing, now: Instant) {
        let voters = self.offer.members.borrow().voters().to_vec();
        match self.admission.answered(from, standing, self.node.raft.term, &voters, now) {
            Verdict::Wait => {}
            Verdict::Found => {
                let note = HardState { vote: JOINING_NOTE, ..HardState::default() };
                match self.store.append(&[], Some(note), None) {
                    Ok(lsn) => self.founding = Some(lsn),
                    Err(_) => self.fail("its disk takes no writes"),
                }
            }
            Verdict::Vote => self.admit(now),
            Verdict::Join { term, reach } => {
                let (group, disk) = (self.group, self.disk);
                tracing::info!(%group, %disk, term, reach.index, "a replica of an emptied disk joins its group again");
                self.admission.join(reach);
                // The hard state that follows carries the note.
                self.node.raft.become_follower(term, 0);
                self.pin_election_timeout();
            }
        }
    }

    /// The note of founding is durable.
    pub(crate) fn founding(&mut self, now: Instant) {
        self.admission.founding(now);
        self.seek_admission(now);
    }

    fn admit(&mut self, now: Instant) {
        self.admission.vote();
        self.started = now;
        self.admitted = true;
    }

    /// From when its log ends where others' did it is a voter like others.
    pub(super) fn look_whether_caught_up(&mut self, now: Instant) {
        let has_caught_up = || self.admission.has_caught_up(self.last()) && (self.noted)(self.disk);
        if self.admission.stage() != Stage::Joining || !has_caught_up() {
            return;
        }
        self.admit(now);
        tracing::info!(group = %self.group, disk = %self.disk, "a replica that joined votes again");
        // In the log it stands behind the entries; a crash before it is durable only costs another round of asking.
        if self.store.append(&[], Some(self.hard_state()), None).is_err() {
            self.fail("its disk takes no writes");
        }
    }
}
