//! Routes: those of the kernel's tables, and ours, which bear a mark of their own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::RouteMessageBuilder;

use super::whole;

/// What our routes are marked with (`rtm_protocol`, rtnetlink(7)): a number that /etc/iproute2/rt_protos gives to no other daemon.
/// What bears it is ours, also after a crash; nothing else is ever replaced or removed.
pub const PROTOCOL: u8 = 112;
/// The metric of the routes that refuse what the tunnel would carry. Every other route comes first.
pub const REFUSAL_METRIC: u32 = 4_000_000_000;
/// The kernel's main table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// A route as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The first address that it leads to.
    pub to: IpAddr,
    /// The length of the prefix, in bits: 0 is a default route.
    pub prefix: u8,
    /// The number of the table that it stands in.
    pub table: u32,
    /// The mark of whoever has set it.
    pub protocol: u8,
    /// Whether packets go anywhere: `false` for routes that refuse or swallow them.
    pub carries: bool,
    /// Whether it leads to this machine itself: its own addresses, and those of broadcasts.
    pub local: bool,
    /// The lower, the sooner.
    pub metric: u32,
    /// Where packets go first, one after the other.
    pub hops: Vec<Hop>,
    /// The source address of packets that take it.
    pub source: Option<IpAddr>,
}

/// Where packets of a route go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The router, where there is one.
    pub router: Option<IpAddr>,
    /// The number of the interface towards it.
    pub link: u32,
    /// Whether its interface is without a carrier. Packets go there all the same, unless the administrator has said otherwise.
    pub down: bool,
}

impl Route {
    pub(super) fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let attributes = &message.attributes;
        // What the kernel has learned of one destination is no route of a table (RTM_F_CLONED).
        if header
            .flags
            .intersects(RouteFlags::Dead | RouteFlags::Cloned)
        {
            return None;
        }
        let mut route = Self {
            to: match header.address_family {
                netlink_packet_route::AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
                netlink_packet_route::AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
                _ => return None,
            },
            prefix: header.destination_prefix_length,
            table: u32::from(header.table),
            protocol: header.protocol.into(),
            carries: matches!(
                header.kind,
                RouteType::Unicast | RouteType::Local | RouteType::Broadcast | RouteType::Anycast
            ),
            local: matches!(
                header.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Anycast
            ),
            metric: 0,
            hops: hops(attributes, header.flags.contains(RouteFlags::Linkdown)),
            source: None,
        };
        for attribute in attributes {
            match attribute {
                RouteAttribute::Destination(to) => route.to = ip(to)?,
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = *metric,
                RouteAttribute::PrefSource(from) => route.source = ip(from),
                _ => {}
            }
        }
        Some(route)
    }

    /// Whether it leads to exactly one address.
    pub fn is_whole(&self) -> bool {
        self.prefix == whole(self.to)
    }

    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && self.table == MAIN_TABLE
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn hops(attributes: &[RouteAttribute], down: bool) -> Vec<Hop> {
    let (router, interface) = next_hop(attributes);
    let (dead, linkdown) = (RouteNextHopFlags::Dead, RouteNextHopFlags::Linkdown);
    let several = attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let several = several
        .flatten()
        .filter(|hop| !hop.flags.intersects(dead))
        .map(|hop| Hop {
            router: next_hop(&hop.attributes).0,
            link: hop.interface_index,
            down: hop.flags.contains(linkdown),
        });
    let single = interface.map(|link| Hop { router, link, down });
    single.into_iter().chain(several).collect()
}

fn next_hop(attributes: &[RouteAttribute]) -> (Option<IpAddr>, Option<u32>) {
    let (mut router, mut interface) = (None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(to) => router = ip(to),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => router = Some((*ip).into()),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    (router, interface)
}

/// A policy rule (ip-rule(8)) that leads to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule {
    /// The lower, the sooner; that of the main table is 32,766.
    pub priority: u32,
    /// The table that it leads to.
    pub table: u32,
}

impl PolicyRule {
    pub(super) fn of(rule: &RuleMessage) -> Option<Self> {
        let mut table = u32::from(rule.header.table);
        let mut priority = 0;
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::Priority(number) => priority = *number,
                _ => {}
            }
        }
        (table != 0).then_some(Self { priority, table })
    }
}

/// How long packets of a route may be, in bytes (RTA_METRICS, rtnetlink(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteSizes {
    /// The longest packet that is sent.
    pub mtu: u32,
    /// The longest packet that may come: what TCP tells the other end follows from it (RFC 6691 §2).
    pub receives: u32,
}

