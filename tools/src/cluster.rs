//! The cluster file: the deployment of several nodes, in a file that is the same on all of them.
//!
//! What must hold:
//! - Every node computes the same topology from the same file: nothing of the machine, the moment or chance is in it.
//! - Where a disk is does not depend on whether nodes encrypt: with `https` the topology and the ids of disks are those that
//!   the same file has with `http`, so that a deployment can go from one to the other.
//! - A [`ClusterFile`] is complete and checked; every error is a sentence that names the file and the field.
//! - The secret is in no error and in no `Debug`.

use crate::credentials::{Credentials, CredentialsSection};
use crate::toml_file::{self, TomlFileError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buckets_engine::node::DiskSizes;
use buckets_ring::endpoint::{self, EndpointError, NodeAddress, Scheme};
use buckets_ring::id::{DeploymentId, DiskUuid};
use buckets_ring::topology::{TopologyDisk, TopologySet};
use buckets_ring::{BlockChecksum, Coding, Endpoint, FormatJson, TopologyJson};
use buckets_rpc::session::Secret;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of a deployment's secret.
pub const SECRET_BYTES: usize = 32;
/// Nodes that an error names; of more it says how many.
const NODES_NAMED_MAX: usize = 16;
/// The permission bits of everybody who is neither owner nor group.
const MODE_OTHERS: u32 = 0o007;

/// A complete, checked cluster file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    /// Where it was read.
    pub path: PathBuf,
    /// The deployment.
    pub deployment: DeploymentId,
    /// What its nodes prove to each other.
    pub secret: Secret,
    /// K+M of every set.
    pub coding: Coding,
    /// How blocks are checksummed.
    pub block_checksum: BlockChecksum,
    /// How large logs and space files of the disks are.
    pub disk_sizes: DiskSizes,
    /// The root credentials of all nodes, where the file has them.
    pub credentials: CredentialsSection,
    /// Whether nodes encrypt what they say to each other: the endpoints are written with `https`.
    pub tls: bool,
    /// All disks, in the order of the file, with `http` whatever is written.
    endpoints: Vec<Endpoint>,
    /// Generation 1.
    topology: TopologyJson,
    /// The file's permission bits, where it lets everybody on the machine read or write it.
    exposed_mode: Option<u32>,
}

/// Why there is no usable cluster file, or no node of it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file cannot be read.
    #[error("the cluster file {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// The file is not understood.
    #[error("the cluster file {} is not understood: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        what: String,
    },
    /// A field has a value that cannot work.
    #[error("the cluster file {} cannot be used: {field}: {what}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Its name in the file.
        field: String,
        /// What is wrong with it.
        what: String,
    },
    /// The node that was named is not in the file.
    #[error("node: `{named}` is no node of {}; write HOST:PORT as there: {nodes}", path.display())]
    NoSuchNode {
        /// As written.
        named: String,
        /// The file.
        path: PathBuf,
        /// Its nodes.
        nodes: String,
    },
    /// None was named, and no host of the file is here.
    #[error(
        "no host in {} has an address of this machine; say which node this is with --node HOST:PORT: {nodes}",
        path.display()
    )]
    NotHere {
        /// The file.
        path: PathBuf,
        /// Its nodes.
        nodes: String,
    },
    /// None was named, and several hosts of the file are here.
    #[error(
        "several nodes in {} have an address of this machine; say which one this is with --node HOST:PORT: {nodes}",
        path.display()
    )]
    SeveralHere {
        /// The file.
        path: PathBuf,
        /// Those that are here.
        nodes: String,
    },
    /// The disks of this machine are of something else.
    #[error(
        "the disks here belong to deployment {found}, the cluster file {} is of deployment {expected}; name the right file, \
         or mount the right disks",
        path.display()
    )]
    OtherDeployment {
        /// The file.
        path: PathBuf,
        /// Of most disks.
        found: DeploymentId,
        /// Of the file.
        expected: DeploymentId,
    },
}

/// The file as written. Not `Debug`: it holds the secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    deployment: String,
    secret: String,
    ec: String,
    #[serde(default)]
    checksum: Option<String>,
    #[serde(default)]
    small_disks: bool,
    #[serde(default)]
    credentials: WrittenCredentials,
    pools: Vec<WrittenPool>,
}

/// `[credentials]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCredentials {
    access_key: Option<String>,
    secret_key: Option<String>,
}

