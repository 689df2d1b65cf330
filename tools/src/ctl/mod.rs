//! The commands of `bucketsctl`.
//!
//! What must hold: every command has `--json`; results go to standard output, errors (one sentence, with what to do) to
//! standard error; the exit code says the same as the text.

mod format;
mod info;
mod table;
mod topology;
mod user;

use crate::verdict::Exit;
use clap::{Parser, Subcommand};
use std::io::{self, Write};

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
    /// How safe the data is: verdict, sets and disks, as the running server sees it
    Info(info::InfoArgs),
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
    Assembly(#[from] buckets_ring::assembly::AssemblyError),
    #[error(transparent)]
    Client(#[from] crate::admin_client::AdminClientError),
    #[error("the secret on standard input cannot be read: {0}")]
    Secret(io::Error),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl Cli {
    /// Runs the command.
    pub fn run(self, env: impl Fn(&str) -> Option<String>, out: &mut dyn Write) -> Exit {
        let result = match self.command {
            Command::Format(args) => format::run(args, out),
            Command::Topology(command) => topology::run(command, out),
            Command::Info(args) => info::run(args, env, out),
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

/// One JSON value, indented, and a newline.
fn write_json(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
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
