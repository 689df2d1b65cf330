//! What the programs are wired from: configuration, credentials, the disks of this machine, and the commands of
//! `bucketsctl`.
//!
//! What must hold: nothing of the store's behaviour is decided here. These modules run outside of the cores, before
//! they start or in another process, and so may use the standard library's files and sockets.

pub mod admin_api;
pub mod admin_client;
pub mod bench;
pub mod config;
pub mod credentials;
pub mod ctl;
pub mod daemon;
mod disk_faults;
pub mod format;
pub mod local_disks;
pub mod report;
mod sigv4;
pub mod size;
pub mod verdict;
