//! The log of one disk, on real files: an entry is appended by each of its replicas' leaders and durable when the pass ends.
//! The rows of the entries go into the replicas' indexes, as behind every commit, so that segments are freed again.

#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use buckets_benches::{BenchCore, BenchDir, is_measured};
use buckets_disk::{Disk, DiskOptions, FormatMode, LogEntry, ReplicaStore};
use buckets_env::Env;
use buckets_index::{BlockCache, IndexOptions, Position, WriteBatch};
use buckets_ring::coding::Coding;
use buckets_ring::format::{BlockChecksum, FormatJson};
use buckets_ring::id::{DeploymentId, DiskUuid, GroupId};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::cell::LazyCell;
use std::path::PathBuf;
use std::time::Instant;

const REPLICAS: u32 = 4;

/// An open disk and the replicas on it.
struct Log {
    disk: Disk,
    replicas: Vec<ReplicaStore>,
}

async fn opened(env: Env, dir: PathBuf) -> Log {
    let mut options = DiskOptions::new(IndexOptions::new(BlockCache::new(16 << 20)));
    if !is_measured() {
        options.wal_segment_bytes = 8 << 20;
        options.space_step_bytes = 16 << 20;
        options.space_file_bytes = 256 << 20;
    }
    let disks: Vec<DiskUuid> = (1..=4).map(|number| DiskUuid::from_random([number; 16])).collect();
    let format = FormatJson {
        deployment: DeploymentId::from_random([77; 16]),
        disk: disks[0],
        sets: vec![disks],
        coding: Coding::new(2, 2).unwrap(),
        block_checksum: BlockChecksum::Xxh3,
    };
    Disk::format(&env, &dir, &format, FormatMode::New, &options).await.unwrap();
    let disk = Disk::open(&env, &dir, options).await.unwrap().disk;
    let mut replicas = Vec::new();
    for group in 0..REPLICAS {
        replicas.push(disk.replica(GroupId(group)).await.unwrap());
    }
    Log { disk, replicas }
}

impl Log {
    /// Appends `count` entries of `data`, makes them durable together, and applies them.
    async fn append(&self, count: usize, data: &Bytes) {
        let mut last = None;
        for replica in self.replicas.iter().cycle().take(count) {
            let index = replica.last_index() + 1;
            let entry = LogEntry { term: 1, index, kind: 0, data: data.clone() };
            last = Some(replica.append(&[entry], None, None).unwrap());
            let mut batch = WriteBatch::new();
            batch.put(Bytes::copy_from_slice(&(index % 10_000).to_be_bytes()), data.clone());
            replica.index().back_pressure().await.unwrap();
            replica.index().apply(batch, Position { index, term: 1 });
        }
        let last = last.unwrap();
        self.disk.wal().durable(last).await.unwrap();
        assert!(self.disk.wal().durable_lsn() >= last);
    }
}

fn append(c: &mut Criterion) {
    let dir = BenchDir::new(env!("CARGO_TARGET_TMPDIR"), "log");
    let core = LazyCell::new(|| {
        let path = dir.path();
        BenchCore::start(|env| opened(env, path))
    });
    let mut group = c.benchmark_group("log_append");
    // A manifest, and one with a body of 4 KiB beside it.
    for entry_bytes in [350, 4396] {
        for count in [1, 32] {
            group.throughput(Throughput::Elements(count as u64));
            let id = BenchmarkId::new(format!("{count} at once"), entry_bytes);
            group.bench_function(id, |b| {
                b.iter_custom(|passes| {
                    core.run(move |log| async move {
                        let data = Bytes::from(vec![7; entry_bytes]);
                        let began = Instant::now();
                        for _ in 0..passes {
                            log.append(count, &data).await;
                        }
                        began.elapsed()
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
