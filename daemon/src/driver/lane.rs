//! What packets pass through: the TUN interface, the UDP sockets, and the queues between them and the engine.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddrV4;
use std::time::Instant;

use punch_dht::vantage::Outwards;
use punch_engine::{
    Batch, Codel, DropReason, Engine, FairQueue, Family, Heritage, Path, Renumbered, ServerId,
    SocketId, Train,
};
use punch_platform::{Datagrams, Manner, Offloads, SocketSet, Tun, Udp, clock, handover};
use punch_service::Repeats;
use tokio::sync::mpsc;

use super::servers::Servers;
use super::tcp::Tcp;
use super::translator::Translator;
use super::vantage::Vantage;
use crate::descriptors::{Descriptor, Descriptors};
use crate::handover::{Inherited, Left, LeftSocket, names};
use crate::meeting::MeetingPlace;

/// Calls of the kernel for datagrams per turn.
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
/// Sockets that may be open whatever the limit of open files is.
const MIN_SOCKETS: usize = 8;

/// What a lane is told once.
pub(crate) struct Settings {
    /// The limit of open files.
    pub(crate) files: u64,
    /// What the kernel may do for many packets at once.
    pub(crate) offloads: Offloads,
    /// Random: which flows share a queue follows from it.
    pub(crate) seed: u64,
    /// Where peers meet that may.
    pub(crate) place: MeetingPlace,
}

/// What carries packets beside the UDP sockets.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    pub(super) servers: &'a Servers,
    pub(super) tcp: &'a Tcp,
}

/// The interface and the sockets of the packet path.
pub(super) struct Lane {
    tun: Tun,
    sockets: SocketSet<SocketId>,
    descriptors: Descriptors,
    /// Those of the sockets.
    held: HashMap<SocketId, Descriptor>,
    /// What the log has been told of sockets that could not be opened.
    repeats: Repeats,
    offloads: Offloads,
    /// The datagrams of one call of the kernel.
    received: Datagrams,
    /// How long datagrams wait in the sockets.
    incoming: Codel,
    /// Whether the last turn has left datagrams in the sockets.
    behind: bool,
    /// Packets of the host that wait for their turn.
    queue: FairQueue,
    /// Packets that go to the host together.
    to_tun: Batch,
    /// How IPv4 is reached without an address of it.
    translator: Translator,
    /// Who is asked in place of STUN servers.
    vantage: Vantage,
    /// Whether the engine knows its peers: until then everything waits in the kernel, where an earlier process may have left packets.
    has_begun: bool,
}

impl Lane {
    /// A lane without sockets.
    pub(super) fn new(tun: Tun, settings: &Settings, descriptors: Descriptors) -> Self {
        Self {
            tun,
            sockets: SocketSet::default(),
            descriptors,
            held: HashMap::new(),
            repeats: Repeats::default(),
            offloads: settings.offloads,
            received: Datagrams::default(),
            incoming: Codel::default(),
            behind: false,
            queue: FairQueue::new(settings.seed),
            to_tun: Batch::with_capacity(64, 1500),
            translator: Translator::default(),
            vantage: Vantage::default(),
            has_begun: false,
        }
    }

    /// The name of the TUN interface.
    pub(super) fn name(&self) -> &str {
        self.tun.name()
    }

    /// IPv4 is reached so from now on; returns whether one translator takes another one's place.
    pub(super) fn set_translator(&mut self, translator: Translator) -> bool {
        let before = std::mem::replace(&mut self.translator, translator);
        translator.replaces(before)
    }

    /// A channel names nodes that stand in for STUN servers; the driver is told by `Command::Vantage`.
    pub(super) fn set_vantage(
        &mut self,
        engine: &mut Engine,
        named: (ServerId, &[SocketAddrV4]),
        silent: mpsc::Sender<SocketAddrV4>,
        now: Instant,
    ) {
        self.vantage.set(engine, named, silent, now);
    }

    /// A channel is down.
    pub(super) fn leave_vantage(&mut self, engine: &mut Engine, server: ServerId, now: Instant) {
        self.vantage.leave(engine, server, now);
    }

    /// Takes a socket over, and tells the engine of it.
    pub(super) fn add_socket(&mut self, engine: &mut Engine, id: SocketId, mut socket: Udp) {
        socket.limit(self.offloads);
        let port = socket.port();
        self.sockets.insert(id, socket);
        engine.handle_socket(id, port, clock::now());
    }

