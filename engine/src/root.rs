//! The root group's state: buckets and users, as every core holds a copy of it.
//!
//! What must hold: the state is what the root group's index holds at `version` (the Raft index of the last change);
//! a core never goes back to an older one; a change is answered only after every core of every node that answers has the
//! new copy, so that the next request sees it wherever it goes. Other nodes ask for it as soon as they hear of it.

use crate::core::Core;
use crate::message::{Answer, Refusal, Removal, Reply, RootOp};
use crate::object::api::{BucketInfo, ObjectError, User};
use crate::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{BucketId, GroupId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

/// A bucket's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRecord {
    /// As shown.
    pub info: BucketInfo,
    /// Being removed, by this attempt: no new writes.
    pub deleting: Option<u64>,
}

/// Buckets and users.
#[derive(Clone, Debug, Default)]
pub struct RootState {
    /// The Raft index of the last change in it.
    pub version: u64,
    /// By name.
    pub buckets: BTreeMap<String, BucketRecord>,
    /// By access key; the root user is not among them.
    pub users: BTreeMap<String, User>,
}

/// As many as an account of AWS may have. Every core of every node holds the whole state, and one message carries it.
pub(crate) const BUCKETS_MAX: usize = 10_000;
/// Access keys besides root's.
pub(crate) const USERS_MAX: usize = 10_000;

/// Does a root operation on the root group's leader.
pub(crate) async fn serve(core: &Rc<Core>, op: RootOp) -> Answer {
    let _one_at_a_time = core.root_lock.lock().await;
    let lead = core.lead(GroupId::ROOT)?;
    let applied = core.applied(GroupId::ROOT);
    let state = load(&lead.view, applied).await.map_err(|e| core.index_refusal(GroupId::ROOT, &e))?;
    let reply = match op {
        // Every attempt is an entry of the log, and its number is below that entry's index: they only go up.
        RootOp::MarkDeleting { .. } => Reply::Attempt(next_attempt(&state)),
        _ => Reply::Done,
    };
    let batch = match change(&state, op) {
        Ok(batch) => batch,
        Err(error) => {
            // Nothing will be proposed that would prove leadership: the refusal is a read.
            core.read_view(GroupId::ROOT, false).await?;
            return Err(error.into());
        }
    };
    let position = core.propose(GroupId::ROOT, lead.term, batch).await?;
    let state = load(&lead.view, position.index).await.map_err(|e| core.index_refusal(GroupId::ROOT, &e))?;
    core.publish_everywhere(Arc::new(state)).await?;
    Ok(reply)
}

fn next_attempt(state: &RootState) -> u64 {
    state.version + 1
}

/// Reads the state and hands it to every core of this node; what a new root leader does first.
pub(crate) async fn publish_current(core: &Rc<Core>) -> Result<(), Refusal> {
    publish_view(core, false).await
}

/// Without a majority: the state as the newest log among the reachable voters has it. Refused where this core does not
/// hold that voter.
pub(crate) async fn publish_salvaged(core: &Rc<Core>) -> Result<(), Refusal> {
    publish_view(core, true).await
}

async fn publish_view(core: &Rc<Core>, salvage: bool) -> Result<(), Refusal> {
    let _one_at_a_time = core.root_lock.lock().await;
    let view = core.read_view(GroupId::ROOT, salvage).await?;
    let applied = core.applied(GroupId::ROOT);
    let state = load(&view, applied).await.map_err(|e| core.index_refusal(GroupId::ROOT, &e))?;
    core.publish_here(&Arc::new(state)).await
}

/// The batch that an operation comes to, or why it cannot be.
fn change(state: &RootState, op: RootOp) -> Result<WriteBatch, ObjectError> {
    let mut batch = WriteBatch::new();
    let existing = |name: &str, id: BucketId| {
        let record = state.buckets.get(name).filter(|record| record.info.id == id);
        record.ok_or(ObjectError::NoSuchBucket)
    };
    let under_removal = |removal: &Removal| {
        let record = existing(&removal.name, removal.id)?;
        match record.deleting == Some(removal.attempt) {
            true => Ok(record),
            false => Err(ObjectError::OperationAborted),
        }
    };
    match op {
        RootOp::CreateBucket { name, location, id, created_unix_ms } => {
            match state.buckets.get(&name) {
                Some(record) if record.deleting.is_some() => return Err(ObjectError::OperationAborted),
                Some(_) => return Err(ObjectError::BucketExists),
                None if state.buckets.len() >= BUCKETS_MAX => return Err(ObjectError::TooManyBuckets),
                None => {}
            }
            let info = BucketInfo { id, name: name.clone(), created_unix_ms, location };
            batch.put(rows::root_bucket(&name), encode_bucket(&BucketRecord { info, deleting: None }));
        }
        RootOp::MarkDeleting { name, id } => {
            let record = existing(&name, id)?;
            let marked = BucketRecord { info: record.info.clone(), deleting: Some(next_attempt(state)) };
            batch.put(rows::root_bucket(&name), encode_bucket(&marked));
        }
        RootOp::CheckEnded { id, attempt } => {
            match state.buckets.values().find(|record| record.info.id == id) {
                Some(record) if record.deleting != Some(attempt) => {}
                Some(_) => return Err(ObjectError::OperationAborted),
                None => return Err(ObjectError::NoSuchBucket),
            }
        }
        RootOp::UnmarkDeleting(removal) => {
            let record = under_removal(&removal)?;
            let unmarked = BucketRecord { info: record.info.clone(), deleting: None };
            batch.put(rows::root_bucket(&removal.name), encode_bucket(&unmarked));
        }
        RootOp::RemoveBucket(removal) => {
            under_removal(&removal)?;
            batch.delete(rows::root_bucket(&removal.name));
        }
        RootOp::AddUser(user) => {
            if state.users.contains_key(&user.access_key) {
                return Err(ObjectError::Conflict(format!("user {} exists already", user.access_key)));
            }
            if state.users.len() >= USERS_MAX {
                return Err(ObjectError::Conflict(format!(
                    "there are {USERS_MAX} users, as many as there may be"
                )));
            }
            batch.put(rows::root_user(&user.access_key), encode_user(&user));
        }
        RootOp::RemoveUser { access_key } => {
            if !state.users.contains_key(&access_key) {
                return Err(ObjectError::Conflict(format!("there is no user {access_key}")));
            }
            batch.delete(rows::root_user(&access_key));
        }
    }
    Ok(batch)
}

