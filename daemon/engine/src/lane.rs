//! The packet path: from the TUN into a session, from a datagram through a session to the TUN, to a forward, or to an answer in this
//! host's name.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_connect::Path;
use punch_forward::{Presence, Refused, Rules, Stack};
use punch_packet::{
    Batch, Buffer, Fit, Offload, Packet, PeerHandle, Transport, Unreachable, echo_reply,
    echo_request, fit, invitation, is_invitation, refuse, segments, tcp_reset, too_long,
    unreachable,
};
use punch_wireguard::{Opened, data_index};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::event::EngineEvent;
use crate::host::Host;
use crate::inbound::{Refusal, Sender, Verdict, decide};
use crate::invitations::Invitations;
use crate::outbox::Outbox;
use crate::peers::{Peer, PeerTable};
use crate::pings::Pings;
use crate::report::{DropReason, Drops};

/// Segments of unknown connections are not reset for so long after the start: this host may only have forgotten them.
const GRACE: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Lane {
    pub(crate) host: Arc<Host>,
    pub(crate) rules: Rules,
    pub(crate) stack: Stack,
    pings: Pings,
    invitations: Invitations,
    events: VecDeque<EngineEvent>,
    pub(crate) outbox: Outbox,
    pub(crate) to_tun: Batch,
    pub(crate) drops: Drops,
    /// One segment of what the kernel has joined.
    segment: Buffer,
    /// A packet that is not simply the host's.
    scratch: Buffer,
    /// The identification of the next packet that is cut into fragments and has none.
    next_id: u32,
}

/// A whole packet that neither begins nor ends anything, and is no echo: the verdict on it is that on others of its conversation.
fn is_plain(packet: &Packet<'_>) -> bool {
    let plain = match packet.transport() {
        Transport::Tcp { flags, .. } => !(flags.syn() || flags.fin() || flags.rst()),
        Transport::Udp { .. } => true,
        Transport::Echo { .. } | Transport::IcmpError | Transport::Opaque => false,
    };
    plain && packet.fragment().is_none()
}

impl Lane {
    pub(crate) fn new(host: Arc<Host>, mut rng: ChaCha20Rng) -> Self {
        Self {
            stack: Stack::new(host.mtu, rng.next_u64()),
            host,
            rules: Rules::default(),
            pings: Pings::default(),
            invitations: Invitations::default(),
            events: VecDeque::new(),
            outbox: Outbox::default(),
            to_tun: Batch::with_capacity(64, 1500),
            drops: Drops::default(),
            segment: Buffer::default(),
            scratch: Buffer::default(),
            next_id: rng.next_u32(),
        }
    }

    // --- out ---

    /// A packet of this host, or with `offload` what stands for several of one flow.
    pub(crate) fn handle_tun(
        &mut self,
        peers: &mut PeerTable,
        bytes: &[u8],
        offload: Offload,
        now: Instant,
    ) {
        let Ok(packet) = Packet::parse(bytes) else {
            self.drops.count(DropReason::Malformed);
            return;
        };
        let Some(handle) = peers.route(packet.destination()) else {
            self.drops.count(DropReason::NoPeer);
            self.refuse_host(&packet, Unreachable::Address);
            return;
        };
        let Some(peer) = peers.get_mut(handle) else {
            return;
        };
        if peer.path.is_none() {
            let hopeless = peer.is_announced_down();
            self.drops.count(DropReason::NoPath);
            if hopeless {
                self.refuse_host(&packet, Unreachable::Address);
            }
            return;
        }
        if let Some(flow) = packet.flow() {
            let (flags, granted) = (packet.tcp_flags(), peer.config.host);
            peer.flows.outbound(flow, flags, granted, now);
        }
        let (was_busy, mtu) = (peer.is_busy(), peer.mtu());
        let offload = match fit(&packet, offload, mtu) {
            Fit::Passes(offload) => offload,
            Fit::TooLong if peer.is_mtu_assumed() => offload,
            Fit::TooLong => {
                self.drops.count(DropReason::TooLong);
                self.tell_host(too_long(&packet, packet.destination(), mtu));
                return;
            }
        };
        let Some((mut way, sent)) = peer.way(&mut self.outbox, &mut self.next_id) else {
            self.drops.count(DropReason::NoPath);
            return;
        };
        let cut = segments(&packet, offload, &mut self.segment, |segment| {
            *sent += segment.len() as u64;
            way.push(segment, now);
        });
        if cut.is_err() {
            self.drops.count(DropReason::Malformed);
        } else if !was_busy {
            peers.note_traffic(handle);
        }
    }

