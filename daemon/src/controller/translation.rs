//! Whether this machine's network has no IPv4 and a translator that leads there (NAT64), and below which prefix: its name server tells
//! (RFC 7050), unless the administrator has said it.

use std::time::Duration;

use punch_engine::{AddressRank, BEHIND_NAT64, Nat64, OwnAddress};
use punch_platform::netlink::LocalAddress;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Nat64Setting;
use crate::interface::own_address;
use crate::interface::reach::meets_overlay;
use crate::resolver::Resolver;
use crate::tasks::Spawner;

/// The name whose addresses tell the prefix; nobody connects there. The dot at its end keeps the system's search domains out.
const NAME: &str = "ipv4only.arpa.:443";

/// An answer is waited for so long before this machine begins without it.
const PATIENCE: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Translation {
    setting: Nat64Setting,
    resolver: Resolver,
    /// The addresses by which this machine is in its network, if that has no IPv4.
    network: Option<Vec<OwnAddress>>,
    /// Whether the name server of that network has told what there is.
    is_told: bool,
    prefix: watch::Sender<Option<Nat64>>,
}

impl Translation {
    /// Nothing is known of the network.
    pub(super) fn new(setting: Nat64Setting, spawner: Spawner) -> Self {
        Self {
            setting,
            resolver: Resolver::new(spawner),
            network: None,
            is_told: false,
            prefix: watch::Sender::new(None),
        }
    }

    /// The prefix, now and later.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Nat64>> {
        self.prefix.subscribe()
    }

    /// The prefix that is used.
    pub(super) fn prefix(&self) -> Option<Nat64> {
        *self.prefix.borrow()
    }

    /// The addresses of this machine are now these; what it may use of them, with what stands for an IPv4 address if there is only a
    /// translator that has one. In another network its name server is asked, and waited for a little: what begins with its answer need
    /// not begin again.
    pub(super) async fn follow(&mut self, addresses: &[LocalAddress]) -> Vec<OwnAddress> {
        let mut own: Vec<_> = addresses.iter().map(own_address).collect();
        let outward = own.iter().filter(|own| own.rank == AddressRank::Outward);
        let network = is_without_ipv4(addresses).then(|| outward.copied().collect());
        if network != self.network {
            self.network = network;
            self.begin();
            if self.is_asking() {
                let _ = timeout(PATIENCE, self.resolver.changed()).await;
                self.take();
            }
        }
        if self.prefix().is_some() {
            own.push(OwnAddress {
                rank: AddressRank::Outward,
                ip: BEHIND_NAT64.into(),
            });
        }
        own
    }

    /// The network is another one.
    fn begin(&mut self) {
        self.is_told = false;
        self.resolver.remove(NAME);
        match (&self.network, self.setting) {
            (None, _) => drop(self.set(None)),
            (Some(_), Nat64Setting::Off) => {}
            (Some(_), Nat64Setting::Prefix(prefix)) => drop(self.set(Some(prefix))),
            // What was used before is used until there is an answer: often only an address has changed.
            (Some(_), Nat64Setting::Discover) => self.resolver.add(NAME.to_owned()),
        }
    }

    fn is_asking(&self) -> bool {
        self.network.is_some() && self.setting == Nat64Setting::Discover
    }

    /// Waits until another prefix is used, or none any more. Nothing is lost if the wait is given up.
    pub(super) async fn changed(&mut self) {
        loop {
            self.resolver.changed().await;
            if self.take() {
                return;
            }
        }
    }

    /// Takes an answer, if there is one; returns whether anything is different.
    fn take(&mut self) -> bool {
        if !self.is_asking() {
            return false;
        }
        let answers = self.resolver.addresses(NAME);
        let is_lost = self.resolver.trouble(NAME).is_some();
        if answers.is_empty() && !is_lost || is_lost && self.is_told {
            // There is none yet, or what the name server has said in this network stands.
            return false;
        }
        self.is_told |= !is_lost;
        self.set(Nat64::discover(answers.iter().map(|answer| answer.ip())))
    }

    fn set(&self, prefix: Option<Nat64>) -> bool {
        // A tunnel must not lead into itself, whatever a name server says.
        let prefix = prefix.filter(|prefix| !meets_overlay(*prefix));
        if prefix == self.prefix() {
            return false;
        }
        match prefix {
            Some(prefix) => {
                tracing::info!(%prefix, "this network has no IPv4, and a translator (NAT64) leads there");
            }
            None => tracing::info!("no translator (NAT64) is used any more"),
        }
        self.prefix.send_replace(prefix);
        true
    }
}

