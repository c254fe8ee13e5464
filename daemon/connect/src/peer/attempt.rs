//! One attempt: an exchange and its checks, over UDP, over relay links and over TCP.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::seal::{Exchange, ExchangeKeys, PresharedKey};
use punch_signal_protocol::{
    Candidate, CandidateKind, Capabilities, Ipv4Range, MAX_CANDIDATES, Note,
};
use punch_traversal::{Agent, AgentEvent, Family, handle_detour, is_doubtful, known_mtu};

use super::Outputs;
use super::farewell::Away;
use super::proof::Proof;
use super::relayed::{Relayed, RelayedConfig};
use super::tcp::{Due, Tcp, TcpConfig};
use crate::course::Cause;
use crate::path::Path;
use crate::traffic::PeerTraffic;
use crate::{ConnectorEvent, News, SocketOrder, TcpOrder};

/// An attempt in which nothing is due is given up after this.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(5);

/// What can serve where no path over UDP does.
pub(super) struct Links {
    pub(super) relayed: Relayed,
    pub(super) tcp: Tcp,
    /// What serves, or would, as it was told last.
    pub(super) told: Option<Path>,
    /// Whether the last checks of the direct path were not answered.
    in_doubt: bool,
    /// What carries the packets of a direct path that is in doubt.
    pub(super) stands_in: Option<Path>,
    /// Bytes that had come in over links when that was last looked at.
    received: Option<u64>,
}

impl Links {
    /// None yet.
    pub(super) fn new(relayed: Relayed, tcp: Tcp) -> Self {
        Self {
            relayed,
            tcp,
            told: None,
            in_doubt: false,
            stands_in: None,
            received: None,
        }
    }

    /// What serves where no path over UDP does: a TCP connection, which leads straight to the peer, or a relay link.
    pub(super) fn path(&self) -> Option<Path> {
        let tcp = self.tcp.path().map(Path::Tcp);
        let relayed = self.relayed.path().map(Path::Relayed);
        match self.tcp.answers() {
            true => tcp,
            false => relayed.or(tcp),
        }
    }

    /// What can carry the packets of a direct path that is in doubt or not: what has answered since the doubt began. Nothing was asked of
    /// it before that, and what has cut the path may have cut it, too.
    fn stand_in(&mut self, in_doubt: bool, now: Instant) -> Option<Path> {
        let began = in_doubt && !self.in_doubt;
        self.in_doubt = in_doubt;
        if began {
            self.relayed.verify(now);
            self.tcp.verify(now);
        }
        let answers = self.tcp.answers() || self.relayed.answers();
        self.path().filter(|_| in_doubt && answers)
    }

    /// Whether the last checks of the direct path were not answered.
    pub(super) fn in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Whether the last checks of what serves, or would, were not answered.
    pub(super) fn are_silent(&self) -> bool {
        !self.tcp.answers() && self.relayed.is_silent()
    }

    /// Whether these are of a later attempt that has but a relay, and those `before` it have a connection that answers.
    pub(super) fn waits_for(&self, before: &Self) -> bool {
        before.tcp.stands() && matches!(self.path(), Some(Path::Relayed(_)))
    }

    /// What serves where no path over UDP does, if that is something else than before.
    pub(super) fn take_change(&mut self) -> Option<Option<Path>> {
        let link = self.path();
        let before = std::mem::replace(&mut self.told, link);
        (self.relayed.take_changed() | (link != before)).then_some(link)
    }

    /// Packets of the tunnel go over this link of these; returns whether any have come in over links since the last call.
    fn handle_traffic(&mut self, link: Option<Path>, traffic: &PeerTraffic, now: Instant) -> bool {
        match link {
            Some(Path::Tcp(_)) => self.tcp.handle_traffic(traffic.over_tcp(), now),
            Some(_) => self.relayed.handle_traffic(traffic.over_relay(), now),
            None => {}
        }
        let received = traffic.received_over_links();
        let before = self.received.replace(received);
        before.is_some_and(|before| before != received)
    }

