//! Connections to agents over gRPC: mTLS when certificates are configured, plain only to loopback.

use crate::concurrent::within;
use crate::settings::Tls;
use federator_core::discarded::DiscardedWal;
use federator_core::grants::{GrantsView, SeatView};
use federator_core::inventory::{LogicalSlot, NodeView, SlotKind, SlotView};
use federator_core::quote::{Examination, Fate};
use node_agent_wire::member::split_host_port;
use node_agent_wire::position::Consumer;
use node_agent_wire::proto::agent_client::AgentClient;
use node_agent_wire::proto::{
    CheckpointRequest, ExamineRequest, FenceRequest, NodeStatus, PromoteRequest, Slot,
    StatusRequest,
};
use node_agent_wire::{Epoch, Lsn, OperationId, TimelineId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// How long connecting may take.
pub const CONNECT_LIMIT: Duration = Duration::from_millis(1000);
/// How long an answer to a status request may take.
pub const STATUS_LIMIT: Duration = Duration::from_millis(1000);
/// What an agent gets beyond the deadline that it was told, to say that it passed.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// An agent that could not be asked, or refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The address is not one.
    #[error("\"{0}\" is not the address of an agent")]
    Address(String),
    /// Without certificates nothing leaves the host.
    #[error("{0} is not a loopback address, and no certificates are configured (section tls)")]
    PlainNotLoopback(String),
    /// The certificates can't be used.
    #[error("the certificates can't be used for {address}: {why}")]
    Tls {
        /// Where to.
        address: String,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("the agent at {address} gave no answer: {why}")]
    Silent {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// It refused.
    #[error("the agent at {address} refused: {why}")]
    Refused {
        /// Where.
        address: String,
        /// Its words.
        why: String,
    },
}

/// The connections, kept open for the life of the command.
pub struct Links {
    tls: Option<(Certificate, Identity)>,
    open: RefCell<BTreeMap<String, AgentClient<Channel>>>,
}

impl Links {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn new(tls: Option<&Tls>) -> Result<Self, LinkError> {
        let read = |path: &std::path::Path| {
            std::fs::read(path).map_err(|error| LinkError::Tls {
                address: "any agent".into(),
                why: format!("{}: {error}", path.display()),
            })
        };
        let tls = match tls {
            None => None,
            Some(tls) => Some((
                Certificate::from_pem(read(&tls.cafile)?),
                Identity::from_pem(read(&tls.certfile)?, read(&tls.keyfile)?),
            )),
        };
        Ok(Self { tls, open: RefCell::default() })
    }

    fn client(&self, address: &str) -> Result<AgentClient<Channel>, LinkError> {
        if let Some(client) = self.open.borrow().get(address) {
            return Ok(client.clone());
        }
        let bad = || LinkError::Address(address.to_owned());
        let (host, _) = split_host_port(address, 0).ok_or_else(bad)?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint =
            Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| bad())?;
        endpoint = endpoint
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(2))
            .tcp_nodelay(true);
        match &self.tls {
            Some((ca, identity)) => {
                let config = ClientTlsConfig::new()
                    .ca_certificate(ca.clone())
                    .identity(identity.clone())
                    .domain_name(host);
                endpoint = endpoint.tls_config(config).map_err(|error| LinkError::Tls {
                    address: address.to_owned(),
                    why: error.to_string(),
                })?;
            }
            None if !loopback(&host) => {
                return Err(LinkError::PlainNotLoopback(address.to_owned()));
            }
            None => {}
        }
        let client = AgentClient::new(endpoint.connect_lazy());
        self.open.borrow_mut().insert(address.to_owned(), client.clone());
        Ok(client)
    }

    async fn ask<T>(
        &self,
        address: &str,
        limit: Duration,
        call: impl AsyncFnOnce(AgentClient<Channel>) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, LinkError> {
        let client = self.client(address)?;
        match within(limit, "the answer", call(client)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(refusal(address, &status)),
            Err(late) => {
                Err(LinkError::Silent { address: address.to_owned(), why: late.to_string() })
            }
        }
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// No answer.
    pub async fn status(&self, address: &str) -> Result<NodeView, LinkError> {
        let status = self
            .ask(address, STATUS_LIMIT, async |mut client| client.status(StatusRequest {}).await)
            .await?;
        Ok(node_view(status))
    }

    /// Asks the agent to act on the fence now; answers when the demotion is acknowledged.
    ///
    /// # Errors
    /// No answer in time, or refused.
    pub async fn fence(
        &self,
        address: &str,
        epoch: Epoch,
        operation: &OperationId,
        limit: Duration,
    ) -> Result<(), LinkError> {
        let request = FenceRequest {
            epoch: epoch.0,
            operation: operation.to_string(),
            deadline_ms: milliseconds(limit),
        };
        self.ask(address, limit + ANSWER_MARGIN, async |mut client| client.fence(request).await)
            .await
            .map(|_| ())
    }

    /// Asks the agent to promote now; answers when PostgreSQL accepts writes.
    ///
    /// # Errors
    /// No answer in time, or refused.
    pub async fn promote(
        &self,
        address: &str,
        epoch: Epoch,
        operation: &OperationId,
        limit: Duration,
    ) -> Result<TimelineId, LinkError> {
        let request = PromoteRequest {
            epoch: epoch.0,
            operation: operation.to_string(),
            deadline_ms: milliseconds(limit),
        };
        let reply = self
            .ask(address, limit + ANSWER_MARGIN, async |mut client| client.promote(request).await)
            .await?;
        Ok(TimelineId(reply.timeline))
    }

    /// A checkpoint, or a restartpoint on a standby; its duration by the agent's clock.
    ///
    /// # Errors
    /// No answer in time, or refused.
    pub async fn checkpoint(&self, address: &str, limit: Duration) -> Result<Duration, LinkError> {
        let request = CheckpointRequest { deadline_ms: milliseconds(limit) };
        let reply = self
            .ask(address, limit + ANSWER_MARGIN, async |mut client| {
                client.checkpoint(request).await
            })
            .await?;
        Ok(Duration::from_millis(u64::from(reply.duration_ms)))
    }

    /// What following one of `hosts` (host:port) would do to the node's data directory; without
    /// hosts how large that is. Changes nothing. Each question of the agent's own gets a quarter
    /// of `limit`.
    ///
    /// # Errors
    /// No answer in time, or refused.
    pub async fn examine(
        &self,
        address: &str,
        hosts: Vec<String>,
        limit: Duration,
    ) -> Result<Examination, LinkError> {
        let request = ExamineRequest { hosts, deadline_ms: milliseconds(limit / 4) };
        let found =
            self.ask(address, limit, async |mut client| client.examine(request).await).await?;
        Ok(examination(found))
    }
}

fn examination(found: node_agent_wire::proto::Examination) -> Examination {
    let timeline = TimelineId(found.fork_timeline);
    Examination {
        fate: Fate::named(&found.verdict),
        why: found.why,
        fork: found.fork.map(|fork| (timeline, Lsn(fork))),
        end: Lsn(found.end),
        rewind_bytes: found.rewind_bytes,
        rewind_bytes_max: found.rewind_bytes_max,
        bytes_unknown: found.bytes_unknown,
        data_bytes: found.data_bytes,
        needs_primary: found.needs_primary,
        copy_methods: found.copy_methods,
    }
}

fn milliseconds(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)
}

