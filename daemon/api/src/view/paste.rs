//! Lines that a person carries between two machines.

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::values::PeerName;

/// The answer of `POST /v1/peers/NAME/offer` and `POST /v1/answer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasteView {
    /// The peer.
    pub peer: PeerName,
    /// What comes next.
    pub step: OpenEnum<PasteStep>,
    /// The line to carry to the peer, if there is one.
    pub line: Option<String>,
    /// Seconds for which the peer takes the line.
    pub expires_in_s: Option<u64>,
}

/// What a person who carries lines does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PasteStep {
    /// The line is carried to the peer.
    Offered,
    /// The line is carried back to the peer.
    Answered,
    /// Nothing is carried any more.
    Connecting,
}
