//! Connectivity checks with one peer, and the path that they select (RFC 8445 §7, §8).
//!
//! Both ends probe every pair; the one that made the offer (controlling) picks among those that answer and names its
//! choice with USE-CANDIDATE in every check on it, so that both ends send over the same path. Checks go on for as long
//! as the agent lives: they are the keepalives, they measure the round trip, and they notice that a path has died.

mod messages;
mod ports;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials, NatSummary, Prediction};
use punch_stun_protocol::Message;

use crate::gather::usable;
use crate::pace::Pace;
use crate::pair::{Pair, PairStatus, State};
use crate::search::{Outcome, StepReport};
use crate::{Caps, DirectPath, Family, Plan, SocketId, StepKind, Transmit};
use messages::Messages;
use ports::PortSearch;
pub use ports::takes_fresh_base;

/// More pairs than this are not tried; an authenticated peer that moves on takes the place of one that failed.
pub const MAX_PAIRS: usize = 48;
/// Between the first checks of two pairs (RFC 8445 §14.2 allows 5 ms).
const PACING: Duration = Duration::from_millis(5);
/// A check for which the budget has no room waits for so long.
const PAUSE: Duration = Duration::from_millis(50);
/// Keepalive of an idle path, at the most; six tenths of the mapping's lifetime where that is known.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// And at the least.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(4);
/// Keepalive where the lifetime is not known: some NATs forget after 15 s.
const CAREFUL_KEEPALIVE: Duration = Duration::from_secs(12);
/// The one who answers lets the other's checks come first for so long: its own would reach the other's NAT before that has a
/// mapping, and some NATs then give the mapping that comes after another port.
const DEFERENCE: Duration = Duration::from_millis(250);
/// Check interval while traffic flows.
const ACTIVE: Duration = Duration::from_secs(3);
/// Traffic "flows" for this long after the last packet.
const ACTIVITY: Duration = Duration::from_secs(6);
/// An endpoint that a NAT has shown only to the server that saw it is checked this late: it costs a mapping, and leads
/// nowhere unless the profile is wrong.
const AFTERTHOUGHT: Duration = Duration::from_secs(2);

/// Who picks the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one who made the offer.
    Controlling,
    /// The one who answered it.
    Controlled,
}

/// What an agent has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The peer has proven, for the first time, that it holds this exchange's credentials.
    Proven,
    /// Packets go this way from now on.
    Selected(DirectPath),
    /// The path died and no other answers.
    Lost,
    /// Nothing that could be tried has answered.
    Failed,
    /// So many sockets are needed: each is answered with [`Agent::handle_socket`].
    OpenSockets(usize),
    /// This socket is no longer needed.
    CloseSocket(SocketId),
    /// A fresh socket has this public address: the peer must hear of it.
    Reflexive(SocketAddr),
    /// The peer must hear where this side's sequence of ports stands.
    Predicted(Prediction),
    /// A search is over.
    SearchOver {
        /// Mappings that it has made.
        mappings: u32,
        /// Whether it has found the path.
        found: bool,
    },
}

/// What an agent is made from.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Who picks the path.
    pub role: Role,
    /// Whether this side hears of the other's candidates first, as the one who answers does.
    pub answers: bool,
    /// This side's credentials.
    pub local: Credentials,
    /// The peer's.
    pub remote: Credentials,
    /// Where the peer may be reached.
    pub candidates: Vec<Candidate>,
    /// What the peer was told of this side's NAT.
    pub mine: Option<NatSummary>,
    /// What the peer has told of its own.
    pub theirs: Option<NatSummary>,
    /// How far an opening packet must go, if that was measured.
    pub opening_ttl: Option<u8>,
    /// How long an unused mapping lives, if that was measured.
    pub lifetime: Option<Duration>,
    /// STUN servers that answer, over IPv4.
    pub samplers: Vec<SocketAddr>,
    /// What worked last time between these two networks.
    pub remembered: Option<StepKind>,
    /// Randomness.
    pub seed: u64,
}

/// What status shows of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentStatus {
    /// The selected path and its kind and round trip.
    pub selected: Option<PairStatus>,
    /// All pairs.
    pub pairs: Vec<PairStatus>,
    /// What was and is tried, in order.
    pub steps: Vec<StepReport>,
    /// What the peer has told of its NAT.
    pub theirs: Option<NatSummary>,
}

