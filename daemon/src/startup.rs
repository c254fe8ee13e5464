//! What punchd stands on: state, control socket and the place for metrics are opened, then every right is given up that is not
//! needed any more.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use punch_platform::TunDevice;
use punch_platform::sandbox::{self, Owner};
use socket2::{Domain, Socket, Type};

use crate::config::Config;
use crate::control::socket;
use crate::store::Store;

/// Where things are.
pub(crate) struct Places {
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
}

/// See the module.
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) tun: TunDevice,
    pub(crate) control: UnixListener,
    pub(crate) metrics: Option<TcpListener>,
    pub(crate) socket_file: RemoveOnDrop,
}

/// A file that goes when this does.
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
            control,
            metrics,
            socket_file,
        })
    }
}

/// Whose the state is, or will be by the directory that it is to be in, if that is another user and this is root. What root
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
