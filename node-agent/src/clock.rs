//! The two clocks, read in one place.

use node_agent_core::time::Boot;

/// Now on `CLOCK_BOOTTIME`.
#[must_use]
pub fn boot() -> Boot {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    Boot(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Now by the wall clock, microseconds since the Unix epoch. For people, and for comparisons
/// within this datacenter over a restart.
#[must_use]
pub fn wall_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// A wall clock time as Patroni writes it: `2026-01-02T03:04:05.678901+00:00`.
#[must_use]
pub fn iso_offset(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us)
        .map_or_else(|_| us.to_string(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string())
}

/// A wall clock time for people: ISO 8601 in UTC.
#[must_use]
pub fn iso(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |t| t.to_string())
}
