//! Several nodes in the simulator, each started as the daemon starts one.
//!
//! What must hold: nodes share nothing but the simulated network; a node that crashes takes its clients with it, and comes
//! back with what its disks show.

use super::{INLINE_BYTES_MAX, options};
use buckets_disk::FormatMode;
use buckets_engine::map::{DiskState, NodeMap};
use buckets_engine::node::{self, Contents};
use buckets_engine::nodes::Network;
use buckets_engine::object::store::Store;
use buckets_env::Env;
use buckets_env::sim::{SimNode, SimRng, Simulation};
use buckets_peer::{PeerOptions, Secret};
use buckets_ring::assembly::{Assembly, FoundDisk, FoundFile, assemble};
use buckets_ring::coding::Coding;
use buckets_ring::endpoint::{Endpoint, expand, group};
use buckets_ring::format::{BlockChecksum, FormatJson};
use buckets_ring::id::{DeploymentId, DiskUuid};
use buckets_ring::rebuild::{REBUILD_FILE, RebuildJson};
use buckets_ring::topology::{TopologyDisk, TopologyJson, TopologySet};
use futures::channel::oneshot;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const PORT: u16 = 9100;

/// How a deployment is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) cores: usize,
    pub(crate) disks_per_node: usize,
    pub(crate) coding: Coding,
}

/// A deployment.
pub(crate) struct Nodes {
    pub(crate) plan: Plan,
    pub(crate) nodes: Vec<SimNode>,
    endpoints: Vec<Endpoint>,
    topology: TopologyJson,
    lives: RefCell<Vec<Option<Life>>>,
}

/// A node that runs.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) map: Arc<NodeMap>,
    stores: Rc<RefCell<Vec<Option<Store>>>>,
}

impl Plan {
    /// Its disks in sets, each set over as many nodes as there are.
    pub(crate) fn topology(&self, random: &mut SimRng) -> TopologyJson {
        let pattern = format!("http://n{{1...{}}}:{PORT}/d{{1...{}}}", self.nodes, self.disks_per_node);
        let sets = group(&expand(&[pattern]).unwrap(), usize::from(self.coding.n())).unwrap();
        let mut id = || {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            bytes
        };
        let deployment = DeploymentId::from_random(id());
        let mut disk =
            |endpoint| TopologyDisk { uuid: DiskUuid::from_random(id()), endpoint, capacity_bytes: 0 };
        let mut set = |endpoints: Vec<Endpoint>| {
            TopologySet::new(0, self.coding, endpoints.into_iter().map(&mut disk).collect())
        };
        TopologyJson { deployment, generation: 1, sets: sets.into_iter().map(&mut set).collect() }
    }
}

/// What a disk of a deployment says of itself.
pub(crate) fn format_of(topology: &TopologyJson, disk: DiskUuid) -> FormatJson {
    let uuids = |set: &TopologySet| set.disks.iter().map(|disk| disk.uuid).collect();
    FormatJson {
        deployment: topology.deployment,
        disk,
        sets: topology.sets.iter().map(uuids).collect(),
        coding: topology.sets[0].coding,
        block_checksum: BlockChecksum::Xxh3,
    }
}

fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

async fn format_one(
    env: Env,
    topology: TopologyJson,
    disk: TopologyDisk,
    mode: FormatMode,
    contents: Contents,
) {
    let format = format_of(&topology, disk.uuid);
    let path = disk.endpoint.path().as_ref();
    let sizes = node::DiskSizes::Tiny;
    node::format_disk(&env, path, &format, &topology, mode, sizes, contents).await.unwrap();
}

impl Nodes {
    /// Formats the disks of all nodes; starts none.
    pub(crate) fn format(simulation: &Simulation, plan: Plan) -> Nodes {
        let topology = plan.topology(&mut simulation.rng());
        let endpoints = topology.disks().map(|(_, _, disk)| disk.endpoint.clone()).collect();
        let nodes: Vec<SimNode> = (0..plan.nodes).map(|node| simulation.node(&name(node))).collect();
        for (_, _, disk) in topology.disks() {
            let host = &disk.endpoint.node().unwrap().host;
            let node = nodes.iter().find(|node| node.name() == *host).unwrap();
            node.disk(disk.endpoint.path());
            let (topology, disk) = (topology.clone(), disk.clone());
            node.run(0, |env| format_one(env, topology, disk, FormatMode::New, Contents::Nothing)).unwrap();
        }
        let lives = RefCell::new(vec![None; plan.nodes]);
        Nodes { plan, nodes, endpoints, topology, lives }
    }

    /// An empty disk takes the place of one of a node that is down.
    pub(crate) async fn empty(&self, node: usize, path: &str, contents: Contents) {
        let is_it = |disk: &&TopologyDisk| {
            disk.endpoint.node().unwrap().host == name(node) && disk.endpoint.path() == path
        };
        let disk = self.topology.disks().map(|(_, _, disk)| disk).find(is_it).unwrap().clone();
        let env = self.nodes[node].env(0);
        let inside = env.clone();
        let topology = self.topology.clone();
        let (done, wait) = oneshot::channel();
        env.spawn(async move {
            format_one(inside, topology, disk, FormatMode::Overwrite, contents).await;
            done.send(()).unwrap();
        });
        wait.await.unwrap();
    }

