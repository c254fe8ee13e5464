//! The calls that the source of punchd routes.
#![allow(unreachable_pub, clippy::expect_used, reason = "it is a test")]

use std::collections::BTreeSet;

use super::METHODS;
use super::schema::Call;

/// The calls that a source routes. What it does not understand, it does not pass over: it panics.
pub fn routes(source: &str) -> BTreeSet<Call> {
    let tokens = tokens(source);
    let mut found = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let after = |n: usize| tokens.get(at + n).map_or("", String::as_str);
        let method = at > 0 && tokens[at - 1] == "." && after(1) == "(";
        if method && ["nest", "merge", "route_service", "nest_service"].contains(&token.as_str()) {
            panic!("the routes of .{token}(…) are not looked for; teach this test to");
        }
        if !method || token != "route" {
            continue;
        }
        let path = after(2).strip_prefix('"');
        let path =
            path.unwrap_or_else(|| panic!("the path of a route is not a text: {}", after(2)));
        assert_eq!(after(3), ",", "{path}");
        let methods = handled_methods(&tokens[at + 4..]);
        assert!(!methods.is_empty(), "no methods are found for {path}");
        found.extend(methods.iter().map(|method| Call::new(method, path)));
    }
    found
}

/// The functions called in the second argument of `.route(`, but for what is inside their own arguments.
fn handled_methods(tokens: &[String]) -> Vec<String> {
    let mut depth = 0;
    let mut methods = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" if depth == 0 => {
                let name = &tokens[at - 1];
                let known = METHODS.contains(&name.to_ascii_uppercase().as_str());
                assert!(known, "{name}(…) in a route is not understood");
                methods.push(name.clone());
                depth = 1;
            }
            "(" | "[" | "{" => depth += 1,
            ")" if depth == 0 => return methods,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
    }
    panic!("a route does not end");
}

/// Words, texts (with their first quotation mark only), and single signs, without comments.
fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").expect("a comment ends") + 2
        } else if c == '"' {
            let mut escaped = false;
            let inner = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let inner = inner.expect("a text ends");
            tokens.push(rest[..=inner].to_owned());
            inner + 2
        } else if rest.starts_with("'\"'") || rest.starts_with("'('") || rest.starts_with("')'") {
            3
        } else if c.is_alphanumeric() || c == '_' {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[end..];
    }
    tokens
}
