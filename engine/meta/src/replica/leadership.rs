//! Who leads: when a voter stands for election, and when a leader makes room for another.

use super::{Effects, Replica, answer};
use crate::error::{ProposeError, ReadError};
use crate::limits::Options;
use crate::members::raft_id;
use crate::message::{GroupBody, GroupMessage, LogPosition};
use crate::status::{LeaderChange, RowsState};
use buckets_env::Instant;
use buckets_ring::id::DiskUuid;
use raft::{ProgressState, StateRole};
use std::cmp::Reverse;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A voter may be this many entries behind and still be handed the leadership.
const HAND_OVER_LAG_ENTRIES_MAX: u64 = 64;
/// First wait after a hand-over that failed, and the longest.
pub(super) const HAND_OVER_AGAIN: Duration = Duration::from_secs(10);
const HAND_OVER_AGAIN_MAX: Duration = Duration::from_secs(300);
/// Pause between two hand-overs of one core.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(100);

impl Replica {
    /// What the voters have flushed tells whose disk is slow. A leader's own is the worst: it applies, and so answers,
    /// only what is durable there.
    pub(super) fn look_at_paces(&mut self, now: Instant) {
        if !self.own_pace.is_waiting() && !self.preferred_pace.is_waiting() {
            return;
        }
        let members = self.offer.members.borrow();
        let prs = self.node.raft.prs();
        let matched = |voter: DiskUuid| prs.get(raft_id(voter)).map_or(0, |progress| progress.matched);
        let majority = members.voters().len() / 2 + 1;
        let without = |voter: DiskUuid| {
            let others = members.voters().iter().filter(|other| **other != voter);
            let mut others: Vec<u64> = others.map(|other| matched(*other)).collect();
            others.sort_unstable_by(|a, b| b.cmp(a));
            others.get(majority - 1).copied()
        };
        let was_slow = self.own_pace.is_slow();
        self.own_pace.look(matched(self.disk), without(self.disk), now);
        if let Some(preferred) = self.preference.first().copied().filter(|disk| *disk != self.disk) {
            self.preferred_pace.look(matched(preferred), without(preferred), now);
        }
        drop(members);
        if self.own_pace.is_slow() && !was_slow {
            tracing::warn!(group = %self.group, disk = %self.disk, "the leader's disk is slow: another one shall lead");
            self.hand_over_at = now;
        }
    }

    pub(super) fn note_leader(&mut self, now: Instant, effects: &mut Effects) {
        let (term, leader) = (self.node.raft.term, self.leader());
        if self.leading() {
            if self.leading_since.is_none() {
                self.leading_since = Some(now);
                self.heir_turn = 0;
                self.hand_over_at = now.after(self.options.leader_return_after);
            }
        } else if self.leading_since.is_some() {
            self.leading_since = None;
            self.snapshot_watch.clear();
            self.holds.clear();
            self.store.hold_log(None);
            self.own_pace.forget();
            self.preferred_pace.forget();
        }
        if self.told != Some((term, leader)) {
            self.told = Some((term, leader));
            effects.leader_change = Some(LeaderChange { group: self.group, term, leader });
        }
    }

    /// Raft draws election timeouts from the operating system; here they follow from the rank and the seed alone.
    pub(super) fn pin_election_timeout(&mut self) {
        let Options { election_ticks_min: min, election_ticks_max: max, .. } = *self.options;
        // One voter after the other notices that nobody leads, the one that should lead first: where several did at
        // once, none would get a majority, and all would wait once more.
        // A drained one comes after all others: it would only hand over what it gets.
        let rank = if (self.draining)() { self.rank + self.preference.len() } else { self.rank };
        let turn = rank.min(max - min - 1);
        if self.node.raft.leader_id != 0 {
            self.elections_before = self.elections;
        }
        // Where it came to that, chance decides.
        let draw = [self.node.raft.term.to_le_bytes(), self.elections.to_le_bytes()].concat();
        let again = match self.elections > self.elections_before {
            true => xxh3_64_with_seed(&draw, self.seed) as usize % (max - min),
            false => 0,
        };
        self.node.raft.set_randomized_election_timeout(min + turn + again);
    }

    /// Asks for votes if nobody leads and this voter's turn has come. For the first moments after a start.
    pub(crate) fn campaign_at_start(&mut self, now: Instant) {
        self.seek_admission(now);
        let waited = now.since(self.started);
        let turn = self.options.start_rank_delay * u32::try_from(self.rank).unwrap_or(u32::MAX);
        let free = !self.promise.binds(now) && !self.deaf(now) && self.admission.is_voting();
        let state = self.node.raft.state;
        let idle = matches!(state, StateRole::Follower | StateRole::PreCandidate);
        if self.node.raft.leader_id == 0 && idle && free && waited >= turn && self.rows == RowsState::Whole {
            let _ = self.node.campaign();
            self.pin_election_timeout();
        }
    }

    /// True while [`Replica::campaign_at_start`] is worth calling.
    pub(crate) fn starting(&self, now: Instant) -> bool {
        self.node.raft.leader_id == 0 && now.since(self.started) < self.options.start_period
    }

    /// Hands the leadership to `to`. False where this replica does not lead or `to` does not vote.
    pub(crate) fn hand_over(&mut self, to: DiskUuid, now: Instant) -> bool {
        let votes = self.offer.members.borrow().voters().contains(&to);
        if !self.leading() || !votes || to == self.disk || self.frozen(now) {
            return false;
        }
        // The message that makes `to` start may be delayed for any time: no lease in this term any more.
        self.lease.bar(self.node.raft.term);
        self.node.transfer_leader(raft_id(to));
        true
    }

