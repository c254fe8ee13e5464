//! Pairing by a code: the words, how they are read, and two envelopes that nobody else can make or read.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use proptest::prelude::*;
use punch_signal_protocol::pairing::{
    Code, CodeError, Introduction, MAX_CODE, MAX_NAME, MAX_PAIRING_ENVELOPE, MAX_SERVERS,
    MAX_SHARES, OfferedServer, OpenedIntroduction, PairingError, PendingIntroduction, Reply, Share,
    TemporaryPair, TurnedAway, Welcome, Words, word_list,
};
use punch_signal_protocol::seal::{Kind, SealError};

use crate::machine;

const TEXT: &str = "abacus-zoology-koala-music-piano-river";

fn read(text: &str) -> Result<Code, CodeError> {
    text.parse()
}

fn text(code: &str) -> String {
    read(code).unwrap().text().to_string()
}

/// Two temporary identities, without the work.
fn pair(n: u8) -> TemporaryPair {
    TemporaryPair {
        inviter: machine(n),
        newcomer: machine(n + 1),
    }
}

fn introduce(n: u8, seed: u8) -> (PendingIntroduction, Vec<u8>) {
    PendingIntroduction::seal(&machine(1), "laptop", &pair(n), [seed; 32]).unwrap()
}

fn open(n: u8, envelope: &[u8]) -> Result<OpenedIntroduction, PairingError> {
    OpenedIntroduction::open(&pair(n), envelope, [9; 32])
}

fn welcome() -> Welcome {
    Welcome {
        id: machine(2).id(),
        name: "db".to_owned(),
        servers: vec![
            OfferedServer {
                is_stun: false,
                address: "wss://signal.example/".to_owned(),
            },
            OfferedServer {
                is_stun: true,
                address: "stun.example:3478".to_owned(),
            },
        ],
        shares: vec![Share {
            is_udp: false,
            first: 5432,
            last: 5432,
        }],
        host: false,
    }
}

#[test]
fn the_list_has_2048_words_that_differ_in_their_first_four_letters() {
    let words: Vec<_> = word_list().collect();
    assert_eq!(words.len(), 2048);
    assert!(words.is_sorted());
    let first: BTreeSet<_> = words.iter().map(|word| &word[..4]).collect();
    assert_eq!(first.len(), 2048);
    for word in words {
        let good = (4..=8).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase());
        assert!(good, "{word}");
    }
}

#[test]
fn a_code_is_read_in_any_case_with_spaces_or_hyphens_and_by_four_letters() {
    for other in [
        "ABACUS zoology koala-music piano river",
        "  Abac Zool koal musi pian rive ",
        "abacus--zoology \u{2013} koala-music\npiano-river",
        "abacu zoolo koal music piano river",
    ] {
        assert_eq!(text(other), TEXT, "{other}");
    }
}

#[test]
fn a_code_names_a_server_as_shortly_as_it_can() {
    for (written, url, short) in [
        ("signal.example", "wss://signal.example", "signal.example"),
        (
            "signal.example:443",
            "wss://signal.example:443",
            "signal.example",
        ),
        (
            "wss://signal.example:8443/",
            "wss://signal.example:8443/",
            "wss://signal.example:8443",
        ),
        (
            "ws://192.0.2.1:8080/",
            "ws://192.0.2.1:8080/",
            "ws://192.0.2.1:8080",
        ),
        (
            "wss://a.example/x",
            "wss://a.example/x",
            "wss://a.example/x",
        ),
    ] {
        let code = read(&format!("{TEXT}@{written}")).unwrap();
        assert_eq!(code.server.as_deref(), Some(url));
        assert_eq!(code.text().as_str(), format!("{TEXT}@{short}"));
    }
    for wrong in ["", "a b", "a@b", "\u{e4}.example", &"a".repeat(301)] {
        assert_eq!(
            read(&format!("{TEXT}@{wrong}")).unwrap_err(),
            CodeError::Server
        );
    }
}