    /// Seals a packet of punchd's own for a peer.
    pub(crate) fn send(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        packet: &[u8],
        now: Instant,
    ) {
        let Some(peer) = peers.get_mut(handle) else {
            return;
        };
        let was_busy = peer.is_busy();
        let Some((mut way, sent)) = peer.way(&mut self.outbox, &mut self.next_id) else {
            self.drops.count(DropReason::NoPath);
            return;
        };
        *sent += packet.len() as u64;
        way.push_own(packet, &mut self.segment, now);
        if !was_busy {
            peers.note_traffic(handle);
        }
    }

    /// Sends what the streams of forwards have for their clients.
    pub(crate) fn flush_streams(&mut self, peers: &mut PeerTable, now: Instant) {
        self.stack.flush(now);
        while let Some((peer, packet)) = self.stack.poll_packet() {
            self.send(peers, peer, &packet, now);
        }
    }

    /// Does what is due for the streams of forwards.
    pub(crate) fn handle_streams_timeout(&mut self, peers: &PeerTable, now: Instant) {
        let presence = |handle| peers.get(handle).map_or(Presence::Away, Peer::presence);
        self.stack.handle_timeout(presence, now);
    }

    /// New keys may be there: moves to them, and sends what waited for them.
    pub(crate) fn after_handshake(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        now: Instant,
    ) {
        let Some(peer) = peers.get_mut(handle) else {
            return;
        };
        let (moved, gone) = peer.tunnel.promote(now);
        let renewed = peer.note_keys(now);
        let mut waiting = false;
        if let (Some(path), Some(session)) = (peer.path, peer.tunnel.sealer()) {
            while session.has_waiting(now) {
                waiting = true;
                self.outbox
                    .push_with(path, false, |out| session.seal_waiting(now, out));
            }
        }
        peers.forget_sessions(gone);
        if moved || waiting || renewed {
            peers.mark(handle);
        }
    }

    /// Closes the streams that the rules do not allow any more, and invites those that may meet here now.
    pub(crate) fn apply_rules(
        &mut self,
        rules: Option<Rules>,
        peers: &mut PeerTable,
        now: Instant,
    ) {
        if let Some(rules) = rules {
            self.invitations.set_guests(rules.guests(), now);
            self.rules = rules;
        }
        self.invite(peers, now);
        let rules = &self.rules;
        self.stack.retain(
            |peer, forward, flow| {
                peers.get(peer).is_some()
                    && rules
                        .find(forward.protocol, flow.destination.port(), peer)
                        .is_some_and(|rule| rule.key == forward)
            },
            now,
        );
        self.stack.prune(rules, |peer| peers.get(peer).is_some());
    }

    // --- in ---

