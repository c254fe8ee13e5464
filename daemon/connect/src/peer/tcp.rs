//! An attempt's TCP connections, for where UDP does not pass: whom this end connects to and when, and which connection serves.
//!
//! Once checks over UDP have had their time, each end tells the other where it takes connections, and connects to what it has heard of,
//! one address after the other, until one is answered. A connection brings its own checks; before one of them shows that the other end
//! is the peer, nothing else goes over it, and nothing else is taken from it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind, Credentials};
use punch_stun_protocol::Message;
use punch_traversal::{LinkCheck, LinkHealth, LinkUse, Traffic, usable};

use crate::path::TcpPath;

/// Addresses that an attempt connects to.
const MAX_DIALS: usize = 4;
/// Connections of an attempt, made and taken.
const MAX_TCP: usize = 2 * MAX_DIALS;
/// Checks over UDP have this time before TCP is tried.
const PATIENCE: Duration = Duration::from_secs(1);
/// The end that has answered waits longer, so that not both connect.
const ANSWERER: Duration = Duration::from_millis(500);
/// Between connecting to one address and to the next.
const SPACING: Duration = Duration::from_millis(300);
/// A connection takes the place of one that answers, too, if that is slower by a fifth and by so much.
const CLEARLY_SLOWER: Duration = Duration::from_millis(10);

/// What the connections of an attempt are made from.
#[derive(Debug)]
pub(crate) struct TcpConfig {
    /// Whether this machine makes and takes TCP connections.
    pub(super) enabled: bool,
    /// Whether the offer was this machine's.
    pub(super) offered: bool,
    /// Where the peer takes connections, as far as it has said so.
    pub(super) heard: Vec<Candidate>,
    /// Whether it is known that no UDP passes.
    pub(super) udp_blocked: bool,
    /// This end's, and the other's.
    pub(super) credentials: [Credentials; 2],
    pub(super) seed: u64,
}

impl TcpConfig {
    /// How long this end lets the other one go first.
    fn turn(&self) -> Duration {
        match self.offered {
            true => Duration::ZERO,
            false => ANSWERER,
        }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The peer is to hear where this machine takes connections.
    Tell,
    /// This address is to be connected to; [`Tcp::handle_dial`] tells the number.
    Dial(SocketAddr),
}

/// Takes the candidates over TCP out.
pub(super) fn take_tcp(candidates: &mut Vec<Candidate>) -> Vec<Candidate> {
    let is_tcp = |candidate: &mut Candidate| candidate.kind == CandidateKind::TcpPassive;
    candidates.extract_if(.., is_tcp).collect()
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tcp {
    config: TcpConfig,
    /// When the peer is told.
    tell_at: Option<Instant>,
    /// When the next address has its turn.
    dial_at: Instant,
    /// Addresses of the peer's that wait for their turn.
    heard: VecDeque<SocketAddr>,
    /// All that were heard of, to which none is added when there are [`MAX_DIALS`].
    known: Vec<SocketAddr>,
    /// Connections that are being made.
    dials: Vec<TcpPath>,
    links: Vec<Link>,
    /// Connections that are to be closed.
    closing: Vec<TcpPath>,
    chosen: Option<TcpPath>,
    /// Whether a path over UDP serves, or an attempt before this one leads straight to the peer.
    behind: bool,
}

#[derive(Debug)]
struct Link {
    path: TcpPath,
    check: LinkCheck,
    dialled: bool,
}

impl Tcp {
    /// No connection yet.
    pub(super) fn new(mut config: TcpConfig, now: Instant) -> Self {
        let patience = match config.udp_blocked {
            true => Duration::ZERO,
            false => PATIENCE,
        };
        let turn = config.turn();
        let heard = std::mem::take(&mut config.heard);
        let mut tcp = Self {
            tell_at: config.enabled.then_some(now + patience),
            dial_at: now + patience + turn,
            config,
            heard: VecDeque::new(),
            known: Vec::new(),
            dials: Vec::new(),
            links: Vec::new(),
            closing: Vec::new(),
            chosen: None,
            behind: false,
        };
        tcp.handle_candidates(&heard);
        tcp
    }

    // --- what is known ---

    /// The connection that serves, or would.
    pub(super) fn path(&self) -> Option<TcpPath> {
        self.chosen
    }

    /// Whether the connection that serves, or would, is answered.
    pub(super) fn answers(&self) -> bool {
        let health = self.serving().map(|link| link.check.health());
        health == Some(LinkHealth::Answers)
    }

    /// The round trip of the connection that serves, or would.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.serving()?.check.round_trip()
    }

    /// Whether the other end of a connection has shown that it is the peer.
    pub(super) fn is_authentic(&self, path: TcpPath) -> bool {
        let mut links = self.links.iter();
        links.any(|link| link.path == path && link.check.is_heard())
    }

    fn serving(&self) -> Option<&Link> {
        self.links.iter().find(|l| Some(l.path) == self.chosen)
    }

    // --- what comes in ---

    /// The peer takes connections at these addresses, or says so.
    pub(super) fn handle_candidates(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            let address = candidate.address;
            let fits = address.port() != 0 && usable(address.ip());
            let is_new = !self.known.contains(&address) && self.known.len() < MAX_DIALS;
            if self.config.enabled && fits && is_new {
                self.known.push(address);
                self.heard.push_back(address);
            }
        }
    }

