//! A range of a part comes back as verified blocks.
//!
//! What must hold:
//! - Only the blocks that hold the range are read, unless one of them is missing, damaged or slow: then any K of the
//!   stripe's blocks, and the wanted ones are rebuilt.
//! - A slow disk is not waited for: after a short while others are asked too, and the first K win.
//! - What is returned was verified by the disk that read it, or rebuilt from such blocks.
//! - While one window of stripes is sent, the next is read.

use crate::budget::Held;
use crate::core::Core;
use crate::counters::count;
use crate::manifest::{ChunkOwner, Part};
use crate::message::{Block, ChunkName, DiskIndex, Refusal, Reply, Request};
use crate::object::api::{BodyBlock, ObjectError};
use buckets_env::{AlignedBuf, Instant};
use buckets_ring::coding::Coding;
use buckets_stripe::{Codec, Piece, StripeLayout};
use futures::channel::oneshot;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, select_biased};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a body that are read together: while these are sent, as many are on their way.
pub(super) const WINDOW_BYTES: u32 = 1 << 20;
/// How long a disk may take before others are asked too.
const HEDGE_AFTER: Duration = Duration::from_millis(20);
/// Second asks for each read, on average.
const HEDGES_PER_READ: f64 = 0.1;
/// Second asks that can be saved up: a disk that becomes slow is asked last after a few.
const HEDGES_SAVED_MAX: f64 = 64.0;

/// How many second asks a core may still send. Without a limit they would double the reads, and the memory that these
/// take, just when there are too many of them.
pub(crate) struct Hedges {
    saved: Cell<f64>,
}

impl Hedges {
    pub(crate) fn new() -> Hedges {
        Hedges { saved: Cell::new(HEDGES_SAVED_MAX) }
    }

    /// A read was begun.
    fn save(&self) {
        self.saved.set((self.saved.get() + HEDGES_PER_READ).min(HEDGES_SAVED_MAX));
    }

    fn take(&self) -> bool {
        let left = self.saved.get() - 1.0;
        if left >= 0.0 {
            self.saved.set(left);
        }
        left >= 0.0
    }
}

/// Blocks of one window by (chunk, stripe).
pub(super) type Window = BTreeMap<(u8, u32), Block>;

/// A range of a part on its way out.
pub(crate) struct PartStream {
    reader: Rc<PartReader>,
    range: Range<u64>,
    ready: VecDeque<BodyBlock>,
    /// The share of memory of what is ready.
    ready_held: Option<Held>,
    /// The first stripe of the next window to ask for, and the end.
    stripes: Range<u32>,
    coming: Option<Coming>,
}

/// A window on its way.
struct Coming {
    stripes: Range<u32>,
    held: Held,
    window: oneshot::Receiver<Result<Window, ObjectError>>,
}

impl PartStream {
    /// `range` is within the part.
    pub(crate) fn new(
        core: &Rc<Core>,
        part: &Part,
        range: Range<u64>,
        owner: &Rc<ChunkOwner>,
    ) -> Result<PartStream, ObjectError> {
        let reader = PartReader::new(core, part, Some(owner.clone()))?;
        let stripes = reader.stripes(&range);
        Ok(PartStream {
            reader: Rc::new(reader),
            range,
            ready: VecDeque::new(),
            ready_held: None,
            stripes,
            coming: None,
        })
    }

    /// The next bytes; `None` at the end of the range.
    pub(crate) async fn next(&mut self) -> Result<Option<BodyBlock>, ObjectError> {
        loop {
            if let Some(block) = self.ready.pop_front() {
                return Ok(Some(block));
            }
            // What was ready is sent: its memory is for others.
            self.ready_held = None;
            if self.coming.is_none() {
                if self.stripes.is_empty() {
                    return Ok(None);
                }
                let held = self.reader.core.body_share(self.window_bytes()).await?;
                self.read_ahead(held);
            }
            let Some(Coming { stripes, held, window }) = self.coming.take() else { return Ok(None) };
            let window =
                window.await.map_err(|_| ObjectError::Internal("a reading task went away".into()))??;
            self.ready_held = Some(held);
            // Reading ahead is for when there is room.
            if !self.stripes.is_empty()
                && let Some(held) = self.reader.core.body_bytes.try_take(self.window_bytes())
            {
                self.read_ahead(held);
            }
            self.lay_out(stripes, &window)?;
        }
    }

