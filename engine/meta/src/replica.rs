//! One replica of one group: Raft's state machine with what surrounds it. Does no I/O and waits for nothing: time
//! and messages come in, [`Effects`] go out.
//!
//! What must hold:
//! - A message that tells others of entries or votes leaves only after those are durable here. Only a leader's
//!   appends and heartbeats leave earlier (they tell of nothing that this disk must remember).
//! - Entries are applied in order, each once, after they are committed and durable here.
//! - A proposal is answered `Ok` only after its own entry (same index *and* term) was applied.
//! - A read is answered only under a lease that the clock confirms at that moment, or after a majority confirmed
//!   the leader in a round that began after the read came, and everything committed until then was applied.
//! - While it stands still for a salvage (frozen), and until it was admitted (see [`crate::admission`]), it takes no
//!   message, no tick and no proposal.

mod joining;
mod leadership;
mod rows;

use crate::admission::{Admission, JOINING_NOTE};
use crate::error::{ProposeError, Proposed, ReadError};
use crate::host::{ChangeWatcher, Draining, Noted};
use crate::lease::{Lease, Promise};
use crate::limits::Options;
use crate::log::{Log, Offer, log_entry};
use crate::members::{Members, raft_id};
use crate::message::{GroupBody, GroupMessage, LogPosition, RaftMessage, Stage};
use crate::pace::Pace;
use crate::payload::{self, Unreadable};
use crate::status::{GroupStatus, LeaderChange, Role, RowsState, VoterStatus};
use crate::view::{RowsId, View};
use buckets_disk::{HardState, Lsn, ReplicaStore};
use buckets_env::Instant;
use buckets_index::{Index, Position};
use buckets_ring::id::{DiskUuid, GroupId};
use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{Config, RawNode, StateRole};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// The context of a vote request that a leader asked for (raft-rs keeps its own constant to itself).
const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";
/// Confirmations of leadership under way at the same time.
const ROUNDS_MAX: usize = 4;

/// What a replica is made of.
pub(crate) struct Parts {
    pub(crate) group: GroupId,
    pub(crate) disk: DiskUuid,
    pub(crate) store: ReplicaStore,
    pub(crate) members: Members,
    /// The voters, the one that should lead first.
    pub(crate) preference: Vec<DiskUuid>,
    pub(crate) options: Rc<Options>,
    /// An older leader may still count on this voter's promise.
    pub(crate) held: bool,
    /// For election timeouts.
    pub(crate) seed: u64,
    /// When the next hand-over of this core may begin.
    pub(crate) hand_over_gate: Rc<Cell<Instant>>,
    /// Whether this core shall lead nothing.
    pub(crate) draining: Draining,
    pub(crate) noted: Noted,
    /// Is told of what is applied.
    pub(crate) change_watcher: Option<ChangeWatcher>,
    /// The last id of rows that this core gave out.
    pub(crate) rows_ids: Rc<Cell<u64>>,
}

/// A batch on its way into the log.
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) term: u64,
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Proposed>,
}

/// A read that waits for a confirmation of leadership.
pub(crate) struct Read {
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Result<(), ReadError>>,
}

/// What a read gets at once.
pub(crate) enum ReadNow {
    /// Go ahead.
    Granted,
    /// A confirmation is needed: queue it with [`Replica::queue_read`].
    Ask,
    /// Not here.
    NotLeader,
}

/// What is to be done after a step.
#[derive(Default)]
pub(crate) struct Effects {
    /// To send.
    pub(crate) messages: Vec<GroupMessage>,
    /// Tell [`Replica::flushed`] the number once the log is durable up to there.
    pub(crate) flushes: Vec<(Lsn, u64)>,
    /// Another leader (or none), or a new term.
    pub(crate) leader_change: Option<LeaderChange>,
    /// There is more to apply: call again after other tasks had their turn.
    pub(crate) again: bool,
    /// The index wants a pause: call again when it is over.
    pub(crate) stalled: bool,
    /// Tell [`Replica::founding`] once the log is durable up to here.
    pub(crate) founding: Option<Lsn>,
    /// It may ask for votes from now on.
    pub(crate) admitted: bool,
    /// The disk takes no writes any more.
    pub(crate) fenced: bool,
    /// The replica must leave its group.
    pub(crate) failed: Option<&'static str>,
}

