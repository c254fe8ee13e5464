//! The canary of a search: STUN requests from fresh sockets, each a new flow as any program behind the same NAT would begin one.
//! While they are answered, the search takes nothing from anybody.
//!
//! One that is not answered stops the search at once, but may only have been lost on the way. So three more follow, over all
//! servers and apart from each other, since losses come in bursts, and beside them a question from a socket that has had its mapping
//! for long. If one of the three is answered, the search goes on. If only the old flow is, the NAT gives out no new mappings: its ports are used up. If nobody answers, the
//! servers or the line are gone, and nothing is learned.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_stun_protocol::{Class, Message, TransactionId, Writer};
use rand_chacha::ChaCha8Rng;

use crate::request::transaction;
use crate::socket::{SocketId, Transmit};

/// Between two canaries.
const INTERVAL: Duration = Duration::from_millis(200);
/// An answer that takes longer is none, unless answers have always taken long here.
const TIMEOUT: Duration = Duration::from_millis(500);
/// The first answer may take so long: how far away the servers are is not known yet.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// Canaries that must all stay unanswered, after one has.
const CONFIRMATIONS: usize = 3;
/// Between two of them: none of the bursts that are usual at a full queue or on the air loses all three.
const CONFIRMATION_INTERVAL: Duration = Duration::from_millis(150);
/// How often a socket that could not be opened is asked for in vain.
const MAX_REFUSED: u32 = 5;

/// What the canary says at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Old flows are answered, new ones are not.
    UsedUp,
    /// Nothing is answered.
    Unheard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No canary was answered yet: the search has not begun.
    First,
    /// The last one was answered, or still may be.
    Fine,
    /// One was not answered; the others may be until then, or later if they left late.
    /// So many confirmations have got no socket yet.
    Doubt(Instant, usize),
    Over(Verdict),
}

/// A question under way.
#[derive(Debug)]
struct Flight {
    id: TransactionId,
    socket: SocketId,
    to: SocketAddr,
    sent: Instant,
    until: Instant,
    /// Whether the question is a new flow.
    fresh: bool,
    /// Mappings that the search had made before it left.
    made: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Canary {
    servers: Vec<SocketAddr>,
    /// The server that is asked next.
    turn: usize,
    state: State,
    /// When the next one leaves; `None` while the search makes no mappings.
    next: Option<Instant>,
    /// Sockets that are needed, and those of them that were asked for.
    wanted: usize,
    opening: usize,
    refused: u32,
    flights: Vec<Flight>,
    timeout: Duration,
    /// When the latest of those that were answered had left, and the mappings that the search had made then.
    heard: Option<(Instant, u32)>,
    /// Mappings that the search has made, as far as it has said.
    made: u32,
    /// Whether the old flow was answered since there is doubt.
    old_flow: bool,
    transmits: Vec<Transmit>,
    closing: Vec<SocketId>,
    rng: ChaCha8Rng,
}

impl Canary {
    /// A canary that asks `servers`; `None` where there is none to ask.
    pub(crate) fn new(servers: Vec<SocketAddr>, rng: ChaCha8Rng, now: Instant) -> Option<Self> {
        (!servers.is_empty()).then(|| Self {
            servers,
            turn: 0,
            state: State::First,
            next: Some(now + INTERVAL),
            wanted: 1,
            opening: 0,
            refused: 0,
            flights: Vec::new(),
            timeout: FIRST_TIMEOUT,
            heard: None,
            made: 0,
            old_flow: false,
            transmits: Vec::new(),
            closing: Vec::new(),
            rng,
        })
    }

    /// Whether the search must not send: nothing is known yet, or there is doubt.
    pub(crate) fn holds_back(&self) -> bool {
        self.state != State::Fine
    }

    /// Mappings of the search beside which others still got theirs. What it has made since, the NAT may have dropped.
    pub(crate) fn granted(&self) -> u32 {
        self.heard.map_or(0, |(_, made)| made)
    }

