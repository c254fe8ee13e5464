//! Where this machine may be reached.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punch_signal_protocol::{Candidate, CandidateKind};
use punch_stun_protocol::{Class, ErrorCode, Message, Writer};
use punch_traversal::{
    AddressChange, AddressRank, Family, Gatherer, OwnAddress, SocketId, Transmit,
};

use crate::{addr, host, ms, origin, reflexive, secs};

const V4: SocketId = SocketId::MAIN_V4;
const V6: SocketId = SocketId::MAIN_V6;
const SERVER: &str = "198.51.100.1:3478";
const SERVER_2: &str = "198.51.100.2:3478";
const PUBLIC: &str = "203.0.113.5:40000";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(texts: &[&str]) -> Vec<OwnAddress> {
    texts.iter().map(|text| ip(text).into()).collect()
}

/// A machine with one private IPv4 address that knows these servers; the first requests have left.
fn behind_a_nat(servers: &[&str]) -> Gatherer {
    let mut gatherer = Gatherer::new(1);
    gatherer.handle_socket(V4, 51820, origin());
    gatherer.handle_addresses(own(&["192.168.1.2"]), origin());
    gatherer.handle_servers(servers.iter().map(|text| addr(text)).collect(), origin());
    gatherer
}

/// The same where a mapping is known to live for two minutes.
fn behind_a_patient_nat(servers: &[&str]) -> Gatherer {
    let mut gatherer = Gatherer::new(1);
    gatherer.set_lifetime(Some(secs(120)));
    gatherer.handle_socket(V4, 51820, origin());
    gatherer.handle_addresses(own(&["192.168.1.2"]), origin());
    gatherer.handle_servers(servers.iter().map(|text| addr(text)).collect(), origin());
    gatherer
}

fn transmits(gatherer: &mut Gatherer) -> Vec<Transmit> {
    std::iter::from_fn(|| gatherer.poll_transmit()).collect()
}

fn respond(
    gatherer: &mut Gatherer,
    request: &Transmit,
    from: &str,
    bytes: &[u8],
    now: Instant,
) -> bool {
    gatherer.handle_response(
        request.socket,
        addr(from),
        &Message::parse(bytes).unwrap(),
        now,
    )
}

/// What a server says that saw the request come from `mapped`.
fn says(request: &Transmit, mapped: &str) -> Vec<u8> {
    let message = Message::parse(&request.bytes).unwrap();
    assert_eq!(message.class, Class::Request);
    Writer::new(Class::Success, message.transaction)
        .xor_mapped(addr(mapped))
        .finish()
}

/// Lets time pass; `server` answers or not. Returns what was sent and when.
fn pass(
    gatherer: &mut Gatherer,
    from: Instant,
    span: Duration,
    server: impl Fn(Duration, &Transmit) -> Option<&'static str>,
) -> Vec<(Duration, SocketAddr)> {
    let mut sent = Vec::new();
    let mut now = from;
    for _ in 0..10_000 {
        for transmit in transmits(gatherer) {
            sent.push((now - from, transmit.to));
            if let Some(mapped) = server(now - from, &transmit) {
                let bytes = says(&transmit, mapped);
                respond(gatherer, &transmit, &transmit.to.to_string(), &bytes, now);
            }
        }
        now = match gatherer.poll_timeout() {
            Some(at) if at < from + span => at,
            _ => return sent,
        };
        gatherer.handle_timeout(now);
    }
    panic!("the gatherer is in a busy loop");
}

fn addresses(gatherer: &Gatherer) -> Vec<(CandidateKind, String)> {
    let show = |candidate: Candidate| (candidate.kind, candidate.address.to_string());
    gatherer.candidates().into_iter().map(show).collect()
}

// --- candidates ---

#[test]
fn a_machine_names_its_own_addresses_and_the_ones_that_servers_see() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    let request = transmits(&mut gatherer).pop().unwrap();

    let taken = respond(
        &mut gatherer,
        &request,
        SERVER,
        &says(&request, PUBLIC),
        origin() + ms(20),
    );

    assert!(taken);
    assert_eq!(
        (request.socket, request.to, request.source),
        (V4, addr(SERVER), None)
    );
    assert_eq!(
        gatherer.candidates(),
        [host("192.168.1.2:51820"), reflexive(PUBLIC)]
    );
    assert_eq!(
        gatherer.reflexive().collect::<Vec<_>>(),
        [(addr(SERVER), addr(PUBLIC))]
    );
}

