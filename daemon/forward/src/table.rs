//! The streams by number and by 5-tuple, each peer's share of them, and what is counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use punch_api::{ForwardKey, Protocol};
use punch_packet::{Flow, PeerHandle};

use crate::counts::{Crowded, ForwardCounts, Trouble};
use crate::order::StreamId;
use crate::rules::Rules;
use crate::shares::{Limits, Room, Shares, Use};
use crate::tcp::{BUFFER, Connection, SMALL_BUFFER};
use crate::udp::UdpFlow;

/// TCP connections at once.
pub const MAX_STREAMS: usize = 16_384;
/// TCP connections at once of one peer: one alone leaves room for others.
pub const MAX_STREAMS_PER_PEER: usize = 12_288;
/// The first so many connections of a peer have large buffers, as long as there are fewer than [`LARGE_STREAMS`] of all peers;
/// so the memory of connections that all stand still is bounded, and idle ones may be many.
pub const LARGE_STREAMS_PER_PEER: usize = 1024;
/// Connections beyond these have small buffers.
pub const LARGE_STREAMS: usize = 3072;
/// UDP flows at once.
pub const MAX_FLOWS: usize = 4096;
/// UDP flows at once of one peer.
pub const MAX_FLOWS_PER_PEER: usize = 3072;
/// How long a TCP connection must have been idle to be ended when a full table makes room.
const IDLE_TCP: Duration = Duration::from_secs(600);
/// The same for a UDP flow (RFC 4787 REQ-5: NATs keep a mapping for at least two minutes).
const IDLE_UDP: Duration = Duration::from_secs(120);

/// A stream, what it is for, and when it was used last.
pub(crate) struct Stream {
    pub(crate) flow: Flow,
    pub(crate) peer: PeerHandle,
    pub(crate) forward: ForwardKey,
    pub(crate) kind: Kind,
    used: Use,
    /// Both directions are closed; it does not count as open.
    lingers: bool,
}

impl Stream {
    pub(crate) fn last_used(&self) -> Instant {
        self.used.last()
    }

    /// Whether both directions are closed and only late packets are still awaited, and whether the target has not taken
    /// everything yet.
    pub(crate) fn rest(&self) -> (bool, bool) {
        match &self.kind {
            Kind::Tcp { connection, .. } => (connection.lingers(), connection.is_unread()),
            Kind::Opening { .. } | Kind::Udp { .. } => (false, false),
        }
    }
}

/// What a stream is, and how far it has come.
pub(crate) enum Kind {
    /// A TCP connection whose target is being connected; the client's SYN waits here.
    Opening { syn: Vec<u8>, buffer: usize },
    /// A TCP connection.
    Tcp {
        connection: Box<Connection>,
        timer: Option<Instant>,
    },
    /// A UDP flow.
    Udp { flow: UdpFlow, timer: Instant },
}

impl Kind {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Opening { .. } | Self::Tcp { .. } => Protocol::Tcp,
            Self::Udp { .. } => Protocol::Udp,
        }
    }
}

/// See the module.
pub(crate) struct Table {
    next: u64,
    by_flow: HashMap<(PeerHandle, Flow), StreamId>,
    streams: HashMap<StreamId, Stream>,
    tcp: Shares,
    udp: Shares,
    forwards: HashMap<ForwardKey, ForwardCounts>,
}

impl Table {
    pub(crate) fn new() -> Self {
        let limits = |all, per_peer, idle| {
            Shares::new(Limits {
                all,
                per_peer,
                idle,
            })
        };
        Self {
            next: 0,
            by_flow: HashMap::new(),
            streams: HashMap::new(),
            tcp: limits(MAX_STREAMS, MAX_STREAMS_PER_PEER, IDLE_TCP),
            udp: limits(MAX_FLOWS, MAX_FLOWS_PER_PEER, IDLE_UDP),
            forwards: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn find(&self, peer: PeerHandle, flow: Flow) -> Option<StreamId> {
        self.by_flow.get(&(peer, flow)).copied()
    }

    pub(crate) fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.streams.iter().map(|(id, stream)| (*id, stream))
    }

    pub(crate) fn shares(&mut self, protocol: Protocol) -> &mut Shares {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        }
    }