    /// Opens the data messages at the head of `datagrams` that are for the session with this number, at least one. Returns the peer
    /// if something authentic was among them.
    pub(crate) fn open_run<'a>(
        &mut self,
        peers: &mut PeerTable,
        number: u32,
        path: Path,
        datagrams: &mut Peekable<impl Iterator<Item = &'a [u8]>>,
        now: Instant,
    ) -> Option<PeerHandle> {
        let next = |datagrams: &mut Peekable<_>| {
            datagrams.next_if(|datagram: &&[u8]| data_index(datagram) == Some(number))
        };
        let Some(handle) = peers.by_session(number) else {
            while next(datagrams).is_some() {
                self.drops.count(DropReason::NotForUs);
            }
            return None;
        };
        // The conversation that the packet before belongs to, if such packets are for this host.
        let mut ours = None;
        let (mut authentic, mut packets) = (false, false);
        while let Some(datagram) = next(datagrams) {
            let Some(peer) = peers.get_mut(handle) else {
                continue;
            };
            let opened = match peer.tunnel.by_number(number) {
                Some(session) => session.open(datagram, now, &mut self.to_tun),
                None => Opened::Refused,
            };
            if opened == Opened::Later && peer.hold(path, datagram) {
                continue;
            }
            if matches!(opened, Opened::Refused | Opened::Later) {
                self.drops.count(DropReason::NotForUs);
                continue;
            }
            if !authentic {
                authentic = true;
                peer.settle_path(path, now);
            }
            if opened == Opened::Keepalive {
                continue;
            }
            packets = true;
            let bytes = self.to_tun.last().unwrap_or_default();
            let packet = Packet::parse(bytes).ok();
            let length = packet.map_or(bytes.len(), |packet| packet.bytes().len());
            peer.traffic.receive(path, length as u64);
            let flow = packet.filter(is_plain).and_then(|packet| packet.flow());
            if let (Some(packet), Some(flow)) = (packet, flow)
                && (ours == Some(flow) || self.verdict(peer, &packet, now) == Verdict::Host)
            {
                ours = Some(flow);
                self.to_tun.shorten(length);
                continue;
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            scratch.extend(self.to_tun.last().unwrap_or_default());
            self.to_tun.pop();
            self.handle_inner(peers, handle, &scratch, now);
            self.scratch = scratch;
        }
        if packets {
            peers.note_traffic(handle);
        }
        authentic.then_some(handle)
    }

    fn verdict(&self, peer: &mut Peer, packet: &Packet<'_>, now: Instant) -> Verdict {
        let sender = Sender {
            peer: peer.config.handle,
            addresses: &peer.addresses,
            host: peer.config.host,
            flows: &mut peer.flows,
        };
        decide(packet, sender, &self.host.addresses, &self.rules, now)
    }

    /// A decrypted packet.
    fn handle_inner(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        bytes: &[u8],
        now: Instant,
    ) {
        let Ok(packet) = Packet::parse(bytes) else {
            self.drops.count(DropReason::Malformed);
            return;
        };
        let Some(fragment) = packet.fragment() else {
            self.handle_whole(peers, handle, &packet, now);
            return;
        };
        // Only what the peer may send at all takes room, and only its own.
        let Some(peer) = peers.get_mut(handle) else {
            return;
        };
        if !peer.addresses.contains(&packet.source()) {
            self.drops.count(DropReason::WrongSource);
            return;
        }
        if !self.host.addresses.contains(&packet.destination()) {
            self.drops.count(DropReason::WrongDestination);
            return;
        }
        match peer.reassembly.add(&packet, fragment, now) {
            Err(_) => self.drops.count(DropReason::Full),
            Ok(None) => {}
            Ok(Some(whole)) => match Packet::parse(&whole) {
                Ok(packet) => self.handle_whole(peers, handle, &packet, now),
                Err(_) => self.drops.count(DropReason::Malformed),
            },
        }
    }

    fn handle_whole(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        packet: &Packet<'_>,
        now: Instant,
    ) {
        let Some(peer) = peers.get_mut(handle) else {
            return;
        };
        if let Some(pong) = self.pings.take(handle, &peer.addresses, packet, now) {
            if !self.invitations.handle_pong(&pong) {
                self.events.push_back(EngineEvent::Pong(pong));
            }
            return;
        }
        if is_invitation(packet) && peer.addresses.contains(&packet.source()) {
            self.handle_invitation(peers, handle, packet, now);
            return;
        }
        match self.verdict(peer, packet, now) {
            Verdict::Host => self.to_tun.push(packet.bytes()),
            Verdict::Echo => {
                if let Some(reply) = echo_reply(packet) {
                    self.send(peers, handle, &reply, now);
                }
            }
            Verdict::Forward => {
                let refused = self.stack.handle_packet(handle, packet, &self.rules, now);
                if let Err(refused) = refused {
                    self.refuse_peer(peers, handle, packet, refused, now);
                }
            }
            Verdict::Refuse(Refusal::WrongSource) => self.drops.count(DropReason::WrongSource),
            Verdict::Refuse(Refusal::WrongDestination) => {
                self.drops.count(DropReason::WrongDestination);
            }
            Verdict::Refuse(Refusal::NotAllowed) => {
                self.refuse_peer(peers, handle, packet, Refused::NoForward, now);
            }
        }
    }

    /// Tells a peer at once that its packet goes nowhere, as this host's kernel would.
    fn refuse_peer(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        packet: &Packet<'_>,
        refused: Refused,
        now: Instant,
    ) {
        let opens = match packet.transport() {
            Transport::Tcp { flags, .. } => flags.opens(),
            _ => true,
        };
        // A flow that the peer began by a grant is no stranger: the grant was taken back.
        let is_known = || {
            let peer = peers.get(handle);
            let flow = packet.flow();
            flow.is_some_and(|flow| peer.is_some_and(|peer| peer.flows.is_known(flow)))
        };
        let young = || now.saturating_duration_since(self.host.started) < GRACE && !is_known();
        let (reason, answer) = match refused {
            Refused::NoForward | Refused::NoConnection if !opens && young() => {
                (DropReason::Unknown, None)
            }
            Refused::NoForward => (DropReason::Refused, refuse(packet, Unreachable::Port)),
            Refused::NoConnection => (DropReason::Unknown, tcp_reset(packet)),
            Refused::Full if !opens => (DropReason::Full, None),
            Refused::Full => (DropReason::Full, refuse(packet, Unreachable::Prohibited)),
            Refused::TooFast => (DropReason::Full, None),
            Refused::Unreachable => {
                let here = packet.destination();
                let answer = unreachable(packet, here, Unreachable::Address);
                (DropReason::Refused, answer)
            }
            Refused::Malformed => (DropReason::Malformed, None),
        };
        self.drops.count(reason);
        let Some(answer) = answer else { return };
        let peer = peers.get_mut(handle);
        if peer.is_some_and(|peer| peer.refusals.take(now)) {
            self.send(peers, handle, &answer, now);
        }
    }

    /// Tells this host at once that its packet goes nowhere.
    fn refuse_host(&mut self, packet: &Packet<'_>, reason: Unreachable) {
        self.tell_host(unreachable(packet, packet.destination(), reason));
    }

    /// Gives this host an ICMP error about its own packet, in the name of the destination: the kernel takes a packet from outside with
    /// its own address for a forgery.
    fn tell_host(&mut self, error: Option<Vec<u8>>) {
        if let Some(error) = error {
            self.to_tun.push(&error);
        }
    }

    // --- pings ---

    /// Sends an echo request to a peer; returns its number, or `None` when the peer is not connected.
    pub(crate) fn ping(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        now: Instant,
    ) -> Option<u16> {
        self.request(peers, handle, echo_request, now)
    }

    /// Sends the echo request that `make` makes of both ends' addresses and a number, which is returned.
    fn request(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        make: impl FnOnce(IpAddr, IpAddr, u16) -> Option<Vec<u8>>,
        now: Instant,
    ) -> Option<u16> {
        let peer = peers.get(handle)?;
        let to = *peer.addresses.last()?;
        let same = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        let from = *self.host.addresses.iter().find(same)?;
        peer.path?;
        let id = self.pings.start(handle, now)?;
        let packet = make(from, to, id)?;
        self.send(peers, handle, &packet, now);
        Some(id)
    }

    /// Tells the guests that have not heard it that they may meet here.
    fn invite(&mut self, peers: &mut PeerTable, now: Instant) {
        let keys = |handle| {
            let peer = peers.get(handle).filter(|peer| peer.path.is_some())?;
            peer.tunnel.last_handshake()
        };
        for handle in self.invitations.due(keys, now) {
            let id = self.request(peers, handle, invitation, now);
            self.invitations.handle_sent(handle, id);
        }
    }

    /// A peer says that this machine may meet others at it.
    fn handle_invitation(
        &mut self,
        peers: &mut PeerTable,
        handle: PeerHandle,
        packet: &Packet<'_>,
        now: Instant,
    ) {
        if !self.host.addresses.contains(&packet.destination()) {
            self.drops.count(DropReason::WrongDestination);
            return;
        }
        if self.invitations.hear(handle, now) {
            self.events.push_back(EngineEvent::Invited { peer: handle });
        }
        if let Some(reply) = echo_reply(packet) {
            self.send(peers, handle, &reply, now);
        }
    }

    /// The next thing to tell.
    pub(crate) fn poll_event(&mut self) -> Option<EngineEvent> {
        self.events.pop_front()
    }

    /// Does what is due for pings and invitations.
    pub(crate) fn handle_timeout(&mut self, peers: &mut PeerTable, now: Instant) {
        self.pings.handle_timeout(now);
        self.invitations
            .retain(|handle| peers.get(handle).is_some());
        self.invite(peers, now);
    }
}
