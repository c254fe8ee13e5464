//! What punchctl says while it waits, after a change, and on terminals of several widths; threads play punchd.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

#[path = "common/punchd.rs"]
mod punchd;

use std::process::Output;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use clap::CommandFactory;
use punch_api::{Budget, BudgetView, Obstacle, PeerState, PlainView, WhyView};
use punchctl::arguments::Arguments;
use punchd::Punchd;

const KEY: &str = "punch132yw8ht5p8cetl2jmvknewjawt9xwzdlrk2pyxlnwjyqrdq0dawqxjt27s";
const SILENT: &str = "db is online but does not answer; most likely it has not added this machine.";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn peer(state: &str) -> String {
    format!(
        r#"{{"name":"db","id":null,"wireguard":"","ipv4":"100.104.246.93","ipv6":"fd70:756e:6368::2","up":true,"host":false,"state":"{state}","path":null,"received_bytes":0,"sent_bytes":0,"last_handshake_s":null,"note":null}}"#
    )
}

fn why(obstacle: Option<Obstacle>, summary: &str, advice: &str) -> WhyView {
    WhyView {
        peer: "db".parse().unwrap(),
        state: PeerState::Connecting.into(),
        path: None,
        summary: summary.to_owned(),
        refused: None,
        obstacle: obstacle.map(Into::into),
        plain: None,
        mine: None,
        theirs: None,
        steps: Vec::new(),
        failures: 0,
        retry_in_s: None,
        budget: BudgetView {
            name: Budget::Normal.into(),
            mappings: 4096,
            packets_per_s: 1000,
            packets_per_address: 12_000,
            duration_s: 12,
        },
        advice: vec![advice.to_owned()],
    }
}

/// A punchd whose peer does not connect: `up` is answered with this state once `why` was asked as often as there are answers.
fn reluctant(answers: Vec<WhyView>, state: &'static str) -> Punchd {
    let asked = AtomicU32::new(0);
    let enough = u32::try_from(answers.len()).unwrap();
    Punchd::new(move |request| {
        if request == "POST /v1/peers/db/up" {
            while asked.load(Ordering::Relaxed) < enough {
                std::thread::sleep(Duration::from_millis(5));
            }
            return (200, peer(state));
        }
        if request == "GET /v1/servers" {
            return (200, "[]".to_owned());
        }
        assert_eq!(request, "GET /v1/peers/db/why");
        let index = asked.fetch_add(1, Ordering::Relaxed).min(enough - 1);
        let view = &answers[usize::try_from(index).unwrap()];
        (200, serde_json::to_string(view).unwrap())
    })
}

