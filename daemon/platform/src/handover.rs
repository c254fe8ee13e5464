//! Descriptors that outlive a process: the service manager keeps them for the next process of the same service (the file
//! descriptor store of systemd, sd_notify(3)), or one process passes them to the other over a Unix socket (SCM_RIGHTS, unix(7)).
//! What is told beside them stands in memory without a name (memfd_create(2)), which is one more descriptor.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use sd_notify::NotifyState;
use zeroize::Zeroizing;

use crate::sandbox;

/// The manager closes a stored descriptor on which it sees an error or a hang-up, unless it is told not to look.
const DO_NOT_POLL: NotifyState<'_> = NotifyState::Custom("FDPOLL=0");
/// Descriptors in one message; the kernel takes 253 (SCM_MAX_FD).
const BATCH: usize = 64;
/// The most that is read of such memory, in bytes.
pub const MAX_MEMORY: u64 = 16 * 1024 * 1024;

/// A descriptor, and what it is called.
pub type Named = (String, OwnedFd);

// --- the service manager's store ---

/// Whether there is a service manager that listens.
pub fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Whether there is a service manager that keeps descriptors: systemd says so itself from version 254 on (`FDSTORE`, the number that it
/// keeps), and for older ones punchd's own unit does (`PUNCHD_FDSTORE`). A service without FileDescriptorStoreMax= loses them, and
/// nothing tells it.
pub fn is_kept() -> bool {
    is_managed() && promises_store(|name| std::env::var(name).ok())
}

fn promises_store(variable: impl Fn(&str) -> Option<String>) -> bool {
    let said = variable("FDSTORE").or_else(|| variable("PUNCHD_FDSTORE"));
    said.and_then(|text| text.trim().parse::<u32>().ok())
        .is_some_and(|most| most > 0)
}

/// Leaves a copy of a descriptor with the service manager, which passes it on to the service's next process. One that it has already
/// it does not take a second time.
///
/// # Errors
/// Where no service manager listens, or where it cannot be reached.
pub fn keep(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    if !is_managed() {
        return Err(io::Error::new(
            ErrorKind::NotConnected,
            "no service manager listens (NOTIFY_SOCKET is not set)",
        ));
    }
    let states = [NotifyState::FdStore, NotifyState::FdName(name), DO_NOT_POLL];
    sd_notify::notify_with_fds(&states, &[descriptor])
}

/// Has the service manager close its copies of that name.
///
/// # Errors
/// Where it cannot be told.
pub fn keep_no_longer(name: &str) -> io::Result<()> {
    if !is_managed() {
        return Ok(());
    }
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

/// Takes the descriptors that the service manager has passed to this process; it keeps its copies. Only the first call returns
/// any.
///
/// # Errors
/// When the manager's variables make no sense.
pub fn passed() -> io::Result<Vec<Named>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let passed = sd_notify::listen_fds_with_names()?;
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    Ok(passed.map(|(number, name)| (name, adopt(number))).collect())
}

#[expect(
    unsafe_code,
    reason = "the manager passes descriptors by their numbers"
)]
fn adopt(number: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID names this process, so that the descriptor is open and was passed to be owned here; `passed` gets here
    // once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

// --- from process to process ---

/// The user of the process at the other end, as it was when it connected or began to listen.
///
/// # Errors
/// The kernel's refusal.
pub fn peer(stream: &UnixStream) -> io::Result<u32> {
    Ok(sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// The user that this process runs as.
pub fn own_user() -> u32 {
    sandbox::effective_user()
}

/// Sends copies of descriptors: first how many, then the descriptors.
///
/// # Errors
/// When the other end does not take them.
pub fn send(mut stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = u16::try_from(descriptors.len()).map_err(io::Error::other)?;
    stream.write_all(&count.to_be_bytes())?;
    for batch in descriptors.chunks(BATCH) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(batch)) {
            return Err(io::Error::other("no room for descriptors"));
        }
        let one = [IoSlice::new(&[BATCH as u8])];
        sendmsg(stream, &one, &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Receives what [`send`] has sent, `most` descriptors at the most.
///
/// # Errors
/// `InvalidData` for anything else than that, and those of the socket.
pub fn receive(mut stream: &UnixStream, most: usize) -> io::Result<Vec<OwnedFd>> {
    let mut count = [0; 2];
    io::Read::read_exact(&mut stream, &mut count)?;
    let count = usize::from(u16::from_be_bytes(count));
    let senseless = |text| io::Error::new(ErrorKind::InvalidData, text);
    if count > most {
        return Err(senseless("more descriptors than there can be"));
    }
    let mut descriptors = Vec::with_capacity(count);
    while descriptors.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut bytes = [IoSliceMut::new(&mut byte)];
        let received = recvmsg(stream, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let before = descriptors.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                descriptors.extend(more);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(senseless("no room for so many open files (LimitNOFILE)"));
        }
        if received.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if descriptors.len() == before || descriptors.len() > count {
            return Err(senseless("other descriptors than announced"));
        }
    }
    Ok(descriptors)
}

// --- memory ---

/// Memory without a name that can be passed on like a file.
///
/// # Errors
/// The kernel's refusal.
pub fn memory() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the last one.
    let made = memfd_create("punchd", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("punchd", flags));
    Ok(File::from(made?))
}

/// Memory with these contents that nobody can change any more.
///
/// # Errors
/// The kernel's refusal.
pub fn sealed(contents: &[u8]) -> io::Result<File> {
    let memory = memory()?;
    memory.write_all_at(contents, 0)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}

/// Reads such memory.
///
/// # Errors
/// `InvalidData` for a descriptor that is none, or more of it than [`MAX_MEMORY`].
pub fn read_memory(memory: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let foreign = |text| io::Error::new(ErrorKind::InvalidData, text);
    // Only such memory has seals.
    fcntl_get_seals(memory).map_err(|_| foreign("not memory of a punchd's"))?;
    let length = memory.metadata()?.len();
    if length > MAX_MEMORY {
        return Err(foreign("longer than anything that a punchd leaves"));
    }
    let mut contents = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(0)]);
    memory.read_exact_at(&mut contents, 0)?;
    Ok(contents)
}