/// A ready that is not durable yet, and the messages that wait for it.
struct Unflushed {
    number: u64,
    /// False where it only has to wait for those before it.
    own_flush: bool,
    messages: Vec<Message>,
}

struct Waiting {
    index: u64,
    term: u64,
    deadline: Instant,
    answer: oneshot::Sender<Proposed>,
}

/// A confirmation of leadership under way.
struct Round {
    number: u64,
    term: u64,
    began: Instant,
    reads: Vec<Read>,
}

/// What an entry takes beside its data, about.
const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// What is left of a snapshot offer from the leader.
#[derive(Clone, Copy)]
struct SnapshotWatch {
    since: Instant,
}

/// Raft adds entries to appends that wait without a limit, and for a follower that is far behind all that it lacks: a message that is
/// too long for the way to other nodes would never arrive.
fn split(mut message: Message, bytes_max: u64) -> Vec<Message> {
    let bytes_of = |entry: &Entry| entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES;
    let is_short =
        |entries: &[Entry]| entries.len() < 2 || entries.iter().map(bytes_of).sum::<u64>() <= bytes_max;
    if message.get_msg_type() != MessageType::MsgAppend || is_short(&message.entries) {
        return vec![message];
    }
    let entries = message.take_entries();
    let without_entries = message.clone();
    let mut pieces = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let more = bytes_of(&entry);
        if bytes > 0 && bytes + more > bytes_max {
            let mut next = without_entries.clone();
            if let Some(last) = message.entries.last() {
                (next.index, next.log_term) = (last.index, last.term);
            }
            pieces.push(std::mem::replace(&mut message, next));
            bytes = 0;
        }
        bytes += more;
        message.entries.push(entry);
    }
    pieces.push(message);
    pieces
}

/// A follower that was offered a snapshot.
#[derive(Clone, Copy)]
struct Hold {
    /// It will need the entries after this one.
    after: u64,
    /// When it was there last.
    seen: Instant,
}

pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) disk: DiskUuid,
    id: u64,
    options: Rc<Options>,
    pub(crate) store: ReplicaStore,
    index: Index,
    rows_id: RowsId,
    rows_ids: Rc<Cell<u64>>,
    change_watcher: Option<ChangeWatcher>,
    offer: Rc<Offer>,
    preference: Vec<DiskUuid>,
    rank: usize,
    node: RawNode<Log>,
    seed: u64,
    elections: u64,
    /// Of these, so many while the last leader was not known yet.
    elections_before: u64,
    started: Instant,
    admission: Admission,
    /// Where the note of founding ends in the log, until the host was told.
    founding: Option<Lsn>,
    admitted: bool,
    promise: Promise,
    lease: Lease,
    /// Who asked this replica to stand still, and until when.
    frozen: BTreeMap<DiskUuid, Instant>,
    /// Nothing is taken in: the replica is about to start again.
    paused: bool,
    rows: RowsState,
    /// The index cannot take more until its rows are replaced.
    rows_stuck: bool,
    snapshot_wanted: Option<u64>,
    snapshot_watch: BTreeMap<u64, SnapshotWatch>,
    /// Voters that were offered a snapshot, until they have what was written since.
    holds: BTreeMap<u64, Hold>,
    out: Vec<GroupMessage>,
    unflushed: VecDeque<Unflushed>,
    /// The last flush that was asked for, and the last one before Raft began to count its readies anew.
    last_flush: u64,
    flushes_before: u64,
    apply_queue: VecDeque<Entry>,
    apply_queue_bytes: usize,
    proposals: VecDeque<Proposal>,
    waiting: VecDeque<Waiting>,
    reads: Vec<Read>,
    rounds: VecDeque<Round>,
    round_number: u64,
    round_wanted: bool,
    /// Leadership was confirmed; everything up to the index must be applied.
    confirmed: Vec<(u64, Vec<Read>)>,
    leading_since: Option<Instant>,
    hand_over_at: Instant,
    hand_over_again: Duration,
    hand_over_gate: Rc<Cell<Instant>>,
    draining: Draining,
    /// Whether it is known, also after a crash, that a disk was emptied.
    noted: Noted,
    /// While it is drained: when the next heir is asked.
    drain_at: Instant,
    /// Which of the heirs, the fittest first, is asked next.
    heir_turn: usize,
    /// Of this disk, while it leads.
    own_pace: Pace,
    /// Of the disk that should lead, while this one leads.
    preferred_pace: Pace,
    told: Option<(u64, Option<DiskUuid>)>,
    failed: Option<&'static str>,
}

