//! What is known of this machine's NATs: a netcheck over each address family, whenever the network changes or the user asks,
//! and long after it a measurement of how long mappings live.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_stun_protocol::Message;
use punch_traversal::{Family, Lifetime, NatOverrides, NatProfile, Netcheck, SocketId, Transmit};

use crate::samplers::Samplers;
use crate::sockets::Sockets;
use crate::{ConnectorEvent, SocketOrder};

/// A netcheck begins this long after a change of the network: several changes come together.
const CHANGE_DELAY: Duration = Duration::from_millis(20);
/// The lifetime of mappings is measured this long after a netcheck, whose own mappings are gone then: some NATs hold few.
const LIFETIME_DELAY: Duration = Duration::from_secs(60);
/// Where no server has answered, all are asked again after this.
const SILENCE_RETRY: Duration = Duration::from_secs(60);
/// Where the ports of the NAT were used up, all servers are asked again after this: most NATs have forgotten unused mappings then,
/// and a netcheck takes dozens.
const USED_UP_RETRY: Duration = Duration::from_secs(120);
/// Where a run could not tell how the NAT allots its ports, although it could have been told: the next ones follow after these.
const PARTIAL_RETRIES: [Duration; 3] = [
    Duration::from_secs(3),
    Duration::from_secs(30),
    Duration::from_secs(300),
];
/// Minimum time between netchecks that a public address sets off which was not seen before: some NATs have many.
const NEW_ADDRESS_INTERVAL: Duration = Duration::from_secs(300);

/// Sockets that are being opened for one purpose.
#[derive(Debug)]
struct Opening {
    family: Family,
    lifetime: bool,
    missing: Vec<SocketId>,
    open: Vec<(SocketId, u16)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Netchecks {
    seed: u64,
    overrides: NatOverrides,
    /// Runs that wait for their sockets.
    opening: Vec<Opening>,
    running: Vec<Netcheck>,
    /// The measurement of how long mappings live, while it is under way.
    lifetime: Option<Lifetime>,
    to_open: Vec<(SocketId, Family)>,
    closing: Vec<SocketId>,
    next_run: Option<Instant>,
    last_run: Option<Instant>,
    next_lifetime: Option<Instant>,
    /// What finished runs have found, at most one for each family.
    profiles: Vec<NatProfile>,
    /// How long an unused mapping lives, once it was measured.
    measured: Option<Duration>,
    /// How many mappings this network has, if that was learned.
    capacity: Option<u32>,
    /// Whether servers answer the long-lived socket.
    reachable: bool,
    round: Round,
}

/// The runs that were started last.
#[derive(Debug, Default)]
struct Round {
    /// Whether they were started and have not been reported.
    active: bool,
    /// Whether enough is known of the IPv4 NAT for attempts: asked with each of them, and computed with each answer.
    known: bool,
    /// Whether that was told, or was so before.
    told: bool,
    /// How many rounds since the network changed have told too little.
    partial: usize,
}

/// How far the runs have come since the last question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// As far as before.
    Same,
    /// What attempts must know of the IPv4 NAT is known now; before, nothing was.
    Settled,
    /// The runs are over.
    Finished,
}

impl Netchecks {
    pub(super) fn new(seed: u64, overrides: NatOverrides) -> Self {
        Self {
            seed,
            overrides,
            opening: Vec::new(),
            running: Vec::new(),
            lifetime: None,
            to_open: Vec::new(),
            closing: Vec::new(),
            next_run: None,
            last_run: None,
            next_lifetime: None,
            profiles: Vec::new(),
            measured: None,
            capacity: None,
            reachable: false,
            round: Round::default(),
        }
    }

    /// The network is another one: nothing that was found out holds any more.
    pub(super) fn restart(&mut self, now: Instant) {
        self.profiles.clear();
        self.measured = None;
        self.capacity = None;
        self.next_lifetime = None;
        let runs = self.running.drain(..);
        self.closing
            .extend(runs.flat_map(|run| run.sockets().collect::<Vec<_>>()));
        if let Some(lifetime) = self.lifetime.take() {
            self.closing.extend(lifetime.sockets());
        }
        for opening in self.opening.drain(..) {
            self.closing.extend(opening.open.iter().map(|(id, _)| *id));
        }
        self.round = Round::default();
        self.next_run = Some(now + CHANGE_DELAY);
    }

    /// A server has seen this machine at a public address.
    pub(super) fn handle_public(&mut self, ip: IpAddr, now: Instant) {
        let known = self
            .profiles
            .iter()
            .any(|profile| profile.addresses.contains(&ip));
        if let Some(last) = self.last_run
            && !known
            && self.next_run.is_none()
            && !self.round.active
        {
            self.next_run = Some(now.max(last + NEW_ADDRESS_INTERVAL));
        }
    }

