//! Servers.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::open_enum::OpenEnum;
use crate::values::ServerKind;

/// A server, and the state of the connection to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// The purpose of the server.
    pub kind: OpenEnum<ServerKind>,
    /// The address of the server, with its port.
    pub address: String,
    /// The HTTP proxy that leads to a signalling server, as `http://HOST:PORT`, without user and password.
    pub proxy: Option<String>,
    /// Whether punchd.toml names the server, so that only the administrator can remove it.
    pub fixed: bool,
    /// Whether the server is in use.
    pub state: OpenEnum<ServerState>,
    /// The last trouble with the server, for people.
    pub trouble: Option<String>,
}

/// The DHT over which peers are found without a server, as far as it is switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhtView {
    /// Nodes known that answer.
    pub nodes: u64,
    /// Seconds since one has answered; `None` if none has.
    pub answered_s: Option<u64>,
    /// Where several nodes see this machine.
    pub address: Option<Ipv4Addr>,
    /// Queries sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Times that something was looked for or stored.
    pub lookups: u64,
    /// Items that nodes have stored for this machine.
    pub stored: u64,
    /// Items of peers that were found.
    pub found: u64,
    /// Nodes that are asked in place of STUN servers, and have told as what they see this machine; 0 where STUN servers are enough.
    pub vantage: u64,
    /// What is wrong with it, for people.
    pub trouble: Option<String>,
}

/// Whether a server is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// The server is not reached yet, or not any more.
    Connecting,
    /// The server is in use.
    Connected,
}
