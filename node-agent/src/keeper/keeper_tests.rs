//! Goal: a leader's right ends before the time that any beat of its may have told to others,
//! whatever becomes of the beat, also when that time changes. Method: a store in memory that can
//! lose answers, and a guard that notes what it is told.

use super::*;
use crate::dcs::{Answer, Changes, Compare, RawCluster, RawKey, Write};
use node_agent_wire::keys::Leaf;
use node_agent_wire::position::Position;
use serde_json::json;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixListener;

/// What becomes of the next write that is not refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Answered,
    /// It does not arrive.
    Lost,
    /// It arrives, and its answer does not.
    AnswerLost,
    /// It arrives some time later.
    Late,
}

struct Store {
    keys: Mutex<RawCluster>,
    fate: Mutex<Fate>,
    late: Mutex<Option<(Vec<Compare>, Vec<Write>)>>,
}

/// The keeper's end of it.
struct Shelf(Arc<Store>);

fn unavailable() -> DcsError {
    DcsError::Refused { what: "test", why: "no answer".into() }
}

fn ready<'a, T: Send + 'a>(value: Result<T, DcsError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Store {
    fn holds(&self, conditions: &[Compare]) -> bool {
        let keys = self.keys.lock().expect("keys");
        conditions.iter().all(|condition| match condition {
            Compare::Absent(key) => !keys.keys.contains_key(key),
            Compare::AtRevision(key, at) => keys.revision_of(key) == *at,
            Compare::ValueIs(key, value) => keys.keys.get(key).is_some_and(|k| k.value == *value),
        })
    }

    fn take(&self, conditions: &[Compare], writes: &[Write]) -> Option<Revision> {
        if !self.holds(conditions) {
            return None;
        }
        let mut keys = self.keys.lock().expect("keys");
        keys.revision.0 += 1;
        let revision = keys.revision;
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let raw = RawKey { value: value.clone(), revision, lease: *lease };
                    keys.keys.insert(key.clone(), raw);
                }
                Write::Delete(key) => drop(keys.keys.remove(key)),
            }
        }
        Some(revision)
    }
}

impl Dcs for Shelf {
    fn read<'a>(&'a self, _: &'a str, _: Duration) -> Answer<'a, RawCluster> {
        ready(Ok(self.0.keys.lock().expect("keys").clone()))
    }

    fn write<'a>(
        &'a self,
        conditions: &'a [Compare],
        writes: &'a [Write],
        _: Duration,
    ) -> Answer<'a, Option<Revision>> {
        if !self.0.holds(conditions) {
            return ready(Ok(None));
        }
        let fate = std::mem::replace(&mut *self.0.fate.lock().expect("fate"), Fate::Answered);
        if fate == Fate::Late {
            *self.0.late.lock().expect("late") = Some((conditions.into(), writes.into()));
        }
        if matches!(fate, Fate::Lost | Fate::Late) {
            return ready(Err(unavailable()));
        }
        let written = self.0.take(conditions, writes);
        ready(if fate == Fate::Answered { Ok(written) } else { Err(unavailable()) })
    }

    fn grant(&self, _: Duration, _: Duration) -> Answer<'_, i64> {
        ready(Ok(1))
    }

    fn keep_alive(&self, _: i64, _: Duration) -> Answer<'_, ()> {
        ready(Ok(()))
    }

    fn revoke(&self, _: i64, _: Duration) -> Answer<'_, ()> {
        ready(Ok(()))
    }

    fn watch<'a>(&'a self, _: &'a str, _: Revision, _: Duration) -> Answer<'a, Box<dyn Changes>> {
        ready(Err(unavailable()))
    }

    fn version(&self, _: Duration) -> Answer<'_, String> {
        ready(Err(unavailable()))
    }
}

/// The deadlines that the guard was given, the last one at the end.
type Told = Arc<Mutex<Vec<u64>>>;

/// A guard with a deadline, until its socket goes.
fn guard(socket: &std::path::Path, first: u64) -> Told {
    let listener = UnixListener::bind(socket).expect("bind");
    let told: Told = Arc::new(Mutex::new(vec![first]));
    let theirs = told.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let theirs = theirs.clone();
            std::thread::spawn(move || serve(&stream, &theirs));
        }
    });
    told
}

