//! What attempts that are over have left: sockets, relay links and TCP connections. The peer may still send to them, so each stays for a
//! while; and as long as a path is awaited, packets that come over a link show the way back, so that such links stay longer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punch_signal_protocol::RelayToken;
use punch_traversal::{SocketId, untold_mappings};

use super::Outputs;
use super::attempt::Attempt;
use crate::path::{RelayPath, TcpPath};
use crate::relays::RelayOrders;

/// What an attempt leaves is closed after this.
const CLOSE_DELAY: Duration = Duration::from_secs(2);
/// Links, connections and the sockets of paths stay for so long while a path is awaited.
const LONGEST: Duration = Duration::from_secs(20);
/// More links, connections or sockets of paths than this do not stay: the first ones go at once.
const MAX_LEFT: usize = 8;

/// A link, a connection or a path's socket that is left.
struct Left<P> {
    path: P,
    /// Whether the peer has been heard over it.
    heard: bool,
    /// When it was left, and when it is to be closed; `None` until the next [`Remains::finish_drain`].
    since: Option<(Instant, Instant)>,
}

impl<P: Copy> Left<P> {
    fn new(path: P, heard: bool) -> Self {
        let since = None;
        Self { path, heard, since }
    }

    fn is_due(&mut self, awaits: bool, now: Instant) -> bool {
        let (since, at) = self.since.get_or_insert((now, now + CLOSE_DELAY));
        if *at <= now && awaits {
            *at = (now + CLOSE_DELAY).min(*since + LONGEST);
        }
        *at <= now
    }

