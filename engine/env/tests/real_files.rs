//! Files on the real disk ring.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buckets_env::{ALIGNMENT, AlignedBuf, AlignedBytes, Env, File, OpenMode, WriteMode};
use futures::future::{FutureExt, join_all};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::on_core;

/// `pages` units whose bytes tell their place and `salt`.
fn pattern(pages: usize, salt: u8) -> AlignedBytes {
    let mut data = AlignedBuf::with_len(pages * ALIGNMENT);
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = (at / ALIGNMENT) as u8 ^ (at as u8).wrapping_mul(31) ^ salt;
    }
    data.freeze()
}

async fn create(env: &Env, path: &Path) -> File {
    env.open(path, OpenMode::CreateNew).await.unwrap()
}

/// Runs `body` on a core with a fresh directory.
fn with_directory<F, T>(body: impl FnOnce(Env, PathBuf) -> F + Send + 'static) -> T
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    on_core(move |env| body(env, path))
}

#[test]
fn what_was_written_is_read_back_in_every_size() {
    with_directory(|env, directory| async move {
        let file = create(&env, &directory.join("a")).await;
        // One unit, an odd number, exactly one piece, one unit more, several pieces and a rest.
        for (round, pages) in [1, 3, 7, 255, 256, 257, 511, 1027].into_iter().enumerate() {
            for mode in [WriteMode::Unflushed, WriteMode::Flushed] {
                let data = pattern(pages, round as u8);
                let offset = (round * 11 * ALIGNMENT) as u64;
                file.write_at(offset, data.clone(), mode).await.unwrap();
                file.sync_data().await.unwrap();
                let back = file.read_at(offset, data.len()).await.unwrap();
                assert!(back[..] == data[..], "{pages} pages");
            }
        }
        assert_eq!(file.size().await.unwrap(), ((7 * 11 + 1027) * ALIGNMENT) as u64);
    });
}

#[test]
fn a_slice_of_a_buffer_is_written_alone() {
    with_directory(|env, directory| async move {
        let file = create(&env, &directory.join("a")).await;
        let data = pattern(8, 1);
        file.write_at(0, data.slice(2 * ALIGNMENT..3 * ALIGNMENT), WriteMode::Flushed).await.unwrap();
        assert_eq!(file.size().await.unwrap(), ALIGNMENT as u64);
        assert!(file.read_at(0, ALIGNMENT).await.unwrap()[..] == data[2 * ALIGNMENT..3 * ALIGNMENT]);
    });
}

#[test]
fn reading_past_the_end_is_an_error_even_where_the_end_is_odd() {
    with_directory(|env, directory| async move {
        let path = directory.join("odd");
        std::fs::write(&path, vec![7u8; ALIGNMENT + 100]).unwrap();
        let file = env.open(&path, OpenMode::Existing).await.unwrap();
        assert_eq!(file.read_at(0, ALIGNMENT).await.unwrap()[..], [7u8; ALIGNMENT]);
        for (offset, len) in [(0, 2), (1, 1), (2, 1), (1, 600), (100, 1)] {
            let read = file.read_at(offset * ALIGNMENT as u64, len * ALIGNMENT).await;
            assert_eq!(read.err().unwrap().kind(), ErrorKind::UnexpectedEof, "{offset}+{len}");
        }
    });
}

#[test]
fn unaligned_io_is_refused() {
    with_directory(|env, directory| async move {
        let file = create(&env, &directory.join("a")).await;
        let data = pattern(2, 0);
        let invalid = |result: std::io::Result<()>| {
            assert_eq!(result.err().unwrap().kind(), ErrorKind::InvalidInput);
        };
        invalid(file.write_at(512, data.clone(), WriteMode::Unflushed).await);
        invalid(file.write_at(0, data.slice(0..100), WriteMode::Unflushed).await);
        invalid(file.write_at(0, data.slice(512..512 + ALIGNMENT), WriteMode::Unflushed).await);
        invalid(file.write_at(0, data.slice(0..0), WriteMode::Unflushed).await);
        invalid(file.read_at(1, ALIGNMENT).await.map(|_| ()));
        invalid(file.read_at(0, 1000).await.map(|_| ()));
        assert_eq!(file.size().await.unwrap(), 0);
    });
}

