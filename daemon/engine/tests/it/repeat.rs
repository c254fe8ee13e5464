//! Offers that cross, and offers that are made again.

use std::time::Duration;

use punch_engine::LinkState;
use punch_signal_protocol::Frame;
use punch_signal_protocol::seal::Kind;

use crate::bot::Bot;
use crate::offer::said;
use crate::packets::{at, udp};
use crate::world::{A, B, World, millis, seconds};

#[test]
fn offers_that_cross_lead_to_one_session() {
    for seed in 0..12 {
        let mut world = World::pair(seed);
        world.latency = millis([1, 10, 100, 400][seed as usize % 4]);
        world.grant(A, B, true);
        world.grant(B, A, true);

        world.set_up(A, B, true);
        world.set_up(B, A, true);
        world.wait_for_both(seconds(20));
        world.run_for(seconds(10));

        let answers = world
            .envelopes
            .iter()
            .filter(|(_, _, envelope)| envelope[0] == 2);
        assert!(answers.count() <= 2, "seed {seed}");
        let envelopes = world.envelopes.len();
        world.run_for(seconds(120));
        assert_eq!(world.envelopes.len(), envelopes, "both are content");
        for (from, to) in [(A, B), (B, A)] {
            let (a, b) = (
                world.hosts[from].overlay(true),
                world.hosts[to].overlay(true),
            );
            let packet = udp(at(a, 1), at(b, 2), b"hello");
            world.send(from, &packet);
            world.run_for(seconds(1));
            assert_eq!(world.hosts[to].take_tun(), [packet]);
        }
    }
}

#[test]
fn offers_that_nearly_cross_lead_to_one_session() {
    for delay in [1, 5, 9, 10, 11, 15, 20, 25, 30, 35, 40, 50, 100] {
        for (first, second) in [(A, B), (B, A)] {
            let mut world = World::pair(7);
            world.set_up(first, second, true);
            world.run_for(millis(delay));
            world.set_up(second, first, true);
            let took = world.wait_for_both(seconds(20));
            assert!(took < seconds(1), "{took:?} with {delay} ms between them");
            world.run_for(seconds(60));
            assert_eq!(world.state(A, B), LinkState::Connected);
            assert_eq!(world.state(B, A), LinkState::Connected);
        }
    }
}

/// A has called B for minutes, without an answer and without hearing that B is not there; an offer of A's has just gone out.
fn called_in_vain(seed: u64) -> (World, Bot) {
    let mut world = World::pair(seed);
    // Nobody is told that it is a stranger.
    world.edit(B, |configuration| configuration.peers.clear());
    world.set_up(A, B, true);
    world.run_for(seconds(300));
    until_offer(&mut world, seconds(80));
    let bot = Bot::new(world.hosts[B].identity.clone());
    (world, bot)
}

/// How long it takes A to make its next offer.
fn until_offer(world: &mut World, most: Duration) -> Duration {
    let offers = |world: &World| {
        said(world)
            .iter()
            .filter(|kind| **kind == Kind::Offer)
            .count()
    };
    let (began, before) = (world.now, offers(world));
    while offers(world) == before {
        assert!(world.now - began < most, "no offer in {most:?}");
        world.run_for(millis(10));
    }
    world.now - began
}

/// Somebody else speaks for B, which has the smaller key; an offer of A's has just gone out and is lost.
fn called_a_smaller_key() -> (World, Bot) {
    (0..)
        .map(called_in_vain)
        .find(|(world, _)| world.hosts[A].id() > world.hosts[B].id())
        .unwrap()
}

#[test]
fn an_offer_that_yields_to_ours_has_ours_repeated_soon() {
    // The peer comes to a server that did not know it a moment ago: what we sent it is lost.
    let (mut world, mut bot) = called_a_smaller_key();
    world.run_for(millis(900));
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    world.hear(A, bot.deliver(offer));
    assert!(!said(&world).contains(&Kind::Answer), "ours counts");
    assert!(until_offer(&mut world, seconds(80)) <= millis(2100));
}

#[test]
fn an_offer_that_cannot_have_crossed_ours_is_answered() {
    let (mut world, mut bot) = called_a_smaller_key();
    world.run_for(millis(1000));
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    world.hear(A, bot.deliver(offer));
    assert!(said(&world).contains(&Kind::Answer));
}

