//! What has happened when, for whoever looks into a seed, and how much the tables held.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use punch_engine::{Path, TableSizes};

use crate::machine::Machine;

/// The least that each table held in an hour, and the most.
pub type Hours = Vec<[BTreeMap<&'static str, usize>; 2]>;

/// See the module.
pub(super) struct Chronicle {
    start: Instant,
    paths: [Option<Path>; 2],
    pub(super) hours: Hours,
    pub(super) story: Vec<(f64, String)>,
}

impl Chronicle {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            paths: [None; 2],
            hours: Vec::new(),
            story: Vec::new(),
        }
    }

    /// Something has happened.
    pub(super) fn note(&mut self, text: String, now: Instant) {
        let at = (now - self.start).as_secs_f64();
        self.story.push((at, text));
    }

    /// What carries the machines' packets.
    pub(super) fn see(&mut self, paths: [Option<Path>; 2], now: Instant) {
        for (index, path) in paths.iter().enumerate() {
            if *path != self.paths[index] {
                let text = path.map_or("no path".to_owned(), |path| path.to_string());
                self.note(format!("{index} sends to {text}"), now);
            }
        }
        self.paths = paths;
    }

    /// Notes how much the tables of both machines hold.
    pub(super) fn look_at_tables(&mut self, machines: &[Machine; 2], now: Instant) {
        // A look at the end of an hour is one of it: the end of the day would be an hour of a single look.
        let before = (now - self.start).saturating_sub(Duration::from_nanos(1));
        let hour = before.as_secs() / 3600;
        let hour = usize::try_from(hour).unwrap_or(usize::MAX);
        let mut all = BTreeMap::<&'static str, usize>::new();
        for machine in machines {
            for (name, count) in tables(&machine.engine.table_sizes(), machine.sockets()) {
                *all.entry(name).or_default() += count;
            }
        }
        if self.hours.len() <= hour {
            self.hours.push([all.clone(), all.clone()]);
        }
        if let Some([least, most]) = self.hours.last_mut() {
            for (name, count) in all {
                let low = least.entry(name).or_insert(count);
                *low = count.min(*low);
                let high = most.entry(name).or_insert(count);
                *high = count.max(*high);
            }
        }
    }
}

fn tables(sizes: &TableSizes, sockets: usize) -> [(&'static str, usize); 16] {
    let connector = &sizes.connector;
    [
        ("sockets", sockets),
        ("exchanges of a peer", connector.exchanges),
        ("checks that are remembered", connector.transactions),
        ("sockets of searches", connector.sockets),
        ("frames that wait", connector.frames),
        ("watches that wait", connector.watches),
        ("relay frames that wait", connector.relay_frames),
        ("relay tokens", connector.relay_tokens),
        ("relay links", connector.relay_links),
        ("sessions", sizes.sessions),
        ("flows of this host", sizes.flows),
        ("flows of a grant", sizes.granted_flows),
        ("packets being put together", sizes.fragmented),
        ("data that waits for keys", sizes.held),
        ("steps that wait", sizes.jobs),
        ("trains that wait", sizes.trains),
    ]
}