    /// A disk of a node that is down is marked as one that was emptied.
    pub(crate) async fn suspect(&self, node: usize, path: &str) {
        let env = self.nodes[node].env(0);
        let file = PathBuf::from(format!("{path}/.buckets.sys/{REBUILD_FILE}"));
        let (done, wait) = oneshot::channel();
        env.clone().spawn(async move {
            env.write_file_durably(&file, &RebuildJson::default().to_bytes()).await.unwrap();
            done.send(()).unwrap();
        });
        wait.await.unwrap();
    }

    /// Every disk of every node takes part and has what belongs on it, as its node sees it.
    pub(crate) fn are_whole(&self) -> bool {
        (0..self.plan.nodes).all(|node| {
            self.life(node).is_some_and(|life| {
                life.map.disks_of(life.map.own).all(|(_, disk)| disk.state() == DiskState::InService)
            })
        })
    }

    /// Starts a node.
    pub(crate) fn start(&self, node: usize) -> Life {
        super::show_log();
        let sim = &self.nodes[node];
        let own: Vec<&Endpoint> =
            self.endpoints.iter().filter(|endpoint| endpoint.node().unwrap().host == name(node)).collect();
        let found = |endpoint: &&Endpoint| {
            let path = endpoint.path();
            let file = |file: &str| match sim.peek_file(format!("{path}/.buckets.sys/{file}")) {
                Ok(bytes) if !sim.disk(path).is_removed() => FoundFile::Bytes(bytes),
                _ => FoundFile::Absent,
            };
            FoundDisk {
                endpoint: (*endpoint).clone(),
                format: file("format.json"),
                topology: file("topology.json"),
            }
        };
        let assembly = assemble(&own.iter().map(found).collect::<Vec<_>>()).unwrap();
        let map =
            Arc::new(NodeMap::new(&assembly, own[0].node(), self.plan.cores, INLINE_BYTES_MAX).unwrap());
        for mapped in &map.nodes {
            let there = self.nodes.iter().find(|other| mapped.name == format!("{}:{PORT}", other.name()));
            mapped.set_address(SocketAddr::new(there.unwrap().ip(), PORT));
        }
        let life = self.run(sim, map, Some(SocketAddr::new(sim.ip(), PORT)));
        self.lives.borrow_mut()[node] = Some(life.clone());
        life
    }

    /// Starts a gateway on a node of its own: it knows the topology, and nobody knows it.
    pub(crate) fn start_gateway(&self, gateway: &SimNode) -> Life {
        let name = format!("http://{}:{PORT}/none", gateway.name());
        let own = expand(&[name]).unwrap();
        let known = self.life(0).unwrap().map;
        let assembly = Assembly {
            deployment: self.topology.deployment,
            block_checksum: BlockChecksum::Xxh3,
            topology: self.topology.clone(),
            members: Vec::new(),
            refused: Vec::new(),
            absent: Vec::new(),
        };
        let map =
            Arc::new(NodeMap::new(&assembly, own[0].node(), self.plan.cores, INLINE_BYTES_MAX).unwrap());
        for (mapped, known) in map.nodes.iter().zip(&known.nodes) {
            if let Some(address) = known.address() {
                mapped.set_address(address);
            }
        }
        self.run(gateway, map, None)
    }

    fn run(&self, sim: &SimNode, map: Arc<NodeMap>, listen: Option<SocketAddr>) -> Life {
        let network =
            Network { listen, secret: Secret::new(&[7; 32]).unwrap(), options: PeerOptions::default() };
        let cores = self.plan.cores;
        let wakers = (0..cores).map(|core| sim.waker(core)).collect();
        let stores = Rc::new(RefCell::new(vec![None; cores]));
        let setups = node::connect(map.clone(), wakers, &options(), Some(&network));
        for (core, setup) in setups.into_iter().enumerate() {
            let (env, stores) = (sim.env(core), stores.clone());
            env.clone().spawn(async move {
                let store = node::start(env, setup).await.unwrap();
                stores.borrow_mut()[core] = Some(store);
            });
        }
        Life { map, stores }
    }

    pub(crate) fn start_all(&self) {
        (0..self.plan.nodes).for_each(|node| drop(self.start(node)));
    }

    /// Power is lost.
    pub(crate) fn crash(&self, node: usize) {
        self.lives.borrow_mut()[node] = None;
        self.nodes[node].crash();
    }

    /// The process is killed.
    pub(crate) fn kill(&self, node: usize) {
        self.lives.borrow_mut()[node] = None;
        self.nodes[node].kill();
    }

    pub(crate) fn life(&self, node: usize) -> Option<Life> {
        self.lives.borrow()[node].clone()
    }

    /// The store as a core of a node sees it, once it is ready.
    pub(crate) async fn store(&self, env: &Env, node: usize, core: usize) -> Store {
        loop {
            let ready = self.life(node).and_then(|life| life.ready(core));
            match ready {
                Some(store) => return store,
                None => env.sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

impl Life {
    /// Why a core takes no requests.
    pub(crate) fn why_not(&self, core: usize) -> Option<String> {
        match &self.stores.borrow()[core] {
            Some(store) => store.ready().err(),
            None => Some("it has not started".into()),
        }
    }

    /// The store of a core where it takes requests.
    pub(crate) fn ready(&self, core: usize) -> Option<Store> {
        self.stores.borrow()[core].clone().filter(|store| store.ready().is_ok())
    }
}
