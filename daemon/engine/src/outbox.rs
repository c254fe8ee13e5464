//! Datagrams on their way out, those that follow each other to the same place together, so that the kernel can be given
//! many at once (UDP_SEGMENT).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use punch_connect::{Path, RelayPath, TcpPath};
use punch_packet::Buffer;
use punch_traversal::{SocketId, Transmit};

use crate::reply_to::ReplyTo;

/// UDP_SEGMENT takes at most this many datagrams (older kernels) and 65,507 bytes at once.
const MAX_SEGMENTS: usize = 44;
const MAX_BYTES: usize = 65_000;

/// Datagrams for one destination, or packets for one relay link or TCP connection, back to back: all of `segment` bytes, the last one possibly shorter.
#[derive(Debug, Default)]
pub struct Train {
    /// The socket that sends them.
    pub socket: SocketId,
    /// The address that they go to; meaningless while `bytes` is empty.
    pub to: Option<SocketAddr>,
    /// The link that they go over instead.
    pub relay: Option<RelayPath>,
    /// The TCP connection that they go over instead.
    pub tcp: Option<TcpPath>,
    /// The address of this machine that they come from, if it matters.
    pub source: Option<IpAddr>,
    /// How many routers may pass them on; `None` is the system's default.
    pub ttl: Option<u8>,
    /// Whether nobody may cut them into fragments, on this machine or on the way: they find out whether a packet of their length gets
    /// through, or a translator would cut them.
    pub whole: bool,
    /// The length of each datagram but the last.
    pub segment: usize,
    /// The datagrams.
    pub bytes: Buffer,
    /// Whether no more may follow.
    closed: bool,
}

impl Train {
    fn leads_to(&self, path: Path) -> bool {
        match path {
            Path::Direct(direct) => {
                self.relay.is_none()
                    && self.tcp.is_none()
                    && self.socket == direct.socket
                    && self.to == Some(direct.remote)
            }
            Path::Relayed(relayed) => self.relay == Some(relayed),
            Path::Tcp(tcp) => self.tcp == Some(tcp),
        }
    }

    /// Whether one more datagram does not fit.
    fn is_full(&self) -> bool {
        self.bytes.len() + self.segment > MAX_BYTES
            || (!self.bytes.is_empty() && self.bytes.len() >= MAX_SEGMENTS * self.segment)
    }
}

/// The queue of trains; emptied ones are kept for their memory.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    trains: VecDeque<Train>,
    spare: Vec<Train>,
}

impl Outbox {
    /// Lets `fill` append one datagram for `path`; it returns how many bytes it appended, 0 for none. `whole` is whether nobody may cut
    /// it on its way.
    pub(crate) fn push_with(
        &mut self,
        path: Path,
        whole: bool,
        fill: impl FnOnce(&mut Buffer) -> usize,
    ) {
        let fits = |last: &Train| {
            !last.closed && last.whole == whole && last.leads_to(path) && !last.is_full()
        };
        if !self.trains.back().is_some_and(fits) {
            self.start(path, None);
            self.trains
                .back_mut()
                .into_iter()
                .for_each(|last| last.whole = whole);
        }
        let Some(last) = self.trains.back_mut() else {
            return;
        };
        let start = last.bytes.len();
        let length = fill(&mut last.bytes);
        if start == 0 {
            last.segment = length;
        } else if length < last.segment {
            last.closed = true;
        }
        if length > last.segment {
            // Longer than those before it: it starts a train of its own.
            let datagram = last.bytes[start..].to_vec();
            last.bytes.truncate(start);
            last.closed = true;
            self.start(path, None);
            if let Some(last) = self.trains.back_mut() {
                last.whole = whole;
                last.segment = length;
                last.bytes.extend(&datagram);
            }
        }
        if self.trains.back().is_some_and(|last| last.bytes.is_empty()) {
            self.spare.extend(self.trains.pop_back());
        }
    }

    pub(crate) fn push(&mut self, transmit: Transmit) {
        self.start(Path::direct(transmit.socket, transmit.to), transmit.source);
        if let Some(last) = self.trains.back_mut() {
            last.ttl = transmit.ttl;
            last.whole = transmit.whole;
            last.segment = transmit.bytes.len();
            last.bytes.extend(&transmit.bytes);
            last.closed = true;
        }
    }

    /// One message, on its own.
    pub(crate) fn push_message(&mut self, to: ReplyTo, message: &[u8]) {
        self.start(to.path, to.local);
        if let Some(last) = self.trains.back_mut() {
            last.segment = message.len();
            last.bytes.extend(message);
            last.closed = true;
        }
    }

    /// How many trains wait.
    pub(crate) fn waiting(&self) -> usize {
        self.trains.len()
    }

    pub(crate) fn pop(&mut self) -> Option<Train> {
        self.trains.pop_front()
    }

    /// The next train to which nothing can be added any more.
    pub(crate) fn pop_full(&mut self) -> Option<Train> {
        let first = self.trains.front()?;
        let full = self.trains.len() > 1 || first.closed || first.is_full();
        if full { self.trains.pop_front() } else { None }
    }

    pub(crate) fn recycle(&mut self, mut train: Train) {
        const KEPT: usize = 16;
        if self.spare.len() < KEPT {
            train.bytes.clear();
            self.spare.push(train);
        }
    }

    fn start(&mut self, path: Path, source: Option<IpAddr>) {
        let mut train = self.spare.pop().unwrap_or_default();
        (train.to, train.relay, train.tcp) = (None, None, None);
        match path {
            Path::Direct(direct) => {
                train.socket = direct.socket;
                train.to = Some(direct.remote);
            }
            Path::Relayed(relayed) => train.relay = Some(relayed),
            Path::Tcp(tcp) => train.tcp = Some(tcp),
        }
        train.source = source;
        train.ttl = None;
        train.whole = false;
        train.segment = 0;
        train.closed = false;
        self.trains.push_back(train);
    }
}
