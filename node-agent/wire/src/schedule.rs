//! Points in time that operators give: ISO 8601 with a time zone (contract B.7, `scheduled_at` and
//! `schedule`). Patroni's command line sends exactly that.

/// A point in time that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Without a zone the members could read it differently.
    #[error("the time zone is missing: give the time as 2030-01-31T23:00:00+01:00")]
    NoZone,
    /// Not a point in time.
    #[error("the time was not understood: give it as 2030-01-31T23:00:00+01:00")]
    Unreadable,
}

/// Reads it: microseconds since the Unix epoch.
///
/// # Errors
/// When it has no time zone, or is no point in time.
pub fn parse(text: &str) -> Result<i64, ScheduleError> {
    let text = text.trim();
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_microsecond());
    }
    match text.parse::<jiff::civil::DateTime>() {
        Ok(_) => Err(ScheduleError::NoZone),
        Err(_) => Err(ScheduleError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_need_a_zone() {
        for (text, expected) in [
            ("1970-01-01T00:00:01+00:00", Ok(1_000_000)),
            ("1970-01-01T01:00:00.5+01:00", Ok(500_000)),
            ("1970-01-01 00:00:01Z", Ok(1_000_000)),
            (" 1970-01-01T00:01+00 ", Ok(60_000_000)),
            ("2030-01-01T00:00:00", Err(ScheduleError::NoZone)),
            ("2030-01-01", Err(ScheduleError::NoZone)),
            ("tomorrow", Err(ScheduleError::Unreadable)),
            ("2030-13-01T00:00:00Z", Err(ScheduleError::Unreadable)),
            ("", Err(ScheduleError::Unreadable)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
