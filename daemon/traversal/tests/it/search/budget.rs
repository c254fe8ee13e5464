//! What a search may cost, and that it costs no more.

use super::*;

#[test]
fn no_search_ever_exceeds_its_budget_and_nothing_is_left_of_it() {
    for budget in BUDGETS {
        for (name, config, kind) in every_search(budget) {
            let caps = Caps::of(budget);
            let mine = config.mine.clone().unwrap();
            let mut machine = Machine::new(config);

            machine.run(secs(90));

            let label = format!("{name}, {budget:?}");
            let report = machine.report();
            let searched = machine.searched();
            assert_eq!(report.kind, kind, "{label}");
            assert_eq!(report.outcome, Outcome::Exhausted, "{label}");
            assert_eq!(report.packets as usize, searched.len(), "{label}");
            let most = peak(searched.iter().map(|(at, _)| *at));
            assert!(most <= caps.rate as usize, "{label}: {most} in a second");
            let mut per_ip: BTreeMap<IpAddr, u32> = BTreeMap::new();
            for (_, transmit) in &searched {
                *per_ip.entry(transmit.to.ip()).or_default() += 1;
            }
            assert!(
                per_ip.values().all(|count| *count <= caps.packets()),
                "{label}"
            );
            assert!(searched.len() <= caps.packets() as usize, "{label}");

            let made = mappings(&mine, &searched);
            assert!(made <= caps.mappings as usize, "{label}: {made} mappings");
            assert!(
                made <= report.mappings as usize,
                "{label}: {made} made, {} reported",
                report.mappings
            );

            // The ordinary checks beside it keep to their own limit.
            let checks = machine.sent.len() - searched.len();
            let pairs = machine.agent.status(machine.now).pairs.len().max(8);
            assert!(checks <= pairs * MAX_PROBES as usize, "{label}: {checks}");

            assert_eq!(machine.count(&AgentEvent::Failed), 1, "{label}");
            let over = AgentEvent::SearchOver {
                mappings: report.mappings,
                found: false,
                used_up: None,
            };
            assert_eq!(machine.count(&over), 1);
            assert!(machine.is_clean(), "{label}: sockets stay open");
            assert_eq!(machine.agent.sockets().count(), 0, "{label}");
            assert_eq!(machine.agent.poll_timeout(), None, "{label}");
            assert!(
                report.took <= caps.duration + secs(2),
                "{label}: {:?}",
                report.took
            );
        }
    }
}

#[test]
fn a_search_makes_no_more_mappings_than_it_is_allowed_to() {
    for (name, config, _) in every_search(Budget::Normal) {
        let translated = config.mine.as_ref().unwrap().mapping;
        if translated != Some(Mapping::AddressAndPortDependent) {
            continue;
        }
        let mut machine = Machine::new(config);
        machine.allowance = 100;

        machine.run(secs(60));

        let made = mappings(&hard(FULL, Budget::Normal), &machine.searched());
        assert!(made <= 100, "{name}: {made}");
        assert!(machine.is_clean(), "{name}");
    }
}

#[test]
fn a_question_where_the_sequence_stands_makes_a_mapping_that_counts_too() {
    for role in [Role::Controlling, Role::Controlled] {
        let nat = |step| hard(sequence(step), Budget::Gentle);
        let mut machine = Machine::new(ends(nat(1), nat(-1), role));

        machine.run(secs(60));

        let searched = machine.searched();
        let made: BTreeSet<_> = searched.iter().map(|(_, t)| (t.socket, t.to)).collect();
        assert!(made.len() <= 256, "{}", made.len());
    }
}

#[test]
fn where_every_address_takes_a_mapping_every_address_is_counted() {
    let per_address = |nat| NatSummary {
        mapping: Some(Mapping::AddressDependent),
        ..nat
    };
    let many = |nat| NatSummary {
        addresses: (1..=8).map(|n| [203, 0, 113, n].into()).collect(),
        ..nat
    };
    let budget = Budget::Gentle;
    for (mine, theirs) in [
        (per_address(hard(FULL, budget)), many(easy(budget))),
        (
            per_address(hard(FULL, budget)),
            many(per_address(hard(FULL, budget))),
        ),
    ] {
        let mut machine = Machine::between(mine.clone(), theirs);

        machine.run(secs(60));

        let made = mappings(&mine, &machine.searched());
        let told = machine.report().mappings as usize;
        assert!(made <= told, "{made} made, {told} reported");
        assert!(made <= Caps::of(budget).mappings as usize, "{made}");
    }
}

