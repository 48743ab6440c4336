//! What a member has promised to others for the time without the DCS (failsafe mode).
//!
//! Two promises exclude each other, and one lock holds both:
//! - to a **leader** that has lost the DCS and asks: not to take its place for a TTL from now;
//! - to a **candidate** that can read the DCS: not to accept that leader any more. It is a vote
//!   against the beat that the candidate saw last, and holds for ever: a leader that is still
//!   there makes a newer beat as soon as it reaches the DCS again.
//!
//! The argument is in docs/federation-safety.md ("Without the DCS").

use crate::time::Boot;
use node_agent_wire::dynamic::FailsafeMode;
use node_agent_wire::{MemberName, Revision};
use std::time::Duration;

/// A leader that has lost the DCS asks a member to leave it in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The leader.
    pub leader: MemberName,
    /// The revision of its last beat that it knows to be committed; not said by Patroni.
    pub beat: Option<Revision>,
    /// The TTL that it counts with; not said by Patroni.
    pub ttl: Option<Duration>,
    /// A majority of the members is enough for it.
    pub majority: bool,
}

/// How long a candidate may take from a vote to the key: the votes' own age, and four calls to the
/// DCS of a quarter of the TTL each, with as much again for good measure.
#[must_use]
pub fn settling(ttl: Duration) -> Duration {
    ttl * 2 + crate::failsafe::VOTES_AGE_MAX
}

/// What the asked member knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The mode of its last configuration.
    pub mode: FailsafeMode,
    /// The TTL of its last configuration.
    pub ttl: Duration,
    /// Its PostgreSQL accepts writes, or may.
    pub writes: bool,
    /// Its agent has read the DCS when it had run for [`settling`] already: whoever had its vote
    /// from before a restart has won or given up by then, and is seen if it won.
    pub settled: bool,
    /// The last beat that it saw in the DCS: by whom, and its revision.
    pub newest: Option<(MemberName, Revision)>,
}

/// Why a leader is not left in place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// Failsafe mode is off.
    #[error("Failsafe mode is disabled")]
    Off,
    /// This member leads, or is about to.
    #[error("Running as a leader")]
    Leads,
    /// It has voted for a candidate against that leader's last beat.
    #[error("{0} was given this member's vote")]
    Voted(MemberName),
    /// Another leader has beaten since.
    #[error("{0} has led since")]
    Superseded(MemberName),
    /// The agent was started too lately to know.
    #[error("this agent was started lately and has not read the DCS since")]
    Unsettled,
}

/// Why a candidate gets no vote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotVoted {
    /// This member leads, is about to, or has not stopped yet.
    #[error("this member leads, is about to, or has not stopped yet")]
    Races,
    /// It has accepted a leader.
    #[error("{0} leads without the DCS, and this member has agreed")]
    Promised(MemberName),
    /// Its agent was started lately, and may have accepted a leader before.
    #[error("this agent was started lately, and may have agreed to a leader before")]
    StartedLately,
}

/// A leader was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Whom.
    pub leader: MemberName,
    /// This member does not take its place before this moment.
    pub until: Boot,
}

/// A candidate was given the vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Who.
    pub candidate: MemberName,
    /// Against every beat up to this one.
    pub beat: Revision,
}

/// The promises of one member. All of its methods are called under one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    /// The last promise to a leader.
    pub given: Option<Promise>,
    /// The last vote.
    pub vote: Option<Vote>,
    /// This member is about to take the leader key.
    pub racing: bool,
    /// It holds the right to lead.
    pub leads: bool,
}

