//! Two machines through a day of faults: connected again within the bounds after each, no packet lost while nothing goes wrong, and no
//! table that grows.
//!
//! `PUNCH_SEED=n PUNCH_HOURS=24 cargo nextest run -p punch-simulator --test day -E 'test(one_seed)' --no-capture` plays one day and tells
//! it; `PUNCH_SEEDS=1000 PUNCH_HOURS=24` plays as many, each test an eighth of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
#![allow(clippy::print_stdout, reason = "for whoever looks into a seed")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use punch_simulator::day::program::draw;
use punch_simulator::day::{Outcome, play};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn hours() -> u64 {
    number("PUNCH_HOURS", 3)
}

fn run(seed: u64) -> Outcome {
    let end = Duration::from_secs(3600 * hours());
    play(seed, &draw(seed, end), end, Instant::now())
}

/// Tables of which the least in the last hour is more than the most in the first one.
fn grown(outcome: &Outcome) -> Vec<String> {
    let (Some([_, first]), Some([last, _])) = (outcome.hours.first(), outcome.hours.last()) else {
        return Vec::new();
    };
    // The probes are a conversation of their own, in each direction.
    let more = last
        .iter()
        .filter(|(name, count)| **count > first[*name] + 2);
    more.map(|(name, count)| format!("{name}: from {} to {count}", first[name]))
        .collect()
}

fn faults(outcome: &Outcome) -> Vec<String> {
    let faults = outcome.findings.faults.iter();
    let (late, must) = (outcome.findings.late, outcome.findings.sent[1]);
    let late =
        (late * 2000 > must).then(|| format!("{late} of {must} packets lost soon after faults"));
    faults
        .map(|(at, what)| format!("{at:.3} s: {what}"))
        .chain(grown(outcome))
        .chain(late)
        .collect()
}

fn print_recoveries(all: &BTreeMap<&'static str, Vec<Duration>>) {
    for (name, took) in all {
        let mut took = took.clone();
        took.sort_unstable();
        let at = |part: usize| took[(took.len() - 1) * part / 1000];
        println!(
            "{name:24} {:6} times, p50 {:?}, p95 {:?}, p99 {:?}, most {:?}",
            took.len(),
            at(500),
            at(950),
            at(990),
            at(1000)
        );
    }
}

/// Plays every `step`th seed from `first` on.
fn play_seeds(first: u64, step: usize) {
    let mut failed = Vec::new();
    let mut all = BTreeMap::<_, Vec<_>>::new();
    let (mut promotions, mut sent, mut must) = (0, 0, 0);
    for seed in (first..number("PUNCH_SEEDS", 16)).step_by(step) {
        let began = Instant::now();
        let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
            failed.push(format!("seed {seed}: a panic"));
            continue;
        };
        let faults = faults(&outcome);
        println!(
            "seed {seed}: {} faults, {:?}",
            faults.len(),
            began.elapsed()
        );
        if !faults.is_empty() {
            failed.push(format!("seed {seed}: {:?} {faults:#?}", outcome.scene));
        }
        for (name, took) in outcome.findings.recoveries {
            all.entry(name).or_default().extend(took);
        }
        promotions += outcome.findings.promotions;
        sent += outcome.findings.sent[0];
        must += outcome.findings.sent[1];
    }
    print_recoveries(&all);
    println!("{promotions} promotions, {sent} packets, {must} that had to arrive");
    // The days get somewhere.
    assert!(all.is_empty() || must * 2 > sent);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

macro_rules! eighths {
    ($($name:ident: $first:literal),*) => {
        $(#[test]
        fn $name() {
            play_seeds($first, 8);
        })*
    };
}

eighths!(
    after_each_fault_of_a_day_packets_pass_again_1: 0,
    after_each_fault_of_a_day_packets_pass_again_2: 1,
    after_each_fault_of_a_day_packets_pass_again_3: 2,
    after_each_fault_of_a_day_packets_pass_again_4: 3,
    after_each_fault_of_a_day_packets_pass_again_5: 4,
    after_each_fault_of_a_day_packets_pass_again_6: 5,
    after_each_fault_of_a_day_packets_pass_again_7: 6,
    after_each_fault_of_a_day_packets_pass_again_8: 7
);

#[test]
fn the_look_at_the_end_of_a_day_is_no_hour_of_its_own() {
    let end = Duration::from_secs(7200);
    let outcome = play(1, &[], end, Instant::now());
    assert_eq!(outcome.hours.len(), 2);
}

#[test]
fn one_seed_is_told_in_full() {
    let seed = number("PUNCH_SEED", 1);
    let began = Instant::now();
    let outcome = run(seed);
    let mut story = outcome.story.clone();
    story.extend(outcome.findings.faults.clone());
    story.sort_by(|(one, _), (two, _)| one.total_cmp(two));
    println!("seed {seed}: {:#?}", outcome.scene);
    for (at, what) in story {
        println!("{at:10.3} {what}");
    }
    print_recoveries(&outcome.findings.recoveries);
    println!("{:?}", outcome.hours.first());
    println!("{:?}", outcome.hours.last());
    println!("{:?} in {:?}", outcome.findings.sent, began.elapsed());
    assert_eq!(faults(&outcome), Vec::<String>::new());
}
