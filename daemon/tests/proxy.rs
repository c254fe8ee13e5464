//! HTTP proxies before the signalling server: one that is the only way out, and what others do wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use harness::{Echo, Host, Kinds, Lab, Namespace, PATIENCE, Server, wait_until};

/// Where the proxy is: on the servers' machine, at its other address.
const PLACE: &str = "203.0.113.2:3128";
/// The proxy with user and password, and how HTTP writes these.
const SECRET: &str = "http://user:se%63ret@203.0.113.2:3128";
const BASIC: &str = "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n";

/// What a proxy does with a connection.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Leads to punch-signal, whatever its name, for the right user and password.
    Good,
    Says(&'static str),
    /// A head without an end, until the client has had enough.
    Endless,
    Silent,
}

/// The head of a request.
fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn serve(mut stream: TcpStream, manner: Manner, from: &Namespace) {
    let asked = head(&mut stream);
    match manner {
        Manner::Says(answer) => {
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            // Else the answer may be lost by a reset.
            let _ = stream.read(&mut [0; 512]);
        }
        Manner::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
            while stream.write_all(&[b'x'; 1000]).is_ok() {}
        }
        Manner::Silent => {
            let _ = stream.read(&mut [0; 512]);
        }
        Manner::Good if !asked.contains(BASIC) => {
            let _ = stream.write_all(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
            );
        }
        Manner::Good => {
            assert!(
                asked.starts_with("CONNECT signal.corp:8080 HTTP/1.1\r\n"),
                "{asked}"
            );
            let server = from.connect_tcp("127.0.0.1:8080".parse().unwrap()).unwrap();
            server.set_read_timeout(None).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| pass(&stream, &server));
                pass(&server, &stream);
            });
        }
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A proxy that behaves as it is told.
fn proxy(lab: &Lab, manner: Manner) -> (Server, Arc<Mutex<Manner>>) {
    let manner = Arc::new(Mutex::new(manner));
    let server = Server::start(&lab.server, PLACE, {
        let (manner, from) = (manner.clone(), lab.server.clone());
        move |stream| {
            let manner = *manner.lock().unwrap();
            serve(stream, manner, &from);
        }
    });
    (server, manner)
}

/// Writes a punchd.toml that its owner alone can read.
fn configure(host: &Host, text: &str) {
    host.configure(text);
    fs::set_permissions(&host.config, Permissions::from_mode(0o600)).unwrap();
}

