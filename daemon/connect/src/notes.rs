//! Sealed notes that come over a path: the ML-KEM exchange behind compact envelopes.
//!
//! Whoever sees checks pass knows the fragment that stands in front, and can send datagrams of this kind. Each costs one look into a table and,
//! only if it names an exchange whose envelopes were compact, one try to open it by that exchange's symmetric keys. Nothing asymmetric is
//! computed for what does not open, and each note opens once.

use std::time::Instant;

use punch_packet::PeerHandle;
use punch_signal_protocol::open_note_datagram;

use crate::path::Path;
use crate::{Connector, over_tcp};

/// Whether a datagram is of this kind, by its first byte.
pub fn is_note(datagram: &[u8]) -> bool {
    open_note_datagram(datagram).is_some()
}

/// A datagram has come over a path. Returns whether it was a note of an exchange that waits for it.
pub fn handle_datagram(
    connector: &mut Connector,
    from: Path,
    datagram: &[u8],
    now: Instant,
) -> bool {
    let Some((fragment, note)) = open_note_datagram(datagram) else {
        return false;
    };
    // A link leads to one peer, and nobody else is let in there.
    let owner: Option<PeerHandle> = match from {
        Path::Direct(path) if connector.network.is_inside(path.remote.ip()) => return false,
        Path::Direct(_) => connector.peers.by_fragment(fragment),
        Path::Relayed(link) => connector.link_owner(link),
        Path::Tcp(path) => over_tcp::owner(connector, path),
    };
    let taken = owner.is_some_and(|peer| connector.peers.handle_note(peer, fragment, note));
    if taken {
        connector.drain_children(now);
    }
    taken
}
