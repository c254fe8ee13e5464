//! openapi.json says what serde reads and writes: every property, its type, whether it may be missing or `null`.

mod shapes;
mod texts;
mod validator;

use std::collections::{BTreeMap, BTreeSet};

use punch_api::{AddPeer, Event};
use serde_json::{Map, Value, json};

use self::shapes::{
    TEXTS, UNIONS, allocations, answers, db, error_codes, event_kinds, peer_keys, requests, words,
};
use crate::schema::Document;

const WIREGUARD: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

#[test]
fn what_serde_writes_is_what_the_schema_says() {
    let document = Document::read();
    for shape in requests().into_iter().chain(answers(document)) {
        for sample in &shape.samples {
            let schema = document.schema(&shape.schema);
            let verdict = document.check(schema, sample);
            assert_eq!(verdict, Ok(()), "{}: {sample}", shape.schema);
        }
    }
}

#[test]
fn a_schema_has_no_property_that_serde_does_not_write() {
    let document = Document::read();
    for shape in requests().into_iter().chain(answers(document)) {
        let written: BTreeSet<_> = shape.samples.iter().flat_map(names).collect();
        let described: BTreeSet<_> = properties(document, &shape.schema)
            .keys()
            .cloned()
            .collect();
        assert_eq!(described, written, "{}", shape.schema);
    }
}

#[test]
fn what_an_answer_always_has_is_required_and_nothing_else_is() {
    let document = Document::read();
    for shape in answers(document) {
        let mut always = names(&shape.samples[0]);
        for sample in &shape.samples {
            always = &always & &names(sample);
        }
        assert_eq!(
            required(document, &shape.schema),
            always,
            "{}",
            shape.schema
        );
    }
}

#[test]
fn an_answer_may_be_null_where_the_schema_says_so_and_nowhere_else() {
    let document = Document::read();
    for shape in answers(document) {
        for (property, schema) in properties(document, &shape.schema) {
            let may = document.check(schema, &Value::Null).is_ok();
            let is = shape
                .samples
                .iter()
                .any(|sample| sample[property].is_null());
            assert_eq!(may, is, "{}.{property}: null", shape.schema);
        }
    }
}

#[test]
fn a_request_may_lack_what_the_schema_does_not_require() {
    let document = Document::read();
    for shape in requests() {
        let required = required(document, &shape.schema);
        for property in names(&shape.samples[0]) {
            let read = (shape.read)(with(&shape.samples[0], &property, None));
            assert_eq!(
                read.is_ok(),
                !required.contains(&property),
                "{} without {property}: {read:?}",
                shape.schema
            );
        }
    }
}

#[test]
fn a_request_with_an_unknown_property_is_refused_where_the_schema_says_so() {
    let document = Document::read();
    for shape in requests() {
        let read = (shape.read)(with(&shape.samples[0], "colour", Some(json!(1))));
        let closed =
            document.schema(&shape.schema).get("additionalProperties") == Some(&json!(false));
        assert_eq!(read.is_err(), closed, "{}: {read:?}", shape.schema);
    }
}

#[test]
fn what_a_request_lacks_has_the_default_of_the_schema() {
    let document = Document::read();
    let mut defaults = 0;
    for shape in requests() {
        for (property, schema) in properties(document, &shape.schema) {
            let Some(default) = schema.get("default") else {
                continue;
            };
            let sample = &shape.samples[0];
            let without = (shape.read)(with(sample, property, None));
            let named = (shape.read)(with(sample, property, Some(default.clone())));
            assert_eq!(without, named, "{}.{property}", shape.schema);
            assert_eq!(document.check(schema, default), Ok(()));
            defaults += 1;
        }
    }
    assert_eq!(
        defaults, 8,
        "ipv6_only, wait_ms, peers, forwards, host, expires_s, add_servers, wait_s"
    );
}

/// A type that is too wide or too narrow shows in a value at its border.
#[test]
fn serde_and_the_schema_take_the_same_types_and_numbers() {
    let document = Document::read();
    let probes = [
        json!(null),
        json!(true),
        json!(1),
        json!(1.5),
        json!(-1),
        json!(i16::MIN),
        json!(i32::from(i16::MIN) - 1),
        json!(i16::MAX),
        json!(i32::from(i16::MAX) + 1),
        json!(u8::MAX),
        json!(u32::from(u8::MAX) + 1),
        json!(u16::MAX),
        json!(u32::from(u16::MAX) + 1),
        json!(u32::MAX),
        json!(u64::from(u32::MAX) + 1),
        json!(u64::MAX),
        json!([]),
        json!(["db"]),
        json!([1]),
        json!({}),
    ];
    for shape in requests().into_iter().chain(answers(document)) {
        for (property, schema) in properties(document, &shape.schema) {
            // serde reads the number of a variant too; punchd does not write it.
            if schema.get("const").is_some() {
                continue;
            }
            let mut schema = schema.clone();
            // The type of a fraction has no bounds.
            if schema["format"] == "double" {
                let members = schema.as_object_mut().unwrap();
                members.remove("minimum");
                members.remove("maximum");
            }
            for probe in &probes {
                let read = (shape.read)(with(&shape.samples[0], property, Some(probe.clone())));
                let described = document.check(&schema, probe);
                assert_eq!(
                    read.is_ok(),
                    described.is_ok(),
                    "{}.{property} = {probe}: {read:?}, {described:?}",
                    shape.schema
                );
            }
        }
    }
}

