//! Packets that have come out of a tunnel: the inbound decision carried out, and what is answered in the host's name.

use std::time::Instant;

use punch_forward::Refused;
use punch_packet::PeerHandle;
use punch_packet::{
    Packet, Transport, Unreachable, echo_reply, refuse, split, tcp_reset, unreachable,
};
use rand_core::RngCore;

use super::{Engine, EngineEvent, GRACE};
use crate::inbound::{Refusal, Sender, Verdict, decide};
use crate::report::DropReason;

impl Engine {
    /// A decrypted packet.
    pub(super) fn handle_inner(&mut self, handle: PeerHandle, bytes: &[u8], now: Instant) {
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
                        self.send(handle, &part, now);
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
            self.send(handle, &answer, now);
        }
    }

    /// Tells this host at once that its packet goes nowhere.
    pub(super) fn refuse_host(&mut self, packet: &Packet<'_>, reason: Unreachable) {
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
        self.send(handle, &packet, now);
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
