//! Why a change is refused, in words that tell what to type instead.

use std::fmt;
use std::net::IpAddr;

use punch_api::{ApiError, ErrorCode, ForwardKey, PeerName, ServerAddress, Target, ValueError};

use punch_signal_protocol::MEETING_PORT;

use crate::model::{MAX_FORWARDS, MAX_SERVERS};

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A new peer has the name of another one.
    #[error(
        "a peer called {0} exists already; choose another name, or remove it with: punchctl peer remove {0}"
    )]
    PeerExists(PeerName),
    /// A peer is to get the name of another one.
    #[error("a peer called {0} exists already")]
    NameTaken(PeerName),
    /// The other machine of an invitation is to get the name of another peer.
    #[error(
        "a peer called {name} exists already; give another name, such as: --name {free}; the same machine once more keeps its name, and needs no --name"
    )]
    NameInUse {
        /// The name.
        name: PeerName,
        /// One that is free.
        free: PeerName,
    },
    /// No peer has that name.
    #[error("no peer is called {name}; {hint}")]
    NoSuchPeer {
        /// The name.
        name: PeerName,
        /// The names that there are, or how one comes about.
        hint: String,
    },
    /// The peer would be this machine.
    #[error("that is this machine's own key; ask the other machine for its: punchctl id")]
    OwnKey,
    /// Another peer has the same key.
    #[error(
        "that machine is a peer already, called {other}; rename it with: punchctl peer rename {other} {name}"
    )]
    SameMachine {
        /// The name of the other peer.
        other: PeerName,
        /// The name that the new one was to have.
        name: PeerName,
    },
    /// An address inside the tunnel is taken.
    #[error("the peer's overlay address {ip} is that of {holder} too{way_out}", way_out = way_out(*ip))]
    AddressTaken {
        /// The address.
        ip: IpAddr,
        /// The peer that has it.
        holder: Holder,
    },
    /// The key of a plain WireGuard peer is none.
    #[error("that is not a WireGuard key: 32 bytes in base64, as `wg pubkey` prints")]
    NotAKey,
    /// The key of a plain WireGuard peer proves nothing.
    #[error("that WireGuard key is of small order: anybody could take the part of its owner")]
    SmallOrder,
    /// The preshared key is none.
    #[error("the file holds no preshared key: 32 bytes in base64, as `wg genpsk` prints")]
    NotAPresharedKey,
    /// No machine can have that address inside the tunnel.
    #[error("{0} cannot be an address inside the tunnel")]
    NotInside(IpAddr),
    /// This machine reaches that address otherwise.
    #[error("{ip} cannot be the address of a peer inside the tunnel: {how}")]
    Reached {
        /// The address.
        ip: IpAddr,
        /// How it is reached, in words.
        how: String,
    },
    /// The endpoint lies inside the tunnel that leads to it.
    #[error(
        "{0} cannot be both the endpoint and the address inside the tunnel: the tunnel would lead into itself"
    )]
    IntoItself(IpAddr),
    /// A plain WireGuard peer has an IPv4 address, and IPv4 is off.
    #[error("IPv4 inside the tunnel is switched off here ([overlay] ipv4 in punchd.toml)")]
    Ipv4Off,
    /// Some of the ports are forwarded already.
    #[error(
        "{key} is forwarded already, to {target}; end that first with: punchctl unforward {key}"
    )]
    Forwarded {
        /// The forward that has them.
        key: ForwardKey,
        /// Where it leads.
        target: Target,
    },
    /// A plain WireGuard peer is to meet others here.
    #[error(
        "{0} is a plain WireGuard peer, which knows of no meeting place: only peers that run Punch meet here"
    )]
    NoGuest(PeerName),
    /// Peers are to meet here, and their port is forwarded.
    #[error(
        "peers would meet at TCP port {MEETING_PORT} inside the tunnel, which is forwarded; end that first with: punchctl unforward {0}"
    )]
    MeetingForwarded(ForwardKey),
    /// The port is forwarded at which peers meet.
    #[error(
        "{0} cannot be forwarded: peers that were allowed to (punchctl allow NAME --relay) meet at TCP port {MEETING_PORT} inside the tunnel"
    )]
    Meeting(ForwardKey),
    /// There are as many forwards as there may be.
    #[error(
        "{MAX_FORWARDS} forwards are the most; a range of ports counts as one: punchctl forward tcp 8000-8010"
    )]
    TooManyForwards,
    /// There is no such forward.
    #[error("{}", not_forwarded(*.key, .known))]
    NotForwarded {
        /// What was to be ended.
        key: ForwardKey,
        /// All forwards that there are.
        known: Vec<ForwardKey>,
    },
    /// There are as many servers as there may be.
    #[error("{MAX_SERVERS} servers are the most")]
    TooManyServers,
    /// A server is removed that is not there.
    #[error("{0} is not in use")]
    ServerNotInUse(ServerAddress),
    /// A server is removed that the administrator has set.
    #[error("{0} stands in punchd.toml, where the administrator removes it")]
    ServerFixed(ServerAddress),
    /// A value is not what it should be.
    #[error(transparent)]
    Value(#[from] ValueError),
}

/// The owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The machine that is configured.
    ThisMachine,
    /// A peer of it.
    Peer(PeerName),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisMachine => f.write_str("this machine"),
            Self::Peer(name) => name.fmt(f),
        }
    }
}

fn way_out(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() {
        "; add it for IPv6 only with: --ipv6-only"
    } else {
        ""
    }
}

fn not_forwarded(key: ForwardKey, known: &[ForwardKey]) -> String {
    let names: Vec<_> = known.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "nothing is forwarded".to_owned()
    } else {
        format!("{key} is not forwarded; there is {}", names.join(", "))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::PeerExists(_)
            | Refusal::NameTaken(_)
            | Refusal::NameInUse { .. }
            | Refusal::SameMachine { .. }
            | Refusal::AddressTaken { .. }
            | Refusal::Reached { .. }
            | Refusal::Forwarded { .. }
            | Refusal::MeetingForwarded(_)
            | Refusal::Meeting(_)
            | Refusal::TooManyForwards
            | Refusal::TooManyServers
            | Refusal::ServerFixed(_) => ErrorCode::Conflict,
            Refusal::NoSuchPeer { .. }
            | Refusal::NotForwarded { .. }
            | Refusal::ServerNotInUse(_) => ErrorCode::NotFound,
            Refusal::OwnKey
            | Refusal::NotAKey
            | Refusal::SmallOrder
            | Refusal::NotAPresharedKey
            | Refusal::NotInside(_)
            | Refusal::IntoItself(_)
            | Refusal::Ipv4Off
            | Refusal::NoGuest(_)
            | Refusal::Value(_) => ErrorCode::Invalid,
        };
        Self::new(code, refusal)
    }
}
