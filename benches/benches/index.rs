//! One index with a million rows such as a partition holds, on real files: a row by its key, a page of a listing, the whole
//! walk. The rows are more than the cache takes; "cached" asks for the same few again and again.

#![expect(missing_docs, reason = "criterion's macros make public items")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use buckets_benches::{BenchCore, BenchDir, is_measured};
use buckets_env::Env;
use buckets_index::{BlockCache, Index, IndexOptions, Position, WriteBatch};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::cell::LazyCell;
use std::ops::Bound;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Rows of a listing's page.
const PAGE: u64 = 1000;
/// A value as long as the manifest of a small object.
const VALUE_BYTES: usize = 110;
/// About a tenth of the rows.
const CACHE_BYTES: usize = 16 << 20;

fn rows() -> u64 {
    if is_measured() { 1_000_000 } else { 3 * PAGE }
}

fn key(row: u64) -> Bytes {
    // The kind and the bucket come first, as in a partition.
    Bytes::from(format!("o0123456789abcdefphotos/2024/{row:09}.jpg"))
}

fn value(row: u64) -> Bytes {
    let mut value = vec![row as u8; VALUE_BYTES];
    value[..8].copy_from_slice(&row.to_le_bytes());
    Bytes::from(value)
}

/// Rows far from each other, the same in every run.
fn scattered(step: u64) -> u64 {
    step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % rows()
}

/// An index that took its rows in an order of their own and has flushed and compacted them.
async fn filled(env: Env, dir: PathBuf) -> Index {
    let options = IndexOptions::new(BlockCache::new(CACHE_BYTES));
    let index = Index::open(&env, dir, [1; 16], options).await.unwrap();
    // Coprime to the number of rows: each comes once.
    let stride = 700_001;
    for (number, row) in (0..rows()).map(|at| at * stride % rows()).enumerate() {
        let mut batch = WriteBatch::new();
        batch.put(key(row), value(row));
        index.apply(batch, Position { index: number as u64 + 1, term: 1 });
        index.back_pressure().await.unwrap();
        env.yield_if_needed().await;
    }
    index.flush().await.unwrap();
    // Compactions go on behind a flush.
    let mut before = 0;
    while index.counters().compacted_bytes != before {
        before = index.counters().compacted_bytes;
        env.sleep(Duration::from_secs(1)).await;
    }
    index
}

/// What is asked of the index.
#[derive(Clone, Copy)]
enum Question {
    Get,
    /// For a key that is not there.
    Miss,
    /// For so many rows.
    Walk(u64),
}

impl Question {
    /// Asks, beginning with `row`, whose key is `key`. Panics where the answer is not what it must be.
    async fn ask(self, index: &Index, row: u64, key: &Bytes) {
        match self {
            Question::Get => {
                let value = index.get(key).await.unwrap().unwrap();
                assert_eq!(value[..8], row.to_le_bytes());
            }
            Question::Miss => assert_eq!(index.get(key).await.unwrap(), None),
            Question::Walk(count) => {
                let mut scan = index.scan(Bound::Included(key.clone()), Bound::Unbounded);
                for row in row..row + count {
                    let (_, value) = scan.next().await.unwrap().unwrap();
                    assert_eq!(value[..8], row.to_le_bytes());
                }
            }
        }
    }
}

fn index(c: &mut Criterion) {
    let dir = BenchDir::new(env!("CARGO_TARGET_TMPDIR"), "index");
    let core = LazyCell::new(|| {
        let path = dir.path();
        BenchCore::start(|env| filled(env, path))
    });
    let mut group = c.benchmark_group("index");
    // The row that the step with this number begins with.
    let mut bench = |name, question: Question, first: fn(u64) -> u64| {
        if let Question::Walk(count) = question {
            group.throughput(Throughput::Elements(count));
        }
        // Steps go on from pass to pass: the rows of the pass before are in the cache.
        let mut next = 0;
        group.bench_function(name, |b| {
            b.iter_custom(|steps| {
                let from = next;
                next += steps;
                core.run(move |index| async move {
                    let rows = (from..next).map(|step| {
                        let row = first(step);
                        let suffix = if matches!(question, Question::Miss) { "~" } else { "" };
                        (row, Bytes::from([&key(row)[..], suffix.as_bytes()].concat()))
                    });
                    let rows: Vec<(u64, Bytes)> = rows.collect();
                    let began = Instant::now();
                    for (row, key) in &rows {
                        question.ask(&index, *row, key).await;
                    }
                    began.elapsed()
                })
            });
        });
    };
    bench("get, cached", Question::Get, |step| scattered(step % 16));
    bench("get", Question::Get, scattered);
    bench("get of what is not there", Question::Miss, scattered);
    bench("page of 1,000, cached", Question::Walk(PAGE), |step| scattered(step % 4) % (rows() - PAGE));
    bench("page of 1,000", Question::Walk(PAGE), |step| scattered(step) % (rows() - PAGE));
    bench("walk of all rows", Question::Walk(rows()), |_| 0);
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = index
}
criterion_main!(benches);
