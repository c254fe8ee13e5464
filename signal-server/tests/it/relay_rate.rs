//! How much passes the relay in a time.

use std::time::{Duration, Instant};

use punch_signal::hub::Limits;
use punch_signal::hub::relay::{ByteRate, RelayLimits};

use crate::hub_harness::{HubHarness, seconds};

const FRAME: usize = 1436;
/// What a frame of that length counts.
const COST: u64 = 1500;

fn passed(rate: &ByteRate, now: Instant) -> u64 {
    (0..100_000).take_while(|_| rate.take(FRAME, now)).count() as u64 * COST
}

#[test]
fn a_burst_passes_and_then_as_much_as_the_rate_says() {
    let now = Instant::now();
    let rate = ByteRate::new(100, now);
    let burst = passed(&rate, now);
    // A quarter of a second of 12.5 MB/s.
    assert!((3_120_000..=3_125_000).contains(&burst), "{burst}");
    assert!(!rate.is_full(now));
    let mut bytes = 0;
    for tenth in 1..=100_u32 {
        bytes += passed(&rate, now + tenth * Duration::from_millis(100));
    }
    assert!((124_990_000..=125_010_000).contains(&bytes), "{bytes}");
    let later = now + seconds(3600);
    assert!(rate.is_full(later));
    assert!(passed(&rate, later) <= 3_125_000, "no more than a burst");
}

#[test]
fn many_short_frames_of_the_busy_leave_room_for_a_long_one() {
    let start = Instant::now();
    let rate = ByteRate::new(100, start);
    let mut long = 0;
    for tick in 0..10_000_u32 {
        let now = start + tick * Duration::from_micros(100);
        // Whoever sends more than its own rate takes all that comes.
        while rate.take_of(5, true, now) {}
        if tick % 100 == 99 {
            long += u32::from(rate.take_of(16_384, false, now));
        }
    }
    assert_eq!(long, 100, "every one in a second");
    let later = start + seconds(1);
    assert!(rate.is_busy(later) && !rate.take_of(16_384, true, later));
}

#[test]
fn the_smallest_rate_takes_the_longest_frames() {
    let now = Instant::now();
    let rate = ByteRate::new(1, now);
    assert!((0..4).all(|_| rate.take(16_384, now)));
    assert!(!rate.take(16_384, now));
}

#[test]
fn small_frames_cost_more_than_their_bytes() {
    let now = Instant::now();
    let rate = ByteRate::new(1, now);
    let count = (0..10_000).take_while(|_| rate.take(8, now)).count();
    assert!(count < 1000, "{count}");
}

#[test]
fn no_client_may_send_more_than_all_and_no_source_either() {
    let limits = RelayLimits::with_rates(100, 1000);
    assert_eq!(
        (limits.rate, limits.source_rate, limits.total_rate),
        (100, 400, 1000)
    );
    let limits = RelayLimits::with_rates(100, 50);
    assert_eq!(
        (limits.rate, limits.source_rate, limits.total_rate),
        (50, 50, 50)
    );
}

#[test]
fn a_source_does_not_get_its_bytes_back_by_coming_again() {
    let mut harness = HubHarness::with(Limits {
        relay: Some(RelayLimits::with_rates(1, 1)),
        ..Limits::default()
    });
    let one = harness.client(1);
    let rate = harness.hub.relay_rate(one).unwrap();
    while rate.take(16_384, harness.now) {}
    harness.hub.handle_disconnect(one);
    harness.pass(Duration::from_millis(100));
    let again = harness.client(1);
    let rate = harness.hub.relay_rate(again).unwrap();
    assert!(!rate.take(16_384, harness.now));
    let other = harness.client(2);
    let shared = harness.hub.relay_rate(other).unwrap();
    assert!(!shared.take(16_384, harness.now), "they share an address");
    // When all is paid the source is forgotten.
    harness.hub.handle_disconnect(again);
    harness.hub.handle_disconnect(other);
    harness.pass(seconds(20));
    assert_eq!(harness.hub.sources(), 0);
}

#[test]
fn whoever_sends_without_end_is_read_at_the_rate() {
    let mut now = Instant::now();
    let rate = ByteRate::new(8, now);
    let (mut waited, mut frames) = (Duration::ZERO, 0);
    while waited < Duration::from_secs(10) {
        let pause = rate.charge(10_000, now);
        now += pause;
        waited += pause;
        frames += 1;
    }
    // A megabyte a second, the burst of 250 ms before it.
    assert!((900..=1030).contains(&frames), "{frames}");
    // What is within the rate never waits.
    let rate = ByteRate::new(8, now);
    for _ in 0..1000 {
        now += Duration::from_millis(11);
        assert_eq!(rate.charge(10_000, now), Duration::ZERO);
    }
}
