//! What to try, cheapest first. Both ends make the same plan from the two summaries that the offer and the
//! answer carry, each from its own side: nothing else needs to be agreed.
//!
//! Ordinary checks are always the first step. Where they cannot be enough, one *search* for ports follows:
//!
//! * one side *holds* mappings from many sockets towards a known endpoint of the other, which *probes* the ports that the
//!   holder's NAT may have given them;
//! * with two NATs whose mappings depend on the destination's port, and one or both of them sequential, they *meet* at
//!   predicted ports;
//! * with two that choose at random, both send from a few sockets to all ports of the other (*birthday*):
//!   P = 1 - exp(-a*b / (Ka*Kb)) for a and b mappings alive and K ports to choose from.

use std::net::Ipv4Addr;
use std::time::Duration;

use punch_signal_protocol::{Allocation, Filtering, MAX_NAT_ADDRESSES, Mapping, NatSummary};

use crate::address::{FIRST_PORT, is_private, usable};
use crate::capacity::{self, Caps, is_hard};
use crate::role::Role;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// Connectivity checks to the addresses that the peer has named (RFC 8445 §6.1.4).
    Checks,
    /// One side holds mappings, the other probes for them.
    HoldAndProbe,
    /// Both send to predicted ports.
    Meet,
    /// Both send to all ports.
    Birthday,
}

/// The ports that the other side's mappings may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// Any port of a range.
    Range {
        /// The lowest port.
        low: u16,
        /// The highest port.
        high: u16,
    },
    /// The ports of a sequence, after the one that the peer will tell.
    After {
        /// The distance from one port to the next.
        step: i16,
        /// How many ports others take per second.
        others: u16,
    },
}

impl Ports {
    fn of(allocation: Option<Allocation>) -> Self {
        match allocation {
            Some(Allocation::Sequential { step, others }) => Self::After { step, others },
            Some(Allocation::Block { low, high }) => Self::Range { low, high },
            _ => Self::Range {
                low: FIRST_PORT,
                high: u16::MAX,
            },
        }
    }

    /// How many ports there are.
    pub(crate) fn count(self) -> u32 {
        match self {
            Self::Range { low, high } => u32::from(high - low) + 1,
            Self::After { .. } => WINDOW,
        }
    }
}

/// TTL of opening packets where it was not measured: past a router or two and a carrier's NAT, short of the peer.
pub(crate) const OPENING_TTL: u8 = 5;
/// Predicted ports that are tried.
pub(crate) const WINDOW: u32 = 128;
/// Mappings that a holder makes whose NAT counts its ports.
pub(crate) const HELD: u32 = 16;
/// Sockets with which both ends of a birthday search send: with one, the pairs of socket and port run out.
const BIRTHDAY_SOCKETS: u16 = 4;
/// How many probes shall be expected to meet a held mapping: the chance that none does is then one in 160,000.
const ENOUGH: f64 = 12.0;
/// A search with a smaller chance is not made: it would harm for nothing.
const WORTH_IT: f64 = 0.05;
/// Seconds that a holder may begin later than its prober: the way of the answer, and the question to a server.
const HOLDER_LAG: f64 = 0.15;
/// Seconds between two rounds of a meeting: waiting, asking where the sequence stands, telling the peer.
const ROUND_PAUSE: f64 = 0.7;
/// Sockets that each end of a meeting sends from.
pub(crate) const MEETING_SOCKETS: u16 = 32;

/// What this side does in a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Make a mapping from each of so many sockets towards the peer's known endpoints.
    Hold {
        /// How many sockets hold a mapping each.
        sockets: u16,
        /// Whether the peer must be told where the sequence stands.
        predict: bool,
    },
    /// Send to the ports that the peer's mappings may have.
    Probe {
        /// The ports to send to.
        ports: Ports,
        /// How long to wait where there are few probes: one that comes before the peer holds anything is lost.
        after: Duration,
    },
    /// Send to predicted ports at which the peer's packets will arrive.
    Meet {
        /// The ports that this side's mappings have.
        mine: Ports,
        /// The ports that the peer's mappings have.
        theirs: Ports,
        /// Whether this side stays at few targets while the other's sequence passes over them, in the first round.
        anchor: bool,
    },
    /// Send from so many sockets to all ports that the peer's mappings may have.
    Birthday {
        /// How many sockets send.
        sockets: u16,
        /// The ports to send to.
        ports: Ports,
    },
}

