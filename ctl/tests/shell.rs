//! punchctl in a shell: completion, tables on a terminal, error messages, and the examples of the help.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod common;

use std::process::{Command, Output};

use clap::{CommandFactory, Parser};
use common::Socket;
use punchctl::arguments::Arguments;

const PEERS: &str = r#"[
    {"name":"database","id":null,"wireguard":"","ipv4":null,"ipv6":null,"up":true,"host":false,"state":"connected",
     "path":null,"received_bytes":0,"sent_bytes":0,"last_handshake_s":null,"note":null},
    {"name":"laptop","id":null,"wireguard":"","ipv4":null,"ipv6":null,"up":false,"host":false,"state":"down",
     "path":null,"received_bytes":1500,"sent_bytes":0,"last_handshake_s":null,"note":null}]"#;

fn punchctl() -> Command {
    Command::new(env!("CARGO_BIN_EXE_punchctl"))
}

/// What a shell offers for the last of these words, while punchd gives that answer.
fn offers(shell: &str, words: &[&str], answer: &str) -> String {
    let socket = Socket::new();
    let punchd = socket.answer_once("200 OK", answer);
    let output = complete(shell, words, &socket);
    punchd.join().unwrap();
    text(&output.stdout)
}

fn complete(shell: &str, words: &[&str], socket: &Socket) -> Output {
    punchctl()
        .env("COMPLETE", shell)
        .env("PUNCH_SOCKET", &socket.0)
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_IFS", "\n")
        .args(["--", "punchctl"])
        .args(words)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_shell_completes_the_names_of_peers_as_punchd_knows_them() {
    for shell in ["bash", "zsh", "fish"] {
        let offered = offers(shell, &["up", "da"], PEERS);
        assert!(offered.contains("database"), "{shell}: {offered:?}");
        assert!(!offered.contains("laptop"), "{shell}: {offered:?}");
    }
    let all = offers("bash", &["peer", "remove", ""], PEERS);
    assert!(all.contains("database") && all.contains("laptop"), "{all}");
}

#[test]
fn ports_and_servers_are_completed_too() {
    let forwards = r#"[{"protocol":"tcp","ports":"5432","target":"127.0.0.1:5432","peers":[],"open":0,"total":0}]"#;
    let offered = offers("bash", &["unforward", "tcp", "5"], forwards);
    assert_eq!(offered.trim(), "5432");
    let servers = r#"[
        {"kind":"stun","address":"stun.example:3478","fixed":false,"state":"connected","trouble":null},
        {"kind":"stun","address":"stun.fixed:3478","fixed":true,"state":"connected","trouble":null}]"#;
    let offered = offers("bash", &["server", "remove", "stun", "st"], servers);
    assert_eq!(offered.trim(), "stun.example:3478");
}

