//! The driver's part in TCP connections with peers: each has a task, a bounded queue out, and a share in one bounded queue in.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use punch_engine::{
    Engine, Family, SocketId, TcpId, TcpOrder, TcpPath, Train, put_stream_datagram,
    stream_datagrams,
};
use punch_platform::clock;
use punch_service::Repeats;
use punch_stun_protocol::is_stun;
use tokio::sync::mpsc;

use super::translator::Translator;
use crate::descriptors::{Descriptor, Descriptors};
use crate::tasks::{Spawner, Task};
use crate::tcp::{Call, Chunk, FromTcp, connection, listener, seen};

/// What connections tell and nobody has looked at yet, each up to 32 KiB.
const REPORTS: usize = 64;
/// Bytes taken from all connections per turn: as many as the UDP sockets have for one peer.
const TURN_BYTES: usize = 128 * 1024;
/// Questions to STUN servers whose connections may stand: the oldest ends when there is one more.
const ASKED: usize = 4;
/// Chunks that may wait for one connection, and how many of these places are kept for checks.
const QUEUE: usize = 128;
const FOR_CHECKS: usize = 8;
/// A chunk takes no more datagrams when it is so long: the shorter, the sooner a check behind it leaves on a slow line.
const CHUNK: usize = 4 * 1024;

/// See the module.
pub(super) struct Tcp {
    open: HashMap<TcpId, Connection>,
    sender: mpsc::Sender<FromTcp>,
    reports: mpsc::Receiver<FromTcp>,
    /// What the log has been told of connections that got no descriptor.
    repeats: Repeats,
    descriptors: Descriptors,
    spawner: Spawner,
    listening: Option<Task>,
    /// Where connections are taken, and made from.
    ports: BTreeMap<Family, u16>,
    /// Questions to STUN servers, and connections that stand since.
    asked: VecDeque<(SocketAddr, Task)>,
    /// How IPv4 is reached without an address of it.
    translator: Translator,
}

struct Connection {
    path: TcpPath,
    chunks: mpsc::Sender<Chunk>,
    _task: Task,
    _descriptor: Descriptor,
}

