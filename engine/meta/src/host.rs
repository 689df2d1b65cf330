//! One core's replicas: who drives them, what they are told, what is done for them.
//!
//! What must hold:
//! - One task drives all replicas of the core. It takes everything that waits for a replica (messages, proposals,
//!   flushes) before it lets Raft act once: that is what batches.
//! - Ticks come at least [`Options::tick`] apart by the clock; a core that was stalled does not catch up.
//! - A disk's replicas share one queue of flushes, in the order of the disk's log.
//! - Every queue has a limit. A message that does not fit is dropped: senders live with loss.

use crate::error::{AddReplicaError, ProposeError, ReadError};
use crate::event::Event;
use crate::limits::Options;
use crate::members::{BadMembers, Members};
use crate::message::{GroupBody, GroupMessage, RaftMessage};
use crate::payload;
use crate::replica::{Effects, Parts, Proposal, Read, ReadNow, Replica};
use crate::salvage::Salvages;
use crate::snapshot::Snapshots;
use crate::status::{GroupStatus, LeaderChange};
use crate::view::{RowsId, View};
use buckets_disk::{Disk, HardState, Lsn, ReplicaStore, Wal};
use buckets_env::{Env, Instant};
use buckets_index::{Position, WriteBatch};
use buckets_ring::id::{DiskUuid, GroupId};
use futures::channel::oneshot;
use raft::eraftpb::Message;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Carries messages to replicas on other cores and nodes.
pub trait Transport {
    /// Sends without waiting. May lose, delay, repeat and reorder.
    fn send(&self, message: GroupMessage);
}

/// Where the voters of a group live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VotersLive {
    /// All in the process that starts now: no older leader can be left, so that votes may be given at once.
    InThisProcess,
    /// Some in other processes: a voter that starts gives no vote until an older leader's lease must have ended.
    Elsewhere,
}

/// Drives all replicas on the disks of one core. Clones share it.
#[derive(Clone)]
pub struct GroupHost {
    pub(crate) core: Rc<Core>,
}

type Watcher = Rc<dyn Fn(LeaderChange)>;
/// Is told of each batch, with the rows it goes into.
pub(crate) type ChangeWatcher = Rc<dyn Fn(RowsId, &WriteBatch)>;

/// Whether it is known of a disk, also after a crash, that it was emptied.
pub(crate) type Noted = Rc<dyn Fn(DiskUuid) -> bool>;
/// Whether the replicas of a core shall lead nothing that another voter can lead.
pub(crate) type Draining = Rc<dyn Fn() -> bool>;

pub(crate) type SeatKey = (GroupId, DiskUuid);

/// One replica and what waits for it.
pub(crate) struct Seat {
    pub(crate) key: SeatKey,
    pub(crate) replica: RefCell<Replica>,
    inbox: RefCell<VecDeque<(DiskUuid, Message)>>,
    due: Cell<bool>,
    /// The host let it go.
    gone: Cell<bool>,
    /// The log is durable up to this ready.
    flushed: Cell<u64>,
    /// Someone waits for the index already.
    stalled: Cell<bool>,
}

/// The flushes of one disk that replicas wait for, in the order of its log.
struct Lane {
    waiting: RefCell<VecDeque<(Lsn, Rc<Seat>, u64)>>,
    more: Event,
    wal: Wal,
    closed: Cell<bool>,
}

pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) options: Rc<Options>,
    transport: Rc<dyn Transport>,
    pub(crate) seats: RefCell<BTreeMap<SeatKey, Rc<Seat>>>,
    due: RefCell<VecDeque<Rc<Seat>>>,
    work: Event,
    joined: Event,
    lanes: RefCell<BTreeMap<DiskUuid, Rc<Lane>>>,
    watchers: RefCell<Vec<Watcher>>,
    change_watcher: RefCell<Option<ChangeWatcher>>,
    noted: RefCell<Noted>,
    draining: RefCell<Draining>,
    rows_ids: Rc<Cell<u64>>,
    left: RefCell<BTreeSet<SeatKey>>,
    hand_over_gate: Rc<Cell<Instant>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) salvages: Salvages,
}