    /// Opens a further socket, as far as the limit of open files allows.
    pub(super) fn open_socket(&mut self, engine: &mut Engine, id: SocketId, family: Family) {
        let descriptor = self.descriptors.for_path();
        let opened = if descriptor.is_some() || self.sockets.len() < MIN_SOCKETS {
            Udp::open_probe(self.translator.family(family) == Family::V6, 0)
        } else {
            Err(io::Error::other(
                "the limit of open files leaves no more: raise LimitNOFILE of punchd.service",
            ))
        };
        match opened {
            Ok(udp) => {
                self.held
                    .extend(descriptor.map(|descriptor| (id, descriptor)));
                self.add_socket(engine, id, udp);
            }
            Err(error) => {
                let text = error.to_string();
                if let Some(unsaid) = self.repeats.note(&text, clock::now()) {
                    tracing::warn!(error = text, unsaid, "cannot open a further UDP socket");
                }
                engine.handle_socket_failed(id, clock::now());
            }
        }
    }

    /// Begins: goes on with paths of an earlier process if there are any, and with their sockets; closes those that are no longer needed.
    pub(super) fn inherit(&mut self, engine: &mut Engine, inherited: Inherited, now: Instant) {
        self.has_begun = true;
        let Inherited {
            heritage, sockets, ..
        } = inherited;
        let mut sockets: HashMap<_, _> = sockets.into_iter().collect();
        for Renumbered { was, is } in engine.inherit(heritage, now) {
            if let Some(mut socket) = sockets.remove(&was) {
                socket.limit(self.offloads);
                let descriptor = self.descriptors.for_path();
                self.held
                    .extend(descriptor.map(|descriptor| (is, descriptor)));
                self.sockets.insert(is, socket);
            }
        }
    }

