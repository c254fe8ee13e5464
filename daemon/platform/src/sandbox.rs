//! Rights given up: capabilities (capabilities(7)) and access to files (landlock(7)). Both are a thread's and are inherited by
//! the threads that it starts, so this comes before all others.

use std::io;
use std::path::{Path, PathBuf};

use capctl::caps::{Cap, CapState, ambient, bounding};
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};

/// A user and its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The group's number.
    pub group: u32,
}

/// What is needed in spite of all.
#[derive(Debug)]
pub struct Needs<'a> {
    /// A UDP port below 1024.
    pub low_port: bool,
    /// The directory of the state, where files are made and replaced.
    pub state: &'a Path,
    /// The directory of the control socket, which is removed at the end.
    pub sockets: &'a Path,
}

/// What has been kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The user that this process runs as.
    pub user: u32,
    /// The capabilities, separated by commas.
    pub capabilities: String,
    /// How much the kernel restricts: `full`, `partial` or `none`.
    pub landlock: &'static str,
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    effective_user() == 0
}

pub(crate) fn effective_user() -> u32 {
    // SAFETY: it has no preconditions and cannot fail (geteuid(2)).
    #[expect(unsafe_code, reason = "there is no safe call for it in std")]
    unsafe {
        libc::geteuid()
    }
}

/// Becomes another user with that user's group and no other. Capabilities stay permitted, and none is in effect until
/// [`enter`]: what is opened meanwhile is opened with that user's rights alone.
///
/// # Errors
/// When the kernel refuses it.
pub fn become_user(owner: Owner) -> io::Result<()> {
    capctl::caps::cap_set_ids(Some(owner.user), Some(owner.group), Some(&[]))
        .map_err(io::Error::from)
}

/// Gives up everything but `needs`.
///
/// # Errors
/// When the kernel refuses it, other than for not having Landlock.
pub fn enter(needs: &Needs<'_>) -> io::Result<Kept> {
    let capabilities = drop_capabilities(needs)?;
    capctl::prctl::set_no_new_privs()?;
    let landlock = restrict_files(needs)?;
    Ok(Kept {
        user: effective_user(),
        capabilities,
        landlock,
    })
}

fn drop_capabilities(needs: &Needs<'_>) -> io::Result<String> {
    let mut state = CapState::get_current()?;
    let before = state;
    let is_kept = |cap| cap == Cap::NET_ADMIN || (needs.low_port && cap == Cap::NET_BIND_SERVICE);
    if state.permitted.has(Cap::SETPCAP) {
        state.effective.add(Cap::SETPCAP);
        state.set_current()?;
        for cap in Cap::iter().filter(|cap| !is_kept(*cap)) {
            bounding::ensure_dropped(cap)?;
        }
        bounding::clear_unknown()?;
    }
    if ambient::is_supported() {
        ambient::clear()?;
    }
    for cap in Cap::iter().filter(|cap| !is_kept(*cap)) {
        state.permitted.drop(cap);
    }
    state.effective = state.permitted;
    // A service has nothing to drop, and may be forbidden to try. What it inherits counts only for programs that it executes.
    let mut kept = state.permitted;
    if (state.permitted, state.effective) != (before.permitted, before.effective) {
        state.inheritable.clear();
        match state.set_current() {
            Err(error) if error.code() == libc::EPERM && !is_root() => kept = before.permitted,
            result => result?,
        }
    }
    let names: Vec<_> = kept
        .iter()
        .map(|cap| cap.to_string().to_lowercase())
        .collect();
    Ok(names.join(","))
}

/// What names, certificates, routes and modules of the C library's are read from.
const READ: [&str; 13] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run",
    "/proc",
    "/sys",
    "/dev/random",
    "/dev/urandom",
    "/nix/store",
    "/gnu/store",
    "/var/db",
    "/var/lib/ca-certificates",
];

fn restrict_files(needs: &Needs<'_>) -> io::Result<&'static str> {
    use AccessFs::{MakeReg, MakeSock, ReadDir, ReadFile, RemoveFile, Truncate, WriteFile};
    let read: BitFlags<AccessFs> = ReadFile | ReadDir;
    let write = read | WriteFile | Truncate;
    // Where OpenSSL's users keep their certificates (rustls-native-certs honours both).
    let certificates: Vec<_> = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .filter_map(std::env::var_os)
        .flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>())
        .collect();
    // Where that is a link, it may lead anywhere.
    let resolver = std::fs::canonicalize("/etc/resolv.conf");
    let mut rules: Vec<(PathBuf, BitFlags<AccessFs>)> = READ
        .into_iter()
        .map(PathBuf::from)
        .chain(certificates)
        .chain(resolver)
        .map(|path| (path, read))
        .collect();
    rules.push(("/dev/null".into(), ReadFile | WriteFile));
    rules.push(("/proc/sys/net/ipv6/conf".into(), write));

    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    // Without these two nothing works, so that they must be there.
    for (path, access) in [
        (needs.state, write | MakeReg | RemoveFile),
        (needs.sockets, MakeSock | RemoveFile),
    ] {
        let directory = PathFd::new(path)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(directory, access))
            .map_err(io::Error::other)?;
    }
    for (path, access) in rules {
        // What is not there cannot be reached either way.
        let Ok(file) = PathFd::new(&path) else {
            continue;
        };
        // A file takes no rights that only a directory has.
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(ABI::V5)
        };
        ruleset = ruleset
            .add_rule(PathBeneath::new(file, access))
            .map_err(io::Error::other)?;
    }
    let status = ruleset.restrict_self().map_err(io::Error::other)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => "full",
        RulesetStatus::PartiallyEnforced => "partial",
        RulesetStatus::NotEnforced => "none",
    })
}
