//! Offers, answers and notes: only an authorized peer's fresh offer is answered, or even acknowledged.

use punch_engine::{DropReason, EngineEvent, LinkState, News, PeerRefusal};
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{Frame, MAX_ENVELOPE, Note};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::bot::Bot;
use crate::packets::at;
use crate::world::{A, B, World, handle, millis, seconds};

/// A world in which somebody else speaks for B.
fn with_bot() -> (World, Bot) {
    let mut world = World::pair(1);
    world.sign_out(B);
    world.run_for(seconds(1));
    let bot = Bot::new(world.hosts[B].identity.clone());
    (world, bot)
}

/// What `act` makes A do towards the outside: frames and datagrams.
fn outputs(world: &mut World, act: impl FnOnce(&mut World)) -> Vec<String> {
    let frames = world.frames.len();
    world.tap = Some(Vec::new());
    act(world);
    world.run_for(millis(200));
    let frames = world.frames[frames..]
        .iter()
        .map(|(_, frame)| format!("{frame:?}"));
    let tap = world.tap.take().unwrap();
    let datagrams = tap.iter().filter(|datagram| !datagram.is_with_server());
    frames
        .chain(datagrams.map(|datagram| format!("{datagram:?}")))
        .collect()
}

fn silence(world: &mut World, act: impl FnOnce(&mut World)) {
    let state = world.state(A, B);
    let events = world.hosts[A].events.len();
    assert_eq!(outputs(world, act), Vec::<String>::new());
    assert_eq!(world.state(A, B), state);
    assert_eq!(world.hosts[A].events[events..], []);
}

/// The kinds of the envelopes that A has sent.
pub(crate) fn said(world: &World) -> Vec<Kind> {
    let a = world.hosts[A].id();
    let ours = world.envelopes.iter().filter(|(from, ..)| *from == a);
    ours.map(|(_, _, envelope)| Kind::of(envelope).unwrap())
        .collect()
}

#[test]
fn an_authorized_peers_offer_is_answered() {
    let (mut world, mut bot) = with_bot();
    let (pending, offer) = bot.offer(world.hosts[A].id(), world.wall());

    world.hear(A, bot.deliver(offer));

    assert_eq!(said(&world), [Kind::Answer]);
    assert_eq!(world.state(A, B), LinkState::Connecting);
    let (_, _, answer) = world.envelopes.pop().unwrap();
    let (_, description) = pending.open_answer(&answer).ok().unwrap();
    assert!(!description.candidates.is_empty());
}

#[test]
fn a_strangers_offer_meets_silence() {
    let (mut world, _) = with_bot();
    let mut stranger = Bot::stranger();
    let (_, offer) = stranger.offer(world.hosts[A].id(), world.wall());

    let said = outputs(&mut world, |world| world.hear(A, stranger.deliver(offer)));
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(world.state(A, B), LinkState::Down);
    // The user alone hears of it.
    let id = stranger.identity.id();
    let told = EngineEvent::News(News::Stranger { id });
    assert_eq!(world.hosts[A].events.last(), Some(&told));

    assert_eq!(world.hosts[A].drops(DropReason::Stranger), 1);
}

#[test]
fn a_strangers_offer_in_a_peers_name_meets_silence() {
    // The server is not to be believed about who sent an envelope.
    let (mut world, bot) = with_bot();
    let mut stranger = Bot::stranger();
    let (_, offer) = stranger.offer(world.hosts[A].id(), world.wall());

    silence(&mut world, |world| world.hear(A, bot.deliver(offer)));

    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
}

#[test]
fn an_offer_for_somebody_else_meets_silence() {
    let (mut world, mut bot) = with_bot();
    let (_, offer) = bot.offer(Bot::stranger().identity.id(), world.wall());
    silence(&mut world, |world| world.hear(A, bot.deliver(offer)));
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
}

#[test]
fn a_replayed_offer_meets_silence() {
    let (mut world, mut bot) = with_bot();
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    world.hear(A, bot.deliver(offer.clone()));
    world.run_for(seconds(60));

    let state = world.state(A, B);
    let before = said(&world).len();
    world.hear(A, bot.deliver(offer));

    assert_eq!(said(&world).len(), before);
    assert_eq!(world.state(A, B), state);
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
}

#[test]
fn an_offer_that_is_older_than_the_newest_meets_silence() {
    let (mut world, mut bot) = with_bot();
    let (a, now) = (world.hosts[A].id(), world.wall());
    let (_, early) = bot.offer(a, now - 2);
    let (_, late) = bot.offer(a, now);
    world.hear(A, bot.deliver(late));
    let before = said(&world).len();

    world.hear(A, bot.deliver(early));

    assert_eq!(said(&world).len(), before);
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
}

