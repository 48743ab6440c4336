//! The wall clock, for records and for people. Durations are measured with `Instant`.

use jiff::Timestamp;

/// Microseconds since the Unix epoch.
#[must_use]
pub fn now_us() -> i64 {
    Timestamp::now().as_microsecond()
}

/// A moment in words: UTC, to the second.
#[must_use]
pub fn moment(at_us: i64) -> String {
    Timestamp::from_microsecond(at_us)
        .map_or_else(|_| format!("{at_us} us"), |t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A new operation id: the time, so that ids sort, and a random part.
#[must_use]
pub fn operation_id(at_us: i64) -> node_agent_wire::OperationId {
    let time = Timestamp::from_microsecond(at_us)
        .map_or_else(|_| at_us.to_string(), |t| t.strftime("%Y%m%dT%H%M%S").to_string());
    node_agent_wire::OperationId::new(format!("op-{time}-{:04x}", fastrand::u16(..)))
}
