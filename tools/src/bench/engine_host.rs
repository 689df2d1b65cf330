//! The engine in this process: a deployment in a directory, its cores, and the operations of one of them.
//!
//! What must hold: the same workload, content and checks as over HTTP, through the handle that the front end uses, without
//! sockets, heads and signatures: the difference is what those cost. The directory is a deployment like any other (it can
//! be served by `bucketsd --dev`); it is formatted if it is empty and never overwritten.

use super::content::{Body, Content};
use super::measure::{Account, Live, Tally, Verdict};
use super::workload::{ABSENT, Action, Operation, Picker, Window, Workload};
use crate::format::{self, FormatDisksError, FormatRequest};
use crate::local_disks::{self, DiskLock, LockError};
use buckets_engine::map::{INLINE_BYTES_DEFAULT, NodeMap};
use buckets_engine::node::{self, CoreSetup, DiskSizes, NodeOptions};
use buckets_engine::object::api::{
    BodyError, BodySource, ListEntry, ListRequest, ObjectError, PutRequest, User, WriteCondition,
};
use buckets_engine::object::store::Store;
use buckets_env::real::{self, CoreHandle, CoreOptions, CoreWaker};
use buckets_env::{CoreReceiver, CoreSender, Env, WakeCore, core_queue};
use buckets_ring::assembly::{AssemblyError, assemble};
use buckets_ring::endpoint::EndpointError;
use buckets_ring::{BlockChecksum, Coding, Endpoint};
use futures::future::join_all;
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
const CODING: Coding = match Coding::new(2, 2) {
    Some(coding) => coding,
    None => panic!("2+2 is a code"),
};
/// Until every partition has a leader.
const READY_MAX: Duration = Duration::from_secs(30);
const READY_RETRY: Duration = Duration::from_millis(10);

