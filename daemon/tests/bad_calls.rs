//! Anything at all may be written to the control socket: the answer is an error that says what is wrong, or the end of the
//! connection, and punchd goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;

use harness::{Host, Kinds, Lab, PATIENCE, run, tool};
use serde_json::Value;

fn alone(hint: &str) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart("open", "open"), &[]);
    lab.a.start();
    lab
}

/// A call by curl: the HTTP status, and the answer.
fn call(host: &Host, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut curl = Command::new(tool("curl", "curl"));
    curl.args([
        "-sS",
        "-m",
        "60",
        "-g",
        "--path-as-is",
        "-X",
        method,
        "-w",
        "\n%{http_code}",
        "--unix-socket",
    ])
    .arg(&host.socket);
    if !body.is_empty() {
        let file = host.dir.join("body");
        std::fs::write(&file, body).unwrap();
        curl.args(["-H", "Expect:", "--data-binary"])
            .arg(format!("@{}", file.display()));
    }
    let output = run(curl.arg(format!("http://punch{path}"))).ok();
    let (answer, status) = output.rsplit_once('\n').unwrap();
    (
        status.parse().unwrap(),
        serde_json::from_str(answer).unwrap_or_else(|_| Value::String(answer.to_owned())),
    )
}

/// A call that must be refused with this status and code, saying this.
#[track_caller]
fn refuses(
    host: &Host,
    (method, path, body): (&str, &str, &str),
    status: u16,
    code: &str,
    essence: &str,
) {
    let before = host.state_file();
    let (got, answer) = call(host, method, path, body);
    let shown = &body[..body.len().min(80)];
    assert_eq!(got, status, "{method} {path} {shown}: {answer}");
    assert_eq!(
        answer["error"]["code"], code,
        "{method} {path} {shown}: {answer}"
    );
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains(essence),
        "{method} {path} {shown} should say {essence:?}: {message}"
    );
    assert!(
        host.state_file() == before,
        "{method} {path} {shown} changed the state"
    );
}

#[test]
fn unknown_calls_are_not_found() {
    need_lab!();
    let lab = alone("path");
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/status",
        "/v1/status/x",
        "/v1/../etc/passwd",
        "/v1/%2e%2e",
        "/v1/forwards/tcp",
        "//v1/id",
    ] {
        refuses(&lab.a, ("GET", path, ""), 404, "not_found", "no such call");
    }
    assert_eq!(call(&lab.a, "GET", "/v1/id?x=1", "").0, 200);
}

