//! `lab tour`: tells the [`story`] on real servers, with a writer running, and ends with the
//! ledger.

pub mod story;

use std::future::Future;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use node_agent_wire::DcName;
use tokio::process::Command;

use self::story::{Act, Chapter, Expect};
use crate::access::{Access, AccessError};
use crate::cli::report::{self, say};
use crate::lab::{Lab, LabError, LabOptions};
use crate::ledger::{Audit, Writer, WriterOptions};
use crate::prober::{Prober, Record};
use crate::software::{FEDERATOR, SoftwareError};
use crate::state;
use crate::wait::Interrupt;

/// Pause for reading after a chapter.
const READING: Duration = Duration::from_secs(5);
/// How long one command of the federator may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// How long the writer may take to go on after an event.
const ROWS_LIMIT: Duration = Duration::from_secs(60);
/// How long a datacenter may be without a leader or a node.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long the first primary may take to accept writes.
const PRIMARY_LIMIT: Duration = Duration::from_secs(30);
/// The federator's exit code for a refusal.
const REFUSED: i32 = 3;
/// How often an interrupt is looked for.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);

/// How the tour is made.
#[derive(Debug, Clone)]
pub struct TourOptions {
    /// How its lab is made.
    pub lab: LabOptions,
    /// Leave everything running at the end.
    pub keep: bool,
    /// No pauses for reading.
    pub fast: bool,
}

