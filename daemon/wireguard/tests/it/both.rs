//! Both ends begin at once.

use crate::*;

/// A begins, and B so many milliseconds later, on a path of 30 ms.
fn begun_at_once(offset: u64) -> World {
    let mut world = World::new();
    world.latency = millis(30);
    world.send(A, 0);
    world.run(millis(offset));
    world.send(B, 0);
    world
}

/// Packets after the first one from both ends, one each time; all of them arrive.
fn exchange(world: &mut World, count: u32, every: Duration) {
    for number in 1..count {
        world.run(every);
        world.send(A, number);
        world.send(B, number);
    }
    world.run(secs(1));
    for end in &world.ends {
        assert!(end.inbox.iter().copied().eq(0..count));
    }
}

#[test]
fn both_begin_at_once_and_every_packet_arrives_afterwards() {
    for offset in [0, 1, 10, 29, 30, 31, 59, 60, 61, 90] {
        exchange(&mut begun_at_once(offset), 1000, millis(1));
    }
}

#[test]
fn both_begin_at_once_and_keys_are_renewed_without_loss() {
    for offset in [0, 20, 40] {
        let mut world = begun_at_once(offset);
        world.keep = false;
        exchange(&mut world, 6000, millis(200));
        let begun = world.ends[A].begun.len() + world.ends[B].begun.len();
        assert!((8..=20).contains(&begun), "{begun}");
    }
}

#[test]
fn both_begin_at_once_and_what_is_under_way_when_keys_are_renewed_arrives() {
    for offset in [0, 20, 40] {
        let mut world = begun_at_once(offset);
        exchange(&mut world, 60_000, millis(7));
    }
}

#[test]
fn both_begin_at_once_and_data_that_goes_only_one_way_arrives() {
    for from in [A, B] {
        let mut world = World::new();
        world.latency = millis(30);
        for end in [A, B] {
            world.send(end, 0);
        }
        world.run(secs(1));
        for number in 1..1000 {
            world.send(from, number);
            world.run(secs(1));
        }
        assert!(world.ends[1 - from].inbox.iter().copied().eq(0..1000));
    }
}

#[test]
fn both_begin_at_once_and_any_one_message_is_lost() {
    for lost in 0..8 {
        let mut world = World::new();
        world.latency = millis(30);
        for end in [A, B] {
            world.send(end, 0);
        }
        let mut count = 0;
        for _ in 0..20_000 {
            let before = world.wire.len();
            world.run(millis(1));
            for _ in before..world.wire.len() {
                count += 1;
                if count == lost {
                    world.wire.pop_back();
                }
            }
        }
        assert!(world.both_ways_work(), "{lost}");
    }
}

#[test]
fn both_begin_at_once_and_renew_their_keys_after_two_minutes() {
    for latency in [1, 30] {
        let mut world = World::new();
        world.latency = millis(latency);
        for number in 0..125 {
            world.send(A, number);
            world.send(B, number);
            world.run(secs(1));
        }
        // Not only when the keys are about to end.
        let begun = world.ends[A].begun.len() + world.ends[B].begun.len();
        assert!(begun > 2);
    }
}

/// A asks for new keys three times, so many milliseconds apart, on a path of 30 ms, while both ends send.
fn begun_again(pause: u64, every: u64) {
    let mut world = World::new();
    world.latency = millis(30);
    world.send(A, 0);
    world.run(secs(1));
    world.send(B, 0);
    for number in 1..500 {
        if [1, 1 + pause, 1 + 2 * pause].contains(&number) {
            let now = world.now;
            world.ends[A].session.initiate(now);
            let datagrams = world.ends[A].begin(now).into_iter().collect();
            world.transmit(A, datagrams);
        }
        if number % every == 0 {
            let number = u32::try_from(number / every).unwrap();
            world.send(A, number);
            world.send(B, number);
        }
        world.run(millis(1));
    }
    world.run(secs(1));
    let count = u32::try_from(499 / every).unwrap();
    for end in &world.ends {
        let all = end.inbox.iter().copied().eq(0..=count);
        let came = end.inbox.len();
        assert!(all, "{pause} ms, every {every} ms: {came} of {}", count + 1);
    }
}

#[test]
fn one_end_begins_again_before_the_other_has_seen_the_new_keys_and_every_packet_arrives() {
    for pause in 1..130 {
        for every in [1, 7, 10] {
            begun_again(pause, every);
        }
    }
}
