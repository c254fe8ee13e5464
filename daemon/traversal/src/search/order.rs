//! Where a search's packets go, and in which order.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::ends::Ends;
use crate::address::FIRST_PORT;
use crate::plan::{HELD, MEETING_SOCKETS, Part, Ports, WINDOW};

/// Held mappings are made once more after this: the first packet may have been lost.
const HOLD_AGAIN: Duration = Duration::from_millis(1200);
/// Targets at which the one who stays (the anchor) waits for the other's sequence.
const ANCHORS: u32 = 4;
/// How far the anchor's targets lie apart.
const ANCHOR_SPACING: u32 = WINDOW / ANCHORS;
/// Seconds between a sample and the packets that it foretells.
const LAG: f64 = 0.2;

/// One round of a search: from what its packets follow.
#[derive(Debug)]
pub(super) struct Round<'a> {
    /// What this side does.
    pub(super) part: Part,
    /// The rounds before this one.
    pub(super) number: u8,
    /// How many sockets send.
    pub(super) sockets: usize,
    /// What is known of the two ends.
    pub(super) ends: &'a Ends,
    /// Where the peer's sequence of ports stands.
    pub(super) their_port: Option<u16>,
}

impl Round<'_> {
    /// The packets of this round, in their order.
    pub(super) fn order(&self, rng: &mut ChaCha8Rng, now: Instant) -> Order {
        match self.part {
            Part::Hold { predict, .. } => {
                let holding = self.sockets - usize::from(predict && self.sockets > 1);
                let mut places = self.ends.known.clone();
                // A hard peer's probes may come from any of its addresses; this side filters by address then, and any port will do.
                if let Some(port) = places.first().map(SocketAddr::port)
                    && self.ends.moving
                {
                    let others = self.ends.addresses.iter();
                    let others = others.map(|ip| SocketAddr::new((*ip).into(), port));
                    places.extend(others);
                    places.sort();
                    places.dedup();
                }
                let packets = (0..holding)
                    .flat_map(|socket| places.iter().map(move |to| (socket, *to)))
                    .collect();
                Order::List {
                    packets,
                    at: 0,
                    again: Some(now + HOLD_AGAIN),
                    repeated: false,
                }
            }
            Part::Probe {
                ports: Ports::Range { low, high },
                ..
            } => self.permutations(low, high, rng),
            Part::Birthday {
                ports: Ports::Range { low, high },
                ..
            } => self.permutations(low, high, rng),
            Part::Probe {
                ports: Ports::After { step, others },
                ..
            } => {
                let port = self.their_port.unwrap_or(FIRST_PORT);
                self.list(around(port, step, others))
            }
            Part::Meet {
                mine,
                theirs,
                anchor,
            } => self.meeting(mine, theirs, anchor, rng),
            // A birthday search is between two that choose at random.
            Part::Birthday {
                ports: Ports::After { .. },
                ..
            } => self.permutations(FIRST_PORT, u16::MAX, rng),
        }
    }

    /// From each socket to all these ports of all addresses.
    fn permutations(&self, low: u16, high: u16, rng: &mut ChaCha8Rng) -> Order {
        let count = u32::from(high - low) + 1;
        let size = u64::from(count) * self.ends.addresses.len() as u64;
        Order::Permutations {
            walks: (0..self.sockets).map(|_| Walk::new(size, rng)).collect(),
            turn: 0,
            addresses: self.ends.addresses.clone(),
            low,
            count,
        }
    }

    /// From the first socket to these ports of all addresses.
    fn list(&self, ports: Vec<u16>) -> Order {
        let addresses = &self.ends.addresses;
        let to = |port: u16| {
            addresses
                .iter()
                .map(move |ip| (0, SocketAddr::new((*ip).into(), port)))
        };
        Order::list(ports.into_iter().flat_map(to).collect())
    }

    /// What one side sends when both must meet at a pair of ports.
    fn meeting(&self, mine: Ports, theirs: Ports, anchor: bool, rng: &mut ChaCha8Rng) -> Order {
        match (mine, theirs) {
            (Ports::After { .. }, Ports::After { step, others }) => {
                let anchoring = anchor == self.number.is_multiple_of(2);
                Order::list(self.two_sequences(step, others, anchoring))
            }
            (Ports::After { .. }, Ports::Range { low, high }) => {
                Order::list(self.sequence_to_range(low, high, rng))
            }
            (Ports::Range { .. }, Ports::After { step, others }) => {
                Order::list(self.range_to_sequence(step, others))
            }
            (Ports::Range { .. }, Ports::Range { low, high }) => self.permutations(low, high, rng),
        }
    }

    /// The anchor sends from all its sockets to one of the other's future ports, then to one further on, and so on; its own
    /// mappings follow each other in the same order. The other one's sequence passes over those ports, and while it does, it
    /// sends to where the anchor's mappings for them lie.
    fn two_sequences(&self, step: i16, others: u16, anchoring: bool) -> Vec<(usize, SocketAddr)> {
        let mut packets = Vec::new();
        let lag = lag(others);
        if anchoring {
            for block in 0..ANCHORS {
                let ahead = block * ANCHOR_SPACING + ANCHOR_SPACING / 2 + lag;
                let to = self.future_port(step, ahead);
                packets.extend((0..self.sockets).map(|socket| (socket, to)));
            }
        } else {
            let width = u32::from(MEETING_SOCKETS);
            for index in 0..WINDOW {
                let block = index / ANCHOR_SPACING;
                let inside = width / 4 + (index * 7) % (width / 2);
                let to = self.future_port(step, block * width + inside + lag);
                packets.push((index as usize % self.sockets, to));
            }
        }
        packets
    }

    /// This side's sequence passes over its window and goes to places of the other's range.
    fn sequence_to_range(
        &self,
        low: u16,
        high: u16,
        rng: &mut ChaCha8Rng,
    ) -> Vec<(usize, SocketAddr)> {
        let count = u32::from(high - low) + 1;
        let places = u64::from(count) * self.ends.addresses.len() as u64;
        let walk = Walk::new(places.max(1), rng).take(WINDOW as usize);
        let packet = |(index, place): (usize, u64)| {
            let port = low + (place % u64::from(count)) as u16;
            let ip = self.address((place / u64::from(count)) as usize);
            (index % self.sockets, SocketAddr::new(ip.into(), port))
        };
        walk.enumerate().map(packet).collect()
    }

    /// From all sockets to all ports over which the other's sequence passes.
    fn range_to_sequence(&self, step: i16, others: u16) -> Vec<(usize, SocketAddr)> {
        let lag = lag(others);
        let mut packets = Vec::new();
        for socket in 0..self.sockets {
            for index in 0..WINDOW {
                // Every socket begins elsewhere, so that the window fills evenly.
                let ahead = 1 + lag + (index + 5 * socket as u32) % WINDOW;
                packets.push((socket, self.future_port(step, ahead)));
            }
        }
        packets
    }

    /// The endpoint that the peer's sequence reaches after `ahead` more ports.
    fn future_port(&self, step: i16, ahead: u32) -> SocketAddr {
        let base = self.their_port.unwrap_or(FIRST_PORT);
        SocketAddr::new(self.address(0).into(), ahead_of(base, step, ahead))
    }

    /// One of the peer's addresses.
    fn address(&self, index: usize) -> Ipv4Addr {
        let addresses = &self.ends.addresses;
        let address = addresses.get(index % addresses.len().max(1)).copied();
        address.unwrap_or(Ipv4Addr::UNSPECIFIED)
    }
}

