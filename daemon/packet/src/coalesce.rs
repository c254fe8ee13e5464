//! Joining packets of a batch that follow each other in one TCP or UDP flow, so that the kernel takes them as one (GRO).
//!
//! Only what can be told apart again is joined: equal headers, sequence numbers without gaps, right checksums (the kernel does
//! not look at them again). Packets of one flow never overtake each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::build::{set_ip_length, set_ipv4_checksum};
use crate::{Batch, GsoKind, Offload, PartialChecksum, pseudo_header, transport_checksum};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Places for flows that are joined side by side; a packet of another one ends the joining of the one in its place.
const OPEN: usize = 256;
/// The kernel takes no more datagrams in one, and no longer packets.
const MAX_PACKETS: u32 = 64;
const MAX_LENGTH: usize = 65_535;

/// Packets of a batch that the kernel takes as one.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What the kernel has to do with them.
    pub offload: Offload,
    /// The length of the headers that all packets but the first lose.
    pub headers: u16,
    first: usize,
    last: usize,
    count: u32,
    /// The length of all of them behind one header.
    length: usize,
    /// Where the transport header begins.
    at: usize,
    protocol: u8,
    /// Bytes of payload in each packet but the last.
    size: usize,
    next_sequence: u32,
    psh: bool,
}

/// What tells whether a packet can be joined to others.
struct Candidate {
    protocol: u8,
    at: usize,
    headers: usize,
    payload: usize,
    sequence: u32,
    /// Whether nothing may follow the packet in its group.
    ends: bool,
    joinable: bool,
}

/// Finds what can be joined; its memory is reused from batch to batch.
#[derive(Debug)]
pub struct Coalescer {
    tcp: bool,
    udp: bool,
    groups: Vec<Group>,
    /// The next packet of the same group, or the packet itself at its end.
    next: Vec<usize>,
    /// Groups that may grow, each in the place that follows from its flow.
    open: Vec<Option<usize>>,
    /// Groups before this one have ended.
    ended: usize,
}

impl Coalescer {
    /// Joins packets of these protocols.
    pub fn new(tcp: bool, udp: bool) -> Self {
        Self {
            tcp,
            udp,
            groups: Vec::new(),
            next: Vec::new(),
            open: vec![None; OPEN],
            ended: 0,
        }
    }

    /// Groups the whole packets of `batch`; the first packet of each group gets the headers of all. The groups are there until
    /// the next call, and the batch must be as it is until they are written.
    pub fn join(&mut self, batch: &mut Batch) {
        self.groups.clear();
        self.next.clear();
        self.open.fill(None);
        self.ended = 0;
        for index in 0..batch.len() {
            self.next.push(index);
            self.add(batch, index);
        }
        for group in &mut self.groups {
            if group.count > 1 {
                seal(group, batch.get_mut(group.first));
            }
        }
    }

    /// The groups, in the order of their first packets.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// The indices of a group's packets, in order.
    pub fn members(&self, group: &Group) -> impl Iterator<Item = usize> {
        let mut at = Some(group.first);
        std::iter::from_fn(move || {
            let index = at?;
            at = self.next.get(index).copied().filter(|next| *next != index);
            Some(index)
        })
    }

