//! The TUN interface: what is set at it, one thing at a time.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use punch_platform::netlink::{self, Link, Netlink, OwnRoute, REFUSAL_METRIC, Route, RouteSizes};

/// The transmit queue, in packets: a millisecond or two at full speed.
const QUEUE: u32 = 1000;

/// See the module.
pub(super) struct Device {
    pub(super) netlink: Netlink,
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
}

impl Device {
    /// Whether the interface is as it should be: up, with its MTU.
    pub(super) fn is_right(&self, link: &Link) -> bool {
        link.up && link.mtu == self.mtu
    }

    /// Sets MTU and queue, and brings the interface up.
    pub(super) async fn bring_up(&self) -> io::Result<()> {
        self.netlink.bring_up(self.index, self.mtu, QUEUE).await
    }

    /// Gives the interface an address. The kernel refuses one of IPv6 where IPv6 is switched off; addresses inside the tunnel
    /// concern nobody else, so it is switched on for this interface.
    pub(super) async fn add_address(&self, address: IpAddr) -> io::Result<()> {
        let added = self.netlink.add_address(self.index, address).await;
        match added {
            Err(_) if address.is_ipv6() => {
                netlink::enable_ipv6(&self.name)?;
                self.netlink.add_address(self.index, address).await
            }
            added => added,
        }
    }

    /// Takes an address back.
    pub(super) async fn remove_address(&self, address: IpAddr) -> io::Result<()> {
        self.netlink.remove_address(self.index, address).await
    }

    /// Leads packets for `to` into the tunnel, from the source address `from`; `mtu` is what the path takes, if that is known.
    pub(super) async fn lead(&self, to: IpAddr, from: IpAddr, mtu: Option<u16>) -> io::Result<()> {
        self.netlink.add_route(to, self.route(to, from, mtu)).await
    }

    /// Packets for `to`, which are led into the tunnel already, may be so long from now on.
    pub(super) async fn resize(&self, to: IpAddr, from: IpAddr, mtu: u16) -> io::Result<()> {
        let route = self.route(to, from, Some(mtu));
        self.netlink.replace_route(to, route).await
    }

    fn route(&self, to: IpAddr, from: IpAddr, mtu: Option<u16>) -> OwnRoute {
        OwnRoute::Into {
            index: self.index,
            from,
            sizes: mtu.map(|mtu| RouteSizes {
                // IPv6 sends nothing over a link that takes less.
                mtu: u32::from(mtu).max(if to.is_ipv6() { 1280 } else { 0 }),
                receives: self.mtu,
            }),
        }
    }

    /// Takes such a route back.
    pub(super) async fn lead_no_longer(&self, to: IpAddr) -> io::Result<()> {
        self.netlink.remove_route(to, Some(self.index)).await
    }

    /// Refuses packets for `to` whenever they are not led into the tunnel.
    pub(super) async fn refuse(&self, to: IpAddr) -> io::Result<()> {
        self.netlink.add_route(to, OwnRoute::Refusal).await
    }

    /// Takes that back.
    pub(super) async fn refuse_no_longer(&self, to: IpAddr) -> io::Result<()> {
        self.netlink.remove_route(to, None).await
    }
}

/// The routes of ours that the kernel has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OwnRoutes {
    /// The addresses that are led into the tunnel.
    pub(super) leading: BTreeSet<IpAddr>,
    /// The addresses that are refused otherwise.
    pub(super) refused: BTreeSet<IpAddr>,
}

impl OwnRoutes {
    /// Takes note of a route, if it is one of ours.
    pub(super) fn add(&mut self, route: &Route, index: u32) {
        if !route.is_ours() || !route.is_whole() {
            return;
        }
        if route.carries && matches!(route.hops[..], [hop] if hop.link == index) {
            self.leading.insert(route.to);
        } else if !route.carries && route.metric == REFUSAL_METRIC {
            self.refused.insert(route.to);
        }
    }
}
