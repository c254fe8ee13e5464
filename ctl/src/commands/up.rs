//! `punchctl up`: waits for the connection, and says meanwhile what is known of it.

use std::time::Duration;

use hyper::Method;
use punch_api::{
    Obstacle, OpenEnum, PeerName, PeerState, PeerView, ServerKind, ServerState, ServerView, Up,
    WhyView,
};
use serde_json::Value;

use super::answer::{parse, warn};
use super::consent;
use crate::client::{Client, Failure};
use crate::interrupt::Interrupts;
use crate::output::Output;
use crate::render;

/// How the connection stands is asked for this often. A peer that does not answer counts as silent after a second, so that this
/// is said within two.
const LOOK: Duration = Duration::from_millis(500);
/// A server that was just lost is often back within a second or two; when none is reached for so long, no more is waited for.
const NO_SERVER: Duration = Duration::from_secs(5);

/// A relay serves at once; a direct path, where there is one, most often within this time.
const DIRECT: Duration = Duration::from_secs(2);

/// A connection that a signalling server brings about is waited for so long.
const QUICK: u64 = 15;
/// Over the DHT, a peer that does not wait for this machine itself looks there once a minute, and its answer is looked for, too.
const SLOW: u64 = 120;

/// For how many seconds a connection is waited for if nobody says. What punchd does not tell changes nothing: the call itself says what
/// is wrong with it.
async fn patience(client: &Client) -> u64 {
    let known = client.get("/v1/servers").await.and_then(parse);
    let servers: Vec<ServerView> = known.unwrap_or_default();
    let is_quick = |view: &ServerView| {
        view.kind == OpenEnum::Known(ServerKind::Signal)
            && view.state == OpenEnum::Known(ServerState::Connected)
    };
    let is_slow = |view: &ServerView| {
        let kinds = [ServerKind::Dht, ServerKind::Public];
        kinds.iter().any(|kind| view.kind == OpenEnum::Known(*kind))
    };
    let only_slow = servers.iter().any(is_slow) && !servers.iter().any(is_quick);
    if only_slow { SLOW } else { QUICK }
}

/// Whom to connect to, and how.
pub(super) struct Ask<'a> {
    pub(super) peer: &'a PeerName,
    /// How many seconds to wait; `None`: for as long as makes sense.
    pub(super) timeout: Option<u64>,
    pub(super) direct_only: Option<bool>,
}

/// Connects, and waits for the connection so many seconds, or for as long as makes sense.
pub(crate) async fn up(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    timeout: Option<u64>,
    direct_only: Option<bool>,
) -> Result<(), Failure> {
    let ask = Ask {
        peer,
        timeout,
        direct_only,
    };
    up_and_show(client, out, ask, |answer| out.value(answer)).await
}

/// The same; with `--json`, what punchd says of the peer in the end is shown in another way.
pub(super) async fn up_and_show(
    client: &Client,
    out: &Output,
    ask: Ask<'_>,
    show: impl FnOnce(&Value),
) -> Result<(), Failure> {
    let Ask {
        peer,
        timeout,
        direct_only,
    } = ask;
    let path = format!("/v1/peers/{peer}/up");
    let mut has_asked = false;
    let mut interrupts = Interrupts::new()?;
    let (seconds, answer) = loop {
        let seconds = match timeout {
            Some(seconds) => seconds,
            None => patience(client).await,
        };
        let ask = Up {
            wait_ms: seconds * 1000,
            direct_only,
        };
        // Ctrl-C ends only the waiting; punchd keeps trying, as it does after a timeout.
        let connecting = client.call(Method::POST, &path, &ask);
        let view = tokio::select! {
            answer = connecting => break (seconds, answer?),
            view = watch(client, out, peer), if seconds > 0 => view,
            () = interrupts.next() => return Err(Failure::Refused(format!(
                "no longer waiting; punchd keeps trying. To stop: punchctl down {peer}"
            ))),
        };
        let lacks = view
            .obstacle
            .as_ref()
            .is_some_and(|known| *known == Obstacle::NoServer);
        let may_ask = lacks && !has_asked && out.can_ask();
        if !may_ask || !consent::ask(client, out).await? {
            return Err(Failure::Refused(format!(
                "not connected to {peer}{}",
                reason(&view)
            )));
        }
        has_asked = true;
    };
    warn(&answer);
    let answer = match seconds {
        0 => answer,
        _ => settle(client, out, peer, answer).await?,
    };
    let view: PeerView = parse(answer.clone())?;
    if out.json {
        show(&answer);
    }
    let connected = view.state == PeerState::Connected;
    if !out.json && connected {
        render::connected(out, &view);
    }
    if seconds > 0 && !connected {
        let why = why(client, peer).await;
        let reason = why.map_or_else(|| hint(peer), |view| reason(&view));
        return Err(Failure::Refused(format!(
            "not connected to {peer} after {seconds} s{reason}"
        )));
    }
    Ok(())
}

