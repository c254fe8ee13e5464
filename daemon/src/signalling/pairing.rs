//! One invitation under way: a client of each channel under a temporary identity, which looks for the other temporary identity and
//! exchanges an introduction and a welcome with it. Nothing here reaches the driver, and nothing is decided here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use punch_engine::{Channel, ServerId};
use punch_signal_protocol::pairing::{
    Introduction, OpenedIntroduction, PairingError, PendingIntroduction, Reply, TemporaryPair,
    Words,
};
use punch_signal_protocol::{Frame, Identity, PeerId};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::server::{self, Access, Goal, Report};
use crate::driver::command::{Command, ToServer};
use crate::tasks::{Spawner, Task, compute};

/// An introduction that is not answered is sent again after this, on a channel that carries it at once.
const AGAIN: Duration = Duration::from_secs(2);
/// The same on one that takes a minute.
const AGAIN_SLOWLY: Duration = Duration::from_secs(60);
/// A slow channel looks often for a minute after it was told whom to watch.
const LIVELY: Duration = Duration::from_secs(45);
/// So many introductions on one channel can still be answered.
const PENDING: usize = 4;
/// Envelopes that come faster over one channel are not looked at, and introductions leave no faster: whoever passes them on must not keep
/// this machine busy, nor the other channels from being heard.
const PACE: Duration = Duration::from_millis(50);
/// The numbers of channels that are no servers begin here.
const SIDES: u32 = 1 << 16;
/// Frames and reports of all channels that may wait.
const QUEUE: usize = 64;

/// What is to be done, and by which means.
pub(crate) struct Errand {
    /// Its number, for whoever is told of it.
    pub(crate) number: u32,
    pub(crate) words: Words,
    pub(crate) part: Part,
    /// This machine's real identity.
    pub(crate) own: Identity,
    /// The signalling servers where the other machine may be.
    pub(crate) urls: Vec<String>,
    /// How servers are reached; identity, driver and reports are replaced.
    pub(crate) access: Access,
    pub(crate) spawner: Spawner,
    /// Codes are stretched one after the other.
    pub(crate) turn: Arc<Semaphore>,
    /// The network has changed: connections begin anew.
    pub(crate) again: Arc<Notify>,
    pub(crate) tell: mpsc::Sender<Met>,
}

/// The part of this machine.
pub(crate) enum Part {
    Inviter,
    /// The newcomer, and the name that it proposes for itself.
    Newcomer(String),
}

/// A channel that is no server, and to which the temporary identity is attached for as long as this is held.
pub(crate) struct Side {
    pub(crate) channel: Channel,
    /// Frames for it, as for a server.
    pub(crate) frames: mpsc::Sender<Frame>,
    /// What it brings.
    pub(crate) brings: mpsc::Receiver<Frame>,
}

/// What has happened in an errand.
pub(crate) struct Met {
    pub(crate) number: u32,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// The code is stretched; the other machine is looked for, also on the channels that are no servers, which take this identity.
    Looking {
        us: Identity,
        them: PeerId,
        sides: oneshot::Sender<Vec<Side>>,
    },
    /// What is wrong with one of the servers, if none is reached.
    Unreached(Option<String>),
    /// A newcomer has introduced itself; nothing is answered if the sender is dropped.
    Introduced(Introduction, oneshot::Sender<Reply>),
    /// The inviter has answered.
    Answered(Reply),
    /// It cannot come about.
    Failed(String),
}

/// Works on it until it is dropped.
pub(crate) async fn run(errand: Errand) {
    let words = errand.words.clone();
    let stretched = in_turn(&errand.turn, move || words.stretch()).await;
    let Some(pair) = stretched.flatten() else {
        let text = "there are not the 64 MiB of memory that a code takes".to_owned();
        return errand.tell(What::Failed(text)).await;
    };
    let desk = Desk::new(errand, pair);
    let (sides, attached) = oneshot::channel();
    let looking = What::Looking {
        us: desk.us.clone(),
        them: desk.them,
        sides,
    };
    desk.errand.tell(looking).await;
    let sides = attached.await.unwrap_or_default();
    desk.run(sides).await;
}

