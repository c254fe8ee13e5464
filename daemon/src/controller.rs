//! The one writer of configuration: every change is validated, saved, applied to engine and kernel, and only then answered.

mod change;
pub(crate) mod request;
mod servers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::{
    ApiError, ErrorCode, Event, EventKind, KeyView, NetcheckView, PeerId, PeerName, PeerView,
    PingView, ServerAddress, WhyView,
};
use punch_engine::{Change, EngineEvent, News, PeerHandle, ServerId, StepKind};
use punch_platform::clock;
use punch_platform::netlink::Netlink;
use punch_signal_protocol::Identity;
use tokio::sync::{broadcast, mpsc, oneshot};

use self::request::{Answer, Request};
use crate::config::Config;
use crate::driver::command::Command;
use crate::portmap::PortMapping;
use crate::signalling::server::{self, Access, Report};
use crate::snapshot::Snapshot;
use crate::store::{Memory, Stamps, State, Store, StoredPeer};
use crate::tasks::{Spawner, Task, sleep_until};
use crate::views::facts::{Facts, ServerFacts};
use crate::views::{events, netcheck, status, why};

/// Names of STUN servers are looked up anew this often.
const RESOLVE: Duration = Duration::from_secs(600);
/// A look-up that failed is tried again after this.
const RESOLVE_AGAIN: Duration = Duration::from_secs(15);
/// A change of the network is looked at when it has been quiet for this long, or after the second: they come in flocks.
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Stamps that have changed are written after this.
const STAMPS: Duration = Duration::from_millis(500);

/// The network as the controller sees it.
pub(crate) struct Kernel {
    pub(crate) netlink: Netlink,
    pub(crate) index: u32,
}

/// Everything that the controller is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) kernel: Kernel,
    pub(crate) ports: (Option<u16>, Option<u16>),
    pub(crate) driver: mpsc::Sender<Command>,
    pub(crate) broadcast: broadcast::Sender<Event>,
    pub(crate) spawner: Spawner,
}

/// What flows into the controller.
pub(crate) struct Inlets {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) events: mpsc::Receiver<EngineEvent>,
    pub(crate) network: mpsc::Receiver<()>,
    pub(crate) stop: oneshot::Receiver<()>,
}

/// What a look-up of a STUN server's name brought.
type Resolved = (ServerAddress, Result<Vec<SocketAddr>, String>);

struct Server {
    id: ServerId,
    address: ServerAddress,
    /// From punchd.toml.
    fixed: bool,
    connected: bool,
    trouble: Option<String>,
    /// The signalling client.
    task: Option<Task>,
}

pub(crate) struct Controller {
    parts: Parts,
    state: State,
    stamps: Stamps,
    /// When changed stamps are written: several come together.
    stamps_due: Option<Instant>,
    memory: Memory,
    started: Instant,
    handles: BTreeMap<PeerName, PeerHandle>,
    /// The peers that the engine knows.
    told: BTreeSet<PeerHandle>,
    next_handle: u32,
    servers: Vec<Server>,
    next_server: u32,
    access: Access,
    reports: mpsc::Receiver<Report>,
    resolved: (mpsc::Sender<Resolved>, mpsc::Receiver<Resolved>),
    stun: HashMap<ServerAddress, Vec<SocketAddr>>,
    resolving: HashMap<ServerAddress, Task>,
    next_resolve: Instant,
    routes: Vec<IpAddr>,
    /// What the interface was like when it was last looked at.
    interface_up: bool,
    had: Vec<IpAddr>,
    /// When a change of the network is looked at, and when the first of the flock came.
    network_due: Option<(Instant, Instant)>,
    port_mapping: PortMapping,
}

