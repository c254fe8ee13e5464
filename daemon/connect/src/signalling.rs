//! What goes over signalling servers: the frames that come from them, and the offers, answers and notes that go to them.

use std::collections::VecDeque;
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_signal_protocol::{Frame, Note, PeerId, RelayToken, Unreachable, seal};

use crate::ServerId;
use crate::compact::CompactOffers;
use crate::envelopes::{Envelopes, OfferError};
use crate::events::{ConnectorEvent, DroppedEnvelopes, News, SessionEvent};
use crate::medium::Channel;
use crate::network::LocalNetwork;
use crate::offers::{Cause, OfferQueue};
use crate::path::RelayPath;
use crate::peer::{Appeared, Stamps, farewell, handle_met};
use crate::peers::Peers;
use crate::relays::{RelayOrders, Relays};
use crate::servers::Servers;
use crate::strangers::Strangers;

/// What frames and offers change and need of the rest of the connector.
pub(crate) struct Around<'a> {
    pub(crate) peers: &'a mut Peers,
    pub(crate) network: &'a LocalNetwork,
    pub(crate) events: &'a mut VecDeque<ConnectorEvent>,
}

impl Around<'_> {
    fn news(&mut self, news: News) {
        self.events.push_back(ConnectorEvent::News(news));
    }

    fn session(&mut self, event: SessionEvent) {
        self.events.push_back(ConnectorEvent::Session(event));
    }

    fn note_stamps(&mut self, peer: PeerHandle) {
        if let Some(connection) = self.peers.get(peer) {
            let Stamps { sent, seen } = connection.calls.stamps;
            self.news(News::Stamps { peer, sent, seen });
        }
    }

    /// A note belongs to an exchange, and needs nothing but its key; returns whether it was one.
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
                if farewell::bye(connection, attempt, now) {
                    self.session(SessionEvent::Closed { peer });
                }
                true
            }
            Some((attempt, Note::Away { seconds })) => {
                connection.attempts.handle_away(attempt, seconds, now);
                true
            }
            // These go over paths alone.
            Some((_, Note::KemKey(_) | Note::KemCiphertext(_))) | None => false,
        }
    }
}

/// An envelope, and who brought it.
#[derive(Clone, Copy)]
struct Delivered<'a> {
    server: ServerId,
    /// What the server is, if it is a slow channel.
    channel: Option<Channel>,
    peer: PeerHandle,
    envelope: &'a [u8],
}

/// See the module.
pub(crate) struct Signalling {
    pub(crate) envelopes: Envelopes,
    pub(crate) servers: Servers,
    offers: OfferQueue,
    pub(crate) compact: CompactOffers,
    pub(crate) strangers: Strangers,
    pub(crate) relays: Relays,
    dropped: DroppedEnvelopes,
}

impl Signalling {
    /// No server is reached, and nothing waits.
    pub(crate) fn new(envelopes: Envelopes) -> Self {
        Self {
            envelopes,
            servers: Servers::default(),
            offers: OfferQueue::default(),
            compact: CompactOffers::default(),
            strangers: Strangers::default(),
            relays: Relays::default(),
            dropped: DroppedEnvelopes::default(),
        }
    }

    /// Whether any server is reached, or a slow channel that may lead to this peer; and whether a network is, in which the peer may be or not.
    pub(crate) fn is_in_reach(&self, of: PeerId) -> (bool, bool) {
        let servers = self.servers.count_servers();
        let sure = servers > 0 || !self.servers.reach_slow(of).is_empty();
        (sure, self.servers.online().len() > servers)
    }

    /// Envelopes that were not let through.
    pub(crate) fn dropped(&self) -> DroppedEnvelopes {
        self.dropped
    }

    /// A peer is gone: it gets no offer any more.
    pub(crate) fn remove_peer(&mut self, peer: PeerHandle) {
        self.offers.remove(peer);
        self.compact.remove(peer);
    }

    /// When offers or frames have their turn.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.servers.poll_timeout(),
            self.offers.poll_timeout(),
            self.compact.poll_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    // --- servers ---

