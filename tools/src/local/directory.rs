//! The directory of a cluster on one machine.
//!
//! ```text
//! buckets-local/
//!   local.toml        what the cluster file does not say: the first port for S3, cores of a node
//!   cluster.toml      the cluster file, with root's credentials
//!   node1/
//!     disk1/ ...      the disks of node 1
//!     log             everything its processes have said
//!     pid             its process; not there once it was stopped
//! ```
//!
//! What must hold: a directory is one of ours where both files are there and understood, and the cluster file places all
//! disks in it. What is deleted is what is drawn above, and nothing where anything else lies beside it.

use super::{LocalError, at, coding};
use crate::cluster::{self, ClusterFile, NewCluster};
use crate::toml_file::{self, TomlFileError};
use buckets_engine::node::DiskSizes;
use buckets_ring::endpoint::NodeAddress;
use buckets_ring::{BlockChecksum, Coding, Endpoint};
use serde::Deserialize;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Where the directory is unless somebody says otherwise.
pub const DIRECTORY_DEFAULT: &str = "buckets-local";
/// Nodes unless somebody says otherwise.
pub const NODES_DEFAULT: usize = 3;
/// Disks of a node unless somebody says otherwise.
pub const DISKS_DEFAULT: usize = 4;
/// Cores of a node unless somebody says otherwise.
pub const CORES_DEFAULT: usize = 1;
/// The first port for S3 unless somebody says otherwise.
pub const PORT_DEFAULT: u16 = 9000;

const SETTINGS_FILE: &str = "local.toml";
const CLUSTER_FILE: &str = "cluster.toml";
const LOG_FILE: &str = "log";
const PID_FILE: &str = "pid";
/// Ports between nodes stand so far behind those for S3, where there are not more nodes.
const NODE_PORTS_BEHIND: u16 = 100;
/// Ports that are tried for each node.
const PORTS_TRIED_MAX: u16 = 64;

/// What a cluster should be; what is `None` is as it is, or in a new one the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Nodes.
    pub nodes: Option<usize>,
    /// Disks of each node.
    pub disks: Option<usize>,
    /// K+M.
    pub coding: Option<Coding>,
    /// Cores of each node.
    pub cores: Option<usize>,
    /// The first port for S3; the other nodes have the next ones.
    pub port: Option<u16>,
}

/// `local.toml`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    port: u16,
    cores: usize,
}

/// A cluster on this machine, complete and checked.
#[derive(Clone, Debug)]
pub struct LocalCluster {
    /// Absolute.
    pub directory: PathBuf,
    /// Its cluster file.
    pub cluster: ClusterFile,
    /// Cores of each node.
    pub cores: usize,
    /// In order.
    pub nodes: Vec<LocalNode>,
    port: u16,
}

/// One of its nodes.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// From 1.
    pub number: usize,
    /// Its name in the cluster file.
    pub address: NodeAddress,
    /// Where it listens for S3.
    pub listen: SocketAddr,
    /// Its own directory.
    pub directory: PathBuf,
}

impl LocalNode {
    /// Where its processes write what they have to say.
    pub fn log(&self) -> PathBuf {
        self.directory.join(LOG_FILE)
    }

    /// Where the id of its process stands.
    pub fn pid_file(&self) -> PathBuf {
        self.directory.join(PID_FILE)
    }

    /// For S3 clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// `host:port` as `bucketsd --node` takes it.
    pub fn name(&self) -> String {
        format!("{}:{}", self.address.host, self.address.port)
    }
}