#[test]
fn what_is_wrong_with_a_code_is_said() {
    for (written, error) in [
        (
            "abacus-zoology-koala-music-piano-rivr",
            "word 6 of the code, `rivr`, is none of the words that codes are made of: did you mean river?",
        ),
        (
            "abacus-zoology-koala-music-pia-river",
            "word 5 of the code, `pia`, is none of the words that codes are made of: did you mean pixel?",
        ),
        (
            "abacus-zoology-koala-music-piano",
            "a code has 6 words, this one has 5: 1 is missing",
        ),
        ("", "a code has 6 words, this one has 0: 6 are missing"),
        (
            "abacus-zoology-koala-music-piano-river-river",
            "a code has 6 words, this one has 7: 1 is too many",
        ),
        (
            "punch2-abacus-zoology-koala-music-piano-river",
            "this code is of another version of Punch, which this one does not know: use the same version on both machines",
        ),
    ] {
        let said = read(written).unwrap_err().to_string();
        let near = said.contains("did you mean") && error.contains("did you mean");
        let same = |text: &str| text.split("did you").next().map(str::to_owned);
        assert!(
            said == error || near && same(&said) == same(error),
            "{said}"
        );
    }
    assert_eq!(
        read(&"a".repeat(MAX_CODE + 1)).unwrap_err(),
        CodeError::TooLong
    );
    assert_eq!(read(&"river ".repeat(13)).unwrap_err(), CodeError::TooLong);
    let CodeError::Misspelt { nearest, .. } = read(&TEXT.replace("river", "rievr")).unwrap_err()
    else {
        panic!("it is misspelt");
    };
    assert_eq!(nearest, "river");
    // A terminal does what such a word says.
    let said = read(&TEXT.replace("river", "\u{1b}[2j\u{202e}rivr")).unwrap_err();
    assert!(said.to_string().contains("`??2j?rivr`"), "{said}");
}

#[test]
fn a_code_gives_the_same_two_identities_for_ever() {
    static STRETCHED: OnceLock<TemporaryPair> = OnceLock::new();
    let pair = STRETCHED.get_or_init(|| read(TEXT).unwrap().words.stretch().unwrap());
    assert_ne!(pair.inviter.id(), pair.newcomer.id());
    let ids = [&pair.inviter, &pair.newcomer].map(|one| one.id().to_string());
    assert_eq!(
        ids,
        [
            "punch1xxjdkeym9hwyakumpnvlk4258pk2pdq0rdl9ja2t36yvach7dgwqt0570c",
            "punch1q0xktu06ttk24hud25x6zn3jaa4wvlsraert2lxkku7zhvq703lquu0xhx",
        ]
    );
    assert!(!format!("{:?}", read(TEXT).unwrap()).contains("river"));
}

#[test]
fn an_introduction_is_answered_by_a_welcome() {
    let (mut pending, envelope) = introduce(3, 5);
    assert_eq!(Kind::of(&envelope), Some(Kind::Introduction));
    let opened = open(3, &envelope).unwrap();
    let introduction = Introduction {
        id: machine(1).id(),
        name: "laptop".to_owned(),
    };
    assert_eq!(opened.introduction, introduction);
    let reply = Reply::Welcome(welcome());
    let answer = opened.reply(&machine(2), &reply).unwrap();
    assert_eq!(Kind::of(&answer), Some(Kind::Welcome));
    assert_eq!(pending.open(&answer), Ok(reply));
    assert!(pending.open(&answer).is_err(), "once only");
}

#[test]
fn a_newcomer_is_turned_away_with_a_reason() {
    for why in [
        TurnedAway::Used,
        TurnedAway::Expired,
        TurnedAway::Oneself,
        TurnedAway::Unknown(200),
    ] {
        let (mut pending, envelope) = introduce(3, 5);
        let reply = Reply::TurnedAway(why);
        let answer = open(3, &envelope)
            .unwrap()
            .reply(&machine(2), &reply)
            .unwrap();
        assert_eq!(pending.open(&answer), Ok(reply));
    }
}