/// A copy of a descriptor, for the same file.
///
/// # Errors
/// The limit of open files.
pub fn copy(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_as_they_were_sent_however_many_they_are() {
        let (one, other) = UnixStream::pair().unwrap();
        for count in [0, 1, BATCH, BATCH + 1, 200] {
            let files: Vec<_> = (0..count)
                .map(|number: usize| sealed(&number.to_be_bytes()).unwrap())
                .collect();
            let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| send(&one, &borrowed).unwrap());
                let received = receive(&other, 200).unwrap();
                assert_eq!(received.len(), count);
                for (number, descriptor) in received.into_iter().enumerate() {
                    let contents = read_memory(&File::from(descriptor)).unwrap();
                    assert_eq!(*contents, number.to_be_bytes());
                }
            });
        }
    }

    #[test]
    fn a_manager_keeps_descriptors_only_if_something_says_so() {
        for (system, unit, kept) in [
            (None, None, false),
            (None, Some("512"), true),
            (Some("512"), None, true),
            (Some("0"), Some("512"), false),
            (Some("many"), None, false),
        ] {
            let variable = |name: &str| {
                let value = if name == "FDSTORE" { system } else { unit };
                value.map(str::to_owned)
            };
            assert_eq!(promises_store(variable), kept, "{system:?} {unit:?}");
        }
    }

    #[test]
    fn what_is_no_handover_is_refused() {
        let foreign = |write: &dyn Fn(&UnixStream)| {
            let (one, other) = UnixStream::pair().unwrap();
            write(&one);
            drop(one);
            receive(&other, 4).unwrap_err().kind()
        };
        assert_eq!(foreign(&|_| {}), ErrorKind::UnexpectedEof);
        let text = |mut one: &UnixStream| one.write_all(b"HTTP/1.1 200 OK").unwrap();
        assert_eq!(foreign(&text), ErrorKind::InvalidData);
        let none = |mut one: &UnixStream| one.write_all(&[0, 2, 64]).unwrap();
        assert_eq!(foreign(&none), ErrorKind::InvalidData);
        let cut = |mut one: &UnixStream| one.write_all(&[0, 2]).unwrap();
        assert_eq!(foreign(&cut), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn sealed_memory_stays_as_it_is_and_other_files_are_none() {
        let memory = sealed(b"state").unwrap();
        assert!(memory.write_all_at(b"other", 0).is_err());
        assert!(memory.set_len(0).is_err());
        assert_eq!(**read_memory(&memory).unwrap(), *b"state");
        let null = File::open("/dev/null").unwrap();
        let error = read_memory(&null).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
