//! A store in memory for the tests of this room.

use crate::dcs::{Answer, Change, Changes, Compare, Dcs, DcsError, RawCluster, RawKey, Write};
use node_agent_wire::Revision;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) struct FakeDcs {
    store: Mutex<RawCluster>,
    /// Every call fails while set.
    pub(crate) down: AtomicBool,
    /// The revision, for watches.
    revision: watch::Sender<Revision>,
}

impl FakeDcs {
    pub(crate) fn new(entries: &[(&str, &str)]) -> Self {
        let dcs = Self {
            store: Mutex::default(),
            down: AtomicBool::new(false),
            revision: watch::Sender::new(Revision(0)),
        };
        for (key, value) in entries {
            dcs.put(key, value);
        }
        dcs
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        let put = Write::put(key.to_owned(), value);
        assert!(self.apply(&[], &[put]).is_some());
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let store = self.store.lock().expect("store");
        store.keys.get(key).map(|k| String::from_utf8_lossy(&k.value).into_owned())
    }

    fn apply(&self, conditions: &[Compare], writes: &[Write]) -> Option<Revision> {
        let mut store = self.store.lock().expect("store");
        let holds = conditions.iter().all(|condition| match condition {
            Compare::Absent(key) => !store.keys.contains_key(key),
            Compare::AtRevision(key, at) => {
                store.keys.get(key).map_or(Revision(0), |k| k.revision) == *at
            }
            Compare::ValueIs(key, value) => store.keys.get(key).is_some_and(|k| k.value == *value),
        });
        if !holds {
            return None;
        }
        store.revision.0 += 1;
        let revision = store.revision;
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let raw = RawKey { value: value.clone(), revision, lease: *lease };
                    store.keys.insert(key.clone(), raw);
                }
                Write::Delete(key) => {
                    store.keys.remove(key);
                }
            }
        }
        self.revision.send_replace(revision);
        Some(revision)
    }

    fn reply<T: Send + 'static>(&self, value: impl FnOnce() -> T) -> Answer<'_, T> {
        let result = if self.down.load(Ordering::SeqCst) {
            Err(DcsError::Unavailable {
                what: "test",
                waited: Duration::ZERO,
                last: vec!["down".into()],
            })
        } else {
            Ok(value())
        };
        Box::pin(std::future::ready(result))
    }
}

struct FakeChanges(watch::Receiver<Revision>);

impl Changes for FakeChanges {
    fn next(&mut self) -> Answer<'_, Vec<Change>> {
        Box::pin(async {
            match self.0.changed().await {
                Ok(()) => Ok(Vec::new()),
                Err(error) => Err(DcsError::Refused { what: "watch", why: error.to_string() }),
            }
        })
    }
}

impl Dcs for FakeDcs {
    fn read<'a>(&'a self, prefix: &'a str, _deadline: Duration) -> Answer<'a, RawCluster> {
        self.reply(|| {
            let mut store = self.store.lock().expect("store").clone();
            store.keys.retain(|key, _| key.starts_with(prefix));
            store
        })
    }

    fn write<'a>(
        &'a self,
        conditions: &'a [Compare],
        writes: &'a [Write],
        _deadline: Duration,
    ) -> Answer<'a, Option<Revision>> {
        self.reply(|| self.apply(conditions, writes))
    }

    fn grant(&self, _ttl: Duration, _deadline: Duration) -> Answer<'_, i64> {
        self.reply(|| 1)
    }

    fn keep_alive(&self, _lease: i64, _deadline: Duration) -> Answer<'_, ()> {
        self.reply(|| ())
    }

    fn revoke(&self, _lease: i64, _deadline: Duration) -> Answer<'_, ()> {
        self.reply(|| ())
    }

    fn watch<'a>(
        &'a self,
        _prefix: &'a str,
        _after: Revision,
        _deadline: Duration,
    ) -> Answer<'a, Box<dyn Changes>> {
        let changes: Box<dyn Changes> = Box::new(FakeChanges(self.revision.subscribe()));
        self.reply(|| changes)
    }

    fn version(&self, _deadline: Duration) -> Answer<'_, String> {
        self.reply(|| "3.5.0".to_owned())
    }
}
