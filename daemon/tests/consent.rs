//! What is asked on a terminal: whether what is public is used, and the servers of a code. Nothing of it runs before a yes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::process::Command;

use harness::{Count, Host, Kinds, Lab, Output, run, tool};
use serde_json::{Value, json};

/// Where a question ends, wherever its lines are broken.
const QUESTION: &str = "[Y/n]";
const WAITS: &str = "waiting for the other machine";
const CODE: &str = "acorn-window-maple-radio-river-zebra";
const CTRL_C: &str = "\\x03";
const CTRL_D: &str = "\\x04";

/// Two machines that know no server; what leaves a's network is counted.
fn lab(hint: &str) -> (Lab, Count) {
    let mut lab = Lab::bare(
        hint,
        Kinds::Apart("port-restricted", "port-restricted"),
        &[],
    );
    let leaves = lab.namespace("ra").count("forward", "udp dport != 5351");
    lab.a.start();
    (lab, leaves)
}

/// Runs punchctl on a terminal of 80 columns, and types these keys once those texts have been shown.
#[track_caller]
fn typed(host: &Host, arguments: &[&str], keys: &[(&str, &str)]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/terminal.py");
    let mut command = Command::new(tool("python3", "python3"));
    command.args([script, "80"]);
    for (text, keys) in keys {
        command.args([text, keys]);
    }
    let mut output = run(command.arg("--").args(host.ctl_argv()).args(arguments));
    // A question is broken between words.
    if let Some((question, _)) = output.stdout.split_once(QUESTION) {
        let asked = question.rsplit("\x1b[K").next().unwrap_or_default();
        let longest = asked.lines().map(|line| line.chars().count()).max();
        assert!(longest.is_none_or(|longest| longest <= 80), "{output:#?}");
    }
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    output.stdout = words.join(" ");
    output
}

#[track_caller]
fn says(output: &Output, words: &str) {
    assert!(output.stdout.contains(words), "{output:#?}");
}

fn used(host: &Host) -> Value {
    host.ctl_json(&["server", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|server| server["kind"].clone())
        .collect()
}

fn public(host: &Host) -> Value {
    host.ctl_json(&["status"])["public"].clone()
}

#[test]
fn nothing_that_is_public_is_used_before_somebody_has_said_yes() {
    need_lab!();
    let (mut lab, leaves) = lab("coa");
    let a = &lab.a;
    // What is wrong with the command is said at once.
    for (arguments, words) in [
        (
            &["invite", "--forward", "tcp:1", "--forward", "tcp:1-2"][..],
            "is forwarded already",
        ),
        (&["join", "acorn-window"], "4 are missing"),
    ] {
        let output = typed(a, arguments, &[]);
        assert!(
            output.status == 1 && output.stdout.contains(words),
            "{output:#?}"
        );
        assert!(!output.stdout.contains("[Y/n]"), "{output:#?}");
    }

    // No answer at all, and one that is none.
    let stopped = typed(a, &["invite"], &[(QUESTION, CTRL_C)]);
    assert_eq!(stopped.status, 1);
    says(&stopped, "nothing of whose they are or what is said. [Y/n]");
    says(&stopped, "stopped at the question");
    says(
        &stopped,
        "see this machine's public address and that of the machine that it meets",
    );
    let ended = typed(
        a,
        &["invite", "--no-qr"],
        &[(QUESTION, CTRL_D), (WAITS, CTRL_C)],
    );
    says(&ended, "see its public address: punchctl server add public");
    says(&ended, "Type this on the other machine");
    assert_eq!((public(a), used(a)), (Value::Null, json!([])));
    assert_eq!(a.ctl_json(&["status"])["dht"], Value::Null);
    assert_eq!(a.ctl_json(&["peers"]), json!([]));

    // Without a terminal nobody is asked, and it is said what to type.
    let told = a.ctl(&["join", "--timeout", "5", CODE]);
    assert_eq!(told.status, 1);
    assert!(
        told.stderr.contains("punchctl server add public"),
        "{told:#?}"
    );
    assert!(!told.stderr.contains("[Y/n]"), "{told:#?}");

    // A no is kept, over a restart, too.
    let keys = [
        (QUESTION, "maybe\\r"),
        ("y for yes or n for no. [Y/n]", "n\\r"),
        (WAITS, CTRL_C),
    ];
    let refused = typed(a, &["invite", "--no-qr"], &keys);
    says(&refused, "not asked again");
    lab.a.restart();
    let a = &lab.a;
    assert_eq!((public(a), used(a)), (json!(false), json!([])));
    let again = typed(a, &["invite", "--no-qr"], &[(WAITS, CTRL_C)]);
    says(&again, "the public DHT was refused");
    assert!(!again.stdout.contains("[Y/n]"), "{again:#?}");
    assert_eq!(leaves.packets(), 0);

    a.ctl_ok(&["server", "add", "public"]);
    assert_eq!((public(a), used(a)), (json!(true), json!(["public"])));
    a.ctl_ok(&["server", "remove", "public"]);
    assert_eq!(public(a), json!(false));
}

/// Each of the three commands asks, and Enter alone is a yes; who has said yes is not asked again.
#[test]
fn a_yes_counts_for_all_commands() {
    need_lab!();
    let (mut lab, _) = lab("cob");
    lab.b.start();
    lab.introduce();
    for (command, answer, then) in [
        (&["invite", "--no-qr"][..], "\\r", WAITS),
        (&["join", CODE], "y\\r", "looking for the machine"),
        (&["up", "b"], "YES\\r", "In use from now on"),
    ] {
        let keys = [
            (QUESTION, answer),
            ("punchctl server remove public", ""),
            (then, CTRL_C),
        ];
        let keys = if then.starts_with("In") {
            &keys[..1]
        } else {
            &keys[..]
        };
        let output = typed(&lab.a, command, keys);
        says(&output, "In use from now on");
        assert_eq!(
            (public(&lab.a), used(&lab.a)),
            (json!(true), json!(["public"]))
        );
        lab.b.ctl_ok(&["server", "add", "public"]);
        // As on a machine where nobody has said anything yet.
        lab.a.stop();
        let file = lab.a.state_dir.join("state.json");
        let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        state["servers"] = json!([]);
        std::fs::write(&file, state.to_string()).unwrap();
        lab.a.start();
    }
}

#[test]
fn a_server_of_a_code_is_asked_about() {
    need_lab!();
    let (lab, leaves) = lab("coc");
    let code = format!("{CODE}@signal.example");
    const ASKED: &str = "the other servers that the inviter names? [Y/n]";
    for (keys, words) in [
        ("n\\r", "is not to be used"),
        (CTRL_D, "add: --yes"),
        (CTRL_C, "stopped at the question"),
    ] {
        let output = typed(&lab.a, &["join", &code], &[("names? [Y/n]", keys)]);
        assert!(
            output.status == 1 && output.stdout.contains(words),
            "{output:#?}"
        );
        says(&output, ASKED);
        assert_eq!((public(&lab.a), used(&lab.a)), (Value::Null, json!([])));
    }
    assert_eq!(leaves.packets(), 0);
    // Whoever says yes goes there.
    let keys = [("names? [Y/n]", "\\r"), ("looking for the machine", CTRL_C)];
    let output = typed(&lab.a, &["join", &code], &keys);
    says(&output, "no longer looking");
}
