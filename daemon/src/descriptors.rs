//! The limit of open files, divided: whatever peers and searches do, the control socket, the state and the names of servers find
//! descriptors.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors for everything else than the sockets of paths and of streams: the control socket and its callers, the state while
/// it is saved, netlink, the interface, servers, and look-ups of names.
const RESERVED: u64 = 44;
/// Streams leave so many to paths and searches, or a quarter if the limit is low.
const FOR_PATHS: usize = 640;

/// A descriptor, for as long as it is held.
pub(crate) type Descriptor = OwnedSemaphorePermit;

/// The descriptors of paths, searches and streams.
#[derive(Clone)]
pub(crate) struct Descriptors {
    free: Arc<Semaphore>,
    for_paths: usize,
}

impl Descriptors {
    /// With this limit of open files.
    pub(crate) fn new(limit: u64) -> Self {
        let free = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
        let free = free.min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(free)),
            for_paths: FOR_PATHS.min(free / 4),
        }
    }

    /// One for a socket of a path or a search.
    pub(crate) fn for_path(&self) -> Option<Descriptor> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// One for a socket of a stream.
    pub(crate) fn for_stream(&self) -> Option<Descriptor> {
        let leaves_room = self.free.available_permits() > self.for_paths;
        leaves_room.then(|| self.for_path()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(take: impl Fn() -> Option<Descriptor>) -> (usize, Vec<Descriptor>) {
        let taken: Vec<_> = std::iter::from_fn(take).collect();
        (taken.len(), taken)
    }

    #[test]
    fn streams_leave_room_for_paths_and_both_for_everything_else() {
        let descriptors = Descriptors::new(1024);
        let (streams, held) = count(|| descriptors.for_stream());
        assert_eq!(streams, 735);
        let (paths, _held) = count(|| descriptors.for_path());
        assert_eq!(paths, 245);
        drop(held);
        assert_eq!(count(|| descriptors.for_stream()).0, 490);

        let descriptors = Descriptors::new(65_536);
        assert_eq!(count(|| descriptors.for_stream()).0, 65_536 - 44 - 640);
        let descriptors = Descriptors::new(20);
        assert_eq!(count(|| descriptors.for_stream()).0, 0);
    }
}
