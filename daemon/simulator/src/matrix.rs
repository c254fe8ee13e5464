//! Every pair of kinds, measured over many seeds: how often they connect, how fast, at what cost.

mod fresh_flows;
mod picture;
mod table;

pub use fresh_flows::{
    FlowCell, flow_table, measure_fresh_flows, must_learn, pace, run_fresh_flows,
};
pub use picture::picture;
pub use table::table;

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::network::{INTERNET, LinkSpec};
use punch_traversal::Budget;

use crate::scenario::{Kind, Place, UnknownKind, world_with};
use crate::world::{Side, World};

/// How long two machines get to connect, unless more is asked for.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Time for logins and STUN before the user says `up`.
const LOGIN_TIME: Duration = Duration::from_secs(6);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seeds per pair; the first is 0.
    pub runs: u32,
    /// What both machines may spend.
    pub budget: Budget,
    /// The chance that a datagram is lost one way, from 0 to 1.
    pub loss: f64,
    /// How long a datagram takes one way.
    pub delay: Duration,
    /// The pairs to measure; all when empty.
    pub pairs: Vec<Pairs>,
    /// How many runs at a time.
    pub threads: usize,
    /// What the machines know when the user says `up`.
    pub begin: Begin,
    /// How long they get to connect.
    pub limit: Duration,
    /// How often another program opens a flow; by default as often as [`pace`] says.
    pub every: Option<Duration>,
}

/// What two machines know when the user says `up`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: the daemons have been started at that moment.
    Cold,
    /// Their NATs, and nothing of each other.
    Measured,
    /// Their NATs, and what an earlier run of the same pair has found to work.
    Warm,
}

impl Default for Options {
    /// 20 runs of every pair with the budget normal, 20 ms and no loss, two at a time.
    fn default() -> Self {
        Self {
            runs: 20,
            budget: Budget::Normal,
            loss: 0.0,
            delay: Duration::from_millis(20),
            pairs: Vec::new(),
            threads: 2,
            begin: Begin::Measured,
            limit: LIMIT,
            every: None,
        }
    }
}

/// Some of the pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// All with this kind, and its places.
    With(Kind),
    /// One pair of kinds.
    Of(Kind, Kind),
}

/// All runs of one pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// A kind; or how two machines of kind `b` are placed: see [`Cell::is_place`].
    pub a: String,
    /// The other kind.
    pub b: String,
    /// How often the pair was tried.
    pub runs: u32,
    /// How often both connected in time.
    pub success: u32,
    /// From `up` until both were connected: half of the successes were as fast.
    pub p50_ms: Option<u64>,
    /// The time within which 95 % of the successes were connected.
    pub p95_ms: Option<u64>,
    /// The most mappings alive at once in any one gateway, successes or not: the median run.
    pub mappings_p50: u64,
    /// Datagrams that both machines sent from `up` to the end of the run: the median run.
    pub packets_p50: u64,
    /// How soon packets flowed over any path, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_reply: Option<FirstReply>,
}

/// How soon the other machine answered over any path, a relay included: all runs of one pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstReply {
    /// In how many runs it did.
    pub runs: u32,
    /// From `up` to the first answered ping: half of these runs were as fast.
    pub p50_ms: Option<u64>,
    /// The time within which 95 % of them were.
    pub p95_ms: Option<u64>,
}

/// What one run gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How long it took until both were connected.
    pub took: Option<Duration>,
    /// The most mappings alive at once in any one gateway.
    pub mappings: usize,
    /// Datagrams that both machines sent since `up`.
    pub packets: u64,
}

/// Why cells cannot be read.
#[derive(Debug)]
pub enum Unreadable {
    /// No JSON, or other fields.
    Json(serde_json::Error),
    /// More successes than runs, or no runs.
    Runs(Box<Cell>),
}

