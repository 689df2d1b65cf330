#!/bin/sh
# Builds Buckets and starts one node on four local directories below ./data, coded 2+2.
#
#   ./run.sh                         listens on 127.0.0.1:9000
#   ./run.sh --listen 0.0.0.0:9000   further flags go to bucketsd (see bucketsd --help)
#   BUCKETS_DATA=/srv/buckets ./run.sh
#
# Needs Rust and, for build packages that are missing, root or sudo. Ctrl-C drains, flushes and stops.
set -eu
cd "$(dirname "$0")"
. tools/build-packages.sh

# shellcheck disable=SC2086 # one word per package
install_packages $BUILD_PACKAGES
find_cargo

say "building the release binaries (a few minutes the first time)"
cargo build --release --locked --package buckets-tools

# io_uring pins memory; the soft limit is small on many machines.
ulimit -l unlimited 2>/dev/null || ulimit -l "$(ulimit -H -l)" 2>/dev/null || true
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

data="${BUCKETS_DATA:-./data}"
say "starting bucketsd on $data (Ctrl-C stops it)"
# exec: the signal reaches the daemon, and its exit status is this script's.
exec "${CARGO_TARGET_DIR:-target}/release/bucketsd" --dev "$data" "$@"