    fn take_due(left: &mut Vec<Self>, awaits: bool, now: Instant) -> Vec<P> {
        let surplus = left.len().saturating_sub(MAX_LEFT);
        let mut due: Vec<_> = left.drain(..surplus).map(|left| left.path).collect();
        let over = left.extract_if(.., |left| left.is_due(awaits, now));
        due.extend(over.map(|left| left.path));
        due
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Remains {
    sockets: Vec<(Option<Instant>, SocketId)>,
    /// Those of paths: packets that come in over one that was given up bring it back.
    of_paths: Vec<Left<SocketId>>,
    links: Vec<Left<RelayPath>>,
    connections: Vec<Left<TcpPath>>,
    /// Links that are left at once.
    unwanted: Vec<RelayPath>,
    /// The tokens of attempts that are over.
    tokens: Vec<RelayToken>,
    /// Mappings of searches that ended with their attempts and were not reported.
    mappings: u32,
}

impl Remains {
    /// An attempt is over.
    pub(super) fn take(&mut self, attempt: Attempt) {
        self.mappings += untold_mappings(&attempt.agent);
        let sockets: Vec<_> = attempt.agent.sockets().collect();
        // With a path all others are closed; without one there may be hundreds, of a search.
        if attempt.proof.is_announced() && sockets.len() <= MAX_LEFT {
            let left = sockets.into_iter().map(|socket| Left::new(socket, true));
            self.of_paths.extend(left);
        } else {
            let sockets = sockets.into_iter().map(|socket| (None, socket));
            self.sockets.extend(sockets);
        }
        self.tokens.push(attempt.links.relayed.token());
        self.take_links(attempt.links.relayed.into_links());
        let connections = attempt.links.tcp.into_connections().into_iter();
        let left = connections.map(|(path, heard)| Left::new(path, heard));
        self.connections.extend(left);
    }

    /// These links are no longer used.
    pub(super) fn take_links(&mut self, links: Vec<RelayPath>) {
        let links = links.into_iter().map(|link| Left::new(link, false));
        self.links.extend(links);
    }

    /// These links are left at once, and nobody joins with this token any more.
    pub(super) fn forbid(&mut self, token: RelayToken, links: Vec<RelayPath>) {
        self.tokens.push(token);
        self.unwanted.extend(links);
    }

    /// All links are left at once.
    pub(super) fn leave_links(&mut self) {
        let left = self.links.drain(..).map(|left| left.path);
        self.unwanted.extend(left);
    }

    /// Links have ended.
    pub(super) fn handle_gone(&mut self, is_gone: impl Fn(RelayPath) -> bool) {
        self.links.retain(|left| !is_gone(left.path));
    }

    /// A connection has ended.
    pub(super) fn handle_closed(&mut self, path: TcpPath) {
        self.connections.retain(|left| left.path != path);
    }

    /// The peer is connected to anew, from the same port: connections with this address are closed, since between two ports there is one.
    pub(super) fn make_way(&mut self, remote: SocketAddr, out: &mut Outputs<'_>) {
        let is_there = |left: &mut Left<TcpPath>| left.path.remote == remote;
        for left in self.connections.extract_if(.., is_there) {
            out.hang_up(left.path);
        }
    }

    /// Whether the peer has been heard over a connection that is left, which may still bring packets.
    pub(super) fn is_authentic(&self, path: TcpPath) -> bool {
        let mut left = self.connections.iter();
        left.any(|left| left.path == path && left.heard)
    }

    /// Closes what has stayed for long enough; `awaits` is whether a path is awaited, and nothing carries packets.
    pub(super) fn finish_drain(&mut self, awaits: bool, out: &mut Outputs<'_>, now: Instant) {
        for (at, _) in &mut self.sockets {
            at.get_or_insert(now + CLOSE_DELAY);
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for (_, socket) in self.sockets.extract_if(.., |(at, _)| due(*at)) {
            out.close(socket);
        }
        for socket in Left::take_due(&mut self.of_paths, awaits, now) {
            out.close(socket);
        }
        for path in Left::take_due(&mut self.connections, awaits, now) {
            out.hang_up(path);
        }
        let due = Left::take_due(&mut self.links, awaits, now);
        out.relay.leaves.extend(due);
        out.relay.leaves.append(&mut self.unwanted);
        out.relay.ended.append(&mut self.tokens);
    }

    /// When [`Self::finish_drain`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let sockets = self.sockets.iter().filter_map(|(at, _)| *at);
        let at = |since: Option<(Instant, Instant)>| since.map(|(_, at)| at);
        let of_paths = self.of_paths.iter().filter_map(|left| at(left.since));
        let sockets = sockets.chain(of_paths);
        let links = self.links.iter().filter_map(|left| at(left.since));
        let connections = self.connections.iter();
        let connections = connections.filter_map(|left| at(left.since));
        sockets.chain(links).chain(connections).min()
    }

    /// Mappings of searches that ended with their attempts; each is told once.
    pub(super) fn take_mappings(&mut self) -> u32 {
        std::mem::take(&mut self.mappings)
    }

    /// Everything ends at once: the sockets and connections that are still open, and what is to be done about relay links.
    pub(super) fn dissolve(&mut self) -> (Vec<SocketId>, Vec<TcpPath>, RelayOrders) {
        let sockets = self.sockets.drain(..).map(|(_, socket)| socket);
        let of_paths = self.of_paths.drain(..).map(|left| left.path);
        let sockets = sockets.chain(of_paths).collect();
        let links = self.links.drain(..).map(|left| left.path);
        let relay = RelayOrders {
            joins: Vec::new(),
            ended: std::mem::take(&mut self.tokens),
            leaves: self.unwanted.drain(..).chain(links).collect(),
        };
        let connections = self.connections.drain(..).map(|left| left.path).collect();
        (sockets, connections, relay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::start;

    /// After how many seconds what is left is closed; a path is `awaited` for so many.
    fn closed_after(awaited: u64) -> u64 {
        let mut left = vec![Left::new(SocketId(7), true)];
        let gone = (0..60).find(|second| {
            let now = start() + Duration::from_secs(*second);
            !Left::take_due(&mut left, *second < awaited, now).is_empty()
        });
        gone.unwrap_or(u64::MAX)
    }

    #[test]
    fn what_is_left_stays_two_seconds_and_up_to_twenty_while_a_path_is_awaited() {
        assert_eq!(closed_after(0), 2);
        assert_eq!(closed_after(5), 6);
        assert_eq!(closed_after(60), 20);
    }

    #[test]
    fn no_more_stays_than_a_few() {
        let mut left: Vec<_> = (0..20).map(|n| Left::new(SocketId(n), true)).collect();
        let due = Left::take_due(&mut left, true, start());
        assert_eq!((due.len(), left.len()), (12, MAX_LEFT));
        assert_eq!(due.first(), Some(&SocketId(0)));
    }
}
