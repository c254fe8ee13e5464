//! Real programs behind NATs that ordinary checks do not pass: searches for ports, what they cost, and what `why` tells.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use harness::{Host, Kinds, Lab, PATIENCE, tool, wait_for, wait_until};
use punch_api::{AllocationView, PeerState, StepView, WhyView};

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
    lab.start_servers();
    for (host, config) in [&mut lab.a, &mut lab.b].into_iter().zip(configs) {
        host.configure(config);
        host.start();
    }
    lab.add_servers();
    lab.introduce();
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
    let found = view.steps.iter().find(|step| step.step != "checks");
    found.unwrap_or_else(|| panic!("there was no search: {view:#?}"))
}

/// The attempt held to what its budget says.
#[track_caller]
fn held_to_budget(view: &WhyView) {
    for step in view.steps.iter().filter(|step| step.step != "checks") {
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
fn told(lab: &Lab, step: &str) {
    for (host, peer) in ends(lab) {
        let view = host.why(peer);
        assert_eq!(view.state, PeerState::Connected, "{view:#?}");
        let found: Vec<_> = view
            .steps
            .iter()
            .filter(|step| step.outcome == "found")
            .map(|step| step.step.as_str())
            .collect();
        assert_eq!(found, [step], "on {}: {view:#?}", host.name);
        assert!(view.path.is_some() && view.mine.is_some(), "{view:#?}");
        // Who has just started may answer before it has measured; for ordinary checks nobody needs to know.
        assert!(view.theirs.is_some() || step == "checks", "{view:#?}");
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
fn punches(hint: &str, a: &str, b: &str, step: &str) {
    let normal = unmeasured("normal");
    let lab = lab(hint, a, b, [&normal, &normal]);
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
    punches("symp", "symmetric", "port-restricted", "hold_and_probe");
}

#[test]
fn port_restricted_and_symmetric_from_the_other_side() {
    need_lab!();
    punches("psym", "port-restricted", "symmetric", "hold_and_probe");
}

#[test]
fn symmetric_and_port_restricted_stateful() {
    need_lab!();
    punches(
        "symf",
        "symmetric",
        "port-restricted-stateful",
        "hold_and_probe",
    );
}

#[test]
fn double_symmetric_and_port_restricted() {
    need_lab!();
    punches(
        "dosy",
        "double-symmetric",
        "port-restricted",
        "hold_and_probe",
    );
}

#[test]
fn two_that_count() {
    need_lab!();
    punches("sequ", "sequential-3+10others", "sequential-5", "meet");
}

#[test]
fn one_that_counts_and_one_with_a_block() {
    need_lab!();
    punches("sbl", "sequential-2", "symmetric-block", "meet");
}

#[test]
fn two_with_blocks() {
    need_lab!();
    punches("bloc", "symmetric-block", "symmetric-block", "birthday");
}

#[test]
fn address_dependent_and_symmetric() {
    need_lab!();
    punches("adsy", "address-dependent", "symmetric", "hold_and_probe");
}

#[test]
fn two_that_mind_what_comes_unasked() {
    need_lab!();
    punches(
        "stat",
        "port-restricted-stateful",
        "port-restricted-stateful",
        "checks",
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
    told(&lab, "hold_and_probe");
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
    told(&lab, "birthday");
    closed(&lab, before, 1);
}

#[test]
fn two_symmetric_with_a_normal_budget_are_told_what_would_help() {
    need_lab!();
    // They do meet once in 250 times.
    for _ in 0..2 {
        if tells_what_would_help() {
            return;
        }
        eprintln!("they have met by chance");
    }
    panic!("two searches with small chances have succeeded");
}

fn tells_what_would_help() -> bool {
    let normal = unmeasured("normal");
    let lab = lab("norm", "symmetric", "symmetric", [&normal, &normal]);
    let before = lab.hosts().map(Host::udp_sockets);
    let sent = [(&lab.a, "RB_IPV4"), (&lab.b, "RA_IPV4")].map(|(host, router)| {
        let rule = format!("udp dport 0-65535 ip daddr {}", lab.env(router));
        host.count("output", &rule)
    });
    // At once: a later one would begin all over.
    let refused = std::thread::scope(|scope| {
        let up = |(host, peer): (&'_ Host, &'_ str)| host.ctl(&["up", peer, "--timeout", "1"]);
        let [a, b] = ends(&lab);
        let b = scope.spawn(move || up(b));
        [up(a), b.join().unwrap()]
    });
    for (refused, (_, peer)) in refused.into_iter().zip(ends(&lab)) {
        if refused.success() {
            return false;
        }
        assert_eq!(refused.status, 1, "{refused:?}");
        let hint = format!("punchctl why {peer}");
        assert!(refused.stderr.contains(&hint), "{refused:?}");
    }
    // The attempt ends by itself, at both ends.
    let views = ends(&lab).map(|(host, peer)| {
        wait_for(PATIENCE, "the attempt ends", || {
            let view = host.why(peer);
            let over = view.state == PeerState::Connected
                || view.steps.iter().any(|step| {
                    step.step == "birthday" && ["found", "exhausted"].contains(&&*step.outcome)
                });
            over.then_some(view)
        })
    });
    for (((host, peer), sent), view) in ends(&lab).into_iter().zip(&sent).zip(&views) {
        if view.state == PeerState::Connected {
            return false;
        }
        let step = search(view);
        eprintln!("{}: {step:?}", host.name);
        assert_eq!(step.step, "birthday", "{view:#?}");
        assert!(step.chance > 0.0 && step.chance < 0.01, "{view:#?}");
        assert!(
            step.expected_s.is_some_and(|seconds| seconds > 600.0),
            "{view:#?}"
        );
        assert_eq!(step.outcome, "exhausted", "{view:#?}");
        held_to_budget(view);
        // The counter of the kernel agrees; checks come on top.
        let sent = sent.packets();
        assert!(sent >= u64::from(step.packets), "{sent} {step:?}");
        assert!(
            sent <= u64::from(view.budget.packets_per_address) && sent <= 4096 + 300,
            "{sent} packets: {view:#?}"
        );
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
            "On the average it takes",
            "failed in a row",
            "hard NAT: another public port for each destination",
            "budget  normal: at most 4096 mappings alive, 1000 packets/s",
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
    true
}

#[test]

fn the_cap_counts_searches_that_were_cut_short() {
    need_lab!();
    let normal = config("normal", "");
    let lab = lab("cut", "symmetric", "symmetric", [&normal, &normal]);
    let rule = format!("udp dport 0-65535 ip daddr {}", lab.env("RB_IPV4"));
    let sent = lab.a.count("output", &rule);
    for _ in 0..3 {
        lab.a.ctl(&["up", "b", "--timeout", "2"]);
        lab.a.ctl_ok(&["down", "b"]);
    }
    lab.a.ctl(&["up", "b", "--timeout", "8"]);
    // All within the 30 s that mappings live: 4096 is the cap for them together; checks come on top.
    let sent = sent.packets();
    assert!(sent <= 4096 + 400, "{sent} packets, each another mapping");
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
    told(&lab, "hold_and_probe");
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("hold_and_probe")
    );

    // A file that cannot be used costs the memory, and nothing else.
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
            log.matches("what has worked before is forgotten").count()
        };
        let before = warned();
        lab.a.start();
        assert_eq!(lab.a.why("b").peer.to_string(), "b");
        let log = lab.a.punchd.log_text();
        let after = log.matches("what has worked before is forgotten").count();
        assert_eq!(after, before + 1, "one warning");
        let line = log
            .lines()
            .rfind(|line| line.contains("what has worked before is forgotten"))
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

// --- limits ---

#[test]
fn with_few_files_a_search_does_what_it_can() {
    need_lab!();
    for limit in [64, 40] {
        let normal = unmeasured("normal");
        let mut lab = Lab::bare("file", Kinds::Apart("symmetric", "port-restricted"), &[]);
        lab.start_servers();
        let prlimit = tool("prlimit", "util-linux");
        let limits = [prlimit, format!("--nofile={limit}:{limit}")];
        lab.a.punchd.argv.splice(0..0, limits);
        for host in [&mut lab.a, &mut lab.b] {
            host.configure(&normal);
            host.start();
        }
        lab.add_servers();
        lab.introduce();
        measure(&lab);
        let before = lab.hosts().map(Host::udp_sockets);
        eprintln!("{limit}: {} files open before", lab.a.open_files());
        let began = Instant::now();
        let up = lab.a.ctl(&["up", "b", "--timeout", "60"]);
        eprintln!(
            "{limit}: {} after {:.1} s",
            up.status,
            began.elapsed().as_secs_f64()
        );
        assert!(lab.a.punchd.is_running());
        let view = lab.a.why("b");
        eprintln!("{:?}\n{:#?}", view.steps, view.advice);
        if up.success() {
            lab.a.ctl_ok(&["ping", "b", "-c", "1"]);
        } else {
            // It says what was in the way.
            assert!(!up.stderr.is_empty());
            let outcome = &search(&view).outcome;
            assert!(
                ["no_sockets", "exhausted", "waiting", "running"].contains(&outcome.as_str()),
                "{view:#?}"
            );
            if search(&view).refused_sockets > 0 {
                assert!(
                    view.advice.iter().any(|text| text.contains("open files")),
                    "{view:#?}"
                );
            }
        }
        lab.a.ctl_ok(&["down", "b"]);
        lab.b.ctl_ok(&["down", "a"]);
        closed(&lab, before, 0);
        assert!(!lab.a.punchd.log_text().contains("panicked"));
        // What was refused is told once in a while, not 200 times for each attempt.
        let complaints = lab
            .a
            .punchd
            .log_text()
            .matches("cannot open a further UDP socket")
            .count();
        assert!(complaints <= 8, "{complaints} complaints");
    }
}

/// Drops all that the two routers send to each other: no path can be found.
fn part(lab: &Lab) {
    let rules = format!(
        "table ip apart {{ chain here {{ type filter hook forward priority 0; ip saddr {a} ip daddr {b} drop; ip saddr {b} ip daddr {a} drop; }}; }}",
        a = lab.env("A_PUBLIC_IPV4"),
        b = lab.env("B_PUBLIC_IPV4")
    );
    lab.namespace("inet").exec_ok(&["nft", &rules]);
}

#[test]
fn a_search_that_has_taken_all_files_leaves_punchd_usable() {
    need_lab!();
    few_files(|_| {});
}

#[test]
fn a_search_leaves_files_for_those_who_ask() {
    need_lab!();
    few_files(|lab| {
        let open = lab.a.open_files();
        assert!(open <= 60, "{open} of 64 are open");
    });
}

/// a may have 64 files open, and makes a search that finds nothing; `during` it, that is looked at.
#[track_caller]
fn few_files(during: impl Fn(&Lab)) {
    let normal = unmeasured("normal");
    let mut lab = Lab::bare("full", Kinds::Apart("symmetric", "port-restricted"), &[]);
    lab.start_servers();
    let prlimit = tool("prlimit", "util-linux");
    lab.a
        .punchd
        .argv
        .splice(0..0, [prlimit, "--nofile=64:64".to_owned()]);
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(&normal);
        host.start();
    }
    lab.add_servers();
    lab.introduce();
    measure(&lab);
    part(&lab);
    let before = lab.hosts().map(Host::udp_sockets);
    lab.b.ctl(&["up", "a", "--timeout", "1"]);
    wait_until(PATIENCE, "the search begins", || {
        lab.b.why("a").steps.iter().any(|step| step.packets > 1000)
    });
    during(&lab);
    let began = Instant::now();
    let view = lab.a.why("b");
    let took = began.elapsed();
    eprintln!(
        "answered after {:.1} s, with {} sockets open: {:?}",
        took.as_secs_f64(),
        lab.a.udp_sockets(),
        view.steps
    );
    wait_until(PATIENCE, "the attempt ends", || lab.b.why("a").failures > 0);
    lab.b.ctl_ok(&["down", "a"]);
    closed(&lab, before, 0);
    // Nothing that was there before was lost for it.
    lab.a.wait_for_signal();
    assert!(lab.a.punchd.is_running() && !lab.a.punchd.log_text().contains("panicked"));
}

#[test]
fn nats_with_small_tables_are_survived() {
    need_lab!();
    for (a, b) in [("table-64", "port-restricted"), ("table-16", "symmetric")] {
        let normal = unmeasured("normal");
        let mut lab = lab("tabl", a, b, [&normal, &normal]);
        let before = lab.hosts().map(Host::udp_sockets);
        let up = lab.a.ctl(&["up", "b", "--timeout", "14"]);
        if up.success() {
            eprintln!("{a} x {b}: connected");
        } else {
            wait_until(PATIENCE, "the attempt ends", || {
                let view = lab.a.why("b");
                view.failures > 0 || view.state == PeerState::Connected
            });
        }
        for (host, peer) in ends(&lab) {
            let view = host.why(peer);
            eprintln!("{a} x {b}, {}: {:?}", host.name, view.steps);
            assert!(
                !view.summary.is_empty() && !view.steps.is_empty(),
                "{view:#?}"
            );
            held_to_budget(&view);
            host.ctl_ok(&["why", peer]);
            host.ctl_ok(&["down", peer]);
        }
        closed(&lab, before, 0);
        for host in [&mut lab.a, &mut lab.b] {
            assert!(host.punchd.is_running());
            assert!(!host.punchd.log_text().contains("panicked"));
        }
    }
}

/// Who knows nothing of its own NAT still agrees on who picks the path when an attempt is repeated.
#[test]
fn a_repeated_attempt_works_with_a_peer_that_has_no_stun_server() {
    need_lab!();
    let mut lab = Lab::bare("role", Kinds::Apart("port-restricted", "open"), &[]);
    lab.start_servers();
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(&config("normal", ""));
        host.start();
    }
    for host in lab.hosts() {
        let url = lab.signal_url(&host.name);
        host.ctl_ok(&["server", "add", "signal", &url]);
        host.wait_for_signal();
    }
    lab.a
        .ctl_ok(&["server", "add", "stun", lab.env("SERVER_IPV4")]);
    lab.introduce();
    lab.a.ctl_ok(&["netcheck"]);
    part(&lab);
    lab.a.ctl(&["up", "b", "--timeout", "1"]);
    wait_until(PATIENCE, "the first attempt fails", || {
        lab.a.why("b").failures == 1
    });
    let heal = ["nft", "delete", "table", "ip", "apart"];
    lab.namespace("inet").exec_ok(&heal);
    let mut most = 1;
    wait_until(PATIENCE, "a later attempt works", || {
        let view = lab.a.why("b");
        most = most.max(view.failures);
        view.state == PeerState::Connected
    });

    assert_eq!(most, 1, "the second attempt could have worked");
}

/// b says that its NAT chooses ports at random on the address of somebody else.
#[test]
fn who_lies_about_a_nat_gets_no_more_than_the_budget_sent_to_others() {
    need_lab!();
    let normal = unmeasured("normal");
    let third = "203.0.113.2";
    let lie = config(
        "aggressive",
        &format!(
            "mapping = \"address-and-port-dependent\"\nfiltering = \"address-and-port-dependent\"\n\
             allocation = \"random\"\naddresses = [\"{third}\"]\nlifetime = 30\n"
        ),
    );
    let lab = lab("lie", "port-restricted", "symmetric", [&normal, &lie]);
    assert_eq!(lab.env("SERVER_IPV4_ALT"), third);
    // No honest path is there.
    part(&lab);
    let before = lab.hosts().map(Host::udp_sockets);
    let rule = format!(
        "ip saddr {} ip daddr {third} udp dport != {{ 3478, 3479 }}",
        lab.env("RA_IPV4")
    );
    let heard = lab.server.count("input", &rule);
    lab.a.ctl(&["up", "b", "--timeout", "1"]);
    wait_until(PATIENCE, "the attempt ends", || lab.a.why("b").failures > 0);
    let (view, heard) = (lab.a.why("b"), heard.packets());
    lab.a.ctl_ok(&["down", "b"]);
    let step = search(&view);
    eprintln!("{heard} packets to the third party: {step:?}");
    assert!(
        heard > 0,
        "the lie was not believed, so nothing is tested: {view:#?}"
    );
    let theirs = view.theirs.as_ref().unwrap();
    assert!(
        theirs.addresses.contains(&third.parse().unwrap()),
        "{view:#?}"
    );
    // The honest one's own budget counts, whatever the other one's says.
    assert_eq!(view.budget.packets_per_address, 12_000);
    assert!(
        heard <= u64::from(view.budget.packets_per_address),
        "{heard}"
    );
    held_to_budget(&view);
    assert_eq!(step.outcome, "exhausted", "{view:#?}");
    closed(&lab, before, 0);
}

// --- netcheck ---

/// What one host finds out about its NAT.
#[track_caller]
fn measures(
    host: &Host,
    mapping: &str,
    double: Option<bool>,
    words: &str,
    fits: impl Fn(AllocationView) -> bool,
) {
    let view = host.netcheck();
    assert!(!view.udp_blocked && view.public.is_some(), "{view:#?}");
    assert_eq!(view.mapping.as_deref(), Some(mapping), "{view:#?}");
    assert_eq!(
        view.filtering.as_deref(),
        Some("address_and_port_dependent"),
        "{view:#?}"
    );
    assert!(view.allocation.is_some_and(fits), "{view:#?}");
    assert_eq!(view.double_nat, double, "{view:#?}");
    assert_eq!(view.addresses.len(), 1, "{view:#?}");
    // Where each destination has a mapping of its own, nothing can be told.
    let hairpinning = (mapping != SYMMETRIC).then_some(false);
    assert_eq!(view.hairpinning, hairpinning, "{view:#?}");
    let answered = view.evidence.iter().filter(|probe| probe.mapped.is_some());
    assert!(answered.count() >= 4, "there is evidence: {view:#?}");
    let text = host.ctl_ok(&["netcheck"]);
    for part in [
        "servers see this machine as",
        "  ports      ",
        words,
        "samples, ports",
    ] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

const SYMMETRIC: &str = "address_and_port_dependent";

#[test]
fn netcheck_tells_random_ports_from_a_block() {
    need_lab!();
    let normal = config("normal", "");
    let lab = lab("neta", "symmetric", "symmetric-block", [&normal, &normal]);
    measures(&lab.a, SYMMETRIC, None, "random over all", |ports| {
        ports == AllocationView::Random
    });
    measures(&lab.b, SYMMETRIC, None, "random between", |ports| {
        let AllocationView::Block { low, high } = ports else {
            return false;
        };
        // The block is within what is tried, and that is not much more.
        (39_000..=40_200).contains(&low) && (40_800..=42_200).contains(&high)
    });
}

#[test]
fn netcheck_tells_counting_from_keeping() {
    need_lab!();
    let normal = config("normal", "");
    let lab = lab(
        "netb",
        "sequential-3",
        "port-restricted",
        [&normal, &normal],
    );
    measures(
        &lab.a,
        SYMMETRIC,
        None,
        "gets the last port +3",
        |ports| matches!(ports, AllocationView::Sequential { step: 3, others } if others <= 20),
    );
    measures(
        &lab.b,
        "endpoint_independent",
        Some(false),
        "preserved",
        |ports| ports == AllocationView::Preserving,
    );
}

#[test]
fn netcheck_sees_the_second_nat() {
    need_lab!();
    let normal = config("normal", "");
    let kinds = ["double-port-restricted", "double-symmetric"];
    let lab = lab("netd", kinds[0], kinds[1], [&normal, &normal]);
    let easy = "endpoint_independent";
    measures(
        &lab.a,
        easy,
        Some(true),
        "not at the nearest router",
        |ports| ports == AllocationView::Preserving,
    );
    // What opens the filter of a hard NAT opens another mapping than the one that is asked for: nothing can be told.
    measures(&lab.b, SYMMETRIC, None, "random over all", |ports| {
        ports == AllocationView::Random
    });
}

#[test]
fn netcheck_sees_that_others_use_the_nat() {
    need_lab!();
    let normal = config("normal", "");
    let kinds = ["sequential-5+20others", "open"];
    let lab = lab("neto", kinds[0], kinds[1], [&normal, &normal]);
    measures(
        &lab.a,
        SYMMETRIC,
        None,
        "others take about",
        |ports| matches!(ports, AllocationView::Sequential { step: 5, others } if (5..=80).contains(&others)),
    );
}

#[test]
fn what_the_administrator_says_goes_before_what_is_measured() {
    need_lab!();
    let lie = config(
        "gentle",
        "mapping = \"address-dependent\"\nallocation = \"-2\"\naddresses = [\"192.0.2.7\", \"192.0.2.8\"]\n\
         hairpinning = true\nlifetime = 77\nopening_ttl = 9\n",
    );
    let lab = lab(
        "over",
        "port-restricted",
        "open",
        [&lie, &config("normal", "")],
    );
    let view = lab.a.netcheck();
    assert_eq!(view.mapping.as_deref(), Some("address_dependent"));
    assert_eq!(
        view.allocation,
        Some(AllocationView::Sequential {
            step: -2,
            others: 0
        })
    );
    let addresses: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.7", "192.0.2.8"]);
    assert_eq!(view.hairpinning, Some(true));
    assert_eq!(view.lifetime_s, Some(77));
    assert_eq!(view.opening_ttl, Some(9));
    let open = lab.b.netcheck();
    assert_eq!(open.mapping.as_deref(), Some("none"), "{open:#?}");
    let why = lab.a.why("b");
    assert_eq!(why.budget.name, "gentle");
    assert_eq!(why.budget.mappings, 256);
    assert_eq!(why.budget.packets_per_s, 100);
}

// --- why ---

#[test]
fn why_has_an_answer_in_every_state() {
    need_lab!();
    let normal = config("normal", "");
    let mut lab = lab(
        "why",
        "port-restricted",
        "port-restricted",
        [&normal, &normal],
    );

    let unknown = lab.a.ctl_refused(&["why", "nobody"]);
    assert!(
        unknown.contains("nobody") && unknown.contains("there is b"),
        "{unknown}"
    );
    let nameless = lab.a.ctl(&["why"]);
    assert_eq!(nameless.status, 2, "{nameless:?}");

    // A plain WireGuard peer has no search to tell of.
    let plain = [
        "peer",
        "add",
        "plain",
        "--wireguard",
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "--endpoint",
        "203.0.113.1:51820",
        "--address",
        "10.9.0.1",
    ];
    lab.a.ctl_ok(&plain);
    let refused = lab.a.ctl_refused(&["why", "plain"]);
    assert!(refused.contains("plain WireGuard peer"), "{refused}");

    let view = lab.a.why("b");
    assert_eq!(view.state, PeerState::Down);
    assert!(view.path.is_none() && view.steps.is_empty() && view.theirs.is_none());
    assert!(view.mine.is_some(), "{view:#?}");
    assert!(
        view.summary.contains("Nobody has asked"),
        "{}",
        view.summary
    );
    let text = lab.a.ctl_ok(&["why", "b"]);
    assert!(text.contains("there   not known yet"), "{text}");

    lab.b.stop();
    lab.a.ctl_refused(&["up", "b", "--timeout", "1"]);
    let view = lab.a.why("b");
    assert_eq!(view.state, PeerState::Waiting, "{view:#?}");
    assert!(
        view.summary.contains("not on any signalling server"),
        "{}",
        view.summary
    );
    assert!(
        view.advice
            .iter()
            .any(|text| text.contains("Start punchd on b")),
        "{view:#?}"
    );

    lab.b.start();
    lab.a.wait_for_peer_state("b", "connected");
    lab.b.wait_for_peer_state("a", "connected");
    told(&lab, "checks");
    for (host, peer) in ends(&lab) {
        let view = host.why(peer);
        assert_eq!(view.steps.len(), 1, "{view:#?}");
        assert!(view.advice.is_empty(), "{view:#?}");
        assert!(view.retry_in_s.is_none(), "{view:#?}");
    }
    lab.a.ctl_ok(&["down", "b"]);
    assert_eq!(lab.a.why("b").state, PeerState::Down);
    // Over the socket itself.
    let url = "http://punch/v1/peers/b/why";
    let socket = lab.a.socket.display().to_string();
    let curl = lab.a.exec(&["curl", "-s", "--unix-socket", &socket, url]);
    if curl.success() {
        serde_json::from_str::<WhyView>(&curl.stdout).unwrap();
    }
}

/// Without a STUN server nothing is known of a NAT, and `why` says what to do.
#[test]
fn why_asks_for_a_stun_server() {
    need_lab!();
    let mut lab = Lab::bare("nost", Kinds::Apart("port-restricted", "open"), &[]);
    lab.start_signal();
    for host in [&mut lab.a, &mut lab.b] {
        host.configure(&config("normal", ""));
        host.start();
    }
    for host in lab.hosts() {
        let url = lab.signal_url(&host.name);
        host.ctl_ok(&["server", "add", "signal", &url]);
    }
    lab.introduce();
    lab.connect();
    told_without_profile(&lab);
}

#[track_caller]
fn told_without_profile(lab: &Lab) {
    for (host, peer) in ends(lab) {
        let view = host.why(peer);
        assert_eq!(view.state, PeerState::Connected, "{view:#?}");
        assert!(
            view.advice.iter().any(|text| text.contains("STUN server")),
            "{view:#?}"
        );
        host.ctl_ok(&["why", peer]);
    }
}