/// Whether a default route leads to IPv6 and none to IPv4.
fn is_without_ipv4(addresses: &[LocalAddress]) -> bool {
    let mut outward = addresses.iter().filter(|own| own.default_route);
    let is_v6 = |own: &LocalAddress| match own.ip {
        std::net::IpAddr::V6(ip) => !ip.is_unicast_link_local() && !own.kind.is_tunnel(),
        std::net::IpAddr::V4(_) => false,
    };
    let has_v4 = outward.clone().any(|own| own.ip.is_ipv4());
    !has_v4 && outward.any(is_v6)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use punch_platform::netlink::LinkKind;
    use tokio::runtime::Handle;

    use super::*;

    fn own(ip: &str, kind: LinkKind, default_route: bool) -> LocalAddress {
        LocalAddress {
            ip: ip.parse().unwrap(),
            kind,
            default_route,
        }
    }

    #[test]
    fn a_network_without_ipv4_is_one_whose_only_default_route_is_of_ipv6() {
        let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
        let v4 = own("192.168.1.2", LinkKind::Physical, true);
        let bridge = own("172.17.0.1", LinkKind::Veth, false);
        let local = own("fe80::1", LinkKind::Physical, true);
        let vpn = own("2001:db8:9::2", LinkKind::PointToPoint, true);
        for (addresses, right) in [
            (vec![], false),
            (vec![v6], true),
            (vec![v4], false),
            (vec![v6, v4], false),
            (vec![v6, bridge], true),
            (vec![local], false),
            (vec![local, v6], true),
            (vec![bridge], false),
            (vec![vpn, v4], false),
        ] {
            assert_eq!(is_without_ipv4(&addresses), right, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_prefix_that_was_given_counts_only_where_there_is_no_ipv4() {
        let prefix: Nat64 = "2001:db8:64::/96".parse().unwrap();
        let spawner = Spawner::new(Handle::current());
        let mut translation = Translation::new(Nat64Setting::Prefix(prefix), spawner);
        let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
        let v4 = own("192.168.1.2", LinkKind::Physical, true);
        let seen = translation.watch();

        let stands_for_it = |own: &OwnAddress| own.ip == BEHIND_NAT64;
        let there = translation.follow(&[v6]).await;
        assert_eq!(*seen.borrow(), Some(prefix));
        assert!(there.iter().any(stands_for_it), "{there:?}");

        let there = translation.follow(&[v6, v4]).await;
        assert_eq!(*seen.borrow(), None);
        assert!(!there.iter().any(stands_for_it), "{there:?}");
    }

    #[tokio::test]
    async fn a_prefix_in_the_overlay_is_not_used() {
        for text in [
            "fd70:756e:6368:1::/96",
            "fd70:756e:6368::/48",
            "fd70:756e::/32",
        ] {
            let setting = Nat64Setting::Prefix(text.parse().unwrap());
            let mut translation = Translation::new(setting, Spawner::new(Handle::current()));
            let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
            translation.follow(&[v6]).await;
            assert_eq!(translation.prefix(), None, "{text}");
        }
    }

    #[tokio::test]
    async fn it_can_be_switched_off() {
        let spawner = Spawner::new(Handle::current());
        let mut translation = Translation::new(Nat64Setting::Off, spawner);
        let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
        assert_eq!(translation.follow(&[v6]).await.len(), 1);
        assert_eq!(translation.prefix(), None);
    }
}
