//! This machine's end of every path: its addresses, its candidates, and what is known of its NAT.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Description};
use punch_stun_protocol::Message;
use punch_traversal::{
    AddressChange, BEHIND_NAT64, Family, Gatherer, NatOverrides, NatProfile, OwnAddress, SocketId,
    Transmit,
};

use crate::capacities::Capacities;
use crate::netchecks::{Netchecks, Progress};
use crate::samplers::Samplers;
use crate::sockets::Sockets;
use crate::{ConnectorEvent, News};

/// Candidates over TCP that a peer is told.
const MAX_TCP_CANDIDATES: usize = 8;

/// What an attempt needs to know of this machine's network.
pub(crate) struct NetworkView {
    pub(crate) profile: Option<NatProfile>,
    pub(crate) lifetime: Option<Duration>,
    /// STUN servers that answer.
    pub(crate) samplers: Vec<SocketAddr>,
    /// Stands for the network that this machine is in.
    pub(crate) fingerprint: Option<u64>,
    /// The longest packet inside the tunnel that is ever sent, in bytes.
    pub(crate) mtu: u16,
    /// Whether TCP connections to peers are made.
    pub(crate) tcp: bool,
    /// The attempt's randomness.
    pub(crate) seed: u64,
}

/// See the module.
pub(crate) struct LocalNetwork {
    gatherer: Gatherer,
    netchecks: Netchecks,
    addresses: Vec<IpAddr>,
    /// Whether the addresses have been told: the first telling is no change.
    addresses_known: bool,
    /// Who tells as what sockets are seen.
    samplers: Samplers,
    /// Addresses inside tunnels: a path over one of them would lead a tunnel into itself.
    overlay: HashSet<IpAddr>,
    fingerprint: Option<u64>,
    /// The longest packet inside the tunnel that is ever sent, in bytes.
    mtu: u16,
    /// What was learned of the networks' capacities.
    capacities: Capacities,
    /// What was learned and not yet said: the network, and the mappings it has.
    learned: Option<(u64, u32)>,
    /// How many mappings of a run that is under way were said.
    booked: u32,
    /// How long an unused mapping lives, as it was told last in this network.
    told_lifetime: Option<Option<Duration>>,
    /// Whether TCP connections to peers are made.
    tcp: bool,
    /// Where they are taken.
    tcp_ports: BTreeMap<Family, u16>,
    /// The address that the router leads to the port for TCP connections.
    tcp_mapping: Option<SocketAddr>,
}

impl LocalNetwork {
    /// A network of which nothing is known. The two seeds are the gatherer's and the netchecks'; `mtu` is that of the tunnel.
    pub(crate) fn new(seeds: [u64; 2], overrides: NatOverrides, mtu: u16, tcp: bool) -> Self {
        Self {
            gatherer: Gatherer::new(seeds[0]),
            netchecks: Netchecks::new(seeds[1], overrides),
            addresses: Vec::new(),
            addresses_known: false,
            samplers: Samplers::default(),
            overlay: HashSet::new(),
            fingerprint: None,
            told_lifetime: Some(None),
            mtu,
            capacities: Capacities::default(),
            learned: None,
            booked: 0,
            tcp,
            tcp_ports: BTreeMap::new(),
            tcp_mapping: None,
        }
    }

    // --- what comes in ---

    /// Whether an address lies inside a tunnel.
    pub(crate) fn set_overlay(&mut self, address: IpAddr, inside: bool) {
        if inside {
            self.overlay.insert(address);
        } else {
            self.overlay.remove(&address);
        }
    }

    /// The STUN servers are now these.
    pub(crate) fn set_stun_servers(&mut self, servers: Vec<SocketAddr>, now: Instant) {
        self.follow_samplers(|samplers| samplers.set_servers(servers), now);
    }

    /// The nodes of the DHT that could stand in for STUN servers are now these.
    pub(crate) fn set_nodes(&mut self, nodes: Vec<SocketAddr>, now: Instant) {
        let change = |samplers: &mut Samplers| {
            samplers.set_nodes(nodes);
            false
        };
        self.follow_samplers(change, now);
    }

    /// Others may be asked from now on. A netcheck follows where `change` says so, and where nodes are asked that were not; that one
    /// node is replaced by another one is no reason.
    fn follow_samplers(&mut self, change: impl FnOnce(&mut Samplers) -> bool, now: Instant) {
        let had_none = self.samplers.nodes().is_empty();
        let changed = change(&mut self.samplers);
        if changed || had_none && !self.samplers.nodes().is_empty() {
            self.restart_netchecks(now);
        }
        let servers = self.samplers.servers().to_vec();
        self.gatherer.handle_servers(servers, now);
        let nodes = self.samplers.nodes().to_vec();
        self.gatherer.handle_nodes(nodes, now);
    }

