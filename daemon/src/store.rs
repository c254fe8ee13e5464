//! What punchd remembers across restarts, in the state directory (0700): the identity, and peers, forwards and servers.
//!
//! A file is written beside the old one, synced and renamed; one that cannot be read is an error, never an empty state.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::{
    Endpoint, ForwardKey, PeerId, PeerKey, PeerName, Secret, ServerAddress, ServerKind, Target,
    ValueError,
};
use punch_engine::StepKind;
use punch_signal_protocol::Identity;
use punch_state::{Collision, Forward, Peer, State, collisions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::Config;

const STATE: &str = "state.json";
const STAMPS: &str = "stamps.json";
const MEMORY: &str = "paths.json";
const SEEN: &str = "endpoints.json";
const IDENTITY: &str = "identity.key";
const LOCK: &str = "lock";
const VERSION: u32 = 1;
const IDENTITY_HEADER: &str = "punch identity v1: secret, for this machine only";
/// How every version's header begins.
const ANY_IDENTITY_HEADER: &str = "punch identity v";

/// state.json, format 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    peers: BTreeMap<PeerName, StoredPeer>,
    forwards: Vec<StoredForward>,
    servers: Vec<StoredServer>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPeer {
    kind: StoredKind,
    up: bool,
    barred: bool,
    host: bool,
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
        })
    }
}

/// For each identity the newest stamps of offers sent and seen: what makes a replayed offer recognizable after a restart.
pub(crate) type Stamps = BTreeMap<PeerId, (u64, u64)>;

/// For each identity, what has found a path to it from which network; the latest last.
/// Where plain WireGuard peers were last seen, by their keys in base64.
pub(crate) type Seen = BTreeMap<String, SocketAddr>;
/// What has worked.
pub(crate) type Memory = BTreeMap<PeerId, Vec<(u64, Worked)>>;

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

/// The files of a directory, and who opened it keeps every other punchd out.
pub(crate) struct Store {
    files: Files,
    /// Held for as long as punchd runs: two of them on one state would overwrite each other.
    _lock: File,
}

