//! Paths that carry packets up to a size, lose some, die for a while and change.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::*;
use crate::start::start;

const RTT: Duration = Duration::from_millis(40);

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(start)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A number that looks like chance (the finalizer of SplitMix64).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// A path that carries packets of up to `limit` bytes, and loses every so manyth check (0: none).
struct Line {
    now: Instant,
    path: PathMtu,
    limit: u16,
    loses_every: u32,
    /// One of so many checks is lost by chance (0: none).
    loses_one_in: u64,
    /// Whether nothing at all gets through.
    dead: bool,
    traffic: bool,
    sent: Vec<(Duration, u16)>,
    changes: Vec<(Duration, u16)>,
    under_way: BTreeMap<Instant, TransactionId>,
}

impl Line {
    fn new(remote: &str, inside: u16, limit: u16) -> Self {
        Self {
            now: origin(),
            path: PathMtu::new(remote.parse().unwrap(), inside, origin()),
            limit,
            loses_every: 0,
            loses_one_in: 0,
            dead: false,
            traffic: false,
            sent: Vec::new(),
            changes: Vec::new(),
            under_way: BTreeMap::new(),
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - origin()
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        let around = Around {
            rtt: Some(RTT),
            answering: !self.dead,
        };
        for turn in 0.. {
            assert!(turn < 1_000_000, "a busy loop at {:?}", self.elapsed());
            if self.traffic {
                self.path.handle_traffic(self.now);
            }
            if self.path.poll_timeout().is_some_and(|at| at <= self.now) {
                let (news, due) = self.path.handle_timeout(around, self.now);
                if news {
                    self.changes.push((self.elapsed(), self.path.proven));
                }
                due.inspect(|due| self.send(*due, around));
            }
            while let Some(entry) = self.under_way.first_entry() {
                if *entry.key() > self.now {
                    break;
                }
                let id = entry.remove();
                if self.path.handle_answer(id, self.now) {
                    self.changes.push((self.elapsed(), self.path.proven));
                }
            }
            let next = [
                self.path.poll_timeout(),
                self.under_way.keys().next().copied(),
                self.traffic.then(|| self.now + secs(1)),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            if next >= end {
                break;
            }
            self.now = self.now.max(next);
        }
        self.now = end;
    }

    fn send(&mut self, due: Due, around: Around) {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&(self.sent.len() as u64).to_be_bytes());
        let id = TransactionId(id);
        let header = usize::from(due.size) - due.payload;
        assert_eq!(header, usize::from(headers(self.path.family)));
        self.sent.push((self.elapsed(), due.size));
        self.path.sent(id, due.size, around, self.now);
        let count = self.sent.len() as u32;
        let chance = mixed(u64::from(count)).checked_rem(self.loses_one_in) == Some(0);
        let lost = chance || self.loses_every > 0 && count.is_multiple_of(self.loses_every);
        if due.size <= self.limit && !lost && !self.dead {
            self.under_way.insert(self.now + RTT, id);
        }
    }
}

#[test]
fn every_size_is_found_with_few_checks() {
    for remote in ["192.0.2.1", "2001:db8::1"] {
        for limit in 1200..=9100 {
            let mut line = Line::new(remote, 9000, limit);
            line.run(secs(30));
            let found = line.path.proven;
            let least = base(line.path.family);
            let most = (9000 + overhead(remote.parse().unwrap())).min(LONGEST);
            let right = (limit / STEP * STEP).clamp(least, most);
            assert_eq!(found, right, "{remote} {limit}");
            assert!(line.sent.len() <= 45, "{limit}: {}", line.sent.len());
            assert!(line.trial_is_over(), "{limit}");
        }
    }
}

impl Line {
    fn trial_is_over(&self) -> bool {
        self.path.trial.is_none()
    }
}

#[test]
fn where_the_tunnel_s_own_packets_fit_one_check_is_enough() {
    for (remote, limit) in [("192.0.2.1", 1492), ("2001:db8::1", 1500)] {
        let mut line = Line::new(remote, 1420, limit);
        line.run(secs(60));
        assert_eq!(line.path.inside(), 1420);
        assert_eq!(line.sent.len(), 1);
        assert_eq!(line.changes[0].0, RTT);
    }
}

#[test]
fn what_the_tunnel_never_sends_is_not_tried() {
    for inside in [0, 576, 1140] {
        let mut line = Line::new("192.0.2.1", inside, 1500);
        line.traffic = true;
        line.run(secs(1300));
        assert_eq!((line.path.inside(), line.sent.len()), (1140, 0));
    }
    assert_eq!(first_mtu("192.0.2.1".parse().unwrap()), 1140);
    assert_eq!(first_mtu("2001:db8::1".parse().unwrap()), 1200);
}

#[test]
fn usual_paths_are_found_fast() {
    for limit in [1492, 1480, 1460, 1420, 1400, 1280] {
        let mut line = Line::new("2001:db8::1", 1420, limit);
        line.run(secs(10));
        assert_eq!(line.path.proven, limit);
        let found = line.changes.last().map_or(Duration::ZERO, |(at, _)| *at);
        assert!(found < secs(4), "{limit}: {found:?}");
    }
}

#[test]
fn checks_that_are_lost_by_chance_change_nothing() {
    for loses_every in 2..6 {
        for limit in [1300, 1480, 1500, 4000] {
            let mut line = Line::new("192.0.2.1", 4000, limit);
            line.loses_every = loses_every;
            line.traffic = true;
            line.run(secs(300));
            let found = line.path.proven;
            assert_eq!(found, limit.min(4060), "{loses_every} {limit}");
            let shrunk = line.changes.windows(2).any(|pair| pair[1].1 < pair[0].1);
            assert!(!shrunk, "{loses_every} {limit}");
        }
    }
}

#[test]
fn a_black_hole_is_noticed_while_packets_flow_and_left_for_what_fits() {
    let mut line = Line::new("192.0.2.1", 1420, 1500);
    line.traffic = true;
    line.run(secs(20));
    assert_eq!(line.path.proven, 1480);
    line.limit = 1300;
    line.run(secs(7));
    let noticed = line.changes.iter().find(|(_, size)| *size == 1200);
    assert!(noticed.unwrap().0 < secs(27), "{:?}", line.changes);
    line.run(secs(10));
    assert_eq!(line.path.proven, 1300);
    // It is over, which is noticed ten minutes after that.
    line.limit = 1500;
    line.run(secs(500));
    assert_eq!(line.path.proven, 1300);
    line.run(secs(120));
    assert_eq!(line.path.proven, 1480);
}

#[test]
fn an_idle_path_is_left_in_peace() {
    let mut line = Line::new("192.0.2.1", 1420, 1400);
    line.run(secs(30));
    let sent = line.sent.len();
    line.run(secs(7200));
    assert_eq!(line.sent.len(), sent);
    // What has been due since then is done when packets flow again.
    line.limit = 1500;
    line.traffic = true;
    line.run(secs(5));
    assert_eq!(line.path.proven, 1480);
}

#[test]
fn a_dead_path_is_no_black_hole() {
    let mut line = Line::new("192.0.2.1", 1420, 1500);
    line.traffic = true;
    line.run(secs(10));
    line.dead = true;
    line.run(secs(60));
    assert_eq!(line.path.proven, 1480);
    line.dead = false;
    line.run(secs(60));
    assert_eq!(line.path.proven, 1480);
    assert_eq!(line.changes.len(), 1, "{:?}", line.changes);
}

#[test]
fn an_outage_during_the_first_search_makes_nothing_too_long() {
    // The second one ends when three checks are out, and before they are judged.
    for outage in [secs(5), Duration::from_millis(800)] {
        for limit in [1500, 1400] {
            let mut line = Line::new("192.0.2.1", 1420, limit);
            line.dead = true;
            line.run(outage);
            line.dead = false;
            line.run(secs(10));
            assert_eq!(line.path.proven, limit.min(1480), "{outage:?}");
        }
    }
}

#[test]
fn an_outage_that_ends_before_it_is_judged_is_no_black_hole() {
    let mut line = Line::new("192.0.2.1", 1420, 1500);
    line.traffic = true;
    line.run(RTT + CONFIRM - Duration::from_millis(10));
    line.dead = true;
    line.run(Duration::from_millis(800));
    line.dead = false;
    line.run(secs(60));
    assert_eq!(line.changes.len(), 1, "{:?}", line.changes);
}

#[test]
fn chance_is_hardly_ever_taken_for_a_black_hole() {
    let mut line = Line::new("192.0.2.1", 1420, 1500);
    (line.traffic, line.loses_one_in) = (true, 5);
    line.run(secs(4 * 3600));
    let falls = line.changes.iter().filter(|(_, size)| *size == 1200);
    assert!(falls.count() <= 2, "{:?}", line.changes);
}

#[test]
fn an_answer_that_comes_after_the_fall_takes_it_back() {
    let mut line = Line::new("192.0.2.1", 1420, 1500);
    line.traffic = true;
    line.run(secs(20));
    line.limit = 1000;
    while line.path.proven != 1200 {
        line.run(Duration::from_millis(100));
    }
    let late = line.sent.iter().rposition(|(_, size)| *size == 1480);
    let mut id = [0; 12];
    id[..8].copy_from_slice(&(late.unwrap() as u64).to_be_bytes());
    assert!(line.path.handle_answer(TransactionId(id), line.now));
    assert_eq!(line.path.proven, 1480);
}

#[test]
fn a_flapping_path_makes_no_flapping_size() {
    let mut line = Line::new("192.0.2.1", 1420, 1500);
    line.traffic = true;
    for turn in 0..240 {
        line.limit = if turn % 2 == 0 { 1500 } else { 1300 };
        line.run(secs(30));
    }
    let falls = line.changes.iter().filter(|(_, size)| *size == 1200);
    assert!(falls.count() <= 12, "{:?}", line.changes);
}

#[test]
fn after_a_change_of_the_network_the_size_is_confirmed_and_more_is_tried() {
    let mut line = Line::new("192.0.2.1", 1420, 1400);
    line.run(secs(30));
    line.limit = 1500;
    line.path.doubt(line.now);
    line.run(secs(3));
    assert_eq!(line.path.proven, 1480);
    line.limit = 1320;
    line.path.doubt(line.now);
    line.run(secs(10));
    assert_eq!(line.path.proven, 1320);
}

#[test]
fn answers_to_what_was_not_asked_prove_nothing() {
    let mut path = PathMtu::new("192.0.2.1".parse().unwrap(), 1420, origin());
    let around = Around {
        rtt: Some(RTT),
        answering: true,
    };
    let (_, due) = path.handle_timeout(around, origin());
    let id = TransactionId([1; 12]);
    path.sent(id, due.unwrap().size, around, origin());
    for n in 2..=255 {
        assert!(!path.owns(TransactionId([n; 12])));
        assert!(!path.handle_answer(TransactionId([n; 12]), origin()));
    }
    assert_eq!(path.inside(), 1140);
    assert!(path.handle_answer(id, origin() + RTT));
    assert_eq!(path.inside(), 1420);
    // Each proves something once.
    assert!(!path.owns(id));
    assert!(!path.handle_answer(id, origin() + RTT));
}

#[test]
fn an_answer_that_comes_late_counts() {
    let mut path = PathMtu::new("192.0.2.1".parse().unwrap(), 1420, origin());
    let around = Around {
        rtt: Some(RTT),
        answering: true,
    };
    let first = TransactionId([1; 12]);
    let (mut now, mut sent) = (origin(), 0_u8);
    // All checks of the longest size are out and given up, and shorter ones are tried.
    while path.trial.is_some_and(|trial| trial.size == 1480) {
        let (_, due) = path.handle_timeout(around, now);
        sent += 1;
        path.sent(TransactionId([sent; 12]), due.unwrap().size, around, now);
        now = path.poll_timeout().unwrap();
    }
    assert_eq!(path.too_long, 1480);
    assert!(path.handle_answer(first, now));
    assert_eq!((path.inside(), path.poll_timeout()), (1420, None));
}