/// Does work when it has its turn, which lasts until the work is done: work that was begun goes on although nobody waits for it any more.
async fn in_turn<T: Send + 'static>(
    turn: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let permit = turn.clone().acquire_owned().await.ok()?;
    compute(move || {
        let done = work();
        drop(permit);
        done
    })
    .await
}

/// Has a channel that is no server come and bring what one would.
async fn carry(id: ServerId, mut side: Side, commands: mpsc::Sender<Command>) {
    let (relayed, _nothing) = mpsc::channel(1);
    let to = ToServer {
        frames: side.frames,
        relayed,
    };
    let mut next = Some(Command::ServerUp(id, side.channel, to));
    while let Some(command) = next {
        if commands.send(command).await.is_err() {
            return;
        }
        let brought = side.brings.recv().await;
        next = brought.map(|frame| Command::Frame(id, frame));
    }
    let _ = commands.send(Command::ServerDown(id)).await;
}

impl Errand {
    async fn tell(&self, what: What) {
        let number = self.number;
        let _ = self.tell.send(Met { number, what }).await;
    }
}

/// A channel that carries envelopes now.
struct Way {
    to: ToServer,
    channel: Channel,
    /// Introductions that were sent there, the newest last.
    pending: VecDeque<PendingIntroduction>,
    /// When the next one is sent; the inviter sends none, and nothing is sent to whom the server has not seen.
    next: Option<Instant>,
    /// When a slow channel is told again to look often.
    watch: Option<Instant>,
    /// When an envelope that it has brought was looked at last.
    looked: Option<Instant>,
    /// When the last introduction was made for it.
    made: Option<Instant>,
}

impl Way {
    fn new(to: ToServer, channel: Channel, is_newcomer: bool, now: Instant) -> Self {
        Self {
            to,
            channel,
            pending: VecDeque::new(),
            next: (is_newcomer && channel != Channel::Server).then_some(now),
            watch: channel.is_slow().then(|| now + LIVELY),
            looked: None,
            made: None,
        }
    }

    /// The other machine was seen there, or so it is said.
    fn handle_appeared(&mut self, now: Instant) {
        self.next = Some(self.made.map_or(now, |made| now.max(made + PACE)));
    }

    /// Whether one more envelope from there is to be looked at.
    fn admits(&mut self, now: Instant) -> bool {
        let admits = self.looked.is_none_or(|at| now >= at + PACE);
        if admits {
            self.looked = Some(now);
        }
        admits
    }

    /// Whether an introduction is to be made for it now.
    fn take_due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|at| now < at) {
            return false;
        }
        let pause = match self.channel.is_slow() {
            true => AGAIN_SLOWLY,
            false => AGAIN,
        };
        (self.next, self.made) = (Some(now + pause), Some(now));
        true
    }
}

/// The errand at work.
struct Desk {
    errand: Errand,
    pair: TemporaryPair,
    us: Identity,
    them: PeerId,
    ways: BTreeMap<ServerId, Way>,
    /// What each server has said last of its connection.
    reached: BTreeMap<ServerId, Option<String>>,
    done: bool,
}

impl Desk {
    fn new(errand: Errand, pair: TemporaryPair) -> Self {
        let (us, them) = match errand.part {
            Part::Inviter => (pair.inviter.clone(), pair.newcomer.id()),
            Part::Newcomer(_) => (pair.newcomer.clone(), pair.inviter.id()),
        };
        Self {
            errand,
            pair,
            us,
            them,
            ways: BTreeMap::new(),
            reached: BTreeMap::new(),
            done: false,
        }
    }

