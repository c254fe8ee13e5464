//! What both ends plan, each for itself, from the same two summaries.

use punch_signal_protocol::{Budget, MAX_NAT_ADDRESSES};
use punch_traversal::{
    Allocation, Caps, Filtering, Mapping, NatSummary, Part, Plan, Ports, Role, SearchFacts, Step,
    StepKind, Withheld, is_hard,
};

const BUDGETS: [Budget; 3] = [Budget::Gentle, Budget::Normal, Budget::Aggressive];

pub(crate) const FULL: Allocation = Allocation::Random;

pub(crate) fn block(size: u16) -> Allocation {
    Allocation::Block {
        low: 32_768,
        high: 32_768 + (size - 1),
    }
}

pub(crate) fn sequence(step: i16) -> Allocation {
    Allocation::Sequential { step, others: 3 }
}

/// A NAT with a mapping for each destination that lets in only whom it has sent to.
pub(crate) fn hard(allocation: Allocation, budget: Budget) -> NatSummary {
    NatSummary {
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        allocation: Some(allocation),
        addresses: vec![[203, 0, 113, 9].into()],
        budget,
        attempt: 0,
        search: None,
    }
}

pub(crate) fn easy(budget: Budget) -> NatSummary {
    NatSummary {
        mapping: Some(Mapping::EndpointIndependent),
        ..hard(Allocation::Preserving, budget)
    }
}

/// Every kind of summary, with one budget.
fn summaries(budget: Budget) -> Vec<NatSummary> {
    let mappings = [
        None,
        Some(Mapping::None),
        Some(Mapping::EndpointIndependent),
        Some(Mapping::AddressDependent),
        Some(Mapping::AddressAndPortDependent),
        Some(Mapping::Dependent),
    ];
    let filterings = [
        None,
        Some(Filtering::EndpointIndependent),
        Some(Filtering::AddressDependent),
        Some(Filtering::AddressAndPortDependent),
    ];
    let allocations = [
        None,
        Some(Allocation::Preserving),
        Some(sequence(1)),
        Some(sequence(i16::MIN)),
        Some(block(1)),
        Some(block(1024)),
        Some(FULL),
    ];
    let mut all = Vec::new();
    for mapping in mappings {
        for filtering in filterings {
            for allocation in allocations {
                for addresses in [0, MAX_NAT_ADDRESSES] {
                    all.push(NatSummary {
                        mapping,
                        filtering,
                        allocation,
                        addresses: vec![[203, 0, 113, 9].into(); addresses],
                        budget,
                        attempt: 0,
                        search: None,
                    });
                }
            }
        }
    }
    all
}

/// What both ends plan: the one who made the offer first.
fn both(one: &NatSummary, two: &NatSummary) -> (Plan, Plan) {
    (
        Plan::new(Role::Controlling, Some(one), Some(two)),
        Plan::new(Role::Controlled, Some(two), Some(one)),
    )
}

fn are_complementary(one: &Step, two: &Step) -> bool {
    match (one.part, two.part) {
        (Part::Hold { predict, .. }, Part::Probe { ports, .. })
        | (Part::Probe { ports, .. }, Part::Hold { predict, .. }) => {
            predict == matches!(ports, Ports::After { .. })
        }
        (
            Part::Meet {
                mine: mine_1,
                theirs: theirs_1,
                anchor: anchor_1,
            },
            Part::Meet {
                mine: mine_2,
                theirs: theirs_2,
                anchor: anchor_2,
            },
        ) => mine_1 == theirs_2 && mine_2 == theirs_1 && anchor_1 != anchor_2,
        (Part::Birthday { .. }, Part::Birthday { .. }) => true,
        _ => false,
    }
}

fn is_within(step: &Step, nat: &NatSummary) -> bool {
    let caps = Caps::of(nat.budget);
    step.mappings >= 1
        && step.mappings <= caps.mappings
        && step.packets <= caps.packets()
        && (0.0..=1.0).contains(&step.chance)
}

#[test]
fn both_ends_make_the_same_plan_each_from_its_own_side() {
    for (one_budget, two_budget) in BUDGETS
        .iter()
        .flat_map(|one| BUDGETS.map(|two| (*one, two)))
    {
        let theirs = summaries(two_budget);
        for (one, two) in summaries(one_budget)
            .iter()
            .flat_map(|one| theirs.iter().map(move |two| (one, two)))
        {
            let (first, second) = both(one, two);

            assert!((first.checks - second.checks).abs() < 1e-9);
            assert!((0.0..=1.0).contains(&first.checks));
            match (&first.search, &second.search) {
                (None, None) => {}
                (Some(first), Some(second)) => {
                    assert_eq!(first.kind, second.kind, "{one:?}\n{two:?}");
                    assert!(are_complementary(first, second), "{first:?}\n{second:?}");
                    assert!((first.chance - second.chance).abs() < 1e-9);
                    assert!(is_within(first, one), "{first:?} {one:?}");
                    assert!(is_within(second, two), "{second:?} {two:?}");
                }
                _ => panic!("only one searches: {one:?}\n{two:?}"),
            }
        }
    }
}