/// Gives a new replica its group's members: at format time, the same on every voter, before the replica is added
/// for the first time. On a disk that was emptied too: the replica finds out that its group has a history, and joins it.
pub async fn bootstrap(
    disk: &Disk,
    store: &ReplicaStore,
    voters: &[DiskUuid],
) -> Result<(), AddReplicaError> {
    let (group, wal, disk) = (store.group(), disk.wal(), disk.uuid());
    let of_members = |source: BadMembers| AddReplicaError::Members { group, disk, source };
    let members = Members::of_voters(voters).map_err(of_members)?;
    if !members.contains(disk) {
        return Err(of_members(BadMembers { what: "the disk is not a voter" }));
    }
    if !store.conf().is_empty() {
        return Err(AddReplicaError::Present { group, disk });
    }
    let of_disk = |source| AddReplicaError::Disk { group, disk, source };
    let lsn = store.append(&[], Some(HardState::default()), Some(members.encode())).map_err(of_disk)?;
    wal.durable(lsn).await.map_err(of_disk)
}

impl GroupHost {
    /// A host without replicas. Call [`GroupHost::run`] once.
    pub fn new(env: Env, options: Options, transport: Rc<dyn Transport>) -> GroupHost {
        options.check();
        let now = env.now();
        GroupHost {
            core: Rc::new(Core {
                env,
                options: Rc::new(options),
                transport,
                seats: RefCell::default(),
                due: RefCell::default(),
                work: Event::default(),
                joined: Event::default(),
                lanes: RefCell::default(),
                watchers: RefCell::default(),
                change_watcher: RefCell::default(),
                noted: RefCell::new(Rc::new(|_| true)),
                draining: RefCell::new(Rc::new(|| false)),
                rows_ids: Rc::default(),
                left: RefCell::default(),
                hand_over_gate: Rc::new(Cell::new(now)),
                snapshots: Snapshots::default(),
                salvages: Salvages::default(),
            }),
        }
    }

    /// Starts the tasks that drive the replicas. They end with the core.
    pub fn run(&self) {
        let env = &self.core.env;
        env.spawn(Core::drive_all(self.core.clone()));
        env.spawn(Core::tick_all(self.core.clone()));
        env.spawn(Core::start_all(self.core.clone()));
    }

    /// Takes over a replica that [`bootstrap`] initialised. `preference` names the voters, the one that should lead
    /// first; it must be the same for all voters.
    pub fn add_replica(
        &self,
        disk: &Disk,
        store: ReplicaStore,
        preference: &[DiskUuid],
        voters_live: VotersLive,
    ) -> Result<(), AddReplicaError> {
        let core = &self.core;
        let (group, wal, disk) = (store.group(), disk.wal().clone(), disk.uuid());
        let key = (group, disk);
        if core.seats.borrow().contains_key(&key) {
            return Err(AddReplicaError::Present { group, disk });
        }
        if store.damaged() {
            return Err(AddReplicaError::Damaged { group, disk });
        }
        if store.conf().is_empty() {
            return Err(AddReplicaError::Uninitialised { group, disk });
        }
        let of_members = |source: BadMembers| AddReplicaError::Members { group, disk, source };
        let members = Members::decode(&store.conf()).map_err(of_members)?;
        if !members.contains(disk) {
            return Err(of_members(BadMembers { what: "the disk is not a member" }));
        }
        // A replica that comes back within one process has forgotten a promise that a leader may count on.
        let held = voters_live == VotersLive::Elsewhere || core.left.borrow().contains(&key);
        let parts = Parts {
            group,
            disk,
            store,
            members,
            preference: preference.to_vec(),
            options: core.options.clone(),
            held,
            seed: core.env.random_u64(),
            hand_over_gate: core.hand_over_gate.clone(),
            draining: core.draining.borrow().clone(),
            noted: core.noted.borrow().clone(),
            change_watcher: core.change_watcher.borrow().clone(),
            rows_ids: core.rows_ids.clone(),
        };
        let replica = Replica::new(parts, core.env.now()).map_err(|what| AddReplicaError::Unreadable {
            group,
            disk,
            what,
        })?;
        let seat = Rc::new(Seat {
            key,
            replica: RefCell::new(replica),
            inbox: RefCell::default(),
            due: Cell::new(false),
            gone: Cell::new(false),
            flushed: Cell::new(0),
            stalled: Cell::new(false),
        });
        core.seats.borrow_mut().insert(key, seat.clone());
        core.open_lane(disk, wal);
        seat.replica.borrow_mut().campaign_at_start(core.env.now());
        core.mark_due(&seat);
        core.joined.happen();
        Ok(())
    }

