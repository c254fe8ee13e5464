//! Commands that change nothing: `punchctl id`, `key`, `status`, `peers`, `forwards`, `why`, `netcheck` and `events`.

use hyper::Method;
use punch_api::PeerName;

use super::answer::show;
use crate::client::{Client, Failure};
use crate::explain;
use crate::output::Output;
use crate::render;

pub(crate) async fn id(client: &Client, out: &Output) -> Result<(), Failure> {
    show(out, client.get("/v1/id").await?, render::id)
}

pub(crate) async fn key(client: &Client, out: &Output) -> Result<(), Failure> {
    show(out, client.get("/v1/key").await?, render::key)
}

pub(crate) async fn status(client: &Client, out: &Output) -> Result<(), Failure> {
    show(out, client.get("/v1/status").await?, render::status)
}

pub(crate) async fn peers(client: &Client, out: &Output) -> Result<(), Failure> {
    let answer = client.get("/v1/peers").await?;
    show(out, answer, |out, views: &Vec<_>| render::peers(out, views))
}

pub(crate) async fn forwards(client: &Client, out: &Output) -> Result<(), Failure> {
    let answer = client.get("/v1/forwards").await?;
    show(out, answer, |out, views: &Vec<_>| {
        render::forwards(out, views)
    })
}

pub(crate) async fn why(client: &Client, out: &Output, peer: &PeerName) -> Result<(), Failure> {
    let answer = client.get(&format!("/v1/peers/{peer}/why")).await?;
    show(out, answer, explain::why)
}

pub(crate) async fn netcheck(client: &Client, out: &Output) -> Result<(), Failure> {
    let asking = client.call(Method::POST, "/v1/netcheck", &());
    let answer = out.during("asking the STUN servers", asking).await?;
    show(out, answer, |out, views: &Vec<_>| {
        explain::netcheck(out, views)
    })
}

pub(crate) async fn events(client: &Client, out: &Output) -> Result<(), Failure> {
    let listening = client.listen("/v1/events", |data| render::event(out, data));
    tokio::select! {
        end = listening => {
            end?;
            Err(Failure::Other("punchd has stopped".to_owned()))
        }
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}