/// Why the engine does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("{} cannot be made: {error}", dir.display())]
    Directory { dir: PathBuf, error: io::Error },
    #[error(transparent)]
    Disks(#[from] EndpointError),
    #[error(transparent)]
    Format(#[from] FormatDisksError),
    #[error(transparent)]
    Start(#[from] real::StartError),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the disks below {} hold no active set", .0.display())]
    NoSets(PathBuf),
    #[error("a core cannot start: {0}")]
    Core(io::Error),
    #[error("the engine on {} is not ready after {} s: {reason}", dir.display(), READY_MAX.as_secs())]
    NotReady { dir: PathBuf, reason: String },
}

/// A running engine.
pub(crate) struct EngineHost {
    orders: Vec<CoreSender<Option<Order>>>,
    cores: Vec<CoreHandle>,
    _locks: Vec<DiskLock>,
}

/// A phase's share of one core.
pub(crate) struct Order {
    pub(crate) workload: Arc<Workload>,
    /// Of the core's first lane among all, and how many it has.
    pub(crate) lanes: (usize, usize),
    pub(crate) seed: u64,
    pub(crate) window: Window,
    pub(crate) bucket: String,
    pub(crate) verify: bool,
    pub(crate) live: Arc<Live>,
    pub(crate) tally: mpsc::SyncSender<Tally>,
}

impl EngineHost {
    /// Starts `cores` cores on the disks below `dir`.
    pub(crate) fn start(dir: &Path, cores: usize, cache_bytes: usize) -> Result<EngineHost, EngineError> {
        let unmade = |error| EngineError::Directory { dir: dir.to_owned(), error };
        std::fs::create_dir_all(dir).map_err(unmade)?;
        let dir = std::path::absolute(dir).map_err(unmade)?;
        let disks = (1..=CODING.n())
            .map(|number| dir.join(format!("disk{number}")).to_string_lossy().parse::<Endpoint>())
            .collect::<Result<Vec<_>, _>>()?;
        if !disks.iter().any(|disk| local_disks::system_dir(disk).exists()) {
            let request = FormatRequest {
                disks: disks.clone(),
                coding: CODING,
                block_checksum: BlockChecksum::Xxh3,
                force: false,
                make_missing: true,
                sizes: DiskSizes::Dev,
            };
            format::execute(format::plan(&request)?)?;
        }
        real::preflight(&disks.iter().map(|disk| Path::new(disk.path())).collect::<Vec<_>>())?;
        let assembly = assemble(&disks.iter().map(local_disks::identify).collect::<Vec<_>>())?;
        let locks = assembly.members.iter().map(|member| DiskLock::acquire(&member.endpoint));
        let locks = locks.collect::<Result<Vec<_>, _>>()?;
        let map = NodeMap::new(&assembly, None, cores, INLINE_BYTES_DEFAULT);
        let map = Arc::new(map.ok_or_else(|| EngineError::NoSets(dir.clone()))?);
        let root_user = User {
            access_key: "root".to_owned(),
            secret_key: String::new(),
            created_unix_ms: 0,
            is_root: true,
        };
        let options = NodeOptions { cache_bytes, root_user, disk_sizes: DiskSizes::Dev };

        let wakers = (0..cores).map(|_| CoreWaker::new()).collect::<Result<Vec<_>, _>>();
        let wakers = wakers.map_err(EngineError::Core)?;
        let shared: Vec<Arc<dyn WakeCore>> =
            wakers.iter().map(|waker| waker.clone() as Arc<dyn WakeCore>).collect();
        let setups = node::connect(map, shared.clone(), &options, None);
        let mut host = EngineHost { orders: Vec::new(), cores: Vec::new(), _locks: locks };
        let (ready, started) = mpsc::channel();
        for (index, (setup, waker)) in setups.into_iter().zip(wakers).enumerate() {
            let (orders, received) = core_queue(1, shared[index].clone());
            let ready = ready.clone();
            let core = CoreOptions { cpu: None, index, name: format!("core-{index}") };
            let handle = real::run_core(core, waker, move |env| serve(env, setup, received, ready));
            host.cores.push(handle.map_err(EngineError::Core)?);
            host.orders.push(orders);
        }
        for result in started.iter().take(cores) {
            result.map_err(|reason| EngineError::NotReady { dir: dir.clone(), reason })?;
        }
        Ok(host)
    }

    /// Gives a core its share of a phase. The core must have done the one before.
    pub(crate) fn order(&self, core: usize, order: Order) {
        let Ok(()) = self.orders[core].send(Some(order)) else { unreachable!("one order at a time") };
    }

    /// Flushes the disks and ends the cores.
    pub(crate) fn end(self) {
        for orders in &self.orders {
            let Ok(()) = orders.send(None) else { unreachable!("one order at a time") };
        }
        self.cores.into_iter().for_each(CoreHandle::join);
    }
}

/// One core's life: orders until there are no more.
async fn serve(
    env: Env,
    setup: CoreSetup,
    orders: CoreReceiver<Option<Order>>,
    ready: mpsc::Sender<Result<(), String>>,
) {
    let store = match node::start(env.clone(), setup).await {
        Ok(store) => store,
        Err(error) => {
            let _ = ready.send(Err(error.to_string()));
            return;
        }
    };
    let give_up = Instant::now() + READY_MAX;
    let mut readiness = store.ready();
    while readiness.is_err() && Instant::now() < give_up {
        env.sleep(READY_RETRY).await;
        readiness = store.ready();
    }
    // Who does not wait for it has given up.
    let _ = ready.send(readiness);
    while let Some(order) = orders.recv().await {
        let tally = order.run(&store).await;
        // As above.
        let _ = order.tally.send(tally);
    }
    store.close().await;
}

impl Order {
    async fn run(&self, store: &Store) -> Tally {
        let (first, count) = self.lanes;
        let picker = RefCell::new(self.workload.picker(first, count, self.seed));
        let account = RefCell::new(Account::new(self.window, &self.live));
        join_all((0..count).map(|lane| self.lane(lane, store, &picker, &account))).await;
        account.into_inner().tally
    }

    /// One operation after the other.
    async fn lane(
        &self,
        lane: usize,
        store: &Store,
        picker: &RefCell<Picker<'_>>,
        account: &RefCell<Account<'_>>,
    ) {
        loop {
            let next = picker.borrow_mut().next(lane, Instant::now());
            let Some(operation) = next else { break };
            let started = Instant::now();
            let verdict = match self.perform(store, &operation).await {
                Ok(verdict) => verdict,
                Err(error) => Verdict::Refused(name_of(&error)),
            };
            let ending = account.borrow_mut().ended(operation.action, started, verdict);
            picker.borrow_mut().ended(lane, &operation, ending);
            // What is answered from memory would otherwise keep the core's other tasks waiting.
            store.env().yield_if_needed().await;
        }
        account.borrow_mut().nothing_left();
    }

    async fn perform(&self, store: &Store, operation: &Operation) -> Result<Verdict, ObjectError> {
        let Operation { action, number, version, range, .. } = *operation;
        let Order { workload, bucket, .. } = self;
        let content = &workload.content;
        let key = workload.key(number);
        let good = |bytes| Verdict::Good { bytes, keys: 0, more: false };
        let wrong = |what: &str| Verdict::Wrong(format!("{action} {key}: {what}"));
        match action {
            Action::CreateBucket => match store.create_bucket(bucket, "").await {
                Ok(_) | Err(ObjectError::BucketExists) => Ok(good(0)),
                Err(error) => Err(error),
            },
            Action::Put => {
                let body = content.body(number, version);
                let request = PutRequest {
                    bucket: bucket.clone(),
                    key,
                    headers: Vec::new(),
                    length: Some(body.size),
                    condition: WriteCondition::Always,
                    content_md5: None,
                    checksum: None,
                };
                let outcome = store.put(request, &mut ContentSource { content, body, at: 0 }).await?;
                Ok(good(outcome.size))
            }
            Action::Delete => {
                store.delete(bucket, &key, WriteCondition::Always).await?;
                Ok(good(0))
            }
            Action::Head => match store.head(bucket, &key).await {
                Err(ObjectError::NoSuchKey) if version == ABSENT => Ok(good(0)),
                Err(error) => Err(error),
                Ok(_) if version == ABSENT => Ok(wrong("deleted, but there")),
                Ok(info) if info.size != content.body(number, version).size => Ok(wrong("another size")),
                Ok(_) => Ok(good(0)),
            },
            Action::Get => {
                let reader = match store.open(bucket, &key).await {
                    Err(ObjectError::NoSuchKey) if version == ABSENT => return Ok(good(0)),
                    Err(error) => return Err(error),
                    Ok(_) if version == ABSENT => return Ok(wrong("deleted, but there")),
                    Ok(reader) => reader,
                };
                let body = content.body(number, version);
                if reader.info().size != body.size {
                    return Ok(wrong("another size"));
                }
                let (from, len) = range.unwrap_or((0, body.size));
                let mut stream = reader.read(from..from + len);
                let mut read = 0;
                while let Some(block) = stream.next().await? {
                    if self.verify && !content.matches(body, from + read, &block) {
                        return Ok(wrong("other bytes than were put"));
                    }
                    read += block.len() as u64;
                }
                Ok(if read == len { good(read) } else { wrong("another length") })
            }
            Action::List => self.list(store, number).await,
        }
    }

    async fn list(&self, store: &Store, start: u64) -> Result<Verdict, ObjectError> {
        let Order { workload, bucket, .. } = self;
        let request = ListRequest {
            prefix: workload.stem.clone(),
            delimiter: None,
            after: start.checked_sub(1).map(|before| workload.key(before)),
            max_keys: usize::try_from(workload.page_keys()).unwrap_or(usize::MAX),
        };
        let page = store.list(bucket, request).await?;
        let shown = page.entries.iter().filter_map(|entry| match entry {
            ListEntry::Object(object) => Some(object.key.as_str()),
            ListEntry::Prefix(_) => None,
        });
        let keys = page.entries.len() as u64;
        let expected = workload.page_keys().min(workload.objects - start);
        if !workload.listings_move() && keys != expected {
            let wrong = format!("list from {}: {keys} keys instead of {expected}", workload.key(start));
            return Ok(Verdict::Wrong(wrong));
        }
        if self.verify && !workload.listings_move() {
            for (number, shown) in (start..).zip(shown) {
                if shown != workload.key(number) {
                    let wrong = format!("list: `{shown}` instead of {}", workload.key(number));
                    return Ok(Verdict::Wrong(wrong));
                }
            }
        }
        Ok(Verdict::Good { bytes: 0, keys, more: page.next.is_some() })
    }
}

/// The error's name, without what differs from request to request.
fn name_of(error: &ObjectError) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// A body on its way in.
struct ContentSource<'a> {
    content: &'a Content,
    body: Body,
    at: u64,
}

impl BodySource for ContentSource<'_> {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError> {
        let len = self.content.copy(self.body, self.at, buf);
        self.at += len as u64;
        Ok(len)
    }
}
