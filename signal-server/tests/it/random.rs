//! Ten thousand things in any order: what the hub says is what a simple model says, and when all have gone nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use punch_signal::hub::relay::{LinkEnd, RelayLimits};
use punch_signal::hub::{ConnectionId, Limits, Output, QUIET, WatchLimits};
use punch_signal_protocol::{Frame, PeerId, Refusal, RelayLink, RelayToken, Unreachable};

use crate::hub_harness::{HubHarness, NAME, id, identity, ip, welcome};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.roll(most + 1);
        (0..length).map(|_| self.roll(256) as u8).collect()
    }
}

const PEOPLE: usize = 8;
const ADDRESSES: usize = 4;
const TOKENS: usize = 5;

fn limits() -> Limits {
    Limits {
        connections: 40,
        unproven_per_address: 4,
        rate: 20,
        burst: 40,
        watches: WatchLimits {
            per_client: 5,
            ..WatchLimits::default()
        },
        relay: Some(RelayLimits {
            joins: TOKENS,
            links: 3,
            ..RelayLimits::default()
        }),
        ..Limits::default()
    }
}

struct Model {
    harness: HubHarness,
    dice: Dice,
    /// Challenge, and identity once proven.
    open: BTreeMap<ConnectionId, ([u8; 32], Option<PeerId>)>,
    watches: BTreeSet<(ConnectionId, PeerId)>,
    /// Until when who was announced is not announced again, and whether it has logged in again.
    told: BTreeMap<PeerId, (Instant, bool)>,
    /// Joins that wait, and until when.
    joins: BTreeMap<RelayToken, (ConnectionId, Instant)>,
    links: BTreeMap<RelayToken, [LinkEnd; 2]>,
    /// The last number that each connection has for a link.
    numbers: BTreeMap<ConnectionId, u32>,
    past: Vec<ConnectionId>,
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            harness: HubHarness::with(limits()),
            dice: Dice(seed),
            open: BTreeMap::new(),
            watches: BTreeSet::new(),
            told: BTreeMap::new(),
            joins: BTreeMap::new(),
            links: BTreeMap::new(),
            numbers: BTreeMap::new(),
            past: Vec::new(),
        }
    }

    fn somebody(&mut self) -> u16 {
        self.dice.roll(PEOPLE) as u16
    }

    fn connection(&mut self) -> Option<ConnectionId> {
        // Now and then one that is long gone.
        if self.dice.roll(20) == 0 && !self.past.is_empty() {
            let index = self.dice.roll(self.past.len());
            return Some(self.past[index]);
        }
        let index = self.dice.roll(self.open.len().max(1));
        self.open.keys().nth(index).copied()
    }

    /// A connection is gone; what its links' other ends are told.
    fn close(&mut self, connection: ConnectionId) -> Vec<Output> {
        self.joins.retain(|_, (waits, _)| *waits != connection);
        let mut mine: Vec<_> = self.links_of(connection).collect();
        mine.sort_by_key(|(_, end, _)| end.link);
        let mut told = Vec::new();
        for (token, end, other) in mine {
            self.links.remove(&token);
            told.extend(unlinked(end, other));
        }
        if self.open.remove(&connection).is_some() {
            self.past.push(connection);
        }
        self.watches.retain(|(watcher, _)| *watcher != connection);
        told
    }

    /// Each link of a connection: its token, this end and the other.
    fn links_of(
        &self,
        connection: ConnectionId,
    ) -> impl Iterator<Item = (RelayToken, LinkEnd, LinkEnd)> {
        self.links.iter().filter_map(move |(token, [one, two])| {
            if one.connection == connection {
                Some((*token, *one, *two))
            } else if two.connection == connection {
                Some((*token, *two, *one))
            } else {
                None
            }
        })
    }

    fn online(&self, who: PeerId) -> Option<ConnectionId> {
        let found = self.open.iter().find(|(_, (_, id))| *id == Some(who));
        found.map(|(connection, _)| *connection)
    }

    fn act(&mut self) {
        match self.dice.roll(40) {
            0..=3 => self.connects(),
            4..=8 => self.proves(),
            9..=29 => self.sends(),
            30 | 31 => self.watches(),
            32 | 33 => self.unwatches(),
            34 => self.babbles(),
            35 => {
                if let Some(connection) = self.connection() {
                    self.harness.hub.handle_disconnect(connection);
                    let told = self.close(connection);
                    assert_eq!(self.harness.outputs(), told);
                }
            }
            36 | 37 => self.joins(),
            38 if self.dice.roll(2) == 0 => self.leaves(),
            _ => self.waits(),
        }
        assert_eq!(self.harness.outputs(), []);
        let online = self.open.values().filter(|(_, id)| id.is_some()).count();
        assert_eq!(self.harness.hub.online(), online);
        assert_eq!(self.harness.hub.relay_links(), self.links.len());
    }

    fn connects(&mut self) {
        let address = ip(self.dice.roll(ADDRESSES) as u8);
        if let Ok((connection, nonce)) = self.harness.connect_from(address) {
            assert!(self.open.len() < 40);
            self.open.insert(connection, (nonce, None));
        }
    }

    /// Says something, and takes out what closes the speaker's own connection.
    fn says(&mut self, connection: ConnectionId, bytes: &[u8]) -> Option<Vec<Output>> {
        let mut outputs = self.harness.say_bytes(connection, bytes);
        if !self.open.contains_key(&connection) {
            assert_eq!(outputs, [], "nobody is there");
            return None;
        }
        let too_fast = Output::Close(connection, Refusal::TooFast);
        if outputs.first() == Some(&too_fast) {
            let told = self.close(connection);
            assert_eq!(outputs[1..], told);
            outputs.clear();
            return None;
        }
        Some(outputs)
    }

    fn proves(&mut self) {
        let mut waiting = self.open.iter().filter(|(_, (_, id))| id.is_none());
        let waiting = waiting.next().map(|(connection, _)| *connection);
        // Mostly one that has not proven anything yet.
        let any = self.connection();
        let chosen = if self.dice.roll(8) > 0 { waiting } else { any };
        let (Some(connection), who) = (chosen, self.somebody()) else {
            return;
        };
        let entry = self.open.get(&connection).copied();
        let (nonce, proven) = entry.unwrap_or(([0; 32], None));
        let good = self.dice.roll(5) > 0;
        let nonce = if good { nonce } else { [1; 32] };
        let proof = Frame::proof(&identity(who), &nonce, NAME);
        let Some(outputs) = self.says(connection, &proof.encode()) else {
            return;
        };
        if proven.is_some() || !good {
            let why = if proven.is_some() {
                Refusal::BadFrame
            } else {
                Refusal::BadProof
            };
            let mut expected = vec![Output::Close(connection, why)];
            expected.extend(self.close(connection));
            assert_eq!(outputs, expected);
            return;
        }
        let mut expected = Vec::new();
        if let Some(older) = self.online(id(who)) {
            expected.push(Output::Close(older, Refusal::Replaced));
            expected.extend(self.close(older));
        }
        self.open.insert(connection, (nonce, Some(id(who))));
        expected.extend(welcome(connection));
        let now = self.harness.now;
        let announced = self.announced(id(who));
        match self.told.get_mut(&id(who)) {
            _ if announced.is_empty() => {}
            Some((until, again)) if *until > now => *again = true,
            _ => {
                self.told.insert(id(who), (now + QUIET, false));
                expected.extend(announced);
            }
        }
        assert_eq!(outputs, expected);
    }

    /// What those who watch `who` are told.
    fn announced(&self, who: PeerId) -> Vec<Output> {
        let watchers = self.watches.iter().filter(|(_, watched)| *watched == who);
        watchers
            .map(|(watcher, _)| Output::Send(*watcher, Frame::Appeared(who)))
            .collect()
    }

    /// The identity of a speaker; one without is closed for speaking.
    fn speaks(&mut self, frame: &Frame) -> Option<(ConnectionId, PeerId, Vec<Output>)> {
        let any = self.connection();
        let proven = self.open.iter().filter(|(_, (_, id))| id.is_some());
        let proven: Vec<_> = proven.map(|(connection, _)| *connection).collect();
        let connection = if self.dice.roll(20) > 0 && !proven.is_empty() {
            proven[self.dice.roll(proven.len())]
        } else {
            any?
        };
        let outputs = self.says(connection, &frame.encode())?;
        match self.open[&connection].1 {
            Some(who) => Some((connection, who, outputs)),
            None => {
                assert_eq!(outputs, [Output::Close(connection, Refusal::BadFrame)]);
                assert_eq!(self.close(connection), []);
                None
            }
        }
    }

    fn sends(&mut self) {
        let (to, envelope) = (id(self.somebody()), self.dice.bytes(100));
        let frame = Frame::Send {
            to,
            envelope: envelope.clone(),
        };
        let Some((connection, from, outputs)) = self.speaks(&frame) else {
            return;
        };
        let expected = match self.online(to) {
            Some(receiver) => Output::Send(receiver, Frame::Deliver { from, envelope }),
            None => {
                let why = Unreachable::Offline;
                Output::Send(connection, Frame::Unreachable { to, why })
            }
        };
        assert_eq!(outputs, std::slice::from_ref(&expected));
        if let (Output::Send(receiver, frame @ Frame::Deliver { .. }), 0) =
            (&expected, self.dice.roll(4))
        {
            self.harness.hub.handle_overflow(*receiver, frame);
            let why = Unreachable::Full;
            let told = Output::Send(connection, Frame::Unreachable { to, why });
            assert_eq!(self.harness.outputs(), [told]);
        }
    }

    fn watches(&mut self) {
        let who = id(self.somebody());
        let Some((connection, _, outputs)) = self.speaks(&Frame::Watch(who)) else {
            return;
        };
        let mine = |(watcher, _): &&(ConnectionId, PeerId)| *watcher == connection;
        if self.watches.iter().filter(mine).count() >= 5
            && !self.watches.contains(&(connection, who))
        {
            assert_eq!(outputs, []);
            return;
        }
        let mine = self
            .watches
            .iter()
            .filter(|(watcher, _)| *watcher == connection);
        let full = mine.count() >= limits().watches.per_client;
        if full && !self.watches.contains(&(connection, who)) {
            assert_eq!(outputs, [], "one too many is passed over");
            return;
        }
        self.watches.insert((connection, who));
        let expected = self
            .online(who)
            .map(|_| Output::Send(connection, Frame::Appeared(who)));
        assert_eq!(outputs, expected.into_iter().collect::<Vec<_>>());
    }

    fn unwatches(&mut self) {
        let who = id(self.somebody());
        let Some((connection, _, outputs)) = self.speaks(&Frame::Unwatch(who)) else {
            return;
        };
        self.watches.remove(&(connection, who));
        assert_eq!(outputs, []);
    }

    /// Any bytes; only such as mean something by chance do not close the connection.
    fn babbles(&mut self) {
        let Some(connection) = self.connection() else {
            return;
        };
        let mut bytes = self.dice.bytes(5000);
        if let Some(first) = bytes.first_mut()
            && self.dice.roll(2) == 0
        {
            *first = [1, 32, 64, 65, 66, 67, 68, 69, 70, 71, 72, 96, 99][self.dice.roll(13)];
        }
        if matches!(
            Frame::decode(&bytes),
            Ok(Frame::Watch(_)
                | Frame::Unwatch(_)
                | Frame::Send { .. }
                | Frame::RelayJoin(_)
                | Frame::RelayLeave(_)
                | Frame::ClientCapabilities(_))
        ) {
            return;
        }
        if let Some(outputs) = self.says(connection, &bytes) {
            assert!(matches!(outputs[0], Output::Close(who, _) if who == connection));
            let told = self.close(connection);
            assert_eq!(outputs[1..], told, "{bytes:?}");
        }
    }

    fn joins(&mut self) {
        let token = RelayToken([self.dice.roll(TOKENS) as u8; 16]);
        let Some((connection, who, outputs)) = self.speaks(&Frame::RelayJoin(token)) else {
            return;
        };
        let now = self.harness.now;
        self.joins.retain(|_, (_, until)| *until > now);
        let waits = self.joins.get(&token).copied();
        let first = waits.filter(|(first, _)| self.open[first].1 != Some(who));
        if self.links.contains_key(&token) {
            assert_eq!(outputs, [], "others have it");
        } else if let Some((first, _)) = first {
            let is_full = [first, connection].map(|end| self.links_of(end).count() >= 3);
            if is_full.contains(&true) {
                assert_eq!(outputs, [], "one of them has as many as it may");
                return;
            }
            let [one, two] = [first, connection].map(|connection| {
                let number = self.numbers.entry(connection).or_default();
                *number += 1;
                let link = RelayLink(*number);
                LinkEnd { connection, link }
            });
            let ready = |LinkEnd { connection, link }| {
                Output::Send(connection, Frame::RelayReady { token, link })
            };
            assert_eq!(outputs, [Output::Link(one, two), ready(one), ready(two)]);
            self.joins.remove(&token);
            self.links.insert(token, [one, two]);
        } else {
            assert_eq!(outputs, []);
            let until = now + Duration::from_secs(30);
            self.joins.insert(token, (connection, until));
        }
        assert_eq!(self.harness.hub.relay_joins(), self.joins.len());
    }

    fn leaves(&mut self) {
        let link = RelayLink(self.dice.roll(4) as u32 + 1);
        let Some((connection, _, outputs)) = self.speaks(&Frame::RelayLeave(link)) else {
            return;
        };
        let found = self
            .links_of(connection)
            .find(|(_, end, _)| end.link == link);
        let Some((token, end, other)) = found else {
            assert_eq!(outputs, []);
            return;
        };
        self.links.remove(&token);
        assert_eq!(outputs, unlinked(end, other));
    }

    fn waits(&mut self) {
        let pause = [10, 100, 1000, 30_000][self.dice.roll(4)];
        let pause = self.dice.roll(pause) as u64;
        for connection in self.open.keys().copied().collect::<Vec<_>>() {
            if self.dice.roll(3) > 0 {
                let now = self.harness.now;
                self.harness.hub.handle_alive(connection, now);
            }
        }
        let mut announced = Vec::new();
        let (mut told, mut heard) = (Vec::new(), Vec::new());
        for output in self.harness.pass(Duration::from_millis(pause)) {
            match output {
                Output::Close(connection, Refusal::TimedOut) => {
                    assert!(self.open.contains_key(&connection));
                    told.extend(self.close(connection));
                }
                output @ (Output::Unlink(..) | Output::Send(_, Frame::RelayGone(_))) => {
                    heard.push(output);
                }
                other => announced.push(other),
            }
        }
        assert_eq!(heard, told);
        let now = self.harness.now;
        let mut expected = Vec::new();
        for who in self.told.keys().copied().collect::<Vec<_>>() {
            let (until, again) = self.told[&who];
            if until > now {
                continue;
            }
            self.told.remove(&who);
            if again {
                self.told.insert(who, (now + QUIET, false));
            }
            if again && self.online(who).is_some() {
                expected.extend(self.announced(who));
            }
        }
        assert_eq!(announced, expected);
    }
}

