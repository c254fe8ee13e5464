//! The DHT as a channel: the socket and the task around `punch_dht::Rendezvous`.
//!
//! One task serves the driver's identity and those of invitations that are under way ([`Order::Attach`]). It is up as a channel once a
//! node answers.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::task::Poll;
use std::time::Duration;

use punch_dht::client::Report;
use punch_dht::vantage::MAX_VANTAGE;
use punch_dht::{Attached, Moment, Rendezvous, Scope, Told};
use punch_engine::{Channel, ServerId};
use punch_platform::clock;
use punch_signal_protocol::{Frame, Identity, PeerId};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::driver::command::{Command, ToServer};
use crate::tasks::sleep_until;

/// Frames of one identity that may wait.
pub(crate) const QUEUE: usize = 64;
/// The longest datagram that is read; longer ones are cut, and then mean nothing.
const DATAGRAM: usize = 2048;
/// Datagrams that are read before time and orders have their turn.
const TURN: usize = 32;
/// Nobody has answered for so long, although asked: the channel is not up any more.
const SILENCE: Duration = Duration::from_secs(60);
/// After this it is said that nobody answers.
const SILENCE_TOLD: Duration = Duration::from_secs(5);
/// A socket that cannot be had is tried again after this.
const PAUSE: Duration = Duration::from_secs(5);

/// What the task is asked to do.
pub(crate) enum Order {
    /// Nodes may be here.
    Bootstrap(Vec<SocketAddr>),
    /// The network has changed.
    NetworkChanged,
    /// Serve another identity, too, until its `frames` end. They are those that would go to a server; a watch that is repeated has the
    /// channel look often for another minute. What comes for it goes to `brings`.
    Attach {
        identity: Box<Identity>,
        /// Who is looked for from time to time although not watched.
        peers: Vec<PeerId>,
        frames: mpsc::Receiver<Frame>,
        brings: mpsc::Sender<Frame>,
    },
}

/// How the DHT is, for status, events and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) up: bool,
    pub(crate) report: Report,
    /// Where several nodes see this machine.
    pub(crate) seen: Option<Ipv4Addr>,
    /// Why there is no socket.
    pub(crate) trouble: Option<String>,
}

impl Standing {
    /// What is wrong, for people.
    pub(crate) fn trouble(&self, now: std::time::Instant) -> Option<String> {
        if self.trouble.is_some() {
            return self.trouble.clone();
        }
        let silence = now.saturating_duration_since(self.report.silent_since?);
        (silence >= SILENCE_TOLD && !self.up).then(|| {
            let seconds = silence.as_secs();
            format!("no node has answered for {seconds} s: this network may not let UDP through")
        })
    }
}

/// What the task needs.
pub(crate) struct Parts {
    pub(crate) server: ServerId,
    pub(crate) identity: Identity,
    pub(crate) scope: Scope,
    pub(crate) driver: mpsc::Sender<Command>,
    /// The peers of the driver's identity.
    pub(crate) peers: watch::Receiver<Vec<PeerId>>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) standing: watch::Sender<Standing>,
    /// Where nodes go that are worth remembering.
    pub(crate) nodes: mpsc::Sender<Vec<SocketAddrV4>>,
}

/// Both ends of another identity.
struct Other {
    frames: mpsc::Receiver<Frame>,
    brings: mpsc::Sender<Frame>,
}

/// The next frame of another identity, or that there will be no more.
async fn next_of_others(others: &mut BTreeMap<Attached, Other>) -> (Attached, Option<Frame>) {
    std::future::poll_fn(|context| {
        for (number, other) in others.iter_mut() {
            if let Poll::Ready(frame) = other.frames.poll_recv(context) {
                return Poll::Ready((*number, frame));
            }
        }
        Poll::Pending
    })
    .await
}

struct Task {
    parts: Parts,
    channel: Rendezvous,
    /// The number of the driver's identity.
    own: Attached,
    /// Frames of the driver, while the channel is up.
    frames: Option<mpsc::Receiver<Frame>>,
    others: BTreeMap<Attached, Other>,
    seen: Option<Ipv4Addr>,
    /// The nodes that the driver asks in place of STUN servers.
    vantage: Vec<SocketAddrV4>,
    /// Where it tells of those that do not answer.
    silent: (mpsc::Sender<SocketAddrV4>, mpsc::Receiver<SocketAddrV4>),
}

