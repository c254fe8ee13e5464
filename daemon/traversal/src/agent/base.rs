//! The socket that checks over IPv4 leave from: the long-lived one, or a fresh one in a repeated attempt.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, MAX_CANDIDATES};
use punch_stun_protocol::{Class, Message, TransactionId, Writer};

use super::nats::{Nats, takes_fresh_base};
use crate::address::usable;
use crate::messages::Messages;
use crate::request::Requests;
use crate::socket::{Family, SocketId, Transmit};

/// STUN servers asked for the public address of a fresh socket.
const SERVERS: usize = 2;
/// How often each of these servers is asked.
const SENDS: u32 = 3;
/// No server's answer comes after this.
const ASKING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the end that answers waits for the other's fresh socket before it names its own.
const NAMING_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum State {
    /// The long-lived socket.
    Main,
    /// A fresh socket is being opened.
    Opening,
    /// The fresh socket is open, and its public address is being asked for.
    Asking(SocketId),
    /// The fresh socket is in use, with or without a known public address.
    Ready(SocketId),
}

/// The socket that checks over IPv4 leave from.
#[derive(Debug)]
pub(super) struct Base {
    state: State,
    samplers: Vec<SocketAddr>,
    asking: Requests<SocketAddr>,
    /// Candidates that wait for the fresh socket.
    postponed: Vec<Candidate>,
    /// Whether this end opens its NAT for the other's address before it names its own: the other one checks that as soon as it hears
    /// of it.
    opens_first: bool,
    /// The public address of the fresh socket, which the peer was not told, and until when that waits.
    unnamed: Option<(SocketAddr, Instant)>,
}

impl Base {
    /// `samplers` are the STUN servers that can tell the public address of a fresh socket.
    pub(super) fn new(nats: &Nats, samplers: Vec<SocketAddr>) -> Self {
        let fresh = nats.mine().is_some_and(takes_fresh_base) && !samplers.is_empty();
        Self {
            state: if fresh { State::Opening } else { State::Main },
            samplers,
            asking: Requests::new(),
            postponed: Vec::new(),
            opens_first: nats.opens_first(),
            unnamed: None,
        }
    }

    /// This side's NAT was opened for an address of the peer's.
    pub(super) fn handle_opened(&mut self) {
        self.opens_first = false;
    }

    /// When a pair is checked first that would be at `first`: where the peer's checks shall come before ours, not before it knows where
    /// ours come from.
    pub(super) fn first_check(&self, first: Instant, ordered: bool, now: Instant) -> Instant {
        let unknown = ordered && !self.is_settled();
        first.max(if unknown { now + ASKING_TIMEOUT } else { now })
    }

    /// The public address of the fresh socket, when the peer is to be told.
    pub(super) fn take_name(&mut self, now: Instant) -> Option<SocketAddr> {
        let waits = |until: Instant| self.opens_first && until > now;
        let (address, _) = self.unnamed.take_if(|(_, until)| !waits(*until))?;
        Some(address)
    }

    /// Whether a fresh socket is being opened.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening)
    }

    /// Whether the socket is open and its public address is known or not asked for any more.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state, State::Main | State::Ready(_))
    }

    /// The socket itself.
    pub(super) fn socket(&self) -> SocketId {
        match self.state {
            State::Ready(socket) | State::Asking(socket) => socket,
            State::Main | State::Opening => SocketId::MAIN_V4,
        }
    }

    /// The socket from which a candidate is checked; `None` while that is still being opened.
    pub(super) fn socket_for(&self, candidate: &Candidate) -> Option<SocketId> {
        let family = Family::of(candidate.address.ip());
        if family == Family::V6 || candidate.kind == CandidateKind::Host {
            return Some(SocketId::main(family));
        }
        (!self.is_opening()).then(|| self.socket())
    }

    /// Keeps a candidate for [`Self::handle_socket`] to return.
    pub(super) fn postpone(&mut self, candidate: Candidate) {
        if self.postponed.len() < MAX_CANDIDATES {
            self.postponed.push(candidate);
        }
    }

    /// The fresh socket is open, or could not be opened; returns the candidates that have waited for it.
    pub(super) fn handle_socket(
        &mut self,
        socket: Option<SocketId>,
        messages: &mut Messages,
        out: &mut VecDeque<Transmit>,
        now: Instant,
    ) -> Vec<Candidate> {
        self.state = match socket {
            None => State::Main,
            Some(socket) => {
                for server in self.samplers.iter().copied().take(SERVERS) {
                    let id = messages.transaction();
                    let transmit =
                        Transmit::new(socket, server, Writer::new(Class::Request, id).finish());
                    out.push_back(self.asking.start(id, transmit, server, SENDS, now));
                }
                State::Asking(socket)
            }
        };
        std::mem::take(&mut self.postponed)
    }

    /// Whether a response with this transaction answers a question for the public address.
    pub(super) fn is_asking(&self, transaction: TransactionId) -> bool {
        self.asking.contains(transaction)
    }

    /// A response has come; returns whether it was asked for here. See [`Self::take_name`].
    pub(super) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let id = message.transaction;
        let answered = self.asking.answered(id, socket, from, |_| false, now);
        if answered.is_none() {
            return false;
        }
        let told = message
            .mapped
            .filter(|at| at.is_ipv4() && at.port() != 0 && usable(at.ip()))
            .filter(|_| message.class == Class::Success);
        if let (State::Asking(base), Some(address)) = (&self.state, told) {
            self.state = State::Ready(*base);
            self.unnamed = Some((address, now + NAMING_PATIENCE));
        }
        self.give_up_asking();
        true
    }

    /// Does what is due; returns what is sent again.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Transmit> {
        let (again, lost) = self.asking.handle_timeout(now);
        if !lost.is_empty() {
            self.give_up_asking();
        }
        again
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let naming = self.unnamed.map(|(_, until)| until);
        [self.asking.next_timeout(), naming]
            .into_iter()
            .flatten()
            .min()
    }

    /// These sockets are closed.
    pub(super) fn handle_closed(&mut self, gone: &[SocketId]) {
        if let State::Asking(base) | State::Ready(base) = self.state
            && gone.contains(&base)
        {
            self.state = State::Main;
            self.asking.clear();
            self.unnamed = None;
        }
    }

    /// Where no server has told the fresh socket's address, and none is left to do so, the peer will see where packets come from.
    fn give_up_asking(&mut self) {
        if self.asking.is_empty()
            && let State::Asking(base) = self.state
        {
            self.state = State::Ready(base);
        }
    }
}
