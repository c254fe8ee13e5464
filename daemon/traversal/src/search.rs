//! The search for ports that follows on ordinary checks (see [`crate::plan`]): opens sockets, foretells ports, sends at the
//! budget's pace, counts what it costs, and ends.

mod order;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::Prediction;
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;

use crate::gather::usable;
use crate::pace::Pace;
use crate::plan::{Caps, MEETING_SOCKETS, OPENING_TTL, Part, Ports, StepKind, WINDOW};
use crate::request::agent_transaction;
use crate::{SocketId, Step, Transmit};
use order::Order;

/// Packets leave in bursts of this interval.
const TICK: Duration = Duration::from_millis(5);
/// A sender that was kept waiting does not make up for more than this.
const MAX_BURST: Duration = Duration::from_millis(25);
/// After its last packet a search waits this long for what may come.
const LINGER: Duration = Duration::from_millis(1500);
/// A round of meeting is over when so much time has passed after its last packet.
const ROUND_LINGER: Duration = Duration::from_millis(400);
/// Meetings of two sequences that are tried in one attempt.
const ROUNDS: u8 = 6;
/// A STUN server that foretells is asked so often, with this pause.
const SAMPLE_TRIES: u32 = 8;
const SAMPLE_PAUSE: Duration = Duration::from_millis(100);
/// The peer's prediction is waited for so long.
const EXPECTATION: Duration = Duration::from_secs(4);

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has not begun.
    Waiting,
    /// It is under way.
    Running,
    /// It has found a path.
    Found,
    /// Another step found one first.
    NotNeeded,
    /// It has spent what it may, and found none.
    Exhausted,
    /// Mappings of earlier attempts are still alive: there is nothing left of the budget.
    OverBudget,
    /// No socket could be opened.
    NoSockets,
    /// The peer has not told where its sequence stands, or no STUN server did.
    NoPrediction,
}

/// A step and what it cost; for `punchctl why`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// What it was about.
    pub kind: StepKind,
    /// The chance that was computed beforehand.
    pub chance: f64,
    /// In the median, if it succeeds.
    pub typical: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// NAT mappings that it has made on this side.
    pub mappings: u32,
    /// Packets that it has sent.
    pub packets: u32,
    /// The most that left within one second, checks included.
    pub peak_rate: u32,
    /// Sockets that it wanted and did not get.
    pub refused_sockets: u32,
    /// How long it has taken.
    pub took: Duration,
}

/// What a search needs to know of the two ends.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// The fragment of this side's agent, by which its transactions are told from others'.
    pub(crate) fragment: [u8; 8],
    /// This side's socket for ordinary checks.
    pub(crate) base: SocketId,
    /// The peer's endpoints as servers saw them.
    pub(crate) known: Vec<SocketAddr>,
    /// All its public addresses.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// STUN servers that tell where this side's sequence stands.
    pub(crate) samplers: Vec<SocketAddr>,
    pub(crate) opening_ttl: Option<u8>,
    /// What the peer may spend.
    pub(crate) their_caps: Caps,
    /// Whether the peer's packets may come from any of its addresses.
    pub(crate) moving: bool,
    /// Whether this side's NAT makes one mapping per socket (EIM), or one per socket and address (ADM).
    pub(crate) mapping_scope: MappingScope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MappingScope {
    Socket,
    Address,
    Endpoint,
}

#[derive(Debug)]
enum State {
    /// So many sockets are still to come.
    Opening(usize),
    /// Asks a STUN server where the sequence stands.
    Sampling {
        id: TransactionId,
        socket: usize,
        tries: u32,
        next: Instant,
    },
    /// Waits for the peer's prediction.
    Expecting(Instant),
    Sending,
    /// Everything is sent.
    Lingering(Instant),
    Over,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Search {
    step: Step,
    caps: Caps,
    /// Mappings that it may make: what other attempts have left of the cap.
    allowance: u32,
    ends: Ends,
    state: State,
    sockets: Vec<SocketId>,
    order: Option<Order>,
    /// The datagram that all its packets carry; its transaction stands for the whole search.
    request: Vec<u8>,
    pub(crate) transaction: TransactionId,
    round: u8,
    my_port: Option<u16>,
    their_port: Option<Prediction>,
    began: Instant,
    last_tick: Instant,
    tokens: f64,
    report: StepReport,
    rng: ChaCha8Rng,
    predictions: VecDeque<Prediction>,
    /// Sockets and the addresses to which they have sent, where each pair is a mapping.
    reached: BTreeSet<(usize, IpAddr)>,
}

impl Search {
    pub(crate) fn new(
        step: Step,
        caps: Caps,
        allowance: u32,
        ends: Ends,
        (transaction, request): (TransactionId, Vec<u8>),
        rng: ChaCha8Rng,
        now: Instant,
    ) -> Self {
        let report = StepReport {
            kind: step.kind,
            chance: step.chance,
            typical: step.typical,
            outcome: Outcome::Running,
            mappings: 0,
            packets: 0,
            peak_rate: 0,
            refused_sockets: 0,
            took: Duration::ZERO,
        };
        Self {
            state: State::Opening(0),
            step,
            caps,
            allowance,
            ends,
            sockets: Vec::new(),
            order: None,
            request,
            transaction,
            round: 0,
            my_port: None,
            their_port: None,
            began: now,
            last_tick: now,
            tokens: 0.0,
            report,
            rng,
            predictions: VecDeque::new(),
            reached: BTreeSet::new(),
        }
    }

