//! What is configured, and what is in force because of it: the state, how it is saved, and whoever has to hear of a change.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Result;
use punch_api::{
    ApiError, Changed, ErrorCode, EventKind, MetView, PeerId, PeerName, PeerView, WhyView,
};
use punch_engine::{Change, PeerHandle, ServerId};
use punch_platform::clock;
use punch_state::{Difference, Machine, State, peer, rights};
use tokio::sync::{mpsc, oneshot};

use super::addresses::Addresses;
use super::announcer::Announcer;
use super::change;
use super::endpoints::Endpoints;
use super::handles::Handles;
use super::parts::Parts;
use super::saving::{self, Saving};
use super::servers::Servers;
use super::translation::Translation;
use crate::config::Config;
use crate::driver::command::Command;
use crate::interface::Network;
use crate::meeting::MeetingPlace;
use crate::portmap::PortMapping;
use crate::snapshot::{Scope, Snapshot};
use crate::store::writer::Standing;
use crate::views::facts::{Facts, Ports};
use crate::views::{events, status, why};

/// A snapshot of all peers is taken of so many at a time: packets wait meanwhile.
const SNAPSHOT_PEERS: usize = 32;

/// See the module.
pub(super) struct Core {
    pub(super) config: Config,
    ports: Ports,
    started: Instant,
    pub(super) machine: Machine,
    pub(super) state: State,
    pub(super) saving: Saving,
    pub(super) handles: Handles,
    pub(super) servers: Servers,
    pub(super) addresses: Addresses,
    pub(super) endpoints: Endpoints,
    pub(super) port_mapping: PortMapping,
    place: MeetingPlace,
    driver: mpsc::Sender<Command>,
    pub(super) announcer: Announcer,
}

impl Core {
    /// Starts what the state says.
    pub(super) async fn open(parts: Parts) -> Result<Self> {
        let (saving, state) = Saving::new(parts.desk, parts.kept);
        let (config, ports, spawner) = (parts.config, parts.ports, parts.spawner);
        let (driver, identity) = (parts.driver, parts.identity);
        let machine = config.machine(identity.id());
        let translation = Translation::new(config.nat64, parts.nat64, spawner.clone());
        let nat64 = translation.watch();
        let addresses = Addresses::new(parts.interface, machine.addresses(), translation);
        let servers = Servers::new(
            &identity,
            &config.channels.proxy,
            &driver,
            &spawner,
            nat64.clone(),
        )?;
        let mut core = Self {
            machine,
            ports,
            started: clock::now(),
            state: State::default(),
            saving,
            handles: Handles::default(),
            port_mapping: PortMapping::start(&spawner, &identity, ports, config.port_mapping),
            servers,
            addresses,
            endpoints: Endpoints::new(spawner.clone(), nat64),
            place: parts.place,
            config,
            driver,
            announcer: Announcer::new(parts.broadcast),
        };
        core.network_changed().await;
        core.addresses.set_own().await?;
        core.apply(state).await;
        core.addresses.settle().await;
        core.servers.dht.remember(core.saving.history.nodes());
        // Last: peers are told at once that we are here, and the engine must know by then which peers there are.
        core.servers.start_all(&core.config, &core.state);
        core.tell_stun_servers().await;
        Ok(core)
    }

    // --- applying ---

    /// The driver is gone only when punchd stops.
    pub(super) async fn order(&self, command: Command) {
        let _ = self.driver.send(command).await;
    }

    /// Saves a new state and brings it into force. What gives a right must be saved first; what only takes rights away is in force
    /// whatever the disk says.
    pub(super) async fn commit(&mut self, state: State) -> Result<Changed<()>, ApiError> {
        let unchanged = state == self.state;
        if !unchanged {
            let takes = !rights::gives(&self.state, &state);
            if takes {
                self.bring_into_force(state.clone()).await;
            }
            match self.saving.save(&state, takes).await {
                Standing::Refused(error) => return Err(saving::refusal(&error)),
                Standing::Saved | Standing::Unsaved(_) if takes => {}
                Standing::Saved | Standing::Unsaved(_) => self.bring_into_force(state).await,
            }
        }
        Ok(Changed {
            view: (),
            unchanged,
            warning: self.saving.warning(),
        })
    }

