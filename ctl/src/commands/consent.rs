//! Whether what everybody may use is used: the public DHT and public STUN servers. Nobody is asked who has a server.

use hyper::Method;
use punch_api::{AddServer, OpenEnum, ServerKind, ServerView};

use super::answer::parse;
use crate::client::{Client, Failure};
use crate::output::{Output, complain};

const QUESTION: &str = "This machine uses no server, so that others find it in its own network only. Use the public DHT and public STUN servers from now on? Strangers there see this machine's public address and that of the machine that it meets, and nothing of whose they are or what is said.";
const HINT: &str = "this machine uses no server, so that others find it in its own network only; to use the public DHT and public STUN servers, where strangers see its public address: punchctl server add public; to use a server of your own: punchctl server add signal wss://HOST";

/// Asks, if this machine uses no server; without a terminal, it is said what to type. Whether they are used now.
pub(super) async fn ask(client: &Client, out: &Output) -> Result<bool, Failure> {
    let known: Vec<ServerView> = parse(client.get("/v1/servers").await?)?;
    let finds = |view: &ServerView| view.kind != OpenEnum::Known(ServerKind::Stun);
    if known.iter().any(finds) {
        return Ok(false);
    }
    match out.ask(QUESTION).await {
        Some(true) => {}
        Some(false) => return Ok(false),
        None => {
            complain(HINT);
            return Ok(false);
        }
    }
    let public = AddServer {
        kind: ServerKind::Public,
        address: ServerKind::Public.to_string(),
    };
    client.call(Method::POST, "/v1/servers", &public).await?;
    Ok(true)
}
