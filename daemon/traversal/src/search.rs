//! The search for ports that follows on ordinary checks (see [`crate::plan`]): opens sockets, foretells ports, sends at the
//! budget's pace, counts what it costs, and ends.

mod ends;
mod order;
mod spending;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::Prediction;
use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;

use crate::address::usable;
use crate::capacity::Caps;
use crate::pace::Pace;
use crate::plan::{MEETING_SOCKETS, Part, Ports, Step, WINDOW};
use crate::report::{Outcome, StepReport};
use crate::request::transaction;
use crate::socket::{SocketId, Transmit};
pub(crate) use ends::{Ends, MappingScope};
use order::{Order, Round};
pub(crate) use spending::Allowance;
use spending::{Spending, Ticks};

/// Packets that are left for canaries at the end.
const RESERVED: u32 = 2;
/// A search that sends nothing for longer than this makes no mappings meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// After its last packet a search waits this long for what may come.
const LINGER: Duration = Duration::from_millis(1500);
/// A round of meeting is over when so much time has passed after its last packet.
const ROUND_LINGER: Duration = Duration::from_millis(400);
/// How often two sequences try to meet in one attempt.
const ROUNDS: u8 = 6;
/// How often STUN servers are asked where this side's sequence stands.
const SAMPLE_TRIES: u32 = 8;
/// The pause after the first question to a STUN server; each later pause is longer by as much.
const SAMPLE_PAUSE: Duration = Duration::from_millis(100);
/// How long the peer's prediction is waited for.
const PREDICTION_TIMEOUT: Duration = Duration::from_secs(4);

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

/// What the canary says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Nothing may be sent for now.
    HeldBack,
    /// Nothing may be sent any more, for this reason.
    Stopped(Outcome),
}

/// Where both sequences of ports stand in a round.
#[derive(Debug, Default)]
struct Sequences {
    mine: Option<u16>,
    theirs: Option<Prediction>,
    /// What the peer must be told.
    to_tell: VecDeque<Prediction>,
}

/// One search of one agent.
#[derive(Debug)]
pub(crate) struct Search {
    step: Step,
    caps: Caps,
    ends: Ends,
    state: State,
    sockets: Vec<SocketId>,
    order: Option<Order>,
    /// The datagram that all packets of the search carry.
    request: Vec<u8>,
    /// The transaction of that datagram, which stands for the whole search.
    transaction: TransactionId,
    round: u8,
    sequences: Sequences,
    began: Instant,
    ticks: Ticks,
    spending: Spending,
    gate: Gate,
    rng: ChaCha8Rng,
}