impl LocalCluster {
    /// The cluster of a directory. Errors: `NotOurs`.
    pub fn open(directory: &Path) -> Result<LocalCluster, LocalError> {
        let not_ours = |why: String| LocalError::NotOurs { directory: directory.to_owned(), why };
        let absolute = fs::canonicalize(directory).map_err(|error| not_ours(error.to_string()))?;
        let settings = absolute.join(SETTINGS_FILE);
        let text = toml_file::read(&settings).map_err(|error| not_ours(said(SETTINGS_FILE, error)))?;
        let settings: Settings =
            toml_file::parse(&text).map_err(|error| not_ours(said(SETTINGS_FILE, error)))?;
        let cluster =
            ClusterFile::load(&absolute.join(CLUSTER_FILE)).map_err(|error| not_ours(error.to_string()))?;
        let addresses = cluster.nodes();
        let too_many = || not_ours(format!("{SETTINGS_FILE} has too high a port"));
        let mut nodes = Vec::new();
        for (index, address) in addresses.into_iter().enumerate() {
            let own = absolute.join(format!("node{}", index + 1));
            if let Some(disk) = cluster.disks_of(&address).iter().find(|disk| !is_directly_in(&own, disk)) {
                return Err(not_ours(format!(
                    "its cluster file has a disk at {}; if the directory was moved, move it back",
                    disk.path()
                )));
            }
            let port = u16::try_from(index).ok().and_then(|index| settings.port.checked_add(index));
            nodes.push(LocalNode {
                number: index + 1,
                address,
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port.ok_or_else(too_many)?)),
                directory: own,
            });
        }
        let Settings { port, cores } = settings;
        Ok(LocalCluster { directory: absolute, cluster, cores, nodes, port })
    }

    /// The cluster of a directory, made where there is nothing yet; its disks are not formatted here. Errors: the directory
    /// holds something else, or a cluster that differs from what is wanted.
    pub fn open_or_make(directory: &Path, wanted: &Wanted) -> Result<LocalCluster, LocalError> {
        if !directory.join(CLUSTER_FILE).exists() {
            make(directory, wanted)?;
        }
        let cluster = LocalCluster::open(directory)?;
        cluster.check(wanted)?;
        Ok(cluster)
    }

    fn check(&self, wanted: &Wanted) -> Result<(), LocalError> {
        let disks = self.nodes.first().map_or(0, |node| self.cluster.disks_of(&node.address).len());
        let (nodes, coding) = (self.nodes.len(), self.cluster.coding);
        let same = |flag, is: String, wanted: Option<String>| match wanted {
            Some(wanted) if wanted != is => {
                Err(LocalError::Differs { directory: self.directory.clone(), flag, is, wanted })
            }
            _ => Ok(()),
        };
        same("--nodes", nodes.to_string(), wanted.nodes.map(|nodes| nodes.to_string()))?;
        same("--disks", disks.to_string(), wanted.disks.map(|disks| disks.to_string()))?;
        same("--ec", coding.to_string(), wanted.coding.map(|coding| coding.to_string()))?;
        same("--cores", self.cores.to_string(), wanted.cores.map(|cores| cores.to_string()))?;
        same("--port", self.port.to_string(), wanted.port.map(|port| port.to_string()))
    }

    /// The node of that number. Errors: `NoSuchNode`.
    pub fn node(&self, number: usize) -> Result<&LocalNode, LocalError> {
        let node = self.nodes.iter().find(|node| node.number == number);
        node.ok_or(LocalError::NoSuchNode { number, nodes: self.nodes.len() })
    }

    /// Held by who starts nodes or deletes the directory, until it is dropped.
    pub fn lock(&self) -> Result<File, LocalError> {
        let path = self.directory.join(SETTINGS_FILE);
        let lock = File::open(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(at("locked", &path))
    }

    /// Errors: something lies in the directory that is not ours.
    pub fn check_deletable(&self) -> Result<(), LocalError> {
        let own = |name: &str| {
            [SETTINGS_FILE, CLUSTER_FILE].contains(&name)
                || self.nodes.iter().any(|node| node.directory.ends_with(name))
        };
        match names(&self.directory)?.into_iter().find(|name| !own(name)) {
            None => Ok(()),
            Some(name) => {
                let why = format!("it also holds {name}, which would be deleted too");
                Err(LocalError::NotOurs { directory: self.directory.clone(), why })
            }
        }
    }

    /// Deletes the directory; no node may run. Errors: as of `check_deletable`, and nothing is deleted.
    pub fn delete(self) -> Result<(), LocalError> {
        let _lock = self.lock()?;
        self.check_deletable()?;
        for node in self.nodes.iter().filter(|node| node.directory.exists()) {
            fs::remove_dir_all(&node.directory).map_err(at("deleted", &node.directory))?;
        }
        // Last, so that a directory of which only a part is gone is still ours.
        for file in [CLUSTER_FILE, SETTINGS_FILE] {
            let path = self.directory.join(file);
            fs::remove_file(&path).map_err(at("deleted", &path))?;
        }
        fs::remove_dir(&self.directory).map_err(at("deleted", &self.directory))
    }
}

fn said(file: &str, error: TomlFileError) -> String {
    match error {
        TomlFileError::Read(error) => format!("{file}: {error}"),
        TomlFileError::Syntax(what) => format!("{file}: {what}"),
    }
}

fn is_directly_in(directory: &Path, disk: &Endpoint) -> bool {
    Path::new(disk.path()).parent() == Some(directory)
}

fn names(directory: &Path) -> Result<Vec<String>, LocalError> {
    let names = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<_>>()
    });
    names.map_err(at("read", directory))
}

