//! Nothing is unbounded.

use std::net::SocketAddr;

use punch_api::Protocol;
use punch_forward::{
    IDLE, MAX_FLOWS, MAX_FLOWS_PER_PEER, MAX_STREAMS, MAX_STREAMS_PER_PEER, Order, Refused, Rules,
    Stack, StreamId, TargetEvent,
};
use punch_packet::{Packet, PeerHandle};

use crate::packets::{ACK, RST, SYN, addr, flags, tcp, udp};
use crate::{OTHER_PEER, PEER, key, ms, origin, rules, secs};

struct Table {
    stack: Stack,
    rules: Rules,
}

impl Table {
    fn new() -> Self {
        Self {
            stack: Stack::new(1280, 1),
            rules: rules(),
        }
    }

    fn take(&mut self, peer: PeerHandle, bytes: &[u8], after: u64) -> Result<(), Refused> {
        let packet = Packet::parse(bytes).unwrap();
        self.stack
            .handle_packet(peer, &packet, &self.rules, origin() + ms(after))
    }

    fn syn(&mut self, peer: PeerHandle, n: usize, after: u64) -> Result<(), Refused> {
        self.take(
            peer,
            &tcp(client(n), addr("100.64.0.1:5432"), SYN, 1, 0),
            after,
        )
    }

    fn datagram(&mut self, peer: PeerHandle, n: usize, after: u64) -> Result<(), Refused> {
        self.take(peer, &udp(client(n), addr("100.64.0.1:53"), b"?"), after)
    }

    fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.stack.poll_order()).collect()
    }

    fn open(&self, protocol: Protocol, ports: &str) -> u64 {
        self.stack.counts(key(protocol, ports)).0
    }
}

fn client(n: usize) -> SocketAddr {
    SocketAddr::new([100, 64, 0, 2].into(), 1000 + u16::try_from(n).unwrap())
}

#[test]
fn one_peer_can_fill_its_share_of_connections_and_no_more() {
    let mut table = Table::new();
    for n in 0..MAX_STREAMS_PER_PEER {
        assert_eq!(table.syn(PEER, n, 0), Ok(()), "{n}");
    }

    assert_eq!(table.syn(PEER, 5000, 0), Err(Refused::Full));

    assert_eq!(
        table.open(Protocol::Tcp, "5432"),
        MAX_STREAMS_PER_PEER as u64
    );
    assert_eq!(
        table.syn(OTHER_PEER, 5000, 0),
        Ok(()),
        "another peer has its own share"
    );
    assert_eq!(
        table.datagram(PEER, 5000, 0),
        Ok(()),
        "datagrams have their own"
    );
    let retry = table.syn(PEER, 7, 0);
    assert_eq!(retry, Ok(()), "a repeated SYN needs no room");
}

#[test]
fn all_peers_together_have_a_bounded_number_of_connections() {
    let mut table = Table::new();
    for n in 0..MAX_STREAMS {
        let peer = PeerHandle(u32::try_from(n / MAX_STREAMS_PER_PEER).unwrap());
        assert_eq!(table.syn(peer, n, 0), Ok(()), "{n}");
    }

    assert_eq!(table.syn(PeerHandle(9), 1, 0), Err(Refused::Full));

    assert_eq!(table.open(Protocol::Tcp, "5432"), MAX_STREAMS as u64);
}

#[test]
fn when_one_connection_ends_there_is_room_for_one() {
    let mut table = Table::new();
    for n in 0..MAX_STREAMS_PER_PEER {
        table.syn(PEER, n, 0).unwrap();
    }
    let reset = tcp(client(17), addr("100.64.0.1:5432"), RST, 2, 0);
    table.take(PEER, &reset, 0).unwrap();

    assert_eq!(table.syn(PEER, 5000, 0), Ok(()));
    assert_eq!(table.syn(PEER, 5001, 0), Err(Refused::Full));
}

