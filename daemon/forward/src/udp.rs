//! Forwarded UDP: one flow per client address and port, each with a target socket of its own, expiring when idle.
//!
//! Datagrams need no TCP stack: they are taken out of their packets and put into packets here.

use std::time::Duration;

use punch_packet::{Flow, Packet, UdpReply, Unreachable, udp_packets, unreachable};

/// How long a flow without traffic lasts (RFC 4787 REQ-5 asks NATs for at least two minutes).
pub const IDLE: Duration = Duration::from_secs(180);

/// A flow: whether its target has failed.
#[derive(Debug, Default)]
pub(crate) struct UdpFlow {
    /// The target has failed it: counted once.
    failed: bool,
}

impl UdpFlow {
    /// The target has failed it; returns whether for the first time.
    pub(crate) fn fail(&mut self) -> bool {
        !std::mem::replace(&mut self.failed, true)
    }
}

/// The target's datagram as a packet for the client, however long; `None` where no packet can be so long.
pub(crate) fn reply(flow: Flow, payload: &[u8]) -> Option<Vec<u8>> {
    let reply = UdpReply {
        source: flow.destination,
        destination: flow.source,
        payload,
        id: 0,
    };
    udp_packets(reply, usize::MAX).pop()
}

/// What the client sees when the target's port is closed: an ICMP error that quotes its datagram's header.
pub(crate) fn refusal(flow: Flow, reason: Unreachable) -> Option<Vec<u8>> {
    let asked = UdpReply {
        source: flow.source,
        destination: flow.destination,
        payload: &[],
        id: 0,
    };
    let packet = udp_packets(asked, usize::MAX).pop()?;
    let packet = Packet::parse(&packet).ok()?;
    unreachable(&packet, flow.destination.ip(), reason)
}
