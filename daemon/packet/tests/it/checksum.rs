//! The Internet checksum.

use std::net::IpAddr;

use proptest::prelude::*;
use punch_packet::{Checksum, pseudo_header, transport_checksum};

use crate::{alice, bob, hex, ip, slow_checksum, slow_transport_checksum};

#[test]
fn the_example_of_rfc_1071_comes_out_right() {
    assert_eq!(
        Checksum::default()
            .with(&hex("0001 f203 f4f5 f6f7"))
            .finish(),
        !0xDDF2
    );
}

#[test]
fn a_carry_out_of_the_last_fold_is_added_again() {
    assert_eq!(Checksum::default().with(&hex("ffff 0001")).finish(), !1);
    assert_eq!(slow_checksum(&hex("ffff 0001")), !1);
}

#[test]
fn a_known_ipv4_header_comes_out_right() {
    let header = hex("4500 0073 0000 4000 4011 0000 c0a80001 c0a800c7");

    assert_eq!(Checksum::default().with(&header).finish(), 0xB861);
}

#[test]
fn nothing_sums_to_nothing() {
    assert_eq!(Checksum::default().finish(), 0xFFFF);
    assert_eq!(Checksum::default().with(&[]).with(&[0; 7]).finish(), 0xFFFF);
}

#[test]
fn the_largest_sums_do_not_overflow() {
    let ones = vec![0xFF; 1 << 20];

    assert_eq!(Checksum::default().with(&ones).finish(), 0);
}

#[test]
fn families_that_differ_have_no_addresses_to_add() {
    let mixed = pseudo_header(alice(false), bob(true), 17, 8).finish();

    assert_eq!(mixed, !(17 + 8));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn every_checksum_is_the_slow_one(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Checksum::default().with(&bytes).finish(), slow_checksum(&bytes));
    }

    #[test]
    fn pieces_of_even_length_sum_to_the_whole(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), cut: prop::sample::Index,
    ) {
        let cut = cut.index(bytes.len() + 1) & !1;

        let pieces = Checksum::default().with(&bytes[..cut]).with(&bytes[cut..]).finish();

        prop_assert_eq!(pieces, slow_checksum(&bytes));
    }

    #[test]
    fn every_transport_checksum_is_the_slow_one(
        v6: bool, protocol in prop::sample::select(vec![6, 17, 58]), segment in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let packet = ip(v6, protocol, &segment);

        let checksum = transport_checksum(alice(v6), bob(v6), protocol, &segment);

        prop_assert_eq!(checksum, slow_transport_checksum(&packet));
    }

    #[test]
    fn any_addresses_are_summed(source: IpAddr, destination: IpAddr, protocol: u8, length in 0..70_000_usize) {
        let mut bytes = Vec::new();
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => bytes.extend([source.octets(), destination.octets()].concat()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => bytes.extend([source.octets(), destination.octets()].concat()),
            _ => {}
        }
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend([0, protocol]);

        prop_assert_eq!(pseudo_header(source, destination, protocol, length).finish(), slow_checksum(&bytes));
    }
}
