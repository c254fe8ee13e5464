//! The channel on a DHT in virtual time, in which nodes are dead or lie.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests, which tell what they have measured"
)]

mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use network::{NOON, Network};
use punch_dht::{Told, VALUE_LENGTH};
use punch_signal_protocol::{Frame, Identity, PeerId};
use rand_core::RngCore;

const DAY: i64 = 86_400_000;
const OFFER: u8 = 1;
const ANSWER: u8 = 2;

fn identity(number: u64) -> Identity {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    Identity::from_seed(&seed)
}

/// An envelope of this kind, as long as the longest compact one.
fn envelope(kind: u8, mark: u8) -> Vec<u8> {
    let mut envelope = vec![mark; 911];
    envelope[0] = kind;
    envelope
}

fn watch_and_call(network: &mut Network, machine: usize, peer: PeerId) {
    network.frame(machine, Frame::Watch(peer));
    let envelope = envelope(OFFER, u8::try_from(machine).unwrap());
    network.frame(machine, Frame::Send { to: peer, envelope });
}

/// Two machines call each other, the first one answers; how long that took since the second one began, if it did within 10 minutes.
fn meet(network: &mut Network, seed: u64, skew: i64) -> Option<Duration> {
    let (a, b) = (identity(2 * seed), identity(2 * seed + 1));
    let first = network.add_machine(a.clone(), 0);
    watch_and_call(network, first, b.id());
    let wait = Duration::from_millis(u64::from(network.rng.next_u32() % 90_000));
    network.run_until(network.now + wait);
    let second = network.add_machine(b.clone(), skew);
    let began = network.now;
    watch_and_call(network, second, a.id());
    let mut renewed = began;
    let until = began + Duration::from_secs(600);
    let mut seen = [0; 2];
    while network.now < until {
        network.run_until(until.min(renewed + Duration::from_secs(60)));
        if network.now >= renewed + Duration::from_secs(60) {
            // The connector renews an offer that nobody answers.
            renewed = network.now;
            for (machine, peer) in [(first, b.id()), (second, a.id())] {
                let mark = network.rng.next_u32().to_be_bytes()[0];
                let envelope = envelope(OFFER, mark);
                network.frame(machine, Frame::Send { to: peer, envelope });
            }
        }
        for (machine, peer) in [(first, b.id()), (second, a.id())] {
            let got = network.machines[machine].got[seen[machine]..].to_vec();
            seen[machine] += got.len();
            for (at, frame) in got {
                let Frame::Deliver {
                    from,
                    envelope: bytes,
                } = frame
                else {
                    panic!("{frame:?}")
                };
                assert_eq!(from, peer);
                match bytes[0] {
                    ANSWER => return Some(at.duration_since(began)),
                    _ if machine == first => {
                        let envelope = envelope(ANSWER, bytes[1]);
                        network.frame(machine, Frame::Send { to: peer, envelope });
                    }
                    _ => {}
                }
            }
        }
    }
    None
}

fn quantiles(times: &mut [Duration]) -> [f64; 3] {
    times.sort();
    [50, 95, 100].map(|percent| {
        let at = (times.len() * percent / 100).min(times.len() - 1);
        times[at].as_secs_f64()
    })
}

