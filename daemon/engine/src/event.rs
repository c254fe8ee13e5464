//! What the engine has to say.

use punch_connect::{LinkState, Path};
use punch_packet::PeerHandle;
use punch_traversal::{Family, NatProfile, SocketId, StepKind};

use crate::pings::Pong;

/// What the engine has to say to the driver.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// A peer's connection does otherwise now.
    State {
        /// Who.
        peer: PeerHandle,
        /// How it does.
        state: LinkState,
    },
    /// A peer's packets take another path.
    Selected {
        /// Who.
        peer: PeerHandle,
        /// Where.
        path: Path,
    },
    /// The newest stamps with a peer, to be kept across restarts.
    Stamps {
        /// Who.
        peer: PeerHandle,
        /// Sent and seen.
        stamps: (u64, u64),
    },
    /// A peer's offer was refused: its clock is off by so many seconds.
    Stale {
        /// Whose.
        peer: PeerHandle,
        /// The peer's clock minus ours.
        seconds: i64,
    },
    /// A search for ports begins.
    Searching {
        /// For whom.
        peer: PeerHandle,
        /// Which.
        step: StepKind,
        /// The chance that it finds a path, from 0 to 1.
        chance: f64,
    },
    /// What has worked with a peer from this network, to be kept across restarts.
    Worked {
        /// With whom.
        peer: PeerHandle,
        /// What stands for this network.
        network: u64,
        /// What has worked.
        step: StepKind,
    },
    /// Open a socket and report with [`Engine::handle_socket`].
    OpenSocket {
        /// Its number.
        socket: SocketId,
        /// Its family.
        family: Family,
    },
    /// Close a socket.
    CloseSocket {
        /// Its number.
        socket: SocketId,
    },
    /// A netcheck is finished.
    Netcheck(Vec<NatProfile>),
    /// This machine's addresses are others than those told before, or it has slept.
    NetworkChanged,
    /// A peer answered a ping.
    Pong(Pong),
}
