//! What punchd remembers across restarts, in the state directory (0700): the identity, and peers, forwards and servers.
//!
//! A file is replaced as a whole (`store/files.rs`); one that cannot be read is an error, never an empty state. Nothing here is for a
//! thread that carries packets or bytes of forwards: a disk may take seconds. `store/writer.rs` has a thread of its own.

mod disk;
mod files;
mod format;
#[cfg(test)]
mod simulated;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]
mod tests;
pub(crate) mod writer;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use punch_api::PeerName;
use punch_signal_protocol::Identity;
use punch_state::{Collision, State, collisions};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use self::disk::{Disk, Folder};
use self::files::Files;
pub(crate) use self::files::Saved;
pub(crate) use self::format::{Changes, Memory, Nodes, Seen, Stamps};
use self::format::{Unreadable, VERSION};
use crate::config::Config;

const STATE: &str = "state.json";
const STAMPS: &str = "stamps.json";
const MEMORY: &str = "paths.json";
const SEEN: &str = "endpoints.json";
const NODES: &str = "nodes.json";
const IDENTITY: &str = "identity.key";
/// Whoever makes this file wants another identity for the same peers.
const NEW_IDENTITY: &str = "new-identity";
/// Holds room on the disk that is given up when the disk is full, so that a right can be taken away even then.
const RESERVE: &str = "reserve";
/// The least that the reserve holds, in bytes.
const RESERVE_BYTES: usize = 32 * 1024;
/// Disks give room in blocks of so many bytes.
const BLOCK: usize = 4096;
const IDENTITY_HEADER: &str = "punch identity v1: secret, for this machine only";
/// How every version's header begins.
const ANY_IDENTITY_HEADER: &str = "punch identity v";

/// The files of a directory.
pub(crate) struct Store<D = Folder> {
    files: Files<D>,
    /// The length of state.json.
    state_bytes: usize,
    /// The length of the reserve.
    reserve_bytes: usize,
    /// Why nothing could be written when the store was opened.
    trouble: Option<io::Error>,
}

impl Store {
    /// Opens the directory, which is created when it does not exist, and keeps every other punchd out. A directory in which nothing
    /// can be written is opened all the same: see [`Store::take_trouble`].
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let (folder, trouble) = Folder::open(directory)?;
        Ok(Self::of(folder, trouble))
    }

    /// Whether that was refused because another punchd has the directory.
    pub(crate) fn is_in_use(error: &anyhow::Error) -> bool {
        error.is::<disk::InUse>()
    }

    /// Reads what is there, as a start would, and says in a line what that is. Nothing is written, and no lock is taken.
    pub(crate) fn inspect(directory: &Path, config: &Config) -> Result<String> {
        let place = directory.display();
        if !directory.exists() {
            return Ok(format!("{place}: not there yet"));
        }
        if !directory.is_dir() {
            bail!("the state directory {place} is not a directory");
        }
        let store = Self::reading(Folder::unlocked(directory));
        let identity = store.read_identity()?;
        let state = store.load()?;
        if identity.is_none() {
            store.check_new(&state)?;
        }
        store.load_stamps()?;
        let collisions = identity.as_ref().map(|identity| {
            let machine = config.machine(identity.id());
            collisions(&state, &machine).iter().map(collided).collect()
        });
        let collisions: String = collisions.unwrap_or_default();
        let identity = identity.map_or("no identity yet", |_| "an identity");
        Ok(format!(
            "{place}: fine ({identity}, {} peers, {} forwards, {} servers){collisions}",
            state.peers.len(),
            state.forwards.len(),
            state.servers.len()
        ))
    }
}

impl<D: Disk> Store<D> {
    /// The store in this folder, of which nothing is written.
    fn reading(disk: D) -> Self {
        Self {
            files: Files::new(disk),
            state_bytes: 0,
            reserve_bytes: 0,
            trouble: None,
        }
    }

