//! What a sealed envelope contains once it is open.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use punch_signal_protocol::{
    Candidate, CandidateKind, Capabilities, Capability, Credentials, DecodeError, Description,
    Ipv4Range, MAX_CANDIDATES, Note,
};

use crate::hex;
use crate::nat::any_nat;

pub(crate) const STAMP: &str = "01 0008 0102030405060708";
pub(crate) const CREDENTIALS: &str =
    "02 0028 f1f2f3f4f5f6f7f8 abababababababababababababababababababababababababababababababab";
const CANDIDATES: &str = "03 002a
    01 7fff 04 c0a80102 ca6c
    02 ffff 06 20010db8000000000000000000000002 1092
    03 0001 04 cb007107 0001";
pub(crate) const KEM: &str = "04 0003 eeefee";
const RANGE: &str = "05 0005 64400000 0a";

pub(crate) fn golden() -> Description {
    let candidate = |kind, address: &str, preference| Candidate {
        kind,
        address: address.parse().unwrap(),
        preference,
    };
    Description {
        stamp: 0x0102_0304_0506_0708,
        credentials: Credentials {
            fragment: [0xF1, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF8],
            password: [0xAB; 32],
        },
        candidates: vec![
            candidate(CandidateKind::Host, "192.168.1.2:51820", 0x7FFF),
            candidate(CandidateKind::ServerReflexive, "[2001:db8::2]:4242", 0xFFFF),
            candidate(CandidateKind::PeerReflexive, "203.0.113.7:1", 1),
        ],
        kem: vec![0xEE, 0xEF, 0xEE],
        ipv4_range: Some(Ipv4Range::DEFAULT),
        nat: None,
        capabilities: Capabilities::NONE,
    }
}

pub(crate) fn decode(parts: &[&str]) -> Result<Description, DecodeError> {
    Description::decode(&hex(&parts.concat()))
}

#[test]
fn a_description_has_its_bytes_for_ever() {
    let bytes = hex(&["01", STAMP, CREDENTIALS, CANDIDATES, KEM, RANGE].concat());

    assert_eq!(golden().encode(), bytes);
    assert_eq!(Description::decode(&bytes), Ok(golden()));
}

#[test]
fn each_note_has_its_bytes_for_ever() {
    let candidates = Note::Candidates(golden().candidates[..1].to_vec());

    assert_eq!(candidates.encode(), hex("01 01 7fff 04 c0a80102 ca6c"));
    assert_eq!(Note::Candidates(Vec::new()).encode(), hex("01"));
    assert_eq!(Note::Bye.encode(), hex("02"));
    let away = |seconds| Note::Away { seconds };
    assert_eq!(away(10).encode(), hex("04 0a"));
    let none = Note::Candidates(Vec::new());
    for note in [candidates, none, Note::Bye, away(1), away(60)] {
        assert_eq!(Note::decode(&note.encode()), Ok(note));
    }
    for absurd in ["04", "04 00", "04 3d", "04 ff", "04 0a 00"] {
        assert!(Note::decode(&hex(absurd)).is_err(), "{absurd}");
    }
}

#[test]
fn a_machine_without_ipv4_overlay_says_nothing_of_it() {
    let without = Description {
        ipv4_range: None,
        ..golden()
    };

    assert_eq!(
        without.encode(),
        hex(&["01", STAMP, CREDENTIALS, CANDIDATES, KEM].concat())
    );
    assert_eq!(Description::decode(&without.encode()), Ok(without));
}

#[test]
fn unknown_fields_are_passed_over_wherever_they_stand() {
    let unknown = "c8 0004 deadbeef 00 0000";

    let description = decode(&[
        "01",
        unknown,
        STAMP,
        CREDENTIALS,
        unknown,
        CANDIDATES,
        KEM,
        RANGE,
        unknown,
    ]);

    assert_eq!(description, Ok(golden()));
}

#[test]
fn the_order_of_the_fields_means_nothing() {
    assert_eq!(
        decode(&["01", RANGE, KEM, CANDIDATES, CREDENTIALS, STAMP]),
        Ok(golden())
    );
}

#[test]
fn a_required_field_that_is_missing_is_named() {
    assert_eq!(
        decode(&["01", CREDENTIALS, KEM]),
        Err(DecodeError::Missing("stamp"))
    );
    assert_eq!(
        decode(&["01", STAMP, KEM]),
        Err(DecodeError::Missing("credentials"))
    );
    assert_eq!(
        decode(&["01", STAMP, CREDENTIALS]),
        Err(DecodeError::Missing("key encapsulation"))
    );
    assert!(decode(&["01", STAMP, CREDENTIALS, KEM]).is_ok());
}

