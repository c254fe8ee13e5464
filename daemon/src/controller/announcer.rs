//! Events on their way to listeners and to the log.

use punch_api::{Event, EventKind, PeerName};
use punch_engine::Crowded;
use punch_platform::clock;
use punch_service::Repeats;
use tokio::sync::broadcast;

use crate::overlay::Verdict;
use crate::views::events;

/// See the module.
pub(super) struct Announcer {
    broadcast: broadcast::Sender<Event>,
    /// What was logged lately and repeats itself for as long as a peer or a server is not reached.
    repeats: Repeats,
}

impl Announcer {
    /// Tells the listeners of this channel.
    pub(super) fn new(broadcast: broadcast::Sender<Event>) -> Self {
        Self {
            broadcast,
            repeats: Repeats::default(),
        }
    }

    /// Logs an event, if there is one, and tells it to those who listen.
    pub(super) fn announce(&mut self, event: Option<(EventKind, String)>) {
        let Some((kind, message)) = event else { return };
        match kind {
            EventKind::Search { .. } | EventKind::OfferRefused { .. } => {
                log_rarely(&mut self.repeats, &message);
            }
            _ => tracing::info!("{message}"),
        }
        self.broadcast(kind, message);
    }

    /// The same of what somebody should look at.
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
        let _ = self.broadcast.send(Event {
            at_ms: clock::wall_ms(),
            kind,
            message,
        });
    }
}

/// Logs what may happen again and again.
pub(super) fn log_rarely(repeats: &mut Repeats, text: &str) {
    match repeats.note(text, clock::now()) {
        Some(0) => tracing::info!("{text}"),
        Some(times) => tracing::info!("{text} ({times} times more since this was said last)"),
        None => {}
    }
}
