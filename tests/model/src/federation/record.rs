//! Federation records in a few bytes, and what the real changes make of them.
//!
//! A small record becomes a real one, the change that production makes is applied to it, and the
//! result is made small again. Each different question is answered once and remembered: the
//! checker asks millions of times.

use super::{Id, dc, id};
use federator_core::change::{self, AbortBegun, ChangeError};
use federator_core::conditions::{self, FenceWord, NoEvidence};
use node_agent_wire::federation::{
    DcEntry, Evidence, FederationRecord, Fence, FenceAck, Isolation, Operation, OperationKind,
    Phase, Policies, RECORD_VERSION, Retention,
};
use node_agent_wire::{Epoch, Lsn, SlotName, SystemId, TimelineId};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The database system of every datacenter.
pub const SYSTEM: &str = crate::healthy::SYSTEM;
const FEDERATION: &str = "shop";

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ack {
    /// Where the shutdown checkpoint begins.
    pub checkpoint: u16,
    /// Its timeline.
    pub timeline: u8,
}

/// A fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SmallFence {
    /// The epoch that it makes room for.
    pub epoch: u8,
    /// The operation that set it.
    pub operation: Option<u8>,
    /// The acknowledgement.
    pub ack: Option<Ack>,
}

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Planned.
    Switchover,
    /// On evidence.
    Promotion,
    /// A former primary becomes a standby.
    Rejoin,
}

impl Kind {
    /// The real one.
    #[must_use]
    pub fn real(self) -> OperationKind {
        match self {
            Self::Switchover => OperationKind::Switchover,
            Self::Promotion => OperationKind::Promotion,
            Self::Rejoin => OperationKind::Rejoin,
        }
    }

    fn of(kind: OperationKind) -> Self {
        match kind {
            OperationKind::Switchover => Self::Switchover,
            OperationKind::Promotion => Self::Promotion,
            OperationKind::Rejoin => Self::Rejoin,
            OperationKind::Setup | OperationKind::Fence | OperationKind::Remove => {
                unreachable!("no {kind} in this model")
            }
        }
    }
}

/// Forward or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SmallPhase {
    /// Not committed.
    Running,
    /// Turned back.
    Aborting,
    /// Committed.
    Committed,
}

/// What a promotion rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// An acknowledged fence.
    Acknowledged(Ack),
    /// An operator's word.
    Attested,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Its id.
    pub id: u8,
    /// Its kind.
    pub kind: Kind,
    /// The datacenter that gives up the role.
    pub from: Option<Id>,
    /// The datacenter that it is for.
    pub to: Id,
    /// The epoch that it begins.
    pub next_epoch: u8,
    /// Its phase.
    pub phase: SmallPhase,
    /// The evidence of a promotion.
    pub proof: Option<Proof>,
}

/// A record. Whose it is, is known by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rec {
    /// The epoch.
    pub epoch: u8,
    /// Its primary datacenter.
    pub primary: Id,
    /// The fence.
    pub fence: Option<SmallFence>,
    /// The operation.
    pub operation: Option<Held>,
    /// Seen streaming in this epoch.
    pub streamed: bool,
    /// An operator's word after a cold start.
    pub confirmed: bool,
}

fn small(number: u64) -> u8 {
    u8::try_from(number).unwrap_or_else(|_| unreachable!("a small model has small numbers"))
}

impl Ack {
    /// From the real one.
    #[must_use]
    pub fn of(ack: &FenceAck) -> Self {
        let checkpoint = u16::try_from(ack.checkpoint.0).unwrap_or(u16::MAX);
        Self { checkpoint, timeline: small(u64::from(ack.timeline.0)) }
    }

    /// The real one.
    #[must_use]
    pub fn real(self) -> FenceAck {
        FenceAck {
            node: "pg1".into(),
            checkpoint: Lsn(u64::from(self.checkpoint)),
            timeline: TimelineId(u32::from(self.timeline)),
            system_id: SystemId::new(SYSTEM),
            at_us: 0,
        }
    }
}

