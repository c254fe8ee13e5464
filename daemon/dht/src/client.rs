//! A client of the DHT: it finds and stores mutable items (BEP 44), and answers nobody.
//!
//! Call [`Client::get`] and [`Client::put`]; hand in what comes by [`Client::handle_datagram`], the time by
//! [`Client::handle_timeout`] at [`Client::poll_timeout`]; and drain [`Client::poll_transmit`] and [`Client::poll_event`].
//! One place has one operation at a time: who asks for what is being asked for joins, and every item that is newer than what the
//! operation has found is told of when it comes.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::closest::Closest;
pub use crate::events::{Event, How, Report, Transmit};
use crate::id::{NodeId, Scope};
use crate::item::{self, Item, VALUE_LENGTH};
use crate::krpc::{Answer, Body, Node, failure};
use crate::lookup::{CLOSEST, Lookup};
use crate::operation::{Operation, Storing};
use crate::pace::Pace;
pub use crate::pace::Urgency;
use crate::queries::{Late, Purpose, Queries, Waiting};
use crate::table::Table;
use crate::votes::Votes;

/// Operations at once that somebody waits for, and those that nobody waits for.
const MAX_SOON: usize = 24;
const MAX_IDLE: usize = 6;
/// Addresses at which it begins when no node is known.
const MAX_BOOTSTRAP: usize = 64;
/// How many of them are asked in one walk.
const BOOTSTRAP_AT_ONCE: usize = 8;
/// With fewer nodes known, walks begin at the bootstrap addresses, too.
const FEW_NODES: usize = 8;
/// The nodes that the table is refreshed for, if it has fewer.
const ENOUGH_NODES: usize = 16;
/// How often the table is refreshed: at first, and once it has enough.
const REFRESH_SOON: Duration = Duration::from_secs(15);
const REFRESH_LATE: Duration = Duration::from_secs(15 * 60);
/// Nodes that are worth remembering.
const MAX_REMEMBERED: usize = 50;
/// An item that so many nodes have taken is stored.
const ENOUGH_STORED: usize = 4;
/// Datagrams and events that wait to be drained; the oldest goes.
const MAX_QUEUE: usize = 512;

/// A client of the DHT.
#[derive(Debug)]
pub struct Client {
    scope: Scope,
    own: NodeId,
    rng: ChaCha20Rng,
    table: Table,
    bootstrap: Vec<SocketAddrV4>,
    operations: BTreeMap<NodeId, Operation>,
    queries: Queries,
    closest: Closest,
    pace: Pace,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    votes: Votes,
    refresh_at: Option<Instant>,
    /// When a query may go out that waits for its turn.
    turn_at: Option<Instant>,
    report: Report,
}

