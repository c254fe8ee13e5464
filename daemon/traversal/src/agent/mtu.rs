//! The agent's part in finding out how long packets may be on its path: which path that is, and the checks that are padded.

use std::time::Instant;

use punch_stun_protocol::{Message, TransactionId};

use super::checklist::Checklist;

use super::outputs::{AgentEvent, Outputs};
use crate::messages::Messages;
use crate::pmtu::{Around, PathMtu};
use crate::socket::{DirectPath, Transmit};

/// See the module.
#[derive(Debug)]
pub(super) struct Mtu {
    /// The longest packet inside the tunnel that anybody sends.
    inside: u16,
    /// The path that is looked at, which is the selected one.
    current: Option<(DirectPath, PathMtu)>,
}

impl Mtu {
    /// No path yet; `inside` is the longest packet inside the tunnel that anybody sends, in bytes.
    pub(super) fn new(inside: u16) -> Self {
        Self {
            inside,
            current: None,
        }
    }

    /// Whether this is the transaction of one of the padded checks.
    pub(super) fn owns(&self, id: TransactionId) -> bool {
        self.current.as_ref().is_some_and(|(_, mtu)| mtu.owns(id))
    }

    /// A response has come along this path; returns whether it bears the number of a padded check. It counts if the peer has made it.
    pub(super) fn handle_response(
        &mut self,
        path: DirectPath,
        message: &Message<'_>,
        messages: &Messages,
        outputs: &mut Outputs,
        now: Instant,
    ) -> bool {
        let id = message.transaction;
        let Some((current, mtu)) = self.current.as_mut().filter(|(_, mtu)| mtu.owns(id)) else {
            return false;
        };
        if *current == path && messages.is_success(message) && mtu.handle_answer(id, now) {
            outputs.say(AgentEvent::Mtu(mtu.inside()));
        }
        true
    }

    /// The longest packet inside the tunnel that fits on the path, if that was found out.
    pub(super) fn known(&self) -> Option<u16> {
        let (_, mtu) = self.current.as_ref()?;
        mtu.is_known().then(|| mtu.inside())
    }

    /// Packets of the tunnel go over the path.
    pub(super) fn handle_traffic(&mut self, now: Instant) {
        if let Some((_, mtu)) = &mut self.current {
            mtu.handle_traffic(now);
        }
    }

    /// The path may be another one than it was.
    pub(super) fn doubt(&mut self, now: Instant) {
        if let Some((_, mtu)) = &mut self.current {
            mtu.doubt(now);
        }
    }

    /// This path is selected, or none.
    pub(super) fn follow(&mut self, selected: Option<DirectPath>, now: Instant) {
        if self.current.as_ref().map(|(path, _)| *path) != selected {
            let begin = |path: DirectPath| PathMtu::new(path.remote.ip(), self.inside, now);
            self.current = selected.map(|path| (path, begin(path)));
        }
    }

    /// Follows the selected path, and does what is due there.
    pub(super) fn handle_timeout(
        &mut self,
        checklist: &mut Checklist,
        messages: &mut Messages,
        outputs: &mut Outputs,
        now: Instant,
    ) {
        self.follow(checklist.path(), now);
        let Some((path, mtu)) = &mut self.current else {
            return;
        };
        let around = Around {
            rtt: checklist.selected().and_then(|pair| pair.rtt),
            answering: checklist.is_answering(),
        };
        let (is_news, due) = mtu.handle_timeout(around, now);
        if is_news {
            outputs.say(AgentEvent::Mtu(mtu.inside()));
        }
        let (Some(due), Some(pair)) = (due, checklist.selected()) else {
            return;
        };
        let id = messages.transaction();
        let bytes = messages.padded_check(id, pair.worth(), due.payload);
        mtu.sent(id, due.size, around, now);
        outputs.pace.count(now);
        outputs.transmits.push_back(Transmit {
            whole: true,
            ..Transmit::new(path.socket, path.remote, bytes)
        });
        if due.with_short {
            checklist.verify_paths(now);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let (_, mtu) = self.current.as_ref()?;
        mtu.poll_timeout()
    }
}
