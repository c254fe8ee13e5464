//! Mappings of a NAT in virtual time.

use super::super::{DEFAULT_TIMEOUT, EIM, Filtering, Mapping};
use super::*;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const HOST: &str = "192.168.1.2:5000";
const OTHER_HOST: &str = "192.168.1.3:5000";
const PEER: &str = "198.51.100.1:40";
const OTHERS: [&str; 2] = ["198.51.100.1:41", "198.51.100.2:40"];
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// A NAT with its own clock and dice.
struct OneNat(Nat, Instant, ChaCha8Rng);

impl OneNat {
    fn new(spec: NatSpec) -> Self {
        Self(Nat::new(spec), Instant::now(), ChaCha8Rng::seed_from_u64(1))
    }

    fn hard(allocation: Allocation) -> Self {
        Self::new(NatSpec::symmetric(allocation, PUBLIC))
    }

    fn out(&mut self, src: &str, dst: &str) -> Option<SocketAddr> {
        let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
        self.0.outbound(self.1, src, dst, &mut self.2)
    }

    fn back(&mut self, from: &str, to: SocketAddr) -> Option<String> {
        let inside = self.0.inbound(self.1, from.parse().unwrap(), to);
        inside.map(|inside| inside.to_string())
    }

    fn ports(&mut self, count: u16) -> Vec<u16> {
        let port = |n| self.out(HOST, &format!("192.0.2.9:{n}")).unwrap().port();
        (1..=count).map(port).collect()
    }
}

#[test]
fn mappings_are_shared_and_filters_admit_as_far_as_their_behaviour_says() {
    use {Filtering as F, Mapping as M};
    for (mapping, filtering, reach) in [
        (EIM, F::EndpointIndependent, 2),
        (M::AddressDependent, F::AddressDependent, 1),
        (M::AddressAndPortDependent, F::AddressAndPortDependent, 0),
    ] {
        let mut nat = OneNat::new(NatSpec::new(mapping, F::EndpointIndependent, PUBLIC));
        let mapped = nat.out(HOST, PEER);
        let shared = OTHERS.map(|peer| nat.out(HOST, peer) == mapped);
        assert_eq!(shared, [reach > 0, reach > 1]);

        let mut nat = OneNat::new(NatSpec::new(EIM, filtering, PUBLIC));
        let mapped = nat.out(HOST, PEER).unwrap();
        assert_eq!(nat.back(PEER, mapped), Some(HOST.into()));
        let admitted = OTHERS.map(|peer| nat.back(peer, mapped).is_some());
        assert_eq!(admitted, [reach > 0, reach > 1]);
    }
}

#[test]
fn a_preserving_nat_keeps_the_port_unless_it_is_taken() {
    let mut nat = OneNat::new(NatSpec::port_restricted(PUBLIC));
    assert_eq!(nat.out(HOST, PEER).unwrap().port(), 5000);
    assert_ne!(nat.out(OTHER_HOST, PEER).unwrap().port(), 5000);
    assert_ne!(OneNat::hard(Allocation::Preserving).ports(2), [5000, 5000]);
}

#[test]
fn sequential_ports_go_up_or_down_by_the_step_and_wrap_around() {
    let mut up = OneNat::hard(Allocation::Sequential { step: 2 });
    assert!(up.ports(9).is_sorted_by(|a, b| *b == a + 2));
    up.0.last_port = Some(HIGH - 1);
    assert_eq!(up.out(HOST, PEER).unwrap().port(), LOW);
    let mut down = OneNat::hard(Allocation::Sequential { step: u16::MAX });
    assert!(down.ports(9).is_sorted_by(|a, b| *b == a - 1));
}

#[test]
fn random_ports_fill_the_block_and_are_shared_between_destinations() {
    let (low, high) = (7000, 7001);
    let mut block = OneNat::hard(Allocation::RandomIn { low, high });
    assert_eq!(BTreeSet::from_iter(block.ports(40)), [low, high].into());
    assert_ne!(block.out(HOST, PEER), block.out(OTHER_HOST, PEER));
    assert_eq!(block.out("192.168.1.4:1", PEER), None);
    let ports = OneNat::hard(Allocation::Random).ports(2000);
    assert!(ports.iter().all(|port| *port >= LOW) && ports.iter().any(|port| *port > 60_000));
}

#[test]
fn only_outbound_packets_keep_a_mapping_and_its_permissions_alive() {
    let mut nat = OneNat::new(NatSpec::port_restricted(PUBLIC));
    let mapped = nat.out(HOST, PEER).unwrap();
    nat.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
    assert!(nat.back(PEER, mapped).is_some());
    assert_eq!(nat.out(HOST, OTHERS[1]), Some(mapped));
    nat.1 += Duration::from_secs(1);
    assert_eq!(nat.back(PEER, mapped), None);
    assert!(nat.back(OTHERS[1], mapped).is_some());
    nat.1 += DEFAULT_TIMEOUT;
    assert_eq!(nat.0.mappings(nat.1), 0);
    assert_eq!(nat.back(PEER, mapped), None);
}

