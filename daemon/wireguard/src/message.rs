//! The outside of WireGuard's messages: kinds, lengths, and the index that says whose one is (WireGuard, "Next Generation Kernel
//! Network Tunnel", §5.4).

#![warn(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

use punch_packet::PeerHandle;

/// The length of a handshake initiation, in bytes.
pub const INITIATION_LENGTH: usize = 148;
/// The length of a handshake response, in bytes.
pub const RESPONSE_LENGTH: usize = 92;
/// The length of a cookie reply, in bytes.
pub const COOKIE_REPLY_LENGTH: usize = 64;
/// What a data message has beside the packet: a header of 16 bytes and a tag of 16 bytes.
pub const OVERHEAD: usize = 32;
/// How many bits the number of a session has; the other bits of a receiver's index tell its tunnels and keys apart.
pub const SESSION_BITS: u32 = 32 - SLOT_BITS - KEY_BITS;

/// boringtun counts the handshakes of one tunnel in the lowest byte of an index.
const KEY_BITS: u32 = 8;
/// A session has up to four tunnels.
const SLOT_BITS: u32 = 2;

pub(crate) const INITIATION: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const COOKIE_REPLY: u8 = 3;
pub(crate) const DATA: u8 = 4;

pub(crate) type Initiation = [u8; INITIATION_LENGTH];
pub(crate) type Response = [u8; RESPONSE_LENGTH];

/// The session that a job belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId {
    /// The peer.
    pub peer: PeerHandle,
    /// The session's number, of [`SESSION_BITS`] bits: the peer sends it back in every message.
    pub number: u32,
}

/// The number of the session that a data message is for, or `None` if the datagram is no data message.
pub fn data_index(datagram: &[u8]) -> Option<u32> {
    let [DATA, 0, 0, 0, receiver @ ..] = datagram.first_chunk::<8>()? else {
        return None;
    };
    (datagram.len() >= OVERHEAD).then(|| session_of(u32::from_le_bytes(*receiver)))
}

/// The session that an index belongs to.
pub(crate) fn session_of(index: u32) -> u32 {
    index >> (SLOT_BITS + KEY_BITS)
}

/// The tunnel within its session that an index belongs to.
pub(crate) fn slot_of(index: u32) -> usize {
    usize::from(index.to_le_bytes()[1] & ((1 << SLOT_BITS) - 1))
}

/// What boringtun calls the index of a tunnel: its 24 bits.
pub(crate) fn tunnel_index(session: u32, slot: usize) -> u32 {
    session << SLOT_BITS | (slot as u32 & ((1 << SLOT_BITS) - 1))
}

/// The four bytes at `at`, as an index. Zero where there are none, which is no index of ours.
pub(crate) fn index_at(message: &[u8], at: usize) -> u32 {
    message
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
