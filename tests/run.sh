#!/usr/bin/env bash
# Installs what is missing and runs every test: format, lints, unit and property tests, and the
# end-to-end tests on real etcd and PostgreSQL.
#
#   bash tests/run.sh [FILTER]
#   FEDERATOR_TEST_POSTGRES=17 bash tests/run.sh [FILTER]
#
# FILTER  only tests whose name contains it; format and lints are left out then
# FEDERATOR_TEST_POSTGRES  the major version of PostgreSQL for every lab: 13, 16, 17 or 18, obtained
#         by tests/postgresql.sh; default: the highest one installed
# PROPTEST_RNG_SEED  where the property tests begin, so that every run sees the same facts;
#         default: 1
# PROPTEST_CASES  how many facts each of them sees
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# shellcheck source=topologies/install.sh
. topologies/install.sh

python_venv() {
    # The tests with Patroni's own tools make a virtual environment.
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}
patchelf_for_other_versions() {
    command -v patchelf >/dev/null || echo patchelf
}
mapfile -t packages < <(packages_to_run; packages_to_build; packages_to_back_up; python_venv
    patchelf_for_other_versions)
install_packages tests "${packages[@]}"
require_cargo tests

if [ -n "${FEDERATOR_TEST_POSTGRES:-}" ]; then
    LAB_POSTGRES_BIN_DIR=$(bash tests/postgresql.sh "$FEDERATOR_TEST_POSTGRES")
    export LAB_POSTGRES_BIN_DIR
    echo "== $("$LAB_POSTGRES_BIN_DIR/postgres" --version)"
fi

export PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1}

# The crash points are compiled into the federator for these tests only.
features=(--features federator/crash-points)
if [ "$#" -eq 0 ]; then
    echo "== format and lints"
    cargo fmt --check
    cargo clippy --quiet --locked --workspace --all-targets "${features[@]}" -- -D warnings
fi
echo "== build"
cargo build --quiet --locked --workspace --all-targets "${features[@]}"
echo "== tests"
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --locked --workspace --no-fail-fast "${features[@]}" "$@"
fi
exec cargo test --locked --workspace --no-fail-fast "${features[@]}" -- --test-threads=2 "$@"
