//! The source of a copy: which object, whether its conditions hold, and its blocks as the body of a write.

use crate::http::conditions::{Conditions, Verdict};
use crate::http::target::decode;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::names::{Resource, check_key, is_bucket_name};
use crate::server::call::Call;
use crate::store::{BlockStream, ObjectReader, ObjectStore};
use buckets_engine::object::api::{BodyBlock, BodyError, BodySource};

/// The object that `x-amz-copy-source` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopySource {
    pub(crate) bucket: String,
    pub(crate) key: String,
}

impl CopySource {
    /// Reads `bucket/key`, percent-encoded, a slash in front or not, a version behind or not.
    pub(crate) fn parse(header: &str) -> S3Result<CopySource> {
        let invalid = || {
            let message = "Copy Source must mention the source bucket and key: sourcebucket/sourcekey";
            S3Error::invalid_argument(message, "x-amz-copy-source", header)
        };
        let (path, version) = match header.split_once("?versionId=") {
            Some((path, version)) => (path, Some(version)),
            None => (header, None),
        };
        let path = decode(path).map_err(|_| invalid())?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let (bucket, key) = path.split_once('/').ok_or_else(invalid)?;
        if key.is_empty() {
            return Err(invalid());
        }
        if !is_bucket_name(bucket) {
            return Err(Code::InvalidBucketName.with("BucketName", bucket));
        }
        check_key(key)?;
        match version {
            None | Some("null") => Ok(CopySource { bucket: bucket.to_owned(), key: key.to_owned() }),
            Some(other) => Err(S3Error::invalid_argument("Invalid version id specified", "versionId", other)),
        }
    }

    /// Opens the source for the copy that `call` asks for, if the conditions on it hold.
    pub(crate) async fn open<S: ObjectStore>(&self, call: &Call<'_, S>) -> S3Result<S::Reader> {
        let opened = call.store.open(&self.bucket, &self.key).await;
        let object = opened.map_err(|error| {
            let error = S3Error::from(error);
            match error.code {
                Code::NoSuchBucket => error.with("BucketName", &self.bucket),
                Code::NoSuchKey => error.with("Key", &self.key),
                _ => error,
            }
        })?;
        let info = object.info();
        let modified = i64::try_from(info.modified_unix_ms).unwrap_or(i64::MAX);
        match Conditions::of_copy_source(call.head).evaluate(&info.etag, modified) {
            Verdict::Proceed => Ok(object),
            // To a reader this would be good news; a copy simply does not happen.
            Verdict::NotModified => {
                Err(Code::PreconditionFailed.with("Condition", "x-amz-copy-source-If-None-Match"))
            }
            Verdict::Failed(condition) => Err(Code::PreconditionFailed.with("Condition", condition)),
        }
    }

    /// Whether source and target are the same object.
    pub(crate) fn is(&self, resource: &Resource<'_>) -> bool {
        self.bucket == resource.bucket() && self.key == resource.key()
    }
}

/// Blocks that were read, as the body of a write.
pub(crate) struct CopiedBody<B> {
    blocks: B,
    block: Option<BodyBlock>,
    used: usize,
}

impl<B: BlockStream> CopiedBody<B> {
    pub(crate) fn new(blocks: B) -> CopiedBody<B> {
        CopiedBody { blocks, block: None, used: 0 }
    }
}

impl<B: BlockStream> BodySource for CopiedBody<B> {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError> {
        loop {
            if let Some(block) = &self.block {
                let rest = &block[self.used..];
                if !rest.is_empty() {
                    let count = rest.len().min(buf.len());
                    buf[..count].copy_from_slice(&rest[..count]);
                    self.used += count;
                    return Ok(count);
                }
            }
            self.used = 0;
            self.block = self.blocks.next().await.map_err(|error| BodyError::Source(Box::new(error)))?;
            if self.block.is_none() {
                return Ok(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_in_the_forms_that_clients_send() {
        for (header, expected) in [
            ("bucket/key", Ok(("bucket", "key"))),
            ("/bucket/key", Ok(("bucket", "key"))),
            ("/bucket/a%20b/c+d", Ok(("bucket", "a b/c+d"))),
            ("bucket%2Fkey", Ok(("bucket", "key"))),
            ("bucket//key", Ok(("bucket", "/key"))),
            ("bucket/key?versionId=null", Ok(("bucket", "key"))),
            ("bucket/key%3FversionId=1", Ok(("bucket", "key?versionId=1"))),
            ("bucket/key?versionId=1", Err(Code::InvalidArgument)),
            ("bucket", Err(Code::InvalidArgument)),
            ("bucket/", Err(Code::InvalidArgument)),
            ("/", Err(Code::InvalidArgument)),
            ("", Err(Code::InvalidArgument)),
            ("bucket/%zz", Err(Code::InvalidArgument)),
            ("B/key", Err(Code::InvalidBucketName)),
        ] {
            let source = CopySource::parse(header).map_err(|error| error.code);
            let expected = expected.map(|(bucket, key): (&str, &str)| CopySource {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
            });
            assert_eq!(source, expected, "{header}");
        }
    }
}
