//! Failsafe mode between members: the promises of this one, and the questions to the others.
//!
//! What is decided is in `node_agent_core::failsafe` and `promise`; here are the lock around the
//! promises, which the REST API and the race for the leader key share, and the messages.

use crate::clock;
use crate::message::{Answer, Messenger};
use node_agent_core::failsafe::{Failsafe, Plan, Reply, Round, Votes};
use node_agent_core::observed::Observed;
use node_agent_core::promise::{
    NotAccepted, NotVoted, Ping, Promise, Promises, Receiver, settling,
};
use node_agent_core::time::{Boot, Fact};
use node_agent_wire::dynamic::FailsafeMode;
use node_agent_wire::failsafe::{ACCEPTED, FailsafePing, VoteRequest};
use node_agent_wire::{Lsn, MemberName, Revision, SlotName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest that a member may take to answer; less where the TTL is short.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The shortest that it is given.
const ANSWER_MIN: Duration = Duration::from_millis(300);

/// How long one round of asking may take.
#[must_use]
pub fn answer_max(ttl: Duration) -> Duration {
    (ttl / 6).clamp(ANSWER_MIN, ANSWER_MAX)
}

struct State {
    promises: Promises,
    receiver: Receiver,
    votes: Option<Votes>,
    /// What the leader that was accepted last said of its slots.
    told: BTreeMap<SlotName, Lsn>,
}

/// The promises of this member. Shared by the loop and the REST API.
pub struct Desk {
    started_at: Boot,
    state: Mutex<State>,
}

impl Desk {
    /// None given yet.
    #[must_use]
    pub fn new(started_at: Boot) -> Self {
        let receiver = Receiver {
            mode: FailsafeMode::Off,
            ttl: Duration::ZERO,
            writes: false,
            settled: false,
            newest: None,
        };
        let state =
            State { promises: Promises::default(), receiver, votes: None, told: BTreeMap::new() };
        Self { started_at, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every value is whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pass has found. `leads`: the keeper holds the right, or has not given it up yet, or
    /// PostgreSQL is being opened for writes.
    pub fn tell(&self, observed: &Observed, leads: bool) {
        let mut state = self.state();
        let ttl = observed.config.timing.ttl;
        state.promises.set_leads(leads);
        let receiver = &mut state.receiver;
        receiver.mode = observed.config.failsafe;
        receiver.ttl = ttl;
        receiver.writes = observed.postgres.may_write();
        if let Fact::Known { value: cluster, at } = &observed.cluster {
            receiver.settled |= *at >= self.started_at + settling(ttl);
            receiver.newest =
                cluster.position.as_ref().map(|p| (p.leader.clone(), cluster.position_revision));
        }
    }

    /// A leader without the DCS asks.
    ///
    /// # Errors
    /// Why this member does not agree.
    pub fn accept(&self, ping: &FailsafePing) -> Result<Boot, NotAccepted> {
        let slots = &ping.slots;
        let ping = Ping {
            leader: ping.name.clone(),
            beat: ping.beat,
            ttl: ping.ttl_ms.map(Duration::from_millis),
            majority: ping.majority,
        };
        let mut state = self.state();
        let receiver = state.receiver.clone();
        let before = state.promises.active(clock::boot()).is_some();
        let given = state.promises.accept(clock::boot(), &ping, &receiver);
        if given.is_ok() {
            let told = slots.iter().flatten();
            let slot = |(name, at): (&String, &u64)| Some((SlotName::parse(name)?, Lsn(*at)));
            state.told = told.filter_map(slot).collect();
        }
        if given.is_ok() && !before {
            tracing::warn!(leader = %ping.leader, "agreed that the leader goes on without the DCS");
        }
        given
    }

    /// A candidate asks for a vote.
    ///
    /// # Errors
    /// What stands against it.
    pub fn vote(&self, request: &VoteRequest) -> Result<(), NotVoted> {
        let mut state = self.state();
        let ttl = state.receiver.ttl.max(Duration::from_millis(request.ttl_ms));
        let from = self.started_at + ttl;
        let State { promises, receiver, .. } = &mut *state;
        promises.vote(clock::boot(), &request.candidate, request.beat, from, receiver)
    }

    /// This member is about to take the leader key.
    ///
    /// # Errors
    /// The promise that forbids it.
    pub fn begin_race(&self, me: &MemberName, beat: Revision) -> Result<(), Promise> {
        self.state().promises.begin_race(clock::boot(), me, beat)
    }

    /// The attempt is over.
    pub fn end_race(&self, won: bool) {
        self.state().promises.end_race(won);
    }

    /// The answers to a question for votes.
    pub fn voted(&self, votes: Votes) {
        self.state().votes = Some(votes);
    }

    /// For the next decision.
    #[must_use]
    pub fn facts(&self, round: Option<Round>) -> Failsafe {
        let state = self.state();
        let promise = state.promises.active(clock::boot()).cloned();
        Failsafe { round, promise, votes: state.votes.clone(), told: state.told.clone() }
    }
}

/// What a leader asks, and whom: told to the keeper with each pass.
#[derive(Clone, Debug)]
pub struct Question {
    /// What its beats say, and who must agree.
    pub plan: Plan,
    /// Addresses of the members' REST APIs.
    pub urls: BTreeMap<MemberName, String>,
    /// Members that stream from another one.
    pub cascading: BTreeSet<MemberName>,
    /// The body; the keeper adds beat and TTL.
    pub ping: FailsafePing,
}

/// Asks every other member of the plan at once.
pub async fn ask(
    messenger: &Messenger,
    me: &MemberName,
    question: &Question,
    ttl: Duration,
    beat: Option<Revision>,
) -> BTreeMap<MemberName, Reply> {
    let ping = FailsafePing {
        ttl_ms: u64::try_from(ttl.as_millis()).ok(),
        beat,
        majority: question.plan.terms.majority,
        ..question.ping.clone()
    };
    // Plain names and numbers always have a JSON form.
    let body = serde_json::to_vec(&ping).unwrap_or_default();
    let members = question.plan.terms.members.iter().filter(|name| *name != me);
    let answers = post_all(messenger, members, &question.urls, "failsafe", &body, answer_max(ttl));
    let reply = |answer: Result<Answer, String>| match answer {
        Ok(Answer { status: 200, text, lsn }) if text == ACCEPTED => {
            Reply::Accepted(lsn.filter(|lsn| *lsn > 0).map(Lsn))
        }
        Ok(Answer { status, text, .. }) => {
            Reply::Refused(format!("it answers {status}, {}", brief(&text)))
        }
        Err(why) => Reply::Refused(why),
    };
    answers.await.into_iter().map(|(name, answer)| (name, reply(answer))).collect()
}

/// Asks members for their votes against the beat of that revision.
pub async fn ask_votes(
    messenger: &Messenger,
    request: &VoteRequest,
    of: &BTreeSet<MemberName>,
    urls: &BTreeMap<MemberName, String>,
) -> Votes {
    let asked_at = clock::boot();
    let body = serde_json::to_vec(request).unwrap_or_default();
    let answers = post_all(messenger, of.iter(), urls, "vote", &body, ANSWER_MAX / 2).await;
    let mut granted = BTreeSet::new();
    for (name, answer) in answers {
        match answer {
            Ok(Answer { status: 200, .. }) => {
                granted.insert(name);
            }
            Ok(Answer { status, text, .. }) => {
                tracing::info!(member = %name, status, why = brief(&text), "it gives no vote");
            }
            Err(why) => tracing::info!(member = %name, why, "it gives no vote"),
        }
    }
    Votes { asked_at, beat: request.beat, granted }
}

type Answers = BTreeMap<MemberName, Result<Answer, String>>;

async fn post_all(
    messenger: &Messenger,
    members: impl Iterator<Item = &MemberName>,
    urls: &BTreeMap<MemberName, String>,
    leaf: &'static str,
    body: &[u8],
    deadline: Duration,
) -> Answers {
    let mut tasks = tokio::task::JoinSet::new();
    let mut answers = Answers::new();
    for name in members {
        let Some(url) = urls.get(name).cloned() else {
            answers.insert(name.clone(), Err("its address is not known".to_owned()));
            continue;
        };
        let (messenger, name, body) = (messenger.clone(), name.clone(), body.to_vec());
        tasks.spawn(async move {
            let answer = messenger.post(&url, leaf, body, deadline).await;
            (name, answer)
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((name, answer)) = done {
            answers.insert(name, answer);
        }
    }
    answers
}

/// The first line of an answer, not too much of it.
fn brief(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(100).collect()
}
