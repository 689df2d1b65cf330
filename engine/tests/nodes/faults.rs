//! Clients on all nodes, on the same few keys, while nodes crash, are killed, stand still, are cut off one way or both, answer late, or have
//! the wrong time. What the clients were answered must fit some order, key by key; and when all is well again, every node
//! reads and writes every key.

use crate::model::history::{Begun, Did, History, Version};
use crate::model::nodes::{Nodes, Plan};
use crate::model::{self, BUCKET, Content, complete, put, read, upload};
use buckets_engine::node::Contents;
use buckets_engine::object::api::{ListEntry, ListRequest, ObjectError, WriteCondition};
use buckets_engine::object::store::Store;
use buckets_env::Env;
use buckets_env::sim::{LinkOptions, SimRng, Simulation, sweep_and};
use buckets_ring::coding::Coding;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Seeds that found something. 12: what a write had to copy could not be read any more, which was told as a fault of the
/// client's body.
const FOUND: [u64; 1] = [12];
const KEYS: u64 = 4;
const CLIENTS_PER_NODE: usize = 2;
/// Operations of one client in one life of its node: the search for an order takes so many and no more.
const OPERATIONS: usize = 12;
const TROUBLES: usize = 10;
/// When all is well again, everything is answered within this.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(50);

#[test]
fn whatever_nodes_do_an_order_explains_the_answers() {
    sweep_and(0..24, &FOUND, |seed| {
        let simulation = Simulation::new(seed);
        let plan = plan(&mut simulation.rng());
        let nodes = Nodes::format(&simulation, plan);
        let world = Rc::new(World { nodes, history: RefCell::default(), next_version: Cell::new(2) });
        let operator = simulation.node("operator");
        let done = operator.run(0, async |env: Env| {
            world.begin(&simulation, &env).await;
            world.trouble(&simulation, &env).await;
            world.end(&simulation, &env).await;
        });
        done.unwrap();
        world.history.borrow().check();
        drop((world, operator));
        assert_eq!(simulation.end(), 0, "cores that ended hold themselves");
    });
}

fn plan(random: &mut SimRng) -> Plan {
    let (nodes, disks_per_node, k, m) =
        *random.pick(&[(3, 1, 2, 1), (3, 2, 4, 2), (3, 4, 4, 2), (4, 1, 2, 2), (5, 1, 3, 2), (3, 1, 1, 2)]);
    let cores = 1 + random.below(2) as usize;
    Plan { nodes, cores, disks_per_node, coding: Coding::new(k, m).unwrap() }
}

struct World {
    nodes: Nodes,
    history: RefCell<History>,
    next_version: Cell<u64>,
}

impl World {
    async fn begin(self: &Rc<Self>, simulation: &Simulation, env: &Env) {
        for node in 0..self.nodes.plan.nodes {
            self.nodes.start(node);
        }
        let store = self.nodes.store(env, 0, 0).await;
        store.create_bucket(BUCKET, "here").await.unwrap();
        for node in 0..self.nodes.plan.nodes {
            self.employ(simulation, node);
        }
    }

    /// Puts clients on a node.
    fn employ(self: &Rc<Self>, simulation: &Simulation, node: usize) {
        for number in 0..CLIENTS_PER_NODE {
            let core = number % self.nodes.plan.cores;
            let (world, random) = (self.clone(), simulation.rng());
            let env = self.nodes.nodes[node].env(core);
            env.clone().spawn(async move {
                let store = world.nodes.store(&env, node, core).await;
                Client { world, store, random }.work().await;
            });
        }
    }