    /// `direct` is whether a path over UDP serves undisturbed, `straight` whether something else leads straight to the peer: what is
    /// not needed is not checked, and nothing is connected to.
    fn set_behind(&mut self, direct: bool, straight: bool, now: Instant) {
        self.tcp.set_behind(direct || straight, now);
        self.relayed.set_behind(direct || self.tcp.answers(), now);
    }
}

/// One exchange and its checks.
pub(super) struct Attempt {
    /// Tells this attempt from those before.
    pub(super) number: u64,
    /// Whether the offer was this machine's.
    pub(super) offered: bool,
    pub(super) exchange: Exchange,
    pub(super) agent: Agent,
    pub(super) links: Links,
    pub(super) proof: Proof,
    pub(super) peer_range: Option<Ipv4Range>,
    /// Candidates that the peer has heard of.
    pub(super) sent_candidates: Vec<Candidate>,
    /// Whether this side's NAT was still being measured when the peer was told of it.
    pub(super) unmeasured: bool,
    /// Whether checks have come from the peer, or answers to ours: there will be a path.
    pub(super) is_heard: bool,
    pub(super) began: Instant,
    /// When an agent that waits for nothing but more candidates is given up.
    pub(super) give_up_at: Option<Instant>,
    /// Whether the peer waits for who is away.
    pub(super) waits: bool,
    /// Whether the peer gets packets whole over IPv4, as soon as it is known that they fit.
    pub(super) whole: bool,
    /// The peer is away, or was.
    pub(super) away: Option<Away>,
}

impl Attempt {
    /// The key that the exchange has agreed on; `None` as long as the ML-KEM exchange behind compact envelopes is not done.
    pub(super) fn preshared_key(&self) -> Option<&PresharedKey> {
        self.exchange.preshared_key()
    }

    /// Lets a link carry the packets while the checks of the direct path go unanswered, and the path itself as soon as one is answered:
    /// tells of each change. `straight` is whether an attempt before this one leads straight to the peer; returns whether this one does.
    pub(super) fn mind_links(
        &mut self,
        straight: bool,
        out: &mut Outputs<'_>,
        now: Instant,
    ) -> bool {
        let direct = self.agent.path();
        let in_doubt = direct.is_some() && is_doubtful(&self.agent);
        let doubtful = self.links.stand_in(in_doubt, now);
        let stood_in = std::mem::replace(&mut self.links.stands_in, doubtful);
        // Nothing is connected to because of a doubt: only a connection that stands in is checked.
        let spare = direct.is_some() && !matches!(doubtful, Some(Path::Tcp(_)));
        let serves = direct.is_some() && !in_doubt;
        self.links.set_behind(serves, straight || spare, now);
        let peer = out.peer;
        match (direct, doubtful) {
            (Some(_), Some(path)) if stood_in != doubtful => {
                out.turn(path, Cause::Silent, now);
            }
            (Some(path), None) if stood_in.is_some() => {
                out.turn(path.into(), Cause::Recovered, now);
                if let Some(mtu) = known_mtu(&self.agent) {
                    let whole = self.whole && path.remote.is_ipv4();
                    out.news(News::Mtu {
                        peer,
                        path,
                        mtu,
                        whole,
                    });
                }
            }
            _ => {}
        }
        direct.is_some() || self.links.tcp.answers()
    }

    /// Packets of the tunnel flow: so many bytes by now. A peer that sends over a link while a direct path serves here has lost that path,
    /// and from here it may be dead as well.
    pub(super) fn handle_traffic(&mut self, traffic: &PeerTraffic, now: Instant) {
        let direct = self.agent.path().is_some();
        let link = match direct {
            true => self.links.stands_in,
            false => self.links.path(),
        };
        let detoured = self.links.handle_traffic(link, traffic, now);
        self.agent.handle_traffic(traffic.over_udp(), now);
        if direct && link.is_none() && detoured {
            handle_detour(&mut self.agent, now);
        }
    }

