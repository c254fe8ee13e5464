//! A folder in memory that does what disks do at their worst: it is full, breaks, loses what was not synced, and punchd or the machine
//! stops between any two operations. All by a seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::rc::Rc;

use zeroize::Zeroizing;

use super::BLOCK;
use super::disk::{Disk, Found};

/// A number of a file, whatever its name is.
type Inode = usize;

/// A sequence of numbers that look random (xorshift64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }

    /// Whether something happens that does one time in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Default)]
struct Contents {
    now: Vec<u8>,
    /// What a power cut leaves at least.
    synced: Option<Vec<u8>>,
}

struct Platter {
    random: Random,
    files: Vec<Contents>,
    names: BTreeMap<String, Inode>,
    /// For each name what it stood for since the names were synced, the oldest first; a power cut leaves any of them.
    past: BTreeMap<String, Vec<Option<Inode>>>,
    /// Bytes that others have taken.
    taken: usize,
    /// One operation in so many fails; none when 0.
    faults: usize,
    /// After so many more operations punchd is gone.
    life: Option<usize>,
}

/// The size of the disk, in bytes.
const CAPACITY: usize = 256 * 1024;

/// A folder on a disk that several punchd use one after the other.
#[derive(Clone)]
pub(super) struct SimulatedDisk {
    platter: Rc<RefCell<Platter>>,
    dead: Rc<Cell<bool>>,
}

/// A file of a [`SimulatedDisk`].
pub(super) struct SimulatedFile {
    disk: SimulatedDisk,
    inode: Inode,
}

/// What happens to an operation.
enum Fate {
    Done,
    /// It fails, and may have been done all the same.
    Broken,
    /// There is no room.
    Full,
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

fn full() -> io::Error {
    ErrorKind::StorageFull.into()
}

impl SimulatedDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            platter: Rc::new(RefCell::new(Platter {
                random: Random::new(seed),
                files: Vec::new(),
                names: BTreeMap::new(),
                past: BTreeMap::new(),
                taken: 0,
                faults: 0,
                life: None,
            })),
            dead: Rc::new(Cell::new(false)),
        }
    }

    /// From now on one operation in `n` fails; none when 0.
    pub(super) fn set_faults(&self, n: usize) {
        self.platter.borrow_mut().faults = n;
    }

    /// After so many more operations punchd is killed.
    pub(super) fn kill_after(&self, operations: usize) {
        self.platter.borrow_mut().life = Some(operations);
    }

    /// Whether punchd has been killed; nothing that it still does has an effect.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// The same disk for the next punchd.
    pub(super) fn next_life(&self) -> Self {
        self.dead.set(true);
        self.platter.borrow_mut().life = None;
        Self {
            platter: self.platter.clone(),
            dead: Rc::new(Cell::new(false)),
        }
    }

    /// Others take all the room that there is.
    pub(super) fn fill(&self) {
        let mut platter = self.platter.borrow_mut();
        platter.taken += platter.free();
    }

    /// Others give back what they have taken.
    pub(super) fn empty(&self) {
        self.platter.borrow_mut().taken = 0;
    }

    /// The machine loses its power: what was not synced is there, lost or torn, each for itself.
    pub(super) fn cut_power(&self) {
        self.dead.set(true);
        let platter = &mut *self.platter.borrow_mut();
        for (name, mut past) in std::mem::take(&mut platter.past) {
            past.push(platter.names.get(&name).copied());
            match past[platter.random.below(past.len())] {
                Some(inode) => platter.names.insert(name, inode),
                None => platter.names.remove(&name),
            };
        }
        for contents in &mut platter.files {
            if contents.synced.as_ref() == Some(&contents.now) {
                continue;
            }
            let synced = contents.synced.clone().unwrap_or_default();
            let torn = platter.random.below(contents.now.len() + 1);
            contents.now = match platter.random.below(4) {
                0 => synced,
                1 => contents.now[..torn].to_vec(),
                2 => vec![0; contents.now.len()],
                _ => std::mem::take(&mut contents.now),
            };
            contents.synced = Some(contents.now.clone());
        }
    }

    fn fate(&self) -> io::Result<Fate> {
        if self.dead.get() {
            return Err(io::Error::other("punchd is gone"));
        }
        let platter = &mut *self.platter.borrow_mut();
        if let Some(life) = &mut platter.life {
            if *life == 0 {
                self.dead.set(true);
                // The last operation is done, or not begun.
                if platter.random.one_in(2) {
                    return Err(io::Error::other("punchd is gone"));
                }
            } else {
                *life -= 1;
            }
        }
        let fails = platter.faults > 0 && platter.random.one_in(platter.faults);
        Ok(match fails {
            false => Fate::Done,
            true if platter.random.one_in(2) => Fate::Full,
            true => Fate::Broken,
        })
    }

    /// An operation that changes names. What fails is not done, unless the disk is broken.
    fn name(&self, change: impl FnOnce(&mut Platter) -> io::Result<()>) -> io::Result<()> {
        let fate = self.fate()?;
        let platter = &mut *self.platter.borrow_mut();
        match fate {
            Fate::Done => change(platter),
            Fate::Full => Err(full()),
            Fate::Broken => {
                if platter.random.one_in(2) {
                    change(platter)?;
                }
                Err(eio())
            }
        }
    }
}