    async fn run(mut self, sides: Vec<Side>) {
        let (commands, mut inlet) = mpsc::channel(QUEUE);
        let (reports, mut reported) = mpsc::channel(QUEUE);
        let sides = (SIDES..).map(ServerId).zip(sides);
        let carried = sides.map(|(id, side)| {
            let carry = carry(id, side, commands.clone());
            self.errand.spawner.spawn("pairing", carry)
        });
        let _carried: Vec<_> = carried.collect();
        let mut clients = self.start(&commands, &reports);
        let again = self.errand.again.clone();
        while !self.done {
            let times = self.ways.values().flat_map(|way| [way.next, way.watch]);
            let next = times.flatten().min();
            tokio::select! {
                Some(command) = inlet.recv() => self.handle(command).await,
                Some(report) = reported.recv() => self.handle_report(report).await,
                () = again.notified() => {
                    clients.clear();
                    clients = self.start(&commands, &reports);
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.watch();
                    self.introduce();
                }
            }
        }
    }

    /// Starts a client of each server; what comes from them arrives as it would at the driver.
    fn start(&self, commands: &mpsc::Sender<Command>, reports: &mpsc::Sender<Report>) -> Vec<Task> {
        let access = Access {
            identity: self.us.clone(),
            driver: commands.clone(),
            reports: reports.clone(),
            ..self.errand.access.clone()
        };
        let goals = (1..).zip(&self.errand.urls).map(|(number, url)| Goal {
            server: ServerId(number),
            url: url.clone(),
            host: None,
        });
        let clients = goals.map(|goal| {
            let client = server::stay_connected(goal, access.clone());
            self.errand.spawner.spawn("pairing", client)
        });
        clients.collect()
    }

