//! punch-signal as it is installed, with clients over real sockets: what only the tasks and the sockets around the hub can do wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]

#[path = "../examples/client/mod.rs"]
mod client;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, SinkExt, StreamExt};
use punch_signal_protocol::{
    Frame, MAX_RELAY_PACKET, Refusal, RelayBuilder, RelayFrame, RelayLink, RelayToken,
};
use tokio_tungstenite::tungstenite::Message;

use client::{Socket, identity, log_in, message, next, source};

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: RelayToken = RelayToken([5; 16]);

struct Served {
    process: Child,
    address: SocketAddr,
}

impl Served {
    fn start(options: &[&str]) -> Self {
        // The port may be taken by another program in between; then the server ends at once, and the next one is tried.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut process = program(options)
                .arg("--listen")
                .arg(address.to_string())
                .spawn()
                .unwrap();
            let since = Instant::now();
            while since.elapsed() < PATIENCE && process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Self { process, address };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
        }
        panic!("punch-signal does not start");
    }

    async fn client(&self, number: u32) -> Socket {
        self.client_at(number, number).await
    }

    /// The same at the address of another.
    async fn client_at(&self, number: u32, address: u32) -> Socket {
        let identity = identity(6, number);
        let socket = log_in(source(5, address), self.address, &identity);
        within(socket).await.unwrap()
    }

    fn dropped(&self, why: &str) -> u64 {
        let name = "punch_signal_relay_dropped_packets_total";
        self.metric(&format!("{name}{{reason=\"{why}\"}}"))
    }

    fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: punch\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let mut lines = answer.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect(name).parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_punch-signal"));
    command.args(options).stderr(Stdio::null());
    command
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

async fn say(socket: &mut Socket, frame: &Frame) {
    within(socket.send(message(frame))).await.unwrap();
}

async fn hears(socket: &mut Socket) -> Frame {
    within(next(socket)).await.unwrap()
}

