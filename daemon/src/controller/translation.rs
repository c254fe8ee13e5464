//! Whether this machine's network has no IPv4 and a translator that leads there (NAT64), and below which prefix: its name server tells
//! (RFC 7050), unless the administrator has said it.

mod question;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use punch_engine::{AddressRank, BEHIND_NAT64, Nat64, OwnAddress};
use punch_platform::netlink::LocalAddress;
use tokio::sync::watch;
use tokio::time::timeout;

use self::question::{Answer, Question};
use crate::config::Nat64Setting;
use crate::interface::own_address;
use crate::interface::reach::meets_overlay;
use crate::tasks::Spawner;

/// An answer is waited for so long before this machine begins without it.
const PATIENCE: Duration = Duration::from_millis(250);
/// The name server is asked anew this often, and sooner after it has failed or named no prefix, so many times.
const PERIOD: Duration = Duration::from_secs(600);
const RETRY: Duration = Duration::from_secs(15);
const RETRIES: u32 = 3;

/// See the module.
pub(super) struct Translation {
    setting: Nat64Setting,
    question: Question,
    /// The addresses by which this machine is in its network, if that has no IPv4.
    network: Option<Vec<OwnAddress>>,
    /// Whether the name server of that network has named a prefix.
    is_told: bool,
    /// How often in a row the name server has failed, and how often it has named no prefix.
    failures: u32,
    noes: u32,
    /// The prefix that was said or told, also if it is refused.
    found: Option<Nat64>,
    /// Networks that a prefix must have nothing in common with: those of this machine's links, and addresses inside the tunnel.
    taken: BTreeSet<(Ipv6Addr, u8)>,
    /// The prefix that was refused last.
    refused: Option<Nat64>,
    prefix: watch::Sender<Option<Nat64>>,
}

impl Translation {
    /// Nothing is known of the network, but perhaps what an earlier process has used there.
    pub(super) fn new(setting: Nat64Setting, earlier: Option<Nat64>, spawner: Spawner) -> Self {
        Self {
            setting,
            question: Question::new(spawner),
            network: None,
            is_told: false,
            failures: 0,
            noes: 0,
            found: earlier.filter(|_| setting == Nat64Setting::Discover),
            taken: BTreeSet::new(),
            refused: None,
            prefix: watch::Sender::new(None),
        }
    }

