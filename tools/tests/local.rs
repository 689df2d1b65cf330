//! `bucketsctl local` as people use it: three nodes in real processes, one of which is lost and comes back.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use buckets_tools::admin_client::{AdminClient, AdminClientError};
use buckets_tools::credentials::Credentials;
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A cluster that does not outlive its test.
struct Cluster {
    _parent: tempfile::TempDir,
    directory: PathBuf,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// What a command said that did what it should.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}: {}{}", self.code, self.out, self.err))
    }
}

impl Cluster {
    /// On the disk of the build (not a tmpfs).
    fn new() -> Cluster {
        let parent = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let directory = parent.path().join("cluster");
        Cluster { _parent: parent, directory }
    }

    fn local(&self, args: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_bucketsctl"))
            .arg("local")
            .args(args)
            .arg("--dir")
            .arg(&self.directory)
            .env_clear()
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// How it is, by node.
    fn nodes(&self) -> Vec<Value> {
        self.local(&["status", "--json"]).json()["nodes"].as_array().unwrap().clone()
    }

    fn states(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node["state"].as_str().unwrap().to_owned()).collect()
    }

    fn pids(&self) -> Vec<Option<i64>> {
        self.nodes().iter().map(|node| node["pid"].as_i64()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.directory.exists() {
            // Where the test has failed already, this has nothing to add.
            let _ = self.local(&["remove"]);
        }
    }
}

/// The first of `count` ports that nobody uses, below those that the kernel gives to outgoing connections.
fn free_ports(count: u16) -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Not where another run of this test looks at the same time.
    let start = 12_000 + (std::process::id() % 400) as u16 * 40;
    (start..32_000).step_by(7).find(|first| (*first..first + count).all(is_free)).unwrap()
}

/// Leaders are elected, connections found to be broken: a client tries again.
fn eventually<T>(mut ask: impl FnMut() -> Result<T, AdminClientError>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_cluster_starts_loses_a_node_and_gets_it_back() {
    let cluster = Cluster::new();
    let port = free_ports(3).to_string();
    let ran = cluster.local(&["start", "--disks", "1", "--port", &port, "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let started = ran.json();
    assert_eq!((started["erasure"].as_str(), started["verdict"].as_str()), (Some("2+1"), Some("safe")));
    let text = |name: &str| started[name].as_str().unwrap().to_owned();
    let root = Credentials { access_key: text("accessKey"), secret_key: text("secretKey") };
    let clients: Vec<AdminClient> = started["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| AdminClient::new(endpoint.as_str().unwrap(), root.clone(), "us-east-1").unwrap())
        .collect();
    assert_eq!(clients.len(), 3);

    // More than fits beside the manifest.
    let body: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    eventually(|| clients[0].send("PUT", "/photos", &[], b""));
    eventually(|| clients[0].send("PUT", "/photos/first", &[], &body));
    assert_eq!(eventually(|| clients[1].send("GET", "/photos/first", &[], b"")), body);

    let before = cluster.pids();
    let killed = cluster.local(&["kill", "2"]);
    assert!(killed.code == 0 && killed.out.contains("killed"), "{}{}", killed.out, killed.err);
    let status = cluster.local(&["status", "--json"]);
    let node = &status.json()["nodes"][1];
    assert_eq!(
        (status.code, node["state"].as_str(), node["ready"].as_bool()),
        (4, Some("killed"), Some(false))
    );
    assert_eq!(eventually(|| clients[2].send("GET", "/photos/first", &[], b"")), body);
    let twice = cluster.local(&["kill", "2"]);
    assert!(twice.code == 1 && twice.err.contains("node 2 is not running"), "{}", twice.err);

    // What is running is left alone.
    let formatted = fs::metadata(cluster.directory.join("node1/disk1/.buckets.sys/format.json")).unwrap();
    let again = cluster.local(&["start", "--json"]);
    assert_eq!(again.code, 0, "{}", again.err);
    let after = cluster.pids();
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    assert!(after[1].is_some() && after[1] != before[1]);
    let now = fs::metadata(cluster.directory.join("node1/disk1/.buckets.sys/format.json")).unwrap();
    assert_eq!(now.modified().unwrap(), formatted.modified().unwrap());
    assert_eq!(eventually(|| clients[1].send("GET", "/photos/first", &[], b"")), body);

    assert_eq!(cluster.local(&["pause", "3"]).code, 0);
    assert_eq!(cluster.states(), ["running", "running", "paused"]);
    assert_eq!(cluster.local(&["resume", "3"]).code, 0);
    assert_eq!(cluster.states(), ["running", "running", "running"]);
    let restarted = cluster.local(&["restart", "1"]);
    assert_eq!(restarted.code, 0, "{}", restarted.err);
    assert_ne!(cluster.pids()[0], before[0]);
    assert_eq!(eventually(|| clients[0].send("GET", "/photos/first", &[], b"")), body);

    let stopped = cluster.local(&["stop"]);
    assert_eq!(stopped.code, 0, "{}", stopped.err);
    assert_eq!(cluster.states(), ["stopped", "stopped", "stopped"]);
    is_nobody_elses_process_touched(&cluster);
    is_removed_only_when_nothing_else_is_there(&cluster);
}

/// A file that names a process proves nothing.
fn is_nobody_elses_process_touched(cluster: &Cluster) {
    fs::write(cluster.directory.join("node1/pid"), std::process::id().to_string()).unwrap();
    assert_eq!(cluster.states()[0], "killed");
    let refused = cluster.local(&["kill", "1"]);
    assert!(refused.code == 1 && refused.err.contains("not running"), "{}", refused.err);
    assert_eq!(cluster.local(&["stop"]).code, 0);
}

fn is_removed_only_when_nothing_else_is_there(cluster: &Cluster) {
    let precious = cluster.directory.join("notes.txt");
    fs::write(&precious, "precious").unwrap();
    let refused = cluster.local(&["remove"]);
    assert!(refused.code == 1 && refused.err.contains("notes.txt"), "{}", refused.err);
    assert!(Path::exists(&cluster.directory.join("node1/disk1")));
    fs::remove_file(precious).unwrap();
    let removed = cluster.local(&["remove"]);
    assert!(removed.code == 0 && !cluster.directory.exists(), "{}", removed.err);
    let nothing = cluster.local(&["status"]);
    assert!(nothing.code == 1 && nothing.err.contains("is no cluster"), "{}", nothing.err);
}

#[test]
fn two_nodes_are_refused_and_nothing_is_left_behind() {
    let cluster = Cluster::new();
    let ran = cluster.local(&["start", "--nodes", "2"]);
    assert!(ran.code == 1 && ran.err.contains("one of 2 nodes"), "{}", ran.err);
    assert!(!cluster.directory.exists());
}
