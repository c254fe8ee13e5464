//! openapi.json says what a running punchd answers: every call, every status, every body; and it has punchd's routes and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;
#[path = "../api/tests/it/schema/mod.rs"]
mod schema;
#[path = "openapi/source.rs"]
mod source;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use harness::{Host, Kinds, Lab, PATIENCE, run, tool};
use punch_api::error::ErrorBody;
use punch_engine::DropReason;
use punch_signal_protocol::Identity;
use punch_signal_protocol::paste::PasteLine;
use schema::{Call, Document};
use serde_json::{Value, json};
use source::routes;

/// Every method of HTTP that has a word in OpenAPI, but HEAD: that is answered where GET is.
const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"];
const WIREGUARD: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
/// Somebody's.
const KEY: &str = "punch132yw8ht5p8cetl2jmvknewjawt9xwzdlrk2pyxlnwjyqrdq0dawqxjt27s";

/// The calls of the file.
fn described() -> BTreeSet<Call> {
    let mut calls = BTreeSet::new();
    calls.extend(Document::read().calls());
    calls
}

/// What a call is answered, seen by curl.
struct Answer {
    status: u16,
    media: String,
    body: String,
}

fn send(host: &Host, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut curl = Command::new(tool("curl", "curl"));
    curl.args(["-sS", "-m", "90", "-g", "--path-as-is"])
        .args(["-w", "\n%{http_code} %{content_type}"])
        .arg("--unix-socket")
        .arg(&host.socket);
    match method {
        "HEAD" => curl.args(["-I", "-o", "/dev/null"]),
        method => curl.args(["-X", method]),
    };
    if let Some(body) = body {
        curl.args(["--data-binary", &body.to_string()]);
    }
    let output = run(curl.arg(format!("http://punch{path}"))).ok();
    let (body, rest) = output.rsplit_once('\n').unwrap();
    let (status, media) = rest.split_once(' ').unwrap();
    Answer {
        status: status.parse().unwrap(),
        media: media.to_owned(),
        body: body.to_owned(),
    }
}

/// A path with values in place of its parameters.
fn fill(path: &str, values: &[&str]) -> String {
    let mut values = values.iter();
    let parts = path.split('/').map(|part| match part.starts_with('{') {
        true => *values.next().expect("there is a value for each parameter"),
        false => part,
    });
    let filled: Vec<_> = parts.collect();
    assert!(values.next().is_none(), "{path} has fewer parameters");
    filled.join("/")
}

/// Calls punchd, and compares what it answers with the file.
#[derive(Default)]
struct Caller {
    seen: RefCell<BTreeSet<(Call, u16)>>,
}

impl Caller {
    /// A call that is answered with this status; returns the body.
    #[track_caller]
    fn call(
        &self,
        host: &Host,
        (method, path, values): (&str, &str, &[&str]),
        body: Option<Value>,
        status: u16,
    ) -> Value {
        let document = Document::read();
        let call = Call::new(method, path);
        if let Some(body) = &body
            && status != 400
        {
            let request = &document.operation(&call)["requestBody"]["content"]["application/json"];
            let verdict = document.check(&request["schema"], body);
            assert_eq!(verdict, Ok(()), "the body of {call}: {body}");
        }
        let answer = send(host, method, &fill(path, values), body.as_ref());
        assert_eq!(answer.status, status, "{call} {values:?}: {}", answer.body);
        let value = self.check(&call, &answer);
        self.seen.borrow_mut().insert((call, status));
        value
    }

    /// The answer is one that the file describes.
    #[track_caller]
    fn check(&self, call: &Call, answer: &Answer) -> Value {
        let document = Document::read();
        let described = document.answer(call, answer.status);
        let (media, schema) = described
            .unwrap_or_else(|| panic!("{call}: the file has no answer with {}", answer.status));
        assert_eq!(answer.media, media, "{call}: {}", answer.body);
        let value = match media {
            "application/json" => serde_json::from_str(&answer.body).expect("the answer is JSON"),
            _ => Value::from(answer.body.as_str()),
        };
        let verdict = document.check(schema, &value);
        assert_eq!(verdict, Ok(()), "{call} {}: {value}", answer.status);
        if answer.status >= 400 {
            assert_error(&value, answer.status);
        }
        value
    }
}

