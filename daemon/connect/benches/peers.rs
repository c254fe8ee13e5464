//! What one message, one turn and one change cost with few and with many peers: none of them may grow with the number.
#![allow(clippy::unwrap_used, reason = "it is a benchmark")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use punch_connect::{Connector, UserWish};
use punch_packet::PeerHandle;
use punch_signal_protocol::seal::PendingOffer;
use punch_signal_protocol::{Candidate, CandidateKind, Credentials, Frame, Identity, PeerId};
use punch_stun_protocol::{Class, TransactionId, Writer};
use punch_traversal::SocketId;
use support::{SERVER, connector, credentials, description, username};

const PEERS: [u32; 4] = [1, 100, 1_000, 10_000];
/// Checks of a peer that does not answer are over by then.
const QUIET: Duration = Duration::from_secs(30);

fn main() {
    divan::main();
}

/// A check of the peer that was added last.
#[divan::bench(args = PEERS, sample_count = 20, sample_size = 100)]
fn stun_request(bencher: Bencher<'_, '_>, peers: u32) {
    let mut world = World::new(peers);
    let datagram = world.check();
    bencher.bench_local(|| {
        let taken = world.receive(black_box(&datagram));
        assert!(taken);
    });
}

/// An answer to nothing that was asked.
#[divan::bench(args = PEERS, sample_count = 20, sample_size = 100)]
fn stun_response_of_a_stranger(bencher: Bencher<'_, '_>, peers: u32) {
    let mut world = World::new(peers);
    let datagram = Writer::new(Class::Success, TransactionId([7; 12])).finish();
    bencher.bench_local(|| {
        let taken = world.receive(black_box(&datagram));
        assert!(!taken);
    });
}

#[divan::bench(args = PEERS, sample_count = 20, sample_size = 100)]
fn turn_without_work(bencher: Bencher<'_, '_>, peers: u32) {
    let mut world = World::new(peers);
    bencher.bench_local(|| {
        world.connector.handle_timeout(black_box(world.now));
        world.connector.poll_timeout()
    });
}

/// One more peer that the user wants, and its removal.
#[divan::bench(args = PEERS, sample_count = 20, sample_size = 100)]
fn peer_added_and_removed(bencher: Bencher<'_, '_>, peers: u32) {
    let mut world = World::new(peers);
    let (peer, id) = (PeerHandle(peers), identity(peers).id());
    bencher.bench_local(|| {
        let now = world.now;
        world.connector.add_peer(peer, id, (0, 0));
        world.connector.set_wish(peer, UserWish::Up, now);
        world.connector.remove_peer(peer, now);
        world.discard();
    });
}

/// A machine whose peers are all wanted, have all made an offer, and do not answer.
struct World {
    connector: Connector,
    now: Instant,
    ours: Credentials,
    theirs: Credentials,
}

impl World {
    fn new(peers: u32) -> Self {
        let (mut connector, to, mut now) = connector();
        let theirs = credentials(2);
        let mut last = None;
        for number in 0..peers {
            let peer = PeerHandle(number);
            let identity = identity(number);
            connector.add_peer(peer, identity.id(), (0, 0));
            connector.set_wish(peer, UserWish::Up, now);
            let (pending, envelope) = offer(&identity, &to, theirs.clone());
            let from = identity.id();
            connector.handle_frame(SERVER, Frame::Deliver { from, envelope }, now);
            let signal = connector.poll_signal().unwrap();
            last = Some((pending, signal.frame));
        }
        let Some((pending, Frame::Send { envelope, .. })) = last else {
            unreachable!("there is at least one peer, and its offer was answered");
        };
        let (_, answer) = pending.open_answer(&envelope).ok().unwrap();
        let end = now + QUIET;
        while let Some(at) = connector.poll_timeout().filter(|at| *at <= end) {
            now = at;
            connector.handle_timeout(now);
            while connector.poll_transmit().is_some() {}
        }
        let mut world = Self {
            connector,
            now: end,
            ours: answer.credentials,
            theirs,
        };
        world.discard();
        world
    }

    /// A connectivity check of the last peer.
    fn check(&self) -> Vec<u8> {
        let name = username(&self.ours, &self.theirs);
        Writer::new(Class::Request, TransactionId([3; 12]))
            .username(name.as_bytes())
            .priority(1)
            .finish_with_integrity(&self.ours.password)
    }

    fn receive(&mut self, datagram: &[u8]) -> bool {
        let from = SocketAddr::from(([203, 0, 113, 5], 5000));
        let taken = self
            .connector
            .handle_stun(SocketId::MAIN_V4, None, from, datagram, self.now);
        self.discard();
        taken
    }

    fn discard(&mut self) {
        while self.connector.poll_transmit().is_some() {}
        while self.connector.poll_event().is_some() {}
        while self.connector.poll_signal().is_some() {}
    }
}

fn identity(number: u32) -> Identity {
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    Identity::from_seed(&seed)
}

fn offer(identity: &Identity, to: &PeerId, credentials: Credentials) -> (PendingOffer, Vec<u8>) {
    let address = SocketAddr::from(([203, 0, 113, 5], 5000));
    let candidates = vec![Candidate::new(CandidateKind::Host, address)];
    let description = description(credentials, candidates);
    PendingOffer::seal(identity, to, description, [9; 32]).unwrap()
}
