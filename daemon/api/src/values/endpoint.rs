//! Where a plain WireGuard peer listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::error::ValueError;
use super::target::Target;
use super::text::text_form;

/// Where a plain WireGuard peer listens: a host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(Target);

impl Endpoint {
    /// The IP address and port, unless a name has to be looked up.
    pub fn literal(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.0.host().parse().ok()?;
        Some(SocketAddr::new(ip, self.0.port()))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self(Target::new(address.ip().to_string(), address.port()))
    }
}

impl FromStr for Endpoint {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|error| match error {
            ValueError::Target(text) => ValueError::Endpoint(text),
            error => error,
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

text_form!(Endpoint);
