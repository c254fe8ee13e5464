//! What the connector knows of one peer: the offer that is out, the attempt that is under way, the one that serves.

mod drain;
mod offers;
mod searches;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_packet::PeerHandle;
use punch_signal_protocol::seal::Exchange;
use punch_signal_protocol::{
    Candidate, Credentials, Description, Ipv4Range, MAX_CANDIDATES, NatSummary, Note, PeerId,
};
use punch_stun_protocol::Message;
use punch_traversal::{
    Agent, AgentConfig, Budget, DirectPath, NatProfile, Role, SocketId, StepKind, StepReport,
    Transmit,
};

use super::{ConnectorEvent, LinkStatus, Path, ServerId, SocketIds, outside};
use offers::Admission;
pub(super) use offers::Offered;

/// An unanswered offer is made anew after this, then at doubled intervals up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(3);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A path that is in doubt gets this long to answer before a new offer goes out beside it.
const DOUBT: Duration = Duration::from_millis(600);
/// A peer that had connected to us and is gone is looked for this long.
const PATIENCE: Duration = Duration::from_secs(600);
/// Two exchanges under way: the one that serves and its successor.
const ATTEMPTS: usize = 2;
/// Sockets of an attempt whose successor serves stay open so long: the peer may still send to them.
const FAREWELL: Duration = Duration::from_secs(2);
/// Networks for which it is remembered what has worked with a peer.
const MEMORY: usize = 8;
/// From the beginning of one search for a peer to that of the next, unless the first has found a path; the first time less.
/// However often it makes offers, the addresses that it names get a search's packets (`Caps::packets`) once a minute.
const SEARCH_PAUSE: Duration = Duration::from_secs(60);
const FIRST_SEARCH_PAUSE: Duration = Duration::from_secs(30);
/// An attempt with a search may take so long before a new offer goes out.
const SEARCH_PATIENCE: Duration = Duration::from_secs(60);

/// How a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Nobody wants it.
    Down,
    /// Wanted, but the peer is on no signalling server, or none is reached.
    Waiting,
    /// Offer, answer, checks.
    Connecting,
    /// There is a path.
    Connected,
}

/// What this machine brings to an attempt.
pub(super) struct Terms {
    /// Who picks the path of an attempt's first try; the other one does in the next.
    pub(super) offers: bool,
    pub(super) local: Credentials,
    /// What the peer was told.
    pub(super) nat: Option<NatSummary>,
    pub(super) surroundings: Surroundings,
}

/// What an attempt needs to know of this machine's network.
pub(super) struct Surroundings {
    pub(super) profile: Option<NatProfile>,
    pub(super) lifetime: Option<Duration>,
    pub(super) samplers: Vec<SocketAddr>,
    pub(super) network: Option<u64>,
    pub(super) seed: u64,
}

/// Where a link's doings go.
pub(super) struct Outlet<'a> {
    pub(super) peer: PeerHandle,
    pub(super) network: Option<u64>,
    pub(super) transmits: &'a mut VecDeque<Transmit>,
    pub(super) events: &'a mut VecDeque<ConnectorEvent>,
    pub(super) ids: &'a mut SocketIds,
    pub(super) sockets: &'a mut HashMap<SocketId, (PeerHandle, u64)>,
    /// Notes for the peer.
    pub(super) envelopes: Vec<Vec<u8>>,
    /// Mappings that searches have made.
    pub(super) searched: u32,
}

impl Outlet<'_> {
    fn close(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
        self.events
            .push_back(ConnectorEvent::CloseSocket { socket });
    }
}

/// One exchange and its checks.
struct Attempt {
    serial: u64,
    /// Whether the offer was ours.
    offers: bool,
    exchange: Exchange,
    agent: Agent,
    peer_range: Option<Ipv4Range>,
    told: Vec<Candidate>,
    began: Instant,
}

