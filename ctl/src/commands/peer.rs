//! Peers: `punchctl peer`, `down` and `ping`.

use std::time::Duration;

use hyper::Method;
use punch_api::{
    AddPeer, ApiError, ErrorCode, ForwardView, PeerId, PeerIdError, PeerKey, PeerName, PingView,
    Rename, Secret,
};
use serde_json::Value;

use super::answer::{done, parse, post};
use super::look;
use crate::arguments::{AddPeerArguments, PeerCommand};
use crate::client::{Client, Failure};
use crate::output::{self, Output};
use crate::render;

pub(crate) async fn run(
    client: &Client,
    out: &Output,
    command: PeerCommand,
) -> Result<(), Failure> {
    match command {
        PeerCommand::Add(arguments) => {
            let show_config = arguments.show_config && !out.json;
            let ask = add_peer(arguments)?;
            let answer = client.call(Method::POST, "/v1/peers", &ask).await?;
            let waits = matches!(&ask.key, PeerKey::Wireguard { endpoint: None, .. });
            let text = if waits {
                format!(
                    "{} is a peer now; it is waited for until it calls",
                    ask.name
                )
            } else {
                format!("{0} is a peer now; connect with: punchctl up {0}", ask.name)
            };
            done(out, answer, &text)?;
            if show_config {
                let status = parse(client.call(Method::GET, "/v1/status", &()).await?)?;
                out.line("");
                out.line(render::wireguard_config(&ask.key, &status));
            }
            Ok(())
        }
        PeerCommand::List => look::peers(client, out).await,
        PeerCommand::Remove { name } => remove(client, out, &name).await,
        PeerCommand::Rename { name, to } => {
            let path = format!("/v1/peers/{name}/rename");
            let text = format!("{name} is called {to} now");
            let answer = client.call(Method::POST, &path, &Rename { to }).await?;
            done(out, answer, &text)
        }
    }
}

/// Removes a peer, and tells which forwards went with it: those that were for it alone.
async fn remove(client: &Client, out: &Output, name: &PeerName) -> Result<(), Failure> {
    let before = forwards(client).await?;
    let path = format!("/v1/peers/{name}");
    let answer = client.call(Method::DELETE, &path, &()).await?;
    let left = forwards(client).await?;
    let gone: Vec<_> = before
        .iter()
        .filter(|forward| !left.contains(forward))
        .map(String::as_str)
        .collect();
    let shares = if gone.is_empty() {
        String::new()
    } else {
        format!("; no longer shared: {}", gone.join(", "))
    };
    done(out, answer, &format!("{name} is no longer a peer{shares}"))
}

async fn forwards(client: &Client) -> Result<Vec<String>, Failure> {
    let views: Vec<ForwardView> = parse(client.get("/v1/forwards").await?)?;
    let names = views
        .iter()
        .map(|view| format!("{} {}", view.protocol, view.ports));
    Ok(names.collect())
}

fn add_peer(arguments: AddPeerArguments) -> Result<AddPeer, Failure> {
    let refuse = |message: String| Failure::Refused(message);
    let key = match (arguments.key, arguments.wireguard) {
        (Some(text), _) => PeerKey::Punch {
            key: text
                .parse::<PeerId>()
                .map_err(|error| refuse(explain_key(&text, &error)))?,
            ipv6_only: arguments.ipv6_only,
        },
        (None, Some(key)) => PeerKey::Wireguard {
            key,
            endpoint: arguments.endpoint,
            address: arguments
                .address
                .ok_or_else(|| refuse("--address is missing".to_owned()))?,
            preshared: match arguments.preshared_key {
                Some(file) => {
                    let text = std::fs::read_to_string(&file).map_err(|error| {
                        refuse(format!("cannot read {}: {error}", file.display()))
                    })?;
                    Some(Secret::new(text.trim().to_owned()))
                }
                None => None,
            },
        },
        (None, None) => return Err(refuse("the peer's key is missing".to_owned())),
    };
    Ok(AddPeer {
        name: arguments.name,
        key,
    })
}

/// Says what is wrong with a key; one of WireGuard is a likely mistake, since `punchctl id` shows it, too.
fn explain_key(text: &str, error: &PeerIdError) -> String {
    if text.len() == 44 && text.ends_with('=') {
        return "that is a WireGuard key: take the first line of `punchctl id` on that machine; for one that does not run Punch, use --wireguard".to_owned();
    }
    ApiError::invalid(error).message
}

pub(crate) async fn down(client: &Client, out: &Output, peer: &PeerName) -> Result<(), Failure> {
    let answer = post(client, peer, "down").await?;
    done(
        out,
        answer,
        &format!("{peer} is down, and refused until: punchctl up {peer}"),
    )
}

/// Whether a ping was not answered in time.
fn is_silence(failure: &Failure) -> bool {
    matches!(failure, Failure::Api(error) if error.code == ErrorCode::Timeout)
}

pub(crate) async fn ping(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    count: u32,
) -> Result<(), Failure> {
    let mut answers = Vec::new();
    let (mut failure, mut path) = (None, None);
    let what = format!("waiting for {peer}");
    let pings = async {
        for index in 0..count {
            if index > 0 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            match out.during(&what, post(client, peer, "ping")).await {
                Ok(answer) => {
                    let view: PingView = parse(answer.clone())?;
                    if !out.json {
                        render::path_change(out, peer, path.as_ref(), view.path.as_ref());
                        render::ping(out, peer, &view);
                    }
                    path = view.path;
                    answers.push(answer);
                }
                // Only a peer that is connected can answer the next one.
                Err(error) if !is_silence(&error) => return Err(error),
                Err(error) => {
                    if let (false, Some(before)) = (out.json, failure.replace(error)) {
                        output::complain(&before.to_string());
                    }
                }
            }
        }
        Ok::<(), Failure>(())
    };
    // Ctrl-C ends the pings; the answers until then are shown.
    tokio::select! {
        result = pings => result?,
        _ = tokio::signal::ctrl_c() => {}
    }
    if out.json {
        out.value(&Value::Array(answers.clone()));
    }
    match failure {
        Some(error) if answers.is_empty() => Err(error),
        None if answers.is_empty() => Err(Failure::Other(format!("no answer from {peer} so far"))),
        Some(error) => {
            if !out.json {
                output::complain(&error.to_string());
            }
            Ok(())
        }
        None => Ok(()),
    }
}
