//! punchd.toml: what the administrator sets. Everything is optional; what is unknown or wrong stops the start.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use punch_api::{Ipv4Range, PeerId, ServerAddress, ServerKind};
use punch_engine::{Allocation, Budget, Filtering, Mapping, Nat64, NatOverrides};
use punch_platform::Offloads;
use punch_signal_protocol::lan::PORT;
use punch_state::Machine;
use punchd_arguments::DEFAULT_CONFIG;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::proxy::ProxySetting;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What carries envelopes.
    pub(crate) channels: Channels,
    /// The UDP port on the underlay; 0 takes any.
    pub(crate) port: u16,
    /// How IPv4 is reached in a network without it.
    pub(crate) nat64: Nat64Setting,
    pub(crate) interface: String,
    pub(crate) mtu: u16,
    pub(crate) ipv4: Option<Ipv4Range>,
    /// What an attempt at a direct path may ask of the routers.
    pub(crate) budget: Budget,
    /// Whether packets never go over a relay, whichever it is.
    pub(crate) direct_only: bool,
    /// What is known of the NAT and need not be measured.
    pub(crate) nat: NatOverrides,
    /// Whether the router is asked for a port.
    pub(crate) port_mapping: bool,
    /// Whether packets may go through signalling servers where no direct path is.
    pub(crate) relay: bool,
    /// Whether TCP connections to peers are made and taken, for where UDP does not pass.
    pub(crate) tcp: bool,
    /// What the kernel may do for many packets at once.
    pub(crate) offloads: Offloads,
    /// Where metrics are served over TCP, too.
    pub(crate) metrics: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            channels: Channels::default(),
            port: 0,
            nat64: Nat64Setting::Discover,
            interface: "punch0".to_owned(),
            mtu: 1420,
            ipv4: Some(Ipv4Range::DEFAULT),
            budget: Budget::default(),
            direct_only: false,
            nat: NatOverrides::default(),
            port_mapping: true,
            relay: true,
            tcp: true,
            offloads: Offloads::default(),
            metrics: None,
        }
    }
}

/// What carries envelopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) servers: Vec<ServerAddress>,
    /// What leads to signalling servers.
    pub(crate) proxy: ProxySetting,
    pub(crate) lan: LanConfig,
}

/// How peers are found in this machine's networks, without any server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LanConfig {
    /// Whether they are at all.
    pub(crate) enabled: bool,
    /// The UDP port for what is for this machine alone; 0 takes any.
    pub(crate) port: u16,
}

impl Default for LanConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            port: 0,
        }
    }
}

/// How IPv4 is reached in a network that has only IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nat64Setting {
    /// Through the translator that the network's name server tells of (RFC 7050).
    Discover,
    /// Through no translator.
    Off,
    /// Through the translator with this prefix.
    Prefix(Nat64),
}

