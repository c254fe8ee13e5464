//! The candidate pairs of one agent, when each is checked, and which of them is the path (RFC 8445 §6.1.2, §8).

use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind};
use punch_stun_protocol::TransactionId;

use super::silence::{Silence, Traffic};
use crate::pair::{Pair, PairStatus, State};
use crate::role::Role;
use crate::socket::{DirectPath, SocketId};

/// More pairs than this are not tried; an authenticated peer that moves on takes the place of one that failed.
pub const MAX_PAIRS: usize = 48;
/// Keepalive of an idle path at the most; six tenths of the mapping's lifetime where that is known.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(25);
/// Keepalive of an idle path at the least.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(4);
/// Keepalive where the mapping's lifetime is not known: some NATs forget after 15 s.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(12);
/// Time between two checks of the path while traffic flows.
const ACTIVE_CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// Traffic "flows" for this long after the last packet.
const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(6);

/// The interval of keepalives where an unused mapping lives for so long.
fn keepalive(lifetime: Option<Duration>) -> Duration {
    lifetime.map_or(DEFAULT_KEEPALIVE, |lifetime| {
        let safe = lifetime.mul_f64(0.6);
        safe.clamp(SHORTEST_KEEPALIVE, LONGEST_KEEPALIVE)
    })
}

/// What has brought a path to be selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// No path was selected before.
    First,
    /// The path is better than the one before, which answers too.
    Better,
    /// The peer, whose choice it is, has named the path.
    ByPeer,
    /// The path before does not answer.
    Silent,
    /// The peer, whose choice it is, has named a path that leads to another address of the same family.
    Moved,
    /// An earlier process had selected the path.
    Inherited,
}

/// The candidate pairs of one agent.
#[derive(Debug)]
pub(super) struct Checklist {
    role: Role,
    keepalive: Duration,
    pairs: Vec<Pair>,
    selected: Option<DirectPath>,
    /// What has brought `selected` to be selected.
    choice: Choice,
    last_traffic: Option<Instant>,
    silence: Silence,
    /// When the peer has last shown that it is there.
    heard: Option<Instant>,
}

impl Checklist {
    /// An empty list; `lifetime` is that of an unused mapping, if it was measured.
    pub(super) fn new(role: Role, lifetime: Option<Duration>) -> Self {
        Self {
            role,
            keepalive: keepalive(lifetime),
            pairs: Vec::new(),
            selected: None,
            choice: Choice::First,
            last_traffic: None,
            heard: None,
            silence: Silence::default(),
        }
    }

    /// An unused mapping lives for so long from now on, if that is known.
    pub(super) fn set_lifetime(&mut self, lifetime: Option<Duration>, now: Instant) {
        self.keepalive = keepalive(lifetime);
        let soon = now + self.keepalive;
        for pair in self.pairs.iter_mut().filter(|pair| pair.is_valid()) {
            pair.next_check = pair.next_check.map(|at| at.min(soon));
        }
    }

    /// A path that an earlier process has proven is the path from the start; `keepalive` is its interval.
    pub(super) fn inherit(&mut self, pair: Pair, keepalive: Duration) {
        self.keepalive = keepalive.clamp(SHORTEST_KEEPALIVE, LONGEST_KEEPALIVE);
        (self.selected, self.choice) = (Some(pair.path), Choice::Inherited);
        self.pairs.push(pair);
    }

    /// Whether this end picks the path.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// The interval of keepalives on the idle path.
    pub(super) fn keepalive(&self) -> Duration {
        self.keepalive
    }

    /// Whether a pair whose checks go on is checked from this socket.
    pub(super) fn has_checks_from(&self, socket: SocketId) -> bool {
        let checked = |pair: &Pair| pair.path.socket == socket && pair.next_check.is_some();
        self.pairs.iter().any(checked)
    }

    pub(super) fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    pub(super) fn pair_mut(&mut self, index: usize) -> &mut Pair {
        &mut self.pairs[index]
    }

    pub(super) fn index_of(&self, path: DirectPath) -> Option<usize> {
        self.pairs.iter().position(|pair| pair.path == path)
    }

    /// The pair that has sent a check with this transaction.
    pub(super) fn owner_of(&self, transaction: TransactionId) -> Option<usize> {
        self.pairs.iter().position(|pair| pair.owns(transaction))
    }

    /// The selected path.
    pub(super) fn path(&self) -> Option<DirectPath> {
        self.selected
    }

    /// What has brought the selected path to be selected.
    pub(super) fn choice(&self) -> Choice {
        self.choice
    }

