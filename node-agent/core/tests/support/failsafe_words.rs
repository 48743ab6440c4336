//! What a scenario says of failsafe mode, and of a PostgreSQL that is unwell.

use super::healthy::{NOW, ago, dcs};
use super::words::{Words, duration, items, lsn};
use node_agent_core::failsafe::{Round, Votes};
use node_agent_core::observed::Observed;
use node_agent_core::promise::Promise;
use node_agent_core::sick::DiskFull;
use node_agent_core::starts::EarlyEnd;
use node_agent_wire::{MemberName, Revision, SlotName};
use std::collections::BTreeMap;

/// Applies the key when it is one of these; `false` when not.
pub fn apply(observed: &mut Observed, key: &str, value: &str) -> Result<bool, String> {
    match key {
        // `pg1 for 20s`
        "promise" => {
            let mut words = Words::of(value);
            let until = NOW + words.time("for")?.ok_or("promise needs \"NAME for TIME\"")?;
            let leader = words.next()?.into();
            words.end()?;
            observed.failsafe.promise = Some(Promise { leader, until });
        }
        // `pg2 pg3 asked 100ms beat=40`
        "votes" => {
            let mut words = Words::of(value);
            let asked_at = ago(words.time("asked")?.ok_or("votes need \"asked TIME\"")?);
            let beat = Revision(words.value("beat")?.unwrap_or(40));
            let granted = words.rest().split_whitespace().map(MemberName::from).collect();
            observed.failsafe.votes = Some(Votes { asked_at, beat, granted });
        }
        // `pg3 0/3000000, dc2 0/2000000`: what the leader that was accepted said of its slots.
        "told" => {
            for item in items(value) {
                let mut words = Words::of(item);
                let name = SlotName::from_name(words.next()?);
                observed.failsafe.told.insert(name, lsn(words.next()?)?);
                words.end()?;
            }
        }
        // `agreed`, `agreed pg3=0/3000000`, or `refused WHY`
        "failsafe round" => {
            let mut positions = BTreeMap::new();
            let outcome = match (value.strip_prefix("refused "), value.strip_prefix("agreed")) {
                (Some(why), _) => Err(why.to_owned()),
                (None, Some(members)) => {
                    for word in members.split_whitespace() {
                        let (name, at) = word.split_once('=').ok_or("agreed NAME=POSITION")?;
                        positions.insert(MemberName::from(name), lsn(at)?);
                    }
                    Ok(())
                }
                (None, None) => return Err("a round is agreed or refused WHY".into()),
            };
            let (asked_at, since) = (ago(duration("1s")?), ago(duration("10s")?));
            observed.failsafe.round = Some(Round { asked_at, since, outcome, positions });
        }
        // The key: `pg1, pg2`
        "failsafe" => {
            let url = |name: &str| (MemberName::from(name), format!("http://{name}:8008/patroni"));
            dcs(observed).failsafe = items(value).map(url).collect();
        }
        "watchdog failed" => observed.watchdog_failed = Some(value.to_owned()),
        // `for 5s`
        "silent" => {
            let since = Words::of(value).time("for")?.ok_or("silent needs \"for TIME\"")?;
            observed.health.silent_since = Some(ago(since));
        }
        "disk full" => {
            let since = Words::of(value).time("for")?.ok_or("disk full needs \"for TIME\"")?;
            let what = "less than 16 MiB for WAL in /data/pg_wal".to_owned();
            observed.health.disk_full = Some(DiskFull { since: ago(since), what });
        }
        // `3 times, the last 500ms ago: FATAL: …`
        "early end" => {
            let form = "early end needs \"N times, the last TIME ago: WHY\"";
            let (count, rest) = value.split_once(" times, the last ").ok_or(form)?;
            let (age, said) = rest.split_once(" ago: ").ok_or(form)?;
            let count = count.parse().map_err(|_| form)?;
            let at = ago(duration(age)?);
            observed.health.early_end = Some(EarlyEnd { count, at, said: said.to_owned() });
        }
        _ => return Ok(false),
    }
    Ok(true)
}
