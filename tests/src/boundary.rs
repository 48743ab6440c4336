//! The places of an operation at which the command can be killed, and what is true there.

use federator_core::plan::{Step, StepKind};

/// One side of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Journalled as begun, nothing changed yet.
    Before,
    /// Its effect is there, not journalled as done yet.
    After,
}

/// One place to be killed at.
#[derive(Clone, Copy, Debug)]
pub struct Boundary {
    /// The step.
    pub kind: StepKind,
    /// Which side of it.
    pub side: Side,
    /// The records hold the operation.
    pub open: bool,
    /// The commit has happened.
    pub committed: bool,
}

impl Boundary {
    /// As the command wants to have it.
    #[must_use]
    pub fn name(&self) -> String {
        Self::label(self.kind.name(), self.side)
    }

    /// The same of a step by its name.
    #[must_use]
    pub fn label(step: &str, side: Side) -> String {
        let side = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        format!("{step}:{side}")
    }

    /// Every place of a plan, in order.
    #[must_use]
    pub fn all(steps: &[Step]) -> Vec<Self> {
        let both = steps.iter().flat_map(|step| [(step, Side::Before), (step, Side::After)]);
        let place = |(step, side): (&Step, Side)| {
            let done = |kind| step.kind == kind && side == Side::After;
            let untaken = step.kind == StepKind::Take && side == Side::Before;
            Self {
                kind: step.kind,
                side,
                open: !untaken && !done(StepKind::Close),
                committed: step.past_commit || done(StepKind::Commit),
            }
        };
        both.map(place).collect()
    }
}

/// The steps in what `--dry-run` prints: name, and whether there is no way back.
#[must_use]
pub fn planned(text: &str) -> Vec<(String, bool)> {
    let lines = text.lines().skip_while(|line| !line.starts_with("Plan "));
    let numbered = lines.filter_map(|line| {
        let (number, rest) = line.trim_start().split_once(". ")?;
        number.parse::<usize>().ok()?;
        let name = rest.split_whitespace().next()?.to_owned();
        Some((name, line.ends_with("[only forward]")))
    });
    numbered.collect()
}
