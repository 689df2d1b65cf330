//! The configuration of a node: `node.toml`, overridden by flags.
//!
//! What must hold: an unknown name or a value that cannot work is an error with the file and the name in it, never ignored;
//! a [`NodeConfig`] is complete and checked.

use crate::cluster::{ClusterError, ClusterFile};
use crate::credentials::{self, CREDENTIALS_FILE, CredentialsSection};
use crate::size::ByteSize;
use crate::tls::{TlsFiles, TlsSection};
use crate::toml_file::{self, TomlFileError};
use buckets_engine::map::{INLINE_BYTES_DEFAULT, INLINE_BYTES_MAX};
use buckets_ring::Endpoint;
use buckets_ring::endpoint::{self, EndpointError, NodeAddress};
use serde::Deserialize;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

const LISTEN_DEFAULT: &str = "0.0.0.0:9000";
const LISTEN_DEV_DEFAULT: &str = "127.0.0.1:9000";
/// The region where none is set.
pub const REGION_DEFAULT: &str = "us-east-1";
const CACHE_BYTES_DEFAULT: u64 = 256 << 20;
/// Most cores of one node.
const CORES_MAX: usize = 1024;
/// Directories that `--dev` makes.
const DEV_DISKS: &str = "disk{1...4}";

/// The flags of `bucketsd`. A flag overrides the same setting of the configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct NodeArgs {
    /// Configuration file (TOML); see docs/configuration.md for every setting
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Try it out: make and format four disks with 2+2 below DIR if they are not there, and listen on 127.0.0.1
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "disks", "cluster", "node", "gateway"])]
    pub dev: Option<PathBuf>,
    /// Directories of the formatted disks, patterns allowed: '/mnt/disk{1...4}'; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub disks: Vec<String>,
    /// The cluster file of a deployment of several nodes (see `bucketsctl topology new`); it names this node's disks
    #[arg(long, value_name = "FILE", conflicts_with = "disks")]
    pub cluster: Option<PathBuf>,
    /// Which node of the cluster file this is [default: the one whose host is an address of this machine]
    #[arg(long, value_name = "HOST:PORT")]
    pub node: Option<String>,
    /// Serve S3 for the nodes of the cluster file without disks of its own
    #[arg(long, conflicts_with_all = ["disks", "node"])]
    pub gateway: bool,
    /// PEM of the CA that signed the certificates of all nodes, where the cluster file says https
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM of this node's certificate
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM of the certificate's private key
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Address and port for S3 clients [default: 0.0.0.0:9000]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Cores to run on, one pinned thread each [default: all this process may use]
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,
    /// Memory for the caches of all cores together, for example 1GiB [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub cache: Option<ByteSize>,
    /// Region that signatures must name [default: us-east-1]
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// How log lines are written [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,buckets_disk=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// For tests: disks misbehave as FILE says (JSON: {"/mnt/disk1": {"slow_factor": 100}}; see docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    pub disk_faults: Option<PathBuf>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// `node.toml` as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Address and port for S3 clients.
    pub listen: Option<String>,
    /// Cores to run on.
    pub cores: Option<usize>,
    /// Directories of the disks, patterns allowed.
    pub disks: Vec<String>,
    /// The cluster file, instead of `disks`.
    pub cluster: Option<PathBuf>,
    /// Which node of the cluster file this is.
    pub node: Option<String>,
    /// No node of the cluster file: no disks, but S3 for clients.
    pub gateway: bool,
    /// Memory for the caches of all cores together.
    pub cache_bytes: Option<ByteSize>,
    /// Region that signatures must name.
    pub region: Option<String>,
    /// `[log]`
    pub log: LogSection,
    /// `[credentials]`
    pub credentials: CredentialsSection,
    /// `[tls]`
    pub tls: TlsSection,
    /// `[limits]`
    pub limits: LimitsSection,
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// `human` or `json`.
    pub format: Option<LogFormat>,
    /// A level or a filter.
    pub level: Option<String>,
}

