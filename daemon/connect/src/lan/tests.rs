use std::sync::OnceLock;

use super::*;

const PORT: NonZeroU16 = NonZeroU16::new(4000).unwrap();
/// Twenty seconds into some minute.
const WALL: u64 = 29_000_000 * lan::PERIOD_MS + 20_000;

/// When everything begins, the same for all machines of a test.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(crate::start::start)
}

fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

/// A machine of a network in virtual time.
struct Machine {
    lan: Lan,
    id: PeerId,
    ip: IpAddr,
    /// How far its clock is ahead, in milliseconds.
    ahead: i64,
}

impl Machine {
    fn new(number: u8, host: u8, peers: &[u8]) -> Self {
        let now = start();
        let mut lan = Lan::new(identity(number), [host; 32], WALL);
        lan.set_peers(
            &peers.iter().map(|peer| identity(*peer).id()).collect(),
            now,
        );
        Self {
            lan,
            id: identity(number).id(),
            ip: [10, 0, 0, host].into(),
            ahead: 0,
        }
    }

    fn wall(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(start()).as_millis();
        (WALL + u64::try_from(passed).unwrap())
            .checked_add_signed(self.ahead)
            .unwrap()
    }

    fn watch(&mut self, peer: &Machine, now: Instant) {
        self.lan.handle_frame(Frame::Watch(peer.id), now);
    }

    fn send(&mut self, peer: &Machine, envelope: &[u8], now: Instant) {
        let envelope = envelope.to_vec();
        self.lan.handle_frame(
            Frame::Send {
                to: peer.id,
                envelope,
            },
            now,
        );
    }

    /// What it sends now: to whom, and the bytes.
    fn says(&mut self, now: Instant) -> Vec<(To, Vec<u8>)> {
        let wall = self.wall(now);
        let mut said = Vec::new();
        while let Some(transmit) = self.lan.poll_transmit(now) {
            let datagram = self.lan.seal(&transmit, (self.ip, PORT), wall).unwrap();
            said.push((transmit.to, datagram));
        }
        said
    }

    fn hears(&mut self, from: IpAddr, datagram: &[u8], now: Instant) -> Outcome {
        let wall = self.wall(now);
        self.lan
            .handle_datagram((from, lan::PORT).into(), datagram, wall, now)
    }

    fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.lan.poll_frame()).collect()
    }
}

/// Passes on what the machines say, until none says anything; returns all datagrams.
fn exchange(machines: &mut [Machine], now: Instant) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut said = Vec::new();
        for machine in machines.iter_mut() {
            let ip = machine.ip;
            said.extend(
                machine
                    .says(now)
                    .into_iter()
                    .map(|(to, bytes)| (ip, to, bytes)),
            );
        }
        if said.is_empty() {
            return all;
        }
        for (from, to, bytes) in said {
            for machine in machines.iter_mut() {
                let is_for = match to {
                    To::All => true,
                    To::One(to) => to == SocketAddr::from((machine.ip, PORT.get())),
                };
                if is_for {
                    machine.hears(from, &bytes, now);
                }
            }
            all.push(bytes);
        }
    }
}

fn after(seconds: u64) -> Instant {
    start() + Duration::from_secs(seconds)
}

// --- meeting ---

#[test]
fn who_is_watched_appears_at_once_and_envelopes_go_both_ways() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    let [a, b] = &mut both;
    a.watch(b, now);
    exchange(&mut both, now);
    let [a, b] = &mut both;
    assert_eq!(a.frames(), [Frame::Appeared(b.id)]);
    assert_eq!(b.frames(), [], "it watches nobody");
    a.send(b, b"offer", now);
    exchange(&mut both, now);
    let [a, b] = &mut both;
    let brought = |from: &Machine, envelope: &[u8]| Frame::Deliver {
        from: from.id,
        envelope: envelope.to_vec(),
    };
    assert_eq!(b.frames(), [brought(a, b"offer")]);
    b.send(a, b"answer", now);
    exchange(&mut both, now);
    let [a, b] = &mut both;
    assert_eq!(a.frames(), [brought(b, b"answer")]);
    // A watch that comes later is answered without any datagram.
    b.watch(a, now);
    assert_eq!(b.frames(), [Frame::Appeared(a.id)]);
}

