//! The machines' connections to the signalling servers, as the daemon's client keeps them: what is sent waits while the line is cut,
//! a connection whose server does not answer is given up, and the next attempt comes after a growing pause.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_signal::hub::relay::LinkEnd;
use punch_signal::hub::{ConnectionId, Hub, Limits, Output};
use punch_signal_protocol::{Capabilities, Frame, Identity, RelayLink};

use super::program::Dice;

/// One way between a machine and a server.
pub(super) const DELAY: Duration = Duration::from_millis(12);
/// TCP, TLS and the WebSocket, before the challenge comes.
const GREETING: Duration = Duration::from_millis(100);
const NAME: &str = "signal.test:443";
/// See `daemon/src/signalling/server.rs`.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const LOGIN: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(5);

/// What the machine hears of its connections.
pub(super) enum Told {
    Up,
    Down,
    Frame(Frame),
    Packet(RelayLink, Vec<u8>),
}

/// What is under way on a connection.
enum Message {
    Frame(Vec<u8>),
    Packet(RelayLink, Vec<u8>),
}

struct UnderWay {
    at: Instant,
    connection: ConnectionId,
    up: bool,
    message: Message,
}

enum State {
    /// The next attempt.
    Pause(Instant),
    /// The server's challenge comes, if anything does.
    Opening(Instant),
    /// A connection, and whether the machine is welcome.
    Open(ConnectionId, bool),
}

/// A machine's client of one server.
struct Line {
    state: State,
    began: Instant,
    pause: Duration,
    ping: Instant,
    /// When the client takes the server for dead.
    overdue: Option<Instant>,
    /// Since when frames wait for the line, and the frames.
    held: VecDeque<(bool, Vec<u8>, Instant)>,
    /// The router has forgotten the connection: the next packet brings a reset, or nothing does.
    is_broken: bool,
}

/// A server, and the clients of both machines.
pub(super) struct Server {
    hub: Hub,
    alive: bool,
    relays: bool,
    lines: [Line; 2],
    links: BTreeMap<(ConnectionId, RelayLink), LinkEnd>,
    wire: VecDeque<UnderWay>,
    sweep: Instant,
    dice: Dice,
    told: VecDeque<(usize, Told)>,
    /// Whether a router says so when it has forgotten a connection.
    resets: bool,
}

impl Server {
    pub(super) fn new(relays: bool, resets: bool, dice: Dice, now: Instant) -> Self {
        let line = || Line {
            state: State::Pause(now),
            began: now,
            pause: FIRST_PAUSE,
            ping: now,
            overdue: None,
            held: VecDeque::new(),
            is_broken: false,
        };
        Self {
            hub: hub(relays),
            alive: true,
            relays,
            lines: [line(), line()],
            links: BTreeMap::new(),
            wire: VecDeque::new(),
            sweep: now,
            dice,
            told: VecDeque::new(),
            resets,
        }
    }

    /// Whether both machines are logged in.
    pub(super) fn joins_both(&self) -> bool {
        let welcome = |line: &Line| matches!(line.state, State::Open(_, true)) && !line.is_broken;
        self.alive && self.lines.iter().all(welcome)
    }

    /// What a machine hears.
    pub(super) fn poll_told(&mut self) -> Option<(usize, Told)> {
        self.told.pop_front()
    }

    /// The server dies, or comes back; who can hear of its death does.
    pub(super) fn set_alive(&mut self, alive: bool, passes: [bool; 2], now: Instant) {
        self.alive = alive;
        if alive {
            return;
        }
        self.hub = hub(self.relays);
        self.links.clear();
        self.wire.clear();
        for (index, passes) in passes.into_iter().enumerate() {
            self.lines[index].held.clear();
            match self.lines[index].state {
                State::Open(..) if passes => self.lose(index, now),
                State::Open(..) => self.lines[index].is_broken = true,
                _ => {}
            }
        }
    }

    /// A machine's router has forgotten its connections.
    pub(super) fn forget(&mut self, index: usize) {
        self.lines[index].is_broken = true;
        self.lines[index].held.clear();
    }

    /// A machine's client starts anew, because its network or its process is another one.
    pub(super) fn restart(&mut self, index: usize, passes: bool, now: Instant) {
        self.close(index, passes, now);
        let line = &mut self.lines[index];
        line.pause = FIRST_PAUSE;
        line.state = State::Pause(now);
    }

