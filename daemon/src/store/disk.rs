//! The operations on the files of one folder that the store is made of, so that a test can let each of them fail.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zeroize::Zeroizing;

const LOCK: &str = "lock";

/// A folder, whose files are named without a path. All of these block.
pub(crate) trait Disk {
    /// A file that is being written.
    type File: Write;

    /// The mode and the contents of a file.
    fn read(&self, name: &str) -> io::Result<Found>;
    /// The length of a file in bytes.
    fn length(&self, name: &str) -> io::Result<usize>;
    /// Makes a file that was not there, which its owner alone may read.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Returns when what was written to the file outlasts a power cut.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Gives a file another name; a file that had that name is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when the names of all files outlast a power cut.
    fn sync_names(&self) -> io::Result<()>;
    /// The whole path of a file, for people.
    fn path(&self, name: &str) -> PathBuf;
}

/// A file that was read.
pub(crate) struct Found {
    pub(crate) mode: u32,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

/// A folder of the machine.
pub(crate) struct Folder {
    place: PathBuf,
    /// Held for as long as punchd runs: two of them on one state would overwrite each other.
    _lock: Option<File>,
}

/// The state directory that another process has locked.
#[derive(Debug)]
pub(crate) struct InUse(String);

impl std::fmt::Display for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(place) = self;
        write!(
            f,
            "another punchd uses the state directory {place}: stop it, or give this one another (--state-dir)"
        )
    }
}

impl std::error::Error for InUse {}

impl Folder {
    /// Opens the state directory, which is created when it does not exist, and keeps every other punchd out. Also tells why nothing can
    /// be written there, if that shows already.
    pub(crate) fn open(place: &Path) -> Result<(Self, Option<io::Error>)> {
        let shown = place.display();
        if !place.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(place)
                .with_context(|| format!("cannot create the state directory {shown}"))?;
        }
        let mode = fs::metadata(place)
            .with_context(|| format!("cannot use the state directory {shown}"))?
            .mode();
        if mode & 0o022 != 0 {
            bail!(
                "others can write in the state directory {shown} (mode {:04o}): run: chmod 700 {shown}",
                mode & 0o7777
            );
        }
        let (lock, trouble) = open_lock(place)
            .with_context(|| format!("cannot write in the state directory {shown}"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!(InUse(shown.to_string())),
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).context("cannot lock the state directory");
            }
        }
        let folder = Self {
            place: place.to_owned(),
            _lock: Some(lock),
        };
        Ok((folder, trouble))
    }

    /// The same folder for reading alone; others may use it meanwhile.
    pub(crate) fn unlocked(place: &Path) -> Self {
        Self {
            place: place.to_owned(),
            _lock: None,
        }
    }
}

/// The file that is locked. Where none can be made or written, the one that is there will do, or else the folder itself.
fn open_lock(place: &Path) -> io::Result<(File, Option<io::Error>)> {
    let path = place.join(LOCK);
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let write = options
        .clone()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    match write {
        Ok(file) => Ok((file, None)),
        Err(error) if cannot_write(&error) => {
            let read = options.read(true).open(&path);
            let file = match read {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => File::open(place),
                read => read,
            };
            Ok((file?, Some(error)))
        }
        Err(error) => Err(error),
    }
}

/// Whether this tells that nothing can be written, though it may be read.
fn cannot_write(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}

impl Disk for Folder {
    type File = File;

    fn read(&self, name: &str) -> io::Result<Found> {
        let mut file = File::open(self.path(name))?;
        let mode = file.metadata()?.mode();
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes)?;
        Ok(Found { mode, bytes })
    }

    fn length(&self, name: &str) -> io::Result<usize> {
        let bytes = fs::metadata(self.path(name))?.len();
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(self.path(name))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.place)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }
}
