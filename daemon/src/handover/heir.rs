//! What an earlier process has left, looked at before it is used: what the kernel says a descriptor is counts, not its name.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use punch_engine::{Family, Heritage, Nat64, SocketId};
use punch_platform::handover::{self, Named};
use punch_platform::{Offloads, Tun, TunDevice, Udp, clock, interface_exists};

use super::format::{self, State};
use super::names;

/// An interface that was not taken is gone when the service manager has closed its copy, too.
const INTERFACE_GONE: Duration = Duration::from_secs(2);
/// Descriptors that are looked at; what else comes is closed.
pub(super) const MAX_DESCRIPTORS: usize = 32_768;

/// Descriptors of an earlier process, and the state that it has left. Empty in most starts.
#[derive(Default)]
pub(crate) struct Inheritance {
    device: Option<OwnedFd>,
    interface: Option<OwnedFd>,
    udp: [Option<OwnedFd>; 2],
    /// Sockets of paths, by name.
    paths: Vec<(String, Family, OwnedFd)>,
    control: Option<OwnedFd>,
    metrics: Option<OwnedFd>,
    state: State,
    kept: Kept,
    /// Whether an interface of the wanted name may be there that was not taken.
    was_refused: bool,
}

/// What the service manager's store has of ours.
#[derive(Default)]
pub(crate) struct Kept {
    pub(super) names: BTreeSet<String>,
    /// The memory with the state, and the generation of what stands there.
    pub(super) memory: Option<(File, u64)>,
}

/// What the packet path goes on with once it knows its peers.
#[derive(Default)]
pub(crate) struct Inherited {
    pub(crate) heritage: Heritage,
    /// The prefix of the translator that was used.
    pub(crate) nat64: Option<Nat64>,
    /// Sockets of paths, by the numbers that the heritage knows them by.
    pub(crate) sockets: Vec<(SocketId, Udp)>,
}

impl Inheritance {
    /// What the service manager has kept.
    pub(crate) fn from_manager() -> Self {
        match handover::passed() {
            Ok(named) => Self::of(named),
            Err(error) => {
                tracing::warn!(%error, "nothing is taken from the service manager");
                Self::default()
            }
        }
    }

    /// What these descriptors are by their names. A foreign one is closed, in the store too.
    pub(crate) fn of(named: Vec<Named>) -> Self {
        let mut found = Self::default();
        for (name, descriptor) in named.into_iter().take(MAX_DESCRIPTORS) {
            let path = |prefix: &str| name.starts_with(prefix);
            let slot = match name.as_str() {
                TunDevice::STORED_AS => &mut found.device,
                names::INTERFACE => &mut found.interface,
                name if name == names::UDP[0] => &mut found.udp[0],
                name if name == names::UDP[1] => &mut found.udp[1],
                names::CONTROL => &mut found.control,
                names::METRICS => &mut found.metrics,
                names::STATE => {
                    found.take_state(File::from(descriptor));
                    continue;
                }
                _ if path(names::PATHS[0]) => {
                    found.paths.push((name, Family::V4, descriptor));
                    continue;
                }
                _ if path(names::PATHS[1]) => {
                    found.paths.push((name, Family::V6, descriptor));
                    continue;
                }
                _ => {
                    refuse(&name, "not a name of punchd's");
                    continue;
                }
            };
            if slot.is_some() {
                tracing::warn!(name, "a second descriptor of this name is closed");
                continue;
            }
            *slot = Some(descriptor);
        }
        // It becomes the interface, or is not needed: were it left there, that interface would outlive punchd.
        if found.device.is_some() {
            let _ = handover::keep_no_longer(TunDevice::STORED_AS);
        }
        found
    }

    fn take_state(&mut self, memory: File) {
        let contents = match handover::read_memory(&memory) {
            Ok(contents) => contents,
            Err(error) => return refuse(names::STATE, &error.to_string()),
        };
        // A process that comes to harm by it must not come to the same harm again. What is sealed comes from a process, and once.
        let _ = memory.set_len(0);
        match format::newest(&contents) {
            Ok((state, generation)) => {
                self.state = state;
                self.kept.names.insert(names::STATE.to_owned());
                self.kept.memory = Some((memory, generation));
            }
            Err(why) => {
                tracing::warn!(
                    "the state of the earlier punchd is not used: {why}; interface and sockets are, and the tunnels are made anew"
                );
                let _ = handover::keep_no_longer(names::STATE);
            }
        }
    }

    /// Whether there may be an interface to go on with.
    pub(crate) fn has_interface(&self) -> bool {
        self.interface.is_some()
    }

    /// Whether the control socket is another process's still.
    pub(crate) fn has_control(&self) -> bool {
        self.control.is_some()
    }

    /// The open node of the TUN driver.
    pub(crate) fn take_device(&mut self) -> Option<OwnedFd> {
        self.device.take()
    }

