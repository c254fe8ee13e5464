//! A path that outlives the process: what the agent of the next one needs to go on with it.

use std::time::{Duration, Instant};

use punch_signal_protocol::{CandidateKind, Credentials};

use super::{Agent, AgentConfig, AgentEvent};
use crate::pair::Pair;
use crate::role::Role;
use crate::socket::DirectPath;

/// A path that checks have shown, and the credentials under which both ends go on to check it. The password is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenPath {
    /// Whether this end picks the path.
    pub role: Role,
    /// The credentials of this side.
    pub local: Credentials,
    /// The credentials of the peer.
    pub remote: Credentials,
    /// The path itself.
    pub path: DirectPath,
    /// The kind of the peer's candidate.
    pub kind: CandidateKind,
    /// The priority of the pair (RFC 8445 §6.1.2.3, of the peer's candidate alone).
    pub priority: u32,
    /// The smoothed round trip.
    pub rtt: Option<Duration>,
    /// The interval of keepalives on the idle path.
    pub keepalive: Duration,
}

/// When the peer has last shown that it is there: by a check of its own, or by an answer to one of the agent's.
pub fn heard(agent: &Agent) -> Option<Instant> {
    agent.checklist.heard()
}

/// What an agent that has a path leaves to the next process.
pub fn bequeath(agent: &Agent) -> Option<ProvenPath> {
    let pair = agent.checklist.selected().filter(|pair| pair.is_valid())?;
    let (local, remote) = agent.messages.credentials();
    Some(ProvenPath {
        role: agent.checklist.role(),
        local: local.clone(),
        remote: remote.clone(),
        path: pair.path,
        kind: pair.kind,
        priority: pair.priority,
        rtt: pair.rtt,
        keepalive: agent.checklist.keepalive(),
    })
}

/// The agent that goes on with the path: packets take it at once, and it is checked at once. If it does not answer it is lost
/// like any other. `mtu` is that of the tunnel, in bytes, `seed` must be fresh.
pub fn inherit(proven: ProvenPath, mtu: u16, seed: u64, now: Instant) -> Agent {
    let ProvenPath {
        role,
        local,
        remote,
        path,
        kind,
        priority,
        rtt,
        keepalive,
    } = proven;
    let config = AgentConfig {
        role,
        answers: false,
        local,
        remote,
        candidates: Vec::new(),
        mine: None,
        theirs: None,
        opening_ttl: None,
        lifetime: None,
        samplers: Vec::new(),
        remembered: None,
        patience: None,
        mtu,
        seed,
    };
    let mut agent = Agent::new(config, now);
    let mut pair = Pair::new(path, kind, priority, now);
    pair.found(now);
    pair.rtt = rtt;
    agent.checklist.inherit(pair, keepalive);
    if !path.socket.is_main() {
        agent.sockets.add(path.socket);
    }
    agent.mtu.follow(Some(path), now);
    agent.proven = true;
    agent.outputs.say(AgentEvent::Proven);
    agent.outputs.say(AgentEvent::Selected(path));
    agent
}
