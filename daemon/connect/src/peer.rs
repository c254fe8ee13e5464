//! The connection with one peer: who wants it, which offers are made for it, and the attempts at a path.
//!
//! What is wanted ([`Demand`]) and what is reached ([`LinkState`]) are two machines. The first is moved by the user and by the
//! peer:
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Nobody
//!     Nobody --> User: up
//!     Nobody --> Arriving: the peer proves its own offer
//!     Arriving --> Served: a path is selected
//!     Served --> Lost: the path dies
//!     Served --> Arriving: the attempt ends otherwise
//!     Lost --> Served: a path is selected
//!     Arriving --> Nobody: 10 minutes, or goodbye
//!     Lost --> Nobody: 10 minutes, or goodbye
//!     Served --> Nobody: goodbye
//!     Arriving --> User: up
//!     Served --> User: up
//!     Lost --> User: up
//!     User --> Blocked: down
//!     Nobody --> Blocked: down
//!     Arriving --> Blocked: down
//!     Served --> Blocked: down
//!     Lost --> Blocked: down
//!     Blocked --> User: up
//!     User --> Nobody: unsaid
//!     Blocked --> Nobody: unsaid
//!     note right of Lost: servers tell when the peer logs in (of User, too)
//!     note right of Blocked: the peer's offers are refused
//! ```
//!
//! The second follows from what is out and what is under way:
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> Down
//!     Down --> Waiting: wanted, no server knows the peer
//!     Down --> Connecting: wanted, an offer is out
//!     Down --> Connecting: the peer's offer is answered
//!     Waiting --> Connecting: the peer appears, an offer goes out
//!     Connecting --> Waiting: every server says that the peer is offline
//!     Connecting --> Connected: a path is selected
//!     Connected --> Connecting: the path is lost, a new offer goes out
//!     Connected --> Connected: a successor's path is selected
//!     Connecting --> Down: nothing has worked and nobody wants it
//!     Connected --> Down: goodbye
//! ```
//!
//! [`Calls`] holds the offers, and what servers and the peer say to them; its `retry` alone says when the next one goes out, and has
//! one reset. [`Attempts`] holds at most two: while the first serves, a successor is checked beside it, and takes its place when it
//! has a path.

pub(crate) mod agreement;
mod attempt;
mod attempts;
mod calls;
mod cause;
mod config;
mod demand;
mod description;
pub(crate) mod farewell;
mod history;
pub(crate) mod inherited;
mod links;
mod offer;
mod outputs;
mod proof;
mod refusals;
mod relayed;
mod remains;
mod retry;
pub(crate) mod searching;
mod slow;
mod stamps;
mod status;
mod tcp;

use std::net::IpAddr;
use std::time::Instant;

use punch_signal_protocol::seal::Exchange;
use punch_signal_protocol::{Description, Note, PeerId};
use punch_traversal::{AgentEvent, DirectPath, SocketId, was_refused};

use crate::offers::Cause;
use crate::relays::RelayOrders;
use crate::{LinkState, News, Path, ServerId, SessionEvent, TcpPath, UserWish};
use attempt::NewAttempt;
use attempts::Attempts;
use calls::Calls;
use demand::Demand;
use history::History;
use retry::{JUST_BEGUN, RETRY_MIN};

pub(crate) use calls::Appeared;
pub(crate) use config::AttemptConfig;
pub(crate) use description::{DescriptionParts, SentDescription};
pub use inherited::{Bequest, PathBequest};
pub(crate) use offer::OutstandingOffer;
pub(crate) use outputs::Outputs;
pub(crate) use slow::RENEWAL;
pub use stamps::MAX_STALE;
pub(crate) use stamps::{StampError, Stamps};
pub(crate) use status::{handle_met, met_over, status};

/// What has become of an attempt's relay links and TCP connections.
enum LinkChange {
    /// Nothing that matters.
    None,
    /// One of them serves: the attempt stands first now.
    Serves,
    /// The last one has served and is gone.
    Lost,
}

