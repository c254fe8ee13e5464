//! Who tells as what this machine's sockets are seen: STUN servers, and nodes of the DHT where those are too few.

use std::net::SocketAddr;

use punch_traversal::{Family, NatProfile, ProbeOutcome};

/// With so many STUN servers that answer, nodes are not asked.
const ENOUGH: usize = 2;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Samplers {
    servers: Vec<SocketAddr>,
    /// Nodes of the DHT, whether they are needed or not.
    nodes: Vec<SocketAddr>,
    /// Whether too few servers have answered the last netcheck in this network.
    few_answer: bool,
}

impl Samplers {
    /// The STUN servers are now these; tells whether they are others.
    pub(crate) fn set_servers(&mut self, servers: Vec<SocketAddr>) -> bool {
        let changed = self.servers != servers;
        self.few_answer &= !changed;
        self.servers = servers;
        changed
    }

    /// The nodes that could be asked are now these.
    pub(crate) fn set_nodes(&mut self, nodes: Vec<SocketAddr>) {
        self.nodes = nodes;
    }

    /// In another network others may answer.
    pub(crate) fn forget_answers(&mut self) {
        self.few_answer = false;
    }

    /// A netcheck has found this.
    pub(crate) fn note(&mut self, profiles: &[NatProfile]) {
        let mut profiles = profiles.iter();
        let v4 = profiles.find(|profile| profile.family == Family::V4);
        // Where ports are used up, it is not the servers that do not answer.
        if let Some(v4) = v4.filter(|v4| !v4.search.used_up) {
            let asked = v4.evidence.iter();
            let servers = asked.filter(|check| self.servers.contains(&check.server));
            let answer = servers.filter(|check| {
                let mut probes = check.probes.iter();
                probes.any(|(_, outcome)| matches!(outcome, ProbeOutcome::Mapped(..)))
            });
            self.few_answer = answer.count() < ENOUGH;
        }
    }

    /// The STUN servers.
    pub(crate) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The nodes that are asked, too.
    pub(crate) fn nodes(&self) -> &[SocketAddr] {
        let servers = self.servers.iter();
        let addresses = servers.filter(|at| at.is_ipv4()).map(SocketAddr::ip);
        let mut addresses: Vec<_> = addresses.collect();
        addresses.sort_unstable();
        addresses.dedup();
        match self.few_answer || addresses.len() < ENOUGH {
            true => &self.nodes,
            false => &[],
        }
    }

    /// Whether there is nobody to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.nodes().is_empty()
    }
}
