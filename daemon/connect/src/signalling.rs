//! What comes over the signalling servers: peers that appear, offers, answers, notes.

use std::time::Instant;

use punch_packet::PeerHandle;
use punch_signal_protocol::{Frame, Note, PeerId, Unreachable, seal};
use punch_traversal::Family;
use rand_core::RngCore;

use super::link::{Surroundings, Terms, tidy};
use super::{
    Connector, ConnectorEvent, MAX_STALE, ServerId, Signal, WATCH_PAUSE, WATCHES, outside,
};
use crate::secrets::draw;

impl Connector {
    /// A signalling server has welcomed us.
    pub fn handle_server_up(&mut self, server: ServerId, now: Instant) {
        self.servers.insert(server);
        // Those who are online are announced by the watch; that is also when an offer can reach them.
        for up in [true, false] {
            let links = self.links.values();
            let sought = links.filter(|link| link.up == up && link.sought());
            self.watches.extend(sought.map(|link| (server, link.id)));
        }
        self.watch(now);
        self.settle(now);
    }

    /// A signalling server is gone.
    pub fn handle_server_down(&mut self, server: ServerId, now: Instant) {
        self.servers.remove(&server);
        self.watches.retain(|(waiting, _)| *waiting != server);
        // Offers that went out over it lately may be lost.
        for link in self.links.values_mut() {
            link.doubt_offer(server);
        }
        self.settle(now);
    }

    /// A frame has come from a server.
    pub fn handle_frame(&mut self, server: ServerId, frame: Frame, now: Instant) {
        match frame {
            Frame::Deliver { from, envelope } => {
                self.handle_envelope(server, from, &envelope, now);
            }
            Frame::Appeared(id) => {
                if let Some(peer) = self.by_id.get(&id).copied() {
                    self.handle_appeared(peer, now);
                }
            }
            Frame::Unreachable { to, why } => {
                if let Some(peer) = self.by_id.get(&to).copied()
                    && let Some(link) = self.links.get_mut(&peer)
                {
                    link.handle_unreachable(server, why == Unreachable::Offline, &self.servers);
                }
            }
            // The client that holds the connection deals with these.
            Frame::Proof { .. }
            | Frame::Send { .. }
            | Frame::Watch(_)
            | Frame::Unwatch(_)
            | Frame::ClientCapabilities(_)
            | Frame::Challenge(_)
            | Frame::Welcome
            | Frame::Refused(_)
            | Frame::ServerCapabilities(_) => {}
        }
        self.settle(now);
    }

    /// Sends the next watches, at the pace that servers allow.
    pub(super) fn watch(&mut self, now: Instant) {
        for (server, id) in self.watches.drain(..self.watches.len().min(WATCHES)) {
            let frame = Frame::Watch(id);
            self.signals.push_back(Signal { server, frame });
        }
        self.next_watches = (!self.watches.is_empty()).then_some(now + WATCH_PAUSE);
    }

