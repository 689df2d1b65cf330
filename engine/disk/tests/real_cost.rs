//! What a disk costs on the real environment: latency of one client, batching of many, space of the log.
//!
//! `cargo test --release -p buckets-disk --test real_cost -- --ignored --nocapture --test-threads=1` prints the tables;
//! `BUCKETS_BENCH_DIR` names a directory on the file system to measure. The same code runs tiny with every test run,
//! so that it does not rot.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use buckets_disk::{Disk, DiskOptions, FormatMode};
use buckets_env::real::{CoreOptions, CoreWaker, run_core};
use buckets_env::{AlignedBuf, AlignedBytes, Env};
use buckets_index::{BlockCache, IndexOptions, Position, WriteBatch};
use buckets_ring::format::BlockChecksum;
use buckets_ring::id::GroupId;
use bytes::Bytes;
use futures::future::join_all;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
struct Effort {
    per_row: Duration,
    operations_max: u64,
    segment_bytes: u64,
    step_bytes: u64,
}

const TINY: Effort = Effort {
    per_row: Duration::from_millis(20),
    operations_max: 50,
    segment_bytes: 8 << 20,
    step_bytes: 16 << 20,
};
const FULL: Effort = Effort {
    per_row: Duration::from_secs(3),
    operations_max: 20_000,
    segment_bytes: 64 << 20,
    step_bytes: 1 << 30,
};

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("schedstat")) else { continue };
        sum += stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    Duration::from_nanos(sum)
}

/// Runs `clients` loops of `operation` (given its number) side by side and prints a row.
async fn row<O, F>(what: &str, clients: usize, effort: Effort, disk: &Disk, operation: O)
where
    O: Fn(u64) -> F,
    F: Future<Output = ()>,
{
    let latencies = RefCell::new(Vec::new());
    let next = Cell::new(0u64);
    let before = disk.counters();
    let (start, cpu_start) = (Instant::now(), cpu_time());
    join_all((0..clients).map(|_| async {
        while start.elapsed() < effort.per_row && next.get() < effort.operations_max {
            let number = next.replace(next.get() + 1);
            let began = Instant::now();
            operation(number).await;
            latencies.borrow_mut().push(began.elapsed());
        }
    }))
    .await;
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), (cpu_time() - cpu_start).as_secs_f64());
    let after = disk.counters();
    let mut sorted = latencies.into_inner();
    sorted.sort_unstable();
    let count = sorted.len() as f64;
    let micros = |hundredths: usize| sorted[(sorted.len() - 1) * hundredths / 100].as_secs_f64() * 1e6;
    println!(
        "{what:44} {clients:4} clients {:9.0}/s  {:6.1} us CPU  p50 {:7.0} us  p99 {:7.0} us  {:5.1} records/batch  {:7.0} log bytes  {:5.2} flushes",
        count / elapsed,
        cpu / count * 1e6,
        micros(50),
        micros(99),
        (after.wal_records - before.wal_records) as f64
            / (after.wal_batches - before.wal_batches).max(1) as f64,
        (after.wal_bytes - before.wal_bytes) as f64 / count,
        (after.data_flushes - before.data_flushes) as f64 / count,
    );
}

fn block(len: usize) -> AlignedBytes {
    let mut block = AlignedBuf::zeroed(len);
    block.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    block.freeze()
}

async fn measure(env: Env, dir: PathBuf, effort: Effort) {
    let mut options = DiskOptions::new(IndexOptions::new(BlockCache::new(64 << 20)));
    options.wal_segment_bytes = effort.segment_bytes;
    options.space_step_bytes = effort.step_bytes;
    options.space_file_bytes = effort.step_bytes * 16;
    let json = rig::format_json(BlockChecksum::Xxh3);
    let began = Instant::now();
    Disk::format(&env, &dir, &json, FormatMode::New, &options).await.unwrap();
    println!("format {:?}", began.elapsed());
    for small_flushed_bytes_max in [0, 1 << 20] {
        let options = DiskOptions { small_flushed_bytes_max, ..options.clone() };
        let began = Instant::now();
        let disk = Disk::open(&env, &dir, options).await.unwrap().disk;
        println!("open {:?}", began.elapsed());
        if small_flushed_bytes_max == 0 {
            measure_log(&disk, effort).await;
        }
        measure_chunks(&disk, effort, if small_flushed_bytes_max == 0 { "group flush" } else { "own flush" })
            .await;
        disk.close().await.unwrap();
    }
}