/// The search that follows on ordinary checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What the step does.
    pub kind: StepKind,
    /// The chance that one attempt finds a path, from 0 to 1.
    pub chance: f64,
    /// NAT mappings that the step may cost on this side.
    pub mappings: u32,
    /// Entries that the step may cost in the table of this side's router: its mappings, or the destinations that are probed from
    /// one of them where the router filters by port.
    pub entries: u32,
    /// Packets that the step may cost on this side.
    pub packets: u32,
    /// How long the step takes in the median, if it succeeds.
    pub typical: Duration,
    /// What this side does.
    pub part: Part,
}

/// Why a search is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// One of the two NATs is not known well enough.
    Unmeasured,
    /// Its chance is too small to be worth the mappings.
    TooUnlikely,
}

/// The chance of ordinary checks, and the search, if one helps.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The chance that checks to known addresses are enough; IPv6 and port mappings come on top.
    pub checks: f64,
    /// The search that follows on the checks, if one helps and may be made.
    pub search: Option<Step>,
    /// The search that would follow, and why it is not made.
    pub withheld: Option<(Step, Withheld)>,
}

/// What the plan takes into account of one side.
#[derive(Debug, Clone, Copy)]
struct Side {
    hard: bool,
    /// Whether the mapping is one for all ports of an address.
    per_address: bool,
    filtering: Filtering,
    ports: Ports,
    addresses: u32,
    caps: Caps,
    /// Mappings that a search may hold.
    limit: u32,
    /// Whether the NAT is known well enough for a search: ports of which too few were seen are not random ones, and where the
    /// mapping is not known every probe could make one.
    measured: bool,
}

impl Side {
    fn of(nat: &NatSummary) -> Self {
        let mapping = nat.mapping.unwrap_or(Mapping::EndpointIndependent);
        Self {
            hard: is_hard(nat),
            per_address: mapping == Mapping::AddressDependent,
            // Where filtering is not known, the strictest kind is assumed; it is also the usual one.
            filtering: nat.filtering.unwrap_or(Filtering::AddressAndPortDependent),
            ports: Ports::of(nat.allocation),
            addresses: u32::try_from(nat.addresses.len().max(1)).unwrap_or(1),
            caps: Caps::of(nat.budget),
            limit: capacity::limit(nat),
            measured: !nat.search.is_some_and(|search| search.measuring)
                && nat.mapping.is_some()
                && (nat.allocation.is_some() || !is_hard(nat)),
        }
    }

    /// Ports times addresses that a mapping may have.
    fn places(&self) -> f64 {
        f64::from(self.ports.count()) * f64::from(self.addresses)
    }

    fn sequential(&self) -> bool {
        matches!(self.ports, Ports::After { .. })
    }

    fn strict(&self) -> bool {
        self.filtering == Filtering::AddressAndPortDependent
    }

    /// Whether a mapping of this side serves whatever port the other side's packets come from.
    fn holds(&self) -> bool {
        self.per_address && !self.strict()
    }

    /// Sockets that hold a mapping each: as many as make the other's probes meet one soon.
    fn holding(&self) -> u32 {
        let wanted = match self.ports {
            Ports::After { .. } => HELD,
            Ports::Range { .. } if self.places() <= 8192.0 => 64,
            Ports::Range { .. } => 256 * self.addresses.min(2),
        };
        // The canaries of the search make mappings, too.
        wanted.min(self.limit.saturating_sub(self.limit / 64 + 4))
    }
}

