//! The LAN as a channel: one task with its sockets, for the machine's own identity and any others that are attached for a while.
//!
//! What is said and heard is decided in `daemon/connect/src/lan.rs`; here datagrams are moved. Where no socket can be opened, that is told and
//! tried again.

mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use punch_engine::lan::{Lan, Link, Outcome, To, Transmit};
use punch_engine::{Channel, ServerId};
use punch_platform::clock;
use punch_signal_protocol::lan::{MAX_DATAGRAM, PORT};
use punch_signal_protocol::{Frame, Identity, PeerId};
use tokio::sync::{mpsc, watch};

use self::sockets::Sockets;
use crate::driver::command::{Command, ToServer};
use crate::tasks::sleep_until;

/// Frames that may wait on either side.
const QUEUE: usize = 64;
/// Datagrams that are taken before anything else has its turn.
const BATCH: usize = 64;
/// What did not work is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// Views learn of what has come in after this at the latest.
const TELL: Duration = Duration::from_millis(200);

/// What the task is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The networks of this machine.
    pub(crate) links: Vec<Link>,
    /// The peers of the machine's own identity.
    pub(crate) peers: BTreeSet<PeerId>,
}

/// What is known of the networks, for views.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LanFacts {
    /// The names of the networks where this machine calls and listens.
    pub(crate) links: Vec<String>,
    /// Why it does not, or not everywhere.
    pub(crate) trouble: Option<String>,
    /// The peers of the machine's own identity that are heard, where, and until when that holds.
    pub(crate) heard: BTreeMap<PeerId, (SocketAddr, Instant)>,
    pub(crate) counts: LanCounts,
}

/// Datagrams so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LanCounts {
    pub(crate) sent: u64,
    pub(crate) taken: u64,
    /// Strangers', and this machine's own.
    pub(crate) strangers: u64,
    /// Forged, repeated, from elsewhere, or too many.
    pub(crate) refused: u64,
}

/// An identity that is to be heard in this machine's networks, and its peers, which may be called.
pub(crate) struct Attach {
    pub(crate) identity: Identity,
    pub(crate) peers: BTreeSet<PeerId>,
    /// Frames for the channel; it is detached when their sender is gone.
    pub(crate) frames: mpsc::Receiver<Frame>,
    /// Frames that the channel brings.
    pub(crate) brings: mpsc::Sender<Frame>,
}

/// The task's end of what the controller has.
pub(crate) struct Room {
    /// The number by which the driver knows the channel.
    pub(crate) server: ServerId,
    pub(crate) identity: Identity,
    /// Where datagrams for this machine alone come to; 0 for any.
    pub(crate) port: u16,
    pub(crate) driver: mpsc::Sender<Command>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) attached: mpsc::Receiver<Attach>,
    pub(crate) facts: watch::Sender<LanFacts>,
}

/// Where what an identity hears goes.
enum Outlet {
    /// To the driver, while the channel stands.
    Driver,
    Queue(mpsc::Sender<Frame>),
}

/// One identity.
struct Voice {
    lan: Lan,
    frames: mpsc::Receiver<Frame>,
    outlet: Outlet,
}

/// Calls and listens until it is dropped.
pub(crate) async fn run(room: Room) {
    let Ok(seed) = punch_platform::random() else {
        return;
    };
    let own = Lan::new(room.identity.clone(), seed, clock::wall_ms());
    let (_, frames) = mpsc::channel(1);
    let keeper = Keeper {
        voices: vec![Voice {
            lan: own,
            frames,
            outlet: Outlet::Driver,
        }],
        links: Vec::new(),
        sockets: [None, None],
        stands: false,
        again: None,
        facts: LanFacts::default(),
        told: None,
        room,
    };
    keeper.run().await;
}

struct Keeper {
    room: Room,
    /// The machine's own first.
    voices: Vec<Voice>,
    links: Vec<Link>,
    /// For IPv4 and IPv6.
    sockets: [Option<Sockets>; 2],
    /// Whether the driver knows the channel.
    stands: bool,
    /// When what did not work is tried again.
    again: Option<Instant>,
    facts: LanFacts,
    /// When views are told what has changed.
    told: Option<Instant>,
}

/// What has happened.
enum Happened {
    Datagram(SocketAddr, usize),
    Frame(usize, Frame),
    /// The other end of a voice is gone.
    Left(usize),
}

impl Keeper {
    async fn run(mut self) {
        let mut buffer = [0; MAX_DATAGRAM + 1];
        self.follow().await;
        loop {
            self.give().await;
            let timeouts = self.voices.iter().map(|voice| voice.lan.poll_timeout());
            let timeouts = timeouts.flatten().filter(|_| self.stands);
            let due = timeouts.chain(self.again).chain(self.told).min();
            let (sockets, voices) = (&self.sockets, &mut self.voices);
            tokio::select! {
                changed = self.room.wanted.changed() => match changed {
                    Ok(()) => self.follow().await,
                    Err(_) => return,
                },
                Some(attach) = self.room.attached.recv() => self.attach(attach),
                happened = poll_fn(|context| poll(sockets, voices, &mut buffer, context)) => {
                    self.handle(happened, &buffer);
                    self.take_waiting(&mut buffer);
                }
                () = sleep_until(due) => {}
            }
            let now = clock::now();
            if self.again.is_some_and(|again| again <= now) {
                self.follow().await;
            } else if self.told.is_some_and(|told| told <= now) {
                self.publish();
            }
        }
    }

