//! Why there is no direct path over UDP, and what would help.

use punch_api::{PathKind, PathReason, PathView, PeerName, PeerState};
use punch_engine::{Budget, LinkStatus, NatSummary, Outcome, StepKind, StepReport, is_hard};
use punch_signal_protocol::{Candidate, CandidateKind};

use super::facts::Facts;
use super::reach::{self, Obstacle};
use crate::config::Nat64Setting;

/// What a setting keeps from IPv4, as a clause.
const UNTRANSLATED: &str = "[underlay] nat64 = \"off\" in /etc/punch/punchd.toml keeps this machine from a translator (NAT64) to IPv4";
/// With at least this chance, the first attempt is expected to succeed.
pub(super) const GOOD_CHANCE: f64 = 0.9;

/// What is known of a direct path to a peer, or of one that is looked for.
pub(super) struct Case<'a> {
    name: &'a PeerName,
    link: &'a LinkStatus,
    path: Option<&'a PathView>,
    /// Whether there is no path over UDP, and one is wanted.
    pub(super) apart: bool,
    /// Why no path over UDP can be, if that is known.
    pub(super) unreachable: Option<Obstacle>,
    /// Whether the router here leads a port to this machine.
    mapped: bool,
    /// Whether TCP connections are made and taken here.
    tcp: bool,
    /// Whether relays may carry packets of this peer's.
    relays: bool,
    /// Whether this network has only IPv6, and punchd.toml keeps this machine from a translator that leads to IPv4.
    untranslated: bool,
}

impl<'a> Case<'a> {
    /// The case of a peer whose connection is in this state and whose packets take this path.
    pub(super) fn new(
        facts: &Facts<'_>,
        candidates: &[Candidate],
        (name, state): (&'a PeerName, PeerState),
        (link, path): (&'a LinkStatus, Option<&'a PathView>),
    ) -> Self {
        let mapped = candidates.iter().any(|candidate| {
            candidate.kind == CandidateKind::PortMapped && candidate.address.is_ipv4()
        });
        let apart = is_detour(path) || matches!(state, PeerState::Waiting | PeerState::Connecting);
        Self {
            name,
            link,
            path,
            apart,
            unreachable: reach::obstacle(candidates, link).filter(|_| apart),
            mapped,
            tcp: facts.config.tcp,
            relays: facts.not_relayed(name).is_none(),
            untranslated: facts.config.nat64 == Nat64Setting::Off && are_all_ipv6(candidates),
        }
    }

    /// Why there is no path over UDP, as a clause.
    pub(super) fn clause(&self) -> String {
        let name = self.name;
        if let Some(obstacle) = self.unreachable {
            let reason = obstacle.reason(name);
            return match obstacle {
                Obstacle::NoCommonFamily if self.untranslated => {
                    format!("{reason}, and {UNTRANSLATED}")
                }
                _ => reason,
            };
        }
        let looked_for = match self.path.is_some_and(|path| path.kind == PathKind::Tcp) {
            true => "path over UDP",
            false => "direct path",
        };
        if let Some(search) = search(self.link).and_then(|step| self.of_search(step)) {
            return format!("{}, and {search}", self.hard());
        }
        let checks = self.link.steps.iter();
        let mut checks = checks.filter(|step| step.kind == StepKind::Checks);
        let outcome = checks.next().map(|step| step.outcome);
        let reason = self.path.and_then(|path| path.reason.clone());
        let was_lost = reason.is_some_and(|reason| reason == PathReason::Silent);
        let in_vain =
            matches!(outcome, Some(Outcome::Exhausted | Outcome::Running)) && self.is_in_vain();
        match (was_lost, in_vain) {
            (true, true) => format!(
                "the {looked_for} before did not answer any more, and checks to all known addresses of {name} were in vain since: a firewall may be in the way"
            ),
            (true, false) => {
                format!("the {looked_for} before did not answer any more, and one is looked for")
            }
            (false, true) => format!(
                "checks to all known addresses of {name} were in vain: a firewall may be in the way"
            ),
            (false, false) => format!("a {looked_for} is still being looked for"),
        }
    }

    /// How it stands with the search, if it has not found the path.
    fn of_search(&self, step: &StepReport) -> Option<String> {
        let percent = 100.0 * step.chance;
        Some(match step.outcome {
            Outcome::Found | Outcome::NotNeeded => return None,
            Outcome::Waiting => "a search for ports is about to begin".to_owned(),
            Outcome::Running => {
                format!("a search for ports is under way (chance {percent:.1} %)")
            }
            Outcome::Exhausted => {
                let next = self.link.retry_in.map(|retry| {
                    let seconds = retry.as_secs();
                    format!("; the next attempt begins in {seconds} s")
                });
                let next = next.unwrap_or_default();
                format!("the last search for ports found none (chance {percent:.1} %){next}")
            }
            Outcome::OverBudget => "the next search for ports waits for the budget".to_owned(),
            Outcome::NoSockets => "no socket could be opened for a search for ports".to_owned(),
            Outcome::NoPrediction => "the next ports could not be predicted".to_owned(),
            Outcome::Unmeasured => {
                "no search for ports is made before both NATs are measured".to_owned()
            }
            Outcome::TooUnlikely => format!(
                "a search for ports would find one in {} % of attempts with this budget, so none is made",
                small(percent)
            ),
            Outcome::PortsUsedUp => {
                "the search for ports was stopped because the NAT's ports are used up".to_owned()
            }
            Outcome::Unwatched => {
                "the search for ports was stopped because no STUN server answered".to_owned()
            }
        })
    }

    /// Why ordinary checks are not enough.
    fn hard(&self) -> &'static str {
        let link = self.link;
        let mine = link.mine.as_ref();
        let mine = mine.is_some_and(|mine| is_hard(&mine.summary(link.budget, 0)));
        match (mine, link.theirs.as_ref().is_some_and(is_hard)) {
            (true, true) => "both NATs are hard (each destination gets another port)",
            (true, false) => "the NAT here is hard (each destination gets another port)",
            (false, true) => "the other NAT is hard (each destination gets another port)",
            (false, false) => "ordinary checks are not enough",
        }
    }

