//! The networks that this machine shares with others, where one datagram can reach all of them.

use punch_engine::lan;
use punch_platform::netlink::{Link, LinkKind};

use super::Tables;

/// Networks in which peers are called. A host of containers may have hundreds of bridges, and each call goes out on each; a socket may be in 20
/// groups only, unless `net.ipv4.igmp_max_memberships` says otherwise.
const MAX_LINKS: usize = 16;

/// The networks with the addresses that this machine has there, but for the interface `except`: at most 16, network cards first, and then those
/// that were there first.
pub(super) fn lan(tables: &Tables, except: u32) -> Vec<lan::Link> {
    let shared = |link: &&Link| link.index != except && is_shared(link);
    let mut shared: Vec<_> = tables.links.iter().filter(shared).collect();
    shared.sort_unstable_by_key(|link| (link.kind != LinkKind::Physical, link.index));
    let links = shared.into_iter().map(|link| {
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
    let with_addresses = links.filter(|link| !link.addresses.is_empty());
    let mut links: Vec<_> = with_addresses.take(MAX_LINKS).collect();
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
