//! What a description tells of the sender's NAT, and the note that foretells its next port.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use punch_signal_protocol::{
    Allocation, Budget, DecodeError, Description, Filtering, MAX_NAT_ADDRESSES, Mapping,
    NatSummary, Note, Prediction, SearchFacts,
};

use crate::description::{CREDENTIALS, KEM, STAMP, any_description, decode, golden};
use crate::hex;

/// What a description says whose NAT field has this value.
fn read(value: &str) -> Result<NatSummary, DecodeError> {
    let field = format!("06 {:04x} {value}", hex(value).len());
    decode(&["01", STAMP, CREDENTIALS, KEM, &field]).map(|description| description.nat.unwrap())
}

/// The value of the NAT field of a description that says this.
fn written(nat: NatSummary) -> Vec<u8> {
    let bytes = Description {
        nat: Some(nat),
        ..golden()
    }
    .encode();
    let without = golden().encode().len();
    assert_eq!(bytes[without], 6, "the NAT comes last");
    let length = u16::from_be_bytes([bytes[without + 1], bytes[without + 2]]);
    let value = bytes[without + 3..].to_vec();
    assert_eq!(value.len(), usize::from(length));
    value
}

fn full() -> NatSummary {
    NatSummary {
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        allocation: Some(Allocation::Sequential {
            step: -2,
            others: 0x0102,
        }),
        addresses: vec![[203, 0, 113, 5].into(), [198, 51, 100, 7].into()],
        budget: Budget::Aggressive,
        attempt: 9,
        search: None,
    }
}

#[test]
fn what_is_said_of_searches_is_a_field_of_its_own_behind_the_summary_and_can_grow() {
    let nat = NatSummary {
        search: Some(SearchFacts {
            measuring: true,
            mappings: 768,
        }),
        ..full()
    };
    let description = Description {
        nat: Some(nat.clone()),
        ..golden()
    };
    let without = Description {
        nat: Some(full()),
        ..golden()
    };
    let bytes = [
        without.encode(),
        hex("08 0005 01 00000300".replace(' ', "").as_str()),
    ]
    .concat();
    assert_eq!(description.encode(), bytes);
    assert_eq!(Description::decode(&bytes), Ok(description.clone()));

    // More flags and more bytes are passed over, less than there must be is refused.
    let newer = hex("08 0007 81 00000300 beef".replace(' ', "").as_str());
    let newer = [without.encode(), newer].concat();
    assert_eq!(Description::decode(&newer), Ok(description));
    let short = [without.encode(), hex("0800040100000003")[..7].to_vec()].concat();
    assert!(Description::decode(&short).is_err());

    // Without a summary there is nothing to say it of.
    let alone = [golden().encode(), hex("0800050100000300")].concat();
    assert_eq!(Description::decode(&alone), Ok(golden()));
}

#[test]
fn a_nat_has_its_bytes_for_ever() {
    let value = "04 03 03 09 02 fffe 0102 cb007105 c6336407";
    let bytes = [
        golden().encode(),
        hex(&["06 0011", value].concat().replace(' ', "")),
    ]
    .concat();
    let description = Description {
        nat: Some(full()),
        ..golden()
    };

    assert_eq!(description.encode(), bytes);
    assert_eq!(Description::decode(&bytes), Ok(description));
    assert_eq!(read(value), Ok(full()));
}

#[test]
fn a_nat_of_which_nothing_is_known_has_its_bytes_for_ever() {
    let unknown = NatSummary::default();

    assert_eq!(written(unknown.clone()), hex("00 00 02 00 00 0000 0000"));
    assert_eq!(read("00 00 02 00 00 0000 0000"), Ok(unknown));
}

#[test]
fn every_number_of_a_nat_has_its_meaning_for_ever() {
    let mappings = [
        Mapping::None,
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
        Mapping::Dependent,
    ];
    let filterings = [
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];
    let budgets = [Budget::Gentle, Budget::Normal, Budget::Aggressive];
    for (number, mapping) in (1..).zip(mappings) {
        let nat = NatSummary {
            mapping: Some(mapping),
            ..NatSummary::default()
        };
        assert_eq!(written(nat)[0], number, "{mapping:?}");
    }
    for (number, filtering) in (1..).zip(filterings) {
        let nat = NatSummary {
            filtering: Some(filtering),
            ..NatSummary::default()
        };
        assert_eq!(written(nat)[1], number, "{filtering:?}");
    }
    for (number, budget) in (1..).zip(budgets) {
        let nat = NatSummary {
            budget,
            ..NatSummary::default()
        };
        assert_eq!(written(nat)[2], number, "{budget:?}");
    }
}