    /// The pair of the selected path.
    pub(super) fn selected(&self) -> Option<&Pair> {
        let mut pairs = self.pairs.iter();
        pairs.find(|pair| Some(pair.path) == self.selected)
    }

    /// Adds a pair, if need be in place of one that failed; returns its index, or `None` if there is no room.
    pub(super) fn add(&mut self, pair: Pair) -> Option<usize> {
        if self.pairs.len() >= MAX_PAIRS {
            let mut pairs = self.pairs.iter();
            let failed = pairs.position(|pair| pair.next_check.is_none())?;
            self.pairs.remove(failed);
        }
        self.pairs.push(pair);
        Some(self.pairs.len() - 1)
    }

    /// The pair of a path along which a check of the peer's has come: one that nobody has named is peer-reflexive, with the
    /// priority that the check says.
    pub(super) fn add_heard(
        &mut self,
        path: DirectPath,
        priority: Option<u32>,
        by_search: bool,
        now: Instant,
    ) -> Option<usize> {
        self.heard = Some(now);
        self.index_of(path).or_else(|| {
            let kind = CandidateKind::PeerReflexive;
            let usual = Candidate::new(kind, path.remote).priority();
            let mut pair = Pair::new(path, kind, priority.unwrap_or(usual), now);
            pair.by_search = by_search;
            self.add(pair)
        })
    }

    /// The pair of a path that a search has found: what answers is worth more than what has not.
    pub(super) fn add_found(&mut self, path: DirectPath, now: Instant) -> Option<usize> {
        let index = match self.index_of(path) {
            Some(index) => index,
            None => {
                let kind = CandidateKind::PeerReflexive;
                let priority = Candidate::new(kind, path.remote).priority();
                let pair = Pair::new(path, kind, priority, now);
                match self.add(pair.clone()) {
                    Some(index) => index,
                    None => {
                        let silent = self.pairs.iter().rposition(|pair| !pair.is_valid())?;
                        self.pairs.remove(silent);
                        self.add(pair)?
                    }
                }
            }
        };
        self.pairs[index].by_search = true;
        self.pairs[index].found(now);
        Some(index)
    }

    /// Lets go of all pairs on these sockets.
    pub(super) fn remove_sockets(&mut self, sockets: &[SocketId]) {
        self.pairs
            .retain(|pair| !sockets.contains(&pair.path.socket));
    }

    /// Gives up a pair; returns whether it was the path, which is then none. See [`Self::select`].
    pub(super) fn give_up(&mut self, index: usize) -> bool {
        let pair = &mut self.pairs[index];
        pair.give_up();
        let was_path = self.selected == Some(pair.path);
        if was_path {
            self.selected = None;
        }
        was_path
    }

    /// A check of this pair was answered. `jitter` is 0 to 1.
    pub(super) fn handle_answer(
        &mut self,
        index: usize,
        transaction: TransactionId,
        jitter: f64,
        now: Instant,
    ) {
        self.heard = Some(now);
        let interval = if self.selected == Some(self.pairs[index].path) && self.is_active(now) {
            ACTIVE_CHECK_INTERVAL
        } else {
            self.keepalive
        };
        if self.selected == Some(self.pairs[index].path) {
            self.silence.handle_answer();
        }
        let pair = &mut self.pairs[index];
        pair.answered(transaction, now);
        pair.next_check = Some(now + interval.mul_f64(0.9 + 0.1 * jitter));
    }