    /// Tells the peer where this machine takes TCP connections, as far as that is due; returns the next address of the peer's that it is time
    /// to connect to.
    pub(super) fn advance_tcp(
        &mut self,
        out: &mut Outputs<'_>,
        now: Instant,
    ) -> Option<SocketAddr> {
        while let Some(due) = self.links.tcp.poll_due(now) {
            match due {
                Due::Tell => {
                    let seen = &mut out.connections.seen;
                    let asked = seen.ask(&out.local.tcp_samplers(), now).into_iter();
                    let orders = asked.map(|server| ConnectorEvent::Tcp(TcpOrder::Ask(server)));
                    out.events.extend(orders);
                    let told = out.local.tcp_candidates(seen.addresses(now));
                    out.envelopes.extend(self.seal_candidates(&told));
                }
                // A peer may name any address; programs of this machine are to be reached by none.
                Due::Dial(remote) if out.local.is_own(remote.ip()) => {}
                // It may be somebody's who has nothing to do with this. The next attempt tries again.
                Due::Dial(remote) if !out.connections.dials.take(out.peer, remote.ip(), now) => {}
                Due::Dial(remote) => return Some(remote),
            }
        }
        // What the drain itself has made superfluous is among them.
        while let Some(path) = self.links.tcp.poll_closing() {
            out.hang_up(path);
        }
        None
    }

    /// Connects to the peer there.
    pub(super) fn dial(&mut self, remote: SocketAddr, out: &mut Outputs<'_>) {
        let path = out.connections.number(remote);
        let owner = (out.peer, self.number);
        out.connections.add(path.connection, owner);
        self.links.tcp.handle_dial(path);
        let order = TcpOrder::Dial(path);
        out.events.push_back(ConnectorEvent::Tcp(order));
    }

    /// What another process needs to go on with the exchange.
    pub(super) fn bequeath(&self) -> Option<ExchangeKeys> {
        self.exchange.bequeath()
    }

    /// The range of the peer's overlay IPv4 address.
    pub(super) fn peer_range(&self) -> Option<Ipv4Range> {
        self.peer_range
    }

    /// Opens a note of the peer that belongs to this exchange.
    pub(super) fn open(&mut self, envelope: &[u8]) -> Option<Note> {
        self.exchange.open(envelope).ok()
    }

    /// The path that checks have found, whether packets may take it yet or not.
    pub(super) fn found(&self) -> Option<Path> {
        let direct = self.agent.path().map(Path::Direct);
        direct.or_else(|| self.links.path())
    }

    /// A note has come over a path; returns whether it was one of the ML-KEM exchange. An exchange that had it in its envelopes is not even
    /// looked at.
    pub(super) fn handle_kem(&mut self, note: &[u8]) -> bool {
        if !self.proof.is_compact() {
            return false;
        }
        let Some(note @ (Note::KemKey(_) | Note::KemCiphertext(_))) = self.open(note) else {
            return false;
        };
        let agreed = self.exchange.handle_kem(&note).unwrap_or(false);
        self.proof
            .handle_note(agreed, matches!(note, Note::KemKey(_)));
        true
    }

    /// A note about candidates that the peer has not heard of.
    pub(super) fn seal_candidates(&mut self, candidates: &[Candidate]) -> Option<Vec<u8>> {
        let fresh: Vec<_> = candidates
            .iter()
            .filter(|candidate| !self.sent_candidates.contains(candidate))
            .copied()
            .take(MAX_CANDIDATES)
            .collect();
        if fresh.is_empty() {
            return None;
        }
        self.sent_candidates.extend_from_slice(&fresh);
        let excess = self
            .sent_candidates
            .len()
            .saturating_sub(4 * MAX_CANDIDATES);
        self.sent_candidates.drain(..excess);
        self.exchange.seal(&Note::Candidates(fresh)).ok()
    }

