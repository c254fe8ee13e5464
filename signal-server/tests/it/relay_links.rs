//! Links of the relay: made when both ends have joined with one token, ended when either goes.

use punch_signal::hub::relay::{LinkEnd, RelayLimits};
use punch_signal::hub::{ConnectionId, Limits, Output};
use punch_signal_protocol::{Capabilities, Frame, Refusal, RelayLink, RelayToken};

use crate::hub_harness::{HubHarness, NAME, closed, identity, ip, milliseconds, seconds};

fn token(number: u8) -> RelayToken {
    RelayToken([number; 16])
}

fn end(connection: ConnectionId, link: u32) -> LinkEnd {
    LinkEnd {
        connection,
        link: RelayLink(link),
    }
}

/// What making a link leads to.
fn linked(number: u8, one: LinkEnd, two: LinkEnd) -> Vec<Output> {
    let ready = |LinkEnd { connection, link }| {
        let token = token(number);
        Output::Send(connection, Frame::RelayReady { token, link })
    };
    vec![Output::Link(one, two), ready(one), ready(two)]
}

/// What ending a link leads to, at the end that is not to blame.
fn ended(gone: LinkEnd, other: LinkEnd) -> Vec<Output> {
    let told = Output::Send(other.connection, Frame::RelayGone(other.link));
    vec![Output::Unlink(gone, other), told]
}

fn relaying(relay: RelayLimits) -> HubHarness {
    HubHarness::with(Limits {
        relay: Some(relay),
        ..Limits::default()
    })
}

impl HubHarness {
    fn join(&mut self, connection: ConnectionId, number: u8) -> Vec<Output> {
        self.say(connection, &Frame::RelayJoin(token(number)))
    }

    fn leave(&mut self, connection: ConnectionId, link: u32) -> Vec<Output> {
        self.say(connection, &Frame::RelayLeave(RelayLink(link)))
    }
}

#[test]
fn two_that_join_with_one_token_have_a_link() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    assert_eq!(harness.join(one, 7), []);
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (1, 0)
    );

    let outputs = harness.join(two, 7);

    assert_eq!(outputs, linked(7, end(one, 1), end(two, 1)));
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (0, 1)
    );
}

#[test]
fn different_tokens_make_no_link() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    assert_eq!(harness.join(one, 7), []);
    assert_eq!(harness.join(two, 8), []);
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (2, 0)
    );
}

#[test]
fn each_end_has_numbers_of_its_own_and_none_comes_twice() {
    let mut harness = HubHarness::new();
    let (one, two, three) = (harness.client(1), harness.client(2), harness.client(3));
    harness.join(one, 1);
    harness.join(two, 1);
    harness.join(three, 2);
    assert_eq!(harness.join(one, 2), linked(2, end(three, 1), end(one, 2)));
    harness.leave(one, 2);
    harness.join(one, 3);
    assert_eq!(
        harness.join(three, 3),
        linked(3, end(one, 3), end(three, 2))
    );
}

#[test]
fn a_third_joiner_is_passed_over() {
    let mut harness = HubHarness::new();
    let [one, two, three] = [1, 2, 3].map(|number| harness.client(number));
    harness.join(one, 7);
    harness.join(two, 7);
    assert_eq!(harness.join(three, 7), []);
    // One of the two that did not hear yet asks again: no second link.
    assert_eq!(harness.join(one, 7), []);
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (0, 1)
    );
}

#[test]
fn an_identity_has_no_link_with_itself() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    assert_eq!(harness.join(one, 7), []);
    assert_eq!(harness.join(one, 7), []);
    assert_eq!(harness.hub.relay_joins(), 1);

    // Its next connection ends the join of the one before.
    let again = harness.client(1);
    assert_eq!(harness.hub.relay_joins(), 0);
    assert_eq!(harness.join(again, 7), []);
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (1, 0)
    );
}

#[test]
fn a_join_waits_for_so_long_and_asking_again_begins_anew() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    harness.join(one, 7);
    harness.pass(seconds(20));
    harness.join(one, 7);
    harness.pass(seconds(30) - milliseconds(1));
    assert_eq!(harness.join(two, 7).len(), 3);

    harness.join(one, 8);
    // Nothing has looked at the time since, yet the join is over.
    harness.now += seconds(30);
    assert_eq!(harness.join(two, 8), []);
    assert_eq!(harness.hub.relay_joins(), 1);
    assert_eq!(harness.pass(seconds(30)), []);
    assert_eq!(harness.hub.relay_joins(), 0);
}