impl Plan {
    /// The plan of the side whose NAT is `mine`. Without a summary from both sides there are only checks.
    pub fn new(role: Role, mine: Option<&NatSummary>, theirs: Option<&NatSummary>) -> Self {
        let (Some(mine), Some(theirs)) = (mine, theirs) else {
            return Self::checks(0.5);
        };
        let (me, you) = (Side::of(mine), Side::of(theirs));
        let open = |side: &Side| side.filtering == Filtering::EndpointIndependent;
        let step = match (me.hard, you.hard) {
            (false, false) if mine.mapping.is_some() && theirs.mapping.is_some() => {
                return Self::checks(0.99);
            }
            (false, false) => return Self::checks(0.5),
            _ if open(&me) || open(&you) => return Self::checks(0.98),
            // The easy side lets the hard one's check in, whichever port it comes from.
            (true, false) if !you.strict() => return Self::checks(0.98),
            (false, true) if !me.strict() => return Self::checks(0.98),
            (true, false) => hold_and_probe(&me, &you, true),
            (false, true) => hold_and_probe(&you, &me, false),
            // One that maps and filters by address lets every port of the other in, and answers each by the same mapping.
            (true, true) if me.holds() && (!you.holds() || role == Role::Controlled) => {
                hold_and_probe(&me, &you, true)
            }
            (true, true) if you.holds() => hold_and_probe(&you, &me, false),
            (true, true) if me.sequential() || you.sequential() => meet(&me, &you, role),
            (true, true) => birthday(&me, &you),
        };
        Self::search(step, me.measured && you.measured)
    }

    fn checks(chance: f64) -> Self {
        Self {
            checks: chance,
            search: None,
            withheld: None,
        }
    }

    fn search(mut step: Step, measured: bool) -> Self {
        let mut plan = Self::checks(0.0);
        if !measured {
            // A chance that is computed from what is not known means nothing.
            step.chance = 0.0;
            plan.withheld = Some((step, Withheld::Unmeasured));
        } else if step.chance < WORTH_IT {
            plan.withheld = Some((step, Withheld::TooUnlikely));
        } else {
            plan.search = Some(step);
        }
        plan
    }
}

fn hold_and_probe(holder: &Side, prober: &Side, holding: bool) -> Step {
    let sockets = holder.holding();
    let held = f64::from(sockets.max(1));
    let places = holder.places().max(1.0);
    let mut probes = f64::from(prober.caps.packets());
    // Every destination takes room in the prober's table, too, unless it filters by address at the most.
    let by_endpoint = prober.strict() || (prober.hard && !prober.per_address);
    if by_endpoint {
        probes = probes.min(f64::from(prober.limit));
    }
    // More than this would hardly find what so many have not, and the next attempt needs something to spend.
    let enough = (ENOUGH * places / held).ceil();
    probes = probes.min(enough);
    let chance = if sockets == 0 {
        0.0
    } else if holder.sequential() {
        0.98 * probes / enough
    } else {
        1.0 - (1.0 - (held / places).min(1.0)).powf(probes.min(places))
    };
    let preparing = held / f64::from(holder.caps.rate);
    let waiting = if probes < enough && !holder.sequential() {
        preparing + HOLDER_LAG
    } else {
        0.0
    };
    let searching = std::f64::consts::LN_2 * places / held / f64::from(prober.caps.rate);
    let predict = holder.sequential();
    let probes = probes.min(places) as u32;
    Step {
        kind: StepKind::HoldAndProbe,
        chance,
        mappings: match (holding, prober.hard) {
            (true, _) => sockets,
            (false, true) if prober.per_address => holder.addresses,
            (false, true) => probes,
            (false, false) => 1,
        },
        entries: match (holding, by_endpoint) {
            (true, _) => sockets,
            (false, true) => probes,
            (false, false) => holder.addresses,
        },
        packets: if holding { 2 * sockets } else { probes },
        typical: Duration::from_secs_f64(preparing.max(waiting) + searching),
        part: if holding {
            Part::Hold {
                sockets: u16::try_from(sockets).unwrap_or(u16::MAX),
                predict,
            }
        } else {
            Part::Probe {
                ports: holder.ports,
                after: Duration::from_secs_f64(waiting),
            }
        },
    }
}