    /// Carries away the agent's datagrams, and what goes over links.
    pub(super) fn drain_transmits(&mut self, out: &mut Outputs<'_>, now: Instant) {
        while let Some((path, message)) = self.links.relayed.poll_message() {
            let path = Path::Relayed(path);
            out.events.push_back(ConnectorEvent::Link { path, message });
        }
        while let Some((path, message)) = self.links.tcp.poll_message() {
            let path = Path::Tcp(path);
            out.events.push_back(ConnectorEvent::Link { path, message });
        }
        while let Some(transmit) = self.agent.poll_transmit() {
            out.transactions.note(&transmit.bytes, out.peer, now);
            out.transmits.push_back(transmit);
        }
    }

    /// The agent's next event that concerns more than this attempt's own sockets and notes.
    pub(super) fn poll_event(&mut self, out: &mut Outputs<'_>) -> Option<AgentEvent> {
        loop {
            match self.agent.poll_event()? {
                AgentEvent::OpenSockets(count) => {
                    for _ in 0..count {
                        let socket = out.sockets.number_for(out.peer, self.number);
                        let family = Family::V4;
                        out.order(SocketOrder::Open { socket, family });
                    }
                }
                AgentEvent::CloseSocket(socket) => out.close(socket),
                AgentEvent::Mtu(mtu) => {
                    let peer = out.peer;
                    if let Some(path) = self.agent.path() {
                        let whole = self.whole && path.remote.is_ipv4();
                        out.news(News::Mtu {
                            peer,
                            path,
                            mtu,
                            whole,
                        });
                    }
                }
                AgentEvent::Reflexive(address) => {
                    let kind = CandidateKind::ServerReflexive;
                    let candidate = Candidate::new(kind, address);
                    self.sent_candidates.push(candidate);
                    let note = Note::Candidates(vec![candidate]);
                    out.envelopes.extend(self.exchange.seal(&note).ok());
                }
                AgentEvent::Predicted(prediction) => {
                    let note = Note::Prediction(prediction);
                    out.envelopes.extend(self.exchange.seal(&note).ok());
                }
                event => {
                    self.is_heard |= event == AgentEvent::Proven;
                    return Some(event);
                }
            }
        }
    }

    /// Gives an agent in which nothing is due some time, since the peer may still name candidates; without this deadline such an
    /// agent would never say that it has failed.
    pub(super) fn note_idle(&mut self, now: Instant) {
        let busy = self.agent.poll_timeout().is_some() || self.agent.path().is_some();
        let idle = !busy && !self.agent.has_failed();
        let give_up_at = self.give_up_at.unwrap_or(now + CANDIDATE_TIMEOUT);
        self.give_up_at = idle.then_some(give_up_at);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.away.as_mut().is_some_and(|away| away.take_ask(now)) {
            self.agent.verify_path(now);
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        // An agent that waits for candidates is not to be asked before its time: it would say that it has failed.
        if due(self.agent.poll_timeout()) || due(self.give_up_at) {
            self.give_up_at = self.give_up_at.filter(|at| *at > now);
            self.agent.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.agent.poll_timeout(),
            self.links.relayed.poll_timeout(),
            self.links.tcp.poll_timeout(),
            self.give_up_at,
            // A key that is due goes out with the next path, however long there is none.
            self.proof.poll_timeout().filter(|_| self.found().is_some()),
            self.away.as_ref().map(Away::poll_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// What an attempt begins with.
pub(super) struct NewAttempt {
    pub(super) offered: bool,
    pub(super) exchange: Exchange,
    pub(super) agent: Agent,
    pub(super) peer_range: Option<Ipv4Range>,
    pub(super) sent_candidates: Vec<Candidate>,
    /// Whether this side's NAT was still being measured when the peer was told of it.
    pub(super) unmeasured: bool,
    pub(super) relayed: RelayedConfig,
    pub(super) tcp: TcpConfig,
    /// What the peer can do, and wants.
    pub(super) capabilities: Capabilities,
}
