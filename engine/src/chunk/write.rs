//! A body becomes stripes, and stripes become blocks on the disks of a set.
//!
//! What must hold:
//! - The body is read straight into the buffer that is coded, hashed and written; while one stripe is on its way to the
//!   disks, the next is filled. Nothing is buffered beyond two stripes.
//! - A part is reported as written only when at least one chunk more than K is flushed (all of them may be fewer than
//!   planned: those are named as missing), so that no acknowledged object is without redundancy.
//! - A part of which a failure in the middle of the write left K chunks and no more is copied, before anybody hears of it, to
//!   the disks that are left.
//! - Once enough chunks are written the others are waited for only for a moment: a disk or node that hangs costs a chunk, not
//!   the write.
//! - Disks known to be out of service are left out from the start, and the part gets more parity instead. So are slow ones,
//!   as far as the part keeps M of redundancy without them.

use super::read::PartStream;
use crate::budget::Held;
use crate::core::Core;
use crate::counters::count;
use crate::manifest::{ChunkOwner, Part, Placement};
use crate::message::{Answer, ChunkName, DiskIndex, Refusal, Request};
use crate::object::api::{BodyBlock, BodyError, BodySource, ChecksumAlgorithm, ObjectError};
use crate::object::digest::BodyDigest;
use crate::object::md5_lanes::Md5;
use buckets_env::{ALIGNMENT, AlignedBuf, AlignedBytes};
use buckets_ring::coding::Coding;
use buckets_ring::id::ObjectId;
use buckets_stripe::{Codec, StripeLayout};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use std::rc::Rc;
use std::time::Duration;

/// Bytes taken from the body between two looks at whether other tasks wait.
const FILL_BYTES_MAX: usize = 128 << 10;
/// How long the last disks may take once enough others have answered.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Data, and about as much for parity.
const COPIES: usize = 2;

/// Writes a body as one part; where that fails, its chunks are dropped. `length` is the body's decoded length, where
/// the client said it.
pub(crate) async fn write_part<B: BodySource>(
    core: &Rc<Core>,
    object: ObjectId,
    owner: &ChunkOwner,
    length: Option<u64>,
    body: &mut B,
    digest: &mut BodyDigest,
) -> Result<Part, ObjectError> {
    let mut writer = PartWriter::place(core, object, owner, &[])?;
    match writer.run(length, body, digest).await {
        Ok(size) if writer.is_safe() => Ok(writer.into_part(size)),
        Ok(size) => {
            let lost = writer.lost();
            let thin = writer.into_part(size);
            let copied = copy_part(core, &thin, owner, &lost).await;
            // Nobody waits: some of its disks may hang.
            let core = core.clone();
            core.env.clone().spawn(async move { drop_part(&core, &thin).await });
            copied
        }
        Err(error) => {
            writer.drop_chunks().await;
            Err(error)
        }
    }
}

/// Copies a part to other disks than those that were lost.
async fn copy_part(
    core: &Rc<Core>,
    thin: &Part,
    owner: &ChunkOwner,
    lost: &[DiskIndex],
) -> Result<Part, ObjectError> {
    count(&core.counters.parts_copied, 1);
    let object = ObjectId::from_random(core.env.random_id());
    let mut writer = PartWriter::place(core, object, owner, lost)?;
    let stream = PartStream::new(core, thin, 0..thin.size, &Rc::new(owner.clone()))?;
    let mut body = StoredBody { stream, block: None, at: 0 };
    // The body itself was digested when it came.
    let mut digest = BodyDigest::new(ChecksumAlgorithm::Crc64Nvme);
    match writer.run(Some(thin.size), &mut body, &mut digest).await {
        Ok(size) if writer.is_safe() => Ok(writer.into_part(size)),
        ended => {
            writer.drop_chunks().await;
            Err(match ended {
                // It is no client's body that could not be read.
                Err(ObjectError::Body(BodyError::Source(error))) => *error,
                Err(error) => error,
                Ok(_) => too_few(),
            })
        }
    }
}

fn too_few() -> ObjectError {
    ObjectError::Unavailable("too few disks took the write".into())
}

/// A part as the body of another.
struct StoredBody {
    stream: PartStream,
    block: Option<BodyBlock>,
    at: usize,
}

