//! The loop: one poll over signals, the deadline and the connections.

use crate::clients::{Clients, Request};
use crate::last_resort::LastResort;
use crate::postmaster::{Ended, Postmaster};
use crate::signals::Signals;
use crate::{Arguments, GRACE, log};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::process::Signal;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

const NS_PER_S: u64 = 1_000_000_000;
/// Between two rounds of SIGKILL: a process can fork while `/proc` is being read.
const SWEEP_NS: u64 = 1_000_000;
/// How long a guard waits for the one before it.
const LOCK_NS: u64 = NS_PER_S / 2;
/// Between two complaints about a process that SIGKILL does not end (it waits for a disk).
const COMPLAIN_NS: u64 = 5 * NS_PER_S;

/// Now on the clock that the agent's deadlines count on.
fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * NS_PER_S + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// `YYYY-MM-DD HH:MM:SS UTC` of a Unix time (H. Hinnant, days_from_civil, inverted).
pub(crate) fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A timer on `CLOCK_BOOTTIME`, so that it goes on counting while the host is suspended.
struct Deadline {
    timer: OwnedFd,
    last_resort: LastResort,
    at: Option<u64>,
}

impl Deadline {
    fn new() -> Result<Self, String> {
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        );
        let timer = timer.map_err(|e| format!("could not create a timer: {e}"))?;
        let last_resort = LastResort::new().map_err(|e| format!("no timer of last resort: {e}"))?;
        Ok(Self { timer, last_resort, at: None })
    }

    fn set(&mut self, at: Option<u64>) -> Result<(), String> {
        // Zero would mean "no timer": a deadline of zero is one that has long passed.
        let ns = at.map_or(0, |at| at.max(1));
        let value = Timespec {
            tv_sec: i64::try_from(ns / NS_PER_S).unwrap_or(i64::MAX),
            // Below one thousand million, so it fits.
            tv_nsec: i64::try_from(ns % NS_PER_S).unwrap_or(0),
        };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let failed = |e: &dyn std::fmt::Display| format!("could not set the timer: {e}");
        self.last_resort.set(boottime_ns(), at).map_err(|e| failed(&e))?;
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec).map_err(|e| failed(&e))?;
        self.at = at;
        Ok(())
    }

    fn passed(&self, now: u64) -> bool {
        self.at.is_some_and(|at| now >= at)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// PostgreSQL runs.
    Guarding,
    /// The postmaster was told to stop at once, or has ended; what is left after this moment is
    /// killed.
    Ending { kill_at: u64, complain_at: u64 },
}

struct Guard {
    postmaster: Postmaster,
    deadline: Deadline,
    phase: Phase,
}

impl Guard {
    fn end(&mut self, now: u64) {
        // The guard acts, and is needed until nothing of PostgreSQL is left.
        if let Err(problem) = self.deadline.last_resort.set(now, None) {
            log(&format!("could not stop the timer of last resort: {problem}"));
        }
        let grace = u64::try_from(GRACE.as_nanos()).unwrap_or(0);
        self.phase = Phase::Ending { kill_at: now + grace, complain_at: now + COMPLAIN_NS };
    }

    /// Acts on what has become true. `Some` when nothing is left to guard.
    fn step(&mut self, now: u64) -> Option<Ended> {
        if self.phase == Phase::Guarding && self.deadline.passed(now) {
            let late = now.saturating_sub(self.deadline.at.unwrap_or(now)) / 1_000_000;
            log(&format!(
                "the deadline of the agent passed {late} ms ago: stopping PostgreSQL (pid {})",
                self.postmaster.pid()
            ));
            self.postmaster.signal(Signal::QUIT);
            self.end(now);
        }
        let none_left = self.postmaster.reap();
        if none_left {
            return Some(self.postmaster.ended().unwrap_or(Ended::Code(-1)));
        }
        if self.phase == Phase::Guarding && self.postmaster.ended().is_some() {
            // A backend notices the death of the postmaster only when it next waits, and could
            // acknowledge a commit before.
            self.postmaster.signal_family(Signal::QUIT);
            self.end(now);
        }
        if let Phase::Ending { kill_at, complain_at } = self.phase
            && now >= kill_at
        {
            self.postmaster.signal_family(Signal::KILL);
            if now >= complain_at {
                log("processes of PostgreSQL outlive SIGKILL; waiting for them");
                self.phase = Phase::Ending { kill_at, complain_at: now + COMPLAIN_NS };
            }
        }
        None
    }

