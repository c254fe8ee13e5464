//! The network, the servers, the machines, and the time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_engine::{Path, RelayPath, Rules, ServerId};
use rand_core::RngCore;

use super::agenda::Agenda;
use super::chronicle::{Chronicle, Hours};
use super::homes::Home;
use super::judge::{Findings, Judge, View};
use super::lines::{Server, Told};
use super::plights::Plights;
use super::program::{BEGIN, Dice, Fault, Trouble};
use super::scene::{Cast, PEER, Scene, Traffic, WALL};
use super::stun;
use crate::adversary::packets::udp;
use crate::machine::{Machine, Setup, Turn};
use crate::network::{Delivery, HostId, Network};
use crate::oracle::{Verdict, can_connect};
use crate::scenario::Kind;
use crate::world::Side;

const TRAFFIC_PORT: u16 = 7;
/// How long it takes at most until a machine sees that it has slept.
const WATCH: u32 = 1000;
/// The idle connection of a fault is checked by then: a keepalive, and its repetitions.
const IDLE: Duration = Duration::from_secs(45);
/// Between two looks at the tables.
const LOOK: Duration = Duration::from_secs(60);
/// More happens at no moment: something has begun to turn in a circle.
const MOST_AT_ONCE: u32 = 20_000;

enum Due {
    Trouble(Trouble),
    End(Fault),
    Probe,
    Talk(bool),
    Resume(usize),
    Look,
}

/// See the module.
pub(super) struct Earth {
    now: Instant,
    start: Instant,
    network: Network,
    homes: [Home; 2],
    stun: HostId,
    machines: [Machine; 2],
    dice: Dice,
    servers: Vec<Server>,
    /// What machines hear when they wake up.
    waiting: [VecDeque<(usize, Told)>; 2],
    plights: Plights,
    agenda: Agenda<Due>,
    at_once: u32,
    judge: Judge,
    scene: Scene,
    chronicle: Chronicle,
}

impl Earth {
    /// Both machines are there, and one wants the other.
    pub(super) fn new(cast: Cast, start: Instant) -> Self {
        let Cast {
            network,
            stun,
            homes,
            machines,
            servers,
            dice,
            scene,
        } = cast;
        let mut earth = Self {
            now: start,
            start,
            network,
            homes,
            stun,
            machines,
            dice,
            servers,
            waiting: [VecDeque::new(), VecDeque::new()],
            plights: Plights::new(start),
            agenda: Agenda::new(),
            at_once: 0,
            judge: Judge::new(scene.traffic.every(), start),
            scene,
            chronicle: Chronicle::new(start),
        };
        earth.begin();
        earth
    }

    fn begin(&mut self) {
        for index in [0, 1] {
            self.line(index);
            self.drain(index);
        }
        self.schedule(BEGIN / 2, Due::Talk(true));
        self.schedule(LOOK, Due::Look);
        self.see();
    }

    /// Faults that are to come.
    pub(super) fn plan(&mut self, troubles: &[Trouble]) {
        for one in troubles {
            self.schedule(one.at, Due::Trouble(*one));
        }
    }

    fn schedule(&mut self, after: Duration, due: Due) {
        self.agenda.add(self.now + after, due);
    }

    // --- time ---

    /// A machine's clock, which stands still while it sleeps.
    fn clock(&self, index: usize) -> Instant {
        self.now - self.plights.of[index].slept
    }

