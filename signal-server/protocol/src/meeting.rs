//! Where peers meet inside the tunnel to a third one, which serves them as a signalling server does.

use crate::PeerId;

/// The TCP port of a peer's overlay addresses at which it serves those that it allows to meet there.
pub const MEETING_PORT: u16 = 45117;

/// The address of the meeting place that a peer serves inside its tunnel.
pub fn meeting_url(host: &PeerId) -> String {
    format!("ws://[{}]:{MEETING_PORT}/", host.overlay_ipv6())
}