impl Controller {
    /// Reads the state and starts what it says.
    pub(crate) async fn open(parts: Parts) -> Result<Self> {
        let state = parts.store.load()?;
        let stamps = parts.store.load_stamps()?;
        let (report_sender, reports) = mpsc::channel(64);
        let access = Access {
            identity: parts.identity.clone(),
            tls: server::tls()?,
            driver: parts.driver.clone(),
            reports: report_sender,
        };
        let now = clock::now();
        let port_mapping = PortMapping::start(
            &parts.spawner,
            &parts.identity,
            parts.ports.0,
            parts.config.port_mapping,
        );
        let mut controller = Self {
            stamps,
            stamps_due: None,
            memory: parts.store.load_memory(),
            started: now,
            handles: BTreeMap::new(),
            told: BTreeSet::new(),
            next_handle: 1,
            servers: Vec::new(),
            next_server: 1,
            access,
            reports,
            resolved: mpsc::channel(4),
            stun: HashMap::new(),
            resolving: HashMap::new(),
            next_resolve: now,
            routes: Vec::new(),
            interface_up: true,
            had: Vec::new(),
            network_due: None,
            port_mapping,
            state: State::default(),
            parts,
        };
        for name in state.peers.keys() {
            controller.assign_handle(name.clone());
        }
        let known = state.servers.clone();
        controller.state = state;
        controller.network_changed().await;
        controller.apply().await;
        // Last: peers are told at once that we are here, and the engine must know by then who they are.
        for address in controller.parts.config.servers.clone() {
            controller.start_server(address, true);
        }
        for address in known {
            controller.start_server(address, false);
        }
        // The STUN servers among them are the engine's business.
        controller.apply().await;
        Ok(controller)
    }

    /// Works until the requests end.
    pub(crate) async fn run(mut self, mut inlets: Inlets) {
        loop {
            let resolve_at = self.next_resolve;
            let network_at = self.network_due.map(|(at, _)| at);
            let stamps_at = self.stamps_due;
            tokio::select! {
                request = inlets.requests.recv() => match request {
                    Some(request) => self.handle_request(request).await,
                    None => break,
                },
                Some(event) = inlets.events.recv() => self.handle_event(event),
                Some(report) = self.reports.recv() => self.handle_report(report),
                _ = &mut inlets.stop => break,
                Some(()) = inlets.network.recv() => {
                    let now = clock::now();
                    let (_, first) = self.network_due.unwrap_or((now, now));
                    self.network_due = Some(((now + SETTLE).min(first + SETTLE_MAX), first));
                }
                Ok(()) = self.port_mapping.changed() => {
                    let external = self.port_mapping.view().external;
                    let _ = self.parts.driver.send(Command::PortMapped(external)).await;
                }
                Some(resolved) = self.resolved.1.recv() => self.handle_resolved(resolved).await,
                () = tokio::time::sleep_until(resolve_at.into()) => self.resolve(),
                () = sleep_until(network_at) => {
                    self.network_due = None;
                    self.network_changed().await;
                }
                () = sleep_until(stamps_at) => self.save_stamps(),
            }
        }
        while let Ok(event) = inlets.events.try_recv() {
            self.handle_event(event);
        }
        if self.stamps_due.is_some() {
            self.save_stamps();
        }
        self.port_mapping.stop().await;
    }

    fn save_stamps(&mut self) {
        self.stamps_due = None;
        if let Err(error) = self.parts.store.save_stamps(&self.stamps) {
            tracing::error!(error = format!("{error:#}"), "the stamps were not saved");
            self.stamps_due = Some(clock::now() + RESOLVE_AGAIN);
        }
        if let Err(error) = self.parts.store.save_memory(&self.memory) {
            tracing::error!(
                error = format!("{error:#}"),
                "what has worked was not saved"
            );
        }
    }

    fn assign_handle(&mut self, name: PeerName) -> PeerHandle {
        let handle = PeerHandle(self.next_handle);
        self.next_handle += 1;
        self.handles.insert(name, handle);
        handle
    }

    fn id_of(&self, handle: PeerHandle) -> Option<PeerId> {
        let name = self.name_of(handle)?;
        self.state.peers.get(&name)?.kind.id()
    }

    fn name_of(&self, handle: PeerHandle) -> Option<PeerName> {
        let found = self.handles.iter().find(|(_, known)| **known == handle);
        found.map(|(name, _)| name.clone())
    }

    // --- applying ---