    /// What is left to the next process, with copies of the descriptors that are not `copied` yet. A path of whose socket there can be
    /// no copy is not left.
    pub(super) fn leave(&self, heritage: Heritage, copied: &BTreeSet<String>) -> io::Result<Left> {
        let paths = heritage.peers.iter().filter_map(|peer| peer.path.as_ref());
        let paths = paths.map(|path| path.proven.path.socket);
        let ids: BTreeSet<_> = [SocketId::MAIN_V4, SocketId::MAIN_V6]
            .into_iter()
            .chain(paths)
            .collect();
        let mut sockets = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(socket) = self.sockets.get(id) else {
                continue;
            };
            let family = if socket.is_v6() {
                Family::V6
            } else {
                Family::V4
            };
            let port = socket.port();
            let descriptor = match copied.contains(&names::of(id, family, port)) {
                true => None,
                false => match handover::copy(socket) {
                    Err(_) if !id.is_main() => continue,
                    copy => Some(copy?),
                },
            };
            sockets.push(LeftSocket {
                id,
                family,
                port,
                descriptor,
            });
        }
        let interface = match copied.contains(names::INTERFACE) {
            true => None,
            false => Some(handover::copy(&self.tun)?),
        };
        Ok(Left {
            nat64: self.translator.prefix(),
            interface,
            sockets,
            heritage,
        })
    }

    /// Closes a socket.
    pub(super) fn close_socket(&mut self, id: SocketId) {
        drop(self.sockets.remove(id));
        self.held.remove(&id);
    }

    /// The tunnel of a peer goes over this path from now on: a socket that was opened for a search gets large buffers.
    pub(super) fn enlarge(&self, path: &Path) {
        if let Path::Direct(path) = path
            && let Some(socket) = self.sockets.get(path.socket)
        {
            socket.enlarge();
        }
    }

    /// Waits until a datagram or a packet of the host can be read.
    pub(super) async fn readable(&self) {
        if !self.has_begun {
            return std::future::pending().await;
        }
        let any_socket = poll_fn(|context| self.sockets.poll_readable(context));
        tokio::select! {
            () = any_socket => {}
            _ = self.tun.readable() => {}
        }
    }

    /// Takes datagrams; the more, the more peers they come from, so that each one's can be joined.
    pub(super) fn take_datagrams(&mut self, engine: &mut Engine, now: Instant) -> bool {
        if !self.has_begun {
            return false;
        }
        let (mut calls, mut taken, mut share) = (0, 0, RECEIVE_BYTES);
        while calls < TURN && taken < share {
            let Some(id) = self.sockets.receive(&mut self.received) else {
                self.behind = false;
                return calls > 0;
            };
            calls += 1;
            taken += self.received.total();
            for train in self.received.trains() {
                let punch_platform::Train { from, local, .. } = train;
                let wire = from;
                let Some((id, from)) = self.translator.inwards(id, from) else {
                    continue;
                };
                if Translator::leads_inside(engine, from, wire) {
                    engine.count_drops(DropReason::NotForUs, 1);
                    continue;
                }
                if self.vantage.take(engine, (id, from), &train, now) {
                    continue;
                }
                let mut bytes = train.bytes;
                // Only what is long makes a queue. What waits because this machine had no time for us, and is gone at once, is
                // none.
                let last = !self.behind;
                if train.stride >= LONG && self.incoming.drops(train.waited, last, now) {
                    bytes = bytes.get(train.stride..).unwrap_or_default();
                    engine.count_drops(DropReason::QueueIn, 1);
                }
                engine.handle_train(id, local, from, train.stride, bytes, now);
                let most = TUN_BYTES * engine.busy_peers();
                if engine.tun_bytes() >= most.clamp(TUN_BYTES, MAX_TUN_BYTES) {
                    write_packets(engine, &mut self.tun, &mut self.to_tun);
                }
            }
            let most = RECEIVE_BYTES * engine.busy_peers();
            share = most.clamp(RECEIVE_BYTES, MAX_RECEIVE_BYTES);
        }
        self.behind = true;
        true
    }

    /// Takes packets of the host, and seals in turn what there is to send; what is sealed leaves as soon as there is a train
    /// of it.
    ///
    /// # Errors
    /// The interface is gone.
    pub(super) async fn take_packets(
        &mut self,
        engine: &mut Engine,
        ways: Ways<'_>,
        now: Instant,
    ) -> io::Result<bool> {
        if !self.has_begun {
            return Ok(false);
        }
        self.read_packets(now)?;
        let mut taken = 0;
        let dropped = self.queue.dropped();
        while taken < TURN_BYTES {
            let Some(packet) = self.queue.pop(now) else {
                break;
            };
            taken += packet.bytes().len();
            engine.handle_tun(packet.bytes(), packet.offload, now);
            self.queue.recycle(packet);
            while let Some(train) = engine.poll_full_train() {
                self.send(engine, ways, &train).await;
                engine.recycle(train);
            }
        }
        let dropped = self.queue.dropped() - dropped;
        engine.count_drops(DropReason::QueueOut, dropped);
        Ok(taken > 0)
    }

    /// Moves what waits in the kernel into the queue, where it can be told what waits.
    fn read_packets(&mut self, now: Instant) -> io::Result<()> {
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

    /// Gives packets to the host, and sends the trains that the engine has.
    pub(super) async fn give(&mut self, engine: &mut Engine, ways: Ways<'_>) {
        write_packets(engine, &mut self.tun, &mut self.to_tun);
        while let Some(train) = engine.poll_train() {
            self.send(engine, ways, &train).await;
            engine.recycle(train);
        }
    }

    async fn send(&mut self, engine: &mut Engine, ways: Ways<'_>, train: &Train) {
        if let Some(path) = train.relay {
            let lost = ways.servers.relay(path, train);
            return engine.count_drops(DropReason::QueueOut, lost);
        }
        if let Some(path) = train.tcp {
            let lost = ways.tcp.send(path, train, clock::now());
            return engine.count_drops(DropReason::QueueOut, lost);
        }
        let place = train.to;
        let place = place.and_then(|to| self.translator.outwards(train.socket, to));
        let Some((id, to)) = place else {
            return;
        };
        if train
            .to
            .is_some_and(|shown| Translator::leads_inside(engine, shown, to))
        {
            return engine.count_drops(DropReason::NotForUs, 1);
        }
        // A socket that was opened before the network has changed may be of the other family.
        let socket = self.sockets.get(id);
        let Some(socket) = socket.filter(|socket| socket.is_v6() == to.is_ipv6()) else {
            return;
        };
        let turned = self.vantage.outwards(train.to, &train.bytes);
        let (segment, bytes) = match &turned {
            Outwards::Unchanged => (train.segment, &train.bytes[..]),
            Outwards::Ping(ping) => (ping.len(), &ping[..]),
            Outwards::Nothing => return,
        };
        let source = train
            .source
            .filter(|source| source.is_ipv6() == to.is_ipv6());
        let manner = Manner {
            ttl: train.ttl,
            whole: train.whole,
        };
        let sent = socket.send(to, source, segment, bytes, manner).await;
        if let Err(error) = sent {
            tracing::trace!(%to, %error, "a datagram was not sent");
        }
    }
}

fn write_packets(engine: &mut Engine, tun: &mut Tun, batch: &mut Batch) {
    engine.swap_tun(batch);
    if !batch.is_empty() {
        let refused = tun.write(batch);
        engine.count_drops(DropReason::HostRefused, refused as u64);
    }
}
