//! The HTTP proxy that leads to a signalling server: from punchd.toml, or from the environment as curl reads it. What a proxy is
//! told as its user and password is in no text that this file makes.

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use punch_api::{ServerAddress, ServerKind};
use zeroize::Zeroizing;

/// What names a proxy for servers with TLS, the first that is set.
const FOR_WSS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// The same for servers without.
const FOR_WS: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
/// What lists the hosts that are reached without the environment's proxies.
const EXCEPT: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Bytes of user and password that are taken.
const MAX_CREDENTIALS: usize = 1024;

/// A proxy that is spoken to by HTTP.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// `HOST:PORT`, an IPv6 address in brackets.
    place: String,
    /// What stands behind `Basic` (RFC 7617 §2), if the proxy wants a user and a password.
    basic: Option<Zeroizing<String>>,
}

/// Why a text is not the address of a proxy. None of these repeats the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("a proxy is reached by http://, nothing else: http://HOST:PORT")]
    Scheme,
    #[error(
        "this is not the address of a proxy: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
    )]
    Place,
    #[error(
        "in the user and the password of a proxy write % and two hexadecimal digits for each of : / ? # [ ] @ % and for what is not ASCII; a user has no colon"
    )]
    Credentials,
}

impl Proxy {
    /// Reads `http://[USER[:PASSWORD]@]HOST[:PORT]`; without `http://` the same is meant, and without a port 80.
    ///
    /// # Errors
    /// It is another scheme, no host and port, or the user and password are not written as in a URL (RFC 3986 §3.2.1).
    pub(crate) fn parse(text: &str) -> Result<Self, ProxyError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => text,
        };
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, rest),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        if place.contains('/') {
            return Err(ProxyError::Place);
        }
        // The rules for a host and a port are those of a server without TLS.
        let server = ServerAddress::parse(ServerKind::Signal, &format!("ws://{place}"));
        let server = server.map_err(|_| ProxyError::Place)?;
        let place = server.as_str().strip_prefix("ws://");
        let place = place.and_then(|place| place.strip_suffix('/'));
        Ok(Self {
            place: place.ok_or(ProxyError::Place)?.to_owned(),
            basic: credentials.map(basic).transpose()?,
        })
    }

    /// `HOST:PORT`, as a look-up takes it: an IPv6 address in brackets.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// What stands behind `Basic` in a request, a secret.
    pub(crate) fn basic(&self) -> Option<&str> {
        self.basic.as_ref().map(|basic| basic.as_str())
    }
}

/// Without user and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.place)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// The credentials of RFC 7617 §2, of `USER[:PASSWORD]` as it stands in a URL.
fn basic(text: &str) -> Result<Zeroizing<String>, ProxyError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    if text.len() > MAX_CREDENTIALS {
        return Err(ProxyError::Credentials);
    }
    // Of this size from the start: a buffer that grows leaves copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    decode(user, &mut plain)?;
    if plain.is_empty() || plain.contains(&b':') {
        return Err(ProxyError::Credentials);
    }
    plain.push(b':');
    decode(password, &mut plain)?;
    Ok(Zeroizing::new(STANDARD.encode(&*plain)))
}

/// Percent-decoding (RFC 3986 §2.1) of what a URL has before its host; control characters are refused (RFC 7617 §2).
fn decode(text: &str, into: &mut Vec<u8>) -> Result<(), ProxyError> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let value = digit(bytes.next()).zip(digit(bytes.next()));
                let (high, low) = value.ok_or(ProxyError::Credentials)?;
                u8::try_from(16 * high + low).map_err(|_| ProxyError::Credentials)?
            }
            b':' | b'/' | b'?' | b'#' | b'[' | b']' | b'@' => return Err(ProxyError::Credentials),
            byte if byte.is_ascii_graphic() => byte,
            _ => return Err(ProxyError::Credentials),
        };
        if decoded.is_ascii_control() {
            return Err(ProxyError::Credentials);
        }
        into.push(decoded);
    }
    Ok(())
}

/// What punchd.toml says about proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ProxySetting {
    /// Nothing: the environment decides.
    #[default]
    Environment,
    /// No proxy, whatever the environment says.
    None,
    /// This one for every server, whatever the environment says.
    Proxy(Proxy),
}

impl ProxySetting {
    /// Reads the value of `[signal] proxy`.
    ///
    /// # Errors
    /// It is neither "none" nor the address of a proxy.
    pub(crate) fn parse(text: &str) -> Result<Self, ProxyError> {
        match text {
            "" | "none" => Ok(Self::None),
            text => Proxy::parse(text).map(Self::Proxy),
        }
    }

