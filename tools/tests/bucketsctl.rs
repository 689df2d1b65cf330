//! `bucketsctl` as operators use it: what it says, what it changes, and its exit codes.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

fn bucketsctl(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_bucketsctl")).args(args).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// A directory on the disk of the build (not a tmpfs), removed at the end.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Directories disk1, disk2, ... and the pattern that names them.
fn make_disks(directory: &tempfile::TempDir, disks: usize) -> String {
    (1..=disks).for_each(|disk| fs::create_dir_all(directory.path().join(format!("disk{disk}"))).unwrap());
    pattern(directory, disks)
}

fn pattern(directory: &tempfile::TempDir, disks: usize) -> String {
    format!("{}/disk{{1...{disks}}}", directory.path().display())
}

fn format_file(directory: &tempfile::TempDir, disk: usize) -> PathBuf {
    directory.path().join(format!("disk{disk}/.buckets.sys/format.json"))
}

fn formats(directory: &tempfile::TempDir, disks: usize) -> Vec<Vec<u8>> {
    (1..=disks).map(|disk| fs::read(format_file(directory, disk)).unwrap()).collect()
}

/// Every name below a directory, with the sizes of files.
fn everything(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
            found.insert(entry.path(), metadata.len());
        }
    }
    found
}

#[test]
fn formatted_disks_are_shown_and_degrade_as_they_vanish() {
    let directory = directory();
    let disks = make_disks(&directory, 4);
    let ran = bucketsctl(&["format", "--disks", &disks, "--ec", "2+2"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out.contains("next: bucketsd --disks"), "{}", ran.out);

    let shown = bucketsctl(&["topology", "show", "--disks", &disks, "--json"]);
    assert_eq!((shown.code, shown.json()["verdict"].as_str()), (0, Some("safe")), "{}", shown.out);
    assert_eq!(shown.json()["sets"][0]["disks"].as_array().unwrap().len(), 4);
    assert_eq!(shown.json()["problems"], Value::Array(Vec::new()));

    let config = directory.path().join("node.toml");
    fs::write(&config, format!("disks = [\"{disks}\"]")).unwrap();
    let by_config = bucketsctl(&["topology", "show", "--config", config.to_str().unwrap(), "--json"]);
    assert_eq!(by_config.json(), shown.json());

    fs::remove_dir_all(directory.path().join("disk2")).unwrap();
    let shown = bucketsctl(&["topology", "show", "--disks", &disks]);
    assert_eq!(shown.code, 3, "{}", shown.out);
    assert!(shown.out.starts_with("degraded: ") && shown.out.contains("1 more disk"), "{}", shown.out);
    assert!(shown.out.contains("! ") && shown.out.contains("disk2: cannot be read"), "{}", shown.out);

    fs::write(format_file(&directory, 3), "{}").unwrap();
    let shown = bucketsctl(&["topology", "show", "--disks", &disks]);
    assert_eq!(shown.code, 4, "{}", shown.out);
    assert!(shown.out.starts_with("at risk: "), "{}", shown.out);
}

#[test]
fn a_formatted_disk_is_only_destroyed_when_forced_and_named_first() {
    let directory = directory();
    let disks = make_disks(&directory, 2);
    let first = bucketsctl(&["format", "--disks", &disks, "--ec", "1+1", "--json"]);
    assert_eq!(first.code, 0, "{}", first.err);
    let deployment = first.json()["deploymentId"].as_str().unwrap().to_owned();
    let before = formats(&directory, 2);

    let refused = bucketsctl(&["format", "--disks", &disks, "--ec", "1+1"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains(&deployment) && refused.err.contains("--force"), "{}", refused.err);
    assert_eq!(formats(&directory, 2), before);

    let forced = bucketsctl(&[
        "format",
        "--disks",
        &disks,
        "--ec",
        "1+1",
        "--checksum",
        "blake2b",
        "--force",
        "--json",
    ]);
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert_ne!(forced.json()["deploymentId"].as_str(), Some(deployment.as_str()));
    assert!(forced.json()["disks"][0]["destroyed"].as_str().unwrap().contains(&deployment));
    let shown = bucketsctl(&["topology", "show", "--disks", &disks, "--json"]);
    assert_eq!((shown.code, shown.json()["blockChecksum"].as_str()), (0, Some("blake2b")));
}

#[test]
fn one_disk_that_cannot_be_formatted_leaves_all_as_they_were() {
    let directory = directory();
    fs::create_dir_all(directory.path().join("disk2/holiday")).unwrap();
    fs::write(directory.path().join("disk2/holiday/photo.jpg"), "precious").unwrap();
    fs::create_dir(directory.path().join("disk1")).unwrap();
    let before = everything(directory.path());
    for force in [None, Some("--force")] {
        let disks = pattern(&directory, 2);
        let mut args = vec!["format", "--disks", &disks, "--ec", "1+1"];
        args.extend(force);
        let ran = bucketsctl(&args);
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("holiday") && ran.err.contains("disk2"), "{}", ran.err);
        assert_eq!(everything(directory.path()), before);
    }
}

#[test]
fn a_disk_in_use_is_not_formatted() {
    let directory = directory();
    let disks = make_disks(&directory, 2);
    let disk = directory.path().join("disk1").to_str().unwrap().parse().unwrap();
    let _lock = buckets_tools::local_disks::DiskLock::acquire(&disk).unwrap();
    let ran = bucketsctl(&["format", "--disks", &disks, "--ec", "1+1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("in use by another process"), "{}", ran.err);
    assert_eq!(everything(directory.path()).len(), 2);
}

#[test]
fn swapped_disks_are_named_with_their_places() {
    let directory = directory();
    let disks = make_disks(&directory, 2);
    assert_eq!(bucketsctl(&["format", "--disks", &disks, "--ec", "1+1"]).code, 0);
    let path = |name: &str| directory.path().join(name);
    fs::rename(path("disk1"), path("aside")).unwrap();
    fs::rename(path("disk2"), path("disk1")).unwrap();
    fs::rename(path("aside"), path("disk2")).unwrap();
    let shown = bucketsctl(&["topology", "show", "--disks", &disks]);
    assert_eq!(shown.code, 4, "{}", shown.out);
    assert_eq!(shown.out.matches("where it belongs").count(), 2, "{}", shown.out);
}

#[test]
fn what_cannot_work_is_refused_with_one_sentence() {
    let directory = directory();
    let disks = pattern(&directory, 3);
    let ran = bucketsctl(&["format", "--disks", &disks, "--ec", "1+1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("name 2 or 4 disks"), "{}", ran.err);
    assert_eq!(everything(directory.path()).len(), 0);

    let ran = bucketsctl(&["format", "--disks", &pattern(&directory, 2), "--ec", "1+1"]);
    assert!(ran.code == 1 && ran.err.contains("disk2 does not exist"), "{}", ran.err);
    assert_eq!(everything(directory.path()).len(), 0);

    let ran = bucketsctl(&["topology", "show", "--disks", &disks]);
    assert_eq!(ran.code, 1);
    let ran = bucketsctl(&["topology", "show", "--disks", "http://node1:9000/mnt/disk1"]);
    assert!(ran.code == 1 && ran.err.contains("URL"), "{}", ran.err);

    for usage in
        [&["format", "--disks", "/d{1...4}", "--ec", "4"][..], &["format", "--ec", "2+2"], &["nonsense"], &[]]
    {
        assert_eq!(bucketsctl(usage).code, 2, "{usage:?}");
    }
}

#[test]
fn without_a_server_info_says_so() {
    let ran = bucketsctl(&["info", "--endpoint", "http://127.0.0.1:1"]);
    assert!(ran.code == 1 && ran.err.contains("BUCKETS_ROOT_ACCESS_KEY"), "{}", ran.err);
    let output = Command::new(env!("CARGO_BIN_EXE_bucketsctl"))
        .args(["info", "--endpoint", "http://127.0.0.1:1"])
        .env("BUCKETS_ROOT_ACCESS_KEY", "root")
        .env("BUCKETS_ROOT_SECRET_KEY", "root-secret")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is bucketsd running there?"));
}
