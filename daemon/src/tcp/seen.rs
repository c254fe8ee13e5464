//! As what a STUN server sees the port on which connections are taken (RFC 8489 §6.2.2): NATs have mappings for TCP of their own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use punch_stun_protocol::{Class, HEADER, Message, TransactionId, Writer, stream_length};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::{FromTcp, connect_again, leave_no_trace};
use crate::descriptors::Descriptor;

/// Connecting and the answer together may take this long.
const ANSWER: Duration = Duration::from_secs(3);
/// The connection ends so long after the question: as long as it stands, the NAT keeps the mapping, and peers connect to it. The next
/// question to the same server, from the same port, comes a second later at the soonest.
const STANDS: Duration = Duration::from_secs(19);
/// Longer answers are none.
const MAX_ANSWER: usize = 1024;

/// Asks, from this port at the address by which the server is reached, tells the answer, and lets the connection stand for a while.
pub(crate) async fn ask(
    (port, to): (u16, SocketAddr),
    server: SocketAddr,
    _descriptor: Descriptor,
    reports: mpsc::Sender<FromTcp>,
) {
    let ends = Instant::now() + STANDS;
    let asked = async {
        let mut stream = connect_again(port, to).await?;
        leave_no_trace(&stream);
        let mapped = converse(&mut stream).await?;
        Ok::<_, io::Error>((stream, mapped))
    };
    match timeout(ANSWER, asked).await {
        Ok(Ok((stream, mapped))) => {
            let _ = reports.send(FromTcp::Seen { server, mapped }).await;
            sleep_until(ends).await;
            drop(stream);
        }
        Ok(Err(error)) => tracing::debug!(%server, %error, "no answer of STUN over TCP"),
        Err(_) => tracing::debug!(%server, "no answer of STUN over TCP: it takes too long"),
    }
}

async fn converse(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) -> io::Result<SocketAddr> {
    let transaction = TransactionId(punch_platform::random()?);
    let request = Writer::new(Class::Request, transaction).finish();
    stream.write_all(&request).await?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await?;
    let rubbish = || io::Error::other("what came is no answer");
    let length = stream_length(&header).filter(|length| *length <= MAX_ANSWER);
    let mut answer = header.to_vec();
    answer.resize(length.ok_or_else(rubbish)?, 0);
    stream.read_exact(&mut answer[HEADER..]).await?;
    let answer = Message::parse(&answer).map_err(|_| rubbish())?;
    let is_answer = answer.class == Class::Success && answer.transaction == transaction;
    answer.mapped.filter(|_| is_answer).ok_or_else(rubbish)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// What comes of an answer that is made from the request's transaction.
    async fn answered(answer: impl FnOnce(TransactionId) -> Vec<u8>) -> io::Result<SocketAddr> {
        let (mut near, mut far) = duplex(4096);
        let server = async move {
            let mut request = [0; HEADER];
            far.read_exact(&mut request).await.unwrap();
            let mut id = [0; 12];
            id.copy_from_slice(&request[8..]);
            // Whoever has heard enough reads no more.
            let _ = far.write_all(&answer(TransactionId(id))).await;
        };
        let (mapped, ()) = tokio::join!(converse(&mut near), server);
        mapped
    }

    #[tokio::test]
    async fn only_the_answer_to_the_request_counts() {
        let address: SocketAddr = "203.0.113.7:41820".parse().unwrap();
        let right = |id| Writer::new(Class::Success, id).xor_mapped(address).finish();
        assert_eq!(answered(right).await.unwrap(), address);
        let empty = |id| Writer::new(Class::Success, id).finish();
        assert!(answered(empty).await.is_err());
        let other = move |_| right(TransactionId([7; 12]));
        assert!(answered(other).await.is_err());
        let refusal = |id| Writer::new(Class::Error, id).xor_mapped(address).finish();
        assert!(answered(refusal).await.is_err());
        for rubbish in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            &[0xff; 2000],
            b"220",
        ] {
            assert!(answered(|_| rubbish.to_vec()).await.is_err());
        }
    }
}
