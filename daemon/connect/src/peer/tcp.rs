//! An attempt's TCP connections, for where UDP does not pass: whom this end connects to and when, and which connection serves.
//!
//! Once checks over UDP have had their time, each end tells the other where it takes connections, and connects to what it has heard of,
//! one address after the other, until one is answered. A connection brings its own checks; before one of them shows that the other end
//! is the peer, nothing else goes over it, and nothing else is taken from it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials};
use punch_stun_protocol::Message;
use punch_traversal::{LinkCheck, LinkHealth, Traffic, usable};

use super::links::CheckedLinks;
use crate::path::TcpPath;

/// Addresses that an attempt connects to, of those at which the peer takes connections.
const MAX_PASSIVE: usize = 4;
/// Addresses that an attempt connects to, of those from which the peer connects at the same time.
const MAX_SIMULTANEOUS: usize = 2;
/// Connections of an attempt, made and taken.
const MAX_TCP: usize = 8;
/// Checks over UDP have this time before TCP is tried.
const PATIENCE: Duration = Duration::from_secs(1);
/// The end that has answered waits longer, so that not both connect.
const ANSWERER: Duration = Duration::from_millis(500);
/// Between connecting to one address and to the next.
const SPACING: Duration = Duration::from_millis(300);

/// What the connections of an attempt are made from.
#[derive(Debug)]
pub(crate) struct TcpConfig {
    /// Whether this machine makes and takes TCP connections.
    pub(super) enabled: bool,
    /// Whether the offer was this machine's.
    pub(super) offered: bool,
    /// Where the peer takes connections, as far as it has said so.
    pub(super) heard: Vec<Candidate>,
    /// Whether it is known that no UDP passes.
    pub(super) udp_blocked: bool,
    /// This end's, and the other's.
    pub(super) credentials: [Credentials; 2],
    pub(super) seed: u64,
}

impl TcpConfig {
    /// How long this end lets the other one go first.
    fn turn(&self) -> Duration {
        match self.offered {
            true => Duration::ZERO,
            false => ANSWERER,
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The peer is to hear where this machine takes connections.
    Tell,
    /// This address is to be connected to; [`Tcp::handle_dial`] tells the number.
    Dial(SocketAddr),
}

/// Takes the candidates over TCP out.
pub(super) fn take_tcp(candidates: &mut Vec<Candidate>) -> Vec<Candidate> {
    let is_tcp = |candidate: &mut Candidate| {
        matches!(
            candidate.kind,
            CandidateKind::TcpPassive | CandidateKind::TcpSimultaneous
        )
    };
    candidates.extract_if(.., is_tcp).collect()
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tcp {
    config: TcpConfig,
    /// When the peer is told.
    tell_at: Option<Instant>,
    /// When the next address has its turn.
    dial_at: Instant,
    /// Addresses of the peer's that wait for their turn.
    heard: VecDeque<SocketAddr>,
    /// All addresses of the peer's that have, had or await their turn: none is connected to twice.
    known: Vec<Candidate>,
    /// Connections that are being made.
    dials: Vec<TcpPath>,
    /// Connections that stand. A path over UDP goes before them, and so does an attempt before this one that leads straight to the peer.
    links: CheckedLinks<TcpPath>,
    /// Those of them that this end has made.
    dialled: Vec<TcpPath>,
    /// Connections that are to be closed.
    closing: Vec<TcpPath>,
}

impl Tcp {
    /// No connection yet.
    pub(super) fn new(mut config: TcpConfig, now: Instant) -> Self {
        let patience = match config.udp_blocked {
            true => Duration::ZERO,
            false => PATIENCE,
        };
        let turn = config.turn();
        let heard = std::mem::take(&mut config.heard);
        let mut tcp = Self {
            tell_at: config.enabled.then_some(now + patience),
            dial_at: now + patience + turn,
            config,
            heard: VecDeque::new(),
            known: Vec::new(),
            dials: Vec::new(),
            links: CheckedLinks::new(),
            dialled: Vec::new(),
            closing: Vec::new(),
        };
        tcp.handle_candidates(&heard);
        tcp
    }

    // --- what is known ---

    /// The connection that serves, or would.
    pub(super) fn path(&self) -> Option<TcpPath> {
        self.links.chosen()
    }

    /// Whether the connection that serves, or would, was answered and may be again: it was just asked anew, or answers.
    pub(super) fn stands(&self) -> bool {
        let serving = self.links.serving();
        serving.is_some_and(|check| check.has_answered() && check.health() <= LinkHealth::New)
    }

    /// Whether the connection that serves, or would, is answered.
    pub(super) fn answers(&self) -> bool {
        let health = self.links.serving().map(LinkCheck::health);
        health == Some(LinkHealth::Answers)
    }

    /// The round trip of the connection that serves, or would.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.links.serving()?.round_trip()
    }

    /// Whether the other end of a connection has shown that it is the peer.
    pub(super) fn is_authentic(&self, path: TcpPath) -> bool {
        self.links.get(path).is_some_and(LinkCheck::is_heard)
    }

    // --- what comes in ---

    /// The peer takes connections at these addresses, or says so.
    pub(super) fn handle_candidates(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            let (kind, address) = (candidate.kind, candidate.address);
            let fits = address.port() != 0 && usable(address.ip());
            let known = self.known.iter();
            let alike = known.clone().filter(|known| known.kind == kind).count();
            let is_known = known.clone().any(|known| known.address == address);
            let is_simultaneous = kind == CandidateKind::TcpSimultaneous;
            let most = if is_simultaneous {
                MAX_SIMULTANEOUS
            } else {
                MAX_PASSIVE
            };
            if !self.config.enabled || !fits || is_known || alike >= most {
                continue;
            }
            self.known.push(*candidate);
            match is_simultaneous {
                // The peer connects just now, or has just begun to.
                true => self.heard.push_front(address),
                false => self.heard.push_back(address),
            }
        }
    }

    /// The address whose turn it was is being connected to.
    pub(super) fn handle_dial(&mut self, path: TcpPath) {
        self.dials.push(path);
    }

    /// A connection that was to be made stands; returns whether it is still wanted.
    pub(super) fn handle_connected(&mut self, path: TcpPath, now: Instant) -> bool {
        let Some(index) = self.dials.iter().position(|dial| *dial == path) else {
            return false;
        };
        self.dials.remove(index);
        let check = self.check(path, now);
        self.links.add(path, check);
        self.dialled.push(path);
        true
    }

    /// Somebody has connected and sent this: returns whether it is the peer, whose connection is kept then.
    pub(super) fn handle_call(
        &mut self,
        path: TcpPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        if !self.config.enabled || self.links.len() + self.dials.len() >= MAX_TCP {
            return false;
        }
        let mut check = self.check(path, now);
        check.handle_message(message, now);
        let is_peer = check.is_heard();
        if is_peer {
            self.links.add(path, check);
            self.choose(now);
        }
        is_peer
    }

    /// A connection has ended, or could not be made; returns whether it was one of these.
    pub(super) fn handle_closed(&mut self, path: TcpPath, now: Instant) -> bool {
        let before = self.links.len() + self.dials.len();
        self.links.retain(|link, _| link != path);
        self.dials.retain(|dial| *dial != path);
        self.choose(now);
        self.links.len() + self.dials.len() < before
    }

    /// A message has come; returns whether it is a check or an answer of the peer's, over one of these connections.
    pub(super) fn handle_message(
        &mut self,
        path: TcpPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let taken = self.links.handle_message(path, message, now) == Some(true);
        if taken {
            self.choose(now);
        }
        taken
    }

    /// A packet of the peer's has come over a connection, opened by its session's keys.
    pub(super) fn handle_heard(&mut self, path: TcpPath, now: Instant) {
        self.links.handle_heard(path, now);
    }

    /// Packets of the tunnel go over the connection that serves: so many bytes by now.
    pub(super) fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        self.links.handle_traffic(traffic, now);
    }