impl Platter {
    fn free(&self) -> usize {
        let files = self
            .names
            .values()
            .map(|inode| self.files[*inode].now.len());
        let used: usize = files.map(|bytes| bytes.div_ceil(BLOCK) * BLOCK).sum();
        CAPACITY.saturating_sub(used + self.taken)
    }

    fn set(&mut self, name: &str, inode: Option<Inode>) {
        let before = match inode {
            Some(inode) => self.names.insert(name.to_owned(), inode),
            None => self.names.remove(name),
        };
        self.past.entry(name.to_owned()).or_default().push(before);
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn read(&self, name: &str) -> io::Result<Found> {
        if !matches!(self.fate()?, Fate::Done) {
            return Err(eio());
        }
        let platter = self.platter.borrow();
        let inode = platter.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Found {
            mode: 0o100_600,
            bytes: Zeroizing::new(platter.files[*inode].now.clone()),
        })
    }

    fn length(&self, name: &str) -> io::Result<usize> {
        if !matches!(self.fate()?, Fate::Done) {
            return Err(eio());
        }
        let platter = self.platter.borrow();
        let inode = platter.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(platter.files[*inode].now.len())
    }

    fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        self.name(|platter| {
            if platter.names.contains_key(name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            platter.files.push(Contents::default());
            platter.set(name, Some(platter.files.len() - 1));
            Ok(())
        })?;
        Ok(SimulatedFile {
            disk: self.clone(),
            inode: self.platter.borrow().names[name],
        })
    }

    fn sync(&self, file: &SimulatedFile) -> io::Result<()> {
        match self.fate()? {
            Fate::Done => {
                let contents = &mut self.platter.borrow_mut().files[file.inode];
                contents.synced = Some(contents.now.clone());
                Ok(())
            }
            Fate::Full => Err(full()),
            Fate::Broken => Err(eio()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.name(|platter| {
            let inode = *platter.names.get(from).ok_or(ErrorKind::NotFound)?;
            platter.set(to, Some(inode));
            platter.set(from, None);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.name(|platter| {
            if !platter.names.contains_key(name) {
                return Err(ErrorKind::NotFound.into());
            }
            platter.set(name, None);
            Ok(())
        })
    }

    fn sync_names(&self) -> io::Result<()> {
        match self.fate()? {
            Fate::Done => {
                self.platter.borrow_mut().past.clear();
                Ok(())
            }
            _ => Err(eio()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

impl Write for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fate = self.disk.fate()?;
        let platter = &mut *self.disk.platter.borrow_mut();
        match fate {
            Fate::Done => {}
            Fate::Full => return Err(full()),
            Fate::Broken => return Err(eio()),
        }
        // Often less is written than was asked for.
        let most = match platter.random.one_in(4) {
            true => 1 + platter.random.below(bytes.len()),
            false => bytes.len(),
        };
        let now = platter.files[self.inode].now.len();
        let room = now.div_ceil(BLOCK) * BLOCK - now + platter.free() / BLOCK * BLOCK;
        let count = most.min(room);
        if count == 0 {
            return Err(full());
        }
        platter.files[self.inode]
            .now
            .extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