/// `[[pools]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPool {
    endpoints: Vec<String>,
}

/// What is chosen of a new deployment with one pool; the rest is made at random.
#[derive(Clone, Copy, Debug)]
pub struct NewCluster<'a> {
    /// K+M of every set.
    pub coding: Coding,
    /// How blocks are checksummed.
    pub block_checksum: BlockChecksum,
    /// How large logs and space files of the disks are.
    pub disk_sizes: DiskSizes,
    /// All disks of all nodes.
    pub patterns: &'a [String],
}

impl NewCluster<'_> {
    /// The text of its cluster file, with a new id, secret and root. Errors: no random numbers.
    pub fn compose(&self) -> io::Result<String> {
        let (mut id, mut secret) = ([0; 16], [0; SECRET_BYTES]);
        getrandom::fill(&mut id)
            .and_then(|()| getrandom::fill(&mut secret))
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(self.compose_of(DeploymentId::from_random(id), &secret, &Credentials::generate()?))
    }

    fn compose_of(
        &self,
        deployment: DeploymentId,
        secret: &[u8; SECRET_BYTES],
        root: &Credentials,
    ) -> String {
        let NewCluster { coding, block_checksum, disk_sizes, patterns } = self;
        let quoted = |pattern: &String| toml::Value::String(pattern.clone()).to_string();
        let endpoints: Vec<String> = patterns.iter().map(quoted).collect();
        let small_disks = match disk_sizes {
            DiskSizes::Full => "",
            DiskSizes::Dev => "# The disks are directories for trying things out.\nsmall_disks = true\n",
            DiskSizes::Tiny => unreachable!("no file system holds the disks of simulations"),
        };
        format!(
            "# The deployment's cluster file: the same on every node. Whoever has the secret can join as a node: keep it readable\n\
             # for bucketsd only.\n\
             deployment = \"{deployment}\"\n\
             secret = \"{}\"\n\
             ec = \"{coding}\"\n\
             checksum = \"{block_checksum}\"\n\
             {small_disks}\
             \n\
             # Root of every node.\n\
             [credentials]\n\
             access_key = {}\n\
             secret_key = {}\n\
             \n\
             [[pools]]\n\
             endpoints = [{}]\n",
            STANDARD.encode(secret),
            quoted(&root.access_key),
            quoted(&root.secret_key),
            endpoints.join(", ")
        )
    }
}

/// Writes a file that was not there before, readable for its owner only. An existing one is never overwritten: it may be
/// the only copy of a deployment's secret.
pub fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        // Half a file would only be in the way; the error that counts is the first one.
        let _ = fs::remove_file(path);
    }
    written
}

impl ClusterFile {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<ClusterFile, ClusterError> {
        let text = toml_file::read(path).map_err(|error| failed(path, error))?;
        let mode = std::fs::metadata(path)
            .map_err(|error| failed(path, TomlFileError::Read(error)))?
            .permissions()
            .mode();
        let exposed_mode = (mode & MODE_OTHERS != 0).then_some(mode & 0o777);
        Ok(ClusterFile { exposed_mode, ..ClusterFile::parse(path, &text)? })
    }

