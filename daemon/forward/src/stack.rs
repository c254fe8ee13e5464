//! All forwarded streams and flows, found by their 5-tuple.
//!
//! The owner feeds packets with [`Stack::handle_packet`], then calls [`Stack::flush`] once per batch; it carries out the
//! [`Order`]s and reports with [`Stack::handle_target`]. Nothing is pushed at the owner: it reads a stream when it has room
//! and writes until there is none, so that a slow target slows its client and nobody else.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_api::{ForwardKey, Protocol, Target};
use punch_packet::{Flow, Packet, PeerHandle, Transport, Unreachable, tcp_reset, unreachable};

use crate::order::{Order, Refused, StreamId, TargetEvent};
use crate::rules::{Rule, Rules};
use crate::tcp::Connection;
use crate::udp::{IDLE, MAX_FLOWS, MAX_FLOWS_PER_PEER, UdpFlow, refusal};

/// TCP connections at once. Worst case memory: this times twice [`crate::BUFFER`], when all of them are full both ways.
pub const MAX_STREAMS: usize = 4096;
/// TCP connections at once of one peer.
pub const MAX_STREAMS_PER_PEER: usize = 2048;
/// How long a connection must have been idle to be ended when a full table makes room.
const EVICTION_AGE: Duration = Duration::from_secs(600);

/// A stream, what it is for, and when it was used last.
struct Stream {
    flow: Flow,
    peer: PeerHandle,
    forward: ForwardKey,
    last_used: Instant,
    kind: Kind,
}

impl Stream {
    /// Whether both directions are closed, and only late packets are still awaited.
    fn lingers(&self) -> bool {
        matches!(&self.kind, Kind::Tcp { connection, .. } if connection.lingers())
    }

    /// Whether the target has not taken everything yet.
    fn is_unread(&self) -> bool {
        matches!(&self.kind, Kind::Tcp { connection, .. } if connection.is_unread())
    }
}

/// What a stream is, and how far it has come.
enum Kind {
    /// A TCP connection whose target is being connected; the client's SYN waits here.
    Opening { syn: Vec<u8> },
    /// A TCP connection.
    Tcp {
        connection: Box<Connection>,
        timer: Option<Instant>,
    },
    /// A UDP flow.
    Udp { flow: UdpFlow, timer: Instant },
}

/// All forwarded streams and flows.
pub struct Stack {
    mtu: usize,
    seed: u64,
    next: u64,
    by_flow: HashMap<(PeerHandle, Flow), StreamId>,
    streams: HashMap<StreamId, Stream>,
    timers: BTreeSet<(Instant, StreamId)>,
    dirty: BTreeSet<StreamId>,
    totals: HashMap<ForwardKey, u64>,
    packets: VecDeque<(PeerHandle, Vec<u8>)>,
    orders: VecDeque<Order>,
}

impl Stack {
    /// An empty stack for packets of up to `mtu` bytes. `seed` must be secret and random: initial sequence numbers come
    /// from it (RFC 6528).
    pub fn new(mtu: usize, seed: u64) -> Self {
        Self {
            mtu,
            seed,
            next: 0,
            by_flow: HashMap::new(),
            streams: HashMap::new(),
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            totals: HashMap::new(),
            packets: VecDeque::new(),
            orders: VecDeque::new(),
        }
    }

