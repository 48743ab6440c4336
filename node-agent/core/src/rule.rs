//! Every rule by its stable number. The number is in the log line, the REST reply, the member key
//! and `docs/rules.md`, which is generated from this table.

/// One row: number, name, when it fires, what it does.
struct Row {
    rule: Rule,
    number: u32,
    name: &'static str,
    when: &'static str,
    then: &'static str,
}

macro_rules! rules {
    ($($variant:ident = $number:literal, $name:literal, $when:literal, $then:literal;)*) => {
        /// The rule that decided.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $when] $variant,)*
        }

        const ROWS: &[Row] = &[
            $(Row {
                rule: Rule::$variant, number: $number, name: $name, when: $when, then: $then,
            },)*
        ];
    };
}

rules! {
    DcsLostKeep = 10, "dcs-lost-keep",
        "The DCS can't be read; the lease is still held, or PostgreSQL does not write.",
        "Roles stay as they are until the lease's own deadline.";
    DcsLostDemote = 11, "dcs-lost-demote",
        "The DCS can't be read, the lease has run out or is nearly over, and PostgreSQL accepts \
         writes.",
        "PostgreSQL is stopped: cleanly while there is time, at once when there is none.";
    FailsafeKeep = 12, "failsafe-keep",
        "The DCS can't be read, this node leads, and the members have agreed that it goes on.",
        "The primary goes on; the members are asked again before their promise is over.";
    FailsafePromise = 13, "failsafe-promise",
        "There is no leader key, and this node has agreed, or may have agreed before its agent was \
         started, that the last leader goes on without the DCS.",
        "Wait until the promise is over.";
    FailsafeOutsider = 14, "failsafe-outsider",
        "The last leader may go on without the DCS on the word of members that this node is not \
         one of.",
        "This node does not take its place.";
    FailsafeVotes = 15, "failsafe-votes",
        "The last leader may go on with a majority of the members.",
        "A majority is asked to vote for its successor first.";
    FailsafeOver = 16, "failsafe-over",
        "The DCS can't be read for longer than the federation's `cold_start_after`, and no other \
         datacenter confirms the epoch.",
        "PostgreSQL is stopped cleanly.";
    JobRunning = 20, "job-running",
        "A long piece of work is under way.",
        "Wait for it.";
    DataUnreadable = 30, "data-unreadable",
        "The data directory is there but can't be used.",
        "Nothing is touched and the leader key is released; an operator must look.";
    ForeignSystem = 31, "foreign-system",
        "The data directory belongs to another database system than `initialize` says.",
        "The node takes no part; an operator must decide.";
    Paused = 40, "paused",
        "The cluster is in maintenance mode.",
        "Roles stay as they are. A federation fence counts all the same.";
    PausedWithoutDcs = 41, "paused-without-dcs",
        "The DCS can't be read in maintenance mode, PostgreSQL accepts writes, and the last \
         committed beat says that it may go on.",
        "It goes on: nobody takes over before this node has said that it has stopped.";
    PausedAcquire = 42, "paused-acquire",
        "Nobody leads, PostgreSQL accepts writes here, in maintenance mode or left running in it, \
         and no other node can be writing.",
        "The leader key is taken.";
    PausedDown = 43, "paused-down",
        "PostgreSQL is not running in maintenance mode.",
        "It stays down, and the leader key is released.";
    LeftRunning = 44, "left-running",
        "The last leader was left running in maintenance mode, and is not known to have stopped \
         writing.",
        "Wait for its word: it may accept writes without an agent.";
    AdoptEpoch = 50, "adopt-epoch",
        "Another datacenter's record is at a later epoch than this one's.",
        "This datacenter's record takes the later epoch over, with a fence where it was primary.";
    FenceConflict = 51, "fence-conflict",
        "Another datacenter claims the same epoch for itself.",
        "A fence is written into this datacenter's record, so that the claim can't come back.";
    FenceDemote = 110, "fence-demote",
        "PostgreSQL accepts writes and the datacenter has no right to: a fence, another primary \
         datacenter, a later epoch or standby_cluster.",
        "Clean shutdown, so that everything acknowledged is shipped; then read-only.";
    FenceAcknowledge = 111, "fence-acknowledge",
        "A fence is set and the leader has stopped writing.",
        "The final position is written into the federation record.";
    ReadOnly = 112, "read-only",
        "The leader has no right to write and nobody to follow.",
        "PostgreSQL runs read-only.";
    StandbyLeader = 113, "standby-leader",
        "The leader of a standby cluster.",
        "It follows the primary datacenter.";
    Bootstrap = 120, "bootstrap",
        "The leader has no data directory and the cluster is new.",
        "initdb; or a base backup of the primary datacenter in a standby cluster.";
    StartPrimary = 121, "start-primary",
        "The leader was primary and PostgreSQL is not running.",
        "It is started in place.";
    Promote = 122, "promote",
        "The leader is a standby and has the right to write.",
        "It is promoted.";
    PrepareSync = 123, "prepare-sync",
        "The leader is about to be promoted, or synchronous mode was turned off.",
        "/sync and synchronous_standby_names are brought in line first.";
    Switchover = 124, "switchover",
        "A switchover is asked for and its candidate is ready.",
        "Clean shutdown, then the leader key is released.";
    Hold = 125, "hold",
        "The leader is primary, as it should be.",
        "Slots, /status, /sync and settings are kept up to date.";
    GiveUp = 126, "give-up",
        "The leader can't start PostgreSQL, or not in time, or lacks what a switchover promised.",
        "The leader key is released so that another node can take over.";
    AwaitStart = 127, "await-start",
        "PostgreSQL is starting or stopping, or does not answer.",
        "Wait for it.";
    SwitchoverRefused = 128, "switchover-refused",
        "A switchover is asked for that can't be carried out.",
        "The request is cleared, with the reason.";
    Restart = 129, "restart",
        "An operator asked for a restart.",
        "PostgreSQL is restarted in its role.";
    SyncLost = 140, "sync-lost",
        "The leader is primary, and sessions wait in vain for a synchronous standby that is gone: \
         it acknowledges nothing and its agent does not answer.",
        "/sync no longer names it, then PostgreSQL no longer waits for it; another standby takes \
         its place.";
    Silent = 150, "silent",
        "The leader is primary and PostgreSQL accepts no session.",
        "The leader key is kept; with primary_unresponsive_timeout for that long.";
    SilentFailover = 151, "silent-failover",
        "PostgreSQL of the leader has accepted no session for primary_unresponsive_timeout, and \
         another member could lead.",
        "PostgreSQL is ended and the leader key released.";
    DiskFull = 152, "disk-full",
        "The leader is primary and a disk that PostgreSQL writes to is full.",
        "The leader key is kept; with primary_disk_full_timeout for that long.";
    DiskFullFailover = 153, "disk-full-failover",
        "A disk of the leader has been full for primary_disk_full_timeout, and another member \
         could lead.",
        "PostgreSQL is stopped and the leader key released.";
    DiskFullBars = 154, "disk-full-bars",
        "There is no leader, a disk of this node is full, and another member answers.",
        "This node does not take the leader key.";
    CrashFailover = 155, "crash-failover",
        "PostgreSQL of the leader has crashed, primary_start_timeout is 0, and another member \
         could lead.",
        "The leader key is released at once.";
    WatchdogBars = 160, "watchdog-bars",
        "The watchdog is required and can't be used; PostgreSQL does not accept writes.",
        "This node does not lead; a leader key is released.";
    WatchdogLost = 161, "watchdog-lost",
        "The watchdog is required and can't be used any more; this node is primary.",
        "Clean shutdown, then the leader key is released.";
    ScheduledRestart = 170, "scheduled-restart",
        "The time of a planned restart has come, and its conditions are met.",
        "PostgreSQL is restarted in its role.";
    Outgrown = 171, "outgrown",
        "Replay is paused because the primary was restarted with higher settings.",
        "The standby is restarted with settings raised to the primary's.";
    ReleaseSync = 172, "release-sync",
        "A standby that `/sync` names is to be restarted, or its agent is told to stop.",
        "It asks to be left out, by the tag `nosync`, and waits for that for two `loop_wait` at \
         most.";
    LostLock = 200, "lost-lock",
        "PostgreSQL accepts writes, and this node is not the leader.",
        "It is stopped at once.";
    Clone = 201, "clone",
        "No data directory, and there is a leader to copy.",
        "A base backup is taken.";
    Rewind = 202, "rewind",
        "The local WAL has left the history of the source.",
        "What would be lost is reported and kept, then pg_rewind runs.";
    RewindImpossible = 203, "rewind-impossible",
        "The local WAL has left the history of the source, and pg_rewind is off or can't work.",
        "PostgreSQL does not follow; an operator must reinitialise the node.";
    StartStandby = 204, "start-standby",
        "PostgreSQL is not running and may follow its source.",
        "It is started as a standby.";
    Follow = 205, "follow",
        "The standby's source is not the one that it should have.",
        "Its configuration is changed; no restart.";
    Replicate = 206, "replicate",
        "A standby follows its source.",
        "Slots are kept up to date.";
    AwaitSource = 207, "await-source",
        "The source's history is not known yet.",
        "It is asked for; PostgreSQL stays read-only.";
    AwaitLeader = 208, "await-leader",
        "No data directory, and nobody to copy.",
        "Wait for a leader.";
    Reinitialize = 209, "reinitialize",
        "An operator asked for a new copy of this member, and another one leads.",
        "What only this member has is reported; the data directory is emptied and filled anew.";
    CopyAgain = 211, "copy-again",
        "The local WAL left the source's history and pg_rewind can't help, or the source has \
         dropped the WAL that comes next; and the configuration lets the data directory be \
         removed, or a rejoin is open.",
        "What would be lost is reported and kept; the directory is emptied and filled anew.";
    RewindInterrupted = 212, "rewind-interrupted",
        "pg_rewind was stopped half-way, and the configuration does not let the directory be \
         removed.",
        "Nothing is touched and the leader key is released; an operator reinitialises the member.";
    CopyWithoutLeader = 213, "copy-without-leader",
        "No data directory and no leader, and a method of create_replica_methods needs none.",
        "That method fills the directory.";
    TakeOver = 214, "take-over",
        "There is no cluster in the DCS, and PostgreSQL ran as a primary before the agent started.",
        "The leader key is taken, unless another member is a primary too; the cluster begins here.";
    NotAdopted = 215, "not-adopted",
        "There is no cluster in the DCS, and PostgreSQL ran before the agent started as a replica, \
         or where no cluster may begin.",
        "The agent ends with exit code 1; PostgreSQL stays as it is.";
    GuardMissing = 216, "guard-missing",
        "PostgreSQL runs and was not started by an agent, so no guard could stop it in time.",
        "It is restarted under its guard.";
    StartPause = 217, "start-pause",
        "PostgreSQL has ended before it came up, or soon after.",
        "It is started again after a pause that grows, to 30 s at most; the reason that its log \
         gives is said.";
    CopySlots = 230, "copy-slots",
        "A standby lacks permanent logical slots that the leader has.",
        "Their files are copied while PostgreSQL is restarted.";
    StandbySwitchover = 231, "standby-switchover",
        "A switchover inside a standby cluster is asked for and its candidate is ready.",
        "The leader key is released; PostgreSQL goes on replicating.";
    AwaitSlotCopy = 232, "await-slot-copy",
        "A standby lacks permanent logical slots, and others may be restarting to copy them.",
        "It says so in its member key, and waits until it is the only one that does.";
    ObserverWait = 300, "observer-wait",
        "The leader key is gone, and its last beat is younger than its TTL by this node's clock.",
        "Wait: the key's absence is no proof that the leader has stopped.";
    AskPeers = 301, "ask-peers",
        "There is no leader.",
        "The other members are asked where they stand.";
    NotEligible = 302, "not-eligible",
        "There is no leader, and this node must not become it.",
        "Wait for a better one.";
    Acquire = 303, "acquire",
        "There is no leader, and nobody is known to be better.",
        "The leader key is taken by compare-and-set.";
    AwaitCandidate = 304, "await-candidate",
        "A switchover names another member as candidate.",
        "Stand back for it.";
    AcquireEmpty = 305, "acquire-empty",
        "A new cluster: no data, no leader.",
        "The leader key is taken; its holder begins the cluster.";
    AwaitVotes = 306, "await-votes",
        "There is no leader, and too few of the members that `/sync` names answer with no more WAL \
         than this node.",
        "Wait for them: the others may have what was acknowledged.";
    PrimaryAlive = 307, "primary-alive",
        "There is no leader, and a member still accepts writes, or another one has just seen it.",
        "Nobody takes the key.";
    PrimaryLost = 308, "primary-lost",
        "The leader key is another node's, its last beat is older than the time that it names \
         (primary_lost_timeout), and nobody is known to be better.",
        "The key is replaced by compare-and-set over that beat.";
}

impl Rule {
    fn row(self) -> &'static Row {
        // Every variant has its row: the macro makes both from one line.
        ROWS.iter().find(|row| row.rule == self).unwrap_or(&ROWS[0])
    }

    /// The stable number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.row().number
    }

    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Every rule, in the order of the numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.rule)
    }
}

/// `docs/rules.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Rules of the node-agent\n\n\
         Each pass of the agent ends with one rule. Its number is in the log line, in\n\
         `GET /patroni` (`rule`) and in the member key (`why`). Numbers are never reused. \
         This page is made from\n\
         `node-agent/core/src/rule.rs`; a test compares them.\n\n\
         | rule | name | when | then |\n|---|---|---|---|\n",
    );
    for row in ROWS {
        text.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            row.number, row.name, row.when, row.then
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_unique_and_ascend() {
        let numbers: Vec<u32> = Rule::all().map(Rule::number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let names: BTreeSet<&str> = Rule::all().map(Rule::name).collect();
        assert_eq!(names.len(), numbers.len());
    }
}
