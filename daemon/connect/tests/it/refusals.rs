//! Refusals of offers: a peer that is known hears why, seldom and from nobody else; what a peer says is kept, shown and acted on.

use std::time::{Duration, Instant};

use crate::support::{SERVER, WALL, connector, credentials, description};
use punch_connect::{
    Connector, ConnectorEvent, LinkState, LinkStatus, News, PeerRefusal, ServerId, UserWish,
};
use punch_packet::PeerHandle;
use punch_signal_protocol::noise::SeededResolver;
use punch_signal_protocol::seal::{Kind, OpenedOffer, PendingOffer};
use punch_signal_protocol::{
    Capabilities, Description, Frame, Identity, OfferRefusal, PeerId, RefusalReason,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const OTHER: ServerId = ServerId(2);
const HOUR: u64 = 3_600_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A connector, and peers whose keys the test holds.
struct World {
    connector: Connector,
    own: PeerId,
    now: Instant,
    start: Instant,
    events: Vec<ConnectorEvent>,
}

struct Peer {
    handle: PeerHandle,
    identity: Identity,
}

impl World {
    fn new() -> Self {
        let (connector, own, now) = connector();
        Self {
            connector,
            own,
            now,
            start: now,
            events: Vec::new(),
        }
    }

    fn peer(&mut self, number: u32, stamps: (u64, u64)) -> Peer {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        let identity = Identity::from_seed(&seed);
        let handle = PeerHandle(number);
        self.connector.add_peer(handle, identity.id(), stamps);
        Peer { handle, identity }
    }

    /// What the right clock says.
    fn wall(&self) -> u64 {
        WALL + u64::try_from((self.now - self.start).as_millis()).unwrap()
    }

    fn offer(
        &self,
        peer: &Peer,
        stamp: u64,
        capabilities: Capabilities,
    ) -> (PendingOffer, Vec<u8>) {
        let description = Description {
            stamp,
            capabilities,
            ..description(credentials(3), Vec::new())
        };
        PendingOffer::seal(&peer.identity, &self.own, description, [9; 32]).unwrap()
    }

    /// Brings an envelope over a server; returns the envelopes that go to that peer over that server in return.
    fn hear(&mut self, server: ServerId, peer: &Peer, envelope: &[u8]) -> Vec<Vec<u8>> {
        let from = peer.identity.id();
        let frame = Frame::Deliver {
            from,
            envelope: envelope.to_vec(),
        };
        self.connector.handle_frame(server, frame, self.now);
        let sent = self.collect();
        let all = sent.len();
        let back: Vec<_> = sent
            .into_iter()
            .filter_map(|(over, to, envelope)| (over == server && to == from).then_some(envelope))
            .collect();
        assert_eq!(back.len(), all, "nobody else hears of it");
        back
    }

    fn collect(&mut self) -> Vec<(ServerId, PeerId, Vec<u8>)> {
        while let Some(event) = self.connector.poll_event() {
            self.events.push(event);
        }
        while self.connector.poll_transmit().is_some() {}
        let signals = std::iter::from_fn(|| self.connector.poll_signal());
        signals
            .filter_map(|signal| match signal.frame {
                Frame::Send { to, envelope } => Some((signal.server, to, envelope)),
                _ => None,
            })
            .collect()
    }

    /// Lets time pass; returns what was sent, and when.
    fn run(&mut self, time: Duration) -> Vec<(Duration, PeerId, Vec<u8>)> {
        let (end, mut sent) = (self.now + time, Vec::new());
        loop {
            let next = self.connector.poll_timeout().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            self.connector.handle_timeout(self.now);
            let at = self.now - self.start;
            sent.extend(
                self.collect()
                    .into_iter()
                    .map(|(_, to, envelope)| (at, to, envelope)),
            );
            if next.is_none() {
                return sent;
            }
        }
    }

    fn news(&self) -> Vec<&News> {
        let news = self.events.iter().filter_map(|event| match event {
            ConnectorEvent::News(news) => Some(news),
            ConnectorEvent::Socket(_)
            | ConnectorEvent::Tcp(_)
            | ConnectorEvent::Session(_)
            | ConnectorEvent::Link { .. } => None,
        });
        news.collect()
    }

    fn status(&self, peer: &Peer) -> LinkStatus {
        self.connector.link_status(peer.handle, self.now).unwrap()
    }

    /// A peer that is wanted, and the offer that it gets.
    fn wanted(&mut self) -> (Peer, Vec<u8>) {
        let peer = self.peer(1, (0, 0));
        self.connector.handle_server_up(SERVER, self.now);
        self.connector.set_wish(peer.handle, UserWish::Up, self.now);
        let [(_, _, offer)] = &self.collect()[..] else {
            panic!("one offer goes out");
        };
        (peer, offer.clone())
    }

    /// The peer refuses an offer, with its clock and the newest stamp that it has seen.
    fn refuse(&mut self, peer: &Peer, offer: &[u8], refusal: OfferRefusal) -> Vec<u8> {
        let opened = OpenedOffer::open(&peer.identity, &self.own, offer, [4; 32]).unwrap();
        let envelope = opened.refuse(&refusal).unwrap();
        assert_eq!(self.hear(SERVER, peer, &envelope), Vec::<Vec<u8>>::new());
        envelope
    }
}

fn clock(clock_ms: u64, seen: u64) -> OfferRefusal {
    OfferRefusal {
        reason: RefusalReason::Clock,
        clock_ms,
        seen,
    }
}

fn stamp_of(peer: &Peer, own: PeerId, offer: &[u8]) -> u64 {
    let opened = OpenedOffer::open(&peer.identity, &own, offer, [5; 32]).unwrap();
    opened.description.stamp
}

// --- sending ---

#[test]
fn a_peer_whose_clock_is_wrong_is_told_so_once_in_ten_seconds_over_each_server() {
    let mut world = World::new();
    let peer = world.peer(1, (0, WALL - 5));
    let wrong = WALL + 2 * HOUR;
    let (pending, offer) = world.offer(&peer, wrong, Capabilities::PEER);

    let first = world.hear(SERVER, &peer, &offer);
    let again = world.hear(SERVER, &peer, &offer);
    let elsewhere = world.hear(OTHER, &peer, &offer);

    assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [81]);
    assert_eq!(Kind::of(&first[0]), Some(Kind::Refusal));
    let refusal = pending.open_refusal(&first[0]).ok().unwrap();
    assert_eq!(refusal, clock(WALL, WALL - 5));
    assert_eq!((again.len(), elsewhere.len()), (0, 1));
    world.now += seconds(10);
    let (_, offer) = world.offer(&peer, wrong + 10_000, Capabilities::PEER);
    assert_eq!(world.hear(SERVER, &peer, &offer).len(), 1);
    let stale = News::Stale {
        peer: peer.handle,
        seconds: 7200,
    };
    assert_eq!(world.news(), [&stale; 3]);
    assert_eq!(world.connector.link_state(peer.handle), LinkState::Down);
}

