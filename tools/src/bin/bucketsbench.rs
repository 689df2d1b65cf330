//! Measures an S3 server; everything is in `buckets_tools::bench`.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let raw: Vec<OsString> = std::env::args_os().collect();
    buckets_tools::bench::main(&raw, |name| std::env::var(name).ok(), &mut io::stdout())
}
