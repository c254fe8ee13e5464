//! Ten thousand things in any order: what the hub says is what a simple model says, and when all have gone nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use punch_signal::hub::{ConnectionId, Limits, Output, QUIET};
use punch_signal_protocol::{Frame, PeerId, Refusal, Unreachable};

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

fn limits() -> Limits {
    Limits {
        connections: 40,
        unproven_per_address: 4,
        rate: 20,
        burst: 40,
        watches: 5,
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

    fn close(&mut self, connection: ConnectionId) {
        if self.open.remove(&connection).is_some() {
            self.past.push(connection);
        }
        self.watches.retain(|(watcher, _)| *watcher != connection);
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
                    self.close(connection);
                }
            }
            _ => self.waits(),
        }
        assert_eq!(self.harness.outputs(), []);
        let online = self.open.values().filter(|(_, id)| id.is_some()).count();
        assert_eq!(self.harness.hub.online(), online);
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
            assert_eq!(outputs.len(), 1);
            self.close(connection);
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
            assert_eq!(outputs, [Output::Close(connection, why)]);
            self.close(connection);
            return;
        }
        let mut expected = Vec::new();
        if let Some(older) = self.online(id(who)) {
            expected.push(Output::Close(older, Refusal::Replaced));
            self.close(older);
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
                self.close(connection);
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
        let full = mine.count() >= limits().watches;
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
            *first = [1, 64, 65, 66, 67, 68, 69, 70, 99][self.dice.roll(9)];
        }
        if matches!(
            Frame::decode(&bytes),
            Ok(Frame::Watch(_)
                | Frame::Unwatch(_)
                | Frame::Send { .. }
                | Frame::ClientCapabilities(_))
        ) {
            return;
        }
        if let Some(outputs) = self.says(connection, &bytes) {
            assert_eq!(outputs.len(), 1, "{bytes:?}");
            assert!(matches!(outputs[0], Output::Close(who, _) if who == connection));
            self.close(connection);
        }
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
        for output in self.harness.pass(Duration::from_millis(pause)) {
            match output {
                Output::Close(connection, Refusal::TimedOut) => {
                    assert!(self.open.contains_key(&connection));
                    self.close(connection);
                }
                other => announced.push(other),
            }
        }
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

#[test]
fn the_hub_does_what_the_model_does_and_forgets_everybody_in_the_end() {
    for seed in 0..4 {
        let mut model = Model::new(seed);
        for _ in 0..10_000 {
            model.act();
        }
        let counters = model.harness.hub.counters();
        assert!(
            counters.delivered > 400 && counters.logins > 200,
            "{counters:?}"
        );
        let open: Vec<_> = model.open.keys().copied().collect();
        for connection in open.into_iter().chain(model.past.clone()) {
            model.harness.hub.handle_disconnect(connection);
        }
        assert_eq!(model.harness.hub.online(), 0);
        assert_eq!(model.harness.outputs(), []);

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
    model.harness.pass(Duration::from_secs(60));
    let shown = format!("{:?}", model.harness.hub);
    for empty in [
        "connections: {}",
        "online: {}",
        "watches: {}",
        "told: {}",
        "sources: {}",
        "absent: []",
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
