//! Engines behind hard NATs: the search for ports, and real sessions over what it finds.

use punch_engine::{
    Allocation, DirectPath, EngineEvent, Filtering, LinkState, Mapping, NatOverrides, News,
    Outcome, Path, StepKind, StepReport,
};
use punch_signal_protocol::seal::Kind;

use crate::packets::{at, udp};
use crate::world::{A, B, Nat, World, handle, millis, seconds};

const C: usize = 2;

fn search(world: &World, index: usize, peer: usize) -> Option<StepReport> {
    let status = world.hosts[index]
        .engine
        .link_status(handle(peer), world.now)?;
    status.steps.into_iter().nth(1)
}

/// A datagram through the tunnel in both directions.
#[track_caller]
fn talks(world: &mut World, from: usize, to: usize, text: &[u8]) {
    for v6 in [false, true] {
        for (from, to) in [(from, to), (to, from)] {
            let (source, destination) =
                (world.hosts[from].overlay(v6), world.hosts[to].overlay(v6));
            let packet = udp(at(source, 1), at(destination, 2), text);
            world.send(from, &packet);
            world.run_for(millis(100));
            assert_eq!(world.hosts[to].take_tun(), [packet]);
        }
    }
}

#[test]
fn packets_flow_over_a_socket_that_a_search_has_found() {
    let cases = [
        (true, false, StepKind::HoldAndProbe),
        (false, true, StepKind::HoldAndProbe),
        (true, true, StepKind::Birthday),
    ];
    for (seed, (a, b, kind)) in cases.into_iter().enumerate() {
        let mut world = World::natted(seed as u64, &[Nat::new(a), Nat::new(b)]);
        for (host, peer) in [(A, B), (B, A)] {
            world.grant(host, peer, true);
        }
        world.set_up(A, B, true);
        let took = world.wait_for_both(seconds(20));
        assert!(took < seconds(5), "{kind:?}: {took:?}");
        for (index, peer, hard) in [(A, B, a), (B, A, b)] {
            let report = world.hosts[index].engine.peer_report(handle(peer)).unwrap();
            let Some(Path::Direct(DirectPath { socket, .. })) = report.path else {
                panic!("{report:?}");
            };
            assert_eq!(socket.0 >= 16, hard, "{kind:?}: {socket:?}");
            let step = search(&world, index, peer).unwrap();
            assert_eq!(step.kind, kind);
            let done = [Outcome::Found, Outcome::NotNeeded];
            assert!(done.contains(&step.outcome), "{step:?}");
            let worked = world.hosts[index].events.iter().any(|event| {
                matches!(event, EngineEvent::News(News::Worked { peer: who, .. }) if *who == handle(peer))
            });
            assert!(worked, "{kind:?}: it is told what has worked");
        }
        talks(&mut world, A, B, b"at once");

        // The path's socket outlives the search; the others close, and so do those that measure the mappings' lifetime.
        world.run_for(seconds(240));
        for (index, hard) in [(A, a), (B, b)] {
            let open = world.hosts[index].sockets.len();
            assert_eq!(open, 2 + usize::from(hard), "{kind:?}");
        }
        assert_eq!(world.state(A, B), LinkState::Connected);
        talks(&mut world, A, B, b"later");
    }
}

#[test]
fn a_lifetime_that_is_configured_is_not_measured() {
    for lifetime in [None, Some(seconds(60))] {
        let mut nat = Nat::new(false);
        nat.lifetime = lifetime;
        let mut world = World::natted(6, &[nat]);
        let mut most = 0;
        for _ in 0..180 {
            world.run_for(seconds(1));
            most = most.max(world.hosts[A].sockets.len());
        }
        let measured = most > 2;
        assert_eq!(measured, lifetime.is_none(), "{most} sockets");
    }
}