#[test]
fn a_change_of_the_candidates_is_told_once() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    assert!(gatherer.poll_changed());
    assert!(!gatherer.poll_changed());
    let request = transmits(&mut gatherer).pop().unwrap();

    respond(
        &mut gatherer,
        &request,
        SERVER,
        &says(&request, PUBLIC),
        origin(),
    );

    assert!(gatherer.poll_changed());
    assert!(!gatherer.poll_changed());
}

#[test]
fn a_refresh_that_brings_the_same_address_is_no_change_and_another_one_is() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    pass(&mut gatherer, origin(), secs(60), |_, _| Some(PUBLIC));
    gatherer.poll_changed();

    pass(&mut gatherer, origin() + secs(60), secs(60), |_, _| {
        Some(PUBLIC)
    });
    assert!(!gatherer.poll_changed());

    pass(&mut gatherer, origin() + secs(120), secs(60), |_, _| {
        Some("203.0.113.5:40001")
    });
    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates()[1], reflexive("203.0.113.5:40001"));
}

#[test]
fn both_families_have_their_own_socket_and_servers() {
    let mut gatherer = Gatherer::new(1);
    gatherer.handle_socket(V4, 1000, origin());
    gatherer.handle_socket(V6, 2000, origin());
    gatherer.handle_addresses(own(&["2001:db8::5", "192.168.1.2"]), origin());
    gatherer.handle_servers(vec![addr(SERVER), addr("[2001:db8:1::1]:3478")], origin());

    let sent: Vec<_> = transmits(&mut gatherer)
        .iter()
        .map(|t| (t.socket, t.to))
        .collect();

    assert_eq!(
        sent,
        [(V4, addr(SERVER)), (V6, addr("[2001:db8:1::1]:3478"))]
    );
    let shown = addresses(&gatherer);
    assert!(shown.contains(&(CandidateKind::Host, "192.168.1.2:1000".to_owned())));
    assert!(shown.contains(&(CandidateKind::Host, "[2001:db8::5]:2000".to_owned())));
}

#[test]
fn without_an_address_of_a_family_its_servers_are_not_asked() {
    let mut gatherer = Gatherer::new(1);
    gatherer.handle_socket(V4, 1000, origin());
    gatherer.handle_socket(V6, 2000, origin());
    gatherer.handle_addresses(own(&["192.168.1.2", "fe80::1", "::1"]), origin());
    gatherer.handle_servers(vec![addr("[2001:db8:1::1]:3478")], origin());

    assert_eq!(transmits(&mut gatherer), []);
}

#[test]
fn an_address_that_nobody_can_send_to_is_not_named() {
    let mut gatherer = behind_a_nat(&[]);

    let unusable = [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "169.254.3.4",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "::ffff:10.0.0.1",
    ];
    let mut all = own(&unusable);
    all.push(ip("192.168.1.2").into());
    let changed = gatherer.handle_addresses(all, origin());

    assert_eq!(changed, AddressChange::None, "all that is usable was known");
    assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820")]);
}

#[test]
fn host_candidates_differ_in_preference_and_are_not_endless() {
    let mut gatherer = behind_a_nat(&[]);
    gatherer.handle_socket(V6, 51820, origin());
    let many = |n| {
        [
            IpAddr::from([10, 0, 0, n]),
            IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]),
        ]
    };

    gatherer.handle_addresses(
        (1..=100).flat_map(many).map(OwnAddress::from).collect(),
        origin(),
    );

    let candidates = gatherer.candidates();
    for v6 in [false, true] {
        let of_family: Vec<_> = candidates
            .iter()
            .filter(|c| c.address.is_ipv6() == v6)
            .collect();
        assert_eq!(of_family.len(), 12, "neither family crowds out the other");
        assert!(
            of_family
                .windows(2)
                .all(|pair| pair[0].priority() > pair[1].priority())
        );
    }
}

