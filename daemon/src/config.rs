//! punchd.toml: what the administrator sets. Everything is optional; what is unknown or wrong stops the start.

use std::path::Path;

use anyhow::{Context, Result, bail};
use punch_api::{Ipv4Range, ServerAddress, ServerKind};
use serde::Deserialize;

/// Where it is unless told otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/punch/punchd.toml";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) servers: Vec<ServerAddress>,
    /// The UDP port on the underlay; 0 takes any.
    pub(crate) port: u16,
    pub(crate) interface: String,
    pub(crate) mtu: u16,
    pub(crate) ipv4: Option<Ipv4Range>,
    /// Whether the router is asked for a port.
    pub(crate) port_mapping: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            port: 0,
            interface: "punch0".to_owned(),
            mtu: 1420,
            ipv4: Some(Ipv4Range::DEFAULT),
            port_mapping: true,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    signal: Servers,
    stun: Servers,
    underlay: Underlay,
    tun: Tun,
    overlay: Overlay,
    nat: Nat,
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
struct Nat {
    port_mapping: Option<bool>,
}

impl Config {
    /// Reads the file. One that was not named and does not exist is an empty one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let (path, named) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Self::parse(&text)
            .with_context(|| format!("{} is not a valid configuration", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)?;
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
        Ok(config)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
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
            [stun]
            servers = ["stun.example", "[2001:db8::1]:3479"]
            [underlay]
            port = 41820
            [tun]
            name = "vpn0"
            mtu = 1380
            [overlay]
            ipv4 = "off"
            [nat]
            port_mapping = false
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
        assert_eq!((config.port, config.mtu), (41820, 1380));
        assert_eq!((config.interface.as_str(), config.ipv4), ("vpn0", None));
        assert!(!config.port_mapping);
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
            ("[underlay]\nport = 70000\n", "line 2", "70000"),
            ("[nat]\nport_mapping = \"no\"\n", "line 2", "boolean"),
        ] {
            let refusal = refusal(text);
            assert!(
                refusal.contains(line) && refusal.contains(word),
                "{refusal}"
            );
        }
    }
}