#[test]
fn the_unions_have_every_kind_once() {
    let document = Document::read();
    let events = event_kinds().into_iter().map(|kind| {
        serde_json::to_value(Event {
            at_ms: 1,
            kind,
            message: String::new(),
        })
    });
    let models = allocations().into_iter().map(serde_json::to_value);
    let peers = peer_keys()
        .into_iter()
        .map(|key| serde_json::to_value(AddPeer { name: db(), key }));
    let unions: [(&str, Vec<_>); 3] = [
        ("Event", events.collect()),
        ("Allocation", models.collect()),
        ("AddPeer", peers.collect()),
    ];
    for (union, values) in unions {
        let members = document.schema(union)["oneOf"].as_array().unwrap();
        assert_eq!(members.len(), values.len(), "{union}");
        for value in values {
            let verdict = document.check(document.schema(union), &value.unwrap());
            assert_eq!(verdict, Ok(()), "{union}");
        }
        let Some(discriminator) = document.schema(union).get("discriminator") else {
            continue;
        };
        let mapping = discriminator["mapping"].as_object().unwrap();
        assert_eq!(mapping.len(), members.len(), "{union}");
        for (word, to) in mapping {
            let schema = document.follow(members.iter().find(|m| m["$ref"] == *to).unwrap());
            let property = discriminator["propertyName"].as_str().unwrap();
            assert_eq!(schema["properties"][property]["const"], **word, "{union}");
        }
    }
}

#[test]
fn the_enums_have_every_word_and_no_other() {
    let document = Document::read();
    let sorted = |values: &[Value]| -> BTreeSet<String> {
        values
            .iter()
            .map(|v| v.as_str().unwrap().to_owned())
            .collect()
    };
    for (name, all) in words() {
        let schema = document.schema(name);
        let described = schema["enum"].as_array().unwrap();
        assert_eq!(sorted(described), sorted(&all), "{name}");
        assert_eq!(described.len(), all.len(), "{name} says a word twice");
        let explanation = schema["description"].as_str().unwrap();
        for word in sorted(&all) {
            assert!(
                explanation.contains(&format!("`{word}`: ")),
                "{name}: {word}"
            );
        }
    }
}

#[test]
fn every_error_has_its_response_and_its_status() {
    let document = Document::read();
    let by_status: BTreeMap<_, _> = error_codes()
        .into_iter()
        .map(|code| (code.http_status(), format!("{code:?}")))
        .collect();
    let described = names(&document.root()["components"]["responses"]);
    assert_eq!(described, by_status.values().cloned().collect());
    let mut used = BTreeSet::new();
    for call in document.calls() {
        for status in document.statuses(&call) {
            if status < 400 {
                continue;
            }
            let response = &document.operation(&call)["responses"][status.to_string()];
            let name = by_status.get(&status);
            let name = name.unwrap_or_else(|| panic!("{call}: no error has the status {status}"));
            let to = format!("#/components/responses/{name}");
            assert_eq!(response["$ref"], to, "{call} {status}");
            let answer = document.answer(&call, status);
            let body = json!({ "$ref": "#/components/schemas/ErrorBody" });
            assert_eq!(answer, Some(("application/json", &body)), "{call} {status}");
            used.insert(status);
        }
    }
    assert_eq!(used, by_status.into_keys().collect());
    for code in error_codes() {
        let explanation = document.schema("ErrorCode")["description"]
            .as_str()
            .unwrap();
        let word = serde_json::to_value(code).unwrap();
        let (_, rest) = explanation
            .split_once(&format!("`{}`: ", word.as_str().unwrap()))
            .unwrap();
        let (rest, _) = rest.split_once(')').unwrap();
        assert!(
            rest.ends_with(&format!("({}", code.http_status())),
            "{code:?}: {rest}"
        );
    }
}

