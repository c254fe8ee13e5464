//! `/metrics` of both daemons, as Prometheus reads it and as daemon/docs/metrics.md describes it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use harness::{Kinds, Lab, Namespace, PATIENCE, wait_until};

const DESCRIBED: &str = include_str!("../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../packaging/grafana/punch.json");

/// The samples of an exposition by name and labels. Everything that the format asks for is checked on the way.
struct Metrics {
    samples: BTreeMap<String, f64>,
    names: BTreeSet<String>,
}

impl Metrics {
    #[track_caller]
    fn parse(text: &str) -> Self {
        let (mut samples, mut names) = (BTreeMap::new(), BTreeSet::new());
        let (mut helped, mut current) = (String::new(), (String::new(), String::new()));
        assert!(text.ends_with('\n'), "the last line ends, too");
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                assert!(!help.is_empty(), "{line}");
                helped = name.to_owned();
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert_eq!(name, helped, "HELP comes first");
                assert!(["gauge", "counter"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(names.insert(name.to_owned()), "{name} comes once");
                current = (name.to_owned(), kind.to_owned());
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect(line);
            let name = series.split('{').next().unwrap();
            assert_eq!(name, current.0, "samples stand below their TYPE");
            let value: f64 = value.parse().expect(line);
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert!(samples.insert(series.to_owned(), value).is_none(), "{line}");
        }
        Self { samples, names }
    }

    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        let found = self.samples.get(series);
        *found.unwrap_or_else(|| panic!("no {series}: {:#?}", self.samples))
    }
}

/// The names in the first column of a part's table.
fn described(part: &str) -> BTreeSet<String> {
    let (_, rest) = DESCRIBED.split_once(&format!("\n## {part}\n")).unwrap();
    let rest = rest.split("\n## ").next().unwrap();
    let rows = rest
        .lines()
        .filter_map(|line| line.strip_prefix("| `punch"));
    rows.map(|row| format!("punch{}", row.split('`').next().unwrap()))
        .collect()
}

fn get(host: &Namespace, arguments: &[&str]) -> String {
    host.exec_ok(&[&["curl", "-sS", "--fail", "--max-time", "10"], arguments].concat())
}

#[test]
fn punchd_counts_what_is_described_on_its_socket_and_over_tcp_if_asked_to() {
    need_lab!();
    let mut lab = Lab::new("metr", "full-cone", "full-cone");
    // Nobody answers there, and that is counted, too.
    lab.a.configure(
        "[metrics]\nlisten = \"127.0.0.1:9586\"\n[dht]\nbootstrap = [\"127.0.0.1:6881\"]\n",
    );
    lab.a.restart();
    lab.connect();
    lab.b.ctl_ok(&["forward", "tcp", "5432"]);
    lab.a.ctl_ok(&["forward", "udp", "53", "--peer", "b"]);
    lab.a.ctl_ok(&["ping", "b", "-c", "1"]);

    let socket = lab.a.socket.display().to_string();
    let on_socket = || get(&lab.a, &["--unix-socket", &socket, "http://punch/metrics"]);
    // The first check after the connection tells the round trip.
    wait_until(PATIENCE, "a round trip", || {
        on_socket().contains("punch_peer_rtt_seconds{peer=\"b\"}")
    });
    let metrics = Metrics::parse(&on_socket());
    assert_eq!(metrics.names, described("punchd"));
    assert_eq!(metrics.value("punch_peer_wanted{peer=\"b\"}"), 1.0);
    assert_eq!(metrics.value("punch_peer_connected{peer=\"b\"}"), 1.0);
    assert!(metrics.value("punch_peer_received_bytes_total{peer=\"b\"}") > 0.0);
    let since = metrics.value("punch_peer_path_start_time_seconds{peer=\"b\"}");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(since > now - 600.0 && since <= now, "{since} {now}");
    let open = "punch_forward_open_connections{protocol=\"udp\",ports=\"53\"}";
    assert_eq!(metrics.value(open), 0.0);
    for series in metrics.samples.keys() {
        if let Some(rest) = series.strip_prefix("punch_dropped_packets_total{reason=\"") {
            let reason = rest.trim_end_matches("\"}");
            assert!(DESCRIBED.contains(&format!("| `{reason}` |")), "{reason}");
        }
    }

    let over_tcp = Metrics::parse(&get(&lab.a, &["http://127.0.0.1:9586/metrics"]));
    assert_eq!(over_tcp.names, metrics.names);
    let other = lab
        .a
        .exec(&["curl", "-sS", "--fail", "http://127.0.0.1:9586/v1/status"]);
    assert!(!other.success(), "TCP serves nothing else: {other:?}");
    for (host, status) in [("localhost:9586", "200"), ("rebound.example:9586", "421")] {
        let host = format!("Host: {host}");
        let url = "http://127.0.0.1:9586/metrics";
        let said = ["curl", "-sS", "-w", "%{http_code}", "-H", &host, url];
        assert!(lab.a.exec_ok(&said).trim_end().ends_with(status), "{host}");
    }
}