    fn add(&mut self, batch: &Batch, index: usize) {
        let packet = batch.get(index);
        let candidate = candidate(packet, self.tcp, self.udp);
        match &candidate {
            // It may be of any flow, and overtakes none.
            None => self.ended = self.groups.len() + 1,
            Some(candidate) => {
                let place = place(packet, candidate.at);
                let open = self.open[place].filter(|open| *open >= self.ended);
                if let Some(group) = open.map(|open| &mut self.groups[open]) {
                    let first = batch.get(group.first);
                    let same_flow = group.protocol == candidate.protocol
                        && group.at == candidate.at
                        && is_same_flow(first, packet, candidate.at);
                    if same_flow && candidate.joinable && takes(group, candidate, first, packet) {
                        self.next[group.last] = index;
                        group.last = index;
                        group.count += 1;
                        group.length += candidate.payload;
                        group.next_sequence = end(candidate);
                        group.psh = candidate.ends;
                        if candidate.ends || candidate.payload < group.size {
                            self.open[place] = None;
                        }
                        return;
                    }
                }
                let opens = candidate.joinable && !candidate.ends;
                self.open[place] = opens.then_some(self.groups.len());
            }
        }
        let candidate = candidate.as_ref();
        self.groups.push(Group {
            offload: Offload::default(),
            headers: candidate.map_or(0, |candidate| u16::try_from(candidate.headers).unwrap_or(0)),
            first: index,
            last: index,
            count: 1,
            length: packet.len(),
            at: candidate.map_or(0, |candidate| candidate.at),
            protocol: candidate.map_or(0, |candidate| candidate.protocol),
            size: candidate.map_or(0, |candidate| candidate.payload),
            next_sequence: candidate.map_or(0, end),
            psh: false,
        });
    }
}

fn end(candidate: &Candidate) -> u32 {
    let payload = u32::try_from(candidate.payload).unwrap_or(0);
    candidate.sequence.wrapping_add(payload)
}

/// Whether the packet may follow in the group, of whose flow it is.
fn takes(group: &Group, candidate: &Candidate, first: &[u8], packet: &[u8]) -> bool {
    group.count < MAX_PACKETS
        && group.length + candidate.payload <= MAX_LENGTH
        && usize::from(group.headers) == candidate.headers
        && candidate.payload <= group.size
        && (group.protocol != TCP || group.next_sequence == candidate.sequence)
        && has_same_headers(first, packet, candidate, group.count)
}

