//! What the STUN codec and the answering rule promise, seen from outside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod codec;
mod hostile;
mod rfc5769;
mod rule;

use std::net::SocketAddr;

use punch_stun_protocol::TransactionId;

/// The transaction of RFC 5769's samples.
const TRANSACTION: TransactionId = TransactionId([
    0xB7, 0xE7, 0xA7, 0x01, 0xBC, 0x34, 0xD6, 0x86, 0xFA, 0x87, 0xDF, 0xAE,
]);

/// Reads hexadecimal digits; spaces are for the eye.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A message of this type with these attributes, whose length and padding are right and whose contents need not be.
fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&(value.len() as u16).to_be_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend(hex("2112a442"));
    bytes.extend(TRANSACTION.0);
    bytes.extend(body);
    bytes
}

/// The same message with the attributes of `more` behind its last one and the length set right.
fn extended(message: &[u8], more: &[u8]) -> Vec<u8> {
    let mut bytes = [message, more].concat();
    let length = (bytes.len() - 20) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The same message without the FINGERPRINT at its end, which would otherwise catch every change first.
fn without_fingerprint(message: &[u8]) -> Vec<u8> {
    let end = message.len() - 8;
    assert_eq!(message[end..end + 2], [0x80, 0x28]);
    extended(&message[..end], &[])
}
