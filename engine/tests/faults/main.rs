//! One node under every fault there is, up to what it tolerates, with many clients on the same keys.
//!
//! A seed draws a plan ([`plan`]): the node, its clients, and faults on different disks at different moments. The clients
//! write down what they were answered (`history`); in the end there must be an order that explains it, key by key.
//!
//! What must hold:
//! - Within the tolerance every read and every listing is answered, after some time, with the right bytes.
//! - An acknowledged write is not lost, and what was refused has not happened. Any write may be refused.
//! - Once nothing is wrong any more (but damage that stays), writes are taken again.
//!
//! What counts against the tolerance ([`trouble`]): a disk that is not in service or that a fault is at work on, for as long
//! as it takes until it is surely well again; for ever, one whose content was damaged; and for an object, every disk
//! that was in trouble while it was written, because its chunk may be missing there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../model/mod.rs"]
mod model;
mod plan;
mod trouble;

use buckets_engine::map::DiskState;
use buckets_engine::object::api::{ListEntry, ListRequest, ObjectError, WriteCondition};
use buckets_engine::object::store::Store;
use buckets_env::sim::{SimNode, SimRng, Simulation, sweep_plans};
use futures::future::{Either, join_all, select};
use model::history::{Begun, Did, History, Version};
use model::{BUCKET, Cluster, Content, complete, put, read, upload};
use plan::{Run, What};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use trouble::Trouble;

/// Within the tolerance a read is answered after so long, however often it is refused before.
const READ_PATIENCE: Duration = Duration::from_secs(90);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);
/// What failed once.
const FOUND: &[(u64, &str)] = &[
    // A disk whose directory went away could not add to its log, for ever, and a write waited for it.
    (
        1110,
        "cores 1 code 1+2 partitions 1 clients 15 operations 8 keys 4 lives 3; 0 0 disk2 write-error 42 875200; \
         0 600429 disk2 misdirected-write 49 543717; 2 70782 disk2 wipe 0 274282; 1 452902 disk0 write-error 0 11; \
         1 899 disk1 read-errors 104000 0",
    ),
    // A disk that was away for a moment while its log was read was damaged from then on.
    (
        1300,
        "cores 1 code 3+3 partitions 2 clients 1 operations 1 keys 1 lives 3; 2 1 disk3 wipe 0 10; \
         1 1780 disk1 remove 0 0; 1 346 disk0 wipe 0 40438",
    ),
];

#[test]
fn every_fault_within_the_tolerance_leaves_all_that_was_promised() {
    // test.sh takes more.
    sweep_plans(0..20, FOUND, |seed, run: &Run| World::new(seed, run).run());
}

/// A run under way.
struct World<'a> {
    simulation: Simulation,
    node: SimNode,
    run: &'a Run,
    history: Rc<RefCell<History>>,
    trouble: Rc<Trouble>,
    keys: Vec<String>,
    next_version: Cell<Version>,
    life: Cell<u32>,
}

