//! The three tunnels of a session take turns.

use crate::*;

/// This end asks for new keys, and the other one answers.
fn renew(world: &mut World, from: usize) {
    world.now += secs(6);
    world.ends[from].session.initiate(world.now);
    let datagrams = world.ends[from].work(world.now);
    assert_eq!(datagrams.len(), 1);
    world.transmit(from, datagrams);
    world.settle();
}

#[test]
fn timestamps_increase_whichever_tunnel_makes_them() {
    // Each handshake is answered: an initiation that is not newer than all before would get nothing.
    for pattern in 0..64_u32 {
        let mut world = World::connected();
        for bit in 0..6 {
            let from = (pattern >> bit & 1) as usize;
            let before = world.ends[from].finished;
            renew(&mut world, from);
            assert_eq!(world.ends[from].finished, before + 1, "{pattern:b} {bit}");
            assert!(world.both_ways_work());
        }
    }
}

#[test]
fn an_initiation_that_was_answered_gets_nothing_from_any_tunnel_later() {
    for pattern in 0..32_u32 {
        let mut world = World::new();
        let mut seen: Vec<Vec<u8>> = Vec::new();
        world.ends[A].session.initiate(world.now);
        let first = world.ends[A].work(world.now);
        world.transmit(A, first);
        world.settle();
        for bit in 0..5 {
            renew(&mut world, (pattern >> bit & 1) as usize);
            seen.extend(
                world
                    .sent_by(A)
                    .filter(|(_, datagram)| datagram.len() == 148)
                    .map(|(_, datagram)| datagram.to_vec()),
            );
            for initiation in &seen {
                let answers = world.ends[B].receive(initiation, address(9), world.now);
                assert!(answers.is_empty(), "{pattern:b} {bit}");
            }
            assert!(world.both_ways_work());
        }
    }
}

#[test]
fn data_passes_while_both_kinds_of_handshakes_are_computed() {
    let mut world = World::connected();
    world.now += secs(6);
    let (now, [a, b]) = (world.now, &mut world.ends);
    a.session.initiate(now);
    let begin = a.job(now).unwrap();
    b.session.initiate(now);
    let initiation = b.begin(now).unwrap();
    let asker = a
        .identify(Box::new(initiation.try_into().unwrap()), address(2))
        .unwrap();
    assert!(a.session.handle_asker(&asker));
    let answer = a.job(now).unwrap();

    let to_b = a.seal(7, now).unwrap();
    assert_eq!(b.open(&to_b, now), Opened::Packet);
    let to_a = b.seal(8, now).unwrap();
    assert_eq!(a.open(&to_a, now), Opened::Packet);

    let begun = a.perform(begin, now);
    let answered = a.perform(answer, now);
    world.transmit(A, begun.into_iter().chain(answered).collect());
    world.settle();
    assert!(world.both_ways_work());
}

#[test]
fn keys_that_the_sending_is_moved_back_to_are_renewed_in_time() {
    let mut world = World::connected();
    world.skip_to(secs(60));
    let mut confirmations = Vec::new();
    for _ in 0..2 {
        let (now, [a, b]) = (world.now, &mut world.ends);
        a.session.initiate(now);
        let initiation = a.begin(now).unwrap();
        let response = b.receive(&initiation, address(1), now);
        // They do not reach B, which goes on with the first keys.
        confirmations = a.receive(&response[0], address(2), now);
        assert_eq!(confirmations.len(), 1);
    }
    let to_a = world.ends[B].seal(0, world.now).unwrap();
    assert_eq!(world.ends[A].open(&to_a, world.now), Opened::Packet);
    world.now = world.start + secs(119);
    assert!(world.ends[A].seal(1, world.now).is_some());
    assert!(!world.ends[A].session.wants_handshake(world.now));
    world.now = world.start + secs(175);
    assert_eq!(world.ends[A].seal(2, world.now), None);
    assert!(world.ends[A].session.wants_handshake(world.now));

    // B learns of the newest keys after all, and both use them.
    world.arrive(B, &confirmations[0]);
    let to_a = world.ends[B].seal(4, world.now).unwrap();
    assert_eq!(world.ends[A].open(&to_a, world.now), Opened::Packet);
    let to_b = world.ends[A].seal(5, world.now).unwrap();
    assert_eq!(world.ends[B].open(&to_b, world.now), Opened::Packet);
    assert_eq!(to_b[4..8], confirmations[0][4..8]);
}

