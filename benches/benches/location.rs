//! Where an object is, as far as the core that leads its partition remembers: what a GET or HEAD does instead of reading and
//! decoding a row of the index.

#![expect(missing_docs, reason = "criterion's macros make public items")]

use buckets_benches::is_measured;
use buckets_engine::bench::RememberedLocations;
use buckets_engine::manifest::{Body, ETag, Manifest};
use buckets_engine::rows;
use buckets_index::WriteBatch;
use buckets_ring::id::{BucketId, ObjectId};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;

fn bucket() -> BucketId {
    BucketId::from_bytes([1; 16])
}

fn manifest(size: u64) -> Arc<Manifest> {
    Arc::new(Manifest {
        object: ObjectId::from_bytes([5; 16]),
        size,
        etag: ETag { md5: [6; 16], parts: 0 },
        modified_unix_ms: 1_700_000_000_000,
        headers: vec![("content-type".to_owned(), "image/jpeg".to_owned())],
        checksum: None,
        body: Body::Inline,
    })
}

fn keys(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("photos/2024/{number:09}.jpg")).collect()
}

fn location(c: &mut Criterion) {
    let mut group = c.benchmark_group("location");
    // What the CPU's caches hold, and what they do not.
    for count in [1000, if is_measured() { 100_000 } else { 2000 }] {
        let keys = keys(count);
        let locations = RememberedLocations::new(1 << 30);
        for (size, key) in keys.iter().enumerate() {
            locations.insert(bucket(), key, manifest(size as u64));
        }
        let mut at = 0;
        group.bench_function(BenchmarkId::new("hit", count), |b| {
            b.iter(|| {
                at = (at + 7919) % keys.len();
                locations.get(bucket(), black_box(&keys[at]))
            });
        });
        let found = |at: usize| locations.get(bucket(), &keys[at]).map(|manifest| manifest.size);
        assert!((0..keys.len()).all(|at| found(at) == Some(at as u64)));
        let absent = "photos/2023/000000000.jpg";
        group.bench_function(BenchmarkId::new("miss", count), |b| {
            b.iter(|| locations.get(bucket(), black_box(absent)));
        });
        assert_eq!(locations.get(bucket(), absent), None);
        let mut batch = WriteBatch::new();
        batch.put(rows::object(bucket(), absent.as_bytes()), manifest(0).encode());
        group.bench_function(BenchmarkId::new("applied batch of another key", count), |b| {
            b.iter(|| locations.apply(black_box(&batch)));
        });
        group.bench_function(BenchmarkId::new("insert and evict", count), |b| {
            let full = RememberedLocations::new(1 << 20);
            keys.iter().for_each(|key| full.insert(bucket(), key, manifest(0)));
            let mut at = 0;
            b.iter_batched(
                || manifest(1),
                |manifest| {
                    at = (at + 1) % keys.len();
                    full.insert(bucket(), &keys[at], manifest);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, location);
criterion_main!(benches);
