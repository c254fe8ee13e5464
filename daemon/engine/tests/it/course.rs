//! Since when a peer's packets take the path that they take, and why.

use std::time::{Duration, Instant};

use punch_engine::{EngineEvent, News, PathReason};

use crate::packets::{at, udp};
use crate::relay::{block_udp, relayed};
use crate::switchboard::Switchboard;
use crate::world::{A, B, World, handle, millis, seconds};

/// When packets of this host began to take their path, and why.
fn since(world: &World, index: usize) -> Option<(Instant, PathReason)> {
    let report = world.hosts[index].engine.peer_report(handle(1 - index));
    report.unwrap().since
}

fn why(world: &World, index: usize) -> Option<PathReason> {
    since(world, index).map(|(_, why)| why)
}

/// Why packets of this host have taken another path, each time since this was asked last.
fn reasons(world: &mut World, index: usize) -> Vec<PathReason> {
    let events = std::mem::take(&mut world.hosts[index].events).into_iter();
    let reasons = events.filter_map(|event| match event {
        EngineEvent::News(News::Selected { why, .. }) => Some(why),
        _ => None,
    });
    reasons.collect()
}

/// Sends both ways for so long.
fn talk(world: &mut World, span: Duration) {
    let [a, b] = [A, B].map(|index| at(world.hosts[index].overlay(true), 4000));
    let end = world.now + span;
    while world.now < end {
        world.send(A, &udp(a, b, b"there"));
        world.send(B, &udp(b, a, b"back"));
        world.run_for(millis(20));
    }
}

#[test]
fn a_relay_is_first_a_direct_path_a_promotion_and_when_that_dies_it_is_silent() {
    let mut world = relayed(2);
    block_udp(&mut world);
    assert_eq!(since(&world, A), None);
    let began = world.now;
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    let (at, _) = since(&world, A).unwrap();
    assert!(at > began && at <= world.now);
    world.run_for(seconds(100));
    assert_eq!(since(&world, A), Some((at, PathReason::First)));
    assert_eq!(reasons(&mut world, A), [PathReason::First]);

    world.filter = Box::new(|_| true);
    talk(&mut world, seconds(120));
    let said = reasons(&mut world, A);
    assert_eq!(said.first(), Some(&PathReason::Promoted), "{said:?}");
    assert_eq!(why(&world, A), said.last().copied());
    assert!(since(&world, A).unwrap().0 > at);

    block_udp(&mut world);
    talk(&mut world, seconds(20));
    let said = reasons(&mut world, A);
    assert!(!said.is_empty(), "{said:?}");
    let silent = said.iter().all(|why| *why == PathReason::Silent);
    assert!(silent, "{said:?}");
    assert_eq!(why(&world, B), Some(PathReason::Silent));
}

#[test]
fn a_path_that_is_in_doubt_for_a_moment_has_recovered() {
    let mut world = relayed(14);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    talk(&mut world, seconds(6));
    reasons(&mut world, A);
    block_udp(&mut world);
    talk(&mut world, millis(1400));
    world.filter = Box::new(|_| true);
    talk(&mut world, seconds(3));
    let said = reasons(&mut world, A);
    assert_eq!(said, [PathReason::Silent, PathReason::Recovered]);
    assert_eq!(why(&world, A), Some(PathReason::Recovered));
}

#[test]
fn a_relay_that_is_made_again_after_its_server_died_comes_of_that() {
    let mut world = relayed(5);
    block_udp(&mut world);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    for index in [A, B] {
        world.sign_out(index);
    }
    world.relay = Some(Switchboard::default());
    world.run_for(seconds(3));
    assert_eq!(since(&world, A), None);
    for index in [A, B] {
        world.sign_in(index);
    }
    world.wait_for_both(seconds(30));
    assert_eq!(why(&world, A), Some(PathReason::RelayLost));
}

#[test]
fn who_has_moved_says_so_and_the_other_end_says_that_the_peer_has() {
    let mut world = World::connected(7);
    world.run_for(seconds(10));
    reasons(&mut world, A);
    reasons(&mut world, B);
    world.renumber(A);
    world.run_for(seconds(10));
    let said = reasons(&mut world, A);
    assert_eq!(said.first(), Some(&PathReason::NetworkChanged), "{said:?}");
    let said = reasons(&mut world, B);
    assert_eq!(said.first(), Some(&PathReason::PeerMoved), "{said:?}");
}

#[test]
fn a_peer_that_restarts_has_called_anew() {
    let mut world = World::connected(7);
    world.run_for(seconds(10));
    reasons(&mut world, A);
    world.restart(B);
    world.set_up(B, A, true);
    world.run_for(seconds(30));
    let said = reasons(&mut world, A);
    assert!(said.contains(&PathReason::Renewed), "{said:?}");
    assert_eq!(why(&world, B), Some(PathReason::First));
}

#[test]
fn who_goes_on_with_an_earlier_process_s_path_says_so() {
    let mut world = World::connected(7);
    world.run_for(seconds(10));
    let heritage = world.hosts[A].engine.bequeath(true, world.now);
    world.hand_over(A, millis(300), heritage);
    world.run_for(millis(100));
    assert_eq!(why(&world, A), Some(PathReason::TakenOver));
}

#[test]
fn down_ends_all_that_is_known_of_a_path() {
    let mut world = World::connected(7);
    world.set_up(A, B, false);
    world.run_for(seconds(1));
    assert_eq!(since(&world, A), None);
    reasons(&mut world, A);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(10));
    assert_eq!(reasons(&mut world, A).first(), Some(&PathReason::First));
}
