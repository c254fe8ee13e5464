//! Packets inside the tunnel, as a kernel would make them.

use std::net::{IpAddr, SocketAddr};

use punch_packet::{Checksum, Packet, UdpReply, transport_checksum, udp_packets};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Any packet.
pub(crate) fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = Checksum::default().with(&header).finish();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("two families in one packet"),
    };
    packet.extend_from_slice(payload);
    packet
}

pub(crate) fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    udp_fragments(source, destination, payload, 0xFFFF, 0).remove(0)
}

/// The same, in pieces that fit `mtu`.
pub(crate) fn udp_fragments(
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
    mtu: usize,
    id: u32,
) -> Vec<Vec<u8>> {
    let reply = UdpReply {
        source,
        destination,
        payload,
        id,
    };
    let packets = udp_packets(reply, mtu);
    assert!(!packets.is_empty());
    packets
}

pub(crate) fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    data: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.port().to_be_bytes());
    segment.extend(destination.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([5 << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    segment.extend_from_slice(data);
    let checksum = transport_checksum(source.ip(), destination.ip(), 6, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    ip(source.ip(), destination.ip(), 6, &segment)
}

/// The first segment of a connection.
pub(crate) fn syn(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    tcp(source, destination, SYN, 1000, 0, &[])
}

pub(crate) fn icmp(source: IpAddr, destination: IpAddr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut segment = vec![kind, 0, 0, 0];
    segment.extend_from_slice(rest);
    let (protocol, checksum) = if source.is_ipv4() {
        (1, Checksum::default().with(&segment).finish())
    } else {
        (58, transport_checksum(source, destination, 58, &segment))
    };
    segment[2..4].copy_from_slice(&checksum.to_be_bytes());
    ip(source, destination, protocol, &segment)
}

pub(crate) fn echo(source: IpAddr, destination: IpAddr, request: bool, id: u16) -> Vec<u8> {
    let kind = match (source.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let rest = [&id.to_be_bytes()[..], &[0, 7], b"abcdefgh"].concat();
    icmp(source, destination, kind, &rest)
}

/// "Port unreachable" about `packet`, sent by `source`.
pub(crate) fn port_unreachable(source: IpAddr, destination: IpAddr, packet: &[u8]) -> Vec<u8> {
    let kind = if source.is_ipv4() { 3 } else { 1 };
    icmp(source, destination, kind, &[&[0; 4], packet].concat())
}

/// The payload of a datagram whose checksum is right.
pub(crate) fn udp_payload(packet: &[u8]) -> Vec<u8> {
    let packet = Packet::parse(packet).unwrap();
    assert!(packet.checksum_is_right());
    packet.udp_payload().unwrap().to_vec()
}

/// What a refusal says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reset {
        ack: u32,
    },
    /// ICMP type and code, and the packet that it is about.
    Unreachable {
        kind: u8,
        code: u8,
        about: Vec<u8>,
    },
}

/// Reads a packet from `from` to `to` that refuses another.
#[track_caller]
pub(crate) fn refusal(packet: &[u8], from: IpAddr, to: IpAddr) -> Answer {
    let parsed = Packet::parse(packet).unwrap();
    assert_eq!((parsed.source(), parsed.destination()), (from, to));
    assert!(parsed.checksum_is_right());
    let segment = parsed.segment();
    if parsed.protocol() == punch_packet::Protocol::Tcp {
        assert!(segment[13] & RST != 0, "{segment:?}");
        return Answer::Reset {
            ack: u32::from_be_bytes(segment[8..12].try_into().unwrap()),
        };
    }
    assert_eq!(parsed.transport(), punch_packet::Transport::IcmpError);
    Answer::Unreachable {
        kind: segment[0],
        code: segment[1],
        about: segment[8..].to_vec(),
    }
}

/// "Nothing listens on that port", in the family of `ip`.
pub(crate) fn closed_port(ip: IpAddr, about: &[u8]) -> Answer {
    let (kind, code) = if ip.is_ipv4() { (3, 3) } else { (1, 4) };
    Answer::Unreachable {
        kind,
        code,
        about: about.to_vec(),
    }
}
