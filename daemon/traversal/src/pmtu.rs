//! How long a packet may be on one path (Datagram Packetization Layer Path MTU Discovery, RFC 8899).
//!
//! Sizes are those of whole IP packets outside of the tunnel, in bytes, unless they are said to be inside. What is sent to find them
//! out is padded checks that nobody may cut on their way, never data: a lost one costs nothing. An answer proves that its check fitted;
//! what ICMP says of the path is not listened to, since anybody can say it.
//!
//! A path begins at [`base`] and is searched from there, the longest packet first: most paths take it, and then one check was enough.
//! While packets flow, the proven size is confirmed now and then: if it fits no more although short checks are answered, the path has
//! become a black hole for long packets, and the search begins again from the base. Sizes above the one found are tried again every
//! ten minutes.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use punch_stun_protocol::TransactionId;

use crate::socket::Family;

/// What the tunnel's data messages add to a packet: WireGuard's header and its authentication tag.
const SEAL: u16 = 32;
const UDP_HEADER: u16 = 8;
/// The longest packet that is searched for.
const LONGEST: u16 = 9200;
/// STUN messages are this much apart (RFC 8489 §5: their length is a multiple of four), and so are the sizes that can be tried.
const STEP: u16 = 4;
/// A size counts as too long after so many checks without an answer (RFC 8899 §5.1.2, MAX_PROBES).
const MAX_PROBES: u8 = 3;
/// A size that was proven fits no more after so many; those beyond [`MAX_PROBES`] leave when short checks are known to be answered, so
/// that neither an outage that has just ended nor chance is taken for a black hole.
const MAX_CONFIRMATIONS: u8 = MAX_PROBES + 2;
/// How long an answer is waited for, beside three round trips (RFC 8899 §5.1.1, PROBE_TIMER, derived from the round trip).
const SLACK: Duration = Duration::from_millis(100);
const SHORTEST_WAIT: Duration = Duration::from_millis(300);
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// Sizes above the one that was found are tried again after this (RFC 8899 §5.1.1, PMTU_RAISE_TIMER).
const RAISE: Duration = Duration::from_secs(600);
/// Between two confirmations of the proven size while packets flow.
const CONFIRM: Duration = Duration::from_secs(5);
/// Packets "flow" for this long after the last one.
const ACTIVITY: Duration = Duration::from_secs(6);
/// Checks whose answers are recognized, late ones too.
const REMEMBERED: usize = 8;
/// Sizes that paths are often limited to: jumbo frames, Ethernet, PPPoE, GRE, VXLAN, and tunnels in tunnels.
const COMMON: [u16; 18] = [
    1280, 1300, 1340, 1360, 1380, 1400, 1420, 1440, 1448, 1452, 1460, 1472, 1480, 1492, 1500, 2000,
    4000, 8000,
];

/// The size that every path is taken to carry: the least that IPv6 links carry (RFC 8200 §5), and for IPv4 what RFC 8899 §5.1.2
/// recommends as BASE_PLPMTU.
pub(crate) fn base(family: Family) -> u16 {
    match family {
        Family::V4 => 1200,
        Family::V6 => 1280,
    }
}

fn headers(family: Family) -> u16 {
    let ip = match family {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    ip + UDP_HEADER
}

/// What stands around a packet of the tunnel on a path to this address, in bytes: IP, UDP and WireGuard.
pub fn overhead(remote: IpAddr) -> u16 {
    headers(Family::of(remote)) + SEAL
}

/// The longest packet inside the tunnel, in bytes, that is sent on a path to this address of which nothing is known yet.
pub fn first_mtu(remote: IpAddr) -> u16 {
    base(Family::of(remote)) - overhead(remote)
}

/// What is known of the path beside its padded checks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around {
    /// The round trip, where it was measured.
    pub(crate) rtt: Option<Duration>,
    /// Whether the last short check was answered.
    pub(crate) answering: bool,
}

/// A padded check that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The size of the packet.
    pub(crate) size: u16,
    /// The length of its UDP payload.
    pub(crate) payload: usize,
    /// Whether a short check is to go with it, which tells a path that is dead from one that swallows what is long.
    pub(crate) with_short: bool,
}

