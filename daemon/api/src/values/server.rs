//! Servers: what they are for, and where they are.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ValueError;
use super::host::{authority, host_and_port};
use super::port::port;

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// punch-signal.
    Signal,
    /// Any STUN server.
    Stun,
}

impl FromStr for ServerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "signal" => Ok(Self::Signal),
            "stun" => Ok(Self::Stun),
            _ => Err(format!(
                "`{text}` is not a kind of server: use signal or stun"
            )),
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Signal => "signal",
            Self::Stun => "stun",
        })
    }
}

/// The address of a server, in its normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum ServerAddress {
    /// `ws://HOST:PORT[/PATH]` or `wss://HOST:PORT[/PATH]`.
    Signal(String),
    /// `HOST:PORT`.
    Stun(String),
}

impl ServerAddress {
    /// Reads an address of this kind and fills in the port (80, 443, 3478).
    ///
    /// # Errors
    /// [`ValueError::Signal`] or [`ValueError::Stun`].
    pub fn parse(kind: ServerKind, text: &str) -> Result<Self, ValueError> {
        match kind {
            ServerKind::Signal => {
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
                Ok(Self::Signal(format!("{scheme}://{place}{path}")))
            }
            ServerKind::Stun => {
                let wrong = || ValueError::Stun(text.to_owned());
                let (host, port_text) = host_and_port(text).ok_or_else(wrong)?;
                let port = port_text.map_or(Ok(3478), port)?;
                Ok(Self::Stun(authority(&host, port)))
            }
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> ServerKind {
        match self {
            Self::Signal(_) => ServerKind::Signal,
            Self::Stun(_) => ServerKind::Stun,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Signal(text) | Self::Stun(text) => text,
        }
    }

    /// The address itself where no name has to be looked up.
    pub fn literal(&self) -> Option<SocketAddr> {
        self.as_str().parse().ok()
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
