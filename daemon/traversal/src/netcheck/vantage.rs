//! Nodes of the DHT that stand in for STUN servers, where those are few: each tells as what it sees a socket, at one endpoint, and
//! nothing else. They are asked less than servers, since they are strangers, and there are votes about what they say.

use std::net::SocketAddr;
use std::time::Instant;

use super::{FIRST_TTL, LATE_SAMPLE_DELAY, MAX_SERVERS, Netcheck, Planned, SAMPLES, Server};
use crate::evidence::{Probe, Sample};
use crate::socket::Family;
use crate::votes;

/// Nodes asked in one run.
const MAX_NODES: usize = 8;
/// Samples of theirs that are taken later than the others.
const LATE: usize = 2;

/// The nodes of a run.
#[derive(Debug, Default)]
pub(super) struct Vantage {
    nodes: Vec<SocketAddr>,
    /// Those that are asked if the mapping turns out to be a dependent one.
    spare: Vec<SocketAddr>,
}

/// Asks nodes as if they were further servers of this run.
pub(super) fn ask(run: &mut Netcheck, nodes: &[SocketAddr], now: Instant) {
    let family = run.family;
    let nodes = nodes.iter().copied();
    let nodes = nodes.filter(|node| Family::of(node.ip()) == family);
    for node in nodes.take(MAX_NODES) {
        if run.servers.iter().any(|known| known.check.server == node) {
            continue;
        }
        run.vantage.nodes.push(node);
        let index = run.servers.len();
        if index >= MAX_SERVERS {
            run.vantage.spare.push(node);
            continue;
        }
        run.servers.push(Server::new(node));
        run.ask((index, Probe::Sample(node), SAMPLES), node, now);
        if index == 0 {
            // A second mapping, for the hairpin.
            run.ask((index, Probe::Another, FIRST_TTL), node, now);
        }
    }
}

/// The mapping depends on the destination: asks the nodes that were not asked yet, some of them later. They are booked with the first
/// server.
pub(super) fn ask_spare(run: &mut Netcheck, now: Instant) {
    if run.vantage.spare.is_empty() || !run.is_dependent() {
        return;
    }
    let mut early = std::mem::take(&mut run.vantage.spare);
    let late = early.split_off(early.len().saturating_sub(LATE));
    let tag = |node| (0, Probe::Sample(node), SAMPLES);
    for node in early {
        run.ask(tag(node), node, now);
    }
    for node in late {
        run.plan(now + LATE_SAMPLE_DELAY, Planned::Ask(tag(node), node));
    }
}

/// The samples without those of nodes that are outvoted.
pub(super) fn believed(run: &Netcheck) -> Vec<Sample> {
    let mut samples = run.samples.clone();
    if run.vantage.nodes.is_empty() {
        return samples;
    }
    let mut heard: Vec<(SocketAddr, SocketAddr)> = Vec::new();
    for sample in &samples {
        if !heard.iter().any(|(to, _)| *to == sample.to) {
            heard.push((sample.to, sample.mapped));
        }
    }
    let by_all: Vec<_> = heard.iter().map(|(_, mapped)| *mapped).collect();
    let is_false = |sample: &&Sample| {
        let same = samples.iter().filter(|other| other.local == sample.local);
        let same: Vec<_> = same.map(|other| other.mapped).collect();
        votes::is_outvoted(sample.mapped, &same) || votes::is_elsewhere(sample.mapped, &by_all)
    };
    let of_nodes = samples.iter().filter(|s| run.vantage.nodes.contains(&s.to));
    let liars: Vec<_> = of_nodes.filter(is_false).map(|s| s.to).collect();
    samples.retain(|sample| !liars.contains(&sample.to));
    samples
}
