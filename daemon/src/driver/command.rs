//! What the rest of punchd asks of the driver.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use punch_engine::{Change, Channel, Nat64, NatProfile, OwnAddress, PeerHandle, ServerId};
use punch_signal_protocol::Frame;
use tokio::sync::{mpsc, oneshot};

use crate::handover::{Inherited, Left};
use crate::snapshot::{Scope, Snapshot};

/// One order or question.
pub(crate) enum Command {
    /// The configuration changes: only what differs is told.
    Configure(Change),
    /// The addresses of this machine, except those of the overlay, and the translator that leads to IPv4.
    Addresses(Vec<OwnAddress>, Option<Nat64>),
    /// The router leads these addresses to the main IPv4 socket and to the port for TCP connections, or nothing any more.
    PortMapped([Option<SocketAddr>; 2]),
    /// A channel of this kind can carry envelopes; frames for it go here.
    ServerUp(ServerId, Channel, ToServer),
    /// A signalling connection has ended.
    ServerDown(ServerId),
    /// This channel, until it is down, names nodes of the DHT that stand in for STUN servers, and wants to hear of those that do not
    /// answer.
    Vantage(ServerId, Vec<SocketAddrV4>, mpsc::Sender<SocketAddrV4>),
    /// A frame has come from a signalling server.
    Frame(ServerId, Frame),
    /// Packets have come over a signalling server: a relay frame.
    Relayed(ServerId, Bytes),
    /// The user asks again for this peer.
    Retry(PeerHandle),
    Ping(PeerHandle, oneshot::Sender<Option<Pong>>),
    Netcheck(oneshot::Sender<Vec<NatProfile>>),
    Snapshot(Scope, oneshot::Sender<Snapshot>),
    /// Somebody has deleted the TUN interface: punchd cannot go on.
    InterfaceGone,
    /// Say goodbye and stop.
    ShutDown,
    /// Tell the peers that another process goes on within so many seconds.
    GoAway(u8),
    /// Tell what the next process needs, with the conversations of this host or without. Of the descriptors with the names in
    /// `copied` no copies are needed.
    Bequeath {
        flows: bool,
        copied: BTreeSet<String>,
        answer: oneshot::Sender<io::Result<Left>>,
    },
    /// The same with everything, and stop without a word.
    HandOver {
        copied: BTreeSet<String>,
        answer: oneshot::Sender<io::Result<Left>>,
    },
    /// The peers are known: begin, with what an earlier process has left.
    Inherit(Inherited),
}

/// The ways to a signalling server.
pub(crate) struct ToServer {
    pub(crate) frames: mpsc::Sender<Frame>,
    /// Relay frames; what finds no room is lost like any packet.
    pub(crate) relayed: mpsc::Sender<Vec<u8>>,
}

/// The answer to a ping.
pub(crate) struct Pong {
    pub(crate) address: IpAddr,
    pub(crate) rtt: Duration,
}