/// The server has passed ours to a connection of the peer's that was dead, and tells of the next one.
#[test]
fn an_offer_of_a_peer_that_has_logged_in_since_ours_is_answered_at_once() {
    let (mut world, mut bot) = called_a_smaller_key();
    world.run_for(millis(100));
    world.hear(A, Frame::Appeared(bot.identity.id()));
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    world.hear(A, bot.deliver(offer));
    assert!(said(&world).contains(&Kind::Answer));
}

#[test]
fn a_peer_that_logs_in_after_an_offer_gets_another_one_at_once_and_not_again_for_half_a_minute() {
    let (mut world, bot) = called_a_smaller_key();
    let id = bot.identity.id();
    world.run_for(millis(100));
    world.hear(A, Frame::Appeared(id));
    assert!(until_offer(&mut world, seconds(80)) <= millis(260));
    world.run_for(millis(100));
    world.hear(A, Frame::Appeared(id));
    let took = until_offer(&mut world, seconds(80));
    assert!((seconds(2)..=seconds(3)).contains(&took), "{took:?}");
}

/// Ours was not lost, though a server has told of another login since.
#[test]
fn offers_that_cross_lead_to_one_session_when_one_counts_as_lost_and_is_not() {
    for delay in [1, 5, 9, 10, 11, 15, 20, 25, 30, 35, 40, 50, 100] {
        for latency in [10, 80] {
            let mut world = World::pair(7);
            world.latency = millis(latency);
            let [larger, other] = if world.hosts[A].id() > world.hosts[B].id() {
                [A, B]
            } else {
                [B, A]
            };
            // Nothing that either finds out about its NAT brings another offer.
            world.run_for(seconds(20));
            world.set_up(larger, other, true);
            // The second one that comes tells of a login.
            for _ in 0..2 {
                let id = world.hosts[other].id();
                world.hear(larger, Frame::Appeared(id));
            }
            world.run_for(millis(delay));
            world.set_up(other, larger, true);
            let took = world.wait_for_both(seconds(20));
            assert!(took < seconds(1), "{took:?}, {delay} ms between them");
            world.run_for(seconds(60));
            assert_eq!(world.state(A, B), LinkState::Connected);
            assert_eq!(world.state(B, A), LinkState::Connected);
            let offers = said(&world).len();
            world.run_for(seconds(60));
            assert_eq!(said(&world).len(), offers, "both are content");
        }
    }
}

/// Of B, which was called, no server tells A while its path serves: the offer that A makes in another network is not to wait for that.
#[test]
fn an_offer_that_a_move_brings_goes_out_with_the_next_login() {
    for down_first in [false, true] {
        let mut world = World::pair(3);
        world.grant(A, B, true);
        world.set_up(B, A, true);
        world.wait_for_both(seconds(20));
        world.run_for(seconds(60));
        let before = world.envelopes.len();
        if down_first {
            world.sign_out(A);
        }
        world.renumber(A);
        if !down_first {
            world.sign_out(A);
            world.run_for(millis(50));
        }
        world.sign_in(A);
        world.run_for(millis(1));
        let of_a = world.envelopes[before..].iter();
        let id = world.hosts[A].id();
        let offers = of_a.filter(|(from, _, envelope)| *from == id && envelope[0] == 1);
        assert_eq!(offers.count(), if down_first { 1 } else { 2 });
    }
}

#[test]
fn offers_in_vain_do_not_delay_the_next_attempt_once_the_peer_is_there() {
    let (mut world, mut bot) = called_in_vain(1);
    let (_, _, offer) = world.envelopes.last().unwrap().clone();
    let description = bot.description(world.wall(), &[]);
    let (_, answer) = bot.answer(world.hosts[A].id(), &offer, description);
    world.hear(A, bot.deliver(answer));
    assert_eq!(world.state(A, B), LinkState::Connecting);
    // Nothing comes of it, and the next offer follows after the time that a second one takes.
    let took = until_offer(&mut world, seconds(80));
    assert!(took < seconds(25), "{took:?}");
    // The peer signs in, and ours of then is lost too.
    world.run_for(seconds(300));
    world.hear(A, Frame::Appeared(bot.identity.id()));
    let took = until_offer(&mut world, seconds(80));
    assert!(took < seconds(10), "{took:?}");
}