fn serve(mut stream: &std::os::unix::net::UnixStream, told: &Told) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let last = told.lock().expect("told").last().copied().unwrap_or(0);
        let answer = match line.strip_prefix("deadline ") {
            Some(at) => {
                told.lock().expect("told").push(at.parse().expect("a number"));
                "ok\n".to_owned()
            }
            None => format!("pid 1 start 2 armed {last}\n"),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

struct Bench {
    thread: Thread,
    store: Arc<Store>,
    dir: tempfile::TempDir,
}

fn config(lost: u64) -> Dynamic {
    let value = json!({"ttl": 20, "primary_lost_timeout": lost});
    Dynamic::read(value.as_object().expect("object"))
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let (keys, late, fate) = Default::default();
        let store = Store { keys, fate: Mutex::new(fate), late };
        let store = Arc::new(store);
        let watchdog = Watchdog::new(WatchdogConfig::default(), Duration::from_secs(20));
        let shared = Arc::new(Shared::new(&config(0), false, Arc::default(), watchdog));
        let thread = Thread {
            dcs: Box::new(Shelf(store.clone())),
            path: ClusterPath::new("/service", "shop"),
            name: "pg1".into(),
            guard_socket: dir.path().join("guard"),
            mark_file: dir.path().join("mark"),
            guard: None,
            shared,
            beat: 0,
            ttls: lease::ttls(Duration::ZERO, Duration::ZERO),
            in_force: Duration::ZERO,
            renewed: Boot(0),
            last: None,
            messenger: Messenger::new(crate::rest::access::ApiPassword::default()),
            plans: Plans::default(),
            lost_leader: None,
        };
        Self { thread, store, dir }
    }

    /// A leader whose beats name 20 s, with a primary under a guard.
    async fn leader() -> (Self, Told) {
        let mut bench = Self::new();
        let told = guard(&bench.dir.path().join("guard"), u64::MAX);
        bench.thread.shared.armed.store(true, Ordering::SeqCst);
        assert!(bench.thread.acquire(Bid::default()).await.expect("the store answers"));
        (bench, told)
    }

    fn configure(&self, lost: u64) {
        let time = millis(config(lost).lease_time());
        self.thread.shared.lease_time_ms.store(time, Ordering::SeqCst);
    }

    async fn beat(&mut self, fate: Fate) {
        *self.store.fate.lock().expect("fate") = fate;
        self.thread.lead_on().await;
    }

    fn left_s(&self) -> f64 {
        let until = Boot(self.thread.shared.held_until.load(Ordering::SeqCst));
        clock::boot().until(until).as_secs_f64()
    }

    fn named_s(&self) -> u64 {
        let keys = self.store.keys.lock().expect("keys");
        let raw = &keys.keys[&self.thread.path.key(Leaf::Position)];
        let position: Position = serde_json::from_slice(&raw.value).expect("a position");
        position.ttl_ms / 1000
    }
}

fn guard_left_s(told: &Told) -> f64 {
    let last = *told.lock().expect("told").last().expect("told");
    clock::boot().until(Boot(last)).as_secs_f64()
}

#[tokio::test]
async fn a_shorter_time_is_told_to_others_only_after_it_is_counted_with() {
    for fate in [Fate::Answered, Fate::Lost, Fate::AnswerLost] {
        let (mut bench, told) = Bench::leader().await;
        assert!(bench.left_s() > 10.0 && guard_left_s(&told) > 10.0);
        bench.configure(5);
        bench.beat(fate).await;
        assert_eq!(bench.named_s(), 20, "{fate:?}");
        bench.beat(Fate::Answered).await;
        assert!(bench.left_s() <= 4.5, "{fate:?}: {}", bench.left_s());
        assert!(guard_left_s(&told) <= 4.5, "{fate:?}: {}", guard_left_s(&told));
        bench.beat(Fate::Answered).await;
        assert_eq!(bench.named_s(), 5, "{fate:?}");
    }
}

#[tokio::test]
async fn a_longer_time_counts_only_once_its_beat_is_committed() {
    let (mut bench, told) = Bench::leader().await;
    bench.configure(5);
    bench.beat(Fate::Answered).await;
    bench.beat(Fate::Answered).await;
    bench.configure(0);
    for fate in [Fate::Lost, Fate::AnswerLost] {
        bench.beat(fate).await;
        assert!(bench.left_s() <= 4.5 && guard_left_s(&told) <= 4.5, "{fate:?}");
    }
    bench.beat(Fate::Answered).await;
    assert!(bench.left_s() > 10.0 && guard_left_s(&told) > 10.0, "{}", bench.left_s());
}