/// What the end of a link leads to.
fn unlinked(end: LinkEnd, other: LinkEnd) -> [Output; 2] {
    let told = Output::Send(other.connection, Frame::RelayGone(other.link));
    [Output::Unlink(end, other), told]
}

#[test]
fn the_hub_does_what_the_model_does_and_forgets_everybody_in_the_end() {
    for seed in 0..4 {
        let mut model = Model::new(seed);
        for _ in 0..10_000 {
            model.act();
        }
        let counters = model.harness.hub.counters();
        assert!(
            counters.delivered > 400 && counters.logins > 200 && counters.unknown_links > 10,
            "{counters:?}"
        );
        let open: Vec<_> = model.open.keys().copied().collect();
        for connection in open.into_iter().chain(model.past.clone()) {
            model.harness.hub.handle_disconnect(connection);
            let told = model.close(connection);
            assert_eq!(model.harness.outputs(), told);
        }
        assert_eq!(model.harness.hub.online(), 0);
        assert_eq!(model.harness.hub.relay_links(), 0);
        assert_eq!(model.harness.hub.relay_joins(), 0);

        // Every table is empty: all room is there again, and nobody is told of anybody.
        model.harness.now += Duration::from_secs(3600);
        for address in 0..10 {
            for _ in 0..4 {
                model.harness.connect_from(ip(address)).unwrap();
            }
        }
        assert_eq!(model.harness.connect_from(ip(99)), Err(Refusal::Full));
        assert_eq!(model.harness.pass(Duration::from_secs(10)).len(), 40);
        for who in 0..PEOPLE as u16 {
            let (connection, nonce) = model.harness.connect();
            let outputs = model
                .harness
                .say(connection, &Frame::proof(&identity(who), &nonce, NAME));
            assert_eq!(outputs, welcome(connection));
        }
        assert_eq!(model.harness.hub.online(), PEOPLE);
    }
}

