//! The store as it should be, in memory: the reference that the front end is tried against.

use buckets_engine::object::api::{
    BodyBlock, BodySource, BucketInfo, Checksum, ChecksumAlgorithm, ChecksumKind, ChecksumRequest,
    CompleteUploadRequest, CreateUploadRequest, ListEntry, ListPage, ListRequest, ListUploadsRequest,
    ObjectError, ObjectInfo, ObjectSummary, PartInfo, PartSize, PartsPage, PutOutcome, PutRequest,
    UploadInfo, UploadPartRequest, UploadsPage, User, WriteCondition,
};
use buckets_env::Env;
use buckets_ring::id::{BucketId, UploadId};
use buckets_s3::store::{BlockStream, ObjectReader, ObjectStore};
use bytes::Bytes;
use md5::{Digest, Md5};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Bytes of a block on its way out.
const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of the buffer that a body is read into.
const LEASE_BYTES: usize = 128 << 10;

struct Upload {
    key: String,
    request: CreateUploadRequest,
    initiated_unix_ms: u64,
    parts: BTreeMap<u16, (PartInfo, Bytes)>,
}

struct Bucket {
    info: BucketInfo,
    objects: BTreeMap<String, (ObjectInfo, Bytes)>,
    uploads: BTreeMap<UploadId, Upload>,
}

/// What the model was told to do wrong.
#[derive(Default)]
pub struct Faults {
    /// Reads fail before this block of a body.
    pub unreadable_block: Cell<Option<usize>>,
    /// The next object that is opened is replaced by the one of this key, and its blocks are freed, before it is read.
    pub replaced_by: RefCell<Option<String>>,
    /// Every operation on an object fails so.
    pub failure: RefCell<Option<ObjectError>>,
}

#[derive(Clone)]
pub struct Model {
    env: Env,
    root: User,
    buckets: Rc<RefCell<BTreeMap<String, Bucket>>>,
    users: Rc<RefCell<BTreeMap<String, User>>>,
    pub faults: Rc<Faults>,
}

impl Model {
    pub fn new(env: Env, access_key: &str, secret_key: &str) -> Model {
        let root = User {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            created_unix_ms: 0,
            is_root: true,
        };
        Model { env, root, buckets: Rc::default(), users: Rc::default(), faults: Rc::default() }
    }

    /// The body of an object, as stored.
    pub fn stored(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.buckets.borrow().get(bucket)?.objects.get(key).map(|(_, body)| body.clone())
    }

    fn with<T>(
        &self,
        bucket: &str,
        work: impl FnOnce(&mut Bucket) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        if let Some(failure) = &*self.faults.failure.borrow() {
            return Err(failure.clone());
        }
        let mut buckets = self.buckets.borrow_mut();
        work(buckets.get_mut(bucket).ok_or(ObjectError::NoSuchBucket)?)
    }
}

fn check_condition(current: Option<&ObjectInfo>, condition: &WriteCondition) -> Result<(), ObjectError> {
    match (condition, current) {
        (WriteCondition::Always, _) | (WriteCondition::IfAbsent, None) => Ok(()),
        (WriteCondition::IfAbsent, Some(_)) => Err(ObjectError::PreconditionFailed),
        (WriteCondition::IfMatch(_), None) => Err(ObjectError::NoSuchKey),
        (WriteCondition::IfMatch(etag), Some(info)) if etag == "*" || *etag == info.etag => Ok(()),
        (WriteCondition::IfMatch(_), Some(_)) => Err(ObjectError::PreconditionFailed),
    }
}

fn sum(algorithm: ChecksumAlgorithm, data: &[u8]) -> Vec<u8> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => crc_fast::crc32_iso_hdlc(data).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Crc32c => crc_fast::crc32_iscsi(data).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Crc64Nvme => crc_fast::crc64_nvme(data).to_be_bytes().to_vec(),
        ChecksumAlgorithm::Sha1 => sha1::Sha1::digest(data).to_vec(),
        ChecksumAlgorithm::Sha256 => sha2::Sha256::digest(data).to_vec(),
    }
}

