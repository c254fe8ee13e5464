//! The number of the peer that a packet belongs to.

/// The daemon's number for a peer: given by the controller when the peer is added, and never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerHandle(pub u32);
