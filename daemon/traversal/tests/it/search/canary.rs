//! A search looks whether others behind the same NAT still get their mappings.

use super::*;

fn holder(budget: Budget) -> Machine {
    Machine::between(hard(FULL, budget), easy(budget))
}

fn birthday(budget: Budget) -> Machine {
    Machine::between(hard(FULL, budget), hard(FULL, budget))
}

/// When questions of new flows have left.
fn canaries(machine: &Machine) -> Vec<Duration> {
    let sent = machine.sent.iter();
    let ours = sent.filter(|(_, t)| t.to == addr(SAMPLER) && t.socket != SocketId::MAIN_V4);
    ours.map(|(at, _)| *at).collect()
}

fn to_peer(machine: &Machine) -> Vec<Duration> {
    let searched = machine.searched().into_iter();
    let to_peer = searched.filter(|(_, t)| t.to != addr(SAMPLER));
    to_peer.map(|(at, _)| *at).collect()
}

#[test]
fn nothing_is_sent_before_a_new_flow_was_answered_and_five_in_a_second_are_tried_from_then_on() {
    let mut machine = birthday(Budget::Aggressive);
    machine.run(secs(5));

    let (canaries, sent) = (canaries(&machine), to_peer(&machine));
    assert!(canaries[0] <= sent[0]);
    let lately = canaries
        .iter()
        .filter(|at| **at >= secs(3) && **at < secs(5));
    let lately = lately.count();
    assert!((10..=12).contains(&lately), "{lately} in two seconds");
    // Each from a socket of its own, which closes when it has served.
    assert_eq!(machine.opened.len(), canaries.len() + 4);
    assert_eq!(machine.closed.len(), canaries.len());
}

#[test]
fn where_a_new_flow_gets_no_answer_from_the_beginning_nothing_is_searched() {
    let mut machine = holder(Budget::Normal);
    machine.new_flows = false;
    machine.run(secs(60));

    assert_eq!(machine.report().outcome, Outcome::PortsUsedUp);
    assert_eq!(to_peer(&machine).len(), 0);
    assert_eq!(machine.count(&AgentEvent::Failed), 1);
    assert!(machine.is_clean());
    // What others hold says nothing of how much there is. There is nothing to wait for either: no port is held.
    let over = |(at, event): &(Duration, AgentEvent)| {
        *at < secs(4) && matches!(event, AgentEvent::SearchOver { used_up: None, .. })
    };
    assert!(machine.events.iter().any(over), "{:?}", machine.events);
}

#[test]
fn where_new_flows_get_no_answer_after_the_very_first_nothing_is_learned() {
    let mut machine = holder(Budget::Normal);
    machine.run(ms(50));
    assert_eq!(canaries(&machine).len(), 1);
    machine.new_flows = false;
    machine.run(secs(30));

    // Between the first canary, which left before everything else, and the second, the search has made more than many NATs have.
    let report = machine.report();
    assert_eq!(report.outcome, Outcome::PortsUsedUp);
    assert!(report.mappings > 150, "{}", report.mappings);
    let over = |(_, event): &(Duration, AgentEvent)| {
        matches!(event, AgentEvent::SearchOver { used_up: None, .. })
    };
    assert!(machine.events.iter().any(over));
}

#[test]
fn a_search_ends_within_two_seconds_when_new_flows_get_no_answer_any_more() {
    let mut machine = birthday(Budget::Aggressive);
    machine.run(secs(2));
    assert!(is_searching(&machine.agent));
    machine.new_flows = false;
    let began = machine.elapsed();
    machine.run(secs(30));

    assert_eq!(machine.report().outcome, Outcome::PortsUsedUp);
    let last = *to_peer(&machine).last().unwrap();
    // A canary every 200 ms, and half a second for its answer; nothing is sent while the others are waited for.
    assert!(last <= began + ms(750), "{last:?} after {began:?}");
    let over = machine.events.iter().find_map(|(at, event)| match event {
        AgentEvent::SearchOver {
            used_up, mappings, ..
        } => Some((*at, *used_up, *mappings)),
        _ => None,
    });
    let (at, used_up, mappings) = over.unwrap();
    assert!(at <= began + ms(1800), "{at:?}");
    // What it had made when a new flow last got through; the canaries are among it. What came after that, the NAT may have dropped.
    let sent_by = |at| to_peer(&machine).iter().filter(|sent| **sent <= at).count() as u32;
    let granted = used_up.unwrap();
    let right = sent_by(began - ms(250))..=sent_by(began) + 15;
    assert!(
        right.contains(&granted) && granted < mappings,
        "{granted} of {mappings}, not {right:?}"
    );
    assert!(mappings as usize >= to_peer(&machine).len());
    assert!(machine.is_clean());
}

