//! What punchctl says of NATs and paths; a thread plays punchd.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod common;

use std::process::{Command, Output};
use std::time::SystemTime;

use common::Socket;
use punch_api::{
    AddressFamily, Allocation, AllocationView, Budget, BudgetView, Filtering, LossView, Mapping,
    MappingProtocol, NatView, NetcheckView, OpenEnum, PathKind, PathReason, PathView, PeerState,
    PortMappingView, PortsView, ProbeKind, ProbeView, StepView, WhyView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Runs punchctl against a punchd that gives this answer once; returns the request's first line too.
fn ask(arguments: &[&str], status: &str, body: &str) -> (Output, String) {
    let socket = Socket::new();
    let punchd = socket.answer_once(status, body);
    let output = Command::new(env!("CARGO_BIN_EXE_punchctl"))
        .arg("--socket")
        .arg(&socket.0)
        .args(arguments)
        .output()
        .unwrap();
    (output, punchd.join().unwrap())
}

/// The lines that punchctl prints for this answer.
#[track_caller]
fn says(arguments: &[&str], answer: &impl Serialize) -> Vec<String> {
    let (output, _) = ask(arguments, "200 OK", &serde_json::to_string(answer).unwrap());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn nat(summary: &str, addresses: &[&str]) -> NatView {
    NatView {
        summary: summary.to_owned(),
        mapping: None,
        filtering: None,
        allocation: None,
        addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

/// An alternative that punchd writes as this word.
fn word<T: DeserializeOwned>(word: &str) -> T {
    serde_json::from_value(word.into()).unwrap()
}

fn step(name: &str, chance: f64, outcome: &str) -> StepView {
    StepView {
        step: word(name),
        chance,
        typical_s: 1.0,
        expected_s: None,
        outcome: word(outcome),
        mappings: 1,
        packets: 12,
        peak_rate: 0,
        refused_sockets: 0,
        took_s: 0.25,
    }
}

/// Milliseconds since 1970.
fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_millis()).unwrap()
}

fn why() -> WhyView {
    WhyView {
        peer: "db".parse().unwrap(),
        state: PeerState::Connecting.into(),
        path: None,
        summary: "No direct path to db so far.".to_owned(),
        refused: None,
        obstacle: None,
        plain: None,
        mine: Some(nat("hard NAT", &["192.0.2.1", "192.0.2.2"])),
        theirs: None,
        steps: vec![
            step("checks", 0.0, "exhausted"),
            StepView {
                expected_s: Some(22_370.0),
                mappings: 4096,
                packets: 4096,
                peak_rate: 970,
                took_s: 5.7,
                ..step("birthday", 0.004, "exhausted")
            },
        ],
        failures: 3,
        retry_in_s: Some(61.25),
        budget: BudgetView {
            name: Budget::Normal.into(),
            mappings: 4096,
            packets_per_s: 1000,
            packets_per_address: 12_000,
            duration_s: 12,
        },
        advice: vec!["Do this.".to_owned(), "Or that.".to_owned()],
    }
}

#[test]
fn a_search_without_success_is_told_with_its_cost_and_what_would_help() {
    assert_eq!(
        says(&["why", "db"], &why()),
        [
            "No direct path to db so far.",
            "",
            "here    hard NAT (192.0.2.1, 192.0.2.2)",
            "there   not known yet",
            "",
            "ordinary checks\t0 %\tfound none\t1\t12\t-\t0.2 s",
            "birthday search\t0.40 %\tfound none\t4096\t4096\t970/s\t5.7 s",
            "On average one attempt succeeds in 6 h.",
            "3 attempts have failed; the next begins in 61 s.",
            "budget  normal: at most 4096 mappings alive, 1000 packets/s, 12000 packets to one address, 12 s for a search",
            "",
            "- Do this.",
            "- Or that.",
        ]
    );
}

#[test]
fn a_chance_that_is_next_to_none_is_not_told_as_zero() {
    let view = WhyView {
        steps: vec![step("birthday", 0.000_001, "too_unlikely")],
        ..why()
    };
    let text = says(&["why", "db"], &view).join("\n");
    assert!(text.contains("birthday search\t< 0.01 %\t"), "{text}");
}

#[test]
fn a_path_is_told_with_what_has_found_it() {
    let view = WhyView {
        state: PeerState::Connected.into(),
        path: Some(PathView {
            via: None,
            nat64: None,
            mtu: Some(1420),
            remote: "192.0.2.9:4000".parse().unwrap(),
            kind: PathKind::PeerReflexive.into(),
            rtt_ms: Some(3.25),
            loss: Some(LossView {
                fraction: 0.025,
                samples: 40,
                window_s: 600,
            }),
            since_ms: Some(wall_ms() - 11_525_000),
            reason: Some(PathReason::Promoted.into()),
            because: Some("a more direct path was found".to_owned()),
            met_over: None,
            detour: None,
        }),
        theirs: Some(nat("easy NAT", &[])),
        steps: vec![
            step("checks", 1.0, "not_needed"),
            step("hold_and_probe", 0.98, "found"),
        ],
        failures: 0,
        retry_in_s: None,
        advice: Vec::new(),
        ..why()
    };
    let lines = says(&["why", "db"], &view);
    assert_eq!(
        lines[1..3],
        [
            "path    192.0.2.9:4000 (peer-reflexive, 3.2 ms), MTU 1420, loss 2.5 % of 40 checks within 10 min",
            "since   3 h 12 min ago: a more direct path was found",
        ]
    );
    let text = lines.join("\n");
    for part in [
        "there   easy NAT\n",
        "ordinary checks\t100 %\tnot needed",
        "hold and probe\t98 %\tfound the path",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    for part in ["failed", "On average", "\n- "] {
        assert!(!text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn every_outcome_has_words_and_an_unknown_one_is_shown_as_it_is() {
    for (outcome, words) in [
        ("waiting", "waiting"),
        ("running", "running"),
        ("over_budget", "waits for the budget"),
        ("no_sockets", "no socket could be opened"),
        ("no_prediction", "the ports could not be predicted"),
        ("unmeasured", "not made: a NAT is not measured"),
        ("too_unlikely", "not made: too unlikely"),
        ("ports_used_up", "stopped: the NAT's ports are used up"),
        ("unwatched", "stopped: no STUN server answers"),
        ("of_the_future", "of_the_future"),
    ] {
        let view = WhyView {
            steps: vec![step("meet", 0.5, outcome), step("telepathy", 0.5, outcome)],
            failures: 1,
            retry_in_s: None,
            ..why()
        };
        let text = says(&["why", "db"], &view).join("\n");
        for part in [
            words,
            "meet at predicted ports",
            "telepathy",
            "1 attempt has failed.",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}

#[test]
fn json_is_what_punchd_has_said() {
    let view = why();
    let text = serde_json::to_string(&view).unwrap();
    let (output, request) = ask(&["why", "db", "--json"], "200 OK", &text);
    assert!(request.starts_with("GET /v1/peers/db/why "), "{request}");
    assert!(output.status.success());
    assert_eq!(
        serde_json::from_slice::<WhyView>(&output.stdout).unwrap(),
        view
    );
}

#[test]
fn refusals_and_answers_of_another_version_are_told_in_a_line() {
    let refusal = r#"{"error":{"code":"not_found","message":"no peer is called db"}}"#;
    let (output, _) = ask(&["why", "db"], "404 Not Found", refusal);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text, "punchctl: no peer is called db\n");
    let (output, _) = ask(&["why", "db"], "200 OK", "{\"peer\":\"db\"}");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("another version"), "{text}");
}

fn netcheck() -> NetcheckView {
    NetcheckView {
        family: AddressFamily::Ipv4.into(),
        udp_blocked: false,
        public: Some("192.0.2.1:40000".parse().unwrap()),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        mapping: Some(Mapping::AddressAndPortDependent.into()),
        filtering: None,
        preserves_port: Some(false),
        allocation: Some(Allocation::Random.into()),
        ports: PortsView::default(),
        hairpinning: None,
        lifetime_s: None,
        opening_ttl: None,
        double_nat: None,
        evidence: Vec::new(),
        port_mapping: None,
    }
}

#[test]
fn everything_that_a_netcheck_knows_is_told() {
    let probe = |probe: ProbeKind, port: Option<u16>| ProbeView {
        server: "198.51.100.1:3478".parse().unwrap(),
        probe: probe.into(),
        mapped: port.map(|port| ([192, 0, 2, 1], port).into()),
        rtt_ms: port.map(|_| 3.25),
    };
    let mut evidence = vec![
        probe(ProbeKind::Binding, Some(40_000)),
        probe(ProbeKind::AnswerFromOtherPort, None),
    ];
    evidence.extend((1..=14).map(|port| probe(ProbeKind::Sample, Some(port))));
    let view = NetcheckView {
        addresses: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        allocation: Some(
            Allocation::Sequential {
                step: -2,
                others: 7,
            }
            .into(),
        ),
        ports: PortsView {
            capacity: Some(400),
            used_up: false,
        },
        hairpinning: Some(true),
        lifetime_s: Some(40),
        opening_ttl: Some(3),
        double_nat: Some(true),
        evidence,
        port_mapping: Some(PortMappingView {
            protocol: Some(MappingProtocol::Pcp.into()),
            external: Some("100.64.0.1:4000".parse().unwrap()),
            trouble: None,
            double_nat: true,
        }),
        ..netcheck()
    };
    assert_eq!(
        says(&["netcheck"], &[view]),
        [
            "IPv4: servers see this machine as 192.0.2.1:40000",
            "  mapping    address- and port-dependent (hard, \"symmetric\": another public port for each destination)",
            "  filtering  not known: no server with two addresses answered (RFC 5780)",
            "  port       is changed by the NAT",
            "  router     maps 100.64.0.1:4000 here (PCP); double NAT: only machines behind the same carrier reach that address",
            "  ports      the NAT gives each new mapping the last port -2 while others take about 7 a second",
            "  capacity   400 mappings for this machine and all that share them; a search leaves some",
            "  addresses  192.0.2.1, 192.0.2.2",
            "  hairpin    works",
            "  lifetime   an unused mapping lives 40 s or more",
            "  depth      the filter is 2 hops away, not the nearest router",
            "  14 samples, ports 1 2 3 4 5 6 7 8 9 10 11 12 …",
            "  198.51.100.1:3478 binding: 192.0.2.1:40000 in 3.2 ms",
            "  198.51.100.1:3478 answer from other port: no answer",
        ]
    );
}

#[test]
fn each_way_to_allot_ports_has_words() {
    for (allocation, words) in [
        (
            Allocation::Preserving.into(),
            "keeps the local port wherever it is free",
        ),
        (
            Allocation::Sequential { step: 3, others: 0 }.into(),
            "gives each new mapping the last port +3",
        ),
        (
            Allocation::Block {
                low: 40_000,
                high: 41_023,
            }
            .into(),
            "takes ports at random between 40000 and 41023",
        ),
        (Allocation::Random.into(), "takes ports at random"),
        (
            AllocationView::Unknown {
                model: "by_the_moon".to_owned(),
            },
            "allots ports by `by the moon`, which is newer than this version",
        ),
    ] {
        let view = NetcheckView {
            allocation: Some(allocation),
            ..netcheck()
        };
        let lines = says(&["netcheck"], &[view]);
        let line = format!("  ports      the NAT {words}");
        assert!(lines.contains(&line), "no {line:?} in {lines:#?}");
    }
    let blocked = NetcheckView {
        udp_blocked: true,
        public: None,
        mapping: None,
        allocation: None,
        ..netcheck()
    };
    let used_up = NetcheckView {
        udp_blocked: false,
        ports: PortsView {
            capacity: None,
            used_up: true,
        },
        ..blocked.clone()
    };
    let lines = says(&["netcheck"], &[blocked]);
    assert!(lines[0].contains("UDP is blocked"), "{lines:#?}");
    let lines = says(&["netcheck"], &[used_up]);
    assert!(lines[0].contains("ports are used up"), "{lines:#?}");
    assert!(!lines[0].contains("UDP is blocked"), "{lines:#?}");
    let none: [NetcheckView; 0] = [];
    assert_eq!(
        says(&["netcheck"], &none),
        ["this machine has no address to check"]
    );
}

#[test]
fn each_mapping_and_filtering_behaviour_has_words_and_an_unknown_one_hides_nothing() {
    for (mapping, filtering, words) in [
        (
            Mapping::EndpointIndependent.into(),
            Filtering::EndpointIndependent.into(),
            [
                "  mapping    endpoint-independent (easy: one public port for all destinations)",
                "  filtering  endpoint-independent (lets everybody in)",
            ],
        ),
        (
            Mapping::AddressDependent.into(),
            Filtering::AddressDependent.into(),
            [
                "  mapping    address-dependent (hard: another public port for each address)",
                "  filtering  address-dependent (lets in only addresses that were contacted before)",
            ],
        ),
        (
            Mapping::Dependent.into(),
            Filtering::AddressAndPortDependent.into(),
            [
                "  mapping    depends on the destination (hard: another public port for each destination)",
                "  filtering  address- and port-dependent (lets in only addresses and ports that were contacted before)",
            ],
        ),
        (
            OpenEnum::Unknown("name_dependent".to_owned()),
            OpenEnum::Unknown("by_mood".to_owned()),
            [
                "  mapping    `name dependent`, which is newer than this version",
                "  filtering  `by mood`, which is newer than this version",
            ],
        ),
    ] {
        let view = NetcheckView {
            mapping: Some(mapping),
            filtering: Some(filtering),
            ..netcheck()
        };
        let lines = says(&["netcheck"], &[view]);
        for line in words
            .into_iter()
            .chain(["  port       is changed by the NAT"])
        {
            assert!(
                lines.iter().any(|said| said == line),
                "no {line:?} in {lines:#?}"
            );
        }
    }
}
