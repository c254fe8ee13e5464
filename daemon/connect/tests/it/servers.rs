//! A signalling server that does its worst: it gets this machine neither to talk without end nor off the other servers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use punch_connect::{Connector, ConnectorEvent, LinkState, News, ServerId, SessionEvent, UserWish};
use punch_packet::PeerHandle;
use punch_signal_protocol::seal::{Kind, OpenedOffer};
use punch_signal_protocol::{Capabilities, Description, Frame, Identity, PeerId, Unreachable};

use crate::support::{connector, credentials, description};

const LIAR: ServerId = ServerId(1);
const HONEST: ServerId = ServerId(2);

/// A connector with peers that are wanted and away, at two servers.
struct World {
    connector: Connector,
    own: PeerId,
    now: Instant,
    peers: Vec<Identity>,
    events: Vec<ConnectorEvent>,
}

impl World {
    fn new(peers: u32) -> Self {
        let (mut connector, own, now) = connector();
        connector.handle_server_up(LIAR, now);
        connector.handle_server_up(HONEST, now);
        let identities = (0..peers).map(|number| {
            let mut seed = [5; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            Identity::from_seed(&seed)
        });
        let mut world = Self {
            connector,
            own,
            now,
            peers: identities.collect(),
            events: Vec::new(),
        };
        for (number, identity) in (0..).zip(&world.peers) {
            let handle = PeerHandle(number);
            world.connector.add_peer(handle, identity.id(), (0, 0));
            world.connector.set_wish(handle, UserWish::Up, world.now);
        }
        world
    }

    fn id(&self, peer: usize) -> PeerId {
        self.peers[peer].id()
    }

    fn say(&mut self, server: ServerId, frame: Frame) {
        self.connector.handle_frame(server, frame, self.now);
    }

    fn unreachable(&mut self, server: ServerId, peer: usize) {
        let (to, why) = (self.id(peer), Unreachable::Offline);
        self.say(server, Frame::Unreachable { to, why });
    }

    /// The frames that went to each server.
    fn sent(&mut self) -> Sent {
        while let Some(event) = self.connector.poll_event() {
            self.events.push(event);
        }
        while self.connector.poll_transmit().is_some() {}
        let mut sent = Sent::default();
        while let Some(signal) = self.connector.poll_signal() {
            sent.0.entry(signal.server).or_default().push(signal.frame);
        }
        sent
    }

    fn run(&mut self, time: Duration) -> Sent {
        let (end, mut sent) = (self.now + time, Sent::default());
        loop {
            let next = self.connector.poll_timeout().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            self.connector.handle_timeout(self.now);
            sent.add(self.sent());
            if next.is_none() {
                return sent;
            }
        }
    }

    fn stamps(&self) -> usize {
        let stamps =
            |event: &&ConnectorEvent| matches!(event, ConnectorEvent::News(News::Stamps { .. }));
        self.events.iter().filter(stamps).count()
    }
}

#[derive(Default)]
struct Sent(BTreeMap<ServerId, Vec<Frame>>);

impl Sent {
    fn add(&mut self, more: Self) {
        for (server, frames) in more.0 {
            self.0.entry(server).or_default().extend(frames);
        }
    }

    fn to(&self, server: ServerId) -> &[Frame] {
        self.0.get(&server).map_or(&[], Vec::as_slice)
    }