    /// A machine's line passes something again.
    pub(super) fn release(&mut self, index: usize, now: Instant) {
        let line = &mut self.lines[index];
        let held = std::mem::take(&mut line.held);
        let waited = now.saturating_duration_since(line.began);
        match &mut line.state {
            State::Open(connection, _) => {
                let connection = *connection;
                // The ping comes through after all, and its answer.
                line.overdue = line.overdue.filter(|_| line.is_broken);
                for (up, bytes, since) in held {
                    // TCP repeats after doubled pauses.
                    let late = now.saturating_duration_since(since) / 2;
                    self.post(now + late, connection, up, Message::Frame(bytes));
                }
            }
            // A connection is asked for again after one second, three and seven.
            State::Opening(at) => {
                let next = [1, 3, 7].map(Duration::from_secs);
                let next = next.into_iter().find(|next| *next > waited);
                *at = next.map_or(*at, |next| line.began + next + GREETING);
            }
            State::Pause(_) => {}
        }
    }

    /// Sends something that overtakes nothing.
    fn post(&mut self, from: Instant, connection: ConnectionId, up: bool, message: Message) {
        let same = |one: &&UnderWay| one.connection == connection && one.up == up;
        let before = self.wire.iter().rev().find(same).map(|one| one.at);
        self.wire.push_back(UnderWay {
            at: before.unwrap_or(from).max(from + DELAY),
            connection,
            up,
            message,
        });
    }

    /// A frame of a machine.
    pub(super) fn send(&mut self, index: usize, frame: &Frame, passes: bool, now: Instant) {
        self.push(index, true, Message::Frame(frame.encode()), passes, now);
    }

    /// A packet of a machine for the relay.
    pub(super) fn relay(
        &mut self,
        index: usize,
        link: RelayLink,
        bytes: Vec<u8>,
        passes: bool,
        now: Instant,
    ) {
        self.push(index, true, Message::Packet(link, bytes), passes, now);
    }

    fn push(&mut self, index: usize, up: bool, message: Message, passes: bool, now: Instant) {
        let line = &mut self.lines[index];
        let State::Open(connection, _) = line.state else {
            return;
        };
        let frame = matches!(message, Message::Frame(_));
        if up && (line.is_broken || !passes) && frame {
            line.overdue.get_or_insert(now + ANSWER);
        }
        if line.is_broken {
            if up && passes && self.resets {
                line.overdue = Some(now + 2 * DELAY);
            }
            return;
        }
        match message {
            Message::Frame(bytes) if !passes => line.held.push_back((up, bytes, now)),
            Message::Packet(..) if !passes => {}
            message => self.post(now, connection, up, message),
        }
    }

    /// The connection has ended, and the client waits before the next one.
    fn lose(&mut self, index: usize, now: Instant) {
        self.close(index, true, now);
        let line = &mut self.lines[index];
        if now.saturating_duration_since(line.began) > 2 * LONGEST_PAUSE {
            line.pause = FIRST_PAUSE;
        }
        self.pause(index, now);
    }

    fn pause(&mut self, index: usize, now: Instant) {
        let part = 0.5 + f64::from(self.dice.below(256)) / 255.0;
        let line = &mut self.lines[index];
        line.state = State::Pause(now + line.pause.mul_f64(part));
        line.pause = (2 * line.pause).min(LONGEST_PAUSE);
    }

    fn close(&mut self, index: usize, passes: bool, now: Instant) {
        let line = &mut self.lines[index];
        line.held.clear();
        (line.overdue, line.is_broken) = (None, false);
        if let State::Open(connection, welcome) = line.state {
            if passes {
                self.hub.handle_disconnect(connection);
            }
            if welcome {
                self.told.push_back((index, Told::Down));
            }
        }
        line.state = State::Pause(now);
    }

