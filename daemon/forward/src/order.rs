//! What the stack and the owner of the target sockets say to each other about a stream.

use bytes::Bytes;
use punch_api::{ForwardKey, Protocol, Target};
use punch_packet::PeerHandle;

/// One forwarded TCP connection or UDP flow; numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What the owner of the target sockets shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Connect to the target, and report [`TargetEvent::Connected`] or a failure.
    Connect {
        /// The new stream.
        stream: StreamId,
        /// TCP or UDP.
        protocol: Protocol,
        /// Where to connect.
        target: Target,
        /// The peer that has opened it.
        peer: PeerHandle,
        /// The forward that it uses.
        forward: ForwardKey,
        /// Bytes that may be on their way in each direction, beside what the stack itself buffers.
        window: usize,
    },
    /// Bytes from the client can be taken with [`crate::Stack::read`].
    Readable(StreamId),
    /// [`crate::Stack::write`] has room again.
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
    /// Nothing listens at the target.
    Refused,
    /// There is no way to the target, or its name is unknown.
    Unreachable,
    /// The target has sent all it will.
    Finished,
    /// The connection broke.
    Reset,
    /// This machine has no room for it at the moment; it says nothing about the target.
    Busy,
}

/// Why a packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no forward for the packet, or none that this peer may use.
    #[error("no forward")]
    NoForward,
    /// The packet belongs to no connection and opens none.
    #[error("no connection")]
    NoConnection,
    /// There are too many connections or flows.
    #[error("too many connections")]
    Full,
    /// The peer opens connections or flows too fast: this one is to be lost, and comes again.
    #[error("too fast")]
    TooFast,
    /// There was no way to the target a moment ago.
    #[error("no way to the target")]
    Unreachable,
    /// The packet contradicts itself.
    #[error("malformed")]
    Malformed,
}
