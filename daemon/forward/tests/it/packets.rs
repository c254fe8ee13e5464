//! Packets made by hand, for what no honest stack would send.

use std::net::{IpAddr, SocketAddr};

use punch_packet::{Packet, TcpFlags, Transport, UdpReply, transport_checksum, udp_packets};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// An IPv4 TCP segment with a right checksum.
pub(crate) fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    seq: u32,
    ack: u32,
) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&destination.port().to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&0xFFFF_u16.to_be_bytes());
    let checksum = transport_checksum(source.ip(), destination.ip(), 6, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let (IpAddr::V4(from), IpAddr::V4(to)) = (source.ip(), destination.ip()) else {
        panic!("these tests use IPv4 here");
    };
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = punch_packet::Checksum::default().with(&packet).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(segment);
    packet
}

pub(crate) fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let reply = UdpReply {
        source,
        destination,
        payload,
        id: 1,
    };
    udp_packets(reply, 65_535).pop().unwrap()
}

pub(crate) fn flags(packet: &[u8]) -> Option<TcpFlags> {
    match Packet::parse(packet).unwrap().transport() {
        Transport::Tcp { flags, .. } => Some(flags),
        _ => None,
    }
}

/// Type and code of an ICMP error.
pub(crate) fn icmp_error(packet: &[u8]) -> Option<(u8, u8)> {
    let packet = Packet::parse(packet).unwrap();
    (packet.transport() == Transport::IcmpError).then(|| (packet.segment()[0], packet.segment()[1]))
}
