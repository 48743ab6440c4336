//! The kernel's watchdog beside the guard (contract E.7): it resets the host when nobody feeds it.
//!
//! Opened before PostgreSQL becomes writable, fed after each committed beat, closed with the magic
//! `V` when PostgreSQL has stopped writing, in maintenance mode and at a clean end. An agent that
//! dies does not close it: then the device does its work.

mod device;
mod kernel;

use device::Device;
use node_agent_wire::config::{WatchdogConfig, WatchdogMode};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The TTL leaves no room for it.
    #[error(
        "its timeout would be {timeout_s} s (ttl {ttl_s} s, safety_margin {margin_s} s), less than \
         the {least_s} s between two beats; a longer ttl or a smaller watchdog.safety_margin helps"
    )]
    NoRoom {
        /// What it would be set to.
        timeout_s: i64,
        /// The TTL.
        ttl_s: u64,
        /// The margin.
        margin_s: i64,
        /// What it must be at least.
        least_s: u64,
    },
    /// The system refuses.
    #[error("{what}: {source}; is the module loaded, and may this user write to it?")]
    Device {
        /// What was tried, on which device.
        what: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The driver keeps another timeout.
    #[error("{device} keeps a timeout of {actual_s} s where {wanted_s} s were asked for")]
    Timeout {
        /// The device.
        device: String,
        /// What it keeps.
        actual_s: u64,
        /// What was asked for.
        wanted_s: u64,
    },
}

/// The watchdog of this host.
pub struct Watchdog {
    config: WatchdogConfig,
    ttl: Duration,
    open: Option<(Device, u64)>,
    failure: Option<String>,
    failed_at: Option<Instant>,
}

impl Watchdog {
    /// Not opened yet.
    #[must_use]
    pub fn new(config: WatchdogConfig, ttl: Duration) -> Self {
        Self { config, ttl, open: None, failure: None, failed_at: None }
    }

    /// The TTL of the configuration; an open device gets its new timeout with the next
    /// [`Self::open`].
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// Seconds until an unfed device resets the host: at most `ttl - safety_margin`, or half the
    /// TTL, and at least what lies between two beats.
    fn timeout(&self) -> Result<RangeInclusive<u64>, WatchdogError> {
        let (ttl_s, margin_s) = (self.ttl.as_secs(), self.config.safety_margin);
        let whole = i64::try_from(ttl_s).unwrap_or(i64::MAX);
        let timeout_s = if margin_s == -1 { whole / 2 } else { whole.saturating_sub(margin_s) };
        // Beats come every third of the TTL.
        let least_s = ttl_s.div_ceil(3);
        match u64::try_from(timeout_s) {
            Ok(timeout) if timeout >= least_s && timeout > 0 => Ok(least_s..=timeout),
            Ok(_) | Err(_) => Err(WatchdogError::NoRoom { timeout_s, ttl_s, margin_s, least_s }),
        }
    }