    /// TCP connections of this family are taken on this port.
    pub(crate) fn set_tcp_port(&mut self, family: Family, port: u16) {
        self.tcp_ports.insert(family, port);
    }

    /// The router leads this address to the port for TCP connections now; returns whether that is news for peers.
    pub(crate) fn set_tcp_mapping(&mut self, external: Option<SocketAddr>) -> bool {
        let before = std::mem::replace(&mut self.tcp_mapping, external);
        before != external && external.is_some()
    }

    /// A main socket is open on this port.
    pub(crate) fn handle_main_socket(&mut self, socket: SocketId, port: u16, now: Instant) {
        self.gatherer.handle_socket(socket, port, now);
    }

    /// A further socket is open, or could not be opened (`None`); returns whether a netcheck has asked for it.
    pub(crate) fn handle_socket(
        &mut self,
        socket: SocketId,
        port: Option<u16>,
        now: Instant,
    ) -> bool {
        self.netchecks
            .handle_socket(socket, port, &self.addresses, &self.samplers, now)
    }

    /// The machine's addresses are now these.
    pub(crate) fn handle_addresses(
        &mut self,
        addresses: Vec<OwnAddress>,
        now: Instant,
    ) -> AddressNews {
        self.addresses = addresses.iter().map(|own| own.ip).collect();
        let known = std::mem::replace(&mut self.addresses_known, true);
        // Peers hear of a link inside this machine as of any other candidate; no more depends on it.
        if self.gatherer.handle_addresses(addresses, now) != AddressChange::Network {
            return AddressNews::Same;
        }
        let change = |samplers: &mut Samplers| {
            samplers.forget_answers();
            true
        };
        self.follow_samplers(change, now);
        self.fingerprint = None;
        if known {
            self.told_lifetime = None;
            AddressNews::Changed
        } else {
            AddressNews::First
        }
    }

    /// The router leads this address here now, or nothing any more.
    pub(crate) fn handle_port_mapping(&mut self, external: Option<SocketAddr>, now: Instant) {
        self.gatherer.handle_port_mapping(external, now);
    }

    /// The machine has slept: every mapping at a NAT may be gone.
    pub(crate) fn handle_resume(&mut self, now: Instant) {
        self.gatherer.restart(now);
        self.restart_netchecks(now);
        self.fingerprint = None;
    }

    /// A STUN request without a user name: returns whether a netcheck has sent it to itself.
    pub(crate) fn handle_request(&mut self, socket: SocketId, message: &Message<'_>) -> bool {
        self.netchecks.handle_request(socket, message)
    }