    /// A message for a replica of this core has come.
    pub fn deliver(&self, message: GroupMessage) {
        self.core.deliver(message);
    }

    /// Writes `batch` through the group's leader, which must be on this core and in `term`. Ends after the entry was
    /// committed and applied here.
    pub async fn propose(
        &self,
        group: GroupId,
        term: u64,
        batch: &WriteBatch,
    ) -> Result<Position, ProposeError> {
        let core = &self.core;
        let payload = payload::encode(batch).map_err(|_| ProposeError::TooLarge)?;
        let seat =
            core.leading_seat(group).ok_or_else(|| ProposeError::NotLeader { leader: self.leader(group) })?;
        let (answer, outcome) = oneshot::channel();
        let deadline = core.env.now().after(core.options.propose_timeout);
        seat.replica.borrow_mut().propose(Proposal { payload, term, deadline, answer });
        core.mark_due(&seat);
        // A replica that is let go answers before it goes.
        outcome.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// The term of the group's leader, where that is on this core and has applied everything that was committed
    /// before its term.
    pub fn leader_term(&self, group: GroupId) -> Option<u64> {
        self.core.leading_seat(group)?.replica.borrow().leader_term()
    }

    /// The rows that the group's leader has applied, and its term: for decisions that end in
    /// [`GroupHost::propose`] with that term. Not for answers to readers.
    pub fn leader_view(&self, group: GroupId) -> Option<(u64, View)> {
        let seat = self.core.leading_seat(group)?;
        let replica = seat.replica.borrow();
        Some((replica.leader_term()?, replica.view()))
    }

    /// The rows of one replica of this core, whatever its part: for checks, not for answers.
    pub fn replica_view(&self, group: GroupId, disk: DiskUuid) -> Option<View> {
        let seat = self.core.seat((group, disk))?;
        let view = seat.replica.borrow().view();
        Some(view)
    }

    /// The group's leader, as far as the replicas of this core know.
    pub fn leader(&self, group: GroupId) -> Option<DiskUuid> {
        self.core.newest(group, |replica| replica.leader())
    }

    /// Rows to read from: they hold everything that was acknowledged before this call. Answered without a message
    /// while the leader's lease lasts.
    pub async fn read_barrier(&self, group: GroupId) -> Result<View, ReadError> {
        let core = &self.core;
        let not_leader = || ReadError::NotLeader { leader: self.leader(group) };
        let seat = core.leading_seat(group).ok_or_else(not_leader)?;
        let answered = {
            let mut replica = seat.replica.borrow_mut();
            // The clock is read for this very decision.
            let now = core.env.now();
            match replica.read(now) {
                ReadNow::Granted => {
                    if replica.wants_round() {
                        core.mark_due(&seat);
                    }
                    return Ok(replica.view());
                }
                ReadNow::NotLeader => return Err(not_leader()),
                ReadNow::Ask => {
                    let (answer, answered) = oneshot::channel();
                    replica.queue_read(Read { deadline: now.after(core.options.read_timeout), answer });
                    answered
                }
            }
        };
        core.mark_due(&seat);
        answered.await.unwrap_or_else(|_| Err(not_leader()))?;
        let view = seat.replica.borrow().view();
        Ok(view)
    }

    /// What the replicas of one group on this core know.
    pub fn status(&self, group: GroupId) -> Vec<GroupStatus> {
        self.core.seats_of(group).iter().map(|seat| seat.replica.borrow().status()).collect()
    }

    /// What all replicas of this core know.
    pub fn statuses(&self) -> Vec<GroupStatus> {
        self.core.seats.borrow().values().map(|seat| seat.replica.borrow().status()).collect()
    }

    /// Asks the group's leader, where it is on this core, to hand over to `to`. False where nothing was begun. For tests, which
    /// choose the heir: a node that shall lead nothing finds one by itself ([`GroupHost::drain_while`]).
    pub fn transfer_leadership(&self, group: GroupId, to: DiskUuid) -> bool {
        let Some(seat) = self.core.leading_seat(group) else { return false };
        let begun = seat.replica.borrow_mut().hand_over(to, self.core.env.now());
        self.core.mark_due(&seat);
        begun
    }

    /// The disk is out of service: its replicas leave at once, leaders among them hand over.
    pub fn stop_disk(&self, disk: DiskUuid) {
        self.core.stop_disk(disk);
    }

    /// Calls `watcher` for every change of a leader or term that a replica of this core notices, and now for each
    /// leader that is known. Different replicas may notice the same change. `watcher` must not call the host.
    pub fn on_leader_change(&self, watcher: impl Fn(LeaderChange) + 'static) {
        for status in self.statuses() {
            if status.leader.is_some() {
                watcher(LeaderChange { group: status.group, term: status.term, leader: status.leader });
            }
        }
        self.core.watchers.borrow_mut().push(Rc::new(watcher));
    }

    /// Calls `watcher` for every batch that a replica of this core applies, before anybody can read the change. For
    /// replicas that are added later; `watcher` must not call the host.
    pub fn on_change(&self, watcher: impl Fn(RowsId, &WriteBatch) + 'static) {
        assert!(self.core.seats.borrow().is_empty(), "replicas that are there would not tell");
        self.core.change_watcher.replace(Some(Rc::new(watcher)));
    }

    /// A replica that finds out that it was emptied joins its group again, and stays [`Stage::Joining`](crate::Stage::Joining) until
    /// `noted` says of its disk that this is known of it, whatever crashes. For replicas that are added later; `noted` must
    /// not call the host.
    pub fn vote_again_once(&self, noted: impl Fn(DiskUuid) -> bool + 'static) {
        assert!(self.core.seats.borrow().is_empty(), "replicas that are there would not ask");
        self.core.noted.replace(Rc::new(noted));
    }

    /// While `draining` is true the replicas of this core hand over whatever they lead, as soon as another voter can take it,
    /// and nobody hands over to them. They vote, and stand for election after all others. For replicas that are added
    /// later; `draining` is asked at every tick.
    pub fn drain_while(&self, draining: impl Fn() -> bool + 'static) {
        assert!(self.core.seats.borrow().is_empty(), "replicas that are there would not ask");
        self.core.draining.replace(Rc::new(draining));
    }

    /// Rows of this replica turned out to be damaged: another voter is made the leader, and the rows are fetched
    /// from it. The replica goes on voting: its log is good.
    pub fn index_damaged(&self, group: GroupId, disk: DiskUuid) {
        if let Some(seat) = self.core.seat((group, disk)) {
            seat.replica.borrow_mut().rows_damaged(self.core.env.now());
        }
    }
}

impl Seat {
    /// The host let it go.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

impl Core {
    pub(crate) fn seat(&self, key: SeatKey) -> Option<Rc<Seat>> {
        self.seats.borrow().get(&key).cloned()
    }

