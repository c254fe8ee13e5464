//! The names of targets, looked up behind bounds: peers decide how often a target is wanted, and a look-up may take a thread of the
//! system's for half a minute. Those that look up the names of servers must find a thread all the same.
//!
//! One look-up runs for each name, and all who want it wait for it. What was found is kept for some seconds, and a failure for
//! fewer. Nobody waits for longer than [`PATIENCE`], but a look-up keeps its place until it has ended, whoever has gone away.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_api::Target;
use punch_engine::PeerHandle;
use punch_platform::clock;
use tokio::sync::{mpsc, oneshot};

use crate::dial::look_up;
use crate::tasks::{Spawner, sleep_until};

/// Look-ups at once: the runtime has 32 threads for them, and the servers' names need some.
const RUNNING: usize = 8;
/// Look-ups at once that one peer has begun.
const RUNNING_OF_PEER: usize = 2;
/// Streams that may wait for names, in all and of one peer.
const WAITING: usize = 1024;
const WAITING_OF_PEER: usize = 256;
/// A stream waits so long for a name.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was found is used for so long, and a failure is repeated.
const KEEP_FOUND: Duration = Duration::from_secs(10);
const KEEP_FAILURE: Duration = Duration::from_secs(3);
/// A name is not looked up anew sooner than this, however often its addresses fail.
const PAUSE: Duration = Duration::from_secs(1);
/// What was found for more names than this is forgotten as soon as it is old.
const KEPT_NAMES: usize = 256;
/// The most addresses of one name that are used.
const MAX_ADDRESSES: usize = 4;

/// What a look-up brings.
pub(crate) type Answer = Result<Vec<SocketAddr>, NoAddress>;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoAddress {
    /// Too many wait.
    Busy,
    /// In words for people.
    Unknown(String),
}

/// Somebody who waits for an answer.
trait Waiter {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool;
}

impl Waiter for oneshot::Sender<Answer> {
    fn is_gone(&self) -> bool {
        self.is_closed()
    }
}

/// What the owner of the names is told.
enum Message {
    Ask(Ask<oneshot::Sender<Answer>>),
    /// What was found is old: this machine's network has changed.
    Forget,
}

/// A question for a name.
struct Ask<W> {
    name: String,
    peer: PeerHandle,
    /// What was found before this has failed.
    since: Option<Instant>,
    waiter: W,
}

/// The way to the owner of the names.
#[derive(Clone)]
pub(crate) struct Names(mpsc::Sender<Message>);

impl Names {
    /// Starts the owner of the names; it ends with the last of these.
    pub(crate) fn start(spawner: &Spawner) -> Self {
        let (sender, messages) = mpsc::channel(WAITING);
        let serve = serve(messages, spawner.clone());
        spawner.spawn("names", serve).detach();
        Self(sender)
    }

    /// The addresses of a target for a stream of `peer`. With `since`, what was known before that has failed and is looked up anew.
    pub(crate) async fn look_up(
        &self,
        target: &Target,
        peer: PeerHandle,
        since: Option<Instant>,
    ) -> Answer {
        if let Ok(ip) = target.host().parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, target.port())]);
        }
        let (waiter, answer) = oneshot::channel();
        let ask = Ask {
            name: target.host().to_owned(),
            peer,
            since,
            waiter,
        };
        if self.0.try_send(Message::Ask(ask)).is_err() {
            return Err(NoAddress::Busy);
        }
        let mut addresses = answer.await.unwrap_or(Err(NoAddress::Busy))?;
        for address in &mut addresses {
            address.set_port(target.port());
        }
        Ok(addresses)
    }

    /// Names may lead elsewhere from now on.
    pub(crate) fn forget(&self) {
        // If that finds no room, what is known is soon old by itself.
        let _ = self.0.try_send(Message::Forget);
    }
}

