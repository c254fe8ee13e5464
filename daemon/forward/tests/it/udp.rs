//! Forwarded datagrams.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_api::Protocol;
use punch_forward::{IDLE, Order, Refused, Rules, Stack, StreamId, TargetEvent};
use punch_packet::{Packet, Transport};

use crate::packets::{addr, icmp_error, udp};
use crate::{OTHER_PEER, PEER, counts, here, key, ms, noise, origin, rule, rules, secs};

const MTU: usize = 1280;
const CLIENT: &str = "100.64.0.2:40000";
const SERVER: &str = "100.64.0.1:53";
const CLIENT_V6: &str = "[fd70:756e:6368::2]:40000";
const SERVER_V6: &str = "[fd70:756e:6368::1]:53";

struct Flows {
    stack: Stack,
    rules: Rules,
    now: Instant,
}

impl Flows {
    fn new() -> Self {
        Self {
            stack: Stack::new(MTU, 1),
            rules: rules(),
            now: origin(),
        }
    }

    fn send(&mut self, from: &str, to: &str, payload: &[u8]) -> Result<(), Refused> {
        self.take(&udp(addr(from), addr(to), payload))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let packet = Packet::parse(bytes).unwrap();
        self.stack
            .handle_packet(PEER, &packet, &self.rules, self.now)
    }

    /// A flow whose first datagram was taken.
    fn open(&mut self) -> StreamId {
        self.send(CLIENT, SERVER, b"question").unwrap();
        match self.orders()[..] {
            [Order::Connect { stream, .. }, Order::Datagram(of, _)] if of == stream => stream,
            ref other => panic!("{other:?}"),
        }
    }

    fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.stack.poll_order()).collect()
    }

    fn packets(&mut self) -> Vec<Vec<u8>> {
        let packets = std::iter::from_fn(|| self.stack.poll_packet());
        packets
            .map(|(peer, packet)| {
                assert_eq!(peer, PEER);
                packet
            })
            .collect()
    }

    /// Lets time pass as an owner does who calls whenever it is asked to.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..1000 {
            let Some(at) = self.stack.poll_timeout().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = at;
            self.stack.handle_timeout(here, at);
            assert!(self.stack.poll_timeout().is_none_or(|next| next > at));
        }
        panic!("a busy loop");
    }
}

fn read(packet: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let packet = Packet::parse(packet).unwrap();
    assert!(packet.checksum_is_right());
    let flow = packet.flow().unwrap();
    (
        flow.source,
        flow.destination,
        packet.udp_payload().unwrap().to_vec(),
    )
}

#[test]
fn a_datagram_opens_a_flow_and_goes_to_its_target() {
    let mut flows = Flows::new();

    flows.send(CLIENT, SERVER, b"question").unwrap();

    let orders = flows.orders();
    let Order::Connect {
        stream,
        protocol,
        ref target,
        peer,
        forward,
        ..
    } = orders[0]
    else {
        panic!()
    };
    assert_eq!(
        (protocol, target.to_string().as_str()),
        (Protocol::Udp, "127.0.0.1:5353")
    );
    assert_eq!((peer, forward), (PEER, key(Protocol::Udp, "53")));
    assert_eq!(
        orders[1..],
        [Order::Datagram(stream, Bytes::from_static(b"question"))]
    );
    assert_eq!(flows.packets().len(), 0);
}

#[test]
fn the_answer_comes_from_where_the_question_went() {
    for (client, server) in [(CLIENT, SERVER), (CLIENT_V6, SERVER_V6)] {
        let mut flows = Flows::new();
        flows.send(client, server, b"question").unwrap();
        let Order::Connect { stream, .. } = flows.orders()[0] else {
            panic!()
        };

        flows.stack.write_datagram(stream, b"answer", flows.now);

        let sent = flows.packets();
        assert_eq!(sent.len(), 1);
        assert_eq!(
            read(&sent[0]),
            (addr(server), addr(client), b"answer".to_vec())
        );
    }
}

#[test]
fn datagrams_of_one_flow_share_its_target_socket_and_other_ports_have_their_own() {
    let mut flows = Flows::new();
    let stream = flows.open();

    flows.send(CLIENT, SERVER, b"two").unwrap();
    assert_eq!(
        flows.orders(),
        [Order::Datagram(stream, Bytes::from_static(b"two"))]
    );

    flows.send("100.64.0.2:40001", SERVER, b"three").unwrap();
    assert!(
        matches!(flows.orders()[..], [Order::Connect { stream: other, .. }, _] if other != stream)
    );
    assert_eq!(counts(&flows.stack, key(Protocol::Udp, "53")), (2, 2));
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    let mut flows = Flows::new();
    let stream = flows.open();

    flows.send(CLIENT, SERVER, b"").unwrap();
    flows.stack.write_datagram(stream, b"", flows.now);

    assert_eq!(flows.orders(), [Order::Datagram(stream, Bytes::new())]);
    assert_eq!(read(&flows.packets()[0]).2, b"");
}

