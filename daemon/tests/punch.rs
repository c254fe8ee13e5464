//! Real programs behind NATs that ordinary checks do not pass: searches for ports, what they cost, and what `why` tells.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;
#[path = "punch/limits.rs"]
mod limits;
#[path = "punch/netcheck.rs"]
mod netcheck;
#[path = "punch/why.rs"]
mod why;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use harness::{Host, Kinds, Lab, PATIENCE, tool, wait_for, wait_until};
use punch_api::{
    Allocation, AllocationView, Budget, Filtering, Mapping, Obstacle, PeerState, Step, StepOutcome,
    StepView, WhyView,
};

/// An attempt that has a chance of 98 % may fail; the next one follows within a minute.
const LONG: Duration = Duration::from_secs(150);

/// `up` on a until both ends are connected.
#[track_caller]
fn connect(lab: &Lab) {
    let began = Instant::now();
    // One attempt in fifty between two random ranges finds nothing, and the next one waits two minutes for the budget.
    let up = (0..6).any(|_| lab.a.ctl(&["up", "b", "--timeout", "60"]).success());
    assert!(
        up,
        "not in 360 s: {:#?}",
        lab.hosts()
            .map(|host| host.ctl(&["why", if host.name == "a" { "b" } else { "a" }]))
    );
    lab.b.wait_for_peer_state("a", "connected");
    eprintln!("connected after {:.1} s", began.elapsed().as_secs_f64());
}

/// No router is asked for a port: what the NATs do is what counts.
fn config(budget: &str, nat: &str) -> String {
    format!("[punch]\nbudget = \"{budget}\"\n[nat]\nport_mapping = false\n{nat}")
}

/// For tests that count sockets: measuring how long mappings live holds seven of them open for minutes.
fn unmeasured(budget: &str) -> String {
    config(budget, "lifetime = 30")
}

/// punchd runs on both with this configuration, and both know their NATs.
#[track_caller]
fn lab(hint: &str, a: &str, b: &str, configs: [&str; 2]) -> Lab {
    let mut lab = Lab::bare(hint, Kinds::Apart(a, b), &[]);
    lab.start_with(configs);
    measure(&lab);
    lab
}

/// Waits for a netcheck on both hosts.
fn measure(lab: &Lab) {
    std::thread::scope(|scope| {
        for host in lab.hosts() {
            scope.spawn(|| host.ctl_ok(&["netcheck"]));
        }
    });
}

fn ends(lab: &Lab) -> [(&Host, &str); 2] {
    [(&lab.a, "b"), (&lab.b, "a")]
}

/// The step after ordinary checks.
#[track_caller]
fn search(view: &WhyView) -> &StepView {
    let found = view.steps.iter().find(|step| step.step != Step::Checks);
    found.unwrap_or_else(|| panic!("there was no search: {view:#?}"))
}

/// The attempt held to what its budget says.
#[track_caller]
fn held_to_budget(view: &WhyView) {
    for step in view.steps.iter().filter(|step| step.step != Step::Checks) {
        let budget = &view.budget;
        assert!(step.mappings <= budget.mappings, "{step:?} {budget:?}");
        assert!(
            step.peak_rate <= budget.packets_per_s,
            "{step:?} {budget:?}"
        );
        assert!(
            step.packets <= budget.packets_per_address,
            "{step:?} {budget:?}"
        );
    }
}