#[test]
fn checks_and_search_together_keep_to_the_gentle_rate() {
    let mut config = ends(
        hard(block(512), Budget::Gentle),
        hard(block(512), Budget::Gentle),
        Role::Controlling,
    );
    config.candidates = (1..=32)
        .map(|n| host(&format!("192.168.7.{n}:4000")))
        .chain([reflexive(PEER)])
        .collect();
    let mut machine = Machine::new(config);

    machine.run(secs(60));

    let most = peak(machine.sent.iter().map(|(at, _)| *at));
    assert!(most <= 100, "{most} packets in a second");
}

#[test]
fn a_search_for_which_there_is_time_spends_what_it_planned() {
    for budget in BUDGETS {
        for (name, config, _) in every_search(budget) {
            let (mine, theirs) = (config.mine.clone(), config.theirs.clone());
            let plan = Plan::new(config.role, mine.as_ref(), theirs.as_ref());
            let step = plan.search.unwrap();
            let random = matches!(step.part, Part::Probe { .. } | Part::Birthday { .. })
                && !matches!(
                    theirs.unwrap().allocation,
                    Some(Allocation::Sequential { .. })
                );
            if !random {
                continue;
            }
            let mut machine = Machine::new(config);

            machine.run(secs(60));

            let (planned, spent) = (step.packets, machine.report().packets);
            assert!(spent <= planned, "{name}, {budget:?}: {spent} of {planned}");
            assert!(
                f64::from(spent) >= 0.9 * f64::from(planned),
                "{name}, {budget:?}: {spent} of {planned}"
            );
        }
    }
}

#[test]
fn the_chance_of_a_meeting_with_a_random_side_is_what_its_packets_make_it() {
    for budget in [Budget::Aggressive] {
        let mine = hard(FULL, budget);
        let theirs = hard(sequence(1), budget);
        let step = Plan::new(Role::Controlling, Some(&mine), Some(&theirs)).search;
        let mut machine = Machine::between(mine, theirs);
        machine.predicts = false;

        // The mover tells anew where its sequence stands, more often than it does in truth.
        for round in 0..120 {
            machine.tell(round);
            machine.run(ms(500));
        }

        let made = f64::from(machine.report().mappings);
        let possible = 1.0 - (-made / 64_512.0).exp();
        let promised = step.unwrap().chance;
        assert!(
            promised <= possible + 0.01,
            "{budget:?}: {promised:.3} of {possible:.3}"
        );
    }
}

#[test]
fn a_peer_that_names_the_addresses_of_others_makes_no_flood_of_us() {
    for budget in BUDGETS {
        for mine in [easy(budget), hard(FULL, budget), hard(sequence(1), budget)] {
            for allocation in [FULL, block(1024), sequence(1)] {
                let victims: Vec<_> = (1..=8).map(|n| [198, 18, 0, n].into()).collect();
                let liar = NatSummary {
                    addresses: victims.clone(),
                    ..hard(allocation, Budget::Aggressive)
                };
                let mut config = ends(mine.clone(), liar, Role::Controlled);
                config.candidates = (1..=32)
                    .map(|port| reflexive(&format!("198.18.0.1:{port}")))
                    .collect();
                let mut machine = Machine::new(config);

                machine.run(secs(60));

                let searched = machine.searched();
                let mut per_ip: BTreeMap<IpAddr, u32> = BTreeMap::new();
                for (_, transmit) in &searched {
                    *per_ip.entry(transmit.to.ip()).or_default() += 1;
                }
                let cap = Caps::of(budget).packets();
                assert!(per_ip.values().sum::<u32>() <= cap, "{budget:?} {per_ip:?}");
                let searched: BTreeSet<_> = searched.iter().map(|(_, t)| t.bytes.clone()).collect();
                let mut checks: BTreeMap<SocketAddr, u32> = BTreeMap::new();
                for (_, transmit) in &machine.sent {
                    if !searched.contains(&transmit.bytes) {
                        *checks.entry(transmit.to).or_default() += 1;
                    }
                }
                assert!(
                    checks.values().all(|count| *count <= MAX_PROBES),
                    "{checks:?}"
                );
            }
        }
    }
}

