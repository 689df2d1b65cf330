//! Faults on purpose on real files. One test: what is set counts for the whole process.

mod support;

use buckets_env::real::set_disk_faults;
use buckets_env::{ALIGNMENT, AlignedBuf, AlignedBytes, DiskFaults, OpenMode, WriteMode};
use std::collections::BTreeMap;
use std::time::Duration;
use support::on_core;

const ALWAYS: u32 = 1_000_000;

fn page(of: u8) -> AlignedBytes {
    let mut page = AlignedBuf::with_len(ALIGNMENT);
    page.fill(of);
    page.freeze()
}

#[test]
fn each_fault_strikes_the_disk_that_it_is_set_for_until_it_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let (bad, well) = (directory.path().join("bad"), directory.path().join("well"));
    std::fs::create_dir(&bad).unwrap();
    std::fs::create_dir(&well).unwrap();
    let set = {
        let bad = bad.clone();
        move |faults: DiskFaults| set_disk_faults(BTreeMap::from([(bad.clone(), faults)]))
    };
    set(DiskFaults::default());
    on_core(move |env| async move {
        let file = env.open(&bad.join("a"), OpenMode::CreateNew).await.unwrap();
        let other = env.open(&well.join("a"), OpenMode::CreateNew).await.unwrap();
        let normal = DiskFaults::default();
        file.allocate(0, 16 * ALIGNMENT as u64).await.unwrap();
        file.write_at(0, page(1), WriteMode::Flushed).await.unwrap();
        other.write_at(0, page(1), WriteMode::Flushed).await.unwrap();
        let is_eio = |error: std::io::Error| error.raw_os_error() == Some(5);

        set(DiskFaults { read_error_per_million: ALWAYS, ..normal });
        assert!(is_eio(file.read_at(0, ALIGNMENT).await.unwrap_err()));
        assert_eq!(other.read_at(0, ALIGNMENT).await.unwrap()[0], 1);
        file.write_at(0, page(2), WriteMode::Flushed).await.unwrap();

        set(DiskFaults { write_error_per_million: ALWAYS, ..normal });
        assert!(is_eio(file.write_at(0, page(3), WriteMode::Unflushed).await.unwrap_err()));
        assert!(is_eio(file.allocate(0, ALIGNMENT as u64).await.unwrap_err()));
        assert_eq!(file.read_at(0, ALIGNMENT).await.unwrap()[0], 2);

        set(DiskFaults { flush_error_per_million: ALWAYS, ..normal });
        file.write_at(0, page(4), WriteMode::Unflushed).await.unwrap();
        assert!(is_eio(file.sync_data().await.unwrap_err()));
        assert!(is_eio(file.write_at(0, page(5), WriteMode::Flushed).await.unwrap_err()));

        set(DiskFaults { lost_write_per_million: ALWAYS, ..normal });
        file.write_at(0, page(6), WriteMode::Flushed).await.unwrap();
        set(DiskFaults { misdirected_write_per_million: ALWAYS, ..normal });
        file.write_at(0, page(7), WriteMode::Flushed).await.unwrap();
        set(DiskFaults { bit_rot_per_million: ALWAYS, ..normal });
        assert_ne!(file.read_at(0, ALIGNMENT).await.unwrap()[..], page(5)[..]);
        set(normal);
        assert_eq!(file.read_at(0, ALIGNMENT).await.unwrap()[..], page(5)[..]);
        assert_eq!(file.read_at(ALIGNMENT as u64, ALIGNMENT).await.unwrap()[..], page(7)[..]);

        set(DiskFaults { slow_factor: 100, ..normal });
        let began = env.now();
        file.sync_data().await.unwrap();
        file.write_at(0, page(8), WriteMode::Flushed).await.unwrap();
        assert!(env.now().since(began) > Duration::from_millis(1), "a hundred times a flush");
    });
}
