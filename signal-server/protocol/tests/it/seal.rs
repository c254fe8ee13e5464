//! The end-to-end seal, told as the life of an exchange.

use std::collections::HashSet;

use proptest::prelude::*;
use punch_signal_protocol::seal::{
    AnswerRefused, Exchange, Kind, OpenedOffer, PendingOffer, SealError, stream_credentials,
};
use punch_signal_protocol::{
    Candidate, CandidateKind, Credentials, Description, Identity, MAX_CANDIDATES, MAX_ENVELOPE,
    MAX_NAT_ADDRESSES, NatSummary, Note,
};

use crate::{description, machine};

/// An offer from `a` to `b`; `n` is the randomness.
fn offer(a: &Identity, b: &Identity, n: u8) -> (PendingOffer, Vec<u8>) {
    PendingOffer::seal(a, &b.id(), description(n.into()), [n; 32]).unwrap()
}

/// The answer of `b` to an offer from `a`.
fn answer(a: &Identity, b: &Identity, offer: &[u8], n: u8) -> (Exchange, Vec<u8>) {
    let opened = OpenedOffer::open(b, &a.id(), offer, [n; 32]).unwrap();
    opened.answer(description(n.into()), [n + 100; 32]).unwrap()
}

/// Both ends of a finished exchange between machines 1 and 2.
fn exchange() -> (Exchange, Exchange) {
    let (a, b) = (machine(1), machine(2));
    let (pending, offer) = offer(&a, &b, 3);
    let (at_b, answer) = answer(&a, &b, &offer, 4);
    let (at_a, _) = pending.open_answer(&answer).ok().unwrap();
    (at_a, at_b)
}

fn note(port: u16) -> Note {
    let address = ([192, 0, 2, 1], port).into();
    Note::Candidates(vec![Candidate::new(CandidateKind::PeerReflexive, address)])
}

fn refused(result: Result<(Exchange, Description), AnswerRefused>) -> (PendingOffer, SealError) {
    let (pending, error) = result.err().expect("the answer is refused");
    (*pending.expect("the offer is still pending"), error)
}

#[test]
fn an_offer_and_its_answer_give_both_ends_the_same_preshared_key() {
    let (a, b) = (machine(1), machine(2));
    let (pending, offer) = PendingOffer::seal(&a, &b.id(), description(10), [3; 32]).unwrap();

    let opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
    let offered = opened.description.clone();
    let (at_b, answer) = opened.answer(description(20), [5; 32]).unwrap();
    let (at_a, answered) = pending.open_answer(&answer).ok().unwrap();

    assert_eq!((offered.stamp, offered.kem.len()), (10, 1184));
    assert_eq!(
        Description {
            kem: Vec::new(),
            ..offered
        },
        description(10)
    );
    assert_eq!((answered.stamp, answered.kem.len()), (20, 1088));
    assert_eq!(
        Description {
            kem: Vec::new(),
            ..answered
        },
        description(20)
    );
    assert_eq!(at_a.preshared_key(), at_b.preshared_key());
    assert_ne!(*at_a.preshared_key().unwrap().as_bytes(), [0; 32]);
}

#[test]
fn an_envelope_shows_its_kind_and_nothing_else_is_one() {
    let (a, b) = (machine(1), machine(2));
    let (_, offer) = offer(&a, &b, 3);
    let (mut at_b, answer) = answer(&a, &b, &offer, 4);
    let bye = at_b.seal(&Note::Bye).unwrap();

    assert_eq!((offer[0], Kind::of(&offer)), (1, Some(Kind::Offer)));
    assert_eq!((answer[0], Kind::of(&answer)), (2, Some(Kind::Answer)));
    assert_eq!((bye[0], Kind::of(&bye)), (3, Some(Kind::Note)));
    assert_eq!(Kind::of(&[4]), Some(Kind::Refusal));
    assert_eq!(Kind::of(&[5]), Some(Kind::Introduction));
    assert_eq!(Kind::of(&[6]), Some(Kind::Welcome));
    assert_eq!(Kind::of(&[]), None);
    assert!(
        [0].into_iter()
            .chain(7..=255)
            .all(|byte| Kind::of(&[byte]).is_none())
    );
}

#[test]
fn notes_pass_both_ways_in_any_order() {
    let (mut a, mut b) = exchange();
    let to_b = [
        a.seal(&note(1)).unwrap(),
        a.seal(&note(2)).unwrap(),
        a.seal(&Note::Bye).unwrap(),
    ];
    let to_a = b.seal(&note(3)).unwrap();

    assert_eq!(b.open(&to_b[2]), Ok(Note::Bye));
    assert_eq!(b.open(&to_b[0]), Ok(note(1)));
    assert_eq!(a.open(&to_a), Ok(note(3)));
    assert_eq!(b.open(&to_b[1]), Ok(note(2)));
}

