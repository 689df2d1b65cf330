//! Rows for a replica that needs entries which no log holds any more, or whose rows are damaged.
//!
//! What must hold:
//! - A snapshot is the rows of one moment: everything up to its position, nothing behind it. It is never older than
//!   what the fetching replica has applied.
//! - Until all rows have come the fetching replica keeps its rows; it goes on voting and appending, but applies
//!   nothing. Then rows are replaced, the log is set to the position (what the log holds behind it stays where it
//!   belongs to the same history: it may have been acknowledged), and Raft starts again from the store, as after a
//!   restart, with its promise to the leader kept.
//! - Raft itself only ever sees that a snapshot was offered. The fetching side asks for each page, so that a
//!   lost message costs one more question, and the serving side keeps one page besides the pinned rows.
//!
//! Any voter with whole rows can serve; the leader is asked first.

use crate::event::Event;
use crate::host::{Core, Seat, SeatKey};
use crate::limits::Options;
use crate::members::Members;
use crate::message::{GroupBody, GroupMessage, SnapshotPage, SnapshotRequest};
use crate::status::RowsState;
use buckets_disk::SnapshotPosition;
use buckets_env::Instant;
use buckets_index::{IndexError, Position, Scan};
use buckets_ring::id::DiskUuid;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::time::Duration;

/// How long a fetched snapshot waits for the log to be durable between two looks.
const FLUSH_LOOK: Duration = Duration::from_millis(1);

/// Snapshots that this core serves and fetches.
#[derive(Default)]
pub(crate) struct Snapshots {
    serving: RefCell<BTreeMap<(SeatKey, DiskUuid, u64), Rc<Serving>>>,
    fetching: RefCell<BTreeMap<u64, Rc<Fetching>>>,
    fetches: Cell<usize>,
}

struct Serving {
    position: Position,
    members: Bytes,
    /// Absent while a page is read.
    scan: RefCell<Option<Scan>>,
    last: RefCell<Option<SnapshotPage>>,
    next_page: Cell<u32>,
    rows: Cell<u64>,
    used: Cell<Instant>,
}

#[derive(Default)]
struct Fetching {
    /// `Some(None)`: refused.
    page: RefCell<Option<Option<SnapshotPage>>>,
    arrived: Event,
}

/// How often the first page is asked for before another voter is.
const BEGIN_TRIES: u32 = 4;

/// Why no snapshot came.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no voter serves a snapshot")]
    NoSource,
    #[error("the snapshot does not go on")]
    Silent,
    #[error("the snapshot is refused")]
    Refused,
    #[error("the snapshot is not what was begun: {0}")]
    Inconsistent(&'static str),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Disk(#[from] buckets_disk::DiskError),
}

impl Snapshots {
    /// A page, or a refusal, for a fetch of this core.
    pub(crate) fn arrived(&self, session: u64, page: Option<SnapshotPage>) {
        if let Some(fetching) = self.fetching.borrow().get(&session) {
            fetching.page.replace(Some(page));
            fetching.arrived.happen();
        }
    }

    /// Lets snapshots go that nobody asks for.
    pub(crate) fn expire(&self, now: Instant, options: &Options) {
        self.serving.borrow_mut().retain(|_, serving| now.since(serving.used.get()) < options.snapshot_idle);
    }
}

impl Core {
    // ---- serving ----

    pub(crate) fn serve_page(self: &Rc<Core>, seat: &Rc<Seat>, to: DiskUuid, request: SnapshotRequest) {
        let key = (seat.key, to, request.session);
        let known = self.snapshots.serving.borrow().get(&key).cloned();
        let serving = match known {
            Some(serving) => serving,
            None if request.page == 0 => {
                let full = self.snapshots.serving.borrow().len() >= self.options.snapshots_served_max;
                let source = seat.replica.borrow().snapshot_source(request.index_min);
                let Some((position, members, index)) = source.filter(|_| !full) else {
                    return self.refuse_page(seat, to, request.session);
                };
                let scan = index.scan(Bound::Unbounded, Bound::Unbounded);
                debug_assert_eq!(scan.position(), position);
                let serving = Rc::new(Serving {
                    position,
                    members,
                    scan: RefCell::new(Some(scan)),
                    last: RefCell::default(),
                    next_page: Cell::new(0),
                    rows: Cell::new(0),
                    used: Cell::new(self.env.now()),
                });
                self.snapshots.serving.borrow_mut().insert(key, serving.clone());
                serving
            }
            None => return self.refuse_page(seat, to, request.session),
        };
        serving.used.set(self.env.now());
        let again = serving.last.borrow().as_ref().filter(|page| page.page == request.page).cloned();
        if let Some(page) = again {
            self.send_page(seat, to, page);
        } else if request.page == serving.next_page.get()
            && let Some(scan) = serving.scan.borrow_mut().take()
        {
            self.env.spawn(Core::read_page(
                self.clone(),
                seat.clone(),
                to,
                request.session,
                serving.clone(),
                scan,
            ));
        }
    }