#[test]
fn an_offer_from_before_the_restart_meets_silence() {
    let (mut world, mut bot) = with_bot();
    let (a, stamp) = (world.hosts[A].id(), world.wall());
    let (_, offer) = bot.offer(a, stamp);
    world.hear(A, bot.deliver(offer.clone()));
    assert_eq!(said(&world), [Kind::Answer]);
    world.run_for(seconds(1));

    world.restart(A);
    world.run_for(seconds(1));
    let kept = world.hosts[A].configuration.peers[0].stamps;
    assert_eq!(kept.1, stamp, "the store keeps what the engine has told it");
    silence(&mut world, |world| world.hear(A, bot.deliver(offer)));
    let (_, fresh) = bot.offer(a, stamp + 1);
    world.hear(A, bot.deliver(fresh));

    assert_eq!(said(&world), [Kind::Answer, Kind::Answer]);
}

#[test]
fn our_own_stamps_grow_across_restarts_even_when_the_clock_goes_back() {
    let (mut world, mut bot) = with_bot();
    let a = world.hosts[A].id();
    let sent = world.wall() + 50_000;
    world.edit_peer(A, B, |entry| entry.stamps = (sent, 0));
    world.restart(A);
    let (pending, offer) = bot.offer(a, world.wall());
    world.hear(A, bot.deliver(offer));
    let (_, _, answer) = world.envelopes.pop().unwrap();
    let (_, description) = pending.open_answer(&answer).ok().unwrap();
    assert!(description.stamp > sent);
}

#[test]
fn a_stale_offer_is_not_answered_and_says_why() {
    for (off, expected) in [(601_000_i64, 601), (-601_000, -601), (3_600_000, 3600)] {
        let (mut world, mut bot) = with_bot();
        let stamp = world.wall().checked_add_signed(off).unwrap();
        let (_, offer) = bot.offer(world.hosts[A].id(), stamp);
        let events = world.hosts[A].events.len();

        let out = outputs(&mut world, |world| world.hear(A, bot.deliver(offer)));

        assert_eq!(out, Vec::<String>::new());
        assert_eq!(world.state(A, B), LinkState::Down);
        let stale = EngineEvent::News(News::Stale {
            peer: handle(B),
            seconds: expected,
        });
        assert_eq!(world.hosts[A].events[events..], [stale]);
        assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
    }
}

#[test]
fn an_offer_that_is_nearly_stale_is_answered() {
    for off in [599_000_i64, -599_000] {
        let (mut world, mut bot) = with_bot();
        let stamp = world.wall().checked_add_signed(off).unwrap();
        let (_, offer) = bot.offer(world.hosts[A].id(), stamp);
        world.hear(A, bot.deliver(offer));
        assert_eq!(said(&world), [Kind::Answer]);
    }
}

#[test]
fn an_absurd_stamp_does_no_harm() {
    for stamp in [
        0,
        1,
        u64::MAX,
        u64::MAX - 1,
        i64::MAX as u64,
        i64::MAX as u64 + 1,
    ] {
        let (mut world, mut bot) = with_bot();
        let (_, offer) = bot.offer(world.hosts[A].id(), stamp);
        let out = outputs(&mut world, |world| world.hear(A, bot.deliver(offer)));
        assert_eq!(out, Vec::<String>::new());
        // And it has not spoilt the stamps.
        let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
        world.hear(A, bot.deliver(offer));
        assert_eq!(said(&world), [Kind::Answer]);
    }
}

#[test]
fn the_wall_clock_may_be_set_while_the_engine_runs() {
    let (mut world, mut bot) = with_bot();
    let (a, now) = (world.hosts[A].id(), world.now);
    let set = world.wall() + 86_400_000;
    world.hosts[A].engine.handle_wall_clock(set, now);
    let (_, offer) = bot.offer(a, set);
    world.hear(A, bot.deliver(offer));
    assert_eq!(said(&world), [Kind::Answer]);
}