fn operation_id(id: u8) -> node_agent_wire::OperationId {
    format!("op-{id}").as_str().into()
}

fn number(id: &node_agent_wire::OperationId) -> u8 {
    let digits = id.as_str().trim_start_matches("op-");
    digits.parse().unwrap_or_else(|_| unreachable!("an id of this model: {id}"))
}

impl Held {
    /// The real one.
    #[must_use]
    pub fn real(self) -> Operation {
        Operation {
            phase: match self.phase {
                SmallPhase::Running => Phase::Running,
                SmallPhase::Aborting => Phase::Aborting,
                SmallPhase::Committed => Phase::Committed,
            },
            evidence: self.proof.map(|proof| match proof {
                Proof::Acknowledged(ack) => Evidence::Acknowledged { ack: ack.real() },
                Proof::Attested => {
                    Evidence::Attested { by: "ann".into(), reason: "off".into(), at_us: 0 }
                }
            }),
            ..Operation::new(
                operation_id(self.id),
                self.kind.real(),
                (self.from.map(dc), dc(self.to)),
                Epoch(u64::from(self.next_epoch)),
                ("ann", 0),
            )
        }
    }

    /// From the real one. The commit writes the evidence of a switchover too: it is left out here,
    /// nothing is decided by it.
    #[must_use]
    pub fn of(operation: &Operation) -> Self {
        let kind = Kind::of(operation.kind);
        Self {
            id: number(&operation.id),
            kind,
            from: operation.from.as_ref().map(id),
            to: id(&operation.to),
            next_epoch: small(operation.next_epoch.0),
            phase: match operation.phase {
                Phase::Running => SmallPhase::Running,
                Phase::Aborting => SmallPhase::Aborting,
                Phase::Committed => SmallPhase::Committed,
            },
            proof: operation.evidence.as_ref().filter(|_| kind == Kind::Promotion).map(
                |evidence| match evidence {
                    Evidence::Acknowledged { ack } => Proof::Acknowledged(Ack::of(ack)),
                    Evidence::Attested { .. } => Proof::Attested,
                    Evidence::LeaseExpired { .. } | Evidence::FencedByHook { .. } => {
                        unreachable!("not built")
                    }
                },
            ),
        }
    }
}

fn entry(place: Id) -> DcEntry {
    let name = dc(place);
    DcEntry {
        scope: "shop".into(),
        namespace: "/service".into(),
        etcd: vec![format!("{name}.example:2379")],
        isolation: Isolation::Manual,
        follows: None,
        slot: SlotName::from_name(name.as_str()),
        retention: Retention::default(),
        nodes: BTreeMap::new(),
    }
}

impl Rec {
    /// The record that every datacenter begins with.
    #[must_use]
    pub fn first(primary: Id) -> Self {
        let (fence, operation) = (None, None);
        Self { epoch: 1, primary, fence, operation, streamed: true, confirmed: false }
    }

    /// The real record of the datacenter `me` in a federation of `count`.
    #[must_use]
    pub fn real(&self, me: Id, count: u8) -> FederationRecord {
        FederationRecord {
            version: RECORD_VERSION,
            federation: FEDERATION.into(),
            dc: dc(me),
            epoch: Epoch(u64::from(self.epoch)),
            primary: dc(self.primary),
            fence: self.fence.map(|fence| Fence {
                epoch: Epoch(u64::from(fence.epoch)),
                operation: fence.operation.map(operation_id),
                reason: "in this model".into(),
                by: "ann".into(),
                at_us: 0,
                ack: fence.ack.map(Ack::real),
            }),
            operation: self.operation.map(Held::real),
            claim: None,
            members: (0..count).map(|place| (dc(place), entry(place))).collect(),
            policies: Policies::default(),
            streamed: self.streamed,
            confirmed: self.confirmed.then(|| node_agent_wire::federation::Confirmation {
                epoch: Epoch(u64::from(self.epoch)),
                by: "ann".into(),
                at_us: crate::healthy::WALL_US,
            }),
            resolution: None,
        }
    }

