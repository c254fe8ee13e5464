//! Clients that reach each other over the relay of a signalling server, for `scripts/bench relay`:
//!
//! * `relayed stream ADDRESS SECONDS` sends as much as passes from one client to another, with a window as TCP has one.
//! * `relayed mesh ADDRESS CLIENTS MBIT SECONDS` has so many clients send to each other, in pairs, so much each.
//! * `relayed ping ADDRESS SECONDS` measures round trips to a client at 127.3.0.1: alone, beside a download from another peer, and
//!   within the same link as a download.
//!
//! The downloads slow down when packets are lost, as TCP's do; what does not is the business of the queue's bound.
#![allow(clippy::print_stdout, reason = "it prints figures")]

mod client;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use punch_signal_protocol::{Frame, RelayBuilder, RelayFrame, RelayLink, RelayToken};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use client::{Socket, identity, log_in, message, next, source};

/// A packet as WireGuard makes one of the usual size.
const PACKET: usize = 1400;
/// Packets of a frame of the longest kind.
const PER_FRAME: u64 = 11;
/// Packets under way at most.
const MAX_WINDOW: f64 = 2000.0;
/// After so long without an answer all that is under way counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);
const PING_INTERVAL: Duration = Duration::from_millis(20);

/// The first byte of a packet: bulk data, what was received of it, or a ping and its echo.
const DATA: u8 = b'd';
const ACK: u8 = b'a';
const PING: u8 = b'p';
const ECHO: u8 = b'e';

fn main() -> Result<()> {
    rlimit::increase_nofile_limit(u64::MAX)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let seconds = |text: &str| anyhow::Ok(Duration::from_secs(text.parse()?));
    match arguments[..] {
        ["stream", server, length] => runtime.block_on(stream(server.parse()?, seconds(length)?)),
        ["mesh", server, clients, mbit, length] => runtime.block_on(mesh(
            server.parse()?,
            clients.parse()?,
            mbit.parse()?,
            seconds(length)?,
        )),
        ["ping", server, length] => runtime.block_on(ping(server.parse()?, seconds(length)?)),
        _ => bail!(
            "usage: relayed stream|ping ADDRESS:PORT SECONDS | relayed mesh ADDRESS:PORT CLIENTS MBIT SECONDS"
        ),
    }
}

type Sink = SplitSink<Socket, Message>;

/// One end of a link; frames of other links of the same client are not for it.
struct End {
    sink: Sink,
    stream: SplitStream<Socket>,
    link: RelayLink,
}

fn token(number: u32) -> RelayToken {
    let mut token = [7; 16];
    token[..4].copy_from_slice(&number.to_be_bytes());
    RelayToken(token)
}

async fn join(socket: &mut Socket, number: u32) -> Result<()> {
    let join = Frame::RelayJoin(token(number));
    Ok(socket.send(message(&join)).await?)
}

async fn ready(socket: &mut Socket) -> Result<RelayLink> {
    loop {
        if let Frame::RelayReady { link, .. } = next(socket).await? {
            return Ok(link);
        }
    }
}

fn end(socket: Socket, link: RelayLink) -> End {
    let (sink, stream) = socket.split();
    End { sink, stream, link }
}

async fn connect(source: Ipv4Addr, server: SocketAddr, number: u32) -> Result<Socket> {
    log_in(source, server, &identity(9, number)).await
}

/// Two clients with a link between them.
async fn pair(server: SocketAddr, number: u32, sources: [Ipv4Addr; 2]) -> Result<[End; 2]> {
    let mut one = connect(sources[0], server, 2 * number).await?;
    let mut two = connect(sources[1], server, 2 * number + 1).await?;
    join(&mut one, number).await?;
    join(&mut two, number).await?;
    let links = [ready(&mut one).await?, ready(&mut two).await?];
    Ok([end(one, links[0]), end(two, links[1])])
}

