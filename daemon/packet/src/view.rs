//! A read-only view of one IP packet (RFC 791, RFC 8200) and of the transport header inside.

#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why bytes are not a packet that we handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The packet is neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6")]
    Version,
    /// The packet is shorter than its headers say.
    #[error("shorter than its headers say")]
    Truncated,
    /// A header length or an extension chain is impossible or too long.
    #[error("an impossible header")]
    Header,
}

/// The protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
    /// ICMP, of RFC 792 or RFC 4443 by the packet's version.
    Icmp,
    /// A protocol with any other number.
    Other(u8),
}

impl Protocol {
    /// The number in the IP header; ICMP has one for each version.
    pub fn number(self, v4: bool) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp if v4 => 1,
            Self::Icmp => 58,
            Self::Other(number) => number,
        }
    }
}

/// The bits of a TCP header that decisions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN is set.
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }
    /// SYN is set.
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }
    /// RST is set.
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }
    /// ACK is set.
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// The first segment of a connection: SYN without ACK.
    pub fn opens(self) -> bool {
        self.syn() && !self.ack() && !self.rst()
    }
}

/// What a link that carries IPv6 carries at least (RFC 8200 §5): a longer packet may be refused, a shorter one may not.
pub const IPV6_MINIMUM: usize = 1280;

/// Where a fragment belongs (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The identification that all fragments of a packet share.
    pub id: u32,
    /// Where the fragment begins, in bytes.
    pub offset: usize,
    /// Whether more fragments follow.
    pub more: bool,
}

/// What stands in the transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The ports and the flags of a TCP packet.
    Tcp {
        /// The port of the sender.
        source: u16,
        /// The port of the receiver.
        destination: u16,
        /// SYN, ACK, FIN, RST.
        flags: TcpFlags,
    },
    /// The ports of a UDP packet.
    Udp {
        /// The port of the sender.
        source: u16,
        /// The port of the receiver.
        destination: u16,
    },
    /// Echo request or reply.
    Echo {
        /// Request or reply.
        request: bool,
        /// The identifier.
        id: u16,
    },
    /// An ICMP error message about a packet that was sent earlier.
    IcmpError,
    /// Any other ICMP message or protocol, or a later fragment.
    Opaque,
}

/// Both ends of a conversation as its packets name them; [`Flow::reversed`] is the other direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// TCP, UDP or ICMP.
    pub protocol: Protocol,
    /// The sender; for an echo its port is the identifier.
    pub source: SocketAddr,
    /// The receiver; for an echo its port is the identifier too.
    pub destination: SocketAddr,
}

impl Flow {
    /// The flow of the packets that answer this one's.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
        }
    }
}

/// One IP packet, its headers checked for length.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    transport_at: usize,
    fragment: Option<Fragment>,
    transport: Transport,
}

/// IPv6 extension headers beyond this number are an attack, not a packet.
const MAX_EXTENSIONS: usize = 8;