/// Both ends say that this step has found the path, in both forms.
#[track_caller]
fn told(lab: &Lab, step: Step) {
    for (host, peer) in ends(lab) {
        let view = host.why(peer);
        assert_eq!(view.state, PeerState::Connected, "{view:#?}");
        let found: Vec<_> = view
            .steps
            .iter()
            .filter(|step| step.outcome == StepOutcome::Found)
            .map(|step| step.step.clone())
            .collect();
        assert_eq!(found, [step], "on {}: {view:#?}", host.name);
        assert!(view.path.is_some() && view.mine.is_some(), "{view:#?}");
        // Who has just started may answer before it has measured; for ordinary checks nobody needs to know.
        assert!(view.theirs.is_some() || step == Step::Checks, "{view:#?}");
        assert!(view.summary.contains("is direct"), "{}", view.summary);
        assert_eq!(view.failures, 0, "{view:#?}");
        held_to_budget(&view);
        let text = host.ctl_ok(&["why", peer]);
        for part in [
            "is direct",
            "here    ",
            "there   ",
            "found the path",
            "budget",
        ] {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
    }
}

/// Connects, passes packets, tells how, and keeps only the sockets that it needs.
#[track_caller]
fn punches(hint: &str, a: &str, b: &str, step: Step) {
    punches_with(hint, a, b, step, &unmeasured("normal"));
}

/// The same between NATs of which the administrator has said that they have mappings enough: without that, an attempt of these
/// pairs takes so few that about half of them fail.
#[track_caller]
fn punches_in_large_nats(hint: &str, a: &str, b: &str, step: Step) {
    let config = format!("{}\ncapacity = 131072", unmeasured("aggressive"));
    punches_with(hint, a, b, step, &config);
}

#[track_caller]
fn punches_with(hint: &str, a: &str, b: &str, step: Step, config: &str) {
    let lab = lab(hint, a, b, [config, config]);
    let before = lab.hosts().map(Host::udp_sockets);
    connect(&lab);
    for (host, peer) in ends(&lab) {
        host.ctl_ok(&["ping", peer, "-c", "2"]);
    }
    told(&lab, step);
    closed(&lab, before, 1);
}

/// Whatever a search has opened is closed, but for the paths' own sockets.
#[track_caller]
fn closed(lab: &Lab, before: [usize; 2], paths: usize) {
    for (host, before) in lab.hosts().into_iter().zip(before) {
        let what = format!("{} has few sockets open again", host.name);
        wait_until(PATIENCE / 2, &what, || host.udp_sockets() <= before + paths);
    }
}

#[test]
fn symmetric_and_port_restricted() {
    need_lab!();
    punches("symp", "symmetric", "port-restricted", Step::HoldAndProbe);
}

#[test]
fn port_restricted_and_symmetric_from_the_other_side() {
    need_lab!();
    punches("psym", "port-restricted", "symmetric", Step::HoldAndProbe);
}

#[test]
fn symmetric_and_port_restricted_stateful() {
    need_lab!();
    punches(
        "symf",
        "symmetric",
        "port-restricted-stateful",
        Step::HoldAndProbe,
    );
}

#[test]
fn double_symmetric_and_port_restricted() {
    need_lab!();
    punches(
        "dosy",
        "double-symmetric",
        "port-restricted",
        Step::HoldAndProbe,
    );
}

#[test]
fn two_that_count() {
    need_lab!();
    punches("sequ", "sequential-3+10others", "sequential-5", Step::Meet);
}

#[test]
fn one_that_counts_and_one_with_a_block() {
    need_lab!();
    punches_in_large_nats("sbl", "sequential-2", "symmetric-block", Step::Meet);
}

#[test]
fn two_with_blocks() {
    need_lab!();
    punches_in_large_nats("bloc", "symmetric-block", "symmetric-block", Step::Birthday);
}

#[test]
fn address_dependent_and_symmetric() {
    need_lab!();
    punches_in_large_nats("adsy", "address-dependent", "symmetric", Step::HoldAndProbe);
}

#[test]
fn two_that_mind_what_comes_unasked() {
    need_lab!();
    punches(
        "stat",
        "port-restricted-stateful",
        "port-restricted-stateful",
        Step::Checks,
    );
}

/// `up` at once after the start: what is not measured yet is waited for, or made up for.
#[test]
fn a_search_works_right_after_the_start() {
    need_lab!();
    let mut lab = Lab::bare("cold", Kinds::Apart("symmetric", "port-restricted"), &[]);
    lab.start_servers();
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(&config("normal", ""));
        host.start();
    }
    lab.introduce();
    lab.add_servers();
    connect(&lab);
    lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
    told(&lab, Step::HoldAndProbe);
}

