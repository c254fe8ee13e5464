//! What punchd is asked: the JSON bodies of the calls.

use std::net::IpAddr;

use punch_signal_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::values::{
    Endpoint, ForwardKey, PeerName, PortRange, Protocol, Secret, ServerKind, Target,
};

/// The body of `POST /v1/peers`: `{"name": "db", "punch": {"key": "punch1…"}}` or `{"name": "db", "wireguard": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPeer {
    /// The name that this machine gives to the peer.
    pub name: PeerName,
    /// The key of the peer.
    #[serde(flatten)]
    pub key: PeerKey,
}

/// The key of a Punch peer, or that of a plain WireGuard peer with its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PeerKey {
    /// A machine that runs Punch.
    Punch {
        /// The identity of the peer, `punch1…`.
        key: PeerId,
        /// Use no IPv4 with this peer: the way out of a collision of overlay addresses.
        #[serde(default)]
        ipv6_only: bool,
    },
    /// An unmodified WireGuard implementation.
    Wireguard {
        /// The public key of the peer, base64.
        key: String,
        /// Where the peer listens; without it, this machine waits until the peer calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<Endpoint>,
        /// The address of the peer inside the tunnel.
        address: IpAddr,
        /// A preshared key, base64; kept in the state directory only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        preshared: Option<Secret>,
    },
}

/// The body of `POST /v1/peers/NAME/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The new name.
    pub to: PeerName,
}

/// The body of `POST /v1/peers/NAME/up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct Up {
    /// The milliseconds to wait for the connection before the answer, at most 600,000; with 0 the answer comes at once.
    #[serde(default)]
    pub wait_ms: u64,
    /// Whether packets never go over a relay between the two machines; without it, that stays as it was said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_only: Option<bool>,
}

/// The body of `POST /v1/forwards`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddForward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports that peers use.
    pub ports: PortRange,
    /// The target of the first port; `127.0.0.1` and the same port unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The peers that may use the forward; all peers when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerName>,
}

/// The body of `POST /v1/servers` and `DELETE /v1/servers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddServer {
    /// The purpose of the server.
    pub kind: ServerKind,
    /// `ws(s)://…`, `HOST[:PORT]`, or `public`.
    pub address: String,
}

/// The body of `POST /v1/answer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerLine {
    /// The line that a person has carried here, `punch-offer1…` or `punch-answer1…`.
    pub line: String,
}

/// The body of `POST /v1/invitations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// The name that the newcomer gets here; without it, the one that it proposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerName>,
    /// The ports that are shared with the newcomer, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<ForwardKey>,
    /// Whether the newcomer may reach every port of this machine.
    #[serde(default)]
    pub host: bool,
    /// The seconds for which the code can be used, 10 to 86,400.
    #[serde(default = "ten_minutes")]
    pub expires_s: u64,
}

/// The body of `POST /v1/joins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The code, as `punchctl invite` has printed it.
    pub code: Secret,
    /// The name that the inviter gets here; without it, the one that it proposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PeerName>,
    /// Whether the servers that the inviter names are used from then on.
    #[serde(default)]
    pub add_servers: bool,
    /// The seconds for which the inviter is looked for, 5 to 3,600.
    #[serde(default = "one_minute")]
    pub wait_s: u64,
}

fn ten_minutes() -> u64 {
    600
}

fn one_minute() -> u64 {
    60
}