    /// Begins; returns how many sockets it wants.
    pub(crate) fn start(&mut self, now: Instant) -> usize {
        let wanted = match self.step.part {
            // One more, to ask where the sequence stands.
            Part::Hold { sockets, predict } => usize::from(sockets) + usize::from(predict),
            Part::Probe { .. } => 0,
            Part::Meet { .. } => usize::from(MEETING_SOCKETS),
            Part::Birthday { sockets, .. } => usize::from(sockets),
        };
        self.state = State::Opening(wanted);
        if wanted == 0 {
            self.sockets.push(self.ends.base);
            self.begin_round(now);
        }
        wanted
    }

    pub(crate) fn handle_socket(&mut self, socket: Option<SocketId>, now: Instant) {
        let State::Opening(missing) = &mut self.state else {
            return;
        };
        *missing = missing.saturating_sub(1);
        let last = *missing == 0;
        self.report.refused_sockets += u32::from(socket.is_none());
        self.sockets.extend(socket);
        if last && self.sockets.is_empty() {
            self.end(Outcome::NoSockets, now);
        } else if last {
            self.begin_round(now);
        }
    }

    pub(crate) fn handle_prediction(&mut self, prediction: Prediction, now: Instant) {
        if self
            .their_port
            .is_none_or(|known| known.round < prediction.round)
        {
            self.their_port = Some(prediction);
        }
        if matches!(self.state, State::Expecting(_)) {
            self.proceed(now);
        }
    }

    /// A response of a STUN server on one of its sockets; returns whether it was asked for.
    pub(crate) fn handle_sample(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let State::Sampling {
            id, socket: asker, ..
        } = &self.state
        else {
            return false;
        };
        let asked = *id == message.transaction
            && self.sockets.get(*asker) == Some(&socket)
            && self.ends.samplers.contains(&from);
        if !asked {
            return false;
        }
        if let (Class::Success, Some(mapped)) = (message.class, message.mapped)
            && mapped.is_ipv4()
            && mapped.port() != 0
            && usable(mapped.ip())
        {
            self.my_port = Some(mapped.port());
            self.predictions.push_back(Prediction {
                round: self.round,
                port: mapped.port(),
            });
            self.proceed(now);
        }
        true
    }

    pub(crate) fn owns(&self, socket: SocketId) -> bool {
        self.sockets.contains(&socket)
    }

    /// Whether a response with this transaction is for it.
    pub(crate) fn is_asking(&self, transaction: TransactionId) -> bool {
        self.transaction == transaction
            || matches!(&self.state, State::Sampling { id, .. } if *id == transaction)
    }

    /// Whether an answer to its request may come from there.
    pub(crate) fn has_probed(&self, from: SocketAddr) -> bool {
        let IpAddr::V4(ip) = from.ip() else {
            return false;
        };
        self.ends.addresses.contains(&ip) || self.ends.known.contains(&from)
    }

