//! The TUN device. The `tun` crate creates it; packets are read and written here, many per wake-up.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use punch_packet::Batch;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Packets read per wake-up: bounds how long other work waits.
const MAX_BATCH: usize = 64;

/// Why there is no TUN device; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has no TUN driver, or a container was not given it.
    #[error(
        "there is no /dev/net/tun: load the driver (modprobe tun), or give the container the device"
    )]
    NoDevice,
    /// Not root and no capability.
    #[error(
        "no permission to make the interface {0}: punchd needs CAP_NET_ADMIN; start it as root or by its service"
    )]
    NotPermitted(String),
    /// Something else has that name.
    #[error(
        "an interface called {0} exists already: is another punchd running? Otherwise choose another name under [tun] in punchd.toml"
    )]
    NameTaken(String),
    /// Not a name for an interface.
    #[error("`{0}` is not a name for an interface: use 1 to 15 letters, digits, `-`, `_` or `.`")]
    BadName(String),
    /// Anything else.
    #[error("cannot make the interface {0}: {1}")]
    Other(String, io::Error),
}

/// One TUN device; it disappears when dropped.
pub struct Tun {
    fd: AsyncFd<Device>,
    name: String,
    mtu: usize,
}

struct Device(tun::Device);

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Tun {
    /// Creates the interface `name` for packets of up to `mtu` bytes; it is down and has no address.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn create(name: &str, mtu: usize) -> Result<Self, TunError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=15).contains(&name.len()) || !name.chars().all(good) || name.starts_with('.') {
            return Err(TunError::BadName(name.to_owned()));
        }
        // Attaching to a TUN interface that somebody else made would succeed silently.
        if Path::new("/sys/class/net").join(name).exists() {
            return Err(TunError::NameTaken(name.to_owned()));
        }
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(name);
        configuration.platform_config(|platform| {
            // Addresses, MTU and state are netlink's business, here as everywhere.
            platform.ensure_root_privileges(false);
        });
        let device = tun::create(&configuration)
            .map_err(io::Error::from)
            .and_then(|device| device.set_nonblock().map(|()| device))
            .map_err(|error| explain(name, error))?;
        let fd = register(device).map_err(|error| TunError::Other(name.to_owned(), error))?;
        Ok(Self {
            fd,
            name: name.to_owned(),
            mtu,
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until there is a packet.
    ///
    /// # Errors
    /// Those of the descriptor.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await.map(|_| ())
    }

    /// Appends the packets that wait, at most 64; returns how many.
    ///
    /// # Errors
    /// When the interface is gone: somebody has deleted it.
    pub fn read(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let room = self.mtu.max(1500) + 64;
        let before = batch.len();
        let mut failure = None;
        while batch.len() - before < MAX_BATCH {
            let read = batch.push_with(room, |buffer| {
                let read = self
                    .fd
                    .try_io_mut(Interest::READABLE, |device| device.0.read(buffer));
                read.map_err(|error| failure = Some(error)).ok()
            });
            if !read {
                break;
            }
        }
        match failure {
            // EIO: the interface is down, and may come up again.
            Some(error)
                if error.kind() != io::ErrorKind::WouldBlock
                    && error.raw_os_error() != Some(libc::EIO) =>
            {
                Err(error)
            }
            _ => Ok(batch.len() - before),
        }
    }

    /// Gives a packet to the kernel; whether it took it. A device that is down refuses with EIO.
    pub fn write(&mut self, packet: &[u8]) -> bool {
        self.fd.get_mut().0.write(packet).is_ok()
    }
}

#[expect(unsafe_code, reason = "the tun crate offers the raw descriptor only")]
fn register(device: tun::Device) -> io::Result<AsyncFd<Device>> {
    // SAFETY: the device owns its descriptor, which stays open and the same until the AsyncFd that owns the device is dropped.
    unsafe { AsyncFd::register(Device(device)) }.map_err(io::Error::from)
}

fn explain(name: &str, error: io::Error) -> TunError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.to_owned()),
        Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => TunError::NameTaken(name.to_owned()),
        _ => TunError::Other(name.to_owned(), error),
    }
}
