//! One forwarded TCP connection: its own smoltcp interface with one socket, so that a packet's cost does not grow with the
//! number of connections.
//!
//! The client's SYN is held until the target has answered, so that the client sees what it would see locally: a refusal
//! where the target refuses, an established connection only where there is one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use punch_packet::Flow;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::device::Queues;
use crate::idle::{Awaits, Due, GIVE_UP, Idle, Presence};

/// Bytes buffered in each direction of a connection; the memory is taken from the system as it is first used.
pub const BUFFER: usize = 512 * 1024;
/// The same for a connection beyond the first [`crate::LARGE_STREAMS_PER_PEER`] of its peer, or [`crate::LARGE_STREAMS`] of all.
pub const SMALL_BUFFER: usize = 32 * 1024;
/// The most for a connection to the meeting place: what is relayed over it should wait where it is dropped when it is old.
pub(crate) const MEETING_BUFFER: usize = 128 * 1024;
/// A client that does not complete the handshake for this long does not mean to.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// A client gets this long to take the last bytes of a target that is gone.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// More packets of one connection than this in one batch are dropped, as a router's full queue would.
const MAX_QUEUED: usize = 1024;

pub(crate) struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    device: Queues,
    epoch: Instant,
    /// What smoltcp takes for the present.
    clock: Instant,
    /// Tells smoltcp's `Closed` after a reset from the one after both FINs.
    client_finished: bool,
    told_finished: bool,
    target_finished: bool,
    want_writable: bool,
    progress: Instant,
    unsent: usize,
    aborts_at: Option<Instant>,
    idle: Idle,
}

/// What a turn of the connection has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turn {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) finished: bool,
    pub(crate) reset: bool,
    pub(crate) over: bool,
}