    /// What the user could do to get a path over UDP, or one at all.
    pub(super) fn advice(&self) -> Vec<String> {
        let (name, link) = (self.name, self.link);
        let mut advice = Vec::new();
        if self.untranslated && self.apart {
            advice.push(format!(
                "This network has only IPv6, and {UNTRANSLATED}. If the network has one: nat64 = \"auto\" there, then: sudo systemctl restart punchd."
            ));
        }
        if let Some(obstacle) = self.unreachable {
            advice.extend(self.on_obstacle(obstacle));
        }
        let blocked = matches!(
            self.unreachable,
            Some(Obstacle::UdpBlocked { here: true, .. })
        );
        advice.extend(advice_on_servers(link, blocked));
        if !self.apart {
            return advice;
        }
        if self.unreachable.is_none() {
            advice.extend(advice_on_nats(link, self.mapped));
            advice.extend(advice_on_budgets(name, link));
            advice.extend(advice_on_search(name, link));
            if self.is_in_vain() {
                advice.push(format!(
                    "Look whether a firewall here or at {name} keeps UDP out: punchctl netcheck on both."
                ));
            }
        }
        if link.theirs.is_none() && !link.steps.is_empty() {
            advice.push(format!(
                "{name} has told nothing of its NAT: it has no STUN server that answers, has not measured yet, or runs an older version."
            ));
        }
        advice.extend(self.on_relays().map(str::to_owned));
        advice
    }

    /// What carries packets where nothing does and an attempt was in vain.
    fn on_relays(&self) -> Option<&'static str> {
        let mut steps = self.link.steps.iter();
        let in_vain =
            self.link.failures > 0 || steps.any(|step| step.outcome == Outcome::Exhausted);
        let is_said = self.tcp && matches!(self.unreachable, Some(Obstacle::UdpBlocked { .. }));
        (self.path.is_none() && self.relays && in_vain && !is_said).then_some(
            "Until there is a direct path, a machine that both know can relay: punchctl allow NAME --relay there, for each of the two."
        )
    }

    /// Whether there is no search, and all checks have failed.
    fn is_in_vain(&self) -> bool {
        let mut steps = self.link.steps.iter();
        let exhausted = steps.any(|step| step.outcome == Outcome::Exhausted);
        search(self.link).is_none() && (exhausted || self.link.failures > 0)
    }

    fn on_obstacle(&self, obstacle: Obstacle) -> Vec<String> {
        let name = self.name;
        match obstacle {
            Obstacle::UdpBlocked { here, there } => {
                let mut advice = Vec::new();
                if here {
                    advice.push(
                        "Let UDP out of the network here, and its answers back in.".to_owned(),
                    );
                }
                if there {
                    advice.push(format!(
                        "At {name}, let UDP out, and its answers back in; punchctl netcheck there tells whether it passes."
                    ));
                }
                advice.extend(self.on_tcp());
                advice
            }
            Obstacle::NoCommonFamily => vec![
                "Give one of the two machines IPv4 and IPv6: that is enough for both.".to_owned(),
            ],
            Obstacle::NoPublicAddress => vec![
                "Add a STUN server that both machines reach: punchctl server add stun HOST"
                    .to_owned(),
            ],
            Obstacle::NoHairpinning => {
                vec!["Switch on hairpinning (NAT loopback) in the router.".to_owned()]
            }
            Obstacle::ApartBehindOneNat => vec![
                "Switch off client isolation in the network, or switch on hairpinning (NAT loopback) in the router.".to_owned(),
            ],
        }
    }

    /// What leads to a direct path over TCP, unless that is there.
    fn on_tcp(&self) -> Option<String> {
        let name = self.name;
        let (relayed, over_tcp) = self.path.map_or((false, false), |path| {
            (path.via.is_some(), path.kind == PathKind::Tcp)
        });
        if over_tcp {
            return None;
        }
        if !self.tcp {
            return Some(
                "Or allow direct paths over TCP: [punch] tcp = true in /etc/punch/punchd.toml, then: sudo systemctl restart punchd."
                    .to_owned(),
            );
        }
        let relay = match relayed {
            true => "",
            false => {
                " A relay does it too: a signalling server that both use, which relays, or a machine that both know (there: punchctl allow NAME --relay)."
            }
        };
        Some(format!(
            "Or forward the TCP port that punchctl status names, on the router here or at {name}, to that machine: packets then go directly over TCP.{relay}"
        ))
    }
}