    /// Checks the text of a file; `path` is what errors name.
    pub fn parse(path: &Path, text: &str) -> Result<ClusterFile, ClusterError> {
        let refused =
            |field: String, what: String| ClusterError::Field { path: path.to_owned(), field, what };
        let written: Written = toml_file::parse(text).map_err(|error| failed(path, error))?;
        // Neither of the two is quoted: they are easily mistaken for each other.
        let deployment = uuid::Uuid::parse_str(&written.deployment)
            .map(DeploymentId)
            .map_err(|_| refused("deployment".to_owned(), "it is not a UUID".to_owned()))?;
        let secret = secret_of(&written.secret).ok_or_else(|| {
            refused("secret".to_owned(), format!("it is not the base64 of {SECRET_BYTES} bytes"))
        })?;
        let coding: Coding =
            written.ec.parse().map_err(|error| refused("ec".to_owned(), format!("{error}")))?;
        let block_checksum = match written.checksum.as_deref().map(str::parse) {
            Some(Err(error)) => return Err(refused("checksum".to_owned(), format!("{error}"))),
            Some(Ok(kind)) => kind,
            None => BlockChecksum::default(),
        };
        if written.pools.is_empty() {
            return Err(refused("pools".to_owned(), "there are none; name disks in [[pools]]".to_owned()));
        }
        let mut written_disks = Vec::new();
        let mut endpoints = Vec::new();
        let mut seen = BTreeSet::new();
        let mut sets = Vec::new();
        for (pool, patterns) in written.pools.iter().map(|pool| &pool.endpoints).enumerate() {
            let field = || format!("pools[{pool}].endpoints");
            let disks = pool_disks(patterns).map_err(|what| refused(field(), what))?;
            written_disks.extend(disks.iter().cloned());
            if let Some((one, other)) = other_scheme(&written_disks) {
                let what = format!(
                    "`{other}` has another scheme than `{one}`; write all with https, or all with http"
                );
                return Err(refused(field(), what));
            }
            let disks: Vec<Endpoint> = disks.into_iter().map(|disk| disk.with_scheme(Scheme::Http)).collect();
            if let Some(twice) = disks.iter().find(|disk| !seen.insert((*disk).clone())) {
                return Err(refused(field(), EndpointError::Duplicate(twice.to_string()).to_string()));
            }
            let grouped = endpoint::group(&disks, usize::from(coding.n()))
                .map_err(|error| refused(field(), error.to_string()))?;
            let number = u16::try_from(pool).map_err(|_| refused(field(), "too many pools".to_owned()))?;
            sets.extend(grouped.iter().map(|set| first_set(deployment, number, coding, set)));
            endpoints.extend(disks);
        }
        let topology = TopologyJson { deployment, generation: 1, sets };
        topology.check().map_err(|error| refused("pools".to_owned(), error.to_string()))?;
        Ok(ClusterFile {
            path: path.to_owned(),
            deployment,
            secret,
            coding,
            block_checksum,
            disk_sizes: if written.small_disks { DiskSizes::Dev } else { DiskSizes::Full },
            credentials: CredentialsSection {
                access_key: written.credentials.access_key,
                secret_key: written.credentials.secret_key,
                file: None,
            },
            tls: written_disks.first().is_some_and(|disk| scheme(disk) == Some(Scheme::Https)),
            endpoints,
            topology,
            exposed_mode: None,
        })
    }

    /// A sentence where everybody on the machine can read the file, or even write it.
    pub fn exposure(&self) -> Option<String> {
        let path = self.path.display();
        self.exposed_mode.map(|mode| {
            format!(
                "the cluster file {path} is open to every user of this machine (mode {mode:03o}), and so is the secret in it; \
                 run: chmod 600 {path}"
            )
        })
    }

    /// Generation 1, the same on every node. Sizes of disks are not known in it.
    pub fn topology(&self) -> TopologyJson {
        self.topology.clone()
    }

    /// The identity of one of its disks.
    pub fn format_of(&self, disk: DiskUuid) -> FormatJson {
        let uuids = |set: &TopologySet| set.disks.iter().map(|disk| disk.uuid).collect();
        FormatJson {
            deployment: self.deployment,
            disk,
            sets: self.topology.sets.iter().map(uuids).collect(),
            coding: self.coding,
            block_checksum: self.block_checksum,
        }
    }

    /// The nodes, in the order in which the file names them first.
    pub fn nodes(&self) -> Vec<NodeAddress> {
        let mut seen = BTreeSet::new();
        let nodes = self.endpoints.iter().filter_map(Endpoint::node);
        nodes.filter(|node| seen.insert(*node)).cloned().collect()
    }

    /// The disks of a node, in the order of the file; none for a node that it does not name.
    pub fn disks_of(&self, node: &NodeAddress) -> Vec<Endpoint> {
        self.endpoints.iter().filter(|disk| disk.node() == Some(node)).cloned().collect()
    }

    /// The node that this machine is: the one that is `named` (`host:port`, or with the file's scheme before it), or else the
    /// only one whose host resolves to an address of this machine. Errors: `NoSuchNode`, `NotHere`, `SeveralHere`.
    pub fn own_node(&self, named: Option<&str>) -> Result<NodeAddress, ClusterError> {
        self.own_node_by(named, is_of_this_machine)
    }

