//! Signalling servers that lie: they can refuse service, and that is all.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{Host, Kinds, Lab, PATIENCE, Server, Stranger, tool, wait_for};
use punch_signal_protocol::seal::Kind;
use punch_signal_protocol::{Capabilities, Frame, MAX_FRAME, PeerId, Refusal, Unreachable};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};

/// Starts a signalling server that does what `serve` says, on `server`; returns its address too.
fn liar(lab: &Lab, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> (String, Server) {
    let server = Server::start(&lab.server, "[::]:0", move |stream| {
        let _ = stream.set_read_timeout(Some(PATIENCE));
        serve(stream);
    });
    let url = format!("ws://{}:{}/", lab.env("SERVER_IPV4"), server.address.port());
    (url, server)
}

/// The server's half of the login; says `first` instead of a challenge, if there is something.
fn greet(stream: TcpStream, first: Option<Message>) -> Option<WebSocket<TcpStream>> {
    let mut socket = tungstenite::accept(stream).ok()?;
    let challenge = Message::Binary(Frame::Challenge([7; 32]).encode().into());
    socket.send(first.unwrap_or(challenge)).ok()?;
    Some(socket)
}

fn frame(frame: &Frame) -> Message {
    Message::Binary(frame.encode().into())
}

/// Reads until the other side goes away.
fn wait_for_end(mut socket: WebSocket<TcpStream>) {
    while socket.read().is_ok() {}
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one entry for each way to break the login"
)]
fn servers_that_break_the_login_are_named_and_left_alone() {
    need_lab!();
    let lab = Lab::exposed("logn");
    let says = |message: Message| {
        move |stream: TcpStream| {
            if let Some(socket) = greet(stream, Some(message.clone())) {
                wait_for_end(socket);
            }
        }
    };
    let then = |message: Message| {
        move |stream: TcpStream| {
            let Some(mut socket) = greet(stream, None) else {
                return;
            };
            let _ = socket.read();
            let _ = socket.send(message.clone());
            wait_for_end(socket);
        }
    };
    let raw = |text: &'static str| {
        move |mut stream: TcpStream| {
            let _ = stream.read(&mut [0; 4000]);
            let _ = stream.write_all(text.as_bytes());
        }
    };
    let protocol = "does not speak this protocol";
    let liars = [
        (
            "no answer for 10 s",
            liar(&lab, |mut stream| drop(stream.read_to_end(&mut Vec::new()))),
        ),
        ("cannot connect", liar(&lab, drop)),
        ("cannot connect", liar(&lab, raw("HTTP/1.1 500 No\r\n\r\n"))),
        (
            "does not finish the login",
            liar(&lab, |stream| {
                if let Ok(socket) = tungstenite::accept(stream) {
                    wait_for_end(socket);
                }
            }),
        ),
        (
            "cannot log in",
            liar(&lab, |stream| drop(greet(stream, None))),
        ),
        (
            "did not accept this machine's signature",
            liar(&lab, then(frame(&Frame::Refused(Refusal::BadProof)))),
        ),
        (
            "full",
            liar(&lab, says(frame(&Frame::Refused(Refusal::Full)))),
        ),
        (protocol, liar(&lab, says(Message::text("hello")))),
        (protocol, liar(&lab, then(Message::text("hello")))),
        (
            protocol,
            liar(
                &lab,
                says(frame(&Frame::Unreachable {
                    to: id(&lab.b),
                    why: Unreachable::Full,
                })),
            ),
        ),
        (
            "unknown",
            liar(&lab, says(Message::Binary(vec![200; 30].into()))),
        ),
        (
            "too long",
            liar(&lab, says(Message::Binary(vec![64; 3 * MAX_FRAME].into()))),
        ),
        // Logs in, and then ends it each time.
        (
            "closed the connection",
            liar(&lab, |stream| {
                let Some(mut socket) = greet(stream, None) else {
                    return;
                };
                let _ = socket.read();
                let _ = socket.send(frame(&Frame::Welcome));
                let _ = socket.close(None);
                wait_for_end(socket);
            }),
        ),
    ];
    for (_, (url, _)) in &liars {
        lab.a.ctl_ok(&["server", "add", "signal", url]);
    }
    // Beside all of them, an honest one does.
    lab.add_servers();
    lab.connect();
    std::thread::sleep(Duration::from_secs(11));
    let views = lab.a.ctl_json(&["server", "list"]);
    let mut wrong = Vec::new();
    for (words, (url, server)) in &liars {
        let view = views
            .as_array()
            .unwrap()
            .iter()
            .find(|view| view["address"] == **url)
            .unwrap();
        let trouble = view["trouble"].as_str().unwrap_or_default();
        let times = server.accepted();
        eprintln!("{times} times: {trouble}");
        if !trouble.contains(words) || trouble.len() > 300 {
            wrong.push(format!("{words:?} is not in {trouble:?}"));
        }
        if !(1..=12).contains(&times) {
            wrong.push(format!("{times} connections to the one with: {trouble}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
}

#[test]
fn a_client_tells_what_it_can_once_and_only_to_a_server_that_has_told() {
    need_lab!();
    let lab = Lab::exposed("caps");
    // What the client has said, and whether the server had told what it can by then.
    let said: Arc<Mutex<Vec<(bool, Frame)>>> = Arc::default();
    let heard = said.clone();
    let (url, server) = liar(&lab, move |stream| {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
        let Some(mut socket) = greet(stream, None) else {
            return;
        };
        let mut has_told = false;
        loop {
            match socket.read() {
                Ok(Message::Binary(bytes)) => {
                    let word = Frame::decode(&bytes).unwrap();
                    if matches!(word, Frame::Proof { .. }) {
                        let _ = socket.send(frame(&Frame::Welcome));
                    }
                    heard.lock().unwrap().push((has_told, word));
                }
                // Half a second of silence: a newer server's words, again and again.
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    has_told = true;
                    let told = frame(&Frame::ServerCapabilities(Capabilities::NONE));
                    let unknown = Message::Binary(vec![99; 5].into());
                    if socket.send(told).is_err() || socket.send(unknown).is_err() {
                        return;
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    lab.a.ctl_ok(&["server", "add", "signal", &url]);
    lab.a.wait_for_server(&url);
    std::thread::sleep(Duration::from_secs(3));

    let said = said.lock().unwrap();
    let told: Vec<_> = said
        .iter()
        .filter(|(_, word)| matches!(word, Frame::ClientCapabilities(_)))
        .collect();
    let once = (true, Frame::ClientCapabilities(Capabilities::OURS));
    assert_eq!(told, [&once], "{said:?}");
    assert_eq!(server.accepted(), 1, "the connection has held");
}

fn id(host: &Host) -> PeerId {
    host.key().parse().unwrap()
}

/// An envelope on its way: from, to, contents.
type Envelope = (PeerId, PeerId, Vec<u8>);

/// A signalling server that lets everybody in, and delivers as `twist` says: all envelopes so far, the newest last, become
/// frames for whom.
fn twister(
    lab: &Lab,
    twist: impl Fn(&[Envelope]) -> Vec<(PeerId, Message)> + Send + Sync + 'static,
) -> (String, Server) {
    let clients: Mutex<HashMap<PeerId, Sender<Message>>> = Mutex::default();
    let envelopes: Mutex<Vec<Envelope>> = Mutex::default();
    liar(lab, move |stream| {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(10)));
        let (sender, queue) = channel();
        let Ok(mut socket) = tungstenite::accept(stream) else {
            return;
        };
        let _ = socket.send(frame(&Frame::Challenge([7; 32])));
        let mut me = None;
        loop {
            for message in queue.try_iter() {
                if socket.send(message).is_err() {
                    return;
                }
            }
            let bytes = match socket.read() {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Close(_)) => return,
                Ok(_) => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            let tell = |to: &PeerId, message| {
                if let Some(client) = clients.lock().unwrap().get(to) {
                    let _ = client.send(message);
                }
            };
            match (Frame::decode(&bytes).unwrap(), me) {
                (Frame::Proof { id, .. }, _) => {
                    me = Some(id);
                    let _ = sender.send(frame(&Frame::Welcome));
                    let mut clients = clients.lock().unwrap();
                    for client in clients.values() {
                        let _ = client.send(frame(&Frame::Appeared(id)));
                    }
                    clients.insert(id, sender.clone());
                }
                (Frame::Watch(id), Some(me)) if clients.lock().unwrap().contains_key(&id) => {
                    tell(&me, frame(&Frame::Appeared(id)));
                }
                (Frame::Send { to, envelope }, Some(me)) => {
                    let mut envelopes = envelopes.lock().unwrap();
                    envelopes.push((me, to, envelope));
                    for (to, message) in twist(&envelopes) {
                        tell(&to, message);
                    }
                }
                _ => {}
            }
        }
    })
}

fn deliver(from: PeerId, envelope: &[u8]) -> Message {
    frame(&Frame::Deliver {
        from,
        envelope: envelope.to_vec(),
    })
}

#[test]
fn replayed_and_reordered_envelopes_change_nothing() {
    need_lab!();
    let lab = Lab::exposed("repl");
    let (url, _server) = twister(&lab, |envelopes| {
        let (from, to, newest) = envelopes.last().unwrap();
        let mut out = vec![(*to, deliver(*from, newest)); 3];
        // And all that went before, newest first.
        out.extend(
            envelopes
                .iter()
                .rev()
                .map(|(from, to, old)| (*to, deliver(*from, old))),
        );
        out
    });
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "signal", &url]);
        host.wait_for_signal();
    }
    for _ in 0..3 {
        lab.connect();
        lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
        lab.b.ctl_ok(&["ping", "a", "-c", "2"]);
        lab.a.ctl_ok(&["down", "b"]);
        lab.b.wait_for_peer_state("a", "down");
    }
    let refused = lab.hosts().map(|host| host.dropped("bad_envelope"));
    assert!(
        refused.iter().all(|count| *count >= 3),
        "{refused:?} replays were counted"
    );
}

#[test]
fn what_a_server_delivers_wrongly_connects_nobody() {
    need_lab!();
    let mut lab = Lab::exposed("twst");
    let (url, _server) = twister(&lab, |envelopes| {
        let (from, to, envelope) = envelopes.last().unwrap();
        let mut out = vec![
            // To the wrong side, and in the wrong name.
            (*from, deliver(*to, envelope)),
            (*from, deliver(*from, envelope)),
            (*to, deliver(*to, envelope)),
            (
                *to,
                deliver(PeerId::from_bytes(&[0x58; 32]).unwrap_or(*to), envelope),
            ),
        ];
        for position in [0, 1, 40, envelope.len() / 2, envelope.len() - 1] {
            let mut other = envelope.clone();
            other[position] ^= 1;
            out.push((*to, deliver(*from, &other)));
            out.push((*to, deliver(*from, &envelope[..position])));
        }
        let noise = [vec![0; 1], vec![0xff; 4096], [&envelope[..], &[0]].concat()];
        out.extend(noise.iter().map(|noise| (*to, deliver(*from, noise))));
        out.push((*to, Message::text("hello")));
        out.push((*to, Message::Binary(vec![250; 9].into())));
        out.push((*to, Message::Ping(vec![1; 100].into())));
        out.extend(vec![(*to, frame(&Frame::Appeared(*from))); 500]);
        out
    });
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "signal", &url]);
        host.wait_for_signal();
    }
    assert!(!lab.a.ctl(&["up", "b", "--timeout", "5"]).success());
    for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
        let view = host.peer(peer);
        assert_ne!(view["state"], "connected");
        assert_eq!(
            view["last_handshake_s"],
            Value::Null,
            "not even for a moment: {view:#}"
        );
        assert!(host.dropped("bad_envelope") > 0);
        let lines = host.punchd.log_text().lines().count();
        assert!(lines < 100, "{lines} lines in the log of {}", host.name);
    }
    assert!(lab.a.punchd.is_running() && lab.b.punchd.is_running());
    // An honest server beside it is enough.
    lab.add_servers();
    lab.connect();
    lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
}

