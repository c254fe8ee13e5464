//! What the victim sends to whom, and what its tables hold, against the bounds in threat-model.md, part 5.

use std::collections::BTreeMap;
use std::net::IpAddr;

use punch_connect::ServerId;
use punch_engine::TableSizes;
use punch_signal_protocol::PeerId;
use punch_traversal::{Budget, Caps};

use super::program::BEGIN;
use crate::machine::Steps;

/// Checks that a peer can have sent in a second by offers and candidates alone.
const CHECKS_A_SECOND: u64 = 400;
/// Packets that one check from an address brings to it: the answer, and checks.
const ANSWERS_TO_A_CHECK: u64 = 22;

/// TCP streams, and as many UDP flows: one peer may have all, as long as nobody else wants any.
const STREAMS: u64 = 4096;

/// The most that one turn may make a machine do. All streams may have something to say at the same moment, to their clients and to the
/// owner of their targets; a search begins and ends with less.
const MOST: Steps = Steps {
    datagrams: 2 * STREAMS,
    frames: 64,
    jobs: 64,
    events: 3 * STREAMS,
    packets: 64,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Datagrams to whom nobody wants anything from, by address and second.
    strangers: BTreeMap<(IpAddr, u64), u64>,
    /// TCP connections that the victim has made, by address and second.
    dials: BTreeMap<(IpAddr, u64), u64>,
    /// Checks in a stranger's name, by second.
    forged: BTreeMap<u64, u64>,
    /// Frames to the honest server, by second.
    frames: BTreeMap<u64, u64>,
    /// When offers went out, in milliseconds.
    offers: BTreeMap<(ServerId, PeerId), Vec<u64>>,
    offenses: BTreeMap<&'static str, String>,
}

impl Tally {
    pub(super) fn datagram(&mut self, to: IpAddr, second: u64) {
        *self.strangers.entry((to, second)).or_default() += 1;
    }

    /// The victim connects by TCP.
    pub(super) fn dial(&mut self, to: IpAddr, second: u64) {
        *self.dials.entry((to, second)).or_default() += 1;
    }

    /// Whether the victim has connected anywhere by TCP.
    pub(super) fn has_dialled(&self) -> bool {
        !self.dials.is_empty()
    }

    /// The victim gets a check that seems to come from a stranger.
    pub(super) fn forged_check(&mut self, second: u64) {
        *self.forged.entry(second).or_default() += 1;
    }

    pub(super) fn frame(&mut self, second: u64) {
        *self.frames.entry(second).or_default() += 1;
    }

    /// The most frames to the honest server in a second.
    pub(super) fn frames_in_a_second(&self) -> u64 {
        self.frames.values().copied().max().unwrap_or(0)
    }

    pub(super) fn offer(&mut self, server: ServerId, to: PeerId, millis: u64) {
        self.offers.entry((server, to)).or_default().push(millis);
    }

    /// Looks at what tables hold.
    pub(super) fn sizes(&mut self, sizes: &TableSizes, pairs: usize, streams: [u64; 2]) {
        let connector = &sizes.connector;
        // Two attempts for each of two peers, what ends with them, and a search.
        let transactions = 2 * 2 * 1000 * 30;
        for (what, count, bound) in [
            ("exchanges of a peer", connector.exchanges, 2),
            (
                "checks that are remembered",
                connector.transactions,
                transactions,
            ),
            ("sockets of searches", connector.sockets, 2 * 512),
            ("frames that wait", connector.frames, 0),
            ("watches that wait", connector.watches, 4),
            // Two attempts for each of two peers, each with four links, and eight of each peer that are left.
            ("relay tokens", connector.relay_tokens, 2 * 2),
            ("relay frames that wait", connector.relay_frames, 2 * 256),
            ("relay links", connector.relay_links, 2 * 2 * 4 + 32),
            ("TCP connections", connector.tcp_connections, 2 * 2 * 8 + 64),
            ("addresses connected to", connector.dialled, 512),
            ("candidate pairs of an exchange", pairs, 48),
            ("sessions of two peers", sizes.sessions, 2 * 4),
            ("flows of this host", sizes.flows, 8192),
            ("flows of a grant", sizes.granted_flows, 8192),
            ("packets being put together", sizes.fragmented, 64),
            ("data that waits for keys", sizes.held, 64),
            ("steps that wait", sizes.jobs, 0),
            ("trains that wait", sizes.trains, 0),
            ("events that wait", sizes.events, 0),
        ] {
            self.at_most(what, count as u64, bound);
        }
        self.at_most("TCP streams", streams[0], STREAMS);
        self.at_most("UDP flows", streams[1], STREAMS);
    }

