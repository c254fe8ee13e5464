//! Ends of connections: friendly, half, and not friendly at all.

use punch_api::Protocol;
use punch_forward::{BUFFER, Order, Presence, TargetEvent};
use smoltcp::socket::tcp::State;

use crate::packets::flags;
use crate::world::{Manner, World};
use crate::{counts, key, ms, noise, secs};

fn ends(world: &World) -> Vec<&Order> {
    let end =
        |order: &&Order| matches!(order, Order::Finish(_) | Order::Reset(_) | Order::Close(_));
    world.orders.iter().filter(end).collect()
}

fn resets(world: &World) -> usize {
    world
        .to_client
        .iter()
        .filter(|packet| flags(packet).is_some_and(|flags| flags.rst()))
        .count()
}

fn is_empty(world: &World) -> bool {
    let open = |ports| counts(&world.stack, key(Protocol::Tcp, ports)).0;
    open("5432") + open("8000-8010") == 0 && world.stack.poll_timeout().is_none()
}

// --- friendly ---

#[test]
fn when_the_client_finishes_the_target_hears_it_only_after_all_bytes() {
    let mut world = World::new(Manner::Deaf);
    let (program, stream) = world.connected(40000, 5432);
    let bytes = noise(100_000, 20);
    world.client.send(program, &bytes);
    world.client.close(program);
    world.run(secs(5));
    assert!(ends(&world).is_empty(), "unread bytes are before the end");

    while world.target(stream).received.len() < bytes.len() {
        assert!(ends(&world).is_empty());
        assert!(world.target_reads(stream, 30_000) > 0);
        world.run(ms(10));
    }

    assert_eq!(ends(&world), [&Order::Finish(stream)]);
    assert!(world.target(stream).received == bytes);
}

#[test]
fn a_client_that_has_finished_still_hears_its_target() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    world.client.send(program, b"request");
    world.client.close(program);
    world.run(ms(100));
    assert_eq!(ends(&world), [&Order::Finish(stream)]);
    let answer = noise(1 << 20, 21);

    world.target_sends(stream, &answer);
    world.target_finishes(stream);
    world.run(secs(10));

    assert!(world.client.programs[program].received == answer);
    assert!(world.client.is_finished(program));
    assert_eq!(
        ends(&world),
        [&Order::Finish(stream), &Order::Close(stream)]
    );
    world.run(secs(15));
    assert_eq!(resets(&world), 0);
    assert!(is_empty(&world));
}

#[test]
fn when_the_target_finishes_the_client_hears_it_after_the_bytes_and_may_go_on() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    let (down, up) = (noise(BUFFER * 2, 22), noise(1 << 20, 23));

    world.target_sends(stream, &down);
    world.target_finishes(stream);
    world.run(secs(10));
    assert!(world.client.programs[program].received == down);
    assert!(world.client.is_finished(program));
    assert_eq!(world.client.state(program), State::CloseWait);

    world.client.send(program, &up);
    world.client.close(program);
    world.run(secs(10));

    assert!(world.target(stream).received == up);
    assert!(ends(&world).starts_with(&[&Order::Finish(stream)]));
    world.run(secs(15));
    assert_eq!(
        ends(&world),
        [&Order::Finish(stream), &Order::Close(stream)]
    );
    assert_eq!(resets(&world), 0);
    assert!(is_empty(&world));
}

#[test]
fn both_ends_may_finish_at_the_same_moment() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);

    world.client.send(program, b"bye");
    world.client.close(program);
    world.target_sends(stream, b"good bye");
    world.target_finishes(stream);
    world.run(secs(30));

    assert_eq!(world.target(stream).received, b"bye");
    assert_eq!(world.client.programs[program].received, b"good bye");
    assert_eq!(
        ends(&world),
        [&Order::Finish(stream), &Order::Close(stream)]
    );
    assert_eq!(world.client.state(program), State::Closed);
    assert!(is_empty(&world));
}

#[test]
fn a_target_that_closes_as_soon_as_it_is_connected_looks_like_one_that_closes() {
    let mut world = World::new(Manner::Manual);
    let program = world.connect(40000, 5432);
    world.run(ms(50));
    let stream = world.last_stream();

    // The client's side of the handshake has yet to come.
    world.report(stream, TargetEvent::Connected);
    world.report(stream, TargetEvent::Finished);
    world.run(ms(100));
    assert!(world.client.is_finished(program));
    assert_eq!(world.client.state(program), State::CloseWait);

    world.client.close(program);
    world.run(secs(30));
    assert_eq!(world.client.state(program), State::Closed);
    assert_eq!(
        ends(&world),
        [&Order::Finish(stream), &Order::Close(stream)]
    );
    assert!(is_empty(&world));
}

#[test]
fn a_target_that_says_one_line_and_closes_is_heard() {
    let mut world = World::new(Manner::Eager);
    let program = world.connect(40000, 5432);
    world.run(ms(6));
    let stream = world.last_stream();

    world.target_sends(stream, b"busy, try later\n");
    world.target_finishes(stream);
    world.run(secs(1));

    assert_eq!(
        world.client.programs[program].received,
        b"busy, try later\n"
    );
    assert!(world.client.is_finished(program));
}