    /// A STUN response: returns whether it answers a request to a server.
    pub(crate) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        self.netchecks.handle_response(socket, from, message, now)
            || self.gatherer.handle_response(socket, from, message, now)
    }

    /// Starts a netcheck over the families that this machine has addresses of, unless one is under way.
    pub(crate) fn start_netcheck(&mut self, sockets: &mut Sockets, now: Instant) {
        // Whether servers still answer an old flow tells what it means if they answer no new one.
        self.gatherer.refresh(now);
        let addresses = &self.addresses;
        let families = [Family::V4, Family::V6].into_iter().filter(|family| {
            addresses
                .iter()
                .any(|ip| Family::of(*ip) == *family && !ip.is_loopback())
        });
        self.netchecks.start(families, sockets);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, sockets: &mut Sockets, now: Instant) {
        self.gatherer.handle_timeout(now);
        let reachable = !self.gatherer.answering(Family::V4).is_empty();
        self.netchecks.set_reachable(reachable);
        self.netchecks.handle_timeout(sockets, now);
        self.gatherer.set_lifetime(self.netchecks.lifetime());
        if self.netchecks.is_due(now) && !self.samplers.is_empty() {
            self.start_netcheck(sockets, now);
        }
    }

    /// How long an unused mapping lives, if that is known, where it is something else than at the last call, and in each new network.
    pub(crate) fn take_lifetime(&mut self) -> Option<Option<Duration>> {
        let lifetime = self.netchecks.lifetime();
        let before = self.told_lifetime.replace(lifetime);
        (before != Some(lifetime)).then_some(lifetime)
    }

    /// This machine has held so many mappings in this network when there were no more.
    pub(crate) fn learn_capacity(&mut self, held: u32, now: Instant) {
        if let Some(network) = self.fingerprint {
            self.capacities.learn(network, held, now);
            self.netchecks.set_capacity(Some(held));
            self.learned = Some((network, held));
        }
    }

    // --- what goes out ---

    /// Takes out what there is to send and to say; when enough is known of the NAT, and when a run is over, returns how many mappings
    /// the run has made that were not said. `held` is how many were held before that.
    pub(crate) fn drain(
        &mut self,
        transmits: &mut VecDeque<Transmit>,
        events: &mut VecDeque<ConnectorEvent>,
        held: u32,
        now: Instant,
    ) -> Option<u32> {
        while let Some(transmit) = self.gatherer.poll_transmit() {
            transmits.push_back(transmit);
        }
        let progress = self.netchecks.drain(transmits, events);
        if progress != Progress::Same {
            self.fingerprint = Some(self.compute_fingerprint());
            let known = self.capacities.of(self.fingerprint, now);
            self.netchecks.set_capacity(known);
        }
        if progress == Progress::Finished {
            if let Some(shown) = self.netchecks.shown() {
                self.capacities.refute(self.fingerprint, shown);
                let known = self.capacities.of(self.fingerprint, now);
                self.netchecks.set_capacity(known);
            }
            if let Some(found) = self.netchecks.found_capacity() {
                let before = held.saturating_sub(self.booked);
                self.learn_capacity(found.saturating_add(before), now);
            }
            let profiles = self.netchecks.known();
            let note = |samplers: &mut Samplers| {
                samplers.note(&profiles);
                false
            };
            self.follow_samplers(note, now);
            events.push_back(ConnectorEvent::News(News::Netcheck(profiles)));
        }
        if let Some((network, mappings)) = self.learned.take() {
            events.push_back(ConnectorEvent::News(News::Capacity { network, mappings }));
        }
        let made = match progress {
            Progress::Same => return None,
            Progress::Settled | Progress::Finished => {
                self.profile().map_or(0, |profile| profile.mappings_made())
            }
        };
        let booked = std::mem::take(&mut self.booked);
        if progress == Progress::Settled {
            self.booked = made;
        }
        Some(made.saturating_sub(booked))
    }

    /// Whether [`Self::candidates`] has changed since the last call.
    pub(crate) fn poll_changed(&mut self, now: Instant) -> bool {
        if !self.gatherer.poll_changed() {
            return false;
        }
        let seen = self.gatherer.reflexive().map(|(_, mapped)| mapped.ip());
        for ip in seen.filter(IpAddr::is_ipv4) {
            self.netchecks.handle_public(ip, now);
        }
        true
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [self.gatherer.poll_timeout(), self.netchecks.poll_timeout()];
        timeouts.into_iter().flatten().min()
    }

    // --- what is known ---

    /// This machine's candidates.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        self.outside(self.gatherer.candidates())
    }

    /// Where this machine takes TCP connections: at its own addresses, at the one that the router leads here, and at the public one of
    /// each family, with the same port: a router may have a static mapping for it, as virtual machines have. `seen` are the addresses that
    /// STUN servers see, which a NAT lets in only those at whom a connection is being made at the same time.
    pub(crate) fn tcp_candidates(&self, seen: impl Iterator<Item = SocketAddr>) -> Vec<Candidate> {
        let udp = self.candidates();
        let of_kind = |kind| {
            let of_kind = udp.iter().filter(move |candidate| candidate.kind == kind);
            let of_kind = of_kind.filter(|candidate| !candidate.is_in_tunnel());
            of_kind.map(|candidate| candidate.address.ip())
        };
        let listening = |ip| {
            let port = self.tcp_ports.get(&Family::of(ip))?;
            Some(SocketAddr::new(ip, *port))
        };
        let own = of_kind(CandidateKind::Host).filter_map(listening);
        let public = of_kind(CandidateKind::ServerReflexive).filter_map(listening);
        let mapped = self.tcp_mapping.filter(|at| !self.is_own(at.ip()));
        let foreign = mapped
            .into_iter()
            .chain(public)
            .map(|address| (true, address));
        let mut told: Vec<(usize, Candidate)> = Vec::new();
        for (is_foreign, address) in own.map(|address| (false, address)).chain(foreign) {
            let family = Family::of(address.ip());
            let alike = |(_, other): &&(usize, Candidate)| Family::of(other.address.ip()) == family;
            let before = told.iter().filter(alike).count();
            // Of many addresses of its own, a peer elsewhere may reach none.
            let before = if is_foreign { before.min(1) } else { before };
            if !told.iter().any(|(_, other)| other.address == address) {
                told.push((before, Candidate::new(CandidateKind::TcpPassive, address)));
            }
        }
        // The best of both families come first.
        told.sort_by_key(|(before, _)| *before);
        told.truncate(MAX_TCP_CANDIDATES);
        let mut told: Vec<_> = told.into_iter().map(|(_, candidate)| candidate).collect();
        for address in seen {
            if !told.iter().any(|other| other.address == address) {
                told.push(Candidate::new(CandidateKind::TcpSimultaneous, address));
            }
        }
        told
    }

    /// The STUN servers that could tell as what the port is seen on which TCP connections are taken. IPv6 has no NAT.
    pub(crate) fn tcp_samplers(&self) -> Vec<SocketAddr> {
        let servers = self.samplers.servers().iter().copied();
        let servers = servers.filter(|server| {
            let family = Family::of(server.ip());
            family == Family::V4 && self.tcp_ports.contains_key(&family)
        });
        servers.collect()
    }

    /// Whether IPv4 is reached through a translator alone.
    pub(crate) fn is_translated(&self) -> bool {
        self.addresses.contains(&BEHIND_NAT64.into())
    }

    /// Whether an address lies inside a tunnel.
    pub(crate) fn is_inside(&self, ip: IpAddr) -> bool {
        self.overlay.contains(&ip)
    }

    /// Whether an address is this machine's own, or lies inside a tunnel.
    pub(crate) fn is_own(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip) || self.is_inside(ip)
    }

    /// The candidates that do not lie inside a tunnel.
    pub(crate) fn outside(&self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        candidates.retain(|candidate| !self.overlay.contains(&candidate.address.ip()));
        candidates
    }

    /// Takes out of a peer's description what lies inside a tunnel.
    pub(crate) fn keep_outside(&self, description: &mut Description) {
        let candidates = std::mem::take(&mut description.candidates);
        description.candidates = self.outside(candidates);
        if let Some(nat) = &mut description.nat {
            nat.addresses
                .retain(|ip| !self.overlay.contains(&IpAddr::V4(*ip)));
        }
    }

    /// STUN servers that have answered, and what they saw.
    pub(crate) fn reflexive(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.gatherer.reflexive().collect()
    }

    /// Whether a fresh socket's public address could be learned.
    pub(crate) fn has_samplers(&self) -> bool {
        !self.gatherer.answering(Family::V4).is_empty()
    }

    /// What is known of this side's IPv4 NAT.
    pub(crate) fn profile(&self) -> Option<NatProfile> {
        self.netchecks.profile(Family::V4)
    }

    /// What peers are told of this side's IPv4 NAT: while it is about to be measured, at least that.
    pub(crate) fn told_profile(&self, now: Instant) -> Option<NatProfile> {
        let measuring = self.netchecks.is_measuring(now) && !self.samplers.is_empty();
        let unmeasured = || measuring.then(|| NatProfile::unmeasured(Family::V4));
        self.profile().or_else(unmeasured)
    }

    /// Whether this side's IPv4 NAT was measured.
    pub(crate) fn is_measured(&self) -> bool {
        self.netchecks.is_measured()
    }

    /// Stands for the network that this machine is in.
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        self.fingerprint
    }

    /// The MTU of the tunnel.
    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Whether TCP connections to peers are made.
    pub(crate) fn has_tcp(&self) -> bool {
        self.tcp
    }

    /// What an attempt with this seed needs to know.
    pub(crate) fn view(&self, seed: u64) -> NetworkView {
        NetworkView {
            profile: self.profile(),
            lifetime: self.netchecks.lifetime(),
            samplers: self.gatherer.answering(Family::V4),
            fingerprint: self.fingerprint,
            mtu: self.mtu,
            tcp: self.tcp,
            seed,
        }
    }

    /// What was found out of the NAT holds no more.
    fn restart_netchecks(&mut self, now: Instant) {
        self.netchecks.restart(now);
        self.booked = 0;
    }

    /// A hash of the public addresses and of this machine's subnets.
    fn compute_fingerprint(&self) -> u64 {
        let public = self
            .profile()
            .map(|profile| profile.addresses)
            .unwrap_or_default();
        let mut places: Vec<[u8; 4]> = self
            .addresses
            .iter()
            .filter_map(|ip| match ip {
                IpAddr::V4(ip) if !self.overlay.contains(&IpAddr::V4(*ip)) => {
                    let [a, b, c, _] = ip.octets();
                    Some([a, b, c, 0])
                }
                _ => None,
            })
            .chain(public.iter().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(ip.octets()),
                IpAddr::V6(_) => None,
            }))
            .collect();
        places.sort_unstable();
        places.dedup();
        // FNV-1a: it must be the same in every version.
        places
            .iter()
            .flatten()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
            })
    }
}

/// What telling the machine's addresses has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressNews {
    /// Those that were known.
    Same,
    /// They were not known before.
    First,
    /// They were others before.
    Changed,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