#[test]
fn every_allocation_has_its_bytes_for_ever() {
    let sequential = |step, others| Allocation::Sequential { step, others };
    let block = |low, high| Allocation::Block { low, high };
    for (allocation, bytes) in [
        (None, "00 0000 0000"),
        (Some(Allocation::Preserving), "01 0000 0000"),
        (Some(sequential(1, 0)), "02 0001 0000"),
        (Some(sequential(-1, 0xFFFF)), "02 ffff ffff"),
        (Some(sequential(i16::MIN, 7)), "02 8000 0007"),
        (Some(sequential(i16::MAX, 7)), "02 7fff 0007"),
        (Some(block(1, 0xFFFF)), "03 0001 ffff"),
        (Some(block(40_000, 40_000)), "03 9c40 9c40"),
        (Some(Allocation::Random), "04 0000 0000"),
    ] {
        let nat = NatSummary {
            allocation,
            ..NatSummary::default()
        };
        assert_eq!(written(nat.clone())[4..], hex(bytes), "{allocation:?}");
        assert_eq!(read(&format!("00 00 02 00 {bytes}")), Ok(nat));
    }
}

#[test]
fn a_prediction_has_its_bytes_for_ever() {
    let note = Note::Prediction(Prediction {
        round: 5,
        port: 0x9C41,
    });

    assert_eq!(note.encode(), hex("03 05 9c41"));
    assert_eq!(Note::decode(&hex("03 05 9c41")), Ok(note));
    for short in ["03", "03 05", "03 05 9c"] {
        assert_eq!(Note::decode(&hex(short)), Err(DecodeError::Truncated));
    }
    assert_eq!(
        Note::decode(&hex("03 05 9c41 00")),
        Err(DecodeError::Trailing(1))
    );
}

#[test]
fn a_nat_that_says_what_cannot_be_is_refused_and_the_fault_is_named() {
    for (value, what) in [
        ("00 00 00 00 00 0000 0000", "budget"),
        // A sequence that does not move.
        ("00 00 02 00 02 0000 0000", "NAT port allocation"),
        // A block whose end comes before its beginning, and one that begins at no port.
        ("00 00 02 00 03 9c41 9c40", "NAT port allocation"),
        ("00 00 02 00 03 0000 9c40", "NAT port allocation"),
        ("00 00 02 00 03 0000 0000", "NAT port allocation"),
    ] {
        assert_eq!(read(value), Err(DecodeError::BadValue(what)), "{value}");
    }
}

#[test]
fn numbers_that_only_a_newer_version_knows_are_read_as_unknown() {
    let known = "04 03 03 09 02 fffe 0102 cb007105 c6336407";
    let read_with = |at: usize, number: u8| {
        let mut bytes = hex(known);
        bytes[at] = number;
        read(
            &bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>(),
        )
    };
    for number in [6, 7, 0x80, 0xFF] {
        let expected = NatSummary {
            mapping: None,
            ..full()
        };
        assert_eq!(read_with(0, number), Ok(expected), "mapping {number}");
    }
    for number in [4, 5, 0x80, 0xFF] {
        let expected = NatSummary {
            filtering: None,
            ..full()
        };
        assert_eq!(read_with(1, number), Ok(expected), "filtering {number}");
        let expected = NatSummary {
            budget: Budget::Normal,
            ..full()
        };
        assert_eq!(read_with(2, number), Ok(expected), "budget {number}");
    }
    for number in [5, 6, 0x80, 0xFF] {
        let expected = NatSummary {
            allocation: None,
            ..full()
        };
        assert_eq!(read_with(4, number), Ok(expected), "allocation {number}");
    }
}

#[test]
fn what_a_newer_peer_tells_of_its_nat_in_further_fields_is_passed_over() {
    let nat = "06 0011 04 03 03 09 02 fffe 0102 cb007105 c6336407";
    let further = "0a 0004 00000400 fe 0001 07";

    let description = decode(&["01", STAMP, CREDENTIALS, KEM, further, nat, further]).unwrap();

    assert_eq!(description.nat, Some(full()));
}

#[test]
fn a_nat_that_ends_too_early_is_refused_wherever_it_does() {
    let value = "04 03 03 09 02 fffe 0102 cb007105";
    let bytes = hex(value);
    for length in (0..bytes.len()).filter(|length| *length != 9) {
        let short: String = bytes[..length]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(read(&short), Err(DecodeError::Truncated), "{length}");
    }
}

