//! What a scenario says of failsafe mode, and of a PostgreSQL that is unwell.

use super::healthy::{NOW, ago, dcs};
use super::words::{Words, duration, items};
use node_agent_core::failsafe::{Round, Votes};
use node_agent_core::observed::Observed;
use node_agent_core::promise::Promise;
use node_agent_core::sick::DiskFull;
use node_agent_wire::{MemberName, Revision};

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
        // `agreed`, or `refused WHY`
        "failsafe round" => {
            let outcome = match value.strip_prefix("refused ") {
                Some(why) => Err(why.to_owned()),
                None if value == "agreed" => Ok(()),
                None => return Err("a round is agreed or refused WHY".into()),
            };
            let (asked_at, since) = (ago(duration("1s")?), ago(duration("10s")?));
            observed.failsafe.round = Some(Round { asked_at, since, outcome });
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
        _ => return Ok(false),
    }
    Ok(true)
}
