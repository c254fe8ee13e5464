//! The DHT: nothing of it before somebody has said so, nodes of one's own, silence.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use harness::{Host, Kinds, Lab, PATIENCE, wait_until};
use serde_json::Value;
use std::time::{Duration, Instant};

fn lab(hint: &str, kind: &str) -> Lab {
    Lab::bare(hint, Kinds::Apart(kind, "port-restricted"), &[])
}

fn dht(host: &Host) -> Value {
    host.ctl_json(&["status"])["dht"].clone()
}

#[track_caller]
fn wait_for_nodes(host: &Host) {
    wait_until(PATIENCE, "nodes of the DHT answer", || {
        dht(host)["nodes"].as_u64().unwrap_or_default() >= 8
    });
}

/// No packet of it leaves before; with it, nodes are known, and this machine's public address; removed, it is as before.
#[test]
fn nothing_of_the_dht_runs_before_a_user_has_said_so() {
    need_lab!();
    let mut lab = lab("dhta", "port-restricted");
    let (_dht, node) = lab.dht(30);
    let queries = lab.server.count("input", "iifname != lo udp dport 6881");
    lab.a.start();
    assert_eq!(dht(&lab.a), Value::Null);
    assert_eq!(lab.a.ctl_json(&["server", "list"]), serde_json::json!([]));
    assert_eq!(queries.packets(), 0);

    let text = lab.a.ctl_ok(&["server", "add", "dht", &node]);
    assert!(text.contains("is in use"), "{text}");
    wait_for_nodes(&lab.a);
    assert_ne!(queries.packets(), 0);
    let public = lab.env("A_PUBLIC_IPV4").to_owned();
    wait_until(PATIENCE, "it learns where it is seen", || {
        dht(&lab.a)["address"] == public
    });
    let shown = lab.a.ctl_ok(&["status"]);
    assert!(shown.contains("nodes known"), "{shown}");
    lab.a.restart();
    lab.a.wait_for_server(&node);

    lab.a.ctl_ok(&["server", "remove", "dht", &node]);
    assert_eq!(dht(&lab.a), Value::Null);
}

/// Named in punchd.toml it is on, and no user can remove it.
#[test]
fn nodes_of_ones_own_are_used_and_stay() {
    need_lab!();
    let mut lab = lab("dhtb", "open");
    let (_dht, node) = lab.dht(30);
    lab.a
        .configure(&format!("[dht]\nbootstrap = [\"{node}\"]\n"));
    lab.a.start();
    wait_for_nodes(&lab.a);
    assert_eq!(lab.a.server(&node).unwrap()["fixed"], true);
    let text = lab.a.ctl_refused(&["server", "remove", "dht", &node]);
    assert!(text.contains("punchd.toml"), "{text}");
}

/// Where UDP does not pass, or names are not found, that is said; and consent can be taken back.
#[test]
fn a_dht_that_does_not_answer_is_said_to_be_silent() {
    need_lab!();
    let mut lab = lab("dhtc", "udp-blocked");
    let (_dht, node) = lab.dht(10);
    lab.a.start();
    lab.a.ctl_ok(&["server", "add", "dht", &node]);
    lab.a.wait_for_trouble(&node, "may not let UDP through");
    lab.a.ctl_ok(&["server", "remove", "dht", &node]);

    let text = lab.a.ctl_ok(&["server", "add", "public"]);
    assert!(text.contains("public DHT"), "{text}");
    let view = lab.a.server("public").unwrap();
    assert_eq!(view["kind"], "public");
    assert_ne!(view["state"], "connected");
    lab.a.restart();
    assert_ne!(dht(&lab.a), Value::Null, "what was allowed stays so");
    lab.a.ctl_ok(&["server", "remove", "public"]);
    assert_eq!(dht(&lab.a), Value::Null);
    let text = lab.a.ctl_refused(&["server", "add", "public", "x.example"]);
    assert!(text.contains("one address too many"), "{text}");
}

/// Once a minute is looked for what nobody waits for, and an answer takes as long again.
const PATIENT: Duration = Duration::from_secs(240);

fn are_connected(lab: &Lab) -> bool {
    lab.a.peer_state("b") == "connected" && lab.b.peer_state("a") == "connected"
}