    /// The control socket, if it is the one at this place.
    pub(crate) fn take_control(&mut self, path: &Path) -> Option<UnixListener> {
        let listener = UnixListener::from(self.control.take()?);
        let is_right = listener
            .local_addr()
            .is_ok_and(|address| address.as_pathname() == Some(path));
        if !is_right || listener.set_nonblocking(true).is_err() {
            refuse(names::CONTROL, "not the control socket at this place");
            return None;
        }
        Some(listener)
    }

    /// The socket for metrics, if it listens on this address.
    pub(crate) fn take_metrics(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let listener = TcpListener::from(self.metrics.take()?);
        let is_right = listener.local_addr().is_ok_and(|its| its == address);
        if !is_right || listener.set_nonblocking(true).is_err() {
            refuse(names::METRICS, "not the socket for metrics at this address");
            return None;
        }
        Some(listener)
    }

    /// The TUN interface, if it is the one that the configuration wants.
    pub(crate) fn take_interface(&mut self, name: &str, offloads: Offloads) -> Option<Tun> {
        match Tun::adopt(self.interface.take()?, name, offloads) {
            Ok(tun) => {
                self.kept.names.insert(names::INTERFACE.to_owned());
                Some(tun)
            }
            Err(error) => {
                refuse(names::INTERFACE, &error.to_string());
                self.was_refused = true;
                None
            }
        }
    }

    /// Waits until the name of an interface is free that was not taken: the service manager closes its copy soon.
    pub(crate) fn wait_for_name(&self, name: &str) {
        let until = clock::now() + INTERFACE_GONE;
        while self.was_refused && interface_exists(name) && clock::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A main socket, if it has the port that the configuration wants; 0 takes any.
    pub(crate) fn take_udp(&mut self, family: Family, port: u16) -> Option<Udp> {
        let index = names::index(family);
        let name = names::UDP[index];
        let adopted = Udp::adopt(self.udp[index].take()?, family == Family::V6);
        let socket = match adopted {
            Ok(socket) => socket,
            Err(error) => {
                refuse(name, &error.to_string());
                return None;
            }
        };
        if port != 0 && socket.port() != port {
            refuse(
                name,
                &format!("it has port {} and not {port}", socket.port()),
            );
            return None;
        }
        self.kept.names.insert(name.to_owned());
        Some(socket)
    }

    /// What the packet path goes on with, if this machine still is who it was. `main` says whether the main sockets, of IPv4 and IPv6,
    /// are those of before: a path leaves from the socket that its NAT knows, or it is none.
    pub(crate) fn take_rest(&mut self, identity: &[u8; 32], main: [bool; 2]) -> (Inherited, Kept) {
        let State {
            identity: whose,
            mut heritage,
            mut nat64,
            sockets: known,
        } = std::mem::take(&mut self.state);
        let has_state = self.kept.memory.is_some();
        if has_state && whose != *identity {
            tracing::warn!("the state of the earlier punchd is another identity's: it is not used");
            heritage = Heritage::default();
            nat64 = None;
        }
        let mut sockets = Vec::new();
        for (name, family, descriptor) in self.paths.drain(..) {
            let socket = match Udp::adopt(descriptor, family == Family::V6) {
                Ok(socket) => socket,
                Err(error) => {
                    refuse(&name, &error.to_string());
                    continue;
                }
            };
            let is_it =
                |known: &&format::PathSocket| known.family == family && known.port == socket.port();
            let uses = |id| heritage.peers.iter().any(|peer| leaves_from(peer, id));
            match known.iter().find(is_it).filter(|known| uses(known.id)) {
                Some(known) => {
                    self.kept.names.insert(name);
                    sockets.push((known.id, socket));
                }
                None => {
                    tracing::debug!(name, "no path leaves from this socket any more");
                    let _ = handover::keep_no_longer(&name);
                }
            }
        }
        for peer in &mut heritage.peers {
            let id = peer.path.as_ref().map(|path| path.proven.path.socket);
            let is_there = id.is_some_and(|id| match id {
                SocketId::MAIN_V4 => main[0],
                SocketId::MAIN_V6 => main[1],
                id => sockets.iter().any(|(there, _)| *there == id),
            });
            if !is_there {
                peer.path = None;
            }
        }
        let paths = heritage.peers.iter().filter(|peer| peer.path.is_some());
        let paths = paths.count();
        if has_state {
            let flows = heritage.flows.len();
            tracing::info!(
                paths,
                flows,
                "goes on with the tunnels of an earlier punchd"
            );
        }
        let inherited = Inherited {
            heritage,
            nat64,
            sockets,
        };
        (inherited, std::mem::take(&mut self.kept))
    }
}

fn leaves_from(peer: &punch_engine::Bequest, id: SocketId) -> bool {
    let path = peer.path.as_ref();
    path.is_some_and(|path| path.proven.path.socket == id)
}

/// Closes a descriptor that is not what its name says, and says so.
fn refuse(name: &str, why: &str) {
    tracing::warn!(name, why, "a descriptor that was left here is closed");
    if let Err(error) = handover::keep_no_longer(name) {
        tracing::warn!(%error, "the service manager was not told");
    }
}
