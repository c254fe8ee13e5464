//! The overlay addresses that are used: an address that two peers have, or that this machine reaches otherwise, is nobody's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_api::PeerName;
use punch_engine::PeerHandle;
use punch_state::{Difference, Machine, State};

use crate::interface::reach::Taken;

/// An address that was reached otherwise is taken back when it has been free for so long: what flaps must not tear connections
/// apart each time.
const SETTLE: Duration = Duration::from_secs(5);

/// Why an overlay address is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// This machine has it.
    ThisMachine,
    /// Each of these peers has it.
    Shared(Vec<PeerName>),
    /// It is reached otherwise.
    Taken(Taken),
    /// This machine's own address is reached otherwise, so that there is none that packets could come from.
    NoOwn(IpAddr, Taken),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisMachine => f.write_str("it is this machine's own overlay address"),
            Self::Shared(names) => {
                let names: Vec<_> = names.iter().map(PeerName::as_str).collect();
                write!(f, "{} have it both", names.join(" and "))
            }
            Self::Taken(taken) => taken.fmt(f),
            Self::NoOwn(ip, taken) => {
                write!(f, "this machine's own address {ip} is not used: {taken}")
            }
        }
    }
}

struct Contest {
    why: Why,
    free_since: Option<Instant>,
}

/// A change of an address that peers have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) ip: IpAddr,
    /// The peers that have it.
    pub(crate) owners: Vec<PeerName>,
    /// Why it is not used from now on; `None` if it is used again.
    pub(crate) why: Option<Why>,
}

/// What an address is judged by, beside its owners.
pub(crate) struct Judge<'a> {
    /// This machine's own overlay addresses, used or not.
    pub(crate) own: &'a [IpAddr],
    /// How the kernel reaches it.
    pub(crate) reached: &'a dyn Fn(IpAddr) -> Option<Taken>,
    pub(crate) now: Instant,
}

/// Where servers are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Places {
    /// A peer's address that is one of these is not used.
    pub(crate) needed: BTreeSet<IpAddr>,
    /// Overlay addresses that names of STUN servers lead to. A peer's address goes on being used, because DNS answers are not
    /// authenticated, and must not take it away; but no user may choose one of these.
    pub(crate) said: BTreeSet<IpAddr>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Overlay {
    owners: HashMap<IpAddr, BTreeSet<PeerName>>,
    contests: BTreeMap<IpAddr, Contest>,
    /// Why this machine has no IPv4 address inside the tunnel.
    own: Option<Contest>,
    /// Where servers are.
    servers: Places,
    /// Where packets to peers go outside of the tunnel.
    paths: HashMap<PeerHandle, IpAddr>,
    /// How many paths lead to each of those addresses.
    ends: HashMap<IpAddr, u32>,
}

impl Overlay {
    // --- what is known ---

    /// Why this address is not used.
    pub(crate) fn why_not(&self, ip: IpAddr) -> Option<&Why> {
        let contest = self.contests.get(&ip);
        let own = self.own.as_ref().filter(|_| ip.is_ipv4());
        contest.or(own).map(|contest| &contest.why)
    }

    /// Whether some peer has this address, and it is used.
    pub(crate) fn is_used(&self, ip: IpAddr) -> bool {
        let owners = self.owners.get(&ip);
        owners.is_some_and(|owners| !owners.is_empty()) && self.why_not(ip).is_none()
    }

    /// Why this machine has no IPv4 address inside the tunnel although IPv4 is on.
    pub(crate) fn why_no_own(&self) -> Option<&Why> {
        self.own.as_ref().map(|contest| &contest.why)
    }

    /// When an address that was reached otherwise may be used again.
    pub(crate) fn due(&self) -> Option<Instant> {
        let contests = self.contests.values().chain(&self.own);
        contests
            .filter_map(|contest| Some(contest.free_since? + SETTLE))
            .min()
    }

    /// How an address is reached otherwise, as far as that is known here.
    pub(crate) fn needed(&self, ip: IpAddr) -> Option<Taken> {
        if self.servers.needed.contains(&ip) {
            return Some(Taken::Server);
        }
        self.ends.contains_key(&ip).then_some(Taken::Path)
    }

    /// Why no user may choose this address for a peer, as far as that is known here.
    pub(crate) fn refused(&self, ip: IpAddr) -> Option<Taken> {
        let said = self.servers.said.contains(&ip);
        self.needed(ip).or(said.then_some(Taken::Server))
    }

    // --- what happens ---

    /// Servers are at these addresses now; tells which of them matter.
    pub(crate) fn set_servers(&mut self, servers: Places) -> BTreeSet<IpAddr> {
        let before = std::mem::replace(&mut self.servers, servers);
        let changed = before.needed.symmetric_difference(&self.servers.needed);
        let owned = changed.filter(|ip| self.owners.contains_key(ip));
        owned.copied().collect()
    }

