//! How peers are reached: signalling, candidates, checks. Deterministic: time, wall clock and seed come in.
//!
//! For every peer that is wanted (the user said `up`, or the peer has called this machine) the [`Connector`] keeps one
//! connection alive: an offer goes to every signalling server at hand, the answer starts an agent that finds a path, and when
//! the path dies, the network changes or the peer comes back, a new offer starts over, while the old path goes on serving.
//!
//! * `connector`: what comes in and what goes out; everything below is one of its rooms,
//! * `peer`: the connection with one peer, and its states,
//! * `peers`: all of them, and how one is found without asking the others,
//! * `signalling`: what the frames of signalling servers bring about, and the offers that go over them,
//! * `envelopes`: offers and answers, described, sealed and opened,
//! * `servers`: what goes to the signalling servers, and whose logins they tell of,
//! * `network`, `netchecks`: this machine's addresses, candidates and NAT,
//! * `searches`, `ledger`, `sockets`: who may search for ports, what searches have cost, and the sockets opened for attempts,
//! * `offers`, `pace`: the turns of the peers to get an offer, and how often something may happen, of each server,
//! * `capacities`, `charges`: what a network can carry, and what the addresses have got that peers have named,
//! * `contact`: how far calling a peer has come,
//! * `strangers`: machines that have called and are no peers,
//! * `channel`: what carries envelopes, all called servers inside,
//! * `lan`: what is said and heard in this machine's networks, as one of them,
//! * `medium`, `compact`: those kinds, and the offers that go over slow ones,
//! * `notes`: what comes over a path that was found and is neither a check nor of the tunnel,
//! * `relays`: which attempt a link of a signalling server's belongs to,
//! * `meeting`: the servers that are peers, and that no two tunnels ever carry each other,
//! * `over_tcp`, `tcp`, `dials`, `seen`: what happens on TCP connections, which attempt each belongs to, how often any are made, and
//!   where from,
//! * `legacy`: what one process leaves to the next,
//! * `path`: what carries a peer's packets. The agents find direct paths; `PeerConnection::path` says what serves,
//! * `course`: why packets take the path that serves, and no longer the one before,
//! * `traffic`: how much has come in over each kind of path.

mod capacities;
pub mod channel;
mod charges;
mod clock;
mod compact;
mod connector;
mod contact;
mod copies;
mod course;
mod dials;
mod envelopes;
mod events;
pub mod lan;
mod ledger;
mod legacy;
mod medium;
pub mod meeting;
mod netchecks;
mod network;
pub mod notes;
mod offers;
pub mod over_tcp;
mod pace;
mod path;
mod peer;
mod peers;
mod relays;
mod samplers;
mod schedule;
mod searches;
mod secrets;
mod seen;
mod servers;
mod signalling;
mod sizes;
mod sockets;
#[cfg(test)]
#[path = "../tests/support/start.rs"]
mod start;
mod strangers;
mod tcp;
mod traffic;
mod transactions;

pub use clock::WallClock;
pub use connector::Connector;
pub use contact::Contact;
pub use course::PathReason;
pub use events::{
    ConnectorConfig, ConnectorEvent, DroppedEnvelopes, LinkState, LinkStatus, News, PeerRefusal,
    SessionEvent, Signal, SocketOrder, TcpOrder, UserWish,
};
pub use legacy::{NotInherited, bequeath, inherit, inherit_stamps};
pub use medium::Channel;
pub use path::{Path, RelayPath, ServerId, TcpId, TcpPath};
pub use peer::{Bequest, MAX_STALE, PathBequest};
pub use secrets::draw;
pub use sizes::ConnectorSizes;
pub use strangers::Stranger;
pub use traffic::PeerTraffic;