#[test]
fn a_field_of_the_wrong_length_is_refused() {
    let rest = [CREDENTIALS, KEM].concat();

    assert_eq!(
        decode(&["01", "01 0007 01020304050607", &rest]),
        Err(DecodeError::Truncated)
    );
    assert_eq!(
        decode(&["01", "01 0009 010203040506070809", &rest]),
        Err(DecodeError::Trailing(1))
    );
    assert_eq!(
        decode(&["01", STAMP, &rest, "05 0004 64400000"]),
        Err(DecodeError::Truncated)
    );
    assert_eq!(
        decode(&["01", STAMP, &rest, "03 0001 01"]),
        Err(DecodeError::Truncated)
    );
}

#[test]
fn impossible_values_are_named() {
    let with = |field: &str| decode(&["01", STAMP, CREDENTIALS, KEM, field]);

    assert_eq!(
        with("05 0005 64400000 07"),
        Err(DecodeError::BadValue("IPv4 range"))
    );
    assert_eq!(
        with("05 0005 64400001 0a"),
        Err(DecodeError::BadValue("IPv4 range"))
    );
    assert_eq!(
        with("03 000a 00 7fff 04 c0a80102 ca6c"),
        Err(DecodeError::BadValue("candidate kind"))
    );
    assert_eq!(
        with("03 000a 01 7fff 00 c0a80102 ca6c"),
        Err(DecodeError::BadValue("address family"))
    );
}

#[test]
fn a_candidate_over_tcp_has_these_bytes() {
    let address = "192.168.1.2:51820".parse().unwrap();
    let candidate = Candidate::new(CandidateKind::TcpPassive, address);
    let bytes = hex("01 05 7fff 04 c0a80102 ca6c");
    assert_eq!(Note::decode(&bytes), Ok(Note::Candidates(vec![candidate])));
    assert_eq!(Note::Candidates(vec![candidate]).encode(), bytes);
}

/// Candidates that only a newer version knows: kinds with the addresses of today, and addresses of other families.
const NEWER: [&str; 5] = [
    "63 7fff 04 c0a80102 ca6c",
    "ff ffff 06 20010db8000000000000000000000002 1092",
    "01 7fff 05 03 aabbcc ca6c",
    "02 7fff 07 00 0000",
    "09 0001 ff 08 0102030405060708 ffff",
];

#[test]
fn candidates_that_only_a_newer_version_knows_are_passed_over_wherever_they_stand() {
    let known = [
        "01 7fff 04 c0a80102 ca6c",
        "02 ffff 06 20010db8000000000000000000000002 1092",
        "03 0001 04 cb007107 0001",
    ];
    for newer in NEWER {
        for at in 0..=known.len() {
            let mut list = known.to_vec();
            list.insert(at, newer);
            let list = list.concat();
            let field = format!("03 {:04x} {list}", hex(&list).len());

            let description = decode(&["01", STAMP, CREDENTIALS, &field, KEM, RANGE]);
            let note = Note::decode(&hex(&format!("01 {list}")));

            assert_eq!(description, Ok(golden()), "{newer} at {at}");
            assert_eq!(note, Ok(Note::Candidates(golden().candidates)));
        }
    }
    let all = NEWER.concat();
    assert_eq!(
        Note::decode(&hex(&format!("01 {all}"))),
        Ok(Note::Candidates(Vec::new()))
    );
}

#[test]
fn a_newer_candidate_that_is_cut_short_is_refused_and_counts_towards_the_bound() {
    for newer in NEWER {
        let bytes = hex(newer);
        for length in 1..bytes.len() {
            let note = [&[1], &bytes[..length]].concat();
            assert_eq!(
                Note::decode(&note),
                Err(DecodeError::Truncated),
                "{newer} {length}"
            );
        }
        let as_many_as_allowed = [vec![1], bytes.repeat(MAX_CANDIDATES)].concat();
        assert_eq!(
            Note::decode(&as_many_as_allowed),
            Ok(Note::Candidates(Vec::new()))
        );
        let one_too_many = [vec![1], bytes.repeat(MAX_CANDIDATES + 1)].concat();
        assert_eq!(
            Note::decode(&one_too_many),
            Err(DecodeError::TooLong("candidates"))
        );
    }
    // An address that is said to be longer than everything that follows.
    let long = hex("01 01 7fff 05 ff aabbcc ca6c");
    assert_eq!(Note::decode(&long), Err(DecodeError::Truncated));
}