/// Writes the two files into a directory in which nothing else is.
fn make(directory: &Path, wanted: &Wanted) -> Result<(), LocalError> {
    let (nodes, disks) = (wanted.nodes.unwrap_or(NODES_DEFAULT), wanted.disks.unwrap_or(DISKS_DEFAULT));
    let coding = match wanted.coding {
        Some(coding) => coding,
        None => coding::for_nodes(nodes, disks).ok_or(LocalError::NoCoding { nodes, disks })?,
    };
    if directory.exists()
        // Its cluster file was not written any more.
        && let Some(name) = names(directory)?.into_iter().find(|name| name != SETTINGS_FILE)
    {
        let why = format!("it has no {CLUSTER_FILE}, but it holds {name}");
        return Err(LocalError::NotOurs { directory: directory.to_owned(), why });
    }
    // Refused before anything is made, where it cannot be at all.
    let absolute = std::path::absolute(directory).map_err(at("made", directory))?;
    let any_ports: Vec<u16> = (1..=u16::MAX).take(nodes).collect();
    compose(&absolute, &any_ports, disks, coding)?;
    let port = wanted.port.unwrap_or(PORT_DEFAULT);
    let node_ports = choose_ports(port, nodes, is_free)?;
    fs::create_dir_all(directory).map_err(at("made", directory))?;
    let absolute = fs::canonicalize(directory).map_err(at("made", directory))?;
    let text = compose(&absolute, &node_ports, disks, coding)?;
    let settings = absolute.join(SETTINGS_FILE);
    fs::write(&settings, settings_text(port, wanted.cores.unwrap_or(CORES_DEFAULT)))
        .map_err(at("written", &settings))?;
    let path = absolute.join(CLUSTER_FILE);
    cluster::write_new(&path, &text).map_err(at("written", &path))
}

fn settings_text(port: u16, cores: usize) -> String {
    format!(
        "# A cluster on one machine, made by `bucketsctl local start`. `bucketsctl local remove` deletes the directory of this\n\
         # file.\n\
         # The first node serves S3 at this port, the others at the next ones.\n\
         port = {port}\n\
         cores = {cores}\n"
    )
}

/// The cluster file of nodes below `directory`, checked.
fn compose(directory: &Path, node_ports: &[u16], disks: usize, coding: Coding) -> Result<String, LocalError> {
    let place = directory.display();
    let pattern = |(index, port): (usize, &u16)| {
        format!("http://127.0.0.1:{port}{place}/node{}/disk{{1...{disks}}}", index + 1)
    };
    let patterns: Vec<String> = node_ports.iter().enumerate().map(pattern).collect();
    let new = NewCluster {
        coding,
        block_checksum: BlockChecksum::default(),
        disk_sizes: DiskSizes::Dev,
        patterns: &patterns,
    };
    let text = new
        .compose()
        .map_err(|error| LocalError::Io { what: "no random numbers for a new cluster".to_owned(), error })?;
    ClusterFile::parse(&directory.join(CLUSTER_FILE), &text).map_err(|error| LocalError::Shape {
        coding,
        nodes: node_ports.len(),
        disks,
        error,
    })?;
    Ok(text)
}

