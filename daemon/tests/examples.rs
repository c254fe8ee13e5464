//! Every example in punchctl's help, which its manual pages repeat, typed on a machine as it stands there.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use harness::{Host, Lab, Output, Stranger, program, run};

/// In an order in which each finds what it needs; `db` is the other host, `laptop` a peer that is not there.
const COMMANDS: [&str; 26] = [
    "invite",
    "join",
    "id",
    "key show",
    "status",
    "netcheck",
    "server add",
    "server list",
    "server remove",
    "peer add",
    "answer",
    "offer",
    "up",
    "peers",
    "events",
    "ping",
    "why",
    "forward",
    "forwards",
    "unforward",
    "allow",
    "deny",
    "down",
    "peer rename",
    "peer list",
    "peer remove",
];

/// The examples of all commands, by command.
fn examples() -> Vec<(String, Vec<String>)> {
    fn look(path: &[&str], found: &mut Vec<(String, Vec<String>)>) {
        let help = run(std::process::Command::new(program("punchctl"))
            .args(path)
            .arg("--help"))
        .ok();
        let section = |title: &str| {
            let mut lines = help.lines().skip_while(|line| *line != title);
            lines.next();
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let groups = ["Commands:", "Connect:", "Share:", "Look:"].map(section);
        let names = groups.iter().flat_map(|lines| {
            lines.iter().map_while(|line| {
                let name = line.strip_prefix("  ")?.split(' ').next()?;
                Some(name.to_owned())
            })
        });
        let commands: Vec<_> = names.filter(|name| name != "help").collect();
        for name in &commands {
            look(&[path, &[name.as_str()]].concat(), found);
        }
        if commands.is_empty() {
            let examples = section("Examples:")
                .iter()
                .map_while(|line| line.strip_prefix("  ").map(str::to_owned))
                .collect();
            found.push((path.join(" "), examples));
        }
    }
    let mut found = Vec::new();
    look(&[], &mut found);
    found
}

/// Types a line into a shell; what goes on until Ctrl-C gets one after two seconds.
fn type_in(host: &Host, line: &str, endless: bool) -> Output {
    let folder = program("punchctl");
    let folder = Path::new(&folder).parent().unwrap().display().to_string();
    let line = if endless {
        format!("timeout --preserve-status --signal=INT 2 {line}")
    } else {
        line.to_owned()
    };
    let script = format!(
        "PATH={folder}:$PATH PUNCH_SOCKET={}; export PATH PUNCH_SOCKET; set -o pipefail; {line}",
        host.socket.display()
    );
    host.exec(&["bash", "-c", &script])
}

#[test]
fn every_example_of_the_help_does_what_it_says() {
    need_lab!();
    let mut lab = Lab::bare(
        "ex",
        harness::Kinds::Apart("port-restricted", "full-cone"),
        &[],
    );
    lab.start_servers();
    lab.a.start();
    lab.b.start();
    lab.add_servers();
    lab.b.ctl_ok(&["peer", "add", "a", lab.a.key()]);
    let stranger = Stranger::start(&lab);
    let id: Value = serde_json::from_str(&stranger.ctl(&["id", "--json"]).ok()).unwrap();
    lab.a
        .ctl_ok(&["peer", "add", "laptop", id["id"].as_str().unwrap()]);

    let examples = examples();
    let documented: BTreeSet<_> = examples
        .iter()
        .map(|(command, _)| command.as_str())
        .collect();
    assert_eq!(documented, BTreeSet::from(COMMANDS));
    let mut typed = 0;
    for command in COMMANDS {
        let (_, lines) = examples.iter().find(|(name, _)| name == command).unwrap();
        for line in lines {
            // What stands behind a wide gap says what it does.
            let line = line.split("   ").next().unwrap().trim();
            // Each plain WireGuard peer has a key of its own.
            let wireguard = if line.contains(" phone ") {
                "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg="
            } else {
                "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
            };
            let line = line
                .replace("punch1…", lab.b.key())
                .replace("< code.txt", "<<< acorn-window-maple-radio-river-zebra")
                .replace("BASE64", wireguard);
            let alone = matches!(command, "invite" | "join");
            let endless = command == "events" || line == "punchctl ping db" || alone;
            let output = type_in(&lab.a, &line, endless);
            let interrupted = endless && output.status == 130;
            // A line of dots is none, and an offer may have come to something by the time of the next one.
            let refused = match command {
                "answer" => output.stderr.contains("the line is not whole"),
                "offer" => {
                    let met = ["is connected already", "is just being connected"];
                    met.iter().any(|words| output.stderr.contains(words))
                }
                // Nobody is there at the other end of an invitation.
                "invite" | "join" => ["withdrawn", "no longer looking", "add: --yes"]
                    .iter()
                    .any(|end| output.stderr.contains(end)),
                _ => false,
            };
            let done = output.success() || interrupted || refused;
            assert!(done, "{line}: {output:#?}");
            typed += 1;
        }
        match command {
            "up" => assert_eq!(lab.a.peer_state("db"), "connected"),
            "peer rename" => drop(lab.a.ctl_ok(&["peer", "rename", "database", "db"])),
            _ => {}
        }
    }
    assert!(typed > 30, "{typed}");

    // What is left of it all.
    let left = |what: &str, key: &str| -> Vec<Value> {
        let list = lab.a.ctl_json(&[what]);
        let entries = list.as_array().unwrap().iter();
        entries.map(|entry| entry[key].clone()).collect()
    };
    assert_eq!(
        left("peers", "name"),
        ["laptop", "router"].map(|name| json!(name))
    );
    assert_eq!(
        left("forwards", "target"),
        [json!("127.0.0.1:80"), json!("192.168.1.1:53")]
    );
}
