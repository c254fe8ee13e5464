//! What follows from the two NATs for single candidates and addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Filtering, Mapping, NatSummary};

use crate::capacity::{self, Caps, is_hard};
use crate::pair::Pair;
use crate::plan;
use crate::search::MappingScope;

/// How long the one who answers lets the other's checks come first: its own would reach the other's NAT before that has a
/// mapping, and some NATs then give the mapping that comes after another port.
const ANSWERER_DELAY: Duration = Duration::from_millis(250);
/// How late an endpoint is checked that a NAT has shown only to the server that saw it: the check costs a mapping, and leads
/// nowhere unless the profile is wrong.
const MOVING_ENDPOINT_DELAY: Duration = Duration::from_secs(2);
/// How long the checks between two NATs wait while one of the two is being measured: what is known then decides which end sends first.
const MEASURING_DELAY: Duration = Duration::from_millis(1500);

/// The NATs of both ends, as far as each has told the other.
#[derive(Debug)]
pub(super) struct Nats {
    mine: Option<NatSummary>,
    theirs: Option<NatSummary>,
    /// Whether this side hears of the other's candidates first, as the one who answers does.
    answers: bool,
    /// When the attempt began.
    began: Instant,
}

impl Nats {
    pub(super) fn new(
        mine: Option<NatSummary>,
        theirs: Option<NatSummary>,
        answers: bool,
        began: Instant,
    ) -> Self {
        Self {
            mine,
            theirs,
            answers,
            began,
        }
    }

    pub(super) fn mine(&self) -> Option<&NatSummary> {
        self.mine.as_ref()
    }

    pub(super) fn theirs(&self) -> Option<&NatSummary> {
        self.theirs.as_ref()
    }

    /// What this side may spend.
    pub(super) fn my_caps(&self) -> Caps {
        let budget = self.mine.as_ref().map(|mine| mine.budget);
        Caps::of(budget.unwrap_or_default())
    }

    /// What the peer may spend.
    pub(super) fn their_caps(&self) -> Caps {
        let budget = self.theirs.as_ref().map(|theirs| theirs.budget);
        Caps::of(budget.unwrap_or_default())
    }

    /// The most mappings that a search of this side may hold.
    pub(super) fn my_limit(&self) -> u32 {
        self.mine.as_ref().map_or(0, capacity::limit)
    }

    /// How many mappings a search of this side makes before it looks whether others still get theirs.
    pub(super) fn first_stage(&self) -> u32 {
        self.mine.as_ref().map_or(0, capacity::first_stage)
    }

    /// What takes one entry in the table of this side's router.
    pub(super) fn mapping_scope(&self) -> MappingScope {
        let mine = self.mine.as_ref();
        MappingScope::of(
            mine.and_then(|mine| mine.mapping),
            mine.and_then(|mine| mine.filtering),
        )
    }

    /// Whether a search may send to this address.
    pub(super) fn may_search(&self, ip: Ipv4Addr) -> bool {
        plan::may_search(self.mine.as_ref(), ip)
    }

    /// The addresses to which a search may send: those of the peer's candidates, and those that its summary names.
    pub(super) fn targets(&self, candidates: impl Iterator<Item = Ipv4Addr>) -> Vec<Ipv4Addr> {
        let theirs = self.theirs.clone().unwrap_or_default();
        plan::targets(self.mine.as_ref(), &theirs, candidates)
    }

    /// Whether the peer's summary names any address.
    pub(super) fn has_addresses(&self) -> bool {
        let theirs = self.theirs.as_ref();
        theirs.is_some_and(|nat| !nat.addresses.is_empty())
    }

    /// Whether the peer's packets may come from other ports than those that it names.
    pub(super) fn is_peer_hard(&self) -> bool {
        self.theirs.as_ref().is_some_and(is_hard)
    }

    /// When a candidate is checked first, and whether packets that do not reach the peer's NAT open this side's before that; `chance`
    /// is that of all checks together.
    pub(super) fn first_check(
        &self,
        candidate: &Candidate,
        chance: f64,
        now: Instant,
    ) -> (Instant, bool) {
        let reflexive = is_reflexive_v4(candidate);
        if reflexive && self.are_measured_now() {
            // A check that comes too early takes from some NATs the very port that it is meant for.
            return (now.max(self.began + MEASURING_DELAY), false);
        }
        if reflexive && self.opens_first() {
            return (now + ANSWERER_DELAY, true);
        }
        if chance < 0.1 && self.is_moving(candidate) {
            return (now + MOVING_ENDPOINT_DELAY, false);
        }
        (now, false)
    }

    /// When those checks follow that have waited for the peer to hear of this side's address, at the end where any do.
    pub(super) fn first_after_naming(&self, now: Instant) -> Option<Instant> {
        let ordered = self.opens_first() && !self.are_measured_now();
        ordered.then(|| now + ANSWERER_DELAY)
    }

    /// Whether this end opens its NAT for the other's checks and lets those come first.
    pub(super) fn opens_first(&self) -> bool {
        self.answers && self.want_order()
    }

    /// Whether packets that do not reach the peer's NAT keep this side's open along a pair, until the peer's own have come.
    pub(super) fn opens_along(&self, pair: &Pair) -> bool {
        let reflexive = pair.kind == CandidateKind::ServerReflexive;
        reflexive && pair.path.remote.is_ipv4() && self.opens_first()
    }

    /// Whether checks between the two NATs arrive in the right order only if one side sends first: both make one mapping for all
    /// destinations, and filter.
    fn want_order(&self) -> bool {
        let filters = |summary: &Option<NatSummary>| {
            summary.as_ref().is_some_and(|nat| {
                nat.mapping == Some(Mapping::EndpointIndependent)
                    && nat.filtering != Some(Filtering::EndpointIndependent)
            })
        };
        filters(&self.mine) && filters(&self.theirs)
    }

    /// Whether an end has said that its NAT is being measured: a new attempt follows when that is done.
    fn are_measured_now(&self) -> bool {
        let mut summaries = [&self.mine, &self.theirs].into_iter().flatten();
        summaries.any(|nat| nat.search.is_some_and(|search| search.measuring))
    }

    /// Whether the peer's NAT shows this endpoint only to the server that saw it.
    fn is_moving(&self, candidate: &Candidate) -> bool {
        is_reflexive_v4(candidate) && self.is_peer_hard()
    }

    /// Further public addresses from which a peer's packets may come: the filter must be open for all of them.
    pub(super) fn siblings(&self, candidate: &Candidate) -> Vec<Ipv4Addr> {
        let theirs = self.theirs.as_ref().filter(|theirs| is_hard(theirs));
        match (theirs, candidate.address.ip()) {
            (Some(theirs), IpAddr::V4(ip)) if candidate.kind == CandidateKind::ServerReflexive => {
                let others = theirs.addresses.iter().copied();
                others
                    .filter(|other| *other != ip && self.may_search(*other))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

fn is_reflexive_v4(candidate: &Candidate) -> bool {
    candidate.kind == CandidateKind::ServerReflexive && candidate.address.is_ipv4()
}

/// Whether the checks of a repeated attempt leave from a fresh socket: only where that has a public endpoint that can be told.
pub fn takes_fresh_base(nat: &NatSummary) -> bool {
    nat.attempt > 0 && nat.mapping == Some(Mapping::EndpointIndependent)
}