async fn read_body<B: BodySource>(
    body: &mut B,
    length: Option<u64>,
    content_md5: Option<[u8; 16]>,
    checksum: Option<&ChecksumRequest>,
) -> Result<(Bytes, String, Checksum), ObjectError> {
    let mut all = Vec::new();
    let mut lease = vec![0; LEASE_BYTES];
    loop {
        match body.fill(&mut lease).await? {
            0 => break,
            count => all.extend_from_slice(&lease[..count]),
        }
    }
    assert!(length.is_none_or(|length| length == all.len() as u64), "the front end checks the length");
    let md5: [u8; 16] = Md5::digest(&all).into();
    if content_md5.is_some_and(|expected| expected != md5) {
        return Err(ObjectError::BadDigest);
    }
    let algorithm = checksum.map_or(ChecksumAlgorithm::Crc64Nvme, |request| request.algorithm);
    let value = sum(algorithm, &all);
    let trailing = body.trailing_checksum();
    let announced = [checksum.and_then(|request| request.expected.clone()), trailing.map(|(_, value)| value)];
    if announced.into_iter().flatten().any(|expected| expected != value) {
        return Err(ObjectError::BadChecksum { algorithm });
    }
    let checksum = Checksum { algorithm, kind: ChecksumKind::FullObject, value };
    Ok((all.into(), hex(&md5), checksum))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ObjectStore for Model {
    type Reader = ModelReader;

    fn bucket(&self, name: &str) -> Result<BucketInfo, ObjectError> {
        self.with(name, |bucket| Ok(bucket.info.clone()))
    }

    fn buckets(&self) -> Result<Vec<BucketInfo>, ObjectError> {
        Ok(self.buckets.borrow().values().map(|bucket| bucket.info.clone()).collect())
    }

    async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, ObjectError> {
        let mut buckets = self.buckets.borrow_mut();
        if buckets.contains_key(name) {
            return Err(ObjectError::BucketExists);
        }
        let info = BucketInfo {
            id: BucketId::from_random(self.env.random_id()),
            name: name.to_owned(),
            created_unix_ms: self.env.unix_millis(),
            location: location.to_owned(),
        };
        let bucket = Bucket { info: info.clone(), objects: BTreeMap::new(), uploads: BTreeMap::new() };
        buckets.insert(name.to_owned(), bucket);
        Ok(info)
    }

    async fn delete_bucket(&self, name: &str) -> Result<(), ObjectError> {
        self.with(name, |bucket| {
            let is_empty = bucket.objects.is_empty() && bucket.uploads.is_empty();
            if is_empty { Ok(()) } else { Err(ObjectError::BucketNotEmpty) }
        })?;
        self.buckets.borrow_mut().remove(name);
        Ok(())
    }

    async fn put<B: BodySource>(&self, request: PutRequest, body: &mut B) -> Result<PutOutcome, ObjectError> {
        self.with(&request.bucket, |_| Ok(()))?;
        let (body, etag, checksum) =
            read_body(body, request.length, request.content_md5, request.checksum.as_ref()).await?;
        let modified_unix_ms = self.env.unix_millis();
        self.with(&request.bucket, |bucket| {
            let current = bucket.objects.get(&request.key).map(|(info, _)| info);
            check_condition(current, &request.condition)?;
            let info = ObjectInfo {
                key: request.key.clone(),
                size: body.len() as u64,
                etag: etag.clone(),
                modified_unix_ms,
                headers: request.headers,
                checksum: Some(checksum.clone()),
                parts: Vec::new(),
            };
            let size = info.size;
            bucket.objects.insert(request.key, (info, body));
            Ok(PutOutcome { etag, checksum: Some(checksum), size, modified_unix_ms })
        })
    }

    async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, ObjectError> {
        self.with(bucket, |bucket| {
            bucket.objects.get(key).map(|(info, _)| info.clone()).ok_or(ObjectError::NoSuchKey)
        })
    }

    async fn open(&self, bucket: &str, key: &str) -> Result<ModelReader, ObjectError> {
        let (info, body) =
            self.with(bucket, |bucket| bucket.objects.get(key).cloned().ok_or(ObjectError::NoSuchKey))?;
        let is_freed = match self.faults.replaced_by.take() {
            Some(other) => self.with(bucket, |bucket| {
                let other = bucket.objects.get(&other).cloned().ok_or(ObjectError::NoSuchKey)?;
                bucket.objects.insert(key.to_owned(), other);
                Ok(true)
            })?,
            None => false,
        };
        Ok(ModelReader { info, body, is_freed, faults: self.faults.clone() })
    }

    async fn delete(&self, bucket: &str, key: &str, condition: WriteCondition) -> Result<(), ObjectError> {
        self.with(bucket, |bucket| {
            check_condition(bucket.objects.get(key).map(|(info, _)| info), &condition)?;
            bucket.objects.remove(key);
            Ok(())
        })
    }

    async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Vec<Result<(), ObjectError>> {
        let delete = |key: &String| {
            self.with(bucket, |bucket| {
                bucket.objects.remove(key);
                Ok(())
            })
        };
        keys.iter().map(delete).collect()
    }

    async fn list(&self, bucket: &str, request: ListRequest) -> Result<ListPage, ObjectError> {
        self.with(bucket, |bucket| {
            let mut entries: Vec<(String, ListEntry)> = Vec::new();
            for (key, (info, _)) in bucket.objects.iter().filter(|(key, _)| key.starts_with(&request.prefix))
            {
                let rest = &key[request.prefix.len()..];
                let delimiter = request.delimiter.as_deref();
                let (name, entry) = match delimiter.and_then(|d| rest.find(d).map(|at| at + d.len())) {
                    Some(end) => {
                        let prefix = key[..request.prefix.len() + end].to_owned();
                        (prefix.clone(), ListEntry::Prefix(prefix))
                    }
                    None => (key.clone(), ListEntry::Object(summary(info))),
                };
                let after = request.after.as_ref().is_none_or(|after| name > *after);
                if after && entries.last().is_none_or(|(last, _)| *last != name) {
                    entries.push((name, entry));
                }
            }
            let more = entries.len() > request.max_keys && request.max_keys > 0;
            entries.truncate(request.max_keys);
            let next = entries.last().filter(|_| more).map(|(name, _)| name.clone());
            Ok(ListPage { entries: entries.into_iter().map(|(_, entry)| entry).collect(), next })
        })
    }

    async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadId, ObjectError> {
        let upload = UploadId::from_random(self.env.random_id());
        let initiated_unix_ms = self.env.unix_millis();
        let name = request.bucket.clone();
        self.with(&name, |bucket| {
            let key = request.key.clone();
            bucket.uploads.insert(upload, Upload { key, request, initiated_unix_ms, parts: BTreeMap::new() });
            Ok(upload)
        })
    }

    async fn upload_part<B: BodySource>(
        &self,
        request: UploadPartRequest,
        body: &mut B,
    ) -> Result<PartInfo, ObjectError> {
        let (body, etag, checksum) =
            read_body(body, request.length, request.content_md5, request.checksum.as_ref()).await?;
        let modified_unix_ms = self.env.unix_millis();
        self.with(&request.bucket, |bucket| {
            let upload = upload(bucket, &request.key, request.upload)?;
            let part = PartInfo {
                number: request.number,
                size: body.len() as u64,
                etag,
                modified_unix_ms,
                checksum: Some(checksum),
            };
            upload.parts.insert(request.number, (part.clone(), body));
            Ok(part)
        })
    }

    async fn complete_upload(&self, request: CompleteUploadRequest) -> Result<PutOutcome, ObjectError> {
        let modified_unix_ms = self.env.unix_millis();
        self.with(&request.bucket, |bucket| {
            let current = bucket.objects.get(&request.key).map(|(info, _)| info.clone());
            check_condition(current.as_ref(), &request.condition)?;
            let upload = upload(bucket, &request.key, request.upload)?;
            let (mut body, mut md5, mut parts) = (Vec::new(), Md5::new(), Vec::new());
            if !request.parts.is_sorted_by(|a, b| a.number < b.number) {
                return Err(ObjectError::InvalidPartOrder);
            }
            for part in &request.parts {
                let number = part.number;
                let found = upload.parts.get(&number).filter(|(info, _)| info.etag == part.etag);
                let (info, bytes) = found.ok_or(ObjectError::InvalidPart { number })?;
                let known = info.checksum.as_ref().map(|checksum| &checksum.value);
                if part.checksum.as_ref().is_some_and(|(_, value)| Some(value) != known) {
                    return Err(ObjectError::InvalidPart { number });
                }
                md5.update(Md5::digest(bytes));
                body.extend_from_slice(bytes);
                parts.push(PartSize { number, size: info.size });
            }
            let headers = upload.request.headers.clone();
            let value = sum(ChecksumAlgorithm::Crc64Nvme, &body);
            let checksum =
                Checksum { algorithm: ChecksumAlgorithm::Crc64Nvme, kind: ChecksumKind::FullObject, value };
            let etag = format!("{}-{}", hex(&md5.finalize()), parts.len());
            let size = body.len() as u64;
            let info = ObjectInfo {
                key: request.key.clone(),
                size,
                etag: etag.clone(),
                modified_unix_ms,
                headers,
                checksum: Some(checksum.clone()),
                parts,
            };
            bucket.uploads.remove(&request.upload);
            bucket.objects.insert(request.key.clone(), (info, body.into()));
            Ok(PutOutcome { etag, checksum: Some(checksum), size, modified_unix_ms })
        })
    }

    async fn abort_upload(&self, bucket: &str, key: &str, id: UploadId) -> Result<(), ObjectError> {
        self.with(bucket, |bucket| {
            upload(bucket, key, id)?;
            bucket.uploads.remove(&id);
            Ok(())
        })
    }

    async fn list_parts(
        &self,
        bucket: &str,
        key: &str,
        id: UploadId,
        after: u16,
        max: usize,
    ) -> Result<PartsPage, ObjectError> {
        self.with(bucket, |bucket| {
            let upload = upload(bucket, key, id)?;
            let parts = upload.parts.values().map(|(info, _)| info).filter(|info| info.number > after);
            let mut parts: Vec<PartInfo> = parts.cloned().collect();
            let more = parts.len() > max;
            parts.truncate(max);
            let next = parts.last().filter(|_| more).map(|part| part.number);
            Ok(PartsPage { parts, next, checksum: upload.request.checksum })
        })
    }

    async fn list_uploads(
        &self,
        bucket: &str,
        request: ListUploadsRequest,
    ) -> Result<UploadsPage, ObjectError> {
        self.with(bucket, |bucket| {
            let uploads = bucket.uploads.iter().filter(|(_, upload)| upload.key.starts_with(&request.prefix));
            let mut uploads: Vec<UploadInfo> = uploads
                .map(|(id, upload)| UploadInfo {
                    key: upload.key.clone(),
                    upload: *id,
                    initiated_unix_ms: upload.initiated_unix_ms,
                    checksum: upload.request.checksum,
                })
                .collect();
            uploads.sort_by(|a, b| (&a.key, a.upload).cmp(&(&b.key, b.upload)));
            if let Some((key, id)) = &request.after {
                uploads.retain(|upload| {
                    upload.key > *key || (upload.key == *key && id.is_some_and(|id| upload.upload > id))
                });
            }
            let more = uploads.len() > request.max_uploads;
            uploads.truncate(request.max_uploads);
            let next = uploads.last().filter(|_| more).map(|last| (last.key.clone(), Some(last.upload)));
            Ok(UploadsPage { uploads, prefixes: Vec::new(), next })
        })
    }

    fn user(&self, access_key: &str) -> Option<User> {
        if access_key == self.root.access_key {
            return Some(self.root.clone());
        }
        self.users.borrow().get(access_key).cloned()
    }

    fn users(&self) -> Vec<User> {
        self.users.borrow().values().cloned().collect()
    }

    async fn add_user(&self, access_key: &str, secret_key: &str) -> Result<(), ObjectError> {
        if self.user(access_key).is_some() {
            return Err(ObjectError::Conflict(format!("user {access_key} exists already")));
        }
        let user = User {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            created_unix_ms: self.env.unix_millis(),
            is_root: false,
        };
        self.users.borrow_mut().insert(access_key.to_owned(), user);
        Ok(())
    }

    async fn remove_user(&self, access_key: &str) -> Result<(), ObjectError> {
        match self.users.borrow_mut().remove(access_key) {
            Some(_) => Ok(()),
            None => Err(ObjectError::Conflict(format!("there is no user {access_key}"))),
        }
    }
}

fn upload<'a>(bucket: &'a mut Bucket, key: &str, id: UploadId) -> Result<&'a mut Upload, ObjectError> {
    bucket.uploads.get_mut(&id).filter(|upload| upload.key == key).ok_or(ObjectError::NoSuchUpload)
}