#[test]
fn a_refusal_is_shorter_than_the_offer_and_goes_only_to_those_who_read_it() {
    let mut world = World::new();
    let (peer, removed) = (world.peer(1, (0, 0)), world.peer(2, (0, 0)));
    world.connector.remove_peer(removed.handle, world.now);
    let stranger = Peer {
        handle: PeerHandle(9),
        identity: Identity::from_seed(&[9; 32]),
    };
    let wrong = WALL - 2 * HOUR;
    for (from, capabilities, refusals) in [
        (&peer, Capabilities::OURS, 0),
        (&stranger, Capabilities::PEER, 0),
        (&removed, Capabilities::PEER, 0),
        (&peer, Capabilities::PEER, 1),
    ] {
        world.now += seconds(10);
        let (_, offer) = world.offer(from, wrong, capabilities);
        let sent = world.hear(SERVER, from, &offer);
        assert_eq!(sent.len(), refusals, "{capabilities:?}");
        assert!(sent.iter().all(|refusal| refusal.len() < offer.len() / 10));
    }
    assert_eq!(world.connector.dropped_envelopes().strangers, 2);
}

/// A server has kept an old offer: it learns nothing by it, and the user is not told that a clock is wrong.
#[test]
fn an_old_offer_sent_again_gets_silence_or_what_only_its_sender_could_have_read_then() {
    let mut world = World::new();
    let peer = world.peer(1, (0, 0));
    let (_, offer) = world.offer(&peer, WALL, Capabilities::PEER);
    let answered = world.hear(SERVER, &peer, &offer);
    assert_eq!(Kind::of(&answered[0]), Some(Kind::Answer));
    let answers = |news: &[&News]| {
        let stale = news
            .iter()
            .filter(|news| matches!(news, News::Stale { .. }));
        stale.count()
    };

    // As long as its stamp is in the window, it is a replay.
    world.run(seconds(599));
    assert_eq!(world.hear(SERVER, &peer, &offer), Vec::<Vec<u8>>::new());
    // Later, a machine whose clock went back could have sent it.
    world.run(seconds(600));
    let sent: usize = (0..600)
        .map(|_| {
            world.now += seconds(1);
            world.hear(SERVER, &peer, &offer).len()
        })
        .sum();
    assert_eq!(sent, 60);
    assert_eq!(answers(&world.news()), 0);
    // Its sender has no offer out that it belongs to.
    let (pending, _) = world.offer(&peer, world.wall(), Capabilities::PEER);
    world.now += seconds(10);
    let late = world.hear(SERVER, &peer, &offer);
    drop(pending);
    assert_eq!(late.len(), 1);
}