async fn serve(mut messages: mpsc::Receiver<Message>, spawner: Spawner) {
    let mut table = Table::default();
    let (done_in, mut done) = mpsc::channel(RUNNING);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(Message::Ask(ask)) => table.ask(ask, clock::now()),
                Some(Message::Forget) => table.forget(),
                None => return,
            },
            Some((name, found)) = done.recv() => table.found(name, found, clock::now()),
            () = sleep_until(table.next_timeout()) => table.handle_timeout(clock::now()),
        }
        while let Some(name) = table.start(clock::now()) {
            let done = done_in.clone();
            let look_up = async move {
                let found = look_up((name.as_str(), 0), MAX_ADDRESSES).await;
                let found = found.map_err(|error| error.to_string());
                let _ = done.send((name, found)).await;
            };
            spawner.spawn("look-up", look_up).detach();
        }
        for (waiter, answer) in table.answers.drain(..) {
            let _ = waiter.send(answer);
        }
    }
}

/// One name.
struct Name<W> {
    known: Option<(Instant, Answer)>,
    /// By whom and when the look-up was begun that runs.
    running: Option<(PeerHandle, Instant)>,
    is_queued: bool,
    waiters: Vec<(PeerHandle, W)>,
    /// When the first of them came.
    waits_since: Option<Instant>,
}

impl<W> Default for Name<W> {
    fn default() -> Self {
        Self {
            known: None,
            running: None,
            is_queued: false,
            waiters: Vec::new(),
            waits_since: None,
        }
    }
}

impl<W> Name<W> {
    /// What is known, if that is still to be used.
    fn usable(&self, since: Option<Instant>, now: Instant) -> Option<&Answer> {
        let (at, answer) = self.known.as_ref()?;
        let age = now.saturating_duration_since(*at);
        let keep = match answer {
            Ok(_) => KEEP_FOUND,
            Err(_) => KEEP_FAILURE,
        };
        let has_failed = since.is_some_and(|since| *at < since);
        (age < PAUSE || (age < keep && !has_failed)).then_some(answer)
    }
}

/// All names, and those who wait.
struct Table<W> {
    names: HashMap<String, Name<W>>,
    /// Names that wait for a place, and who wants them looked up.
    queue: VecDeque<(PeerHandle, String)>,
    running: HashMap<PeerHandle, usize>,
    waiting: HashMap<PeerHandle, usize>,
    /// When those who wait have waited for long enough.
    due: VecDeque<(Instant, String)>,
    answers: Vec<(W, Answer)>,
}

impl<W> Default for Table<W> {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            queue: VecDeque::new(),
            running: HashMap::new(),
            waiting: HashMap::new(),
            due: VecDeque::new(),
            answers: Vec::new(),
        }
    }
}

impl<W: Waiter> Table<W> {
    fn ask(&mut self, ask: Ask<W>, now: Instant) {
        let Ask {
            name,
            peer,
            since,
            waiter,
        } = ask;
        if self.names.len() > KEPT_NAMES {
            self.names.retain(|_, name| {
                let wanted = !name.waiters.is_empty() || name.running.is_some() || name.is_queued;
                wanted || name.usable(None, now).is_some()
            });
        }
        let all: usize = self.waiting.values().sum();
        let of_peer = self.waiting.get(&peer).copied().unwrap_or(0);
        let entry = self.names.entry(name.clone()).or_default();
        if let Some(answer) = entry.usable(since, now) {
            self.answers.push((waiter, answer.clone()));
            return;
        }
        let hangs = |began: Instant| now.saturating_duration_since(began) >= PATIENCE;
        if entry.running.is_some_and(|(_, began)| hangs(began)) {
            self.answers.push((waiter, Err(silence())));
            return;
        }
        if all >= WAITING || of_peer >= WAITING_OF_PEER {
            self.answers.push((waiter, Err(NoAddress::Busy)));
            return;
        }
        entry.waiters.push((peer, waiter));
        *self.waiting.entry(peer).or_default() += 1;
        if entry.running.is_none() && !std::mem::replace(&mut entry.is_queued, true) {
            self.queue.push_back((peer, name.clone()));
        }
        if entry.waiters.len() == 1 {
            entry.waits_since = Some(now);
            self.due.push_back((now + PATIENCE, name));
        }
    }

