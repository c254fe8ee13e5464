//! The machines and servers of every scene, and their addresses.

use std::net::Ipv4Addr;

use punch_api::ForwardKey;
use punch_connect::ServerId;
use punch_engine::PeerHandle;

/// The victim.
pub(super) const ALICE: usize = 0;
/// Its honest peer.
pub(super) const BOB: usize = 1;
/// The malicious one.
pub(super) const MALLORY: usize = 2;
/// The honest signalling server.
pub(super) const GOOD: ServerId = ServerId(1);
/// The malicious one.
pub(super) const EVIL: ServerId = ServerId(2);
/// The port of the STUN servers.
pub(super) const STUN_PORT: u16 = 3478;
/// 2026-01-01, in milliseconds.
pub(super) const WALL: u64 = 1_767_225_600_000;
/// Each of the three knows the others under these.
pub(super) const HANDLES: [PeerHandle; 3] = [PeerHandle(1), PeerHandle(2), PeerHandle(3)];
/// The honest STUN server has the first two addresses, the malicious one the others.
pub(super) const STUN_IPS: [[u8; 4]; 4] = [
    [203, 0, 113, 1],
    [203, 0, 113, 2],
    [203, 0, 113, 3],
    [203, 0, 113, 4],
];
/// Where the malicious peer is.
pub(super) const MALLORY_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// The port of the honest tunnel's datagrams.
pub(super) const TRAFFIC_PORT: u16 = 7;

/// What the victim shares with the malicious peer: a TCP port and a UDP port.
pub(super) fn shares() -> [Option<ForwardKey>; 2] {
    ["tcp", "udp"].map(|protocol| {
        Some(ForwardKey {
            protocol: protocol.parse().ok()?,
            ports: "80".parse().ok()?,
        })
    })
}
