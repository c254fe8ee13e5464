//! What this machine is inside the tunnel; fixed for an engine's life.

use std::net::IpAddr;
use std::time::Instant;

use punch_signal_protocol::Ipv4Range;

use crate::config::EngineConfig;

/// See the module.
pub(crate) struct Host {
    /// The range of its overlay IPv4 address; `None` where IPv4 is off.
    pub(crate) ipv4_range: Option<Ipv4Range>,
    /// Its overlay addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The longest packet, in bytes.
    pub(crate) mtu: usize,
    pub(crate) started: Instant,
}

impl Host {
    pub(crate) fn new(config: &EngineConfig, now: Instant) -> Self {
        let id = config.identity.id();
        let ipv4 = config.ipv4_range.map(|range| id.overlay_ipv4(range));
        Self {
            ipv4_range: config.ipv4_range,
            addresses: ipv4
                .map(IpAddr::from)
                .into_iter()
                .chain([id.overlay_ipv6().into()])
                .collect(),
            mtu: config.mtu,
            started: now,
        }
    }
}