    /// The next name to look up, if there is a place for it.
    fn start(&mut self, now: Instant) -> Option<String> {
        loop {
            let all: usize = self.running.values().sum();
            if all >= RUNNING {
                return None;
            }
            let has_place = |peer| self.running.get(peer).copied().unwrap_or(0) < RUNNING_OF_PEER;
            let at = self.queue.iter().position(|(peer, _)| has_place(peer))?;
            let (peer, name) = self.queue.remove(at)?;
            let Some(entry) = self.names.get_mut(&name) else {
                continue;
            };
            entry.is_queued = false;
            // Those who have gone away need no look-up.
            if entry.waiters.iter().all(|(_, waiter)| waiter.is_gone()) {
                let waiters = std::mem::take(&mut entry.waiters);
                self.dismiss(waiters.iter().map(|(peer, _)| *peer));
                continue;
            }
            entry.running = Some((peer, now));
            *self.running.entry(peer).or_default() += 1;
            return Some(name);
        }
    }

    fn found(&mut self, name: String, found: Result<Vec<SocketAddr>, String>, now: Instant) {
        let answer = match found {
            Ok(addresses) if addresses.is_empty() => {
                Err(NoAddress::Unknown("the name has no address".to_owned()))
            }
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(NoAddress::Unknown(error)),
        };
        let Some(entry) = self.names.get_mut(&name) else {
            return;
        };
        if let Some((peer, _)) = entry.running.take() {
            give_back(&mut self.running, peer);
        }
        entry.known = Some((now, answer.clone()));
        self.answer(&name, &answer);
    }

    fn answer(&mut self, name: &str, answer: &Answer) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        let waiters = std::mem::take(&mut entry.waiters);
        self.dismiss(waiters.iter().map(|(peer, _)| *peer));
        let answers = waiters
            .into_iter()
            .map(|(_, waiter)| (waiter, answer.clone()));
        self.answers.extend(answers);
    }

    fn dismiss(&mut self, peers: impl Iterator<Item = PeerHandle>) {
        for peer in peers {
            give_back(&mut self.waiting, peer);
        }
    }

    fn forget(&mut self) {
        for name in self.names.values_mut() {
            name.known = None;
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.due.front().map(|(at, _)| *at)
    }

    fn handle_timeout(&mut self, now: Instant) {
        while self.due.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.due.pop_front() else {
                return;
            };
            // Others may have come to wait since, after an answer.
            let since = self.names.get(&name).and_then(|name| name.waits_since);
            if since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE) {
                self.answer(&name, &Err(silence()));
            }
        }
    }
}

fn silence() -> NoAddress {
    let text = format!(
        "the name service has not answered for {} s",
        PATIENCE.as_secs()
    );
    NoAddress::Unknown(text)
}

