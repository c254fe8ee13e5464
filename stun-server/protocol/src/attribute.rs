//! Attribute numbers (RFC 8489 §18.3, RFC 5780 §7, RFC 8445 §16.1) and the values that need a type.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::header::{MAGIC_COOKIE, TransactionId};

pub(crate) const MAPPED_ADDRESS: u16 = 0x0001;
pub(crate) const CHANGE_REQUEST: u16 = 0x0003;
pub(crate) const USERNAME: u16 = 0x0006;
pub(crate) const MESSAGE_INTEGRITY: u16 = 0x0008;
pub(crate) const ERROR_CODE: u16 = 0x0009;
pub(crate) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
pub(crate) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
pub(crate) const PRIORITY: u16 = 0x0024;
pub(crate) const USE_CANDIDATE: u16 = 0x0025;
/// RFC 5780 §7.6. It stays among the attributes that [`crate::Message`] does not know: a server refuses it (no answer goes to another
/// port with it, §7.5), and who takes connectivity checks passes over what is unknown in them.
pub(crate) const PADDING: u16 = 0x0026;
pub(crate) const RESPONSE_PORT: u16 = 0x0027;
pub(crate) const FINGERPRINT: u16 = 0x8028;
pub(crate) const RESPONSE_ORIGIN: u16 = 0x802B;
pub(crate) const OTHER_ADDRESS: u16 = 0x802C;
/// Punch's own, from the range that others ignore (comprehension-optional, first come first served; RFC 8489 §18.3), where
/// nobody has registered it: the first and the last of the ports that a client may sample.
pub(crate) const SAMPLE_PORTS: u16 = 0xC0DE;

/// What `FINGERPRINT`'s CRC is xored with (RFC 8489 §14.7).
pub(crate) const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// From where a server shall answer (RFC 5780 §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeRequest {
    /// Whether the answer shall leave from the server's other address.
    pub ip: bool,
    /// Whether the answer shall leave from the server's other port.
    pub port: bool,
}

/// An error response's code, 300 to 699 (RFC 8489 §14.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// The request lacks something or contradicts itself.
    pub const BAD_REQUEST: Self = Self(400);
    /// The request has an attribute that must be understood and is not.
    pub const UNKNOWN_ATTRIBUTE: Self = Self(420);

    pub(crate) fn reason(self) -> &'static str {
        match self.0 {
            400 => "Bad Request",
            420 => "Unknown Attribute",
            _ => "",
        }
    }
}

pub(crate) fn encode_address(address: SocketAddr, xor: Option<&TransactionId>) -> Vec<u8> {
    let mut out = Vec::with_capacity(20);
    let mut mask = [0; 16];
    if let Some(transaction) = xor {
        mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        mask[4..].copy_from_slice(&transaction.0);
    }
    let port = address.port() ^ u16::from_be_bytes([mask[0], mask[1]]);
    let family = if address.is_ipv4() { 1 } else { 2 };
    out.extend([0, family]);
    out.extend_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => out.extend(ip.octets().iter().zip(mask).map(|(byte, m)| byte ^ m)),
        IpAddr::V6(ip) => out.extend(ip.octets().iter().zip(mask).map(|(byte, m)| byte ^ m)),
    }
    out
}

pub(crate) fn decode_address(value: &[u8], xor: Option<&TransactionId>) -> Option<SocketAddr> {
    let mut mask = [0; 16];
    if let Some(transaction) = xor {
        mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        mask[4..].copy_from_slice(&transaction.0);
    }
    let (&[_, family, port_high, port_low], ip) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([port_high ^ mask[0], port_low ^ mask[1]]);
    let ip = match family {
        1 => {
            let mut octets: [u8; 4] = ip.try_into().ok()?;
            octets.iter_mut().zip(mask).for_each(|(byte, m)| *byte ^= m);
            IpAddr::from(Ipv4Addr::from(octets))
        }
        2 => {
            let mut octets: [u8; 16] = ip.try_into().ok()?;
            octets.iter_mut().zip(mask).for_each(|(byte, m)| *byte ^= m);
            IpAddr::from(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// A port, of two bytes as RFC 5780 §7.5 has it, or with the two bytes of padding counted in, as coturn writes it.
pub(crate) fn decode_port(value: &[u8]) -> Option<u16> {
    match *value {
        [high, low] | [high, low, _, _] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

pub(crate) fn encode_ports((first, last): (u16, u16)) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_be_bytes(), last.to_be_bytes());
    [a, b, c, d]
}

pub(crate) fn decode_ports(value: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d]: [u8; 4] = value.try_into().ok()?;
    let (first, last) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    (0 < first && first <= last).then_some((first, last))
}
