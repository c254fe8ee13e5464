//! Addresses, routes and links, by netlink.

mod link;
mod route;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, IpVersion, LinkUnspec, MulticastGroup, RouteMessageBuilder};

pub use link::{Address, Link, LinkKind, LocalAddress};
pub use route::{
    Hop, MAIN_TABLE, OwnRoute, PROTOCOL, PolicyRule, REFUSAL_METRIC, Route, RouteSizes,
};

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
/// yields once for every change of links, addresses or routes, but for routes that we have set ourselves.
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
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ])?;
    // An overrun (ENOBUFS) is a change like any other: whoever hears of a change reads everything anew.
    let changes = messages.filter_map(|(message, _)| {
        let own = matches!(
            &message.payload,
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
                if route.header.protocol == RouteProtocol::from(PROTOCOL)
        );
        std::future::ready((!own).then_some(()))
    });
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

    /// Takes such an address back; one that is gone already is fine.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn remove_address(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(address)
            .execute();
        while let Some(message) = addresses.try_next().await.map_err(error)? {
            if message.header.index == index {
                let request = self.handle.address().del(message);
                request.execute().await.map_err(error)?;
            }
        }
        Ok(())
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn links(&self) -> io::Result<Vec<Link>> {
        let mut links = self.handle.link().get().execute();
        let mut found = Vec::new();
        while let Some(link) = links.try_next().await.map_err(error)? {
            found.push(Link::of(&link));
        }
        Ok(found)
    }

    /// The addresses of all interfaces.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn addresses(&self) -> io::Result<Vec<Address>> {
        let mut addresses = self.handle.address().get().execute();
        let mut found = Vec::new();
        while let Some(message) = addresses.try_next().await.map_err(error)? {
            found.extend(Address::of(&message));
        }
        Ok(found)
    }

    /// Hands out each route of every table, of both families.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn routes(&self, mut each: impl FnMut(Route)) -> io::Result<()> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for all in [v4, v6] {
            let mut routes = self.handle.route().get(all).execute();
            while let Some(route) = routes.try_next().await.map_err(error)? {
                if let Some(route) = Route::of(&route) {
                    each(route);
                }
            }
        }
        Ok(())
    }

    /// The policy rules of both families that lead to tables.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn rules(&self) -> io::Result<Vec<PolicyRule>> {
        let mut found = Vec::new();
        for family in [IpVersion::V4, IpVersion::V6] {
            let mut rules = self.handle.rule().get(family).execute();
            while let Some(rule) = rules.try_next().await.map_err(error)? {
                found.extend(PolicyRule::of(&rule));
            }
        }
        Ok(found)
    }

    /// The source address that the kernel would take.
    ///
    /// # Errors
    /// The kernel's refusal: nothing leads there.
    pub async fn source_towards(&self, to: Ipv4Addr) -> io::Result<Option<Ipv4Addr>> {
        let ask = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, 32)
            .build();
        let mut answers = self.handle.route().get(ask).execute();
        let answer = answers.try_next().await.map_err(error)?;
        // The kernel marks the answer to a question for one destination as cloned, so it is no route of a table.
        Ok(answer.and_then(|route| route::source(&route)))
    }

    /// Sets a route of ours to exactly this address. What others have set is not replaced.
    ///
    /// # Errors
    /// `AlreadyExists`, or another refusal of the kernel's.
    pub async fn add_route(&self, to: IpAddr, route: OwnRoute) -> io::Result<()> {
        let message = route::own_message(to, route)?;
        let request = self.handle.route().add(message);
        request.execute().await.map_err(error)
    }

    /// Sets a route of ours in place of the one that we have set to the same address and interface.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn replace_route(&self, to: IpAddr, route: OwnRoute) -> io::Result<()> {
        let message = route::own_message(to, route)?;
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(error)
    }

    /// Takes such a route back: the one into the interface of this index, or the one that refuses. One that is gone already is
    /// fine, and one of others' is not touched.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn remove_route(&self, to: IpAddr, into: Option<u32>) -> io::Result<()> {
        let message = route::removal(to, into);
        match self.handle.route().del(message).execute().await {
            Err(refused) if error_number(&refused) != Some(libc::ESRCH) => Err(error(refused)),
            _ => Ok(()),
        }
    }
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
