//! The one owner of the engine: carries datagrams, packets, frames and target bytes to it, and carries out what it wants.
//!
//! Everything runs on one thread. Each turn takes what is there, in bounded batches from every source, lets the engine work,
//! and sends what came of it; only when there is nothing left does the driver sleep.

mod backlog;
pub(crate) mod command;
mod control;
pub(crate) mod lane;
mod servers;
mod streams;
mod tcp;
mod translator;
mod vantage;
pub(crate) mod workers;

use std::net::TcpListener;
use std::time::Instant;

use punch_engine::{BEHIND_NAT64, Engine, EngineEvent, Family, SocketId};
use punch_platform::{Tun, Udp, clock};
use tokio::sync::mpsc;

use self::command::Command;
use self::control::{Control, Next};
use self::lane::{Lane, Settings, Ways};
use self::servers::Servers;
use self::streams::Streams;
use self::tcp::Tcp;
use self::translator::Translator;
use self::workers::Workers;
use crate::descriptors::Descriptors;
use crate::tasks::Spawner;

/// Commands and reports of targets taken per turn.
const TURN: usize = 64;

/// See the module.
pub(crate) struct Driver {
    engine: Engine,
    lane: Lane,
    control: Control,
    /// The signalling servers that are reached.
    servers: Servers,
    streams: Streams,
    /// TCP connections with peers.
    tcp: Tcp,
    /// The threads for handshakes.
    workers: Workers,
    stopping: bool,
}

impl Driver {
    /// Drives `engine`, which has no sockets yet.
    pub(crate) fn new(
        engine: Engine,
        tun: Tun,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<EngineEvent>,
        spawner: Spawner,
        workers: Workers,
        settings: &Settings,
    ) -> Self {
        let descriptors = Descriptors::new(settings.files);
        Self {
            engine,
            lane: Lane::new(tun, settings, descriptors.clone()),
            control: Control::new(commands, events),
            servers: Servers::default(),
            streams: Streams::new(spawner.clone(), descriptors.clone(), settings.place.clone()),
            tcp: Tcp::new(spawner, descriptors),
            workers,
            stopping: false,
        }
    }

    /// Hands over a main socket.
    pub(crate) fn add_socket(&mut self, id: SocketId, socket: Udp) {
        self.lane.add_socket(&mut self.engine, id, socket);
    }

    /// Hands over sockets at which peers connect.
    pub(crate) fn add_listeners(&mut self, listeners: Vec<(Family, TcpListener)>) {
        self.tcp.listen(&mut self.engine, listeners);
    }

    /// Works until it is told to stop.
    pub(crate) async fn run(mut self) {
        let mut busy = false;
        loop {
            let worked = self.take_all().await;
            self.give_all().await;
            if self.stopping {
                return self.control.finish().await;
            }
            if !worked {
                self.wait().await;
            } else if busy {
                // Only the runtime learns which sockets have something to read; after a single turn it is asked anyway.
                tokio::task::yield_now().await;
            }
            busy = worked;
        }
    }

    /// Takes what is there; returns whether there was anything.
    async fn take_all(&mut self) -> bool {
        let now = clock::now();
        let mut worked = self.lane.take_datagrams(&mut self.engine, now);
        let ways = Ways {
            servers: &self.servers,
            tcp: &self.tcp,
        };
        let taken = self.lane.take_packets(&mut self.engine, ways, now);
        match taken.await {
            Ok(taken) => worked |= taken,
            Err(error) => {
                tracing::error!(%error, name = self.lane.name(), "the interface is gone");
                self.shut_down(now);
                worked = true;
            }
        }
        for _ in 0..TURN {
            let Some(report) = self.streams.try_recv() else {
                break;
            };
            worked = true;
            self.streams.handle_report(&mut self.engine, report, now);
        }
        worked |= self.tcp.take_reports(&mut self.engine, now);
        while let Some(done) = self.workers.try_recv() {
            worked = true;
            self.engine.handle_job(done, now);
        }
        for _ in 0..TURN {
            let Some(command) = self.control.try_recv() else {
                break;
            };
            worked = true;
            self.handle_command(command, now);
        }
        if now >= self.control.next_watch() {
            self.control.watch(&mut self.engine, now);
        }
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        if worked {
            self.engine.flush(now);
        }
        worked
    }