impl RouteSizes {
    fn metrics(self, to: IpAddr) -> RouteAttribute {
        let headers = if to.is_ipv4() { 40 } else { 60 };
        RouteAttribute::Metrics(vec![
            RouteMetric::Mtu(self.mtu),
            RouteMetric::Advmss(self.receives.saturating_sub(headers)),
        ])
    }
}

/// What is to be done about a route of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRoute {
    /// Packets go into the interface of this index, from this source address.
    Into {
        /// The index of the interface.
        index: u32,
        /// The source address.
        from: IpAddr,
        /// How long packets may be; `None` leaves it to the interface.
        sizes: Option<RouteSizes>,
    },
    /// Packets are refused, if no better route is there.
    Refusal,
}

/// The IPv4 source address that packets take.
pub(super) fn source(message: &RouteMessage) -> Option<Ipv4Addr> {
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(from)) => Some(*from),
        _ => None,
    })
}

/// A route of ours to exactly this address.
fn plain_message(to: IpAddr) -> RouteMessage {
    let mut message = match to {
        IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .build(),
        IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, 128)
            .build(),
    };
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message
}

fn refuse(message: &mut RouteMessage) {
    message.header.kind = RouteType::Unreachable;
    let metric = RouteAttribute::Priority(REFUSAL_METRIC);
    message.attributes.push(metric);
}

/// The message that takes a route of ours back: the one into the interface of this index, or the one that refuses.
pub(super) fn removal(to: IpAddr, into: Option<u32>) -> RouteMessage {
    let mut message = plain_message(to);
    match into {
        Some(index) => message.attributes.push(RouteAttribute::Oif(index)),
        None => refuse(&mut message),
    }
    message
}

pub(super) fn own_message(to: IpAddr, route: OwnRoute) -> io::Result<RouteMessage> {
    let mut message = plain_message(to);
    match route {
        OwnRoute::Refusal => refuse(&mut message),
        OwnRoute::Into { index, from, sizes } if from.is_ipv4() == to.is_ipv4() => {
            let source = RouteAttribute::PrefSource(from.into());
            let metrics = sizes.map(|sizes| sizes.metrics(to));
            message
                .attributes
                .extend([source, RouteAttribute::Oif(index)]);
            message.attributes.extend(metrics);
        }
        OwnRoute::Into { .. } => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_as_the_kernel_tells_it() {
        let router = Ipv4Addr::new(192, 168, 1, 1);
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(100, 64, 0, 0), 16)
            .gateway(router)
            .output_interface(3)
            .build();
        message.attributes.push(RouteAttribute::Table(1000));
        message.attributes.push(RouteAttribute::Priority(50));
        let route = Route::of(&message).unwrap();
        assert_eq!(
            route,
            Route {
                to: Ipv4Addr::new(100, 64, 0, 0).into(),
                prefix: 16,
                table: 1000,
                protocol: 4,
                carries: true,
                local: false,
                metric: 50,
                hops: vec![Hop {
                    router: Some(router.into()),
                    link: 3,
                    down: false,
                }],
                source: None,
            }
        );
        assert!(!route.is_whole() && !route.is_ours());

        message.header.flags = RouteFlags::Linkdown;
        assert!(Route::of(&message).unwrap().hops[0].down);
        message.header.flags = RouteFlags::Dead;
        assert_eq!(Route::of(&message), None, "out of use");
    }

    #[test]
    fn our_routes_bear_our_mark_and_lead_where_they_should() {
        let to: IpAddr = "100.64.0.9".parse().unwrap();
        let from: IpAddr = "100.64.0.1".parse().unwrap();
        let into = OwnRoute::Into {
            index: 7,
            from,
            sizes: Some(RouteSizes {
                mtu: 1240,
                receives: 1420,
            }),
        };
        let message = own_message(to, into).unwrap();
        let metrics =
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(1240), RouteMetric::Advmss(1380)]);
        assert!(message.attributes.contains(&metrics));
        let route = Route::of(&own_message(to, into).unwrap()).unwrap();
        assert!(route.is_ours() && route.is_whole() && route.carries);
        assert_eq!((route.to, route.source), (to, Some(from)));
        let hop = Hop {
            router: None,
            link: 7,
            down: false,
        };
        assert_eq!((route.hops, route.metric), (vec![hop], 0));

        let to: IpAddr = "fd70:756e:6368::9".parse().unwrap();
        let route = Route::of(&own_message(to, OwnRoute::Refusal).unwrap()).unwrap();
        assert!(route.is_ours() && route.is_whole() && !route.carries);
        assert_eq!((route.to, route.metric), (to, 4_000_000_000));
        // An IPv6 destination with an IPv4 source is a mistake of ours.
        assert!(own_message(to, into).is_err());
    }
}
