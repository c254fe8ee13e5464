//! Packets that punchd itself sends into a tunnel or the TUN.

use std::net::{IpAddr, SocketAddr};

use crate::{Checksum, Fragment, IPV6_MINIMUM, Packet, Transport, transport_checksum};

/// The hop limit of packets that are made here (RFC 1700's recommended default).
pub(crate) const TTL: u8 = 64;

/// A UDP datagram to be wrapped into IP.
#[derive(Debug, Clone, Copy)]
pub struct UdpReply<'a> {
    /// The sender.
    pub source: SocketAddr,
    /// The receiver, of the same family.
    pub destination: SocketAddr,
    /// The payload, at most 65,507 bytes (IPv4) or 65,527 (IPv6).
    pub payload: &'a [u8],
    /// The IP identification, should fragments be needed: different for datagrams that follow each other.
    pub id: u32,
}

/// Wraps a UDP datagram into IP, in fragments when it is longer than `mtu`; empty when the payload is too long or the
/// families differ.
pub fn udp_packets(reply: UdpReply<'_>, mtu: usize) -> Vec<Vec<u8>> {
    let (source, destination) = (reply.source.ip(), reply.destination.ip());
    let Ok(length) = u16::try_from(8 + reply.payload.len()) else {
        return Vec::new();
    };
    if source.is_ipv4() != destination.is_ipv4() || (source.is_ipv4() && length > 65_515) {
        return Vec::new();
    }
    let mut segment = Vec::with_capacity(usize::from(length));
    segment.extend_from_slice(&reply.source.port().to_be_bytes());
    segment.extend_from_slice(&reply.destination.port().to_be_bytes());
    segment.extend_from_slice(&length.to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(reply.payload);
    let checksum = match transport_checksum(source, destination, 17, &segment) {
        0 => 0xFFFF,
        sum => sum,
    };
    segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    let least = if source.is_ipv4() {
        SHORTEST_MTU
    } else {
        IPV6_MINIMUM
    };
    let whole = Fragment {
        id: reply.id,
        offset: 0,
        more: false,
    };
    fragments(source, destination, 17, &segment, mtu.max(least), whole)
}

/// What every host takes in one piece (RFC 791 §3.1).
const SHORTEST_MTU: usize = 576;

/// `place` is where the whole of `segment` stands in what it is a part of.
fn fragments(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &[u8],
    mtu: usize,
    place: Fragment,
) -> Vec<Vec<u8>> {
    let (header, extra) = if source.is_ipv4() { (20, 0) } else { (40, 8) };
    let is_part = place.offset > 0 || place.more;
    if !is_part && header + segment.len() <= mtu {
        return vec![ip_packet(source, destination, protocol, segment)];
    }
    let step = (mtu - header - extra) & !7;
    let count = segment.len().div_ceil(step);
    segment
        .chunks(step)
        .enumerate()
        .map(|(index, chunk)| {
            let offset = u16::try_from(place.offset + index * step).unwrap_or(u16::MAX);
            let more = place.more || index + 1 < count;
            if source.is_ipv4() {
                let mut packet = ip_packet(source, destination, protocol, chunk);
                packet[4..6].copy_from_slice(&place.id.to_be_bytes()[2..]);
                let word = (offset >> 3) | u16::from(more) << 13;
                packet[6..8].copy_from_slice(&word.to_be_bytes());
                set_ipv4_checksum(&mut packet);
                packet
            } else {
                let mut payload = vec![protocol, 0];
                payload.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
                payload.extend_from_slice(&place.id.to_be_bytes());
                payload.extend_from_slice(chunk);
                ip_packet(source, destination, 44, &payload)
            }
        })
        .collect()
}

/// Cuts a packet that is longer than `mtu` into fragments with this identification, and a fragment into smaller ones with its own. They
/// have the class and the hop limit of the packet. Any other comes back as it is, and one with options or extension headers, too.
pub fn split(packet: Vec<u8>, mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let parts = Packet::parse(&packet).ok().and_then(|view| {
        let v4 = view.source().is_ipv4();
        let place = view.fragment();
        let plain = match (v4, place) {
            (true, _) => 20,
            (false, None) => 40,
            (false, Some(_)) => 48,
        };
        let may = packet.len() > mtu && view.ip_header().len() == plain;
        let whole = Fragment {
            id,
            offset: 0,
            more: false,
        };
        let number = view.protocol().number(v4);
        let (source, destination) = (view.source(), view.destination());
        let (mtu, place) = (mtu.max(SHORTEST_MTU), place.unwrap_or(whole));
        may.then(|| fragments(source, destination, number, view.segment(), mtu, place))
    });
    let Some(mut parts) = parts else {
        return vec![packet];
    };
    for part in &mut parts {
        if packet[0] >> 4 == 4 {
            (part[1], part[8]) = (packet[1], packet[8]);
            set_ipv4_checksum(part);
        } else {
            part[..4].copy_from_slice(&packet[..4]);
            part[7] = packet[7];
        }
    }
    parts
}

/// What the echo requests that punchd itself sends carry, so that their replies are told from the host's.
const ECHO_PAYLOAD: &[u8; 16] = b"punch echo probe";

/// What an invitation carries: an echo request like any other, for whoever does not know it.
const INVITATION_PAYLOAD: &[u8; 16] = b"punch meet at me";

/// An ICMP echo request of punchd's own; `None` when the families differ.
pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16) -> Option<Vec<u8>> {
    request(source, destination, id, ECHO_PAYLOAD)
}