    /// Bytes of the next window.
    fn window_bytes(&self) -> usize {
        self.reader.bytes_of(&self.next_window())
    }

    fn next_window(&self) -> Range<u32> {
        let end = self.stripes.end.min(self.stripes.start + self.reader.stripes_per(WINDOW_BYTES));
        self.stripes.start..end
    }

    /// Starts reading the next window.
    fn read_ahead(&mut self, held: Held) {
        let stripes = self.next_window();
        self.stripes.start = stripes.end;
        let (window_tx, window_rx) = oneshot::channel();
        let (reader, wanted) = (self.reader.clone(), stripes.clone());
        let range = self.range.clone();
        self.reader.core.env.spawn(async move {
            let _ = window_tx.send(reader.read_window(wanted, &range).await);
        });
        self.coming = Some(Coming { stripes, held, window: window_rx });
    }

    fn lay_out(&mut self, stripes: Range<u32>, window: &Window) -> Result<(), ObjectError> {
        for piece in self.reader.pieces(stripes, &self.range) {
            let block = window
                .get(&(piece.chunk, piece.stripe))
                .filter(|block| piece.offset + piece.len <= block.len)
                .ok_or_else(|| ObjectError::Internal("a block is shorter than its manifest says".into()))?;
            let bytes = block.data.slice(piece.offset as usize..(piece.offset + piece.len) as usize);
            self.ready.push_back(BodyBlock::Chunk(bytes));
        }
        Ok(())
    }
}

/// Notes how long a read of a disk took, or was waited for.
struct Noted<'a> {
    core: &'a Core,
    disk: DiskIndex,
    start: Instant,
    answered: bool,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let took = self.core.env.now().since(self.start);
        // One that its client gave up at once says nothing.
        if self.answered || took >= HEDGE_AFTER {
            self.core.read_latencies.note(self.disk, took, self.core.env.now());
        }
    }
}

/// Reads blocks of a part.
pub(super) struct PartReader {
    core: Rc<Core>,
    codec: Rc<Codec>,
    part: Part,
    layout: StripeLayout,
    /// Who is told of chunks that are not whole.
    owner: Option<Rc<ChunkOwner>>,
}

impl PartReader {
    pub(super) fn new(
        core: &Rc<Core>,
        part: &Part,
        owner: Option<Rc<ChunkOwner>>,
    ) -> Result<PartReader, ObjectError> {
        let placement = &part.placement;
        let damaged = || ObjectError::Internal("a part's placement is not valid".into());
        let coding = Coding::new(placement.k, placement.m).ok_or_else(damaged)?;
        let layout = StripeLayout::from_stored(placement.k, placement.block_bytes).ok_or_else(damaged)?;
        Ok(PartReader { core: core.clone(), codec: core.codec(coding), part: part.clone(), layout, owner })
    }

    /// The stripes that hold a range.
    pub(super) fn stripes(&self, range: &Range<u64>) -> Range<u32> {
        self.layout.stripes_of(self.part.size, range)
    }

    /// How many stripes have so many bytes of the body; one at least.
    pub(super) fn stripes_per(&self, bytes: u32) -> u32 {
        (bytes / self.layout.stripe_bytes()).max(1)
    }

    /// Bytes of the body in some stripes, or a little more.
    pub(super) fn bytes_of(&self, stripes: &Range<u32>) -> usize {
        let part = usize::try_from(self.part.size).unwrap_or(usize::MAX);
        (stripes.len() * self.layout.stripe_bytes() as usize).min(part)
    }

    fn pieces(&self, stripes: Range<u32>, range: &Range<u64>) -> impl Iterator<Item = Piece> + use<> {
        let (layout, size, range) = (self.layout, self.part.size, range.clone());
        stripes
            .filter_map(move |number| layout.stripe(size, number))
            .flat_map(move |stripe| layout.pieces_of(stripe, range.clone()))
    }