#[test]
fn a_machine_that_starts_later_is_heard_though_it_watches_nobody() {
    let mut a = Machine::new(1, 1, &[2]);
    let b = Machine::new(2, 2, &[1]);
    a.watch(&b, start());
    for second in 0..60 {
        a.says(after(second));
    }
    let mut late = Lan::new(identity(2), [9; 32], WALL + 60_000);
    late.set_peers(&[a.id].into(), after(60));
    let b = Machine { lan: late, ..b };
    let mut both = [a, b];
    exchange(&mut both, after(60));
    let [a, b] = &mut both;
    assert_eq!(a.frames(), [Frame::Appeared(b.id)]);
}

#[test]
fn who_is_not_heard_is_offline_and_who_was_is_forgotten() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    let [a, b] = &mut both;
    let offline = Frame::Unreachable {
        to: b.id,
        why: Unreachable::Offline,
    };
    a.send(b, b"offer", now);
    assert_eq!(a.frames(), std::slice::from_ref(&offline));
    exchange(&mut both, now);
    let [a, b] = &mut both;
    a.send(b, b"offer", after(90));
    assert_eq!(a.frames(), []);
    a.send(b, b"offer", after(110));
    assert_eq!(a.frames(), [offline]);
}

/// The connector says goodbye when it removes a peer, and the network may have heard of that before.
#[test]
fn a_peer_that_was_removed_can_be_told_so_for_a_moment() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    exchange(&mut both, now);
    let [a, b] = &mut both;
    a.lan.set_peers(&BTreeSet::new(), after(10));
    assert_eq!(a.lan.heard().count(), 0);
    a.send(b, b"goodbye", after(11));
    exchange(&mut both, after(11));
    let [a, b] = &mut both;
    assert_eq!(a.frames(), []);
    let goodbye = Frame::Deliver {
        from: a.id,
        envelope: b"goodbye".to_vec(),
    };
    assert_eq!(b.frames(), [goodbye]);
    // It is not listened to, and after the moment nothing goes there.
    b.send(a, b"offer", after(11));
    exchange(&mut both, after(11));
    let [a, b] = &mut both;
    a.send(b, b"goodbye", after(13));
    let offline = Frame::Unreachable {
        to: b.id,
        why: Unreachable::Offline,
    };
    assert_eq!(a.frames(), [offline]);
    assert_eq!(a.says(after(13)), []);
}

#[test]
fn who_takes_envelopes_and_says_nothing_is_called_and_then_given_up() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    exchange(&mut both, now);
    // One that is there and has no more to say answers calls.
    for second in (20..40).step_by(3) {
        let [a, b] = &mut both;
        a.send(b, b"note", after(second));
        exchange(&mut both, after(second));
        let [a, b] = &mut both;
        assert_eq!((a.frames(), b.frames().len()), (vec![], 1));
    }
    let [a, b] = &mut both;
    let mut said = Vec::new();
    for second in (60..70).step_by(2) {
        a.send(b, b"offer", after(second));
        said.extend(a.says(after(second)).into_iter().map(|(to, _)| to));
    }
    assert!(said.contains(&To::All), "it is called");
    let offline = Frame::Unreachable {
        to: b.id,
        why: Unreachable::Offline,
    };
    assert_eq!(a.frames(), [offline.clone(), offline]);
}

#[test]
fn what_went_to_a_machine_that_has_restarted_is_said_to_be_lost() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    let [a, b] = &mut both;
    a.watch(b, now);
    exchange(&mut both, now);
    let [a, b] = &mut both;
    a.frames();
    a.send(b, b"offer", after(1));
    a.says(after(1));
    b.lan.handle_network(after(2));
    exchange(&mut both, after(2));
    let [a, b] = &mut both;
    let lost = Frame::Unreachable {
        to: b.id,
        why: Unreachable::Offline,
    };
    assert_eq!(a.frames(), [lost, Frame::Appeared(b.id)]);
}

