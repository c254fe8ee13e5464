//! Nothing is unbounded.

use std::net::SocketAddr;

use punch_api::Protocol;
use punch_forward::{MAX_STREAMS_PER_PEER, Order, Refused, Rules, Stack, StreamId, TargetEvent};
use punch_packet::{Packet, PeerHandle};

use crate::packets::{ACK, RST, SYN, addr, tcp, udp};
use crate::{PEER, counts, here, key, ms, origin, rules, secs};

pub(crate) struct Table {
    pub(crate) stack: Stack,
    rules: Rules,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            stack: Stack::new(1280, 1),
            rules: rules(),
        }
    }

    pub(crate) fn take(
        &mut self,
        peer: PeerHandle,
        bytes: &[u8],
        after: u64,
    ) -> Result<(), Refused> {
        let packet = Packet::parse(bytes).unwrap();
        self.stack
            .handle_packet(peer, &packet, &self.rules, origin() + ms(after))
    }

    pub(crate) fn syn(&mut self, peer: PeerHandle, n: usize, after: u64) -> Result<(), Refused> {
        self.take(
            peer,
            &tcp(client(n), addr("100.64.0.1:5432"), SYN, 1, 0),
            after,
        )
    }

    pub(crate) fn datagram(
        &mut self,
        peer: PeerHandle,
        n: usize,
        after: u64,
    ) -> Result<(), Refused> {
        self.take(peer, &udp(client(n), addr("100.64.0.1:53"), b"?"), after)
    }

    /// Opens so many, one in each millisecond; returns the millisecond after the last.
    pub(crate) fn fill(
        &mut self,
        protocol: Protocol,
        peer: PeerHandle,
        count: usize,
        from: u64,
    ) -> u64 {
        for n in 0..count {
            let at = from + n as u64;
            let taken = match protocol {
                Protocol::Tcp => self.syn(peer, n, at),
                Protocol::Udp => self.datagram(peer, n, at),
            };
            assert_eq!(taken, Ok(()), "{n}");
        }
        from + count as u64
    }

    pub(crate) fn end_all_forwards(&mut self) {
        self.rules = Rules::default();
    }

    pub(crate) fn prune(&mut self, is_peer: impl Fn(PeerHandle) -> bool) {
        self.stack.prune(&self.rules, is_peer);
    }

    pub(crate) fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| self.stack.poll_order()).collect()
    }

    pub(crate) fn open(&self, protocol: Protocol, ports: &str) -> u64 {
        counts(&self.stack, key(protocol, ports)).0
    }
}

/// The number of a client that is in no table.
pub(crate) const LATER: usize = 30_000;

pub(crate) fn client(n: usize) -> SocketAddr {
    SocketAddr::new([100, 64, 0, 2].into(), 1000 + u16::try_from(n).unwrap())
}

#[test]
fn when_one_connection_ends_there_is_room_for_one() {
    let mut table = Table::new();
    let end = table.fill(Protocol::Tcp, PEER, MAX_STREAMS_PER_PEER, 0);
    let reset = tcp(client(17), addr("100.64.0.1:5432"), RST, 2, 0);
    table.take(PEER, &reset, end).unwrap();

    assert_eq!(table.syn(PEER, LATER, end), Ok(()));
    assert_eq!(table.syn(PEER, LATER + 1, end + 1), Err(Refused::Full));
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
    table.stack.handle_timeout(here, origin() + secs(1000));
    assert_eq!(table.orders(), []);
}
