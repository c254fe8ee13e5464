//! Signalling and STUN servers: names, several at once, added and removed, missing, and under pressure.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use harness::{Host, Kinds, Lab, Namespace, PATIENCE, wait_for, wait_until};
use punch_signal_protocol::{Frame, Identity, Refusal};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

const NATS: (&str, &str) = ("port-restricted", "port-restricted");

/// Both punchds run and know each other, but no server.
fn without_servers(hint: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(NATS.0, NATS.1), &[]);
    lab.a.start();
    lab.b.start();
    lab.introduce();
    lab
}

// --- names ---

#[test]
fn a_server_with_a_name_refuses_logins_meant_for_another() {
    need_lab!();
    for (name, right) in [
        ("signal.example", false),
        ("203.0.113.1", true),
        ("203.0.113.1:8080", true),
    ] {
        let mut lab = without_servers("name");
        lab.signal
            .argv
            .extend(["--name".to_owned(), name.to_owned()]);
        lab.start_signal();
        let url = format!("ws://{}:8080/", lab.env("SERVER_IPV4"));
        lab.a.ctl_ok(&["server", "add", "signal", &url]);
        if right {
            lab.a.wait_for_server(&url);
        } else {
            lab.a
                .wait_for_trouble(&url, "another name than the one dialled");
        }
    }
}

// --- several servers ---

#[test]
fn peers_that_share_one_server_of_two_connect_and_one_may_die() {
    need_lab!();
    let mut lab = without_servers("two");
    lab.start_servers();
    let mut second = lab.another_signal(8081);
    let [one, two] = [8080, 8081].map(|port| format!("ws://{}:{port}/", lab.env("SERVER_IPV4")));
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
    }
    lab.a.ctl_ok(&["server", "add", "signal", &one]);
    lab.a.ctl_ok(&["server", "add", "signal", &two]);
    lab.b.ctl_ok(&["server", "add", "signal", &two]);
    lab.connect();
    // Now they share both, and the one that they connected by dies.
    lab.b.ctl_ok(&["server", "add", "signal", &one]);
    lab.b.wait_for_server(&one);
    second.signal(nix::sys::signal::Signal::SIGKILL);
    second.wait(PATIENCE);
    for host in lab.hosts() {
        wait_until(PATIENCE, "its end is noticed", || {
            host.server(&two).unwrap()["state"] == "connecting"
        });
    }
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
    lab.a.ctl_ok(&["down", "b"]);
    lab.b.wait_for_peer_state("a", "down");
    lab.connect();
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
}