#[tokio::test]
async fn a_shorter_time_is_told_only_when_the_guard_counts_with_it() {
    let (mut bench, _told) = Bench::leader().await;
    bench.thread.guard = None;
    std::fs::remove_file(bench.dir.path().join("guard")).expect("the socket was there");
    bench.configure(5);
    for _ in 0..3 {
        bench.beat(Fate::Answered).await;
        assert_eq!(bench.named_s(), 20);
    }
}

#[tokio::test]
async fn a_beat_that_comes_late_does_not_replace_a_later_one() {
    let (mut bench, _told) = Bench::leader().await;
    bench.configure(5);
    bench.beat(Fate::Answered).await;
    bench.beat(Fate::Late).await;
    bench.configure(0);
    bench.beat(Fate::Answered).await;
    assert_eq!(bench.named_s(), 20);
    let (conditions, writes) = bench.store.late.lock().expect("late").take().expect("one is late");
    assert_eq!(bench.store.take(&conditions, &writes), None);
    assert_eq!(bench.named_s(), 20);
}

#[tokio::test]
async fn a_key_taken_back_late_does_not_replace_a_later_beat() {
    let mut bench = Bench::new();
    bench.configure(5);
    assert!(bench.thread.acquire(Bid::default()).await.expect("the store answers"));
    let bid = Bid { position: bench.thread.last.expect("a beat"), over: None };
    // The agent begins anew.
    bench.thread.shared.held_until.store(0, Ordering::SeqCst);
    (bench.thread.last, bench.thread.in_force) = (None, Duration::ZERO);
    *bench.store.fate.lock().expect("fate") = Fate::Late;
    assert!(bench.thread.acquire(bid.clone()).await.is_err(), "no answer");
    bench.configure(0);
    assert!(bench.thread.acquire(bid).await.expect("the store answers"));
    assert_eq!(bench.named_s(), 20);
    let (conditions, writes) = bench.store.late.lock().expect("late").take().expect("one is late");
    assert_eq!(bench.store.take(&conditions, &writes), None);
    assert_eq!(bench.named_s(), 20);
}

#[tokio::test]
async fn a_beat_whose_answer_was_lost_is_followed_by_the_next() {
    let (mut bench, _told) = Bench::leader().await;
    bench.beat(Fate::AnswerLost).await;
    let before = bench.thread.shared.held_until.load(Ordering::SeqCst);
    bench.beat(Fate::Answered).await;
    assert!(bench.thread.shared.held_until.load(Ordering::SeqCst) > before);
    let position = bench.thread.path.key(Leaf::Position);
    let at = bench.store.keys.lock().expect("keys").revision_of(&position);
    assert_eq!(bench.thread.last, Some(at));
}

#[tokio::test]
async fn the_key_of_a_lost_leader_is_replaced_over_its_last_beat_only() {
    let mut bench = Bench::new();
    let leader = bench.thread.path.key(Leaf::Leader);
    let position = bench.thread.path.key(Leaf::Position);
    let put = |key: &str, value: &str| Write::put(key.to_owned(), value);
    let beat = bench.store.take(&[], &[put(&leader, "pg2"), put(&position, "a")]);
    let beat = beat.expect("written");
    let bid = |over: Option<&str>| Bid { position: beat, over: over.map(MemberName::from) };
    let thread = &mut bench.thread;
    assert!(!thread.acquire(bid(None)).await.expect("answer"), "it is not lost");
    assert!(!thread.acquire(bid(Some("pg3"))).await.expect("answer"), "another one leads");
    let newer = bench.store.take(&[], &[put(&position, "b")]).expect("written");
    let thread = &mut bench.thread;
    assert!(!thread.acquire(bid(Some("pg2"))).await.expect("answer"), "it has beaten since");
    let seen = Bid { position: newer, ..bid(Some("pg2")) };
    assert!(thread.acquire(seen).await.expect("answer"));
    assert!(thread.leads());
}

#[tokio::test]
async fn a_key_taken_back_names_no_less_than_the_guard_may_count_with() {
    let mut bench = Bench::new();
    bench.configure(5);
    bench.thread.shared.facts.lock().expect("facts").was_ttl = Duration::from_secs(20);
    assert!(bench.thread.acquire(Bid::default()).await.expect("the store answers"));
    assert_eq!(bench.named_s(), 20);
}
