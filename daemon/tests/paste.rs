//! Two machines that have no channel in common but a person who carries lines between them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use harness::{Echo, Host, Kinds, Lab};
use punch_signal_protocol::paste::PasteLine;

/// Daemons behind NATs that know each other and a STUN server, and no signalling server.
#[track_caller]
fn lab(hint: &str, a: &str, b: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(a, b), &[]);
    lab.start_servers();
    // Nobody is there who could pass anything on.
    lab.signal.stop();
    for host in [&mut lab.a, &mut lab.b] {
        host.start();
    }
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
        host.wait_for_server(&format!("{}:3478", lab.env("SERVER_IPV4")));
    }
    lab.introduce();
    lab
}

/// What a mail program makes of a line: quoted, and broken.
fn mailed(line: &str) -> String {
    let line = line.trim();
    let parts: Vec<_> = (0..line.len())
        .step_by(70)
        .map(|at| &line[at..line.len().min(at + 70)])
        .collect();
    format!("> {}\r\n", parts.join("\r\n> "))
}

/// A line with its time set back, which nobody could tell from one that has lain about.
fn aged(line: &str, minutes: u64) -> String {
    let mut line = PasteLine::read(line).unwrap();
    line.made_ms -= minutes * 60_000;
    line.to_string()
}

#[track_caller]
fn refused(host: &Host, line: &str, words: &str) {
    let said = host.ctl_refused(&["answer", line]);
    assert!(said.contains(words), "{words:?} is not in: {said}");
}

#[test]
fn two_lines_carried_by_hand_connect_two_machines_behind_nats() {
    need_lab!();
    let lab = lab("hand", "port-restricted", "address-restricted");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");

    let offer = lab.a.ctl_ok(&["offer", "b"]);
    assert!(offer.starts_with("punch-offer1") && offer.lines().count() == 1);
    let answer = lab.b.ctl_ok(&["answer", &mailed(&offer)]);
    assert!(answer.starts_with("punch-answer1") && answer.lines().count() == 1);
    // It may be asked for again, should it be lost.
    assert_eq!(lab.b.ctl_ok(&["answer", offer.trim()]), answer);
    let connected = lab.a.ctl_ok(&["answer", &mailed(&answer)]);
    assert!(connected.contains('b'), "{connected}");
    assert_eq!(lab.a.peer_state("b"), "connected");
    lab.b.wait_for_peer_state("a", "connected");
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7000));
    let why = lab.a.ctl_refused(&["offer", "b"]);
    assert!(why.contains("connected already"), "{why}");
}

#[test]
fn each_line_that_cannot_be_used_says_why_and_the_right_ones_still_work() {
    need_lab!();
    let lab = lab("lines", "full-cone", "port-restricted");
    let file = |name: &str| -> PathBuf { lab.dir.join(name) };
    let (to, back) = (file("offer.txt"), file("answer.txt"));
    let [to, back] = [&to, &back].map(|path| path.to_str().unwrap());

    let first = lab.a.ctl_json(&["offer", "b"]);
    assert_eq!(first["step"], "offered");
    assert_eq!(first["expires_in_s"], 600);
    let first = first["line"].as_str().unwrap();
    let second = lab.a.ctl_ok(&["offer", "b", "--file", to]);
    assert_eq!(second, "");
    let second = fs::read_to_string(to).unwrap();
    let taken = lab.a.ctl_refused(&["offer", "b", "--file", to]);
    assert!(taken.contains("--overwrite"), "{taken}");
    assert_eq!(fs::read_to_string(to).unwrap(), second);

    refused(&lab.b, &second[..second.len() - 3], "is not whole");
    refused(&lab.b, "hello", "no line of Punch");
    refused(&lab.b, &second.replacen('1', "2", 1), "version 2");
    refused(&lab.b, &aged(&second, 11), "has expired");
    refused(&lab.a, &second, "has made that line itself");
    let mut stranger = PasteLine::read(&second).unwrap();
    stranger.from = punch_signal_protocol::Identity::from_seed(&[9; 32]).id();
    let add = format!("punchctl peer add NAME {}", stranger.from);
    refused(&lab.b, &stranger.to_string(), &add);
    (stranger.from, stranger.to) = (PasteLine::read(&second).unwrap().from, stranger.from);
    refused(&lab.b, &stranger.to_string(), "is for the machine");

    let answer = lab.b.ctl_json(&["answer", "--file", to, "--write", back]);
    assert_eq!(answer["step"], "answered");
    let answer = fs::read_to_string(back).unwrap();
    // The older offer does not count beside the newer one, which was read.
    refused(&lab.b, first, "does not count any more");
    let mut other = PasteLine::read(&answer).unwrap();
    other.offer = [7; 8];
    refused(&lab.a, &other.to_string(), "another offer");
    refused(&lab.b, &answer, "has made that line itself");

    let done = lab.a.ctl_json(&["answer", "--file", back]);
    assert_eq!(done["state"], "connected");
    lab.b.wait_for_peer_state("a", "connected");
    refused(&lab.a, &answer, "another offer");
}