#[test]
fn a_port_of_a_range_leads_to_its_counterpart() {
    let mut flows = Flows::new();
    flows.send(CLIENT, "100.64.0.1:27010", b"x").unwrap();
    let Order::Connect { ref target, .. } = flows.orders()[0] else {
        panic!()
    };
    assert_eq!(target.to_string(), "10.0.0.7:28010");
}

#[test]
fn a_target_whose_port_would_run_past_the_end_is_no_forward() {
    let mut flows = Flows::new();
    flows.rules = Rules::new([rule(Protocol::Udp, "53-60", "127.0.0.1:65530")]);
    assert_eq!(flows.send(CLIENT, "100.64.0.1:58", b"x"), Ok(()));
    assert_eq!(
        flows.send(CLIENT, "100.64.0.1:59", b"x"),
        Err(Refused::NoForward)
    );
    assert_eq!(counts(&flows.stack, key(Protocol::Udp, "53-60")), (1, 1));
}

#[test]
fn a_long_answer_comes_whole_for_whoever_knows_what_fits_on_the_way() {
    for (client, server) in [(CLIENT, SERVER), (CLIENT_V6, SERVER_V6)] {
        let mut flows = Flows::new();
        flows.send(client, server, b"question").unwrap();
        let Order::Connect { stream, .. } = flows.orders()[0] else {
            panic!()
        };
        let answer = noise(20_000, 1);

        flows.stack.write_datagram(stream, &answer, flows.now);

        let sent = flows.packets();
        assert_eq!(sent.len(), 1);
        assert_eq!(read(&sent[0]), (addr(server), addr(client), answer));
    }
}

#[test]
fn the_longest_datagrams_pass_and_longer_ones_are_dropped() {
    let mut flows = Flows::new();
    let stream = flows.open();

    flows.stack.write_datagram(stream, &[0; 65_508], flows.now);
    assert_eq!(flows.packets().len(), 0);
    flows.stack.write_datagram(stream, &[0; 65_507], flows.now);
    assert_eq!(flows.packets().len(), 1);
    let longest = udp(addr(CLIENT), addr(SERVER), &[1; 65_507]);
    assert_eq!(flows.take(&longest), Ok(()));
}

#[test]
fn a_flow_without_traffic_ends() {
    let mut flows = Flows::new();
    let stream = flows.open();
    assert_eq!(flows.stack.poll_timeout(), Some(origin() + IDLE));

    flows.pass(IDLE - ms(1));
    assert_eq!(flows.orders(), []);
    flows.pass(ms(1));

    assert_eq!(flows.orders(), [Order::Close(stream)]);
    assert_eq!(counts(&flows.stack, key(Protocol::Udp, "53")), (0, 1));
    assert_eq!(flows.stack.poll_timeout(), None);
}

#[test]
fn traffic_in_either_direction_keeps_a_flow() {
    let mut flows = Flows::new();
    let stream = flows.open();
    for round in 0..10 {
        flows.pass(IDLE - secs(1));
        if round % 2 == 0 {
            flows.send(CLIENT, SERVER, b"x").unwrap();
        } else {
            flows.stack.write_datagram(stream, b"x", flows.now);
        }
    }
    assert!(!flows.orders().contains(&Order::Close(stream)));

    flows.pass(IDLE);
    assert_eq!(flows.orders(), [Order::Close(stream)]);
}

#[test]
fn after_its_end_a_flow_opens_anew() {
    let mut flows = Flows::new();
    let first = flows.open();
    flows.pass(IDLE);
    assert_eq!(flows.orders(), [Order::Close(first)]);

    flows.stack.write_datagram(first, b"too late", flows.now);
    assert_eq!(flows.packets().len(), 0);

    assert_ne!(flows.open(), first);
}