/// The body of an error whose code goes with the status.
#[track_caller]
fn assert_error(body: &Value, status: u16) {
    let body: ErrorBody = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(body.error.http_status(), status, "{:?}", body.error);
    assert!(!body.error.message.is_empty());
}

/// Reads the events of a host as they come.
struct Listener {
    lines: BufReader<UnixStream>,
    kinds: BTreeSet<String>,
}

impl Listener {
    fn new(host: &Host) -> Self {
        let mut stream = UnixStream::connect(&host.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // To HTTP/1.0 a stream is answered without chunks.
        stream
            .write_all(b"GET /v1/events HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            match line.trim() {
                "" => break,
                line => head.push(line.to_ascii_lowercase()),
            }
        }
        assert!(head[0].ends_with("200 ok"), "{head:?}");
        let call = Call::new("GET", "/v1/events");
        let (media, _) = Document::read().answer(&call, 200).unwrap();
        assert!(head.contains(&format!("content-type: {media}")), "{head:?}");
        Self {
            lines,
            kinds: BTreeSet::new(),
        }
    }

    /// Reads until an event of this kind has come; all that comes is what the file says.
    #[track_caller]
    fn read_until(&mut self, kind: &str) {
        let document = Document::read();
        let (_, schema) = document
            .answer(&Call::new("GET", "/v1/events"), 200)
            .unwrap();
        while !self.kinds.contains(kind) {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line);
            let read = read.unwrap_or_else(|error| panic!("no event {kind}: {error}"));
            assert!(read > 0, "the events have ended");
            let line = line.trim_end();
            if line.is_empty() || line.starts_with(':') {
                continue;
            }
            let data = line.strip_prefix("data: ").expect("nothing but data comes");
            let event: Value = serde_json::from_str(data).unwrap();
            assert_eq!(document.check(schema, &event), Ok(()), "{event}");
            self.kinds
                .insert(event["kind"].as_str().unwrap().to_owned());
        }
    }
}

// --- a running punchd ---

