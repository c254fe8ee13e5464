//! Peers: `punchctl peer`, `up`, `down` and `ping`.

use std::time::Duration;

use hyper::Method;
use punch_api::{
    AddPeer, ApiError, PeerId, PeerKey, PeerName, PeerState, PeerView, PingView, Rename, Secret, Up,
};
use serde_json::Value;

use super::answer::{done, parse, post, warn};
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
        PeerCommand::Remove { name } => {
            let path = format!("/v1/peers/{name}");
            let answer = client.call(Method::DELETE, &path, &()).await?;
            done(out, answer, &format!("{name} is no longer a peer"))
        }
        PeerCommand::Rename { name, to } => {
            let path = format!("/v1/peers/{name}/rename");
            let text = format!("{name} is called {to} now");
            let answer = client.call(Method::POST, &path, &Rename { to }).await?;
            done(out, answer, &text)
        }
    }
}

fn add_peer(arguments: AddPeerArguments) -> Result<AddPeer, Failure> {
    let refuse = |message: String| Failure::Refused(message);
    let key = match (arguments.key, arguments.wireguard) {
        (Some(text), _) => PeerKey::Punch {
            key: text
                .parse::<PeerId>()
                .map_err(|error| refuse(ApiError::invalid(error).message))?,
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

pub(crate) async fn up(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    seconds: u64,
) -> Result<(), Failure> {
    let path = format!("/v1/peers/{peer}/up");
    let ask = Up {
        wait_ms: seconds * 1000,
    };
    // Ctrl-C ends only the waiting; punchd keeps trying, as it does after a timeout.
    let connecting = client.call(Method::POST, &path, &ask);
    let what = format!("connecting to {peer}");
    let answer = tokio::select! {
        answer = out.during(&what, connecting) => answer,
        _ = tokio::signal::ctrl_c() => Err(Failure::Refused(format!(
            "no longer waiting; punchd keeps trying. To stop: punchctl down {peer}"
        ))),
    };
    let answer = answer?;
    let view: PeerView = parse(answer.clone())?;
    if out.json {
        out.value(&answer);
    }
    warn(&answer);
    let connected = view.state == PeerState::Connected;
    if !out.json && connected {
        render::connected(out, &view);
    }
    if seconds > 0 && !connected {
        return Err(Failure::Refused(if let Some(refused) = view.refused {
            format!(
                "{}; punchd keeps trying. What helps: punchctl why {peer}",
                refused.message
            )
        } else if view.state == PeerState::Waiting {
            format!(
                "{peer} is not online at any signalling server (punchctl server list); punchd keeps trying. Is punchd running there, with the same server, and does it know this machine (punchctl id)?"
            )
        } else {
            format!(
                "not connected to {peer} after {seconds} s; punchd keeps trying. To see why: punchctl why {peer}"
            )
        }));
    }
    Ok(())
}

pub(crate) async fn down(client: &Client, out: &Output, peer: &PeerName) -> Result<(), Failure> {
    let answer = post(client, peer, "down").await?;
    done(out, answer, &format!("{peer} is down"))
}

pub(crate) async fn ping(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    count: u32,
) -> Result<(), Failure> {
    let mut answers = Vec::new();
    let mut failure = None;
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
                        render::ping(out, peer, &view);
                    }
                    answers.push(answer);
                }
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
