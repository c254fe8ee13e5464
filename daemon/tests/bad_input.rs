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
    let said = &output.stderr;
    for part in essence {
        assert!(
            said.contains(part),
            "punchctl {arguments:?} should say {part:?}: {said}"
        );
    }
    assert!(!said.contains("panicked"), "punchctl {arguments:?}: {said}");
    assert!(
        host.state_file() == before,
        "punchctl {arguments:?} changed the state"
    );
}

const WRONG_USAGE: i32 = 2;
const REFUSED: i32 = 1;

/// A command line, split at its spaces, that punchd refuses.
#[track_caller]
fn refused(host: &Host, line: &str, essence: &[&str]) {
    refuses(host, &line.split(' ').collect::<Vec<_>>(), REFUSED, essence);
}

/// A command line, split at its spaces, that makes no sense to punchctl.
#[track_caller]
fn misused(host: &Host, line: &str, essence: &[&str]) {
    refuses(
        host,
        &line.split(' ').collect::<Vec<_>>(),
        WRONG_USAGE,
        essence,
    );
}

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
    add(&format!("{good}{good}"), &["64 characters", "128"]);
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
    let a = &lab.a;
    let (one, two) = (key(1), key(2));
    let own = ["this machine's own key", "punchctl id"];
    refused(a, &format!("peer add me {}", a.key()), &own);
    a.ctl_ok(&["peer", "add", "db", &one]);
    let again = a.ctl_ok(&["peer", "add", "db", &one]);
    assert!(again.starts_with("unchanged: db is a peer"), "{again}");
    let taken = ["db exists already", "punchctl peer remove db"];
    refused(a, &format!("peer add db {two}"), &taken);
    let known = ["peer already, called db", "punchctl peer rename db other"];
    refused(a, &format!("peer add other {one}"), &known);
    for name in ["Db", "-db", "db-", "d b", "d.b", "", &"x".repeat(64)] {
        let arguments = ["peer", "add", "--", name, &two];
        refuses(a, &arguments, WRONG_USAGE, &["cannot be a peer's name"]);
    }
    a.ctl_ok(&["peer", "add", "web", &two]);
    refused(a, "peer rename db web", &["web exists already"]);
    refused(a, "peer rename web db", &["db exists already"]);
}

#[test]
fn a_plain_wireguard_peer_that_cannot_be_is_refused() {
    need_lab!();
    let lab = alone("wg");
    let a = &lab.a;
    let add = |key: &str, endpoint: &str, address: &str| {
        format!("peer add wg --wireguard {key} --endpoint {endpoint} --address {address}")
    };
    let good = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let there = "192.0.2.1:51820";
    let short = ["not a WireGuard key", "32 bytes in base64"];
    refused(a, &add("AQEB", there, "10.9.0.1"), &short);
    misused(a, &add(good, "192.0.2.1", "10.9.0.1"), &["--endpoint"]);
    misused(a, &add(good, there, "10.9.0"), &["--address"]);
    refused(a, &add(good, there, "127.0.0.1"), &["127.0.0.1 cannot be"]);
    let taken = a.ipv4().to_string();
    refused(a, &add(good, there, &taken), &[&taken, "this machine"]);
    misused(
        a,
        &format!("peer add wg --wireguard {good}"),
        &["--address"],
    );
    let details = format!("peer add wg {} --endpoint {there}", key(3));
    misused(a, &details, &["belong to --wireguard BASE64"]);
    let both = add(good, there, "10.9.0.1") + " " + &key(3);
    misused(a, &both, &["cannot be used with"]);
    let secret = add(good, there, "10.9.0.1") + " --preshared-key ";
    refused(
        a,
        &(secret.clone() + "/nonexistent"),
        &["cannot read /nonexistent"],
    );
    let wrong = lab.dir.join("preshared");
    std::fs::write(&wrong, "short").unwrap();
    let line = secret + &wrong.display().to_string();
    refused(a, &line, &["32 bytes in base64"]);
}

#[test]
fn an_unknown_peer_is_named_with_those_that_are_known() {
    need_lab!();
    let lab = alone("unkn");
    let a = &lab.a;
    refused(
        a,
        "up db",
        &["no peer is called db", "punchctl peer add db"],
    );
    a.ctl_ok(&["peer", "add", "web", &key(1)]);
    for line in [
        "up db",
        "down db",
        "ping db -c 1",
        "allow db --host",
        "deny db --host",
        "peer remove db",
        "peer rename db x",
        "forward tcp 80 --peer db",
        "forward tcp 80 --peer web --peer db",
    ] {
        refused(a, line, &["no peer is called db", "there is web"]);
    }
    let down = ["web is not connected", "punchctl up web"];
    refused(a, "ping web -c 1", &down);
    misused(a, "allow web", &["--host"]);
}

