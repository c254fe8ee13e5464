//! The seal written a second time from its documentation: it keeps the first writing honest, and plays the peer that
//! knows its keys but not its manners.

use hkdf::Hkdf;
use ml_kem::kem::{Decapsulate, Key, KeyExport};
use ml_kem::{DecapsulationKey768, EncapsulationKey768, Seed};
use punch_signal_protocol::noise::SeededResolver;
use punch_signal_protocol::seal::{Exchange, OpenedOffer, PendingOffer, SealError, UnreadOffer};
use punch_signal_protocol::{
    DecodeError, Description, Identity, Note, OfferRefusal, PeerId, RefusalReason,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use sha2::Sha256;
use snow::{Builder, HandshakeState};

use crate::{description, machine};

fn noise(me: &Identity, to: Option<&PeerId>) -> HandshakeState {
    let secret = me.x25519_secret();
    let builder = Builder::with_resolver(
        "Noise_IK_25519_AESGCM_SHA256".parse().unwrap(),
        Box::new(SeededResolver(ChaCha20Rng::from_seed([7; 32]))),
    )
    .prologue(b"punch envelope v1")
    .and_then(|builder| builder.local_private_key(secret.as_bytes()))
    .unwrap();
    let public = to.map(PeerId::x25519);
    match &public {
        Some(public) => builder
            .remote_public_key(public)
            .and_then(Builder::build_initiator),
        None => builder.build_responder(),
    }
    .unwrap()
}

fn write(noise: &mut HandshakeState, kind: u8, plain: &[u8]) -> Vec<u8> {
    let mut envelope = vec![kind; 1 + plain.len() + 200];
    let length = noise.write_message(plain, &mut envelope[1..]).unwrap();
    envelope.truncate(1 + length);
    envelope
}

fn read(noise: &mut HandshakeState, envelope: &[u8]) -> Description {
    let mut plain = vec![0; envelope.len()];
    let length = noise.read_message(&envelope[1..], &mut plain).unwrap();
    Description::decode(&plain[..length]).unwrap()
}

/// HKDF-SHA-256 over both transport keys and the ML-KEM secret, salted with the handshake hash.
fn derived<const N: usize>(noise: &mut HandshakeState, kem_secret: &[u8], info: &str) -> [u8; N] {
    let (one, two) = noise.dangerously_get_raw_split();
    let mut key = [0; N];
    Hkdf::<Sha256>::new(
        Some(noise.get_handshake_hash()),
        &[&one, &two, kem_secret].concat(),
    )
    .expand(info.as_bytes(), &mut key)
    .unwrap();
    key
}

/// Whether `exchange` has what the documentation derives.
fn agrees(exchange: &Exchange, mut noise: HandshakeState, kem_secret: &[u8], offered: bool) {
    let preshared: [u8; 32] = derived(&mut noise, kem_secret, "punch wireguard preshared key v1");
    assert_eq!(*exchange.preshared_key().unwrap().as_bytes(), preshared);
    let token: [u8; 16] = derived(&mut noise, kem_secret, "punch relay token v1");
    assert_eq!(exchange.relay_token().0, token);
    let links: [u8; 80] = derived(&mut noise, kem_secret, "punch link credentials v1");
    let [mine, theirs] = exchange.link_credentials();
    let [offerer, answerer] = if offered {
        [mine, theirs]
    } else {
        [theirs, mine]
    };
    let parts = [
        &offerer.fragment[..],
        &offerer.password,
        &answerer.fragment,
        &answerer.password,
    ];
    assert_eq!(parts.concat(), links);
}

#[test]
fn a_responder_written_from_the_documentation_reaches_the_same_preshared_key() {
    let (a, b) = (machine(1), machine(2));
    let (pending, offer) = PendingOffer::seal(&a, &b.id(), description(1), [3; 32]).unwrap();

    let mut noise = noise(&b, None);
    let kem = Key::<EncapsulationKey768>::try_from(&read(&mut noise, &offer).kem[..]).unwrap();
    let (ciphertext, secret) = EncapsulationKey768::new(&kem)
        .unwrap()
        .encapsulate_deterministic(&[8; 32].into());
    let answer = write(
        &mut noise,
        2,
        &Description {
            kem: ciphertext.to_vec(),
            ..description(2)
        }
        .encode(),
    );

    let (exchange, answered) = pending.open_answer(&answer).ok().unwrap();
    assert_eq!(answered.stamp, 2);
    agrees(&exchange, noise, &secret, true);
}

#[test]
fn an_initiator_written_from_the_documentation_reaches_the_same_preshared_key() {
    let (a, b) = (machine(1), machine(2));
    let kem = DecapsulationKey768::from_seed(Seed::from([9; 64]));
    let mut noise = noise(&a, Some(&b.id()));
    let key = kem.encapsulation_key().to_bytes().to_vec();
    let offer = write(
        &mut noise,
        1,
        &Description {
            kem: key,
            ..description(1)
        }
        .encode(),
    );

    let opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
    let (exchange, answer) = opened.answer(description(2), [5; 32]).unwrap();

    let ciphertext = read(&mut noise, &answer).kem;
    let secret = kem.decapsulate_slice(&ciphertext).unwrap();
    agrees(&exchange, noise, &secret, false);
}

#[test]
fn an_answer_whose_ciphertext_has_a_bad_length_is_refused_and_ends_the_offer() {
    let (a, b) = (machine(1), machine(2));
    for kem in [vec![], vec![0; 1087], vec![0; 1089]] {
        let (pending, offer) = PendingOffer::seal(&a, &b.id(), description(1), [3; 32]).unwrap();
        let mut noise = noise(&b, None);
        read(&mut noise, &offer);
        let answer = write(
            &mut noise,
            2,
            &Description {
                kem,
                ..description(2)
            }
            .encode(),
        );

        let (pending, error) = pending.open_answer(&answer).err().unwrap();

        assert_eq!(error, SealError::BadKem);
        assert!(pending.is_none());
    }
}

#[test]
fn an_answer_from_the_true_peer_that_makes_no_sense_ends_the_offer() {
    // Its handshake is complete, so that no second answer could open.
    let (a, b) = (machine(1), machine(2));
    let (pending, offer) = PendingOffer::seal(&a, &b.id(), description(1), [3; 32]).unwrap();
    let mut noise = noise(&b, None);
    read(&mut noise, &offer);
    let answer = write(&mut noise, 2, &[99]);

    let (pending, error) = pending.open_answer(&answer).err().unwrap();

    assert_eq!(error, SealError::Contents(DecodeError::Version(99)));
    assert!(pending.is_none());
}

#[test]
fn an_initiator_written_from_the_documentation_reads_a_refusal_and_an_older_one_passes_over_it() {
    let (a, b) = (machine(1), machine(2));
    let mut noise = noise(&a, Some(&b.id()));
    let offer = write(&mut noise, 1, &[2, 1, 0, 0]);

    let unread = UnreadOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
    let (unread, error) = unread.read().err().unwrap();
    let refusal = OfferRefusal {
        reason: RefusalReason::Version,
        clock_ms: 5,
        seen: 6,
    };
    let envelope = unread.refuse(&refusal).unwrap();

    assert_eq!(error, DecodeError::Version(2));
    // Offers, answers and notes are all that version 1 knew at first.
    assert_eq!((envelope[0], envelope.len()), (4, 81));
    let mut plain = [0; 81];
    let length = noise.read_message(&envelope[1..], &mut plain).unwrap();
    let (clock, seen) = ([0, 0, 0, 0, 0, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0, 6]);
    let expected = [&[0, 2], &clock[..], &seen[..], &[0; 14]].concat();
    assert_eq!(plain[..length], expected);
}

#[test]
fn a_refusal_from_the_true_peer_that_makes_no_sense_ends_the_offer() {
    let (a, b) = (machine(1), machine(2));
    for (plain, error) in [
        (vec![], DecodeError::Truncated),
        (vec![0; 32], DecodeError::BadValue("reason")),
        (vec![1; 32], DecodeError::BadValue("refusal")),
        ([&[0, 1], &[0; 29][..]].concat(), DecodeError::Truncated),
        ([&[0, 1], &[0; 31][..]].concat(), DecodeError::Trailing(1)),
    ] {
        let (pending, offer) = PendingOffer::seal(&a, &b.id(), description(1), [3; 32]).unwrap();
        let mut noise = noise(&b, None);
        read(&mut noise, &offer);
        let envelope = write(&mut noise, 4, &plain);

        let (pending, refused) = pending.open_refusal(&envelope).err().unwrap();

        assert_eq!(refused, SealError::Contents(error));
        assert!(pending.is_none());
    }
}

#[test]
fn an_offer_that_makes_no_sense_is_refused() {
    let (a, b) = (machine(1), machine(2));
    let offer = write(&mut noise(&a, Some(&b.id())), 1, &[1]);

    let opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]);

    assert_eq!(
        opened.err(),
        Some(SealError::Contents(DecodeError::Missing("stamp")))
    );
}

