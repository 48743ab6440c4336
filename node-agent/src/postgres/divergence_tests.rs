//! Lines of pg_waldump as versions 13 to 18 print them.

use super::*;

const INSERT: &str = "rmgr: Heap        len (rec/tot):     54/   150, tx:        735, \
    lsn: 0/0300E5F8, prev 0/0300E5C0, desc: INSERT off 2 flags 0x00, \
    blkref #0: rel 1663/5/16388 blk 0 FPW";
const SPLIT: &str = "rmgr: Btree       len (rec/tot):     64/    64, tx:        735, \
    lsn: 0/0300E690, prev 0/0300E5F8, desc: SPLIT_R level: 0, \
    blkref #0: rel 1663/5/16390 blk 1, blkref #1: rel 1663/5/16390 fork fsm blk 2";
const COMMIT: &str = "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, \
    lsn: 0/0300E6D0, prev 0/0300E690, desc: COMMIT 2026-11-23 02:45:09.123456 UTC";
const COMMIT_WITH_MORE: &str = "rmgr: Transaction len (rec/tot):     46/    46, tx:        736, \
    lsn: 0/0300E6F8, prev 0/0300E6D0, desc: COMMIT 2026-11-23 02:46:00.000001 UTC; \
    inval msgs: catcache 7 relcache 16388";
const ABORT: &str = "rmgr: Transaction len (rec/tot):     34/    34, tx:        737, \
    lsn: 0/0300E728, prev 0/0300E6F8, desc: ABORT 2026-11-23 02:47:00.0 UTC";

#[test]
fn records_are_counted() {
    let mut tally = Tally::default();
    for line in [INSERT, SPLIT, COMMIT, COMMIT_WITH_MORE, ABORT, "", "pg_waldump: x lsn: y,"] {
        assert_eq!(tally.record(line), line.starts_with("rmgr"), "{line}");
    }
    assert_eq!(tally.transactions, 2);
    assert_eq!(tally.first_commit.as_deref(), Some("2026-11-23 02:45:09.123456 UTC"));
    assert_eq!(tally.last_commit.as_deref(), Some("2026-11-23 02:46:00.000001 UTC"));
    let commits: Vec<_> = tally.commits.iter().map(|c| (c.xid, c.lsn.0)).collect();
    assert_eq!(commits, [(735, 0x0300_E6D0), (736, 0x0300_E6F8)]);
    // 34 bytes of the last record, aligned to 40.
    assert_eq!(tally.end, Some(Lsn(0x0300_E750)));
    let (relations, beyond) = tally.relations();
    let found: Vec<_> = relations.iter().map(|r| (r.filenode, r.records)).collect();
    assert_eq!((found, beyond), (vec![(16388, 1), (16390, 1)], 0));
}

/// Up to 15 without colons in the description; the numbers are those of real servers.
const OLD: [&str; 3] = [
    "rmgr: Heap        len (rec/tot):     61/    61, tx:        488, lsn: 0/0184F748, \
     prev 0/0184F5B0, desc: INSERT off 3 flags 0x00, blkref #0: rel 1663/13443/16384 blk 0",
    "rmgr: Transaction len (rec/tot):    234/   234, tx:        488, lsn: 0/0184F7C8, \
     prev 0/0184F788, desc: PREPARE gid p: 2026-11-29 19:58:34.599159 UTC",
    "rmgr: Transaction len (rec/tot):     42/    42, tx:          0, lsn: 0/0184F8B8, \
     prev 0/0184F7C8, desc: COMMIT_PREPARED 488: 2026-11-29 19:58:34.605140 UTC",
];
/// From 16 on.
const NEW: [&str; 3] = [
    "rmgr: Heap        len (rec/tot):     61/    61, tx:        755, lsn: 0/017BA388, \
     prev 0/017BA1F0, desc: INSERT off: 3, flags: 0x00, blkref #0: rel 1663/5/16384 blk 0",
    "rmgr: Transaction len (rec/tot):    242/   242, tx:        755, lsn: 0/017BA408, \
     prev 0/017BA3C8, desc: PREPARE gid p: 2026-11-29 19:58:59.669236 UTC",
    "rmgr: Transaction len (rec/tot):     42/    42, tx:          0, lsn: 0/017BA500, \
     prev 0/017BA408, desc: COMMIT_PREPARED 755: 2026-11-29 19:58:59.673126 UTC",
];