#[test]
fn a_forward_that_cannot_be_is_refused() {
    need_lab!();
    let lab = alone("forw");
    let a = &lab.a;
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
        misused(a, &format!("forward tcp {ports}"), &[essence]);
    }
    misused(a, "forward sctp 80", &["use tcp or udp"]);
    for target in
        "nowhere ::1:80 [::1] 1.2.3.4: 1.2.3.4:0 1.2.3.4:99999 :80 http://x:80 ".split(' ')
    {
        misused(a, &format!("forward tcp 80 --to {target}"), &["--to"]);
    }
    refused(a, "forward tcp 80-82 --to 1.2.3.4:65534", &["past 65535"]);
    refused(a, "unforward tcp 80", &["nothing is forwarded"]);

    a.ctl_ok(&["forward", "tcp", "80-89", "--to", "127.0.0.1:8080"]);
    for overlapping in ["80-89", "80", "89", "70-80", "89-99", "1-1000"] {
        let known = "tcp 80-89 is forwarded already, to 127.0.0.1:8080";
        let essence = [known, "punchctl unforward tcp 80-89"];
        refused(a, &format!("forward tcp {overlapping}"), &essence);
    }
    let part = ["tcp 80 is not forwarded", "tcp 80-89"];
    refused(a, "unforward tcp 80", &part);
    refused(a, "unforward udp 80-89", &["udp 80-89 is not forwarded"]);
    a.ctl_ok(&["forward", "udp", "80-89"]);
    a.ctl_ok(&["forward", "tcp", "90"]);
}

#[test]
fn a_server_that_cannot_be_is_refused() {
    need_lab!();
    let lab = alone("srv");
    let a = &lab.a;
    for address in [
        "http://x",
        "x:8080",
        "ws://",
        "ws://:80",
        "ws://x:99999",
        "ws://user@x",
    ] {
        refused(
            a,
            &format!("server add signal {address}"),
            &["`", "is not a"],
        );
    }
    for address in ["a/b", "x:0", "stun:x:3478", "[::1", "::1", ""] {
        refused(a, &format!("server add stun {address}"), &["`", "is not a"]);
    }
    misused(a, "server add turn x", &["use signal, stun, dht or public"]);
    refused(
        a,
        "server remove stun 192.0.2.1",
        &["192.0.2.1:3478 is not in use"],
    );
    refused(
        a,
        "netcheck",
        &["no STUN server", "punchctl server add stun"],
    );
    a.ctl_ok(&["server", "add", "stun", "192.0.2.1"]);
    let again = a.ctl_ok(&["server", "add", "stun", "192.0.2.1:3478"]);
    assert!(again.starts_with("unchanged: stun server"), "{again}");
    // Unreachable servers are no error: they may come.
    a.ctl_ok(&["server", "add", "signal", "ws://192.0.2.1:1"]);
    a.ctl_ok(&["peer", "add", "db", &key(1)]);
    a.ctl_ok(&["up", "db", "--no-wait"]);
    let said = a.ctl_refused(&["up", "db", "--timeout", "1"]);
    let helps = said.contains("punchctl server list") && said.contains("keeps trying");
    assert!(helps, "{said}");
    assert_eq!(a.peer("db")["up"], true, "it is still wanted");
}

#[test]
fn servers_of_the_administrator_stay() {
    need_lab!();
    let mut lab = Lab::bare("fix", Kinds::Apart("open", "open"), &[]);
    lab.a.configure("[stun]\nservers = [\"192.0.2.1\"]\n");
    lab.a.start();
    let again = lab.a.ctl_ok(&["server", "add", "stun", "192.0.2.1"]);
    assert!(again.starts_with("unchanged: stun server"), "{again}");
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
        lab.a.ctl_ok(&["--help"]).contains("punchctl invite"),
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
    let dead = ["punchd is not running", &*socket, "systemctl start punchd"];
    refused(&lab.a, "status", &dead);
    lab.a.start();
    lab.a.stop();
    refused(&lab.a, "status", &dead);
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
        &["peer", "rename", "db", "web"],
        &["up", "db", "--no-wait"],
        &["allow", "db", "--host"],
        &["forward", "tcp", "81"],
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
    let output = lab.a.ctl(&["forward", "tcp", "81", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&output.stderr).expect("it is JSON");
    assert_eq!(said["error"]["code"], "internal", "{output:?}");
    // What only takes something away is done, and it is said what that is worth.
    for change in [
        &["unforward", "tcp", "80"][..],
        &["deny", "db", "--host"],
        &["down", "db"],
        &["peer", "remove", "db"],
    ] {
        let output = lab.a.ctl(change);
        assert_eq!(output.status, 0, "{change:?}: {output:?}");
        // Nothing had been granted.
        let warns = change[0] != "deny" || output.stdout.starts_with("unchanged: ");
        assert!(warns, "{change:?}: {output:?}");
        for part in ["warning: ", "not saved", "state.json", "Read-only"] {
            assert!(output.stderr.contains(part), "{change:?}: {output:?}");
        }
    }
    assert_eq!(lab.a.ctl_json(&["peers"]), serde_json::json!([]));
    assert!(
        lab.a
            .ctl_ok(&["status"])
            .contains("warning: not saved: cannot write ")
    );
    mount(&["-o", "remount,rw,bind"]);
    lab.a.wait_until_saved();
    assert!(
        !lab.a.state_file().unwrap().contains("db"),
        "it is saved now"
    );
}