#[test]
fn the_other_end_hears_that_one_has_left() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    harness.join(one, 7);
    harness.join(two, 7);
    assert_eq!(harness.leave(two, 1), ended(end(two, 1), end(one, 1)));
    assert_eq!(harness.hub.relay_links(), 0);

    // Both may join again with the token, and get other numbers.
    harness.join(two, 7);
    assert_eq!(harness.join(one, 7), linked(7, end(two, 2), end(one, 2)));
}

#[test]
fn the_other_ends_hear_that_a_connection_is_gone() {
    let mut harness = HubHarness::new();
    let [one, two, three] = [1, 2, 3].map(|number| harness.client(number));
    for (number, other) in [(7, two), (8, three)] {
        harness.join(one, number);
        harness.join(other, number);
    }
    harness.join(one, 9);
    harness.hub.handle_disconnect(one);
    let outputs = harness.outputs();
    let mut expected = ended(end(one, 1), end(two, 1));
    expected.extend(ended(end(one, 2), end(three, 1)));
    assert_eq!(outputs, expected);
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (0, 0)
    );
}

#[test]
fn the_other_end_hears_that_a_login_was_replaced() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    harness.join(one, 7);
    harness.join(two, 7);
    let (again, nonce) = harness.connect();
    let outputs = harness.say(again, &Frame::proof(&identity(1), &nonce, NAME));
    assert_eq!(outputs[0], closed(one, Refusal::Replaced));
    assert_eq!(outputs[1..3], ended(end(one, 1), end(two, 1)));

    harness.join(two, 7);
    assert_eq!(
        harness.join(again, 7),
        linked(7, end(two, 2), end(again, 1))
    );
}

#[test]
fn leaving_a_link_that_is_not_there_is_passed_over_and_counted() {
    let mut harness = HubHarness::new();
    let (one, two) = (harness.client(1), harness.client(2));
    harness.join(one, 7);
    harness.join(two, 7);
    harness.leave(one, 1);
    assert_eq!(harness.leave(one, 1), []);
    assert_eq!(harness.leave(two, 1), []);
    assert_eq!(harness.leave(two, 99), []);
    assert_eq!(harness.hub.counters().unknown_links, 3);
    assert_eq!(harness.hub.online(), 2);
}

#[test]
fn a_newer_join_takes_the_place_of_the_oldest_that_waits() {
    let mut harness = relaying(RelayLimits {
        joins: 2,
        ..RelayLimits::default()
    });
    let (one, two) = (harness.client(1), harness.client(2));
    for number in [1, 2, 3] {
        assert_eq!(harness.join(one, number), []);
    }
    assert_eq!(harness.hub.relay_joins(), 2);
    assert_eq!(harness.join(two, 1), [], "the oldest was given up");
    assert_eq!(harness.join(two, 2).len(), 3);
    assert_eq!(harness.join(two, 3).len(), 3);
}

#[test]
fn a_client_has_so_many_links_and_no_more() {
    let mut harness = relaying(RelayLimits {
        links: 2,
        ..RelayLimits::default()
    });
    let [one, two, three] = [1, 2, 3].map(|number| harness.client(number));
    for number in [1, 2] {
        harness.join(one, number);
        assert_eq!(harness.join(two, number).len(), 3);
    }
    harness.join(three, 3);
    assert_eq!(harness.join(one, 3), [], "passed over");
    assert_eq!(
        (harness.hub.relay_joins(), harness.hub.relay_links()),
        (1, 2)
    );
    harness.leave(two, 1);
    assert_eq!(harness.join(one, 3).len(), 3);
}

