//! Whether packets pass when they must, and what is lost of them while nothing goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use punch_engine::Path;

/// What a fault has brought about may show for so long after packets pass again: TCP to the relay repeats late, and a link or a path that
/// was in doubt is left. No promotion to a direct path may lose a packet all the same.
const SOON: Duration = Duration::from_secs(5);
/// A packet that has not arrived after this is lost.
const LATE: Duration = Duration::from_secs(1);
/// Packets are spread over time, and where some are lost, more may be.
const GRACE: Duration = Duration::from_millis(400);
const GRACE_WITH_LOSS: Duration = Duration::from_secs(4);

/// A probe that is under way.
struct Sent {
    at: Instant,
    from: usize,
    /// It must arrive.
    must: bool,
    /// It was sent so soon after a fault that it may be lost to what that brings about late.
    soon: bool,
    /// What carried each machine's packets then, and of which kind the next path is that does.
    paths: [Option<Path>; 2],
    next: [Option<Way>; 2],
}

impl Sent {
    /// Takes note of what carries the packets now.
    fn see(&mut self, paths: [Option<Path>; 2]) {
        for (index, path) in paths.into_iter().enumerate() {
            if path != self.paths[index] {
                self.next[index].get_or_insert(Way::of(path));
            }
        }
    }

    /// Whether the path that carried it, or the other machine's, was a link that gave way to a direct path. Where another link or nothing
    /// came between, or the sender had no path, it was lost to something else.
    fn is_before_promotion(&self) -> bool {
        let mut ways = self.paths.into_iter().zip(self.next);
        self.paths[self.from].is_some()
            && ways.any(|(path, next)| Way::of(path) == Way::Relay && next == Some(Way::Direct))
    }
}

/// What carries a machine's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    None,
    Relay,
    Direct,
}

impl Way {
    fn of(path: Option<Path>) -> Self {
        match path {
            None => Self::None,
            Some(Path::Relayed(_)) => Self::Relay,
            Some(Path::Direct(_) | Path::Tcp(_)) => Self::Direct,
        }
    }
}

/// What the machines see at the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) now: Instant,
    /// There is a way between the machines, over the relay or direct.
    pub(super) way: bool,
    /// A line loses packets at random.
    pub(super) lossy: bool,
    /// What carries each machine's packets.
    pub(super) paths: [Option<Path>; 2],
}

/// See the module.
pub(super) struct Judge {
    start: Instant,
    every: Duration,
    under_way: BTreeMap<u64, Sent>,
    next: u64,
    /// When each machine has heard something that was sent after `since`.
    heard: [Option<Instant>; 2],
    talking: Option<Instant>,
    /// Nothing has gone wrong since packets have passed both ways.
    settled: bool,
    settled_at: Instant,
    since: Instant,
    bound: Duration,
    /// What has gone wrong since packets passed last.
    causes: BTreeSet<&'static str>,
    had_way: bool,
    accused: bool,
    paths: [Way; 2],
    pub(super) findings: Findings,
}

/// What has come of a day.
#[derive(Debug, Default)]
pub struct Findings {
    /// Packets that came too late or not at all: when, in seconds, and what.
    pub faults: Vec<(f64, String)>,
    /// How long it took until packets passed again, after each kind of fault that came alone.
    pub recoveries: BTreeMap<&'static str, Vec<Duration>>,
    /// Packets that were sent, and those of them that had to arrive.
    pub sent: [u64; 2],
    /// Packets that were lost within five seconds after packets passed again.
    pub late: u64,
    /// How often a machine has gone over from the relay to a direct path while nothing went wrong.
    pub promotions: u64,
}

impl Judge {
    pub(super) fn new(every: Duration, start: Instant) -> Self {
        Self {
            start,
            every,
            under_way: BTreeMap::new(),
            next: 0,
            heard: [None; 2],
            talking: None,
            settled: false,
            settled_at: start,
            since: start,
            bound: Duration::from_secs(20),
            causes: BTreeSet::new(),
            had_way: false,
            accused: false,
            paths: [Way::None; 2],
            findings: Findings::default(),
        }
    }