impl Replica {
    /// A replica that starts from what its store holds.
    pub(crate) fn new(parts: Parts, now: Instant) -> Result<Replica, &'static str> {
        let Parts { group, disk, store, members, preference, options, held, seed, hand_over_gate, .. } =
            parts;
        let Parts { change_watcher, rows_ids, draining, noted, .. } = parts;
        let id = raft_id(disk);
        let rank = preference.iter().position(|voter| *voter == disk).unwrap_or(preference.len());
        let offer = Rc::new(Offer {
            applied: Cell::new(Position::default()),
            usable: Cell::new(true),
            members: RefCell::new(members),
        });
        let index = store.index().clone();
        let node = start_node(id, &store, &offer, &options)?;
        let promise = Promise::at_start(now, options.promise(), held);
        let others = offer.members.borrow().voters().iter().filter(|voter| **voter != disk).count();
        let admission = Admission::at_start(store.hard_state(), store.last_index(), others, now);
        let mut replica = Replica {
            group,
            disk,
            id,
            store,
            index,
            rows_id: next_rows_id(&rows_ids),
            rows_ids,
            change_watcher,
            offer,
            preference,
            rank,
            node,
            seed,
            elections: 0,
            elections_before: 0,
            started: now,
            admission,
            founding: None,
            admitted: false,
            promise,
            lease: Lease::default(),
            frozen: BTreeMap::new(),
            paused: false,
            rows: RowsState::Whole,
            rows_stuck: false,
            snapshot_wanted: None,
            snapshot_watch: BTreeMap::new(),
            holds: BTreeMap::new(),
            out: Vec::new(),
            unflushed: VecDeque::new(),
            last_flush: 0,
            flushes_before: 0,
            apply_queue: VecDeque::new(),
            apply_queue_bytes: 0,
            proposals: VecDeque::new(),
            waiting: VecDeque::new(),
            reads: Vec::new(),
            rounds: VecDeque::new(),
            round_number: 0,
            round_wanted: false,
            confirmed: Vec::new(),
            leading_since: None,
            hand_over_at: now,
            hand_over_again: leadership::HAND_OVER_AGAIN,
            hand_over_gate,
            draining,
            noted,
            drain_at: now,
            heir_turn: 0,
            own_pace: Pace::default(),
            preferred_pace: Pace::default(),
            told: None,
            failed: None,
            options,
        };
        replica.pin_election_timeout();
        Ok(replica)
    }

    // ---- what it knows ----

    fn leading(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(crate) fn leads(&self) -> bool {
        self.leading()
    }

    pub(crate) fn term(&self) -> u64 {
        self.node.raft.term
    }

    fn applied(&self) -> Position {
        self.offer.applied.get()
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Its rows, to read from.
    pub(crate) fn view(&self) -> View {
        View::new(self.index.clone(), self.rows_id)
    }

    pub(crate) fn rows_id(&self) -> RowsId {
        self.rows_id
    }

    /// The leader that this replica knows.
    pub(crate) fn leader(&self) -> Option<DiskUuid> {
        match self.node.raft.leader_id {
            0 => None,
            id => self.offer.members.borrow().disk(id),
        }
    }

    /// The term in which this replica leads and has applied everything that earlier leaders committed.
    pub(crate) fn leader_term(&self) -> Option<u64> {
        let term = self.node.raft.term;
        (self.leading()
            && self.applied().term == term
            && self.rows != RowsState::Loading
            && self.failed.is_none())
        .then_some(term)
    }

    fn frozen(&self, now: Instant) -> bool {
        self.frozen.values().any(|until| now < *until)
    }

    /// Takes no messages, ticks and proposals.
    fn deaf(&self, now: Instant) -> bool {
        self.failed.is_some() || self.paused || self.frozen(now) || !self.admission.takes_part()
    }

    /// Where its log ends says something: it forgot nothing, or joins and says so.
    pub(crate) fn has_a_position(&self) -> bool {
        self.admission.takes_part() || self.admission.stage() == Stage::Founding
    }

    /// Term and index of the last entry of its log.
    fn last(&self) -> Position {
        let log = &self.node.raft.raft_log;
        Position { index: log.last_index(), term: log.last_term() }
    }

    pub(crate) fn members(&self) -> Members {
        self.offer.members.borrow().clone()
    }

    /// Position, members and rows for a snapshot that holds everything up to `index_min`.
    pub(crate) fn snapshot_source(&self, index_min: u64) -> Option<(Position, Bytes, Index)> {
        let applied = self.applied();
        (self.rows == RowsState::Whole && applied.index >= index_min.max(1))
            .then(|| (applied, self.offer.members.borrow().encode(), self.index.clone()))
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let raft = &self.node.raft;
        let last_index = raft.raft_log.last_index();
        let voters = self.offer.members.borrow().voters().to_vec();
        let voters = voters
            .into_iter()
            .map(|disk| {
                let progress = self.leading().then(|| raft.prs().get(raft_id(disk))).flatten();
                VoterStatus {
                    disk,
                    matched: progress.map(|progress| progress.matched),
                    lag: progress.map(|progress| last_index.saturating_sub(progress.matched)),
                    active: progress.map(|progress| progress.recent_active || disk == self.disk),
                }
            })
            .collect();
        GroupStatus {
            group: self.group,
            disk: self.disk,
            role: match raft.state {
                StateRole::Leader => Role::Leader,
                StateRole::Follower => Role::Follower,
                StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            },
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: self.applied().index,
            first: self.store.first_index(),
            last: last_index,
            rows: self.rows,
            stage: self.admission.stage(),
            awaits: self
                .admission
                .awaits(self.offer.members.borrow().voters())
                .filter(|voter| *voter != self.disk)
                .collect(),
            proposals_waiting: self.waiting.len() + self.proposals.len(),
            voters,
        }
    }

    // ---- what comes in ----

    /// A message of the consensus from `from`.
    pub(crate) fn step(&mut self, from: DiskUuid, message: Message, now: Instant) {
        let known = self.offer.members.borrow().contains(from);
        if self.deaf(now) || !known || message.from != raft_id(from) || message.to != self.id {
            return;
        }
        let (sender, term) = (message.from, message.term);
        let mut from_leader = false;
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                if self.promise.binds(now) && message.context != TRANSFER_CONTEXT {
                    return;
                }
                let candidate = Position { index: message.index, term: message.log_term };
                if !self.admission.may_vote_for(candidate) {
                    return;
                }
            }
            MessageType::MsgHeartbeat => {
                // A leader never tells a voter of a commit that this voter did not acknowledge before.
                let raft_log = &self.node.raft.raft_log;
                if term >= self.node.raft.term && message.commit > raft_log.last_index() {
                    self.fail("the log lacks entries that it had acknowledged");
                    return;
                }
                from_leader = true;
            }
            MessageType::MsgAppend => {
                if self.apply_queue_bytes > self.options.apply_backlog_bytes_max
                    && !message.get_entries().is_empty()
                {
                    return;
                }
                from_leader = true;
            }
            MessageType::MsgSnapshot => {
                let offered = message.get_snapshot().get_metadata();
                let raft_log = &self.node.raft.raft_log;
                if offered.index > raft_log.committed && !raft_log.match_term(offered.index, offered.term) {
                    // Rows come in pages first; Raft starts again behind them (see `crate::snapshot`).
                    if term >= self.node.raft.term {
                        self.snapshot_wanted = Some(offered.index);
                    }
                    return;
                }
                from_leader = true;
            }
            MessageType::MsgTimeoutNow => {
                if self.rows != RowsState::Whole || !self.admission.is_voting() {
                    return;
                }
            }
            MessageType::MsgAppendResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse => {}
            // Nothing else is ever sent by a replica.
            _ => return,
        }
        // Messages that Raft does not want any more are errors to it, and nothing to us.
        let _ = self.node.step(message);
        if from_leader && self.node.raft.leader_id == sender && self.node.raft.term == term {
            self.promise.renew(now, self.options.promise());
        }
        self.pin_election_timeout();
    }

    /// One tick has passed.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.expire(now);
        self.frozen.retain(|_, until| now < *until);
        self.seek_admission(now);
        if self.deaf(now) || !self.admission.is_voting() {
            return;
        }
        if self.node.tick() && !self.leading() {
            self.elections += 1;
        }
        self.pin_election_timeout();
        if self.leading() {
            self.retry_snapshots(now);
            self.hold_log(now);
            self.consider_hand_over(now);
        }
    }

    /// Queues a batch for the log.
    pub(crate) fn propose(&mut self, proposal: Proposal) {
        let raft = &self.node.raft;
        let refusal = if !self.leading() || self.leader_term().is_none() {
            Some(ProposeError::NotLeader { leader: self.leader().filter(|leader| *leader != self.disk) })
        } else if let Some(to) = raft.lead_transferee {
            Some(ProposeError::NotLeader { leader: self.offer.members.borrow().disk(to) })
        } else if raft.term != proposal.term {
            Some(ProposeError::StaleTerm { current: raft.term })
        } else if self.waiting.len() + self.proposals.len() >= self.options.proposals_max
            || self.apply_queue_bytes > self.options.apply_backlog_bytes_max
        {
            Some(ProposeError::Overloaded)
        } else {
            None
        };
        match refusal {
            Some(refusal) => answer(proposal.answer, Err(refusal)),
            None => self.proposals.push_back(proposal),
        }
    }

    /// A read comes: may it go ahead at `now`, read from the clock for this very call?
    pub(crate) fn read(&mut self, now: Instant) -> ReadNow {
        let Some(term) = self.leader_term() else {
            return if self.leading() { ReadNow::Ask } else { ReadNow::NotLeader };
        };
        if self.node.raft.prs().is_singleton() {
            return ReadNow::Granted;
        }
        if self.lease.wants_renewal(term, now, self.options.lease()) && self.rounds.is_empty() {
            self.round_wanted = true;
        }
        if self.lease.covers(term, now) { ReadNow::Granted } else { ReadNow::Ask }
    }

    /// True where [`Replica::advance`] has a confirmation to start.
    pub(crate) fn wants_round(&self) -> bool {
        self.round_wanted
    }

    /// Queues a read for a confirmation of leadership.
    pub(crate) fn queue_read(&mut self, read: Read) {
        if self.reads.len() >= self.options.reads_max {
            answer(read.answer, Err(ReadError::Overloaded));
        } else {
            self.reads.push(read);
        }
    }

    /// What the flush of a ready is told by: Raft numbers readies from 1 again after a restart from a snapshot, and a flush of
    /// before says nothing of them.
    fn flush_number(&self, ready: u64) -> u64 {
        self.flushes_before + ready
    }

    /// The log is durable up to the flush `number`.
    pub(crate) fn flushed(&mut self, number: u64) {
        let mut reached = None;
        while let Some(front) = self.unflushed.front() {
            if front.own_flush && self.flush_number(front.number) > number {
                break;
            }
            let Some(done) = self.unflushed.pop_front() else { break };
            reached = Some(done.number);
            self.send(done.messages);
        }
        if let Some(number) = reached {
            self.node.on_persist_ready(number);
        }
    }

    /// Everything that Raft was told is durable.
    pub(crate) fn all_flushed(&self) -> bool {
        self.unflushed.is_empty()
    }

    // ---- what goes out ----

    /// Does what has become possible since the last call.
    pub(crate) fn advance(&mut self, now: Instant) -> Effects {
        let mut effects = Effects::default();
        if self.failed.is_none() {
            if !self.deaf(now) {
                self.start_proposals();
                self.start_round(now);
            }
            self.take_ready(now, &mut effects);
            self.look_whether_caught_up(now);
            self.look_at_paces(now);
            self.apply(&mut effects);
            if !self.leading() {
                self.refuse_reads();
            }
            self.note_leader(now, &mut effects);
        }
        effects.founding = self.founding.take();
        effects.admitted = std::mem::take(&mut self.admitted);
        effects.failed = self.failed;
        effects.messages = std::mem::take(&mut self.out);
        effects
    }

    fn take_ready(&mut self, now: Instant, effects: &mut Effects) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            // Replicas never hand Raft a snapshot to restore.
            assert!(ready.snapshot().is_empty());
            self.send(ready.take_messages());
            for entry in ready.take_committed_entries() {
                self.apply_queue_bytes += entry.data.len();
                self.apply_queue.push_back(entry);
            }
            let number = ready.number();
            let own_flush = ready.must_sync();
            let messages = ready.take_persisted_messages();
            let confirmations = ready.take_read_states();
            if own_flush {
                let entries: Vec<_> = ready.entries().iter().map(log_entry).collect();
                match self.store.append(&entries, Some(self.hard_state()), None) {
                    Ok(lsn) => {
                        self.last_flush = self.flush_number(number);
                        effects.flushes.push((lsn, self.last_flush));
                        if let Some(last) = entries.last().filter(|_| self.leading()) {
                            self.own_pace.sent(last.index, now);
                            if self.rank != 0 {
                                self.preferred_pace.sent(last.index, now);
                            }
                        }
                    }
                    Err(_) => {
                        effects.fenced = true;
                        return self.fail("its disk takes no writes");
                    }
                }
            }
            self.node.advance_append_async(ready);
            if own_flush || !self.unflushed.is_empty() {
                self.unflushed.push_back(Unflushed { number, own_flush, messages });
            } else {
                self.node.on_persist_ready(number);
                self.send(messages);
            }
            for confirmation in confirmations {
                self.round_confirmed(&confirmation.request_ctx, confirmation.index);
            }
        }
    }

    fn hard_state(&self) -> HardState {
        let raft = &self.node.raft;
        let vote = if self.admission.stage() == Stage::Joining { JOINING_NOTE } else { raft.vote };
        HardState { term: raft.term, vote, commit: raft.raft_log.committed }
    }

    fn send(&mut self, messages: Vec<Message>) {
        let members = self.offer.members.borrow();
        let bytes_max = self.options.message_bytes_max;
        for message in messages.into_iter().flat_map(|message| split(message, bytes_max)) {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let after = message.get_snapshot().get_metadata().index;
                let hold = Hold { after, seen: Instant(0) };
                self.holds.entry(message.to).or_insert(hold);
                self.store.hold_log(self.holds.values().map(|hold| hold.after).min());
            }
            if let Some(to) = members.disk(message.to) {
                let body = GroupBody::Raft(RaftMessage(Box::new(message)));
                self.out.push(GroupMessage { group: self.group, from: self.disk, to, body });
            }
        }
    }

    fn start_proposals(&mut self) {
        let bytes_max = usize::try_from(self.options.message_bytes_max).unwrap_or(usize::MAX);
        while !self.proposals.is_empty() {
            let term = self.node.raft.term;
            let mut entries = Vec::new();
            let mut started = Vec::new();
            let mut bytes = 0;
            while let Some(proposal) = self.proposals.pop_front() {
                // Raft takes nothing while it hands over, either.
                let heir = self.node.raft.lead_transferee;
                if proposal.term != term || !self.leading() || heir.is_some() {
                    let heir = heir.and_then(|heir| self.offer.members.borrow().disk(heir));
                    let leader = heir.or(self.leader());
                    answer(proposal.answer, Err(ProposeError::NotLeader { leader }));
                    continue;
                }
                bytes += proposal.payload.len();
                entries.push(Entry { data: proposal.payload, ..Entry::default() });
                started.push((proposal.deadline, proposal.answer));
                if bytes >= bytes_max {
                    break;
                }
            }
            if entries.is_empty() {
                return;
            }
            let mut message = Message::default();
            message.set_msg_type(MessageType::MsgPropose);
            message.from = self.id;
            message.set_entries(entries.into());
            let first = self.node.raft.raft_log.last_index() + 1;
            if self.node.step(message).is_err() {
                for (_, waiter) in started {
                    answer(waiter, Err(ProposeError::Overloaded));
                }
                continue;
            }
            // What an earlier leadership of this replica put behind here was overwritten.
            while self.waiting.back().is_some_and(|waiting| waiting.index >= first) {
                if let Some(lost) = self.waiting.pop_back() {
                    answer(lost.answer, Err(ProposeError::Lost));
                }
            }
            for (index, (deadline, answer)) in (first..).zip(started) {
                self.waiting.push_back(Waiting { index, term, deadline, answer });
            }
        }
    }

    fn start_round(&mut self, now: Instant) {
        let wanted = self.round_wanted || !self.reads.is_empty();
        if !wanted || !self.leading() || self.rounds.len() >= ROUNDS_MAX {
            return;
        }
        if !self.node.raft.commit_to_current_term() {
            return;
        }
        self.round_wanted = false;
        self.round_number += 1;
        let number = self.round_number;
        let reads = std::mem::take(&mut self.reads);
        self.rounds.push_back(Round { number, term: self.node.raft.term, began: now, reads });
        self.node.read_index(number.to_le_bytes().to_vec());
    }

    fn round_confirmed(&mut self, context: &[u8], index: u64) {
        let Ok(number) = context.try_into().map(u64::from_le_bytes) else { return };
        while self.rounds.front().is_some_and(|round| round.number <= number) {
            let Some(round) = self.rounds.pop_front() else { return };
            if self.leading() && round.term == self.node.raft.term {
                self.lease.grant(round.term, round.began, self.options.lease());
            }
            if !round.reads.is_empty() {
                self.confirmed.push((index, round.reads));
            }
        }
    }

    fn refuse_reads(&mut self) {
        let leader = self.leader();
        self.round_wanted = false;
        self.lease.end();
        let rounds = self.rounds.drain(..).flat_map(|round| round.reads);
        for read in rounds.chain(self.reads.drain(..)) {
            answer(read.answer, Err(ReadError::NotLeader { leader }));
        }
    }

    fn apply(&mut self, effects: &mut Effects) {
        if self.rows == RowsState::Loading || self.rows_stuck {
            return;
        }
        let before = self.applied();
        let mut applied = before;
        let mut slice = 0;
        while let Some(entry) = self.apply_queue.front() {
            if slice == self.options.apply_slice_entries_max {
                effects.again = true;
                break;
            }
            if !matches!(self.index.back_pressure().now_or_never(), Some(Ok(()))) {
                effects.stalled = true;
                break;
            }
            let position = Position { index: entry.index, term: entry.term };
            let Ok(batch) = payload::decode(entry.data.clone()) else {
                self.fail("an entry of the log cannot be read by this version");
                break;
            };
            if let Some(watcher) = &self.change_watcher {
                watcher(self.rows_id, &batch);
            }
            self.index.apply(batch, position);
            self.apply_queue_bytes -= entry.data.len();
            self.apply_queue.pop_front();
            applied = position;
            slice += 1;
            self.answer_proposals(position);
        }
        if applied != before {
            self.offer.applied.set(applied);
            self.node.advance_apply_to(applied.index);
        }
        let (ready, waiting) =
            std::mem::take(&mut self.confirmed).into_iter().partition(|(index, _)| *index <= applied.index);
        self.confirmed = waiting;
        let ready: Vec<(u64, Vec<Read>)> = ready;
        for read in ready.into_iter().flat_map(|(_, reads)| reads) {
            answer(read.answer, Ok(()));
        }
    }

    fn answer_proposals(&mut self, applied: Position) {
        while self.waiting.front().is_some_and(|waiting| waiting.index <= applied.index) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let outcome = match (waiting.index == applied.index, waiting.term == applied.term) {
                (true, true) => Ok(applied),
                (true, false) => Err(ProposeError::Lost),
                (false, _) => Err(ProposeError::Unknown),
            };
            answer(waiting.answer, outcome);
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.waiting.front().is_some_and(|waiting| waiting.deadline <= now) {
            let Some(waiting) = self.waiting.pop_front() else { break };
            // Whoever decides about the same keys next must see this entry or know that it is gone. Both is certain
            // in a later term only.
            if self.leading() && self.node.raft.term == waiting.term {
                self.node.raft.become_follower(waiting.term, 0);
            }
            answer(waiting.answer, Err(ProposeError::Unknown));
        }
        while self.proposals.front().is_some_and(|proposal| proposal.deadline <= now) {
            if let Some(proposal) = self.proposals.pop_front() {
                answer(proposal.answer, Err(ProposeError::NotLeader { leader: self.leader() }));
            }
        }
        let rounds = self.rounds.iter_mut().map(|round| &mut round.reads);
        let confirmed = self.confirmed.iter_mut().map(|(_, reads)| reads);
        for reads in rounds.chain(confirmed).chain([&mut self.reads]) {
            while reads.first().is_some_and(|read| read.deadline <= now) {
                answer(reads.remove(0).answer, Err(ReadError::Timeout));
            }
        }
    }

    pub(crate) fn fail(&mut self, why: &'static str) {
        self.failed = Some(why);
    }

    // ---- salvage ----

    /// How far the log reaches. With `freeze`, and where no leader may count on this voter, the replica then stands
    /// still for a promise's time, for `asker`.
    pub(crate) fn log_position(
        &mut self,
        asker: DiskUuid,
        round: u64,
        freeze: bool,
        now: Instant,
    ) -> LogPosition {
        let raft = &self.node.raft;
        let heard = raft.leader_id != 0 && raft.election_elapsed < self.options.election_ticks_min;
        let leader = self.leading() || (!self.frozen(now) && (heard || self.promise.binds(now)));
        let frozen = freeze && !leader;
        let last = self.last();
        if frozen {
            self.frozen.insert(asker, now.after(self.options.promise()));
        }
        let joining = self.admission.stage() == Stage::Joining;
        LogPosition {
            round,
            frozen,
            leader,
            // Who may only be read from is no heir.
            usable: self.rows == RowsState::Whole && !joining && (freeze || !(self.draining)()),
            joining,
            last,
        }
    }

    /// Stands still no more for `asker`.
    pub(crate) fn thaw(&mut self, asker: DiskUuid) {
        self.frozen.remove(&asker);
    }

    /// What the entries that are not applied yet would change, committed or not.
    pub(crate) fn unapplied(&self) -> Result<BTreeMap<Bytes, Option<Bytes>>, Unreadable> {
        let log = &self.node.raft.raft_log;
        let applied = self.applied().index;
        let mut changes = BTreeMap::new();
        for entry in self.store.entries(applied + 1..log.last_index() + 1, usize::MAX) {
            for (key, value) in payload::decode(entry.data)?.iter() {
                changes.insert(key.clone(), value.cloned());
            }
        }
        Ok(changes)
    }
}

