//! Addresses, routes and links, by netlink.

mod link;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteType, RouteVia,
};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};

pub use link::{LinkKind, LocalAddress};

/// Lets an interface of our own have IPv6 where the system's default is that new interfaces have none.
///
/// # Errors
/// Those of the file: no such interface, no IPv6 in the kernel, no permission.
pub fn enable_ipv6(name: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0")
}

/// The router that packets to the internet go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Its address on our side.
    pub address: Ipv4Addr,
    /// Our address on its side.
    pub local: Ipv4Addr,
}

/// A connection to the kernel's routing tables.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

/// Opens netlink. The first result makes requests; the second must be driven as a task for as long as it is used; the third
/// yields once for every change of links, addresses or routes.
///
/// # Errors
/// Those of the socket.
pub fn open() -> io::Result<(
    Netlink,
    impl Future<Output = ()> + Send,
    impl Stream<Item = ()> + Send + Unpin,
)> {
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])?;
    // An overrun (ENOBUFS) is a change like any other: whoever hears of a change reads everything anew.
    let changes = messages.map(|_| ());
    Ok((Netlink { handle }, connection, Box::pin(changes)))
}

impl Netlink {
    /// The index of an interface.
    ///
    /// # Errors
    /// `NotFound`, or the kernel's refusal.
    pub async fn index(&self, name: &str) -> io::Result<u32> {
        let mut links = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match links.try_next().await.map_err(error)? {
            Some(link) => Ok(link.header.index),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Sets the MTU and the length of the transmit queue, and brings the interface up.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn bring_up(&self, index: u32, mtu: u32, queue: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index)
            .mtu(mtu)
            .txqueuelen(queue)
            .up()
            .build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(error)
    }

    /// Gives an interface an address of its own, with a prefix that covers nothing else.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn add_address(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut request = self.handle.address().add(index, address, whole(address));
        if address.is_ipv6() {
            // Nobody else can have it: no waiting for duplicate address detection.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.replace().execute().await.map_err(error)
    }

    /// Leads packets for `to` into an interface, from the source address `from`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn add_route(&self, index: u32, to: IpAddr, from: IpAddr) -> io::Result<()> {
        let message = match (to, from) {
            (IpAddr::V4(to), IpAddr::V4(from)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .pref_source(from)
                .output_interface(index)
                .build(),
            (IpAddr::V6(to), IpAddr::V6(from)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, 128)
                .pref_source(from)
                .output_interface(index)
                .build(),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(error)
    }

    /// Takes such a route back; one that is gone already is fine.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn remove_route(&self, index: u32, to: IpAddr) -> io::Result<()> {
        let message = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .output_interface(index)
                .build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, 128)
                .output_interface(index)
                .build(),
        };
        match self.handle.route().del(message).execute().await {
            Err(refused) if error_number(&refused) != Some(libc::ESRCH) => Err(error(refused)),
            _ => Ok(()),
        }
    }

    /// The IPv4 router of the default route with the lowest metric that does not lead into `except`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn default_gateway(&self, except: u32) -> io::Result<Option<Gateway>> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(all).execute();
        let mut found = Vec::new();
        while let Some(route) = routes.try_next().await.map_err(error)? {
            found.extend(DefaultRoute::of(&route));
        }
        let Some(route) = choose(found, except) else {
            return Ok(None);
        };
        let local = match route.source {
            Some(source) => source,
            // A router that cannot be reached at the moment is none.
            None => match self.source_towards(route.gateway).await {
                Ok(Some(source)) => source,
                Ok(None) | Err(_) => return Ok(None),
            },
        };
        let address = route.gateway;
        Ok(Some(Gateway { address, local }))
    }

    /// The source address that the kernel would take.
    async fn source_towards(&self, to: Ipv4Addr) -> io::Result<Option<Ipv4Addr>> {
        let ask = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .build();
        let mut answers = self.handle.route().get(ask).execute();
        let answer = answers.try_next().await.map_err(error)?;
        Ok(answer.as_ref().and_then(|route| source(&route.attributes)))
    }

    /// Whether an interface is up, and its addresses.
    ///
    /// # Errors
    /// `NotFound`, or the kernel's refusal.
    pub async fn interface(&self, index: u32) -> io::Result<(bool, Vec<IpAddr>)> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let link = links.try_next().await.map_err(error)?;
        let link = link.ok_or(io::ErrorKind::NotFound)?;
        let mut found = Vec::new();
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute();
        while let Some(message) = addresses.try_next().await.map_err(error)? {
            for attribute in &message.attributes {
                if let AddressAttribute::Local(ip) | AddressAttribute::Address(ip) = attribute
                    && message.header.index == index
                    && !found.contains(ip)
                {
                    found.push(*ip);
                }
            }
        }
        Ok((link.header.flags.contains(LinkFlags::Up), found))
    }

    /// The addresses of all interfaces that are up, but those of `except`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn addresses(&self, except: u32) -> io::Result<Vec<LocalAddress>> {
        let mut up = BTreeMap::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(error)? {
            if link.header.flags.contains(LinkFlags::Up) && link.header.index != except {
                up.insert(link.header.index, LinkKind::of(&link));
            }
        }
        let outward = self.default_links().await?;
        let mut found = BTreeSet::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(error)? {
            let index = message.header.index;
            let (Some(kind), Some(ip)) = (up.get(&index), usable_address(&message)) else {
                continue;
            };
            found.insert(LocalAddress {
                ip,
                kind: *kind,
                default_route: outward.contains(&(index, ip.is_ipv4())),
            });
        }
        Ok(found.into_iter().collect())
    }

    /// The interfaces that default routes leave by; `true` beside one stands for IPv4.
    async fn default_links(&self) -> io::Result<HashSet<(u32, bool)>> {
        let mut found = HashSet::new();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for (all, is_ipv4) in [(v4, true), (v6, false)] {
            let mut routes = self.handle.route().get(all).execute();
            while let Some(route) = routes.try_next().await.map_err(error)? {
                if is_default(&route) {
                    found.extend(hops(&route.attributes).map(|(_, index)| (index, is_ipv4)));
                }
            }
        }
        Ok(found)
    }
}

