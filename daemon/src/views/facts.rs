//! What views are made from, besides the snapshot of the engine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use punch_api::{PeerId, PeerName, ServerAddress};
use punch_engine::{Nat64, PeerHandle, ServerId};
use punch_state::State;

use crate::config::Config;
use crate::interface::Interface;
use crate::meeting::MeetingPlace;
use crate::overlay::Overlay;
use crate::proxy::Proxy;
use crate::signalling::dht::Standing;
use crate::signalling::lan::LanFacts;

/// Where packets come in: ports of IPv4 and IPv6.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// The main UDP ports.
    pub(crate) udp: (Option<u16>, Option<u16>),
    /// Where peers may connect by TCP.
    pub(crate) tcp: (Option<u16>, Option<u16>),
}

/// What the controller knows at one moment.
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    /// This machine's identity.
    pub(crate) id: PeerId,
    pub(crate) ports: Ports,
    pub(crate) started: Instant,
    pub(crate) now: Instant,
    /// The same moment in milliseconds since 1970.
    pub(crate) wall_ms: u64,
    pub(crate) state: &'a State,
    /// The number that the engine knows each peer by.
    pub(crate) handles: &'a BTreeMap<PeerName, PeerHandle>,
    pub(crate) servers: Vec<ServerFacts<'a>>,
    /// What else carries envelopes.
    pub(crate) others: OtherChannels,
    /// The meeting place of this machine.
    pub(crate) place: &'a MeetingPlace,
    pub(crate) overlay: &'a Overlay,
    pub(crate) interface: &'a Interface,
    /// The translator that leads to IPv4 where there is none.
    pub(crate) nat64: Option<Nat64>,
    /// Why something is not saved, and what that means.
    pub(crate) not_saved: Option<String>,
}

/// What carries envelopes and is no server.
#[derive(Default)]
pub(crate) struct OtherChannels {
    /// The meeting places of peers.
    pub(crate) meetings: Vec<MeetingFacts>,
    /// The networks of this machine, unless they are left alone, and their number as a channel.
    pub(crate) lan: Option<(ServerId, LanFacts)>,
    /// The number of the DHT as a channel, if it runs.
    pub(crate) dht: Option<ServerId>,
}

/// The meeting place of a peer, and the state of the connection to it.
pub(crate) struct MeetingFacts {
    pub(crate) peer: PeerHandle,
    pub(crate) id: ServerId,
    pub(crate) connected: bool,
    pub(crate) reached: Option<SocketAddr>,
}

impl Facts<'_> {
    /// The name of a peer.
    pub(crate) fn name_of(&self, peer: PeerHandle) -> Option<&PeerName> {
        let mut handles = self.handles.iter();
        handles.find_map(|(name, handle)| (*handle == peer).then_some(name))
    }

    /// Why packets for a Punch peer never go over a relay, if the user or the administrator has said so.
    pub(super) fn not_relayed(&self, name: &PeerName) -> Option<&'static str> {
        let peer = self.state.peers.get(name)?;
        peer.id()?;
        if peer.direct_only {
            Some("not relayed: direct_only is set for this peer")
        } else if self.config.direct_only {
            Some("not relayed: direct_only is set here, in punchd.toml")
        } else if !self.config.relay {
            Some("not relayed: relays are switched off here, in punchd.toml")
        } else {
            None
        }
    }
}

/// A server, and the state of the connection to it.
pub(crate) struct ServerFacts<'a> {
    pub(crate) id: ServerId,
    /// Where the signalling connection leads, or led last.
    pub(crate) reached: Option<SocketAddr>,
    pub(crate) address: &'a ServerAddress,
    /// What leads to a signalling server, if not the network alone.
    pub(crate) proxy: Option<&'a Proxy>,
    /// Whether punchd.toml names the server.
    pub(crate) fixed: bool,
    /// Whether a signalling connection stands.
    pub(crate) connected: bool,
    pub(crate) trouble: Option<String>,
    /// Since when an answer is awaited.
    pub(crate) since: Instant,
    /// What the name of a server was resolved to.
    pub(crate) resolved: Vec<SocketAddr>,
    /// How the DHT is, if this is a way into it.
    pub(crate) dht: Option<Standing>,
}
