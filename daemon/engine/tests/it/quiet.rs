//! How often an engine that has nothing to do wants to be woken.

use punch_engine::LinkState;
use punch_signal_protocol::Ipv4Range;

use crate::world::{A, B, World, seconds};

/// Wake-ups per second of each host over ten minutes. The world itself fails when time stands still.
fn wake_ups(world: &mut World) -> Vec<f64> {
    for host in &mut world.hosts {
        host.wake_ups = 0;
    }
    world.run_for(seconds(600));
    world
        .hosts
        .iter()
        .map(|host| host.wake_ups as f64 / 600.0)
        .collect()
}

#[test]
fn connected_and_idle_engines_sleep_most_of_the_time() {
    let mut world = World::connected(1);
    let rates = wake_ups(&mut world);
    assert!(rates.iter().all(|rate| *rate < 6.0), "{rates:?}");
    assert_eq!(world.state(A, B), LinkState::Connected);
}

#[test]
fn an_idle_connection_costs_few_datagrams() {
    let mut world = World::connected(2);
    world.run_for(seconds(60));
    world.tap = Some(Vec::new());
    world.run_for(seconds(600));
    let tap = world.tap.take().unwrap();
    let peers = tap
        .iter()
        .filter(|datagram| datagram.to.port() == 51_820 && datagram.from.port() == 51_820);
    // A check and its answer each way every 25 s, on the path and on what is kept beside it.
    let count = peers.count();
    assert!(count < 600 / 22 * 2 * 2 * 4, "{count}");
}

#[test]
fn engines_whose_peers_are_down_sleep_most_of_the_time() {
    let mut world = World::pair(3);
    let rates = wake_ups(&mut world);
    assert!(rates.iter().all(|rate| *rate < 6.0), "{rates:?}");
}

#[test]
fn engines_that_wait_for_a_peer_sleep_most_of_the_time() {
    let mut world = World::pair(4);
    world.sign_out(B);
    world.set_up(A, B, true);
    let offers = world.envelopes.len();
    let rates = wake_ups(&mut world);
    assert!(rates[A] < 6.0, "{rates:?}");
    let offers = world.envelopes.len() - offers;
    assert!((8..20).contains(&offers), "{offers} offers in ten minutes");
}

#[test]
fn an_engine_without_any_server_sleeps_most_of_the_time() {
    let mut world = World::new(5, &[Some(Ipv4Range::DEFAULT), None]);
    world.set_up(A, B, true);
    let rates = wake_ups(&mut world);
    assert!(rates.iter().all(|rate| *rate < 6.0), "{rates:?}");
}

#[test]
fn engines_whose_network_is_gone_come_to_rest() {
    let mut world = World::connected(6);
    world.cut = true;
    world.run_for(seconds(300));
    let rates = wake_ups(&mut world);
    assert!(rates.iter().all(|rate| *rate < 12.0), "{rates:?}");
}

#[test]
fn an_engine_without_peers_is_woken_by_its_stun_servers_only() {
    let mut world = World::new(7, &[None]);
    let rates = wake_ups(&mut world);
    assert!(rates[A] < 0.2, "{rates:?}");
}

#[test]
fn a_handled_timeout_is_over() {
    // After handle_timeout, the next one lies in the future: nobody has to call again and again.
    let mut world = World::pair(8);
    world.set_up(A, B, true);
    for _ in 0..2000 {
        let now = world.now;
        for index in [A, B] {
            let engine = &mut world.hosts[index].engine;
            if engine.poll_timeout().is_some_and(|at| at <= now) {
                engine.handle_timeout(now);
                assert!(engine.poll_timeout().is_none_or(|at| at > now));
            }
            world.drain(index);
        }
        let next = world
            .hosts
            .iter()
            .filter_map(|host| host.engine.poll_timeout())
            .min();
        let until = next.unwrap().max(now) - now;
        world.run_for(until.saturating_sub(std::time::Duration::from_nanos(1)));
        world.now += std::time::Duration::from_nanos(1);
    }
}
