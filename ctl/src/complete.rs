//! Completion of arguments by a shell: names that punchd knows at the moment.

use std::path::PathBuf;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use punch_api::{ForwardView, PeerView, ServerView};
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::render::state;

/// The most time that an answer of punchd may take while somebody waits for the completion.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) fn protocols() -> Vec<CompletionCandidate> {
    ["tcp", "udp"].map(CompletionCandidate::new).into()
}

pub(crate) fn server_kinds() -> Vec<CompletionCandidate> {
    ["signal", "stun", "dht", "public"]
        .map(CompletionCandidate::new)
        .into()
}

pub(crate) fn peers() -> Vec<CompletionCandidate> {
    let views: Vec<PeerView> = ask("/v1/peers");
    let candidates = views.iter().map(|view| {
        CompletionCandidate::new(view.name.as_str())
            .help(Some(state(&view.state).to_owned().into()))
    });
    candidates.collect()
}

pub(crate) fn forwarded_ports() -> Vec<CompletionCandidate> {
    let views: Vec<ForwardView> = ask("/v1/forwards");
    let candidates = views.iter().map(|view| {
        let help = format!("{} to {}", view.protocol, view.target);
        CompletionCandidate::new(view.ports.to_string()).help(Some(help.into()))
    });
    candidates.collect()
}

pub(crate) fn servers() -> Vec<CompletionCandidate> {
    let views: Vec<ServerView> = ask("/v1/servers");
    let candidates = views.iter().filter(|view| !view.fixed).map(|view| {
        CompletionCandidate::new(&view.address).help(Some(view.kind.to_string().into()))
    });
    candidates.collect()
}

/// Asks punchd; a failure offers nothing, since an error in the middle of a command line would be worse.
fn ask<T: DeserializeOwned + Default>(path: &str) -> T {
    let socket = std::env::var_os("PUNCH_SOCKET")
        .map_or_else(|| PathBuf::from(punch_api::DEFAULT_SOCKET), PathBuf::from);
    let Ok(runtime) = crate::runtime() else {
        return T::default();
    };
    let client = Client::new(&socket);
    let answer =
        runtime.block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, client.get(path)).await });
    let Ok(Ok(answer)) = answer else {
        return T::default();
    };
    serde_json::from_value(answer).unwrap_or_default()
}
