//! Reassembly of fragmented packets for the forwards, bounded in memory and time (RFC 791 §3.2, RFC 8200 §4.5).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::build::ip_packet;
use crate::{Fragment, Packet, Protocol};

/// The longest packet that is put together, in bytes.
pub const MAX_REASSEMBLED: usize = 65_535;
/// How long fragments wait for the others of their packet: RFC 8200 §4.5 allows 60 s, but a sender that still cares has sent again
/// long before.
const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(15);
/// Packets that are put together at once. Worst case memory: this many times [`MAX_REASSEMBLED`], 4 MiB.
const MAX_PACKETS: usize = 64;
const MAX_PARTS: usize = 64;

/// The table is full of packets that still wait; the fragment was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many fragmented packets at once")]
pub struct ReassemblyFull;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    id: u32,
}

#[derive(Debug)]
struct Pieces {
    since: Instant,
    parts: Vec<(usize, Vec<u8>)>,
    total: Option<usize>,
    spoiled: bool,
}

/// Packets of which not all fragments have come.
#[derive(Debug, Default)]
pub struct Reassembly {
    packets: HashMap<Key, Pieces>,
}

impl Reassembly {
    /// How many packets are being put together.
    pub fn count(&self) -> usize {
        self.packets.len()
    }

    /// Takes a fragment and returns the whole packet when it was the last one missing. Overlapping fragments spoil their
    /// packet (RFC 5722).
    ///
    /// # Errors
    /// [`ReassemblyFull`].
    pub fn add(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, ReassemblyFull> {
        let key = Key {
            source: packet.source(),
            destination: packet.destination(),
            protocol: packet.protocol(),
            id: fragment.id,
        };
        if !self.packets.contains_key(&key) && self.packets.len() >= MAX_PACKETS {
            self.packets.retain(|_, pieces| {
                now.saturating_duration_since(pieces.since) < REASSEMBLY_TIMEOUT
            });
            if self.packets.len() >= MAX_PACKETS {
                return Err(ReassemblyFull);
            }
        }
        let pieces = self.packets.entry(key).or_insert_with(|| Pieces {
            since: now,
            parts: Vec::new(),
            total: None,
            spoiled: false,
        });
        if now.saturating_duration_since(pieces.since) >= REASSEMBLY_TIMEOUT {
            *pieces = Pieces {
                since: now,
                parts: Vec::new(),
                total: None,
                spoiled: false,
            };
        }
        let header = if packet.source().is_ipv4() { 20 } else { 40 };
        pieces.add(fragment, packet.segment(), MAX_REASSEMBLED - header);
        if !pieces.complete() {
            return Ok(None);
        }
        let number = packet.protocol().number(packet.source().is_ipv4());
        let segment = pieces.join();
        let (source, destination) = (packet.source(), packet.destination());
        self.packets.retain(|key, _| {
            (key.source, key.destination, key.protocol, key.id)
                != (source, destination, packet.protocol(), fragment.id)
        });
        Ok(Some(ip_packet(source, destination, number, &segment)))
    }
}

impl Pieces {
    fn add(&mut self, fragment: Fragment, bytes: &[u8], longest: usize) {
        let end = fragment.offset + bytes.len();
        let wrong_length = bytes.is_empty() || (fragment.more && !bytes.len().is_multiple_of(8));
        let overlaps = self
            .parts
            .iter()
            .any(|(start, part)| fragment.offset < start + part.len() && *start < end);
        if wrong_length
            || overlaps
            || end > longest
            || self.parts.len() == MAX_PARTS
            || (!fragment.more && self.total.is_some())
            || self.total.is_some_and(|total| end > total)
            || (!fragment.more && self.parts.iter().any(|(start, _)| *start >= end))
        {
            self.spoiled = true;
            self.parts = Vec::new();
        }
        if self.spoiled {
            return;
        }
        if !fragment.more {
            self.total = Some(end);
        }
        self.parts.push((fragment.offset, bytes.to_vec()));
    }

    fn complete(&self) -> bool {
        // Parts never overlap, so their lengths add up to the total only when there is no hole.
        let have: usize = self.parts.iter().map(|(_, part)| part.len()).sum();
        !self.spoiled && self.total == Some(have)
    }

    fn join(&mut self) -> Vec<u8> {
        self.parts.sort_by_key(|(offset, _)| *offset);
        self.parts.drain(..).flat_map(|(_, part)| part).collect()
    }
}
