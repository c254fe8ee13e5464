//! One walk through the DHT towards a place: nearer and nearer nodes are asked until the nearest have all answered (BEP 5; Kademlia's
//! "node lookup"). Nodes lie, so what one says of others costs little: each machine is asked once, and nobody's word counts much.

use std::net::SocketAddrV4;

use crate::id::{NodeId, Scope};
use crate::krpc::Node;

/// The nearest nodes that have to answer, and that items are stored at.
pub(crate) const CLOSEST: usize = 8;
/// Queries under way at once.
const ALPHA: usize = 3;
/// Nodes that are remembered.
const MAX_CANDIDATES: usize = 96;
/// Nodes that are asked.
const MAX_QUERIES: usize = 60;
/// Nodes that have not answered yet and that one node has told of.
const MAX_OF_ONE: usize = 8;
/// Ports below are other services': nobody is sent there by what a node says.
const FIRST_PORT: u16 = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Fresh,
    Asked,
    /// Asked a while ago: others are asked meanwhile.
    Slow,
    Answered(Option<Vec<u8>>),
    Failed,
}

#[derive(Debug)]
struct Candidate {
    node: Node,
    /// Who has told of it.
    by: Option<SocketAddrV4>,
    /// Whether only its address is known, and not its name.
    is_nameless: bool,
    state: State,
}

/// A node that has answered, and what it wants to see before it stores.
#[derive(Debug, Clone)]
pub(crate) struct Storer {
    pub(crate) node: Node,
    pub(crate) token: Vec<u8>,
}

/// A walk.
#[derive(Debug)]
pub(crate) struct Lookup {
    scope: Scope,
    target: NodeId,
    candidates: Vec<Candidate>,
    queries: usize,
    answers: usize,
    /// Whether what nodes say of others counts.
    walks: bool,
}

impl Lookup {
    /// A walk that begins at these nodes, and at these addresses, whose nodes' names are not known.
    pub(crate) fn new(
        scope: Scope,
        target: NodeId,
        nodes: &[Node],
        addresses: &[SocketAddrV4],
    ) -> Self {
        let mut lookup = Self::only(scope, target, nodes);
        lookup.walks = true;
        for address in addresses {
            let node = Node {
                id: target,
                address: *address,
            };
            lookup.add(node, None);
            let mut candidates = lookup.candidates.iter_mut();
            if let Some(known) = candidates.find(|c| c.node == node && c.by.is_none()) {
                known.is_nameless = true;
            }
        }
        lookup.sort();
        lookup
    }

    /// No walk: these nodes are asked, and nobody else.
    pub(crate) fn only(scope: Scope, target: NodeId, nodes: &[Node]) -> Self {
        let mut lookup = Self {
            scope,
            target,
            candidates: Vec::new(),
            queries: 0,
            answers: 0,
            walks: false,
        };
        for node in nodes {
            lookup.add(*node, None);
        }
        lookup
    }

    fn add(&mut self, node: Node, by: Option<SocketAddrV4>) {
        let ip = *node.address.ip();
        let is_stranger = self.scope.is_public(ip);
        let is_same = |known: &Candidate| match is_stranger {
            true => *known.node.address.ip() == ip,
            false => known.node.address == node.address,
        };
        if self.candidates.iter().any(is_same) {
            return;
        }
        if let Some(by) = by {
            // Private networks are none of the Internet's business, and this machine and groups nobody's.
            let is_elsewhere = !is_stranger && self.scope.is_public(*by.ip())
                || ip.is_loopback() && !by.ip().is_loopback();
            let is_no_machine = ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified();
            if is_elsewhere || is_no_machine || node.address.port() < FIRST_PORT {
                return;
            }
            let told = self.candidates.iter().filter(|known| {
                let is_proven = matches!(known.state, State::Answered(_));
                known.by == Some(by) && !is_proven
            });
            if told.count() >= MAX_OF_ONE {
                return;
            }
        }
        self.candidates.push(Candidate {
            node,
            by,
            is_nameless: false,
            state: State::Fresh,
        });
        self.sort();
        if self.candidates.len() > MAX_CANDIDATES {
            let last = self
                .candidates
                .iter()
                .rposition(|known| matches!(known.state, State::Fresh | State::Failed));
            if let Some(last) = last {
                self.candidates.remove(last);
            }
        }
    }

    /// Those without a name first, since whoever they are, they are asked; then the nearest. Those whose names do not fit their addresses
    /// (BEP 42) are behind all others: they may have chosen where to be.
    fn sort(&mut self) {
        let (target, scope) = (self.target, self.scope);
        self.candidates.sort_by_key(|candidate| {
            let node = &candidate.node;
            let is_chosen = !candidate.is_nameless && !node.id.fits(*node.address.ip(), scope);
            (is_chosen, target.distance(&node.id))
        });
    }

    /// The nearest that have not failed.
    fn nearest(&self) -> impl Iterator<Item = &Candidate> {
        let candidates = self.candidates.iter();
        let alive = candidates.filter(|candidate| candidate.state != State::Failed);
        alive.take(CLOSEST)
    }