impl Cell {
    /// Summarizes the runs of one pair.
    pub fn new(a: &str, b: &str, outcomes: &[Outcome]) -> Self {
        let times = outcomes.iter().filter_map(|outcome| outcome.took);
        let times: Vec<u64> = times.map(|took| took.as_millis() as u64).collect();
        let mappings: Vec<_> = outcomes.iter().map(|run| run.mappings as u64).collect();
        let packets: Vec<_> = outcomes.iter().map(|run| run.packets).collect();
        Self {
            a: a.to_owned(),
            b: b.to_owned(),
            runs: outcomes.len() as u32,
            success: times.len() as u32,
            p50_ms: percentile(&times, 50),
            p95_ms: percentile(&times, 95),
            mappings_p50: percentile(&mappings, 50).unwrap_or(0),
            packets_p50: percentile(&packets, 50).unwrap_or(0),
            first_reply: None,
        }
    }

    /// Successes in 100 runs.
    pub fn percent(&self) -> f64 {
        100.0 * f64::from(self.success) / f64::from(self.runs.max(1))
    }

    /// Whether `a` is a placement, not a kind.
    pub fn is_place(&self) -> bool {
        self.a.starts_with("same-")
    }

    fn is_of(&self, a: &str, b: &str) -> bool {
        let is_same = self.a == a && self.b == b;
        is_same || !self.is_place() && self.a == b && self.b == a
    }
}

/// The least value that at least `percent` of all do not exceed.
pub fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Adds cells to others; a cell for the same pair takes the older one's place.
pub fn merge(cells: &mut Vec<Cell>, more: Vec<Cell>) {
    for cell in more {
        match cells.iter_mut().find(|old| old.is_of(&cell.a, &cell.b)) {
            Some(old) => *old = cell,
            None => cells.push(cell),
        }
    }
}

/// Cells as JSON: an array of objects with the fields of [`Cell`].
pub fn to_json(cells: &[Cell]) -> Result<String, Unreadable> {
    serde_json::to_string_pretty(cells).map_err(Unreadable::Json)
}

/// Cells from JSON.
pub fn from_json(text: &str) -> Result<Vec<Cell>, Unreadable> {
    let cells: Vec<Cell> = serde_json::from_str(text).map_err(Unreadable::Json)?;
    let is_wrong = |cell: &&Cell| cell.runs == 0 || cell.success > cell.runs;
    match cells.iter().find(is_wrong) {
        Some(wrong) => Err(Unreadable::Runs(Box::new(wrong.clone()))),
        None => Ok(cells),
    }
}

/// All unordered pairs of kinds that share an address family, then the places in which two
/// machines share a gateway.
pub fn places(only: &[Pairs]) -> Vec<Place> {
    let mut places = Vec::new();
    for (index, &a) in Kind::ALL.iter().enumerate() {
        for &b in &Kind::ALL[index..] {
            if (a.has_ipv4() && b.has_ipv4()) || (a.has_ipv6() && b.has_ipv6()) {
                places.push(Place::Apart(a, b));
            }
        }
    }
    let neighbours = [Kind::PortRestricted, Kind::Symmetric];
    places.extend(neighbours.map(Place::SameLan));
    for hairpinning in [false, true] {
        places.extend(neighbours.map(|home| Place::SameCarrier { home, hairpinning }));
    }
    places.retain(|place| only.is_empty() || only.iter().any(|pairs| pairs.has(*place)));
    places
}

/// Both names of a place.
pub fn names(place: Place) -> (&'static str, &'static str) {
    match place {
        Place::Apart(a, b) => (a.name(), b.name()),
        Place::SameLan(kind) => ("same-lan", kind.name()),
        Place::SameCarrier { home, hairpinning } => match hairpinning {
            false => ("same-carrier", home.name()),
            true => ("same-carrier-hairpinning", home.name()),
        },
    }
}