#[test]
fn a_note_has_its_bytes_for_ever() {
    let (mut a, mut b) = exchange();
    let sealed = [a.seal(&Note::Bye).unwrap(), b.seal(&Note::Bye).unwrap()];
    let hex =
        sealed.map(|note| -> String { note.iter().map(|byte| format!("{byte:02x}")).collect() });
    let golden: [String; 2] = [
        "030000000000000000946dae7a27fd03227d92d1e8e6c23c3bd8".into(),
        "030000000000000000c00fb98891c7dfd751253559b5b419a4e2".into(),
    ];
    assert_eq!(hex, golden);
}

#[test]
fn another_process_goes_on_with_notes_and_uses_no_nonce_again() {
    let (mut a, mut b) = exchange();
    let first = a.seal(&note(1)).unwrap();
    assert_eq!(b.open(&first), Ok(note(1)));
    let left = a.bequeath().unwrap();
    // What is sealed after that the next process does not know of.
    let lost = a.seal(&note(2)).unwrap();
    let mut seen: HashSet<_> = [&first, &lost].map(|note| note[1..9].to_vec()).into();
    for wall_ms in [1_800_000_000_000, 1_800_000_000_001, 1_800_000_100_000] {
        let mut next = Exchange::inherit(left.clone(), wall_ms, u64::MAX);
        for port in 3..6 {
            let sealed = next.seal(&note(port)).unwrap();
            assert!(seen.insert(sealed[1..9].to_vec()));
            assert_eq!(b.open(&sealed), Ok(note(port)));
        }
        let answer = b.seal(&Note::Bye).unwrap();
        assert_eq!(next.open(&answer), Ok(Note::Bye));
        assert_eq!(next.open(&answer), Err(SealError::Replayed));
    }
    // A machine that is started again and again has notes left.
    let mut often = Exchange::inherit(left.clone(), 1_800_000_100_000, 0);
    for _ in 0..10_000 {
        often = Exchange::inherit(often.bequeath().unwrap(), 1_800_000_200_000, u64::MAX);
    }
    assert_eq!(b.open(&often.seal(&note(9)).unwrap()), Ok(note(9)));
    // Far too often is an error, not a nonce again.
    let mut last = left;
    last.next = u64::MAX - 1;
    assert!(Exchange::inherit(last, u64::MAX, 0).seal(&note(1)).is_err());
}

#[test]
fn a_duplicated_note_is_refused() {
    let (mut a, mut b) = exchange();
    let bye = a.seal(&Note::Bye).unwrap();
    assert_eq!(b.open(&bye), Ok(Note::Bye));

    assert_eq!(b.open(&bye), Err(SealError::Replayed));
}

#[test]
fn a_note_older_than_the_window_is_refused() {
    let (mut a, mut b) = exchange();
    let notes: Vec<_> = (0..65).map(|port| a.seal(&note(port)).unwrap()).collect();
    assert_eq!(b.open(&notes[64]), Ok(note(64)));

    assert_eq!(b.open(&notes[1]), Ok(note(1)), "63 behind the newest");
    assert_eq!(
        b.open(&notes[0]),
        Err(SealError::Replayed),
        "64 behind the newest"
    );
    assert_eq!(b.open(&notes[1]), Err(SealError::Replayed), "seen");
}

#[test]
fn the_window_moves_on_over_a_great_loss() {
    let (mut a, mut b) = exchange();
    let notes: Vec<_> = (0..300).map(|port| a.seal(&note(port)).unwrap()).collect();
    assert_eq!(b.open(&notes[0]), Ok(note(0)));

    assert_eq!(b.open(&notes[299]), Ok(note(299)));

    assert_eq!(b.open(&notes[298]), Ok(note(298)));
    assert_eq!(b.open(&notes[236]), Ok(note(236)));
    assert_eq!(b.open(&notes[235]), Err(SealError::Replayed));
    assert_eq!(b.open(&notes[299]), Err(SealError::Replayed));
}

#[test]
fn the_window_moves_by_any_step() {
    for step in [1, 62, 63, 64, 65, 128] {
        let (mut a, mut b) = exchange();
        let notes: Vec<_> = (0..=step)
            .map(|port| a.seal(&note(port)).unwrap())
            .collect();
        assert_eq!(b.open(&notes[0]), Ok(note(0)));

        assert_eq!(b.open(&notes[usize::from(step)]), Ok(note(step)));

        assert_eq!(b.open(&notes[0]), Err(SealError::Replayed), "step {step}");
        assert_eq!(
            b.open(&notes[usize::from(step)]),
            Err(SealError::Replayed),
            "step {step}"
        );
        if step > 1 {
            assert_eq!(
                b.open(&notes[usize::from(step) - 1]),
                Ok(note(step - 1)),
                "step {step}"
            );
        }
    }
}

