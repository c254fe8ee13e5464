//! Protocols, ports, and the two together: what names a forward.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{MAX_RANGE_LENGTH, ValueError};
use super::text::text_form;

/// A protocol whose ports can be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// The Transmission Control Protocol, RFC 9293.
    Tcp,
    /// The User Datagram Protocol, RFC 768.
    Udp,
}

impl FromStr for Protocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ValueError::Protocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

text_form!(Protocol);

/// Reads a port: digits only, and not 0.
pub(super) fn port(text: &str) -> Result<u16, ValueError> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(ValueError::Port(text.to_owned())),
    }
}

/// One port, or several consecutive ones; written `PORT` or `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The most ports in one range.
    pub const MAX_LENGTH: u32 = MAX_RANGE_LENGTH;

    /// One port, which is not 0.
    pub const fn one(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port, itself included.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether any port lies in both ranges.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(ValueError::Backwards(first, last));
        }
        let length = u32::from(last - first) + 1;
        if length > Self::MAX_LENGTH {
            return Err(ValueError::TooMany(length));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            f.pad(&self.first.to_string())
        } else {
            f.pad(&format!("{}-{}", self.first, self.last))
        }
    }
}

text_form!(PortRange);

/// What identifies a forward; no two forwards share a port of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForwardKey {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The shared ports.
    pub ports: PortRange,
}

impl fmt::Display for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.protocol, self.ports))
    }
}
