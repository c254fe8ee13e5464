//! What waits for one client of the relay: bounded in bytes and time, fair between its links.

use std::sync::Arc;
use std::time::{Duration, Instant};

use punch_signal::hub::relay::{
    DropReason, FRAME_OVERHEAD, RelayCounters, RelayLimits, RelayQueue,
};
use punch_signal_protocol::{MAX_RELAY_FRAME, RelayLink};

use crate::hub_harness::milliseconds;

const LIMIT: usize = 256 * 1024;

struct Queue {
    queue: RelayQueue,
    counters: Arc<RelayCounters>,
    now: Instant,
}

impl Queue {
    fn new(limit: usize, links: u32) -> Self {
        let limits = RelayLimits {
            queue: limit,
            ..RelayLimits::default()
        };
        let counters = Arc::new(RelayCounters::default());
        let mut queue = RelayQueue::new(&limits, counters.clone());
        for link in 0..links {
            queue.open(RelayLink(link));
        }
        Self {
            queue,
            counters,
            now: Instant::now(),
        }
    }

    /// A frame with one packet, which begins with its link.
    fn push(&mut self, link: u32, length: usize) {
        let mut frame = vec![0; length];
        frame[..4].copy_from_slice(&link.to_be_bytes());
        let (link, now) = (RelayLink(link), self.now);
        self.queue.push(link, frame, 1, now);
    }

    /// The link and the length of the next frame.
    fn pop(&mut self) -> Option<(u32, usize)> {
        let frame = self.queue.pop(self.now)?;
        Some((u32::from_be_bytes(*frame.first_chunk()?), frame.len()))
    }

    fn dropped(&self, why: DropReason) -> u64 {
        self.counters.dropped(why)
    }
}

#[test]
fn frames_of_a_link_keep_their_order() {
    let mut queue = Queue::new(LIMIT, 1);
    for length in [100, 50, 16_384, 7] {
        queue.push(0, length);
    }
    let lengths: Vec<_> = std::iter::from_fn(|| queue.pop())
        .map(|(_, length)| length)
        .collect();
    assert_eq!(lengths, [100, 50, 16_384, 7]);
    assert!(queue.queue.is_empty());
    assert_eq!(queue.counters.packets(), 4);
    assert_eq!(queue.counters.bytes(), 16_541);
}

#[test]
fn links_of_one_receiver_get_the_same_however_much_they_send() {
    let mut queue = Queue::new(LIMIT, 2);
    let mut bytes = [0; 2];
    let mut room = 0_i64;
    for _ in 0..2000 {
        // Five times as much, in large frames and in small ones.
        queue.push(0, 10_000);
        queue.push(1, 1000);
        queue.push(1, 1000);
        queue.now += milliseconds(1);
        room += 3500;
        while room > 0
            && let Some((link, length)) = queue.pop()
        {
            bytes[link as usize] += length;
            room -= length as i64;
        }
    }
    let share = bytes[1] as f64 / (bytes[0] + bytes[1]) as f64;
    assert!((0.45..0.55).contains(&share), "{bytes:?}");
}

#[test]
fn who_sends_little_goes_first() {
    let mut queue = Queue::new(LIMIT, 2);
    for _ in 0..10 {
        queue.push(0, 16_000);
    }
    queue.pop();
    queue.push(1, 100);
    // At the latest after the frame whose turn it is.
    let next: Vec<_> = (0..2).filter_map(|_| queue.pop()).collect();
    assert!(next.contains(&(1, 100)), "{next:?}");
}

#[test]
fn when_full_the_longest_links_oldest_frame_goes() {
    let cost = 1000 + FRAME_OVERHEAD;
    let mut queue = Queue::new(10 * cost, 3);
    queue.push(1, 1000);
    queue.push(2, 1000);
    for _ in 0..8 {
        queue.push(0, 1000);
    }
    assert_eq!(queue.dropped(DropReason::Queue), 0);
    assert_eq!(queue.queue.bytes(), 10 * cost);

    for _ in 0..5 {
        queue.push(0, 999);
    }
    assert_eq!(queue.dropped(DropReason::Queue), 5);
    let left: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
    let of = |link| left.iter().filter(|(from, _)| *from == link).count();
    assert_eq!(
        (of(0), of(1), of(2)),
        (8, 1, 1),
        "who sent little loses nothing"
    );
    let newest = left.iter().filter(|frame| **frame == (0, 999)).count();
    assert_eq!(newest, 5, "the oldest went");
}