#[test]
fn an_address_is_named_once_although_two_servers_see_it_or_the_machine_owns_it() {
    let mut gatherer = behind_a_nat(&[SERVER, SERVER_2]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    assert_eq!(
        gatherer.candidates(),
        [host("192.168.1.2:51820"), reflexive(PUBLIC)]
    );

    let mut open = behind_a_nat(&[SERVER]);
    pass(&mut open, origin(), secs(1), |_, _| {
        Some("192.168.1.2:51820")
    });
    assert_eq!(open.candidates(), [host("192.168.1.2:51820")]);
}

#[test]
fn behind_a_hard_nat_every_server_sees_another_port_and_all_are_named() {
    let mut gatherer = behind_a_nat(&[SERVER, SERVER_2]);

    pass(&mut gatherer, origin(), secs(1), |_, transmit| {
        Some(if transmit.to == addr(SERVER) {
            PUBLIC
        } else {
            "203.0.113.5:40001"
        })
    });

    assert_eq!(
        gatherer.candidates(),
        [
            host("192.168.1.2:51820"),
            reflexive(PUBLIC),
            reflexive("203.0.113.5:40001")
        ]
    );
    assert_eq!(gatherer.reflexive().count(), 2);
}

#[test]
fn at_most_four_servers_of_a_family_are_asked() {
    let mut gatherer = behind_a_nat(&[]);
    let servers: Vec<_> = (1..=9)
        .map(|n| addr(&format!("198.51.100.{n}:3478")))
        .collect();

    gatherer.handle_servers(servers.clone(), origin());

    let asked: Vec<_> = transmits(&mut gatherer)
        .iter()
        .map(|transmit| transmit.to)
        .collect();
    assert_eq!(asked, servers[..4]);
}

#[test]
fn a_server_that_is_no_longer_asked_vouches_for_nothing() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    assert_eq!(gatherer.candidates().len(), 2);

    // Four others come before it.
    let mut servers: Vec<_> = (11..=14)
        .map(|n| addr(&format!("198.51.100.{n}:3478")))
        .collect();
    servers.push(addr(SERVER));
    gatherer.handle_servers(servers, origin() + secs(1));
    pass(&mut gatherer, origin() + secs(1), secs(300), |_, _| None);

    assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820")]);
}

#[test]
fn a_server_that_is_removed_takes_its_address_with_it() {
    let mut gatherer = behind_a_nat(&[SERVER, SERVER_2]);
    pass(&mut gatherer, origin(), secs(1), |_, transmit| {
        Some(if transmit.to == addr(SERVER) {
            PUBLIC
        } else {
            "203.0.113.5:40001"
        })
    });
    gatherer.poll_changed();

    gatherer.handle_servers(vec![addr(SERVER_2)], origin() + secs(1));

    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates()[1..], [reflexive("203.0.113.5:40001")]);
    gatherer.handle_servers(vec![addr(SERVER_2)], origin() + secs(2));
    assert!(
        !gatherer.poll_changed(),
        "the same servers again are no change"
    );
}

// --- when what is sent ---

#[test]
fn a_request_is_repeated_at_doubled_intervals_and_then_given_up() {
    let mut gatherer = behind_a_patient_nat(&[SERVER]);

    let sent = pass(&mut gatherer, origin(), secs(19), |_, _| None);

    let times: Vec<_> = sent.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [0, 250, 750, 1750, 3750]);
}

#[test]
fn a_repeated_request_is_the_same_request() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    let first = transmits(&mut gatherer);

    gatherer.handle_timeout(origin() + ms(250));

    assert_eq!(transmits(&mut gatherer), first);
    let (request, late) = (&first[0], origin() + ms(300));
    assert!(respond(
        &mut gatherer,
        request,
        SERVER,
        &says(request, PUBLIC),
        late
    ));
    gatherer.handle_timeout(origin() + secs(5));
    assert_eq!(
        transmits(&mut gatherer),
        [],
        "an answer ends the repetitions"
    );
}

#[test]
fn the_mapping_is_refreshed_every_8_to_12_seconds() {
    let mut gatherer = behind_a_nat(&[SERVER]);

    let sent = pass(&mut gatherer, origin(), secs(600), |_, _| Some(PUBLIC));

    let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.len() >= 49, "{gaps:?}");
    assert!(
        gaps.iter().all(|gap| (secs(8)..=secs(12)).contains(gap)),
        "{gaps:?}"
    );
    assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "jitter");
}

