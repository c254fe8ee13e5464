//! Connectivity checks with one peer, and the path that they select (RFC 8445 §7, §8).
//!
//! Both ends probe every pair; the one that made the offer (controlling) picks among those that answer and names its
//! choice with USE-CANDIDATE in every check on it, so that both ends send over the same path. Checks go on for as long
//! as the agent lives: they are the keepalives, they measure the round trip, and they notice that a path has died.
//!
//! The agent's rooms: `checklist` has the pairs and the path, `nats` what follows from the two NATs,
//! `base` the socket of checks in a repeated attempt, `search` the plan's search for ports, `sockets` what was opened for both,
//! `mtu` how long packets may be on the path, `outputs` the queues, `inherited` what outlives the process.

mod base;
pub(crate) mod checklist;
mod config;
pub(crate) mod inherited;
mod mtu;
mod nats;
mod outputs;
pub(crate) mod outside;
mod patience;
mod search;
mod silence;
mod sockets;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, Prediction};
use punch_stun_protocol::Message;

use crate::address::usable;
use crate::messages::Messages;
use crate::pair::Pair;
use crate::plan::Plan;
use crate::report::{Outcome, StepReport};
use crate::socket::{DirectPath, Family, SocketId, Transmit};
use base::Base;
use checklist::Checklist;
pub use config::AgentConfig;
use mtu::Mtu;
use nats::Nats;
pub use nats::takes_fresh_base;
use outputs::Outputs;
pub use outputs::{AgentEvent, AgentStatus};
use patience::{Patience, SEARCH_PAUSE};
use search::PlannedSearch;
pub(crate) use silence::Silence;
pub use silence::Traffic;
use sockets::Sockets;

/// Between the first checks of two pairs (RFC 8445 §14.2 allows 5 ms).
const FIRST_CHECK_SPACING: Duration = Duration::from_millis(5);
/// How long a check waits for which the budget has no room.
const BUDGET_PAUSE: Duration = Duration::from_millis(50);
/// Opening packets to one candidate: one may be lost.
const OPENING_PACKETS: usize = 2;

/// The checks with one peer under one pair of credentials.
#[derive(Debug)]
pub struct Agent {
    messages: Messages,
    nats: Nats,
    plan: Plan,
    checklist: Checklist,
    base: Base,
    search: PlannedSearch,
    sockets: Sockets,
    mtu: Mtu,
    outputs: Outputs,
    patience: Patience,
    began: Instant,
    /// When the first path was found.
    found: Option<Instant>,
    proven: bool,
    failed: bool,
}