/// `[limits]`: what is not set keeps the program's own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Most client connections of one core; over it new ones are refused.
    pub connections_per_core_max: Option<u32>,
    /// Most requests in progress on one core; over it 503 `SlowDown`.
    pub requests_per_core_max: Option<u32>,
    /// Most bytes of bodies in memory on one core; over it 503 `SlowDown`.
    pub body_bytes_per_core_max: Option<ByteSize>,
    /// Bodies up to so many bytes live beside their manifest; longer ones are cut into chunks.
    pub inline_bytes_max: Option<ByteSize>,
    /// Seconds that requests in progress get to end at SIGTERM.
    pub shutdown_seconds_max: Option<u32>,
}

/// A complete, checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Where S3 clients connect.
    pub listen: SocketAddr,
    /// Cores to run on; `None`: all this process may use.
    pub cores: Option<usize>,
    /// This node's disks: absolute, normal paths, or with a cluster file their URLs there, whose paths are the
    /// directories.
    pub disks: Vec<Endpoint>,
    /// The deployment of several nodes that this one belongs to.
    pub cluster: Option<NodeCluster>,
    /// What encrypts between nodes; there where the cluster file says https, and only there.
    pub tls: Option<TlsFiles>,
    /// Memory for the caches of all cores together.
    pub cache_bytes: u64,
    /// Region that signatures must name.
    pub region: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// The credentials section, for [`credentials::find_or_generate`].
    pub credentials: CredentialsSection,
    /// Where credentials are kept that are neither in the environment nor in the section.
    pub credentials_file: PathBuf,
    /// Bodies up to so many bytes live beside their manifest.
    pub inline_bytes_max: usize,
    /// The limits that are set.
    pub limits: LimitsSection,
    /// What disks do wrong on purpose.
    pub disk_faults: Option<PathBuf>,
    /// Make and format the disks if they are not there.
    pub dev: bool,
}

/// The part of one process in a deployment of several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCluster {
    /// The deployment.
    pub file: ClusterFile,
    /// Which of its nodes this is; `None` for a gateway.
    pub node: Option<NodeAddress>,
}

/// Where a node's disks come from, as written.
#[derive(Clone, Debug, Default)]
pub struct DiskSettings {
    /// Directories, patterns allowed.
    pub disks: Vec<String>,
    /// The cluster file.
    pub cluster: Option<PathBuf>,
    /// Which of its nodes this is.
    pub node: Option<String>,
    /// None of them.
    pub gateway: bool,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: std::io::Error,
    },
    /// The file is not understood.
    #[error("the configuration {} is not understood: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        what: String,
    },
    /// No disks at all.
    #[error(
        "no disks: name them with --disks '/mnt/disk{{1...4}}' or in the configuration, or try --dev DIR"
    )]
    NoDisks,
    /// The disks are not well named.
    #[error("disks: {0}")]
    Disks(#[from] EndpointError),
    /// Not a local directory.
    #[error(
        "disks: `{0}` is a URL; name this node's own directories, for example /mnt/disk1, or all nodes' disks in a cluster file"
    )]
    RemoteDisk(String),
    /// The cluster file, or this node in it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Disks named twice.
    #[error("disks: the cluster file names this node's disks; leave out either `disks` or `cluster`")]
    DisksBesideCluster,
    /// A setting that means something only with a cluster file.
    #[error("{0}: it needs a cluster file; name it with --cluster FILE, or leave `{0}` out")]
    WithoutCluster(&'static str),
    /// Half of a section.
    #[error("tls.{0}: it is missing; `ca`, `certificate` and `key` are needed together")]
    TlsIncomplete(&'static str),
    /// Nothing to encrypt with.
    #[error(
        "tls: the endpoints in {} are https; name `ca`, `certificate` and `key` in [tls] of the configuration, or with --tls-ca, \
         --tls-certificate and --tls-key",
        .0.display()
    )]
    TlsMissing(PathBuf),
    /// Nothing would be encrypted.
    #[error(
        "tls: the endpoints in {} are http, so that nothing would be encrypted; write https there, the same on all nodes, or \
         leave `tls` out",
        .0.display()
    )]
    TlsUnused(PathBuf),
    /// Both cannot be.
    #[error("gateway: a gateway is none of the cluster file's nodes; leave out either `node` or `gateway`")]
    GatewayNode,
    /// One port for two things.
    #[error(
        "listen: port {0} is the port between nodes in the cluster file; choose another one for S3 clients"
    )]
    NodePort(u16),
    /// Not an address.
    #[error("listen: `{text}` is not HOST:PORT ({what})")]
    Listen {
        /// As written.
        text: String,
        /// Why.
        what: String,
    },
    /// Not a number of cores.
    #[error("cores: {0} is not a number from 1 to {CORES_MAX}")]
    Cores(usize),
    /// Too long for a row.
    #[error("limits.inline_bytes_max: {0} is more than {max}", max = ByteSize(INLINE_BYTES_MAX as u64))]
    Inline(ByteSize),
    /// Not a region.
    #[error("region: `{0}` is not a name of letters, digits and `-`")]
    Region(String),
}

