//! Nouns that are valid by construction.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the noun that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NounError {
    /// Not a [`PeerName`].
    #[error(
        "`{0}` cannot be a peer's name: use 1 to 63 lower-case letters, digits and inner hyphens"
    )]
    PeerName(String),
    /// Not a port.
    #[error("`{0}` is not a port: ports are 1 to 65535")]
    Port(String),
    /// The range runs backwards.
    #[error("the range {0}-{1} runs backwards: write {1}-{0}")]
    Backwards(u16, u16),
    /// A range that is too long.
    #[error("a range has at most {max} ports, this one has {0}", max = PortRange::MAX_LENGTH)]
    TooMany(u32),
    /// Not a protocol.
    #[error("`{0}` is not a protocol: use tcp or udp")]
    Protocol(String),
    /// Not a [`Target`].
    #[error("`{0}` is not a target: write HOST:PORT, for instance 127.0.0.1:5432 or [::1]:5432")]
    Target(String),
    /// The last port of the range has no counterpart at the target.
    #[error("the target's ports would run past 65535")]
    TargetPastEnd,
    /// Not a signalling server.
    #[error("`{0}` is not a signalling server: write ws://HOST[:PORT] or wss://HOST[:PORT][/PATH]")]
    Signal(String),
    /// Not a STUN server.
    #[error("`{0}` is not a STUN server: write HOST[:PORT], the port is 3478 unless given")]
    Stun(String),
}

macro_rules! text_form {
    ($noun:ty) => {
        impl Serialize for $noun {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $noun {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A peer's local name: a DNS label, because `NAME.punch` shall resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerName(String);

impl PeerName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerName {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(good)
            && !text.starts_with('-')
            && !text.ends_with('-');
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| NounError::PeerName(text.to_owned()))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

text_form!(PeerName);

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl FromStr for Protocol {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(NounError::Protocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

text_form!(Protocol);

fn port(text: &str) -> Result<u16, NounError> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(NounError::Port(text.to_owned())),
    }
}

/// One port or several that follow each other; written `PORT` or `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The most ports in one range.
    pub const MAX_LENGTH: u32 = 16_384;

    /// The first port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port, itself included.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether the range has `port`.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether any port is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(NounError::Backwards(first, last));
        }
        let length = u32::from(last - first) + 1;
        if length > Self::MAX_LENGTH {
            return Err(NounError::TooMany(length));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            f.pad(&self.first.to_string())
        } else {
            f.pad(&format!("{}-{}", self.first, self.last))
        }
    }
}

text_form!(PortRange);

/// Where a forward leads: a host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    host: String,
    port: u16,
}

impl Target {
    /// `127.0.0.1` and this port.
    pub fn local(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; for a range of ports the first one's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The target of the port that lies `offset` behind the first one.
    pub fn offset(&self, offset: u16) -> Option<Self> {
        Some(Self {
            host: self.host.clone(),
            port: self.port.checked_add(offset)?,
        })
    }
}

impl FromStr for Target {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let (host, port_text) = host_and_port(text).ok_or(NounError::Target(text.to_owned()))?;
        Ok(Self {
            host,
            port: port(port_text.ok_or(NounError::Target(text.to_owned()))?)?,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&authority(&self.host, self.port))
    }
}

text_form!(Target);

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Splits `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`; the host is a DNS name or an address, in its normal form.
fn host_and_port(text: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let host = host.parse::<Ipv6Addr>().ok()?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':')?),
        };
        return Some((host.to_string(), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let valid = (1..=253).contains(&host.len())
        && host.bytes().all(good)
        && !host.starts_with(['-', '.'])
        && !host.contains("..");
    valid.then(|| (host.to_ascii_lowercase(), port))
}

/// A text that is never printed: a preshared key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps the text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What names a forward: nothing else may share its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForwardKey {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The shared ports.
    pub ports: PortRange,
}

impl fmt::Display for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.protocol, self.ports))
    }
}

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
    /// [`NounError::Signal`] or [`NounError::Stun`].
    pub fn parse(kind: ServerKind, text: &str) -> Result<Self, NounError> {
        match kind {
            ServerKind::Signal => {
                let wrong = || NounError::Signal(text.to_owned());
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
                let wrong = || NounError::Stun(text.to_owned());
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
