//! Targets that fail: what the client is told, what is counted, and what is remembered.

use punch_api::Protocol;
use punch_forward::{Order, Refused, StreamId, TargetEvent, Trouble};

use crate::limits::Table;
use crate::packets::{flags, icmp_error};
use crate::{OTHER_PEER, PEER, key, ms, origin};

const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const HOST_UNREACHABLE: (u8, u8) = (3, 1);
const PROHIBITED: (u8, u8) = (3, 13);

fn fail(table: &mut Table, stream: u64, event: TargetEvent, what: &str, at: u64) {
    let (stream, what) = (StreamId(stream), what.to_owned());
    let at = origin() + ms(at);
    table.stack.handle_failure(stream, event, what, at);
}

fn connects(table: &mut Table) -> usize {
    let orders = table.orders();
    let connects = |order: &&Order| matches!(order, Order::Connect { .. });
    orders.iter().filter(connects).count()
}

#[test]
fn a_failed_target_is_counted_with_the_last_trouble_until_a_connection_reaches_it() {
    let mut table = Table::new();
    let database = key(Protocol::Tcp, "5432");
    let refused = "connection refused at 127.0.0.1:5432";
    table.syn(PEER, 0, 0).unwrap();
    fail(&mut table, 0, TargetEvent::Refused, refused, 5);
    table.syn(PEER, 1, 10).unwrap();
    fail(&mut table, 1, TargetEvent::Refused, refused, 15);

    let counts = table.stack.counts(database);
    assert_eq!((counts.open, counts.total, counts.failed), (0, 2, 2));
    let trouble = Trouble {
        at: origin() + ms(15),
        what: refused.to_owned(),
    };
    assert_eq!(counts.trouble, Some(trouble));
    let (_, packet) = table.stack.poll_packet().unwrap();
    assert!(flags(&packet).unwrap().rst());

    table.syn(PEER, 2, 20).unwrap();
    let connected = TargetEvent::Connected;
    table
        .stack
        .handle_target(StreamId(2), connected, origin() + ms(25));
    let counts = table.stack.counts(database);
    assert_eq!((counts.failed, counts.trouble), (2, None));
}

#[test]
fn a_target_without_a_way_is_not_looked_for_again_for_three_seconds() {
    let mut table = Table::new();
    let nowhere = "Name or service not known";
    table.datagram(PEER, 0, 0).unwrap();
    fail(&mut table, 0, TargetEvent::Unreachable, nowhere, 100);
    let (_, packet) = table.stack.poll_packet().unwrap();
    assert_eq!(icmp_error(&packet), Some(HOST_UNREACHABLE));
    assert_eq!(connects(&mut table), 1);

    for n in 0..5000 {
        let refused = table.datagram(PEER, n, 200);
        assert_eq!(refused, Err(Refused::Unreachable));
    }
    let refused = table.datagram(OTHER_PEER, 1, 3099);
    assert_eq!(refused, Err(Refused::Unreachable));
    assert_eq!(connects(&mut table), 0);
    assert_eq!(table.datagram(PEER, 1, 3100), Ok(()));

    // Another port is another matter, and so is another network.
    assert_eq!(table.syn(PEER, 1, 300), Ok(()));
    fail(&mut table, 1, TargetEvent::Unreachable, nowhere, 3200);
    let again = table.datagram(PEER, 2, 3300);
    assert_eq!(again, Err(Refused::Unreachable));
    table.stack.handle_network();
    assert_eq!(table.datagram(PEER, 2, 3300), Ok(()));
}

#[test]
fn a_flow_whose_datagrams_are_refused_is_counted_once_and_goes_on() {
    let mut table = Table::new();
    let names = key(Protocol::Udp, "53");
    table.datagram(PEER, 0, 0).unwrap();
    for n in 0..10 {
        let refused = "connection refused at 127.0.0.1:5353";
        fail(&mut table, 0, TargetEvent::Refused, refused, n);
        let (_, packet) = table.stack.poll_packet().unwrap();
        assert_eq!(icmp_error(&packet), Some(PORT_UNREACHABLE));
    }
    let counts = table.stack.counts(names);
    assert_eq!((counts.open, counts.failed), (1, 1));
    assert!(counts.trouble.is_some());
    table
        .stack
        .write_datagram(StreamId(0), b"answer", origin() + ms(20));
    assert_eq!(table.stack.counts(names).trouble, None);
}

#[test]
fn a_machine_that_is_busy_says_nothing_about_the_target() {
    let mut table = Table::new();
    table.datagram(PEER, 0, 0).unwrap();
    table.syn(PEER, 0, 0).unwrap();
    for stream in [StreamId(0), StreamId(1)] {
        table
            .stack
            .handle_target(stream, TargetEvent::Busy, origin());
    }
    let packets: Vec<_> = std::iter::from_fn(|| table.stack.poll_packet()).collect();
    assert_eq!(icmp_error(&packets[0].1), Some(PROHIBITED));
    assert!(flags(&packets[1].1).unwrap().rst());
    for forward in [key(Protocol::Udp, "53"), key(Protocol::Tcp, "5432")] {
        let counts = table.stack.counts(forward);
        assert_eq!((counts.open, counts.failed, counts.refused), (0, 0, 1));
    }
    // The next one is tried at once.
    assert_eq!(table.datagram(PEER, 0, 1), Ok(()));
    assert_eq!(table.stack.poll_crowded().map(|told| told.refused), Some(1));
}

#[test]
fn what_is_counted_for_a_forward_ends_with_it() {
    let mut table = Table::new();
    table.syn(PEER, 0, 0).unwrap();
    table.stack.retain(|_, _, _| false, origin());
    table.prune(|_| true);
    assert_eq!(table.stack.counts(key(Protocol::Tcp, "5432")).total, 1);
    table.end_all_forwards();
    table.prune(|_| true);
    assert_eq!(table.stack.counts(key(Protocol::Tcp, "5432")).total, 0);
}