impl BodySource for StoredBody {
    async fn fill(&mut self, buf: &mut [u8]) -> Result<usize, BodyError> {
        loop {
            let rest = self.block.as_ref().and_then(|block| block.get(self.at..)).unwrap_or_default();
            if !rest.is_empty() {
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                self.at += n;
                return Ok(n);
            }
            self.at = 0;
            self.block = self.stream.next().await.map_err(|error| BodyError::Source(Box::new(error)))?;
            if self.block.is_none() {
                return Ok(0);
            }
        }
    }
}

/// Forgets the chunks of a part that nothing will refer to.
pub(crate) async fn drop_part(core: &Rc<Core>, part: &Part) {
    let chunks = part.placement.disks.iter().enumerate().filter_map(|(number, place)| {
        let disk = core.map.disk_at(part.placement.set, *place)?;
        Some((disk, ChunkName { object: part.object, number: number as u8 }))
    });
    join_all(chunks.map(|(disk, chunk)| core.ask_disk(disk, Request::ChunkDrop { disk, chunk }))).await;
}

struct PartWriter<'a> {
    core: &'a Rc<Core>,
    object: ObjectId,
    owner: Bytes,
    set: u16,
    codec: Rc<Codec>,
    layout: StripeLayout,
    /// By chunk number: the disk's place in the set.
    places: Vec<u8>,
    /// By chunk number; `None` once it could not be written.
    disks: Vec<Option<DiskIndex>>,
    /// Chunks that must be flushed.
    quorum: usize,
    full: bool,
    /// Of the body, as far as it is written.
    md5: Md5,
}

/// One stripe's blocks, each in a slot that starts at a page.
struct Stripe {
    number: u32,
    /// Bytes of the body.
    body_bytes: usize,
    /// Bytes of each block without padding.
    block_bytes: usize,
    /// Bytes of each slot.
    slot_bytes: usize,
    data: AlignedBuf,
    /// The share of memory that its data and parity take.
    held: Held,
    /// No stripe follows, as far as is known.
    is_last: bool,
}

