//! What a punchd that root has started may still do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use harness::{Host, Kinds, Lab};

/// capabilities(7)
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
/// Of nobody's on this machine.
const SOMEBODY: u32 = 61_234;

/// A line of /proc/PID/status of every thread: all have the same.
#[track_caller]
fn of_all_threads(host: &Host, field: &str) -> String {
    let pid = host.punchd.pid();
    let mut values: Vec<_> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .map(|task| {
            let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap().trim_start_matches(':').trim().to_owned()
        })
        .collect();
    assert!(values.len() > 1, "the packet path has a thread of its own");
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 1, "{field}: {values:?}");
    values.remove(0)
}

#[track_caller]
fn capabilities_are(host: &Host, wanted: u64) {
    for (field, value) in [
        ("CapEff", wanted),
        ("CapPrm", wanted),
        ("CapBnd", wanted),
        ("CapInh", 0),
        ("CapAmb", 0),
    ] {
        let found = u64::from_str_radix(&of_all_threads(host, field), 16).unwrap();
        assert_eq!(found, value, "{field} is {found:x}");
    }
    assert_eq!(of_all_threads(host, "NoNewPrivs"), "1");
}

#[test]
fn root_keeps_one_capability_and_two_with_a_low_port() {
    need_lab!();
    let mut lab = Lab::bare("rig", Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    capabilities_are(&lab.a, NET_ADMIN);
    lab.a.stop();
    lab.a.configure("[underlay]\nport = 443\n");
    lab.a.start();
    capabilities_are(&lab.a, NET_ADMIN | NET_BIND_SERVICE);
    assert_eq!(lab.a.ctl_json(&["status"])["network"]["port_v4"], 443);
}

#[test]
fn root_becomes_whom_the_state_belongs_to_and_everything_works() {
    need_lab!();
    let mut lab = Lab::bare("own", Kinds::Apart("open", "open"), &[]);
    let run = lab.a.state_dir.with_extension("run");
    fs::create_dir(&lab.a.state_dir).unwrap();
    chown(&lab.a.state_dir, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    // A directory for the socket that punchd makes itself, and must clear in the end.
    let socket = run.join("punchd.sock");
    let old = lab.a.socket.display().to_string();
    for argument in lab.a.punchd.argv.iter_mut().filter(|one| **one == old) {
        *argument = socket.display().to_string();
    }
    lab.a.socket = socket;
    lab.a.start();

    let ids = format!("{SOMEBODY}\t{SOMEBODY}\t{SOMEBODY}\t{SOMEBODY}");
    assert_eq!(of_all_threads(&lab.a, "Uid"), ids);
    assert_eq!(of_all_threads(&lab.a, "Gid"), ids);
    assert_eq!(of_all_threads(&lab.a, "Groups"), "");
    capabilities_are(&lab.a, NET_ADMIN);
    lab.a.ctl_ok(&["forward", "tcp", "80"]);
    for file in fs::read_dir(&lab.a.state_dir).unwrap().flatten() {
        assert_eq!(file.metadata().unwrap().uid(), SOMEBODY, "{file:?}");
    }

    lab.a.stop();
    assert!(!lab.a.socket.exists(), "the socket is removed");
    lab.a.start();
    assert_eq!(lab.a.ctl_json(&["forwards"])[0]["ports"], "80");
}

#[test]
fn a_first_start_in_somebodys_directory_makes_that_ones_state() {
    need_lab!();
    let mut lab = Lab::bare("home", Kinds::Apart("open", "open"), &[]);
    let home = lab.a.state_dir.with_extension("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&home, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let (state, socket) = (home.join("state"), home.join("a.sock"));
    let (old_state, old_socket) = (
        lab.a.state_dir.display().to_string(),
        lab.a.socket.display().to_string(),
    );
    for argument in &mut lab.a.punchd.argv {
        if *argument == old_state {
            *argument = state.display().to_string();
        } else if *argument == old_socket {
            *argument = socket.display().to_string();
        }
    }
    (lab.a.state_dir, lab.a.socket) = (state, socket);
    lab.a.start();
    let key = lab.a.state_dir.join("identity.key");
    assert_eq!(fs::metadata(key).unwrap().uid(), SOMEBODY);
    lab.a.stop();
    assert!(!lab.a.socket.exists(), "the socket is removed");
}

#[test]
fn a_link_in_somebodys_directory_is_not_followed_with_roots_rights() {
    need_lab!();
    let lab = Lab::bare("link", Kinds::Apart("open", "open"), &[]);
    let planted = lab.a.state_dir.with_extension("planted");
    fs::create_dir(&lab.a.state_dir).unwrap();
    symlink(&planted, lab.a.state_dir.join("lock")).unwrap();
    chown(&lab.a.state_dir, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let run = lab.a.state_dir.with_extension("run");
    let argv: Vec<String> = lab
        .a
        .punchd
        .argv
        .iter()
        .map(
            |argument| match *argument == lab.a.socket.display().to_string() {
                true => run.join("punchd.sock").display().to_string(),
                false => argument.clone(),
            },
        )
        .collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let output = lab.a.exec(&argv);
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stderr.contains("state directory"), "{output:?}");
    assert!(!planted.exists(), "root has made a file where a link led");
}
