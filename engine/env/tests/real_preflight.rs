//! What a start finds out before any core runs, in one sentence each.

use buckets_env::real::{StartError, Warning, preflight, preflight_listen};
use std::path::Path;
use std::process::Command;

/// Set in the child process that runs with a small limit.
const CHILD: &str = "BUCKETS_TEST_CHILD";

#[test]
fn a_machine_that_runs_these_tests_passes_and_nothing_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let warnings = preflight(&[directory.path()]).unwrap();
    assert!(!warnings.iter().any(|warning| matches!(warning, Warning::NoDirectIo { .. })), "{warnings:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_disk_that_is_not_there_is_named() {
    let error = preflight(&[Path::new("/nowhere/at/all")]).err().unwrap();
    assert!(matches!(error, StartError::Disk { .. }));
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    // A place that is there but takes no files.
    let error = preflight(&[Path::new("/proc")]).err().unwrap();
    assert!(matches!(error, StartError::Disk { .. }), "{error}");
}

#[test]
fn too_little_lockable_memory_is_an_error_with_its_remedy() {
    if std::env::var_os(CHILD).is_some() {
        let error = preflight(&[]).err().unwrap();
        assert!(matches!(error, StartError::MemoryLock { bytes: 65_536 }), "{error}");
        assert!(error.to_string().contains("LimitMEMLOCK=infinity"), "{error}");
        return;
    }
    let status = Command::new("sh")
        .args([
            "-c",
            "ulimit -l 64 && exec \"$0\" --exact too_little_lockable_memory_is_an_error_with_its_remedy",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn open_files_are_raised_as_far_as_allowed() {
    if std::env::var_os(CHILD).is_some() {
        let warnings = preflight(&[]).unwrap();
        assert!(matches!(warnings[..], [Warning::FewOpenFiles { limit: 1000 }]), "{warnings:?}");
        return;
    }
    let status = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 1000 && ulimit -Sn 200 && exec \"$0\" --exact open_files_are_raised_as_far_as_allowed",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn an_address_of_another_machine_is_an_error() {
    let error = preflight_listen("192.0.2.1:9000".parse().unwrap()).err().unwrap();
    assert!(error.to_string().contains("192.0.2.1:9000"), "{error}");
}