    /// The address whose turn it was is being connected to.
    pub(super) fn handle_dial(&mut self, path: TcpPath) {
        self.dials.push(path);
    }

    /// A connection that was to be made stands; returns whether it is still wanted.
    pub(super) fn handle_connected(&mut self, path: TcpPath, now: Instant) -> bool {
        let Some(index) = self.dials.iter().position(|dial| *dial == path) else {
            return false;
        };
        self.dials.remove(index);
        let check = self.check(path, now);
        self.links.push(Link {
            path,
            check,
            dialled: true,
        });
        true
    }

    /// Somebody has connected and sent this: returns whether it is the peer, whose connection is kept then.
    pub(super) fn handle_call(
        &mut self,
        path: TcpPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        if !self.config.enabled || self.links.len() + self.dials.len() >= MAX_TCP {
            return false;
        }
        let mut check = self.check(path, now);
        check.handle_message(message, now);
        let is_peer = check.is_heard();
        if is_peer {
            self.links.push(Link {
                path,
                check,
                dialled: false,
            });
            self.choose(now);
        }
        is_peer
    }

    /// A connection has ended, or could not be made; returns whether it was one of these.
    pub(super) fn handle_closed(&mut self, path: TcpPath, now: Instant) -> bool {
        let before = self.links.len() + self.dials.len();
        self.links.retain(|link| link.path != path);
        self.dials.retain(|dial| *dial != path);
        self.choose(now);
        self.links.len() + self.dials.len() < before
    }

    /// A message has come; returns whether it is a check or an answer of the peer's, over one of these connections.
    pub(super) fn handle_message(
        &mut self,
        path: TcpPath,
        message: &Message<'_>,
        now: Instant,
    ) -> bool {
        let mut links = self.links.iter_mut();
        let Some(link) = links.find(|link| link.path == path) else {
            return false;
        };
        let taken = link.check.handle_message(message, now);
        if taken {
            self.choose(now);
        }
        taken
    }

    /// A packet of the peer's has come over a connection, opened by its session's keys.
    pub(super) fn handle_heard(&mut self, path: TcpPath, now: Instant) {
        let mut links = self.links.iter_mut();
        if let Some(link) = links.find(|link| link.path == path) {
            link.check.handle_heard(now);
        }
    }