/// Where packets go next.
#[derive(Debug)]
pub(super) enum Order {
    /// These, one after the other, and all once more at that time.
    List {
        /// The socket and the destination of each packet.
        packets: Vec<(usize, SocketAddr)>,
        /// The next one.
        at: usize,
        /// When all are sent once more.
        again: Option<Instant>,
        /// Whether they are being sent once more.
        repeated: bool,
    },
    /// From each socket in turn to the next of its own permutation of places.
    Permutations {
        /// The permutation of each socket.
        walks: Vec<Walk>,
        /// Packets so far.
        turn: usize,
        /// The addresses that the places lie at.
        addresses: Vec<Ipv4Addr>,
        /// The lowest port of the places.
        low: u16,
        /// The number of ports at each address.
        count: u32,
    },
}

impl Order {
    fn list(packets: Vec<(usize, SocketAddr)>) -> Self {
        Self::List {
            packets,
            at: 0,
            again: None,
            repeated: false,
        }
    }

    /// The next packet's socket and destination, and whether it was not sent before.
    pub(super) fn next_packet(&mut self, now: Instant) -> Option<(usize, SocketAddr, bool)> {
        match self {
            Self::List {
                packets,
                at,
                again,
                repeated,
            } => {
                if *at >= packets.len() && again.is_some_and(|time| time <= now) {
                    *again = None;
                    *repeated = true;
                    *at = 0;
                }
                let (socket, to) = packets.get(*at).copied()?;
                *at += 1;
                // What is repeated has its mapping already.
                Some((socket, to, !*repeated))
            }
            Self::Permutations {
                walks,
                turn,
                addresses,
                low,
                count,
            } => {
                let socket = *turn % walks.len();
                *turn += 1;
                let place = walks[socket].next()?;
                let ip = addresses.get((place / u64::from(*count)) as usize)?;
                let port = *low + (place % u64::from(*count)) as u16;
                Some((socket, SocketAddr::new((*ip).into(), port), true))
            }
        }
    }

