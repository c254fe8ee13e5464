//! Against a bare boringtun tunnel, as another program has it: only what takes no time.

use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::*;

fn tunn(preshared: Option<[u8; 32]>, limiter: Option<Arc<RateLimiter>>) -> Tunn {
    let secret = StaticSecret::from([2; 32]);
    let peer = PublicKey::from(public(1));
    Tunn::new(secret, peer, preshared, None, 77, limiter)
}

/// What boringtun makes of a datagram: answers, and the packet in it.
fn decapsulate(tunn: &mut Tunn, datagram: &[u8]) -> (Vec<Vec<u8>>, Option<u32>) {
    let mut room = [0; 2048];
    let (mut answers, mut opened) = (Vec::new(), None);
    let mut datagram = datagram;
    loop {
        match tunn.decapsulate(Some(address(1).ip()), datagram, &mut room) {
            TunnResult::WriteToNetwork(answer) => answers.push(answer.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => {
                opened = Some(number(packet));
                break;
            }
            TunnResult::Done => break,
            other => panic!("{other:?}"),
        }
        datagram = &[];
    }
    (answers, opened)
}

fn encapsulate(tunn: &mut Tunn, number: u32) -> Vec<u8> {
    match tunn.encapsulate(&packet(number), &mut [0; 2048]) {
        TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn data_goes_both_ways(end: &mut End, tunn: &mut Tunn, now: Instant) {
    for number in 0..100 {
        let datagram = end.seal(number, now).unwrap();
        assert_eq!(decapsulate(tunn, &datagram), (Vec::new(), Some(number)));
        let datagram = encapsulate(tunn, number);
        assert_eq!(end.open(&datagram, now), Opened::Packet);
        assert_eq!(end.inbox.last(), Some(&number));
    }
}

#[test]
fn we_begin_and_boringtun_answers() {
    for preshared in [None, Some([5; 32])] {
        let now = Instant::now();
        let mut end = End::new(1, 2, preshared, None);
        let mut tunn = tunn(preshared, None);

        let initiation = end.send(1, now).remove(0);
        let (response, _) = decapsulate(&mut tunn, &initiation);
        let sent = end.receive(&response[0], address(2), now);

        // What confirms the keys, and the packet that has waited for them.
        assert_eq!(decapsulate(&mut tunn, &sent[0]), (Vec::new(), None));
        assert_eq!(decapsulate(&mut tunn, &sent[1]), (Vec::new(), Some(1)));
        data_goes_both_ways(&mut end, &mut tunn, now);
    }
}

#[test]
fn boringtun_begins_and_we_answer() {
    for preshared in [None, Some([5; 32])] {
        let now = Instant::now();
        let mut end = End::new(1, 2, preshared, None);
        let mut tunn = tunn(preshared, None);

        let initiation = encapsulate(&mut tunn, 1);
        let response = end.receive(&initiation, address(2), now).remove(0);
        let (sent, _) = decapsulate(&mut tunn, &response);
        for datagram in sent {
            end.receive(&datagram, address(2), now);
        }

        assert_eq!(end.inbox, [1]);
        data_goes_both_ways(&mut end, &mut tunn, now);
    }
}

#[test]
fn boringtun_under_load_takes_our_cookie() {
    let now = Instant::now();
    let mut end = End::new(1, 2, None, None);
    let public = PublicKey::from(public(2));
    let mut tunn = tunn(None, Some(Arc::new(RateLimiter::new(&public, 0))));

    let initiation = end.send(1, now).remove(0);
    let (cookie, _) = decapsulate(&mut tunn, &initiation);
    assert_eq!(cookie[0].len(), 64);
    assert!(end.receive(&cookie[0], address(2), now).is_empty());

    let now = now + secs(6);
    let initiation = end.begin(now).unwrap();
    let (response, _) = decapsulate(&mut tunn, &initiation);
    let sent = end.receive(&response[0], address(2), now);
    assert_eq!(decapsulate(&mut tunn, &sent[0]), (Vec::new(), None));
    assert_eq!(decapsulate(&mut tunn, &sent[1]), (Vec::new(), Some(1)));
}

#[test]
fn boringtun_opens_our_cookie() {
    let now = Instant::now();
    let mut end = End::new(1, 2, None, None);
    let mut tunn = tunn(None, None);
    let initiation = encapsulate(&mut tunn, 1);
    end.load(&initiation, address(2), now);

    let cookie = end.receive(&initiation, address(2), now).remove(0);
    assert_eq!(decapsulate(&mut tunn, &cookie), (Vec::new(), None));
    let mut room = [0; 2048];
    let TunnResult::WriteToNetwork(again) = tunn.format_handshake_initiation(&mut room, true)
    else {
        panic!("boringtun begins again");
    };
    let again = again.to_vec();

    assert!(end.admits(&again, address(2), now));
    assert!(!end.admits(&again, address(3), now));
}
