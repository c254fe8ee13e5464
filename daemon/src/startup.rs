//! Opens what punchd stands on: state, control socket and the place for metrics, then gives up every right that is not needed
//! any more; and after that the interface and the UDP sockets of the packet path.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use punch_engine::Family;
use punch_platform::handover::{Named, copy};
use punch_platform::sandbox::{self, Owner};
use punch_platform::{Offloads, Tun, TunDevice, Udp, clock};
use punch_signal_protocol::PeerId;
use socket2::{Domain, Socket, Type};

use crate::config::Config;
use crate::control::socket;
use crate::handover::{self, Inheritance, Inherited, Kept};
use crate::store::Store;
use crate::tcp::listener;
use crate::views::facts::Ports;

/// A state directory that the process before this one is about to leave is free by then: its disk may stall.
const PATIENCE: Duration = Duration::from_secs(10);
/// It is looked at so often.
const LOOK: Duration = Duration::from_millis(40);

/// Where things are.
pub(crate) struct Places {
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
}

/// What is opened before any right is given up.
pub(crate) struct Ground {
    pub(crate) store: Store,
    /// There is none where the interface is inherited and the node cannot be opened.
    pub(crate) device: Option<TunDevice>,
    pub(crate) listeners: Listeners,
    pub(crate) socket_file: RemoveOnDrop,
    /// What an earlier process has left.
    pub(crate) inheritance: Inheritance,
}

/// Where requests come in.
pub(crate) struct Listeners {
    control: UnixListener,
    metrics: Option<TcpListener>,
}

impl Listeners {
    /// Opens them, or goes on with those of an earlier process.
    fn open(
        socket_path: &Path,
        metrics: Option<TcpListener>,
        inheritance: &mut Inheritance,
    ) -> Result<Self> {
        let control = match inheritance.take_control(socket_path) {
            Some(control) => control,
            None => socket::bind(socket_path)?,
        };
        Ok(Self { control, metrics })
    }

    /// Copies for the next process, by name.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<Named>> {
        let mut copies = vec![(handover::CONTROL.to_owned(), copy(&self.control)?)];
        if let Some(metrics) = &self.metrics {
            copies.push((handover::METRICS.to_owned(), copy(metrics)?));
        }
        Ok(copies)
    }

    /// The same listeners on the runtime that this is called in: for the control API, and for metrics.
    pub(crate) fn into_async(
        self,
    ) -> Result<(tokio::net::UnixListener, Option<tokio::net::TcpListener>)> {
        let control = tokio::net::UnixListener::from_std(self.control)
            .context("cannot use the control socket")?;
        let metrics = self
            .metrics
            .map(tokio::net::TcpListener::from_std)
            .transpose()
            .context("cannot use the socket for metrics")?;
        Ok((control, metrics))
    }
}

/// A file that is removed when this value is dropped.
pub(crate) struct RemoveOnDrop {
    path: PathBuf,
    /// Whether the file is this process's to remove.
    armed: bool,
}

impl RemoveOnDrop {
    /// Where it is.
    pub(crate) fn place(&self) -> &Path {
        &self.path
    }

    /// The file stays: it is another process's now.
    pub(crate) fn leave(mut self) {
        self.armed = false;
    }

