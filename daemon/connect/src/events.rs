//! What a connector is made from, and what it has to say.

use std::net::SocketAddr;
use std::time::Duration;

use punch_packet::PeerHandle;
use punch_signal_protocol::{Frame, Identity, Ipv4Range, PeerId, seal};
use punch_traversal::{
    AgentStatus, Budget, DirectPath, Family, Loss, NatOverrides, NatProfile, NatSummary, SocketId,
    StepKind, StepReport,
};

use crate::path::{Path, ServerId, TcpId, TcpPath};
use crate::{Contact, PathReason};

/// A frame for a signalling server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The server that the frame is for.
    pub server: ServerId,
    /// The frame to send.
    pub frame: Frame,
}

/// What a connector is made from.
pub struct ConnectorConfig {
    /// This machine's identity.
    pub identity: Identity,
    /// The range of its overlay IPv4 address, told to peers.
    pub ipv4_range: Option<Ipv4Range>,
    /// Randomness; the same seed and the same inputs give the same outputs.
    pub seed: [u8; 32],
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// What an attempt may ask of the routers.
    pub budget: Budget,
    /// What the administrator says about the NAT.
    pub nat: NatOverrides,
    /// The longest packet inside the tunnel that is ever sent, in bytes.
    pub mtu: u16,
    /// Whether packets may go through signalling servers where no direct path is.
    pub relay: bool,
    /// Whether TCP connections to peers are made where UDP does not pass.
    pub tcp: bool,
}

/// What the user wants of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserWish {
    /// The user has said nothing: the peer's offers are answered, and this machine makes none.
    #[default]
    Unsaid,
    /// A connection (`up`).
    Up,
    /// No connection (`down`): the peer's offers are ignored, too.
    Down,
}

/// How many envelopes were not let through, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DroppedEnvelopes {
    /// From an identity that is no peer.
    pub strangers: u64,
    /// From a peer: it does not open, or was replayed, or is stale, or came too often.
    pub unusable: u64,
}

/// What a connector has to say, by who acts on it.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnectorEvent {
    /// An order for the owner of the sockets.
    Socket(SocketOrder),
    /// A step in the life of a peer's session, for the owner of the sessions.
    Session(SessionEvent),
    /// An order for the owner of TCP connections.
    Tcp(TcpOrder),
    /// A message for the other end of a relay link or a TCP connection: a check or an answer.
    Link {
        /// The link or connection that it goes over.
        path: Path,
        /// The bytes.
        message: Vec<u8>,
    },
    /// Something to tell and to remember.
    News(News),
}

/// An order for the owner of the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOrder {
    /// Open a socket for one purpose and report with [`crate::Connector::handle_socket`].
    Open {
        /// The number of the new socket.
        socket: SocketId,
        /// The family of the new socket.
        family: Family,
    },
    /// Close a socket.
    Close {
        /// The number of the socket.
        socket: SocketId,
    },
}

/// An order for the owner of TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpOrder {
    /// Connect, and report with [`crate::Connector::handle_tcp_state`].
    Dial(TcpPath),
    /// Close a connection, or stop making it; nothing more is heard of it.
    Close(TcpId),
    /// Ask this STUN server over TCP as what it sees the port on which connections are taken, and report an answer with
    /// [`crate::over_tcp::handle_seen`]. The connection stands for about twenty seconds then.
    Ask(SocketAddr),
}

/// A step in the life of a peer's session. That a path is selected is [`News::Selected`], which others need, too.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The peer has proven a new exchange, by a check or because it has come to the relay: a session with this preshared key may begin.
    Proven {
        /// The peer that holds the exchange's credentials.
        peer: PeerHandle,
        /// The preshared key of the new session.
        preshared: seal::PresharedKey,
        /// Whether this machine starts the handshake.
        initiator: bool,
    },
    /// No path to the peer is left.
    Lost {
        /// The peer that is not reached any more.
        peer: PeerHandle,
    },
    /// The peer has said goodbye, or this machine has.
    Closed {
        /// The peer whose sessions end.
        peer: PeerHandle,
    },
    /// A proven exchange came to nothing beside the one that serves: its session is not needed.
    Abandoned {
        /// The peer whose newest session ends.
        peer: PeerHandle,
    },
}