    fn deadline(&self) -> Instant {
        self.began + self.caps.duration
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Stops sending; a path was found, by this step or another.
    pub(crate) fn finish(&mut self, found: bool, now: Instant) {
        let outcome = if found {
            Outcome::Found
        } else {
            Outcome::NotNeeded
        };
        self.end(outcome, now);
    }

    pub(crate) fn mappings(&self) -> u32 {
        self.report.mappings
    }

    pub(crate) fn report(&self, now: Instant) -> StepReport {
        let mut report = self.report.clone();
        if !self.is_over() {
            report.took = now.saturating_duration_since(self.began);
        }
        report
    }

    pub(crate) fn poll_prediction(&mut self) -> Option<Prediction> {
        self.predictions.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadline();
        match &self.state {
            State::Opening(_) => Some(deadline),
            State::Sampling { next, .. } => Some(*next),
            State::Expecting(until) | State::Lingering(until) => Some(*until),
            State::Sending => Some(self.last_tick + TICK),
            State::Over => None,
        }
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        pace: &mut Pace,
        out: &mut VecDeque<Transmit>,
    ) {
        let deadline = self.deadline();
        if now >= deadline && !matches!(self.state, State::Lingering(_) | State::Over) {
            self.state = State::Lingering(now);
        }
        match &self.state {
            State::Opening(_) | State::Over => {}
            State::Sampling { next, .. } if *next <= now => self.sample(now, pace, out),
            // The peer is through with its rounds, or never began.
            State::Expecting(until) if *until <= now && self.round > 0 => {
                self.end(Outcome::Exhausted, now);
            }
            State::Expecting(until) if *until <= now => self.end(Outcome::NoPrediction, now),
            State::Sending if self.last_tick + TICK <= now => self.send(now, pace, out),
            State::Lingering(until) if *until <= now => self.after_round(now),
            _ => {}
        }
    }

    // --- rounds ---

    fn begin_round(&mut self, now: Instant) {
        self.my_port = None;
        self.order = None;
        if self.predicts_mine() {
            self.state = State::Sampling {
                id: agent_transaction(&self.ends.fragment, &mut self.rng),
                // Each round asks from another socket: only a first contact makes a mapping.
                socket: self.sockets.len() - 1 - usize::from(self.round) % self.sockets.len(),
                tries: 0,
                next: now,
            };
        } else {
            self.proceed(now);
        }
    }

    fn predicts_mine(&self) -> bool {
        match self.step.part {
            Part::Hold { predict, .. } => predict,
            Part::Meet { mine, .. } => matches!(mine, Ports::After { .. }),
            Part::Probe { .. } | Part::Birthday { .. } => false,
        }
    }

    fn needs_theirs(&self) -> bool {
        match self.step.part {
            Part::Probe { ports } | Part::Meet { theirs: ports, .. } => {
                matches!(ports, Ports::After { .. })
            }
            Part::Hold { .. } | Part::Birthday { .. } => false,
        }
    }

    fn sample(&mut self, now: Instant, pace: &mut Pace, out: &mut VecDeque<Transmit>) {
        let State::Sampling {
            id,
            socket,
            tries,
            next,
        } = &mut self.state
        else {
            return;
        };
        let count = self.ends.samplers.len();
        if count == 0 || *tries >= SAMPLE_TRIES || self.report.mappings >= self.allowance {
            self.end(Outcome::NoPrediction, now);
            return;
        }
        // Twice the first server, then the others.
        let server = self.ends.samplers[(*tries / 2) as usize % count];
        if (*tries).is_multiple_of(2) {
            self.report.mappings += 1;
        }
        *tries += 1;
        *next = now + SAMPLE_PAUSE * *tries;
        out.push_back(Transmit {
            socket: self.sockets[*socket],
            to: server,
            source: None,
            ttl: None,
            bytes: Writer::new(Class::Request, *id).finish(),
        });
        self.count(pace, now);
    }

    /// Sends, if everything that must be known is known.
    fn proceed(&mut self, now: Instant) {
        if self.predicts_mine() && self.my_port.is_none() {
            return;
        }
        let theirs = self.their_port.filter(|known| known.round >= self.round);
        if self.needs_theirs() && theirs.is_none() {
            self.state = State::Expecting((now + EXPECTATION).min(self.deadline()));
            return;
        }
        self.order = Some(self.order_of_packets(theirs.map(|known| known.port), now));
        self.state = State::Sending;
        // The first burst leaves at once.
        self.last_tick = now.checked_sub(TICK).unwrap_or(now);
    }

    fn after_round(&mut self, now: Instant) {
        let rounds = match self.step.part {
            Part::Meet {
                mine: Ports::After { .. },
                theirs: Ports::After { .. },
                ..
            } => ROUNDS,
            // For as long as the budget lasts.
            Part::Meet { .. } => u8::MAX,
            _ => 1,
        };
        let again = self.round + 1 < rounds
            && now + ROUND_LINGER < self.began + self.caps.duration
            && self.report.mappings < self.allowance;
        if again {
            self.round += 1;
            self.begin_round(now);
        } else {
            self.end(Outcome::Exhausted, now);
        }
    }

    fn end(&mut self, outcome: Outcome, now: Instant) {
        if !self.is_over() {
            self.report.took = now.saturating_duration_since(self.began);
            self.report.outcome = outcome;
            self.state = State::Over;
            self.order = None;
        }
    }

    // --- what is sent ---

    fn send(&mut self, now: Instant, pace: &mut Pace, out: &mut VecDeque<Transmit>) {
        let elapsed = now
            .saturating_duration_since(self.last_tick)
            .min(MAX_BURST)
            .as_secs_f64();
        self.last_tick = now;
        // A little below the cap: checks need room too.
        self.tokens += elapsed * f64::from(self.caps.rate) * 0.97;
        let ttl = matches!(self.step.part, Part::Hold { .. })
            .then(|| self.ends.opening_ttl.unwrap_or(OPENING_TTL));
        let mut room = pace.room(now);
        // What has no room now does not pile up.
        self.tokens = self.tokens.min(f64::from(room) + 1.0);
        while self.tokens >= 1.0 && room > 0 {
            room -= 1;
            let spent =
                self.report.packets >= self.limit() || self.report.mappings >= self.allowance;
            let next = if spent { None } else { self.next_packet(now) };
            let Some((socket, to, fresh)) = next else {
                self.exhausted(spent, now);
                return;
            };
            self.tokens -= 1.0;
            self.count(pace, now);
            let makes_one = match self.ends.mapping_scope {
                MappingScope::Endpoint => fresh,
                MappingScope::Address => self.reached.insert((socket, to.ip())),
                MappingScope::Socket => fresh && self.is_first(socket),
            };
            if makes_one {
                self.report.mappings += 1;
            }
            out.push_back(Transmit {
                socket: self.sockets[socket],
                to,
                source: None,
                ttl,
                bytes: self.request.clone(),
            });
        }
    }

    /// Whether this packet is the first of its socket, where the NAT makes one mapping for all.
    fn is_first(&self, socket: usize) -> bool {
        match &self.order {
            Some(Order::List { packets, at, .. }) => {
                let before = &packets[..at.saturating_sub(1)];
                self.round == 0 && !before.iter().any(|(other, _)| *other == socket)
            }
            Some(Order::Permutations { walks, .. }) => {
                walks[socket].index == 1 && self.sockets[socket] != self.ends.base
            }
            None => false,
        }
    }

    /// How many packets it sends at the most.
    fn limit(&self) -> u32 {
        match self.step.part {
            Part::Probe {
                ports: Ports::Range { .. },
            } => self.step.packets,
            _ => self.caps.packets(),
        }
    }

    fn exhausted(&mut self, spent: bool, now: Instant) {
        let waits = match &self.order {
            Some(Order::List { again, .. }) => *again,
            _ => None,
        };
        self.state = match (&self.step.part, waits) {
            (_, Some(again)) if !spent => {
                // Nothing to send until then.
                self.last_tick = again.checked_sub(TICK).unwrap_or(again);
                return;
            }
            // What is held stays for as long as the other side may probe.
            (Part::Hold { .. }, _) => State::Lingering(self.began + self.caps.duration),
            // The other side sends to the whole window from all its sockets; then both go on to the next window.
            (
                Part::Meet {
                    mine: Ports::After { .. },
                    theirs: Ports::Range { .. },
                    ..
                },
                _,
            ) => {
                let packets = f64::from(MEETING_SOCKETS) * f64::from(WINDOW);
                let round = Duration::from_secs_f64(packets / f64::from(self.ends.their_caps.rate));
                State::Lingering((now + round + ROUND_LINGER).min(self.deadline()))
            }
            // The other side may have more pairs to walk through.
            (Part::Birthday { .. }, _) => {
                let Caps { mappings, rate, .. } = self.ends.their_caps;
                let theirs = Duration::from_secs_f64(f64::from(mappings) / f64::from(rate));
                let end = (now + LINGER).max(self.began + theirs + LINGER);
                State::Lingering(end.min(self.deadline()))
            }
            (Part::Meet { .. }, _) if !spent => State::Lingering(now + ROUND_LINGER),
            _ => State::Lingering((now + LINGER).min(self.deadline())),
        };
        self.tokens = 0.0;
    }

    fn count(&mut self, pace: &mut Pace, now: Instant) {
        pace.count(now);
        self.report.packets += 1;
        self.report.peak_rate = self.report.peak_rate.max(pace.recent(now));
    }
}
