//! punchd that cannot start says why, exits with status 1, or 78 where it refuses what it reads, and touches nothing that it
//! found.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use harness::{Host, Kinds, Lab, Output, tool};
use punch_signal_protocol::Identity;

/// Namespaces; punchd is not started.
fn bare(hint: &str) -> Lab {
    Lab::bare(hint, Kinds::Apart("open", "open"), &[])
}

/// A host that was configured once, and then stopped.
fn with_state(hint: &str) -> Lab {
    let mut lab = bare(hint);
    lab.a.start();
    lab.a.ctl_ok(&[
        "peer",
        "add",
        "db",
        &Identity::from_seed(&[1; 32]).id().to_string(),
    ]);
    lab.a.ctl_ok(&["forward", "tcp", "80"]);
    lab.a.stop();
    lab
}

/// Every file with mode and contents; the lock is not one that matters.
fn contents(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = BTreeMap::new();
    for file in files.filter(|file| file.file_name() != "lock") {
        let mode = file.metadata().unwrap().permissions().mode();
        let name = file.file_name().to_string_lossy().into_owned();
        found.insert(name, (mode, fs::read(file.path()).unwrap_or_default()));
    }
    found
}

/// Runs punchd as `wrapper` starts it.
fn start(host: &Host, wrapper: &[&str], further: &[&str]) -> Output {
    let argv: Vec<&str> = host.punchd.argv.iter().map(String::as_str).collect();
    host.exec(&[wrapper, &argv, further].concat())
}

/// punchd refuses to start and says all of these; what is in its state directory stays.
#[track_caller]
fn refuses(host: &Host, wrapper: &[&str], essence: &[&str]) {
    ends(host, wrapper, &[], 1, essence);
}

/// punchd refuses configuration or state, with the status that says that starting again will not help; so does `--check`.
#[track_caller]
fn refuses_to_read(host: &Host, essence: &[&str]) {
    ends(host, &[], &[], 78, essence);
    ends(host, &[], &["--check"], 78, essence);
}

#[track_caller]
fn ends(host: &Host, wrapper: &[&str], further: &[&str], status: i32, essence: &[&str]) {
    let (before, socket) = (contents(&host.state_dir), host.socket.exists());
    let output = start(host, wrapper, further);
    assert_eq!(output.status, status, "{output:?}");
    assert!(
        output.stderr.contains("punchd: ") && !output.stderr.contains("panicked"),
        "{output:?}"
    );
    for part in essence {
        assert!(
            output.stderr.contains(part),
            "it should say {part:?}: {}",
            output.stderr
        );
    }
    assert_eq!(
        host.socket.exists(),
        socket,
        "a start that failed leaves no socket, and removes none"
    );
    if !before.is_empty() {
        assert!(
            contents(&host.state_dir) == before,
            "the state directory is another one now"
        );
    }
}

/// The same with this punchd.toml; file and line are named.
#[track_caller]
fn refuses_config(host: &Host, text: &str, line: u32, essence: &[&str]) {
    host.configure(text);
    let (file, line) = (host.config.display().to_string(), format!("line {line}"));
    refuses_to_read(host, &[&[&*file, &*line], essence].concat());
    assert!(
        !host.state_dir.exists(),
        "the configuration is read before anything is made"
    );
}

#[test]
fn a_wrong_configuration_is_named_with_file_line_and_reason() {
    need_lab!();
    let lab = bare("conf");
    let a = &lab.a;
    refuses_config(a, "[tun]\nname = \"x\"\ncolour = 1\n", 3, &["colour"]);
    refuses_config(a, "[stun]\n[tunnel]\n", 2, &["tunnel"]);
    refuses_config(a, "port = 1\n", 1, &["port"]);
    refuses_config(a, "[underlay]\nport = 70000\n", 2, &["70000"]);
    refuses_config(a, "[underlay]\nport = -1\n", 2, &["-1"]);
    refuses_config(a, "[underlay]\n\nport = \"41820\"\n", 3, &["string"]);
    refuses_config(a, "[tun]\nmtu = 500\n", 2, &["500", "1280"]);
    refuses_config(
        a,
        "[overlay]\nipv4 = \"10.0.0.0/33\"\n",
        2,
        &["overlay range", "33"],
    );
    refuses_config(
        a,
        "[signal]\nservers = [\"wss://ok.example\",\n  \"ftp://x\"]\n",
        3,
        &["ftp://x", "wss://"],
    );
    refuses_config(a, "[signal]\nservers = \"wss://x\"\n", 2, &["servers"]);
    refuses_config(
        a,
        "[signal]\n\nproxy = \"https://u:secret@p:3128\"\n",
        3,
        &["[signal] proxy", "http://HOST:PORT"],
    );
    refuses_config(
        a,
        "[signal]\nproxy = \"http://p:port\"\n",
        2,
        &["not the address of a proxy", "USER:PASSWORD"],
    );
    a.configure("[signal]\nproxy = \"http://u:secret@p:3128\"\n");
    refuses_to_read(a, &["everybody", "chmod 640"]);
    refuses_config(a, "[tun]\nname = \"a\"\nname = \"b\"\n", 3, &["duplicate"]);
    refuses_config(a, "[tun\n", 1, &[]);
    fs::write(&a.config, b"[tun]\nname = \"\xff\"\n").unwrap();
    refuses_to_read(a, &[&a.config.display().to_string()]);
}

