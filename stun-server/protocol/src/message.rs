//! Reading a STUN message (RFC 8489 §5, §14).

use std::net::SocketAddr;

use hmac::{Hmac, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use crate::attribute::{
    CHANGE_REQUEST, ERROR_CODE, FINGERPRINT, FINGERPRINT_XOR, MAPPED_ADDRESS, MESSAGE_INTEGRITY,
    OTHER_ADDRESS, PRIORITY, RESPONSE_ORIGIN, RESPONSE_PORT, SAMPLE_PORTS, UNKNOWN_ATTRIBUTES,
    USE_CANDIDATE, USERNAME, XOR_MAPPED_ADDRESS, decode_address, decode_port, decode_ports,
};
use crate::attribute::{ChangeRequest, ErrorCode};
use crate::header::{Class, HEADER, TransactionId, is_stun};

/// The only method that Punch knows.
const BINDING: u16 = 0x001;
/// A message with more attributes than this is malformed.
const MAX_ATTRIBUTES: usize = 32;

/// Why a datagram is not a STUN Binding message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than a header, without magic cookie, or with a length that does not fit.
    #[error("not a STUN message")]
    NotStun,
    /// A method other than Binding.
    #[error("unknown STUN method {0:#05x}")]
    Method(u16),
    /// An attribute is cut short or has an impossible value.
    #[error("malformed STUN attribute {0:#06x}")]
    Attribute(u16),
    /// More attributes than any honest message has.
    #[error("too many STUN attributes")]
    TooMany,
    /// FINGERPRINT does not match.
    #[error("wrong STUN fingerprint")]
    Fingerprint,
}

