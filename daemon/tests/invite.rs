//! Pairing by a code: `punchctl invite` here, `punchctl join` there.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::{Child, Echo, Host, Kinds, Lab, PATIENCE, wait_for, wait_until};
use nix::sys::signal::Signal;
use punch_signal_protocol::Identity;
use serde_json::Value;

const NATS: (&str, &str) = ("port-restricted", "port-restricted");

/// Both punchds run, and only a knows the servers; neither knows the other.
fn only_a_has_servers(hint: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(NATS.0, NATS.1), &[]);
    lab.a.start();
    lab.b.start();
    lab.start_servers();
    let url = url(&lab);
    lab.a.ctl_ok(&["server", "add", "signal", &url]);
    lab.a
        .ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
    lab
}

fn url(lab: &Lab) -> String {
    format!("ws://{}:8080", lab.env("SERVER_IPV4"))
}

/// An invitation that waits.
struct Invitation {
    child: Child,
    code: String,
    log: std::path::PathBuf,
}

impl Invitation {
    fn open(host: &Host, arguments: &[&str]) -> Self {
        let mut argv = host.ctl_argv();
        argv.push("invite".to_owned());
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let argv: Vec<_> = argv.iter().map(String::as_str).collect();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("invite-{}-{number}", host.name);
        let log = host.net.dir.join(format!("{name}.log"));
        let child = host.net.spawn(&name, &argv);
        let code = wait_for(PATIENCE, "a code is printed", || {
            let text = fs::read_to_string(&log).ok()?;
            let rest = text.split("punchctl join ").nth(1)?;
            Some(rest.split_once('\n')?.0.trim().to_owned())
        });
        Self { child, code, log }
    }

    /// Waits for its end; what it has said.
    fn end(mut self) -> (bool, String) {
        let status = self.child.wait(PATIENCE);
        (status.success(), fs::read_to_string(self.log).unwrap())
    }
}

/// What nothing changes: who is known, and which servers.
fn configuration(host: &Host) -> [Value; 2] {
    let names = |value: Value| {
        let list = value.as_array().unwrap().iter();
        list.map(|one| one["name"].clone()).collect::<Value>()
    };
    [
        names(host.ctl_json(&["peers"])),
        host.ctl_json(&["forwards"]),
    ]
}

#[test]
fn three_commands_lead_to_a_forward() {
    need_lab!();
    let lab = only_a_has_servers("three");
    let _echo = Echo::start(&lab.a, "127.0.0.1:5432");
    let invitation = Invitation::open(&lab.a, &["--forward", "tcp:5432", "--name", "b"]);
    assert!(
        invitation.code.ends_with(&format!("@{}", url(&lab))),
        "{}",
        invitation.code
    );
    let code = invitation.code.clone();

    // Without a terminal, nobody can be asked whether the server may be used.
    let asks = lab.b.ctl_refused(&["join", &code]);
    assert!(asks.contains("add: --yes"), "{asks}");
    assert_eq!(
        configuration(&lab.b),
        [Value::Array(vec![]), Value::Array(vec![])]
    );

    let joined = lab.b.ctl_ok(&["join", "--yes", "--name", "a", &code]);
    assert!(joined.contains("paired with a (punch1"), "{joined}");
    assert!(joined.contains("shares tcp 5432"), "{joined}");
    let (done, said) = invitation.end();
    assert!(done && said.contains("b has joined (punch1"), "{said}");
    assert!(
        said.contains("it may reach tcp 5432 of this machine"),
        "{said}"
    );

    lab.b.expect_echo((lab.a.ipv6(), 5432).into());
    let servers = lab.b.ctl_json(&["server", "list"]);
    assert_eq!(servers.as_array().unwrap().len(), 2, "{servers:#}");
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        assert_eq!(host.peer(peer)["up"], true);
        assert_eq!(host.peer(peer)["host"], false);
    }
    let forwards = lab.a.ctl_json(&["forwards"]);
    assert_eq!(forwards[0]["peers"], serde_json::json!(["b"]));
    // Neither code nor word of it is in a log or in the state.
    let words: Vec<_> = code.split('@').next().unwrap().split('-').collect();
    for host in lab.hosts() {
        let log = host.punchd.log_text();
        let state = host.state_file().unwrap_or_default();
        let both = words.windows(2).map(|two| two.join("-"));
        for two in both {
            assert!(!log.contains(&two) && !state.contains(&two), "{two}");
        }
    }
    // Both find each other again by themselves.
    let mut lab = lab;
    lab.a.restart();
    lab.b.restart();
    lab.a.wait_for_peer_state("b", "connected");
}

