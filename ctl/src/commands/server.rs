//! `punchctl server`: signalling and STUN servers.

use hyper::Method;
use punch_api::AddServer;

use super::answer::{done, show};
use crate::arguments::ServerCommand;
use crate::client::{Client, Failure};
use crate::output::Output;
use crate::render;

pub(crate) async fn run(
    client: &Client,
    out: &Output,
    command: ServerCommand,
) -> Result<(), Failure> {
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
