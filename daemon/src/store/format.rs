//! The formats of the files, and the values that are read from and written to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use punch_api::{
    Endpoint, ForwardKey, PeerId, PeerKey, PeerName, Secret, ServerAddress, ServerKind, Target,
    ValueError,
};
use punch_engine::StepKind;
use punch_state::{Forward, Peer, State};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The format of state.json that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;

/// Why a state.json is not read.
pub(super) enum Unreadable {
    /// It has another format than [`VERSION`].
    Format(u32),
    /// It is damaged.
    Damaged(anyhow::Error),
}

/// The state that the text of a state.json tells.
pub(super) fn parse_state(text: &str) -> Result<State, Unreadable> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.into());
    let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
    if version != VERSION {
        return Err(Unreadable::Format(version));
    }
    let file: StateFile = serde_json::from_str(text).map_err(damaged)?;
    State::try_from(file).map_err(|error| Unreadable::Damaged(error.into()))
}

/// The text of a state.json for this state.
pub(super) fn state_text(state: &State) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let file = StateFile::from(state.clone());
    Ok(Zeroizing::new(serde_json::to_vec_pretty(&file)?))
}

/// state.json, format 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    peers: BTreeMap<PeerName, StoredPeer>,
    forwards: Vec<StoredForward>,
    servers: Vec<StoredServer>,
    /// Written only where it is so: older versions read all others.
    #[serde(default, skip_serializing_if = "is_false")]
    refuses_public: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPeer {
    kind: StoredKind,
    up: bool,
    barred: bool,
    host: bool,
    /// Written only where it is so: older versions read all others.
    #[serde(default, skip_serializing_if = "is_false")]
    direct_only: bool,
    /// Written only where the peer may meet others here: older versions read all others.
    #[serde(default, skip_serializing_if = "is_false")]
    relay: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum StoredKind {
    Punch {
        id: PeerId,
        ipv6_only: bool,
    },
    Wireguard {
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<Endpoint>,
        address: IpAddr,
        preshared: Option<Secret>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredForward {
    key: ForwardKey,
    target: Target,
    /// All peers when empty.
    peers: Vec<PeerName>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredServer {
    kind: ServerKind,
    address: String,
}

impl From<Peer> for StoredPeer {
    fn from(peer: Peer) -> Self {
        Self {
            kind: match peer.key {
                PeerKey::Punch { key, ipv6_only } => StoredKind::Punch { id: key, ipv6_only },
                PeerKey::Wireguard {
                    key,
                    endpoint,
                    address,
                    preshared,
                } => StoredKind::Wireguard {
                    key,
                    endpoint,
                    address,
                    preshared,
                },
            },
            up: peer.up,
            barred: peer.blocked,
            host: peer.host,
            direct_only: peer.direct_only,
            relay: peer.relay,
        }
    }
}

impl From<StoredPeer> for Peer {
    fn from(peer: StoredPeer) -> Self {
        Self {
            key: match peer.kind {
                StoredKind::Punch { id, ipv6_only } => PeerKey::Punch { key: id, ipv6_only },
                StoredKind::Wireguard {
                    key,
                    endpoint,
                    address,
                    preshared,
                } => PeerKey::Wireguard {
                    key,
                    endpoint,
                    address,
                    preshared,
                },
            },
            up: peer.up,
            blocked: peer.barred,
            host: peer.host,
            direct_only: peer.direct_only,
            relay: peer.relay,
        }
    }
}

impl From<State> for StateFile {
    fn from(state: State) -> Self {
        let peers = state.peers.into_iter();
        let forwards = state.forwards.into_iter();
        Self {
            version: VERSION,
            peers: peers.map(|(name, peer)| (name, peer.into())).collect(),
            forwards: forwards
                .map(|forward| StoredForward {
                    key: forward.key,
                    target: forward.target,
                    peers: forward.peers,
                })
                .collect(),
            servers: state
                .servers
                .iter()
                .map(|server| StoredServer {
                    kind: server.kind(),
                    address: server.as_str().to_owned(),
                })
                .collect(),
            refuses_public: state.refuses_public,
        }
    }
}

impl TryFrom<StateFile> for State {
    type Error = ValueError;

    fn try_from(file: StateFile) -> Result<Self, ValueError> {
        let peers = file.peers.into_iter();
        let forwards = file.forwards.into_iter();
        let servers = file.servers.iter();
        Ok(Self {
            peers: peers.map(|(name, peer)| (name, peer.into())).collect(),
            forwards: forwards
                .map(|forward| Forward {
                    key: forward.key,
                    target: forward.target,
                    peers: forward.peers,
                })
                .collect(),
            servers: servers
                .map(|server| ServerAddress::parse(server.kind, &server.address))
                .collect::<Result<_, _>>()?,
            refuses_public: file.refuses_public,
        })
    }
}

/// For each identity the newest stamps of offers sent and seen: what makes a replayed offer recognizable after a restart.
pub(crate) type Stamps = BTreeMap<PeerId, (u64, u64)>;

/// For each identity, what has found a path to it from which network; the latest last.
pub(crate) type Memory = BTreeMap<PeerId, Vec<(u64, Worked)>>;

/// Where plain WireGuard peers were last seen, by their keys in base64.
pub(crate) type Seen = BTreeMap<String, SocketAddr>;

/// Nodes of the public DHT that have answered, the best first.
pub(crate) type Nodes = Vec<SocketAddrV4>;

/// What is to be written of the history: those parts that have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    pub(crate) stamps: Option<Stamps>,
    pub(crate) memory: Option<Memory>,
    pub(crate) seen: Option<Seen>,
    pub(crate) nodes: Option<Nodes>,
}

/// A step that has found a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Worked {
    Checks,
    HoldAndProbe,
    Meet,
    Birthday,
}

impl From<StepKind> for Worked {
    fn from(step: StepKind) -> Self {
        match step {
            StepKind::Checks => Self::Checks,
            StepKind::HoldAndProbe => Self::HoldAndProbe,
            StepKind::Meet => Self::Meet,
            StepKind::Birthday => Self::Birthday,
        }
    }
}

impl From<Worked> for StepKind {
    fn from(worked: Worked) -> Self {
        match worked {
            Worked::Checks => Self::Checks,
            Worked::HoldAndProbe => Self::HoldAndProbe,
            Worked::Meet => Self::Meet,
            Worked::Birthday => Self::Birthday,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// Written by punchd 0.1.0 of 2026-11-21.
    const FORMAT_1: &str = include_str!("../../tests/golden/state-1.json");

    #[test]
    fn a_state_of_format_1_is_read_and_written_again_as_it_was() {
        let state = State::try_from(serde_json::from_str::<StateFile>(FORMAT_1).unwrap()).unwrap();

        let flags = |name: &str| {
            let peer = &state.peers[&name.parse::<PeerName>().unwrap()];
            (peer.up, peer.blocked, peer.host)
        };
        assert_eq!(flags("db"), (true, false, false));
        assert_eq!(flags("printer"), (false, true, false));
        assert_eq!(flags("router"), (false, false, true));
        let kinds: Vec<_> = state
            .peers
            .values()
            .map(|peer| match &peer.key {
                PeerKey::Punch { ipv6_only, .. } => (*ipv6_only, None),
                PeerKey::Wireguard { preshared, .. } => (false, preshared.clone()),
            })
            .collect();
        let preshared = Some(Secret::new(BASE64_STANDARD.encode([b'k'; 32])));
        assert_eq!(kinds, [(false, None), (true, None), (false, preshared)]);
        let forwards: Vec<_> = state
            .forwards
            .iter()
            .map(|forward| {
                let target = forward.target.to_string();
                (forward.key.to_string(), target, forward.peers.len())
            })
            .collect();
        assert_eq!(
            forwards,
            [
                ("tcp 5432".to_owned(), "127.0.0.1:5432".to_owned(), 0),
                ("udp 6000-6010".to_owned(), "[::1]:7000".to_owned(), 2)
            ]
        );
        let servers: Vec<_> = state.servers.iter().map(ServerAddress::as_str).collect();
        assert_eq!(servers, ["wss://signal.example:443/x", "stun.example:3478"]);

        let written = serde_json::to_value(StateFile::from(state)).unwrap();
        let golden: serde_json::Value = serde_json::from_str(FORMAT_1).unwrap();
        assert_eq!(written, golden);
    }

    #[test]
    fn what_is_public_is_written_and_read_as_such() {
        let node = ServerAddress::parse(ServerKind::Dht, "node.example").unwrap();
        let used = State {
            servers: vec![ServerAddress::Public, node],
            ..State::default()
        };
        let refused = State {
            refuses_public: true,
            ..State::default()
        };
        for state in [used, refused] {
            let text = state_text(&state).unwrap();
            let Ok(read) = parse_state(std::str::from_utf8(&text).unwrap()) else {
                panic!("it is what was written");
            };
            assert_eq!(read, state);
        }
    }

    #[test]
    fn what_is_said_of_relays_is_written_and_read_as_such() {
        let mut state =
            State::try_from(serde_json::from_str::<StateFile>(FORMAT_1).unwrap()).unwrap();
        let db = state.peers.get_mut(&"db".parse().unwrap()).unwrap();
        assert!(!db.direct_only && !db.relay);
        (db.direct_only, db.relay) = (true, true);
        let text = state_text(&state).unwrap();
        let Ok(read) = parse_state(std::str::from_utf8(&text).unwrap()) else {
            panic!("it is what was written");
        };
        assert_eq!(read, state);
    }

    #[test]
    fn a_state_with_an_unknown_field_or_a_broken_value_is_refused() {
        for (from, to) in [
            ("\"version\"", "\"colour\": 1, \"version\""),
            ("\"barred\": true", "\"barred\": 1"),
            ("\"ipv6_only\"", "\"ipv4_only\""),
            ("wss://", "http://"),
            ("6000-6010", "6010-6000"),
        ] {
            let text = FORMAT_1.replacen(from, to, 1);
            assert_ne!(text, FORMAT_1);
            let read = serde_json::from_str::<StateFile>(&text).map(State::try_from);
            assert!(!matches!(read, Ok(Ok(_))), "{to} was read");
        }
    }
}