impl Search {
    /// A search that sends `request`, whose transaction is given, and may make `allowance` mappings: the first so many, and then
    /// all of them.
    pub(crate) fn new(
        step: Step,
        caps: Caps,
        allowance: Allowance,
        ends: Ends,
        (transaction, request): (TransactionId, Vec<u8>),
        rng: ChaCha8Rng,
        now: Instant,
    ) -> Self {
        let begins = match step.part {
            Part::Probe { after, .. } => now + after,
            Part::Hold { .. } | Part::Meet { .. } | Part::Birthday { .. } => now,
        };
        Self {
            spending: Spending::new(&step, allowance),
            ticks: Ticks::new(now, begins),
            state: State::Opening(0),
            step,
            caps,
            ends,
            sockets: Vec::new(),
            order: None,
            request,
            transaction,
            round: 0,
            sequences: Sequences::default(),
            began: now,
            gate: Gate::Open,
            rng,
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
        match socket {
            Some(socket) => self.sockets.push(socket),
            None => self.spending.count_refused_socket(),
        }
        if last && self.sockets.is_empty() {
            self.end(Outcome::NoSockets, now);
        } else if last {
            self.begin_round(now);
        }
    }

    pub(crate) fn handle_prediction(&mut self, prediction: Prediction, now: Instant) {
        let known = self.sequences.theirs;
        if known.is_none_or(|known| known.round < prediction.round) {
            self.sequences.theirs = Some(prediction);
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
            self.sequences.mine = Some(mapped.port());
            self.sequences.to_tell.push_back(Prediction {
                round: self.round,
                port: mapped.port(),
            });
            self.proceed(now);
        }
        true
    }

    /// Whether a response with this transaction may answer the request that the whole search repeats.
    pub(crate) fn is_request(&self, transaction: TransactionId) -> bool {
        self.transaction == transaction
    }

    /// Whether the search sends from this socket.
    pub(crate) fn owns(&self, socket: SocketId) -> bool {
        self.sockets.contains(&socket)
    }

    /// Whether a response with this transaction is for it.
    pub(crate) fn is_asking(&self, transaction: TransactionId) -> bool {
        self.is_request(transaction)
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

    // --- the canary ---

    /// Whether the search makes mappings now, or would if it were not held back.
    pub(crate) fn is_sending(&self, now: Instant) -> bool {
        match self.state {
            State::Sampling { .. } => true,
            // Held mappings are made once more after a pause.
            State::Sending => self.ticks.next() <= now + PAUSE,
            State::Opening(_) | State::Expecting(_) | State::Lingering(_) | State::Over => false,
        }
    }

    /// Nothing may be sent for now, or again.
    pub(crate) fn hold_back(&mut self, held_back: bool, now: Instant) {
        let gate = match (self.gate, held_back) {
            (Gate::Stopped(_), _) => return,
            (_, true) => Gate::HeldBack,
            (_, false) => Gate::Open,
        };
        if self.gate == Gate::HeldBack && gate == Gate::Open {
            self.ticks.schedule(now);
        }
        self.gate = gate;
    }

    /// When the search has made as many mappings as it may before others are known to still get theirs; `None` if it may go on.
    pub(crate) fn stage_ended(&self) -> Option<Instant> {
        self.spending.stage_ended()
    }

    /// Others still get their mappings: twice as many may be made as before.
    pub(crate) fn begin_stage(&mut self, now: Instant) {
        self.spending.begin_stage();
        self.ticks.schedule(now);
    }

    /// A canary leaves, which makes a mapping like any packet of the search.
    pub(crate) fn count_canary(&mut self, pace: &mut Pace, fresh: bool, now: Instant) {
        self.spending.count_canary(pace, fresh, now);
    }

    /// Stops for the sake of others, or because nobody can see whether it harms them. What is held already stays: to let go of it
    /// would free nothing.
    pub(crate) fn stop(&mut self, why: Outcome, now: Instant) {
        if matches!(self.gate, Gate::Stopped(_)) {
            return;
        }
        self.gate = Gate::Stopped(why);
        let holds = matches!(self.step.part, Part::Hold { .. }) && self.spending.has_sent();
        if holds && !self.is_over() {
            self.state = State::Lingering(self.deadline());
        } else {
            self.end(why, now);
        }
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
        self.spending.report().mappings
    }

    pub(crate) fn report(&self, now: Instant) -> StepReport {
        let mut report = self.spending.report().clone();
        if !self.is_over() {
            report.took = now.saturating_duration_since(self.began);
        }
        report
    }

    pub(crate) fn poll_prediction(&mut self) -> Option<Prediction> {
        self.sequences.to_tell.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadline();
        match &self.state {
            State::Opening(_) => Some(deadline),
            State::Sampling { .. } | State::Sending if self.gate != Gate::Open => Some(deadline),
            State::Sampling { next, .. } => Some(*next),
            State::Expecting(until) | State::Lingering(until) => Some(*until),
            State::Sending => Some(self.ticks.next()),
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
            State::Sampling { .. } | State::Sending if self.gate != Gate::Open => {}
            State::Sampling { next, .. } if *next <= now => self.sample(now, pace, out),
            // The peer is through with its rounds, or never began.
            State::Expecting(until) if *until <= now && self.round > 0 => {
                self.end(Outcome::Exhausted, now);
            }
            State::Expecting(until) if *until <= now => self.end(Outcome::NoPrediction, now),
            State::Sending if self.ticks.next() <= now => self.send(now, pace, out),
            State::Lingering(until) if *until <= now => self.after_round(now),
            _ => {}
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.sequences.mine = None;
        self.order = None;
        if self.predicts_mine() {
            self.state = State::Sampling {
                id: transaction(&mut self.rng),
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
            Part::Probe { ports, .. } | Part::Meet { theirs: ports, .. } => {
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
        if count == 0 || *tries >= SAMPLE_TRIES || self.spending.has_spent_mappings() {
            self.end(Outcome::NoPrediction, now);
            return;
        }
        // Twice the first server, then the others.
        let server = self.ends.samplers[(*tries / 2) as usize % count];
        if (*tries).is_multiple_of(2) {
            self.spending.count_mapping();
        }
        *tries += 1;
        *next = now + SAMPLE_PAUSE * *tries;
        out.push_back(Transmit::new(
            self.sockets[*socket],
            server,
            Writer::new(Class::Request, *id).finish(),
        ));
        self.spending.count_packet(pace, now);
    }

    /// Sends, if everything that must be known is known.
    fn proceed(&mut self, now: Instant) {
        if self.predicts_mine() && self.sequences.mine.is_none() {
            return;
        }
        let theirs = self
            .sequences
            .theirs
            .filter(|known| known.round >= self.round);
        if self.needs_theirs() && theirs.is_none() {
            self.state = State::Expecting((now + PREDICTION_TIMEOUT).min(self.deadline()));
            return;
        }
        let round = Round {
            part: self.step.part,
            number: self.round,
            sockets: self.sockets.len(),
            ends: &self.ends,
            their_port: theirs.map(|known| known.port),
        };
        self.order = Some(round.order(&mut self.rng, now));
        self.state = State::Sending;
        // The first burst leaves at once.
        self.ticks.schedule(now);
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
            && now + ROUND_LINGER < self.deadline()
            && !self.spending.has_spent_mappings();
        if again {
            self.round += 1;
            self.begin_round(now);
        } else {
            self.end(Outcome::Exhausted, now);
        }
    }

    fn end(&mut self, outcome: Outcome, now: Instant) {
        let outcome = match (outcome, self.gate) {
            (Outcome::Exhausted, Gate::Stopped(why)) => why,
            _ => outcome,
        };
        if !self.is_over() {
            let took = now.saturating_duration_since(self.began);
            self.spending.end(outcome, took);
            self.state = State::Over;
            self.order = None;
        }
    }

    fn send(&mut self, now: Instant, pace: &mut Pace, out: &mut VecDeque<Transmit>) {
        let ttl = matches!(self.step.part, Part::Hold { .. }).then_some(self.ends.opening_ttl);
        let mut room = pace.room(now);
        self.ticks.refill(self.caps, room, now);
        while self.ticks.has_token() && room > 0 {
            room -= 1;
            if self.spending.has_spent_stage(now) {
                self.ticks.clear();
                return;
            }
            let spent = self.spending.has_spent_all(self.limit());
            let order = self.order.as_mut().filter(|_| !spent);
            let Some((socket, to, fresh)) = order.and_then(|order| order.next_packet(now)) else {
                self.exhausted(spent, now);
                return;
            };
            self.ticks.spend();
            self.spending.count_packet(pace, now);
            let scope = self.ends.mapping_scope;
            let first = scope == MappingScope::Socket && self.is_first(socket);
            self.spending
                .count_destination(scope, socket, to, fresh, first);
            out.push_back(Transmit {
                socket: self.sockets[socket],
                to,
                source: None,
                ttl,
                whole: false,
                bytes: self.request.clone(),
            });
        }
    }

    /// Whether the packet that was taken last is the first of its socket, where the NAT makes one mapping for all.
    fn is_first(&self, socket: usize) -> bool {
        match &self.order {
            Some(order @ Order::List { .. }) => self.round == 0 && order.is_first_of(socket),
            Some(order @ Order::Permutations { .. }) => {
                order.is_first_of(socket) && self.sockets[socket] != self.ends.base
            }
            None => false,
        }
    }

    /// How many packets it sends at the most.
    fn limit(&self) -> u32 {
        match self.step.part {
            Part::Probe {
                ports: Ports::Range { .. },
                ..
            } => self.step.packets.saturating_sub(RESERVED),
            _ => self.caps.packets().saturating_sub(RESERVED),
        }
    }

    fn exhausted(&mut self, spent: bool, now: Instant) {
        let waits = self.order.as_ref().and_then(Order::again);
        self.state = match (&self.step.part, waits) {
            (_, Some(again)) if !spent => {
                // Nothing to send until then.
                self.ticks.schedule(again);
                return;
            }
            // What is held stays for as long as the other side may probe.
            (Part::Hold { .. }, _) => State::Lingering(self.deadline()),
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
        self.ticks.clear();
    }
}
