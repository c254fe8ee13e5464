//! What the agents of one peer have to send and to say, carried away.

use std::time::Instant;

use punch_signal_protocol::{Candidate, CandidateKind, Note};
use punch_traversal::{AgentEvent, Family, Outcome, StepReport};

use super::{FAREWELL, Link, MEMORY, Outlet, PATIENCE, RETRY_MAX, RETRY_MIN};
use crate::{ConnectorEvent, Path};

impl Link {
    /// Takes out what the agents have to send and to say; returns whether a new offer is due at once.
    pub(crate) fn drain(&mut self, out: &mut Outlet<'_>, now: Instant) -> bool {
        let peer = out.peer;
        let mut again = false;
        let mut index = 0;
        while index < self.attempts.len() {
            let attempt = &mut self.attempts[index];
            while let Some(transmit) = attempt.agent.poll_transmit() {
                out.transmits.push_back(transmit);
            }
            let (mut selected, mut failed) = (None, false);
            while let Some(event) = attempt.agent.poll_event() {
                match event {
                    AgentEvent::Proven => {
                        if !attempt.offers {
                            self.engaged = true;
                        }
                        out.events.push_back(ConnectorEvent::Proven {
                            peer,
                            preshared: attempt.exchange.preshared_key().clone(),
                            initiator: attempt.offers,
                        });
                    }
                    AgentEvent::Selected(path) => selected = Some(path),
                    AgentEvent::Lost if index == 0 => {
                        out.events.push_back(ConnectorEvent::Lost { peer });
                        self.lost = true;
                        (self.retries, self.unanswered) = (0, 0);
                        again = self.offer.is_none();
                    }
                    AgentEvent::Lost => {}
                    AgentEvent::Failed => {
                        failed |= index > 0;
                        self.hopeless = true;
                        // An attempt whose search was not made says little, and its ports were not used up.
                        if !attempt.agent.was_refused() {
                            let status = attempt.agent.status(now);
                            self.last = (status.steps, status.theirs);
                            self.failures = self.failures.saturating_add(1);
                        }
                        let interval = RETRY_MIN.saturating_mul(1 << self.retries.min(5));
                        let barred = self.vain.1.unwrap_or(now);
                        let retry = (now + interval.min(RETRY_MAX)).max(barred);
                        self.retry_at = Some(match self.retry_at {
                            // The patience that a search has had ends with it.
                            Some(at) if !attempt.agent.was_refused() => at.min(retry),
                            Some(at) => at,
                            None => retry,
                        });
                    }
                    AgentEvent::OpenSockets(count) => {
                        for _ in 0..count {
                            let socket = out.ids.next();
                            out.sockets.insert(socket, (peer, attempt.serial));
                            let family = Family::V4;
                            out.events
                                .push_back(ConnectorEvent::OpenSocket { socket, family });
                        }
                    }
                    AgentEvent::CloseSocket(socket) => out.close(socket),
                    AgentEvent::Reflexive(address) => {
                        let kind = CandidateKind::ServerReflexive;
                        let candidate = Candidate::new(kind, address);
                        attempt.told.push(candidate);
                        let note = Note::Candidates(vec![candidate]);
                        out.envelopes.extend(attempt.exchange.seal(&note).ok());
                    }
                    AgentEvent::Predicted(prediction) => {
                        let note = Note::Prediction(prediction);
                        out.envelopes.extend(attempt.exchange.seal(&note).ok());
                    }
                    AgentEvent::SearchOver { mappings, found } => {
                        out.searched += mappings;
                        if found {
                            self.vain = (0, None);
                        }
                    }
                }
            }
            if let Some(path) = selected {
                let status = attempt.agent.status(now);
                self.learn(&status.steps, out);
                // The successor has a path: it serves from now on.
                self.retire(0..index);
                index = 0;
                self.engaged_until = None;
                self.lost = false;
                (self.retry_at, self.unhurried) = (None, None);
                (self.retries, self.unanswered) = (0, 0);
                self.failures = 0;
                self.hopeless = false;
                let path = Path::Direct(path);
                out.events
                    .push_back(ConnectorEvent::Selected { peer, path });
            }
            if failed && index > 0 {
                self.retire(index..index + 1);
                out.events.push_back(ConnectorEvent::Abandoned { peer });
                continue;
            }
            index += 1;
        }
        // Nobody wants it and nothing works: it is down, and says so.
        if std::mem::take(&mut self.hopeless)
            && !self.wanted()
            && self.path().is_none()
            && !self.attempts.is_empty()
        {
            self.retire(0..self.attempts.len());
            out.events.push_back(ConnectorEvent::Closed { peer });
        }
        if self.engaged && self.path().is_none() && self.engaged_until.is_none() {
            self.engaged_until = Some(now + PATIENCE);
        }
        out.searched += std::mem::take(&mut self.unbooked);
        for (at, _) in &mut self.retired {
            at.get_or_insert(now + FAREWELL);
        }
        let due = self
            .retired
            .extract_if(.., |(at, _)| at.is_some_and(|at| at <= now));
        for (_, socket) in due {
            out.close(socket);
        }
        self.wanted() && again
    }

    /// Remembers which step has found the path.
    fn learn(&mut self, steps: &[StepReport], out: &mut Outlet<'_>) {
        let found = steps.iter().find(|step| step.outcome == Outcome::Found);
        let (Some(step), Some(network)) = (found.map(|step| step.kind), out.network) else {
            return;
        };
        if self.memory.last() == Some(&(network, step)) {
            return;
        }
        self.memory.retain(|(known, _)| *known != network);
        self.memory.push((network, step));
        let excess = self.memory.len().saturating_sub(MEMORY);
        self.memory.drain(..excess);
        out.events.push_back(ConnectorEvent::Worked {
            peer: out.peer,
            network,
            step,
        });
    }
}
