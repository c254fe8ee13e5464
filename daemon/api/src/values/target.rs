//! The target of a forward.

use std::fmt;
use std::str::FromStr;

use super::error::ValueError;
use super::host::{authority, host_and_port};
use super::port::port;
use super::text::text_form;

/// The target of a forward: a host name or address, and a port.
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

    /// This host, a name or an address without brackets, and this port.
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port }
    }

    /// The host; an IPv6 address stands without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; for a range of ports, that of the first one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The target of the port that is `offset` above the first one; `None` past 65535.
    pub fn offset(&self, offset: u16) -> Option<Self> {
        Some(Self {
            host: self.host.clone(),
            port: self.port.checked_add(offset)?,
        })
    }
}

impl FromStr for Target {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (host, port_text) = host_and_port(text).ok_or(ValueError::Target(text.to_owned()))?;
        Ok(Self {
            host,
            port: port(port_text.ok_or(ValueError::Target(text.to_owned()))?)?,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&authority(&self.host, self.port))
    }
}

text_form!(Target);