#[test]
fn where_mappings_live_long_they_are_refreshed_every_20_to_24_seconds() {
    for (lifetime, refresh) in [(39, 8), (40, 20), (300, 20)] {
        let mut gatherer = behind_a_nat(&[SERVER]);
        gatherer.set_lifetime(Some(secs(lifetime)));
        pass(&mut gatherer, origin(), secs(13), |_, _| Some(PUBLIC));

        let sent = pass(&mut gatherer, origin() + secs(13), secs(600), |_, _| {
            Some(PUBLIC)
        });

        let gaps: Vec<_> = sent.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.len() >= 24, "{gaps:?}");
        assert!(
            gaps.iter()
                .all(|gap| (secs(refresh)..=secs(refresh + 4)).contains(gap)),
            "{lifetime}: {gaps:?}"
        );
    }
}

#[test]
fn a_server_answers_or_does_not_and_that_is_known() {
    let mut gatherer = behind_a_nat(&[SERVER, SERVER_2]);
    assert_eq!(gatherer.answering(Family::V4), []);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    assert_eq!(
        gatherer.answering(Family::V4),
        [addr(SERVER), addr(SERVER_2)]
    );
    assert_eq!(gatherer.answering(Family::V6), []);

    pass(
        &mut gatherer,
        origin() + secs(1),
        secs(25),
        |_, transmit| (transmit.to == addr(SERVER_2)).then_some(PUBLIC),
    );

    assert_eq!(gatherer.answering(Family::V4), [addr(SERVER_2)]);
}

#[test]
fn a_server_that_goes_silent_vouches_for_three_more_refreshes_and_not_longer() {
    let mut gatherer = behind_a_patient_nat(&[SERVER, SERVER_2]);
    let answers = |until: u64| {
        move |at: Duration, transmit: &Transmit| {
            (transmit.to == addr(SERVER_2) || at < secs(until)).then_some(PUBLIC)
        }
    };
    pass(&mut gatherer, origin(), secs(70), answers(10));
    assert_eq!(
        gatherer.reflexive().count(),
        2,
        "after two refreshes without an answer it still does"
    );

    pass(&mut gatherer, origin() + secs(70), secs(30), answers(0));

    assert_eq!(
        gatherer.reflexive().collect::<Vec<_>>(),
        [(addr(SERVER_2), addr(PUBLIC))]
    );
    assert_eq!(
        gatherer.candidates(),
        [host("192.168.1.2:51820"), reflexive(PUBLIC)]
    );
}

#[test]
fn a_silent_server_that_was_alone_costs_the_candidate_and_brings_it_back() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    gatherer.poll_changed();

    pass(&mut gatherer, origin() + secs(1), secs(100), |_, _| None);
    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820")]);

    pass(&mut gatherer, origin() + secs(101), secs(30), |_, _| {
        Some(PUBLIC)
    });
    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates().len(), 2);
}