/// The machine wakes up with a wrong clock, hours or years off, asks for its peer in vain, and then learns the time.
#[test]
fn a_machine_whose_clock_is_wrong_is_told_so_and_connects_when_it_is_set_right() {
    for off_s in [
        7_200_i64,
        -7_200,
        900,
        -900,
        365 * 86_400,
        -50 * 365 * 86_400,
    ] {
        let mut world = World::pair(2);
        let wrong = |world: &World| world.wall().checked_add_signed(1000 * off_s).unwrap();
        let (now, set) = (world.now, wrong(&world));
        world.hosts[A].engine.handle_wall_clock(set, now);
        world.set_up(A, B, true);
        world.run_for(seconds(2));

        let now = world.now;
        let status = world.hosts[A].engine.link_status(handle(B), now);
        let (refusal, age) = status.unwrap().refused.unwrap();
        let ahead_s = match refusal {
            PeerRefusal::Clock { ahead_s } => ahead_s,
            other => panic!("{other:?}"),
        };
        assert!(ahead_s.abs_diff(off_s) <= 1, "{ahead_s} of {off_s}");
        assert!(age <= seconds(2));
        let refused = EngineEvent::News(News::Refused {
            peer: handle(B),
            refusal,
        });
        assert!(world.hosts[A].events.contains(&refused));
        let stale = |event: &EngineEvent| matches!(event, EngineEvent::News(News::Stale { .. }));
        assert!(world.hosts[B].events.iter().any(stale));

        // It goes on for minutes, and A does not keep asking in haste.
        world.run_for(seconds(200));
        let offers = said(&world)
            .iter()
            .filter(|kind| **kind == Kind::Offer)
            .count();
        assert!((10..=16).contains(&offers), "{offers}");

        let (right, now) = (world.wall(), world.now);
        world.hosts[A].engine.handle_wall_clock(right, now);
        world.wait_for_both(seconds(2));
        let status = world.hosts[A].engine.link_status(handle(B), world.now);
        assert_eq!(status.unwrap().refused, None);
    }
}

/// The two were connected before, so the peer has seen stamps that are newer than those of the clock that went back.
#[test]
fn a_clock_that_goes_back_or_forth_between_two_that_know_each_other_is_told_and_mended() {
    for off_s in [-7_200_i64, 7_200, -86_400 * 400] {
        let mut world = World::connected(3);
        world.set_up(A, B, false);
        world.run_for(seconds(60));
        let (set, now) = (
            world.wall().checked_add_signed(1000 * off_s).unwrap(),
            world.now,
        );
        world.hosts[A].engine.handle_wall_clock(set, now);
        world.set_up(A, B, true);
        world.run_for(seconds(5));
        let status = world.hosts[A].engine.link_status(handle(B), world.now);
        assert!(status.unwrap().refused.is_some(), "{off_s} s");
        // This time it is the other end's clock that is set to the wrong time of the first.
        let (set, now) = (
            world.wall().checked_add_signed(1000 * off_s).unwrap(),
            world.now,
        );
        world.hosts[B].engine.handle_wall_clock(set, now);
        world.wait_for_both(seconds(20));
    }
}

#[test]
fn garbage_envelopes_do_nothing() {
    let (mut world, bot) = with_bot();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut count = 0;
    for length in [0, 1, 2, 9, 24, 25, 33, 97, 113, 1300, 1400, MAX_ENVELOPE] {
        for kind in [0, 1, 2, 3, 4, 255] {
            let mut envelope = vec![0; length];
            rng.fill_bytes(&mut envelope);
            if let Some(first) = envelope.first_mut() {
                *first = kind;
            }
            silence(&mut world, |world| world.hear(A, bot.deliver(envelope)));
            count += 1;
        }
    }
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), count);
}

#[test]
fn a_changed_offer_meets_silence() {
    let (mut world, mut bot) = with_bot();
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    for at in (0..offer.len()).step_by(37) {
        let mut changed = offer.clone();
        changed[at] ^= 0x40;
        silence(&mut world, |world| world.hear(A, bot.deliver(changed)));
    }
    world.run_for(seconds(5));
    world.hear(A, bot.deliver(offer));
    assert_eq!(said(&world), [Kind::Answer], "the true one is still good");
}

#[test]
fn offers_of_a_removed_peer_are_a_strangers() {
    let (mut world, mut bot) = with_bot();
    let (_, offer) = bot.offer(world.hosts[A].id(), world.wall());
    world.edit(A, |configuration| configuration.peers.clear());

    let out = outputs(&mut world, |world| world.hear(A, bot.deliver(offer)));

    assert_eq!(out, Vec::<String>::new());
    assert_eq!(world.hosts[A].drops(DropReason::Stranger), 1);
}

#[test]
fn an_answer_counts_once() {
    let mut world = World::connected(4);
    world.run_for(seconds(40));
    let b = world.hosts[B].id();
    let answer = world
        .envelopes
        .iter()
        .find(|(_, _, envelope)| envelope[0] == 2)
        .unwrap();
    assert_eq!(answer.0, b);
    let frame = Frame::Deliver {
        from: b,
        envelope: answer.2.clone(),
    };
    silence(&mut world, |world| world.hear(A, frame));
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
}

