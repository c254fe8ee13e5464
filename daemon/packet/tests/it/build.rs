//! Packets that punchd itself sends.

use std::net::SocketAddr;

use proptest::prelude::*;
use punch_packet::{
    Packet, Transport, UdpReply, echo_reply, echo_request, is_our_echo, udp_packets,
};

use crate::{GROUP, alice, assert_sound, bob, fragment, hex, icmp, ping, tcp, with_address};

fn reply(v6: bool, payload: &[u8]) -> UdpReply<'_> {
    let (source, destination) = (
        SocketAddr::new(bob(v6), 53),
        SocketAddr::new(alice(v6), 40_000),
    );
    UdpReply {
        source,
        destination,
        payload,
        id: 0x0102_0304,
    }
}

#[test]
fn a_datagram_over_ipv4_has_these_bytes() {
    let packets = udp_packets(reply(false, b"abc"), 1500);

    let expected = hex("4500 001f 0000 0000 40 11 b24b 64400002 64400001
        0035 9c40 000b d67c 616263");
    assert_eq!(packets, [expected]);
}

#[test]
fn a_datagram_over_ipv6_has_these_bytes() {
    let packets = udp_packets(reply(true, b"abc"), 1500);

    let expected = hex(
        "60000000 000b 11 40 fd70756e636800000000000000000002 fd70756e636800000000000000000001
        0035 9c40 000b f26d 616263",
    );
    assert_eq!(packets, [expected]);
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    for v6 in [false, true] {
        let at = if v6 { 46 } else { 26 };
        let other = udp_packets(reply(v6, &[0, 0]), 1500).remove(0);

        let packet = udp_packets(reply(v6, &other[at..at + 2]), 1500).remove(0);

        assert_eq!(packet[at..at + 2], [0xFF, 0xFF]);
        assert!(Packet::parse(&packet).unwrap().checksum_is_right());
    }
}

#[test]
fn a_datagram_that_fits_is_one_packet_and_one_byte_more_makes_two() {
    for (v6, headers) in [(false, 28), (true, 48)] {
        let data = vec![7; 1400 - headers + 1];

        let (one, two) = (
            udp_packets(reply(v6, &data[1..]), 1400),
            udp_packets(reply(v6, &data), 1400),
        );

        assert_eq!((one.len(), one[0].len()), (1, 1400));
        assert_eq!(Packet::parse(&one[0]).unwrap().fragment(), None);
        assert_eq!(two.len(), 2);
    }
}

#[test]
fn fragments_share_an_id_and_follow_each_other_without_gap() {
    for v6 in [false, true] {
        // What remains of this MTU behind the headers is a multiple of eight.
        let mtu = if v6 { 1400 } else { 1404 };

        let packets = udp_packets(reply(v6, &[7; 5000]), mtu);

        assert_eq!(packets[0].len(), mtu);
        let mut next = 0;
        for (index, bytes) in packets.iter().enumerate() {
            let packet = Packet::parse(bytes).unwrap();
            let fragment = packet.fragment().unwrap();
            assert_eq!(fragment.id, if v6 { 0x0102_0304 } else { 0x0304 });
            assert_eq!(
                (fragment.offset, fragment.more),
                (next, index + 1 < packets.len())
            );
            next += packet.segment().len();
        }
        assert_eq!(next, 5008);
    }
}

#[test]
fn a_fragment_over_ipv6_has_these_bytes_behind_its_header() {
    let packets = udp_packets(reply(true, &[7; 5000]), 1400);

    assert_eq!(packets[1][40..48], hex("11 00 0549 01020304"));
    assert_eq!(packets[1][6], 44);
}

#[test]
fn an_mtu_that_no_link_may_have_is_taken_as_the_least_that_it_may() {
    for (v6, least) in [(false, 576), (true, 1280)] {
        assert_eq!(
            udp_packets(reply(v6, &[7; 3000]), 0),
            udp_packets(reply(v6, &[7; 3000]), least)
        );
        let data = vec![7; least - if v6 { 48 } else { 28 } + 1];
        assert_eq!(udp_packets(reply(v6, &data[1..]), 0).len(), 1);
        assert_eq!(udp_packets(reply(v6, &data), 0).len(), 2);
    }
}

#[test]
fn the_longest_datagrams_are_made_and_longer_ones_are_not() {
    let payload = vec![7; 65_528];
    for (v6, longest) in [(false, 65_507), (true, 65_527)] {
        for mtu in [1280, 65_535, 65_570, usize::MAX] {
            let packets = udp_packets(reply(v6, &payload[..longest]), mtu);

            let data: usize = packets
                .iter()
                .map(|packet| Packet::parse(packet).unwrap().segment().len())
                .sum();
            assert_eq!(data, longest + 8);
            assert!(packets.iter().all(|packet| packet.len() <= mtu));
            assert_eq!(
                udp_packets(reply(v6, &payload[..longest + 1]), mtu).len(),
                0
            );
        }
    }
}

#[test]
fn a_datagram_between_two_families_is_not_made() {
    let mixed = UdpReply {
        destination: SocketAddr::new(alice(true), 1),
        ..reply(false, b"abc")
    };

    assert_eq!(udp_packets(mixed, 1500).len(), 0);
}

#[test]
fn an_echo_is_answered_with_the_same_identifier_number_and_data() {
    for v6 in [false, true] {
        for data in [&b""[..], b"odd", &[7; 9000]] {
            let request = ping(v6, data);

            let reply = echo_reply(&Packet::parse(&request).unwrap()).unwrap();

            assert_sound(&reply);
            let packet = Packet::parse(&reply).unwrap();
            assert_eq!(
                (packet.source(), packet.destination()),
                (bob(v6), alice(v6))
            );
            assert_eq!(
                packet.transport(),
                Transport::Echo {
                    request: false,
                    id: 0x1D2E
                }
            );
            assert_eq!(
                packet.segment()[4..],
                Packet::parse(&request).unwrap().segment()[4..]
            );
        }
    }
}

#[test]
fn only_a_whole_and_right_echo_request_is_answered() {
    for v6 in [false, true] {
        let request = ping(v6, b"abcdefgh");
        let segment = &request[if v6 { 40 } else { 20 }..];
        let protocol = if v6 { 58 } else { 1 };
        let mut damaged = request.clone();
        *damaged.last_mut().unwrap() ^= 1;

        for bytes in [
            damaged,
            icmp(v6, if v6 { 129 } else { 0 }, b"a reply"),
            icmp(v6, if v6 { 1 } else { 3 }, &request),
            tcp(v6, 2, 1, 2, b""),
            fragment(v6, protocol, 1, 0, true, segment),
            fragment(v6, protocol, 1, 8, false, segment),
        ] {
            assert_eq!(
                echo_reply(&Packet::parse(&bytes).unwrap()),
                None,
                "{bytes:02x?}"
            );
        }
    }
}

#[test]
fn nobody_answers_an_echo_in_the_name_of_a_group_nor_to_one() {
    for v6 in [false, true] {
        for destination in [false, true] {
            let request = with_address(ping(v6, b"abc"), destination, GROUP[usize::from(v6)]);
            let packet = Packet::parse(&request).unwrap();
            assert!(packet.checksum_is_right());

            assert_eq!(echo_reply(&packet), None);
        }
    }
}

#[test]
fn our_own_echo_requests_have_these_bytes() {
    let payload = b"punch echo probe";
    for (v6, kind) in [(false, 8), (true, 128)] {
        let request = echo_request(alice(v6), bob(v6), 0x1D2E).unwrap();

        let segment = Packet::parse(&request).unwrap().segment().to_vec();
        assert_eq!(segment[..2], [kind, 0]);
        assert_eq!(segment[4..8], hex("1d2e 0000"));
        assert_eq!(&segment[8..], payload);
    }
}

#[test]
fn the_reply_to_our_own_echo_request_is_known_again() {
    for v6 in [false, true] {
        let request = echo_request(alice(v6), bob(v6), 0x1D2E).unwrap();
        assert_sound(&request);
        let request = Packet::parse(&request).unwrap();

        let reply = echo_reply(&request).unwrap();

        let reply = Packet::parse(&reply).unwrap();
        assert_eq!(
            reply.transport(),
            Transport::Echo {
                request: false,
                id: 0x1D2E
            }
        );
        assert!(is_our_echo(&reply));
        assert!(!is_our_echo(&request), "the request itself is not");
    }
    assert_eq!(echo_request(alice(false), bob(true), 1), None);
}

#[test]
fn the_reply_to_an_echo_request_of_the_host_is_not_taken_for_ours() {
    for v6 in [false, true] {
        let reply = if v6 { 129 } else { 0 };
        let mut damaged = icmp(v6, reply, b"punch echo probe");
        assert!(is_our_echo(&Packet::parse(&damaged).unwrap()));
        damaged[if v6 { 43 } else { 23 }] ^= 1;

        for bytes in [
            icmp(v6, reply, b"punch echo probe!"),
            icmp(v6, reply, b"punch echo prob"),
            icmp(v6, reply, b""),
            damaged,
        ] {
            assert!(
                !is_our_echo(&Packet::parse(&bytes).unwrap()),
                "{bytes:02x?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn every_datagram_is_sound_and_carries_its_payload(
        v6: bool, payload in proptest::collection::vec(any::<u8>(), 0..1200), source: u16, destination: u16,
    ) {
        let reply = UdpReply {
            source: SocketAddr::new(bob(v6), source),
            destination: SocketAddr::new(alice(v6), destination),
            payload: &payload,
            id: 1,
        };

        let packets = udp_packets(reply, 1280);

        prop_assert_eq!(packets.len(), 1);
        assert_sound(&packets[0]);
        let packet = Packet::parse(&packets[0]).unwrap();
        prop_assert_eq!(packet.udp_payload(), Some(&payload[..]));
        prop_assert_eq!(packet.transport(), Transport::Udp { source, destination });
        prop_assert!(packet.checksum_is_right());
    }
}