/// Two machines that know what [`Options::begin`] says.
fn begin(place: Place, options: &Options, seed: u64, start: Instant) -> World {
    // Two access lines, and each has its half.
    let link = LinkSpec {
        loss: 1.0 - (1.0 - options.loss).sqrt(),
        delay: options.delay / 2,
        ..LinkSpec::default()
    };
    let fresh = || world_with(place, link, options.budget, seed, start);
    let mut world = fresh();
    if options.begin == Begin::Warm {
        world.run_for(LOGIN_TIME);
        say_up(&mut world, seed);
        world.run_until(options.limit, World::connected);
        let [a, b] = [Side::A, Side::B].map(|side| world.worked(side).to_vec());
        world = fresh();
        world.remember(Side::A, a);
        world.remember(Side::B, b);
    }
    if options.begin != Begin::Cold {
        world.run_for(LOGIN_TIME);
    }
    world
}

/// The first offer decides whose packets come first, which some NATs mind: each side's turn.
fn say_up(world: &mut World, seed: u64) {
    let is_even = seed.is_multiple_of(2);
    world.up(if is_even { Side::A } else { Side::B });
}

/// One run.
pub fn run(place: Place, options: &Options, seed: u64, start: Instant) -> Outcome {
    let mut world = begin(place, options, seed, start);
    let before = world.datagrams();
    say_up(&mut world, seed);
    let took = world.run_until(options.limit, World::connected);
    let network = world.network();
    let gates = network.zones().filter(|zone| *zone != INTERNET);
    let peaks = gates.map(|zone| network.gate(zone).peak());
    Outcome {
        took,
        mappings: peaks.max().unwrap_or(0),
        packets: world.datagrams() - before,
    }
}

/// All runs of all pairs, in the order of [`places`]; the same options give the same cells.
pub fn measure(options: &Options, start: Instant) -> Vec<Cell> {
    let places = places(&options.pairs);
    let done = run_all(&places, options, |place, seed| {
        run(place, options, seed, start)
    });
    let cell = |(place, outcomes): (&Place, &[Outcome])| {
        let (a, b) = names(*place);
        Cell::new(a, b, outcomes)
    };
    let runs = options.runs.max(1) as usize;
    places.iter().zip(done.chunks(runs)).map(cell).collect()
}

/// What each run gives: all seeds of the first place, then those of the next one.
fn run_all<T: Clone + Send>(
    places: &[Place],
    options: &Options,
    one: impl Fn(Place, u64) -> T + Sync,
) -> Vec<T> {
    let runs = options.runs as usize;
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; places.len() * runs]);
    thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some(place) = job.checked_div(runs).and_then(|n| places.get(n)) else {
                        break;
                    };
                    let outcome = one(*place, (job % runs) as u64);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes[job] = Some(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.into_iter().flatten().collect()
}

impl Pairs {
    fn has(self, place: Place) -> bool {
        match (self, place) {
            (Self::With(kind), Place::Apart(a, b)) => a == kind || b == kind,
            (Self::With(kind), Place::SameLan(home) | Place::SameCarrier { home, .. }) => {
                home == kind
            }
            (Self::Of(x, y), Place::Apart(a, b)) => (x, y) == (a, b) || (y, x) == (a, b),
            (Self::Of(..), _) => false,
        }
    }
}

impl FromStr for Pairs {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        match text.split_once(',') {
            Some((a, b)) => Ok(Self::Of(a.trim().parse()?, b.trim().parse()?)),
            None => Ok(Self::With(text.trim().parse()?)),
        }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(error) => write!(
                f,
                "{error}; expected an array of cells as --json writes them"
            ),
            Self::Runs(cell) => write!(
                f,
                "{} and {}: {} successes in {} runs; correct or remove that cell",
                cell.a, cell.b, cell.success, cell.runs
            ),
        }
    }
}

