//! Real programs on real (namespaced) networks: what the tests of this directory are made of.
//!
//! A test begins with [`need_lab!`], makes a [`Lab`] (two hosts behind NATs of some kind, a server with punch-signal and
//! punch-stun), and talks to its hosts: [`Host::ctl`] is punchctl, [`Namespace::exec`] any other program there, and
//! [`Namespace::inside`] runs a closure whose sockets belong to that host. Dropping the lab removes everything, also when
//! the test panics; when the test is killed, the lab's `--owner` and a janitor process do it.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test binary uses its own part of the harness"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "it is a test"
)]

mod fresh;
mod host;
mod lab;
mod net;
mod process;
mod stranger;

pub use fresh::{Fared, FreshFlows};
pub use host::{Count, Host, Namespace};
pub use lab::{Kinds, Lab};
pub use net::{Echo, Server, carry, fill, receive_hashed, send_hashed};
pub use process::{Child, Output, Program, run};
pub use stranger::Stranger;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Generous: a time is never a verdict. Only something that hangs runs into it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns from the test, with a visible note, where labs cannot be made.
#[macro_export]
macro_rules! need_lab {
    () => {
        if !$crate::harness::can_run() {
            return;
        }
    };
}

/// Whether labs can be made here; says so on standard error if not. PUNCH_TEST_MUST_RUN=1 makes that a failure.
pub fn can_run() -> bool {
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let why = if !root {
        "needs root"
    } else if find_tool("ip").is_none() {
        "needs root, and the command ip (iproute2)"
    } else if find_tool("nft").is_none() {
        "needs root, and the command nft (nftables)"
    } else {
        return true;
    };
    assert!(
        std::env::var_os("PUNCH_TEST_MUST_RUN").is_none(),
        "cannot run: {why}"
    );
    eprintln!("SKIPPED: {why}");
    false
}

/// A command in PATH, or where a root shell would also look.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin:/usr/bin:/bin";
    path.split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
}

/// The path of such a command; panics with the Debian package that has it.
pub fn tool(name: &str, package: &str) -> String {
    match find_tool(name) {
        Some(path) => path.display().to_string(),
        None => panic!("no command {name}: apt-get install {package}"),
    }
}

/// One of this workspace's programs, beside punchd.
pub fn program(name: &str) -> String {
    let path = Path::new(env!("CARGO_BIN_EXE_punchd")).with_file_name(name);
    assert!(
        path.is_file(),
        "{} is missing: run cargo build --workspace --bins",
        path.display()
    );
    path.display().to_string()
}

/// An example program of this workspace.
pub fn example(name: &str) -> String {
    let beside = Path::new(env!("CARGO_BIN_EXE_punchd"));
    let path = beside.with_file_name("examples").join(name);
    assert!(
        path.is_file(),
        "{} is missing: run cargo build --workspace --examples",
        path.display()
    );
    path.display().to_string()
}

/// Waits until `done` says so; panics after `timeout`. The lab's logs follow when it is dropped.
pub fn wait_until(timeout: Duration, what: &str, mut done: impl FnMut() -> bool) {
    wait_for(timeout, what, || done().then_some(()));
}

/// Waits until `find` finds something; panics after `timeout`.
pub fn wait_for<T>(timeout: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(
            began.elapsed() < timeout,
            "after {} s still not so: {what}",
            timeout.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A number from the environment, for sizes.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}
