//! How the room for streams is shared among peers.

use punch_api::Protocol;
use punch_forward::{
    Crowded, IDLE, LARGE_STREAMS, LARGE_STREAMS_PER_PEER, MAX_FLOWS, MAX_FLOWS_PER_PEER,
    MAX_STREAMS, MAX_STREAMS_PER_PEER, Order, Refused, SMALL_BUFFER, StreamId, TargetEvent,
};
use punch_packet::PeerHandle;

use crate::limits::{LATER, Table, client};
use crate::packets::{ACK, RST, addr, flags, tcp};
use crate::{OTHER_PEER, PEER, here, key, ms, origin};

const THIRD: PeerHandle = PeerHandle(3);

fn ack(table: &mut Table, peer: PeerHandle, n: usize, at: u64) {
    let ack = tcp(client(n), addr("100.64.0.1:5432"), ACK, 2, 1);
    table.take(peer, &ack, at).unwrap();
}

fn ended(orders: &[Order]) -> Vec<StreamId> {
    let reset = |order: &Order| match order {
        Order::Reset(id) => Some(*id),
        _ => None,
    };
    orders.iter().filter_map(reset).collect()
}

#[test]
fn one_peer_can_fill_its_share_of_connections_and_no_more() {
    let mut table = Table::new();
    let end = table.fill(Protocol::Tcp, PEER, MAX_STREAMS_PER_PEER, 0);

    assert_eq!(table.syn(PEER, LATER, end), Err(Refused::Full));

    let open = table.open(Protocol::Tcp, "5432");
    assert_eq!(open, MAX_STREAMS_PER_PEER as u64);
    let other = table.syn(OTHER_PEER, LATER, end);
    assert_eq!(other, Ok(()), "another peer finds room");
    let datagram = table.datagram(PEER, LATER, end);
    assert_eq!(datagram, Ok(()), "datagrams have their own");
    let retry = table.syn(PEER, 7, end);
    assert_eq!(retry, Ok(()), "a repeated SYN needs no room");
    let counts = table.stack.counts(key(Protocol::Tcp, "5432"));
    assert_eq!((counts.refused, counts.failed), (1, 0));
}

#[test]
fn when_all_is_full_a_newcomer_takes_from_the_peer_that_holds_most_what_it_used_least() {
    let mut table = Table::new();
    let at = table.fill(Protocol::Tcp, PEER, MAX_STREAMS_PER_PEER, 0);
    let rest = MAX_STREAMS - MAX_STREAMS_PER_PEER;
    let at = table.fill(Protocol::Tcp, OTHER_PEER, rest, at) + 2000;
    // Both keep their streams busy; the peer's second one was used last long ago.
    for n in (0..MAX_STREAMS_PER_PEER).filter(|n| *n != 1) {
        ack(&mut table, PEER, n, at);
    }
    table.orders();

    assert_eq!(table.syn(THIRD, 0, at), Ok(()));

    assert_eq!(ended(&table.orders()), [StreamId(1)]);
    let (peer, packet) = table.stack.poll_packet().unwrap();
    assert!(peer == PEER && flags(&packet).unwrap().rst());
    assert_eq!(table.open(Protocol::Tcp, "5432"), MAX_STREAMS as u64);
    let told = table.stack.poll_crowded();
    assert_eq!(
        told,
        Some(Crowded {
            peer: PEER,
            refused: 0,
            ended: 1,
            open: MAX_STREAMS_PER_PEER - 1,
        })
    );
    // The third peer goes on until it holds as many as the others do, and each keeps what is its own.
    for n in 1..6000 {
        assert_eq!(table.syn(THIRD, n, at + n as u64), Ok(()), "{n}");
    }
    let refused = table.syn(OTHER_PEER, LATER, at + 6000);
    assert_eq!(refused, Ok(()), "it holds less than the largest");
    assert_eq!(table.syn(PEER, LATER, at + 6000), Err(Refused::Full));
}

#[test]
fn peers_that_hold_equally_much_take_nothing_from_each_other() {
    let mut table = Table::new();
    let mut at = 0;
    for n in 0..4 {
        at = table.fill(Protocol::Udp, PeerHandle(n), MAX_FLOWS / 4, at);
    }
    for n in 0..4 {
        let refused = table.datagram(PeerHandle(n), LATER, at);
        assert_eq!(refused, Err(Refused::Full));
    }
    assert_eq!(table.datagram(PeerHandle(9), LATER, at), Ok(()));
    let open = table.open(Protocol::Udp, "53");
    assert_eq!(open, MAX_FLOWS as u64);
}

