//! The schemas of texts take what the values take.

use proptest::prelude::*;
use punch_api::{PeerId, PeerName, PortRange, ProbeKind, Protocol, Target};
use serde_json::Value;

use super::WIREGUARD;
use crate::KEY;
use crate::schema::Document;

/// Texts that are or nearly are names, ports, targets.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{0,4}",
        "[a-z0-9-]{60,66}",
        "[a-zA-Z.:_-]{0,6}",
        "0{0,2}[0-9]{1,6}(-[0-9]{1,6})?",
        "[a-z0-9._-]{1,8}:[0-9]{1,5}",
        "\\[[0-9a-f:.]{2,12}\\](:[0-9]{0,5})?",
        "(tcp|udp|TCP|tc)",
        "(answer_through_opening_with_ttl_|answer_from_other_|bind|sample)[0-9a-z]{0,4}",
        any::<String>(),
    ]
}

fn fits(document: &Document, schema: &str, text: &str) -> bool {
    let schema = document.schema(schema);
    document.check(schema, &Value::from(text)).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_schema_of_a_name_and_of_a_protocol_take_exactly_what_the_value_takes(text in text()) {
        let document = Document::read();
        prop_assert_eq!(fits(document, "PeerName", &text), text.parse::<PeerName>().is_ok());
        prop_assert_eq!(fits(document, "Protocol", &text), text.parse::<Protocol>().is_ok());
        if let Ok(probe) = text.parse::<ProbeKind>() {
            prop_assert!(fits(document, "ProbeKind", &probe.to_string()));
        }
    }

    #[test]
    fn the_schemas_of_ports_and_targets_take_all_that_the_values_take(text in text()) {
        let document = Document::read();
        if let Ok(range) = text.parse::<PortRange>() {
            prop_assert!(fits(document, "PortRange", &text));
            prop_assert!(fits(document, "PortRange", &range.to_string()));
        }
        if let Ok(target) = text.parse::<Target>() {
            prop_assert!(fits(document, "Target", &text));
            prop_assert!(fits(document, "Target", &target.to_string()));
        }
    }

    #[test]
    fn any_address_is_what_its_schema_says(address: std::net::SocketAddr) {
        let document = Document::read();
        prop_assert!(fits(document, "SocketAddress", &address.to_string()));
        prop_assert!(fits(document, "IpAddress", &address.ip().to_string()));
    }

    #[test]
    fn any_identity_is_what_its_schema_says(seed: [u8; 32]) {
        let id = punch_signal_protocol::Identity::from_seed(&seed).id();
        prop_assert!(fits(Document::read(), "PeerId", &id.to_string()));
    }
}

#[test]
fn what_the_pattern_of_ports_and_targets_cannot_say_the_value_does() {
    let document = Document::read();
    for (text, schema) in [
        ("65536", "PortRange"),
        ("2-1", "PortRange"),
        ("1-16385", "PortRange"),
        ("[::1::]:1", "Target"),
        ("a:65536", "Target"),
    ] {
        assert!(fits(document, schema, text), "{text}");
    }
    for (text, schema) in [
        ("0", "PortRange"),
        ("000", "PortRange"),
        ("1-", "PortRange"),
        ("-1", "PortRange"),
        ("+1", "PortRange"),
        ("1-2-3", "PortRange"),
        ("a", "Target"),
        ("a:0", "Target"),
        ("a..b:1", "Target"),
        (".a:1", "Target"),
        ("-a:1", "Target"),
        ("::1:1", "Target"),
    ] {
        assert!(!fits(document, schema, text), "{text}");
        assert!(text.parse::<PortRange>().is_err() && text.parse::<Target>().is_err());
    }
    assert!(fits(document, "PeerId", KEY) && KEY.parse::<PeerId>().is_ok());
    assert!(!fits(document, "PeerId", &KEY.replace('w', "b")));
    assert!(fits(document, "WireguardKey", WIREGUARD));
    assert!(!fits(document, "WireguardKey", &WIREGUARD.replace('=', "")));
}
