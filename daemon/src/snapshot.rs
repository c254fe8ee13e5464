//! What the desk gets to see of the engine, copied at one moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use punch_api::ForwardKey;
use punch_engine::{DropReason, Engine, LinkState, LinkStatus, PeerHandle, PeerReport};
use punch_signal_protocol::Candidate;

/// See the module.
pub(crate) struct Snapshot {
    pub(crate) peers: HashMap<PeerHandle, PeerSnapshot>,
    pub(crate) forwards: HashMap<ForwardKey, (u64, u64)>,
    pub(crate) candidates: Vec<Candidate>,
    /// STUN servers that answer.
    pub(crate) stun: Vec<SocketAddr>,
    pub(crate) drops: Vec<(DropReason, u64)>,
}

pub(crate) struct PeerSnapshot {
    pub(crate) state: LinkState,
    pub(crate) report: PeerReport,
    pub(crate) link: Option<LinkStatus>,
    pub(crate) ipv4_differs: bool,
}

pub(crate) fn take(engine: &Engine, now: Instant) -> Snapshot {
    let peer = |handle| {
        Some(PeerSnapshot {
            state: engine.peer_state(handle)?,
            report: engine.peer_report(handle)?,
            link: engine.link_status(handle, now),
            ipv4_differs: engine.ipv4_differs(handle),
        })
    };
    Snapshot {
        peers: engine
            .peers()
            .filter_map(|handle| Some((handle, peer(handle)?)))
            .collect(),
        forwards: engine
            .rules()
            .iter()
            .map(|rule| (rule.key, engine.forward_counts(rule.key)))
            .collect(),
        candidates: engine.candidates(),
        stun: engine
            .reflexive()
            .into_iter()
            .map(|(server, _)| server)
            .collect(),
        drops: engine.drops(),
    }
}