#[test]
fn a_forged_nonce_does_not_move_the_window() {
    let (mut a, mut b) = exchange();
    let genuine = a.seal(&note(1)).unwrap();
    for nonce in [1, 64, 1 << 32, u64::MAX - 1, u64::MAX] {
        let mut forged = genuine.clone();
        forged[1..9].copy_from_slice(&nonce.to_be_bytes());
        assert_eq!(b.open(&forged), Err(SealError::NotAuthentic), "{nonce}");
    }

    assert_eq!(b.open(&genuine), Ok(note(1)));
}

#[test]
fn a_note_reflected_to_its_sender_is_refused() {
    let (mut a, _) = exchange();
    let bye = a.seal(&Note::Bye).unwrap();

    assert_eq!(a.open(&bye), Err(SealError::NotAuthentic));
}

#[test]
fn a_note_of_another_exchange_is_refused() {
    let (a, b) = (machine(1), machine(2));
    let (_, mut first) = exchange();
    let (_, offer) = offer(&a, &b, 13);
    let (mut other, _) = answer(&a, &b, &offer, 14);

    assert_eq!(
        first.open(&other.seal(&Note::Bye).unwrap()),
        Err(SealError::NotAuthentic)
    );
}

#[test]
fn a_note_cut_or_changed_anywhere_is_refused_and_the_true_one_still_opens() {
    let (mut a, mut b) = exchange();
    let genuine = a.seal(&note(1)).unwrap();

    for index in 0..genuine.len() {
        let mut flipped = genuine.clone();
        flipped[index] ^= 0x80;
        assert!(b.open(&flipped).is_err(), "byte {index} flipped");
        assert!(b.open(&genuine[..index]).is_err(), "cut to {index}");
    }

    assert!(b.open(&[&genuine[..], &[0]].concat()).is_err());
    assert_eq!(b.open(&genuine), Ok(note(1)));
}

#[test]
fn a_forged_answer_leaves_the_offer_pending_and_the_true_answer_still_opens() {
    let (a, b, mallory) = (machine(1), machine(2), machine(9));
    let (pending, to_b) = offer(&a, &b, 3);
    let (_, to_mallory) = offer(&a, &mallory, 5);
    let (_, forged) = answer(&a, &mallory, &to_mallory, 6);
    let (at_b, genuine) = answer(&a, &b, &to_b, 4);

    let (pending, error) = refused(pending.open_answer(&forged));

    assert_eq!(error, SealError::NotAuthentic);
    let (at_a, _) = pending.open_answer(&genuine).ok().unwrap();
    assert_eq!(at_a.preshared_key(), at_b.preshared_key());
}

#[test]
fn an_answer_to_another_offer_is_refused() {
    let (a, b) = (machine(1), machine(2));
    let (first, offer_1) = offer(&a, &b, 3);
    let (second, offer_2) = offer(&a, &b, 5);
    let (_, answer_1) = answer(&a, &b, &offer_1, 4);
    let (_, answer_2) = answer(&a, &b, &offer_2, 6);

    let (first, error) = refused(first.open_answer(&answer_2));

    assert_eq!(error, SealError::NotAuthentic);
    assert!(first.open_answer(&answer_1).is_ok());
    assert!(second.open_answer(&answer_2).is_ok());
}

#[test]
fn an_answer_cut_or_changed_anywhere_is_refused_and_the_true_one_still_opens() {
    let (a, b) = (machine(1), machine(2));
    let (mut pending, offer) = offer(&a, &b, 3);
    let (at_b, genuine) = answer(&a, &b, &offer, 4);

    for index in 0..genuine.len() {
        let mut flipped = genuine.clone();
        flipped[index] ^= 0x80;
        let expected = if index == 0 {
            SealError::Malformed
        } else {
            SealError::NotAuthentic
        };
        let (still, error) = refused(pending.open_answer(&flipped));
        assert_eq!(error, expected, "byte {index} flipped");
        let (still, error) = refused(still.open_answer(&genuine[..index]));
        assert_eq!(error, expected, "cut to {index}");
        pending = still;
    }

    let (at_a, _) = pending.open_answer(&genuine).ok().unwrap();
    assert_eq!(at_a.preshared_key(), at_b.preshared_key());
}

