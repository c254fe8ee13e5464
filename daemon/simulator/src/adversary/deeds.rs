//! How the adversary does what its program says.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_engine::{
    Change, Engine, EngineConfig, PeerConfig, PeerHandle, PeerKind, RelayPath, SocketId,
};
use punch_signal_protocol::{
    Capabilities, Frame, Identity, Note, PeerId, Prediction, RelayLink, RelayToken, Unreachable,
};
use punch_traversal::{Budget, NatOverrides};

use super::arena::{Arena, Due};
use super::cast::{ALICE, BOB, EVIL, GOOD, HANDLES, MALLORY, WALL};
use super::mallory::{MALLORY as HAND, stranger};
use super::packets::{fragment, icmp, tcp, udp};
use super::program::{Blow, Deed, Inside, Move, News};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
/// The port that the victim shares.
const SHARED: u16 = 80;

/// Makes a move, and plans its repetition.
pub(super) fn make(arena: &mut Arena, mut one: Move) {
    loop {
        act(arena, one.deed, one.count);
        one.count -= 1;
        if one.count == 0 {
            return;
        }
        if !one.pause.is_zero() {
            arena.schedule(one.pause, Due::Move(one));
            return;
        }
    }
}

/// Does it once; `number` is another one each time.
fn act(arena: &mut Arena, deed: Deed, number: u32) {
    match deed {
        Deed::Offer(lie) => {
            let (to, wall) = (arena.id(ALICE), arena.wall());
            if let Some(offer) = arena.mallory.offer(to, lie, wall) {
                arena.pass_on(MALLORY, GOOD, to, offer);
            }
        }
        Deed::Answer(lie) => arena.mallory.answer = lie,
        Deed::Checks(patience) => arena.mallory.patience = patience,
        Deed::Candidates(names) => {
            let candidates = arena.mallory.candidates(names);
            note_to_alice(arena, &Note::Candidates(candidates));
        }
        Deed::Prediction => {
            let port = arena.mallory.dice.below(65_536) as u16;
            let round = number as u8;
            note_to_alice(arena, &Note::Prediction(Prediction { round, port }));
        }
        Deed::Bye => note_to_alice(arena, &Note::Bye),
        Deed::Replay => {
            let count = arena.recorded.envelopes.len();
            if let Some((from, envelope)) =
                arena.recorded.envelopes.get(number as usize % count.max(1))
            {
                let (from, envelope) = (*from, envelope.clone());
                tell(arena, Frame::Deliver { from, envelope });
            }
        }
        Deed::Garbage => {
            let mut envelope = arena.mallory.random().repeat(1 + number as usize % 40);
            envelope[0] = 1 + (number % 4) as u8;
            let from = arena.id(if number.is_multiple_of(2) {
                BOB
            } else {
                MALLORY
            });
            tell(arena, Frame::Deliver { from, envelope });
        }
        Deed::Tell(news, of_bob) => {
            let about = arena.id(if of_bob { BOB } else { MALLORY });
            tell_news(arena, news, about);
        }
        Deed::Mail(mail) => arena.servers.mail = mail,
        Deed::Flap => {
            for up in [false, true] {
                let engine = &mut arena.machines[ALICE].engine;
                engine.handle_server(EVIL, up, arena.now);
                arena.drain(ALICE);
            }
        }
        Deed::Stun(stun) => arena.servers.stun = stun,
        Deed::Datagram(blow) => strike(arena, blow, number),
        Deed::Packet(inside) => send_inside(arena, inside, number),
        Deed::Want(wants) => {
            arena.machines[MALLORY].set_up(HANDLES[ALICE], wants, arena.now);
            arena.drain(MALLORY);
        }
    }
}

fn note_to_alice(arena: &mut Arena, note: &Note) {
    if let Some(note) = arena.mallory.note(note) {
        let to = arena.id(ALICE);
        arena.pass_on(MALLORY, GOOD, to, note);
    }
}

/// The malicious server tells the victim something.
fn tell(arena: &mut Arena, frame: Frame) {
    let engine = &mut arena.machines[ALICE].engine;
    engine.handle_frame(EVIL, frame, arena.now);
    arena.drain(ALICE);
}

fn tell_news(arena: &mut Arena, news: News, about: PeerId) {
    let unreachable = |why| Frame::Unreachable { to: about, why };
    match news {
        News::Appeared => tell(arena, Frame::Appeared(about)),
        News::Offline => tell(arena, unreachable(Unreachable::Offline)),
        News::Full => tell(arena, unreachable(Unreachable::Full)),
        News::Flapping => {
            tell(arena, unreachable(Unreachable::Offline));
            tell(arena, Frame::Appeared(about));
        }
        News::Links => tell_links(arena),
    }
}

