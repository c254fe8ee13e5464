//! Servers: what they are for, and where they are.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ValueError;
use super::host::{authority, host_and_port};
use super::port::port;

/// The purpose of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// A signalling server (punch-signal).
    Signal,
    /// A STUN server (RFC 8489).
    Stun,
    /// A node of a DHT of one's own, at which the way into it begins (BEP 5).
    Dht,
    /// What everybody may use: the Mainline DHT and some STUN servers.
    Public,
}

impl FromStr for ServerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "signal" => Ok(Self::Signal),
            "stun" => Ok(Self::Stun),
            "dht" => Ok(Self::Dht),
            "public" => Ok(Self::Public),
            _ => Err(format!(
                "`{text}` is not a kind of server: use signal, stun, dht or public"
            )),
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Signal => "signal",
            Self::Stun => "stun",
            Self::Dht => "dht",
            Self::Public => "public",
        })
    }
}

/// The address of a server, in its normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// A URL of the form `ws://HOST:PORT[/PATH]` or `wss://HOST:PORT[/PATH]`.
    Signal(String),
    /// An address of the form `HOST:PORT`.
    Stun(String),
    /// An address of the form `HOST:PORT`.
    Dht(String),
    /// No address: `public`.
    Public,
}

/// What stands in the place of an address for [`ServerKind::Public`].
const PUBLIC: &str = "public";

impl ServerAddress {
    /// Reads the address of a server of this kind, and fills in the port where there is none (80, 443, 3478, 6881).
    ///
    /// # Errors
    /// [`ValueError::Signal`], [`ValueError::Stun`], [`ValueError::StunUri`], [`ValueError::Dht`], [`ValueError::Public`] or
    /// [`ValueError::Port`].
    pub fn parse(kind: ServerKind, text: &str) -> Result<Self, ValueError> {
        match kind {
            ServerKind::Signal => signal(text).map(Self::Signal),
            ServerKind::Stun => stun(text).map(Self::Stun),
            ServerKind::Dht => dht(text).map(Self::Dht),
            ServerKind::Public if text == PUBLIC => Ok(Self::Public),
            ServerKind::Public => Err(ValueError::Public(text.to_owned())),
        }
    }

    /// The kind of server that has this address.
    pub fn kind(&self) -> ServerKind {
        match self {
            Self::Signal(_) => ServerKind::Signal,
            Self::Stun(_) => ServerKind::Stun,
            Self::Dht(_) => ServerKind::Dht,
            Self::Public => ServerKind::Public,
        }
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Signal(text) | Self::Stun(text) | Self::Dht(text) => text,
            Self::Public => PUBLIC,
        }
    }

    /// The IP address and port, unless a name has to be looked up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.as_str().parse().ok()
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The normal form of a signalling server's address.
fn signal(text: &str) -> Result<String, ValueError> {
    let wrong = || ValueError::Signal(text.to_owned());
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let default = match scheme {
        "ws" => 80,
        "wss" => 443,
        _ => return Err(wrong()),
    };
    let (place, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong());
    }
    let (host, port_text) = host_and_port(place).ok_or_else(wrong)?;
    let port = port_text.map_or(Ok(default), port)?;
    let place = authority(&host, port);
    Ok(format!("{scheme}://{place}{path}"))
}

/// The normal form of a STUN server's address.
fn stun(text: &str) -> Result<String, ValueError> {
    let wrong = || ValueError::Stun(text.to_owned());
    let (host, port_text) = host_and_port(text).ok_or_else(wrong)?;
    let port = port_text.map_or(Ok(3478), port).map_err(|error| {
        // RFC 7064; a host called stun has nothing but a port behind the colon.
        if host == "stun" || host == "stuns" {
            ValueError::StunUri(text.to_owned())
        } else {
            error
        }
    })?;
    Ok(authority(&host, port))
}

/// The normal form of a DHT node's address.
fn dht(text: &str) -> Result<String, ValueError> {
    let wrong = || ValueError::Dht(text.to_owned());
    let (host, port_text) = host_and_port(text).ok_or_else(wrong)?;
    Ok(authority(&host, port_text.map_or(Ok(6881), port)?))
}