    /// The file is this process's from now on.
    pub(crate) fn arm(&mut self) {
        self.armed = true;
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if self.armed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Ground {
    /// Opens everything, and gives up what is not needed. No other thread may run yet: rights are a thread's.
    pub(crate) fn prepare(
        config: &Config,
        places: Places,
        mut inheritance: Inheritance,
    ) -> Result<Self> {
        let Places {
            state_dir,
            socket: socket_path,
        } = places;
        let sockets = match socket_path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let metrics = metrics(config, &mut inheritance)?;
        // Nobody but root may open the device where no udev has changed its mode. Whatever else is wrong is said first.
        let device = TunDevice::acquire(inheritance.take_device());
        let owner = other_owner(&state_dir);
        make_socket_directory(&sockets, owner)
            .with_context(|| format!("cannot make {}", sockets.display()))?;
        if let Some(owner) = owner {
            // From here on nothing is done in directories of that user's with more than that user's rights.
            sandbox::become_user(owner).with_context(|| {
                format!(
                    "cannot become the owner of {} (user {}, group {}); let root own it, or start punchd as that user",
                    state_dir.display(),
                    owner.user,
                    owner.group
                )
            })?;
        }
        // Until this process serves in its place, the other one needs the file.
        let armed = !inheritance.has_control();
        let patience = if armed { Duration::ZERO } else { PATIENCE };
        let until = clock::now() + patience;
        let store = loop {
            match Store::open(&state_dir) {
                Err(error) if Store::is_in_use(&error) && clock::now() < until => {
                    std::thread::sleep(LOOK);
                }
                opened => break opened?,
            }
        };
        let listeners = Listeners::open(&socket_path, metrics, &mut inheritance)?;
        let socket_file = RemoveOnDrop {
            path: socket_path,
            armed,
        };
        let kept = sandbox::enter(&sandbox::Needs {
            low_port: (1..1024).contains(&config.port),
            state: &state_dir,
            sockets: &sockets,
        })
        .context("cannot give up rights that are not needed")?;
        fs::read_dir(&state_dir).with_context(|| {
            format!(
                "user {} cannot use the state directory {} without root's rights over files: let it own the directory and reach it, or choose another one (--state-dir)",
                kept.user,
                state_dir.display()
            )
        })?;
        tracing::info!(
            user = kept.user,
            capabilities = kept.capabilities,
            landlock = kept.landlock,
            "confined"
        );
        let device = match device {
            Err(_) if inheritance.has_interface() => None,
            device => Some(device?),
        };
        Ok(Self {
            store,
            device,
            listeners,
            socket_file,
            inheritance,
        })
    }

    /// Opens again what this process has passed on to one that did not come to serve, as soon as that one has left the state directory,
    /// however long that takes: there is nobody else to serve. Rights are given up already.
    pub(crate) async fn again(
        config: &Config,
        state_dir: &Path,
        socket_file: RemoveOnDrop,
        mut inheritance: Inheritance,
    ) -> Result<Self> {
        let metrics = metrics(config, &mut inheritance)?;
        let (mut is_said, mut tries) = (false, PATIENCE.div_duration_f64(LOOK) as u32);
        let store = loop {
            match Store::open(state_dir) {
                Err(error) if Store::is_in_use(&error) => {
                    if !is_said {
                        tracing::warn!(
                            "the process that was to take over is still there and has the state directory: this one goes on when it has ended"
                        );
                        is_said = true;
                    }
                }
                // What that one has opened may have left no room for an open file.
                Err(_) if tries > 0 => tries -= 1,
                opened => break opened?,
            }
            tokio::time::sleep(LOOK).await;
        };
        let listeners = Listeners::open(&socket_file.path, metrics, &mut inheritance)?;
        Ok(Self {
            store,
            device: None,
            listeners,
            socket_file,
            inheritance,
        })
    }
}

/// The socket for metrics, if one is wanted.
fn metrics(config: &Config, inheritance: &mut Inheritance) -> Result<Option<TcpListener>> {
    let listen = |address| match inheritance.take_metrics(address) {
        Some(listener) => Ok(listener),
        None => listen(address),
    };
    config.metrics.map(listen).transpose()
}

/// What packets pass through: the TUN interface and the main UDP sockets.
pub(crate) struct DataPath {
    pub(crate) tun: Tun,
    pub(crate) v4: Option<Udp>,
    pub(crate) v6: Option<Udp>,
    /// What they go on with.
    pub(crate) inherited: Inherited,
    /// What the service manager keeps of all that.
    pub(crate) kept: Kept,
    /// Where peers may connect by TCP.
    pub(crate) listeners: Vec<(Family, TcpListener)>,
}

impl DataPath {
    /// Opens all of them on the runtime that this is called in. One of the two address families may be missing.
    pub(crate) fn open(
        device: Option<TunDevice>,
        config: &Config,
        identity: &PeerId,
        mut inheritance: Inheritance,
    ) -> Result<Self> {
        let tun = match inheritance.take_interface(&config.interface, config.offloads) {
            Some(tun) => tun,
            None => {
                inheritance.wait_for_name(&config.interface);
                let device = device.map_or_else(TunDevice::open, Ok)?;
                Tun::create(device, &config.interface, config.offloads)?
            }
        };
        let mut socket = |family, is_v6| match inheritance.take_udp(family, config.port) {
            Some(socket) => (Ok(socket), true),
            None => (Udp::open(is_v6, config.port), false),
        };
        let (v4, is_v4_inherited) = socket(Family::V4, false);
        let (v6, is_v6_inherited) = socket(Family::V6, true);
        let main = [is_v4_inherited, is_v6_inherited];
        let (inherited, kept) = inheritance.take_rest(identity.as_bytes(), main);
        let Offloads {
            tun_tso,
            tun_uso,
            tun_gro,
            udp_gso,
            udp_gro,
        } = tun.offloads();
        tracing::info!(tun_tso, tun_uso, tun_gro, udp_gso, udp_gro, "offloads");
        if let (Err(v4), Err(v6)) = (&v4, &v6) {
            bail!("cannot open UDP port {}: {v4}; IPv6: {v6}", config.port);
        }
        // A port that was asked for and is taken must not be replaced in silence.
        for (socket, family) in [(&v4, "IPv4"), (&v6, "IPv6")] {
            if let Err(error) = socket {
                if error.kind() == std::io::ErrorKind::AddrInUse {
                    bail!(
                        "UDP port {} is taken ({family}): choose another under [underlay] in punchd.toml",
                        config.port
                    );
                }
                tracing::warn!(%error, family, "this address family is not used");
            }
        }
        let (v4, v6) = (v4.ok(), v6.ok());
        let wanted = [(Family::V4, &v4), (Family::V6, &v6)];
        let wanted = wanted.into_iter().filter(|_| config.tcp);
        let listeners = wanted.filter_map(|(family, udp)| {
            let port = udp.as_ref()?.port();
            Some((family, listen_beside(family, port)?))
        });
        Ok(Self {
            listeners: listeners.collect(),
            tun,
            v4,
            v6,
            inherited,
            kept,
        })
    }

    /// Where packets come in.
    pub(crate) fn ports(&self) -> Ports {
        let udp = |socket: &Option<Udp>| socket.as_ref().map(Udp::port);
        let tcp = |family| {
            let mut listeners = self.listeners.iter();
            let (_, listener) = listeners.find(|(of, _)| *of == family)?;
            Some(listener.local_addr().ok()?.port())
        };
        Ports {
            udp: (udp(&self.v4), udp(&self.v6)),
            tcp: (tcp(Family::V4), tcp(Family::V6)),
        }
    }
}

/// The owner that the state has, or will have by the directory that it is to be in, if that is another user and this is root. What root
/// leaves there the service could not read.
fn other_owner(state_dir: &Path) -> Option<Owner> {
    let absolute = std::path::absolute(state_dir).ok()?;
    let there = absolute
        .ancestors()
        .find_map(|path| fs::metadata(path).ok())?;
    let other = there.uid() != 0 && sandbox::is_root();
    other.then(|| Owner {
        user: there.uid(),
        group: there.gid(),
    })
}

/// The directory of the control socket, unless it is there: its owner removes the socket in the end.
fn make_socket_directory(directory: &Path, owner: Option<Owner>) -> std::io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    match owner {
        Some(owner) => chown(directory, Some(owner.user), Some(owner.group)),
        None => Ok(()),
    }
}

/// Where peers may connect by TCP: on the port of the UDP socket if it is free, so that there is one number to let through a firewall.
fn listen_beside(family: Family, port: u16) -> Option<TcpListener> {
    let opened = listener::open(family, port).or_else(|error| {
        tracing::warn!(port, ?family, %error, "TCP connections of peers are taken on another port than packets");
        listener::open(family, 0)
    });
    let error = match opened {
        Ok(listener) => return Some(listener),
        Err(error) => error,
    };
    tracing::warn!(?family, %error, "no TCP connections of peers are taken");
    None
}

/// A socket for metrics, on an address that may come later: the tunnel's own one, or one of a network that is not up yet.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv4() {
            socket.set_freebind_v4(true)?;
        } else {
            socket.set_freebind_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(16)?;
        Ok(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address} ([metrics] listen in punchd.toml)"))
}
