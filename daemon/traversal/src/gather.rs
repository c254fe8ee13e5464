//! Where this machine may be reached: its own addresses, those that STUN servers see (RFC 8445 §5.1.1), and one that its
//! router has given it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, MAX_CANDIDATES};
use punch_stun_protocol::{Class, Message, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::address::{AddressRank, OwnAddress, usable};
use crate::nat64::is_of_translator;
use crate::request::{Requests, transaction};
use crate::socket::{Family, SocketId, Transmit};
use crate::votes;

/// Time between two refreshes, which keep the mapping at the NAT alive and notice when it changes (RFC 4787 REQ-5 asks NATs to
/// keep mappings for 120 s, many keep them for 30).
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);
/// The same where it is not known how long a mapping lives: some NATs forget after 15 s.
const CAREFUL_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// A mapping that lives at least so long is refreshed after [`REFRESH_INTERVAL`].
const LONG_LIFETIME: Duration = Duration::from_secs(40);
/// How often one request is sent in all.
const SENDS: u32 = 5;
/// A server that has not answered for this many refreshes no longer vouches for an address.
const MAX_MISSED_REFRESHES: u32 = 3;
/// Servers asked in each address family.
const MAX_SERVERS: usize = 4;
/// Nodes of the DHT asked beside them, where they are too few: one may lie, and is outvoted then.
const MAX_NODES: usize = 3;
/// Host candidates offered in each family, those of the best rank; together with what all servers see, these are just [`MAX_CANDIDATES`].
const MAX_HOST: usize = 12;

/// Keeps this machine's candidates fresh.
#[derive(Debug)]
pub struct Gatherer {
    rng: ChaCha8Rng,
    ports: BTreeMap<SocketId, u16>,
    addresses: Vec<OwnAddress>,
    servers: Vec<SocketAddr>,
    /// Nodes of the DHT that are asked like servers.
    nodes: Vec<SocketAddr>,
    port_mapping: Option<SocketAddr>,
    reflexive: BTreeMap<(SocketId, SocketAddr), Reflexive>,
    requests: Requests<(SocketId, SocketAddr)>,
    next_refresh: Option<Instant>,
    lifetime: Option<Duration>,
    transmits: VecDeque<Transmit>,
    changed: bool,
}

/// What has changed about the machine's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressChange {
    /// They are the same as before.
    None,
    /// Only links inside this machine: containers come and go, and no path to a peer is another one for it.
    Internal,
    /// The machine may be in another network now.
    Network,
}

#[derive(Debug)]
struct Reflexive {
    mapped: SocketAddr,
    missed: u32,
}