    /// Brings engine and kernel in line with the state.
    async fn apply(&mut self) {
        let peers = self.peer_configs();
        let wanted: Vec<_> = peers
            .iter()
            .flat_map(punch_engine::PeerConfig::addresses)
            .collect();
        let handles = peers.iter().map(|peer| peer.handle).collect();
        let before = std::mem::replace(&mut self.told, handles);
        let change = Change {
            gone: before.difference(&self.told).copied().collect(),
            peers,
            rules: Some(self.rules()),
            stun_servers: Some(self.stun_addresses()),
        };
        let _ = self.parts.driver.send(Command::Configure(change)).await;
        self.apply_routes(wanted).await;
    }

    async fn apply_routes(&mut self, wanted: Vec<IpAddr>) {
        let Kernel { netlink, index } = &self.parts.kernel;
        for to in self.routes.iter().filter(|to| !wanted.contains(to)) {
            if let Err(error) = netlink.remove_route(*index, *to).await {
                tracing::warn!(%to, %error, "a route was not removed");
            }
        }
        let mut set = Vec::new();
        for to in &wanted {
            let id = self.parts.identity.id();
            let from = match to {
                IpAddr::V4(_) => match self.parts.config.ipv4 {
                    Some(range) => id.overlay_ipv4(range).into(),
                    None => continue,
                },
                IpAddr::V6(_) => IpAddr::from(id.overlay_ipv6()),
            };
            if self.routes.contains(to) {
                set.push(*to);
                continue;
            }
            match netlink.add_route(*index, *to, from).await {
                Ok(()) => set.push(*to),
                Err(error) => tracing::warn!(%to, %error, "a route was not set"),
            }
        }
        self.routes = set;
    }

    /// An interface that was down has lost its routes and its IPv6 address; both are set again.
    async fn mend_interface(&mut self) {
        let Kernel { netlink, index } = &self.parts.kernel;
        let own = self.own_addresses();
        let Ok((up, there)) = netlink.interface(*index).await else {
            return;
        };
        let bounced = up && !self.interface_up;
        self.interface_up = up;
        let lost = own
            .iter()
            .any(|ip| self.had.contains(ip) && !there.contains(ip));
        if !up || !(bounced || lost) {
            self.had = there;
            return;
        }
        for ip in own.iter().filter(|ip| !there.contains(ip)) {
            if let Err(error) = netlink.add_address(*index, *ip).await {
                tracing::warn!(%ip, %error, "an overlay address was not set again");
            }
        }
        tracing::info!("the interface lost its configuration; it is set again");
        let wanted = std::mem::take(&mut self.routes);
        self.apply_routes(wanted).await;
    }

    async fn network_changed(&mut self) {
        let Kernel { netlink, index } = &self.parts.kernel;
        // A deleted TUN says nothing on its descriptor.
        let name = &self.parts.config.interface;
        if netlink.index(name).await.ok() != Some(*index) {
            let _ = self.parts.driver.send(Command::InterfaceGone).await;
            return;
        }
        let addresses = netlink.addresses(*index).await;
        match netlink.default_gateway(*index).await {
            Ok(gateway) => self.port_mapping.set_gateway(gateway),
            Err(error) => tracing::warn!(%error, "the router of this machine is not known"),
        }
        self.mend_interface().await;
        match addresses {
            Ok(addresses) => {
                let command = Command::Addresses(addresses);
                let _ = self.parts.driver.send(command).await;
            }
            Err(error) => tracing::warn!(%error, "the addresses of this machine are not known"),
        }
    }

    // --- events ---

    /// Orders, netchecks and pongs are the driver's business.
    fn handle_event(&mut self, event: EngineEvent) {
        let named = match event {
            EngineEvent::State { peer, state } => {
                self.name_of(peer).map(|peer| events::state(peer, state))
            }
            EngineEvent::News(news) => self.handle_news(news),
            EngineEvent::Socket(_) | EngineEvent::Pong(_) => None,
        };
        if let Some(event) = named {
            self.tell(event);
        }
    }

