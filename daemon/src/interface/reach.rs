//! What is reached at an address otherwise than through the tunnel: by a route of the kernel's, or because this machine needs it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use punch_api::Ipv4Range;
use punch_engine::Nat64;
use punch_platform::netlink::{MAIN_TABLE, PROTOCOL, PolicyRule, Route};

/// The kernel's table of addresses that lead to this machine itself (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;
/// The kernel's last table (`RT_TABLE_DEFAULT`).
const DEFAULT_TABLE: u32 = 253;
/// The priority of the rule that leads to the main table.
const MAIN_PRIORITY: u32 = 32_766;
/// The prefix of all overlay IPv6 addresses of Punch, and its length.
const OVERLAY_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd70, 0x756e, 0x6368, 0, 0, 0, 0, 0), 48);

/// How an address is reached otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Taken {
    /// This machine has it itself, on this interface.
    Own(String),
    /// It is a router, behind this interface.
    Router(String),
    /// Names are looked up there.
    NameServer,
    /// A signalling or STUN server is there.
    Server,
    /// Packets to a peer go there, outside of the tunnel.
    Path,
    /// A route other than the default one leads there.
    Route {
        /// The first address of the route's prefix.
        to: IpAddr,
        /// The length of the prefix, in bits.
        prefix: u8,
        /// The interface, where it has one.
        link: Option<String>,
    },
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(link) => write!(f, "this machine has it itself, on {link}"),
            Self::Router(link) => write!(f, "it is a router behind {link}"),
            Self::NameServer => f.write_str("it is a name server of this machine"),
            Self::Server => f.write_str("a signalling or STUN server is there"),
            Self::Path => f.write_str("packets to a peer go there outside of the tunnel"),
            Self::Route { to, prefix, link } => {
                let link = link.as_deref().unwrap_or("another way");
                write!(f, "this machine reaches it by {link} (route {to}/{prefix})")
            }
        }
    }
}

/// See the module. It is made from the kernel's tables, one route after the other.
#[derive(Default)]
pub(crate) struct Reach {
    /// The networks that routes lead to, with their interfaces, for each length of a prefix.
    networks: HashMap<(bool, u8), HashMap<IpAddr, Option<String>>>,
    single: HashMap<IpAddr, Taken>,
}

impl Reach {
    /// How this address is reached otherwise than through the tunnel and by the default route.
    pub(crate) fn taken(&self, ip: IpAddr) -> Option<Taken> {
        if let Some(taken) = self.single.get(&ip) {
            return Some(taken.clone());
        }
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        let narrow = if in_overlay_v6(ip) {
            OVERLAY_V6.1 + 1
        } else {
            0
        };
        // The longest prefix wins, as in the kernel.
        (narrow..=whole).rev().find_map(|prefix| {
            let networks = self.networks.get(&(ip.is_ipv4(), prefix))?;
            let to = first(ip, prefix);
            networks.get(&to).map(|link| Taken::Route {
                to,
                prefix,
                link: link.clone(),
            })
        })
    }

    /// Takes note of an address that this machine needs; what was said of it first stands.
    pub(crate) fn need(&mut self, ip: IpAddr, taken: Taken) {
        self.single.entry(ip).or_insert(taken);
    }
}

/// The routes that matter, and what the interfaces are called.
pub(crate) struct Survey<'a> {
    /// The tunnel's interface: what leads into it is no other way.
    pub(crate) own: u32,
    /// Names of interfaces, by their numbers.
    pub(crate) names: &'a HashMap<u32, String>,
    /// The tables that packets can come to.
    tables: HashMap<u32, u32>,
    range: Option<Ipv4Range>,
    /// Addresses outside of Punch's own ranges that matter too.
    others: &'a BTreeSet<IpAddr>,
    reach: Reach,
    /// The tables before the main one that have routes in the overlay's range, with the interface of one.
    before_main: HashMap<u32, Option<String>>,
}