    async fn read_window(&self, stripes: Range<u32>, range: &Range<u64>) -> Result<Window, ObjectError> {
        let mut window = Window::new();
        let mut wanted = BTreeSet::new();
        for piece in self.pieces(stripes.clone(), range) {
            let cached = self.core.block_cache.borrow_mut().get(self.chunk(piece.chunk), piece.stripe);
            match cached {
                Some(block) => drop(window.insert((piece.chunk, piece.stripe), block)),
                None => drop(wanted.insert((piece.chunk, piece.stripe))),
            }
        }
        let (Some(first), Some(last)) = (wanted.iter().map(|w| w.1).min(), wanted.iter().map(|w| w.1).max())
        else {
            return Ok(window);
        };
        let chunks: BTreeSet<u8> = wanted.iter().map(|w| w.0).collect();
        let read = self.read_chunks(first..last + 1, &chunks).await?;
        let mut cache = self.core.block_cache.borrow_mut();
        for (at, block) in read {
            cache.insert(self.chunk(at.0), at.1, block.clone());
            window.insert(at, block);
        }
        Ok(window)
    }

    fn is_slow(&self, disk: DiskIndex) -> bool {
        self.core.read_latencies.is_slow(disk, self.core.env.now())
    }

    /// The blocks of `stripes` of the chunks `wanted`.
    pub(super) async fn read_chunks(
        &self,
        stripes: Range<u32>,
        wanted: &BTreeSet<u8>,
    ) -> Result<Window, ObjectError> {
        let k = self.codec.k();
        let mut have: BTreeMap<u8, Vec<Block>> = BTreeMap::new();
        let mut spare: VecDeque<u8> = VecDeque::new();
        let mut reads = FuturesUnordered::new();
        for number in self.order() {
            match self.disk(number) {
                // Slow disks come last, wanted or not: rebuilding from the others is faster.
                Some(disk) if wanted.contains(&number) && !self.is_slow(disk) => {
                    reads.push(self.read_chunk(number, disk, stripes.clone()));
                }
                Some(_) => spare.push_back(number),
                None => {}
            }
        }
        // With all wanted chunks on their way nothing else is asked; with one of them out of reach, any K will do.
        let mut need_any_k = reads.len() < wanted.len();
        self.core.hedges.save();
        let mut hedge = Box::pin(self.core.env.sleep(HEDGE_AFTER).fuse());
        let mut last_refusal = Refusal::ChunkMissing;
        loop {
            let all_wanted = wanted.iter().all(|number| have.contains_key(number));
            if all_wanted || (need_any_k && have.len() >= k) {
                break;
            }
            while need_any_k && have.len() + reads.len() < k {
                let Some(number) = spare.pop_front() else {
                    let found = have.len() + reads.len();
                    return Err(ObjectError::Unavailable(format!(
                        "{found} of {k} needed chunks can be read ({last_refusal})"
                    )));
                };
                if let Some(disk) = self.disk(number) {
                    reads.push(self.read_chunk(number, disk, stripes.clone()));
                }
            }
            select_biased! {
                (number, answer) = reads.select_next_some() => match answer {
                    Ok(blocks) => drop(have.insert(number, blocks)),
                    Err(refusal) => {
                        self.note(number, &refusal);
                        last_refusal = refusal;
                        need_any_k = true;
                    }
                },
                () = hedge => {
                    // Whoever is late is still welcome; as many others are asked as there are late ones, unless all
                    // are late: where the node has too much to do, more of it does not help.
                    for _ in 0..reads.len().min(spare.len()) {
                        if !self.core.hedges.take() {
                            break;
                        }
                        let Some(disk) = spare.pop_front().and_then(|number| Some((number, self.disk(number)?)))
                        else {
                            continue;
                        };
                        count(&self.core.counters.reads_hedged, 1);
                        reads.push(self.read_chunk(disk.0, disk.1, stripes.clone()));
                        need_any_k = true;
                    }
                    // Those that were asked now may hang, too: one node has several disks.
                    if !spare.is_empty() {
                        hedge = Box::pin(self.core.env.sleep(HEDGE_AFTER).fuse());
                    }
                }
            }
        }
        drop(reads);
        self.assemble(stripes, wanted, have).await
    }

