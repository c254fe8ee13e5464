//! The attempts at a direct path to one peer: the one that serves, and its successor.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, Capability, Ipv4Range, Note, Prediction, RelayToken};
use punch_stun_protocol::Message;
use punch_traversal::{
    Agent, DirectPath, SocketId, Step, heard, is_searching, planned_search, round_trip,
    set_lifetime,
};

use super::Outputs;
use super::attempt::{Attempt, Links, NewAttempt};
use super::farewell::Away;
use super::proof::Proof;
use super::relayed::{Relayed, RelayedConfig};
use super::remains::Remains;
use super::retry::RETRY_MIN;
use super::tcp::{Tcp, take_tcp};
use crate::ServerId;
use crate::path::{Path, RelayPath, TcpPath};
use crate::relays::RelayOrders;
use crate::traffic::PeerTraffic;

/// At most two attempts, the one that serves and its successor, and what is left of those before.
#[derive(Default)]
pub(crate) struct Attempts {
    /// The one that serves, if it has a path, stands first; its successor behind it.
    live: VecDeque<Attempt>,
    count: u64,
    /// What attempts that are over have left.
    remains: Remains,
    /// Whether no relay may carry anything of this peer's.
    direct_only: bool,
}

impl Attempts {
    /// Whether the peer is never to be reached over relays.
    pub(crate) fn is_direct_only(&self) -> bool {
        self.direct_only
    }

    /// From now on relays may carry the peer's packets, or not. Links that stand are left at once then; where relays are allowed again,
    /// the next exchange agrees on them. Returns whether that is another answer than before.
    pub(crate) fn set_direct_only(&mut self, direct_only: bool, now: Instant) -> bool {
        if self.direct_only == direct_only {
            return false;
        }
        self.direct_only = direct_only;
        for attempt in self.live.iter_mut().filter(|_| direct_only) {
            let token = attempt.links.relayed.token();
            let links = attempt.links.relayed.forbid(now);
            self.remains.forbid(token, links);
        }
        if direct_only {
            self.remains.leave_links();
        }
        true
    }

    /// Begins an attempt beside the one that serves; all others end.
    pub(super) fn begin(&mut self, new: NewAttempt, now: Instant) {
        let kept = self.serving();
        self.retire(kept.map_or(0, |index| index + 1)..self.live.len());
        self.retire_until(kept.unwrap_or(0));
        if let Some(first) = self.live.front_mut().filter(|_| kept > Some(0)) {
            first.links.told = None;
        }
        self.count += 1;
        let relayed = RelayedConfig {
            agreed: new.relayed.agreed && !self.direct_only,
            ..new.relayed
        };
        self.live.push_back(Attempt {
            number: self.count,
            offered: new.offered,
            links: Links::new(Relayed::new(relayed), Tcp::new(new.tcp, now)),
            proof: Proof::new(new.exchange.preshared_key().is_some()),
            exchange: new.exchange,
            agent: new.agent,
            peer_range: new.peer_range,
            sent_candidates: new.sent_candidates,
            unmeasured: new.unmeasured,
            is_heard: false,
            began: now,
            give_up_at: None,
            waits: new.capabilities.contains(Capability::WaitsForReturn),
            whole: new.capabilities.contains(Capability::WantsWhole),
            away: None,
        });
    }

    /// Ends attempts; their sockets close soon.
    pub(super) fn retire(&mut self, range: Range<usize>) {
        let over = self.live.drain(range);
        over.for_each(|attempt| self.remains.take(attempt));
    }

    /// Ends the first attempts, so many.
    pub(super) fn retire_until(&mut self, count: usize) {
        self.retire(0..count.min(self.live.len()));
    }

    /// Ends all attempts.
    pub(super) fn retire_all(&mut self) {
        self.retire(0..self.live.len());
    }