impl<'a> PartWriter<'a> {
    /// Chooses disks and code.
    fn place(
        core: &'a Rc<Core>,
        object: ObjectId,
        owner: &ChunkOwner,
        without: &[DiskIndex],
    ) -> Result<PartWriter<'a>, ObjectError> {
        let (set, owner) = (core.map.set_for(owner.bucket, &owner.key), owner.encode());
        let planned = core.map.coding(set);
        let takes = |place: &u8| {
            let disk = core.map.disk_at(set, *place);
            disk.is_some_and(|disk| core.map.in_service(disk) && !without.contains(&disk))
        };
        let mut places: Vec<u8> = core.map.chunk_order(set, object).into_iter().filter(takes).collect();
        leave_out_slow(core, set, planned, &mut places);
        let missing = usize::from(planned.n()) - places.len();
        let coding = u8::try_from(missing)
            .ok()
            .and_then(|missing| planned.degraded(missing))
            .filter(|_| places.len() >= usize::from(planned.k()))
            .ok_or_else(|| {
                ObjectError::Unavailable(format!(
                    "{missing} of {} disks of the set are out of service; writes need at least {}",
                    planned.n(),
                    planned.k()
                ))
            })?;
        let codec = core.codec(coding);
        let layout = StripeLayout::for_data_chunks(coding.k());
        let disks = places.iter().map(|place| core.map.disk_at(set, *place)).collect();
        let quorum = quorum(coding);
        Ok(PartWriter {
            core,
            object,
            owner,
            set,
            codec,
            layout,
            places,
            disks,
            quorum,
            full: false,
            md5: Md5::new(),
        })
    }

    async fn run<B: BodySource>(
        &mut self,
        length: Option<u64>,
        body: &mut B,
        digest: &mut BodyDigest,
    ) -> Result<u64, ObjectError> {
        let mut next = self.fill(0, 0, length, body, digest).await?;
        let (mut size, mut finished) = (0, false);
        while let Some((stripe, stripe_bytes)) = next {
            size += stripe_bytes;
            let number = stripe.number + 1;
            finished = stripe.is_last;
            if stripe.is_last {
                self.write(stripe).await?;
                break;
            }
            let (core, layout) = (self.core, self.layout);
            let fill = fill_stripe(core, layout, number, size, length, body, digest);
            let (written, filled) = futures::join!(self.write(stripe), fill);
            written?;
            next = filled?;
        }
        if !finished {
            self.finish().await?;
        }
        digest.set_md5(self.md5);
        Ok(size)
    }

    async fn fill<B: BodySource>(
        &self,
        number: u32,
        offset: u64,
        length: Option<u64>,
        body: &mut B,
        digest: &mut BodyDigest,
    ) -> Result<Option<(Stripe, u64)>, ObjectError> {
        fill_stripe(self.core, self.layout, number, offset, length, body, digest).await
    }

    /// Codes a stripe and writes its blocks to all disks at once, and hashes the body meanwhile.
    async fn write(&mut self, stripe: Stripe) -> Result<(), ObjectError> {
        let (k, m) = (self.codec.k(), self.codec.m());
        let Stripe { number, body_bytes, block_bytes, slot_bytes, data, held: _held, is_last } = stripe;
        let mut parity = AlignedBuf::with_len(m * slot_bytes);
        {
            let blocks: Vec<&[u8]> =
                data.chunks(slot_bytes).take(k).map(|slot| &slot[..block_bytes]).collect();
            let mut coded: Vec<&mut [u8]> = Vec::with_capacity(m);
            for slot in parity.chunks_mut(slot_bytes) {
                let (block, padding) = slot.split_at_mut(block_bytes);
                padding.fill(0);
                coded.push(block);
            }
            self.codec.encode(&blocks, &mut coded);
        }
        let (data, parity) = (data.freeze(), parity.freeze());
        let slot = |chunk: usize| -> AlignedBytes {
            let (buffer, at) = if chunk < k { (&data, chunk) } else { (&parity, chunk - k) };
            buffer.slice(at * slot_bytes..(at + 1) * slot_bytes)
        };
        let appends = self.disks.iter().enumerate().map(|(chunk, disk)| {
            let request = disk.map(|disk| {
                let append = Request::ChunkAppend {
                    disk,
                    chunk: ChunkName { object: self.object, number: chunk as u8 },
                    block: number,
                    data: slot(chunk),
                    len: block_bytes as u32,
                    finish: is_last.then(|| self.owner.clone()),
                };
                (disk, append)
            });
            let core = self.core;
            request.map(|(disk, append)| async move { (chunk, timed(core, disk, append).await) })
        });
        let body = (0..k).map(|chunk| {
            let before = chunk * block_bytes;
            let at = chunk * slot_bytes;
            data.slice(at..at + block_bytes.min(body_bytes.saturating_sub(before)))
        });
        let hash = self.core.md5_lanes.update(self.md5, body);
        let (answers, md5) = futures::join!(self.gather(appends.flatten()), hash);
        self.md5 = md5;
        self.note(answers)
    }

    /// Flushes and records every chunk.
    async fn finish(&mut self) -> Result<(), ObjectError> {
        let finishes = self.disks.iter().enumerate().map(|(number, disk)| {
            let chunk = ChunkName { object: self.object, number: number as u8 };
            let (core, owner, disk) = (self.core, self.owner.clone(), *disk);
            disk.map(|disk| async move {
                (number, timed(core, disk, Request::ChunkFinish { disk, chunk, owner }).await)
            })
        });
        let answers = self.gather(finishes.flatten()).await;
        self.note(answers)
    }

    /// The answers of all disks, by chunk; without those that are still missing a moment after enough have come.
    async fn gather<F: Future<Output = (usize, Answer)>>(
        &self,
        asks: impl Iterator<Item = F>,
    ) -> Vec<(usize, Answer)> {
        let mut asks: FuturesUnordered<F> = asks.collect();
        let mut answers: Vec<(usize, Answer)> = Vec::with_capacity(asks.len());
        let mut written = 0;
        // What K disks have can be copied: a node that hangs may have as many disks as may be lost.
        while written < self.codec.k()
            && let Some(answer) = asks.next().await
        {
            written += usize::from(answer.1.is_ok());
            answers.push(answer);
        }
        if asks.is_empty() {
            return answers;
        }
        let patience = self.core.env.sleep(LAST_PATIENCE).fuse();
        let mut patience = std::pin::pin!(patience);
        loop {
            futures::select_biased! {
                answer = asks.select_next_some() => answers.push(answer),
                complete => break,
                () = patience => break,
            }
            if asks.is_empty() {
                return answers;
            }
        }
        let core = self.core;
        let is_late = |chunk: &usize| answers.iter().all(|(answered, _)| answered != chunk);
        let late: Vec<usize> = (0..self.disks.len()).filter(is_late).collect();
        for chunk in late {
            let Some(disk) = self.disks[chunk] else { continue };
            core.write_latencies.note(disk, LAST_PATIENCE, core.env.now());
            count(&core.counters.chunks_given_up, 1);
            // It may arrive when the chunk has been written again.
            let (name, core) = (ChunkName { object: self.object, number: chunk as u8 }, core.clone());
            core.env.clone().spawn(async move {
                let _ = core.ask_disk(disk, Request::ChunkAbort { disk, chunk: name }).await;
            });
            answers.push((chunk, Err(Refusal::Unknown)));
        }
        answers
    }

    /// Leaves out the chunks that failed; an error where too few are left.
    fn note(&mut self, answers: Vec<(usize, Answer)>) -> Result<(), ObjectError> {
        let mut last = None;
        for (chunk, answer) in answers {
            if let Err(refusal) = answer {
                tracing::debug!(chunk, %refusal, object = %self.object, "a chunk could not be written");
                self.full |= refusal == Refusal::NoSpace;
                self.disks[chunk] = None;
                last = Some(refusal);
            }
        }
        // What can be read can still be copied, unless there is no room anyway.
        if self.is_safe() || !self.full && self.written() >= self.codec.k() {
            return Ok(());
        }
        Err(match last {
            _ if self.full => ObjectError::NoSpace,
            Some(Refusal::Overloaded) => ObjectError::SlowDown,
            Some(Refusal::Object(error)) => error,
            _ => too_few(),
        })
    }

    /// Chunks that are there, as far as is known.
    fn written(&self) -> usize {
        self.disks.iter().flatten().count()
    }

    /// Whether the part may be acknowledged.
    fn is_safe(&self) -> bool {
        self.written() >= self.quorum
    }

    /// The disks that did not take their chunks.
    fn lost(&self) -> Vec<DiskIndex> {
        let lost = self.disks.iter().zip(&self.places).filter(|(disk, _)| disk.is_none());
        lost.filter_map(|(_, place)| self.core.map.disk_at(self.set, *place)).collect()
    }

    fn into_part(self, size: u64) -> Part {
        let missing = self
            .disks
            .iter()
            .enumerate()
            .filter(|(_, disk)| disk.is_none())
            .fold(0u32, |missing, (chunk, _)| missing | 1 << chunk);
        count(&self.core.counters.chunks_unplaced, u64::from(missing.count_ones()));
        let placement = Placement {
            set: self.set,
            k: self.codec.k() as u8,
            m: self.codec.m() as u8,
            block_bytes: self.layout.block_bytes(),
            disks: self.places,
            missing,
        };
        Part { object: self.object, number: 0, size, placement }
    }

    async fn drop_chunks(&self) {
        let drops = self.disks.iter().enumerate().filter_map(|(chunk, disk)| {
            let chunk = ChunkName { object: self.object, number: chunk as u8 };
            disk.map(|disk| self.core.ask_disk(disk, Request::ChunkDrop { disk, chunk }))
        });
        join_all(drops).await;
    }
}

