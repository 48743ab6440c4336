//! `federator approve HASH`, and what `federator promote` has to do with approvals.

use super::consent::{self, Needed};
use super::{Exit, Session};
use crate::approvals::{self, StoreError};
use crate::clock::{moment, now_us};
use crate::concurrent::{Local, all};
use crate::render;
use crate::signing::sha256;
use federator_core::approval::{self, LossBound, Proposal, ProposedEvidence, Requested};
use federator_core::loss::MaxLoss;
use federator_core::plan::Plan;
use node_agent_wire::DcName;
use node_agent_wire::approval::Approval;
use node_agent_wire::federation::Policies;

/// `federator approve HASH`.
pub(super) async fn run(session: &Session, hash: &str) -> Exit {
    let Some(by) = session.named() else {
        eprintln!("error: an approval needs the name of who gives it");
        eprintln!("hint: add --by NAME");
        return Exit::Usage;
    };
    let reads: Vec<Local<'_, _>> = session
        .federation
        .dcs
        .iter()
        .map(|(dc, dcs)| -> Local<'_, _> {
            Box::pin(async move { (dc, approvals::read(dcs).await) })
        })
        .collect();
    let mut answered = false;
    let mut found = Vec::new();
    for (dc, result) in all(reads).await {
        match result {
            Ok(list) => {
                answered = true;
                found.push((dc, list));
            }
            Err(error) => eprintln!("warning: {error}"),
        }
    }
    if !answered {
        eprintln!("error: no datacenter answered");
        return Exit::Failed;
    }
    let Some((dc, list)) = found.into_iter().find(|(_, list)| approval::find(list, hash).is_ok())
    else {
        eprintln!("refused: no datacenter that answers holds one request that begins with {hash}");
        eprintln!("hint: who asks types: federator promote DC … --request; it prints the hash");
        return Exit::Refused;
    };
    // The same rules as in the store, before anybody is asked.
    let checked = approval::approve(&list, hash, &by, now_us());
    let request = match (approval::find(&list, hash), checked) {
        (Ok(request), Ok(_)) => request,
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("refused: {error}");
            eprintln!("Nothing was changed.");
            return Exit::Refused;
        }
    };
    if sha256(&request.proposal.canonical()) != request.hash {
        eprintln!("refused: the stored request is not what its hash says; ask for it again");
        return Exit::Refused;
    }
    print!("{}", words(request));
    if session.common.dry_run {
        println!("Dry run: nothing was changed.");
        return Exit::Done;
    }
    if let Err(exit) = consent::ask(session, Needed::Yes) {
        return exit;
    }
    store(session, dc, (&request.hash, &by), &request.proposal).await
}

async fn store(
    session: &Session,
    dc: &DcName,
    (hash, by): (&str, &str),
    proposal: &Proposal,
) -> Exit {
    let dcs = match session.federation.dcs(dc) {
        Ok(dcs) => dcs,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Failed;
        }
    };
    match approvals::update(dcs, |list| approval::approve(list, hash, by, now_us())).await {
        Ok(()) => {
            println!("Approved by {by}, for an hour. {} goes on with:", proposal.by);
            println!("    federator promote {dc}, with the same options, without --request");
            Exit::Done
        }
        Err(error) => not_stored(&error),
    }
}

fn not_stored(error: &StoreError) -> Exit {
    match error {
        StoreError::Approval(why) => {
            eprintln!("refused: {why}");
            Exit::Refused
        }
        StoreError::Update(why) => {
            eprintln!("error: {why}");
            Exit::Failed
        }
    }
}

/// What an approver reads.
fn words(request: &Requested) -> String {
    let proposal = &request.proposal;
    let mut lines = vec![
        format!("Request {}", request.hash),
        format!("  asked by   {}, {}", proposal.by, moment(request.at_us)),
        format!(
            "  promotion  of {} in place of {}, epoch {}, federation {}",
            proposal.to,
            proposal.from.as_ref().map_or("-", |dc| dc.as_str()),
            proposal.next_epoch,
            proposal.federation
        ),
        format!("  policy     {}", proposal.policy),
    ];
    lines.extend(proposal.evidence.iter().map(|one| format!("  evidence   {}", evidence(one))));
    lines.push(format!("  may lose   {}", bound(proposal.loss)));
    lines.push(format!("  steps      {}", proposal.steps.join(", ")));
    if proposal.force {
        lines.push("  --force    checks are overridden".into());
    }
    lines.join("\n") + "\n"
}