#[test]
fn a_canary_that_is_lost_on_the_way_only_makes_the_search_wait() {
    for lost in 1..=3 {
        let mut machine = birthday(Budget::Aggressive);
        machine.run(secs(2));
        machine.loses = lost;
        let began = machine.elapsed();
        machine.run(secs(3));
        assert!(is_searching(&machine.agent), "{lost} lost");
        let sent = to_peer(&machine);
        let longest = sent.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        // The first of the three confirmations leaves at once, the others 150 ms after each other.
        let bound = ms(150) * lost as u32;
        assert!(longest < bound, "{lost} lost: silent for {longest:?}");
        assert!(sent.iter().filter(|at| **at > began + secs(1)).count() > 10_000);
    }
}

#[test]
fn a_burst_of_losses_that_spares_the_old_flow_stops_no_search_and_teaches_nothing() {
    let mut machine = birthday(Budget::Aggressive);
    machine.run(secs(2));
    machine.new_flows = false;
    // The doubt begins 500 to 700 ms from here, and the last confirmation leaves 300 ms after that.
    machine.run(ms(750));
    machine.new_flows = true;
    machine.run(secs(2));
    assert!(is_searching(&machine.agent), "{:?}", machine.report());
}

#[test]
fn where_a_confirmation_gets_no_socket_the_search_ends_and_nothing_is_learned() {
    let mut machine = birthday(Budget::Aggressive);
    machine.run(secs(2));
    machine.new_flows = false;
    machine.run(ms(450));
    // None of the confirmations is ever sent.
    machine.can_open = 0;
    machine.run(secs(30));
    assert_eq!(machine.report().outcome, Outcome::Unwatched);
    let over = |(_, event): &(Duration, AgentEvent)| {
        matches!(event, AgentEvent::SearchOver { used_up: None, .. })
    };
    assert!(machine.events.iter().any(over));
}

#[test]
fn where_the_server_is_gone_the_search_ends_and_nothing_is_learned() {
    let mut machine = birthday(Budget::Aggressive);
    machine.run(secs(2));
    machine.server = false;
    machine.run(secs(30));

    assert_eq!(machine.report().outcome, Outcome::Unwatched);
    let over = |(_, event): &(Duration, AgentEvent)| {
        matches!(event, AgentEvent::SearchOver { used_up: None, .. })
    };
    assert!(machine.events.iter().any(over));
    assert!(machine.is_clean());
}

#[test]
fn where_the_capacity_is_not_known_the_aggressive_budget_doubles_while_new_flows_are_answered() {
    let mut machine = birthday(Budget::Aggressive);
    machine.run(ms(100));
    // The answers come at once here; from now on, none does.
    machine.new_flows = false;
    let made = to_peer(&machine).len();
    machine.run(secs(30));
    let all = to_peer(&machine).len();
    assert!(all <= 2 * made.max(256), "{made}, then {all}");

    // Without a server nobody looks, and it stays at what is safe.
    let mut config = ends(
        hard(FULL, Budget::Aggressive),
        hard(FULL, Budget::Aggressive),
        Role::Controlling,
    );
    config.samplers = Vec::new();
    let mut machine = Machine::new(config);
    machine.run(secs(60));
    let sent = machine.report().mappings;
    assert_eq!(sent, 256);
}

#[test]
fn of_a_block_a_search_takes_its_share_and_of_what_is_told_no_more() {
    for (budget, share) in [
        (Budget::Gentle, 256),
        (Budget::Normal, 768),
        (Budget::Aggressive, 960),
    ] {
        let nat = hard(block(1024), budget);
        let mut machine = Machine::between(nat.clone(), hard(block(1024), budget));
        machine.run(secs(60));
        let made = machine.report().mappings;
        assert!(made <= share && made >= share - 16, "{budget:?}: {made}");
        let told = NatSummary {
            search: Some(SearchFacts {
                measuring: false,
                mappings: 240,
            }),
            ..nat.clone()
        };
        let mut machine = Machine::between(told, hard(block(1024), Budget::Aggressive));
        machine.run(secs(60));
        assert!(machine.report().mappings <= 240, "{budget:?}");
    }
}
