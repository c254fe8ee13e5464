//! Invitations, and how this machine follows one.

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::request::AddServer;
use crate::values::{ForwardKey, PeerName, Secret};

/// A new invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationView {
    /// The code for the other machine. Nothing shows it again.
    pub code: Secret,
    /// How the invitation stands.
    pub pairing: PairingView,
}

/// An invitation of this machine, or one that it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairingView {
    /// Its number, until punchd is restarted.
    pub number: u32,
    /// Whether this machine invites.
    pub role: OpenEnum<PairingRole>,
    /// How far it has come.
    pub stage: OpenEnum<PairingStage>,
    /// The name of the new peer, once there is one.
    pub peer: Option<PeerName>,
    /// The identity of the new peer.
    pub id: Option<PeerId>,
    /// The ports that the inviter shares with the newcomer.
    pub forwards: Vec<ForwardKey>,
    /// Whether the newcomer may reach every port of the inviter.
    pub host: bool,
    /// The servers that the inviter uses and this machine does not.
    pub servers: Vec<AddServer>,
    /// When it ends by itself, in milliseconds since 1970.
    pub expires_at_ms: u64,
    /// What is in the way, or why it has failed, for people.
    pub trouble: Option<String>,
}

/// The parts of the two machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairingRole {
    /// This machine has made the code.
    Inviter,
    /// This machine was given it.
    Newcomer,
}

/// How far two machines have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairingStage {
    /// The code is being stretched.
    Preparing,
    /// The other machine is awaited.
    Waiting,
    /// Both are peers of each other.
    Paired,
    /// It cannot come about any more.
    Failed,
    /// Its time is over.
    Expired,
}