/// Lines that a person carries, while the two are not connected.
fn by_hand(caller: &Caller, here: &Host, there: &Host) {
    let (offer, answer) = ("/v1/peers/{name}/offer", "/v1/answer");
    let line = caller.call(there, ("POST", offer, &["a"]), None, 200);
    let line = line["line"].as_str().unwrap();
    let read = |line: &str, status| {
        let body = Some(json!({ "line": line }));
        caller.call(here, ("POST", answer, &[]), body, status)
    };
    read("hello", 400);
    let mut late = PasteLine::read(line).unwrap();
    late.made_ms -= 3_600_000;
    read(&late.to_string(), 422);
    late.from = Identity::from_seed(&[9; 32]).id();
    read(&late.to_string(), 404);
    late.to = late.from;
    read(&late.to_string(), 409);
    let answered = read(line, 200);
    assert_eq!(answered["step"], "answered", "{answered}");
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story, told in the order in which the calls build on each other"
)]
fn every_call_is_answered_as_the_file_says_with_every_status_that_it_names() {
    need_lab!();
    let mut lab = Lab::bare("oapi", Kinds::Apart("open", "open"), &[]);
    let fixed = format!("{}:3478", lab.env("SERVER_IPV4_ALT"));
    lab.start_servers();
    lab.a
        .configure(&format!("[stun]\nservers = [\"{fixed}\"]\n"));
    lab.b.configure("[lan]\nenabled = false\n");
    lab.a.start();
    lab.b.start();
    let caller = Caller::default();
    let mut events = Listener::new(&lab.a);
    caller
        .seen
        .borrow_mut()
        .insert((Call::new("GET", "/v1/events"), 200));
    lab.add_servers();
    events.read_until("server");
    let a = |call: (&str, &str, &[&str]), body: Option<Value>, status: u16| {
        caller.call(&lab.a, call, body, status)
    };

    // The machine.
    a(("GET", "/v1/id", &[]), None, 200);
    a(("GET", "/v1/key", &[]), None, 200);
    if described().contains(&Call::new("GET", "/metrics")) {
        let metrics = a(("GET", "/metrics", &[]), None, 200);
        assert!(metrics.as_str().unwrap().contains("# TYPE "), "{metrics}");
    }

    // Peers.
    let add = "/v1/peers";
    let b = json!({ "name": "b", "punch": { "key": lab.b.key() } });
    let plain = |address: &str| json!({ "name": "plain", "wireguard": { "key": WIREGUARD, "endpoint": "203.0.113.9:51820", "address": address, "preshared": WIREGUARD } });
    let added = a(("POST", add, &[]), Some(b.clone()), 200);
    let again = a(("POST", add, &[]), Some(b.clone()), 200);
    assert_eq!(
        (&added["unchanged"], &again["unchanged"]),
        (&json!(false), &json!(true))
    );
    let mut other = b;
    other["name"] = json!("other");
    a(("POST", add, &[]), Some(other), 409);
    a(("POST", add, &[]), Some(json!({ "name": "c" })), 400);
    let own = json!({ "name": "me", "punch": { "key": lab.a.key(), "ipv6_only": true } });
    a(("POST", add, &[]), Some(own), 400);
    a(("POST", add, &[]), Some(plain("127.0.0.1")), 400);
    a(("POST", add, &[]), Some(plain("10.9.0.1")), 200);
    a(("GET", add, &[]), None, 200);
    events.read_until("configuration");

    // Every call of one peer says whether there is such a peer.
    for call in described() {
        if call.path.starts_with("/v1/peers/{name}") {
            let body = call.path.ends_with("rename").then(|| json!({ "to": "x" }));
            let (method, path) = (call.method.as_str(), call.path.as_str());
            a((method, path, &["nobody"]), body.clone(), 404);
            a((method, path, &["No%20Body"]), body, 400);
        }
    }

    // A connection.
    lab.b.ctl_ok(&["peer", "add", "a", lab.a.key()]);
    // Over the server they would be connected before the line is read.
    lab.signal.stop();
    by_hand(&caller, &lab.a, &lab.b);
    lab.signal.start();
    for host in [&lab.a, &lab.b] {
        host.wait_for_signal();
    }
    let (up, ping) = ("/v1/peers/{name}/up", "/v1/peers/{name}/ping");
    a(("POST", ping, &["plain"]), None, 422);
    a(("POST", "/v1/peers/{name}/offer", &["plain"]), None, 400);
    a(("POST", up, &["plain"]), None, 200);
    a(
        ("POST", up, &["b"]),
        Some(json!({ "wait_ms": "long" })),
        400,
    );
    let view = a(
        ("POST", up, &["b"]),
        Some(json!({ "wait_ms": 60_000 })),
        200,
    );
    assert_eq!(view["state"], "connected", "{view}");
    events.read_until("peer");
    events.read_until("path");
    a(("POST", "/v1/peers/{name}/offer", &["b"]), None, 422);
    let pong = a(("POST", ping, &["b"]), None, 200);
    assert!(pong["path"].is_object(), "{pong}");
    a(("GET", "/v1/peers/{name}", &["b"]), None, 200);
    a(("GET", "/v1/peers/{name}/why", &["b"]), None, 200);
    a(("GET", "/v1/peers/{name}/why", &["plain"]), None, 200);
    a(("PUT", "/v1/peers/{name}/host", &["b"]), None, 200);
    a(("DELETE", "/v1/peers/{name}/host", &["b"]), None, 200);
    let relay = "/v1/peers/{name}/relay";
    a(("PUT", relay, &["plain"]), None, 400);
    let meeting = json!({ "protocol": "tcp", "ports": "45117" });
    a(("POST", "/v1/forwards", &[]), Some(meeting.clone()), 200);
    a(("PUT", relay, &["b"]), None, 409);
    let forward = "/v1/forwards/{protocol}/{ports}";
    a(("DELETE", forward, &["tcp", "45117"]), None, 200);
    let guest = a(("PUT", relay, &["b"]), None, 200);
    assert_eq!(guest["relayed"]["from_bytes"], 0, "{guest}");
    a(("POST", "/v1/forwards", &[]), Some(meeting), 409);
    a(("DELETE", relay, &["b"]), None, 200);

    // Forwards.
    let (forwards, forward) = ("/v1/forwards", "/v1/forwards/{protocol}/{ports}");
    let tcp = json!({ "protocol": "tcp", "ports": "8000-8010" });
    let named = |peer: &str| json!({ "protocol": "udp", "ports": "53", "target": "[::1]:53", "peers": [peer] });
    a(("POST", forwards, &[]), Some(tcp.clone()), 200);
    let again = a(("POST", forwards, &[]), Some(tcp.clone()), 200);
    assert_eq!(again["unchanged"], true, "{again}");
    let mut other = tcp;
    other["target"] = json!("127.0.0.1:9000");
    a(("POST", forwards, &[]), Some(other), 409);
    a(("POST", forwards, &[]), Some(named("nobody")), 404);
    a(("POST", forwards, &[]), Some(named("b")), 200);
    a(("POST", forwards, &[]), None, 400);
    let all = a(("GET", forwards, &[]), None, 200);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    a(("DELETE", forward, &["tcp", "8000"]), None, 404);
    a(("DELETE", forward, &["icmp", "8000"]), None, 400);

    // Servers.
    let servers = "/v1/servers";
    let server = |address: &str| json!({ "kind": "stun", "address": address });
    a(("POST", servers, &[]), Some(server("203.0.113.9")), 200);
    for known in ["203.0.113.9:3478", &*fixed] {
        let again = a(("POST", servers, &[]), Some(server(known)), 200);
        assert_eq!(again["unchanged"], true, "{again}");
    }
    // There may be 16, and five are there: a signalling server and four STUN servers.
    let more: Vec<_> = (1..=11).map(|n| format!("192.0.2.{n}")).collect();
    for address in &more {
        a(("POST", servers, &[]), Some(server(address)), 200);
    }
    a(("POST", servers, &[]), Some(server("192.0.2.99")), 409);
    for address in &more {
        a(("DELETE", servers, &[]), Some(server(address)), 200);
    }
    a(("POST", servers, &[]), Some(server("-")), 400);
    a(("DELETE", servers, &[]), Some(server("203.0.113.9")), 200);
    a(("DELETE", servers, &[]), Some(server("203.0.113.9")), 404);
    a(("DELETE", servers, &[]), Some(server("-")), 400);
    a(("DELETE", servers, &[]), Some(server(&fixed)), 409);
    let all = a(("GET", servers, &[]), None, 200);
    assert_eq!(all.as_array().unwrap().len(), 4, "{all}");

    // Invitations. Nobody follows them here.
    let (invite, join) = ("/v1/invitations", "/v1/joins");
    let mine = a(("POST", invite, &[]), Some(json!({ "name": "new" })), 200);
    let code = mine["code"].as_str().unwrap();
    a(("POST", invite, &[]), Some(json!({ "expires_s": 1 })), 400);
    a(("POST", invite, &[]), Some(json!({ "name": "b" })), 409);
    a(("POST", join, &[]), Some(json!({ "code": code })), 409);
    a(("POST", join, &[]), Some(json!({ "code": "abacus" })), 400);
    let words = "acorn-window-maple-radio-river-zebra";
    let other = a(("POST", join, &[]), Some(json!({ "code": words })), 200);
    let all = a(("GET", "/v1/pairings", &[]), None, 200);
    assert_eq!(all.as_array().unwrap().len(), 2, "{all}");
    let one = "/v1/pairings/{number}";
    for number in [&mine["pairing"]["number"], &other["number"]] {
        let number = number.to_string();
        a(("GET", one, &[&number]), None, 200);
        a(("DELETE", one, &[&number]), None, 200);
        a(("DELETE", one, &[&number]), None, 404);
        a(("GET", one, &[&number]), None, 404);
    }
    a(("GET", one, &["x"]), None, 404);
    a(("DELETE", one, &["x"]), None, 404);

    // All that there is now, at once.
    a(("GET", "/v1/status", &[]), None, 200);
    let checks = a(("POST", "/v1/netcheck", &[]), None, 200);
    assert!(
        checks.as_array().is_some_and(|all| !all.is_empty()),
        "{checks}"
    );
    let known = caller.call(&lab.b, ("GET", servers, &[]), None, 200);
    for server in known.as_array().unwrap() {
        let body = json!({ "kind": server["kind"], "address": server["address"] });
        caller.call(&lab.b, ("DELETE", servers, &[]), Some(body), 200);
    }
    caller.call(&lab.b, ("POST", "/v1/netcheck", &[]), None, 422);
    caller.call(&lab.b, ("POST", invite, &[]), Some(json!({})), 422);
    caller.call(
        &lab.b,
        ("POST", join, &[]),
        Some(json!({ "code": words })),
        422,
    );
    a(("POST", "/v1/take-over", &[]), None, 400);

    // What changes, what is silent, what ends.
    lab.a
        .exec_ok(&["ip", "address", "add", "198.18.0.1/32", "dev", "eth0"]);
    events.read_until("network");
    a(("POST", "/v1/peers/{name}/down", &["plain"]), None, 200);
    a(
        ("POST", up, &["b"]),
        Some(json!({ "wait_ms": 60_000 })),
        200,
    );
    lab.b.punchd.signal(nix::sys::signal::Signal::SIGSTOP);
    a(("POST", ping, &["b"]), None, 504);
    lab.b.punchd.signal(nix::sys::signal::Signal::SIGCONT);
    let rename = "/v1/peers/{name}/rename";
    a(
        ("POST", rename, &["b"]),
        Some(json!({ "to": "plain" })),
        409,
    );
    a(("POST", rename, &["b"]), Some(json!({ "to": "c" })), 200);
    a(("DELETE", forward, &["udp", "53"]), None, 200);
    a(("DELETE", "/v1/peers/{name}", &["c"]), None, 200);

    let document = Document::read();
    let statuses = |call: &Call| document.statuses(call).into_iter();
    let all = described().into_iter().flat_map(|call| {
        let statuses: Vec<_> = statuses(&call).collect();
        statuses
            .into_iter()
            .map(move |status| (call.clone(), status))
    });
    // 500 has a test of its own, and a netcheck that does not end cannot be made.
    let slow = (Call::new("POST", "/v1/netcheck"), 504);
    // The other answers to a take-over are in `daemon/tests/handover.rs`.
    let take_over = Call::new("POST", "/v1/take-over");
    let rest: BTreeSet<_> = all
        .filter(|known| known.1 != 500 && *known != slow)
        .filter(|(call, status)| *call != take_over || *status == 400)
        .collect();
    let unseen: Vec<_> = rest.difference(&caller.seen.borrow()).cloned().collect();
    assert!(
        unseen.is_empty(),
        "the file names what was not seen: {unseen:?}"
    );
}

