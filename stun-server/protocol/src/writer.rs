//! Writing a STUN message.

use std::net::SocketAddr;

use crate::attribute::{
    CHANGE_REQUEST, ERROR_CODE, FINGERPRINT, FINGERPRINT_XOR, MESSAGE_INTEGRITY, OTHER_ADDRESS,
    PADDING, PRIORITY, RESPONSE_ORIGIN, RESPONSE_PORT, SAMPLE_PORTS, UNKNOWN_ATTRIBUTES,
    USE_CANDIDATE, USERNAME, XOR_MAPPED_ADDRESS, encode_address, encode_ports,
};
use crate::attribute::{ChangeRequest, ErrorCode};
use crate::header::{Class, HEADER, MAGIC_COOKIE, TransactionId};
use crate::message::integrity;

/// Builds one Binding message, attribute by attribute, in the order of the calls.
#[derive(Debug)]
#[must_use]
pub struct Writer {
    bytes: Vec<u8>,
    transaction: TransactionId,
}

impl Writer {
    /// Starts a message.
    pub fn new(class: Class, transaction: TransactionId) -> Self {
        let kind: u16 = match class {
            Class::Request => 0x0001,
            Class::Indication => 0x0011,
            Class::Success => 0x0101,
            Class::Error => 0x0111,
        };
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction.0);
        Self { bytes, transaction }
    }

    /// XOR-MAPPED-ADDRESS (RFC 8489 §14.2).
    pub fn xor_mapped(self, address: SocketAddr) -> Self {
        let value = encode_address(address, Some(&self.transaction));
        self.attribute(XOR_MAPPED_ADDRESS, &value)
    }

    /// RESPONSE-ORIGIN (RFC 5780 §7.3).
    pub fn origin(self, address: SocketAddr) -> Self {
        self.attribute(RESPONSE_ORIGIN, &encode_address(address, None))
    }

    /// OTHER-ADDRESS (RFC 5780 §7.4).
    pub fn other(self, address: SocketAddr) -> Self {
        self.attribute(OTHER_ADDRESS, &encode_address(address, None))
    }

    /// CHANGE-REQUEST (RFC 5780 §7.2).
    pub fn change(self, change: ChangeRequest) -> Self {
        let flags = u32::from(change.ip) << 2 | u32::from(change.port) << 1;
        self.attribute(CHANGE_REQUEST, &flags.to_be_bytes())
    }

    /// RESPONSE-PORT (RFC 5780 §7.5).
    pub fn response_port(self, port: u16) -> Self {
        self.attribute(RESPONSE_PORT, &port.to_be_bytes())
    }

    /// SAMPLE-PORTS, Punch's own; see [`crate::Message::sample_ports`].
    pub fn sample_ports(self, ports: (u16, u16)) -> Self {
        self.attribute(SAMPLE_PORTS, &encode_ports(ports))
    }

    /// USERNAME (RFC 8489 §14.3).
    pub fn username(self, name: &[u8]) -> Self {
        self.attribute(USERNAME, name)
    }

    /// PRIORITY (RFC 8445 §7.1.1).
    pub fn priority(self, priority: u32) -> Self {
        self.attribute(PRIORITY, &priority.to_be_bytes())
    }

    /// USE-CANDIDATE (RFC 8445 §7.1.2).
    pub fn nominate(self) -> Self {
        self.attribute(USE_CANDIDATE, &[])
    }

    /// PADDING (RFC 5780 §7.6) of zeros, so long that the message closed by [`Self::finish_with_integrity`] has `length` bytes, a
    /// multiple of four; none where it has as many already.
    pub fn pad_with_integrity_to(self, length: usize) -> Self {
        const CLOSING: usize = 24 + 8;
        match length.checked_sub(self.bytes.len() + 4 + CLOSING) {
            Some(room) => self.attribute(PADDING, &vec![0; room]),
            None => self,
        }
    }

    /// ERROR-CODE (RFC 8489 §14.8).
    pub fn error(self, code: ErrorCode) -> Self {
        let class = u8::try_from(code.0 / 100).unwrap_or(0);
        let number = u8::try_from(code.0 % 100).unwrap_or(0);
        let mut value = vec![0, 0, class, number];
        value.extend_from_slice(code.reason().as_bytes());
        self.attribute(ERROR_CODE, &value)
    }

    /// UNKNOWN-ATTRIBUTES (RFC 8489 §14.9).
    pub fn unknown(self, kinds: &[u16]) -> Self {
        let value: Vec<u8> = kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        self.attribute(UNKNOWN_ATTRIBUTES, &value)
    }

    /// The message without authentication, closed by FINGERPRINT (RFC 8489 §14.7).
    pub fn finish(mut self) -> Vec<u8> {
        self.set_length(8);
        let fingerprint = crc32fast::hash(&self.bytes) ^ FINGERPRINT_XOR;
        self.attribute(FINGERPRINT, &fingerprint.to_be_bytes())
            .finish_plain()
    }

    /// The message closed by MESSAGE-INTEGRITY with a short-term `key` and by FINGERPRINT.
    pub fn finish_with_integrity(self, key: &[u8]) -> Vec<u8> {
        let code = integrity(&self.bytes, key);
        self.attribute(MESSAGE_INTEGRITY, &code).finish()
    }

    /// The bare message.
    pub fn finish_plain(mut self) -> Vec<u8> {
        self.set_length(0);
        self.bytes
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend(value.iter().take(usize::from(length)));
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn set_length(&mut self, more: usize) {
        let length = u16::try_from(self.bytes.len() + more - HEADER).unwrap_or(u16::MAX);
        if let Some(field) = self.bytes.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}
