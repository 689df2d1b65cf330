//! The commands of `bucketsctl`.
//!
//! What must hold: every command has `--json`; results go to standard output, errors (one sentence, with what to do) to
//! standard error; the exit code says the same as the text.

mod disk;
mod format;
mod info;
mod local;
mod node;
mod table;
mod topology;
mod user;
mod watch;

use crate::config::{ConfigError, ConfigFile, DiskSettings, NodeCluster};
use crate::verdict::Exit;
use buckets_ring::Endpoint;
use clap::{Parser, Subcommand};
use std::io::{self, Write};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes:
  0  done; or the state was shown and is safe
  1  error
  2  wrong usage
  3  the state was shown: degraded
  4  the state was shown: at risk";

/// Administers a Buckets deployment
#[derive(Debug, Parser)]
#[command(name = "bucketsctl", version, after_help = EXIT_CODES, after_long_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the disks of a new deployment (offline, on this machine)
    Format(format::FormatArgs),
    /// The sets and their disks (offline, on this machine)
    #[command(subcommand)]
    Topology(topology::TopologyCommand),
    /// How safe the data is: verdict, repairs, nodes, sets and disks, as the running server sees it
    Info(info::InfoArgs),
    /// Try a cluster of several nodes out on this machine
    #[command(subcommand)]
    Local(local::LocalCommand),
    /// The nodes of the deployment, as the one that is asked sees them
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// The disks of all nodes
    #[command(subcommand)]
    Disk(disk::DiskCommand),
    /// Users of the S3 interface
    #[command(subcommand)]
    User(user::UserCommand),
}

/// Why a command ended without a result.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Credentials(#[from] crate::credentials::CredentialsError),
    #[error(transparent)]
    Format(#[from] crate::format::FormatDisksError),
    #[error(transparent)]
    Replace(#[from] crate::format::replace::ReplaceError),
    #[error(transparent)]
    Assembly(#[from] buckets_ring::assembly::AssemblyError),
    #[error(transparent)]
    Cluster(#[from] crate::cluster::ClusterError),
    #[error("gateway: a gateway has no disks; run this on a node of the cluster file")]
    GatewayDisks,
    #[error(transparent)]
    Local(#[from] crate::local::LocalError),
    #[error("no random numbers for a new deployment: {0}")]
    Random(io::Error),
    #[error("{}", not_written(path, error))]
    WriteCluster { path: std::path::PathBuf, error: io::Error },
    #[error(transparent)]
    Client(#[from] crate::admin_client::AdminClientError),
    #[error("{}", no_such_node(name, known))]
    NoSuchNode { name: String, known: Vec<String> },
    #[error("{0}")]
    NotDrained(String),
    #[error("{0}")]
    DrainUnfinished(String),
    #[error("the secret on standard input cannot be read: {0}")]
    Secret(io::Error),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

fn no_such_node(name: &str, known: &[String]) -> String {
    match known.is_empty() {
        true => format!("there is no node {name}: the deployment has local disks only"),
        false => format!("`{name}` does not name one node; write one of: {}", known.join(", ")),
    }
}

fn not_written(path: &std::path::Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists => format!(
            "{path} exists already and is not overwritten, it may be the only copy of a deployment's secret; name another file \
             with --out"
        ),
        _ => format!("{path} cannot be written: {error}"),
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self, env: impl Fn(&str) -> Option<String>, out: &mut dyn Write) -> Exit {
        let result = match self.command {
            Command::Format(args) => format::run(args, out),
            Command::Topology(command) => topology::run(command, out),
            Command::Info(args) => info::run(args, env, out),
            Command::Local(command) => local::run(command, out),
            Command::Node(command) => node::run(command, env, out),
            Command::Disk(command) => disk::run(command, env, out),
            Command::User(command) => user::run(command, env, out),
        };
        match result {
            Ok(exit) => exit,
            // Somebody piped us into `head`.
            Err(CtlError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Err(error) => {
                // Nothing is left to be done where even this fails.
                let _ = writeln!(io::stderr(), "bucketsctl: {error}");
                Exit::Error
            }
        }
    }
}

/// The disks of this node.
#[derive(Debug, clap::Args)]
struct OwnDisksArgs {
    /// Directories of the disks, patterns allowed: '/mnt/disk{1...4}'; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',', required_unless_present_any = ["config", "cluster"])]
    disks: Vec<String>,
    /// The configuration file that names the disks, or the cluster file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["disks", "cluster", "node"])]
    config: Option<PathBuf>,
    /// The cluster file of a deployment of several nodes: this node's disks are meant
    #[arg(long, value_name = "FILE", conflicts_with = "disks")]
    cluster: Option<PathBuf>,
    /// Which node of the cluster file this is [default: the one whose host is an address of this machine]
    #[arg(long, value_name = "HOST:PORT", requires = "cluster")]
    node: Option<String>,
}

impl OwnDisksArgs {
    /// Where they are, and the node's place in its cluster file, if there is one.
    fn resolve(self) -> Result<(Vec<Endpoint>, Option<NodeCluster>), ConfigError> {
        let settings = match &self.config {
            Some(path) => ConfigFile::load(path)?.disk_settings(),
            None => {
                DiskSettings { disks: self.disks, cluster: self.cluster, node: self.node, gateway: false }
            }
        };
        settings.resolve()
    }
}

/// One JSON value, indented, and a newline.
fn write_json(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// What is not known is never shown as a zero.
fn or_unknown(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

/// Where the running server is and how to sign.
#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// The server [default: http://127.0.0.1:9000, or `listen` of --config]
    #[arg(long, value_name = "URL", env = "BUCKETS_ENDPOINT")]
    endpoint: Option<String>,
    /// The server's configuration file: where it listens and its credentials
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// The file with the root credentials, where they are neither in the environment nor in --config
    #[arg(long, value_name = "FILE")]
    credentials: Option<std::path::PathBuf>,
    /// Region that signatures name [default: us-east-1, or `region` of --config]
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
}

impl ServerArgs {
    fn client(
        self,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<crate::admin_client::AdminClient, CtlError> {
        let file = match &self.config {
            Some(path) => crate::config::ConfigFile::load(path)?,
            None => crate::config::ConfigFile::default(),
        };
        let kept = self.credentials.or_else(|| file.credentials.file.clone());
        let kept = kept.unwrap_or_else(|| crate::credentials::default_file(&env));
        let (credentials, _) = crate::credentials::find(&env, &file.credentials, &kept)?;
        let endpoint = match (self.endpoint, &file.listen) {
            (Some(endpoint), _) => endpoint,
            // Every address is also the loopback.
            (None, Some(listen)) => {
                match listen.strip_prefix("0.0.0.0:").or_else(|| listen.strip_prefix(':')) {
                    Some(port) => format!("http://127.0.0.1:{port}"),
                    None => format!("http://{}", listen.replacen("[::]:", "[::1]:", 1)),
                }
            }
            (None, None) => "http://127.0.0.1:9000".to_owned(),
        };
        let region = self.region.or(file.region).unwrap_or_else(|| crate::config::REGION_DEFAULT.to_owned());
        Ok(crate::admin_client::AdminClient::new(&endpoint, credentials, &region)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed_and_documents_exit_codes() {
        Cli::command().debug_assert();
        assert!(Cli::command().render_long_help().to_string().contains("at risk"));
    }
}