impl Promises {
    /// A leader asks. The promise begins now, which is after the leader sent its question.
    ///
    /// # Errors
    /// Why this member does not agree.
    pub fn accept(
        &mut self,
        now: Boot,
        ping: &Ping,
        receiver: &Receiver,
    ) -> Result<Boot, NotAccepted> {
        if self.racing || self.leads || receiver.writes {
            return Err(NotAccepted::Leads);
        }
        if receiver.mode == FailsafeMode::Off {
            return Err(NotAccepted::Off);
        }
        if ping.majority && !receiver.settled {
            return Err(NotAccepted::Unsettled);
        }
        if let Some(beat) = ping.beat {
            if let Some(vote) = self.vote.as_ref().filter(|vote| beat <= vote.beat) {
                return Err(NotAccepted::Voted(vote.candidate.clone()));
            }
            if let Some((leader, newest)) = &receiver.newest
                && *leader != ping.leader
                && *newest > beat
            {
                return Err(NotAccepted::Superseded(leader.clone()));
            }
        }
        let until = now + ping.ttl.unwrap_or_default().max(receiver.ttl);
        // An earlier promise, to whomever, is kept too.
        let until = self.given.as_ref().map_or(until, |given| given.until.max(until));
        self.given = Some(Promise { leader: ping.leader.clone(), until });
        Ok(until)
    }

    /// A candidate asks for a vote against the last beat that it saw. `from`: a TTL after this
    /// agent's start, when whatever it promised in an earlier life is over. A leader that has lost
    /// its right gives none before it has stopped: others may have prolonged that right beyond its
    /// last beat, and the candidate counts from that beat.
    ///
    /// # Errors
    /// What stands against it.
    pub fn vote(
        &mut self,
        now: Boot,
        candidate: &MemberName,
        beat: Revision,
        from: Boot,
        receiver: &Receiver,
    ) -> Result<(), NotVoted> {
        if self.racing || self.leads || receiver.writes {
            return Err(NotVoted::Races);
        }
        if let Some(promise) = self.active(now) {
            return Err(NotVoted::Promised(promise.leader.clone()));
        }
        if now < from {
            return Err(NotVoted::StartedLately);
        }
        if self.vote.as_ref().is_none_or(|vote| vote.beat <= beat) {
            self.vote = Some(Vote { candidate: candidate.clone(), beat });
        }
        Ok(())
    }

    /// This member is about to take the leader key: from here on nobody is accepted.
    ///
    /// # Errors
    /// The promise that forbids it.
    pub fn begin_race(
        &mut self,
        now: Boot,
        me: &MemberName,
        beat: Revision,
    ) -> Result<(), Promise> {
        if let Some(promise) = self.active(now) {
            return Err(promise.clone());
        }
        self.racing = true;
        if self.vote.as_ref().is_none_or(|vote| vote.beat <= beat) {
            self.vote = Some(Vote { candidate: me.clone(), beat });
        }
        Ok(())
    }

    /// The attempt is over. Without a clear answer of the DCS the key may be this member's all the
    /// same; it counts only once it is taken again, which asks here again.
    pub fn end_race(&mut self, won: bool) {
        self.racing = false;
        self.leads = won;
    }

