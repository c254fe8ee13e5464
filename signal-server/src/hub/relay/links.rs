//! Links between two connections, and the joins that wait for their second.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use punch_signal_protocol::{PeerId, RelayLink, RelayToken};

use super::{LinkEnd, RelayLimits};
use crate::hub::ConnectionId;

/// A client that joins.
#[derive(Debug, Clone, Copy)]
pub(in crate::hub) struct Joiner {
    pub(in crate::hub) connection: ConnectionId,
    pub(in crate::hub) id: PeerId,
    pub(in crate::hub) source: IpAddr,
}

/// What a join has led to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hub) enum Joined {
    /// It waits for the other end's.
    Waits,
    /// Nothing: others have that link, or there is no room.
    PassedOver,
    /// A link, between these two.
    Linked(LinkEnd, LinkEnd),
}

/// Where a token stands.
#[derive(Debug)]
enum Stand {
    Waiting(Joiner, Instant),
    /// A third who knows the token gets no link while this one is there.
    Linked,
}

/// What one connection has.
#[derive(Debug)]
struct Ends {
    source: IpAddr,
    /// The last number that was given out; none is given twice.
    last: u32,
    links: BTreeMap<RelayLink, (LinkEnd, RelayToken)>,
    /// Tokens of joins that wait, oldest first.
    waiting: VecDeque<RelayToken>,
}

/// What all connections of one source have together.
#[derive(Debug, Default)]
struct Count {
    joins: usize,
    links: usize,
}

/// All links of one server.
#[derive(Debug, Default)]
pub(in crate::hub) struct Links {
    tokens: BTreeMap<RelayToken, Stand>,
    /// Until when the joins wait.
    until: BTreeSet<(Instant, RelayToken)>,
    ends: BTreeMap<ConnectionId, Ends>,
    sources: BTreeMap<IpAddr, Count>,
    links: usize,
}

impl Links {
    /// Links now.
    pub(in crate::hub) fn count(&self) -> usize {
        self.links
    }

    /// Joins that wait.
    pub(in crate::hub) fn waiting(&self) -> usize {
        self.until.len()
    }

    /// A client has joined with a token.
    pub(in crate::hub) fn join(
        &mut self,
        joiner: Joiner,
        token: RelayToken,
        limits: &RelayLimits,
        now: Instant,
    ) -> Joined {
        self.handle_timeout(now);
        match self.tokens.get(&token) {
            Some(Stand::Linked) => return Joined::PassedOver,
            Some(Stand::Waiting(first, _)) if first.id != joiner.id => {
                let first = *first;
                if !self.has_room(&first, limits) || !self.has_room(&joiner, limits) {
                    return Joined::PassedOver;
                }
                return self.link(&first, &joiner, token);
            }
            // The same client asks again: it waits anew.
            Some(Stand::Waiting(..)) => self.unwait(token),
            None => {}
        }
        self.wait(joiner, token, limits, now)
    }

    /// A client no longer needs a link; who was at the other end.
    pub(in crate::hub) fn leave(
        &mut self,
        connection: ConnectionId,
        link: RelayLink,
    ) -> Option<LinkEnd> {
        let ends = self.ends.get_mut(&connection)?;
        let (other, token) = ends.links.remove(&link)?;
        let source = ends.source;
        self.tokens.remove(&token);
        self.links -= 1;
        self.count_in(source, |count| count.links -= 1);
        if let Some(ends) = self.ends.get_mut(&other.connection) {
            ends.links.remove(&other.link);
            let source = ends.source;
            self.count_in(source, |count| count.links -= 1);
        }
        Some(other)
    }

    /// A connection is gone; the links that it had, and who was at their other ends.
    pub(in crate::hub) fn disconnect(
        &mut self,
        connection: ConnectionId,
    ) -> Vec<(RelayLink, LinkEnd)> {
        let Some(ends) = self.ends.get(&connection) else {
            return Vec::new();
        };
        let links: Vec<_> = ends.links.keys().copied().collect();
        for token in ends.waiting.clone() {
            self.unwait(token);
        }
        let ended = links
            .into_iter()
            .filter_map(|link| Some((link, self.leave(connection, link)?)))
            .collect();
        self.ends.remove(&connection);
        ended
    }

