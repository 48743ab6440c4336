//! Signals as a descriptor to poll: a handler notes which one came and wakes the loop.
#![allow(
    unsafe_code,
    reason = "neither std nor rustix installs signal handlers; see each block for why it is sound"
)]

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// `signal(2)` of the C library that std links already.
mod c {
    unsafe extern "C" {
        pub(super) fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    }
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
/// What `signal(2)` returns on failure.
const SIG_ERR: usize = usize::MAX;

static WAKE: AtomicI32 = AtomicI32::new(-1);
static TERMINATE: AtomicBool = AtomicBool::new(false);

extern "C" fn note(number: i32) {
    if number == SIGTERM || number == SIGINT {
        TERMINATE.store(true, Ordering::SeqCst);
    }
    let fd = WAKE.load(Ordering::SeqCst);
    if fd >= 0 {
        // SAFETY: `Signals::install` leaked this descriptor, so it is open for the life of the
        // process. A write is async-signal-safe (signal-safety(7)), and rustix's is one system
        // call that leaves errno alone.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
    }
}

/// The signals that the guard handles.
pub(crate) struct Signals {
    wake: OwnedFd,
}

impl Signals {
    /// Installs the handlers. SIGHUP gets one that does nothing rather than being ignored, because
    /// an ignored signal would stay ignored in PostgreSQL after exec.
    pub(crate) fn install() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        WAKE.store(wake.try_clone()?.into_raw_fd(), Ordering::SeqCst);
        for number in [SIGHUP, SIGINT, SIGTERM, SIGCHLD] {
            // SAFETY: the handler only stores an atomic and makes one system call.
            if unsafe { c::signal(number, note) } == SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { wake })
    }

    /// Readable after a signal.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        debug_assert!(self.wake.as_raw_fd() >= 0);
        self.wake.as_fd()
    }

    /// Makes the descriptor unreadable again. Call it before looking at what has happened.
    pub(crate) fn clear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
    }

    /// Whether SIGTERM or SIGINT came since the last call.
    pub(crate) fn take_terminate(&self) -> bool {
        TERMINATE.swap(false, Ordering::SeqCst)
    }
}
