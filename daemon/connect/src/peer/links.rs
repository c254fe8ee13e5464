//! Links of one kind of an attempt's, over relays or over TCP: each is checked, and one of them is chosen.
//!
//! Each end chooses for itself the one over which its packets go: one that answers before one that does not, the faster before the
//! slower. What comes in over another one of them counts as well.

use std::time::{Duration, Instant};

use punch_stun_protocol::Message;
use punch_traversal::{LinkCheck, LinkHealth, LinkUse, Traffic};

/// A link takes the place of one that answers, too, if that is slower by a fifth and by so much.
const CLEARLY_SLOWER: Duration = Duration::from_millis(10);

/// See the module. `P` names a link.
#[derive(Debug)]
pub(super) struct CheckedLinks<P> {
    links: Vec<Link<P>>,
    /// The link that serves where nothing better does.
    chosen: Option<P>,
    /// Whether something better serves.
    behind: bool,
}

#[derive(Debug)]
struct Link<P> {
    path: P,
    check: LinkCheck,
}

impl<P: Copy + Eq> CheckedLinks<P> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            links: Vec::new(),
            chosen: None,
            behind: false,
        }
    }

    // --- what is known ---

    /// The link that serves, or would.
    pub(super) fn chosen(&self) -> Option<P> {
        self.chosen
    }

    /// What checks have shown of the link that serves, or would.
    pub(super) fn serving(&self) -> Option<&LinkCheck> {
        self.chosen.and_then(|chosen| self.get(chosen))
    }

    /// What checks have shown of a link.
    pub(super) fn get(&self, path: P) -> Option<&LinkCheck> {
        let link = self.links.iter().find(|link| link.path == path);
        link.map(|link| &link.check)
    }

    /// Whether something better serves.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = P> {
        self.links.iter().map(|link| link.path)
    }

    // --- what comes in ---

    /// There is one more; [`Self::choose`] follows.
    pub(super) fn add(&mut self, path: P, check: LinkCheck) {
        self.links.push(Link { path, check });
    }

    /// Keeps those for which this is true, and returns the others; [`Self::choose`] follows.
    pub(super) fn retain(&mut self, keeps: impl Fn(P, &LinkCheck) -> bool) -> Vec<P> {
        let is_over = |link: &mut Link<P>| !keeps(link.path, &link.check);
        let over = self.links.extract_if(.., is_over);
        over.map(|link| link.path).collect()
    }

    /// A message has come over a link; `None` if it is none of these, otherwise whether it is a check or an answer of the peer's.
    pub(super) fn handle_message(
        &mut self,
        path: P,
        message: &Message<'_>,
        now: Instant,
    ) -> Option<bool> {
        let link = self.links.iter_mut().find(|link| link.path == path)?;
        Some(link.check.handle_message(message, now))
    }

    /// A packet of the peer's has come over a link, opened by its session's keys.
    pub(super) fn handle_heard(&mut self, path: P, now: Instant) {
        if let Some(link) = self.links.iter_mut().find(|link| link.path == path) {
            link.check.handle_heard(now);
        }
    }

    /// Packets of the tunnel go over the link that serves: so many bytes by now.
    pub(super) fn handle_traffic(&mut self, traffic: Traffic, now: Instant) {
        let chosen = self.chosen;
        let mut links = self.links.iter_mut();
        if let Some(link) = links.find(|link| Some(link.path) == chosen) {
            link.check.handle_traffic(traffic, now);
        }
    }

    /// Whether something better serves now; returns whether it did not before, or does no longer.
    pub(super) fn set_behind(&mut self, behind: bool, now: Instant) -> bool {
        let changed = std::mem::replace(&mut self.behind, behind) != behind;
        if changed {
            self.assign(now);
        }
        changed
    }

    /// The network or this machine's time is another: each link is to show that it still stands.
    pub(super) fn verify(&mut self, now: Instant) {
        for link in &mut self.links {
            link.check.verify(now);
        }
    }

    /// Does what is due; returns the links that are dead, which are no longer among these. [`Self::choose`] follows.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<P> {
        for link in &mut self.links {
            link.check.handle_timeout(now);
        }
        self.retain(|_, check| check.health() != LinkHealth::Dead)
    }

    // --- what goes out ---

    /// The next check or answer, and the link that it goes over.
    pub(super) fn poll_message(&mut self) -> Option<(P, Vec<u8>)> {
        let mut links = self.links.iter_mut();
        links.find_map(|link| Some((link.path, link.check.poll_message()?)))
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let checks = self.links.iter().map(|link| &link.check);
        checks.filter_map(LinkCheck::poll_timeout).min()
    }

    /// Chooses the best link of those that may serve, and tells each what it is there for; the one that was chosen stays unless another
    /// one is clearly better. Returns whether it is another one than before.
    pub(super) fn choose(&mut self, may_serve: impl Fn(&LinkCheck) -> bool, now: Instant) -> bool {
        let worth = |check: &LinkCheck| {
            let rtt = check.round_trip().unwrap_or(Duration::MAX);
            (check.health(), rtt)
        };
        let ready = self.links.iter().filter(|link| may_serve(&link.check));
        let best = ready.min_by_key(|link| worth(&link.check));
        let stays = match (best, self.serving()) {
            (Some(best), Some(current)) => {
                let ((best, faster), (health, rtt)) = (worth(&best.check), worth(current));
                best == health && rtt <= faster.saturating_mul(6) / 5 + CLEARLY_SLOWER
            }
            _ => false,
        };
        let chosen = match stays {
            true => self.chosen,
            false => best.map(|link| link.path),
        };
        let changed = std::mem::replace(&mut self.chosen, chosen) != chosen;
        self.assign(now);
        changed
    }

    /// Tells each link what it is there for.
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