    /// The voters that could lead beside this one, the fittest first.
    fn heirs(&self) -> Vec<DiskUuid> {
        let prs = self.node.raft.prs();
        let members = self.offer.members.borrow();
        let others = members.voters().iter().copied().filter(|disk| *disk != self.disk);
        let fitness = |disk: DiskUuid| {
            let progress = prs.get(raft_id(disk))?;
            let rank = self.preference.iter().position(|voter| *voter == disk);
            let rank = rank.unwrap_or(self.preference.len());
            progress.recent_active.then_some(((Reverse(progress.matched), rank), disk))
        };
        let mut heirs: Vec<_> = others.filter_map(fitness).collect();
        heirs.sort_unstable_by_key(|(fitness, _)| *fitness);
        heirs.into_iter().map(|(_, disk)| disk).collect()
    }

    /// This disk is out of service: whoever is best fit shall lead at once. Nothing more is written here.
    pub(crate) fn resign(&mut self) -> Vec<GroupMessage> {
        if self.leading()
            && let Some(heir) = self.heirs().first().copied()
        {
            self.lease.bar(self.node.raft.term);
            self.node.raft.msgs.clear();
            self.node.raft.send_timeout_now(raft_id(heir));
            let farewell = std::mem::take(&mut self.node.raft.msgs);
            self.send(farewell);
        }
        self.refuse_reads();
        for (_, reads) in std::mem::take(&mut self.confirmed) {
            for read in reads {
                answer(read.answer, Err(ReadError::NotLeader { leader: None }));
            }
        }
        for waiting in std::mem::take(&mut self.waiting) {
            answer(waiting.answer, Err(ProposeError::Unknown));
        }
        for proposal in std::mem::take(&mut self.proposals) {
            answer(proposal.answer, Err(ProposeError::NotLeader { leader: None }));
        }
        std::mem::take(&mut self.out)
    }

    pub(super) fn consider_hand_over(&mut self, now: Instant) {
        if self.node.raft.lead_transferee.is_some() {
            return;
        }
        if (self.draining)() {
            // Where it does not decide yet there is nothing that an heir could go on with.
            let decides = self.leader_term().is_some() || self.rows != RowsState::Whole;
            if now >= self.drain_at && decides {
                self.ask_next_heir(now);
            }
            return;
        }
        if now < self.hand_over_at || now < self.hand_over_gate.get() {
            return;
        }
        if self.rows != RowsState::Whole || self.own_pace.is_slow() {
            return self.ask_next_heir(now);
        }
        let Some(preferred) = self.preference.first().copied() else { return };
        if preferred != self.disk && !self.preferred_pace.is_slow() && self.is_near(preferred) {
            self.ask_heir(preferred, now);
        }
    }

    /// Whether a voter has nearly all that this leader has; or, where somebody waits for this leader to go, nearly all that is
    /// committed: under load no voter may have more than that for long.
    fn is_near(&self, voter: DiskUuid) -> bool {
        let log = &self.node.raft.raft_log;
        let last = if (self.draining)() { log.committed } else { log.last_index() };
        self.node.raft.prs().get(raft_id(voter)).is_some_and(|progress| {
            progress.recent_active
                && progress.state == ProgressState::Replicate
                && progress.matched + HAND_OVER_LAG_ENTRIES_MAX >= last
        })
    }

    /// Asks one heir after the other, the fittest first: it may be one that cannot serve, or shall not.
    fn ask_next_heir(&mut self, now: Instant) {
        let mut heirs = self.heirs();
        heirs.retain(|heir| self.is_near(*heir));
        if let Some(heir) = heirs.get(self.heir_turn % heirs.len().max(1)).copied() {
            self.heir_turn += 1;
            self.ask_heir(heir, now);
        }
    }

    /// Asks whether the heir could serve; its answer comes to [`Replica::heir_answers`].
    fn ask_heir(&mut self, heir: DiskUuid, now: Instant) {
        self.hand_over_at = now.after(self.options.election_timeout_min());
        self.drain_at = now.after(HAND_OVER_PAUSE);
        let body = GroupBody::LogPositionRequest { round: self.node.raft.term, freeze: false };
        self.out.push(GroupMessage { group: self.group, from: self.disk, to: heir, body });
    }

    /// An answer to [`Replica::ask_heir`].
    pub(crate) fn heir_answers(&mut self, heir: DiskUuid, position: LogPosition, now: Instant) {
        let raft = &self.node.raft;
        if !self.leading() || position.round != raft.term || raft.lead_transferee.is_some() {
            return;
        }
        if (self.draining)() {
            // All at once, as before an end: whoever drains a node waits for it.
            if !position.usable {
                self.drain_at = now;
            } else if self.hand_over(heir, now) {
                self.drain_at = now.after(self.options.election_timeout_min());
            }
            return;
        }
        if position.usable && now >= self.hand_over_gate.get() && self.hand_over(heir, now) {
            self.hand_over_gate.set(now.after(HAND_OVER_PAUSE));
            self.hand_over_at = now.after(self.hand_over_again);
            self.hand_over_again = (self.hand_over_again * 2).min(HAND_OVER_AGAIN_MAX);
        }
    }
}
