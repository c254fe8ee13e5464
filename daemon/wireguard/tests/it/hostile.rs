//! What is forged, changed or arbitrary.

use proptest::prelude::*;
use rand_core::RngCore;

use crate::*;

/// A has begun, B has answered; A has not seen the answer.
fn answered(world: &mut World) -> (Vec<u8>, Vec<u8>) {
    let initiation = world.ends[A].send(1, world.now).remove(0);
    let mut answers = world.ends[B].receive(&initiation, address(1), world.now);
    (initiation, answers.remove(0))
}

#[test]
fn a_changed_response_gives_no_keys_and_the_right_one_afterwards_does() {
    let mut world = World::new();
    let (_, response) = answered(&mut world);
    for at in 0..76 {
        for bit in [1, 0x80] {
            let mut changed = response.clone();
            changed[at] ^= bit;
            assert!(
                !world.ends[A].admits(&changed, address(2), world.now),
                "{at}"
            );
        }
    }
    // Everybody who knows A's public key can make the MAC.
    for at in 8..60 {
        let mut forged = response.clone();
        forged[at] ^= 1;
        sign(&mut forged, &public(1));
        assert!(
            !world.ends[A].finish(&forged, address(2), world.now),
            "{at}"
        );
        assert!(!world.ends[A].session.is_established());
        assert!(world.ends[A].session.wants_handshake(world.now + secs(6)));
    }
    for forged in [
        vec![0; 92],
        vec![0xFF; 92],
        [&response[..44], &[0; 48]].concat(),
    ] {
        assert!(!world.ends[A].finish(&forged, address(2), world.now));
    }

    world.transmit(B, vec![response]);
    world.settle();

    assert_eq!(world.ends[B].inbox, [1]);
    assert!(world.both_ways_work());
}

#[test]
fn a_changed_initiation_gets_no_answer_and_the_right_one_afterwards_does() {
    let mut world = World::new();
    let initiation = world.ends[A].send(1, world.now).remove(0);
    for at in 0..132 {
        let mut changed = initiation.clone();
        changed[at] ^= 1;
        assert!(
            !world.ends[B].admits(&changed, address(1), world.now),
            "{at}"
        );
    }
    // Who changes the sender's index gets an answer that A does not take; that is so in WireGuard.
    for at in 8..116 {
        let mut forged = initiation.clone();
        forged[at] ^= 1;
        sign(&mut forged, &public(2));
        // A machine under load would not even look.
        let forged = Box::new(forged.try_into().unwrap());
        let answers = world.ends[B].answer(forged, address(1), world.now);
        assert!(answers.is_empty(), "{at}");
    }

    world.transmit(A, vec![initiation]);
    world.settle();
    assert_eq!(world.ends[B].inbox, [1]);
}

#[test]
fn a_response_comes_once_and_not_for_an_older_initiation() {
    let mut world = World::new();
    let (_, older) = answered(&mut world);
    world.now += secs(6);
    let again = world.ends[A].begin(world.now).unwrap();
    let newer = world.ends[B]
        .receive(&again, address(1), world.now)
        .remove(0);

    assert!(!world.ends[A].finish(&older, address(2), world.now));
    assert!(world.ends[A].finish(&newer, address(2), world.now));
    for response in [&older, &newer] {
        assert!(!world.ends[A].finish(response, address(2), world.now));
    }
    let datagrams = world.ends[A].drain(world.now);
    world.transmit(A, datagrams);
    world.settle();
    assert!(world.both_ways_work());
}

#[test]
fn a_response_is_read_once_even_if_it_comes_twice() {
    let mut world = World::new();
    let (_, response) = answered(&mut world);
    let (now, a) = (world.now, &mut world.ends[A]);
    assert!(a.session.handle_answer(&response, address(2)));
    let job = a.job(now).unwrap();
    a.session.handle_answer(&response, address(2));
    assert!(a.job(now).is_none());
    assert!(!a.session.wants_handshake(now + secs(60)));

    assert_eq!(a.perform(job, now).len(), 1);
    assert!(a.session.is_established());
    assert!(a.job(now).is_none());
    assert!(!a.session.handle_answer(&response, address(2)));
    assert_eq!(a.finished, 1);
}

#[test]
fn a_response_that_comes_while_wrong_ones_are_being_read_is_read_in_the_end() {
    // A peer with two preshared keys answers twice: an initiation does not say which one it is for. And whoever has seen the
    // initiation can forge responses.
    for wrong in 1..=7 {
        let mut world = World::new();
        let (initiation, right) = answered(&mut world);
        let mut other = End::new(2, 1, Some([6; 32]), None);
        let first = other.receive(&initiation, address(1), world.now).remove(0);
        let now = world.now;
        let a = &mut world.ends[A];

        assert!(a.session.handle_answer(&first, address(2)));
        let job = a.job(now).unwrap();
        for number in 1..wrong {
            let mut forged = right.clone();
            forged[50] ^= number;
            sign(&mut forged, &public(1));
            assert!(a.session.handle_answer(&forged, address(2)));
        }
        assert!(a.session.handle_answer(&right, address(2)));
        assert!(a.job(now).is_none());
        assert!(a.perform(job, now).is_empty());
        assert!(!a.session.is_established());

        let confirmation = a.work(now);
        assert!(a.session.is_established(), "{wrong}");
        let datagrams = confirmation.into_iter().chain(a.drain(now)).collect();
        world.transmit(A, datagrams);
        world.settle();
        assert_eq!(world.ends[B].inbox, [1]);
    }
}

