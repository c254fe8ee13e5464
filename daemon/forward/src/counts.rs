//! What has become of a forward's streams, counted as it happens.

use std::time::Instant;

/// The streams of one forward. All but `open` count from the start of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardCounts {
    /// TCP connections or UDP flows that are open.
    pub open: u64,
    /// All that were opened, also those that failed at the target.
    pub total: u64,
    /// Those that the target refused, or that had no way to it.
    pub failed: u64,
    /// Those that were refused to the peer, because there were too many.
    pub refused: u64,
    /// What went wrong at the target, unless a stream has reached it since.
    pub trouble: Option<Trouble>,
}

/// What went wrong at a target, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When it was noticed.
    pub at: Instant,
    /// In words for people, such as "connection refused at 127.0.0.1:5432".
    pub what: String,
}

/// There was no room for streams of a peer; told at most once a minute for each peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded {
    /// The peer at the other end.
    pub peer: punch_packet::PeerHandle,
    /// New streams of that peer that were refused since it was told last.
    pub refused: u64,
    /// Streams of that peer that were ended since then to make room for others.
    pub ended: u64,
    /// The streams that the peer has open, of the protocol that had no room.
    pub open: usize,
}