fn loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Transport trouble is silence; any other answer is the agent's own word.
fn refusal(address: &str, status: &tonic::Status) -> LinkError {
    let address = address.to_owned();
    let mut why = status.message().to_owned();
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
        why = inner.to_string();
    }
    if status.code() == tonic::Code::Unimplemented {
        why = "it does not know this question; is it of an older version?".to_owned();
    }
    let silence = [tonic::Code::Unavailable, tonic::Code::DeadlineExceeded, tonic::Code::Cancelled];
    if silence.contains(&status.code()) {
        LinkError::Silent { address, why }
    } else {
        LinkError::Refused { address, why }
    }
}

fn node_view(status: NodeStatus) -> NodeView {
    let slots = status
        .slots
        .into_iter()
        .map(|slot| {
            let kind = slot_kind(&slot);
            let restart_lsn = Lsn(slot.restart_lsn);
            let (active, wal_status) = (slot.active, slot.wal_status);
            (slot.name, SlotView { active, wal_status, restart_lsn, kind })
        })
        .collect();
    NodeView {
        role: status.role,
        state: status.state,
        writable: status.writable,
        holds_leader_key: status.holds_leader_key,
        timeline: TimelineId(status.timeline),
        lsn: Lsn(status.lsn),
        replay_lsn: Lsn(status.replay_lsn),
        replication_state: status.replication_state,
        replay_paused: status.replay_paused,
        rule: status.rule,
        why: status.why,
        epoch: Epoch(status.epoch),
        fenced: status.fenced,
        system_id: node_agent_wire::SystemId::new(status.system_id),
        server_version: status.server_version,
        sync_standby: status.sync_standby,
        slots,
        replayed_commit_at_us: status.replayed_commit_at_us,
        replication_user: status.replication_user,
        copy_done_bytes: status.copy_done_bytes,
        copy_total_bytes: status.copy_total_bytes,
        discarded: status.discarded.map(|wal| DiscardedWal {
            fork: Lsn(wal.fork),
            timeline: TimelineId(wal.timeline),
            bytes: wal.bytes,
            transactions: wal.transactions,
            first_commit: wal.first_commit,
            last_commit: wal.last_commit,
            relations: wal.relations,
            relations_not_listed: wal.relations_not_listed,
            complete: wal.complete,
            kept_in: wal.kept_in,
            report: wal.report,
        }),
        wal_free_bytes: status.wal_free_bytes,
        slot_wal_limit_bytes: status.slot_wal_limit_bytes,
        grants: status.grants.map(grants_view),
    }
}