impl ConfigFile {
    /// Reads and parses a file. A relative `cluster`, or file of `tls`, is then relative to the file's directory.
    pub fn load(path: &Path) -> Result<ConfigFile, ConfigError> {
        let failed = |error| match error {
            TomlFileError::Read(error) => ConfigError::Read { path: path.to_owned(), error },
            TomlFileError::Syntax(what) => ConfigError::Syntax { path: path.to_owned(), what },
        };
        let text = toml_file::read(path).map_err(failed)?;
        let mut file: ConfigFile = toml_file::parse(&text).map_err(failed)?;
        if let (Some(cluster), Some(directory)) = (&mut file.cluster, path.parent()) {
            *cluster = directory.join(&*cluster);
        }
        if let Some(directory) = path.parent() {
            file.tls.below(directory);
        }
        Ok(file)
    }

    /// Where the disks come from, as written.
    pub fn disk_settings(&self) -> DiskSettings {
        DiskSettings {
            disks: self.disks.clone(),
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            gateway: self.gateway,
        }
    }
}

impl NodeArgs {
    /// Reads the configuration file, if one is named, and checks the whole. `env` gives environment variables.
    pub fn resolve(self, env: impl Fn(&str) -> Option<String>) -> Result<NodeConfig, ConfigError> {
        let file = match &self.config {
            Some(path) => ConfigFile::load(path)?,
            None => ConfigFile::default(),
        };
        let dev = match &self.dev {
            Some(directory) => Some(absolute(directory)?),
            None => None,
        };
        let settings = match &dev {
            Some(directory) => DiskSettings {
                disks: vec![format!("{}/{DEV_DISKS}", directory.display())],
                ..DiskSettings::default()
            },
            None => DiskSettings {
                disks: if self.disks.is_empty() { file.disks } else { self.disks },
                cluster: self.cluster.or(file.cluster),
                node: self.node.or(file.node),
                gateway: self.gateway || file.gateway,
            },
        };
        let (disks, cluster) = settings.resolve()?;
        let of_flags = TlsSection { ca: self.tls_ca, certificate: self.tls_certificate, key: self.tls_key };
        let tls = tls_files(of_flags.or(file.tls), cluster.as_ref())?;
        let listen_default = if dev.is_some() { LISTEN_DEV_DEFAULT } else { LISTEN_DEFAULT };
        let cores = self.cores.or(file.cores);
        if let Some(cores) = cores.filter(|cores| !(1..=CORES_MAX).contains(cores)) {
            return Err(ConfigError::Cores(cores));
        }
        let region = self.region.or(file.region).unwrap_or_else(|| REGION_DEFAULT.to_owned());
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ConfigError::Region(region));
        }
        let inline = file.limits.inline_bytes_max.unwrap_or(ByteSize(INLINE_BYTES_DEFAULT as u64));
        let inline_bytes_max = usize::try_from(inline.0).unwrap_or(usize::MAX);
        if inline_bytes_max > INLINE_BYTES_MAX {
            return Err(ConfigError::Inline(inline));
        }
        let credentials_file = match (&file.credentials.file, &dev) {
            (Some(path), _) => path.clone(),
            (None, Some(directory)) => directory.join(CREDENTIALS_FILE),
            (None, None) => credentials::default_file(env),
        };
        let listen = listen_address(self.listen.or(file.listen).as_deref().unwrap_or(listen_default))?;
        let node = cluster.as_ref().and_then(|cluster| cluster.node.as_ref());
        if node.is_some_and(|node| node.port == listen.port()) {
            return Err(ConfigError::NodePort(listen.port()));
        }
        Ok(NodeConfig {
            listen,
            cores,
            disks,
            cluster,
            tls,
            cache_bytes: self.cache.or(file.cache_bytes).map_or(CACHE_BYTES_DEFAULT, |size| size.0),
            region,
            log_format: self.log_format.or(file.log.format).unwrap_or_default(),
            log_level: self.log_level.or(file.log.level).unwrap_or_else(|| "info".to_owned()),
            credentials: file.credentials,
            credentials_file,
            inline_bytes_max,
            limits: file.limits,
            disk_faults: self.disk_faults,
            dev: dev.is_some(),
        })
    }
}

