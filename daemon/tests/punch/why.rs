//! What `why` says.

use super::*;

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

    assert_names_are_checked(&lab.a);
    assert_plain_peer_has_an_answer(&lab.a);

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
        view.summary.contains("not online at any signalling server"),
        "{}",
        view.summary
    );
    assert_eq!(view.obstacle, Some(Obstacle::Offline.into()));
    assert!(
        view.advice
            .iter()
            .any(|text| text.contains("Start punchd on b")),
        "{view:#?}"
    );

    lab.b.start();
    lab.a.wait_for_peer_state("b", "connected");
    lab.b.wait_for_peer_state("a", "connected");
    told(&lab, Step::Checks);
    for (host, peer) in ends(&lab) {
        let view = host.why(peer);
        assert_eq!(view.steps.len(), 1, "{view:#?}");
        assert!(view.advice.is_empty(), "{view:#?}");
        assert!(view.retry_in_s.is_none(), "{view:#?}");
    }
    lab.a.ctl_ok(&["down", "b"]);
    let view = lab.a.why("b");
    assert_eq!(view.state, PeerState::Refused);
    assert_eq!(view.obstacle, Some(Obstacle::Refused.into()));
    assert_eq!(
        view.summary,
        "You took b down; it is refused until: punchctl up b"
    );
    assert_socket_answers(&lab.a);
}

#[track_caller]
fn assert_names_are_checked(host: &Host) {
    let unknown = host.ctl_refused(&["why", "nobody"]);
    assert!(
        unknown.contains("nobody") && unknown.contains("there is b"),
        "{unknown}"
    );
    let nameless = host.ctl(&["why"]);
    assert_eq!(nameless.status, 2, "{nameless:?}");
}

/// A plain WireGuard peer has no search to tell of.
#[track_caller]
fn assert_plain_peer_has_an_answer(host: &Host) {
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
    host.ctl_ok(&plain);
    let text = host.ctl_ok(&["why", "plain"]);
    let addresses = format!("AllowedIPs = {}/32, {}/128", host.ipv4(), host.ipv6());
    for part in ["Nobody has asked", "PublicKey = ", &addresses] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// Over the socket itself, without punchctl.
#[track_caller]
fn assert_socket_answers(host: &Host) {
    let url = "http://punch/v1/peers/b/why";
    let socket = host.socket.display().to_string();
    let curl = host.exec(&["curl", "-s", "--unix-socket", &socket, url]);
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
