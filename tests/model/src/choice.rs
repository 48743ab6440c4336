//! What the real `decide` makes of a view, as a model carries it out.

use crate::view::{Id, Names, Sync, View, id};
use node_agent_core::decide;
use node_agent_core::decision::{Act, Decision, StopMode, Tend};
use node_agent_core::demotion::Release;
use node_agent_core::pause;
use node_agent_core::postgres::Upstream;
use node_agent_core::rule::Rule;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// One effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Take the leader key, if nobody has beaten since.
    Acquire,
    /// Give the leader key back.
    Release,
    /// Promote PostgreSQL.
    Promote,
    /// Start PostgreSQL writable.
    StartPrimary,
    /// Stop a primary.
    Demote {
        /// By a clean shutdown.
        clean: bool,
        /// Release the leader key when it has stopped.
        release: bool,
    },
    /// Start PostgreSQL as a standby.
    StartStandby(Option<Id>),
    /// Follow this node.
    Follow(Option<Id>),
    /// Rewind to this node.
    Rewind(Id),
    /// Write `/sync`.
    WriteSync(Sync),
    /// Delete `/sync`.
    DeleteSync,
    /// Set `synchronous_standby_names`.
    SetNames(Names),
    /// Clear the `failover` key.
    ClearFailover,
    /// Ask the other members for their votes.
    AskVotes,
    /// Turn this node's mark of maintenance mode into a release.
    EndUnattended,
}

/// A decision in short.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The rule.
    pub rule: Rule,
    /// What it does, in order. Questions, publications, slots and settings are left out: a model
    /// gives every answer with the view.
    pub effects: [Option<Effect>; 3],
    /// The beats may carry the mark of maintenance mode.
    pub may_be_unattended: bool,
}

thread_local! {
    static KNOWN: RefCell<BTreeMap<View, Choice>> = const { RefCell::new(BTreeMap::new()) };
}

impl Choice {
    /// Runs the real function, once for each different view and thread.
    #[must_use]
    pub fn of(view: &View) -> Self {
        if let Some(known) = KNOWN.with_borrow(|known| known.get(view).copied()) {
            return known;
        }
        let observed = view.observed();
        let choice = Self {
            may_be_unattended: pause::may_be_unattended(&observed),
            ..Self::read(&decide(&observed))
        };
        KNOWN.with_borrow_mut(|known| known.insert(*view, choice));
        choice
    }

    /// The effects, in order.
    pub fn iter(&self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.iter().flatten().copied()
    }

    fn read(decision: &Decision) -> Self {
        let tend = decision.tend.iter().filter_map(of_tend);
        let mut all = tend.chain(decision.act.iter().map(of_act));
        let effects = [all.next(), all.next(), all.next()];
        assert!(all.next().is_none(), "more effects than a model carries out: {decision:?}");
        Self { rule: decision.rule, effects, may_be_unattended: false }
    }
}

fn of_tend(tend: &Tend) -> Option<Effect> {
    match tend {
        Tend::StartStandby(upstream) => Some(Effect::StartStandby(node(upstream))),
        Tend::Follow(upstream) => Some(Effect::Follow(node(upstream))),
        Tend::WriteSync { sync, .. } => Some(Effect::WriteSync(Sync::of(sync))),
        Tend::DeleteSync(_) => Some(Effect::DeleteSync),
        Tend::SetSyncNames(names) => Some(Effect::SetNames(Names::parse(names))),
        Tend::ClearFailover { .. } => Some(Effect::ClearFailover),
        Tend::AskVotes { .. } => Some(Effect::AskVotes),
        Tend::EndUnattended => Some(Effect::EndUnattended),
        Tend::AskPeers
        | Tend::AskHistory(_)
        | Tend::Slot(_)
        | Tend::CopySlots { .. }
        | Tend::AskSlots(_)
        | Tend::PublishLeader
        | Tend::ReadWalEnd { .. }
        | Tend::DropRequest(_)
        | Tend::DropScheduledRestart(_)
        | Tend::ApplySettings => None,
        Tend::ReplaceRecord { .. } | Tend::FollowDatacenter { .. } => {
            unreachable!("no federation in a model of one datacenter")
        }
    }
}

fn of_act(act: &Act) -> Effect {
    match act {
        Act::Acquire(_) => Effect::Acquire,
        Act::Release => Effect::Release,
        Act::Promote(_) => Effect::Promote,
        Act::StartPrimary(_) => Effect::StartPrimary,
        Act::Demote(mode) => {
            let how = mode.how(false);
            // When a member is asked for it: the model's stop is one step, and ships everything.
            let release = match how.release {
                Release::Never => false,
                Release::Stopped | Release::HeldOrStopped | Release::Held => true,
            };
            Effect::Demote { clean: how.stop == StopMode::Fast, release }
        }
        Act::Rewind { source, .. } => match node(source) {
            Some(id) => Effect::Rewind(id),
            None => unreachable!("a rewind without a source"),
        },
        Act::Initdb(_)
        | Act::Clone(_)
        | Act::CloneLeaderless
        | Act::Reinit(_)
        | Act::Leave
        | Act::AcknowledgeFence(_)
        | Act::Restart => {
            unreachable!("a model has data everywhere, no federation and no operator: {act:?}")
        }
    }
}

fn node(upstream: &Upstream) -> Option<Id> {
    match upstream {
        Upstream::Member { name, .. } => id(name),
        Upstream::Remote { .. } | Upstream::Archive { .. } | Upstream::Nobody => None,
    }
}