    /// Packets to this peer go there now, or nowhere; tells which addresses may matter.
    pub(crate) fn set_path(&mut self, peer: PeerHandle, to: Option<IpAddr>) -> BTreeSet<IpAddr> {
        let before = match to {
            Some(to) => self.paths.insert(peer, to),
            None => self.paths.remove(&peer),
        };
        if let Some(to) = to {
            *self.ends.entry(to).or_default() += 1;
        }
        if let Some(before) = before
            && let Some(count) = self.ends.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.ends.remove(&before);
            }
        }
        let both = [before, to].into_iter().flatten();
        both.filter(|ip| self.owners.contains_key(ip)).collect()
    }

    /// Follows a change of the state; tells the addresses that it touches.
    pub(crate) fn follow(
        &mut self,
        difference: &Difference,
        (before, after): (&State, &State),
        machine: &Machine,
    ) -> BTreeSet<IpAddr> {
        let mut touched = BTreeSet::new();
        let old = difference.renamed.iter().map(|(from, _)| from);
        let old = old.chain(&difference.gone).chain(&difference.changed);
        for name in old {
            let peer = before.peers.get(name);
            for ip in peer
                .map(|peer| peer.addresses(machine.ipv4))
                .unwrap_or_default()
            {
                touched.insert(ip);
                if let Some(owners) = self.owners.get_mut(&ip) {
                    owners.remove(name);
                }
            }
        }
        let new = difference.renamed.iter().map(|(_, to)| to);
        for name in new.chain(&difference.changed) {
            let peer = after.peers.get(name);
            for ip in peer
                .map(|peer| peer.addresses(machine.ipv4))
                .unwrap_or_default()
            {
                touched.insert(ip);
                self.owners.entry(ip).or_default().insert(name.clone());
            }
        }
        touched
    }

    /// Judges these addresses; tells of which the answer is another one now.
    pub(crate) fn judge(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        judge: &Judge<'_>,
    ) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        for ip in addresses {
            let owners = self.owners.get(&ip);
            let owners: Vec<_> = owners.into_iter().flatten().cloned().collect();
            if owners.is_empty() {
                self.owners.remove(&ip);
                self.contests.remove(&ip);
                continue;
            }
            let why = self.reason(ip, &owners, judge);
            let before = self.contests.get_mut(&ip);
            match (before, why) {
                (None, None) => continue,
                (Some(contest), None) => {
                    if !contest.is_over(judge.now) {
                        continue;
                    }
                    self.contests.remove(&ip);
                    verdicts.push(Verdict {
                        ip,
                        owners,
                        why: None,
                    });
                }
                (Some(contest), Some(why)) => {
                    contest.why = why;
                    contest.free_since = None;
                }
                (None, Some(why)) => {
                    let contest = Contest {
                        why: why.clone(),
                        free_since: None,
                    };
                    self.contests.insert(ip, contest);
                    verdicts.push(Verdict {
                        ip,
                        owners,
                        why: Some(why),
                    });
                }
            }
        }
        verdicts
    }

    /// Judges this machine's own IPv4 address; tells whether the answer is another one now.
    pub(crate) fn judge_own(&mut self, judge: &Judge<'_>) -> bool {
        let Some(ip) = judge.own.iter().copied().find(IpAddr::is_ipv4) else {
            return false;
        };
        let taken = self.needed(ip).or_else(|| (judge.reached)(ip));
        if taken.is_none()
            && let Some(contest) = &mut self.own
            && !contest.is_over(judge.now)
        {
            return false;
        }
        let before = self.own.take();
        self.own = taken.map(|taken| Contest {
            why: Why::NoOwn(ip, taken),
            free_since: None,
        });
        before.is_some() != self.own.is_some()
    }

    /// Those of this machine's addresses inside the tunnel that are used.
    pub(crate) fn own_addresses(&self, own: &[IpAddr]) -> Vec<IpAddr> {
        let mut addresses = own.to_vec();
        addresses.retain(|ip| ip.is_ipv6() || self.own.is_none());
        addresses
    }

    /// All addresses that peers have.
    pub(crate) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.owners.keys().copied().collect()
    }

    fn reason(&self, ip: IpAddr, owners: &[PeerName], judge: &Judge<'_>) -> Option<Why> {
        if judge.own.contains(&ip) {
            return Some(Why::ThisMachine);
        }
        if owners.len() > 1 {
            return Some(Why::Shared(owners.to_vec()));
        }
        let taken = self.needed(ip).or_else(|| (judge.reached)(ip));
        taken.map(Why::Taken)
    }
}