#[test]
fn a_peer_that_is_down_here_is_told_once_for_each_offer_and_never_answered() {
    let mut world = World::new();
    let peer = world.peer(1, (0, 0));
    world
        .connector
        .set_wish(peer.handle, UserWish::Down, world.now);
    world.collect();
    let (pending, offer) = world.offer(&peer, WALL, Capabilities::PEER);

    let sent = world.hear(SERVER, &peer, &offer);

    let refusal = pending.open_refusal(&sent[0]).ok().unwrap();
    assert_eq!(refusal.reason, RefusalReason::NotWanted);
    world.now += seconds(30);
    assert_eq!(world.hear(SERVER, &peer, &offer), Vec::<Vec<u8>>::new());
    let (_, old) = world.offer(&peer, world.wall(), Capabilities::NONE);
    assert_eq!(world.hear(SERVER, &peer, &old), Vec::<Vec<u8>>::new());
    assert_eq!(world.connector.link_state(peer.handle), LinkState::Down);
}

#[test]
fn an_offer_of_another_version_is_refused_as_such() {
    let mut world = World::new();
    let peer = world.peer(1, (0, 0));
    let (secret, public) = (peer.identity.x25519_secret(), world.own.x25519());
    let resolver = SeededResolver(ChaCha20Rng::from_seed([7; 32]));
    let mut noise = snow::Builder::with_resolver(
        "Noise_IK_25519_AESGCM_SHA256".parse().unwrap(),
        Box::new(resolver),
    )
    .prologue(b"punch envelope v1")
    .and_then(|builder| builder.local_private_key(secret.as_bytes()))
    .and_then(|builder| builder.remote_public_key(&public))
    .and_then(snow::Builder::build_initiator)
    .unwrap();
    let mut envelope = vec![1; 400];
    let length = noise.write_message(&[2; 200], &mut envelope[1..]).unwrap();
    envelope.truncate(1 + length);

    let sent = world.hear(SERVER, &peer, &envelope);
    let again = world.hear(SERVER, &peer, &envelope);

    let mut plain = [0; 81];
    let length = noise.read_message(&sent[0][1..], &mut plain).unwrap();
    let refusal = OfferRefusal::decode(&plain[..length]).unwrap();
    assert_eq!(refusal.reason, RefusalReason::Version);
    assert_eq!(again.len(), 0);
}

#[test]
fn many_peers_with_wrong_clocks_are_told_a_few_a_second() {
    let mut world = World::new();
    let peers: Vec<_> = (1..=50).map(|number| world.peer(number, (0, 0))).collect();
    let mut sent = 0;
    for round in 0..10 {
        for peer in &peers {
            let stamp = WALL + HOUR + round;
            let (_, offer) = world.offer(peer, stamp, Capabilities::PEER);
            sent += world.hear(SERVER, peer, &offer).len();
        }
        world.now += seconds(1);
    }
    assert_eq!(sent, 8 + 2 * 9);
}

// --- receiving ---

#[test]
fn a_refusal_for_the_clocks_is_shown_with_its_age_and_the_next_offer_follows_in_fifteen_seconds() {
    let mut world = World::new();
    let (peer, offer) = world.wanted();

    world.refuse(&peer, &offer, clock(WALL - 2 * HOUR, 0));

    let refusal = PeerRefusal::Clock { ahead_s: 7200 };
    assert_eq!(world.status(&peer).refused, Some((refusal, seconds(0))));
    assert_eq!(world.status(&peer).state, LinkState::Connecting);
    let news = News::Refused {
        peer: peer.handle,
        refusal,
    };
    assert_eq!(world.news().iter().filter(|n| **n == &news).count(), 1);
    let sent = world.run(seconds(14));
    assert_eq!(sent, []);
    assert_eq!(world.status(&peer).refused, Some((refusal, seconds(14))));
    let sent = world.run(seconds(1));
    assert_eq!(sent.len(), 1);

    // The same reason again is no news; however often it comes, the offers keep their distance.
    let mut offer = sent[0].2.clone();
    let before = world.now;
    for _ in 0..10 {
        world.refuse(&peer, &offer, clock(world.wall() - 2 * HOUR, 0));
        offer = world.run(seconds(15)).pop().unwrap().2;
    }
    assert_eq!(world.now - before, seconds(150));
    assert_eq!(world.news().iter().filter(|n| **n == &news).count(), 1);
}