#[test]
fn one_lost_refresh_between_good_ones_changes_nothing() {
    let mut gatherer = behind_a_patient_nat(&[SERVER]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    gatherer.poll_changed();

    for round in 0..5 {
        let start = origin() + secs(1 + 100 * round);
        pass(&mut gatherer, start, secs(38), |_, _| None);
        pass(&mut gatherer, start + secs(38), secs(62), |_, _| {
            Some(PUBLIC)
        });
    }

    assert!(!gatherer.poll_changed());
    assert_eq!(gatherer.candidates().len(), 2);
}

fn ranked(rank: AddressRank, text: &str) -> OwnAddress {
    OwnAddress { rank, ip: ip(text) }
}

#[test]
fn what_leads_outward_is_offered_first_and_what_is_cut_off_are_tunnels_and_bridges() {
    let mut gatherer = behind_a_nat(&[]);
    let bridges = (1..=30).map(|n| ranked(AddressRank::Internal, &format!("10.0.{n}.1")));
    let mut all: Vec<_> = bridges.collect();
    all.push(ranked(AddressRank::Tunnel, "10.0.0.2"));
    all.push(ranked(AddressRank::Network, "172.20.0.5"));
    all.push(ranked(AddressRank::Outward, "192.168.1.2"));
    gatherer.handle_addresses(all, origin());
    let candidates = gatherer.candidates();
    assert_eq!(candidates.len(), 12);
    let first: Vec<_> = candidates.iter().take(3).map(|c| c.address.ip()).collect();
    assert_eq!(first, ["192.168.1.2", "172.20.0.5", "10.0.1.1"].map(ip));
    let priorities: Vec<_> = candidates.iter().map(Candidate::priority).collect();
    assert!(priorities.is_sorted_by(|one, next| one > next));
}

#[test]
fn made_up_addresses_that_come_later_do_not_push_out_the_true_ones() {
    let mut gatherer = behind_a_nat(&[]);
    gatherer.handle_socket(V6, 51820, origin());
    let advertised = |text: &str| ranked(AddressRank::Outward, text);
    let mut all = vec![advertised("2001:db8:ffff::5"), advertised("192.168.1.2")];
    gatherer.handle_addresses(all.clone(), origin());
    // They sort before the true one.
    all.extend((1..=50).map(|n| advertised(&format!("2001:db8:{n}::1"))));
    gatherer.handle_addresses(all, origin());
    let of_v6 = gatherer.candidates().into_iter();
    let of_v6: Vec<_> = of_v6.filter(|c| c.address.is_ipv6()).collect();
    assert_eq!(of_v6.len(), 12);
    let best = of_v6.iter().max_by_key(|c| c.priority()).unwrap();
    assert_eq!(best.address.ip(), ip("2001:db8:ffff::5"));
}

#[test]
fn an_address_inside_another_tunnel_comes_behind_every_other_kind_of_candidate() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    let all = [
        (AddressRank::Tunnel, "10.99.0.2"),
        (AddressRank::Outward, "192.168.1.2"),
    ];
    gatherer.handle_addresses(
        all.map(|(rank, text)| ranked(rank, text)).to_vec(),
        origin(),
    );
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    let candidates = gatherer.candidates();
    let last = candidates.iter().min_by_key(|c| c.priority()).unwrap();
    assert_eq!(last.address.ip(), ip("10.99.0.2"));
    assert!(last.is_in_tunnel() && last.priority() <= Candidate::LOWEST_KIND);
    assert!(
        candidates
            .iter()
            .any(|c| c.kind == CandidateKind::ServerReflexive)
    );
}

// --- changes of the machine ---

#[test]
fn containers_that_come_and_go_are_no_other_network() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    let old = transmits(&mut gatherer).pop().unwrap();
    gatherer.poll_changed();
    let mut all = own(&["192.168.1.2"]);
    all.push(ranked(AddressRank::Internal, "172.17.0.1"));
    let changed = gatherer.handle_addresses(all, origin());
    assert_eq!(changed, AddressChange::Internal);
    assert!(gatherer.poll_changed(), "peers hear of the candidate");
    assert_eq!(gatherer.candidates().len(), 2);
    assert_eq!(transmits(&mut gatherer), [], "no server is asked anew");
    let says = says(&old, PUBLIC);
    assert!(respond(&mut gatherer, &old, SERVER, &says, origin()));
}

#[test]
fn other_addresses_mean_another_network_and_everything_starts_over() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    let old = transmits(&mut gatherer).pop().unwrap();
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    let now = origin() + secs(2);

    let changed = gatherer.handle_addresses(own(&["10.20.30.40"]), now);

    assert_eq!(changed, AddressChange::Network);
    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates(), [host("10.20.30.40:51820")]);
    let new = transmits(&mut gatherer).pop().unwrap();
    assert_ne!(new.bytes, old.bytes);
    assert!(
        !respond(&mut gatherer, &old, SERVER, &says(&old, PUBLIC), now),
        "the old network's answer is late"
    );
    assert_eq!(gatherer.candidates().len(), 1);
    assert!(respond(
        &mut gatherer,
        &new,
        SERVER,
        &says(&new, "203.0.113.99:1"),
        now
    ));
    assert_eq!(gatherer.candidates()[1], reflexive("203.0.113.99:1"));
}

#[test]
fn the_same_addresses_in_another_order_are_no_change() {
    let mut gatherer = behind_a_nat(&[]);
    let changed = gatherer.handle_addresses(own(&["10.0.0.1", "10.0.0.2"]), origin());
    assert_eq!(changed, AddressChange::Network);
    gatherer.poll_changed();

    let again = own(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]);

    let changed = gatherer.handle_addresses(again, origin());
    assert_eq!(changed, AddressChange::None);
    assert!(!gatherer.poll_changed());
}

