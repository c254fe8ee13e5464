//! The conversations between this host and one peer, and who began each: replies of ours may come in.
//!
//! Only this host's packets keep a conversation of ours open, so that a peer cannot keep a way to a port for ever after its owner
//! has gone. Where one end alone speaks over UDP, replies keep it for up to an hour.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use punch_packet::{Flow, Protocol, TcpFlags};

/// Flows remembered per peer and origin; beyond that those that were used least recently go. About 4 MiB at the most.
/// Each origin has its own share, so that a peer's flood cannot push out what tells its conversations from ours.
/// More than a peer's forwards carry for one client (`punch_forward::MAX_STREAMS_PER_PEER`), so that quiet connections keep theirs.
pub(crate) const MAX_FLOWS: usize = 16_384;

/// RFC 5382 REQ-5: how long an open TCP connection may be silent, and one that is not open yet.
const TCP_OPEN: Duration = Duration::from_secs(2 * 3600 + 240);
const TCP_OPENING: Duration = Duration::from_secs(240);
/// Both ends have said FIN: the peer may have to repeat its own, for as long as this host's kernel remembers (TIME-WAIT).
const TCP_CLOSED: Duration = Duration::from_secs(120);
/// One end has said RST: only what is on its way may follow.
const TCP_RESET: Duration = Duration::from_secs(10);
/// RFC 4787 REQ-5 asks for two minutes at least.
const UDP: Duration = Duration::from_secs(180);
/// RFC 4787 REQ-6 lets replies renew a flow, and warns of a stranger that keeps one open: so not for longer.
const UDP_UNASKED: Duration = Duration::from_secs(3600);
/// RFC 5508 REQ-2.
const ICMP: Duration = Duration::from_secs(60);

/// The end that sent the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// This host.
    Host,
    /// The peer, by a grant that may be taken back.
    Peer,
}

/// How far a TCP connection of this host is, as its segments tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    Closed,
    Reset,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stage: Stage,
    /// This host has said FIN; the peer has.
    fins: (bool, bool),
    /// What the life of a flow of this host's is counted from: its last packet, or the end of the connection.
    since: Instant,
    /// The last packet of either.
    used: Instant,
}

impl Entry {
    fn new(flags: Option<TcpFlags>, now: Instant) -> Self {
        let opens = flags.is_some_and(TcpFlags::opens);
        Self {
            stage: if opens { Stage::Opening } else { Stage::Open },
            fins: (flags.is_some_and(TcpFlags::fin), false),
            since: now,
            used: now,
        }
    }

    /// This host has sent a packet.
    fn sent(&mut self, flags: Option<TcpFlags>, now: Instant) {
        match flags {
            Some(flags) if flags.opens() => *self = Self::new(Some(flags), now),
            Some(flags) if flags.rst() => self.reset(now),
            flags => {
                self.fins.0 |= flags.is_some_and(TcpFlags::fin);
                self.stage = match self.fins {
                    (true, true) => Stage::Closed,
                    _ => Stage::Open,
                };
                self.since = now;
            }
        }
        self.used = now;
    }

    /// The peer has sent a packet.
    fn received(&mut self, flags: Option<TcpFlags>, now: Instant) {
        self.used = now;
        let Some(flags) = flags else { return };
        if flags.rst() {
            self.reset(now);
        }
        self.fins.1 |= flags.fin();
        if self.fins == (true, true) && self.stage == Stage::Open {
            self.stage = Stage::Closed;
            self.since = now;
        }
    }

    fn reset(&mut self, now: Instant) {
        if self.stage != Stage::Reset {
            self.stage = Stage::Reset;
            self.since = now;
        }
    }

    fn is_alive(&self, protocol: Protocol, origin: Origin, now: Instant) -> bool {
        let within = |since, life| now.saturating_duration_since(since) < life;
        match (protocol, origin) {
            (Protocol::Tcp, Origin::Peer) => within(self.used, TCP_OPEN),
            (Protocol::Tcp, Origin::Host) => {
                let life = match self.stage {
                    Stage::Opening => TCP_OPENING,
                    Stage::Open => TCP_OPEN,
                    Stage::Closed => TCP_CLOSED,
                    Stage::Reset => TCP_RESET,
                };
                within(self.since, life)
            }
            (Protocol::Udp, Origin::Peer) => within(self.used, UDP),
            (Protocol::Udp, Origin::Host) => {
                within(self.used, UDP) && within(self.since, UDP_UNASKED)
            }
            (Protocol::Icmp | Protocol::Other(_), Origin::Peer) => within(self.used, ICMP),
            (Protocol::Icmp | Protocol::Other(_), Origin::Host) => within(self.since, ICMP),
        }
    }
}

