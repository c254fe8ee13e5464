//! What leaves the queue, when, and what does not.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use punch_packet::{Buffer, Codel, FairQueue, GsoKind, Offload, Packet, segments};

use crate::{ACK, tcp};

const MS: Duration = Duration::from_millis(1);

/// A packet of a conversation from `port`, to one of several peers.
fn packet(peer: u8, port: u16, length: usize) -> Vec<u8> {
    let mut packet = tcp(false, ACK, 0, 0, &vec![7; length]);
    packet[19] = peer;
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet
}

fn push(queue: &mut FairQueue, packet: &[u8], offload: Offload, now: Instant) {
    let mut memory = queue.memory(70_000);
    memory[10..10 + packet.len()].copy_from_slice(packet);
    queue.push(memory, 10..10 + packet.len(), offload, now);
}

fn pop(queue: &mut FairQueue, now: Instant) -> Option<(u8, u16, usize)> {
    let item = queue.pop(now)?;
    let packet = Packet::parse(item.bytes()).unwrap();
    let seen = (
        packet.bytes()[19],
        packet.flow().unwrap().source.port(),
        packet.bytes().len(),
    );
    queue.recycle(item);
    Some(seen)
}

#[test]
fn packets_of_a_conversation_stay_in_order() {
    let (mut queue, now) = (FairQueue::new(1), Instant::now());
    for length in [1, 3000, 2, 40_000, 3] {
        push(&mut queue, &packet(1, 9, length), Offload::default(), now);
    }
    assert!(!queue.is_empty());

    let lengths = std::iter::from_fn(|| pop(&mut queue, now)).map(|(.., length)| length - 40);

    assert_eq!(lengths.collect::<Vec<_>>(), [1, 3000, 2, 40_000, 3]);
    assert!(queue.is_empty());
}

#[test]
fn who_sends_little_does_not_wait_behind_who_sends_much() {
    let (mut queue, now) = (FairQueue::new(1), Instant::now());
    for _ in 0..20 {
        push(&mut queue, &packet(1, 9, 60_000), Offload::default(), now);
    }
    pop(&mut queue, now);
    for peer in [1, 2] {
        push(&mut queue, &packet(peer, 10, 50), Offload::default(), now);
    }

    let next = [(); 4].map(|()| pop(&mut queue, now).unwrap());

    for peer in [1, 2] {
        assert!(next.contains(&(peer, 10, 90)), "{next:?}");
    }
}

#[test]
fn a_few_conversations_never_share_a_queue() {
    let now = Instant::now();
    for seed in 0..200 {
        let mut queue = FairQueue::new(seed);
        for _ in 0..4 {
            for port in 0..7 {
                push(
                    &mut queue,
                    &packet(1, port, 20_000),
                    Offload::default(),
                    now,
                );
            }
        }
        // Each has had its first turn.
        for _ in 0..7 {
            pop(&mut queue, now);
        }

        push(&mut queue, &packet(1, 100, 50), Offload::default(), now);

        assert_eq!(pop(&mut queue, now), Some((1, 100, 90)), "{seed}");
    }
}

#[test]
fn peers_have_equal_shares_however_many_conversations_they_have() {
    let (mut queue, now) = (FairQueue::new(1), Instant::now());
    for _ in 0..12 {
        for port in 0..8 {
            push(&mut queue, &packet(1, port, 5_000), Offload::default(), now);
        }
        for _ in 0..2 {
            push(&mut queue, &packet(2, 100, 20_000), Offload::default(), now);
        }
    }

    let mut sent = [0; 3];
    for _ in 0..40 {
        let (peer, _, length) = pop(&mut queue, now).unwrap();
        sent[usize::from(peer)] += length;
    }

    let share = sent[1] as f64 / (sent[1] + sent[2]) as f64;
    assert!((0.4..0.6).contains(&share), "{sent:?}");
}

#[test]
fn a_queue_takes_a_bounded_number_of_packets_and_bounded_memory() {
    let now = Instant::now();
    // Each of the long ones keeps the 70,000 bytes that it was read into.
    for (length, expected) in [
        (60_000, 90),
        (17_000, 90),
        (15_000, 420),
        (3_000, 520),
        (1, 520),
    ] {
        let mut queue = FairQueue::new(1);
        let mut pushed = 0;
        while !queue.is_full() {
            push(&mut queue, &packet(1, 9, length), Offload::default(), now);
            pushed += 1;
        }
        assert!(pushed <= expected, "{pushed} of {length}");
    }
}

