#!/bin/sh
# Runs every check there is: formatting, lints, unit and simulator tests, then the release binaries with real S3 clients.
#
#   ./test.sh              everything
#   ./test.sh e2e          only the end-to-end suite (builds the release binaries)
#   ./test.sh rust         only the checks in Rust
#
# Needs Rust and, for packages that are missing, root or sudo. Python packages are pinned and live in target/e2e-venv;
# nothing outside this folder is written but the distribution's own packages, and, where the folder's file system has less
# than 8 GiB left for the disks of the end-to-end suite, a folder in memory. Ends with one line: N passed, N failed.
set -u
cd "$(dirname "$0")"
. tools/build-packages.sh

stage="${1:-all}"
case "$stage" in
all | e2e | rust) ;;
*) die "usage: ./test.sh [all|e2e|rust]" ;;
esac

target="${CARGO_TARGET_DIR:-target}"
logs="$target/test-logs"
mkdir -p "$logs"
passed=0
failed=0
: >"$logs/failed"
began=$(date +%s)

# fail WHAT: one more that failed; the last lines of all name it again.
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$1" | tee -a "$logs/failed" >&2
}

# check NAME COMMAND...: one more that passed or failed.
check() {
    name="$1"
    shift
    say "$name"
    if "$@"; then
        passed=$((passed + 1))
    else
        fail "$name"
    fi
}

# logged FILE COMMAND...: runs with its output on the terminal and in FILE, and keeps its exit status.
logged() {
    log="$1"
    shift
    { "$@" 2>&1; echo $? >"$log.status"; } | tee "$log"
    return "$(cat "$log.status")"
}

free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

# The end-to-end suite fills disks: makes room for them where little is left.
make_room() {
    wanted=8192
    if [ "$(free_mib "$target")" -lt "$wanted" ] && [ "$stage" = all ]; then
        say "only $(free_mib "$target") MiB are free below $target: removing the debug build"
        rm -rf "$target/debug"
    fi
    if [ -n "${BUCKETS_E2E_DATA:-}" ] || [ "$(free_mib "$target")" -ge "$wanted" ]; then
        return 0
    fi
    memory=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
    if [ "$memory" -lt $((wanted + 4096)) ] || [ "$(free_mib /dev/shm)" -lt "$wanted" ]; then
        return 0
    fi
    probe=$(mktemp -d /dev/shm/buckets-e2e-XXXXXX) || return 0
    # Files in memory take O_DIRECT from Linux 6.6 on.
    if dd if=/dev/zero of="$probe/direct" bs=4096 count=1 oflag=direct 2>/dev/null; then
        rm "$probe/direct"
        BUCKETS_E2E_DATA="$probe"
        export BUCKETS_E2E_DATA
        trap 'rm -rf "$BUCKETS_E2E_DATA"' EXIT
        say "only $(free_mib "$target") MiB are free below $target: the disks of the tests are folders in memory"
    else
        rm -rf "$probe"
    fi
}

finish() {
    if [ -s "$logs/failed" ]; then
        printf '\n'
        cat "$logs/failed"
    fi
    printf '\ntook %d s\n%d passed, %d failed\n' "$(($(date +%s) - began))" "$passed" "$failed"
    [ "$failed" -eq 0 ]
    exit $?
}