#[test]
fn a_code_is_used_once_and_its_user_may_repeat() {
    need_lab!();
    let lab = only_a_has_servers("once");
    let invitation = Invitation::open(&lab.a, &[]);
    let code = invitation.code.clone();
    lab.b.ctl_ok(&["join", "--yes", &code]);
    assert!(invitation.end().0);
    let known = configuration(&lab.a);
    // The welcome may have been lost: the same machine is welcome again, and is known by the same name.
    lab.b.ctl_ok(&["join", "--yes", &code]);
    assert_eq!(configuration(&lab.a), known);
    // A third machine comes too late.
    let mut home = lab.home();
    home.start();
    let late = home.ctl_refused(&["join", "--yes", &code]);
    assert!(
        late.contains("another machine has used this code"),
        "{late}"
    );
    assert_eq!(home.ctl_json(&["peers"]), Value::Array(vec![]));
    assert_eq!(configuration(&lab.a), known);
}

/// Neither knows a server, and none runs.
#[test]
fn in_one_network_no_server_is_needed() {
    need_lab!();
    let mut lab = Lab::bare("lan", Kinds::SameLan("port-restricted"), &[]);
    lab.a.start();
    lab.b.start();
    let _echo = Echo::start(&lab.a, "127.0.0.1:5432");
    let invitation = Invitation::open(&lab.a, &["--forward", "tcp:5432", "--name", "b"]);
    assert!(!invitation.code.contains('@'), "{}", invitation.code);
    lab.b.ctl_ok(&["join", "--name", "a", &invitation.code]);
    assert!(invitation.end().0);
    lab.b.expect_echo((lab.a.ipv6(), 5432).into());
    for host in lab.hosts() {
        assert_eq!(host.ctl_json(&["server", "list"]), Value::Array(vec![]));
    }
}

/// No server anywhere, and the two are in networks of their own.
#[test]
fn over_the_dht_no_server_is_needed() {
    need_lab!();
    let mut lab = Lab::bare("dhti", Kinds::Apart(NATS.0, NATS.1), &[]);
    let (_dht, node) = lab.dht(30);
    lab.stun.start();
    let config = format!(
        "[dht]\nbootstrap = [\"{node}\"]\n[stun]\nservers = [\"{}\"]\n",
        lab.env("SERVER_IPV4")
    );
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(&config);
        host.start();
        host.wait_for_server(&node);
    }
    let _echo = Echo::start(&lab.a, "127.0.0.1:5432");
    let invitation = Invitation::open(&lab.a, &["--forward", "tcp:5432", "--name", "b"]);
    assert!(!invitation.code.contains('@'), "{}", invitation.code);
    let began = Instant::now();
    let join = ["join", "--timeout", "240", "--name", "a", &invitation.code];
    lab.b.ctl_ok(&join);
    eprintln!("from join to connected over the DHT: {:?}", began.elapsed());
    assert!(invitation.end().0);
    lab.b.expect_echo((lab.a.ipv6(), 5432).into());
}

#[test]
fn codes_that_lead_nowhere_are_told_apart() {
    need_lab!();
    let lab = only_a_has_servers("nowhere");
    let at = format!("@{}", url(&lab));
    for (code, words) in [
        (
            "acorn-window-maple-radio-river-zebrq".to_owned() + &at,
            "did you mean zebra?",
        ),
        (
            "acorn-window-maple-radio-river".to_owned() + &at,
            "this one has 5: 1 is missing",
        ),
        (
            "acorn window maple radio river zebra zebra".to_owned() + &at,
            "1 is too many",
        ),
        ("punch2-acorn-window".to_owned() + &at, "of another version"),
        (
            "acorn-window-maple-radio-river-zebra@ws://".to_owned(),
            "is no server",
        ),
    ] {
        let said = lab.b.ctl_refused(&["join", "--yes", &code]);
        assert!(said.contains(words), "{code}: {said}");
    }
    let bare = [
        "join",
        "--timeout",
        "5",
        "acorn-window-maple-radio-river-zebra",
    ];
    let nobody = lab.b.ctl_refused(&bare);
    assert!(nobody.contains("nobody answers to this code"), "{nobody}");
    let invented = format!("acorn-window-maple-radio-river-zebra{at}");
    let nobody = lab
        .b
        .ctl_refused(&["join", "--yes", "--timeout", "5", &invented]);
    assert!(nobody.contains("nobody answers to this code"), "{nobody}");
    assert_eq!(lab.b.ctl_json(&["server", "list"]), Value::Array(vec![]));

    // Its time is over.
    let expired = Invitation::open(&lab.a, &["--expires", "10s"]);
    let code = expired.code.clone();
    let (done, said) = expired.end();
    assert!(
        !done && said.contains("nobody has used the code in time"),
        "{said}"
    );
    let late = lab.b.ctl_refused(&["join", "--yes", &code]);
    assert!(late.contains("this code has expired"), "{late}");

    // It was withdrawn.
    let mut code = String::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let withdrawn = Invitation::open(&lab.a, &[]);
        code.clone_from(&withdrawn.code);
        withdrawn.child.signal(signal);
        let (done, said) = withdrawn.end();
        assert!(!done && said.contains("withdrawn"), "{signal}: {said}");
    }
    let late = lab
        .b
        .ctl_refused(&["join", "--yes", "--timeout", "5", &code]);
    assert!(late.contains("nobody answers to this code"), "{late}");
    assert_eq!(configuration(&lab.a), configuration(&lab.b));
}