    pub(crate) fn seats_of(&self, group: GroupId) -> Vec<Rc<Seat>> {
        let first = DiskUuid::from_bytes([0; 16]);
        let last = DiskUuid::from_bytes([0xff; 16]);
        self.seats.borrow().range((group, first)..=(group, last)).map(|(_, seat)| seat.clone()).collect()
    }

    fn leading_seat(&self, group: GroupId) -> Option<Rc<Seat>> {
        let first = DiskUuid::from_bytes([0; 16]);
        let last = DiskUuid::from_bytes([0xff; 16]);
        let seats = self.seats.borrow();
        let leading = seats.range((group, first)..=(group, last)).map(|(_, seat)| seat);
        leading
            .filter(|seat| seat.replica.borrow().leads())
            .max_by_key(|seat| seat.replica.borrow().term())
            .cloned()
    }

    /// What the replica with the newest term says.
    fn newest<T>(&self, group: GroupId, of: impl Fn(&Replica) -> Option<T>) -> Option<T> {
        let seats = self.seats_of(group);
        let newest = seats.iter().max_by_key(|seat| {
            let replica = seat.replica.borrow();
            (replica.term(), replica.leader().is_some())
        })?;
        of(&newest.replica.borrow())
    }

    pub(crate) fn mark_due(&self, seat: &Rc<Seat>) {
        if !seat.due.replace(true) {
            self.due.borrow_mut().push_back(seat.clone());
            self.work.happen();
        }
    }

    /// To a replica of this core directly, to all others through the transport.
    pub(crate) fn send(self: &Rc<Core>, message: GroupMessage) {
        if self.seats.borrow().contains_key(&(message.group, message.to)) {
            self.deliver(message);
        } else {
            self.transport.send(message);
        }
    }

