//! Memory follows the limits, not the data; look-ups follow the levels, not the tables.

mod world;

use buckets_env::sim::Simulation;
use buckets_index::{BlockCache, IndexOptions, WriteBatch};
use bytes::Bytes;
use std::ops::Bound;
use world::{open, position};

fn key(number: u64) -> Bytes {
    Bytes::from(format!("bucket/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

#[test]
fn memory_and_reads_stay_bounded_while_the_index_grows() {
    const ROWS: u64 = 60_000;
    const CACHE_BYTES: usize = 256 << 10;
    const MEMTABLE_BYTES: usize = 256 << 10;
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let disk = node.disk("/disk");
    let outcome = node.run(0, |env| async move {
        let cache = BlockCache::new(CACHE_BYTES);
        let options = IndexOptions {
            memtable_bytes_max: MEMTABLE_BYTES,
            block_bytes: 4 << 10,
            table_bytes_max: 512 << 10,
            level1_bytes: 1 << 20,
            level_ratio: 4,
            ..IndexOptions::new(cache.clone())
        };
        let index = open(&env, &options).await.unwrap();
        let value = Bytes::from(vec![7u8; 100]);
        for number in 0..ROWS / 20 {
            index.back_pressure().await.unwrap();
            let mut batch = WriteBatch::new();
            for row in number * 20..(number + 1) * 20 {
                batch.put(key(row), value.clone());
            }
            index.apply(batch, position(number));
            let allowed = (options.frozen_memtables_max + 1) * (MEMTABLE_BYTES + 20 * 300);
            assert!(index.memtable_bytes() <= allowed, "{} over {allowed}", index.memtable_bytes());
            assert!(cache.counters().bytes <= CACHE_BYTES);
        }
        index.flush().await.unwrap();
        env.sleep(std::time::Duration::from_secs(5)).await;
        let counters = index.counters();
        assert!(counters.table_bytes > 20 * CACHE_BYTES as u64, "{counters:?}");
        let written = (counters.flushed_bytes + counters.compacted_bytes) as f64;
        let amplification = written / counters.flushed_bytes as f64;
        assert!(amplification < 8.0, "each flushed byte was written {amplification} times");

        // Foreign keys: the filters answer, and only their blocks and those they let through are read.
        let before = disk.io_counts().reads;
        for number in ROWS..ROWS + 2000 {
            assert_eq!(index.get(&key(number)).await.unwrap(), None);
        }
        let per_miss = (disk.io_counts().reads - before) as f64 / 2000.0;
        assert!(per_miss < 5.0, "{per_miss} reads for each key that is not there");

        // Opening reads the tail of each table and the two roots.
        index.close().await;
        let before = disk.io_counts().reads;
        let index = open(&env, &options).await.unwrap();
        let reads = disk.io_counts().reads - before;
        assert!(reads <= index.counters().tables * 2 + 4, "{reads} reads");
        let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
        let mut rows = 0;
        while scan.next().await.unwrap().is_some() {
            rows += 1;
            assert!(cache.counters().bytes <= CACHE_BYTES);
        }
        assert_eq!(rows, ROWS);
        drop(scan);
        index.close().await;
    });
    outcome.unwrap();
}

#[test]
fn many_small_flushes_do_not_rewrite_everything_each_time() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let outcome = node.run(0, |env| async move {
        let options = IndexOptions { block_bytes: 4 << 10, ..IndexOptions::new(BlockCache::new(1 << 20)) };
        let index = open(&env, &options).await.unwrap();
        let mut number = 0;
        let put = |row: u64, number: &mut u64| {
            let mut batch = WriteBatch::new();
            batch.put(key(row), vec![1u8; 100]);
            *number += 1;
            index.apply(batch, position(*number));
        };
        for row in 0..40_000 {
            put(row, &mut number);
        }
        index.flush().await.unwrap();
        let large = index.counters();
        for round in 0..100 {
            for row in 0..20 {
                put(40_000 + round * 20 + row, &mut number);
            }
            index.flush().await.unwrap();
            index.back_pressure().await.unwrap();
        }
        env.sleep(std::time::Duration::from_secs(5)).await;
        let counters = index.counters();
        assert!(counters.tables < 16, "{counters:?}");
        let compacted = counters.compacted_bytes - large.compacted_bytes;
        assert!(compacted < 2 * large.flushed_bytes, "{compacted} of {large:?}");
        assert_eq!(world::all_rows(&index).await.unwrap().len(), 42_000);
        index.close().await;
    });
    outcome.unwrap();
}

#[test]
fn a_full_disk_is_waited_out() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let disk = node.disk("/disk");
    let outcome = node.run(0, |env| async move {
        let index = open(&env, &world::small(1 << 20)).await.unwrap();
        let mut model = world::Model::new();
        let mut number = 0;
        let mut put = |index: &buckets_index::Index, number: u64| {
            let change = (key(number % 2000), Some(Bytes::from(vec![number as u8; 200])));
            index.apply(world::batch(std::slice::from_ref(&change)), position(number));
            world::apply_to_model(&mut model, &[change]);
        };
        disk.set_capacity(200 << 10);
        let full = loop {
            number += 1;
            put(&index, number);
            if env.timeout(std::time::Duration::from_secs(20), index.back_pressure()).await.is_none() {
                break index.flush().await;
            }
        };
        assert!(full.is_err_and(|error| error.is_full_disk()));
        assert!(index.failure().is_none());
        let flushed = index.flushed();
        let all = world::all_rows(&index).await.unwrap();
        disk.set_capacity(1 << 30);
        index.back_pressure().await.unwrap();
        index.flush().await.unwrap();
        assert!(index.flushed() > flushed);
        assert_eq!(index.flushed(), position(number));
        assert_eq!(all, model);
        assert_eq!(world::all_rows(&index).await.unwrap(), model);
        env.sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(env.list_dir(&world::dir()).await.unwrap().len() as u64, index.counters().tables + 2);
        index.close().await;
    });
    outcome.unwrap();
}

#[test]
fn deleted_rows_leave_the_disk() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let outcome = node.run(0, |env| async move {
        let index = open(&env, &world::small(1 << 20)).await.unwrap();
        let mut number = 0;
        for delete in [false, true] {
            for row in 0..3000 {
                let mut batch = WriteBatch::new();
                match delete {
                    true => batch.delete(key(row)),
                    false => batch.put(key(row), vec![1u8; 50]),
                }
                number += 1;
                index.back_pressure().await.unwrap();
                index.apply(batch, position(number));
            }
            index.flush().await.unwrap();
            env.sleep(std::time::Duration::from_secs(5)).await;
        }
        let counters = index.counters();
        assert!(counters.table_rows < 600, "{counters:?}");
        assert_eq!(world::all_rows(&index).await.unwrap().len(), 0);
        index.close().await;
    });
    outcome.unwrap();
}

