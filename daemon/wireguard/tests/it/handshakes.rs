//! Keys are agreed on, or not.

use crate::*;

#[test]
fn two_sessions_shake_hands_and_data_goes_both_ways() {
    for preshared in [None, Some([5; 32])] {
        let mut world = World::with([preshared; 2], [None; 2]);
        world.latency = millis(30);

        world.send(A, 1);
        world.run(secs(1));

        assert_eq!(world.ends[B].inbox, [1]);
        assert!(world.both_ways_work());
        assert!(world.ends.iter().all(|end| end.session.has_received()));
        assert_eq!(
            (world.ends[A].begun.len(), world.ends[B].begun.len()),
            (1, 0)
        );
    }
}

#[test]
fn the_responder_waits_for_what_confirms_the_keys() {
    let mut world = World::new();
    world.ends[A].session.initiate(world.now);
    let initiation = world.ends[A].begin(world.now).unwrap();
    let response = world.ends[B].receive(&initiation, address(1), world.now);
    assert_eq!(response[0].len(), 92);
    assert!(!world.ends[B].session.is_established());
    assert_eq!(world.ends[B].seal(7, world.now), None);

    let confirmation = world.ends[A].receive(&response[0], address(2), world.now);
    assert_eq!(confirmation.len(), 1);
    assert_eq!(confirmation[0].len(), OVERHEAD);

    let waited = world.ends[B].receive(&confirmation[0], address(1), world.now);
    assert!(world.ends[B].session.is_established());
    world.arrive(A, &waited[0]);
    assert_eq!(world.ends[A].inbox, [7]);
}

#[test]
fn a_different_preshared_key_gives_no_keys_and_the_right_one_later_does() {
    let mut world = World::with([Some([5; 32]), Some([6; 32])], [None; 2]);

    world.send(A, 1);
    world.run(secs(20));

    assert!(world.ends[A].begun.len() > 2);
    assert!(world.ends.iter().all(|end| !end.session.is_established()));
    assert!(world.ends[B].inbox.is_empty());

    let end = &mut world.ends[B];
    end.session = End::session(&end.keys, 2, &end.peer, Some([5; 32]), None);
    world.run(secs(6));

    assert_eq!(world.ends[B].inbox, [1]);
    assert!(world.both_ways_work());
}

#[test]
fn an_initiation_of_somebody_else_or_for_somebody_else_is_not_answered() {
    let mut world = World::new();
    let mut stranger = End::new(3, 2, None, None);
    stranger.session.initiate(world.now);
    let initiation = stranger.begin(world.now).unwrap();
    assert!(
        world.ends[B]
            .receive(&initiation, address(3), world.now)
            .is_empty()
    );

    world.ends[A].session.initiate(world.now);
    let initiation = world.ends[A].begin(world.now).unwrap();
    assert!(
        stranger
            .receive(&initiation, address(1), world.now)
            .is_empty()
    );
}

#[test]
fn a_replayed_initiation_and_one_that_is_older_get_no_answer() {
    let mut world = World::new();
    world.ends[A].session.initiate(world.now);
    let older = world.ends[A].begin(world.now).unwrap();
    world.skip_to(secs(6));
    let newer = world.ends[A].begin(world.now).unwrap();

    assert_eq!(
        world.ends[B].receive(&newer, address(1), world.now).len(),
        1
    );
    for message in [&newer, &older, &newer] {
        assert!(
            world.ends[B]
                .receive(message, address(1), world.now)
                .is_empty()
        );
    }
}
