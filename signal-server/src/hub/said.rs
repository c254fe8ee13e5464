//! What a client says, judged as far as that needs nothing of the hub's.

use punch_signal_protocol::{Capabilities, Frame, PeerId, RelayLink, RelayToken, login_message};

/// A client's message, decoded and with its signature verified: work that needs no access to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The client claims an identity.
    Proof {
        /// The identity that it claims.
        id: PeerId,
        /// The name by which it has dialled the server.
        server: String,
        /// Whether the signature over challenge and name is the identity's.
        genuine: bool,
    },
    /// An envelope is to be passed on.
    Send {
        /// The receiver.
        to: PeerId,
        /// The sealed bytes.
        envelope: Vec<u8>,
    },
    /// The client wants to hear when this peer appears.
    Watch(PeerId),
    /// The client no longer wants to hear of this peer.
    Unwatch(PeerId),
    /// The client tells what it can do beyond version 1 of the protocol.
    Capabilities(Capabilities),
    /// The client wants a relay link with the one that joins with the same token.
    Join(RelayToken),
    /// The client no longer needs this link.
    Leave(RelayLink),
    /// Nothing that a client may say.
    Nonsense,
}

impl Said {
    /// Reads a message of the client that was sent this challenge.
    pub fn read(bytes: &[u8], challenge: &[u8; 32]) -> Self {
        match Frame::decode(bytes) {
            Ok(Frame::Proof {
                id,
                signature,
                server,
            }) => Self::Proof {
                genuine: id.verify(&login_message(challenge, &server), &signature),
                id,
                server,
            },
            Ok(Frame::Send { to, envelope }) => Self::Send { to, envelope },
            Ok(Frame::Watch(id)) => Self::Watch(id),
            Ok(Frame::Unwatch(id)) => Self::Unwatch(id),
            Ok(Frame::ClientCapabilities(set)) => Self::Capabilities(set),
            Ok(Frame::RelayJoin(token)) => Self::Join(token),
            Ok(Frame::RelayLeave(link)) => Self::Leave(link),
            Ok(
                Frame::Challenge(_)
                | Frame::Welcome
                | Frame::Deliver { .. }
                | Frame::Unreachable { .. }
                | Frame::Appeared(_)
                | Frame::Refused(_)
                | Frame::ServerCapabilities(_)
                | Frame::RelayReady { .. }
                | Frame::RelayGone(_),
            )
            | Err(_) => Self::Nonsense,
        }
    }
}
