//! What cannot be done is refused with words that help, and nothing is lost by it: punchctl against a running punchd.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use harness::{Host, Kinds, Lab, program, run, tool};
use punch_signal_protocol::Identity;

/// One host with punchd; no server, no second host.
fn alone(hint: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    lab
}

fn key(seed: u8) -> String {
    Identity::from_seed(&[seed; 32]).id().to_string()
}

/// punchctl exits with this status and says all of these; the state file stays as it was.
#[track_caller]
fn refuses(host: &Host, arguments: &[&str], status: i32, essence: &[&str]) {
    let before = host.state_file();
    let output = host.ctl(arguments);
    assert_eq!(output.status, status, "punchctl {arguments:?}: {output:?}");
    assert_eq!(output.stdout, "", "punchctl {arguments:?}");
    for part in essence {
        assert!(
            output.stderr.contains(part),
            "punchctl {arguments:?} should say {part:?}: {}",
            output.stderr
        );
    }
    assert!(
        !output.stderr.contains("panicked") && !output.stderr.contains("os error"),
        "{}",
        output.stderr
    );
    assert!(
        host.state_file() == before,
        "punchctl {arguments:?} changed the state"
    );
}

const WRONG_USAGE: i32 = 2;
const REFUSED: i32 = 1;

#[test]
fn a_bad_key_is_refused_and_the_typo_located() {
    need_lab!();
    let lab = alone("key");
    let good = key(1);
    let add = |key: &str, essence: &[&str]| {
        refuses(&lab.a, &["peer", "add", "db", key], REFUSED, essence)
    };
    for position in [7, 30, 63] {
        let mut typo = good.clone().into_bytes();
        let old = typo[position - 1];
        typo[position - 1] = if old == b'q' { b'p' } else { b'q' };
        let essence = [
            format!("character {position} "),
            format!("probably `{}`", char::from(old)),
        ];
        add(
            &String::from_utf8(typo).unwrap(),
            &[&essence[0], &essence[1]],
        );
    }
    let mut exchanged = good.clone().into_bytes();
    let place = (10..60)
        .find(|at| exchanged[*at] != exchanged[at + 1])
        .unwrap();
    exchanged.swap(place, place + 1);
    add(
        &String::from_utf8(exchanged).unwrap(),
        &[
            &format!("characters {} and {}", place + 1, place + 2),
            "exchanged",
        ],
    );
    add(&good[..40], &["64 characters", "40"]);
    add(&format!("{good}{}", &good[6..]), &["64 characters", "122"]);
    add(&good.replace("punch1", "lunch1"), &["starts with `punch1`"]);
    add(
        &good.replace(&good[20..21], "b"),
        &["cannot stand in a key"],
    );
    add("", &["punch1"]);
    add("schlüssel", &["punch1"]);
    refuses(&lab.a, &["peer", "add", "db"], WRONG_USAGE, &["<KEY>"]);
}

