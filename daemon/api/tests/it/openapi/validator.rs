//! The validator itself can say no.

use serde_json::json;

use crate::schema::{Document, matches};

#[test]
fn the_validator_refuses_what_is_wrong() {
    let document = Document::new(
        r##"{"components": {"schemas": {
            "Text": {"type": "string"},
            "Thing": {
                "type": "object",
                "properties": {"a": {"$ref": "#/components/schemas/Text"}, "b": {"type": ["integer", "null"]}},
                "required": ["a"]
            },
            "Other": {"type": "object", "properties": {"c": {"const": "c"}}, "required": ["c"]},
            "Either": {"oneOf": [{"$ref": "#/components/schemas/Thing"}, {"$ref": "#/components/schemas/Other"}]},
            "Both": {"allOf": [{"$ref": "#/components/schemas/Thing"}, {"$ref": "#/components/schemas/Other"}]},
            "Counts": {"type": "object", "propertyNames": {"enum": ["x"]}, "additionalProperties": {"type": "integer"}}
        }}}"##,
    );
    let thing = json!({ "$ref": "#/components/schemas/Thing" });
    let either = json!({ "$ref": "#/components/schemas/Either" });
    let both = json!({ "$ref": "#/components/schemas/Both" });
    let counts = json!({ "$ref": "#/components/schemas/Counts" });
    for (schema, value) in [
        (&thing, json!({ "a": "x", "b": null })),
        (&thing, json!({ "a": "x", "b": -1 })),
        (&either, json!({ "c": "c" })),
        (&both, json!({ "a": "x", "b": 1, "c": "c" })),
        (&counts, json!({ "x": 1 })),
        (
            &json!({ "type": "array", "items": thing }),
            json!([{ "a": "x" }]),
        ),
        (
            &json!({ "anyOf": [thing, { "type": "null" }] }),
            json!(null),
        ),
        (&json!({ "format": "uint8", "minimum": 1 }), json!(255)),
        (&json!({ "pattern": "^a+$", "maxLength": 3 }), json!("aaa")),
    ] {
        assert_eq!(document.check(schema, &value), Ok(()), "{value}");
    }
    for (schema, value) in [
        (&thing, json!({ "b": 1 })),
        (&thing, json!({ "a": 1 })),
        (&thing, json!({ "a": null })),
        (&thing, json!({ "a": "x", "b": 1.5 })),
        (&thing, json!({ "a": "x", "c": 1 })),
        (&thing, json!([])),
        (&either, json!({ "a": "x", "c": "c" })),
        (&both, json!({ "a": "x" })),
        (&both, json!({ "c": "c" })),
        (&both, json!({ "a": "x", "c": "c", "d": 1 })),
        (&both, json!({ "a": 1, "c": "c" })),
        (&either, json!({ "c": "d" })),
        (&either, json!("c")),
        (&counts, json!({ "y": 1 })),
        (&counts, json!({ "x": "1" })),
        (
            &json!({ "oneOf": [{ "type": "null" }, { "const": null }] }),
            json!(null),
        ),
        (
            &json!({ "type": "array", "items": thing }),
            json!([{ "a": "x" }, {}]),
        ),
        (&json!({ "enum": ["a"] }), json!("b")),
        (&json!({ "format": "uint8" }), json!(256)),
        (&json!({ "format": "ipv4" }), json!("::1")),
        (&json!({ "format": "colour" }), json!("red")),
        (&json!({ "minimum": 1 }), json!(0)),
        (&json!({ "maximum": 1 }), json!(2)),
        (&json!({ "minLength": 2 }), json!("a")),
        (&json!({ "maxLength": 2 }), json!("aaa")),
        (&json!({ "pattern": "^a+$" }), json!("ab")),
        (&json!({ "type": "colour" }), json!("red")),
        (&json!({ "nullable": true }), json!(null)),
        (&json!(true), json!(null)),
    ] {
        let verdict = document.check(schema, &value);
        assert!(verdict.is_err(), "{schema} should refuse {value}");
    }
}

#[test]
fn a_pattern_matches_whole_texts() {
    for (pattern, good, bad) in [
        ("^a$", &["a"][..], &["", "aa", "b", "ab", "ba"][..]),
        ("^a|bc$", &["a", "bc"], &["b", "abc", "ac"]),
        ("^(a|bc)*d?$", &["", "d", "abca", "bcd"], &["b", "dd", "cd"]),
        ("^[a-c_.-]{2}$", &["ab", "-.", "_c"], &["a", "ad", "abc"]),
        ("^x{0,2}y$", &["y", "xxy"], &["xxxy", "x"]),
        ("^a\\.b$", &["a.b"], &["axb"]),
        ("^a*a$", &["a", "aaa"], &["", "b"]),
    ] {
        for text in good {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for text in bad {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
