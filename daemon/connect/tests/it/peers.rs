//! How a connector tells its peers apart, and what it does with one that names no candidates.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{SERVER, WALL, connector, credentials, description, username};
use punch_connect::{Connector, ConnectorEvent, LinkState, News, SessionEvent, UserWish};
use punch_packet::PeerHandle;
use punch_signal_protocol::seal::{Exchange, Kind, PendingOffer};
use punch_signal_protocol::{
    Candidate, CandidateKind, Credentials, Description, Frame, Identity, Note, PeerId,
};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use punch_traversal::{SocketId, Transmit};

/// A connector and the peers that have called it.
struct World {
    connector: Connector,
    own: PeerId,
    now: Instant,
    events: Vec<ConnectorEvent>,
    transmits: Vec<Transmit>,
}

/// A peer whose offer was answered.
struct Caller {
    handle: PeerHandle,
    id: PeerId,
    address: SocketAddr,
    ours: Credentials,
    theirs: Credentials,
    exchange: Exchange,
}

impl World {
    fn new() -> Self {
        let (connector, own, now) = connector();
        Self {
            connector,
            own,
            now,
            events: Vec::new(),
            transmits: Vec::new(),
        }
    }

    /// A peer calls, and names its address or no candidate at all.
    fn call(&mut self, number: u8, names_address: bool) -> Caller {
        let host = Candidate::new(CandidateKind::Host, address(number));
        self.call_with(number, if names_address { vec![host] } else { vec![] })
    }

    /// A peer calls, and names these candidates.
    fn call_with(&mut self, number: u8, candidates: Vec<Candidate>) -> Caller {
        self.call_at(number, candidates, WALL)
    }

    /// A peer calls at this time, and names these candidates.
    fn call_at(&mut self, number: u8, candidates: Vec<Candidate>, stamp: u64) -> Caller {
        let identity = Identity::from_seed(&[number; 32]);
        let (handle, id) = (PeerHandle(number.into()), identity.id());
        let address = address(number);
        self.connector.add_peer(handle, id, (0, 0));
        let theirs = credentials(number);
        let description = Description {
            stamp,
            ..description(theirs.clone(), candidates)
        };
        let sealed = PendingOffer::seal(&identity, &self.own, description, [number; 32]);
        let (pending, envelope) = sealed.unwrap();
        self.hear(id, envelope);
        let Frame::Send { envelope, .. } = self.connector.poll_signal().unwrap().frame else {
            panic!("the offer is answered");
        };
        let (exchange, answer) = pending.open_answer(&envelope).ok().unwrap();
        Caller {
            handle,
            id,
            address,
            ours: answer.credentials,
            theirs,
            exchange,
        }
    }

    fn hear(&mut self, from: PeerId, envelope: Vec<u8>) {
        let frame = Frame::Deliver { from, envelope };
        self.connector.handle_frame(SERVER, frame, self.now);
        self.collect();
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let socket = SocketId::MAIN_V4;
        let taken = self
            .connector
            .handle_stun(socket, None, from, datagram, self.now);
        self.collect();
        taken
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut turns = 0;
        while let Some(at) = self.connector.poll_timeout().filter(|at| *at <= end) {
            turns += 1;
            assert!(turns < 10_000, "the connector is due again and again");
            self.now = at.max(self.now);
            self.connector.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    /// Lets time pass while the peer answers every check; returns when offers go out, counted from `since`.
    fn serve_for(&mut self, caller: &Caller, time: Duration, since: Instant) -> Vec<Duration> {
        let (end, mut offers) = (self.now + time, Vec::new());
        loop {
            let next = self.connector.poll_timeout().filter(|at| *at <= end);
            self.now = next.unwrap_or(end).max(self.now);
            self.connector.handle_timeout(self.now);
            self.collect();
            for transmit in std::mem::take(&mut self.transmits) {
                let message = Message::parse(&transmit.bytes).unwrap();
                if transmit.to == caller.address && message.class == Class::Request {
                    let answer = caller.answer_to(message.transaction);
                    self.receive(caller.address, &answer);
                }
            }
            while let Some(signal) = self.connector.poll_signal() {
                let Frame::Send { envelope, .. } = signal.frame else {
                    continue;
                };
                assert_eq!(Kind::of(&envelope), Some(Kind::Offer));
                offers.push(self.now - since);
            }
            if next.is_none() {
                return offers;
            }
        }
    }

    fn collect(&mut self) {
        self.events
            .extend(std::iter::from_fn(|| self.connector.poll_event()));
        self.transmits
            .extend(std::iter::from_fn(|| self.connector.poll_transmit()));
    }

    fn paths(&self) -> Vec<(PeerHandle, SocketAddr)> {
        let news = self.events.iter().filter_map(|event| match event {
            ConnectorEvent::News(News::Selected { peer, path, .. }) => {
                Some((*peer, path.endpoint()?))
            }
            _ => None,
        });
        news.collect()
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, number], 5000))
}

