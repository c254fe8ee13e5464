//! What searches do to other programs behind the same NATs: for every pair, flows that begin meanwhile.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::{LIMIT, Options, begin, names, places, run_all, say_up};
use crate::fresh::Harm;
use crate::scenario::{HardClass, Kind, Place};
use crate::world::{Side, World};

/// How long a pair is watched after `up`: several attempts, with the pauses between them.
const WATCHED: Duration = Duration::from_secs(150);

/// The longest that a mapping of any kind lives.
const EXPIRY: Duration = Duration::from_secs(121);

/// All runs of one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowCell {
    /// A kind, or a placement, as in [`super::Cell`].
    pub a: &'static str,
    /// The other kind.
    pub b: &'static str,
    /// Runs in which both had a path in the end.
    pub connected: u32,
    /// Flows of all runs and both machines.
    pub harm: Harm,
}

/// How often a program may open a flow so that its NAT bears it beside what a search may take; `None` where not even alone.
///
/// Ten a second are what is asked for. They are 120 mappings in a search of 12 s and 300 in one of 30 s, for none expires
/// within the 30 s that it lives at least. In a block of 256 ports three quarters are the search's (192) in 12 s, or a quarter
/// (64) in 30 s; of 400 mappings, 128 in 30 s: there is room for 64, 192 and 272.
pub fn pace(place: Place) -> Option<Duration> {
    let slowest = |kind: Kind| match kind.capacity() {
        _ if kind == Kind::SmallTable => None,
        Some(256) => Some(Duration::from_millis(250)),
        Some(400) => Some(Duration::from_millis(200)),
        _ => Some(Duration::from_millis(100)),
    };
    match place {
        Place::Apart(a, b) => Some(slowest(a)?.max(slowest(b)?)),
        Place::SameLan(kind) | Place::SameCarrier { home: kind, .. } => slowest(kind),
    }
}

/// Whether the first search may use up what a router has: an easy side's probes are entries of a table that is usually large,
/// and that this one is small is learned in that search.
pub fn must_learn(place: Place) -> bool {
    let is_learned = |kind: Kind| kind.capacity().is_some() && kind.class() == HardClass::Easy;
    match place {
        Place::Apart(a, b) => is_learned(a) || is_learned(b),
        Place::SameLan(kind) | Place::SameCarrier { home: kind, .. } => is_learned(kind),
    }
}

/// One run: whether both had a path in the end, and what became of the flows; no flows where [`pace`] allows none. With
/// `learned`, there are none before the mappings of the first search have expired, and none at all unless that one has used up
/// what there is.
pub fn run_fresh_flows(
    place: Place,
    options: &Options,
    learned: bool,
    seed: u64,
    start: Instant,
) -> (bool, Harm) {
    let mut world = begin(place, options, seed, start);
    if learned {
        say_up(&mut world, seed);
        world.run_until(LIMIT, World::is_searching);
        world.run_until(LIMIT, |world| !world.is_searching());
        if ![Side::A, Side::B]
            .into_iter()
            .any(|side| world.has_used_up(side))
        {
            return (world.connected(), Harm::default());
        }
        world.down(Side::A);
        world.down(Side::B);
        world.run_for(EXPIRY);
    }
    if let Some(every) = pace(place).map(|every| options.every.unwrap_or(every)) {
        world.open_fresh_flows(every, false);
    }
    say_up(&mut world, seed);
    world.run_for(WATCHED);
    (world.connected(), harm(&world))
}

/// The flows of both machines, during the same searches.
fn harm(world: &World) -> Harm {
    let flows = world.fresh_flows().into_iter().flatten();
    let all = flows.map(|flows| flows.harm(world.now()));
    let both = all.fold(Harm::default(), Harm::and);
    Harm {
        searches: both.searches / 2,
        ..both
    }
}

/// All runs of all pairs, in the order of [`places`]; the same options give the same cells.
pub fn measure_fresh_flows(options: &Options, start: Instant) -> Vec<FlowCell> {
    let mut places = places(&options.pairs);
    places.retain(|place| pace(*place).is_some());
    let done = run_all(&places, options, |place, seed| {
        run_fresh_flows(place, options, false, seed, start)
    });
    let runs = options.runs.max(1) as usize;
    let cell = |(place, outcomes): (&Place, &[(bool, Harm)])| {
        let (a, b) = names(*place);
        FlowCell {
            a,
            b,
            connected: outcomes
                .iter()
                .map(|(connected, _)| u32::from(*connected))
                .sum(),
            harm: outcomes
                .iter()
                .fold(Harm::default(), |sum, (_, harm)| sum.and(*harm)),
        }
    };
    places.iter().zip(done.chunks(runs)).map(cell).collect()
}