    /// Packets of the tunnel go over the connection that serves: so many bytes by now.
    pub(super) fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        let mut links = self.links.iter_mut();
        if let Some(link) = links.find(|link| Some(link.path) == self.chosen) {
            link.check.handle_traffic(traffic, now);
        }
    }

    /// Whether a path over UDP serves now, or an attempt before this one leads straight to the peer: nothing is connected to meanwhile.
    pub(super) fn set_behind(&mut self, behind: bool, now: Instant) {
        if self.behind != behind {
            self.behind = behind;
            match behind {
                true => self.give_up_others(),
                false => self.dial_at = self.dial_at.max(now + self.config.turn()),
            }
            self.assign(now);
        }
    }

    /// The network or this machine's time is another: each connection is to show that it still stands.
    pub(super) fn verify(&mut self, now: Instant) {
        for link in &mut self.links {
            link.check.verify(now);
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for link in &mut self.links {
            link.check.handle_timeout(now);
        }
        let dead = |link: &mut Link| link.check.health() == LinkHealth::Dead;
        let dead = self.links.extract_if(.., dead).map(|link| link.path);
        self.closing.extend(dead);
        self.choose(now);
    }

    // --- what goes out ---

    /// What is due now, once.
    pub(super) fn poll_due(&mut self, now: Instant) -> Option<Due> {
        if self.behind {
            return None;
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            return Some(Due::Tell);
        }
        if self.chosen.is_some() || self.dial_at > now {
            return None;
        }
        let address = self.heard.pop_front()?;
        self.dial_at = now + SPACING;
        Some(Due::Dial(address))
    }

    /// The next check or answer, and the connection that it goes over.
    pub(super) fn poll_message(&mut self) -> Option<(TcpPath, Vec<u8>)> {
        let mut links = self.links.iter_mut();
        links.find_map(|link| Some((link.path, link.check.poll_message()?)))
    }

    /// The next connection that is to be closed.
    pub(super) fn poll_closing(&mut self) -> Option<TcpPath> {
        self.closing.pop()
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_due`] want to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let checks = self
            .links
            .iter()
            .filter_map(|link| link.check.poll_timeout());
        let dials = !self.behind && self.chosen.is_none() && !self.heard.is_empty();
        let dial_at = dials.then_some(self.dial_at);
        let tell_at = self.tell_at.filter(|_| !self.behind);
        checks.chain(dial_at).chain(tell_at).min()
    }

    /// All connections, which are to be closed, and whether the peer has been heard over each.
    pub(super) fn into_connections(self) -> Vec<(TcpPath, bool)> {
        let links = self.links.into_iter();
        let links = links.map(|link| (link.path, link.check.is_heard()));
        let others = self.dials.into_iter().chain(self.closing);
        links.chain(others.map(|path| (path, false))).collect()
    }

    // --- inside ---

    fn check(&self, path: TcpPath, now: Instant) -> LinkCheck {
        let seed = self.config.seed.wrapping_add(u64::from(path.connection.0));
        LinkCheck::over_stream(self.config.credentials.clone(), path.remote, seed, now)
    }

    /// Chooses the best connection of those that were answered; the one that was chosen stays unless another one is clearly better.
    fn choose(&mut self, now: Instant) {
        let worth = |link: &Link| {
            let rtt = link.check.round_trip().unwrap_or(Duration::MAX);
            (link.check.health(), rtt)
        };
        let answered = self.links.iter().filter(|link| link.check.has_answered());
        let best = answered.min_by_key(|link| worth(link));
        let stays = match (best, self.serving()) {
            (Some(best), Some(current)) => {
                let ((best, faster), (health, rtt)) = (worth(best), worth(current));
                best == health && rtt <= faster.saturating_mul(6) / 5 + CLEARLY_SLOWER
            }
            _ => false,
        };
        let best = best.map(|link| link.path);
        if !stays && best != self.chosen {
            let is_first = self.chosen.is_none();
            self.chosen = best;
            if is_first {
                self.give_up_others();
            }
        }
        self.assign(now);
    }

    /// Closes what this end was connecting to beside the connection that has been answered first.
    fn give_up_others(&mut self) {
        self.closing.append(&mut self.dials);
        let chosen = self.chosen;
        let idle = |link: &mut Link| {
            link.dialled && Some(link.path) != chosen && !link.check.has_answered()
        };
        let idle = self.links.extract_if(.., idle).map(|link| link.path);
        self.closing.extend(idle);
    }

    /// Tells each connection what it is there for.
    fn assign(&mut self, now: Instant) {
        for link in &mut self.links {
            let role = match (self.behind, Some(link.path) == self.chosen) {
                (true, _) => LinkUse::Behind,
                (false, true) => LinkUse::Serves,
                (false, false) => LinkUse::Spare,
            };
            link.check.set_use(role, now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::path::TcpId;
    use crate::start::start;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn address(host: u8) -> SocketAddr {
        ([198, 51, 100, host], 41_820).into()
    }

    fn passive(host: u8) -> Candidate {
        Candidate::new(CandidateKind::TcpPassive, address(host))
    }

    /// What has arrived at an end.
    enum Arrival {
        Connected(TcpPath),
        Message(TcpPath, Vec<u8>),
        Closed(TcpPath),
    }

    /// Two ends, and a network that takes 20 ms from one to the other.
    struct Rig {
        ends: [Tcp; 2],
        /// What each tells, and of all that the addresses at which the other end really listens.
        candidates: [Vec<Candidate>; 2],
        listening: BTreeSet<SocketAddr>,
        /// Addresses at which somebody else listens, who says nothing.
        strangers: BTreeSet<SocketAddr>,
        /// Whether the other end has taken a connection.
        taken: BTreeMap<TcpId, bool>,
        under_way: BTreeMap<(Instant, u64), (usize, Arrival)>,
        /// Each dial, when and by whom.
        dials: Vec<(Duration, usize, SocketAddr)>,
        /// Messages to strangers.
        strange: Vec<Vec<u8>>,
        cut: BTreeSet<TcpId>,
        count: u64,
        began: Instant,
        now: Instant,
    }

    impl Rig {
        fn new(edit: impl Fn(&mut TcpConfig)) -> Self {
            let credentials = [3, 4].map(|byte| Credentials {
                fragment: [byte; 8],
                password: [byte; 32],
            });
            let [one, two] = credentials;
            let began = start();
            let end = |credentials: [Credentials; 2], offered: bool| {
                let mut config = TcpConfig {
                    enabled: true,
                    offered,
                    heard: Vec::new(),
                    udp_blocked: false,
                    credentials,
                    seed: u64::from(offered),
                };
                edit(&mut config);
                Tcp::new(config, began)
            };
            Self {
                ends: [
                    end([one.clone(), two.clone()], true),
                    end([two, one], false),
                ],
                candidates: [Vec::new(), Vec::new()],
                listening: BTreeSet::new(),
                strangers: BTreeSet::new(),
                taken: BTreeMap::new(),
                under_way: BTreeMap::new(),
                dials: Vec::new(),
                strange: Vec::new(),
                cut: BTreeSet::new(),
                count: 0,
                began,
                now: began,
            }
        }

        /// The end of this number takes connections there.
        fn listens(&mut self, end: usize, host: u8) {
            self.candidates[end].push(passive(host));
            self.listening.insert(address(host));
        }

        fn arrive(&mut self, delay: Duration, end: usize, arrival: Arrival) {
            self.count += 1;
            self.under_way
                .insert((self.now + delay, self.count), (end, arrival));
        }

        fn paths(&self) -> [Option<u32>; 2] {
            [0, 1].map(|end: usize| self.ends[end].path().map(|path| path.connection.0))
        }

        fn give(&mut self, end: usize) {
            while let Some(due) = self.ends[end].poll_due(self.now) {
                match due {
                    Due::Tell => {
                        let told = self.candidates[end].clone();
                        self.ends[1 - end].handle_candidates(&told);
                    }
                    Due::Dial(remote) => {
                        let connection = TcpId(self.dials.len() as u32);
                        let path = TcpPath { connection, remote };
                        self.dials.push((self.now - self.began, end, remote));
                        self.ends[end].handle_dial(path);
                        if self.listening.contains(&remote) || self.strangers.contains(&remote) {
                            self.arrive(ms(40), end, Arrival::Connected(path));
                        }
                    }
                }
            }
            while let Some((path, message)) = self.ends[end].poll_message() {
                if self.strangers.contains(&path.remote) {
                    self.strange.push(message);
                } else if !self.cut.contains(&path.connection) {
                    self.arrive(ms(20), 1 - end, Arrival::Message(path, message));
                }
            }
            while let Some(path) = self.ends[end].poll_closing() {
                self.arrive(ms(20), 1 - end, Arrival::Closed(path));
            }
        }

        fn take(&mut self, end: usize, arrival: Arrival) {
            let now = self.now;
            match arrival {
                Arrival::Connected(path) => {
                    self.ends[end].handle_connected(path, now);
                }
                Arrival::Closed(path) => {
                    self.ends[end].handle_closed(path, now);
                }
                Arrival::Message(path, bytes) => {
                    let message = Message::parse(&bytes).unwrap();
                    let is_known = self.taken.contains_key(&path.connection)
                        || !self.ends[end].links.iter().all(|link| link.path != path);
                    if is_known {
                        self.ends[end].handle_message(path, &message, now);
                    } else {
                        assert!(self.ends[end].handle_call(path, &message, now));
                        self.taken.insert(path.connection, true);
                    }
                }
            }
        }

        fn run(&mut self, span: Duration) {
            let end = self.now + span;
            loop {
                [0, 1].into_iter().for_each(|end| self.give(end));
                let arrival = self.under_way.keys().next().map(|(at, _)| *at);
                let due = self.ends.iter().filter_map(Tcp::poll_timeout);
                let next = due.chain(arrival).min().unwrap_or(end);
                if next >= end {
                    break;
                }
                self.now = next.max(self.now);
                while let Some(entry) = self.under_way.first_entry() {
                    if entry.key().0 > self.now {
                        break;
                    }
                    let (index, arrival) = entry.remove();
                    self.take(index, arrival);
                }
                for end in &mut self.ends {
                    end.handle_timeout(self.now);
                }
            }
            self.now = end;
        }
    }

    #[test]
    fn whoever_hears_of_an_address_connects_after_a_second_and_the_connection_serves_both() {
        for listens in [0, 1] {
            let mut rig = Rig::new(|_| {});
            rig.listens(listens, 9);
            rig.run(ms(950));
            assert_eq!(rig.dials, []);
            rig.run(ms(1000));
            assert_eq!(rig.paths(), [Some(0), Some(0)]);
            let turn = ms(1000 + 500 * (1 - listens as u64));
            assert_eq!(rig.dials, [(turn, 1 - listens, address(9))]);
            assert!(rig.ends.iter().all(Tcp::answers));
            assert_eq!(rig.ends[0].round_trip(), Some(ms(40)));
        }
    }

    #[test]
    fn where_both_take_connections_one_is_made() {
        let mut rig = Rig::new(|_| {});
        rig.listens(0, 8);
        rig.listens(1, 9);
        rig.run(Duration::from_secs(3600));
        assert_eq!(rig.dials.len(), 1);
        assert_eq!(rig.paths(), [Some(0), Some(0)]);
    }

    #[test]
    fn whoever_knows_that_udp_is_blocked_does_not_wait() {
        let mut rig = Rig::new(|config| config.udp_blocked = true);
        rig.listens(1, 9);
        rig.run(ms(200));
        assert_eq!(rig.paths(), [Some(0), Some(0)]);
    }

    #[test]
    fn four_addresses_are_tried_in_turn_until_one_answers_and_the_rest_is_left() {
        let mut rig = Rig::new(|_| {});
        rig.candidates[1] = [1, 2, 3].map(passive).to_vec();
        rig.listens(1, 4);
        rig.listens(1, 5);
        rig.run(Duration::from_secs(60));
        let times: Vec<_> = rig.dials.iter().map(|(at, ..)| *at).collect();
        assert_eq!(times, [ms(1000), ms(1300), ms(1600), ms(1900)]);
        assert_eq!(rig.paths(), [Some(3), Some(3)]);
        assert!(rig.ends[0].dials.is_empty() && rig.ends[0].links.len() == 1);
    }

    #[test]
    fn a_stranger_gets_one_check_and_is_closed_after_five_seconds() {
        let mut rig = Rig::new(|_| {});
        rig.candidates[1].push(passive(25));
        rig.strangers.insert(address(25));
        rig.run(Duration::from_secs(5));
        assert_eq!(rig.ends[0].links.len(), 1);
        rig.run(Duration::from_secs(3600));
        assert_eq!((rig.dials.len(), rig.strange.len()), (1, 1));
        assert!(rig.ends[0].links.is_empty());
        assert_eq!(rig.paths(), [None, None]);
    }

    #[test]
    fn nothing_is_told_or_connected_to_while_udp_serves_or_where_it_is_switched_off() {
        let mut off = Rig::new(|config| config.enabled = false);
        let mut udp = Rig::new(|_| {});
        for end in &mut udp.ends {
            end.set_behind(true, udp.now);
        }
        for rig in [&mut off, &mut udp] {
            rig.listens(0, 8);
            rig.listens(1, 9);
            let told = [rig.candidates[0].clone(), rig.candidates[1].clone()];
            rig.ends[0].handle_candidates(&told[1]);
            rig.run(Duration::from_secs(3600));
            assert_eq!(rig.dials, []);
        }
        // It dies.
        for end in &mut udp.ends {
            end.set_behind(false, udp.now);
        }
        udp.run(ms(200));
        assert_eq!(udp.paths(), [Some(0), Some(0)]);
    }

    #[test]
    fn a_connection_over_which_nothing_comes_any_more_is_closed() {
        let mut rig = Rig::new(|_| {});
        rig.listens(1, 9);
        rig.run(Duration::from_secs(5));
        assert_eq!(rig.paths(), [Some(0), Some(0)]);
        rig.cut.insert(TcpId(0));
        rig.run(Duration::from_secs(60));
        assert_eq!(rig.paths(), [None, None]);
        assert!(rig.ends.iter().all(|end| end.links.is_empty()));
    }

    #[test]
    fn a_connection_that_is_in_doubt_counts_as_answering_only_when_it_is_answered_again() {
        for cut in [false, true] {
            let mut rig = Rig::new(|_| {});
            rig.listens(1, 9);
            rig.run(Duration::from_secs(5));
            assert!(rig.ends.iter().all(Tcp::answers));
            if cut {
                rig.cut.insert(TcpId(0));
            }
            let now = rig.now;
            rig.ends.iter_mut().for_each(|end| end.verify(now));
            // It still serves where there is nothing else.
            assert_eq!(rig.paths(), [Some(0), Some(0)]);
            assert!(!rig.ends.iter().any(Tcp::answers));
            rig.run(ms(100));
            assert!(rig.ends.iter().all(|end| end.answers() != cut));
            rig.run(Duration::from_secs(60));
            assert_eq!(rig.paths() == [None, None], cut);
        }
    }

    #[test]
    fn a_connection_that_nothing_was_asked_of_for_long_is_in_doubt_when_it_is_to_serve() {
        for (seconds, cut) in [(3600, false), (3600, true), (10, false), (10, true)] {
            let mut rig = Rig::new(|_| {});
            rig.listens(1, 9);
            rig.run(Duration::from_secs(5));
            let now = rig.now;
            let all = |rig: &mut Rig, behind, now| {
                let ends = rig.ends.iter_mut();
                ends.for_each(|end| end.set_behind(behind, now));
            };
            all(&mut rig, true, now);
            rig.run(Duration::from_secs(seconds));
            if cut {
                rig.cut.insert(TcpId(0));
            }
            let now = rig.now;
            all(&mut rig, false, now);
            // An answer of a moment ago still says something.
            assert!(rig.ends.iter().all(|end| end.answers() == (seconds == 10)));
            rig.run(ms(100));
            let answers = !cut || seconds == 10;
            assert!(rig.ends.iter().all(|end| end.answers() == answers));
        }
    }

    #[test]
    fn only_the_peers_own_check_makes_a_connection_the_peers() {
        let mut rig = Rig::new(|_| {});
        let remote = address(7);
        let path = |number| TcpPath {
            connection: TcpId(number),
            remote,
        };
        let forged = punch_stun_protocol::Writer::new(
            punch_stun_protocol::Class::Request,
            punch_stun_protocol::TransactionId([9; 12]),
        )
        .username(b"0303030303030303:0404040404040404")
        .finish_with_integrity(&[9; 32]);
        let message = Message::parse(&forged).unwrap();
        assert!(!rig.ends[0].handle_call(path(1), &message, rig.now));
        assert!(rig.ends[0].links.is_empty() && rig.ends[0].poll_message().is_none());

        // The one that was connected to says nothing that counts before its answer.
        rig.ends[0].handle_dial(path(2));
        assert!(rig.ends[0].handle_connected(path(2), rig.now));
        assert!(!rig.ends[0].handle_message(path(2), &message, rig.now));
        assert!(!rig.ends[0].is_authentic(path(2)));
    }

    #[test]
    fn addresses_that_no_peer_has_are_passed_over() {
        let mut rig = Rig::new(|_| {});
        for address in [
            "127.0.0.1:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "169.254.1.1:80",
            "198.51.100.1:0",
            "[::1]:80",
            "[ff02::1]:80",
            "[fe80::1]:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            let address = address.parse().unwrap();
            rig.candidates[1].push(Candidate::new(CandidateKind::TcpPassive, address));
        }
        rig.run(Duration::from_secs(60));
        assert_eq!(rig.dials, []);
    }
}