#[test]
fn an_old_answer_does_not_spoil_a_new_offer() {
    let mut world = World::connected(5);
    let old = world
        .envelopes
        .iter()
        .find(|(_, _, envelope)| envelope[0] == 2)
        .unwrap()
        .2
        .clone();
    let b = world.hosts[B].id();
    world.set_up(A, B, false);
    world.run_for(seconds(1));

    world.set_up(A, B, true);
    world.hear(
        A,
        Frame::Deliver {
            from: b,
            envelope: old,
        },
    );

    let took = world.wait_for_both(seconds(10));
    assert!(took < millis(500), "{took:?}");
}

#[test]
fn an_answer_from_somebody_else_does_not_spoil_an_offer() {
    let (mut world, bot) = with_bot();
    world.set_up(A, B, true);
    let (_, _, offer) = world.envelopes.last().unwrap().clone();
    let a = world.hosts[A].id();
    let mut stranger = Bot::stranger();
    let nonsense = vec![2; 1300];
    let (_, other) = stranger.offer(a, world.wall());

    for envelope in [nonsense, other.clone(), [&[2], &other[1..]].concat()] {
        world.hear(A, bot.deliver(envelope));
    }
    let mut bot = bot;
    let description = bot.description(world.wall(), &["203.0.113.50:4000"]);
    let (_, answer) = bot.answer(a, &offer, description);
    world.hear(A, bot.deliver(answer));

    assert_eq!(world.state(A, B), LinkState::Connecting);
    world.run_for(millis(100));
    let to: Vec<_> = world
        .astray
        .iter()
        .map(|datagram| datagram.to.to_string())
        .collect();
    assert!(
        to.contains(&"203.0.113.50:4000".to_owned()),
        "checks have begun: {to:?}"
    );
}

#[test]
fn an_answer_without_an_offer_means_nothing() {
    let (mut world, mut bot) = with_bot();
    let a = world.hosts[A].id();
    world.set_up(A, B, true);
    let (_, _, offer) = world.envelopes.last().unwrap().clone();
    world.set_up(A, B, false);
    let description = bot.description(world.wall(), &["203.0.113.50:4000"]);
    let (_, answer) = bot.answer(a, &offer, description);
    silence(&mut world, |world| world.hear(A, bot.deliver(answer)));
}

#[test]
fn a_flood_of_good_offers_is_answered_once_a_second() {
    let (mut world, mut bot) = with_bot();
    let a = world.hosts[A].id();
    let mut stamp = world.wall();
    for _ in 0..300 {
        stamp += 1;
        let (_, offer) = bot.offer(a, stamp);
        world.hear(A, bot.deliver(offer));
        world.run_for(millis(10));
    }
    // A burst of eight, then three seconds' worth.
    let answers = said(&world).len();
    assert!((10..=11).contains(&answers), "{answers}");
    assert_eq!(
        world.hosts[A].drops(DropReason::BadEnvelope),
        300 - answers as u64
    );
}

#[test]
fn a_flood_of_offers_names_many_victims_and_reaches_few() {
    // Each offer names another address of somebody who has nothing to do with it.
    let (mut world, mut bot) = with_bot();
    let a = world.hosts[A].id();
    let mut stamp = world.wall();
    world.tap = Some(Vec::new());
    for number in 0..500_u32 {
        stamp += 1;
        let victims: Vec<_> = (0..32)
            .map(|n| format!("203.0.113.{}:{}", n + 20, 1000 + number))
            .collect();
        let victims: Vec<_> = victims.iter().map(String::as_str).collect();
        let description = bot.description(stamp, &victims);
        let (_, offer) = bot.offer_with(a, description);
        world.hear(A, bot.deliver(offer));
        world.run_for(millis(20));
    }
    world.run_for(seconds(60));
    let tap = world.tap.take().unwrap();
    let checks = tap
        .iter()
        .filter(|datagram| !datagram.is_with_server())
        .count();
    // 110 offers are taken; the attempt of one ends when the next begins, 100 ms later.
    assert!(checks < 110 * 32 * 4 + 32 * 21, "{checks}");
}

