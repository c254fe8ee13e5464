//! Each command: what it asks, and how the answer is shown.

use std::time::Duration;

use hyper::Method;
use punch_api::{
    AddForward, AddPeer, AddServer, ApiError, PeerId, PeerKey, PeerName, PeerState, PeerView,
    PingView, Rename, Secret, Up,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::arguments::{
    AddPeerArguments, Arguments, Command, KeyCommand, PeerCommand, ServerCommand,
};
use crate::client::{Client, Failure};
use crate::explain;
use crate::output::{self, Output};
use crate::render;

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = Client::new(&arguments.socket);
    let out = Output::new(arguments.json);
    match arguments.command {
        Command::Id => show(&out, client.get("/v1/id").await?, render::id),
        Command::Status => show(&out, client.get("/v1/status").await?, render::status),
        Command::Peers => show(
            &out,
            client.get("/v1/peers").await?,
            |out, views: &Vec<_>| render::peers(out, views),
        ),
        Command::Forwards => show(
            &out,
            client.get("/v1/forwards").await?,
            |out, views: &Vec<_>| render::forwards(out, views),
        ),
        Command::Events => follow(&client, &out).await,
        Command::Server(command) => server(&client, &out, command).await,
        Command::Peer(command) => peer(&client, &out, command).await,
        Command::Up {
            peer,
            no_wait,
            timeout,
        } => up(&client, &out, &peer, if no_wait { 0 } else { timeout }).await,
        Command::Down { peer } => {
            let answer = post(&client, &peer, "down").await?;
            done(&out, answer, &format!("{peer} is down"))
        }
        Command::Forward {
            protocol,
            ports,
            to,
            peers,
        } => {
            let ask = AddForward {
                protocol,
                ports,
                target: to,
                peers,
            };
            let answer = client.call(Method::POST, "/v1/forwards", &ask).await?;
            show(&out, answer, render::forward)
        }
        Command::Unforward { protocol, ports } => {
            let path = format!("/v1/forwards/{protocol}/{ports}");
            let answer = client.call(Method::DELETE, &path, &()).await?;
            done(
                &out,
                answer,
                &format!("{protocol} {ports} is no longer shared"),
            )
        }
        Command::Allow(access) => {
            let path = format!("/v1/peers/{}/host", access.peer);
            let answer = client.call(Method::PUT, &path, &()).await?;
            let text = format!("{} may reach every port of this machine", access.peer);
            done(&out, answer, &text)
        }
        Command::Deny(access) => {
            let path = format!("/v1/peers/{}/host", access.peer);
            let answer = client.call(Method::DELETE, &path, &()).await?;
            let text = format!("{} may reach only what is forwarded", access.peer);
            done(&out, answer, &text)
        }
        Command::Ping { peer, count } => ping(&client, &out, &peer, count).await,
        Command::Why { peer } => {
            let path = format!("/v1/peers/{peer}/why");
            show(&out, client.get(&path).await?, explain::why)
        }
        Command::Netcheck => {
            let asking = client.call(Method::POST, "/v1/netcheck", &());
            let answer = out.during("asking the STUN servers", asking).await?;
            show(&out, answer, |out, views: &Vec<_>| {
                explain::netcheck(out, views)
            })
        }
        Command::Key(KeyCommand::Show) => show(&out, client.get("/v1/key").await?, render::key),
    }
}

fn show<T: DeserializeOwned>(
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

fn done(out: &Output, answer: Value, text: &str) -> Result<(), Failure> {
    if out.json {
        out.value(&answer);
    } else {
        out.line(text);
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        Failure::Other(format!(
            "punchd's answer is not understood ({error}); is it of another version?"
        ))
    })
}

async fn post(client: &Client, peer: &PeerName, verb: &str) -> Result<Value, Failure> {
    let path = format!("/v1/peers/{peer}/{verb}");
    client.call(Method::POST, &path, &()).await
}

async fn follow(client: &Client, out: &Output) -> Result<(), Failure> {
    let listening = client.listen("/v1/events", |data| render::event(out, data));
    tokio::select! {
        end = listening => {
            end?;
            Err(Failure::Other("punchd has stopped".to_owned()))
        }
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn server(client: &Client, out: &Output, command: ServerCommand) -> Result<(), Failure> {
    match command {
        ServerCommand::List => show(
            out,
            client.get("/v1/servers").await?,
            |out, views: &Vec<_>| render::servers(out, views),
        ),
        ServerCommand::Add { kind, address } => {
            let ask = AddServer { kind, address };
            let answer = client.call(Method::POST, "/v1/servers", &ask).await?;
            let text = format!(
                "{kind} server {} is in use",
                answer["address"].as_str().unwrap_or(&ask.address)
            );
            done(out, answer, &text)
        }
        ServerCommand::Remove { kind, address } => {
            let ask = AddServer { kind, address };
            let answer = client.call(Method::DELETE, "/v1/servers", &ask).await?;
            done(
                out,
                answer,
                &format!("{kind} server {} is no longer used", ask.address),
            )
        }
    }
}

async fn peer(client: &Client, out: &Output, command: PeerCommand) -> Result<(), Failure> {
    match command {
        PeerCommand::Add(arguments) => {
            let ask = add_peer(arguments)?;
            let answer = client.call(Method::POST, "/v1/peers", &ask).await?;
            let text = format!("{0} is a peer now; connect with: punchctl up {0}", ask.name);
            done(out, answer, &text)
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
            endpoint: arguments
                .endpoint
                .ok_or_else(|| refuse("--endpoint is missing".to_owned()))?,
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

async fn up(client: &Client, out: &Output, peer: &PeerName, seconds: u64) -> Result<(), Failure> {
    let path = format!("/v1/peers/{peer}/up");
    let ask = Up {
        wait_ms: seconds * 1000,
    };
    // Ctrl-C ends the waiting only: the connection stays wanted, as it would after a timeout.
    let connecting = client.call(Method::POST, &path, &ask);
    let what = format!("connecting to {peer}");
    let answer = tokio::select! {
        answer = out.during(&what, connecting) => answer,
        _ = tokio::signal::ctrl_c() => Err(Failure::Refused(format!(
            "no longer waiting; punchd goes on trying. To end that: punchctl down {peer}"
        ))),
    };
    let answer = answer?;
    let view: PeerView = parse(answer.clone())?;
    if out.json {
        out.value(&answer);
    }
    let state = view.state;
    if !out.json {
        render::up(out, &view);
    }
    if seconds > 0 && state != PeerState::Connected {
        return Err(Failure::Refused(match state {
            PeerState::Waiting => format!(
                "{peer} is not to be found on a signalling server (punchctl server list); punchd goes on trying. Is punchd running there, with the same server, and does it know this machine (punchctl id)?"
            ),
            _ => format!(
                "no connection to {peer} in {seconds} s; punchd goes on trying; for the reason: punchctl why {peer}"
            ),
        }));
    }
    Ok(())
}

async fn ping(client: &Client, out: &Output, peer: &PeerName, count: u32) -> Result<(), Failure> {
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
    // What has been answered by then is shown all the same.
    tokio::select! {
        result = pings => result?,
        _ = tokio::signal::ctrl_c() => {}
    }
    if out.json {
        out.value(&Value::Array(answers.clone()));
    }
    match failure {
        Some(error) if answers.is_empty() => Err(error),
        None if answers.is_empty() => Err(Failure::Other(format!("no answer of {peer} so far"))),
        Some(error) => {
            if !out.json {
                output::complain(&error.to_string());
            }
            Ok(())
        }
        None => Ok(()),
    }
}