    /// Carries out all that the engine wants.
    async fn give_all(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(order) = self.engine.poll_order() {
                quiet = false;
                self.streams.handle_order(&mut self.engine, order);
            }
            while let Some(event) = self.engine.poll_event() {
                quiet = false;
                let engine = &mut self.engine;
                match event {
                    EngineEvent::Tcp(order) => self.tcp.handle_order(engine, order),
                    event => self.control.handle_event(engine, &mut self.lane, event),
                }
            }
            if quiet {
                break;
            }
            self.engine.flush(clock::now());
        }
        let engine = &mut self.engine;
        if self.workers.fill(|| engine.poll_job()).is_err() {
            tracing::error!("a thread for handshakes has ended");
            self.shut_down(clock::now());
        }
        self.control.give(&mut self.engine, &mut self.servers);
        let ways = Ways {
            servers: &self.servers,
            tcp: &self.tcp,
        };
        self.lane.give(&mut self.engine, ways).await;
    }

    async fn wait(&mut self) {
        let watch = self.control.next_watch();
        let deadline = self.engine.poll_timeout().map_or(watch, |at| at.min(watch));
        let now = clock::now();
        tokio::select! {
            () = self.lane.readable() => {}
            Some(report) = self.streams.recv() => {
                self.streams.handle_report(&mut self.engine, report, clock::now());
                self.engine.flush(clock::now());
            }
            Some(report) = self.tcp.recv() => {
                self.tcp.handle_report(&mut self.engine, report, clock::now());
                self.engine.flush(clock::now());
            }
            Some(done) = self.workers.recv() => {
                self.engine.handle_job(done, clock::now());
                self.engine.flush(clock::now());
            }
            command = self.control.recv() => match command {
                Some(command) => self.handle_command(command, clock::now()),
                None => self.stopping = true,
            },
            () = tokio::time::sleep_until(deadline.into()), if deadline > now => {}
            () = std::future::ready(()), if deadline <= now => {}
        }
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        let command = match command {
            Command::Addresses(addresses, nat64) => {
                let own = addresses.iter().map(|own| own.ip).collect();
                self.streams.handle_addresses(own);
                let translator = Translator::new(nat64);
                self.tcp.set_translator(translator);
                if self.lane.set_translator(translator) {
                    // Another translator has other mappings: whatever was known of the way to IPv4 is of another network.
                    let mut native = addresses.clone();
                    native.retain(|own| own.ip != BEHIND_NAT64);
                    self.engine.handle_addresses(native, now);
                }
                return self.engine.handle_addresses(addresses, now);
            }
            Command::Vantage(server, nodes, silent) => {
                return self
                    .lane
                    .set_vantage(&mut self.engine, (server, &nodes), silent, now);
            }
            Command::ServerDown(server) => {
                self.lane.leave_vantage(&mut self.engine, server, now);
                Command::ServerDown(server)
            }
            Command::Inherit(inherited) => {
                return self.lane.inherit(&mut self.engine, inherited, now);
            }
            Command::Bequeath {
                flows,
                copied,
                answer,
            } => {
                let heritage = self.engine.bequeath(flows, now);
                return drop(answer.send(self.lane.leave(heritage, &copied)));
            }
            Command::HandOver { copied, answer } => {
                self.stopping = true;
                let heritage = self.engine.bequeath(true, now);
                return drop(answer.send(self.lane.leave(heritage, &copied)));
            }
            command => command,
        };
        let (engine, servers) = (&mut self.engine, &mut self.servers);
        let next = self.control.handle_command(engine, servers, command, now);
        self.stopping |= next == Next::Stop;
    }

    fn shut_down(&mut self, now: Instant) {
        self.engine.shut_down(now);
        self.stopping = true;
    }
}
