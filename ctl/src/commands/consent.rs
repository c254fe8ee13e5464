//! Whether what everybody may use is used: the public DHT and public STUN servers. Nobody is asked who has a server, and nobody is asked
//! again who has said no.

use hyper::Method;
use punch_api::{AddServer, OpenEnum, ServerKind, ServerView, Status};

use super::answer::parse;
use crate::client::{Client, Failure};
use crate::output::Output;

const QUESTION: &str = "This machine uses no server, so that others find it in its own network only. Use the public DHT and public STUN servers from now on? Strangers there see this machine's public address and that of the machine that it meets, and nothing of whose they are or what is said.";
const HINT: &str = "note: this machine uses no server, so that others find it in its own network only; to use the public DHT and public STUN servers, where strangers see its public address: punchctl server add public; to use a server of your own: punchctl server add signal wss://HOST";
const AGREED: &str = "In use from now on; to stop: punchctl server remove public";
const REFUSED: &str =
    "Not used, and not asked again; to use them later: punchctl server add public";
const REFUSED_BEFORE: &str = "note: others find this machine in its own network only, since it uses no server, and the public DHT was refused; to use that: punchctl server add public";

/// Whether others find this machine in its own network only.
pub(super) async fn is_needed(client: &Client) -> Result<bool, Failure> {
    let known: Vec<ServerView> = parse(client.get("/v1/servers").await?)?;
    let finds = |view: &ServerView| view.kind != OpenEnum::Known(ServerKind::Stun);
    Ok(!known.iter().any(finds))
}

/// Asks whether what is public is used, unless this machine uses a server; where nobody can answer, it is said what to type. Whether it is
/// used now, and was not before.
pub(super) async fn ask(client: &Client, out: &Output) -> Result<bool, Failure> {
    if !is_needed(client).await? {
        return Ok(false);
    }
    let status: Status = parse(client.get("/v1/status").await?)?;
    if status.public == Some(false) {
        out.note(REFUSED_BEFORE);
        return Ok(false);
    }
    let Some(agreed) = out.ask(QUESTION).await else {
        out.note(HINT);
        return Ok(false);
    };
    let public = AddServer {
        kind: ServerKind::Public,
        address: ServerKind::Public.to_string(),
    };
    let (method, text) = match agreed {
        true => (Method::POST, AGREED),
        false => (Method::DELETE, REFUSED),
    };
    client.call(method, "/v1/servers", &public).await?;
    out.note(text);
    Ok(agreed)
}
