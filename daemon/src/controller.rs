//! The one writer of configuration: every change is validated, saved, applied to engine and kernel, and only then answered.

mod addresses;
mod announcer;
mod callers;
mod change;
mod channels;
mod core;
mod dht;
mod endpoints;
mod handles;
mod history;
mod meetings;
mod pairings;
mod parts;
mod pastes;
mod questions;
pub(crate) mod request;
pub(crate) mod saving;
mod servers;
mod translation;

use anyhow::Result;
use punch_api::{
    AddForward, AddPeer, AddServer, ApiError, Changed, ErrorCode, EventKind, ForwardKey,
    ForwardView, NetcheckView, PeerName, PeerView, PingView, ServerView,
};
use punch_engine::{EngineEvent, LinkState, News};
use punch_platform::clock;
use punch_state::{Refusal, State, forward, peer, server};
use tokio::sync::oneshot;

use self::callers::Callers;
use self::core::Core;
use self::pairings::{Ground, Meeting, Pairings};
pub(crate) use self::parts::{Ending, Inlets, Parts};
use self::pastes::Pastes;
use self::request::{Answer, Grant, Request};
use crate::driver::command::Command;
use crate::signalling::pairing::Met;
use crate::snapshot::Scope;
use crate::tasks::{Spawner, sleep_until};
use crate::views::{events, status};

/// Takes requests and events, one after the other.
pub(crate) struct Controller {
    core: Core,
    pastes: Pastes,
    pairings: Pairings,
    callers: Callers,
    spawner: Spawner,
}

impl Controller {
    /// Starts what the state says.
    pub(crate) async fn open(parts: Parts) -> Result<Self> {
        let spawner = parts.spawner.clone();
        let pairings = Pairings::new(&parts.identity, &spawner);
        let core = Core::open(parts).await?;
        let pastes = Pastes::default();
        Ok(Self {
            core,
            pastes,
            pairings,
            callers: Callers::default(),
            spawner,
        })
    }

    /// Works until it is told to stop, or nobody can ask it anything any more.
    pub(crate) async fn run(mut self, mut inlets: Inlets) {
        let ending = loop {
            let (write_at, turn_at) = (self.core.saving.due(), self.core.endpoints.due());
            let (outage_at, paste_at) = (self.core.announcer.due(), self.pastes.due());
            let (pairing_at, caller_at) = (self.pairings.due(), self.callers.due());
            tokio::select! {
                request = inlets.requests.recv() => match request {
                    Some(request) => self.handle_request(request).await,
                    None => break Ending::Goodbye,
                },
                Some(event) = inlets.events.recv() => self.handle_event(event).await,
                told = &mut inlets.stop => break told.unwrap_or(Ending::Goodbye),
                said = self.core.servers.changed() => {
                    self.core.announcer.say(said, &self.core.handles);
                    self.core.remember_nodes();
                    self.core.tell_stun_servers().await;
                }
                () = self.core.addresses.changed() => self.core.network_changed().await,
                () = self.core.endpoints.changed() => self.core.call_elsewhere().await,
                () = sleep_until(turn_at) => self.core.call_elsewhere().await,
                Ok(()) = self.core.port_mapping.changed() => {
                    let external = self.core.port_mapping.external();
                    self.core.order(Command::PortMapped(external)).await;
                }
                () = sleep_until(paste_at) => self.pastes.expire(&self.core).await,
                met = self.pairings.met() => self.pair(met).await,
                () = sleep_until(pairing_at) => self.pairings.handle_timeout(),
                () = sleep_until(caller_at) => self.tell_callers(),
                () = sleep_until(outage_at) => self.core.announcer.handle_timeout(),
                () = sleep_until(write_at) => self.core.saving.write(&self.core.state),
                () = self.core.saving.finished() => {}
            }
        };
        while let Ok(event) = inlets.events.try_recv() {
            self.handle_event(event).await;
        }
        self.core.saving.stop(&self.core.state).await;
        self.core
            .port_mapping
            .stop(ending == Ending::Replaced)
            .await;
    }

    // --- events ---

    async fn handle_event(&mut self, event: EngineEvent) {
        let event = match event {
            EngineEvent::State {
                peer,
                state,
                met_over,
            } => {
                let connected = state == LinkState::Connected;
                self.core
                    .endpoints
                    .set_connected(peer, connected, clock::now());
                self.core.servers.handle_connected(peer, connected).await;
                if state == LinkState::Down {
                    self.core.addresses.set_path(peer, None);
                }
                let met_over = met_over.and_then(|by| self.core.met_over(by));
                self.core
                    .name_of(peer)
                    .map(|peer| events::state(peer, state, met_over))
            }
            EngineEvent::Roamed { peer, to } => self.core.roamed(peer, to),
            EngineEvent::Mtu { peer, mtu, before } => {
                let name = self.core.resized(peer, mtu).await;
                name.and_then(|name| events::resized(name, mtu, before))
            }
            EngineEvent::News(news) => self.handle_news(news).await,
            EngineEvent::Invited { peer } => {
                if let Some(id) = self.core.id_of(peer) {
                    self.core.servers.handle_invitation(peer, id);
                }
                None
            }
            EngineEvent::Crowded(crowded) => {
                let peer = self.core.name_of(crowded.peer);
                self.core.announcer.warn_crowded(peer, &crowded);
                None
            }
            EngineEvent::Socket(_) | EngineEvent::Tcp(_) | EngineEvent::Pong(_) => None,
        };
        self.core.announcer.announce(event);
    }

