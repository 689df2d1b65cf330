//! Encoding, reconstruction and block checksums, one core, in bytes of body per second.

#![expect(missing_docs, reason = "criterion's macros make public items")]

use buckets_env::AlignedBuf;
use buckets_ring::id::{DeploymentId, DiskUuid, ObjectId};
use buckets_stripe::{BlockChecksum, ChunkIdentity, Codec, StripeLayout, checksum};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

/// K+M of the seeds, and the smallest.
const CODES: [(u8, u8); 5] = [(2, 2), (4, 2), (8, 4), (12, 4), (16, 4)];

/// Aligned as they are where bodies pass: across cache lines, coding takes half as long again.
fn blocks(count: usize, len: usize) -> Vec<AlignedBuf> {
    let block = |i: usize| {
        let mut block = AlignedBuf::with_len(len);
        block.iter_mut().enumerate().for_each(|(j, byte)| *byte = (j * 31 + i * 7 + (j >> 8)) as u8);
        block
    };
    (0..count).map(block).collect()
}

fn as_slices(blocks: &[AlignedBuf]) -> Vec<&[u8]> {
    blocks.iter().map(|block| &block[..]).collect()
}

fn as_mut_slices(blocks: &mut [AlignedBuf]) -> Vec<&mut [u8]> {
    blocks.iter_mut().map(|block| &mut block[..]).collect()
}

fn codec(k: u8, m: u8) -> Codec {
    match Codec::new(k.into(), m.into()) {
        Some(codec) => codec,
        None => unreachable!("{k}+{m} is a code"),
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    for (k, m) in CODES {
        let layout = StripeLayout::for_data_chunks(k);
        let codec = codec(k, m);
        let data = blocks(k.into(), layout.block_bytes() as usize);
        let mut parity = blocks(m.into(), layout.block_bytes() as usize);
        group.throughput(Throughput::Bytes(layout.stripe_bytes().into()));
        group.bench_function(BenchmarkId::from_parameter(format!("{k}+{m}")), |b| {
            b.iter(|| codec.encode(black_box(&as_slices(&data)), &mut as_mut_slices(&mut parity)));
        });
    }
    group.finish();
}

fn reconstruct(c: &mut Criterion) {
    let mut group = c.benchmark_group("reconstruct");
    for (k, m) in CODES {
        let layout = StripeLayout::for_data_chunks(k);
        let codec = codec(k, m);
        let mut chunks = blocks((k + m).into(), layout.block_bytes() as usize);
        let (data, parity) = chunks.split_at_mut(k.into());
        codec.encode(&as_slices(data), &mut as_mut_slices(parity));
        for lost in [1, m.min(k)] {
            let wanted: Vec<u8> = (0..lost).collect();
            let present: Vec<(u8, &[u8])> =
                (lost..lost + k).map(|n| (n, &chunks[usize::from(n)][..])).collect();
            let mut out = blocks(lost.into(), layout.block_bytes() as usize);
            group.throughput(Throughput::Bytes(layout.stripe_bytes().into()));
            group.bench_function(BenchmarkId::from_parameter(format!("{k}+{m} without {lost}")), |b| {
                b.iter(|| codec.reconstruct(black_box(&present), &wanted, &mut as_mut_slices(&mut out)));
            });
            assert_eq!(as_slices(&out), as_slices(&chunks[..usize::from(lost)]));
        }
    }
    group.finish();
}

fn block_checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    let identity = ChunkIdentity {
        deployment: DeploymentId::from_bytes([1; 16]),
        disk: DiskUuid::from_bytes([2; 16]),
        object: ObjectId::from_bytes([3; 16]),
        chunk: 0,
    };
    for kind in [BlockChecksum::Xxh3, BlockChecksum::Blake2b] {
        for len in [4 << 10, 64 << 10, 256 << 10] {
            let block = blocks(1, len).remove(0);
            let first = checksum(kind, &identity, 0, &block);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(kind.name(), len), |b| {
                b.iter(|| checksum(kind, &identity, 0, black_box(&block)));
            });
            assert_ne!(first, checksum(kind, &identity, 1, &block));
        }
    }
    group.finish();
}

criterion_group!(benches, encode, reconstruct, block_checksum);
criterion_main!(benches);