fn slot_kind(slot: &Slot) -> SlotKind {
    match slot.kind.as_str() {
        "physical" => SlotKind::Physical,
        "logical" => SlotKind::Logical(LogicalSlot {
            consumer: Consumer {
                confirmed: slot.confirmed_flush_lsn.map(Lsn),
                database: slot.database.clone(),
                plugin: slot.plugin.clone(),
                failover: slot.failover,
                lost: (!slot.lost.is_empty()).then(|| slot.lost.clone()),
            },
            synced: slot.synced,
        }),
        _ => SlotKind::Untold,
    }
}

fn grants_view(grants: node_agent_wire::proto::Grants) -> GrantsView {
    let seat = |seat: node_agent_wire::proto::Seat| SeatView {
        voter: seat.voter,
        holder: seat.holder,
        epoch: Epoch(seat.epoch),
        free: seat.free,
        ours: seat.ours,
        quiet_ms: seat.quiet_ms,
        silent: seat.silent,
    };
    GrantsView {
        enforced: grants.enforced,
        epoch: (grants.epoch > 0).then_some(Epoch(grants.epoch)),
        left_ms: grants.left_ms,
        operation: grants.operation,
        claimable_in_ms: grants.claimable_in_ms,
        voters: grants.voters.into_iter().map(seat).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn plain_connections_stay_on_loopback() {
        let links = Links::new(None).unwrap();
        for (address, allowed) in [
            ("127.20.1.10:8009", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:8009", false),
            ("db.example:8009", false),
        ] {
            let result = links.client(address).map(|_| ());
            let refused = matches!(result, Err(LinkError::PlainNotLoopback(_)));
            assert_eq!(!refused, allowed, "{address}: {result:?}");
        }
        assert!(matches!(links.client(""), Err(LinkError::Address(_))));
    }
}