#[test]
fn a_full_table_refuses_new_mappings_until_old_ones_expire() {
    let mut nat = OneNat::hard(Allocation::Random);
    nat.0.spec.capacity = 2;
    nat.ports(2);
    assert_eq!(nat.out(HOST, PEER), None);
    nat.1 += DEFAULT_TIMEOUT;
    assert!(nat.out(HOST, PEER).is_some());
}

#[test]
fn each_inside_address_sticks_to_one_public_address_of_its_family() {
    let mut nat = OneNat::hard(Allocation::Random);
    nat.0.spec.public.push([203, 0, 113, 2].into());
    let first = nat.out(HOST, PEER).unwrap().ip();
    assert_ne!(nat.out(OTHER_HOST, PEER).unwrap().ip(), first);
    assert_eq!(nat.out(HOST, OTHERS[1]).unwrap().ip(), first);
    assert_eq!(nat.out("[fd00::1]:1", "[fd00::2]:1"), None);
}

#[test]
fn arbitrary_pooling_draws_an_address_for_each_mapping() {
    let pool: Vec<IpAddr> = (1..=4).map(|n| [203, 0, 113, n].into()).collect();
    for (mapping, addresses) in [(EIM, 1), (Mapping::AddressAndPortDependent, 4)] {
        let mut nat = OneNat::new(NatSpec::new(
            mapping,
            Filtering::AddressAndPortDependent,
            PUBLIC,
        ));
        nat.0.spec.public.clone_from(&pool);
        nat.0.spec.pooling = Pooling::Arbitrary;
        let one_socket = (1..=40).map(|n| nat.out(HOST, &format!("192.0.2.9:{n}")).unwrap());
        let seen = one_socket.map(|public| public.ip());
        assert_eq!(BTreeSet::from_iter(seen).len(), addresses);
        let sockets = (1..=40).map(|n| nat.out(&format!("192.168.1.2:{n}"), PEER).unwrap());
        let seen = sockets.map(|public| public.ip());
        assert_eq!(BTreeSet::from_iter(seen).len(), 4);
        assert_eq!(nat.out("[fd00::1]:1", "[fd00::2]:1"), None);
    }
}

#[test]
fn linux_keeps_the_port_to_every_destination_that_no_other_host_talks_to() {
    let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
    assert!(nat.ports(40).iter().all(|port| *port == 5000));
    assert_eq!(nat.0.mappings(nat.1), 40);
    assert_eq!(nat.out(HOST, PEER).unwrap().port(), 5000);
    assert_ne!(nat.out(OTHER_HOST, PEER).unwrap().port(), 5000);
    assert_eq!(nat.out(OTHER_HOST, OTHERS[0]).unwrap().port(), 5000);
}

#[test]
fn an_unsolicited_packet_takes_the_port_towards_its_sender_for_a_while() {
    let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
    nat.0.spec.keeps_unsolicited = true;
    let public = SocketAddr::new(PUBLIC, 5000);
    assert_eq!(nat.back(PEER, public), None);
    assert_ne!(nat.out(HOST, PEER).unwrap().port(), 5000);
    assert_eq!(nat.back(PEER, public), None);
    let unharmed = OTHERS.map(|peer| nat.out(HOST, peer).unwrap().port());
    assert_eq!(unharmed, [5000; 2]);

    nat.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
    assert_eq!(nat.back(PEER, public), None);
    nat.1 += DEFAULT_TIMEOUT - Duration::from_secs(1);
    assert_ne!(nat.out(HOST, PEER).unwrap().port(), 5000);
    nat.1 += DEFAULT_TIMEOUT;
    assert_eq!(nat.out(HOST, PEER).unwrap().port(), 5000);

    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 5000));
    nat.back(OTHERS[0], elsewhere);
    assert!(nat.0.unsolicited.is_empty());
}

#[test]
fn who_sends_first_keeps_the_port_even_where_unsolicited_packets_are_kept() {
    let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
    nat.0.spec.keeps_unsolicited = true;
    let mapped = nat.out(HOST, PEER).unwrap();
    assert_eq!(mapped.port(), 5000);
    assert_eq!(nat.back(PEER, mapped), Some(HOST.into()));
    assert!(nat.0.unsolicited.is_empty());
}

#[test]
fn unsolicited_entries_fill_the_table_too() {
    let mut nat = OneNat::new(NatSpec::linux(PUBLIC));
    (nat.0.spec.keeps_unsolicited, nat.0.spec.capacity) = (true, 2);
    for peer in [PEER, OTHERS[0], OTHERS[1]] {
        assert_eq!(nat.back(peer, SocketAddr::new(PUBLIC, 1)), None);
    }
    assert_eq!(nat.0.unsolicited.len(), 2);
    assert_eq!(nat.out(HOST, PEER), None);
    nat.1 += DEFAULT_TIMEOUT;
    assert!(nat.out(HOST, PEER).is_some());
}

