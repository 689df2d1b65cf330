//! Measures the index's hot paths on the real environment: `index_bench DIRECTORY [ROWS]`.
//!
//! One core, rows like manifests (about 60 bytes of key, 300 of value, keys in random order). The directory is
//! made, filled and removed again. Each line shows the CPU time of the core's thread, which other work on the machine
//! hardly changes, and the wall time.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for a terminal")]

use buckets_env::Env;
use buckets_env::real::{CoreOptions, CoreWaker, run_core};
use buckets_index::{BlockCache, Index, IndexOptions, Position, WriteBatch};
use bytes::Bytes;
use std::ops::Bound;
use std::path::PathBuf;

const IDENTITY: [u8; 16] = [7; 16];
const VALUE_BYTES: usize = 300;

/// Spreads numbers over the key space.
fn mixed(number: u64) -> u64 {
    let x = (number ^ (number >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d)
}

fn key(number: u64) -> Bytes {
    let hash = mixed(number);
    Bytes::from(format!("\0\0\0\0\0\0\0\x2abackup/2024/{:02x}/photo-{hash:016x}.jpeg\0version1", hash >> 56))
}

struct Start {
    wall: std::time::Instant,
    cpu_nanos: u64,
}

/// What the scheduler says this thread has used.
fn cpu_nanos() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split(' ').next().unwrap().parse().unwrap()
}

fn begin() -> Start {
    Start { wall: std::time::Instant::now(), cpu_nanos: cpu_nanos() }
}

impl Start {
    fn tell(&self, what: &str, operations: u64) {
        let cpu = (cpu_nanos() - self.cpu_nanos) as f64 / operations as f64;
        let wall = self.wall.elapsed().as_nanos() as f64 / operations as f64;
        println!(
            "{what:44} {operations:>9}  {cpu:>9.0} ns CPU  {:>11.0} /CPU s  {wall:>9.0} ns wall",
            1e9 / cpu
        );
    }
}

async fn apply_rows(env: &Env, index: &Index, rows: std::ops::Range<u64>, wait: bool) {
    let value = Bytes::from(vec![0x5a; VALUE_BYTES]);
    for number in rows {
        let mut batch = WriteBatch::new();
        batch.put(key(number), value.clone());
        if wait && number % 64 == 0 {
            index.back_pressure().await.unwrap();
            env.yield_if_needed().await;
        }
        index.apply(batch, Position { index: number + 1, term: 1 });
    }
}

async fn gets(env: &Env, index: &Index, what: &str, count: u64, number: impl Fn(u64) -> u64, there: bool) {
    let keys: Vec<Bytes> = (0..count).map(|at| key(number(at))).collect();
    let start = begin();
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(index.get(key).await.unwrap().is_some(), there);
        if at % 64 == 0 {
            env.yield_if_needed().await;
        }
    }
    start.tell(what, count);
}

async fn scan_all(env: &Env, index: &Index, what: &str) -> u64 {
    let start = begin();
    let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
    let mut rows = 0u64;
    while let Some((key, value)) = scan.next().await.unwrap() {
        rows += 1;
        std::hint::black_box((key, value));
        if rows.is_multiple_of(256) {
            env.yield_if_needed().await;
        }
    }
    start.tell(what, rows);
    rows
}

async fn memory(env: &Env, dir: PathBuf, rows: u64) {
    let rows = rows.min(200_000);
    let mut options = IndexOptions::new(BlockCache::new(1 << 20));
    options.memtable_bytes_max = 1 << 30;
    let index = Index::open(env, dir, IDENTITY, options).await.unwrap();
    let keys: Vec<(Bytes, Bytes)> =
        (0..rows).map(|at| (key(at), Bytes::from(vec![1; VALUE_BYTES]))).collect();
    for (name, count) in [("apply, memtable of 8 MiB", 16_000), ("apply, memtable grows to all rows", rows)] {
        let start = begin();
        for (key, value) in keys.iter().take(count as usize) {
            let mut batch = WriteBatch::new();
            batch.put(key.clone(), value.clone());
            index.apply(batch, Position { index: 1, term: 1 });
        }
        start.tell(name, count.min(rows));
        let hits = count.min(rows);
        gets(env, &index, "  get, memtable hit", 500_000, |at| mixed(at) % hits, true).await;
        scan_all(env, &index, "  scan, memtable").await;
    }
    index.close().await;
}

async fn tables(env: &Env, dir: PathBuf, rows: u64) {
    let cache = BlockCache::new(1 << 30);
    let options = IndexOptions::new(cache.clone());
    let index = Index::open(env, dir.clone(), IDENTITY, options.clone()).await.unwrap();
    let start = begin();
    apply_rows(env, &index, 0..rows, true).await;
    start.tell("apply with flush and compaction", rows);
    index.flush().await.unwrap();
    start.tell("  and the last flush", rows);
    env.sleep(std::time::Duration::from_secs(2)).await;
    println!("{:?}", index.counters());
    index.close().await;

    let start = begin();
    let index = Index::open(env, dir, IDENTITY, options).await.unwrap();
    start.tell("open", 1);
    scan_all(env, &index, "scan, from the disk").await;
    let hot = 50_000.min(rows);
    gets(env, &index, "get, mostly from the disk", 20_000, |at| mixed(at) % rows, true).await;
    gets(env, &index, "get, hot set warms up", hot, |at| at, true).await;
    gets(env, &index, "get, hot set again", 500_000, |at| mixed(at) % hot, true).await;
    gets(env, &index, "get, not there (filters warm)", 200_000, |at| rows + at, false).await;
    println!("{:?}", cache.counters());

    for round in ["seek to 256 prefixes, cold", "seek to 256 prefixes, warm"] {
        let start = begin();
        let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
        let mut prefixes = 0;
        while let Some((key, _)) = scan.next().await.unwrap() {
            prefixes += 1;
            let mut after = key[..23].to_vec();
            after[22] += 1;
            scan.seek(&after);
        }
        start.tell(round, prefixes);
    }
    let start = begin();
    for at in 0..20_000 {
        let target = key(mixed(at) % hot);
        let (found, _) = index.first_at_or_after(&target[..40]).await.unwrap().unwrap();
        assert!(found >= target.slice(..40));
        if at % 16 == 0 {
            env.yield_if_needed().await;
        }
    }
    start.tell("first at or after, hot set", 20_000);
    let mut rows_read = 0;
    let start = begin();
    for at in 0..2_000 {
        let mut scan = index.scan(Bound::Included(key(mixed(at) % hot)), Bound::Unbounded);
        for _ in 0..1000 {
            rows_read += u64::from(scan.next().await.unwrap().is_some());
        }
        env.yield_if_needed().await;
    }
    start.tell("scan, 1,000 rows at a time, warm", rows_read);
    index.close().await;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next().map(PathBuf::from) else {
        println!("usage: index_bench DIRECTORY [ROWS]");
        return;
    };
    let rows = arguments.next().map_or(1_000_000, |rows| rows.parse().unwrap());
    let waker = CoreWaker::new().unwrap();
    let options = CoreOptions { cpu: None, index: 0, name: "bench".to_owned() };
    let base = directory.clone();
    let core = run_core(options, waker, move |env| async move {
        memory(&env, base.join("memory"), rows).await;
        tables(&env, base.join("tables"), rows).await;
    });
    core.unwrap().join();
    std::fs::remove_dir_all(&directory).unwrap();
}
