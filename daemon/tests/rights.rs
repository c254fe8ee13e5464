//! What a punchd that root has started may still do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;

use harness::{Host, Kinds, Lab, Namespace, PATIENCE, tool, wait_until};
use sendfd::RecvWithFd;

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

/// Moves state and control socket of a host into a home directory of [`SOMEBODY`]'s, where nothing of punchd's is yet.
fn move_home(host: &mut Host) {
    let home = host.state_dir.with_extension("home");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&home, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    let (state, socket) = (home.join("state"), home.join("a.sock"));
    let (old_state, old_socket) = (
        host.state_dir.display().to_string(),
        host.socket.display().to_string(),
    );
    for argument in &mut host.punchd.argv {
        if *argument == old_state {
            *argument = state.display().to_string();
        } else if *argument == old_socket {
            *argument = socket.display().to_string();
        }
    }
    (host.state_dir, host.socket) = (state, socket);
}

#[test]
fn a_first_start_in_somebodys_directory_makes_that_ones_state() {
    need_lab!();
    let mut lab = Lab::bare("home", Kinds::Apart("open", "open"), &[]);
    move_home(&mut lab.a);
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

/// Runs what follows with a /dev/net/tun of its own, in a mount namespace of its own: the machine's device is not touched.
fn with_device(mode: u32, group: u32) -> Vec<String> {
    let script = format!(
        "mount -t tmpfs -o mode=755 none /dev/net && mknod /dev/net/tun c 10 200 &&
         chmod {mode:o} /dev/net/tun && chown 0:{group} /dev/net/tun && exec \"$@\""
    );
    ["unshare", "--mount", "sh", "-c", &script, "sh"]
        .map(str::to_owned)
        .into()
}

/// Runs what follows as [`SOMEBODY`] with CAP_NET_ADMIN and nothing else, as the unit does.
fn as_the_unit_does() -> Vec<String> {
    let who = SOMEBODY.to_string();
    let setpriv = tool("setpriv", "util-linux");
    let capability = "-all,+net_admin";
    [
        &*setpriv,
        "--reuid",
        &who,
        "--regid",
        &who,
        "--clear-groups",
        "--bounding-set",
        capability,
        "--inh-caps",
        capability,
        "--ambient-caps",
        capability,
    ]
    .map(str::to_owned)
    .into()
}

/// A punchd that every user can execute: the folder that it was built in may be somebody's home.
fn copy_program(lab: &mut Lab) {
    let copy = lab.dir.join("punchd");
    fs::copy(&lab.a.punchd.argv[0], &copy).unwrap();
    lab.a.punchd.argv[0] = copy.display().to_string();
}

fn device_of(host: &Host) -> fs::Metadata {
    let node = format!("/proc/{}/root/dev/net/tun", host.punchd.pid());
    fs::metadata(node).unwrap()
}

#[test]
fn started_as_root_punchd_gets_the_device_whatever_its_mode() {
    need_lab!();
    let mut lab = Lab::bare("mode", Kinds::Apart("open", "open"), &[]);
    move_home(&mut lab.a);
    let plain = lab.a.punchd.argv.clone();
    for mode in [0o600, 0o660, 0o666] {
        lab.a.punchd.argv = [with_device(mode, 0), plain.clone()].concat();
        lab.a.start();
        assert_eq!(of_all_threads(&lab.a, "Groups"), "");
        capabilities_are(&lab.a, NET_ADMIN);
        lab.a.exec_ok(&["ip", "link", "show", "dev", "punch0"]);
        let device = device_of(&lab.a);
        assert_eq!(device.mode() & 0o7777, mode, "nobody's use of it changes");
        assert_eq!((device.uid(), device.gid()), (0, 0));
        lab.a.stop();
    }
}

#[test]
fn another_user_needs_the_device_and_is_told_whose_it_is() {
    need_lab!();
    let mut lab = Lab::bare("user", Kinds::Apart("open", "open"), &[]);
    move_home(&mut lab.a);
    copy_program(&mut lab);
    let plain = [as_the_unit_does(), lab.a.punchd.argv.clone()].concat();
    for (mode, group, may) in [
        (0o600, 0, false),
        (0o660, 0, false),
        (0o660, SOMEBODY, true),
        (0o666, 0, true),
    ] {
        let argv = [with_device(mode, group), plain.clone()].concat();
        if may {
            lab.a.punchd.argv = argv;
            lab.a.start();
            lab.a.stop();
            continue;
        }
        let output = lab
            .a
            .exec(&argv.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(output.status, 1, "{output:?}");
        for words in [
            format!("user {SOMEBODY} may not open /dev/net/tun"),
            format!("mode {mode:04o}, owner 0:{group}"),
            "sudo systemctl start punchd".to_owned(),
        ] {
            assert!(output.stderr.contains(&words), "{words}: {output:#?}");
        }
        assert!(!lab.a.socket.exists(), "the socket is removed");
    }
}

/// What a service manager does with the descriptors of its services.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    net: Namespace,
}

impl Manager {
    fn new(lab: &Lab) -> Self {
        let path = lab.dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            path,
            net: lab.namespace("a"),
        }
    }

    /// The next message, and the descriptor that came with it.
    fn next(&self) -> (String, Option<File>) {
        let (mut bytes, mut numbers) = ([0; 4096], [0; 4]);
        let (length, passed) = self.socket.recv_with_fd(&mut bytes, &mut numbers).unwrap();
        let passed = numbers[..passed].first().copied();
        // Safe code reaches a descriptor that is a mere number by opening the same node through it. The namespace in which the
        // node is opened is the interface's.
        let passed = passed.map(|number| {
            let path = format!("/proc/{}/fd/{number}", std::process::id());
            let open = || File::options().read(true).write(true).open(path);
            let device = self.net.inside(open);
            nix::unistd::close(number).unwrap();
            device.unwrap()
        });
        (String::from_utf8(bytes[..length].to_vec()).unwrap(), passed)
    }

    /// Keeps nothing of what the service leaves, until it has ended.
    fn keep_nothing_until(&self, ended: impl FnOnce()) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut bytes, mut numbers) = ([0; 4096], [0; 4]);
                loop {
                    let received = self.socket.recv_with_fd(&mut bytes, &mut numbers);
                    let (length, passed) = received.unwrap();
                    for number in &numbers[..passed] {
                        nix::unistd::close(*number).unwrap();
                    }
                    if &bytes[..length] == b"END" {
                        return;
                    }
                }
            });
            ended();
            let end = UnixDatagram::unbound().unwrap();
            end.send_to(b"END", &self.path).unwrap();
        });
    }
}

