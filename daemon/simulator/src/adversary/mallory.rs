//! The malicious peer, as far as it is not an engine of its own: it seals what it likes, and knows the credentials of its exchanges.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use punch_signal_protocol::seal::{Exchange, Kind, OpenedOffer, PendingOffer};
use punch_signal_protocol::{
    Allocation, Budget, Candidate, CandidateKind, Capabilities, Credentials, Description,
    Filtering, Identity, Ipv4Range, Mapping, NatSummary, Note, PeerId,
};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_core::RngCore;

use super::program::{Dice, Lie, Names, NatLie, Patience, StampLie};

/// Where it listens with its own hands.
pub(super) const MALLORY: SocketAddr = SocketAddr::new(IpAddr::V4(super::cast::MALLORY_IP), 4000);
/// Exchanges and offers that it keeps.
const KEPT: usize = 4;
const DAY_MS: u64 = 86_400_000;

/// One exchange with the victim.
struct Held {
    exchange: Exchange,
    mine: Credentials,
    theirs: Credentials,
    since: Instant,
}

pub(super) struct Mallory {
    identity: Identity,
    pub(super) dice: Dice,
    offers: VecDeque<(PendingOffer, Credentials)>,
    exchanges: VecDeque<Held>,
    pub(super) patience: Patience,
    /// What it answers to offers; `None` leaves them to its engine.
    pub(super) answer: Option<Lie>,
}

/// A machine that has nothing to do with anybody.
pub(super) fn stranger(number: u32, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([198, 51, 100, 1 + (number % 250) as u8]), port)
}

impl Mallory {
    pub(super) fn new(identity: Identity, dice: Dice) -> Self {
        Self {
            identity,
            dice,
            offers: VecDeque::new(),
            exchanges: VecDeque::new(),
            patience: Patience::AtOnce,
            answer: None,
        }
    }

    pub(super) fn random(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.dice.0.fill_bytes(&mut bytes);
        bytes
    }

    fn transaction(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.dice.0.fill_bytes(&mut id);
        TransactionId(id)
    }

    // --- envelopes ---

    /// An offer to the victim.
    pub(super) fn offer(&mut self, to: PeerId, lie: Lie, wall_ms: u64) -> Option<Vec<u8>> {
        let description = self.describe(lie, wall_ms);
        let (mine, seed) = (description.credentials.clone(), self.random());
        let sealed = PendingOffer::seal(&self.identity, &to, description, seed);
        let (pending, envelope) = sealed.ok()?;
        self.offers.truncate(KEPT - 1);
        self.offers.push_front((pending, mine));
        Some(envelope)
    }

    /// An envelope of the victim's; returns its own answer, if there is one, and whether its engine is not to see it.
    pub(super) fn handle_envelope(
        &mut self,
        from: PeerId,
        envelope: &[u8],
        wall_ms: u64,
        now: Instant,
    ) -> (Option<Vec<u8>>, bool) {
        match (Kind::of(envelope), self.answer) {
            (Some(Kind::Offer), Some(lie)) => {
                (self.answer_offer(from, envelope, lie, wall_ms, now), true)
            }
            (Some(Kind::Answer), _) => (None, self.open_answer(envelope, now)),
            _ => (None, false),
        }
    }

    fn answer_offer(
        &mut self,
        from: PeerId,
        envelope: &[u8],
        lie: Lie,
        wall_ms: u64,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let seeds = [self.random(), self.random()];
        let opened = OpenedOffer::open(&self.identity, &from, envelope, seeds[0]).ok()?;
        let theirs = opened.description.credentials.clone();
        let description = self.describe(lie, wall_ms);
        let mine = description.credentials.clone();
        let (exchange, answer) = opened.answer(description, seeds[1]).ok()?;
        self.hold(exchange, mine, theirs, now);
        Some(answer)
    }

    fn open_answer(&mut self, envelope: &[u8], now: Instant) -> bool {
        for _ in 0..self.offers.len() {
            let Some((pending, mine)) = self.offers.pop_front() else {
                break;
            };
            match pending.open_answer(envelope) {
                Ok((exchange, theirs)) => {
                    self.hold(exchange, mine, theirs.credentials.clone(), now);
                    return true;
                }
                Err((Some(pending), _)) => self.offers.push_back((*pending, mine)),
                Err((None, _)) => {}
            }
        }
        false
    }

    fn hold(&mut self, exchange: Exchange, mine: Credentials, theirs: Credentials, now: Instant) {
        self.exchanges.truncate(KEPT - 1);
        self.exchanges.push_front(Held {
            exchange,
            mine,
            theirs,
            since: now,
        });
    }

    /// A note under the newest exchange.
    pub(super) fn note(&mut self, note: &Note) -> Option<Vec<u8>> {
        self.exchanges.front_mut()?.exchange.seal(note).ok()
    }

    // --- checks ---

    /// A check of the victim's has come to a port of its own: the answer, if it is given now.
    pub(super) fn handle_check(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let message = Message::parse(bytes).ok()?;
        let name = message.username?;
        let held = self
            .exchanges
            .iter()
            .find(|held| name == username(&held.mine, &held.theirs).as_bytes())?;
        let age = now.saturating_duration_since(held.since);
        match self.patience {
            Patience::Never => return None,
            Patience::After(least) | Patience::Probed(least) if age < least => return None,
            Patience::Probed(_) if to == MALLORY => return None,
            Patience::AtOnce | Patience::After(_) | Patience::Probed(_) => {}
        }
        let answer = Writer::new(Class::Success, message.transaction).xor_mapped(from);
        Some(answer.finish_with_integrity(&held.mine.password))
    }

