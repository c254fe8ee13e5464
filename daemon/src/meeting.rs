//! The meeting place of this machine's guests: the hub and the relay of punch-signal, inside the tunnel, for peers that were allowed.
//!
//! A guest's stream comes as that of a forward does, so no port of this machine is open, and who is at its other end is known: it can log
//! in as that peer alone. Whoever is not allowed is not there, so nothing leads to it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use punch_api::{MEETING_PORT, PeerId, RelayedView};
use punch_engine::PeerHandle;
use punch_platform::clock;
use punch_signal::hub::relay::RelayLimits;
use punch_signal::hub::{Limits, WatchLimits};
use punch_signal::serve::{Counts, Guest, Host};
use tokio::io::DuplexStream;

use crate::tasks::Spawner;

/// Streams of one guest at once: its connection, one that follows it, and what a restart leaves behind.
const STREAMS: usize = 4;
/// Streams of all guests.
const STREAMS_IN_ALL: usize = 512;
/// The hub sees the time so often while anybody is there.
const TICK: Duration = Duration::from_secs(1);

/// A peer that may meet others here.
struct Known {
    id: PeerId,
    counts: Arc<Counts>,
    streams: Arc<AtomicUsize>,
}

struct Inner {
    host: Host,
    guests: Mutex<BTreeMap<PeerHandle, Known>>,
    streams: Arc<AtomicUsize>,
    /// Whether a task shows the hub the time.
    ticks: AtomicBool,
    spawner: Spawner,
}

/// See the module; a copy of it is the same place.
#[derive(Clone)]
pub(crate) struct MeetingPlace(Arc<Inner>);

/// One of a guest's streams, until it is dropped.
pub(crate) struct Visit {
    guest: Guest,
    counted: [Arc<AtomicUsize>; 2],
}

impl Drop for Visit {
    fn drop(&mut self) {
        for count in &self.counted {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What bounds the place: as on a server, for fewer.
fn limits(own: &PeerId, relay: bool) -> Limits {
    Limits {
        connections: STREAMS_IN_ALL,
        unproven_per_address: STREAMS,
        per_address: STREAMS,
        // The tunnel knows whether a guest is there; an idle one sends nothing.
        silence: Duration::from_secs(365 * 86_400),
        source_rate: 50,
        source_burst: 200,
        connection_rate: 1,
        connection_burst: 16,
        watches: WatchLimits {
            in_all: 65_536,
            ..WatchLimits::default()
        },
        relay: relay.then(|| RelayLimits {
            queue_in_all: 16 * 1024 * 1024,
            ..RelayLimits::default()
        }),
        name: Some(format!("[{}]:{MEETING_PORT}", own.overlay_ipv6())),
        ..Limits::default()
    }
}

impl MeetingPlace {
    /// A place without guests; it passes on packets only where `relay` says so.
    pub(crate) fn new(own: &PeerId, relay: bool, spawner: Spawner) -> Self {
        Self(Arc::new(Inner {
            host: Host::new(limits(own, relay)),
            guests: Mutex::default(),
            streams: Arc::default(),
            ticks: AtomicBool::new(false),
            spawner,
        }))
    }

    fn guests(&self) -> MutexGuard<'_, BTreeMap<PeerHandle, Known>> {
        let guests = self.0.guests.lock();
        guests.unwrap_or_else(PoisonError::into_inner)
    }

    /// The peers that may meet here are now these, if they are others than before.
    pub(crate) fn set_guests(&self, now: Option<BTreeMap<PeerHandle, PeerId>>) {
        let Some(now) = now else { return };
        let mut guests = self.guests();
        guests.retain(|handle, known| now.get(handle) == Some(&known.id));
        for (handle, id) in now {
            guests.entry(handle).or_insert_with(|| Known {
                id,
                counts: Arc::default(),
                streams: Arc::default(),
            });
        }
    }

    /// A peer has opened a stream to the place; `None` if it may not, or has too many.
    pub(crate) fn enter(&self, peer: PeerHandle) -> Option<Visit> {
        let guests = self.guests();
        let known = guests.get(&peer)?;
        let counted = [known.streams.clone(), self.0.streams.clone()];
        let limits = [STREAMS, STREAMS_IN_ALL];
        let is_full =
            |(count, limit): (&Arc<AtomicUsize>, usize)| count.load(Ordering::Relaxed) >= limit;
        if counted.iter().zip(limits).any(is_full) {
            return None;
        }
        for count in &counted {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let guest = Guest {
            id: known.id,
            // Each peer is a source of its own.
            source: Ipv4Addr::from_bits(peer.0).into(),
            counts: known.counts.clone(),
        };
        Some(Visit { guest, counted })
    }

    /// Serves a guest over this stream; what becomes of it lives until the stream ends.
    pub(crate) async fn serve(&self, visit: &Visit, stream: DuplexStream) {
        if !self.0.ticks.swap(true, Ordering::AcqRel) {
            let place = self.clone();
            self.0.spawner.spawn("meeting", place.tick()).detach();
        }
        self.0.host.serve(stream, visit.guest.clone()).await;
    }

    /// Shows the hub the time until nobody is there any more.
    async fn tick(self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            let is_empty = !self.0.host.tick(clock::now());
            if is_empty && self.0.streams.load(Ordering::Relaxed) == 0 {
                self.0.ticks.store(false, Ordering::Release);
                // Whoever came just now found that there are ticks.
                let came = self.0.streams.load(Ordering::Relaxed) > 0;
                if !came || self.0.ticks.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        }
    }

    /// What was relayed for a peer, if it may meet others here.
    pub(crate) fn relayed(&self, peer: PeerHandle) -> Option<RelayedView> {
        let guests = self.guests();
        let known = guests.get(&peer)?;
        Some(RelayedView {
            present: known.streams.load(Ordering::Relaxed) > 0,
            from_bytes: known.counts.from(),
            to_bytes: known.counts.to(),
            refused_packets: known.counts.refused(),
        })
    }
}
