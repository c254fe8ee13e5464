//! What anybody on the internet may send to the socket, and any server over signalling: nothing panics, nothing changes.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::sample::{Index, select};
use proptest::test_runner::Config;
use punch_engine::{DropReason, PeerReport, SocketId};
use punch_signal_protocol::Frame;

use crate::bot::Bot;
use crate::packets::{at, udp};
use crate::plain::Bench;
use crate::world::{A, B, Datagram, World, handle, millis, seconds};

fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| at(IpAddr::from(ip), port)),
        (any::<[u8; 16]>(), any::<u16>())
            .prop_map(|(ip, port)| at(Ipv6Addr::from(ip).into(), port)),
        select(vec![
            at([198, 51, 100, 2].into(), 51_820),
            at([203, 0, 113, 1].into(), 3478)
        ]),
    ]
}

/// Bytes that look like something: STUN and WireGuard headers with any rest.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let rest = || vec(any::<u8>(), 0..300);
    prop_oneof![
        rest(),
        // A STUN header whose length fits.
        (any::<u16>(), rest()).prop_map(|(kind, rest)| {
            let mut bytes = (kind & 0x3FFF).to_be_bytes().to_vec();
            bytes.extend((rest.len() as u16).to_be_bytes());
            bytes.extend([
                0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
            ]);
            bytes.extend(rest);
            bytes
        }),
        // WireGuard messages of the right length.
        (
            select(vec![(1_u8, 148_usize), (2, 92), (3, 64), (4, 32), (4, 200)]),
            vec(any::<u8>(), 200)
        )
            .prop_map(|((kind, length), mut bytes)| {
                bytes.truncate(length);
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
                bytes
            }),
        Just(Vec::new()),
    ]
}

/// A connected world, and every datagram that A has got so far, in its life from the first check on.
struct Victim {
    world: World,
    got: Vec<Datagram>,
    report: PeerReport,
}

impl Victim {
    fn new() -> Self {
        let mut world = World::pair(1);
        world.tap = Some(Vec::new());
        world.set_up(A, B, true);
        world.wait_for_both(seconds(10));
        world.grant(A, B, true);
        let (a, b) = (world.hosts[A].overlay(true), world.hosts[B].overlay(true));
        for number in 0..5 {
            world.send(B, &udp(at(b, 1), at(a, 2), &[number]));
        }
        world.run_for(seconds(40));
        world.hosts[A].take_tun();
        let (public, global) = (world.hosts[A].public, world.hosts[A].global);
        let mut got = world.tap.take().unwrap();
        got.retain(|datagram| [IpAddr::from(public), global.into()].contains(&datagram.to.ip()));
        for kind in [1, 4] {
            assert!(got.iter().any(|datagram| datagram.bytes[0] == kind));
        }
        let report = Self::report(&world);
        Self { world, got, report }
    }

    fn report(world: &World) -> PeerReport {
        let report = world.hosts[A].engine.peer_report(handle(B)).unwrap();
        PeerReport {
            last_handshake: None,
            ..report
        }
    }

    /// Gives A a datagram, and checks that nothing came of it.
    #[track_caller]
    fn suffer(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8]) {
        let now = self.world.now;
        let link = self.world.hosts[A]
            .engine
            .link_status(handle(B), now)
            .unwrap();
        let events = self.world.hosts[A].events.len();
        let frames = self.world.frames.len();
        let host = &mut self.world.hosts[A];
        host.engine
            .handle_train(socket, None, from, bytes.len(), bytes, now);
        host.engine.flush(now);
        if let Some(train) = host.engine.poll_train() {
            // Only a cookie reply may come of it, when very many handshakes come.
            assert_eq!((train.bytes.len(), train.bytes[0]), (64, 3), "{bytes:?}");
        }
        self.world.drain(A);
        let host = &mut self.world.hosts[A];
        assert_eq!(host.take_tun(), Vec::<Vec<u8>>::new());
        assert_eq!(host.events.len(), events);
        assert_eq!(host.orders, []);
        let after = host.engine.link_status(handle(B), now).unwrap();
        let selected = |link: &punch_engine::LinkStatus| {
            link.agent.as_ref().map(|agent| agent.selected.clone())
        };
        assert_eq!(
            (after.state, selected(&after)),
            (link.state, selected(&link))
        );
        assert_eq!(self.world.frames.len(), frames);
        assert_eq!(Self::report(&self.world), self.report);
    }

    /// The tunnel still works.
    fn works(&mut self) {
        let (a, b) = (
            self.world.hosts[A].overlay(true),
            self.world.hosts[B].overlay(true),
        );
        let packet = udp(at(b, 1), at(a, 2), b"still there");
        self.world.send(B, &packet);
        self.world.run_for(millis(100));
        assert_eq!(self.world.hosts[A].take_tun(), [packet]);
        self.report = Self::report(&self.world);
    }
}

