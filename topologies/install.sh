# Sourced by topologies/quickstart.sh and tests/run.sh: installs from Debian's packages what is not
# on this machine yet. As an ordinary user, prints what root must do, and stops.

clusters=/etc/postgresql-common/createcluster.conf

# Names of Debian packages whose programs are not here: what a lab needs to run.
packages_to_run() {
    [ -x /usr/lib/postgresql/15/bin/postgres ] || echo postgresql-15
    command -v etcd >/dev/null || [ -x /usr/sbin/etcd ] || echo etcd-server
    command -v setsid >/dev/null || echo util-linux
}

# What the tests with a repository of backups need besides.
packages_to_back_up() {
    command -v pgbackrest >/dev/null || echo pgbackrest
}

# The same for building.
packages_to_build() {
    # The compiler of etcd's interface needs the definitions of the second package, too.
    command -v protoc >/dev/null || echo protobuf-compiler
    [ -e /usr/include/google/protobuf/descriptor.proto ] || echo libprotobuf-dev
    command -v cc >/dev/null || echo build-essential
}

# Without this the package of PostgreSQL would start a server of its own.
keep_package_from_starting_a_server() {
    if ! dpkg -s postgresql-common >/dev/null 2>&1; then
        mkdir -p "$(dirname "$clusters")"
        [ -e "$clusters" ] || echo 'create_main_cluster = false' >"$clusters"
    fi
}

# install_packages WHO PACKAGE...: nothing to do without packages.
install_packages() {
    local who=$1
    shift
    [ "$#" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "$who: these Debian packages are missing: $*" >&2
        echo "HINT: install what your system calls them" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "$who: programs are missing. As root, run:" >&2
        if ! dpkg -s postgresql-common >/dev/null 2>&1; then
            echo "  mkdir -p $(dirname "$clusters")" >&2
            echo "  echo 'create_main_cluster = false' > $clusters" >&2
        fi
        echo "  apt-get update && apt-get install -y $*" >&2
        return 1
    fi
    echo "installing: $*"
    keep_package_from_starting_a_server
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # The package of etcd would start a server as well; ours run on addresses of their own.
    apt-get install -y -q --no-install-recommends "$@"
}

# require_cargo WHO
require_cargo() {
    if ! command -v cargo >/dev/null; then
        echo "$1: there is no Rust toolchain" >&2
        echo "HINT: install one, see https://rustup.rs" >&2
        return 1
    fi
}
