//! Who wants to be told when another appears.

use punch_signal::hub::{Output, QUIET};
use punch_signal_protocol::Frame;

use crate::hub_harness::{HubHarness, NAME, appeared, id, identity, milliseconds, welcome};

#[test]
fn a_peer_that_is_online_is_announced_at_once() {
    let mut harness = HubHarness::new();
    let (one, _two) = (harness.client(1), harness.client(2));
    assert_eq!(harness.say(one, &Frame::Watch(id(2))), [appeared(one, 2)]);
}

#[test]
fn a_peer_that_comes_later_is_announced_then_and_each_time() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    assert_eq!(harness.say(one, &Frame::Watch(id(2))), []);
    for _ in 0..3 {
        let (two, nonce) = harness.connect();
        let outputs = harness.say(two, &Frame::proof(&identity(2), &nonce, NAME));
        assert_eq!(outputs[..2], welcome(two));
        assert_eq!(outputs[2..], [appeared(one, 2)]);
        harness.hub.handle_disconnect(two);
        assert_eq!(harness.pass(QUIET), []);
    }
}

#[test]
fn logins_in_quick_succession_are_announced_once_and_then_once_more() {
    let mut harness = HubHarness::new();
    let watchers: Vec<_> = (10..40).map(|number| harness.client(number)).collect();
    for watcher in &watchers {
        harness.say(*watcher, &Frame::Watch(id(2)));
    }
    let is_appeared = |output: &Output| matches!(output, Output::Send(_, Frame::Appeared(_)));
    let mut told = 0;
    for _ in 0..50 {
        let (two, nonce) = harness.connect();
        let outputs = harness.say(two, &Frame::proof(&identity(2), &nonce, NAME));
        told += outputs.iter().filter(|output| is_appeared(output)).count();
    }
    assert_eq!(told, watchers.len(), "the first login");

    // It is still there: that its last login was the newest is told, once.
    assert_eq!(harness.pass(QUIET - milliseconds(1)), []);
    let outputs = harness.pass(milliseconds(1));
    let all: Vec<_> = watchers
        .iter()
        .map(|watcher| appeared(*watcher, 2))
        .collect();
    assert_eq!(outputs, all);
    assert_eq!(harness.pass(QUIET), []);
}

#[test]
fn a_login_that_is_over_when_it_would_be_announced_is_not() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    harness.say(one, &Frame::Watch(id(2)));
    let first = harness.client(2);
    harness.hub.handle_disconnect(first);
    let second = harness.client(2);
    harness.hub.handle_disconnect(second);
    assert_eq!(harness.pass(QUIET), []);
    let (third, nonce) = harness.connect();
    let outputs = harness.say(third, &Frame::proof(&identity(2), &nonce, NAME));
    assert!(
        !outputs.contains(&appeared(one, 2)),
        "announced within {QUIET:?}: {outputs:?}"
    );
    assert_eq!(harness.pass(QUIET), [appeared(one, 2)]);
}

#[test]
fn a_peer_that_connects_again_without_having_gone_is_announced() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    harness.client(2);
    harness.say(one, &Frame::Watch(id(2)));
    let (two, nonce) = harness.connect();
    let outputs = harness.say(two, &Frame::proof(&identity(2), &nonce, NAME));
    assert!(
        outputs.contains(&appeared(one, 2)),
        "it may have restarted: {outputs:?}"
    );
}

#[test]
fn everybody_who_watches_is_told_once() {
    let mut harness = HubHarness::new();
    let watchers: Vec<_> = (10..20).map(|number| harness.client(number)).collect();
    for watcher in &watchers {
        harness.say(*watcher, &Frame::Watch(id(2)));
        harness.say(*watcher, &Frame::Watch(id(2)));
    }
    let (two, nonce) = harness.connect();
    let outputs = harness.say(two, &Frame::proof(&identity(2), &nonce, NAME));
    assert_eq!(outputs.len(), welcome(two).len() + watchers.len());
    for watcher in watchers {
        assert!(outputs.contains(&appeared(watcher, 2)));
    }
}

#[test]
fn nobody_is_told_who_does_not_watch_any_more() {
    let mut harness = HubHarness::new();
    let (one, gone) = (harness.client(1), harness.client(3));
    harness.say(one, &Frame::Watch(id(2)));
    harness.say(gone, &Frame::Watch(id(2)));
    assert_eq!(harness.say(one, &Frame::Unwatch(id(2))), []);
    harness.hub.handle_disconnect(gone);
    let (two, nonce) = harness.connect();
    let outputs = harness.say(two, &Frame::proof(&identity(2), &nonce, NAME));
    assert_eq!(outputs, welcome(two));
}

#[test]
fn ending_a_watch_that_never_was_is_no_offence() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    assert_eq!(harness.say(one, &Frame::Unwatch(id(2))), []);
    assert_eq!(harness.hub.online(), 1);
}

#[test]
fn unwatching_one_leaves_the_others_watch() {
    let mut harness = HubHarness::new();
    let (one, three) = (harness.client(1), harness.client(3));
    harness.say(one, &Frame::Watch(id(2)));
    harness.say(three, &Frame::Watch(id(2)));
    harness.say(one, &Frame::Unwatch(id(2)));
    let (two, nonce) = harness.connect();
    let outputs = harness.say(two, &Frame::proof(&identity(2), &nonce, NAME));
    assert_eq!(outputs[..2], welcome(two));
    assert_eq!(outputs[2..], [appeared(three, 2)]);
}

#[test]
fn a_client_may_watch_itself() {
    let mut harness = HubHarness::new();
    let one = harness.client(1);
    assert_eq!(harness.say(one, &Frame::Watch(id(1))), [appeared(one, 1)]);
    harness.client(1);
    assert_eq!(harness.hub.online(), 1);
}
