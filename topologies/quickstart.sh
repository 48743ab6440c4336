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

for option in "$@"; do
    case $option in
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    esac
done

# shellcheck source=topologies/install.sh
. "$here/install.sh"
mapfile -t packages < <(
    packages_to_run
    [ -n "${FEDERATOR_BIN_DIR:-}" ] || packages_to_build
)
install_packages quickstart "${packages[@]}"

if [ -n "${FEDERATOR_BIN_DIR:-}" ]; then
    programs=$FEDERATOR_BIN_DIR
else
    require_cargo quickstart
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