#[test]
fn a_seek_reads_blocks_not_the_rows_between() {
    let simulation = Simulation::new(1);
    let node = simulation.node("a");
    let disk = node.disk("/disk");
    let outcome = node.run(0, |env| async move {
        let options = IndexOptions { block_bytes: 4 << 10, ..IndexOptions::new(BlockCache::new(1 << 20)) };
        let index = open(&env, &options).await.unwrap();
        for prefix in 0..20u64 {
            let mut batch = WriteBatch::new();
            for row in 0..1000 {
                batch.put(format!("prefix{prefix:02}/{row:04}"), vec![1u8; 100]);
            }
            index.apply(batch, position(prefix + 1));
        }
        index.flush().await.unwrap();
        let before = disk.io_counts().bytes_read;
        let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
        let mut prefixes = Vec::new();
        while let Some((key, _)) = scan.next().await.unwrap() {
            let mut after = key[..9].to_vec();
            prefixes.push(Bytes::copy_from_slice(&after));
            after[8] = b'/' + 1;
            scan.seek(&after);
        }
        assert_eq!(prefixes.len(), 20);
        let read = disk.io_counts().bytes_read - before;
        assert!(read < index.counters().table_bytes / 5, "{read} of {}", index.counters().table_bytes);
        drop(scan);
        index.close().await;
    });
    outcome.unwrap();
}

#[test]
fn deleted_rows_give_their_space_back_where_it_is_short() {
    const ROWS: u64 = 4000;
    let simulation = Simulation::new(1);
    let outcome = simulation.node("a").run(0, |env| async move {
        let options = IndexOptions {
            memtable_bytes_max: 1 << 20,
            table_bytes_max: 1 << 20,
            level1_bytes: 64 << 20,
            ..IndexOptions::new(BlockCache::new(256 << 10))
        };
        let index = open(&env, &options).await.unwrap();
        let value = Bytes::from(vec![7u8; 8 << 10]);
        for number in 0..ROWS {
            index.back_pressure().await.unwrap();
            let mut batch = WriteBatch::new();
            batch.put(key(number), value.clone());
            index.apply(batch, position(number));
        }
        index.flush().await.unwrap();
        // Nothing is over its size: deletions alone change nothing.
        let pause = std::time::Duration::from_secs(5);
        for number in 0..ROWS / 2 {
            let mut batch = WriteBatch::new();
            batch.delete(key(number * 2));
            index.apply(batch, position(ROWS + number));
        }
        env.sleep(pause).await;
        let full = index.counters().table_bytes;
        assert!(full > ROWS * 8000, "{full} bytes");

        for _ in 0..10 {
            index.note_space(true);
            env.sleep(pause).await;
        }
        let left = index.counters().table_bytes;
        assert!(left < full * 55 / 100, "{left} of {full} bytes");
        for number in 0..ROWS {
            assert_eq!(index.get(&key(number)).await.unwrap().is_some(), number % 2 == 1, "{number}");
        }
        // And it ends.
        let compacted = index.counters().compactions;
        index.note_space(true);
        env.sleep(pause).await;
        assert_eq!(index.counters().compactions, compacted);
    });
    outcome.unwrap();
}
