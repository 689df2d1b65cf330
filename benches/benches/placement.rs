//! From a key to its set, partition and disks: what every request computes first.

#![expect(missing_docs, reason = "criterion's macros make public items")]

use buckets_ring::id::{BucketId, ObjectId};
use buckets_ring::{HashRing, KeyHash, jump_hash, place};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

const KEYS: usize = 4096;

fn hashes() -> Vec<KeyHash> {
    let bucket = BucketId::from_bytes([1; 16]);
    (0..KEYS).map(|i| KeyHash::new(bucket, format!("photos/2024/{i}.jpg").as_bytes())).collect()
}

fn key_hash(c: &mut Criterion) {
    let bucket = BucketId::from_bytes([1; 16]);
    let mut group = c.benchmark_group("key_hash");
    for len in [16, 64, 256, 1024] {
        let key = vec![b'k'; len];
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| KeyHash::new(black_box(bucket), black_box(&key)).partition(6));
        });
    }
    group.finish();
}

fn ring_lookup(c: &mut Criterion) {
    let hashes = hashes();
    let mut group = c.benchmark_group("ring_lookup");
    for sets in [1u16, 16, 100, 1000] {
        let Some(ring) = HashRing::new(0..sets) else { unreachable!("there are sets") };
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(sets), |b| {
            b.iter(|| {
                at = (at + 1) % KEYS;
                ring.set_of(black_box(hashes[at]))
            });
        });
        assert!(hashes.iter().all(|hash| ring.set_of(*hash) < sets));
    }
    group.finish();
}

fn jump(c: &mut Criterion) {
    let hashes = hashes();
    let mut group = c.benchmark_group("jump_hash");
    for sets in [1u32, 16, 100, 1000] {
        let mut at = 0;
        group.bench_function(BenchmarkId::from_parameter(sets), |b| {
            b.iter(|| {
                at = (at + 1) % KEYS;
                jump_hash(black_box(hashes[at]), sets)
            });
        });
    }
    group.finish();
}

fn chunks_to_disks(c: &mut Criterion) {
    let object = ObjectId::from_bytes([5; 16]);
    let mut group = c.benchmark_group("place");
    for n in [4u8, 6, 20, 32] {
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| place(black_box(object), n, 0));
        });
        assert_eq!(place(object, n, 0).as_slice().len(), usize::from(n));
    }
    group.finish();
}

criterion_group!(benches, key_hash, ring_lookup, jump, chunks_to_disks);
criterion_main!(benches);