    fn wall(&self) -> u64 {
        WALL + u64::try_from((self.now - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn timer(&self, index: usize) -> Option<Instant> {
        let plight = &self.plights.of[index];
        let at = self.machines[index].engine.poll_timeout();
        at.filter(|_| plight.asleep.is_none())
            .map(|at| at + plight.slept)
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, end: Duration) {
        let end = self.start + end;
        loop {
            let next = [self.timer(0), self.timer(1), self.network.next_event()]
                .into_iter()
                .flatten()
                .chain(self.agenda.next())
                .chain(self.servers.iter().filter_map(Server::poll_timeout))
                .min();
            let Some(next) = next.filter(|at| *at <= end) else {
                break;
            };
            self.at_once = if next > self.now { 0 } else { self.at_once + 1 };
            assert!(self.at_once < MOST_AT_ONCE, "time stands still");
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(due) = self.agenda.pop(self.now) {
            match due {
                Due::Trouble(one) => self.strike(one),
                Due::End(fault) => self.relieve(fault),
                Due::Probe => self.probe(),
                Due::Talk(on) => self.talk(on),
                Due::Resume(index) => self.resume(index),
                Due::Look => {
                    self.chronicle.look_at_tables(&self.machines, self.now);
                    self.schedule(LOOK, Due::Look);
                }
            }
        }
        self.tend_servers();
        while let Some(delivery) = self.network.poll_delivery(self.now) {
            self.arrive(delivery);
        }
        for index in [0, 1] {
            if self.timer(index).is_some_and(|at| at <= self.now) {
                let now = self.clock(index);
                self.machines[index].engine.handle_timeout(now);
                self.drain(index);
            }
        }
    }

    fn tend_servers(&mut self) {
        let passes = self.plights.passes();
        for number in 0..self.servers.len() {
            let is_due = self.servers[number].poll_timeout();
            if is_due.is_none_or(|at| at > self.now) {
                continue;
            }
            let identities = [&self.machines[0].identity, &self.machines[1].identity];
            self.servers[number].handle_timeout(identities, passes, self.now);
            self.tell(number);
        }
    }

    /// Machines hear what a server has for them.
    fn tell(&mut self, number: usize) {
        while let Some((index, told)) = self.servers[number].poll_told() {
            if self.plights.of[index].asleep.is_some() {
                self.waiting[index].push_back((number, told));
            } else {
                self.hear(index, number, told);
            }
        }
    }

    fn hear(&mut self, index: usize, number: usize, told: Told) {
        let (server, now) = (id(number), self.clock(index));
        match told {
            Told::Up => self.note(format!("{index} is at server {number}")),
            Told::Down => self.note(format!("{index} has lost server {number}")),
            _ => {}
        }
        let engine = &mut self.machines[index].engine;
        match told {
            Told::Up => engine.handle_server(server, true, now),
            Told::Down => engine.handle_server(server, false, now),
            Told::Frame(frame) => engine.handle_frame(server, frame, now),
            Told::Packet(link, bytes) => {
                let path = RelayPath { server, link };
                engine.handle_relayed(path, [bytes.as_slice()].into_iter(), now);
                engine.flush(now);
            }
        }
        self.drain(index);
    }

    // --- packets ---

    fn drain(&mut self, index: usize) {
        let now = self.clock(index);
        let Turn {
            datagrams,
            signals,
            relayed,
            network_changed,
            // Nobody listens for TCP here.
            dials: _,
        } = self.machines[index].drain(now);
        for datagram in datagrams {
            let host = self.machines[index].host;
            self.network.send(self.now, host, datagram);
        }
        let passes = self.plights.of[index].passes();
        if network_changed {
            self.note(format!("{index} sees another network"));
            for number in 0..self.servers.len() {
                self.servers[number].restart(index, passes, self.now);
                self.tell(number);
            }
        }
        for signal in signals {
            let number = signal.server.0 as usize - 1;
            self.servers[number].send(index, &signal.frame, passes, self.now);
        }
        for (path, bytes) in relayed {
            let number = path.server.0 as usize - 1;
            self.servers[number].relay(index, path.link, bytes, passes, self.now);
        }
        for number in self.machines[index].heard.drain() {
            self.judge.hear(number, self.now);
        }
    }

    fn arrive(&mut self, delivery: Delivery) {
        let Delivery {
            host,
            from,
            to,
            payload,
        } = delivery;
        if host == self.stun {
            let answer = stun::answer(from, to, &payload).filter(|_| !self.plights.no_stun);
            if let Some(answer) = answer {
                self.network.send(self.now, self.stun, answer);
            }
            return;
        }
        let is_server = stun::addresses().contains(&from.ip());
        let found = self.homes.iter().position(|home| home.host == host);
        let Some(index) = found else { return };
        if self.plights.of[index].asleep.is_some() || (self.plights.between && !is_server) {
            return;
        }
        if let Some(socket) = self.machines[index].socket_at(to.port()) {
            let now = self.clock(index);
            self.machines[index].receive(socket, Some(to.ip()), from, &payload, now);
            self.drain(index);
        }
    }

    // --- traffic ---

    fn talk(&mut self, on: bool) {
        let view = self.see();
        self.judge.talk(on, IDLE, view);
        if on {
            self.schedule(Duration::ZERO, Due::Probe);
        }
        if self.scene.traffic == Traffic::Now {
            let pause = if on {
                Duration::from_secs(20)
            } else {
                Duration::from_millis(u64::from(1000 + self.dice.below(120_000)))
            };
            self.schedule(pause, Due::Talk(!on));
        }
    }

    fn probe(&mut self) {
        if !self.judge.is_talking() {
            return;
        }
        let view = self.see();
        if self.judge.look(view) {
            self.describe();
        }
        let overlay = [0, 1].map(|index: usize| self.machines[index].overlay());
        for index in [0, 1] {
            if self.plights.of[index].asleep.is_some() {
                continue;
            }
            let [from, to] =
                [overlay[index], overlay[1 - index]].map(|ip| SocketAddr::new(ip, TRAFFIC_PORT));
            let number = self.judge.send(index, view);
            let packet = udp(from, to, &number.to_be_bytes());
            let now = self.clock(index);
            self.machines[index].send(&packet, now);
            self.drain(index);
        }
        self.schedule(self.scene.traffic.every(), Due::Probe);
    }

    fn path(&self, index: usize) -> Option<Path> {
        let report = self.machines[index].engine.peer_report(PEER);
        report.and_then(|report| report.path)
    }

    /// What the judge must know, and the story of a path.
    fn see(&mut self) -> View {
        let paths = [self.path(0), self.path(1)];
        self.chronicle.see(paths, self.now);
        let meet = self.servers.iter().any(Server::joins_both);
        let passes = self.plights.passes().into_iter().all(|passes| passes);
        // Behind such a router nobody can promise one (the oracle takes NATs as ideal).
        let is_fragile = |home: &Home| home.kind() == Kind::PortRestrictedStateful;
        let direct = self.plights.is_direct() && !self.homes.iter().any(is_fragile);
        View {
            now: self.now,
            way: meet && passes && (self.scene.relays || direct),
            lossy: self.plights.is_lossy(self.now),
            paths,
        }
    }

    /// Tells the story what the machines believe.
    fn describe(&mut self) {
        for index in [0, 1] {
            let engine = &self.machines[index].engine;
            let state = engine.peer_state(PEER);
            let report = engine.peer_report(PEER);
            let keys = report.and_then(|report| report.last_handshake);
            let keys = keys.map(|at| self.clock(index).saturating_duration_since(at));
            let drops: Vec<_> = engine.drops().into_iter().filter(|(_, n)| *n > 0).collect();
            let text = format!(
                "{index} in {}: {state:?}, {:?}, keys {keys:?} old, drops {drops:?}, {:?}",
                self.homes[index].kind(),
                self.path(index),
                self.plights.of[index],
            );
            self.note(text);
        }
    }

    fn note(&mut self, text: String) {
        self.chronicle.note(text, self.now);
    }

    // --- faults ---

    fn strike(&mut self, one: Trouble) {
        let Trouble { fault, lasts, .. } = one;
        let paths = [self.path(0), self.path(1)];
        let direct = |path: &Option<Path>| matches!(path, Some(Path::Direct(_)));
        let over = |number: usize, path: &Option<Path>| match path {
            Some(Path::Relayed(path)) => path.server == id(number),
            Some(Path::Direct(_) | Path::Tcp(_)) => false,
            None => true,
        };
        let mut matters = match fault {
            Fault::Block(_) | Fault::Between => {
                paths.iter().any(|path| direct(path) || path.is_none())
            }
            Fault::Server(number) => paths.iter().any(|path| over(number, path)),
            Fault::Loss(_) | Fault::Stun => false,
            _ => true,
        };
        match fault {
            Fault::Reboot(side) => matters = self.lose_mappings(side as usize, false),
            Fault::Renumber(side) => matters = self.lose_mappings(side as usize, true),
            Fault::Move(side) => {
                self.homes[side as usize].go(&mut self.network);
                self.forget_lines(side as usize);
                self.readdress(side as usize);
            }
            Fault::Unplug(side) => {
                self.plights.of[side as usize].unplugged = true;
                self.readdress(side as usize);
            }
            Fault::Cut(side) => self.plights.of[side as usize].cut = true,
            Fault::Block(side) => self.plights.of[side as usize].blocked = true,
            Fault::Loss(side) => self.plights.set_lossy(side as usize, true, self.now),
            Fault::Between => self.plights.between = true,
            Fault::Stun => self.plights.no_stun = true,
            Fault::Server(number) => {
                let passes = self.plights.passes();
                self.servers[number].set_alive(false, passes, self.now);
                self.tell(number);
            }
            Fault::Sleep(side) => self.plights.of[side as usize].asleep = Some(self.now),
            Fault::Restart(side) => self.restart(side as usize),
        }
        self.note(one.to_string());
        if fault.lasts() {
            self.schedule(lasts, Due::End(fault));
        }
        self.after(fault, matters);
    }

    fn relieve(&mut self, fault: Fault) {
        let matters = matches!(fault, Fault::Unplug(_) | Fault::Cut(_) | Fault::Sleep(_));
        match fault {
            Fault::Unplug(side) => {
                self.plights.of[side as usize].unplugged = false;
                self.readdress(side as usize);
                self.release(side as usize);
            }
            Fault::Cut(side) => {
                self.plights.of[side as usize].cut = false;
                self.release(side as usize);
            }
            Fault::Block(side) => self.plights.of[side as usize].blocked = false,
            Fault::Loss(side) => self.plights.set_lossy(side as usize, false, self.now),
            Fault::Between => self.plights.between = false,
            Fault::Stun => self.plights.no_stun = false,
            Fault::Server(number) => {
                let passes = self.plights.passes();
                self.servers[number].set_alive(true, passes, self.now);
            }
            Fault::Sleep(side) => self.wake(side as usize),
            _ => {}
        }
        self.note(format!("{fault:?} is over"));
        self.after(fault, matters);
    }

    fn after(&mut self, fault: Fault, matters: bool) {
        for index in [0, 1] {
            self.line(index);
        }
        let (a, b) = (self.homes[0].host, self.homes[1].host);
        self.plights.direct = matches!(can_connect(&self.network, a, b), Verdict::Direct { .. });
        let what = matters.then(|| (fault.name(), super::bound(fault, self.scene.relays)));
        self.judge.disturb(what, self.now);
        let view = self.see();
        self.judge.look_at_way(view);
    }

    /// What a machine's line does to datagrams.
    fn line(&mut self, index: usize) {
        let link = self.plights.link(index);
        self.network.set_access_link(self.homes[index].host, link);
    }

    fn lose_mappings(&mut self, index: usize, renumber: bool) -> bool {
        let home = &mut self.homes[index];
        let is_there = if renumber {
            home.renumber(&mut self.network)
        } else {
            home.reboot(&mut self.network)
        };
        if is_there {
            self.forget_lines(index);
        }
        is_there
    }

    fn forget_lines(&mut self, index: usize) {
        for server in &mut self.servers {
            server.forget(index);
        }
    }

    fn release(&mut self, index: usize) {
        if self.plights.of[index].passes() {
            for server in &mut self.servers {
                server.release(index, self.now);
            }
        }
    }

    /// A machine is told its addresses, if it is awake.
    fn readdress(&mut self, index: usize) {
        let plight = &self.plights.of[index];
        if plight.asleep.is_some() {
            return;
        }
        let address = self.homes[index].address();
        let addresses = if plight.unplugged {
            Vec::new()
        } else {
            vec![address.into()]
        };
        let now = self.clock(index);
        self.machines[index].engine.handle_addresses(addresses, now);
        self.drain(index);
    }

    fn restart(&mut self, index: usize) {
        if self.plights.of[index].asleep.is_some() {
            return;
        }
        let (now, wall) = (self.clock(index), self.wall());
        let machine = &self.machines[index];
        let mut seed = [0; 32];
        self.dice.0.fill_bytes(&mut seed);
        let setup = Setup {
            identity: machine.identity.clone(),
            seed,
            peers: machine.peers.clone(),
            rules: Rules::default(),
            stun: stun::servers(),
        };
        self.machines[index] = Machine::new(setup, machine.host, wall, now);
        let passes = self.plights.of[index].passes();
        for number in 0..self.servers.len() {
            self.servers[number].restart(index, passes, self.now);
            while self.servers[number].poll_told().is_some() {}
        }
        self.readdress(index);
    }

    fn wake(&mut self, index: usize) {
        let plight = &mut self.plights.of[index];
        if let Some(since) = plight.asleep.take() {
            plight.slept += self.now - since;
            plight.unnoticed += self.now - since;
        }
        for (number, told) in std::mem::take(&mut self.waiting[index]) {
            if !matches!(told, Told::Packet(..)) {
                self.hear(index, number, told);
            }
        }
        self.release(index);
        // It may be elsewhere, or without a network.
        self.readdress(index);
        let watch = Duration::from_millis(u64::from(self.dice.below(WATCH)));
        self.schedule(watch, Due::Resume(index));
    }

    fn resume(&mut self, index: usize) {
        if self.plights.of[index].asleep.is_some() {
            return;
        }
        let (now, wall) = (self.clock(index), self.wall());
        let slept = std::mem::take(&mut self.plights.of[index].unnoticed);
        let engine = &mut self.machines[index].engine;
        engine.handle_wall_clock(wall, now);
        engine.handle_resume(slept, now);
        self.drain(index);
        // What was connected already is so anew.
        self.after(Fault::Sleep([Side::A, Side::B][index]), true);
    }

    /// All that has come of it.
    pub(super) fn finish(self) -> (Findings, Scene, Hours, Vec<(f64, String)>) {
        let Chronicle { hours, story, .. } = self.chronicle;
        (self.judge.findings, self.scene, hours, story)
    }
}

fn id(number: usize) -> ServerId {
    ServerId(number as u32 + 1)
}
