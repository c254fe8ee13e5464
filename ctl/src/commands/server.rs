//! `punchctl server`: signalling and STUN servers.

use std::time::Duration;

use hyper::Method;
use punch_api::{AddServer, ServerKind, ServerState, ServerView};

use super::answer::{done, parse, show};
use crate::arguments::ServerCommand;
use crate::client::{Client, Failure};
use crate::output::Output;
use crate::render;

/// A server that was added has so long to answer before the command ends.
const PATIENCE: Duration = Duration::from_secs(4);
/// A connection that fails at once may still come about: it is tried anew after a quarter of a second.
const SECOND_TRY: Duration = Duration::from_secs(1);
/// How often it is looked whether the server answers.
const LOOK: Duration = Duration::from_millis(250);
/// Where punch-signal listens unless told otherwise.
const SIGNAL_PORT: &str = ":8080";

pub(crate) async fn run(
    client: &Client,
    out: &Output,
    command: ServerCommand,
) -> Result<(), Failure> {
    match command {
        ServerCommand::List => list(client, out).await,
        ServerCommand::Add { kind, address } => add(client, out, asked(kind, address)).await,
        ServerCommand::Remove { kind, address } => {
            let ask = asked(kind, address);
            let answer = client.call(Method::DELETE, "/v1/servers", &ask).await?;
            let name = name(kind, &ask.address);
            done(out, answer, &format!("{name} is no longer used"))
        }
    }
}

pub(crate) async fn list(client: &Client, out: &Output) -> Result<(), Failure> {
    let answer = client.get("/v1/servers").await?;
    show(out, answer, |out, views: &Vec<_>| {
        render::servers(out, views)
    })
}

/// Adds a server, and tells after a moment how it is. It is added all the same: a server may be started later.
async fn add(client: &Client, out: &Output, ask: AddServer) -> Result<(), Failure> {
    let mut answer = client.call(Method::POST, "/v1/servers", &ask).await?;
    let view: ServerView = parse(answer.clone())?;
    let name = name(ask.kind, &view.address);
    let what = format!("waiting for {name}");
    let waiting = out.during(&what, watch(client, view));
    // Ctrl-C ends only the waiting.
    let view = tokio::select! {
        view = waiting => view?,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::Refused(format!("{name} is added; to see whether it answers: punchctl server list")));
        }
    };
    let text = if view.state == ServerState::Connected {
        format!("{name} is in use: it answers")
    } else {
        format!("{name} is added, but not connected: {}", trouble(&view))
    };
    answer["state"] = serde_json::to_value(&view.state).unwrap_or_default();
    answer["trouble"] = view.trouble.into();
    done(out, answer, &text)
}

/// Only what is public has no address.
fn asked(kind: ServerKind, address: Option<String>) -> AddServer {
    AddServer {
        kind,
        address: address.unwrap_or_else(|| kind.to_string()),
    }
}

/// What a server is called.
fn name(kind: ServerKind, address: &str) -> String {
    match kind {
        ServerKind::Signal | ServerKind::Stun => format!("{kind} server {address}"),
        ServerKind::Dht => format!("DHT node {address}"),
        ServerKind::Public => "the public DHT, with public STUN servers,".to_owned(),
    }
}

/// Looks at the server until it answers, has had its time, or is gone again.
async fn watch(client: &Client, mut view: ServerView) -> Result<ServerView, Failure> {
    let mut passed = Duration::ZERO;
    while view.state != ServerState::Connected {
        let limit = if view.trouble.is_some() {
            SECOND_TRY
        } else {
            PATIENCE
        };
        if passed >= limit {
            break;
        }
        tokio::time::sleep(LOOK).await;
        passed += LOOK;
        let views: Vec<ServerView> = parse(client.get("/v1/servers").await?)?;
        let found = views
            .into_iter()
            .find(|other| other.address == view.address);
        let Some(found) = found else { break };
        view = found;
    }
    Ok(view)
}

/// Why a server is not connected, and what is probably wrong with its address.
fn trouble(view: &ServerView) -> String {
    let trouble = view.trouble.as_deref();
    let mut text = trouble.unwrap_or("it has not answered so far").to_owned();
    let elsewhere = !view.address.trim_end_matches('/').ends_with(SIGNAL_PORT);
    if view.kind == ServerKind::Signal && text.starts_with("refused") && elsewhere {
        text.push_str("; punch-signal listens on port 8080 unless told otherwise");
    }
    text
}
