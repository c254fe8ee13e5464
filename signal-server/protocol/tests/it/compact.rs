//! Envelopes without the ML-KEM exchange, and that exchange behind them.

use ml_kem::kem::KeyExport;
use ml_kem::{DecapsulationKey768, Seed};
use punch_signal_protocol::seal::{Exchange, MAX_COMPACT, OpenedOffer, PendingOffer, SealError};
use punch_signal_protocol::{
    Candidate, CandidateKind, Capability, DecodeError, Description, MAX_CANDIDATES,
    MAX_NAT_ADDRESSES, MAX_NOTE_DATAGRAM, NatSummary, Note, SearchFacts, note_datagram,
};

use crate::{description, machine};

/// Both ends after a compact offer and its answer.
fn compact(n: u8) -> (Exchange, Exchange) {
    let (a, b) = (machine(1), machine(2));
    let (pending, offer) =
        PendingOffer::seal_compact(&a, &b.id(), description(1), [n; 32]).unwrap();
    let opened = OpenedOffer::open(&b, &a.id(), &offer, [n + 1; 32]).unwrap();
    assert!(opened.description.is_compact() && opened.description.kem.is_empty());
    let (at_b, answer) = opened.answer(description(2), [n + 2; 32]).unwrap();
    let (at_a, theirs) = pending.open_answer(&answer).ok().unwrap();
    assert!(theirs.is_compact() && theirs.kem.is_empty());
    (at_a, at_b)
}

/// What one end has to say, sealed, carried, opened and taken.
fn carry(from: &mut Exchange, to: &mut Exchange) -> Result<bool, SealError> {
    let note = from.kem_note().unwrap();
    let sealed = from.seal(&note).unwrap();
    assert!(note_datagram([7; 8], &sealed).len() <= MAX_NOTE_DATAGRAM);
    let opened = to.open(&sealed)?;
    to.handle_kem(&opened)
}

/// The longest description that there is.
fn longest() -> Description {
    let address = |n| format!("[2001:db8::{n}]:4242").parse().unwrap();
    let candidates = (0..MAX_CANDIDATES).map(|n| Candidate::new(CandidateKind::Host, address(n)));
    let all = [0, 1, 2, 3, 4].map(|_| Capability::WantsWhole);
    let described = description(3);
    Description {
        candidates: candidates.collect(),
        nat: Some(NatSummary {
            addresses: vec![[192, 0, 2, 1].into(); MAX_NAT_ADDRESSES],
            search: Some(SearchFacts {
                measuring: true,
                ..SearchFacts::default()
            }),
            ..NatSummary::default()
        }),
        capabilities: all
            .into_iter()
            .fold(described.capabilities, |set, one| set.with(one)),
        ..described
    }
}

#[test]
fn there_is_a_preshared_key_once_both_notes_have_passed_and_both_have_the_same() {
    let (mut a, mut b) = compact(10);
    assert!(a.preshared_key().is_none() && b.preshared_key().is_none());
    assert!(a.bequeath().is_none() && b.bequeath().is_none());
    assert!(b.kem_note().is_none(), "there is nothing to answer yet");
    assert_eq!(a.relay_token(), b.relay_token());
    assert_eq!(a.link_credentials()[0], b.link_credentials()[1]);

    assert_eq!(carry(&mut a, &mut b), Ok(true));
    assert!(a.preshared_key().is_none() && b.preshared_key().is_some());
    assert_eq!(carry(&mut b, &mut a), Ok(true));
    assert_eq!(a.preshared_key(), b.preshared_key());
    assert!(a.bequeath().is_some() && b.bequeath().is_some());
    let other = compact(20);
    assert_ne!(a.relay_token(), other.0.relay_token());
}