    /// The node that is to be asked now, if one is.
    pub(crate) fn next(&self) -> Option<Node> {
        let asked = self.candidates.iter().filter(|c| c.state == State::Asked);
        if asked.count() >= ALPHA || self.queries >= MAX_QUERIES {
            return None;
        }
        let slow = self.candidates.iter().filter(|c| c.state == State::Slow);
        // Those that are slow may never answer, so that nodes behind them are asked, too.
        let reach = CLOSEST + slow.count();
        let mut alive = self.candidates.iter().filter(|c| c.state != State::Failed);
        let fresh = alive.by_ref().take(reach).find(|c| c.state == State::Fresh);
        fresh.map(|candidate| candidate.node)
    }

    /// A node is asked.
    pub(crate) fn ask(&mut self, address: SocketAddrV4) {
        self.queries += 1;
        self.set(address, State::Asked);
    }

    /// A node takes its time.
    pub(crate) fn slow(&mut self, address: SocketAddrV4) {
        self.set(address, State::Slow);
    }

    /// A node does not answer, or not what was asked.
    pub(crate) fn fail(&mut self, address: SocketAddrV4) {
        self.set(address, State::Failed);
    }

    fn set(&mut self, address: SocketAddrV4, state: State) {
        let mut candidates = self.candidates.iter_mut();
        if let Some(candidate) = candidates.find(|c| c.node.address == address) {
            candidate.state = state;
        }
    }

    /// A node has answered.
    pub(crate) fn answer(&mut self, node: Node, nodes: &[Node], token: Option<Vec<u8>>) {
        self.answers += 1;
        let mut candidates = self.candidates.iter_mut();
        if let Some(candidate) = candidates.find(|c| c.node.address == node.address) {
            candidate.node.id = node.id;
            candidate.is_nameless = false;
            candidate.state = State::Answered(token);
        }
        self.sort();
        if self.walks {
            for told in nodes {
                self.add(*told, Some(node.address));
            }
        }
    }

    /// Whether nothing is to be asked or awaited any more.
    pub(crate) fn is_done(&self) -> bool {
        let mut candidates = self.candidates.iter();
        let waits = candidates.any(|c| matches!(c.state, State::Asked | State::Slow));
        let is_answered = |c: &Candidate| matches!(c.state, State::Answered(_));
        self.nearest().all(is_answered) || (!waits && self.next().is_none())
    }

    /// How many nodes have answered.
    pub(crate) fn answers(&self) -> usize {
        self.answers
    }

    /// The nearest nodes of those that have answered and would store something.
    pub(crate) fn storers(&self) -> Vec<Storer> {
        let answered = self.candidates.iter().filter_map(|candidate| {
            let State::Answered(Some(token)) = &candidate.state else {
                return None;
            };
            Some(Storer {
                node: candidate.node,
                token: token.clone(),
            })
        });
        answered.take(CLOSEST).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::net::Ipv4Addr;

    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn node(number: u16) -> Node {
        let [high, low] = number.to_be_bytes();
        let ip = Ipv4Addr::new(11, 7, high, low);
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(number));
        Node {
            id: NodeId::of(ip, &mut rng),
            address: SocketAddrV4::new(ip, 6881),
        }
    }

    const TARGET: NodeId = NodeId([0x5a; 20]);

    #[test]
    fn a_walk_ends_when_the_nearest_have_answered() {
        let nodes: Vec<_> = (0..40).map(node).collect();
        let mut lookup = Lookup::new(Scope::Internet, TARGET, &nodes[..8], &[]);
        let mut asked = 0;
        while !lookup.is_done() {
            let node = lookup.next().unwrap();
            lookup.ask(node.address);
            asked += 1;
            lookup.answer(node, &nodes, Some(vec![1]));
        }
        let mut right = nodes.clone();
        right.sort_by_key(|node| TARGET.distance(&node.id));
        let found: Vec<_> = lookup.storers().iter().map(|s| s.node).collect();
        assert!(
            found
                .iter()
                .filter(|node| right[..8].contains(node))
                .count()
                >= 7
        );
        assert!(asked < 30, "{asked}");
    }

    #[test]
    fn three_are_asked_at_once_and_slow_ones_let_others_pass() {
        let nodes: Vec<_> = (0..20).map(node).collect();
        let mut lookup = Lookup::new(Scope::Internet, TARGET, &nodes, &[]);
        let ask = |lookup: &mut Lookup| {
            let node = lookup.next()?;
            lookup.ask(node.address);
            Some(node.address)
        };
        let first: Vec<_> = std::iter::from_fn(|| ask(&mut lookup)).collect();
        assert_eq!(first.len(), 3);
        lookup.slow(first[0]);
        assert!(ask(&mut lookup).is_some());
        assert_eq!(ask(&mut lookup), None);
        lookup.fail(first[1]);
        assert!(ask(&mut lookup).is_some());
        assert!(!lookup.is_done());
    }

