//! A machine among peers and servers that do the worst they may: nothing panics, tables stay within their bounds, a turn's work too,
//! nobody is sent more than the bounds say, and the tunnel with an honest peer loses no more than a tenth of its packets.
//!
//! `PUNCH_SEED=n cargo nextest run -p punch-simulator --test adversary -E 'test(one_seed)' --no-capture` plays one program and prints it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
#![allow(clippy::print_stdout, reason = "for whoever looks into a seed")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use punch_simulator::adversary::program::{
    BEGIN, Deed, Lie, Move, Names, NatLie, Patience, StampLie, draw,
};
use punch_simulator::adversary::{Outcome, play};

/// `PUNCH_SEEDS` asks for fewer.
fn seeds() -> u64 {
    std::env::var("PUNCH_SEEDS").map_or(2000, |seeds| seeds.parse().unwrap())
}

/// Most programs are short; every fortieth sees keys renewed.
fn end(seed: u64) -> Duration {
    Duration::from_secs(if seed % 40 == 39 { 150 } else { 24 })
}

fn program(moves: &[Move]) -> String {
    let lines = moves.iter().map(|one| format!("  {one}\n"));
    lines.collect()
}

/// Plays a program, and says what is wrong with what came of it.
fn judge(seed: u64, moves: &[Move], end: Duration) -> (Option<Outcome>, Vec<String>) {
    let start = Instant::now();
    let quiet = play(seed, &[], end, start);
    let hostile = catch_unwind(AssertUnwindSafe(|| play(seed, moves, end, start)));
    let Ok(outcome) = hostile else {
        return (None, vec!["a panic".to_owned()]);
    };
    let mut faults = outcome.offenses.clone();
    // A server ends a connection over which more comes.
    if outcome.frames > 50 {
        faults.push(format!("{} frames to a server in a second", outcome.frames));
    }
    // Also when a server says again and again that a peer has come.
    if outcome.offers_beyond > 0 {
        faults.push(format!(
            "{} offers to a peer beyond 4 and one in 3 s",
            outcome.offers_beyond
        ));
    }
    // From one search for a peer to the next 30 s pass, then 60.
    if outcome.searches > 2 {
        faults.push(format!("{} searches in a minute", outcome.searches));
    }
    // A packet every 50 ms, each way.
    let expected = usize::try_from((end - BEGIN).as_millis() / 50).unwrap() - 1;
    for (heard, quiet) in outcome.heard.iter().zip(quiet.heard) {
        if quiet < expected {
            faults.push(format!(
                "{quiet} of {expected} packets without an adversary"
            ));
        }
        if heard * 10 < quiet * 9 {
            faults.push(format!("{heard} of {quiet} packets of the honest tunnel"));
        }
    }
    (Some(outcome), faults)
}

/// Plays every `step`th seed from `first` on.
fn play_seeds(first: u64, step: usize) {
    let mut failed = Vec::new();
    let (mut tunnels, mut count) = (0, 0);
    for seed in (first..seeds()).step_by(step) {
        let moves = draw(seed, end(seed));
        let (outcome, faults) = judge(seed, &moves, end(seed));
        if !faults.is_empty() {
            failed.push(format!("seed {seed}: {faults:#?}\n{}", program(&moves)));
        }
        count += 1;
        tunnels += usize::from(outcome.is_some_and(|outcome| outcome.tunnel));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    // The programs get somewhere.
    assert!(tunnels * 3 >= count, "{tunnels} tunnels in {count} runs");
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
    two_thousand_programs_do_no_harm_1: 0,
    two_thousand_programs_do_no_harm_2: 1,
    two_thousand_programs_do_no_harm_3: 2,
    two_thousand_programs_do_no_harm_4: 3,
    two_thousand_programs_do_no_harm_5: 4,
    two_thousand_programs_do_no_harm_6: 5,
    two_thousand_programs_do_no_harm_7: 6,
    two_thousand_programs_do_no_harm_8: 7
);

#[test]
fn one_seed_is_told_in_full() {
    let seed = std::env::var("PUNCH_SEED").map_or(1, |seed| seed.parse().unwrap());
    let moves = draw(seed, end(seed));
    println!("seed {seed}, {:?}:\n{}", end(seed), program(&moves));
    let began = Instant::now();
    let (outcome, faults) = judge(seed, &moves, end(seed));
    println!("{outcome:#?} in {:?}", began.elapsed());
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Names seven strangers and itself, answers just before the search ends, and makes the next offer.
#[test]
fn whoever_answers_late_and_offers_anew_gets_no_more_searches_by_it() {
    let end = Duration::from_secs(150);
    let lie = Lie {
        names: Names::Strangers(7),
        nat: NatLie::Random,
        stamp: StampLie::Now,
    };
    let late = Patience::Probed(Duration::from_millis(2500));
    let moves = [(Deed::Checks(late), 1), (Deed::Offer(lie), 10)].map(|(deed, count)| Move {
        at: BEGIN,
        deed,
        count,
        pause: Duration::from_secs(14),
    });
    let mut searches = 0;
    for seed in 0..6 {
        let outcome = play(seed, &moves, end, Instant::now());
        println!("{seed}: {outcome:?}");
        assert_eq!(outcome.offenses, Vec::<String>::new(), "seed {seed}");
        assert!(outcome.searches <= 2, "seed {seed}: {}", outcome.searches);
        searches += outcome.searches;
    }
    assert!(searches > 0, "the victim searches");
}

/// Names ports of others in one exchange after the other, and answers no check.
#[test]
fn whoever_names_ports_of_others_has_few_of_them_connected_to() {
    let end = Duration::from_secs(150);
    let lie = Lie {
        names: Names::Ports,
        nat: NatLie::Silent,
        stamp: StampLie::Now,
    };
    // Beside a tunnel of its own nothing would be connected to.
    let moves = [
        (Deed::Answer(Some(lie)), 1),
        (Deed::Checks(Patience::Never), 1),
        (Deed::Want(false), 1),
        (Deed::Offer(lie), 45),
    ];
    let moves = moves.map(|(deed, count)| Move {
        at: Duration::ZERO,
        deed,
        count,
        pause: Duration::from_secs(3),
    });
    for seed in 0..2 {
        let outcome = play(seed, &moves, end, Instant::now());
        assert_eq!(outcome.offenses, Vec::<String>::new(), "seed {seed}");
        assert!(outcome.dialled, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn the_same_seed_plays_the_same_program_with_the_same_outcome() {
    let moves = draw(5, end(5));
    let one = play(5, &moves, end(5), Instant::now());
    let two = play(5, &draw(5, end(5)), end(5), Instant::now());
    assert_eq!(format!("{one:?}"), format!("{two:?}"));
}
