//! What the engine has to say.

use punch_connect::{Connector, LinkState, News, ServerId, SocketOrder, TcpOrder, channel};
use punch_forward::Crowded;
use punch_packet::PeerHandle;

use crate::pings::Pong;

/// What the engine has to say to the driver.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// The state of a peer's connection has changed.
    State {
        /// The peer at the other end.
        peer: PeerHandle,
        /// The state that the connection has now.
        state: LinkState,
        /// Over which channel the exchange was made that serves, where one does.
        met_over: Option<ServerId>,
    },
    /// An order for the owner of the sockets.
    Socket(SocketOrder),
    /// An order for the owner of TCP connections.
    Tcp(TcpOrder),
    /// Something authentic of a plain WireGuard peer has come from another address than before.
    Roamed {
        /// The peer.
        peer: PeerHandle,
        /// Where it is now.
        to: std::net::SocketAddr,
    },
    /// Packets to a peer that answers checks may be so long from now on: where the path changed, or more of it is known.
    Mtu {
        /// The peer.
        peer: PeerHandle,
        /// The longest packet inside the tunnel, in bytes.
        mtu: usize,
        /// What it was found out to be before, if it was now found out to be something else.
        before: Option<usize>,
    },
    /// What the connector has found out.
    News(News),
    /// A peer says that this machine may meet others at it, in this session and at most once a second.
    Invited {
        /// The peer that serves the meeting place.
        peer: PeerHandle,
    },
    /// A peer answered a ping.
    Pong(Pong),
    /// There was no room for streams of a peer.
    Crowded(Crowded),
}

impl EngineEvent {
    /// The state of a connection has changed; of one that stands it is told, too, over which channel it has come about.
    pub(crate) fn state(connector: &Connector, peer: PeerHandle, state: LinkState) -> Self {
        let stands = state == LinkState::Connected;
        let met_over = channel::met_over(connector, peer).filter(|_| stands);
        Self::State {
            peer,
            state,
            met_over,
        }
    }
}
