//! What a side tells of the ports that come next.

use super::*;

#[test]
fn a_prediction_that_never_comes_ends_the_search() {
    for (name, config, _) in every_search(Budget::Normal) {
        let needs = matches!(
            config.theirs.as_ref().unwrap().allocation,
            Some(Allocation::Sequential { .. })
        );
        let mut machine = Machine::new(config);
        machine.predicts = false;

        machine.run(secs(60));

        let expected = if needs {
            Outcome::NoPrediction
        } else {
            Outcome::Exhausted
        };
        assert_eq!(machine.report().outcome, expected, "{name}");
        assert_eq!(machine.count(&AgentEvent::Failed), 1, "{name}");
        assert!(machine.is_clean(), "{name}");
    }
}

#[test]
fn a_sequence_of_which_no_server_tells_ends_the_search() {
    for mine in [
        hard(sequence(1), Budget::Normal),
        hard(sequence(-3), Budget::Normal),
    ] {
        for theirs in [easy(Budget::Normal), hard(sequence(2), Budget::Normal)] {
            for samplers in [vec![], vec![addr(SAMPLER)]] {
                let mut config = ends(mine.clone(), theirs.clone(), Role::Controlling);
                let has_server = !samplers.is_empty();
                config.samplers = samplers;
                let mut machine = Machine::new(config);
                machine.server = false;

                machine.run(secs(60));

                // Without a server that answers nobody can see what the search does to others, either.
                let expected = if has_server {
                    Outcome::Unwatched
                } else {
                    Outcome::NoPrediction
                };
                assert_eq!(machine.report().outcome, expected);
                assert!(machine.searched().len() <= 16);
                assert_eq!(machine.count(&AgentEvent::Failed), 1);
                assert!(machine.is_clean());
            }
        }
    }
}

#[test]
fn the_sequence_is_told_to_the_peer() {
    let mut machine = Machine::between(hard(sequence(1), Budget::Normal), easy(Budget::Normal));
    machine.run(secs(3));
    let expected = AgentEvent::Predicted(Prediction {
        round: 0,
        port: 50_000,
    });
    assert_eq!(machine.count(&expected), 1);
}

#[test]
fn a_prediction_that_comes_before_the_search_is_kept_for_it() {
    let mut machine = Machine::between(easy(Budget::Normal), hard(sequence(1), Budget::Normal));
    machine.predicts = false;
    let now = machine.now;
    let prediction = Prediction {
        round: 0,
        port: 30_000,
    };
    machine.agent.handle_prediction(prediction, now);

    machine.run(secs(60));

    let ports: Vec<_> = machine
        .searched()
        .iter()
        .filter(|(_, t)| t.to != addr(SAMPLER))
        .map(|(_, t)| t.to.port())
        .collect();
    // The middle of what 16 mappings in a row may have comes first.
    assert_eq!(ports[..3], [30_008, 30_007, 30_009]);
    assert_eq!(machine.report().outcome, Outcome::Exhausted);
}

#[test]
fn a_prediction_that_comes_twice_counts_once() {
    let run = |times: usize| {
        let mut machine = Machine::between(easy(Budget::Normal), hard(sequence(1), Budget::Normal));
        for _ in 0..times {
            machine.tell(0);
        }
        machine.predicts = false;
        machine.run(ms(200));
        for _ in 1..times {
            machine.tell(0);
        }
        machine.run(secs(60));
        machine.sent
    };
    assert_eq!(run(1), run(5));
}

#[test]
fn absurd_predictions_and_steps_cost_no_more_than_good_ones() {
    for budget in [Budget::Gentle, Budget::Normal] {
        for step in [-1, i16::MAX, i16::MIN] {
            for others in [0, u16::MAX] {
                for port in [0, 1023, 65_535] {
                    for round in [0, 5, 255] {
                        let theirs = hard(Allocation::Sequential { step, others }, budget);
                        let mine = match round {
                            255 => hard(FULL, budget),
                            5 => hard(sequence(1), budget),
                            _ => easy(budget),
                        };
                        let mut machine = Machine::between(mine, theirs);
                        machine.predicts = false;
                        let prediction = Prediction { round, port };
                        machine.agent.handle_prediction(prediction, origin());

                        machine.run(secs(1));

                        let now = machine.now;
                        for round in 0..=255 {
                            let prediction = Prediction { round, port };
                            machine.agent.handle_prediction(prediction, now);
                        }
                        machine.run(secs(60));

                        let caps = Caps::of(budget);
                        let searched = machine.searched();
                        assert!(searched.len() <= caps.packets() as usize);
                        let most = peak(searched.iter().map(|(at, _)| *at));
                        assert!(most <= caps.rate as usize, "{most}");
                        assert!(searched.iter().all(|(_, t)| t.to.port() >= 1024));
                        assert_eq!(machine.count(&AgentEvent::Failed), 1);
                        assert!(machine.is_clean());
                    }
                }
            }
        }
    }
}