#[test]
fn a_standing_queue_loses_single_segments_of_large_packets() {
    let (mut queue, start) = (FairQueue::new(1), Instant::now());
    let offload = Offload {
        checksum: None,
        gso: Some((GsoKind::Tcp4, 1000)),
    };
    let mut lost = 0;
    // Each packet waits 5 ms: there are always five.
    for at in 0..200_u32 {
        let now = start + at * MS;
        push(&mut queue, &packet(1, 9, 10_000), offload, now);
        if at < 5 {
            continue;
        }
        let item = queue.pop(now).unwrap();
        let packet = Packet::parse(item.bytes()).unwrap();
        let mut pieces = Vec::new();
        segments(&packet, item.offload, &mut Buffer::default(), |piece| {
            let piece = Packet::parse(piece).unwrap();
            assert!(piece.checksum_is_right());
            let bytes = piece.segment();
            pieces.push(u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
        })
        .unwrap();
        let first = pieces[0];
        let whole = pieces.len() == 10;
        lost += u32::from(!whole);
        // What is left keeps its sequence numbers, and the tail is all there.
        let sequence = |at: usize| first + at as u32 * 1000;
        assert_eq!(pieces, (0..pieces.len()).map(sequence).collect::<Vec<_>>());
        assert!(whole || pieces.len() == 9);
        queue.recycle(item);
    }
    assert!((5..40).contains(&lost), "{lost}");
    assert_eq!(queue.dropped(), u64::from(lost));
}

#[test]
fn what_cannot_be_cut_is_lost_as_a_whole() {
    let (mut queue, start) = (FairQueue::new(1), Instant::now());
    let mut left = 0;
    for at in 0..200_u32 {
        let now = start + at * MS;
        push(&mut queue, &packet(1, 9, 1000), Offload::default(), now);
        if at >= 5 {
            left += u64::from(pop(&mut queue, now).is_some());
        }
    }
    let rest = std::iter::from_fn(|| pop(&mut queue, start + 200 * MS)).count() as u64;
    assert!(queue.dropped() > 4);
    assert_eq!(left + rest + queue.dropped(), 200);
}

#[test]
fn a_burst_that_ends_loses_nothing() {
    let (mut queue, now) = (FairQueue::new(1), Instant::now());
    for _ in 0..30 {
        push(&mut queue, &packet(1, 9, 60_000), Offload::default(), now);
    }

    for at in 0..30 {
        // All of it is gone before the interval is over.
        assert!(pop(&mut queue, now + at * MS / 2).is_some());
    }

    assert_eq!(queue.dropped(), 0);
}

#[test]
fn a_short_wait_is_no_reason_to_drop() {
    let (mut codel, start) = (Codel::default(), Instant::now());
    for at in 0..10_000 {
        assert!(!codel.drops(MS / 2, false, start + at * MS));
    }
    // Nor a long one whose queue is empty each time.
    for at in 10_000..20_000 {
        assert!(!codel.drops(50 * MS, true, start + at * MS));
    }
}

#[test]
fn the_longer_a_queue_stands_the_more_is_dropped_and_it_ends_when_the_queue_does() {
    let (mut codel, start) = (Codel::default(), Instant::now());
    let mut drops = |from: u32, wait: Duration| {
        let at = |at: u32| start + at * MS;
        (from..from + 200)
            .filter(|now| codel.drops(wait, false, at(*now)))
            .count()
    };

    let first = drops(0, 5 * MS);
    let second = drops(200, 5 * MS);
    let none = drops(400, MS / 2);

    assert!(first > 5 && second > first, "{first}, {second}");
    assert_eq!(none, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn whatever_goes_in_comes_out_once_and_in_the_order_of_its_conversation(
        steps in proptest::collection::vec((0..4_u8, 0..4_u16, 1..4000_usize, prop::bool::weighted(0.4)), 0..200),
    ) {
        let (mut queue, now) = (FairQueue::new(1), Instant::now());
        let mut waiting = std::collections::BTreeMap::<_, std::collections::VecDeque<usize>>::new();
        let take = |queue: &mut FairQueue, waiting: &mut std::collections::BTreeMap<(u8, u16), std::collections::VecDeque<usize>>| {
            let Some((peer, port, length)) = pop(queue, now) else {
                return false;
            };
            let expected = waiting.get_mut(&(peer, port)).and_then(std::collections::VecDeque::pop_front);
            assert_eq!(expected, Some(length));
            true
        };
        for (peer, port, length, takes) in steps {
            let packet = packet(peer, port, length);
            push(&mut queue, &packet, Offload::default(), now);
            waiting.entry((peer, port)).or_default().push_back(packet.len());
            if takes {
                prop_assert!(take(&mut queue, &mut waiting));
            }
        }
        while take(&mut queue, &mut waiting) {}
        prop_assert!(waiting.values().all(std::collections::VecDeque::is_empty));
        prop_assert!(queue.is_empty());
    }
}
