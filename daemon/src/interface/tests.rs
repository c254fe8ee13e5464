//! The default route that leads to the router, and what each own address is worth.

use std::net::Ipv4Addr;

use punch_platform::netlink::Hop;

use super::*;

const LAN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);
const TUNNEL: u32 = 9;

/// `default via ROUTER dev LINK metric METRIC`
fn route(router: Ipv4Addr, link: u32, metric: u32) -> Route {
    Route {
        to: Ipv4Addr::UNSPECIFIED.into(),
        prefix: 0,
        table: MAIN_TABLE,
        protocol: 4,
        carries: true,
        local: false,
        metric,
        hops: vec![Hop {
            router: Some(router.into()),
            link,
            down: false,
        }],
        source: None,
    }
}

fn chosen(routes: &[Route]) -> Option<Ipv4Addr> {
    choose(routes, TUNNEL).map(|(router, _)| router)
}

#[test]
fn the_default_route_with_the_lowest_metric_leads_to_the_router() {
    assert_eq!(chosen(&[]), None);
    let routes = [route(LAN, 2, 600), route(OTHER, 3, 100)];
    assert_eq!(chosen(&routes), Some(OTHER));
    let routes = [route(LAN, 2, 100), route(OTHER, 3, 100)];
    assert_eq!(chosen(&routes), Some(LAN));
}

#[test]
fn a_default_route_into_the_tunnel_or_out_of_use_is_passed_over() {
    let mut without = route(OTHER, 3, 0);
    without.hops[0].router = None;
    let mut down = route(OTHER, 3, 0);
    down.hops[0].down = true;
    for other in [without, down, route(OTHER, TUNNEL, 0)] {
        assert_eq!(chosen(&[other, route(LAN, 2, 600)]), Some(LAN));
    }
}

#[test]
fn an_address_comes_with_its_links_kind_and_with_whether_the_default_route_leaves_there() {
    use punch_platform::netlink::LinkKind;
    let link = |index: u32, kind, up| Link {
        index,
        name: format!("if{index}"),
        kind,
        up,
        carrier: up,
        multicast: true,
        part: index == 5,
        mtu: 1500,
    };
    let address = |link: u32, ip: &str, usable| Address {
        link,
        ip: ip.parse().unwrap(),
        prefix: 24,
        other_end: None,
        usable,
    };
    let tables = Tables {
        links: vec![
            link(2, LinkKind::Physical, true),
            link(3, LinkKind::Bridge, true),
            link(4, LinkKind::Physical, false),
            link(5, LinkKind::Veth, true),
            link(TUNNEL, LinkKind::Tun, true),
        ],
        addresses: vec![
            address(2, "192.168.1.7", true),
            address(2, "2001:db8::7", true),
            address(2, "2001:db8::8", false),
            address(3, "172.17.0.1", true),
            address(4, "10.0.0.1", true),
            address(TUNNEL, "100.64.0.1", true),
        ],
        defaults: vec![route(LAN, 2, 100)],
        outward: [(2, true)].into(),
        there: OwnRoutes::default(),
        reach: Reach::default(),
        before_main: Vec::new(),
    };
    let right = [
        ("172.17.0.1", LinkKind::Bridge, false),
        ("192.168.1.7", LinkKind::Physical, true),
        ("2001:db8::7", LinkKind::Physical, false),
    ];
    let right = right.map(|(ip, kind, default_route)| LocalAddress {
        ip: ip.parse().unwrap(),
        kind,
        default_route,
        prefix: 24,
    });
    assert_eq!(local_addresses(&tables, TUNNEL), right);
    let links = links::lan(&tables, TUNNEL);
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(
        names,
        ["if2", "if3"],
        "neither tunnels nor parts of bridges"
    );
    let right: Vec<IpAddr> = ["192.168.1.7", "2001:db8::7"]
        .map(|ip| ip.parse().unwrap())
        .into();
    let found: Vec<_> = links[0].addresses.iter().map(|(ip, _)| *ip).collect();
    assert_eq!(found, right);
}

#[test]
fn a_host_of_many_containers_calls_its_peers_in_sixteen_networks() {
    let link = |index: u32| Link {
        index,
        name: format!("if{index}"),
        kind: match index {
            250 => LinkKind::Physical,
            _ => LinkKind::Bridge,
        },
        up: true,
        carrier: true,
        multicast: true,
        part: false,
        mtu: 1500,
    };
    let address = |index: u32| Address {
        link: index,
        ip: [172, 17, u8::try_from(index).unwrap(), 1].into(),
        prefix: 24,
        other_end: None,
        usable: index != 24,
    };
    let tables = Tables {
        links: (20..=250).rev().map(link).collect(),
        addresses: (20..=250).map(address).collect(),
        defaults: Vec::new(),
        outward: [].into(),
        there: OwnRoutes::default(),
        reach: Reach::default(),
        before_main: Vec::new(),
    };
    let links = links::lan(&tables, TUNNEL);
    let found: Vec<_> = links.iter().map(|link| link.index).collect();
    let right: Vec<_> = (20..24).chain(25..36).chain([250]).collect();
    assert_eq!(
        found, right,
        "the card, and the bridges that were there first"
    );
}
