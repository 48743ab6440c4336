//! The small words of the scenario language.

use super::healthy::{member_upstream, remote_upstream};
use node_agent_core::beginning::{Beginning, Beginnings};
use node_agent_core::postgres::{Peer, Upstream};
use node_agent_wire::history::{Ancestor, TimelineHistory};
use node_agent_wire::{Lsn, TimelineId};
use std::str::FromStr;
use std::time::Duration;

/// The words of one value; each is taken once, and none may be left.
pub struct Words<'a> {
    left: Vec<&'a str>,
}

impl<'a> Words<'a> {
    pub fn of(text: &'a str) -> Self {
        Self { left: text.split_whitespace().collect() }
    }

    /// The next word.
    pub fn next(&mut self) -> Result<&'a str, String> {
        if self.left.is_empty() { Err("a word is missing".into()) } else { Ok(self.left.remove(0)) }
    }

    /// Takes the word if it is there.
    pub fn flag(&mut self, word: &str) -> bool {
        let found = self.left.iter().position(|w| *w == word);
        found.map(|at| self.left.remove(at)).is_some()
    }

    /// Takes `name=value`.
    pub fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let prefix = format!("{name}=");
        let Some(at) = self.left.iter().position(|w| w.starts_with(&prefix)) else {
            return Ok(None);
        };
        let word = self.left.remove(at);
        word[prefix.len()..].parse().map(Some).map_err(|_| format!("can't read \"{word}\""))
    }

    /// Takes `name VALUE` as two words, the second one a duration.
    pub fn time(&mut self, name: &str) -> Result<Option<Duration>, String> {
        let Some(at) = self.left.iter().position(|w| *w == name) else { return Ok(None) };
        if at + 1 >= self.left.len() {
            return Err(format!("{name} needs a time"));
        }
        let time = duration(self.left.remove(at + 1))?;
        self.left.remove(at);
        Ok(Some(time))
    }

    /// Everything that is left, as text.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.left).join(" ")
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), String> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(format!("left over: {}", self.left.join(" ")))
        }
    }
}

/// `5s` or `200ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = |_| format!("\"{text}\" is not a time such as 5s or 200ms");
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().map(Duration::from_millis).map_err(bad);
    }
    text.strip_suffix('s').unwrap_or(text).parse().map(Duration::from_secs).map_err(bad)
}

/// `2:1@0/3000000,2@…`: timeline 2, whose ancestor 1 ended there.
pub fn history(text: &str) -> Result<TimelineHistory, String> {
    let bad = || format!("\"{text}\" is not a history such as 2:1@0/3000000");
    let (timeline, past) = text.split_once(':').unwrap_or((text, ""));
    let timeline = TimelineId(timeline.parse().map_err(|_| bad())?);
    let mut ancestors = Vec::new();
    for part in past.split(',').filter(|p| !p.is_empty()) {
        let (timeline, lsn) = part.split_once('@').ok_or_else(bad)?;
        let timeline = TimelineId(timeline.parse().map_err(|_| bad())?);
        ancestors.push(Ancestor { timeline, ended_at: lsn.parse().map_err(|_| bad())? });
    }
    Ok(TimelineHistory { timeline, ancestors })
}

/// How the timelines of a history begin, when everybody has them from one server.
pub fn begun(history: &TimelineHistory) -> Beginnings {
    let later = history.ancestors.iter().skip(1).map(|ancestor| ancestor.timeline);
    let timelines = later.chain([history.timeline]);
    let begun = |(timeline, parent): (TimelineId, &Ancestor)| {
        (timeline, Beginning { at: parent.ended_at, record: "00".to_owned() })
    };
    timelines.zip(&history.ancestors).map(begun).collect()
}

/// `pg2`, `remote`, `archive`, `archive/pg2` (with the member that is asked) or `nobody`.
pub fn upstream(text: &str) -> Upstream {
    match text {
        "remote" => remote_upstream(),
        "nobody" => Upstream::Nobody,
        "archive" => Upstream::Archive { of: None },
        other => match other.strip_prefix("archive/").map(member_upstream) {
            Some(Upstream::Member { name, host, port }) => {
                Upstream::Archive { of: Some(Peer { name, host, port }) }
            }
            Some(_) | None => member_upstream(other),
        },
    }
}

/// A WAL position.
pub fn lsn(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|e: node_agent_wire::lsn::LsnError| e.to_string())
}

/// The items of a list with commas between.
pub fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty() && *item != "none")
}