/// PROTOCOL.md, section 4, "Compact envelopes": an offerer by other hands, whose ML-KEM key comes in a note.
#[test]
fn an_initiator_whose_kem_follows_reaches_the_same_preshared_key() {
    let (a, b) = (machine(1), machine(2));
    let mut noise = noise(&a, Some(&b.id()));
    let plain = description(1).encode();
    assert!(plain.windows(3).any(|field| field == [9, 0, 0]));
    let offer = write(&mut noise, 1, &plain);
    let opened = OpenedOffer::open(&b, &a.id(), &offer, [4; 32]).unwrap();
    let (mut exchange, answer) = opened.answer(description(2), [5; 32]).unwrap();
    assert!(read(&mut noise, &answer).is_compact());
    assert!(exchange.preshared_key().is_none());

    let kem = DecapsulationKey768::from_seed(Seed::from([9; 64]));
    let key = kem.encapsulation_key().to_bytes().to_vec();
    assert_eq!(exchange.handle_kem(&Note::KemKey(key)), Ok(true));
    let Some(Note::KemCiphertext(ciphertext)) = exchange.kem_note() else {
        panic!("no ciphertext");
    };
    let ciphertext =
        ml_kem::kem::Ciphertext::<ml_kem::MlKem768>::try_from(ciphertext.as_slice()).unwrap();
    let secret = kem.decapsulate(&ciphertext);
    let info = "punch wireguard preshared key v1";
    let preshared: [u8; 32] = derived(&mut noise, secret.as_slice(), info);
    assert_eq!(*exchange.preshared_key().unwrap().as_bytes(), preshared);
    let token: [u8; 16] = derived(&mut noise, &[], "punch relay token v1");
    assert_eq!(exchange.relay_token().0, token);
    let links: [u8; 80] = derived(&mut noise, &[], "punch link credentials v1");
    assert_eq!(exchange.link_credentials()[1].fragment, links[..8]);
}