#[test]
fn a_chance_grows_with_either_side_s_budget() {
    let (gentle, one_more) = (summaries(Budget::Gentle), [0, 1]);
    for (one, two) in gentle
        .iter()
        .flat_map(|one| gentle.iter().map(move |two| (one, two)))
    {
        let chance = |first: Budget, second: Budget| {
            let raise = |nat: &NatSummary, budget| NatSummary {
                budget,
                ..nat.clone()
            };
            let (plan, _) = both(&raise(one, first), &raise(two, second));
            plan.search.map_or(plan.checks, |step| step.chance)
        };
        for level in one_more {
            let (low, high) = (BUDGETS[level], BUDGETS[level + 1]);
            for other in BUDGETS {
                // Of very many probes a few more or less are made.
                assert!(
                    chance(low, other) <= chance(high, other) + 1e-4,
                    "{one:?}\n{two:?}"
                );
                assert!(
                    chance(other, low) <= chance(other, high) + 1e-4,
                    "{one:?}\n{two:?}"
                );
            }
        }
    }
}

#[test]
fn without_a_word_from_both_sides_there_are_only_checks() {
    let nat = hard(FULL, Budget::Normal);
    for (mine, theirs) in [(None, None), (Some(&nat), None), (None, Some(&nat))] {
        let plan = Plan::new(Role::Controlling, mine, theirs);
        assert_eq!(plan.search, None);
        assert!((0.0..=1.0).contains(&plan.checks));
    }
}

#[test]
fn where_checks_are_enough_nothing_is_searched() {
    let open = NatSummary {
        filtering: Some(Filtering::EndpointIndependent),
        ..hard(FULL, Budget::Normal)
    };
    let by_address = NatSummary {
        filtering: Some(Filtering::AddressDependent),
        ..easy(Budget::Normal)
    };
    let strict = hard(FULL, Budget::Normal);
    for (one, two) in [
        (&easy(Budget::Normal), &easy(Budget::Normal)),
        (&open, &strict),
        (&strict, &open),
        (&by_address, &strict),
        (&strict, &by_address),
    ] {
        let (plan, _) = both(one, two);
        assert!(
            plan.search.is_none() && plan.checks > 0.9,
            "{one:?} {two:?}"
        );
    }
}

#[test]
fn the_hard_side_holds_and_the_easy_side_probes() {
    for allocation in [FULL, block(1024), sequence(-2)] {
        let (first, second) = both(&hard(allocation, Budget::Normal), &easy(Budget::Normal));
        let (first, second) = (first.search.unwrap(), second.search.unwrap());
        assert_eq!(first.kind, StepKind::HoldAndProbe);
        assert!(matches!(first.part, Part::Hold { .. }), "{first:?}");
        assert!(matches!(second.part, Part::Probe { .. }), "{second:?}");
        assert!(first.chance >= 0.98, "{allocation:?} {}", first.chance);
        assert_eq!(second.mappings, 1, "an easy NAT has one mapping for all");
    }
}

#[test]
fn of_two_hard_sides_the_one_that_filters_by_address_holds() {
    let lenient = NatSummary {
        mapping: Some(Mapping::AddressDependent),
        filtering: Some(Filtering::AddressDependent),
        ..hard(FULL, Budget::Normal)
    };
    let strict = hard(FULL, Budget::Normal);
    for (one, two, first_holds) in [
        (&lenient, &strict, true),
        (&strict, &lenient, false),
        // Both could: the one who answered does.
        (&lenient, &lenient, false),
    ] {
        let (plan, _) = both(one, two);
        let step = plan.search.unwrap();
        assert_eq!(matches!(step.part, Part::Hold { .. }), first_holds);
        assert_eq!(step.kind, StepKind::HoldAndProbe);
    }
}

#[test]
fn two_full_ranges_take_the_aggressive_budget() {
    for (budget, low, high) in [
        (Budget::Gentle, 0.0, 0.000_01),
        (Budget::Normal, 0.0, 0.000_1),
        (Budget::Aggressive, 0.98, 1.0),
    ] {
        let (plan, _) = both(&hard(FULL, budget), &hard(FULL, budget));
        let withheld = plan.withheld.clone();
        assert_eq!(plan.search.is_some(), budget == Budget::Aggressive);
        let why = withheld.as_ref().map(|(_, why)| *why);
        assert!(plan.search.is_some() || why == Some(Withheld::TooUnlikely));
        let step = plan.search.or(withheld.map(|(step, _)| step)).unwrap();
        assert_eq!(step.kind, StepKind::Birthday);
        assert!(
            (low..=high).contains(&step.chance),
            "{budget:?} {}",
            step.chance
        );
    }
}

