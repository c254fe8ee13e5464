//! What carries envelopes between this machine and its peers.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::values::PeerName;

/// The channel over which two machines have met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetView {
    /// The kind of the channel.
    pub channel: OpenEnum<ChannelKind>,
    /// The address of the server, or the name of the peer at which they have met; `None` for other kinds.
    pub name: Option<String>,
}

impl fmt::Display for MetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("a server");
        match &self.channel {
            OpenEnum::Known(ChannelKind::Server) => write!(f, "over {name}"),
            OpenEnum::Known(ChannelKind::Peer) => write!(f, "at {name}"),
            OpenEnum::Known(ChannelKind::Lan) => f.write_str("over the LAN"),
            OpenEnum::Known(ChannelKind::Dht) => f.write_str("over the DHT"),
            OpenEnum::Known(ChannelKind::Paste) => f.write_str("by paste"),
            OpenEnum::Unknown(kind) => write!(f, "over {kind}"),
        }
    }
}

/// What carries envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// A signalling server.
    Server,
    /// The meeting place of a peer.
    Peer,
    /// A network that both machines are attached to.
    Lan,
    /// The public distributed hash table.
    Dht,
    /// A line that people have carried from one machine to the other.
    Paste,
}

/// The networks of this machine, where peers are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanView {
    /// The names of the network interfaces.
    pub links: Vec<String>,
    /// The peers that are heard there.
    pub heard: Vec<HeardView>,
    /// Why peers are not called, or not everywhere; for people.
    pub trouble: Option<String>,
    /// Datagrams sent there since punchd started.
    pub sent: u64,
    /// Datagrams of peers that were taken.
    pub taken: u64,
    /// Datagrams of strangers, and this machine's own.
    pub strangers: u64,
    /// Datagrams that were forged, repeated, too many, or of another network.
    pub refused: u64,
}

/// A peer that is heard in a network of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardView {
    /// The peer's name.
    pub peer: PeerName,
    /// The address that it was heard from last, with the port where it takes envelopes.
    pub address: SocketAddr,
}
