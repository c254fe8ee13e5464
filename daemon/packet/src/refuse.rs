//! Refusing a packet so that its sender knows at once: TCP RST, ICMP unreachable.

use std::net::IpAddr;

use crate::build::{icmp_packet, ip_packet};
use crate::{IPV6_MINIMUM, Packet, Protocol, Transport, transport_checksum};

/// What an ICMP "destination unreachable" says (RFC 792, RFC 4443 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// Nothing listens at the port.
    Port,
    /// A rule of the administrator forbids it.
    Prohibited,
    /// There is no way to the address now.
    Address,
}

/// The fitting refusal of `packet`, in the name of its destination: a RST for TCP, else an ICMP error. `None` where a
/// refusal is not allowed (RFC 1122 §3.2.2, RFC 4443 §2.4: no error about an error, a later fragment, a multicast).
pub fn refuse(packet: &Packet<'_>, reason: Unreachable) -> Option<Vec<u8>> {
    match packet.protocol() {
        Protocol::Tcp => tcp_reset(packet),
        _ => unreachable(packet, packet.destination(), reason),
    }
}

/// The reset that answers a TCP segment which belongs to no connection (RFC 9293 §3.10.7.1).
pub fn tcp_reset(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let Transport::Tcp { flags, .. } = packet.transport() else {
        return None;
    };
    let header: &[u8; 20] = packet.segment().first_chunk()?;
    let data_offset = usize::from(header[12] >> 4) * 4;
    if flags.rst()
        || packet.fragment().is_some()
        || !(20..=packet.segment().len()).contains(&data_offset)
    {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let length = u32::try_from(packet.segment().len() - data_offset).ok()?
        + u32::from(flags.syn())
        + u32::from(flags.fin());
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&header[2..4]);
    segment[2..4].copy_from_slice(&header[..2]);
    segment[12] = 5 << 4;
    if flags.ack() {
        segment[4..8].copy_from_slice(&header[8..12]);
        segment[13] = 0x04;
    } else {
        segment[8..12].copy_from_slice(&sequence.wrapping_add(length).to_be_bytes());
        segment[13] = 0x14;
    }
    let (source, destination) = (packet.destination(), packet.source());
    if source.is_multicast() || destination.is_multicast() {
        return None;
    }
    let checksum = transport_checksum(source, destination, 6, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some(ip_packet(source, destination, 6, &segment))
}

/// An ICMP error about `packet`, sent by `from` (which must be of the packet's family).
pub fn unreachable(packet: &Packet<'_>, from: IpAddr, reason: Unreachable) -> Option<Vec<u8>> {
    let (kind, code) = match (from, reason) {
        (IpAddr::V4(_), Unreachable::Port) => (3, 3),
        (IpAddr::V4(_), Unreachable::Prohibited) => (3, 13),
        (IpAddr::V4(_), Unreachable::Address) => (3, 1),
        (IpAddr::V6(_), Unreachable::Port) => (1, 4),
        (IpAddr::V6(_), Unreachable::Prohibited) => (1, 1),
        (IpAddr::V6(_), Unreachable::Address) => (1, 3),
    };
    icmp_error(packet, from, (kind, code), 0)
}

/// The ICMP error which says that `packet` is too long and that one of `mtu` bytes would fit (RFC 1191 §4, RFC 4443 §3.2), sent by
/// `from`, which must be of the packet's family.
pub fn too_long(packet: &Packet<'_>, from: IpAddr, mtu: usize) -> Option<Vec<u8>> {
    let (kind, mtu) = if from.is_ipv4() {
        ((3, 4), mtu)
    } else {
        // A packet of that length is never too long for IPv6.
        ((2, 0), mtu.max(IPV6_MINIMUM))
    };
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    icmp_error(packet, from, kind, mtu.into())
}

/// An ICMP error of this type and code, with a word behind the checksum.
fn icmp_error(
    packet: &Packet<'_>,
    from: IpAddr,
    (kind, code): (u8, u8),
    word: u32,
) -> Option<Vec<u8>> {
    let to = packet.source();
    let silent = to.is_multicast()
        || to.is_unspecified()
        || packet.destination().is_multicast()
        || packet.transport() == Transport::IcmpError
        || (to.is_ipv6()
            && packet.protocol() == Protocol::Icmp
            && packet.segment().first() == Some(&137))
        || packet
            .fragment()
            .is_some_and(|fragment| fragment.offset > 0)
        || from.is_ipv4() != to.is_ipv4();
    if silent {
        return None;
    }
    // RFC 792 quotes the header and eight bytes, RFC 1812 §4.3.2.3 as much as fits 576; RFC 4443 as much as fits 1,280.
    let quote = if from.is_ipv4() { 548 } else { 1232 };
    let quoted = &packet.bytes()[..packet.bytes().len().min(quote)];
    let mut segment = vec![kind, code, 0, 0];
    segment.extend_from_slice(&word.to_be_bytes());
    segment.extend_from_slice(quoted);
    Some(icmp_packet(from, to, segment))
}