#[test]
fn a_peer_that_names_addresses_that_nobody_can_send_to_has_none_of_them_searched() {
    for mine in [easy(Budget::Normal), hard(FULL, Budget::Normal)] {
        let liar = NatSummary {
            addresses: [
                [127, 0, 0, 1],
                [0, 0, 0, 0],
                [224, 0, 0, 1],
                [255, 255, 255, 255],
                [169, 254, 0, 1],
            ]
            .map(Into::into)
            .to_vec(),
            ..hard(FULL, Budget::Normal)
        };
        let mut machine = Machine::between(mine, liar);

        machine.run(secs(60));

        let peer = addr(PEER).ip();
        let to_others = |(_, t): &&(Duration, Transmit)| t.to.ip() != peer && t.to != addr(SAMPLER);
        assert_eq!(machine.sent.iter().filter(to_others).count(), 0);
    }
}

#[test]
fn a_birthday_walk_never_takes_a_socket_and_a_port_twice() {
    for allocation in [block(1024), block(1000), block(256)] {
        for addresses in [1, 3, 8] {
            let theirs = NatSummary {
                addresses: (1..=addresses).map(|n| [203, 0, 113, n].into()).collect(),
                ..hard(allocation, Budget::Normal)
            };
            let mut config = ends(hard(block(1024), Budget::Normal), theirs, Role::Controlling);
            config.candidates = vec![reflexive("203.0.113.1:4000")];
            let mut machine = Machine::new(config);

            machine.run(secs(60));

            let searched = machine.searched();
            let pairs: BTreeSet<_> = searched.iter().map(|(_, t)| (t.socket, t.to)).collect();
            assert_eq!(pairs.len(), searched.len());
            assert!(!pairs.is_empty());
        }
    }
}

#[test]
fn a_birthday_walk_over_a_block_leaves_no_port_of_any_address_out() {
    let theirs = NatSummary {
        addresses: vec![[203, 0, 113, 9].into(), [203, 0, 113, 10].into()],
        ..hard(block(256), Budget::Aggressive)
    };
    let mut machine = Machine::between(hard(block(4096), Budget::Aggressive), theirs);

    machine.run(secs(60));

    let mut searched = machine.searched();
    searched.retain(|(_, t)| t.to != addr(SAMPLER));
    let pairs: BTreeSet<_> = searched.iter().map(|(_, t)| (t.socket, t.to)).collect();
    assert_eq!(pairs.len(), 4 * 2 * 256);
}

#[test]
fn who_holds_sends_packets_that_do_not_reach_the_peer() {
    for (measured, expected) in [(None, 5), (Some(3), 3)] {
        let mut config = ends(
            hard(FULL, Budget::Normal),
            easy(Budget::Normal),
            Role::Controlling,
        );
        config.opening_ttl = measured;
        let mut machine = Machine::new(config);
        machine.run(secs(5));
        let mut searched = machine.searched();
        searched.retain(|(_, t)| t.to != addr(SAMPLER));
        assert!(searched.iter().all(|(_, t)| t.ttl == Some(expected)));
        assert!(searched.len() >= 240);
    }
}

#[test]
fn who_probes_sends_packets_that_reach_the_peer() {
    let mut machine = Machine::between(easy(Budget::Normal), hard(FULL, Budget::Normal));
    machine.run(secs(5));
    assert!(machine.searched().iter().all(|(_, t)| t.ttl.is_none()));
}

#[test]
fn private_addresses_are_searched_only_where_every_server_sees_a_private_one() {
    let (private, public) = ([10, 9, 9, 9].into(), [203, 0, 113, 200].into());
    for (addresses, searched) in [
        (vec![private], true),
        (vec![public], false),
        // One of the servers lies, and the peer with it.
        (vec![private, public], false),
        (vec![], false),
    ] {
        let mine = NatSummary {
            addresses: addresses.clone(),
            ..easy(Budget::Normal)
        };
        let theirs = NatSummary {
            addresses: vec![[192, 168, 7, 7].into()],
            ..hard(block(1024), Budget::Normal)
        };
        let mut machine = Machine::between(mine, theirs);
        machine.run(secs(10));
        let to = addr("192.168.7.7:1").ip();
        let found = machine.searched().iter().any(|(_, t)| t.to.ip() == to);
        assert_eq!(found, searched, "{addresses:?}");
    }
}
