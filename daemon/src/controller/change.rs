//! Changes: each is validated against the whole state, saved, and only then applied.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use punch_api::{
    AddForward, AddPeer, AddServer, ApiError, ErrorCode, ForwardKey, ForwardView, PeerKey,
    PeerName, PeerView, Rename, Secret, ServerAddress, ServerKind, ServerView, Target, ValueError,
};
use punch_engine::{Access, PeerConfig, PeerKind, Rule, Rules};
use punch_signal_protocol::is_contributory;
use zeroize::Zeroizing;

use super::Controller;
use crate::driver::command::Command;
use crate::store::{State, StoredForward, StoredKind, StoredPeer, key_bytes};
use crate::views::{events, status};

impl Controller {
    // --- peers ---

    pub(super) async fn add_peer(&mut self, ask: AddPeer) -> Result<PeerView, ApiError> {
        let AddPeer { name, key } = ask;
        if self.state.peers.contains_key(&name) {
            return Err(ApiError::conflict(format!(
                "a peer called {name} exists already; choose another name, or remove it with: punchctl peer remove {name}"
            )));
        }
        let kind = match key {
            PeerKey::Punch { key, ipv6_only } => StoredKind::Punch { id: key, ipv6_only },
            PeerKey::Wireguard {
                key,
                endpoint,
                address,
                preshared,
            } => StoredKind::Wireguard {
                key,
                endpoint,
                address,
                preshared,
            },
        };
        self.check_new_peer(&name, &kind)?;
        let mut state = self.state.clone();
        state.peers.insert(name.clone(), stored(&kind));
        self.assign_handle(name.clone());
        if let Err(error) = self.commit(state).await {
            self.handles.remove(&name);
            return Err(error);
        }
        self.peer_view(&name).await
    }

    fn check_new_peer(&self, name: &PeerName, kind: &StoredKind) -> Result<(), ApiError> {
        if let StoredKind::Wireguard {
            key,
            endpoint,
            address,
            preshared,
        } = kind
        {
            self.check_wireguard(key, *endpoint, *address, preshared.as_ref())?;
        }
        let config = self
            .peer_config(name, &stored(kind))
            .ok_or_else(|| ApiError::invalid("that is not a key"))?;
        let me = self.parts.identity.id();
        if config.public() == me.x25519() {
            return Err(ApiError::invalid(
                "that is this machine's own key; ask the other machine for its: punchctl id",
            ));
        }
        let mine = self.own_addresses();
        for (other, stored) in &self.state.peers {
            let Some(theirs) = self.peer_config(other, stored) else {
                continue;
            };
            if theirs.public() == config.public() {
                return Err(ApiError::conflict(format!(
                    "that machine is a peer already, called {other}; rename it with: punchctl peer rename {other} {name}"
                )));
            }
            let clash = config
                .addresses()
                .into_iter()
                .find(|ip| theirs.addresses().contains(ip));
            if let Some(ip) = clash {
                return Err(collision(ip, &other.to_string()));
            }
        }
        let clash = config.addresses().into_iter().find(|ip| mine.contains(ip));
        if let Some(ip) = clash {
            return Err(collision(ip, "this machine"));
        }
        Ok(())
    }

    fn check_wireguard(
        &self,
        key: &str,
        endpoint: SocketAddr,
        address: IpAddr,
        preshared: Option<&Secret>,
    ) -> Result<(), ApiError> {
        let Some(bytes) = key_bytes(key) else {
            return Err(ApiError::invalid(
                "that is not a WireGuard key: 32 bytes in base64, as `wg pubkey` prints",
            ));
        };
        if !is_contributory(&bytes) {
            return Err(ApiError::invalid(
                "that WireGuard key is of small order: anybody could take the part of its owner",
            ));
        }
        if preshared.is_some_and(|key| key_bytes(key.expose()).is_none()) {
            return Err(ApiError::invalid(
                "the file holds no preshared key: 32 bytes in base64, as `wg genpsk` prints",
            ));
        }
        if address.is_loopback() || address.is_multicast() || address.is_unspecified() {
            return Err(ApiError::invalid(format!(
                "{address} cannot be an address inside the tunnel"
            )));
        }
        if address == endpoint.ip() {
            return Err(ApiError::invalid(format!(
                "{address} cannot be both the endpoint and the address inside the tunnel: the tunnel would lead into itself"
            )));
        }
        if address.is_ipv4() && self.parts.config.ipv4.is_none() {
            return Err(ApiError::invalid(
                "IPv4 inside the tunnel is switched off here ([overlay] ipv4 in punchd.toml)",
            ));
        }
        Ok(())
    }

    pub(super) async fn remove_peer(&mut self, name: &PeerName) -> Result<(), ApiError> {
        self.expect_peer(name)?;
        let mut state = self.state.clone();
        state.peers.remove(name);
        // A forward that was for this peer alone must not become one for all.
        state.forwards.retain_mut(|forward| {
            let named = forward.peers.contains(name);
            forward.peers.retain(|peer| peer != name);
            !named || !forward.peers.is_empty()
        });
        self.commit(state).await?;
        self.handles.remove(name);
        Ok(())
    }

