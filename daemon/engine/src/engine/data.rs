//! The packet path: from the TUN into a session, from a datagram through a session and the inbound decision.

use std::iter::Peekable;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use punch_forward::{PeerHandle, Refused};
use punch_packet::{
    Offload, Packet, Transport, Unreachable, echo_reply, refuse, segments, split, tcp_reset,
    unreachable,
};
use punch_stun_protocol::is_stun;
use punch_traversal::{Path, SocketId, Transmit};
use rand_core::RngCore;

use super::{Engine, EngineEvent, GRACE, Peer};
use crate::config::PeerKind;
use crate::connect::LinkState;
use crate::inbound::{Refusal, Sender, Verdict, decide};
use crate::report::DropReason;
use crate::session::{Admission, COOKIE_REPLY, Message, Opened, OpenedData, data_index};

impl Peer {
    /// Something authentic has come this way. A plain WireGuard peer may roam; a Punch peer's path is the agent's choice once
    /// it has made one.
    fn settle_path(&mut self, path: Path) {
        if self.path.is_none() || matches!(self.config.kind, PeerKind::Wireguard { .. }) {
            self.path = Some(path);
        }
    }
}

/// A whole packet that is no echo: the verdict on it is that on others of its conversation.
fn is_plain(packet: &Packet<'_>) -> bool {
    packet.fragment().is_none()
        && matches!(
            packet.transport(),
            Transport::Tcp { .. } | Transport::Udp { .. }
        )
}

impl Engine {
    /// A packet of this host, or with `offload` what stands for several of one flow.
    pub fn handle_tun(&mut self, bytes: &[u8], offload: Offload, now: Instant) {
        let Ok(packet) = Packet::parse(bytes) else {
            self.drop_packet(DropReason::Malformed);
            return;
        };
        let Some(handle) = self.routes.get(&packet.destination()).copied() else {
            self.drop_packet(DropReason::NoPeer);
            self.refuse_host(&packet, Unreachable::Address);
            return;
        };
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        if peer.path.is_none() {
            let hopeless = peer.announced == LinkState::Down;
            self.drop_packet(DropReason::NoPath);
            if hopeless {
                self.refuse_host(&packet, Unreachable::Address);
            }
            return;
        }
        if let Some(flow) = packet.flow() {
            let opens = matches!(packet.transport(), Transport::Tcp { flags, .. } if flags.opens());
            peer.flows.outbound(flow, opens, peer.config.host, now);
        }
        let (Some(path), Some(session)) = (peer.path, peer.tunnel.sealer()) else {
            self.drop_packet(DropReason::NoPath);
            return;
        };
        let (outbox, sent) = (&mut self.outbox, &mut peer.sent);
        let cut = segments(&packet, offload, &mut self.segment, |segment| {
            *sent += segment.len() as u64;
            outbox.push_with(path, |out| session.seal(segment, out));
        });
        if cut.is_err() {
            self.drop_packet(DropReason::Malformed);
        } else if !peer.busy {
            peer.busy = true;
            self.busy.push(handle);
        }
    }

