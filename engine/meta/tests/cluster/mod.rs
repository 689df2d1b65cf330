//! Nodes, cores, disks and a network that loses, delays and repeats; clients; and what must hold of what they saw.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by its panic")]

pub(crate) mod register;

use buckets_disk::{Disk, DiskOptions, FormatMode};
use buckets_env::sim::{SimNode, SimOptions, SimRng, Simulation};
use buckets_env::{Env, Instant};
use buckets_index::{BlockCache, IndexOptions, WriteBatch};
use buckets_meta::{
    AddReplicaError, GroupHost, GroupMessage, LeaderChange, Options, ProposeError, Role, RowsId, RowsState,
    Stage, Transport, View, VotersLive, bootstrap,
};
use buckets_ring::coding::Coding;
use buckets_ring::format::{BlockChecksum, FormatJson};
use buckets_ring::id::{DeploymentId, DiskUuid, GroupId};
use bytes::Bytes;
use futures::channel::oneshot;
use register::{Did, Op};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

pub(crate) type At = (usize, usize);

/// What clients saw of each key.
type History = Rc<RefCell<BTreeMap<(GroupId, u8), Vec<Op>>>>;

/// How the world is laid out.
#[derive(Clone)]
pub(crate) struct Layout {
    pub(crate) nodes: usize,
    pub(crate) cores: usize,
    pub(crate) disks_per_node: usize,
    pub(crate) groups: u32,
    pub(crate) options: Options,
    /// Disks with the limits of real ones; else small enough to reach every limit.
    pub(crate) large_disks: bool,
}

impl Layout {
    pub(crate) fn new(nodes: usize, cores: usize, disks_per_node: usize, groups: u32) -> Layout {
        Layout { nodes, cores, disks_per_node, groups, options: small_options(), large_disks: false }
    }
}

pub(crate) fn small_options() -> Options {
    Options {
        apply_slice_entries_max: 4,
        snapshot_page_bytes: 4 << 10,
        leader_return_after: Duration::from_secs(2),
        ..Options::default()
    }
}

pub(crate) struct Place {
    pub(crate) disk: DiskUuid,
    pub(crate) at: At,
    pub(crate) path: PathBuf,
}

/// The network: each message to another node may be lost, repeated and late; nodes may be cut off, one way.
pub(crate) struct Net {
    pub(crate) rng: RefCell<SimRng>,
    hosts: RefCell<BTreeMap<At, (Env, GroupHost)>>,
    home: BTreeMap<DiskUuid, At>,
    pub(crate) loss_per_million: Cell<u32>,
    pub(crate) late_per_million: Cell<u32>,
    pub(crate) blocked: RefCell<BTreeSet<(usize, usize)>>,
    /// Holds messages back that ask a voter to take over.
    pub(crate) hand_over_delay: Cell<Option<Duration>>,
    pub(crate) sent: Cell<u64>,
    /// Bytes of the longest message to another node.
    pub(crate) longest: Cell<usize>,
}

struct Wire {
    net: Rc<Net>,
    from: usize,
}

impl Transport for Wire {
    fn send(&self, message: GroupMessage) {
        let net = &self.net;
        net.sent.set(net.sent.get() + 1);
        let Some(to) = net.home.get(&message.to).copied() else { return };
        if to.0 == self.from {
            return Net::carry(net, to, message, 5_000..60_000);
        }
        let (lost, twice, late) = {
            let mut rng = net.rng.borrow_mut();
            let loss = net.loss_per_million.get();
            (rng.per_million(loss), rng.per_million(loss), rng.per_million(net.late_per_million.get()))
        };
        if lost || net.blocked.borrow().contains(&(self.from, to.0)) {
            return;
        }
        let encoded = message.encode();
        net.longest.set(net.longest.get().max(encoded.len()));
        let mut delay = if late { 100_000..3_000_000_000 } else { 50_000..500_000 };
        if let Some(held) = net.hand_over_delay.get()
            && format!("{:?}", message.body).contains("MsgTimeoutNow")
        {
            delay = held.as_nanos() as u64..held.as_nanos() as u64 + 1_000_000;
        }
        for _ in 0..1 + usize::from(twice) {
            let message = GroupMessage::decode(encoded.clone()).unwrap();
            Net::carry(net, to, message, delay.clone());
        }
    }
}

