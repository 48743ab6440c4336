//! Room on the disks that PostgreSQL writes to.

use super::Server;
use rustix::fs::statvfs;
use std::path::Path;

/// PostgreSQL can't begin its next WAL segment with less (16 MiB, unless initdb was told
/// otherwise).
const WAL_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Tables grow by pages and by up to 64 of them at once: with less, writes fail already.
const DATA_BYTES_MIN: u64 = 1024 * 1024;

impl Server {
    /// Free bytes on the disk with WAL, where it can be asked.
    #[must_use]
    pub fn wal_free_bytes(&self) -> Option<u64> {
        free_bytes(&self.places.data("pg_wal"))
    }

    /// Which disk is full, in words; `None` when none is, or none can be asked.
    #[must_use]
    pub fn full_disk(&self) -> Option<String> {
        let wal = self.places.data("pg_wal");
        let data = &self.places.data_dir;
        [(wal.as_path(), WAL_BYTES_MIN, "WAL"), (data.as_path(), DATA_BYTES_MIN, "data")]
            .into_iter()
            .find(|(place, least, _)| free_bytes(place).is_some_and(|free| free < *least))
            .map(|(place, least, what)| {
                format!("less than {} MiB for {what} in {}", least >> 20, place.display())
            })
    }
}

/// What a user without privileges may still write.
fn free_bytes(place: &Path) -> Option<u64> {
    let room = statvfs(place).ok()?;
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_a_number_of_bytes_and_unknown_for_what_is_not_there() {
        let dir = tempfile::tempdir().expect("directory");
        assert!(free_bytes(dir.path()).expect("room") > 0);
        assert_eq!(free_bytes(&dir.path().join("gone")), None);
    }
}
