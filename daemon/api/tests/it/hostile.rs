//! Any text at all: refused or read, never a panic, and what was read is read again from what is shown.

use proptest::prelude::*;
use punch_api::{
    AddPeer, PeerId, PeerName, PortRange, Protocol, ServerAddress, ServerKind, Target,
};

/// Any text, and texts that look nearly right.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-z0-9.:/\\[\\]_+-]{0,40}",
        "(ws|wss|stun)://[a-z.:\\[\\]0-9]{0,20}(/[a-z?]{0,5})?",
        "\\[[0-9a-f:.]{0,20}\\](:[0-9]{0,6})?",
        "[0-9]{1,6}(-[0-9]{0,6})?",
        "punch1[a-z0-9]{50,62}",
    ]
}

fn shown_is_read_again<T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string().parse::<T>().ok();
        assert_eq!(again, Some(value), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_value_panic(text in text()) {
        shown_is_read_again::<PeerName>(&text);
        shown_is_read_again::<Protocol>(&text);
        shown_is_read_again::<PortRange>(&text);
        shown_is_read_again::<Target>(&text);
        shown_is_read_again::<ServerKind>(&text);
        for kind in [ServerKind::Signal, ServerKind::Stun] {
            if let Ok(address) = ServerAddress::parse(kind, &text) {
                prop_assert_eq!(ServerAddress::parse(kind, address.as_str()), Ok(address.clone()));
                let _ = address.literal();
            }
        }
    }

    #[test]
    fn every_range_that_is_read_is_sound(text in "[0-9]{1,5}-[0-9]{1,5}") {
        if let Ok(range) = text.parse::<PortRange>() {
            prop_assert!(range.first() > 0 && range.first() <= range.last());
            prop_assert!(range.contains(range.first()) && range.contains(range.last()));
            prop_assert!(u32::from(range.last() - range.first()) < PortRange::MAX_LENGTH);
        }
    }
}

proptest! {
    // A wrong key is searched for its typo, which takes a while in a build without optimisation.
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_key_panic(text in text()) {
        shown_is_read_again::<PeerId>(&text);
        let body = serde_json::json!({ "name": "db", "punch": { "key": text } });
        let _ = serde_json::from_value::<AddPeer>(body);
    }
}
