//! What the programs are wired from: configuration, credentials, the disks of this machine, and the commands of
//! `bucketsctl`.
//!
//! What must hold: nothing of the store's behaviour is decided here. These modules run outside of the cores, before
//! they start or in another process, and so may use the standard library's files and sockets.

pub mod admin_api;
pub mod admin_client;
pub mod bench;
pub mod cluster;
pub mod config;
pub mod credentials;
pub mod ctl;
pub mod daemon;
mod disk_faults;
pub mod format;
pub mod local;
pub mod local_disks;
pub mod node_loss;
pub mod report;
pub mod resolve;
mod sigv4;
pub mod size;
pub mod tls;
mod toml_file;
pub mod verdict;