impl std::error::Error for Unreadable {}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn cell(a: &str, b: &str, success: u32) -> Cell {
        let outcome = |n: u32| Outcome {
            took: (n <= success).then(|| Duration::from_millis(100 * u64::from(n))),
            mappings: 7,
            packets: 1000 + u64::from(n),
        };
        Cell::new(a, b, &(1..=20).map(outcome).collect::<Vec<_>>())
    }

    fn options(pairs: &[&str]) -> Options {
        Options {
            runs: 3,
            pairs: pairs.iter().map(|text| text.parse().unwrap()).collect(),
            ..Options::default()
        }
    }

    #[test]
    fn percentiles_are_values_that_occur() {
        let values: Vec<u64> = (1..=20).rev().collect();
        let of = |percent| percentile(&values, percent);
        assert_eq!([0, 50, 95, 100].map(of), [1, 10, 19, 20].map(Some));
        assert_eq!(percentile(&[5], 95), Some(5));
        assert_eq!(percentile(&[5, 6, 7], 50), Some(6));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_cell_counts_all_runs_but_times_only_those_that_connected() {
        let half = cell("open", "symmetric", 10);
        assert_eq!((half.runs, half.success, half.percent()), (20, 10, 50.0));
        assert_eq!((half.p50_ms, half.p95_ms), (Some(500), Some(1000)));
        assert_eq!((half.mappings_p50, half.packets_p50), (7, 1010));
        assert_eq!(cell("open", "open", 0).p50_ms, None);
    }

    #[test]
    fn cells_survive_json() {
        let mut cells = vec![cell("open", "symmetric", 10), cell("same-lan", "open", 0)];
        cells[0].first_reply = Some(FirstReply {
            runs: 20,
            p50_ms: Some(1),
            p95_ms: None,
        });
        let text = to_json(&cells).unwrap();
        assert_eq!(from_json(&text).unwrap(), cells);
        assert!(matches!(from_json("{}"), Err(Unreadable::Json(_))));
        let impossible = text.replace("\"success\": 10", "\"success\": 21");
        assert!(matches!(from_json(&impossible), Err(Unreadable::Runs(_))));
    }

    #[test]
    fn merged_cells_take_the_place_of_the_same_pair_in_either_order() {
        let mut cells = vec![cell("open", "symmetric", 10), cell("same-lan", "open", 1)];
        let more = vec![cell("symmetric", "open", 20), cell("open", "open", 20)];
        merge(&mut cells, more);
        assert_eq!(cells.len(), 3);
        assert_eq!((cells[0].success, cells[1].success), (20, 1));
    }

    #[test]
    fn every_unordered_pair_with_a_common_family_occurs_once() {
        let all = places(&[]);
        // Of 28 kinds; the one with IPv6 alone meets itself and the dual stack.
        assert_eq!(all.len(), 27 * 28 / 2 + 2 + 6);
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len());

        let only = |texts| places(&options(texts).pairs).len();
        assert_eq!(only(&["symmetric,open"]), 1);
        assert_eq!(only(&["symmetric"]), 27 + 3);
        assert_eq!(only(&["symmetric,open", "open,symmetric", "open,open"]), 2);
        assert!("symmetric,cone".parse::<Pairs>().is_err());
    }

    #[test]
    fn easy_pairs_connect_in_every_run_and_the_same_way_each_time() {
        let options = options(&["port-restricted,full-cone", "double-easy,double-easy"]);
        let start = Instant::now();
        let cells = measure(&options, start);
        assert_eq!(cells.len(), 2);
        for cell in &cells {
            assert_eq!((cell.runs, cell.success), (3, 3));
            assert!(cell.p50_ms.unwrap() < 2000 && cell.p50_ms <= cell.p95_ms);
            assert!(cell.mappings_p50 > 0 && cell.packets_p50 > 0);
        }
        assert_eq!(measure(&options, start), cells);
    }

    #[test]
    fn a_pair_connects_cold_and_warm_and_the_warm_one_skips_what_was_in_vain() {
        let start = Instant::now();
        let cell = |begin, pair| {
            let options = Options {
                begin,
                ..options(&[pair])
            };
            let cells = measure(&options, start);
            assert_eq!((cells[0].runs, cells[0].success), (3, 3), "{begin:?}");
            cells[0].p50_ms.unwrap()
        };
        // Cold, the logins and STUN come before the first offer.
        let easy = "port-restricted,full-cone";
        assert!(cell(Begin::Cold, easy) > cell(Begin::Measured, easy));
        let hard = "port-restricted,symmetric-sequential";
        assert!(cell(Begin::Warm, hard) <= cell(Begin::Measured, hard));
    }
}