/// The malicious server makes relay links, those that it was asked for and others, and lets nonsense come over them.
fn tell_links(arena: &mut Arena) {
    tell(arena, Frame::ServerCapabilities(Capabilities::RELAYING));
    let random = arena.mallory.random();
    let mut made_up = [0; 16];
    made_up.copy_from_slice(&random[..16]);
    let asked = arena.recorded.tokens.last().copied();
    for token in asked.into_iter().chain([RelayToken(made_up)]) {
        arena.recorded.links += 1;
        let link = RelayLink(arena.recorded.links);
        tell(arena, Frame::RelayReady { token, link });
        let copy = arena
            .recorded
            .datagrams
            .first()
            .map(|(_, bytes)| bytes.clone());
        let packets = [random.to_vec(), copy.unwrap_or_default()];
        let path = RelayPath { server: EVIL, link };
        let (engine, now) = (&mut arena.machines[ALICE].engine, arena.now);
        engine.handle_relayed(path, packets.iter().map(Vec::as_slice), now);
        arena.drain(ALICE);
        if random[16] & 1 == 0 {
            tell(arena, Frame::RelayGone(link));
        }
    }
}

/// One datagram to the victim's socket.
fn strike(arena: &mut Arena, blow: Blow, number: u32) {
    let from = match number % 3 {
        0 => HAND,
        _ => stranger(number, 1000 + (number % 1000) as u16),
    };
    let random = arena.mallory.random();
    let with_type = |kind: u8, length: usize| {
        let mut bytes = random.repeat(length / 32 + 1);
        bytes.truncate(length);
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    };
    let (from, bytes) = match blow {
        Blow::Initiation => (from, initiation(arena)),
        Blow::Copy => {
            let count = arena.recorded.datagrams.len();
            let copy = arena.recorded.datagrams.get(number as usize % count.max(1));
            let Some((origin, bytes)) = copy.cloned() else {
                return;
            };
            (
                if number.is_multiple_of(2) {
                    origin
                } else {
                    from
                },
                bytes,
            )
        }
        Blow::Handshake => (
            from,
            with_type(1 + (number % 2) as u8, [148, 92][number as usize % 2]),
        ),
        Blow::Cookie => (from, with_type(3, 64)),
        Blow::Data => (from, with_type(4, 32 + number as usize % 1300)),
        Blow::Stun => (from, arena.mallory.stun()),
        Blow::Check => {
            let Some(check) = arena.mallory.check() else {
                return;
            };
            if from != HAND {
                arena.tally.forged_check(arena.second());
            }
            (from, check)
        }
        Blow::Junk => (from, random.repeat(1 + number as usize % 46)),
    };
    arena.inject(from, &bytes);
}

/// An initiation of somebody whom nobody knows, always the same.
fn initiation(arena: &mut Arena) -> Vec<u8> {
    let victim = arena.id(ALICE).x25519();
    let now = arena.now;
    let recorded = &mut arena.recorded.initiation;
    recorded.get_or_insert_with(|| unknown(victim, now)).clone()
}

/// One packet through the malicious peer's tunnel, if there is one.
fn send_inside(arena: &mut Arena, inside: Inside, number: u32) {
    let [from, to] = [MALLORY, ALICE].map(|index| arena.machines[index].overlay());
    let port = 1024 + (number % 60_000) as u16;
    let (source, shared) = (SocketAddr::new(from, port), SocketAddr::new(to, SHARED));
    let closed = SocketAddr::new(to, port);
    let packets = match inside {
        Inside::Connections => vec![tcp(source, shared, SYN)],
        Inside::Resets => vec![tcp(source, shared, SYN), tcp(source, shared, RST)],
        Inside::Datagrams => vec![udp(source, shared, b"anything")],
        Inside::Echoes => vec![icmp(from, to, 128, &number.to_be_bytes())],
        Inside::Fragments => vec![fragment(from, to, number)],
        Inside::Closed => vec![tcp(source, closed, SYN), udp(source, closed, b"anything")],
        Inside::Forged => {
            let bob = SocketAddr::new(arena.machines[BOB].overlay(), port);
            vec![udp(bob, shared, b"anything"), tcp(bob, closed, SYN)]
        }
        Inside::Errors => {
            let about = udp(closed, source, b"anything");
            let rest = [&[0; 4], &about[..]].concat();
            vec![icmp(from, to, 1, &rest), icmp(from, to, 137, &rest)]
        }
    };
    for packet in packets {
        arena.machines[MALLORY].send(&packet, arena.now);
    }
    arena.drain(MALLORY);
}

/// A handshake initiation for the victim by a machine that it does not know.
fn unknown(victim: [u8; 32], now: Instant) -> Vec<u8> {
    let config = EngineConfig {
        relay: true,
        tcp: true,
        identity: Identity::from_seed(&[77; 32]),
        ipv4_range: None,
        mtu: crate::machine::MTU,
        seed: [77; 32],
        budget: Budget::Normal,
        nat: NatOverrides::default(),
    };
    let mut engine = Engine::new(config, WALL, now);
    engine.handle_socket(SocketId::MAIN_V4, 1, now);
    let victim = PeerConfig {
        handle: PeerHandle(1),
        kind: PeerKind::Wireguard {
            public: victim,
            endpoint: Some(HAND),
            address: None,
            preshared: None,
        },
        up: true,
        blocked: false,
        direct_only: false,
        host: false,
        stamps: (0, 0),
        memory: Vec::new(),
    };
    let change = Change {
        peers: vec![victim],
        ..Change::default()
    };
    engine.apply(change, now);
    engine.handle_timeout(now + Duration::from_millis(250));
    while let Some(job) = engine.poll_job() {
        engine.handle_job(job.perform(), now);
    }
    let train = engine.poll_train();
    train.map_or_else(Vec::new, |train| train.bytes.to_vec())
}
