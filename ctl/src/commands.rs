//! The commands: what each asks of punchd, and how the answer is shown.

mod answer;
mod consent;
mod look;
mod pairing;
mod paste;
mod peer;
mod server;
mod share;
mod up;

use punch_api::{AddForward, ForwardKey};

use crate::arguments::{Arguments, Command, KeyCommand};
use crate::client::{Client, Failure};
use crate::output::Output;

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let client = &Client::new(&arguments.socket);
    let out = &Output::new(arguments.json);
    match arguments.command {
        Command::Invite(ask) => pairing::invite(client, out, ask).await,
        Command::Join(ask) => pairing::join(client, out, ask).await,
        Command::Id => look::id(client, out).await,
        Command::Key(KeyCommand::Show) => look::key(client, out).await,
        Command::Status => look::status(client, out).await,
        Command::Peers => look::peers(client, out).await,
        Command::Forwards => look::forwards(client, out).await,
        Command::Why { peer } => look::why(client, out, &peer).await,
        Command::Netcheck => look::netcheck(client, out).await,
        Command::Events => look::events(client, out).await,
        Command::Servers => server::list(client, out).await,
        Command::Server(command) => server::run(client, out, command).await,
        Command::Peer(command) => peer::run(client, out, command).await,
        Command::Up {
            peer,
            no_wait,
            timeout,
            direct_only,
        } => {
            let seconds = if no_wait { Some(0) } else { timeout };
            up::up(client, out, &peer, seconds, direct_only).await
        }
        Command::Offer(ask) => paste::offer(client, out, ask).await,
        Command::Answer(ask) => paste::answer(client, out, ask).await,
        Command::Down { peer } => peer::down(client, out, &peer).await,
        Command::Ping { peer, count } => peer::ping(client, out, &peer, count).await,
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
            share::forward(client, out, &ask).await
        }
        Command::Unforward { protocol, ports } => {
            share::unforward(client, out, ForwardKey { protocol, ports }).await
        }
        Command::Allow(access) => share::allow(client, out, &access).await,
        Command::Deny(access) => share::deny(client, out, &access).await,
    }
}
