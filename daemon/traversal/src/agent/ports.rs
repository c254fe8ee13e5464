//! The agent's further sockets: a fresh one for the checks of a repeated attempt, and those of a search for ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Filtering, Mapping, NatSummary, Prediction};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::{Agent, AgentConfig, AgentEvent};
use crate::gather::usable;
use crate::pair::Pair;
use crate::plan::{self, Caps, OPENING_TTL, Part, Plan, is_hard};
use crate::request::{Requests, agent_transaction};
use crate::search::{Ends, MappingScope, Outcome, Search, StepReport};
use crate::{DirectPath, Family, SocketId, Step, Transmit};

/// Ordinary checks get so long before a search begins beside them, where they might be enough.
const HEAD_START: Duration = Duration::from_millis(300);
/// And so long where they cannot.
const SHORT_START: Duration = Duration::from_millis(20);
/// The peer's endpoints that are remembered.
const MAX_KNOWN: usize = 4;
/// When a path is found, the sockets that it does not need are kept so long: the two ends may have found different ones.
const SETTLING: Duration = Duration::from_secs(1);
/// STUN servers asked for the public address of a fresh socket.
const SERVERS: usize = 2;

#[derive(Debug)]
enum Base {
    /// The long-lived socket.
    Main,
    /// One is on its way.
    Opening,
    /// It has no public address yet.
    Asking(SocketId),
    Ready(SocketId),
}

#[derive(Debug)]
enum Stage {
    /// The plan has no search.
    None,
    /// Not before then, and not before all is known that it needs.
    Waiting(Instant),
    Active(Box<Search>),
    Done(StepReport),
}

/// See the module.
#[derive(Debug)]
pub(super) struct PortSearch {
    answers: bool,
    mine: Option<NatSummary>,
    theirs: Option<NatSummary>,
    opening_ttl: Option<u8>,
    samplers: Vec<SocketAddr>,
    step: Option<Step>,
    stage: Stage,
    base: Base,
    asking: Requests<SocketAddr>,
    /// Candidates that wait for the fresh socket.
    postponed: Vec<Candidate>,
    /// The peer's public endpoints.
    known: Vec<SocketAddr>,
    /// Sockets that were opened for this agent.
    own: Vec<SocketId>,
    close_at: Option<Instant>,
    /// What the peer has told before this side's search began.
    early: Option<Prediction>,
    rng: ChaCha8Rng,
}

impl PortSearch {
    pub(super) fn new(plan: &Plan, config: &AgentConfig, now: Instant) -> Self {
        let fresh = config.mine.as_ref().is_some_and(takes_fresh_base);
        let head_start = match (&plan.search, config.remembered) {
            (Some(step), Some(kind)) if step.kind == kind => Duration::ZERO,
            _ if plan.checks < 0.1 => SHORT_START,
            _ => HEAD_START,
        };
        Self {
            answers: config.answers,
            mine: config.mine.clone(),
            theirs: config.theirs.clone(),
            opening_ttl: config.opening_ttl,
            samplers: config.samplers.clone(),
            step: plan.search.clone(),
            stage: match plan.search {
                Some(_) => Stage::Waiting(now + head_start),
                None => Stage::None,
            },
            base: if fresh && !config.samplers.is_empty() {
                Base::Opening
            } else {
                Base::Main
            },
            asking: Requests::new(),
            postponed: Vec::new(),
            known: Vec::new(),
            own: Vec::new(),
            close_at: None,
            early: None,
            rng: ChaCha8Rng::seed_from_u64(config.seed ^ 0x5ea2_c4ed),
        }
    }

    pub(super) fn wants_fresh_base(&self) -> bool {
        matches!(self.base, Base::Opening)
    }

    pub(super) fn theirs(&self) -> Option<&NatSummary> {
        self.theirs.as_ref()
    }

    /// The socket from which a candidate is checked; `None` while it is still being opened.
    pub(super) fn socket_for(&self, candidate: &Candidate) -> Option<SocketId> {
        let family = Family::of(candidate.address.ip());
        if family == Family::V6 || candidate.kind == CandidateKind::Host {
            return Some(SocketId::main(family));
        }
        match self.base {
            Base::Main => Some(SocketId::MAIN_V4),
            Base::Opening => None,
            Base::Asking(socket) | Base::Ready(socket) => Some(socket),
        }
    }