    /// Takes a whole packet from `peer` that the inbound decision has given to a forward.
    ///
    /// # Errors
    /// [`Refused`]: the caller answers the client.
    pub fn handle_packet(
        &mut self,
        peer: PeerHandle,
        packet: &Packet<'_>,
        rules: &Rules,
        now: Instant,
    ) -> Result<(), Refused> {
        let flow = packet.flow().ok_or(Refused::NoForward)?;
        match packet.transport() {
            Transport::Tcp { flags, .. } => {
                if let Some(id) = self.by_flow.get(&(peer, flow)).copied() {
                    // A client may reuse its port while the old connection lingers (RFC 9293 §3.6.1).
                    if !(flags.opens() && self.lingers(id)) {
                        return self.feed(id, packet, now);
                    }
                    // What its target has not read yet stays with the old one.
                    if !self.is_unread(id) {
                        self.close(id);
                    }
                }
                let rule = rules
                    .find(Protocol::Tcp, flow.destination.port(), peer)
                    .ok_or(Refused::NoForward)?;
                if !flags.opens() {
                    return Err(Refused::NoConnection);
                }
                if !packet.checksum_is_right() {
                    return Err(Refused::Malformed);
                }
                let (forward, target) = (rule.key, target_of(rule, flow)?);
                self.make_room(peer, Protocol::Tcp, now)?;
                let kind = Kind::Opening {
                    syn: packet.bytes().to_vec(),
                };
                self.open(peer, flow, forward, target, kind, now);
                Ok(())
            }
            Transport::Udp { .. } => {
                let rule = rules
                    .find(Protocol::Udp, flow.destination.port(), peer)
                    .ok_or(Refused::NoForward)?;
                if !packet.checksum_is_right() {
                    return Err(Refused::Malformed);
                }
                let payload = packet.udp_payload().ok_or(Refused::Malformed)?;
                let id = match self.by_flow.get(&(peer, flow)).copied() {
                    Some(id) => id,
                    None => {
                        let (forward, target) = (rule.key, target_of(rule, flow)?);
                        self.make_room(peer, Protocol::Udp, now)?;
                        let first_id =
                            self.seed as u32 ^ (self.next as u32).wrapping_mul(0x9E37_79B9);
                        let kind = Kind::Udp {
                            flow: UdpFlow::new(now, first_id),
                            timer: now + IDLE,
                        };
                        self.open(peer, flow, forward, target, kind, now)
                    }
                };
                self.touch_udp(id, now);
                let payload = Bytes::copy_from_slice(payload);
                self.orders.push_back(Order::Datagram(id, payload));
                Ok(())
            }
            _ => Err(Refused::NoForward),
        }
    }

    /// Lets all streams work that got packets or bytes since the last call.
    pub fn flush(&mut self, now: Instant) {
        while let Some(id) = self.dirty.pop_first() {
            self.turn(id, now);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match self.streams.get_mut(&id).map(|stream| &mut stream.kind) {
                Some(Kind::Tcp { timer, .. }) => {
                    *timer = None;
                    self.turn(id, now);
                }
                Some(Kind::Udp { flow, timer }) => {
                    let expires = flow.expires();
                    if expires > now {
                        *timer = expires;
                        self.timers.insert((expires, id));
                    } else {
                        self.close(id);
                    }
                }
                Some(Kind::Opening { .. }) | None => {}
            }
        }
        self.flush(now);
    }

    /// Something happened at a stream's target.
    pub fn handle_target(&mut self, id: StreamId, event: TargetEvent, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (flow, peer) = (stream.flow, stream.peer);
        match (&mut stream.kind, event) {
            (Kind::Opening { syn }, TargetEvent::Connected) => {
                self.seed = next_seed(self.seed);
                let mut connection = Box::new(Connection::new(flow, self.mtu, self.seed, now));
                connection.push(syn);
                stream.kind = Kind::Tcp {
                    connection,
                    timer: None,
                };
                self.dirty.insert(id);
            }
            (Kind::Opening { syn }, event) => {
                let answer = Packet::parse(syn).ok().and_then(|packet| match event {
                    TargetEvent::Unreachable => {
                        unreachable(&packet, flow.destination.ip(), Unreachable::Address)
                    }
                    _ => tcp_reset(&packet),
                });
                self.packets.extend(answer.map(|answer| (peer, answer)));
                self.close(id);
            }
            (Kind::Tcp { connection, .. }, TargetEvent::Finished) => {
                connection.finish();
                self.dirty.insert(id);
            }
            (Kind::Tcp { .. } | Kind::Udp { .. }, TargetEvent::Connected)
            | (Kind::Udp { .. }, TargetEvent::Finished) => {}
            (Kind::Tcp { connection, .. }, _) => {
                connection.abort_when_sent(now);
                self.dirty.insert(id);
            }
            (Kind::Udp { .. }, TargetEvent::Refused | TargetEvent::Unreachable) => {
                let reason = match event {
                    TargetEvent::Refused => Unreachable::Port,
                    _ => Unreachable::Address,
                };
                self.packets
                    .extend(refusal(flow, reason).map(|packet| (peer, packet)));
                if event == TargetEvent::Unreachable {
                    self.close(id);
                }
            }
            (Kind::Udp { .. }, TargetEvent::Reset) => self.close(id),
        }
        self.flush(now);
    }

