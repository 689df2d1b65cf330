//! `bucketsctl topology`: what is to become of the disks, and what they say, without a running server.

mod new;
mod show;

use super::CtlError;
use crate::verdict::Exit;
use std::io::Write;

#[derive(Debug, clap::Subcommand)]
pub(super) enum TopologyCommand {
    /// Write the cluster file of a new deployment of several nodes, and show what the loss of nodes costs
    New(new::NewArgs),
    /// Show sets, disks and what is wrong with them
    Show(show::ShowArgs),
}

pub(super) fn run(command: TopologyCommand, out: &mut dyn Write) -> Result<Exit, CtlError> {
    match command {
        TopologyCommand::New(args) => new::run(args, out),
        TopologyCommand::Show(args) => show::run(args, out),
    }
}