#[test]
fn a_peer_that_cannot_be_is_refused() {
    need_lab!();
    let lab = alone("peer");
    let own = lab.a.key().to_owned();
    refuses(
        &lab.a,
        &["peer", "add", "me", &own],
        REFUSED,
        &["this machine's own key", "punchctl id"],
    );
    lab.a.ctl_ok(&["peer", "add", "db", &key(1)]);
    refuses(
        &lab.a,
        &["peer", "add", "db", &key(2)],
        REFUSED,
        &["db exists already", "punchctl peer remove db"],
    );
    refuses(
        &lab.a,
        &["peer", "add", "other", &key(1)],
        REFUSED,
        &["peer already, called db", "punchctl peer rename db other"],
    );
    for name in ["Db", "-db", "db-", "d b", "d.b", "", &"x".repeat(64)] {
        refuses(
            &lab.a,
            &["peer", "add", "--", name, &key(2)],
            WRONG_USAGE,
            &["cannot be a peer's name"],
        );
    }
    lab.a.ctl_ok(&["peer", "add", "web", &key(2)]);
    refuses(
        &lab.a,
        &["peer", "rename", "db", "web"],
        REFUSED,
        &["web exists already"],
    );

    let wireguard = |key: &str, endpoint: &str, address: &str, status: i32, essence: &[&str]| {
        let arguments = [
            "peer",
            "add",
            "wg",
            "--wireguard",
            key,
            "--endpoint",
            endpoint,
            "--address",
            address,
        ];
        refuses(&lab.a, &arguments, status, essence);
    };
    let base64 = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    wireguard(
        "AQEB",
        "192.0.2.1:51820",
        "10.9.0.1",
        REFUSED,
        &["not a WireGuard key", "32 bytes in base64"],
    );
    wireguard(
        base64,
        "192.0.2.1",
        "10.9.0.1",
        WRONG_USAGE,
        &["--endpoint"],
    );
    wireguard(
        base64,
        "192.0.2.1:51820",
        "10.9.0",
        WRONG_USAGE,
        &["--address"],
    );
    wireguard(
        base64,
        "192.0.2.1:51820",
        "127.0.0.1",
        REFUSED,
        &["127.0.0.1 cannot be"],
    );
    let taken = lab.a.ipv4().to_string();
    wireguard(
        base64,
        "192.0.2.1:51820",
        &taken,
        REFUSED,
        &[&taken, "this machine"],
    );
    refuses(
        &lab.a,
        &["peer", "add", "wg", "--wireguard", base64],
        WRONG_USAGE,
        &["--endpoint", "--address"],
    );
    let both = [
        "peer",
        "add",
        "wg",
        &key(3),
        "--wireguard",
        base64,
        "--endpoint",
        "192.0.2.1:1",
        "--address",
        "10.9.0.1",
    ];
    refuses(&lab.a, &both, WRONG_USAGE, &["cannot be used with"]);
}

#[test]
fn an_unknown_peer_is_named_with_those_that_are_known() {
    need_lab!();
    let lab = alone("unkn");
    refuses(
        &lab.a,
        &["up", "db"],
        REFUSED,
        &["no peer is called db", "punchctl peer add db"],
    );
    lab.a.ctl_ok(&["peer", "add", "web", &key(1)]);
    for arguments in [
        &["up", "db"][..],
        &["down", "db"],
        &["ping", "db", "-c", "1"],
        &["allow", "db", "--host"],
        &["deny", "db", "--host"],
        &["peer", "remove", "db"],
        &["peer", "rename", "db", "x"],
        &["forward", "tcp", "80", "--peer", "db"],
        &["forward", "tcp", "80", "--peer", "web", "--peer", "db"],
    ] {
        refuses(
            &lab.a,
            arguments,
            REFUSED,
            &["no peer is called db", "there is web"],
        );
    }
    refuses(
        &lab.a,
        &["ping", "web", "-c", "1"],
        REFUSED,
        &["web is not connected", "punchctl up web"],
    );
    refuses(&lab.a, &["allow", "web"], WRONG_USAGE, &["--host"]);
}

