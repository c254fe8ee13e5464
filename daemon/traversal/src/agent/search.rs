//! The search for ports that the plan has: it waits for its time and its targets, runs, and is over.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Prediction};
use punch_stun_protocol::{Message, TransactionId};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::config::AgentConfig;
use super::nats::Nats;
use super::outputs::{AgentEvent, Outputs};
use super::patience::SEARCH_DELAY;
use super::sockets::Sockets;
use crate::address::is_private;
use crate::canary::{Canary, Verdict};
use crate::messages::Messages;
use crate::plan::{OPENING_TTL, Part, Plan, Step};
use crate::report::{Outcome, StepReport};
use crate::request::transaction;
use crate::search::{Allowance, Ends, Search};
use crate::socket::{DirectPath, SocketId};

/// The head start of ordinary checks before a search, where they might be enough.
const HEAD_START: Duration = Duration::from_millis(300);
/// The head start where ordinary checks cannot succeed.
const SHORT_HEAD_START: Duration = Duration::from_millis(20);
/// The canary that is under way when a search has made its last mapping, and the one that looks what this has done.
const LAST_CANARIES: u32 = 2;
/// A search that had made fewer mappings than this when others last got theirs says nothing of how many there are: they may hold
/// all the rest, and its first canaries are so far apart that it may itself have made hundreds between them.
const MIN_GRANTED: u32 = 64;
/// The peer's endpoints that are remembered.
const MAX_KNOWN: usize = 4;
/// What the search's seed differs in from the agent's.
const SEED: u64 = 0x5ea2_c4ed;

#[derive(Debug)]
enum Stage {
    /// The plan has no search.
    None,
    /// The search begins at this time at the earliest, and once everything that it needs is known.
    Waiting(Instant),
    /// The search is under way, and watched.
    Active(Box<Watched>),
    /// The search is over, or was not made.
    Done(StepReport),
}

/// A search under way, and the canary that watches it if there is a server to ask.
#[derive(Debug)]
struct Watched {
    search: Search,
    canary: Option<Canary>,
}

impl Watched {
    /// Does what is due, in the search only as far as the canary lets it.
    fn handle_timeout(&mut self, now: Instant, outputs: &mut Outputs) {
        let search = &mut self.search;
        let Some(canary) = &mut self.canary else {
            search.handle_timeout(now, &mut outputs.pace, &mut outputs.transmits);
            return;
        };
        canary.handle_timeout(search.is_sending(now), search.mappings(), now);
        match canary.verdict() {
            Some(Verdict::UsedUp) => search.stop(Outcome::PortsUsedUp, now),
            Some(Verdict::Unheard) => search.stop(Outcome::Unwatched, now),
            None => {}
        }
        search.hold_back(canary.holds_back(), now);
        if let Some(at) = search.stage_ended()
            && canary.is_heard_since(at)
        {
            search.begin_stage(now);
        }
        search.handle_timeout(now, &mut outputs.pace, &mut outputs.transmits);
        for transmit in canary.take_transmits() {
            let fresh = transmit.socket != SocketId::MAIN_V4;
            search.count_canary(&mut outputs.pace, fresh, now);
            outputs.transmits.push_back(transmit);
        }
        if search.is_over() {
            canary.stop();
        }
        let wanted = canary.take_wanted();
        if wanted > 0 {
            outputs.say(AgentEvent::OpenSockets(wanted));
        }
    }
}

/// The search that an agent's plan has, if it has one.
#[derive(Debug)]
pub(super) struct PlannedSearch {
    step: Option<Step>,
    stage: Stage,
    /// The peer's public endpoints.
    known: Vec<SocketAddr>,
    samplers: Vec<SocketAddr>,
    opening_ttl: u8,
    /// What the peer has told before this side's search began.
    early: Option<Prediction>,
    rng: ChaCha8Rng,
}

impl PlannedSearch {
    pub(super) fn new(plan: &Plan, config: &AgentConfig, now: Instant) -> Self {
        let head_start = match (&plan.search, config.remembered) {
            (Some(step), Some(kind)) if step.kind == kind => Duration::ZERO,
            _ if plan.checks < 0.1 => SHORT_HEAD_START,
            _ => HEAD_START,
        };
        let late = config.answers && config.patience.is_some();
        let head_start = if late {
            head_start + SEARCH_DELAY
        } else {
            head_start
        };
        Self {
            step: plan.search.clone(),
            stage: match (&plan.search, &plan.withheld) {
                (Some(_), _) => Stage::Waiting(now + head_start),
                (None, Some((step, why))) => Stage::Done(StepReport::new(step, (*why).into())),
                (None, None) => Stage::None,
            },
            known: Vec::new(),
            samplers: config.samplers.clone(),
            opening_ttl: config.opening_ttl.unwrap_or(OPENING_TTL),
            early: None,
            rng: ChaCha8Rng::seed_from_u64(config.seed ^ SEED),
        }
    }

