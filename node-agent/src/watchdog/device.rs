//! The device itself (Linux, Documentation/watchdog/watchdog-api.rst), or the same bytes to a pipe.

use super::WatchdogError;
use super::kernel::{Kernel, Linux};
use node_agent_wire::config::{WatchdogConfig, WatchdogDriver};
use rustix::fs::{Access, Mode, OFlags, access, open};
use rustix::io::Errno;
use std::ffi::c_int;
use std::fs::File;
use std::io::Write;
use std::ops::RangeInclusive;

/// An open watchdog.
pub(super) struct Device {
    file: File,
    name: String,
    driver: WatchdogDriver,
    kernel: Box<dyn Kernel>,
}

fn failed(what: String) -> impl FnOnce(Errno) -> WatchdogError {
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
        let kernel = Box::new(Linux);
        Ok(Self { file: File::from(fd), name, driver: config.driver, kernel })
    }

    /// What the driver calls itself, where it says so.
    pub(super) fn identity(&self) -> String {
        match self.driver {
            WatchdogDriver::Testing => "testing".to_owned(),
            WatchdogDriver::Default => {
                self.kernel.info(&self.file).map_or_else(|_| "unknown".to_owned(), |i| i.name())
            }
        }
    }

    fn write(&mut self, bytes: &[u8], what: &str) -> Result<(), WatchdogError> {
        let what = format!("{what} {}", self.name);
        self.file.write_all(bytes).map_err(|source| WatchdogError::Device { what, source })
    }

    /// How long it waits for the next byte before it resets the host: as long as the range's end,
    /// or what the driver makes of it. More would let it do so when somebody else may lead
    /// already; less than the range's beginning, between two beats of a healthy leader.
    pub(super) fn set_timeout(&mut self, range: RangeInclusive<u64>) -> Result<(), WatchdogError> {
        let wanted_s = *range.end();
        if self.driver == WatchdogDriver::Testing {
            let text = format!("Ctimeout={wanted_s}\n");
            return self.write(text.as_bytes(), "setting the timeout of");
        }
        let asked = c_int::try_from(wanted_s).unwrap_or(c_int::MAX);
        let taken = match self.kernel.set_timeout(&self.file, asked) {
            Ok(taken) => taken,
            // It has one of its own that can't be changed, or not to this.
            Err(refused @ (Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL)) => {
                let setting = failed(format!("setting the timeout of {}", self.name));
                self.kernel.timeout(&self.file).map_err(|_| setting(refused))?
            }
            Err(error) => {
                return Err(failed(format!("setting the timeout of {}", self.name))(error));
            }
        };
        let actual_s = u64::try_from(taken).unwrap_or(0);
        if range.contains(&actual_s) {
            return Ok(());
        }
        Err(WatchdogError::Timeout { device: self.name.clone(), actual_s, wanted_s })
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

#[cfg(test)]
mod tests {
    use super::super::kernel::Info;
    use super::*;

    /// A driver by its answers.
    struct Answers {
        set: Result<c_int, Errno>,
        get: Result<c_int, Errno>,
    }

    impl Kernel for Answers {
        fn set_timeout(&self, _: &File, _: c_int) -> Result<c_int, Errno> {
            self.set
        }
        fn timeout(&self, _: &File) -> Result<c_int, Errno> {
            self.get
        }
        fn info(&self, _: &File) -> Result<Info, Errno> {
            Err(Errno::NOTTY)
        }
    }

    /// Goal: no driver is used whose timeout outlasts the lease or does not outlast a beat.
    #[test]
    fn what_drivers_make_of_a_timeout() {
        let none = Err(Errno::NOTTY);
        for (set, get, usable) in [
            (Ok(25), none, true),
            // Rounded by the hardware.
            (Ok(16), none, true),
            (Ok(30), none, false),
            (Ok(9), none, false),
            (Ok(0), none, false),
            (Ok(-1), none, false),
            // A fixed one.
            (Err(Errno::OPNOTSUPP), Ok(20), true),
            (Err(Errno::OPNOTSUPP), Ok(60), false),
            (Err(Errno::INVAL), Ok(5), false),
            (Err(Errno::OPNOTSUPP), none, false),
            (none, none, false),
            (Err(Errno::IO), Ok(20), false),
        ] {
            let file = File::options().write(true).open("/dev/null").expect("/dev/null");
            let kernel = Box::new(Answers { set, get });
            let driver = WatchdogDriver::Default;
            let mut device = Device { file, name: "/dev/watchdog".into(), driver, kernel };
            let got = device.set_timeout(10..=25);
            assert_eq!(got.is_ok(), usable, "{set:?} {get:?}: {got:?}");
            assert_eq!(device.identity(), "unknown");
        }
    }
}
