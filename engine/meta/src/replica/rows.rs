//! Rows that are damaged or too old, and the snapshot that replaces them.

use super::{Replica, SnapshotWatch, next_rows_id, start_node};
use crate::members::{Members, raft_id};
use crate::message::Stage;
use crate::status::RowsState;
use buckets_env::Instant;
use buckets_ring::id::DiskUuid;
use raft::ProgressState;
use raft::eraftpb::{Message, MessageType};
use std::time::Duration;

/// A follower that lacks so many entries at most needs no log but what is there anyway.
const CAUGHT_UP_WITHIN: u64 = 64;
/// How long the log is kept for a follower that is not heard.
const HOLD_FOR_ABSENT: Duration = Duration::from_secs(10);

impl Replica {
    /// The rows turned out to be damaged: another voter should lead, and the rows must be fetched again.
    pub(crate) fn rows_damaged(&mut self, now: Instant) {
        if self.rows == RowsState::Whole {
            self.rows = RowsState::Damaged;
            self.offer.usable.set(false);
            self.hand_over_at = now;
        }
    }

    /// The index (Raft) that a fetched snapshot must reach, where one is needed. A leader hands over first.
    pub(crate) fn snapshot_wanted(&self) -> Option<u64> {
        if self.leading() || self.rows == RowsState::Loading || self.failed.is_some() {
            return None;
        }
        // What it fetched would look like what it had before it was emptied.
        if !self.admission.takes_part() {
            return None;
        }
        let damaged = (self.rows == RowsState::Damaged).then_some(0);
        let index_min = self.snapshot_wanted.or(damaged)?;
        Some(index_min.max(self.applied().index))
    }

    /// The index refuses to take more because of its damage.
    pub(crate) fn rows_stuck(&mut self, now: Instant) {
        self.rows_damaged(now);
        self.rows_stuck = true;
    }

    /// Takes nothing in until [`Replica::restart`].
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// The rows are being replaced: nothing is applied until [`Replica::restart`].
    pub(crate) fn begin_loading(&mut self) {
        assert!(self.rows != RowsState::Loading && !self.leading());
        self.rows = RowsState::Loading;
        self.offer.usable.set(false);
    }

    /// The fetch failed before any row was replaced.
    pub(crate) fn loading_failed(&mut self, rows: RowsState) {
        assert!(self.rows == RowsState::Loading);
        self.rows = rows;
        self.offer.usable.set(rows == RowsState::Whole);
        self.snapshot_wanted = None;
        self.paused = false;
    }

    pub(crate) fn rows(&self) -> RowsState {
        self.rows
    }

    /// Begins again from the store, whose rows and log were set to a snapshot. Promises and answers that wait
    /// stay; term and vote come from the store, but for the vote of one that joins, which is nowhere else than here.
    pub(crate) fn restart(&mut self, members: Members) {
        assert!(self.all_flushed() && self.rows == RowsState::Loading);
        *self.offer.members.borrow_mut() = members;
        let (term, vote) = (self.node.raft.term, self.node.raft.vote);
        match start_node(self.id, &self.store, &self.offer, &self.options) {
            Ok(node) => self.node = node,
            Err(why) => return self.fail(why),
        }
        self.flushes_before = self.last_flush;
        if self.admission.stage() == Stage::Joining && self.node.raft.term == term {
            self.node.raft.vote = vote;
        }
        self.index = self.store.index().clone();
        self.rows_id = next_rows_id(&self.rows_ids);
        self.rows = RowsState::Whole;
        self.rows_stuck = false;
        self.paused = false;
        self.offer.usable.set(true);
        self.snapshot_wanted = None;
        self.apply_queue.clear();
        self.apply_queue_bytes = 0;
        self.refuse_reads();
        // What the snapshot ends with may be one of them.
        self.answer_proposals(self.applied());
        self.pin_election_timeout();
    }

    /// Tells the leader that this replica stands at its snapshot.
    pub(crate) fn announce(&mut self, leader: DiskUuid) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppendResponse);
        message.from = self.id;
        message.to = raft_id(leader);
        message.term = self.node.raft.term;
        message.index = self.applied().index;
        message.commit = self.applied().index;
        self.send(vec![message]);
    }

    /// Keeps the log for followers that fetch a snapshot: cut behind its back, they would have to fetch another one, and so on for as
    /// long as there are writes.
    pub(super) fn hold_log(&mut self, now: Instant) {
        let last = self.store.last_index();
        let progress = self.node.raft.prs();
        self.holds.retain(|id, hold| {
            let Some(progress) = progress.get(*id) else { return false };
            hold.after = hold.after.max(progress.matched);
            if progress.recent_active || hold.seen == Instant(0) {
                hold.seen = now;
            }
            let has_caught_up = progress.state == ProgressState::Replicate
                && last - progress.matched.min(last) <= CAUGHT_UP_WITHIN;
            !has_caught_up && now.since(hold.seen) < HOLD_FOR_ABSENT
        });
        self.store.hold_log(self.holds.values().map(|hold| hold.after).min());
    }

    /// Offers a snapshot again to followers that were offered one and did not get ahead.
    pub(super) fn retry_snapshots(&mut self, now: Instant) {
        let voters: Vec<u64> = self.offer.members.borrow().all().map(raft_id).collect();
        for id in voters {
            let state = self.node.raft.prs().get(id).map(|progress| progress.state);
            if state != Some(ProgressState::Snapshot) {
                self.snapshot_watch.remove(&id);
                continue;
            }
            let since = self.snapshot_watch.entry(id).or_insert(SnapshotWatch { since: now }).since;
            if now.since(since) >= self.options.election_timeout_max() {
                self.snapshot_watch.remove(&id);
                self.node.report_snapshot(id, raft::SnapshotStatus::Failure);
            }
        }
    }
}
