//! A formatted disk in the simulator, and content that tells where it belongs.
#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use buckets_disk::{ChunkId, Disk, DiskOptions, FormatMode, LogEntry, OpenedDisk};
use buckets_env::sim::{SimNode, Simulation};
use buckets_env::{AlignedBuf, AlignedBytes, Env};
use buckets_index::{BlockCache, IndexOptions};
use buckets_ring::coding::Coding;
use buckets_ring::format::{BlockChecksum, FormatJson};
use buckets_ring::id::{DeploymentId, DiskUuid, ObjectId};
use bytes::Bytes;
use std::path::Path;

/// Where the disk is.
pub(crate) const PATH: &str = "/disk";

pub(crate) fn path() -> &'static Path {
    Path::new(PATH)
}

pub(crate) fn options() -> DiskOptions {
    DiskOptions::small(IndexOptions::new(BlockCache::new(256 << 10)))
}

pub(crate) fn disk_uuid(number: u8) -> DiskUuid {
    DiskUuid::from_random([number + 1; 16])
}

pub(crate) fn format_json(kind: BlockChecksum) -> FormatJson {
    FormatJson {
        deployment: DeploymentId::from_random([77; 16]),
        disk: disk_uuid(0),
        sets: vec![(0..4).map(disk_uuid).collect()],
        coding: Coding::new(2, 2).unwrap(),
        block_checksum: kind,
    }
}

pub(crate) async fn format(env: &Env, options: &DiskOptions) {
    let json = format_json(BlockChecksum::Xxh3);
    Disk::format(env, path(), &json, FormatMode::New, options).await.unwrap();
}

pub(crate) async fn open(env: &Env) -> OpenedDisk {
    Disk::open(env, path(), options()).await.unwrap()
}

/// A node with a formatted disk.
pub(crate) fn formatted(seed: u64) -> (Simulation, SimNode) {
    formatted_with(Simulation::new(seed), &options())
}

/// The same with other options.
pub(crate) fn formatted_with(simulation: Simulation, options: &DiskOptions) -> (Simulation, SimNode) {
    let node = simulation.node("n");
    node.disk(PATH);
    let options = options.clone();
    node.run(0, |env| async move { format(&env, &options).await }).unwrap();
    (simulation, node)
}

pub(crate) fn chunk(object: u64, number: u8) -> ChunkId {
    let mut id = [0u8; 16];
    id[..8].copy_from_slice(&object.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&object.to_be_bytes());
    ChunkId { object: ObjectId::from_bytes(id), number }
}

/// `len` bytes that no other seed gives.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; len];
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
    bytes
}

pub(crate) fn padded(data: &[u8]) -> AlignedBytes {
    AlignedBuf::padded_copy(data).freeze()
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) blocks: u32,
    pub(crate) block_bytes: u32,
    pub(crate) last_block_bytes: u32,
}

impl Content {
    pub(crate) fn len_of(&self, block: u32) -> u32 {
        if block + 1 == self.blocks { self.last_block_bytes } else { self.block_bytes }
    }

    pub(crate) fn block(&self, block: u32) -> Vec<u8> {
        bytes(self.seed << 20 | u64::from(block), self.len_of(block) as usize)
    }
}

/// Writes and finishes a chunk.
pub(crate) async fn write(
    disk: &Disk,
    id: ChunkId,
    content: &Content,
    owner: &'static [u8],
) -> Result<(), buckets_disk::ChunkWriteError> {
    for block in 0..content.blocks {
        let data = content.block(block);
        disk.chunks().append(id, block, padded(&data), data.len() as u32).await?;
    }
    disk.chunks().finish(id, Bytes::from_static(owner)).await
}

/// True where the chunk reads back as exactly this.
pub(crate) async fn holds(disk: &Disk, id: ChunkId, content: &Content) -> bool {
    let Ok(Some(shape)) = disk.chunks().shape(id).await else { return false };
    if (shape.blocks, shape.block_bytes, shape.last_block_bytes)
        != (content.blocks, content.block_bytes, content.last_block_bytes)
    {
        return false;
    }
    let Ok(blocks) = disk.chunks().read(id, 0, content.blocks).await else { return false };
    (0..content.blocks).zip(blocks).all(|(number, block)| block.data() == content.block(number))
}

pub(crate) fn entry(index: u64, term: u64, len: usize) -> LogEntry {
    LogEntry { term, index, kind: 1, data: Bytes::from(bytes(index << 16 | term, len)) }
}