#[test]
fn the_service_gets_a_device_that_only_root_may_open_and_the_manager_forgets_it() {
    need_lab!();
    let mut lab = Lab::bare("serv", Kinds::Apart("open", "open"), &[]);
    move_home(&mut lab.a);
    copy_program(&mut lab);
    let manager = Manager::new(&lab);
    let notify = format!("NOTIFY_SOCKET={}", manager.path.display());
    let punchd = lab.a.punchd.argv[0].clone();
    let alone = with_device(0o600, 0);

    // The unit's first step: root with the unit's capabilities.
    let setpriv = tool("setpriv", "util-linux");
    let root = [
        &*setpriv,
        "--bounding-set",
        "-all,+net_admin",
        "env",
        &notify,
        &punchd,
        "--store-tun",
    ];
    let step: Vec<&str> = alone.iter().map(String::as_str).chain(root).collect();
    assert_eq!(lab.a.exec(&step).status, 0);
    let (text, device) = manager.next();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["FDNAME=tun", "FDPOLL=0", "FDSTORE=1"]);
    let device = device.unwrap();
    let kind = device.metadata().unwrap().file_type();
    assert!(kind.is_char_device());

    // And the second, which could not open it.
    let pass = r#"exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_FDNAMES=tun; exec "$@""#;
    let own_pid = r#"LISTEN_PID=$$ exec "$@""#;
    let argv: Vec<String> = [
        alone,
        ["sh", "-c", pass, "sh", "env", &notify]
            .map(str::to_owned)
            .into(),
        as_the_unit_does(),
        ["sh", "-c", own_pid, "sh"].map(str::to_owned).into(),
        lab.a.punchd.argv.clone(),
    ]
    .concat();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut command = lab.a.command(&argv);
    let log = File::create(lab.dir.join("service.log")).unwrap();
    command.stdin(Stdio::from(device)).stderr(Stdio::from(log));
    let mut child = command.spawn().unwrap();
    drop(command);
    let (forget, nothing) = manager.next();
    assert!(
        forget.contains("FDSTOREREMOVE=1") && forget.contains("FDNAME=tun"),
        "{forget}"
    );
    assert!(nothing.is_none());
    let ready = std::iter::from_fn(|| Some(manager.next().0))
        .take(10)
        .find(|text| text.contains("READY=1"));
    assert!(ready.is_some(), "punchd is ready");
    lab.a.exec_ok(&["ip", "link", "show", "dev", "punch0"]);
    manager.keep_nothing_until(|| {
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    });
    wait_until(PATIENCE, "the interface is gone with punchd", || {
        !lab.a
            .exec(&["ip", "link", "show", "dev", "punch0"])
            .success()
    });
}

#[test]
fn without_a_service_manager_the_device_is_stored_nowhere() {
    need_lab!();
    let lab = Lab::bare("none", Kinds::Apart("open", "open"), &[]);
    let output = lab.a.exec(&[
        "env",
        "-u",
        "NOTIFY_SOCKET",
        &lab.a.punchd.argv[0],
        "--store-tun",
    ]);
    assert_eq!(output.status, 1);
    assert!(output.stderr.contains("NOTIFY_SOCKET"), "{output:?}");
}
