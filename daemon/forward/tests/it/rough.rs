//! Links that lose, double, delay and reorder.

use punch_api::Protocol;
use punch_forward::Order;
use smoltcp::socket::tcp::State;

use crate::world::{Manner, World};
use crate::{counts, key, ms, noise, secs};

#[test]
fn with_every_tenth_packet_lost_all_bytes_arrive_in_the_end() {
    let mut world = World::new(Manner::Eager);
    world.loses_every = 10;
    let program = world.connect(40000, 5432);
    world.run(secs(10));
    let stream = world.last_stream();
    let (up, down) = (noise(200_000, 30), noise(200_000, 31));

    world.client.send(program, &up);
    world.client.close(program);
    world.target_sends(stream, &down);
    world.target_finishes(stream);
    world.run(secs(600));

    assert_eq!(world.target(stream).received.len(), up.len());
    assert_eq!(world.client.programs[program].received.len(), down.len());
    assert!(world.target(stream).received == up);
    assert!(world.client.programs[program].received == down);
    assert!(world.target(stream).finished && world.client.is_finished(program));
    assert!(!world.target(stream).reset);
}

#[test]
fn over_a_rough_link_several_connections_stay_whole_and_apart() {
    for seed in 1..=12 {
        let mut world = World::seeded(Manner::Eager, seed);
        world.rough = 4 + seed;
        let programs: Vec<_> = (0..3).map(|n| world.connect(40000 + n, 5432)).collect();
        for (n, program) in programs.iter().enumerate() {
            world
                .client
                .send(*program, &noise(20_000 + n, seed + n as u64));
            world.client.close(*program);
        }
        world.run(secs(20));
        let streams: Vec<_> = world.targets.keys().copied().collect();
        for stream in &streams {
            world.target_sends(*stream, &noise(30_000, stream.0));
            world.target_finishes(*stream);
        }
        world.run(secs(2_000));

        let mut expected: Vec<_> = (0..3).map(|n| noise(20_000 + n, seed + n as u64)).collect();
        let mut received: Vec<_> = streams
            .iter()
            .map(|stream| world.targets[stream].received.clone())
            .collect();
        expected.sort();
        received.sort();
        assert!(received == expected, "seed {seed}");
        for program in programs {
            assert_eq!(
                world.client.programs[program].received.len(),
                30_000,
                "seed {seed}"
            );
            assert!(world.client.is_finished(program));
        }
        assert_eq!(world.connects(), 3, "seed {seed}");
        assert!(
            world
                .targets
                .values()
                .all(|target| target.finished && target.closed && !target.reset)
        );
        assert_eq!(counts(&world.stack, key(Protocol::Tcp, "5432")), (0, 3));
        assert_eq!(world.stack.poll_timeout(), None, "seed {seed}");
    }
}

#[test]
fn a_connection_opens_although_the_first_answers_are_lost() {
    let mut world = World::new(Manner::Eager);
    let program = world.connect(40000, 5432);
    world.run(ms(6));
    world.cut = true;
    world.run(secs(4));
    world.cut = false;

    world.run(secs(10));

    assert_eq!(world.client.state(program), State::Established);
    assert_eq!(world.connects(), 1);
    assert!(!world.orders.contains(&Order::Reset(world.last_stream())));
}
