//! Too many handshakes: cookies are asked for, and what stands keeps standing.

use std::net::{IpAddr, SocketAddr};

use boringtun::noise::TunnResult;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519::{PublicKey, StaticSecret};
use punch_engine::DropReason;

use crate::packets::{at, udp};
use crate::plain::{Bench, tunn};

/// A handshake initiation with a right MAC from somebody whom nobody knows.
fn unknown(number: u32) -> Vec<u8> {
    let mut buffer = [0; 148];
    let secret = StaticSecret::from([9; 32]);
    match tunn(&secret, None, number).format_handshake_initiation(&mut buffer, true) {
        TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn flooder(number: u32) -> SocketAddr {
    let [_, b, c, d] = number.to_be_bytes();
    SocketAddr::new(IpAddr::from([10, b, c, d]), 1000)
}

fn flood(bench: &mut Bench, count: u32) {
    let initiation = unknown(1);
    for number in 0..count {
        bench.receive(flooder(number), &initiation);
    }
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies() {
    let mut bench = Bench::new(true);

    flood(&mut bench, 2000);

    let under_load = bench.drops(DropReason::UnderLoad);
    assert!(under_load >= 1500, "{under_load}");
    assert_eq!(bench.astray.len(), 400, "no more than so many a second");
    for (to, reply) in &bench.astray {
        assert_eq!(
            (reply[0], reply.len()),
            (3, 64),
            "a cookie reply, shorter than what it answers"
        );
        assert!(to.port() == 1000);
    }
}

#[test]
fn whom_we_know_gets_a_cookie_when_the_others_get_none() {
    let mut bench = Bench::empty();
    bench.add(true, None);
    bench.set_up_unheard(0);
    flood(&mut bench, 5000);
    bench.sent.clear();

    bench.call(0);

    let home = bench.peers[0].endpoint;
    let replies: Vec<_> = bench.sent.iter().map(|sent| (sent.1, sent.3[0])).collect();
    assert_eq!(replies, [(home, 3)]);
    // Nor is there any end of cookies for the next second's strangers.
    bench.pass(std::time::Duration::from_secs(2));
    bench.sent.clear();
    flood(&mut bench, 500);
    assert_eq!(bench.sent.len(), 100);
}

#[test]
fn a_tunnel_that_stands_works_through_a_flood() {
    let mut bench = Bench::new(true);
    bench.grant(0, true);
    let (own, peer) = (bench.own(true), bench.peers[0].address);
    for round in 0..20 {
        flood(&mut bench, 100);
        let back = udp(at(peer, 3), at(own, 4), &[round]);
        let there = udp(at(own, 3), at(peer, 4), &[round]);
        bench.peer_sends(0, &back);
        bench.host_sends(&there);
        assert_eq!(bench.take_tun(), [back]);
        assert_eq!(bench.take_inbox(0), [there]);
    }
    assert!(bench.drops(DropReason::UnderLoad) > 0);
}

#[test]
fn a_peer_that_sends_its_cookie_back_comes_through_a_flood() {
    let mut bench = Bench::empty();
    bench.add(true, None);
    bench.set_up_unheard(0);
    flood(&mut bench, 1000);

    bench.call(0);
    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert!(!report.established, "the first attempt gets a cookie");
    bench.call(0);

    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert!(
        report.established,
        "the second one proves its address with it"
    );
}

#[test]
fn an_engine_that_shakes_hands_during_a_flood_gets_through() {
    // The response to our own initiation counts as a handshake message too.
    let mut bench = Bench::empty();
    bench.add(true, None);
    flood(&mut bench, 1000);
    bench.connect(0);
    bench.call(0);
    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert!(report.established);
}

#[test]
fn a_handshake_from_elsewhere_does_not_move_a_peer_at_any_load() {
    // Somebody has copied an initiation of the peer's and sends it from his own address, at every point of a flood.
    for before in 0..12 {
        let mut bench = Bench::empty();
        bench.add(true, None);
        bench.connect(0);
        let initiation = bench.initiation(0);
        let home = bench.peers[0].endpoint;
        bench.receive(home, &initiation);
        let thief: SocketAddr = "203.0.113.66:1".parse().unwrap();
        flood(&mut bench, 390 + before);
        for _ in 0..10 {
            bench.receive(thief, &initiation);
            let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
            assert_eq!(
                report.path.unwrap().endpoint(),
                Some(home),
                "after {before}"
            );
        }
    }
}

#[test]
fn a_forged_cookie_does_not_move_a_peer() {
    // Whoever has seen our initiation and knows the peer's public key can make a cookie reply.
    let mut bench = Bench::empty();
    bench.add(true, None);
    let home = bench.peers[0].endpoint;
    let thief: SocketAddr = "203.0.113.66:1".parse().unwrap();
    bench.set_up(0, true);
    let initiation = bench
        .sent
        .iter()
        .find(|sent| sent.3[0] == 1)
        .unwrap()
        .3
        .clone();
    let limiter = RateLimiter::new(&PublicKey::from(&bench.peers[0].secret), 0);
    let mut buffer = [0; 148];
    let cookie = match limiter.verify_packet(Some(thief.ip()), &initiation, &mut buffer) {
        Err(TunnResult::WriteToNetwork(cookie)) => cookie.to_vec(),
        other => panic!("{other:?}"),
    };

    bench.receive(thief, &cookie);

    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert_eq!(report.path.unwrap().endpoint(), Some(home));
}

#[test]
fn a_step_that_gets_lost_gives_its_place_back() {
    let mut bench = Bench::empty();
    bench.add(true, None);
    bench.set_up_unheard(0);
    let hand_over = |bench: &mut Bench, count: u32| {
        for number in 0..count {
            bench.hand_over(flooder(number), &unknown(1));
        }
    };
    // Eight are identified at once, and no more.
    for _ in 0..3 {
        hand_over(&mut bench, 10);
        let waiting: Vec<_> = std::iter::from_fn(|| bench.engine.poll_job()).collect();
        assert_eq!(waiting.len(), 8);
        drop(waiting);
    }
    assert_eq!(bench.drops(DropReason::UnderLoad), 6);
    // So does one that a thread has performed, and whose result gets lost.
    hand_over(&mut bench, 8);
    for job in std::iter::from_fn(|| bench.engine.poll_job()) {
        drop(job.perform());
    }

    bench.call(0);
    let report = bench.engine.peer_report(bench.peers[0].handle).unwrap();
    assert!(report.established, "the door is open");
}

/// Performs the next step of a handshake.
fn step(bench: &mut Bench) {
    let job = bench.engine.poll_job().expect("there is a step to be done");
    bench.engine.handle_job(job.perform(), bench.now);
}

#[test]
fn data_that_comes_while_a_copied_initiation_is_read_is_opened_afterwards() {
    let mut bench = Bench::empty();
    bench.add(true, None);
    bench.grant(0, true);
    bench.set_up_unheard(0);
    let home = bench.peers[0].endpoint;
    let old = bench.initiation(0);
    bench.receive(home, &old);
    assert!(
        bench
            .engine
            .peer_report(bench.peers[0].handle)
            .unwrap()
            .established
    );

    // The peer asks for new keys and is answered; its first data with them is on its way.
    let new = bench.initiation(0);
    bench.hand_over(home, &new);
    step(&mut bench);
    step(&mut bench);
    bench.engine.flush(bench.now);
    let train = bench.engine.poll_train().expect("the response");
    let mut room = [0; 2048];
    let answered = bench.peers[0]
        .tunn
        .decapsulate(None, &train.bytes, &mut room);
    assert!(
        matches!(answered, TunnResult::WriteToNetwork(_)),
        "{answered:?}"
    );
    let packet = udp(
        at(bench.peers[0].address, 1),
        at(bench.own(true), 2),
        b"data",
    );
    let data = bench.seal(0, &packet);

    // Somebody plays the old initiation back just then, which takes the tunnel that the data is for.
    bench.hand_over(home, &old);
    step(&mut bench);
    let job = bench.engine.poll_job().expect("the copy is to be answered");
    bench.hand_over(home, &data);
    bench.pump();
    assert!(bench.take_tun().is_empty());
    bench.engine.handle_job(job.perform(), bench.now);
    bench.pump();

    assert_eq!(bench.take_tun(), [packet]);
    assert_eq!(bench.drops(DropReason::NotForUs), 1, "the copy");
}