fn summary(info: &ObjectInfo) -> ObjectSummary {
    ObjectSummary {
        key: info.key.clone(),
        size: info.size,
        etag: info.etag.clone(),
        modified_unix_ms: info.modified_unix_ms,
        checksum: info.checksum.as_ref().map(|checksum| (checksum.algorithm, checksum.kind)),
    }
}

pub struct ModelReader {
    info: ObjectInfo,
    body: Bytes,
    is_freed: bool,
    faults: Rc<Faults>,
}

impl ObjectReader for ModelReader {
    type Blocks = ModelBlocks;

    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(self, range: Range<u64>) -> ModelBlocks {
        let body = self.body.slice(range.start as usize..range.end as usize);
        ModelBlocks { body, block: 0, is_freed: self.is_freed, faults: self.faults }
    }
}

pub struct ModelBlocks {
    body: Bytes,
    block: usize,
    is_freed: bool,
    faults: Rc<Faults>,
}

impl BlockStream for ModelBlocks {
    async fn next(&mut self) -> Result<Option<BodyBlock>, ObjectError> {
        if self.is_freed || self.faults.unreadable_block.get() == Some(self.block) {
            return Err(ObjectError::Unavailable("too many disks are gone".to_owned()));
        }
        self.block += 1;
        if self.body.is_empty() {
            return Ok(None);
        }
        let block = self.body.split_to(self.body.len().min(BLOCK_BYTES));
        Ok(Some(BodyBlock::Inline(block)))
    }
}