#[test]
fn punch_signal_counts_what_is_described() {
    need_lab!();
    let lab = Lab::connected("metg", "full-cone", "full-cone");
    let server = lab.namespace("server");
    let metrics = Metrics::parse(&get(&server, &["http://127.0.0.1:8080/metrics"]));
    assert_eq!(metrics.names, described("punch-signal"));
    assert_eq!(metrics.value("punch_signal_online"), 2.0);
    assert_eq!(metrics.value("punch_signal_connections"), 2.0);
    assert!(metrics.value("punch_signal_delivered_total") >= 2.0);
}

#[test]
fn a_metrics_address_that_is_taken_stops_the_start_and_one_that_comes_later_does_not() {
    need_lab!();
    let mut lab = Lab::bare("mett", Kinds::Apart("open", "open"), &[]);
    lab.a.configure("[metrics]\nlisten = \"127.0.0.1:9586\"\n");
    let taken = lab
        .a
        .inside(|| TcpListener::bind("127.0.0.1:9586").unwrap());
    let argv: Vec<&str> = lab.a.punchd.argv.iter().map(String::as_str).collect();
    let output = lab.a.exec(&argv);
    assert_eq!(output.status, 1, "{output:?}");
    for part in ["127.0.0.1:9586", "[metrics]", "in use"] {
        assert!(output.stderr.contains(part), "{output:?}");
    }
    drop(taken);

    lab.a.configure("[metrics]\nlisten = \"192.0.2.77:95\"\n");
    lab.a.start();
    lab.a
        .exec_ok(&["ip", "address", "add", "192.0.2.77/32", "dev", "lo"]);
    Metrics::parse(&get(&lab.a, &["http://192.0.2.77:95/metrics"]));
}

#[test]
fn a_reader_of_metrics_that_says_nothing_holds_up_nobody_for_long() {
    need_lab!();
    let mut lab = Lab::bare("mets", Kinds::Apart("open", "open"), &[]);
    lab.a.configure("[metrics]\nlisten = \"127.0.0.1:9586\"\n");
    lab.a.start();
    let files = lab.a.open_files();
    let idle: Vec<_> = (0..10)
        .map(|_| {
            lab.a
                .inside(|| TcpStream::connect("127.0.0.1:9586").unwrap())
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        lab.a.open_files() <= files + 1,
        "one is served, the others wait"
    );
    lab.a.ctl_ok(&["status"]);
    drop(idle);
    Metrics::parse(&get(&lab.a, &["http://127.0.0.1:9586/metrics"]));
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let known: BTreeSet<_> = &described("punchd") | &described("punch-signal");
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            asked.extend(
                words
                    .filter(|word| word.starts_with("punch_"))
                    .map(str::to_owned),
            );
        }
    }
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let unused: Vec<_> = known.difference(&asked).map(String::as_str).collect();
    assert_eq!(unused, ["punch_build_info", "punch_signal_build_info"]);
}
