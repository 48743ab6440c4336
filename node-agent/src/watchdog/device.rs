//! The device itself (Linux, Documentation/watchdog/watchdog-api.rst), or the same bytes to a pipe.
#![allow(unsafe_code, reason = "the timeout of a watchdog can only be set by ioctl")]

use super::WatchdogError;
use node_agent_wire::config::{WatchdogConfig, WatchdogDriver};
use rustix::fs::{Access, Mode, OFlags, access, open};
use rustix::ioctl::{Updater, ioctl, opcode};
use std::ffi::c_int;
use std::fs::File;
use std::io::Write;

/// `WDIOC_SETTIMEOUT`.
const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<c_int>(b'W', 6);

/// An open watchdog.
pub(super) struct Device {
    file: File,
    name: String,
    driver: WatchdogDriver,
}

fn failed(what: String) -> impl FnOnce(rustix::io::Errno) -> WatchdogError {
    move |errno| WatchdogError::Device { what, source: errno.into() }
}

/// Whether this user may write to it.
pub(super) fn writable(config: &WatchdogConfig) -> Result<(), WatchdogError> {
    access(&config.device, Access::WRITE_OK).map_err(failed(config.device.display().to_string()))
}

impl Device {
    /// Opens it. A pipe that nobody reads is an error, not a wait.
    pub(super) fn open(config: &WatchdogConfig) -> Result<Self, WatchdogError> {
        let name = config.device.display().to_string();
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = open(&config.device, flags, Mode::empty())
            .map_err(failed(format!("opening {name}")))?;
        Ok(Self { file: File::from(fd), name, driver: config.driver })
    }

    fn write(&mut self, bytes: &[u8], what: &str) -> Result<(), WatchdogError> {
        let what = format!("{what} {}", self.name);
        self.file.write_all(bytes).map_err(|source| WatchdogError::Device { what, source })
    }

    /// How long it waits for the next byte before it resets the host.
    pub(super) fn set_timeout(&mut self, seconds: u64) -> Result<(), WatchdogError> {
        if self.driver == WatchdogDriver::Testing {
            return self
                .write(format!("Ctimeout={seconds}\n").as_bytes(), "setting the timeout of");
        }
        let mut value = c_int::try_from(seconds).unwrap_or(c_int::MAX);
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one int, which outlives the call.
        let outcome = unsafe { ioctl(&self.file, Updater::<SET_TIMEOUT, c_int>::new(&mut value)) };
        outcome.map_err(failed(format!("setting the timeout of {}", self.name)))?;
        let actual_s = u64::try_from(value).unwrap_or(0);
        if actual_s > seconds {
            // It would reset the host when somebody else may lead already.
            let device = self.name.clone();
            return Err(WatchdogError::Timeout { device, actual_s, wanted_s: seconds });
        }
        Ok(())
    }

    /// Not yet.
    pub(super) fn feed(&mut self) -> Result<(), WatchdogError> {
        self.write(b"1", "feeding")
    }

    /// For good: the magic byte disarms it.
    pub(super) fn close(mut self) {
        if let Err(error) = self.write(b"V", "closing") {
            tracing::error!(%error, "the watchdog may reset this host");
        }
    }
}