/// Waits a little for a direct path where a relay serves; the newest answer is returned.
async fn settle(
    client: &Client,
    out: &Output,
    peer: &PeerName,
    mut answer: Value,
) -> Result<Value, Failure> {
    let mut progress = out.progress();
    let mut passed = Duration::ZERO;
    while passed < DIRECT {
        let view: PeerView = parse(answer.clone())?;
        let is_relayed = view.path.is_some_and(|path| path.via.is_some());
        if !is_relayed {
            break;
        }
        progress.renew(
            &format!("{peer} is reached over a relay; looking for a direct path"),
            LOOK / 2,
        );
        tokio::time::sleep(LOOK / 2).await;
        passed += LOOK / 2;
        // It has connected, whatever comes after.
        let Ok(newer) = client.get(&format!("/v1/peers/{peer}")).await else {
            break;
        };
        let is_up = |view: PeerView| view.state == PeerState::Connected;
        if !parse(newer.clone()).is_ok_and(is_up) {
            break;
        }
        answer = newer;
    }
    Ok(answer)
}

/// Tells what is known, for as long as waiting may help; what is known when it cannot is returned.
async fn watch(client: &Client, out: &Output, peer: &PeerName) -> WhyView {
    let mut progress = out.progress();
    let (mut passed, mut cut_off) = (Duration::ZERO, Duration::ZERO);
    loop {
        tokio::time::sleep(LOOK).await;
        passed += LOOK;
        let Some(view) = why(client, peer).await else {
            continue;
        };
        let is = |obstacle| {
            view.obstacle
                .as_ref()
                .is_some_and(|known| *known == obstacle)
        };
        cut_off = match is(Obstacle::ServersUnreachable) {
            true => cut_off + LOOK,
            false => Duration::ZERO,
        };
        // No waiting helps before this machine reaches a signalling server.
        if is(Obstacle::NoServer) || cut_off >= NO_SERVER {
            return view;
        }
        if view.obstacle.is_some() || passed > 2 * LOOK && view.state != PeerState::Connected {
            progress.tell(&view.summary, LOOK);
        } else {
            progress.renew(&format!("connecting to {peer}"), LOOK);
        }
    }
}

/// How the connection stands; a failure says nothing about it, since `up` itself tells what is wrong with punchd.
async fn why(client: &Client, peer: &PeerName) -> Option<WhyView> {
    let answer = client.get(&format!("/v1/peers/{peer}/why")).await.ok()?;
    parse(answer).ok()
}

/// The end of the sentence that says that there is no connection: what is in the way, and what to do.
fn reason(view: &WhyView) -> String {
    let mut lines = vec![view.summary.clone()];
    if let Some(plain) = &view.plain {
        lines.push(render::its_configuration(&view.peer, plain));
    } else {
        lines.extend(view.advice.first().cloned());
    }
    if view.obstacle.is_some() || view.plain.is_some() {
        return format!("; punchd keeps trying.\n  {}", lines.join("\n  "));
    }
    format!("{}\n  {}", hint(&view.peer), lines.join("\n  "))
}

fn hint(peer: &PeerName) -> String {
    format!(
        "; punchd keeps trying. To see why: punchctl why {peer}; whether servers answer: punchctl server list"
    )
}
