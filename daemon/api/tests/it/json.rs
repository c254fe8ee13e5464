//! The JSON forms are promises: scripts read them.

use std::collections::BTreeMap;
use std::fmt::Debug;

use punch_api::error::ErrorBody;
use punch_api::{
    AddForward, AddPeer, AddServer, AddressFamily, Allocation, AllocationView, AnswerLine, Budget,
    BudgetView, CandidateView, ChannelKind, DetourView, DhtView, Event, EventKind, ForwardKey,
    ForwardTrouble, ForwardView, HeardView, IdView, InvitationView, Invite, Join, KeyView, LanView,
    LossView, Mapping, MappingProtocol, MetView, NatView, NetcheckView, NetworkView, Obstacle,
    OpenEnum, PairingRole, PairingStage, PairingView, PasteStep, PasteView, PathKind, PathReason,
    PathView, PeerKey, PeerState, PeerView, PingView, PortMappingView, PortsView, ProbeKind,
    ProbeView, Protocol, RefusalReason, RefusedView, RelayedView, Rename, RightsView, Secret,
    ServerAddress, ServerKind, ServerState, ServerView, Status, Step, StepOutcome, StepView,
    StrangerView, Target, Up, WhyView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{KEY, id};

/// `value` is written as `json` and read back from it.
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, json: &str) {
    assert_eq!(serde_json::to_string(&value).unwrap(), json);
    assert_eq!(serde_json::from_str::<T>(json).unwrap(), value);
}

fn refused<T: DeserializeOwned + Debug>(json: &str) -> String {
    serde_json::from_str::<T>(json).unwrap_err().to_string()
}

fn id_view() -> IdView {
    IdView {
        id: id(),
        ipv4: Some("100.64.1.2".parse().unwrap()),
        ipv6: "fd70:756e:6368::1".parse().unwrap(),
        wireguard: "QUJD".to_owned(),
    }
}

fn path() -> PathView {
    PathView {
        via: None,
        nat64: None,
        mtu: Some(1420),
        remote: "192.0.2.7:51820".parse().unwrap(),
        kind: PathKind::ServerReflexive.into(),
        rtt_ms: Some(12.5),
        loss: Some(LossView {
            fraction: 0.25,
            samples: 40,
            window_s: 600,
        }),
        since_ms: Some(1_700_000_000_000),
        reason: Some(PathReason::Promoted.into()),
        because: Some("a direct path was found".to_owned()),
        met_over: Some(MetView {
            channel: ChannelKind::Server.into(),
            name: Some("wss://a:443/".to_owned()),
        }),
        detour: Some(DetourView {
            because: "this network lets no UDP out".to_owned(),
            advice: vec!["Let it.".to_owned()],
        }),
    }
}

const PATH: &str = r#"{"remote":"192.0.2.7:51820","kind":"server_reflexive","rtt_ms":12.5,"via":null,"nat64":null,"mtu":1420,"loss":{"fraction":0.25,"samples":40,"window_s":600},"since_ms":1700000000000,"reason":"promoted","because":"a direct path was found","met_over":{"channel":"server","name":"wss://a:443/"},"detour":{"because":"this network lets no UDP out","advice":["Let it."]}}"#;

// --- requests ---