#[test]
fn capabilities_have_their_bytes_for_ever_and_unknown_ones_are_left_out() {
    let ours = Description {
        capabilities: Capabilities::OURS,
        ..golden()
    };
    let with = |set: &str| decode(&["01", STAMP, CREDENTIALS, CANDIDATES, KEM, RANGE, set]);

    assert_eq!(
        ours.encode(),
        hex(&[
            "01",
            STAMP,
            CREDENTIALS,
            CANDIDATES,
            KEM,
            RANGE,
            "07 0001 01"
        ]
        .concat())
    );
    assert!(ours.capabilities.contains(Capability::PassesOver));
    for set in [
        "07 0001 01",
        "07 0001 e1",
        "07 0003 010000",
        "07 0004 81ffff01",
    ] {
        assert_eq!(with(set), Ok(ours.clone()), "{set}");
    }
    for set in ["", "07 0000", "07 0001 00", "07 0001 e0", "07 0002 0001"] {
        assert_eq!(with(set), Ok(golden()), "{set}");
    }
    let as_peer = with("07 0001 0b").unwrap();
    assert_eq!(as_peer.capabilities, Capabilities::PEER);
    assert!(as_peer.capabilities.contains(Capability::ReadsRefusals));
    assert!(as_peer.capabilities.contains(Capability::WaitsForReturn));
    let earlier = with("07 0001 03").unwrap();
    assert!(!earlier.capabilities.contains(Capability::WaitsForReturn));
    let relayed = with("07 0001 0f").unwrap();
    assert_eq!(relayed.capabilities, Capabilities::RELAYED_PEER);
    assert!(relayed.capabilities.contains(Capability::Relays));
    let translated = with("07 0001 1f").unwrap();
    let whole = Capabilities::RELAYED_PEER.with(Capability::WantsWhole);
    assert_eq!(translated.capabilities, whole);
    assert!(!relayed.capabilities.contains(Capability::WantsWhole));
    assert_eq!(with("07 0002 ffff"), Ok(translated));
    let longest = format!("07 0020 01 {}", "ff".repeat(31));
    assert_eq!(with(&longest), Ok(ours));
    let longer = format!("07 0021 01 {}", "ff".repeat(32));
    assert_eq!(with(&longer), Err(DecodeError::TooLong("capabilities")));
}

#[test]
fn another_version_is_named_in_the_error() {
    assert_eq!(decode(&["02", STAMP]), Err(DecodeError::Version(2)));
    assert_eq!(Description::decode(&[]), Err(DecodeError::Truncated));
}