#[test]
fn servers_are_added_and_removed_while_punchd_runs_and_kept_over_restarts() {
    need_lab!();
    let mut lab = without_servers("add");
    lab.start_servers();
    let signal = format!("ws://{}:8080/", lab.env("SERVER_IPV4"));
    let stun = format!("{}:3478", lab.env("SERVER_IPV4"));
    let (bare, host) = (
        signal.trim_end_matches('/').to_owned(),
        lab.env("SERVER_IPV4").to_owned(),
    );
    lab.a.ctl_ok(&["server", "add", "signal", &bare]);
    lab.a.ctl_ok(&["server", "add", "stun", &host]);
    for _ in 0..2 {
        lab.a.wait_for_server(&signal);
        lab.a.wait_for_server(&stun);
        assert_eq!(lab.a.server(&signal).unwrap()["fixed"], false);
        lab.a.restart();
    }
    // Another way to write the same address is the same server.
    lab.a.ctl(&["server", "add", "signal", &signal]);
    let all = lab.a.ctl_json(&["server", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all:#}");
    lab.a.ctl_ok(&["server", "remove", "signal", &signal]);
    lab.a.ctl_ok(&["server", "remove", "stun", &stun]);
    assert_eq!(lab.a.ctl_json(&["server", "list"]), json!([]));
    let gone = lab.a.ctl_refused(&["server", "remove", "signal", &signal]);
    assert!(gone.contains("is not in use"), "{gone}");
    // Gone means gone: b, who is still there, does not find a any more.
    lab.b.ctl_ok(&["server", "add", "signal", &bare]);
    lab.b.wait_for_signal();
    let waits = lab.b.ctl_refused(&["up", "a", "--timeout", "1"]);
    assert!(
        waits.contains("not online at any signalling server"),
        "{waits}"
    );
    lab.a.restart();
    assert_eq!(lab.a.ctl_json(&["server", "list"]), json!([]));
}

#[test]
fn servers_of_the_configuration_are_fixed() {
    need_lab!();
    let mut lab = without_servers("fix");
    lab.start_servers();
    let signal = format!("ws://{}:8080/", lab.env("SERVER_IPV4"));
    let stun = format!("{}:3478", lab.env("SERVER_IPV4"));
    lab.a.configure(&format!(
        "[signal]\nservers = [\"{signal}\"]\n[stun]\nservers = [\"{stun}\"]\n"
    ));
    lab.a.restart();
    for (kind, address) in [("signal", &signal), ("stun", &stun)] {
        lab.a.wait_for_server(address);
        assert_eq!(lab.a.server(address).unwrap()["fixed"], true);
        // Added by hand too, it stays fixed, and is there once.
        lab.a.ctl(&["server", "add", kind, address]);
        let refused = lab.a.ctl_refused(&["server", "remove", kind, address]);
        assert!(refused.contains("punchd.toml"), "{refused}");
    }
    let all = lab.a.ctl_json(&["server", "list"]);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all:#}");
}

#[test]
fn addresses_that_cannot_be_are_refused() {
    need_lab!();
    let mut lab = Lab::bare("bad", Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    for address in [
        "",
        "203.0.113.1",
        "http://203.0.113.1",
        "wss://",
        "ws://:80",
        "ws://host:0",
        "ws://host:65536",
        "ws://host:x",
        "ws://user@host",
        "ws://[2001:db8::1",
        "ws://ho st",
        "ws://host/\n",
        "stun.example",
    ] {
        let refused = lab.a.ctl(&["server", "add", "signal", address]);
        assert!(!refused.success(), "signal {address:?}: {refused:?}");
    }
    for address in [
        "",
        ":3478",
        "host:0",
        "host:65536",
        "ws://host",
        "2001:db8::1:3478:x",
        "ho st",
        "host/path",
    ] {
        let refused = lab.a.ctl(&["server", "add", "stun", address]);
        assert!(!refused.success(), "stun {address:?}: {refused:?}");
    }
    assert_eq!(lab.a.ctl_json(&["server", "list"]), json!([]));
}

#[test]
fn two_machines_with_one_identity_do_not_fight() {
    need_lab!();
    let mut lab = Lab::bare("twin", Kinds::Apart(NATS.0, NATS.1), &[]);
    lab.start_servers();
    lab.a.start();
    lab.a
        .ctl_ok(&["server", "add", "signal", &lab.signal_url("a")]);
    lab.a.wait_for_signal();
    // A state directory that was copied, as with a cloned virtual machine.
    fs::create_dir(&lab.b.state_dir).unwrap();
    for file in ["identity.key", "state.json"] {
        fs::copy(lab.a.state_dir.join(file), lab.b.state_dir.join(file)).unwrap();
    }
    lab.b.start();
    let logins = |host: &Host| {
        let log = host.punchd.log_text();
        log.matches("connected to ws://").count() - log.matches("not connected to ws://").count()
    };
    wait_until(PATIENCE, "the twin logs in", || logins(&lab.b) > 0);
    let url = format!("ws://{}:8080/", lab.env("SERVER_IPV4"));
    wait_until(PATIENCE, "one of them says what is wrong", || {
        lab.hosts().iter().any(|host| {
            let trouble = host.server(&url).unwrap()["trouble"].clone();
            trouble
                .as_str()
                .is_some_and(|text| text.contains("the same identity has connected from elsewhere"))
        })
    });
    std::thread::sleep(Duration::from_secs(6));
    let (a, b) = (logins(&lab.a), logins(&lab.b));
    eprintln!("logins in 6 s: {a} and {b}");
    assert!(a + b <= 20, "{a} and {b} logins in a few seconds");
}

// --- STUN servers that are not there ---

#[test]
fn stun_servers_that_are_not_there_delay_nobody() {
    need_lab!();
    let mut lab = Lab::bare("nost", Kinds::SameLan("port-restricted"), &[]);
    lab.start_servers();
    for host in ["a", "b"] {
        // Names are asked of somebody who never answers: a look-up takes many seconds.
        let folder = format!("/etc/netns/{}", lab.namespace(host).namespace);
        fs::create_dir_all(&folder).unwrap();
        fs::write(format!("{folder}/resolv.conf"), "nameserver 198.18.0.53\n").unwrap();
    }
    for host in [&mut lab.a, &mut lab.b] {
        // Nobody is at this address, and this name has nobody. `server add` would wait for each of them.
        host.configure("[stun]\nservers = [\"203.0.113.77\", \"stun.example\"]\n");
        host.start();
    }
    lab.introduce();
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "signal", &lab.signal_url(&host.name)]);
        host.wait_for_signal();
    }
    lab.connect();
    assert_eq!(lab.a.peer("b")["path"]["kind"], "host");
    // A look-up that is over has another trouble than the wait for it.
    let is_being_looked_up = |name: &Value| {
        let trouble = name["trouble"].as_str();
        trouble.is_none_or(|trouble| trouble.starts_with("no answer for"))
    };
    for host in lab.hosts() {
        let name = host.server("stun.example:3478").unwrap();
        assert!(
            is_being_looked_up(&name),
            "connected before the look-up was over: {name}"
        );
        // A server that does answer is not kept waiting by the one that does not.
        let stun = format!("{}:3478", lab.env("SERVER_IPV4"));
        host.ctl_ok(&["server", "add", "stun", &stun]);
        host.wait_for_server(&stun);
        let name = host.server("stun.example:3478").unwrap();
        assert!(
            is_being_looked_up(&name),
            "answered before the look-up was over: {name}"
        );
    }
}