#[test]
fn a_flood_of_notes_and_candidates_is_bounded() {
    let (mut world, mut bot) = with_bot();
    let a = world.hosts[A].id();
    world.set_up(A, B, true);
    let (_, _, offer) = world.envelopes.last().unwrap().clone();
    let description = bot.description(world.wall(), &[]);
    let (mut exchange, answer) = bot.answer(a, &offer, description);
    world.hear(A, bot.deliver(answer));
    world.tap = Some(Vec::new());
    for number in 0..200_u8 {
        let candidates = (0..32).map(|n| {
            let address = std::net::SocketAddr::from(([203, 0, 113, number], 1000 + n));
            punch_signal_protocol::Candidate::new(
                punch_signal_protocol::CandidateKind::Host,
                address,
            )
        });
        let note = exchange
            .seal(&Note::Candidates(candidates.collect()))
            .unwrap();
        world.hear(A, bot.deliver(note));
    }
    world.run_for(seconds(20));
    let link = world.hosts[A]
        .engine
        .link_status(handle(B), world.now)
        .unwrap();
    assert!(link.agent.unwrap().pairs.len() <= 48);
    let tap = world.tap.take().unwrap();
    let checks = tap
        .iter()
        .filter(|datagram| !datagram.is_with_server())
        .count();
    assert!(checks <= 48 * 20 * 2, "{checks}");
}

#[test]
fn a_goodbye_counts_once_and_only_for_its_exchange() {
    let (mut world, mut bot) = with_bot();
    let a = world.hosts[A].id();
    let (pending, offer) = bot.offer(a, world.wall());
    world.hear(A, bot.deliver(offer));
    let (_, _, answer) = world.envelopes.pop().unwrap();
    let (mut exchange, _) = pending.open_answer(&answer).ok().unwrap();
    let bye = exchange.seal(&Note::Bye).unwrap();
    world.hear(A, bot.deliver(bye.clone()));
    assert_eq!(world.state(A, B), LinkState::Down);

    let (_, offer) = bot.offer(a, world.wall() + 1);
    world.hear(A, bot.deliver(offer));
    assert_eq!(world.state(A, B), LinkState::Connecting);
    world.hear(A, bot.deliver(bye));

    assert_eq!(
        world.state(A, B),
        LinkState::Connecting,
        "an old goodbye is nothing"
    );
    assert_eq!(world.hosts[A].drops(DropReason::BadEnvelope), 1);
}

#[test]
fn a_peer_cannot_lead_our_packets_into_the_tunnel_itself() {
    // Its overlay addresses, and ours, as candidates: packets sent there would go round and round.
    let (mut world, mut bot) = with_bot();
    let mut overlays: Vec<_> = world
        .hosts
        .iter()
        .flat_map(|host| host.engine.own_addresses().to_vec())
        .collect();
    overlays.sort();
    let candidates: Vec<_> = overlays
        .iter()
        .map(|ip| at(*ip, 51_820).to_string())
        .collect();
    let candidates: Vec<_> = candidates.iter().map(String::as_str).collect();
    let description = bot.description(world.wall(), &candidates);
    let (_, offer) = bot.offer_with(world.hosts[A].id(), description);
    world.tap = Some(Vec::new());

    world.hear(A, bot.deliver(offer));
    world.run_for(seconds(5));

    let tap = world.tap.take().unwrap();
    let inside = tap
        .iter()
        .filter(|datagram| overlays.contains(&datagram.to.ip()));
    assert_eq!(inside.count(), 0, "checks to overlay addresses");
}

#[test]
fn frames_that_only_a_server_or_a_client_says_are_passed_over() {
    let (mut world, bot) = with_bot();
    let id = bot.identity.id();
    let frames = [
        Frame::Send {
            to: id,
            envelope: vec![1; 1300],
        },
        Frame::Watch(id),
        Frame::Unwatch(id),
        Frame::Challenge([0; 32]),
        Frame::Welcome,
        Frame::Refused(punch_signal_protocol::Refusal::Full),
        Frame::ClientCapabilities(punch_signal_protocol::Capabilities::OURS),
        Frame::ServerCapabilities(punch_signal_protocol::Capabilities::OURS),
        Frame::Appeared(id),
        Frame::Appeared(Bot::stranger().identity.id()),
        Frame::Unreachable {
            to: id,
            why: punch_signal_protocol::Unreachable::Offline,
        },
    ];
    for frame in frames {
        silence(&mut world, |world| world.hear(A, frame));
    }
}

/// The end with the larger key makes the offer that counts, also when it was only sent once more.
#[test]
fn an_offer_that_is_repeated_and_one_of_the_peer_that_crosses_it_lead_to_one_exchange() {
    let mut world = World::pair(21);
    let [larger, other] = if world.hosts[A].id() > world.hosts[B].id() {
        [A, B]
    } else {
        [B, A]
    };
    world.sign_out(other);
    world.set_up(larger, other, true);
    world.set_up(other, larger, true);
    // The offer that is out is older than one whose answer may still come.
    world.run_for(seconds(8));

    world.sign_in(other);

    let took = world.wait_for_both(seconds(30));
    assert!(took < seconds(1), "{took:?}");
}
