//! What Linux leaves to whoever reads a TUN packet, and what it takes off whoever writes one: `struct virtio_net_hdr`
//! (VIRTIO 1.2 §5.1.6, in the host's byte order), which stands before each packet of a device with IFF_VNET_HDR.

use crate::{Checksum, Malformed};

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// The bit which says that the sender of the segments takes part in ECN; it changes nothing here.
const GSO_ECN: u8 = 0x80;

/// How a packet that is longer than the MTU comes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GsoKind {
    /// Into TCP segments over IPv4.
    Tcp4,
    /// Into TCP segments over IPv6.
    Tcp6,
    /// Into UDP datagrams.
    Udp,
}

/// A checksum to complete: so far its place holds the sum of the pseudo-header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the bytes begin that the checksum covers, counted from the start of the packet.
    pub start: u16,
    /// Where the checksum stands, counted from where those bytes begin.
    pub offset: u16,
}

/// What is still to be done to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The packet's checksum is to be completed.
    pub checksum: Option<PartialChecksum>,
    /// The packet is to be cut into pieces with so many bytes of payload.
    pub gso: Option<(GsoKind, u16)>,
}

impl Offload {
    /// Bytes of the header.
    pub const LENGTH: usize = 10;

    /// Reads the header.
    ///
    /// # Errors
    /// [`Malformed::Header`] for a way to cut that was never asked for.
    pub fn decode(header: &[u8; Self::LENGTH]) -> Result<Self, Malformed> {
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        // The header length in bytes 2 and 3 is only a hint, and not always right.
        let size = word(4);
        let gso = match header[1] & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 => Some((GsoKind::Tcp4, size)),
            GSO_TCP6 => Some((GsoKind::Tcp6, size)),
            GSO_UDP => Some((GsoKind::Udp, size)),
            _ => return Err(Malformed::Header),
        };
        let checksum = (header[0] & NEEDS_CHECKSUM != 0).then(|| PartialChecksum {
            start: word(6),
            offset: word(8),
        });
        Ok(Self { checksum, gso })
    }

    /// Writes the header for a packet whose headers are `headers` bytes long together.
    pub fn encode(self, headers: u16) -> [u8; Self::LENGTH] {
        let mut header = [0; Self::LENGTH];
        if let Some(PartialChecksum { start, offset }) = self.checksum {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&start.to_ne_bytes());
            header[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        if let Some((kind, size)) = self.gso {
            header[1] = match kind {
                GsoKind::Tcp4 => GSO_TCP4,
                GsoKind::Tcp6 => GSO_TCP6,
                GsoKind::Udp => GSO_UDP,
            };
            header[2..4].copy_from_slice(&headers.to_ne_bytes());
            header[4..6].copy_from_slice(&size.to_ne_bytes());
        }
        header
    }
}

impl PartialChecksum {
    /// Completes the checksum in place.
    pub(crate) fn complete(self, packet: &mut [u8]) -> Result<(), Malformed> {
        let start = usize::from(self.start);
        let at = start + usize::from(self.offset);
        if at + 2 > packet.len() {
            return Err(Malformed::Header);
        }
        let covered = packet.get(start..).ok_or(Malformed::Header)?;
        let sum = match Checksum::default().with(covered).finish() {
            // Right for TCP too, where it is another name of zero.
            0 => 0xFFFF,
            sum => sum,
        };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Ok(())
    }
}