/// Serves until it is dropped.
pub(crate) async fn serve(parts: Parts) {
    let Ok(seed) = punch_platform::random::<32>() else {
        return;
    };
    let mut channel = Rendezvous::new(seed, parts.scope);
    let Some(own) = channel.attach(parts.identity.clone()) else {
        return;
    };
    let mut task = Task {
        parts,
        channel,
        own,
        frames: None,
        others: BTreeMap::new(),
        seen: None,
        vantage: Vec::new(),
        silent: mpsc::channel(MAX_VANTAGE),
    };
    let _ = task
        .parts
        .driver
        .send(Command::ServerDown(task.parts.server))
        .await;
    loop {
        match UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await {
            Ok(socket) => {
                if task.converse(&socket).await {
                    continue;
                }
            }
            Err(error) => {
                let trouble = Some(format!("no socket: {error}"));
                task.parts
                    .standing
                    .send_modify(|standing| standing.trouble = trouble);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn moment() -> Moment {
    Moment {
        now: clock::now(),
        wall_ms: clock::wall_ms(),
    }
}

/// The next frame of the driver, if the channel is up.
async fn next(frames: &mut Option<mpsc::Receiver<Frame>>) -> Frame {
    if let Some(queue) = frames
        && let Some(frame) = queue.recv().await
    {
        return frame;
    }
    std::future::pending().await
}

impl Task {
    /// Works until the socket fails, or the network has changed (`true`): there nobody knows this machine by its port.
    async fn converse(&mut self, socket: &UdpSocket) -> bool {
        let mut buffer = [0; DATAGRAM];
        self.follow_peers();
        loop {
            self.drain(socket).await;
            self.tell().await;
            let due = self.channel.poll_timeout();
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    match received {
                        Ok((length, from)) => self.receive(from, buffer.get(..length)),
                        Err(error) if is_passing(&error) => {}
                        Err(error) => {
                            tracing::warn!(%error, "the DHT's socket fails");
                            return false;
                        }
                    }
                    for _ in 0..TURN {
                        let Ok((length, from)) = socket.try_recv_from(&mut buffer) else { break };
                        self.receive(from, buffer.get(..length));
                    }
                }
                frame = next(&mut self.frames) => self.channel.handle_frame(self.own, frame, moment()),
                (number, frame) = next_of_others(&mut self.others) => match frame {
                    Some(frame) => self.channel.handle_frame(number, frame, moment()),
                    None => self.detach(number),
                },
                Ok(()) = self.parts.peers.changed() => self.follow_peers(),
                Some(order) = self.parts.orders.recv() => {
                    let is_elsewhere = matches!(order, Order::NetworkChanged);
                    self.obey(order);
                    if is_elsewhere {
                        return true;
                    }
                }
                Some(node) = self.silent.1.recv() => self.channel.refuse_vantage(node),
                () = sleep_until(due) => self.channel.handle_timeout(moment()),
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, bytes: Option<&[u8]>) {
        let bytes = bytes.unwrap_or_default();
        self.channel.handle_datagram(from, bytes, moment());
    }

    fn follow_peers(&mut self) {
        let peers = self.parts.peers.borrow_and_update().clone();
        self.channel.set_peers(self.own, &peers, moment());
    }

    fn obey(&mut self, order: Order) {
        let at = moment();
        match order {
            Order::Bootstrap(addresses) => {
                let v4 = addresses.iter().filter_map(|address| match address {
                    SocketAddr::V4(address) => Some(*address),
                    SocketAddr::V6(_) => None,
                });
                self.channel.bootstrap(&v4.collect::<Vec<_>>(), at);
            }
            Order::NetworkChanged => {
                self.seen = None;
                self.channel.handle_network_changed(at);
            }
            Order::Attach {
                identity,
                peers,
                frames,
                brings,
            } => {
                // Of too many the last is not served: its ends are dropped, which tells it.
                if let Some(number) = self.channel.attach(*identity) {
                    self.channel.set_peers(number, &peers, at);
                    self.others.insert(number, Other { frames, brings });
                }
            }
        }
    }

    fn detach(&mut self, number: Attached) {
        if self.others.remove(&number).is_some() {
            self.channel.detach(number);
        }
    }

    /// What the channel has to say goes on its way.
    async fn drain(&mut self, socket: &UdpSocket) {
        while let Some(transmit) = self.channel.poll_transmit() {
            // What the network does not take is asked again by itself.
            if let Err(error) = socket.send_to(&transmit.bytes, transmit.to).await {
                tracing::trace!(%error, to = %transmit.to, "a query of the DHT is lost");
            }
        }
        while let Some((number, frame)) = self.channel.poll_frame() {
            if number == self.own {
                let frame = Command::Frame(self.parts.server, frame);
                let _ = self.parts.driver.send(frame).await;
            } else if let Some(other) = self.others.get(&number) {
                let _ = other.brings.try_send(frame);
            }
        }
        while let Some(told) = self.channel.poll_event() {
            match told {
                Told::Nodes(nodes) => drop(self.parts.nodes.try_send(nodes)),
                Told::Seen(ip) => self.seen = Some(ip),
            }
        }
    }

    /// Tells the driver whether the channel is up, and whoever looks how it is.
    async fn tell(&mut self) {
        let report = self.channel.report();
        let silence = report
            .silent_since
            .map(|at| Instant::from_std(at).elapsed());
        let up = report.answered.is_some() && silence.is_none_or(|silence| silence < SILENCE);
        if up && self.frames.is_none() {
            let (frames, frames_out) = mpsc::channel(QUEUE);
            // Nothing is relayed over a DHT.
            let (relayed, _) = mpsc::channel(1);
            self.frames = Some(frames_out);
            let ways = ToServer { frames, relayed };
            let up = Command::ServerUp(self.parts.server, Channel::Dht, ways);
            let _ = self.parts.driver.send(up).await;
        } else if !up && self.frames.take().is_some() {
            let down = Command::ServerDown(self.parts.server);
            let _ = self.parts.driver.send(down).await;
            self.vantage.clear();
        }
        if up && self.vantage != report.vantage {
            self.vantage.clone_from(&report.vantage);
            let (nodes, silent) = (report.vantage.clone(), self.silent.0.clone());
            let named = Command::Vantage(self.parts.server, nodes, silent);
            let _ = self.parts.driver.send(named).await;
        }
        let standing = Standing {
            up,
            report,
            seen: self.seen,
            trouble: None,
        };
        self.parts.standing.send_if_modified(|known| {
            let differs = *known != standing;
            *known = standing;
            differs
        });
    }
}

/// Whether an error of a socket is about a datagram that went out before: somebody has refused it.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use punch_dht::krpc::Query;

    use super::*;

    /// Neither by its port nor by the name that it has as a node.
    #[tokio::test]
    async fn nodes_of_another_network_do_not_know_the_machine() {
        let node = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (driver, _commands) = mpsc::channel(4);
        let (orders, orders_out) = mpsc::channel(4);
        let parts = Parts {
            server: ServerId(1),
            identity: Identity::from_seed(&[1; 32]),
            scope: Scope::Own,
            driver,
            peers: watch::Sender::default().subscribe(),
            orders: orders_out,
            standing: watch::Sender::default(),
            nodes: mpsc::channel(1).0,
        };
        let told = Order::Bootstrap(vec![node.local_addr().unwrap()]);
        orders.send(told).await.unwrap();
        let ask = async {
            let mut buffer = [0; DATAGRAM];
            let mut asked = Vec::new();
            for _ in 0..2 {
                let (length, from) = node.recv_from(&mut buffer).await.unwrap();
                let (_, _, name) = Query::decode(&buffer[..length]).unwrap();
                asked.push((from.port(), name));
                orders.send(Order::NetworkChanged).await.unwrap();
            }
            asked
        };
        let asked = tokio::select! {
            asked = ask => asked,
            () = serve(parts) => panic!("it serves until it is dropped"),
        };
        assert_ne!(asked[0].0, asked[1].0);
        assert_ne!(asked[0].1, asked[1].1);
    }

    #[test]
    fn a_machine_without_a_socket_says_so_although_it_has_asked_nobody() {
        let no_socket = Standing {
            trouble: Some("no socket: too many open files".into()),
            ..Standing::default()
        };
        assert_eq!(no_socket.trouble(clock::now()), no_socket.trouble);
        assert_eq!(Standing::default().trouble(clock::now()), None);
    }
}