impl Store {
    /// Opens the directory, which is created when it does not exist.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        if !directory.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .with_context(|| {
                    format!("cannot create the state directory {}", directory.display())
                })?;
        }
        let mode = fs::metadata(directory)
            .with_context(|| format!("cannot use the state directory {}", directory.display()))?
            .mode();
        if mode & 0o022 != 0 {
            bail!(
                "others can write in the state directory {0} (mode {1:04o}): run: chmod 700 {0}",
                directory.display(),
                mode & 0o7777
            );
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(directory.join(LOCK))
            .with_context(|| {
                format!(
                    "cannot write in the state directory {}",
                    directory.display()
                )
            })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!(
                "another punchd uses the state directory {}: stop it, or give this one another (--state-dir)",
                directory.display()
            ),
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).context("cannot lock the state directory");
            }
        }
        Ok(Self {
            files: Files(directory.to_owned()),
            _lock: lock,
        })
    }

    /// Reads what is there, as a start would, and says in a line what that is. Nothing is written, and no lock is taken.
    pub(crate) fn inspect(directory: &Path, config: &Config) -> Result<String> {
        let files = Files(directory.to_owned());
        let place = directory.display();
        if !directory.exists() {
            return Ok(format!("{place}: not there yet"));
        }
        if !directory.is_dir() {
            bail!("the state directory {place} is not a directory");
        }
        let identity = files.identity()?;
        let state = files.load()?;
        let collisions = identity.as_ref().map(|identity| {
            let machine = config.machine(identity.id());
            collisions(&state, &machine).iter().map(collided).collect()
        });
        let collisions: String = collisions.unwrap_or_default();
        let identity = identity.map_or("no identity yet", |_| "an identity");
        files.load_stamps()?;
        Ok(format!(
            "{place}: fine ({identity}, {} peers, {} forwards, {} servers){collisions}",
            state.peers.len(),
            state.forwards.len(),
            state.servers.len()
        ))
    }

    /// The file that holds the identity.
    pub(crate) fn identity_path(&self) -> PathBuf {
        self.files.path(IDENTITY)
    }

    /// Reads the identity, or makes one on the first start.
    pub(crate) fn identity(&self) -> Result<Identity> {
        if let Some(identity) = self.files.identity()? {
            return Ok(identity);
        }
        let seed = Zeroizing::new(punch_platform::random::<32>()?);
        let text = Zeroizing::new(format!(
            "{IDENTITY_HEADER}\n{}\n",
            BASE64_STANDARD.encode(*seed)
        ));
        self.write(IDENTITY, text.as_bytes())?;
        Ok(Identity::from_seed(&seed))
    }

    /// Reads the state; none yet is an empty one.
    pub(crate) fn load(&self) -> Result<State> {
        self.files.load()
    }

    /// Replaces the state.
    pub(crate) fn save(&self, state: &State) -> Result<()> {
        let file = StateFile::from(state.clone());
        let text = Zeroizing::new(serde_json::to_vec_pretty(&file)?);
        self.write(STATE, &text)
    }

    /// Reads the stamps; none yet is fine.
    pub(crate) fn load_stamps(&self) -> Result<Stamps> {
        self.files.load_stamps()
    }

    /// Replaces the stamps.
    pub(crate) fn save_stamps(&self, stamps: &Stamps) -> Result<()> {
        self.write(STAMPS, &serde_json::to_vec(stamps)?)
    }

    /// Reads what has worked. It only saves time: what cannot be read is forgotten, with a warning.
    pub(crate) fn load_memory(&self) -> Memory {
        self.load_or_forget(MEMORY)
    }

    /// Reads where plain WireGuard peers were last seen, which is forgotten in the same way.
    pub(crate) fn load_seen(&self) -> Seen {
        self.load_or_forget(SEEN)
    }

    /// Replaces where plain WireGuard peers were last seen.
    pub(crate) fn save_seen(&self, seen: &Seen) -> Result<()> {
        self.write(SEEN, &serde_json::to_vec(seen)?)
    }

    fn load_or_forget<T: Default + DeserializeOwned>(&self, name: &str) -> T {
        let path = self.files.path(name);
        let read = || -> Result<T> {
            match read_private(&path)? {
                None => Ok(T::default()),
                Some(text) => Ok(serde_json::from_str(&text)?),
            }
        };
        read().unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), path = %path.display(), "what was known before is forgotten");
            T::default()
        })
    }

    /// Replaces what has worked.
    pub(crate) fn save_memory(&self, memory: &Memory) -> Result<()> {
        self.write(MEMORY, &serde_json::to_vec(memory)?)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.files.path(name);
        let temporary = self.files.path(&format!(".{name}.new"));
        let write = || -> io::Result<()> {
            // Left over from a write that was cut short.
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.files.0)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What is read of a directory.
struct Files(PathBuf);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads the identity; there is none before the first start.
    fn identity(&self) -> Result<Option<Identity>> {
        let path = self.path(IDENTITY);
        let Some(text) = read_private(&path)? else {
            return Ok(None);
        };
        let broken = || {
            format!(
                "{} is damaged: restore it from a backup; without it this machine has another identity and every peer must add it anew",
                path.display()
            )
        };
        let (header, rest) = text.split_once('\n').with_context(broken)?;
        if header != IDENTITY_HEADER {
            let version = header.strip_prefix(ANY_IDENTITY_HEADER).and_then(|rest| {
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse()
                    .ok()
            });
            bail!(version.map_or_else(broken, |version| wrong_version(&path, version)));
        }
        let mut seed = Zeroizing::new([0; 32]);
        let length = BASE64_STANDARD
            .decode_slice(rest.trim_end(), &mut *seed)
            .ok()
            .with_context(broken)?;
        if length != seed.len() {
            bail!(broken());
        }
        Ok(Some(Identity::from_seed(&seed)))
    }

    /// Reads the state; none yet is an empty one.
    fn load(&self) -> Result<State> {
        let path = self.path(STATE);
        let Some(text) = read_private(&path)? else {
            return Ok(State::default());
        };
        let broken = || {
            format!(
                "{} is damaged: restore it from a backup, or move it away and configure anew",
                path.display()
            )
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(&text).with_context(broken)?;
        if version != VERSION {
            bail!(wrong_version(&path, version));
        }
        let file: StateFile = serde_json::from_str(&text).with_context(broken)?;
        State::try_from(file).with_context(broken)
    }

    /// Reads the stamps; none yet is fine.
    fn load_stamps(&self) -> Result<Stamps> {
        let path = self.path(STAMPS);
        match read_private(&path)? {
            None => Ok(Stamps::new()),
            Some(text) => serde_json::from_str(&text).with_context(|| {
                format!("{} is damaged: move it away; offers from before will then be answered once more", path.display())
            }),
        }
    }
}

fn wrong_version(path: &Path, version: u32) -> String {
    let (path, this) = (path.display(), env!("CARGO_PKG_VERSION"));
    if version > VERSION {
        format!(
            "{path} was written by a newer version of punchd (format {version}; {this} reads {VERSION}): install that version again, or restore the file from a backup of before"
        )
    } else {
        format!(
            "{path} has a format that punchd {this} does not read ({version}; it reads {VERSION}): install the version that wrote it"
        )
    }
}

/// Reads a file that nobody else may read; `None` when there is none.
fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mode = file
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?
        .mode();
    if mode & 0o077 != 0 {
        bail!(
            "{} can be read by others (mode {:04o}): its secrets may be known; if they are not, run: chmod 600 {}",
            path.display(),
            mode & 0o7777,
            path.display()
        );
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(text))
}

/// A line on an address that is nobody's.
fn collided(collision: &Collision) -> String {
    let Collision { ip, peers, own } = collision;
    let names: Vec<_> = peers.iter().map(PeerName::as_str).collect();
    let names = names.join(" and ");
    let why = if *own {
        format!("of {names} is this machine's own")
    } else {
        format!("is not used: {names} have it both")
    };
    format!(
        "\nwarning: the overlay address {ip} {why}; IPv6 only, or a larger range: [overlay] ipv4"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    /// Written by punchd 0.1.0 of 2026-11-21.
    const FORMAT_1: &str = include_str!("../tests/golden/state-1.json");

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
