//! Tells people what has happened: the log, and whoever listens at the control socket.

use punch_api::{Event, EventKind, PeerName};
use punch_engine::Crowded;
use punch_platform::clock;
use tokio::sync::broadcast;

use crate::overlay::Verdict;
use crate::views::events;

/// See the module.
pub(super) struct Announcer(broadcast::Sender<Event>);

impl Announcer {
    /// Listeners hear it here.
    pub(super) fn new(listeners: broadcast::Sender<Event>) -> Self {
        Self(listeners)
    }

    /// Something has happened, if there is anything to say.
    pub(super) fn announce(&self, event: Option<(EventKind, String)>) {
        let Some((kind, message)) = event else { return };
        tracing::info!("{message}");
        self.broadcast(kind, message);
    }

    /// Something has happened that somebody should look after.
    pub(super) fn warn(&self, (kind, message): (EventKind, String)) {
        tracing::warn!("{message}");
        self.broadcast(kind, message);
    }

    /// Overlay addresses are not used from now on, or are again.
    pub(super) fn tell(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            for owner in &verdict.owners {
                let owner = Some(owner.clone());
                self.warn(events::overlay(owner, verdict.ip, verdict.why.as_ref()));
            }
        }
    }

    /// There is no room for all that a peer wants of forwards. Only the log says so: it comes again and again.
    pub(super) fn warn_crowded(&self, peer: Option<PeerName>, crowded: &Crowded) {
        if let Some(peer) = peer {
            tracing::warn!(
                %peer,
                open = crowded.open,
                refused = crowded.refused,
                ended = crowded.ended,
                "there is no room for all connections of this peer to forwards"
            );
        }
    }

    fn broadcast(&self, kind: EventKind, message: String) {
        // Without listeners nobody hears it; that is fine.
        let _ = self.0.send(Event {
            at_ms: clock::wall_ms(),
            kind,
            message,
        });
    }
}
