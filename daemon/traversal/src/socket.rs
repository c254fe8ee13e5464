//! The nouns that everything here shares; this module imports nothing of its crate.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An address family of the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IP version 4.
    V4,
    /// IP version 6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// One UDP socket of this machine. The two long-lived ones are [`SocketId::MAIN_V4`] and [`SocketId::MAIN_V6`]; others are
/// opened for a purpose and closed after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

impl SocketId {
    /// The long-lived IPv4 socket.
    pub const MAIN_V4: Self = Self(0);
    /// The long-lived IPv6 socket.
    pub const MAIN_V6: Self = Self(1);

    /// Whether it is one of the two long-lived ones.
    pub fn is_main(self) -> bool {
        self == Self::MAIN_V4 || self == Self::MAIN_V6
    }

    /// The long-lived socket of a family.
    pub fn main(family: Family) -> Self {
        match family {
            Family::V4 => Self::MAIN_V4,
            Family::V6 => Self::MAIN_V6,
        }
    }
}

/// A direct path to a peer: packets go from a socket of this machine straight to an address of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectPath {
    /// The socket of this machine.
    pub socket: SocketId,
    /// The peer's address, as seen from here.
    pub remote: SocketAddr,
}

impl fmt::Display for DirectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)
    }
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The socket that sends it.
    pub socket: SocketId,
    /// The destination.
    pub to: SocketAddr,
    /// The address of this machine that it leaves from; `None` leaves that to the routing table. An answer leaves from the address
    /// that the question came to, or it would not pass the asker's NAT.
    pub source: Option<IpAddr>,
    /// The hops that a packet has to live which shall open this side's NAT and die before it reaches the other's.
    pub ttl: Option<u8>,
    /// Whether nobody may cut it into fragments, on this machine or on the way: it finds out whether a packet of its length gets
    /// through.
    pub whole: bool,
    /// The payload.
    pub bytes: Vec<u8>,
}

impl Transmit {
    /// A datagram that the routing table gives its source, with the usual time to live.
    pub fn new(socket: SocketId, to: SocketAddr, bytes: Vec<u8>) -> Self {
        Self {
            socket,
            to,
            source: None,
            ttl: None,
            whole: false,
            bytes,
        }
    }
}