/// The address that a message tells of, unless it cannot be used, or not for long.
fn usable_address(message: &AddressMessage) -> Option<IpAddr> {
    // Temporary IPv6 addresses (RFC 8981) come and go; an address that is still tentative cannot be used.
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let mut local = None;
    let mut usable = true;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => {
                local.get_or_insert(*ip);
            }
            AddressAttribute::Flags(flags) => usable &= !flags.intersects(unusable),
            _ => {}
        }
    }
    local.filter(|ip| usable && !ip.is_loopback())
}

/// A way to the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DefaultRoute {
    gateway: Ipv4Addr,
    interface: u32,
    source: Option<Ipv4Addr>,
    metric: u32,
}

impl DefaultRoute {
    fn of(route: &RouteMessage) -> Option<Self> {
        if !is_default(route) {
            return None;
        }
        let attributes = &route.attributes;
        let mut hops = hops(attributes);
        let (gateway, interface) = hops.find_map(|(to, index)| match to {
            Some(IpAddr::V4(ip)) => Some((ip, index)),
            _ => None,
        })?;
        let metric = attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
        Some(Self {
            gateway,
            interface,
            source: source(attributes),
            metric: metric.unwrap_or(0),
        })
    }
}

/// Whether a route of the main table leads to everything that no other one leads to, and is in use.
fn is_default(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && table(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
        && !header
            .flags
            .intersects(RouteFlags::Dead | RouteFlags::Linkdown)
}

fn table(route: &RouteMessage) -> u32 {
    let mut attributes = route.attributes.iter();
    let table = attributes.find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or(u32::from(route.header.table))
}

/// The routers that a route leads to, where it does, and the interfaces towards them.
fn hops(attributes: &[RouteAttribute]) -> impl Iterator<Item = (Option<IpAddr>, u32)> {
    let (router, interface) = next_hop(attributes);
    let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
    let several = attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let several = several
        .flatten()
        .filter(move |hop| !hop.flags.intersects(dead))
        .map(|hop| (next_hop(&hop.attributes).0, hop.interface_index));
    let single = interface.map(|index| (router, index));
    single.into_iter().chain(several)
}

fn next_hop(attributes: &[RouteAttribute]) -> (Option<IpAddr>, Option<u32>) {
    let (mut router, mut interface) = (None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => router = Some((*ip).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip))
            | RouteAttribute::Via(RouteVia::Inet6(ip)) => router = Some((*ip).into()),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    (router, interface)
}

fn source(attributes: &[RouteAttribute]) -> Option<Ipv4Addr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    })
}

/// The kernel's own order: the lowest metric, and the first of equal ones.
fn choose(routes: Vec<DefaultRoute>, except: u32) -> Option<DefaultRoute> {
    routes
        .into_iter()
        .filter(|route| route.interface != except)
        .min_by_key(|route| route.metric)
}

fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn error_number(refused: &rtnetlink::Error) -> Option<i32> {
    match refused {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

fn error(refused: rtnetlink::Error) -> io::Error {
    match error_number(&refused) {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::other(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);

    /// `default via GATEWAY dev INTERFACE metric METRIC`
    fn route(gateway: Ipv4Addr, interface: u32, metric: u32) -> RouteMessage {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(interface)
            .build();
        route.attributes.push(RouteAttribute::Priority(metric));
        route
    }

    fn chosen(routes: &[RouteMessage]) -> Option<Ipv4Addr> {
        let routes = routes.iter().filter_map(DefaultRoute::of).collect();
        choose(routes, 9).map(|route| route.gateway)
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_leads_to_the_router() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(
            chosen(&[route(LAN, 2, 600), route(OTHER, 3, 100)]),
            Some(OTHER)
        );
        assert_eq!(
            chosen(&[route(LAN, 2, 100), route(OTHER, 3, 100)]),
            Some(LAN)
        );
    }

    #[test]
    fn a_route_into_the_tunnel_or_out_of_use_is_passed_over() {
        let mut dead = route(OTHER, 3, 0);
        dead.header.flags = RouteFlags::Linkdown;
        let mut elsewhere = route(OTHER, 3, 0);
        elsewhere.header.table = 100;
        let mut narrow = route(OTHER, 3, 0);
        narrow.header.destination_prefix_length = 8;
        let mut without = route(OTHER, 3, 0);
        without
            .attributes
            .retain(|attribute| !matches!(attribute, RouteAttribute::Gateway(_)));
        let tunnel = route(OTHER, 9, 0);
        for other in [dead, elsewhere, narrow, without, tunnel] {
            assert_eq!(chosen(&[other, route(LAN, 2, 600)]), Some(LAN));
        }
    }
}