impl Tcp {
    /// No connections yet.
    pub(super) fn new(spawner: Spawner, descriptors: Descriptors) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS);
        Self {
            open: HashMap::new(),
            sender,
            reports,
            repeats: Repeats::default(),
            descriptors,
            spawner,
            listening: None,
            ports: BTreeMap::new(),
            asked: VecDeque::new(),
            translator: Translator::default(),
        }
    }

    /// IPv4 is reached so from now on.
    pub(super) fn set_translator(&mut self, translator: Translator) {
        self.translator = translator;
    }

    /// Takes connections of peers, and tells the engine where.
    pub(super) fn listen(&mut self, engine: &mut Engine, listeners: Vec<(Family, TcpListener)>) {
        for (family, listener) in &listeners {
            if let Ok(address) = listener.local_addr() {
                self.ports.insert(*family, address.port());
                engine.handle_tcp_port(*family, address.port());
            }
        }
        let listeners = listeners.into_iter().map(|(_, listener)| listener);
        let (descriptors, sender) = (self.descriptors.clone(), self.sender.clone());
        let serve = listener::serve(listeners.collect(), descriptors, sender);
        self.listening = Some(self.spawner.spawn("TCP listeners", serve));
    }

    /// Takes a turn's share of what connections tell; returns whether there was anything. The rest waits, and makes the peers wait.
    pub(super) fn take_reports(&mut self, engine: &mut Engine, now: Instant) -> bool {
        let (mut reports, mut bytes) = (0, 0);
        while reports < REPORTS && bytes < TURN_BYTES {
            let Ok(report) = self.reports.try_recv() else {
                break;
            };
            reports += 1;
            bytes += report.length();
            self.handle_report(engine, report, now);
        }
        reports > 0
    }

    /// Waits for the next report of a connection.
    pub(super) async fn recv(&mut self) -> Option<FromTcp> {
        self.reports.recv().await
    }

    /// Carries out what the engine wants of a connection.
    pub(super) fn handle_order(&mut self, engine: &mut Engine, order: TcpOrder) {
        match order {
            TcpOrder::Dial(path) => {
                let Some((port, to)) = self.way(path.remote) else {
                    return engine.handle_tcp_state(path, false, clock::now());
                };
                let Some(descriptor) = self.descriptors.for_path() else {
                    let text = "the limit of open files leaves no more for TCP connections to peers: raise LimitNOFILE of punchd.service";
                    if let Some(unsaid) = self.repeats.note(text, clock::now()) {
                        tracing::warn!(unsaid, "{text}");
                    }
                    return engine.handle_tcp_state(path, false, clock::now());
                };
                let sender = self.sender.clone();
                self.add(path, descriptor, |chunks| {
                    connection::dial(path, (port, to), chunks, sender)
                });
            }
            TcpOrder::Ask(server) => self.ask(server),
            TcpOrder::Close(connection) => {
                self.open.remove(&connection);
            }
        }
    }

    /// Tells the engine what a connection tells.
    pub(super) fn handle_report(&mut self, engine: &mut Engine, report: FromTcp, now: Instant) {
        match report {
            FromTcp::Call(call) => self.handle_call(engine, call, now),
            FromTcp::Connected(path) if self.has(path) => engine.handle_tcp_state(path, true, now),
            FromTcp::Closed(path) if self.has(path) => {
                self.open.remove(&path.connection);
                engine.handle_tcp_state(path, false, now);
            }
            FromTcp::Received(path, bytes) if self.has(path) => {
                engine.handle_tcp(path, stream_datagrams(&bytes), now);
            }
            FromTcp::Seen { server, mapped } => engine.handle_tcp_seen(server, mapped, now),
            // The connection was closed meanwhile.
            FromTcp::Connected(_) | FromTcp::Closed(_) | FromTcp::Received(..) => {}
        }
    }

    /// The port that a connection to this address is made from, if there is one, and where it goes; `None` if nobody may be asked for the
    /// address.
    fn way(&self, remote: SocketAddr) -> Option<(Option<u16>, SocketAddr)> {
        let (_, to) = self.translator.outwards(SocketId::MAIN_V4, remote)?;
        let port = self.ports.get(&Family::of(to.ip())).copied();
        Some((port, to))
    }

    /// Hands datagrams to a connection; returns how many were lost: it does not keep up, or is gone.
    pub(super) fn send(&self, path: TcpPath, train: &Train, now: Instant) -> u64 {
        let datagrams = train.bytes.chunks(train.segment.max(1));
        let Some(connection) = self.open.get(&path.connection) else {
            return datagrams.count() as u64;
        };
        let mut lost = 0;
        let mut send = |bytes: Vec<u8>, count: u64, ages| {
            let chunk = Chunk {
                since: now,
                ages,
                bytes,
            };
            let has_place = !ages || connection.chunks.capacity() > FOR_CHECKS;
            if count > 0 && (!has_place || connection.chunks.try_send(chunk).is_err()) {
                lost += count;
            }
        };
        let (mut bytes, mut count, mut ages, mut too_long) = (Vec::new(), 0, true, 0);
        for datagram in datagrams {
            let is_data = !is_stun(datagram);
            if bytes.len() >= CHUNK || is_data != ages {
                send(std::mem::take(&mut bytes), count, ages);
                count = 0;
            }
            ages = is_data;
            match put_stream_datagram(&mut bytes, datagram) {
                true => count += 1,
                false => too_long += 1,
            }
        }
        send(bytes, count, ages);
        lost + too_long
    }

    fn handle_call(&mut self, engine: &mut Engine, call: Call, now: Instant) {
        let remote = self.translator.inwards(SocketId::MAIN_V6, call.remote);
        let path = remote.and_then(|(_, from)| engine.handle_tcp_call(from, &call.first, now));
        let Some(path) = path else {
            // Whoever has waited for it has given it up if this fails.
            let _ = call.back.send(call.line);
            return;
        };
        let (stream, sender) = (call.line.stream, self.sender.clone());
        self.add(path, call.line.descriptor, |chunks| {
            connection::carry(path, stream, chunks, sender)
        });
    }

    /// Asks a STUN server, if that is possible: without an answer peers hear of one address less.
    fn ask(&mut self, server: SocketAddr) {
        let Some((Some(port), to)) = self.way(server) else {
            return;
        };
        let Some(descriptor) = self.descriptors.for_path() else {
            return;
        };
        // After sleep, or in another network, what it said before holds no more; from one port to another there is one connection.
        self.asked.retain(|(asked, _)| *asked != server);
        let ask = seen::ask((port, to), server, descriptor, self.sender.clone());
        let task = self.spawner.spawn("STUN over TCP", ask);
        self.asked.push_back((server, task));
        if self.asked.len() > ASKED {
            self.asked.pop_front();
        }
    }

    fn add<T>(
        &mut self,
        path: TcpPath,
        descriptor: Descriptor,
        task: impl FnOnce(mpsc::Receiver<Chunk>) -> T,
    ) where
        T: Future<Output = ()> + Send + 'static,
    {
        let (chunks, chunks_out) = mpsc::channel(QUEUE);
        let connection = Connection {
            path,
            chunks,
            _task: self.spawner.spawn("TCP connection", task(chunks_out)),
            _descriptor: descriptor,
        };
        self.open.insert(path.connection, connection);
    }

    fn has(&self, path: TcpPath) -> bool {
        let open = self.open.get(&path.connection);
        open.is_some_and(|connection| connection.path == path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use punch_stun_protocol::{Class, TransactionId, Writer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::Handle;

    use super::*;

    /// Answers each who asks, and keeps all connections.
    async fn answer(server: tokio::net::TcpListener, mapped: SocketAddr) {
        let mut standing = Vec::new();
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut request = [0; 20];
            stream.read_exact(&mut request).await.unwrap();
            let id = TransactionId(*request.last_chunk().unwrap());
            let answer = Writer::new(Class::Success, id).xor_mapped(mapped).finish();
            stream.write_all(&answer).await.unwrap();
            standing.push(stream);
        }
    }

    #[tokio::test]
    async fn a_server_is_asked_again_although_the_connection_of_before_would_stand() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let mapped: SocketAddr = "203.0.113.7:41820".parse().unwrap();
        let spawner = Spawner::new(Handle::current());
        let _answers = spawner.spawn("server", answer(server, mapped));
        let mut tcp = Tcp::new(spawner, Descriptors::new(1024));
        let here = listener::open(Family::V4, 0).unwrap();
        let port = here.local_addr().unwrap().port();
        tcp.ports.insert(Family::V4, port);
        for _ in 0..3 {
            tcp.ask(address);
            let wait = std::time::Duration::from_secs(30);
            let report = tokio::time::timeout(wait, tcp.recv()).await.unwrap();
            assert!(matches!(report, Some(FromTcp::Seen { server, .. }) if server == address));
            assert_eq!(tcp.asked.len(), 1);
        }
    }

    #[tokio::test]
    async fn connections_too_pass_the_translator_and_lead_nobody_into_its_network() {
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let mut tcp = Tcp::new(spawner, Descriptors::new(1024));
        tcp.ports = [(Family::V4, 4), (Family::V6, 6)].into();
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (peer, wire) = (at("203.0.113.9:41"), at("[2001:db8:64::cb00:7109]:41"));
        let inside = at("[2001:db8:64::c0a8:101]:80");
        assert_eq!(tcp.way(peer), Some((Some(4), peer)));
        tcp.set_translator(Translator::new("2001:db8:64::/96".parse().ok()));
        assert_eq!(tcp.way(peer), Some((Some(6), wire)));
        assert_eq!(tcp.way(inside), None);
        let near = at("192.168.1.9:41");
        assert_eq!(tcp.way(near), Some((Some(4), near)));
    }
}