    /// Keeps what must outlast a restart; returns the event for the user.
    fn handle_news(&mut self, news: News) -> Option<(EventKind, String)> {
        match news {
            News::Selected { peer, path } => {
                self.name_of(peer).map(|peer| events::selected(peer, path))
            }
            News::Stamps { peer, sent, seen } => {
                if let Some(id) = self.id_of(peer) {
                    self.stamps.insert(id, (sent, seen));
                    self.stamps_due.get_or_insert(clock::now() + STAMPS);
                }
                None
            }
            News::Searching { peer, step, chance } => self
                .name_of(peer)
                .map(|peer| events::searching(peer, step, chance)),
            News::Worked {
                peer,
                network,
                step,
            } => {
                self.remember(peer, network, step);
                None
            }
            News::Stale { peer, seconds } => {
                self.name_of(peer).map(|peer| events::stale(peer, seconds))
            }
            News::NetworkChanged => {
                self.restart_signalling();
                self.port_mapping.network_changed();
                self.next_resolve = clock::now();
                Some(events::network_changed())
            }
            News::Netcheck(_) => None,
        }
    }

    /// Takes note of what has worked; it is written with the next stamps.
    fn remember(&mut self, peer: PeerHandle, network: u64, step: StepKind) {
        let Some(id) = self.id_of(peer) else { return };
        let entries = self.memory.entry(id).or_default();
        entries.retain(|(known, _)| *known != network);
        entries.push((network, step.into()));
        let excess = entries.len().saturating_sub(8);
        entries.drain(..excess);
        self.stamps_due.get_or_insert(clock::now() + STAMPS);
    }

    fn memory_of(&self, peer: &StoredPeer) -> Vec<(u64, StepKind)> {
        let entries = peer.kind.id().and_then(|id| self.memory.get(&id));
        entries
            .into_iter()
            .flatten()
            .map(|(network, worked)| (*network, (*worked).into()))
            .collect()
    }

    fn tell(&self, (kind, message): (EventKind, String)) {
        tracing::info!("{message}");
        // Without listeners nobody hears it; that is fine.
        let _ = self.parts.broadcast.send(Event {
            at_ms: clock::wall_ms(),
            kind,
            message,
        });
    }

    // --- requests ---