#[test]
fn an_emptied_hub_is_as_good_as_new() {
    // Debug shows every table: after all have gone, only numbers and counters differ from a new hub.
    let mut model = Model::new(99);
    for _ in 0..10_000 {
        model.act();
    }
    for connection in model.open.keys().copied().collect::<Vec<_>>() {
        model.harness.hub.handle_disconnect(connection);
    }
    // An identity that has logged in again within the quiet time is remembered for another one.
    model.harness.pass(Duration::from_secs(60));
    model.harness.pass(Duration::from_secs(60));
    let shown = format!("{:?}", model.harness.hub);
    for empty in [
        "connections: {}",
        "online: {}",
        "watches: {}",
        "told: {}",
        "sources: {}",
        "absent: []",
        "tokens: {}",
        "until: {}",
        "ends: {}",
        "links: 0",
        "watches: 0",
    ] {
        assert!(shown.contains(empty), "{empty} in {shown}");
    }
}

#[test]
fn any_bytes_of_a_client_are_borne() {
    let mut harness = HubHarness::new();
    let mut dice = Dice(5);
    for round in 0..20_000 {
        let connection = if round % 2 == 0 {
            harness.connect_from(ip((round % 250) as u8)).unwrap().0
        } else {
            let nonce = harness.nonce();
            let connection = harness
                .hub
                .handle_connect(ip((round % 250) as u8), nonce, harness.now)
                .unwrap();
            harness.say(connection, &Frame::proof(&identity(1), &nonce, NAME));
            connection
        };
        let mut bytes = dice.bytes(120);
        if let Some(first) = bytes.first_mut() {
            *first %= 80;
        }
        harness.say_bytes(connection, &bytes);
        harness.hub.handle_disconnect(connection);
        harness.outputs();
    }
    assert_eq!(harness.hub.online(), 0);
}