#[test]
fn where_the_target_refuses_the_client_is_told_by_an_icmp_error_about_its_flow() {
    for (client, server, error) in [(CLIENT, SERVER, (3, 3)), (CLIENT_V6, SERVER_V6, (1, 4))] {
        let mut flows = Flows::new();
        flows.send(client, server, b"question").unwrap();
        let Order::Connect { stream, .. } = flows.orders()[0] else {
            panic!()
        };

        flows
            .stack
            .handle_target(stream, TargetEvent::Refused, flows.now);

        let sent = flows.packets();
        assert_eq!(sent.len(), 1);
        assert_eq!(icmp_error(&sent[0]), Some(error));
        let packet = Packet::parse(&sent[0]).unwrap();
        assert!(packet.checksum_is_right());
        assert_eq!(
            (packet.source(), packet.destination()),
            (addr(server).ip(), addr(client).ip())
        );
        let quoted = packet.quoted_flow().unwrap();
        assert_eq!(
            (quoted.source, quoted.destination),
            (addr(client), addr(server))
        );
        assert_eq!(
            flows.orders(),
            [],
            "the flow goes on: something may listen there later"
        );
        flows.send(client, server, b"again").unwrap();
        assert_eq!(
            flows.orders(),
            [Order::Datagram(stream, Bytes::from_static(b"again"))]
        );
    }
}

#[test]
fn where_the_target_cannot_be_reached_the_flow_ends_with_an_icmp_error() {
    let mut flows = Flows::new();
    let stream = flows.open();

    flows
        .stack
        .handle_target(stream, TargetEvent::Unreachable, flows.now);

    assert_eq!(icmp_error(&flows.packets()[0]), Some((3, 1)));
    assert_eq!(flows.orders(), [Order::Close(stream)]);
    assert_eq!(flows.stack.poll_timeout(), None);
}

#[test]
fn what_only_streams_have_does_not_concern_a_flow() {
    let mut flows = Flows::new();
    let stream = flows.open();

    flows
        .stack
        .handle_target(stream, TargetEvent::Connected, flows.now);
    flows
        .stack
        .handle_target(stream, TargetEvent::Finished, flows.now);
    assert_eq!((flows.orders(), flows.packets().len()), (vec![], 0));
    assert_eq!(flows.stack.read(stream, 10), "");

    flows
        .stack
        .handle_target(stream, TargetEvent::Reset, flows.now);
    assert_eq!(flows.orders(), [Order::Close(stream)]);
}

#[test]
fn a_port_without_a_forward_or_one_for_others_is_refused() {
    let mut flows = Flows::new();
    let mut private = rule(Protocol::Udp, "99", "x:1");
    private.access = punch_forward::Access::Peers([OTHER_PEER].into());
    flows.rules = Rules::new([private, rule(Protocol::Tcp, "53", "x:1")]);
    assert_eq!(
        flows.send(CLIENT, "100.64.0.1:99", b"x"),
        Err(Refused::NoForward)
    );
    assert_eq!(flows.send(CLIENT, SERVER, b"x"), Err(Refused::NoForward));
    assert_eq!(flows.orders(), []);
}

#[test]
fn when_a_rule_goes_its_flows_end_and_their_datagrams_are_refused() {
    let mut flows = Flows::new();
    let stream = flows.open();
    flows.rules = Rules::default();

    flows.stack.retain(|_, _, _| false, flows.now);

    assert_eq!(flows.orders(), [Order::Reset(stream)]);
    assert_eq!(flows.packets().len(), 0);
    assert_eq!(flows.stack.poll_timeout(), None);
    assert_eq!(flows.send(CLIENT, SERVER, b"x"), Err(Refused::NoForward));
}

#[test]
fn a_damaged_datagram_is_malformed() {
    let mut flows = Flows::new();
    let mut damaged = udp(addr(CLIENT), addr(SERVER), b"question");
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(flows.take(&damaged), Err(Refused::Malformed));

    let mut short = udp(addr(CLIENT), addr(SERVER), b"question");
    short[24..26].copy_from_slice(&4_u16.to_be_bytes());
    assert_eq!(flows.take(&short), Err(Refused::Malformed));

    let mut without = udp(addr(CLIENT_V6), addr(SERVER_V6), b"question");
    without[46..48].fill(0);
    assert_eq!(
        flows.take(&without),
        Err(Refused::Malformed),
        "IPv6 needs a checksum"
    );
    assert_eq!(flows.orders(), []);
}

#[test]
fn over_ipv4_a_datagram_may_have_no_checksum() {
    let mut flows = Flows::new();
    let mut without = udp(addr(CLIENT), addr(SERVER), b"question");
    without[26..28].fill(0);
    assert_eq!(flows.take(&without), Ok(()));
    assert_eq!(flows.orders().len(), 2);
}

#[test]
fn what_is_neither_tcp_nor_udp_has_no_forward() {
    let mut flows = Flows::new();
    let echo = punch_packet::echo_request(addr(CLIENT).ip(), addr(SERVER).ip(), 1).unwrap();
    assert!(matches!(
        Packet::parse(&echo).unwrap().transport(),
        Transport::Echo { .. }
    ));
    assert_eq!(flows.take(&echo), Err(Refused::NoForward));
}