    /// Whether this member holds the right to lead.
    pub fn set_leads(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// The promise that holds now.
    #[must_use]
    pub fn active(&self, now: Boot) -> Option<&Promise> {
        self.given.as_ref().filter(|given| now < given.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);
    const NOW: Boot = Boot(1_000_000_000_000);

    fn ping(beat: i64) -> Ping {
        Ping { leader: "a".into(), beat: Some(Revision(beat)), ttl: Some(TTL), majority: true }
    }

    fn receiver() -> Receiver {
        let newest = Some(("a".into(), Revision(7)));
        Receiver { mode: FailsafeMode::All, ttl: TTL, writes: false, settled: true, newest }
    }

    #[test]
    fn who_is_accepted() {
        type Change = fn(&mut Ping, &mut Receiver);
        let rows: [(Change, Result<Boot, NotAccepted>); 8] = [
            (|_, _| {}, Ok(NOW + TTL)),
            (|p, _| p.ttl = Some(TTL * 2), Ok(NOW + TTL * 2)),
            (|p, _| (p.ttl, p.beat) = (None, None), Ok(NOW + TTL)),
            (|_, r| r.mode = FailsafeMode::Off, Err(NotAccepted::Off)),
            (|_, r| r.writes = true, Err(NotAccepted::Leads)),
            (|_, r| r.settled = false, Err(NotAccepted::Unsettled)),
            (|p, r| (p.majority, r.settled) = (false, false), Ok(NOW + TTL)),
            (
                |_, r| r.newest = Some(("b".into(), Revision(8))),
                Err(NotAccepted::Superseded("b".into())),
            ),
        ];
        for (number, (change, expected)) in rows.into_iter().enumerate() {
            let (mut ping, mut receiver) = (ping(7), receiver());
            change(&mut ping, &mut receiver);
            let got = Promises::default().accept(NOW, &ping, &receiver);
            assert_eq!(got, expected, "row {number}");
        }
    }

    #[test]
    fn a_promise_forbids_the_race_and_the_vote_until_it_is_over() {
        let mut promises = Promises::default();
        let until = promises.accept(NOW, &ping(7), &receiver()).expect("accepted");
        let last = until - Duration::from_nanos(1);
        assert!(promises.vote(last, &"c".into(), Revision(7), NOW, &receiver()).is_err());
        assert!(promises.begin_race(last, &"b".into(), Revision(7)).is_err());
        assert_eq!(promises.begin_race(until, &"b".into(), Revision(7)), Ok(()));
        // A shorter promise to another leader does not end the longer one.
        let mut short = ping(9);
        (short.ttl, short.leader) = (None, "c".into());
        let mut kept = Promises::default();
        let mut long = ping(8);
        long.ttl = Some(TTL * 3);
        kept.accept(NOW, &long, &receiver()).expect("accepted");
        assert_eq!(kept.accept(NOW, &short, &receiver()), Ok(NOW + TTL * 3));
    }

    #[test]
    fn a_vote_holds_against_that_beat_for_ever_and_not_against_a_later_one() {
        let mut promises = Promises::default();
        assert_eq!(promises.vote(NOW, &"c".into(), Revision(7), NOW, &receiver()), Ok(()));
        let much_later = NOW + TTL * 1000;
        let refused = promises.accept(much_later, &ping(7), &receiver());
        assert_eq!(refused, Err(NotAccepted::Voted("c".into())));
        // An older vote does not take its place.
        assert_eq!(promises.vote(NOW, &"d".into(), Revision(3), NOW, &receiver()), Ok(()));
        assert!(promises.accept(much_later, &ping(7), &receiver()).is_err());
        assert!(promises.accept(much_later, &ping(8), &receiver()).is_ok());
    }

    #[test]
    fn an_agent_that_was_started_lately_gives_no_vote() {
        let from = NOW + TTL;
        let to = "c".into();
        let vote = |at| Promises::default().vote(at, &to, Revision(7), from, &receiver());
        assert_eq!(vote(from - Duration::from_nanos(1)), Err(NotVoted::StartedLately));
        assert_eq!(vote(from), Ok(()));
    }

    #[test]
    fn nobody_is_accepted_during_the_race_and_by_its_winner() {
        let mut promises = Promises::default();
        promises.begin_race(NOW, &"b".into(), Revision(7)).expect("no promise");
        let leads = Err(NotAccepted::Leads);
        assert_eq!(promises.accept(NOW, &ping(9), &receiver()), leads);
        let refused = promises.vote(NOW, &"c".into(), Revision(9), NOW, &receiver());
        assert_eq!(refused, Err(NotVoted::Races));
        promises.end_race(true);
        assert_eq!(promises.accept(NOW, &ping(9), &receiver()), leads);
        promises.set_leads(false);
        assert!(promises.accept(NOW, &ping(9), &receiver()).is_ok());
    }

    #[test]
    fn a_leader_that_has_lost_its_right_gives_no_vote_before_it_has_stopped() {
        let mut promises = Promises::default();
        promises.set_leads(true);
        promises.set_leads(false);
        let mut vote = |writes| {
            let receiver = Receiver { writes, ..receiver() };
            promises.vote(NOW, &"c".into(), Revision(7), NOW, &receiver)
        };
        assert_eq!(vote(true), Err(NotVoted::Races));
        assert_eq!(vote(false), Ok(()));
    }
}