impl<'a> Survey<'a> {
    /// Begins with the policy rules.
    pub(crate) fn new(
        own: u32,
        names: &'a HashMap<u32, String>,
        rules: &[PolicyRule],
        range: Option<Ipv4Range>,
        others: &'a BTreeSet<IpAddr>,
    ) -> Self {
        let mut tables = HashMap::from([
            (LOCAL_TABLE, 0),
            (MAIN_TABLE, MAIN_PRIORITY),
            (DEFAULT_TABLE, MAIN_PRIORITY + 1),
        ]);
        for rule in rules {
            let soonest = tables.entry(rule.table).or_insert(rule.priority);
            *soonest = rule.priority.min(*soonest);
        }
        Self {
            own,
            names,
            tables,
            range,
            others,
            reach: Reach::default(),
            before_main: HashMap::new(),
        }
    }

    /// Looks at one route.
    pub(crate) fn add(&mut self, route: &Route) {
        let Some(priority) = self.tables.get(&route.table) else {
            return;
        };
        if !route.carries || route.protocol == PROTOCOL {
            return;
        }
        let outside = || route.hops.iter().filter(|hop| hop.link != self.own);
        let name = |link: &u32| self.names.get(link).cloned().unwrap_or_default();
        for hop in outside() {
            if let Some(router) = hop.router {
                self.reach.need(router, Taken::Router(name(&hop.link)));
            }
        }
        let into_tunnel = !route.hops.is_empty() && outside().next().is_none();
        if into_tunnel || is_broad(route) {
            return;
        }
        let link = outside().next().map(|hop| name(&hop.link));
        if route.local && route.is_whole() && route.table == LOCAL_TABLE {
            let own = Taken::Own(link.clone().unwrap_or_default());
            self.reach.single.insert(route.to, own);
        }
        let in_range = self.range.is_some_and(|range| overlaps(route, range));
        let usual = [LOCAL_TABLE, MAIN_TABLE, DEFAULT_TABLE].contains(&route.table);
        if in_range && *priority < MAIN_PRIORITY && !usual {
            self.before_main
                .entry(route.table)
                .or_insert_with(|| link.clone());
        }
        let last = last(route.to, route.prefix);
        let matters = in_range
            || in_overlay_v6(route.to)
            || self.others.range(route.to..=last).next().is_some();
        if matters {
            let networks = self
                .reach
                .networks
                .entry((route.to.is_ipv4(), route.prefix));
            networks.or_default().insert(route.to, link);
        }
    }

    /// Whether packets may leave for the internet by this route: a default route, of IPv4 also one of a table that rules lead to, or
    /// a part of one.
    pub(crate) fn is_outward(&self, route: &Route) -> bool {
        let leads = match route.to {
            IpAddr::V4(_) => is_broad(route) && self.tables.contains_key(&route.table),
            IpAddr::V6(_) => route.prefix == 0 && route.table == MAIN_TABLE,
        };
        leads && route.carries
    }

    /// What was found: how addresses are reached, and the tables before the main one that have routes in the overlay's range.
    pub(crate) fn end(self) -> (Reach, Vec<(u32, Option<String>)>) {
        let mut before_main: Vec<_> = self.before_main.into_iter().collect();
        before_main.sort();
        (self.reach, before_main)
    }
}

/// Whether a route leads to so much of the internet that it is a default route in parts: VPNs set halves of it.
fn is_broad(route: &Route) -> bool {
    route.prefix <= if route.to.is_ipv4() { 2 } else { 3 }
}

/// Whether an address lies in a range.
pub(crate) fn is_in(range: Ipv4Range, ip: IpAddr) -> bool {
    ip.is_ipv4() && first(ip, range.prefix()) == IpAddr::V4(range.network())
}

/// Whether an address lies in one of the overlay's ranges.
pub(crate) fn is_overlay(range: Option<Ipv4Range>, ip: IpAddr) -> bool {
    in_overlay_v6(ip) || range.is_some_and(|range| is_in(range, ip))
}

/// Whether what a translator reaches below this prefix would be led into the tunnel.
pub(crate) fn meets_overlay(prefix: Nat64) -> bool {
    prefix.meets(OVERLAY_V6.0, OVERLAY_V6.1)
}