impl Net {
    fn carry(net: &Rc<Net>, to: At, message: GroupMessage, nanos: std::ops::Range<u64>) {
        let Some((env, _)) = net.hosts.borrow().get(&to).cloned() else { return };
        let nanos = net.rng.borrow_mut().within(nanos);
        let (net, clock) = (net.clone(), env.clone());
        env.spawn(async move {
            clock.sleep(Duration::from_nanos(nanos)).await;
            let host = net.hosts.borrow().get(&to).map(|(_, host)| host.clone());
            if let Some(host) = host {
                host.deliver(message);
            }
        });
    }
}

/// Changes that hosts have told of, by the rows they went into.
type Told = Rc<RefCell<BTreeMap<(At, RowsId), BTreeMap<Bytes, Option<Bytes>>>>>;

/// A deployment in the simulator.
pub(crate) struct Cluster {
    pub(crate) simulation: Simulation,
    pub(crate) layout: Layout,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) places: Vec<Rc<Place>>,
    pub(crate) net: Rc<Net>,
    pub(crate) rng: RefCell<SimRng>,
    leaders: Rc<RefCell<BTreeMap<(GroupId, u64), DiskUuid>>>,
    formatted: Rc<RefCell<BTreeSet<DiskUuid>>>,
    /// Disks that do not come back with their node.
    pub(crate) missing: RefCell<BTreeSet<DiskUuid>>,
    /// What hosts are told where they ask.
    pub(crate) emptied_is_noted: Rc<Cell<bool>>,
    pub(crate) disks: Rc<RefCell<BTreeMap<DiskUuid, Disk>>>,
    told: Told,
    history: History,
    next_value: Rc<Cell<u64>>,
    pub(crate) refused: Rc<Cell<u64>>,
}

fn disk_options(large: bool) -> DiskOptions {
    if large {
        let index = IndexOptions::new(BlockCache::new(8 << 20));
        return DiskOptions {
            space_file_bytes: 16 << 20,
            space_step_bytes: 1 << 20,
            ..DiskOptions::new(index)
        };
    }
    let index = IndexOptions {
        memtable_bytes_max: 16 << 10,
        block_bytes: 1 << 10,
        table_bytes_max: 64 << 10,
        level1_bytes: 128 << 10,
        ..IndexOptions::new(BlockCache::new(1 << 20))
    };
    DiskOptions {
        log_tail_entries_max: 8,
        log_tail_bytes_max: 8 << 10,
        log_held_bytes_max: 4 << 20,
        ..DiskOptions::small(index)
    }
}

fn format_json(disk: DiskUuid) -> FormatJson {
    let other = DiskUuid::from_random([0xee; 16]);
    FormatJson {
        deployment: DeploymentId::from_random([77; 16]),
        disk,
        sets: vec![vec![disk, other]],
        coding: Coding::new(1, 1).unwrap(),
        block_checksum: BlockChecksum::Xxh3,
    }
}

impl Cluster {
    pub(crate) fn new(seed: u64, layout: Layout) -> Cluster {
        Cluster::with_options(seed, layout, SimOptions::default())
    }

