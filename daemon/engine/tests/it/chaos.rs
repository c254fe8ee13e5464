//! Anything may happen, in any order; when it is over, two machines of which one wants the other are connected.

use punch_engine::LinkState;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::packets::{at, udp};
use crate::world::{A, B, World, handle, millis, seconds};

struct Dice(ChaCha8Rng);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0.next_u32() % sides
    }
}

/// One accident.
fn disturb(world: &mut World, dice: &mut Dice) -> String {
    let index = dice.roll(2) as usize;
    let other = 1 - index;
    match dice.roll(11) {
        0 => {
            world.restart(index);
            format!("{index} restarts")
        }
        1 => {
            world.renumber(index);
            format!("{index} moves")
        }
        2 => {
            world.set_up(index, other, false);
            format!("{index} says down")
        }
        3 => {
            world.set_up(index, other, true);
            format!("{index} says up")
        }
        4 => {
            world.sign_out(index);
            format!("{index} signs out")
        }
        5 => {
            if !world.is_online(index) {
                world.sign_in(index);
            }
            format!("{index} signs in")
        }
        6 => {
            world.cut = !world.cut;
            format!("cut: {}", world.cut)
        }
        7 => {
            world.loss = f64::from(dice.roll(5)) / 10.0;
            format!("loss {}", world.loss)
        }
        8 => {
            let (now, wall) = (world.now, world.wall());
            world.hosts[index]
                .engine
                .handle_resume(std::time::Duration::ZERO, now);
            world.hosts[index].engine.handle_wall_clock(wall, now);
            world.drain(index);
            format!("{index} wakes up")
        }
        9 => {
            let peers = world.hosts[index].configuration.peers.clone();
            world.edit(index, |configuration| configuration.peers.clear());
            world.run_for(millis(u64::from(dice.roll(300))));
            let stamps = world.hosts[index].configuration.peers.clone();
            assert!(stamps.is_empty());
            world.edit(index, |configuration| configuration.peers = peers);
            format!("{index} removes and adds its peer")
        }
        _ => {
            world.latency = millis(u64::from(1 + dice.roll(200)));
            format!("latency {:?}", world.latency)
        }
    }
}

#[test]
fn after_any_accidents_a_wanted_connection_comes_about() {
    for seed in 0..60 {
        let mut world = World::pair(seed);
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let mut story = Vec::new();
        world.grant(A, B, true);
        world.grant(B, A, true);
        for _ in 0..30 {
            let what = disturb(&mut world, &mut dice);
            story.push(format!("{:?} {what}", world.now - world.start));
            let pause = [5, 50, 500, 5000, 40_000][dice.roll(5) as usize];
            world.run_for(millis(u64::from(dice.roll(pause))));
            if dice.roll(2) == 0 {
                for (from, to) in [(A, B), (B, A)] {
                    let (a, b) = (
                        world.hosts[from].overlay(true),
                        world.hosts[to].overlay(true),
                    );
                    world.send(from, &udp(at(a, 1), at(b, 2), b"meanwhile"));
                }
            }
        }

        (world.cut, world.loss, world.latency) = (false, 0.0, millis(10));
        for index in [A, B] {
            if !world.is_online(index) {
                world.sign_in(index);
            }
        }
        let wants = dice.roll(2) as usize;
        world.set_up(wants, 1 - wants, true);
        let began = world.now;
        while !(world.state(A, B) == LinkState::Connected
            && world.state(B, A) == LinkState::Connected)
        {
            world.run_for(millis(50));
            assert!(
                world.now - began < seconds(90),
                "seed {seed}: {:?}, {:?}\n{story:#?}",
                world.state(A, B),
                world.state(B, A)
            );
        }
        world.run_for(seconds(20));
        world.hosts[A].take_tun();
        world.hosts[B].take_tun();
        for (from, to) in [(A, B), (B, A)] {
            let (a, b) = (
                world.hosts[from].overlay(true),
                world.hosts[to].overlay(true),
            );
            let packet = udp(at(a, 1), at(b, 2), b"at last");
            world.send(from, &packet);
            world.run_for(seconds(1));
            assert_eq!(
                world.hosts[to].take_tun(),
                [packet],
                "seed {seed}\n{story:#?}"
            );
            let report = world.hosts[from].engine.peer_report(handle(to)).unwrap();
            assert!(report.established);
        }
    }
}
