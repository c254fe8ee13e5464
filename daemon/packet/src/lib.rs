//! IP packets seen as packets: views that never copy, replies that are built from what was refused, checksums, and
//! batches. Nothing here panics on any bytes.

mod batch;
mod build;
mod checksum;
mod fragment;
mod refuse;
mod view;

pub use batch::Batch;
pub use build::{UdpReply, echo_reply, echo_request, is_our_echo, split, udp_packets};
pub use checksum::{Checksum, pseudo_header, transport_checksum};
pub use fragment::{MAX_REASSEMBLED, Reassembly, ReassemblyFull};
pub use refuse::{Unreachable, refuse, tcp_reset, unreachable};
pub use view::{Flow, Fragment, Malformed, Packet, Protocol, TcpFlags, Transport};
