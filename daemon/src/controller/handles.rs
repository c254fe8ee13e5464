//! The numbers that the engine knows peers by.

use std::collections::{BTreeMap, HashMap};

use punch_api::PeerName;
use punch_engine::PeerHandle;

/// Names and handles of all peers. A peer keeps its handle when it is renamed; none is given twice.
#[derive(Default)]
pub(super) struct Handles {
    by_name: BTreeMap<PeerName, PeerHandle>,
    names: HashMap<PeerHandle, PeerName>,
    last: u32,
}

impl Handles {
    /// The handle of the peer, a new one if it has none yet.
    pub(super) fn assign(&mut self, name: &PeerName) -> PeerHandle {
        if let Some(handle) = self.by_name.get(name) {
            return *handle;
        }
        self.last += 1;
        let handle = PeerHandle(self.last);
        self.insert(name.clone(), handle);
        handle
    }

    /// Takes note of a peer's new name.
    pub(super) fn rename(&mut self, from: &PeerName, to: &PeerName) {
        if let Some(handle) = self.remove(from) {
            self.insert(to.clone(), handle);
        }
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, name: &PeerName) -> Option<PeerHandle> {
        let handle = self.by_name.remove(name)?;
        self.names.remove(&handle);
        Some(handle)
    }

    /// The handle of a peer.
    pub(super) fn get(&self, name: &PeerName) -> Option<PeerHandle> {
        self.by_name.get(name).copied()
    }

    /// The name of a peer.
    pub(super) fn name(&self, handle: PeerHandle) -> Option<&PeerName> {
        self.names.get(&handle)
    }

    /// All handles.
    pub(super) fn all(&self) -> Vec<PeerHandle> {
        self.by_name.values().copied().collect()
    }

    /// All handles by name.
    pub(super) fn by_name(&self) -> &BTreeMap<PeerName, PeerHandle> {
        &self.by_name
    }

    fn insert(&mut self, name: PeerName, handle: PeerHandle) {
        self.names.insert(handle, name.clone());
        self.by_name.insert(name, handle);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "it is a test")]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_peer_keeps_its_handle_and_no_handle_comes_again() {
        let [a, b]: [PeerName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let mut handles = Handles::default();
        let first = handles.assign(&a);
        assert_eq!(handles.assign(&a), first);

        handles.rename(&a, &b);
        assert_eq!((handles.get(&a), handles.get(&b)), (None, Some(first)));
        assert_eq!(handles.name(first), Some(&b));

        assert_eq!(handles.remove(&b), Some(first));
        assert_eq!(handles.name(first), None);
        assert_ne!(handles.assign(&b), first);
    }
}