#[test]
fn a_wrong_budget_or_nat_is_named_with_file_line_and_reason() {
    need_lab!();
    let lab = bare("conn");
    let a = &lab.a;
    refuses_config(
        a,
        "[punch]\nbudget = \"lavish\"\n",
        2,
        &["lavish", "gentle", "normal", "aggressive"],
    );
    refuses_config(a, "[punch]\n\nbudget = 3\n", 3, &["string"]);
    refuses_config(a, "[punch]\nbudgets = \"normal\"\n", 2, &["budgets"]);
    refuses_config(a, "budget = \"normal\"\n", 1, &["budget"]);
    refuses_config(
        a,
        "[nat]\nmapping = \"symmetric\"\n",
        2,
        &["symmetric", "address-and-port-dependent"],
    );
    refuses_config(
        a,
        "[nat]\nport_mapping = true\nfiltering = \"none\"\n",
        3,
        &["none", "address-dependent"],
    );
    for wrong in [
        "", "+0", "-0", "1-", "9-8", "0-9", "1-70000", "+300000", "random ", "block", "1-2-3",
    ] {
        let text = format!("[nat]\nallocation = \"{wrong}\"\n");
        refuses_config(a, &text, 2, &["port allocation", "LOW-HIGH"]);
    }
    refuses_config(a, "[nat]\nallocation = 3\n", 2, &["string"]);
    refuses_config(
        a,
        "[nat]\naddresses = [\n  \"192.0.2.1\",\n  \"192.0.2.300\",\n]\n",
        4,
        &["IP address"],
    );
    refuses_config(a, "[nat]\naddresses = \"192.0.2.1\"\n", 2, &[]);
    refuses_config(a, "[nat]\nhairpinning = \"yes\"\n", 2, &["boolean"]);
    refuses_config(a, "[nat]\nlifetime = 4\n", 2, &["4 s", "86400"]);
    refuses_config(a, "[nat]\nlifetime = 86401\n", 2, &["86401", "86400"]);
    refuses_config(a, "[nat]\nlifetime = -1\n", 2, &["-1"]);
    refuses_config(a, "[nat]\nopening_ttl = 1\n", 2, &["TTL", "32"]);
    refuses_config(a, "[nat]\nopening_ttl = 300\n", 2, &["300"]);
    refuses_config(a, "[nat]\ncolour = 1\n", 2, &["colour", "opening_ttl"]);
    refuses_config(a, "[nat]\n[punch]\n[nat]\n", 3, &["duplicate"]);
}

#[test]
fn an_interface_name_that_cannot_be_is_refused() {
    need_lab!();
    let lab = bare("ifna");
    for name in ["a/b", "sixteen-letters-", "", "..", "a b", "%d"] {
        lab.a.configure(&format!("[tun]\nname = \"{name}\"\n"));
        refuses(&lab.a, &[], &["name", "1 to 15 letters"]);
    }
    lab.a.configure("[tun]\nname = \"eth0\"\n");
    refuses(&lab.a, &[], &["eth0 exists already", "[tun]"]);
}

#[test]
fn a_configuration_that_is_named_must_exist() {
    need_lab!();
    let lab = bare("noco");
    fs::remove_file(&lab.a.config).unwrap();
    refuses_to_read(
        &lab.a,
        &[
            "cannot read",
            &lab.a.config.display().to_string(),
            "No such file",
        ],
    );
    fs::create_dir(&lab.a.config).unwrap();
    refuses_to_read(
        &lab.a,
        &["cannot read", &lab.a.config.display().to_string()],
    );
}

#[test]
fn without_the_capability_or_the_device_punchd_says_what_it_needs() {
    need_lab!();
    let mut lab = with_state("cap");
    let setpriv = tool("setpriv", "util-linux");
    let powerless = [
        &*setpriv,
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
    ];
    refuses(&lab.a, &powerless, &["CAP_NET_ADMIN", "punch0"]);
    let no_device = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/net && exec \"$@\"",
        "sh",
    ];
    refuses(&lab.a, &no_device, &["/dev/net/tun", "modprobe tun"]);
    assert!(
        !lab.a.socket.exists(),
        "the control socket of a start that failed is gone"
    );
    lab.a.start();
    assert_eq!(lab.a.peer_state("db"), "down", "nothing was lost");
}