#[test]
fn what_cannot_be_saved_is_refused_or_warned_of_as_the_file_says() {
    need_lab!();
    let mut lab = Lab::bare("save", Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    let caller = Caller::default();
    let a = |call: (&str, &str, &[&str]), body: Option<Value>, status: u16| {
        caller.call(&lab.a, call, body, status)
    };
    let peer = |name: &str, address: &str| json!({ "name": name, "wireguard": { "key": WIREGUARD, "endpoint": "203.0.113.9:51820", "address": address } });
    let forward = |ports: &str| json!({ "protocol": "tcp", "ports": ports });
    let server = |address: &str| json!({ "kind": "stun", "address": address });
    a(
        ("POST", "/v1/peers", &[]),
        Some(peer("db", "10.9.0.1")),
        200,
    );
    let guest = Identity::from_seed(&[7; 32]).id().to_string();
    let guest = json!({ "name": "guest", "punch": { "key": guest } });
    a(("POST", "/v1/peers", &[]), Some(guest), 200);
    a(("POST", "/v1/forwards", &[]), Some(forward("80")), 200);
    a(
        ("POST", "/v1/servers", &[]),
        Some(server("203.0.113.9")),
        200,
    );
    let before = a(("GET", "/v1/peers", &[]), None, 200);

    // A directory that is not empty cannot be replaced by a file.
    let file = lab.a.state_dir.join("state.json");
    std::fs::rename(&file, lab.a.state_dir.join("away")).unwrap();
    std::fs::create_dir_all(file.join("inside")).unwrap();
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let mut other = peer("other", "10.9.0.2");
    other["wireguard"]["key"] = json!(key);
    let to = json!({ "to": "db2" });
    a(("POST", "/v1/peers", &[]), Some(other), 500);
    a(("POST", "/v1/peers/{name}/rename", &["db"]), Some(to), 500);
    a(("POST", "/v1/peers/{name}/up", &["db"]), None, 500);
    a(("POST", "/v1/peers/{name}/offer", &["guest"]), None, 500);
    a(("PUT", "/v1/peers/{name}/host", &["db"]), None, 500);
    a(("PUT", "/v1/peers/{name}/relay", &["guest"]), None, 500);
    a(("POST", "/v1/forwards", &[]), Some(forward("81")), 500);
    a(
        ("POST", "/v1/servers", &[]),
        Some(server("203.0.113.8")),
        500,
    );
    assert_eq!(a(("GET", "/v1/peers", &[]), None, 200), before);
    assert_eq!(lab.a.not_saved(), "", "all that is in force is saved");

    // What is taken away is gone all the same.
    let ended = (
        "DELETE",
        "/v1/forwards/{protocol}/{ports}",
        &["tcp", "80"][..],
    );
    let known = json!("203.0.113.9");
    for (call, body) in [
        (("POST", "/v1/peers/{name}/down", &["db"][..]), None),
        (ended, None),
        (
            ("DELETE", "/v1/servers", &[][..]),
            Some(json!({ "kind": "stun", "address": known })),
        ),
        (("DELETE", "/v1/peers/{name}", &["db"][..]), None),
        (("DELETE", "/v1/peers/{name}", &["guest"][..]), None),
    ] {
        let answer = a(call, body, 200);
        let warning = answer["warning"].as_str().unwrap_or_default();
        assert!(
            warning.contains("not saved") && warning.contains("come undone"),
            "{call:?}: {answer}"
        );
    }
    for list in ["/v1/peers", "/v1/forwards", "/v1/servers"] {
        assert_eq!(a(("GET", list, &[]), None, 200), json!([]), "{list}");
    }
    assert!(lab.a.not_saved().contains("state.json"));

    // And it is saved as soon as that can be.
    std::fs::remove_dir_all(&file).unwrap();
    lab.a.wait_until_saved();
    let saved = std::fs::read_to_string(&file).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["peers"], json!({}), "{saved}");
    assert_no_other_call_is_promised_to_fail(&caller);
}

