//! A client that speaks the real protocol, for the programs that load a server with many.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use punch_signal_protocol::{Frame, Identity};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) fn identity(kind: u8, number: u32) -> Identity {
    let mut seed = [kind; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    Identity::from_seed(&seed)
}

/// The address of client `number` in 127.`network`.0.0/16.
pub(crate) fn source(network: u8, number: u32) -> Ipv4Addr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, network, high, low.max(1))
}

pub(crate) async fn dial(source: Ipv4Addr, server: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // Many connections from one address: ports may be shared where the other ends differ.
    socket.set_reuseaddr(true)?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection with its challenge.
pub(crate) async fn greet(source: Ipv4Addr, server: SocketAddr) -> Result<(Socket, [u8; 32])> {
    let stream = dial(source, server).await?;
    // Ten thousand of them with the usual 128 KiB would be more than a gigabyte.
    let config = WebSocketConfig::default().read_buffer_size(16 * 1024);
    let url = format!("ws://{server}/");
    let (mut socket, _) = client_async_with_config(url, stream, Some(config)).await?;
    match next(&mut socket).await? {
        Frame::Challenge(nonce) => Ok((socket, nonce)),
        frame => bail!("{frame:?} instead of a challenge"),
    }
}

pub(crate) async fn next(socket: &mut Socket) -> Result<Frame> {
    loop {
        match socket.next().await.context("the server has closed")?? {
            Message::Binary(bytes) => return Ok(Frame::decode(&bytes)?),
            Message::Close(_) => bail!("the server closes"),
            _ => {}
        }
    }
}

pub(crate) fn message(frame: &Frame) -> Message {
    Message::Binary(Bytes::from(frame.encode()))
}

pub(crate) async fn log_in(
    source: Ipv4Addr,
    server: SocketAddr,
    identity: &Identity,
) -> Result<Socket> {
    let (mut socket, nonce) = greet(source, server).await?;
    let proof = Frame::proof(identity, &nonce, &server.to_string());
    socket.send(message(&proof)).await?;
    match next(&mut socket).await? {
        Frame::Welcome => Ok(socket),
        frame => bail!("{frame:?} instead of a welcome"),
    }
}
