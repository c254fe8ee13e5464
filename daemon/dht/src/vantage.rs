//! Nodes that stand in for STUN servers: their answers tell as what they see a socket (BEP 42, `ip`), which is all that a STUN Binding
//! response tells.
//!
//! [`Gateway`] sits between whoever speaks STUN and the sockets: a plain Binding request becomes a `ping` (BEP 5, with `ro` of BEP 43), and
//! the node's answer a Binding success response (RFC 8489 §6). [`Choice`] are the nodes that are worth asking.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use punch_stun_protocol::{Class, Message, TransactionId, Writer};

use crate::id::{NodeId, Scope};
use crate::krpc::{Answer, Body, Query};

/// Nodes that are asked.
pub const MAX_VANTAGE: usize = 8;
/// Fewer are not told of: most of them must agree before one of them is called a liar.
const MIN_VANTAGE: usize = 4;
/// Nodes that were found not to answer, the newest.
const MAX_REFUSED: usize = 64;
/// Pings that wait for their answers; the oldest goes.
const MAX_ASKED: usize = 256;
/// A node that leaves so many pings in a row without the answer that is wanted, while another one answers, is given up.
const MAX_UNANSWERED: u8 = 12;
/// The first byte of every message of the DHT: a dictionary. STUN begins with 0 or 1, WireGuard with 1 to 4.
const DICTIONARY: u8 = b'd';

/// The nodes that are asked: those that have told where they see this machine, of different addresses, in the Internet of different
/// networks (/24). They stay as long as they answer.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    nodes: Vec<SocketAddrV4>,
    refused: VecDeque<SocketAddrV4>,
    /// Whether there were enough of them once.
    told: bool,
}

impl Choice {
    /// A node has told where it sees this machine.
    pub(crate) fn offer(&mut self, node: SocketAddrV4, scope: Scope) {
        let network = |ip: Ipv4Addr| match scope {
            Scope::Internet => u32::from(ip) >> 8,
            Scope::Own => u32::from(ip),
        };
        let mut nodes = self.nodes.iter();
        let is_taken = nodes.any(|known| network(*known.ip()) == network(*node.ip()));
        if self.nodes.len() < MAX_VANTAGE && !is_taken && !self.refused.contains(&node) {
            self.nodes.push(node);
            self.told |= self.nodes.len() >= MIN_VANTAGE;
        }
    }

    /// A node is no longer known.
    pub(crate) fn remove(&mut self, node: SocketAddrV4) {
        self.nodes.retain(|known| *known != node);
        self.told &= !self.nodes.is_empty();
    }

    /// A node does not answer whoever asks it: another one is wanted.
    pub(crate) fn refuse(&mut self, node: SocketAddrV4) {
        self.remove(node);
        self.refused.retain(|known| *known != node);
        self.refused.push_back(node);
        if self.refused.len() > MAX_REFUSED {
            self.refused.pop_front();
        }
    }

    /// The nodes, once there are enough; those that came first stay first.
    pub(crate) fn nodes(&self) -> &[SocketAddrV4] {
        if self.told { &self.nodes } else { &[] }
    }
}

#[derive(Debug)]
struct Vantage {
    at: SocketAddrV4,
    /// Pings since its last answer.
    unanswered: u8,
    /// Whether it was said that it does not answer.
    given_up: bool,
}

/// What becomes of a datagram that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outwards {
    /// It does not go to a node: it leaves as it is.
    Unchanged,
    /// This leaves instead.
    Ping(Vec<u8>),
    /// A node could not answer that: nothing leaves.
    Nothing,
}

/// What becomes of a datagram that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inwards {
    /// It is no message of a node.
    Unchanged,
    /// This has come instead.
    Binding(Vec<u8>),
    /// It answers nothing that was asked: nothing has come.
    Nothing,
}

/// See the module. It holds at most 8 nodes and 256 pings.
#[derive(Debug)]
pub struct Gateway {
    own: NodeId,
    nodes: Vec<Vantage>,
    asked: VecDeque<(SocketAddrV4, TransactionId)>,
}