#[test]
fn wrong_methods_are_refused() {
    need_lab!();
    let lab = alone("meth");
    for (method, path) in [
        ("POST", "/v1/id"),
        ("DELETE", "/v1/status"),
        ("PUT", "/v1/peers"),
        ("GET", "/v1/netcheck"),
        ("PATCH", "/v1/forwards"),
        ("GET", "/v1/peers/db/up"),
        ("BREW", "/v1/id"),
    ] {
        refuses(&lab.a, (method, path, ""), 404, "not_found", "method");
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one punchd is started for all bodies"
)]
fn bodies_that_make_no_sense_are_refused() {
    need_lab!();
    let lab = alone("body");
    let a = &lab.a;
    let forward = |body: &str, essence: &str| {
        refuses(a, ("POST", "/v1/forwards", body), 400, "invalid", essence)
    };
    forward("", "EOF");
    forward("{", "EOF");
    forward("\u{0}\u{1}", "expected value");
    forward("null", "");
    forward("[1, 2", "");
    forward("{}", "protocol");
    forward(r#"{"protocol": "tcp"}"#, "ports");
    forward(r#"{"protocol": "tcp", "ports": 80}"#, "string");
    forward(r#"{"protocol": "sctp", "ports": "80"}"#, "use tcp or udp");
    forward(r#"{"protocol": "tcp", "ports": "90-80"}"#, "runs backwards");
    forward(
        r#"{"protocol": "tcp", "ports": "80", "colour": 1}"#,
        "colour",
    );
    forward(
        r#"{"protocol": "tcp", "ports": "80", "target": "x"}"#,
        "HOST:PORT",
    );
    forward(r#"{"protocol": "tcp", "ports": "80"} trailing"#, "trailing");
    forward(
        r#"{"protocol": "tcp", "ports": "80", "ports": "81"}"#,
        "duplicate",
    );
    forward(&"[".repeat(60_000), "");
    let peer = |body: &str, essence: &str| {
        refuses(a, ("POST", "/v1/peers", body), 400, "invalid", essence)
    };
    peer(r#"{"name": "db"}"#, "");
    peer(r#"{"name": "DB", "punch": {"key": "punch1"}}"#, "name");
    peer(
        r#"{"name": "db", "punch": {"key": "punch1"}}"#,
        "64 characters",
    );
    peer(r#"{"name": "db", "punch": {"key": 1}}"#, "");
    peer(
        r#"{"name": "db", "wireguard": {"key": "x", "endpoint": "1.2.3.4:5", "address": "10.9.0.1"}}"#,
        "32 bytes in base64",
    );
    let server = |body: &str, essence: &str| {
        refuses(a, ("POST", "/v1/servers", body), 400, "invalid", essence)
    };
    server(r#"{"kind": "turn", "address": "x"}"#, "turn");
    server(r#"{"kind": "signal", "address": "x"}"#, "ws://");
    refuses(a, ("DELETE", "/v1/servers", "{}"), 400, "invalid", "kind");
    refuses(a, ("POST", "/v1/peers/db/up", "{"), 400, "invalid", "EOF");
    refuses(
        a,
        ("POST", "/v1/peers/db/up", r#"{"wait_ms": -1}"#),
        400,
        "invalid",
        "-1",
    );
    refuses(
        a,
        ("POST", "/v1/peers/db/up", ""),
        404,
        "not_found",
        "no peer is called db",
    );
    refuses(
        a,
        ("POST", "/v1/peers/D%20B/down", ""),
        400,
        "invalid",
        "cannot be a peer's name",
    );
    refuses(
        a,
        ("DELETE", "/v1/forwards/tcp/0", ""),
        400,
        "invalid",
        "not a port",
    );
    refuses(
        a,
        ("DELETE", "/v1/forwards/icmp/1", ""),
        400,
        "invalid",
        "use tcp or udp",
    );
    refuses(
        a,
        ("DELETE", "/v1/forwards/tcp/1", ""),
        404,
        "not_found",
        "nothing is forwarded",
    );
    assert_eq!(a.ctl_json(&["forwards"]), serde_json::json!([]));
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    need_lab!();
    let lab = alone("long");
    let body = format!(
        r#"{{"protocol": "tcp", "ports": "80", "target": "{}:80"}}"#,
        "x".repeat(100_000)
    );
    refuses(
        &lab.a,
        ("POST", "/v1/forwards", &body),
        400,
        "invalid",
        "length limit",
    );
    lab.a.ctl_ok(&["id"]);
}

#[test]
fn bytes_that_are_not_http_end_the_connection_only() {
    need_lab!();
    let lab = alone("byte");
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20));
    let many = format!("GET /v1/id HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    for bytes in [
        &b"\0\0\0\0"[..],
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/forwards HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /v1/forwards HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/forwards HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/forwards HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nshort",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = UnixStream::connect(&lab.a.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // punchd may end it before it has read everything.
        let _ = stream
            .write_all(bytes)
            .and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let status = String::from_utf8_lossy(&answer)
            .chars()
            .skip(9)
            .take(1)
            .collect::<String>();
        assert!(
            status.is_empty() || status == "4",
            "{:?}: {}",
            &bytes[..bytes.len().min(40)],
            String::from_utf8_lossy(&answer)
        );
    }
    // Many that say nothing, too, keep nobody else from being served.
    let idle: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(&lab.a.socket).unwrap())
        .collect();
    lab.a.ctl_ok(&["status"]);
    drop(idle);
}
