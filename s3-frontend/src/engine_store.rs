//! The engine's store as the front end's: the one that is served.

use crate::store::{BlockStream, ObjectReader, ObjectStore};
use buckets_engine::object::api::{
    BodyBlock, BodySource, BucketInfo, CompleteUploadRequest, CreateUploadRequest, ListPage, ListRequest,
    ListUploadsRequest, ObjectError, ObjectInfo, PartInfo, PartsPage, PutOutcome, PutRequest,
    UploadPartRequest, UploadsPage, User, WriteCondition,
};
use buckets_engine::object::{get, store::Store};
use buckets_ring::id::UploadId;
use std::ops::Range;

impl ObjectStore for Store {
    type Reader = get::ObjectReader;

    fn bucket(&self, name: &str) -> Result<BucketInfo, ObjectError> {
        Store::bucket(self, name)
    }
    fn buckets(&self) -> Result<Vec<BucketInfo>, ObjectError> {
        Store::buckets(self)
    }
    async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, ObjectError> {
        Store::create_bucket(self, name, location).await
    }
    async fn delete_bucket(&self, name: &str) -> Result<(), ObjectError> {
        Store::delete_bucket(self, name).await
    }
    async fn put<B: BodySource>(&self, request: PutRequest, body: &mut B) -> Result<PutOutcome, ObjectError> {
        Store::put(self, request, body).await
    }
    async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, ObjectError> {
        Store::head(self, bucket, key).await
    }
    async fn open(&self, bucket: &str, key: &str) -> Result<get::ObjectReader, ObjectError> {
        Store::open(self, bucket, key).await
    }
    async fn delete(&self, bucket: &str, key: &str, condition: WriteCondition) -> Result<(), ObjectError> {
        Store::delete(self, bucket, key, condition).await
    }
    async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Vec<Result<(), ObjectError>> {
        Store::delete_many(self, bucket, keys).await
    }
    async fn list(&self, bucket: &str, request: ListRequest) -> Result<ListPage, ObjectError> {
        Store::list(self, bucket, request).await
    }
    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadId, ObjectError> {
        Store::create_upload(self, request).await
    }
    async fn upload_part<B: BodySource>(
        &self,
        request: UploadPartRequest,
        body: &mut B,
    ) -> Result<PartInfo, ObjectError> {
        Store::upload_part(self, request, body).await
    }
    async fn complete_upload(&self, request: CompleteUploadRequest) -> Result<PutOutcome, ObjectError> {
        Store::complete_upload(self, request).await
    }
    async fn abort_upload(&self, bucket: &str, key: &str, upload: UploadId) -> Result<(), ObjectError> {
        Store::abort_upload(self, bucket, key, upload).await
    }
    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        upload: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartsPage, ObjectError> {
        Store::list_parts(self, bucket, key, upload, after, max).await
    }
    async fn list_uploads(
        &self,
        bucket: &str,
        request: ListUploadsRequest,
    ) -> Result<UploadsPage, ObjectError> {
        Store::list_uploads(self, bucket, request).await
    }
    fn user(&self, access_key: &str) -> Option<User> {
        Store::user(self, access_key)
    }
    fn users(&self) -> Vec<User> {
        Store::users(self)
    }
    async fn add_user(&self, access_key: &str, secret_key: &str) -> Result<(), ObjectError> {
        Store::add_user(self, access_key, secret_key).await
    }
    async fn remove_user(&self, access_key: &str) -> Result<(), ObjectError> {
        Store::remove_user(self, access_key).await
    }
}

impl ObjectReader for get::ObjectReader {
    type Blocks = get::BodyStream;

    fn info(&self) -> &ObjectInfo {
        get::ObjectReader::info(self)
    }
    fn read(self, range: Range<u64>) -> get::BodyStream {
        get::ObjectReader::read(self, range)
    }
}

impl BlockStream for get::BodyStream {
    async fn next(&mut self) -> Result<Option<BodyBlock>, ObjectError> {
        get::BodyStream::next(self).await
    }
}
