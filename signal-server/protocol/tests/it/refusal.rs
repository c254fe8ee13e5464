//! Refusals of offers: only the one who made the offer can read them, for this offer alone, and they all look alike.

use proptest::prelude::*;
use punch_signal_protocol::seal::{OpenedOffer, PendingOffer, SealError};
use punch_signal_protocol::{DecodeError, OfferRefusal, REFUSAL_LENGTH, RefusalReason};

use crate::{description, hex, machine};

fn refusal(reason: RefusalReason) -> OfferRefusal {
    OfferRefusal {
        reason,
        clock_ms: 0x0001_0203_0405_0607,
        seen: 0x0809_0A0B_0C0D_0E0F,
    }
}

fn offer(n: u8) -> (PendingOffer, Vec<u8>) {
    let (a, b) = (machine(1), machine(2));
    PendingOffer::seal(&a, &b.id(), description(n.into()), [n; 32]).unwrap()
}

fn refuse(offer: &[u8], reason: RefusalReason, seed: u8) -> Vec<u8> {
    let (a, b) = (machine(1), machine(2));
    let opened = OpenedOffer::open(&b, &a.id(), offer, [seed; 32]).unwrap();
    opened.refuse(&refusal(reason)).unwrap()
}

#[test]
fn a_refusal_has_its_bytes_for_ever() {
    for (reason, number) in [
        (RefusalReason::Clock, "01"),
        (RefusalReason::Version, "02"),
        (RefusalReason::NotWanted, "03"),
        (RefusalReason::Unknown(4), "04"),
        (RefusalReason::Unknown(255), "ff"),
    ] {
        let times = "0001020304050607 08090a0b0c0d0e0f";
        let bytes = hex(&format!("00 {number} {times} {}", "00".repeat(14)));
        assert_eq!(refusal(reason).encode().to_vec(), bytes);
        assert_eq!(OfferRefusal::decode(&bytes), Ok(refusal(reason)));
        let newer = hex(&format!("00 {number} {times} {}", "ff".repeat(14)));
        assert_eq!(OfferRefusal::decode(&newer), Ok(refusal(reason)));
    }
}

#[test]
fn a_refusal_reaches_the_one_who_offered_and_all_have_one_length() {
    for reason in [
        RefusalReason::Clock,
        RefusalReason::Version,
        RefusalReason::NotWanted,
    ] {
        let (pending, envelope) = offer(3);
        let refused = refuse(&envelope, reason, 4);
        assert_eq!(refused.len(), 49 + REFUSAL_LENGTH);
        let opened = pending.open_refusal(&refused).ok().unwrap();
        assert_eq!(opened, refusal(reason));
    }
}

#[test]
fn a_refusal_of_another_offer_or_changed_anywhere_leaves_the_offer_pending() {
    let (mut pending, envelope) = offer(3);
    let (_, other) = offer(5);
    let genuine = refuse(&envelope, RefusalReason::Clock, 4);
    let mut wrong = vec![refuse(&other, RefusalReason::Clock, 4), vec![4], vec![]];
    for index in 1..genuine.len() {
        let mut flipped = genuine.clone();
        flipped[index] ^= 1;
        wrong.push(flipped);
        wrong.push(genuine[..index].to_vec());
    }
    for envelope in wrong {
        let (still, error) = pending.open_refusal(&envelope).err().unwrap();
        assert!(matches!(
            error,
            SealError::NotAuthentic | SealError::Malformed
        ));
        pending = *still.unwrap();
    }
    assert!(pending.open_refusal(&genuine).is_ok());
}

/// The first byte of an envelope is not sealed: a server may change it.
#[test]
fn a_refusal_is_never_read_as_an_answer_nor_an_answer_as_a_refusal() {
    let (pending, envelope) = offer(3);
    let mut posing = refuse(&envelope, RefusalReason::Clock, 4);
    posing[0] = 2;
    let (pending, error) = pending.open_answer(&posing).err().unwrap();
    assert!(pending.is_none());
    assert_eq!(error, SealError::Contents(DecodeError::Version(0)));

    let (pending, envelope) = offer(3);
    let (a, b) = (machine(1), machine(2));
    let opened = OpenedOffer::open(&b, &a.id(), &envelope, [4; 32]).unwrap();
    let (_, mut posing) = opened.answer(description(2), [5; 32]).unwrap();
    posing[0] = 4;
    let (pending, error) = pending.open_refusal(&posing).err().unwrap();
    assert!(pending.is_none());
    assert_eq!(error, SealError::Contents(DecodeError::BadValue("refusal")));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused_and_what_is_read_is_written_again(
        bytes in proptest::collection::vec(any::<u8>(), 0..2 * REFUSAL_LENGTH)
    ) {
        if let Ok(read) = OfferRefusal::decode(&bytes) {
            prop_assert_eq!(bytes.len(), REFUSAL_LENGTH);
            prop_assert_eq!(&read.encode()[..18], &bytes[..18]);
        }
    }
}