rust_checks() {
    check "cargo fmt --check" cargo fmt --all --check
    check "cargo clippy" cargo clippy --locked --workspace --all-targets -- -D warnings

    say "cargo test"
    logged "$logs/cargo-test.log" cargo test --locked --workspace --no-fail-fast
    status=$?
    # One line per test binary: test result: ok. 12 passed; 0 failed; ...
    counted=$(awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d %d", passed, failed }' "$logs/cargo-test.log")
    passed=$((passed + ${counted% *}))
    failed=$((failed + ${counted#* }))
    sed -n 's/^test \(.*\) \.\.\. FAILED$/FAILED: cargo test \1/p' "$logs/cargo-test.log" >>"$logs/failed"
    if [ "$status" -ne 0 ] && [ "${counted#* }" -eq 0 ]; then
        # It did not build, or a test binary died before its result line.
        fail "cargo test, see $logs/cargo-test.log"
    fi

    check "1,000 seeds of a node that crashes at any write or flush" env BUCKETS_SIM_SEEDS=1000 "BUCKETS_SIM_THREADS=$(nproc)" \
        cargo test --locked --package buckets-engine --test one_node -- --nocapture \
        acknowledged_writes_survive_crashes_at_any_write_or_flush
    check "1,000 seeds of a node under every fault that it tolerates" env BUCKETS_SIM_SEEDS=1000 "BUCKETS_SIM_THREADS=$(nproc)" \
        cargo test --locked --package buckets-engine --test faults -- --nocapture \
        every_fault_within_the_tolerance_leaves_all_that_was_promised
    check "200 seeds of several nodes that crash, hang and are cut off" env BUCKETS_SIM_SEEDS=200 "BUCKETS_SIM_THREADS=$(nproc)" \
        cargo test --locked --package buckets-engine --test nodes -- --nocapture \
        whatever_nodes_do_an_order_explains_the_answers
}

e2e_checks() {
    make_room
    say "building the release binaries"
    if ! cargo build --release --locked --package buckets-tools; then
        fail "the release build"
        return
    fi
    venv="$target/e2e-venv"
    if ! cmp -s tools/tests/e2e/requirements.txt "$venv/installed.txt"; then
        say "installing the S3 clients into $venv"
        rm -rf "$venv"
        if ! { python3 -m venv "$venv" &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tools/tests/e2e/requirements.txt &&
            cp tools/tests/e2e/requirements.txt "$venv/installed.txt"; }; then
            fail "the installation of the S3 clients"
            return
        fi
    fi
    # io_uring pins memory; the soft limit is small on many machines.
    ulimit -l unlimited 2>/dev/null || ulimit -l "$(ulimit -H -l)" 2>/dev/null || true
    make_room
    say "end-to-end tests"
    rm -f "$logs/e2e.xml"
    logged "$logs/e2e.log" "$venv/bin/python" -m pytest tools/tests/e2e --reruns 2 --junit-xml="$logs/e2e.xml"
    status=$?
    counted=$("$venv/bin/python" - "$logs/e2e.xml" <<'PYTHON'
import sys, xml.etree.ElementTree as tree
try:
    suite = tree.parse(sys.argv[1]).getroot().find("testsuite").attrib
    bad = int(suite["failures"]) + int(suite["errors"])
    print(int(suite["tests"]) - bad - int(suite["skipped"]), bad)
except (OSError, tree.ParseError):
    print(0, 1)
PYTHON
    )
    passed=$((passed + ${counted% *}))
    failed=$((failed + ${counted#* }))
    if [ "$status" -ne 0 ] && [ "${counted#* }" -eq 0 ]; then
        fail "pytest, see $logs/e2e.log"
    fi
}

# shellcheck disable=SC2086 # one word per package
install_packages $BUILD_PACKAGES
if [ "$stage" != rust ]; then
    install_packages python3 python3-venv rclone curl iproute2 libfaketime
fi
find_cargo
# A build from nothing gains nothing from what lets the next one be partial, and that is a third of what it would write.
if [ ! -d "$target/debug" ]; then
    CARGO_INCREMENTAL=0
    export CARGO_INCREMENTAL
fi
for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
        say "adding $component to the Rust toolchain"
        if [ "$component" = fmt ]; then component=rustfmt; fi
        rustup component add "$component" || die "cargo has no $component, and rustup could not add it"
    fi
done

if [ "$stage" != e2e ]; then rust_checks; fi
if [ "$stage" != rust ]; then e2e_checks; fi
finish
