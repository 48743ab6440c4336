//! `lab wan`: how the network between the datacenters is, and what can be done to it.

use std::fmt::Write as _;

use clap::{Args, Subcommand};

use super::Place;
use super::report::say;
use crate::lab::LabError;
use crate::wan::control::State;
use crate::wan::link::Counts;
use crate::wan::shape::{Change, Delay, Loss, Rate};

/// What `lab wan` can do.
#[derive(Debug, Subcommand)]
pub(super) enum WanCommand {
    /// Show every direction: how packets fare, whether it is cut, what became of them so far.
    Status(Place),
    /// Lose all packets between two datacenters.
    Cut {
        #[command(flatten)]
        pair: Pair,
        #[command(flatten)]
        place: Place,
    },
    /// Let packets arrive again: between two datacenters, or everywhere.
    Heal {
        /// A datacenter, or "witness"; without it every cut is healed.
        #[arg(requires = "to")]
        from: Option<String>,
        /// Another one.
        to: Option<String>,
        /// Packets from the first to the second one only.
        #[arg(long, requires = "from")]
        one_way: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Change how packets fare, in every direction; what is not named stays.
    Set {
        #[command(flatten)]
        change: Options,
        #[command(flatten)]
        place: Place,
    },
}

/// Two datacenters.
#[derive(Debug, Args)]
pub(super) struct Pair {
    /// A datacenter, or "witness".
    from: String,
    /// Another one.
    to: String,
    /// Packets from the first to the second one only.
    #[arg(long)]
    one_way: bool,
}

/// What `set` may change.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct Options {
    /// Delay there and back, for example 40ms.
    #[arg(long)]
    rtt: Option<Delay>,
    /// Each packet is up to so much later, for example 2ms.
    #[arg(long)]
    jitter: Option<Delay>,
    /// The share of packets that is lost, for example 0.5%.
    #[arg(long)]
    loss: Option<Loss>,
    /// What each direction carries, for example 100Mbit; or "unlimited".
    #[arg(long)]
    rate: Option<Rate>,
}

/// Does what the command says, and shows the network afterwards.
pub(super) fn execute(command: WanCommand) -> Result<(), LabError> {
    let state = match command {
        WanCommand::Status(place) => place.open()?.wan()?.state()?,
        WanCommand::Cut { pair: Pair { from, to, one_way }, place } => {
            let wan = place.open()?.wan()?;
            if one_way { wan.cut(&from, &to)? } else { wan.cut_both(&from, &to)? }
        }
        WanCommand::Heal { from, to, one_way, place } => {
            let wan = place.open()?.wan()?;
            match from.zip(to) {
                None => wan.heal_all()?,
                Some((from, to)) if one_way => wan.heal(&from, &to)?,
                Some((from, to)) => {
                    wan.heal(&from, &to)?;
                    wan.heal(&to, &from)?
                }
            }
        }
        WanCommand::Set { change: Options { rtt, jitter, loss, rate }, place } => {
            place.open()?.wan()?.set(Change { rtt, jitter, loss, rate })?
        }
    };
    say(table(&state).trim_end());
    Ok(())
}

/// Every direction in a line.
pub(super) fn table(state: &State) -> String {
    let mut out = String::new();
    for direction in &state.directions {
        let Counts { arrived, lost, full, cut } = direction.counts;
        let now = if direction.cut { "CUT, " } else { "" };
        let _ = writeln!(
            out,
            "{} to {}: {now}{}; packets: {arrived} arrived, lost: {lost} by chance, {full} at a \
             full queue, {cut} in a cut",
            direction.from, direction.to, direction.shape
        );
    }
    out
}