    fn own_node_by(
        &self,
        named: Option<&str>,
        is_here: impl Fn(&NodeAddress) -> bool,
    ) -> Result<NodeAddress, ClusterError> {
        let path = self.path.clone();
        let mut nodes = self.nodes();
        if let Some(named) = named {
            let node =
                named.parse::<NodeAddress>().ok().filter(|node| self.tls || node.scheme == Scheme::Http);
            let node = node.map(|node| NodeAddress { scheme: Scheme::Http, ..node });
            let node = node.filter(|node| nodes.contains(node));
            let named = named.to_owned();
            return node.ok_or_else(|| ClusterError::NoSuchNode { named, path, nodes: names(&nodes) });
        }
        let all = names(&nodes);
        nodes.retain(is_here);
        match <[NodeAddress; 1]>::try_from(nodes) {
            Ok([node]) => Ok(node),
            Err(nodes) if nodes.is_empty() => Err(ClusterError::NotHere { path, nodes: all }),
            Err(nodes) => Err(ClusterError::SeveralHere { path, nodes: names(&nodes) }),
        }
    }

    /// Whether the disks that were `found` are of this deployment. Errors: `OtherDeployment`.
    pub fn check_deployment(&self, found: DeploymentId) -> Result<(), ClusterError> {
        if found == self.deployment {
            return Ok(());
        }
        Err(ClusterError::OtherDeployment { path: self.path.clone(), found, expected: self.deployment })
    }
}

fn failed(path: &Path, error: TomlFileError) -> ClusterError {
    let path = path.to_owned();
    match error {
        TomlFileError::Read(error) => ClusterError::Read { path, error },
        TomlFileError::Syntax(what) => ClusterError::Syntax { path, what },
    }
}

fn secret_of(text: &str) -> Option<Secret> {
    let bytes = STANDARD.decode(text).ok().filter(|bytes| bytes.len() == SECRET_BYTES)?;
    Secret::new(&bytes).ok()
}

/// The disks of one pool, or a sentence on what is wrong with them.
fn pool_disks(patterns: &[String]) -> Result<Vec<Endpoint>, String> {
    if patterns.is_empty() {
        return Err("it names no disks".to_owned());
    }
    let disks = endpoint::expand(patterns).map_err(|error| error.to_string())?;
    for disk in &disks {
        let Some(node) = disk.node() else {
            return Err(format!(
                "`{disk}` is a path; in a cluster file each disk stands with its node, for example http://node1:9100{}",
                // A relative path would run into the port.
                if disk.path().starts_with('/') { disk.path() } else { "/mnt/disk1" }
            ));
        };
        if node.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
            return Err(format!("`{disk}`: {} is every address; write the node's own", node.host));
        }
    }
    Ok(disks)
}

fn scheme(disk: &Endpoint) -> Option<Scheme> {
    disk.node().map(|node| node.scheme)
}

/// The first disk, and one that is written with another scheme, where there is such.
fn other_scheme(disks: &[Endpoint]) -> Option<(&Endpoint, &Endpoint)> {
    let first = disks.first()?;
    disks.iter().find(|disk| scheme(disk) != scheme(first)).map(|other| (first, other))
}

fn first_set(deployment: DeploymentId, pool: u16, coding: Coding, disks: &[Endpoint]) -> TopologySet {
    let disk = |endpoint: &Endpoint| TopologyDisk {
        uuid: DiskUuid::of_endpoint(deployment, endpoint),
        endpoint: endpoint.clone(),
        // Only the disk's own node could know it.
        capacity_bytes: 0,
    };
    TopologySet::new(pool, coding, disks.iter().map(disk).collect())
}

fn names(nodes: &[NodeAddress]) -> String {
    let mut names: Vec<String> =
        nodes.iter().take(NODES_NAMED_MAX).map(|node| node.to_string().replacen("http://", "", 1)).collect();
    if nodes.len() > NODES_NAMED_MAX {
        names.push(format!("and {} more", nodes.len() - NODES_NAMED_MAX));
    }
    names.join(", ")
}

