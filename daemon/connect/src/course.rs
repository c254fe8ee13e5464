//! Why a peer's packets take the path that they take, and no longer the one before.

use std::time::{Duration, Instant};

use punch_traversal::Choice;

use crate::Path;

/// A path that comes so long after this machine has moved comes of that.
const MOVE: Duration = Duration::from_secs(30);

/// Why packets of a peer take another path than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathReason {
    /// The path is the first one of the connection.
    First,
    /// The path leads straight to the peer, or over UDP, as the one before did not.
    Promoted,
    /// The path is better than the one before.
    Better,
    /// The peer has chosen the path among those that answer.
    ChosenByPeer,
    /// The path before does not answer any more.
    Silent,
    /// The path had not answered for a moment, and answers again.
    Recovered,
    /// The relay before is gone.
    RelayLost,
    /// The TCP connection before has ended.
    Closed,
    /// Relays may not be used any more.
    RelayForbidden,
    /// This machine is in another network, or has slept.
    NetworkChanged,
    /// The peer is at another address.
    PeerMoved,
    /// The two ends have made a new exchange.
    Renewed,
    /// The path was an earlier process's.
    TakenOver,
    /// The configuration says that a plain WireGuard peer is there.
    Configured,
}

/// What has brought a path to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The agent that has selected the path before has selected this one.
    Chosen(Choice),
    /// The path is of a later exchange.
    Exchange {
        /// Whether this end has asked for the exchange.
        ours: bool,
        /// Whether the path of the exchange before answered.
        answers: bool,
    },
    /// Another link of the same exchange was chosen.
    Link(Left),
    /// The direct path is not answered, and a link takes its place.
    Silent,
    /// The direct path is answered again.
    Recovered,
}

/// What has become of a link that another one takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The link is gone.
    Gone,
    /// The link does not answer.
    Silent,
    /// The link is slower than the other one.
    Slower,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Course {
    serving: Option<Path>,
    /// Why no path serves any more, since there was one.
    ended: Option<PathReason>,
    /// When this machine has moved, if no other path has come of that yet.
    moved: Option<Instant>,
}

impl Course {
    /// The path that serves, as far as it was told.
    pub(crate) fn serving(&self) -> Option<Path> {
        self.serving
    }

    /// This machine is in another network, or has slept.
    pub(crate) fn handle_moved(&mut self, now: Instant) {
        self.moved = Some(now);
    }

    /// Relays may not be used any more.
    pub(crate) fn handle_forbidden(&mut self) {
        if matches!(self.serving, Some(Path::Relayed(_))) {
            self.end(PathReason::RelayForbidden);
        }
    }

    /// Whether there is a path now, and whether anything is under way that may bring one.
    pub(crate) fn settle(&mut self, serves: bool, lives: bool) {
        match (serves, self.serving) {
            _ if !lives => (self.serving, self.ended) = (None, None),
            (false, Some(path)) => self.end(match path {
                Path::Direct(_) => PathReason::Silent,
                Path::Relayed(_) => PathReason::RelayLost,
                Path::Tcp(_) => PathReason::Closed,
            }),
            _ => {}
        }
    }

    /// This path serves from now on; returns why.
    pub(crate) fn turn(&mut self, path: Path, cause: Cause, now: Instant) -> PathReason {
        let before = self.serving.replace(path);
        let ended = self.ended.take();
        let reason = self.reason((before, ended), path, cause, now);
        self.moved = None;
        reason
    }

    fn reason(
        &self,
        (before, ended): (Option<Path>, Option<PathReason>),
        path: Path,
        cause: Cause,
        now: Instant,
    ) -> PathReason {
        let lately = |at: Instant| now.saturating_duration_since(at) <= MOVE;
        let has_moved = self.moved.is_some_and(lately);
        match (before, cause) {
            (_, Cause::Chosen(Choice::Inherited)) => PathReason::TakenOver,
            (_, Cause::Recovered) => PathReason::Recovered,
            (None, _) if ended.is_none() => PathReason::First,
            (Some(before), _) if is_promotion(before, path) => PathReason::Promoted,
            _ if has_moved => PathReason::NetworkChanged,
            (None, _) => ended.unwrap_or(PathReason::First),
            (_, Cause::Silent | Cause::Link(Left::Silent)) => PathReason::Silent,
            (_, Cause::Link(Left::Slower)) => PathReason::Better,
            (Some(Path::Tcp(_)), Cause::Link(Left::Gone)) => PathReason::Closed,
            (_, Cause::Link(Left::Gone)) => PathReason::RelayLost,
            (_, Cause::Chosen(choice)) => match choice {
                Choice::ByPeer => PathReason::ChosenByPeer,
                Choice::Silent => PathReason::Silent,
                Choice::Moved => PathReason::PeerMoved,
                Choice::First | Choice::Better | Choice::Inherited => PathReason::Better,
            },
            (Some(before), Cause::Exchange { ours, answers }) => {
                let address = |path: Path| path.endpoint().map(|to| to.ip());
                let elsewhere = address(before)
                    .zip(address(path))
                    .is_some_and(|(before, now)| before != now);
                match (ours, answers) {
                    (false, _) if elsewhere => PathReason::PeerMoved,
                    (true, false) => PathReason::Silent,
                    _ => PathReason::Renewed,
                }
            }
        }
    }

