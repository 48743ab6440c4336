//! Timing of the HA loop, with its bounds.

use super::{duration, integer};
use serde_json::{Map, Value};
use std::time::Duration;

/// Lower bounds in seconds: (`ttl`, `loop_wait`, `retry_timeout`). Patroni's are (20, 1, 3).
pub const TIMING_MIN_S: (u64, u64, u64) = (3, 1, 1);

/// The timing of the HA loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a leader lease lives.
    pub ttl: Duration,
    /// The longest pause between two passes.
    pub loop_wait: Duration,
    /// The budget of a DCS or PostgreSQL call with its retries.
    pub retry_timeout: Duration,
}

pub(super) fn read(config: &Map<String, Value>, warnings: &mut Vec<String>) -> Timing {
    let (ttl_min, loop_min, retry_min) = TIMING_MIN_S;
    let mut read = |key: &str, default: u64, min: u64| {
        let value = match config.get(key) {
            None | Some(Value::Null) => return default,
            Some(value) => value,
        };
        match integer(value) {
            Some(seconds) if seconds >= min => seconds.min(86_400),
            Some(seconds) => {
                warnings.push(format!("{key} {seconds} is below its minimum; {min} is used"));
                min
            }
            None => {
                warnings
                    .push(format!("{key} {value} is not a number of seconds; {default} is used"));
                default
            }
        }
    };
    let ttl = read("ttl", 30, ttl_min);
    let mut loop_wait = read("loop_wait", 10, loop_min);
    let mut retry_timeout = read("retry_timeout", 10, retry_min);
    // Joint rule (contract C.2): loop_wait + 2 * retry_timeout <= ttl; loop_wait gives way first.
    if loop_wait + 2 * retry_timeout > ttl {
        loop_wait = ttl.saturating_sub(2 * retry_timeout).max(loop_min);
        if loop_wait + 2 * retry_timeout > ttl {
            retry_timeout = ((ttl - loop_wait) / 2).max(retry_min);
        }
        warnings.push(format!(
            "loop_wait + 2 * retry_timeout is more than ttl {ttl}; loop_wait {loop_wait} and \
             retry_timeout {retry_timeout} are used"
        ));
    }
    Timing {
        ttl: Duration::from_secs(ttl),
        loop_wait: Duration::from_secs(loop_wait),
        retry_timeout: Duration::from_secs(retry_timeout),
    }
}

/// The shortest `primary_lost_timeout`: that of the TTL.
const LOST_MIN: Duration = Duration::from_secs(TIMING_MIN_S.0);

/// `primary_lost_timeout`: at least as long as the shortest TTL, and shorter than the TTL.
pub(super) fn read_lost(
    config: &Map<String, Value>,
    timing: &Timing,
    warnings: &mut Vec<String>,
) -> Option<Duration> {
    let asked = config.get("primary_lost_timeout").and_then(duration)?;
    if asked.is_zero() {
        return None;
    }
    let (least, ttl) = (LOST_MIN.as_secs(), timing.ttl.as_secs());
    if asked < LOST_MIN {
        warnings.push(format!("primary_lost_timeout is below its minimum; {least} s are used"));
    }
    let time = asked.max(LOST_MIN);
    if time >= timing.ttl {
        let text = format!("primary_lost_timeout is not below ttl {ttl}; it has no effect");
        warnings.push(text);
        return None;
    }
    Some(time)
}