/// The packets of the next relay frame, with the link that they came over.
async fn packets(stream: &mut SplitStream<Socket>) -> Result<(RelayLink, Vec<Vec<u8>>)> {
    loop {
        let message = stream.next().await.context("the server has closed")??;
        if let Message::Binary(bytes) = message
            && let Ok(frame) = RelayFrame::read_at_client(&bytes)
        {
            return Ok((frame.link, frame.packets().map(<[u8]>::to_vec).collect()));
        }
    }
}

fn packet(kind: u8, number: u64, length: usize) -> Vec<u8> {
    let mut packet = vec![kind; length.max(9)];
    packet[1..9].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u64 {
    let number = packet.get(1..9).and_then(|bytes| bytes.try_into().ok());
    number.map_or(0, u64::from_be_bytes)
}

async fn send_one(sink: &mut Sink, link: RelayLink, packet: &[u8]) -> Result<()> {
    let mut frame = RelayBuilder::to_server(link);
    if !frame.push(packet) {
        bail!("a packet is too long");
    }
    Ok(sink.send(Message::Binary(frame.finish().into())).await?)
}

// --- a download, as TCP does it ---

/// What a sender knows of its packets (RFC 5681, without what only matters for short connections).
struct Window {
    size: f64,
    threshold: f64,
    next: u64,
    /// The packet behind the last one that the receiver has told of.
    told: u64,
    received: u64,
    /// Losses before this packet have been answered.
    recovered: u64,
    lost: u64,
}

impl Window {
    fn new() -> Self {
        Self {
            size: 4.0 * PER_FRAME as f64,
            threshold: f64::INFINITY,
            next: 0,
            told: 0,
            received: 0,
            recovered: 0,
            lost: 0,
        }
    }

    /// How many packets may be sent now: whole frames, unless nothing is under way.
    fn room(&self) -> u64 {
        let under_way = self.next - self.told;
        let free = (self.size as u64).saturating_sub(under_way);
        if free >= PER_FRAME || under_way == 0 {
            free.min(PER_FRAME)
        } else {
            0
        }
    }

    fn handle_ack(&mut self, highest: u64, received: u64) {
        let told = (highest + 1).max(self.told);
        let lost = told.saturating_sub(received);
        let gained = (told - self.told) as f64;
        (self.told, self.received) = (told, received);
        if lost > self.lost && told > self.recovered {
            self.recovered = self.next;
            self.size = (self.size / 2.0).max(PER_FRAME as f64);
            self.threshold = self.size;
        } else if self.size < self.threshold {
            self.size += gained;
        } else {
            self.size += gained / self.size;
        }
        self.lost = lost;
        self.size = self.size.min(MAX_WINDOW);
    }

    fn handle_silence(&mut self) {
        (self.told, self.recovered) = (self.next, self.next);
        self.size = PER_FRAME as f64;
    }
}

/// Sends until it is dropped; pings that are to be sent over the same link come by the channel, and their echoes go back by it.
async fn download(
    mut end: End,
    mut pings: mpsc::Receiver<u64>,
    echoes: mpsc::Sender<u64>,
) -> Result<()> {
    let (acks, mut acked) = mpsc::unbounded_channel();
    let mut stream = end.stream;
    let reading = tokio::spawn(async move {
        while let Ok((_, packets)) = packets(&mut stream).await {
            for packet in packets {
                let _ = match packet[0] {
                    ECHO => echoes.try_send(number(&packet)).map_err(drop),
                    _ => acks
                        .send((number(&packet), number(&packet[8..])))
                        .map_err(drop),
                };
            }
        }
    });
    let mut window = Window::new();
    loop {
        let mut fed = false;
        while window.room() > 0 {
            let mut frame = RelayBuilder::to_server(end.link);
            for _ in 0..window.room() {
                if frame.push(&packet(DATA, window.next, PACKET)) {
                    window.next += 1;
                }
            }
            end.sink
                .feed(Message::Binary(frame.finish().into()))
                .await?;
            fed = true;
        }
        if fed {
            end.sink.flush().await?;
        }
        tokio::select! {
            ack = tokio::time::timeout(PATIENCE, acked.recv()) => match ack {
                Ok(Some((highest, received))) => window.handle_ack(highest, received),
                Ok(None) => break,
                Err(_) => window.handle_silence(),
            },
            Some(ping) = pings.recv() => {
                send_one(&mut end.sink, end.link, &packet(PING, ping, 100)).await?;
            }
        }
    }
    reading.abort();
    Ok(())
}

/// What a receiver has got of a download.
#[derive(Default)]
struct Got {
    packets: u64,
    highest: u64,
}

/// Answers data with what has come of it, and pings with echoes; tells how many packets of data each frame had.
async fn receive(mut end: End, told: mpsc::UnboundedSender<Got>) -> Result<()> {
    let mut got = std::collections::BTreeMap::<RelayLink, Got>::new();
    loop {
        let (link, packets) = packets(&mut end.stream).await?;
        let got = got.entry(link).or_default();
        let before = got.packets;
        for packet in &packets {
            match packet[0] {
                DATA => {
                    got.packets += 1;
                    got.highest = got.highest.max(number(packet));
                }
                _ => {
                    let echo = self::packet(ECHO, number(packet), 100);
                    send_one(&mut end.sink, link, &echo).await?;
                }
            }
        }
        if got.packets > before {
            let mut ack = packet(ACK, got.highest, 17);
            ack[9..17].copy_from_slice(&got.packets.to_be_bytes());
            send_one(&mut end.sink, link, &ack).await?;
            let _ = told.send(Got {
                packets: got.packets,
                highest: got.highest,
            });
        }
    }
}

async fn stream(server: SocketAddr, length: Duration) -> Result<()> {
    let [one, two] = pair(server, 1, [source(2, 1), source(2, 2)]).await?;
    let (told, mut heard) = mpsc::unbounded_channel();
    let (_pings, pinged) = mpsc::channel(1);
    let (echoes, _echoed) = mpsc::channel(1);
    let receiving = tokio::spawn(receive(two, told));
    let sending = tokio::spawn(download(one, pinged, echoes));
    let began = Instant::now();
    let mut last = Got::default();
    while began.elapsed() < length {
        last = heard.recv().await.context("the receiver has ended")?;
    }
    let mbit = (last.packets as usize * PACKET * 8) as f64 / began.elapsed().as_secs_f64() / 1e6;
    let lost = (last.highest + 1).saturating_sub(last.packets) as f64 / (last.highest + 1) as f64;
    sending.abort();
    receiving.abort();
    println!(
        "{{\"mbit\": {mbit:.0}, \"lost_percent\": {:.3}}}",
        100.0 * lost
    );
    Ok(())
}

// --- many pairs ---

async fn mesh(server: SocketAddr, clients: u32, mbit: f64, length: Duration) -> Result<()> {
    let mut tasks = JoinSet::new();
    let interval = Duration::from_secs_f64((PACKET * 8) as f64 / (mbit * 1e6));
    for number in 0..clients / 2 {
        let sources = [source(2, 2 * number), source(2, 2 * number + 1)];
        let ends = pair(server, number, sources).await?;
        for end in ends {
            tasks.spawn(chat(end, interval, length));
        }
    }
    let (mut sent, mut arrived, mut times) = (0, 0, Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (of_one, took) = done??;
        sent += of_one;
        arrived += took.len();
        times.extend(took);
    }
    println!(
        "{{\"sent\": {sent}, \"arrived\": {arrived}, {}}}",
        spread(times)
    );
    Ok(())
}

/// Sends a packet each interval; how many it has sent, and how long those of the other end have taken.
async fn chat(end: End, interval: Duration, length: Duration) -> Result<(u64, Vec<Duration>)> {
    let End {
        mut sink,
        mut stream,
        link,
    } = end;
    let began = epoch();
    let receiving = tokio::spawn(async move {
        let mut times = Vec::new();
        // What is under way at the end still arrives.
        let end = tokio::time::sleep(length + Duration::from_secs(2));
        tokio::pin!(end);
        loop {
            tokio::select! {
                got = packets(&mut stream) => for packet in got?.1 {
                    times.push(began.elapsed().saturating_sub(Duration::from_nanos(number(&packet))));
                },
                () = &mut end => return anyhow::Ok(times),
            }
        }
    });
    let mut ticks = tokio::time::interval(interval);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < length {
        ticks.tick().await;
        let at = u64::try_from(began.elapsed().as_nanos())?;
        send_one(&mut sink, link, &packet(DATA, at, PACKET)).await?;
        sent += 1;
    }
    let times = receiving.await??;
    Ok((sent, times))
}

/// One time for all clients of this process.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| {
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times
            .get(index)
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    format!(
        "\"p50_ms\": {:.2}, \"p99_ms\": {:.2}, \"longest_ms\": {:.2}",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

// --- a ping beside a download ---

async fn ping(server: SocketAddr, length: Duration) -> Result<()> {
    let [receiver, loader, pinger] = [(3, 1), (2, 2), (2, 3)].map(|(net, host)| source(net, host));
    // Of the receiver's two links one is the loader's, the other the pinger's.
    let mut two = connect(receiver, server, 1).await?;
    let mut load = connect(loader, server, 2).await?;
    let mut small = connect(pinger, server, 3).await?;
    let mut links = VecDeque::new();
    for (other, number) in [(&mut load, 1), (&mut small, 2)] {
        join(&mut two, number).await?;
        join(other, number).await?;
        links.push_back(ready(other).await?);
        ready(&mut two).await?;
    }
    let [Some(load_link), Some(small_link)] = [links.pop_front(), links.pop_front()] else {
        bail!("no links");
    };
    let (told, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(receive(end(two, RelayLink(0)), told));

    let (echoes, mut echoed) = mpsc::channel(64);
    let End {
        mut sink,
        mut stream,
        ..
    } = end(small, small_link);
    let (direct, mut to_send) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(ping) = to_send.recv().await {
            send_one(&mut sink, small_link, &packet(PING, ping, 100)).await?;
        }
        anyhow::Ok(())
    });
    tokio::spawn(async move {
        while let Ok((_, packets)) = packets(&mut stream).await {
            for packet in packets {
                let _ = echoes.try_send(number(&packet));
            }
        }
    });
    let alone = round_trips(&direct, &mut echoed, length).await?;

    let (inside, pinged) = mpsc::channel(64);
    let (echoes, mut echoed_inside) = mpsc::channel(64);
    tokio::spawn(download(end(load, load_link), pinged, echoes));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = latest(&mut heard);
    let began = Instant::now();
    let beside = round_trips(&direct, &mut echoed, length).await?;
    let within = round_trips(&inside, &mut echoed_inside, length).await?;
    let after = latest(&mut heard);
    let bytes = (after.packets - before.packets) as usize * PACKET;
    let mbit = (bytes * 8) as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!(
        "{{\"download_mbit\": {mbit:.1}, \"alone\": {{{alone}}}, \"beside\": {{{beside}}}, \"within\": {{{within}}}}}"
    );
    Ok(())
}

fn latest(heard: &mut mpsc::UnboundedReceiver<Got>) -> Got {
    let mut last = Got::default();
    while let Ok(got) = heard.try_recv() {
        last = got;
    }
    last
}

/// Sends a ping each interval and collects what comes back.
async fn round_trips(
    pings: &mpsc::Sender<u64>,
    echoes: &mut mpsc::Receiver<u64>,
    length: Duration,
) -> Result<String> {
    let began = epoch();
    let mut times = Vec::new();
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    let start = Instant::now();
    let mut sent = 0_usize;
    // What comes now belongs to the measure before.
    while echoes.try_recv().is_ok() {}
    while start.elapsed() < length {
        tokio::select! {
            _ = ticks.tick() => {
                pings.send(u64::try_from(began.elapsed().as_nanos())?).await?;
                sent += 1;
            }
            Some(at) = echoes.recv() => {
                times.push(began.elapsed().saturating_sub(Duration::from_nanos(at)));
            }
        }
    }
    let lost = sent.saturating_sub(times.len());
    Ok(format!(
        "{}, \"sent\": {sent}, \"lost\": {lost}",
        spread(times)
    ))
}