#[test]
fn an_offer_cut_or_changed_anywhere_is_refused() {
    let (a, b) = (machine(1), machine(2));
    let (_, genuine) = offer(&a, &b, 3);
    let open = |envelope: &[u8]| {
        OpenedOffer::open(&b, &a.id(), envelope, [4; 32]).map(|opened| opened.description)
    };

    for index in 0..genuine.len() {
        let mut flipped = genuine.clone();
        flipped[index] ^= 0x80;
        let expected = if index == 0 {
            SealError::Malformed
        } else {
            SealError::NotAuthentic
        };
        assert_eq!(open(&flipped), Err(expected), "byte {index} flipped");
        assert_eq!(open(&genuine[..index]), Err(expected), "cut to {index}");
    }

    assert_eq!(
        open(&[&genuine[..], &[0]].concat()),
        Err(SealError::NotAuthentic)
    );
    assert!(open(&genuine).is_ok());
}

#[test]
fn an_offer_from_a_stranger_is_refused() {
    let (friend, stranger, b) = (machine(1), machine(9), machine(2));
    let (_, envelope) = offer(&stranger, &b, 3);

    let opened = OpenedOffer::open(&b, &friend.id(), &envelope, [4; 32]);

    assert_eq!(opened.err(), Some(SealError::NotAuthentic));
}

#[test]
fn an_offer_for_somebody_else_does_not_open() {
    let (a, b, other) = (machine(1), machine(2), machine(9));
    let (_, envelope) = offer(&a, &b, 3);

    let opened = OpenedOffer::open(&other, &a.id(), &envelope, [4; 32]);

    assert_eq!(opened.err(), Some(SealError::NotAuthentic));
}

#[test]
fn an_envelope_of_the_wrong_kind_is_malformed() {
    let (a, b) = (machine(1), machine(2));
    let (pending, offer) = offer(&a, &b, 3);
    let (mut at_b, answer) = answer(&a, &b, &offer, 4);
    let bye = at_b.seal(&Note::Bye).unwrap();

    for envelope in [&answer, &bye, &Vec::new()] {
        let opened = OpenedOffer::open(&b, &a.id(), envelope, [4; 32]);
        assert_eq!(opened.err(), Some(SealError::Malformed));
    }
    for envelope in [&offer, &answer, &Vec::new()] {
        assert_eq!(at_b.open(envelope), Err(SealError::Malformed));
    }
    let (pending, first) = refused(pending.open_answer(&offer));
    let (pending, second) = refused(pending.open_answer(&bye));
    assert_eq!(
        (first, second),
        (SealError::Malformed, SealError::Malformed)
    );
    assert!(pending.open_answer(&answer).is_ok());
}

#[test]
fn an_offer_whose_encapsulation_key_has_a_bad_length_or_value_is_not_answered() {
    let (a, b) = (machine(1), machine(2));
    let (_, envelope) = offer(&a, &b, 3);
    // FIPS 203 §7.2: coefficients of 4,095 are not below q = 3,329.
    for kem in [vec![0], vec![0; 1183], vec![0; 1185], vec![0xFF; 1184]] {
        let mut opened = OpenedOffer::open(&b, &a.id(), &envelope, [4; 32]).unwrap();
        opened.description.kem = kem;

        assert_eq!(
            opened.answer(description(4), [5; 32]).err(),
            Some(SealError::BadKem)
        );
    }
}

#[test]
fn two_offers_have_different_keys() {
    let (a, b) = (machine(1), machine(2));
    let keys: Vec<_> = [3, 5]
        .map(|n| {
            let (_, offer) = offer(&a, &b, n);
            answer(&a, &b, &offer, 4)
                .0
                .preshared_key()
                .unwrap()
                .as_bytes()
                .to_vec()
        })
        .into();

    assert_ne!(keys[0], keys[1]);
}

#[test]
fn two_answers_to_one_offer_have_different_keys() {
    let (a, b) = (machine(1), machine(2));
    let (_, offer) = offer(&a, &b, 3);

    let (one, _) = answer(&a, &b, &offer, 4);
    let (two, _) = answer(&a, &b, &offer, 5);

    assert_ne!(one.preshared_key(), two.preshared_key());
}