    fn attach(&mut self, attach: Attach) {
        let Ok(seed) = punch_platform::random() else {
            return;
        };
        let mut lan = Lan::new(attach.identity, seed, clock::wall_ms());
        lan.set_peers(&attach.peers, clock::now());
        self.voices.push(Voice {
            lan,
            frames: attach.frames,
            outlet: Outlet::Queue(attach.brings),
        });
    }

    // --- the network ---

    /// Follows what is wanted, and tries again what did not work.
    async fn follow(&mut self) {
        let now = clock::now();
        let wanted = self.room.wanted.borrow_and_update().clone();
        if let Some(own) = self.voices.first_mut() {
            own.lan.set_peers(&wanted.peers, now);
        }
        let is_new = |link: &Link| !self.links.contains(link);
        let mut is_another = wanted.links.iter().any(is_new);
        self.links = wanted.links;
        let mut trouble = None;
        for (v6, place) in [(false, 0), (true, 1)] {
            let had = self.sockets[place].is_some();
            if let Err(error) = self.follow_family(v6, place) {
                trouble = Some(error);
            }
            is_another |= !had && self.sockets[place].is_some();
        }
        let is_on = |link: &&Link| self.sockets.iter().flatten().any(|its| its.is_on(link));
        let links: Vec<_> = self.links.iter().filter(is_on).cloned().collect();
        let links: Vec<_> = links.into_iter().map(|link| link.name).collect();
        self.again = trouble.is_some().then(|| now + AGAIN);
        if trouble != self.facts.trouble
            && let Some(trouble) = &trouble
        {
            tracing::warn!("peers may not be found on the LAN: {trouble}");
        }
        (self.facts.trouble, self.facts.links) = (trouble, links);
        let stands = !self.facts.links.is_empty();
        for voice in &mut self.voices {
            voice.lan.keep_to(&self.links);
        }
        if stands && is_another {
            self.change_ports();
            for voice in &mut self.voices {
                voice.lan.handle_network(now);
            }
        }
        self.tell_driver(stands).await;
        self.publish();
    }

    /// Whoever sees this machine in two networks does not know it by its port, unless an administrator has set that.
    fn change_ports(&mut self) {
        let wanted = self.room.port == 0;
        for sockets in self.sockets.iter_mut().flatten().filter(|_| wanted) {
            if let Err(error) = sockets.change_port() {
                tracing::debug!(%error, "the port for answers on the LAN stays what it was");
            }
        }
    }

    /// # Errors
    /// What did not work, in words.
    fn follow_family(&mut self, v6: bool, place: usize) -> Result<(), String> {
        let family = if v6 { "IPv6" } else { "IPv4" };
        if !self.links.iter().any(|link| link.has_family(v6)) {
            self.sockets[place] = None;
            return Ok(());
        }
        if self.sockets[place].is_none() {
            let opened = Sockets::open(v6, self.room.port);
            self.sockets[place] = Some(opened.map_err(|error| {
                let port = match self.room.port {
                    0 => PORT.to_string(),
                    own => format!("{PORT} or {own}"),
                };
                match error.kind() {
                    io::ErrorKind::AddrInUse => format!(
                        "another program has UDP port {port} over {family} for itself: stop it, or set [lan] enabled = false in punchd.toml"
                    ),
                    _ => format!("no multicast over {family}: {error}"),
                }
            })?);
        }
        let Some(sockets) = &mut self.sockets[place] else {
            return Ok(());
        };
        sockets.join(&self.links).map_err(|(link, error)| {
            format!("the multicast group cannot be joined on {link} over {family}: {error}")
        })
    }

    /// The channel stands, or does not.
    async fn tell_driver(&mut self, stands: bool) {
        if self.stands == stands {
            return;
        }
        self.stands = stands;
        let (server, driver) = (self.room.server, &self.room.driver);
        if !stands {
            let _ = driver.send(Command::ServerDown(server)).await;
            return;
        }
        let (frames, taken) = mpsc::channel(QUEUE);
        if let Some(own) = self.voices.first_mut() {
            own.frames = taken;
        }
        // It relays nothing, and the connector asks for none.
        let (relayed, _) = mpsc::channel(1);
        let ways = ToServer { frames, relayed };
        let up = Command::ServerUp(server, Channel::Lan, ways);
        let _ = driver.send(up).await;
    }

    fn publish(&mut self) {
        self.told = None;
        if let Some(own) = self.voices.first() {
            self.facts.heard = own.lan.heard().collect();
        }
        self.room.facts.send_if_modified(|facts| {
            let differs = *facts != self.facts;
            if differs {
                facts.clone_from(&self.facts);
            }
            differs
        });
    }