/// A disk that takes many times as long as the others would hold up every write. Where more are slow than can be left out,
/// those go that were seen to be slow last: the others may be well again.
fn leave_out_slow(core: &Core, set: u16, planned: Coding, places: &mut Vec<u8>) {
    let now = core.env.now();
    let missing = usize::from(planned.n()) - places.len();
    // With fewer data chunks than one there would be less parity; with fewer disks than K nothing is written at all.
    let spare = places.len().saturating_sub(usize::from(planned.k()));
    for _ in 0..(usize::from(planned.k()) - 1).saturating_sub(missing).min(spare) {
        let slow_at = |place: &u8| core.write_latencies.slow_at(core.map.disk_at(set, *place)?, now);
        let slow = places.iter().enumerate().filter_map(|(at, place)| Some((slow_at(place)?, at)));
        let Some((_, at)) = slow.max() else { return };
        places.remove(at);
        count(&core.counters.slow_disks_left_out, 1);
    }
}

/// Asks a disk to write, and remembers how long it took.
async fn timed(core: &Rc<Core>, disk: DiskIndex, request: Request) -> Answer {
    let under_way = core.write_latencies.begin(disk, core.env.now());
    let answer = core.ask_disk(disk, request).await;
    if answer.is_ok() {
        under_way.ended(core.env.now());
    }
    answer
}

/// One chunk more than is needed to read, and always a majority where the code has one.
fn quorum(coding: Coding) -> usize {
    usize::from(coding.write_quorum().max(coding.k() + 1).min(coding.n()))
}

