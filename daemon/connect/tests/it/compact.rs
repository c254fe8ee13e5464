//! Slow channels: what goes over them and over no other, and what an envelope that took its time may do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{SERVER, WALL, connector, credentials, description, username};
use punch_connect::{
    Channel, Connector, ConnectorEvent, Contact, LinkState, News, Path, ServerId, SessionEvent,
    UserWish, channel, notes,
};
use punch_packet::PeerHandle;
use punch_signal_protocol::seal::{Exchange, Kind, MAX_COMPACT, OpenedOffer, PendingOffer};
use punch_signal_protocol::{
    Candidate, CandidateKind, Credentials, Description, Frame, Identity, Note, PeerId, Unreachable,
    note_datagram, open_note_datagram,
};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use punch_traversal::SocketId;

const DHT: ServerId = ServerId(7);
const LAN: ServerId = ServerId(8);
const PEER: PeerHandle = PeerHandle(1);
const OTHER: PeerHandle = PeerHandle(2);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn remote() -> SocketAddr {
    ([192, 168, 1, 7], 5000).into()
}

/// A connector, and a peer whose keys the test holds; the connector's key is the larger one, or the smaller one.
struct World {
    connector: Connector,
    own: PeerId,
    peer: Identity,
    now: Instant,
    start: Instant,
    /// Datagrams that are no checks.
    others: Vec<Vec<u8>>,
}

/// What the test knows of an exchange.
struct Met {
    exchange: Exchange,
    ours: Credentials,
    theirs: Credentials,
}

impl World {
    fn new(larger: bool) -> Self {
        let (mut connector, own, now) = connector();
        let mut seeds = (1..).map(|n| Identity::from_seed(&[n; 32]));
        let peer = seeds.find(|peer| (own > peer.id()) == larger).unwrap();
        connector.add_peer(PEER, peer.id(), (0, 0));
        connector.add_peer(OTHER, Identity::from_seed(&[77; 32]).id(), (0, 0));
        Self {
            connector,
            own,
            peer,
            now,
            start: now,
            others: Vec::new(),
        }
    }

    fn up(&mut self, server: ServerId, channel: Channel) {
        channel::handle_up(&mut self.connector, server, channel, self.now);
    }

    fn wall(&self) -> u64 {
        WALL + u64::try_from((self.now - self.start).as_millis()).unwrap()
    }

    fn hear(&mut self, server: ServerId, envelope: Vec<u8>) {
        let from = self.peer.id();
        let frame = Frame::Deliver { from, envelope };
        self.connector.handle_frame(server, frame, self.now);
    }

    /// The envelopes that have gone out, by where and what.
    fn sent(&mut self) -> Vec<(ServerId, PeerId, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(signal) = self.connector.poll_signal() {
            if let Frame::Send { to, envelope } = signal.frame {
                sent.push((signal.server, to, envelope));
            }
        }
        sent
    }