    fn deliver(self: &Rc<Core>, message: GroupMessage) {
        let GroupMessage { group, from, to, body } = message;
        let Some(seat) = self.seat((group, to)) else { return };
        match body {
            GroupBody::Raft(RaftMessage(message)) => {
                let mut inbox = seat.inbox.borrow_mut();
                if inbox.len() < self.options.inbox_messages_max {
                    inbox.push_back((from, *message));
                }
                drop(inbox);
                self.mark_due(&seat);
            }
            GroupBody::LogPositionRequest { round, freeze } => {
                if !seat.replica.borrow().has_a_position() {
                    return;
                }
                let position = seat.replica.borrow_mut().log_position(from, round, freeze, self.env.now());
                let body = GroupBody::LogPosition(position);
                self.send(GroupMessage { group, from: to, to: from, body });
            }
            GroupBody::LogPosition(position) => {
                if !self.salvages.answered(from, position) {
                    seat.replica.borrow_mut().heir_answers(from, position, self.env.now());
                    self.mark_due(&seat);
                }
            }
            GroupBody::Thaw => seat.replica.borrow_mut().thaw(from),
            GroupBody::StandingRequest { round } => {
                let body = GroupBody::Standing(seat.replica.borrow().standing(round));
                self.send(GroupMessage { group, from: to, to: from, body });
            }
            GroupBody::Standing(standing) => {
                seat.replica.borrow_mut().heard_standing(from, standing, self.env.now());
                self.mark_due(&seat);
            }
            GroupBody::SnapshotRequest(request) => self.serve_page(&seat, from, request),
            GroupBody::SnapshotPage(page) => self.snapshots.arrived(page.session, Some(page)),
            GroupBody::SnapshotRefused { session } => self.snapshots.arrived(session, None),
        }
    }

    async fn drive_all(self: Rc<Core>) {
        loop {
            let seen = self.work.seen();
            while let Some(seat) = self.next_due() {
                self.drive(&seat);
                self.env.yield_if_needed().await;
            }
            self.work.after(seen).await;
        }
    }

    fn next_due(&self) -> Option<Rc<Seat>> {
        self.due.borrow_mut().pop_front()
    }

    /// Lets one replica act on everything that waits for it.
    fn drive(self: &Rc<Core>, seat: &Rc<Seat>) {
        seat.due.set(false);
        if seat.gone.get() {
            return;
        }
        // Read before anything is taken: what arrives later cannot have been sent before this moment.
        let now = self.env.now();
        let effects = {
            let mut replica = seat.replica.borrow_mut();
            let inbox = std::mem::take(&mut *seat.inbox.borrow_mut());
            for (from, message) in inbox {
                replica.step(from, message, now);
            }
            replica.flushed(seat.flushed.get());
            replica.advance(now)
        };
        self.perform(seat, effects);
    }

    fn perform(self: &Rc<Core>, seat: &Rc<Seat>, effects: Effects) {
        for message in effects.messages {
            self.send(message);
        }
        if !effects.flushes.is_empty()
            && let Some(lane) = self.lanes.borrow().get(&seat.key.1)
        {
            let flushes = effects.flushes.into_iter().map(|(lsn, number)| (lsn, seat.clone(), number));
            lane.waiting.borrow_mut().extend(flushes);
            lane.more.happen();
        }
        if let Some(change) = effects.leader_change {
            let watchers = self.watchers.borrow().clone();
            for watcher in watchers {
                watcher(change);
            }
        }
        if let Some(lsn) = effects.founding {
            self.env.spawn(Core::note_founding(self.clone(), seat.clone(), lsn));
        }
        if effects.admitted {
            self.joined.happen();
        }
        if effects.again {
            self.mark_due(seat);
        }
        if effects.stalled && !seat.stalled.replace(true) {
            self.env.spawn(Core::wait_for_index(self.clone(), seat.clone()));
        }
        if effects.fenced {
            self.stop_disk(seat.key.1);
        } else if let Some(why) = effects.failed {
            let (group, disk) = seat.key;
            tracing::error!(%group, %disk, why, "a replica leaves its group");
            self.remove(seat);
        }
    }

