//! The handle through which one core's front end reaches the store.

use super::api::{BucketInfo, ObjectError, User, WriteCondition};
use crate::core::Core;
use crate::message::{PartitionOp, Refusal, Reply, RootOp};
use buckets_ring::id::{BucketId, GroupId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The store as one core sees it. Cheap to clone; `!Send`.
#[derive(Clone)]
pub struct Store {
    pub(crate) core: Rc<Core>,
}

impl Store {
    pub(crate) fn new(core: Rc<Core>) -> Store {
        Store { core }
    }

    /// The environment of this core.
    pub fn env(&self) -> &buckets_env::Env {
        &self.core.env
    }

    /// A bucket by name. Errors: `NoSuchBucket`, also while it is being removed.
    pub fn bucket(&self, name: &str) -> Result<BucketInfo, ObjectError> {
        self.core.root_is_known()?;
        match self.core.root.borrow().buckets.get(name) {
            Some(record) if record.deleting.is_none() => Ok(record.info.clone()),
            _ => Err(ObjectError::NoSuchBucket),
        }
    }

    /// All buckets, by name.
    pub fn buckets(&self) -> Result<Vec<BucketInfo>, ObjectError> {
        self.core.root_is_known()?;
        let root = self.core.root.borrow();
        let shown = root.buckets.values().filter(|record| record.deleting.is_none());
        Ok(shown.map(|record| record.info.clone()).collect())
    }

    /// Adds a bucket. Errors: `BucketExists`.
    pub async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, ObjectError> {
        let core = &self.core;
        let id = BucketId::from_random(core.env.random_id());
        let created_unix_ms = core.env.unix_millis();
        let (name, location) = (name.to_owned(), location.to_owned());
        let info = BucketInfo { id, name: name.clone(), created_unix_ms, location: location.clone() };
        core.ask_root(RootOp::CreateBucket { name, location, id, created_unix_ms }).await?;
        Ok(info)
    }

    /// Removes an empty bucket. Errors: `BucketNotEmpty`, `NoSuchBucket`.
    ///
    /// Fenced: first the root group marks the bucket, so that no core accepts new writes; then every partition seals
    /// its id and reports that it holds nothing; only then does the root group forget it. A PUT that was under way is
    /// either found by a partition (and the bucket stays) or refused.
    pub async fn delete_bucket(&self, name: &str) -> Result<(), ObjectError> {
        self.core.root_is_known()?;
        // Also one that is being removed: a client that did not hear how its attempt ended tries again.
        let known = self.core.root.borrow().buckets.get(name).map(|record| record.info.id);
        let removal = self.core.begin_removal(name, known.ok_or(ObjectError::NoSuchBucket)?).await?;
        match self.core.seal_everywhere(&removal).await {
            Ok(()) => self.core.ask_root(RootOp::RemoveBucket(removal)).await.map(drop)?,
            Err(error) => {
                self.core.reopen_bucket(removal).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes the current object. Removing what is not there is fine.
    pub async fn delete(
        &self,
        bucket: &str,
        key: &str,
        condition: WriteCondition,
    ) -> Result<(), ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        let group = self.core.map.group_for(bucket, key);
        let op = PartitionOp::Delete { bucket, keys: vec![key.to_owned()], condition };
        match self.core.ask_group(group, op).await? {
            Reply::Deleted(mut results) if results.len() == 1 => results.remove(0),
            _ => Err(ObjectError::Internal("one deletion was asked for".into())),
        }
    }

    /// Removes many objects; one result a key, in order.
    pub async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Vec<Result<(), ObjectError>> {
        let bucket = match self.known_bucket(bucket) {
            Ok(bucket) => bucket,
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut of_group: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (at, key) in keys.iter().enumerate() {
            of_group.entry(self.core.map.group_for(bucket, key)).or_default().push(at);
        }
        let deletions = of_group.into_iter().map(|(group, places)| {
            let keys = places.iter().map(|at| keys[*at].clone()).collect::<Vec<_>>();
            async move {
                let op = PartitionOp::Delete { bucket, keys, condition: WriteCondition::Always };
                (places, self.core.ask_group(group, op).await)
            }
        });
        let mut results: Vec<Result<(), ObjectError>> = vec![Ok(()); keys.len()];
        for (places, answer) in futures::future::join_all(deletions).await {
            let of_group: Vec<Result<(), ObjectError>> = match answer {
                Ok(Reply::Deleted(of_group)) if of_group.len() == places.len() => of_group,
                Ok(_) => vec![Err(ObjectError::Internal("deletions were asked for".into())); places.len()],
                Err(refusal) => vec![Err(ObjectError::from(refusal)); places.len()],
            };
            for (at, result) in places.into_iter().zip(of_group) {
                results[at] = result;
            }
        }
        results
    }

    /// A user of the S3 interface, by access key; the root user included.
    pub fn user(&self, access_key: &str) -> Option<User> {
        if self.core.root_user.access_key == access_key {
            return Some(self.core.root_user.clone());
        }
        self.core.root.borrow().users.get(access_key).cloned()
    }

    /// All users but root.
    pub fn users(&self) -> Vec<User> {
        self.core.root.borrow().users.values().cloned().collect()
    }

    /// Adds a user. Errors: `Conflict` where it exists.
    pub async fn add_user(&self, access_key: &str, secret_key: &str) -> Result<(), ObjectError> {
        if self.user(access_key).is_some() {
            return Err(ObjectError::Conflict(format!("user {access_key} exists already")));
        }
        let user = User {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            created_unix_ms: self.core.env.unix_millis(),
            is_root: false,
        };
        self.core.ask_root(RootOp::AddUser(user)).await.map(drop)?;
        Ok(())
    }

    /// Removes a user. Errors: `Conflict` where there is none.
    pub async fn remove_user(&self, access_key: &str) -> Result<(), ObjectError> {
        self.core.ask_root(RootOp::RemoveUser { access_key: access_key.to_owned() }).await.map(drop)?;
        Ok(())
    }

    /// The id of a bucket that takes requests.
    pub(crate) fn known_bucket(&self, name: &str) -> Result<BucketId, ObjectError> {
        self.core.root_is_known()?;
        match self.core.root.borrow().buckets.get(name) {
            Some(record) if record.deleting.is_none() => Ok(record.info.id),
            _ => Err(ObjectError::NoSuchBucket),
        }
    }
}

impl From<Refusal> for ObjectError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Object(error) => error,
            Refusal::Overloaded => ObjectError::SlowDown,
            Refusal::NoSpace => ObjectError::NoSpace,
            other => ObjectError::Unavailable(other.to_string()),
        }
    }
}