#[test]
fn the_same_seeds_give_the_same_bytes_and_others_do_not() {
    let (a, b) = (machine(1), machine(2));
    let (_, offer_1) = offer(&a, &b, 3);
    let (_, offer_2) = offer(&a, &b, 3);
    let (mut exchange_1, answer_1) = answer(&a, &b, &offer_1, 4);
    let (mut exchange_2, answer_2) = answer(&a, &b, &offer_2, 4);
    let (_, other) = PendingOffer::seal(&a, &b.id(), description(3), [99; 32]).unwrap();

    assert_eq!(offer_1, offer_2);
    assert_eq!(answer_1, answer_2);
    assert_eq!(exchange_1.preshared_key(), exchange_2.preshared_key());
    assert_eq!(exchange_1.seal(&Note::Bye), exchange_2.seal(&Note::Bye));
    assert_ne!(offer_1, other);
}

#[test]
fn the_kem_field_is_filled_in_whatever_stood_there() {
    let (a, b) = (machine(1), machine(2));
    let junk = Description {
        kem: vec![1; 70_000],
        ..description(3)
    };

    let (_, envelope) = PendingOffer::seal(&a, &b.id(), junk, [3; 32]).unwrap();

    assert_eq!(envelope, offer(&a, &b, 3).1);
}

#[test]
fn the_largest_envelopes_fit_the_server_s_limit() {
    let (a, b) = (machine(1), machine(2));
    let candidate = Candidate::new(CandidateKind::Host, "[2001:db8::1]:65535".parse().unwrap());
    let candidates = vec![candidate; MAX_CANDIDATES];
    let largest = Description {
        candidates: candidates.clone(),
        nat: Some(NatSummary {
            addresses: vec![[203, 0, 113, 5].into(); MAX_NAT_ADDRESSES],
            ..NatSummary::default()
        }),
        ..description(1)
    };

    let (pending, offer) = PendingOffer::seal(&a, &b.id(), largest.clone(), [3; 32]).unwrap();
    let opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
    let offered = opened.description.candidates.len();
    let (_, answer) = opened.answer(largest, [5; 32]).unwrap();
    let (mut at_a, _) = pending.open_answer(&answer).ok().unwrap();
    let note = at_a.seal(&Note::Candidates(candidates)).unwrap();

    assert_eq!(offered, MAX_CANDIDATES);
    assert!(
        [&offer, &answer, &note]
            .iter()
            .all(|envelope| envelope.len() <= MAX_ENVELOPE)
    );
}

#[test]
fn an_envelope_does_not_contain_what_it_says_nor_who_says_it() {
    let (a, b) = (machine(1), machine(2));
    let (_, offer) = offer(&a, &b, 3);
    let contains = |needle: &[u8]| offer.windows(needle.len()).any(|window| window == needle);

    assert!(!contains(b"fragment"));
    assert!(!contains(&[0xAB; 8]));
    assert!(!contains(&a.id().x25519()));
    assert!(!contains(&b.id().x25519()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn a_note_opens_if_it_is_new_and_not_older_than_the_window(
        arrivals in proptest::collection::vec(0..200_u16, 0..150),
    ) {
        let (mut a, mut b) = exchange();
        let notes: Vec<_> = (0..200).map(|port| a.seal(&note(port)).unwrap()).collect();
        let (mut seen, mut highest) = (HashSet::new(), 0);

        for port in arrivals {
            let opened = b.open(&notes[usize::from(port)]);

            let expected = port + 64 > highest && seen.insert(port);
            prop_assert_eq!(opened, if expected { Ok(note(port)) } else { Err(SealError::Replayed) });
            highest = highest.max(port);
        }
    }

    #[test]
    fn arbitrary_bytes_open_nowhere(kind in 0..5_u8, bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
        let (a, b) = (machine(1), machine(2));
        let envelope = [vec![kind], bytes].concat();
        let (pending, _) = offer(&a, &b, 3);
        let (mut at_a, _) = exchange();

        prop_assert!(OpenedOffer::open(&b, &a.id(), &envelope, [4; 32]).is_err());
        let (pending, _) = pending.open_answer(&envelope).err().unwrap();
        prop_assert!(pending.unwrap().open_refusal(&envelope).is_err());
        prop_assert!(at_a.open(&envelope).is_err());
    }
}

#[test]
fn the_credentials_of_streams_have_the_name_and_another_password() {
    let one = Credentials {
        fragment: [7; 8],
        password: [9; 32],
    };
    let derived = stream_credentials(&one);
    assert_eq!(derived.fragment, one.fragment);
    assert_ne!(derived.password, one.password);
    assert!(derived == stream_credentials(&one));
    // HKDF-SHA-256 without a salt, as RFC 5869 §2 has it.
    let keys = hkdf::Hkdf::<sha2::Sha256>::new(None, &[9; 32]);
    let mut password = [0; 32];
    keys.expand(b"punch stream credentials v1", &mut password)
        .unwrap();
    assert_eq!(derived.password, password);
}
