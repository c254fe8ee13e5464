//! The packet path: from the TUN into a session, from a datagram through a session; what comes out of it goes on in `inner.rs`.

use std::iter::Peekable;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use punch_packet::PeerHandle;
use punch_packet::{Offload, Packet, Transport, Unreachable, segments};
use punch_traversal::{DirectPath, SocketId};

use super::{Engine, Peer};
use crate::config::PeerKind;
use crate::inbound::{Sender, Verdict, decide};
use crate::report::DropReason;
use crate::session::{OpenedData, data_index};
use punch_connect::LinkState;

impl Peer {
    /// Something authentic has come this way. A plain WireGuard peer may roam; a Punch peer's path is the agent's choice once
    /// it has made one.
    pub(super) fn settle_path(&mut self, path: DirectPath) {
        if self.path.is_none() || matches!(self.config.kind, PeerKind::Wireguard { .. }) {
            self.path = Some(path.into());
        }
    }

    /// It has sent or been sent packets since the last flush, whose list this is.
    fn note_traffic(&mut self, handle: PeerHandle, busy: &mut Vec<PeerHandle>) {
        if !std::mem::replace(&mut self.busy, true) {
            busy.push(handle);
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
            outbox.push_with(path, |out| session.seal(segment, now, out));
        });
        if cut.is_err() {
            self.drop_packet(DropReason::Malformed);
        } else {
            peer.note_traffic(handle, &mut self.busy);
        }
    }

    /// With how many peers packets have been exchanged since the last [`Self::flush`].
    pub fn busy_peers(&self) -> usize {
        self.busy.len()
    }

    /// Seals a packet for a peer.
    pub(super) fn send(&mut self, handle: PeerHandle, packet: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(&handle) else {
            return;
        };
        let (Some(path), Some(session)) = (peer.path, peer.tunnel.sealer()) else {
            self.drop_packet(DropReason::NoPath);
            return;
        };
        peer.sent += packet.len() as u64;
        self.outbox
            .push_with(path, |out| session.seal(packet, now, out));
        peer.note_traffic(handle, &mut self.busy);
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
        let path = DirectPath {
            socket,
            remote: from,
        };
        while let Some(datagram) = datagrams.peek() {
            match data_index(datagram) {
                Some(index) => self.open_run(index, path, &mut datagrams, now),
                None => {
                    self.handle_control(path, local, datagram, now);
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
        path: DirectPath,
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
        while let Some(datagram) = next(datagrams) {
            let Some(peer) = self.peers.get_mut(&handle) else {
                continue;
            };
            let opened = match peer.tunnel.by_index(index) {
                Some(session) => session.open_data(datagram, now, &mut self.to_tun),
                None => OpenedData::Refused,
            };
            if opened == OpenedData::Refused {
                self.drop_packet(DropReason::NotForUs);
                continue;
            }
            if !authentic {
                authentic = true;
                peer.settle_path(path);
            }
            if opened == OpenedData::Keepalive {
                continue;
            }
            let bytes = self.to_tun.last().unwrap_or_default();
            peer.note_traffic(handle, &mut self.busy);
            let packet = Packet::parse(bytes).ok();
            // Without the padding behind it.
            let length = packet.map_or(bytes.len(), |packet| packet.bytes().len());
            peer.received += length as u64;
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
            self.after_handshake(handle, now);
        }
    }
}