    fn kinds(&mut self, server: ServerId) -> Vec<Kind> {
        let sent = self.sent().into_iter();
        sent.filter(|(over, ..)| *over == server)
            .map(|(_, _, envelope)| Kind::of(&envelope).unwrap())
            .collect()
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.connector.poll_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            self.connector.handle_timeout(self.now);
        }
        self.now = until;
    }

    fn described(&self) -> Description {
        let candidate = Candidate::new(CandidateKind::Host, remote());
        Description {
            stamp: self.wall(),
            ..description(credentials(3), vec![candidate])
        }
    }

    /// The peer's compact offer.
    fn compact(&self) -> (PendingOffer, Vec<u8>) {
        let seed = [(self.now - self.start).as_millis() as u8; 32];
        PendingOffer::seal_compact(&self.peer, &self.own, self.described(), seed).unwrap()
    }

    /// The peer offers over the DHT, and is answered.
    fn meet(&mut self) -> Met {
        let (pending, offer) = self.compact();
        self.hear(DHT, offer);
        let mut sent = self.sent().into_iter();
        let (_, _, answer) = sent.find(|(over, ..)| *over == DHT).unwrap();
        assert_eq!(Kind::of(&answer), Some(Kind::Answer));
        assert!(answer.len() <= MAX_COMPACT);
        let (exchange, theirs) = pending.open_answer(&answer).ok().unwrap();
        assert!(theirs.is_compact());
        Met {
            exchange,
            ours: credentials(3),
            theirs: theirs.credentials,
        }
    }

    /// Both ends check the path between them; returns whether this one knows of the exchange.
    fn check(&mut self, met: &Met) -> bool {
        let id = TransactionId([9; 12]);
        let name = username(&met.theirs, &met.ours);
        let request = Writer::new(Class::Request, id)
            .username(name.as_bytes())
            .priority(1)
            .nominate()
            .finish_with_integrity(&met.theirs.password);
        let socket = SocketId::MAIN_V4;
        let connector = &mut self.connector;
        let taken = connector.handle_stun(socket, None, remote(), &request, self.now);
        while let Some(transmit) = self.connector.poll_transmit() {
            let Ok(message) = Message::parse(&transmit.bytes) else {
                assert_eq!(transmit.to, remote());
                self.others.push(transmit.bytes);
                continue;
            };
            if message.class == Class::Request {
                let answer = Writer::new(Class::Success, message.transaction)
                    .xor_mapped(remote())
                    .finish_with_integrity(&met.ours.password);
                let connector = &mut self.connector;
                connector.handle_stun(socket, None, remote(), &answer, self.now);
            }
        }
        taken
    }

    /// A note of the peer's as a datagram for this machine.
    fn datagram(met: &mut Met, note: &Note) -> Vec<u8> {
        note_datagram(met.theirs.fragment, &met.exchange.seal(note).unwrap())
    }

    fn receive(&mut self, datagram: &[u8]) -> bool {
        let path = Path::direct(SocketId::MAIN_V4, remote());
        notes::handle_datagram(&mut self.connector, path, datagram, self.now)
    }

    /// The notes that have gone out over the path, opened.
    fn notes(&mut self, met: &mut Met) -> Vec<Note> {
        while let Some(transmit) = self.connector.poll_transmit() {
            self.others.push(transmit.bytes);
        }
        let mut notes = Vec::new();
        for datagram in std::mem::take(&mut self.others) {
            if let Some((fragment, note)) = open_note_datagram(&datagram) {
                assert_eq!(fragment, met.ours.fragment);
                notes.push(met.exchange.open(note).unwrap());
            }
        }
        notes
    }

    /// Whether a session was announced, and a path.
    fn told(&mut self) -> (bool, bool) {
        let (mut proven, mut selected) = (false, false);
        while let Some(event) = self.connector.poll_event() {
            match event {
                ConnectorEvent::Session(SessionEvent::Proven { .. }) => proven = true,
                ConnectorEvent::News(News::Selected { .. }) => selected = true,
                _ => {}
            }
        }
        (proven, selected)
    }

    fn contact(&self) -> Contact {
        self.connector.link_status(PEER, self.now).unwrap().contact
    }
}

#[test]
fn a_compact_envelope_counts_over_slow_channels_alone_and_a_full_one_over_quick_ones() {
    let mut world = World::new(false);
    world.up(SERVER, Channel::Server);
    world.up(DHT, Channel::Dht);
    let (_, compact) = world.compact();
    let (_, full) =
        PendingOffer::seal(&world.peer, &world.own, world.described(), [8; 32]).unwrap();

    world.hear(SERVER, compact.clone());
    world.hear(DHT, full.clone());
    assert!(world.sent().is_empty());
    assert_eq!(world.connector.dropped_envelopes().unusable, 2);
    // Neither has used up the stamp of the other.
    world.hear(DHT, compact.clone());
    assert_eq!(world.kinds(DHT), [Kind::Answer]);
    world.run(seconds(1));
    let (_, later) =
        PendingOffer::seal(&world.peer, &world.own, world.described(), [8; 32]).unwrap();
    world.hear(SERVER, later);
    assert_eq!(world.kinds(SERVER), [Kind::Answer]);
    // What comes twice is answered once.
    world.hear(DHT, compact);
    assert!(world.sent().is_empty());
}