/// A padded check that was sent.
#[derive(Debug, Clone, Copy)]
struct Probe {
    id: TransactionId,
    size: u16,
}

/// A size that is being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    size: u16,
    /// Checks of this size that were sent.
    sent: u8,
    /// Whether the short check beside them was not answered when the last of them left.
    is_doubtful: bool,
    /// When the next one is due, or there have been enough.
    next: Instant,
}

impl Trial {
    fn restart(&mut self, at: Instant) {
        (self.sent, self.is_doubtful, self.next) = (0, false, at);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PathMtu {
    family: Family,
    ceiling: u16,
    /// The longest size that was proven, or the base.
    proven: u16,
    /// The shortest size that is too long, as far as is known.
    too_long: u16,
    trial: Option<Trial>,
    /// When sizes above the one found are tried again.
    raise_at: Option<Instant>,
    /// Whether something was found out about the path, and not only assumed.
    is_known: bool,
    /// When a check of the proven size, or of a longer one, was last answered.
    confirmed: Instant,
    /// Until when packets count as flowing.
    active_until: Option<Instant>,
    probes: VecDeque<Probe>,
}

impl PathMtu {
    /// A path to `remote` of which nothing is known; `inside` is the longest packet inside the tunnel that anybody sends.
    pub(crate) fn new(remote: IpAddr, inside: u16, now: Instant) -> Self {
        let family = Family::of(remote);
        let longest = inside.saturating_add(overhead(remote)).min(LONGEST);
        let ceiling = longest.next_multiple_of(STEP).max(base(family));
        let mut path = Self {
            family,
            ceiling,
            proven: base(family),
            too_long: ceiling + STEP,
            trial: None,
            raise_at: None,
            is_known: false,
            confirmed: now,
            active_until: None,
            probes: VecDeque::with_capacity(REMEMBERED),
        };
        path.search(now);
        path
    }

    /// The longest packet inside the tunnel that fits, in bytes.
    pub(crate) fn inside(&self) -> u16 {
        self.proven - headers(self.family) - SEAL
    }

    /// Whether something was found out about the path.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Whether this is the transaction of one of the padded checks.
    pub(crate) fn owns(&self, id: TransactionId) -> bool {
        self.probes.iter().any(|probe| probe.id == id)
    }

    /// A padded check was answered; returns whether longer packets fit than was said.
    pub(crate) fn handle_answer(&mut self, id: TransactionId, now: Instant) -> bool {
        let Some(at) = self.probes.iter().position(|probe| probe.id == id) else {
            return false;
        };
        let size = self.probes.remove(at).map_or(0, |probe| probe.size);
        if size < self.proven {
            return false;
        }
        self.confirmed = now;
        let longer = size > self.proven;
        self.proven = size;
        self.is_known |= longer;
        if size >= self.too_long {
            // It was only late, or those before it were lost for another reason.
            self.too_long = self.ceiling + STEP;
        }
        if self.trial.is_some_and(|trial| trial.size <= size) {
            self.trial = None;
            self.search(now);
        }
        longer
    }

    /// Packets flow.
    pub(crate) fn handle_traffic(&mut self, now: Instant) {
        self.active_until = Some(now + ACTIVITY);
    }

    /// The path may be another one than it was: what is known of it is confirmed at once, and what was too long is tried again.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.handle_traffic(now);
        if self.trial.is_some() {
            return;
        }
        if self.proven < self.ceiling {
            self.raise_at = Some(now);
        }
        if self.is_confirmable() {
            self.try_size(self.proven, now);
        }
    }

    /// Does what is due. Returns whether there is something to say: less fits than was thought, or the base is the first that is known;
    /// and what is to be sent. A check that is sent is told with [`Self::sent`].
    pub(crate) fn handle_timeout(&mut self, around: Around, now: Instant) -> (bool, Option<Due>) {
        if self.trial.is_none() {
            if self.due_raise().is_some_and(|at| at <= now) {
                self.raise_at = None;
                self.too_long = self.ceiling + STEP;
                self.search(now);
            } else if self.due_confirmation().is_some_and(|at| at <= now) {
                self.try_size(self.proven, now);
            }
        }
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.next <= now) else {
            return (false, None);
        };
        let (size, confirms) = (trial.size, trial.size == self.proven);
        if trial.sent < MAX_PROBES {
            trial.is_doubtful = trial.sent + 1 == MAX_PROBES && !around.answering;
            return (false, self.due(now));
        }
        if !around.answering {
            // The path itself is in doubt, and whoever watches it decides. If it comes back, so does this question.
            trial.restart(now + LONGEST_WAIT);
            return (false, None);
        }
        if confirms && trial.sent < MAX_CONFIRMATIONS {
            return (false, self.due(now));
        }
        if !confirms && trial.is_doubtful {
            // The path was silent altogether, and is back.
            trial.restart(now);
            return (false, self.due(now));
        }
        self.trial = None;
        if !confirms {
            self.too_long = size;
            self.search(now);
            let is_news = !std::mem::replace(&mut self.is_known, true);
            return (is_news, self.due(now));
        }
        // An answer that is only late still proves the size again.
        self.too_long = self.proven;
        self.proven = base(self.family);
        self.raise_at = None;
        self.search(now);
        (true, self.due(now))
    }

