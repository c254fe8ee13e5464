//! The relay of the world's signalling server: links between hosts that have joined with one token.

use std::collections::BTreeMap;

use punch_signal_protocol::{Frame, RelayLink, RelayToken};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Switchboard {
    waiting: BTreeMap<RelayToken, usize>,
    /// Each end of a link, and the other one.
    ends: BTreeMap<(usize, RelayLink), (usize, RelayLink)>,
    last: u32,
    /// Takes packets, and passes none on.
    pub(crate) swallows: bool,
    /// Packets that were passed on.
    pub(crate) passed: u64,
}

impl Switchboard {
    /// A host has joined; returns what is said to whom.
    pub(crate) fn join(&mut self, index: usize, token: RelayToken) -> Vec<(usize, Frame)> {
        let Some(other) = self.waiting.remove(&token).filter(|other| *other != index) else {
            self.waiting.insert(token, index);
            return Vec::new();
        };
        let [one, two] = [index, other].map(|host| {
            self.last += 1;
            (host, RelayLink(self.last))
        });
        self.ends.insert(one, two);
        self.ends.insert(two, one);
        let ready = |(host, link)| (host, Frame::RelayReady { token, link });
        vec![ready(one), ready(two)]
    }

    /// A host has left a link; returns what is said to whom.
    pub(crate) fn leave(&mut self, index: usize, link: RelayLink) -> Vec<(usize, Frame)> {
        let Some(other) = self.ends.remove(&(index, link)) else {
            return Vec::new();
        };
        self.ends.remove(&other);
        vec![(other.0, Frame::RelayGone(other.1))]
    }

    /// A host is gone; returns what is said to whom.
    pub(crate) fn sign_out(&mut self, index: usize) -> Vec<(usize, Frame)> {
        self.waiting.retain(|_, host| *host != index);
        let links: Vec<_> = self
            .ends
            .keys()
            .filter(|(host, _)| *host == index)
            .copied()
            .collect();
        links
            .into_iter()
            .flat_map(|(host, link)| self.leave(host, link))
            .collect()
    }

    /// Where a packet over this link goes.
    pub(crate) fn pass(&mut self, index: usize, link: RelayLink) -> Option<(usize, RelayLink)> {
        let other = self.ends.get(&(index, link)).copied();
        let other = other.filter(|_| !self.swallows);
        self.passed += u64::from(other.is_some());
        other
    }

    /// How many links there are.
    pub(crate) fn links(&self) -> usize {
        self.ends.len() / 2
    }
}
