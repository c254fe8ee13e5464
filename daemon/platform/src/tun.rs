//! The TUN device. The `tun` crate creates it; packets are read and written here, and with offloads many at a time.

use std::ffi::CString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use punch_packet::{Batch, Coalescer, Offload};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

use crate::{Offloads, handover, sandbox};

// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO: libc::c_uint = 0x02 | 0x04 | 0x08;
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;

/// The device node of the TUN driver (Documentation/networking/tuntap.rst).
const NODE: &str = "/dev/net/tun";
/// The numbers of that node, whatever it is called.
const NUMBERS: (libc::c_uint, libc::c_uint) = (10, 200);

/// Why there is no TUN device; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has no TUN driver, or a container was not given it.
    #[error(
        "there is no /dev/net/tun: load the driver (modprobe tun), or give the container the device"
    )]
    NoDevice,
    /// The mode of the device node excludes this user.
    #[error(
        "user {user} may not open /dev/net/tun (mode {mode:04o}, owner {owner}:{group}): {}",
        how_to_open(*.user)
    )]
    NodeRefused {
        /// The user that this process runs as.
        user: u32,
        /// The permission bits of the node.
        mode: u32,
        /// The user that the node belongs to.
        owner: u32,
        /// The group that the node belongs to.
        group: u32,
    },
    /// The mode does not matter: a device controller, a security module or a mount option refuses the node.
    #[error(
        "/dev/net/tun (mode {mode:04o}, owner {owner}:{group}) cannot be opened, not for its mode: {error}; let the container have the device (docker run --device /dev/net/tun; DeviceAllow=/dev/net/tun rw in a unit)"
    )]
    NodeBarred {
        /// The permission bits of the node.
        mode: u32,
        /// The user that the node belongs to.
        owner: u32,
        /// The group that the node belongs to.
        group: u32,
        /// What the kernel says.
        error: io::Error,
    },
    /// Any other failure to open the node.
    #[error("cannot open /dev/net/tun: {0}")]
    Node(io::Error),
    /// The device is open, and the capability to make an interface of it is missing.
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

fn how_to_open(user: u32) -> &'static str {
    // A service has had its first step try as root, in vain.
    let by_service = std::env::var_os("NOTIFY_SOCKET").is_some();
    match user {
        _ if user == 0 || by_service => {
            "the node belongs to a user outside of this container; on the host: chmod 0666 /dev/net/tun, as udev does"
        }
        _ => "start punchd by its service (sudo systemctl start punchd) or as root (sudo punchd)",
    }
}

/// The TUN driver's device node, open, and not an interface yet. Opening the node takes a right to the file, which is given up
/// before the interface is made.
#[derive(Debug)]
pub struct TunDevice(File);

impl TunDevice {
    /// What the descriptor is called in the service manager's store.
    pub const STORED_AS: &str = "tun";

    /// Takes what was passed to this process as the device, or else opens the node.
    ///
    /// # Errors
    /// [`TunError`], of opening the node.
    pub fn acquire(passed: Option<OwnedFd>) -> Result<Self, TunError> {
        if let Some(descriptor) = passed {
            let file = File::from(descriptor);
            if file.metadata().is_ok_and(|metadata| is_tun(&metadata)) {
                return Ok(Self(file));
            }
            tracing::warn!("what the service manager has stored as `tun` is not the device");
        }
        Self::open()
    }

