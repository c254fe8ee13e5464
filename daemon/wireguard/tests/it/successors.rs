//! Sessions of several exchanges with one peer, one after another.

use crate::*;
use punch_wireguard::Tunnel;

type Tunneled = Tunnel<SocketAddr>;

/// A session without keys.
fn fresh() -> Session<SocketAddr> {
    let [a, _] = World::new().ends;
    a.session
}

/// B's session, which has answered A, and what A, which uses its own by now, has sent to B: what confirms it, and packet 1.
fn answered(world: &mut World) -> (Session<SocketAddr>, Vec<Vec<u8>>) {
    let initiation = world.ends[A].send(1, world.now).remove(0);
    let response = world.ends[B].receive(&initiation, address(1), world.now);
    let late = world.ends[A].receive(&response[0], address(2), world.now);
    assert_eq!(late.len(), 2);
    (std::mem::replace(&mut world.ends[B].session, fresh()), late)
}

/// A tunnel in which an exchange has been overtaken by the next one before the peer was heard to use it.
fn overtaken(session: Session<SocketAddr>, now: Instant) -> Tunneled {
    let mut tunnel = Tunnel::fixed(fresh());
    assert!(tunnel.prepare(session, false, now).is_empty());
    tunnel.start(now);
    assert!(tunnel.prepare(fresh(), false, now).is_empty());
    assert!(!tunnel.promote(now).0);
    tunnel
}

/// All timers that fire until then.
fn wait(tunnel: &mut Tunneled, from: Instant, time: Duration) -> Instant {
    let mut now = from;
    while now < from + time {
        now += TICK;
        tunnel.handle_timeout(None, now, |fill| {
            fill(&mut Buffer::default());
        });
    }
    now
}

/// What the tunnel seals opens at A.
fn reaches(tunnel: &mut Tunneled, a: &mut End, now: Instant) -> bool {
    let mut out = Buffer::default();
    tunnel.sealer().unwrap().seal(&packet(7), now, &mut out);
    a.open(&out, now) == Opened::Packet
}

/// Does all that handshakes need; returns what is to be sent.
fn steps(session: &mut Session<SocketAddr>, can_begin: bool, now: Instant) -> Vec<Vec<u8>> {
    let wall = WALL + now.saturating_duration_since(*START);
    let mut sent = Vec::new();
    while let Some(job) = session.poll_job(can_begin, wall, now) {
        let JobResult::Step(step) = job.perform() else {
            panic!("a session's job is a step");
        };
        match session.handle_step(step, now) {
            Outcome::Nothing | Outcome::Refused => {}
            Outcome::Send { message, .. } => sent.push(message),
            Outcome::Established { confirmation, .. } => sent.push(confirmation),
        }
    }
    sent
}

fn open(session: &mut Session<SocketAddr>, datagram: &[u8], now: Instant) -> Opened {
    session.open(datagram, now, &mut Batch::default())
}

#[test]
fn a_session_that_was_overtaken_is_used_when_the_peer_uses_it() {
    let mut world = World::new();
    let now = world.now;
    let (session, late) = answered(&mut world);
    let mut tunnel = overtaken(session, now);

    let left = tunnel.left().next().unwrap();
    assert_eq!(open(left, &late[0], now), Opened::Keepalive);

    assert!(tunnel.promote(now).0);
    assert!(reaches(&mut tunnel, &mut world.ends[A], now));
    // The last exchange may still replace it.
    assert_eq!(tunnel.numbers().len(), 3);
    assert_eq!(tunnel.abandon(now).len(), 1);
    assert!(reaches(&mut tunnel, &mut world.ends[A], now));
}