impl<'a> Packet<'a> {
    /// Reads the headers; bytes behind the packet's own length are cut off.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes, true),
            6 => Self::parse_v6(bytes, true),
            _ => Err(Malformed::Version),
        }
    }

    /// Reads the start of a packet as an ICMP error quotes it: the payload may be cut off.
    fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes, false),
            6 => Self::parse_v6(bytes, false),
            _ => Err(Malformed::Version),
        }
    }

    fn parse_v4(bytes: &'a [u8], whole: bool) -> Result<Self, Malformed> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let header_length = usize::from(header[0] & 0x0F) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_length < 20 || total < header_length {
            return Err(Malformed::Header);
        }
        let bytes = clip(bytes, total, header_length, whole)?;
        let payload = bytes.get(header_length..).ok_or(Malformed::Truncated)?;
        let word = u16::from_be_bytes([header[6], header[7]]);
        let (offset, more) = (usize::from(word & 0x1FFF) * 8, word & 0x2000 != 0);
        let fragment = (offset > 0 || more).then_some(Fragment {
            id: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset,
            more,
        });
        let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let protocol = match header[9] {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            1 => Protocol::Icmp,
            other => Protocol::Other(other),
        };
        Ok(Self {
            bytes,
            source: source.into(),
            destination: destination.into(),
            protocol,
            transport_at: header_length,
            fragment,
            transport: transport(protocol, false, payload, fragment)?,
        })
    }

    fn parse_v6(bytes: &'a [u8], whole: bool) -> Result<Self, Malformed> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = clip(bytes, total, 40, whole)?;
        let address = |at: usize| {
            let octets: &[u8; 16] = header.get(at..)?.first_chunk()?;
            Some(IpAddr::from(Ipv6Addr::from(*octets)))
        };
        let (mut next, mut at, mut fragment) = (header[6], 40, None);
        for extension in 0.. {
            if extension > MAX_EXTENSIONS {
                return Err(Malformed::Header);
            }
            // Hop-by-hop, routing, destination options; then the fragment header, which has a fixed length.
            match next {
                0 | 43 | 60 if fragment.is_none_or(|f: Fragment| f.offset == 0) => {
                    let &[following, length] = bytes
                        .get(at..)
                        .and_then(|rest| rest.first_chunk::<2>())
                        .ok_or(Malformed::Truncated)?;
                    next = following;
                    at += 8 + usize::from(length) * 8;
                }
                44 if fragment.is_none() => {
                    let &[following, _, o0, o1, i0, i1, i2, i3] = bytes
                        .get(at..)
                        .and_then(|rest| rest.first_chunk::<8>())
                        .ok_or(Malformed::Truncated)?;
                    let word = u16::from_be_bytes([o0, o1]);
                    next = following;
                    at += 8;
                    fragment = Some(Fragment {
                        id: u32::from_be_bytes([i0, i1, i2, i3]),
                        offset: usize::from(word & 0xFFF8),
                        more: word & 1 != 0,
                    });
                }
                _ => break,
            }
        }
        let protocol = match next {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            58 => Protocol::Icmp,
            other => Protocol::Other(other),
        };
        let payload = bytes.get(at..).ok_or(Malformed::Truncated)?;
        Ok(Self {
            bytes,
            source: address(8).ok_or(Malformed::Truncated)?,
            destination: address(24).ok_or(Malformed::Truncated)?,
            protocol,
            transport_at: at,
            fragment,
            transport: transport(protocol, true, payload, fragment)?,
        })
    }

    /// The whole packet.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The sender's address.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The receiver's address.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The protocol above IP and its extension headers.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The transport header's essence.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The flags of a TCP packet.
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        match self.transport {
            Transport::Tcp { flags, .. } => Some(flags),
            Transport::Udp { .. }
            | Transport::Echo { .. }
            | Transport::IcmpError
            | Transport::Opaque => None,
        }
    }

    /// Set when this is not a whole packet.
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Whether nobody on its way may cut it into fragments: IPv6 forbids it always, IPv4 where the sender has (RFC 791 §3.1).
    pub fn forbids_fragments(&self) -> bool {
        const DONT_FRAGMENT: u8 = 0x40;
        let flags = self.bytes.get(6).copied().unwrap_or_default();
        self.source.is_ipv6() || flags & DONT_FRAGMENT != 0
    }

    /// Everything before the transport header.
    pub fn ip_header(&self) -> &'a [u8] {
        self.bytes.get(..self.transport_at).unwrap_or_default()
    }

    /// The transport header and what follows it.
    pub fn segment(&self) -> &'a [u8] {
        self.bytes.get(self.transport_at..).unwrap_or_default()
    }

    /// The payload of a TCP packet behind its header's options.
    pub fn tcp_payload(&self) -> Option<&'a [u8]> {
        self.tcp_flags()?;
        let segment = self.segment();
        // The data offset counts words of four bytes (RFC 9293 §3.1).
        let words = segment.get(12)? >> 4;
        segment.get(usize::from(words) * 4..)
    }

    /// The payload of a UDP packet, by its own length field.
    pub fn udp_payload(&self) -> Option<&'a [u8]> {
        let segment = self.segment();
        match self.transport {
            Transport::Udp { .. } => {
                let &[_, _, _, _, l0, l1] = segment.first_chunk()?;
                segment.get(8..usize::from(u16::from_be_bytes([l0, l1])))
            }
            Transport::Tcp { .. }
            | Transport::Echo { .. }
            | Transport::IcmpError
            | Transport::Opaque => None,
        }
    }

    /// Whether the checksum of a TCP, UDP or ICMP packet that is no fragment is right; a UDP checksum of zero over IPv4
    /// means that there is none (RFC 768).
    pub fn checksum_is_right(&self) -> bool {
        let segment = self.segment();
        let (number, covered) = match self.protocol {
            Protocol::Tcp => (6, segment),
            Protocol::Udp => {
                let Some(&[_, _, _, _, l0, l1, c0, c1]) = segment.first_chunk::<8>() else {
                    return false;
                };
                if (c0, c1) == (0, 0) {
                    return self.source.is_ipv4();
                }
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                match segment.get(..length) {
                    Some(covered) => (17, covered),
                    None => return false,
                }
            }
            Protocol::Icmp if self.source.is_ipv4() => {
                return crate::Checksum::default().with(segment).finish() == 0;
            }
            Protocol::Icmp => (58, segment),
            Protocol::Other(_) => return true,
        };
        crate::transport_checksum(self.source, self.destination, number, covered) == 0
    }

    /// The conversation that this packet belongs to; `None` for what has no ports.
    pub fn flow(&self) -> Option<Flow> {
        let (source, destination) = match self.transport {
            Transport::Tcp {
                source,
                destination,
                ..
            }
            | Transport::Udp {
                source,
                destination,
            } => (source, destination),
            Transport::Echo { id, .. } => (id, id),
            Transport::IcmpError | Transport::Opaque => return None,
        };
        Some(Flow {
            protocol: self.protocol,
            source: SocketAddr::new(self.source, source),
            destination: SocketAddr::new(self.destination, destination),
        })
    }

    /// For an ICMP error that tells a sender what became of its packet (unreachable, too big, time exceeded, parameter problem; RFC
    /// 792, RFC 4443 §3): the flow of that packet. Redirects and source quench, which would have the sender send otherwise, tell
    /// nothing of the kind.
    pub fn quoted_flow(&self) -> Option<Flow> {
        let kind = *self.segment().first()?;
        let tells = match self.source {
            IpAddr::V4(_) => matches!(kind, 3 | 11 | 12),
            IpAddr::V6(_) => matches!(kind, 1..=4),
        };
        if self.transport != Transport::IcmpError || !tells {
            return None;
        }
        Self::parse_quoted(self.segment().get(8..)?).ok()?.flow()
    }
}