/// See the module.
pub(crate) struct PeerConnection {
    pub(crate) id: PeerId,
    demand: Demand,
    pub(crate) calls: Calls,
    pub(crate) attempts: Attempts,
    pub(crate) history: History,
}

impl PeerConnection {
    /// A connection that nobody wants yet. `stamps` are the newest sent and seen before a restart.
    pub(crate) fn new(id: PeerId, stamps: (u64, u64)) -> Self {
        let (sent, seen) = stamps;
        Self {
            id,
            demand: Demand::default(),
            calls: Calls::new(Stamps { sent, seen }),
            attempts: Attempts::default(),
            history: History::default(),
        }
    }

    // --- demand ---

    /// What the user has said last.
    pub(crate) fn wish(&self) -> UserWish {
        self.demand.wish()
    }

    /// The user says something else than before.
    pub(crate) fn set_wish(&mut self, wish: UserWish) {
        self.demand.set_wish(wish);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.demand.is_wanted()
    }

    /// Whether the peer's offers are refused.
    pub(crate) fn is_blocked(&self) -> bool {
        self.demand == Demand::Blocked
    }

    /// Whether servers are to tell when the peer logs in.
    pub(crate) fn wants_watch(&self) -> bool {
        self.demand.wants_watch()
    }

    // --- what is known ---

    /// The direct path over UDP, if there is one.
    pub(crate) fn path(&self) -> Option<Path> {
        self.attempts.direct_path().map(Path::Direct)
    }

    /// What serves the peer's packets: the direct path over UDP, or else a TCP connection, or a relay.
    pub(crate) fn serving(&self) -> Option<Path> {
        self.path().or_else(|| self.attempts.link_path())
    }

    /// The state of the connection.
    pub(crate) fn state(&self) -> LinkState {
        if self.serving().is_some() {
            LinkState::Connected
        } else if !self.attempts.is_empty() {
            LinkState::Connecting
        } else if !self.is_wanted() {
            LinkState::Down
        } else if self.calls.is_calling() {
            LinkState::Connecting
        } else {
            LinkState::Waiting
        }
    }

    /// Whether the peer is wanted and has not answered, or has refused because of the clocks.
    pub(crate) fn may_want_another_clock(&self) -> bool {
        self.is_wanted() && self.path().is_none() && self.calls.may_want_another_clock()
    }

    // --- offers ---

    /// When an offer may go out that is wanted now.
    pub(crate) fn next_offer(&self, cause: Cause, now: Instant) -> Instant {
        let young = self.attempts.are_younger_than(RETRY_MIN, now);
        self.calls.next_offer(cause, young, now)
    }

    /// Whether an offer whose turn has come is still to go out.
    pub(crate) fn needs_offer(&self, cause: Cause, now: Instant) -> bool {
        // An attempt that began while the offer waited is what it was to bring about. It would cut short a search, be it the peer's;
        // if the attempt fails, the retry follows.
        let queued_at = self.calls.queued_at();
        if queued_at.is_some_and(|at| self.attempts.have_begun_since(at)) {
            return false;
        }
        match cause {
            Cause::User => self.is_wanted(),
            Cause::Own => self.is_wanted() || self.awaits_path(),
            Cause::Server(_) => {
                self.is_wanted()
                    && self.path().is_none()
                    && !self.calls.offer_is_fresh(now)
                    && !self.attempts.are_younger_than(RETRY_MIN, now)
            }
        }
    }

    /// Whether an exchange is complete that nothing has come of yet, and the peer is not refused. An end that answers and that nobody
    /// wants anything of makes an offer all the same when it knows more of its NAT than it has told.
    fn awaits_path(&self) -> bool {
        !self.is_blocked() && self.path().is_none() && !self.attempts.is_empty()
    }

    /// The user wants an offer now: returns whether it is to go out, and hurries the next one if not.
    pub(crate) fn handle_retry(&mut self, now: Instant) -> bool {
        let idle = self.path().is_none() && !self.attempts.has_search();
        let due = self.is_wanted() && idle && !self.calls.offer_is_fresh(now);
        if !due {
            self.calls.hurry();
        }
        due
    }