#[test]
fn oneself_names_that_are_taken_and_both_at_once() {
    need_lab!();
    let lab = only_a_has_servers("names");
    let first = Invitation::open(&lab.a, &[]);
    let own = lab.a.ctl_refused(&["join", "--yes", &first.code]);
    assert!(own.contains("this machine's own invitation"), "{own}");

    // Both invite, and one of them joins all the same.
    let url = url(&lab);
    lab.b.ctl_ok(&["server", "add", "signal", &url]);
    let stranger = Identity::from_seed(&[9; 32]).id().to_string();
    lab.b.ctl_ok(&["peer", "add", "db", &stranger]);
    let taken = lab.b.ctl_refused(&["join", "--name", "db", &first.code]);
    assert!(
        taken.contains("a peer called db exists already") && taken.contains("--name db-2"),
        "{taken}"
    );
    let taken = lab.b.ctl_refused(&["invite", "--name", "db"]);
    assert!(taken.contains("--name db-2"), "{taken}");
    let mut second = Invitation::open(&lab.b, &["--name", "a"]);
    lab.b.ctl_ok(&["join", "--yes", "--name", "a", &first.code]);
    assert!(first.end().0);
    second.child.signal(Signal::SIGINT);
    second.child.wait(PATIENCE);

    // Ports that are shared otherwise.
    lab.a.ctl_ok(&["forward", "tcp", "8000-8010"]);
    let shared = lab.a.ctl_refused(&["invite", "--forward", "tcp:8010-8011"]);
    assert!(shared.contains("is forwarded already"), "{shared}");
}

#[test]
fn a_server_that_is_away_meanwhile_delays_and_nothing_else() {
    need_lab!();
    let mut lab = only_a_has_servers("away");
    let invitation = Invitation::open(&lab.a, &["--name", "b"]);
    lab.signal.kill();
    // Nobody else on the machine is to read the code among the arguments of programs.
    let join = lab.b.ctl_argv().join(" ") + " join --yes --name a -";
    let piped = format!("echo {} | {join}", invitation.code);
    let mut joining = lab.b.net.spawn("join", &["sh", "-c", &piped]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(joining.is_running());
    lab.start_signal();
    assert!(joining.wait(PATIENCE).success());
    assert!(invitation.end().0);
    lab.a.wait_for_peer_state("b", "connected");
}

/// How long `join` takes to the connection: printed, and no verdict.
#[test]
fn how_long_it_takes() {
    need_lab!();
    let runs = harness::number_from_env("PUNCH_RUNS", 2);
    let lab = only_a_has_servers("time");
    let mut times = Vec::new();
    for _ in 0..runs {
        let invitation = Invitation::open(&lab.a, &["--name", "b"]);
        let began = Instant::now();
        lab.b
            .ctl_ok(&["join", "--yes", "--name", "a", &invitation.code]);
        times.push(began.elapsed());
        assert!(invitation.end().0);
        lab.a.ctl_ok(&["peer", "remove", "b"]);
        lab.b.ctl_ok(&["peer", "remove", "a"]);
        wait_until(PATIENCE, "the peers are gone", || {
            lab.hosts()
                .iter()
                .all(|host| host.ctl_json(&["peers"]) == Value::Array(vec![]))
        });
    }
    times.sort();
    eprintln!("from join to connected: {times:?}");
}