    /// This machine has logged in at a server. Offers that went out to a connection before that go there at once, and those to peers of
    /// which the server is not asked to tell.
    pub(crate) fn handle_login(&mut self, server: ServerId, around: &mut Around<'_>, now: Instant) {
        for peer in around.peers.handles() {
            let may_want = |id| self.servers.reach(id).any(|it| it == server);
            let connection = around.peers.get(peer);
            if !connection.is_some_and(|c| c.is_wanted() && may_want(c.id)) {
                continue;
            }
            let Some(connection) = around.peers.get_mut(peer) else {
                continue;
            };
            let id = connection.id;
            if let Some(envelope) = connection.calls.resend(server, now) {
                self.servers.send_over(server, id, envelope);
                continue;
            }
            // Of the others the server tells, and the offer follows.
            if !connection.wants_watch() && connection.calls.take_postponed() {
                self.offer(peer, Cause::Own, around, now);
            }
        }
    }

    /// The connection to a server is lost.
    pub(crate) fn remove_server(&mut self, server: ServerId, peers: &mut Peers, now: Instant) {
        self.servers.remove(server);
        self.offers.remove_server(server);
        self.relays.remove_server(server);
        peers.handle_server_down(server, self.servers.online(), now);
    }

    /// A frame has come from a server.
    pub(crate) fn handle_frame(
        &mut self,
        server: ServerId,
        frame: Frame,
        around: &mut Around<'_>,
        now: Instant,
    ) {
        // One that was given up may have said more before its connection ended.
        if self.servers.is_given_up(server) {
            return;
        }
        match frame {
            Frame::Deliver { from, envelope } => {
                self.handle_envelope((server, from, &envelope), around, now);
            }
            Frame::Appeared(id) => self.handle_appeared(server, id, around, now),
            // Nobody knows what a slow channel has not delivered, and its lane has no links.
            Frame::Unreachable { .. }
            | Frame::ServerCapabilities(_)
            | Frame::RelayReady { .. }
            | Frame::RelayGone(_)
                if self.servers.slow(server).is_some() => {}
            Frame::Unreachable { to, why } => {
                if let Some((_, connection)) = around.peers.by_id_mut(to) {
                    let offline = why == Unreachable::Offline;
                    let reach = self.servers.reach(to).collect();
                    connection.calls.handle_unreachable(server, offline, &reach);
                }
            }
            Frame::ServerCapabilities(set) => {
                self.servers.set_capabilities(server, set);
                let host = self.servers.host(server).map(|host| host.peer);
                let tokens: Vec<_> = self.relays.tokens(host).collect();
                for token in tokens {
                    self.join(server, token);
                }
            }
            Frame::RelayReady { token, link } => {
                self.handle_relay_ready(token, RelayPath { server, link }, around, now);
            }
            Frame::RelayGone(link) => {
                let path = RelayPath { server, link };
                let peer = self.relays.remove(path);
                let connection = peer.and_then(|peer| around.peers.get_mut(peer));
                let lost =
                    connection.and_then(|c| c.attempts.handle_relay_gone(|gone| gone == path, now));
                // The other end may only have lost its connection, and joins again.
                if let Some(token) = lost {
                    self.join(server, token);
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
            | Frame::RelayJoin(_)
            | Frame::RelayLeave(_) => {}
        }
    }

    /// Asks a server for a link.
    fn join(&mut self, server: ServerId, token: RelayToken) {
        if self.servers.join(server, token) {
            self.relays.ask(server, token);
        }
    }

    /// A server has made a link with whoever has joined with the same token; one that is not needed is left.
    fn handle_relay_ready(
        &mut self,
        token: RelayToken,
        path: RelayPath,
        around: &mut Around<'_>,
        now: Instant,
    ) {
        if self.relays.has(path) {
            // A number in use again is a lie.
            return;
        }
        let peer = self.relays.answer(path.server, token);
        let connection = peer.and_then(|peer| around.peers.get_mut(peer));
        let kept = connection.is_some_and(|c| c.attempts.handle_relay_ready(token, path, now));
        match peer.filter(|_| kept) {
            Some(peer) => self.relays.add(path, peer),
            None => self.servers.leave(path),
        }
    }

    /// Carries away what a connection has to say of relay links.
    pub(crate) fn handle_relayed(&mut self, peer: PeerHandle, orders: RelayOrders) {
        for token in orders.ended {
            self.relays.end(token);
        }
        for (token, linked) in orders.joins {
            self.relays.join(token, peer);
            let online = self.servers.online().clone();
            for server in online.into_iter().filter(|it| !linked.contains(it)) {
                // A tunnel that leads through itself leads nowhere.
                if self
                    .servers
                    .host(server)
                    .is_none_or(|host| host.peer != peer)
                {
                    self.join(server, token);
                }
            }
        }
        for path in orders.leaves {
            self.relays.remove(path);
            self.servers.leave(path);
        }
    }

    fn handle_appeared(
        &mut self,
        server: ServerId,
        id: PeerId,
        around: &mut Around<'_>,
        now: Instant,
    ) {
        let Some((peer, connection)) = around.peers.by_id_mut(id) else {
            return;
        };
        if self.servers.slow(server).is_some() {
            self.compact.add(peer, now);
            return self.send_offers(around, now);
        }
        match connection.handle_appeared(server, now) {
            Appeared::Nothing => {}
            // The server has said that it could not deliver the offer: no other one need hear of it.
            Appeared::Repeat { envelope, next } => {
                self.servers.send_over(server, id, envelope);
                connection.calls.handle_queued(now);
                self.offers.add(peer, Cause::Server(server), next);
            }
            Appeared::Offer => self.offer(peer, Cause::Server(server), around, now),
            Appeared::Recall(at) => {
                connection.calls.handle_queued(now);
                self.offers.add(peer, Cause::Server(server), at);
            }
        }
    }

    fn handle_envelope(
        &mut self,
        (server, from, envelope): (ServerId, PeerId, &[u8]),
        around: &mut Around<'_>,
        now: Instant,
    ) {
        let Some(peer) = around.peers.by_id(from) else {
            self.dropped.strangers += 1;
            let envelope = (server, from, envelope);
            let news = self.strangers.handle(envelope, &mut self.envelopes, now);
            around.events.extend(news.map(ConnectorEvent::News));
            return;
        };
        // It has come over another server before.
        let connection = around.peers.get(peer);
        if connection.is_some_and(|c| c.calls.copies.has(server, envelope, now)) {
            return;
        }
        let channel = self.servers.slow(server);
        let delivered = Delivered {
            server,
            channel,
            peer,
            envelope,
        };
        let taken = match seal::Kind::of(envelope) {
            Some(seal::Kind::Note) if channel.is_some() => false,
            Some(seal::Kind::Offer) => self.handle_offer(delivered, around, now),
            Some(seal::Kind::Answer) => self.handle_answer(delivered, around, now),
            Some(seal::Kind::Note) => around.handle_note(peer, envelope, now),
            Some(seal::Kind::Refusal) => self.handle_refusal(delivered, around, now),
            // Those go between temporary identities, and never reach this one.
            Some(seal::Kind::Introduction | seal::Kind::Welcome) | None => false,
        };
        match around.peers.get_mut(peer).filter(|_| taken) {
            Some(connection) => connection.calls.copies.add(server, envelope, now),
            None => self.dropped.unusable += 1,
        }
    }

    /// Answers an offer or not; stamps that it has moved are kept, whatever has become of it.
    fn handle_offer(
        &mut self,
        delivered: Delivered<'_>,
        around: &mut Around<'_>,
        now: Instant,
    ) -> bool {
        let peer = delivered.peer;
        let stamps = |peers: &Peers| peers.get(peer).map(|connection| connection.calls.stamps);
        let before = stamps(around.peers);
        let taken = self.answer_offer(delivered, around, now);
        if stamps(around.peers) != before {
            around.note_stamps(peer);
        }
        taken
    }

    fn answer_offer(
        &mut self,
        delivered: Delivered<'_>,
        around: &mut Around<'_>,
        now: Instant,
    ) -> bool {
        let Delivered {
            server,
            channel,
            peer,
            envelope,
        } = delivered;
        let Some(connection) = around.peers.get_mut(peer) else {
            return false;
        };
        if !self.envelopes.admit(connection, server, now) {
            return false;
        }
        let to = connection.id;
        let opened = match self
            .envelopes
            .open_offer(connection, (server, channel), envelope, now)
        {
            Ok(opened) => opened,
            Err(OfferError::Unusable) => return false,
            Err(OfferError::Refused { refusal, clock_s }) => {
                if let Some(refusal) = refusal {
                    self.servers.send_over(server, to, refusal);
                }
                if let Some(seconds) = clock_s {
                    around.news(News::Stale { peer, seconds });
                }
                return false;
            }
            Err(OfferError::Ours) => {
                // Unless it was sent before the peer could be reached.
                if channel.is_none() {
                    connection.calls.hurry();
                }
                return true;
            }
        };
        let answer = self
            .envelopes
            .answer(connection, around.network, (opened, channel), now);
        let Some(answer) = answer else { return false };
        handle_met(connection, server);
        self.servers.send_over(server, to, answer);
        true
    }

    fn handle_answer(
        &mut self,
        delivered: Delivered<'_>,
        around: &mut Around<'_>,
        now: Instant,
    ) -> bool {
        let Delivered {
            server,
            channel,
            peer,
            envelope,
        } = delivered;
        let Some(connection) = around.peers.get_mut(peer) else {
            return false;
        };
        if !connection.calls.awaits_answer_over(channel)
            || !self.envelopes.admit(connection, server, now)
        {
            return false;
        }
        let answered =
            self.envelopes
                .handle_answer(connection, around.network, (envelope, channel), now);
        if answered {
            handle_met(connection, server);
        }
        answered
    }

    fn handle_refusal(
        &mut self,
        delivered: Delivered<'_>,
        around: &mut Around<'_>,
        now: Instant,
    ) -> bool {
        let Delivered {
            server,
            channel,
            peer,
            envelope,
        } = delivered;
        let wall_ms = self.envelopes.wall_ms(now);
        let Some(connection) = around.peers.get_mut(peer) else {
            return false;
        };
        if !connection.calls.awaits_answer_over(channel)
            || !self.envelopes.admit(connection, server, now)
        {
            return false;
        }
        let Some((refusal, is_news)) = connection
            .calls
            .open_refusal(channel, envelope, wall_ms, now)
        else {
            return false;
        };
        if is_news {
            around.news(News::Refused { peer, refusal });
        }
        around.note_stamps(peer);
        true
    }

    // --- offers ---

    /// Sends a fresh offer to the peer over every server at hand, as soon as it is the peer's turn.
    pub(crate) fn offer(
        &mut self,
        peer: PeerHandle,
        cause: Cause,
        around: &mut Around<'_>,
        now: Instant,
    ) {
        let Some(connection) = around.peers.get_mut(peer) else {
            return;
        };
        self.compact.add(peer, now);
        if self.servers.reach(connection.id).next().is_none() {
            connection.calls.postpone(now);
            return self.send_offers(around, now);
        }
        connection.calls.handle_queued(now);
        self.offers
            .add(peer, cause, connection.next_offer(cause, now));
        self.send_offers(around, now);
    }

    /// Sends the offers whose turn has come.
    pub(crate) fn send_offers(&mut self, around: &mut Around<'_>, now: Instant) {
        // They come first: what is said at the same moment over a quick channel is then the newer of the two.
        while let Some(peer) = self.compact.next(now) {
            let Some(connection) = around.peers.get_mut(peer) else {
                continue;
            };
            let seals = (&mut self.envelopes, &mut self.servers);
            let compact = &mut self.compact;
            if compact.send(peer, connection, seals, around.network, now) {
                around.note_stamps(peer);
            }
        }
        while let Some((peer, cause)) = self.offers.next(now) {
            let Some(connection) = around.peers.get_mut(peer) else {
                continue;
            };
            if !connection.needs_offer(cause, now) {
                continue;
            }
            if self.servers.reach(connection.id).next().is_none() {
                connection.calls.postpone(now);
                continue;
            }
            self.offers.spend(now);
            match self.envelopes.offer(connection, around.network, now) {
                Some(envelope) => {
                    self.servers.send(connection.id, &envelope);
                    around.note_stamps(peer);
                }
                None => connection.calls.postpone(now),
            }
        }
    }
}