/// Whether this machine has addresses, and none of them is of IPv4.
fn are_all_ipv6(candidates: &[Candidate]) -> bool {
    let mut addresses = candidates.iter().map(|candidate| candidate.address);
    !candidates.is_empty() && addresses.all(|address| address.is_ipv6())
}

/// A small number of percent.
pub(super) fn small(percent: f64) -> String {
    match percent {
        percent if percent < 0.005 => "less than 0.01".to_owned(),
        percent => format!("{percent:.2}"),
    }
}

/// Whether packets take another way than over UDP.
pub(super) fn is_detour(path: Option<&PathView>) -> bool {
    path.is_some_and(|path| path.kind == PathKind::Tcp || path.via.is_some())
}

/// `told` is whether it is said already that no UDP passes here.
fn advice_on_servers(link: &LinkStatus, told: bool) -> Vec<String> {
    let mut advice = Vec::new();
    let mine = link.mine.as_ref();
    // Where no server answers, one more would not either; and a run that is under way may still tell.
    let measurable = mine.is_none_or(|mine| {
        let waits = mine.udp_blocked || mine.search.used_up || mine.search.measuring;
        mine.mapping.is_none() && !waits
    });
    if measurable {
        advice.push(
            "Add a STUN server with two addresses, so that the NAT here can be measured: punchctl server add stun HOST"
                .to_owned(),
        );
    }
    if mine.is_some_and(|mine| mine.search.used_up) {
        advice.push(
            "The NAT's ports are used up here: it gives out no new ones. The netcheck is repeated when some are free again."
                .to_owned(),
        );
    }
    if !told && mine.is_some_and(|mine| mine.udp_blocked) {
        advice.push(
            "No STUN server answers here over UDP: the network here blocks it, or none of them runs (punchctl server list)."
                .to_owned(),
        );
    }
    advice
}

/// What makes a search needless where both NATs are hard.
fn advice_on_nats(link: &LinkStatus, mapped: bool) -> Vec<String> {
    let mut advice = Vec::new();
    let mine = link.mine.as_ref();
    let mine_hard = mine.is_some_and(|mine| is_hard(&mine.summary(link.budget, 0)));
    let theirs_hard = link.theirs.as_ref().is_some_and(is_hard);
    if mine_hard && theirs_hard {
        if !mapped {
            advice.push(
                "Switch on UPnP, NAT-PMP or PCP on one of the two routers: with a mapped port, ordinary checks are enough."
                    .to_owned(),
            );
        }
        advice.push("With IPv6 at both ends no search is needed.".to_owned());
    }
    advice
}

fn advice_on_budgets(name: &PeerName, link: &LinkStatus) -> Vec<String> {
    let mut advice = Vec::new();
    // Of a search that waits for what is not known, the chance is none.
    let is_small =
        |step: &StepReport| step.chance < GOOD_CHANCE && step.outcome != Outcome::Unmeasured;
    if !search(link).is_some_and(is_small) {
        return advice;
    }
    let known = link.mine.as_ref().and_then(|mine| {
        let allowed = |budget| mine.allowed(budget);
        Some((
            mine.capacity()?,
            allowed(link.budget),
            allowed(Budget::Aggressive),
        ))
    });
    advice.extend(larger_budget(link.budget, known));
    let theirs = link.theirs.as_ref().map(|nat| nat.budget);
    if let Some(theirs) = theirs.filter(|theirs| *theirs < link.budget) {
        advice.push(format!(
            "{name} has the smaller budget (\"{theirs}\"); both count."
        ));
    }
    advice
}

