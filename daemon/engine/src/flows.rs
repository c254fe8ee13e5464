//! The conversations between this host and one peer, and who began each: replies of ours may come in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use punch_packet::{Flow, Protocol};

/// Flows remembered per peer and origin; beyond that those that were used least recently go. About 1.5 MiB at the most.
/// Each origin has its own share, so that a peer's flood cannot push out what tells its conversations from ours.
pub(crate) const MAX_FLOWS: usize = 8192;

/// The end that sent the first packet of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This host.
    Host,
    /// The peer, by a grant that may be taken back.
    Peer,
}

#[derive(Debug)]
struct Entry {
    origin: Origin,
    last_used: Instant,
}

/// Keyed by the flow as packets *from the peer* name it.
#[derive(Debug, Default)]
pub(crate) struct FlowTable {
    flows: HashMap<Flow, Entry>,
}

impl FlowTable {
    /// This host sends a packet of `flow`; `opens` says that it is the first of a TCP connection. While the peer is granted
    /// the host, a TCP segment that opens nothing belongs to a connection that the peer may have begun.
    pub(crate) fn outbound(&mut self, flow: Flow, opens: bool, granted: bool, now: Instant) {
        let doubtful = granted && flow.protocol == Protocol::Tcp && !opens;
        let origin = if doubtful { Origin::Peer } else { Origin::Host };
        self.touch(flow.reversed(), origin, now);
    }

    /// The peer, to which the host is granted, sends a packet of `flow`.
    pub(crate) fn inbound_granted(&mut self, flow: Flow, now: Instant) {
        self.touch(flow, Origin::Peer, now);
    }

    /// Whether a packet of `flow` from the peer belongs to a conversation that this host began.
    pub(crate) fn is_reply(&mut self, flow: Flow, now: Instant) -> bool {
        match self.flows.get_mut(&flow) {
            Some(entry) if entry.origin == Origin::Host && alive(flow, entry.last_used, now) => {
                entry.last_used = now;
                true
            }
            _ => false,
        }
    }

    /// Whether this host has sent packets of `flow`: an ICMP error about one may come in.
    pub(crate) fn has_sent(&self, flow: Flow, now: Instant) -> bool {
        let back = flow.reversed();
        self.flows
            .get(&back)
            .is_some_and(|entry| entry.origin == Origin::Host && alive(back, entry.last_used, now))
    }

    /// Whether the table has `flow`, whoever began it.
    pub(crate) fn is_known(&self, flow: Flow) -> bool {
        self.flows.contains_key(&flow)
    }

    fn touch(&mut self, flow: Flow, origin: Origin, now: Instant) {
        if let Some(entry) = self.flows.get_mut(&flow) {
            if !alive(flow, entry.last_used, now) {
                entry.origin = origin;
            }
            entry.last_used = now;
            return;
        }
        if self.flows.len() >= MAX_FLOWS {
            self.make_room(origin, now);
        }
        let entry = Entry {
            origin,
            last_used: now,
        };
        self.flows.insert(flow, entry);
    }

    /// Drops what has expired, and if that is not enough the eighth of this origin that was used least recently: rare, and
    /// cheap per flow.
    fn make_room(&mut self, origin: Origin, now: Instant) {
        let of_origin = |entry: &Entry| entry.origin == origin;
        if self.flows.values().filter(|entry| of_origin(entry)).count() < MAX_FLOWS {
            return;
        }
        self.flows
            .retain(|flow, entry| alive(*flow, entry.last_used, now));
        let mut used: Vec<_> = self
            .flows
            .values()
            .filter(|entry| of_origin(entry))
            .map(|entry| entry.last_used)
            .collect();
        if used.len() < MAX_FLOWS {
            return;
        }
        let (older, cut, _) = used.select_nth_unstable(MAX_FLOWS / 8);
        let cut = *cut;
        // Of those that were used at the same moment as the last of the eighth, only as many go as the older ones leave.
        let older = older.iter().filter(|at| **at < cut).count();
        let mut at_cut = MAX_FLOWS / 8 - older;
        self.flows.retain(|_, entry| {
            if !of_origin(entry) || entry.last_used > cut {
                return true;
            }
            if entry.last_used < cut {
                return false;
            }
            let goes = at_cut > 0;
            at_cut -= usize::from(goes);
            !goes
        });
    }
}

/// RFC 5382 REQ-5 (TCP), RFC 4787 REQ-5 (UDP, with more than its two minutes), RFC 5508 REQ-2 (ICMP).
fn alive(flow: Flow, last_used: Instant, now: Instant) -> bool {
    let idle = match flow.protocol {
        Protocol::Tcp => Duration::from_secs(2 * 3600 + 240),
        Protocol::Udp => Duration::from_secs(180),
        Protocol::Icmp | Protocol::Other(_) => Duration::from_secs(60),
    };
    now.saturating_duration_since(last_used) < idle
}
