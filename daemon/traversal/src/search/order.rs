//! Where a search's packets go, and in which order.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use super::Search;
use crate::plan::{HELD, MEETING_SOCKETS, Part, Ports, WINDOW};
use crate::profile::FIRST_PORT;

/// Held mappings are made once more after this: the first packet may have been lost.
const HOLD_AGAIN: Duration = Duration::from_millis(1200);
/// Targets at which the one who stays waits for the other's sequence, and how far they lie apart.
const ANCHORS: u32 = 4;
const ANCHOR_SPACING: u32 = WINDOW / ANCHORS;
/// Between a sample and the packets that it foretells, so much time passes.
const LAG: f64 = 0.2;

/// Where packets go next.
#[derive(Debug)]
pub(super) enum Order {
    /// These, one after the other, and all once more at that time.
    List {
        packets: Vec<(usize, SocketAddr)>,
        at: usize,
        again: Option<Instant>,
    },
    /// From each socket in turn to the next of its own permutation of places.
    Permutations {
        walks: Vec<Walk>,
        turn: usize,
        addresses: Vec<Ipv4Addr>,
        low: u16,
        count: u32,
    },
}

/// A permutation of `0..size`: no place comes twice.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) index: u64,
    stride: u64,
    offset: u64,
    size: u64,
}

impl Walk {
    pub(super) fn new(size: u64, rng: &mut ChaCha8Rng) -> Self {
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

impl Search {
    pub(super) fn order_of_packets(&mut self, their_port: Option<u16>, now: Instant) -> Order {
        match self.step.part {
            Part::Hold { predict, .. } => {
                let holding = self.sockets.len() - usize::from(predict && self.sockets.len() > 1);
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
                }
            }
            Part::Probe {
                ports: Ports::Range { low, high },
            } => self.permutations(low, high),
            Part::Birthday {
                ports: Ports::Range { low, high },
                ..
            } => self.permutations(low, high),
            Part::Probe {
                ports: Ports::After { step, others },
            } => {
                let port = their_port.unwrap_or(FIRST_PORT);
                self.list(around(port, step, others))
            }
            Part::Meet {
                mine,
                theirs,
                anchor,
            } => self.meeting(mine, theirs, anchor, their_port),
            // A birthday search is between two that choose at random.
            Part::Birthday {
                ports: Ports::After { .. },
                ..
            } => self.permutations(FIRST_PORT, u16::MAX),
        }
    }

    fn permutations(&mut self, low: u16, high: u16) -> Order {
        let count = u32::from(high - low) + 1;
        let size = u64::from(count) * self.ends.addresses.len() as u64;
        let rng = &mut self.rng;
        Order::Permutations {
            walks: self.sockets.iter().map(|_| Walk::new(size, rng)).collect(),
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
        Order::List {
            packets: ports.into_iter().flat_map(to).collect(),
            at: 0,
            again: None,
        }
    }

    /// What one side sends when both must meet at a pair of ports.
    ///
    /// The one who stays (anchor) sends from all its sockets to one of the other's future ports, then to one further on, and
    /// so on; its own mappings follow each other in the same order. The other one's sequence passes over those ports, and
    /// while it does, it sends to where the anchor's mappings for them lie. Where only one side is sequential, the other one
    /// stays at all ports of a window, and the sequence goes to all places of the other's block.
    fn meeting(
        &mut self,
        mine: Ports,
        theirs: Ports,
        anchor: bool,
        their_port: Option<u16>,
    ) -> Order {
        let sockets = self.sockets.len();
        let address = |index: usize| {
            let addresses = &self.ends.addresses;
            addresses
                .get(index % addresses.len().max(1))
                .copied()
                .unwrap_or(Ipv4Addr::UNSPECIFIED)
        };
        let mut packets = Vec::new();
        let base = their_port.unwrap_or(FIRST_PORT);
        match (mine, theirs) {
            (Ports::After { .. }, Ports::After { step, others }) => {
                let anchoring = anchor == self.round.is_multiple_of(2);
                let lag = (f64::from(others) * LAG) as u32;
                if anchoring {
                    for block in 0..ANCHORS {
                        let ahead = block * ANCHOR_SPACING + ANCHOR_SPACING / 2 + lag;
                        let port = ahead_of(base, step, ahead);
                        for socket in 0..sockets {
                            packets.push((socket, SocketAddr::new(address(0).into(), port)));
                        }
                    }
                } else {
                    let width = u32::from(MEETING_SOCKETS);
                    for index in 0..WINDOW {
                        let block = index / ANCHOR_SPACING;
                        let inside = width / 4 + (index * 7) % (width / 2);
                        let port = ahead_of(base, step, block * width + inside + lag);
                        let socket = index as usize % sockets;
                        packets.push((socket, SocketAddr::new(address(0).into(), port)));
                    }
                }
            }
            // The sequence passes over its window and goes to places of the other's range.
            (Ports::After { .. }, Ports::Range { low, high }) => {
                let count = u32::from(high - low) + 1;
                let places = u64::from(count) * self.ends.addresses.len() as u64;
                let walk = Walk::new(places.max(1), &mut self.rng);
                for (index, place) in walk.take(WINDOW as usize).enumerate() {
                    let port = low + (place % u64::from(count)) as u16;
                    let ip = address((place / u64::from(count)) as usize);
                    packets.push((index % sockets, SocketAddr::new(ip.into(), port)));
                }
            }
            // From all sockets to all ports over which the other's sequence passes.
            (Ports::Range { .. }, Ports::After { step, others }) => {
                let lag = (f64::from(others) * LAG) as u32;
                for socket in 0..sockets {
                    for index in 0..WINDOW {
                        // Every socket begins elsewhere, so that the window fills evenly.
                        let ahead = 1 + lag + (index + 5 * socket as u32) % WINDOW;
                        let port = ahead_of(base, step, ahead);
                        packets.push((socket, SocketAddr::new(address(0).into(), port)));
                    }
                }
            }
            (Ports::Range { .. }, Ports::Range { low, high }) => {
                return self.permutations(low, high);
            }
        }
        Order::List {
            packets,
            at: 0,
            again: None,
        }
    }

    /// The next packet's socket and destination, and whether it was not sent before.
    pub(super) fn next_packet(&mut self, now: Instant) -> Option<(usize, SocketAddr, bool)> {
        match self.order.as_mut()? {
            Order::List { packets, at, again } => {
                if *at >= packets.len() && again.is_some_and(|time| time <= now) {
                    *again = None;
                    *at = 0;
                }
                let (socket, to) = packets.get(*at).copied()?;
                *at += 1;
                // Made before: it costs no mapping.
                let fresh = again.is_some() || !matches!(self.step.part, Part::Hold { .. });
                Some((socket, to, fresh))
            }
            Order::Permutations {
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
