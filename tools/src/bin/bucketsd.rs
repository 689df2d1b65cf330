//! The daemon of a node.

use buckets_tools::config::NodeArgs;
use buckets_tools::daemon;
use clap::Parser;
use std::process::ExitCode;

// A PUT of 4 KiB spends 8 % of its time in the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Buckets: an S3-compatible object store for bare-metal NVMe nodes.
///
/// Serves S3 from formatted disks (see `bucketsctl format`), or from four directories that it makes itself (--dev).
/// Root credentials come from BUCKETS_ROOT_ACCESS_KEY and BUCKETS_ROOT_SECRET_KEY or the configuration; where
/// there are none they are generated, stored with mode 0600 and printed once. SIGTERM and SIGINT let requests in progress end,
/// flush, and exit with 0.
#[derive(Parser)]
#[command(name = "bucketsd", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    node: NodeArgs,
}

fn main() -> ExitCode {
    // The allocator asks for huge pages. Its memory is touched here and there, and for each first touch the kernel then
    // clears 2 MiB while a core waits. A kernel that refuses only costs that.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match daemon::run(Cli::parse().node) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bucketsd: {error}");
            ExitCode::FAILURE
        }
    }
}
