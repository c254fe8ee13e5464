//! Opens what punchd stands on: state, control socket and the place for metrics, then gives up every right that is not needed
//! any more; and after that the interface and the UDP sockets of the packet path.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use punch_platform::sandbox::{self, Owner};
use punch_platform::{Offloads, Tun, TunDevice, Udp};
use socket2::{Domain, Socket, Type};

use crate::config::Config;
use crate::control::socket;
use crate::store::Store;

/// Where things are.
pub(crate) struct Places {
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
}

/// What is opened before any right is given up.
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) tun: TunDevice,
    pub(crate) listeners: Listeners,
    pub(crate) socket_file: RemoveOnDrop,
}

/// Where requests come in.
pub(crate) struct Listeners {
    control: UnixListener,
    metrics: Option<TcpListener>,
}

impl Listeners {
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
pub(crate) struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Ground {
    /// Opens everything, and gives up what is not needed. No other thread may run yet: rights are a thread's.
    pub(crate) fn prepare(config: &Config, places: Places) -> Result<Self> {
        let Places {
            state_dir,
            socket: socket_path,
        } = places;
        let sockets = match socket_path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let metrics = config.metrics.map(listen).transpose()?;
        // Nobody but root may open the device where no udev has changed its mode. Whatever else is wrong is said first.
        let tun = TunDevice::acquire();
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
        let store = Store::open(&state_dir)?;
        let control = socket::bind(&socket_path)?;
        let socket_file = RemoveOnDrop(socket_path);
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
        Ok(Self {
            store,
            tun: tun?,
            listeners: Listeners { control, metrics },
            socket_file,
        })
    }
}

/// What packets pass through: the TUN interface and the main UDP sockets.
pub(crate) struct DataPath {
    pub(crate) tun: Tun,
    pub(crate) v4: Option<Udp>,
    pub(crate) v6: Option<Udp>,
}

impl DataPath {
    /// Opens all of them on the runtime that this is called in. One of the two address families may be missing.
    pub(crate) fn open(tun: TunDevice, config: &Config) -> Result<Self> {
        let tun = Tun::create(tun, &config.interface, config.offloads)?;
        let v4 = Udp::open(false, config.port);
        let v6 = Udp::open(true, config.port);
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
        Ok(Self {
            tun,
            v4: v4.ok(),
            v6: v6.ok(),
        })
    }

    /// The ports of the main sockets, of IPv4 and IPv6.
    pub(crate) fn ports(&self) -> (Option<u16>, Option<u16>) {
        let port = |socket: &Option<Udp>| socket.as_ref().map(Udp::port);
        (port(&self.v4), port(&self.v6))
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
