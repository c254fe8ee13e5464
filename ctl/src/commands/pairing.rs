//! `punchctl invite` and `punchctl join`.

use std::time::Duration;

use hyper::Method;
use punch_api::{
    AddServer, ErrorCode, ForwardView, InvitationView, Invite, Join, OpenEnum, PairingStage,
    PairingView, PeerName, PeerView, Secret, ServerAddress, ServerKind, ServerView,
};
use serde_json::{Value, json};

use super::answer::parse;
use super::consent;
use super::up::{self, Ask};
use crate::arguments::{InviteArguments, JoinArguments};
use crate::client::{Client, Failure};
use crate::input::text_from_stdin;
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::units::duration;

/// How often it is looked how far the two machines have come.
const LOOK: Duration = Duration::from_millis(50);
/// In one network the two find each other well within this time, and then nobody need be asked for a way over the internet.
const NEAR: Duration = Duration::from_secs(2);
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
    let mut waiting = Waiting {
        what: "waiting for the other machine",
        ended: "withdrawn: the code cannot be used any more",
        // Whatever ends the program from here on ends the invitation first.
        interrupts: Interrupts::new()?,
    };
    let answer = open(client, out, &ask).await?;
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
    let pairing = follow((client, out), pairing, &mut waiting).await?;
    let Some(peer) = pairing.peer.clone() else {
        let text = "nobody has used the code in time; make a new one with: punchctl invite";
        return Err(Failure::Refused(text.to_owned()));
    };
    if !out.json {
        let what = may_reach(client, &peer).await?;
        out.sentences(
            &format!("{peer} has joined ({}): {what}", fingerprint(&pairing)),
            2,
        );
    }
    connect(client, out, &peer, &pairing).await
}

/// Makes the invitation. What is wrong with it is said before anybody is asked how this machine may be found.
async fn open(client: &Client, out: &Output, ask: &Invite) -> Result<Value, Failure> {
    let invite = client.call(Method::POST, "/v1/invitations", ask).await;
    if !consent::is_needed(client).await? {
        return invite;
    }
    match invite {
        Ok(answer) => {
            let InvitationView { pairing, .. } = parse(answer)?;
            end(client, &pairing).await?;
        }
        Err(error) if is_unreachable(&error) => {}
        Err(error) => return Err(error),
    }
    consent::ask(client, out).await?;
    client.call(Method::POST, "/v1/invitations", ask).await
}

/// Whether nothing is wrong but that this machine has no place where another one could find it.
fn is_unreachable(failure: &Failure) -> bool {
    matches!(failure, Failure::Api(error) if error.code == ErrorCode::Unavailable)
}

pub(crate) async fn join(
    client: &Client,
    out: &Output,
    arguments: JoinArguments,
) -> Result<(), Failure> {
    let pairing = meet(client, out, &arguments).await?;
    let Some(peer) = pairing.peer.clone() else {
        return Err(Failure::Refused(failure(&pairing)));
    };
    if !out.json {
        let what = shares(&pairing);
        out.sentences(
            &format!("paired with {peer} ({}): {what}", fingerprint(&pairing)),
            2,
        );
    }
    offer_servers(client, out, &peer, &pairing.servers).await?;
    connect(client, out, &peer, &pairing).await
}

/// Follows the code until the two machines know each other.
async fn meet(
    client: &Client,
    out: &Output,
    arguments: &JoinArguments,
) -> Result<PairingView, Failure> {
    let code = match arguments.code.as_slice() {
        [only] if only == "-" => text_from_stdin("the code")?.trim().to_owned(),
        words => words.join(" "),
    };
    let mut ask = Join {
        code: Secret::new(code.clone()),
        name: arguments.name.clone(),
        add_servers: arguments.yes,
        wait_s: arguments.timeout,
    };
    let mut waiting = Waiting {
        what: "looking for the machine that has made the code",
        ended: "no longer looking; the code can still be used until it expires",
        interrupts: Interrupts::new()?,
    };
    let (words, server) = match code.split_once('@') {
        Some((words, server)) => (words, Some(server)),
        None => (code.as_str(), None),
    };
    let new = match server.filter(|_| !arguments.yes) {
        Some(server) => new_server(client, server).await?,
        None => None,
    };
    let is_alone = server.is_none() && consent::is_needed(client).await?;
    if new.is_some() || is_alone {
        let near = Join {
            code: Secret::new(words.to_owned()),
            name: ask.name.clone(),
            add_servers: false,
            wait_s: ask.wait_s,
        };
        if let Some(pairing) = meet_near((client, out), &near, &mut waiting).await? {
            return Ok(pairing);
        }
    }
    match new {
        Some(address) => {
            may_use(out, &address).await?;
            ask.add_servers = true;
        }
        None if is_alone => drop(consent::ask(client, out).await?),
        None => {}
    }
    let pairing = parse(client.call(Method::POST, "/v1/joins", &ask).await?)?;
    follow((client, out), pairing, &mut waiting).await
}