    pub(super) async fn rename_peer(
        &mut self,
        name: &PeerName,
        ask: Rename,
    ) -> Result<PeerView, ApiError> {
        self.expect_peer(name)?;
        let to = ask.to;
        if *name == to {
            return self.peer_view(name).await;
        }
        if self.state.peers.contains_key(&to) {
            return Err(ApiError::conflict(format!(
                "a peer called {to} exists already"
            )));
        }
        let mut state = self.state.clone();
        if let Some(peer) = state.peers.remove(name) {
            state.peers.insert(to.clone(), peer);
        }
        for peer in state
            .forwards
            .iter_mut()
            .flat_map(|forward| &mut forward.peers)
        {
            if peer == name {
                *peer = to.clone();
            }
        }
        let handle = self.handles.remove(name);
        if let Some(handle) = handle {
            self.handles.insert(to.clone(), handle);
        }
        if let Err(error) = self.commit(state).await {
            self.handles.remove(&to);
            if let Some(handle) = handle {
                self.handles.insert(name.clone(), handle);
            }
            return Err(error);
        }
        self.peer_view(&to).await
    }

    pub(super) async fn change_peer(
        &mut self,
        name: &PeerName,
        change: impl FnOnce(&mut StoredPeer),
    ) -> Result<PeerView, ApiError> {
        self.expect_peer(name)?;
        let mut state = self.state.clone();
        if let Some(peer) = state.peers.get_mut(name) {
            change(peer);
        }
        self.commit(state).await?;
        self.peer_view(name).await
    }

    pub(super) fn expect_peer(&self, name: &PeerName) -> Result<&StoredPeer, ApiError> {
        self.state.peers.get(name).ok_or_else(|| {
            let known: Vec<_> = self.state.peers.keys().map(PeerName::as_str).collect();
            ApiError::not_found(match (closest(name.as_str(), &known), known.len()) {
                (Some(meant), _) => format!("no peer is called {name}; did you mean {meant}?"),
                (None, 0) => {
                    format!("no peer is called {name}; add one with: punchctl peer add {name} KEY")
                }
                (None, 1..=10) => {
                    format!("no peer is called {name}; there is {}", known.join(", "))
                }
                (None, _) => {
                    format!("no peer is called {name}; punchctl peers shows those there are")
                }
            })
        })
    }

    // --- forwards ---

    pub(super) async fn add_forward(&mut self, ask: AddForward) -> Result<ForwardView, ApiError> {
        let key = ForwardKey {
            protocol: ask.protocol,
            ports: ask.ports,
        };
        let taken = self.state.forwards.iter().find(|known| {
            known.key.protocol == key.protocol && known.key.ports.overlaps(key.ports)
        });
        if let Some(known) = taken {
            return Err(ApiError::conflict(format!(
                "{} is forwarded already, to {}; end that first with: punchctl unforward {}",
                known.key, known.target, known.key
            )));
        }
        for peer in &ask.peers {
            self.expect_peer(peer)?;
        }
        let target = ask
            .target
            .unwrap_or_else(|| Target::local(key.ports.first()));
        if target
            .offset(key.ports.last() - key.ports.first())
            .is_none()
        {
            return Err(ApiError::invalid(ValueError::TargetPastEnd));
        }
        let peers: BTreeSet<_> = ask.peers.into_iter().collect();
        let mut state = self.state.clone();
        state.forwards.push(StoredForward {
            key,
            target,
            peers: peers.into_iter().collect(),
        });
        state.forwards.sort_by_key(|forward| forward.key);
        self.commit(state).await?;
        let views = self.view(status::forwards).await?;
        views
            .into_iter()
            .find(|view| view.protocol == key.protocol && view.ports == key.ports)
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the forward is gone again"))
    }

    pub(super) async fn remove_forward(&mut self, key: ForwardKey) -> Result<(), ApiError> {
        let mut state = self.state.clone();
        let before = state.forwards.len();
        state.forwards.retain(|forward| forward.key != key);
        if state.forwards.len() == before {
            let known: Vec<_> = state.forwards.iter().map(|f| f.key.to_string()).collect();
            return Err(ApiError::not_found(if known.is_empty() {
                "nothing is forwarded".to_owned()
            } else {
                format!("{key} is not forwarded; there is {}", known.join(", "))
            }));
        }
        self.commit(state).await
    }

    // --- servers ---

    pub(super) async fn add_server(&mut self, ask: &AddServer) -> Result<ServerView, ApiError> {
        const MAX_SERVERS: usize = 16;
        let address = ServerAddress::parse(ask.kind, &ask.address).map_err(ApiError::invalid)?;
        if self.servers.iter().any(|server| server.address == address) {
            return Err(ApiError::conflict(format!("{address} is in use already")));
        }
        if self.servers.len() >= MAX_SERVERS {
            return Err(ApiError::conflict(format!(
                "{MAX_SERVERS} servers are the most"
            )));
        }
        let mut state = self.state.clone();
        state.servers.push(address.clone());
        self.commit(state).await?;
        self.start_server(address.clone(), false);
        self.apply().await;
        let views = self.view(status::servers).await?;
        views
            .into_iter()
            .find(|view| view.address == address.as_str())
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the server is gone again"))
    }

