//! Lines that a person carries.

use proptest::prelude::*;
use punch_signal_protocol::paste::{MAX_LINE, PasteError, PasteKind, PasteLine, offer_tag};
use punch_signal_protocol::seal::MAX_COMPACT;

use crate::machine;

fn line(length: usize) -> PasteLine {
    let envelope: Vec<u8> = (0..length)
        .map(|n| if n == 0 { 1 } else { n as u8 })
        .collect();
    PasteLine {
        kind: PasteKind::Offer,
        from: machine(1).id(),
        to: machine(2).id(),
        made_ms: 1_767_225_600_000,
        offer: offer_tag(&envelope),
        envelope,
    }
}

#[test]
fn a_line_has_these_characters_for_ever() {
    let line = line(3);
    let text = line.to_string();
    assert_eq!(
        text,
        "punch-offer1rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5oicolxb2uh2f27k2rvizwdjr7mzs4nrki3j3rxujo7md23r7e3hfaaaaazw5w2vaaf5gfkvcdagjzeaeaqelli77fq"
    );
    assert_eq!(PasteLine::read(&text), Ok(line));
}

#[test]
fn the_longest_line_has_fewer_characters_than_the_error_says() {
    let length = line(MAX_COMPACT).to_string().len();
    assert!(length <= 1_700, "{length}");
    assert_eq!(
        PasteLine::read(&line(MAX_COMPACT + 1).to_string()),
        Err(PasteError::Damaged)
    );
}

#[test]
fn what_mail_programs_do_to_a_line_is_passed_over() {
    let line = line(300);
    let text = line.to_string();
    let broken: Vec<_> = text
        .as_bytes()
        .chunks(72)
        .map(|part| std::str::from_utf8(part).unwrap())
        .collect();
    for seen in [
        broken.join("\n"),
        broken.join("\r\n> "),
        format!("\u{a0} > > {}  \n", broken.join("\n> > ")),
        text.to_uppercase(),
    ] {
        assert_eq!(PasteLine::read(&seen), Ok(line.clone()));
    }
}

#[test]
fn each_fault_has_a_text_of_its_own() {
    let text = line(300).to_string();
    let cut = &text[..text.len() - 1];
    for (seen, error) in [
        (String::new(), PasteError::NotPunch),
        ("punch1abc".into(), PasteError::NotPunch),
        ("punch-offerx".into(), PasteError::NotPunch),
        ("punch-offer2aaaa".into(), PasteError::Version('2')),
        ("punch-offer".into(), PasteError::Damaged),
        ("punch-answer1".into(), PasteError::Damaged),
        (cut.into(), PasteError::Damaged),
        (text[..20].into(), PasteError::Damaged),
        (
            text.replace("punch-offer", "punch-answer"),
            PasteError::Damaged,
        ),
        ("a".repeat(MAX_LINE + 1), PasteError::TooLong),
    ] {
        assert_eq!(PasteLine::read(&seen), Err(error), "{seen}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_changed_character_is_noticed(at in 12..600_usize, to in "[a-z2-7]") {
        let text = line(300).to_string();
        let at = at % text.len();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &to);
        if at >= 12 && changed != text {
            prop_assert_eq!(PasteLine::read(&changed), Err(PasteError::Damaged));
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}") {
        let _ = PasteLine::read(&text);
        let _ = PasteLine::read(&format!("punch-offer1{text}"));
    }
}