    /// Whether a run is due without a request of the user; asked once.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next_run.is_some_and(|at| at <= now);
        if due {
            self.next_run = None;
        }
        due
    }

    /// Starts over these families, unless a run is under way.
    pub(super) fn start(&mut self, families: impl Iterator<Item = Family>, sockets: &mut Sockets) {
        if self.round.active {
            return;
        }
        self.round.active = true;
        self.next_run = None;
        for family in families {
            let wanted = Netcheck::sockets_wanted(family);
            self.open(family, false, wanted, sockets);
        }
    }

    fn open(&mut self, family: Family, lifetime: bool, wanted: usize, sockets: &mut Sockets) {
        let missing: Vec<_> = (0..wanted).map(|_| sockets.number()).collect();
        self.to_open.extend(missing.iter().map(|id| (*id, family)));
        self.opening.push(Opening {
            family,
            lifetime,
            missing,
            open: Vec::new(),
        });
    }

    /// A socket is open, or could not be opened (`None`); returns whether a netcheck has asked for it.
    pub(super) fn handle_socket(
        &mut self,
        socket: SocketId,
        port: Option<u16>,
        addresses: &[IpAddr],
        samplers: &Samplers,
        now: Instant,
    ) -> bool {
        let found = self
            .opening
            .iter()
            .position(|opening| opening.missing.contains(&socket));
        let Some(index) = found else { return false };
        let opening = &mut self.opening[index];
        opening.missing.retain(|missing| *missing != socket);
        opening.open.extend(port.map(|port| (socket, port)));
        if !opening.missing.is_empty() {
            return true;
        }
        let Opening {
            family,
            lifetime,
            mut open,
            ..
        } = self.opening.remove(index);
        self.seed = self.seed.wrapping_add(1);
        // In the order in which they were asked for, whatever order they came in.
        open.sort();
        if lifetime {
            let server = samplers
                .servers()
                .iter()
                .find(|server| Family::of(server.ip()) == family);
            let sockets: Vec<_> = open.iter().map(|(id, _)| *id).collect();
            self.lifetime =
                server.and_then(|server| Lifetime::new(&sockets, *server, self.seed, now));
            if self.lifetime.is_none() {
                self.closing.extend(sockets);
            }
        } else if !open.is_empty() {
            let (servers, own) = (samplers.servers(), addresses.to_vec());
            let mut run = Netcheck::new(family, open, own, servers, self.seed, now);
            run.ask_nodes(samplers.nodes(), now);
            self.running.push(run);
        }
        self.finish(now);
        true
    }

    pub(super) fn handle_request(&mut self, socket: SocketId, message: &Message<'_>) -> bool {
        let mut runs = self.running.iter_mut();
        let run = runs.find(|run| run.sockets().any(|id| id == socket));
        run.map(|run| run.handle_request(message)).is_some()
    }

    pub(super) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        if let Some(lifetime) = &mut self.lifetime
            && lifetime.sockets().any(|id| id == socket)
        {
            lifetime.handle_response(socket, from, message, now);
            self.finish(now);
            return true;
        }
        let mut runs = self.running.iter_mut();
        let run = runs.find(|run| run.sockets().any(|id| id == socket));
        let found = run
            .map(|run| run.handle_response(socket, from, message, now))
            .is_some();
        if found {
            self.finish(now);
        }
        found
    }

    pub(super) fn handle_timeout(&mut self, sockets: &mut Sockets, now: Instant) {
        for run in &mut self.running {
            run.handle_timeout(now);
        }
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.handle_timeout(now);
        }
        if self.next_lifetime.is_some_and(|at| at <= now) {
            self.next_lifetime = None;
            self.open(Family::V4, true, Lifetime::SOCKETS, sockets);
        }
        self.finish(now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.running
            .iter()
            .filter_map(Netcheck::poll_timeout)
            .chain(self.lifetime.as_ref().and_then(Lifetime::poll_timeout))
            .chain(self.next_run)
            .chain(self.next_lifetime)
            .min()
    }

    /// What is known of a family's NAT, while a run is under way too.
    pub(super) fn profile(&self, family: Family) -> Option<NatProfile> {
        let known = self
            .profiles
            .iter()
            .find(|profile| profile.family == family);
        let partial = || {
            let mut profiles = self.running.iter().map(Netcheck::profile);
            profiles.find(|profile| profile.family == family)
        };
        let mut profile = known.cloned().or_else(partial)?;
        profile.lifetime = self.measured;
        profile.search.capacity = self.capacity;
        self.overrides.apply(&mut profile);
        Some(profile)
    }

    /// How many mappings this network has, if that was learned.
    pub(super) fn set_capacity(&mut self, capacity: Option<u32>) {
        self.capacity = capacity;
    }

    /// How many mappings the last run over IPv4 could make before it got no more, if that has happened.
    pub(super) fn found_capacity(&self) -> Option<u32> {
        let mut profiles = self.profiles.iter();
        let v4 = profiles.find(|profile| profile.family == Family::V4)?;
        v4.search.capacity
    }

    /// How many mappings the last run over IPv4 has held, if it could have had more.
    pub(super) fn shown(&self) -> Option<u32> {
        let mut profiles = self.profiles.iter();
        let v4 = profiles.find(|profile| profile.family == Family::V4)?;
        let is_whole = v4.public.is_some() && !v4.search.used_up;
        is_whole.then(|| v4.mappings_made())
    }

    /// Whether what attempts must know of the IPv4 NAT is known.
    pub(super) fn is_measured(&self) -> bool {
        self.round.known
    }

    /// Looks whether what attempts must know is known by now.
    fn note_known(&mut self) {
        let is_v4 = |profile: &NatProfile| profile.family == Family::V4 && profile.public.is_some();
        let settled = |run: &Netcheck| run.is_settled() && is_v4(&run.profile());
        self.round.known = self.profiles.iter().any(is_v4) || self.running.iter().any(settled);
    }

    /// Whether a run over IPv4 is about to tell what is not known yet.
    pub(super) fn is_measuring(&self, now: Instant) -> bool {
        let soon = |at: Instant| at <= now + CHANGE_DELAY;
        !self.is_measured() && (self.round.active || self.next_run.is_some_and(soon))
    }

    /// What is known of each family's NAT.
    pub(super) fn known(&self) -> Vec<NatProfile> {
        let families = [Family::V4, Family::V6].into_iter();
        families.filter_map(|family| self.profile(family)).collect()
    }

    /// How long an unused mapping lives, if that was measured or is given.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.overrides.lifetime.or(self.measured)
    }

    /// Whether servers answer the long-lived socket, as far as is known.
    pub(super) fn set_reachable(&mut self, reachable: bool) {
        self.reachable = reachable;
    }

    fn finish(&mut self, now: Instant) {
        self.finish_runs(now);
        self.note_known();
    }

    fn finish_runs(&mut self, now: Instant) {
        let (closing, profiles) = (&mut self.closing, &mut self.profiles);
        let reachable = self.reachable;
        self.running.retain(|run| {
            let over = run.poll_timeout().is_none();
            if over {
                closing.extend(run.sockets());
                keep(profiles, run.profile(), reachable);
            }
            !over
        });
        if self
            .lifetime
            .as_ref()
            .is_some_and(|lifetime| lifetime.poll_timeout().is_none())
            && let Some(lifetime) = self.lifetime.take()
        {
            self.closing.extend(lifetime.sockets());
            self.measured = lifetime.lifetime();
        }
        let over = self.round.active
            && self.running.is_empty()
            && self.opening.iter().all(|opening| opening.lifetime);
        if !over {
            return;
        }
        self.last_run = Some(now);
        let v4 = self
            .profiles
            .iter()
            .find(|profile| profile.family == Family::V4);
        let Some(v4) = v4 else { return };
        if v4.search.used_up {
            self.next_run.get_or_insert(now + USED_UP_RETRY);
        } else if v4.public.is_none() {
            self.next_run.get_or_insert(now + SILENCE_RETRY);
        } else if v4.is_partial()
            && let Some(pause) = PARTIAL_RETRIES.get(self.round.partial)
        {
            self.round.partial += 1;
            self.next_run.get_or_insert(now + *pause);
        }
        // A server answers to the asking socket's address: with several, it may not be that of the silent one.
        let measurable = v4.public.is_some() && v4.addresses.len() == 1;
        let wanted = self.lifetime().is_none() && self.lifetime.is_none();
        if measurable && wanted {
            self.next_lifetime.get_or_insert(now + LIFETIME_DELAY);
        }
    }

    /// Takes out what there is to send and to order.
    pub(super) fn drain(
        &mut self,
        transmits: &mut VecDeque<Transmit>,
        events: &mut VecDeque<ConnectorEvent>,
    ) -> Progress {
        for (socket, family) in self.to_open.drain(..) {
            let order = SocketOrder::Open { socket, family };
            events.push_back(ConnectorEvent::Socket(order));
        }
        for run in &mut self.running {
            while let Some(transmit) = run.poll_transmit() {
                transmits.push_back(transmit);
            }
        }
        if let Some(lifetime) = &mut self.lifetime {
            while let Some(transmit) = lifetime.poll_transmit() {
                transmits.push_back(transmit);
            }
        }
        for socket in self.closing.drain(..) {
            let order = SocketOrder::Close { socket };
            events.push_back(ConnectorEvent::Socket(order));
        }
        let opening = self.opening.iter().any(|opening| !opening.lifetime);
        let finished = self.round.active && !opening && self.running.is_empty();
        if finished {
            (self.round.active, self.round.told) = (false, self.round.known);
            return Progress::Finished;
        }
        if self.round.known && !std::mem::replace(&mut self.round.told, true) {
            return Progress::Settled;
        }
        Progress::Same
    }
}

/// Keeps what a run has found. Where new flows are not answered while servers go on to answer an old one, UDP is not blocked: the
/// NAT gives out no more ports. What was found before there were none still holds then.
fn keep(profiles: &mut Vec<NatProfile>, mut profile: NatProfile, reachable: bool) {
    if profile.udp_blocked && profile.family == Family::V4 && reachable {
        profile.udp_blocked = false;
        profile.search.used_up = true;
    }
    let before = profiles
        .iter()
        .position(|known| known.family == profile.family)
        .map(|at| profiles.remove(at));
    profiles.push(match before {
        Some(before) if profile.search.used_up && before.allocation.is_some() => NatProfile {
            search: profile.search,
            ..before
        },
        _ => profile,
    });
}