fn evidence(one: &ProposedEvidence) -> String {
    match one {
        ProposedEvidence::Acknowledged { stopped } => format!("acknowledged: {stopped}"),
        ProposedEvidence::LeaseExpired => "lease-expired".into(),
        ProposedEvidence::FencedByHook => {
            "fenced-by-hook, once the fencer has exited with 0".into()
        }
        ProposedEvidence::Attested { by, reason } => format!("attested by {by}: {reason}"),
    }
}

fn bound(loss: LossBound) -> String {
    if loss == (LossBound { bytes: Some(0), seconds: Some(0) }) {
        return "nothing".into();
    }
    let bytes = loss.bytes.map_or("an unknown number of bytes".into(), |bytes| {
        format!("at most {}", render::bytes(bytes))
    });
    let seconds = loss
        .seconds
        .map_or("an unknown time".into(), |seconds| format!("at most the last {seconds} s"));
    format!("{bytes}, {seconds}")
}

/// What a promotion asks for.
pub(super) struct Asked<'a> {
    pub(super) session: &'a Session,
    pub(super) plan: &'a Plan,
    /// Of the target's record.
    pub(super) policies: &'a Policies,
    pub(super) max_loss: Option<MaxLoss>,
}

impl Asked<'_> {
    fn proposal(&self) -> Proposal {
        let loss = match (&self.plan.expected_loss, self.max_loss) {
            (Some(estimate), Some(max)) => LossBound::stated(max, estimate),
            (Some(estimate), None) => LossBound::around(estimate),
            (None, _) => LossBound { bytes: None, seconds: None },
        };
        let name = &self.session.federation.settings.federation;
        Proposal::of(self.plan, name, self.policies, (self.session.common.force, loss))
    }

    /// `--request`: stores the proposal and prints its hash.
    pub(super) async fn store(&self) -> Exit {
        if self.policies.approvals == 0 {
            eprintln!("refused: policies.approvals is 0 in the record: no approval is needed");
            return Exit::Refused;
        }
        let proposal = self.proposal();
        let hash = sha256(&proposal.canonical());
        let new =
            Requested { hash: hash.clone(), proposal, at_us: now_us(), approvals: Vec::new() };
        print!("{}", words(&new));
        if self.session.common.dry_run {
            println!("Dry run: nothing was changed.");
            return Exit::Done;
        }
        let dcs = match self.session.federation.dcs(&self.plan.to) {
            Ok(dcs) => dcs,
            Err(error) => {
                eprintln!("error: {error}");
                return Exit::Failed;
            }
        };
        if let Err(error) =
            approvals::update(dcs, |list| Ok(approval::request(list, new.clone()))).await
        {
            return not_stored(&error);
        }
        println!("Nothing was promoted. Somebody else types:");
        println!("    federator approve {hash} --by NAME");
        Exit::Done
    }

    /// The approvals that the policy asks for; none where it asks for none.
    pub(super) async fn granted(&self) -> Result<Vec<Approval>, Exit> {
        let needed = self.policies.approvals;
        if needed == 0 {
            return Ok(Vec::new());
        }
        let list = match self.session.federation.dcs(&self.plan.to) {
            Ok(dcs) => approvals::read(dcs).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let list = list.map_err(|why| {
            eprintln!("error: {why}");
            Exit::Failed
        })?;
        let (now, estimate) = (self.proposal(), self.plan.expected_loss.as_ref());
        let unknown = federator_core::loss::estimate(None, None, now.next_epoch, 0);
        let estimate = estimate.unwrap_or(&unknown);
        let granted = approval::granted(&list, &now, (estimate, needed), now_us(), sha256);
        match granted {
            Ok(approvals) => {
                let names: Vec<&str> = approvals.iter().map(|one| one.by.as_str()).collect();
                println!("  ok       approval           by {}", names.join(", "));
                Ok(approvals)
            }
            Err(why) if self.session.common.dry_run => {
                println!("  warning  approval           missing: {}", why.join("; "));
                Ok(Vec::new())
            }
            Err(why) => {
                eprintln!(
                    "refused: it must be approved by somebody else than {} ({needed} needed)",
                    now.by
                );
                why.iter().for_each(|line| eprintln!("detail: {line}"));
                eprintln!(
                    "hint: the same command with --request; then somebody else: federator approve \
                     HASH --by NAME"
                );
                eprintln!("Nothing was changed.");
                Err(Exit::Refused)
            }
        }
    }
}
