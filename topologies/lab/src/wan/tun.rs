//! Takes charge of a TUN device: each read gives a packet that the kernel has routed to it, each
//! write a packet that the kernel takes as received there.
#![allow(unsafe_code, reason = "a TUN device is taken charge of by an ioctl")]

use std::ffi::{c_int, c_short};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use tokio::io::unix::AsyncFd;

/// Where the kernel gives TUN devices.
const CLONE_DEVICE: &str = "/dev/net/tun";
/// `TUNSETIFF` of Linux, include/uapi/linux/if_tun.h.
const SET_INTERFACE: Opcode = opcode::write::<c_int>(b'T', 202);
/// `IFF_TUN`: packets without a header of Ethernet.
const TUN: c_short = 0x0001;
/// `IFF_NO_PI`: and without one of the driver.
const NO_INFORMATION: c_short = 0x1000;

/// `struct ifreq`; of its union only the flags are used.
#[repr(C)]
#[allow(dead_code, reason = "the kernel reads what is written here")]
struct Request {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

/// Takes charge of the TUN device of this name in the network namespace of this thread; it is made
/// if there is none. Reading does not block.
///
/// # Errors
/// When the name is too long, or the system refuses: it takes root, and the driver.
pub(super) fn open(name: &str) -> io::Result<File> {
    let mut request = Request { name: [0; 16], flags: TUN | NO_INFORMATION, rest: [0; 22] };
    // The last byte stays zero.
    let place = request.name[..15].get_mut(..name.len()).ok_or(io::ErrorKind::InvalidInput)?;
    place.copy_from_slice(name.as_bytes());
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = options.read(true).write(true).custom_flags(flags).open(CLONE_DEVICE)?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, of 40 bytes at most, which outlives
    // the call.
    unsafe { ioctl(&file, Updater::<SET_INTERFACE, Request>::new(&mut request)) }?;
    Ok(file)
}

/// Lets the runtime of this thread say when there is a packet.
///
/// # Errors
/// When the system refuses.
pub(super) fn watch(device: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: the file owns its descriptor, and nothing replaces or closes it while it is watched.
    Ok(unsafe { AsyncFd::register(device) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_size_are_the_kernels() {
        assert_eq!(SET_INTERFACE, 0x4004_54ca);
        assert_eq!(size_of::<Request>(), 40);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let fault = open("sixteen-letters-").unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::InvalidInput);
    }
}
