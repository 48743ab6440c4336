//! What the steps of one operation share: the plan, the connections, the journal, and what has been
//! learned on the way.

use crate::clock::now_us;
use crate::concurrent::{Late, Local, all};
use crate::dcs::DcsError;
use crate::federation::{Cluster, Federation};
use crate::fencer::FencerError;
use crate::link::LinkError;
use crate::records::{UpdateError, update_record};
use crate::render::Progress;
use crate::signing::SigningKey;
use crate::sql::{Session, SqlError};
use federator_core::change::{self, ChangeError};
use federator_core::conditions::NoEvidence;
use federator_core::configuration::Seed;
use federator_core::evidence::{EvidenceError, FencingEvidence};
use federator_core::history::MeasuredCopy;
use federator_core::inventory::{Inventory, NodeView};
use federator_core::links;
use federator_core::plan::{Plan, StepKind};
use node_agent_wire::federation::{FederationRecord, JournalEntry, OperationKind};
use node_agent_wire::{DcName, MemberName, SlotName, TimelineId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The pause between two looks at something that is waited for outside the write pause.
pub const POLL: Duration = Duration::from_millis(100);

/// A step that did not get done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A record or configuration could not be changed.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// A DCS does not answer.
    #[error(transparent)]
    Dcs(#[from] DcsError),
    /// An agent does not answer, or refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// SQL failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The evidence is missing.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The fencer could not be run to its end.
    #[error(transparent)]
    Fencer(#[from] FencerError),
    /// The fencer did not fence: how it ended, and its standard error.
    #[error("the fencer of {dc}: {how}")]
    NotFenced {
        /// Whose.
        dc: DcName,
        /// In words.
        how: String,
    },
    /// The deadline passed.
    #[error("waited {} s for {what}; last seen: {seen}", limit.as_secs_f32())]
    Deadline {
        /// What for.
        what: String,
        /// What there was instead.
        seen: String,
        /// How long.
        limit: Duration,
    },
    /// The target is not where the former primary stopped.
    #[error("{dc} is on timeline {found}, the former primary stopped on {expected}")]
    OtherTimeline {
        /// The target.
        dc: DcName,
        /// Its timeline.
        found: TimelineId,
        /// The primary's.
        expected: TimelineId,
    },
    /// The limit of the write pause has passed, and nothing is committed.
    #[error(
        "writes have been stopped for {}, the limit of --max-pause, and nothing is committed",
        humantime::format_duration(*limit)
    )]
    PauseTooLong {
        /// The limit.
        limit: Duration,
    },
    /// Something that the plan relies on is missing.
    #[error("{0}")]
    Missing(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl From<ChangeError> for StepError {
    fn from(error: ChangeError) -> Self {
        Self::Update(UpdateError::Change(error))
    }
}

impl From<NoEvidence> for StepError {
    fn from(error: NoEvidence) -> Self {
        match error {
            NoEvidence::Evidence(error) => error.into(),
            NoEvidence::Change(error) => error.into(),
            NoEvidence::FormerUnknown => Self::Missing(error.to_string()),
        }
    }
}

impl From<Late> for StepError {
    fn from(late: Late) -> Self {
        Self::Deadline { what: late.what, seen: "no answer".into(), limit: late.limit }
    }
}

/// A deadline with its words.
pub struct Wait {
    until: Instant,
    limit: Duration,
}

impl Wait {
    /// From now on.
    pub fn new(limit: Duration) -> Self {
        Self { until: Instant::now() + limit, limit }
    }

    /// What is left.
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Pauses, or says that the deadline has passed.
    pub async fn pause(&self, pause: Duration, what: &str, seen: &str) -> Result<(), StepError> {
        if self.left().is_zero() {
            let (what, seen) = (what.to_owned(), seen.to_owned());
            return Err(StepError::Deadline { what, seen, limit: self.limit });
        }
        tokio::time::sleep(pause.min(self.left())).await;
        Ok(())
    }
}

/// What the steps share.
pub struct Context<'f> {
    /// Settings and connections.
    pub federation: &'f Federation,
    /// The plan.
    pub plan: Plan,
    /// What it was made from.
    pub inventory: Inventory,
    /// Where progress is printed.
    pub progress: &'f Progress,
    /// The longest wait of a step.
    pub limit: Duration,
    /// The longest wait for a new standby to stream.
    pub clone_limit: Duration,
    /// The rate of base backups over the link, bytes a second, where it was given by hand.
    pub max_rate: Option<u64>,
    /// The journal lines of this run.
    pub journal: Vec<JournalEntry>,
    /// Whether the records hold the operation, so that the journal can be written.
    pub taken: bool,
    /// The operation was found in the records, not begun here.
    pub resumed: bool,
    /// The take failed and left nothing behind.
    pub released: bool,
    /// What signs the evidence of a promotion.
    pub signing: Option<SigningKey>,
    /// The former primary's record with its acknowledgement.
    pub former: Option<FederationRecord>,
    /// The site grants that the target has acquired for a promotion.
    pub acquired: Option<FencingEvidence>,
    /// SQL on the target's leader, opened before the write pause.
    pub session: Option<Session>,
    /// The timeline that the target received while it streamed.
    pub timeline: Option<TimelineId>,
    /// When the fence was written, and when the target accepted writes.
    pub pause: (Option<Instant>, Option<Instant>),
    /// Base backups that were watched from their beginning to their end.
    pub copies: RefCell<Vec<MeasuredCopy>>,
    /// The longest write pause; past it a switchover that is not committed is turned back.
    pub pause_max: Option<Duration>,
    /// When that is over.
    pub pause_ends: Option<Instant>,
    /// Datacenters that did not answer when they should follow.
    pub left_behind: BTreeSet<DcName>,
}

impl<'f> Context<'f> {
    /// For one run.
    pub fn new(
        federation: &'f Federation,
        plan: Plan,
        inventory: Inventory,
        progress: &'f Progress,
        limits: (Duration, Duration),
    ) -> Self {
        Self {
            federation,
            plan,
            inventory,
            progress,
            limit: limits.0,
            clone_limit: limits.1,
            max_rate: None,
            journal: Vec::new(),
            taken: false,
            resumed: false,
            released: false,
            signing: None,
            former: None,
            acquired: None,
            session: None,
            timeline: None,
            pause: (None, None),
            copies: RefCell::default(),
            pause_max: None,
            pause_ends: None,
            left_behind: BTreeSet::new(),
        }
    }

    /// The datacenter that gives up the role.
    pub fn from(&self) -> Result<DcName, StepError> {
        let missing = || StepError::Missing("the operation names no former primary".into());
        self.plan.from.clone().ok_or_else(missing)
    }

    /// The datacenter that `dc` is to follow while `primary` is primary, as far as this run knows
    /// which ones serve.
    pub fn source_of(&self, dc: &DcName, primary: &DcName) -> DcName {
        let mut gone = self.left_behind.clone();
        // A lost primary is fenced until it is rejoined, whatever it says.
        let lost = self.plan.from.iter().filter(|_| self.plan.kind == OperationKind::Promotion);
        gone.extend(lost.cloned());
        links::planned(&self.inventory, dc, primary, &gone).clone()
    }

    /// The slots that `dc` keeps: one for every other member, and for those that join now.
    pub fn slots_on(&self, dc: &DcName) -> BTreeSet<SlotName> {
        let new = self.plan.new_standbys();
        let belongs = |other: &DcName| {
            *other == self.plan.primary || new.contains(other) || self.inventory.is_member(other)
        };
        let others = self.inventory.sites.keys().filter(|other| *other != dc && belongs(other));
        others.map(|other| self.federation.slot(other)).collect()
    }

    /// How `dc` is filled.
    pub fn seed(&self, dc: &DcName) -> Seed {
        let entry = self.federation.settings.datacenters.get(dc);
        let seed = entry.map(|entry| entry.seed.clone()).unwrap_or_default();
        Seed { max_rate: self.max_rate.or(seed.max_rate), ..seed }
    }

    /// Whether the step lies inside the write pause, where nothing is written for the journal.
    fn in_pause(kind: StepKind) -> bool {
        matches!(kind, StepKind::CatchUp | StepKind::Commit | StepKind::Promote)
    }

    /// The journal line of a step that begins.
    pub async fn begin(&mut self, kind: StepKind) -> Result<(), StepError> {
        let there = self.journal.iter().any(|entry| entry.step == kind.name());
        if !there {
            self.journal.push(JournalEntry {
                step: kind.name().to_owned(),
                begun_at_us: now_us(),
                done_at_us: None,
                note: String::new(),
                parts: Vec::new(),
            });
        }
        if Self::in_pause(kind) || kind == StepKind::Close { Ok(()) } else { self.flush().await }
    }

    /// The journal line of a step that is done. It is written with the next one that is.
    pub async fn done(&mut self, kind: StepKind, note: &str) -> Result<(), StepError> {
        let now = now_us();
        for entry in self.journal.iter_mut().filter(|entry| entry.step == kind.name()) {
            entry.done_at_us = Some(now);
            entry.note = note.to_owned();
        }
        match kind {
            StepKind::Take => self.taken = true,
            // After these the write pause is not under way, and the next step may take long.
            StepKind::Promote | StepKind::Sequences | StepKind::Verify | StepKind::Stream => {
                return self.flush().await;
            }
            StepKind::Record
            | StepKind::Supersede
            | StepKind::Slots
            | StepKind::Prepare
            | StepKind::PreSync
            | StepKind::Fence
            | StepKind::Fencer
            | StepKind::CatchUp
            | StepKind::Acquire
            | StepKind::Commit
            | StepKind::Repoint
            | StepKind::Demoted
            | StepKind::Standby
            | StepKind::Isolate
            | StepKind::Detach
            | StepKind::Forget
            | StepKind::DropSlots
            | StepKind::Close => {}
        }
        Ok(())
    }

    /// The parts of a step that are done, in this run or an earlier one.
    pub fn parts_done(&self, kind: StepKind) -> Vec<String> {
        let lines = self.journal.iter().filter(|entry| entry.step == kind.name());
        lines.flat_map(|entry| entry.parts.clone()).collect()
    }

    /// Notes that a part of a step is done, at once.
    pub async fn part_done(&mut self, kind: StepKind, part: &str) -> Result<(), StepError> {
        for entry in self.journal.iter_mut().filter(|entry| entry.step == kind.name()) {
            entry.parts.push(part.to_owned());
        }
        self.flush().await
    }

    /// Writes the journal into the record that counts.
    pub async fn flush(&mut self) -> Result<(), StepError> {
        if !self.taken {
            return Ok(());
        }
        let dcs = self.federation.dcs(&self.plan.to)?;
        update_record(dcs, |record| change::journal(record, &self.plan.id, &self.journal)).await?;
        Ok(())
    }

    /// Every member of a datacenter that has an agent, with what the agent says.
    pub async fn nodes(
        &self,
        cluster: &Cluster,
    ) -> BTreeMap<MemberName, Result<NodeView, LinkError>> {
        let asks: Vec<Local<'_, _>> = cluster
            .members
            .values()
            .filter_map(|member| Some((&member.name, member.data.grpc.as_ref()?)))
            .map(|(name, address)| -> Local<'_, _> {
                Box::pin(async move { (name.clone(), self.federation.links.status(address).await) })
            })
            .collect();
        all(asks).await.into_iter().collect()
    }

    /// SQL on the leader of a datacenter.
    pub async fn leader_session(&self, dc: &DcName) -> Result<Session, StepError> {
        let cluster = self.federation.cluster(dc).await?;
        let (host, port) = cluster
            .leader()
            .and_then(node_agent_wire::member::Member::postgres_address)
            .ok_or_else(|| StepError::Missing(format!("{dc} has no leader with an address")))?;
        Ok(Session::open(&host, port, &self.federation.settings.superuser).await?)
    }
}
