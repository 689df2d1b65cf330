//! A node in the simulator and what its clients do: what all tests of one node share.
//!
//! What must hold: a start here is a start of the daemon (what the disks show decides which of them take part); a disk
//! that is pulled shows nothing; contents that differ in their seed differ in their bytes and, unless empty, in their ETag.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by its panic")]

pub(crate) mod history;
pub(crate) mod nodes;

use buckets_disk::FormatMode;
use buckets_engine::map::NodeMap;
use buckets_engine::node::{self, NodeOptions};
use buckets_engine::object::api::{
    BodyError, BodySource, CompletePart, CompleteUploadRequest, CreateUploadRequest, ObjectError, PutRequest,
    UploadPartRequest, User, WriteCondition,
};
use buckets_engine::object::store::Store;
use buckets_env::sim::{Crashed, SimNode, Simulation};
use buckets_ring::assembly::{FoundDisk, FoundFile, assemble};
use buckets_ring::coding::Coding;
use buckets_ring::format::{BlockChecksum, FormatJson};
use buckets_ring::id::{DeploymentId, DiskUuid, UploadId};
use buckets_ring::topology::{SetState, TopologyDisk, TopologyJson, TopologySet};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const INLINE_BYTES_MAX: usize = 8 << 10;
pub(crate) const BUCKET: &str = "bucket";
/// The one part of a multipart upload here: all but the last have to be large.
const PART: u16 = 7;

/// How a node is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) cores: usize,
    pub(crate) coding: Coding,
    pub(crate) partitions: u16,
}

impl Layout {
    pub(crate) fn disks(&self) -> u8 {
        self.coding.n()
    }
}

/// What a body is made of: compared as bytes when read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) len: u64,
}

impl Content {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len as usize + 8);
        let mut word = self.seed;
        while (bytes.len() as u64) < self.len {
            word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.truncate(self.len as usize);
        bytes
    }
}

pub(crate) struct Body {
    bytes: Vec<u8>,
    at: usize,
    chunk: usize,
}

impl Body {
    /// Comes in pieces of `chunk` bytes at most.
    pub(crate) fn new(content: Content, chunk: usize) -> Body {
        Body { bytes: content.bytes(), at: 0, chunk }
    }
}

impl BodySource for Body {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError> {
        let n = buf.len().min(self.chunk).min(self.bytes.len() - self.at);
        buf[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

pub(crate) fn path(disk: u8) -> String {
    format!("/disk{disk}")
}

/// Formats the disks of a new node.
pub(crate) fn format(simulation: &Simulation, node: &SimNode, layout: Layout) {
    let mut random = simulation.rng();
    let mut id = || {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&random.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&random.next_u64().to_le_bytes());
        bytes
    };
    let deployment = DeploymentId::from_random(id());
    let disks: Vec<DiskUuid> = (0..layout.disks()).map(|_| DiskUuid::from_random(id())).collect();
    let coding = layout.coding;
    let topology = TopologyJson {
        deployment,
        generation: 1,
        sets: vec![TopologySet {
            pool: 0,
            state: SetState::Active,
            coding,
            partitions: layout.partitions,
            disks: (0..layout.disks())
                .map(|disk| TopologyDisk {
                    uuid: disks[usize::from(disk)],
                    endpoint: path(disk).parse().unwrap(),
                    capacity_bytes: 1 << 40,
                })
                .collect(),
        }],
    };
    for disk in 0..layout.disks() {
        node.disk(path(disk));
        let format = FormatJson {
            deployment,
            disk: disks[usize::from(disk)],
            sets: vec![disks.clone()],
            coding,
            block_checksum: BlockChecksum::Xxh3,
        };
        let topology = topology.clone();
        node.run(0, |env| async move {
            node::format_disk(
                &env,
                path(disk).as_ref(),
                &format,
                &topology,
                FormatMode::New,
                node::DiskSizes::Tiny,
                node::Contents::Nothing,
            )
            .await
            .unwrap();
        })
        .unwrap();
    }
}

/// A node that runs.
pub(crate) struct Cluster {
    node: SimNode,
    cores: usize,
    stores: Rc<RefCell<BTreeMap<usize, Store>>>,
    pub(crate) map: Arc<NodeMap>,
}

/// RUST_LOG=debug shows what a replayed seed does.
pub(crate) fn show_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Of a small node.
pub(crate) fn options() -> NodeOptions {
    NodeOptions {
        cache_bytes: 1 << 20,
        root_user: User {
            access_key: "root".into(),
            secret_key: "secret".into(),
            created_unix_ms: 0,
            is_root: true,
        },
        disk_sizes: node::DiskSizes::Tiny,
    }
}

/// Starts all cores.
pub(crate) fn start(node: &SimNode, layout: Layout) -> Cluster {
    show_log();
    let found: Vec<FoundDisk> = (0..layout.disks())
        .map(|disk| {
            let file = |name: &str| match node.peek_file(format!("{}/.buckets.sys/{name}", path(disk))) {
                Ok(bytes) if !node.disk(path(disk)).is_removed() => FoundFile::Bytes(bytes),
                _ => FoundFile::Absent,
            };
            FoundDisk {
                endpoint: path(disk).parse().unwrap(),
                format: file("format.json"),
                topology: file("topology.json"),
            }
        })
        .collect();
    let map =
        Arc::new(NodeMap::new(&assemble(&found).unwrap(), None, layout.cores, INLINE_BYTES_MAX).unwrap());
    let wakers = (0..layout.cores).map(|core| node.waker(core)).collect();
    let stores = Rc::new(RefCell::new(BTreeMap::new()));
    for (core, setup) in node::connect(map.clone(), wakers, &options(), None).into_iter().enumerate() {
        let (env, stores) = (node.env(core), stores.clone());
        env.clone().spawn(async move {
            let store = node::start(env, setup).await.unwrap();
            stores.borrow_mut().insert(core, store);
        });
    }
    Cluster { node: node.clone(), cores: layout.cores, stores, map }
}

impl Cluster {
    /// Runs `work` on a core once the node is ready; `Err` where the node crashed first.
    pub(crate) fn run<T>(&self, core: usize, work: impl AsyncFnOnce(Store) -> T) -> Result<T, Crashed> {
        self.node.run(core, |_| async { work(self.store(core).await).await })
    }

