//! The inbound decision: what happens to a decrypted packet from a peer. Nothing is reachable by default.

use std::net::IpAddr;
use std::time::Instant;

use punch_api::Protocol as ForwardProtocol;
use punch_forward::Rules;
use punch_packet::PeerHandle;
use punch_packet::{Packet, Transport};

use crate::flows::FlowTable;

/// What to do with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to this host's kernel: it is a reply, or the peer may reach the host.
    Host,
    /// Give it to the forwards.
    Forward,
    /// Answer the echo request.
    Echo,
    /// Refuse it so that the peer notices at once.
    Refuse(Refusal),
}

/// Why a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The source is not the peer's own address. Silence: whoever it names has done nothing.
    WrongSource,
    /// The destination is not this machine.
    WrongDestination,
    /// No forward, no flow of ours, no grant.
    NotAllowed,
}

/// What the decision needs to know of the peer.
pub(crate) struct Sender<'a> {
    pub(crate) peer: PeerHandle,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) host: bool,
    pub(crate) flows: &'a mut FlowTable,
}

/// Decides about one whole packet.
pub(crate) fn decide(
    packet: &Packet<'_>,
    sender: Sender<'_>,
    own: &[IpAddr],
    rules: &Rules,
    now: Instant,
) -> Verdict {
    if !sender.addresses.contains(&packet.source()) {
        return Verdict::Refuse(Refusal::WrongSource);
    }
    if !own.contains(&packet.destination()) {
        return Verdict::Refuse(Refusal::WrongDestination);
    }
    let (flow, flags) = (packet.flow(), packet.tcp_flags());
    if let Some(flow) = flow
        && !matches!(packet.transport(), Transport::Echo { request: true, .. })
        && sender.flows.is_reply(flow, flags, now)
    {
        return Verdict::Host;
    }
    if let Some(quoted) = packet.quoted_flow()
        && sender.flows.has_sent(quoted, now)
    {
        return Verdict::Host;
    }
    let forwarded = match packet.transport() {
        Transport::Tcp { destination, .. } => {
            rules.find(ForwardProtocol::Tcp, destination, sender.peer)
        }
        Transport::Udp { destination, .. } => {
            rules.find(ForwardProtocol::Udp, destination, sender.peer)
        }
        _ => None,
    };
    if forwarded.is_some() {
        return Verdict::Forward;
    }
    if sender.host {
        if let Some(flow) = flow {
            sender.flows.inbound_granted(flow, flags, now);
        }
        return Verdict::Host;
    }
    if matches!(packet.transport(), Transport::Echo { request: true, .. }) {
        return Verdict::Echo;
    }
    Verdict::Refuse(Refusal::NotAllowed)
}