    /// Takes up to `max` bytes that the client sent on a TCP stream.
    pub fn read(&mut self, id: StreamId, max: usize) -> Bytes {
        match self.streams.get_mut(&id).map(|stream| &mut stream.kind) {
            Some(Kind::Tcp { connection, .. }) => {
                let bytes = connection.read(max);
                // The window may open, and the end of the stream come into sight.
                self.dirty.insert(id);
                bytes
            }
            _ => Bytes::new(),
        }
    }

    /// Gives the target's bytes to the client of a TCP stream; returns how many were taken.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> usize {
        match self.streams.get_mut(&id).map(|stream| &mut stream.kind) {
            Some(Kind::Tcp { connection, .. }) => {
                self.dirty.insert(id);
                connection.write(bytes)
            }
            // Nobody is left to read it.
            _ => bytes.len(),
        }
    }

    /// Gives the target's datagram to the client of a UDP flow.
    pub fn write_datagram(&mut self, id: StreamId, payload: &[u8], now: Instant) {
        let mtu = self.mtu;
        if let Some(stream) = self.streams.get_mut(&id)
            && let Kind::Udp { flow, .. } = &mut stream.kind
        {
            let packets = flow.reply(stream.flow, payload, mtu, now);
            let peer = stream.peer;
            self.packets
                .extend(packets.into_iter().map(|packet| (peer, packet)));
        }
    }

    /// Ends all streams that `allowed` no longer allows: a rule is gone, a peer is gone.
    pub fn retain(&mut self, allowed: impl Fn(PeerHandle, ForwardKey, Flow) -> bool, now: Instant) {
        let mut ended: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, stream)| !allowed(stream.peer, stream.forward, stream.flow))
            .map(|(id, _)| *id)
            .collect();
        // Not in the table's order, which differs from run to run.
        ended.sort();
        for id in ended {
            self.end(id, now);
        }
    }

    /// The next packet for a client.
    pub fn poll_packet(&mut self) -> Option<(PeerHandle, Vec<u8>)> {
        self.packets.pop_front()
    }

    /// The next order.
    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many streams of a forward are open, and how many were opened in all.
    pub fn counts(&self, forward: ForwardKey) -> (u64, u64) {
        let open = self
            .streams
            .values()
            .filter(|stream| stream.forward == forward && !stream.lingers())
            .count();
        let total = self.totals.get(&forward).copied().unwrap_or(0);
        (open as u64, total)
    }

    fn open(
        &mut self,
        peer: PeerHandle,
        flow: Flow,
        forward: ForwardKey,
        target: Target,
        kind: Kind,
        now: Instant,
    ) -> StreamId {
        let id = StreamId(self.next);
        self.next += 1;
        let protocol = forward.protocol;
        if let Kind::Udp { flow, .. } = &kind {
            self.timers.insert((flow.expires(), id));
        }
        self.by_flow.insert((peer, flow), id);
        self.streams.insert(
            id,
            Stream {
                flow,
                peer,
                forward,
                last_used: now,
                kind,
            },
        );
        *self.totals.entry(forward).or_default() += 1;
        self.orders.push_back(Order::Connect {
            stream: id,
            protocol,
            target,
            peer,
            forward,
        });
        id
    }

    fn feed(&mut self, id: StreamId, packet: &Packet<'_>, now: Instant) -> Result<(), Refused> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Err(Refused::NoConnection);
        };
        stream.last_used = now;
        match &mut stream.kind {
            Kind::Tcp { connection, .. } => {
                if !connection.push(packet.bytes()) {
                    return Err(Refused::Full);
                }
                self.dirty.insert(id);
            }
            Kind::Opening { .. } => {
                // A repeated SYN waits like the first one; a reset means that the client no longer wants to.
                if matches!(packet.transport(), Transport::Tcp { flags, .. } if flags.rst()) {
                    self.orders.push_back(Order::Reset(id));
                    self.forget(id);
                }
            }
            Kind::Udp { .. } => {}
        }
        Ok(())
    }

    fn touch_udp(&mut self, id: StreamId, now: Instant) {
        if let Some(stream) = self.streams.get_mut(&id)
            && let Kind::Udp { flow, .. } = &mut stream.kind
        {
            stream.last_used = now;
            flow.touch(now);
        }
    }

    fn turn(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Kind::Tcp { connection, timer } = &mut stream.kind else {
            return;
        };
        let mut out = Vec::new();
        let turn = connection.turn(now, &mut out);
        let peer = stream.peer;
        self.packets
            .extend(out.into_iter().map(|packet| (peer, packet)));
        let next = connection.next_turn(now);
        if next != *timer {
            if let Some(at) = timer.take() {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = next {
                self.timers.insert((at, id));
            }
            *timer = next;
        }
        if turn.reset {
            self.orders.push_back(Order::Reset(id));
            self.forget(id);
            return;
        }
        if turn.readable {
            self.orders.push_back(Order::Readable(id));
        }
        if turn.writable {
            self.orders.push_back(Order::Writable(id));
        }
        if turn.finished {
            self.orders.push_back(Order::Finish(id));
        }
        if turn.over && !self.lingers(id) {
            self.close(id);
        }
    }

    fn lingers(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(Stream::lingers)
    }

    fn is_unread(&self, id: StreamId) -> bool {
        matches!(
            self.streams.get(&id).map(|stream| &stream.kind),
            Some(Kind::Tcp { connection, .. }) if connection.is_unread()
        )
    }

    /// Makes sure that one more stream of this peer fits, if need be by ending one.
    fn make_room(
        &mut self,
        peer: PeerHandle,
        protocol: Protocol,
        now: Instant,
    ) -> Result<(), Refused> {
        let (most, most_per_peer) = match protocol {
            Protocol::Tcp => (MAX_STREAMS, MAX_STREAMS_PER_PEER),
            Protocol::Udp => (MAX_FLOWS, MAX_FLOWS_PER_PEER),
        };
        // Only a table that may be full is worth counting.
        if self.streams.len() < most_per_peer {
            return Ok(());
        }
        let same = |stream: &&Stream| stream.forward.protocol == protocol;
        let all = self.streams.values().filter(same).count();
        let mine = |stream: &&Stream| same(stream) && stream.peer == peer;
        let of_peer = self.streams.values().filter(mine).count();
        if all < most && of_peer < most_per_peer {
            return Ok(());
        }
        let oldest = self
            .streams
            .iter()
            .filter(|(_, stream)| same(stream) && (of_peer < most_per_peer || stream.peer == peer))
            .min_by_key(|(id, stream)| (stream.last_used, **id))
            .map(|(id, stream)| (*id, stream.last_used));
        // A connection that is over and only waits for late packets goes first; it holds nothing that anybody misses.
        let lingering = self
            .streams
            .iter()
            .filter(|(_, stream)| same(stream) && (of_peer < most_per_peer || stream.peer == peer))
            .filter(|(_, stream)| stream.lingers() && !stream.is_unread())
            .min_by_key(|(id, stream)| (stream.last_used, **id))
            .map(|(id, _)| *id);
        if let Some(id) = lingering {
            self.close(id);
            return Ok(());
        }
        match oldest {
            Some((id, used)) if now.saturating_duration_since(used) >= EVICTION_AGE => {
                self.end(id, now);
                Ok(())
            }
            _ => Err(Refused::Full),
        }
    }

    /// Ends a stream by resetting both of its ends.
    fn end(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let peer = stream.peer;
        let mut out = Vec::new();
        match &mut stream.kind {
            Kind::Tcp { connection, .. } => {
                connection.abort();
                connection.turn(now, &mut out);
            }
            Kind::Opening { syn } => {
                out.extend(Packet::parse(syn).ok().and_then(|syn| tcp_reset(&syn)));
            }
            Kind::Udp { .. } => {}
        }
        self.packets
            .extend(out.into_iter().map(|packet| (peer, packet)));
        self.orders.push_back(Order::Reset(id));
        self.forget(id);
    }

    fn close(&mut self, id: StreamId) {
        self.orders.push_back(Order::Close(id));
        self.forget(id);
    }

    fn forget(&mut self, id: StreamId) {
        self.dirty.remove(&id);
        if let Some(stream) = self.streams.remove(&id) {
            // A new connection may have taken the flow over.
            let place = (stream.peer, stream.flow);
            if self.by_flow.get(&place) == Some(&id) {
                self.by_flow.remove(&place);
            }
            match stream.kind {
                Kind::Tcp {
                    timer: Some(at), ..
                } => {
                    self.timers.remove(&(at, id));
                }
                Kind::Udp { timer, .. } => {
                    self.timers.remove(&(timer, id));
                }
                _ => {}
            }
        }
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

fn target_of(rule: &Rule, flow: Flow) -> Result<Target, Refused> {
    let offset = flow.destination.port() - rule.key.ports.first();
    rule.target.offset(offset).ok_or(Refused::NoForward)
}

/// SplitMix64: every connection gets a seed of its own from the secret one.
fn next_seed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