impl<'a> World<'a> {
    fn new(seed: u64, run: &'a Run) -> World<'a> {
        let simulation = Simulation::new(seed);
        let node = simulation.node("a");
        model::format(&simulation, &node, run.layout);
        let shared = (0..run.keys).map(|key| format!("shared/{key}"));
        let own = (0..run.clients).map(|client| format!("own/{client}"));
        World {
            trouble: Rc::new(Trouble::new(&node, run.layout.coding)),
            keys: shared.chain(own).collect(),
            simulation,
            node,
            run,
            history: Rc::default(),
            next_version: Cell::new(1),
            life: Cell::new(0),
        }
    }

    fn run(&self) {
        let cluster = self.start();
        let began = cluster.run(0, async |store| {
            // Every disk has to be there when its groups begin.
            while cluster.map.disks.iter().any(|disk| disk.state() != DiskState::InService) {
                store.env().sleep(RETRY).await;
            }
            store.create_bucket(BUCKET, "").await.unwrap();
            // Until every voter has it: nothing is known yet of what the faults to come may take.
            store.env().sleep(Duration::from_secs(1)).await;
        });
        began.unwrap();
        self.node.crash();
        for life in 0..self.run.lives {
            self.one_life(life);
        }
        self.trouble.end_all();
        let cluster = self.start();
        let last = cluster.run(0, async |_| {
            let stores = cluster.all_stores().await;
            self.look_at_all(&stores).await;
            self.write_all(&stores).await;
            self.look_at_all(&stores).await;
        });
        assert!(last.is_ok(), "nothing crashes the node any more");
        self.history.borrow().check();
    }

    fn start(&self) -> Cluster {
        self.life.set(self.life.get() + 1);
        let cluster = model::start(&self.node, self.run.layout);
        self.trouble.new_life(&cluster.map);
        cluster
    }

    /// A life of the node with clients, up to its crash.
    fn one_life(&self, life: u64) {
        let mut random = self.simulation.rng();
        let events: Vec<_> = self.run.events.iter().filter(|event| event.life == life).copied().collect();
        let cluster = self.start();
        for event in &events {
            if let What::Crash(io) = event.what {
                self.node.crash_at_io(io);
            }
        }
        let ended = self.node.run(0, |env| {
            let seeds: Vec<u64> = (0..self.run.clients).map(|_| random.next_u64()).collect();
            let (cluster, events) = (&cluster, &events);
            async move {
                let faults = join_all(events.iter().map(|event| self.trouble.at_work(&env, *event)));
                let left_over = self.trouble.left_over(&env);
                let work = async {
                    let stores = cluster.all_stores().await;
                    let clients = seeds.iter().enumerate().map(|(number, seed)| {
                        let store = stores[number % stores.len()].clone();
                        Client { world: self, store, number, random: SimRng::new(*seed) }.work()
                    });
                    join_all(clients).await;
                    self.look_at_all(&stores).await;
                };
                let faults = async {
                    futures::join!(faults, left_over);
                    std::future::pending::<()>().await;
                };
                match select(pin!(work), pin!(faults)).await {
                    Either::Left(_) => {}
                    Either::Right(_) => unreachable!("faults do not end"),
                }
            }
        });
        self.node.cancel_crash();
        if ended.is_ok() {
            self.node.crash();
        }
    }

    fn new_content(&self, random: &mut SimRng, multipart: bool) -> Content {
        let seed = self.next_version.replace(self.next_version.get() + 1);
        let len = match random.below(384) {
            0..=23 => 0,
            24..=119 => random.below(200),
            120..=239 => random.below(2 * model::INLINE_BYTES_MAX as u64),
            240..=369 => random.below(60_000),
            370..=382 => random.below(400_000),
            // Several stripes.
            _ => random.below(3_000_000),
        };
        let content = Content { seed, len };
        self.history.borrow_mut().new_version(content, multipart);
        content
    }

    /// Reads a key until it is answered. What is read is compared with what was written.
    async fn surely_read(&self, store: &Store, key: &str) -> Option<Version> {
        let env = store.env();
        let start = env.now();
        loop {
            let (watch, began) = (self.trouble.watch(), self.history.borrow_mut().now());
            match read(store, key).await {
                Ok(found) => {
                    let version = found.map(|found| {
                        let content = Content { seed: found.seed, len: found.bytes.len() as u64 };
                        assert!(
                            content.bytes() == found.bytes,
                            "{key}: wrong bytes of version {}",
                            found.seed
                        );
                        let known = self.history.borrow().etag(found.seed);
                        assert_eq!(
                            known.as_ref(),
                            Some(&found.etag),
                            "{key}: ETag of version {}",
                            found.seed
                        );
                        found.seed
                    });
                    let loose = self.trouble.was_deep(watch);
                    let mut history = self.history.borrow_mut();
                    history.saw(self.life.get(), key, began, Did::Read(version), loose);
                    return version;
                }
                Err(error) => self.is_patient(env.now().since(start), key, &error),
            }
            env.sleep(RETRY).await;
        }
    }

    /// Lists everything, page by page, until it is answered. Each page is a read of the keys that it covers.
    async fn surely_list(&self, store: &Store, max_keys: usize) {
        let env = store.env();
        let start = env.now();
        let mut after: Option<String> = None;
        loop {
            let (watch, began) = (self.trouble.watch(), self.history.borrow_mut().now());
            let request = ListRequest { after: after.clone(), max_keys, ..ListRequest::default() };
            let page = match store.list(BUCKET, request).await {
                Ok(page) => page,
                Err(error) => {
                    self.is_patient(env.now().since(start), "a listing", &error);
                    env.sleep(RETRY).await;
                    continue;
                }
            };
            assert!(page.entries.len() <= max_keys);
            let mut shown = BTreeMap::new();
            let mut last = after.clone();
            for entry in page.entries {
                let ListEntry::Object(object) = entry else { panic!("a prefix without a delimiter") };
                assert!(last.as_ref() < Some(&object.key), "{} comes after {last:?}", object.key);
                assert!(self.keys.contains(&object.key), "{} was never written", object.key);
                last = Some(object.key.clone());
                shown.insert(object.key, (object.etag, object.size));
            }
            assert!(page.next.is_none() || page.next == last, "the next page begins elsewhere");
            let loose = self.trouble.was_deep(watch);
            let covered = |key: &&String| {
                after.as_ref().is_none_or(|after| *key > after)
                    && page.next.as_ref().is_none_or(|next| *key <= next)
            };
            let mut history = self.history.borrow_mut();
            for key in self.keys.iter().filter(covered) {
                history.saw(self.life.get(), key, began, Did::Listed(shown.remove(key)), loose);
            }
            drop(history);
            match page.next {
                Some(next) => after = Some(next),
                None => return,
            }
        }
    }

    /// Lists with a delimiter until it is answered: each prefix once, and none only where nothing is there.
    async fn surely_roll_up(&self, store: &Store, is_empty: bool) {
        let env = store.env();
        let start = env.now();
        loop {
            let request = ListRequest { delimiter: Some("/".into()), max_keys: 10, ..ListRequest::default() };
            match store.list(BUCKET, request).await {
                Ok(page) => {
                    let prefix = |text: &str| ListEntry::Prefix(text.into());
                    let all = [prefix("own/"), prefix("shared/")];
                    let known = page.entries == all || all.iter().any(|one| page.entries == [one.clone()]);
                    // What had no answer may come and go beside this.
                    assert!(known || page.entries.is_empty(), "{:?} with a delimiter", page.entries);
                    assert!(is_empty || !page.entries.is_empty(), "nothing is listed with a delimiter");
                    return;
                }
                Err(error) => self.is_patient(env.now().since(start), "a listing with a delimiter", &error),
            }
            env.sleep(RETRY).await;
        }
    }

    fn is_patient(&self, waited: Duration, what: &str, error: &ObjectError) {
        let is_refusal = matches!(error, ObjectError::Unavailable(_) | ObjectError::SlowDown);
        assert!(is_refusal, "{what}: {error:?} to a read; {}", self.trouble);
        assert!(waited < READ_PATIENCE, "{what} cannot be read: {error}; {}", self.trouble);
    }

    /// Reads and lists everything while no client works.
    async fn look_at_all(&self, stores: &[Store]) {
        let mut live = Vec::new();
        for (number, key) in self.keys.iter().enumerate() {
            live.extend(self.surely_read(&stores[number % stores.len()], key).await);
        }
        self.surely_list(&stores[stores.len() - 1], 3).await;
        self.surely_roll_up(&stores[0], live.is_empty()).await;
        self.trouble.only_these_are_left(&live);
    }

    /// Nothing is wrong but what stays damaged: every key can be written.
    async fn write_all(&self, stores: &[Store]) {
        let mut random = self.simulation.rng();
        if !self.trouble.leaves_a_majority() {
            return;
        }
        for (number, key) in self.keys.iter().enumerate() {
            let store = &stores[number % stores.len()];
            let start = store.env().now();
            loop {
                let content = self.new_content(&mut random, false);
                let error = match self.put(store, key, content, WriteCondition::Always).await {
                    Ok(()) => break,
                    Err(error) => error,
                };
                let waited = store.env().now().since(start);
                assert!(waited < READ_PATIENCE, "{key} cannot be written: {error}; {}", self.trouble);
                store.env().sleep(RETRY).await;
            }
        }
    }

    async fn put(
        &self,
        store: &Store,
        key: &str,
        content: Content,
        condition: WriteCondition,
    ) -> Result<(), ObjectError> {
        let did = Did::Put { version: content.seed, condition: condition.clone() };
        let begun = self.history.borrow_mut().begin(self.life.get(), key, did);
        let _writing = self.trouble.writing(content.seed);
        let outcome = put(store, key, content, condition).await;
        self.answered(&begun, &outcome);
        outcome
    }

    /// Notes how a write ended.
    fn answered(&self, begun: &Begun, outcome: &Result<(), ObjectError>) {
        let mut history = self.history.borrow_mut();
        match outcome {
            Ok(()) => history.done(begun),
            Err(ObjectError::PreconditionFailed) => history.refused(begun, true),
            Err(ObjectError::NoSuchKey) => history.refused(begun, false),
            Err(error) if may_have_happened(error) => {}
            Err(ObjectError::Unavailable(_) | ObjectError::SlowDown | ObjectError::NoSpace) => {
                history.nothing(begun);
            }
            Err(error) => panic!("{error:?} to a write; {}", self.trouble),
        }
    }
}

/// Of all refusals only this one leaves open whether the write has happened.
fn may_have_happened(error: &ObjectError) -> bool {
    matches!(error, ObjectError::Unavailable(what) if what == "the outcome is unknown")
}

/// Does one thing after the other.
struct Client<'a> {
    world: &'a World<'a>,
    store: Store,
    number: usize,
    random: SimRng,
}

