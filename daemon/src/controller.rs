//! The one writer of configuration: every change is validated, saved, applied to engine and kernel, and only then answered.

mod addresses;
mod announcer;
mod change;
mod endpoints;
mod handles;
mod history;
mod meetings;
mod parts;
mod questions;
pub(crate) mod request;
pub(crate) mod saving;
mod servers;
mod translation;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Result;
use punch_api::{
    AddForward, AddPeer, AddServer, ApiError, Changed, ErrorCode, EventKind, ForwardKey,
    ForwardView, NetcheckView, PeerId, PeerName, PeerView, PingView, ServerView, WhyView,
};
use punch_engine::{Change, EngineEvent, LinkState, News, PeerHandle};
use punch_platform::clock;
use punch_state::{Difference, Machine, Refusal, State, forward, peer, rights, server};
use tokio::sync::{mpsc, oneshot};

use self::addresses::Addresses;
use self::announcer::Announcer;
use self::endpoints::Endpoints;
use self::handles::Handles;
pub(crate) use self::parts::{Ending, Inlets, Parts};
use self::request::{Answer, Grant, Request};
use self::saving::Saving;
use self::servers::Servers;
use self::translation::Translation;
use crate::config::Config;
use crate::driver::command::Command;
use crate::interface::Network;
use crate::meeting::MeetingPlace;
use crate::portmap::PortMapping;
use crate::snapshot::{Scope, Snapshot};
use crate::store::writer::Standing;
use crate::tasks::{Spawner, sleep_until};
use crate::views::facts::{Facts, Ports};
use crate::views::{events, status, why};

/// A snapshot of all peers is taken of so many at a time: packets wait meanwhile.
const SNAPSHOT_PEERS: usize = 32;

pub(crate) struct Controller {
    config: Config,
    ports: Ports,
    started: Instant,
    machine: Machine,
    state: State,
    saving: Saving,
    handles: Handles,
    servers: Servers,
    addresses: Addresses,
    endpoints: Endpoints,
    port_mapping: PortMapping,
    place: MeetingPlace,
    driver: mpsc::Sender<Command>,
    announcer: Announcer,
    spawner: Spawner,
}

impl Controller {
    /// Starts what the state says.
    pub(crate) async fn open(parts: Parts) -> Result<Self> {
        let (saving, state) = Saving::new(parts.desk, parts.kept);
        let (config, ports, spawner) = (parts.config, parts.ports, parts.spawner);
        let (driver, identity) = (parts.driver, parts.identity);
        let machine = config.machine(identity.id());
        let translation = Translation::new(config.nat64, parts.nat64, spawner.clone());
        let nat64 = translation.watch();
        let addresses = Addresses::new(parts.interface, machine.addresses(), translation);
        let servers = Servers::new(&identity, &config.proxy, &driver, &spawner, nat64.clone())?;
        let mut controller = Self {
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
            spawner,
        };
        controller.network_changed().await;
        controller.addresses.set_own().await?;
        controller.apply(state).await;
        controller.addresses.settle().await;
        // Last: peers are told at once that we are here, and the engine must know by then which peers there are.
        let fixed = &controller.machine.servers;
        controller.servers.start_all(fixed, &controller.state);
        controller.tell_stun_servers().await;
        Ok(controller)
    }

    /// Works until it is told to stop, or nobody can ask it anything any more.
    pub(crate) async fn run(mut self, mut inlets: Inlets) {
        let ending = loop {
            let (write_at, turn_at) = (self.saving.due(), self.endpoints.due());
            let outage_at = self.announcer.due();
            tokio::select! {
                request = inlets.requests.recv() => match request {
                    Some(request) => self.handle_request(request).await,
                    None => break Ending::Goodbye,
                },
                Some(event) = inlets.events.recv() => self.handle_event(event).await,
                told = &mut inlets.stop => break told.unwrap_or(Ending::Goodbye),
                said = self.servers.changed() => {
                    self.announcer.say(said, &self.handles);
                    self.tell_stun_servers().await;
                }
                () = self.addresses.changed() => self.network_changed().await,
                () = self.endpoints.changed() => self.call_elsewhere().await,
                () = sleep_until(turn_at) => self.call_elsewhere().await,
                Ok(()) = self.port_mapping.changed() => {
                    let external = self.port_mapping.external();
                    self.order(Command::PortMapped(external)).await;
                }
                () = sleep_until(outage_at) => self.announcer.handle_timeout(),
                () = sleep_until(write_at) => self.saving.write(&self.state),
                () = self.saving.finished() => {}
            }
        };
        while let Ok(event) = inlets.events.try_recv() {
            self.handle_event(event).await;
        }
        self.saving.stop(&self.state).await;
        self.port_mapping.stop(ending == Ending::Replaced).await;
    }

