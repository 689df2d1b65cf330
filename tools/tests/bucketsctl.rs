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

/// A cluster file of 2+2 on two nodes, this machine with disk1 and disk2 and another one, and its path.
fn make_cluster(directory: &tempfile::TempDir, name: &str) -> String {
    make_disks(directory, 2);
    let path = directory.path().join(name).to_str().unwrap().to_owned();
    let own = format!("http://127.0.0.1:9100{}", pattern(directory, 2));
    let ran = bucketsctl(&[
        "topology",
        "new",
        "--ec",
        "2+2",
        "--out",
        &path,
        &own,
        "http://192.0.2.1:9100/mnt/disk{1...2}",
    ]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    path
}

fn format_cluster(cluster: &str, more: &[&str]) -> Ran {
    bucketsctl(&[&["format", "--cluster", cluster], more].concat())
}

/// Refused with and without force, in both cases in these words and without a change.
fn refused_even_with_force(directory: &tempfile::TempDir, cluster: &str, words: &[&str]) {
    let before = everything(directory.path());
    for force in [&[][..], &["--force"]] {
        let ran = format_cluster(cluster, force);
        assert_eq!(ran.code, 1, "{}", ran.out);
        for word in words.iter().chain(&["nothing was formatted"]) {
            assert!(ran.err.contains(word), "{word}: {}", ran.err);
        }
        assert_eq!(everything(directory.path()), before);
    }
}

#[test]
fn a_cluster_file_is_written_once_and_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let path = directory.path().join("cluster.toml");
    let endpoints = "http://node{1...6}:9100/mnt/disk{1...4}";
    let new = |more: &[&str]| {
        let args = ["topology", "new", "--ec", "8+4", "--out", path.to_str().unwrap(), endpoints];
        bucketsctl(&[&args[..], more].concat())
    };
    let dry = new(&["--dry-run"]);
    assert!(dry.code == 0 && dry.out.contains("nothing is written"), "{}{}", dry.out, dry.err);
    assert!(dry.out.contains("any 2 nodes at once may fail: reads and writes go on"), "{}", dry.out);
    assert!(dry.out.contains("2 of sets 0-1") && !dry.out.contains("UNAVAILABLE"), "{}", dry.out);
    assert_eq!(everything(directory.path()).len(), 0);

    let written = new(&["--json"]);
    assert_eq!(written.code, 0, "{}", written.err);
    let shown = written.json();
    assert_eq!(shown["nodeFailuresTolerated"], serde_json::json!({ "readsAndWrites": 2, "reads": 2 }));
    assert_eq!(shown["sets"][1]["disks"].as_array().unwrap().len(), 12);
    assert_eq!(shown["nodes"][5]["disksOfSets"][1], serde_json::json!({ "set": 1, "disks": 2 }));
    assert_eq!(
        (&shown["nodes"][5]["loss"], &shown["warnings"]),
        (&"tolerated".into(), &Value::Array(vec![]))
    );
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(shown["deploymentId"].as_str().unwrap()), "{text}");
    let secret = text.lines().find_map(|line| line.strip_prefix("secret = ")).unwrap().trim_matches('"');
    assert!(secret.len() == 44 && !written.out.contains(secret), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let again = new(&[]);
    assert!(again.code == 1 && again.err.contains("exists already"), "{}", again.err);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn what_a_node_costs_too_much_is_warned_of() {
    let dry =
        |ec: &str, endpoints: &str| bucketsctl(&["topology", "new", "--ec", ec, "--dry-run", endpoints]);
    let ran = dry("4+2", "http://node{1...2}:9100/mnt/disk{1...3}");
    assert!(ran.code == 0 && ran.out.contains("at worst the loss of one node"), "{}{}", ran.out, ran.err);
    assert_eq!(ran.out.matches("DATA IS UNAVAILABLE: it holds 3 disks of set 0").count(), 2, "{}", ran.out);
    let ran = dry("2+2", "http://node{1...2}:9100/mnt/disk{1...2}");
    assert!(
        ran.out.contains("reads only") && ran.out.contains("any node may fail and everything"),
        "{}",
        ran.out
    );
    for (ec, endpoints, word) in [
        ("4+2", "http://node{1...2}:9100/mnt/disk{1...2}", "name 0 or 6 disks"),
        ("2+2", "/mnt/disk{1...4}", "each disk stands with its node"),
    ] {
        let ran = dry(ec, endpoints);
        assert!(ran.code == 1 && ran.err.contains(word), "{}", ran.err);
    }
}

#[test]
fn formatting_a_node_again_changes_nothing() {
    let directory = directory();
    let cluster = make_cluster(&directory, "cluster.toml");
    let ran = format_cluster(&cluster, &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(!ran.out.contains("already"), "{}", ran.out);
    let before = (everything(directory.path()), formats(&directory, 2));
    // In use by a node, as it may be.
    let disk = directory.path().join("disk1").to_str().unwrap().parse().unwrap();
    let _lock = buckets_tools::local_disks::DiskLock::acquire(&disk).unwrap();
    for force in [&[][..], &["--force"], &["--node", "127.0.0.1:9100"]] {
        let ran = format_cluster(&cluster, force);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
        assert_eq!(ran.out.matches("(formatted already)").count(), 2, "{}", ran.out);
        assert!(ran.out.contains("nothing was to do"), "{}", ran.out);
    }
    let ran = format_cluster(&cluster, &["--json"]);
    assert_eq!(ran.json()["disks"][1]["formattedAlready"], Value::Bool(true), "{}", ran.out);
    assert_eq!((everything(directory.path()), formats(&directory, 2)), before);

    let ran = format_cluster(&cluster, &["--node", "node9:9100"]);
    assert!(ran.code == 1 && ran.err.contains("127.0.0.1:9100, 192.0.2.1:9100"), "{}", ran.err);
    for usage in [&["--disks", "/d{1...4}"][..], &["--ec", "2+2"], &["--checksum", "xxh3"]] {
        assert_eq!(format_cluster(&cluster, usage).code, 2, "{usage:?}");
    }
}

#[test]
fn a_node_shows_its_disks_and_knows_the_others_are_elsewhere() {
    let directory = directory();
    let cluster = make_cluster(&directory, "cluster.toml");
    assert_eq!(format_cluster(&cluster, &[]).code, 0);
    let shown = bucketsctl(&["topology", "show", "--cluster", &cluster]);
    assert_eq!((shown.code, shown.out.matches("elsewhere").count()), (0, 2), "{}{}", shown.out, shown.err);
    assert!(!shown.out.contains("! "), "{}", shown.out);
    let json = bucketsctl(&["topology", "show", "--cluster", &cluster, "--json"]).json();
    assert_eq!(json["node"], "http://127.0.0.1:9100");
    let disks = json["sets"][0]["disks"].as_array().unwrap();
    assert_eq!(disks.iter().filter(|disk| disk["elsewhere"] == Value::Bool(true)).count(), 2);
    assert!(disks.iter().all(|disk| disk["capacityBytes"] == Value::Null), "{json}");
    let config = directory.path().join("node.toml");
    fs::write(&config, "cluster = \"cluster.toml\"").unwrap();
    let by_config = bucketsctl(&["topology", "show", "--config", config.to_str().unwrap(), "--json"]);
    assert_eq!(by_config.json(), json);

    fs::remove_dir_all(directory.path().join("disk2")).unwrap();
    let shown = bucketsctl(&["topology", "show", "--cluster", &cluster]);
    assert_eq!((shown.code, shown.out.matches("! ").count()), (3, 1), "{}", shown.out);
    let other = make_cluster(&directory, "other.toml");
    let shown = bucketsctl(&["topology", "show", "--cluster", &other]);
    assert!(shown.code == 1 && shown.err.contains("name the right file"), "{}", shown.err);
}

#[test]
fn swapped_disks_of_a_node_are_refused_with_their_places() {
    let directory = directory();
    let cluster = make_cluster(&directory, "cluster.toml");
    assert_eq!(format_cluster(&cluster, &[]).code, 0);
    let path = |name: &str| directory.path().join(name);
    fs::rename(path("disk1"), path("aside")).unwrap();
    fs::rename(path("disk2"), path("disk1")).unwrap();
    fs::rename(path("aside"), path("disk2")).unwrap();
    refused_even_with_force(&directory, &cluster, &["disk1, where it belongs", "disk2, where it belongs"]);
}

#[test]
fn disks_of_another_deployment_are_only_destroyed_when_forced() {
    let directory = directory();
    let disks = make_disks(&directory, 2);
    let first = bucketsctl(&["format", "--disks", &disks, "--ec", "1+1", "--json"]);
    let deployment = first.json()["deploymentId"].as_str().unwrap().to_owned();
    let cluster = make_cluster(&directory, "cluster.toml");
    let before = formats(&directory, 2);
    let ran = format_cluster(&cluster, &[]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert_eq!(ran.err.matches(&deployment).count(), 2, "{}", ran.err);
    assert!(ran.err.contains("is expected there; mount the right disk"), "{}", ran.err);
    assert_eq!(formats(&directory, 2), before);
    let ran = format_cluster(&cluster, &["--force", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.json()["disks"][1]["destroyed"].as_str().unwrap().contains(&deployment), "{}", ran.out);
    assert_eq!(ran.json()["warnings"], Value::Array(Vec::new()));
    assert_eq!(bucketsctl(&["topology", "show", "--cluster", &cluster]).code, 0);
}

#[test]
fn an_emptied_disk_does_not_come_back_unless_forced() {
    let directory = directory();
    let cluster = make_cluster(&directory, "cluster.toml");
    assert_eq!(format_cluster(&cluster, &[]).code, 0);
    let formatted = formats(&directory, 2);
    fs::remove_dir_all(directory.path().join("disk2/.buckets.sys")).unwrap();
    let before = everything(directory.path());
    let ran = format_cluster(&cluster, &[]);
    assert!(ran.code == 1 && ran.err.contains("bucketsctl disk replace"), "{}{}", ran.out, ran.err);
    assert_eq!(everything(directory.path()), before);

    let marker = directory.path().join("disk1/.buckets.sys/wal");
    let unchanged = everything(&marker);
    let ran = format_cluster(&cluster, &["--force"]);
    assert_eq!((ran.code, ran.out.matches("(formatted already)").count()), (0, 1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("! ") && ran.out.contains("written again from the other disks"), "{}", ran.out);
    assert_eq!((everything(&marker), formats(&directory, 2)), (unchanged, formatted));
}

#[test]
fn only_an_empty_place_of_the_deployment_is_filled() {
    let directory = directory();
    let disks = make_disks(&directory, 2);
    assert_eq!(bucketsctl(&["format", "--disks", &disks, "--ec", "1+1"]).code, 0);
    let formatted = formats(&directory, 2);
    let place = |name: &str| directory.path().join(name).display().to_string();
    let replace = |name: &str, more: &[&str]| {
        bucketsctl(&[&["disk", "replace", &place(name), "--disks", &disks], more].concat())
    };
    let before = everything(directory.path());
    for (name, more, why) in [
        ("disk2", &[][..], "already; to write its chunks again"),
        ("disk2", &["--force"], "already; to write its chunks again"),
        ("disk3", &[], "no disk of this deployment belongs at"),
    ] {
        let ran = replace(name, more);
        assert!(ran.code == 1 && ran.err.contains(why), "{name} {more:?}: {}{}", ran.out, ran.err);
    }
    assert_eq!(everything(directory.path()), before);

    let disk = directory.path().join("disk2");
    fs::remove_dir_all(disk.join(".buckets.sys")).unwrap();
    fs::write(disk.join("photo.jpg"), "mine").unwrap();
    let ran = replace("disk2", &["--force"]);
    assert!(ran.code == 1 && ran.err.contains("photo.jpg"), "{}{}", ran.out, ran.err);
    fs::remove_file(disk.join("photo.jpg")).unwrap();
    let ran = replace("disk2", &["--json"]);
    assert_eq!((ran.code, ran.json()[0]["destroyed"].is_null()), (0, true), "{}", ran.err);
    assert_eq!(formats(&directory, 2), formatted);
    assert!(disk.join(".buckets.sys/rebuilding.json").is_file());
    assert!(!directory.path().join("disk1/.buckets.sys/rebuilding.json").exists());
    assert_eq!(bucketsctl(&["topology", "show", "--disks", &disks]).code, 0);
}

#[test]
fn a_disk_of_the_deployment_is_not_destroyed_even_when_its_files_are_lost() {
    let directory = directory();
    let cluster = make_cluster(&directory, "cluster.toml");
    assert_eq!(format_cluster(&cluster, &[]).code, 0);
    let identity = fs::read(format_file(&directory, 2)).unwrap();
    fs::write(format_file(&directory, 2), "{}").unwrap();
    refused_even_with_force(&directory, &cluster, &["disk2", "format.json cannot be used"]);
    fs::remove_file(format_file(&directory, 2)).unwrap();
    refused_even_with_force(&directory, &cluster, &["disk2", "restore the file, or replace the disk"]);
    fs::write(format_file(&directory, 2), identity).unwrap();

    let text = fs::read_to_string(&cluster).unwrap();
    fs::write(&cluster, text.replace("xxh3", "blake2b")).unwrap();
    refused_even_with_force(&directory, &cluster, &["restore the cluster file of that day"]);
    fs::write(&cluster, text).unwrap();

    fs::remove_file(directory.path().join("disk1/.buckets.sys/topology.json")).unwrap();
    refused_even_with_force(&directory, &cluster, &["disk1", "topology.json cannot be used"]);
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
