//! Where peers' TCP connections come in. Anybody can connect: a connection may say one thing, that must be a peer's check, and is
//! closed without a word if it is not one within five seconds.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use punch_engine::{Family, STREAM_PREFIX, stream_length};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{Call, FromTcp, Line};
use crate::descriptors::{Descriptor, Descriptors};

/// Connections that have not shown whose they are: in all, and from one source.
const MAX_CALLS: usize = 64;
const MAX_CALLS_OF_SOURCE: usize = 8;
/// Each of them has this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A check takes less.
const MAX_FIRST: usize = 512;
/// The check may have come before the answer that tells whose it is: it is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// After an error of the kernel's, such as that there are too many open files.
const BREATH: Duration = Duration::from_millis(100);
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;

/// Takes TCP connections of one family on this port; 0 is any.
///
/// # Errors
/// The port is taken, or the machine has no such family.
pub(crate) fn open(family: Family, port: u16) -> io::Result<StdListener> {
    // A server of this user's that shares its port would lose half of its connections to punchd. A socket that shares nothing is refused
    // beside any server, and tells so.
    drop(super::bound_as(family, port, false)?);
    let socket = super::bound(family, port)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Hears whoever connects, for as long as the driver is there.
pub(crate) async fn serve(
    listeners: Vec<StdListener>,
    descriptors: Descriptors,
    reports: mpsc::Sender<FromTcp>,
) {
    let listeners: io::Result<Vec<_>> = listeners.into_iter().map(TcpListener::from_std).collect();
    let listeners = match listeners {
        Ok(listeners) => listeners,
        Err(error) => return tracing::error!(%error, "no TCP connections are taken"),
    };
    let mut sources: HashMap<IpAddr, usize> = HashMap::new();
    let mut calls = FuturesUnordered::new();
    loop {
        let accepted = tokio::select! {
            Some(source) = calls.next() => {
                if let Some(count) = sources.get_mut(&source) {
                    *count -= 1;
                }
                sources.retain(|_, count| *count > 0);
                continue;
            }
            accepted = poll_fn(|context| poll_accept(&listeners, context)) => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a TCP connection was not taken");
                sleep(BREATH).await;
                continue;
            }
        };
        let source = source_of(remote.ip());
        let of_source = sources.get(&source).copied().unwrap_or(0);
        if calls.len() >= MAX_CALLS || of_source >= MAX_CALLS_OF_SOURCE {
            continue;
        }
        let Some(descriptor) = descriptors.for_path() else {
            continue;
        };
        sources.insert(source, of_source + 1);
        let hear = hear(stream, remote, descriptor, reports.clone());
        calls.push(async move {
            let _ = timeout(CALL_TIMEOUT, hear).await;
            source
        });
    }
}

fn poll_accept(
    listeners: &[TcpListener],
    context: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    for listener in listeners {
        if let Poll::Ready(accepted) = listener.poll_accept(context) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

/// An address, or the network that one machine has over IPv6.
fn source_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// Reads one datagram, and shows it to the driver until that takes the connection or the time is over.
async fn hear(
    mut stream: TcpStream,
    remote: SocketAddr,
    descriptor: Descriptor,
    reports: mpsc::Sender<FromTcp>,
) {
    let mut prefix = [0; STREAM_PREFIX];
    if stream.read_exact(&mut prefix).await.is_err() {
        return;
    }
    let Some(length) = stream_length(prefix).ok().filter(|l| *l <= MAX_FIRST) else {
        return;
    };
    let mut first = vec![0; length];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    let mut line = Line { stream, descriptor };
    loop {
        let (back, returned) = oneshot::channel();
        let call = Call {
            remote,
            first: first.clone(),
            line,
            back,
        };
        if reports.send(FromTcp::Call(call)).await.is_err() {
            return;
        }
        match returned.await {
            Ok(not_taken) => line = not_taken,
            Err(_) => return,
        }
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::net::TcpStream as StdStream;

    use socket2::{Domain, Socket, Type};
    use tokio::io::AsyncWriteExt;
    use tokio::runtime::Handle;

    use super::*;
    use crate::tasks::{Spawner, Task};

    struct Rig {
        to: SocketAddr,
        reports: mpsc::Receiver<FromTcp>,
        _served: Task,
    }

    impl Rig {
        fn new() -> Self {
            let listener = open(Family::V4, 0).unwrap();
            let port = listener.local_addr().unwrap().port();
            let (sender, reports) = mpsc::channel(1024);
            let served = serve(vec![listener], Descriptors::new(1024), sender);
            Self {
                to: ([127, 0, 0, 1], port).into(),
                reports,
                _served: Spawner::new(Handle::current()).spawn("listener", served),
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.to).await.unwrap()
        }
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        matches!(stream.read(&mut byte).await, Ok(0) | Err(_))
    }

    fn call(report: Option<FromTcp>) -> Call {
        match report {
            Some(FromTcp::Call(call)) => call,
            _ => panic!("it is no call"),
        }
    }

    #[tokio::test]
    async fn what_is_no_datagram_is_closed_without_a_word() {
        let mut rig = Rig::new();
        for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 1], &[2, 1, 7]] {
            let mut stream = rig.connect().await;
            stream.write_all(rubbish).await.unwrap();
            assert!(is_closed(&mut stream).await, "{rubbish:?}");
        }
        assert!(rig.reports.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_call_is_shown_again_until_it_is_taken_or_its_time_is_over() {
        let mut rig = Rig::new();
        let mut stream = rig.connect().await;
        stream.write_all(&[0, 3, 7, 8, 9, 0, 1]).await.unwrap();
        for _ in 0..3 {
            let call = call(rig.reports.recv().await);
            assert_eq!(call.first, [7, 8, 9]);
            assert_eq!(call.remote, stream.local_addr().unwrap());
            assert!(call.back.send(call.line).is_ok());
        }
        let taken = call(rig.reports.recv().await);
        drop(taken.back);
        let mut line = taken.line.stream;
        let mut rest = [0; 2];
        line.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, [0, 1], "nothing beyond the first datagram was read");
        line.write_all(&[5]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 5);
    }

    #[test]
    fn a_port_is_not_taken_from_a_server_that_would_share_it() {
        for family in [Family::V4, Family::V6] {
            let server = super::super::bound(family, 0).unwrap();
            server.listen(1).unwrap();
            let port = server.local_addr().unwrap().as_socket().unwrap().port();
            let error = open(family, port).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            drop(server);
            // A socket that only connects from the port is in nobody's way.
            let _made = super::super::bound(family, port).unwrap();
            open(family, port).unwrap();
        }
    }

    #[tokio::test]
    async fn those_who_say_nothing_are_closed_and_shut_nobody_else_out() {
        let mut rig = Rig::new();
        let mut silent = Vec::new();
        for _ in 0..MAX_CALLS_OF_SOURCE {
            silent.push(rig.connect().await);
        }
        let mut refused = rig.connect().await;
        assert!(is_closed(&mut refused).await, "one source has so many");
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from: SocketAddr = "127.0.0.2:0".parse().unwrap();
        other.bind(&from.into()).unwrap();
        other.connect(&rig.to.into()).unwrap();
        let mut other = StdStream::from(other);
        io::Write::write_all(&mut other, &[0, 1, 7]).unwrap();
        assert_eq!(call(rig.reports.recv().await).first, [7]);
        for stream in &mut silent {
            assert!(is_closed(stream).await);
        }
        let mut again = rig.connect().await;
        again.write_all(&[0, 1, 8]).await.unwrap();
        assert_eq!(call(rig.reports.recv().await).first, [8]);
    }
}