    /// Does things to nodes and ways, and undoes most of them.
    async fn trouble(self: &Rc<Self>, simulation: &Simulation, env: &Env) {
        let mut random = simulation.rng();
        let count = self.nodes.plan.nodes;
        let mut down = vec![false; count];
        for _ in 0..TROUBLES {
            env.sleep(Duration::from_millis(random.within(50..3000))).await;
            let (node, other) = (random.below(count as u64) as usize, random.below(count as u64) as usize);
            let (one, two) = (&self.nodes.nodes[node], &self.nodes.nodes[other]);
            match random.below(15) {
                0..=3 => {
                    match random.one_in(2) {
                        true => self.nodes.crash(node),
                        false => self.nodes.kill(node),
                    }
                    down[node] = true;
                }
                4..=6 => self.come_back(simulation, &mut down),
                7 if node != other => simulation.cut(one, two),
                8 => {
                    let others: Vec<_> =
                        self.nodes.nodes.iter().filter(|other| other.name() != one.name()).collect();
                    simulation.partition(&[one], &others);
                }
                9 if node != other => {
                    let late = Duration::from_millis(5)..Duration::from_millis(random.within(6..800));
                    let lossy = random.below(3) as u32 * 500;
                    simulation.set_link(one, two, LinkOptions { delay: late, loss_per_million: lossy });
                }
                // One disk at a time is what every write that was acknowledged outlives.
                12 if self.nodes.are_whole() => {
                    let path = format!("/d{}", 1 + random.below(self.nodes.plan.disks_per_node as u64));
                    self.nodes.crash(node);
                    self.nodes.empty(node, &path, Contents::Lost).await;
                    down[node] = true;
                }
                13 => one.pause(Duration::from_millis(random.within(20..7000))),
                14 => one.suspend(Duration::from_millis(random.within(20..7000))),
                10 => one.jump_wall_clock(random.within(0..7_200_000) as i64 - 3_600_000),
                _ => simulation.heal_all(),
            }
        }
        simulation.heal_all();
        for one in &self.nodes.nodes {
            for two in self.nodes.nodes.iter().filter(|two| two.name() != one.name()) {
                let quick = Duration::from_micros(50)..Duration::from_micros(300);
                simulation.set_link(one, two, LinkOptions { delay: quick, loss_per_million: 0 });
            }
        }
        self.come_back(simulation, &mut down);
    }

    fn come_back(self: &Rc<Self>, simulation: &Simulation, down: &mut [bool]) {
        for (node, down) in down.iter_mut().enumerate() {
            if std::mem::take(down) {
                self.nodes.start(node);
                self.employ(simulation, node);
            }
        }
    }

    /// All is well: every node answers for every key, in the end with the same.
    async fn end(self: &Rc<Self>, simulation: &Simulation, env: &Env) {
        let well = env.now();
        let mut random = simulation.rng();
        let patient = |what: &str, error: &ObjectError| {
            let waited = env.now().since(well);
            assert!(waited < PATIENCE, "{what} after {waited:?} of peace: {error}");
        };
        for node in 0..self.nodes.plan.nodes {
            let Some(store) = env.timeout(PATIENCE, self.nodes.store(env, node, 0)).await else {
                let life = self.nodes.life(node);
                panic!("node {node} is not ready: {:?}", life.and_then(|life| life.why_not(0)));
            };
            for number in 0..KEYS {
                let key = key(number);
                loop {
                    let content = self.new_content(&mut random, false);
                    match self.put(&store, &key, content, WriteCondition::Always).await {
                        Ok(()) => break,
                        Err(error) => patient(&format!("{key} is not written by node {node}"), &error),
                    }
                    env.sleep(RETRY).await;
                }
            }
        }
        while !self.nodes.are_whole() {
            assert!(env.now().since(well) < 2 * PATIENCE, "a disk is still not whole");
            env.sleep(RETRY).await;
        }
        for node in 0..self.nodes.plan.nodes {
            let store = self.nodes.store(env, node, 0).await;
            for number in 0..KEYS {
                while let Err(error) = self.read(&store, &key(number)).await {
                    patient(&format!("{} is not read by node {node}", key(number)), &error);
                    env.sleep(RETRY).await;
                }
            }
            while let Err(error) = self.list(&store, 3).await {
                patient(&format!("node {node} does not list"), &error);
                env.sleep(RETRY).await;
            }
        }
    }

    fn new_content(&self, random: &mut SimRng, multipart: bool) -> Content {
        let seed = self.next_version.replace(self.next_version.get() + 1);
        let len = match random.below(16) {
            0 => 0,
            1..=5 => random.below(200),
            6..=10 => random.below(2 * model::INLINE_BYTES_MAX as u64),
            11..=14 => random.below(60_000),
            _ => random.below(600_000),
        };
        let content = Content { seed, len };
        self.history.borrow_mut().new_version(content, multipart);
        content
    }

    async fn put(
        &self,
        store: &Store,
        key: &str,
        content: Content,
        condition: WriteCondition,
    ) -> Result<(), ObjectError> {
        let did = Did::Put { version: content.seed, condition: condition.clone() };
        let begun = self.history.borrow_mut().begin(0, key, did);
        let outcome = put(store, key, content, condition).await;
        self.answered(&begun, &outcome);
        outcome
    }

    fn answered(&self, begun: &Begun, outcome: &Result<(), ObjectError>) {
        let mut history = self.history.borrow_mut();
        match outcome {
            Ok(()) => history.done(begun),
            Err(ObjectError::PreconditionFailed) => history.refused(begun, true),
            Err(ObjectError::NoSuchKey) => history.refused(begun, false),
            Err(error) if may_have_happened(error) => {}
            Err(ObjectError::Unavailable(_) | ObjectError::SlowDown) => history.nothing(begun),
            Err(error) => panic!("{error:?} to a write"),
        }
    }