pub(super) struct Link {
    pub(super) id: PeerId,
    pub(super) up: bool,
    /// The user has disconnected it: its own offers are refused.
    pub(super) barred: bool,
    /// Servers have been asked to tell when it signs in.
    pub(super) watched: bool,
    /// No server knows the peer.
    pub(super) offline: bool,
    /// Newest stamp sent, newest stamp seen.
    pub(super) stamps: (u64, u64),
    /// The peer has connected to us, and until when it is looked for once it is gone.
    engaged: bool,
    engaged_until: Option<Instant>,
    /// There was a path.
    lost: bool,
    /// What could be tried has been tried.
    hopeless: bool,
    offer: Option<(Offered, Instant)>,
    unreachable_at: BTreeSet<ServerId>,
    retry_at: Option<Instant>,
    /// When it would have been due, had nobody hurried it.
    unhurried: Option<Instant>,
    /// Offers since there was a path, and those of them that nobody has answered.
    retries: u32,
    unanswered: u32,
    /// What servers may still deliver.
    admitted: BTreeMap<ServerId, Admission>,
    /// The one that serves, if it has a path, stands first; its successor behind it.
    attempts: VecDeque<Attempt>,
    /// The candidates of the last description, so that later ones can be told.
    described: Vec<Candidate>,
    /// What it said of the NAT.
    pub(super) described_nat: Option<NatSummary>,
    /// Attempts that have failed since there was a path.
    pub(super) failures: u8,
    /// What has worked, by network; the latest last.
    pub(super) memory: Vec<(u64, StepKind)>,
    serial: u64,
    /// Searches in vain since there was a path, and when the next one may begin.
    vain: (u32, Option<Instant>),
    /// Sockets of attempts that are over, and when they close.
    retired: Vec<(Option<Instant>, SocketId)>,
    /// Mappings of searches that ended with their attempts; the ledger has not heard of them.
    unbooked: u32,
    /// What the last attempt that is over has tried, and what the peer said of its NAT.
    last: (Vec<StepReport>, Option<NatSummary>),
}

impl Link {
    pub(super) fn new(id: PeerId, stamps: (u64, u64)) -> Self {
        Self {
            id,
            up: false,
            barred: false,
            watched: false,
            offline: false,
            stamps,
            engaged: false,
            engaged_until: None,
            lost: false,
            hopeless: false,
            offer: None,
            unreachable_at: BTreeSet::new(),
            retry_at: None,
            unhurried: None,
            retries: 0,
            unanswered: 0,
            admitted: BTreeMap::new(),
            attempts: VecDeque::new(),
            described: Vec::new(),
            described_nat: None,
            failures: 0,
            memory: Vec::new(),
            serial: 0,
            vain: (0, None),
            retired: Vec::new(),
            unbooked: 0,
            last: (Vec::new(), None),
        }
    }

    pub(super) fn wanted(&self) -> bool {
        self.up || self.engaged
    }

    /// Whether servers are to tell when it signs in. Who has called us calls again; but both ends look for a path that is lost.
    pub(super) fn sought(&self) -> bool {
        self.up || (self.engaged && self.lost)
    }

    /// What serves the peer's packets, if anything does.
    pub(super) fn path(&self) -> Option<Path> {
        self.direct_path().map(Path::Direct)
    }

    /// The path that the checks have selected.
    fn direct_path(&self) -> Option<DirectPath> {
        self.attempts
            .front()
            .and_then(|attempt| attempt.agent.path())
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.attempts
            .front()
            .and_then(|attempt| attempt.agent.round_trip())
    }

    /// Checks the path at once instead of at the next keepalive; if there is no answer soon, a new offer goes out while
    /// the checks go on.
    pub(super) fn verify(&mut self, now: Instant) {
        for attempt in &mut self.attempts {
            attempt.agent.verify_path(now);
        }
        if self.path().is_some() {
            self.retry_at = Some(now + DOUBT);
        }
    }

    fn is_answering(&self) -> bool {
        self.attempts
            .front()
            .is_some_and(|attempt| attempt.agent.is_answering())
    }

