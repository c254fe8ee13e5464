//! What the connector does with the frames of signalling servers, and the offers that it sends over them.

use std::time::Instant;

use punch_packet::PeerHandle;
use punch_signal_protocol::{Frame, Note, PeerId, Unreachable, seal};

use super::Connector;
use crate::envelopes::OfferError;
use crate::events::{ConnectorEvent, News, ServerId, SessionEvent};
use crate::offers::Cause;
use crate::peer::{Appeared, Stamps};

impl Connector {
    /// A signalling server has welcomed us.
    pub fn handle_server_up(&mut self, server: ServerId, now: Instant) {
        // Peers that are online are announced by the watch; that is also when an offer can reach them. The user's come first.
        self.servers.add(server, self.peers.watched());
        self.drain_children(now);
    }

    /// A signalling server is gone.
    pub fn handle_server_down(&mut self, server: ServerId, now: Instant) {
        self.servers.remove(server);
        self.offers.remove_server(server);
        self.peers.handle_server_down(server, self.servers.online());
        self.drain_children(now);
    }

    /// A frame has come from a server.
    pub fn handle_frame(&mut self, server: ServerId, frame: Frame, now: Instant) {
        match frame {
            Frame::Deliver { from, envelope } => {
                self.handle_envelope(server, from, &envelope, now);
            }
            Frame::Appeared(id) => self.handle_appeared(server, id, now),
            Frame::Unreachable { to, why } => {
                if let Some((_, connection)) = self.peers.by_id_mut(to) {
                    let offline = why == Unreachable::Offline;
                    connection.handle_unreachable(server, offline, self.servers.online());
                }
            }
            // The client that holds the connection deals with these.
            Frame::Proof { .. }
            | Frame::Send { .. }
            | Frame::Watch(_)
            | Frame::Unwatch(_)
            | Frame::ClientCapabilities(_)
            | Frame::ServerCapabilities(_)
            | Frame::Challenge(_)
            | Frame::Welcome
            | Frame::Refused(_) => {}
        }
        self.drain_children(now);
    }

    fn handle_appeared(&mut self, server: ServerId, id: PeerId, now: Instant) {
        let Some((peer, connection)) = self.peers.by_id_mut(id) else {
            return;
        };
        match connection.handle_appeared(server, now) {
            Appeared::Nothing => {}
            // The server has said that it could not deliver the offer: no other one need hear of it.
            Appeared::Repeat { envelope, next } => {
                self.servers.send_over(server, id, envelope);
                self.offers.add(peer, Cause::Server(server), next);
            }
            Appeared::Offer => self.offer(peer, Cause::Server(server), now),
        }
    }

    fn handle_envelope(&mut self, server: ServerId, from: PeerId, envelope: &[u8], now: Instant) {
        let Some(peer) = self.peers.by_id(from) else {
            self.dropped.strangers += 1;
            let envelope = (server, from, envelope);
            let news = self.strangers.handle(envelope, &mut self.envelopes, now);
            self.events.extend(news.map(ConnectorEvent::News));
            return;
        };
        let taken = match seal::Kind::of(envelope) {
            Some(seal::Kind::Offer) => self.handle_offer(server, peer, from, envelope, now),
            Some(seal::Kind::Answer) => self.handle_answer(server, peer, envelope, now),
            Some(seal::Kind::Note) => self.handle_note(peer, envelope, now),
            Some(seal::Kind::Refusal) => self.handle_refusal(server, peer, envelope, now),
            None => false,
        };
        self.dropped.unusable += u64::from(!taken);
    }