// --- pressure ---

fn dial(from: &Namespace, lab: &Lab) -> WebSocket<TcpStream> {
    let address = format!("{}:8080", lab.env("SERVER_IPV4"));
    let stream = from.connect_tcp(address.parse().unwrap()).unwrap();
    tungstenite::client(format!("ws://{address}/"), stream)
        .unwrap()
        .0
}

fn next_frame(socket: &mut WebSocket<TcpStream>) -> Option<Frame> {
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => return Some(Frame::decode(&bytes).unwrap()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

#[test]
fn healthz_answers_over_plain_http() {
    need_lab!();
    let mut lab = Lab::bare("heal", Kinds::Apart("open", "open"), &[]);
    lab.start_signal();
    let address = format!("{}:8080", lab.env("SERVER_IPV4")).parse().unwrap();
    for _ in 0..3 {
        let mut stream = lab.a.connect_tcp(address).unwrap();
        let request = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }
}

#[test]
fn a_client_that_talks_nonsense_is_closed_and_told_why() {
    need_lab!();
    let mut lab = Lab::bare("nons", Kinds::Apart("open", "open"), &[]);
    lab.start_signal();
    let nonsense = [
        Message::Binary(vec![0xff; 40].into()),
        Message::Binary(vec![].into()),
        Message::text("hello"),
        Message::Binary(Frame::Welcome.encode().into()),
        // A login that proves nothing.
        Message::Binary([&[1, 1][..], &[9; 96]].concat().into()),
    ];
    for message in nonsense {
        let mut socket = dial(&lab.a, &lab);
        assert!(matches!(next_frame(&mut socket), Some(Frame::Challenge(_))));
        socket.send(message.clone()).unwrap();
        let Some(Frame::Refused(why)) = next_frame(&mut socket) else {
            panic!("{message:?} was not refused");
        };
        assert!(
            matches!(why, Refusal::BadFrame | Refusal::BadProof),
            "{message:?}: {why}"
        );
        assert_eq!(next_frame(&mut socket), None, "closed");
    }
    // Longer than any frame, and bytes that are no WebSocket: no answer is owed, but the end comes.
    let mut socket = dial(&lab.a, &lab);
    assert!(next_frame(&mut socket).is_some());
    let _ = socket.send(Message::Binary(vec![1; 1 << 20].into()));
    while next_frame(&mut socket).is_some() {}
    let mut socket = dial(&lab.a, &lab);
    assert!(next_frame(&mut socket).is_some());
    let _ = socket.get_mut().write_all(&[0xff; 4000]);
    while next_frame(&mut socket).is_some() {}
    assert!(lab.signal.is_running());
}

#[test]
fn a_client_that_sends_too_much_is_closed_and_disturbs_nobody() {
    need_lab!();
    let mut lab = without_servers("fast");
    lab.start_servers();
    let identity = Identity::from_seed(&[5; 32]);
    let mut socket = dial(&lab.a, &lab);
    let Some(Frame::Challenge(nonce)) = next_frame(&mut socket) else {
        panic!("a challenge is the first word");
    };
    let authority = format!("{}:8080", lab.env("SERVER_IPV4"));
    let proof = Frame::proof(&identity, &nonce, &authority);
    socket.send(Message::Binary(proof.encode().into())).unwrap();
    assert_eq!(next_frame(&mut socket), Some(Frame::Welcome));
    // Read before the flood, so that whatever is read last after it is the server's word on the flood.
    let told = next_frame(&mut socket);
    assert!(
        matches!(told, Some(Frame::ServerCapabilities(_))),
        "{told:?}"
    );
    lab.add_servers();
    let to = lab.b.key().parse().unwrap();
    let envelope = Frame::Send {
        to,
        envelope: vec![7; 1000],
    };
    for _ in 0..2000 {
        if socket
            .send(Message::Binary(envelope.encode().into()))
            .is_err()
        {
            break;
        }
    }
    // What b's queue had no room for comes back; the server may be gone before its last word is read.
    let mut last = None;
    while let Some(frame) = next_frame(&mut socket) {
        last = Some(frame);
    }
    let expected = matches!(
        last,
        None | Some(Frame::Refused(Refusal::TooFast) | Frame::Unreachable { .. })
    );
    assert!(expected, "{last:?}");
    lab.connect();
    let seen = lab.b.dropped("stranger");
    assert!((1..=300).contains(&seen), "{seen} envelopes of a stranger");
}

#[test]
fn connections_that_never_log_in_keep_nobody_out() {
    need_lab!();
    let mut lab = without_servers("many");
    // The server may have fewer descriptors than there are strangers.
    let argv = std::mem::take(&mut lab.signal.argv);
    lab.signal.argv = ["prlimit", "--nofile=256"].map(str::to_owned).into();
    lab.signal.argv.extend(argv);
    lab.start_signal();
    // Whatever becomes of each: open, closed, refused.
    let address = format!("{}:8080", lab.env("SERVER_IPV4")).parse().unwrap();
    let mut silent = Vec::new();
    let mut unproven = Vec::new();
    for _ in 0..100 {
        silent.extend(lab.b.connect_tcp(address));
        let stream = lab.b.connect_tcp(address);
        stream
            .as_ref()
            .unwrap()
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let url = format!("ws://{address}/");
        unproven.extend(
            stream
                .ok()
                .and_then(|stream| tungstenite::client(url, stream).ok()),
        );
    }
    for _ in 0..400 {
        silent.extend(lab.b.connect_tcp(address));
    }
    lab.a
        .ctl_ok(&["server", "add", "signal", &lab.signal_url("a")]);
    lab.a.wait_for_signal();
    let open = wait_for(PATIENCE, "it has descriptors", || {
        fs::read_dir(format!("/proc/{}/fd", lab.signal.pid())).ok()
    });
    eprintln!(
        "{} strangers; descriptors of punch-signal: {}",
        silent.len() + unproven.len(),
        open.count()
    );
}