/// The flows of one origin.
#[derive(Debug)]
struct Share {
    origin: Origin,
    flows: HashMap<Flow, Entry>,
}

impl Share {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            flows: HashMap::new(),
        }
    }

    fn alive(&self, flow: Flow, now: Instant) -> bool {
        self.flows
            .get(&flow)
            .is_some_and(|entry| entry.is_alive(flow.protocol, self.origin, now))
    }

    fn alive_mut(&mut self, flow: Flow, now: Instant) -> Option<&mut Entry> {
        let entry = self.flows.get_mut(&flow)?;
        entry
            .is_alive(flow.protocol, self.origin, now)
            .then_some(entry)
    }

    fn insert(&mut self, flow: Flow, entry: Entry, now: Instant) {
        if self.flows.len() >= MAX_FLOWS && !self.flows.contains_key(&flow) {
            self.make_room(now);
        }
        self.flows.insert(flow, entry);
    }

    /// Drops what has expired, and what was used least recently until an eighth is free. So the next look at all comes only
    /// after as many new flows, and is cheap for each of them, whatever the peer does.
    fn make_room(&mut self, now: Instant) {
        let origin = self.origin;
        self.flows
            .retain(|flow, entry| entry.is_alive(flow.protocol, origin, now));
        let kept = MAX_FLOWS - MAX_FLOWS / 8;
        let Some(last) = self.flows.len().checked_sub(kept + 1) else {
            return;
        };
        let mut used: Vec<_> = self.flows.values().map(|entry| entry.used).collect();
        let (older, cut, _) = used.select_nth_unstable(last);
        let cut = *cut;
        // Of those that were used at the same moment as the last one that goes, only as many go as the older ones leave.
        let older = older.iter().filter(|at| **at < cut).count();
        let mut at_cut = last + 1 - older;
        self.flows.retain(|_, entry| {
            if entry.used != cut {
                return entry.used > cut;
            }
            let goes = at_cut > 0;
            at_cut -= usize::from(goes);
            !goes
        });
    }
}

/// Keyed by the flow as packets *from the peer* name it. No flow is in both shares.
#[derive(Debug)]
pub(crate) struct FlowTable {
    host: Share,
    peer: Share,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self {
            host: Share::new(Origin::Host),
            peer: Share::new(Origin::Peer),
        }
    }
}

impl FlowTable {
    /// This host sends a packet of `flow`, with `flags` if it is TCP. While the peer is granted the host, a TCP segment that opens
    /// nothing belongs to a connection that the peer may have begun; one with SYN and ACK always does.
    pub(crate) fn outbound(
        &mut self,
        flow: Flow,
        flags: Option<TcpFlags>,
        granted: bool,
        now: Instant,
    ) {
        let flow = flow.reversed();
        if let Some(entry) = self.host.alive_mut(flow, now) {
            entry.sent(flags, now);
            return;
        }
        if !flags.is_some_and(TcpFlags::opens)
            && let Some(entry) = self.peer.alive_mut(flow, now)
        {
            entry.used = now;
            return;
        }
        // A reset opens nothing.
        if flags.is_some_and(TcpFlags::rst) {
            return;
        }
        let is_peers = flags.is_some_and(|flags| !flags.opens() && (granted || flags.syn()));
        let (share, other) = if is_peers {
            (&mut self.peer, &mut self.host)
        } else {
            (&mut self.host, &mut self.peer)
        };
        other.flows.remove(&flow);
        share.insert(flow, Entry::new(flags, now), now);
    }

    /// The peer, to which the host is granted, sends a packet of `flow`.
    pub(crate) fn inbound_granted(&mut self, flow: Flow, flags: Option<TcpFlags>, now: Instant) {
        // The peer's own connection over ports that one of this host's has used ends with the grant, too.
        let opens = flags.is_some_and(asks);
        if !opens && self.host.alive(flow, now) {
            return;
        }
        self.host.flows.remove(&flow);
        if let Some(entry) = self.peer.alive_mut(flow, now) {
            entry.used = now;
        } else {
            self.peer.insert(flow, Entry::new(flags, now), now);
        }
    }