#[test]
fn a_forward_that_cannot_be_is_refused() {
    need_lab!();
    let lab = alone("forw");
    for (ports, essence) in [
        ("0", "ports are 1 to 65535"),
        ("65536", "ports are 1 to 65535"),
        ("-1", "1"),
        ("+80", "ports are 1 to 65535"),
        ("80-", "not a port"),
        ("http", "not a port"),
        ("20-10", "runs backwards: write 10-20"),
        ("1-20000", "at most 16384 ports"),
    ] {
        refuses(&lab.a, &["forward", "tcp", ports], WRONG_USAGE, &[essence]);
    }
    refuses(
        &lab.a,
        &["forward", "sctp", "80"],
        WRONG_USAGE,
        &["use tcp or udp"],
    );
    for target in [
        "nowhere",
        "::1:80",
        "[::1]",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:99999",
        ":80",
        "a b:80",
        "http://x:80",
        "",
    ] {
        refuses(
            &lab.a,
            &["forward", "tcp", "80", "--to", target],
            WRONG_USAGE,
            &["--to"],
        );
    }
    refuses(
        &lab.a,
        &["forward", "tcp", "80-82", "--to", "1.2.3.4:65534"],
        REFUSED,
        &["past 65535"],
    );
    refuses(
        &lab.a,
        &["unforward", "tcp", "80"],
        REFUSED,
        &["nothing is forwarded"],
    );

    lab.a
        .ctl_ok(&["forward", "tcp", "80-89", "--to", "127.0.0.1:8080"]);
    for overlapping in ["80-89", "80", "89", "70-80", "89-99", "1-1000"] {
        let essence = [
            "tcp 80-89 is forwarded already, to 127.0.0.1:8080",
            "punchctl unforward tcp 80-89",
        ];
        refuses(&lab.a, &["forward", "tcp", overlapping], REFUSED, &essence);
    }
    refuses(
        &lab.a,
        &["unforward", "tcp", "80"],
        REFUSED,
        &["tcp 80 is not forwarded", "tcp 80-89"],
    );
    refuses(
        &lab.a,
        &["unforward", "udp", "80-89"],
        REFUSED,
        &["udp 80-89 is not forwarded"],
    );
    lab.a.ctl_ok(&["forward", "udp", "80-89"]);
    lab.a.ctl_ok(&["forward", "tcp", "90"]);
}

#[test]
fn a_server_that_cannot_be_is_refused() {
    need_lab!();
    let lab = alone("srv");
    for address in [
        "http://x",
        "x:8080",
        "ws://",
        "ws://:80",
        "ws://a b",
        "ws://x:99999",
        "ws://x/a b",
        "ws://user@x",
    ] {
        refuses(
            &lab.a,
            &["server", "add", "signal", address],
            REFUSED,
            &["`", "is not a"],
        );
    }
    for address in ["a b", "x:0", "stun:x:3478", "[::1", "::1", ""] {
        refuses(
            &lab.a,
            &["server", "add", "stun", address],
            REFUSED,
            &["`", "is not a"],
        );
    }
    refuses(
        &lab.a,
        &["server", "add", "turn", "x"],
        WRONG_USAGE,
        &["use signal or stun"],
    );
    refuses(
        &lab.a,
        &["server", "remove", "stun", "192.0.2.1"],
        REFUSED,
        &["192.0.2.1:3478 is not in use"],
    );
    refuses(
        &lab.a,
        &["netcheck"],
        REFUSED,
        &["no STUN server", "punchctl server add stun"],
    );
    lab.a.ctl_ok(&["server", "add", "stun", "192.0.2.1"]);
    refuses(
        &lab.a,
        &["server", "add", "stun", "192.0.2.1:3478"],
        REFUSED,
        &["in use already"],
    );
    // Unreachable servers are no error: they may come.
    lab.a
        .ctl_ok(&["server", "add", "signal", "ws://192.0.2.1:1"]);
    lab.a.ctl_ok(&["peer", "add", "db", &key(1)]);
    lab.a.ctl_ok(&["up", "db", "--no-wait"]);
    let refused = lab.a.ctl_refused(&["up", "db", "--timeout", "1"]);
    assert!(
        refused.contains("punchctl server list") && refused.contains("goes on trying"),
        "{refused}"
    );
    assert_eq!(lab.a.peer("db")["up"], true, "it is still wanted");
}

#[test]
fn servers_of_the_administrator_stay() {
    need_lab!();
    let mut lab = Lab::bare("fix", Kinds::Apart("open", "open"), &[]);
    lab.a.configure("[stun]\nservers = [\"192.0.2.1\"]\n");
    lab.a.start();
    refuses(
        &lab.a,
        &["server", "add", "stun", "192.0.2.1"],
        REFUSED,
        &["in use already"],
    );
    refuses(
        &lab.a,
        &["server", "remove", "stun", "192.0.2.1"],
        REFUSED,
        &["punchd.toml", "administrator"],
    );
}