    /// A true check under the newest exchange.
    pub(super) fn check(&mut self) -> Option<Vec<u8>> {
        let transaction = self.transaction();
        let Held { mine, theirs, .. } = self.exchanges.front()?;
        let check = Writer::new(Class::Request, transaction)
            .username(username(theirs, mine).as_bytes())
            .priority(1);
        Some(check.finish_with_integrity(&theirs.password))
    }

    /// STUN messages that belong to nothing.
    pub(super) fn stun(&mut self) -> Vec<u8> {
        let (class, id) = (
            self.dice
                .one([Class::Request, Class::Success, Class::Error]),
            self.transaction(),
        );
        let address = stranger(self.dice.below(250), 7);
        let message = Writer::new(class, id).xor_mapped(address);
        match self.dice.below(3) {
            0 => message.finish(),
            1 => message.username(b"x:y").finish_with_integrity(&[7; 32]),
            _ => message.other(address).sample_ports((1, u16::MAX)).finish(),
        }
    }

    // --- lies ---

    fn describe(&mut self, lie: Lie, wall_ms: u64) -> Description {
        let mut fragment = [0; 8];
        self.dice.0.fill_bytes(&mut fragment);
        Description {
            stamp: match lie.stamp {
                StampLie::Now => wall_ms,
                StampLie::Future => wall_ms + DAY_MS,
                StampLie::Old => wall_ms - DAY_MS,
                StampLie::Largest => u64::MAX,
            },
            credentials: Credentials {
                fragment,
                password: self.random(),
            },
            candidates: self.candidates(lie.names),
            kem: Vec::new(),
            ipv4_range: Some(Ipv4Range::DEFAULT),
            nat: self.nat(lie),
            capabilities: Capabilities::OURS,
        }
    }

    /// Candidates as many as a description holds at the most.
    pub(super) fn candidates(&mut self, names: Names) -> Vec<Candidate> {
        let addresses: Vec<SocketAddr> = match names {
            Names::Itself => vec![MALLORY],
            Names::Strangers(count) => (0..u32::from(count))
                .map(|number| stranger(number, 5000))
                .chain([MALLORY])
                .collect(),
            Names::OneStranger => (0..32).map(|port| stranger(0, 6000 + port)).collect(),
            Names::Ports => (0..8)
                .map(|_| stranger(self.dice.below(3), 1 + self.dice.below(1000) as u16))
                .collect(),
            Names::Lan => (1..=32)
                .map(|last| SocketAddr::new(IpAddr::from([10, 1, 10, last]), 445))
                .collect(),
            Names::Special => [
                "127.0.0.1:53",
                "0.0.0.0:1",
                "255.255.255.255:9",
                "224.0.0.1:5353",
                "169.254.1.1:80",
                "100.64.0.1:1",
                "203.0.113.10:40004",
                "203.0.113.1:3478",
                "[::1]:53",
                "[fe80::1]:1",
                "[ff02::1]:5353",
                "[fd70:756e:6368::1]:1",
                "198.51.100.9:0",
            ]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
            Names::Nobody => Vec::new(),
        };
        let kinds = [
            CandidateKind::Host,
            CandidateKind::ServerReflexive,
            CandidateKind::PortMapped,
        ];
        let kind = match names {
            Names::Ports => CandidateKind::TcpPassive,
            _ => self.dice.one(kinds),
        };
        let candidates = addresses.into_iter();
        candidates
            .map(|address| Candidate::new(kind, address))
            .collect()
    }

    fn nat(&mut self, lie: Lie) -> Option<NatSummary> {
        let named = self.candidates(lie.names).into_iter();
        let addresses = named.filter_map(|candidate| match candidate.address.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let mut addresses: Vec<_> = addresses.collect();
        // So that it is among them itself.
        addresses.reverse();
        addresses.dedup();
        addresses.truncate(8);
        let hard = Mapping::AddressAndPortDependent;
        let (mapping, allocation) = match lie.nat {
            NatLie::Silent => return None,
            NatLie::Open => (Mapping::None, Allocation::Preserving),
            NatLie::Random => (hard, Allocation::Random),
            NatLie::Block(ports) => {
                let (low, high) = (1024, 1023_u16.saturating_add(ports));
                (hard, Allocation::Block { low, high })
            }
            NatLie::Sequential(step) => {
                let others = u16::MAX;
                (hard, Allocation::Sequential { step, others })
            }
            NatLie::Contradiction => (hard, Allocation::Preserving),
        };
        let greedy = NatSummary {
            budget: Budget::Aggressive,
            ..NatSummary::default()
        };
        Some(NatSummary {
            mapping: Some(mapping),
            filtering: Some(Filtering::AddressAndPortDependent),
            allocation: Some(allocation),
            addresses,
            attempt: self.dice.one([0, 0, 1, u8::MAX]),
            ..greedy
        })
    }
}

/// The USERNAME of checks to the agent with one set of credentials from that with another.
fn username(receiver: &Credentials, sender: &Credentials) -> String {
    let mut name = String::with_capacity(33);
    for byte in receiver.fragment {
        let _ = write!(name, "{byte:02x}");
    }
    name.push(':');
    for byte in sender.fragment {
        let _ = write!(name, "{byte:02x}");
    }
    name
}