    async fn read_page(
        self: Rc<Core>,
        seat: Rc<Seat>,
        to: DiskUuid,
        session: u64,
        serving: Rc<Serving>,
        mut scan: Scan,
    ) {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut ended = false;
        while bytes < self.options.snapshot_page_bytes {
            match scan.next().await {
                Ok(Some((key, value))) => {
                    bytes += key.len() + value.len();
                    rows.push((key, value));
                }
                Ok(None) => {
                    ended = true;
                    break;
                }
                Err(error) => {
                    tracing::warn!(group = %seat.key.0, disk = %seat.key.1, %error, "a snapshot cannot be served");
                    if error.is_corrupt() {
                        seat.replica.borrow_mut().rows_damaged(self.env.now());
                    }
                    self.snapshots.serving.borrow_mut().remove(&(seat.key, to, session));
                    return self.refuse_page(&seat, to, session);
                }
            }
        }
        serving.rows.set(serving.rows.get() + rows.len() as u64);
        let page = SnapshotPage {
            session,
            page: serving.next_page.get(),
            position: serving.position,
            members: serving.members.clone(),
            rows,
            rows_total: ended.then_some(serving.rows.get()),
        };
        serving.next_page.set(page.page + 1);
        serving.last.replace(Some(page.clone()));
        if !ended {
            serving.scan.replace(Some(scan));
        }
        self.send_page(&seat, to, page);
    }

    fn send_page(self: &Rc<Core>, seat: &Seat, to: DiskUuid, page: SnapshotPage) {
        let (group, from) = seat.key;
        self.send(GroupMessage { group, from, to, body: GroupBody::SnapshotPage(page) });
    }

    fn refuse_page(self: &Rc<Core>, seat: &Seat, to: DiskUuid, session: u64) {
        let (group, from) = seat.key;
        self.send(GroupMessage { group, from, to, body: GroupBody::SnapshotRefused { session } });
    }

    // ---- fetching ----

    /// Starts to fetch rows for a replica that needs them.
    pub(crate) fn consider_fetch(self: &Rc<Core>, seat: &Rc<Seat>) {
        let fetches = &self.snapshots.fetches;
        if fetches.get() >= self.options.snapshots_fetched_max {
            return;
        }
        let mut replica = seat.replica.borrow_mut();
        let Some(index_min) = replica.snapshot_wanted() else { return };
        let before = replica.rows();
        replica.begin_loading();
        drop(replica);
        fetches.set(fetches.get() + 1);
        self.env.spawn(Core::fetch(self.clone(), seat.clone(), index_min, before));
    }

    async fn fetch(self: Rc<Core>, seat: Rc<Seat>, index_min: u64, before: RowsState) {
        let (group, disk) = seat.key;
        let session = self.env.random_u64();
        let fetching = Rc::new(Fetching::default());
        self.snapshots.fetching.borrow_mut().insert(session, fetching.clone());
        let outcome = self.fetch_rows(&seat, index_min, session, &fetching).await;
        self.snapshots.fetching.borrow_mut().remove(&session);
        self.snapshots.fetches.set(self.snapshots.fetches.get() - 1);
        match outcome {
            Ok(position) => {
                tracing::info!(%group, %disk, position.index, "a replica stands at a snapshot");
            }
            Err(error) => {
                tracing::warn!(%group, %disk, %error, "a replica got no snapshot");
                let mut replica = seat.replica.borrow_mut();
                match error {
                    // The index refuses everything from now on, or holds something else than the log says.
                    FetchError::Index(_) | FetchError::Disk(_) => replica.fail("its rows cannot be replaced"),
                    _ => replica.loading_failed(before),
                }
            }
        }
        self.mark_due(&seat);
    }