impl DiskSettings {
    /// The node's disks, and its part in the cluster file if there is one. Reads the cluster file and, where no node is
    /// named, resolves the names of its nodes.
    pub fn resolve(self) -> Result<(Vec<Endpoint>, Option<NodeCluster>), ConfigError> {
        let Some(path) = self.cluster else {
            if self.gateway || self.node.is_some() {
                return Err(ConfigError::WithoutCluster(if self.gateway { "gateway" } else { "node" }));
            }
            return Ok((local_disks(&self.disks)?, None));
        };
        if !self.disks.is_empty() {
            return Err(ConfigError::DisksBesideCluster);
        }
        if self.gateway && self.node.is_some() {
            return Err(ConfigError::GatewayNode);
        }
        let file = ClusterFile::load(&path)?;
        if self.gateway {
            return Ok((Vec::new(), Some(NodeCluster { file, node: None })));
        }
        let node = file.own_node(self.node.as_deref())?;
        Ok((file.disks_of(&node), Some(NodeCluster { file, node: Some(node) })))
    }
}

/// The files that the cluster file asks for: all of them, or none.
fn tls_files(section: TlsSection, cluster: Option<&NodeCluster>) -> Result<Option<TlsFiles>, ConfigError> {
    let files = section.complete().map_err(ConfigError::TlsIncomplete)?;
    match (files, cluster.map(|cluster| &cluster.file)) {
        (Some(_), None) => Err(ConfigError::WithoutCluster("tls")),
        (Some(_), Some(file)) if !file.tls => Err(ConfigError::TlsUnused(file.path.clone())),
        (None, Some(file)) if file.tls => Err(ConfigError::TlsMissing(file.path.clone())),
        (files, _) => Ok(files),
    }
}

/// The disks that patterns name: local, absolute, each once.
pub fn local_disks(patterns: &[String]) -> Result<Vec<Endpoint>, ConfigError> {
    if patterns.is_empty() {
        return Err(ConfigError::NoDisks);
    }
    let mut paths = Vec::new();
    for endpoint in endpoint::expand(patterns)? {
        if endpoint.node().is_some() {
            return Err(ConfigError::RemoteDisk(endpoint.to_string()));
        }
        paths.push(absolute(Path::new(endpoint.path()))?.display().to_string());
    }
    // Once more: two relative texts may be one absolute place.
    let mut disks: Vec<Endpoint> = Vec::new();
    for path in paths {
        let disk: Endpoint = path.parse()?;
        if disks.contains(&disk) {
            return Err(EndpointError::Duplicate(path).into());
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })
}