    /// Keeps what must outlast a restart; returns the event for the user.
    async fn handle_news(&mut self, news: News) -> Option<(EventKind, String)> {
        let now = clock::now();
        match news {
            News::Selected { peer, path, why } => {
                self.core
                    .addresses
                    .set_path(peer, path.endpoint().map(|to| to.ip()));
                self.core.servers.handle_path(peer, path).await;
                let by = self.core.servers.relay(path, &self.core.handles);
                events::path(self.core.name_of(peer)?, (path, why), by)
            }
            News::Searching { peer, step, chance } => {
                Some(events::searching(self.core.name_of(peer)?, step, chance))
            }
            News::Stale { peer, seconds } => Some(events::stale(self.core.name_of(peer)?, seconds)),
            News::Refused { peer, refusal } => {
                Some(events::refused(self.core.name_of(peer)?, refusal))
            }
            News::Stranger { id } => {
                self.callers.note(id, now);
                None
            }
            News::Stamps { peer, sent, seen } => {
                let id = self.core.id_of(peer)?;
                self.core
                    .saving
                    .history
                    .record_stamps(id, (sent, seen), now);
                None
            }
            News::Worked {
                peer,
                network,
                step,
            } => {
                let id = self.core.id_of(peer)?;
                self.core.saving.history.remember(id, network, step, now);
                None
            }
            News::NetworkChanged => {
                self.core.servers.restart();
                self.pairings.restart();
                self.core.port_mapping.network_changed();
                Some(events::network_changed())
            }
            News::Capacity { mappings, .. } => history::tell_capacity(mappings),
            News::Netcheck(_) | News::Mtu { .. } => None,
        }
    }

    /// Tells of machines that have called and have not become peers since.
    fn tell_callers(&mut self) {
        let peers = self.core.state.peers.values();
        let is_peer = |id| peers.clone().any(|peer| peer.id() == Some(id));
        for id in self.callers.take(clock::now(), is_peer) {
            self.core.announcer.announce(Some(events::stranger(id)));
        }
    }

    // --- requests ---