/// One less; a peer without any has no entry.
fn give_back(counts: &mut HashMap<PeerHandle, usize>, peer: PeerHandle) {
    if let Some(count) = counts.get_mut(&peer) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&peer);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Somebody(Rc<Cell<bool>>);

    impl Waiter for Somebody {
        fn is_gone(&self) -> bool {
            self.0.get()
        }
    }

    struct Bench {
        table: Table<Somebody>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                table: Table::default(),
                now: clock::now(),
            }
        }

        fn ask(&mut self, peer: u32, name: &str, since: Option<Instant>) -> Somebody {
            let waiter = Somebody::default();
            let ask = Ask {
                name: name.to_owned(),
                peer: PeerHandle(peer),
                since,
                waiter: waiter.clone(),
            };
            self.table.ask(ask, self.now);
            waiter
        }

        fn started(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.table.start(self.now)).collect()
        }

        fn found(&mut self, name: &str) {
            self.table.found(name.to_owned(), Ok(home()), self.now);
        }

        fn answers(&mut self) -> Vec<Answer> {
            let answers = self.table.answers.drain(..);
            answers.map(|(_, answer)| answer).collect()
        }

        fn pass(&mut self, seconds: f64) {
            self.now += Duration::from_secs_f64(seconds);
            self.table.handle_timeout(self.now);
        }
    }

    fn home() -> Vec<SocketAddr> {
        vec!["127.0.0.1:0".parse().unwrap()]
    }

    #[test]
    fn one_look_up_serves_all_who_want_a_name_and_is_kept_for_ten_seconds() {
        let mut bench = Bench::new();
        for peer in 0..5 {
            bench.ask(peer, "db", None);
        }
        assert_eq!(bench.started(), ["db"]);
        bench.found("db");
        assert_eq!(bench.answers(), vec![Ok(home()); 5]);

        bench.pass(9.9);
        bench.ask(1, "db", None);
        assert_eq!(bench.answers(), [Ok(home())]);
        bench.pass(0.1);
        bench.ask(1, "db", None);
        assert_eq!(
            (bench.answers(), bench.started()),
            (vec![], vec!["db".to_owned()])
        );
    }

    #[test]
    fn a_peer_has_two_places_and_all_have_eight() {
        let mut bench = Bench::new();
        for peer in 0..6 {
            for name in 0..3 {
                bench.ask(peer, &format!("{peer}-{name}"), None);
            }
        }
        let first = ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1", "3-0", "3-1"];
        assert_eq!(bench.started(), first);
        // The place of a look-up that has ended is for the first that waits and whose peer has one free.
        bench.found("3-0");
        assert_eq!(bench.started(), ["3-2"]);
        bench.found("0-1");
        assert_eq!(bench.started(), ["0-2"]);
    }

    #[test]
    fn a_resolver_that_hangs_holds_its_places_and_nobody_waits_for_longer_than_ten_seconds() {
        let mut bench = Bench::new();
        for n in 0..2000 {
            bench.ask(1, "dead", None);
            bench.ask(2, &format!("dead{n}"), None);
        }
        assert_eq!(bench.started().len(), 3);
        let refused = bench.answers();
        assert_eq!(refused.len(), 4000 - 2 * WAITING_OF_PEER);
        assert!(refused.iter().all(|answer| *answer == Err(NoAddress::Busy)));
        // Another peer is not kept waiting.
        bench.ask(3, "db", None);
        assert_eq!(bench.started(), ["db"]);

        bench.pass(10.0);
        let given_up = bench.answers();
        assert_eq!(given_up.len(), 2 * WAITING_OF_PEER + 1);
        assert!(given_up.iter().all(|answer| *answer == Err(silence())));
        // The look-ups still run: no further one begins for the name, and who asks is told at once.
        bench.ask(1, "dead", None);
        assert_eq!(bench.answers(), [Err(silence())]);
        assert!(bench.started().is_empty());
    }

    #[test]
    fn a_stream_that_goes_away_before_its_look_up_begins_gives_its_place_back() {
        let mut bench = Bench::new();
        for n in 0..200 {
            bench.ask(1, &format!("name{n}"), None).0.set(true);
        }
        assert!(bench.started().is_empty());
        assert!(bench.table.waiting.is_empty() && bench.table.running.is_empty());
        bench.ask(1, "db", None);
        assert_eq!(bench.started(), ["db"]);
    }

    #[test]
    fn a_failure_is_repeated_for_three_seconds() {
        let mut bench = Bench::new();
        bench.ask(1, "nowhere", None);
        assert_eq!(bench.started(), ["nowhere"]);
        let unknown = || "Name or service not known".to_owned();
        let found = Err(unknown());
        bench.table.found("nowhere".to_owned(), found, bench.now);
        bench.pass(2.9);
        for _ in 0..1000 {
            bench.ask(1, "nowhere", None);
        }
        assert_eq!(
            bench.answers(),
            vec![Err(NoAddress::Unknown(unknown())); 1001]
        );
        assert!(bench.started().is_empty());
        bench.pass(0.2);
        bench.ask(1, "nowhere", None);
        assert_eq!(bench.started(), ["nowhere"]);
    }

    #[test]
    fn addresses_that_have_failed_are_looked_up_anew_but_not_more_than_once_a_second() {
        let mut bench = Bench::new();
        bench.ask(1, "db", None);
        assert_eq!(bench.started(), ["db"]);
        bench.found("db");
        bench.pass(0.5);
        bench.ask(1, "db", Some(bench.now));
        assert_eq!(bench.answers().len(), 2);
        bench.pass(0.5);
        bench.ask(1, "db", Some(bench.now));
        assert_eq!(bench.started(), ["db"]);
        bench.found("db");
        bench.answers();

        bench.table.forget();
        bench.ask(1, "db", None);
        assert_eq!(bench.started(), ["db"], "the network has changed");
    }
}
