//! Pairs that have nothing but a slow channel: compact envelopes, a patient side, and the ML-KEM exchange over the path.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it is a test"
)]

use std::time::{Duration, Instant};

use punch_connect::Channel;
use punch_packet::PeerHandle;
use punch_simulator::network::LinkSpec;
use punch_simulator::scenario::{Kind, Place, world};
use punch_simulator::world::slow::{SlowSpec, envelopes, forge, have_one_key, open};
use punch_simulator::world::{Side, World};

const SECOND: Duration = Duration::from_secs(1);
/// Netchecks before anybody wants anything.
const SETTLE: Duration = Duration::from_secs(12);
const DHT: SlowSpec = SlowSpec {
    channel: Channel::Dht,
    delay: [SECOND, Duration::from_secs(10)],
    loss: 0.0,
    repeats: true,
};

fn link(loss: f64) -> LinkSpec {
    LinkSpec {
        loss,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(if loss > 0.0 { 3 } else { 0 }),
        duplicate: 0.0,
    }
}

/// Two machines without any server but for STUN.
fn apart(a: Kind, b: Kind, loss: f64, spec: SlowSpec, seed: u64) -> World {
    let mut world = world(Place::Apart(a, b), link(loss), seed, Instant::now());
    world.run_for(SETTLE);
    world.set_hub(false);
    open(&mut world, spec, seed);
    world
}

fn run(
    a: Kind,
    b: Kind,
    loss: f64,
    spec: SlowSpec,
    seed: u64,
    limit: Duration,
) -> Option<Duration> {
    let mut world = apart(a, b, loss, spec, seed);
    world.up(Side::A);
    if seed.is_multiple_of(2) {
        world.up(Side::B);
    }
    let took = world.run_until(limit, |world| world.connected() && have_one_key(world));
    if took.is_some() {
        // It stays, whatever is still under way.
        let path = world.path(Side::A);
        world.run_for(Duration::from_secs(200));
        assert!(
            world.connected() && have_one_key(&world),
            "{a} x {b}, {seed}"
        );
        assert_eq!(world.path(Side::A), path, "{a} x {b}, {seed}");
    }
    took
}

fn times(mut took: Vec<Duration>) -> [Duration; 3] {
    took.sort();
    [
        took[took.len() / 2],
        took[took.len() * 9 / 10],
        *took.last().unwrap(),
    ]
}

#[test]
fn easy_kinds_meet_over_a_dht_with_loss() {
    let mut kinds = Kind::EASY.to_vec();
    kinds.extend([
        Kind::PortRestrictedStateful,
        Kind::PortRestrictedBrief,
        Kind::DoubleEasy,
    ]);
    let (mut took, mut late) = (Vec::new(), Vec::new());
    for (index, a) in kinds.iter().enumerate() {
        for (other, b) in kinds.iter().enumerate() {
            let seed = (index * 31 + other) as u64;
            match run(*a, *b, 0.03, DHT, seed, 240 * SECOND) {
                Some(time) => took.push(time),
                None => late.push((*a, *b, seed)),
            }
        }
    }
    assert!(late.is_empty(), "{late:?}");
    println!("p50, p90, worst: {:?}", times(took));
}

#[test]
fn hard_and_easy_kinds_meet_over_a_dht() {
    let hard = [
        Kind::Symmetric,
        Kind::SymmetricSequential,
        Kind::SymmetricBlock,
    ];
    let easy = [
        Kind::PortRestricted,
        Kind::AddressRestricted,
        Kind::PortRestrictedRandom,
    ];
    let (mut took, mut late) = (Vec::new(), Vec::new());
    for (index, a) in hard.into_iter().enumerate() {
        for (other, b) in easy.into_iter().enumerate() {
            for (seed, [a, b]) in [(0, [a, b]), (1, [a, b]), (2, [b, a]), (3, [b, a])] {
                let seed = (seed + 10 * index + 100 * other) as u64;
                match run(a, b, 0.0, DHT, seed, 300 * SECOND) {
                    Some(time) => took.push(time),
                    None => late.push((a, b, seed)),
                }
            }
        }
    }
    assert!(late.is_empty(), "{late:?}");
    println!("p50, p90, worst: {:?}", times(took));
}

#[test]
fn a_person_may_take_minutes() {
    let by_hand = SlowSpec {
        channel: Channel::Paste(PeerHandle(1)),
        delay: [40 * SECOND, 170 * SECOND],
        repeats: false,
        ..DHT
    };
    for (seed, [a, b]) in [
        [Kind::PortRestricted, Kind::PortRestricted],
        [Kind::AddressRestricted, Kind::PortRestrictedRandom],
        [Kind::Symmetric, Kind::FullCone],
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = apart(a, b, 0.02, by_hand, seed as u64);
        world.up(Side::A);
        let took = world.run_until(500 * SECOND, World::connected);
        assert!(took.is_some(), "{a} x {b}");
    }
}

#[test]
fn a_bad_channel_and_offers_that_cross_only_take_longer() {
    let bad = SlowSpec {
        delay: [SECOND, 70 * SECOND],
        loss: 0.3,
        ..DHT
    };
    let mut took = Vec::new();
    for seed in 0..30 {
        let (a, b) = (Kind::PortRestricted, Kind::AddressRestricted);
        let mut world = apart(a, b, 0.03, bad, seed);
        world.up(Side::A);
        world.up(Side::B);
        let time = world.run_until(900 * SECOND, |world| {
            world.connected() && have_one_key(world)
        });
        took.push(time.unwrap_or_else(|| panic!("seed {seed} has not met")));
    }
    println!("p50, p90, worst: {:?}", times(took));
}

/// Two machines with a server, and with or without a slow channel: how many datagrams they send in the minutes after they have met.
fn beside_a_server(slow: bool, seed: u64) -> u64 {
    let (a, b) = (Kind::PortRestricted, Kind::PortRestrictedRandom);
    let mut world = world(Place::Apart(a, b), link(0.0), seed, Instant::now());
    if slow {
        open(&mut world, DHT, seed);
    }
    world.run_for(SETTLE);
    world.up(Side::A);
    if seed.is_multiple_of(2) {
        world.up(Side::B);
    }
    let took = world.run_until(5 * SECOND, |world| world.connected() && have_one_key(world));
    assert!(took.is_some_and(|took| took < SECOND), "{seed}: {took:?}");
    let paths = [Side::A, Side::B].map(|side| world.path(side));
    let before = world.datagrams();
    world.run_for(200 * SECOND);
    assert!(world.connected() && have_one_key(&world), "{seed}");
    let later = [Side::A, Side::B].map(|side| world.path(side));
    assert_eq!(later, paths, "{seed}");
    assert!(envelopes(&world).len() < 6);
    world.datagrams() - before
}

#[test]
fn what_comes_late_disturbs_nothing_where_a_server_is_there_too() {
    for seed in 0..12 {
        let [with, without] = [true, false].map(|slow| beside_a_server(slow, seed));
        // Keepalives, and nothing that waits for anybody.
        assert!(with <= without + 10, "{seed}: {with}, {without}");
    }
}

#[test]
fn noise_in_the_channel_is_passed_over() {
    let mut world = apart(Kind::PortRestricted, Kind::PortRestricted, 0.0, DHT, 3);
    world.up(Side::A);
    for byte in 0..=5 {
        for length in [0, 1, 80, 911] {
            forge(&mut world, &vec![byte; length]);
        }
    }
    let took = world.run_until(60 * SECOND, World::connected);
    assert!(took.is_some());
}