#[test]
fn random_datagrams_change_nothing() {
    let victim = RefCell::new(Victim::new());
    proptest!(cases(2000), |(
        bytes in datagram(),
        from in address(),
        socket in 0..3_u32,
    )| {
        victim.borrow_mut().suffer(SocketId(socket), from, &bytes);
    });
    victim.borrow_mut().works();
}

#[test]
fn changed_copies_of_true_datagrams_change_nothing() {
    let victim = RefCell::new(Victim::new());
    proptest!(cases(3000), |(
        which in any::<Index>(),
        position in any::<Index>(),
        change in 1..=255_u8,
        cut in prop_oneof![3 => Just(None), 1 => any::<Index>().prop_map(Some)],
        more in prop_oneof![3 => Just(0_usize), 1 => 1..40_usize],
        from in prop_oneof![Just(None), address().prop_map(Some)],
    )| {
        let mut victim = victim.borrow_mut();
        let datagram = which.get(&victim.got).clone();
        let mut bytes = datagram.bytes;
        // STUN leaves what stands behind its MESSAGE-INTEGRITY to itself.
        let behind = if bytes[4..8] == [0x21, 0x12, 0xA4, 0x42] { 8 } else { 0 };
        let at = position.index(bytes.len() - behind);
        bytes[at] ^= change;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.resize(bytes.len() + more, change);
        let from = from.unwrap_or(datagram.from);
        let socket = SocketId(u32::from(from.is_ipv6()));
        victim.suffer(socket, from, &bytes);
    });
    victim.borrow_mut().works();
}

#[test]
fn copies_of_wireguard_datagrams_change_nothing_wherever_they_come_from() {
    let mut victim = Victim::new();
    let thief: SocketAddr = "203.0.113.66:1".parse().unwrap();
    for datagram in victim.got.clone() {
        // WireGuard's first byte is its type, and three zeros follow; STUN's next bytes are its length.
        if datagram.bytes[1..4] == [0; 3] {
            victim.suffer(SocketId::MAIN_V6, datagram.from, &datagram.bytes);
            victim.suffer(SocketId::MAIN_V4, thief, &datagram.bytes);
        }
    }
    assert!(victim.world.hosts[A].drops(DropReason::NotForUs) >= 10);
    victim.works();
}