#[test]
fn whoever_asks_again_gets_the_same_ciphertext_and_another_key_changes_nothing() {
    let (mut a, mut b) = compact(10);
    let ask = [(); 3].map(|()| a.seal(&a.kem_note().unwrap()).unwrap());
    let mut answers = Vec::new();
    for (index, sealed) in ask.iter().enumerate() {
        let note = b.open(sealed).unwrap();
        assert_eq!(b.handle_kem(&note), Ok(index == 0));
        answers.push(b.kem_note());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let key = b.preshared_key().cloned();
    let (other, _) = compact(50);
    assert_eq!(b.handle_kem(&other.kem_note().unwrap()), Ok(false));
    assert_eq!(b.preshared_key().cloned(), key);
    // What is late or invalid does not disturb the offerer either.
    for note in [
        Note::KemCiphertext(vec![0; 7]),
        Note::KemKey(vec![0xFF; 1184]),
        Note::Bye,
    ] {
        assert_eq!(a.handle_kem(&note), Ok(false));
    }
    assert_eq!(carry(&mut b, &mut a), Ok(true));
    assert_eq!(a.kem_note(), None);
    assert_eq!(carry(&mut b, &mut a), Ok(false));
    assert_eq!(a.preshared_key().cloned(), key);
}

#[test]
fn a_key_that_fails_its_check_is_not_answered() {
    let (mut a, mut b) = compact(10);
    for key in [vec![0xFF; 1184], vec![0; 1183], Vec::new()] {
        assert_eq!(b.handle_kem(&Note::KemKey(key)), Ok(false));
    }
    assert!(b.preshared_key().is_none() && b.kem_note().is_none());
    assert_eq!(carry(&mut a, &mut b), Ok(true));
}

#[test]
fn the_longest_compact_envelopes_fit_where_they_must() {
    let (a, b) = (machine(1), machine(2));
    for addresses in 0..=MAX_NAT_ADDRESSES {
        let mut described = longest();
        let mut nat = described.nat.take().unwrap();
        nat.addresses.truncate(addresses);
        described.nat = Some(nat);
        let reflexive = "[2001:db8::ffff]:1".parse().unwrap();
        described.candidates[31] = Candidate::new(CandidateKind::ServerReflexive, reflexive);
        described.candidates[7] = Candidate::in_tunnel(reflexive);
        let sealed = PendingOffer::seal_compact(&a, &b.id(), described.clone(), [3; 32]);
        let (_, offer) = sealed.unwrap();
        assert!(offer.len() <= MAX_COMPACT, "{} bytes", offer.len());
        let opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
        let told = &opened.description.candidates;
        // With all that a summary can say there is no room for the one that is worth least.
        let room = addresses < 5;
        assert_eq!(
            told.len(),
            MAX_CANDIDATES - usize::from(!room),
            "{addresses}"
        );
        assert_eq!(told.last(), described.candidates.last());
        assert_eq!(told.contains(&described.candidates[7]), room);
        let (_, answer) = opened.answer(described, [5; 32]).unwrap();
        assert!(answer.len() <= MAX_COMPACT - 48, "{} bytes", answer.len());
    }
}

#[test]
fn a_description_has_either_the_exchange_or_the_word_that_it_follows() {
    let compact = description(1);
    assert_eq!(Description::decode(&compact.encode()), Ok(compact.clone()));
    let full = Description {
        kem: vec![1; 1184],
        ..description(1)
    };
    let mut both = full.encode();
    both.extend([9, 0, 0]);
    let mut neither = compact.encode();
    let at = neither.windows(3).position(|field| field == [9, 0, 0]);
    neither.drain(at.unwrap()..at.unwrap() + 3);
    assert_eq!(
        Description::decode(&neither),
        Err(DecodeError::Missing("key encapsulation"))
    );
    assert_eq!(
        Description::decode(&both),
        Err(DecodeError::BadValue("key encapsulation"))
    );
}

#[test]
fn a_compact_answer_is_no_answer_to_a_full_offer_nor_the_other_way_round() {
    let (a, b) = (machine(1), machine(2));
    for is_full in [true, false] {
        let seal = match is_full {
            true => PendingOffer::seal,
            false => PendingOffer::seal_compact,
        };
        let (pending, offer) = seal(&a, &b.id(), description(1), [3; 32]).unwrap();
        let mut opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
        // The peer's own hands answer in the other way.
        opened.description.kem = if is_full { Vec::new() } else { offered_key() };
        let (_, answer) = opened.answer(description(2), [5; 32]).unwrap();
        let error = pending.open_answer(&answer).err().map(|(left, error)| {
            assert!(left.is_none());
            error
        });
        assert_eq!(error, Some(SealError::BadKem));
    }
}

fn offered_key() -> Vec<u8> {
    let kem = DecapsulationKey768::from_seed(Seed::from([9; 64]));
    kem.encapsulation_key().to_bytes().to_vec()
}