/// Looks for the other machine for a moment with what this one has; `None` if it is not found. What is wrong with the code is said.
async fn meet_near(
    (client, out): (&Client, &Output),
    ask: &Join,
    waiting: &mut Waiting,
) -> Result<Option<PairingView>, Failure> {
    let pairing: PairingView = match client.call(Method::POST, "/v1/joins", ask).await {
        Ok(answer) => parse(answer)?,
        Err(error) if is_unreachable(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let near = follow_for((client, out), pairing.clone(), waiting, Some(NEAR));
    match near.await? {
        Some(found) => Ok(Some(found)),
        None => {
            let ended = end(client, &pairing).await?;
            // It may have been found since the last look.
            Ok(ended.peer.is_some().then_some(ended))
        }
    }
}

/// The address of a code's server, if this machine does not use it yet.
async fn new_server(client: &Client, server: &str) -> Result<Option<ServerAddress>, Failure> {
    let url = match server.contains("://") {
        true => server.trim().to_owned(),
        false => format!("wss://{}", server.trim()),
    };
    // punchd says what is wrong with the code.
    let Ok(address) = ServerAddress::parse(ServerKind::Signal, &url) else {
        return Ok(None);
    };
    let known: Vec<ServerView> = parse(client.get("/v1/servers").await?)?;
    let is_used = known.iter().any(|known| known.address == address.as_str());
    Ok((!is_used).then_some(address))
}

/// Asks whether the server in the code may be used. Whoever says yes uses all that the inviter names.
async fn may_use(out: &Output, address: &ServerAddress) -> Result<(), Failure> {
    let question = format!(
        "The code names the signalling server {address}, which this machine does not use yet. Use it from now on, and the other servers that the inviter names?"
    );
    match out.ask(&question).await {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::Refused(format!(
            "not joined: the machine that has made the code is not found in this network, and {address} is not to be used"
        ))),
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
        None => out.note(&format!(
            "note: {peer} uses servers that this machine does not: {list}; to use the first: punchctl server add {first}"
        )),
    }
    Ok(())
}

/// What is said while something is waited for, and when it is ended before its time.
struct Waiting {
    what: &'static str,
    ended: &'static str,
    /// They have listened since before there was something to end.
    interrupts: Interrupts,
}

/// Ends a pairing, and tells what has become of it.
async fn end(client: &Client, pairing: &PairingView) -> Result<PairingView, Failure> {
    let path = format!("/v1/pairings/{}", pairing.number);
    parse(client.call(Method::DELETE, &path, &()).await?)
}

/// Looks at it until it is over. Ctrl-C ends it, and so does the end of the terminal.
async fn follow(
    all: (&Client, &Output),
    pairing: PairingView,
    waiting: &mut Waiting,
) -> Result<PairingView, Failure> {
    let over = follow_for(all, pairing, waiting, None).await?;
    over.ok_or_else(|| Failure::Other("the wait has ended early".to_owned()))
}

/// The same; after so long of waiting, `None` is returned, and it goes on.
async fn follow_for(
    (client, out): (&Client, &Output),
    mut pairing: PairingView,
    waiting: &mut Waiting,
    limit: Option<Duration>,
) -> Result<Option<PairingView>, Failure> {
    let path = format!("/v1/pairings/{}", pairing.number);
    let mut waited = Duration::ZERO;
    let watching = async {
        let mut progress = out.progress();
        loop {
            match &pairing.stage {
                OpenEnum::Known(PairingStage::Preparing) => {}
                OpenEnum::Known(PairingStage::Waiting) => waited += LOOK,
                OpenEnum::Known(PairingStage::Paired | PairingStage::Expired) => {
                    return Ok(Some(pairing));
                }
                OpenEnum::Known(PairingStage::Failed) | OpenEnum::Unknown(_) => {
                    return Err(Failure::Refused(failure(&pairing)));
                }
            }
            if limit.is_some_and(|limit| waited >= limit) {
                return Ok(None);
            }
            match &pairing.trouble {
                Some(trouble) => progress.tell(trouble, LOOK),
                None => progress.renew(waiting.what, LOOK),
            }
            tokio::time::sleep(LOOK).await;
            pairing = parse(client.get(&path).await?)?;
        }
    };
    tokio::select! {
        end = watching => end,
        () = waiting.interrupts.next() => {
            let ended = parse(client.call(Method::DELETE, &path, &()).await?)?;
            Err(Failure::Refused(withdrawn(&ended, waiting.ended)))
        }
    }
}

/// What has become of a pairing that was ended before its time.
fn withdrawn(ended: &PairingView, text: &str) -> String {
    match &ended.peer {
        Some(peer) => format!(
            "too late: the code was used a moment ago, and {peer} ({}) is a peer now. To undo it: punchctl peer remove {peer}",
            fingerprint(ended)
        ),
        None => text.to_owned(),
    }
}

fn failure(pairing: &PairingView) -> String {
    let trouble = pairing.trouble.clone();
    trouble.unwrap_or_else(|| "the two machines have not come together".to_owned())
}

fn fingerprint(pairing: &PairingView) -> String {
    pairing.id.map(|id| id.short()).unwrap_or_default()
}

/// What a peer may reach here, by this code or else.
async fn may_reach(client: &Client, peer: &PeerName) -> Result<String, Failure> {
    let view: PeerView = parse(client.get(&format!("/v1/peers/{peer}")).await?)?;
    if view.rights.host {
        return Ok("it may reach every port of this machine".to_owned());
    }
    let forwards: Vec<ForwardView> = parse(client.get("/v1/forwards").await?)?;
    let open = forwards
        .iter()
        .filter(|view| view.peers.is_empty() || view.peers.contains(peer))
        .map(|view| format!("{} {}", view.protocol, view.ports));
    let open: Vec<_> = open.collect();
    Ok(match open.is_empty() {
        true => format!(
            "it may reach nothing here yet; to share a port with it: punchctl forward tcp PORT --peer {peer}"
        ),
        false => format!("it may reach {} of this machine", open.join(", ")),
    })
}

/// What the other one has said that it shares by the code.
fn shares(pairing: &PairingView) -> String {
    if pairing.host {
        return "it shares every port with this machine".to_owned();
    }
    let ports: Vec<_> = pairing.forwards.iter().map(ToString::to_string).collect();
    match ports.is_empty() {
        true => "the code shares none of its ports with this machine".to_owned(),
        false => format!("it shares {} with this machine", ports.join(", ")),
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