impl Caller {
    /// A connectivity check of this peer's.
    fn check(&self) -> Vec<u8> {
        let name = username(&self.ours, &self.theirs);
        Writer::new(Class::Request, TransactionId([3; 12]))
            .username(name.as_bytes())
            .priority(1)
            .nominate()
            .finish_with_integrity(&self.ours.password)
    }

    /// The answer to the newest check that went to this peer.
    fn answer(&self, world: &World) -> Vec<u8> {
        let mut to_us = world
            .transmits
            .iter()
            .rev()
            .filter(|t| t.to == self.address);
        let check = to_us.find_map(|transmit| {
            let message = Message::parse(&transmit.bytes).unwrap();
            (message.class == Class::Request).then_some(message.transaction)
        });
        self.answer_to(check.unwrap())
    }

    fn answer_to(&self, check: TransactionId) -> Vec<u8> {
        Writer::new(Class::Success, check)
            .xor_mapped(SocketAddr::from(([192, 168, 1, 2], 4000)))
            .finish_with_integrity(&self.theirs.password)
    }
}

#[test]
fn each_check_and_each_answer_finds_its_own_peer_among_many() {
    let mut world = World::new();
    let callers: Vec<_> = (1..=20).map(|number| world.call(number, true)).collect();
    world.run_for(Duration::from_millis(300));
    for caller in callers.iter().rev() {
        let before = world.transmits.len();
        assert!(world.receive(caller.address, &caller.check()));
        let answers = world.transmits[before..].iter().map(|t| t.to);
        assert!(answers.into_iter().all(|to| to == caller.address));
        let answer = caller.answer(&world);
        assert!(world.receive(caller.address, &answer));
        assert_eq!(world.paths().pop(), Some((caller.handle, caller.address)));
        let state = world.connector.link_state(caller.handle);
        assert_eq!(state, LinkState::Connected);
    }
    assert_eq!(world.paths().len(), callers.len());
}

#[test]
fn what_belongs_to_a_peer_that_was_removed_or_to_nobody_is_not_taken() {
    let mut world = World::new();
    let (gone, stays) = (world.call(1, true), world.call(2, true));
    world.run_for(Duration::from_millis(300));
    let answer = gone.answer(&world);
    world.connector.remove_peer(gone.handle, world.now);
    world.collect();
    assert!(!world.receive(gone.address, &gone.check()));
    assert!(!world.receive(gone.address, &answer));
    let unknown = Writer::new(Class::Success, TransactionId([9; 12])).finish();
    assert!(!world.receive(stays.address, &unknown));
    assert!(world.receive(stays.address, &stays.check()));
}

#[test]
fn an_exchange_that_was_replaced_is_no_longer_addressed() {
    let mut world = World::new();
    let caller = world.call(1, true);
    world
        .connector
        .set_wish(caller.handle, UserWish::Down, world.now);
    world.collect();
    assert!(!world.receive(caller.address, &caller.check()));
    assert_eq!(world.connector.link_state(caller.handle), LinkState::Down);
}

