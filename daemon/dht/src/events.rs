//! What a client is asked, and what it has to say.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use crate::id::NodeId;
use crate::item::Item;

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddrV4,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// How an item is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By a walk to the nearest nodes.
    Walk,
    /// At so many of the nodes that were found nearest before; by a walk if there are none.
    Ask(usize),
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An item was found: authentic, of the right length, newer than what this operation has found before. Not newer than those
    /// of earlier ones.
    Found(Item),
    /// An operation has ended.
    Done {
        /// Its place.
        place: NodeId,
        /// Nodes that have answered.
        answers: usize,
        /// Nodes that have stored the item, if one was to be stored.
        stored: Option<usize>,
        /// Whether some had a newer item of the same key.
        outdated: bool,
    },
    /// Nodes that answer: where to begin after a restart, the best first.
    Nodes(Vec<SocketAddrV4>),
    /// Several nodes see this machine here.
    Seen(Ipv4Addr),
}

/// What there is to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nodes known that answer.
    pub nodes: usize,
    /// When one has answered last.
    pub answered: Option<Instant>,
    /// Since when queries go out that none answers.
    pub silent_since: Option<Instant>,
    /// Queries sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Datagrams received that answer nothing that was asked.
    pub ignored: u64,
    /// Operations begun.
    pub lookups: u64,
    /// Items that nodes have taken.
    pub stored: u64,
    /// Items found.
    pub found: u64,
    /// Places of which the nearest nodes are remembered.
    pub places: usize,
    /// Operations under way.
    pub operations: usize,
    /// Nodes that can stand in for STUN servers ([`crate::vantage`]).
    pub vantage: Vec<SocketAddrV4>,
}
