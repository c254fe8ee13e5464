//! Addresses, routes and links, by netlink.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::LinkFlags;
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};

/// Lets an interface of our own have IPv6 where the system's default is that new interfaces have none.
///
/// # Errors
/// Those of the file: no such interface, no IPv6 in the kernel, no permission.
pub fn enable_ipv6(name: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0")
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
    pub async fn addresses(&self, except: u32) -> io::Result<Vec<IpAddr>> {
        let mut up = BTreeSet::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(error)? {
            if link.header.flags.contains(LinkFlags::Up) && link.header.index != except {
                up.insert(link.header.index);
            }
        }
        let mut found = BTreeSet::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(error)? {
            if !up.contains(&message.header.index) {
                continue;
            }
            // Temporary IPv6 addresses (RFC 8981) come and go; an address that is still tentative cannot be used.
            let unusable =
                AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
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
            found.extend(local.filter(|ip| usable && !ip.is_loopback()));
        }
        Ok(found.into_iter().collect())
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