    /// A check of this size leaves now.
    pub(crate) fn sent(&mut self, id: TransactionId, size: u16, around: Around, now: Instant) {
        if self.probes.len() == REMEMBERED {
            self.probes.pop_front();
        }
        self.probes.push_back(Probe { id, size });
        let wait = around.rtt.map_or(SHORTEST_WAIT, |rtt| 3 * rtt + SLACK);
        if let Some(trial) = &mut self.trial {
            trial.sent += 1;
            trial.next = now + wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.trial {
            Some(trial) => Some(trial.next),
            None => [self.due_raise(), self.due_confirmation()]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    /// Whether packets flow at that time, as far as is known; an idle path is left in peace.
    fn is_active(&self, at: Instant) -> bool {
        self.active_until.is_some_and(|until| at < until)
    }

    /// Whether more than the base is proven: that is taken to fit always.
    fn is_confirmable(&self) -> bool {
        self.proven > base(self.family)
    }

    fn due_raise(&self) -> Option<Instant> {
        self.raise_at.filter(|at| self.is_active(*at))
    }

    fn due_confirmation(&self) -> Option<Instant> {
        let at = self.confirmed + CONFIRM;
        (self.is_confirmable() && self.is_active(at)).then_some(at)
    }

    fn try_size(&mut self, size: u16, now: Instant) {
        self.trial = Some(Trial {
            size,
            sent: 0,
            is_doubtful: false,
            next: now,
        });
    }

    /// Tries the next size, or ends the search.
    fn search(&mut self, now: Instant) {
        match self.next_size() {
            Some(size) => self.try_size(size, now),
            None if self.proven < self.ceiling => {
                self.raise_at.get_or_insert(now + RAISE);
            }
            None => self.raise_at = None,
        }
    }

    /// The next size between what fits and what does not: the longest, then those that are common, then the middle.
    fn next_size(&self) -> Option<u16> {
        if self.proven >= self.ceiling || self.too_long <= self.proven + STEP {
            return None;
        }
        if self.too_long > self.ceiling {
            return Some(self.ceiling);
        }
        let common: Vec<_> = COMMON
            .into_iter()
            .filter(|size| (self.proven + 1..self.too_long).contains(size))
            .collect();
        let middle = || {
            let half = (self.too_long - self.proven) / 2;
            self.proven + (half / STEP * STEP).max(STEP)
        };
        Some(common.get(common.len() / 2).copied().unwrap_or_else(middle))
    }

    fn due(&self, now: Instant) -> Option<Due> {
        let trial = self.trial.filter(|trial| trial.next <= now)?;
        Some(Due {
            size: trial.size,
            payload: usize::from(trial.size - headers(self.family)),
            with_short: trial.sent == 1 || trial.sent == MAX_PROBES,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests;