impl Gateway {
    /// A gateway to nobody. Nodes hear of `own`, which should be random.
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            nodes: Vec::new(),
            asked: VecDeque::new(),
        }
    }

    /// The nodes that stand in for STUN servers are now these: the first 8 count.
    pub fn set_nodes(&mut self, nodes: &[SocketAddrV4]) {
        let nodes = nodes.iter().take(MAX_VANTAGE).map(|at| {
            let known = self.nodes.iter().find(|known| known.at == *at);
            Vantage {
                at: *at,
                unanswered: known.map_or(0, |known| known.unanswered),
                given_up: known.is_some_and(|known| known.given_up),
            }
        });
        self.nodes = nodes.collect();
        let nodes = &self.nodes;
        self.asked
            .retain(|(to, _)| nodes.iter().any(|node| node.at == *to));
    }

    /// Whether a node is asked there.
    pub fn knows(&self, address: SocketAddr) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|node| SocketAddr::V4(node.at) == address)
    }

    /// A datagram is to be sent. Only plain Binding requests, which ask for nothing else, mean something to a node.
    pub fn outwards(&mut self, to: SocketAddr, datagram: &[u8]) -> Outwards {
        let Some(node) = find(&mut self.nodes, to) else {
            return Outwards::Unchanged;
        };
        let Some(transaction) = plain(datagram) else {
            return Outwards::Nothing;
        };
        let entry = (node.at, transaction);
        if !self.asked.contains(&entry) {
            node.unanswered = node.unanswered.saturating_add(1);
            if self.asked.len() >= MAX_ASKED {
                self.asked.pop_front();
            }
            self.asked.push_back(entry);
        }
        Outwards::Ping(Query::Ping.encode(number(&transaction), self.own))
    }

    /// A datagram has come.
    pub fn inwards(&mut self, from: SocketAddr, datagram: &[u8]) -> Inwards {
        if datagram.first() != Some(&DICTIONARY) {
            return Inwards::Unchanged;
        }
        let Some(node) = find(&mut self.nodes, from) else {
            return Inwards::Unchanged;
        };
        let told = Answer::decode(datagram).ok().and_then(|answer| {
            let is_done = matches!(answer.body, Body::Done { .. });
            let seen = answer.seen.filter(|_| is_done)?;
            let mut asked = self.asked.iter();
            let at = asked
                .position(|(to, id)| *to == node.at && number(id)[..] == answer.transaction)?;
            Some((self.asked.remove(at)?.1, seen))
        });
        let Some((transaction, seen)) = told else {
            return Inwards::Nothing;
        };
        node.unanswered = 0;
        let response = Writer::new(Class::Success, transaction).xor_mapped(seen.into());
        Inwards::Binding(response.finish())
    }

    /// A node that is to be replaced, as it does not answer while another one does. Each is told of once.
    pub fn poll_silent(&mut self) -> Option<SocketAddrV4> {
        // Where nobody answers, the network is to blame.
        let mut nodes = self.nodes.iter();
        if !nodes.any(|node| node.unanswered == 0) {
            return None;
        }
        let mut nodes = self.nodes.iter_mut();
        let node = nodes.find(|node| node.unanswered >= MAX_UNANSWERED && !node.given_up)?;
        node.given_up = true;
        Some(node.at)
    }
}

fn find(nodes: &mut [Vantage], address: SocketAddr) -> Option<&mut Vantage> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    nodes.iter_mut().find(|node| node.at == address)
}

/// The number by which a node knows a ping: there are nodes that read four bytes only. Transactions are random in all their parts.
fn number(transaction: &TransactionId) -> [u8; 4] {
    let [a, b, c, d, ..] = transaction.0;
    [a, b, c, d]
}

/// The transaction of a Binding request that asks for nothing but an answer.
fn plain(datagram: &[u8]) -> Option<TransactionId> {
    let message = Message::parse(datagram).ok()?;
    let asks_more = message.change.is_some()
        || message.response_port.is_some()
        || message.username.is_some()
        || message.has_integrity()
        || !message.unknown.is_empty();
    (message.class == Class::Request && !asks_more).then_some(message.transaction)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
