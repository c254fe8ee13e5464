//! The way of packets into a peer's tunnel: sealed, and cut where the path takes no more.

use std::time::Instant;

use punch_connect::Path;
use punch_packet::{Buffer, Fit, IPV6_MINIMUM, Offload, Packet, Protocol, fit, segments, split};
use punch_wireguard::Session;

use crate::mtu::PeerMtu;
use crate::outbox::Outbox;
use crate::reply_to::ReplyTo;

/// See the module.
pub(crate) struct Way<'a> {
    pub(crate) path: Path,
    /// The longest packet that fits.
    pub(crate) mtu: PeerMtu,
    pub(crate) session: &'a mut Session<ReplyTo>,
    pub(crate) outbox: &'a mut Outbox,
    /// The identification of the next packet that is cut into fragments and has none.
    pub(crate) next_id: &'a mut u32,
}

impl Way<'_> {
    /// Seals a packet; one that is too long leaves in fragments. That is IPv4's right where the sender has not forbidden it, and the duty
    /// of a link below IPv6 that carries less than 1,280 bytes (RFC 8200 §5): this machine is the source of what it sends.
    pub(crate) fn push(&mut self, packet: &[u8], now: Instant) {
        let mtu = self.mtu.get();
        if packet.len() <= mtu || (self.mtu.is_assumed() && would_be_refused(packet)) {
            return self.seal(packet, now);
        }
        let id = match *packet {
            [0x40..=0x4F, _, _, _, high, low, ..] => u16::from_be_bytes([high, low]).into(),
            _ => 0,
        };
        let id = if id == 0 { self.fresh_id() } else { id };
        for part in split(packet.to_vec(), mtu, id) {
            self.seal(&part, now);
        }
    }

    /// A packet of punchd's own that may be too long: TCP's is cut into segments, any other into fragments.
    pub(crate) fn push_own(&mut self, bytes: &[u8], scratch: &mut Buffer, now: Instant) {
        let (packet, mtu) = (Packet::parse(bytes).ok(), self.mtu.get());
        let Some(packet) = packet.filter(|packet| packet.bytes().len() > mtu) else {
            return self.seal(bytes, now);
        };
        if packet.protocol() == Protocol::Tcp
            && let Fit::Passes(offload) = fit(&packet, Offload::default(), mtu)
            && segments(&packet, offload, scratch, |segment| self.push(segment, now)).is_ok()
        {
            return;
        }
        for part in split(bytes.to_vec(), mtu, self.fresh_id()) {
            self.seal(&part, now);
        }
    }

    fn seal(&mut self, packet: &[u8], now: Instant) {
        let (session, whole) = (&mut self.session, self.mtu.is_whole());
        self.outbox
            .push_with(self.path, whole, |out| session.seal(packet, now, out));
    }

    fn fresh_id(&mut self) -> u32 {
        *self.next_id = self.next_id.wrapping_add(1);
        *self.next_id
    }
}

/// Whether the sender would be told that the packet does not fit, so that nothing else is left to it than to take its chance.
fn would_be_refused(packet: &[u8]) -> bool {
    let view = Packet::parse(packet);
    view.is_ok_and(|view| {
        view.forbids_fragments() && (view.source().is_ipv4() || packet.len() > IPV6_MINIMUM)
    })
}