impl Client {
    /// A client that knows nobody. `seed` must be fresh randomness.
    pub fn new(seed: [u8; 32], scope: Scope) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            scope,
            own: NodeId::random(&mut rng),
            rng,
            table: Table::new(scope),
            bootstrap: Vec::new(),
            operations: BTreeMap::new(),
            queries: Queries::default(),
            closest: Closest::default(),
            pace: Pace::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            votes: Votes::default(),
            refresh_at: None,
            turn_at: None,
            report: Report::default(),
        }
    }

    /// Here nodes may be: at most 64 addresses are kept, the newest first. The table is filled at once.
    pub fn bootstrap(&mut self, addresses: &[SocketAddrV4], now: Instant) {
        self.bootstrap.retain(|known| !addresses.contains(known));
        self.bootstrap.splice(0..0, addresses.iter().copied());
        self.bootstrap.truncate(MAX_BOOTSTRAP);
        self.refresh_at = Some(now);
        self.advance(now);
    }

    /// The machine is elsewhere: nodes are looked for at once, under another name, by which nobody there knows it.
    pub fn handle_network_changed(&mut self, now: Instant) {
        (self.own, self.votes) = (NodeId::random(&mut self.rng), Votes::default());
        self.bootstrap(&[], now);
    }

    /// Looks for the item of a key. Tells whether that is under way now; there may be too much else.
    pub fn get(&mut self, key: [u8; 32], how: How, urgency: Urgency, now: Instant) -> bool {
        let place = item::place(&key);
        if let Some(operation) = self.operations.get_mut(&place) {
            operation.urgency = operation.urgency.min(urgency);
            return true;
        }
        if self.is_busy(urgency) {
            return false;
        }
        let known = self.closest.nodes(place, now);
        let (lookup, walks) = match (how, known) {
            (How::Ask(count), Some(mut nodes)) => {
                while nodes.len() > count.max(1) {
                    let at = self.rng.next_u32() as usize % nodes.len();
                    nodes.swap_remove(at);
                }
                (Lookup::only(self.scope, place, &nodes), false)
            }
            (_, known) => (self.walk(place, &known.unwrap_or_default()), true),
        };
        self.begin(place, (Some(key), urgency), Some(lookup), walks);
        self.advance(now);
        true
    }

    /// Stores an item at the nodes nearest to it. Tells whether that is under way now; there may be too much else.
    pub fn put(&mut self, item: Item, urgency: Urgency, now: Instant) -> bool {
        let place = item.place();
        if let Some(operation) = self.operations.get_mut(&place) {
            operation.urgency = operation.urgency.min(urgency);
            operation.item = Some(item);
            return true;
        }
        if self.is_busy(urgency) {
            return false;
        }
        let storers = self.closest.storers(place, now);
        let key = (Some(item.key), urgency);
        match storers {
            Some(storers) => {
                let operation = self.begin(place, key, None, false);
                operation.storing = Some(Storing {
                    item,
                    to: storers.into(),
                    under_way: 0,
                    stored: 0,
                    by_heart: true,
                });
            }
            None => {
                let known = self.closest.nodes(place, now).unwrap_or_default();
                let lookup = self.walk(place, &known);
                self.begin(place, key, Some(lookup), true).item = Some(item);
            }
        }
        self.advance(now);
        true
    }

    /// Nothing more is looked for or stored there.
    pub fn forget(&mut self, place: NodeId) {
        self.closest.forget(place);
    }

    fn is_busy(&self, urgency: Urgency) -> bool {
        let operations = self.operations.values();
        let same = operations.filter(|operation| operation.urgency == urgency);
        same.count()
            >= match urgency {
                Urgency::Soon => MAX_SOON,
                Urgency::Idle => MAX_IDLE,
            }
    }

    /// A walk from the nodes that are known.
    fn walk(&mut self, place: NodeId, known: &[Node]) -> Lookup {
        let mut nodes = known.to_vec();
        nodes.extend(self.table.closest(place, 2 * CLOSEST));
        let mut addresses = Vec::new();
        if self.table.len() < FEW_NODES && !self.bootstrap.is_empty() {
            for _ in 0..BOOTSTRAP_AT_ONCE {
                let at = self.rng.next_u32() as usize % self.bootstrap.len();
                addresses.extend(self.bootstrap.get(at));
            }
        }
        Lookup::new(self.scope, place, &nodes, &addresses)
    }

    fn begin(
        &mut self,
        place: NodeId,
        (key, urgency): (Option<[u8; 32]>, Urgency),
        lookup: Option<Lookup>,
        walks: bool,
    ) -> &mut Operation {
        self.report.lookups += 1;
        self.operations.entry(place).or_insert(Operation {
            key,
            urgency,
            lookup,
            walks,
            item: None,
            storing: None,
            stored: None,
            outdated: false,
            answers: 0,
            newest: None,
        })
    }

    /// A node does not answer whoever asks it in place of a STUN server: another one is wanted.
    pub fn refuse_vantage(&mut self, node: SocketAddrV4) {
        self.table.refuse(node);
    }

    // --- what comes ---

    /// A datagram has come. Whatever answers nothing that was asked is passed over, queries too; tells whether it was an answer.
    pub fn handle_datagram(&mut self, from: SocketAddr, bytes: &[u8], now: Instant) -> bool {
        let Some((answer, waiting)) = self.awaited(from, bytes) else {
            self.report.ignored += 1;
            return false;
        };
        let _ = self.answer(answer, waiting, now);
        self.advance(now);
        true
    }

    /// What was awaited from there.
    fn awaited(&mut self, from: SocketAddr, bytes: &[u8]) -> Option<(Answer, Waiting)> {
        let SocketAddr::V4(from) = from else {
            return None;
        };
        let answer = Answer::decode(bytes).ok()?;
        let waiting = self.queries.end(&answer.transaction, from)?;
        Some((answer, waiting))
    }

    fn answer(&mut self, answer: Answer, waiting: Waiting, now: Instant) -> Option<()> {
        let from = waiting.to;
        self.report.received += 1;
        self.report.answered = Some(now);
        self.report.silent_since = None;
        if let Some(seen) = answer.seen {
            self.vote(*from.ip(), *seen.ip());
        }
        let Body::Done {
            id,
            nodes,
            token,
            item,
        } = answer.body
        else {
            let Body::Failed(number) = answer.body else {
                return Some(());
            };
            self.refused(waiting, number);
            return Some(());
        };
        let node = Node { id, address: from };
        self.table.insert(node, self.own, now);
        if answer.seen.is_some() {
            self.table.tells(from);
        }
        let operation = self.operations.get_mut(&waiting.place)?;
        match waiting.purpose {
            Purpose::Look => {
                operation.answers += 1;
                if let Some(token) = token.clone() {
                    self.closest.renew(waiting.place, node, token, now);
                }
                if let Some(lookup) = &mut operation.lookup {
                    lookup.answer(node, &nodes, token);
                }
                let is_right = |item: &Item| {
                    Some(item.key) == operation.key
                        && item.value.len() == VALUE_LENGTH
                        && operation.newest.is_none_or(|newest| item.seq > newest)
                        && item.is_authentic()
                };
                if let Some(item) = item.filter(is_right) {
                    operation.newest = Some(item.seq);
                    self.report.found += 1;
                    self.tell(Event::Found(item));
                }
            }
            Purpose::Store => {
                operation.answers += 1;
                if let Some(storing) = &mut operation.storing {
                    storing.under_way = storing.under_way.saturating_sub(1);
                    storing.stored += 1;
                }
            }
        }
        Some(())
    }

    /// A node has refused a query.
    fn refused(&mut self, waiting: Waiting, number: i64) {
        if let Some(operation) = self.operations.get_mut(&waiting.place) {
            operation.outdated |= number == failure::OLDER;
        }
        self.without_answer(waiting);
    }

    /// A node has not done what was asked.
    fn without_answer(&mut self, waiting: Waiting) {
        self.closest.fail(waiting.place, waiting.to);
        let Some(operation) = self.operations.get_mut(&waiting.place) else {
            return;
        };
        match waiting.purpose {
            Purpose::Look => {
                if let Some(lookup) = &mut operation.lookup {
                    lookup.fail(waiting.to);
                }
            }
            Purpose::Store => {
                if let Some(storing) = &mut operation.storing {
                    storing.under_way = storing.under_way.saturating_sub(1);
                }
            }
        }
    }

    /// A node tells where it sees this machine.
    fn vote(&mut self, from: Ipv4Addr, seen: Ipv4Addr) {
        let voter = (from, self.scope.is_public(from));
        if let Some(seen) = self.votes.add(voter, seen) {
            if !self.own.fits(seen, self.scope) {
                self.own = NodeId::of(seen, &mut self.rng);
            }
            self.tell(Event::Seen(seen));
        }
    }

    fn tell(&mut self, event: Event) {
        if self.events.len() >= MAX_QUEUE {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    // --- time ---

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for late in self.queries.late(now) {
            match late {
                Late::Slow(waiting) => {
                    let operation = self.operations.get_mut(&waiting.place);
                    if let Some(lookup) = operation.and_then(|o| o.lookup.as_mut())
                        && waiting.purpose == Purpose::Look
                    {
                        lookup.slow(waiting.to);
                    }
                }
                Late::Silent(waiting) => {
                    self.table.fail(waiting.to);
                    self.without_answer(waiting);
                }
            }
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh(now);
        }
        self.advance(now);
    }

    /// Looks for nodes, so that the table stays full of those that answer.
    fn refresh(&mut self, now: Instant) {
        let is_full = self.table.len() >= ENOUGH_NODES;
        let (pause, urgency) = match is_full {
            true => (REFRESH_LATE, Urgency::Idle),
            false => (REFRESH_SOON, Urgency::Soon),
        };
        // A network in which nobody answers is asked less and less often.
        let silence = self.report.silent_since.map(|at| now.duration_since(at));
        let pause = silence.map_or(pause, |silence| pause.max(silence).min(REFRESH_LATE));
        let spread = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        self.refresh_at = Some(now + pause.mul_f64(0.75 + spread / 2.0));
        let place = match is_full {
            true => NodeId::random(&mut self.rng),
            false => self.own,
        };
        let nobody = self.bootstrap.is_empty() && self.table.len() == 0;
        if !nobody && !self.operations.contains_key(&place) {
            let lookup = self.walk(place, &[]);
            self.begin(place, (None, urgency), Some(lookup), true);
        }
    }

    /// Sends what may be sent, and ends what is done.
    fn advance(&mut self, now: Instant) {
        self.turn_at = None;
        loop {
            self.end_all(now);
            let mut sent = false;
            for urgency in [Urgency::Soon, Urgency::Idle] {
                sent |= self.send(urgency, now);
            }
            if !sent {
                return;
            }
        }
    }

    /// A query of each operation, as far as the pace allows; tells whether one went out.
    fn send(&mut self, urgency: Urgency, now: Instant) -> bool {
        let operations = self.operations.iter();
        let wanting = operations.filter(|(_, o)| o.urgency == urgency && o.wants());
        let mut places: Vec<_> = wanting.map(|(place, _)| *place).collect();
        if places.is_empty() {
            return false;
        }
        let first = self.rng.next_u32() as usize % places.len();
        places.rotate_left(first);
        let mut sent = false;
        for place in places {
            let ready = self.pace.ready_at(urgency, now);
            if ready > now {
                self.turn_at = Some(self.turn_at.map_or(ready, |at| at.min(ready)));
                break;
            }
            let operation = self.operations.get_mut(&place);
            let Some((to, query, purpose)) = operation.and_then(|o| o.next(place)) else {
                continue;
            };
            let begun = self.queries.begin(to, (place, purpose), &mut self.rng, now);
            let Some(number) = begun else { break };
            self.pace.take(urgency, now);
            self.report.sent += 1;
            self.report.silent_since.get_or_insert(now);
            if self.transmits.len() >= MAX_QUEUE {
                self.transmits.pop_front();
            }
            let bytes = query.encode(number, self.own);
            self.transmits.push_back(Transmit { to, bytes });
            sent = true;
        }
        sent
    }

    fn end_all(&mut self, now: Instant) {
        let over = self.operations.iter().filter(|(_, o)| o.is_over());
        let over: Vec<_> = over.map(|(place, _)| *place).collect();
        for place in over {
            if let Some(operation) = self.operations.remove(&place) {
                self.end(place, operation, now);
            }
        }
    }

    /// A part of an operation is over: the next one begins, or it has ended.
    fn end(&mut self, place: NodeId, mut operation: Operation, now: Instant) {
        if let Some(lookup) = operation.lookup.take() {
            let storers = lookup.storers();
            if operation.walks && operation.key.is_some() && lookup.answers() > 0 {
                self.closest.set(place, storers.clone(), now);
            }
            if let Some(item) = operation.item.take() {
                let to = match operation.walks {
                    true => storers,
                    false => self.closest.storers(place, now).unwrap_or_default(),
                };
                operation.storing = Some(Storing {
                    item,
                    to: to.into(),
                    under_way: 0,
                    stored: 0,
                    by_heart: !operation.walks,
                });
                self.operations.insert(place, operation);
                return;
            }
        }
        if let Some(storing) = operation.storing.take() {
            operation.stored = Some(storing.stored);
            self.report.stored += u64::from(storing.stored > 0);
            let failed = storing.by_heart && storing.stored < ENOUGH_STORED;
            let again = operation.item.take().or(failed.then_some(storing.item));
            if let Some(item) = again {
                let walk = self.walk(place, &[]);
                operation.lookup = Some(walk);
                operation.walks = true;
                operation.item = Some(item);
                self.operations.insert(place, operation);
                return;
            }
        }
        if operation.key.is_none() {
            if self.table.len() > 0 {
                let nodes = self.table.newest(MAX_REMEMBERED);
                self.tell(Event::Nodes(nodes));
            }
            return;
        }
        self.tell(Event::Done {
            place,
            answers: operation.answers,
            stored: operation.stored,
            outdated: operation.outdated,
        });
    }

    // --- what goes out ---

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.queries.poll_timeout(), self.refresh_at, self.turn_at];
        times.into_iter().flatten().min()
    }

    /// What there is to be shown.
    pub fn report(&self) -> Report {
        Report {
            nodes: self.table.len(),
            places: self.closest.len(),
            operations: self.operations.len(),
            vantage: self.table.vantage().to_vec(),
            ..self.report.clone()
        }
    }
}
