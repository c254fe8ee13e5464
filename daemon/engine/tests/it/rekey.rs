//! WireGuard's own new handshakes, beside the exchanges of signalling. The peer is made by hand: boringtun renews keys by
//! the real clock, and here it shall do so when the test says.

use std::net::SocketAddr;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use punch_engine::LinkState;
use punch_signal_protocol::Credentials;
use punch_signal_protocol::seal::PresharedKey;
use punch_stun_protocol::{Class, Message, TransactionId, Writer};

use crate::bot::Bot;
use crate::packets::{at, udp};
use crate::world::{A, B, World, millis, seconds};

/// One exchange with A, as its offerer sees it.
struct Exchange {
    ours: Credentials,
    theirs: Credentials,
    preshared: PresharedKey,
}

struct Caller {
    world: World,
    bot: Bot,
}

impl Caller {
    fn new() -> Self {
        let mut world = World::pair(1);
        world.sign_out(B);
        world.grant(A, B, true);
        world.run_for(seconds(1));
        let bot = Bot::new(world.hosts[B].identity.clone());
        Self { world, bot }
    }

    fn exchange(&mut self) -> Exchange {
        let a = self.world.hosts[A].id();
        self.world.run_for(seconds(1));
        let description = self.bot.description(self.world.wall(), &[]);
        let ours = description.credentials.clone();
        let (pending, offer) = self.bot.offer_with(a, description);
        self.world.hear(A, self.bot.deliver(offer));
        let (_, _, answer) = self.world.envelopes.last().unwrap();
        let (exchange, theirs) = pending.open_answer(answer).ok().unwrap();
        Exchange {
            ours,
            theirs: theirs.credentials,
            preshared: exchange.preshared_key().unwrap().clone(),
        }
    }

    /// A check from `from`; A's answer and its own check come to `astray`.
    fn check(&mut self, exchange: &Exchange, from: SocketAddr) {
        let hex = |bytes: [u8; 8]| bytes.map(|byte| format!("{byte:02x}")).concat();
        let name = [hex(exchange.theirs.fragment), hex(exchange.ours.fragment)].join(":");
        let request = Writer::new(Class::Request, TransactionId([from.port() as u8; 12]))
            .username(name.as_bytes())
            .priority(1)
            .finish_with_integrity(&exchange.theirs.password);
        self.world.receive(A, from, &request);
    }

    /// Answers the checks that A has sent to `address`.
    fn answer(&mut self, exchange: &Exchange, address: SocketAddr) {
        for bytes in self.received(address) {
            let Ok(message) = Message::parse(&bytes) else {
                continue;
            };
            if message.class == Class::Request && message.verify_integrity(&exchange.ours.password)
            {
                let answer = Writer::new(Class::Success, message.transaction)
                    .xor_mapped(at(self.world.hosts[A].public.into(), 51_820))
                    .finish_with_integrity(&exchange.ours.password);
                self.world.receive(A, address, &answer);
            }
        }
    }

    /// What A has sent to `address`.
    fn received(&mut self, address: SocketAddr) -> Vec<Vec<u8>> {
        self.world.run_for(millis(20));
        let astray = std::mem::take(&mut self.world.astray);
        let (here, elsewhere) = astray
            .into_iter()
            .partition(|datagram| datagram.to == address);
        self.world.astray = elsewhere;
        here.into_iter().map(|datagram| datagram.bytes).collect()
    }

    fn tunn(&self, exchange: &Exchange, index: u32) -> Tunn {
        let secret = StaticSecret::from(self.bot.identity.x25519_secret().to_bytes());
        let a = PublicKey::from(self.world.hosts[A].id().x25519());
        Tunn::new(
            secret,
            a,
            Some(*exchange.preshared.as_bytes()),
            None,
            index,
            None,
        )
    }

    /// Shakes hands; returns whether A's answer was one.
    fn shake(&mut self, tunn: &mut Tunn, address: SocketAddr) -> bool {
        let mut buffer = [0; 200];
        let TunnResult::WriteToNetwork(bytes) = tunn.format_handshake_initiation(&mut buffer, true)
        else {
            panic!("no initiation");
        };
        let initiation = bytes.to_vec();
        self.world.receive(A, address, &initiation);
        let mut done = false;
        for bytes in self.received(address) {
            let mut buffer = [0; 2000];
            if let TunnResult::WriteToNetwork(reply) = tunn.decapsulate(None, &bytes, &mut buffer) {
                let reply = reply.to_vec();
                self.world.receive(A, address, &reply);
                done = true;
            }
        }
        done
    }

