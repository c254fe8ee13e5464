//! Events that the controller could not take yet. Of each peer the newest of each kind is kept: an older state, path or stamp
//! says nothing any more, and none that counts is lost, however long the controller is busy.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use punch_engine::{EngineEvent, News, PeerHandle};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// At most so often it is logged that the controller is behind.
const WARNING: Duration = Duration::from_secs(60);

/// What an event is about: a newer one takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    State(PeerHandle),
    Path(PeerHandle),
    Stamps(PeerHandle),
    Worked(PeerHandle),
    Clock(PeerHandle),
    Refusal(PeerHandle),
    Search(PeerHandle),
    Endpoint(PeerHandle),
    Mtu(PeerHandle),
    Crowd(PeerHandle),
    Invitation(PeerHandle),
    /// What one network's NAT has, by the network's fingerprint.
    Capacity(u64),
    /// Of machines that are no peers the newest counts: all of them are in the status.
    Stranger,
    Network,
}

impl Subject {
    /// `None` for what is the driver's own business.
    fn of(event: &EngineEvent) -> Option<Self> {
        Some(match event {
            EngineEvent::State { peer, .. } => Self::State(*peer),
            EngineEvent::Roamed { peer, .. } => Self::Endpoint(*peer),
            EngineEvent::Mtu { peer, .. } => Self::Mtu(*peer),
            EngineEvent::Crowded(crowded) => Self::Crowd(crowded.peer),
            EngineEvent::Invited { peer } => Self::Invitation(*peer),
            EngineEvent::News(news) => match news {
                News::Selected { peer, .. } => Self::Path(*peer),
                News::Stamps { peer, .. } => Self::Stamps(*peer),
                News::Worked { peer, .. } => Self::Worked(*peer),
                News::Stale { peer, .. } => Self::Clock(*peer),
                News::Refused { peer, .. } => Self::Refusal(*peer),
                News::Searching { peer, .. } => Self::Search(*peer),
                News::Capacity { network, .. } => Self::Capacity(*network),
                News::Stranger { .. } => Self::Stranger,
                News::NetworkChanged => Self::Network,
                News::Mtu { .. } | News::Netcheck(_) => return None,
            },
            EngineEvent::Socket(_) | EngineEvent::Tcp(_) | EngineEvent::Pong(_) => return None,
        })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: BTreeMap<u64, (Subject, EngineEvent)>,
    order: HashMap<Subject, u64>,
    /// Events that have waited.
    count: u64,
    warned: Option<Instant>,
}

impl Backlog {
    /// Passes an event on, behind those that wait.
    pub(super) fn send(&mut self, event: EngineEvent, to: &Sender<EngineEvent>, now: Instant) {
        let Some(subject) = Subject::of(&event) else {
            return;
        };
        self.flush(to);
        let event = if self.waiting.is_empty() {
            match to.try_send(event) {
                Ok(()) => return,
                Err(TrySendError::Full(event) | TrySendError::Closed(event)) => event,
            }
        } else {
            event
        };
        self.warn(now);
        self.count += 1;
        if let Some(before) = self.order.insert(subject, self.count) {
            self.waiting.remove(&before);
        }
        self.waiting.insert(self.count, (subject, event));
    }

    /// Passes on what waits, as far as the controller takes it.
    pub(super) fn flush(&mut self, to: &Sender<EngineEvent>) {
        while let Some(first) = self.waiting.first_entry() {
            let Ok(permit) = to.try_reserve() else { return };
            let (subject, event) = first.remove();
            self.order.remove(&subject);
            permit.send(event);
        }
    }

    /// Passes on all that waits.
    pub(super) async fn finish(&mut self, to: &Sender<EngineEvent>) {
        while let Some((_, (_, event))) = self.waiting.pop_first() {
            if to.send(event).await.is_err() {
                return;
            }
        }
        self.order.clear();
    }

    fn warn(&mut self, now: Instant) {
        let lately = |at: Instant| now.saturating_duration_since(at) < WARNING;
        if !self.warned.is_some_and(lately) {
            self.warned = Some(now);
            tracing::warn!(
                "the controller is too slow: of each peer, only the newest event of each kind is kept"
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use punch_engine::{LinkState, PeerRefusal};
    use tokio::sync::mpsc;

    use super::*;

    fn stamps(peer: u32, seen: u64) -> EngineEvent {
        let (peer, sent) = (PeerHandle(peer), 7);
        EngineEvent::News(News::Stamps { peer, sent, seen })
    }

    fn state(peer: u32, state: LinkState) -> EngineEvent {
        let peer = PeerHandle(peer);
        EngineEvent::State {
            peer,
            state,
            met_over: None,
        }
    }

    /// The controller is stalled for all of a flood, and takes one event then and when.
    #[test]
    fn the_newest_stamps_and_state_of_each_peer_outlast_a_full_queue() {
        let (sender, mut receiver) = mpsc::channel(16);
        let (mut backlog, now) = (Backlog::default(), punch_platform::clock::now());
        for round in 0..10_000 {
            for peer in 0..4 {
                backlog.send(stamps(peer, round), &sender, now);
                backlog.send(state(peer, LinkState::Connecting), &sender, now);
            }
        }
        for peer in 0..4 {
            backlog.send(state(peer, LinkState::Connected), &sender, now);
            let refusal = PeerRefusal::Version;
            let peer = PeerHandle(peer);
            let refused = EngineEvent::News(News::Refused { peer, refusal });
            backlog.send(refused, &sender, now);
        }
        backlog.send(EngineEvent::News(News::NetworkChanged), &sender, now);
        assert_eq!(backlog.waiting.len(), 4 * 3 + 1);
        assert_eq!(backlog.order.len(), backlog.waiting.len());

        let mut last = HashMap::new();
        let mut taken = 0;
        while let Ok(event) = receiver.try_recv() {
            taken += 1;
            last.insert(Subject::of(&event).unwrap(), event);
            backlog.flush(&sender);
        }
        assert_eq!(taken, 16 + 13);
        for peer in 0..4 {
            let handle = PeerHandle(peer);
            assert_eq!(last[&Subject::Stamps(handle)], stamps(peer, 9999));
            let connected = state(peer, LinkState::Connected);
            assert_eq!(last[&Subject::State(handle)], connected);
        }
        assert!(last.contains_key(&Subject::Network));
        assert!(backlog.waiting.is_empty() && backlog.order.is_empty());
    }

    #[test]
    fn events_keep_their_order_and_none_overtakes_those_that_wait() {
        let (sender, mut receiver) = mpsc::channel(2);
        let (mut backlog, now) = (Backlog::default(), punch_platform::clock::now());
        for peer in 0..4 {
            backlog.send(state(peer, LinkState::Waiting), &sender, now);
        }
        assert_eq!(receiver.try_recv(), Ok(state(0, LinkState::Waiting)));
        // There is room for one, which has waited for longer.
        backlog.send(state(4, LinkState::Waiting), &sender, now);
        backlog.send(state(3, LinkState::Down), &sender, now);
        let mut order = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            order.push(event);
            backlog.flush(&sender);
        }
        let waiting = |peer| state(peer, LinkState::Waiting);
        let down = state(3, LinkState::Down);
        assert_eq!(order, [waiting(1), waiting(2), waiting(4), down]);
    }
}