    pub(crate) fn with_options(seed: u64, layout: Layout, options: SimOptions) -> Cluster {
        let simulation = Simulation::with_options(seed, options);
        let nodes: Vec<_> = (0..layout.nodes).map(|node| simulation.node(&format!("node{node}"))).collect();
        let mut places = Vec::new();
        for number in 0..layout.disks_per_node {
            for (node, sim_node) in nodes.iter().enumerate() {
                let disk = DiskUuid::from_random([(node * 16 + number + 1) as u8; 16]);
                let path = PathBuf::from(format!("/disk{number}"));
                sim_node.disk(&path);
                let at = (node, number % layout.cores);
                places.push(Rc::new(Place { disk, at, path }));
            }
        }
        let net = Net {
            rng: RefCell::new(simulation.rng()),
            hosts: RefCell::default(),
            home: places.iter().map(|place| (place.disk, place.at)).collect(),
            loss_per_million: Cell::new(0),
            late_per_million: Cell::new(0),
            blocked: RefCell::default(),
            hand_over_delay: Cell::new(None),
            sent: Cell::new(0),
            longest: Cell::new(0),
        };
        let rng = RefCell::new(simulation.rng());
        let cluster = Cluster {
            simulation,
            layout,
            nodes,
            places,
            net: Rc::new(net),
            rng,
            leaders: Rc::default(),
            formatted: Rc::default(),
            missing: RefCell::default(),
            emptied_is_noted: Rc::new(Cell::new(true)),
            disks: Rc::default(),
            told: Rc::default(),
            history: Rc::default(),
            next_value: Rc::new(Cell::new(1)),
            refused: Rc::default(),
        };
        for node in 0..cluster.nodes.len() {
            cluster.start(node);
        }
        cluster
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=self.layout.groups).map(GroupId)
    }

    /// All disks, another one first for each group.
    pub(crate) fn preference(&self, group: GroupId) -> Vec<DiskUuid> {
        let mut disks: Vec<_> = self.places.iter().map(|place| place.disk).collect();
        let first = group.0 as usize % disks.len();
        disks.rotate_left(first);
        disks
    }

    fn voters_live(&self) -> VotersLive {
        if self.layout.nodes == 1 { VotersLive::InThisProcess } else { VotersLive::Elsewhere }
    }

    /// Starts (or restarts) all cores of a node. Ends when all its replicas were added, or it crashed.
    pub(crate) fn start(&self, node: usize) -> bool {
        let mut started = Vec::new();
        for core in 0..self.layout.cores {
            started.push(self.start_core((node, core)));
        }
        let all = async {
            let mut all = true;
            for done in started {
                all &= done.await.is_ok();
            }
            all
        };
        self.simulation.run_until(all)
    }

    fn start_core(&self, at: At) -> oneshot::Receiver<()> {
        let env = self.nodes[at.0].env(at.1);
        let wire = Rc::new(Wire { net: self.net.clone(), from: at.0 });
        let host = GroupHost::new(env.clone(), self.layout.options.clone(), wire);
        host.run();
        let leaders = self.leaders.clone();
        host.on_leader_change(move |change: LeaderChange| {
            if let Some(leader) = change.leader {
                let before = *leaders.borrow_mut().entry((change.group, change.term)).or_insert(leader);
                assert_eq!(before, leader, "{} has two leaders in term {}", change.group, change.term);
            }
        });
        let noted = self.emptied_is_noted.clone();
        host.vote_again_once(move |_| noted.get());
        self.told.borrow_mut().retain(|(of, _), _| *of != at);
        let told = self.told.clone();
        host.on_change(move |rows, batch| {
            let mut told = told.borrow_mut();
            let changes = batch.iter().map(|(key, value)| (key.clone(), value.cloned()));
            told.entry((at, rows)).or_default().extend(changes);
        });
        self.net.hosts.borrow_mut().insert(at, (env.clone(), host.clone()));
        let here = |place: &&Rc<Place>| place.at == at && !self.missing.borrow().contains(&place.disk);
        let places: Vec<_> = self.places.iter().filter(here).cloned().collect();
        let groups: Vec<_> = self.groups().map(|group| (group, self.preference(group))).collect();
        let formatted = self.formatted.clone();
        let large = self.layout.large_disks;
        let live = self.voters_live();
        let disks = self.disks.clone();
        let (done, wait) = oneshot::channel();
        let inside = env.clone();
        env.spawn(async move {
            for place in &places {
                let fresh = !formatted.borrow().contains(&place.disk);
                if fresh {
                    let format = format_json(place.disk);
                    let mode = FormatMode::Overwrite;
                    Disk::format(&inside, &place.path, &format, mode, &disk_options(large)).await.unwrap();
                }
                let opened = Disk::open(&inside, &place.path, disk_options(large)).await.unwrap();
                assert_eq!(opened.report.damaged_replicas, []);
                let disk = opened.disk;
                for (group, preference) in &groups {
                    let Ok(store) = disk.replica(*group).await else { continue };
                    if fresh {
                        bootstrap(&disk, &store, preference).await.unwrap();
                    }
                    match host.add_replica(&disk, store, preference, live) {
                        Ok(()) | Err(AddReplicaError::Disk { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                formatted.borrow_mut().insert(place.disk);
                disks.borrow_mut().insert(place.disk, disk);
            }
            let _ = done.send(());
        });
        wait
    }

    pub(crate) fn crash(&self, node: usize) {
        self.forget(node);
        self.nodes[node].crash();
    }

    /// What ends with a node.
    pub(crate) fn forget(&self, node: usize) {
        self.net.hosts.borrow_mut().retain(|at, _| at.0 != node);
        let here: Vec<_> = self.places.iter().filter(|place| place.at.0 == node).map(|p| p.disk).collect();
        self.disks.borrow_mut().retain(|disk, _| !here.contains(disk));
    }

    /// The disk of a node that is down is replaced by a new one under the same identity.
    pub(crate) fn empty(&self, disk: DiskUuid) {
        assert!(self.host_of(disk).is_none(), "a running node has the disk");
        self.formatted.borrow_mut().remove(&disk);
    }

    /// Every replica of every group is there and votes.
    pub(crate) fn all_vote(&self) -> bool {
        let hosts = self.hosts();
        let statuses = || hosts.iter().flat_map(|(_, _, host)| host.statuses());
        statuses().count() == self.layout.groups as usize * self.places.len()
            && statuses().all(|status| status.stage == Stage::Voting)
    }

    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.net.hosts.borrow().contains_key(&(node, 0))
    }

    pub(crate) fn host(&self, at: At) -> Option<(Env, GroupHost)> {
        self.net.hosts.borrow().get(&at).cloned()
    }

    pub(crate) fn host_of(&self, disk: DiskUuid) -> Option<(Env, GroupHost)> {
        self.host(*self.net.home.get(&disk)?)
    }

    pub(crate) fn hosts(&self) -> Vec<(At, Env, GroupHost)> {
        self.net.hosts.borrow().iter().map(|(at, (env, host))| (*at, env.clone(), host.clone())).collect()
    }

    pub(crate) fn run_for(&self, duration: Duration) {
        self.simulation.run_for(duration);
    }

    pub(crate) fn now(&self) -> Instant {
        self.simulation.now()
    }

    /// Runs until `done` or panics after `limit`.
    pub(crate) fn until(&self, limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
        let began = self.now();
        while !done() {
            if self.now().since(began) > limit {
                for (at, _, host) in self.hosts() {
                    for status in host.statuses() {
                        eprintln!("{at:?} {status:?}");
                    }
                }
                panic!("{what} did not come within {limit:?}");
            }
            self.run_for(Duration::from_millis(10));
        }
    }

    /// Where the group is led by a leader that may serve.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(Env, GroupHost)> {
        let hosts = self.net.hosts.borrow();
        let leading = hosts
            .values()
            .filter_map(|(env, host)| host.leader_term(group).map(|term| (term, env.clone(), host.clone())));
        leading.max_by_key(|(term, _, _)| *term).map(|(_, env, host)| (env, host))
    }

    /// Runs `work` as a task of the node behind `env`. `None`: the node crashed.
    pub(crate) fn within<T: 'static>(&self, env: &Env, work: impl Future<Output = T> + 'static) -> Option<T> {
        let (done, wait) = oneshot::channel();
        env.spawn(async move {
            let _ = done.send(work.await);
        });
        self.simulation.run_until(wait).ok()
    }

    /// A client that works on random keys until `stop`, and writes down what it saw.
    pub(crate) fn client(&self, keys: u8, stop: Rc<Cell<bool>>, pause: std::ops::Range<u64>) {
        let clock = self.simulation.node("clients").env(0);
        let seed = self.rng.borrow_mut().next_u64();
        let client = Client {
            clock: clock.clone(),
            net: self.net.clone(),
            rng: RefCell::new(SimRng::new(seed)),
            history: self.history.clone(),
            next_value: self.next_value.clone(),
            refused: self.refused.clone(),
            groups: self.groups().collect(),
            keys,
            outstanding: Cell::new(0),
        };
        clock.spawn(Rc::new(client).run(stop, pause));
    }

    /// Every key's history has an order that explains it.
    pub(crate) fn check_history(&self) {
        for ((group, key), ops) in self.history.borrow().iter() {
            register::check(&format!("{group} key {key}"), ops);
        }
    }

    /// Operations by outcome: answered writes, unknown writes, reads.
    pub(crate) fn tally(&self) -> (usize, usize, usize) {
        let history = self.history.borrow();
        let ops = || history.values().flatten();
        let is_read = |op: &&Op| matches!(op.did, Did::Read(_));
        (
            ops().filter(|op| !is_read(op) && op.ended.is_some()).count(),
            ops().filter(|op| op.ended.is_none()).count(),
            ops().filter(is_read).count(),
        )
    }

    /// Writes one value to a key; `None` where the outcome is not known.
    pub(crate) fn put(&self, group: GroupId, key: u8, value: u64) -> Option<bool> {
        let (env, host) = self.leader(group)?;
        let term = host.leader_term(group)?;
        let batch = row(key, value, 100);
        self.within(&env, async move { host.propose(group, term, &batch).await.is_ok() })
    }

    /// Waits until all replicas that are here have applied the same, and compares their rows.
    pub(crate) fn check_convergence(&self, limit: Duration) {
        for group in self.groups() {
            self.until(limit, &format!("convergence of {group}"), || {
                let statuses: Vec<_> =
                    self.hosts().iter().flat_map(|(_, _, host)| host.status(group)).collect();
                let leader = statuses.iter().find(|status| status.role == Role::Leader);
                leader.is_some_and(|leader| {
                    statuses.iter().all(|status| {
                        status.applied == leader.last
                            && status.term == leader.term
                            && status.rows == RowsState::Whole
                            && status.leader == leader.leader
                    })
                })
            });
            let mut contents: Vec<(DiskUuid, Vec<(Bytes, Bytes)>)> = Vec::new();
            for (at, env, host) in self.hosts() {
                for status in host.status(group) {
                    let view = host.replica_view(group, status.disk).unwrap();
                    let told = self.told.borrow().get(&(at, view.rows_id().unwrap())).cloned();
                    let rows = self.within(&env, async move { all_rows(&view).await }).unwrap();
                    // What was told of these rows since they are these is what they say.
                    for (key, value) in told.into_iter().flatten() {
                        let row = rows.binary_search_by(|(other, _)| other.cmp(&key)).ok();
                        assert!(
                            row.map(|row| &rows[row].1) == value.as_ref(),
                            "{group}: {} at {key:?}",
                            status.disk
                        );
                    }
                    contents.push((status.disk, rows));
                }
            }
            for pair in contents.windows(2) {
                assert_eq!(pair[0].1.len(), pair[1].1.len(), "{group}: {} and {}", pair[0].0, pair[1].0);
                assert!(pair[0].1 == pair[1].1, "{group}: {} and {} differ", pair[0].0, pair[1].0);
            }
        }
    }

    /// A read of every key through the leaders, written down.
    pub(crate) fn read_all(&self, keys: u8) {
        for group in self.groups() {
            for key in 0..keys {
                let began = self.now().0;
                self.until(Duration::from_secs(30), "a leader", || self.leader(group).is_some());
                let Some((env, host)) = self.leader(group) else { continue };
                let value = self.within(&env, async move {
                    let view = host.read_barrier(group).await.ok()?;
                    Some(value_of(view.get(&[key]).await.unwrap()))
                });
                if let Some(Some(value)) = value {
                    let op = Op { began, ended: Some((self.now().0, 0)), did: Did::Read(value) };
                    self.history.borrow_mut().entry((group, key)).or_default().push(op);
                }
            }
        }
    }

    pub(crate) fn values(&self) -> Rc<Cell<u64>> {
        self.next_value.clone()
    }

    pub(crate) fn note(&self, group: GroupId, key: u8, op: Op) {
        self.history.borrow_mut().entry((group, key)).or_default().push(op);
    }
}

