//! The three questions to a watchdog that are no bytes (Linux, include/uapi/linux/watchdog.h).
#![allow(unsafe_code, reason = "a watchdog's timeout can only be set and read by ioctl")]

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};
use std::ffi::c_int;
use std::fs::File;

/// `WDIOC_SETTIMEOUT`: the driver writes back what it has taken.
const SET_TIMEOUT: Opcode = opcode::read_write::<c_int>(b'W', 6);
/// `WDIOC_GETTIMEOUT`.
const GET_TIMEOUT: Opcode = opcode::read::<c_int>(b'W', 7);
/// `WDIOC_GETSUPPORT`.
const GET_SUPPORT: Opcode = opcode::read::<Info>(b'W', 0);

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// `WDIOF_…`.
    pub(super) options: u32,
    /// Of the card.
    pub(super) firmware_version: u32,
    /// Its name, ended by a zero byte.
    pub(super) identity: [u8; 32],
}

impl Info {
    /// Its name.
    pub(super) fn name(&self) -> String {
        let end = self.identity.iter().position(|&byte| byte == 0);
        String::from_utf8_lossy(&self.identity[..end.unwrap_or(self.identity.len())]).into_owned()
    }
}

/// What a device is asked. A test answers in its place.
pub(super) trait Kernel: Send {
    /// Sets the timeout in seconds; gives the one that the driver has taken.
    fn set_timeout(&self, file: &File, seconds: c_int) -> Result<c_int, Errno>;
    /// The timeout in seconds.
    fn timeout(&self, file: &File) -> Result<c_int, Errno>;
    /// What it is.
    fn info(&self, file: &File) -> Result<Info, Errno>;
}

/// The kernel itself.
pub(super) struct Linux;

impl Kernel for Linux {
    fn set_timeout(&self, file: &File, seconds: c_int) -> Result<c_int, Errno> {
        let mut value = seconds;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes one int, which outlives the call.
        unsafe { ioctl(file, Updater::<SET_TIMEOUT, c_int>::new(&mut value)) }?;
        Ok(value)
    }

    fn timeout(&self, file: &File) -> Result<c_int, Errno> {
        // SAFETY: WDIOC_GETTIMEOUT writes one int.
        unsafe { ioctl(file, Getter::<GET_TIMEOUT, c_int>::new()) }
    }

    fn info(&self, file: &File) -> Result<Info, Errno> {
        // SAFETY: WDIOC_GETSUPPORT writes one `struct watchdog_info`.
        unsafe { ioctl(file, Getter::<GET_SUPPORT, Info>::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_raw_sys::ioctl as header;

    /// Goal: the numbers are those of the kernel's headers. Method: a crate generated from them.
    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!(SET_TIMEOUT, Opcode::from(header::WDIOC_SETTIMEOUT));
        assert_eq!(GET_TIMEOUT, Opcode::from(header::WDIOC_GETTIMEOUT));
        assert_eq!(GET_SUPPORT, Opcode::from(header::WDIOC_GETSUPPORT));
    }

    /// The size is in the number as well: 40 bytes, as two `__u32` and 32 of text.
    #[test]
    fn the_struct_is_the_kernels() {
        assert_eq!(size_of::<Info>(), 40);
        assert_eq!(std::mem::offset_of!(Info, firmware_version), 4);
        assert_eq!(std::mem::offset_of!(Info, identity), 8);
        assert_eq!((header::WDIOC_GETSUPPORT >> 16) & 0x3fff, 40);
    }

    #[test]
    fn a_device_that_is_no_watchdog_says_so() {
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        assert_eq!(Linux.set_timeout(&null, 25), Err(Errno::NOTTY));
        assert_eq!(Linux.timeout(&null), Err(Errno::NOTTY));
        assert_eq!(Linux.info(&null), Err(Errno::NOTTY));
    }

    #[test]
    fn a_name_ends_at_the_zero_byte() {
        let mut identity = [0; 32];
        identity[..5].copy_from_slice(b"iTCO\0");
        let info = Info { options: 0, firmware_version: 0, identity };
        assert_eq!(info.name(), "iTCO");
        assert_eq!(Info { identity: [b'x'; 32], ..info }.name().len(), 32);
    }
}