/// A parsed Binding message. Attributes after MESSAGE-INTEGRITY are ignored, save FINGERPRINT (RFC 8489 §14.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Request, indication, success or error.
    pub class: Class,
    /// Ties a response to its request.
    pub transaction: TransactionId,
    /// XOR-MAPPED-ADDRESS, or MAPPED-ADDRESS where only that was sent.
    pub mapped: Option<SocketAddr>,
    /// RESPONSE-ORIGIN (RFC 5780 §7.3).
    pub origin: Option<SocketAddr>,
    /// OTHER-ADDRESS (RFC 5780 §7.4).
    pub other: Option<SocketAddr>,
    /// CHANGE-REQUEST (RFC 5780 §7.2).
    pub change: Option<ChangeRequest>,
    /// RESPONSE-PORT (RFC 5780 §7.5).
    pub response_port: Option<u16>,
    /// SAMPLE-PORTS, Punch's own: the first and the last port on which the server answers Binding requests, at the address
    /// that was asked and at OTHER-ADDRESS's.
    pub sample_ports: Option<(u16, u16)>,
    /// USERNAME (RFC 8489 §14.3).
    pub username: Option<&'a [u8]>,
    /// PRIORITY (RFC 8445 §7.1.1).
    pub priority: Option<u32>,
    /// USE-CANDIDATE (RFC 8445 §7.1.2).
    pub nominated: bool,
    /// ERROR-CODE.
    pub error: Option<ErrorCode>,
    /// Attributes that must be understood and are not.
    pub unknown: Vec<u16>,
    bytes: &'a [u8],
    integrity_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Reads one datagram.
    ///
    /// # Errors
    /// [`ParseError`]; never panics.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if !is_stun(bytes) || !bytes.len().is_multiple_of(4) {
            return Err(ParseError::NotStun);
        }
        let Some((&[k0, k1, ..], rest)) = bytes.split_first_chunk::<8>() else {
            return Err(ParseError::NotStun);
        };
        let Some(&transaction) = rest.first_chunk::<12>() else {
            return Err(ParseError::NotStun);
        };
        let kind = u16::from_be_bytes([k0, k1]);
        let class = match kind & 0x0110 {
            0x0000 => Class::Request,
            0x0010 => Class::Indication,
            0x0100 => Class::Success,
            _ => Class::Error,
        };
        let method = (kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2;
        if method != BINDING {
            return Err(ParseError::Method(method));
        }
        let mut message = Self {
            class,
            transaction: TransactionId(transaction),
            mapped: None,
            origin: None,
            other: None,
            change: None,
            response_port: None,
            sample_ports: None,
            username: None,
            priority: None,
            nominated: false,
            error: None,
            unknown: Vec::new(),
            bytes,
            integrity_at: None,
        };
        message.read_attributes()?;
        Ok(message)
    }

    /// Whether the message has MESSAGE-INTEGRITY.
    pub fn has_integrity(&self) -> bool {
        self.integrity_at.is_some()
    }

    /// Whether MESSAGE-INTEGRITY is there and made with `key` (short-term credentials, RFC 8489 §14.5); constant time.
    pub fn verify_integrity(&self, key: &[u8]) -> bool {
        let parts = self.integrity_at.and_then(|at| {
            let (before, attribute) = self.bytes.split_at_checked(at)?;
            Some((before, attribute.get(4..24)?))
        });
        parts.is_some_and(|(before, received)| {
            bool::from(integrity(before, key).as_slice().ct_eq(received))
        })
    }

    fn read_attributes(&mut self) -> Result<(), ParseError> {
        let mut at = HEADER;
        let mut count = 0;
        let mut xor_mapped = None;
        while at < self.bytes.len() {
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(ParseError::TooMany);
            }
            let rest = self.bytes.get(at..).unwrap_or_default();
            let Some(&[k0, k1, l0, l1]) = rest.first_chunk::<4>() else {
                return Err(ParseError::NotStun);
            };
            let kind = u16::from_be_bytes([k0, k1]);
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let value = self
                .bytes
                .get(at + 4..at + 4 + length)
                .ok_or(ParseError::Attribute(kind))?;
            if kind == FINGERPRINT {
                self.check_fingerprint(at, value)?;
            } else if self.integrity_at.is_none() {
                if kind == XOR_MAPPED_ADDRESS {
                    let address = decode_address(value, Some(&self.transaction));
                    xor_mapped = Some(address.ok_or(ParseError::Attribute(kind))?);
                } else {
                    self.read_attribute(kind, value, at)
                        .ok_or(ParseError::Attribute(kind))?;
                }
            }
            at += 4 + length.next_multiple_of(4);
        }
        self.mapped = xor_mapped.or(self.mapped);
        Ok(())
    }

    fn read_attribute(&mut self, kind: u16, value: &'a [u8], at: usize) -> Option<()> {
        match kind {
            MAPPED_ADDRESS => self.mapped = Some(decode_address(value, None)?),
            RESPONSE_ORIGIN => self.origin = Some(decode_address(value, None)?),
            OTHER_ADDRESS => self.other = Some(decode_address(value, None)?),
            CHANGE_REQUEST => {
                let flags = u32::from_be_bytes(value.try_into().ok()?);
                self.change = Some(ChangeRequest {
                    ip: flags & 0x4 != 0,
                    port: flags & 0x2 != 0,
                });
            }
            RESPONSE_PORT => self.response_port = Some(decode_port(value)?),
            SAMPLE_PORTS => self.sample_ports = Some(decode_ports(value)?),
            USERNAME if value.len() <= 513 => self.username = Some(value),
            PRIORITY => self.priority = Some(u32::from_be_bytes(value.try_into().ok()?)),
            USE_CANDIDATE if value.is_empty() => self.nominated = true,
            ERROR_CODE => {
                let &[_, _, class, number] = value.first_chunk::<4>()?;
                self.error = Some(ErrorCode(u16::from(class & 7) * 100 + u16::from(number)));
            }
            MESSAGE_INTEGRITY if value.len() == 20 => self.integrity_at = Some(at),
            USERNAME | USE_CANDIDATE | MESSAGE_INTEGRITY => return None,
            UNKNOWN_ATTRIBUTES => {}
            0x0000..=0x7FFF => self.unknown.push(kind),
            _ => {}
        }
        Some(())
    }

    fn check_fingerprint(&self, at: usize, value: &[u8]) -> Result<(), ParseError> {
        let before = self.bytes.get(..at).unwrap_or_default();
        let expected = crc32fast::hash(before) ^ FINGERPRINT_XOR;
        if value == expected.to_be_bytes() && at + 8 == self.bytes.len() {
            Ok(())
        } else {
            Err(ParseError::Fingerprint)
        }
    }
}

/// HMAC-SHA1 over the message up to MESSAGE-INTEGRITY, with the header's length as if it ended behind that attribute.
pub(crate) fn integrity(before: &[u8], key: &[u8]) -> [u8; 20] {
    let length = u16::try_from(before.len() + 24 - HEADER).unwrap_or(u16::MAX);
    // HMAC takes a key of any length, so `new_from_slice` has no error to report.
    let mut mac = Hmac::<Sha1>::new_from_slice(key)
        .unwrap_or_else(|_| unreachable!("HMAC keys may have any length"));
    mac.update(before.get(..2).unwrap_or_default());
    mac.update(&length.to_be_bytes());
    mac.update(before.get(4..).unwrap_or_default());
    mac.finalize().into_bytes().into()
}