#[test]
fn a_slow_target_gets_every_byte_although_both_ends_have_long_finished() {
    let mut world = World::new(Manner::Deaf);
    let (program, stream) = world.connected(40000, 5432);
    let bytes = noise(200_000, 24);
    world.target_finishes(stream);
    world.run(ms(100));
    world.client.send(program, &bytes);
    world.client.close(program);

    // Longer than the connection lingers for late packets.
    world.run(secs(60));
    while world.target_reads(stream, 20_000) > 0 {
        world.run(secs(1));
    }

    assert_eq!(world.target(stream).received.len(), bytes.len());
    assert!(world.target(stream).received == bytes);
    world.run(secs(30));
    assert_eq!(
        ends(&world),
        [&Order::Finish(stream), &Order::Close(stream)]
    );
    assert!(is_empty(&world));
}

#[test]
fn a_slow_target_gets_every_byte_also_when_the_client_finished_first() {
    let mut world = World::new(Manner::Deaf);
    let (program, stream) = world.connected(40000, 5432);
    let bytes = noise(200_000, 25);
    world.client.send(program, &bytes);
    world.client.close(program);
    world.run(secs(5));
    world.target_finishes(stream);

    world.run(secs(60));
    while world.target_reads(stream, 20_000) > 0 {
        world.run(secs(1));
    }

    assert!(world.target(stream).received == bytes);
    assert_eq!(
        ends(&world),
        [&Order::Finish(stream), &Order::Close(stream)]
    );
    assert!(is_empty(&world));
}

#[test]
fn a_port_can_be_used_again_while_its_last_connection_still_lingers() {
    let mut world = World::new(Manner::Eager);
    let (program, first) = world.connected(40000, 5432);
    world.target_finishes(first);
    world.run(ms(50));
    world.client.close(program);
    world.run(ms(50));
    assert_eq!(world.client.state(program), State::Closed);
    assert!(!world.target(first).closed, "it lingers");

    let (again, second) = world.connected(40000, 5432);
    world.client.send(again, b"hello again");
    world.run(ms(100));

    assert_ne!(first, second);
    assert_eq!(world.target(second).received, b"hello again");
    assert!(
        world.target(first).closed,
        "what the owner holds for the first one must go"
    );
    assert_eq!(resets(&world), 0);
    assert_eq!(counts(&world.stack, key(Protocol::Tcp, "5432")), (1, 2));
}

#[test]
fn a_port_can_be_used_again_while_a_slow_target_still_reads_what_came_before() {
    for client_first in [false, true] {
        let mut world = World::new(Manner::Deaf);
        let (program, first) = world.connected(40000, 5432);
        let bytes = noise(50_000, 26);
        world.client.send(program, &bytes);
        if client_first {
            world.client.close(program);
            world.run(ms(100));
        }
        world.target_finishes(first);
        world.run(ms(100));
        world.client.close(program);
        world.run(secs(15));
        assert_eq!(world.client.state(program), State::Closed, "{client_first}");

        let (again, second) = world.connected(40000, 5432);
        world.client.send(again, b"hello again");
        world.run(secs(20));
        while world.target_reads(first, 20_000) > 0 {
            world.run(secs(1));
        }
        world.target_reads(second, 100);
        world.run(ms(100));

        assert!(world.target(first).received == bytes, "{client_first}");
        assert!(world.target(first).finished && world.target(first).closed);
        assert_eq!(world.target(second).received, b"hello again");
        assert_eq!(world.client.state(again), State::Established);
        world.client.send(again, b"!");
        world.run(ms(100));
        assert_eq!(
            world.target_reads(second, 100),
            1,
            "the new connection is still found"
        );
        assert_eq!(resets(&world), 0);
    }
}

#[test]
fn a_port_can_be_used_again_after_the_connection_is_over() {
    let mut world = World::new(Manner::Eager);
    for round in 1..=5 {
        let (program, stream) = world.connected(40000, 5432);
        world.client.send(program, b"x");
        world.client.close(program);
        world.target_finishes(stream);
        world.run(secs(40));
        assert_eq!(world.target(stream).received, b"x", "{round}");
        assert!(world.target(stream).closed);
        assert!(is_empty(&world));
    }
    assert_eq!(resets(&world), 0);
}

// --- not friendly ---

#[test]
fn when_the_client_resets_the_target_is_reset() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);

    world.client.socket(program).abort();
    world.run(ms(50));

    assert_eq!(ends(&world), [&Order::Reset(stream)]);
    assert!(is_empty(&world));
}

#[test]
fn a_client_that_resets_after_one_end_has_finished_still_resets_its_target() {
    for target_first in [true, false] {
        let mut world = World::new(Manner::Eager);
        let (program, stream) = world.connected(40000, 5432);
        if target_first {
            world.target_finishes(stream);
        } else {
            world.client.close(program);
        }
        world.run(ms(50));

        world.client.socket(program).abort();
        world.run(ms(50));

        assert_eq!(
            ends(&world).last(),
            Some(&&Order::Reset(stream)),
            "{target_first}"
        );
        assert!(is_empty(&world));
    }
}

