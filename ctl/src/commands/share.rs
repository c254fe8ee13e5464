//! What peers may use: `punchctl forward`, `unforward`, `allow` and `deny`.

use std::net::IpAddr;

use hyper::Method;
use punch_api::{AddForward, ForwardKey, ForwardView, IdView, PeerView};

use super::answer::{done, parse, warn};
use crate::arguments::Access;
use crate::client::{Client, Failure};
use crate::output::Output;
use crate::render;

pub(crate) async fn forward(
    client: &Client,
    out: &Output,
    ask: &AddForward,
) -> Result<(), Failure> {
    let answer = client.call(Method::POST, "/v1/forwards", ask).await?;
    warn(&answer);
    if out.json {
        out.value(&answer);
        return Ok(());
    }
    let me: IdView = parse(client.get("/v1/id").await?)?;
    let view: ForwardView = parse(answer)?;
    render::forward(out, &view, &me);
    if let Some(trouble) = &view.trouble {
        render::no_answer(out, &view, trouble);
    }
    let peers: Vec<PeerView> = parse(client.get("/v1/peers").await?)?;
    if let Some(peer) = peers.iter().find(|peer| leads_to(&view, peer)) {
        render::no_forward_needed(out, &view, peer);
    }
    Ok(())
}

/// Whether a forward leads to a port of a peer, which is probably a mistake about the direction: `ssh -L` has the other one.
fn leads_to(view: &ForwardView, peer: &PeerView) -> bool {
    let host = view.target.host();
    let is_address = |ip: IpAddr| host.parse::<IpAddr>() == Ok(ip);
    host.eq_ignore_ascii_case(peer.name.as_str())
        || peer.ipv4.is_some_and(|ip| is_address(ip.into()))
        || peer.ipv6.is_some_and(|ip| is_address(ip.into()))
}

pub(crate) async fn unforward(
    client: &Client,
    out: &Output,
    key: ForwardKey,
) -> Result<(), Failure> {
    let path = format!("/v1/forwards/{}/{}", key.protocol, key.ports);
    let answer = client.call(Method::DELETE, &path, &()).await?;
    done(out, answer, &format!("{key} is no longer shared"))
}

pub(crate) async fn allow(client: &Client, out: &Output, access: &Access) -> Result<(), Failure> {
    let answer = client.call(Method::PUT, &path(access), &()).await?;
    let peer = &access.peer;
    let text = match access.grant.relay {
        false => format!("{peer} may reach every port of this machine"),
        true => {
            format!("{peer} may meet others here that may, too; this machine relays between them")
        }
    };
    done(out, answer, &text)
}

pub(crate) async fn deny(client: &Client, out: &Output, access: &Access) -> Result<(), Failure> {
    let answer = client.call(Method::DELETE, &path(access), &()).await?;
    let peer = &access.peer;
    let text = match access.grant.relay {
        false => format!("{peer} may reach only what is forwarded"),
        true => format!("{peer} may no longer meet others here"),
    };
    done(out, answer, &text)
}

/// The call that changes what a peer may do.
fn path(access: &Access) -> String {
    let grant = if access.grant.relay { "relay" } else { "host" };
    format!("/v1/peers/{}/{grant}", access.peer)
}