    /// Whether there is a password in it.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self, Self::Proxy(proxy) if proxy.basic.is_some())
    }
}

/// The proxies, by the servers that are reached through each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    wss: Choice,
    ws: Choice,
    except: Exceptions,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Choice {
    #[default]
    Direct,
    Through(Proxy),
    /// The environment's variable of this name cannot be used.
    Wrong(&'static str, ProxyError),
}

impl Proxies {
    /// What the setting says; `variable` reads a variable of the environment. One that is not UTF-8 is a wrong one, and not missing.
    pub(crate) fn new(setting: &ProxySetting, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        match setting {
            ProxySetting::None => Self::default(),
            ProxySetting::Proxy(proxy) => Self {
                wss: Choice::Through(proxy.clone()),
                ws: Choice::Through(proxy.clone()),
                except: Exceptions::default(),
            },
            ProxySetting::Environment => {
                let variable = |name: &str| {
                    let value = variable(name)?.into_string();
                    Some(value.unwrap_or_else(|wrong| wrong.to_string_lossy().into_owned()))
                };
                let read = |names: &[&'static str]| {
                    let found = names.iter().find_map(|name| {
                        let value = Zeroizing::new(variable(name)?);
                        (!value.trim().is_empty()).then_some((*name, value))
                    });
                    match found {
                        None => Choice::Direct,
                        Some((name, value)) => match Proxy::parse(value.trim()) {
                            Ok(proxy) => Choice::Through(proxy),
                            Err(error) => Choice::Wrong(name, error),
                        },
                    }
                };
                let except = EXCEPT.iter().find_map(|name| variable(name));
                Self {
                    wss: read(&FOR_WSS),
                    ws: read(&FOR_WS),
                    except: Exceptions::parse(&except.unwrap_or_default()),
                }
            }
        }
    }

    /// The proxy that leads to this `ws://` or `wss://` server.
    ///
    /// # Errors
    /// The environment names one that cannot be used; the text says which variable and what to do.
    pub(crate) fn of(&self, url: &str) -> Result<Option<&Proxy>, String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Ok(None);
        };
        let choice = match scheme {
            "wss" => &self.wss,
            _ => &self.ws,
        };
        let authority = rest.split('/').next().unwrap_or(rest);
        if is_this_machine(authority) || self.except.contains(authority) {
            return Ok(None);
        }
        match choice {
            Choice::Direct => Ok(None),
            Choice::Through(proxy) => Ok(Some(proxy)),
            Choice::Wrong(variable, error) => Err(format!(
                "the environment's {variable} cannot be used: {error}; correct it, or set [signal] proxy in punchd.toml, \"none\" for no proxy"
            )),
        }
    }
}

/// Host and port of `HOST:PORT`; brackets around an IPv6 address are left out.
fn split(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok())
        }
        _ => (authority, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

/// Whether a server runs on this machine, where no proxy leads.
fn is_this_machine(authority: &str) -> bool {
    let (host, _) = split(authority);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What NO_PROXY says: `*`, domains with all that is below them, addresses and networks, each also with a port; commas or blanks
/// stand between them.
#[derive(Debug, Clone, Default)]
struct Exceptions(Vec<Exception>);

#[derive(Debug, Clone)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone)]
enum Hosts {
    All,
    /// An address and the length of its prefix.
    Network(IpAddr, u8),
    /// In lower case, without dots around it.
    Domain(String),
}

impl Exceptions {
    fn parse(text: &str) -> Self {
        let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        Self(words.filter_map(Exception::parse).collect())
    }

    fn contains(&self, authority: &str) -> bool {
        let (host, port) = split(authority);
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().any(|exception| {
            (exception.port.is_none() || exception.port == port) && exception.hosts.contain(&host)
        })
    }
}

impl Exception {
    fn parse(word: &str) -> Option<Self> {
        if let Some((ip, length)) = word.split_once('/') {
            let (ip, length): (IpAddr, u8) = (ip.parse().ok()?, length.parse().ok()?);
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            return (length <= bits).then_some(Self {
                hosts: Hosts::Network(ip, length),
                port: None,
            });
        }
        let (host, port) = match word.parse::<IpAddr>() {
            Ok(_) => (word, None),
            Err(_) => split(word),
        };
        let hosts = match host.parse() {
            Ok(ip @ IpAddr::V4(_)) => Hosts::Network(ip, 32),
            Ok(ip @ IpAddr::V6(_)) => Hosts::Network(ip, 128),
            Err(_) if host == "*" => Hosts::All,
            Err(_) => {
                let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.');
                Hosts::Domain(domain.to_ascii_lowercase())
            }
        };
        Some(Self { hosts, port })
    }
}

impl Hosts {
    fn contain(&self, host: &str) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, length) => host
                .parse()
                .is_ok_and(|ip| is_inside(ip, *network, *length)),
            Self::Domain(domain) => host
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| !domain.is_empty() && (rest.is_empty() || rest.ends_with('.'))),
        }
    }
}

