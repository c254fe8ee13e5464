//! The way of packets into a peer's tunnel: sealed, and cut where the path takes no more.

use std::time::Instant;

use punch_connect::Path;
use punch_packet::{Buffer, Fit, Offload, Packet, Protocol, fit, segments, split};
use punch_traversal::overhead;

use crate::outbox::{Cut, Outbox};
use crate::peers::Session;

/// See the module.
pub(crate) struct Way<'a> {
    pub(crate) path: Path,
    /// The longest packet that fits, in bytes.
    pub(crate) mtu: usize,
    pub(crate) session: &'a mut Session,
    pub(crate) outbox: &'a mut Outbox,
}

impl Way<'_> {
    /// Seals a packet.
    pub(crate) fn push(&mut self, packet: &[u8], now: Instant) {
        if packet.len() > self.mtu {
            return self.push_long(packet, now);
        }
        let session = &mut self.session;
        self.outbox
            .push_with(self.path, |out| session.seal(packet, now, out));
    }

    /// A packet of punchd's own that may be too long: TCP's is cut into segments, any other into fragments with this identification.
    pub(crate) fn push_own(&mut self, bytes: &[u8], id: u32, scratch: &mut Buffer, now: Instant) {
        let packet = Packet::parse(bytes).ok();
        let Some(packet) = packet.filter(|packet| packet.bytes().len() > self.mtu) else {
            return self.push(bytes, now);
        };
        if packet.protocol() == Protocol::Tcp
            && let Fit::Passes(offload) = fit(&packet, Offload::default(), self.mtu)
            && segments(&packet, offload, scratch, |segment| self.push(segment, now)).is_ok()
        {
            return;
        }
        for part in split(bytes.to_vec(), self.mtu, id) {
            self.push(&part, now);
        }
    }

    /// IPv4 in fragments. What IPv6 sends is never too long for a link that carries IPv6 at all, and where the path carries less, the
    /// sealed packet travels in fragments (RFC 8200 §5).
    fn push_long(&mut self, packet: &[u8], now: Instant) {
        let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
        if is_v4 {
            let parts = split(packet.to_vec(), self.mtu, identification(packet));
            if parts.len() > 1 {
                parts.iter().for_each(|part| self.push(part, now));
                return;
            }
        }
        let cut = match self.path {
            Path::Direct(direct) => {
                let longest = self.mtu + usize::from(overhead(direct.remote.ip()));
                Cut::Here(u16::try_from(longest).unwrap_or(u16::MAX))
            }
            Path::Relayed(_) => Cut::Anybody,
        };
        let session = &mut self.session;
        self.outbox
            .push_cut(self.path, cut, |out| session.seal(packet, now, out));
    }
}

/// What tells a packet's fragments from those of others: the number that its sender has given it.
fn identification(packet: &[u8]) -> u32 {
    match *packet {
        [0x40..=0x4F, _, _, _, high, low, ..] => u16::from_be_bytes([high, low]).into(),
        _ => 0,
    }
}