fn clip(bytes: &[u8], total: usize, header: usize, whole: bool) -> Result<&[u8], Malformed> {
    match bytes.get(..total) {
        Some(exact) => Ok(exact),
        None if !whole && bytes.len() >= header => Ok(bytes),
        None => Err(Malformed::Truncated),
    }
}

fn transport(
    protocol: Protocol,
    v6: bool,
    segment: &[u8],
    fragment: Option<Fragment>,
) -> Result<Transport, Malformed> {
    if fragment.is_some_and(|fragment| fragment.offset > 0) {
        return Ok(Transport::Opaque);
    }
    let ports = |at: &[u8; 8]| {
        (
            u16::from_be_bytes([at[0], at[1]]),
            u16::from_be_bytes([at[2], at[3]]),
        )
    };
    let Some(first) = segment.first_chunk::<8>() else {
        return match protocol {
            Protocol::Other(_) => Ok(Transport::Opaque),
            Protocol::Tcp | Protocol::Udp | Protocol::Icmp => Err(Malformed::Truncated),
        };
    };
    let (source, destination) = ports(first);
    Ok(match protocol {
        Protocol::Tcp => Transport::Tcp {
            source,
            destination,
            // An ICMP error quotes only the first eight bytes; the flags stand behind them.
            flags: TcpFlags(segment.get(13).copied().unwrap_or(0)),
        },
        Protocol::Udp => Transport::Udp {
            source,
            destination,
        },
        Protocol::Icmp => {
            let id = u16::from_be_bytes([first[4], first[5]]);
            match (v6, first[0]) {
                (false, 8) | (true, 128) => Transport::Echo { request: true, id },
                (false, 0) | (true, 129) => Transport::Echo { request: false, id },
                (false, 3 | 4 | 5 | 11 | 12) | (true, 0..=127) => Transport::IcmpError,
                _ => Transport::Opaque,
            }
        }
        Protocol::Other(_) => Transport::Opaque,
    })
}
