//! A bench that is told to end takes its lab down first: its processes, and with them the network
//! namespaces, which live as long as somebody is in them.

use std::process;
use std::sync::{Mutex, PoisonError};

use lab::{Lab, TemporaryLab};
use tokio::signal::unix::{SignalKind, signal};

/// The lab that runs at this moment.
static RUNS: Mutex<Option<Lab>> = Mutex::new(None);

/// This one runs now, or none.
pub fn runs(lab: Option<&Lab>) {
    *RUNS.lock().unwrap_or_else(PoisonError::into_inner) = lab.cloned();
}

/// From now on SIGINT and SIGTERM end the bench this way.
///
/// # Errors
/// When signals cannot be watched.
pub fn watch() -> Result<(), String> {
    let fail = |error: std::io::Error| format!("cannot watch signals: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(fail)?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let watch = |kind| signal(kind).map_err(fail);
        (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("bench: interrupted; the lab is taken down");
        let lab = RUNS.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(lab.map(TemporaryLab::new));
        process::exit(130);
    });
    Ok(())
}
