//! Netchecks of one network, from the first question to what is told of it.

use std::collections::HashSet;

use punch_stun_protocol::{Class, Writer};

use super::*;
use crate::SocketOrder;
use crate::start::start;

const SERVER: &str = "198.51.100.1:3478";

/// A network behind a NAT that gives every destination a mapping of its own, and so many of them.
struct Rig {
    network: LocalNetwork,
    sockets: Sockets,
    free: usize,
    /// The port of the mapping that is made as the so manyth.
    port: fn(usize) -> u16,
    samples: bool,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        let (mut network, now) = (
            LocalNetwork::new([1, 2], NatOverrides::default(), 0, false),
            start(),
        );
        network.handle_main_socket(SocketId::MAIN_V4, 4000, now);
        let own: IpAddr = [192, 168, 1, 2].into();
        network.handle_addresses(vec![own.into()], now);
        network.set_stun_servers(vec![SERVER.parse().unwrap()], now);
        Self {
            network,
            sockets: Sockets::default(),
            free: 1000,
            port: |made| 40_000 + 7 * made as u16,
            samples: true,
            now,
        }
    }

    /// Runs a netcheck to its end beside `held` mappings; returns the capacity that is known then.
    fn netcheck(&mut self, held: u32) -> Option<u32> {
        self.network.start_netcheck(&mut self.sockets, self.now);
        self.finish(held)
    }

    /// Lets the netcheck that is under way, or the next one, come to its end.
    fn finish(&mut self, held: u32) -> Option<u32> {
        let mut made = HashSet::new();
        for _ in 0..10_000 {
            self.network.handle_timeout(&mut self.sockets, self.now);
            let (mut transmits, mut events) = (VecDeque::new(), VecDeque::new());
            let finished = self
                .network
                .drain(&mut transmits, &mut events, held, self.now);
            let over =
                |event: &ConnectorEvent| matches!(event, ConnectorEvent::News(News::Netcheck(_)));
            if events.iter().any(over) {
                assert!(finished.is_some());
                return self.network.profile().unwrap().search.capacity;
            }
            let idle = transmits.is_empty() && events.is_empty();
            for event in events {
                if let ConnectorEvent::Socket(SocketOrder::Open { socket, .. }) = event {
                    let port = Some(5000 + socket.0 as u16);
                    self.network.handle_socket(socket, port, self.now);
                }
            }
            for transmit in transmits {
                self.answer(&transmit, &mut made);
            }
            if idle {
                self.now = self.network.poll_timeout().unwrap().max(self.now);
            }
        }
        panic!("the netcheck does not end");
    }

    fn answer(&mut self, transmit: &Transmit, made: &mut HashSet<(SocketId, SocketAddr)>) {
        let request = Message::parse(&transmit.bytes).unwrap();
        let flow = (transmit.socket, transmit.to);
        let is_old = transmit.socket == SocketId::MAIN_V4;
        let fits = is_old || made.contains(&flow) || made.len() < self.free;
        if !fits || transmit.ttl.is_some() || request.change.is_some() {
            return;
        }
        made.insert(flow);
        let port = (self.port)(made.len());
        let writer = Writer::new(Class::Success, request.transaction)
            .xor_mapped(SocketAddr::from(([203, 0, 113, 5], port)))
            .other("198.51.100.2:3479".parse().unwrap());
        let bytes = match self.samples {
            true => writer.sample_ports((3480, 3511)).finish(),
            false => writer.finish(),
        };
        let message = Message::parse(&bytes).unwrap();
        self.network
            .handle_response(transmit.socket, transmit.to, &message, self.now);
    }
}

#[test]
fn a_netcheck_that_gets_no_more_mappings_learns_them_with_those_that_were_held_before() {
    let mut rig = Rig::new();
    rig.free = 40;
    assert_eq!(rig.netcheck(0), rig.network.netchecks.found_capacity());
    let alone = rig.network.netchecks.found_capacity().unwrap();
    assert!((30..=50).contains(&alone), "{alone}");

    let together = rig.netcheck(300).unwrap();
    let found = rig.network.netchecks.found_capacity().unwrap();
    assert_eq!(together, found + 300);
    assert!((330..=350).contains(&together), "{together}");
}

#[test]
fn a_netcheck_that_gets_all_its_mappings_drops_a_capacity_that_is_smaller_than_they_are() {
    let mut rig = Rig::new();
    assert_eq!(rig.netcheck(0), None);
    rig.network.learn_capacity(0, rig.now);
    assert_eq!(rig.network.profile().unwrap().search.capacity, Some(0));
    assert_eq!(rig.netcheck(0), None);
    rig.network.learn_capacity(500, rig.now);
    assert_eq!(rig.netcheck(0), Some(500));
}
/// With the four endpoints of a server that has no more, ports at random may lie as close together as those of a block.
#[test]
fn a_netcheck_that_cannot_tell_the_allocation_is_repeated_three_times_and_then_given_up() {
    let mut rig = Rig::new();
    rig.samples = false;
    rig.port = |made| [40_000, 41_300, 40_700, 42_900][made % 4];
    rig.finish(0);
    for pause in [3, 30, 300] {
        let profile = rig.network.profile().unwrap();
        assert!(profile.is_partial() && rig.network.is_measured());
        let ended = rig.now;
        rig.finish(0);
        let took = rig.now - ended;
        let next = Duration::from_secs(pause);
        assert!(
            (next..next + Duration::from_secs(4)).contains(&took),
            "{took:?}"
        );
    }
    assert!(
        !rig.network
            .netchecks
            .is_due(rig.now + Duration::from_secs(86_400))
    );

    // One that tells it ends this.
    let mut rig = Rig::new();
    rig.samples = false;
    rig.port = |made| [40_000, 41_300, 40_700, 42_900][made % 4];
    rig.finish(0);
    rig.port = |made| [40_000, 1300, 60_700, 22_900][made % 4];
    rig.finish(0);
    assert!(!rig.network.profile().unwrap().is_partial());
    assert!(
        !rig.network
            .netchecks
            .is_due(rig.now + Duration::from_secs(86_400))
    );
}