    /// From the real one. Claims, names, reasons and times are left out: nothing is decided by
    /// them here, but the cold start, for which the model keeps a mark of its own.
    #[must_use]
    pub fn of(record: &FederationRecord) -> Self {
        Self {
            epoch: small(record.epoch.0),
            primary: id(&record.primary),
            fence: record.fence.as_ref().map(|fence| SmallFence {
                epoch: small(fence.epoch.0),
                operation: fence.operation.as_ref().map(number),
                ack: fence.ack.as_ref().map(Ack::of),
            }),
            operation: record.operation.as_ref().map(Held::of),
            streamed: record.streamed,
            confirmed: record.confirmed.is_some(),
        }
    }
}

/// A change by a federator, with what it has read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// `change::hold`, found open or not.
    Hold(Held, bool),
    /// `change::release`
    Release(u8),
    /// `change::journal`
    Journal(u8),
    /// `change::fence`
    Fence(Held),
    /// `conditions::commit_evidence` with the former primary's record, and `change::commit`.
    Commit(Held, Option<Rec>),
    /// `change::begin_abort`
    BeginAbort(u8),
    /// `change::turn_back` with the proof that the target's record gives.
    TurnBack(Held, Rec),
    /// `change::follow`
    Follow(Id, Rec, u8),
    /// `change::may_lead`: changes nothing.
    MayLead(u8),
    /// `change::supersede`
    Supersede(Id, Rec, Option<u8>),
    /// `change::let_go`, with the target's record when the primary moved.
    LetGo(Held, Option<Rec>),
    /// `change::mark_streamed`
    MarkStreamed(u8),
    /// `change::operator_fence`
    OperatorFence,
    /// `change::operator_lift`
    OperatorLift,
    /// `change::confirm`
    Confirm,
}

/// Why a change is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    /// The operation is not there.
    Gone,
    /// It is committed.
    Committed,
    /// Something else.
    Other,
}

/// The record afterwards, whether or not it had to change.
pub type Outcome = Result<Rec, No>;
type Question = (u8, Id, Rec, Change);

thread_local! {
    static KNOWN: RefCell<BTreeMap<Question, Outcome>> = const { RefCell::new(BTreeMap::new()) };
    static WORDS: RefCell<BTreeMap<Rec, Word>> = const { RefCell::new(BTreeMap::new()) };
}

/// What the real change makes of the record of `me`.
///
/// # Errors
/// The change is refused.
pub fn apply(count: u8, me: Id, rec: Rec, change: Change) -> Outcome {
    let question = (count, me, rec, change);
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&question).copied()) {
        return known;
    }
    let answer = made(count, me, &rec, change);
    KNOWN.with_borrow_mut(|known| known.insert(question, answer));
    answer
}

