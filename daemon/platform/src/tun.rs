//! The TUN device. The `tun` crate creates it; packets are read and written here, and with offloads many at a time.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};

use punch_packet::{Batch, Coalescer, Offload};
use tokio::io::unix::AsyncFd;

use crate::Offloads;

// linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO: libc::c_uint = 0x02 | 0x04 | 0x08;
const TUN_F_USO: libc::c_uint = 0x20 | 0x40;

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

    /// Creates the interface `name`; it is down and has no address. Offloads that the kernel does not have are left away.
    ///
    /// # Errors
    /// [`TunError`].
    pub fn create(name: &str, wanted: Offloads) -> Result<Self, TunError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(1..=15).contains(&name.len()) || !name.chars().all(good) || name.starts_with('.') {
            return Err(TunError::BadName(name.to_owned()));
        }
        // Attaching to a TUN interface that somebody else made would succeed silently.
        if interface_exists(name) {
            return Err(TunError::NameTaken(name.to_owned()));
        }
        let headers = wanted.tun_tso || wanted.tun_uso || wanted.tun_gro;
        let file = open(name, headers).map_err(|error| explain(name, error))?;
        let mut in_effect = wanted;
        if headers {
            (in_effect.tun_tso, in_effect.tun_uso) =
                enable(wanted, |flags| set_offload(&file, flags));
        }
        let other = |error| TunError::Other(name.to_owned(), error);
        Ok(Self {
            fd: register(file).map_err(other)?,
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

/// Whether this network namespace has an interface of that name; /sys may be another one's.
fn interface_exists(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: the name is a string that ends with a zero and lives longer than the call (if_nametoindex(3)).
    #[expect(unsafe_code, reason = "there is no safe call for it in std")]
    unsafe {
        libc::if_nametoindex(name.as_ptr()) != 0
    }
}

fn open(name: &str, headers: bool) -> io::Result<File> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name);
    configuration.platform_config(|platform| {
        // Addresses, MTU and state are netlink's business, here as everywhere.
        platform.ensure_root_privileges(false);
        platform.vnet_hdr(headers);
    });
    let device = tun::create(&configuration)?;
    device.set_nonblock()?;
    Ok(adopt(device))
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
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
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