/// Whether a socket can be bound to an address of the node's host. Its port does not matter: it may be in use already.
fn is_of_this_machine(node: &NodeAddress) -> bool {
    let addresses = (node.host.as_str(), 0).to_socket_addrs();
    addresses.is_ok_and(|mut addresses| addresses.any(|address| UdpSocket::bind(address).is_ok()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEPLOYMENT: &str = "d0d0d0d0-d0d0-40d0-90d0-d0d0d0d0d0d0";

    fn secret() -> String {
        STANDARD.encode([0x5e; SECRET_BYTES])
    }

    /// A cluster file of 2+2 on these disks.
    pub(crate) fn text(endpoints: &[&str]) -> String {
        let patterns: Vec<String> = endpoints.iter().map(|pattern| (*pattern).to_owned()).collect();
        let deployment = DeploymentId(DEPLOYMENT.parse().unwrap());
        let coding = Coding::new(2, 2).unwrap();
        let root = Credentials { access_key: "ROOT".to_owned(), secret_key: "root secret".to_owned() };
        let disk_sizes = DiskSizes::Full;
        let new =
            NewCluster { coding, block_checksum: BlockChecksum::Blake2b, disk_sizes, patterns: &patterns };
        new.compose_of(deployment, &[0x5e; SECRET_BYTES], &root)
    }

    fn parse(text: &str) -> Result<ClusterFile, ClusterError> {
        ClusterFile::parse(Path::new("/etc/cluster.toml"), text)
    }

    fn cluster(endpoints: &[&str]) -> ClusterFile {
        parse(&text(endpoints)).unwrap()
    }

    fn node(text: &str) -> NodeAddress {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_composed_is_read() {
        let file = cluster(&["http://node{1...2}:9100/mnt/disk{1...4}"]);
        assert_eq!(file.deployment.to_string(), DEPLOYMENT);
        assert_eq!(file.secret, Secret::new(&[0x5e; SECRET_BYTES]).unwrap());
        assert_eq!(file.credentials.access_key.as_deref(), Some("ROOT"));
        assert_eq!(file.credentials.secret_key.as_deref(), Some("root secret"));
        assert!(!format!("{file:?}").contains("root secret"));
        assert_eq!((file.coding.to_string().as_str(), file.block_checksum), ("2+2", BlockChecksum::Blake2b));
        assert_eq!(file.nodes(), [node("node1:9100"), node("node2:9100")]);
        let disks = file.disks_of(&node("node2:9100"));
        assert_eq!(disks.iter().map(Endpoint::path).collect::<Vec<_>>().join(" ").len(), 4 * 11 - 1);
        assert!(disks.iter().all(|disk| disk.node() == Some(&node("node2:9100"))));
        assert_eq!(file.disks_of(&node("node3:9100")), []);
        let odd = "http://node1:9100/mnt/\"quoted\"\\{1...4}";
        assert_eq!(cluster(&[odd]).endpoints[3].path(), "/mnt/\"quoted\"\\4");
        assert_eq!(
            parse(&text(&[odd]).replace("checksum = \"blake2b\"\n", "")).unwrap().block_checksum,
            BlockChecksum::Xxh3
        );
    }

    #[test]
    fn disks_are_small_only_where_the_file_says_so() {
        let patterns = ["http://node{1...4}:9100/d".to_owned()];
        for disk_sizes in [DiskSizes::Full, DiskSizes::Dev] {
            let coding = Coding::new(2, 2).unwrap();
            let new =
                NewCluster { coding, block_checksum: BlockChecksum::Xxh3, disk_sizes, patterns: &patterns };
            let (text, other) = (new.compose().unwrap(), new.compose().unwrap());
            assert_eq!(parse(&text).unwrap().disk_sizes, disk_sizes);
            assert_eq!(text.contains("small_disks"), disk_sizes == DiskSizes::Dev);
            let (file, other) = (parse(&text).unwrap(), parse(&other).unwrap());
            assert!(file.deployment != other.deployment && file.secret != other.secret);
            assert_ne!(file.credentials, other.credentials);
        }
    }

    #[test]
    fn the_topology_is_spread_over_nodes_and_numbered_by_pools() {
        let two_pools = format!(
            "{}[[pools]]\nendpoints = [\"http://node{{3...6}}:9100/d\"]\n",
            text(&["http://node{1...2}:9100/d{1...4}"])
        );
        let topology = parse(&two_pools).unwrap().topology();
        assert_eq!(TopologyJson::parse(&topology.to_bytes()).unwrap(), topology);
        assert_eq!(topology.generation, 1);
        let pools: Vec<u16> = topology.sets.iter().map(|set| set.pool).collect();
        assert_eq!(pools, [0, 0, 1]);
        let first: Vec<String> =
            topology.sets[0].disks.iter().map(|disk| disk.endpoint.to_string()).collect();
        assert_eq!(
            first,
            ["http://node1:9100/d1", "http://node2:9100/d1", "http://node1:9100/d2", "http://node2:9100/d2"]
        );
        for disk in topology.disks().map(|(_, _, disk)| disk) {
            assert_eq!(disk.uuid, DiskUuid::of_endpoint(topology.deployment, &disk.endpoint));
            assert_eq!(disk.capacity_bytes, 0);
        }
        assert!(topology.sets.iter().all(|set| set.partitions == 4));
        let file = parse(&two_pools).unwrap();
        let disk = topology.sets[2].disks[1].uuid;
        assert_eq!(FormatJson::parse(&file.format_of(disk).to_bytes()).unwrap().place_of(disk), Some((2, 1)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_file_and_field() {
        let good = text(&["http://node{1...4}:9100/d"]);
        let table = [
            (good.replace("ec =", "erasure ="), "erasure"),
            (good.replace("ec = \"2+2\"", "ec = \"2\""), "ec: `2` is not K+M"),
            (good.replace("ec = \"2+2\"\n", ""), "missing field `ec`"),
            (good.replace("blake2b", "md5"), "checksum: `md5`"),
            (good.replace(DEPLOYMENT, "d0"), "deployment: it is not a UUID"),
            (good.replace("endpoints", "disks"), "disks"),
            (good.split("[[pools]]").next().unwrap().to_owned(), "missing field `pools`"),
            (good.replace("[[pools]]", "[other]"), "unknown field `other`"),
            (text(&[]), "pools[0].endpoints: it names no disks"),
            (text(&["/mnt/disk{1...4}"]), "pools[0].endpoints: `/mnt/disk1` is a path"),
            (text(&["http://node{1...4}/d"]), "the port is missing"),
            (
                text(&["http://node{1...2}:9100/d", "https://node{3...4}:9100/d"]),
                "`https://node3:9100/d` has another scheme than `http://node1:9100/d`",
            ),
            (
                format!("{good}[[pools]]\nendpoints = [\"https://node{{5...8}}:9100/d\"]"),
                "pools[1].endpoints: `https://node5:9100/d` has another scheme",
            ),
            (text(&["http://0.0.0.0:9100/d{1...4}"]), "is every address"),
            (text(&["http://[::]:9100/d{1...4}"]), "is every address"),
            (text(&["http://node{1...3}:9100/d"]), "name 0 or 4 disks"),
            (text(&["http://node1:9100/d{1...4}", "http://node1:9100/d4/"]), "is named twice"),
            (
                format!("{good}[[pools]]\nendpoints = [\"http://node{{4...7}}:9100/d\"]"),
                "pools[1].endpoints: `http://node4:9100/d` is named twice",
            ),
        ];
        for (text, what) in table {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("/etc/cluster.toml") && error.contains(what), "{what}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let missing = ClusterFile::load(Path::new("/does/not/exist.toml")).unwrap_err();
        assert!(missing.to_string().contains("/does/not/exist.toml cannot be read"), "{missing}");
    }

    #[test]
    fn the_secret_is_never_shown() {
        let endpoints = ["http://node{1...4}:9100/d"];
        let (good, secret) = (text(&endpoints), secret());
        assert!(good.contains(&secret));
        let shown = format!("{:?}", cluster(&endpoints));
        assert!(!shown.contains(&secret) && !shown.contains("94, 94"), "{shown}");
        for (from, to) in [
            (secret.as_str(), secret[1..].to_owned()),
            (DEPLOYMENT, secret.clone()),
            ("secret =", "deployment =".to_owned()),
            (&format!("\"{secret}\""), secret.clone()),
            (&format!("{secret}\""), secret.clone()),
            ("secret = ", "secret = \n".to_owned()),
            ("ec = ", format!("{secret}\nec = ")),
        ] {
            let error = parse(&good.replacen(from, &to, 1)).unwrap_err().to_string();
            assert!(!error.contains(&secret[1..]), "{error}");
        }
    }

    #[test]
    fn a_file_that_everybody_can_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, text(&["http://node{1...4}:9100/d"])).unwrap();
        for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let sentence = ClusterFile::load(&path).unwrap().exposure();
            assert_eq!(sentence.is_some(), exposed, "{mode:o}: {sentence:?}");
        }
    }

    #[test]
    fn this_node_is_the_named_one_or_the_only_one_here() {
        let file = cluster(&["http://node{1...2}:9100/d{1...2}"]);
        for named in ["node2:9100", "http://node2:9100", "NODE2:9100"] {
            assert_eq!(file.own_node_by(Some(named), |_| false).unwrap(), node("node2:9100"), "{named}");
        }
        for named in ["node2", "node3:9100", "node2:9101", "https://node2:9100", ""] {
            let error = file.own_node_by(Some(named), |_| true).unwrap_err().to_string();
            assert!(error.contains("node1:9100, node2:9100"), "{error}");
        }
        let here = |host: &'static str| move |node: &NodeAddress| node.host == host;
        assert_eq!(file.own_node_by(None, here("node1")).unwrap(), node("node1:9100"));
        let none = file.own_node_by(None, here("node9")).unwrap_err();
        assert!(
            matches!(none, ClusterError::NotHere { .. }) && none.to_string().contains("--node"),
            "{none}"
        );
        let several = file.own_node_by(None, |_| true).unwrap_err();
        assert!(matches!(several, ClusterError::SeveralHere { .. }), "{several}");
        assert!(several.to_string().contains("node1:9100, node2:9100"), "{several}");
    }

    #[test]
    fn with_https_nodes_encrypt_and_disks_stay_what_they_are() {
        let (plain, encrypted) =
            (cluster(&["http://node{1...4}:9100/d"]), cluster(&["https://node{1...4}:9100/d"]));
        assert_eq!((plain.tls, encrypted.tls), (false, true));
        assert_eq!(plain.topology(), encrypted.topology());
        for named in ["node2:9100", "https://node2:9100"] {
            assert_eq!(encrypted.own_node_by(Some(named), |_| false).unwrap(), node("node2:9100"), "{named}");
        }
        assert!(plain.own_node_by(Some("https://node2:9100"), |_| false).is_err());
    }

    #[test]
    fn addresses_of_this_machine_are_told_from_others() {
        assert!(is_of_this_machine(&node("127.0.0.1:9100")));
        // TEST-NET-1 is nobody's.
        assert!(!is_of_this_machine(&node("192.0.2.1:9100")));
        let file = cluster(&["http://127.0.0.1:9100/d{1...2}", "http://192.0.2.1:9100/d{1...2}"]);
        assert_eq!(file.own_node(None).unwrap(), node("127.0.0.1:9100"));
    }

    #[test]
    fn disks_of_another_deployment_are_told() {
        let file = cluster(&["http://node{1...4}:9100/d"]);
        assert!(file.check_deployment(file.deployment).is_ok());
        let error = file.check_deployment(DeploymentId::from_bytes([1; 16])).unwrap_err().to_string();
        assert!(error.contains(DEPLOYMENT) && error.contains("01010101-"), "{error}");
    }

    proptest! {
        #[test]
        fn every_disk_is_of_one_node_and_in_one_set(nodes in 1usize..9, disks in 1usize..9) {
            let pattern = format!("http://node{{1...{nodes}}}:9100/d{{1...{disks}}}");
            let parsed = parse(&text(&[&pattern]));
            prop_assert_eq!(parsed.is_ok(), (nodes * disks).is_multiple_of(4));
            if let Ok(file) = parsed {
                let mut of_nodes: Vec<Endpoint> = file.nodes().iter().flat_map(|node| file.disks_of(node)).collect();
                let mut of_sets: Vec<Endpoint> = file.topology().disks().map(|(_, _, disk)| disk.endpoint.clone()).collect();
                of_nodes.sort();
                of_sets.sort();
                prop_assert_eq!(of_nodes, of_sets);
            }
        }

        #[test]
        fn no_damage_shows_the_secret(at in 0usize..500, cut in 0usize..40, put in "[\"=\\[\\]\\n#a ]{0,3}") {
            let good = text(&["http://node{1...4}:9100/d"]);
            let (from, to) = (at.min(good.len()), (at + cut).min(good.len()));
            let damaged = format!("{}{put}{}", &good[..from], &good[to..]);
            if let Err(error) = parse(&damaged) {
                // Any eight digits of it in a row.
                let secret = secret();
                let error = error.to_string();
                prop_assert!((0..secret.len() - 8).all(|i| !error.contains(&secret[i..i + 8])), "{}", error);
            }
        }
    }
}