#[test]
fn a_strangers_offer_in_a_peers_name_is_not_taken() {
    need_lab!();
    let mut lab = Lab::exposed("mask");
    let a = id(&lab.a);
    let b = id(&lab.b);
    let came = Arc::new(Mutex::new(0));
    let (url, _server) = twister(&lab, {
        let came = came.clone();
        move |envelopes| {
            let (from, to, envelope) = envelopes.last().unwrap();
            if *from == b {
                // What b answers goes to the stranger, whoever it is for.
                *came.lock().unwrap() += 1;
                let strangers = envelopes
                    .iter()
                    .map(|(from, ..)| *from)
                    .filter(|from| *from != b);
                return strangers
                    .map(|stranger| (stranger, deliver(b, envelope)))
                    .collect();
            }
            vec![(*to, deliver(a, envelope))]
        }
    });
    lab.b.ctl_ok(&["server", "add", "signal", &url]);
    lab.b.wait_for_signal();
    let stranger = Stranger::start(&lab);
    stranger.ctl(&["server", "add", "signal", &url]).ok();
    stranger.ctl(&["peer", "add", "b", lab.b.key()]).ok();
    assert!(!stranger.ctl(&["up", "b", "--timeout", "6"]).success());
    assert!(lab.b.dropped("bad_envelope") >= 1);
    assert_eq!(*came.lock().unwrap(), 0, "b answered");
    assert_eq!(lab.b.peer_state("a"), "down");
    assert!(lab.b.punchd.is_running());
}

