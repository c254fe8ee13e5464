//! Several signalling servers at once, and the netcheck that asks STUN servers.

use punch_engine::{
    DropReason, EngineEvent, Family, LinkState, News, ServerId, Signal, SocketOrder,
};
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{Frame, Unreachable};

use crate::bot::Bot;
use crate::world::{A, B, SERVER, World, millis, seconds};

const OTHER: ServerId = ServerId(2);

/// A, signed in at two servers; nobody is at the first one.
fn two_servers() -> (World, Bot) {
    let mut world = World::pair(1);
    world.sign_out(B);
    let now = world.now;
    world.hosts[A].engine.handle_server(OTHER, true, now);
    world.drain(A);
    world.run_for(seconds(1));
    let bot = Bot::new(world.hosts[B].identity.clone());
    (world, bot)
}

fn hear_at(world: &mut World, server: ServerId, frame: Frame) {
    let now = world.now;
    world.hosts[A].engine.handle_frame(server, frame, now);
    world.drain(A);
}

fn envelopes(signals: &[Signal]) -> Vec<Vec<u8>> {
    let envelopes = signals.iter().filter_map(|signal| match &signal.frame {
        Frame::Send { envelope, .. } => Some(envelope.clone()),
        _ => None,
    });
    envelopes.collect()
}

#[test]
fn an_offer_goes_to_every_server() {
    let (mut world, _) = two_servers();
    world.set_up(A, B, true);
    let offer = &world.envelopes.last().unwrap().2;
    assert_eq!(envelopes(&world.elsewhere), std::slice::from_ref(offer));
    let b = world.hosts[B].id();
    assert!(
        world
            .elsewhere
            .iter()
            .any(|signal| signal.frame == Frame::Watch(b))
    );
}

#[test]
fn an_answer_goes_where_its_offer_came_from() {
    let (mut world, mut bot) = two_servers();
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    hear_at(&mut world, OTHER, bot.deliver(offer));
    assert_eq!(world.envelopes, []);
    let answers = envelopes(&world.elsewhere);
    assert_eq!(answers.len(), 1);
    assert_eq!(Kind::of(&answers[0]), Some(Kind::Answer));
}

#[test]
fn an_offer_that_comes_over_both_servers_counts_once() {
    let (mut world, mut bot) = two_servers();
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    hear_at(&mut world, OTHER, bot.deliver(offer.clone()));
    hear_at(&mut world, SERVER, bot.deliver(offer));
    assert_eq!(envelopes(&world.elsewhere).len(), 1, "a copy is not bad");
    assert_eq!(world.envelopes, []);
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 0);
}

#[test]
fn a_server_that_makes_up_answers_bars_those_of_no_other() {
    let (mut world, mut bot) = two_servers();
    world.set_up(A, B, true);
    let (_, _, offer) = world.envelopes.last().unwrap().clone();
    let description = bot.description(world.wall(), &[]);
    let (_, answer) = bot.answer(world.hosts[A].id(), &offer, description);
    let mut forged = answer.clone();
    *forged.last_mut().unwrap() ^= 1;
    let dropped = |world: &World| world.hosts[A].drops(DropReason::BadEnvelope);

    for _ in 0..1000 {
        hear_at(&mut world, SERVER, bot.deliver(forged.clone()));
    }
    hear_at(&mut world, SERVER, bot.deliver(answer.clone()));
    assert_eq!(dropped(&world), 1001, "it has had its share");
    hear_at(&mut world, OTHER, bot.deliver(answer));
    assert_eq!(dropped(&world), 1001, "the other one has not");
    assert_eq!(world.state(A, B), LinkState::Connecting);
}