impl Gatherer {
    /// A gatherer that knows nothing yet.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            ports: BTreeMap::new(),
            addresses: Vec::new(),
            servers: Vec::new(),
            nodes: Vec::new(),
            port_mapping: None,
            reflexive: BTreeMap::new(),
            requests: Requests::new(),
            next_refresh: None,
            lifetime: None,
            transmits: VecDeque::new(),
            changed: false,
        }
    }

    /// A main socket is open on this local port.
    pub fn handle_socket(&mut self, socket: SocketId, port: u16, now: Instant) {
        if self.ports.insert(socket, port) != Some(port) {
            self.reflexive.retain(|(of, _), _| *of != socket);
        }
        self.changed = true;
        self.restart(now);
    }

    /// The machine's addresses are now these.
    pub fn handle_addresses(
        &mut self,
        mut addresses: Vec<OwnAddress>,
        now: Instant,
    ) -> AddressChange {
        addresses.retain(|own| usable(own.ip));
        // Of one rank, those that were there before come first: whoever sends router advertisements for a dozen made-up prefixes shall
        // not push the true addresses out.
        let known = |own: &OwnAddress| {
            let before = self.addresses.iter().position(|known| known == own);
            before.unwrap_or(usize::MAX)
        };
        addresses.sort_by_cached_key(|own| (own.rank, known(own), own.ip));
        addresses.dedup_by_key(|own| own.ip);
        if addresses == self.addresses {
            return AddressChange::None;
        }
        let before = std::mem::replace(&mut self.addresses, addresses);
        self.changed = true;
        let outer = |own: &&OwnAddress| own.rank != AddressRank::Internal;
        let same = before
            .iter()
            .filter(outer)
            .eq(self.addresses.iter().filter(outer));
        if same {
            return AddressChange::Internal;
        }
        self.reflexive.clear();
        self.restart(now);
        AddressChange::Network
    }

    /// The STUN servers are now these.
    pub fn handle_servers(&mut self, mut servers: Vec<SocketAddr>, now: Instant) {
        // One that is not asked must not go on vouching for what it once saw.
        let mut counts = BTreeMap::new();
        servers.retain(|server| {
            let count = counts.entry(Family::of(server.ip())).or_insert(0);
            *count += 1;
            *count <= MAX_SERVERS
        });
        if servers == self.servers {
            return;
        }
        self.servers = servers;
        self.forget_others();
        self.changed = true;
        self.restart(now);
    }

    /// Nodes of the DHT that tell as what they see a socket are now these: the first three are asked. That one is replaced disturbs
    /// nothing that the others say.
    pub fn handle_nodes(&mut self, mut nodes: Vec<SocketAddr>, now: Instant) {
        nodes.truncate(MAX_NODES);
        if nodes == self.nodes {
            return;
        }
        self.nodes = nodes;
        self.forget_others();
        self.changed = true;
        self.restart(now);
    }

    /// Those that are not asked any more vouch for nothing.
    fn forget_others(&mut self) {
        let (servers, nodes) = (&self.servers, &self.nodes);
        self.reflexive
            .retain(|(_, server), _| servers.contains(server) || nodes.contains(server));
    }

    /// How long an unused mapping lives, once that is known.
    pub fn set_lifetime(&mut self, lifetime: Option<Duration>) {
        self.lifetime = lifetime;
    }

    /// Servers that have answered lately.
    pub fn answering(&self, family: Family) -> Vec<SocketAddr> {
        let fresh = self.reflexive.iter().filter(|(_, seen)| seen.missed == 0);
        fresh
            .map(|((_, server), _)| *server)
            .filter(|server| Family::of(server.ip()) == family)
            .collect()
    }

    /// The router leads this address to the main IPv4 socket now, or nothing any more.
    pub fn handle_port_mapping(&mut self, external: Option<SocketAddr>, _now: Instant) {
        // An address that nobody can send to is a lie or a mistake.
        let external = external.filter(|at| at.port() != 0 && usable(at.ip()));
        self.changed |= external != self.port_mapping;
        self.port_mapping = external;
    }

    /// A STUN response has come; returns whether it answered one of our requests.
    pub fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let Some(((socket, server), _)) =
            self.requests
                .answered(message.transaction, socket, from, |_| false, now)
        else {
            return false;
        };
        let mapped = match (message.class, message.mapped) {
            // An address that nobody can send to is a lie or a mistake.
            (Class::Success, Some(mapped)) if mapped.port() != 0 && usable(mapped.ip()) => mapped,
            _ => {
                self.miss((socket, server));
                return true;
            }
        };
        let before = self
            .reflexive
            .insert((socket, server), Reflexive { mapped, missed: 0 });
        self.changed |= before.is_none_or(|before| before.mapped != mapped);
        true
    }

    /// A server did not confirm what it once saw.
    fn miss(&mut self, key: (SocketId, SocketAddr)) {
        if let Some(reflexive) = self.reflexive.get_mut(&key) {
            reflexive.missed += 1;
            if reflexive.missed >= MAX_MISSED_REFRESHES {
                self.reflexive.remove(&key);
                self.changed = true;
            }
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (again, lost) = self.requests.handle_timeout(now);
        self.transmits.extend(again);
        for key in lost {
            self.miss(key);
        }
        if self.next_refresh.is_some_and(|at| at <= now) {
            self.refresh(now);
        }
    }

    /// Asks all servers again now, for instance after a sleep.
    pub fn restart(&mut self, now: Instant) {
        self.requests.clear();
        self.refresh(now);
    }

    /// Asks all servers that are not being asked.
    pub fn refresh(&mut self, now: Instant) {
        let pause = match self.lifetime {
            Some(lifetime) if lifetime >= LONG_LIFETIME => REFRESH_INTERVAL,
            Some(lifetime) => CAREFUL_REFRESH_INTERVAL.min(lifetime.mul_f64(0.6)),
            None => CAREFUL_REFRESH_INTERVAL,
        };
        let jitter = pause.mul_f64(0.2 * f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
        self.next_refresh = Some(now + pause + jitter);
        for family in [Family::V4, Family::V6] {
            let socket = SocketId::main(family);
            // Without an address of the family there is nobody to ask for: the packets could not leave.
            let mut own = self.addresses.iter();
            let present = own.any(|own| Family::of(own.ip) == family);
            if !present || !self.ports.contains_key(&socket) {
                continue;
            }
            let servers: Vec<_> = self
                .servers
                .iter()
                .chain(&self.nodes)
                .copied()
                .filter(|server| Family::of(server.ip()) == family)
                .collect();
            for server in servers {
                if self.requests.tags().any(|tag| *tag == (socket, server)) {
                    continue;
                }
                let id = transaction(&mut self.rng);
                let transmit =
                    Transmit::new(socket, server, Writer::new(Class::Request, id).finish());
                let first = self
                    .requests
                    .start(id, transmit, (socket, server), SENDS, now);
                self.transmits.push_back(first);
            }
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Whether [`Self::candidates`] has changed since the last call.
    pub fn poll_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next_refresh, self.requests.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// This machine's candidates.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for family in [Family::V4, Family::V6] {
            let Some(port) = self.ports.get(&SocketId::main(family)) else {
                continue;
            };
            let own = self
                .addresses
                .iter()
                .filter(|own| Family::of(own.ip) == family && !is_of_translator(own.ip));
            for (index, own) in own.enumerate().take(MAX_HOST) {
                let address = SocketAddr::new(own.ip, *port);
                let mut candidate = match own.rank {
                    AddressRank::Tunnel => Candidate::in_tunnel(address),
                    _ => Candidate::new(CandidateKind::Host, address),
                };
                candidate.preference -= u16::try_from(index).unwrap_or(0);
                candidates.push(candidate);
            }
        }
        let port_mapped = self.port_mapping.map(|at| (CandidateKind::PortMapped, at));
        let reflexive = self.reflexive();
        let reflexive = reflexive.map(|(_, mapped)| (CandidateKind::ServerReflexive, mapped));
        for (kind, address) in port_mapped.into_iter().chain(reflexive) {
            let known = |candidate: &Candidate| candidate.address == address;
            if !candidates.iter().any(known) && candidates.len() < MAX_CANDIDATES {
                candidates.push(Candidate::new(kind, address));
            }
        }
        candidates
    }

    /// The addresses that STUN servers see, and nodes that are not outvoted, with the one that said so.
    pub fn reflexive(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        let believed = |(of, server): &(SocketId, SocketAddr), mapped: SocketAddr| {
            let same = self.reflexive.iter().filter(|((other, _), _)| other == of);
            let same: Vec<_> = same.map(|(_, seen)| seen.mapped).collect();
            let is_false = votes::is_outvoted(mapped, &same) || votes::is_elsewhere(mapped, &same);
            !(self.nodes.contains(server) && is_false)
        };
        let all = self.reflexive.iter();
        let all = all.filter(move |(key, seen)| believed(key, seen.mapped));
        all.map(|((_, server), seen)| (*server, seen.mapped))
    }
}