    pub(super) async fn remove_server(&mut self, ask: &AddServer) -> Result<(), ApiError> {
        let address = ServerAddress::parse(ask.kind, &ask.address).map_err(ApiError::invalid)?;
        let Some(index) = self.servers.iter().position(|s| s.address == address) else {
            return Err(ApiError::not_found(format!("{address} is not in use")));
        };
        if self.servers[index].fixed {
            return Err(ApiError::conflict(format!(
                "{address} stands in punchd.toml, where the administrator removes it"
            )));
        }
        let mut state = self.state.clone();
        state.servers.retain(|known| *known != address);
        let server = self.servers.remove(index);
        if let Err(error) = self.commit(state).await {
            self.servers.insert(index, server);
            return Err(error);
        }
        self.stun.remove(&address);
        self.apply().await;
        if address.kind() == ServerKind::Signal {
            let command = Command::ServerDown(server.id);
            let _ = self.parts.driver.send(command).await;
        }
        Ok(())
    }

    // --- inside ---

    /// Saves the new state, and only if that worked makes it the one in force.
    async fn commit(&mut self, state: State) -> Result<(), ApiError> {
        self.parts.store.save(&state).map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "the state was not saved");
            ApiError::new(
                ErrorCode::Internal,
                format!("nothing was changed, because it could not be saved: {error:#}"),
            )
        })?;
        self.state = state;
        self.apply().await;
        self.tell(events::configuration());
        Ok(())
    }

    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        let id = self.parts.identity.id();
        let ipv4 = self.parts.config.ipv4.map(|range| id.overlay_ipv4(range));
        ipv4.map(IpAddr::from)
            .into_iter()
            .chain([id.overlay_ipv6().into()])
            .collect()
    }

    fn peer_config(&self, name: &PeerName, peer: &StoredPeer) -> Option<PeerConfig> {
        let (kind, stamps) = match &peer.kind {
            StoredKind::Punch { id, ipv6_only } => {
                let range = self.parts.config.ipv4.filter(|_| !ipv6_only);
                let kind = PeerKind::Punch {
                    id: *id,
                    ipv4: range.map(|range| id.overlay_ipv4(range)),
                };
                (kind, self.stamps.get(id).copied().unwrap_or_default())
            }
            StoredKind::Wireguard {
                key,
                endpoint,
                address,
                preshared,
            } => {
                let preshared = match preshared {
                    Some(text) => Some(Zeroizing::new(key_bytes(text.expose())?)),
                    None => None,
                };
                let kind = PeerKind::Wireguard {
                    public: key_bytes(key)?,
                    endpoint: *endpoint,
                    address: *address,
                    preshared,
                };
                (kind, (0, 0))
            }
        };
        Some(PeerConfig {
            // A peer that is only being checked has no handle yet.
            handle: self
                .handles
                .get(name)
                .copied()
                .unwrap_or(punch_engine::PeerHandle(0)),
            kind,
            up: peer.up,
            barred: peer.barred,
            host: peer.host,
            stamps,
            memory: self.memory_of(peer),
        })
    }

    pub(super) fn peer_configs(&self) -> Vec<PeerConfig> {
        self.state
            .peers
            .iter()
            .filter_map(|(name, peer)| self.peer_config(name, peer))
            .collect()
    }

    pub(super) fn rules(&self) -> Rules {
        Rules::new(self.state.forwards.iter().map(|forward| Rule {
            key: forward.key,
            target: forward.target.clone(),
            access: if forward.peers.is_empty() {
                Access::AllPeers
            } else {
                let peers = forward.peers.iter();
                Access::Peers(
                    peers
                        .filter_map(|name| self.handles.get(name).copied())
                        .collect(),
                )
            },
        }))
    }
}

/// A peer that nobody has asked anything of yet.
fn stored(kind: &StoredKind) -> StoredPeer {
    StoredPeer {
        kind: kind.clone(),
        up: false,
        barred: false,
        host: false,
    }
}

fn collision(ip: IpAddr, with: &str) -> ApiError {
    let way_out = if ip.is_ipv4() {
        "; add it for IPv6 only with: --ipv6-only"
    } else {
        ""
    };
    ApiError::conflict(format!(
        "the peer's overlay address {ip} is that of {with} too{way_out}"
    ))
}

/// The name that was probably meant: two letters more, less, other or exchanged, and of short names one.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let best = known.iter().min_by_key(|other| distance(other))?;
    let near = if name.chars().count() < 6 { 1 } else { 2 };
    (distance(best) <= near).then_some(*best)
}
