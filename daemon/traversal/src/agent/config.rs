//! What an agent is made from.

use std::net::SocketAddr;
use std::time::Duration;

use punch_signal_protocol::{Candidate, Credentials, NatSummary};

use crate::plan::StepKind;
use crate::role::Role;

/// What an agent is made from.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Whether this end picks the path.
    pub role: Role,
    /// Whether this side hears of the other's candidates first, as the one who answers does.
    pub answers: bool,
    /// The credentials of this side.
    pub local: Credentials,
    /// The credentials of the peer.
    pub remote: Credentials,
    /// Where the peer may be reached.
    pub candidates: Vec<Candidate>,
    /// What the peer was told of this side's NAT.
    pub mine: Option<NatSummary>,
    /// What the peer has told of its own NAT.
    pub theirs: Option<NatSummary>,
    /// How far an opening packet must go, if that was measured.
    pub opening_ttl: Option<u8>,
    /// How long an unused mapping lives, if that was measured.
    pub lifetime: Option<Duration>,
    /// STUN servers that answer, over IPv4.
    pub samplers: Vec<SocketAddr>,
    /// What worked last time between these two networks.
    pub remembered: Option<StepKind>,
    /// How long the peer may take to read what this attempt begins with, where that is longer than a moment: the attempt does not fail
    /// before.
    pub patience: Option<Duration>,
    /// The longest packet inside the tunnel that is ever sent, in bytes: longer ones are not tried on the path.
    pub mtu: u16,
    /// The seed of everything that this agent chooses at random.
    pub seed: u64,
}
