//! What all commands do with an answer of punchd.

use hyper::Method;
use punch_api::PeerName;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{Client, Failure};
use crate::output::{Output, complain};

/// Shows an answer: as it is for `--json`, else by `render`.
pub(super) fn show<T: DeserializeOwned>(
    out: &Output,
    answer: Value,
    render: impl FnOnce(&Output, &T),
) -> Result<(), Failure> {
    if out.json {
        out.value(&answer);
        return Ok(());
    }
    let view = parse(answer)?;
    render(out, &view);
    Ok(())
}

/// Confirms that a command was carried out: with `text`, or with the answer itself for `--json`.
pub(super) fn done(out: &Output, answer: Value, text: &str) -> Result<(), Failure> {
    if out.json {
        out.value(&answer);
    } else if answer["unchanged"] == true {
        out.line(format!("unchanged: {text}"));
    } else {
        out.line(text);
    }
    warn(&answer);
    Ok(())
}

/// Says what is wrong although a change is in force, on standard error.
pub(super) fn warn(answer: &Value) {
    if let Some(warning) = answer["warning"].as_str() {
        complain(&format!("warning: {warning}"));
    }
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::Other(format!(
            "punchd's answer is not understood ({error}); is it of another version?"
        ))
    })
}

/// Posts a call without a body about one peer.
pub(super) async fn post(client: &Client, peer: &PeerName, verb: &str) -> Result<Value, Failure> {
    let path = format!("/v1/peers/{peer}/{verb}");
    client.call(Method::POST, &path, &()).await
}
