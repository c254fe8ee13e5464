//! A gate under load, and cookies.

use crate::*;

/// A's first initiation and B's cookie for it; B is under load since now.
fn asked_for_a_cookie(world: &mut World) -> (Vec<u8>, Vec<u8>) {
    let initiation = world.ends[A].send(1, world.now).remove(0);
    world.ends[B].load(&initiation, address(1), world.now);
    let mut answers = world.ends[B].receive(&initiation, address(1), world.now);
    (initiation, answers.remove(0))
}

#[test]
fn a_gate_takes_four_hundred_messages_in_a_second_and_then_asks_for_a_cookie() {
    let mut world = World::new();
    let initiation = world.ends[A].send(1, world.now).remove(0);
    let (now, b) = (world.now, &mut world.ends[B]);
    // What has no right MAC does not count.
    let mut forged = initiation.clone();
    forged[60] ^= 1;
    for _ in 0..1000 {
        assert!(!b.admits(&forged, address(1), now));
    }
    for at in 0..400 {
        assert!(b.admits(&initiation, address(1), now + millis(at)));
    }
    let late = now + millis(999);
    let Checked::Cookie(reply) = b.check(&initiation, address(1), late) else {
        panic!("it is under load");
    };
    assert_eq!(reply.len(), 64);
    assert_eq!(reply[..4], [COOKIE_REPLY, 0, 0, 0]);
    assert_eq!(reply[4..8], initiation[4..8]);
    assert!(!b.admits(&forged, address(1), late));

    assert!(b.admits(&initiation, address(1), now + secs(1)));
}

#[test]
fn with_the_cookie_the_next_initiation_passes() {
    let mut world = World::new();
    let (_, reply) = asked_for_a_cookie(&mut world);
    assert!(world.ends[A].finish(&reply, address(2), world.now));

    world.now += secs(6);
    let again = world.ends[A].begin(world.now).unwrap();
    assert_ne!(again[132..], [0; 16]);
    world.ends[B].load(&again, address(9), world.now);
    world.transmit(A, vec![again]);
    world.settle();

    assert_eq!(world.ends[B].inbox, [1]);
}

#[test]
fn without_the_cookie_it_does_not_and_passes_when_the_load_is_over() {
    let mut world = World::new();
    asked_for_a_cookie(&mut world);
    world.now += secs(6);
    let again = world.ends[A].begin(world.now).unwrap();
    assert_eq!(again[132..], [0; 16]);
    world.ends[B].load(&again, address(9), world.now);
    assert!(!world.ends[B].admits(&again, address(1), world.now));
    assert!(world.ends[B].admits(&again, address(1), world.now + secs(1)));
}

#[test]
fn a_responder_proves_its_address_too() {
    let mut world = World::new();
    let initiation = world.ends[A].send(1, world.now).remove(0);
    let response = world.ends[B]
        .receive(&initiation, address(1), world.now)
        .remove(0);
    world.ends[A].load(&response, address(2), world.now);
    let reply = world.ends[A]
        .receive(&response, address(2), world.now)
        .remove(0);
    assert!(!world.ends[A].session.is_established());
    assert!(
        world.ends[B]
            .receive(&reply, address(1), world.now)
            .is_empty()
    );

    world.now += secs(6);
    let again = world.ends[A].begin(world.now).unwrap();
    world.ends[A].load(&response, address(9), world.now);
    world.transmit(A, vec![again]);
    world.settle();

    assert_eq!(world.ends[B].inbox, [1]);
}

#[test]
fn a_cookie_is_for_one_address_and_port() {
    let mut world = World::new();
    let (_, reply) = asked_for_a_cookie(&mut world);
    assert!(world.ends[A].finish(&reply, address(2), world.now));
    let now = world.now + secs(6);
    let again = world.ends[A].begin(now).unwrap();
    let b = &mut world.ends[B];
    b.load(&again, address(9), now);

    let mut port = address(1);
    port.set_port(1);
    assert!(b.admits(&again, address(1), now));
    assert!(!b.admits(&again, port, now));
    assert!(!b.admits(&again, address(3), now));
}

