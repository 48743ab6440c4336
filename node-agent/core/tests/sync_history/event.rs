//! What may happen in a history.

use proptest::prelude::*;

#[derive(Clone, Debug)]
pub enum Event {
    Commit,
    /// The standby receives up to so many commits.
    Replicate(usize, usize),
    Connect(usize),
    Disconnect(usize),
    /// The leader's agent does all of the following three, undisturbed.
    Pass,
    /// The agent observes and decides.
    Decide(usize),
    /// The agent carries out what it decided, perhaps long ago.
    Apply(usize),
    /// The names are in force everywhere, and the end of WAL is read.
    Measure(usize),
    KillAgent(usize),
    /// The primary dies. This node can ask those of the others whose bit is set, and takes the
    /// leader key if it may.
    TakeOver(usize, u8),
    /// PostgreSQL of the primary crashes and is started in place.
    Crash,
    Configure {
        mode: Mode,
        strict: bool,
        count: u32,
    },
    /// A switchover asks that commits wait for the standby of another datacenter, or has ended.
    Ask(bool),
    /// That standby connects, or is cut off.
    Guest(bool),
    /// It receives up to so many commits.
    ReplicateGuest(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum Mode {
    Off,
    On,
    Quorum,
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![1 => Just(Mode::Off), 3 => Just(Mode::On), 6 => Just(Mode::Quorum)]
}

pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Commit),
        20 => (0_usize..4, 1_usize..6).prop_map(|(n, count)| Event::Replicate(n, count)),
        8 => (0_usize..4).prop_map(Event::Connect),
        2 => (0_usize..4).prop_map(Event::Disconnect),
        20 => Just(Event::Pass),
        4 => (0_usize..4).prop_map(Event::Decide),
        4 => (0_usize..4).prop_map(Event::Apply),
        2 => (0_usize..4).prop_map(Event::Measure),
        1 => (0_usize..4).prop_map(Event::KillAgent),
        2 => (0_usize..4, prop_oneof![Just(15_u8), 0_u8..16])
            .prop_map(|(n, reach)| Event::TakeOver(n, reach)),
        1 => Just(Event::Crash),
        1 => (mode(), any::<bool>(), 1_u32..4)
            .prop_map(|(mode, strict, count)| Event::Configure { mode, strict, count }),
        2 => any::<bool>().prop_map(Event::Ask),
        2 => prop::bool::weighted(0.7).prop_map(Event::Guest),
        8 => (1_usize..6).prop_map(Event::ReplicateGuest),
    ]
}
