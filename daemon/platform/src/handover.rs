//! Descriptors that outlive a process: the service manager keeps them for the next process of the same service (the file
//! descriptor store of systemd, sd_notify(3)).

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

/// The manager closes a stored descriptor on which it sees an error or a hang-up, unless it is told not to look.
const DO_NOT_POLL: NotifyState<'_> = NotifyState::Custom("FDPOLL=0");

/// Leaves a copy of a descriptor with the service manager, which passes it on to the service's next process.
///
/// # Errors
/// Where no service manager listens, or where it cannot be reached.
pub(crate) fn store(name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Err(io::Error::new(
            io::ErrorKind::NotConnected,
            "no service manager listens (NOTIFY_SOCKET is not set)",
        ));
    }
    let states = [NotifyState::FdStore, NotifyState::FdName(name), DO_NOT_POLL];
    sd_notify::notify_with_fds(&states, &[descriptor])
}

/// Takes the descriptor of that name which the service manager has passed to this process, and has the manager close its own
/// copy. Only the first call can return one.
///
/// # Errors
/// When the manager's variables make no sense, or when it cannot be told.
pub(crate) fn take(name: &str) -> io::Result<Option<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut passed = sd_notify::listen_fds_with_names()?;
    let Some((number, _)) = passed.find(|(_, its_name)| its_name == name) else {
        return Ok(None);
    };
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])?;
    Ok(Some(adopt(number)))
}

#[expect(
    unsafe_code,
    reason = "the manager passes descriptors by their numbers"
)]
fn adopt(number: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: LISTEN_PID names this process, so that the descriptor is open and was passed to be owned here; `take` gets here once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