    /// Opens the node with the rights of this process.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn open() -> Result<Self, TunError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(NODE)
            .map(Self)
            .map_err(|error| explain_node(error, std::fs::metadata(NODE).ok()))
    }

    /// Leaves the device with the service manager for the process that [`Self::acquire`]s it.
    ///
    /// # Errors
    /// Where no service manager listens.
    pub fn store(&self) -> io::Result<()> {
        handover::keep(Self::STORED_AS, self.as_fd())
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_tun(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device() && (libc::major(device), libc::minor(device)) == NUMBERS
}

/// Says why the node was not opened, by what the kernel says and by the node, as far as it can be looked at.
fn explain_node(error: io::Error, node: Option<Metadata>) -> TunError {
    let node = node.map(|node| (node.mode() & 0o7777, node.uid(), node.gid()));
    match (error.raw_os_error(), node) {
        (Some(libc::ENOENT | libc::ENODEV | libc::ENXIO), _) => TunError::NoDevice,
        (Some(libc::EACCES), Some((mode, owner, group))) if mode & 0o006 != 0o006 => {
            TunError::NodeRefused {
                user: sandbox::effective_user(),
                mode,
                owner,
                group,
            }
        }
        (Some(libc::EACCES | libc::EPERM), Some((mode, owner, group))) => TunError::NodeBarred {
            mode,
            owner,
            group,
            error,
        },
        _ => TunError::Node(error),
    }
}

/// One TUN device; it disappears when dropped.
pub struct Tun {
    fd: AsyncFd<File>,
    name: String,
    /// Each packet has a header that says what is still to be done to it.
    headers: bool,
    in_effect: Offloads,
    coalescer: Coalescer,
}

impl Tun {
    /// How long the longest packet is with its header: with TSO no MTU bounds it.
    pub const BUFFER: usize = Offload::LENGTH + 65_535;

    /// Makes the device the interface `name`, which is down and has no address. Offloads that the kernel does not have are left out.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn create(device: TunDevice, name: &str, wanted: Offloads) -> Result<Self, TunError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=15).contains(&name.len()) || !name.chars().all(good) || name.starts_with('.') {
            return Err(TunError::BadName(name.to_owned()));
        }
        // Attaching to a TUN interface that somebody else made would succeed silently.
        if interface_exists(name) {
            return Err(TunError::NameTaken(name.to_owned()));
        }
        let headers = wanted.tun_tso || wanted.tun_uso || wanted.tun_gro;
        let file = attach(device, name, headers).map_err(|error| explain(name, error))?;
        Self::of(file, name, headers, wanted)
            .map_err(|error| TunError::Other(name.to_owned(), error))
    }

    /// Goes on with an interface that an earlier process has made, and has left or passed on. Its addresses and routes are still there;
    /// offloads are asked for anew.
    ///
    /// # Errors
    /// `InvalidData` where the descriptor is no interface, or another one than is wanted: it is closed.
    pub fn adopt(descriptor: OwnedFd, name: &str, wanted: Offloads) -> io::Result<Self> {
        let foreign = |text| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        let file = File::from(descriptor);
        if !file.metadata().is_ok_and(|metadata| is_tun(&metadata)) {
            return foreign("not a TUN device".to_owned());
        }
        let Ok((its_name, flags)) = interface_of(&file) else {
            return foreign("a TUN device without an interface".to_owned());
        };
        let headers = wanted.tun_tso || wanted.tun_uso || wanted.tun_gro;
        if its_name != name {
            return foreign(format!("the interface {its_name} instead of {name}"));
        }
        let kind = libc::IFF_TUN | libc::IFF_NO_PI;
        let told = kind | libc::IFF_TAP | libc::IFF_VNET_HDR;
        let expected = kind | if headers { libc::IFF_VNET_HDR } else { 0 };
        if flags & told != expected {
            return foreign(format!("{name} with other headers"));
        }
        if !interface_exists(name) {
            return foreign(format!("{name} of another network namespace"));
        }
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
        Self::of(file, name, headers, wanted)
    }

    /// Takes an interface into use.
    fn of(file: File, name: &str, headers: bool, wanted: Offloads) -> io::Result<Self> {
        let mut in_effect = wanted;
        if headers {
            (in_effect.tun_tso, in_effect.tun_uso) =
                enable(wanted, |flags| set_offload(&file, flags));
        }
        Ok(Self {
            fd: register(file)?,
            name: name.to_owned(),
            headers,
            in_effect,
            // A kernel that cuts datagrams takes joined ones too.
            coalescer: Coalescer::new(wanted.tun_gro, wanted.tun_gro && in_effect.tun_uso),
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads that the kernel has granted; those of UDP sockets as they were asked for.
    pub fn offloads(&self) -> Offloads {
        self.in_effect
    }

    /// Waits until there may be a packet. Call it only when [`Self::read`] has found none: reading does not ask whether there is one.
    ///
    /// # Errors
    /// Those of the descriptor.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await?.clear_ready();
        Ok(())
    }

    /// Reads the next packet into `buffer`, of [`Self::BUFFER`] bytes; returns what is still to be done to it and where it stands,
    /// or `None` if none waits.
    ///
    /// # Errors
    /// When the interface is gone: somebody has deleted it.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(Offload, Range<usize>)>> {
        loop {
            let length = match self.fd.get_ref().read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The interface is down, and may come up again.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
                Err(error) => return Err(error),
            };
            if !self.headers {
                return Ok(Some((Offload::default(), 0..length)));
            }
            let header = buffer[..length].first_chunk();
            if let Some(offload) = header.and_then(|header| Offload::decode(header).ok()) {
                return Ok(Some((offload, Offload::LENGTH..length)));
            }
        }
    }

    /// Gives packets to the kernel, joined where that is possible; returns how many it has refused. A device that is down
    /// refuses all.
    pub fn write(&mut self, batch: &mut Batch) -> usize {
        let mut file = self.fd.get_ref();
        if !self.headers {
            return batch
                .iter()
                .filter(|packet| file.write(packet).is_err())
                .count();
        }
        self.coalescer.join(batch);
        let headers: Vec<_> = self
            .coalescer
            .groups()
            .map(|group| group.offload.encode(group.headers))
            .collect();
        let mut refused = 0;
        let mut senseless = false;
        let mut pieces = Vec::with_capacity(2);
        for (group, header) in self.coalescer.groups().zip(&headers) {
            pieces.clear();
            pieces.push(IoSlice::new(header));
            for (place, member) in self.coalescer.members(group).enumerate() {
                let skipped = if place == 0 {
                    0
                } else {
                    usize::from(group.headers)
                };
                pieces.push(IoSlice::new(&batch.get(member)[skipped..]));
            }
            if let Err(error) = file.write_vectored(&pieces) {
                refused += pieces.len() - 1;
                senseless |= pieces.len() > 2 && error.raw_os_error() == Some(libc::EINVAL);
            }
        }
        if senseless && self.in_effect.tun_gro {
            tracing::warn!(
                name = self.name,
                "the kernel takes no joined packets: each by itself from now on"
            );
            self.in_effect.tun_gro = false;
            self.coalescer = Coalescer::new(false, false);
        }
        refused
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// The name and the flags of the interface that an open device is (TUNGETIFF).
#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn interface_of(device: &File) -> io::Result<(String, libc::c_int)> {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the request lives longer than the call, which writes only into it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNGETIFF as _, &mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
    let name: Vec<u8> = name.map(|byte| *byte as u8).collect();
    // SAFETY: the call has written this member of the union, which is a number anyway.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((
        String::from_utf8_lossy(&name).into_owned(),
        libc::c_int::from(flags),
    ))
}