/// What a connector has found out. It is defined here once and passed through by all above.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// Packets for a peer take this path from now on.
    Selected {
        /// The peer that the path leads to.
        peer: PeerHandle,
        /// The path that serves now.
        path: Path,
        /// Why this path serves, and the one before does not.
        why: PathReason,
    },
    /// It was found out that packets inside the tunnel of up to so many bytes fit on this direct path to a peer. Until this is said of a
    /// path that is selected, [`punch_traversal::first_mtu`] is assumed.
    Mtu {
        /// The peer that the path leads to.
        peer: PeerHandle,
        /// The path.
        path: DirectPath,
        /// The longest packet inside the tunnel.
        mtu: u16,
        /// Whether nobody may cut packets on their way, because a translator in front of the peer would.
        whole: bool,
    },
    /// The newest stamps with a peer, to be kept across restarts.
    Stamps {
        /// The peer that offers are exchanged with.
        peer: PeerHandle,
        /// Of the newest offer or answer sent, in milliseconds since 1970.
        sent: u64,
        /// Of the newest offer accepted.
        seen: u64,
    },
    /// A peer's offer opened and was refused because its clock differs too much from ours.
    Stale {
        /// The peer with the other clock.
        peer: PeerHandle,
        /// The peer's clock minus ours, in seconds.
        seconds: i64,
    },
    /// The peer has refused this machine's offer, for another reason than before.
    Refused {
        /// The peer that refuses.
        peer: PeerHandle,
        /// What it has said.
        refusal: PeerRefusal,
    },
    /// A machine that is no peer has called, for the first time in a while.
    Stranger {
        /// Its identity, proven.
        id: PeerId,
    },
    /// A search for ports begins.
    Searching {
        /// The peer that is searched for.
        peer: PeerHandle,
        /// The kind of search.
        step: StepKind,
        /// The chance that it finds a path, from 0 to 1.
        chance: f64,
    },
    /// A step has found a path from this network; to be kept across restarts.
    Worked {
        /// The peer that was found.
        peer: PeerHandle,
        /// Stands for this network.
        network: u64,
        /// The step that has worked.
        step: StepKind,
    },
    /// The end of this network's mappings was reached.
    Capacity {
        /// Stands for this network.
        network: u64,
        /// The mappings that this machine held just then.
        mappings: u32,
    },
    /// A netcheck is finished.
    Netcheck(Vec<NatProfile>),
    /// The addresses changed, or the machine woke from sleep.
    NetworkChanged,
}

/// The reason that a peer has told for not answering offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRefusal {
    /// The clocks differ too much.
    Clock {
        /// This machine's clock minus the peer's, in seconds.
        ahead_s: i64,
    },
    /// The peer's version does not understand the offer.
    Version,
    /// The peer's user has said `down`.
    NotWanted,
    /// A reason that is newer than this version.
    Unknown,
}

/// The state of a peer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Nobody wants it.
    Down,
    /// Wanted, but the peer is on no signalling server, or none is reached.
    Waiting,
    /// An offer is out, or checks are under way.
    Connecting,
    /// There is a path.
    Connected,
}

/// What status shows of a peer's connection.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkStatus {
    /// The state of the connection.
    pub state: LinkState,
    /// The refusal that stands between the two, and its age.
    pub refused: Option<(PeerRefusal, Duration)>,
    /// How far calling the peer has come.
    pub contact: Contact,
    /// The checks, when there are any.
    pub agent: Option<AgentStatus>,
    /// The smoothed round trip of the path that serves, once it is known.
    pub round_trip: Option<Duration>,
    /// The loss on the path that serves, once enough checks have left on it.
    pub loss: Option<Loss>,
    /// The range of the peer's overlay IPv4 address, once it has said so.
    pub peer_range: Option<Option<Ipv4Range>>,
    /// What is known of this side's NAT.
    pub mine: Option<NatProfile>,
    /// What the peer has last told of its own.
    pub theirs: Option<NatSummary>,
    /// What the attempt that is under way, or the last one, has tried.
    pub steps: Vec<StepReport>,
    /// Attempts that have failed since there was a path.
    pub failures: u8,
    /// When the next attempt is due.
    pub retry_in: Option<Duration>,
    /// What this side may spend.
    pub budget: Budget,
    /// Over which channel the exchange was made that serves; `None` where there is none, or an earlier process has made it.
    pub met_over: Option<ServerId>,
}
