//! The nodes that have answered, a few at every distance: where lookups begin.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use crate::id::{NodeId, Scope};
use crate::krpc::Node;
use crate::vantage::Choice;

/// Nodes at one distance from the own name (BEP 5's K).
const BUCKET: usize = 8;
/// All nodes.
const MAX_NODES: usize = 160;
/// Queries in a row that a node may leave unanswered.
const MAX_FAILURES: u8 = 2;
/// A node that was not heard for so long is asked before it counts as good.
const FRESH: Duration = Duration::from_secs(15 * 60);

#[derive(Debug)]
struct Entry {
    node: Node,
    answered: Instant,
    failures: u8,
}

/// Nodes that have answered this client.
#[derive(Debug, Default)]
pub(crate) struct Table {
    scope: Scope,
    entries: Vec<Entry>,
    /// Those that stand in for STUN servers.
    vantage: Choice,
}

impl Table {
    /// An empty table of a DHT of this scope.
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            entries: Vec::new(),
            vantage: Choice::default(),
        }
    }

    /// A node has answered.
    pub(crate) fn insert(&mut self, node: Node, own: NodeId, now: Instant) {
        let mut entries = self.entries.iter_mut();
        if let Some(known) = entries.find(|known| known.node.address == node.address) {
            known.node.id = node.id;
            known.answered = now;
            known.failures = 0;
            return;
        }
        if self.is_taken(node.address) {
            return;
        }
        let bits = own.common_bits(&node.id);
        let is_near = |entry: &Entry| own.common_bits(&entry.node.id) == bits;
        let bucket = self.entries.iter().filter(|entry| is_near(entry)).count();
        if bucket >= BUCKET || self.entries.len() >= MAX_NODES {
            // One that has failed, or was not heard for long, goes.
            let old = self.entries.iter().position(|entry| {
                let is_old = entry.failures > 0 || now.duration_since(entry.answered) > FRESH;
                (bucket < BUCKET || is_near(entry)) && is_old
            });
            let Some(old) = old else { return };
            self.vantage
                .remove(self.entries.swap_remove(old).node.address);
        }
        self.entries.push(Entry {
            node,
            answered: now,
            failures: 0,
        });
    }

    /// A node, if it is in the table, has told where it sees this machine.
    pub(crate) fn tells(&mut self, address: SocketAddrV4) {
        let mut entries = self.entries.iter();
        if entries.any(|entry| entry.node.address == address) {
            self.vantage.offer(address, self.scope);
        }
    }

    /// The nodes that stand in for STUN servers.
    pub(crate) fn vantage(&self) -> &[SocketAddrV4] {
        self.vantage.nodes()
    }

    /// A node does not answer whoever asks it in place of a STUN server.
    pub(crate) fn refuse(&mut self, address: SocketAddrV4) {
        self.vantage.refuse(address);
    }

    /// Whether a node of the Internet has the same address already: one machine has one place in the table.
    fn is_taken(&self, address: SocketAddrV4) -> bool {
        let ip = *address.ip();
        let mut entries = self.entries.iter();
        self.scope.is_public(ip) && entries.any(|entry| *entry.node.address.ip() == ip)
    }

    /// A node has not answered.
    pub(crate) fn fail(&mut self, address: SocketAddrV4) {
        let mut entries = self.entries.iter();
        let Some(at) = entries.position(|entry| entry.node.address == address) else {
            return;
        };
        let gone = self.entries.get_mut(at).is_some_and(|entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures >= MAX_FAILURES
        });
        if gone {
            self.vantage.remove(address);
            self.entries.swap_remove(at);
        }
    }

    /// Those that are nearest to a place, the nearest first.
    pub(crate) fn closest(&self, target: NodeId, count: usize) -> Vec<Node> {
        let mut nodes: Vec<_> = self.entries.iter().map(|entry| entry.node).collect();
        nodes.sort_by_key(|node| target.distance(&node.id));
        nodes.truncate(count);
        nodes
    }

    /// Those that were heard last, the newest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<SocketAddrV4> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.answered));
        let entries = entries.into_iter().take(count);
        entries.map(|entry| entry.node.address).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test needs some moment"
)]
mod tests {
    use std::net::Ipv4Addr;

    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    use super::*;

    fn node(rng: &mut ChaCha8Rng) -> Node {
        let ip = Ipv4Addr::from(rng.next_u32() & 0x00ff_ffff | 0x0b00_0000);
        Node {
            id: NodeId::of(ip, rng),
            address: SocketAddrV4::new(ip, 6881),
        }
    }

    #[test]
    fn a_storm_of_nodes_fills_no_more_than_the_table() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut table, own, now) = (Table::new(Scope::Internet), NodeId([0; 20]), Instant::now());
        for _ in 0..10_000 {
            table.insert(node(&mut rng), own, now);
        }
        assert!(table.len() <= MAX_NODES);
        for bits in 0..160 {
            let near = |entry: &&Entry| own.common_bits(&entry.node.id) == bits;
            assert!(table.entries.iter().filter(near).count() <= BUCKET);
        }
    }

    #[test]
    fn a_machine_of_the_internet_has_one_place_whatever_its_names() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut table, own, now) = (Table::new(Scope::Internet), NodeId([0; 20]), Instant::now());
        let mut add = |ip: &str| {
            for port in 7000..7020 {
                let address = SocketAddrV4::new(ip.parse().unwrap(), port);
                let id = NodeId::random(&mut rng);
                table.insert(Node { id, address }, own, now);
            }
            table.len()
        };
        assert_eq!(add("11.0.0.1"), 1);
        assert!(add("127.0.0.1") > 10, "networks of tests have one address");
    }

    #[test]
    fn a_node_that_is_silent_twice_is_forgotten() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut table, own, now) = (Table::new(Scope::Internet), NodeId([0; 20]), Instant::now());
        let node = node(&mut rng);
        table.insert(node, own, now);
        table.fail(node.address);
        table.insert(node, own, now);
        table.fail(node.address);
        assert_eq!(table.closest(own, 8), [node]);
        table.fail(node.address);
        assert_eq!(table.closest(own, 8), []);
    }
}