fn listen_address(text: &str) -> Result<SocketAddr, ConfigError> {
    let refuse = |what: String| ConfigError::Listen { text: text.to_owned(), what };
    // `:9000` means every address.
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let mut addresses = full.to_socket_addrs().map_err(|error| refuse(error.to_string()))?;
    addresses.next().ok_or_else(|| refuse("it names no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/op".to_owned())
    }

    fn config(text: &str) -> (tempfile::TempDir, NodeArgs) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        (directory, NodeArgs { config: Some(path), ..NodeArgs::default() })
    }

    const FULL: &str = r#"
        listen = "127.0.0.1:9100"
        cores = 4
        disks = ["/mnt/disk{1...2}", "/srv/disk3"]
        cache_bytes = "1GiB"
        region = "eu-central-1"
        [log]
        format = "json"
        level = "debug"
        [credentials]
        file = "/etc/buckets/root.toml"
        [limits]
        connections_per_core_max = 500
        body_bytes_per_core_max = 1048576
        inline_bytes_max = "4KiB"
    "#;

    #[test]
    fn every_setting_of_the_file_counts() {
        let (_directory, args) = config(FULL);
        let config = args.resolve(home).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9100");
        assert_eq!((config.cores, config.cache_bytes), (Some(4), 1 << 30));
        let disks: Vec<String> = config.disks.iter().map(Endpoint::to_string).collect();
        assert_eq!(disks, ["/mnt/disk1", "/mnt/disk2", "/srv/disk3"]);
        assert_eq!((config.region.as_str(), config.log_level.as_str()), ("eu-central-1", "debug"));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.credentials_file, Path::new("/etc/buckets/root.toml"));
        assert_eq!(config.limits.connections_per_core_max, Some(500));
        assert_eq!(config.inline_bytes_max, 4096);
        assert_eq!(config.limits.body_bytes_per_core_max, Some(ByteSize(1 << 20)));
    }

    #[test]
    fn flags_override_the_file() {
        let (_directory, args) = config(FULL);
        let args = NodeArgs {
            disks: vec!["/other".to_owned()],
            listen: Some(":9200".to_owned()),
            cores: Some(2),
            cache: Some(ByteSize(1)),
            log_format: Some(LogFormat::Human),
            ..args
        };
        let config = args.resolve(home).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:9200");
        assert_eq!((config.cores, config.cache_bytes, config.disks.len()), (Some(2), 1, 1));
        assert_eq!(config.log_format, LogFormat::Human);
    }

    #[test]
    fn without_a_file_there_are_defaults() {
        let config =
            NodeArgs { disks: vec!["/d{1...4}".to_owned()], ..NodeArgs::default() }.resolve(home).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:9000");
        assert_eq!((config.cores, config.cache_bytes), (None, 256 << 20));
        assert_eq!(config.credentials_file, Path::new("/home/op/.config/buckets/credentials.toml"));
        assert!(!config.dev);
    }

    #[test]
    fn dev_names_four_disks_and_keeps_its_credentials_beside_them() {
        let config = NodeArgs { dev: Some("/tmp/try".into()), ..NodeArgs::default() }.resolve(home).unwrap();
        assert_eq!(config.disks[3].path(), "/tmp/try/disk4");
        assert_eq!(config.credentials_file, Path::new("/tmp/try/credentials.toml"));
        assert!(config.dev && config.listen.ip().is_loopback());
    }

    /// A configuration beside a cluster file of two nodes, the first of which is this machine.
    fn in_cluster(text: &str) -> (tempfile::TempDir, NodeArgs) {
        let (directory, args) = config(text);
        let patterns = ["http://127.0.0.1:9100/d{1...2}", "http://192.0.2.1:9100/d{1...2}"];
        std::fs::write(directory.path().join("cluster.toml"), crate::cluster::tests::text(&patterns))
            .unwrap();
        (directory, args)
    }

    #[test]
    fn a_cluster_file_beside_the_configuration_names_the_disks() {
        let (directory, args) = in_cluster("cluster = \"cluster.toml\"");
        let config = args.resolve(home).unwrap();
        let disks: Vec<String> = config.disks.iter().map(Endpoint::to_string).collect();
        assert_eq!(disks, ["http://127.0.0.1:9100/d1", "http://127.0.0.1:9100/d2"]);
        let cluster = config.cluster.unwrap();
        assert_eq!(cluster.node, Some("127.0.0.1:9100".parse().unwrap()));
        assert_eq!(cluster.file, ClusterFile::load(&directory.path().join("cluster.toml")).unwrap());
    }

    #[test]
    fn flags_name_cluster_file_and_node() {
        let (directory, _) = in_cluster("");
        let args = NodeArgs {
            cluster: Some(directory.path().join("cluster.toml")),
            node: Some("192.0.2.1:9100".to_owned()),
            ..NodeArgs::default()
        };
        let config = args.clone().resolve(home).unwrap();
        assert_eq!(config.disks[1].to_string(), "http://192.0.2.1:9100/d2");
        assert_eq!(config, args.resolve(home).unwrap());
    }

    #[test]
    fn a_gateway_has_the_cluster_but_no_disks() {
        let (_directory, args) =
            in_cluster("cluster = \"cluster.toml\"\ngateway = true\nlisten = \"127.0.0.1:9100\"");
        let config = args.resolve(home).unwrap();
        assert_eq!((config.disks, config.cluster.unwrap().node), (Vec::new(), None));
        let (_directory, args) = in_cluster("cluster = \"cluster.toml\"");
        let config = NodeArgs { gateway: true, ..args }.resolve(home).unwrap();
        assert_eq!(config.cluster.unwrap().node, None);
    }

    #[test]
    fn https_and_the_files_for_it_come_together() {
        let files = "[tls]\nca = \"ca.pem\"\ncertificate = \"/etc/node.pem\"\nkey = \"node.key\"";
        let whole = format!("cluster = \"cluster.toml\"\n{files}");
        let with_https = |text: &str| {
            let (directory, args) = in_cluster(text);
            let path = directory.path().join("cluster.toml");
            let cluster = std::fs::read_to_string(&path).unwrap().replace("http://", "https://");
            std::fs::write(path, cluster).unwrap();
            (directory, args)
        };
        let (directory, args) = with_https(&whole);
        let key = Some(PathBuf::from("/flag.key"));
        let config = NodeArgs { tls_key: key, ..args }.resolve(home).unwrap();
        let expected = TlsFiles {
            ca: directory.path().join("ca.pem"),
            certificate: "/etc/node.pem".into(),
            key: "/flag.key".into(),
        };
        assert_eq!(config.tls, Some(expected));
        for ((_directory, args), named) in [
            (with_https("cluster = \"cluster.toml\""), "tls: the endpoints in"),
            (with_https(&whole.replace("key =", "#")), "tls.key: it is missing"),
            (in_cluster(&whole), "leave `tls` out"),
            (in_cluster(&format!("disks = [\"/d\"]\n{files}")), "tls: it needs a cluster file"),
        ] {
            let error = args.resolve(home).unwrap_err().to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn contradictions_around_a_cluster_file_are_refused() {
        for (text, named) in [
            ("cluster = \"cluster.toml\"\ndisks = [\"/d\"]", "disks: the cluster file names"),
            ("cluster = \"cluster.toml\"\nnode = \"node9:9100\"", "`node9:9100` is no node"),
            ("cluster = \"cluster.toml\"\nnode = \"127.0.0.1:9100\"\ngateway = true", "gateway: "),
            ("cluster = \"cluster.toml\"\nlisten = \"127.0.0.1:9100\"", "listen: port 9100"),
            ("cluster = \"elsewhere.toml\"", "elsewhere.toml cannot be read"),
            ("disks = [\"/d\"]\nnode = \"127.0.0.1:9100\"", "node: it needs a cluster file"),
            ("gateway = true", "gateway: it needs a cluster file"),
        ] {
            let (_directory, args) = in_cluster(text);
            let error = args.resolve(home).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn an_error_is_one_line_with_its_place_and_without_secrets() {
        let (_directory, args) = config("listen = \"a:1\"\n[credentials]\nsecret_key = 987654321\n");
        let error = args.resolve(home).unwrap_err().to_string();
        assert!(error.contains("node.toml is not understood: line 3 (secret_key): "), "{error}");
        assert!(!error.contains("987654321") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |text: &str| {
            let (_directory, args) = config(text);
            args.resolve(home).unwrap_err().to_string()
        };
        for (text, named) in [
            ("", "no disks"),
            ("disks = [\"/d\"]\nlissten = \"x\"", "lissten"),
            ("disks = [\"/d\"]\nlisten = \"nonsense\"", "listen"),
            ("disks = [\"/d\"]\ncores = 0", "cores"),
            ("disks = [\"/d\"]\nregion = \"a b\"", "region"),
            ("disks = [\"/d\"]\ncache_bytes = \"lots\"", "cache_bytes"),
            ("disks = [\"/d\", \"/d/\"]", "twice"),
            ("disks = [\"http://n1:9000/d\"]", "URL"),
            ("disks = [\"/d{1..4}\"]", "pattern"),
            ("disks = [\"/d\"]\n[limits]\ninline_bytes_max = \"1025KiB\"", "inline_bytes_max"),
            ("disks = [\"/d\"]\n[log]\nformat = \"xml\"", "format"),
        ] {
            assert!(refused(text).contains(named), "{text}: {}", refused(text));
        }
        let missing = NodeArgs { config: Some("/does/not/exist.toml".into()), ..NodeArgs::default() };
        assert!(missing.resolve(home).unwrap_err().to_string().contains("/does/not/exist.toml"));
    }
}