#[test]
fn a_clock_that_is_set_right_brings_an_offer_at_once_with_a_stamp_that_the_peer_takes() {
    for (ahead_s, seen) in [(7_200, 0), (900, 5), (-7_200, 0), (-400_000_000, 0)] {
        let mut world = World::new();
        let wrong = |world: &World| world.wall().checked_add_signed(1000 * ahead_s).unwrap();
        let set = wrong(&world);
        world.connector.handle_wall_clock(set, world.now);
        let (peer, offer) = world.wanted();
        assert_eq!(stamp_of(&peer, world.own, &offer), set);
        let right = world.wall();
        world.refuse(&peer, &offer, clock(right, seen));
        let refusal = PeerRefusal::Clock { ahead_s };
        assert_eq!(world.status(&peer).refused, Some((refusal, seconds(0))));
        // The clock goes on for a while, and its drift is no reason.
        for _ in 0..10 {
            world.now += seconds(1);
            let drifted = wrong(&world) + 50;
            world.connector.handle_wall_clock(drifted, world.now);
        }
        assert_eq!(world.collect(), []);

        world.connector.handle_wall_clock(world.wall(), world.now);

        let sent = world.collect();
        assert_eq!(sent.len(), 1, "{ahead_s} s");
        let stamp = stamp_of(&peer, world.own, &sent[0].2);
        assert_eq!(stamp, world.wall(), "{ahead_s} s");
    }
}

#[test]
fn a_refusal_is_taken_only_for_the_offer_that_is_out_and_only_once() {
    let mut world = World::new();
    let (peer, first) = world.wanted();
    let opened = OpenedOffer::open(&peer.identity, &world.own, &first, [4; 32]).unwrap();
    let late = opened.refuse(&clock(0, 0)).unwrap();
    let second = world.run(seconds(4)).pop().unwrap().2;

    world.hear(SERVER, &peer, &late);
    assert_eq!(world.status(&peer).refused, None);

    let not_wanted = OfferRefusal {
        reason: RefusalReason::NotWanted,
        ..clock(WALL, 0)
    };
    let refusal = world.refuse(&peer, &second, not_wanted);
    world.hear(SERVER, &peer, &refusal);
    world.refuse(&peer, &second, clock(0, 0));
    let (shown, _) = world.status(&peer).refused.unwrap();
    assert_eq!(shown, PeerRefusal::NotWanted);
    assert_eq!(world.run(seconds(59)), []);
    assert_eq!(world.run(seconds(1)).len(), 1);
}

#[test]
fn an_exchange_or_the_end_of_the_wish_ends_what_was_said() {
    let not_wanted = OfferRefusal {
        reason: RefusalReason::Unknown(200),
        ..clock(WALL, 0)
    };
    let refused = || {
        let mut world = World::new();
        let (peer, offer) = world.wanted();
        world.refuse(&peer, &offer, not_wanted);
        let (shown, _) = world.status(&peer).refused.unwrap();
        assert_eq!(shown, PeerRefusal::Unknown);
        (world, peer)
    };
    let (mut world, peer) = refused();
    let (_, call) = world.offer(&peer, WALL, Capabilities::PEER);
    world.hear(SERVER, &peer, &call);
    assert_eq!(world.status(&peer).refused, None);

    let (mut world, peer) = refused();
    world
        .connector
        .set_wish(peer.handle, UserWish::Down, world.now);
    assert_eq!(world.status(&peer).refused, None);
}

/// A server changes the byte that is not sealed, cuts, repeats, and sends what belongs to others.
#[test]
fn a_server_cannot_make_a_refusal() {
    let mut world = World::new();
    let (peer, offer) = world.wanted();
    let opened = OpenedOffer::open(&peer.identity, &world.own, &offer, [4; 32]).unwrap();
    let genuine = opened.refuse(&clock(0, 0)).unwrap();
    world.now += seconds(1);
    for index in 1..genuine.len() {
        world.now += Duration::from_millis(200);
        let mut forged = genuine.clone();
        forged[index] ^= 0x80;
        world.hear(SERVER, &peer, &forged);
        world.hear(SERVER, &peer, &genuine[..index]);
        world.hear(SERVER, &peer, &[vec![4], vec![0; index]].concat());
    }
    assert_eq!(world.status(&peer).refused, None);
    world.now += seconds(1);
    world.hear(SERVER, &peer, &genuine);
    assert!(world.status(&peer).refused.is_some());
}

#[test]
fn the_stamp_of_an_offer_that_comes_too_soon_after_others_is_kept() {
    let mut world = World::new();
    let peer = world.peer(1, (0, 0));
    let mut answers = Vec::new();
    for more in 0..9 {
        let (_, offer) = world.offer(&peer, WALL + more, Capabilities::PEER);
        answers.push(world.hear(SERVER, &peer, &offer).len());
    }
    assert_eq!(answers, [1, 1, 1, 1, 1, 1, 1, 1, 0]);
    let kept = world.news().into_iter().rev().find_map(|news| match news {
        News::Stamps { seen, .. } => Some(*seen),
        _ => None,
    });
    assert_eq!(kept, Some(WALL + 8));
}
