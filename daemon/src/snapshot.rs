//! What views are made from of the engine, copied at one moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use punch_api::ForwardKey;
use punch_engine::{
    DropReason, Engine, ForwardCounts, LinkState, LinkStatus, PeerHandle, PeerReport, Stranger,
};
use punch_signal_protocol::Candidate;

/// The parts of a snapshot that are wanted: what costs the more, the more peers or forwards there are, is copied only if asked for.
#[derive(Default)]
pub(crate) struct Scope {
    peers: Vec<PeerHandle>,
    forwards: bool,
}

impl Scope {
    /// These peers.
    pub(crate) fn peers(peers: Vec<PeerHandle>) -> Self {
        Self {
            peers,
            forwards: false,
        }
    }

    /// All forwards.
    pub(crate) fn forwards() -> Self {
        Self {
            peers: Vec::new(),
            forwards: true,
        }
    }
}

/// The engine at one moment.
pub(crate) struct Snapshot {
    pub(crate) peers: HashMap<PeerHandle, PeerSnapshot>,
    /// What has become of the streams of each forward.
    pub(crate) forwards: HashMap<ForwardKey, ForwardCounts>,
    pub(crate) candidates: Vec<Candidate>,
    /// STUN servers that answer.
    pub(crate) stun: Vec<SocketAddr>,
    /// Machines that have called and are no peers.
    pub(crate) strangers: Vec<Stranger>,
    pub(crate) drops: Vec<(DropReason, u64)>,
}

pub(crate) struct PeerSnapshot {
    pub(crate) state: LinkState,
    pub(crate) report: PeerReport,
    pub(crate) link: Option<LinkStatus>,
    pub(crate) ipv4_differs: bool,
}

/// Copies the engine as far as `scope` goes.
pub(crate) fn take(engine: &Engine, scope: &Scope, now: Instant) -> Snapshot {
    let peer = |handle| {
        Some(PeerSnapshot {
            state: engine.peer_state(handle)?,
            report: engine.peer_report(handle)?,
            link: engine.link_status(handle, now),
            ipv4_differs: engine.ipv4_differs(handle),
        })
    };
    Snapshot {
        peers: scope
            .peers
            .iter()
            .filter_map(|handle| Some((*handle, peer(*handle)?)))
            .collect(),
        forwards: scope
            .forwards
            .then(|| engine.rules().iter())
            .into_iter()
            .flatten()
            .map(|rule| (rule.key, engine.forward_counts(rule.key)))
            .collect(),
        candidates: engine.candidates(),
        stun: engine
            .reflexive()
            .into_iter()
            .map(|(server, _)| server)
            .collect(),
        strangers: engine.strangers(now),
        drops: engine.drops(),
    }
}
