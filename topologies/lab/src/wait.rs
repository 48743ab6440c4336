//! Waiting with a deadline, on a thread that may block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks at a condition that announces itself by no event.
const POLL: Duration = Duration::from_millis(20);

/// A flag by which another thread (Ctrl-C) ends every wait.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Ends the waits that look at this flag.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether waits should end.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How a wait ended without its condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("{what} did not happen within {} s: {last}", limit.as_secs_f32())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// What was seen last.
        last: String,
    },
    /// It can no longer happen.
    #[error("{what} cannot happen any more: {why}")]
    Hopeless {
        /// What was waited for.
        what: String,
        /// Why it cannot happen.
        why: String,
    },
    /// Somebody asked to stop.
    #[error("interrupted while waiting for {0}")]
    Interrupted(String),
}

/// What a look at a condition sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look<T> {
    /// The condition holds.
    Done(T),
    /// Not yet; what is seen, in words.
    NotYet(String),
    /// It cannot come to hold; why, in words.
    Never(String),
}

/// Looks until the condition holds.
///
/// # Errors
/// When `limit` passes, the interrupt is raised, or a look says that waiting is in vain.
pub fn until<T>(
    what: &str,
    limit: Duration,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> Look<T>,
) -> Result<T, WaitError> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Look::Done(value) => return Ok(value),
            Look::NotYet(seen) => seen,
            Look::Never(why) => return Err(WaitError::Hopeless { what: what.to_owned(), why }),
        };
        if interrupt.is_raised() {
            return Err(WaitError::Interrupted(what.to_owned()));
        }
        if start.elapsed() >= limit {
            return Err(WaitError::TimedOut { what: what.to_owned(), limit, last });
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_by_value_deadline_or_interrupt() {
        let mut looks = 0;
        let found = until("three", Duration::from_secs(5), &Interrupt::default(), || {
            looks += 1;
            if looks == 3 { Look::Done(looks) } else { Look::NotYet(format!("{looks} looks")) }
        });
        assert_eq!(found, Ok(3));

        let none = || Look::<()>::NotYet("nothing".to_owned());
        let late = until("never", Duration::ZERO, &Interrupt::default(), none).unwrap_err();
        assert!(late.to_string().contains("never did not happen within 0 s: nothing"), "{late}");

        let vain = || Look::<()>::Never("the process ended".to_owned());
        let vain = until("x", Duration::from_secs(5), &Interrupt::default(), vain).unwrap_err();
        assert_eq!(vain.to_string(), "x cannot happen any more: the process ended");

        let interrupt = Interrupt::default();
        interrupt.raise();
        let stopped = until("never", Duration::from_secs(5), &interrupt, none).unwrap_err();
        assert_eq!(stopped, WaitError::Interrupted("never".into()));
    }
}