pub(crate) async fn all_rows(view: &View) -> Vec<(Bytes, Bytes)> {
    let mut scan = view.scan(Bound::Unbounded, Bound::Unbounded);
    let mut rows = Vec::new();
    while let Some(row) = scan.next().await.unwrap() {
        rows.push(row);
    }
    rows
}

pub(crate) fn row(key: u8, value: u64, padding: usize) -> WriteBatch {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(8 + padding, key);
    let mut batch = WriteBatch::default();
    batch.put(Bytes::copy_from_slice(&[key]), Bytes::from(bytes));
    batch
}

pub(crate) fn value_of(row: Option<Bytes>) -> Option<u64> {
    row.map(|row| u64::from_le_bytes(row[..8].try_into().unwrap()))
}

/// Operations of one client under way at the same time: those that hang must not keep it from going on.
const OUTSTANDING_MAX: usize = 8;

struct Client {
    clock: Env,
    net: Rc<Net>,
    rng: RefCell<SimRng>,
    history: History,
    next_value: Rc<Cell<u64>>,
    refused: Rc<Cell<u64>>,
    groups: Vec<GroupId>,
    keys: u8,
    outstanding: Cell<usize>,
}

impl Client {
    async fn run(self: Rc<Client>, stop: Rc<Cell<bool>>, pause: std::ops::Range<u64>) {
        while !stop.get() {
            let pause = self.rng.borrow_mut().within(pause.clone());
            self.clock.sleep(Duration::from_micros(pause)).await;
            let group = *self.rng.borrow_mut().pick(&self.groups);
            let key = self.rng.borrow_mut().below(u64::from(self.keys)) as u8;
            // Whoever claims to lead, be it late.
            let claim: Vec<_> = {
                let hosts = self.net.hosts.borrow();
                hosts.values().filter(|(_, host)| host.leader_term(group).is_some()).cloned().collect()
            };
            if claim.is_empty() || self.outstanding.get() >= OUTSTANDING_MAX {
                self.refused.set(self.refused.get() + 1);
                continue;
            }
            let (env, host) = self.rng.borrow_mut().pick(&claim).clone();
            let what = self.rng.borrow_mut().below(5);
            self.outstanding.set(self.outstanding.get() + 1);
            let client = self.clone();
            self.clock.spawn(async move {
                match what {
                    0..2 => client.read(env, host, group, key).await,
                    2..4 => client.write(env, host, group, key).await,
                    _ => client.swap(env, host, group, key).await,
                }
                client.outstanding.set(client.outstanding.get() - 1);
            });
        }
    }