/// Advises the budget aggressive, if there is more in it. `known` is how many mappings there are, and how many of them a search may
/// hold with `budget` and with aggressive.
fn larger_budget(budget: Budget, known: Option<(u32, u32, u32)>) -> Option<String> {
    let is_larger = known.is_none_or(|(_, now, aggressive)| now < aggressive);
    let makes = match known {
        Some((all, _, aggressive)) => {
            format!("It holds up to {aggressive} of the {all} mappings that the NAT here has.")
        }
        None => "It makes up to 131,072 mappings, which cheap routers may not carry.".to_owned(),
    };
    (budget < Budget::Aggressive && is_larger).then(|| format!(
        "A larger budget raises the chance: [punch] budget = \"aggressive\" in /etc/punch/punchd.toml (now \"{budget}\") at both ends, then: sudo systemctl restart punchd. {makes}"
    ))
}

/// Tells of a search that has come to the end of the ports; `learned` tells whether it is known since how many there are.
fn ports_used_up(learned: bool) -> String {
    let next = if learned {
        " Next time it stays below what was held then."
    } else {
        ""
    };
    format!(
        "The NAT's ports are used up: new flows got no answer while old ones did, so the search has stopped.{next}"
    )
}

/// What it takes before a search is made.
fn advice_on_withheld(name: &PeerName, link: &LinkStatus, step: &StepReport) -> Option<String> {
    let known =
        |nat: &NatSummary| nat.mapping.is_some() && (nat.allocation.is_some() || !is_hard(nat));
    match step.outcome {
        Outcome::Unmeasured => {
            let mine = link.mine.as_ref();
            let measuring = mine.is_some_and(|mine| mine.search.measuring);
            let here = mine.is_some_and(|mine| known(&mine.summary(link.budget, 0)));
            Some(if measuring {
                "The netcheck here is still under way; a new attempt is made as soon as it is finished.".to_owned()
            } else if here {
                format!("The NAT of {name} is not known well enough to search for its ports: its netcheck must finish, with a STUN server that has two addresses and many ports (punch-stun).")
            } else {
                "The NAT here is not known well enough to search for ports: too few samples. It takes a STUN server with two addresses and many ports (punch-stun), or [nat] in punchd.toml.".to_owned()
            })
        }
        Outcome::TooUnlikely => Some(format!(
            "No search is made below a chance of 5 %: with {} % it would take ports from everybody else behind the NATs for nothing.",
            small(100.0 * step.chance)
        )),
        Outcome::PortsUsedUp => {
            let mine = link.mine.as_ref();
            Some(ports_used_up(mine.is_some_and(|mine| mine.search.capacity.is_some())))
        }
        Outcome::Unwatched => Some(
            "No STUN server answered during the search, so nobody could have seen whether it harms others behind the NAT; it has stopped."
                .to_owned(),
        ),
        _ => None,
    }
}

/// What has kept the search from its full chance.
fn advice_on_search(name: &PeerName, link: &LinkStatus) -> Vec<String> {
    let mut advice = Vec::new();
    let Some(step) = search(link) else {
        return advice;
    };
    advice.extend(advice_on_withheld(name, link, step));
    if step.outcome == Outcome::NoPrediction {
        advice.push(
            "The ports could not be predicted: a STUN server did not answer in time, here or there."
                .to_owned(),
        );
    }
    if step.refused_sockets > 0 {
        let effect = if step.outcome == Outcome::NoSockets {
            "it could not begin"
        } else {
            "its chance was smaller than computed"
        };
        advice.push(format!(
            "{} sockets of the search could not be opened, {effect}: raise the limit of open files for punchd.",
            step.refused_sockets
        ));
    }
    if step.outcome == Outcome::OverBudget {
        advice.push(
            "The next search waits: mappings of earlier ones may still be alive at the router, or the last one for this peer has only just ended."
                .to_owned(),
        );
    }
    advice
}

/// The search of the attempt: the step after the ordinary checks.
pub(super) fn search(link: &LinkStatus) -> Option<&StepReport> {
    link.steps.iter().find(|step| step.kind != StepKind::Checks)
}

pub(super) fn in_words(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Checks => "ordinary checks",
        StepKind::HoldAndProbe => "holding ports open on the hard side and probing from the other",
        StepKind::Meet => "meeting at predicted ports",
        StepKind::Birthday => "a birthday search over random ports",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