/// A tour that did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub enum TourError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A database.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// One datacenter, or three.
    #[error("the tour needs two datacenters, this topology has {0}\nHINT: use two-dc.yaml")]
    NotTwoDatacenters(usize),
    /// A place with the data of another lab.
    #[error("{0} holds the data of a stopped lab\nHINT: remove it with lab down --dir {0}")]
    OldData(String),
    /// A program could not be run.
    #[error("cannot run {command}: {source}")]
    NotRun {
        /// The command.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A command of the federator ended otherwise than expected.
    #[error("{command} {seen}, expected {wanted}")]
    Unexpected {
        /// The command.
        command: String,
        /// How it ended.
        seen: String,
        /// How it should have ended.
        wanted: &'static str,
    },
    /// Rows are missing that no operator gave up.
    #[error("{0} acknowledged rows are lost outside the loss of a datacenter")]
    RowsLost(usize),
    /// Two nodes accepted writes at once.
    #[error("{0}")]
    TwoPrimaries(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// A task of our own ended without a result.
    #[error("a part of the tour ended without a result: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// Tells the story, and cleans up whatever happens unless it shall be kept.
///
/// # Errors
/// When something does not happen as told; everything is stopped then, too.
pub async fn run(
    topology: &Path,
    options: TourOptions,
    interrupt: &Interrupt,
) -> Result<(), TourError> {
    let lab = create(topology, options.lab).await?;
    let tour = Tour { lab, fast: options.fast, interrupt };
    let result = tour.play().await;
    let lab = tour.lab;
    if options.keep && !interrupt.is_raised() {
        say(format_args!("\nEverything is left running."));
        say(report::connection_help(&lab).trim_end());
        return result;
    }
    let ended = tokio::task::spawn_blocking(move || lab.end(false)).await?;
    say(format_args!("\nEverything is stopped and removed."));
    result.and(ended.map_err(TourError::from))
}

/// A fresh lab. The tour has a directory of its own, so data left by a tour that was killed can go.
async fn create(topology: &Path, mut options: LabOptions) -> Result<Lab, TourError> {
    let own_place = options.dir.is_none();
    if own_place {
        options.dir = Some(state::labs_root().map_err(LabError::from)?.join("tour"));
    }
    let topology = topology.to_owned();
    tokio::task::spawn_blocking(move || {
        let lab = Lab::create(&topology, &options)?;
        let count = lab.topology.datacenters.len();
        let federator = lab.software.program(FEDERATOR);
        if count != 2 {
            discard_fresh(&lab)?;
            return Err(TourError::NotTwoDatacenters(count));
        }
        if !federator.exists() {
            discard_fresh(&lab)?;
            let dir = lab.software.bin_dir;
            let missing = SoftwareError::NotBuilt { name: FEDERATOR, dir };
            return Err(LabError::from(missing).into());
        }
        if !lab.is_resumed() {
            return Ok(lab);
        }
        if !own_place {
            return Err(TourError::OldData(lab.layout.dir.display().to_string()));
        }
        lab.end(false)?;
        Ok(Lab::create(&topology, &options)?)
    })
    .await?
}

fn discard_fresh(lab: &Lab) -> Result<(), LabError> {
    if lab.is_resumed() { Ok(()) } else { lab.end(false) }
}

struct Tour<'a> {
    lab: Lab,
    fast: bool,
    interrupt: &'a Interrupt,
}

impl Tour<'_> {
    async fn play(&self) -> Result<(), TourError> {
        let start = Instant::now();
        let (home, away) = match &self.lab.topology.datacenters[..] {
            [home, away] => (home.name.clone(), away.name.clone()),
            other => return Err(TourError::NotTwoDatacenters(other.len())),
        };
        heading(1, "Two datacenters start on this machine");
        self.blocking(|lab, interrupt| {
            let progress = |line: &str| say(line);
            lab.start(&progress, &interrupt)?;
            lab.wait_ready(&progress, &interrupt)
        })
        .await?;
        self.tell(2, &story::opening(&home, &away), None).await?;
        let access = Access::to_lab(&self.lab);
        let options =
            WriterOptions { first_phase: "normal operation".to_owned(), ..Default::default() };
        let writer = self.unless_interrupted(Writer::start(access.clone(), options)).await??;
        let prober = Prober::start(access.clone(), PRIMARY_LIMIT);
        let prober = self.unless_interrupted(prober).await??;
        let told = story::chapters(&self.lab.topology.name, &home, &away);
        for (chapter, number) in told.iter().zip(3..) {
            self.tell(number, chapter, Some(&writer)).await?;
        }
        heading(told.len() + 3, "The ledger");
        let ledger = self.unless_interrupted(writer.stop()).await?;
        let record = prober.stop();
        let audit = self.unless_interrupted(ledger.check_on_primary(&access)).await??;
        say(audit.to_string().trim_end());
        verdict(&audit, &record, &home, start)
    }

    async fn tell(
        &self,
        number: usize,
        chapter: &Chapter,
        writer: Option<&Writer>,
    ) -> Result<(), TourError> {
        heading(number, &chapter.title);
        say(format_args!("{}", chapter.note));
        for act in &chapter.acts {
            self.perform(act, writer).await?;
        }
        if !self.fast {
            self.unless_interrupted(tokio::time::sleep(READING)).await?;
        }
        Ok(())
    }

    async fn perform(&self, act: &Act, writer: Option<&Writer>) -> Result<(), TourError> {
        match act {
            Act::Federator { args, expect } => self.federator(args, *expect).await,
            Act::Phase(label) => {
                if let Some(writer) = writer {
                    writer.phase(label);
                }
                Ok(())
            }
            Act::Rows(count) => match writer {
                Some(writer) => {
                    self.unless_interrupted(writer.wait_for_rows(*count, ROWS_LIMIT)).await??;
                    say(format_args!(
                        "(writer: {} rows acknowledged so far)",
                        writer.acknowledged()
                    ));
                    Ok(())
                }
                None => Ok(()),
            },
            Act::Ready(dc) => {
                let dc = dc.clone();
                let ready = move |lab: Lab, interrupt: Interrupt| {
                    lab.wait_complete(&dc, READY_LIMIT, &interrupt).map(drop)
                };
                self.blocking(ready).await
            }
            Act::KillDc(dc) => {
                let name = dc.to_string();
                say(format_args!("\n$ lab kill-dc {dc}"));
                let count = self.blocking(move |lab, _| lab.kill_dc(&name)).await?;
                say(format_args!("{dc}: power cut, {count} processes ended"));
                Ok(())
            }
            Act::StartDc(dc) => {
                let name = dc.clone();
                say(format_args!("\n$ lab start-dc {dc}"));
                self.blocking(move |lab, interrupt| {
                    lab.start_dc(name.as_str(), &interrupt)?;
                    lab.wait_for_agents(&name, &interrupt)
                })
                .await?;
                say(format_args!("{dc}: started"));
                Ok(())
            }
        }
    }

    /// Runs the federator's own program; what it prints goes to the terminal as it is.
    async fn federator(&self, args: &[String], expect: Expect) -> Result<(), TourError> {
        let config = self.lab.layout.federator_config().display().to_string();
        let mut all = vec!["-f".to_owned(), config];
        all.extend(args.iter().cloned());
        let typed = story::typed(FEDERATOR, &all);
        say(format_args!("\n$ {typed}"));
        let not_run = |source| TourError::NotRun { command: typed.clone(), source };
        let mut child = Command::new(self.lab.software.program(FEDERATOR))
            .args(&all)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(not_run)?;
        let ended = tokio::time::timeout(COMMAND_LIMIT, child.wait());
        let (seen, code) = match self.unless_interrupted(ended).await? {
            Ok(status) => {
                let status = status.map_err(not_run)?;
                (format!("ended with {status}"), status.code())
            }
            Err(_) => (format!("did not end within {} s", COMMAND_LIMIT.as_secs()), None),
        };
        let (good, wanted) = match expect {
            Expect::Done => (code == Some(0), "exit status 0"),
            Expect::Refused => (code == Some(REFUSED), "exit status 3, a refusal"),
        };
        if !good {
            return Err(TourError::Unexpected { command: typed, seen, wanted });
        }
        if expect == Expect::Refused {
            say(format_args!("({seen}: refused, as it must be)"));
        }
        Ok(())
    }

    /// Runs a blocking part of the lab; it watches the interrupt itself.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(Lab, Interrupt) -> Result<T, LabError> + Send + 'static,
    ) -> Result<T, TourError> {
        let (lab, interrupt) = (self.lab.clone(), self.interrupt.clone());
        Ok(tokio::task::spawn_blocking(move || work(lab, interrupt)).await??)
    }

    async fn unless_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, TourError> {
        let raised = async {
            while !self.interrupt.is_raised() {
                tokio::time::sleep(INTERRUPT_POLL).await;
            }
        };
        tokio::select! {
            value = work => Ok(value),
            () = raised => Err(TourError::Interrupted),
        }
    }
}

