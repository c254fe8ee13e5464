//! The target's side of a forward: one task per stream that copies between a socket and the driver.
//!
//! Nothing is unbounded: bytes towards the target wait in a channel of [`TO_TARGET`] chunks, and a task reads more from its
//! target only while fewer than [`FROM_TARGET`] of its chunks wait for the client.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use bytes::{Bytes, BytesMut};
use punch_api::{Protocol, Target};
use punch_engine::{StreamId, TargetEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::dial::{self, alternate};

/// Chunks that may wait for a target.
pub(crate) const TO_TARGET: usize = 8;
/// Chunks of one target that may wait for its client.
const FROM_TARGET: usize = 4;
/// The longest chunk in either direction.
pub(crate) const CHUNK: usize = 64 * 1024;
/// A client's own SYN retries end after about two minutes; an address that takes this long is as good as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// After a client is gone, its target has this long to take the last bytes.
const LAST_BYTES: Duration = Duration::from_secs(60);

/// What the driver tells a target's task.
#[derive(Debug)]
pub(crate) enum ToTarget {
    Bytes(Bytes),
    /// No more bytes will follow.
    Finish,
}

/// What a target's task tells the driver.
#[derive(Debug)]
pub(crate) enum FromTarget {
    Event(StreamId, TargetEvent),
    /// The target failed the stream, in words for people.
    Failed(StreamId, TargetEvent, String),
    /// The permit is given back when the client has taken the bytes.
    Bytes(StreamId, Bytes, OwnedSemaphorePermit),
    Datagram(StreamId, Bytes),
    /// The channel to the target has room again.
    Room(StreamId),
}

/// Carries one stream until it is over. Dropping the sender of `orders` without [`ToTarget::Finish`], or this future, resets
/// the target. When the sender of `over` is dropped, the client is gone, and what is under way gets [`LAST_BYTES`] more.
pub(crate) async fn carry(
    stream: StreamId,
    protocol: Protocol,
    target: Target,
    orders: mpsc::Receiver<ToTarget>,
    over: oneshot::Receiver<()>,
    reports: mpsc::Sender<FromTarget>,
) {
    let end = match protocol {
        Protocol::Tcp => carry_tcp(stream, &target, orders, over, &reports).await,
        Protocol::Udp => carry_udp(stream, &target, orders, &reports).await,
    };
    let report = match end {
        End::Quiet => return,
        End::Event(event) => FromTarget::Event(stream, event),
        End::Failed(failure) => FromTarget::Failed(stream, failure.event, failure.what),
    };
    // The driver is gone only when punchd stops.
    let _ = reports.send(report).await;
}

/// What ends a stream at its target's side.
enum End {
    /// There is nobody to be told.
    Quiet,
    Event(TargetEvent),
    /// The target was never reached.
    Failed(Failure),
}

/// Why a target was not reached.
struct Failure {
    event: TargetEvent,
    /// In words for people.
    what: String,
}

impl Failure {
    /// `error` has happened at this place.
    fn new(error: &io::Error, place: impl Display) -> Self {
        let event = match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                TargetEvent::Refused
            }
            _ => TargetEvent::Unreachable,
        };
        let what = format!("{} at {place}", in_words(error));
        Self { event, what }
    }
}

/// An error of the kernel, without its number.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