/// The file names the status 500 for saving with the calls that were answered so, and with no others.
#[track_caller]
fn assert_no_other_call_is_promised_to_fail(caller: &Caller) {
    let document = Document::read();
    let save = |call: &Call| {
        let response = &document.operation(call)["responses"]["500"]["description"];
        response.as_str().is_some_and(|text| text.contains("saved"))
    };
    let promised: BTreeSet<_> = described().into_iter().filter(save).collect();
    let seen = caller.seen.borrow();
    let failed = seen.iter().filter(|(_, status)| *status == 500);
    let failed: BTreeSet<_> = failed.map(|(call, _)| call.clone()).collect();
    assert_eq!(failed, promised);
}

#[test]
fn any_other_method_or_path_is_not_found_as_the_file_says() {
    need_lab!();
    let mut lab = Lab::bare("none", Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    lab.a.ctl_ok(&["peer", "add", "db", KEY]);
    let document = Document::read();
    let body = json!({ "$ref": "#/components/schemas/ErrorBody" });
    let not_found = |method: &str, path: &str| {
        let answer = send(&lab.a, method, path, None);
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
        assert_eq!(answer.media, "application/json", "{method} {path}");
        let value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(document.check(&body, &value), Ok(()), "{method} {path}");
        assert_error(&value, 404);
    };
    // A code is found with no channel but its networks.
    let body = Some(json!({}));
    let invited = send(&lab.a, "POST", "/v1/invitations", body.as_ref());
    assert_eq!(invited.status, 200, "{}", invited.body);
    let calls = described();
    let paths: BTreeSet<_> = calls.iter().map(|call| call.path.as_str()).collect();
    for template in paths {
        let values = match template.matches('{').count() {
            0 => &[][..],
            1 if template.contains("{number}") => &["1"],
            1 => &["db"],
            _ => &["tcp", "80"],
        };
        let path = fill(template, values);
        let has = |method: &str| calls.contains(&Call::new(method, template));
        for method in METHODS.into_iter().filter(|method| !has(method)) {
            not_found(method, &path);
        }
        not_found("GET", &format!("{path}/"));
        not_found("GET", &format!("{path}/more/and/more"));
        let head = send(&lab.a, "HEAD", &path, None);
        assert_eq!(
            head.status == 200,
            has("GET"),
            "HEAD {path}: {}",
            head.status
        );
    }
    for path in ["/", "/v1", "/v2/id", "/openapi.json"] {
        not_found("GET", path);
    }
}

// --- its source ---

#[test]
fn the_file_has_every_route_of_punchd_and_no_other() {
    let served = routes(include_str!("../src/control/http.rs"));

    let described = described();

    let missing: Vec<_> = served.difference(&described).map(Call::to_string).collect();
    let extra: Vec<_> = described.difference(&served).map(Call::to_string).collect();
    assert!(
        missing.is_empty(),
        "daemon/api/openapi.json lacks {missing:?} (or `described` here takes it away)"
    );
    assert!(
        extra.is_empty(),
        "daemon/src/control/http.rs has no {extra:?}"
    );
}

#[test]
fn routes_are_found_in_source_however_it_is_laid_out() {
    let source = r#"
        // .route("/comment", get(no))
        /// A `.route("/docs", get(no))`.
        Router::new()
            .route("/a", get(|c| ask(c, put(")\"", (1, 2)))).post(x))
            .route(
                "/b/{c}",
                axum::routing::delete(
                    remove, // ) get(
                ),
            )
            .fallback(get(x))
    "#;

    let found = routes(source);

    let calls = [("GET", "/a"), ("POST", "/a"), ("DELETE", "/b/{c}")];
    let calls = calls.map(|(method, path)| Call::new(method, path));
    assert_eq!(found, BTreeSet::from(calls));
    for unclear in [
        r#".route(PATH, get(x))"#,
        r#".route("/a", any(x))"#,
        r#".route("/a", METHODS)"#,
        r#".nest("/a", other())"#,
        r#".merge(other())"#,
    ] {
        let found = std::panic::catch_unwind(|| routes(unclear));
        assert!(found.is_err(), "{unclear} was read as {found:?}");
    }
}

#[test]
fn the_file_has_the_reasons_of_drops_that_punchd_counts_and_no_others() {
    let document = Document::read();
    let set = |value: &Value| -> BTreeSet<String> {
        let words = value.as_array().expect("there is an enum").iter();
        words
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let drops: BTreeSet<_> = DropReason::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(set(&document.schema("DropReason")["enum"]), drops);
}