#[test]
fn a_server_cannot_make_punchd_flood_its_peer() {
    need_lab!();
    let lab = Lab::exposed("flod");
    lab.add_servers();
    lab.connect();
    let b = id(&lab.b);
    let lies = Arc::new(AtomicUsize::new(0));
    let counter = lies.clone();
    let (url, _server) = liar(&lab, move |stream| {
        let Some(mut socket) = greet(stream, None) else {
            return;
        };
        let _ = socket.read();
        let _ = socket.send(frame(&Frame::Welcome));
        let lie = frame(&Frame::Appeared(b));
        while socket.send(lie.clone()).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let nft = tool("nft", "nftables");
    let rules = "add table inet watch; \
        add chain inet watch out { type filter hook output priority 0; }; \
        add rule inet watch out meta l4proto udp counter";
    lab.a.exec_ok(&[&nft, rules]);
    lab.a.ctl_ok(&["server", "add", "signal", &url]);
    lab.a.wait_for_server(&url);
    std::thread::sleep(Duration::from_secs(3));
    let counted = lab.a.exec_ok(&[&nft, "list", "table", "inet", "watch"]);
    let sent = counted.split("counter packets ").nth(1).unwrap();
    let sent: u64 = sent.split(' ').next().unwrap().parse().unwrap();
    let lies = lies.load(Ordering::Relaxed);
    eprintln!("{lies} announcements made it send {sent} datagrams");
    assert!(
        sent < 300 + lies as u64 / 10,
        "{lies} announcements made it send {sent} datagrams"
    );
    lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
}

/// Introductions come three times, the first welcome not at all, and welcomes of before once more.
#[test]
fn a_server_that_loses_and_repeats_still_pairs_two_machines_once() {
    need_lab!();
    let mut lab = Lab::bare("pair", Kinds::Apart("full-cone", "open"), &[]);
    lab.a.start();
    lab.b.start();
    let lost = AtomicUsize::new(0);
    let (url, _server) = twister(&lab, move |envelopes| {
        let (from, to, newest) = envelopes.last().unwrap();
        if Kind::of(newest) == Some(Kind::Welcome) && lost.fetch_add(1, Ordering::Relaxed) < 3 {
            return Vec::new();
        }
        let mut out = vec![(*to, deliver(*from, newest)); 3];
        out.extend(
            envelopes
                .iter()
                .rev()
                .map(|(from, to, old)| (*to, deliver(*from, old))),
        );
        out
    });
    lab.a.ctl_ok(&["server", "add", "signal", &url]);
    let mut argv = lab.a.ctl_argv();
    argv.extend(["invite", "--json", "--name", "b"].map(str::to_owned));
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    let _invite = lab.a.net.spawn("invite", &argv);
    let log = lab.dir.join("invite.log");
    let code = wait_for(PATIENCE, "a code is printed", || {
        let text = std::fs::read_to_string(&log).ok()?;
        let first: Value = serde_json::from_str(text.lines().next()?).ok()?;
        Some(first["code"].as_str()?.to_owned())
    });
    let joined = lab.b.ctl_ok(&["join", "--yes", "--name", "a", &code]);
    assert!(joined.contains("connected to a"), "{joined}");
    for host in lab.hosts() {
        assert_eq!(host.ctl_json(&["peers"]).as_array().unwrap().len(), 1);
    }
}