#[test]
fn a_full_table_makes_room_by_ending_what_was_idle_for_longest() {
    let mut table = Table::new();
    for n in 0..MAX_STREAMS_PER_PEER {
        table.syn(PEER, n, n as u64).unwrap();
    }
    let streams: Vec<_> = table
        .orders()
        .into_iter()
        .map(|order| match order {
            Order::Connect { stream, .. } => stream,
            other => panic!("{other:?}"),
        })
        .collect();
    table
        .stack
        .handle_target(streams[1], TargetEvent::Connected, origin() + ms(3000));
    let synack = std::iter::from_fn(|| table.stack.poll_packet())
        .last()
        .unwrap()
        .1;
    assert!(flags(&synack).unwrap().syn());
    // The first one has been used since.
    table
        .take(
            PEER,
            &tcp(client(0), addr("100.64.0.1:5432"), ACK, 2, 1),
            500_000,
        )
        .unwrap();

    assert_eq!(table.syn(PEER, 5000, 600_000), Err(Refused::Full));
    assert_eq!(table.syn(PEER, 5000, 600_001), Ok(()));

    let orders = table.orders();
    assert_eq!(orders[0], Order::Reset(streams[1]));
    assert!(matches!(orders[1], Order::Connect { .. }));
    let (peer, packet) = table.stack.poll_packet().unwrap();
    assert!(peer == PEER && flags(&packet).unwrap().rst());
}

#[test]
fn one_peer_can_fill_its_share_of_flows_and_no_more() {
    let mut table = Table::new();
    for n in 0..MAX_FLOWS_PER_PEER {
        assert_eq!(table.datagram(PEER, n, 0), Ok(()), "{n}");
    }

    assert_eq!(table.datagram(PEER, 5000, 0), Err(Refused::Full));

    assert_eq!(
        table.datagram(PEER, 3, 0),
        Ok(()),
        "a flow that is there goes on"
    );
    assert_eq!(table.datagram(OTHER_PEER, 5000, 0), Ok(()));
    assert_eq!(table.syn(PEER, 5000, 0), Ok(()));
    table.stack.handle_timeout(origin() + IDLE);
    assert_eq!(table.open(Protocol::Udp, "53"), 0);
    assert_eq!(table.datagram(PEER, 5000, 200_000), Ok(()));
}

#[test]
fn all_peers_together_have_a_bounded_number_of_flows() {
    let mut table = Table::new();
    for n in 0..MAX_FLOWS {
        let peer = PeerHandle(u32::try_from(n / MAX_FLOWS_PER_PEER).unwrap());
        assert_eq!(table.datagram(peer, n, 0), Ok(()), "{n}");
    }
    assert_eq!(table.datagram(PeerHandle(9), 1, 0), Err(Refused::Full));
}

#[test]
fn a_batch_with_too_many_packets_for_one_connection_loses_the_rest_and_not_the_connection() {
    let mut table = Table::new();
    table.syn(PEER, 0, 0).unwrap();
    let Some(Order::Connect { stream, .. }) = table.stack.poll_order() else {
        panic!()
    };
    table
        .stack
        .handle_target(stream, TargetEvent::Connected, origin());
    let synack = table.stack.poll_packet().unwrap().1;
    let theirs = u32::from_be_bytes(synack[24..28].try_into().unwrap());
    let ack = tcp(
        client(0),
        addr("100.64.0.1:5432"),
        ACK,
        2,
        theirs.wrapping_add(1),
    );

    let refused = (0..5000)
        .filter(|_| table.take(PEER, &ack, 1) == Err(Refused::Full))
        .count();
    assert!((3000..5000).contains(&refused), "{refused}");
    table.stack.flush(origin() + ms(1));

    assert_eq!(table.take(PEER, &ack, 2), Ok(()));
    table.stack.flush(origin() + ms(2));
    assert_eq!(
        (table.open(Protocol::Tcp, "5432"), table.orders()),
        (1, vec![])
    );
}

#[test]
fn streams_that_end_together_end_in_the_order_in_which_they_began() {
    let mut table = Table::new();
    for n in 0..50 {
        table.syn(PEER, n, 0).unwrap();
    }
    table.orders();

    table.stack.retain(|_, _, _| false, origin());

    let expected: Vec<_> = (0..50).map(|n| Order::Reset(StreamId(n))).collect();
    assert_eq!(table.orders(), expected);
}

#[test]
fn numbers_of_streams_are_not_used_again() {
    let mut table = Table::new();
    let mut seen: Vec<StreamId> = Vec::new();
    for round in 0..10 {
        table.syn(PEER, 0, round).unwrap();
        table.datagram(PEER, 0, round).unwrap();
        for order in table.orders() {
            if let Order::Connect { stream, .. } = order {
                assert!(!seen.contains(&stream));
                seen.push(stream);
            }
        }
        table.stack.retain(|_, _, _| false, origin() + ms(round));
        table.orders();
    }
    assert_eq!(seen.len(), 20);
    assert_eq!(table.stack.poll_timeout(), None);
    table.stack.handle_timeout(origin() + secs(1000));
    assert_eq!(table.orders(), []);
}
