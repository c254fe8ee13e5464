//! The Mainline DHT as a place where two machines leave sealed envelopes for each other.
//!
//! [`client`] is a client of the DHT (BEP 5, 42, 44) that stores and finds small signed items and answers nobody's queries.
//! [`vantage`] lets nodes stand in for STUN servers.
//! [`rendezvous`] is the signalling channel on it: frames in, frames out, an item for each pair, day and direction.
//! Nothing here has a clock, a socket or a source of randomness: inputs are `handle_*(…, now)`, outputs `poll_transmit`,
//! `poll_event`, `poll_timeout`.

pub mod bencode;
pub mod client;
mod closest;
mod events;
pub mod id;
pub mod item;
pub mod krpc;
mod lookup;
mod operation;
mod pace;
mod queries;
pub mod rendezvous;
pub mod sealed;
mod table;
pub mod vantage;
mod votes;

pub use id::{NodeId, Scope};
pub use item::{Item, VALUE_LENGTH};
pub use krpc::Node;

pub use client::{Client, Event, How, Transmit, Urgency};
pub use rendezvous::{Attached, MAX_ATTACHED, Moment, Rendezvous, Told};