    /// The store as a core sees it, once that core is ready.
    pub(crate) async fn store(&self, core: usize) -> Store {
        let env = self.node.env(core);
        loop {
            let ready = self.stores.borrow().get(&core).filter(|store| store.ready().is_ok()).cloned();
            match ready {
                Some(store) => return store,
                None => env.sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// All cores' stores, once all are ready.
    pub(crate) async fn all_stores(&self) -> Vec<Store> {
        let mut stores = Vec::new();
        for core in 0..self.cores {
            stores.push(self.store(core).await);
        }
        stores
    }
}

pub(crate) async fn put(
    store: &Store,
    key: &str,
    content: Content,
    condition: WriteCondition,
) -> Result<(), ObjectError> {
    put_into(store, BUCKET, key, content, condition).await
}

pub(crate) async fn put_into(
    store: &Store,
    bucket: &str,
    key: &str,
    content: Content,
    condition: WriteCondition,
) -> Result<(), ObjectError> {
    let known = content.seed.is_multiple_of(2);
    let request = PutRequest {
        bucket: bucket.into(),
        key: key.into(),
        headers: vec![("x-amz-meta-seed".into(), content.seed.to_string())],
        length: known.then_some(content.len),
        condition,
        content_md5: None,
        checksum: None,
    };
    let mut body = Body::new(content, 1000 + (content.seed % 60_000) as usize);
    store.put(request, &mut body).await.map(drop)
}

/// Starts an upload and stores its one part twice; the second replaces the first.
pub(crate) async fn upload(
    store: &Store,
    key: &str,
    content: Content,
) -> Result<(UploadId, Vec<CompletePart>), ObjectError> {
    let upload = store
        .create_upload(CreateUploadRequest {
            bucket: BUCKET.into(),
            key: key.into(),
            headers: vec![("x-amz-meta-seed".into(), content.seed.to_string())],
            checksum: None,
        })
        .await?;
    let mut etag = String::new();
    for _ in 0..2 {
        let request = UploadPartRequest {
            bucket: BUCKET.into(),
            key: key.into(),
            upload,
            number: PART,
            length: Some(content.len),
            content_md5: None,
            checksum: None,
        };
        etag = store.upload_part(request, &mut Body::new(content, 9999)).await?.etag;
    }
    Ok((upload, vec![CompletePart { number: PART, etag, checksum: None }]))
}

/// Makes an upload the current version.
pub(crate) async fn complete(
    store: &Store,
    key: &str,
    upload: UploadId,
    parts: Vec<CompletePart>,
    condition: WriteCondition,
) -> Result<(), ObjectError> {
    let request = CompleteUploadRequest {
        bucket: BUCKET.into(),
        key: key.into(),
        upload,
        parts,
        checksum: None,
        condition,
    };
    store.complete_upload(request).await.map(drop)
}

/// What a read found.
pub(crate) struct Found {
    /// Of its content.
    pub(crate) seed: u64,
    pub(crate) etag: String,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a whole object; `None` where there is none.
pub(crate) async fn read(store: &Store, key: &str) -> Result<Option<Found>, ObjectError> {
    let reader = match store.open(BUCKET, key).await {
        Ok(reader) => reader,
        Err(ObjectError::NoSuchKey) => return Ok(None),
        Err(error) => return Err(error),
    };
    let seed = reader.info().headers.iter().find(|(name, _)| name == "x-amz-meta-seed");
    let seed = seed.map_or(0, |(_, value)| value.parse().unwrap());
    let (size, etag) = (reader.info().size, reader.info().etag.clone());
    let mut stream = reader.read(0..size);
    let mut bytes = Vec::new();
    while let Some(block) = stream.next().await? {
        bytes.extend_from_slice(&block);
    }
    assert_eq!(bytes.len() as u64, size);
    Ok(Some(Found { seed, etag, bytes }))
}