    pub(crate) fn insert(
        &mut self,
        peer: PeerHandle,
        flow: Flow,
        forward: ForwardKey,
        kind: Kind,
        now: Instant,
    ) -> StreamId {
        let id = StreamId(self.next);
        self.next += 1;
        let used = self.shares(kind.protocol()).insert(peer, id, now);
        let counts = self.forwards.entry(forward).or_default();
        counts.open += 1;
        counts.total += 1;
        self.by_flow.insert((peer, flow), id);
        let stream = Stream {
            flow,
            peer,
            forward,
            kind,
            used,
            lingers: false,
        };
        self.streams.insert(id, stream);
        id
    }

    pub(crate) fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        // A new connection may have taken the flow over.
        let place = (stream.peer, stream.flow);
        if self.by_flow.get(&place) == Some(&id) {
            self.by_flow.remove(&place);
        }
        self.shares(stream.kind.protocol())
            .remove(stream.peer, id, stream.used);
        if !stream.lingers {
            self.counts_mut(stream.forward).open -= 1;
        }
        Some(stream)
    }

    /// The stream is used.
    pub(crate) fn touch(&mut self, id: StreamId, now: Instant) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let shares = match stream.kind.protocol() {
                Protocol::Tcp => &mut self.tcp,
                Protocol::Udp => &mut self.udp,
            };
            shares.touch(stream.peer, id, &mut stream.used, now);
        }
    }

    /// Looks whether a TCP connection has come to its end, or has begun anew.
    pub(crate) fn note_state(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (lingers, unread) = stream.rest();
        if stream.lingers || lingers {
            self.tcp.set_over(stream.peer, id, lingers && !unread);
        }
        if std::mem::replace(&mut stream.lingers, lingers) != lingers {
            let open = &mut self.forwards.entry(stream.forward).or_default().open;
            *open = if lingers { *open - 1 } else { *open + 1 };
        }
    }

    /// Where one more stream of this peer fits.
    pub(crate) fn room(&self, peer: PeerHandle, protocol: Protocol, now: Instant) -> Room {
        let last_use = |id| Some(self.streams.get(&id)?.last_used());
        match protocol {
            Protocol::Tcp => self.tcp.room(peer, now, last_use),
            Protocol::Udp => self.udp.room(peer, now, last_use),
        }
    }

    /// Bytes that a new TCP connection of this peer buffers each way.
    pub(crate) fn buffer(&self, peer: PeerHandle) -> usize {
        let large =
            self.tcp.of_peer(peer) < LARGE_STREAMS_PER_PEER && self.tcp.all() < LARGE_STREAMS;
        if large { BUFFER } else { SMALL_BUFFER }
    }

    // --- counts ---

    pub(crate) fn counts(&self, forward: ForwardKey) -> Option<&ForwardCounts> {
        self.forwards.get(&forward)
    }

    fn counts_mut(&mut self, forward: ForwardKey) -> &mut ForwardCounts {
        self.forwards.entry(forward).or_default()
    }

    /// A stream was failed by its target, for the `first` time or again.
    pub(crate) fn note_trouble(
        &mut self,
        forward: ForwardKey,
        what: String,
        first: bool,
        now: Instant,
    ) {
        let counts = self.counts_mut(forward);
        counts.failed += u64::from(first);
        counts.trouble = Some(Trouble { at: now, what });
    }

    /// The target has answered.
    pub(crate) fn note_success(&mut self, forward: ForwardKey) {
        self.counts_mut(forward).trouble = None;
    }

    /// A new stream was refused; returns what is to be told.
    pub(crate) fn note_refused(
        &mut self,
        peer: PeerHandle,
        forward: ForwardKey,
        now: Instant,
    ) -> Option<Crowded> {
        self.counts_mut(forward).refused += 1;
        self.shares(forward.protocol).crowded(peer, false, now)
    }

    /// Forgets what was counted for forwards that are gone, and peers that are.
    pub(crate) fn prune(&mut self, rules: &Rules, is_peer: impl Fn(PeerHandle) -> bool) {
        self.forwards
            .retain(|key, counts| counts.open > 0 || rules.get(*key).is_some());
        self.tcp.retain_peers(&is_peer);
        self.udp.retain_peers(&is_peer);
    }
}
