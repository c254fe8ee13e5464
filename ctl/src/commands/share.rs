//! What peers may use: `punchctl forward`, `unforward`, `allow` and `deny`.

use hyper::Method;
use punch_api::{AddForward, ForwardKey, PeerName};

use super::answer::{done, show, warn};
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
    show(out, answer, render::forward)
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

pub(crate) async fn allow(client: &Client, out: &Output, peer: &PeerName) -> Result<(), Failure> {
    let path = format!("/v1/peers/{peer}/host");
    let answer = client.call(Method::PUT, &path, &()).await?;
    done(
        out,
        answer,
        &format!("{peer} may reach every port of this machine"),
    )
}

pub(crate) async fn deny(client: &Client, out: &Output, peer: &PeerName) -> Result<(), Failure> {
    let path = format!("/v1/peers/{peer}/host");
    let answer = client.call(Method::DELETE, &path, &()).await?;
    done(
        out,
        answer,
        &format!("{peer} may reach only what is forwarded"),
    )
}
