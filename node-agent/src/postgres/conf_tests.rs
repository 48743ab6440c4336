//! What is written into the configuration files.

use super::*;

fn receiver() -> Receiver<'static> {
    Receiver {
        name: "pg-1",
        user: "rep",
        passfile: Path::new("/v/it's"),
        connection: vec![("sslmode".into(), "prefer".into())],
    }
}

fn member() -> Upstream {
    Upstream::Member { name: "pg2".into(), host: "127.0.0.2".into(), port: 5432 }
}

fn remote() -> Upstream {
    let hosts = vec![("a".to_owned(), 1), ("b".to_owned(), 2)];
    Upstream::Remote { hosts, slot: SlotName::parse("dc2") }
}

#[test]
fn what_a_restore_left_of_recovery_is_kept() {
    let auto = "work_mem = '1MB'\nrestore_command = 'x'\n# note\nRecovery_Target_Time = 'y'\n";
    let kept = kept_recovery(auto);
    assert!(kept.ends_with("restore_command = 'x'\nRecovery_Target_Time = 'y'\n"), "{kept}");
    assert!(!kept.contains("work_mem") && !kept.contains("note"), "{kept}");
    let settings = [("recovery_target_name".to_owned(), "it's".to_owned())].into();
    assert!(recovery_conf(&settings).ends_with("recovery_target_name = 'it''s'\n"));
}

#[test]
fn the_main_file_includes_and_quotes() {
    let mut settings = Effective::default();
    settings.parameters.insert("a.b".into(), "it's \\ x\ny".into());
    let around = Around { base: Path::new("postgresql.base.conf"), data_dir: None, access: None };
    let text = postgresql_conf(&settings, &around);
    assert!(is_ours(&text) && !is_ours("# PostgreSQL"));
    let lines: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(
        lines,
        [
            "include_if_exists 'postgresql.base.conf'",
            "a.b = 'it''s \\\\ x\\ny'",
            "include_if_exists 'node-agent.upstream.conf'",
            "include_if_exists 'node-agent.sync.conf'",
        ]
    );
}

#[test]
fn a_member_is_followed_through_the_own_slot() {
    let settings = Effective { use_slots: true, ..Effective::default() };
    let text = upstream_conf(&member(), &receiver(), &settings);
    assert!(text.contains("primary_slot_name = 'pg_1'\n"), "{text}");
    assert!(text.contains("recovery_target_timeline = 'latest'\n"));
    assert!(text.contains("host=''127.0.0.2'' port=''5432'' sslmode=''prefer''"), "{text}");
    assert!(text.contains("application_name=''pg-1''") && !text.contains("target_session"));
    // The path's quote is escaped for libpq, then both characters for the file.
    assert!(text.contains(r"passfile=''/v/it\\''s''"), "{text}");
    let without = upstream_conf(&member(), &receiver(), &Effective::default());
    assert!(without.contains("primary_slot_name = ''\n"));
}

#[test]
fn a_remote_must_be_writable_and_names_its_slot() {
    let settings = Effective {
        use_slots: true,
        restore_command: Some("cp %f".into()),
        recovery_min_apply_delay: Some("1h".into()),
        ..Effective::default()
    };
    let text = upstream_conf(&remote(), &receiver(), &settings);
    assert!(text.contains("host=''a,b'' port=''1,2''"), "{text}");
    assert!(text.contains("target_session_attrs=''read-write''"));
    assert!(text.contains("primary_slot_name = 'dc2'"));
    assert!(text.contains("restore_command = 'cp %f'"));
    assert!(text.contains("recovery_min_apply_delay = '1h'"));
    let cascade = upstream_conf(&member(), &receiver(), &settings);
    assert!(!cascade.contains("recovery_min_apply_delay"), "only the standby leader delays");
}

#[test]
fn upstreams_are_read_back() {
    for upstream in [member(), remote(), Upstream::Nobody] {
        let text = upstream_conf(&upstream, &receiver(), &Effective::default());
        assert_eq!(read_upstream(&text), Some(upstream));
    }
    assert_eq!(read_upstream("primary_conninfo = 'x'"), None);
    let nobody = upstream_conf(&Upstream::Nobody, &receiver(), &Effective::default());
    assert!(nobody.contains("primary_conninfo = ''\n"));
}

#[test]
fn alter_system_keeps_all_but_recovery() {
    let auto = "# c\nwork_mem = '1MB'\nprimary_conninfo = 'x'\n recovery_target_lsn='0/1'\n\
                Restore_Command = 'y'\nport = 1\n";
    assert_eq!(without_recovery(auto), "# c\nwork_mem = '1MB'\nport = 1\n");
}

#[test]
fn a_standby_is_raised_and_never_lowered() {
    let mut settings = Effective::default();
    settings.command_line.insert("max_connections".into(), "100".into());
    settings.command_line.insert("max_wal_senders".into(), "10".into());
    settings.command_line.insert("wal_level".into(), "replica".into());
    let minima = BTreeMap::from([("max_connections", 150), ("max_wal_senders", 5)]);
    assert_eq!(
        arguments(&settings, Some(&minima)),
        ["--max_connections=150", "--max_wal_senders=10", "--wal_level=replica"]
    );
    assert_eq!(arguments(&settings, None)[0], "--max_connections=100");
}

#[test]
fn hba_and_sync_names() {
    assert!(pg_hba(&["local all all trust".into()]).ends_with("\nlocal all all trust\n"));
    assert!(sync_conf("ANY 1 (\"a\")").ends_with("synchronous_standby_names = 'ANY 1 (\"a\")'\n"));
}
