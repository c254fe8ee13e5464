//! openapi.json and a strict validator for the part of JSON Schema 2020-12 that it uses; punchd's tests use it too.
//!
//! Stricter than JSON Schema: a property that the schema does not name is an error, and so is a keyword or a format that the
//! validator does not know.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "two tests use their own part of it"
)]

mod pattern;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use serde_json::{Value, json};

pub use pattern::matches;

/// The description of the API.
pub struct Document(Value);

/// One method of one path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// In capitals.
    pub method: String,
    /// With `{…}` for its parameters.
    pub path: String,
}

impl Call {
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_ascii_uppercase(),
            path: path.to_owned(),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Document {
    /// The file.
    pub fn read() -> &'static Self {
        static FILE: LazyLock<Document> =
            LazyLock::new(|| Document::new(include_str!("../../../openapi.json")));
        &FILE
    }

    pub fn new(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("openapi.json is JSON"))
    }

    pub fn root(&self) -> &Value {
        &self.0
    }

    /// All calls.
    pub fn calls(&self) -> BTreeSet<Call> {
        let paths = self.0["paths"].as_object().expect("there are paths");
        let calls = paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("a path has methods");
            methods.keys().map(|method| Call::new(method, path))
        });
        calls.collect()
    }

    #[track_caller]
    pub fn operation(&self, call: &Call) -> &Value {
        let operation = &self.0["paths"][&call.path][call.method.to_ascii_lowercase()];
        assert!(operation.is_object(), "{call} is not in the file");
        operation
    }

    /// The statuses that a call may answer with.
    pub fn statuses(&self, call: &Call) -> BTreeSet<u16> {
        let responses = self.operation(call)["responses"].as_object();
        let statuses = responses.expect("a call has responses").keys();
        statuses
            .map(|status| status.parse().expect("a status is a number"))
            .collect()
    }

    /// The media type and the schema of an answer.
    pub fn answer(&self, call: &Call, status: u16) -> Option<(&str, &Value)> {
        let response = self.operation(call)["responses"].get(status.to_string())?;
        let content = self.follow(response)["content"].as_object()?;
        assert_eq!(content.len(), 1, "{call} {status} has one media type");
        let (media, content) = content.iter().next()?;
        Some((media, &content["schema"]))
    }

    #[track_caller]
    pub fn schema(&self, name: &str) -> &Value {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "the file has no schema {name}");
        schema
    }

    /// What a `$ref` leads to; anything else itself.
    #[track_caller]
    pub fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        value.get("$ref").map_or(value, |to| self.target(to))
    }

    /// Whether `value` is what a schema says.
    ///
    /// # Errors
    /// Where it is not, and why.
    pub fn check(&self, schema: &Value, value: &Value) -> Result<(), String> {
        self.check_at("", schema, value)
    }

    fn check_at(&self, at: &str, schema: &Value, value: &Value) -> Result<(), String> {
        let keywords = schema
            .as_object()
            .ok_or_else(|| format!("{at}: a schema is an object, not {schema}"))?;
        for (keyword, rule) in keywords {
            self.check_keyword(at, keyword, rule, value)?;
        }
        let elsewhere = ["$ref", "allOf", "oneOf", "anyOf"];
        match value.as_object() {
            Some(_) if elsewhere.iter().any(|word| keywords.contains_key(*word)) => Ok(()),
            Some(members) => members.iter().try_for_each(|(name, member)| {
                let at = format!("{at}/{name}");
                let named = schema.get("properties").and_then(|all| all.get(name));
                match named.or(schema.get("additionalProperties")) {
                    Some(schema) if schema.is_object() => self.check_at(&at, schema, member),
                    _ => Err(format!("{at}: the schema does not know this property")),
                }
            }),
            None => Ok(()),
        }
    }

    fn check_keyword(
        &self,
        at: &str,
        keyword: &str,
        rule: &Value,
        value: &Value,
    ) -> Result<(), String> {
        let ensure = |good: bool| {
            good.then_some(())
                .ok_or_else(|| format!("{at}: {value} is against {keyword} {rule}"))
        };
        let rules = || rule.as_array().into_iter().flatten();
        let fitting = || {
            let fits = |schema: &&Value| self.check_at(at, schema, value).is_ok();
            rules().filter(fits).count()
        };
        let number = |fits: fn(f64, f64) -> bool| match (value.as_f64(), rule.as_f64()) {
            (_, None) => false,
            (Some(value), Some(rule)) => fits(value, rule),
            (None, Some(_)) => true,
        };
        let length = |fits: fn(u64, u64) -> bool| match (value.as_str(), rule.as_u64()) {
            (_, None) => false,
            (Some(text), Some(rule)) => fits(text.chars().count() as u64, rule),
            (None, Some(_)) => true,
        };
        match keyword {
            "$ref" => self.check_at(at, self.target(rule), value),
            "type" => ensure(match rule {
                Value::String(name) => is_a(value, name),
                rule => rule
                    .as_array()
                    .is_some_and(|names| names.iter().any(|name| is_a(value, name.as_str().unwrap_or_default()))),
            }),
            "enum" => ensure(rules().any(|known| known == value)),
            "const" => ensure(rule == value),
            "required" => rules().try_for_each(|name| {
                let name = name.as_str().unwrap_or_default();
                match value.as_object() {
                    Some(members) if !members.contains_key(name) => {
                        Err(format!("{at}: {name} is required and missing in {value}"))
                    }
                    _ => Ok(()),
                }
            }),
            "propertyNames" => value.as_object().into_iter().flatten().try_for_each(|(name, _)| {
                self.check_at(&format!("{at}/{name}"), rule, &Value::from(name.as_str()))
            }),
            "items" => value
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
                .try_for_each(|(index, item)| self.check_at(&format!("{at}/{index}"), rule, item)),
            "allOf" => self.check_at(at, &self.together(rule), value),
            "oneOf" if fitting() == 1 => Ok(()),
            "anyOf" if fitting() > 0 => Ok(()),
            "oneOf" | "anyOf" => {
                let fails: Vec<_> = rules()
                    .map(|schema| match self.check_at(at, schema, value) {
                        Ok(()) => "fits".to_owned(),
                        Err(why) => why,
                    })
                    .collect();
                Err(format!("{at}: not {keyword}: {}", fails.join("; ")))
            }
            "pattern" => match (value.as_str(), rule.as_str()) {
                (Some(text), Some(rule)) => ensure(matches(rule, text)),
                (_, rule) => ensure(rule.is_some()),
            },
            "minimum" => ensure(number(|value, rule| value >= rule)),
            "maximum" => ensure(number(|value, rule| value <= rule)),
            "minLength" => ensure(length(|value, rule| value >= rule)),
            "maxLength" => ensure(length(|value, rule| value <= rule)),
            "format" => ensure(has_format(value, rule.as_str().unwrap_or_default())),
            // Looked at by `check_at`.
            "properties" | "additionalProperties"
            // For people, and for programs that make programs.
            | "description" | "default" | "examples" | "discriminator" => Ok(()),
            _ => Err(format!("{at}: the validator does not know the keyword {keyword}")),
        }
    }

    /// One schema of an object in place of several that all hold.
    fn together(&self, schemas: &Value) -> Value {
        let mut together = json!({ "type": "object", "properties": {}, "required": [] });
        for schema in schemas.as_array().into_iter().flatten() {
            let schema = self.follow(schema);
            let properties = schema["properties"].as_object().expect("allOf has objects");
            for (name, schema) in properties {
                together["properties"][name] = schema.clone();
            }
            let required = schema["required"].as_array().into_iter().flatten();
            let all = together["required"].as_array_mut();
            all.expect("it was made so").extend(required.cloned());
        }
        together
    }

    fn target(&self, to: &Value) -> &Value {
        let pointer = to.as_str().and_then(|to| to.strip_prefix('#'));
        pointer
            .and_then(|pointer| self.0.pointer(pointer))
            .unwrap_or_else(|| panic!("{to} leads nowhere"))
    }
}

/// Whether a value is of one of the formats that the file uses.
fn has_format(value: &Value, format: &str) -> bool {
    match (format, value) {
        ("ipv4", Value::String(text)) => text.parse::<Ipv4Addr>().is_ok(),
        ("ipv6", Value::String(text)) => text.parse::<Ipv6Addr>().is_ok(),
        ("int16", Value::Number(n)) => n.as_i64().is_some_and(|n| i16::try_from(n).is_ok()),
        ("uint8", Value::Number(n)) => n.as_u64().is_some_and(|n| n <= u8::MAX.into()),
        ("uint16", Value::Number(n)) => n.as_u64().is_some_and(|n| n <= u16::MAX.into()),
        ("uint32", Value::Number(n)) => n.as_u64().is_some_and(|n| n <= u32::MAX.into()),
        ("int64", Value::Number(n)) => n.is_i64(),
        ("uint64", Value::Number(n)) => n.is_u64(),
        ("double", Value::Number(n)) => n.as_f64().is_some(),
        (
            "ipv4" | "ipv6" | "int16" | "int64" | "uint8" | "uint16" | "uint32" | "uint64"
            | "double",
            _,
        ) => true,
        _ => false,
    }
}

fn is_a(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
