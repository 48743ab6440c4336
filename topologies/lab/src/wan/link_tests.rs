//! Goal: a packet is late, lost or refused exactly as its link's shape says, and a run can be
//! repeated. Method: tables of packets with their times, and properties over arbitrary packets,
//! shapes, cuts and seeds.

use proptest::prelude::*;

use super::super::shape::{Delay, Rate};
use super::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn link(shape: Shape) -> Link {
    Link::new(shape, fastrand::Rng::with_seed(7))
}

#[test]
fn delay_and_rate_say_when_a_packet_arrives() {
    let rtt = Delay(ms(40));
    // 1500 bytes take 1 ms.
    let rate: Rate = "12Mbit".parse().unwrap();
    let cases: &[(Shape, &[(u64, u64)])] = &[
        (Shape::default(), &[(0, 0), (0, 0), (5, 5)]),
        (Shape { rtt, ..Shape::default() }, &[(0, 20), (0, 20), (30, 50)]),
        (Shape { rtt, rate, ..Shape::default() }, &[(0, 21), (0, 22), (0, 23), (50, 71)]),
    ];
    for (shape, packets) in cases {
        let mut link = link(*shape);
        for (sent, arrives) in *packets {
            let fate = link.offer(ms(*sent), vec![0; 1500]);
            assert_eq!(fate, Fate::Arrives(ms(*arrives)), "{shape}, sent at {sent} ms");
        }
    }
}

#[test]
fn a_full_queue_refuses_until_the_line_is_free() {
    let mut link = link(Shape { rate: "12Mbit".parse().unwrap(), ..Shape::default() });
    let taken = (0..1000).take_while(|_| link.offer(ms(0), vec![0; 1500]) != Fate::Full).count();
    assert_eq!(taken, 201, "200 ms of packets that wait, and the one on the line");
    assert_eq!(link.offer(ms(2), vec![0; 1500]), Fate::Arrives(ms(202)));
    assert_eq!(link.counts().full, 1);
}

#[test]
fn a_cut_loses_what_is_under_way_and_what_comes() {
    let mut link = link(Shape { rtt: Delay(ms(40)), ..Shape::default() });
    link.offer(ms(0), vec![1]);
    link.offer(ms(5), vec![2]);
    assert_eq!(link.take(ms(20)), Some(vec![1]));
    assert_eq!((link.take(ms(20)), link.next()), (None, Some(ms(25))));
    link.cut();
    assert_eq!((link.offer(ms(21), vec![3]), link.take(ms(100))), (Fate::Cut, None));
    link.heal();
    assert_eq!(link.offer(ms(100), vec![4]), Fate::Arrives(ms(120)));
    assert_eq!(link.take(ms(120)), Some(vec![4]));
    assert_eq!(link.counts(), Counts { arrived: 2, lost: 0, full: 0, cut: 2 });
}

#[test]
fn the_share_of_lost_packets_is_the_one_asked_for() {
    for (loss, lost) in [("0%", 0..=0), ("0.5%", 400..=600), ("100%", 100_000..=100_000)] {
        let mut link = link(Shape { loss: loss.parse().unwrap(), ..Shape::default() });
        for _ in 0..100_000 {
            link.offer(ms(0), Vec::new());
        }
        assert!(lost.contains(&link.counts().lost), "{loss}: {:?}", link.counts());
    }
}

/// What happens to a link.
#[derive(Debug, Clone)]
enum Event {
    Packet { after_us: u64, bytes: usize },
    Cut,
    Heal,
    Take,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => (0u64..3_000, 20usize..1500)
            .prop_map(|(after_us, bytes)| Event::Packet { after_us, bytes }),
        1 => Just(Event::Cut),
        2 => Just(Event::Heal),
        4 => Just(Event::Take),
    ];
    proptest::collection::vec(event, 0..200)
}

fn shapes() -> impl Strategy<Value = Shape> {
    (0u64..100, 0u64..20, 0u32..100, prop_oneof![Just("unlimited"), Just("64kbit"), Just("5Mbit")])
        .prop_map(|(rtt, jitter, loss, rate)| Shape {
            rtt: Delay(ms(rtt)),
            jitter: Delay(ms(jitter)),
            loss: format!("{loss}%").parse().unwrap(),
            rate: rate.parse().unwrap(),
        })
}

/// When, and what.
type Delivery = (Duration, Vec<u8>);

/// Every packet's fate, and when each packet was handed over, by its number.
fn run(seed: u64, shape: Shape, events: &[Event]) -> (Vec<Fate>, Vec<Delivery>, Link) {
    let mut link = Link::new(shape, fastrand::Rng::with_seed(seed));
    let (mut now, mut fates, mut taken) = (Duration::ZERO, Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Packet { after_us, bytes } => {
                now += Duration::from_micros(*after_us);
                let mut packet = fates.len().to_be_bytes().to_vec();
                packet.resize(*bytes, 0);
                fates.push(link.offer(now, packet));
            }
            Event::Cut => link.cut(),
            Event::Heal => link.heal(),
            Event::Take => {
                while let Some(packet) = link.take(now) {
                    taken.push((now, packet[..8].to_vec()));
                }
            }
        }
    }
    (fates, taken, link)
}

proptest! {
    #[test]
    fn no_packet_is_early_doubled_reordered_or_unaccounted_for(
        seed in any::<u64>(), shape in shapes(), events in events()
    ) {
        let (fates, taken, mut link) = run(seed, shape, &events);
        let mut now = Duration::ZERO;
        let sent: Vec<Duration> = events.iter().filter_map(|event| {
            let Event::Packet { after_us, .. } = event else { return None };
            now += Duration::from_micros(*after_us);
            Some(now)
        }).collect();
        let mut last = Duration::ZERO;
        for (sent, fate) in sent.iter().zip(&fates) {
            if let Fate::Arrives(at) = fate {
                prop_assert!(*at >= *sent + shape.rtt.0 / 2, "early: {at:?}, sent {sent:?}");
                prop_assert!(*at >= last, "overtaken");
                last = *at;
            }
        }
        for (at, packet) in &taken {
            let number = usize::from_be_bytes(packet.as_slice().try_into().unwrap());
            let Fate::Arrives(due) = fates[number] else { panic!("a lost packet arrived") };
            prop_assert!(due <= *at, "handed over at {at:?}, due at {due:?}");
        }
        let numbers: Vec<_> = taken.iter().map(|(_, packet)| packet.clone()).collect();
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "doubled or reordered");
        let mut rest = 0;
        while link.take(Duration::MAX).is_some() {
            rest += 1;
        }
        let Counts { arrived, lost, full, cut } = link.counts();
        prop_assert_eq!(arrived + lost + full + cut, u64::try_from(fates.len()).unwrap());
        prop_assert_eq!(arrived, rest + u64::try_from(taken.len()).unwrap());
    }

    #[test]
    fn the_same_seed_and_packets_meet_the_same_fates(
        seed in any::<u64>(), shape in shapes(), events in events()
    ) {
        let (fates, taken, _) = run(seed, shape, &events);
        let again = run(seed, shape, &events);
        prop_assert_eq!((fates, taken), (again.0, again.1));
    }
}