#[test]
fn a_new_port_makes_the_mapping_of_the_old_one_worthless() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));

    gatherer.handle_socket(V4, 50000, origin() + secs(1));

    assert_eq!(gatherer.candidates(), [host("192.168.1.2:50000")]);
    assert_eq!(transmits(&mut gatherer).len(), 1);
}

#[test]
fn after_a_sleep_all_servers_are_asked_again_at_once() {
    let mut gatherer = behind_a_nat(&[SERVER, SERVER_2]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));

    gatherer.restart(origin() + secs(5));

    assert_eq!(transmits(&mut gatherer).len(), 2);
    assert_eq!(
        gatherer.candidates().len(),
        2,
        "until they say otherwise the old addresses stand"
    );
}

// --- what is not believed ---

#[test]
fn an_answer_from_another_address_or_socket_or_to_no_question_is_not_ours() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    let request = transmits(&mut gatherer).pop().unwrap();
    let bytes = says(&request, PUBLIC);
    let message = Message::parse(&bytes).unwrap();

    assert!(!respond(
        &mut gatherer,
        &request,
        "198.51.100.1:3479",
        &bytes,
        origin()
    ));
    assert!(!respond(
        &mut gatherer,
        &request,
        "198.51.100.9:3478",
        &bytes,
        origin()
    ));
    assert!(!gatherer.handle_response(SocketId(9), addr(SERVER), &message, origin()));
    let other = Transmit {
        bytes: Writer::new(Class::Request, punch_stun_protocol::TransactionId([1; 12])).finish(),
        ..request.clone()
    };
    assert!(!respond(
        &mut gatherer,
        &request,
        SERVER,
        &says(&other, PUBLIC),
        origin()
    ));

    assert_eq!(gatherer.candidates().len(), 1);
    assert!(respond(&mut gatherer, &request, SERVER, &bytes, origin()));
    assert!(
        !respond(&mut gatherer, &request, SERVER, &bytes, origin()),
        "an answer counts once"
    );
}

#[test]
fn a_server_that_says_what_cannot_be_is_not_believed() {
    for lie in [
        "0.0.0.0:1",
        "127.0.0.1:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "169.254.0.1:1",
        "203.0.113.5:0",
        "[::]:1",
        "[::1]:1",
        "[fe80::1]:1",
        "[ff02::1]:1",
        "[::ffff:203.0.113.5]:1",
    ] {
        let mut gatherer = behind_a_nat(&[SERVER]);
        gatherer.poll_changed();
        let request = transmits(&mut gatherer).pop().unwrap();

        assert!(respond(
            &mut gatherer,
            &request,
            SERVER,
            &says(&request, lie),
            origin()
        ));

        assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820")], "{lie}");
        assert!(!gatherer.poll_changed());
    }
}

#[test]
fn an_error_or_an_answer_without_an_address_brings_nothing() {
    for class in [Class::Error, Class::Success] {
        let mut gatherer = behind_a_nat(&[SERVER]);
        let request = transmits(&mut gatherer).pop().unwrap();
        let id = Message::parse(&request.bytes).unwrap().transaction;
        let bytes = Writer::new(class, id)
            .error(ErrorCode::BAD_REQUEST)
            .finish();

        assert!(respond(&mut gatherer, &request, SERVER, &bytes, origin()));

        assert_eq!(gatherer.candidates().len(), 1);
    }
}

#[test]
fn a_server_that_only_answers_nonsense_any_more_vouches_for_three_more_refreshes_and_not_longer() {
    let mut gatherer = behind_a_patient_nat(&[SERVER]);
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));

    pass(&mut gatherer, origin() + secs(1), secs(45), |_, _| {
        Some("0.0.0.0:0")
    });
    assert_eq!(gatherer.candidates().len(), 2);
    pass(&mut gatherer, origin() + secs(46), secs(30), |_, _| {
        Some("0.0.0.0:0")
    });

    assert_eq!(gatherer.candidates().len(), 1);
}