#[test]
fn records_of_every_version_and_prepared_transactions() {
    for (lines, at, end) in [
        (OLD, "2026-11-29 19:58:34.605140 UTC", 0x0184_F8E8),
        (NEW, "2026-11-29 19:58:59.673126 UTC", 0x017B_A530),
    ] {
        let mut tally = Tally::default();
        assert!(lines.iter().all(|line| tally.record(line)));
        assert_eq!((tally.transactions, tally.last_commit.as_deref()), (1, Some(at)));
        assert!([488, 755].contains(&tally.commits[0].xid), "{:?}", tally.commits);
        assert_eq!(tally.end, Some(Lsn(end)), "as the end of WAL that pg_waldump names");
        let (relations, _) = tally.relations();
        assert_eq!((relations.len(), relations[0].filenode), (1, 16384));
    }
}

#[test]
fn the_end_of_wal_in_the_words_of_every_version() {
    for words in [
        "pg_waldump: fatal: error in WAL record at 0/184F8B8: invalid record length at 0/184F8E8: \
         wanted 24, got 0",
        "pg_waldump: error: error in WAL record at 0/17893F0: invalid record length at 0/1789420: \
         wanted 24, got 0",
        "pg_waldump: error: error in WAL record at 0/170DC78: invalid record length at 0/170DCA8: \
         expected at least 24, got 0",
    ] {
        assert!(END_OF_WAL.iter().any(|end| words.contains(end)), "{words}");
    }
}

#[test]
fn segments_from_the_fork_on() {
    let names = [
        "000000010000000000000002",
        "000000010000000000000003",
        "000000010000000100000000",
        "000000010000000000000004.partial",
        "000000020000000000000003",
        "00000002.history",
        "archive_status",
    ];
    let kept = |fork, bytes| {
        segments_from(names.iter().map(|n| (*n).to_owned()), TimelineId(1), Lsn(fork), bytes)
    };
    assert_eq!(
        kept(0x0300_0060, 16 << 20),
        [
            "000000010000000000000003",
            "000000010000000000000004.partial",
            "000000010000000100000000"
        ]
    );
    assert_eq!(kept(0x1_0000_0000, 16 << 20), ["000000010000000100000000"]);
    assert!(kept(0x1_0100_0000, 16 << 20).is_empty());
}

#[test]
fn the_report_is_readable() {
    let report = Divergence {
        timeline: TimelineId(1),
        later_timelines: Vec::new(),
        fork: Lsn(0x0300_0000),
        end: Lsn(0x0300_0100),
        bytes: 256,
        transactions: 1,
        first_commit: None,
        last_commit: None,
        commits: Vec::new(),
        commits_not_listed: 0,
        relations: Vec::new(),
        relations_not_listed: 0,
        stopped_at: String::new(),
        complete: true,
        kept_in: None,
        kept_segments: Vec::new(),
        report: PathBuf::from("/r"),
    };
    let json = serde_json::to_value(&report).expect("json");
    assert_eq!(
        (json["fork"].as_str(), json["end"].as_str()),
        (Some("0/3000000"), Some("0/3000100"))
    );
}

#[test]
fn own_promotions_after_the_fork_count_too() {
    let own = |timeline, text| TimelineHistory::parse(TimelineId(timeline), text).expect("history");
    let found = |own: &TimelineHistory, timeline, fork| {
        let all = stretches(own, TimelineId(timeline), Lsn(fork));
        all.iter().map(|s| (s.timeline.0, s.start.0, s.end.map(|e| e.0))).collect::<Vec<_>>()
    };
    assert_eq!(found(&own(1, ""), 1, 5), [(1, 5, None)]);
    let twice = own(3, "1\t0/8 x\n2\t0/9 x\n");
    assert_eq!(found(&twice, 1, 5), [(1, 5, Some(8)), (2, 8, Some(9)), (3, 9, None)]);
    assert_eq!(found(&twice, 1, 8), [(2, 8, Some(9)), (3, 9, None)]);
    assert_eq!(found(&twice, 3, 12), [(3, 12, None)]);
    assert_eq!(found(&twice, 7, 12), [(7, 12, None)]);
}