    pub(super) fn turns(&mut self, most: Steps) {
        self.at_most("datagrams in a turn", most.datagrams, MOST.datagrams);
        self.at_most("frames in a turn", most.frames, MOST.frames);
        self.at_most("jobs in a turn", most.jobs, MOST.jobs);
        self.at_most("events in a turn", most.events, MOST.events);
        self.at_most("packets in a turn", most.packets, MOST.packets);
    }

    fn at_most(&mut self, what: &'static str, count: u64, bound: u64) {
        if count > bound {
            let text = format!("{what}: {count}, at most {bound}");
            self.offenses.insert(what, text);
        }
    }

    /// The most packets that one address has got within `seconds`.
    pub(super) fn most_within(&self, seconds: u64) -> u64 {
        most_within(&self.strangers, seconds)
    }

    /// The most packets that strangers have got together within `seconds`.
    fn all_within(&self, seconds: u64) -> u64 {
        let mut by_second = BTreeMap::<u64, u64>::new();
        for ((_, second), count) in &self.strangers {
            *by_second.entry(*second).or_default() += count;
        }
        let answers = ANSWERS_TO_A_CHECK;
        let sums = by_second.keys().map(|begin| {
            let sum: u64 = by_second
                .range(*begin..begin + seconds)
                .map(|(_, n)| n)
                .sum();
            let asked: u64 = self.forged.range(..begin + seconds).map(|(_, n)| n).sum();
            sum.saturating_sub(answers * asked)
        });
        sums.max().unwrap_or(0)
    }

    /// By how many the offers to one peer over one server exceed four and one for each three seconds, in the worst span of time
    /// since the program began.
    pub(super) fn offers_beyond(&self) -> usize {
        let begin = u64::try_from(BEGIN.as_millis()).unwrap_or(u64::MAX);
        let mut worst = 0;
        for times in self.offers.values() {
            let times: Vec<u64> = times.iter().copied().filter(|at| *at >= begin).collect();
            for (first, from) in times.iter().enumerate() {
                for (count, at) in times.iter().skip(first).enumerate() {
                    let earned = usize::try_from((at - from) / 3000).unwrap_or(usize::MAX);
                    worst = worst.max((count + 1).saturating_sub(4 + earned));
                }
            }
        }
        worst
    }

    /// All that went beyond a bound.
    pub(super) fn finish(mut self) -> Vec<String> {
        let caps = Caps::of(Budget::Normal);
        let rate = u64::from(caps.rate) + CHECKS_A_SECOND;
        self.at_most(
            "packets to strangers in a second",
            self.all_within(1),
            2 * rate,
        );
        let minute = 2 * u64::from(caps.packets()) + 60 * CHECKS_A_SECOND;
        self.at_most(
            "packets to strangers in a minute",
            self.all_within(60),
            minute,
        );
        // A burst and what comes back within a minute, whichever peers name the address.
        let dials = most_within(&self.dials, 60);
        self.at_most("TCP connections to an address in a minute", dials, 12 + 12);
        let begun = self.dials.iter();
        let all = begun.fold(BTreeMap::new(), |mut all, ((_, second), count)| {
            *all.entry(((), *second)).or_default() += count;
            all
        });
        let dials = most_within(&all, 60);
        self.at_most("TCP connections in a minute", dials, 2 * (24 + 12));
        self.offenses.into_values().collect()
    }
}

/// The most that one of those counted by second has got within `seconds`.
fn most_within<K: Ord + Copy>(counts: &BTreeMap<(K, u64), u64>, seconds: u64) -> u64 {
    let sums = counts.keys().map(|(who, second)| {
        let span = (*who, *second)..(*who, second + seconds);
        counts.range(span).map(|(_, count)| count).sum::<u64>()
    });
    sums.max().unwrap_or(0)
}
