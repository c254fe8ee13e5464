//! How one process of punchd goes on with what another one has opened, so that no tunnel ends with a process: the TUN interface with
//! its addresses and routes, the UDP sockets whose ports NATs know, and in memory what it takes to make the sessions anew.
//!
//! With a service manager that keeps descriptors (systemd), they are left there as they are opened ([`keeper`]), so that the next
//! process has them after a restart, and after a crash, too. Without one, `punchd --take-over` asks the running punchd for them
//! ([`takeover`]). Either way they come with names, and nothing is believed of them that the kernel does not say ([`heir`]).

mod format;
mod heir;
pub(crate) mod keeper;
pub(crate) mod takeover;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use punch_engine::{Family, Heritage, Nat64, SocketId};
use punch_platform::handover::Named;

pub(crate) use heir::{Inheritance, Inherited, Kept};
pub(crate) use names::{CONTROL, METRICS};

/// What there are copies of already, by name.
pub(crate) type Copies = BTreeMap<String, OwnedFd>;

/// What the packet path leaves.
pub(crate) struct Left {
    pub(crate) heritage: Heritage,
    /// The prefix of the translator that is used.
    pub(crate) nat64: Option<Nat64>,
    /// The TUN interface, unless whoever asked has a copy.
    pub(crate) interface: Option<OwnedFd>,
    /// The main sockets, and those of paths that are left.
    pub(crate) sockets: Vec<LeftSocket>,
}

/// A socket that is left, and what its path knows it by.
pub(crate) struct LeftSocket {
    pub(crate) id: SocketId,
    pub(crate) family: Family,
    pub(crate) port: u16,
    /// `None` if whoever asked has a copy.
    pub(crate) descriptor: Option<OwnedFd>,
}

/// What descriptors are called, here and in the service manager's store.
pub(crate) mod names {
    use punch_engine::{Family, SocketId};

    pub(crate) const INTERFACE: &str = "interface";
    pub(super) const UDP: [&str; 2] = ["udp4", "udp6"];
    pub(super) const PATHS: [&str; 2] = ["path4-", "path6-"];
    pub(super) const STATE: &str = "state";
    pub(crate) const CONTROL: &str = "control";
    pub(crate) const METRICS: &str = "metrics";

    pub(super) fn index(family: Family) -> usize {
        match family {
            Family::V4 => 0,
            Family::V6 => 1,
        }
    }

    /// What a socket is called.
    pub(crate) fn of(id: SocketId, family: Family, port: u16) -> String {
        if id.is_main() {
            UDP[index(family)].to_owned()
        } else {
            format!("{}{port}", PATHS[index(family)])
        }
    }
}

impl Left {
    /// The state that goes with the descriptors.
    fn state(&self, identity: [u8; 32]) -> format::State {
        let paths = self.sockets.iter().filter(|socket| !socket.id.is_main());
        format::State {
            identity,
            heritage: self.heritage.clone(),
            nat64: self.nat64,
            sockets: paths
                .map(|socket| format::PathSocket {
                    id: socket.id,
                    family: socket.family,
                    port: socket.port,
                })
                .collect(),
        }
    }

    /// The descriptors alone.
    pub(crate) fn into_copies(self) -> Copies {
        let sockets = self.sockets.into_iter().filter_map(|socket| {
            let name = names::of(socket.id, socket.family, socket.port);
            Some((name, socket.descriptor?))
        });
        let interface = self
            .interface
            .map(|interface| (names::INTERFACE.to_owned(), interface));
        interface.into_iter().chain(sockets).collect()
    }

    /// All descriptors by name, and the state as one more. `copies` are those that were made before.
    pub(crate) fn into_named(self, identity: [u8; 32], mut copies: Copies) -> Vec<Named> {
        let page = format::page(&self.state(identity), 1);
        let mut named = Vec::new();
        let interface = self.interface.or_else(|| copies.remove(names::INTERFACE));
        named.extend(interface.map(|interface| (names::INTERFACE.to_owned(), interface)));
        match punch_platform::handover::sealed(&page) {
            Ok(state) => named.push((names::STATE.to_owned(), state.into())),
            Err(error) => {
                tracing::warn!(%error, "there is no memory for the state: tunnels are made anew")
            }
        }
        named.extend(self.sockets.into_iter().filter_map(|socket| {
            let name = names::of(socket.id, socket.family, socket.port);
            let descriptor = socket.descriptor.or_else(|| copies.remove(&name))?;
            Some((name, descriptor))
        }));
        named
    }
}
