//! `punchctl invite` and `punchctl join`.

use std::time::Duration;

use hyper::Method;
use punch_api::{
    AddServer, InvitationView, Invite, Join, OpenEnum, PairingRole, PairingStage, PairingView,
    PeerName, Secret, ServerAddress, ServerKind, ServerView,
};
use serde_json::{Value, json};

use super::answer::parse;
use super::consent;
use super::up::{self, Ask};
use crate::arguments::{InviteArguments, JoinArguments};
use crate::client::{Client, Failure};
use crate::input::text_from_stdin;
use crate::interrupt::Interrupts;
use crate::output::{Output, complain};
use crate::units::duration;

/// How often it is looked how far the two machines have come.
const LOOK: Duration = Duration::from_millis(50);
/// The connection is waited for so long, once both know each other: over the DHT it takes a while.
const CONNECT_S: u64 = 120;

pub(crate) async fn invite(
    client: &Client,
    out: &Output,
    arguments: InviteArguments,
) -> Result<(), Failure> {
    let ask = Invite {
        name: arguments.name,
        forwards: arguments.forwards,
        host: arguments.host,
        expires_s: arguments.expires,
    };
    consent::ask(client, out).await?;
    // Whatever ends the program from here on ends the invitation first.
    let interrupts = Interrupts::new()?;
    let answer = client.call(Method::POST, "/v1/invitations", &ask).await?;
    let InvitationView { code, pairing } = parse(answer.clone())?;
    let line = format!("punchctl join {}", code.expose());
    if out.json {
        out.value_line(&answer);
    } else if out.is_terminal() {
        let time = duration(arguments.expires);
        out.line(format!(
            "Type this on the other machine, within {time}:\n\n  {line}\n"
        ));
        if !arguments.no_qr {
            out.qr(&line);
        }
    } else {
        out.line(&line);
    }
    let what = "waiting for the other machine";
    let pairing = follow((client, out), pairing, what, interrupts).await?;
    let Some(peer) = pairing.peer.clone() else {
        let text = "nobody has used the code in time; make a new one with: punchctl invite";
        return Err(Failure::Refused(text.to_owned()));
    };
    if !out.json {
        let what = gives(
            &pairing,
            "it may reach",
            "of this machine",
            "it may reach nothing here yet; to share a port with it: punchctl forward tcp PORT --peer NAME",
        );
        out.sentences(
            &format!("{peer} has joined ({}): {what}", fingerprint(&pairing)),
            2,
        );
    }
    connect(client, out, &peer, &pairing).await
}

pub(crate) async fn join(
    client: &Client,
    out: &Output,
    arguments: JoinArguments,
) -> Result<(), Failure> {
    let code = match arguments.code.as_slice() {
        [only] if only == "-" => text_from_stdin("the code")?.trim().to_owned(),
        words => words.join(" "),
    };
    let add_servers = arguments.yes || may_use_its_server(client, out, &code).await?;
    let ask = Join {
        code: Secret::new(code),
        name: arguments.name,
        add_servers,
        wait_s: arguments.timeout,
    };
    let interrupts = Interrupts::new()?;
    let pairing = parse(client.call(Method::POST, "/v1/joins", &ask).await?)?;
    let what = "looking for the machine that has made the code";
    let pairing = follow((client, out), pairing, what, interrupts).await?;
    let Some(peer) = pairing.peer.clone() else {
        return Err(Failure::Refused(failure(&pairing)));
    };
    if !out.json {
        let what = gives(
            &pairing,
            "it shares",
            "with this machine",
            "it shares nothing with this machine yet",
        );
        out.sentences(
            &format!("paired with {peer} ({}): {what}", fingerprint(&pairing)),
            2,
        );
    }
    offer_servers(client, out, &peer, &pairing.servers).await?;
    connect(client, out, &peer, &pairing).await
}

/// Asks whether the server in the code may be used, if this machine does not use it yet. Whoever says yes uses all that the inviter names.
async fn may_use_its_server(client: &Client, out: &Output, code: &str) -> Result<bool, Failure> {
    let Some((_, server)) = code.split_once('@') else {
        consent::ask(client, out).await?;
        return Ok(false);
    };
    let url = match server.contains("://") {
        true => server.trim().to_owned(),
        false => format!("wss://{}", server.trim()),
    };
    // punchd says what is wrong with the code.
    let Ok(address) = ServerAddress::parse(ServerKind::Signal, &url) else {
        return Ok(false);
    };
    let known: Vec<ServerView> = parse(client.get("/v1/servers").await?)?;
    if known.iter().any(|known| known.address == address.as_str()) {
        return Ok(false);
    }
    let question = format!(
        "The code names the signalling server {address}, which this machine does not use yet. Use it from now on, and the other servers that the inviter names?"
    );
    match out.ask(&question).await {
        Some(true) => Ok(true),
        Some(false) => Err(Failure::Refused("nothing was done".to_owned())),
        None => Err(Failure::Refused(format!(
            "the code names the signalling server {address}, which this machine does not use yet; to use it from now on, and the other servers that the inviter names, add: --yes"
        ))),
    }
}