#[test]
fn the_same_seed_gives_the_same_requests() {
    let run = |seed| {
        let mut gatherer = Gatherer::new(seed);
        gatherer.handle_socket(V4, 51820, origin());
        gatherer.handle_addresses(own(&["192.168.1.2"]), origin());
        gatherer.handle_servers(vec![addr(SERVER)], origin());
        transmits(&mut gatherer)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_gatherer_that_knows_nothing_asks_nobody_and_names_nothing() {
    let mut gatherer = Gatherer::new(1);
    assert_eq!(gatherer.poll_timeout(), None);
    gatherer.handle_servers(vec![addr(SERVER)], origin());
    assert_eq!(
        (transmits(&mut gatherer), gatherer.candidates()),
        (vec![], vec![])
    );
}

#[test]
fn a_mapped_port_is_named_as_long_as_it_is_mapped() {
    let mut gatherer = behind_a_nat(&[]);
    gatherer.poll_changed();
    let mapped = Candidate::new(CandidateKind::PortMapped, addr(PUBLIC));

    gatherer.handle_port_mapping(Some(addr(PUBLIC)), origin());
    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820"), mapped]);
    gatherer.handle_port_mapping(Some(addr(PUBLIC)), origin());
    assert!(!gatherer.poll_changed(), "it was known");

    gatherer.handle_port_mapping(None, origin());
    assert!(gatherer.poll_changed());
    assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820")]);
}

#[test]
fn a_mapped_port_stays_named_once_when_servers_see_it_too_or_it_is_our_own() {
    let mut gatherer = behind_a_nat(&[SERVER]);
    gatherer.handle_port_mapping(Some(addr(PUBLIC)), origin());
    pass(&mut gatherer, origin(), secs(1), |_, _| Some(PUBLIC));
    let mapped = Candidate::new(CandidateKind::PortMapped, addr(PUBLIC));
    assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820"), mapped]);

    gatherer.handle_port_mapping(Some(addr("192.168.1.2:51820")), origin());
    let kinds = gatherer.candidates().into_iter().map(|c| c.kind);
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [CandidateKind::Host, CandidateKind::ServerReflexive]
    );
}

#[test]
fn a_mapped_address_that_nobody_can_send_to_is_not_named() {
    let mut gatherer = behind_a_nat(&[]);
    gatherer.poll_changed();
    for lie in ["127.0.0.1:5", "0.0.0.0:5", "224.0.0.1:5", "203.0.113.5:0"] {
        gatherer.handle_port_mapping(Some(addr(lie)), origin());
        assert!(!gatherer.poll_changed(), "{lie}");
        assert_eq!(gatherer.candidates(), [host("192.168.1.2:51820")]);
    }
}

// --- nodes of the DHT ---

const NODES: [&str; 4] = [
    "198.51.101.1:6881",
    "198.51.102.1:6881",
    "198.51.103.1:6881",
    "198.51.104.1:6881",
];

fn nodes() -> Vec<SocketAddr> {
    NODES.iter().map(|text| addr(text)).collect()
}

#[test]
fn three_nodes_are_asked_a_few_times_a_minute_and_one_that_lies_is_outvoted() {
    let mut gatherer = behind_a_nat(&[]);
    gatherer.handle_nodes(nodes(), origin());
    let sent = pass(&mut gatherer, origin(), secs(600), |_, transmit| {
        Some(match transmit.to == addr(NODES[1]) {
            true => "192.0.2.66:4242",
            false => PUBLIC,
        })
    });
    let asked = |node: &&str| sent.iter().filter(|(_, to)| *to == addr(node)).count();
    let counts: Vec<_> = NODES.iter().map(asked).collect();
    assert_eq!(counts[3], 0);
    assert!(
        counts[..3].iter().all(|count| (50..=61).contains(count)),
        "{counts:?}"
    );
    let told = addresses(&gatherer);
    assert!(told.contains(&(CandidateKind::ServerReflexive, PUBLIC.to_owned())));
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(gatherer.reflexive().count(), 2);

    // One is replaced: what the others say stays.
    let mut others = nodes();
    others.remove(0);
    gatherer.handle_nodes(others, origin() + secs(600));
    assert_eq!(
        gatherer.reflexive().count(),
        2,
        "two that contradict each other"
    );
    gatherer.handle_nodes(Vec::new(), origin() + secs(601));
    assert_eq!(addresses(&gatherer).len(), 1);
}
