//! All forwarded streams and flows, found by their 5-tuple.
//!
//! The owner feeds packets with [`Stack::handle_packet`], then calls [`Stack::flush`] once per batch; it carries out the
//! [`Order`]s and reports with [`Stack::handle_target`]. Nothing is pushed at the owner: it reads a stream when it has room
//! and writes until there is none, so that a slow target slows its client and nobody else.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use punch_api::{ForwardKey, Protocol, Target};
use punch_packet::{Flow, Packet, PeerHandle, Transport, Unreachable, tcp_reset, unreachable};

use crate::counts::{Crowded, ForwardCounts};
use crate::idle::Presence;
use crate::order::{Order, Refused, StreamId, TargetEvent};
use crate::rules::{Rule, Rules, meeting_target};
use crate::shares::Room;
use crate::table::{Kind, Stream, Table};
use crate::tcp::{BUFFER, Connection, MEETING_BUFFER};
use crate::udp::{IDLE, UdpFlow, refusal, reply};
use crate::unreachable::Unreachables;

/// All forwarded streams and flows.
pub struct Stack {
    mtu: usize,
    seed: u64,
    table: Table,
    timers: BTreeSet<(Instant, StreamId)>,
    dirty: BTreeSet<StreamId>,
    unreachable: Unreachables,
    crowded: VecDeque<Crowded>,
    packets: VecDeque<(PeerHandle, Vec<u8>)>,
    orders: VecDeque<Order>,
}