impl Client<'_> {
    async fn work(mut self) {
        for _ in 0..self.world.run.operations {
            let pause = match self.random.below(8) {
                0..=3 => 0,
                4..=5 => self.random.below(5_000),
                6 => self.random.below(500_000),
                _ => self.random.below(16_000_000),
            };
            self.store.env().sleep(Duration::from_micros(pause)).await;
            let key = match self.random.below(4) {
                0 => format!("own/{}", self.number),
                _ => format!("shared/{}", self.random.below(self.world.run.keys)),
            };
            if self.random.one_in(16) {
                // The client goes away in between.
                let patience = Duration::from_micros(self.random.below(3_000));
                let env = self.store.env().clone();
                let _ = env.timeout(patience, self.one(&key)).await;
            } else {
                self.one(&key).await;
            }
        }
    }

    async fn one(&mut self, key: &str) {
        let world = self.world;
        match self.random.below(16) {
            0..=4 => {
                let content = world.new_content(&mut self.random, false);
                let _ = world.put(&self.store, key, content, WriteCondition::Always).await;
            }
            5 => {
                let content = world.new_content(&mut self.random, false);
                let _ = world.put(&self.store, key, content, WriteCondition::IfAbsent).await;
            }
            6..=7 => {
                let condition = self.swap(key).await;
                let content = world.new_content(&mut self.random, false);
                let _ = world.put(&self.store, key, content, condition).await;
            }
            8..=9 => {
                let condition = match self.random.below(4) {
                    0 => WriteCondition::IfAbsent,
                    1 => self.swap(key).await,
                    _ => WriteCondition::Always,
                };
                self.multipart(key, condition).await;
            }
            10..=11 => {
                let condition = match self.random.below(3) {
                    0 => self.swap(key).await,
                    _ => WriteCondition::Always,
                };
                let did = Did::Delete { condition: condition.clone() };
                let begun = world.history.borrow_mut().begin(world.life.get(), key, did);
                let outcome = self.store.delete(BUCKET, key, condition).await;
                world.answered(&begun, &outcome);
            }
            12 => world.surely_list(&self.store, 1 + self.random.below(20) as usize).await,
            _ => drop(world.surely_read(&self.store, key).await),
        }
    }

    /// The condition that what is read now is still there, whatever it is.
    async fn swap(&mut self, key: &str) -> WriteCondition {
        let version = self.world.surely_read(&self.store, key).await;
        match version.and_then(|version| self.world.history.borrow().etag(version)) {
            Some(etag) => WriteCondition::IfMatch(etag),
            None => WriteCondition::IfAbsent,
        }
    }

    async fn multipart(&mut self, key: &str, condition: WriteCondition) {
        let world = self.world;
        let content = world.new_content(&mut self.random, true);
        let _writing = world.trouble.writing(content.seed);
        let (upload, parts) = match upload(&self.store, key, content).await {
            Ok(uploaded) => uploaded,
            Err(ObjectError::Unavailable(_) | ObjectError::SlowDown | ObjectError::NoSpace) => return,
            Err(error) => panic!("{key}: {error:?} to an upload; {}", world.trouble),
        };
        if self.random.one_in(8) {
            let aborted = self.store.abort_upload(BUCKET, key, upload).await;
            assert!(
                matches!(aborted, Ok(()) | Err(ObjectError::Unavailable(_) | ObjectError::SlowDown)),
                "{key}: {aborted:?}"
            );
            return;
        }
        let did = Did::Put { version: content.seed, condition: condition.clone() };
        let begun = world.history.borrow_mut().begin(world.life.get(), key, did);
        let mut outcome = complete(&self.store, key, upload, parts.clone(), condition.clone()).await;
        if outcome.as_ref().is_err_and(may_have_happened) {
            // Asked again, the upload is gone where it has happened.
            outcome = match complete(&self.store, key, upload, parts, condition).await {
                Err(ObjectError::NoSuchUpload) => Ok(()),
                // The first may have made what the second met.
                Err(ObjectError::PreconditionFailed | ObjectError::NoSuchKey) => return,
                Err(ObjectError::Unavailable(_) | ObjectError::SlowDown | ObjectError::NoSpace) => return,
                again => again,
            };
        }
        world.answered(&begun, &outcome);
    }
}