#[test]
fn a_slow_channel_gets_compact_offers_less_and_less_often_and_after_a_change() {
    let mut world = World::new(true);
    world.up(SERVER, Channel::Server);
    world.up(DHT, Channel::Dht);
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    let sent = world.sent();
    let over = |server| sent.iter().filter(move |(over, ..)| *over == server);
    let (_, to, compact) = over(DHT).next().unwrap();
    let (_, _, full) = over(SERVER).next().unwrap();
    assert_eq!((over(DHT).count(), over(SERVER).count()), (1, 1));
    assert_eq!(*to, world.peer.id());
    assert!(compact.len() <= MAX_COMPACT && full.len() > MAX_COMPACT);
    let open = |envelope| OpenedOffer::open(&world.peer, &world.own, envelope, [1; 32]).unwrap();
    let (compact, full) = (open(compact).description, open(full).description);
    assert!(compact.stamp < full.stamp, "the quick one is the newer one");

    let (mut pauses, mut last) = (Vec::new(), world.now);
    for _ in 0..1200 {
        world.run(seconds(1));
        if !world.kinds(DHT).is_empty() {
            pauses.push((world.now - last).as_secs());
            last = world.now;
        }
    }
    // An offer of 300 s counts still, whatever the peer's clock says within some minutes.
    let right = [60..70, 60..70, 120..140, 240..270, 300..310];
    assert!(pauses.len() >= right.len(), "{pauses:?}");
    for (pause, right) in pauses.iter().zip(right) {
        assert!(right.contains(pause), "{pauses:?}");
    }
    world.run(seconds(10));
    world.sent();
    let moved = vec![[192, 168, 1, 3].into(), [10, 0, 0, 1].into()];
    let moved = moved.into_iter().map(std::net::IpAddr::into).collect();
    world.connector.handle_addresses(moved, world.now);
    assert_eq!(world.kinds(DHT), [Kind::Offer]);
    world.run(seconds(30));
    assert_eq!(world.kinds(DHT), []);
}

#[test]
fn no_server_is_needed_where_a_slow_channel_is_and_what_it_has_not_delivered_says_nothing() {
    let mut world = World::new(true);
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    assert_eq!(world.contact(), Contact::NoServer);
    world.up(DHT, Channel::Dht);
    assert_eq!(world.kinds(DHT), [Kind::Offer]);
    assert_eq!(world.contact(), Contact::Called);
    assert_eq!(world.connector.link_state(PEER), LinkState::Connecting);
    let frame = Frame::Unreachable {
        to: world.peer.id(),
        why: Unreachable::Offline,
    };
    world.connector.handle_frame(DHT, frame, world.now);
    assert_eq!(world.contact(), Contact::Called);
    world.run(seconds(200));
    assert_eq!(world.contact(), Contact::Silent { has_met: false });
    world.connector.handle_server_down(DHT, world.now);
    assert_eq!(world.contact(), Contact::NoServer);
}

/// A network is no server: what could be reached in it is not said to be missing at one.
#[test]
fn in_a_network_alone_a_peer_that_is_gone_lacks_a_server_and_with_one_it_is_offline() {
    let mut world = World::new(true);
    world.up(LAN, Channel::Lan);
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    assert_eq!(world.kinds(LAN), [Kind::Offer]);
    assert_eq!(world.contact(), Contact::Called);
    let gone = Frame::Unreachable {
        to: world.peer.id(),
        why: Unreachable::Offline,
    };
    world.connector.handle_frame(LAN, gone.clone(), world.now);
    assert_eq!(world.contact(), Contact::NoServer);
    world.up(SERVER, Channel::Server);
    world.run(seconds(200));
    for server in [LAN, SERVER] {
        let frame = gone.clone();
        world.connector.handle_frame(server, frame, world.now);
    }
    assert_eq!(world.contact(), Contact::Offline);
    world.connector.handle_server_down(SERVER, world.now);
    assert_eq!(world.contact(), Contact::NoServer);
}

