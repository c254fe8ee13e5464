//! The target's side of a forward: one task per stream that copies between a socket and the driver.
//!
//! Nothing is unbounded: bytes towards the target wait in a channel of [`TO_TARGET`] chunks, and a task reads more from its
//! target only while fewer than [`FROM_TARGET`] of its chunks wait for the client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use bytes::BytesMut;
use punch_api::{Protocol, Target};
use punch_engine::{PeerHandle, StreamId, TargetEvent};
use punch_platform::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::datagrams::Flow;
use super::names::Names;
use super::report::{End, Failure, FromTarget, ToTarget, fitting, in_words};
use crate::descriptors::{Descriptor, Descriptors};
use crate::dial;
use crate::meeting::{MeetingPlace, Visit};
use crate::tasks::Spawner;

/// What goes to a guest at once, and may wait on its way from the meeting place.
const GUEST_CHUNK: usize = 16 * 1024;
/// A guest has this long to take what the meeting place said last.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Chunks that may wait for a target.
pub(crate) const TO_TARGET: usize = 8;
/// Chunks of one target that may wait for its client.
const FROM_TARGET: usize = 4;
/// An address has so long; a client's own SYN retries end after about two minutes, and what takes this long is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A target that is asked for once has so long to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// After a client is gone, its target has this long to take the last bytes.
const LAST_BYTES: Duration = Duration::from_secs(60);

/// What every stream's task needs.
#[derive(Clone)]
pub(crate) struct Carrier {
    names: Names,
    descriptors: Descriptors,
    /// Changes with the addresses of this machine.
    network: watch::Receiver<u64>,
    reports: mpsc::Sender<FromTarget>,
}

/// The driver's ends of what tasks use.
pub(crate) struct Ends {
    pub(crate) reports: mpsc::Receiver<FromTarget>,
    pub(crate) network: watch::Sender<u64>,
}

/// A stream that is to be carried.
pub(crate) struct Job {
    pub(crate) stream: StreamId,
    pub(crate) protocol: Protocol,
    pub(crate) target: Target,
    pub(crate) peer: PeerHandle,
    /// The longest chunk in either direction.
    pub(crate) chunk: usize,
    pub(crate) orders: mpsc::Receiver<ToTarget>,
    /// Ends when the client is gone.
    pub(crate) over: oneshot::Receiver<()>,
    /// Given back when the last socket is closed.
    pub(crate) descriptor: Descriptor,
}

/// A stream of a guest's to the meeting place of this machine.
pub(crate) struct Call {
    pub(crate) stream: StreamId,
    pub(crate) visit: Visit,
    pub(crate) place: MeetingPlace,
    pub(crate) orders: mpsc::Receiver<ToTarget>,
}

impl Carrier {
    /// What tasks need, and the other ends of it; so many reports may wait.
    pub(crate) fn new(spawner: &Spawner, descriptors: Descriptors, reports: usize) -> (Self, Ends) {
        let (reports, reports_out) = mpsc::channel(reports);
        let (network_in, network) = watch::channel(0);
        let carrier = Self {
            names: Names::start(spawner),
            descriptors,
            network,
            reports,
        };
        let ends = Ends {
            reports: reports_out,
            network: network_in,
        };
        (carrier, ends)
    }

    /// Names may lead elsewhere from now on.
    pub(crate) fn forget_names(&self) {
        self.names.forget();
    }

    /// Carries one stream until it is over. Dropping the sender of its orders without [`ToTarget::Finish`], or this future,
    /// resets the target. When the sender of `over` is dropped, the client is gone, and what is under way gets [`LAST_BYTES`]
    /// more.
    pub(crate) async fn carry(self, job: Job) {
        let stream = job.stream;
        let end = match job.protocol {
            Protocol::Tcp => self.carry_tcp(job).await,
            Protocol::Udp => self.carry_udp(job).await,
        };
        let report = match end {
            End::Quiet => return,
            End::Event(event) => FromTarget::Event(stream, event),
            End::Failed(failure) => FromTarget::Failed(stream, failure.event, failure.what),
        };
        // The driver is gone only when punchd stops.
        let _ = self.reports.send(report).await;
    }
}