#[test]
fn a_machine_that_starts_again_at_once_is_answered_at_once() {
    let mut both = [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])];
    exchange(&mut both, start());
    let soon = start() + Duration::from_millis(200);
    let restarted = Machine::new(2, 3, &[1]);
    both[1] = Machine {
        ip: both[1].ip,
        ..restarted
    };
    let [a, b] = &mut both;
    b.watch(a, soon);
    exchange(&mut both, soon);
    let [a, b] = &mut both;
    assert_eq!(b.frames(), [Frame::Appeared(a.id)]);
}

#[test]
fn calls_come_in_a_burst_and_then_now_and_then_to_those_alone_that_are_watched() {
    let mut machine = Machine::new(1, 1, &[2, 3]);
    let watched = Machine::new(2, 2, &[]);
    machine.watch(&watched, start());
    let mut called = Vec::new();
    for tenth in 0..1200 {
        let now = start() + Duration::from_millis(100 * tenth);
        called.extend(machine.says(now).iter().map(|_| tenth));
    }
    assert_eq!(called[..8], [0, 0, 3, 3, 10, 10, 30, 30]);
    let later = &called[8..];
    assert!(
        (2..=5).contains(&later.len()),
        "one peer, every half minute: {later:?}"
    );
    machine
        .lan
        .handle_frame(Frame::Unwatch(watched.id), after(120));
    assert_eq!(machine.lan.poll_timeout(), None);
}

#[test]
fn clocks_that_differ_by_forty_seconds_hinder_nobody() {
    // At twenty seconds into a minute, the one is a minute behind for the other, or ahead.
    for ahead in [-40_000, 40_000, 59_000, -59_000] {
        let (now, mut both) = (
            start(),
            [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
        );
        let [a, b] = &mut both;
        (b.ahead, a.ahead) = (ahead, 0);
        a.watch(b, now);
        b.watch(a, now);
        exchange(&mut both, now);
        let [a, b] = &mut both;
        assert_eq!(a.frames(), [Frame::Appeared(b.id)], "{ahead} ms");
        assert_eq!(b.frames(), [Frame::Appeared(a.id)], "{ahead} ms");
    }
}

#[test]
fn one_identity_on_two_machines_brings_no_more_than_words() {
    let mut three = [
        Machine::new(1, 1, &[2]),
        Machine::new(2, 2, &[1]),
        Machine::new(2, 3, &[1]),
    ];
    let mut datagrams = 0;
    for second in 0..600 {
        let now = after(second);
        let [a, b, c] = &mut three;
        if second == 0 {
            a.watch(b, now);
            b.watch(a, now);
            c.watch(a, now);
        }
        if second % 10 == 0 {
            a.send(b, b"offer", now);
        }
        datagrams += exchange(&mut three, now).len();
        let [a, ..] = &mut three;
        assert!(a.lan.heard().count() <= 1);
        let told = a.frames().len();
        assert!(told <= 12, "{told} frames at once");
    }
    assert!(datagrams < 600, "{datagrams} in ten minutes");
}

// --- what an observer sees, and what a liar can do ---

#[test]
fn an_observer_sees_random_bytes_of_one_length_and_no_tag_in_two_minutes() {
    let now = start();
    let mut machine = Machine::new(1, 1, &[2, 3, 4]);
    let peers = [2, 3, 4].map(|number| Machine::new(number, number, &[1]));
    for peer in &peers {
        machine.watch(peer, now);
    }
    let mut seen: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for second in 0..900 {
        let now = after(second);
        if second % 60 == 0 {
            machine.lan.handle_network(now);
        }
        let said = machine.says(now);
        let minute = lan::minute(machine.wall(now));
        for (to, bytes) in said {
            assert_eq!((to, bytes.len()), (To::All, lan::HEADER));
            for part in bytes.chunks(16) {
                // Tags come again within their minute; nothing else ever does.
                let before = *seen.entry(part.to_vec()).or_insert(minute);
                assert_eq!(before, minute);
            }
            all.push(bytes);
        }
    }
    let secrets = [machine.id]
        .into_iter()
        .chain(peers.iter().map(|peer| peer.id));
    for id in secrets {
        for datagram in &all {
            assert!(
                !datagram
                    .windows(4)
                    .any(|part| id.as_bytes().starts_with(part))
            );
        }
    }
    let port = PORT.get().to_be_bytes();
    let same = all.iter().filter(|bytes| bytes[34..36] == port).count();
    assert!(same <= 2, "the port is masked");
    let ones: u32 = all.iter().flatten().map(|byte| byte.count_ones()).sum();
    let share = f64::from(ones) / f64::from(u32::try_from(all.len()).unwrap() * 512);
    assert!((0.48..0.52).contains(&share), "{share} of the bits are set");
}

#[test]
fn several_peers_are_called_in_another_order_each_time() {
    let mut machine = Machine::new(1, 1, &[2, 3, 4, 5, 6]);
    let mut orders = BTreeSet::new();
    for ms in [0, 300, 1000, 3000] {
        let said = machine.says(start() + Duration::from_millis(ms));
        let tags = said.iter().map(|(_, bytes)| bytes[..16].to_vec());
        orders.insert(tags.collect::<Vec<_>>());
    }
    assert!(orders.len() > 2, "{} orders of four", orders.len());
}

#[test]
fn what_is_forged_moved_or_repeated_is_refused() {
    let now = start();
    let (mut a, mut b) = (Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1]));
    b.watch(&a, now);
    let (_, call) = a.says(now).remove(0);
    let elsewhere = IpAddr::from([10, 0, 0, 66]);
    assert_eq!(b.hears(elsewhere, &call, now), Outcome::Forged, "moved");
    for byte in 16..call.len() {
        let mut forged = call.clone();
        forged[byte] ^= 1;
        assert_eq!(b.hears(a.ip, &forged, now), Outcome::Forged, "byte {byte}");
    }
    let mut longer = call.clone();
    longer.push(0);
    assert_eq!(b.hears(a.ip, &longer, now), Outcome::Forged);
    assert_eq!(b.hears(a.ip, &call[..63], now), Outcome::Stranger);
    assert_eq!(b.frames(), []);
    assert_eq!(b.hears(a.ip, &call, now), Outcome::Taken);
    assert_eq!(b.frames(), [Frame::Appeared(a.id)]);
    for second in 0..200 {
        let again = b.hears(a.ip, &call, after(second));
        assert_ne!(again, Outcome::Taken, "after {second} s");
    }
    assert_eq!(
        b.hears(a.ip, &call, after(200)),
        Outcome::Stranger,
        "its tag is over"
    );
    assert_eq!(b.frames(), []);
    // What one says to the other is nothing for the first.
    assert_eq!(a.hears(a.ip, &call, now), Outcome::Stranger);
}

