//! Programs that stand in for the agent and its guard, so that the lab is tested without them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// An agent that only lives, with a guard that has lost its mark and must be found as a descendant.
#[allow(dead_code, reason = "each test file uses the stand-in that it needs")]
pub const IDLE_AGENT: &str = r#"#!/bin/sh
"$(dirname "$0")/node-agent-guard" &
trap 'kill $!; exit 0' TERM
while :; do sleep 1 & wait; done
"#;

/// An agent that runs PostgreSQL and decides nothing: pg1 is a primary, any other node its standby.
#[allow(dead_code, reason = "each test file uses the stand-in that it needs")]
pub const POSTGRES_AGENT: &str = r#"#!/bin/sh
set -eu
dir=$(dirname "$1"); data=$dir/data
bin=$(sed -n 's/^  bin_dir: //p' "$1")
listen=$(sed -n '/^postgresql:/,$ s/^  listen: //p' "$1")
host=${listen%:*}
PGPASSWORD=$(sed -n '/^    superuser:/,/password/ s/^      password: //p' "$1")
export PGPASSWORD PGUSER=postgres
if [ ! -d "$data" ]; then
    case $dir in
    *-pg1)
        printf '%s' "$PGPASSWORD" > "$dir/password"
        "$bin/initdb" -D "$data" -U postgres -A scram-sha-256 --pwfile="$dir/password"
        rm "$dir/password"
        echo 'host all,replication all 127.0.0.0/8 scram-sha-256' >> "$data/pg_hba.conf" ;;
    *)
        primary=${host%.*}.11
        until "$bin/pg_isready" -q -h "$primary"; do sleep 0.05; done
        "$bin/pg_basebackup" -D "$data" -h "$primary" -c fast -R ;;
    esac
fi
"$bin/postgres" -D "$data" -c listen_addresses="$host" -c unix_socket_directories="$dir/run" \
    -c shared_buffers=16MB -c dynamic_shared_memory_type=mmap &
postmaster=$!
trap 'kill -INT $postmaster; wait $postmaster; exit 0' TERM
wait $postmaster
"#;

const GUARD: &str = "#!/bin/sh\nunset FEDERATOR_LAB_HOST\nwhile :; do sleep 1; done\n";

/// A directory of stand-in programs, and a topology file in it.
pub struct StandIns {
    dir: TempDir,
}

impl StandIns {
    /// Writes the programs.
    pub fn new(agent: &str, topology: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("node-agent", agent), ("node-agent-guard", GUARD)] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(dir.path().join("topology.yaml"), topology).unwrap();
        // An unprivileged run user gets its own copy; others read these.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// Directory of the programs.
    pub fn bin_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The topology file.
    pub fn topology(&self) -> PathBuf {
        self.dir.path().join("topology.yaml")
    }
}
