//! Waiting for a condition, with a deadline that says what was waited for and what was seen.

use std::time::{Duration, Instant};

/// Pause between two looks at a condition that announces itself by no event.
const POLL: Duration = Duration::from_millis(20);

/// Looks until `look` returns a value; `Err` says what it sees instead.
///
/// # Panics
/// When `limit` passes first, with what was waited for and what was seen last.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        let last = match tokio::time::timeout(left.max(POLL), look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(seen)) => seen,
            Err(_) => "the look itself did not end".to_owned(),
        };
        if start.elapsed() >= limit {
            panic!("{what} did not happen within {} s; last seen: {last}", limit.as_secs_f32());
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_the_condition() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(10), async || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(found.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "the impossible did not happen within 0 s; last seen: nothing")]
    async fn a_deadline_says_what_was_waited_for() {
        let never = async || Err::<(), _>("nothing".to_owned());
        until("the impossible", Duration::ZERO, never).await;
    }

    #[tokio::test]
    #[should_panic(expected = "last seen: the look itself did not end")]
    async fn a_look_that_hangs_does_not_hold_the_test() {
        let hangs = async || std::future::pending::<Result<(), String>>().await;
        until("an answer", Duration::from_millis(40), hangs).await;
    }
}
