//! What the simulation promises to the tests that build on it.

mod durability;
mod executor;
mod faults;
mod network;
mod replay;

use super::SimNode;
use crate::{AlignedBuf, Env, File, OpenMode, WriteMode};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

pub(super) const PAGE: usize = 4096;

pub(super) fn page(value: u8) -> crate::AlignedBytes {
    let mut data = AlignedBuf::with_len(PAGE);
    data.fill(value);
    data.freeze()
}

pub(super) async fn create(env: &Env, path: &str) -> File {
    env.create_dir_all(Path::new(path).parent().unwrap()).await.unwrap();
    env.open(Path::new(path), OpenMode::CreateNew).await.unwrap()
}

/// A file of four zero pages whose name and content are durable.
pub(super) async fn durable_file(env: &Env, path: &str) -> File {
    let file = create(env, path).await;
    file.write_at(0, AlignedBuf::zeroed(4 * PAGE).freeze(), WriteMode::Flushed).await.unwrap();
    env.sync_dir(Path::new(path).parent().unwrap()).await.unwrap();
    file
}

/// The values of the sectors of one page after a crash.
pub(super) fn sectors(node: &SimNode, path: &str, page: usize) -> BTreeSet<u8> {
    let content = node.peek_file(path).unwrap();
    content[page * PAGE..(page + 1) * PAGE].chunks(512).flat_map(BTreeSet::from_iter).copied().collect()
}

/// Runs `test` with exactly these seeds, whatever the environment says: tests that must see every outcome need
/// all of them.
pub(super) fn each_seed(seeds: Range<u64>, mut test: impl FnMut(u64)) {
    struct Tell(u64);
    impl Drop for Tell {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {} failed", self.0);
            }
        }
    }
    for seed in seeds {
        let _tell = Tell(seed);
        test(seed);
    }
}
