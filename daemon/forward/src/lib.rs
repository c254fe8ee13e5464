//! Forward rules and the streams behind them. Pure: packets, target bytes, time and seeds come in; packets
//! and orders to the one who owns the target sockets go out.
//!
//! [`Rules`] says which forward a packet meets, [`Stack`] turns its packets into streams and datagrams.

mod device;
mod order;
mod rules;
mod stack;
mod tcp;
mod udp;

pub use order::{Order, Refused, StreamId, TargetEvent};
pub use rules::{Access, Rule, Rules};
pub use stack::{MAX_STREAMS, MAX_STREAMS_PER_PEER, Stack};
pub use tcp::BUFFER;
pub use udp::{IDLE, MAX_FLOWS, MAX_FLOWS_PER_PEER};