    /// What is searched for, and how.
    pub(super) fn step(&self) -> Option<&Step> {
        self.step.as_ref()
    }

    /// The TTL of opening packets.
    pub(super) fn opening_ttl(&self) -> u8 {
        self.opening_ttl
    }

    /// Takes note of a public endpoint of the peer.
    pub(super) fn learn(&mut self, candidate: &Candidate, nats: &Nats) {
        let IpAddr::V4(ip) = candidate.address.ip() else {
            return;
        };
        let public = candidate.kind == CandidateKind::ServerReflexive
            || (candidate.kind == CandidateKind::Host && !is_private(ip));
        let fits = public && nats.may_search(ip) && self.known.len() < MAX_KNOWN;
        if fits && !self.known.contains(&candidate.address) {
            self.known.push(candidate.address);
        }
    }

    /// Whether no search is under way or to come.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::None | Stage::Done(_))
    }

    /// Whether a search is under way.
    pub(super) fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Active(_))
    }

    /// Whether a search is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    /// Whether a search is over and has found no path, though one was needed.
    pub(super) fn has_failed(&self) -> bool {
        matches!(&self.stage, Stage::Done(report)
            if !matches!(report.outcome, Outcome::Found | Outcome::NotNeeded))
    }

    /// Whether the search was not made because the budget was spent.
    pub(super) fn was_refused(&self) -> bool {
        matches!(&self.stage, Stage::Done(report) if report.outcome == Outcome::OverBudget)
    }

    /// Mappings that a search under way has made.
    pub(super) fn mappings(&self) -> u32 {
        match &self.stage {
            Stage::Active(watched) => watched.search.mappings(),
            Stage::None | Stage::Waiting(_) | Stage::Done(_) => 0,
        }
    }

    /// Whether a response with this transaction is for the search.
    pub(super) fn is_asking(&self, transaction: TransactionId) -> bool {
        matches!(&self.stage, Stage::Active(watched) if watched.search.is_asking(transaction)
            || watched.canary.as_ref().is_some_and(|canary| canary.is_asking(transaction)))
    }

    /// Whether a search under way has sent along this path, so that what comes back is its doing.
    pub(super) fn has_searched(&self, path: DirectPath) -> bool {
        matches!(&self.stage, Stage::Active(watched)
            if watched.search.owns(path.socket) && watched.search.has_probed(path.remote))
    }

    /// Whether a response along this path answers the request that a search under way repeats.
    pub(super) fn is_answer(&self, path: DirectPath, message: &Message<'_>) -> bool {
        matches!(&self.stage, Stage::Active(watched) if watched.search.is_request(message.transaction))
            && self.has_searched(path)
    }

    /// What is known of the search, and what it has cost.
    pub(super) fn report(&self, now: Instant) -> Option<StepReport> {
        match &self.stage {
            Stage::None => None,
            Stage::Waiting(_) => {
                let step = self.step.as_ref();
                step.map(|step| StepReport::new(step, Outcome::Waiting))
            }
            Stage::Active(watched) => Some(watched.search.report(now)),
            Stage::Done(report) => Some(report.clone()),
        }
    }

    /// When a search may begin as far as its time and its targets are concerned; `None` if none waits or there is no target.
    pub(super) fn ready_at(&self, nats: &Nats) -> Option<Instant> {
        let Stage::Waiting(at) = self.stage else {
            return None;
        };
        let holds = matches!(self.step.as_ref()?.part, Part::Hold { .. });
        let has_targets = !self.known.is_empty() || (!holds && nats.has_addresses());
        has_targets.then_some(at)
    }

    /// The addresses to which the search sends, or would.
    pub(super) fn targets(&self, nats: &Nats) -> Vec<Ipv4Addr> {
        let known = self.known.iter().filter_map(|known| match known.ip() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        nats.targets(known)
    }

    /// Begins the search, which may make `allowance` mappings; returns how many sockets it wants.
    pub(super) fn start(
        &mut self,
        allowance: u32,
        base: SocketId,
        nats: &Nats,
        messages: &Messages,
        now: Instant,
    ) -> usize {
        let Some(step) = self.step.clone().filter(|_| self.is_waiting()) else {
            return 0;
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.rng.next_u64());
        let id = transaction(&mut rng);
        let request = messages.any_check(id);
        let ends = Ends {
            base,
            known: self.known.clone(),
            addresses: self.targets(nats),
            samplers: self.samplers.clone(),
            opening_ttl: self.opening_ttl,
            their_caps: nats.their_caps(),
            moving: nats.is_peer_hard(),
            mapping_scope: nats.mapping_scope(),
        };
        let caps = nats.my_caps();
        let seed = ChaCha8Rng::seed_from_u64(self.rng.next_u64());
        let canary = Canary::new(self.samplers.clone(), seed, now);
        let allowance = allowance.min(nats.my_limit());
        let first = nats.first_stage().min(allowance);
        let allowance = Allowance {
            // Without a canary nobody would see what more than that does to others.
            all: if canary.is_some() { allowance } else { first },
            first,
            last_canaries: if canary.is_some() { LAST_CANARIES } else { 0 },
        };
        let mut search = Search::new(step, caps, allowance, ends, (id, request), rng, now);
        let wanted = search.start(now);
        search.hold_back(canary.is_some(), now);
        if let Some(prediction) = self.early.take() {
            search.handle_prediction(prediction, now);
        }
        self.stage = Stage::Active(Box::new(Watched { search, canary }));
        wanted
    }

    /// The search begins then at the earliest, or begins once more if it is over.
    pub(super) fn wait_until(&mut self, at: Instant) {
        if matches!(self.stage, Stage::Waiting(_) | Stage::Done(_)) {
            self.stage = Stage::Waiting(at);
        }
    }

    /// The search is not made, for this reason.
    pub(super) fn cancel(&mut self, why: Outcome, now: Instant) {
        if let Some(mut report) = self.report(now) {
            report.outcome = why;
            self.stage = Stage::Done(report);
        }
    }

    /// A path is selected; `found` tells whether the search has found it.
    pub(super) fn finish(&mut self, found: bool, now: Instant) {
        match &mut self.stage {
            Stage::Active(watched) => watched.search.finish(found, now),
            Stage::Waiting(_) => self.cancel(Outcome::NotNeeded, now),
            Stage::None | Stage::Done(_) => {}
        }
    }

    /// A socket that was asked for is open, or could not be opened; returns whether it was for the search.
    pub(super) fn handle_socket(&mut self, socket: Option<SocketId>, now: Instant) -> bool {
        match &mut self.stage {
            Stage::Active(watched) => {
                let canary = watched.canary.as_mut();
                if !canary.is_some_and(|canary| canary.handle_socket(socket, now)) {
                    watched.search.handle_socket(socket, now);
                }
                true
            }
            Stage::None | Stage::Waiting(_) | Stage::Done(_) => false,
        }
    }

    /// The peer has told where its sequence of ports stands.
    pub(super) fn handle_prediction(&mut self, prediction: Prediction, now: Instant) {
        match &mut self.stage {
            Stage::Active(watched) => watched.search.handle_prediction(prediction, now),
            Stage::None | Stage::Waiting(_) | Stage::Done(_) => self.early = Some(prediction),
        }
    }

    /// A response has come; returns whether a STUN server has sent it and it was asked for here.
    pub(super) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        match &mut self.stage {
            Stage::Active(watched) => {
                let canary = watched.canary.as_mut();
                canary.is_some_and(|canary| canary.handle_response(socket, from, message, now))
                    || watched.search.handle_sample(socket, from, message, now)
            }
            Stage::None | Stage::Waiting(_) | Stage::Done(_) => false,
        }
    }

    /// Does what is due; returns whether the search has just ended.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        sockets: &mut Sockets,
        outputs: &mut Outputs,
    ) -> bool {
        let Stage::Active(watched) = &mut self.stage else {
            return false;
        };
        watched.handle_timeout(now, outputs);
        let canary = watched.canary.as_mut();
        let granted = canary.as_ref().map_or(0, |canary| canary.granted());
        for socket in canary.map(Canary::take_closing).unwrap_or_default() {
            sockets.remove(socket);
            outputs.say(AgentEvent::CloseSocket(socket));
        }
        let search = &mut watched.search;
        while let Some(prediction) = search.poll_prediction() {
            outputs.say(AgentEvent::Predicted(prediction));
        }
        if !search.is_over() {
            return false;
        }
        let report = search.report(now);
        outputs.say(AgentEvent::SearchOver {
            mappings: report.mappings,
            found: report.outcome == Outcome::Found,
            used_up: (report.outcome == Outcome::PortsUsedUp && granted >= MIN_GRANTED)
                .then_some(granted),
        });
        self.stage = Stage::Done(report);
        true
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Active(watched) => {
                let canary = watched.canary.as_ref().and_then(Canary::poll_timeout);
                watched
                    .search
                    .poll_timeout()
                    .into_iter()
                    .chain(canary)
                    .min()
            }
            Stage::None | Stage::Waiting(_) | Stage::Done(_) => None,
        }
    }
}