/// Two machines behind NATs, with no server anywhere: they find each other over the DHT, and once more after both were restarted.
#[test]
fn two_machines_without_any_server_connect_over_the_dht() {
    need_lab!();
    for (hint, a, b) in [
        ("dhtd", "port-restricted", "port-restricted"),
        ("dhte", "symmetric", "full-cone"),
    ] {
        let mut lab = Lab::bare(hint, Kinds::Apart(a, b), &[]);
        let (_dht, node) = lab.dht(30);
        lab.stun.start();
        let config = format!(
            "[dht]\nbootstrap = [\"{node}\"]\n[stun]\nservers = [\"{}\"]\n",
            lab.env("SERVER_IPV4")
        );
        for host in [&mut lab.a, &mut lab.b] {
            host.configure(&config);
            host.start();
        }
        lab.introduce();
        let began = Instant::now();
        lab.a.ctl(&["up", "b", "--timeout", "1"]);
        wait_until(PATIENT, "they are connected", || are_connected(&lab));
        eprintln!("{a} and {b}: connected after {:?}", began.elapsed());
        lab.a.ctl_ok(&["ping", "b", "-c", "1"]);

        lab.b.kill();
        lab.a.kill();
        let began = Instant::now();
        lab.a.start();
        lab.b.start();
        wait_until(PATIENT, "they are connected again", || are_connected(&lab));
        eprintln!("{a} and {b}: connected again after {:?}", began.elapsed());
        lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
    }
}

/// With no STUN server anywhere, the DHT's nodes tell the addresses and what the NATs do, and a direct path is found.
#[test]
fn nodes_of_the_dht_stand_in_for_stun_servers() {
    need_lab!();
    for (hint, kinds, mappings) in [
        (
            "dhtf",
            ("port-restricted", "port-restricted"),
            ["endpoint_independent"; 2],
        ),
        (
            "dhtg",
            ("symmetric", "full-cone"),
            ["dependent", "endpoint_independent"],
        ),
    ] {
        let mut lab = Lab::bare(hint, Kinds::Apart(kinds.0, kinds.1), &[]);
        let (_dht, node) = lab.dht(30);
        lab.a.start();
        let text = lab.a.ctl_refused(&["netcheck"]);
        assert!(text.contains("no STUN server"), "{text}");
        lab.b.start();
        for host in lab.hosts() {
            host.ctl_ok(&["server", "add", "dht", &node]);
        }
        for (host, mapping) in lab.hosts().into_iter().zip(mappings) {
            let public = lab.env(&format!("{}_PUBLIC_IPV4", host.name.to_uppercase()));
            wait_until(PATIENCE, "nodes see this machine", || {
                dht(host)["vantage"].as_u64() == Some(3) && is_told(host, public)
            });
            let views = host.ctl_json(&["netcheck"]);
            let profile = views.as_array().unwrap().iter();
            let profile = profile
                .clone()
                .find(|view| view["family"] == "ipv4")
                .unwrap();
            assert_eq!(profile["mapping"], mapping, "{profile}");
            assert_eq!(
                profile["addresses"],
                serde_json::json!([public]),
                "{profile}"
            );
            assert_eq!(profile["udp_blocked"], false, "{profile}");
            let shown = host.ctl_ok(&["status"]);
            assert!(shown.contains("in place of STUN servers"), "{shown}");
            let listed = host.ctl_json(&["server", "list"]);
            assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        }
        lab.introduce();
        let began = Instant::now();
        lab.a.ctl(&["up", "b", "--timeout", "1"]);
        wait_until(PATIENT, "they are connected", || are_connected(&lab));
        eprintln!("{kinds:?}: connected after {:?}", began.elapsed());
        let path = lab.a.peer("b")["path"].clone();
        assert!(
            path["kind"] != "relayed" && path["remote"].is_string(),
            "{path}"
        );

        lab.a.ctl_ok(&["server", "remove", "dht", &node]);
        let public = lab.env("A_PUBLIC_IPV4").to_owned();
        wait_until(PATIENCE, "nobody tells it any more", || {
            !is_told(&lab.a, &public)
        });
    }
}

/// Whether peers are told this address, as servers or nodes see it.
fn is_told(host: &Host, public: &str) -> bool {
    let status = host.ctl_json(&["status"]);
    let candidates = status["network"]["candidates"].as_array().unwrap().iter();
    let mut seen = candidates.filter(|candidate| candidate["kind"] == "server_reflexive");
    seen.any(|candidate| {
        let address = candidate["address"].as_str().unwrap();
        address.starts_with(&format!("{public}:"))
    })
}