/// Whether this network namespace has an interface of that name; /sys may be another one's.
pub fn interface_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: the name is a string that ends with a zero and lives longer than the call (if_nametoindex(3)).
    #[expect(unsafe_code, reason = "there is no safe call for it in std")]
    unsafe {
        libc::if_nametoindex(name.as_ptr()) != 0
    }
}

fn attach(device: TunDevice, name: &str, headers: bool) -> io::Result<File> {
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if headers {
        flags |= libc::IFF_VNET_HDR;
    }
    set_interface(&device.0, name, flags)?;
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name);
    configuration.raw_fd(device.0.into_raw_fd());
    configuration.platform_config(|platform| {
        // Addresses, MTU and state are netlink's business, here as everywhere.
        platform.ensure_root_privileges(false);
        platform.vnet_hdr(headers);
    });
    let device = tun::create(&configuration)?;
    device.set_nonblock()?;
    Ok(adopt(device))
}

/// Makes an open device an interface (TUNSETIFF). The `tun` crate does that only for a node that it has opened itself.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn set_interface(device: &File, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A name of 15 bytes leaves the zero at the end.
    for (to, from) in request.ifr_name.iter_mut().take(15).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open, and the request lives longer than the call, which writes only into it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads and writes are ours: a device of the `tun` crate has no vectored ones.