    #[test]
    fn nobodys_word_sends_queries_where_there_are_no_nodes() {
        let liar = node(1);
        let mut lookup = Lookup::new(Scope::Internet, TARGET, &[liar], &[]);
        let victim = Ipv4Addr::new(11, 99, 0, 1);
        let mut lies: Vec<_> = (2000..2020_u16)
            .map(|port| Node {
                id: NodeId::of(victim, &mut ChaCha8Rng::seed_from_u64(port.into())),
                address: SocketAddrV4::new(victim, port),
            })
            .collect();
        for (address, port) in [
            ("127.0.0.1", 6881),
            ("10.0.0.1", 6881),
            ("100.64.0.7", 6881),
            ("224.0.0.1", 6881),
            ("11.5.5.5", 53),
        ] {
            lies.push(Node {
                id: TARGET,
                address: SocketAddrV4::new(address.parse().unwrap(), port),
            });
        }
        lookup.ask(liar.address);
        lookup.answer(liar, &lies, None);
        assert_eq!(lookup.candidates.len(), 2, "the liar and its victim, once");
    }

    #[test]
    fn a_node_of_ones_own_sends_no_queries_to_this_machine_or_to_groups() {
        let node = |address: &str| Node {
            id: TARGET,
            address: address.parse().unwrap(),
        };
        let liar = node("10.0.0.1:6881");
        for scope in [Scope::Own, Scope::Internet] {
            let mut lookup = Lookup::new(scope, TARGET, &[liar], &[]);
            let lies = [
                node("127.0.0.1:8080"),
                node("239.1.2.3:6881"),
                node("255.255.255.255:6881"),
                node("0.0.0.0:6881"),
                node("10.0.0.2:22"),
                node("10.0.0.2:6881"),
            ];
            lookup.ask(liar.address);
            lookup.answer(liar, &lies, None);
            let known: Vec<_> = lookup.candidates.iter().map(|c| c.node).collect();
            assert_eq!(known, [liar, lies[5]], "{scope:?}");
        }
    }

    #[test]
    fn one_node_tells_of_no_more_than_a_few() {
        let liar = node(1);
        let mut lookup = Lookup::new(Scope::Internet, TARGET, &[liar], &[]);
        let lies: Vec<_> = (100..2000).map(node).collect();
        lookup.ask(liar.address);
        for lies in lies.chunks(20) {
            lookup.answer(liar, lies, None);
        }
        assert_eq!(lookup.candidates.len(), 1 + MAX_OF_ONE);
    }

    #[test]
    fn a_name_that_was_chosen_is_behind_all_that_were_not() {
        for last in [TARGET.0[19], TARGET.0[19] ^ 1] {
            let mut near = node(7);
            near.id = TARGET;
            near.id.0[19] = last;
            assert!(!near.id.fits(*near.address.ip(), Scope::Internet));
            let lookup = Lookup::new(Scope::Internet, TARGET, &[near, node(8), node(9)], &[]);
            assert_eq!(lookup.candidates.last().unwrap().node, near);
        }
    }

    /// Whoever is asked learns the place, and could call itself, and others, like it.
    #[test]
    fn nobody_is_nearest_by_taking_the_places_own_name() {
        let address = node(7).address;
        let liar = Node {
            id: TARGET,
            address,
        };
        let others: Vec<_> = (8..20).map(node).collect();
        let mut lookup = Lookup::new(Scope::Internet, TARGET, &others, &[address]);
        assert_eq!(
            lookup.next(),
            Some(liar),
            "an address without a name is first"
        );
        lookup.ask(address);
        let helpers: Vec<_> = (30..38).map(node).collect();
        let helpers: Vec<_> = helpers.iter().map(|n| Node { id: TARGET, ..*n }).collect();
        lookup.answer(liar, &helpers, Some(vec![1]));
        let ask = |lookup: &mut Lookup| {
            let node = lookup.next()?;
            lookup.ask(node.address);
            lookup.answer(node, &[], Some(vec![1]));
            Some(node)
        };
        while ask(&mut lookup).is_some() {}
        let storers = lookup.storers();
        assert_eq!(storers.len(), CLOSEST);
        let is_liars = |storer: &Storer| storer.node.id == TARGET;
        assert!(!storers.iter().any(is_liars), "{storers:?}");
    }

    #[test]
    fn a_walk_that_finds_no_end_is_ended() {
        let mut lookup = Lookup::new(Scope::Internet, TARGET, &[node(0)], &[]);
        let (mut asked, mut number) = (0, 1);
        while let Some(node) = lookup.next() {
            lookup.ask(node.address);
            asked += 1;
            let told: Vec<_> = (number..number + 20).map(self::node).collect();
            number += 20;
            lookup.answer(node, &told, None);
            assert!(lookup.candidates.len() <= MAX_CANDIDATES);
        }
        assert!(asked <= MAX_QUERIES);
        assert!(lookup.is_done());
    }
}
