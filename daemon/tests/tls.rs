//! punch-signal with TLS of its own, and what punchd makes of its certificate.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use harness::{Kinds, Lab, program, run};
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

const NATS: (&str, &str) = ("port-restricted", "port-restricted");

/// A certificate for `names` by a CA of its own, as NAME-ca.pem, NAME.pem and NAME.key.
fn certificate(dir: &Path, name: &str, names: &[&str], expired: bool) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let called = format!("the CA of {name}");
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, called);
    let key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap();
    let issuer = Issuer::new(authority, key);
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut leaf = CertificateParams::new(names).unwrap();
    if expired {
        leaf.not_before = date_time_ymd(2020, 1, 1);
        leaf.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let chain = leaf.signed_by(&key, &issuer).unwrap();
    fs::write(dir.join(format!("{name}-ca.pem")), root.pem()).unwrap();
    fs::write(dir.join(format!("{name}.pem")), chain.pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// punch-signal with such a certificate, started; both hosts trust its CA alone.
fn with_tls(hint: &str, name: &str, names: &[&str], expired: bool) -> (Lab, String) {
    let mut lab = Lab::bare(hint, Kinds::Apart(NATS.0, NATS.1), &[]);
    certificate(&lab.dir, name, names, expired);
    let file = |end: &str| lab.dir.join(format!("{name}{end}")).display().to_string();
    let (chain, key, root) = (file(".pem"), file(".key"), file("-ca.pem"));
    for (option, value) in [("--tls-cert", chain), ("--tls-key", key)] {
        lab.signal.argv.extend([option.to_owned(), value]);
    }
    lab.start_signal();
    lab.stun.start();
    for host in [&mut lab.a, &mut lab.b] {
        host.punchd
            .env
            .push(("SSL_CERT_FILE".to_owned(), root.clone()));
        host.start();
    }
    lab.introduce();
    let url = format!("wss://{}:8080/", lab.env("SERVER_IPV4"));
    (lab, url)
}

#[test]
fn hosts_connect_through_a_signalling_server_with_tls() {
    need_lab!();
    let (lab, url) = with_tls("tls", "good", &["203.0.113.1", "2001:db8::1"], false);
    for host in lab.hosts() {
        host.ctl_ok(&["server", "add", "signal", &url]);
        host.ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
        host.wait_for_server(&url);
    }
    lab.connect();
    // Somebody who does not speak TLS, or does not go on, keeps nobody else waiting.
    let address = format!("{}:8080", lab.env("SERVER_IPV4")).parse().unwrap();
    let mut strangers = Vec::new();
    for text in ["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "", ""] {
        let mut stranger = lab.a.connect_tcp(address).unwrap();
        stranger.write_all(text.as_bytes()).unwrap();
        strangers.push(stranger);
    }
    let mut lab = lab;
    lab.b.restart();
    lab.b.wait_for_server(&url);
}

#[test]
fn a_certificate_that_is_not_good_is_refused_with_the_reason() {
    need_lab!();
    for (names, expired, ca, words) in [
        (["203.0.113.1"], true, "bad-ca.pem", "expired"),
        (["203.0.113.99"], false, "bad-ca.pem", "not valid for"),
        (["203.0.113.1"], false, "other-ca.pem", "UnknownIssuer"),
    ] {
        let (mut lab, url) = with_tls("cert", "bad", &names, expired);
        certificate(&lab.dir, "other", &[], false);
        let trusted = lab.dir.join(ca).display().to_string();
        lab.a.punchd.env[0].1 = trusted;
        lab.a.restart();
        lab.a.ctl_ok(&["server", "add", "signal", &url]);
        lab.a.wait_for_trouble(&url, words);
        // Nothing else breaks: a server without TLS beside it serves both.
        let _plain = lab.another_signal(8081);
        let plain = format!("ws://{}:8081/", lab.env("SERVER_IPV4"));
        for host in lab.hosts() {
            host.ctl_ok(&["server", "add", "signal", &plain]);
            host.ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
        }
        lab.connect();
        lab.a.wait_for_trouble(&url, words);
    }
}

/// A renewal: files of the name `good` with what was made under another name.
fn renew(dir: &Path, from: &str, what: &str) {
    let text = fs::read(dir.join(format!("{from}{what}"))).unwrap();
    fs::write(dir.join(format!("good{what}")), text).unwrap();
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_bad_one_is_not() {
    need_lab!();
    let names = ["203.0.113.1"];
    let (mut lab, url) = with_tls("renw", "good", &names, false);
    certificate(&lab.dir, "next", &names, false);
    let add = |host: &harness::Host| host.ctl_ok(&["server", "add", "signal", &url]);
    add(&lab.a);
    lab.a.wait_for_server(&url);

    // Half of a renewal: the chain does not fit the key, so the one from before is shown.
    renew(&lab.dir, "next", ".pem");
    lab.signal.signal(nix::sys::signal::Signal::SIGHUP);
    lab.signal.wait_for_log("stays in use");
    add(&lab.b);
    lab.b.wait_for_server(&url);

    renew(&lab.dir, "next", ".key");
    lab.signal.signal(nix::sys::signal::Signal::SIGHUP);
    lab.signal.wait_for_log("was read again");
    // Who stands goes on; who comes anew trusts the old authority alone.
    let stands = lab.a.server(&url).unwrap();
    assert_eq!(stands["state"], "connected", "{stands}");
    lab.b.restart();
    lab.b.wait_for_trouble(&url, "UnknownIssuer");
    let root = lab.dir.join("next-ca.pem").display().to_string();
    lab.b.punchd.env[0].1 = root;
    lab.b.restart();
    lab.b.wait_for_server(&url);
}

#[test]
fn punch_signal_says_what_is_wrong_with_certificate_and_key() {
    let dir = std::env::temp_dir().join(format!("punch-test-pem-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    certificate(&dir, "one", &["localhost"], false);
    certificate(&dir, "two", &["localhost"], false);
    fs::write(dir.join("noise"), [7; 999]).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let start = |certificate: &str, key: &str| {
        let mut command = Command::new(program("punch-signal"));
        command.args(["--listen", "127.0.0.1:0"]);
        command.args(["--tls-cert", certificate, "--tls-key", key]);
        run(&mut command)
    };
    let mut outcomes = Vec::new();
    for (certificate, key, named) in [
        ("missing.pem", "one.key", "missing.pem"),
        ("one.pem", "missing.key", "missing.key"),
        ("noise", "one.key", "noise"),
        ("one.pem", "noise", "noise"),
        ("empty", "one.key", "empty"),
        ("one.pem", "empty", "empty"),
        ("one.pem", "one.pem", "one.pem"),
        ("one.pem", "two.key", "do not fit together"),
    ] {
        outcomes.push((named, start(&file(certificate), &file(key))));
    }
    fs::remove_dir_all(&dir).unwrap();
    for (named, outcome) in outcomes {
        assert_eq!(outcome.status, 1, "{named}: {outcome:?}");
        let said = outcome.stderr.lines().last().unwrap_or_default();
        assert!(
            said.starts_with("punch-signal: ") && said.contains(named),
            "{named}: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
    let mut half = Command::new(program("punch-signal"));
    let half = run(half.args(["--listen", "127.0.0.1:0", "--tls-cert", "one.pem"]));
    assert_eq!(half.status, 2, "{half:?}");
    assert!(half.stderr.contains("--tls-key"), "{half:?}");
}