    pub(super) fn postpone(&mut self, candidate: Candidate) {
        if self.postponed.len() < punch_signal_protocol::MAX_CANDIDATES {
            self.postponed.push(candidate);
        }
    }

    /// Takes note of a public endpoint of the peer.
    pub(super) fn learn(&mut self, candidate: &Candidate) {
        let public = candidate.kind == CandidateKind::ServerReflexive
            || matches!(candidate.address.ip(), IpAddr::V4(ip)
                if candidate.kind == CandidateKind::Host && !plan::is_private(ip));
        let allowed = matches!(candidate.address.ip(), IpAddr::V4(ip)
            if plan::may_search(self.mine.as_ref(), ip));
        let fits = public && allowed && self.known.len() < MAX_KNOWN;
        if fits && !self.known.contains(&candidate.address) {
            self.known.push(candidate.address);
        }
    }

    /// Whether this side only opens its own NAT at first (see [`super::DEFERENCE`]).
    pub(super) fn defers_to(&self, candidate: &Candidate) -> bool {
        let nat = |summary: &Option<NatSummary>| {
            summary.as_ref().is_some_and(|nat| {
                nat.mapping == Some(Mapping::EndpointIndependent)
                    && nat.filtering != Some(Filtering::EndpointIndependent)
            })
        };
        self.answers
            && candidate.kind == CandidateKind::ServerReflexive
            && candidate.address.is_ipv4()
            && nat(&self.mine)
            && nat(&self.theirs)
    }

    /// Whether the peer's NAT shows this endpoint only to the server that saw it.
    pub(super) fn is_moving(&self, candidate: &Candidate) -> bool {
        candidate.kind == CandidateKind::ServerReflexive
            && candidate.address.is_ipv4()
            && self.theirs.as_ref().is_some_and(is_hard)
    }