#[test]
fn other_hosts_consume_ports_and_room_but_are_not_counted_as_ours() {
    let mut nat = OneNat::hard(Allocation::Sequential { step: 1 });
    nat.0.spec.others = 20.0;
    let first = nat.ports(1)[0];
    nat.0.last_port = Some(LOW);
    nat.1 += Duration::from_secs(100);
    let gap = nat.ports(2)[1] - LOW;
    assert!((1800..2200).contains(&gap), "{gap} from {first}");
    assert_eq!(nat.0.peak(), 2);
    let alive = nat.0.mappings(nat.1);
    assert!((1800..2200).contains(&alive), "{alive}");

    nat.1 += Duration::from_secs(3600);
    assert!(nat.out(HOST, PEER).is_some());
    let alive = nat.0.mappings(nat.1);
    assert!(
        (2200..2600).contains(&alive),
        "{alive} in {DEFAULT_TIMEOUT:?}"
    );

    nat.0.spec.capacity = 10;
    nat.1 += Duration::from_secs(3600);
    assert_eq!(nat.out(HOST, PEER), None);
}

#[test]
fn short_endpoints_differ_wherever_endpoints_do() {
    let texts = [
        "0.0.0.0:0",
        "0.0.0.0:1",
        "0.0.1.0:0",
        "255.255.255.255:65535",
        "[::]:0",
        "[::1]:0",
        "[::1]:1",
        "[2001:db8::1]:1",
        "[2001:db8::2]:1",
        "[2001:db8:0:1::1]:1",
    ];
    let endpoints = texts.map(|text| short(text.parse().unwrap()));
    assert_eq!(BTreeSet::from(endpoints).len(), texts.len());
}

#[test]
fn a_firewall_translates_nothing_and_admits_only_answers() {
    let mut nat = OneNat::new(NatSpec::firewall(DEFAULT_TIMEOUT));
    let mapped = nat.out(HOST, PEER).unwrap();
    assert_eq!(mapped.to_string(), HOST);
    assert_eq!(nat.back(PEER, mapped), Some(HOST.into()));
    assert_eq!(nat.back(OTHERS[0], mapped), None);
}

#[test]
fn an_exclusive_port_is_given_once_and_a_full_block_drops_what_is_new() {
    for ports in [256, 512, 1024, 2048] {
        let mut nat = OneNat::new(NatSpec::exclusive_block(4096, ports, PUBLIC));
        let given = BTreeSet::from_iter(nat.ports(ports));
        let (first, last) = (given.first().copied(), given.last().copied());
        assert_eq!(given.len(), usize::from(ports), "no port twice");
        assert_eq!((first, last), (Some(4096), Some(4095 + ports)));

        // Other destinations, sockets and hosts find no room; what lives goes on living.
        assert_eq!(nat.out(HOST, PEER), None);
        assert_eq!(nat.out(OTHER_HOST, "192.0.2.9:1"), None);
        nat.1 += DEFAULT_TIMEOUT / 2;
        let kept = nat.out(HOST, "192.0.2.9:1").unwrap();
        assert_eq!(nat.back("192.0.2.9:1", kept), Some(HOST.into()));
        assert_eq!(nat.back("192.0.2.9:2", kept), None);

        // The rest expires, and with it the block is free but for one port.
        nat.1 += DEFAULT_TIMEOUT / 2;
        assert_eq!(nat.0.mappings(nat.1), 1);
        let fresh = nat.out(HOST, PEER).unwrap();
        assert!((4096..4096 + ports).contains(&fresh.port()) && fresh != kept);
    }
    let top = NatSpec::exclusive_block(65_000, 1024, PUBLIC).allocation;
    let (low, high) = (65_000, 65_535);
    assert_eq!(top, Allocation::RandomIn { low, high });
}

#[test]
fn a_limit_per_host_holds_for_each_inside_address_and_counts_destinations() {
    for (spec, limit) in [
        (NatSpec::linux(PUBLIC), 400),
        (NatSpec::symmetric(Allocation::Random, PUBLIC), 1000),
    ] {
        let mut nat = OneNat::new(NatSpec {
            host_limit: limit,
            ..spec
        });
        // One socket: only destinations multiply. Another one of the same host finds no room either.
        assert_eq!(nat.ports(limit as u16).len(), limit);
        assert_eq!(nat.out(HOST, PEER), None);
        assert_eq!(nat.out("192.168.1.2:5001", PEER), None);
        let other = nat.out(OTHER_HOST, PEER).unwrap();
        assert_eq!(nat.back(PEER, other), Some(OTHER_HOST.into()));
        assert!(nat.out(HOST, "192.0.2.9:1").is_some(), "a known one");

        nat.1 += DEFAULT_TIMEOUT;
        assert!(nat.out(HOST, PEER).is_some());
        assert_eq!(nat.0.mappings(nat.1), 1);
    }
    // Without dependence on the destination, one socket is one entry.
    let mut easy = OneNat::new(NatSpec {
        host_limit: 1,
        ..NatSpec::port_restricted(PUBLIC)
    });
    assert!(easy.out(HOST, PEER).is_some() && easy.out(HOST, OTHERS[0]).is_some());
    assert_eq!(easy.out("192.168.1.2:5001", PEER), None);
}
