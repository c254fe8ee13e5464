//! The one owner of the engine: carries datagrams, packets, frames and target bytes to it, and what it wants done away.
//!
//! Everything runs on one thread. Each turn takes what is there, in bounded batches from every source, lets the engine work,
//! and sends what came of it; only when there is nothing left does the driver sleep.

pub(crate) mod command;
mod streams;
pub(crate) mod workers;

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use punch_engine::{
    Batch, Burst, Codel, DropReason, Engine, EngineEvent, FairQueue, Family, NatProfile, News,
    Path, ServerId, SocketId, SocketOrder, StreamId,
};
use punch_platform::clock::{self, SleepWatch};
use punch_platform::{Datagrams, Offloads, SocketSet, Train, Tun, Udp};
use punch_signal_protocol::Frame;
use tokio::sync::{mpsc, oneshot};

use self::command::{Command, Pong};
use self::streams::Stream;
use self::workers::Workers;
use crate::snapshot;
use crate::streams::target::FromTarget;
use crate::tasks::Spawner;

/// Commands, reports and packets of the host taken per turn.
const TURN: usize = 64;
/// Bytes of the host taken per turn: they take about 100 µs to seal and send, and whatever has come meanwhile waits for so long.
const TURN_BYTES: usize = 64 * 1024;
/// Bytes taken from the sockets per turn for each peer that sends, and in all.
const RECEIVE_BYTES: usize = 128 * 1024;
const MAX_RECEIVE_BYTES: usize = 1024 * 1024;
/// Datagrams of this length carry data in bulk.
const LONG: usize = 1000;
/// Packets for the host wait for others that can be joined to them until they have so many bytes, for each peer that sends
/// and in all.
const TUN_BYTES: usize = 48 * 1024;
const MAX_TUN_BYTES: usize = 512 * 1024;
/// The wall clock is told to the engine, and sleep noticed, this often.
const WATCH: Duration = Duration::from_secs(1);

/// Descriptors that searches leave to everything else: control, servers, targets.
const RESERVED: u64 = 44;

pub(crate) struct Driver {
    engine: Engine,
    tun: Tun,
    sockets: SocketSet<SocketId>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<EngineEvent>,
    servers: HashMap<ServerId, mpsc::Sender<Frame>>,
    streams: HashMap<StreamId, Stream>,
    reports: (mpsc::Sender<FromTarget>, mpsc::Receiver<FromTarget>),
    /// Steps of handshakes that have been done.
    workers: Workers,
    pings: HashMap<u16, oneshot::Sender<Option<Pong>>>,
    netchecks: Vec<oneshot::Sender<Vec<NatProfile>>>,
    spawner: Spawner,
    /// Sockets that may be open at once; the others of the limit of open files are for everything else.
    most_sockets: usize,
    /// The log has been told that no further socket opens.
    refused: bool,
    sleep: SleepWatch,
    next_watch: Instant,
    received: Datagrams,
    /// How long datagrams wait in the sockets.
    incoming: Codel,
    /// The last turn has left datagrams there.
    behind: bool,
    queue: FairQueue,
    to_tun: Batch,
    offloads: Offloads,
    stopping: bool,
}

/// What the driver is told once.
pub(crate) struct Settings {
    /// The limit of open files.
    pub(crate) files: u64,
    pub(crate) offloads: Offloads,
    /// Random: who shares a queue with whom follows from it.
    pub(crate) seed: u64,
}

fn write_packets(engine: &mut Engine, tun: &mut Tun, batch: &mut Batch) {
    engine.swap_tun(batch);
    if !batch.is_empty() {
        let refused = tun.write(batch);
        engine.count_drops(DropReason::HostRefused, refused as u64);
    }
}

impl Driver {
    pub(crate) fn new(
        engine: Engine,
        tun: Tun,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<EngineEvent>,
        spawner: Spawner,
        workers: Workers,
        settings: Settings,
    ) -> Self {
        Self {
            engine,
            tun,
            sockets: SocketSet::default(),
            commands,
            events,
            servers: HashMap::new(),
            streams: HashMap::new(),
            reports: mpsc::channel(1024),
            workers,
            pings: HashMap::new(),
            netchecks: Vec::new(),
            spawner,
            most_sockets: usize::try_from(settings.files.saturating_sub(RESERVED))
                .unwrap_or(usize::MAX)
                .max(8),
            refused: false,
            sleep: SleepWatch::new(),
            next_watch: clock::now(),
            received: Datagrams::default(),
            incoming: Codel::default(),
            behind: false,
            queue: FairQueue::new(settings.seed),
            to_tun: Batch::with_capacity(64, 1500),
            offloads: settings.offloads,
            stopping: false,
        }
    }