#[test]
fn a_full_share_makes_room_by_ending_what_was_idle_for_long() {
    let mut table = Table::new();
    table.fill(Protocol::Tcp, PEER, MAX_STREAMS_PER_PEER, 0);
    table.orders();
    let connected = TargetEvent::Connected;
    table
        .stack
        .handle_target(StreamId(1), connected, origin() + ms(20_000));
    let synack = std::iter::from_fn(|| table.stack.poll_packet()).last();
    assert!(flags(&synack.unwrap().1).unwrap().syn());
    // The first one has been used since.
    ack(&mut table, PEER, 0, 500_000);

    assert_eq!(table.syn(PEER, LATER, 600_000), Err(Refused::Full));
    assert_eq!(table.syn(PEER, LATER, 600_001), Ok(()));

    let orders = table.orders();
    assert_eq!(orders[0], Order::Reset(StreamId(1)));
    assert!(matches!(orders[1], Order::Connect { .. }));
    let (peer, packet) = table.stack.poll_packet().unwrap();
    assert!(peer == PEER && flags(&packet).unwrap().rst());
}

#[test]
fn one_peer_can_fill_its_share_of_flows_and_no_more() {
    let mut table = Table::new();
    let end = table.fill(Protocol::Udp, PEER, MAX_FLOWS_PER_PEER, 0);

    assert_eq!(table.datagram(PEER, LATER, end), Err(Refused::Full));

    let known = table.datagram(PEER, 3, end);
    assert_eq!(known, Ok(()), "a flow that is there goes on");
    assert_eq!(table.datagram(OTHER_PEER, LATER, end), Ok(()));
    assert_eq!(table.syn(PEER, LATER, end), Ok(()));
    let all_gone = origin() + ms(end) + IDLE;
    table.stack.handle_timeout(here, all_gone);
    assert_eq!(table.open(Protocol::Udp, "53"), 0);
    assert_eq!(table.datagram(PEER, LATER, end + 200_000), Ok(()));
}

#[test]
fn opening_and_resetting_at_once_is_bounded_by_a_rate_and_not_by_the_table() {
    let mut table = Table::new();
    let churn = |table: &mut Table, peer, n, at| {
        let opened = table.syn(peer, n, at);
        if opened == Ok(()) {
            let reset = tcp(client(n), addr("100.64.0.1:5432"), RST, 2, 0);
            table.take(peer, &reset, at).unwrap();
        }
        opened
    };
    let opened = (0..20_000).filter(|n| churn(&mut table, PEER, *n, 0) == Ok(()));
    assert_eq!(opened.count(), 4096);
    assert_eq!(churn(&mut table, PEER, 1, 0), Err(Refused::TooFast));
    assert_eq!(
        table.syn(OTHER_PEER, 1, 0),
        Ok(()),
        "others are not held up"
    );
    let opened = (0..20_000).filter(|n| churn(&mut table, PEER, *n, 1000) == Ok(()));
    assert_eq!(opened.count(), 1000, "a thousand a second");
}

#[test]
fn that_there_is_no_room_is_told_once_a_minute_with_a_count() {
    let mut table = Table::new();
    let end = table.fill(Protocol::Tcp, PEER, MAX_STREAMS_PER_PEER, 0);
    for n in 0..50 {
        let refused = table.syn(PEER, LATER, end + n);
        assert_eq!(refused, Err(Refused::Full));
    }
    let told = |table: &mut Table| {
        let told = std::iter::from_fn(|| table.stack.poll_crowded());
        told.map(|told| (told.peer, told.refused, told.open))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&mut table), [(PEER, 1, MAX_STREAMS_PER_PEER)]);
    let refused = table.syn(PEER, LATER, end + 60_000);
    assert_eq!(refused, Err(Refused::Full));
    assert_eq!(told(&mut table), [(PEER, 50, MAX_STREAMS_PER_PEER)]);
    let refused = table.stack.counts(key(Protocol::Tcp, "5432")).refused;
    assert_eq!(refused, 51);
}

#[test]
fn connections_beyond_the_first_of_a_peer_have_small_buffers() {
    let mut table = Table::new();
    table.fill(Protocol::Tcp, PEER, LARGE_STREAMS_PER_PEER + 1, 0);
    for peer in [OTHER_PEER, THIRD] {
        table.fill(Protocol::Tcp, peer, LARGE_STREAMS_PER_PEER, 0);
    }
    let windows = table.orders().into_iter().filter_map(|order| match order {
        Order::Connect { peer, window, .. } => Some((peer, window)),
        _ => None,
    });
    let windows: Vec<_> = windows.collect();
    let small = |peer| {
        let of_peer = windows.iter().filter(|(of, _)| *of == peer);
        of_peer
            .filter(|(_, window)| *window == SMALL_BUFFER)
            .count()
    };
    assert_eq!(LARGE_STREAMS, 3 * LARGE_STREAMS_PER_PEER);
    assert_eq!((small(PEER), small(OTHER_PEER), small(THIRD)), (1, 0, 1));
}