    /// The store in this folder. What an earlier punchd has renamed and not synced is synced now: it is what this one goes by.
    fn of(disk: D, trouble: Option<io::Error>) -> Self {
        let mut store = Self::reading(disk);
        store.trouble = trouble.or(store.files.sync_names().err());
        store.state_bytes = store.files.length(STATE);
        store.reserve_bytes = store.files.length(RESERVE);
        if let Err(error) = store.keep_reserve() {
            store.trouble.get_or_insert(error);
        }
        store
    }

    /// Why nothing can be written, if that showed when the store was opened.
    pub(crate) fn take_trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    /// The file that holds the identity.
    pub(crate) fn identity_path(&self) -> PathBuf {
        self.files.path(IDENTITY)
    }

    /// Reads the identity, or makes one on the first start.
    pub(crate) fn identity(&self) -> Result<Identity> {
        if let Some(identity) = self.read_identity()? {
            return Ok(identity);
        }
        self.check_new(&self.load()?)?;
        let seed = Zeroizing::new(punch_platform::random::<32>()?);
        let text = Zeroizing::new(format!(
            "{IDENTITY_HEADER}\n{}\n",
            BASE64_STANDARD.encode(*seed)
        ));
        let saved = self.files.replace(&[(IDENTITY, text.as_bytes())]);
        let failed = match saved {
            Ok(Saved::Surely) => None,
            Ok(Saved::Unsure(error)) | Err(error) => Some(error),
        };
        match failed {
            None => {
                // It stays where it is if it cannot be removed: there is an identity now.
                let _ = self.files.remove(NEW_IDENTITY);
                Ok(Identity::from_seed(&seed))
            }
            // Peers must not be given a key that may be another one tomorrow.
            Some(error) => Err(error).with_context(|| {
                let path = self.identity_path();
                format!(
                    "cannot write {}, and without it this machine has no identity: mend that, or choose another state directory (--state-dir)",
                    path.display()
                )
            }),
        }
    }

    /// Refuses to make an identity beside a state that belongs to another one, unless somebody wants it so.
    fn check_new(&self, state: &State) -> Result<()> {
        if state.peers.is_empty() || self.files.is_there(NEW_IDENTITY) {
            return Ok(());
        }
        let (identity, state_path) = (self.identity_path(), self.files.path(STATE));
        // The kind tells that starting again will not help.
        Err(io::Error::from(ErrorKind::NotFound)).with_context(|| {
            format!(
                "{} is missing, but {} has {} peers, which know this machine by the identity that was there: restore the file from a backup; or, for a new identity that every peer must add, run: touch {}",
                identity.display(),
                state_path.display(),
                state.peers.len(),
                self.files.path(NEW_IDENTITY).display()
            )
        })
    }