impl Contest {
    /// Nothing speaks against the address any more: whether it may be used again. What the user has changed counts at once.
    fn is_over(&mut self, now: Instant) -> bool {
        let since = *self.free_since.get_or_insert(now);
        matches!(self.why, Why::ThisMachine | Why::Shared(_)) || now >= since + SETTLE
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops where it fails")]
mod tests {
    use punch_api::{Ipv4Range, PeerKey};
    use punch_signal_protocol::Identity;
    use punch_state::Peer;

    use super::*;

    fn machine() -> Machine {
        Machine {
            id: Identity::from_seed(&[0; 32]).id(),
            ipv4: Some(Ipv4Range::DEFAULT),
            servers: Vec::new(),
        }
    }

    fn name(text: &str) -> PeerName {
        text.parse().unwrap()
    }

    fn peer(seed: u8) -> Peer {
        Peer::new(PeerKey::Punch {
            key: Identity::from_seed(&[seed; 32]).id(),
            ipv6_only: false,
        })
    }

    fn ipv4(peer: &Peer, range: Ipv4Range) -> IpAddr {
        peer.addresses(Some(range))[0]
    }

    /// The overlay, and what it follows.
    struct World {
        overlay: Overlay,
        machine: Machine,
        state: State,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                overlay: Overlay::default(),
                machine: machine(),
                state: State::default(),
                now: Instant::now(),
            }
        }

        fn change(&mut self, change: impl FnOnce(&mut State)) -> Vec<Verdict> {
            let mut after = self.state.clone();
            change(&mut after);
            let difference = Difference::between(&self.state, &after);
            let states = (&self.state, &after);
            let touched = self.overlay.follow(&difference, states, &self.machine);
            self.state = after;
            self.judge(touched, None)
        }

        fn judge(
            &mut self,
            addresses: impl IntoIterator<Item = IpAddr>,
            taken: Option<IpAddr>,
        ) -> Vec<Verdict> {
            let reached = |ip| (Some(ip) == taken).then_some(Taken::NameServer);
            let judge = Judge {
                own: &self.machine.addresses(),
                reached: &reached,
                now: self.now,
            };
            self.overlay.judge(addresses, &judge)
        }

        fn judge_all(&mut self, taken: Option<IpAddr>) -> Vec<Verdict> {
            let all = self.overlay.addresses();
            self.judge(all, taken)
        }
    }

    fn verdict(ip: IpAddr, owners: &[&str], why: Option<Why>) -> Verdict {
        Verdict {
            ip,
            owners: owners.iter().map(|owner| name(owner)).collect(),
            why,
        }
    }

    #[test]
    fn an_address_that_is_reached_otherwise_is_not_used_until_it_has_been_free_for_a_while() {
        let mut world = World::new();
        let ip = ipv4(&peer(1), Ipv4Range::DEFAULT);
        let added = world.change(|state| drop(state.peers.insert(name("db"), peer(1))));
        assert_eq!(added, []);
        assert_eq!(world.overlay.why_not(ip), None);

        let why = Why::Taken(Taken::NameServer);
        let taken = [verdict(ip, &["db"], Some(why.clone()))];
        assert_eq!(world.judge_all(Some(ip)), taken);
        assert_eq!(world.judge_all(Some(ip)), [], "said once");
        assert_eq!(world.overlay.why_not(ip), Some(&why));

        assert_eq!(world.judge_all(None), []);
        let began = world.now;
        assert_eq!(world.overlay.due(), Some(began + SETTLE));
        world.now += SETTLE / 2;
        assert_eq!(world.judge_all(Some(ip)), [], "it flaps");
        assert_eq!(world.judge_all(None), []);
        world.now += SETTLE - Duration::from_millis(1);
        assert_eq!(world.judge_all(None), []);
        world.now += Duration::from_millis(1);
        assert_eq!(world.judge_all(None), [verdict(ip, &["db"], None)]);
        assert_eq!(
            (world.overlay.why_not(ip), world.overlay.due()),
            (None, None)
        );
    }

