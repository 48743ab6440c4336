#!/usr/bin/env bash
# Measures the agents beside Patroni on this machine; see docs/benchmarks.md.
#
#   bash tests/bench/run.sh [--runs N] [--only SCENARIO] [--system SYSTEM] [--write]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
# shellcheck source=../../topologies/install.sh
. topologies/install.sh

python_venv() {
    /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}
mapfile -t packages < <(packages_to_run; packages_to_build; python_venv)
install_packages bench "${packages[@]}"
require_cargo bench
cargo build --quiet --locked --release -p node-agent -p lab -p federator-bench
exec "${CARGO_TARGET_DIR:-target}/release/bench" "$@"