/// A peer that was stopped and started again is called as soon as it is there, but no more often than any.
#[test]
fn a_peer_that_comes_back_soon_after_its_goodbye_is_called_at_once() {
    let mut world = World::new(true);
    world.up(LAN, Channel::Lan);
    let appeared = Frame::Appeared(world.peer.id());
    world
        .connector
        .handle_frame(LAN, appeared.clone(), world.now);
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    let mut called = 0;
    for round in 0..5_u8 {
        let offers = world.sent().into_iter();
        let offer = offers.map(|(_, _, envelope)| envelope).next_back();
        let Some(offer) = offer else { break };
        called += 1;
        let opened = OpenedOffer::open(&world.peer, &world.own, &offer, [round; 32]).unwrap();
        let (mut exchange, answer) = opened.answer(world.described(), [round; 32]).unwrap();
        world.hear(LAN, answer);
        world.run(Duration::from_millis(100));
        world.hear(LAN, exchange.seal(&Note::Bye).unwrap());
        assert_eq!(world.contact(), Contact::Goodbye);
        assert!(world.sent().is_empty());
        world.run(Duration::from_millis(100));
        world
            .connector
            .handle_frame(LAN, appeared.clone(), world.now);
    }
    assert_eq!(called, 4, "then it waits for its turn");
    world.run(seconds(3));
    assert_eq!(world.kinds(LAN), [Kind::Offer]);
}

#[test]
fn a_person_carries_one_offer_and_only_to_whom_it_is_for() {
    let mut world = World::new(true);
    for peer in [PEER, OTHER] {
        world.connector.set_wish(peer, UserWish::Up, world.now);
    }
    world.up(DHT, Channel::Paste(PEER));
    let sent = world.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1, world.peer.id());
    world.run(seconds(500));
    assert!(world.sent().is_empty());
    // Asked for once more, while an attempt is under way.
    let (_, offer) = world.compact();
    world.hear(DHT, offer);
    assert_eq!(world.kinds(DHT), [Kind::Answer]);
    world.connector.handle_server_down(DHT, world.now);
    world.up(DHT, Channel::Paste(PEER));
    assert_eq!(world.kinds(DHT), [Kind::Offer]);
    let status = world.connector.link_status(OTHER, world.now).unwrap();
    assert_eq!(status.contact, Contact::NoServer);
}

#[test]
fn of_two_offers_that_cross_the_larger_key_s_counts_for_as_long_as_its_answer_may_take() {
    for larger in [true, false] {
        let mut world = World::new(larger);
        world.up(DHT, Channel::Dht);
        world.connector.set_wish(PEER, UserWish::Up, world.now);
        let (_, _, ours) = world.sent().remove(0);
        world.run(seconds(40));
        let (_, theirs) = world.compact();
        world.hear(DHT, theirs);
        let answered = world.kinds(DHT) == [Kind::Answer];
        assert_eq!(answered, !larger);
        if larger {
            // It may be that the peer cannot read what this machine writes.
            world.run(seconds(60));
            let (_, again) = world.compact();
            world.hear(DHT, again);
            assert!(!world.kinds(DHT).contains(&Kind::Answer));
            world.run(seconds(40));
            let (_, again) = world.compact();
            world.hear(DHT, again);
            assert!(world.kinds(DHT).contains(&Kind::Answer));
            continue;
        }
        // The one that has given way does not take an answer to its own offer any more.
        let opened = OpenedOffer::open(&world.peer, &world.own, &ours, [1; 32]).unwrap();
        let (_, answer) = opened.answer(world.described(), [2; 32]).unwrap();
        world.hear(DHT, answer);
        assert_eq!(world.connector.dropped_envelopes().unusable, 1);
    }
}