    // --- what comes in ---

    fn handle(&mut self, happened: Happened, buffer: &[u8; MAX_DATAGRAM + 1]) {
        match happened {
            Happened::Datagram(from, length) => {
                self.handle_datagram(from, &buffer[..length.min(buffer.len())]);
            }
            Happened::Frame(index, frame) => {
                if let Some(voice) = self.voices.get_mut(index) {
                    voice.lan.handle_frame(frame, clock::now());
                }
            }
            Happened::Left(index) => drop(self.voices.remove(index)),
        }
    }

    /// Takes more of what is there, but not for ever.
    fn take_waiting(&mut self, buffer: &mut [u8; MAX_DATAGRAM + 1]) {
        for _ in 1..BATCH {
            let mut sockets = self.sockets.iter().flatten();
            let taken = sockets.find_map(|sockets| sockets.try_receive(buffer));
            let Some((from, length)) = taken else { return };
            self.handle_datagram(from, &buffer[..length.min(buffer.len())]);
        }
    }

    fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        let counts = &mut self.facts.counts;
        if !self.links.iter().any(|link| link.has(from)) {
            counts.refused += 1;
            return;
        }
        let (wall_ms, now) = (clock::wall_ms(), clock::now());
        let mut outcome = Outcome::Stranger;
        for voice in &mut self.voices {
            outcome = voice.lan.handle_datagram(from, datagram, wall_ms, now);
            if outcome != Outcome::Stranger {
                break;
            }
        }
        self.told.get_or_insert(now + TELL);
        tracing::trace!(%from, length = datagram.len(), ?outcome, "a datagram on the LAN");
        match outcome {
            Outcome::Taken => counts.taken += 1,
            Outcome::Stranger => counts.strangers += 1,
            Outcome::TooMany | Outcome::Forged | Outcome::Repeated => counts.refused += 1,
        }
    }

    // --- what goes out ---

    /// Passes on what the identities hear, and sends what they say.
    async fn give(&mut self) {
        for index in 0..self.voices.len() {
            while let Some(frame) = self.voices[index].lan.poll_frame() {
                self.bring(index, frame).await;
            }
            let now = clock::now();
            while self.stands
                && let Some(transmit) = self.voices[index].lan.poll_transmit(now)
            {
                self.transmit(index, &transmit);
            }
        }
    }

    async fn bring(&self, index: usize, frame: Frame) {
        match &self.voices[index].outlet {
            Outlet::Driver if self.stands => {
                let command = Command::Frame(self.room.server, frame);
                let _ = self.room.driver.send(command).await;
            }
            Outlet::Driver => {}
            // One that does not take its frames loses them, as anywhere on the way.
            Outlet::Queue(queue) => drop(queue.try_send(frame)),
        }
    }

    fn transmit(&mut self, index: usize, transmit: &Transmit) {
        tracing::trace!(to = ?transmit.to, "a datagram for the LAN");
        let wall_ms = clock::wall_ms();
        let lan = &mut self.voices[index].lan;
        let mut seal = |from: (IpAddr, _)| lan.seal(transmit, from, wall_ms);
        match transmit.to {
            To::One(to) => {
                let Some(sockets) = &self.sockets[usize::from(to.is_ipv6())] else {
                    return;
                };
                let Some(source) = sockets::source_towards(to) else {
                    return;
                };
                if let Some(datagram) = seal((source, sockets.port())) {
                    note(sockets.send(to, &datagram), &mut self.facts.counts);
                }
            }
            To::All => {
                for sockets in self.sockets.iter().flatten() {
                    for link in self.links.iter().filter(|link| sockets.is_on(link)) {
                        for source in sockets.sources(link) {
                            if let Some(datagram) = seal((source, sockets.port())) {
                                let sent = sockets.call(link, source, &datagram);
                                note(sent, &mut self.facts.counts);
                            }
                        }
                    }
                }
            }
        }
    }
}

fn note(sent: io::Result<()>, counts: &mut LanCounts) {
    match sent {
        Ok(()) => counts.sent += 1,
        Err(error) => tracing::debug!(%error, "a datagram for the LAN was not sent"),
    }
}

fn poll(
    sockets: &[Option<Sockets>; 2],
    voices: &mut [Voice],
    buffer: &mut [u8; MAX_DATAGRAM + 1],
    context: &mut Context<'_>,
) -> Poll<Happened> {
    for (index, voice) in voices.iter_mut().enumerate() {
        match voice.frames.poll_recv(context) {
            Poll::Ready(Some(frame)) => return Poll::Ready(Happened::Frame(index, frame)),
            Poll::Ready(None) if index > 0 => return Poll::Ready(Happened::Left(index)),
            Poll::Ready(None) | Poll::Pending => {}
        }
    }
    for sockets in sockets.iter().flatten() {
        if let Poll::Ready((from, length)) = sockets.poll_receive(buffer, context) {
            return Poll::Ready(Happened::Datagram(from, length));
        }
    }
    Poll::Pending
}