impl Carrier {
    /// Carries a guest's stream until it is over. Dropping the sender of its orders, or this future, ends the guest's connection.
    pub(crate) async fn welcome(self, call: Call) {
        let Call {
            stream,
            visit,
            place,
            mut orders,
        } = call;
        let (ours, theirs) = tokio::io::duplex(GUEST_CHUNK);
        let (mut reader, mut writer) = tokio::io::split(ours);
        let connected = FromTarget::Event(stream, TargetEvent::Connected);
        if self.reports.send(connected).await.is_err() {
            return;
        }
        let to_place = async {
            while let Some(ToTarget::Bytes(bytes)) = orders.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
                let _ = self.reports.send(FromTarget::Room(stream)).await;
            }
        };
        let from_place = async {
            // One chunk at a time: what is relayed waits where it is dropped when it is old.
            let window = Arc::new(Semaphore::new(1));
            while let Ok(permit) = window.clone().acquire_owned().await {
                let mut buffer = BytesMut::with_capacity(GUEST_CHUNK);
                match reader.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let chunk = FromTarget::Bytes(stream, fitting(buffer), permit);
                if self.reports.send(chunk).await.is_err() {
                    return;
                }
            }
        };
        let served = async {
            place.serve(&visit, theirs).await;
            // What was said last is taken soon, or by nobody.
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = to_place => {}
            () = from_place => {}
            () = served => {}
        }
        let ended = FromTarget::Event(stream, TargetEvent::Reset);
        let _ = self.reports.send(ended).await;
    }

    async fn carry_tcp(&self, job: Job) -> End {
        let Job {
            stream,
            chunk,
            mut orders,
            over,
            descriptor: _descriptor,
            target,
            peer,
            ..
        } = job;
        let dialled = tokio::select! {
            dialled = self.dial(&target, peer) => dialled,
            // The client has given up meanwhile.
            None = orders.recv() => return End::Quiet,
        };
        let mut socket = match dialled {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        let _ = socket.set_nodelay(true);
        // Whatever is not finished in both directions ends in a reset, also when punchd is killed: a target must not take a part
        // for the whole.
        let _ = socket.set_zero_linger();
        let connected = FromTarget::Event(stream, TargetEvent::Connected);
        if self.reports.send(connected).await.is_err() {
            return End::Quiet;
        }
        // Borrowed halves: an owned one would send a FIN when it is dropped.
        let (mut reader, mut writer) = socket.split();
        // Each end has said that it is done: only then is the close a friendly one.
        let (client_done, target_done) = (AtomicBool::new(false), AtomicBool::new(false));
        let to_target = write_tcp(
            stream,
            &mut orders,
            &mut writer,
            &client_done,
            &self.reports,
        );
        let from_target = read_tcp(stream, chunk, &mut reader, &target_done, &self.reports);
        let too_late = async {
            let _ = over.await;
            tokio::time::sleep(LAST_BYTES).await;
        };
        let end = tokio::select! {
            end = to_target => end,
            end = from_target => end,
            () = too_late => None,
        };
        if client_done.into_inner() && target_done.into_inner() {
            let _ = socket2::SockRef::from(&socket).set_linger(None);
        }
        end.map_or(End::Quiet, End::Event)
    }

    /// Connects to the target. Where that fails, its name is looked up anew: it may lead elsewhere by now.
    async fn dial(&self, target: &Target, peer: PeerHandle) -> Result<TcpStream, End> {
        let began = clock::now();
        let known = self.names.look_up(target, peer, None).await?;
        let failure = match self.dial_all(&known).await {
            Ok(socket) => return Ok(socket),
            Err(failure) => failure,
        };
        match self.names.look_up(target, peer, Some(began)).await {
            Ok(new) if new != known => self.dial_all(&new).await.map_err(End::Failed),
            _ => Err(End::Failed(failure)),
        }
    }

    /// Tries all addresses, as far as there are descriptors for several sockets.
    async fn dial_all(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
        let more = addresses.len().saturating_sub(1);
        let more: Vec<_> = (0..more)
            .map_while(|_| self.descriptors.for_stream())
            .collect();
        let addresses = addresses.get(..=more.len()).unwrap_or_default();
        let refused = AtomicBool::new(false);
        let attempt = |address| {
            let refused = &refused;
            async move {
                TcpStream::connect(address).await.map_err(|error| {
                    let is_refusal = error.kind() == io::ErrorKind::ConnectionRefused;
                    refused.fetch_or(is_refusal, Ordering::Relaxed);
                    anyhow!("{}", in_words(&error))
                })
            }
        };
        let dialled = dial::race(addresses, CONNECT_TIMEOUT, attempt).await;
        dialled.map(|(_, socket)| socket).map_err(|error| Failure {
            event: match refused.load(Ordering::Relaxed) {
                true => TargetEvent::Refused,
                false => TargetEvent::Unreachable,
            },
            what: match addresses {
                [only] => format!("{error} at {only}"),
                _ => error.to_string(),
            },
        })
    }

    async fn carry_udp(&self, job: Job) -> End {
        let flow = Flow::new(&self.names, &self.descriptors, job.target, job.peer);
        let carried = flow.carry(job.stream, job.orders, self.network.clone(), &self.reports);
        let end = carried.await;
        drop(job.descriptor);
        end
    }
}