#[test]
fn when_the_target_resets_the_client_is_reset() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);

    world.report(stream, TargetEvent::Reset);
    world.run(ms(50));

    assert_eq!(world.client.state(program), State::Closed);
    assert_eq!(resets(&world), 1);
    assert_eq!(ends(&world), [&Order::Close(stream)]);
    assert!(is_empty(&world));
}

#[test]
fn when_a_target_resets_before_it_has_read_everything_the_stream_is_over_too() {
    let mut world = World::new(Manner::Deaf);
    let (program, stream) = world.connected(40000, 5432);
    world.client.send(program, b"nobody reads this");
    world.run(ms(50));

    world.report(stream, TargetEvent::Reset);
    world.run(ms(50));

    assert_eq!(world.client.state(program), State::Closed);
    assert_eq!(ends(&world), [&Order::Close(stream)]);
    assert!(is_empty(&world));
}

#[test]
fn when_a_target_resets_during_the_handshake_the_client_is_reset() {
    let mut world = World::new(Manner::Manual);
    let program = world.connect(40000, 5432);
    world.run(ms(50));
    let stream = world.last_stream();

    world.report(stream, TargetEvent::Connected);
    world.report(stream, TargetEvent::Reset);
    world.run(ms(100));

    assert_eq!(world.client.state(program), State::Closed);
    assert_eq!(ends(&world), [&Order::Close(stream)]);
    assert!(is_empty(&world));
}

#[test]
fn when_a_rule_goes_its_streams_end_and_the_others_go_on() {
    let mut world = World::new(Manner::Eager);
    let (gone, gone_stream) = world.connected(40000, 5432);
    let (stays, stays_stream) = world.connected(40001, 8000);

    let removed = key(Protocol::Tcp, "5432");
    world
        .stack
        .retain(|_, forward, _| forward != removed, world.now);
    world.run(ms(50));

    assert_eq!(world.client.state(gone), State::Closed);
    assert_eq!(resets(&world), 1);
    assert_eq!(ends(&world), [&Order::Reset(gone_stream)]);
    world.client.send(stays, b"still here");
    world.run(ms(50));
    assert_eq!(world.target(stays_stream).received, b"still here");
}

#[test]
fn when_a_peer_goes_a_stream_that_is_still_opening_ends_too() {
    let mut world = World::new(Manner::Manual);
    let program = world.connect(40000, 5432);
    world.run(ms(50));
    let stream = world.last_stream();

    world
        .stack
        .retain(|_, _, flow| flow.source.port() != 40000, world.now);
    world.run(ms(50));

    assert_eq!(world.client.state(program), State::Closed);
    assert_eq!(ends(&world), [&Order::Reset(stream)]);
    assert!(is_empty(&world));
}

// --- silence ---

#[test]
fn an_idle_connection_costs_one_timer_and_lives_on() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    let next = world.stack.poll_timeout().unwrap();
    assert!(next > world.now + secs(14), "the first probe is far away");

    world.run(secs(24 * 3600));

    assert!(ends(&world).is_empty());
    world.client.send(program, b"good morning");
    world.run(ms(50));
    assert_eq!(world.target(stream).received, b"good morning");
}

#[test]
fn a_client_that_is_away_for_half_an_hour_finds_its_connection_again() {
    let mut world = World::new(Manner::Eager);
    let (program, stream) = world.connected(40000, 5432);
    world.cut = true;
    world.presence = Presence::Away;
    world.target_sends(stream, b"are you there?");
    world.run(secs(1800));

    world.cut = false;
    world.presence = Presence::Here;
    world.run(secs(120));

    assert_eq!(world.client.programs[program].received, b"are you there?");
    assert!(ends(&world).is_empty());
}

#[test]
fn a_client_that_never_comes_back_is_given_up_after_an_hour_without_acknowledgement() {
    let mut world = World::new(Manner::Eager);
    let (_, stream) = world.connected(40000, 5432);
    world.cut = true;
    world.presence = Presence::Away;

    world.target_sends(stream, b"are you there?");
    world.run(secs(3500));
    assert!(ends(&world).is_empty());
    world.run(secs(300));

    assert_eq!(ends(&world), [&Order::Reset(stream)]);
    assert!(is_empty(&world));
}

#[test]
fn a_client_that_never_acknowledges_the_end_is_given_up_too() {
    for client_first in [false, true] {
        let mut world = World::new(Manner::Eager);
        let (program, stream) = world.connected(40000, 5432);
        if client_first {
            world.client.close(program);
            world.run(ms(50));
        }
        world.cut = true;

        world.target_finishes(stream);
        world.run(secs(2 * 3600));

        assert!(
            world.target(stream).reset || world.target(stream).closed,
            "{client_first}"
        );
        assert!(is_empty(&world));
    }
}

#[test]
fn a_client_that_never_completes_the_handshake_is_given_up_soon() {
    let mut world = World::new(Manner::Eager);
    world.connect(40000, 5432);
    world.run(ms(6));
    let stream = world.last_stream();
    world.cut = true;

    world.run(secs(150));

    assert!(world.target(stream).reset);
    assert!(is_empty(&world));
}