/// Reads the whole state; it is small (a few hundred bytes a bucket).
pub(crate) async fn load(
    view: &crate::core::View,
    version: u64,
) -> Result<RootState, buckets_index::IndexError> {
    let mut state = RootState { version, ..RootState::default() };
    let mut scan = view.scan(Bound::Included(Bytes::from_static(b"B")), Bound::Unbounded);
    while let Some((key, value)) = scan.next().await? {
        let name = String::from_utf8_lossy(&key[1..]).into_owned();
        match key[0] {
            b'B' => match decode_bucket(&name, &value) {
                Some(record) => drop(state.buckets.insert(name, record)),
                None => tracing::error!(bucket = name, "the bucket's record cannot be read by this version"),
            },
            b'U' => match decode_user(&name, &value) {
                Some(user) => drop(state.users.insert(name, user)),
                None => tracing::error!(user = name, "the user's record cannot be read by this version"),
            },
            _ => {}
        }
    }
    Ok(state)
}

const VERSION: u8 = 1;

fn encode_bucket(record: &BucketRecord) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    out.put_slice(record.info.id.as_bytes());
    out.put_u64_le(record.info.created_unix_ms);
    out.put_u8(u8::from(record.deleting.is_some()));
    out.put_u64_le(record.deleting.unwrap_or(0));
    out.put_slice(record.info.location.as_bytes());
    out.freeze()
}

fn decode_bucket(name: &str, mut record: &[u8]) -> Option<BucketRecord> {
    if record.try_get_u8().ok()? != VERSION {
        return None;
    }
    let (id, rest) = record.split_first_chunk::<16>()?;
    record = rest;
    let created_unix_ms = record.try_get_u64_le().ok()?;
    let is_deleting = record.try_get_u8().ok()? != 0;
    let attempt = record.try_get_u64_le().ok()?;
    let deleting = is_deleting.then_some(attempt);
    let location = std::str::from_utf8(record).ok()?.to_owned();
    let info = BucketInfo { id: BucketId::from_bytes(*id), name: name.to_owned(), created_unix_ms, location };
    Some(BucketRecord { info, deleting })
}

fn encode_user(user: &User) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    out.put_u64_le(user.created_unix_ms);
    out.put_slice(user.secret_key.as_bytes());
    out.freeze()
}

fn decode_user(access_key: &str, mut record: &[u8]) -> Option<User> {
    if record.try_get_u8().ok()? != VERSION {
        return None;
    }
    let created_unix_ms = record.try_get_u64_le().ok()?;
    let secret_key = std::str::from_utf8(record).ok()?.to_owned();
    Some(User { access_key: access_key.to_owned(), secret_key, created_unix_ms, is_root: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_encoding() {
        let info = BucketInfo {
            id: BucketId::from_random([3; 16]),
            name: "photos".into(),
            created_unix_ms: 12,
            location: "eu-central-1".into(),
        };
        let record = BucketRecord { info, deleting: Some(9) };
        assert_eq!(decode_bucket("photos", &encode_bucket(&record)), Some(record));
        let user =
            User { access_key: "AK".into(), secret_key: "secret".into(), created_unix_ms: 4, is_root: false };
        assert_eq!(decode_user("AK", &encode_user(&user)), Some(user));
        assert_eq!(decode_user("AK", &[2, 0]), None);
    }

    #[test]
    fn there_are_only_so_many_buckets_and_users() {
        let mut state = RootState::default();
        let create = |number: usize| RootOp::CreateBucket {
            name: format!("{number:063}"),
            location: "x".repeat(64),
            id: BucketId::from_random([3; 16]),
            created_unix_ms: 12,
        };
        let add = |number: usize| {
            let (access_key, secret_key) = (format!("{number:0128}"), "s".repeat(128));
            RootOp::AddUser(User { access_key, secret_key, created_unix_ms: 4, is_root: false })
        };
        for number in 0..BUCKETS_MAX.max(USERS_MAX) {
            if let RootOp::CreateBucket { name, location, id, created_unix_ms } = create(number) {
                let info = BucketInfo { id, name: name.clone(), created_unix_ms, location };
                state.buckets.insert(name, BucketRecord { info, deleting: Some(1) });
            }
            if let RootOp::AddUser(user) = add(number) {
                state.users.insert(user.access_key.clone(), user);
            }
        }
        assert_eq!(change(&state, create(BUCKETS_MAX)).err(), Some(ObjectError::TooManyBuckets));
        assert!(matches!(change(&state, add(USERS_MAX)), Err(ObjectError::Conflict(_))));
        // One message carries them all.
        let message =
            crate::wire::encode_request(&crate::message::Request::PublishRoot(Arc::new(state.clone())));
        assert!(message.head.len() <= buckets_rpc::frame::HEAD_BYTES_MAX, "{} bytes", message.head.len());
        state.buckets.pop_last();
        state.users.pop_last();
        assert!(change(&state, create(BUCKETS_MAX)).is_ok() && change(&state, add(USERS_MAX)).is_ok());
    }
}