#[test]
fn what_waits_for_a_lent_tunnel_is_bounded() {
    let mut world = World::new();
    let (_, right) = answered(&mut world);
    let a = &mut world.ends[A];
    let forged = |number: u8| {
        let mut forged = right.clone();
        forged[50] ^= number;
        sign(&mut forged, &public(1));
        forged
    };
    let kept = (1..=255).filter(|number| a.session.handle_answer(&forged(*number), address(2)));
    assert_eq!(kept.count(), 8);

    // They take no room from initiations of the peer.
    let mut peer = End::new(2, 1, None, None);
    peer.session.initiate(world.now);
    let initiation = peer.begin(world.now).unwrap();
    let a = &mut world.ends[A];
    let asker = a
        .identify(Box::new(initiation.try_into().unwrap()), address(2))
        .unwrap();
    let kept = (0..255).filter(|_| a.session.handle_asker(&asker));
    assert_eq!(kept.count(), 8);
}

#[test]
fn what_is_computed_too_late_changes_nothing() {
    let mut world = World::new();
    let (_, response) = answered(&mut world);
    let a = &mut world.ends[A];
    assert!(a.session.handle_answer(&response, address(2)));
    let job = a.job(world.now).unwrap();
    // Meanwhile the attempt has ended.
    world.now += secs(91);
    a.tick(world.now);
    assert!(a.perform(job, world.now).is_empty());
    assert!(!a.session.is_established());

    // Such keys are no hindrance afterwards.
    world.send(A, 2);
    world.settle();
    assert_eq!(world.ends[B].inbox, [2]);
    assert!(world.both_ways_work());
}

/// Real messages in all states, to be changed.
struct Scene {
    world: World,
    messages: Vec<Vec<u8>>,
}

impl Scene {
    /// A waits for an answer and has old keys.
    fn new() -> Self {
        let mut world = World::connected();
        world.now += secs(125);
        let data = world.ends[B].seal(9, world.now).unwrap();
        let initiation = world.ends[A].send(1, world.now).pop().unwrap();
        let response = world.ends[B].receive(&initiation, address(1), world.now);
        world.ends[B].load(&initiation, address(1), world.now);
        let cookie = world.ends[B].receive(&initiation, address(1), world.now);
        assert!(!world.ends[B].session.wants_handshake(world.now));
        let messages = vec![data, initiation, response[0].clone(), cookie[0].clone()];
        Self { world, messages }
    }

    /// Whether the message has had any effect on A.
    fn takes(&mut self, datagram: &[u8]) -> bool {
        let now = self.world.now;
        let a = &mut self.world.ends[A];
        let finished = a.finished;
        let answers = a.receive(datagram, address(2), now);
        // Not by way of the checker and the header either.
        let opened = a.open(datagram, now);
        let taken = a.finish(datagram, address(2), now);
        taken
            || opened != Opened::Refused
            || !a.inbox.is_empty()
            || a.finished != finished
            || !answers.is_empty()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_datagrams_give_nothing(
        datagrams in proptest::collection::vec(
            (0_u8..6, prop_oneof![0_usize..200, Just(148), Just(92), Just(64), Just(32)], any::<u64>()),
            1..40,
        ),
    ) {
        let mut scene = Scene::new();
        for (kind, length, seed) in datagrams {
            let mut datagram = vec![0; length];
            ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut datagram);
            let head = [kind, 0, 0, 0].into_iter().chain((0x2A_BC01_u32 << 10 | 0x102).to_le_bytes());
            // Some have a right header.
            if seed % 4 > 0 {
                datagram.iter_mut().zip(head).for_each(|(byte, right)| *byte = right);
            }
            if seed % 4 > 1 && length >= 92 {
                sign(&mut datagram, &public(1));
            }
            prop_assert!(!scene.takes(&datagram));
        }
    }

    #[test]
    fn changed_messages_give_nothing(
        changes in proptest::collection::vec((0_usize..4, any::<prop::sample::Index>(), 1_u8..), 1..40),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut scene = Scene::new();
        for (message, at, mask) in changes {
            let mut datagram = scene.messages[message].clone();
            // What WireGuard does not protect: a MAC that is not looked at, a type that was looked at before, a cookie's receiver.
            let protected = match message {
                2 => 76,
                _ => datagram.len(),
            };
            let at = at.index(protected);
            if message == 0 && at < 4 || message == 3 && at < 8 {
                continue;
            }
            datagram[at] ^= mask;
            if let Some(cut) = &cut {
                datagram.truncate(cut.index(datagram.len() + 1));
            }
            // The sender's index in a response is protected by its MAC alone, at the gate.
            let a = &mut scene.world.ends[A];
            if message == 2 && !a.admits(&datagram, address(2), scene.world.now) {
                continue;
            }
            prop_assert!(!scene.takes(&datagram));
        }
        let response = scene.messages[2].clone();
        prop_assert!(scene.takes(&response));
    }
}
