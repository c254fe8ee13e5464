//! A day.

use crate::*;

const DAY: u32 = 24 * 3600;
/// Seconds between the packets of one end.
const EVERY: u32 = 4;

fn a_day(loss: u32) -> World {
    let mut world = World::with([Some([5; 32]); 2], [None; 2]);
    world.latency = millis(30);
    world.loss = loss;
    world.keep = false;
    for number in 0..DAY / EVERY {
        world.send(A, number);
        world.run(secs(1));
        world.send(B, number);
        world.run(secs(u64::from(EVERY) - 1));
    }
    world
}

#[test]
fn in_a_day_no_packet_is_lost_and_there_is_a_handshake_every_two_minutes() {
    let world = a_day(0);

    for end in &world.ends {
        assert!(end.inbox.iter().copied().eq(0..DAY / EVERY));
    }
    let begun = world.ends[A].begun.len() + world.ends[B].begun.len();
    let finished = world.ends[A].finished + world.ends[B].finished;
    assert_eq!(begun, finished);
    // Two minutes, and up to the next packet.
    let expected = DAY / (120 + EVERY)..=DAY / 120 + 1;
    assert!(expected.contains(&u32::try_from(begun).unwrap()), "{begun}");
}

#[test]
fn in_a_day_with_a_tenth_of_all_messages_lost_data_keeps_flowing() {
    let world = a_day(100);

    for end in &world.ends {
        let sent = (DAY / EVERY) as usize;
        assert!(end.inbox.len() > sent * 88 / 100, "{}", end.inbox.len());
        // Seven packets in a row are lost by chance once in 10^7. Keys that nobody could renew, or that one end alone has, would
        // be missed for longer.
        let widest = end.inbox.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(widest < Some(8), "{widest:?}");
    }
}
