//! Packets that punchd itself sends into a tunnel or the TUN.

use std::net::{IpAddr, SocketAddr};

use crate::{Checksum, IPV6_MINIMUM, Packet, Transport, transport_checksum};

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
    fragments(source, destination, 17, &segment, mtu, reply.id)
}

/// What every host takes in one piece (RFC 791 §3.1).
const IPV4_MINIMUM: usize = 576;

/// `mtu` is raised to what every link of the family carries, or every host takes.
fn fragments(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &[u8],
    mtu: usize,
    id: u32,
) -> Vec<Vec<u8>> {
    let (header, least) = if source.is_ipv4() {
        (20, IPV4_MINIMUM)
    } else {
        (40, IPV6_MINIMUM)
    };
    let mtu = mtu.max(least);
    if header + segment.len() <= mtu {
        return vec![ip_packet(source, destination, protocol, segment)];
    }
    let extra = if source.is_ipv4() { 0 } else { 8 };
    let step = (mtu - header - extra) & !7;
    let count = segment.len().div_ceil(step);
    segment
        .chunks(step)
        .enumerate()
        .map(|(index, chunk)| {
            let offset = u16::try_from(index * step).unwrap_or(u16::MAX);
            let more = index + 1 < count;
            if source.is_ipv4() {
                let mut packet = ip_packet(source, destination, protocol, chunk);
                packet[4..6].copy_from_slice(&id.to_be_bytes()[2..]);
                let word = (offset >> 3) | u16::from(more) << 13;
                packet[6..8].copy_from_slice(&word.to_be_bytes());
                set_ipv4_checksum(&mut packet);
                packet
            } else {
                let mut payload = vec![protocol, 0];
                payload.extend_from_slice(&(offset | u16::from(more)).to_be_bytes());
                payload.extend_from_slice(&id.to_be_bytes());
                payload.extend_from_slice(chunk);
                ip_packet(source, destination, 44, &payload)
            }
        })
        .collect()
}

/// Cuts a whole packet that is longer than `mtu` into fragments with this identification; any other comes back as it is. IPv4's
/// fragments have the type of service and the time to live of the packet, and none of its options.
pub fn split(packet: Vec<u8>, mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let parts = Packet::parse(&packet)
        .ok()
        .filter(|whole| packet.len() > mtu && whole.fragment().is_none())
        .map(|whole| {
            let number = whole.protocol().number(whole.source().is_ipv4());
            let (source, destination) = (whole.source(), whole.destination());
            fragments(source, destination, number, whole.segment(), mtu, id)
        });
    let Some(mut parts) = parts else {
        return vec![packet];
    };
    if packet[0] >> 4 == 4 {
        for part in &mut parts {
            (part[1], part[8]) = (packet[1], packet[8]);
            set_ipv4_checksum(part);
        }
    }
    parts
}

/// What the echo requests that punchd itself sends carry, so that their replies are told from the host's.
const ECHO_PAYLOAD: &[u8; 16] = b"punch echo probe";

/// An ICMP echo request of punchd's own; `None` when the families differ.
pub fn echo_request(source: IpAddr, destination: IpAddr, id: u16) -> Option<Vec<u8>> {
    if source.is_ipv4() != destination.is_ipv4() {
        return None;
    }
    let mut segment = vec![if source.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    segment.extend_from_slice(&id.to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(ECHO_PAYLOAD);
    Some(icmp_packet(source, destination, segment))
}

/// Whether an echo reply answers an [`echo_request`].
pub fn is_our_echo(packet: &Packet<'_>) -> bool {
    matches!(packet.transport(), Transport::Echo { request: false, .. })
        && packet.segment().get(8..) == Some(ECHO_PAYLOAD)
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