#[test]
fn a_cookie_ends_after_two_minutes_and_a_new_one_takes_its_place() {
    for (at, good) in [(secs(120) - millis(1), true), (secs(120), false)] {
        let mut world = World::new();
        let (_, reply) = asked_for_a_cookie(&mut world);
        assert!(world.ends[A].finish(&reply, address(2), world.now));
        let now = world.now + at;
        let [a, b] = &mut world.ends;
        a.session.initiate(now);
        let initiation = a.begin(now).unwrap();
        b.load(&initiation, address(9), now);
        assert_eq!(b.admits(&initiation, address(1), now), good);

        let Checked::Cookie(reply) = b.check(&initiation, address(3), now) else {
            panic!("another address needs a cookie of its own");
        };
        assert!(a.finish(&reply, address(2), now));
        a.session.initiate(now);
        let initiation = a.begin(now).unwrap();
        assert!(b.admits(&initiation, address(3), now));
    }

    // And what was made with a cookie that was good.
    let mut world = World::new();
    let (_, reply) = asked_for_a_cookie(&mut world);
    assert!(world.ends[A].finish(&reply, address(2), world.now));
    let now = world.now + secs(6);
    let initiation = world.ends[A].begin(now).unwrap();
    let later = world.now + secs(120);
    world.ends[B].load(&initiation, address(9), later);
    assert!(!world.ends[B].admits(&initiation, address(1), later));
}

#[test]
fn a_cookie_for_another_message_is_refused() {
    let mut world = World::new();
    let (_, reply) = asked_for_a_cookie(&mut world);
    world.now += secs(6);
    let again = world.ends[A].begin(world.now).unwrap();
    assert!(!world.ends[A].finish(&reply, address(2), world.now));

    world.ends[B].load(&again, address(1), world.now);
    let reply = world.ends[B]
        .receive(&again, address(1), world.now)
        .remove(0);
    assert!(world.ends[A].finish(&reply, address(2), world.now));
}

#[test]
fn a_cookie_of_somebody_else_or_a_changed_one_is_refused() {
    let mut world = World::new();
    let (initiation, reply) = asked_for_a_cookie(&mut world);
    let mut stranger = End::new(3, 1, None, None);
    // The same message, signed again for the stranger, so that its gate answers.
    let mut other = initiation.clone();
    sign(&mut other, &public(3));
    stranger.load(&other, address(1), world.now);
    let foreign = stranger.receive(&other, address(1), world.now).remove(0);
    assert!(!world.ends[A].finish(&foreign, address(3), world.now));

    for at in 8..reply.len() {
        let mut changed = reply.clone();
        changed[at] ^= 1;
        assert!(
            !world.ends[A].finish(&changed, address(2), world.now),
            "{at}"
        );
    }
    for length in 0..reply.len() {
        assert!(!world.ends[A].finish(&reply[..length], address(2), world.now));
    }
    assert!(world.ends[A].finish(&reply, address(2), world.now));
}

#[test]
fn who_has_sent_nothing_takes_no_cookie() {
    let mut world = World::new();
    let (_, reply) = asked_for_a_cookie(&mut world);
    let end = &mut world.ends[A];
    end.session = End::session(&end.keys, 1, &end.peer, None, None);
    assert!(!end.finish(&reply, address(2), world.now));
}

#[test]
fn one_address_with_a_cookie_does_not_fill_the_gate_for_the_others() {
    let mut world = World::new();
    let (_, reply) = asked_for_a_cookie(&mut world);
    assert!(world.ends[A].finish(&reply, address(2), world.now));
    world.now += secs(6);
    let again = world.ends[A].begin(world.now).unwrap();
    let (now, b) = (world.now, &mut world.ends[B]);
    b.load(&again, address(9), now);

    let passed = (0..100).filter(|_| b.admits(&again, address(1), now));
    assert_eq!(passed.count(), 20);
    // Others still get their cookies, and in the next second so does it.
    assert!(matches!(
        b.check(&again, address(3), now),
        Checked::Cookie(_)
    ));
    b.load(&again, address(9), now + secs(1));
    assert!(b.admits(&again, address(1), now + secs(1)));
}