    pub(super) async fn bring_into_force(&mut self, state: State) {
        let difference = self.apply(state).await;
        for address in difference.servers_added {
            self.servers.start(address, false);
        }
        let gone = self.servers.stop_all(&difference.servers_gone);
        self.tell_stun_servers().await;
        for server in gone {
            self.order(Command::ServerDown(server)).await;
        }
        self.announcer.announce(Some(events::configuration()));
    }

    /// Brings engine and routes in line with the new state: both are told what differs.
    pub(super) async fn apply(&mut self, state: State) -> Difference {
        let before = std::mem::replace(&mut self.state, state);
        let mut difference = Difference::between(&before, &self.state);
        let gone = difference.gone.iter();
        for handle in gone.filter_map(|name| self.handles.get(name)) {
            self.addresses.set_path(handle, None);
        }
        let states = (&before, &self.state);
        let (touched, verdicts) = self.addresses.follow(&difference, states, &self.machine);
        for name in verdicts.iter().flat_map(|verdict| &verdict.owners) {
            if !difference.changed.contains(name) {
                difference.changed.push(name.clone());
            }
        }
        self.enforce(&difference, touched).await;
        self.announcer.tell(&verdicts);
        let peers = self.state.peers.values().filter(|peer| !peer.blocked);
        let peers = peers.filter_map(punch_state::Peer::id).collect();
        self.servers.dht.set_peers(peers);
        difference
    }

    /// Something about these peers is different, although the state is the same.
    pub(super) async fn configure(&mut self, changed: Vec<PeerName>, touched: BTreeSet<IpAddr>) {
        if !changed.is_empty() {
            let difference = Difference {
                changed,
                ..Difference::default()
            };
            self.enforce(&difference, touched).await;
        }
    }

    /// Tells the engine what differs, and leads these addresses into the tunnel or no longer.
    pub(super) async fn enforce(&mut self, difference: &Difference, touched: BTreeSet<IpAddr>) {
        let ground = change::Ground {
            machine: &self.machine,
            overlay: self.addresses.overlay(),
            history: &self.saving.history,
            now: clock::now(),
        };
        let (handles, endpoints) = (&mut self.handles, &mut self.endpoints);
        let engine = change::engine(difference, &self.state, ground, handles, endpoints);
        for peer in &engine.peers {
            if let Some(endpoint) = self.endpoints.current(peer.handle) {
                self.addresses.set_path(peer.handle, Some(endpoint.ip()));
            }
        }
        let guests = change::guests(difference, &self.state, &self.handles);
        self.place.set_guests(guests);
        self.servers.follow(&engine.gone, &self.state).await;
        self.order(Command::Configure(engine)).await;
        self.addresses.lead(touched).await;
    }

    /// Keeps the nodes of the DHT that have answered.
    pub(super) fn remember_nodes(&mut self) {
        if let Some(nodes) = self.servers.dht.take_nodes() {
            self.saving.history.record_nodes(nodes, clock::now());
        }
    }

    pub(super) async fn tell_stun_servers(&mut self) {
        self.addresses
            .set_servers(self.servers.places(self.machine.ipv4));
        if let Some(addresses) = self.servers.stun_change() {
            let change = Change {
                stun_servers: Some(addresses),
                ..Change::default()
            };
            self.order(Command::Configure(change)).await;
        }
    }

    // --- the network ---

    /// The network may have changed: it is looked at, and whoever has to know is told.
    pub(super) async fn network_changed(&mut self) {
        match self.addresses.look().await {
            Network::Gone => return self.order(Command::InterfaceGone).await,
            Network::Unknown(error) => {
                return tracing::warn!(%error, "the network of this machine is not known");
            }
            Network::There {
                addresses,
                gateway,
                lan,
            } => {
                self.servers.lan().set_links(lan);
                self.port_mapping.set_gateway(gateway);
                let (addresses, nat64) = self.addresses.translate(&addresses).await;
                self.announcer.set_network(&addresses, clock::now());
                self.order(Command::Addresses(addresses, nat64)).await;
            }
        }
        self.judge().await;
        self.addresses.mend().await;
    }

    /// Looks which overlay addresses are used in the network as it was found.
    pub(super) async fn judge(&mut self) {
        let judgement = self.addresses.judge_all();
        let changed = judgement.peers(&self.state);
        if judgement.own {
            if let Err(error) = self.addresses.set_own().await {
                tracing::warn!(error = format!("{error:#}"), "no IPv4 inside the tunnel");
            }
            if let Some(ip) = self.machine.addresses().first() {
                let why = self.addresses.overlay().why_no_own();
                self.announcer.warn(events::overlay(None, *ip, why));
            }
        }
        self.configure(changed, judgement.touched).await;
        self.announcer.tell(&judgement.verdicts);
    }