    /// A server says that the peer has logged in.
    pub(crate) fn handle_appeared(&mut self, server: ServerId, now: Instant) -> Appeared {
        let is_timely = self.calls.handle_appeared(server, now);
        if !self.is_wanted() {
            return Appeared::Nothing;
        }
        if self.path().is_some() {
            // It may have restarted and know nothing of the path.
            if is_timely {
                self.verify_path(now);
            }
            return Appeared::Nothing;
        }
        if let Some(envelope) = self.calls.repeat(server, now) {
            let next = now + 2 * RETRY_MIN;
            return Appeared::Repeat { envelope, next };
        }
        // A search takes longer than a retry, and a new offer would cut it short.
        let young = self.attempts.are_younger_than(RETRY_MIN, now);
        if young && self.attempts.has_search() {
            return Appeared::Nothing;
        }
        // It may have restarted since, and know nothing of the offer or of the attempt.
        let recall = self.calls.recall(now);
        recall.map_or(Appeared::Offer, Appeared::Recall)
    }

    /// Whether an offer over a slow channel is of use. Where a person has not asked for it, an attempt that is under way is waited for.
    pub(crate) fn wants_compact(&self, by_hand: bool, now: Instant) -> bool {
        let waits = !by_hand && agreement::is_under_way(&self.attempts, now);
        self.is_wanted() && self.serving().is_none() && !waits
    }

    // --- attempts ---

    /// An exchange is complete: its checks begin. The path that serves is checked, too, since one end doubts it or looks for a better one.
    pub(crate) fn begin(
        &mut self,
        exchange: Exchange,
        config: AttemptConfig,
        mut theirs: Description,
        now: Instant,
    ) {
        self.history.handle_met();
        self.attempts.verify_direct(now);
        let (offered, peer_range) = (config.offered, theirs.ipv4_range);
        let (is_slow, stamp) = (config.patience.is_some(), theirs.stamp);
        let sent_candidates = config.sent.candidates.clone();
        let unmeasured = config.sent.is_unmeasured();
        let (relayed, tcp) = (config.relayed(&theirs, &exchange), config.tcp(&mut theirs));
        let capabilities = theirs.capabilities;
        let remembered = self.history.worked_from(config.network.fingerprint);
        let agent = config.into_agent(theirs, remembered, now);
        let searches = agent.has_search();
        self.calls
            .handle_exchange((offered, is_slow), searches, stamp, now);
        let new = NewAttempt {
            offered,
            exchange,
            agent,
            peer_range,
            sent_candidates,
            unmeasured,
            relayed,
            tcp,
            capabilities,
        };
        self.attempts.begin(new, now);
    }

    /// Checks the path at once instead of at the next keepalive; if there is no answer soon, a new offer goes out while
    /// the checks go on.
    pub(crate) fn verify_path(&mut self, now: Instant) {
        self.attempts.verify_paths(now);
        let attempts = &self.attempts;
        let followed = attempts.alive() > 1 && attempts.are_younger_than(JUST_BEGUN, now);
        // A search under way has a time of its own.
        if self.path().is_some() && !(followed && attempts.has_search()) {
            self.calls.retry.handle_doubt(followed, now);
        }
    }

    /// Ends everything; the envelopes say goodbye.
    pub(crate) fn close(&mut self) -> Vec<Vec<u8>> {
        // Under every exchange: the peer may know only one of them yet.
        let goodbyes = self.attempts.seal_all(&Note::Bye);
        self.attempts.retire_all();
        self.history.failures = 0;
        self.demand.hang_up();
        self.calls.close();
        goodbyes
    }

    /// The peer is removed: returns the sockets and TCP connections to close, what is due at relays, and mappings not reported.
    pub(crate) fn dissolve(&mut self) -> (Vec<SocketId>, Vec<TcpPath>, RelayOrders, u32) {
        let (sockets, tcp, relay) = self.attempts.dissolve();
        (
            sockets,
            tcp,
            relay,
            self.attempts.take_unreported_mappings(),
        )
    }

    // --- time ---