impl Stack {
    /// An empty stack with TCP segments of up to `mtu` bytes, and UDP datagrams as long as they are: whoever sends them knows what fits
    /// on the way, and may cut both. `seed` must be secret and random: initial sequence numbers come
    /// from it (RFC 6528).
    pub fn new(mtu: usize, seed: u64) -> Self {
        Self {
            mtu,
            seed,
            table: Table::new(),
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            unreachable: Unreachables::default(),
            crowded: VecDeque::new(),
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
                if let Some(id) = self.table.find(peer, flow) {
                    // A client may reuse its port while the old connection lingers (RFC 9293 §3.6.1).
                    let old = flags.opens().then(|| self.table.get(id)).flatten();
                    let (lingers, unread) = old.map_or((false, false), Stream::rest);
                    if !lingers {
                        return self.feed(id, packet, now);
                    }
                    // What its target has not read yet stays with the old one.
                    if !unread {
                        self.close(id);
                    }
                }
                let rule = rules
                    .find(Protocol::Tcp, flow.destination.port(), peer)
                    .ok_or(Refused::NoForward)?;
                if !flags.opens() {
                    return Err(Refused::NoConnection);
                }
                let target = self.admit(peer, packet, rule, flow, now)?;
                let buffer = self.table.buffer(peer);
                let buffer = match rule.target == meeting_target() {
                    true => buffer.min(MEETING_BUFFER),
                    false => buffer,
                };
                let kind = Kind::Opening {
                    syn: packet.bytes().to_vec(),
                    buffer,
                };
                self.open(peer, flow, rule.key, (target, buffer), kind, now);
                Ok(())
            }
            Transport::Udp { .. } => {
                if !packet.checksum_is_right() {
                    return Err(Refused::Malformed);
                }
                let payload = packet.udp_payload().ok_or(Refused::Malformed)?;
                let id = match self.table.find(peer, flow) {
                    Some(id) => id,
                    None => {
                        let rule = rules
                            .find(Protocol::Udp, flow.destination.port(), peer)
                            .ok_or(Refused::NoForward)?;
                        let target = self.admit(peer, packet, rule, flow, now)?;
                        let kind = Kind::Udp {
                            flow: UdpFlow::default(),
                            timer: now + IDLE,
                        };
                        self.open(peer, flow, rule.key, (target, BUFFER), kind, now)
                    }
                };
                self.table.touch(id, now);
                let payload = Bytes::copy_from_slice(payload);
                self.orders.push_back(Order::Datagram(id, payload));
                Ok(())
            }
            _ => Err(Refused::NoForward),
        }
    }

    /// Whether the first packet of a stream may open it, and where it leads.
    fn admit(
        &mut self,
        peer: PeerHandle,
        packet: &Packet<'_>,
        rule: &Rule,
        flow: Flow,
        now: Instant,
    ) -> Result<Target, Refused> {
        let (forward, port) = (rule.key, flow.destination.port());
        if !packet.checksum_is_right() {
            return Err(Refused::Malformed);
        }
        let target = target_of(rule, flow)?;
        if self.unreachable.contains(forward, port, now) {
            return Err(Refused::Unreachable);
        }
        if !self.table.shares(forward.protocol).may_open(peer, now) {
            return Err(Refused::TooFast);
        }
        match self.table.room(peer, forward.protocol, now) {
            Room::Free => {}
            Room::Close(id) => self.close(id),
            Room::End(id) => {
                let of = self.table.get(id).map(|stream| stream.peer);
                self.end(id, now);
                if let Some(of) = of.filter(|of| *of != peer) {
                    let shares = self.table.shares(forward.protocol);
                    self.crowded.extend(shares.crowded(of, true, now));
                }
            }
            Room::Full => {
                let told = self.table.note_refused(peer, forward, now);
                self.crowded.extend(told);
                return Err(Refused::Full);
            }
        }
        Ok(target)
    }

    /// Lets all streams work that got packets or bytes since the last call.
    pub fn flush(&mut self, now: Instant) {
        while let Some(id) = self.dirty.pop_first() {
            self.turn(id, now);
        }
    }

    /// Does what is due; `presence` knows whether a peer is there.
    pub fn handle_timeout(&mut self, presence: impl Fn(PeerHandle) -> Presence, now: Instant) {
        while let Some(&(at, id)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(stream) = self.table.get_mut(id) else {
                continue;
            };
            let expires = stream.last_used() + IDLE;
            match &mut stream.kind {
                Kind::Tcp { connection, timer } => {
                    *timer = None;
                    connection.look(presence(stream.peer), now);
                    self.turn(id, now);
                }
                Kind::Udp { timer, .. } => {
                    if expires > now {
                        *timer = expires;
                        self.timers.insert((expires, id));
                    } else {
                        self.close(id);
                    }
                }
                Kind::Opening { .. } => {}
            }
        }
        self.flush(now);
    }

    /// A stream's target failed; `what` says it in words for people.
    pub fn handle_failure(&mut self, id: StreamId, event: TargetEvent, what: String, now: Instant) {
        if let Some(stream) = self.table.get_mut(id) {
            let forward = stream.forward;
            let first = match &mut stream.kind {
                Kind::Udp { flow, .. } => flow.fail(),
                Kind::Opening { .. } | Kind::Tcp { .. } => true,
            };
            self.table.note_trouble(forward, what, first, now);
        }
        self.handle_target(id, event, now);
    }

    /// Something happened at a stream's target.
    pub fn handle_target(&mut self, id: StreamId, event: TargetEvent, now: Instant) {
        let Some(stream) = self.table.get_mut(id) else {
            return;
        };
        let (flow, peer, forward) = (stream.flow, stream.peer, stream.forward);
        if event == TargetEvent::Unreachable {
            self.unreachable
                .insert(forward, flow.destination.port(), now);
        }
        match (&mut stream.kind, event) {
            (Kind::Opening { syn, buffer }, TargetEvent::Connected) => {
                self.seed = next_seed(self.seed);
                let mut connection =
                    Box::new(Connection::new(flow, self.mtu, *buffer, self.seed, now));
                connection.push(syn, now);
                stream.kind = Kind::Tcp {
                    connection,
                    timer: None,
                };
                self.table.note_success(forward);
                self.dirty.insert(id);
            }
            (Kind::Opening { syn, .. }, event) => {
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
            (Kind::Udp { .. }, TargetEvent::Refused) => self.refuse(peer, flow, Unreachable::Port),
            (Kind::Udp { .. }, TargetEvent::Unreachable) => {
                self.refuse(peer, flow, Unreachable::Address);
                self.close(id);
            }
            (Kind::Udp { .. }, TargetEvent::Busy) => {
                self.refuse(peer, flow, Unreachable::Prohibited);
                self.close(id);
            }
            (Kind::Udp { .. }, TargetEvent::Reset) => self.close(id),
        }
        if event == TargetEvent::Busy {
            let told = self.table.note_refused(peer, forward, now);
            self.crowded.extend(told);
        }
        self.flush(now);
    }

    /// Tells the client of a UDP flow that its datagram goes nowhere.
    fn refuse(&mut self, peer: PeerHandle, flow: Flow, reason: Unreachable) {
        let refusal = refusal(flow, reason);
        self.packets.extend(refusal.map(|packet| (peer, packet)));
    }

    /// The ways to targets may be others from now on.
    pub fn handle_network(&mut self) {
        self.unreachable.clear();
    }

    /// Takes up to `max` bytes that the client sent on a TCP stream.
    pub fn read(&mut self, id: StreamId, max: usize) -> Bytes {
        match self.table.get_mut(id).map(|stream| &mut stream.kind) {
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
        match self.table.get_mut(id).map(|stream| &mut stream.kind) {
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
        if let Some(stream) = self.table.get_mut(id)
            && matches!(stream.kind, Kind::Udp { .. })
        {
            let packet = reply(stream.flow, payload);
            let (peer, forward) = (stream.peer, stream.forward);
            self.packets.extend(packet.map(|packet| (peer, packet)));
            self.table.touch(id, now);
            self.table.note_success(forward);
        }
    }

    /// Ends all streams that `allowed` no longer allows: a rule is gone, a peer is gone.
    pub fn retain(&mut self, allowed: impl Fn(PeerHandle, ForwardKey, Flow) -> bool, now: Instant) {
        let mut ended: Vec<_> = self
            .table
            .iter()
            .filter(|(_, stream)| !allowed(stream.peer, stream.forward, stream.flow))
            .map(|(id, _)| id)
            .collect();
        // Not in the table's order, which differs from run to run.
        ended.sort();
        for id in ended {
            self.end(id, now);
        }
    }

    /// Forgets what is kept for forwards that are gone, and for peers that are.
    pub fn prune(&mut self, rules: &Rules, is_peer: impl Fn(PeerHandle) -> bool) {
        self.table.prune(rules, is_peer);
    }

    /// There was no room for a peer, which the user may want to know.
    pub fn poll_crowded(&mut self) -> Option<Crowded> {
        self.crowded.pop_front()
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

    /// What has become of the streams of a forward.
    pub fn counts(&self, forward: ForwardKey) -> ForwardCounts {
        self.table.counts(forward).cloned().unwrap_or_default()
    }

    fn open(
        &mut self,
        peer: PeerHandle,
        flow: Flow,
        forward: ForwardKey,
        (target, window): (Target, usize),
        kind: Kind,
        now: Instant,
    ) -> StreamId {
        let timer = match &kind {
            Kind::Udp { timer, .. } => Some(*timer),
            Kind::Opening { .. } | Kind::Tcp { .. } => None,
        };
        let id = self.table.insert(peer, flow, forward, kind, now);
        self.timers.extend(timer.map(|at| (at, id)));
        self.orders.push_back(Order::Connect {
            stream: id,
            protocol: forward.protocol,
            target,
            peer,
            forward,
            window,
        });
        id
    }

    fn feed(&mut self, id: StreamId, packet: &Packet<'_>, now: Instant) -> Result<(), Refused> {
        let Some(stream) = self.table.get_mut(id) else {
            return Err(Refused::NoConnection);
        };
        let is_use = match &stream.kind {
            Kind::Tcp { connection, .. } => connection.is_unacknowledged() || says_more(packet),
            Kind::Opening { .. } | Kind::Udp { .. } => true,
        };
        if is_use {
            self.table.touch(id, now);
        }
        let Some(stream) = self.table.get_mut(id) else {
            return Err(Refused::NoConnection);
        };
        match &mut stream.kind {
            Kind::Tcp { connection, .. } => {
                if !connection.push(packet.bytes(), now) {
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

    fn turn(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.table.get_mut(id) else {
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
        self.table.note_state(id);
        let lingers = |stream: &Stream| stream.rest().0;
        if turn.over && !self.table.get(id).is_some_and(lingers) {
            self.close(id);
        }
    }

    /// Ends a stream by resetting both of its ends.
    fn end(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.table.get_mut(id) else {
            return;
        };
        let peer = stream.peer;
        let mut out = Vec::new();
        match &mut stream.kind {
            Kind::Tcp { connection, .. } => {
                connection.abort();
                connection.turn(now, &mut out);
            }
            Kind::Opening { syn, .. } => {
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
        let timer = match self.table.remove(id).map(|stream| stream.kind) {
            Some(Kind::Tcp { timer, .. }) => timer,
            Some(Kind::Udp { timer, .. }) => Some(timer),
            Some(Kind::Opening { .. }) | None => None,
        };
        if let Some(at) = timer {
            self.timers.remove(&(at, id));
        }
    }
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("streams", &self.table.len())
            .finish_non_exhaustive()
    }
}

/// Whether a TCP packet is more than an acknowledgement. Those that answer our probes are no use of a connection, or none that
/// nobody needs any more would ever be idle.
fn says_more(packet: &Packet<'_>) -> bool {
    let opens_or_ends = packet
        .tcp_flags()
        .is_some_and(|flags| flags.syn() || flags.fin());
    opens_or_ends || packet.tcp_payload().is_some_and(|bytes| !bytes.is_empty())
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
