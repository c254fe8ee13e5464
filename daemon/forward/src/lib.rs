//! Forward rules and the streams behind them. Pure: packets, target bytes, time and seeds come in; packets
//! and orders to the one who owns the target sockets go out.
//!
//! [`Rules`] says which forward a packet meets, [`Stack`] turns its packets into streams and datagrams.

mod counts;
mod device;
mod idle;
mod order;
mod rules;
mod shares;
mod stack;
mod table;
mod tcp;
mod udp;
mod unreachable;

pub use counts::{Crowded, ForwardCounts, Trouble};
pub use idle::Presence;
pub use order::{Order, Refused, StreamId, TargetEvent};
pub use rules::{Access, MEETING, Rule, Rules, meeting_target};
pub use stack::Stack;
pub use table::{
    LARGE_STREAMS, LARGE_STREAMS_PER_PEER, MAX_FLOWS, MAX_FLOWS_PER_PEER, MAX_STREAMS,
    MAX_STREAMS_PER_PEER,
};
pub use tcp::{BUFFER, SMALL_BUFFER};
pub use udp::IDLE;