fn next_rows_id(last: &Cell<u64>) -> RowsId {
    last.set(last.get() + 1);
    RowsId(last.get())
}

/// Raft, started from what the store holds.
fn start_node(
    id: u64,
    store: &ReplicaStore,
    offer: &Rc<Offer>,
    options: &Options,
) -> Result<RawNode<Log>, &'static str> {
    let applied = store.index().flushed();
    let mut hard_state = store.hard_state();
    let last_term = store.term(store.last_index()).unwrap_or(0);
    if store.term(applied.index) != Some(applied.term) {
        return Err("log and rows do not fit together");
    }
    // What was applied was committed. The commit that was stored last may be older.
    hard_state.commit = hard_state.commit.max(applied.index).min(store.last_index());
    if hard_state.vote == JOINING_NOTE {
        hard_state.vote = 0;
    }
    if hard_state.term < last_term {
        hard_state = HardState { term: last_term, vote: 0, ..hard_state };
    }
    offer.applied.set(applied);
    let config = Config {
        id,
        election_tick: options.election_ticks_min,
        min_election_tick: options.election_ticks_min,
        max_election_tick: 2 * options.election_ticks_max - options.election_ticks_min,
        heartbeat_tick: options.heartbeat_ticks,
        applied: applied.index,
        max_size_per_msg: options.message_bytes_max,
        max_inflight_msgs: options.inflight_messages_max,
        check_quorum: true,
        pre_vote: true,
        // Followers learn of a commit with the next entries or heartbeat: nobody reads from them.
        skip_bcast_commit: true,
        batch_append: true,
        max_uncommitted_size: options.uncommitted_bytes_max,
        ..Config::default()
    };
    let log = Log { store: store.clone(), offer: offer.clone(), hard_state };
    if log.entries_known() {
        RawNode::new(&config, log, &slog::Logger::root(slog::Discard, slog::o!()))
            .map_err(|_| "the log cannot be started from")
    } else {
        Err("the log holds entries that this version does not know")
    }
}

impl Log {
    fn entries_known(&self) -> bool {
        let (first, last) = (self.store.first_index(), self.store.last_index());
        let entries = self.store.entries(first..last + 1, usize::MAX);
        entries.iter().all(|entry| crate::message::entry_type(entry.kind).is_some())
    }
}

/// Whoever asked may be gone.
fn answer<T>(to: oneshot::Sender<T>, value: T) {
    let _ = to.send(value);
}