    /// Forgets the joins that have waited for long enough.
    pub(in crate::hub) fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, token)) = self.until.first().copied() {
            if until > now {
                return;
            }
            self.unwait(token);
        }
    }

    fn wait(
        &mut self,
        joiner: Joiner,
        token: RelayToken,
        limits: &RelayLimits,
        now: Instant,
    ) -> Joined {
        let waiting = self.ends.get(&joiner.connection).map(|ends| &ends.waiting);
        if let Some(waiting) = waiting
            && waiting.len() >= limits.joins
            && let Some(oldest) = waiting.front().copied()
        {
            self.unwait(oldest);
        }
        let of_source = self.sources.get(&joiner.source);
        let left = limits.joins_in_all.saturating_sub(self.until.len());
        let most = share(left).min(limits.joins_per_address);
        if of_source.is_some_and(|count| count.joins >= most) || left == 0 {
            return Joined::PassedOver;
        }
        let until = now + limits.wait;
        self.tokens.insert(token, Stand::Waiting(joiner, until));
        self.until.insert((until, token));
        self.ends_of(&joiner).waiting.push_back(token);
        self.count_in(joiner.source, |count| count.joins += 1);
        Joined::Waits
    }

    fn unwait(&mut self, token: RelayToken) {
        let Some(Stand::Waiting(joiner, until)) = self.tokens.get(&token) else {
            return;
        };
        let (joiner, until) = (*joiner, *until);
        self.tokens.remove(&token);
        self.until.remove(&(until, token));
        if let Some(ends) = self.ends.get_mut(&joiner.connection) {
            ends.waiting.retain(|other| *other != token);
        }
        self.count_in(joiner.source, |count| count.joins -= 1);
    }

    fn has_room(&self, joiner: &Joiner, limits: &RelayLimits) -> bool {
        let ends = self.ends.get(&joiner.connection);
        let of_source = self.sources.get(&joiner.source);
        let left = limits.links_in_all.saturating_sub(self.links);
        let most = (2 * share(left)).min(limits.links_per_address);
        left > 0
            && ends.is_none_or(|ends| ends.links.len() < limits.links && ends.last < u32::MAX)
            // Both ends may be of one source.
            && of_source.is_none_or(|count| count.links + 1 < most)
    }

    fn link(&mut self, first: &Joiner, second: &Joiner, token: RelayToken) -> Joined {
        self.unwait(token);
        self.tokens.insert(token, Stand::Linked);
        let [one, two] = [first, second].map(|joiner| {
            self.count_in(joiner.source, |count| count.links += 1);
            let ends = self.ends_of(joiner);
            ends.last += 1;
            LinkEnd {
                connection: joiner.connection,
                link: RelayLink(ends.last),
            }
        });
        self.ends_of(first).links.insert(one.link, (two, token));
        self.ends_of(second).links.insert(two.link, (one, token));
        self.links += 1;
        Joined::Linked(one, two)
    }

    fn ends_of(&mut self, joiner: &Joiner) -> &mut Ends {
        self.ends.entry(joiner.connection).or_insert_with(|| Ends {
            source: joiner.source,
            last: 0,
            links: BTreeMap::new(),
            waiting: VecDeque::new(),
        })
    }

    fn count_in(&mut self, source: IpAddr, change: impl FnOnce(&mut Count)) {
        let count = self.sources.entry(source).or_default();
        change(count);
        if count.joins == 0 && count.links == 0 {
            self.sources.remove(&source);
        }
    }
}

/// What one source may have where so many are left for all: the fewer there are, the less, so that a few sources do not take them all.
fn share(left: usize) -> usize {
    const SHARE: usize = 8;
    const LEAST: usize = 64;
    LEAST.max(left / SHARE)
}