    /// Whether a path over UDP serves now, or an attempt before this one leads straight to the peer: nothing is connected to meanwhile.
    pub(super) fn set_behind(&mut self, behind: bool, now: Instant) {
        match (self.links.set_behind(behind, now), behind) {
            (true, true) => self.give_up_others(),
            (true, false) => self.dial_at = self.dial_at.max(now + self.config.turn()),
            (false, _) => {}
        }
    }

    /// The network or this machine's time is another: each connection is to show that it still stands.
    pub(super) fn verify(&mut self, now: Instant) {
        self.links.verify(now);
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.closing.extend(self.links.handle_timeout(now));
        self.choose(now);
    }

    /// There is one more address at which this machine takes connections.
    pub(crate) fn tell_again(&mut self, now: Instant) {
        if self.config.enabled && self.tell_at.is_none() && self.links.chosen().is_none() {
            self.tell_at = Some(now);
        }
    }

    // --- what goes out ---

    /// What is due now, once.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<Due> {
        if self.links.is_behind() {
            return None;
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            return Some(Due::Tell);
        }
        if self.links.chosen().is_some() || self.dial_at > now {
            return None;
        }
        let address = self.heard.pop_front()?;
        self.dial_at = now + SPACING;
        Some(Due::Dial(address))
    }

    /// The next check or answer, and the connection that it goes over.
    pub(super) fn poll_message(&mut self) -> Option<(TcpPath, Vec<u8>)> {
        self.links.poll_message()
    }

    /// The next connection that is to be closed.
    pub(super) fn poll_closing(&mut self) -> Option<TcpPath> {
        self.closing.pop()
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_due`] want to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let checks = self.links.poll_timeout();
        let behind = self.links.is_behind();
        let dials = !behind && self.links.chosen().is_none() && !self.heard.is_empty();
        let dial_at = dials.then_some(self.dial_at);
        let tell_at = self.tell_at.filter(|_| !behind);
        checks.into_iter().chain(dial_at).chain(tell_at).min()
    }

    /// All connections, which are to be closed, and whether the peer has been heard over each.
    pub(super) fn into_connections(self) -> Vec<(TcpPath, bool)> {
        let links = self.links.paths();
        let links = links.map(|path| (path, self.is_authentic(path)));
        let others = self.dials.iter().chain(&self.closing);
        links.chain(others.map(|path| (*path, false))).collect()
    }

    // --- inside ---

    fn check(&self, path: TcpPath, now: Instant) -> LinkCheck {
        let seed = self.config.seed.wrapping_add(u64::from(path.connection.0));
        LinkCheck::over_stream(self.config.credentials.clone(), path.remote, seed, now)
    }

    /// Of those that were answered one is chosen; when the first one is, no other is needed.
    fn choose(&mut self, now: Instant) {
        let is_first = self.links.chosen().is_none();
        self.links.choose(LinkCheck::has_answered, now);
        if is_first && self.links.chosen().is_some() {
            self.give_up_others();
        }
        let links = &self.links;
        self.dialled.retain(|path| links.get(*path).is_some());
    }

    /// Closes what this end was connecting to beside the connection that has been answered first.
    fn give_up_others(&mut self) {
        self.closing.append(&mut self.dials);
        let (chosen, dialled) = (self.links.chosen(), &self.dialled);
        let idle = self.links.retain(|path, check| {
            !dialled.contains(&path) || Some(path) == chosen || check.has_answered()
        });
        self.closing.extend(idle);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
