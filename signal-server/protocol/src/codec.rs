//! Big-endian reading and writing with bounds; shared by every message of this crate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why bytes from outside were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before the field does.
    #[error("the message is cut short")]
    Truncated,
    /// Bytes follow the last field.
    #[error("{0} unexpected bytes follow the message")]
    Trailing(usize),
    /// A message number that this version does not know.
    #[error("unknown message number {0}")]
    UnknownMessage(u8),
    /// A field holds a value outside its range.
    #[error("the field `{0}` has an impossible value")]
    BadValue(&'static str),
    /// A required field is absent.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A list or text is longer than allowed.
    #[error("the field `{0}` is too long")]
    TooLong(&'static str),
    /// The other side speaks another version of the protocol.
    #[error("protocol version {0} is not supported")]
    Version(u8),
}

/// Reads fields off the front of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .0
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// An address and a port; `None` for a family of a newer version, whose address begins with its length.
    pub(crate) fn socket_addr(&mut self) -> Result<Option<SocketAddr>, DecodeError> {
        let ip = match self.u8()? {
            0 => return Err(DecodeError::BadValue("address family")),
            4 => Some(IpAddr::from(Ipv4Addr::from(self.array::<4>()?))),
            6 => Some(IpAddr::from(Ipv6Addr::from(self.array::<16>()?))),
            _ => {
                let length = usize::from(self.u8()?);
                self.bytes(length)?;
                None
            }
        };
        let port = self.u16()?;
        Ok(ip.map(|ip| SocketAddr::new(ip, port)))
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            n => Err(DecodeError::Trailing(n)),
        }
    }
}

pub(crate) fn put_socket_addr(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// Writes `tag, length, value`; `value` must be shorter than 64 KiB, as all of this crate's are.
pub(crate) fn put_field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.push(tag);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend(value.iter().take(usize::from(length)));
}
