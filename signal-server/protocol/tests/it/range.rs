//! The range of the overlay's IPv4 addresses.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use punch_signal_protocol::{Ipv4Range, Ipv4RangeError};

#[test]
fn the_default_is_the_shared_address_space() {
    assert_eq!(Ipv4Range::DEFAULT.to_string(), "100.64.0.0/10");
    assert_eq!("100.64.0.0/10".parse(), Ok(Ipv4Range::DEFAULT));
    assert_eq!(
        Ipv4Range::new(Ipv4Addr::new(100, 64, 0, 0), 10),
        Ok(Ipv4Range::DEFAULT)
    );
}

#[test]
fn an_address_inside_the_range_is_answered_with_the_network() {
    let error = "100.65.2.3/10".parse::<Ipv4Range>().unwrap_err();

    assert_eq!(error, Ipv4RangeError::HostBits(Ipv4Range::DEFAULT));
    assert!(error.to_string().starts_with("100.64.0.0/10"));
}

#[test]
fn prefixes_from_8_to_24_are_accepted_and_no_other() {
    for prefix in 0..=255 {
        let range = Ipv4Range::new(Ipv4Addr::UNSPECIFIED, prefix);

        assert_eq!(
            range.err(),
            (!(8..=24).contains(&prefix)).then_some(Ipv4RangeError::Prefix(prefix))
        );
    }
}

#[test]
fn a_text_of_another_form_is_malformed() {
    for text in [
        "",
        "/",
        "100.64.0.0",
        "100.64.0.0/",
        "/10",
        "100.64.0/10",
        "100.64.0.0/256",
        "fd00::/10",
        "1.0.0.0/8/8",
    ] {
        assert_eq!(
            text.parse::<Ipv4Range>(),
            Err(Ipv4RangeError::Malformed),
            "{text}"
        );
    }
}

#[test]
fn the_first_and_the_last_address_are_never_given_out() {
    let range: Ipv4Range = "10.1.2.0/24".parse().unwrap();

    assert_eq!(range.address(0), Ipv4Addr::new(10, 1, 2, 1));
    assert_eq!(range.address(u32::MAX), Ipv4Addr::new(10, 1, 2, 254));
    assert_eq!(range.address(0x8000_0000), Ipv4Addr::new(10, 1, 2, 128));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn every_address_lies_inside_its_range(bits: u32, prefix in 8_u8..=24, hash: u32) {
        let mask = u32::MAX << (32 - prefix);
        let range = Ipv4Range::new(Ipv4Addr::from(bits & mask), prefix).unwrap();

        let address = u32::from(range.address(hash));

        prop_assert_eq!(address & mask, bits & mask);
        prop_assert_ne!(address & !mask, 0);
        prop_assert_ne!(address & !mask, !mask);
        prop_assert_eq!(range.to_string().parse(), Ok(range));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,40}", near in "[0-9./+-]{0,24}") {
        let _ = text.parse::<Ipv4Range>();
        let _ = near.parse::<Ipv4Range>();
    }
}
