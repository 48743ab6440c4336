#!/usr/bin/env bash
# The whole story of a federation on this machine: installs what is missing, builds, and runs
# `lab tour` on topologies/two-dc.yaml.
#
#   bash topologies/quickstart.sh [--fast] [--keep] [other options of `lab tour`]
#
# --fast  no pauses for reading
# --keep  leave everything running at the end
#
# FEDERATOR_BIN_DIR=DIR uses the programs in DIR instead of building them.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
clusters=/etc/postgresql-common/createcluster.conf

for option in "$@"; do
    case $option in
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    esac
done

# Names of Debian packages whose programs are not here.
missing_packages() {
    [ -x /usr/lib/postgresql/15/bin/postgres ] || echo postgresql-15
    command -v etcd >/dev/null || [ -x /usr/sbin/etcd ] || echo etcd-server
    command -v setsid >/dev/null || echo util-linux
    if [ -z "${FEDERATOR_BIN_DIR:-}" ]; then
        # The compiler of etcd's interface needs the definitions of the second package, too.
        command -v protoc >/dev/null || echo protobuf-compiler
        [ -e /usr/include/google/protobuf/descriptor.proto ] || echo libprotobuf-dev
        command -v cc >/dev/null || echo build-essential
    fi
}

# Without this the package of PostgreSQL would start a server of its own.
keep_package_from_starting_a_server() {
    if ! dpkg -s postgresql-common >/dev/null 2>&1; then
        mkdir -p "$(dirname "$clusters")"
        [ -e "$clusters" ] || echo 'create_main_cluster = false' >"$clusters"
    fi
}

install() {
    echo "installing: $*"
    keep_package_from_starting_a_server
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # The package of etcd would start a server as well; ours run on addresses of their own.
    apt-get install -y -q --no-install-recommends "$@"
}

mapfile -t packages < <(missing_packages)
if [ "${#packages[@]}" -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "quickstart: these Debian packages are missing: ${packages[*]}" >&2
        echo "HINT: install what your system calls them" >&2
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "quickstart: programs are missing. As root, run:" >&2
        if ! dpkg -s postgresql-common >/dev/null 2>&1; then
            echo "  mkdir -p $(dirname "$clusters")" >&2
            echo "  echo 'create_main_cluster = false' > $clusters" >&2
        fi
        echo "  apt-get update && apt-get install -y ${packages[*]}" >&2
        exit 1
    fi
    install "${packages[@]}"
fi

if [ -n "${FEDERATOR_BIN_DIR:-}" ]; then
    programs=$FEDERATOR_BIN_DIR
else
    if ! command -v cargo >/dev/null; then
        echo "quickstart: there is no Rust toolchain" >&2
        echo "HINT: install one, see https://rustup.rs" >&2
        exit 1
    fi
    echo "building (a few minutes the first time)"
    (cd "$root" && cargo build --release --locked -p node-agent -p federator -p lab)
    programs=${CARGO_TARGET_DIR:-$root/target}/release
fi

for program in lab node-agent node-agent-guard federator; do
    if [ ! -x "$programs/$program" ]; then
        echo "quickstart: there is no program $program in $programs" >&2
        echo "HINT: unset FEDERATOR_BIN_DIR, so that the programs are built" >&2
        exit 1
    fi
done

exec "$programs/lab" tour "$here/two-dc.yaml" --bin-dir "$programs" "$@"