#[test]
fn datagrams_longer_than_any_buffer_change_nothing() {
    let mut victim = Victim::new();
    let data = victim
        .got
        .iter()
        .rfind(|datagram| datagram.bytes[0] == 4 && datagram.bytes[1] == 0);
    let data = data.unwrap().clone();
    for length in [1500, 9000, 65_507, 65_535, 70_000, 200_000] {
        for first in 0..=4 {
            let mut bytes = data.bytes.clone();
            bytes[0] = first;
            // A counter that has not been used.
            bytes[8..16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
            bytes.resize(length, 0xAA);
            victim.suffer(SocketId::MAIN_V6, data.from, &bytes);
        }
    }
    victim.works();
}

#[test]
fn a_stun_answer_counts_only_from_the_server_that_was_asked() {
    // Forged answers, with the right transaction but from elsewhere, do not move our candidates.
    let mut world = World::pair(2);
    world.tap = Some(Vec::new());
    world.run_for(seconds(50));
    let tap = world.tap.take().unwrap();
    let candidates = world.hosts[A].engine.candidates();
    let requests = tap
        .iter()
        .filter(|datagram| datagram.from.ip() == world.hosts[A].public);
    let forged: Vec<_> = requests
        .map(|request| {
            let mut id = [0; 12];
            id.copy_from_slice(&request.bytes[8..20]);
            let id = punch_stun_protocol::TransactionId(id);
            punch_stun_protocol::Writer::new(punch_stun_protocol::Class::Success, id)
                .xor_mapped("6.6.6.6:666".parse().unwrap())
                .finish()
        })
        .collect();
    assert!(!forged.is_empty());
    for bytes in forged {
        world.receive(A, "203.0.113.66:3478".parse().unwrap(), &bytes);
        world.receive(A, "203.0.113.1:3478".parse().unwrap(), &bytes);
    }
    assert_eq!(world.hosts[A].engine.candidates(), candidates);
}

#[test]
fn any_frames_from_the_server_leave_the_tunnel_alone() {
    let victim = RefCell::new(Victim::new());
    let (a, b, stranger) = {
        let world = &victim.borrow().world;
        (
            world.hosts[A].id(),
            world.hosts[B].id(),
            Bot::stranger().identity.id(),
        )
    };
    let recorded: Vec<_> = victim
        .borrow()
        .world
        .envelopes
        .iter()
        .map(|e| e.2.clone())
        .collect();
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..2000),
        // True envelopes, as they were and changed.
        (select(recorded), any::<Index>(), any::<u8>()).prop_map(
            |(mut envelope, index, change)| {
                let at = index.index(envelope.len());
                envelope[at] ^= change;
                envelope
            }
        ),
    ];
    let who = || select(vec![a, b, stranger]);
    let frame = prop_oneof![
        (who(), bytes).prop_map(|(from, envelope)| Frame::Deliver { from, envelope }),
        who().prop_map(|to| Frame::Unreachable {
            to,
            why: punch_signal_protocol::Unreachable::Full
        }),
        vec(any::<u8>(), 0..200).prop_filter_map("no frame", |bytes| Frame::decode(&bytes).ok()),
    ];
    proptest!(cases(300), |(frame in frame)| {
        let mut victim = victim.borrow_mut();
        victim.world.hear(A, frame);
    });
    let mut victim = victim.into_inner();
    victim.world.run_for(seconds(1));
    victim.works();
}

#[test]
fn any_bytes_from_the_tun_do_no_harm() {
    let bench = RefCell::new(Bench::new(true));
    let own = bench.borrow().own(true);
    let peer = bench.borrow().peers[0].address;
    let good = udp(at(own, 1), at(peer, 2), b"hello");
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..2000),
        (any::<Index>(), any::<u8>(), any::<Index>()).prop_map(move |(index, change, cut)| {
            let mut bytes = good.clone();
            bytes[index.index(good.len())] ^= change;
            bytes.truncate(cut.index(good.len() + 1));
            bytes
        }),
    ];
    proptest!(cases(2000), |(bytes in bytes)| {
        let mut bench = bench.borrow_mut();
        bench.host_sends(&bytes);
        bench.take_inbox(0);
        bench.take_tun();
    });
}

#[test]
fn any_bytes_from_inside_the_tunnel_reach_no_host() {
    let bench = RefCell::new(Bench::new(true));
    let own = bench.borrow().own(true);
    let peer = bench.borrow().peers[0].address;
    bench
        .borrow_mut()
        .forward(&[("tcp", "80", "127.0.0.1:80", None)]);
    let good = udp(at(peer, 1), at(own, 2), b"hello");
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..2000),
        (any::<Index>(), any::<u8>(), any::<Index>()).prop_map(move |(index, change, cut)| {
            let mut bytes = good.clone();
            bytes[index.index(good.len())] ^= change;
            bytes.truncate(cut.index(good.len() + 1));
            bytes
        }),
    ];
    proptest!(cases(2000), |(bytes in bytes)| {
        let mut bench = bench.borrow_mut();
        bench.peer_sends(0, &bytes);
        bench.take_inbox(0);
        assert_eq!(bench.take_tun(), Vec::<Vec<u8>>::new());
    });
}
