//! The refusal of a peer, which has told why it does not answer this machine's offers.

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;

/// A peer's refusal of this machine's offer. It is kept until there is an exchange with the peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusedView {
    /// The reason, as the peer has told it.
    pub reason: OpenEnum<RefusalReason>,
    /// For the reason `clock`: this machine's clock minus the peer's, in seconds.
    pub clock_ahead_s: Option<i64>,
    /// Seconds since the refusal came.
    pub ago_s: f64,
    /// The refusal as a sentence for people.
    pub message: String,
}

/// The reason for which a peer refuses offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// The clocks of the two machines differ by more than ten minutes.
    Clock,
    /// The peer runs a version that does not understand the offer.
    Version,
    /// The user of the peer has said `down`.
    NotWanted,
    /// A reason that is newer than this machine's punchd.
    Other,
}
