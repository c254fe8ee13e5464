//! What packets promise, seen from outside: views that are right, replies that a receiver accepts, and nothing that panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

mod batch;
mod build;
mod checksum;
mod fit;
mod fragment;
mod hostile;
mod offload;
mod queue;
mod refuse;
mod view;

use std::net::IpAddr;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;

/// Reads hexadecimal digits; spaces are for the eye.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

/// The sender of all packets that are made here.
fn alice(v6: bool) -> IpAddr {
    if v6 {
        "fd70:756e:6368::1"
    } else {
        "100.64.0.1"
    }
    .parse()
    .unwrap()
}

/// Their receiver.
fn bob(v6: bool) -> IpAddr {
    if v6 {
        "fd70:756e:6368::2"
    } else {
        "100.64.0.2"
    }
    .parse()
    .unwrap()
}

/// The checksum word by word with end-around carry, as RFC 1071 §4.1 has it.
fn slow_checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    !words.fold(0_u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// The checksum of the TCP, UDP or ICMP segment of a packet without options or extension headers; 0 where it is right.
fn slow_transport_checksum(packet: &[u8]) -> u16 {
    let v6 = packet[0] >> 4 == 6;
    let (addresses, protocol, segment) = if v6 {
        (&packet[8..40], packet[6], &packet[40..])
    } else {
        (&packet[12..20], packet[9], &packet[20..])
    };
    if (v6, protocol) == (false, 1) {
        return slow_checksum(segment);
    }
    let length = (segment.len() as u32).to_be_bytes();
    slow_checksum(&[addresses, &length, &[0, 0, 0, protocol], segment].concat())
}

/// A packet from Alice to Bob around `payload`.
fn ip(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    if v6 {
        let mut packet = hex(
            "60000000 0000 00 40 fd70756e636800000000000000000001 fd70756e636800000000000000000002",
        );
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        packet[6] = protocol;
        [packet, payload.to_vec()].concat()
    } else {
        let mut packet = hex("4500 0000 0000 0000 40 00 0000 64400001 64400002");
        packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        packet[9] = protocol;
        let checksum = slow_checksum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        [packet, payload.to_vec()].concat()
    }
}

/// The same, with the segment's checksum written at `at`.
fn sealed(v6: bool, protocol: u8, at: usize, segment: &[u8]) -> Vec<u8> {
    let mut packet = ip(v6, protocol, segment);
    let checksum = slow_transport_checksum(&packet);
    let at = at + if v6 { 40 } else { 20 };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// From port 40,000 to port 5,432.
fn tcp(v6: bool, flags: u8, sequence: u32, acknowledgement: u32, data: &[u8]) -> Vec<u8> {
    let mut segment = hex("9c40 1538 00000000 00000000 50 00 ffff 0000 0000");
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    segment[13] = flags;
    segment.extend_from_slice(data);
    sealed(v6, 6, 16, &segment)
}

/// From port 40,000 to port 53.
fn udp(v6: bool, data: &[u8]) -> Vec<u8> {
    let mut segment = hex("9c40 0035 0000 0000");
    segment[4..6].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
    segment.extend_from_slice(data);
    sealed(v6, 17, 6, &segment)
}

/// Identifier 0x1D2E, sequence number 7.
fn icmp(v6: bool, kind: u8, data: &[u8]) -> Vec<u8> {
    let segment = [&[kind, 0, 0, 0, 0x1D, 0x2E, 0, 7], data].concat();
    sealed(v6, if v6 { 58 } else { 1 }, 2, &segment)
}

/// An echo request.
fn ping(v6: bool, data: &[u8]) -> Vec<u8> {
    icmp(v6, if v6 { 128 } else { 8 }, data)
}

/// One fragment; `offset` is in bytes.
fn fragment(v6: bool, protocol: u8, id: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let word = offset as u16 / 8;
    if v6 {
        let [high, low] = (word << 3 | u16::from(more)).to_be_bytes();
        let [i0, i1] = id.to_be_bytes();
        ip(
            true,
            44,
            &[&[protocol, 0, high, low, 0, 0, i0, i1], data].concat(),
        )
    } else {
        let mut packet = ip(false, protocol, data);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&(word | u16::from(more) << 13).to_be_bytes());
        packet
    }
}

/// The same packet with another sender or receiver and the transport checksum set right again.
fn with_address(mut packet: Vec<u8>, destination: bool, address: &str) -> Vec<u8> {
    let v6 = packet[0] >> 4 == 6;
    let address = hex(address);
    let at = if v6 { 8 } else { 12 } + if destination { address.len() } else { 0 };
    packet[at..at + address.len()].copy_from_slice(&address);
    let sum = if v6 { 40 } else { 20 }
        + match packet[if v6 { 6 } else { 9 }] {
            6 => 16,
            17 => 6,
            _ => 2,
        };
    packet[sum..sum + 2].fill(0);
    let checksum = slow_transport_checksum(&packet);
    packet[sum..sum + 2].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// A multicast group, IPv4 and IPv6.
const GROUP: [&str; 2] = ["e00000fb", "ff0200000000000000000000000000fb"];

/// Checks a packet that we made as its receiver does: lengths, hop limit, and both checksums.
#[track_caller]
fn assert_sound(packet: &[u8]) {
    let v6 = packet[0] >> 4 == 6;
    let length = usize::from(u16::from_be_bytes(if v6 {
        [packet[4], packet[5]]
    } else {
        [packet[2], packet[3]]
    }));
    assert_eq!(length + if v6 { 40 } else { 0 }, packet.len());
    assert_eq!(packet[if v6 { 7 } else { 8 }], 64, "hop limit");
    assert!(
        v6 || slow_checksum(&packet[..20]) == 0,
        "IPv4 header checksum"
    );
    assert_eq!(slow_transport_checksum(packet), 0, "transport checksum");
}