    async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Id(answer) => drop(answer.send(Ok(status::id(&self.facts())))),
            Request::Key(answer) => drop(answer.send(Ok(self.key_view()))),
            Request::Status(answer) => drop(answer.send(self.view(status::status).await)),
            Request::Peers(answer) => drop(answer.send(self.view(status::peers).await)),
            Request::Peer(name, answer) => drop(answer.send(self.peer_view(&name).await)),
            Request::Servers(answer) => drop(answer.send(self.view(status::servers).await)),
            Request::Forwards(answer) => drop(answer.send(self.view(status::forwards).await)),
            Request::AddPeer(ask, answer) => drop(answer.send(self.add_peer(ask).await)),
            Request::RemovePeer(name, answer) => {
                drop(answer.send(self.remove_peer(&name).await));
            }
            Request::RenamePeer(name, ask, answer) => {
                drop(answer.send(self.rename_peer(&name, ask).await));
            }
            Request::SetUp(name, up, answer) => {
                let change = |peer: &mut StoredPeer| {
                    peer.up = up;
                    peer.barred = !up;
                };
                let result = self.change_peer(&name, change).await;
                if let (true, Some(handle)) = (up, self.handles.get(&name)) {
                    let _ = self.parts.driver.send(Command::Retry(*handle)).await;
                }
                drop(answer.send(result));
            }
            Request::SetHost(name, host, answer) => {
                drop(answer.send(self.change_peer(&name, |peer| peer.host = host).await));
            }
            Request::AddForward(ask, answer) => {
                drop(answer.send(self.add_forward(ask).await));
            }
            Request::RemoveForward(key, answer) => {
                drop(answer.send(self.remove_forward(key).await));
            }
            Request::AddServer(ask, answer) => drop(answer.send(self.add_server(&ask).await)),
            Request::RemoveServer(ask, answer) => {
                drop(answer.send(self.remove_server(&ask).await));
            }
            Request::Ping(name, answer) => self.ping(&name, answer).await,
            Request::Netcheck(answer) => self.netcheck(answer).await,
            Request::Why(name, answer) => drop(answer.send(self.why(&name).await)),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let resolved = |address| self.stun.get(address).map_or(&[][..], Vec::as_slice);
        Facts {
            config: &self.parts.config,
            id: self.parts.identity.id(),
            ports: self.parts.ports,
            started: self.started,
            now: clock::now(),
            state: &self.state,
            handles: &self.handles,
            servers: self
                .servers
                .iter()
                .map(|server| ServerFacts {
                    address: &server.address,
                    fixed: server.fixed,
                    connected: server.connected,
                    trouble: server.trouble.as_deref(),
                    resolved: resolved(&server.address),
                })
                .collect(),
        }
    }

    async fn view<T>(&self, view: impl FnOnce(&Facts<'_>, &Snapshot) -> T) -> Result<T, ApiError> {
        let snapshot = self.snapshot().await?;
        Ok(view(&self.facts(), &snapshot))
    }

    fn key_view(&self) -> KeyView {
        let id = self.parts.identity.id();
        KeyView {
            id,
            wireguard: BASE64_STANDARD.encode(id.x25519()),
            file: self.parts.store.identity_path().display().to_string(),
        }
    }

    async fn peer_view(&self, name: &PeerName) -> Result<PeerView, ApiError> {
        self.expect_peer(name)?;
        self.view(|facts, snapshot| status::peer(facts, snapshot, name))
            .await?
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the peer is gone again"))
    }

    async fn why(&self, name: &PeerName) -> Result<WhyView, ApiError> {
        self.expect_peer(name)?;
        self.view(|facts, snapshot| why::why(facts, snapshot, name))
            .await?
    }

    async fn snapshot(&self) -> Result<Snapshot, ApiError> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.parts.driver.send(Command::Snapshot(sender)).await;
        receiver
            .await
            .map_err(|_| ApiError::new(ErrorCode::Internal, "punchd is stopping"))
    }

    /// The answer comes when the peer's does; meanwhile the controller goes on.
    async fn ping(&mut self, name: &PeerName, answer: Answer<PingView>) {
        let before = match self.peer_view(name).await {
            Ok(view) => view,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let Some(handle) = self.handles.get(name).copied() else {
            return;
        };
        let (sender, receiver) = oneshot::channel();
        let _ = self.parts.driver.send(Command::Ping(handle, sender)).await;
        let name = name.clone();
        let wait = async move {
            let result = match tokio::time::timeout(Duration::from_secs(3), receiver).await {
                Ok(Ok(Some(pong))) => Ok(PingView {
                    address: pong.address,
                    rtt_ms: pong.rtt.as_secs_f64() * 1000.0,
                    path: before.path,
                }),
                Ok(_) => Err(ApiError::new(
                    ErrorCode::Unavailable,
                    format!("{name} is not connected; connect with: punchctl up {name}"),
                )),
                Err(_) => Err(ApiError::new(
                    ErrorCode::Timeout,
                    format!("no answer from {name} in 3 s"),
                )),
            };
            let _ = answer.send(result);
        };
        self.parts.spawner.spawn("ping", wait).detach();
    }

    async fn netcheck(&mut self, answer: Answer<Vec<NetcheckView>>) {
        let none = !self
            .servers
            .iter()
            .any(|server| matches!(server.address, ServerAddress::Stun(_)));
        if none {
            let error = ApiError::new(
                ErrorCode::Unavailable,
                "no STUN server is known to ask; add one with: punchctl server add stun HOST",
            );
            return drop(answer.send(Err(error)));
        }
        let (sender, receiver) = oneshot::channel();
        let _ = self.parts.driver.send(Command::Netcheck(sender)).await;
        let port_mapping = self.port_mapping.views();
        let wait = async move {
            let result = match tokio::time::timeout(Duration::from_secs(30), receiver).await {
                Ok(Ok(profiles)) => {
                    let port_mapping = port_mapping.borrow().clone();
                    let view = |profile| netcheck::netcheck(profile, &port_mapping);
                    Ok(profiles.iter().map(view).collect())
                }
                _ => Err(ApiError::new(
                    ErrorCode::Timeout,
                    "the check did not finish",
                )),
            };
            let _ = answer.send(result);
        };
        self.parts.spawner.spawn("netcheck", wait).detach();
    }
}