/// Asks whether the inviter's servers may be used that are not used yet.
async fn offer_servers(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    servers: &[AddServer],
) -> Result<(), Failure> {
    if servers.is_empty() || out.json {
        return Ok(());
    }
    let list: Vec<_> = servers
        .iter()
        .map(|server| format!("{} {}", server.kind, server.address))
        .collect();
    let first = list.first().cloned().unwrap_or_default();
    let list = list.join(", ");
    match out
        .ask(&format!(
            "{peer} uses servers that this machine does not: {list}. Use them, too?"
        ))
        .await
    {
        Some(true) => {
            for server in servers {
                client.call(Method::POST, "/v1/servers", server).await?;
            }
        }
        Some(false) => {}
        None => complain(&format!(
            "{peer} uses servers that this machine does not: {list}; to use the first: punchctl server add {first}"
        )),
    }
    Ok(())
}

/// Looks at it until it is over. Ctrl-C ends it, and so does the end of the terminal.
async fn follow(
    (client, out): (&Client, &Output),
    mut pairing: PairingView,
    what: &str,
    mut interrupts: Interrupts,
) -> Result<PairingView, Failure> {
    let path = format!("/v1/pairings/{}", pairing.number);
    let watching = async {
        let mut progress = out.progress();
        loop {
            match &pairing.stage {
                OpenEnum::Known(PairingStage::Preparing | PairingStage::Waiting) => {}
                OpenEnum::Known(PairingStage::Paired | PairingStage::Expired) => {
                    return Ok(pairing);
                }
                OpenEnum::Known(PairingStage::Failed) | OpenEnum::Unknown(_) => {
                    return Err(Failure::Refused(failure(&pairing)));
                }
            }
            match &pairing.trouble {
                Some(trouble) => progress.tell(trouble, LOOK),
                None => progress.renew(what, LOOK),
            }
            tokio::time::sleep(LOOK).await;
            pairing = parse(client.get(&path).await?)?;
        }
    };
    tokio::select! {
        end = watching => end,
        () = interrupts.next() => {
            let ended = parse(client.call(Method::DELETE, &path, &()).await?)?;
            Err(Failure::Refused(withdrawn(&ended)))
        }
    }
}

/// What has become of a pairing that was ended before its time.
fn withdrawn(ended: &PairingView) -> String {
    match (&ended.peer, &ended.role) {
        (Some(peer), _) => format!(
            "too late: the code was used a moment ago, and {peer} ({}) is a peer now. To undo it: punchctl peer remove {peer}",
            fingerprint(ended)
        ),
        (None, OpenEnum::Known(PairingRole::Newcomer)) => {
            "no longer looking for the machine that has made the code".to_owned()
        }
        (None, _) => "withdrawn: the code cannot be used any more".to_owned(),
    }
}

fn failure(pairing: &PairingView) -> String {
    let trouble = pairing.trouble.clone();
    trouble.unwrap_or_else(|| "the two machines have not come together".to_owned())
}

fn fingerprint(pairing: &PairingView) -> String {
    pairing.id.map(|id| id.short()).unwrap_or_default()
}

/// What one of the two may reach of the other.
fn gives(pairing: &PairingView, verb: &str, whose: &str, nothing: &str) -> String {
    if pairing.host {
        return format!("{verb} every port {whose}");
    }
    let ports: Vec<_> = pairing.forwards.iter().map(ToString::to_string).collect();
    match ports.is_empty() {
        true => nothing.to_owned(),
        false => format!("{verb} {} {whose}", ports.join(", ")),
    }
}

/// Waits for the connection, and says how it is. With `--json` the pairing is told although nothing is known of the connection.
async fn connect(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    pairing: &PairingView,
) -> Result<(), Failure> {
    let ask = Ask {
        peer,
        timeout: Some(CONNECT_S),
        direct_only: None,
    };
    let tell = |view: &Value| out.value_line(&json!({ "pairing": pairing, "peer": view }));
    let mut told = false;
    let end = up::up_and_show(client, out, ask, |view| {
        told = true;
        tell(view);
    });
    let end = end.await;
    if out.json && !told {
        tell(&Value::Null);
    }
    end
}
