//! The target's side of a UDP flow. A name may have several addresses, and datagrams are not answered by a kernel: a refusal leads to
//! the next address at once, silence after a second as long as the flow never had an answer. A flow may outlive the addresses of its
//! target and of this machine, so they are looked at again when something goes wrong.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use punch_api::Target;
use punch_engine::{PeerHandle, StreamId};
use punch_platform::clock;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::names::Names;
use super::report::{End, Failure, FromTarget, ToTarget, fitting};
use crate::descriptors::{Descriptor, Descriptors};
use crate::tasks::sleep_until;

/// An address that has not answered for so long is followed by the next.
const SILENCE: Duration = Duration::from_secs(1);
/// After so long without an answer the name is looked up again.
const DOUBT: Duration = Duration::from_secs(5);
/// The longest datagram.
const LONGEST: usize = 65_535;

/// An address of the target, and the socket towards it.
struct Way {
    address: SocketAddr,
    socket: UdpSocket,
    /// Beyond the first socket, for which the stream has one.
    _descriptor: Option<Descriptor>,
}

impl Way {
    /// Waits for a datagram, or for an error: a refusal alone makes a socket not readable.
    async fn ready(&self) {
        let what = Interest::READABLE | Interest::ERROR;
        if self.socket.ready(what).await.is_err() {
            // The runtime is about to end.
            pending().await
        }
    }

    /// Takes a datagram into the buffer, if there is one.
    ///
    /// # Errors
    /// What the kernel has heard of the datagrams sent.
    fn receive(&self, buffer: &mut BytesMut) -> io::Result<bool> {
        match self.socket.try_recv_buf(buffer) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.trouble().map(|()| false)
            }
            Err(error) => Err(error),
        }
    }

    /// The error that no datagram goes with.
    fn trouble(&self) -> io::Result<()> {
        let none = || io::Error::from(io::ErrorKind::WouldBlock);
        let take = || Err(self.socket.take_error()?.unwrap_or_else(none));
        match self.socket.try_io(Interest::ERROR, take) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            taken => taken,
        }
    }
}

/// One flow's ways to its target.
pub(super) struct Flow<'a> {
    names: &'a Names,
    descriptors: &'a Descriptors,
    target: Target,
    peer: PeerHandle,
    /// All addresses of the target, and those of them that were not tried yet.
    addresses: Vec<SocketAddr>,
    untried: VecDeque<SocketAddr>,
    /// The ways that did not fail; datagrams take the last one until one of them has answered.
    ways: Vec<Way>,
    answered: bool,
    /// The newest datagram, until it is answered, and since when there is no answer.
    unanswered: Option<(Bytes, Instant)>,
}

/// What has happened to a flow.
enum News {
    Order(Option<ToTarget>),
    Readable(usize),
    Silence,
    Network,
}

impl<'a> Flow<'a> {
    pub(super) fn new(
        names: &'a Names,
        descriptors: &'a Descriptors,
        target: Target,
        peer: PeerHandle,
    ) -> Self {
        Self {
            names,
            descriptors,
            target,
            peer,
            addresses: Vec::new(),
            untried: VecDeque::new(),
            ways: Vec::new(),
            answered: false,
            unanswered: None,
        }
    }

    /// Carries datagrams until the flow is over.
    pub(super) async fn carry(
        mut self,
        stream: StreamId,
        orders: mpsc::Receiver<ToTarget>,
        network: watch::Receiver<u64>,
        reports: &mpsc::Sender<FromTarget>,
    ) -> End {
        match self.names.look_up(&self.target, self.peer, None).await {
            Ok(addresses) => self.begin(addresses),
            Err(trouble) => return trouble.into(),
        }
        self.serve(stream, orders, network, reports).await
    }

    /// Carries datagrams to the addresses that are known.
    async fn serve(
        mut self,
        stream: StreamId,
        mut orders: mpsc::Receiver<ToTarget>,
        mut network: watch::Receiver<u64>,
        reports: &mpsc::Sender<FromTarget>,
    ) -> End {
        if let Err(failure) = self.open_next() {
            return End::Failed(failure);
        }
        loop {
            let trouble = match self.news(&mut orders, &mut network).await {
                News::Order(None) => return End::Quiet,
                News::Order(Some(ToTarget::Finish)) => None,
                News::Order(Some(ToTarget::Bytes(bytes))) => self.send(bytes).await,
                News::Readable(way) => match self.receive(way) {
                    Ok(Some(bytes)) => {
                        let datagram = FromTarget::Datagram(stream, bytes);
                        if reports.send(datagram).await.is_err() {
                            return End::Quiet;
                        }
                        None
                    }
                    Ok(None) => None,
                    Err(error) => self.refused(way, &error).await,
                },
                News::Silence => self.silence().await,
                News::Network => {
                    self.network_changed().await;
                    None
                }
            };
            if let Some(Failure { event, what }) = trouble {
                // The flow goes on, as it would locally.
                let _ = reports.send(FromTarget::Failed(stream, event, what)).await;
            }
        }
    }

