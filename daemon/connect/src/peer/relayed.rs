//! An attempt's way over relays: what stands until a direct path does, and behind it.

use punch_signal_protocol::RelayToken;

use crate::path::RelayPath;

/// Links of one attempt, one of each server, that are kept: the others are left.
const MAX_LINKS: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Relayed {
    token: RelayToken,
    /// Whether both ends have agreed to be reached over relays.
    agreed: bool,
    joined: bool,
    /// Links that stand; the first one serves where no direct path does.
    links: Vec<RelayPath>,
    /// Whether another link stands first since the last [`Self::take_changed`].
    changed: bool,
}

impl Relayed {
    /// No link yet. Both ends know the token by their exchange.
    pub(super) fn new(token: RelayToken, agreed: bool) -> Self {
        Self {
            token,
            agreed,
            joined: false,
            links: Vec::new(),
            changed: false,
        }
    }

    pub(super) fn token(&self) -> RelayToken {
        self.token
    }

    /// The link that serves, or would.
    pub(super) fn path(&self) -> Option<RelayPath> {
        self.links.first().copied()
    }

    /// The token, if servers are to be asked for a link and were not yet.
    pub(super) fn join(&mut self) -> Option<RelayToken> {
        let wanted = self.agreed && !std::mem::replace(&mut self.joined, true);
        wanted.then_some(self.token)
    }

    /// A server has made a link; returns whether it is kept.
    pub(super) fn handle_ready(&mut self, path: RelayPath) -> bool {
        if !self.joined || self.links.len() >= MAX_LINKS {
            return false;
        }
        self.links.push(path);
        self.changed |= self.links.len() == 1;
        true
    }

    /// Links have ended; returns whether one of these was among them.
    pub(super) fn handle_gone(&mut self, is_gone: impl Fn(RelayPath) -> bool) -> bool {
        let (before, first) = (self.links.len(), self.path());
        self.links.retain(|link| !is_gone(*link));
        self.changed |= self.path() != first;
        self.links.len() < before
    }

    /// Whether another link serves, or would, than before.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All links, which are to be left.
    pub(super) fn into_links(self) -> Vec<RelayPath> {
        self.links
    }
}
