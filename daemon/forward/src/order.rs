//! What passes between the streams and the one who owns their target sockets.

use bytes::Bytes;
use punch_api::{ForwardKey, Protocol, Target};
use punch_packet::PeerHandle;

/// One forwarded TCP connection or UDP flow; numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What the owner of the target sockets shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Connect to the target and report [`TargetEvent::Connected`] or a failure.
    Connect {
        /// The new stream.
        stream: StreamId,
        /// TCP or UDP.
        protocol: Protocol,
        /// Where to.
        target: Target,
        /// Whose it is.
        peer: PeerHandle,
        /// Which forward it uses.
        forward: ForwardKey,
    },
    /// Bytes from the client can be taken with [`Stack::read`](crate::Stack::read).
    Readable(StreamId),
    /// [`Stack::write`](crate::Stack::write) has room again.
    Writable(StreamId),
    /// A datagram for a UDP flow's target.
    Datagram(StreamId, Bytes),
    /// The client has sent all it will: close the writing half towards the target.
    Finish(StreamId),
    /// The client has reset the connection: reset the target's.
    Reset(StreamId),
    /// The stream is over and forgotten: close what is left.
    Close(StreamId),
}

/// What happened at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetEvent {
    /// The connection stands (TCP only).
    Connected,
    /// Nothing listens there.
    Refused,
    /// There is no way there, or its name is unknown.
    Unreachable,
    /// It has sent all it will.
    Finished,
    /// The connection broke.
    Reset,
}

/// Why a packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No forward for it, or not for this peer.
    #[error("no forward")]
    NoForward,
    /// It belongs to no connection and opens none.
    #[error("no connection")]
    NoConnection,
    /// Too many connections or flows.
    #[error("too many connections")]
    Full,
    /// It makes no sense.
    #[error("malformed")]
    Malformed,
}