/// TCP or UDP without IP options, extension headers and fragments; `None` for all else.
fn candidate(packet: &[u8], tcp: bool, udp: bool) -> Option<Candidate> {
    let (at, protocol, source, destination): (_, _, IpAddr, IpAddr) = match packet.first()? {
        0x45 => {
            let header: &[u8; 20] = packet.first_chunk()?;
            // No fragment, and not one to be.
            if header[6] & 0x3F != 0
                || header[7] != 0
                || length(header[2], header[3]) != packet.len()
            {
                return None;
            }
            let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
            let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
            (20, header[9], source.into(), destination.into())
        }
        0x60..=0x6F => {
            let header: &[u8; 40] = packet.first_chunk()?;
            if length(header[4], header[5]) + 40 != packet.len() {
                return None;
            }
            let address = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&header[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            (40, header[6], address(8), address(24))
        }
        _ => return None,
    };
    let segment = &packet[at..];
    let is_right = || transport_checksum(source, destination, protocol, segment) == 0;
    match protocol {
        TCP => {
            let header: &[u8; 20] = segment.first_chunk()?;
            let headers = at + usize::from(header[12] >> 4) * 4;
            let payload = packet.len().checked_sub(headers)?;
            let plain = header[12] >> 4 >= 5 && header[13] & !PSH == ACK && payload > 0;
            Some(Candidate {
                protocol,
                at,
                headers,
                payload,
                sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                ends: header[13] & PSH != 0,
                joinable: tcp && plain && is_right(),
            })
        }
        UDP => {
            let header: &[u8; 8] = segment.first_chunk()?;
            let plain = length(header[4], header[5]) == segment.len() && segment.len() > 8;
            Some(Candidate {
                protocol,
                at,
                headers: at + 8,
                payload: segment.len() - 8,
                sequence: 0,
                ends: false,
                joinable: udp && plain && header[6..8] != [0, 0] && is_right(),
            })
        }
        _ => None,
    }
}

fn length(high: u8, low: u8) -> usize {
    usize::from(u16::from_be_bytes([high, low]))
}

/// A place for the packet's flow. Who aims at another's place gains nothing but that less is joined.
fn place(packet: &[u8], at: usize) -> usize {
    let word = |from: usize| u32::from_be_bytes(*packet[from..].first_chunk().unwrap_or(&[0; 4]));
    // Both addresses end before the transport header, where the ports are.
    let mixed = [at - 4, at - if at == 20 { 8 } else { 20 }, at]
        .into_iter()
        .fold(0_u32, |mixed, from| {
            (mixed ^ word(from))
                .wrapping_mul(0x9E37_79B1)
                .rotate_left(15)
        });
    mixed as usize % OPEN
}

/// Whether two packets have the same addresses and ports.
fn is_same_flow(first: &[u8], packet: &[u8], at: usize) -> bool {
    let addresses = if at == 20 { 12..20 } else { 8..40 };
    first[0] >> 4 == packet[0] >> 4
        && first[addresses.clone()] == packet[addresses]
        && first[at..at + 4] == packet[at..at + 4]
}

/// Whether all else is equal that one header must be able to say for both packets.
fn has_same_headers(first: &[u8], packet: &[u8], candidate: &Candidate, count: u32) -> bool {
    let ip = if candidate.at == 20 {
        let id = |bytes: &[u8]| u16::from_be_bytes([bytes[4], bytes[5]]);
        // Where fragments are forbidden identifications mean nothing (RFC 6864 §4.1); elsewhere they must be as cutting makes them.
        let atomic = first[6] & 0x40 != 0;
        let follows = id(packet) == id(first).wrapping_add(u16::try_from(count).unwrap_or(0));
        first[..2] == packet[..2] && first[6..10] == packet[6..10] && (atomic || follows)
    } else {
        first[..4] == packet[..4] && first[6..8] == packet[6..8]
    };
    let at = candidate.at;
    let transport = candidate.protocol != TCP
        || (first[at + 8..at + 13] == packet[at + 8..at + 13]
            && (first[at + 13] ^ packet[at + 13]) & !PSH == 0
            && first[at + 14..at + 16] == packet[at + 14..at + 16]
            && first[at + 18..candidate.headers] == packet[at + 18..candidate.headers]);
    ip && transport
}

/// Lets the first packet's headers speak for the whole group.
fn seal(group: &mut Group, first: &mut [u8]) {
    let (at, v4) = (group.at, group.at == 20);
    let address = |range: std::ops::Range<usize>| -> IpAddr {
        let bytes = &first[range];
        match (bytes.first_chunk::<16>(), bytes.first_chunk::<4>()) {
            (Some(v6), _) => Ipv6Addr::from(*v6).into(),
            (None, Some(v4)) => Ipv4Addr::from(*v4).into(),
            (None, None) => Ipv4Addr::UNSPECIFIED.into(),
        }
    };
    let (source, destination) = if v4 {
        (address(12..16), address(16..20))
    } else {
        (address(8..24), address(24..40))
    };
    let transport = group.length - at;
    let sum = pseudo_header(source, destination, group.protocol, transport);
    let (kind, offset) = match (group.protocol, v4) {
        (TCP, true) => (GsoKind::Tcp4, 16),
        (TCP, false) => (GsoKind::Tcp6, 16),
        _ => (GsoKind::Udp, 6),
    };
    set_ip_length(first, group.length);
    if v4 {
        set_ipv4_checksum(first);
    }
    if group.protocol == UDP {
        let length = u16::try_from(transport).unwrap_or(u16::MAX);
        first[at + 4..at + 6].copy_from_slice(&length.to_be_bytes());
    } else if group.psh {
        first[at + 13] |= PSH;
    }
    let sum = (!sum.finish()).to_be_bytes();
    first[at + offset..at + offset + 2].copy_from_slice(&sum);
    group.offload = Offload {
        checksum: Some(PartialChecksum {
            start: u16::try_from(at).unwrap_or(0),
            offset: u16::try_from(offset).unwrap_or(0),
        }),
        gso: Some((kind, u16::try_from(group.size).unwrap_or(u16::MAX))),
    };
}
