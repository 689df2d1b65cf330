//! Administers a deployment; everything is in `buckets_tools::ctl`.

use buckets_tools::ctl::Cli;
use clap::Parser;
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse().run(|name| std::env::var(name).ok(), &mut io::stdout().lock()).into()
}
