//! What the front end needs of the store behind it.
//!
//! The engine's `Store` is the one that is served. Tests put an in-memory model in its place, so that HTTP and S3 are tried without
//! disks.

use buckets_engine::object::api::{
    BodyBlock, BodySource, BucketInfo, CompleteUploadRequest, CreateUploadRequest, ListPage, ListRequest,
    ListUploadsRequest, ObjectError, ObjectInfo, PartInfo, PartsPage, PutOutcome, PutRequest,
    UploadPartRequest, UploadsPage, User, WriteCondition,
};
use buckets_ring::id::UploadId;
use futures::future::LocalBoxFuture;
use std::ops::Range;

/// Buckets, objects, uploads and users, as one core reaches them. A clone is a handle to the same store.
#[expect(async_fn_in_trait, reason = "everything runs on one core; no Send bound is wanted")]
pub trait ObjectStore: Clone + 'static {
    /// An object that was found.
    type Reader: ObjectReader;

    /// A bucket by name.
    fn bucket(&self, name: &str) -> Result<BucketInfo, ObjectError>;
    /// All buckets by name.
    fn buckets(&self) -> Result<Vec<BucketInfo>, ObjectError>;
    /// Adds a bucket. Errors: `BucketExists`.
    async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, ObjectError>;
    /// Removes an empty bucket. Errors: `BucketNotEmpty`, `NoSuchBucket`.
    async fn delete_bucket(&self, name: &str) -> Result<(), ObjectError>;

    /// Stores the body under the key; durable when this returns.
    async fn put<B: BodySource>(&self, request: PutRequest, body: &mut B) -> Result<PutOutcome, ObjectError>;
    /// An object's description. Errors: `NoSuchKey`.
    async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, ObjectError>;
    /// An object, to be read. Errors: `NoSuchKey`.
    async fn open(&self, bucket: &str, key: &str) -> Result<Self::Reader, ObjectError>;
    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, bucket: &str, key: &str, condition: WriteCondition) -> Result<(), ObjectError>;
    /// Removes many; one result a key, in order.
    async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Vec<Result<(), ObjectError>>;
    /// A page of a listing.
    async fn list(&self, bucket: &str, request: ListRequest) -> Result<ListPage, ObjectError>;

    /// Starts an upload.
    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadId, ObjectError>;
    /// Stores a part; durable when this returns.
    async fn upload_part<B: BodySource>(
        &self,
        request: UploadPartRequest,
        body: &mut B,
    ) -> Result<PartInfo, ObjectError>;
    /// Makes an upload the object.
    async fn complete_upload(&self, request: CompleteUploadRequest) -> Result<PutOutcome, ObjectError>;
    /// Drops an upload.
    async fn abort_upload(&self, bucket: &str, key: &str, upload: UploadId) -> Result<(), ObjectError>;
    /// The parts of an upload with numbers above `after`.
    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartsPage, ObjectError>;
    /// A page of the uploads in progress.
    async fn list_uploads(
        &self,
        bucket: &str,
        request: ListUploadsRequest,
    ) -> Result<UploadsPage, ObjectError>;

    /// A user by access key.
    fn user(&self, access_key: &str) -> Option<User>;
    /// All users but root.
    fn users(&self) -> Vec<User>;
    /// Adds a user. Errors: `Conflict` where it exists.
    async fn add_user(&self, access_key: &str, secret_key: &str) -> Result<(), ObjectError>;
    /// Removes a user. Errors: `Conflict` where there is none.
    async fn remove_user(&self, access_key: &str) -> Result<(), ObjectError>;
}

/// An object that was found; it stays readable while this lives.
pub trait ObjectReader {
    /// Its body on the way out.
    type Blocks: BlockStream;
    /// Its description.
    fn info(&self) -> &ObjectInfo;
    /// Reads a range of the body, which lies inside it.
    fn read(self, range: Range<u64>) -> Self::Blocks;
}

/// Verified blocks of a body, in order.
#[expect(async_fn_in_trait, reason = "everything runs on one core; no Send bound is wanted")]
pub trait BlockStream {
    /// The next bytes, never empty; `None` at the end of the range.
    async fn next(&mut self) -> Result<Option<BodyBlock>, ObjectError>;
}

/// What the node says of itself at `/ready`, `/metrics` and in the admin interface.
pub trait NodeReport {
    /// Whether requests can be served; a sentence why where they cannot.
    fn ready(&self) -> Result<(), String>;
    /// The state of the node, its sets and its disks, as JSON.
    fn info(&self) -> LocalBoxFuture<'_, serde_json::Value>;
    /// Makes the node of this name lead nothing, so that it can be stopped; or (false) lead again what it should. Errors:
    /// `Conflict` where there is no such node.
    fn drain<'a>(&'a self, node: &'a str, draining: bool) -> LocalBoxFuture<'a, Result<(), ObjectError>>;
    /// The engine's metrics in Prometheus' text format, each line ended.
    fn metrics(&self) -> LocalBoxFuture<'_, String>;
}