    async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Id(answer) => drop(answer.send(Ok(status::id(&self.core.facts())))),
            Request::Key(answer) => {
                let file = self.core.saving.identity_path();
                drop(answer.send(Ok(status::key(&self.core.facts(), file))));
            }
            Request::Status(answer) => drop(answer.send(self.core.view_all(status::status).await)),
            Request::Peers(answer) => drop(answer.send(self.core.view_all(status::peers).await)),
            Request::Peer(name, answer) => drop(answer.send(self.core.peer_view(&name).await)),
            Request::Servers(answer) => {
                let view = self.core.view(Scope::default(), status::servers).await;
                drop(answer.send(view));
            }
            Request::Forwards(answer) => {
                drop(answer.send(self.core.view(Scope::forwards(), status::forwards).await));
            }
            Request::AddPeer(ask, answer) => drop(answer.send(self.add_peer(ask).await)),
            Request::RemovePeer(name, answer) => {
                drop(answer.send(self.change(peer::remove(&self.core.state, &name)).await));
            }
            Request::RenamePeer(name, ask, answer) => {
                let changed = peer::rename(&self.core.state, &name, &ask.to);
                drop(answer.send(self.change_peer(changed, &ask.to).await));
            }
            Request::SetUp(name, up, direct_only, answer) => {
                let changed = peer::set_up(&self.core.state, &name, up, direct_only);
                let result = self.change_peer(changed, &name).await;
                if let (true, Some(handle)) = (up, self.core.handles.get(&name)) {
                    self.core.order(Command::Retry(handle)).await;
                }
                drop(answer.send(result));
            }
            Request::SetGrant(name, grant, allowed, answer) => {
                let changed = match grant {
                    Grant::Host => peer::set_host(&self.core.state, &name, allowed),
                    Grant::Relay => peer::set_relay(&self.core.state, &name, allowed),
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
                drop(answer.send(self.change(forward::remove(&self.core.state, key)).await));
            }
            Request::AddServer(ask, answer) => drop(answer.send(self.add_server(&ask).await)),
            Request::RemoveServer(ask, answer) => {
                let changed = server::remove(&self.core.state, &self.core.machine, &ask);
                drop(answer.send(self.change(changed).await));
            }
            Request::Ping(name, answer) => self.ping(name, answer).await,
            Request::Netcheck(answer) => self.netcheck(answer).await,
            Request::Why(name, answer) => drop(answer.send(self.core.why(&name).await)),
            Request::Offer(name, answer) => {
                let line = pastes::offer(&mut self.pastes, &mut self.core, name).await;
                drop(answer.send(line));
            }
            Request::Answer(ask, answer) => {
                let read = pastes::answer(&mut self.pastes, &mut self.core, &ask.line).await;
                drop(answer.send(read));
            }
            Request::Pairing(ask) => self.pairings.handle(ask, &ground(&self.core)),
        }
    }

    /// Something has happened in an invitation; two machines that have met become peers of each other, and connect.
    async fn pair(&mut self, met: Met) {
        let Some(meeting) = self.pairings.take(met, &ground(&self.core)) else {
            return;
        };
        let outcome = self.add_met(&meeting).await;
        self.pairings.settle(meeting, outcome, &ground(&self.core));
    }

    async fn add_met(&mut self, meeting: &Meeting) -> Result<PeerName, ApiError> {
        let (state, name) = pairings::agree(meeting, &self.core.state, &self.core.machine)?;
        if let (None, Some(peer)) = (self.core.state.peers.get(&name), state.peers.get(&name)) {
            self.core.addresses.check(&peer.key).await?;
        }
        self.core.commit(state).await?;
        if let Some(handle) = self.core.handles.get(&name) {
            self.core.order(Command::Retry(handle)).await;
        }
        Ok(name)
    }

    /// Brings a changed state into force.
    async fn change(&mut self, changed: Result<State, Refusal>) -> Result<Changed<()>, ApiError> {
        self.core.commit(changed?).await
    }

    async fn change_peer(
        &mut self,
        changed: Result<State, Refusal>,
        name: &PeerName,
    ) -> Result<Changed<PeerView>, ApiError> {
        let changed = self.change(changed).await?;
        Ok(changed.with(self.core.peer_view(name).await?))
    }

    async fn add_peer(&mut self, ask: AddPeer) -> Result<Changed<PeerView>, ApiError> {
        let name = ask.name.clone();
        let key = ask.key.clone();
        let changed = peer::add(&self.core.state, &self.core.machine, ask)?;
        if changed != self.core.state {
            self.core.addresses.check(&key).await?;
        }
        self.change_peer(Ok(changed), &name).await
    }

    async fn add_forward(&mut self, ask: AddForward) -> Result<Changed<ForwardView>, ApiError> {
        let key: ForwardKey = forward::key_of(&ask);
        let changed = self
            .core
            .commit(forward::add(&self.core.state, ask)?)
            .await?;
        let view = self.core.view(Scope::forwards(), |facts, snapshot| {
            status::forward(facts, snapshot, key)
        });
        let gone = || ApiError::new(ErrorCode::Internal, "the forward is gone again");
        Ok(changed.with(view.await?.ok_or_else(gone)?))
    }

    async fn add_server(&mut self, ask: &AddServer) -> Result<Changed<ServerView>, ApiError> {
        let (state, address) = server::add(&self.core.state, &self.core.machine, ask)?;
        let changed = self.core.commit(state).await?;
        let views = self.core.view(Scope::default(), status::servers).await?;
        let view = views
            .into_iter()
            .find(|view| view.address == address.as_str());
        let gone = || ApiError::new(ErrorCode::Internal, "the server is gone again");
        Ok(changed.with(view.ok_or_else(gone)?))
    }

    // --- questions that take a while ---

    async fn ping(&mut self, name: PeerName, answer: Answer<PingView>) {
        let (is_up, path) = match self.core.peer_view(&name).await {
            Ok(view) => (view.up, view.path),
            Err(error) => return drop(answer.send(Err(error))),
        };
        let Some(handle) = self.core.handles.get(&name) else {
            return;
        };
        let (sender, pong) = oneshot::channel();
        self.core.order(Command::Ping(handle, sender)).await;
        let wait = questions::ping(name, is_up, path, pong, answer);
        self.spawner.spawn("ping", wait).detach();
    }

    async fn netcheck(&mut self, answer: Answer<Vec<NetcheckView>>) {
        if let Some(error) = self.core.servers.nobody_to_ask() {
            return drop(answer.send(Err(error)));
        }
        let (sender, profiles) = oneshot::channel();
        self.core.order(Command::Netcheck(sender)).await;
        let wait = questions::netcheck(self.core.port_mapping.mapped(), profiles, answer);
        self.spawner.spawn("netcheck", wait).detach();
    }
}

/// What invitations are checked against.
fn ground(core: &Core) -> Ground<'_> {
    Ground {
        state: &core.state,
        machine: &core.machine,
        servers: &core.servers,
    }
}
