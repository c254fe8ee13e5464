//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A running one's-complement sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds bytes; every call but the last must add an even number of them.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        // In the machine's own byte order and 32 bits at a time, in lanes that do not wait for each other: the sum folds to the
        // same 16 bits, swapped (RFC 1071 §2(B) and (C)). 2^32 words fit.
        let mut lanes = [0_u64; 8];
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        let mut words = blocks.remainder().chunks_exact(4);
        for word in &mut words {
            self.0 += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut tail = [0; 4];
        let rest = words.remainder();
        tail[..rest.len()].copy_from_slice(rest);
        self.0 += lanes.iter().sum::<u64>() + u64::from(u32::from_ne_bytes(tail));
        self
    }

    /// The checksum to write into a header.
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(0).to_be()
    }
}

/// The pseudo-header of RFC 9293 §3.1 (IPv4) and RFC 8200 §8.1 (IPv6) for `length` bytes of `protocol`.
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Checksum {
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Checksum::default()
            .with(&source.octets())
            .with(&destination.octets()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Checksum::default()
            .with(&source.octets())
            .with(&destination.octets()),
        _ => Checksum::default(),
    };
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    sum.with(&length.to_be_bytes()).with(&[0, protocol])
}

/// The checksum of a whole transport segment whose checksum field is zero; a UDP result of 0 is sent as 0xFFFF.
pub fn transport_checksum(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: &[u8],
) -> u16 {
    pseudo_header(source, destination, protocol, segment.len())
        .with(segment)
        .finish()
}