    /// When something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let lines = self.lines.iter().flat_map(|line| {
            let state = match line.state {
                State::Pause(at) | State::Opening(at) => at,
                State::Open(..) => line.ping,
            };
            [Some(state), line.overdue].into_iter().flatten()
        });
        let wire = self.wire.iter().map(|message| message.at);
        lines.chain(wire).chain([self.sweep]).min()
    }

    /// Does what is due.
    pub(super) fn handle_timeout(
        &mut self,
        identities: [&Identity; 2],
        passes: [bool; 2],
        now: Instant,
    ) {
        if self.sweep <= now {
            self.sweep = now + Duration::from_secs(5);
            self.hub.handle_timeout(now);
        }
        for (index, passes) in passes.into_iter().enumerate() {
            self.tend(index, passes, now);
        }
        while let Some(place) = self.wire.iter().position(|message| message.at <= now) {
            if let Some(message) = self.wire.remove(place) {
                self.arrive(message, identities, passes, now);
            }
            self.drain(passes, now);
        }
        self.drain(passes, now);
    }

    fn tend(&mut self, index: usize, passes: bool, now: Instant) {
        let line = &mut self.lines[index];
        if line.overdue.is_some_and(|at| at <= now) {
            line.overdue = None;
            if matches!(line.state, State::Open(..)) {
                self.lose(index, now);
            }
            return;
        }
        match line.state {
            State::Pause(at) if at <= now => {
                line.began = now;
                line.state = State::Opening(now + if passes { GREETING } else { LOGIN });
            }
            State::Opening(at) if at <= now => {
                let address = IpAddr::from([192, 0, 2, index as u8 + 1]);
                let nonce = [index as u8; 32];
                let opened = (passes && self.alive)
                    .then(|| self.hub.handle_connect(address, nonce, now).ok());
                let line = &mut self.lines[index];
                match opened.flatten() {
                    Some(connection) => {
                        line.state = State::Open(connection, false);
                        line.ping = now + PING;
                        line.overdue = Some(now + LOGIN);
                    }
                    None => self.pause(index, now),
                }
            }
            State::Open(connection, _) if line.ping <= now => {
                line.ping = now + PING;
                if line.is_broken || !passes {
                    let soon = if self.resets && passes {
                        2 * DELAY
                    } else {
                        ANSWER
                    };
                    line.overdue.get_or_insert(now + soon);
                } else {
                    self.hub.handle_alive(connection, now);
                }
            }
            _ => {}
        }
    }

    fn index_of(&self, connection: ConnectionId) -> Option<usize> {
        let is = |line: &Line| matches!(line.state, State::Open(own, _) if own == connection);
        self.lines.iter().position(is)
    }

    fn arrive(
        &mut self,
        under_way: UnderWay,
        identities: [&Identity; 2],
        passes: [bool; 2],
        now: Instant,
    ) {
        let UnderWay {
            connection,
            up,
            message,
            ..
        } = under_way;
        let Some(index) = self.index_of(connection) else {
            return;
        };
        match (up, message) {
            (true, Message::Frame(bytes)) => self.hub.handle_message(connection, &bytes, now),
            (true, Message::Packet(link, bytes)) => {
                let end = self.links.get(&(connection, link)).copied();
                let to = end.and_then(|end| Some((self.index_of(end.connection)?, end.link)));
                if let Some((to, link)) = to {
                    self.push(to, false, Message::Packet(link, bytes), passes[to], now);
                }
            }
            (false, Message::Frame(bytes)) if !passes[index] => {
                self.lines[index].held.push_back((false, bytes, now));
            }
            (false, Message::Packet(link, bytes)) => {
                self.told.push_back((index, Told::Packet(link, bytes)));
            }
            (false, Message::Frame(bytes)) => {
                let Ok(frame) = Frame::decode(&bytes) else {
                    return;
                };
                self.hear(index, frame, identities[index], passes[index], now);
            }
        }
    }

    fn hear(
        &mut self,
        index: usize,
        frame: Frame,
        identity: &Identity,
        passes: bool,
        now: Instant,
    ) {
        match frame {
            Frame::Challenge(nonce) => {
                let proof = Frame::proof(identity, &nonce, NAME);
                self.send(index, &proof, passes, now);
            }
            Frame::Welcome => {
                let line = &mut self.lines[index];
                line.overdue = None;
                if let State::Open(_, welcome) = &mut line.state {
                    *welcome = true;
                }
                self.told.push_back((index, Told::Up));
            }
            frame => {
                if matches!(frame, Frame::ServerCapabilities(_)) {
                    let ours = Frame::ClientCapabilities(Capabilities::OURS);
                    self.send(index, &ours, passes, now);
                }
                self.told.push_back((index, Told::Frame(frame)));
            }
        }
    }

    fn drain(&mut self, passes: [bool; 2], now: Instant) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Send(connection, frame) => {
                    if let Some(index) = self.index_of(connection) {
                        let message = Message::Frame(frame.encode());
                        self.push(index, false, message, passes[index], now);
                    }
                }
                Output::Close(connection, _) => {
                    if let Some(index) = self.index_of(connection) {
                        self.lines[index].is_broken = true;
                    }
                }
                Output::Link(one, two) => {
                    self.links.insert((one.connection, one.link), two);
                    self.links.insert((two.connection, two.link), one);
                }
                Output::Unlink(one, two) => {
                    self.links.remove(&(one.connection, one.link));
                    self.links.remove(&(two.connection, two.link));
                }
            }
        }
    }
}

fn hub(relays: bool) -> Hub {
    let mut limits = Limits::default();
    limits.relay = limits.relay.filter(|_| relays);
    Hub::new(limits)
}
