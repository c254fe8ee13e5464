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
}
