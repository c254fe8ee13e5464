//! A machine with two peers, of which each has a way of its own to it: what comes over another one's is dropped.

use std::slice::Chunks;
use std::time::Instant;

use punch_engine::{DropReason, Engine, Offload, Path};
use punch_signal_protocol::Ipv4Range;

use crate::packets::{at, udp};
use crate::world::{A, B, World, path, seconds};

/// The second peer.
const THIRD: usize = 2;

/// Three machines that are not signed in.
pub(crate) fn trio(seed: u64) -> World {
    World::new(seed, &[Some(Ipv4Range::DEFAULT); 3])
}

/// Signs all in, connects A with both others, and waits until each path is one of these.
#[track_caller]
pub(crate) fn connect(world: &mut World, is_right: impl Fn(Path) -> bool) {
    [A, B, THIRD]
        .into_iter()
        .for_each(|index| world.sign_in(index));
    for peer in [B, THIRD] {
        world.grant(A, peer, true);
        world.grant(peer, A, true);
        world.set_up(A, peer, true);
    }
    world.wait_for(seconds(10), |world| {
        let ends = [(A, B), (A, THIRD), (THIRD, A)];
        let mut paths = ends.iter().map(|(end, peer)| path(world, *end, *peer));
        paths.all(|path| path.is_some_and(&is_right))
    });
    world.run_for(seconds(5));
}

/// A packet of the third machine's gets in at A over its own way, and not over B's; `deliver` hands datagrams over a way to A.
#[track_caller]
pub(crate) fn lets_in_its_own_alone(
    world: &mut World,
    deliver: impl Fn(&mut Engine, Path, Chunks<'_, u8>, Instant),
) {
    let [of_b, of_third] = [B, THIRD].map(|peer| path(world, A, peer).unwrap());
    let [a, c] = [A, THIRD].map(|index| at(world.hosts[index].overlay(true), 4000));
    let now = world.now;
    let engine = &mut world.hosts[THIRD].engine;
    engine.handle_resume(seconds(60), now);
    let handshake = initiation(engine, now);
    engine.handle_tun(&udp(c, a, b"there"), Offload::default(), now);
    engine.flush(now);
    let train = engine.poll_train().unwrap();
    world.hosts[A].tun.clear();
    for (way, arrived) in [(of_b, 0), (of_third, 1)] {
        let before = world.hosts[A].drops(DropReason::NotForUs);
        let engine = &mut world.hosts[A].engine;
        deliver(engine, way, train.bytes.chunks(train.segment), now);
        engine.flush(now);
        world.drain(A);
        assert_eq!(world.hosts[A].take_tun().len(), arrived);
        let dropped = world.hosts[A].drops(DropReason::NotForUs) - before;
        assert_eq!(dropped, 1 - arrived as u64);
    }
    for (way, answers) in [(of_b, 0), (of_third, 1)] {
        let before = world.hosts[A].drops(DropReason::NotForUs);
        let engine = &mut world.hosts[A].engine;
        deliver(engine, way, handshake.chunks(handshake.len()), now);
        work(engine, now);
        let sent = std::iter::from_fn(|| engine.poll_train());
        let answered = sent.filter(|train| train.bytes.starts_with(&[2, 0, 0, 0]));
        assert_eq!(answered.count(), answers);
        let dropped = world.hosts[A].drops(DropReason::NotForUs) - before;
        assert_eq!(dropped, 1 - answers as u64);
    }
}

/// Performs the steps of handshakes that are due.
fn work(engine: &mut Engine, now: Instant) {
    engine.flush(now);
    while let Some(job) = engine.poll_job() {
        engine.handle_job(job.perform(), now);
        engine.flush(now);
    }
}

/// The message with which a machine asks for new keys.
fn initiation(engine: &mut Engine, now: Instant) -> Vec<u8> {
    work(engine, now);
    let mut sent = std::iter::from_fn(|| engine.poll_train());
    let first = sent.find(|train| train.bytes.starts_with(&[1, 0, 0, 0]));
    first.unwrap().bytes.to_vec()
}