/// 200 nodes, of which 30 of a hundred are dead and 20 lie, 300 ms away. `PUNCH_SEEDS=1000` plays so many.
#[test]
fn pairs_meet_although_nodes_are_dead_and_lie() {
    let seeds = std::env::var("PUNCH_SEEDS").ok();
    let seeds = seeds.and_then(|text| text.parse().ok()).unwrap_or(25);
    let one: Option<u64> = std::env::var("PUNCH_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let mut times = Vec::new();
    let mut failed = Vec::new();
    for seed in one.map_or(0..seeds, |one| one..one + 1) {
        let mut network = Network::new(seed, 200, 30, 20);
        match meet(&mut network, seed, 0) {
            Some(time) => times.push(time),
            None => failed.push(seed),
        }
    }
    assert_eq!(failed, Vec::<u64>::new(), "seeds whose pairs did not meet");
    let [p50, p95, most] = quantiles(&mut times);
    println!("{seeds} pairs: p50 {p50:.1} s, p95 {p95:.1} s, at most {most:.1} s");
    assert!(p50 < 15.0, "{p50}");
}

#[test]
fn pairs_meet_although_one_clock_is_a_day_wrong() {
    for (seed, skew) in [(1, DAY), (2, -DAY), (3, DAY), (4, -DAY)] {
        let mut network = Network::new(seed, 200, 30, 0);
        let time = meet(&mut network, seed, skew).unwrap();
        println!("a day of {skew} ms: {time:?}");
    }
}

#[test]
fn pairs_meet_around_midnight() {
    for before in [120_000, 61_000, 30_000, 5_000, 500] {
        let mut network = Network::new(before, 200, 20, 10);
        network.wall_ms = NOON + 43_200_000 - before;
        let time = meet(&mut network, before, 0).unwrap();
        println!("{before} ms before midnight: {time:?}");
    }
}

/// A machine that polls finds what another one has left long before, and what it leaves under the next day's key is not told again.
#[test]
fn what_was_left_hours_ago_is_found_and_told_once() {
    let mut network = Network::new(5, 200, 30, 10);
    network.wall_ms = NOON + 43_200_000 - 3_600_000;
    let (a, b) = (identity(1), identity(2));
    let first = network.add_machine(a.clone(), 0);
    watch_and_call(&mut network, first, b.id());
    network.run_until(network.now + Duration::from_secs(4000));
    let second = network.add_machine(b, 0);
    network.frame(second, Frame::Watch(a.id()));
    network.run_until(network.now + Duration::from_secs(120));
    while network.run_until(network.start + Duration::from_secs(9000)) {}
    let got = &network.machines[second].got;
    assert_eq!(got.len(), 1, "{got:?}");
}

/// What the nodes see: items of one length, of which no two days or directions have anything in common; and nothing of what is inside.
#[test]
fn an_observer_learns_nothing_from_items() {
    let mut network = Network::new(9, 100, 10, 0);
    network.keeps_sent = true;
    let (a, b) = (identity(1), identity(2));
    let first = network.add_machine(a.clone(), 0);
    let second = network.add_machine(b.clone(), 0);
    for day in 0..3 {
        watch_and_call(&mut network, first, b.id());
        watch_and_call(&mut network, second, a.id());
        let until = network.start + Duration::from_secs(86_400 * day + 600);
        while network.run_until(until) {}
        // The machines are off meanwhile: nobody polls for a day in a test.
        network.wall_ms += 86_400_000;
    }
    let mut keys = BTreeMap::<[u8; 32], BTreeSet<u64>>::new();
    for (at, _, item) in &network.puts {
        assert_eq!(item.value.len(), VALUE_LENGTH);
        let day = at.duration_since(network.start).as_secs() / 86_400;
        keys.entry(item.key).or_default().insert(day);
    }
    assert!(
        keys.len() >= 6,
        "three days, two directions: {}",
        keys.len()
    );
    // Each is stored at several nodes.
    let values: BTreeSet<_> = network.puts.iter().map(|(.., item)| &item.value).collect();
    for value in &values {
        // Noise does not shrink: about as many different bytes as chance has.
        let different = value.iter().collect::<BTreeSet<_>>().len();
        assert!(different > 220, "{different}");
        let starts = values.iter().filter(|other| other[..24] == value[..24]);
        assert!(
            starts.clone().all(|other| other == value),
            "a nonce came twice"
        );
    }
    let secrets = [
        a.id().as_bytes().to_vec(),
        b.id().as_bytes().to_vec(),
        a.id().x25519().to_vec(),
        b.id().x25519().to_vec(),
        a.id().to_string().into_bytes(),
        envelope(OFFER, 0)[1..40].to_vec(),
        envelope(OFFER, 1)[1..40].to_vec(),
    ];
    assert!(network.sent.len() > 100);
    for (_, bytes) in &network.sent {
        for secret in &secrets {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
    }
}

/// An idle machine's packets both ways, with peers that are never there.
#[test]
fn an_idle_machine_stays_below_200_packets_a_minute() {
    for peers in [1_u64, 10, 50] {
        let mut network = Network::new(peers, 200, 30, 0);
        let machine = network.add_machine(identity(1), 0);
        let ids: Vec<_> = (0..peers).map(|n| identity(100 + n).id()).collect();
        network.set_peers(machine, &ids);
        let hours = 3;
        network.run_until(network.start + Duration::from_secs(3600 * hours));
        let minutes = &network.machines[machine].minutes;
        // The first minutes find the network.
        let most = minutes.range(2..).map(|(_, count)| *count).max().unwrap();
        let last: u32 = minutes
            .range(60 * (hours - 1)..)
            .map(|(_, count)| *count)
            .sum();
        println!(
            "{peers} peers: {} packets a minute in the last hour, at most {most}",
            last / 60
        );
        assert!(most < 200, "{peers} peers: {most}");
    }
}

/// The same with peers that are wanted and never there, whose offers are made anew as the connector does (`daemon/connect/src/peer/slow.rs`).
#[test]
fn a_machine_that_calls_peers_who_are_never_there_stays_below_200_packets_a_minute() {
    for peers in [1_u64, 10, 50] {
        let mut network = Network::new(peers, 200, 30, 0);
        let machine = network.add_machine(identity(1), 0);
        let ids: Vec<_> = (0..peers).map(|n| identity(100 + n).id()).collect();
        network.set_peers(machine, &ids);
        for id in &ids {
            network.frame(machine, Frame::Watch(*id));
        }
        for minute in 0..58_u64 {
            let is_called = [0, 1, 2, 4].contains(&minute) || minute > 4 && minute % 5 == 3;
            for to in ids.iter().filter(|_| is_called) {
                let mut envelope = envelope(OFFER, 0);
                envelope[1..9].copy_from_slice(&network.rng.next_u64().to_be_bytes());
                network.frame(machine, Frame::Send { to: *to, envelope });
            }
            network.run_until(network.start + Duration::from_secs(60 * (minute + 1)));
        }
        // Half an hour after the start, over several rounds of offers.
        let minutes = &network.machines[machine].minutes;
        let late: Vec<_> = minutes.range(28..58).map(|(_, count)| *count).collect();
        let (mean, most) = (late.iter().sum::<u32>() / 30, late.iter().max().unwrap());
        println!("{peers} peers that are called: {mean} packets a minute, at most {most}");
        assert!(*most < 200, "{peers} peers: {most}");
        // And they are called, however many they are.
        let late = network
            .puts
            .iter()
            .filter(|(at, ..)| at.duration_since(network.start) > Duration::from_secs(28 * 60));
        let keys: BTreeSet<_> = late.map(|(.., item)| item.key).collect();
        assert!(
            keys.len() as u64 > peers / 2,
            "{peers} peers: {}",
            keys.len()
        );
    }
}

/// With a thousand peers a look at all of them is worth more than a datagram that anybody can send.
#[test]
fn what_nobody_has_asked_for_sets_nothing_off() {
    let mut network = Network::new(12, 50, 0, 0);
    let machine = network.add_machine(identity(1), 0);
    network.run_until(network.start + Duration::from_secs(60));
    network.set_peers(machine, &[identity(2).id()]);
    network.run_until(network.now + Duration::from_secs(300));
    let late = network.now + Duration::from_secs(300);
    let at = punch_dht::Moment {
        now: late,
        ..network.moment(machine)
    };
    let channel = &mut network.machines[machine].channel;
    let ignored = channel.report().ignored;
    let stranger = "203.0.113.9:6881".parse().unwrap();
    for bytes in [
        &b"noise"[..],
        b"d1:rd2:id20:abcdefghij0123456789e1:t4:abcd1:y1:re",
    ] {
        channel.handle_datagram(stranger, bytes, at);
    }
    assert_eq!(channel.report().ignored, ignored + 2);
    assert_eq!(channel.poll_transmit(), None);
    channel.handle_timeout(at);
    assert!(
        channel.poll_transmit().is_some(),
        "there was something to do"
    );
}

/// Who is removed is forgotten at once, and what lies in the DHT for whom nobody waits any more is not kept alive.
#[test]
fn whoever_is_removed_or_not_wanted_is_not_called_again() {
    for removed in [true, false] {
        let mut network = Network::new(11, 100, 10, 0);
        let machine = network.add_machine(identity(1), 0);
        let peer = identity(2).id();
        network.set_peers(machine, &[peer]);
        watch_and_call(&mut network, machine, peer);
        network.run_until(network.start + Duration::from_secs(30));
        assert!(!network.puts.is_empty());
        match removed {
            true => network.set_peers(machine, &[]),
            false => network.frame(machine, Frame::Unwatch(peer)),
        }
        let pairs = network.machines[machine].channel.sizes().0;
        assert_eq!(pairs, usize::from(!removed));
        // What is under way arrives.
        network.run_until(network.now + Duration::from_secs(5));
        let puts = network.puts.len();
        network.run_until(network.now + Duration::from_secs(4000));
        assert_eq!(network.puts.len(), puts, "removed: {removed}");
    }
}

#[test]
fn a_machine_learns_where_it_is_seen_and_which_nodes_to_remember() {
    let mut network = Network::new(3, 200, 30, 0);
    let machine = network.add_machine(identity(1), 0);
    network.run_until(network.start + Duration::from_secs(60));
    let machine = &network.machines[machine];
    let seen = Told::Seen(*machine.address.ip());
    assert!(machine.told.contains(&seen), "{:?}", machine.told);
    let nodes = machine.told.iter().rev().find_map(|told| match told {
        Told::Nodes(nodes) => Some(nodes.len()),
        Told::Seen(_) => None,
    });
    assert!(nodes.unwrap() >= 16, "{nodes:?}");
}

/// Nobody answers: the channel goes on asking, ever less often, and says since when.
#[test]
fn a_machine_that_hears_nobody_asks_less_and_less() {
    let mut network = Network::new(3, 50, 0, 0);
    let machine = network.add_machine(identity(1), 0);
    network.machines[machine].online = false;
    watch_and_call(&mut network, machine, identity(2).id());
    network.run_until(network.start + Duration::from_secs(3600));
    let report = network.machines[machine].channel.report();
    assert!(report.silent_since.is_some());
    assert_eq!(report.nodes, 0);
    let minutes = &network.machines[machine].minutes;
    let last: u32 = minutes.range(40..).map(|(_, count)| *count).sum();
    assert!(last < 20 * 60, "{last} packets in the last 20 minutes");
    // And it is there again as soon as the network is.
    network.machines[machine].online = true;
    let at = network.moment(machine);
    network.machines[machine].channel.handle_network_changed(at);
    network.pump(machine);
    network.run_until(network.now + Duration::from_secs(30));
    assert!(network.machines[machine].channel.report().nodes > 8);
}

#[test]
fn what_is_too_long_or_a_note_is_not_published() {
    let mut network = Network::new(3, 50, 0, 0);
    let machine = network.add_machine(identity(1), 0);
    let to = identity(2).id();
    let note = envelope(3, 1);
    network.frame(machine, Frame::Send { to, envelope: note });
    let envelope = vec![OFFER; 1500];
    network.frame(machine, Frame::Send { to, envelope });
    network.run_until(network.start + Duration::from_secs(60));
    assert_eq!(network.puts.len(), 0);
}