#[test]
fn two_blocks_meet_with_what_three_quarters_of_their_ports_give() {
    let nat = hard(block(1024), Budget::Normal);
    let (plan, _) = both(&nat, &nat);
    let step = plan.search.unwrap();
    assert_eq!(step.kind, StepKind::Birthday);
    assert!((0.42..0.44).contains(&step.chance), "{}", step.chance);
}

#[test]
fn no_search_is_planned_on_what_is_not_known() {
    let normal = Budget::Normal;
    let known = hard(block(1024), normal);
    let few_samples = NatSummary {
        allocation: None,
        ..known.clone()
    };
    let measuring = NatSummary {
        search: Some(SearchFacts {
            measuring: true,
            mappings: 768,
        }),
        ..known.clone()
    };
    let no_mapping = NatSummary {
        mapping: None,
        ..easy(normal)
    };
    for (one, two) in [
        (&few_samples, &known),
        (&few_samples, &easy(normal)),
        (&measuring, &known),
        (&measuring, &easy(normal)),
        (&no_mapping, &known),
    ] {
        let (first, second) = both(one, two);
        for plan in [first, second] {
            assert_eq!(plan.search, None, "{one:?} {two:?}");
            let (step, why) = plan.withheld.unwrap();
            assert_eq!(why, Withheld::Unmeasured);
            assert!(step.chance.abs() < 1e-9, "{}", step.chance);
        }
    }
    // Where checks are enough, nothing of it is needed.
    let (plan, _) = both(&easy(normal), &easy(normal));
    assert_eq!((plan.search, plan.withheld), (None, None));
}

#[test]
fn no_search_is_planned_whose_chance_is_below_five_percent() {
    let pair = |size| hard(block(size), Budget::Gentle);
    for (one, two, chance) in [
        (pair(1024), pair(1024), 0.0606),
        // Learned or set: the search would hold less.
        (told(pair(1024), 200), pair(1024), 0.0477),
        (hard(FULL, Budget::Normal), pair(1024), 0.0),
    ] {
        let (plan, _) = both(&one, &two);
        let made = plan.search.is_some();
        let step = plan.search.or(plan.withheld.map(|(step, _)| step)).unwrap();
        assert!((step.chance - chance).abs() < 0.002, "{}", step.chance);
        assert_eq!(made, chance >= 0.05, "{chance}");
    }
}

fn told(nat: NatSummary, mappings: u32) -> NatSummary {
    NatSummary {
        search: Some(SearchFacts {
            measuring: false,
            mappings,
        }),
        ..nat
    }
}

#[test]
fn whatever_a_peer_tells_of_its_limits_no_side_exceeds_its_budget() {
    for budget in BUDGETS {
        for mappings in [0, 1, 5, 64, u32::MAX] {
            for nat in [hard(FULL, budget), hard(block(64), budget), easy(budget)] {
                let (first, second) = both(&told(nat.clone(), mappings), &hard(FULL, budget));
                for plan in [&first, &second] {
                    let step = plan
                        .search
                        .as_ref()
                        .or(plan.withheld.as_ref().map(|(s, _)| s));
                    let Some(step) = step else { continue };
                    assert!(step.mappings <= Caps::of(budget).mappings, "{step:?}");
                    assert!((0.0..=1.0).contains(&step.chance), "{step:?}");
                }
            }
        }
    }
}

#[test]
fn with_two_sequences_even_the_gentle_budget_is_enough() {
    let (one, two) = (sequence(1), sequence(-4));
    let (first, second) = both(&hard(one, Budget::Gentle), &hard(two, Budget::Gentle));
    let (first, second) = (first.search.unwrap(), second.search.unwrap());
    assert_eq!((first.kind, second.kind), (StepKind::Meet, StepKind::Meet));
    assert!(first.chance >= 0.95);
    assert!(matches!(first.part, Part::Meet { anchor: true, .. }));
}

#[test]
fn the_budgets_are_those_that_the_design_promises() {
    let figures = BUDGETS.map(|budget| {
        let caps = Caps::of(budget);
        (caps.mappings, caps.rate, caps.packets())
    });
    assert_eq!(
        figures,
        [
            (256, 100, 3_000),
            (1_024, 1_000, 12_000),
            (131_072, 13_000, 325_000)
        ]
    );
}

#[test]
fn a_nat_is_hard_that_gives_destinations_mappings_of_their_own() {
    for (mapping, expected) in [
        (None, false),
        (Some(Mapping::None), false),
        (Some(Mapping::EndpointIndependent), false),
        (Some(Mapping::AddressDependent), true),
        (Some(Mapping::AddressAndPortDependent), true),
        (Some(Mapping::Dependent), true),
    ] {
        let nat = NatSummary {
            mapping,
            ..NatSummary::default()
        };
        assert_eq!(is_hard(&nat), expected, "{mapping:?}");
    }
}