/// What is wrong with a TCP target that is asked for once, if that is known within a second. Only an address is asked, or
/// `localhost`: the name service may take its time for other names.
pub(crate) async fn trouble(target: &Target) -> Option<String> {
    let ips: Vec<IpAddr> = match target.host() {
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        host => vec![host.parse().ok()?],
    };
    let mut trouble = None;
    for ip in ips {
        let address = SocketAddr::new(ip, target.port());
        match timeout(CHECK_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Err(error)) => {
                let first = trouble.take();
                trouble = first.or_else(|| Some(Failure::new(&error, address).what));
            }
            Ok(Ok(_)) | Err(_) => return None,
        }
    }
    trouble
}

/// Reads from the target as far as its client takes it, and sets `target_done` at the end. Memory is there only while there is
/// something to read.
async fn read_tcp(
    stream: StreamId,
    chunk: usize,
    reader: &mut ReadHalf<'_>,
    target_done: &AtomicBool,
    reports: &mpsc::Sender<FromTarget>,
) -> Option<TargetEvent> {
    let window = Arc::new(Semaphore::new(FROM_TARGET));
    loop {
        let Ok(permit) = window.clone().acquire_owned().await else {
            return Some(TargetEvent::Reset);
        };
        if reader.readable().await.is_err() {
            return Some(TargetEvent::Reset);
        }
        let mut buffer = BytesMut::with_capacity(chunk);
        match reader.try_read_buf(&mut buffer) {
            Ok(0) => {
                target_done.store(true, Ordering::Relaxed);
                let finished = FromTarget::Event(stream, TargetEvent::Finished);
                let _ = reports.send(finished).await;
                // The other direction may go on: half-closed.
                return std::future::pending().await;
            }
            Ok(_) => {
                let bytes = fitting(buffer);
                let chunk = FromTarget::Bytes(stream, bytes, permit);
                if reports.send(chunk).await.is_err() {
                    return None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Some(TargetEvent::Reset),
        }
    }
}

/// Writes to the target what the client sends, and sets `client_done` behind the last of it. Goes on until the stream is over.
async fn write_tcp(
    stream: StreamId,
    orders: &mut mpsc::Receiver<ToTarget>,
    writer: &mut WriteHalf<'_>,
    client_done: &AtomicBool,
    reports: &mpsc::Sender<FromTarget>,
) -> Option<TargetEvent> {
    loop {
        match orders.recv().await {
            Some(ToTarget::Bytes(bytes)) => {
                if writer.write_all(&bytes).await.is_err() {
                    return Some(TargetEvent::Reset);
                }
                let _ = reports.send(FromTarget::Room(stream)).await;
            }
            Some(ToTarget::Finish) => {
                if writer.shutdown().await.is_err() {
                    return Some(TargetEvent::Reset);
                }
                client_done.store(true, Ordering::Relaxed);
            }
            None => return None,
        }
    }
}
