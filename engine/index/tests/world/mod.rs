//! What the tests share: small limits, random rows, and a plain model to compare with.
#![allow(dead_code, reason = "each test binary uses its own part")]

use buckets_env::Env;
use buckets_env::sim::SimRng;
use buckets_index::{BlockCache, Index, IndexError, IndexOptions, Position, WriteBatch};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

pub(crate) type Model = BTreeMap<Bytes, Bytes>;

pub(crate) const IDENTITY: [u8; 16] = *b"identity of test";

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/disk/index")
}

/// Limits so small that a few hundred rows reach every level.
pub(crate) fn small(cache_bytes: usize) -> IndexOptions {
    IndexOptions {
        memtable_bytes_max: 6 << 10,
        block_bytes: 512,
        table_bytes_max: 16 << 10,
        level0_tables_trigger: 2,
        level0_tables_max: 4,
        level1_bytes: 32 << 10,
        level_ratio: 2,
        ..IndexOptions::new(BlockCache::new(cache_bytes))
    }
}

pub(crate) async fn open(env: &Env, options: &IndexOptions) -> Result<Index, IndexError> {
    Index::open(env, dir(), IDENTITY, options.clone()).await
}

pub(crate) fn position(index: u64) -> Position {
    Position { index, term: index / 100 }
}

/// A key out of few enough that it is often there already.
pub(crate) fn random_key(rng: &mut SimRng) -> Bytes {
    let number = rng.below(700);
    match rng.below(3) {
        0 => Bytes::from(format!("a/{}", number % 50)),
        1 => Bytes::from(format!("bucket/with/a/long/common/prefix/{number:08}")),
        _ => {
            let mut key = (number as u32).to_be_bytes().to_vec();
            key.resize(4 + number as usize % 40, (number % 251) as u8);
            Bytes::from(key)
        }
    }
}

pub(crate) fn random_value(rng: &mut SimRng) -> Bytes {
    let len = match rng.below(20) {
        0 => 0,
        1 => rng.below(9000),
        _ => rng.below(80),
    };
    let first = rng.below(256) as u8;
    Bytes::from((0..len).map(|i| first.wrapping_add(i as u8)).collect::<Vec<u8>>())
}

pub(crate) type Change = (Bytes, Option<Bytes>);

pub(crate) fn random_changes(rng: &mut SimRng) -> Vec<Change> {
    (0..rng.below(12))
        .map(|_| {
            let value = (rng.below(4) != 0).then(|| random_value(rng));
            (random_key(rng), value)
        })
        .collect()
}

pub(crate) fn batch(changes: &[Change]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key.clone(), value.clone()),
            None => batch.delete(key.clone()),
        }
    }
    batch
}

pub(crate) fn apply_to_model(model: &mut Model, changes: &[Change]) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.clone())),
            None => drop(model.remove(key)),
        }
    }
}

pub(crate) async fn all_rows(index: &Index) -> Result<Model, IndexError> {
    let mut scan = index.scan(Bound::Unbounded, Bound::Unbounded);
    let mut rows = Model::new();
    while let Some((key, value)) = scan.next().await? {
        assert!(rows.last_key_value().is_none_or(|(last, _)| *last < key), "rows come in order");
        rows.insert(key, value);
    }
    Ok(rows)
}