/// The checks with one peer under one pair of credentials.
#[derive(Debug)]
pub struct Agent {
    role: Role,
    messages: Messages,
    plan: Plan,
    ports: PortSearch,
    keepalive: Duration,
    began: Instant,
    /// When the first path was found.
    found: Option<Instant>,
    sent_checks: u32,
    pace: Pace,
    pairs: Vec<Pair>,
    selected: Option<DirectPath>,
    proven: bool,
    failed: bool,
    last_traffic: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<AgentEvent>,
}

impl Agent {
    /// Starts checking at once.
    pub fn new(config: AgentConfig, now: Instant) -> Self {
        let plan = Plan::new(config.role, config.mine.as_ref(), config.theirs.as_ref());
        let keepalive = config.lifetime.map_or(CAREFUL_KEEPALIVE, |lifetime| {
            lifetime.mul_f64(0.6).clamp(SHORTEST_KEEPALIVE, KEEPALIVE)
        });
        let budget = config.mine.as_ref().map(|mine| mine.budget);
        let rate = Caps::of(budget.unwrap_or_default()).rate;
        let mut agent = Self {
            role: config.role,
            messages: Messages::new(config.local.clone(), config.remote.clone(), config.seed),
            ports: PortSearch::new(&plan, &config, now),
            plan,
            keepalive,
            began: now,
            found: None,
            sent_checks: 0,
            pace: Pace::new(rate, now),
            pairs: Vec::new(),
            selected: None,
            proven: false,
            failed: false,
            last_traffic: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        if agent.ports.wants_fresh_base() {
            agent.events.push_back(AgentEvent::OpenSockets(1));
        }
        let mut candidates = config.candidates;
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority()));
        agent.add_candidates(&candidates, now);
        agent
    }

    /// The peer has named more candidates.
    pub fn handle_candidates(&mut self, candidates: Vec<Candidate>, now: Instant) {
        self.failed = false;
        self.add_candidates(&candidates, now);
    }

    /// The fragment by which the peer's checks name this agent; see [`crate::receiver_of`] and [`crate::transaction_prefix`].
    pub fn fragment(&self) -> [u8; 8] {
        self.messages.fragment()
    }

    /// Whether a check request with this USERNAME is for this agent (RFC 8445 §7.2.2: `receiver:sender`).
    pub fn is_addressed(&self, username: &[u8]) -> bool {
        self.messages.is_addressed(username)
    }

    /// Whether a response with this transaction answers one of this agent's checks.
    pub fn owns(&self, message: &Message<'_>) -> bool {
        self.ports.owns(message.transaction)
            || self.pairs.iter().any(|pair| pair.owns(message.transaction))
    }

    /// A check request for this agent. Unauthenticated ones get silence.
    pub fn handle_request(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        // Probes of one attempt also meet what another one holds: its sockets close with it, and are no path of this one's.
        let own = socket == SocketId::main(Family::of(from.ip()))
            || self.sockets().any(|own| own == socket);
        if !own || !self.messages.is_request(message) {
            return;
        }
        self.prove();
        self.transmits.push_back(Transmit {
            socket,
            to: from,
            source: local,
            ttl: None,
            bytes: self.messages.answer(message.transaction, from),
        });
        let index = match self.pairs.iter().position(|pair| pair.is(socket, from)) {
            Some(index) => index,
            None => {
                let kind = CandidateKind::PeerReflexive;
                let priority = message
                    .priority
                    .unwrap_or_else(|| Candidate::new(kind, from).priority());
                let path = DirectPath {
                    socket,
                    remote: from,
                };
                if !self.make_room() {
                    return;
                }
                let mut pair = Pair::new(path, kind, priority, now);
                pair.by_search = self.ports.has_searched(path);
                self.pairs.push(pair);
                self.pairs.len() - 1
            }
        };
        let pair = &mut self.pairs[index];
        if message.nominated {
            pair.nominated = Some(now);
        }
        // A triggered check (RFC 8445 §7.3.1.4): what has just opened our NAT's filter will let the answer in.
        if !pair.is_valid() {
            if pair.exhausted() {
                pair.start_over(now);
            }
            if pair.is_triggered(now) {
                self.check(index, now);
            }
        }
        self.select(now);
    }

    /// A response to one of this agent's checks.
    pub fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        if self.handle_server(socket, from, message, now) {
            return;
        }
        let owner = self
            .pairs
            .iter()
            .position(|pair| pair.owns(message.transaction))
            .or_else(|| self.found_pair(socket, from, message, now));
        let Some(index) = owner else { return };
        // RFC 8445 §7.2.5.2.1: an answer from elsewhere shows no path.
        if !self.pairs[index].is(socket, from) || !self.messages.is_success(message) {
            return;
        }
        self.prove();
        self.failed = false;
        self.pairs[index].answered(message.transaction, now);
        let chosen = self.selected == Some(self.pairs[index].path);
        self.pairs[index].next_check = Some(now + self.interval(chosen, now));
        self.select(now);
    }

    /// Packets of the tunnel go over the path, in either direction.
    pub fn handle_traffic(&mut self, now: Instant) {
        let flowing = self.is_active(now);
        self.last_traffic = Some(now);
        if flowing {
            return;
        }
        // From keepalives to the close watch that traffic deserves.
        let selected = self.selected;
        for pair in &mut self.pairs {
            if Some(pair.path) == selected {
                pair.next_check = pair.next_check.map(|at| at.min(now + ACTIVE));
            }
        }
    }

    /// Checks the path now instead of at the next keepalive: the peer may be gone.
    pub fn verify_path(&mut self, now: Instant) {
        let selected = self.selected;
        for pair in &mut self.pairs {
            // Where a check is open already, a second one in haste would only count as one more without an answer.
            if Some(pair.path) == selected && pair.state == (State::Valid { unanswered: 0 }) {
                pair.next_check = Some(now);
            }
        }
    }

    /// Whether the last check on the path was answered.
    pub fn is_answering(&self) -> bool {
        self.pairs.iter().any(|pair| {
            Some(pair.path) == self.selected && pair.state == State::Valid { unanswered: 0 }
        })
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for index in 0..self.pairs.len() {
            if self.pairs[index].next_check.is_none_or(|at| at > now) {
                continue;
            }
            if self.pairs[index].exhausted() {
                self.pairs[index].give_up();
                if self.selected == Some(self.pairs[index].path) {
                    self.selected = None;
                    self.select(now);
                    if self.selected.is_none() {
                        self.events.push_back(AgentEvent::Lost);
                    }
                }
            } else if self.pace.room(now) == 0 {
                self.pairs[index].next_check = Some(now + PAUSE);
            } else {
                self.check(index, now);
            }
        }
        self.search(now);
        self.settle_failure();
    }

    /// Says that nothing has answered, once nothing can any more.
    fn settle_failure(&mut self) {
        let checked = self.pairs.iter().all(|pair| pair.next_check.is_none());
        // Where checks alone can do little, the last of them need not be waited for.
        let tried = self.ports.has_failed() && self.pairs.iter().all(Pair::had_its_time);
        let over = self.ports.is_idle() || (checked && self.ports.cannot_begin());
        if (checked || tried) && over && !self.failed && self.selected.is_none() {
            self.failed = true;
            self.close_sockets();
            self.events.push_back(AgentEvent::Failed);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let checks = self.pairs.iter().filter_map(|pair| pair.next_check);
        checks.chain(self.ports.poll_timeout()).min()
    }

    /// The path that packets take.
    pub fn path(&self) -> Option<DirectPath> {
        self.selected
    }

    /// The smoothed round trip of the path.
    pub fn round_trip(&self) -> Option<Duration> {
        let pair = self
            .pairs
            .iter()
            .find(|pair| Some(pair.path) == self.selected);
        pair.and_then(|pair| pair.rtt)
    }

    /// What status shows.
    pub fn status(&self, now: Instant) -> AgentStatus {
        let show = |pair: &Pair| PairStatus {
            remote: pair.path.remote,
            kind: pair.kind,
            valid: pair.is_valid(),
            rtt: pair.rtt,
        };
        AgentStatus {
            selected: self
                .pairs
                .iter()
                .find(|pair| Some(pair.path) == self.selected)
                .map(show),
            pairs: self.pairs.iter().map(show).collect(),
            steps: self.steps(now),
            theirs: self.ports.theirs().cloned(),
        }
    }

    fn steps(&self, now: Instant) -> Vec<StepReport> {
        let search = self.ports.report(now);
        let by_search = search.as_ref().is_some_and(|s| s.outcome == Outcome::Found);
        let outcome = match (self.found, self.failed) {
            (Some(_), _) if by_search => Outcome::Exhausted,
            (Some(_), _) => Outcome::Found,
            (None, true) => Outcome::Exhausted,
            (None, false) => Outcome::Running,
        };
        let until = self.found.unwrap_or(now);
        let checks = StepReport {
            kind: StepKind::Checks,
            chance: self.plan.checks,
            typical: Duration::from_millis(100),
            outcome,
            mappings: u32::try_from(self.pairs.len()).unwrap_or(u32::MAX),
            packets: self.sent_checks,
            peak_rate: 0,
            refused_sockets: 0,
            took: until.saturating_duration_since(self.began),
        };
        [checks].into_iter().chain(search).collect()
    }

    fn add_candidates(&mut self, candidates: &[Candidate], now: Instant) {
        let mut first_check = now;
        for candidate in candidates {
            let remote = candidate.address;
            if remote.port() == 0 || !usable(remote.ip()) {
                continue;
            }
            let Some(socket) = self.ports.socket_for(candidate) else {
                self.ports.postpone(*candidate);
                continue;
            };
            self.ports.learn(candidate);
            let known = self.pairs.iter().any(|pair| pair.is(socket, remote));
            if known || !self.make_room() {
                continue;
            }
            let path = DirectPath { socket, remote };
            let mut first = first_check;
            if self.ports.defers_to(candidate) {
                first = now + DEFERENCE;
                self.open_for(path, now);
            } else if self.plan.checks < 0.1 && self.ports.is_moving(candidate) {
                first = now + AFTERTHOUGHT;
            }
            let pair = Pair::new(path, candidate.kind, candidate.priority(), first);
            self.pairs.push(pair);
            first_check += PACING;
            for address in self.ports.siblings(candidate) {
                let path = DirectPath {
                    socket,
                    remote: SocketAddr::new(address.into(), remote.port()),
                };
                let known = self.pairs.iter().any(|pair| pair.path == path);
                if !known && self.make_room() {
                    let pair =
                        Pair::new(path, candidate.kind, candidate.priority() - 1, first_check);
                    self.pairs.push(pair);
                    first_check += PACING;
                }
            }
        }
    }

    /// Whether there is room for one more pair, if need be in place of one that failed.
    fn make_room(&mut self) -> bool {
        if self.pairs.len() < MAX_PAIRS {
            return true;
        }
        let failed = self.pairs.iter().position(|pair| pair.next_check.is_none());
        failed.map(|index| self.pairs.remove(index)).is_some()
    }

    fn prove(&mut self) {
        if !self.proven {
            self.proven = true;
            self.events.push_back(AgentEvent::Proven);
        }
    }

    fn check(&mut self, index: usize, now: Instant) {
        let id = self.messages.transaction();
        let jitter = self.messages.jitter();
        let pair = &mut self.pairs[index];
        let nominate = self.role == Role::Controlling && self.selected == Some(pair.path);
        self.sent_checks += 1;
        self.pace.count(now);
        pair.sent(id, now, jitter);
        self.transmits.push_back(Transmit {
            socket: pair.path.socket,
            to: pair.path.remote,
            source: None,
            ttl: None,
            bytes: self.messages.check(id, pair.path.remote, nominate),
        });
    }

    /// Picks the path among the pairs that answer.
    fn select(&mut self, now: Instant) {
        let valid = || self.pairs.iter().filter(|pair| pair.is_valid());
        let named = valid()
            .filter(|pair| self.role == Role::Controlled && pair.nominated.is_some())
            .max_by_key(|pair| pair.nominated);
        // Every pair is measured against the fastest one: "clearly slower" is not transitive, and comparing pairs with each
        // other would go round in circles.
        let fastest = valid().filter_map(|pair| pair.rtt).min();
        let best = named.or_else(|| {
            valid()
                .filter(|pair| !pair.is_clearly_slower_than(fastest))
                .max_by_key(|pair| (pair.priority, Some(pair.path) == self.selected))
        });
        let Some(best) = best.map(|pair| pair.path) else {
            return;
        };
        if self.selected == Some(best) {
            return;
        }
        self.selected = Some(best);
        self.found.get_or_insert(now);
        self.end_search(best, now);
        self.events.push_back(AgentEvent::Selected(best));
        // Names the choice to the peer, or makes sure that a path which served as reserve is still alive.
        if let Some(index) = self.pairs.iter().position(|pair| pair.path == best) {
            self.check(index, now);
        }
    }

    fn is_active(&self, now: Instant) -> bool {
        self.last_traffic
            .is_some_and(|at| now.saturating_duration_since(at) < ACTIVITY)
    }

    fn interval(&mut self, chosen: bool, now: Instant) -> Duration {
        let interval = if chosen && self.is_active(now) {
            ACTIVE
        } else {
            self.keepalive
        };
        let jitter = self.messages.jitter();
        interval.mul_f64(0.9 + 0.1 * jitter)
    }
}
