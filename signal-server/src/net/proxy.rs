//! The address that a request counts for: the one that it came from, or the one that a proxy in front names.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::HeaderMap;

/// The address that a connection came from.
#[derive(Clone)]
pub(super) struct Source {
    source: IpAddr,
    /// All proxies that are believed, if this is one of them.
    proxies: Option<Arc<[IpAddr]>>,
}

impl Source {
    /// A connection from `source`, which is believed what it says of its clients if it is one of `proxies`.
    pub(super) fn new(source: IpAddr, proxies: &Arc<[IpAddr]>) -> Self {
        Self {
            source,
            proxies: proxies.contains(&source).then(|| proxies.clone()),
        }
    }

    /// Whether the connection is a proxy's, which carries requests of many.
    pub(super) fn is_proxy(&self) -> bool {
        self.proxies.is_some()
    }

    /// The address that a request counts for. Each proxy appends the address that it has seen: from the end on, what proxies say is believed, and
    /// the first that is none of them is the client.
    pub(super) fn client(&self, headers: &HeaderMap) -> IpAddr {
        let Some(proxies) = &self.proxies else {
            return self.source;
        };
        let mut client = self.source;
        let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
        let told = values
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for text in told {
            let Some(ip) = parse_client(text.trim()) else {
                break;
            };
            client = ip;
            if !proxies.contains(&client) {
                break;
            }
        }
        client
    }
}

/// An address as proxies write it, some with a port.
fn parse_client(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = bare.parse().ok();
    ip.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
        .map(|ip| ip.to_canonical())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    /// The client of a request that came from there; 127.0.0.1, ::1 and 192.0.2.80 are proxies.
    fn client(source: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let proxies = ["127.0.0.1", "::1", "192.0.2.80"];
        let proxies: Arc<[IpAddr]> = proxies.iter().map(|ip| ip.parse().unwrap()).collect();
        let source: IpAddr = source.parse().unwrap();
        Source::new(source, &proxies).client(&headers).to_string()
    }

    #[test]
    fn only_a_proxy_is_believed_and_only_its_own_word() {
        let told = ["10.0.0.1, 198.51.100.7", "203.0.113.9, 2001:db8::5"];
        assert_eq!(client("127.0.0.1", &told), "2001:db8::5");
        assert_eq!(client("192.0.2.1", &told), "192.0.2.1");
        let mapped = ["::ffff:198.51.100.7"];
        assert_eq!(client("127.0.0.1", &mapped), "198.51.100.7");
    }

    #[test]
    fn behind_two_proxies_the_client_is_whom_the_outer_one_has_seen() {
        let told = ["1.1.1.1, 198.51.100.7, 192.0.2.80"];
        assert_eq!(client("127.0.0.1", &told), "198.51.100.7");
        let with_ports = ["198.51.100.7:4711", "192.0.2.80:80"];
        assert_eq!(client("::1", &with_ports), "198.51.100.7");
        assert_eq!(client("::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
    }

    #[test]
    fn a_proxy_that_says_nothing_sensible_is_the_client_itself() {
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("::1", &["unknown"]), "::1");
    }
}