#[test]
fn a_udp_port_that_is_taken_is_refused() {
    need_lab!();
    let lab = bare("udp");
    lab.a.configure("[underlay]\nport = 41820\n");
    for address in ["0.0.0.0:41820", "[::1]:41820"] {
        let address: SocketAddr = address.parse().unwrap();
        let taken = lab.a.inside(|| UdpSocket::bind(address));
        // A lab without IPv6 has no such address; then there is nothing to be in the way.
        let Ok(_taken) = taken else { continue };
        refuses(&lab.a, &[], &["41820", "taken", "[underlay]"]);
    }
}

#[test]
fn two_daemons_share_neither_state_nor_socket() {
    need_lab!();
    let mut lab = bare("two");
    lab.a.start();
    let (state, socket) = (
        lab.a.state_dir.display().to_string(),
        lab.a.socket.display().to_string(),
    );
    let other = |end: &str| lab.dir.join(format!("other{end}")).display().to_string();
    let argv = |state: &str, socket: &str| {
        let arguments = [
            "--config",
            "/dev/null",
            "--state-dir",
            state,
            "--socket",
            socket,
        ];
        [&*lab.a.punchd.argv[0]]
            .iter()
            .chain(&arguments)
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    for (argv, essence) in [
        (
            argv(&state, &other(".sock")),
            [
                "another punchd uses the state directory",
                &state,
                "--state-dir",
            ],
        ),
        (
            argv(&other(""), &socket),
            ["another punchd answers on", &socket, "stop it first"],
        ),
        (
            argv(&other(""), &other(".sock")),
            ["punch0 exists already", "another punchd", "[tun]"],
        ),
    ] {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let output = lab.a.exec(&argv);
        assert_eq!(output.status, 1, "{output:?}");
        for part in essence {
            assert!(
                output.stderr.contains(part),
                "it should say {part:?}: {}",
                output.stderr
            );
        }
        assert!(
            lab.a.ctl_ok(&["id"]).contains(lab.a.key()),
            "the first one goes on"
        );
    }
}

#[test]
fn what_stands_at_the_sockets_place_is_not_removed() {
    need_lab!();
    let mut lab = bare("sock");
    fs::write(&lab.a.socket, "precious").unwrap();
    refuses(
        &lab.a,
        &[],
        &[
            "not a socket",
            &lab.a.socket.display().to_string(),
            "--socket",
        ],
    );
    assert_eq!(fs::read_to_string(&lab.a.socket).unwrap(), "precious");
    fs::remove_file(&lab.a.socket).unwrap();
    fs::create_dir(&lab.a.socket).unwrap();
    refuses(&lab.a, &[], &["not a socket"]);
    fs::remove_dir(&lab.a.socket).unwrap();
    // A dead socket of a crash is in nobody's way.
    lab.a.start();
    lab.a.kill();
    assert!(lab.a.socket.exists());
    lab.a.start();
    assert_eq!(
        fs::metadata(&lab.a.socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    assert_eq!(
        fs::metadata(&lab.a.state_dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn a_damaged_identity_is_never_replaced() {
    need_lab!();
    let mut lab = with_state("iden");
    lab.a.start();
    let key = lab.a.ctl_ok(&["id"]);
    lab.a.stop();
    let file = lab.a.state_dir.join("identity.key");
    let shown = file.display().to_string();
    let good = fs::read(&file).unwrap();

    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    refuses_to_read(&lab.a, &[&shown, "can be read by others", "chmod 600"]);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let mut other_header = good.clone();
    other_header[0] ^= 1;
    for damaged in [
        &b""[..],
        &good[..good.len() / 2],
        &good[..good.len() - 3],
        b"\xff\xfe",
        &other_header,
        &[&good[..], b"AAAA"].concat(),
    ] {
        fs::write(&file, damaged).unwrap();
        refuses_to_read(&lab.a, &[&shown]);
    }
    fs::remove_file(&file).unwrap();
    refuses_to_read(
        &lab.a,
        &[
            &shown,
            "is missing",
            "state.json has 1 peers",
            "backup",
            "touch ",
        ],
    );
    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let newer = String::from_utf8_lossy(&good).replace("identity v1", "identity v2");
    fs::write(&file, newer).unwrap();
    refuses_to_read(&lab.a, &[&shown, "a newer version", "format 2"]);
    fs::write(&file, &good).unwrap();
    lab.a.start();
    assert_eq!(lab.a.ctl_ok(&["id"]), key);
}

#[test]
fn a_damaged_state_is_never_an_empty_one() {
    need_lab!();
    let mut lab = with_state("stat");
    let file = lab.a.state_dir.join("state.json");
    let shown = file.display().to_string();
    let good = fs::read_to_string(&file).unwrap();
    for damaged in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("tcp", "tcq"),
        good.replace("\"up\"", "\"upp\""),
        good.replace("punch1", "punch2"),
        format!("{good}{good}"),
        "\u{0}".repeat(good.len()),
        "[]".to_owned(),
        "null".to_owned(),
    ] {
        assert_ne!(damaged, good);
        fs::write(&file, &damaged).unwrap();
        refuses_to_read(&lab.a, &[&shown, "damaged", "backup"]);
    }
    fs::write(&file, good.replace("\"version\": 1", "\"version\": 2")).unwrap();
    refuses_to_read(&lab.a, &[&shown, "a newer version", "format 2"]);
    fs::write(&file, good.replace("\"version\": 1", "\"version\": 0")).unwrap();
    refuses_to_read(&lab.a, &[&shown, "does not read"]);
    fs::write(&file, b"\xff\xff\xff").unwrap();
    refuses_to_read(&lab.a, &[&shown]);
    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o604)).unwrap();
    refuses_to_read(&lab.a, &[&shown, "read by others"]);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
    refuses_to_read(&lab.a, &[&shown]);
    fs::remove_dir(&file).unwrap();

    fs::write(&file, &good).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    // What a crash in the middle of a write leaves is in nobody's way.
    fs::write(lab.a.state_dir.join(".state.json.new"), "half").unwrap();
    lab.a.start();
    assert_eq!(lab.a.peer_state("db"), "down");
    assert_eq!(lab.a.ctl_json(&["forwards"])[0]["ports"], "80");
}

#[test]
fn damaged_stamps_are_not_forgotten() {
    need_lab!();
    let lab = with_state("stam");
    let file = lab.a.state_dir.join("stamps.json");
    fs::write(&file, "{").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    refuses_to_read(
        &lab.a,
        &[&file.display().to_string(), "damaged", "move it away"],
    );
}

#[test]
fn a_state_directory_that_cannot_be_used_is_refused() {
    need_lab!();
    let lab = bare("dir");
    fs::write(&lab.a.state_dir, "a file").unwrap();
    refuses_to_read(
        &lab.a,
        &["state directory", &lab.a.state_dir.display().to_string()],
    );
    fs::remove_file(&lab.a.state_dir).unwrap();
    fs::create_dir(&lab.a.state_dir).unwrap();
    let read_only = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs -o ro,mode=0700 none \"$0\" && exec \"$@\"",
        &lab.a.state_dir.display().to_string(),
    ];
    refuses(&lab.a, &read_only, &["state directory", "Read-only"]);
    fs::set_permissions(&lab.a.state_dir, Permissions::from_mode(0o777)).unwrap();
    refuses(&lab.a, &[], &["others can write", "chmod 700"]);
}

#[test]
fn wrong_usage_is_told_with_status_two() {
    need_lab!();
    let lab = bare("usag");
    for wrong in [&["--bogus"][..], &["--state-dir"], &["extra"]] {
        let output = start(&lab.a, &[], wrong);
        assert_eq!(output.status, 2, "{output:?}");
        assert!(output.stderr.contains("--help"), "{output:?}");
    }
}

#[test]
fn a_check_says_what_is_there_beside_a_running_punchd_and_changes_nothing() {
    need_lab!();
    let mut lab = with_state("chk");
    lab.a.configure("[tun]\nmtu = 1400\n");
    lab.a.start();
    let before = contents(&lab.a.state_dir);
    let output = start(&lab.a, &[], &["--check"]);
    assert_eq!(output.status, 0, "{output:?}");
    let (config, state) = (lab.a.config.display(), lab.a.state_dir.display());
    assert_eq!(
        output.stdout,
        format!("{config}: fine\n{state}: fine (an identity, 1 peers, 1 forwards, 0 servers)\n")
    );
    assert!(contents(&lab.a.state_dir) == before);
    lab.a.ctl_ok(&["status"]);
}

#[test]
fn a_check_before_the_first_start_makes_nothing() {
    need_lab!();
    let lab = bare("chk0");
    let output = start(&lab.a, &[], &["--check"]);
    assert_eq!(output.status, 0, "{output:?}");
    assert!(output.stdout.contains("not there yet"), "{output:?}");
    assert!(!lab.a.state_dir.exists());
}