    fn handle_offer(
        &mut self,
        server: ServerId,
        peer: PeerHandle,
        from: PeerId,
        envelope: &[u8],
        now: Instant,
    ) -> bool {
        let Some(connection) = self.peers.get_mut(peer) else {
            return false;
        };
        if !self.envelopes.admit(connection, server, now) {
            return false;
        }
        let seen = connection.stamps.seen;
        let opened = match self.envelopes.open_offer(connection, server, envelope, now) {
            Ok(opened) => opened,
            Err(OfferError::Unusable) => return false,
            Err(OfferError::Refused { refusal, clock_s }) => {
                let is_noted = connection.stamps.seen != seen;
                if let Some(refusal) = refusal {
                    self.servers.send_over(server, from, refusal);
                }
                if let Some(seconds) = clock_s {
                    self.news(News::Stale { peer, seconds });
                }
                if is_noted {
                    self.note_stamps(peer);
                }
                return false;
            }
            Err(OfferError::Ours) => {
                // Unless it was sent before the peer could be reached.
                connection.hurry();
                return true;
            }
        };
        let answer = self
            .envelopes
            .answer(connection, &self.network, opened, now);
        let Some(answer) = answer else { return false };
        self.servers.send_over(server, from, answer);
        self.note_stamps(peer);
        true
    }

    fn handle_answer(
        &mut self,
        server: ServerId,
        peer: PeerHandle,
        envelope: &[u8],
        now: Instant,
    ) -> bool {
        let Some(connection) = self.peers.get_mut(peer) else {
            return false;
        };
        if !connection.awaits_answer() || !self.envelopes.admit(connection, server, now) {
            return false;
        }
        self.envelopes
            .handle_answer(connection, &self.network, envelope, now)
    }

    fn handle_refusal(
        &mut self,
        server: ServerId,
        peer: PeerHandle,
        envelope: &[u8],
        now: Instant,
    ) -> bool {
        let wall_ms = self.envelopes.wall_ms(now);
        let Some(connection) = self.peers.get_mut(peer) else {
            return false;
        };
        if !connection.awaits_answer() || !self.envelopes.admit(connection, server, now) {
            return false;
        }
        let Some((refusal, is_news)) = connection.open_refusal(envelope, wall_ms, now) else {
            return false;
        };
        if is_news {
            self.news(News::Refused { peer, refusal });
        }
        self.note_stamps(peer);
        true
    }

    fn handle_note(&mut self, peer: PeerHandle, envelope: &[u8], now: Instant) -> bool {
        let Some(connection) = self.peers.get_mut(peer) else {
            return false;
        };
        match connection.attempts.open(envelope) {
            Some((attempt, Note::Candidates(candidates))) => {
                let candidates = self.network.outside(candidates);
                connection
                    .attempts
                    .handle_candidates(attempt, candidates, now);
                true
            }
            Some((attempt, Note::Prediction(prediction))) => {
                connection
                    .attempts
                    .handle_prediction(attempt, prediction, now);
                true
            }
            Some((attempt, Note::Bye)) => {
                if connection.handle_bye(attempt, now) {
                    self.session(SessionEvent::Closed { peer });
                }
                true
            }
            None => false,
        }
    }

    // --- offers ---

    /// Sends a fresh offer to the peer over every server at hand, as soon as it is the peer's turn.
    pub(super) fn offer(&mut self, peer: PeerHandle, cause: Cause, now: Instant) {
        let Some(connection) = self.peers.get_mut(peer) else {
            return;
        };
        if self.servers.online().is_empty() {
            connection.postpone(now);
            return;
        }
        self.offers
            .add(peer, cause, connection.next_offer(cause, now));
        self.send_offers(now);
    }

    /// Sends the offers whose turn has come.
    pub(super) fn send_offers(&mut self, now: Instant) {
        while let Some((peer, cause)) = self.offers.next(now) {
            let Some(connection) = self.peers.get_mut(peer) else {
                continue;
            };
            if !connection.needs_offer(cause, now) {
                continue;
            }
            if self.servers.online().is_empty() {
                connection.postpone(now);
                continue;
            }
            self.offers.spend(now);
            match self.envelopes.offer(connection, &self.network, now) {
                Some(envelope) => {
                    self.servers.send(connection.id, &envelope);
                    self.note_stamps(peer);
                }
                None => connection.postpone(now),
            }
        }
    }

    fn note_stamps(&mut self, peer: PeerHandle) {
        if let Some(connection) = self.peers.get(peer) {
            let Stamps { sent, seen } = connection.stamps;
            self.news(News::Stamps { peer, sent, seen });
        }
    }
}