async fn measure_log(disk: &Disk, effort: Effort) {
    let mut replicas = Vec::new();
    for group in 0..4 {
        replicas.push(disk.replica(GroupId(group)).await.unwrap());
    }
    for (what, len) in [("append 350 B, durable", 350), ("append 4 KiB + 300 B, durable", 4396)] {
        for clients in [1, 8, 32, 128] {
            let data = Bytes::from(vec![7; len]);
            let (replicas, data) = (&replicas, &data);
            row(what, clients, effort, disk, |number| async move {
                let replica = &replicas[number as usize % 4];
                let index = replica.last_index() + 1;
                let entry = buckets_disk::LogEntry { term: 1, index, kind: 0, data: data.clone() };
                let lsn = replica.append(&[entry], None, None).unwrap();
                disk.wal().durable(lsn).await.unwrap();
                let mut batch = WriteBatch::new();
                batch.put(Bytes::copy_from_slice(&number.to_be_bytes()), data.clone());
                let position = Position { index: index.max(replica.index().applied().index), term: 1 };
                replica.index().apply(batch, position);
            })
            .await;
        }
    }
}

async fn measure_chunks(disk: &Disk, effort: Effort, how: &str) {
    let object = Cell::new(disk.counters().chunks_finished + if how == "own flush" { 1 << 32 } else { 0 });
    let next = || rig::chunk(object.replace(object.get() + 1), 0);
    for len in [4 << 10, 64 << 10, 256 << 10] {
        let data = block(len);
        for clients in [1, 8, 32] {
            let what = format!("write_small {} KiB, {how}", len >> 10);
            row(&what, clients, effort, disk, |_| {
                let (id, data) = (next(), data.clone());
                async move {
                    disk.chunks().write_small(id, data, len as u32, Bytes::from_static(b"o")).await.unwrap();
                    // Space stays bounded, and is written over as in a disk that is in use.
                    disk.chunks().delete(id).await.unwrap();
                }
            })
            .await;
        }
    }
    let data = block(256 << 10);
    for clients in [1, 8] {
        row("append 16 x 256 KiB, finish", clients, effort, disk, |_| {
            let (id, data) = (next(), data.clone());
            async move {
                for number in 0..16 {
                    disk.chunks().append(id, number, data.clone(), 256 << 10).await.unwrap();
                }
                disk.chunks().finish(id, Bytes::new()).await.unwrap();
                disk.chunks().delete(id).await.unwrap();
            }
        })
        .await;
    }
    let id = next();
    for number in 0..64 {
        disk.chunks().append(id, number, data.clone(), 256 << 10).await.unwrap();
    }
    disk.chunks().finish(id, Bytes::new()).await.unwrap();
    for (count, clients) in [(1, 1), (1, 8), (4, 8)] {
        row(&format!("read {count} x 256 KiB"), clients, effort, disk, |number| async move {
            disk.chunks().read(id, (number % 16) as u32 * 4, count).await.unwrap();
        })
        .await;
    }
}

fn run(effort: Effort) {
    let base = std::env::var_os("BUCKETS_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = base.join(format!("disk-{}-{}", std::process::id(), effort.operations_max));
    std::fs::create_dir_all(&dir).unwrap();
    let (report, ended) = mpsc::channel();
    let at = dir.clone();
    let options = CoreOptions { cpu: None, index: 0, name: "disk".to_owned() };
    let core = run_core(options, CoreWaker::new().unwrap(), move |env| async move {
        measure(env, at, effort).await;
        report.send(()).unwrap();
    });
    core.unwrap().join();
    let outcome = ended.recv();
    std::fs::remove_dir_all(&dir).unwrap();
    outcome.unwrap();
}

#[test]
fn a_disk_works_on_the_real_environment() {
    run(TINY);
}

#[test]
#[ignore = "measures for minutes"]
fn what_a_disk_costs() {
    run(FULL);
}
