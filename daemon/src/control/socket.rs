//! The Unix socket of the control API.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The group whose members may use the socket.
const GROUP: &str = "punch";

/// Opens the socket with mode 0660 for the group `punch`, if there is one.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let place = || format!("cannot open the control socket {}", path.display());
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            bail!(
                "{} is not a socket: remove it, or choose another place (--socket)",
                path.display()
            );
        }
        Ok(_) => {
            if UnixStream::connect(path).is_ok() {
                bail!(
                    "another punchd answers on {}: stop it first",
                    path.display()
                );
            }
            fs::remove_file(path).with_context(place)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(place),
    }
    let listener = UnixListener::bind(path).with_context(place)?;
    listener.set_nonblocking(true).with_context(place)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(place)?;
    let is = fs::metadata(path).with_context(place)?;
    let group = group_id(GROUP).filter(|group| *group != is.gid());
    // The service has the right group from the start, and may be forbidden to try.
    if group.is_some()
        && let Err(error) = chown(path, None, group)
    {
        tracing::warn!(%error, "the control socket is not for the group {GROUP}");
    }
    Ok(listener)
}

fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}