#[test]
fn wrong_usage_is_told_with_status_two() {
    need_lab!();
    let lab = alone("use");
    for arguments in [
        &[][..],
        &["bogus"],
        &["peer"],
        &["up"],
        &["up", "a", "b"],
        &["id", "--bogus"],
        &["up", "x", "--timeout", "0"],
    ] {
        let output = lab.a.ctl(arguments);
        assert_eq!(output.status, WRONG_USAGE, "{arguments:?}: {output:?}");
        assert!(
            output.stderr.contains("Usage") || output.stderr.contains("--help"),
            "{arguments:?}: {output:?}"
        );
    }
    assert!(
        lab.a.ctl_ok(&["--help"]).contains("punchctl peer add"),
        "help shows the first steps"
    );
    assert!(lab.a.ctl_ok(&["--version"]).starts_with("punchctl "));
}

#[test]
fn without_punchd_or_permission_punchctl_says_what_to_do() {
    need_lab!();
    let mut lab = alone("perm");
    let punchctl = program("punchctl");
    let setpriv = tool("setpriv", "util-linux");
    let socket = lab.a.socket.display().to_string();
    // Where `nobody` may not even look, the test would prove nothing.
    let copy = lab.dir.join("punchctl").display().to_string();
    std::fs::copy(&punchctl, &copy).unwrap();
    std::fs::set_permissions(&lab.dir, Permissions::from_mode(0o755)).unwrap();
    let nobody = [
        "--reuid",
        "nobody",
        "--regid",
        "nogroup",
        "--clear-groups",
        &copy,
        "--socket",
        &socket,
        "id",
    ];
    let output = run(Command::new(setpriv).args(nobody));
    assert_eq!(output.status, REFUSED, "{output:?}");
    for part in ["no permission", &socket, "sudo", "group punch"] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    lab.a.kill();
    assert!(lab.a.socket.exists(), "a crash leaves the socket's file");
    refuses(
        &lab.a,
        &["status"],
        REFUSED,
        &["punchd is not running", &socket, "systemctl start punchd"],
    );
    lab.a.start();
    lab.a.stop();
    refuses(
        &lab.a,
        &["status"],
        REFUSED,
        &["punchd is not running", &socket],
    );
    let elsewhere = run(Command::new(&punchctl)
        .arg("id")
        .env("PUNCH_SOCKET", "/nonexistent/socket"));
    assert_eq!(elsewhere.status, REFUSED);
    assert!(
        elsewhere.stderr.contains("/nonexistent/socket"),
        "{}",
        elsewhere.stderr
    );
}

#[test]
fn a_change_that_cannot_be_saved_is_not_made() {
    need_lab!();
    let lab = alone("ro");
    lab.a.ctl_ok(&["peer", "add", "db", &key(1)]);
    lab.a.ctl_ok(&["forward", "tcp", "80"]);
    let views = || {
        [["peers"], ["forwards"], ["server"]].map(|view| match view {
            ["server"] => lab.a.ctl_json(&["server", "list"]),
            view => lab.a.ctl_json(&view),
        })
    };
    let before = views();
    // Root writes wherever permissions are; a read-only mount stops it too, in punchd's own mount namespace.
    let pid = lab.a.punchd.pid().to_string();
    let mount = |options: &[&str]| {
        let state = lab.a.state_dir.display().to_string();
        run(Command::new("nsenter")
            .args(["-t", &pid, "-m", "mount"])
            .args(options)
            .arg(&state))
        .ok()
    };
    let state = lab.a.state_dir.display().to_string();
    mount(&["--bind", &state]);
    mount(&["-o", "remount,ro,bind"]);
    for change in [
        &["peer", "add", "web", &key(2)][..],
        &["peer", "remove", "db"],
        &["peer", "rename", "db", "web"],
        &["up", "db", "--no-wait"],
        &["allow", "db", "--host"],
        &["forward", "tcp", "81"],
        &["unforward", "tcp", "80"],
        &["server", "add", "stun", "192.0.2.1"],
    ] {
        let output = lab.a.ctl(change);
        assert_eq!(output.status, REFUSED, "{change:?}: {output:?}");
        assert!(
            output.stderr.contains("nothing was changed") && output.stderr.contains("state.json"),
            "{change:?}: {output:?}"
        );
        assert_eq!(views(), before, "{change:?} changed something");
    }
}