    async fn note_founding(self: Rc<Core>, seat: Rc<Seat>, lsn: Lsn) {
        let wal = self.lanes.borrow().get(&seat.key.1).map(|lane| lane.wal.clone());
        if let Some(wal) = wal
            && wal.durable(lsn).await.is_ok()
        {
            seat.replica.borrow_mut().founding(self.env.now());
            self.mark_due(&seat);
        }
    }

    async fn wait_for_index(self: Rc<Core>, seat: Rc<Seat>) {
        let index = seat.replica.borrow().index().clone();
        if let Err(error) = index.back_pressure().await {
            let mut replica = seat.replica.borrow_mut();
            if error.is_corrupt() {
                replica.rows_stuck(self.env.now());
            } else {
                replica.fail("the index takes no more writes");
            }
        }
        seat.stalled.set(false);
        self.mark_due(&seat);
    }

    async fn tick_all(self: Rc<Core>) {
        let mut last = self.env.now();
        loop {
            self.env.sleep(self.options.tick).await;
            let early = self.options.tick.saturating_sub(self.env.now().since(last));
            if !early.is_zero() {
                self.env.sleep(early).await;
                continue;
            }
            last = self.env.now();
            let seats: Vec<_> = self.seats.borrow().values().cloned().collect();
            for seat in seats {
                seat.replica.borrow_mut().tick(self.env.now());
                self.mark_due(&seat);
                self.consider_fetch(&seat);
                self.env.yield_if_needed().await;
            }
            self.snapshots.expire(self.env.now(), &self.options);
        }
    }

    /// Lets replicas that just started ask for votes without waiting for an election timeout.
    async fn start_all(self: Rc<Core>) {
        loop {
            let joined = self.joined.seen();
            loop {
                let now = self.env.now();
                let seats: Vec<_> = self.seats.borrow().values().cloned().collect();
                let mut starting = false;
                for seat in seats {
                    let mut replica = seat.replica.borrow_mut();
                    if replica.starting(now) {
                        starting = true;
                        replica.campaign_at_start(now);
                        drop(replica);
                        self.mark_due(&seat);
                    }
                }
                if !starting {
                    break;
                }
                self.env.sleep(self.options.start_campaign_every).await;
            }
            self.joined.after(joined).await;
        }
    }

    fn open_lane(self: &Rc<Core>, disk: DiskUuid, wal: Wal) {
        let mut lanes = self.lanes.borrow_mut();
        if lanes.contains_key(&disk) {
            return;
        }
        let lane = Rc::new(Lane {
            waiting: RefCell::default(),
            more: Event::default(),
            wal,
            closed: Cell::new(false),
        });
        lanes.insert(disk, lane.clone());
        self.env.spawn(Core::follow_flushes(self.clone(), disk, lane));
    }

    async fn follow_flushes(self: Rc<Core>, disk: DiskUuid, lane: Rc<Lane>) {
        loop {
            let seen = lane.more.seen();
            let first = lane.waiting.borrow().front().map(|(lsn, _, _)| *lsn);
            if lane.closed.get() {
                return;
            }
            let Some(lsn) = first else {
                lane.more.after(seen).await;
                continue;
            };
            if let Err(error) = lane.wal.durable(lsn).await {
                tracing::error!(%disk, %error, "the replicas of a disk leave their groups");
                self.stop_disk(disk);
                return;
            }
            let durable = lane.wal.durable_lsn();
            let mut waiting = lane.waiting.borrow_mut();
            while waiting.front().is_some_and(|(lsn, _, _)| *lsn <= durable) {
                let Some((_, seat, number)) = waiting.pop_front() else { break };
                seat.flushed.set(number);
                self.mark_due(&seat);
            }
        }
    }

    fn stop_disk(self: &Rc<Core>, disk: DiskUuid) {
        let seats: Vec<_> = self.seats.borrow().values().filter(|seat| seat.key.1 == disk).cloned().collect();
        for seat in seats {
            self.remove(&seat);
        }
        if let Some(lane) = self.lanes.borrow_mut().remove(&disk) {
            lane.waiting.borrow_mut().clear();
            lane.closed.set(true);
            lane.more.happen();
        }
    }

    fn remove(self: &Rc<Core>, seat: &Rc<Seat>) {
        seat.gone.set(true);
        self.seats.borrow_mut().remove(&seat.key);
        self.left.borrow_mut().insert(seat.key);
        let farewell = seat.replica.borrow_mut().resign();
        for message in farewell {
            self.send(message);
        }
    }
}