#[test]
fn data_for_a_tunnel_that_is_lent_is_to_come_again() {
    let mut world = World::connected();
    let late = world.ends[B].seal(5, world.now).unwrap();
    renew(&mut world, A);
    world.now += secs(6);
    let now = world.now;
    let a = &mut world.ends[A];
    a.session.initiate(now);
    let job = a.job(now).unwrap();
    // The keys before the present ones are in the tunnel that is calling.
    assert_eq!(a.open(&late, now), Opened::Later);
    a.perform(job, now);
    assert_eq!(a.open(&late, now), Opened::Packet);
    assert_eq!(a.inbox, [5]);
}

#[test]
fn keys_that_are_no_longer_used_are_taken_out_of_their_tunnel() {
    let mut world = World::connected();
    assert!(!world.ends[A].session.wants_job(world.now));
    world.now = world.start + secs(180);
    for end in [A, B] {
        let end = &mut world.ends[end];
        assert!(end.tick(world.now).is_empty());
        assert!(!end.session.is_established());
        // The job was done within the tick, and nothing is left to do.
        assert!(!end.session.wants_job(world.now));
    }
    world.send(A, 1);
    world.settle();
    assert_eq!(world.ends[B].inbox, [1]);
    assert!(world.both_ways_work());
}

/// The index in an initiation: boringtun counts it from one in each tunnel that it makes.
fn index(initiation: &[u8]) -> [u8; 4] {
    *initiation[4..].first_chunk().unwrap()
}

#[test]
fn a_wall_clock_that_is_set_forward_is_followed_while_there_are_no_keys() {
    let mut world = World::new();
    let a = &mut world.ends[A];
    a.session.initiate(world.now);
    let first = a.begin(world.now).unwrap();
    let second = a.begin(world.now + secs(6)).unwrap();
    assert_ne!(index(&first), index(&second));

    // The tunnels are made anew, so that their timestamps begin from the right time.
    a.ahead = secs(3600);
    let third = a.begin(world.now + secs(12)).unwrap();
    assert_eq!(index(&third), index(&first));
    let fourth = a.begin(world.now + secs(18)).unwrap();
    assert_ne!(index(&fourth), index(&third));

    // A clock that is set back is not followed: the peer would take no initiation.
    a.ahead = Duration::ZERO;
    let fifth = a.begin(world.now + secs(24)).unwrap();
    assert_ne!(index(&fifth), index(&third));
    world.now += secs(24);
    world.transmit(A, vec![fifth]);
    world.settle();
    assert!(world.both_ways_work());
}

#[test]
fn with_keys_a_wall_clock_that_is_set_forward_changes_nothing_and_replays_get_nothing_afterwards() {
    let mut world = World::connected();
    world.ends[B].ahead = secs(3600);
    renew(&mut world, B);
    assert!(world.both_ways_work());

    world.sent.clear();
    renew(&mut world, A);
    renew(&mut world, A);
    let answered: Vec<_> = world
        .sent_by(A)
        .filter(|(_, datagram)| datagram.len() == 148)
        .map(|(_, datagram)| datagram.to_vec())
        .collect();
    assert_eq!(answered.len(), 2);
    // B has no keys any more, makes its tunnels anew to call, and still knows what it has answered.
    world.now += secs(181);
    let now = world.now;
    let b = &mut world.ends[B];
    b.tick(now);
    assert!(!b.session.is_established());
    b.ahead += secs(3600);
    b.session.initiate(now);
    b.begin(now).unwrap();
    for initiation in answered {
        let answers = b.answer(Box::new(initiation.try_into().unwrap()), address(1), now);
        assert!(answers.is_empty());
    }
}