#[test]
fn many_small_frames_are_bounded_by_what_they_cost() {
    let mut queue = Queue::new(LIMIT, 1);
    for _ in 0..100_000 {
        queue.push(0, 8);
    }
    assert!(queue.queue.bytes() <= LIMIT);
    let left = std::iter::from_fn(|| queue.pop()).count();
    assert!(left <= LIMIT / FRAME_OVERHEAD, "{left}");
}

#[test]
fn a_burst_is_evened_out_and_loses_nothing() {
    let mut queue = Queue::new(LIMIT, 1);
    for _ in 0..10 {
        for _ in 0..20 {
            queue.push(0, 1000);
        }
        while queue.pop().is_some() {
            queue.now += milliseconds(2);
        }
        queue.now += milliseconds(50);
    }
    assert_eq!(queue.counters.packets(), 200);
}

#[test]
fn a_queue_that_stands_loses_frames_until_it_does_not() {
    let mut queue = Queue::new(LIMIT, 1);
    // A sender that sends twice what passes, and so fills whatever there is.
    let mut waits = Vec::new();
    for step in 0..10_000 {
        queue.push(0, 1000);
        queue.now += Duration::from_micros(500);
        if step % 2 == 0 && queue.pop().is_some() {
            waits.push(queue.queue.bytes() / (1000 + FRAME_OVERHEAD));
        }
    }
    assert!(
        queue.dropped(DropReason::Codel) > 100,
        "{:?}",
        queue.counters
    );
    let longest = waits[waits.len() / 2..].iter().max().unwrap();
    assert!(*longest < LIMIT / 1064, "{longest} frames wait");
}

#[test]
fn a_frame_that_waits_alone_is_never_too_old() {
    let mut queue = Queue::new(LIMIT, 1);
    for _ in 0..100 {
        queue.push(0, 16_000);
        queue.now += milliseconds(500);
        assert_eq!(queue.pop(), Some((0, 16_000)));
    }
}

#[test]
fn what_waits_of_a_link_that_has_ended_goes_and_no_more_is_taken() {
    let mut queue = Queue::new(LIMIT, 2);
    for link in [0, 0, 1] {
        queue.push(link, 100);
    }
    queue.queue.close(RelayLink(0));
    queue.push(0, 100);
    queue.push(7, 100);
    assert_eq!(queue.dropped(DropReason::UnknownLink), 4);
    assert_eq!(queue.pop(), Some((1, 100)));
    assert_eq!(queue.pop(), None);
    assert!(queue.queue.is_empty());
}

#[test]
fn those_who_read_nothing_leave_room_for_those_who_do() {
    let limits = RelayLimits::default();
    let counters = Arc::new(RelayCounters::default());
    let now = Instant::now();
    let mut queues = Vec::new();
    for number in 0..4000 {
        let mut queue = RelayQueue::new(&limits, counters.clone());
        queue.open(RelayLink(number));
        for _ in 0..20 {
            queue.push(RelayLink(number), vec![0; 16_000], 1, now);
        }
        assert!(queue.bytes() >= 32_000, "{number}: {}", queue.bytes());
        queues.push(queue);
    }
    assert!(queues[0].bytes() > 240_000);
    let waiting: usize = queues.iter().map(RelayQueue::bytes).sum();
    assert_eq!(counters.waiting(), waiting);
    let most = limits.queue_in_all + queues.len() * 2 * MAX_RELAY_FRAME;
    assert!(waiting <= most, "{waiting}");
    drop(queues);
    assert_eq!(counters.waiting(), 0);
}

#[test]
fn any_order_of_things_keeps_the_books() {
    let mut queue = Queue::new(20_000, 0);
    let mut dice = 1_u64;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 33) % sides
    };
    let mut pushed = 0;
    for _ in 0..50_000 {
        let link = roll(12) as u32;
        match roll(20) {
            0 => queue.queue.open(RelayLink(link)),
            1 => queue.queue.close(RelayLink(link)),
            2..=11 => {
                queue.push(link, 8 + roll(3000) as usize);
                pushed += 1;
            }
            12..=18 => {
                queue.pop();
            }
            _ => queue.now += Duration::from_millis(roll(60)),
        }
        assert!(queue.queue.bytes() <= 20_000);
        assert_eq!(queue.counters.waiting(), queue.queue.bytes());
    }
    while queue.pop().is_some() {}
    assert!(queue.queue.is_empty());
    let dropped: u64 = DropReason::ALL.map(|why| queue.dropped(why)).iter().sum();
    assert_eq!(queue.counters.packets() + dropped, pushed);
    assert!(queue.counters.packets() > 1000 && queue.dropped(DropReason::Codel) > 0);
}