    fn note(&self, group: GroupId, key: u8, began: Instant, place: Option<u64>, did: Did) {
        let op = Op { began: began.0, ended: place.map(|place| (self.clock.now().0, place)), did };
        self.history.borrow_mut().entry((group, key)).or_default().push(op);
    }

    async fn read(&self, env: Env, host: GroupHost, group: GroupId, key: u8) {
        let began = self.clock.now();
        let (done, wait) = oneshot::channel();
        env.spawn(async move {
            let value = match host.read_barrier(group).await {
                Ok(view) => Some(value_of(view.get(&[key]).await.unwrap())),
                Err(_) => None,
            };
            let _ = done.send(value);
        });
        match wait.await {
            Ok(Some(value)) => self.note(group, key, began, Some(0), Did::Read(value)),
            _ => self.refused.set(self.refused.get() + 1),
        }
    }

    fn value(&self) -> u64 {
        self.next_value.set(self.next_value.get() + 1);
        self.next_value.get()
    }

    async fn write(&self, env: Env, host: GroupHost, group: GroupId, key: u8) {
        let Some(term) = host.leader_term(group) else { return };
        let value = self.value();
        let batch = row(key, value, self.rng.borrow_mut().below(1500) as usize);
        let began = self.clock.now();
        let (done, wait) = oneshot::channel();
        env.spawn(async move {
            let _ = done.send(host.propose(group, term, &batch).await);
        });
        let outcome = wait.await;
        self.note_write(group, key, began, outcome, Did::Write(value));
    }