    /// Something goes wrong, or ends, after which packets must pass again within the bound; `what` is none where they must go on.
    pub(super) fn disturb(&mut self, what: Option<(&'static str, Duration)>, now: Instant) {
        // What is under way may be lost.
        self.under_way
            .values_mut()
            .for_each(|sent| sent.must = false);
        if let Some((name, bound)) = what {
            if self.settled {
                self.bound = Duration::ZERO;
                self.causes.clear();
            }
            if !self.causes.is_empty() {
                self.bound += super::ONE_MORE;
            }
            self.causes.insert(name);
            (self.settled, self.accused) = (false, false);
            self.since = now;
            self.bound = self.bound.max(bound);
            self.heard = [None; 2];
        }
    }

    /// Packets flow from now on, or no longer.
    pub(super) fn talk(&mut self, on: bool, idle: Duration, view: View) {
        let now = view.now;
        self.look_at_way(view);
        self.talking = on.then_some(now);
        if on && !self.settled {
            // Nobody has noticed anything without packets, unless it is long ago.
            if now.saturating_duration_since(self.since) > self.bound + idle {
                self.bound = Duration::ZERO;
            }
            self.since = now;
            self.causes.insert("idle");
        }
        if on {
            self.heard = [None; 2];
        }
    }

    pub(super) fn is_talking(&self) -> bool {
        self.talking.is_some()
    }

    /// When packets must pass, if there is a way.
    fn due(&self) -> Instant {
        if self.settled {
            self.since
        } else {
            self.since + self.bound
        }
    }

    /// The number of the next packet.
    pub(super) fn send(&mut self, from: usize, view: View) -> u64 {
        self.next += 1;
        let must = self.settled && !view.lossy;
        self.findings.sent[0] += 1;
        self.findings.sent[1] += u64::from(must);
        self.under_way.insert(
            self.next,
            Sent {
                at: view.now,
                from,
                must,
                soon: view.now < self.settled_at + SOON,
                paths: view.paths,
                next: [None; 2],
            },
        );
        self.next
    }

    /// A packet has arrived.
    pub(super) fn hear(&mut self, number: u64, now: Instant) {
        if let Some(sent) = self.under_way.remove(&number)
            && sent.at >= self.since
        {
            self.heard[1 - sent.from] = Some(now);
        }
    }

    /// Looks whether all is as it must be; returns whether something is wrong that was not told before.
    pub(super) fn look(&mut self, view: View) -> bool {
        let now = view.now;
        let count = self.findings.faults.len();
        let under_way = self.under_way.values_mut();
        under_way.for_each(|sent| sent.see(view.paths));
        self.look_at_lost(view);
        self.look_at_way(view);
        self.count_promotions(view);
        let Some(talking) = self.talking else {
            return self.findings.faults.len() > count;
        };
        if !self.settled {
            if let [Some(_), Some(_)] = self.heard {
                self.settle(now);
            } else if view.way && self.due() + self.grace(view) < now && !self.accused {
                self.accused = true;
                let text = format!(
                    "nothing for {:?} (at most {:?}) after {:?}; heard {:?}",
                    now - self.since,
                    self.bound,
                    self.causes,
                    self.heard.map(|at| at.is_some())
                );
                self.accuse(text, now);
            }
            return self.findings.faults.len() > count;
        }
        for index in [0, 1] {
            let last = self.heard[index].unwrap_or(talking).max(talking);
            let silence = now.saturating_duration_since(last);
            if silence > self.grace(view) + 2 * self.every {
                let text = format!("{index} hears nothing for {silence:?} while nothing is wrong");
                self.accuse(text, now);
                (self.settled, self.accused) = (false, true);
                self.since = now;
                self.heard = [None; 2];
                break;
            }
        }
        self.findings.faults.len() > count
    }

    fn settle(&mut self, now: Instant) {
        (self.settled, self.settled_at) = (true, now);
        if self.accused {
            self.accused = false;
            let text = format!("packets pass again, {:?} after it", now - self.since);
            self.accuse(text, now);
        }
        let mut causes = self.causes.iter();
        if let (Some(cause), None) = (causes.next(), causes.next()) {
            let took = now - self.since;
            let all = self.findings.recoveries.entry(cause).or_default();
            all.push(took);
        }
        self.causes.clear();
        self.bound = Duration::ZERO;
    }

    fn look_at_lost(&mut self, view: View) {
        while let Some(entry) = self.under_way.first_entry() {
            if entry.get().at + LATE > view.now {
                break;
            }
            let sent = entry.remove();
            if sent.must && !view.lossy {
                if sent.soon && !sent.is_before_promotion() {
                    self.findings.late += 1;
                    continue;
                }
                let before = sent.paths.map(Way::of);
                let text = format!(
                    "a packet of {} is lost: {before:?}, {:?}",
                    sent.from, sent.next
                );
                self.accuse(text, sent.at);
            }
        }
    }

    /// Where there was no way, the bound begins when there is one.
    pub(super) fn look_at_way(&mut self, view: View) {
        if view.way && !self.had_way && !self.settled {
            self.since = self.since.max(view.now);
        }
        self.had_way = view.way;
    }

    fn count_promotions(&mut self, view: View) {
        let ways = view.paths.map(Way::of);
        for index in [0, 1] {
            let promoted = [self.paths[index], ways[index]] == [Way::Relay, Way::Direct];
            self.findings.promotions += u64::from(promoted && self.settled);
        }
        self.paths = ways;
    }

    fn grace(&self, view: View) -> Duration {
        if view.lossy { GRACE_WITH_LOSS } else { GRACE }
    }

    fn accuse(&mut self, text: String, at: Instant) {
        let at = (at - self.start).as_secs_f64();
        self.findings.faults.push((at, text));
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "it is a test")]
mod tests {
    use punch_engine::{DirectPath, RelayPath, ServerId, SocketId};
    use punch_signal_protocol::RelayLink;

    use super::*;

    fn link(number: u32) -> Option<Path> {
        let (server, link) = (ServerId(1), RelayLink(number));
        Some(Path::Relayed(RelayPath { server, link }))
    }

    /// How many packets count as lost to a promotion, and how many soon after a fault: one is lost while the sender's packets
    /// take these paths, half a second after each other, and the other machine stays at its link.
    fn lost(paths: [Option<Path>; 3]) -> (usize, u64) {
        let start = Instant::now();
        let mut judge = Judge::new(Duration::from_millis(100), start);
        (judge.settled, judge.talking) = (true, Some(start));
        for (number, path) in (0_u32..).zip(paths) {
            let view = View {
                now: start + number * Duration::from_millis(500),
                way: true,
                lossy: false,
                paths: [path, link(9)],
            };
            judge.heard = [Some(view.now); 2];
            judge.look(view);
            if number == 0 {
                judge.send(0, view);
            }
        }
        (judge.findings.faults.len(), judge.findings.late)
    }

    #[test]
    fn a_promotion_may_lose_nothing_and_links_that_follow_each_other_after_a_fault_may() {
        let direct = Some(Path::Direct(DirectPath {
            socket: SocketId::MAIN_V4,
            remote: ([192, 0, 2, 1], 7).into(),
        }));
        assert_eq!(lost([link(1), direct, direct]), (1, 0));
        assert_eq!(lost([link(1), link(2), direct]), (0, 1));
        assert_eq!(lost([None, direct, direct]), (0, 1));
    }
}