#[test]
fn completion_without_punchd_offers_nothing_and_says_nothing() {
    let output = complete("bash", &["up", ""], &Socket::new());
    assert!(output.status.success(), "{output:?}");
    assert!(!text(&output.stdout).contains("error"), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

/// The words of a line, as a shell splits them; the examples quote nothing but words for jq.
fn words(line: &str) -> Vec<&str> {
    let line = line.split(" | ").next().unwrap_or(line);
    // The text behind a wide gap explains the example.
    let line = line.trim().split("   ").next().unwrap_or(line);
    line.split_whitespace().collect()
}

#[test]
fn every_example_of_the_help_is_a_command() {
    fn look(command: &clap::Command, seen: &mut usize) {
        let help = command.get_after_help().map(ToString::to_string);
        for line in help.unwrap_or_default().lines() {
            if !line.starts_with("  punchctl") {
                continue;
            }
            let words = words(line);
            // The key in an example is no real one; only its use would check it.
            if let Err(error) = Arguments::try_parse_from(&words) {
                panic!("{line}: {error}");
            }
            *seen += 1;
        }
        for sub in command.get_subcommands() {
            look(sub, seen);
        }
    }
    let mut seen = 0;
    look(&Arguments::command(), &mut seen);
    assert!(seen > 30, "{seen} examples");
}

#[test]
fn every_command_has_an_example() {
    fn look(command: &clap::Command) {
        if command.get_subcommands().next().is_none() {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            assert!(help.contains("  punchctl"), "{}", command.get_name());
        }
        command.get_subcommands().for_each(look);
    }
    look(&Arguments::command());
}

#[test]
fn a_pipe_gets_tabs_and_a_terminal_a_table() {
    let output = peers(PEERS);
    assert_eq!(
        text(&output.stdout),
        "database\tconnected\t-\t-\t0 B\t0 B\t\nlaptop\tdown\t-\t-\t1.5 KB\t0 B\t\n"
    );

    let output = peers_on_a_terminal(&[]);
    assert!(
        output.contains("\x1b[1mPEER\x1b[0m      \x1b[1mSTATE\x1b[0m"),
        "{output}"
    );
    assert!(output.contains("\x1b[32mconnected\x1b[0m"), "{output}");

    let output = peers_on_a_terminal(&[("NO_COLOR", "1")]);
    assert!(!output.contains('\x1b'), "{output}");
    assert!(output.contains("PEER      STATE      ADDRESS"), "{output}");
}

/// A terminal of script(1) has no size.
#[test]
fn a_terminal_that_does_not_tell_its_size_has_eighty_columns() {
    let path = r#"{"remote":"203.0.113.20:48084","kind":"server-reflexive","rtt_ms":12.5,"via":null,"mtu":1420,"since_ms":1700000000000,"reason":"first","because":"it was the first one that answered","loss":{"fraction":0.0,"samples":31,"window_s":600}}"#;
    let full = PEERS
        .replacen(r#""path":null"#, &format!(r#""path":{path}"#), 1)
        .replacen(r#""ipv4":null"#, r#""ipv4":"100.104.246.93""#, 1);
    assert!(full.contains("203.0.113.20") && full.contains("100.104.246.93"));
    for (answer, columns) in [(PEERS, 80), (&full, 80), (&full, 120)] {
        let wanted = columns.to_string();
        let env = [("NO_COLOR", "1"), ("COLUMNS", wanted.as_str())];
        let env = &env[..if columns == 80 { 1 } else { 2 }];
        let output = peers_on_a_terminal_as(answer, env);
        for line in output.lines() {
            assert!(line.trim_end().chars().count() <= columns, "{output}");
        }
        assert!(output.contains("PEER      STATE      ADDRESS"), "{output}");
    }
}

/// `punchctl peers` into a pipe, while punchd gives that answer.
fn peers(answer: &str) -> Output {
    let socket = Socket::new();
    let punchd = socket.answer_once("200 OK", answer);
    let output = punchctl()
        .arg("--socket")
        .arg(&socket.0)
        .arg("peers")
        .output()
        .unwrap();
    punchd.join().unwrap();
    output
}

/// The same on a terminal made by script(1), with [`PEERS`] for an answer.
fn peers_on_a_terminal(env: &[(&str, &str)]) -> String {
    peers_on_a_terminal_as(PEERS, env)
}

/// The same with another answer.
fn peers_on_a_terminal_as(answer: &str, env: &[(&str, &str)]) -> String {
    let socket = Socket::new();
    let punchd = socket.answer_once("200 OK", answer);
    let command = format!(
        "{} --socket {} peers",
        env!("CARGO_BIN_EXE_punchctl"),
        socket.0.display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env_remove("NO_COLOR")
        .env_remove("COLUMNS")
        .env("TERM", "xterm")
        .envs(env.iter().copied())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("script(1) is installed (bsdutils)");
    punchd.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn without_punchd_the_error_says_how_to_start_it() {
    let socket = Socket::new();
    let output = punchctl()
        .arg("--socket")
        .arg(&socket.0)
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("punchd is not running"), "{said}");
    assert!(said.contains("sudo systemctl start punchd"), "{said}");
}

#[test]
fn a_misspelt_command_is_refused_with_the_one_that_was_meant() {
    let output = punchctl().arg("forwrad").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("'forward'"), "{said}");
}

#[test]
fn ctrl_c_ends_a_ping_that_nobody_answers() {
    let socket = Socket::new();
    // This punchd accepts connections and never answers.
    let listener = std::os::unix::net::UnixListener::bind(&socket.0).unwrap();
    let mut ping = punchctl()
        .arg("--socket")
        .arg(&socket.0)
        .args(["ping", "db"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let _connection = listener.accept().unwrap();
    // Until it would hear the signal.
    while !catches(ping.id(), 2) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let killed = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", ping.id())])
        .status();
    assert!(killed.unwrap().success());
    let output = ping.wait().unwrap();
    assert_eq!(output.code(), Some(1));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut ping.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(said, "punchctl: no answer from db so far\n");
}

#[test]
fn events_tell_what_is_known_of_them_and_that_punchd_has_stopped() {
    let socket = Socket::new();
    let listener = std::os::unix::net::UnixListener::bind(&socket.0).unwrap();
    let punchd = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
        let event = r#"data: {"at_ms":3723000,"kind":"relay","peer":"db","bytes":7,"message":"db is relayed"}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{event}\n\n\r\n",
            event.len() + 2
        );
        // The stream has no last chunk: this punchd was killed.
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
    });
    let output = punchctl()
        .arg("--socket")
        .arg(&socket.0)
        .arg("events")
        .output()
        .unwrap();
    punchd.join().unwrap();
    assert_eq!(text(&output.stdout), "01:02:03 UTC  db is relayed\n");
    assert_eq!(text(&output.stderr), "punchctl: punchd has stopped\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn nothing_is_no_row() {
    let output = peers("[]");
    assert_eq!(text(&output.stdout), "");
    assert!(
        text(&output.stderr).contains("punchctl invite"),
        "{output:?}"
    );
}

#[test]
fn what_belongs_to_wireguard_is_refused_without_it_as_wrong_usage() {
    for words in [
        &["--endpoint", "192.0.2.1:51820"][..],
        &["--address", "10.9.0.1"],
        &["--preshared-key", "/dev/null"],
    ] {
        let output = punchctl()
            .args(["peer", "add", "db", "punch1x"])
            .args(words)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = text(&output.stderr);
        assert!(said.contains("belong to --wireguard BASE64"), "{said}");
    }
}

#[test]
fn a_peer_of_a_newer_punchd_is_shown_with_words_that_are_not_known() {
    let answer = PEERS.replace("\"connected\"", "\"relayed\"");
    let output = peers(&answer);
    assert_eq!(
        text(&output.stdout),
        "database\trelayed\t-\t-\t0 B\t0 B\t\nlaptop\tdown\t-\t-\t1.5 KB\t0 B\t\n"
    );
}

/// Whether a process has said what it does at a signal (proc_pid_status(5)).
fn catches(pid: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught & (1 << (signal - 1)) != 0
}