    /// Packets of the tunnel go over the path, in either direction: so many bytes by now.
    pub(super) fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        let has_received = self.silence.handle_traffic(traffic, now);
        if let Some(pair) = self.selected_mut().filter(|_| has_received) {
            pair.reprieve(now);
        }
        let flowing = self.is_active(now);
        self.last_traffic = Some(now);
        if flowing {
            return;
        }
        // From keepalives to the close watch that traffic deserves.
        if let Some(pair) = self.selected_mut() {
            let soon = now + ACTIVE_CHECK_INTERVAL;
            pair.next_check = pair.next_check.map(|at| at.min(soon));
        }
    }

    /// Checks the path now instead of at the next keepalive, and all others that could take its place.
    pub(super) fn verify_paths(&mut self, now: Instant) {
        // Where a check is open already, a second one in haste would only count as one more without an answer.
        let answering = |pair: &&mut Pair| pair.state == State::Valid { unanswered: 0 };
        for pair in self.pairs.iter_mut().filter(answering) {
            pair.next_check = Some(now);
        }
    }

    /// The peer's packets come over something else than a path of this list, as they would if its paths were dead for the peer.
    pub(super) fn handle_detour(&mut self, now: Instant) {
        self.silence.handle_detour(now);
    }

    /// Checks the path if packets go out over it and none comes in.
    pub(super) fn handle_silence(&mut self, now: Instant) {
        if self.silence.take_due(now) {
            self.verify_paths(now);
        }
    }

    /// When a check of the peer's or an answer has last come.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.heard
    }

    /// Whether the last check on the path was answered.
    pub(super) fn is_answering(&self) -> bool {
        let selected = self.selected();
        selected.is_some_and(|pair| pair.state == State::Valid { unanswered: 0 })
    }

    /// Whether there is no path, or only one of last resort.
    pub(super) fn needs_better(&self) -> bool {
        self.selected().is_none_or(Pair::is_last_resort)
    }

    /// Picks the path among the pairs that answer; returns it if it is another one than before. One of last resort is picked only
    /// where no other answers, however fast it is. One that has not answered of late is picked by nobody: what has cut one path has
    /// often cut the others, and a relay may stand behind them all.
    pub(super) fn select(&mut self) -> Option<DirectPath> {
        let selected = self.selected;
        let answers =
            |pair: &Pair| pair.is_valid() && (Some(pair.path) == selected || !pair.is_doubtful());
        let good = |pair: &Pair| answers(pair) && !pair.is_last_resort();
        let any_good = self.pairs.iter().any(good);
        let valid = || {
            let answering = self.pairs.iter().filter(|pair| answers(pair));
            answering.filter(move |pair| !any_good || !pair.is_last_resort())
        };
        let named = valid()
            .filter(|pair| self.role == Role::Controlled && pair.nominated.is_some())
            .max_by_key(|pair| pair.nominated);
        // Every pair is measured against the fastest one: "clearly slower" is not transitive, and comparing pairs with each
        // other would go round in circles.
        let fastest = valid().filter_map(|pair| pair.rtt).min();
        let best = named.or_else(|| {
            valid()
                .filter(|pair| !pair.is_clearly_slower_than(fastest))
                .max_by_key(|pair| (pair.priority, Some(pair.path) == self.selected))
        });
        let choice = self.choice_of(best, named.is_some());
        let best = best.map(|pair| pair.path);
        if best.is_none() || best == self.selected {
            return None;
        }
        (self.selected, self.choice) = (best, choice);
        best
    }

    /// What brings this pair to be selected, which the peer has `named` or this end has picked.
    fn choice_of(&self, best: Option<&Pair>, named: bool) -> Choice {
        let Some(before) = self.selected() else {
            return Choice::First;
        };
        let is_silent = !before.is_valid() || before.is_doubtful();
        let has_moved = best.is_some_and(|best| {
            let (now, before) = (best.path.remote.ip(), before.path.remote.ip());
            now != before && now.is_ipv4() == before.is_ipv4()
        });
        match (is_silent, named) {
            (true, _) => Choice::Silent,
            (false, true) if has_moved => Choice::Moved,
            (false, true) => Choice::ByPeer,
            (false, false) => Choice::Better,
        }
    }

    /// Whether a check of this pair names it as this end's choice.
    pub(super) fn nominates(&self, index: usize) -> bool {
        self.role == Role::Controlling && self.selected == Some(self.pairs[index].path)
    }

    /// Pairs on this socket that were not checked yet are checked by then.
    pub(super) fn check_by(&mut self, socket: SocketId, first: Option<Instant>) {
        let Some(first) = first else { return };
        let new = |pair: &&mut Pair| {
            pair.path.socket == socket && pair.state == State::Probing { sent: 0 }
        };
        for pair in self.pairs.iter_mut().filter(new) {
            pair.next_check = pair.next_check.map(|at| at.min(first));
        }
    }

    /// The peer is there: what has not answered is checked as if nothing had been tried.
    pub(super) fn start_over(&mut self, now: Instant) {
        let silent = self.pairs.iter_mut().filter(|pair| !pair.is_valid());
        silent.for_each(|pair| pair.start_over(now));
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let checks = self.pairs.iter().filter_map(|pair| pair.next_check);
        let silence = self.silence.next_timeout();
        checks
            .chain(silence.filter(|_| self.selected.is_some()))
            .min()
    }

    /// All pairs as status shows them.
    pub(super) fn statuses(&self) -> Vec<PairStatus> {
        self.pairs.iter().map(Pair::status).collect()
    }

    fn selected_mut(&mut self) -> Option<&mut Pair> {
        let mut pairs = self.pairs.iter_mut();
        pairs.find(|pair| Some(pair.path) == self.selected)
    }

    fn is_active(&self, now: Instant) -> bool {
        self.last_traffic
            .is_some_and(|at| now.saturating_duration_since(at) < ACTIVITY_TIMEOUT)
    }
}