/// Passes over what the server tells of itself.
async fn joined(socket: &mut Socket) -> RelayLink {
    loop {
        match hears(socket).await {
            Frame::RelayReady { token, link } => {
                assert_eq!(token, TOKEN);
                return link;
            }
            Frame::ServerCapabilities(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn link(one: &mut Socket, two: &mut Socket) -> [RelayLink; 2] {
    say(one, &Frame::RelayJoin(TOKEN)).await;
    say(two, &Frame::RelayJoin(TOKEN)).await;
    [joined(one).await, joined(two).await]
}

fn relayed(link: RelayLink, packets: &[&[u8]]) -> Message {
    let mut frame = RelayBuilder::to_server(link);
    assert!(packets.iter().all(|packet| frame.push(packet)));
    Message::Binary(frame.finish().into())
}

/// The next binary message, whatever it is.
async fn raw(socket: &mut Socket) -> Vec<u8> {
    loop {
        if let Message::Binary(bytes) = within(socket.next()).await.unwrap().unwrap() {
            return bytes.to_vec();
        }
    }
}

#[tokio::test]
async fn packets_pass_both_ways_until_an_end_leaves() {
    let server = Served::start(&[]);
    let (mut one, mut two) = (server.client(1).await, server.client(2).await);
    let [link_one, link_two] = link(&mut one, &mut two).await;
    assert_eq!(server.metric("punch_signal_relay_links"), 1);

    let long = [7; MAX_RELAY_PACKET];
    one.send(relayed(link_one, &[b"there", &long]))
        .await
        .unwrap();
    two.send(relayed(link_two, &[b"back"])).await.unwrap();
    let bytes = raw(&mut two).await;
    let frame = RelayFrame::read_at_client(&bytes).unwrap();
    assert_eq!(frame.link, link_two);
    assert_eq!(frame.packets().collect::<Vec<_>>(), [&b"there"[..], &long]);
    let bytes = raw(&mut one).await;
    let frame = RelayFrame::read_at_client(&bytes).unwrap();
    assert_eq!(frame.link, link_one);
    assert_eq!(frame.packets().collect::<Vec<_>>(), [b"back"]);
    assert_eq!(server.metric("punch_signal_relay_packets_total"), 3);

    say(&mut one, &Frame::RelayLeave(link_one)).await;
    assert_eq!(hears(&mut two).await, Frame::RelayGone(link_two));
    two.send(relayed(link_two, &[b"late", b"later"]))
        .await
        .unwrap();
    // The server has read that when it answers what came behind it.
    say(&mut two, &Frame::Watch(identity(6, 1).id())).await;
    assert_eq!(hears(&mut two).await, Frame::Appeared(identity(6, 1).id()));
    assert_eq!(server.dropped("unknown_link"), 2);

    let [_, again] = link(&mut one, &mut two).await;
    assert_ne!(again, link_two);
    drop(one);
    assert_eq!(hears(&mut two).await, Frame::RelayGone(again));
    assert_eq!(server.metric("punch_signal_relay_links"), 0);
}

#[tokio::test]
async fn a_malformed_relay_frame_ends_the_connection() {
    let server = Served::start(&[]);
    for bytes in [
        vec![32],
        vec![32, 0, 0, 0, 1, 0],
        vec![32, 0, 0, 0, 1, 0, 0],
        vec![32, 0, 0, 0, 1, 0, 5, 1, 2],
        vec![32, 0, 0, 0, 1, 8, 1, 1, 2],
        vec![96, 0, 0, 0, 1, 0, 1, 1],
        vec![32; 5000],
    ] {
        let mut one = server.client(1).await;
        one.send(Message::Binary(bytes.clone().into()))
            .await
            .unwrap();
        loop {
            match hears(&mut one).await {
                Frame::ServerCapabilities(_) => {}
                last => {
                    assert_eq!(last, Frame::Refused(Refusal::BadFrame), "{bytes:?}");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_relay_refuses_joins_and_packets() {
    let server = Served::start(&["--no-relay"]);
    let join = message(&Frame::RelayJoin(TOKEN));
    for said in [join, relayed(RelayLink(1), &[b"x"])] {
        let mut one = server.client(1).await;
        one.send(said).await.unwrap();
        loop {
            match hears(&mut one).await {
                Frame::ServerCapabilities(set) => assert!(set.is_empty()),
                last => {
                    assert_eq!(last, Frame::Refused(Refusal::BadFrame));
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_delays_nobody_and_hears_the_server_first() {
    let server = Served::start(&["--relay-rate", "100000", "--relay-total", "100000"]);
    let (mut one, mut two) = (server.client(1).await, server.client(2).await);
    let [link_one, link_two] = link(&mut one, &mut two).await;
    let packet = [9; 1400];
    let flood = relayed(link_one, &[&packet[..]; 11]);
    // More than all that the kernels between may hold.
    for _ in 0..4000 {
        within(one.send(flood.clone())).await.unwrap();
    }
    // The sender is served all the same, and the other way passes beside what is stuck.
    two.send(relayed(link_two, &[b"up"])).await.unwrap();
    let bytes = raw(&mut one).await;
    assert!(bytes.ends_with(b"up"), "{}", bytes.len());
    assert!(server.dropped("queue") > 1000);

    let envelope = b"first".to_vec();
    let to = identity(6, 2).id();
    say(&mut one, &Frame::Send { to, envelope }).await;
    // The server has passed it on when this is answered.
    say(&mut one, &Frame::Watch(to)).await;
    assert_eq!(hears(&mut one).await, Frame::Appeared(to));
    let mut before = 0;
    while raw(&mut two).await.first() == Some(&96) {
        before += 1;
    }
    let mut after = 0;
    while let Ok(bytes) = tokio::time::timeout(Duration::from_secs(1), raw(&mut two)).await {
        after += usize::from(bytes.first() == Some(&96));
    }
    assert!(after > 5, "{before} frames before it, {after} after it");
}

#[tokio::test]
async fn what_is_over_the_rate_is_dropped_and_nobody_is_closed() {
    let server = Served::start(&["--relay-rate", "1"]);
    let (mut one, mut two) = (server.client(1).await, server.client(2).await);
    let [link_one, _] = link(&mut one, &mut two).await;
    let packet = [9; 1400];
    for _ in 0..100 {
        one.send(relayed(link_one, &[&packet[..]; 11]))
            .await
            .unwrap();
    }
    say(&mut one, &Frame::Watch(identity(6, 2).id())).await;
    assert_eq!(hears(&mut one).await, Frame::Appeared(identity(6, 2).id()));
    assert!(server.dropped("rate_client") > 500);
    let arrived = std::iter::from_fn(|| two.next().now_or_never()).count();
    assert!(arrived < 50, "{arrived}");
}

/// Sends four of the longest frames over a link of its own to `two`: all that one client may at once where the rate is small.
async fn burst(one: &mut Socket, two: &mut Socket) {
    let [link, other] = link(one, two).await;
    let packet = [9; 1400];
    for _ in 0..4 {
        one.send(relayed(link, &[&packet[..]; 11])).await.unwrap();
    }
    say(one, &Frame::RelayLeave(link)).await;
    // All of it was read when the end of the link is told.
    loop {
        let bytes = raw(two).await;
        if Frame::decode(&bytes) == Ok(Frame::RelayGone(other)) {
            return;
        }
    }
}

#[tokio::test]
async fn the_clients_of_one_address_share_a_rate() {
    let server = Served::start(&["--relay-rate", "1"]);
    let mut two = server.client(10_000).await;
    let since = Instant::now();
    let mut numbers = 1..;
    while server.dropped("rate_source") < 50 {
        let mut one = server.client_at(numbers.next().unwrap(), 1).await;
        burst(&mut one, &mut two).await;
        assert!(since.elapsed() < PATIENCE);
    }
    assert_eq!(server.dropped("rate_client"), 0);
    let before = server.dropped("rate_source");
    burst(&mut server.client_at(20_000, 2).await, &mut two).await;
    assert_eq!(server.dropped("rate_source"), before, "another address");
    assert_eq!(server.dropped("rate_total"), 0);
}

#[tokio::test]
async fn all_clients_share_a_rate() {
    let server = Served::start(&["--relay-total", "1"]);
    let mut two = server.client(10_000).await;
    let since = Instant::now();
    let mut numbers = 1..;
    while server.dropped("rate_total") < 50 {
        let mut one = server.client(numbers.next().unwrap()).await;
        burst(&mut one, &mut two).await;
        assert!(since.elapsed() < PATIENCE);
    }
}

#[test]
fn options_that_make_no_sense_are_refused_with_what_to_do() {
    for options in [
        ["--relay-rate", "0"],
        ["--relay-total", "1Gbit"],
        ["--relay-rate", "100000000"],
    ] {
        let output = program(&options).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        for part in [options[0], "from 1 to 1000000", "--no-relay"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