/// The pairs that searched, one in a line, those with the longest gap last; then one line about them all.
pub fn flow_table(cells: &[FlowCell]) -> String {
    let mut cells: Vec<&FlowCell> = cells.iter().filter(|cell| cell.harm.flows > 0).collect();
    cells.sort_by_key(|cell| cell.harm.longest_gap);
    let kinds = cells.iter().flat_map(|cell| [cell.a.len(), cell.b.len()]);
    let wide = kinds.max().unwrap_or(0).max("other".len());
    let mut text = format!(
        "{:<wide$}  {:<wide$}  connected  searches   flows   worked  longest gap\n",
        "one", "other"
    );
    for FlowCell {
        a,
        b,
        connected,
        harm,
    } in &cells
    {
        let _ = writeln!(
            text,
            "{a:<wide$}  {b:<wide$}  {connected:>9}  {:>8}  {:>6}  {:>5.2} %  {:>8} ms",
            harm.searches,
            harm.flows,
            down(harm.percent()),
            harm.longest_gap.as_millis()
        );
    }
    let all = cells
        .iter()
        .fold(Harm::default(), |sum, cell| sum.and(cell.harm));
    let _ = writeln!(
        text,
        "{} pairs searched: {:.2} % of {} flows worked, longest gap {} ms",
        cells.len(),
        down(all.percent()),
        all.flows,
        all.longest_gap.as_millis()
    );
    text
}

/// Never more than was measured: 99.999 % is not 100 %.
fn down(percent: f64) -> f64 {
    (percent * 100.0).floor() / 100.0
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "it is a test"
)]
mod tests {
    use super::*;
    use crate::matrix::Begin;

    #[test]
    fn the_table_has_the_pairs_that_searched_the_worst_last() {
        let cell = |b, flows, worked, gap| FlowCell {
            a: "open",
            b,
            connected: 2,
            harm: Harm {
                searches: 3,
                flows,
                worked,
                longest_gap: Duration::from_millis(gap),
            },
        };
        let cells = [
            cell("symmetric", 400, 398, 200),
            cell("full-cone", 0, 0, 0),
            cell("exclusive-256", 100, 100, 0),
        ];
        let text = flow_table(&cells);
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "one            other          connected  searches   flows   worked  longest gap",
                "open           exclusive-256          2         3     100  100.00 %         0 ms",
                "open           symmetric              2         3     400  99.50 %       200 ms",
                "2 pairs searched: 99.60 % of 500 flows worked, longest gap 200 ms",
            ]
        );
    }

    #[test]
    fn easy_pairs_never_search_and_a_pair_that_searches_is_watched() {
        let start = Instant::now();
        let run = |pair: [Kind; 2], begin| {
            let options = Options {
                begin,
                ..Options::default()
            };
            run_fresh_flows(Place::Apart(pair[0], pair[1]), &options, false, 1, start)
        };
        let easy = [Kind::PortRestricted, Kind::FullCone];
        assert_eq!(run(easy, Begin::Measured), (true, Harm::default()));
        let (connected, harm) = run([Kind::PortRestricted, Kind::Symmetric], Begin::Measured);
        assert!(
            connected && harm.searches == 1 && harm.flows >= 10,
            "{harm:?}"
        );
        assert_eq!(pace(Place::Apart(Kind::Open, Kind::SmallTable)), None);
    }

    /// Without a search, what [`pace`] allows works behind every NAT for as long as a search may last.
    #[test]
    fn every_nat_bears_the_flows_alone() {
        for kind in Kind::ALL {
            let place = Place::Apart(kind, Kind::Open);
            let Some(every) = pace(place) else {
                continue;
            };
            let mut world = begin(place, &Options::default(), 2, Instant::now());
            world.open_fresh_flows(every, true);
            world.run_for(Duration::from_secs(31));
            let harm = harm(&world);
            assert!(harm.flows >= 2 * 31 * 1000 / 250 - 10, "{kind}: {harm:?}");
            assert_eq!(harm.worked, harm.flows, "{kind}: {harm:?}");
        }
    }
}