fn overlaps(route: &Route, range: Ipv4Range) -> bool {
    let shorter = route.prefix.min(range.prefix());
    route.to.is_ipv4() && first(route.to, shorter) == first(range.network().into(), shorter)
}

fn in_overlay_v6(ip: IpAddr) -> bool {
    ip.is_ipv6() && first(ip, OVERLAY_V6.1) == IpAddr::V6(OVERLAY_V6.0)
}

/// The first address of the network of this size that an address lies in.
fn first(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & !v4_host(prefix)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !v6_host(prefix)).into()),
    }
}

fn last(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) | v4_host(prefix)).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) | v6_host(prefix)).into()),
    }
}

fn v4_host(prefix: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

fn v6_host(prefix: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0)
}

/// The name servers that files in the form of resolv.conf(5) name.
pub(crate) fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver");
        let address = address.and_then(|_| words.next())?;
        // A scope (fe80::1%eth0) is no part of the address.
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use punch_platform::netlink::Hop;

    use super::*;

    const OWN: u32 = 9;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// `ip route add TO table TABLE via ROUTER dev LINK`
    fn route(to: &str, table: u32, router: Option<&str>, link: u32) -> Route {
        let (to, prefix) = to.split_once('/').unwrap();
        Route {
            to: ip(to),
            prefix: prefix.parse().unwrap(),
            table,
            protocol: 4,
            carries: true,
            local: false,
            metric: 0,
            hops: vec![Hop {
                router: router.map(ip),
                link,
                down: false,
            }],
            source: None,
        }
    }

    fn survey(routes: &[Route], rules: &[(u32, u32)]) -> (Reach, Vec<(u32, Option<String>)>) {
        let names = HashMap::from([(2, "eth0".to_owned()), (5, "tailscale0".to_owned())]);
        let rules: Vec<_> = rules
            .iter()
            .map(|(priority, table)| PolicyRule {
                priority: *priority,
                table: *table,
            })
            .collect();
        let others = BTreeSet::from([ip("10.9.0.1")]);
        let mut survey = Survey::new(OWN, &names, &rules, Some(Ipv4Range::DEFAULT), &others);
        for route in routes {
            survey.add(route);
        }
        survey.end()
    }

    fn said(reach: &Reach, address: &str) -> Option<String> {
        reach.taken(ip(address)).map(|taken| taken.to_string())
    }

    #[test]
    fn an_address_behind_the_default_route_is_free() {
        let routes = [
            route("0.0.0.0/0", MAIN_TABLE, Some("192.168.1.1"), 2),
            route("0.0.0.0/1", MAIN_TABLE, Some("10.8.0.1"), 5),
            route("64.0.0.0/2", MAIN_TABLE, None, 5),
            route("::/0", MAIN_TABLE, Some("fe80::1"), 2),
            route("2000::/3", MAIN_TABLE, Some("fe80::1"), 2),
        ];
        let (reach, _) = survey(&routes, &[]);
        for free in ["100.64.0.1", "10.9.0.1", "fd70:756e:6368::1"] {
            assert_eq!(said(&reach, free), None, "{free}");
        }
    }

    #[test]
    fn ipv4_is_there_also_by_halves_and_by_tables_that_rules_lead_to() {
        let names = HashMap::new();
        let rules = [PolicyRule {
            priority: 100,
            table: 52,
        }];
        let others = BTreeSet::new();
        let survey = Survey::new(OWN, &names, &rules, None, &others);
        for (to, table, is_outward) in [
            ("0.0.0.0/0", MAIN_TABLE, true),
            ("0.0.0.0/1", MAIN_TABLE, true),
            ("128.0.0.0/1", MAIN_TABLE, true),
            ("0.0.0.0/0", 52, true),
            ("0.0.0.0/0", 53, false),
            ("10.0.0.0/8", MAIN_TABLE, false),
            ("::/0", MAIN_TABLE, true),
            ("::/0", 53, false),
            ("2000::/3", MAIN_TABLE, false),
        ] {
            let found = survey.is_outward(&route(to, table, None, 2));
            assert_eq!(found, is_outward, "{to} {table}");
        }
        let mut refusal = route("0.0.0.0/0", MAIN_TABLE, None, 2);
        refusal.carries = false;
        assert!(!survey.is_outward(&refusal));
    }

    #[test]
    fn an_address_that_is_reached_otherwise_is_taken() {
        let routes = [
            route("0.0.0.0/0", MAIN_TABLE, Some("100.64.0.1"), 2),
            route("100.72.0.0/16", MAIN_TABLE, None, 2),
            route("100.72.3.0/24", 52, None, 5),
            route("100.80.0.0/16", 99, None, 5),
            route("10.0.0.0/8", MAIN_TABLE, Some("192.168.1.1"), 2),
            route("fd70:756e:6368:5::/64", MAIN_TABLE, None, 2),
            route("fd00::/8", MAIN_TABLE, Some("fe80::1"), 2),
        ];
        let (mut reach, _) = survey(&routes, &[(5270, 52)]);
        let by =
            |link: &str, to: &str| Some(format!("this machine reaches it by {link} (route {to})"));
        for (address, right) in [
            ("100.64.0.1", Some("it is a router behind eth0".to_owned())),
            ("100.72.1.1", by("eth0", "100.72.0.0/16")),
            ("100.72.3.1", by("tailscale0", "100.72.3.0/24")),
            ("100.80.0.1", None), // No rule leads to that table.
            ("10.9.0.1", by("eth0", "10.0.0.0/8")),
            ("fd70:756e:6368:5::1", by("eth0", "fd70:756e:6368:5::/64")),
            ("fd70:756e:6368:6::1", None), // A route to all private addresses says nothing of one.
        ] {
            assert_eq!(said(&reach, address), right, "{address}");
        }
        reach.need(ip("100.99.0.1"), Taken::NameServer);
        let right = Some("it is a name server of this machine".to_owned());
        assert_eq!(said(&reach, "100.99.0.1"), right);
    }

    #[test]
    fn routes_of_our_own_and_those_that_refuse_are_passed_over() {
        let mut ours = route("100.64.0.9/32", MAIN_TABLE, None, OWN);
        ours.protocol = PROTOCOL;
        let mut refusal = route("100.64.0.10/32", MAIN_TABLE, None, 1);
        refusal.carries = false;
        let into_tunnel = route("100.64.0.0/10", MAIN_TABLE, None, OWN);
        let (reach, before_main) = survey(&[ours, refusal, into_tunnel], &[]);
        for free in ["100.64.0.9", "100.64.0.10", "100.65.0.1"] {
            assert_eq!(said(&reach, free), None, "{free}");
        }
        assert!(before_main.is_empty());
    }

    #[test]
    fn an_address_of_this_machine_is_its_own() {
        let mut own = route("100.64.7.7/32", LOCAL_TABLE, None, 2);
        own.local = true;
        let (reach, _) = survey(&[own], &[]);
        let right = Some("this machine has it itself, on eth0".to_owned());
        assert_eq!(said(&reach, "100.64.7.7"), right);
    }

    #[test]
    fn a_table_before_the_main_one_that_has_routes_in_the_range_is_told() {
        let routes = [
            route("100.100.100.100/32", 52, None, 5),
            route("100.101.0.1/32", 52, None, 5),
            route("192.168.0.0/16", 53, None, 2),
        ];
        let (_, before_main) = survey(&routes, &[(5270, 52), (5280, 53)]);
        assert_eq!(before_main, [(52, Some("tailscale0".to_owned()))]);
        let (_, after_main) = survey(&routes, &[(40_000, 52)]);
        assert_eq!(after_main, []);
    }

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch lan\nnameserver 100.100.2.136\n\tnameserver fe80::1%eth0\nnameserver\n";
        let found: Vec<_> = name_servers(text).collect();
        assert_eq!(found, [ip("100.100.2.136"), ip("fe80::1")]);
    }
}
