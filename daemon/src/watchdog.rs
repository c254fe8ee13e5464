//! What the service manager hears: that punchd is alive, proven by a question that the controller and the packet path both have to
//! answer, and how its peers do.

use std::time::Duration;

use punch_api::{Event, PeerState, ServerKind, ServerState, Status};
use punch_service::manager;
use tokio::sync::{broadcast, mpsc};

use crate::controller::request::{self, Request};

/// How old the line of `systemctl status` may be where nobody waits for a sign of life.
const REFRESH: Duration = Duration::from_secs(30);
/// Events come in flocks.
const SETTLE: Duration = Duration::from_secs(1);

/// Beats until the controller is gone. A controller that does not answer leaves the beat out, and the watchdog does the rest.
pub(crate) async fn beat(
    controller: mpsc::Sender<Request>,
    mut events: broadcast::Receiver<Event>,
) {
    if !manager::listens() {
        return;
    }
    let watchdog = manager::watchdog();
    let mut said = String::new();
    while let Ok(status) = request::call(&controller, Request::Status).await {
        if watchdog.is_some() {
            manager::alive();
        }
        let line = line(&status);
        if line != said {
            manager::status(&line);
            said = line;
        }
        tokio::select! {
            () = tokio::time::sleep(watchdog.unwrap_or(REFRESH)) => {}
            event = events.recv() => {
                if matches!(event, Err(broadcast::error::RecvError::Closed)) {
                    return;
                }
                tokio::time::sleep(SETTLE).await;
                // What came meanwhile is seen at once.
                events = events.resubscribe();
            }
        }
    }
}

fn line(status: &Status) -> String {
    let wanted = status.peers.iter().filter(|peer| peer.up).count();
    let connected = status
        .peers
        .iter()
        .filter(|peer| peer.state == PeerState::Connected)
        .count();
    let signal = || {
        let servers = status.servers.iter();
        servers.filter(|server| server.kind == ServerKind::Signal)
    };
    let reached = signal().filter(|server| server.state == ServerState::Connected);
    format!(
        "{connected} of {} peers connected ({wanted} up), {} of {} signalling servers reached, {} forwards",
        status.peers.len(),
        reached.count(),
        signal().count(),
        status.forwards.len()
    )
}
