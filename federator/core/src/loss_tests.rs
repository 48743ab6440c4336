//! Goal: the estimate is never below the true loss. Method: arbitrary histories of a primary whose
//! WAL grows at no more than twice the published rate, watched with arbitrary delays and a skewed
//! clock.
use super::*;
use node_agent_wire::TimelineId;
use proptest::prelude::*;

fn position(lsn: u64, commit_at: Option<i64>, seen: Option<PrimarySeen>, rate: u64) -> Position {
    Position {
        leader: "pg1".into(),
        beat: 1,
        ttl_ms: 5000,
        released: false,
        unattended: false,
        epoch: Some(Epoch(1)),
        writable: false,
        lsn: Some(Lsn(lsn)),
        replay_lsn: Some(Lsn(lsn)),
        timeline: Some(TimelineId(1)),
        commit_at_us: commit_at,
        wrote_at_us: None,
        at_us: 0,
        wal_rate_max: rate,
        primary_seen: seen,
        link: None,
        failsafe: None,
        consumers: None,
    }
}

fn seen(lsn: u64, at_us: i64, seen_at_us: i64, rate: u64) -> PrimarySeen {
    PrimarySeen {
        dc: "dc1".into(),
        epoch: Epoch(1),
        lsn: Lsn(lsn),
        timeline: TimelineId(1),
        at_us,
        seen_at_us,
        wal_rate_max: rate,
        consumers: None,
    }
}

proptest! {
    #[test]
    fn the_estimate_bounds_the_true_loss(
        rate in 0u64..50_000_000,
        // Permille of the allowed growth that the primary used in each stretch.
        used in proptest::collection::vec(0u64..=1000, 1..40),
        stretch_us in 1_000i64..3_000_000,
        observed in 0usize..40,
        received in 0u64..=1000,
        read_delay_us in 0i64..5_000_000,
        skew_us in -10_000_000i64..10_000_000,
        dead_for_us in 0i64..60_000_000,
    ) {
        let mut lsn = vec![1_000_000_000u64];
        let per = u128::from(rate) * 2 * u128::try_from(stretch_us).unwrap();
        for share in &used {
            let grown = u64::try_from(per * u128::from(*share) / 1000 / 1_000_000).unwrap();
            lsn.push(lsn.last().unwrap() + grown);
        }
        let index = observed.min(lsn.len() - 1);
        let taken_at = i64::try_from(index).unwrap() * stretch_us;
        let end = *lsn.last().unwrap();
        let died_at = i64::try_from(lsn.len() - 1).unwrap() * stretch_us;
        let seen_at = taken_at + read_delay_us;
        let now = died_at.max(seen_at) + dead_for_us;
        // The target received some of the WAL and published that position.
        let own = lsn[0] + (end - lsn[0]) * received / 1000;
        let commit_at = Some(0);
        let at = taken_at + skew_us;
        let target = position(own, commit_at, Some(seen(lsn[index], at, seen_at, rate)), 0);
        let estimate = estimate(Some(&target), None, Epoch(1), now);
        let true_loss = end.saturating_sub(own);
        prop_assert!(estimate.bytes_max.unwrap() >= true_loss, "{estimate:?} < {true_loss}");
        prop_assert!(estimate.span_us_max.unwrap() >= now);
        prop_assert!(estimate.known_bytes <= estimate.bytes_max.unwrap());
    }
}

#[test]
fn nothing_known_is_no_bound() {
    for target in [None, Some(position(5, None, None, 1))] {
        let estimate = estimate(target.as_ref(), None, Epoch(1), 10);
        assert_eq!((estimate.bytes_max, estimate.observation_age_us), (None, None));
        assert!(possible(&estimate));
        assert!(!MaxLoss { bytes: Some(u64::MAX), span_us: None }.allows(&estimate));
    }
    let old_epoch = position(5, None, Some(seen(9, 0, 0, 1)), 1);
    assert_eq!(estimate(Some(&old_epoch), None, Epoch(2), 10).bytes_max, None);
    let mut other_timeline = position(5, None, Some(seen(9, 0, 0, 1)), 1);
    other_timeline.timeline = Some(TimelineId(2));
    assert_eq!(estimate(Some(&other_timeline), None, Epoch(1), 10).bytes_max, None);
}

#[test]
fn an_acknowledgement_makes_it_exact() {
    let ack = FenceAck {
        node: "pg1".into(),
        checkpoint: Lsn(1000),
        timeline: TimelineId(1),
        system_id: "7".into(),
        at_us: 50,
    };
    let behind = exact(&ack, Some(&position(400, Some(10), None, 0)), None, None, 60);
    assert_eq!((behind.known_bytes, behind.bytes_max), (600, Some(600 + WAL_PAGE_BYTES)));
    assert_eq!(behind.span_us_max, Some(50));
    let complete = exact(&ack, Some(&position(1200, Some(10), None, 0)), None, None, 60);
    assert_eq!((complete.bytes_max, complete.span_us_max), (Some(0), Some(0)));
    assert!(!possible(&complete) && MaxLoss { bytes: Some(0), span_us: Some(0) }.allows(&complete));
    // Received but not replayed beyond the checkpoint is not proof that all is there.
    let at_it = exact(&ack, Some(&position(1000, Some(10), None, 0)), None, None, 60);
    assert!(possible(&at_it));
}