    /// A packet through `tunn` that arrives at A's TUN, and one back.
    fn works(&mut self, tunn: &mut Tunn, address: SocketAddr) -> bool {
        let b = self.world.hosts[B].overlay(true);
        let a = self.world.hosts[A].overlay(true);
        let packet = udp(at(b, 1), at(a, 2), b"there");
        let mut buffer = [0; 2000];
        let TunnResult::WriteToNetwork(bytes) = tunn.encapsulate(&packet, &mut buffer) else {
            return false;
        };
        let bytes = bytes.to_vec();
        self.world.receive(A, address, &bytes);
        if self.world.hosts[A].take_tun() != [packet] {
            return false;
        }
        let back = udp(at(a, 2), at(b, 1), b"back");
        self.world.send(A, &back);
        self.received(address).iter().any(|bytes| {
            let mut buffer = [0; 2000];
            matches!(
                tunn.decapsulate(None, bytes, &mut buffer),
                TunnResult::WriteToTunnelV6(packet, _) if packet == back
            )
        })
    }

    /// A connection that stands.
    fn connected(&mut self, address: SocketAddr) -> Tunn {
        let exchange = self.exchange();
        self.check(&exchange, address);
        self.answer(&exchange, address);
        let mut tunn = self.tunn(&exchange, 7);
        assert!(self.shake(&mut tunn, address));
        assert!(self.works(&mut tunn, address));
        assert_eq!(self.world.state(A, B), LinkState::Connected);
        tunn
    }
}

fn here() -> SocketAddr {
    "203.0.113.50:4001".parse().unwrap()
}

fn elsewhere() -> SocketAddr {
    "203.0.113.51:4002".parse().unwrap()
}

#[test]
fn the_peer_renews_its_keys_within_a_session() {
    let mut caller = Caller::new();
    let mut tunn = caller.connected(here());
    for round in 0..5 {
        assert!(caller.shake(&mut tunn, here()), "round {round}");
        assert!(caller.works(&mut tunn, here()), "round {round}");
    }
}

#[test]
fn the_keys_can_be_renewed_beside_an_exchange_that_came_to_nothing() {
    // A second exchange is proven (one check of it arrives), but its own checks are never answered: the first one serves on.
    let mut caller = Caller::new();
    let mut tunn = caller.connected(here());
    let second = caller.exchange();
    caller.check(&second, elsewhere());
    caller.world.run_for(seconds(1));
    assert!(caller.works(&mut tunn, here()), "the old keys still serve");

    // WireGuard asks for new keys after two minutes, each five seconds, and for no longer than a minute has it old ones.
    let renewed = (0..11).any(|_| {
        caller.world.run_for(seconds(5));
        caller.shake(&mut tunn, here())
    });

    assert!(renewed, "A answers with the wrong session's preshared key");
    assert!(caller.works(&mut tunn, here()));
}

#[test]
fn a_second_exchange_replaces_the_first_when_its_handshake_is_done() {
    let mut caller = Caller::new();
    let mut first = caller.connected(here());
    let exchange = caller.exchange();
    caller.check(&exchange, elsewhere());
    caller.answer(&exchange, elsewhere());
    let mut second = caller.tunn(&exchange, 8);
    assert!(caller.works(&mut first, here()) || caller.works(&mut first, elsewhere()));

    assert!(caller.shake(&mut second, elsewhere()));

    assert!(caller.works(&mut second, elsewhere()));
    // The old session opens what is under way for a little longer, and then no more.
    let packet = |caller: &mut Caller, tunn: &mut Tunn| {
        let (a, b) = (
            caller.world.hosts[A].overlay(true),
            caller.world.hosts[B].overlay(true),
        );
        let mut buffer = [0; 2000];
        let TunnResult::WriteToNetwork(bytes) =
            tunn.encapsulate(&udp(at(b, 1), at(a, 2), b"late"), &mut buffer)
        else {
            panic!("no keys");
        };
        let bytes = bytes.to_vec();
        caller.world.receive(A, here(), &bytes);
        caller.world.hosts[A].take_tun().len()
    };
    assert_eq!(packet(&mut caller, &mut first), 1);
    caller.world.run_for(seconds(11));
    assert_eq!(packet(&mut caller, &mut first), 0);
}