    /// Does what is due; returns whether a new offer is.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.attempts.handle_timeout(now);
        let due = self.calls.retry.take_due(now) && !self.path_answers();
        let better = self.calls.retry.take_better_due(now);
        (due || better) && self.is_wanted() && !self.demand.is_expired(now)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [
            self.attempts.poll_timeout(),
            self.calls.retry.at(),
            self.demand.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn path_answers(&self) -> bool {
        let first = self.attempts.first();
        first.is_some_and(|attempt| attempt.agent.is_answering())
    }

    // --- what goes out ---

    /// Takes out what the agents have to send and to say; returns whether a new offer is due at once.
    pub(crate) fn drain(&mut self, out: &mut Outputs<'_>, now: Instant) -> bool {
        let mut exhausted = self.demand.expire(now);
        if farewell::expire(self, now) {
            out.session(SessionEvent::Closed { peer: out.peer });
        }
        let mut again = false;
        let mut index = 0;
        while let Some(attempt) = self.attempts.get_mut(index) {
            attempt.drain_transmits(out, now);
            let (mut selected, mut shifted) = (None, false);
            while let Some(event) = self.poll_attempt(index, out) {
                match event {
                    AgentEvent::Selected(path) => selected = Some(path),
                    AgentEvent::Lost if index == 0 => {
                        shifted |= self.handle_lost(out, now);
                        again = !self.calls.has_offer() && !self.attempts.have_young_successor(now);
                    }
                    AgentEvent::Failed => {
                        exhausted = true;
                        self.handle_failed(index, now);
                    }
                    event => self.handle_attempt(index, event, out, now),
                }
            }
            if agreement::advance(self, index, &mut selected, out, now) {
                // Its exchange comes to nothing: another one is needed.
                again |= !self.calls.has_offer();
                continue;
            }
            if let Some(path) = selected {
                self.handle_selected(index, path, out, now);
                index = 0;
                exhausted = false;
            }
            match self.handle_link(index, out, now) {
                LinkChange::None => {}
                LinkChange::Serves => {
                    index = 0;
                    exhausted = false;
                }
                LinkChange::Lost => {
                    again = !self.calls.has_offer() && !self.attempts.have_young_successor(now);
                    let first = self.attempts.first();
                    exhausted |= first.is_some_and(|attempt| attempt.agent.has_failed());
                    shifted = true;
                }
            }
            if shifted {
                // Another one may stand first now, and has not been looked at.
                index = 0;
                continue;
            }
            if index > 0 && self.attempts.is_spent(index) {
                // An attempt that was never proven has no session: the newest one, which would be abandoned, is of another exchange.
                if self.attempts.is_proven(index) {
                    out.session(SessionEvent::Abandoned { peer: out.peer });
                }
                self.attempts.retire(index..index + 1);
                continue;
            }
            index += 1;
        }
        if exhausted {
            self.give_up(out);
        }
        if self.serving().is_none() {
            self.demand.handle_no_path(now);
        }
        out.mappings += self.attempts.take_unreported_mappings();
        self.attempts.finish_drain(out, now);
        // What the peer was told of this side's NAT has come true only now: without it, no search was made.
        let told_too_early = out.measured
            && self.path().is_none()
            && !self.calls.has_offer()
            && !self.is_blocked()
            && self.attempts.take_unmeasured();
        (self.is_wanted() && again) || told_too_early
    }

    fn poll_attempt(&mut self, index: usize, out: &mut Outputs<'_>) -> Option<AgentEvent> {
        self.attempts.get_mut(index)?.poll_event(out)
    }

    fn handle_attempt(
        &mut self,
        index: usize,
        event: AgentEvent,
        out: &mut Outputs<'_>,
        now: Instant,
    ) {
        match event {
            AgentEvent::Proven => agreement::prove(self, index, out, now),
            AgentEvent::SearchOver {
                mappings,
                found,
                used_up,
            } => {
                out.mappings += mappings;
                out.used_up = out.used_up.or(used_up);
                let path = self.attempts.get_mut(index).and_then(|a| a.agent.path());
                if found
                    && let Some(IpAddr::V4(at)) = path.map(|path| path.remote.ip())
                    && self.history.handle_search_found(at)
                {
                    out.found_at = Some(at);
                }
            }
            // A successor had no path to lose; the others are dealt with before.
            AgentEvent::Lost
            | AgentEvent::Selected(_)
            | AgentEvent::Failed
            | AgentEvent::Mtu(_)
            | AgentEvent::OpenSockets(_)
            | AgentEvent::CloseSocket(_)
            | AgentEvent::Reflexive(_)
            | AgentEvent::Predicted(_) => {}
        }
    }

    /// Links of the attempt may have come or gone. Where there is no path over UDP, that of the newest attempt that has one serves.
    fn handle_link(&mut self, index: usize, out: &mut Outputs<'_>, now: Instant) -> LinkChange {
        if self.attempts.waits_for_tcp(index) || !agreement::is_agreed(&mut self.attempts, index) {
            return LinkChange::None;
        }
        let Some(attempt) = self.attempts.get_mut(index) else {
            return LinkChange::None;
        };
        let Some(link) = attempt.links.take_change() else {
            return LinkChange::None;
        };
        if self.path().is_some() {
            return LinkChange::None;
        }
        match link {
            Some(path) => {
                agreement::prove(self, index, out, now);
                let cause = cause::of_link(&mut self.attempts, index, out.course.serving());
                self.attempts.retire(0..index);
                self.demand.handle_path();
                out.turn(path, cause, now);
                LinkChange::Serves
            }
            None if index == 0 => {
                self.handle_lost(out, now);
                LinkChange::Lost
            }
            None => LinkChange::None,
        }
    }

    /// The attempt has a path: it serves from now on.
    fn handle_selected(
        &mut self,
        index: usize,
        path: DirectPath,
        out: &mut Outputs<'_>,
        now: Instant,
    ) {
        let status = self.attempts.get_mut(index).map(|a| a.agent.status(now));
        let steps = status.as_ref().map_or(&[][..], |status| &status.steps);
        if let Some((network, step)) = self.history.learn(steps, out.network) {
            let peer = out.peer;
            out.news(News::Worked {
                peer,
                network,
                step,
            });
        }
        let cause = cause::of_path(&mut self.attempts, index);
        self.attempts.retire(0..index);
        self.demand.handle_path();
        self.calls.retry.reset();
        let selected = status.and_then(|status| status.selected);
        if selected.is_some_and(|pair| pair.last_resort) {
            self.calls.retry.handle_last_resort(now);
        }
        self.history.failures = 0;
        out.turn(path.into(), cause, now);
    }

    /// The path of the first attempt is lost; a TCP connection or a relay may stand behind it.
    /// Returns whether another attempt stands first now.
    fn handle_lost(&mut self, out: &mut Outputs<'_>, now: Instant) -> bool {
        let (stood_in, alive) = (self.attempts.stands_in(), self.attempts.alive());
        let link = self.attempts.handle_lost();
        match link {
            Some(path) => {
                agreement::prove(self, 0, out, now);
                // What stood in carries the packets already.
                if link != stood_in {
                    out.turn(path, cause::SILENT, now);
                }
            }
            None => {
                out.session(SessionEvent::Lost { peer: out.peer });
                self.demand.handle_lost(now);
            }
        }
        self.calls.retry.handle_lost();
        self.attempts.alive() < alive
    }

    fn handle_failed(&mut self, index: usize, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(index) else {
            return;
        };
        // An attempt whose search was not made says little, and its ports were not used up.
        let refused = was_refused(&attempt.agent);
        if !refused {
            self.history.handle_failed(attempt.agent.status(now));
        }
        let search_at = self.history.next_search();
        self.calls.retry.handle_failed(refused, search_at, now);
    }

    /// Where nobody wants the connection and nothing works, it is down, and says so.
    fn give_up(&mut self, out: &mut Outputs<'_>) {
        if !self.is_wanted() && self.serving().is_none() && !self.attempts.is_empty() {
            self.attempts.retire_all();
            out.session(SessionEvent::Closed { peer: out.peer });
        }
    }
}