    async fn read(&self, store: &Store, key: &str) -> Result<Option<Version>, ObjectError> {
        let began = self.history.borrow_mut().now();
        let version = read(store, key).await?.map(|found| {
            let content = Content { seed: found.seed, len: found.bytes.len() as u64 };
            assert!(content.bytes() == found.bytes, "{key}: wrong bytes of version {}", found.seed);
            found.seed
        });
        self.history.borrow_mut().saw(0, key, began, Did::Read(version), false);
        Ok(version)
    }

    /// Each page is a read of the keys that it covers.
    async fn list(&self, store: &Store, max_keys: usize) -> Result<(), ObjectError> {
        let mut after: Option<String> = None;
        loop {
            let began = self.history.borrow_mut().now();
            let request = ListRequest { after: after.clone(), max_keys, ..ListRequest::default() };
            let page = store.list(BUCKET, request).await?;
            let mut shown = BTreeMap::new();
            for entry in page.entries {
                let ListEntry::Object(object) = entry else { panic!("a prefix without a delimiter") };
                shown.insert(object.key, (object.etag, object.size));
            }
            let covered = |key: &String| {
                after.as_ref().is_none_or(|after| key > after)
                    && page.next.as_ref().is_none_or(|next| key <= next)
            };
            let mut history = self.history.borrow_mut();
            for key in (0..KEYS).map(key).filter(covered) {
                history.saw(0, &key, began, Did::Listed(shown.remove(&key)), false);
            }
            drop(history);
            assert!(shown.is_empty(), "keys that were never written: {shown:?}");
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

fn key(number: u64) -> String {
    format!("k{number}")
}

fn may_have_happened(error: &ObjectError) -> bool {
    matches!(error, ObjectError::Unavailable(what) if what == "the outcome is unknown")
}

/// Does one thing after the other. Ends with its node.
struct Client {
    world: Rc<World>,
    store: Store,
    random: SimRng,
}

impl Client {
    async fn work(mut self) {
        for _ in 0..OPERATIONS {
            let pause = match self.random.below(4) {
                0 => 0,
                1 => self.random.below(5_000),
                _ => self.random.below(1_500_000),
            };
            self.store.env().sleep(Duration::from_micros(pause)).await;
            let key = key(self.random.below(KEYS));
            self.one(&key).await;
        }
    }

    async fn one(&mut self, key: &str) {
        let world = self.world.clone();
        match self.random.below(16) {
            0..=4 => {
                let content = world.new_content(&mut self.random, false);
                let _ = world.put(&self.store, key, content, WriteCondition::Always).await;
            }
            5..=7 => {
                let Some(condition) = self.swap(key).await else { return };
                let content = world.new_content(&mut self.random, false);
                let _ = world.put(&self.store, key, content, condition).await;
            }
            8 => self.multipart(key).await,
            9..=10 => {
                let condition = match self.random.below(3) {
                    0 => self.swap(key).await.unwrap_or(WriteCondition::Always),
                    _ => WriteCondition::Always,
                };
                let did = Did::Delete { condition: condition.clone() };
                let begun = world.history.borrow_mut().begin(0, key, did);
                let outcome = self.store.delete(BUCKET, key, condition).await;
                world.answered(&begun, &outcome);
            }
            11 => drop(world.list(&self.store, 1 + self.random.below(5) as usize).await),
            _ => drop(world.read(&self.store, key).await),
        }
    }

    /// The condition that what is read now is still there, whatever it is.
    async fn swap(&self, key: &str) -> Option<WriteCondition> {
        let version = self.world.read(&self.store, key).await.ok()?;
        Some(match version.and_then(|version| self.world.history.borrow().etag(version)) {
            Some(etag) => WriteCondition::IfMatch(etag),
            None => WriteCondition::IfAbsent,
        })
    }

    async fn multipart(&mut self, key: &str) {
        let world = self.world.clone();
        let content = world.new_content(&mut self.random, true);
        let Ok((upload, parts)) = upload(&self.store, key, content).await else { return };
        let did = Did::Put { version: content.seed, condition: WriteCondition::Always };
        let begun = world.history.borrow_mut().begin(0, key, did);
        let outcome = complete(&self.store, key, upload, parts, WriteCondition::Always).await;
        world.answered(&begun, &outcome);
    }
}