#[test]
fn an_answer_to_the_last_two_offers_counts_for_ten_minutes() {
    for (which, wait, counts) in [(0, 0, false), (1, 0, true), (2, 0, true), (2, 700, false)] {
        let mut world = World::new(true);
        world.up(DHT, Channel::Dht);
        world.connector.set_wish(PEER, UserWish::Up, world.now);
        let mut offers = Vec::new();
        while offers.len() < 3 {
            let sent = world.sent();
            offers.extend(sent.into_iter().map(|(_, _, envelope)| envelope));
            world.run(seconds(1));
        }
        if wait > 0 {
            world.connector.handle_server_down(DHT, world.now);
            world.run(seconds(wait));
            world.connector.set_wish(PEER, UserWish::Unsaid, world.now);
        }
        let opened = OpenedOffer::open(&world.peer, &world.own, &offers[which], [1; 32]).unwrap();
        let (_, answer) = opened.answer(world.described(), [2; 32]).unwrap();
        world.up(DHT, Channel::Dht);
        world.sent();
        world.hear(DHT, answer);
        let answered = world.contact() == Contact::Answered;
        assert_eq!(answered, counts, "offer {which} after {wait} s");
    }
}

#[test]
fn nothing_is_announced_before_both_have_the_key_and_nothing_is_sent_before_a_check() {
    let mut world = World::new(false);
    world.up(DHT, Channel::Dht);
    let mut met = world.meet();
    let key = met.exchange.kem_note().unwrap();
    // The peer's key has come, and no check: the ciphertext waits.
    assert!(world.receive(&World::datagram(&mut met, &key)));
    assert_eq!(world.notes(&mut met), []);
    assert_eq!(world.told(), (true, false));

    let mut world = World::new(false);
    world.up(DHT, Channel::Dht);
    let mut met = world.meet();
    assert!(world.check(&met));
    assert_eq!(world.told(), (false, false));
    let key = key_of(&met);
    assert!(world.receive(&World::datagram(&mut met, &key)));
    assert_eq!(world.told(), (true, true));
    // Whoever asks again gets the same ciphertext, and no second session.
    let key = key_of(&met);
    assert!(world.receive(&World::datagram(&mut met, &key)));
    let notes = world.notes(&mut met);
    assert_eq!(notes.len(), 2);
    assert_eq!(notes[0], notes[1]);
    assert_eq!(met.exchange.handle_kem(&notes[0]), Ok(true));
    assert_eq!(world.told(), (false, false));
}

fn key_of(met: &Met) -> Note {
    met.exchange.kem_note().unwrap()
}

#[test]
fn what_a_stranger_sends_as_a_note_is_nobody_s() {
    let mut world = World::new(false);
    world.up(DHT, Channel::Dht);
    let mut met = world.meet();
    assert!(world.check(&met));
    let key = key_of(&met);
    let right = World::datagram(&mut met, &key);
    let bye = World::datagram(&mut met, &Note::Bye);
    let mut forged = right.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut elsewhere = right.clone();
    elsewhere[1] ^= 1;
    for wrong in [
        &forged,
        &elsewhere,
        &bye,
        &right[..300].to_vec(),
        &vec![5; 40],
    ] {
        assert!(!world.receive(wrong));
    }
    assert_eq!(
        (world.notes(&mut met).len(), world.told()),
        (0, (false, false))
    );
    assert!(world.receive(&right));
    // Seen before.
    assert!(!world.receive(&right));
    assert_eq!(world.notes(&mut met).len(), 1);
    assert_eq!(world.told(), (true, true));
}

