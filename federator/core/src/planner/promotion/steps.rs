//! The steps of a promotion.

use crate::conditions::commit_needs_grants;
use crate::evidence::needs_fencer;
use crate::formula::EvidenceKind;
use crate::loss;
use crate::plan::{Step, StepKind};
use crate::planner::step;
use node_agent_wire::DcName;
use node_agent_wire::federation::{LossEstimate, Operation, Policies};

/// Which of the steps there are that not every promotion has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The DCS of the former primary answers: it is fenced first.
    pub former_answers: bool,
    /// The fencer of the former primary is run.
    pub fencer: bool,
    /// The sequences are advanced.
    pub sequences: bool,
    /// The target acquires the site grants.
    pub grants: bool,
}

impl Extent {
    /// Of an operation that is in the records already, under the policies of the same record.
    #[must_use]
    pub fn of(operation: &Operation, policies: &Policies, former_answers: bool) -> Self {
        let have = operation.all_evidence().map(EvidenceKind::of).collect();
        let sequences = Self::advances(operation.expected_loss.as_ref(), policies);
        let grants = commit_needs_grants(operation);
        Self { former_answers, fencer: needs_fencer(&have, policies), grants, sequences }
    }

    /// Whether sequences are advanced: where that was agreed, and something may be lost.
    #[must_use]
    pub fn advances(loss: Option<&LossEstimate>, policies: &Policies) -> bool {
        policies.sequence_gap > 0 && loss.is_some_and(loss::possible)
    }
}

/// The steps of a promotion.
#[must_use]
pub fn steps(from: &DcName, to: &DcName, extent: Extent) -> Vec<Step> {
    let mut list = before_commit(from, to, extent);
    list.push(step(
        StepKind::Commit,
        [
            "there is evidence, and nobody has turned the operation back",
            &format!("the record of {to} names {to} as primary at the next epoch"),
            "",
            "no way back",
        ],
        false,
    ));
    list.push(step(
        StepKind::Promote,
        [
            "committed",
            &format!("{to} leaves standby mode, its leader is promoted"),
            "",
            &format!("{to} accepts writes"),
        ],
        true,
    ));
    if extent.sequences {
        list.push(step(
            StepKind::Sequences,
            [
                &format!("{to} accepts writes"),
                "advances every sequence of every database by the agreed gap",
                "",
                "no value that the lost primary handed out comes again",
            ],
            true,
        ));
    }
    list.extend(after_promotion(from, to));
    list
}

fn before_commit(from: &DcName, to: &DcName, extent: Extent) -> Vec<Step> {
    let mut list = vec![step(
        StepKind::Take,
        [
            "no other operation in the records",
            &format!("writes the operation into the record of {to}, and of {from} if it answers"),
            "the operation is removed",
            "the record holds the operation",
        ],
        false,
    )];
    if extent.former_answers {
        list.push(step(
            StepKind::Fence,
            [
                &format!("the DCS of {from} answers"),
                &format!("fences {from}, so that it can't accept writes when it returns"),
                "the fence is lifted",
                &format!("the record of {from} is fenced"),
            ],
            false,
        ));
    }
    if extent.fencer {
        list.push(step(
            StepKind::Fencer,
            [
                &format!("the settings name a fencer for {from}"),
                &format!("runs the fencer of {from}"),
                "",
                "it has exited with 0, and the record says so",
            ],
            false,
        ));
    }
    if extent.grants {
        list.push(step(
            StepKind::Acquire,
            [
                &format!("the grants of {from} have run out, or do so soon"),
                &format!("{to} takes a majority of the site grants at the next epoch"),
                "the grants are given back",
                &format!("{to} holds a majority: {from} can't accept writes"),
            ],
            false,
        ));
    }
    list
}

fn after_promotion(from: &DcName, to: &DcName) -> Vec<Step> {
    vec![
        step(
            StepKind::Repoint,
            [
                "committed",
                &format!("every other datacenter that answers follows {to}; {from} needs a rejoin"),
                "",
                &format!("their records name {to}"),
            ],
            true,
        ),
        step(
            StepKind::Verify,
            [&format!("{to} accepts writes"), "writes a probe", "", "the probe is committed"],
            true,
        ),
        step(
            StepKind::Close,
            [
                "verified",
                "removes the operation from the records, adds it to the history",
                "",
                "no operation in progress",
            ],
            true,
        ),
    ]
}
