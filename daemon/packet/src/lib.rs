//! IP packets seen as packets: views that never copy, replies that are built from what was refused, checksums, and
//! batches, and what network cards do for packets: cutting and joining them. Nothing here panics on any bytes.

mod batch;
mod buffer;
mod build;
mod checksum;
mod coalesce;
mod codel;
mod fit;
mod fragment;
mod offload;
mod peer;
mod queue;
mod rate;
mod refuse;
mod segment;
#[cfg(test)]
#[path = "../../connect/tests/support/start.rs"]
mod start;
mod view;

pub use batch::Batch;
pub use buffer::Buffer;
pub use build::{
    UdpReply, echo_reply, echo_request, invitation, is_invitation, is_our_echo, split, udp_packets,
};
pub use checksum::{Checksum, pseudo_header, transport_checksum};
pub use coalesce::{Coalescer, Group};
pub use codel::Codel;
pub use fit::{Fit, fit};
pub use fragment::{MAX_REASSEMBLED, Reassembly, ReassemblyFull};
pub use offload::{GsoKind, Offload, PartialChecksum};
pub use peer::PeerHandle;
pub use queue::{FairQueue, Queued};
pub use rate::{Rate, TokenBucket};
pub use refuse::{Unreachable, refuse, tcp_reset, too_long, unreachable};
pub use segment::segments;
pub use view::{Flow, Fragment, IPV6_MINIMUM, Malformed, Packet, Protocol, TcpFlags, Transport};