    /// Hands over a main socket.
    pub(crate) fn add_socket(&mut self, id: SocketId, mut socket: Udp) {
        socket.limit(self.offloads);
        let port = socket.port();
        self.sockets.insert(id, socket);
        self.engine.handle_socket(id, port, clock::now());
    }

    /// Works until it is told to stop.
    pub(crate) async fn run(mut self) {
        let mut busy = false;
        loop {
            let worked = self.take_all().await;
            self.give_all().await;
            if self.stopping {
                return;
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
        let mut worked = self.take_datagrams(now);
        worked |= self.take_packets(now).await;
        for _ in 0..TURN {
            let Ok(report) = self.reports.1.try_recv() else {
                break;
            };
            worked = true;
            self.handle_report(report, now);
        }
        while let Some(done) = self.workers.try_recv() {
            worked = true;
            self.engine.handle_job(done, now);
        }
        for _ in 0..TURN {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            worked = true;
            self.handle_command(command, now);
        }
        if now >= self.next_watch {
            self.next_watch = now + WATCH;
            self.engine.handle_wall_clock(clock::wall_ms(), now);
            if let Some(slept) = self.sleep.slept() {
                tracing::info!(seconds = slept.as_secs(), "the machine has slept");
                self.engine.handle_resume(now);
            }
        }
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        if worked {
            self.engine.flush(now);
        }
        worked
    }

    /// Takes datagrams; the more, the more peers they come from, so that each one's can be joined.
    fn take_datagrams(&mut self, now: Instant) -> bool {
        let (mut calls, mut taken, mut share) = (0, 0, RECEIVE_BYTES);
        while calls < TURN && taken < share {
            let Some(id) = self.sockets.receive(&mut self.received) else {
                self.behind = false;
                return calls > 0;
            };
            calls += 1;
            taken += self.received.total();
            for train in self.received.trains() {
                let Train { from, local, .. } = train;
                let mut bytes = train.bytes;
                // Only what is long makes a queue. What waits because this machine had no time for us, and is gone at once, is
                // none.
                let last = !self.behind;
                if train.stride >= LONG && self.incoming.drops(train.waited, last, now) {
                    bytes = bytes.get(train.stride..).unwrap_or_default();
                    self.engine.count_drops(DropReason::QueueIn, 1);
                }
                self.engine
                    .handle_train(id, local, from, train.stride, bytes, now);
                let most = TUN_BYTES * self.engine.busy_peers();
                if self.engine.tun_bytes() >= most.clamp(TUN_BYTES, MAX_TUN_BYTES) {
                    write_packets(&mut self.engine, &mut self.tun, &mut self.to_tun);
                }
            }
            let most = RECEIVE_BYTES * self.engine.busy_peers();
            share = most.clamp(RECEIVE_BYTES, MAX_RECEIVE_BYTES);
        }
        self.behind = true;
        true
    }

    /// Takes packets of the host, and seals in turn what there is to send; what is sealed leaves as soon as there is a train
    /// of it.
    async fn take_packets(&mut self, now: Instant) -> bool {
        if let Err(error) = self.read_packets(now) {
            tracing::error!(%error, name = self.tun.name(), "the interface is gone");
            self.engine.shut_down(now);
            self.stopping = true;
            return true;
        }
        let mut taken = 0;
        let dropped = self.queue.dropped();
        while taken < TURN_BYTES {
            let Some(packet) = self.queue.pop(now) else {
                break;
            };
            taken += packet.bytes().len();
            self.engine.handle_tun(packet.bytes(), packet.offload, now);
            self.queue.recycle(packet);
            while let Some(burst) = self.engine.poll_full_burst() {
                self.send(&burst).await;
                self.engine.recycle(burst);
            }
        }
        let dropped = self.queue.dropped() - dropped;
        self.engine.count_drops(DropReason::QueueOut, dropped);
        taken > 0
    }

    /// Moves what waits in the kernel into the queue, where it can be told what waits.
    fn read_packets(&mut self, now: Instant) -> std::io::Result<()> {
        while !self.queue.is_full() {
            let mut memory = self.queue.memory(Tun::BUFFER);
            match self.tun.read(&mut memory)? {
                Some((offload, range)) => self.queue.push(memory, range, offload, now),
                None => {
                    self.queue.give_back(memory);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Carries out all that the engine wants.
    async fn give_all(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(order) = self.engine.poll_order() {
                quiet = false;
                self.handle_order(order);
            }
            while let Some(event) = self.engine.poll_event() {
                quiet = false;
                self.handle_event(event);
            }
            if quiet {
                break;
            }
            self.engine.flush(clock::now());
        }
        let engine = &mut self.engine;
        if self.workers.fill(|| engine.poll_job()).is_err() {
            tracing::error!("a thread for handshakes has ended");
            self.engine.shut_down(clock::now());
            self.stopping = true;
        }
        while let Some(signal) = self.engine.poll_signal() {
            if let Some(server) = self.servers.get(&signal.server) {
                // A connection whose queue is full is stuck; what is lost is repeated by the next offer.
                let _ = server.try_send(signal.frame);
            }
        }
        write_packets(&mut self.engine, &mut self.tun, &mut self.to_tun);
        while let Some(burst) = self.engine.poll_burst() {
            self.send(&burst).await;
            self.engine.recycle(burst);
        }
    }

    async fn send(&self, burst: &Burst) {
        let (Some(socket), Some(to)) = (self.sockets.get(burst.socket), burst.to) else {
            return;
        };
        let sent = socket
            .send(to, burst.source, burst.segment, &burst.bytes, burst.ttl)
            .await;
        if let Err(error) = sent {
            tracing::trace!(%to, %error, "a datagram was not sent");
        }
    }

    async fn wait(&mut self) {
        let deadline = self
            .engine
            .poll_timeout()
            .map_or(self.next_watch, |at| at.min(self.next_watch));
        let sockets = &self.sockets;
        let any_socket = poll_fn(|context| sockets.poll_readable(context));
        let now = clock::now();
        tokio::select! {
            () = any_socket => {}
            _ = self.tun.readable() => {}
            Some(report) = self.reports.1.recv() => {
                self.handle_report(report, clock::now());
                self.engine.flush(clock::now());
            }
            Some(done) = self.workers.recv() => {
                self.engine.handle_job(done, clock::now());
                self.engine.flush(clock::now());
            }
            command = self.commands.recv() => match command {
                Some(command) => self.handle_command(command, clock::now()),
                None => self.stopping = true,
            },
            () = tokio::time::sleep_until(deadline.into()), if deadline > now => {}
            () = std::future::ready(()), if deadline <= now => {}
        }
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Configure(change) => self.engine.apply(change, now),
            Command::Addresses(addresses) => self.engine.handle_addresses(addresses, now),
            Command::PortMapped(external) => self.engine.handle_port_mapping(external, now),
            Command::ServerUp(server, frames) => {
                self.servers.insert(server, frames);
                self.engine.handle_server(server, true, now);
            }
            Command::ServerDown(server) => {
                self.servers.remove(&server);
                self.engine.handle_server(server, false, now);
            }
            Command::Frame(server, frame) => self.engine.handle_frame(server, frame, now),
            Command::Retry(peer) => self.engine.retry(peer, now),
            Command::Ping(peer, answer) => match self.engine.ping(peer, now) {
                Some(id) => {
                    self.pings.insert(id, answer);
                    self.pings.retain(|_, answer| !answer.is_closed());
                }
                None => drop(answer.send(None)),
            },
            Command::Netcheck(answer) => {
                self.netchecks.push(answer);
                self.engine.start_netcheck(now);
            }
            Command::Snapshot(scope, answer) => {
                let _ = answer.send(snapshot::take(&self.engine, &scope, now));
            }
            Command::InterfaceGone => {
                tracing::error!(name = self.tun.name(), "the interface is gone");
                self.engine.shut_down(now);
                self.stopping = true;
            }
            Command::ShutDown => {
                self.engine.shut_down(now);
                self.stopping = true;
            }
        }
    }

    fn handle_event(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Socket(SocketOrder::Open { socket, family }) => {
                let opened = if self.sockets.len() < self.most_sockets {
                    Udp::open_probe(family == Family::V6, 0)
                } else {
                    Err(std::io::Error::other(
                        "the limit of open files leaves no more",
                    ))
                };
                match opened {
                    Ok(udp) => {
                        self.refused = false;
                        self.add_socket(socket, udp);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut self.refused, true) {
                            tracing::warn!(%error, "cannot open a further UDP socket");
                        }
                        self.engine.handle_socket_failed(socket, clock::now());
                    }
                }
            }
            EngineEvent::Socket(SocketOrder::Close { socket }) => {
                drop(self.sockets.remove(socket));
            }
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
                if let EngineEvent::News(News::Selected { path, .. }) = &event
                    && let Path::Direct(path) = path
                    && let Some(socket) = self.sockets.get(path.socket)
                {
                    // One that was opened for a search carries the tunnel from now on.
                    socket.enlarge();
                }
                if self.events.try_send(event).is_err() {
                    tracing::warn!("an event was lost: the controller is too slow");
                }
            }
        }
    }
}