    /// Opens the device, or sets its timeout anew. Does nothing where it is not used.
    ///
    /// # Errors
    /// When it is required and can't be used. Otherwise that is only logged, once.
    pub fn open(&mut self) -> Result<(), WatchdogError> {
        if self.config.mode == WatchdogMode::Off {
            return Ok(());
        }
        match self.try_open() {
            Ok(()) => {
                self.failure = None;
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    fn try_open(&mut self) -> Result<(), WatchdogError> {
        let range = self.timeout()?;
        let timeout = *range.end();
        if let Some((device, set)) = &mut self.open {
            if *set != timeout {
                device.set_timeout(range)?;
                *set = timeout;
            }
            return Ok(());
        }
        let mut device = Device::open(&self.config)?;
        // Closed by its end when the timeout can't be set: an open device that nobody feeds kills.
        if let Err(error) = device.set_timeout(range) {
            device.close();
            return Err(error);
        }
        let (name, identity) = (self.config.device.display(), device.identity());
        tracing::info!(device = %name, identity, timeout, "the watchdog is open");
        self.open = Some((device, timeout));
        Ok(())
    }

    fn failed(&mut self, error: WatchdogError) -> Result<(), WatchdogError> {
        let text = error.to_string();
        let news = self.failure.as_ref() != Some(&text);
        (self.failure, self.failed_at) = (Some(text), Some(Instant::now()));
        match self.config.mode {
            WatchdogMode::Required => Err(error),
            WatchdogMode::Automatic | WatchdogMode::Off => {
                if news {
                    tracing::info!(%error, "no watchdog; watchdog.mode automatic goes on without");
                }
                Ok(())
            }
        }
    }

    /// A beat is committed. Does nothing while the device is not open.
    pub fn feed(&mut self) {
        let Some((device, _)) = &mut self.open else { return };
        if let Err(error) = device.feed() {
            tracing::error!(%error, "the watchdog was not fed");
            self.failure = Some(error.to_string());
        }
    }

    /// PostgreSQL does not write any more.
    pub fn close(&mut self) {
        if let Some((device, _)) = self.open.take() {
            tracing::info!(device = %self.config.device.display(), "the watchdog is closed");
            device.close();
        }
    }

    /// Why it can't be used, where it is required.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        if self.config.mode != WatchdogMode::Required {
            return None;
        }
        if self.open.is_some() {
            return self.failure.clone();
        }
        let usable = self.timeout().and_then(|_| device::writable(&self.config));
        if let Err(error) = usable {
            return Some(error.to_string());
        }
        // Only an attempt shows what it is worth, and that arms it: one in a TTL.
        let lately = self.failed_at.is_some_and(|at| at.elapsed() < self.ttl);
        self.failure.clone().filter(|_| lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_agent_wire::config::WatchdogDriver;
    use std::io::Read;
    use std::path::Path;

    fn config(device: &Path, mode: WatchdogMode, safety_margin: i64) -> WatchdogConfig {
        let (device, driver) = (device.to_owned(), WatchdogDriver::Testing);
        WatchdogConfig { mode, device, safety_margin, driver }
    }

    #[test]
    fn timeouts() {
        for (ttl, margin, expected) in [
            (30, 5, Some(25)),
            (30, -1, Some(15)),
            (5, -1, Some(2)),
            (5, 3, Some(2)),
            (5, 5, None),
            (20, 25, None),
            (30, 21, None),
            (30, i64::MIN, None),
        ] {
            let config = config(Path::new("/x"), WatchdogMode::Required, margin);
            let watchdog = Watchdog::new(config, Duration::from_secs(ttl));
            let got = watchdog.timeout().ok().map(|range| *range.end());
            if margin == i64::MIN {
                assert!(got.is_none_or(|timeout| timeout > ttl), "no panic");
            } else {
                assert_eq!(got, expected, "ttl {ttl}, margin {margin}");
            }
        }
    }

    #[test]
    fn the_bytes_of_the_testing_driver() {
        let dir = tempfile::tempdir().expect("directory");
        let fifo = dir.path().join("watchdog");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).expect("fifo");
        let ttl = Duration::from_secs(30);
        let mut watchdog = Watchdog::new(config(&fifo, WatchdogMode::Required, 5), ttl);
        // Nobody reads: like a device that is not there.
        assert!(watchdog.open().is_err() && watchdog.open.is_none());
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let reader = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty()).expect("reader");
        assert!(watchdog.failure().is_some(), "for a TTL");
        watchdog.failed_at = None;
        assert_eq!(watchdog.failure(), None);
        watchdog.feed();
        watchdog.open().expect("open");
        watchdog.open().expect("open already");
        watchdog.feed();
        watchdog.set_ttl(Duration::from_secs(20));
        watchdog.open().expect("a new timeout");
        watchdog.feed();
        watchdog.close();
        watchdog.feed();
        let mut said = String::new();
        std::fs::File::from(reader).read_to_string(&mut said).expect("read");
        assert_eq!(said, "Ctimeout=25\n1Ctimeout=15\n1V");
    }

    /// /dev/null takes every byte and is no watchdog: the kernel's own answer decides.
    #[test]
    fn a_device_that_is_no_watchdog_is_not_used() {
        for (mode, missed) in [(WatchdogMode::Automatic, false), (WatchdogMode::Required, true)] {
            let config = config(Path::new("/dev/null"), mode, 5);
            let config = WatchdogConfig { driver: WatchdogDriver::Default, ..config };
            let mut watchdog = Watchdog::new(config, Duration::from_secs(30));
            let opened = watchdog.open();
            assert_eq!(opened.is_err(), missed, "{mode:?}");
            assert!(watchdog.open.is_none(), "{mode:?}");
            // Whoever asks is told, so that this node takes part in no election.
            assert_eq!(watchdog.failure().is_some(), missed, "{mode:?}");
            let said = opened.err().map(|error| error.to_string()).unwrap_or_default();
            let wanted = if missed { "setting the timeout of /dev/null" } else { "" };
            assert!(said.starts_with(wanted), "{said}");
        }
    }

    #[test]
    fn only_a_required_device_is_missed() {
        let gone = Path::new("/nowhere/watchdog");
        let ttl = Duration::from_secs(30);
        for (mode, missed) in [
            (WatchdogMode::Off, false),
            (WatchdogMode::Automatic, false),
            (WatchdogMode::Required, true),
        ] {
            let mut watchdog = Watchdog::new(config(gone, mode, 5), ttl);
            assert_eq!(watchdog.open().is_err(), missed, "{mode:?}");
            assert_eq!(watchdog.failure().is_some(), missed, "{mode:?}");
        }
    }
}