    /// The offers to this peer that went to a server.
    fn offers(&self, server: ServerId, peer: PeerId) -> Vec<&[u8]> {
        let frames = self.to(server).iter();
        frames
            .filter_map(|frame| match frame {
                Frame::Send { to, envelope }
                    if *to == peer && Kind::of(envelope) == Some(Kind::Offer) =>
                {
                    Some(envelope.as_slice())
                }
                _ => None,
            })
            .collect()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_server_that_loses_and_finds_a_peer_a_thousand_times_hears_the_offer_once_more_and_no_other_server_does()
 {
    let mut world = World::new(1);
    let peer = world.id(0);
    let first = world.sent();
    let offer = first.offers(HONEST, peer)[0].to_vec();

    for _ in 0..1000 {
        world.unreachable(LIAR, 0);
        world.say(LIAR, Frame::Appeared(peer));
    }

    let sent = world.sent();
    assert_eq!(
        sent.offers(LIAR, peer),
        [offer.as_slice()],
        "the same offer"
    );
    assert_eq!(sent.to(LIAR).len(), 1);
    assert_eq!(sent.to(HONEST), []);
    assert_eq!(world.stamps(), 1);
    // It may go on: no server hears more than an offer in three seconds.
    let mut sent = Sent::default();
    for _ in 0..600 {
        world.unreachable(LIAR, 0);
        world.say(LIAR, Frame::Appeared(peer));
        sent.add(world.run(Duration::from_millis(100)));
    }
    assert!(sent.to(HONEST).len() <= 20, "{}", sent.to(HONEST).len());
    assert!(sent.to(LIAR).len() <= 41, "{}", sent.to(LIAR).len());
    assert!(world.stamps() <= 22);
}

/// The offer over the honest server is not forgotten, nor made useless by newer ones, while the liar talks.
#[test]
fn an_answer_over_the_honest_server_is_taken_whatever_another_one_says() {
    let mut world = World::new(1);
    let peer = world.id(0);
    world.sent();
    let mut answered = None;
    for round in 0..200 {
        world.unreachable(LIAR, 0);
        world.say(LIAR, Frame::Appeared(peer));
        let sent = world.run(Duration::from_millis(100));
        let last = sent.offers(HONEST, peer).last().map(|offer| offer.to_vec());
        if let Some(offer) = last.filter(|_| round > 50) {
            let opened = OpenedOffer::open(&world.peers[0], &world.own, &offer, [1; 32]).unwrap();
            let description = Description {
                capabilities: Capabilities::PEER,
                ..description(credentials(2), Vec::new())
            };
            let (_, answer) = opened.answer(description, [2; 32]).unwrap();
            // The answer takes two seconds on its way.
            answered = Some((round + 20, answer));
        }
        if let Some((_, envelope)) = answered.take_if(|(at, _)| *at == round) {
            let from = peer;
            world.say(HONEST, Frame::Deliver { from, envelope });
            let status = world.connector.link_status(PeerHandle(0), world.now);
            assert!(status.unwrap().agent.is_some(), "the checks have begun");
            return;
        }
    }
    panic!("no offer went out over the honest server");
}

#[test]
fn many_peers_that_appear_again_and_again_are_offered_to_in_turn_and_within_every_server_s_limit() {
    let mut world = World::new(300);
    let mut frames: BTreeMap<ServerId, usize> = BTreeMap::new();
    let (start, mut offers) = (world.now, BTreeMap::new());
    for _ in 0..300 {
        for peer in 0..300 {
            let id = world.id(peer);
            world.unreachable(LIAR, peer);
            world.say(LIAR, Frame::Appeared(id));
        }
        let sent = world.run(Duration::from_millis(100));
        for server in [LIAR, HONEST] {
            let count = frames.entry(server).or_default();
            *count += sent.to(server).len();
            let allowed = 48 + 40 * (world.now - start).as_millis() / 1000 + 1;
            assert!(*count as u128 <= allowed, "{count} of {allowed}");
        }
        for peer in 0..300 {
            *offers.entry(peer).or_insert(0) += sent.offers(HONEST, world.id(peer)).len();
        }
    }
    // 30 s, 25 offers a second: each of the 300 had its turn, most twice and more.
    assert!(
        offers.values().all(|count| (1..=10).contains(count)),
        "{offers:?}"
    );
    let all: usize = offers.values().sum();
    assert!(all <= 32 + 25 * 30, "{all}");
}

#[test]
fn a_user_and_another_server_do_not_wait_behind_a_server_that_names_all_peers() {
    let mut world = World::new(300);
    world.run(seconds(20));
    let (wanted, found) = (world.id(0), world.id(299));
    // Until the two of whom the liar does not speak have had no offer for more than three seconds.
    let mut quiet = 0;
    while quiet < 32 {
        for peer in 1..299 {
            let id = world.id(peer);
            world.say(LIAR, Frame::Appeared(id));
        }
        let sent = world.run(Duration::from_millis(100));
        let offers = [wanted, found].map(|id| sent.offers(HONEST, id).len());
        quiet = if offers == [0, 0] { quiet + 1 } else { 0 };
    }
    world.connector.retry(PeerHandle(0), world.now);
    world.say(HONEST, Frame::Appeared(found));
    let sent = world.run(Duration::from_millis(200));
    assert_eq!(sent.offers(HONEST, wanted).len(), 1);
    assert_eq!(sent.offers(HONEST, found).len(), 1);
}

#[test]
fn garbage_in_the_name_of_many_peers_is_opened_up_to_a_bound_and_no_other_server_s_is_barred() {
    let mut world = World::new(40);
    world.run(seconds(5));
    let dropped = world.connector.dropped_envelopes().unusable;
    for round in 0..50_u8 {
        for peer in 0..40 {
            let envelope = [vec![1 + round % 4], vec![round; 1400]].concat();
            let from = world.id(peer);
            world.say(LIAR, Frame::Deliver { from, envelope });
        }
    }
    let now = world.connector.dropped_envelopes().unusable;
    assert_eq!(now - dropped, 2000);
    assert_eq!(world.sent().to(HONEST), []);
    // The peer's own offer over the honest server is answered.
    let sealed = punch_signal_protocol::seal::PendingOffer::seal(
        &world.peers[7],
        &world.own,
        description(credentials(9), Vec::new()),
        [3; 32],
    );
    let from = world.id(7);
    let envelope = sealed.unwrap().1;
    world.run(seconds(3));
    world.say(HONEST, Frame::Deliver { from, envelope });
    let sent = world.sent();
    let answers = sent.to(HONEST).iter().filter(|frame| {
        matches!(frame, Frame::Send { envelope, .. } if Kind::of(envelope) == Some(Kind::Answer))
    });
    assert_eq!(answers.count(), 1);
}

/// Offers that open and are new, as fast as the peer can make them.
#[test]
fn a_peer_that_offers_without_end_is_answered_once_a_second() {
    let mut world = World::new(1);
    world.run(seconds(30));
    let from = world.id(0);
    let mut answers = 0;
    for round in 0..100_u64 {
        let description = Description {
            stamp: description(credentials(1), Vec::new()).stamp + 30_000 + round,
            ..description(credentials(1), Vec::new())
        };
        let seed = [u8::try_from(round).unwrap(); 32];
        let sealed = punch_signal_protocol::seal::PendingOffer::seal(
            &world.peers[0],
            &world.own,
            description,
            seed,
        );
        let envelope = sealed.unwrap().1;
        world.say(HONEST, Frame::Deliver { from, envelope });
        let sent = world.run(Duration::from_millis(100));
        answers += sent
            .to(HONEST)
            .iter()
            .filter(|frame| {
                matches!(frame, Frame::Send { envelope, .. } if Kind::of(envelope) == Some(Kind::Answer))
            })
            .count();
    }
    assert!((15..=18).contains(&answers), "{answers}");
}

#[test]
fn a_server_that_comes_and_goes_costs_the_other_one_nothing() {
    let mut world = World::new(20);
    world.run(seconds(1));
    let mut sent = Sent::default();
    for _ in 0..40 {
        world.connector.handle_server_down(LIAR, world.now);
        world.connector.handle_server_up(LIAR, world.now);
        for peer in 0..20 {
            let id = world.id(peer);
            world.say(LIAR, Frame::Appeared(id));
        }
        sent.add(world.run(Duration::from_millis(250)));
    }
    // Ten seconds: no more than an offer each three seconds for each of the twenty peers.
    assert!(sent.to(HONEST).len() <= 20 * 4, "{}", sent.to(HONEST).len());
}

/// An offer that one server cannot deliver is doubted there alone.
#[test]
fn a_peer_is_offline_only_when_every_server_has_said_so() {
    let mut world = World::new(1);
    world.sent();
    world.unreachable(LIAR, 0);
    assert_eq!(
        world.connector.link_state(PeerHandle(0)),
        LinkState::Connecting
    );
    world.unreachable(HONEST, 0);
    assert_eq!(
        world.connector.link_state(PeerHandle(0)),
        LinkState::Waiting
    );
    let peer = world.id(0);
    world.say(HONEST, Frame::Appeared(peer));
    assert_eq!(
        world.connector.link_state(PeerHandle(0)),
        LinkState::Connecting
    );
    let sent = world.sent();
    assert_eq!(sent.offers(HONEST, peer).len(), 1);
    assert_eq!(sent.to(LIAR), []);
}

/// Removed on one side, and added again: what waited for it is gone, and it is found as before.
#[test]
fn a_peer_that_is_removed_waits_for_nothing_and_one_that_is_added_again_is_called() {
    let mut world = World::new(200);
    let (handle, peer) = (PeerHandle(199), world.id(199));
    assert_eq!(
        world.sent().offers(HONEST, peer).len(),
        0,
        "its turn has not come"
    );
    world.connector.remove_peer(handle, world.now);
    let sent = world.run(seconds(30));
    assert_eq!(sent.offers(HONEST, peer).len(), 0);
    assert!(!sent.to(HONEST).contains(&Frame::Watch(peer)));
    world.connector.add_peer(handle, peer, (0, 0));
    world.connector.set_wish(handle, UserWish::Up, world.now);
    let sent = world.run(seconds(1));
    assert_eq!(sent.offers(HONEST, peer).len(), 1);
    let closed = SessionEvent::Closed { peer: handle };
    assert!(world.events.contains(&ConnectorEvent::Session(closed)));
}

#[test]
fn goodbyes_do_not_wait_when_the_machine_stops() {
    let mut world = World::new(1);
    for peer in 1..100 {
        let identity = Identity::from_seed(&[peer; 32]);
        let handle = PeerHandle(peer.into());
        world.connector.add_peer(handle, identity.id(), (0, 0));
        let sealed = punch_signal_protocol::seal::PendingOffer::seal(
            &identity,
            &world.own,
            description(credentials(peer), Vec::new()),
            [peer; 32],
        );
        let (from, envelope) = (identity.id(), sealed.unwrap().1);
        world.say(HONEST, Frame::Deliver { from, envelope });
        world.run(Duration::from_millis(40));
    }
    world.connector.shut_down();
    let sent = world.sent();
    let notes = sent.to(HONEST).iter().filter(|frame| {
        matches!(frame, Frame::Send { envelope, .. } if Kind::of(envelope) == Some(Kind::Note))
    });
    assert_eq!(notes.count(), 99);
}
