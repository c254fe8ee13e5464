//! Searches take nothing from other programs behind the same NATs: what the fresh flows of [`punch_simulator::fresh`] say, in
//! virtual time. `scripts/matrix harm` prints the figures of all pairs.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "it is a test"
)]

use std::time::{Duration, Instant};

use punch_simulator::fresh::Harm;
use punch_simulator::matrix::{Begin, Options, must_learn, names, pace, places, run_fresh_flows};
use punch_simulator::scenario::{Kind, Place};
use punch_traversal::Budget;

/// No flow may wait longer than this for the next one that works.
const LONGEST_GAP: Duration = Duration::from_millis(300);
/// So many of a hundred flows work.
const WORKED: f64 = 99.5;

/// Every `STRIDE`th pair of the matrix, from one of them on; all with PUNCH_SIMULATOR_RUNS.
fn sample(first: usize) -> Vec<Place> {
    const STRIDE: usize = 9;
    let is_whole = std::env::var_os("PUNCH_SIMULATOR_RUNS").is_some();
    let all = places(&[]).into_iter().enumerate();
    let taken = all.filter(|(index, _)| is_whole || index % STRIDE == first);
    let places = taken.map(|(_, place)| place);
    places.filter(|place| pace(*place).is_some()).collect()
}

/// Those of which a careless search takes the most.
const WORST: [(Kind, Kind); 6] = [
    (Kind::Exclusive1024, Kind::Exclusive1024),
    (Kind::Exclusive256, Kind::Exclusive256),
    (Kind::Exclusive256, Kind::PortRestricted),
    (Kind::Exclusive1024, Kind::PortRestricted),
    (Kind::Sessions400, Kind::AddressDependent),
    (Kind::Entries400, Kind::Symmetric),
];

/// The flows of one run for each of these pairs; both bounds must hold for each, and the share for all of them together.
#[track_caller]
fn unharmed(places: &[Place], begin: Begin, budget: Budget) {
    let start = Instant::now();
    let options = Options {
        begin,
        budget,
        ..Options::default()
    };
    let (mut all, mut harmed) = (Harm::default(), Vec::new());
    let worst = WORST.map(|(a, b)| Place::Apart(a, b));
    for (index, place) in places.iter().chain(&worst).enumerate() {
        let seed = index as u64;
        let (_, harm) = run_fresh_flows(*place, &options, must_learn(*place), seed, start);
        all = all.and(harm);
        if harm.longest_gap > LONGEST_GAP {
            harmed.push((names(*place), index, harm));
        }
    }
    eprintln!("{begin:?} {budget:?}: {all:?}");
    assert!(all.searches > 0, "nobody has searched");
    assert!(harmed.is_empty(), "of {}: {harmed:#?}", places.len());
    assert!(all.percent() >= WORKED, "{all:?}");
}

#[test]
fn searches_right_after_the_start_harm_nobody() {
    unharmed(&sample(0), Begin::Cold, Budget::Normal);
}

#[test]
fn searches_of_measured_nats_harm_nobody() {
    unharmed(&sample(1), Begin::Measured, Budget::Normal);
}

#[test]
fn gentle_searches_harm_nobody() {
    unharmed(&sample(2), Begin::Measured, Budget::Gentle);
}
