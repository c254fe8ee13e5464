//! Clients whose identity the line itself has proven, over streams in memory.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use punch_signal::hub::Limits;
use punch_signal::serve::{Counts, Guest, Host};
use punch_signal_protocol::{
    Frame, Identity, Refusal, RelayBuilder, RelayFrame, RelayLink, RelayToken, is_relay_frame,
};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const NAME: &str = "home:45117";

fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

fn host() -> Host {
    Host::new(Limits {
        name: Some(NAME.to_owned()),
        silence: Duration::from_secs(86_400),
        ..Limits::default()
    })
}

/// A client of the host, whose line is that of `number`.
struct Client {
    socket: WebSocketStream<DuplexStream>,
    counts: Arc<Counts>,
    served: tokio::task::JoinHandle<()>,
}

impl Client {
    async fn connect(host: &Host, number: u8) -> Self {
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let counts = Arc::<Counts>::default();
        let guest = Guest {
            id: identity(number).id(),
            source: Ipv4Addr::from_bits(number.into()).into(),
            counts: counts.clone(),
        };
        let host = host.clone();
        let served = tokio::spawn(async move { host.serve(theirs, guest).await });
        let url = format!("ws://{NAME}/");
        let (socket, _) = tokio_tungstenite::client_async(url, ours).await.unwrap();
        Self {
            socket,
            counts,
            served,
        }
    }

    async fn next(&mut self) -> Message {
        let next = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await;
        next.unwrap().unwrap().unwrap()
    }

    async fn frame(&mut self) -> Frame {
        match self.next().await {
            Message::Binary(bytes) => Frame::decode(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, frame: &Frame) {
        self.send(frame.encode()).await;
    }

    async fn send(&mut self, bytes: Vec<u8>) {
        let sent = self.socket.send(Message::Binary(bytes.into())).await;
        sent.unwrap();
    }

    /// Says that it is `number`, and dialled `name`; what is answered.
    async fn log_in(&mut self, number: u8, name: &str) -> Frame {
        let Frame::Challenge(nonce) = self.frame().await else {
            panic!("no challenge");
        };
        self.say(&Frame::proof(&identity(number), &nonce, name))
            .await;
        self.frame().await
    }

    /// The link that comes of joining.
    async fn link(&mut self) -> RelayLink {
        loop {
            if let Frame::RelayReady { link, .. } = self.frame().await {
                return link;
            }
        }
    }
}

#[tokio::test]
async fn a_guest_logs_in_as_itself_alone_and_at_this_host_alone() {
    let host = host();
    let mut client = Client::connect(&host, 1).await;
    assert_eq!(client.log_in(1, NAME).await, Frame::Welcome);
    let mut client = Client::connect(&host, 1).await;
    assert_eq!(
        client.log_in(2, NAME).await,
        Frame::Refused(Refusal::BadProof)
    );
    let mut client = Client::connect(&host, 1).await;
    let elsewhere = client.log_in(1, "other:45117").await;
    assert_eq!(elsewhere, Frame::Refused(Refusal::WrongServer));
}

#[tokio::test]
async fn what_is_relayed_is_counted_for_each_and_a_stream_that_ends_leaves_nothing() {
    let host = host();
    let mut clients = Vec::new();
    for number in [1, 2] {
        let mut client = Client::connect(&host, number).await;
        assert_eq!(client.log_in(number, NAME).await, Frame::Welcome);
        client.say(&Frame::RelayJoin(RelayToken([7; 16]))).await;
        clients.push(client);
    }
    let [mut one, mut two] = <[Client; 2]>::try_from(clients).ok().unwrap();
    let links = [one.link().await, two.link().await];
    for link in [links[0], RelayLink(99)] {
        let mut frame = RelayBuilder::to_server(link);
        assert!(frame.push(&[5; 100]));
        one.send(frame.finish()).await;
    }
    let Message::Binary(bytes) = two.next().await else {
        panic!("no packets");
    };
    assert!(is_relay_frame(&bytes));
    let frame = RelayFrame::read_at_client(&bytes).unwrap();
    assert_eq!(frame.link, links[1]);
    let length = bytes.len() as u64;
    // The second frame leads nowhere; it was read when the first answer after it comes.
    one.say(&Frame::RelayLeave(links[0])).await;
    while two.frame().await != Frame::RelayGone(links[1]) {}
    assert_eq!((one.counts.from(), one.counts.to()), (length, 0));
    assert_eq!((two.counts.from(), two.counts.to()), (0, length));
    assert_eq!((one.counts.refused(), two.counts.refused()), (1, 0));

    assert!(host.tick(Instant::now()));
    drop((one, two));
    while host.tick(Instant::now()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_idle_guest_is_sent_nothing() {
    let host = host();
    let mut client = Client::connect(&host, 1).await;
    assert_eq!(client.log_in(1, NAME).await, Frame::Welcome);
    assert!(matches!(client.frame().await, Frame::ServerCapabilities(_)));
    let next = tokio::time::timeout(Duration::from_millis(300), client.socket.next()).await;
    assert!(next.is_err(), "{next:?}");
}

/// Whoever serves a guest learns when it is over, also where the guest takes nothing and so never ends its stream.
#[tokio::test]
async fn a_guest_is_served_until_the_host_has_done_with_it() {
    let host = host();
    let mut client = Client::connect(&host, 1).await;
    assert_eq!(client.log_in(1, NAME).await, Frame::Welcome);
    assert!(matches!(client.frame().await, Frame::ServerCapabilities(_)));
    assert!(!client.served.is_finished());
    let mut second = Client::connect(&host, 1).await;
    assert_eq!(second.log_in(1, NAME).await, Frame::Welcome);
    let replaced = tokio::time::timeout(Duration::from_secs(20), client.served).await;
    replaced.unwrap().unwrap();
    assert!(!second.served.is_finished());
}

#[tokio::test]
async fn what_is_no_websocket_is_not_served() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: home\r\n\r\n"[..],
        &[0xff; 4096],
        b"GET / HTTP/1.1\r\n",
    ] {
        let (mut ours, theirs) = tokio::io::duplex(16 * 1024);
        ours.write_all(garbage).await.unwrap();
        let guest = Guest {
            id: identity(1).id(),
            source: Ipv4Addr::LOCALHOST.into(),
            counts: Arc::default(),
        };
        let host = host();
        let served = host.serve(theirs, guest);
        tokio::time::timeout(Duration::from_secs(60), served)
            .await
            .unwrap();
    }
}