/// Reads the next stripe of the body; `None` at its end.
async fn fill_stripe<B: BodySource>(
    core: &Rc<Core>,
    layout: StripeLayout,
    number: u32,
    offset: u64,
    length: Option<u64>,
    body: &mut B,
    digest: &mut BodyDigest,
) -> Result<Option<(Stripe, u64)>, ObjectError> {
    match length {
        Some(length) => fill_known(core, layout, number, length, body, digest).await,
        None if offset >= layout.body_bytes_max() => Err(ObjectError::TooLarge),
        None => fill_unknown(core, layout, number, body, digest).await,
    }
}

/// The length is known: every block is read to where it will be written from.
async fn fill_known<B: BodySource>(
    core: &Rc<Core>,
    layout: StripeLayout,
    number: u32,
    length: u64,
    body: &mut B,
    digest: &mut BodyDigest,
) -> Result<Option<(Stripe, u64)>, ObjectError> {
    let Some(shape) = layout.stripe(length, number) else {
        expect_end(body).await?;
        return Ok(None);
    };
    let slot_bytes = shape.block_disk_bytes() as usize;
    let held = core.body_share(COPIES * usize::from(layout.k()) * slot_bytes).await?;
    let mut data = AlignedBuf::with_len(usize::from(layout.k()) * slot_bytes);
    for (chunk, slot) in data.chunks_mut(slot_bytes).enumerate() {
        let (block, padding) = slot.split_at_mut(shape.body_bytes_in(chunk as u8) as usize);
        padding.fill(0);
        if fill_slice(core, block, body, digest).await? < block.len() {
            return Err(BodyError::Incomplete.into());
        }
    }
    let is_last = shape.body_offset + u64::from(shape.body_bytes) == length;
    if is_last {
        // The end of the body is also where trailers and hashes are verified.
        expect_end(body).await?;
    }
    let (body_bytes, block_bytes) = (shape.body_bytes as usize, shape.block_bytes as usize);
    let stripe = Stripe { number, body_bytes, block_bytes, slot_bytes, data, held, is_last };
    Ok(Some((stripe, u64::from(shape.body_bytes))))
}

/// The length is unknown: a full stripe is read, and a short last one is laid out anew.
async fn fill_unknown<B: BodySource>(
    core: &Rc<Core>,
    layout: StripeLayout,
    number: u32,
    body: &mut B,
    digest: &mut BodyDigest,
) -> Result<Option<(Stripe, u64)>, ObjectError> {
    let full_bytes = layout.stripe_bytes() as usize;
    let held = core.body_share(COPIES * full_bytes).await?;
    let mut data = AlignedBuf::with_len(full_bytes);
    let filled = fill_slice(core, &mut data, body, digest).await?;
    if filled == 0 {
        return Ok(None);
    }
    let block_bytes = layout.block_bytes_for(filled as u32) as usize;
    let slot_bytes = block_bytes.next_multiple_of(ALIGNMENT);
    if filled < full_bytes {
        let mut laid_out = AlignedBuf::zeroed(usize::from(layout.k()) * slot_bytes);
        for (block, slot) in data[..filled].chunks(block_bytes).zip(laid_out.chunks_mut(slot_bytes)) {
            slot[..block.len()].copy_from_slice(block);
        }
        data = laid_out;
    }
    let stripe = Stripe { number, body_bytes: filled, block_bytes, slot_bytes, data, held, is_last: false };
    Ok(Some((stripe, filled as u64)))
}

/// Fills `buf` as far as the body goes and digests it while it is in the processor's cache.
async fn fill_slice<B: BodySource>(
    core: &Rc<Core>,
    buf: &mut [u8],
    body: &mut B,
    digest: &mut BodyDigest,
) -> Result<usize, ObjectError> {
    let mut filled = 0;
    while filled < buf.len() {
        let end = buf.len().min(filled + FILL_BYTES_MAX);
        let n = body.fill(&mut buf[filled..end]).await?;
        if n == 0 {
            break;
        }
        digest.update_all_but_md5(&buf[filled..filled + n]);
        filled += n;
        core.env.yield_if_needed().await;
    }
    Ok(filled)
}

/// The body must end here.
async fn expect_end<B: BodySource>(body: &mut B) -> Result<(), ObjectError> {
    match body.fill(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(BodyError::Invalid("the body is longer than announced".into()).into()),
    }
}