#[test]
fn keepalives_hold_what_a_nat_forgets_soon() {
    need_lab!();
    let normal = config("normal", "");
    let kinds = ["port-restricted+15s", "port-restricted"];
    let lab = lab("keep", kinds[0], kinds[1], [&normal, &normal]);
    lab.connect();
    let path = lab.a.peer("b")["path"]["remote"].clone();
    let losses = lab.a.count("output", "udp dport != 3478");
    let until = Instant::now() + Duration::from_secs(40);
    while Instant::now() < until {
        for (host, peer) in ends(&lab) {
            assert_eq!(host.peer_state(peer), "connected", "on {}", host.name);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    // Nothing was lost and found again meanwhile.
    lab.b.ctl_ok(&["ping", "a", "-c", "1"]);
    assert_eq!(lab.a.peer("b")["path"]["remote"], path);
    for host in lab.hosts() {
        let log = host.punchd.log_text();
        let times = log.matches("there is a path").count();
        assert!(times <= 2, "{times} paths in 40 s");
    }
    let sent = losses.packets();
    assert!(
        (2..200).contains(&sent),
        "{sent} packets in 40 s of silence"
    );
}

// --- two that choose at random ---

#[test]
fn alone_two_symmetric_with_an_aggressive_budget() {
    need_lab!();
    let aggressive = unmeasured("aggressive");
    let lab = lab("aggr", "symmetric", "symmetric", [&aggressive, &aggressive]);
    let before = lab.hosts().map(Host::udp_sockets);
    connect(&lab);
    lab.a.ctl_ok(&["ping", "b", "-c", "2"]);
    lab.b.ctl_ok(&["ping", "a", "-c", "2"]);
    for (host, peer) in ends(&lab) {
        let view = host.why(peer);
        eprintln!("{}: {:?}", host.name, search(&view));
    }
    told(&lab, Step::Birthday);
    closed(&lab, before, 1);
}

#[test]
fn two_symmetric_with_a_normal_budget_are_told_what_would_help() {
    need_lab!();
    let normal = unmeasured("normal");
    let lab = lab("norm", "symmetric", "symmetric", [&normal, &normal]);
    let before = lab.hosts().map(Host::udp_sockets);
    let sent = [(&lab.a, "RB_IPV4"), (&lab.b, "RA_IPV4")].map(|(host, router)| {
        let rule = format!("udp dport 0-65535 ip daddr {}", lab.env(router));
        host.count("output", &rule)
    });
    for (host, peer) in ends(&lab) {
        let refused = host.ctl(&["up", peer, "--timeout", "3"]);
        assert_eq!(refused.status, 1, "{refused:?}");
        for part in ["so it is not made", &format!("punchctl why {peer}")] {
            assert!(refused.stderr.contains(part), "no {part:?} in: {refused:?}");
        }
    }
    for ((host, peer), sent) in ends(&lab).into_iter().zip(&sent) {
        let view = host.why(peer);
        let step = search(&view);
        assert_eq!(step.step, Step::Birthday, "{view:#?}");
        assert!(step.chance > 0.0 && step.chance < 0.01, "{view:#?}");
        assert_eq!(step.outcome, StepOutcome::TooUnlikely, "{view:#?}");
        assert_eq!((step.mappings, step.packets), (0, 0), "{view:#?}");
        // Ordinary checks are tried all the same.
        let sent = sent.packets();
        assert!(sent > 0 && sent <= 300, "{sent} packets: {view:#?}");
        for word in ["aggressive", "UPnP", "IPv6"] {
            assert!(
                view.advice.iter().any(|advice| advice.contains(word)),
                "nobody advises {word}: {view:#?}"
            );
        }
        let text = host.ctl_ok(&["why", peer]);
        for part in [
            "No direct path to",
            "birthday search\t",
            "not made: too unlikely",
            "hard NAT: another public port for each destination",
            "budget  normal: at most 256 mappings alive, 1000 packets/s",
            "- Switch on UPnP, NAT-PMP or PCP",
            "[punch] budget = \"aggressive\"",
        ] {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
    }
    // What the next attempt checks from may be open already.
    closed(&lab, before, 1);
    for (host, peer) in ends(&lab) {
        host.ctl_ok(&["down", peer]);
    }
    closed(&lab, before, 0);
}

#[test]
fn the_cap_counts_searches_that_were_cut_short() {
    need_lab!();
    let normal = config("normal", "");
    let lab = lab("cut", "symmetric", "port-restricted", [&normal, &normal]);
    lab.part();
    // Each socket that sends to the other router takes another port of its own.
    let rules = format!(
        "table inet held {{ set ports {{ type inet_service; size 65535; flags dynamic; }}; \
         chain out {{ type filter hook output priority 0; ip daddr {} meta l4proto udp add @ports {{ udp sport }}; }}; }}",
        lab.env("RB_IPV4")
    );
    lab.a.exec_ok(&["nft", &rules]);
    for _ in 0..3 {
        lab.a.ctl(&["up", "b", "--timeout", "2"]);
        lab.a.ctl_ok(&["down", "b"]);
    }
    lab.a.ctl(&["up", "b", "--timeout", "8"]);
    let set = lab
        .a
        .exec_ok(&["nft", "-j", "list", "set", "inet", "held", "ports"]);
    let set: serde_json::Value = serde_json::from_str(&set).unwrap();
    let held = set["nftables"][1]["set"]["elem"]
        .as_array()
        .map_or(0, Vec::len);
    // All within the two minutes for which mappings count: the cap is for all searches together, and checks come on top.
    assert!((200..=256 + 40).contains(&held), "{held} mappings");
}

// --- memory ---

#[test]
fn a_search_is_remembered_over_a_crash() {
    need_lab!();
    let normal = config("normal", "");
    let mut lab = lab("memo", "symmetric", "port-restricted", [&normal, &normal]);
    connect(&lab);
    let file = lab.a.state_dir.join("paths.json");
    let text = wait_for(PATIENCE, "the step is written", || {
        let text = fs::read_to_string(&file).ok()?;
        text.contains("hold_and_probe").then_some(text)
    });
    assert!(text.contains(lab.b.key()), "{text}");
    for host in lab.hosts() {
        let file = host.state_dir.join("paths.json");
        wait_until(PATIENCE, "it is written", || file.exists());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }

    lab.a.kill();
    lab.a.start();
    returns(&lab);
    told(&lab, Step::HoldAndProbe);
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("hold_and_probe")
    );
}

/// A file that cannot be used costs the memory, and nothing else.
#[test]
fn a_memory_that_cannot_be_read_is_forgotten_with_a_warning() {
    need_lab!();
    let normal = config("normal", "");
    let mut lab = lab("forg", "port-restricted", "full-cone", [&normal, &normal]);
    connect(&lab);
    let file = lab.a.state_dir.join("paths.json");
    let text = wait_for(PATIENCE, "the path is written", || {
        let text = fs::read_to_string(&file).ok()?;
        text.contains(lab.b.key()).then_some(text)
    });
    for (damage, mode) in [
        (&b"{\"half"[..], 0o600),
        (b"", 0o600),
        (b"\xff\xfe", 0o600),
        (b"[1, 2]", 0o600),
        (text.as_bytes(), 0o644),
    ] {
        lab.a.kill();
        fs::write(&file, damage).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let warned = || {
            let log = lab.a.punchd.log_text();
            log.matches("what was known before is forgotten").count()
        };
        let before = warned();
        lab.a.start();
        assert_eq!(lab.a.why("b").peer.to_string(), "b");
        let log = lab.a.punchd.log_text();
        let after = log.matches("what was known before is forgotten").count();
        assert_eq!(after, before + 1, "one warning");
        let line = log
            .lines()
            .rfind(|line| line.contains("what was known before is forgotten"))
            .unwrap();
        assert!(
            line.contains("WARN") && line.contains("paths.json"),
            "{line}"
        );
    }
    returns(&lab);
}

#[track_caller]
fn returns(lab: &Lab) {
    wait_until(LONG, "a reaches b again", || {
        lab.a.peer_state("b") == "connected" && lab.a.ctl(&["ping", "b", "-c", "1"]).success()
    });
    lab.b.wait_for_peer_state("a", "connected");
}