#[test]
fn a_punch_peer_is_added_by_its_key() {
    let request = AddPeer {
        name: "db".parse().unwrap(),
        key: PeerKey::Punch {
            key: id(),
            ipv6_only: false,
        },
    };
    golden(
        request.clone(),
        &format!(r#"{{"name":"db","punch":{{"key":"{KEY}","ipv6_only":false}}}}"#),
    );
    let short = format!(r#"{{"punch":{{"key":"{KEY}"}},"name":"db"}}"#);
    assert_eq!(serde_json::from_str::<AddPeer>(&short).unwrap(), request);
}

#[test]
fn a_wireguard_peer_is_added_by_key_endpoint_and_address() {
    let request = |preshared: Option<&str>, endpoint: &str| AddPeer {
        name: "router".parse().unwrap(),
        key: PeerKey::Wireguard {
            key: "QUJD".to_owned(),
            endpoint: endpoint.parse().ok(),
            address: "10.0.0.1".parse().unwrap(),
            preshared: preshared.map(|key| Secret::new(key.to_owned())),
        },
    };
    golden(
        request(None, "[2001:db8::1]:51820"),
        r#"{"name":"router","wireguard":{"key":"QUJD","endpoint":"[2001:db8::1]:51820","address":"10.0.0.1"}}"#,
    );
    golden(
        request(Some("WFla"), "[2001:db8::1]:51820"),
        r#"{"name":"router","wireguard":{"key":"QUJD","endpoint":"[2001:db8::1]:51820","address":"10.0.0.1","preshared":"WFla"}}"#,
    );
    golden(
        request(None, "home.example:51820"),
        r#"{"name":"router","wireguard":{"key":"QUJD","endpoint":"home.example:51820","address":"10.0.0.1"}}"#,
    );
    golden(
        request(None, ""),
        r#"{"name":"router","wireguard":{"key":"QUJD","address":"10.0.0.1"}}"#,
    );
    assert_eq!(
        "home.example"
            .parse::<punch_api::Endpoint>()
            .unwrap_err()
            .to_string(),
        "`home.example` is not an endpoint: write HOST:PORT, for instance home.example:51820 or [2001:db8::1]:51820"
    );
}

#[test]
fn a_forward_needs_only_protocol_and_ports() {
    let mut request = AddForward {
        protocol: Protocol::Tcp,
        ports: "5432".parse().unwrap(),
        target: None,
        peers: Vec::new(),
    };
    golden(request.clone(), r#"{"protocol":"tcp","ports":"5432"}"#);
    request.ports = "8000-8010".parse().unwrap();
    request.target = Some("[::1]:9000".parse().unwrap());
    request.peers = vec!["db".parse().unwrap(), "web".parse().unwrap()];
    golden(
        request,
        r#"{"protocol":"tcp","ports":"8000-8010","target":"[::1]:9000","peers":["db","web"]}"#,
    );
}

#[test]
fn the_small_requests_keep_their_form() {
    golden(
        Rename {
            to: "db2".parse().unwrap(),
        },
        r#"{"to":"db2"}"#,
    );
    golden(
        Up {
            wait_ms: 5000,
            direct_only: None,
        },
        r#"{"wait_ms":5000}"#,
    );
    golden(
        Up {
            wait_ms: 0,
            direct_only: Some(true),
        },
        r#"{"wait_ms":0,"direct_only":true}"#,
    );
    assert_eq!(serde_json::from_str::<Up>("{}").unwrap(), Up::default());
    golden(
        AddServer {
            kind: ServerKind::Stun,
            address: "stun.example.org".to_owned(),
        },
        r#"{"kind":"stun","address":"stun.example.org"}"#,
    );
    golden(
        ForwardKey {
            protocol: Protocol::Udp,
            ports: "53".parse().unwrap(),
        },
        r#"{"protocol":"udp","ports":"53"}"#,
    );
    let address = ServerAddress::parse(ServerKind::Signal, "ws://a").unwrap();
    assert_eq!(serde_json::to_string(&address).unwrap(), r#""ws://a:80/""#);
}

#[test]
fn an_invitation_and_its_answer_keep_their_form() {
    golden(
        Invite {
            name: None,
            forwards: Vec::new(),
            host: false,
            expires_s: 600,
        },
        r#"{"host":false,"expires_s":600}"#,
    );
    let empty = serde_json::from_str::<Invite>("{}").unwrap();
    assert_eq!((empty.expires_s, empty.host), (600, false));
    golden(
        Join {
            code: Secret::new("a-b".to_owned()),
            name: Some("db".parse().unwrap()),
            add_servers: true,
            wait_s: 60,
        },
        r#"{"code":"a-b","name":"db","add_servers":true,"wait_s":60}"#,
    );
    let pairing = PairingView {
        number: 1,
        role: PairingRole::Newcomer.into(),
        stage: PairingStage::Waiting.into(),
        peer: None,
        id: None,
        forwards: Vec::new(),
        host: false,
        servers: Vec::new(),
        expires_at_ms: 7,
        trouble: None,
    };
    golden(
        InvitationView {
            code: Secret::new("a-b".to_owned()),
            pairing,
        },
        r#"{"code":"a-b","pairing":{"number":1,"role":"newcomer","stage":"waiting","peer":null,"id":null,"forwards":[],"host":false,"servers":[],"expires_at_ms":7,"trouble":null}}"#,
    );
}

#[test]
fn a_field_that_is_not_known_is_refused_by_name() {
    for refusal in [
        refused::<Rename>(r#"{"to":"db","from":"x"}"#),
        refused::<Up>(r#"{"wait_ms":1,"from":"x"}"#),
        refused::<AddForward>(r#"{"protocol":"tcp","ports":"1","from":"x"}"#),
        refused::<AddServer>(r#"{"kind":"stun","address":"a","from":"x"}"#),
        refused::<AddPeer>(&format!(
            r#"{{"name":"db","punch":{{"key":"{KEY}","from":true}}}}"#
        )),
        refused::<AddPeer>(
            r#"{"name":"r","wireguard":{"key":"QUJD","endpoint":"192.0.2.1:1","address":"10.0.0.1","from":"x"}}"#,
        ),
    ] {
        assert!(refusal.starts_with("unknown field `from`"), "{refusal}");
    }
}

#[test]
fn a_bad_value_in_a_request_is_refused_in_the_words_for_people() {
    for (refusal, words) in [
        (
            refused::<AddForward>(r#"{"protocol":"tcp","ports":"0"}"#),
            "`0` is not a port: ports are 1 to 65535",
        ),
        (
            refused::<AddForward>(r#"{"protocol":"icmp","ports":"1"}"#),
            "`icmp` is not a protocol: use tcp or udp",
        ),
        (
            refused::<AddForward>(r#"{"protocol":"tcp","ports":"1","target":"x"}"#),
            "`x` is not a target: write HOST:PORT",
        ),
        (
            refused::<Rename>(r#"{"to":"A"}"#),
            "`A` cannot be a peer's name",
        ),
        (
            refused::<AddPeer>(r#"{"name":"db","punch":{"key":"punch1qqqq"}}"#),
            "a key has 64 characters, this one has 10",
        ),
    ] {
        assert!(refusal.starts_with(words), "{refusal}");
    }
}

#[test]
fn a_port_as_a_number_and_a_missing_field_are_refused() {
    assert!(serde_json::from_str::<AddForward>(r#"{"protocol":"tcp","ports":80}"#).is_err());
    assert!(serde_json::from_str::<AddForward>(r#"{"protocol":"tcp"}"#).is_err());
    assert!(serde_json::from_str::<AddPeer>(r#"{"name":"db"}"#).is_err());
    assert!(serde_json::from_str::<AddPeer>(r#"{"name":"db","punch":{}}"#).is_err());
}

// --- views ---

#[test]
fn an_identity_has_exactly_the_keys_id_ipv4_ipv6_wireguard() {
    golden(
        id_view(),
        &format!(
            r#"{{"id":"{KEY}","ipv4":"100.64.1.2","ipv6":"fd70:756e:6368::1","wireguard":"QUJD"}}"#
        ),
    );
    let without = IdView {
        ipv4: None,
        ..id_view()
    };
    let value = serde_json::to_value(without).unwrap();
    let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "ipv4", "ipv6", "wireguard"]);
    assert!(value["ipv4"].is_null());
}

#[test]
fn a_key_is_shown_without_its_secret() {
    let view = KeyView {
        id: id(),
        wireguard: "QUJD".to_owned(),
        file: "/var/lib/punch/identity".to_owned(),
    };
    golden(
        view,
        &format!(r#"{{"id":"{KEY}","wireguard":"QUJD","file":"/var/lib/punch/identity"}}"#),
    );
}

#[test]
fn a_peer_shows_how_it_is_reached() {
    let view = PeerView {
        name: "db".parse().unwrap(),
        id: Some(id()),
        wireguard: "QUJD".to_owned(),
        ipv4: None,
        ipv6: Some("fd70:756e:6368::2".parse().unwrap()),
        up: true,
        rights: RightsView {
            host: false,
            relay: true,
            relayed: Some(RelayedView {
                present: true,
                from_bytes: 3,
                to_bytes: 4,
                refused_packets: 5,
            }),
            meeting: None,
        },
        direct_only: true,
        state: PeerState::Connected.into(),
        path: Some(path()),
        refused: None,
        received_bytes: 1,
        sent_bytes: 2,
        last_handshake_s: None,
        note: None,
    };
    golden(
        view,
        &format!(
            r#"{{"name":"db","id":"{KEY}","wireguard":"QUJD","ipv4":null,"ipv6":"fd70:756e:6368::2","up":true,"host":false,"relay":true,"relayed":{{"present":true,"from_bytes":3,"to_bytes":4,"refused_packets":5}},"meeting":null,"direct_only":true,"state":"connected","path":{PATH},"refused":null,"received_bytes":1,"sent_bytes":2,"last_handshake_s":null,"note":null}}"#
        ),
    );
}

#[test]
fn the_states_and_kinds_keep_their_words() {
    let words = |values: &[PeerState]| serde_json::to_string(values).unwrap();
    assert_eq!(
        words(&[
            PeerState::Down,
            PeerState::Waiting,
            PeerState::Connecting,
            PeerState::Connected
        ]),
        r#"["down","waiting","connecting","connected"]"#
    );
    let kinds = [
        PathKind::Host,
        PathKind::ServerReflexive,
        PathKind::PeerReflexive,
        PathKind::PortMapped,
        PathKind::Fixed,
        PathKind::Relayed,
        PathKind::Tcp,
    ];
    assert_eq!(
        serde_json::to_string(&kinds).unwrap(),
        r#"["host","server_reflexive","peer_reflexive","port_mapped","fixed","relayed","tcp"]"#
    );
    let states = [ServerState::Connecting, ServerState::Connected];
    assert_eq!(
        serde_json::to_string(&states).unwrap(),
        r#"["connecting","connected"]"#
    );
}

#[test]
fn the_status_says_all_at_once() {
    let status = Status {
        version: "0.1.0".to_owned(),
        id: id_view(),
        interface: "punch0".to_owned(),
        uptime_s: 60,
        network: NetworkView {
            port_v4: Some(51820),
            port_v6: None,
            nat64: Some("64:ff9b::/96".to_owned()),
            tcp_port_v4: Some(51821),
            tcp_port_v6: None,
            candidates: vec![CandidateView {
                kind: PathKind::Host.into(),
                address: "192.168.1.2:51820".parse().unwrap(),
            }],
        },
        servers: vec![ServerView {
            kind: ServerKind::Signal.into(),
            address: "wss://a:443/".to_owned(),
            proxy: Some("http://p:3128".to_owned()),
            fixed: true,
            state: ServerState::Connecting.into(),
            trouble: Some("connection refused".to_owned()),
        }],
        lan: Some(LanView {
            links: vec!["eth0".to_owned()],
            heard: vec![HeardView {
                peer: "db".parse().unwrap(),
                address: "192.168.1.3:40000".parse().unwrap(),
            }],
            trouble: None,
            sent: 1,
            taken: 2,
            strangers: 3,
            refused: 4,
        }),
        dht: Some(DhtView {
            nodes: 40,
            answered_s: Some(3),
            address: Some("192.0.2.7".parse().unwrap()),
            sent: 5,
            received: 4,
            lookups: 3,
            stored: 2,
            found: 1,
            vantage: 3,
            trouble: None,
        }),
        public: Some(true),
        peers: Vec::new(),
        forwards: vec![ForwardView {
            protocol: Protocol::Tcp.into(),
            ports: "5432".parse().unwrap(),
            target: Target::local(5432),
            peers: Vec::new(),
            open: 1,
            total: 7,
            failed: 2,
            refused: 3,
            trouble: Some(ForwardTrouble {
                at_ms: 1_700_000_000_000,
                message: "connection refused at 127.0.0.1:5432".to_owned(),
            }),
        }],
        warnings: vec!["the disk is full".to_owned()],
        strangers: vec![StrangerView {
            id: id(),
            asked: 2,
            last_s: 5,
        }],
        dropped: BTreeMap::from([("refused".to_owned(), 3)]),
    };
    golden(
        status,
        &format!(
            r#"{{"version":"0.1.0","id":"{KEY}","ipv4":"100.64.1.2","ipv6":"fd70:756e:6368::1","wireguard":"QUJD","interface":"punch0","uptime_s":60,"network":{{"port_v4":51820,"port_v6":null,"nat64":"64:ff9b::/96","tcp_port_v4":51821,"tcp_port_v6":null,"candidates":[{{"kind":"host","address":"192.168.1.2:51820"}}]}},"servers":[{{"kind":"signal","address":"wss://a:443/","proxy":"http://p:3128","fixed":true,"state":"connecting","trouble":"connection refused"}}],"dht":{{"nodes":40,"answered_s":3,"address":"192.0.2.7","sent":5,"received":4,"lookups":3,"stored":2,"found":1,"vantage":3,"trouble":null}},"lan":{{"links":["eth0"],"heard":[{{"peer":"db","address":"192.168.1.3:40000"}}],"trouble":null,"sent":1,"taken":2,"strangers":3,"refused":4}},"public":true,"peers":[],"forwards":[{{"protocol":"tcp","ports":"5432","target":"127.0.0.1:5432","peers":[],"open":1,"total":7,"failed":2,"refused":3,"trouble":{{"at_ms":1700000000000,"message":"connection refused at 127.0.0.1:5432"}}}}],"warnings":["the disk is full"],"strangers":[{{"id":"{KEY}","asked":2,"last_s":5}}],"dropped":{{"refused":3}}}}"#
        ),
    );
}

#[test]
fn what_a_person_carries_keeps_its_form() {
    golden(
        AnswerLine {
            line: "punch-offer1a".to_owned(),
        },
        r#"{"line":"punch-offer1a"}"#,
    );
    golden(
        PasteView {
            peer: "db".parse().unwrap(),
            step: PasteStep::Answered.into(),
            line: None,
            expires_in_s: Some(600),
        },
        r#"{"peer":"db","step":"answered","line":null,"expires_in_s":600}"#,
    );
}

#[test]
fn a_ping_and_a_netcheck_keep_their_form() {
    golden(
        PingView {
            address: "100.64.1.2".parse().unwrap(),
            rtt_ms: 3.25,
            path: Some(path()),
        },
        &format!(r#"{{"address":"100.64.1.2","rtt_ms":3.25,"path":{PATH}}}"#),
    );
    golden(
        NetcheckView {
            family: AddressFamily::Ipv4.into(),
            udp_blocked: false,
            public: Some("192.0.2.1:40000".parse().unwrap()),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            mapping: Some(Mapping::EndpointIndependent.into()),
            filtering: None,
            preserves_port: Some(false),
            allocation: Some(AllocationView::Known(Allocation::Sequential {
                step: -2,
                others: 7,
            })),
            ports: PortsView {
                capacity: Some(1024),
                used_up: false,
            },
            hairpinning: Some(true),
            lifetime_s: None,
            opening_ttl: Some(3),
            double_nat: Some(true),
            evidence: vec![ProbeView {
                server: "198.51.100.1:3478".parse().unwrap(),
                probe: ProbeKind::Binding.into(),
                mapped: None,
                rtt_ms: None,
            }],
            port_mapping: Some(PortMappingView {
                protocol: Some(MappingProtocol::NatPmp.into()),
                external: Some("100.64.3.4:51820".parse().unwrap()),
                trouble: None,
                double_nat: true,
            }),
        },
        r#"{"family":"ipv4","udp_blocked":false,"public":"192.0.2.1:40000","addresses":["192.0.2.1"],"mapping":"endpoint_independent","filtering":null,"preserves_port":false,"allocation":{"model":"sequential","step":-2,"others":7},"ports":{"capacity":1024,"used_up":false},"hairpinning":true,"lifetime_s":null,"opening_ttl":3,"double_nat":true,"evidence":[{"server":"198.51.100.1:3478","probe":"binding","mapped":null,"rtt_ms":null}],"port_mapping":{"protocol":"nat_pmp","external":"100.64.3.4:51820","trouble":null,"double_nat":true}}"#,
    );
    let protocols = [
        MappingProtocol::Pcp,
        MappingProtocol::NatPmp,
        MappingProtocol::Upnp,
    ];
    assert_eq!(
        serde_json::to_string(&protocols).unwrap(),
        r#"["pcp","nat_pmp","upnp"]"#
    );
}

#[test]
fn a_why_keeps_its_form() {
    let nat = |allocation| NatView {
        summary: "hard NAT".to_owned(),
        mapping: Some(Mapping::AddressAndPortDependent.into()),
        filtering: None,
        allocation,
        addresses: vec!["192.0.2.1".parse().unwrap()],
    };
    golden(
        WhyView {
            peer: "db".parse().unwrap(),
            state: PeerState::Connecting.into(),
            path: None,
            summary: "No path.".to_owned(),
            refused: Some(RefusedView {
                reason: RefusalReason::Clock.into(),
                clock_ahead_s: Some(7200),
                ago_s: 2.5,
                message: "No.".to_owned(),
            }),
            obstacle: Some(Obstacle::Silent.into()),
            plain: None,
            mine: Some(nat(Some(Allocation::Random.into()))),
            theirs: None,
            steps: vec![StepView {
                step: Step::Birthday.into(),
                chance: 0.25,
                typical_s: 4.5,
                expected_s: Some(300.0),
                outcome: StepOutcome::Running.into(),
                mappings: 10,
                packets: 20,
                peak_rate: 15,
                refused_sockets: 3,
                took_s: 1.5,
            }],
            failures: 1,
            retry_in_s: Some(2.5),
            budget: BudgetView {
                name: Budget::Normal.into(),
                mappings: 4096,
                packets_per_s: 1000,
                packets_per_address: 12_000,
                duration_s: 12,
            },
            advice: vec!["Do something.".to_owned()],
        },
        r#"{"peer":"db","state":"connecting","path":null,"summary":"No path.","refused":{"reason":"clock","clock_ahead_s":7200,"ago_s":2.5,"message":"No."},"obstacle":"silent","plain":null,"mine":{"summary":"hard NAT","mapping":"address_and_port_dependent","filtering":null,"allocation":{"model":"random"},"addresses":["192.0.2.1"]},"theirs":null,"steps":[{"step":"birthday","chance":0.25,"typical_s":4.5,"expected_s":300.0,"outcome":"running","mappings":10,"packets":20,"peak_rate":15,"refused_sockets":3,"took_s":1.5}],"failures":1,"retry_in_s":2.5,"budget":{"name":"normal","mappings":4096,"packets_per_s":1000,"packets_per_address":12000,"duration_s":12},"advice":["Do something."]}"#,
    );
    let models = [
        Allocation::Preserving,
        Allocation::Block {
            low: 40_000,
            high: 41_023,
        },
    ];
    assert_eq!(
        serde_json::to_string(&models).unwrap(),
        r#"[{"model":"preserving"},{"model":"block","low":40000,"high":41023}]"#
    );
}

// --- events ---

#[test]
fn an_event_names_its_kind_beside_its_values() {
    let event = |kind| Event {
        at_ms: 1_700_000_000_000,
        kind,
        message: "text".to_owned(),
    };
    let db = || "db".parse().unwrap();
    for (kind, fields) in [
        (
            EventKind::Peer {
                peer: db(),
                state: PeerState::Connected.into(),
                met_over: Some(MetView {
                    channel: ChannelKind::Lan.into(),
                    name: None,
                }),
            },
            r#""kind":"peer","peer":"db","state":"connected","met_over":{"channel":"lan","name":null}"#,
        ),
        (
            EventKind::Path {
                peer: db(),
                remote: "192.0.2.7:1".parse().unwrap(),
                reason: Some(PathReason::NetworkChanged.into()),
            },
            r#""kind":"path","peer":"db","remote":"192.0.2.7:1","reason":"network_changed""#,
        ),
        (
            EventKind::Relayed {
                peer: db(),
                server: "wss://a:443/".to_owned(),
                reason: None,
            },
            r#""kind":"relayed","peer":"db","server":"wss://a:443/","reason":null"#,
        ),
        (
            EventKind::Mtu {
                peer: db(),
                mtu: 1280,
                before: Some(1420),
            },
            r#""kind":"mtu","peer":"db","mtu":1280,"before":1420"#,
        ),
        (
            EventKind::Server {
                address: "a:3478".to_owned(),
                connected: true,
            },
            r#""kind":"server","address":"a:3478","connected":true"#,
        ),
        (
            EventKind::Meeting {
                peer: db(),
                connected: false,
            },
            r#""kind":"meeting","peer":"db","connected":false"#,
        ),
        (
            EventKind::OfferRefused { peer: db() },
            r#""kind":"offer_refused","peer":"db""#,
        ),
        (
            EventKind::Refused {
                peer: db(),
                reason: RefusalReason::NotWanted.into(),
                clock_ahead_s: None,
            },
            r#""kind":"refused","peer":"db","reason":"not_wanted","clock_ahead_s":null"#,
        ),
        (EventKind::Configuration, r#""kind":"configuration""#),
        (EventKind::Network, r#""kind":"network""#),
    ] {
        golden(
            event(kind),
            &format!(r#"{{"at_ms":1700000000000,{fields},"message":"text"}}"#),
        );
    }
}

#[test]
fn the_control_socket_has_its_place() {
    assert_eq!(punch_api::DEFAULT_SOCKET, "/run/punch/punchd.sock");
}

#[test]
fn a_kind_of_path_has_one_name_everywhere() {
    for kind in [
        PathKind::Host,
        PathKind::ServerReflexive,
        PathKind::PeerReflexive,
        PathKind::PortMapped,
        PathKind::Fixed,
    ] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}

#[test]
fn a_budget_has_one_name_everywhere() {
    for budget in [Budget::Gentle, Budget::Normal, Budget::Aggressive] {
        assert_eq!(serde_json::to_value(budget).unwrap(), budget.as_str());
    }
}

// --- what is newer than the reader ---

#[test]
fn a_word_of_a_newer_version_is_read_and_written_as_it_is() {
    for (json, word) in [
        (r#""carrier_pigeon""#, "carrier_pigeon"),
        (r#""host_and_more""#, "host_and_more"),
    ] {
        golden(OpenEnum::<PathKind>::Unknown(word.to_owned()), json);
    }
    golden(OpenEnum::Known(PathKind::Host), r#""host""#);
    let step = r#"{"step":"telepathy","chance":0.5,"typical_s":1.0,"expected_s":null,"outcome":"dreamt","mappings":1,"packets":2,"peak_rate":3,"refused_sockets":0,"took_s":1.0}"#;
    let read: StepView = serde_json::from_str(step).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), step);
    assert!(read.step != Step::Checks);
    for no_word in ["1", "null", "[]", "{}", "true"] {
        refused::<OpenEnum<PathKind>>(no_word);
    }
}

#[test]
fn a_model_of_ports_of_a_newer_version_is_read_by_its_name() {
    let read: AllocationView =
        serde_json::from_str(r#"{"model":"fibonacci","seed":[1,2]}"#).unwrap();
    let model = "fibonacci".to_owned();
    assert_eq!(read, AllocationView::Unknown { model });
    refused::<AllocationView>(r#"{"low":1,"high":2}"#);
}

#[test]
fn an_event_of_a_newer_version_still_has_its_time_and_its_message() {
    let read: Event = serde_json::from_str(
        r#"{"at_ms":5,"kind":"relay","peer":"db","bytes":{"in":1},"message":"db is relayed"}"#,
    )
    .unwrap();
    let message = "db is relayed".to_owned();
    let kind = EventKind::Unknown;
    assert_eq!(
        read,
        Event {
            at_ms: 5,
            kind,
            message
        }
    );
}

#[test]
fn an_error_of_a_newer_version_still_has_its_message() {
    let read: ErrorBody =
        serde_json::from_str(r#"{"error":{"code":"teapot","message":"no coffee"}}"#).unwrap();
    assert_eq!(read.error.to_string(), "no coffee");
    assert_eq!(read.error.http_status(), 500);
}

#[test]
fn every_probe_has_one_text() {
    for (probe, text) in [
        (ProbeKind::Binding, "binding"),
        (
            ProbeKind::AnswerFromOtherAddressAndPort,
            "answer_from_other_address_and_port",
        ),
        (ProbeKind::AnswerFromOtherPort, "answer_from_other_port"),
        (ProbeKind::Sample, "sample"),
        (
            ProbeKind::BindingFromAnotherSocket,
            "binding_from_another_socket",
        ),
        (
            ProbeKind::AnswerThroughOpening { ttl: 255 },
            "answer_through_opening_with_ttl_255",
        ),
    ] {
        golden(OpenEnum::Known(probe), &format!("{text:?}"));
    }
    for text in ["answer_through_opening_with_ttl_256", "sample_", ""] {
        let read: OpenEnum<ProbeKind> = serde_json::from_str(&format!("{text:?}")).unwrap();
        assert_eq!(read, OpenEnum::Unknown(text.to_owned()));
    }
}