impl Connection {
    /// A connection that listens for exactly the SYN of `flow`, with `buffer` bytes each way.
    pub(crate) fn new(flow: Flow, mtu: usize, buffer: usize, seed: u64, now: Instant) -> Self {
        let mut device = Queues::new(mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        let local = IpAddress::from(flow.destination.ip());
        interface.update_ip_addrs(|addresses| {
            // A prefix of no bits: every client is "on the link", no route is needed. The one address always fits.
            let _ = addresses.push(IpCidr::new(local, 0));
        });
        let buffer = || SocketBuffer::new(vec![0; buffer]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        // Listening on an address and a port other than 0 in a fresh socket cannot fail.
        let _ = socket.listen(IpListenEndpoint {
            addr: Some(local),
            port: flow.destination.port(),
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            device,
            epoch: now,
            clock: now,
            client_finished: false,
            told_finished: false,
            target_finished: false,
            want_writable: false,
            progress: now,
            unsent: 0,
            aborts_at: None,
            idle: Idle::new(now),
        }
    }

    pub(crate) fn push(&mut self, packet: &[u8], now: Instant) -> bool {
        self.idle.heard(now);
        self.socket_mut().set_keep_alive(None);
        let room = self.device.incoming.len() < MAX_QUEUED;
        if room {
            self.device.incoming.push_back(packet.to_vec());
        }
        room
    }

    /// Lets smoltcp work on what was pushed, written and closed since; packets for the client are appended to `out`.
    pub(crate) fn turn(&mut self, now: Instant, out: &mut Vec<Vec<u8>>) -> Turn {
        // When TIME-WAIT ends, smoltcp clears its buffers; so it must not end before the target has read everything.
        if !self.waits_for_reader() {
            self.clock = now;
        }
        self.poll();
        if self
            .aborts_at
            .is_some_and(|at| at <= now || self.socket().send_queue() == 0)
        {
            self.aborts_at = None;
            self.abort();
            self.poll();
        }
        if self.target_finished && self.socket().may_send() {
            self.socket_mut().close();
            self.poll();
        }
        // Bytes and flags that the client has not acknowledged.
        let (unsent, patience) = match self.socket().state() {
            State::SynReceived => (1, HANDSHAKE),
            State::FinWait1 | State::Closing | State::LastAck => {
                (self.socket().send_queue() + 1, GIVE_UP)
            }
            _ => (self.socket().send_queue(), GIVE_UP),
        };
        if unsent != self.unsent || unsent == 0 {
            self.unsent = unsent;
            self.progress = now;
        } else if now.saturating_duration_since(self.progress) >= patience {
            self.socket_mut().abort();
            self.poll();
        }
        out.append(&mut self.device.outgoing);

        let socket = self.sockets.get::<Socket<'_>>(self.handle);
        let state = socket.state();
        let readable = socket.can_recv();
        if readable || self.unsent > 0 {
            self.idle.busy(now);
        }
        self.client_finished |= matches!(
            state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        let closed = matches!(state, State::Closed | State::TimeWait);
        // smoltcp listens again when a client resets during the handshake, and stays so when it can make nothing of the SYN.
        let reset = state == State::Listen
            || (state == State::Closed && !(self.client_finished && self.target_finished));
        let writable = self.want_writable && socket.can_send();
        self.want_writable &= !writable;
        let finished = self.client_finished && !readable && !self.told_finished && !reset;
        self.told_finished |= finished;
        Turn {
            readable,
            writable,
            finished,
            reset,
            over: closed && !readable,
        }
    }

    /// When smoltcp wants the next turn.
    pub(crate) fn next_turn(&mut self, now: Instant) -> Option<Instant> {
        if self.waits_for_reader() {
            return None;
        }
        let stamp = self.stamp(now);
        let at = self.interface.poll_at(stamp, &self.sockets).map(|at| {
            let micros = u64::try_from(at.total_micros()).unwrap_or(0);
            self.epoch + Duration::from_micros(micros)
        });
        let looks = self.awaits() != Awaits::End;
        let looks = looks.then(|| self.idle.next());
        at.into_iter().chain(self.aborts_at).chain(looks).min()
    }

    /// Looks after a client that is quiet: it is asked whether it is still there, or given up. A turn follows.
    pub(crate) fn look(&mut self, presence: Presence, now: Instant) {
        match self.idle.look(presence, self.awaits(), now) {
            // smoltcp sends one at once when the option is set, and goes on until the client is heard.
            Due::Probe { every } => {
                let every = smoltcp::time::Duration::from(every);
                if self.socket().keep_alive() != Some(every) {
                    self.socket_mut().set_keep_alive(Some(every));
                }
            }
            Due::Nothing if presence == Presence::Away => self.socket_mut().set_keep_alive(None),
            Due::Nothing => {}
            Due::GiveUp => self.socket_mut().abort(),
        }
    }

    /// What a quiet client may owe.
    fn awaits(&self) -> Awaits {
        match self.socket().state() {
            State::Established | State::CloseWait if self.socket().send_queue() > 0 => {
                Awaits::Acknowledgement
            }
            State::Established | State::CloseWait | State::FinWait2 => Awaits::Nothing,
            State::FinWait1 | State::Closing | State::LastAck => Awaits::Acknowledgement,
            _ => Awaits::End,
        }
    }

    /// The client has not acknowledged everything.
    pub(crate) fn is_unacknowledged(&self) -> bool {
        self.awaits() == Awaits::Acknowledgement
    }

    /// Takes up to `max` bytes that the client sent.
    pub(crate) fn read(&mut self, max: usize) -> Bytes {
        let mut bytes = Vec::new();
        while bytes.len() < max {
            let room = max - bytes.len();
            let taken = self.socket_mut().recv(|chunk| {
                let length = chunk.len().min(room);
                bytes.extend_from_slice(&chunk[..length]);
                (length, length)
            });
            if !taken.is_ok_and(|length| length > 0) {
                break;
            }
        }
        bytes.into()
    }

    /// Gives bytes to the client; returns how many there was room for. Once it was not all, a turn tells when there is more.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.socket_mut().send_slice(&bytes[written..]) {
                Ok(length) if length > 0 => written += length,
                _ => break,
            }
        }
        self.want_writable = written < bytes.len();
        written
    }

    /// The target has sent all it will.
    pub(crate) fn finish(&mut self) {
        self.target_finished = true;
        // During the handshake smoltcp would take the SYN's acknowledgement for the FIN's: then the next turns close.
        if self.socket().state() != State::SynReceived {
            self.socket_mut().close();
        }
    }

    /// The target is gone: the client gets a reset.
    pub(crate) fn abort(&mut self) {
        self.client_finished = true;
        self.target_finished = true;
        self.told_finished = true;
        // Nobody will take what was not read.
        self.read(BUFFER);
        self.socket_mut().abort();
    }

    /// The target is gone, but what it sent first is for the client, as it would be locally: a reset follows it.
    pub(crate) fn abort_when_sent(&mut self, now: Instant) {
        if self.socket().send_queue() == 0 {
            self.abort();
        } else {
            self.aborts_at = Some(now + LAST_BYTES);
        }
    }

    /// Both directions are closed; only late packets are still awaited, or the target's reading.
    pub(crate) fn lingers(&self) -> bool {
        match self.socket().state() {
            State::TimeWait => true,
            State::Closed => self.is_unread(),
            _ => false,
        }
    }

    /// The client's bytes are not all read.
    pub(crate) fn is_unread(&self) -> bool {
        self.socket().can_recv()
    }

    fn waits_for_reader(&self) -> bool {
        self.socket().state() == State::TimeWait && self.is_unread()
    }

    fn poll(&mut self) {
        let stamp = self.stamp(self.clock);
        self.interface
            .poll(stamp, &mut self.device, &mut self.sockets);
    }

    fn stamp(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}