/// The ports between the nodes, behind those for S3. Errors: the ports for S3 are not all free.
fn choose_ports(port: u16, nodes: usize, is_free: impl Fn(u16) -> bool) -> Result<Vec<u16>, LocalError> {
    let none = || LocalError::NoPorts { port, nodes };
    let count = u16::try_from(nodes).map_err(|_| none())?;
    let after = port.checked_add(count).ok_or_else(none)?;
    if let Some(used) = (port..after).find(|port| !is_free(*port)) {
        return Err(LocalError::PortInUse(used));
    }
    let first = port.saturating_add(count.max(NODE_PORTS_BEHIND));
    let last = first.saturating_add(count.saturating_mul(PORTS_TRIED_MAX));
    let ports: Vec<u16> = (first..last).filter(|port| is_free(*port)).take(nodes).collect();
    if ports.len() == nodes { Ok(ports) } else { Err(none()) }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(wanted: &Wanted) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster");
        fs::create_dir(&path).unwrap();
        let nodes: Vec<u16> = (0..wanted.nodes.unwrap_or(NODES_DEFAULT) as u16).map(|at| 9100 + at).collect();
        let absolute = fs::canonicalize(&path).unwrap();
        let coding = wanted.coding.unwrap_or(Coding::new(8, 4).unwrap());
        let text = compose(&absolute, &nodes, wanted.disks.unwrap_or(DISKS_DEFAULT), coding).unwrap();
        fs::write(path.join(SETTINGS_FILE), settings_text(9000, 2)).unwrap();
        cluster::write_new(&path.join(CLUSTER_FILE), &text).unwrap();
        (directory, path)
    }

    #[test]
    fn what_was_made_is_opened_as_it_is() {
        let (_directory, path) = made(&Wanted::default());
        let cluster = LocalCluster::open_or_make(&path, &Wanted::default()).unwrap();
        assert_eq!((cluster.cores, cluster.nodes.len()), (2, 3));
        assert_eq!(cluster.cluster.disk_sizes, DiskSizes::Dev);
        let last = cluster.node(3).unwrap();
        assert_eq!(
            (last.name().as_str(), last.endpoint().as_str()),
            ("127.0.0.1:9102", "http://127.0.0.1:9002")
        );
        assert_eq!(cluster.cluster.disks_of(&last.address).len(), 4);
        assert!(cluster.node(0).is_err() && cluster.node(4).is_err());
        let same = Wanted {
            nodes: Some(3),
            disks: Some(4),
            coding: Coding::new(8, 4),
            cores: Some(2),
            port: Some(9000),
        };
        LocalCluster::open_or_make(&path, &same).unwrap();
        for (wanted, flag) in [
            (Wanted { nodes: Some(6), ..same }, "--nodes"),
            (Wanted { disks: Some(2), ..same }, "--disks"),
            (Wanted { coding: Coding::new(4, 2), ..same }, "--ec"),
            (Wanted { cores: Some(1), ..same }, "--cores"),
            (Wanted { port: Some(9001), ..same }, "--port"),
        ] {
            let error = LocalCluster::open_or_make(&path, &wanted).unwrap_err().to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn other_directories_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("photos");
        let open = || LocalCluster::open(&path).unwrap_err().to_string();
        assert!(open().contains("is no cluster"), "{}", open());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("holiday.jpg"), "precious").unwrap();
        assert!(open().contains(SETTINGS_FILE), "{}", open());
        let error = LocalCluster::open_or_make(&path, &Wanted::default()).unwrap_err().to_string();
        assert!(error.contains("holiday.jpg"), "{error}");
        fs::write(path.join(SETTINGS_FILE), "port = 1\nholiday = true").unwrap();
        assert!(open().contains("holiday"), "{}", open());
        assert_eq!(names(&path).unwrap().len(), 2);
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_not_deleted() {
        let (_directory, path) = made(&Wanted::default());
        fs::create_dir_all(path.join("node1/disk1")).unwrap();
        fs::write(path.join("notes.txt"), "precious").unwrap();
        let error = LocalCluster::open(&path).unwrap().delete().unwrap_err().to_string();
        assert!(error.contains("notes.txt") && path.join("node1/disk1").exists(), "{error}");
        fs::remove_file(path.join("notes.txt")).unwrap();
        LocalCluster::open(&path).unwrap().delete().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_moved_directory_is_told() {
        let (_directory, path) = made(&Wanted::default());
        let elsewhere = path.with_file_name("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        let error = LocalCluster::open(&elsewhere).unwrap_err().to_string();
        assert!(error.contains("move it back"), "{error}");
    }

    #[test]
    fn what_cannot_be_is_refused_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster");
        for (wanted, word) in [
            (Wanted { nodes: Some(2), ..Wanted::default() }, "one of 2 nodes"),
            (Wanted { coding: Coding::new(4, 1), ..Wanted::default() }, "4+1 does not go with 3 nodes"),
            (Wanted { port: Some(65534), ..Wanted::default() }, "lower --port"),
        ] {
            let error = LocalCluster::open_or_make(&path, &wanted).unwrap_err().to_string();
            assert!(error.contains(word) && !path.exists(), "{error}");
        }
    }

    #[test]
    fn ports_between_nodes_are_free_ones_behind_those_for_s3() {
        assert_eq!(choose_ports(9000, 3, |_| true).unwrap(), [9100, 9101, 9102]);
        assert_eq!(choose_ports(9000, 3, |port| port != 9101).unwrap(), [9100, 9102, 9103]);
        assert!(matches!(choose_ports(9000, 3, |port| port != 9002), Err(LocalError::PortInUse(9002))));
        assert!(matches!(choose_ports(65500, 3, |_| true), Err(LocalError::NoPorts { .. })));
        assert!(matches!(choose_ports(9000, 3, |port| port < 9100), Err(LocalError::NoPorts { .. })));
    }
}