    pub(super) fn peer_range(&self) -> Option<Option<Ipv4Range>> {
        self.attempts.back().map(|attempt| attempt.peer_range)
    }

    pub(super) fn status(
        &self,
        mine: Option<NatProfile>,
        budget: Budget,
        now: Instant,
    ) -> LinkStatus {
        let mut attempts = self.attempts.iter().rev();
        let newest = attempts
            .find(|a| !a.agent.was_refused() || self.last.0.is_empty())
            .map(|a| a.agent.status(now));
        let (steps, theirs) = newest.map_or_else(|| self.last.clone(), |s| (s.steps, s.theirs));
        LinkStatus {
            state: self.state(),
            agent: self.attempts.front().map(|a| a.agent.status(now)),
            peer_range: self.peer_range(),
            mine,
            theirs,
            steps,
            failures: self.failures,
            retry_in: self
                .retry_at
                .filter(|_| self.wanted())
                .map(|at| at.saturating_duration_since(now)),
            budget,
        }
    }

    pub(super) fn state(&self) -> LinkState {
        if self.path().is_some() {
            LinkState::Connected
        } else if !self.attempts.is_empty() {
            LinkState::Connecting
        } else if !self.wanted() {
            LinkState::Down
        } else if self.offer.is_some() && !self.offline {
            LinkState::Connecting
        } else {
            LinkState::Waiting
        }
    }

    // --- attempts ---

    /// An exchange is complete: its checks begin, beside those of the path that serves.
    pub(super) fn begin(
        &mut self,
        exchange: Exchange,
        terms: Terms,
        theirs: Description,
        now: Instant,
    ) {
        self.offer = None;
        // Our own that this exchange began with has its answer.
        self.unanswered = self.unanswered.saturating_sub(u32::from(terms.offers));
        self.found();
        if let Some(at) = self.unhurried.take() {
            self.retry_at = Some(at);
        }
        let Terms {
            offers,
            local,
            nat,
            surroundings,
        } = terms;
        // Both must come to the same: where one tells nothing of its NAT, there is nothing to take turns by.
        let attempt = match (&nat, &theirs.nat) {
            (Some(mine), Some(_)) => mine.attempt,
            _ => 0,
        };
        // The one who offers picks the path; in a repeated attempt the other one does.
        let role = if offers == attempt.is_multiple_of(2) {
            Role::Controlling
        } else {
            Role::Controlled
        };
        let mut memory = self.memory.iter().rev();
        let agent = Agent::new(
            AgentConfig {
                role,
                answers: !offers,
                local,
                remote: theirs.credentials,
                candidates: theirs.candidates,
                mine: nat,
                theirs: theirs.nat,
                opening_ttl: surroundings.profile.and_then(|profile| profile.opening_ttl),
                lifetime: surroundings.lifetime,
                samplers: surroundings.samplers,
                remembered: memory
                    .find(|(network, _)| Some(*network) == surroundings.network)
                    .map(|(_, step)| *step),
                seed: surroundings.seed,
            },
            now,
        );
        if agent.has_search() {
            // No new offer comes between.
            self.retry_at = Some(now + SEARCH_PATIENCE);
        }
        let serving = usize::from(self.path().is_some());
        self.retire(serving.min(ATTEMPTS - 1)..self.attempts.len());
        self.serial += 1;
        self.attempts.push_back(Attempt {
            serial: self.serial,
            offers,
            exchange,
            agent,
            peer_range: theirs.ipv4_range,
            told: self.described.clone(),
            began: now,
        });
    }

    // --- notes ---

    pub(super) fn open_note(&mut self, envelope: &[u8]) -> Option<(usize, Note)> {
        self.attempts
            .iter_mut()
            .enumerate()
            .find_map(|(index, attempt)| Some((index, attempt.exchange.open(envelope).ok()?)))
    }

    pub(super) fn handle_candidates(
        &mut self,
        attempt: usize,
        candidates: Vec<Candidate>,
        now: Instant,
    ) {
        if let Some(attempt) = self.attempts.get_mut(attempt) {
            attempt.agent.handle_candidates(candidates, now);
        }
    }