    async fn handle_report(&mut self, report: Report) {
        self.reached.insert(report.server, report.trouble);
        let connected = self.reached.values().filter(|trouble| trouble.is_none());
        let connected = connected.count();
        let trouble = self.reached.values().find_map(Clone::clone);
        let trouble = trouble.filter(|_| connected == 0);
        self.errand.tell(What::Unreached(trouble)).await;
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::ServerUp(id, channel, to) => {
                // The queue of a new connection is empty.
                let _ = to.frames.try_send(Frame::Watch(self.them));
                let is_newcomer = matches!(self.errand.part, Part::Newcomer(_));
                let way = Way::new(to, channel, is_newcomer, Instant::now());
                self.ways.insert(id, way);
            }
            Command::ServerDown(id) => drop(self.ways.remove(&id)),
            Command::Frame(id, Frame::Appeared(who)) if who == self.them => {
                let is_newcomer = matches!(self.errand.part, Part::Newcomer(_));
                if let (true, Some(way)) = (is_newcomer, self.ways.get_mut(&id)) {
                    way.handle_appeared(Instant::now());
                }
            }
            Command::Frame(id, Frame::Unreachable { to, .. }) if to == self.them => {
                if let Some(way) = self.ways.get_mut(&id).filter(|way| way.next.is_some()) {
                    way.next = Some(Instant::now() + AGAIN);
                }
            }
            Command::Frame(id, Frame::Deliver { from, envelope }) if from == self.them => {
                self.handle_envelope(id, &envelope).await;
            }
            _ => {}
        }
    }

    async fn handle_envelope(&mut self, id: ServerId, envelope: &[u8]) {
        let way = self.ways.get_mut(&id);
        if !way.is_some_and(|way| way.admits(Instant::now())) {
            return;
        }
        match self.errand.part {
            Part::Inviter => self.welcome(id, envelope).await,
            Part::Newcomer(_) => self.read_reply(id, envelope).await,
        }
    }

    /// Has slow channels look often for as long as the errand lasts.
    fn watch(&mut self) {
        let now = Instant::now();
        for way in self.ways.values_mut() {
            if way.watch.is_some_and(|at| at <= now) {
                way.watch = Some(now + LIVELY);
                let _ = way.to.frames.try_send(Frame::Watch(self.them));
            }
        }
    }

    /// Introduces this machine wherever it is time to.
    fn introduce(&mut self) {
        let Part::Newcomer(name) = &self.errand.part else {
            return;
        };
        let now = Instant::now();
        for way in self.ways.values_mut() {
            if !way.take_due(now) {
                continue;
            }
            let Ok(seed) = punch_platform::random() else {
                continue;
            };
            let sealed = PendingIntroduction::seal(&self.errand.own, name, &self.pair, seed);
            let Ok((pending, envelope)) = sealed else {
                continue;
            };
            let to = self.them;
            if way.to.frames.try_send(Frame::Send { to, envelope }).is_ok() {
                way.pending.push_back(pending);
                while way.pending.len() > PENDING {
                    way.pending.pop_front();
                }
            }
        }
    }

    /// Answers an introduction by the way that it has come.
    async fn welcome(&mut self, id: ServerId, envelope: &[u8]) {
        let Ok(seed) = punch_platform::random() else {
            return;
        };
        let opened = match OpenedIntroduction::open(&self.pair, envelope, seed) {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%error, "an introduction was passed over"),
        };
        let (answer, answered) = oneshot::channel();
        let introduction = opened.introduction.clone();
        let what = What::Introduced(introduction, answer);
        self.errand.tell(what).await;
        let Ok(reply) = answered.await else {
            return;
        };
        let Ok(envelope) = opened.reply(&self.errand.own, &reply) else {
            return;
        };
        if let Some(way) = self.ways.get(&id) {
            let to = self.them;
            let _ = way.to.frames.try_send(Frame::Send { to, envelope });
        }
    }

    /// Reads the inviter's answer, to whichever introduction it is one.
    async fn read_reply(&mut self, id: ServerId, envelope: &[u8]) {
        let Some(way) = self.ways.get_mut(&id) else {
            return;
        };
        for pending in way.pending.iter_mut().rev() {
            let what = match pending.open(envelope) {
                Err(PairingError::Seal(_)) => continue,
                Err(error) => {
                    What::Failed(format!("the other machine's answer is not usable: {error}"))
                }
                Ok(reply) => What::Answered(reply),
            };
            self.done = true;
            return self.errand.tell(what).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    fn way(channel: Channel) -> Way {
        let (frames, _) = mpsc::channel(1);
        let (relayed, _) = mpsc::channel(1);
        Way::new(ToServer { frames, relayed }, channel, true, Instant::now())
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_any_more_still_has_its_turn() {
        let turn = Arc::new(Semaphore::new(1));
        let (started, mut has_started) = mpsc::channel(1);
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let work = move || {
            started.blocking_send(()).unwrap();
            let _ = ends.recv();
        };
        let spawner = Spawner::new(tokio::runtime::Handle::current());
        let waiting = spawner.spawn("pairing", {
            let turn = turn.clone();
            async move { in_turn(&turn, work).await.unwrap() }
        });
        has_started.recv().await.unwrap();
        drop(waiting);
        // Its end is another turn of this thread.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(turn.available_permits(), 0, "it goes on");
        drop(end);
        assert_eq!(in_turn(&turn, || 7).await, Some(7));
    }

    #[tokio::test]
    async fn a_channel_that_floods_keeps_no_other_one_from_being_heard() {
        let (mut loud, mut quiet) = (way(Channel::Server), way(Channel::Lan));
        let now = Instant::now();
        let looked = (0..1000).filter(|ms| loud.admits(now + Duration::from_millis(*ms)));
        assert_eq!(looked.count(), 20);
        assert!(quiet.admits(now + Duration::from_millis(999)));
    }

    #[tokio::test]
    async fn a_server_that_names_the_other_machine_again_and_again_gets_few_introductions() {
        let mut server = way(Channel::Server);
        let now = Instant::now();
        assert!(!server.take_due(now), "it has not seen the other machine");
        let made = (0..1000).map(|ms| now + Duration::from_millis(ms));
        let made = made.filter(|at| {
            server.handle_appeared(*at);
            server.take_due(*at)
        });
        assert_eq!(made.count(), 20);
        // The last one that it asked for, and then as often as it is repeated.
        let later = [2, 3, 4].map(|s| server.take_due(now + Duration::from_secs(s)));
        assert_eq!(later, [true, false, true]);
    }
}
