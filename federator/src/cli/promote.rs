//! `federator promote DC`.

use super::operation::{carry_out, request};
use super::{Exit, Session};
use crate::collect::{Depth, collect};
use crate::settings;
use federator_core::loss::MaxLoss;
use federator_core::planner::promotion::{self, Intent};
use node_agent_wire::DcName;

pub(super) async fn run(
    session: &Session,
    dc: &DcName,
    attest: Option<String>,
    max_loss: Option<String>,
) -> Exit {
    let max_loss = match max_loss.map(|text| bound(&text).map(|bound| (bound, text))).transpose() {
        Ok(max_loss) => max_loss,
        Err(why) => {
            eprintln!("error: --max-loss: {why}");
            return Exit::Usage;
        }
    };
    if attest.is_some() && session.named().is_none() {
        eprintln!("error: an attestation needs the name of who gives it");
        eprintln!("hint: add --by NAME");
        return Exit::Usage;
    }
    let inventory = collect(&session.federation, Depth::Status, None).await;
    let intent = Intent { attest, max_loss };
    let answer = promotion::plan(&inventory, dc, &intent, &request(session));
    carry_out(session, inventory, answer).await
}

/// Bytes as in 64MB, or a duration as in 30s.
fn bound(text: &str) -> Result<MaxLoss, String> {
    if let Ok(count) = settings::bytes(text) {
        return Ok(MaxLoss::Bytes(count));
    }
    match humantime::parse_duration(text) {
        Ok(span) => Ok(MaxLoss::SpanUs(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))),
        Err(_) => Err(format!("\"{text}\" is neither bytes as in 64MB nor a duration as in 30s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(bound("8192"), Ok(MaxLoss::Bytes(8192)));
        assert_eq!(bound("1MB"), Ok(MaxLoss::Bytes(1 << 20)));
        assert_eq!(bound("30s"), Ok(MaxLoss::SpanUs(30_000_000)));
        assert!(bound("lots").is_err());
    }
}
