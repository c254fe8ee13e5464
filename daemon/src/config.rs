//! punchd.toml: what the administrator sets. Everything is optional; what is unknown or wrong stops the start.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use punch_api::{Ipv4Range, PeerId, ServerAddress, ServerKind};
use punch_engine::{Allocation, Budget, Filtering, Mapping, NatOverrides};
use punch_platform::Offloads;
use punch_state::Machine;
use punchd_arguments::DEFAULT_CONFIG;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::proxy::ProxySetting;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) servers: Vec<ServerAddress>,
    /// What leads to signalling servers.
    pub(crate) proxy: ProxySetting,
    /// The UDP port on the underlay; 0 takes any.
    pub(crate) port: u16,
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
            servers: Vec::new(),
            proxy: ProxySetting::default(),
            port: 0,
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

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    signal: Signal,
    stun: Servers,
    underlay: Underlay,
    tun: Tun,
    overlay: Overlay,
    punch: Punch,
    nat: Nat,
    relay: Relay,
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
struct Underlay {
    port: Option<u16>,
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
            servers: self.servers.clone(),
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
        if config.proxy.is_secret() && mode & 0o007 != 0 {
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
        ] {
            for server in servers {
                let address = ServerAddress::parse(kind, server.get_ref())
                    .with_context(|| format!("line {}", at(server.span().start)))?;
                if !config.servers.contains(&address) {
                    config.servers.push(address);
                }
            }
        }
        if let Some(proxy) = file.signal.proxy {
            let line = at(proxy.span().start);
            let proxy = Zeroizing::new(proxy.into_inner());
            config.proxy = ProxySetting::parse(&proxy)
                .with_context(|| format!("line {line}: [signal] proxy"))?;
        }
        if let Some(port) = file.underlay.port {
            config.port = port;
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
        config.nat = file.nat.overrides(at)?;
        config.offloads = file.offload.switches();
        config.metrics = file.metrics.listen;
        Ok(config)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        format!("{:#}", Config::parse(text).expect_err("is refused"))
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(Config::parse("").expect("parses"), Config::default());
    }

    #[test]
    fn every_setting_is_taken() {
        let text = r#"
            [signal]
            servers = ["wss://signal.example", "wss://signal.example:443"]
            proxy = "http://user:secret@proxy.example:3128"
            [stun]
            servers = ["stun.example", "[2001:db8::1]:3479"]
            [underlay]
            port = 41820
            [tun]
            name = "vpn0"
            mtu = 1380
            [overlay]
            ipv4 = "off"
            [punch]
            budget = "aggressive"
            direct_only = true
            tcp = false
            [nat]
            mapping = "address-and-port-dependent"
            filtering = "address-dependent"
            allocation = "40000-41023"
            addresses = ["203.0.113.9"]
            hairpinning = false
            lifetime = 30
            opening_ttl = 3
            capacity = 1000
            port_mapping = false

            [offload]
            tun_tso = false
            tun_uso = false
            tun_gro = false
            udp_gso = false
            udp_gro = false
            [metrics]
            listen = "127.0.0.1:9586"
        "#;
        let config = Config::parse(text).expect("parses");
        let servers: Vec<_> = config.servers.iter().map(ServerAddress::as_str).collect();
        assert_eq!(
            servers,
            [
                "wss://signal.example:443/",
                "stun.example:3478",
                "[2001:db8::1]:3479"
            ]
        );
        let ProxySetting::Proxy(proxy) = &config.proxy else {
            panic!("{:?}", config.proxy);
        };
        assert_eq!(proxy.place(), "proxy.example:3128");
        assert_eq!((config.port, config.mtu), (41820, 1380));
        assert_eq!((config.interface.as_str(), config.ipv4), ("vpn0", None));
        assert_eq!(config.budget, Budget::Aggressive);
        assert!(config.direct_only);
        let nat = NatOverrides {
            mapping: Some(Mapping::AddressAndPortDependent),
            filtering: Some(Filtering::AddressDependent),
            allocation: Some(Allocation::Block {
                low: 40_000,
                high: 41_023,
            }),
            addresses: vec![[203, 0, 113, 9].into()],
            hairpinning: Some(false),
            lifetime: Some(Duration::from_secs(30)),
            opening_ttl: Some(3),
            capacity: Some(1000),
        };
        assert_eq!(config.nat, nat);
        assert!(!config.port_mapping && !config.tcp);
        let offloads = Offloads {
            tun_tso: false,
            tun_uso: false,
            tun_gro: false,
            udp_gso: false,
            udp_gro: false,
        };
        assert_eq!(config.offloads, offloads);
        assert_eq!(config.metrics, Some(([127, 0, 0, 1], 9586).into()));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let refusal = refusal("[tun]\nname = \"a\"\ncolour = 1\n");
        assert!(
            refusal.contains("line 3") && refusal.contains("colour"),
            "{refusal}"
        );
    }

