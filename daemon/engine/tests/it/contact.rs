//! What is known of a peer that does not answer, and of machines that call and are no peers.

use punch_engine::{Contact, EngineEvent, LinkState, News};
use punch_signal_protocol::{Frame, Identity, PeerId};

use crate::bot::Bot;
use crate::world::{A, B, World, handle, millis, seconds};

fn contact(world: &World) -> Contact {
    let engine = &world.hosts[A].engine;
    engine.link_status(handle(B), world.now).unwrap().contact
}

fn strangers(world: &World) -> Vec<(PeerId, u32, u64)> {
    let listed = world.hosts[B].engine.strangers(world.now);
    listed
        .iter()
        .map(|stranger| (stranger.id, stranger.asked, stranger.ago.as_secs()))
        .collect()
}

/// The strangers that B has told its user of.
fn announced(world: &World) -> Vec<PeerId> {
    let events = world.hosts[B].events.iter();
    let ids = events.filter_map(|event| match event {
        EngineEvent::News(News::Stranger { id }) => Some(*id),
        _ => None,
    });
    ids.collect()
}

/// B has not added A.
fn one_sided() -> World {
    let mut world = World::pair(1);
    world.edit(B, |configuration| configuration.peers.clear());
    assert_eq!(contact(&world), Contact::Unwanted);
    world
}

#[test]
fn a_peer_that_does_not_know_this_machine_is_silent_after_a_second_and_lists_it() {
    let mut world = one_sided();
    world.set_up(A, B, true);
    world.run_for(millis(900));
    assert_eq!(contact(&world), Contact::Called);
    world.run_for(millis(200));
    assert_eq!(contact(&world), Contact::Silent { has_met: false });
    assert_eq!(world.state(A, B), LinkState::Connecting);

    let a = world.hosts[A].id();
    assert_eq!(strangers(&world), [(a, 1, 1)]);
    // The second offer follows after 3 s, 25 % more or less.
    world.run_for(seconds(4));
    let [(_, 2, _)] = strangers(&world)[..] else {
        panic!("{:?}", strangers(&world));
    };
    assert_eq!(announced(&world), [a]);
}

#[test]
fn a_stranger_that_becomes_a_peer_is_no_longer_listed() {
    let mut world = one_sided();
    let known = World::pair(1).hosts[B].configuration.peers.clone();
    world.set_up(A, B, true);
    world.run_for(seconds(1));
    assert_eq!(strangers(&world).len(), 1);
    world.edit(B, |configuration| configuration.peers = known);
    assert_eq!(strangers(&world), []);
}

#[test]
fn a_peer_that_went_silent_has_met_this_machine_before() {
    let mut world = World::connected(1);
    world.edit(B, |configuration| configuration.peers.clear());
    world.run_for(millis(500));
    assert_eq!(contact(&world), Contact::Goodbye);
    assert_eq!(world.state(A, B), LinkState::Waiting);
    // The next offer goes out half a minute after the goodbye.
    world.run_for(seconds(32));
    assert_eq!(contact(&world), Contact::Silent { has_met: true });
}

#[test]
fn offline_and_without_a_server_are_told_apart() {
    let mut world = World::pair(1);
    world.sign_out(B);
    world.set_up(A, B, true);
    world.run_for(millis(500));
    assert_eq!(contact(&world), Contact::Offline);
    world.sign_out(A);
    assert_eq!(contact(&world), Contact::NoServer);
    world.sign_in(A);
    world.sign_in(B);
    world.wait_for_both(seconds(10));
    assert_eq!(contact(&world), Contact::Answered);
}

/// An attempt that was in vain does not hide that the next one has nobody to call over.
#[test]
fn without_a_server_an_attempt_that_has_failed_is_not_all_there_is_to_say() {
    let mut world = World::pair(1);
    world.cut = true;
    world.set_up(A, B, true);
    world.run_for(millis(500));
    assert_eq!(contact(&world), Contact::Answered);
    world.sign_out(A);
    assert_eq!(contact(&world), Contact::Answered, "it may still succeed");
    world.run_for(seconds(60));
    assert_eq!(contact(&world), Contact::NoServer);
    world.sign_in(A);
    assert_ne!(contact(&world), Contact::NoServer);
}

/// Offers of strangers, each by a machine of its own; one more in each of so many seconds.
fn besiege(world: &mut World, machines: u8) -> Vec<PeerId> {
    let mut ids = Vec::new();
    for number in 0..machines {
        let mut bot = Bot::new(Identity::from_seed(&[100 + number; 32]));
        let (_, offer) = bot.offer(world.hosts[B].id(), world.wall());
        world.hear(B, bot.deliver(offer));
        ids.push(bot.identity.id());
        world.run_for(seconds(1));
    }
    ids
}

#[test]
fn eight_strangers_are_listed_and_the_one_that_was_silent_longest_makes_room() {
    let mut world = one_sided();
    let ids = besiege(&mut world, 10);
    let listed: Vec<_> = strangers(&world).iter().map(|(id, ..)| *id).collect();
    let last: Vec<_> = ids.iter().rev().take(8).copied().collect();
    assert_eq!(listed, last);
    // Of ten new ones in ten seconds the first eight are announced.
    assert_eq!(announced(&world), ids[..8]);
}

#[test]
fn an_offer_that_somebody_else_has_made_or_that_is_repeated_lists_nobody() {
    let mut world = one_sided();
    let now = world.now;
    let to = world.hosts[B].id();
    let mut bot = Bot::new(Identity::from_seed(&[100; 32]));
    let (_, offer) = bot.offer(to, world.wall());

    // The server names another sender than the one that has sealed it.
    let other = Identity::from_seed(&[101; 32]).id();
    let frame = Frame::Deliver {
        from: other,
        envelope: offer.clone(),
    };
    world.hear(B, frame);
    assert_eq!(world.hosts[B].engine.strangers(now), []);

    // One of eleven minutes ago.
    let (_, old) = bot.offer(to, world.wall() - 660_000);
    world.hear(B, bot.deliver(old));
    assert_eq!(strangers(&world), []);

    for _ in 0..5 {
        world.hear(B, bot.deliver(offer.clone()));
        world.run_for(seconds(3));
    }
    assert_eq!(strangers(&world), [(bot.identity.id(), 1, 15)]);
}

#[test]
fn a_server_that_floods_has_one_offer_opened_in_a_second() {
    let mut world = one_sided();
    let to = world.hosts[B].id();
    // Forged ones use the server's share up, four at once.
    for number in 0..50 {
        let mut bot = Bot::new(Identity::from_seed(&[100 + number; 32]));
        let (_, mut offer) = bot.offer(to, world.wall());
        *offer.last_mut().unwrap() ^= 1;
        world.hear(B, bot.deliver(offer));
    }
    let mut bot = Bot::new(Identity::from_seed(&[99; 32]));
    let (_, offer) = bot.offer(to, world.wall());
    world.hear(B, bot.deliver(offer.clone()));
    assert_eq!(strangers(&world), []);
    world.run_for(seconds(1));
    world.hear(B, bot.deliver(offer));
    assert_eq!(strangers(&world).len(), 1);
}