#[test]
fn one_engine_searches_for_one_peer_at_a_time() {
    let nats = [true, false, false].map(Nat::new);
    let mut world = World::natted(4, &nats);
    // Nothing ever gets through between peers.
    world.filter = Box::new(|datagram| datagram.is_with_server());
    world.set_up(A, B, true);
    world.set_up(A, C, true);
    let mut seen = [false; 2];
    for _ in 0..6000 {
        world.run_for(millis(10));
        let running = [B, C].map(|peer| {
            let step = search(&world, A, peer);
            step.is_some_and(|step| step.outcome == Outcome::Running)
        });
        assert_ne!(running, [true, true]);
        for (seen, running) in seen.iter_mut().zip(running) {
            *seen |= running;
        }
        assert!(world.hosts[A].sockets.len() <= 2 + 2 * 256 + 7);
    }
    assert_eq!(seen, [true, true], "each has its turn");

    // One that gets through does not have to wait for the other for ever.
    world.filter = Box::new(|_| true);
    world.wait_for(seconds(180), |world| {
        [B, C].into_iter().all(|peer| {
            world.state(A, peer) == LinkState::Connected
                && world.state(peer, A) == LinkState::Connected
        })
    });
}

#[test]
fn what_the_administrator_says_goes_before_what_was_measured() {
    let nat = Nat::new(true);
    let mut world = World::natted(5, &[nat.clone(), Nat::new(false)]);
    world.set_up(A, B, true);
    world.wait_for_both(seconds(20));

    let NatOverrides { allocation, .. } = nat.known();
    let (mapping, filtering) = (
        Some(Mapping::AddressAndPortDependent),
        Some(Filtering::AddressAndPortDependent),
    );
    let status = world.hosts[A]
        .engine
        .link_status(handle(B), world.now)
        .unwrap();
    let mine = status.mine.unwrap();
    assert_eq!(
        (mine.mapping, mine.filtering, mine.allocation),
        (mapping, filtering, allocation)
    );
    assert!(matches!(mine.allocation, Some(Allocation::Block { .. })));
    assert_eq!(
        mine.addresses,
        [std::net::IpAddr::from(world.hosts[A].public)]
    );
    // The peer is told so.
    let status = world.hosts[B]
        .engine
        .link_status(handle(A), world.now)
        .unwrap();
    let theirs = status.theirs.unwrap();
    assert_eq!(
        (theirs.mapping, theirs.filtering, theirs.allocation),
        (mapping, filtering, allocation)
    );
    // And so is the user who asks.
    let profiles = world.hosts[A].events.iter().find_map(|event| match event {
        EngineEvent::News(News::Netcheck(profiles)) => Some(profiles.clone()),
        _ => None,
    });
    assert_eq!(profiles.unwrap()[0].mapping, mapping);
}

/// How many offers a host has sent.
fn offers(world: &World, index: usize) -> usize {
    let id = world.hosts[index].id();
    let sent = world.envelopes.iter().filter(|(from, ..)| *from == id);
    sent.filter(|(_, _, envelope)| Kind::of(envelope) == Some(Kind::Offer))
        .count()
}

#[test]
fn the_search_that_a_repeated_offer_has_begun_is_not_cut_short_by_the_next_offer() {
    // The end that searches for long is the one that offers, or the other one.
    for (nats, searcher) in [([true, false], A), ([false, true], B)] {
        let mut world = World::natted(7, &nats.map(Nat::new));
        world.filter = Box::new(|datagram| datagram.is_with_server());
        world.sign_out(B);
        world.set_up(A, B, true);
        world.run_for(seconds(10));
        let before = offers(&world, A);

        world.sign_in(B);
        world.run_for(seconds(10));

        let step = search(&world, searcher, 1 - searcher).unwrap();
        assert_eq!(step.outcome, Outcome::Running);
        let repeated = offers(&world, A) - before;
        assert_eq!(repeated, 1, "{searcher} searches");
    }
}

#[test]
fn an_end_that_has_answered_before_it_knew_its_nat_makes_an_offer_when_it_does() {
    let mut world = World::natted(8, &[true, true].map(Nat::new));
    world.filter = Box::new(|datagram| datagram.is_with_server());
    world.restart(B);
    world.set_up(A, B, true);

    world.run_for(seconds(5));

    assert_eq!(offers(&world, A), 1);
    assert_eq!(offers(&world, B), 1, "nobody wants anything of B");
}