    /// A note about candidates that the peer has not heard of.
    pub(super) fn tell(&mut self, candidates: &[Candidate]) -> Option<Vec<u8>> {
        let attempt = self.attempts.back_mut()?;
        let fresh: Vec<_> = candidates
            .iter()
            .filter(|candidate| !attempt.told.contains(candidate))
            .copied()
            .take(MAX_CANDIDATES)
            .collect();
        if fresh.is_empty() {
            return None;
        }
        attempt.told.extend_from_slice(&fresh);
        let keep = attempt.told.len().saturating_sub(4 * MAX_CANDIDATES);
        attempt.told.drain(..keep);
        attempt.exchange.seal(&Note::Candidates(fresh)).ok()
    }

    /// Ends everything; the envelopes say goodbye.
    pub(super) fn close(&mut self) -> Vec<Vec<u8>> {
        // The peer may know only one of them yet.
        let bye = self
            .attempts
            .iter_mut()
            .filter_map(|attempt| attempt.exchange.seal(&Note::Bye).ok())
            .collect();
        self.retire(0..self.attempts.len());
        self.failures = 0;
        self.offer = None;
        (self.engaged, self.lost) = (false, false);
        self.engaged_until = None;
        (self.retry_at, self.unhurried) = (None, None);
        (self.retries, self.unanswered) = (0, 0);
        bye
    }

    /// The peer has said goodbye, to this attempt and those before it. Returns whether nothing is left; then, if the user
    /// wants the peer, it is looked for again.
    pub(super) fn handle_bye(&mut self, attempt: usize, now: Instant) -> bool {
        self.retire(0..(attempt + 1).min(self.attempts.len()));
        if !self.attempts.is_empty() {
            return false;
        }
        self.offer = None;
        (self.engaged, self.lost) = (false, false);
        self.engaged_until = None;
        self.offline = true;
        (self.retries, self.unanswered) = (3, 0);
        self.retry_at = self.up.then(|| now + RETRY_MAX / 2);
        true
    }

    // --- checks ---

    pub(super) fn handle_request(
        &mut self,
        name: &[u8],
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let found = self
            .attempts
            .iter_mut()
            .find(|attempt| attempt.agent.is_addressed(name));
        found
            .map(|attempt| {
                attempt
                    .agent
                    .handle_request(socket, local, from, message, now);
            })
            .is_some()
    }

    pub(super) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let found = self
            .attempts
            .iter_mut()
            .find(|attempt| attempt.agent.owns(message));
        found
            .map(|attempt| attempt.agent.handle_response(socket, from, message, now))
            .is_some()
    }

    pub(super) fn handle_traffic(&mut self, now: Instant) {
        if let Some(attempt) = self.attempts.front_mut() {
            attempt.agent.handle_traffic(now);
        }
    }

    /// Does what is due; returns whether a new offer is.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        for attempt in &mut self.attempts {
            attempt.agent.handle_timeout(now);
        }
        if self.engaged_until.is_some_and(|until| until <= now) {
            (self.engaged, self.lost) = (false, false);
            self.engaged_until = None;
            self.hopeless = true;
        }
        let due = self.retry_at.is_some_and(|at| at <= now);
        if due {
            self.retry_at = None;
        }
        due && self.wanted() && !self.is_answering()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.attempts
            .iter()
            .filter_map(|attempt| attempt.agent.poll_timeout())
            .chain(self.retry_at)
            .chain(self.engaged_until)
            .chain(self.retired.iter().filter_map(|(at, _)| *at))
            .min()
    }
}

/// Takes out of a description what lies inside a tunnel.
pub(super) fn tidy(description: &mut Description, overlay: &HashSet<IpAddr>) {
    description.candidates = outside(overlay, std::mem::take(&mut description.candidates));
    if let Some(nat) = &mut description.nat {
        nat.addresses
            .retain(|ip| !overlay.contains(&IpAddr::V4(*ip)));
    }
}