impl Agent {
    /// Starts checking at once.
    pub fn new(config: AgentConfig, now: Instant) -> Self {
        let plan = Plan::new(config.role, config.mine.as_ref(), config.theirs.as_ref());
        let search = PlannedSearch::new(&plan, &config, now);
        let patience = Patience::new(&config, now);
        let nats = Nats::new(config.mine, config.theirs, config.answers, now);
        let base = Base::new(&nats, config.samplers);
        let mut agent = Self {
            messages: Messages::new(config.local, config.remote, config.seed),
            plan,
            checklist: Checklist::new(config.role, config.lifetime),
            base,
            search,
            sockets: Sockets::default(),
            mtu: Mtu::new(config.mtu),
            outputs: Outputs::new(nats.my_caps().rate, now),
            nats,
            patience,
            began: now,
            found: None,
            proven: false,
            failed: false,
        };
        let opening = agent.base.is_opening();
        agent
            .outputs
            .say(opening.then_some(AgentEvent::OpenSockets(1)));
        let mut candidates = config.candidates;
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.priority()));
        agent.add_candidates(&candidates, now);
        agent
    }

    /// The peer has named more candidates.
    pub fn handle_candidates(&mut self, candidates: Vec<Candidate>, now: Instant) {
        // Of a newer peer's candidates there may be none that this agent knows.
        self.failed &= !self.add_candidates(&candidates, now);
    }

    /// Whether the agent has said that it failed, and nothing has happened since that gives it new hope.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// The fragment by which the peer's checks name this agent; see [`crate::receiver_of`].
    pub fn fragment(&self) -> [u8; 8] {
        self.messages.fragment()
    }

    /// Whether a check request with this USERNAME is for this agent (RFC 8445 §7.2.2: `receiver:sender`).
    pub fn is_addressed(&self, username: &[u8]) -> bool {
        self.messages.is_addressed(username)
    }

    /// Whether a response with this transaction answers one of this agent's checks.
    pub fn owns(&self, message: &Message<'_>) -> bool {
        let transaction = message.transaction;
        self.base.is_asking(transaction)
            || self.search.is_asking(transaction)
            || self.checklist.owner_of(transaction).is_some()
            || self.mtu.owns(transaction)
    }

    /// A check request for this agent. Unauthenticated ones get silence.
    pub fn handle_request(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        remote: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        // Probes of one attempt also meet what another one holds: its sockets close with it, and are no path of this one's.
        let own = socket == SocketId::main(Family::of(remote.ip()))
            || self.sockets().any(|own| own == socket);
        if !own || !self.messages.is_request(message) {
            return;
        }
        self.prove(now);
        let answer = self.messages.answer(message.transaction, remote);
        self.outputs.transmits.push_back(Transmit {
            source: local,
            ..Transmit::new(socket, remote, answer)
        });
        let path = DirectPath { socket, remote };
        let by_search = self.search.has_searched(path);
        let checklist = &mut self.checklist;
        let Some(index) = checklist.add_heard(path, message.priority, by_search, now) else {
            return;
        };
        let pair = self.checklist.pair_mut(index);
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
        remote: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        if self.handle_server(socket, remote, message, now) {
            return;
        }
        let path = DirectPath { socket, remote };
        let (mtu, messages) = (&mut self.mtu, &self.messages);
        if mtu.handle_response(path, message, messages, &mut self.outputs, now) {
            return;
        }
        let owner = self.checklist.owner_of(message.transaction);
        let Some(index) = owner.or_else(|| self.found_pair(path, message, now)) else {
            return;
        };
        // RFC 8445 §7.2.5.2.1: an answer from elsewhere shows no path.
        if self.checklist.pairs()[index].path != path || !self.messages.is_success(message) {
            return;
        }
        self.prove(now);
        self.failed = false;
        let jitter = self.messages.jitter();
        self.checklist
            .handle_answer(index, message.transaction, jitter, now);
        self.select(now);
    }

    /// Packets of the tunnel go over the path, in either direction: so many bytes by now.
    pub fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        self.checklist.handle_traffic(traffic, now);
        self.mtu.handle_traffic(now);
    }

    /// Checks the path now instead of at the next keepalive: the peer may be gone.
    pub fn verify_path(&mut self, now: Instant) {
        self.checklist.verify_paths(now);
        self.mtu.doubt(now);
    }

    /// Whether the last check on the path was answered.
    pub fn is_answering(&self) -> bool {
        self.checklist.is_answering()
    }

    /// A socket that was asked for is open, or could not be opened.
    pub fn handle_socket(&mut self, socket: Option<SocketId>, now: Instant) {
        if let Some(socket) = socket {
            self.sockets.add(socket);
        }
        if self.base.is_opening() {
            self.take_base(socket, now);
        } else if !self.search.handle_socket(socket, now)
            && let Some(socket) = socket
        {
            // It comes too late.
            self.sockets.remove(socket);
            self.outputs.say(AgentEvent::CloseSocket(socket));
        }
        self.advance_search(now);
        self.settle_failure();
    }

    /// The peer has told where its sequence of ports stands.
    pub fn handle_prediction(&mut self, prediction: Prediction, now: Instant) {
        self.search.handle_prediction(prediction, now);
        if self.search.is_active() {
            self.advance_search(now);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.checklist.handle_silence(now);
        self.patience.expire(now);
        for index in 0..self.checklist.pairs().len() {
            // A socket that has closed took its pairs along.
            let Some(pair) = self.checklist.pairs().get(index) else {
                break;
            };
            if pair.next_check.is_none_or(|at| at > now) {
                continue;
            }
            if self.patience.is_for(pair) {
                self.wait(index, now);
            } else if pair.exhausted() {
                if self.checklist.give_up(index) {
                    self.select(now);
                    if self.path().is_none() {
                        self.outputs.say(AgentEvent::Lost);
                    }
                }
            } else if self.outputs.pace.room(now) == 0 {
                self.checklist.pair_mut(index).next_check = Some(now + BUDGET_PAUSE);
            } else {
                self.check(index, now);
            }
        }
        let (checklist, outputs) = (&mut self.checklist, &mut self.outputs);
        self.mtu
            .handle_timeout(checklist, &mut self.messages, outputs, now);
        self.advance_search(now);
        self.settle_failure();
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outputs.transmits.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<AgentEvent> {
        self.outputs.poll_event()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [
            self.checklist.next_timeout(),
            self.base.next_timeout(),
            self.search.next_timeout(),
            self.sockets.next_timeout(),
            self.mtu.next_timeout(),
            self.patience.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The path that packets take.
    pub fn path(&self) -> Option<DirectPath> {
        self.checklist.path()
    }

    /// All sockets that were opened for this agent.
    pub fn sockets(&self) -> impl Iterator<Item = SocketId> {
        self.sockets.iter()
    }

    /// What status shows.
    pub fn status(&self, now: Instant) -> AgentStatus {
        AgentStatus {
            selected: self.checklist.selected().map(Pair::status),
            pairs: self.checklist.statuses(),
            steps: self.steps(now),
            theirs: self.nats.theirs().cloned(),
        }
    }

    fn steps(&self, now: Instant) -> Vec<StepReport> {
        let search = self.search.report(now);
        let outcome = Outcome::of_checks(self.found.is_some(), search.as_ref(), self.failed);
        let took = self
            .found
            .unwrap_or(now)
            .saturating_duration_since(self.began);
        let (pairs, sent) = (self.checklist.pairs().len(), self.outputs.checks());
        let checks = StepReport::of_checks(self.plan.checks, outcome, pairs, sent, took);
        [checks].into_iter().chain(search).collect()
    }

    /// Returns whether there is anything new among them.
    fn add_candidates(&mut self, candidates: &[Candidate], now: Instant) -> bool {
        let (mut first_check, mut added) = (now, false);
        let checkable = |at: &&Candidate| at.address.port() != 0 && usable(at.address.ip());
        for candidate in candidates.iter().filter(checkable) {
            let remote = candidate.address;
            let Some(socket) = self.base.socket_for(candidate) else {
                self.base.postpone(*candidate);
                added = true;
                continue;
            };
            self.search.learn(candidate, &self.nats);
            let path = DirectPath { socket, remote };
            let (kind, priority) = (candidate.kind, candidate.priority());
            if self.checklist.index_of(path).is_some() {
                continue;
            }
            let Some(index) = self.checklist.add(Pair::new(path, kind, priority, now)) else {
                continue;
            };
            added = true;
            let chance = self.plan.checks;
            let (first, opens) = self.nats.first_check(candidate, chance, now);
            if opens {
                self.open_for(path, now);
                self.base.handle_opened();
            }
            let first = self.base.first_check(first, opens, now).max(first_check);
            self.checklist.pair_mut(index).next_check = Some(first);
            first_check += FIRST_CHECK_SPACING;
            for address in self.nats.siblings(candidate) {
                let remote = SocketAddr::new(address.into(), remote.port());
                let path = DirectPath { socket, remote };
                let pair = Pair::new(path, kind, priority - 1, first);
                if self.checklist.index_of(path).is_none() && self.checklist.add(pair).is_some() {
                    first_check += FIRST_CHECK_SPACING;
                }
            }
        }
        self.name_base(now);
        added
    }

    /// Tells the peer the fresh socket's public address, if its time has come.
    fn name_base(&mut self, now: Instant) {
        if let Some(address) = self.base.take_name(now) {
            let first = self.nats.first_after_naming(now);
            self.checklist.check_by(self.base.socket(), first);
            self.outputs.say(AgentEvent::Reflexive(address));
        }
    }

    /// The pair that an answer to the search's request has found.
    fn found_pair(
        &mut self,
        path: DirectPath,
        message: &Message<'_>,
        now: Instant,
    ) -> Option<usize> {
        let found = self.search.is_answer(path, message) && self.messages.is_success(message);
        found.then(|| self.checklist.add_found(path, now)).flatten()
    }

    /// A response that a STUN server has sent to one of the further sockets; returns whether it was one.
    fn handle_server(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        if self.search.handle_response(socket, from, message, now) {
            self.advance_search(now);
            return true;
        }
        let asked = self.base.handle_response(socket, from, message, now);
        self.name_base(now);
        asked
    }

    fn take_base(&mut self, socket: Option<SocketId>, now: Instant) {
        let (base, transmits) = (&mut self.base, &mut self.outputs.transmits);
        let postponed = base.handle_socket(socket, &mut self.messages, transmits, now);
        if self.path().is_some() && socket.is_some() {
            self.sockets.close_later(now);
        }
        self.add_candidates(&postponed, now);
    }

    fn prove(&mut self, now: Instant) {
        let first = !std::mem::replace(&mut self.proven, true);
        self.outputs.say(first.then_some(AgentEvent::Proven));
        if self.patience.end() {
            self.checklist.start_over(now);
        }
    }

    /// Keeps this side's NAT open along a pair. What would reach a NAT that does not expect it yet may take its port there.
    fn wait(&mut self, index: usize, now: Instant) {
        let pair = self.checklist.pair_mut(index);
        if self.nats.opens_along(pair) {
            let path = pair.path;
            self.open_for(path, now);
        } else {
            self.check(index, now);
        }
        let pause = self.patience.pause(self.messages.jitter(), now);
        self.checklist.pair_mut(index).next_check = Some(now + pause);
    }

    fn check(&mut self, index: usize, now: Instant) {
        let id = self.messages.transaction();
        let nominate = self.checklist.nominates(index);
        let pair = self.checklist.pair_mut(index);
        pair.sent(id, now, self.messages.jitter());
        let (path, bytes) = (pair.path, self.messages.check(id, pair.worth(), nominate));
        let transmit = Transmit::new(path.socket, path.remote, bytes);
        self.outputs.check(transmit, now);
    }

    /// Opens this side's NAT for a pair with packets that do not reach the other side's.
    fn open_for(&mut self, path: DirectPath, now: Instant) {
        let id = self.messages.transaction();
        let bytes = self.messages.any_check(id);
        let transmit = Transmit {
            ttl: Some(self.search.opening_ttl()),
            ..Transmit::new(path.socket, path.remote, bytes)
        };
        for _ in 0..OPENING_PACKETS {
            self.outputs.check(transmit.clone(), now);
        }
    }

    /// Picks the path among the pairs that answer.
    fn select(&mut self, now: Instant) {
        let Some(best) = self.checklist.select() else {
            return;
        };
        self.found.get_or_insert(now);
        if !self.checklist.needs_better() {
            self.end_search(best, now);
        }
        self.outputs.say(AgentEvent::Selected(best));
        // Names the choice to the peer, or makes sure that a path which served as reserve is still alive.
        if let Some(index) = self.checklist.index_of(best) {
            self.check(index, now);
        }
        self.mtu.follow(Some(best), now);
    }

    /// Whether a search could begin now, if the machine's budget allows it.
    pub fn wants_search(&self, now: Instant) -> bool {
        self.search_at().is_some_and(|at| at <= now)
    }

    /// When [`Self::wants_search`] will be true, as far as this agent is concerned.
    pub fn search_at(&self) -> Option<Instant> {
        let needed = self.checklist.needs_better() && self.base.is_settled();
        self.search.ready_at(&self.nats).filter(|_| needed)
    }

    /// Whether a search is under way or may still come.
    pub fn has_search(&self) -> bool {
        self.checklist.needs_better() && (self.search.is_waiting() || self.search.is_active())
    }

    /// There is nothing left of the budget: the search is not made.
    pub fn refuse_search(&mut self, now: Instant) {
        self.search.cancel(Outcome::OverBudget, now);
        self.settle_failure();
    }

    /// The search may begin, and make so many mappings.
    pub fn start_search(&mut self, allowance: u32, now: Instant) {
        if !self.search.is_waiting() {
            return;
        }
        let (base, nats) = (self.base.socket(), &self.nats);
        let wanted = self
            .search
            .start(allowance, base, nats, &self.messages, now);
        let orders = (wanted > 0).then_some(AgentEvent::OpenSockets(wanted));
        self.outputs.say(orders);
        self.advance_search(now);
    }

    /// Lets the search and the fresh socket do what is due.
    fn advance_search(&mut self, now: Instant) {
        let again = self.base.handle_timeout(now);
        self.outputs.transmits.extend(again);
        self.name_base(now);
        let sockets = &mut self.sockets;
        let ended = self.search.handle_timeout(now, sockets, &mut self.outputs);
        let in_vain = ended && self.checklist.needs_better();
        if in_vain && self.patience.is_on() {
            self.search.wait_until(now + SEARCH_PAUSE);
        }
        if self.sockets.take_close(now) || in_vain {
            self.close_sockets();
        }
    }

    /// A path is selected: the search stops, and soon its sockets close.
    fn end_search(&mut self, path: DirectPath, now: Instant) {
        // Where checks alone cannot do it, the peer's search may have hit a port that they have opened.
        let mut pairs = self.checklist.pairs().iter();
        let hit = pairs.any(|pair| pair.path == path && pair.by_search);
        let by_search = hit || self.plan.checks <= 0.0;
        let was_active = self.search.is_active();
        self.search.finish(by_search, now);
        if was_active {
            self.advance_search(now);
        }
        self.sockets.close_later(now);
    }

    /// Says that nothing has answered, once nothing can any more.
    fn settle_failure(&mut self) {
        let pairs = self.checklist.pairs();
        let checked = pairs.iter().all(|pair| pair.next_check.is_none());
        // Where checks alone can do little, the last of them need not be waited for.
        let tried = self.search.has_failed() && pairs.iter().all(Pair::had_its_time);
        let idle = self.search.is_over() && self.base.is_settled();
        // A search waits for what only the peer could tell.
        let cannot_begin = self.base.is_settled()
            && self.search.is_waiting()
            && self.search.ready_at(&self.nats).is_none();
        let over = idle || (checked && cannot_begin);
        let waits = self.patience.is_on();
        if (checked || tried) && over && !waits && !self.failed && self.path().is_none() {
            self.failed = true;
            self.close_sockets();
            self.outputs.say(AgentEvent::Failed);
        }
    }

    /// Closes all further sockets but that of the path and of pairs that answer while there is no path.
    fn close_sockets(&mut self) {
        let (path, failed) = (self.path(), self.failed);
        let checked = |socket| !failed && self.checklist.has_checks_from(socket);
        let gone = self
            .sockets
            .keep(|socket| path.map_or_else(|| checked(socket), |path| path.socket == socket));
        self.base.handle_closed(&gone);
        self.checklist.remove_sockets(&gone);
        for socket in gone {
            self.outputs.close(socket);
        }
    }
}