async fn carry_tcp(
    stream: StreamId,
    target: &Target,
    mut orders: mpsc::Receiver<ToTarget>,
    over: oneshot::Receiver<()>,
    reports: &mpsc::Sender<FromTarget>,
) -> End {
    let mut socket = match connect_tcp(target, &mut orders).await {
        Ok(socket) => socket,
        Err(Some(error)) => return End::Failed(error),
        Err(None) => return End::Quiet,
    };
    let _ = socket.set_nodelay(true);
    // Whatever is not finished in both directions ends in a reset, also when punchd is killed: a target must not take a part
    // for the whole.
    let _ = socket.set_zero_linger();
    let connected = FromTarget::Event(stream, TargetEvent::Connected);
    if reports.send(connected).await.is_err() {
        return End::Quiet;
    }
    // Borrowed halves: an owned one would send a FIN when it is dropped.
    let (mut reader, mut writer) = socket.split();

    // Each end has said that it is done: only then is the close a friendly one.
    let (client_done, target_done) = (AtomicBool::new(false), AtomicBool::new(false));
    let to_target = write_tcp(stream, &mut orders, &mut writer, &client_done, reports);
    let from_target = async {
        let window = Arc::new(Semaphore::new(FROM_TARGET));
        let mut buffer = BytesMut::new();
        loop {
            let Ok(permit) = window.clone().acquire_owned().await else {
                return Some(TargetEvent::Reset);
            };
            buffer.reserve(CHUNK);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => {
                    target_done.store(true, Ordering::Relaxed);
                    let finished = FromTarget::Event(stream, TargetEvent::Finished);
                    let _ = reports.send(finished).await;
                    // The other direction may go on: half-closed.
                    return std::future::pending().await;
                }
                Ok(_) => {
                    let chunk = FromTarget::Bytes(stream, buffer.split().freeze(), permit);
                    if reports.send(chunk).await.is_err() {
                        return None;
                    }
                }
                Err(_) => return Some(TargetEvent::Reset),
            }
        }
    };
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

/// Connects to the target. It fails without a reason when the client has given up meanwhile.
async fn connect_tcp(
    target: &Target,
    orders: &mut mpsc::Receiver<ToTarget>,
) -> Result<TcpStream, Option<Failure>> {
    tokio::select! {
        connected = dial_target(target) => connected.map_err(Some),
        None = orders.recv() => Err(None),
    }
}

/// Tries all addresses of the target's name.
async fn dial_target(target: &Target) -> Result<TcpStream, Failure> {
    let found = lookup_host((target.host(), target.port())).await;
    let found = found.map_err(|error| Failure::new(&error, target))?;
    let addresses = alternate(found.take(MAX_ADDRESSES));
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
    let dialled = dial::race(&addresses, CONNECT_TIMEOUT, attempt).await;
    dialled.map(|(_, socket)| socket).map_err(|error| Failure {
        event: match refused.load(Ordering::Relaxed) {
            true => TargetEvent::Refused,
            false => TargetEvent::Unreachable,
        },
        what: match &addresses[..] {
            [only] => format!("{error} at {only}"),
            _ => error.to_string(),
        },
    })
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

async fn carry_udp(
    stream: StreamId,
    target: &Target,
    mut orders: mpsc::Receiver<ToTarget>,
    reports: &mpsc::Sender<FromTarget>,
) -> End {
    let socket = match connect_udp(target).await {
        Ok(socket) => socket,
        Err(error) => return End::Failed(Failure::new(&error, target)),
    };
    let mut buffer = vec![0; 65_535];
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(ToTarget::Bytes(bytes)) => {
                    if let Err(error) = socket.send(&bytes).await {
                        refused(stream, &error, reports).await;
                    }
                }
                Some(ToTarget::Finish) => {}
                None => return End::Quiet,
            },
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => {
                    let payload = Bytes::copy_from_slice(&buffer[..length]);
                    let datagram = FromTarget::Datagram(stream, payload);
                    if reports.send(datagram).await.is_err() {
                        return End::Quiet;
                    }
                }
                Err(error) => refused(stream, &error, reports).await,
            },
        }
    }
}

/// Passes an ICMP error of the target on to the client; the flow goes on, as it would locally.
async fn refused(stream: StreamId, error: &io::Error, reports: &mpsc::Sender<FromTarget>) {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        let event = FromTarget::Event(stream, TargetEvent::Refused);
        let _ = reports.send(event).await;
    }
}

async fn connect_udp(target: &Target) -> io::Result<UdpSocket> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host((target.host(), target.port())).await? {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}
