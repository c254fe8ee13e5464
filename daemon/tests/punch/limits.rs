//! Searches with few files, in NATs with small tables, with peers that know little or lie.

use super::*;

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
                [
                    StepOutcome::NoSockets,
                    StepOutcome::Exhausted,
                    StepOutcome::Waiting,
                    StepOutcome::Running
                ]
                .iter()
                .any(|known| outcome == known),
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
    lab.part();
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
                // One whose search had to wait is no failure, and the next one begins when its mappings are gone.
                let goes_on = |step: &StepView| {
                    [StepOutcome::Waiting, StepOutcome::Running]
                        .iter()
                        .any(|known| step.outcome == *known)
                };
                let is_over = !view.steps.is_empty() && !view.steps.iter().any(goes_on);
                is_over || view.failures > 0 || view.state == PeerState::Connected
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
    lab.part();
    lab.a.ctl(&["up", "b", "--timeout", "1"]);
    wait_until(PATIENCE, "the first attempt fails", || {
        lab.a.why("b").failures == 1
    });
    lab.heal();
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
    lab.part();
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
    assert_eq!(step.outcome, StepOutcome::Exhausted, "{view:#?}");
    closed(&lab, before, 0);
}
