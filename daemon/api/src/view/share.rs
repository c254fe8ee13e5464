//! What peers may use.

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::values::{PeerName, PortRange, Protocol, Target};

/// A port or a range of ports that peers may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardView {
    /// TCP or UDP.
    pub protocol: OpenEnum<Protocol>,
    /// The shared ports.
    pub ports: PortRange,
    /// The target of the first port; the other ports lead to those behind it.
    pub target: Target,
    /// The peers that may use the forward; all peers when empty.
    pub peers: Vec<PeerName>,
    /// Connections (or UDP flows) open now.
    pub open: u64,
    /// Connections (or UDP flows) since punchd started.
    pub total: u64,
    /// Connections (or UDP flows) that the target refused, or that had no way to it, since punchd started.
    #[serde(default)]
    pub failed: u64,
    /// Connections (or UDP flows) that were refused to a peer because there were too many, since punchd started.
    #[serde(default)]
    pub refused: u64,
    /// What went wrong at the target last; `None` if a connection has reached it since.
    #[serde(default)]
    pub trouble: Option<ForwardTrouble>,
}

/// What went wrong at a forward's target, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardTrouble {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: u64,
    /// For people, such as "connection refused at 127.0.0.1:5432".
    pub message: String,
}