#[track_caller]
fn expect_no_secret(host: &Host) {
    let said = [
        host.punchd.log_text(),
        host.ctl_ok(&["status", "--json"]),
        host.ctl_ok(&["server", "list", "--json"]),
        fs::read_to_string(format!("/proc/{}/cmdline", host.punchd.pid())).unwrap(),
    ];
    for text in said {
        for secret in ["secret", "se%63ret", "dXNlcjpzZWNyZXQ"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

#[test]
fn data_flows_where_a_proxy_is_the_only_way_out() {
    need_lab!();
    let mut lab = Lab::bare("prox", Kinds::Apart("udp-blocked", "udp-blocked"), &[]);
    // Its name is in no hosts file and no name server: only the proxy knows it.
    let certificate = rcgen::generate_simple_self_signed(["signal.corp".to_owned()]).unwrap();
    let file = |name: &str| lab.dir.join(name).display().to_string();
    let (chain, key) = (file("signal.pem"), file("signal.key"));
    fs::write(&chain, certificate.cert.pem()).unwrap();
    fs::write(&key, certificate.signing_key.serialize_pem()).unwrap();
    lab.relay();
    for (option, value) in [("--tls-cert", &chain), ("--tls-key", &key)] {
        lab.signal.argv.extend([option.to_owned(), value.clone()]);
    }
    lab.start_servers();
    let (proxy, _) = proxy(&lab, Manner::Good);
    let url = "wss://signal.corp:8080/";
    let servers = format!("[signal]\nservers = [\"{url}\"]\n");
    configure(&lab.a, &format!("{servers}proxy = \"{SECRET}\"\n"));
    configure(&lab.b, &servers);
    let environment = ("HTTPS_PROXY".to_owned(), SECRET.to_owned());
    lab.b.punchd.env.push(environment);
    for host in [&mut lab.a, &mut lab.b] {
        let only = "table inet only { chain here { type filter hook output priority 0; \
            oifname { \"lo\", \"punch0\" } accept; ip daddr 203.0.113.2 tcp dport 3128 accept; drop; }; }";
        host.exec_ok(&["nft", only]);
        host.punchd
            .env
            .push(("SSL_CERT_FILE".to_owned(), chain.clone()));
        host.start();
    }
    lab.introduce();
    for host in lab.hosts() {
        host.wait_for_server(url);
        let list = host.ctl_ok(&["server", "list"]);
        assert!(
            list.contains(&format!("through the proxy http://{PLACE}")),
            "{list}"
        );
    }
    let said = lab.a.ctl_ok(&["up", "b", "--timeout", "30"]);
    assert!(said.contains("relayed by wss://signal.corp"), "{said}");
    let _echo = Echo::start(&lab.b, "127.0.0.1:7000");
    lab.b.ctl_ok(&["forward", "tcp", "7000"]);
    lab.a.expect_echo(SocketAddr::new(lab.b.ipv4(), 7000));
    assert_eq!(proxy.accepted(), 2, "one connection for each daemon");
    for host in lab.hosts() {
        expect_no_secret(host);
    }
}

#[test]
fn what_a_proxy_does_wrong_is_told_with_what_to_do() {
    need_lab!();
    let mut lab = Lab::bare("prob", Kinds::Apart("open", "open"), &[]);
    lab.start_signal();
    configure(&lab.a, &format!("[signal]\nproxy = \"{SECRET}\"\n"));
    lab.a.start();
    let url = "ws://signal.corp:8080/";
    let add = |lab: &Lab| lab.a.ctl_ok(&["server", "add", "signal", url]);
    let remove = |lab: &Lab| lab.a.ctl_ok(&["server", "remove", "signal", url]);
    add(&lab);
    lab.a.wait_for_trouble(url, "refuses connections");
    remove(&lab);
    let (_proxy, manner) = proxy(&lab, Manner::Silent);
    for (bad, words) in [
        (
            Manner::Says("HTTP/1.1 407 no\r\nProxy-Authenticate: Basic\r\n\r\n"),
            "does not take this user and password (407)",
        ),
        (
            Manner::Says("HTTP/1.1 502 Bad Gateway\r\n\r\n<html>"),
            "cannot reach signal.corp:8080 (502)",
        ),
        (
            Manner::Says("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Log in</html>"),
            "with a page",
        ),
        (Manner::Says("<html>"), "does not speak HTTP"),
        (Manner::Says(""), "closed the connection"),
        (Manner::Endless, "answers without an end"),
        (Manner::Silent, "has not answered for 8 s"),
    ] {
        *manner.lock().unwrap() = bad;
        add(&lab);
        lab.a
            .wait_for_trouble(url, &format!("the proxy http://{PLACE} "));
        lab.a.wait_for_trouble(url, words);
        let list = lab.a.ctl_ok(&["server", "list"]);
        assert!(list.contains(words), "{words}: {list}");
        remove(&lab);
    }
    *manner.lock().unwrap() = Manner::Good;
    add(&lab);
    lab.a.wait_for_server(url);
    expect_no_secret(&lab.a);

    // A proxy without the password that it wants, by the environment; one whose name nobody knows; one that cannot be.
    let wants = format!("http://{PLACE}");
    let folder = format!("/etc/netns/{}", lab.a.namespace);
    fs::create_dir_all(&folder).unwrap();
    fs::write(format!("{folder}/resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    for (variable, value, words) in [
        (
            "http_proxy",
            wants.as_str(),
            "wants a user and a password (407)",
        ),
        (
            "ALL_PROXY",
            "http://proxy.invalid:3128",
            "http://proxy.invalid:3128 is not found",
        ),
        (
            "HTTP_PROXY",
            "socks5://u:secret@p:1",
            "the environment's HTTP_PROXY cannot be used",
        ),
    ] {
        lab.a.configure("");
        lab.a.punchd.env = vec![(variable.to_owned(), value.to_owned())];
        lab.a.restart();
        lab.a.wait_for_trouble(url, words);
        expect_no_secret(&lab.a);
    }
    // The setting wins over the environment. Without a proxy nobody knows the server's name.
    lab.a.configure("[signal]\nproxy = \"none\"\n");
    lab.a.restart();
    lab.a.wait_for_trouble(url, "its name is not found");
    lab.a.stop();
}

#[test]
fn a_proxy_that_dies_is_used_again_when_it_is_back() {
    need_lab!();
    let mut lab = Lab::bare("prod", Kinds::Apart("open", "open"), &[]);
    lab.start_signal();
    let proxy_of = |lab: &Lab| {
        let manner = Manner::Good;
        proxy(lab, manner).0
    };
    configure(
        &lab.a,
        &format!("[signal]\nservers = [\"ws://signal.corp:8080\"]\nproxy = \"{SECRET}\"\n"),
    );
    let first = proxy_of(&lab);
    lab.a.start();
    let url = "ws://signal.corp:8080/";
    lab.a.wait_for_server(url);
    drop(first);
    lab.signal.stop();
    lab.a.wait_for_trouble(url, "refuses connections");
    lab.start_signal();
    let _second = proxy_of(&lab);
    wait_until(2 * PATIENCE, "it is connected again", || {
        lab.a.server(url).unwrap()["state"] == "connected"
    });
}