#[test]
fn a_description_cut_inside_a_field_is_refused() {
    let bytes = golden().encode();
    let after_kem = bytes.len() - 8;

    for length in (0..bytes.len()).filter(|length| *length != after_kem) {
        assert!(Description::decode(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn more_candidates_than_allowed_are_never_sent_and_never_read() {
    let candidate = golden().candidates[1];
    assert_eq!(MAX_CANDIDATES, 32);
    let many = vec![candidate; MAX_CANDIDATES + 1];
    let one = hex("02 ffff 06 20010db8000000000000000000000002 1092");
    let note = [vec![1], one.repeat(MAX_CANDIDATES + 1)].concat();

    let sent = Description {
        candidates: many.clone(),
        ..golden()
    }
    .encode();

    assert_eq!(
        Description::decode(&sent).unwrap().candidates.len(),
        MAX_CANDIDATES
    );
    assert_eq!(
        Note::decode(&Note::Candidates(many).encode()),
        Ok(Note::Candidates(vec![candidate; MAX_CANDIDATES]))
    );
    assert_eq!(Note::decode(&note), Err(DecodeError::TooLong("candidates")));
}

#[test]
fn a_note_that_is_none_is_refused() {
    assert_eq!(Note::decode(&[]), Err(DecodeError::Truncated));
    assert_eq!(Note::decode(&[0]), Err(DecodeError::UnknownMessage(0)));
    assert_eq!(Note::decode(&[7]), Err(DecodeError::UnknownMessage(7)));
    for (number, length) in [(5, 1184), (6, 1088)] {
        let note = |length| Note::decode(&[vec![number], vec![0; length]].concat());
        assert!(note(length).is_ok());
        assert_eq!(note(length - 1), Err(DecodeError::Truncated));
        assert_eq!(note(length + 1), Err(DecodeError::Trailing(1)));
    }
    assert_eq!(Note::decode(&[2, 0]), Err(DecodeError::Trailing(1)));
}

#[test]
fn priorities_are_those_of_rfc_8445() {
    let candidate = |kind, address: &str| Candidate::new(kind, address.parse().unwrap()).priority();

    assert_eq!(
        candidate(CandidateKind::Host, "[2001:db8::1]:1"),
        2_130_706_431
    );
    assert_eq!(
        candidate(CandidateKind::Host, "192.0.2.1:1"),
        126 << 24 | 0x7FFF << 8 | 255
    );
    assert_eq!(
        candidate(CandidateKind::PeerReflexive, "192.0.2.1:1"),
        110 << 24 | 0x7FFF << 8 | 255
    );
    assert_eq!(
        candidate(CandidateKind::PortMapped, "192.0.2.1:1"),
        108 << 24 | 0x7FFF << 8 | 255
    );
    assert_eq!(
        candidate(CandidateKind::ServerReflexive, "192.0.2.1:1"),
        100 << 24 | 0x7FFF << 8 | 255
    );
}

#[test]
fn debug_never_prints_the_password() {
    let description = golden();

    for text in [
        format!("{description:?}"),
        format!("{description:#?}"),
        format!("{:?}", description.credentials),
    ] {
        assert!(!text.contains("171"), "{text}");
        assert!(!text.to_lowercase().contains("abab"), "{text}");
        assert!(text.contains("241"), "the fragment is no secret: {text}");
    }
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let kind = prop::sample::select(vec![
        CandidateKind::Host,
        CandidateKind::ServerReflexive,
        CandidateKind::PeerReflexive,
        CandidateKind::PortMapped,
    ]);
    (kind, any::<IpAddr>(), any::<u16>(), any::<u16>()).prop_map(|(kind, ip, port, preference)| {
        Candidate {
            kind,
            address: SocketAddr::new(ip, port),
            preference,
        }
    })
}

pub(crate) fn any_description() -> impl Strategy<Value = Description> {
    let range = prop::option::of(
        (8..=24_u8).prop_map(|prefix| Ipv4Range::new([0, 0, 0, 0].into(), prefix).unwrap()),
    );
    let candidates = proptest::collection::vec(any_candidate(), 0..=MAX_CANDIDATES);
    let kem = proptest::collection::vec(any::<u8>(), 0..1300);
    (
        any::<u64>(),
        any::<[u8; 8]>(),
        any::<[u8; 32]>(),
        candidates,
        kem,
        range,
        prop::option::of(any_nat()),
        prop::sample::select(vec![
            Capabilities::NONE,
            Capabilities::OURS,
            Capabilities::PEER,
        ]),
    )
        .prop_map(
            |(stamp, fragment, password, candidates, kem, ipv4_range, nat, capabilities)| {
                Description {
                    nat,
                    capabilities,
                    stamp,
                    credentials: Credentials { fragment, password },
                    candidates,
                    kem,
                    ipv4_range,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn every_description_survives_the_wire(description in any_description()) {
        prop_assert_eq!(Description::decode(&description.encode()), Ok(description));
    }

    #[test]
    fn every_note_survives_the_wire(candidates in proptest::collection::vec(any_candidate(), 0..=MAX_CANDIDATES)) {
        let note = Note::Candidates(candidates);

        prop_assert_eq!(Note::decode(&note.encode()), Ok(note));
    }

    #[test]
    fn of_any_mixture_what_is_known_is_read_in_its_order(
        known in proptest::collection::vec(any_candidate(), 0..=16),
        newer in proptest::collection::vec((5..=255_u8, 7..=255_u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..=16),
        kinds: bool,
    ) {
        let mut bytes = vec![1];
        let mut unknown = newer.iter();
        for candidate in &known {
            bytes.extend(&Note::Candidates(vec![*candidate]).encode()[1..]);
            if let Some((kind, family, address)) = unknown.next() {
                bytes.extend([if kinds { *kind } else { 1 }, 0, 7, *family, address.len() as u8]);
                bytes.extend(address);
                bytes.extend([0, 9]);
            }
        }

        prop_assert_eq!(Note::decode(&bytes), Ok(Note::Candidates(known)));
    }

    #[test]
    fn arbitrary_bytes_never_make_the_readers_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        fields in proptest::collection::vec((0..8_u8, proptest::collection::vec(any::<u8>(), 0..50)), 0..8),
    ) {
        let mut framed = vec![1];
        for (tag, value) in fields {
            framed.extend([tag, 0, value.len() as u8]);
            framed.extend(value);
        }

        for bytes in [bytes.clone(), [vec![1], bytes.clone()].concat(), framed] {
            let _ = Description::decode(&bytes);
            let _ = Note::decode(&bytes);
        }
    }

    #[test]
    fn a_changed_description_never_makes_the_reader_panic(
        description in any_description(), at: prop::sample::Index, byte: u8,
    ) {
        let mut bytes = description.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;

        let _ = Description::decode(&bytes);
    }
}