    /// Waits for what happens next.
    async fn news(
        &self,
        orders: &mut mpsc::Receiver<ToTarget>,
        network: &mut watch::Receiver<u64>,
    ) -> News {
        tokio::select! {
            order = orders.recv() => News::Order(order),
            way = self.readable() => News::Readable(way),
            () = sleep_until(self.patience()) => News::Silence,
            Ok(()) = network.changed() => News::Network,
        }
    }

    /// Waits for a way that has something.
    async fn readable(&self) -> usize {
        if let [only] = self.ways.as_slice() {
            only.ready().await;
            return 0;
        }
        let ways = self.ways.iter().enumerate();
        let ready = ways.map(|(at, way)| async move {
            way.ready().await;
            at
        });
        let mut all: FuturesUnordered<_> = ready.collect();
        match all.next().await {
            Some(at) => at,
            None => pending().await,
        }
    }

    /// When silence means something.
    fn patience(&self) -> Option<Instant> {
        let (_, since) = self.unanswered.as_ref()?;
        if self.answered {
            Some(*since + DOUBT)
        } else {
            (!self.untried.is_empty()).then_some(*since + SILENCE)
        }
    }

    /// Starts over with these addresses.
    fn begin(&mut self, addresses: Vec<SocketAddr>) {
        self.untried = addresses.iter().copied().collect();
        self.addresses = addresses;
        self.ways.clear();
        self.answered = false;
    }

    /// Opens a socket towards the next address that has a way.
    fn open_next(&mut self) -> Result<(), Failure> {
        let mut failure = Failure::new(&io::ErrorKind::NotFound.into(), &self.target);
        while let Some(address) = self.untried.pop_front() {
            let descriptor = match self.ways.is_empty() {
                true => None,
                // Without a descriptor for one more the way before is given up.
                false => self.descriptors.for_stream().or_else(|| {
                    self.ways.clear();
                    None
                }),
            };
            match connect(address) {
                Ok(socket) => {
                    self.ways.push(Way {
                        address,
                        socket,
                        _descriptor: descriptor,
                    });
                    return Ok(());
                }
                Err(error) => failure = Failure::new(&error, address),
            }
        }
        match self.ways.is_empty() {
            true => Err(failure),
            false => Ok(()),
        }
    }

    /// Sends a datagram; what is to be told if nothing is there to take it.
    async fn send(&mut self, bytes: Bytes) -> Option<Failure> {
        let since = match &self.unanswered {
            Some((_, since)) => *since,
            None => clock::now(),
        };
        self.unanswered = Some((bytes, since));
        self.send_newest().await
    }

    /// Sends the newest datagram by the newest way, and by the next one where that is refused at once.
    async fn send_newest(&mut self) -> Option<Failure> {
        loop {
            if self.ways.is_empty() {
                self.untried = self.addresses.iter().copied().collect();
                if let Err(failure) = self.open_next() {
                    return Some(failure);
                }
            }
            let (bytes, _) = self.unanswered.as_ref()?;
            let at = self.ways.len() - 1;
            let way = self.ways.last()?;
            match way.socket.send(bytes).await {
                Err(error) if is_refusal(&error) => {
                    if let Some(failure) = self.give_up(at, &error).await {
                        return Some(failure);
                    }
                }
                _ => return None,
            }
        }
    }

    /// Takes a datagram from a way: that one is taken from now on.
    fn receive(&mut self, at: usize) -> io::Result<Option<Bytes>> {
        let mut buffer = BytesMut::with_capacity(LONGEST);
        match self.ways[at].receive(&mut buffer) {
            Ok(true) => {
                if self.ways.len() > 1 {
                    let way = self.ways.swap_remove(at);
                    self.ways = vec![way];
                }
                self.untried.clear();
                self.answered = true;
                self.unanswered = None;
                Ok(Some(fitting(buffer)))
            }
            Err(error) if is_refusal(&error) => Err(error),
            Ok(false) | Err(_) => Ok(None),
        }
    }

    /// A way leads to nobody: the newest datagram takes another one.
    async fn refused(&mut self, at: usize, error: &io::Error) -> Option<Failure> {
        match self.give_up(at, error).await {
            None => self.send_newest().await,
            failure => failure,
        }
    }

    /// Takes the next way instead of this one, or looks the name up anew; what is to be told if there is none.
    async fn give_up(&mut self, at: usize, error: &io::Error) -> Option<Failure> {
        let refused = self.ways.swap_remove(at);
        let failure = Failure::new(error, refused.address);
        if self.answered {
            // It has served until now: the target may have moved.
            self.answered = false;
            let others = self.addresses.iter();
            let others = others.filter(|other| **other != refused.address);
            self.untried = others.copied().collect();
        }
        self.restart_patience();
        if !self.ways.is_empty() || (!self.untried.is_empty() && self.open_next().is_ok()) {
            return None;
        }
        let moved = self.look_up_anew().await && self.open_next().is_ok();
        (!moved).then_some(failure)
    }