    /// Further public addresses from which a peer's packets may come: the filter must be open for all of them.
    pub(super) fn siblings(&self, candidate: &Candidate) -> Vec<Ipv4Addr> {
        let theirs = self.theirs.as_ref().filter(|theirs| is_hard(theirs));
        match (theirs, candidate.address.ip()) {
            (Some(theirs), IpAddr::V4(ip)) if candidate.kind == CandidateKind::ServerReflexive => {
                let others = theirs.addresses.iter().copied();
                others
                    .filter(|other| *other != ip && plan::may_search(self.mine.as_ref(), *other))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn owns(&self, transaction: TransactionId) -> bool {
        self.asking.contains(transaction)
            || matches!(&self.stage, Stage::Active(search) if search.is_asking(transaction))
    }

    /// Nothing goes on.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::None | Stage::Done(_)) && !matches!(self.base, Base::Opening)
    }

    /// Whether a search has sent this way, so that what comes back is its doing.
    pub(super) fn has_searched(&self, path: DirectPath) -> bool {
        matches!(&self.stage, Stage::Active(search)
            if search.owns(path.socket) && search.has_probed(path.remote))
    }

    /// A search waits for what only the peer could tell.
    pub(super) fn cannot_begin(&self) -> bool {
        let base = matches!(self.base, Base::Main | Base::Ready(_));
        base && matches!(self.stage, Stage::Waiting(_)) && self.ready_at().is_none()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(&self.stage, Stage::Done(report)
            if !matches!(report.outcome, Outcome::Found | Outcome::NotNeeded))
    }

    pub(super) fn report(&self, now: Instant) -> Option<StepReport> {
        match &self.stage {
            Stage::None => None,
            Stage::Waiting(_) => self.step.as_ref().map(|step| StepReport {
                kind: step.kind,
                chance: step.chance,
                typical: step.typical,
                outcome: Outcome::Waiting,
                mappings: 0,
                packets: 0,
                peak_rate: 0,
                refused_sockets: 0,
                took: Duration::ZERO,
            }),
            Stage::Active(search) => Some(search.report(now)),
            Stage::Done(report) => Some(report.clone()),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let stage = match &self.stage {
            Stage::Active(search) => search.poll_timeout(),
            _ => None,
        };
        [stage, self.asking.next_timeout(), self.close_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// When a search may begin as far as this agent is concerned; `None` when none is waiting or something is missing.
    fn ready_at(&self) -> Option<Instant> {
        let Stage::Waiting(at) = self.stage else {
            return None;
        };
        let part = self.step.as_ref()?.part;
        let has_base = matches!(self.base, Base::Main | Base::Ready(_));
        let has_targets = !self.known.is_empty()
            || (!matches!(part, Part::Hold { .. })
                && self
                    .theirs
                    .as_ref()
                    .is_some_and(|nat| !nat.addresses.is_empty()));
        (has_base && has_targets).then_some(at)
    }

    fn ends(&self, fragment: [u8; 8]) -> Ends {
        let candidates = self.known.iter().filter_map(|known| match known.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let theirs = self.theirs.clone().unwrap_or_default();
        let mapping = self.mine.as_ref().and_then(|mine| mine.mapping);
        let filtering = self.mine.as_ref().and_then(|mine| mine.filtering);
        Ends {
            fragment,
            base: match self.base {
                Base::Ready(socket) | Base::Asking(socket) => socket,
                Base::Main | Base::Opening => SocketId::MAIN_V4,
            },
            known: self.known.clone(),
            addresses: plan::targets(self.mine.as_ref(), &theirs, candidates),
            samplers: self.samplers.clone(),
            opening_ttl: self.opening_ttl,
            their_caps: Caps::of(theirs.budget),
            moving: is_hard(&theirs),
            mapping_scope: scope(mapping, filtering),
        }
    }

    fn caps(&self) -> Caps {
        Caps::of(
            self.mine
                .as_ref()
                .map(|mine| mine.budget)
                .unwrap_or_default(),
        )
    }
}

/// What takes room in the router's table: a mapping, or a permission for a destination where it filters; most keep one table.
fn scope(mapping: Option<Mapping>, filtering: Option<Filtering>) -> MappingScope {
    let (mapping, filtering) = (
        mapping.unwrap_or(Mapping::Dependent),
        filtering.unwrap_or(Filtering::AddressAndPortDependent),
    );
    match (mapping, filtering) {
        (Mapping::None | Mapping::EndpointIndependent, Filtering::EndpointIndependent) => {
            MappingScope::Socket
        }
        (
            Mapping::None | Mapping::EndpointIndependent | Mapping::AddressDependent,
            Filtering::EndpointIndependent | Filtering::AddressDependent,
        ) => MappingScope::Address,
        _ => MappingScope::Endpoint,
    }
}

/// Whether the checks of a repeated attempt leave from a fresh socket: only where that has a public endpoint that can be told.
pub fn takes_fresh_base(nat: &NatSummary) -> bool {
    nat.attempt > 0 && nat.mapping == Some(Mapping::EndpointIndependent)
}

impl Agent {
    /// A socket that was asked for is open, or could not be opened.
    pub fn handle_socket(&mut self, socket: Option<SocketId>, now: Instant) {
        self.ports.own.extend(socket);
        if matches!(self.ports.base, Base::Opening) {
            self.take_base(socket, now);
        } else if let Stage::Active(search) = &mut self.ports.stage {
            search.handle_socket(socket, now);
        } else if let Some(socket) = socket {
            // It comes too late.
            self.close_socket(socket);
        }
        self.search(now);
        self.settle_failure();
    }

    /// The peer has told where its sequence of ports stands.
    pub fn handle_prediction(&mut self, prediction: Prediction, now: Instant) {
        if let Stage::Active(search) = &mut self.ports.stage {
            search.handle_prediction(prediction, now);
            self.search(now);
        } else {
            self.ports.early = Some(prediction);
        }
    }

    /// Whether a search could begin now, if the machine's budget allows it.
    pub fn wants_search(&self, now: Instant) -> bool {
        self.selected.is_none() && self.ports.ready_at().is_some_and(|at| at <= now)
    }

    /// When [`Self::wants_search`] will be true, as far as this agent is concerned.
    pub fn search_at(&self) -> Option<Instant> {
        self.ports.ready_at().filter(|_| self.selected.is_none())
    }

    /// Whether a search is under way or may still come.
    pub fn has_search(&self) -> bool {
        self.selected.is_none() && matches!(self.ports.stage, Stage::Waiting(_) | Stage::Active(_))
    }

    /// Whether a search was not made because the budget was spent.
    pub fn was_refused(&self) -> bool {
        matches!(&self.ports.stage, Stage::Done(report) if report.outcome == Outcome::OverBudget)
    }

    /// Whether a search is under way.
    pub fn is_searching(&self) -> bool {
        matches!(self.ports.stage, Stage::Active(_))
    }

    /// Mappings of a search of which no [`AgentEvent::SearchOver`] has told; for an agent that is dropped.
    pub fn untold_mappings(&self) -> u32 {
        match &self.ports.stage {
            Stage::Active(search) => search.mappings(),
            _ => 0,
        }
    }

    /// The search that the plan has, if it has one.
    pub fn planned_search(&self) -> Option<&Step> {
        self.ports.step.as_ref()
    }

    /// There is nothing left of the budget: the search is not made.
    pub fn refuse_search(&mut self, now: Instant) {
        if let Some(mut report) = self.ports.report(now) {
            report.outcome = Outcome::OverBudget;
            self.ports.stage = Stage::Done(report);
        }
        self.settle_failure();
    }

    /// The search may begin, and make so many mappings.
    pub fn start_search(&mut self, allowance: u32, now: Instant) {
        let Some(step) = self.ports.step.clone() else {
            return;
        };
        if !matches!(self.ports.stage, Stage::Waiting(_)) {
            return;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.ports.rng.next_u64());
        let fragment = self.messages.fragment();
        let id = agent_transaction(&fragment, &mut rng);
        let request = self.messages.any_check(id);
        let (caps, ends) = (self.ports.caps(), self.ports.ends(fragment));
        let mut search = Search::new(step, caps, allowance, ends, (id, request), rng, now);
        let wanted = search.start(now);
        if let Some(prediction) = self.ports.early.take() {
            search.handle_prediction(prediction, now);
        }
        self.ports.stage = Stage::Active(Box::new(search));
        if wanted > 0 {
            self.events.push_back(AgentEvent::OpenSockets(wanted));
        }
        self.search(now);
    }

    /// All sockets that were opened for this agent.
    pub fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.ports.own.iter().copied()
    }

    /// Opens this side's NAT for a pair with packets that do not reach the other side's.
    pub(super) fn open_for(&mut self, path: DirectPath, now: Instant) {
        let ttl = self.ports.opening_ttl.unwrap_or(OPENING_TTL);
        let id = self.messages.transaction();
        let bytes = self.messages.any_check(id);
        for _ in 0..2 {
            self.sent_checks += 1;
            self.pace.count(now);
            self.transmits.push_back(Transmit {
                socket: path.socket,
                to: path.remote,
                source: None,
                ttl: Some(ttl),
                bytes: bytes.clone(),
            });
        }
    }

    fn take_base(&mut self, socket: Option<SocketId>, now: Instant) {
        self.ports.base = match socket {
            None => Base::Main,
            Some(socket) => {
                for server in self.ports.samplers.iter().copied().take(SERVERS) {
                    let id = self.messages.transaction();
                    let transmit = Transmit {
                        socket,
                        to: server,
                        source: None,
                        ttl: None,
                        bytes: Writer::new(Class::Request, id).finish(),
                    };
                    let first = self.ports.asking.start(id, transmit, server, 3, now);
                    self.transmits.push_back(first);
                }
                Base::Asking(socket)
            }
        };
        if self.selected.is_some() && socket.is_some() {
            self.ports.close_at = Some(now + SETTLING);
        }
        let postponed = std::mem::take(&mut self.ports.postponed);
        self.add_candidates(&postponed, now);
    }

    /// A response that a STUN server has sent to one of the further sockets; returns whether it was one.
    pub(super) fn handle_server(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        if let Stage::Active(search) = &mut self.ports.stage
            && search.handle_sample(socket, from, message, now)
        {
            self.search(now);
            return true;
        }
        let id = message.transaction;
        let asked = self
            .ports
            .asking
            .answered(id, socket, from, |_| false, now)
            .is_some();
        if asked
            && let (Class::Success, Some(mapped)) = (message.class, message.mapped)
            && mapped.is_ipv4()
            && mapped.port() != 0
            && usable(mapped.ip())
            && let Base::Asking(base) = self.ports.base
        {
            self.ports.base = Base::Ready(base);
            self.events.push_back(AgentEvent::Reflexive(mapped));
        }
        self.settle_base(asked);
        asked
    }

    /// The pair that an answer to the search's request has found.
    pub(super) fn found_pair(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Option<usize> {
        let Stage::Active(search) = &self.ports.stage else {
            return None;
        };
        let ours = search.transaction == message.transaction
            && search.owns(socket)
            && search.has_probed(from)
            && self.messages.is_success(message);
        if !ours {
            return None;
        }
        let known = self.pairs.iter().position(|pair| pair.is(socket, from));
        let index = known.or_else(|| {
            if !self.make_room() {
                // What answers is worth more than what has not.
                let silent = self.pairs.iter().rposition(|pair| !pair.is_valid())?;
                self.pairs.remove(silent);
            }
            let kind = CandidateKind::PeerReflexive;
            let priority = Candidate::new(kind, from).priority();
            let path = DirectPath {
                socket,
                remote: from,
            };
            self.pairs.push(Pair::new(path, kind, priority, now));
            Some(self.pairs.len() - 1)
        })?;
        self.pairs[index].by_search = true;
        self.pairs[index].found(now);
        Some(index)
    }

    /// No server has told the fresh socket's address, and none is left to do so: the peer will see where packets come from.
    fn settle_base(&mut self, ended: bool) {
        if ended
            && self.ports.asking.is_empty()
            && let Base::Asking(base) = self.ports.base
        {
            self.ports.base = Base::Ready(base);
        }
    }

    /// Lets the search do what is due.
    pub(super) fn search(&mut self, now: Instant) {
        let (again, lost) = self.ports.asking.handle_timeout(now);
        self.transmits.extend(again);
        self.settle_base(!lost.is_empty());
        if let Stage::Active(search) = &mut self.ports.stage {
            search.handle_timeout(now, &mut self.pace, &mut self.transmits);
            while let Some(prediction) = search.poll_prediction() {
                self.events.push_back(AgentEvent::Predicted(prediction));
            }
            if search.is_over() {
                let report = search.report(now);
                self.events.push_back(AgentEvent::SearchOver {
                    mappings: report.mappings,
                    found: report.outcome == Outcome::Found,
                });
                self.ports.stage = Stage::Done(report);
                if self.selected.is_none() {
                    self.close_sockets();
                }
            }
        }
        if self.ports.close_at.is_some_and(|at| at <= now) {
            self.ports.close_at = None;
            self.close_sockets();
        }
    }

    /// A path is selected: the search stops, and soon its sockets close.
    pub(super) fn end_search(&mut self, path: DirectPath, now: Instant) {
        let mut pairs = self.pairs.iter();
        // Where checks alone cannot do it, the peer's search may have hit a port that they have opened.
        let by_search =
            self.plan.checks <= 0.0 || pairs.any(|pair| pair.path == path && pair.by_search);
        match &mut self.ports.stage {
            Stage::Active(search) => {
                search.finish(by_search, now);
                self.search(now);
            }
            Stage::Waiting(_) => {
                if let Some(mut report) = self.ports.report(now) {
                    report.outcome = Outcome::NotNeeded;
                    self.ports.stage = Stage::Done(report);
                }
            }
            Stage::None | Stage::Done(_) => {}
        }
        if !self.ports.own.is_empty() {
            self.ports.close_at = Some(now + SETTLING);
        }
    }

    /// Closes all further sockets but that of the path and of pairs that answer while there is no path.
    pub(super) fn close_sockets(&mut self) {
        let keep = |socket: SocketId| match self.selected {
            Some(path) => path.socket == socket,
            None => {
                let mut pairs = self.pairs.iter();
                pairs.any(|pair| pair.path.socket == socket && pair.next_check.is_some())
                    && !self.failed
            }
        };
        let (kept, gone): (Vec<_>, Vec<_>) =
            self.ports.own.iter().partition(|socket| keep(**socket));
        self.ports.own = kept;
        if let Base::Asking(base) | Base::Ready(base) = self.ports.base
            && gone.contains(&base)
        {
            self.ports.base = Base::Main;
            self.ports.asking.clear();
        }
        for socket in gone {
            self.pairs.retain(|pair| pair.path.socket != socket);
            self.events.push_back(AgentEvent::CloseSocket(socket));
        }
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.ports.own.retain(|own| *own != socket);
        self.events.push_back(AgentEvent::CloseSocket(socket));
    }
}
