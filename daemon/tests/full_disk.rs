//! A disk that is full or read-only: what is taken away stays away, what is given is saved or refused, and punchd starts with what it can
//! read.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use harness::{Echo, Host, Kinds, Lab, PATIENCE, Server, run, wait_until};

/// Starts punchd in a mount namespace of its own, after this.
fn mount(host: &mut Host, script: &str) {
    let state = host.state_dir.display().to_string();
    let script = format!("{script} && exec \"$@\"");
    let wrapper = ["unshare", "-m", "sh", "-c", &script, &state];
    let wrapper = wrapper.map(str::to_owned);
    host.punchd.argv.splice(0..0, wrapper);
}

/// Runs a script where punchd sees its state directory, in that directory.
#[track_caller]
fn beside(host: &Host, script: &str) -> String {
    let pid = host.punchd.pid().to_string();
    let script = format!("cd '{}' && {script}", host.state_dir.display());
    run(Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", &script])).ok()
}

/// Others take all the room that is left.
fn fill(host: &Host) {
    beside(
        host,
        "dd if=/dev/zero of=fill bs=1k count=200 2>/dev/null; :",
    );
}

/// a and b are connected, and a reaches a port of b's, whose state is on a disk of 64 KiB.
fn small_disk(hint: &str) -> (Lab, Server, SocketAddr) {
    let kinds = Kinds::Apart("port-restricted", "port-restricted");
    let mut lab = Lab::bare(hint, kinds, &[]);
    lab.start_servers();
    std::fs::create_dir(&lab.b.state_dir).unwrap();
    mount(
        &mut lab.b,
        "mount -t tmpfs -o size=64k,mode=700 none \"$0\"",
    );
    lab.a.start();
    lab.b.start();
    lab.add_servers();
    lab.introduce();
    let echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    lab.b.ctl_ok(&["allow", "a", "--host"]);
    lab.connect();
    let address = SocketAddr::new(lab.b.ipv6(), 7000);
    assert!(reaches(&lab, address));
    // What is remembered of a has its place on the disk.
    wait_until(PATIENCE, "all files are there", || {
        let there = beside(&lab.b, "ls");
        ["stamps.json", "reserve"]
            .iter()
            .all(|file| there.contains(file))
    });
    (lab, echo, address)
}

fn reaches(lab: &Lab, address: SocketAddr) -> bool {
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok();
    lab.a.inside(connect)
}

#[test]
fn on_a_full_disk_a_right_is_taken_away_and_that_is_saved() {
    need_lab!();
    let (lab, _echo, address) = small_disk("full");
    fill(&lab.b);
    // What makes the state larger than its block is refused, and nothing else is.
    let peers: Vec<_> = (1..=64).map(|port| port.to_string()).collect();
    let refused = peers
        .iter()
        .map(|port| lab.b.ctl(&["forward", "tcp", port]))
        .find(|output| !output.success())
        .expect("the disk is full");
    assert!(
        refused.stderr.contains("nothing was changed")
            && refused.stderr.contains("No space left on device"),
        "{refused:?}"
    );
    for taken in [
        &["unforward", "tcp", "7000"][..],
        &["deny", "a", "--host"],
        &["down", "a"],
        &["peer", "remove", "a"],
    ] {
        let output = lab.b.ctl(taken);
        assert_eq!((output.status, &*output.stderr), (0, ""), "{taken:?}");
    }
    assert!(!reaches(&lab, address), "it is locked out");
    assert_eq!(lab.b.not_saved(), "");
    let saved: serde_json::Value = serde_json::from_str(&beside(&lab.b, "cat state.json")).unwrap();
    assert_eq!(saved["peers"], serde_json::json!({}), "{saved}");
}

#[test]
fn what_not_even_the_reserve_helps_to_save_is_in_force_and_saved_later() {
    need_lab!();
    let (lab, _echo, address) = small_disk("resv");
    beside(&lab.b, "rm reserve");
    fill(&lab.b);
    for taken in [&["deny", "a", "--host"][..], &["peer", "remove", "a"]] {
        let output = lab.b.ctl(taken);
        assert_eq!(output.status, 0, "{output:?}");
        for part in ["warning: this is in force, but not saved", "No space left"] {
            assert!(output.stderr.contains(part), "{taken:?}: {output:?}");
        }
    }
    assert!(!reaches(&lab, address), "it is locked out");
    assert!(lab.b.not_saved().contains("No space left"));
    // The trouble is told once, however often saving is tried.
    std::thread::sleep(Duration::from_secs(4));
    let log = lab.b.punchd.log_text();
    let told = log.matches("the state directory cannot be written").count();
    assert_eq!(told, 1, "{log}");

    beside(&lab.b, "rm fill");
    lab.b.wait_until_saved();
    let saved: serde_json::Value = serde_json::from_str(&beside(&lab.b, "cat state.json")).unwrap();
    assert_eq!(saved["peers"], serde_json::json!({}), "{saved}");
    lab.b
        .punchd
        .wait_for_log("the state directory is written again");
}

#[test]
fn punchd_starts_with_what_it_can_read_on_a_read_only_disk() {
    need_lab!();
    let kinds = Kinds::Apart("port-restricted", "port-restricted");
    let mut lab = Lab::bare("rost", kinds, &[]);
    lab.start_servers();
    lab.a.start();
    lab.b.start();
    lab.add_servers();
    lab.introduce();
    lab.connect();
    lab.b.stop();
    mount(
        &mut lab.b,
        "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\"",
    );
    lab.b.start();
    lab.b.wait_for_peer_state("a", "connected");
    assert!(lab.b.not_saved().contains("Read-only file system"));
    let refused = lab.b.ctl_refused(&["forward", "tcp", "80"]);
    assert!(refused.contains("nothing was changed"), "{refused}");
    // Another punchd still has no business there.
    let argv: Vec<&str> = lab.b.punchd.argv.iter().map(String::as_str).collect();
    let second = lab.b.exec(&argv);
    assert!(
        second
            .stderr
            .contains("another punchd uses the state directory"),
        "{second:?}"
    );
}

#[test]
fn a_first_start_on_a_full_disk_fails_so_that_it_is_tried_again() {
    need_lab!();
    let mut lab = Lab::bare("fst", Kinds::Apart("open", "open"), &[]);
    std::fs::create_dir(&lab.b.state_dir).unwrap();
    mount(
        &mut lab.b,
        "mount -t tmpfs -o size=64k,mode=700 none \"$0\" && (dd if=/dev/zero of=\"$0/fill\" bs=1k count=200 2>/dev/null; :)",
    );
    let argv: Vec<&str> = lab.b.punchd.argv.iter().map(String::as_str).collect();
    let output = lab.b.exec(&argv);
    assert_eq!(
        output.status, 1,
        "not 78, which would stop systemd: {output:?}"
    );
    for part in ["identity.key", "No space left on device"] {
        assert!(output.stderr.contains(part), "{output:?}");
    }
    wait_until(PATIENCE, "its socket is gone", || !lab.b.socket.exists());
}