    #[test]
    fn a_bad_value_is_named_with_its_line() {
        for (text, line, word) in [
            ("\n[tun]\nmtu = 100\n", "line 3", "100"),
            (
                "[overlay]\nipv4 = \"100.64.0.1/10\"\n",
                "line 2",
                "100.64.0.0/10",
            ),
            (
                "[signal]\nservers = [\n \"http://x\"]\n",
                "line 3",
                "http://x",
            ),
            (
                "[signal]\nproxy = \"https://p:1\"\n",
                "line 2",
                "http://HOST:PORT",
            ),
            ("[signal]\n\nproxy = \"p q\"\n", "line 3", "USER:PASSWORD"),
            ("[signal]\nproxy = true\n", "line 2", "boolean"),
            ("[underlay]\nport = 70000\n", "line 2", "70000"),
            ("[punch]\nbudget = \"lavish\"\n", "line 2", "aggressive"),
            (
                "[nat]\nmapping = \"cone\"\n",
                "line 2",
                "endpoint-independent",
            ),
            ("[nat]\n\nfiltering = \"\"\n", "line 3", "address-dependent"),
            ("[nat]\nallocation = \"9-8\"\n", "line 2", "LOW-HIGH"),
            ("[nat]\nallocation = \"+0\"\n", "line 2", "sequential"),
            ("[nat]\nlifetime = 1\n", "line 2", "86400"),
            ("[nat]\nopening_ttl = 0\n", "line 2", "TTL"),
            ("[nat]\ncapacity = 0\n", "line 2", "capacity"),
            ("[punch]\ndirect_only = \"no\"\n", "line 2", "boolean"),
            ("[nat]\nport_mapping = \"no\"\n", "line 2", "boolean"),
            ("[punch]\ntcp = \"no\"\n", "line 2", "boolean"),
            ("[metrics]\nlisten = \"9586\"\n", "line 2", "socket address"),
        ] {
            let refusal = refusal(text);
            assert!(
                refusal.contains(line) && refusal.contains(word),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_refusal_never_shows_a_proxys_password() {
        for (text, line) in [
            ("[signal]\nproxy = \"http://u:secret@p q\"\n", "line 2"),
            ("[signal]\nproxy = \"http://u:secret@p:1\n", "line 2"),
            ("[signal]\nproxy = http://u:secret@p:1\n", "line 2"),
            ("[signal]\nproxi = \"http://u:secret@p:1\"\n", "line 2"),
            ("[signal]\nservers = \"http://u:secret@p:1\"\n", "line 2"),
            ("[signal]\nproxy = [\"http://u:secret@p:1\"]\n", "line 2"),
            ("[relay]\nenabled = \"http://u:secret@p:1\"\n", "line 2"),
            (
                "[signal]\nproxy = \"\"\"\nhttp://u:secret@p:1\"\"\"\nx = 1\n",
                "line",
            ),
            (
                "[relay]\nenabled = \"\"\"\nhttp://u:secret@p:1\"\"\"\n",
                "line 2",
            ),
            (
                "[relay]\nenabled = \"http://u:secret\\u0040p:1\"\n",
                "line 2",
            ),
            (
                "[signal]\nproxy = \"\"\"http://u:\\\nsecret\\q\\\n@p:1\"\"\"\n",
                "line 3",
            ),
            ("[relay]\n\"http://u:secret@p:1\" = true\n", "line 2"),
        ] {
            let refusal = refusal(text);
            assert!(
                refusal.contains(line) && !refusal.contains("secret"),
                "{refusal}"
            );
        }
        let shown = refusal("[tun]\nmtu = many\n");
        assert!(shown.contains("mtu = many"), "{shown}");
    }

    #[test]
    fn a_file_with_a_password_is_not_for_everybody() {
        let path = std::env::temp_dir().join(format!("punchd-{}.toml", std::process::id()));
        let load = |text: &str, mode: u32| {
            std::fs::write(&path, text).expect("it can be written");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("it is ours");
            let loaded = Config::load(Some(&path));
            loaded.map(drop).map_err(|error| format!("{error:#}"))
        };
        let secret = "[signal]\nproxy = \"http://u:secret@p:1\"\n";
        let refused = load(secret, 0o644).expect_err("everybody may read it");
        assert!(
            refused.contains("chmod 640") && !refused.contains("secret"),
            "{refused}"
        );
        assert_eq!(load(secret, 0o640), Ok(()));
        assert_eq!(load("[signal]\nproxy = \"p:1\"\n", 0o644), Ok(()));
        std::fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn what_the_packages_file_shows_is_valid_and_is_everything() {
        let shown = include_str!("../../packaging/punchd.toml");
        let as_it_is = Config::parse(shown).expect("parses");
        assert_eq!(as_it_is, Config::default());

        let is_setting = |line: &str| {
            let rest = line.strip_prefix("# ").unwrap_or_default();
            let (key, value) = rest.split_once(" = ").unwrap_or_default();
            !value.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        };
        let all: Vec<_> = shown
            .lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|_| is_setting(line))
                    .unwrap_or(line)
            })
            .collect();
        let config = Config::parse(&all.join("\n")).expect("parses without the comment signs");
        assert_eq!(config.servers.len(), 2);
        assert!(config.metrics.is_some() && config.nat.opening_ttl.is_some());

        // The refusal of an unknown key names all that there are.
        let sections = refusal("[nothing]\n");
        let sections: Vec<_> = words_of(&sections);
        for section in sections {
            assert!(shown.contains(&format!("[{section}]")), "[{section}]");
            let keys = refusal(&format!("[{section}]\nnothing = 1\n"));
            for key in words_of(&keys) {
                assert!(shown.contains(&format!("\n# {key} = ")), "{section}.{key}");
            }
        }
    }

    /// What is quoted after "expected": `a`, or one of `a`, `b`.
    fn words_of(refusal: &str) -> Vec<&str> {
        let (_, expected) = refusal
            .split_once("expected")
            .expect("says what it expects");
        let words: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
        assert!(!words.is_empty(), "{refusal}");
        words
    }
}