#[test]
fn more_than_eight_addresses_are_never_sent_and_never_read() {
    assert_eq!(MAX_NAT_ADDRESSES, 8);
    let many: Vec<_> = (1..=9).map(|n| Ipv4Addr::new(203, 0, 113, n)).collect();
    let nat = NatSummary {
        addresses: many.clone(),
        ..NatSummary::default()
    };
    let head = "00 00 02 00 00 0000 0000";

    assert_eq!(written(nat).len(), 9 + 8 * 4);
    assert_eq!(
        read(&format!("{head} {}", "cb007101".repeat(8)))
            .unwrap()
            .addresses
            .len(),
        8
    );
    assert_eq!(
        read(&format!("{head} {}", "cb007101".repeat(9))),
        Err(DecodeError::TooLong("NAT addresses"))
    );
}

#[test]
fn the_nat_of_a_sender_that_does_not_tell_is_unknown() {
    assert_eq!(Description::decode(&golden().encode()).unwrap().nat, None);
}

pub(crate) fn any_allocation() -> impl Strategy<Value = Allocation> {
    prop_oneof![
        Just(Allocation::Preserving),
        Just(Allocation::Random),
        (any::<i16>(), any::<u16>())
            .prop_filter("a step", |(step, _)| *step != 0)
            .prop_map(|(step, others)| Allocation::Sequential { step, others }),
        (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| Allocation::Block {
            low: a.min(b),
            high: a.max(b),
        }),
    ]
}

pub(crate) fn any_nat() -> impl Strategy<Value = NatSummary> {
    let mapping = prop::sample::select(vec![
        None,
        Some(Mapping::None),
        Some(Mapping::EndpointIndependent),
        Some(Mapping::AddressDependent),
        Some(Mapping::AddressAndPortDependent),
        Some(Mapping::Dependent),
    ]);
    let filtering = prop::sample::select(vec![
        None,
        Some(Filtering::EndpointIndependent),
        Some(Filtering::AddressDependent),
        Some(Filtering::AddressAndPortDependent),
    ]);
    let budget = prop::sample::select(vec![Budget::Gentle, Budget::Normal, Budget::Aggressive]);
    (
        mapping,
        filtering,
        prop::option::of(any_allocation()),
        proptest::collection::vec(any::<Ipv4Addr>(), 0..=MAX_NAT_ADDRESSES),
        budget,
        any::<u8>(),
        prop::option::of((any::<bool>(), any::<u32>())),
    )
        .prop_map(
            |(mapping, filtering, allocation, addresses, budget, attempt, search)| NatSummary {
                mapping,
                filtering,
                allocation,
                addresses,
                budget,
                attempt,
                search: search.map(|(measuring, mappings)| SearchFacts {
                    measuring,
                    mappings,
                }),
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn every_nat_survives_the_wire(nat in any_nat()) {
        let description = Description { nat: Some(nat), ..golden() };

        prop_assert_eq!(Description::decode(&description.encode()), Ok(description));
    }

    #[test]
    fn every_prediction_survives_the_wire(round: u8, port: u16) {
        let note = Note::Prediction(Prediction { round, port });

        prop_assert_eq!(Note::decode(&note.encode()), Ok(note));
    }

    #[test]
    fn what_is_read_as_a_nat_is_possible_and_is_written_the_same_way(
        value in proptest::collection::vec(any::<u8>(), 0..60),
        head in (0..7_u8, 0..5_u8, 0..5_u8, any::<u8>(), 0..6_u8),
        sane: bool,
    ) {
        let (mapping, filtering, budget, attempt, kind) = head;
        let value = if sane {
            [&[mapping, filtering, budget, attempt, kind], &value[..]].concat()
        } else {
            value
        };
        let mut bytes = golden().encode();
        bytes.extend([6, 0, value.len() as u8]);
        bytes.extend(&value);

        if let Ok(description) = Description::decode(&bytes) {
            let nat = description.nat.clone().unwrap();
            prop_assert!(nat.addresses.len() <= MAX_NAT_ADDRESSES);
            match nat.allocation {
                Some(Allocation::Sequential { step, .. }) => prop_assert!(step != 0),
                Some(Allocation::Block { low, high }) => prop_assert!(0 < low && low <= high),
                _ => {}
            }
            prop_assert_eq!(Description::decode(&description.encode()), Ok(description));
        }
    }

    #[test]
    fn a_mutilated_nat_never_makes_the_reader_panic(
        description in any_description(),
        nat in any_nat(),
        at: prop::sample::Index,
        byte: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = Description { nat: Some(nat), ..description }.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let cut = cut.index(bytes.len());

        let _ = Description::decode(&bytes);
        let _ = Description::decode(&bytes[..cut]);
        let _ = Description::decode(&[&bytes[..cut], &bytes[cut + 1..]].concat());
    }

    #[test]
    fn arbitrary_bytes_never_make_the_reader_of_notes_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let _ = Note::decode(&bytes);
        let _ = Note::decode(&[vec![3], bytes].concat());
    }
}
