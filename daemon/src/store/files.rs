//! How a file is read, and how it is replaced: written beside the old one, synced, renamed. Whatever fails, and whenever punchd or the
//! machine stops, the old contents are there or the new ones.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

use super::disk::Disk;

/// What became of new contents that are in place.
#[derive(Debug)]
pub(crate) enum Saved {
    /// They outlast a power cut.
    Surely,
    /// A power cut may bring the old ones back.
    Unsure(io::Error),
}

/// The private files of a folder.
pub(super) struct Files<D> {
    disk: D,
}

impl<D: Disk> Files<D> {
    pub(super) fn new(disk: D) -> Self {
        Self { disk }
    }

    /// The whole path of a file, for people.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    /// Makes sure that what is there under each name now outlasts a power cut.
    pub(super) fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }

    /// Reads a file that nobody else may read; `None` when there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>> {
        let path = self.path(name);
        let found = match self.disk.read(name) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        if found.mode & 0o077 != 0 {
            bail!(
                "{} can be read by others (mode {:04o}): its secrets may be known; if they are not, run: chmod 600 {}",
                path.display(),
                found.mode & 0o7777,
                path.display()
            );
        }
        let text = str::from_utf8(&found.bytes)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    /// Replaces files, all of them with one sync of their names.
    ///
    /// After an error a file has its old contents, or, if another one of the same call has failed, the new ones.
    pub(super) fn replace(&self, files: &[(&str, &[u8])]) -> io::Result<Saved> {
        for (name, bytes) in files {
            if let Err(error) = self.prepare(&beside(name), bytes) {
                self.discard(files);
                return Err(error);
            }
        }
        let mut unsure = None;
        for (name, bytes) in files {
            match self.disk.rename(&beside(name), name) {
                Ok(()) => {}
                Err(error) if self.is_there_all_the_same(name, bytes, &error) => {
                    unsure = Some(error);
                }
                Err(error) => {
                    self.discard(files);
                    return Err(error);
                }
            }
        }
        let synced = self.disk.sync_names();
        Ok(match unsure.map_or(synced, Err) {
            Ok(()) => Saved::Surely,
            Err(error) => Saved::Unsure(error),
        })
    }

    /// Removes what was prepared and is not wanted: it takes room.
    fn discard(&self, files: &[(&str, &[u8])]) {
        for (name, _) in files {
            let _ = self.disk.remove(&beside(name));
        }
    }

    /// Whether a rename has been carried out, or may have been, though it failed. Only a broken disk leaves that open.
    fn is_there_all_the_same(&self, name: &str, bytes: &[u8], error: &io::Error) -> bool {
        error.raw_os_error() == Some(libc::EIO)
            && match self.disk.read(name) {
                Ok(found) => *found.bytes == bytes,
                Err(error) => error.kind() != ErrorKind::NotFound,
            }
    }

    /// Makes a file with these contents, which is synced; its name is not.
    pub(super) fn prepare(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            // Left over from a write that was cut short.
            self.remove(name)?;
            let mut file = self.disk.create(name)?;
            file.write_all(bytes)?;
            self.disk.sync(&file)
        };
        let written = write();
        if written.is_err() {
            let _ = self.disk.remove(name);
        }
        written
    }

    /// Removes a file if it is there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.remove(name) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether there is a file.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.disk.length(name).is_ok()
    }

    /// The length of a file in bytes; none for one that is not there or cannot be read.
    pub(super) fn length(&self, name: &str) -> usize {
        self.disk.length(name).unwrap_or(0)
    }
}

/// Where the new contents of a file are written.
fn beside(name: &str) -> String {
    format!(".{name}.new")
}