    fn answer(&mut self, request: Result<Request, String>) -> String {
        let request = match request {
            Ok(request) => request,
            Err(reply) => return reply,
        };
        let at = match request {
            Request::Status => {
                let armed = self.deadline.at.map_or("none".to_owned(), |at| at.to_string());
                let (pid, start) = (self.postmaster.pid(), self.postmaster.start_time());
                return format!("pid {pid} start {start} armed {armed}");
            }
            Request::Deadline(at) => Some(at),
            Request::Disarm => None,
        };
        // Looked at here once more: the process may have been stopped since the loop looked.
        if self.phase != Phase::Guarding || self.deadline.passed(boottime_ns()) {
            return "error PostgreSQL is being stopped".to_owned();
        }
        match self.deadline.set(at) {
            Ok(()) => "ok".to_owned(),
            Err(problem) => format!("error {problem}"),
        }
    }

    /// How long the poll may take; `None` when events alone wake the loop.
    fn patience(&self, now: u64) -> Option<Timespec> {
        match self.phase {
            Phase::Guarding => None,
            Phase::Ending { kill_at, .. } => {
                let ns = kill_at.saturating_sub(now).max(SWEEP_NS);
                let tv_nsec = i64::try_from(ns % NS_PER_S).unwrap_or(0);
                Some(Timespec { tv_sec: 0, tv_nsec })
            }
        }
    }
}

/// Locks the data directory itself, without a file of its own. Held until the guard ends.
fn lock(data_dir: &Path) -> Result<OwnedFd, String> {
    let shown = data_dir.display();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(data_dir, flags, Mode::empty())
        .map_err(|e| format!("could not open the data directory {shown}: {e}"))?;
    let begun = boottime_ns();
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            // A guard that is just ending gives it up last of all.
            Err(_) if boottime_ns() < begun + LOCK_NS => {
                std::thread::sleep(std::time::Duration::from_nanos(SWEEP_NS));
            }
            Err(e) => return Err(format!("another guard holds {shown} ({e})")),
        }
    }
}

/// Starts PostgreSQL and guards it until nothing of it is left.
pub(crate) fn run(arguments: &Arguments) -> Result<Ended, String> {
    // Fails when the agent made the guard a session leader already, which is as good.
    let _ = rustix::process::setsid();
    let _lock = lock(&arguments.data_dir)?;
    let signals =
        Signals::install().map_err(|e| format!("could not install signal handlers: {e}"))?;
    let mut clients = Clients::listen(&arguments.socket)?;
    let mut deadline = Deadline::new()?;
    deadline.set(arguments.deadline)?;
    if deadline.passed(boottime_ns()) {
        return Err("the deadline passed before PostgreSQL was started; not starting".to_owned());
    }
    let postmaster = Postmaster::start(&arguments.server)?;
    let mut guard = Guard { postmaster, deadline, phase: Phase::Guarding };
    loop {
        signals.clear();
        let now = boottime_ns();
        // Before the connections: a renewal that waits in a buffer comes too late.
        if let Some(ended) = guard.step(now) {
            clients.tell(&ended.to_string());
            return Ok(ended);
        }
        if signals.take_terminate() {
            log("asked to end: fast shutdown of PostgreSQL");
            guard.postmaster.signal(Signal::INT);
        }
        clients.serve(|request| guard.answer(request));
        wait(&signals, &guard, &clients)?;
    }
}

fn wait(signals: &Signals, guard: &Guard, clients: &Clients) -> Result<(), String> {
    let mut fds = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    if guard.phase == Phase::Guarding {
        fds.push(PollFd::from_borrowed_fd(guard.deadline.timer.as_fd(), PollFlags::IN));
    }
    let watched: Vec<(BorrowedFd<'_>, PollFlags)> = clients.descriptors();
    fds.extend(watched.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
    match poll(&mut fds, guard.patience(boottime_ns()).as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(format!("could not wait for events: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_time_in_words() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_795_392_000, "2026-11-23 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        assert!(!Deadline::new().expect("timer").passed(1));
    }
}
