//! Multipart uploads: create, complete, abort. Parts are written by `put`.

use super::api::{CompleteUploadRequest, CreateUploadRequest, ObjectError, PutOutcome};
use super::store::Store;
use crate::manifest::UploadRecord;
use crate::message::{PartitionOp, Reply};
use buckets_ring::id::{ObjectId, UploadId};

impl Store {
    /// Starts an upload.
    pub async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadId, ObjectError> {
        let core = &self.core;
        let bucket = self.known_bucket(&request.bucket)?;
        let upload = UploadId::from_random(core.env.random_id());
        let record = UploadRecord {
            initiated_unix_ms: core.env.unix_millis(),
            headers: request.headers,
            checksum: request.checksum,
        };
        let group = core.map.group_for(bucket, &request.key);
        let op = PartitionOp::CreateUpload { bucket, key: request.key, upload, record };
        core.ask_group(group, op).await?;
        Ok(upload)
    }

    /// Makes an upload the current version of its key; moves no data.
    pub async fn complete_upload(&self, request: CompleteUploadRequest) -> Result<PutOutcome, ObjectError> {
        let core = &self.core;
        let bucket = self.known_bucket(&request.bucket)?;
        let group = core.map.group_for(bucket, &request.key);
        let op = PartitionOp::CompleteUpload {
            bucket,
            key: request.key,
            upload: request.upload,
            object: ObjectId::of_upload(request.upload),
            parts: request.parts,
            checksum: request.checksum,
            condition: request.condition,
            modified_unix_ms: core.env.unix_millis(),
        };
        match core.ask_group(group, op).await? {
            Reply::Completed(outcome) => Ok(*outcome),
            _ => Err(ObjectError::Internal("a completion was asked for".into())),
        }
    }

    /// Drops an upload and its parts.
    pub async fn abort_upload(&self, bucket: &str, key: &str, upload: UploadId) -> Result<(), ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        let group = self.core.map.group_for(bucket, key);
        let op = PartitionOp::AbortUpload { bucket, key: key.to_owned(), upload };
        self.core.ask_group(group, op).await?;
        Ok(())
    }
}
