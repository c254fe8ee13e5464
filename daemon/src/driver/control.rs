//! What the driver is asked, and what it tells: commands in, events and frames out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use punch_engine::{Engine, EngineEvent, NatProfile, News, SocketOrder, channel};
use punch_platform::clock::{self, SleepWatch};
use tokio::sync::{mpsc, oneshot};

use super::backlog::Backlog;
use super::command::{Command, Pong};
use super::lane::Lane;
use super::servers::{self, Servers};
use crate::snapshot;

/// The wall clock is told to the engine, and sleep noticed, this often.
const WATCH: Duration = Duration::from_secs(1);
/// When the driver stops, the controller has this long to take what has waited for it.
const FAREWELL: Duration = Duration::from_millis(100);

/// The driver's channels to the rest of punchd, and answers that are owed.
pub(super) struct Control {
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<EngineEvent>,
    /// Events for which there was no room.
    backlog: Backlog,
    /// Pings that are not answered yet.
    pings: HashMap<u16, oneshot::Sender<Option<Pong>>>,
    /// Those who wait for the netcheck to end.
    netchecks: Vec<oneshot::Sender<Vec<NatProfile>>>,
    sleep: SleepWatch,
    /// When the wall clock is looked at.
    next_watch: Instant,
}

/// Whether the driver goes on after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Stop,
}

impl Control {
    /// Takes commands from one channel, and gives events to the other.
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<EngineEvent>,
    ) -> Self {
        Self {
            commands,
            events,
            backlog: Backlog::default(),
            pings: HashMap::new(),
            netchecks: Vec::new(),
            sleep: SleepWatch::new(),
            next_watch: clock::now(),
        }
    }

    /// The next command, if there is one.
    pub(super) fn try_recv(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Waits for the next command; there is none when the rest of punchd has ended.
    pub(super) async fn recv(&mut self) -> Option<Command> {
        self.commands.recv().await
    }

    /// When [`Control::watch`] is to be called.
    pub(super) fn next_watch(&self) -> Instant {
        self.next_watch
    }

    /// Tells the engine the wall clock, and whether the machine has slept.
    pub(super) fn watch(&mut self, engine: &mut Engine, now: Instant) {
        self.next_watch = now + WATCH;
        engine.handle_wall_clock(clock::wall_ms(), now);
        if let Some(slept) = self.sleep.slept() {
            tracing::info!(seconds = slept.as_secs(), "the machine has slept");
            engine.handle_resume(slept, now);
        }
    }

    /// Carries a command out.
    pub(super) fn handle_command(
        &mut self,
        engine: &mut Engine,
        servers: &mut Servers,
        command: Command,
        now: Instant,
    ) -> Next {
        match command {
            Command::Configure(change) => engine.apply(change, now),
            Command::PortMapped(external) => engine.handle_port_mapping(external, now),
            Command::ServerUp(server, kind, ways) => {
                servers.insert(server, ways);
                channel::handle_up(engine, server, kind, now);
            }
            Command::ServerDown(server) => {
                servers.remove(server);
                engine.handle_server(server, false, now);
            }
            Command::Frame(server, frame) => engine.handle_frame(server, frame, now),
            Command::Relayed(server, message) => servers::take(engine, server, &message, now),
            Command::Retry(peer) => engine.retry(peer, now),
            Command::Ping(peer, answer) => match engine.ping(peer, now) {
                Some(id) => {
                    self.pings.insert(id, answer);
                    self.pings.retain(|_, answer| !answer.is_closed());
                }
                None => drop(answer.send(None)),
            },
            Command::Netcheck(answer) => {
                self.netchecks.push(answer);
                engine.start_netcheck(now);
            }
            Command::Snapshot(scope, answer) => {
                let _ = answer.send(snapshot::take(engine, &scope, now));
            }
            Command::InterfaceGone => {
                tracing::error!("the interface is gone");
                engine.shut_down(now);
                return Next::Stop;
            }
            Command::ShutDown => {
                engine.shut_down(now);
                return Next::Stop;
            }
            Command::GoAway(seconds) => engine.go_away(seconds, now),
            // These concern the sockets, too, and the driver has carried them out.
            Command::Addresses(..)
            | Command::Bequeath { .. }
            | Command::HandOver { .. }
            | Command::Vantage(..)
            | Command::Inherit(_) => {}
        }
        Next::GoOn
    }

    /// Acts on what the engine wants, or passes its news on.
    pub(super) fn handle_event(
        &mut self,
        engine: &mut Engine,
        lane: &mut Lane,
        event: EngineEvent,
    ) {
        match event {
            EngineEvent::Socket(SocketOrder::Open { socket, family }) => {
                lane.open_socket(engine, socket, family);
            }
            EngineEvent::Socket(SocketOrder::Close { socket }) => lane.close_socket(socket),
            EngineEvent::News(News::Netcheck(profiles)) => {
                for answer in self.netchecks.drain(..) {
                    let _ = answer.send(profiles.clone());
                }
            }
            EngineEvent::Pong(pong) => {
                if let Some(answer) = self.pings.remove(&pong.id) {
                    let _ = answer.send(Some(Pong {
                        address: pong.address,
                        rtt: pong.rtt,
                    }));
                }
            }
            event => {
                if let EngineEvent::News(News::Selected { path, .. }) = &event {
                    lane.enlarge(path);
                }
                self.backlog.send(event, &self.events, clock::now());
            }
        }
    }

    /// Gives the controller all that it has not taken yet; the driver stops.
    pub(super) async fn finish(&mut self) {
        let finish = self.backlog.finish(&self.events);
        let _ = tokio::time::timeout(FAREWELL, finish).await;
    }

    /// Gives the engine's frames to their signalling servers, and the controller what it takes now.
    pub(super) fn give(&mut self, engine: &mut Engine, servers: &mut Servers) {
        self.backlog.flush(&self.events);
        while let Some(server) = channel::poll_given_up(engine) {
            // The server's client sees that, ends the connection, and comes again later.
            servers.remove(server);
        }
        while let Some(signal) = engine.poll_signal() {
            servers.send(signal);
        }
    }
}