#[test]
fn up_says_what_is_known_each_time_it_changes_and_the_reason_at_the_end() {
    let offline = why(Some(Obstacle::Offline), "db is not online.", "Start it.");
    let silent = why(
        Some(Obstacle::Silent),
        SILENT,
        "On db: punchctl peer add NAME punch1…",
    );
    let punchd = reluctant(vec![offline, silent.clone(), silent], "connecting");
    let output = punchd.run(&["up", "db", "--timeout", "7"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        format!(
            "db is not online.\n{SILENT}\npunchctl: not connected to db after 7 s; punchd keeps trying.\n  {SILENT}\n  On db: punchctl peer add NAME punch1…\n"
        )
    );
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn up_without_a_signalling_server_ends_before_its_time() {
    let sentence = "This machine has no signalling server, so db cannot be called.";
    // One that is not reached just now may be back soon: that is said, and waited for a little.
    let cases = [
        (Obstacle::NoServer, String::new()),
        (Obstacle::ServersUnreachable, format!("{sentence}\n")),
    ];
    for (obstacle, meanwhile) in cases {
        let view = why(Some(obstacle), sentence, "Add one.");
        // This `up` is answered never: only the reason can end the command.
        let punchd = Punchd::new(move |request| {
            if request.starts_with("POST") {
                std::thread::sleep(Duration::from_secs(3600));
            }
            (200, serde_json::to_string(&view).unwrap())
        });
        let output = punchd.run(&["up", "db", "--timeout", "60"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stderr),
            format!(
                "{meanwhile}punchctl: not connected to db; punchd keeps trying.\n  {sentence}\n  Add one.\n"
            )
        );
    }
}

#[test]
fn up_goes_on_waiting_while_a_server_that_was_lost_comes_back() {
    let lost = why(Some(Obstacle::ServersUnreachable), "No server.", "Look.");
    let silent = why(Some(Obstacle::Silent), SILENT, "");
    let mut views = vec![lost; 6];
    views.push(silent);
    let output = reluctant(views, "connected").run(&["up", "db"]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn up_waits_longer_where_the_dht_alone_may_lead_to_the_peer_unless_it_is_told_how_long() {
    let server = |kind: &str, state: &str| {
        format!(
            r#"{{"kind":"{kind}","address":"x","proxy":null,"fixed":false,"state":"{state}","trouble":null}}"#
        )
    };
    let waits = |servers: &[String], arguments: &[&str]| {
        let servers = format!("[{}]", servers.join(","));
        let view = serde_json::to_string(&why(None, SILENT, "")).unwrap();
        let punchd = Punchd::new(move |request| {
            let answer = match request {
                "GET /v1/servers" => servers.clone(),
                "POST /v1/peers/db/up" => peer("connecting"),
                _ => view.clone(),
            };
            (200, answer)
        });
        let said = text(&punchd.run(&[&["up", "db"], arguments].concat()).stderr);
        let (_, after) = said.split_once("not connected to db after ").unwrap();
        after.split_once(" s").unwrap().0.parse::<u64>().unwrap()
    };
    let (dht, public) = (server("dht", "connected"), server("public", "connecting"));
    let [here, away] = ["connected", "connecting"].map(|state| server("signal", state));
    assert_eq!(waits(&[], &[]), 15);
    assert_eq!(waits(&[server("stun", "connected")], &[]), 15);
    assert_eq!(waits(&[dht.clone(), here], &[]), 15);
    assert_eq!(waits(std::slice::from_ref(&away), &[]), 15);
    assert_eq!(waits(std::slice::from_ref(&dht), &[]), 120);
    assert_eq!(waits(&[public, away], &[]), 120);
    assert_eq!(waits(&[dht], &["--timeout", "600"]), 600);
}

#[test]
fn up_over_a_relay_waits_a_little_for_a_direct_path_and_says_where_to_ask_why() {
    let path = |kind: &str, via: &str| {
        let path = format!(
            r#""path":{{"remote":"203.0.113.1:443","kind":"{kind}","rtt_ms":null,"via":{via}}}"#
        );
        peer("connected").replace(r#""path":null"#, &path)
    };
    let relayed = path("relayed", r#""wss://s.example:443/""#);
    let direct = path("host", "null");
    let always = {
        let relayed = relayed.clone();
        Punchd::new(move |_| (200, relayed.clone()))
    };
    let output = always.run(&["up", "db"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "connected to db at 100.104.246.93 and fd70:756e:6368::2, relayed by wss://s.example:443/; why not directly: punchctl why db\n"
    );
    let first = AtomicU32::new(0);
    let soon = Punchd::new(move |_| {
        let is_first = first.fetch_add(1, Ordering::Relaxed) < 3;
        (200, if is_first { &relayed } else { &direct }.clone())
    });
    let output = soon.run(&["up", "db"]);
    assert!(
        text(&output.stdout).ends_with("via 203.0.113.1:443 (host)\n"),
        "{output:?}"
    );
}

#[test]
fn up_that_succeeds_says_so_and_json_says_nothing_else() {
    let silent = why(Some(Obstacle::Silent), SILENT, "");
    let output = reluctant(vec![silent.clone()], "connected").run(&["up", "db"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "connected to db at 100.104.246.93 and fd70:756e:6368::2\n"
    );
    let output = reluctant(vec![silent], "connected").run(&["--json", "up", "db"]);
    assert_eq!(text(&output.stderr), "");
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
}

/// A punchd with one peer, db, that shares what it is asked to.
fn sharing(forward: &'static str) -> Punchd {
    Punchd::new(move |request| {
        let body = match request {
            "POST /v1/forwards" => forward.to_owned(),
            "GET /v1/id" => format!(
                r#"{{"id":"{KEY}","ipv4":"100.107.94.93","ipv6":"fd70:756e:6368::1","wireguard":""}}"#
            ),
            "GET /v1/peers" => format!("[{}]", peer("down")),
            other => panic!("{other}"),
        };
        (200, body)
    })
}

#[test]
fn forward_says_which_direction_it_has() {
    let local = r#"{"protocol":"tcp","ports":"5432","target":"127.0.0.1:5432","peers":["db"],"open":0,"total":0,"failed":0,"refused":0,"trouble":null}"#;
    let output = sharing(local).run(&["forward", "tcp", "5432", "--peer", "db"]);
    assert_eq!(
        text(&output.stdout),
        "shared: peers reach tcp port 5432 of THIS machine at 100.107.94.93; it leads to 127.0.0.1:5432, for peer db\n"
    );
    let range = r#"{"protocol":"udp","ports":"9000-9010","target":"127.0.0.1:9000","peers":[],"open":0,"total":0,"failed":0,"refused":0,"trouble":null}"#;
    let output = sharing(range).run(&["forward", "udp", "9000-9010"]);
    assert_eq!(
        text(&output.stdout),
        "shared: peers reach udp ports 9000-9010 of THIS machine at 100.107.94.93; they lead to 127.0.0.1:9000, for all peers\n"
    );
}

#[test]
fn forward_to_a_peer_says_that_none_is_needed() {
    for target in ["db:5432", "100.104.246.93:5432", "[fd70:756e:6368::2]:5432"] {
        let forward = format!(
            r#"{{"protocol":"tcp","ports":"5432","target":"{target}","peers":[],"open":0,"total":0,"failed":0,"refused":0,"trouble":null}}"#
        );
        let output = sharing(forward.leak()).run(&["forward", "tcp/5432", "--to", target]);
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stdout);
        let note = said.lines().nth(1).unwrap_or_default();
        assert_eq!(
            note,
            "note: to use db's port no forward is needed here: connect to 100.104.246.93:5432"
        );
    }
}

/// A forward to a target at which something went wrong so many seconds ago.
fn troubled(target: &str, message: &str, seconds: u64) -> String {
    let at = SystemTime::now() - Duration::from_secs(seconds);
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = at.as_millis();
    format!(
        r#"{{"protocol":"tcp","ports":"5432","target":"{target}","peers":[],"open":0,"total":3,"failed":3,"refused":12,"trouble":{{"at_ms":{at},"message":"{message}"}}}}"#
    )
}

#[test]
fn forward_says_at_once_that_nothing_answers_at_the_target() {
    let refused = "connection refused at 127.0.0.1:5432";
    for (target, seconds, note) in [
        (
            "127.0.0.1:5432",
            0,
            "note: nothing answers at 127.0.0.1:5432 now (connection refused)",
        ),
        (
            "localhost:5432",
            0,
            "note: nothing answers at localhost:5432 now (connection refused at 127.0.0.1:5432)",
        ),
        // The forward was there before, and so was the trouble.
        (
            "127.0.0.1:5432",
            7210,
            "note: nothing answered at 127.0.0.1:5432 when it was last tried, 2 h 0 min ago (connection refused)",
        ),
    ] {
        let forward = troubled(target, refused, seconds);
        let output = sharing(forward.leak()).run(&["forward", "tcp", "5432"]);
        assert!(output.status.success(), "{output:?}");
        let said = text(&output.stdout);
        assert!(said.starts_with("shared: "), "{said}");
        assert_eq!(said.lines().skip(1).collect::<Vec<_>>(), [note]);
    }
}

#[test]
fn forwards_show_what_failed_and_why_where_something_did() {
    let refused = "connection refused at 127.0.0.1:5432";
    let fine = r#"{"protocol":"udp","ports":"53","target":"127.0.0.1:53","peers":["db"],"open":1,"total":2,"failed":0,"refused":0,"trouble":null}"#;
    let quiet = format!("[{fine}]");
    let punchd = Punchd::new(move |_| (200, quiet.clone()));
    assert_eq!(
        punchd.on_a_terminal(200, "forwards"),
        [
            "FORWARD  TARGET        FOR  OPEN  TOTAL",
            "udp 53   127.0.0.1:53  db   1     2",
        ]
    );
    let punchd = Punchd::new(move |_| {
        let broken = troubled("127.0.0.1:5432", refused, 150);
        (200, format!("[{broken},{fine}]"))
    });
    assert_eq!(
        punchd.on_a_terminal(200, "forwards"),
        [
            "FORWARD   TARGET          FOR        OPEN  TOTAL  FAILED  REFUSED  TROUBLE",
            "tcp 5432  127.0.0.1:5432  all peers  0     3      3       12       connection refused at 127.0.0.1:5432, 2 min ago",
            "udp 53    127.0.0.1:53    db         1     2",
        ]
    );
    let rows = text(&punchd.run(&["forwards"]).stdout);
    assert_eq!(
        rows,
        format!(
            "tcp 5432\t127.0.0.1:5432\tall peers\t0\t3\t3\t12\t{refused}, 2 min ago\nudp 53\t127.0.0.1:53\tdb\t1\t2\t\t\t\n"
        )
    );
}

/// `server add` of a server that is like this afterwards.
fn add_server(kind: &str, address: &str, state: &'static str, trouble: &'static str) -> Output {
    let view = |state: &str, trouble: &str| {
        let trouble = match trouble {
            "" => "null".to_owned(),
            text => format!("\"{text}\""),
        };
        format!(
            r#"{{"kind":"{kind}","address":"{address}","fixed":false,"state":"{state}","trouble":{trouble}}}"#
        )
    };
    let (added, after) = (view("connecting", ""), view(state, trouble));
    let punchd = Punchd::new(move |request| {
        let body = match request {
            "POST /v1/servers" => added.clone(),
            "GET /v1/servers" => format!("[{after}]"),
            other => panic!("{other}"),
        };
        (200, body)
    });
    punchd.run(&["server", "add", kind, address])
}

#[test]
fn server_add_tells_whether_the_server_answers() {
    let output = add_server("signal", "ws://203.0.113.1:8080/", "connected", "");
    assert_eq!(
        text(&output.stdout),
        "signal server ws://203.0.113.1:8080/ is in use: it answers\n"
    );
    let output = add_server(
        "signal",
        "ws://203.0.113.1:80/",
        "connecting",
        "refused on port 80",
    );
    assert!(output.status.success(), "it is added all the same");
    assert_eq!(
        text(&output.stdout),
        "signal server ws://203.0.113.1:80/ is added, but not connected: refused on port 80; punch-signal listens on port 8080 unless told otherwise\n"
    );
    let output = add_server(
        "signal",
        "ws://203.0.113.1:8080/",
        "connecting",
        "refused on port 8080",
    );
    assert_eq!(
        text(&output.stdout),
        "signal server ws://203.0.113.1:8080/ is added, but not connected: refused on port 8080\n"
    );
    let output = add_server(
        "stun",
        "203.0.113.1:3478",
        "connecting",
        "no answer for 4 s",
    );
    assert_eq!(
        text(&output.stdout),
        "stun server 203.0.113.1:3478 is added, but not connected: no answer for 4 s\n"
    );
}

#[test]
fn peer_remove_says_what_is_no_longer_shared() {
    let gone = AtomicU32::new(0);
    let punchd = Punchd::new(move |request| {
        let all = r#"{"protocol":"tcp","ports":"80","target":"127.0.0.1:80","peers":[],"open":0,"total":0,"failed":0,"refused":0,"trouble":null}"#;
        let own = r#"{"protocol":"tcp","ports":"5432","target":"127.0.0.1:5432","peers":["db"],"open":0,"total":0,"failed":0,"refused":0,"trouble":null}"#;
        let body = match request {
            "DELETE /v1/peers/db" => {
                gone.store(1, Ordering::Relaxed);
                "null".to_owned()
            }
            _ if gone.load(Ordering::Relaxed) == 1 => format!("[{all}]"),
            _ => format!("[{all},{own}]"),
        };
        (200, body)
    });
    let output = punchd.run(&["peer", "rm", "db"]);
    assert_eq!(
        text(&output.stdout),
        "db is no longer a peer; no longer shared: tcp 5432\n"
    );
}

#[test]
fn ping_of_a_peer_that_is_not_connected_asks_once() {
    for (status, code) in [(422, "unavailable"), (404, "not_found")] {
        let punchd = Punchd::new(move |_| {
            let body = format!(r#"{{"error":{{"code":"{code}","message":"db is connecting"}}}}"#);
            (status, body)
        });
        let output = punchd.run(&["ping", "db"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stderr), "punchctl: db is connecting\n");
        assert_eq!(punchd.asked(), ["POST /v1/peers/db/ping"]);
    }
}

#[test]
fn ping_tells_when_another_path_serves() {
    let count = AtomicUsize::new(0);
    let punchd = Punchd::new(move |_| {
        let path = match count.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => {
                r#"{"remote":"192.0.2.1:443","kind":"relayed","rtt_ms":9.0,"via":"wss://relay.example/"}"#
            }
            2 => r#"{"remote":"192.0.2.7:7000","kind":"tcp","rtt_ms":2.0,"via":null}"#,
            _ => {
                r#"{"remote":"192.0.2.7:7000","kind":"server_reflexive","rtt_ms":2.0,"via":null,"because":"a more direct path was found"}"#
            }
        };
        let body = format!(r#"{{"address":"100.107.94.93","rtt_ms":2.5,"path":{path}}}"#);
        (200, body)
    });
    let output = punchd.run(&["ping", "db", "-c", "4"]);
    let answer = "db (100.107.94.93) answers in 2.50 ms";
    assert_eq!(
        text(&output.stdout),
        format!(
            "{answer}, relayed by wss://relay.example/\n{answer}, relayed by wss://relay.example/\n\
             packets to db go directly over TCP to 192.0.2.7:7000 now, no longer over the relay wss://relay.example/\n\
             {answer}, via 192.0.2.7:7000 over TCP\n\
             packets to db go directly to 192.0.2.7:7000 now, no longer directly over TCP to 192.0.2.7:7000: a more direct path was found\n\
             {answer}, via 192.0.2.7:7000\n"
        )
    );
}

#[test]
fn why_of_a_plain_peer_tells_its_tunnel_and_what_its_configuration_must_say() {
    let view = WhyView {
        plain: Some(PlainView {
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            last_handshake_s: None,
            received_bytes: 0,
            sent_bytes: 1480,
            public_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".to_owned(),
            allowed_ips: vec![
                "100.107.94.93/32".to_owned(),
                "fd70:756e:6368::1/128".to_owned(),
            ],
        }),
        advice: Vec::new(),
        ..why(
            None,
            "db is a plain WireGuard peer at 192.0.2.1:51820 that has not answered so far.",
            "",
        )
    };
    let punchd = Punchd::new(move |_| (200, serde_json::to_string(&view).unwrap()));
    let output = punchd.run(&["why", "db"]);
    assert_eq!(
        text(&output.stdout),
        "db is a plain WireGuard peer at 192.0.2.1:51820 that has not answered so far.\n\
         tunnel  no handshake so far; 0 B received, 1.5 KB sent\n\
         \n\
         On db, the section [Peer] for this machine must have PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=, AllowedIPs = 100.107.94.93/32, fd70:756e:6368::1/128\n"
    );
}

#[test]
fn sentences_of_why_break_between_words_at_the_width_of_the_terminal() {
    let view = why(
        Some(Obstacle::Silent),
        SILENT,
        "On db: punchctl peer add NAME punch1…",
    );
    let punchd = Punchd::new(move |_| (200, serde_json::to_string(&view).unwrap()));
    assert_eq!(
        punchd.on_a_terminal(60, "why db"),
        [
            "db is online but does not answer; most likely it has not",
            "added this machine.",
            "",
            "here    not known yet",
            "there   not known yet",
            "budget  normal: at most 4096 mappings alive, 1000 packets/s,",
            "        12000 packets to one address, 12 s for a search",
            "",
            "- On db: punchctl peer add NAME punch1…",
        ]
    );
    assert_eq!(punchd.on_a_terminal(200, "why db")[0], SILENT);
}

#[test]
fn a_path_through_a_translator_is_told_as_one() {
    let path = r#"{"remote":"203.0.113.20:48084","kind":"server_reflexive","rtt_ms":12.5,"via":null,"nat64":"64:ff9b::/96","mtu":1420}"#;
    let row = peer("connected").replace(r#""path":null"#, &format!(r#""path":{path}"#));
    let peers = format!("[{row}]");
    let status = format!(
        r#"{{"version":"0.1.0","id":"{KEY}","ipv4":null,"ipv6":"fd70:756e:6368::1","wireguard":"","interface":"punch0","uptime_s":60,"network":{{"port_v4":null,"port_v6":51820,"nat64":"64:ff9b::/96","candidates":[]}},"servers":[],"peers":[],"forwards":[],"warnings":[],"strangers":[],"dropped":{{}}}}"#
    );
    let punchd = Punchd::new(move |request| match request {
        "GET /v1/status" => (200, status.clone()),
        _ => (200, peers.clone()),
    });
    let peers = text(&punchd.run(&["peers"]).stdout).to_owned();
    let right = "203.0.113.20:48084 (server-reflexive, through NAT64, 12.5 ms), MTU 1420";
    assert!(peers.contains(right), "{peers}");
    let status = text(&punchd.run(&["status"]).stdout).to_owned();
    let right = "IPv4           through this network's translator (NAT64), 64:ff9b::/96\n";
    assert!(status.contains(right), "{status}");
}

#[test]
fn peers_and_status_fit_terminals_of_several_widths() {
    let row = |name: &str| {
        format!(
            r#"{{"name":"{name}","id":null,"wireguard":"","ipv4":"100.104.246.93","ipv6":null,"up":true,"host":false,"state":"connected","path":{{"remote":"203.0.113.20:48084","kind":"server_reflexive","rtt_ms":12.5}},"received_bytes":1500000,"sent_bytes":20000,"last_handshake_s":3,"note":null}}"#
        )
    };
    let peers = format!("[{},{}]", row("db"), row("laptop"));
    let status = format!(
        r#"{{"version":"0.1.0","id":"{KEY}","ipv4":"100.64.1.2","ipv6":"fd70:756e:6368::1","wireguard":"","interface":"punch0","uptime_s":60,"network":{{"port_v4":51820,"port_v6":null,"candidates":[]}},"servers":[{{"kind":"signal","address":"ws://203.0.113.1:80/","fixed":false,"state":"connecting","trouble":"refused on port 80"}}],"peers":{peers},"forwards":[],"warnings":[],"strangers":[{{"id":"{KEY}","asked":2,"last_s":5}}],"dropped":{{}}}}"#
    );
    let punchd = Punchd::new(move |request| match request {
        "GET /v1/status" => (200, status.clone()),
        _ => (200, peers.clone()),
    });
    for columns in [200, 100] {
        assert_eq!(
            punchd.on_a_terminal(columns, "peers")[..2],
            [
                "PEER    STATE      ADDRESS         PATH                                            RECEIVED  SENT",
                "db      connected  100.104.246.93  203.0.113.20:48084 (server-reflexive, 12.5 ms)  1.5 MB    20.0 KB",
            ]
        );
    }
    assert_eq!(
        punchd.on_a_terminal(95, "peers")[..2],
        [
            "PEER    STATE      ADDRESS         PATH                                            RECEIVED",
            "db      connected  100.104.246.93  203.0.113.20:48084 (server-reflexive, 12.5 ms)  1.5 MB",
        ]
    );
    assert_eq!(
        punchd.on_a_terminal(80, "peers")[..2],
        [
            "PEER    STATE      ADDRESS         PATH",
            "db      connected  100.104.246.93  203.0.113.20:48084",
        ]
    );
    assert_eq!(
        punchd.on_a_terminal(50, "peers")[..4],
        [
            "db  connected",
            "  address   100.104.246.93",
            "  path      203.0.113.20:48084 (server-reflexive,",
            "            12.5 ms)",
        ]
    );
    let narrow = punchd.on_a_terminal(60, "status");
    for line in &narrow {
        // Keys are one word, and cannot be broken.
        let long_word = line.split(' ').any(|word| word.chars().count() > 50);
        assert!(line.chars().count() <= 60 || long_word, "{line}");
    }
    let from = narrow.iter().position(|line| line.starts_with("unknown"));
    assert_eq!(
        narrow[from.unwrap()..],
        [
            "unknown machine punch132yw8h… has called 2 times, last 5 s".to_owned(),
            "  ago; if it is yours, add it with: punchctl peer add NAME".to_owned(),
            format!("  {KEY}"),
        ]
    );
}

/// Two peers: one with a direct path, one that is relayed.
fn reached() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = u64::try_from(now.unwrap().as_millis()).unwrap();
    let peer = |name: &str, path: &str| {
        format!(
            r#"{{"name":"{name}","id":null,"wireguard":"","ipv4":"100.104.246.93","ipv6":null,"up":true,"host":false,"state":"connected","path":{path},"received_bytes":1500000,"sent_bytes":20000,"last_handshake_s":3,"note":null}}"#
        )
    };
    let direct = format!(
        r#"{{"remote":"203.0.113.20:48084","kind":"server_reflexive","rtt_ms":12.5,"via":null,"mtu":1420,"loss":{{"fraction":0.004,"samples":200,"window_s":600}},"since_ms":{},"reason":"promoted","because":"a more direct path was found"}}"#,
        now - 11_525_000
    );
    let relayed = format!(
        r#"{{"remote":"198.51.100.1:443","kind":"relayed","rtt_ms":30.0,"via":"wss://relay.example/","mtu":1380,"loss":null,"since_ms":{},"reason":"first","because":"the first path that was found","detour":{{"because":"no UDP seems to pass here","advice":["Let it out.","Or use TCP."]}}}}"#,
        now - 125_000
    );
    format!("[{},{}]", peer("db", &direct), peer("nas", &relayed))
}

#[test]
fn peers_tell_since_when_and_why_their_paths_serve_on_every_width() {
    let punchd = Punchd::new(|_| (200, reached()));
    let wide = punchd.on_a_terminal(160, "peers");
    assert_eq!(
        wide,
        [
            "PEER  STATE      ADDRESS         PATH                                                      FOR         LOSS   RECEIVED  SENT",
            "db    connected  100.104.246.93  203.0.113.20:48084 (server-reflexive, 12.5 ms), MTU 1420  3 h 12 min  0.4 %  1.5 MB    20.0 KB",
            "nas   connected  100.104.246.93  relayed by wss://relay.example/ (30.0 ms), MTU 1380       2 min              1.5 MB    20.0 KB",
            "",
            "db took this path 3 h 12 min ago: a more direct path was found; loss 0.4 % of 200 checks within 10 min",
            "nas took this path 2 min ago: the first path that was found",
            "nas is relayed by wss://relay.example/ because no UDP seems to pass here. What would help: Let it out. Or use TCP.",
        ]
    );
    assert_eq!(
        punchd.on_a_terminal(80, "peers"),
        [
            "PEER  STATE      ADDRESS         PATH                FOR         LOSS",
            "db    connected  100.104.246.93  203.0.113.20:48084  3 h 12 min  0.4 %",
            "nas   connected  100.104.246.93  relayed             2 min",
            "",
            "db took this path 3 h 12 min ago: a more direct path was found;",
            "  server-reflexive, 12.5 ms, MTU 1420, 1.5 MB received, 20.0 KB sent; loss 0.4 %",
            "  of 200 checks within 10 min",
            "nas took this path 2 min ago: the first path that was found; relayed, 30.0 ms,",
            "  MTU 1380, 1.5 MB received, 20.0 KB sent",
            "nas is relayed by wss://relay.example/ because no UDP seems to pass here. What",
            "  would help: Let it out. Or use TCP.",
        ]
    );
    let narrow = punchd.on_a_terminal(66, "peers");
    assert_eq!(
        narrow[0],
        "PEER  STATE      ADDRESS         PATH                FOR"
    );
    // A program finds it all in the row.
    let output = punchd.run(&["peers"]);
    let rows = text(&output.stdout);
    let rows: Vec<_> = rows.lines().collect();
    assert_eq!(rows.len(), 2);
    let cells: Vec<_> = rows[0].split('\t').collect();
    assert_eq!(cells[4..6], ["1.5 MB", "20.0 KB"]);
    assert_eq!(
        cells[6],
        "db took this path 3 h 12 min ago: a more direct path was found; loss 0.4 % of 200 checks within 10 min"
    );
    assert!(rows[1].contains("because no UDP seems to pass here"));
}

#[test]
fn status_names_the_ports_where_packets_come_in() {
    let status = |tcp: &str| {
        format!(
            r#"{{"version":"0.1.0","id":"{KEY}","ipv4":"100.64.1.2","ipv6":"fd70:756e:6368::1","wireguard":"","interface":"punch0","uptime_s":60,"network":{{"port_v4":51820,"port_v6":51820,{tcp}"candidates":[]}},"servers":[],"peers":[],"forwards":[],"warnings":[],"strangers":[],"dropped":{{}}}}"#
        )
    };
    let with = status(r#""tcp_port_v4":51820,"tcp_port_v6":40001,"#);
    let punchd = Punchd::new(move |_| (200, with.clone()));
    let said = text(&punchd.run(&["status"]).stdout);
    assert!(
        said.contains(
            "UDP ports      51820 (IPv4), 51820 (IPv6)\nTCP ports      51820 (IPv4), 40001 (IPv6)\n"
        ),
        "{said}"
    );
    let without = status("");
    let punchd = Punchd::new(move |_| (200, without.clone()));
    let said = text(&punchd.run(&["status"]).stdout);
    assert!(!said.contains("TCP"), "{said}");
}

#[test]
fn the_help_has_every_command_in_a_group_with_its_own_words() {
    let mut command = Arguments::command();
    let help = command.render_help().to_string();
    command.build();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let about = sub.get_about().unwrap().to_string();
        let about = about.trim_end_matches('.');
        let line = format!("  {:<11}{about}", sub.get_name());
        assert_eq!(help.matches(&line).count(), 1, "{line}\n{help}");
    }
    assert!(!help.contains("  servers "), "{help}");
}

#[test]
fn wrong_usage_says_what_was_meant() {
    let refused = |arguments: &[&str]| {
        let output = Punchd::new(|_| (500, String::new())).run(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        text(&output.stderr)
    };
    let said = refused(&["peer", "remove", "db", "-q"]);
    assert!(!said.contains("as a value"), "{said}");
    let said = refused(&["forward", "5432"]);
    assert!(said.contains("write: tcp 5432"), "{said}");
    let said = refused(&["forward", "tcp", "8080:80"]);
    assert!(said.contains("8080 --to 127.0.0.1:80"), "{said}");
}

#[test]
fn a_wireguard_key_in_the_place_of_an_identity_is_recognized() {
    let punchd = Punchd::new(|_| (500, String::new()));
    let output = punchd.run(&[
        "peer",
        "add",
        "db",
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    ]);
    let said = text(&output.stderr);
    assert!(said.contains("that is a WireGuard key"), "{said}");
    assert!(punchd.asked().is_empty());
}

fn pairing(stage: &str, peer: &str) -> String {
    format!(
        r#"{{"number":7,"role":"newcomer","stage":"{stage}","peer":{peer},"id":null,"forwards":[],"host":false,"servers":[],"expires_at_ms":7,"trouble":null}}"#
    )
}

#[test]
fn join_as_json_tells_the_pairing_and_its_status_whether_there_is_a_connection() {
    for (state, code) in [(Some("connected"), 0), (Some("connecting"), 1), (None, 1)] {
        let punchd = Punchd::new(move |request| match (request, state) {
            ("GET /v1/servers", _) => (200, "[]".to_owned()),
            ("POST /v1/joins", _) => (200, pairing("paired", r#""db""#)),
            ("POST /v1/peers/db/up", Some(state)) => (200, peer(state)),
            _ => (
                500,
                r#"{"error":{"code":"internal","message":"the disk is full"}}"#.to_owned(),
            ),
        });
        let output = punchd.run(&["--json", "join", "six", "words"]);
        assert_eq!(output.status.code(), Some(code), "{state:?}: {output:?}");
        let said = text(&output.stdout);
        let said: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!(said["pairing"]["peer"], "db", "{state:?}");
        assert_eq!(said["peer"]["state"].as_str(), state);
    }
}

#[test]
fn a_pairing_that_came_about_a_moment_before_ctrl_c_is_not_called_withdrawn() {
    for (known, says) in [
        (
            r#""db""#,
            "too late: the code was used a moment ago, and db",
        ),
        ("null", "no longer looking"),
    ] {
        let (tell, told) = std::sync::mpsc::channel();
        let punchd = Punchd::new(move |request| match request {
            "GET /v1/servers" => (200, "[]".to_owned()),
            "DELETE /v1/pairings/7" => (200, pairing("paired", known)),
            _ => {
                let _ = tell.send(request.to_owned());
                (200, pairing("waiting", "null"))
            }
        });
        let joining = punchd
            .command(&["join", "six", "words"])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It hears signals before it asks.
        told.recv().unwrap();
        let killed = std::process::Command::new("sh")
            .args(["-c", &format!("kill -INT {}", joining.id())])
            .status();
        assert!(killed.unwrap().success());
        let output = joining.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(says), "{output:?}");
    }
}