#[test]
fn tcp_candidates_are_own_addresses_and_what_is_known_of_the_port_from_outside() {
    let mut rig = Rig::new();
    let seen = |at: &str| [at.parse().unwrap()].into_iter();
    let told = |network: &LocalNetwork, at| {
        let told = network.tcp_candidates(seen(at)).into_iter();
        let told = told.map(|candidate| (candidate.kind as u8, candidate.address.to_string()));
        told.collect::<Vec<_>>()
    };
    let passive = |at: &str| (5, at.to_owned());
    rig.network.set_tcp_port(Family::V4, 4001);
    assert_eq!(rig.network.tcp_samplers(), [SERVER.parse().unwrap()]);
    let other = (6, "203.0.113.5:7".to_owned());
    let own = passive("192.168.1.2:4001");
    assert_eq!(
        told(&rig.network, "203.0.113.5:7"),
        [own.clone(), other.clone()]
    );

    assert!(
        rig.network
            .set_tcp_mapping(Some("203.0.113.9:4002".parse().unwrap()))
    );
    assert!(
        !rig.network
            .set_tcp_mapping(Some("203.0.113.9:4002".parse().unwrap()))
    );
    let mapped = passive("203.0.113.9:4002");
    assert_eq!(
        told(&rig.network, "203.0.113.5:7"),
        [own.clone(), mapped.clone(), other]
    );
    // What is a candidate already is none of another kind.
    assert_eq!(
        told(&rig.network, "203.0.113.9:4002"),
        [own.clone(), mapped]
    );
    assert!(!rig.network.set_tcp_mapping(None));
    assert_eq!(told(&rig.network, "192.168.1.2:4001"), [own]);
}

#[test]
fn peers_are_told_that_the_nat_is_being_measured_from_the_first_moment() {
    let mut rig = Rig::new();
    let told = rig.network.told_profile(rig.now).unwrap();
    assert!(told.search.measuring && rig.network.profile().is_none());
    rig.finish(0);
    assert!(!rig.network.told_profile(rig.now).unwrap().search.measuring);

    // Without a server there is nothing to wait for.
    let mut rig = Rig::new();
    rig.network.set_stun_servers(Vec::new(), rig.now);
    assert_eq!(rig.network.told_profile(rig.now), None);
}

// --- nodes of the DHT ---

fn nodes() -> Vec<SocketAddr> {
    let texts = ["198.51.101.1:6881", "198.51.102.1:6881"];
    texts.map(|text| text.parse().unwrap()).to_vec()
}

/// How many datagrams go to nodes until a netcheck is over, if one comes.
fn pings(rig: &mut Rig) -> usize {
    let mut count = 0;
    for _ in 0..10_000 {
        rig.network.handle_timeout(&mut rig.sockets, rig.now);
        let (mut transmits, mut events) = (VecDeque::new(), VecDeque::new());
        rig.network.drain(&mut transmits, &mut events, 0, rig.now);
        count += transmits
            .iter()
            .filter(|transmit| nodes().contains(&transmit.to))
            .count();
        for event in events {
            match event {
                ConnectorEvent::Socket(SocketOrder::Open { socket, .. }) => {
                    let port = Some(5000 + socket.0 as u16);
                    rig.network.handle_socket(socket, port, rig.now);
                }
                ConnectorEvent::News(News::Netcheck(_)) => return count,
                _ => {}
            }
        }
        match rig.network.poll_timeout() {
            Some(at) => rig.now = at.max(rig.now),
            None => break,
        }
    }
    count
}

#[test]
fn nodes_are_asked_only_where_servers_are_too_few() {
    let mut rig = Rig::new();
    rig.network.set_nodes(nodes(), rig.now);
    assert_ne!(pings(&mut rig), 0, "there is one server");

    let mut rig = Rig::new();
    let servers = [SERVER, "198.51.100.7:3478"].map(|text| text.parse().unwrap());
    rig.network.set_stun_servers(servers.to_vec(), rig.now);
    rig.network.set_nodes(nodes(), rig.now);
    assert_eq!(pings(&mut rig), 0, "there are two");
    // Neither has answered.
    assert_ne!(pings(&mut rig), 0);
    rig.network.set_nodes(Vec::new(), rig.now);
    assert_eq!(pings(&mut rig), 0);

    let mut rig = Rig::new();
    let one_machine = [SERVER, "198.51.100.1:3479"].map(|text| text.parse().unwrap());
    rig.network.set_stun_servers(one_machine.to_vec(), rig.now);
    rig.network.set_nodes(nodes(), rig.now);
    assert_ne!(
        pings(&mut rig),
        0,
        "two ports of one machine are one server"
    );
}