#[test]
fn a_caller_without_candidates_is_given_up_after_five_seconds_and_not_before() {
    let mut world = World::new();
    let caller = world.call(1, false);
    world.run_for(Duration::from_millis(4900));
    let state = world.connector.link_state(caller.handle);
    assert_eq!(state, LinkState::Connecting);
    world.run_for(Duration::from_millis(200));
    let state = world.connector.link_state(caller.handle);
    assert_eq!(state, LinkState::Down);
    let closed = ConnectorEvent::Session(SessionEvent::Closed {
        peer: caller.handle,
    });
    assert!(world.events.contains(&closed));
}

#[test]
fn a_candidate_that_is_named_late_is_still_checked() {
    let mut world = World::new();
    let mut caller = world.call(1, false);
    world.run_for(Duration::from_secs(4));
    let candidate = Candidate::new(CandidateKind::Host, caller.address);
    let note = Note::Candidates(vec![candidate]);
    let envelope = caller.exchange.seal(&note).unwrap();
    world.hear(caller.id, envelope);
    world.run_for(Duration::from_secs(1));
    assert!(world.transmits.iter().any(|t| t.to == caller.address));
}

#[test]
fn while_a_path_inside_another_tunnel_serves_an_offer_looks_for_a_better_one_every_ten_minutes() {
    let in_tunnel = Candidate::in_tunnel(address(1));
    let elsewhere = Candidate::new(CandidateKind::Host, address(1));
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (candidate, due) in [
        (in_tunnel, vec![minutes(10), minutes(20)]),
        (elsewhere, vec![]),
    ] {
        let mut world = World::new();
        let caller = world.call_with(1, vec![candidate]);
        world.connector.handle_server_up(SERVER, world.now);
        world.receive(caller.address, &caller.check());
        let mut offers = world.serve_for(&caller, Duration::ZERO, world.now);
        let since = world.now;
        let state = world.connector.link_state(caller.handle);
        assert_eq!(state, LinkState::Connected);

        offers.extend(world.serve_for(&caller, minutes(5), since));
        // The path is in doubt, and answers.
        let appeared = Frame::Appeared(caller.id);
        world.connector.handle_frame(SERVER, appeared, world.now);
        offers.extend(world.serve_for(&caller, minutes(20), since));

        assert_eq!(offers, due);
        assert_eq!(world.paths().len(), 1, "the path is the first one");
    }
}

#[test]
fn after_a_sleep_no_offer_ends_an_exchange_that_has_just_begun() {
    for (calls_again, due) in [(false, 600), (true, 3000)] {
        let mut world = World::new();
        let caller = world.call(1, true);
        world.connector.handle_server_up(SERVER, world.now);
        world.receive(caller.address, &caller.check());
        let offers = world.serve_for(&caller, Duration::from_secs(5), world.now);
        assert_eq!(offers, []);
        if calls_again {
            // It has lost the path meanwhile, and is elsewhere.
            let elsewhere = Candidate::new(CandidateKind::Host, address(9));
            world.call_at(1, vec![elsewhere], WALL + 1);
        }
        world.run_for(Duration::from_millis(100));
        world.connector.handle_resume(world.now);

        let since = world.now;
        let is_offer = |frame: &Frame| match frame {
            Frame::Send { envelope, .. } => Kind::of(envelope) == Some(Kind::Offer),
            _ => false,
        };
        let first = (0..40).find(|_| {
            world.run_for(Duration::from_millis(100));
            let signals = std::iter::from_fn(|| world.connector.poll_signal());
            signals.fold(false, |found, signal| found | is_offer(&signal.frame))
        });
        assert!(first.is_some(), "{calls_again}");
        let waited = (world.now - since).as_millis();
        assert!((due..due + 200).contains(&waited), "{waited} of {due} ms");
    }
}