    /// The leader, or else any other voter, another one at each try.
    fn snapshot_source(&self, seat: &Seat, session: u64) -> Option<DiskUuid> {
        let replica = seat.replica.borrow();
        let leader = replica.leader().filter(|leader| *leader != seat.key.1);
        let members = replica.members();
        let others: Vec<_> = members.voters().iter().filter(|disk| **disk != seat.key.1).copied().collect();
        let any = others.get(usize::try_from(session % others.len().max(1) as u64).ok()?).copied();
        // Now and then another one, in case the leader cannot serve.
        if session.is_multiple_of(4) { any.or(leader) } else { leader.or(any) }
    }

    async fn fetch_rows(
        self: &Rc<Core>,
        seat: &Rc<Seat>,
        index_min: u64,
        session: u64,
        fetching: &Fetching,
    ) -> Result<Position, FetchError> {
        let source = self.snapshot_source(seat, session).ok_or(FetchError::NoSource)?;
        let index = seat.replica.borrow().index().clone();
        let mut loader = index.load();
        let mut begun: Option<(Position, Bytes)> = None;
        let mut last_key: Option<Bytes> = None;
        let mut rows = 0;
        for number in 0.. {
            let request = SnapshotRequest { session, page: number, index_min };
            let page = self.fetch_page(seat, source, request, fetching).await?;
            let (position, members) = begun.get_or_insert_with(|| (page.position, page.members.clone()));
            if *position != page.position || *members != page.members || position.index < index_min {
                return Err(FetchError::Inconsistent("the position changed"));
            }
            for (key, value) in page.rows {
                if last_key.as_ref().is_some_and(|last| *last >= key) {
                    return Err(FetchError::Inconsistent("keys do not ascend"));
                }
                loader.push(&key, &value).await?;
                last_key = Some(key);
                rows += 1;
            }
            match page.rows_total {
                Some(total) if total == rows => break,
                Some(_) => return Err(FetchError::Inconsistent("rows are missing")),
                None => {}
            }
        }
        let (position, conf) = begun.ok_or(FetchError::Silent)?;
        let members =
            Members::decode(&conf).map_err(|_| FetchError::Inconsistent("the members cannot be read"))?;
        if !members.contains(seat.key.1) {
            return Err(FetchError::Inconsistent("this disk is no member"));
        }
        // From here on the replica takes nothing in until it starts again.
        seat.replica.borrow_mut().pause();
        while !seat.replica.borrow().all_flushed() {
            if seat.is_gone() {
                return Err(FetchError::Silent);
            }
            self.env.sleep(FLUSH_LOOK).await;
        }
        let store = seat.replica.borrow().store.clone();
        let (index, term) = (position.index, position.term);
        store.begin_snapshot(&SnapshotPosition { index, term, conf, hard_state: None }).await?;
        loader.finish(position).await?;
        store.end_snapshot();
        let mut replica = seat.replica.borrow_mut();
        let leader = replica.leader();
        replica.restart(members);
        if let Some(leader) = leader {
            replica.announce(leader);
        }
        Ok(position)
    }

    async fn fetch_page(
        self: &Rc<Core>,
        seat: &Seat,
        source: DiskUuid,
        request: SnapshotRequest,
        fetching: &Fetching,
    ) -> Result<SnapshotPage, FetchError> {
        let (group, from) = seat.key;
        let began = self.env.now();
        // A voter that does not even begin is most likely gone: another one is asked soon.
        let patience = match request.page {
            0 => self.options.snapshot_retry * BEGIN_TRIES,
            _ => self.options.snapshot_idle,
        };
        while self.env.now().since(began) < patience && !seat.is_gone() {
            let seen = fetching.arrived.seen();
            self.send(GroupMessage { group, from, to: source, body: GroupBody::SnapshotRequest(request) });
            // The answer may have come within the call, or any time since.
            let wait = async {
                let mut seen = seen;
                loop {
                    let arrived = fetching.page.take();
                    match arrived {
                        Some(Some(page)) if page.page == request.page => return Ok(page),
                        Some(Some(_)) => {}
                        Some(None) => return Err(FetchError::Refused),
                        None => fetching.arrived.after(seen).await,
                    }
                    seen = fetching.arrived.seen();
                }
            };
            if let Some(outcome) = self.env.timeout(self.options.snapshot_retry, wait).await {
                return outcome;
            }
        }
        Err(FetchError::Silent)
    }
}