    /// In a range that was made smaller two peers have the same address, or one has this machine's.
    #[test]
    fn an_address_that_two_have_is_neithers() {
        let mut world = World::new();
        let range = Ipv4Range::new([10, 7, 3, 0].into(), 24).unwrap();
        world.machine.ipv4 = Some(range);
        let own = machine().id.overlay_ipv4(range);
        let seeds = 1..=u8::MAX;
        let of = |seed: u8| ipv4(&peer(seed), range);
        let (one, two) = seeds
            .clone()
            .flat_map(|one| (1..one).map(move |two| (two, one)))
            .find(|(one, two)| of(*one) == of(*two) && of(*one) != IpAddr::from(own))
            .unwrap();
        let like_us = seeds
            .clone()
            .find(|seed| of(*seed) == IpAddr::from(own))
            .unwrap();
        let verdicts = world.change(|state| {
            for (called, seed) in [("one", one), ("two", two), ("us", like_us)] {
                state.peers.insert(name(called), peer(seed));
            }
        });
        let shared = Why::Shared(vec![name("one"), name("two")]);
        assert_eq!(shared.to_string(), "one and two have it both");
        let mut right = [
            verdict(of(one), &["one", "two"], Some(shared)),
            verdict(own.into(), &["us"], Some(Why::ThisMachine)),
        ];
        right.sort_by_key(|verdict| verdict.ip);
        assert_eq!(verdicts, right);

        // When one of them goes, the other one has it at once.
        let gone = world.change(|state| drop(state.peers.remove(&name("one"))));
        assert_eq!(gone, [verdict(of(two), &["two"], None)]);
    }

    #[test]
    fn a_server_and_the_end_of_a_path_are_needed() {
        let mut world = World::new();
        let ip = ipv4(&peer(1), Ipv4Range::DEFAULT);
        world.change(|state| drop(state.peers.insert(name("db"), peer(1))));
        let elsewhere: IpAddr = "203.0.113.1".parse().unwrap();
        let needed = BTreeSet::from([ip, elsewhere]);
        let touched = world.overlay.set_servers(Places {
            needed,
            ..Places::default()
        });
        assert_eq!(touched, BTreeSet::from([ip]));
        let why = Some(Why::Taken(Taken::Server));
        assert_eq!(world.judge(touched, None), [verdict(ip, &["db"], why)]);

        let touched = world.overlay.set_servers(Places::default());
        assert_eq!(world.judge(touched, None), []);
        let touched = world.overlay.set_path(PeerHandle(9), Some(ip));
        assert_eq!(
            world.judge(touched, None),
            [],
            "another reason, the same answer"
        );
        assert_eq!(world.overlay.why_not(ip), Some(&Why::Taken(Taken::Path)));
    }

    #[test]
    fn what_dns_says_takes_no_address_away_but_no_user_may_choose_it() {
        let mut world = World::new();
        let ip = ipv4(&peer(1), Ipv4Range::DEFAULT);
        world.change(|state| drop(state.peers.insert(name("db"), peer(1))));
        let said = BTreeSet::from([ip]);
        let touched = world.overlay.set_servers(Places {
            said,
            ..Places::default()
        });
        assert_eq!(touched, BTreeSet::new());
        assert_eq!(world.judge_all(None), []);
        assert!(world.overlay.is_used(ip));
        assert_eq!(world.overlay.refused(ip), Some(Taken::Server));
    }

    #[test]
    fn without_an_own_address_no_peer_has_one() {
        let mut world = World::new();
        let own = IpAddr::from(machine().id.overlay_ipv4(Ipv4Range::DEFAULT));
        let ip = ipv4(&peer(1), Ipv4Range::DEFAULT);
        world.change(|state| drop(state.peers.insert(name("db"), peer(1))));
        let judged = |world: &mut World, taken: bool| {
            let reached = |ip| (taken && ip == own).then_some(Taken::NameServer);
            let judge = Judge {
                own: &world.machine.addresses(),
                reached: &reached,
                now: world.now,
            };
            world.overlay.judge_own(&judge)
        };
        assert!(!judged(&mut world, false));
        assert!(judged(&mut world, true));
        assert!(!judged(&mut world, true));
        let why = Why::NoOwn(own, Taken::NameServer);
        assert_eq!(world.overlay.why_not(ip), Some(&why));
        let own_ipv6: IpAddr = machine().id.overlay_ipv6().into();
        assert_eq!(
            world.overlay.own_addresses(&world.machine.addresses()),
            [own_ipv6]
        );
        assert_eq!(world.overlay.why_not(own_ipv6), None);

        assert!(!judged(&mut world, false));
        world.now += SETTLE;
        assert!(judged(&mut world, false));
        assert_eq!(
            world.overlay.own_addresses(&world.machine.addresses()),
            [own, own_ipv6]
        );
    }

    #[test]
    fn a_peer_with_another_name_has_the_same_address() {
        let mut world = World::new();
        let ip = ipv4(&peer(1), Ipv4Range::DEFAULT);
        world.change(|state| drop(state.peers.insert(name("db"), peer(1))));
        world.judge_all(Some(ip));
        let renamed = world.change(|state| {
            let peer = state.peers.remove(&name("db")).unwrap();
            state.peers.insert(name("store"), peer);
        });
        assert_eq!(renamed, []);
        world.now += SETTLE;
        assert_eq!(world.judge_all(None), [verdict(ip, &["store"], None)]);
    }
}