#[test]
fn whoever_does_not_know_the_code_or_signs_for_another_is_refused() {
    let (mut pending, envelope) = introduce(3, 5);
    assert_eq!(
        open(7, &envelope).err(),
        Some(SealError::NotAuthentic.into())
    );
    // A forged reply costs nothing.
    let (_, other) = introduce(3, 6);
    let reply = Reply::Welcome(welcome());
    let forged = open(3, &other).unwrap().reply(&machine(2), &reply).unwrap();
    assert_eq!(pending.open(&forged), Err(SealError::NotAuthentic.into()));
    // An inviter that names a machine that it is not.
    let opened = open(3, &envelope).unwrap();
    let answer = opened.reply(&machine(8), &reply).unwrap();
    assert_eq!(pending.open(&answer), Err(PairingError::Signature));
    // Somebody who knows the code, and whose own pair is turned round.
    let turned = TemporaryPair {
        inviter: machine(3),
        newcomer: machine(6),
    };
    let (_, stranger) = PendingIntroduction::seal(&machine(1), "x", &turned, [1; 32]).unwrap();
    assert_eq!(
        open(3, &stranger).err(),
        Some(SealError::NotAuthentic.into())
    );
}

#[test]
fn both_envelopes_fit_into_every_channel() {
    let long = "n".repeat(300);
    let (_, envelope) = PendingIntroduction::seal(&machine(1), &long, &pair(3), [1; 32]).unwrap();
    assert!(envelope.len() <= MAX_PAIRING_ENVELOPE);
    let opened = open(3, &envelope).unwrap();
    assert_eq!(opened.introduction.name.len(), MAX_NAME);
    let servers = (0..40).map(|n| OfferedServer {
        is_stun: n % 2 == 0,
        address: format!("wss://signal-{}.example:8443/", "x".repeat(n % 60)),
    });
    let share = Share {
        is_udp: true,
        first: 1,
        last: u16::MAX,
    };
    let full = Welcome {
        name: "\u{e4}".repeat(100),
        servers: servers.collect(),
        shares: vec![share; 40],
        ..welcome()
    };
    let answer = opened.reply(&machine(2), &Reply::Welcome(full)).unwrap();
    assert!(answer.len() <= MAX_PAIRING_ENVELOPE, "{}", answer.len());
}

proptest! {
    #[test]
    fn every_code_is_read_as_it_was_written(random in any::<[u8; 9]>()) {
        let words = Words::choose(&random);
        let written = words.text();
        let code = read(&written).unwrap();
        prop_assert!(code.words.is(&words));
        let short: Vec<_> = written.split('-').map(|word| word[..4].to_uppercase()).collect();
        prop_assert!(read(&short.join(" ")).unwrap().words.is(&words));
    }

    #[test]
    fn no_text_is_too_strange_to_be_read(text in "\\PC{0,80}") {
        let _ = read(&text);
        let _ = read(&format!("{TEXT}@{text}"));
    }

    #[test]
    fn a_changed_envelope_does_not_open(at in 0_usize..300, bit in 0_u8..8) {
        let (mut pending, mut envelope) = introduce(3, 5);
        let answer = open(3, &envelope).unwrap().reply(&machine(2), &Reply::Welcome(welcome()));
        let mut answer = answer.unwrap();
        for bytes in [&mut envelope, &mut answer] {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        prop_assert!(open(3, &envelope).is_err());
        prop_assert!(pending.open(&answer).is_err());
    }

    #[test]
    fn a_welcome_says_what_was_said(
        name in "[a-z]{0,63}",
        servers in proptest::collection::vec((any::<bool>(), "[a-z:/.]{1,30}"), 0..MAX_SERVERS),
        shares in proptest::collection::vec((any::<bool>(), 1_u16.., any::<u16>()), 0..MAX_SHARES),
        host in any::<bool>(),
    ) {
        let servers = servers.into_iter().map(|(is_stun, address)| OfferedServer { is_stun, address });
        let shares = shares.into_iter().map(|(is_udp, first, more)| Share {
            is_udp,
            first,
            last: first.saturating_add(more),
        });
        let said = Reply::Welcome(Welcome {
            id: machine(2).id(),
            name,
            servers: servers.collect(),
            shares: shares.collect(),
            host,
        });
        let (mut pending, envelope) = introduce(3, 5);
        let answer = open(3, &envelope).unwrap().reply(&machine(2), &said).unwrap();
        prop_assert!(answer.len() <= MAX_PAIRING_ENVELOPE);
        prop_assert_eq!(pending.open(&answer), Ok(said));
    }
}