    /// Reads the identity; there is none before the first start.
    fn read_identity(&self) -> Result<Option<Identity>> {
        let path = self.identity_path();
        let Some(text) = self.files.read(IDENTITY)? else {
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
    pub(crate) fn load(&self) -> Result<State> {
        let Some(text) = self.files.read(STATE)? else {
            return Ok(State::default());
        };
        let path = self.files.path(STATE);
        format::parse_state(&text).map_err(|unreadable| match unreadable {
            Unreadable::Format(version) => anyhow::Error::msg(wrong_version(&path, version)),
            Unreadable::Damaged(error) => error.context(format!(
                "{} is damaged: restore it from a backup, or move it away and configure anew",
                path.display()
            )),
        })
    }

    /// Replaces the state; after an error the old one is there. The reserve is given up for it if the disk is full and the state takes
    /// rights away, or does not grow.
    pub(crate) fn save(&mut self, state: &State, takes: bool) -> io::Result<Saved> {
        let text = format::state_text(state)?;
        let saved = self.replace(&[(STATE, &text)], takes);
        if saved.is_ok() {
            self.state_bytes = text.len();
        }
        // On a full disk there may be none until somebody makes room.
        let _ = self.keep_reserve();
        saved
    }

    /// Replaces files. On a full disk the reserve is given up for what must be written, and for what needs no more room than before: the
    /// old files make room for the reserve again.
    fn replace(&mut self, files: &[(&str, &[u8])], must: bool) -> io::Result<Saved> {
        let mut saved = self.files.replace(files);
        if saved.as_ref().is_err_and(is_full) {
            let grows = files
                .iter()
                .any(|(name, bytes)| blocks(bytes.len()) > blocks(self.files.length(name)));
            if (must || !grows) && self.give_up_reserve() {
                saved = self.files.replace(files);
            }
        }
        let first = files.first().map_or(STATE, |(name, _)| name);
        named(&self.files.path(first), saved)
    }

    /// Reads the stamps; none yet is fine.
    pub(crate) fn load_stamps(&self) -> Result<Stamps> {
        match self.files.read(STAMPS)? {
            None => Ok(Stamps::new()),
            Some(text) => serde_json::from_str(&text).with_context(|| {
                let path = self.files.path(STAMPS);
                format!("{} is damaged: move it away; offers from before will then be answered once more", path.display())
            }),
        }
    }

    /// Reads what has worked. It only saves time: what cannot be read is forgotten, with a warning.
    pub(crate) fn load_memory(&self) -> Memory {
        self.load_or_forget(MEMORY)
    }

    /// Reads where plain WireGuard peers were last seen, which is forgotten in the same way.
    pub(crate) fn load_seen(&self) -> Seen {
        self.load_or_forget(SEEN)
    }

    /// Reads which nodes of the DHT have answered, which are forgotten in the same way.
    pub(crate) fn load_nodes(&self) -> Nodes {
        self.load_or_forget(NODES)
    }

    fn load_or_forget<T: Default + DeserializeOwned>(&self, name: &str) -> T {
        let read = || -> Result<T> {
            match self.files.read(name)? {
                None => Ok(T::default()),
                Some(text) => Ok(serde_json::from_str(&text)?),
            }
        };
        read().unwrap_or_else(|error| {
            let path = self.files.path(name);
            tracing::warn!(error = format!("{error:#}"), path = %path.display(), "what was known before is forgotten");
            T::default()
        })
    }

    /// Replaces what has changed of the history.
    pub(crate) fn save_history(&mut self, changes: &Changes) -> io::Result<Saved> {
        let Changes {
            stamps,
            memory,
            seen,
            nodes,
        } = changes;
        let texts = [
            (STAMPS, stamps.as_ref().map(serde_json::to_vec).transpose()?),
            (MEMORY, memory.as_ref().map(serde_json::to_vec).transpose()?),
            (SEEN, seen.as_ref().map(serde_json::to_vec).transpose()?),
            (NODES, nodes.as_ref().map(serde_json::to_vec).transpose()?),
        ];
        let files: Vec<_> = texts
            .iter()
            .filter_map(|(name, bytes)| Some((*name, bytes.as_deref()?)))
            .collect();
        let saved = self.replace(&files, false);
        let _ = self.keep_reserve();
        saved
    }

    /// Makes room on a full disk.
    fn give_up_reserve(&mut self) -> bool {
        let there = self.reserve_bytes > 0;
        self.reserve_bytes = 0;
        there && self.files.remove(RESERVE).is_ok()
    }

    /// Makes a reserve that is enough for a new state beside the old one, if there is none. One that is too small is better than none.
    fn keep_reserve(&mut self) -> io::Result<()> {
        let enough = (blocks(self.state_bytes) + 1) * BLOCK;
        if self.reserve_bytes < enough {
            let bytes = RESERVE_BYTES.max(2 * enough);
            self.files.replace(&[(RESERVE, &vec![0; bytes])])?;
            self.reserve_bytes = bytes;
        }
        Ok(())
    }
}

/// The same outcome, whose errors name the file.
fn named(path: &Path, outcome: io::Result<Saved>) -> io::Result<Saved> {
    let name = |error: io::Error| {
        let text = format!("cannot write {}: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    match outcome {
        Ok(Saved::Unsure(error)) => Ok(Saved::Unsure(name(error))),
        outcome => outcome.map_err(name),
    }
}

/// The blocks that so many bytes take on a disk.
fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
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