    /// Nobody answers: by the next way somebody may, or the name may lead elsewhere by now.
    async fn silence(&mut self) -> Option<Failure> {
        if self.answered {
            let served = self.ways.first().map(|way| way.address);
            let known = self
                .names
                .look_up(&self.target, self.peer, self.since())
                .await;
            self.restart_patience();
            if let Ok(new) = known
                && served.is_none_or(|served| !new.contains(&served))
            {
                self.begin(new);
                return self.send_newest().await;
            }
            return None;
        }
        let _ = self.open_next();
        self.restart_patience();
        let told = self.send_newest().await;
        if self.untried.is_empty() {
            // All have been asked, and none has answered yet: the first one is preferred, the answer of any is taken.
            self.ways.reverse();
        }
        told
    }

    fn since(&self) -> Option<Instant> {
        self.unanswered.as_ref().map(|(_, since)| *since)
    }

    fn restart_patience(&mut self) {
        if let Some((_, since)) = &mut self.unanswered {
            *since = clock::now();
        }
    }

    /// Looks the name up; whether it leads elsewhere now.
    async fn look_up_anew(&mut self) -> bool {
        let now = Some(clock::now());
        match self.names.look_up(&self.target, self.peer, now).await {
            Ok(new) if new != self.addresses => {
                self.begin(new);
                true
            }
            _ => false,
        }
    }

    /// This machine's addresses are others: the name may lead elsewhere, and the socket may stand on an address that is gone.
    async fn network_changed(&mut self) {
        let now = Some(clock::now());
        let new = self.names.look_up(&self.target, self.peer, now).await;
        if let Ok(new) = new {
            let served = |way: &Way| new.contains(&way.address);
            if !self.ways.iter().any(served) {
                self.begin(new);
                return;
            }
            self.addresses = new;
        }
        for way in &mut self.ways {
            let Ok(socket) = connect(way.address) else {
                continue;
            };
            let here = |socket: &UdpSocket| socket.local_addr().map(|local| local.ip()).ok();
            if here(&socket) != here(&way.socket) {
                way.socket = socket;
            }
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

/// A socket towards this address.
fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    UdpSocket::from_std(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use punch_engine::TargetEvent;
    use tokio::runtime::{Builder, Handle};
    use tokio::time::timeout;

    use super::*;
    use crate::tasks::Spawner;

    /// What comes first of a datagram to a target with these addresses, beside what `answers` there.
    fn first_report(addresses: Vec<SocketAddr>, answers: impl Future<Output = ()>) -> FromTarget {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let names = Names::start(&Spawner::new(Handle::current()));
            let descriptors = Descriptors::new(1024);
            let (orders, orders_out) = mpsc::channel(8);
            let (reports, mut reports_out) = mpsc::channel(8);
            let (_network, network_out) = watch::channel(0);
            let target = addresses[0].to_string().parse().unwrap();
            let mut flow = Flow::new(&names, &descriptors, target, PeerHandle(1));
            flow.begin(addresses);
            let datagram = Bytes::from_static(b"question");
            orders.send(ToTarget::Bytes(datagram)).await.unwrap();
            let served = flow.serve(StreamId(1), orders_out, network_out, &reports);
            let report = async {
                let answered = async {
                    answers.await;
                    pending::<()>().await;
                };
                tokio::select! {
                    report = reports_out.recv() => report.unwrap(),
                    _ = served => panic!("the flow is over"),
                    () = answered => unreachable!("it waits for ever"),
                }
            };
            timeout(Duration::from_secs(30), report).await.unwrap()
        })
    }

    /// An address of this machine at which nobody listens.
    fn closed() -> SocketAddr {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    }

    #[test]
    fn a_target_at_which_nobody_listens_is_told_as_that() {
        let report = first_report(vec![closed()], pending());
        assert!(
            matches!(
                report,
                FromTarget::Failed(StreamId(1), TargetEvent::Refused, _)
            ),
            "{report:?}"
        );
    }

    #[test]
    fn a_refusal_leads_to_the_next_address() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let address = server.local_addr().unwrap();
        let answers = async {
            let server = UdpSocket::from_std(server).unwrap();
            let mut buffer = [0; 64];
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"question");
            server.send_to(b"answer", from).await.unwrap();
        };
        let report = first_report(vec![closed(), address], answers);
        let expected = Bytes::from_static(b"answer");
        assert!(
            matches!(&report, FromTarget::Datagram(StreamId(1), bytes) if *bytes == expected),
            "{report:?}"
        );
    }
}