    /// A plain WireGuard peer is somewhere else.
    pub(super) fn roamed(
        &mut self,
        peer: PeerHandle,
        to: SocketAddr,
    ) -> Option<(EventKind, String)> {
        self.endpoints.see(peer, to);
        self.addresses.set_path(peer, Some(to.ip()));
        let name = self.name_of(peer)?;
        let key = &self.state.peers.get(&name)?.key;
        self.saving.history.record_seen(key, to, clock::now());
        Some(events::roamed(name, to))
    }

    /// Packets to a peer may be so long from now on.
    pub(super) async fn resized(&mut self, peer: PeerHandle, mtu: usize) -> Option<PeerName> {
        let name = self.name_of(peer)?;
        let addresses = self.state.peers.get(&name)?.addresses(self.config.ipv4);
        self.addresses.resize(&addresses, mtu).await;
        Some(name)
    }

    /// Calls those elsewhere that do not answer where they are called.
    pub(super) async fn call_elsewhere(&mut self) {
        let turned = self.endpoints.turn(clock::now()).into_iter();
        let changed: Vec<_> = turned.filter_map(|peer| self.name_of(peer)).collect();
        self.configure(changed, BTreeSet::new()).await;
    }

    pub(super) fn name_of(&self, handle: PeerHandle) -> Option<PeerName> {
        self.handles.name(handle).cloned()
    }

    pub(super) fn id_of(&self, handle: PeerHandle) -> Option<PeerId> {
        self.state.peers.get(self.handles.name(handle)?)?.id()
    }

    // --- views ---

    /// The channel under this number, for people.
    pub(super) fn met_over(&self, server: ServerId) -> Option<MetView> {
        self.servers.met_over(server, &self.handles)
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            config: &self.config,
            id: self.machine.id,
            ports: self.ports,
            started: self.started,
            now: clock::now(),
            wall_ms: clock::wall_ms(),
            state: &self.state,
            handles: self.handles.by_name(),
            servers: self.servers.facts(),
            others: self.servers.other_facts(),
            place: &self.place,
            overlay: self.addresses.overlay(),
            interface: self.addresses.interface(),
            nat64: self.addresses.nat64(),
            not_saved: self.saving.not_saved(),
        }
    }

    pub(super) async fn view<T>(
        &self,
        scope: Scope,
        view: impl FnOnce(&Facts<'_>, &Snapshot) -> T,
    ) -> Result<T, ApiError> {
        let snapshot = self.snapshot(scope).await?;
        Ok(view(&self.facts(), &snapshot))
    }

    pub(super) async fn view_all<T>(
        &self,
        view: impl FnOnce(&Facts<'_>, &Snapshot) -> T,
    ) -> Result<T, ApiError> {
        let mut snapshot = self.snapshot(Scope::forwards()).await?;
        for peers in self.handles.all().chunks(SNAPSHOT_PEERS) {
            let more = self.snapshot(Scope::peers(peers.to_vec())).await?;
            snapshot.peers.extend(more.peers);
        }
        Ok(view(&self.facts(), &snapshot))
    }

    pub(super) async fn snapshot(&self, scope: Scope) -> Result<Snapshot, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.order(Command::Snapshot(scope, sender)).await;
        receiver
            .await
            .map_err(|_| ApiError::new(ErrorCode::Internal, "punchd is stopping"))
    }

    pub(super) async fn view_of_peer<T>(
        &self,
        name: &PeerName,
        view: impl FnOnce(&Facts<'_>, &Snapshot) -> T,
    ) -> Result<T, ApiError> {
        peer::find(&self.state, name)?;
        let handle = self.handles.get(name);
        self.view(Scope::peers(handle.into_iter().collect()), view)
            .await
    }

    pub(super) async fn peer_view(&self, name: &PeerName) -> Result<PeerView, ApiError> {
        self.view_of_peer(name, |facts, snapshot| status::peer(facts, snapshot, name))
            .await?
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the peer is gone again"))
    }

    pub(super) async fn why(&self, name: &PeerName) -> Result<WhyView, ApiError> {
        self.view_of_peer(name, |facts, snapshot| why::why(facts, snapshot, name))
            .await?
    }
}
