//! Frames of the relay, which carry sealed WireGuard packets: one WebSocket message has packets for one link, in the order in which
//! they were sent. They are apart from [`Frame`](crate::Frame) because there are many of them and nothing of them is kept.
//!
//! A link leads from one connection to another of the same server. Both ends have joined with the same token, which nobody else
//! can know: it comes from the exchange that both have sealed. Each end has a number of its own for the link.

use crate::codec::{DecodeError, Reader};

/// The longest relay frame, in bytes.
pub const MAX_RELAY_FRAME: usize = 16 * 1024;
/// The longest packet in a relay frame, in bytes.
pub const MAX_RELAY_PACKET: usize = 2048;
/// The first byte of a relay frame to the server.
const TO_SERVER: u8 = 32;
/// The first byte of a relay frame to the client.
const TO_CLIENT: u8 = 96;
/// The first byte and the link.
const HEADER: usize = 5;

/// What both ends of a link join with: 128 bits that only they know.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayToken(pub [u8; 16]);

impl std::fmt::Debug for RelayToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayToken(…)")
    }
}

/// A link's number at one of its ends; a connection's numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayLink(pub u32);

/// Whether a message is a relay frame, by its first byte.
pub fn is_relay_frame(message: &[u8]) -> bool {
    matches!(message.first(), Some(&(TO_SERVER | TO_CLIENT)))
}

/// Makes of a frame to the server, which was read and is good, the one to the client at the other end, who has the number `link` for
/// the link. The packets stay where they are.
pub fn turn_relay_frame(message: &mut [u8], link: RelayLink) {
    if let Some(header) = message.first_chunk_mut::<HEADER>() {
        let [a, b, c, d] = link.0.to_be_bytes();
        *header = [TO_CLIENT, a, b, c, d];
    }
}

/// A relay frame that was read: its link, and its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayFrame<'a> {
    /// The number that the sender's (to the server) or the receiver's end (to the client) has for the link.
    pub link: RelayLink,
    body: &'a [u8],
    count: u32,
}

impl<'a> RelayFrame<'a> {
    /// Reads a frame to the server.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`RelayBuilder::to_server`] does not write.
    pub fn read_at_server(message: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(message, TO_SERVER)
    }

    /// Reads a frame to the client.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`RelayBuilder::to_client`] does not write.
    pub fn read_at_client(message: &'a [u8]) -> Result<Self, DecodeError> {
        Self::read(message, TO_CLIENT)
    }

    fn read(message: &'a [u8], kind: u8) -> Result<Self, DecodeError> {
        if message.len() > MAX_RELAY_FRAME {
            return Err(DecodeError::TooLong("relay frame"));
        }
        let mut reader = Reader::new(message);
        match reader.u8()? {
            found if found == kind => {}
            other => return Err(DecodeError::UnknownMessage(other)),
        }
        let link = RelayLink(reader.u32()?);
        let body = reader.rest();
        let mut packets = Reader::new(body);
        let mut count = 0;
        while !packets.is_empty() {
            let length = usize::from(packets.u16()?);
            if length == 0 || length > MAX_RELAY_PACKET {
                return Err(DecodeError::BadValue("packet"));
            }
            packets.bytes(length)?;
            count += 1;
        }
        Ok(Self { link, body, count })
    }

    /// How many packets there are.
    pub fn packet_count(&self) -> u32 {
        self.count
    }

    /// The packets, in their order.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut reader = Reader::new(self.body);
        std::iter::from_fn(move || {
            let length = usize::from(reader.u16().ok()?);
            reader.bytes(length).ok()
        })
    }
}

/// Collects packets for one link into a frame.
#[derive(Debug)]
pub struct RelayBuilder(Vec<u8>);

impl RelayBuilder {
    /// A frame to the server.
    pub fn to_server(link: RelayLink) -> Self {
        Self::new(TO_SERVER, link)
    }

    /// A frame to the client.
    pub fn to_client(link: RelayLink) -> Self {
        Self::new(TO_CLIENT, link)
    }

    fn new(kind: u8, link: RelayLink) -> Self {
        let mut bytes = Vec::with_capacity(2048);
        bytes.push(kind);
        bytes.extend_from_slice(&link.0.to_be_bytes());
        Self(bytes)
    }

    /// Adds a packet; `false` if it is empty, longer than [`MAX_RELAY_PACKET`], or no longer fits.
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let fits = self.0.len() + 2 + packet.len() <= MAX_RELAY_FRAME;
        let Some(length) = u16::try_from(packet.len()).ok().filter(|_| fits) else {
            return false;
        };
        if packet.is_empty() || packet.len() > MAX_RELAY_PACKET {
            return false;
        }
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(packet);
        true
    }

    /// Whether the frame has no packet.
    pub fn is_empty(&self) -> bool {
        self.0.len() <= HEADER
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes of one WebSocket message.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