#[test]
fn open_respects_what_is_there() {
    with_directory(|env, directory| async move {
        let path = directory.join("a");
        let missing = env.open(&path, OpenMode::Existing).await;
        assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
        drop(create(&env, &path).await);
        let again = env.open(&path, OpenMode::CreateNew).await;
        assert_eq!(again.err().unwrap().kind(), ErrorKind::AlreadyExists);
        env.open(&path, OpenMode::Existing).await.unwrap();
    });
}

#[test]
fn reserved_space_reads_as_zeroes_and_holes_do_again() {
    with_directory(|env, directory| async move {
        let file = create(&env, &directory.join("a")).await;
        file.allocate(0, 1 << 20).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 1 << 20);
        assert!(file.read_at(0, 1 << 20).await.unwrap().iter().all(|&byte| byte == 0));
        file.write_at(0, pattern(256, 9), WriteMode::Flushed).await.unwrap();
        file.punch_hole(4 * ALIGNMENT as u64, 2 * ALIGNMENT as u64).await.unwrap();
        let back = file.read_at(0, 1 << 20).await.unwrap();
        let data = pattern(256, 9);
        let (hole, rest) = (4 * ALIGNMENT..6 * ALIGNMENT, 6 * ALIGNMENT..);
        assert!(back[..hole.start] == data[..hole.start]);
        assert!(back[hole].iter().all(|&byte| byte == 0));
        assert!(back[rest.clone()] == data[rest]);
        // Beyond the end only as far as asked.
        file.allocate(1 << 20, ALIGNMENT as u64).await.unwrap();
        assert_eq!(file.size().await.unwrap(), (1 << 20) + ALIGNMENT as u64);
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    with_directory(|env, directory| async move {
        let (first, second) = (directory.join("a"), directory.join("b"));
        let file = create(&env, &first).await;
        file.write_at(0, pattern(1, 3), WriteMode::Flushed).await.unwrap();
        env.rename(&first, &second).await.unwrap();
        env.sync_dir(&directory).await.unwrap();
        assert_eq!(file.size().await.unwrap(), ALIGNMENT as u64);
        assert_eq!(env.list_dir(&directory).await.unwrap(), ["b"]);
        env.remove_file(&second).await.unwrap();
        assert!(file.read_at(0, ALIGNMENT).await.unwrap()[..] == pattern(1, 3)[..]);
        assert_eq!(env.remove_file(&second).await.err().unwrap().kind(), ErrorKind::NotFound);
        assert!(env.list_dir(&directory).await.unwrap().is_empty());
        let missing = env.list_dir(&directory.join("none")).await;
        assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn directories_are_made_with_their_parents() {
    with_directory(|env, directory| async move {
        let deep = directory.join("x/y/z");
        env.create_dir_all(&deep).await.unwrap();
        env.create_dir_all(&deep).await.unwrap();
        assert!(deep.is_dir());
        std::fs::write(directory.join("file"), b"").unwrap();
        assert!(env.create_dir_all(&directory.join("file")).await.is_err());
        assert!(env.create_dir_all(&directory.join("file/under")).await.is_err());
    });
}

#[test]
fn small_files_are_replaced_as_a_whole() {
    with_directory(|env, directory| async move {
        let path = directory.join("format.json");
        for content in [&b""[..], b"{}", &[b'x'; 100_000], b"short again"] {
            env.write_file_durably(&path, content).await.unwrap();
            assert_eq!(env.read_file(&path).await.unwrap(), content);
        }
        assert_eq!(env.list_dir(&directory).await.unwrap(), ["format.json"]);
        let space = env.disk_space(&directory).await.unwrap();
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
        let nowhere = env.write_file_durably(&directory.join("no/such/file"), b"x").await;
        assert_eq!(nowhere.err().unwrap().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn dropped_futures_leave_no_harm_behind() {
    with_directory(|env, directory| async move {
        let path = directory.join("a");
        let file = create(&env, &path).await;
        file.write_at(0, pattern(256, 5), WriteMode::Flushed).await.unwrap();
        for round in 0..200 {
            // Dropped before, while and after the kernel has them.
            for wait in 0..3 {
                let mut reads: Vec<_> = (0..8).map(|_| file.read_at(0, 1 << 18).boxed_local()).collect();
                for read in &mut reads {
                    assert!(read.now_or_never().is_none());
                }
                match wait {
                    0 => {}
                    1 => env.yield_now().await,
                    _ => env.sleep(Duration::from_micros(200 + round)).await,
                }
                drop(reads);
                // Buffers go back to the pool and are filled anew; the kernel must not write into them.
                let mine: Vec<AlignedBuf> = (0..8).map(|_| AlignedBuf::zeroed(1 << 18)).collect();
                env.yield_now().await;
                if wait == 2 && round % 50 == 0 {
                    env.sleep(Duration::from_millis(2)).await;
                }
                assert!(mine.iter().all(|buffer| buffer.iter().all(|&byte| byte == 0)));
            }
        }
        drop(file.write_at(0, pattern(256, 6), WriteMode::Flushed).now_or_never());
        // An abandoned open gives its descriptor back.
        let open_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        for _ in 0..100 {
            let mut open = env.open(&path, OpenMode::Existing).boxed_local();
            assert!((&mut open).now_or_never().is_none());
            env.yield_now().await;
            drop(open);
        }
        env.sleep(Duration::from_millis(50)).await;
        let open_after = std::fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open_after < open_before + 50, "{open_before} descriptors became {open_after}");
        assert!(file.read_at(0, 1 << 20).await.is_ok());
    });
}

#[test]
fn more_operations_than_a_device_takes_wait_their_turn() {
    with_directory(|env, directory| async move {
        let file = create(&env, &directory.join("a")).await;
        let data = pattern(1, 0);
        let writes =
            (0..2000u64).map(|at| file.write_at(at * ALIGNMENT as u64, data.clone(), WriteMode::Unflushed));
        for write in join_all(writes).await {
            write.unwrap();
        }
        let reads = (0..2000u64).map(|at| file.read_at(at * ALIGNMENT as u64, ALIGNMENT));
        for read in join_all(reads).await {
            assert!(read.unwrap()[..] == data[..]);
        }
        // Also where most of those that wait give up.
        let mut reads: Vec<_> =
            (0..1000u64).map(|at| file.read_at(at * ALIGNMENT as u64, ALIGNMENT).boxed_local()).collect();
        for read in &mut reads {
            let _ = read.now_or_never();
        }
        let kept = reads.split_off(990);
        drop(reads);
        for read in join_all(kept).await {
            assert!(read.unwrap()[..] == data[..]);
        }
    });
}

#[test]
fn sixty_four_writers_flush_side_by_side() {
    with_directory(|env, directory| async move {
        let file = create(&env, &directory.join("a")).await;
        file.allocate(0, 64 << 20).await.unwrap();
        let writers = (0..64u64).map(|writer| {
            let file = file.clone();
            async move {
                for round in 0..20u64 {
                    let offset = (writer * 20 + round) * ALIGNMENT as u64;
                    let mode = if round % 2 == 0 { WriteMode::Flushed } else { WriteMode::Unflushed };
                    file.write_at(offset, pattern(1, (writer + round) as u8), mode).await.unwrap();
                    if round % 2 == 1 {
                        file.sync_data().await.unwrap();
                    }
                }
            }
        });
        join_all(writers).await;
        for at in 0..64 * 20u64 {
            let (writer, round) = (at / 20, at % 20);
            let back = file.read_at(at * ALIGNMENT as u64, ALIGNMENT).await.unwrap();
            assert!(back[..] == pattern(1, (writer + round) as u8)[..], "writer {writer}, round {round}");
        }
    });
}

#[test]
fn a_core_that_ends_leaves_no_file_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("held");
    let held = path.clone();
    on_core(move |env| async move {
        let file = env.open(&held, OpenMode::CreateNew).await.unwrap();
        env.spawn(async move {
            std::future::pending::<()>().await;
            drop(file);
        });
        env.yield_now().await;
    });
    let open: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| *target == path)
        .collect();
    assert!(open.is_empty(), "{open:?}");
}