    /// Reads under the leader's term and writes if nothing came between. Nobody holds a latch here: the decision is
    /// sound where nothing waits, and no wait lies between decision and proposal.
    async fn swap(&self, env: Env, host: GroupHost, group: GroupId, key: u8) {
        let value = self.value();
        let batch = row(key, value, self.rng.borrow_mut().below(1500) as usize);
        let began = self.clock.now();
        let (done, wait) = oneshot::channel();
        env.spawn(async move {
            let _ = done.send(
                async {
                    let applied = |host: &GroupHost, term: u64| {
                        let leading =
                            host.status(group).into_iter().find(|status| status.role == Role::Leader)?;
                        let idle = leading.proposals_waiting == 0 && leading.applied == leading.last;
                        (idle && leading.term == term).then_some(leading.applied)
                    };
                    let (term, view) = host.leader_view(group)?;
                    let position = applied(&host, term)?;
                    let before = value_of(view.get(&[key]).await.unwrap());
                    if applied(&host, term)? != position {
                        return None;
                    }
                    Some((before, host.propose(group, term, &batch).await))
                }
                .await,
            );
        });
        match wait.await {
            Ok(Some((old, outcome))) => {
                self.note_write(group, key, began, Ok(outcome), Did::Swap { old, new: value });
            }
            Ok(None) => {}
            // The node crashed: what it read is not known.
            Err(oneshot::Canceled) => self.note(group, key, began, None, Did::Write(value)),
        }
    }

    fn note_write(
        &self,
        group: GroupId,
        key: u8,
        began: Instant,
        outcome: Result<Result<buckets_index::Position, ProposeError>, oneshot::Canceled>,
        did: Did,
    ) {
        match outcome {
            Ok(Ok(position)) => self.note(group, key, began, Some(position.index), did),
            Ok(Err(ProposeError::Unknown)) | Err(oneshot::Canceled) => {
                self.note(group, key, began, None, did)
            }
            Ok(Err(_)) => self.refused.set(self.refused.get() + 1),
        }
    }
}
