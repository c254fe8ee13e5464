//! The networks that this machine shares with others, where one datagram can reach all of them.

use punch_engine::lan;
use punch_platform::netlink::{Link, LinkKind};

use super::Tables;

/// The networks with the addresses that this machine has there, but for the interface `except`.
pub(super) fn lan(tables: &Tables, except: u32) -> Vec<lan::Link> {
    let shared = |link: &&Link| link.index != except && is_shared(link);
    let links = tables.links.iter().filter(shared).map(|link| {
        let addresses = tables.addresses.iter();
        let own = addresses.filter(|own| own.link == link.index && own.usable);
        let mut addresses: Vec<_> = own.map(|own| (own.ip, own.prefix)).collect();
        addresses.sort_unstable();
        lan::Link {
            index: link.index,
            name: link.name.clone(),
            addresses,
        }
    });
    let mut links: Vec<_> = links.filter(|link| !link.addresses.is_empty()).collect();
    links.sort_unstable();
    links
}

/// Whether others are on it, and no tunnel carries it.
fn is_shared(link: &Link) -> bool {
    let kind = match link.kind {
        LinkKind::Physical | LinkKind::Bridge | LinkKind::Veth => true,
        LinkKind::PointToPoint
        | LinkKind::Tun
        | LinkKind::Wireguard
        | LinkKind::Tunnel
        | LinkKind::Other => false,
    };
    kind && link.up && link.carrier && link.multicast && !link.part
}
