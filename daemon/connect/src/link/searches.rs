//! Searches for ports with one peer: sockets for them, leave to begin, and what is left of those that end.

use std::time::Instant;

use punch_signal_protocol::Prediction;
use punch_traversal::{SocketId, Step};

use super::{FIRST_SEARCH_PAUSE, Link, SEARCH_PAUSE};

impl Link {
    /// A socket is open, or could not be opened; returns whether the attempt that asked for it still lives.
    pub(crate) fn handle_socket(
        &mut self,
        serial: u64,
        socket: Option<SocketId>,
        now: Instant,
    ) -> bool {
        let found = self.attempts.iter_mut().find(|a| a.serial == serial);
        found
            .map(|attempt| attempt.agent.handle_socket(socket, now))
            .is_some()
    }

    pub(crate) fn is_searching(&self) -> bool {
        self.attempts.iter().any(|a| a.agent.is_searching())
    }

    /// Whether a search is under way or may still come: a new offer would cut it short.
    pub(crate) fn has_search(&self) -> bool {
        self.attempts.iter().any(|a| a.agent.has_search())
    }

    pub(crate) fn wants_search(&self, now: Instant) -> bool {
        self.attempts.iter().any(|a| a.agent.wants_search(now))
    }

    /// Until when the peer gets no search.
    pub(crate) fn search_barred_until(&self, now: Instant) -> Option<Instant> {
        self.vain.1.filter(|until| *until > now)
    }

    pub(crate) fn search_at(&self) -> Option<Instant> {
        let times = self.attempts.iter().filter_map(|a| a.agent.search_at());
        times.min()
    }

    /// The search that wants to begin.
    pub(crate) fn waiting_search(&self, now: Instant) -> Option<&Step> {
        let mut attempts = self.attempts.iter();
        let waiting = attempts.find(|a| a.agent.wants_search(now))?;
        waiting.agent.planned_search()
    }

    pub(crate) fn start_search(&mut self, allowance: u32, now: Instant) {
        let found = self.attempts.iter_mut().find(|a| a.agent.wants_search(now));
        if let Some(attempt) = found {
            // Counted from the beginning, or a peer that cuts a search short by a new offer would get the next one at once.
            let (count, until) = &mut self.vain;
            let pause = if *count == 0 {
                FIRST_SEARCH_PAUSE
            } else {
                SEARCH_PAUSE
            };
            *count = count.saturating_add(1);
            *until = Some(now + pause);
            attempt.agent.start_search(allowance, now);
        }
    }

    pub(crate) fn refuse_search(&mut self, until: Option<Instant>, now: Instant) {
        let found = self.attempts.iter_mut().find(|a| a.agent.wants_search(now));
        if let Some(attempt) = found {
            attempt.agent.refuse_search(now);
            attempt.agent.handle_timeout(now);
            if self.wanted() {
                self.retry_at = self.retry_at.max(until);
            }
        }
    }

    pub(crate) fn handle_prediction(&mut self, attempt: usize, told: Prediction, now: Instant) {
        if let Some(attempt) = self.attempts.get_mut(attempt) {
            attempt.agent.handle_prediction(told, now);
        }
    }

    /// All sockets that attempts still hold, and the mappings that their searches have made; for a link that goes.
    pub(crate) fn dissolve(&mut self) -> (Vec<SocketId>, u32) {
        self.retire(0..self.attempts.len());
        let sockets = self.retired.drain(..).map(|(_, socket)| socket).collect();
        (sockets, std::mem::take(&mut self.unbooked))
    }

    /// Ends attempts; their sockets close soon.
    pub(super) fn retire(&mut self, range: std::ops::Range<usize>) {
        for attempt in self.attempts.drain(range) {
            self.unbooked += attempt.agent.untold_mappings();
            let sockets = attempt.agent.sockets();
            self.retired.extend(sockets.map(|socket| (None, socket)));
        }
    }
}
