//! Events on their way to listeners and to the log. While this machine has no network the log has one line about that, and
//! none about what follows from it.

use std::time::{Duration, Instant};

use punch_api::{Event, EventKind, PeerName};
use punch_engine::{AddressRank, Crowded, OwnAddress, PeerHandle};
use punch_platform::clock;
use punch_service::Repeats;
use tokio::sync::broadcast;

use super::handles::Handles;
use crate::overlay::Verdict;
use crate::views::events;

/// A machine that has no network says so after this; most outages are shorter.
const OUTAGE: Duration = Duration::from_secs(90);

/// This machine has no network.
struct Outage {
    since: Instant,
    /// Whether the log says so.
    is_told: bool,
}

/// What is to be said of a server.
pub(super) enum Said {
    Event((EventKind, String)),
    /// Why one is still not reached: for the log only.
    Trouble(String),
    /// This machine has come to the meeting place of a peer, or has left it.
    Meeting {
        peer: PeerHandle,
        connected: bool,
        trouble: Option<String>,
    },
}

/// See the module.
pub(super) struct Announcer {
    broadcast: broadcast::Sender<Event>,
    /// What was logged lately and repeats itself for as long as a peer or a server is not reached.
    repeats: Repeats,
    outage: Option<Outage>,
}

impl Announcer {
    /// Tells the listeners of this channel.
    pub(super) fn new(broadcast: broadcast::Sender<Event>) -> Self {
        Self {
            broadcast,
            repeats: Repeats::default(),
            outage: None,
        }
    }

    /// This machine has these addresses now: without one towards others it has no network.
    pub(super) fn set_network(&mut self, addresses: &[OwnAddress], now: Instant) {
        if addresses.iter().all(|own| own.rank > AddressRank::Network) {
            self.outage.get_or_insert(Outage {
                since: now,
                is_told: false,
            });
            return;
        }
        if let Some(Outage {
            since,
            is_told: true,
        }) = self.outage.take()
        {
            let seconds = now.saturating_duration_since(since).as_secs();
            tracing::info!("this machine has a network again, after {seconds} s");
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let outage = self.outage.as_ref().filter(|outage| !outage.is_told)?;
        Some(outage.since + OUTAGE)
    }

    /// The outage has lasted.
    pub(super) fn handle_timeout(&mut self) {
        if let Some(outage) = &mut self.outage {
            outage.is_told = true;
            let seconds = OUTAGE.as_secs();
            tracing::warn!(
                "this machine has had no network for {seconds} s: no server and no peer is reached"
            );
        }
    }

    /// Says what there is to say of a server.
    pub(super) fn say(&mut self, said: Option<Said>, handles: &Handles) {
        match said {
            Some(Said::Meeting {
                peer,
                connected,
                trouble,
            }) => {
                let peer = handles.name(peer).cloned();
                let event = peer.map(|peer| events::meeting(peer, connected, trouble.as_deref()));
                self.announce(event);
            }
            Some(Said::Event(event)) => self.announce(Some(event)),
            Some(Said::Trouble(text)) => self.log_rarely(&text),
            None => {}
        }
    }

    /// Logs an event, if there is one, and tells it to those who listen.
    pub(super) fn announce(&mut self, event: Option<(EventKind, String)>) {
        let Some((kind, message)) = event else { return };
        match kind {
            EventKind::Search { .. } | EventKind::OfferRefused { .. } => {
                self.log_rarely(&message);
            }
            _ if self.outage.is_some() => tracing::debug!("{message}"),
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

    /// Logs what may happen again and again.
    fn log_rarely(&mut self, text: &str) {
        if self.outage.is_some() {
            return tracing::debug!("{text}");
        }
        match self.repeats.note(text, clock::now()) {
            Some(0) => tracing::info!("{text}"),
            Some(times) => tracing::info!("{text} ({times} times more since this was said last)"),
            None => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_if_it_lasts() {
        let second = |count| Duration::from_secs(count);
        let start = clock::now();
        let address = |rank| OwnAddress {
            rank,
            ip: std::net::Ipv4Addr::new(192, 168, 1, 2).into(),
        };
        let there = [AddressRank::Internal, AddressRank::Network].map(address);
        let gone = [AddressRank::Internal, AddressRank::Tunnel].map(address);
        let mut announcer = Announcer::new(broadcast::channel(1).0);
        announcer.set_network(&there, start);
        assert_eq!(announcer.due(), None);
        announcer.set_network(&gone, start);
        announcer.set_network(&gone, start + second(30));
        assert_eq!(announcer.due(), Some(start + OUTAGE), "it has begun before");
        announcer.set_network(&there, start + second(60));
        assert_eq!(announcer.due(), None, "it was short");
        let later = start + second(600);
        announcer.set_network(&gone, later);
        assert_eq!(announcer.due(), Some(later + OUTAGE));
        announcer.handle_timeout();
        announcer.set_network(&gone, later + second(200));
        assert_eq!(announcer.due(), None, "it is told");
        announcer.set_network(&there, later + second(300));
        announcer.set_network(&gone, later + second(400));
        assert_eq!(announcer.due(), Some(later + second(400) + OUTAGE));
    }
}