fn made(count: u8, me: Id, rec: &Rec, change: Change) -> Outcome {
    let record = rec.real(me, count);
    let next = match change {
        Change::Hold(held, open) => change::hold(&record, &held.real(), open),
        Change::Release(id) => change::release(&record, &operation_id(id)),
        Change::Journal(id) => change::journal(&record, &operation_id(id), &[]),
        Change::Fence(held) => change::fence(&record, &held.real(), 0),
        Change::Commit(held, former) => {
            let from = held.from.unwrap_or(held.to);
            let former = former.map(|rec| rec.real(from, count));
            let system = SystemId::new(SYSTEM);
            conditions::commit_evidence(&held.real(), former.as_ref(), Some(&system))
                .map_err(|error| match error {
                    NoEvidence::Change(error) => no(&error),
                    NoEvidence::Evidence(_) | NoEvidence::FormerUnknown => No::Other,
                })
                .map(|evidence| {
                    change::commit(&record, &operation_id(held.id), &evidence, &[], 0)
                })?
        }
        Change::BeginAbort(id) => change::begin_abort(&record, &operation_id(id)),
        Change::TurnBack(held, target) => {
            let target = target.real(held.to, count);
            let proof = AbortBegun::seen(&target, &operation_id(held.id)).ok_or(No::Gone)?;
            change::turn_back(&record, &proof)
        }
        Change::Follow(of, winner, keep) => {
            change::follow(&record, &winner.real(of, count), &operation_id(keep))
        }
        Change::MayLead(id) => change::may_lead(&record, &operation_id(id)).map(|()| None),
        Change::Supersede(of, winner, orphan) => {
            let orphan = orphan.map(operation_id);
            change::supersede(&record, &winner.real(of, count), orphan.as_ref(), "ann", 0)
        }
        Change::LetGo(held, winner) => {
            let winner = winner.map(|rec| rec.real(held.to, count));
            change::let_go(&record, winner.as_ref(), &held.real(), 0)
        }
        Change::MarkStreamed(epoch) => change::mark_streamed(&record, Epoch(u64::from(epoch))),
        Change::OperatorFence => change::operator_fence(&record, "ann", 0),
        Change::OperatorLift => change::operator_lift(&record),
        Change::Confirm => change::confirm(&record, "ann", crate::healthy::WALL_US),
    };
    match next {
        Ok(next) => Ok(next.map_or(*rec, |next| Rec::of(&next))),
        Err(error) => Err(no(&error)),
    }
}

fn no(error: &ChangeError) -> No {
    match error {
        ChangeError::Gone { .. } => No::Gone,
        ChangeError::Committed { .. } => No::Committed,
        ChangeError::Rule { .. }
        | ChangeError::Busy { .. }
        | ChangeError::Decided { .. }
        | ChangeError::Aborting { .. }
        | ChangeError::Fenced { .. }
        | ChangeError::EpochMoved { .. }
        | ChangeError::EvidenceGone { .. }
        | ChangeError::NoEvidence { .. }
        | ChangeError::NotApproved { .. }
        | ChangeError::StillPrimary { .. }
        | ChangeError::StillMember { .. }
        | ChangeError::NotPrimary { .. } => No::Other,
    }
}

/// `FenceWord` of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Acknowledged.
    Acknowledged(Ack),
    /// Not yet.
    Awaited,
    /// No fence.
    Lifted,
}

/// What the record says of its fence.
#[must_use]
pub fn word(rec: Rec) -> Word {
    if let Some(known) = WORDS.with_borrow(|known| known.get(&rec).copied()) {
        return known;
    }
    let word = match FenceWord::of(&rec.real(0, 2)) {
        FenceWord::Acknowledged(ack) => Word::Acknowledged(Ack::of(ack)),
        FenceWord::Awaited => Word::Awaited,
        FenceWord::Lifted => Word::Lifted,
    };
    WORDS.with_borrow_mut(|known| known.insert(rec, word));
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_record_is_the_real_one() {
        let ack = Ack { checkpoint: 64, timeline: 2 };
        let held = Held {
            id: 3,
            kind: Kind::Promotion,
            from: Some(0),
            to: 1,
            next_epoch: 3,
            phase: SmallPhase::Aborting,
            proof: Some(Proof::Acknowledged(ack)),
        };
        let fence = SmallFence { epoch: 3, operation: Some(3), ack: Some(ack) };
        let rec = Rec {
            epoch: 2,
            primary: 1,
            fence: Some(fence),
            operation: Some(held),
            streamed: false,
            confirmed: true,
        };
        for rec in [rec, Rec::first(0), Rec { fence: None, ..rec }] {
            assert_eq!(Rec::of(&rec.real(1, 3)), rec);
        }
    }
}
