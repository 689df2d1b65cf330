//! GetObject and HeadObject: from the manifest to verified bytes.

use super::api::{BodyBlock, BodyError, BodySource, ObjectError, ObjectInfo};
use super::store::Store;
use crate::chunk::PartStream;
use crate::core::{Core, Reading};
use crate::counters::count;
use crate::manifest::{Body, ChunkOwner, Manifest, Part};
use crate::message::{PartitionOp, Reply};
use buckets_ring::id::BucketId;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

impl Store {
    /// The current object's description. Errors: `NoSuchKey`.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<ObjectInfo, ObjectError> {
        Ok(self.current(bucket, key, false).await?.1.info(key))
    }

    /// The current object, to be read. What is returned stays readable while it lives, also when the object is
    /// replaced or removed meanwhile. Errors: `NoSuchKey`.
    pub async fn open(&self, bucket: &str, key: &str) -> Result<ObjectReader, ObjectError> {
        let (bucket, manifest, inline) = self.current(bucket, key, true).await?;
        let info = manifest.info(key);
        let source = match (&manifest.body, inline) {
            (Body::Inline, Some(body)) if body.len() as u64 == manifest.size => Source::Inline(body),
            (Body::Inline, _) => {
                return Err(ObjectError::Internal("the inline body is not the manifest's".into()));
            }
            (Body::Chunked(parts), _) => {
                let reading = self.core.read_parts(parts);
                let owner = Rc::new(ChunkOwner { bucket, key: key.to_owned(), upload: None });
                Source::Chunked { manifest, owner, _reading: reading }
            }
        };
        Ok(ObjectReader { core: self.core.clone(), info, source })
    }

    async fn current(
        &self,
        bucket: &str,
        key: &str,
        body: bool,
    ) -> Result<(BucketId, Arc<Manifest>, Option<Bytes>), ObjectError> {
        let bucket = self.known_bucket(bucket)?;
        let group = self.core.map.group_for(bucket, key);
        let op = PartitionOp::Get { bucket, key: key.to_owned(), body };
        match self.core.ask_group(group, op).await? {
            Reply::Object(manifest, body) => Ok((bucket, manifest, body)),
            _ => Err(ObjectError::Internal("an object was asked for".into())),
        }
    }
}

/// An object that can be read.
pub struct ObjectReader {
    core: Rc<Core>,
    info: ObjectInfo,
    source: Source,
}

enum Source {
    Inline(Bytes),
    Chunked {
        manifest: Arc<Manifest>,
        owner: Rc<ChunkOwner>,
        /// Keeps the chunks from being freed.
        _reading: Reading,
    },
}

impl ObjectReader {
    /// The object's description.
    pub fn info(&self) -> &ObjectInfo {
        &self.info
    }

    /// Reads a range of the body. Panics where `range` leaves the body.
    pub fn read(self, range: Range<u64>) -> BodyStream {
        assert!(range.start <= range.end && range.end <= self.info.size);
        let mut queue = VecDeque::new();
        let mut reading = None;
        match self.source {
            Source::Inline(body) => {
                // An inline body is in memory: its length is a usize.
                let part = body.slice(range.start as usize..range.end as usize);
                queue.push_back(Segment::Inline(part));
            }
            Source::Chunked { manifest, owner, _reading } => {
                let mut start = 0;
                for part in manifest.parts() {
                    let end = start + part.size;
                    let (from, to) = (range.start.max(start), range.end.min(end));
                    if from < to {
                        queue.push_back(Segment::Part(part.clone(), from - start..to - start, owner.clone()));
                    }
                    start = end;
                }
                reading = Some(_reading);
            }
        }
        BodyStream { core: self.core, queue, current: None, _reading: reading }
    }
}

enum Segment {
    Inline(Bytes),
    Part(Part, Range<u64>, Rc<ChunkOwner>),
}

/// A body on its way out.
pub struct BodyStream {
    core: Rc<Core>,
    queue: VecDeque<Segment>,
    current: Option<PartStream>,
    _reading: Option<Reading>,
}

impl BodyStream {
    /// The next verified bytes, never empty; `None` at the end of the range.
    pub async fn next(&mut self) -> Result<Option<BodyBlock>, ObjectError> {
        loop {
            if let Some(stream) = &mut self.current {
                if let Some(block) = stream.next().await? {
                    count(&self.core.counters.bytes_read, block.len() as u64);
                    return Ok(Some(block));
                }
                self.current = None;
            }
            match self.queue.pop_front() {
                None => return Ok(None),
                Some(Segment::Inline(body)) if body.is_empty() => {}
                Some(Segment::Inline(body)) => {
                    count(&self.core.counters.bytes_read, body.len() as u64);
                    return Ok(Some(BodyBlock::Inline(body)));
                }
                Some(Segment::Part(part, range, owner)) => {
                    self.current = Some(PartStream::new(&self.core, &part, range, &owner)?);
                }
            }
        }
    }
}

/// A stored body as the source of a copy.
pub struct CopySource {
    stream: BodyStream,
    rest: Option<BodyBlock>,
    at: usize,
}

impl CopySource {
    /// Copies what `stream` reads.
    pub fn new(stream: BodyStream) -> CopySource {
        CopySource { stream, rest: None, at: 0 }
    }
}

impl BodySource for CopySource {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError> {
        loop {
            if let Some(block) = &self.rest {
                let n = buf.len().min(block.len() - self.at);
                if n > 0 {
                    buf[..n].copy_from_slice(&block[self.at..self.at + n]);
                    self.at += n;
                    return Ok(n);
                }
            }
            self.at = 0;
            self.rest = self.stream.next().await.map_err(|error| BodyError::Source(Box::new(error)))?;
            if self.rest.is_none() {
                return Ok(0);
            }
        }
    }
}