    /// How many live.
    pub(crate) fn alive(&self) -> usize {
        self.live.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether all have failed, or there is none.
    pub(super) fn are_over(&self) -> bool {
        self.live.iter().all(|attempt| attempt.agent.has_failed())
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Attempt> {
        self.live.get_mut(index)
    }

    /// The attempt that serves, or the only one.
    pub(super) fn first(&self) -> Option<&Attempt> {
        self.live.front()
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Attempt> {
        self.live.iter().rev()
    }

    /// The direct path that the checks have selected.
    pub(super) fn direct_path(&self) -> Option<DirectPath> {
        self.first().and_then(|attempt| attempt.agent.path())
    }

    /// The link that carries the packets of a direct path in doubt.
    pub(crate) fn stands_in(&self) -> Option<Path> {
        self.first()?.links.stands_in
    }

    /// What serves where no direct path over UDP does.
    pub(super) fn link_path(&self) -> Option<Path> {
        self.first().and_then(|attempt| attempt.links.path())
    }

    /// A server has made a link for the attempt with this token; returns whether it is kept.
    pub(crate) fn handle_relay_ready(
        &mut self,
        token: RelayToken,
        path: RelayPath,
        now: Instant,
    ) -> bool {
        let mut attempts = self.live.iter_mut();
        let attempt = attempts.find(|attempt| attempt.links.relayed.token() == token);
        attempt.is_some_and(|attempt| attempt.links.relayed.handle_ready(path, now))
    }

    /// Links have ended; returns the token of an attempt that has lost one.
    pub(crate) fn handle_relay_gone(
        &mut self,
        is_gone: impl Fn(RelayPath) -> bool,
        now: Instant,
    ) -> Option<RelayToken> {
        self.remains.handle_gone(&is_gone);
        let mut lost = None;
        for attempt in &mut self.live {
            if attempt.links.relayed.handle_gone(&is_gone, now) {
                lost = Some(attempt.links.relayed.token());
            }
        }
        lost
    }

    /// A check or an answer has come over a relay link; returns whether that is one of these.
    pub(crate) fn handle_link_message(
        &mut self,
        path: RelayPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let mut links = self.live.iter_mut().map(|attempt| &mut attempt.links);
        links.any(|links| links.relayed.handle_message(path, message, now))
    }

    /// A packet of the peer's has come over a link, opened by its session's keys.
    pub(crate) fn handle_link_heard(&mut self, path: RelayPath, now: Instant) {
        for attempt in &mut self.live {
            attempt.links.relayed.handle_heard(path, now);
        }
    }

    // --- TCP connections ---

    /// Somebody has connected and sent a check: returns the number of the attempt whose peer that is.
    pub(crate) fn handle_call(
        &mut self,
        path: TcpPath,
        name: &[u8],
        message: &Message<'_>,
        now: Instant,
    ) -> Option<u64> {
        let mut attempts = self.live.iter_mut();
        let attempt = attempts.find(|attempt| attempt.agent.is_addressed(name))?;
        let kept = attempt.links.tcp.handle_call(path, message, now);
        kept.then_some(attempt.number)
    }

    fn tcp_of(&mut self, number: u64) -> Option<&mut Tcp> {
        let mut attempts = self.live.iter_mut();
        let of = attempts.find(|attempt| attempt.number == number)?;
        Some(&mut of.links.tcp)
    }

    /// The TCP connections of each attempt.
    pub(crate) fn tcp(&mut self) -> impl Iterator<Item = &mut Tcp> {
        self.live.iter_mut().map(|attempt| &mut attempt.links.tcp)
    }

    /// A connection that was to be made stands; returns whether it is still wanted.
    pub(crate) fn handle_connected(&mut self, number: u64, path: TcpPath, now: Instant) -> bool {
        let tcp = self.tcp_of(number);
        tcp.is_some_and(|tcp| tcp.handle_connected(path, now))
    }

    /// A connection has ended, or could not be made.
    pub(crate) fn handle_closed(&mut self, number: u64, path: TcpPath, now: Instant) {
        self.remains.handle_closed(path);
        if let Some(tcp) = self.tcp_of(number) {
            tcp.handle_closed(path, now);
        }
    }

    /// A check or an answer has come over a TCP connection; returns whether that is one of these.
    pub(crate) fn handle_tcp_message(
        &mut self,
        path: TcpPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        self.tcp().any(|tcp| tcp.handle_message(path, message, now))
    }

    /// A packet of the peer's has come over a TCP connection, opened by its session's keys.
    pub(crate) fn handle_tcp_heard(&mut self, path: TcpPath, now: Instant) {
        self.tcp().for_each(|tcp| tcp.handle_heard(path, now));
    }

    /// Whether the other end of a connection has shown that it is the peer.
    pub(crate) fn is_authentic(&self, path: TcpPath) -> bool {
        let mut tcp = self.live.iter().map(|attempt| &attempt.links.tcp);
        tcp.any(|tcp| tcp.is_authentic(path)) || self.remains.is_authentic(path)
    }

    /// The attempt that a new one begins beside, if any of them serves: the first while its direct path is not in doubt, otherwise the
    /// newest that has links, as at the other end.
    fn serving(&self) -> Option<usize> {
        let first = self.first()?;
        let direct = first.agent.path().map(|_| 0);
        direct
            .filter(|_| !first.links.in_doubt())
            .or_else(|| self.newest_with_links())
            .or(direct)
    }

    /// The newest attempt that has links, but for relays where the first leads straight to the peer over TCP.
    fn newest_with_links(&self) -> Option<usize> {
        let may_serve = |index: &usize| self.has_links(*index) && !self.waits_for_tcp(*index);
        let is_silent = |index: &usize| self.live[*index].links.are_silent();
        let mut attempts = 0..self.live.len();
        let speaking = attempts.rfind(|index| may_serve(index) && !is_silent(index));
        speaking.or_else(|| (0..self.live.len()).rfind(may_serve))
    }

    /// The direct path of the first attempt is lost: the newest one that has links stands first from now on, as it does at the other end.
    /// Returns what serves then.
    pub(super) fn handle_lost(&mut self) -> Option<Path> {
        self.retire_until(self.newest_with_links().unwrap_or(0));
        self.link_path()
    }

    /// Whether nothing more can come of an attempt: no path was found, and it has no links, which may serve at the peer.
    pub(super) fn is_spent(&self, index: usize) -> bool {
        let attempt = self.live.get(index);
        attempt.is_some_and(|attempt| attempt.agent.has_failed()) && !self.has_links(index)
    }

    /// Whether a session was announced for an attempt.
    pub(super) fn is_proven(&self, index: usize) -> bool {
        let attempt = self.live.get(index);
        attempt.is_some_and(|attempt| attempt.proof.is_announced())
    }

    fn has_links(&self, index: usize) -> bool {
        let attempt = self.live.get(index);
        attempt.is_some_and(|attempt| attempt.links.path().is_some())
    }

    /// Whether the relay link of a later attempt waits, because the first one leads straight to the peer over TCP.
    pub(super) fn waits_for_tcp(&self, index: usize) -> bool {
        let pair = self.first().zip(self.live.get(index));
        index > 0 && pair.is_some_and(|(first, later)| later.links.waits_for(&first.links))
    }

    /// The tokens with which servers are to be asked for links now, and which servers not: those of each attempt that has nothing
    /// before it that serves. A direct path of which a check is not answered yet may be dead, and a silent link be one that the peer has
    /// left.
    fn joins(&mut self) -> Vec<(RelayToken, Vec<ServerId>)> {
        let mut tokens = Vec::new();
        for attempt in &mut self.live {
            tokens.extend(attempt.links.relayed.join());
            let serves = match attempt.agent.path() {
                Some(_) => attempt.agent.is_answering(),
                None => attempt.links.path().is_some() && !attempt.links.are_silent(),
            };
            if serves {
                break;
            }
        }
        tokens
    }

    /// Whether the newest attempt began less than `age` ago.
    pub(super) fn are_younger_than(&self, age: Duration, now: Instant) -> bool {
        let newest = self.live.back();
        newest.is_some_and(|attempt| now.saturating_duration_since(attempt.began) < age)
    }

    /// Whether an exchange has just come about behind the first one, and takes its place if that is lost. Another offer would end it at
    /// the peer while its relay links are being made, and so on from one to the next.
    pub(super) fn have_young_successor(&self, now: Instant) -> bool {
        self.live.len() > 1 && self.are_younger_than(RETRY_MIN, now)
    }

    /// Whether the newest attempt began after `at`.
    pub(super) fn have_begun_since(&self, at: Instant) -> bool {
        let newest = self.live.back();
        newest.is_some_and(|attempt| attempt.began > at)
    }

    /// Whether the newest attempt began before this side's NAT was measured, and nothing has come of it; each is told once.
    pub(super) fn take_unmeasured(&mut self) -> bool {
        let newest = self.live.back_mut().filter(|attempt| !attempt.is_heard);
        newest.is_some_and(|attempt| std::mem::take(&mut attempt.unmeasured))
    }

    /// The round trip of the path that serves.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let first = self.first()?;
        match first.agent.path() {
            Some(_) => round_trip(&first.agent),
            None => match first.links.path()? {
                Path::Tcp(_) => first.links.tcp.round_trip(),
                _ => first.links.relayed.round_trip(),
            },
        }
    }

    /// The range of the peer's overlay IPv4 address, as the newest exchange has it.
    pub(crate) fn peer_range(&self) -> Option<Option<Ipv4Range>> {
        self.live.back().map(|attempt| attempt.peer_range)
    }

    // --- notes ---

    /// Opens a note, and finds the attempt that it belongs to.
    pub(crate) fn open(&mut self, envelope: &[u8]) -> Option<(usize, Note)> {
        let mut attempts = self.live.iter_mut().enumerate();
        attempts.find_map(|(index, attempt)| Some((index, attempt.open(envelope)?)))
    }

    /// A note about candidates that the peer has not heard of.
    pub(crate) fn seal_candidates(&mut self, candidates: &[Candidate]) -> Option<Vec<u8>> {
        self.live.back_mut()?.seal_candidates(candidates)
    }

    /// The note under every exchange.
    pub(super) fn seal_all(&mut self, note: &Note) -> Vec<Vec<u8>> {
        let attempts = self.live.iter_mut();
        attempts
            .filter_map(|attempt| attempt.exchange.seal(note).ok())
            .collect()
    }

    /// The peer is away for so many seconds.
    pub(crate) fn handle_away(&mut self, attempt: usize, seconds: u8, now: Instant) {
        if let Some(attempt) = self.live.get_mut(attempt) {
            attempt.away = Some(Away::new(seconds, now));
        }
    }

    /// The attempt whose peer was away and is not back in time, if there is one. Of the others nothing is awaited any more.
    pub(super) fn take_gone(&mut self, now: Instant) -> Option<usize> {
        let mut gone = None;
        for (index, attempt) in self.live.iter_mut().enumerate() {
            let heard = heard(&attempt.agent);
            if attempt.away.take_if(|away| away.is_back(heard)).is_some() {
                continue;
            }
            if attempt.away.take_if(|away| away.is_over(now)).is_some() {
                gone = Some(index);
            }
        }
        gone
    }

    /// The number of the next attempt.
    pub(crate) fn next_number(&self) -> u64 {
        self.count + 1
    }

    /// The peer has named more candidates to this attempt.
    pub(crate) fn handle_candidates(
        &mut self,
        attempt: usize,
        mut candidates: Vec<Candidate>,
        now: Instant,
    ) {
        if let Some(attempt) = self.live.get_mut(attempt) {
            let heard = take_tcp(&mut candidates);
            attempt.links.tcp.handle_candidates(&heard);
            attempt.agent.handle_candidates(candidates, now);
        }
    }

    /// The peer has told this attempt where its sequence of ports stands.
    pub(crate) fn handle_prediction(
        &mut self,
        attempt: usize,
        prediction: Prediction,
        now: Instant,
    ) {
        if let Some(attempt) = self.live.get_mut(attempt) {
            attempt.agent.handle_prediction(prediction, now);
            attempt.agent.handle_timeout(now);
        }
    }

    // --- checks ---

    /// The user-name fragments by which peers address the agents.
    pub(crate) fn fragments(&self) -> impl Iterator<Item = [u8; 8]> {
        self.live.iter().map(|attempt| attempt.agent.fragment())
    }

    /// A check request; returns whether it is for one of the agents.
    pub(crate) fn handle_request(
        &mut self,
        name: &[u8],
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let mut agents = self.live.iter_mut().map(|attempt| &mut attempt.agent);
        let Some(agent) = agents.find(|agent| agent.is_addressed(name)) else {
            return false;
        };
        agent.handle_request(socket, local, from, message, now);
        true
    }

    /// A response; returns whether it answers one of the agents.
    pub(crate) fn handle_response(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let mut agents = self.live.iter_mut().map(|attempt| &mut attempt.agent);
        let Some(agent) = agents.find(|agent| agent.owns(message)) else {
            return false;
        };
        agent.handle_response(socket, from, message, now);
        // What has ended with the answer is noticed now: nothing else may be due.
        agent.handle_timeout(now);
        true
    }

    /// Packets of the tunnel flow: so many bytes by now.
    pub(crate) fn handle_traffic(&mut self, traffic: &PeerTraffic, now: Instant) {
        if let Some(attempt) = self.live.front_mut() {
            attempt.handle_traffic(traffic, now);
        }
    }

    /// Checks all paths at once instead of at the next keepalive, and all TCP connections: one that is bound to an address that is gone
    /// tells nobody of that.
    pub(crate) fn verify_paths(&mut self, now: Instant) {
        self.verify_direct(now);
        self.tcp().for_each(|tcp| tcp.verify(now));
    }

    /// Checks all paths over UDP at once.
    pub(super) fn verify_direct(&mut self, now: Instant) {
        let attempts = self.live.iter_mut();
        attempts.for_each(|attempt| attempt.agent.verify_path(now));
    }

    /// An unused mapping lives for so long in this network, if that is known.
    pub(crate) fn set_lifetime(&mut self, lifetime: Option<Duration>, now: Instant) {
        let attempts = self.live.iter_mut();
        attempts.for_each(|attempt| set_lifetime(&mut attempt.agent, lifetime, now));
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for attempt in &mut self.live {
            attempt.handle_timeout(now);
            attempt.links.tcp.handle_timeout(now);
            let dead = attempt.links.relayed.handle_timeout(now);
            self.remains.take_links(dead);
        }
    }

    /// When [`Self::handle_timeout`] or [`Self::finish_drain`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let attempts = self.live.iter().filter_map(Attempt::poll_timeout);
        attempts.chain(self.remains.poll_timeout()).min()
    }

    // --- searches ---

    /// A socket is open, or could not be opened; returns whether the attempt that asked for it still lives.
    pub(crate) fn handle_socket(
        &mut self,
        number: u64,
        socket: Option<SocketId>,
        now: Instant,
    ) -> bool {
        let mut attempts = self.live.iter_mut();
        let Some(attempt) = attempts.find(|attempt| attempt.number == number) else {
            return false;
        };
        attempt.agent.handle_socket(socket, now);
        true
    }

    pub(crate) fn is_searching(&self) -> bool {
        self.live.iter().any(|attempt| is_searching(&attempt.agent))
    }

    /// Whether a search is under way or may still come.
    pub(crate) fn has_search(&self) -> bool {
        self.live.iter().any(|attempt| attempt.agent.has_search())
    }

    /// When a search could begin.
    pub(crate) fn search_at(&self) -> Option<Instant> {
        self.live.iter().filter_map(|a| a.agent.search_at()).min()
    }

    /// The search that wants to begin, and the agent that wants it.
    pub(super) fn waiting_search(&mut self, now: Instant) -> Option<(&mut Agent, Step)> {
        let mut agents = self.live.iter_mut().map(|attempt| &mut attempt.agent);
        let agent = agents.find(|agent| agent.wants_search(now))?;
        let step = planned_search(agent)?.clone();
        Some((agent, step))
    }

    // --- what is left ---

    /// Sets the deadlines of what is idle or over, and closes the sockets of attempts that have been over for long enough.
    pub(super) fn finish_drain(&mut self, out: &mut Outputs<'_>, now: Instant) {
        // Nothing is connected to for the successor of what leads straight to the peer.
        let mut serves = false;
        for attempt in &mut self.live {
            attempt.note_idle(now);
            serves |= attempt.mind_links(serves, out, now);
            while let Some(remote) = attempt.advance_tcp(out, now) {
                self.remains.make_way(remote, out);
                attempt.dial(remote, out);
            }
        }
        let serves = self.direct_path().is_some() || self.link_path().is_some();
        let awaits = !serves && !self.live.is_empty();
        self.remains.finish_drain(awaits, out, now);
        out.relay.joins.extend(self.joins());
    }

    /// Mappings of searches that ended with their attempts; each is told once.
    pub(super) fn take_unreported_mappings(&mut self) -> u32 {
        self.remains.take_mappings()
    }

    /// Ends everything at once; returns the sockets and connections that are still open, and what is to be done about relay links.
    pub(super) fn dissolve(&mut self) -> (Vec<SocketId>, Vec<TcpPath>, RelayOrders) {
        self.retire_all();
        self.remains.dissolve()
    }
}