    /// Whether a packet of `flow` from the peer, with `flags` if it is TCP, belongs to a conversation that this host began. A
    /// segment that asks for a connection never does: two hosts that call each other at the same moment do not meet.
    pub(crate) fn is_reply(&mut self, flow: Flow, flags: Option<TcpFlags>, now: Instant) -> bool {
        if flags.is_some_and(asks) {
            return false;
        }
        let entry = self.host.alive_mut(flow, now);
        if let Some(entry) = entry {
            entry.received(flags, now);
            return true;
        }
        false
    }

    /// Whether this host has sent packets of `flow`: an ICMP error about one may come in.
    pub(crate) fn has_sent(&self, flow: Flow, now: Instant) -> bool {
        self.host.alive(flow.reversed(), now)
    }

    /// The conversations that this host has begun and that are open: each flow, and how long ago the last packet of this host and the
    /// last of either were.
    pub(crate) fn bequeath(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (Flow, Duration, Duration)> {
        let open = self.host.flows.iter().filter(move |(flow, entry)| {
            let lasts = matches!(flow.protocol, Protocol::Tcp | Protocol::Udp);
            lasts && entry.stage == Stage::Open && self.host.alive(**flow, now)
        });
        open.map(move |(flow, entry)| {
            let ago = |at| now.saturating_duration_since(at);
            (*flow, ago(entry.since), ago(entry.used))
        })
    }

    /// An earlier process has seen this host begin a conversation: its last packet, and the last of either, were so long ago.
    pub(crate) fn inherit(
        &mut self,
        flow: Flow,
        (since, used): (Duration, Duration),
        now: Instant,
    ) {
        if self.is_known(flow) || self.host.flows.len() >= MAX_FLOWS {
            return;
        }
        let at = |ago| now.checked_sub(ago).unwrap_or(now);
        let entry = Entry {
            since: at(since),
            used: at(used),
            ..Entry::new(None, now)
        };
        self.host.flows.insert(flow, entry);
    }

    /// How many flows there are that this host began, and of a grant.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.host.flows.len(), self.peer.flows.len())
    }

    /// Whether the table has `flow`, whoever began it.
    pub(crate) fn is_known(&self, flow: Flow) -> bool {
        self.host.flows.contains_key(&flow) || self.peer.flows.contains_key(&flow)
    }
}

/// Whether a listening socket would take a segment for the first of a connection.
fn asks(flags: TcpFlags) -> bool {
    flags.syn() && !flags.ack()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn flow(port: u16) -> Flow {
        Flow {
            protocol: Protocol::Udp,
            source: SocketAddr::from(([100, 64, 0, 1], 53)),
            destination: SocketAddr::from(([100, 64, 0, 2], port)),
        }
    }

    #[test]
    fn whatever_has_expired_the_next_look_at_all_flows_comes_after_as_many_new_ones() {
        let mut table = FlowTable::default();
        let now = crate::start::start();
        table.outbound(flow(0).reversed(), None, false, now);
        // By now the first one has expired, and makes room for one that comes.
        let now = now + UDP;
        for port in 1..=16_384 {
            table.outbound(flow(port).reversed(), None, false, now);
        }
        assert_eq!(table.host.flows.len(), 16_384 - 2048 + 1);
    }

    #[test]
    fn a_peers_packets_alone_do_not_keep_a_conversation_for_ever() {
        let start = crate::start::start();
        for (protocol, begins, goes_on, expected) in [
            (Protocol::Tcp, Some(0x02), Some(0x10), 2 * 3600 + 240),
            (Protocol::Udp, None, None, 3600),
            (Protocol::Icmp, None, None, 60),
        ] {
            let mut table = FlowTable::default();
            let flow = Flow {
                protocol,
                ..flow(6000)
            };
            let (begins, goes_on) = (begins.map(TcpFlags), goes_on.map(TcpFlags));
            table.outbound(flow.reversed(), begins, false, start);
            table.outbound(flow.reversed(), goes_on, false, start);
            let mut refused = (1..10_000).filter(|second| {
                !table.is_reply(flow, goes_on, start + Duration::from_secs(*second))
            });
            assert_eq!(refused.next(), Some(expected), "{protocol:?}");
        }
    }

    #[test]
    fn a_full_share_of_the_peer_costs_this_hosts_flows_nothing() {
        let mut table = FlowTable::default();
        let now = crate::start::start();
        for port in 0..16_384 {
            table.inbound_granted(flow(port), None, now);
        }
        for port in 16_384..32_768 {
            table.outbound(flow(port).reversed(), None, true, now);
        }
        assert_eq!(table.peer.flows.len(), 16_384);
        assert_eq!(table.host.flows.len(), 16_384);
    }
}