/// Whether the first `length` bits of two addresses of one family are the same.
fn is_inside(ip: IpAddr, network: IpAddr, length: u8) -> bool {
    let (differing, bits) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => (u128::from(ip.to_bits() ^ network.to_bits()), 32),
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits() ^ network.to_bits(), 128),
        _ => return false,
    };
    differing.checked_shr(bits - u32::from(length)).unwrap_or(0) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    /// The proxy that an environment of these variables names for a server, or why there is none.
    fn choose(environment: &[(&str, &str)], url: &str) -> Result<Option<String>, String> {
        let variable = |name: &str| {
            let mut all = environment.iter();
            all.find_map(|(key, value)| (*key == name).then(|| (*value).into()))
        };
        let proxies = Proxies::new(&ProxySetting::Environment, variable);
        let chosen = proxies.of(url)?;
        Ok(chosen.map(ToString::to_string))
    }

    #[test]
    fn an_address_of_a_proxy_is_read_with_its_user_and_password() {
        for (text, place, basic) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("http://Proxy.Example:3128/", "proxy.example:3128", None),
            ("HTTP://10.0.0.1", "10.0.0.1:80", None),
            ("proxy:8080", "proxy:8080", None),
            ("http://[2001:DB8::1]:3128", "[2001:db8::1]:3128", None),
            // RFC 7617 §2 has this one.
            (
                "http://Aladdin:open%20sesame@p:1",
                "p:1",
                Some("QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ),
            ("http://user@p:1", "p:1", Some("dXNlcjo=")),
            ("u:%C3%A9%40@p:1", "p:1", Some("dTrDqUA=")),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.place(), proxy.basic()), (place, basic), "{text}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_not_repeated() {
        for (text, error) in [
            ("https://u:secret@p:1", ProxyError::Scheme),
            ("socks5://u:secret@p:1", ProxyError::Scheme),
            ("secret@x://p:1", ProxyError::Scheme),
            ("http://", ProxyError::Place),
            ("http://:3128", ProxyError::Place),
            ("http://user:secret", ProxyError::Place),
            ("http://p:0", ProxyError::Place),
            ("http://p:65536", ProxyError::Place),
            ("http://u:secret@p:1/path", ProxyError::Place),
            ("http://p q:1", ProxyError::Place),
            ("http://u:secret@2001:db8::1:80", ProxyError::Place),
            ("http://@p:1", ProxyError::Credentials),
            ("http://:secret@p:1", ProxyError::Credentials),
            ("http://u:sec/ret@p:1", ProxyError::Credentials),
            ("http://u:secret@@p:1", ProxyError::Credentials),
            ("http://u:secret:@p:1", ProxyError::Credentials),
            ("http://u%3a:secret@p:1", ProxyError::Credentials),
            ("http://u:secret%0d%0a@p:1", ProxyError::Credentials),
            ("http://u:secret%4@p:1", ProxyError::Credentials),
            ("http://u:secret%g1@p:1", ProxyError::Credentials),
            ("http://ü:secret@p:1", ProxyError::Credentials),
        ] {
            assert_eq!(Proxy::parse(text), Err(error), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        let long = format!("http://{}@p:1", "u".repeat(MAX_CREDENTIALS + 1));
        assert_eq!(Proxy::parse(&long), Err(ProxyError::Credentials));
    }

    #[test]
    fn a_password_is_in_no_text() {
        let proxy = Proxy::parse("http://user:secret@p:3128").unwrap();
        let setting = ProxySetting::Proxy(proxy.clone());
        assert!(setting.is_secret());
        let proxies = Proxies::new(&setting, |_| None);
        assert_eq!(proxy.to_string(), "http://p:3128");
        assert_eq!(format!("{proxy:?}"), "Proxy(http://p:3128)");
        for text in [format!("{setting:?}"), format!("{proxies:?}")] {
            assert!(
                !text.contains("secret") && !text.contains("c2VjcmV0"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let (wss, ws) = ("wss://s.example:443/", "ws://s.example:8080/");
        let through = |place: &str| Ok(Some(format!("http://{place}")));
        assert_eq!(choose(&[], wss), Ok(None));
        let all = [("ALL_PROXY", "http://all:1")];
        assert_eq!(choose(&all, wss), through("all:1"));
        assert_eq!(choose(&all, ws), through("all:1"));
        let https = [("HTTPS_PROXY", "tls:2"), ("all_proxy", "all:1")];
        assert_eq!(choose(&https, wss), through("tls:2"));
        assert_eq!(choose(&https, ws), through("all:1"));
        let both = [("HTTPS_PROXY", "tls:2"), ("https_proxy", "small:3")];
        assert_eq!(choose(&both, wss), through("small:3"));
        assert_eq!(choose(&both, ws), Ok(None));
        let empty = [("https_proxy", ""), ("HTTPS_PROXY", " tls:2 ")];
        assert_eq!(choose(&empty, wss), through("tls:2"));
        let plain = [("HTTP_PROXY", "http://plain:4")];
        assert_eq!(choose(&plain, wss), Ok(None));
        assert_eq!(choose(&plain, ws), through("plain:4"));
        // This machine is not reached through a proxy.
        for url in [
            "ws://127.0.0.1:8080/",
            "ws://[::1]:8080/",
            "ws://localhost:8080/",
        ] {
            assert_eq!(choose(&all, url), Ok(None));
        }
    }

    #[test]
    fn a_wrong_variable_is_named_without_its_value() {
        let wrong = [("HTTPS_PROXY", "socks5://u:secret@p:1")];
        let text = choose(&wrong, "wss://s.example:443/").unwrap_err();
        assert!(
            text.contains("HTTPS_PROXY") && text.contains("http://HOST:PORT"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(choose(&wrong, "ws://s.example:80/"), Ok(None));
    }

    #[test]
    fn a_variable_that_is_not_utf_8_is_no_missing_one() {
        for (value, why) in [
            (&b"http://p\xff:3128"[..], ProxyError::Place),
            (b"http://u:\xffsecret@p:1", ProxyError::Credentials),
        ] {
            let variable =
                |name: &str| (name == "https_proxy").then(|| OsString::from_vec(value.to_vec()));
            let proxies = Proxies::new(&ProxySetting::Environment, variable);
            let text = proxies.of("wss://s.example:443/").unwrap_err();
            assert!(
                text.contains("https_proxy") && text.contains(&why.to_string()),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn no_proxy_lists_domains_addresses_and_networks() {
        for (list, url, excepted) in [
            ("*", "wss://s.example:443/", true),
            ("example", "wss://s.example:443/", true),
            (".Example", "wss://s.example:443/", true),
            ("*.example", "wss://a.s.example.:443/", true),
            ("s.example", "wss://s.example:443/", true),
            ("s.example", "wss://as.example:443/", false),
            ("a.s.example", "wss://s.example:443/", false),
            (".", "wss://s.example:443/", false),
            ("other, s.example", "wss://s.example:443/", true),
            ("s.example:443", "wss://s.example:443/", true),
            ("s.example:444", "wss://s.example:443/", false),
            ("192.0.2.7", "wss://192.0.2.7:443/", true),
            ("192.0.2.7:444", "wss://192.0.2.7:443/", false),
            ("192.0.2.0/24 10.0.0.0/8", "wss://192.0.2.7:443/", true),
            ("192.0.2.0/29", "wss://192.0.2.8:443/", false),
            ("0.0.0.0/0", "wss://192.0.2.8:443/", true),
            ("192.0.2.0/33", "wss://192.0.2.8:443/", false),
            ("::/0", "wss://192.0.2.8:443/", false),
            ("2001:db8::/32", "wss://[2001:db8::7]:443/", true),
            ("[2001:db8::7]:443", "wss://[2001:db8::7]:443/", true),
            ("2001:db8::7", "wss://[2001:db8::7]:443/", true),
            ("2001:db8::8", "wss://[2001:db8::7]:443/", false),
        ] {
            let environment = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)];
            let chosen = choose(&environment, url).unwrap();
            assert_eq!(chosen.is_none(), excepted, "{list} {url}");
        }
    }

    #[test]
    fn the_setting_wins_over_the_environment() {
        let variable = |name: &str| (name == "https_proxy").then(|| "http://env:1".into());
        for (text, place) in [("", None), ("none", None), ("http://set:2", Some("set:2"))] {
            let setting = ProxySetting::parse(text).unwrap();
            let proxies = Proxies::new(&setting, variable);
            for url in ["wss://s.example:443/", "ws://s.example:80/"] {
                let chosen = proxies.of(url).unwrap().map(Proxy::place);
                assert_eq!(chosen, place, "{text}");
            }
        }
        assert_eq!(ProxySetting::parse("NONE:x"), Err(ProxyError::Place));
    }
}