impl Nat64Setting {
    /// `at` tells the line of a position.
    fn parse(text: &toml::Spanned<String>, at: impl Fn(usize) -> usize) -> Result<Self> {
        Ok(match text.get_ref().as_str() {
            "auto" => Self::Discover,
            "off" => Self::Off,
            prefix => Self::Prefix(prefix.parse().with_context(|| {
                let line = at(text.span().start);
                format!("line {line}: [underlay] nat64 = \"{prefix}\" is neither auto nor off")
            })?),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    signal: Signal,
    stun: Servers,
    dht: Dht,
    underlay: Underlay,
    tun: Tun,
    overlay: Overlay,
    punch: Punch,
    nat: Nat,
    relay: Relay,
    lan: Lan,
    offload: Offload,
    metrics: Metrics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Metrics {
    listen: Option<SocketAddr>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Signal {
    servers: Vec<toml::Spanned<String>>,
    proxy: Option<toml::Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Servers {
    servers: Vec<toml::Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Dht {
    bootstrap: Vec<toml::Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Underlay {
    port: Option<u16>,
    nat64: Option<toml::Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tun {
    name: Option<String>,
    mtu: Option<toml::Spanned<u16>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Overlay {
    ipv4: Option<toml::Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Punch {
    budget: Option<toml::Spanned<String>>,
    direct_only: Option<bool>,
    tcp: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Relay {
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lan {
    enabled: Option<bool>,
    port: Option<toml::Spanned<u16>>,
}

impl Lan {
    /// `at` tells the line of a position.
    fn config(self, at: impl Fn(usize) -> usize) -> Result<LanConfig> {
        let default = LanConfig::default();
        let port = match self.port {
            Some(port) if *port.get_ref() == PORT => bail!(
                "line {}: [lan] port is the one for what comes to this machine alone, and {PORT} is everybody's: use another one, or 0 for any",
                at(port.span().start)
            ),
            port => port.map_or(default.port, toml::Spanned::into_inner),
        };
        Ok(LanConfig {
            enabled: self.enabled.unwrap_or(default.enabled),
            port,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nat {
    port_mapping: Option<bool>,
    mapping: Option<toml::Spanned<String>>,
    filtering: Option<toml::Spanned<String>>,
    allocation: Option<toml::Spanned<String>>,
    addresses: Vec<std::net::IpAddr>,
    hairpinning: Option<bool>,
    lifetime: Option<toml::Spanned<u64>>,
    opening_ttl: Option<toml::Spanned<u8>>,
    capacity: Option<toml::Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Offload {
    tun_tso: Option<bool>,
    tun_uso: Option<bool>,
    tun_gro: Option<bool>,
    udp_gso: Option<bool>,
    udp_gro: Option<bool>,
}

impl Offload {
    fn switches(&self) -> Offloads {
        Offloads {
            tun_tso: self.tun_tso.unwrap_or(true),
            tun_uso: self.tun_uso.unwrap_or(true),
            tun_gro: self.tun_gro.unwrap_or(true),
            udp_gso: self.udp_gso.unwrap_or(true),
            udp_gro: self.udp_gro.unwrap_or(true),
        }
    }
}

impl Nat {
    /// What the administrator says; `at` tells the line of a position.
    fn overrides(self, at: impl Fn(usize) -> usize) -> Result<NatOverrides> {
        let mapping = choose(
            self.mapping,
            &at,
            "mapping behaviour",
            &[
                ("none", Mapping::None),
                ("endpoint-independent", Mapping::EndpointIndependent),
                ("address-dependent", Mapping::AddressDependent),
                (
                    "address-and-port-dependent",
                    Mapping::AddressAndPortDependent,
                ),
            ],
        )?;
        let filtering = choose(
            self.filtering,
            &at,
            "filtering behaviour",
            &[
                ("endpoint-independent", Filtering::EndpointIndependent),
                ("address-dependent", Filtering::AddressDependent),
                (
                    "address-and-port-dependent",
                    Filtering::AddressAndPortDependent,
                ),
            ],
        )?;
        let allocation = match self.allocation {
            None => None,
            Some(text) => Some(parse_allocation(text.get_ref()).with_context(|| {
                format!(
                    "line {}: \"{}\" is no port allocation: use preserving, random, LOW-HIGH (a block of random ports), +N or -N (sequential)",
                    at(text.span().start),
                    text.get_ref()
                )
            })?),
        };
        let lifetime = match self.lifetime {
            None => None,
            Some(seconds) if (5..=86_400).contains(seconds.get_ref()) => {
                Some(Duration::from_secs(seconds.into_inner()))
            }
            Some(seconds) => bail!(
                "line {}: a lifetime of {} s cannot be right: 5 to 86400",
                at(seconds.span().start),
                seconds.get_ref()
            ),
        };
        let opening_ttl = match self.opening_ttl {
            None => None,
            Some(ttl) if (2..=32).contains(ttl.get_ref()) => Some(ttl.into_inner()),
            Some(ttl) => bail!(
                "line {}: opening packets with a TTL of {} open nothing: 2 to 32",
                at(ttl.span().start),
                ttl.get_ref()
            ),
        };
        let capacity = match self.capacity {
            None => None,
            Some(count) if (1..=1_000_000).contains(count.get_ref()) => Some(count.into_inner()),
            Some(count) => bail!(
                "line {}: a capacity of {} mappings cannot be right: 1 to 1000000",
                at(count.span().start),
                count.get_ref()
            ),
        };
        Ok(NatOverrides {
            mapping,
            filtering,
            allocation,
            addresses: self.addresses,
            hairpinning: self.hairpinning,
            lifetime,
            opening_ttl,
            capacity,
        })
    }
}

/// The text of a file, and who may do what with it.
fn read(path: &Path) -> std::io::Result<(Zeroizing<String>, u32)> {
    let mut file = std::fs::File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text)?;
    Ok((text, mode))
}

/// The error as it is, or without what it shows of the file if that may have a proxy's password: the lines of its span, or a value.
fn without_secrets(text: &str, error: toml::de::Error) -> anyhow::Error {
    let span = error.span().unwrap_or(0..0);
    let (start, end) = (span.start.min(text.len()), span.end.min(text.len()));
    let (before, behind) = (&text[..start], &text[end.max(start)..]);
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    let rest = behind.find('\n').unwrap_or(behind.len());
    let shown = &text[begin..text.len() - behind.len() + rest];
    let is_secret = |text: &str| text.contains('@') || text.to_ascii_lowercase().contains("prox");
    // Of a string of several lines, one alone does not tell what it is.
    let is_part = |mark| text[..begin + shown.len()].contains(mark);
    let several = is_part("\"\"\"") || is_part("'''");
    if !several && !is_secret(shown) && !is_secret(error.message()) {
        return error.into();
    }
    let number = before.matches('\n').count() + 1;
    let mut message = error.message().split('"').next().unwrap_or_default();
    if message.contains('@') {
        message = message.split('`').next().unwrap_or_default();
    }
    if message.contains('@') {
        message = "not understood";
    }
    anyhow::anyhow!("line {number}: {}", message.trim_end())
}

/// One of some names.
fn choose<T: Copy>(
    text: Option<toml::Spanned<String>>,
    at: impl Fn(usize) -> usize,
    what: &str,
    choices: &[(&str, T)],
) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    let chosen = choices.iter().find(|(name, _)| name == text.get_ref());
    let Some((_, chosen)) = chosen else {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        bail!(
            "line {}: \"{}\" is no {what}: use one of {}",
            at(text.span().start),
            text.get_ref(),
            names.join(", ")
        );
    };
    Ok(Some(*chosen))
}

fn parse_allocation(text: &str) -> Option<Allocation> {
    let step = |digits: &str, sign: i16| {
        let step: i16 = digits.parse().ok()?;
        let fits = (1..=256).contains(&step);
        fits.then_some(Allocation::Sequential {
            step: sign * step,
            others: 0,
        })
    };
    match text {
        "preserving" => Some(Allocation::Preserving),
        "random" => Some(Allocation::Random),
        _ if text.starts_with('+') => step(&text[1..], 1),
        _ if text.starts_with('-') => step(&text[1..], -1),
        _ => {
            let (low, high) = text.split_once('-')?;
            let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
            (low > 0 && low <= high).then_some(Allocation::Block { low, high })
        }
    }
}

impl Config {
    /// The machine with this identity, as it is configured.
    pub(crate) fn machine(&self, id: PeerId) -> Machine {
        Machine {
            id,
            ipv4: self.ipv4,
            servers: self.channels.servers.clone(),
        }
    }

    /// Reads the file, and says in a line which one that is. One that was not named and does not exist is an empty one.
    pub(crate) fn load(path: Option<&Path>) -> Result<(Self, String)> {
        let (path, named) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_CONFIG), false),
        };
        let place = path.display();
        let (text, mode) = match read(path) {
            Ok(read) => read,
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok((
                    Self::default(),
                    format!("{place}: not there; every setting has its default"),
                ));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {place}")),
        };
        let config = Self::parse(&text).with_context(|| {
            format!(
                "{place} is not a valid configuration for punchd {}",
                env!("CARGO_PKG_VERSION")
            )
        })?;
        if config.channels.proxy.is_secret() && mode & 0o007 != 0 {
            bail!(
                "{place} has a proxy's password, and everybody on this machine may read it: chown root:punch {place} && chmod 640 {place}"
            );
        }
        Ok((config, format!("{place}: fine")))
    }

    fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| without_secrets(text, error))?;
        let at = |start: usize| text[..start].matches('\n').count() + 1;
        let mut config = Self::default();
        for (kind, servers) in [
            (ServerKind::Signal, &file.signal.servers),
            (ServerKind::Stun, &file.stun.servers),
            (ServerKind::Dht, &file.dht.bootstrap),
        ] {
            for server in servers {
                let address = ServerAddress::parse(kind, server.get_ref())
                    .with_context(|| format!("line {}", at(server.span().start)))?;
                if !config.channels.servers.contains(&address) {
                    config.channels.servers.push(address);
                }
            }
        }
        if let Some(proxy) = file.signal.proxy {
            let line = at(proxy.span().start);
            let proxy = Zeroizing::new(proxy.into_inner());
            config.channels.proxy = ProxySetting::parse(&proxy)
                .with_context(|| format!("line {line}: [signal] proxy"))?;
        }
        if let Some(port) = file.underlay.port {
            config.port = port;
        }
        if let Some(nat64) = file.underlay.nat64 {
            config.nat64 = Nat64Setting::parse(&nat64, at)?;
        }
        if let Some(name) = file.tun.name {
            config.interface = name;
        }
        if let Some(mtu) = file.tun.mtu {
            if !(1280..=9000).contains(mtu.get_ref()) {
                bail!(
                    "line {}: an mtu of {} cannot work: IPv6 needs 1280, and 9000 is the most",
                    at(mtu.span().start),
                    mtu.get_ref()
                );
            }
            config.mtu = *mtu.get_ref();
        }
        if let Some(budget) = choose(
            file.punch.budget,
            at,
            "budget",
            &[
                ("gentle", Budget::Gentle),
                ("normal", Budget::Normal),
                ("aggressive", Budget::Aggressive),
            ],
        )? {
            config.budget = budget;
        }
        config.direct_only = file.punch.direct_only.unwrap_or(false);
        if let Some(range) = file.overlay.ipv4 {
            config.ipv4 = match range.get_ref().as_str() {
                "off" => None,
                text => Some(
                    text.parse()
                        .with_context(|| format!("line {}", at(range.span().start)))?,
                ),
            };
        }
        if let Some(wanted) = file.nat.port_mapping {
            config.port_mapping = wanted;
        }
        if let Some(wanted) = file.punch.tcp {
            config.tcp = wanted;
        }
        if let Some(wanted) = file.relay.enabled {
            config.relay = wanted;
        }
        config.channels.lan = file.lan.config(at)?;
        config.nat = file.nat.overrides(at)?;
        config.offloads = file.offload.switches();
        config.metrics = file.metrics.listen;
        Ok(config)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "it is a test")]
mod tests;