#[test]
fn strangers_cost_a_lookup_and_leave_nothing() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    let before = both[0].lan.sizes();
    for number in 0..100_000_u32 {
        let mut datagram = vec![7; lan::HEADER];
        datagram[..4].copy_from_slice(&number.to_be_bytes());
        let from = IpAddr::from(std::net::Ipv4Addr::from_bits(number));
        assert_eq!(both[0].hears(from, &datagram, now), Outcome::Stranger);
    }
    assert_eq!(both[0].lan.sizes(), before);
    assert_eq!(both[0].frames(), []);
    exchange(&mut both, now);
    assert_eq!(both[0].lan.heard().count(), 1);
}

#[test]
fn who_knows_a_tag_and_floods_grows_nothing_and_is_forgotten() {
    let now = start();
    let (mut a, mut b) = (Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1]));
    let (_, call) = a.says(now).remove(0);
    let mut proofs = 0;
    for number in 0..50_000_u32 {
        let mut forged = call.clone();
        forged[20..24].copy_from_slice(&number.to_be_bytes());
        let from = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number % 5000));
        let at = now + Duration::from_micros(100 * u64::from(number));
        proofs += u32::from(b.hears(from, &forged, at) == Outcome::Forged);
    }
    assert!(proofs <= 512 + 5 * 1000 + 1, "{proofs} in five seconds");
    assert!(b.lan.sizes()[4] <= MAX_SOURCES);
    // The peer is heard all the same once it is over.
    let (_, call) = a.says(after(10)).remove(0);
    assert_eq!(b.hears(a.ip, &call, after(10)), Outcome::Taken);
}