    /// Picks the wanted blocks, rebuilding those that were not read.
    async fn assemble(
        &self,
        stripes: Range<u32>,
        wanted: &BTreeSet<u8>,
        have: BTreeMap<u8, Vec<Block>>,
    ) -> Result<Window, ObjectError> {
        let mut window = Window::new();
        let lost: Vec<u8> = wanted.iter().copied().filter(|number| !have.contains_key(number)).collect();
        for (i, stripe) in stripes.clone().enumerate() {
            for (number, blocks) in have.iter().filter(|(number, _)| wanted.contains(number)) {
                window.insert((*number, stripe), blocks[i].clone());
            }
            if lost.is_empty() {
                continue;
            }
            let shape = self
                .layout
                .stripe(self.part.size, stripe)
                .ok_or_else(|| ObjectError::Internal("a stripe lies outside its part".into()))?;
            let (len, slot) = (shape.block_bytes as usize, shape.block_disk_bytes() as usize);
            let mut rebuilt: Vec<AlignedBuf> = lost.iter().map(|_| AlignedBuf::zeroed(slot)).collect();
            {
                let present: Vec<(u8, &[u8])> =
                    have.iter().map(|(number, blocks)| (*number, &blocks[i].data[..len])).collect();
                let mut out: Vec<&mut [u8]> = rebuilt.iter_mut().map(|buf| &mut buf[..len]).collect();
                self.codec
                    .reconstruct(&present, &lost, &mut out)
                    .map_err(|e| ObjectError::Internal(e.to_string()))?;
            }
            count(&self.core.counters.blocks_reconstructed, lost.len() as u64);
            for (number, buf) in lost.iter().zip(rebuilt) {
                window.insert((*number, stripe), Block { data: buf.freeze(), len: len as u32 });
            }
            self.core.env.yield_if_needed().await;
        }
        Ok(window)
    }

    async fn read_chunk(
        &self,
        number: u8,
        disk: DiskIndex,
        stripes: Range<u32>,
    ) -> (u8, Result<Vec<Block>, Refusal>) {
        // Also of a read that is given up, because another one was faster.
        let mut noted = Noted { core: &self.core, disk, start: self.core.env.now(), answered: false };
        let request = Request::ChunkRead {
            disk,
            chunk: self.chunk(number),
            block: stripes.start,
            count: stripes.end - stripes.start,
        };
        let answer = match self.core.ask_disk(disk, request).await {
            Ok(Reply::Blocks(blocks)) if self.fits(&stripes, &blocks) => Ok(blocks),
            Ok(_) => Err(Refusal::ChunkDamaged),
            Err(refusal) => Err(refusal),
        };
        noted.answered = true;
        (number, answer)
    }

    /// Whether the blocks are as many and as long as the manifest says.
    fn fits(&self, stripes: &Range<u32>, blocks: &[Block]) -> bool {
        blocks.len() == stripes.len()
            && stripes.clone().zip(blocks).all(|(number, block)| {
                self.layout.stripe(self.part.size, number).is_some_and(|shape| {
                    shape.block_bytes == block.len && block.data.len() >= block.len as usize
                })
            })
    }

    fn note(&self, number: u8, refusal: &Refusal) {
        match refusal {
            Refusal::ChunkMissing => count(&self.core.counters.chunks_missing, 1),
            Refusal::ChunkDamaged => count(&self.core.counters.blocks_damaged, 1),
            _ => {}
        }
        let object = self.part.object;
        tracing::warn!(%object, chunk = number, %refusal, "a chunk could not be read, others are read instead");
        if let (Refusal::ChunkMissing | Refusal::ChunkDamaged, Some(owner)) = (refusal, &self.owner) {
            self.core.suspect(owner, object, number);
        }
    }

    /// Chunk numbers, the cheapest first: data before parity, slow disks last.
    fn order(&self) -> Vec<u8> {
        let mut order: Vec<u8> = (0..self.part.placement.disks.len() as u8).collect();
        order.sort_by_key(|number| self.disk(*number).is_some_and(|disk| self.is_slow(disk)));
        order
    }

    /// Where a chunk is; `None` where it was not placed or its disk cannot be read.
    fn disk(&self, number: u8) -> Option<DiskIndex> {
        let placement = &self.part.placement;
        if placement.missing & (1 << number) != 0 {
            return None;
        }
        let place = *placement.disks.get(usize::from(number))?;
        let disk = self.core.map.disk_at(placement.set, place)?;
        self.core.map.is_readable(disk).then_some(disk)
    }

    fn chunk(&self, number: u8) -> ChunkName {
        ChunkName { object: self.part.object, number }
    }
}