#[test]
fn a_peer_is_offline_when_every_server_says_so() {
    let (mut world, _) = two_servers();
    let to = world.hosts[B].id();
    let offline = Frame::Unreachable {
        to,
        why: Unreachable::Offline,
    };
    world.set_up(A, B, true);
    world.run_for(millis(50));
    assert_eq!(
        world.state(A, B),
        LinkState::Connecting,
        "the other server has not answered"
    );

    hear_at(&mut world, OTHER, offline);
    assert_eq!(world.state(A, B), LinkState::Waiting);
}

#[test]
fn a_server_that_is_busy_does_not_say_that_the_peer_is_offline() {
    for why in [Unreachable::Full, Unreachable::TooFast] {
        let (mut world, _) = two_servers();
        let to = world.hosts[B].id();
        world.set_up(A, B, true);
        world.run_for(millis(50));
        hear_at(&mut world, OTHER, Frame::Unreachable { to, why });
        assert_eq!(world.state(A, B), LinkState::Connecting);
    }
}

#[test]
fn a_server_that_goes_no_longer_counts() {
    let (mut world, mut bot) = two_servers();
    let now = world.now;
    world.hosts[A].engine.handle_server(OTHER, false, now);
    world.drain(A);
    world.elsewhere.clear();
    world.set_up(A, B, true);
    world.run_for(millis(50));
    assert_eq!(world.elsewhere, []);
    assert_eq!(world.state(A, B), LinkState::Waiting);

    // The peer appears after all.
    let appeared = Frame::Appeared(bot.identity.id());
    let before = world.envelopes.len();
    world.hear(A, appeared);
    assert_eq!(
        world.envelopes.len(),
        before + 1,
        "an offer goes out at once"
    );
    let a = world.hosts[A].id();
    let offer = world.envelopes.last().unwrap().2.clone();
    let description = bot.description(world.wall(), &[]);
    let (_, answer) = bot.answer(a, &offer, description);
    world.hear(A, bot.deliver(answer));
    assert_eq!(world.state(A, B), LinkState::Connecting);
}

#[test]
fn a_netcheck_looks_at_both_families_and_closes_its_sockets() {
    let mut world = World::connected(2);
    // The one that every machine makes for itself is over by then.
    world.run_for(seconds(10));
    let now = world.now;
    let events = world.hosts[A].events.len();
    world.hosts[A].engine.start_netcheck(now);
    // A second one joins the first.
    world.hosts[A].engine.start_netcheck(now);
    world.drain(A);
    world.run_for(seconds(20));

    let events = &world.hosts[A].events[events..];
    let mut opened: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            EngineEvent::Socket(SocketOrder::Open { socket, .. }) => Some(*socket),
            _ => None,
        })
        .collect();
    let mut closed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            EngineEvent::Socket(SocketOrder::Close { socket }) => Some(*socket),
            _ => None,
        })
        .collect();
    opened.sort_unstable();
    closed.sort_unstable();
    // Six over IPv4, for filters, samples and four TTLs; two over IPv6.
    assert_eq!(opened.len(), 8);
    assert_eq!(closed, opened);
    let profiles: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            EngineEvent::News(News::Netcheck(profiles)) => Some(profiles.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(profiles.len(), 1);
    let families: Vec<_> = profiles[0].iter().map(|profile| profile.family).collect();
    assert_eq!(families, [Family::V4, Family::V6]);
    assert_eq!(
        world.state(A, B),
        LinkState::Connected,
        "the tunnel does not notice"
    );
}

#[test]
fn a_netcheck_whose_sockets_fail_ends_all_the_same() {
    let mut world = World::pair(3);
    let now = world.now;
    let engine = &mut world.hosts[A].engine;
    engine.start_netcheck(now);
    let mut ended = false;
    while let Some(event) = engine.poll_event() {
        match event {
            EngineEvent::Socket(SocketOrder::Open { socket, .. }) => {
                engine.handle_socket_failed(socket, now)
            }
            EngineEvent::News(News::Netcheck(profiles)) => {
                assert_eq!(profiles, []);
                ended = true;
            }
            _ => {}
        }
    }
    assert!(ended);
}