    // --- applying ---

    /// The driver is gone only when punchd stops.
    async fn order(&self, command: Command) {
        let _ = self.driver.send(command).await;
    }

    /// Saves a new state and brings it into force. What gives a right must be saved first; what only takes rights away is in force
    /// whatever the disk says.
    async fn commit(&mut self, state: State) -> Result<Changed<()>, ApiError> {
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

    async fn bring_into_force(&mut self, state: State) {
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
    async fn apply(&mut self, state: State) -> Difference {
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
        difference
    }

    /// Something about these peers is different, although the state is the same.
    async fn configure(&mut self, changed: Vec<PeerName>, touched: BTreeSet<IpAddr>) {
        if !changed.is_empty() {
            let difference = Difference {
                changed,
                ..Difference::default()
            };
            self.enforce(&difference, touched).await;
        }
    }

    /// Tells the engine what differs, and leads these addresses into the tunnel or no longer.
    async fn enforce(&mut self, difference: &Difference, touched: BTreeSet<IpAddr>) {
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
        self.servers.remove_peers(&engine.gone).await;
        self.order(Command::Configure(engine)).await;
        self.addresses.lead(touched).await;
    }

    async fn tell_stun_servers(&mut self) {
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
    async fn network_changed(&mut self) {
        match self.addresses.look().await {
            Network::Gone => return self.order(Command::InterfaceGone).await,
            Network::Unknown(error) => {
                return tracing::warn!(%error, "the network of this machine is not known");
            }
            Network::There { addresses, gateway } => {
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
    async fn judge(&mut self) {
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

    // --- events ---

    async fn handle_event(&mut self, event: EngineEvent) {
        let event = match event {
            EngineEvent::State { peer, state } => {
                let connected = state == LinkState::Connected;
                self.endpoints.set_connected(peer, connected, clock::now());
                self.servers.handle_connected(peer, connected).await;
                if state == LinkState::Down {
                    self.addresses.set_path(peer, None);
                }
                self.name_of(peer).map(|peer| events::state(peer, state))
            }
            EngineEvent::Roamed { peer, to } => self.roamed(peer, to),
            EngineEvent::Mtu { peer, mtu, before } => {
                let name = self.resized(peer, mtu).await;
                name.and_then(|name| events::resized(name, mtu, before))
            }
            EngineEvent::News(news) => self.handle_news(news).await,
            EngineEvent::Invited { peer } => self.servers.handle_invitation(peer, self.id_of(peer)),
            EngineEvent::Crowded(crowded) => {
                let peer = self.name_of(crowded.peer);
                self.announcer.warn_crowded(peer, &crowded);
                None
            }
            EngineEvent::Socket(_) | EngineEvent::Tcp(_) | EngineEvent::Pong(_) => None,
        };
        self.announcer.announce(event);
    }

    /// A plain WireGuard peer is somewhere else.
    fn roamed(&mut self, peer: PeerHandle, to: SocketAddr) -> Option<(EventKind, String)> {
        self.endpoints.see(peer, to);
        self.addresses.set_path(peer, Some(to.ip()));
        let name = self.name_of(peer)?;
        let key = &self.state.peers.get(&name)?.key;
        self.saving.history.record_seen(key, to, clock::now());
        Some(events::roamed(name, to))
    }

    /// Packets to a peer may be so long from now on.
    async fn resized(&mut self, peer: PeerHandle, mtu: usize) -> Option<PeerName> {
        let name = self.name_of(peer)?;
        let addresses = self.state.peers.get(&name)?.addresses(self.config.ipv4);
        self.addresses.resize(&addresses, mtu).await;
        Some(name)
    }

    /// Calls those elsewhere that do not answer where they are called.
    async fn call_elsewhere(&mut self) {
        let turned = self.endpoints.turn(clock::now()).into_iter();
        let changed: Vec<_> = turned.filter_map(|peer| self.name_of(peer)).collect();
        self.configure(changed, BTreeSet::new()).await;
    }

    /// Keeps what must outlast a restart; returns the event for the user.
    async fn handle_news(&mut self, news: News) -> Option<(EventKind, String)> {
        let now = clock::now();
        match news {
            News::Selected { peer, path, why } => {
                self.addresses
                    .set_path(peer, path.endpoint().map(|to| to.ip()));
                self.servers.handle_path(peer, path).await;
                let by = self.servers.relay(path, &self.handles);
                events::path(self.name_of(peer)?, (path, why), by)
            }
            News::Searching { peer, step, chance } => {
                Some(events::searching(self.name_of(peer)?, step, chance))
            }
            News::Stale { peer, seconds } => Some(events::stale(self.name_of(peer)?, seconds)),
            News::Refused { peer, refusal } => Some(events::refused(self.name_of(peer)?, refusal)),
            News::Stranger { id } => Some(events::stranger(id)),
            News::Stamps { peer, sent, seen } => {
                let id = self.id_of(peer)?;
                self.saving.history.record_stamps(id, (sent, seen), now);
                None
            }
            News::Worked {
                peer,
                network,
                step,
            } => {
                let id = self.id_of(peer)?;
                self.saving.history.remember(id, network, step, now);
                None
            }
            News::NetworkChanged => {
                self.servers.restart();
                self.port_mapping.network_changed();
                Some(events::network_changed())
            }
            News::Capacity { mappings, .. } => history::tell_capacity(mappings),
            News::Netcheck(_) | News::Mtu { .. } => None,
        }
    }

    fn name_of(&self, handle: PeerHandle) -> Option<PeerName> {
        self.handles.name(handle).cloned()
    }

    fn id_of(&self, handle: PeerHandle) -> Option<PeerId> {
        self.state.peers.get(self.handles.name(handle)?)?.id()
    }

    // --- requests ---

    async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Id(answer) => drop(answer.send(Ok(status::id(&self.facts())))),
            Request::Key(answer) => {
                let file = self.saving.identity_path();
                drop(answer.send(Ok(status::key(&self.facts(), file))));
            }
            Request::Status(answer) => drop(answer.send(self.view_all(status::status).await)),
            Request::Peers(answer) => drop(answer.send(self.view_all(status::peers).await)),
            Request::Peer(name, answer) => drop(answer.send(self.peer_view(&name).await)),
            Request::Servers(answer) => {
                let view = self.view(Scope::default(), status::servers).await;
                drop(answer.send(view));
            }
            Request::Forwards(answer) => {
                drop(answer.send(self.view(Scope::forwards(), status::forwards).await));
            }
            Request::AddPeer(ask, answer) => drop(answer.send(self.add_peer(ask).await)),
            Request::RemovePeer(name, answer) => {
                drop(answer.send(self.change(peer::remove(&self.state, &name)).await));
            }
            Request::RenamePeer(name, ask, answer) => {
                let changed = peer::rename(&self.state, &name, &ask.to);
                drop(answer.send(self.change_peer(changed, &ask.to).await));
            }
            Request::SetUp(name, up, direct_only, answer) => {
                let changed = peer::set_up(&self.state, &name, up, direct_only);
                let result = self.change_peer(changed, &name).await;
                if let (true, Some(handle)) = (up, self.handles.get(&name)) {
                    self.order(Command::Retry(handle)).await;
                }
                drop(answer.send(result));
            }
            Request::SetGrant(name, grant, allowed, answer) => {
                let changed = match grant {
                    Grant::Host => peer::set_host(&self.state, &name, allowed),
                    Grant::Relay => peer::set_relay(&self.state, &name, allowed),
                };
                drop(answer.send(self.change_peer(changed, &name).await));
            }
            Request::AddForward(ask, answer) => match self.add_forward(ask).await {
                Ok(changed) => {
                    let check = questions::target(changed, answer);
                    self.spawner.spawn("target", check).detach();
                }
                Err(error) => drop(answer.send(Err(error))),
            },
            Request::RemoveForward(key, answer) => {
                drop(answer.send(self.change(forward::remove(&self.state, key)).await));
            }
            Request::AddServer(ask, answer) => drop(answer.send(self.add_server(&ask).await)),
            Request::RemoveServer(ask, answer) => {
                let changed = server::remove(&self.state, &self.machine, &ask);
                drop(answer.send(self.change(changed).await));
            }
            Request::Ping(name, answer) => self.ping(name, answer).await,
            Request::Netcheck(answer) => self.netcheck(answer).await,
            Request::Why(name, answer) => drop(answer.send(self.why(&name).await)),
        }
    }

    /// Brings a changed state into force.
    async fn change(&mut self, changed: Result<State, Refusal>) -> Result<Changed<()>, ApiError> {
        self.commit(changed?).await
    }

    async fn change_peer(
        &mut self,
        changed: Result<State, Refusal>,
        name: &PeerName,
    ) -> Result<Changed<PeerView>, ApiError> {
        let changed = self.change(changed).await?;
        Ok(changed.with(self.peer_view(name).await?))
    }

    async fn add_peer(&mut self, ask: AddPeer) -> Result<Changed<PeerView>, ApiError> {
        let name = ask.name.clone();
        let key = ask.key.clone();
        let changed = peer::add(&self.state, &self.machine, ask)?;
        if changed != self.state {
            self.addresses.check(&key).await?;
        }
        self.change_peer(Ok(changed), &name).await
    }

    async fn add_forward(&mut self, ask: AddForward) -> Result<Changed<ForwardView>, ApiError> {
        let key: ForwardKey = forward::key_of(&ask);
        let changed = self.commit(forward::add(&self.state, ask)?).await?;
        let view = self.view(Scope::forwards(), |facts, snapshot| {
            status::forward(facts, snapshot, key)
        });
        let gone = || ApiError::new(ErrorCode::Internal, "the forward is gone again");
        Ok(changed.with(view.await?.ok_or_else(gone)?))
    }

    async fn add_server(&mut self, ask: &AddServer) -> Result<Changed<ServerView>, ApiError> {
        let (state, address) = server::add(&self.state, &self.machine, ask)?;
        let changed = self.commit(state).await?;
        let views = self.view(Scope::default(), status::servers).await?;
        let view = views
            .into_iter()
            .find(|view| view.address == address.as_str());
        let gone = || ApiError::new(ErrorCode::Internal, "the server is gone again");
        Ok(changed.with(view.ok_or_else(gone)?))
    }

    // --- views ---

    fn facts(&self) -> Facts<'_> {
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
            meetings: self.servers.meeting_facts(),
            place: &self.place,
            overlay: self.addresses.overlay(),
            interface: self.addresses.interface(),
            nat64: self.addresses.nat64(),
            not_saved: self.saving.not_saved(),
        }
    }

    async fn view<T>(
        &self,
        scope: Scope,
        view: impl FnOnce(&Facts<'_>, &Snapshot) -> T,
    ) -> Result<T, ApiError> {
        let snapshot = self.snapshot(scope).await?;
        Ok(view(&self.facts(), &snapshot))
    }

    async fn view_all<T>(
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

    async fn snapshot(&self, scope: Scope) -> Result<Snapshot, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.order(Command::Snapshot(scope, sender)).await;
        receiver
            .await
            .map_err(|_| ApiError::new(ErrorCode::Internal, "punchd is stopping"))
    }

    async fn view_of_peer<T>(
        &self,
        name: &PeerName,
        view: impl FnOnce(&Facts<'_>, &Snapshot) -> T,
    ) -> Result<T, ApiError> {
        peer::find(&self.state, name)?;
        let handle = self.handles.get(name);
        self.view(Scope::peers(handle.into_iter().collect()), view)
            .await
    }

    async fn peer_view(&self, name: &PeerName) -> Result<PeerView, ApiError> {
        self.view_of_peer(name, |facts, snapshot| status::peer(facts, snapshot, name))
            .await?
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the peer is gone again"))
    }

    async fn why(&self, name: &PeerName) -> Result<WhyView, ApiError> {
        self.view_of_peer(name, |facts, snapshot| why::why(facts, snapshot, name))
            .await?
    }

    // --- questions that take a while ---

    async fn ping(&mut self, name: PeerName, answer: Answer<PingView>) {
        let (is_up, path) = match self.peer_view(&name).await {
            Ok(view) => (view.up, view.path),
            Err(error) => return drop(answer.send(Err(error))),
        };
        let Some(handle) = self.handles.get(&name) else {
            return;
        };
        let (sender, pong) = oneshot::channel();
        self.order(Command::Ping(handle, sender)).await;
        let wait = questions::ping(name, is_up, path, pong, answer);
        self.spawner.spawn("ping", wait).detach();
    }

    async fn netcheck(&mut self, answer: Answer<Vec<NetcheckView>>) {
        if !self.servers.has_stun() {
            return drop(answer.send(Err(questions::nobody_to_ask())));
        }
        let (sender, profiles) = oneshot::channel();
        self.order(Command::Netcheck(sender)).await;
        let wait = questions::netcheck(self.port_mapping.mapped(), profiles, answer);
        self.spawner.spawn("netcheck", wait).detach();
    }
}