#[test]
fn a_peer_that_says_too_much_is_bounded_in_every_table() {
    let now = start();
    let (mut a, mut b) = (Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1]));
    let wall = a.wall(now);
    let (mut taken, mut answers) = (0, 0);
    for number in 0..2000_u32 {
        let now = now + Duration::from_millis(5 * u64::from(number));
        let call = Transmit {
            to: To::All,
            peer: b.id,
            kind: Kind::Call,
            nonce: None,
            envelope: Vec::new(),
        };
        let ip = IpAddr::from([10, 0, (number % 7) as u8, 1]);
        let datagram = a.lan.seal(&call, (ip, PORT), wall).unwrap();
        taken += usize::from(b.hears(ip, &datagram, now) == Outcome::Taken);
        answers += b.says(now).iter().filter(|(to, _)| *to != To::All).count();
    }
    assert_eq!(taken, MAX_REMEMBERED);
    assert!(
        answers <= 3,
        "{answers} answers to calls of little more than a second"
    );
    let [.., places, nonces, _, _] = b.lan.sizes();
    assert_eq!((places, nonces), (MAX_PLACES, MAX_REMEMBERED));
}

#[test]
fn an_envelope_that_goes_to_two_addresses_comes_once() {
    let now = start();
    let (mut a, mut b) = (Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1]));
    // b has two addresses.
    for host in [2, 22] {
        b.ip = [10, 0, 0, host].into();
        b.lan.neighbours.get_mut(&a.id).unwrap().begin_burst(now);
        let (_, call) = b.says(now).remove(0);
        assert_eq!(a.hears(b.ip, &call, now), Outcome::Taken);
    }
    a.send(&b, b"offer", now);
    let sent: Vec<_> = a
        .says(now)
        .into_iter()
        .filter(|(_, bytes)| bytes.len() > 64)
        .collect();
    assert_eq!(sent.len(), 2);
    let outcomes = [&sent[0], &sent[1]].map(|(_, bytes)| b.hears(a.ip, bytes, now));
    assert_eq!(outcomes, [Outcome::Taken, Outcome::Repeated]);
}

// --- networks ---

#[test]
fn a_sender_is_of_a_network_or_not() {
    let link = Link {
        index: 3,
        name: "eth0".to_owned(),
        addresses: [("192.168.1.7", 24), ("fe80::7", 64), ("2001:db8::7", 64)]
            .map(|(ip, prefix)| (ip.parse().unwrap(), prefix))
            .into(),
    };
    for (sender, right) in [
        ("192.168.1.200:45117", true),
        ("192.168.2.7:45117", false),
        ("8.8.8.8:45117", false),
        ("[2001:db8::99]:45117", true),
        ("[2001:db8:0:1::99]:45117", false),
        ("[fe80::9%3]:45117", true),
        ("[fe80::9%4]:45117", false),
    ] {
        assert_eq!(link.has(sender.parse().unwrap()), right, "{sender}");
    }
    assert!(link.has_family(true) && link.has_family(false));
}

#[test]
fn nothing_goes_to_a_network_that_this_machine_has_left() {
    let (now, mut both) = (
        start(),
        [Machine::new(1, 1, &[2]), Machine::new(2, 2, &[1])],
    );
    exchange(&mut both, now);
    let [a, b] = &mut both;
    let link = |network: u8| Link {
        index: u32::from(network),
        name: format!("eth{network}"),
        addresses: vec![([10, 0, network, 1].into(), 24)],
    };
    a.lan.keep_to(&[link(0), link(1)]);
    assert_eq!(a.lan.heard().count(), 1);
    a.send(b, b"envelope", now);
    a.lan.keep_to(&[link(1)]);
    assert_eq!(a.lan.heard().count(), 0);
    assert_eq!(a.says(now), [], "what was about to be sent");
    a.send(b, b"envelope", now);
    assert!(matches!(a.frames()[..], [Frame::Unreachable { .. }]));
}