#[test]
fn the_side_that_has_offered_repeats_its_key_and_gives_up_after_ten_seconds() {
    let mut world = World::new(true);
    world.up(DHT, Channel::Dht);
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    let (_, _, offer) = world.sent().remove(0);
    let opened = OpenedOffer::open(&world.peer, &world.own, &offer, [1; 32]).unwrap();
    let theirs = opened.description.credentials.clone();
    let (exchange, answer) = opened.answer(world.described(), [2; 32]).unwrap();
    world.hear(DHT, answer);
    let mut met = Met {
        exchange,
        ours: credentials(3),
        theirs,
    };
    assert_eq!(world.notes(&mut met), [], "no check has succeeded");
    assert!(world.check(&met));
    let (mut notes, mut alive) = (Vec::new(), 0);
    for _ in 0..140 {
        world.run(Duration::from_millis(100));
        // The path answers all the time.
        alive += u32::from(world.check(&met));
        notes.extend(world.notes(&mut met));
    }
    assert_eq!(notes.len(), 40);
    assert!((95..105).contains(&alive), "{alive} tenths of a second");
    assert!(notes.iter().all(|note| *note == notes[0]));
    assert_ne!(world.contact(), Contact::Answered);
    assert!(!world.told().0);
}

/// The machine would be woken without end by a time that has passed.
#[test]
fn a_key_that_is_due_waits_for_a_path_where_the_one_that_was_found_is_lost() {
    let mut world = World::new(true);
    world.up(DHT, Channel::Dht);
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    let (_, _, offer) = world.sent().remove(0);
    let opened = OpenedOffer::open(&world.peer, &world.own, &offer, [1; 32]).unwrap();
    let theirs = opened.description.credentials.clone();
    let (exchange, answer) = opened.answer(world.described(), [2; 32]).unwrap();
    world.hear(DHT, answer);
    let mut met = Met {
        exchange,
        ours: credentials(3),
        theirs,
    };
    assert!(world.check(&met));
    assert_eq!(world.notes(&mut met).len(), 1);
    // After a sleep nothing answers there any more.
    world.connector.handle_resume(world.now);
    let (until, mut woken) = (world.now + seconds(8), 0);
    while let Some(at) = world.connector.poll_timeout().filter(|at| *at <= until) {
        world.now = at.max(world.now);
        world.connector.handle_timeout(world.now);
        woken += 1;
        assert!(
            woken < 2_000,
            "woken without end at {:?}",
            until - world.now
        );
    }
    world.now = until;
    let before = world.notes(&mut met).len();
    assert!(before < 32, "{before} notes went nowhere");
    world.check(&met);
    assert_eq!(world.notes(&mut met).len(), 1, "it goes out with the path");
}

#[test]
fn what_was_under_way_when_the_two_agreed_on_something_newer_begins_nothing() {
    let mut world = World::new(false);
    world.up(SERVER, Channel::Server);
    world.up(DHT, Channel::Dht);
    let (_, late) = world.compact();
    world.run(seconds(1));
    world.connector.set_wish(PEER, UserWish::Up, world.now);
    let sent = world.sent();
    let over = |server| {
        let mut sent = sent.iter().filter(move |(over, ..)| *over == server);
        sent.next().unwrap().2.clone()
    };
    let (slow, quick) = (over(DHT), over(SERVER));
    world.run(seconds(1));
    // An answer over the server to the offer that went over it, and then what was on its way over the DHT.
    let answer = |world: &World, offer: &[u8]| {
        let opened = OpenedOffer::open(&world.peer, &world.own, offer, [1; 32]).unwrap();
        opened.answer(world.described(), [2; 32]).unwrap().1
    };
    let early = answer(&world, &slow);
    world.run(seconds(1));
    let newer = answer(&world, &quick);
    world.hear(SERVER, newer);
    assert_eq!(world.contact(), Contact::Answered);
    let before = world.connector.dropped_envelopes().unusable;
    world.hear(DHT, early);
    world.hear(DHT, late);
    assert_eq!(world.connector.dropped_envelopes().unusable, before + 2);
    assert!(
        world
            .sent()
            .iter()
            .all(|(_, _, it)| Kind::of(it) != Some(Kind::Answer))
    );
}
