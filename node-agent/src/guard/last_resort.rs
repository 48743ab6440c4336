//! What ends the guard when it cannot act on its deadline itself: stopped by a signal or frozen.
//! A timer of the kernel sends it SIGKILL, which reaches a stopped process too, and its death takes
//! PostgreSQL down (parent death signal, see [`crate::postmaster`]).
#![allow(
    unsafe_code,
    reason = "neither std nor rustix makes timers that send a signal; see each block"
)]

use crate::GRACE;
use std::io;
use std::ptr;

/// `timer_create(2)` and `timer_settime(2)` of the C library that std links already.
mod c {
    use std::ffi::{c_int, c_long, c_void};

    /// What fills `struct sigevent` up to its 64 bytes.
    pub(super) const REST: usize = 64 / size_of::<usize>() - 1 - 8 / size_of::<usize>();

    /// `struct sigevent`.
    #[repr(C)]
    pub(super) struct SigEvent {
        pub(super) value: *mut c_void,
        pub(super) signo: c_int,
        pub(super) notify: c_int,
        pub(super) rest: [usize; REST],
    }

    #[repr(C)]
    pub(super) struct Time {
        pub(super) seconds: c_long,
        pub(super) nanoseconds: c_long,
    }

    #[repr(C)]
    pub(super) struct TimerSpec {
        pub(super) interval: Time,
        pub(super) value: Time,
    }

    unsafe extern "C" {
        pub(super) fn timer_create(
            clock: c_int,
            event: *mut SigEvent,
            timer: *mut *mut c_void,
        ) -> c_int;
        pub(super) fn timer_settime(
            timer: *mut c_void,
            flags: c_int,
            new: *const TimerSpec,
            old: *mut TimerSpec,
        ) -> c_int;
    }
}

const CLOCK_BOOTTIME: i32 = 7;
const SIGEV_SIGNAL: i32 = 0;
const SIGKILL: i32 = 9;
const TIMER_ABSTIME: i32 = 1;
const NS_PER_S: u64 = 1_000_000_000;

/// The timer. It is not inherited by the postmaster (fork(2)), and ends with the guard.
pub(crate) struct LastResort {
    timer: *mut std::ffi::c_void,
}

impl LastResort {
    /// Makes the timer; it is not set.
    pub(crate) fn new() -> io::Result<Self> {
        let mut event = c::SigEvent {
            value: ptr::null_mut(),
            signo: SIGKILL,
            notify: SIGEV_SIGNAL,
            rest: [0; c::REST],
        };
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to live values of the layout that sigevent(7) gives.
        match unsafe { c::timer_create(CLOCK_BOOTTIME, &raw mut event, &raw mut timer) } {
            0 => Ok(Self { timer }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sets it to go off when the guard has done nothing about its deadline for [`GRACE`]; `None`
    /// stops it. `now` and the deadline are nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) fn set(&mut self, now: u64, deadline: Option<u64>) -> io::Result<()> {
        let grace = u64::try_from(GRACE.as_nanos()).unwrap_or(0);
        // A deadline that has passed is one to act on now. Zero stops the timer.
        let at = deadline.map_or(0, |at| at.max(now).saturating_add(grace));
        let long = |n: u64| std::ffi::c_long::try_from(n).unwrap_or(std::ffi::c_long::MAX);
        let none = c::Time { seconds: 0, nanoseconds: 0 };
        let value = c::Time { seconds: long(at / NS_PER_S), nanoseconds: long(at % NS_PER_S) };
        let spec = c::TimerSpec { interval: none, value };
        // SAFETY: the timer was made in `new` and is never deleted; the old value is not asked for.
        let set = unsafe {
            c::timer_settime(self.timer, TIMER_ABSTIME, &raw const spec, ptr::null_mut())
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