    /// Servers tell when a peer that is sought signs in.
    pub(super) fn watch_if_sought(&mut self, peer: PeerHandle, now: Instant) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        let (id, sought) = (link.id, link.sought());
        if sought == std::mem::replace(&mut link.watched, sought) {
            return;
        }
        if !sought {
            self.unwatch(id);
            return;
        }
        self.watches
            .extend(self.servers.iter().map(|server| (*server, id)));
        if self.next_watches.is_none() {
            self.watch(now);
        }
    }

    pub(super) fn unwatch(&mut self, id: PeerId) {
        self.watches.retain(|(_, waiting)| *waiting != id);
        self.signal_all(&Frame::Unwatch(id));
    }

    fn handle_appeared(&mut self, peer: PeerHandle, now: Instant) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.found();
        if !link.wanted() {
            return;
        }
        if link.path().is_some() {
            // It may have restarted and know nothing of the path.
            link.verify(now);
        } else if !link.offer_is_fresh(now) && !link.attempt_is_fresh(now) {
            self.offer(peer, now);
        } else {
            // It may have restarted since, and know nothing of the offer or of the attempt.
            link.reconsider(now);
        }
    }

    fn handle_envelope(&mut self, server: ServerId, from: PeerId, envelope: &[u8], now: Instant) {
        let Some(peer) = self.by_id.get(&from).copied() else {
            self.dropped.strangers += 1;
            return;
        };
        let taken = match seal::Kind::of(envelope) {
            Some(seal::Kind::Offer) => self.handle_offer(server, peer, from, envelope, now),
            Some(seal::Kind::Answer) => self.handle_answer(server, peer, envelope, now),
            Some(seal::Kind::Note) => self.handle_note(peer, envelope, now),
            None => false,
        };
        if !taken {
            self.dropped.unusable += 1;
        }
    }

    fn handle_offer(
        &mut self,
        server: ServerId,
        peer: PeerHandle,
        from: PeerId,
        envelope: &[u8],
        now: Instant,
    ) -> bool {
        let wall = self.wall_ms(now);
        let Some(link) = self.links.get_mut(&peer) else {
            return false;
        };
        if link.barred || !link.admits(server, now) {
            return false;
        }
        let seed = draw(&mut self.secrets);
        let Ok(opened) = seal::OpenedOffer::open(&self.identity, &from, envelope, seed) else {
            return false;
        };
        let stamp = opened.description.stamp;
        // A stamp that was seen while both clocks were far ahead says nothing any more.
        if stamp <= link.stamps.1 && link.stamps.1 <= wall + 2 * MAX_STALE.as_millis() as u64 {
            return false;
        }
        if stamp.abs_diff(wall) > MAX_STALE.as_millis() as u64 {
            let ahead = i64::try_from(stamp).unwrap_or(i64::MAX) - wall as i64;
            self.events.push_back(ConnectorEvent::Stale {
                peer,
                seconds: ahead / 1000,
            });
            return false;
        }
        link.stamps.1 = stamp;
        // Both have offered at once: the larger key's offer counts.
        if link.offer_is_fresh(now) && self.id > from {
            // Unless it was sent before the peer could be reached.
            link.hurry();
            return true;
        }
        let mut theirs = opened.description.clone();
        tidy(&mut theirs, &self.overlay);
        // Both count the attempt as the one who offers does.
        let attempt = theirs.nat.as_ref().map_or(0, |nat| nat.attempt);
        let profile = self.netchecks.profile(Family::V4);
        let nat = profile.map(|profile| profile.summary(self.budget, attempt));
        let description = link.describe(
            wall,
            outside(&self.overlay, self.gatherer.candidates()),
            self.ipv4_range,
            nat.clone(),
            !self.gatherer.answering(Family::V4).is_empty(),
            &mut self.rng,
        );
        let local = description.credentials.clone();
        let seed = draw(&mut self.secrets);
        let Ok((exchange, answer)) = opened.answer(description, seed) else {
            return false;
        };
        let terms = Terms {
            offers: false,
            local,
            nat,
            surroundings: self.surroundings(),
        };
        if let Some(link) = self.links.get_mut(&peer) {
            link.begin(exchange, terms, theirs, now);
        }
        let frame = Frame::Send {
            to: from,
            envelope: answer,
        };
        self.signals.push_back(Signal { server, frame });
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
        let link = self.links.get_mut(&peer);
        if !link.is_some_and(|link| link.awaits_answer() && link.admits(server, now)) {
            return false;
        }
        let surroundings = self.surroundings();
        let Some(link) = self.links.get_mut(&peer) else {
            return false;
        };
        link.handle_answer(envelope, &self.overlay, surroundings, now)
    }

    fn surroundings(&mut self) -> Surroundings {
        Surroundings {
            profile: self.netchecks.profile(Family::V4),
            lifetime: self.netchecks.lifetime(),
            samplers: self.gatherer.answering(Family::V4),
            network: self.network,
            seed: self.rng.next_u64(),
        }
    }

    fn handle_note(&mut self, peer: PeerHandle, envelope: &[u8], now: Instant) -> bool {
        let Some(link) = self.links.get_mut(&peer) else {
            return false;
        };
        match link.open_note(envelope) {
            Some((attempt, Note::Candidates(candidates))) => {
                let candidates = outside(&self.overlay, candidates);
                link.handle_candidates(attempt, candidates, now);
                true
            }
            Some((attempt, Note::Prediction(prediction))) => {
                link.handle_prediction(attempt, prediction, now);
                true
            }
            Some((attempt, Note::Bye)) => {
                if link.handle_bye(attempt, now) {
                    self.events.push_back(ConnectorEvent::Closed { peer });
                }
                true
            }
            None => false,
        }
    }
}