#[test]
fn joins_and_links_of_one_source_and_of_all_are_bounded() {
    let mut harness = relaying(RelayLimits {
        joins_per_address: 2,
        joins_in_all: 3,
        links_per_address: 3,
        links_in_all: 2,
        ..RelayLimits::default()
    });
    let from = |harness: &mut HubHarness, address: u8, number: u16| {
        let (connection, nonce) = harness.connect_from(ip(address)).unwrap();
        harness.say(connection, &Frame::proof(&identity(number), &nonce, NAME));
        connection
    };
    let [one, two] = [1, 2].map(|number| from(&mut harness, 1, number));
    let [three, four] = [3, 4].map(|number| from(&mut harness, number as u8, number));
    for (connection, number) in [(one, 1), (two, 2), (one, 3), (three, 4), (four, 5)] {
        assert_eq!(harness.join(connection, number), []);
    }
    assert_eq!(
        harness.hub.relay_joins(),
        3,
        "two of one source, three in all"
    );
    assert_eq!(harness.join(two, 3), [], "it had not been taken");

    assert_eq!(harness.join(two, 1).len(), 3);
    assert_eq!(harness.join(one, 2), [], "a source has so many ends");
    assert_eq!(harness.join(four, 4).len(), 3);
    harness.join(three, 6);
    assert_eq!(harness.join(four, 6), [], "so many links in all");
    harness.hub.handle_disconnect(one);
    harness.outputs();
    assert_eq!(harness.join(four, 6).len(), 3);
}

#[test]
fn sources_that_take_what_they_get_leave_joins_and_links_to_others() {
    let mut harness = relaying(RelayLimits {
        joins_in_all: 1024,
        links_in_all: 1024,
        ..RelayLimits::default()
    });
    let mut clients = 0;
    let mut client = |harness: &mut HubHarness, address: u8| {
        let (connection, nonce) = harness.connect_from(ip(address)).unwrap();
        clients += 1;
        harness.say(connection, &Frame::proof(&identity(clients), &nonce, NAME));
        connection
    };
    let mut tokens = 0_u128;
    let mut join = |harness: &mut HubHarness, connections: &[ConnectionId]| {
        tokens += 1;
        let token = RelayToken(tokens.to_be_bytes());
        for connection in connections {
            harness.say(*connection, &Frame::RelayJoin(token));
        }
    };
    // Four clients a source, each with as many joins as one may have.
    for address in 1..=7 {
        for _ in 0..4 {
            let one = client(&mut harness, address);
            (0..64).for_each(|_| join(&mut harness, &[one]));
        }
    }
    let taken = harness.hub.relay_joins();
    let one = client(&mut harness, 200);
    join(&mut harness, &[one]);
    assert_eq!(harness.hub.relay_joins(), taken + 1, "of {taken}");

    harness.pass(seconds(31));
    for address in 1..=7 {
        let [one, two] = [0, 1].map(|_| client(&mut harness, address));
        for _ in 0..300 {
            // A client may say so much.
            harness.pass(milliseconds(25));
            join(&mut harness, &[one, two]);
        }
    }
    let taken = harness.hub.relay_links();
    assert!(taken < 1024, "{taken}");
    let [one, two] = [201, 202].map(|address| client(&mut harness, address));
    join(&mut harness, &[one, two]);
    assert_eq!(harness.hub.relay_links(), taken + 1, "of {taken}");
}

#[test]
fn a_server_that_does_not_relay_knows_no_joins() {
    let mut harness = HubHarness::with(Limits {
        relay: None,
        ..Limits::default()
    });
    for frame in [Frame::RelayJoin(token(1)), Frame::RelayLeave(RelayLink(1))] {
        let (connection, nonce) = harness.connect();
        let outputs = harness.say(connection, &Frame::proof(&identity(1), &nonce, NAME));
        let capabilities = Frame::ServerCapabilities(Capabilities::NONE);
        assert_eq!(outputs[1], Output::Send(connection, capabilities));
        assert_eq!(
            harness.say(connection, &frame),
            [closed(connection, Refusal::BadFrame)]
        );
    }
}

#[test]
fn joins_and_relay_frames_before_the_login_are_refused() {
    for bytes in [
        Frame::RelayJoin(token(1)).encode(),
        Frame::RelayLeave(RelayLink(1)).encode(),
        vec![32, 0, 0, 0, 1],
    ] {
        let mut harness = HubHarness::new();
        let (connection, _) = harness.connect();
        assert_eq!(
            harness.say_bytes(connection, &bytes),
            [closed(connection, Refusal::BadFrame)]
        );
    }
}

#[test]
fn joins_count_among_the_frames_of_a_client() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    for _ in 1..200 {
        assert_eq!(harness.join(one, 1), []);
    }
    assert_eq!(harness.join(one, 1), [closed(one, Refusal::TooFast)]);
    assert_eq!(harness.hub.relay_joins(), 0);
}