fn heading(number: usize, title: &str) {
    say(format_args!("\n== {number}. {title}"));
}

/// The last lines, and whether the tour may end with success.
fn verdict(audit: &Audit, record: &Record, home: &DcName, start: Instant) -> Result<(), TourError> {
    if let Some(overlap) = record.overlaps().first() {
        return Err(TourError::TwoPrimaries(overlap.describe(start)));
    }
    say(format_args!(
        "two nodes accepting writes at once: never seen (every node tried every 20 ms)"
    ));
    let given_up = story::phase_of_loss(home);
    let outside = audit.phases.iter().filter(|phase| phase.label != given_up);
    let lost: usize = outside.map(|phase| phase.lost.len()).sum();
    if lost > 0 {
        return Err(TourError::RowsLost(lost));
    }
    let accepted = audit.lost().len();
    if accepted > 0 {
        say(format_args!(
            "{accepted} rows were lost with {home}: that is the loss which was attested"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ledger::{Fate, Ledger};

    #[test]
    fn rows_may_be_lost_only_with_the_datacenter() {
        let now = Instant::now();
        let home = DcName::new("dc1");
        let mut ledger = Ledger::new("r", "normal operation", now);
        ledger.note(1, 0, Fate::Acknowledged(now));
        ledger.begin_phase("loss of dc1", now);
        ledger.note(2, 1, Fate::Acknowledged(now));
        let verdict = |rows: &[i64]| {
            let rows: BTreeSet<i64> = rows.iter().copied().collect();
            verdict(&Audit::compare(&ledger, &rows), &Record::default(), &home, now)
        };
        assert!(verdict(&[1, 2]).is_ok());
        assert!(verdict(&[1]).is_ok());
        assert!(matches!(verdict(&[2]), Err(TourError::RowsLost(1))));
    }
}