    /// The prefix that is used, now and later.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Nat64>> {
        self.prefix.subscribe()
    }

    /// The prefix that is used.
    pub(super) fn prefix(&self) -> Option<Nat64> {
        *self.prefix.borrow()
    }

    /// The addresses of this machine are now these, and `inside` those of the tunnel; what it may use of them, with what stands for an
    /// IPv4 address if there is only a translator that has one. In another network its name server is asked, and waited for a little:
    /// what begins with its answer need not begin again.
    pub(super) async fn follow(
        &mut self,
        addresses: &[LocalAddress],
        inside: impl IntoIterator<Item = IpAddr>,
    ) -> Vec<OwnAddress> {
        let links = addresses.iter().map(|own| (own.ip, own.prefix));
        let inside = inside.into_iter().map(|ip| (ip, 128));
        let taken = links.chain(inside).filter_map(|(ip, length)| match ip {
            IpAddr::V6(ip) => Some((ip, length)),
            IpAddr::V4(_) => None,
        });
        self.taken = taken.collect();
        let mut own: Vec<_> = addresses.iter().map(own_address).collect();
        let outward = own.iter().filter(|own| own.rank == AddressRank::Outward);
        let network = is_without_ipv4(addresses).then(|| outward.copied().collect());
        let is_another = network != self.network || network.is_none() && self.found.is_some();
        self.network = network;
        if !is_another {
            self.judge();
        } else {
            self.begin();
            if self.is_asking()
                && let Ok(answer) = timeout(PATIENCE, self.question.answer()).await
            {
                self.take(&answer);
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
        (self.failures, self.noes) = (0, 0);
        self.question.end();
        match (&self.network, self.setting) {
            (None, _) => drop(self.find(None)),
            (Some(_), Nat64Setting::Off) => {}
            (Some(_), Nat64Setting::Prefix(prefix)) => drop(self.find(Some(prefix))),
            // What was used before is used until there is an answer: often only an address has changed.
            (Some(_), Nat64Setting::Discover) => {
                self.judge();
                self.question.begin();
            }
        }
    }

    fn is_asking(&self) -> bool {
        self.network.is_some() && self.setting == Nat64Setting::Discover
    }

    /// Waits until another prefix is used, or none any more. Nothing is lost if the wait is given up.
    pub(super) async fn changed(&mut self) {
        loop {
            let answer = self.question.answer().await;
            if self.take(&answer) {
                return;
            }
        }
    }

    /// Takes an answer; returns whether another prefix is used.
    ///
    /// A prefix that is used is left for another one at once, and for none only if the name server goes on naming none, because an
    /// answer is also without a prefix where only a part of it was lost. If it fails, what it has said in this network stands.
    fn take(&mut self, answer: &Answer) -> bool {
        let told = answer.as_ref().map_or(&[][..], Vec::as_slice);
        let present = self.found.filter(|prefix| prefix.is_shown_by(told));
        let found = present.or_else(|| Nat64::discover(told.iter().copied()));
        if found.is_some() {
            self.is_told = true;
            (self.failures, self.noes) = (0, 0);
            self.question.ask_after(PERIOD);
            return self.find(found);
        }
        let count = match answer {
            Ok(_) => &mut self.noes,
            Err(_) => &mut self.failures,
        };
        *count += 1;
        if *count <= RETRIES {
            self.question.ask_after(RETRY);
            return false;
        }
        self.question.ask_after(PERIOD);
        let stands = answer.is_err() && self.is_told;
        !stands && self.find(None)
    }

    fn find(&mut self, found: Option<Nat64>) -> bool {
        self.found = found;
        self.judge()
    }

    /// Uses the prefix that was found unless it must not be; returns whether anything is different.
    fn judge(&mut self) -> bool {
        // A tunnel must not lead into itself, and what is near must not be taken for IPv4, whatever a name server says.
        let is_taken = |prefix: &Nat64| {
            let mut taken = self.taken.iter();
            meets_overlay(*prefix) || taken.any(|(ip, length)| prefix.meets(*ip, *length))
        };
        let refused = self.found.filter(is_taken);
        if let Some(prefix) = refused.filter(|_| refused != self.refused) {
            tracing::warn!(%prefix, "a translator (NAT64) is not used: its prefix has addresses of this machine's networks, or of the tunnel");
        }
        self.refused = refused;
        let prefix = self.found.filter(|_| refused.is_none());
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
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !own.kind.is_tunnel(),
        IpAddr::V4(_) => false,
    };
    // Whoever gets no address gives itself one of the link's (RFC 3927), which leads nowhere else.
    let is_v4 = |own: &LocalAddress| match own.ip {
        IpAddr::V4(ip) => !ip.is_link_local(),
        IpAddr::V6(_) => false,
    };
    !outward.clone().any(is_v4) && outward.any(is_v6)
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
            prefix: 64,
        }
    }

    fn answer(texts: &[&str]) -> Answer {
        Ok(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn failure() -> Answer {
        Err(std::io::ErrorKind::TimedOut.into())
    }

    /// In a network without IPv4 whose name server is asked.
    fn asking() -> Translation {
        let spawner = Spawner::new(Handle::current());
        let mut translation = Translation::new(Nat64Setting::Discover, None, spawner);
        translation.network = Some(Vec::new());
        translation
    }

    const WELL_KNOWN: [&str; 2] = ["64:ff9b::c000:aa", "64:ff9b::c000:ab"];
    const OTHER: [&str; 2] = ["2001:db8:64::c000:aa", "2001:db8:64::c000:ab"];

    #[tokio::test]
    async fn a_prefix_that_is_used_is_left_only_if_the_name_server_goes_on_naming_none() {
        let mut translation = asking();
        assert!(translation.take(&answer(&WELL_KNOWN)));
        let no = answer(&["192.0.0.170"]);
        for _ in 0..2 {
            for _ in 0..RETRIES {
                assert!(!translation.take(&no));
            }
            assert!(!translation.take(&answer(&WELL_KNOWN)));
        }
        for _ in 0..RETRIES {
            assert!(!translation.take(&no));
        }
        assert!(translation.take(&no));
        assert_eq!(translation.prefix(), None);
    }

    #[tokio::test]
    async fn a_name_server_that_fails_costs_no_prefix_unless_the_network_is_another_one() {
        let mut translation = asking();
        translation.take(&answer(&WELL_KNOWN));
        for _ in 0..10 {
            assert!(!translation.take(&failure()));
        }
        translation.begin();
        for _ in 0..RETRIES {
            assert!(!translation.take(&failure()));
            assert_eq!(translation.prefix(), Some(Nat64::WELL_KNOWN));
        }
        assert!(translation.take(&failure()));
        assert_eq!(translation.prefix(), None);
    }

    #[tokio::test]
    async fn what_an_earlier_process_has_used_is_used_before_there_is_an_answer() {
        let earlier = Some(Nat64::WELL_KNOWN);
        let spawner = || Spawner::new(Handle::current());
        let mut translation = Translation::new(Nat64Setting::Discover, earlier, spawner());
        translation.network = Some(Vec::new());
        translation.begin();
        assert_eq!(translation.prefix(), earlier);
        assert!(!translation.take(&failure()));
        // By now there is IPv4.
        let mut translation = Translation::new(Nat64Setting::Discover, earlier, spawner());
        let v4 = own("192.168.1.2", LinkKind::Physical, true);
        translation.follow(&[v4], None).await;
        assert_eq!(translation.prefix(), None);
        assert_eq!(translation.found, None);
    }

    #[tokio::test]
    async fn of_several_prefixes_the_one_that_is_used_stays_as_long_as_it_is_named() {
        let mut translation = asking();
        translation.take(&answer(&WELL_KNOWN));
        let both: Vec<_> = OTHER.into_iter().chain([WELL_KNOWN[1]]).collect();
        assert!(!translation.take(&answer(&both)));
        assert!(translation.take(&answer(&OTHER)));
        assert_eq!(translation.prefix(), "2001:db8:64::/96".parse().ok());
    }

    #[tokio::test]
    async fn a_prefix_with_addresses_that_are_near_or_in_the_tunnel_is_not_used() {
        for (prefix, inside, is_used) in [
            ("2001:db8:64::/96", None, true),
            ("2001:db8:1::/96", None, false),
            ("2001:db8:1::/48", None, false),
            ("2001:db8::/32", None, false),
            ("2001:db8:64::/96", Some("2001:db8:64::5"), false),
            ("2001:db8:64::/96", Some("2001:db8:65::5"), true),
        ] {
            let setting = Nat64Setting::Prefix(prefix.parse().unwrap());
            let mut translation = Translation::new(setting, None, Spawner::new(Handle::current()));
            let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
            let inside: Vec<IpAddr> = inside.iter().map(|ip| ip.parse().unwrap()).collect();
            translation.follow(&[v6], inside).await;
            assert_eq!(translation.prefix().is_some(), is_used, "{prefix}");
            translation.follow(&[v6], None).await;
            let is_near = prefix
                .parse::<Nat64>()
                .unwrap()
                .meets("2001:db8:1::2".parse().unwrap(), 64);
            assert_eq!(translation.prefix().is_some(), !is_near, "{prefix}");
        }
    }

    #[test]
    fn a_network_without_ipv4_is_one_whose_only_default_route_is_of_ipv6() {
        let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
        let v4 = own("192.168.1.2", LinkKind::Physical, true);
        let given_itself = own("169.254.7.9", LinkKind::Physical, true);
        let bridge = own("172.17.0.1", LinkKind::Veth, false);
        let local = own("fe80::1", LinkKind::Physical, true);
        let vpn = own("2001:db8:9::2", LinkKind::PointToPoint, true);
        for (addresses, right) in [
            (vec![], false),
            (vec![v6], true),
            (vec![v4], false),
            (vec![v6, v4], false),
            (vec![v6, bridge], true),
            (vec![v6, given_itself], true),
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
        let mut translation = Translation::new(Nat64Setting::Prefix(prefix), None, spawner);
        let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
        let v4 = own("192.168.1.2", LinkKind::Physical, true);
        let seen = translation.watch();

        let stands_for_it = |own: &OwnAddress| own.ip == BEHIND_NAT64;
        let there = translation.follow(&[v6], None).await;
        assert_eq!(*seen.borrow(), Some(prefix));
        assert!(there.iter().any(stands_for_it), "{there:?}");

        let there = translation.follow(&[v6, v4], None).await;
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
            let mut translation = Translation::new(setting, None, Spawner::new(Handle::current()));
            let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
            translation.follow(&[v6], None).await;
            assert_eq!(translation.prefix(), None, "{text}");
        }
    }

    #[tokio::test]
    async fn it_can_be_switched_off() {
        let spawner = Spawner::new(Handle::current());
        let mut translation = Translation::new(Nat64Setting::Off, Some(Nat64::WELL_KNOWN), spawner);
        let v6 = own("2001:db8:1::2", LinkKind::Physical, true);
        assert_eq!(translation.follow(&[v6], None).await.len(), 1);
        assert_eq!(translation.prefix(), None);
    }
}
