//! How long the packets are that a peer gets.

use punch_connect::Path;
use punch_signal_protocol::MAX_RELAY_PACKET;
use punch_traversal::{MAX_STREAM_DATAGRAM, first_mtu};
use punch_wireguard::OVERHEAD;

/// The longest packet inside the tunnel that goes to one peer as it is, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerMtu {
    /// What the tunnel's interface has.
    host: usize,
    now: usize,
    /// Whether it was found out, and not only assumed.
    is_known: bool,
    /// Whether nobody may cut what fits: a translator would, and what is cut may not arrive.
    is_whole: bool,
    told: Option<usize>,
    /// What was found out last.
    found: Option<usize>,
}

impl PeerMtu {
    /// Of a peer without a path.
    pub(crate) fn new(host: usize) -> Self {
        Self {
            host,
            now: host,
            is_known: true,
            is_whole: false,
            told: None,
            found: None,
        }
    }

    pub(crate) fn get(&self) -> usize {
        self.now
    }

    /// Whether a longer packet fits is not known yet: until it is, one that nobody may cut takes its chance.
    pub(crate) fn is_assumed(&self) -> bool {
        !self.is_known
    }

    /// Packets take this path from now on, of which nothing is known; over the relay's frames and TCP it is known what fits.
    pub(crate) fn begin(&mut self, path: Path, checks: bool) {
        let mtu = match path {
            Path::Relayed(_) => MAX_RELAY_PACKET - OVERHEAD,
            Path::Tcp(_) => MAX_STREAM_DATAGRAM - OVERHEAD,
            Path::Direct(direct) if checks => first_mtu(direct.remote.ip()).into(),
            // Nothing can be found out with it: the administrator's choice for the interface counts.
            Path::Direct(_) => self.host,
        };
        self.find(mtu, false);
        self.is_known = !(checks && matches!(path, Path::Direct(_)));
    }

    /// So long a packet fits on the path; `whole` is whether nobody may cut it there.
    pub(crate) fn find(&mut self, mtu: usize, whole: bool) {
        self.now = mtu.min(self.host);
        (self.is_known, self.is_whole) = (true, whole);
    }

    /// Whether nobody may cut packets on their way.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What fits, if that was not told yet; and what was found out before, if something else has been found out since.
    pub(crate) fn untold(&mut self) -> Option<(usize, Option<usize>)> {
        let changed = self.told.replace(self.now) != Some(self.now);
        let before = match self.is_known {
            true => self.found.replace(self.now),
            false => None,
        };
        let before = before.filter(|before| *before != self.now);
        (changed || before.is_some()).then_some((self.now, before))
    }

    /// There is no connection any more: what is found out in the next one is no news of this one.
    pub(crate) fn forget(&mut self) {
        self.found = None;
    }
}
