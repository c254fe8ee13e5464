//! Packets that a peer may send through its tunnel.

use std::net::{IpAddr, SocketAddr};

use punch_packet::{UdpReply, transport_checksum, udp_packets};

use crate::machine::MTU;

/// A datagram inside the tunnel.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let reply = UdpReply {
        source: from,
        destination: to,
        payload,
        id: 0,
    };
    udp_packets(reply, MTU)
        .into_iter()
        .next()
        .unwrap_or_default()
}

/// A TCP segment without data.
pub(super) fn tcp(from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    let mut segment = [0; 20];
    segment[..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&1000_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&0xFFFF_u16.to_be_bytes());
    let sum = transport_checksum(from.ip(), to.ip(), 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(from.ip(), to.ip(), 6, &segment)
}

/// An ICMPv6 message.
pub(super) fn icmp(from: IpAddr, to: IpAddr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(rest);
    let sum = transport_checksum(from, to, 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(from, to, 58, &message)
}

/// The first fragment of a datagram whose others never come.
pub(super) fn fragment(from: IpAddr, to: IpAddr, id: u32) -> Vec<u8> {
    let mut payload = vec![17, 0, 0, 1];
    payload.extend(id.to_be_bytes());
    payload.extend([0; 64]);
    ip(from, to, 44, &payload)
}

/// Any IPv6 packet; nothing if the addresses are none.
fn ip(from: IpAddr, to: IpAddr, next: u8, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) else {
        return Vec::new();
    };
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend_from_slice(payload);
    packet
}