    /// Seals a packet for a peer.
    pub(super) fn send(&mut self, handle: PeerHandle, packet: &[u8]) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let (Some(path), Some(session)) = (peer.path, peer.tunnel.sealer()) else {
            self.drop_packet(DropReason::NoPath);
            return;
        };
        peer.sent += packet.len() as u64;
        self.outbox.push_with(path, |out| session.seal(packet, out));
        if !peer.busy {
            peer.busy = true;
            self.busy.push(handle);
        }
    }

    /// Datagrams have come in on `socket`, back to back, each of `stride` bytes, the last one possibly shorter; `local` is the
    /// address they came to, where the kernel says so. Many of the same session cost little more than opening them.
    pub fn handle_train(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        stride: usize,
        bytes: &[u8],
        now: Instant,
    ) {
        let mut datagrams = bytes.chunks(stride.max(1)).peekable();
        if self.is_inside(from.ip()) {
            datagrams.for_each(|_| self.drop_packet(DropReason::NotForUs));
            return;
        }
        let path = Path {
            socket,
            remote: from,
        };
        while let Some(datagram) = datagrams.peek() {
            match data_index(datagram) {
                Some(index) => self.open_run(index, path, &mut datagrams, now),
                None => {
                    self.handle_datagram(socket, local, from, datagram, now);
                    datagrams.next();
                }
            }
        }
    }

    /// Whether an address is one that is reached through a tunnel.
    fn is_inside(&self, ip: IpAddr) -> bool {
        self.routes.contains_key(&ip) || self.own.contains(&ip)
    }

    /// Opens the data messages at the head of `datagrams` that are for the session with this index, at least one.
    fn open_run<'a>(
        &mut self,
        index: u32,
        path: Path,
        datagrams: &mut Peekable<impl Iterator<Item = &'a [u8]>>,
        now: Instant,
    ) {
        let next = |datagrams: &mut Peekable<_>| {
            datagrams.next_if(|datagram: &&[u8]| data_index(datagram) == Some(index))
        };
        let Some(handle) = self.by_index.get(&index).copied() else {
            while next(datagrams).is_some() {
                self.drop_packet(DropReason::NotForUs);
            }
            return;
        };
        // The conversation that the packet before belongs to, if such packets are for this host.
        let mut ours = None;
        let mut authentic = false;
        let mut keepalive = false;
        while let Some(datagram) = next(datagrams) {
            let Some(peer) = self.peers.get_mut(&handle) else {
                continue;
            };
            let opened = match peer.tunnel.by_index(index) {
                Some(session) => session.open_data(path.remote.ip(), datagram, &mut self.to_tun),
                None => OpenedData::Refused,
            };
            match opened {
                OpenedData::Refused => {
                    self.drop_packet(DropReason::NotForUs);
                    continue;
                }
                OpenedData::Keepalive => keepalive = true,
                OpenedData::Packet => {}
            }
            if !authentic {
                authentic = true;
                peer.settle_path(path);
            }
            if opened == OpenedData::Keepalive {
                continue;
            }
            let bytes = self.to_tun.last().unwrap_or_default();
            peer.received += bytes.len() as u64;
            if !peer.busy {
                peer.busy = true;
                self.busy.push(handle);
            }
            let packet = Packet::parse(bytes).ok();
            let flow = packet.filter(is_plain).and_then(|packet| packet.flow());
            if let (Some(packet), Some(flow)) = (packet, flow) {
                let sender = Sender {
                    peer: handle,
                    addresses: &peer.addresses,
                    host: peer.config.host,
                    flows: &mut peer.flows,
                };
                if ours == Some(flow)
                    || decide(&packet, sender, &self.own, &self.rules, now) == Verdict::Tun
                {
                    ours = Some(flow);
                    let length = packet.bytes().len();
                    self.to_tun.shorten(length);
                    continue;
                }
            }
            let mut scratch = std::mem::take(&mut self.aside);
            scratch.clear();
            scratch.extend(bytes);
            self.to_tun.pop();
            self.handle_inner(handle, &scratch, now);
            self.aside = scratch;
        }
        if authentic {
            self.after_handshake(handle, keepalive, now);
        }
    }

    /// A datagram has come in on `socket`; `local` is the address it came to, where the kernel says so.
    pub fn handle_datagram(
        &mut self,
        socket: SocketId,
        local: Option<IpAddr>,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) {
        // What comes out of a tunnel must not lead a tunnel into itself.
        if self.is_inside(from.ip()) {
            self.drop_packet(DropReason::NotForUs);
            return;
        }
        if is_stun(datagram) {
            if !self
                .connector
                .handle_stun(socket, local, from, datagram, now)
            {
                self.drop_packet(DropReason::NotForUs);
            }
            return;
        }
        let message = match self.gate.admit(from.ip(), datagram) {
            Admission::Admitted(message) => message,
            Admission::Cookie(bytes) => {
                self.drop_packet(DropReason::UnderLoad);
                self.outbox.push(Transmit {
                    socket,
                    to: from,
                    source: local,
                    ttl: None,
                    bytes,
                });
                return;
            }
            Admission::Refused => {
                self.drop_packet(DropReason::NotForUs);
                return;
            }
        };
        let handle = match message {
            Message::Initiation { public } => self.by_key.get(&public).copied(),
            Message::For { index, .. } => self.by_index.get(&index).copied(),
        };
        let Some(handle) = handle else {
            self.drop_packet(DropReason::NotForUs);
            return;
        };
        let path = Path {
            socket,
            remote: from,
        };
        self.open(handle, message, path, local, datagram, now);
    }

    fn open(
        &mut self,
        handle: PeerHandle,
        message: Message,
        path: Path,
        local: Option<IpAddr>,
        datagram: &[u8],
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let Message::For { index, data } = message else {
            self.answer_initiation(handle, path, local, datagram, now);
            return;
        };
        let Some(session) = peer.tunnel.by_index(index) else {
            self.drop_packet(DropReason::NotForUs);
            return;
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        let opened = session.open(path.remote.ip(), datagram, &mut scratch);
        if matches!(opened, Opened::Refused) {
            self.drop_packet(DropReason::NotForUs);
            self.scratch = scratch;
            return;
        }
        // Authentic, save a cookie, which anybody can make who sees our handshakes.
        if datagram.first() != Some(&COOKIE_REPLY) {
            peer.settle_path(path);
        }
        match opened {
            Opened::Packet(packet) => {
                peer.received += packet.len() as u64;
                if !peer.busy {
                    peer.busy = true;
                    self.busy.push(handle);
                }
                self.after_handshake(handle, false, now);
                self.handle_inner(handle, packet, now);
            }
            Opened::Reply(reply) => {
                self.outbox.push(Transmit {
                    socket: path.socket,
                    to: path.remote,
                    source: local,
                    ttl: None,
                    bytes: reply.to_vec(),
                });
                self.after_handshake(handle, true, now);
            }
            Opened::Nothing => self.after_handshake(handle, data, now),
            Opened::Refused => {}
        }
        self.scratch = scratch;
    }

    /// A peer asks for new keys.
    fn answer_initiation(
        &mut self,
        handle: PeerHandle,
        path: Path,
        local: Option<IpAddr>,
        datagram: &[u8],
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let mut answered = false;
        for session in peer.tunnel.responders() {
            if let Opened::Reply(reply) =
                session.open(path.remote.ip(), datagram, &mut self.scratch)
            {
                answered = true;
                self.outbox.push(Transmit {
                    socket: path.socket,
                    to: path.remote,
                    source: local,
                    ttl: None,
                    bytes: reply.to_vec(),
                });
            }
        }
        if !answered {
            self.drop_packet(DropReason::NotForUs);
            return;
        }
        peer.settle_path(path);
        self.after_handshake(handle, true, now);
    }

    /// New keys may be there: move to them, and send what waited for them.
    fn after_handshake(&mut self, handle: PeerHandle, flush: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let (moved, gone) = peer.tunnel.promote(now);
        if peer.tunnel.established() {
            peer.last_established = Some(now);
            peer.lately_established = true;
        }
        self.unannounced |= moved || flush;
        for index in gone {
            self.by_index.remove(&index);
        }
        let Some(path) = peer.path else { return };
        if (moved || flush)
            && let Some(session) = peer.tunnel.sealer()
            && session.established()
        {
            let mut more = true;
            while more {
                self.outbox.push_with(path, |out| {
                    let length = session.seal_waiting(out);
                    more = length > 0;
                    length
                });
            }
        }
    }

    /// A decrypted packet.
    fn handle_inner(&mut self, handle: PeerHandle, bytes: &[u8], now: Instant) {
        let Ok(packet) = Packet::parse(bytes) else {
            self.drop_packet(DropReason::Malformed);
            return;
        };
        let Some(fragment) = packet.fragment() else {
            self.handle_whole(handle, &packet, now);
            return;
        };
        // Only what the peer may send at all takes room, and only its own.
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        if !peer.addresses.contains(&packet.source()) {
            self.drop_packet(DropReason::WrongSource);
            return;
        }
        if !self.own.contains(&packet.destination()) {
            self.drop_packet(DropReason::WrongDestination);
            return;
        }
        match peer.reassembly.add(&packet, fragment, now) {
            Err(_) => self.drop_packet(DropReason::Full),
            Ok(None) => {}
            Ok(Some(whole)) => match Packet::parse(&whole) {
                Ok(packet) => self.handle_whole(handle, &packet, now),
                Err(_) => self.drop_packet(DropReason::Malformed),
            },
        }
    }

    fn handle_whole(&mut self, handle: PeerHandle, packet: &Packet<'_>, now: Instant) {
        if self.take_pong(handle, packet, now) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let sender = Sender {
            peer: handle,
            addresses: &peer.addresses,
            host: peer.config.host,
            flows: &mut peer.flows,
        };
        match decide(packet, sender, &self.own, &self.rules, now) {
            Verdict::Tun => self.to_tun.push(packet.bytes()),
            Verdict::Echo => {
                if let Some(reply) = echo_reply(packet) {
                    let id = self.rng.next_u32();
                    for part in split(reply, self.mtu, id) {
                        self.send(handle, &part);
                    }
                }
            }
            Verdict::Forward => {
                let refused = self.stack.handle_packet(handle, packet, &self.rules, now);
                if let Err(refused) = refused {
                    self.refuse_peer(handle, packet, refused, now);
                }
            }
            Verdict::Refuse(Refusal::WrongSource) => self.drop_packet(DropReason::WrongSource),
            Verdict::Refuse(Refusal::WrongDestination) => {
                self.drop_packet(DropReason::WrongDestination);
            }
            Verdict::Refuse(Refusal::NotAllowed) => {
                self.refuse_peer(handle, packet, Refused::NoForward, now);
            }
        }
    }

    /// Tells a peer at once that its packet goes nowhere, as this host's kernel would.
    fn refuse_peer(
        &mut self,
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
        let known = packet.flow().is_some_and(|flow| {
            let peer = self.peers.get(&handle);
            peer.is_some_and(|peer| peer.flows.is_known(flow))
        });
        let young = !known && now.saturating_duration_since(self.started) < GRACE;
        let answer = match refused {
            Refused::NoForward | Refused::NoConnection if !opens && young => {
                self.drop_packet(DropReason::Unknown);
                return;
            }
            Refused::NoForward => {
                self.drop_packet(DropReason::Refused);
                refuse(packet, Unreachable::Port)
            }
            Refused::NoConnection => {
                self.drop_packet(DropReason::Unknown);
                tcp_reset(packet)
            }
            Refused::Full => {
                self.drop_packet(DropReason::Full);
                if !opens {
                    return;
                }
                refuse(packet, Unreachable::Prohibited)
            }
            Refused::Malformed => {
                self.drop_packet(DropReason::Malformed);
                return;
            }
        };
        if let Some(answer) = answer {
            self.send(handle, &answer);
        }
    }

    /// Tells this host at once that its packet goes nowhere.
    fn refuse_host(&mut self, packet: &Packet<'_>, reason: Unreachable) {
        // In the name of the destination: the kernel takes a packet from outside with its own address for a forgery.
        if let Some(error) = unreachable(packet, packet.destination(), reason) {
            self.to_tun.push(&error);
        }
    }

    // --- ping ---

    /// Sends an echo request to a peer; [`EngineEvent::Pong`] with the returned number tells of the answer. `None` when the
    /// peer is not connected.
    pub fn ping(&mut self, handle: PeerHandle, now: Instant) -> Option<u16> {
        const MAX_PINGS: usize = 256;
        let peer = self.peers.get(&handle)?;
        let to = *peer.addresses.last()?;
        let from = *self.own.iter().find(|ip| ip.is_ipv4() == to.is_ipv4())?;
        if peer.path.is_none() || self.pings.len() >= MAX_PINGS {
            return None;
        }
        let id = (0..=u16::MAX).find(|id| !self.pings.contains_key(id))?;
        self.pings.insert(id, (handle, now));
        let packet = punch_packet::echo_request(from, to, id)?;
        self.send(handle, &packet);
        self.flush(now);
        Some(id)
    }

    fn take_pong(&mut self, handle: PeerHandle, packet: &Packet<'_>, now: Instant) -> bool {
        let Transport::Echo { request: false, id } = packet.transport() else {
            return false;
        };
        let expected = self.pings.get(&id).is_some_and(|(peer, _)| *peer == handle);
        let peer = self.peers.get(&handle);
        let from_it = peer.is_some_and(|peer| peer.addresses.contains(&packet.source()));
        if !expected || !from_it || !punch_packet::is_our_echo(packet) {
            return false;
        }
        if let Some((peer, sent)) = self.pings.remove(&id) {
            self.events.push_back(EngineEvent::Pong {
                peer,
                id,
                address: packet.source(),
                rtt: now.saturating_duration_since(sent),
            });
        }
        true
    }
}
