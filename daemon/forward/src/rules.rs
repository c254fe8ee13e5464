//! The forwards: ports that are shared, the peers that may use them, and the targets that they lead to.

use std::collections::{BTreeMap, BTreeSet};

use punch_api::{ForwardKey, MEETING_PORT, PortRange, Protocol, Target};
use punch_packet::PeerHandle;

/// The peers that may use a forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Every peer of mine.
    AllPeers,
    /// The peers of this set.
    Peers(BTreeSet<PeerHandle>),
}

impl Access {
    /// Whether `peer` may use the forward.
    pub fn admits(&self, peer: PeerHandle) -> bool {
        match self {
            Self::AllPeers => true,
            Self::Peers(peers) => peers.contains(&peer),
        }
    }
}

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The protocol and the shared ports.
    pub key: ForwardKey,
    /// Where the first of the ports leads.
    pub target: Target,
    /// The peers that may use the forward.
    pub access: Access,
}

/// What stands for the meeting place among forwards.
pub const MEETING: ForwardKey = ForwardKey {
    protocol: Protocol::Tcp,
    ports: PortRange::one(MEETING_PORT),
};

/// Where guests' streams lead: a place of this machine, and no address that anybody could connect to. No forward has such a target, since
/// its port is none.
pub fn meeting_target() -> Target {
    Target::local(0)
}

/// All forwards; no two share a port. A look-up costs the logarithm of their number.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    by_first_port: BTreeMap<(Protocol, u16), Rule>,
    /// The meeting place, if any peer may use it: it comes before a forward of its port.
    meeting: Option<Rule>,
}

impl Rules {
    /// The rules in this list; of two that share a port the first one counts (a change of the configuration that adds the second is refused).
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut all = Self::default();
        for rule in rules {
            if all.overlapping(rule.key).is_none() {
                all.by_first_port
                    .insert((rule.key.protocol, rule.key.ports.first()), rule);
            }
        }
        all
    }

    /// The same rules, and the peers that may use the meeting place.
    pub fn with_guests(mut self, guests: BTreeSet<PeerHandle>) -> Self {
        self.meeting = (!guests.is_empty()).then(|| Rule {
            key: MEETING,
            target: meeting_target(),
            access: Access::Peers(guests),
        });
        self
    }

    /// The peers that may use the meeting place.
    pub fn guests(&self) -> impl Iterator<Item = PeerHandle> {
        let access = self.meeting.iter().map(|rule| &rule.access);
        access.flat_map(|access| match access {
            Access::AllPeers => BTreeSet::new(),
            Access::Peers(peers) => peers.clone(),
        })
    }

    /// The rule for a packet from `peer` to `port`.
    pub fn find(&self, protocol: Protocol, port: u16, peer: PeerHandle) -> Option<&Rule> {
        let meeting = self.meeting.as_ref();
        if (protocol, port) == (Protocol::Tcp, MEETING_PORT)
            && let Some(rule) = meeting.filter(|rule| rule.access.admits(peer))
        {
            return Some(rule);
        }
        let (_, rule) = self
            .by_first_port
            .range((protocol, 0)..=(protocol, port))
            .next_back()?;
        (rule.key.ports.contains(port) && rule.access.admits(peer)).then_some(rule)
    }

    /// The rule of exactly these ports.
    pub fn get(&self, key: ForwardKey) -> Option<&Rule> {
        self.by_first_port
            .get(&(key.protocol, key.ports.first()))
            .filter(|rule| rule.key == key)
    }

    /// A rule that shares a port with `key`.
    pub fn overlapping(&self, key: ForwardKey) -> Option<&Rule> {
        // The rules share no port with each other, so the last one that begins before `key` ends is also the last one to end.
        let begins = (key.protocol, 0)..=(key.protocol, key.ports.last());
        let (_, rule) = self.by_first_port.range(begins).next_back()?;
        rule.key.ports.overlaps(key.ports).then_some(rule)
    }

    /// All rules, by protocol and port.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.by_first_port.values()
    }
}