    fn end(&mut self, why: PathReason) {
        (self.serving, self.ended) = (None, Some(why));
    }
}

/// Whether the path is of a better kind: straight to the peer, and over UDP.
fn is_promotion(before: Path, path: Path) -> bool {
    let worth = |path: Path| match path {
        Path::Relayed(_) => 0,
        Path::Tcp(_) => 1,
        Path::Direct(_) => 2,
    };
    worth(path) > worth(before)
}

#[cfg(test)]
mod tests {
    use punch_signal_protocol::RelayLink;
    use punch_traversal::SocketId;

    use super::*;
    use crate::start::start;
    use crate::{RelayPath, ServerId, TcpId, TcpPath};

    fn direct(host: u8) -> Path {
        Path::direct(SocketId::MAIN_V4, ([192, 0, 2, host], 51_820).into())
    }

    fn relayed(server: u32) -> Path {
        Path::Relayed(RelayPath {
            server: ServerId(server),
            link: RelayLink(1),
        })
    }

    fn tcp(number: u32) -> Path {
        Path::Tcp(TcpPath {
            connection: TcpId(number),
            remote: ([192, 0, 2, 1], 51_820).into(),
        })
    }

    const FIRST: Cause = Cause::Chosen(Choice::First);

    fn exchange(ours: bool, answers: bool) -> Cause {
        Cause::Exchange { ours, answers }
    }

    #[test]
    fn each_turn_of_a_connection_has_its_reason() {
        use PathReason::*;
        let (mut course, now) = (Course::default(), start());
        for (path, cause, reason) in [
            (relayed(1), Cause::Link(Left::Gone), First),
            (relayed(2), Cause::Link(Left::Slower), Better),
            (relayed(1), Cause::Link(Left::Silent), Silent),
            (relayed(2), Cause::Link(Left::Gone), RelayLost),
            (tcp(1), Cause::Link(Left::Slower), Promoted),
            (tcp(2), Cause::Link(Left::Gone), Closed),
            (direct(1), FIRST, Promoted),
            (direct(2), Cause::Chosen(Choice::Better), Better),
            (direct(1), Cause::Chosen(Choice::ByPeer), ChosenByPeer),
            (direct(2), Cause::Chosen(Choice::Moved), PeerMoved),
            (direct(1), Cause::Chosen(Choice::ByPeer), ChosenByPeer),
            (direct(2), Cause::Chosen(Choice::Silent), Silent),
            (relayed(1), Cause::Silent, Silent),
            (direct(2), Cause::Recovered, Recovered),
            (direct(3), exchange(false, true), PeerMoved),
            (direct(3), exchange(false, false), Renewed),
            (direct(3), exchange(true, true), Renewed),
            (direct(4), exchange(true, false), Silent),
            (direct(4), Cause::Chosen(Choice::Inherited), TakenOver),
        ] {
            assert_eq!(course.turn(path, cause, now), reason, "{path} {cause:?}");
        }
    }

    #[test]
    fn what_has_ended_a_path_is_the_reason_of_the_next_one_and_goodbye_forgets_it() {
        let (mut course, now) = (Course::default(), start());
        for (before, reason) in [
            (direct(1), PathReason::Silent),
            (relayed(1), PathReason::RelayLost),
            (tcp(1), PathReason::Closed),
        ] {
            course.turn(before, FIRST, now);
            course.settle(true, true);
            course.settle(false, true);
            assert_eq!(course.turn(direct(2), FIRST, now), reason);
            course.settle(false, false);
            assert_eq!(course.turn(direct(2), FIRST, now), PathReason::First);
            course.settle(false, false);
        }
        course.turn(relayed(1), FIRST, now);
        course.handle_forbidden();
        course.settle(false, true);
        let reason = course.turn(direct(2), FIRST, now);
        assert_eq!(reason, PathReason::RelayForbidden);
        course.handle_forbidden();
        assert_eq!(course.serving(), Some(direct(2)));
    }

    #[test]
    fn a_path_that_comes_soon_after_a_move_comes_of_it_and_the_next_one_does_not() {
        let (mut course, now) = (Course::default(), start());
        course.handle_moved(now);
        assert_eq!(course.turn(direct(1), FIRST, now), PathReason::First);
        course.handle_moved(now);
        let soon = now + Duration::from_secs(2);
        let reason = course.turn(relayed(1), Cause::Silent, soon);
        assert_eq!(reason, PathReason::NetworkChanged);
        assert_eq!(course.turn(direct(2), FIRST, soon), PathReason::Promoted);
        let better = Cause::Chosen(Choice::Better);
        assert_eq!(course.turn(direct(3), better, soon), PathReason::Better);
        course.handle_moved(soon);
        let late = soon + MOVE + Duration::from_secs(1);
        assert_eq!(course.turn(direct(1), better, late), PathReason::Better);
    }
}
