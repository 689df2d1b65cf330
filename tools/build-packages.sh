# Sourced by run.sh and test.sh: the Debian and Ubuntu packages that a build needs, installed where they are missing.
# ISA-L is compiled from source (autoconf, automake, libtool, nasm) and linked into the binaries.

BUILD_PACKAGES="build-essential nasm autoconf automake libtool pkg-config"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Installs the named packages that are not installed yet; asks for nothing where all are there.
install_packages() {
    missing=""
    for package in "$@"; do
        if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed'; then
            missing="$missing $package"
        fi
    done
    if [ -z "$missing" ]; then
        return 0
    fi
    command -v apt-get >/dev/null 2>&1 ||
        die "these packages are missing, and this is no Debian or Ubuntu with apt-get to install them:$missing"
    if [ "$(id -u)" -eq 0 ]; then
        as_root=""
    elif command -v sudo >/dev/null 2>&1; then
        as_root="sudo"
    else
        die "these packages are missing; run this as root, or install them first:$missing"
    fi
    say "installing$missing"
    # The lists of a fresh machine may be empty; a list that is stale still installs most of the time.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || say "apt-get update failed; trying with the lists there are"
    # shellcheck disable=SC2086 # one word per package
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2 ||
        die "apt-get could not install:$missing"
}

# Finds cargo, also where the shell has not read rustup's profile (sudo, cron, a fresh log-in).
find_cargo() {
    if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        export PATH
    fi
    command -v cargo >/dev/null 2>&1 || die "cargo is not installed; get Rust from https://rustup.rs and run this again"
}