#[test]
fn every_example_is_what_its_schema_says_and_is_read_by_serde() {
    let document = Document::read();
    for (name, schema) in document.root()["components"]["schemas"]
        .as_object()
        .unwrap()
    {
        for example in schema
            .get("examples")
            .into_iter()
            .flat_map(|e| e.as_array().unwrap())
        {
            assert_eq!(document.check(schema, example), Ok(()), "{name}: {example}");
        }
    }
    let mut bodies = BTreeSet::new();
    for shape in requests() {
        let examples = document.schema(&shape.schema).get("examples");
        for example in examples.into_iter().flat_map(|e| e.as_array().unwrap()) {
            let read = (shape.read)(example.clone());
            let read = read.unwrap_or_else(|error| panic!("{}: {example}: {error}", shape.schema));
            // What has a meaning is written again; only what is the default may be left out or added.
            for (property, value) in example.as_object().unwrap() {
                assert_eq!(
                    read[property.as_str()].is_null(),
                    value.is_null(),
                    "{example}"
                );
            }
            bodies.insert(shape.schema.clone());
        }
    }
    for call in document.calls() {
        let Some(body) = document.operation(&call).get("requestBody") else {
            continue;
        };
        let schema = &body["content"]["application/json"]["schema"];
        let name = schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let members = match document.follow(schema).get("oneOf") {
            Some(members) => members.as_array().unwrap().clone(),
            None => vec![schema.clone()],
        };
        for member in members {
            let name = member["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            assert!(bodies.contains(name), "{call}: {name} has no example");
        }
        assert!(body["required"] == json!(name != "Up"), "{call}");
    }
}

#[test]
fn every_schema_is_tested_here_by_its_name() {
    let document = Document::read();
    let shapes = requests().into_iter().chain(answers(document));
    let mut tested: BTreeSet<_> = shapes.map(|shape| shape.schema).collect();
    tested.extend(words().keys().map(|name| (*name).to_owned()));
    tested.extend(TEXTS.into_iter().chain(UNIONS).map(str::to_owned));
    assert_eq!(names(&document.root()["components"]["schemas"]), tested);
}

#[test]
fn every_component_is_used_by_some_path() {
    fn follow(document: &Document, value: &Value, used: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(to) = members.get("$ref")
                    && used.insert(to.as_str().unwrap().to_owned())
                {
                    follow(document, document.follow(value), used);
                }
                members
                    .values()
                    .for_each(|value| follow(document, value, used));
            }
            Value::Array(items) => items.iter().for_each(|item| follow(document, item, used)),
            _ => {}
        }
    }
    let document = Document::read();
    let mut used = BTreeSet::new();
    follow(document, &document.root()["paths"], &mut used);
    let mut there = BTreeSet::new();
    for (group, members) in document.root()["components"].as_object().unwrap() {
        there.extend(
            names(members)
                .iter()
                .map(|name| format!("#/components/{group}/{name}")),
        );
    }
    assert_eq!(used, there);
}

#[test]
fn every_call_is_named_explained_and_has_its_parameters() {
    let document = Document::read();
    let mut ids = BTreeSet::new();
    let tags: BTreeSet<_> = document.root()["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    for call in document.calls() {
        let operation = document.operation(&call);
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{call}"
        );
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{call}");
        assert!(
            tags.contains(operation["tags"][0].as_str().unwrap()),
            "{call}"
        );
        let parts = call.path.split('/');
        let in_path: Vec<_> = parts
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let parameters = operation.get("parameters").and_then(Value::as_array);
        let described: Vec<_> = parameters
            .into_iter()
            .flatten()
            .map(|parameter| {
                let parameter = document.follow(parameter);
                assert_eq!(parameter["in"], "path", "{call}");
                assert_eq!(parameter["required"], true, "{call}");
                parameter["name"].as_str().unwrap()
            })
            .collect();
        assert_eq!(described, in_path, "{call}");
        let answers = document
            .answer(&call, 200)
            .is_some_and(|(_, schema)| schema.is_object());
        let switches = operation["responses"].get("101").is_some();
        assert!(answers != switches, "{call} answers something");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(
                !response["description"].as_str().unwrap().is_empty(),
                "{call} {status}"
            );
        }
    }
}

#[test]
fn the_file_has_the_form_that_jq_gives_it() {
    let text = include_str!("../../openapi.json");
    assert!(text.ends_with("}\n") && !text.contains('\t'));
    for line in text.lines() {
        let inner = line.trim_start_matches(' ');
        assert_eq!((line.len() - inner.len()) % 2, 0, "{line}");
        assert_eq!(inner, inner.trim_end(), "{line}");
    }
    let value: Value = serde_json::from_str(text).unwrap();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text
            .lines()
            .map(|line| line.trim_end_matches(',').to_owned())
            .collect();
        lines.sort();
        lines
    };
    // The order of the members is the author's.
    assert_eq!(sorted(text), sorted(&pretty));
}

// --- below ---

fn names(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn properties<'a>(document: &'a Document, schema: &str) -> &'a Map<String, Value> {
    document.schema(schema)["properties"].as_object().unwrap()
}

fn required(document: &Document, schema: &str) -> BTreeSet<String> {
    let required = document.schema(schema).get("required");
    let names = required.into_iter().flat_map(|r| r.as_array().unwrap());
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

fn with(sample: &Value, property: &str, value: Option<Value>) -> Value {
    let mut changed = sample.clone();
    let members = changed.as_object_mut().unwrap();
    match value {
        Some(value) => drop(members.insert(property.to_owned(), value)),
        None => drop(members.remove(property)),
    }
    changed
}