#[expect(
    unsafe_code,
    reason = "the tun crate hands over the raw descriptor only"
)]
fn adopt(device: tun::Device) -> File {
    // SAFETY: the device gives its descriptor up, open, and nobody else has it.
    unsafe { File::from_raw_fd(device.into_raw_fd()) }
}

#[expect(
    unsafe_code,
    reason = "a File's descriptor could be exchanged, which nobody here does"
)]
fn register(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: the file owns its descriptor, which stays open and the same until the AsyncFd that owns the file is dropped.
    unsafe { AsyncFd::register(file) }.map_err(io::Error::from)
}

/// Asks for segmentation offloads; returns whether TCP's and UDP's were granted.
fn enable(wanted: Offloads, mut ask: impl FnMut(libc::c_uint) -> io::Result<()>) -> (bool, bool) {
    for (tso, uso) in [(wanted.tun_tso, wanted.tun_uso), (wanted.tun_tso, false)] {
        let mut flags = 0;
        if tso {
            flags |= TUN_F_CSUM | TUN_F_TSO;
        }
        if uso {
            flags |= TUN_F_CSUM | TUN_F_USO;
        }
        if flags == 0 || ask(flags).is_ok() {
            return (tso, uso);
        }
    }
    (false, false)
}

#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn set_offload(file: &File, flags: libc::c_uint) -> io::Result<()> {
    /// _IOW('T', 208, unsigned int)
    const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54D0;
    // SAFETY: the descriptor is open, and this request takes its argument by value.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn explain(name: &str, error: io::Error) -> TunError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.to_owned()),
        Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => TunError::NameTaken(name.to_owned()),
        _ => TunError::Other(name.to_owned(), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is granted by a kernel that knows these flags, and what it was asked for.
    fn granted(wanted: Offloads, known: libc::c_uint) -> ((bool, bool), Vec<libc::c_uint>) {
        let mut asked = Vec::new();
        let result = enable(wanted, |flags| {
            asked.push(flags);
            match flags & !known {
                0 => Ok(()),
                _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            }
        });
        (result, asked)
    }

    #[test]
    fn a_kernel_that_lacks_an_offload_is_asked_for_less() {
        let all = Offloads::default();
        let (tso, every) = (TUN_F_CSUM | TUN_F_TSO, TUN_F_CSUM | TUN_F_TSO | TUN_F_USO);

        assert_eq!(granted(all, every), ((true, true), vec![every]));
        assert_eq!(granted(all, tso), ((true, false), vec![every, tso]));
        assert_eq!(granted(all, 0), ((false, false), vec![every, tso]));
    }

    #[test]
    fn nothing_is_asked_for_that_is_not_wanted() {
        let uso = TUN_F_CSUM | TUN_F_USO;
        let only_uso = Offloads {
            tun_tso: false,
            ..Offloads::default()
        };
        let neither = Offloads {
            tun_uso: false,
            ..only_uso
        };

        assert_eq!(granted(only_uso, uso), ((false, true), vec![uso]));
        assert_eq!(granted(only_uso, 0), ((false, false), vec![uso]));
        assert_eq!(granted(neither, uso), ((false, false), vec![]));
    }
}