    /// Whether the packet that was taken last is the first of its socket in this order.
    pub(super) fn is_first_of(&self, socket: usize) -> bool {
        match self {
            Self::List { packets, at, .. } => {
                let before = &packets[..at.saturating_sub(1)];
                !before.iter().any(|(other, _)| *other == socket)
            }
            Self::Permutations { walks, .. } => walks[socket].index == 1,
        }
    }

    /// When everything is sent once more, if that is still to come.
    pub(super) fn again(&self) -> Option<Instant> {
        match self {
            Self::List { again, .. } => *again,
            Self::Permutations { .. } => None,
        }
    }
}

/// A permutation of `0..size`: no place comes twice.
#[derive(Debug)]
pub(super) struct Walk {
    /// Places so far.
    index: u64,
    stride: u64,
    offset: u64,
    size: u64,
}

impl Walk {
    fn new(size: u64, rng: &mut ChaCha8Rng) -> Self {
        let gcd = |mut a: u64, mut b: u64| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let mut stride = 1 + rng.next_u64() % size.max(1);
        while gcd(stride, size) != 1 {
            stride = 1 + stride % size.max(1);
        }
        Self {
            index: 0,
            stride,
            offset: rng.next_u64() % size.max(1),
            size,
        }
    }
}

impl Iterator for Walk {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        (self.index < self.size).then(|| {
            let place = (self.index * self.stride + self.offset) % self.size;
            self.index += 1;
            place
        })
    }
}

/// How many ports others take between a sample and the packets that it foretells.
fn lag(others: u16) -> u32 {
    (f64::from(others) * LAG) as u32
}

/// The port that a sequence gives out after `ahead` more.
fn ahead_of(port: u16, step: i16, ahead: u32) -> u16 {
    let span = i64::from(u16::MAX - FIRST_PORT) + 1;
    let offset = i64::from(port) - i64::from(FIRST_PORT) + i64::from(step) * i64::from(ahead);
    FIRST_PORT + u16::try_from(offset.rem_euclid(span)).unwrap_or(0)
}

/// Ports that a sequence gives out after this one, the likeliest first, those twice: a packet may be lost.
fn around(port: u16, step: i16, others: u16) -> Vec<u16> {
    // What a peer says of others is a guess at best.
    let core = 24 + u32::from(others).min(1000) / 2;
    // The holder has a row of mappings; its middle is the likeliest, and lies further on where others take ports meanwhile.
    let middle = HELD / 2 + (f64::from(others.min(1000)) * LAG) as u32;
    let mut near: Vec<u32> = (1..=core).collect();
    near.sort_by_key(|ahead| ahead.abs_diff(middle));
    let near: Vec<_> = near
        .into_iter()
        .map(|ahead| ahead_of(port, step, ahead))
        .collect();
    let wide = (core + 1..=(8 * core).min(1024)).map(|ahead| ahead_of(port, step, ahead));
    // A sequence whose step was taken wrongly still passes near by.
    let fine = (1..=4 * core).map(|ahead| ahead_of(port, step.signum(), ahead));
    near.iter()
        .copied()
        .chain(near.iter().copied())
        .chain(wide)
        .chain(fine)
        .collect()
}