/// An echo request that tells its receiver that it may meet others at its sender; the reply shows that it was heard. `None` when the
/// families differ.
pub fn invitation(source: IpAddr, destination: IpAddr, id: u16) -> Option<Vec<u8>> {
    request(source, destination, id, INVITATION_PAYLOAD)
}

/// Whether this is an [`invitation`].
pub fn is_invitation(packet: &Packet<'_>) -> bool {
    matches!(packet.transport(), Transport::Echo { request: true, .. })
        && packet.segment().get(8..) == Some(INVITATION_PAYLOAD)
        && packet.checksum_is_right()
}

fn request(source: IpAddr, destination: IpAddr, id: u16, payload: &[u8; 16]) -> Option<Vec<u8>> {
    if source.is_ipv4() != destination.is_ipv4() {
        return None;
    }
    let mut segment = vec![if source.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    segment.extend_from_slice(&id.to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(payload);
    Some(icmp_packet(source, destination, segment))
}

/// Whether an echo reply answers an [`echo_request`] or an [`invitation`].
pub fn is_our_echo(packet: &Packet<'_>) -> bool {
    let payload = packet.segment().get(8..);
    matches!(packet.transport(), Transport::Echo { request: false, .. })
        && (payload == Some(ECHO_PAYLOAD) || payload == Some(INVITATION_PAYLOAD))
        && packet.checksum_is_right()
}

/// The answer to an ICMP echo request (RFC 792, RFC 4443 §4.2); `None` for any other packet, for
/// fragments, and for groups, in whose name nobody may answer.
pub fn echo_reply(packet: &Packet<'_>) -> Option<Vec<u8>> {
    if !matches!(packet.transport(), Transport::Echo { request: true, .. })
        || packet.fragment().is_some()
        || packet.source().is_multicast()
        || packet.destination().is_multicast()
        || !packet.checksum_is_right()
    {
        return None;
    }
    let mut segment = packet.segment().to_vec();
    segment[0] = if packet.source().is_ipv4() { 0 } else { 129 };
    Some(icmp_packet(packet.destination(), packet.source(), segment))
}

/// Wraps an ICMP message into IP and sets its checksum.
pub(crate) fn icmp_packet(source: IpAddr, destination: IpAddr, mut segment: Vec<u8>) -> Vec<u8> {
    segment[2..4].fill(0);
    let (protocol, checksum) = if source.is_ipv4() {
        (1, Checksum::default().with(&segment).finish())
    } else {
        (58, transport_checksum(source, destination, 58, &segment))
    };
    segment[2..4].copy_from_slice(&checksum.to_be_bytes());
    ip_packet(source, destination, protocol, &segment)
}

/// Puts an IP header before `segment`, which together must be shorter than 64 KiB.
pub(crate) fn ip_packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &[u8],
) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + segment.len()).unwrap_or(u16::MAX);
            let mut packet = Vec::with_capacity(usize::from(total));
            packet.extend([0x45, 0]);
            packet.extend_from_slice(&total.to_be_bytes());
            packet.extend([0, 0, 0, 0, TTL, protocol, 0, 0]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
            set_ipv4_checksum(&mut packet);
            packet.extend_from_slice(segment);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
            let mut packet = Vec::with_capacity(40 + segment.len());
            packet.extend([0x60, 0, 0, 0]);
            packet.extend_from_slice(&length.to_be_bytes());
            packet.extend([protocol, TTL]);
            packet.extend_from_slice(&source.octets());
            packet.extend_from_slice(&destination.octets());
            packet.extend_from_slice(segment);
            packet
        }
        _ => Vec::new(),
    }
}

pub(crate) fn set_ipv4_checksum(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 0x0F) * 4;
    packet[10..12].fill(0);
    let checksum = Checksum::default().with(&packet[..header]).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Lets the IP header say that the packet is so long, which must be less than 64 KiB; an IPv4 header's checksum is left to
/// [`set_ipv4_checksum`].
pub(crate) fn set_ip_length(packet: &mut [u8], length: usize) {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&length.saturating_sub(40).to_be_bytes());
    }
}