#[test]
fn a_session_that_was_overtaken_is_the_next_one_again_when_its_successor_comes_to_nothing() {
    let mut world = World::new();
    let (session, late) = answered(&mut world);
    let mut tunnel = overtaken(session, world.now);
    let now = wait(&mut tunnel, world.now, secs(20));

    assert_eq!(tunnel.abandon(now).len(), 1);
    assert_eq!(tunnel.abandon(now).len(), 0, "nothing else was given up");
    let now = wait(&mut tunnel, now, secs(2));

    // The packet that confirmed the session was lost: this end begins a handshake in it, which the peer answers.
    let next = tunnel.responders().next().unwrap();
    let initiation = steps(next, true, now).remove(0);
    let response = world.ends[A].receive(&initiation, address(2), now);
    assert!(next.handle_answer(&response[0], address(1)));
    let confirmation = steps(next, true, now).remove(0);
    assert_eq!(world.ends[A].open(&confirmation, now), Opened::Keepalive);
    assert!(tunnel.promote(now).0);
    assert!(reaches(&mut tunnel, &mut world.ends[A], now));
    // What is late opens all the same.
    let current = tunnel.sealer().unwrap();
    assert_eq!(open(current, &late[1], now), Opened::Packet);
}

#[test]
fn a_session_that_is_older_than_the_one_in_use_is_not_used_again() {
    let mut world = World::new();
    let now = world.now;
    let (session, late) = answered(&mut world);
    let mut tunnel = overtaken(session, now);
    let mut other = World::new();
    other.connect();
    tunnel.prepare(
        std::mem::replace(&mut other.ends[A].session, fresh()),
        true,
        now,
    );
    assert!(tunnel.promote(now).0);

    let opens = |left: &mut Session<_>| open(left, &late[1], now) == Opened::Packet;
    assert!(tunnel.left().any(opens));

    assert!(!tunnel.promote(now).0);
    assert!(reaches(&mut tunnel, &mut other.ends[B], now));
    wait(&mut tunnel, now, secs(10));
    assert_eq!(tunnel.numbers().len(), 1);
}

#[test]
fn a_successor_that_never_comes_about_keeps_nobody_from_renewing_keys_and_calls_more_and_more_seldom()
 {
    let mut world = World::connected();
    let mut now = world.now;
    let session = std::mem::replace(&mut world.ends[A].session, fresh());
    let mut tunnel = Tunnel::fixed(session);
    tunnel.prepare(fresh(), true, now);
    assert_eq!(tunnel.resting(now), None);
    tunnel.start(now);
    assert!(tunnel.resting(now + secs(10) - millis(1)).is_some());
    assert_eq!(tunnel.resting(now + secs(10)), None);

    let mut begun = [0, 0];
    for _ in 0..2400 {
        now = wait(&mut tunnel, now, TICK);
        let mut out = Buffer::default();
        tunnel.sealer().unwrap().seal(&packet(1), now, &mut out);
        let rests = tunnel.resting(now).is_some();
        for (at, session) in tunnel.responders().enumerate() {
            let can_begin = at == 0 || !rests;
            begun[at] += steps(session, can_begin, now).len();
        }
    }
    assert!(begun[0] < 150, "{begun:?}");
    assert!(begun[1] > 0, "{begun:?}");
}

#[test]
fn what_waits_for_a_first_session_leaves_through_the_one_that_replaces_it() {
    let mut world = World::new();
    let now = world.now;
    let mut tunnel = Tunneled::default();
    tunnel.prepare(fresh(), true, now);
    for number in 1..=3 {
        let sealer = tunnel.sealer().unwrap();
        assert_eq!(sealer.seal(&packet(number), now, &mut Buffer::default()), 0);
    }
    world.connect();
    let ready = std::mem::replace(&mut world.ends[A].session, fresh());
    tunnel.prepare(ready, true, now);

    assert!(tunnel.promote(now).0);

    let sealer = tunnel.sealer().unwrap();
    while sealer.has_waiting(now) {
        let mut out = Buffer::default();
        sealer.seal_waiting(now, &mut out);
        world.ends[B].open(&out, world.now);
    }
    assert_eq!(world.ends[B].inbox, [1, 2, 3]);
}