    /// What the canary has found, if that ends the search.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        match self.state {
            State::Over(verdict) => Some(verdict),
            State::First | State::Fine | State::Doubt(..) => None,
        }
    }

    /// Whether one was answered that has left since `at`; if none is under way, one leaves now.
    pub(crate) fn is_heard_since(&mut self, at: Instant) -> bool {
        if self.heard.is_some_and(|(heard, _)| heard >= at) {
            return true;
        }
        let under_way =
            self.wanted + self.opening > 0 || self.flights.iter().any(|flight| flight.sent >= at);
        if self.state == State::Fine && !under_way {
            self.wanted += 1;
        }
        false
    }

    /// A socket is open, or could not be opened; returns whether it was asked for here.
    pub(crate) fn handle_socket(&mut self, socket: Option<SocketId>, now: Instant) -> bool {
        if self.opening == 0 {
            return false;
        }
        self.opening -= 1;
        match socket {
            Some(socket) => {
                self.ask(socket, true, now);
            }
            None => self.refused += 1,
        }
        true
    }

    /// A response has come; returns whether it answers a question of this canary.
    pub(crate) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let answers = |flight: &Flight| {
            flight.id == message.transaction && flight.socket == socket && flight.to == from
        };
        let Some(index) = self.flights.iter().position(answers) else {
            return false;
        };
        let flight = self.flights.swap_remove(index);
        if !flight.fresh {
            self.old_flow = true;
            return true;
        }
        self.closing.push(flight.socket);
        self.refused = 0;
        self.heard = self.heard.max(Some((flight.sent, flight.made)));
        let took = now.saturating_duration_since(flight.sent);
        self.timeout = TIMEOUT.max(2 * took).min(FIRST_TIMEOUT);
        if matches!(self.state, State::First | State::Doubt(..)) {
            self.state = State::Fine;
            self.next = Some(now + INTERVAL);
        }
        true
    }

    /// Whether a response with this transaction is for this canary.
    pub(crate) fn is_asking(&self, transaction: TransactionId) -> bool {
        self.flights.iter().any(|flight| flight.id == transaction)
    }

    /// Does what is due; `sending` tells whether the search makes mappings now, `made` how many it has made.
    pub(crate) fn handle_timeout(&mut self, sending: bool, made: u32, now: Instant) {
        self.made = made;
        let expired = self.flights.extract_if(.., |flight| flight.until <= now);
        let lost: Vec<_> = expired.filter(|flight| flight.fresh).collect();
        self.closing.extend(lost.iter().map(|flight| flight.socket));
        // One that left later and was answered tells more than one that was lost before.
        let heard = self.heard.map(|(at, _)| at);
        let in_doubt = lost
            .iter()
            .any(|flight| heard.is_none_or(|at| at < flight.sent));
        match self.state {
            State::First | State::Fine if in_doubt => self.doubt(now),
            State::First | State::Fine if self.refused >= MAX_REFUSED => {
                self.state = State::Over(Verdict::Unheard);
            }
            State::First if self.next.is_some_and(|at| at <= now) => {
                // The first may be lost, or have got no socket: the other side does not wait.
                self.wanted += usize::from(self.wanted + self.opening == 0);
                self.next = Some(now + INTERVAL);
            }
            State::Doubt(_, left @ 1..) if self.next.is_none_or(|at| at <= now) => {
                self.wanted += 1;
                self.next = Some(now + CONFIRMATION_INTERVAL);
                self.state = State::Doubt(now + self.timeout, left - 1);
            }
            State::Doubt(until, 0) if until <= now => self.decide(),
            State::Fine if sending && self.next.is_none_or(|at| at <= now) => {
                self.wanted += usize::from(self.wanted + self.opening == 0);
                self.next = Some(now + INTERVAL);
            }
            // What was made last must be looked at, too.
            State::Fine if !sending && self.next.take().is_some() => {
                self.wanted += usize::from(self.wanted + self.opening == 0);
            }
            _ => {}
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.state {
            State::First | State::Fine => self.next,
            State::Doubt(_, 1..) => self.next,
            State::Doubt(until, 0) => Some(until),
            State::Over(_) => None,
        };
        let flights = self.flights.iter().map(|flight| flight.until);
        flights.chain(own).min()
    }

    /// How many more sockets are needed.
    pub(crate) fn take_wanted(&mut self) -> usize {
        let wanted = std::mem::take(&mut self.wanted);
        self.opening += wanted;
        wanted
    }

    /// What leaves now.
    pub(crate) fn take_transmits(&mut self) -> Vec<Transmit> {
        std::mem::take(&mut self.transmits)
    }

    /// Sockets that have served.
    pub(crate) fn take_closing(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.closing)
    }

    /// The search is over: all sockets have served.
    pub(crate) fn stop(&mut self) {
        let fresh = self.flights.drain(..).filter(|flight| flight.fresh);
        self.closing.extend(fresh.map(|flight| flight.socket));
        (self.wanted, self.next) = (0, None);
    }

    /// The time of the confirmations is over: those under way are waited for, and without one of them nothing is proved.
    fn decide(&mut self) {
        let fresh = self.flights.iter().filter(|flight| flight.fresh);
        if let Some(last) = fresh.map(|flight| flight.until).max() {
            self.state = State::Doubt(last, 0);
            return;
        }
        let all_sent = self.refused == 0 && self.wanted + self.opening == 0;
        self.state = State::Over(if self.old_flow && all_sent {
            Verdict::UsedUp
        } else {
            Verdict::Unheard
        });
    }

    fn doubt(&mut self, now: Instant) {
        self.turn += 1;
        self.next = Some(now + CONFIRMATION_INTERVAL);
        self.state = State::Doubt(now + self.timeout, CONFIRMATIONS - 1);
        (self.old_flow, self.refused) = (false, 0);
        self.wanted = 1;
        for _ in 0..self.servers.len().min(2) {
            self.ask(SocketId::MAIN_V4, false, now);
        }
    }

    fn ask(&mut self, socket: SocketId, fresh: bool, now: Instant) {
        let turn = self.turn;
        let doubtful = matches!(self.state, State::Doubt(..));
        self.turn += usize::from(doubtful);
        let to = self.servers[turn % self.servers.len()];
        let id = transaction(&mut self.rng);
        self.flights.push(Flight {
            id,
            socket,
            to,
            sent: now,
            until: now + self.timeout,
            fresh,
            made: self.made,
        });
        let bytes = Writer::new(Class::Request, id).finish();
        self.transmits.push(Transmit::new(socket, to, bytes));
    }
}
