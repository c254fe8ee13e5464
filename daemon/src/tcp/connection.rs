//! One TCP connection with a peer: made or taken, then datagrams both ways until one end closes it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use punch_engine::{TcpPath, whole_datagrams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Chunk, FromTcp};

/// Connecting takes at most this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that may wait in the kernel unsent before a connection takes more.
const UNSENT: u32 = 16 * 1024;
/// What has waited for longer is dropped: a tunnel wants packets lost in time, not late.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// A connection that takes nothing for so long is dead.
const STUCK: Duration = Duration::from_secs(40);
/// Bytes that are read at once.
const READ: usize = 32 * 1024;

/// Connects to the peer, from this port if it is free for that, at the address by which it is reached, and carries datagrams until the end.
pub(crate) async fn dial(
    path: TcpPath,
    (port, to): (Option<u16>, SocketAddr),
    chunks: mpsc::Receiver<Chunk>,
    reports: mpsc::Sender<FromTcp>,
) {
    match timeout(CONNECT_TIMEOUT, super::connect(port, to)).await {
        Ok(Ok(stream)) => {
            let told = reports.send(FromTcp::Connected(path)).await;
            if told.is_ok() {
                return carry(path, stream, chunks, reports).await;
            }
        }
        Ok(Err(error)) => tracing::debug!(remote = %path.remote, %error, "no TCP connection"),
        Err(_) => tracing::debug!(remote = %path.remote, "no TCP connection: no answer"),
    }
    let _ = reports.send(FromTcp::Closed(path)).await;
}

/// Carries datagrams until one end closes the connection.
pub(crate) async fn carry(
    path: TcpPath,
    stream: TcpStream,
    chunks: mpsc::Receiver<Chunk>,
    reports: mpsc::Sender<FromTcp>,
) {
    let ended = match prepare(&stream) {
        Ok(()) => {
            let (read, write) = stream.into_split();
            // What goes out may wait for a slow line, and holds up nothing of what comes in.
            tokio::select! {
                ended = receive(path, read, &reports) => ended,
                ended = send(write, chunks) => ended,
            }
        }
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(remote = %path.remote, %error, "a TCP connection broke");
    }
    let _ = reports.send(FromTcp::Closed(path)).await;
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    super::leave_no_trace(stream);
    let unsent = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
    if let Err(error) = unsent {
        tracing::debug!(%error, "the kernel may keep much for the peer");
    }
    Ok(())
}

async fn receive(
    path: TcpPath,
    mut read: OwnedReadHalf,
    reports: &mpsc::Sender<FromTcp>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        if read.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let end = whole_datagrams(&buffer).map_err(io::Error::other)?;
        if end > 0 {
            let whole = buffer.split_to(end).freeze();
            // While the driver is busy the peer's kernel waits, and the peer drops.
            if reports.send(FromTcp::Received(path, whole)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn send(mut write: OwnedWriteHalf, mut chunks: mpsc::Receiver<Chunk>) -> io::Result<()> {
    while let Some(chunk) = chunks.recv().await {
        if chunk.ages && chunk.since.elapsed() > MAX_WAIT {
            continue;
        }
        timeout(STUCK, write.write_all(&chunk.bytes))
            .await
            .map_err(|_| io::Error::other("it takes nothing any more"))??;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_has_waited_for_long_is_dropped_unless_it_is_a_check() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (mut far, _) = listener.accept().await.unwrap();
        let now = std::time::Instant::now();
        let old = now.checked_sub(2 * MAX_WAIT).unwrap();
        let (sender, chunks) = mpsc::channel(3);
        let fresh = now + Duration::from_secs(60);
        for (since, ages, bytes) in [(old, true, b"1"), (old, false, b"2"), (fresh, true, b"3")] {
            let bytes = bytes.to_vec();
            let chunk = Chunk { since, ages, bytes };
            sender.send(chunk).await.unwrap();
        }
        drop(sender);
        let (_read, write) = near.unwrap().into_split();
        send(write, chunks).await.unwrap();
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.unwrap();
        assert_eq!(came, b"23");
    }
}
