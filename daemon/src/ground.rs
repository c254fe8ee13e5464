//! What punchd stands on: state and control socket are opened, then every right is given up that is not needed any more.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use punch_platform::confine::{self, Owner};

use crate::config::Config;
use crate::control;
use crate::store::Store;

/// Where things are.
pub(crate) struct Places {
    pub(crate) state_dir: PathBuf,
    pub(crate) socket: PathBuf,
}

/// See the module.
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) listener: UnixListener,
    pub(crate) socket_file: RemoveOnDrop,
}

/// A file that goes when this does.
pub(crate) struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Ground {
    /// Opens both, and gives up what is not needed. No other thread may run yet: rights are a thread's.
    pub(crate) fn prepare(config: &Config, places: Places) -> Result<Self> {
        let owner = other_owner(&places.state_dir);
        let listener = control::bind(&places.socket, owner)?;
        let socket_file = RemoveOnDrop(places.socket);
        if let Some(owner) = owner {
            confine::become_user(owner).with_context(|| {
                format!(
                    "cannot become the owner of {} (user {}, group {})",
                    places.state_dir.display(),
                    owner.user,
                    owner.group
                )
            })?;
        }
        let store = Store::open(&places.state_dir)?;
        let socket_dir = socket_file.0.parent().unwrap_or(Path::new("."));
        let got = confine::confine(&confine::Needs {
            low_port: (1..1024).contains(&config.port),
            state: &places.state_dir,
            sockets: if socket_dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                socket_dir
            },
        })
        .context("cannot give up rights that are not needed")?;
        tracing::info!(
            user = got.user,
            capabilities = got.capabilities,
            landlock = got.landlock,
            "confined"
        );
        Ok(Self {
            store,
            listener,
            socket_file,
        })
    }
}

/// Whose the state is, if it is another user's and this is root. What root leaves there the service could not read.
fn other_owner(state_dir: &Path) -> Option<Owner> {
    let there = std::fs::metadata(state_dir).ok()?;
    let other = there.uid() != 0 && confine::is_root();
    other.then(|| Owner {
        user: there.uid(),
        group: there.gid(),
    })
}