fn meet(me: &Side, you: &Side, role: Role) -> Step {
    let both = me.sequential() && you.sequential();
    let anchor = if both {
        role == Role::Controlling
    } else {
        !me.sequential()
    };
    let (chance, typical, mappings) = if both {
        let windows = f64::from(me.limit.min(you.limit)) / f64::from(WINDOW);
        let chance = 0.99 * windows.min(1.0);
        (chance, Duration::from_millis(300), 2 * WINDOW)
    } else {
        // The other side's ports are known; this side's share of its own range decides.
        let random = if me.sequential() { you } else { me };
        let round = f64::from(MEETING_SOCKETS) * f64::from(WINDOW);
        let rounds = random.caps.duration.as_secs_f64()
            / (round / f64::from(random.caps.rate) + ROUND_PAUSE);
        let alive = f64::from(random.limit).min(round * rounds);
        let exponent = 0.93 * alive / random.places();
        let half = std::f64::consts::LN_2 * random.places() / f64::from(random.caps.rate);
        let mappings = if me.sequential() {
            // One window a round, for as long as the other side has something to spend.
            f64::from(WINDOW) * (alive / round).ceil()
        } else {
            alive
        } as u32;
        let typical = Duration::from_secs_f64(half);
        (1.0 - (-exponent).exp(), typical, mappings)
    };
    Step {
        kind: StepKind::Meet,
        chance,
        mappings: mappings.min(me.limit),
        entries: mappings.min(me.limit),
        packets: mappings.min(me.limit),
        typical,
        part: Part::Meet {
            mine: me.ports,
            theirs: you.ports,
            anchor,
        },
    }
}

fn birthday(me: &Side, you: &Side) -> Step {
    let pairs = |from: &Side, to: &Side| {
        let all = f64::from(BIRTHDAY_SOCKETS) * to.places();
        let paid = from.limit.min(from.caps.packets());
        all.min(f64::from(paid))
    };
    let (mine, theirs) = (pairs(me, you), pairs(you, me));
    let places = me.places() * you.places();
    let rates = f64::from(me.caps.rate) * f64::from(you.caps.rate);
    Step {
        kind: StepKind::Birthday,
        chance: 1.0 - (-mine * theirs / places).exp(),
        mappings: mine as u32,
        entries: mine as u32,
        packets: mine as u32,
        typical: Duration::from_secs_f64((std::f64::consts::LN_2 * places / rates).sqrt()),
        part: Part::Birthday {
            sockets: BIRTHDAY_SOCKETS,
            ports: you.ports,
        },
    }
}

/// Whether a search may send there. A peer must not make this machine search its own network: private addresses count only
/// where this side's public one is private too, in the eyes of every server that it has asked: one that lies could be the peer's.
pub(crate) fn may_search(mine: Option<&NatSummary>, ip: Ipv4Addr) -> bool {
    let within = || {
        mine.is_some_and(|mine| {
            !mine.addresses.is_empty() && mine.addresses.iter().all(|ip| is_private(*ip))
        })
    };
    usable(ip.into()) && (!is_private(ip) || within())
}

/// The peer's addresses to which a search may send: those of its candidates, and those that its summary names.
pub(crate) fn targets(
    mine: Option<&NatSummary>,
    theirs: &NatSummary,
    candidates: impl Iterator<Item = Ipv4Addr>,
) -> Vec<Ipv4Addr> {
    let mut targets: Vec<Ipv4Addr> = Vec::new();
    for ip in candidates.chain(theirs.addresses.iter().copied()) {
        if may_search(mine, ip) && !targets.contains(&ip) && targets.len() < MAX_NAT_ADDRESSES {
            targets.push(ip);
        }
    }
    targets
}
