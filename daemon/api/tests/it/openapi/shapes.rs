//! Every request and answer with all that it can have and with as little as it can, every enum with all its variants.

use std::collections::BTreeMap;

use punch_api::error::ErrorBody;
use punch_api::{
    AddForward, AddPeer, AddServer, AddressFamily, Allocation, AnswerLine, ApiError, Budget,
    BudgetView, CandidateView, Changed, ChannelKind, DetourView, DhtView, ErrorCode, Event,
    EventKind, Filtering, ForwardKey, ForwardTrouble, ForwardView, HeardView, IdView,
    InvitationView, Invite, Join, KeyView, LanView, LossView, Mapping, MappingProtocol, MetView,
    NatView, NetcheckView, NetworkView, Obstacle, PairingRole, PairingStage, PairingView,
    PasteStep, PasteView, PathKind, PathReason, PathView, PeerKey, PeerName, PeerState, PeerView,
    PingView, PlainView, PortMappingView, PortsView, ProbeKind, ProbeView, Protocol, RefusalReason,
    RefusedView, RelayedView, Rename, RightsView, Secret, ServerKind, ServerState, ServerView,
    Status, Step, StepOutcome, StepView, StrangerView, Target, Up, WhyView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::WIREGUARD;
use crate::id;
use crate::schema::Document;

/// A value for each variant of an enum; a variant without a value does not compile. The variant behind `but`, which stands
/// for alternatives of newer versions, has no value.
macro_rules! variants {
    ($of:ident { $($variant:ident => $value:expr),+ $(,)? } $(but $newer:ident)?) => {{
        fn _all(value: &$of) {
            match value { $($of::$variant { .. } => {})+ $($of::$newer => {})? }
        }
        vec![$($value),+]
    }};
    ($of:ident { $($variant:ident),+ }) => {
        variants!($of { $($variant => $of::$variant),+ })
    };
}

pub(super) type Read = Box<dyn Fn(Value) -> Result<Value, String>>;

/// An object of the API: the schema of this name, values that have everything or nothing, and how serde reads it.
pub(super) struct Shape {
    pub(super) schema: String,
    pub(super) samples: Vec<Value>,
    pub(super) read: Read,
}

fn shape<T: Serialize + DeserializeOwned>(schema: &str, samples: Vec<T>) -> Shape {
    let write = |value: T| serde_json::to_value(value).unwrap();
    Shape {
        schema: schema.to_owned(),
        samples: samples.into_iter().map(write).collect(),
        read: Box::new(|value| {
            let value: T = serde_json::from_value(value).map_err(|error| error.to_string())?;
            serde_json::to_value(value).map_err(|error| error.to_string())
        }),
    }
}

pub(super) fn db() -> PeerName {
    "db".parse().unwrap()
}

fn detour() -> DetourView {
    DetourView {
        because: "no UDP passes".to_owned(),
        advice: vec!["Let it.".to_owned()],
    }
}

fn met() -> MetView {
    MetView {
        channel: ChannelKind::Server.into(),
        name: Some("wss://a:443/".to_owned()),
    }
}

fn loss() -> LossView {
    LossView {
        fraction: 0.5,
        samples: 40,
        window_s: 600,
    }
}

fn path(rtt_ms: Option<f64>) -> PathView {
    PathView {
        nat64: rtt_ms.map(|_| "64:ff9b::/96".to_owned()),
        via: rtt_ms.is_none().then(|| "wss://a:443/".to_owned()),
        mtu: rtt_ms.map(|_| 1420),
        remote: "[2001:db8::7]:51820".parse().unwrap(),
        kind: PathKind::Host.into(),
        rtt_ms,
        loss: rtt_ms.map(|_| loss()),
        since_ms: rtt_ms.map(|_| u64::MAX),
        reason: rtt_ms.map(|_| PathReason::First.into()),
        because: rtt_ms.map(|_| "it is the first one".to_owned()),
        met_over: rtt_ms.map(|_| met()),
        detour: rtt_ms.map(|_| detour()),
    }
}

fn id_view(ipv4: Option<&str>) -> IdView {
    IdView {
        id: id(),
        ipv4: ipv4.map(|text| text.parse().unwrap()),
        ipv6: "fd70:756e:6368::1".parse().unwrap(),
        wireguard: WIREGUARD.to_owned(),
    }
}

pub(super) fn allocations() -> Vec<Allocation> {
    variants!(Allocation {
        Preserving => Allocation::Preserving,
        Sequential => Allocation::Sequential { step: i16::MIN, others: u16::MAX },
        Block => Allocation::Block { low: 1, high: u16::MAX },
        Random => Allocation::Random,
    })
}

pub(super) fn event_kinds() -> Vec<EventKind> {
    variants!(EventKind {
        Peer => EventKind::Peer { peer: db(), state: PeerState::Waiting.into(), met_over: Some(met()) },
        Path => EventKind::Path {
            peer: db(),
            remote: "192.0.2.7:1".parse().unwrap(),
            reason: Some(PathReason::Silent.into()),
        },
        Relayed => EventKind::Relayed { peer: db(), server: "wss://a:443/".to_owned(), reason: None },
        Mtu => EventKind::Mtu { peer: db(), mtu: 1420, before: Some(u16::MAX) },
        Search => EventKind::Search { peer: db(), chance: 0.5 },
        Server => EventKind::Server { address: "ws://a:80/".to_owned(), connected: true },
        Meeting => EventKind::Meeting { peer: db(), connected: true },
        OfferRefused => EventKind::OfferRefused { peer: db() },
        Overlay => EventKind::Overlay { peer: Some(db()), address: "100.64.1.2".parse().unwrap(), used: false },
        Refused => EventKind::Refused {
            peer: db(),
            reason: RefusalReason::Clock.into(),
            clock_ahead_s: Some(i64::MIN),
        },
        Stranger => EventKind::Stranger { id: id() },
        Configuration => EventKind::Configuration,
        Network => EventKind::Network,
    } but Unknown)
}

pub(super) fn peer_keys() -> Vec<PeerKey> {
    variants!(PeerKey {
        Punch => PeerKey::Punch { key: id(), ipv6_only: true },
        Wireguard => PeerKey::Wireguard {
            key: WIREGUARD.to_owned(),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            address: "10.0.0.1".parse().unwrap(),
            preshared: Some(Secret::new(WIREGUARD.to_owned())),
        },
    })
}

/// The schemas of the enums that are words, with all the words of the types.
#[expect(clippy::too_many_lines, reason = "one entry for each enum of words")]
pub(super) fn words() -> BTreeMap<&'static str, Vec<Value>> {
    fn all<T: Serialize>(values: Vec<T>) -> Vec<Value> {
        let write = |value| serde_json::to_value(value).unwrap();
        values.into_iter().map(write).collect()
    }
    BTreeMap::from([
        ("ErrorCode", all(error_codes())),
        (
            "PairingRole",
            all(variants!(PairingRole { Inviter, Newcomer })),
        ),
        (
            "PairingStage",
            all(variants!(PairingStage {
                Preparing,
                Waiting,
                Paired,
                Failed,
                Expired
            })),
        ),
        (
            "PathReason",
            all(variants!(PathReason {
                First,
                Promoted,
                Better,
                ChosenByPeer,
                Silent,
                Recovered,
                RelayLost,
                Closed,
                RelayForbidden,
                NetworkChanged,
                PeerMoved,
                Renewed,
                TakenOver,
                Configured
            })),
        ),
        (
            "ChannelKind",
            all(variants!(ChannelKind {
                Server,
                Peer,
                Lan,
                Dht,
                Paste
            })),
        ),
        (
            "PathKind",
            all(variants!(PathKind {
                Host,
                ServerReflexive,
                PeerReflexive,
                PortMapped,
                Fixed,
                Relayed,
                Tcp
            })),
        ),
        (
            "PeerState",
            all(variants!(PeerState {
                Down,
                Refused,
                Waiting,
                Connecting,
                Connected
            })),
        ),
        (
            "RefusalReason",
            all(variants!(RefusalReason {
                Clock,
                Version,
                NotWanted,
                Other
            })),
        ),
        (
            "Obstacle",
            all(variants!(Obstacle {
                Refused,
                NoServer,
                ServersUnreachable,
                Offline,
                Goodbye,
                RefusedByPeer,
                Silent
            })),
        ),
        (
            "ServerState",
            all(variants!(ServerState {
                Connecting,
                Connected
            })),
        ),
        (
            "PasteStep",
            all(variants!(PasteStep {
                Offered,
                Answered,
                Connecting
            })),
        ),
        (
            "MappingProtocol",
            all(variants!(MappingProtocol { Pcp, NatPmp, Upnp })),
        ),
        ("Protocol", all(variants!(Protocol { Tcp, Udp }))),
        (
            "ServerKind",
            all(variants!(ServerKind {
                Signal,
                Stun,
                Dht,
                Public
            })),
        ),
        (
            "AddressFamily",
            all(variants!(AddressFamily { Ipv4, Ipv6 })),
        ),
        (
            "NatMapping",
            all(variants!(Mapping {
                None,
                EndpointIndependent,
                AddressDependent,
                AddressAndPortDependent,
                Dependent
            })),
        ),
        (
            "NatFiltering",
            all(variants!(Filtering {
                EndpointIndependent,
                AddressDependent,
                AddressAndPortDependent
            })),
        ),
        (
            "StepKind",
            all(variants!(Step {
                Checks,
                HoldAndProbe,
                Meet,
                Birthday
            })),
        ),
        (
            "StepOutcome",
            all(variants!(StepOutcome {
                Waiting,
                Running,
                Found,
                NotNeeded,
                Exhausted,
                OverBudget,
                NoSockets,
                NoPrediction,
                Unmeasured,
                TooUnlikely,
                PortsUsedUp,
                Unwatched
            })),
        ),
        (
            "BudgetName",
            all(variants!(Budget {
                Gentle,
                Normal,
                Aggressive
            })),
        ),
    ])
}

pub(super) fn error_codes() -> Vec<ErrorCode> {
    variants!(ErrorCode {
        Invalid,
        NotFound,
        Conflict,
        Unavailable,
        Timeout,
        Internal
    })
}

/// The schemas of texts: those with a type of their own, and those that punchd checks or writes by itself (punchd's own test
/// of the file looks at its words).
pub(super) const TEXTS: [&str; 10] = [
    "PeerName",
    "PeerId",
    "PortRange",
    "Target",
    "SocketAddress",
    "IpAddress",
    "WireguardKey",
    "PresharedKey",
    "ProbeKind",
    "DropReason",
];

/// The schemas that are one of several others.
pub(super) const UNIONS: [&str; 3] = ["AddPeer", "Allocation", "Event"];

/// The name of the schema that a union has for a kind of it.
fn member(document: &Document, union: &str, value: &Value) -> String {
    let discriminator = &document.schema(union)["discriminator"];
    let property = discriminator["propertyName"].as_str().unwrap();
    let word = value[property].as_str().unwrap();
    let to = discriminator["mapping"][word]
        .as_str()
        .unwrap_or_else(|| panic!("the file has no {union} {word}"));
    to.rsplit('/').next().unwrap().to_owned()
}

fn shared() -> ForwardKey {
    ForwardKey {
        protocol: Protocol::Tcp,
        ports: "5432".parse().unwrap(),
    }
}

fn pairing(full: bool) -> PairingView {
    PairingView {
        number: u32::MAX,
        role: PairingRole::Inviter.into(),
        stage: PairingStage::Paired.into(),
        peer: full.then(db),
        id: full.then(id),
        forwards: full.then(shared).into_iter().collect(),
        host: full,
        servers: full.then(stun).into_iter().collect(),
        expires_at_ms: u64::MAX,
        trouble: full.then(|| "text".to_owned()),
    }
}

fn stun() -> AddServer {
    AddServer {
        kind: ServerKind::Stun,
        address: "a:3478".to_owned(),
    }
}

/// What is asked of invitations.
fn pairing_requests() -> [Shape; 2] {
    let invite = |full: bool| Invite {
        name: full.then(db),
        forwards: full.then(shared).into_iter().collect(),
        host: full,
        expires_s: u64::MAX,
    };
    let join = |full: bool| Join {
        code: Secret::new("a-b-c".to_owned()),
        name: full.then(db),
        add_servers: full,
        wait_s: u64::MAX,
    };
    [
        shape("Invite", vec![invite(true), invite(false)]),
        shape("Join", vec![join(true), join(false)]),
    ]
}

pub(super) fn requests() -> Vec<Shape> {
    let forward = |full: bool| AddForward {
        protocol: Protocol::Tcp,
        ports: "8000-8010".parse().unwrap(),
        target: full.then(|| "[::1]:9000".parse().unwrap()),
        peers: if full { vec![db()] } else { Vec::new() },
    };
    let mut shapes = vec![
        shape("Rename", vec![Rename { to: db() }]),
        shape(
            "Up",
            vec![Up {
                wait_ms: u64::MAX,
                direct_only: Some(true),
            }],
        ),
        shape("AddForward", vec![forward(true), forward(false)]),
        shape(
            "AnswerLine",
            vec![AnswerLine {
                line: "punch-offer1a".to_owned(),
            }],
        ),
        shape("AddServer", vec![stun()]),
    ];
    shapes.extend(pairing_requests());
    for key in peer_keys() {
        let (name, inner, outer) = match &key {
            PeerKey::Punch { .. } => ("punch", "PunchPeer", "AddPunchPeer"),
            PeerKey::Wireguard { .. } => ("wireguard", "WireguardPeer", "AddWireguardPeer"),
        };
        let value = serde_json::to_value(&key).unwrap()[name].clone();
        shapes.push(shape(outer, vec![AddPeer { name: db(), key }]));
        shapes.push(Shape {
            schema: inner.to_owned(),
            samples: vec![value],
            read: Box::new(move |value| {
                let key: PeerKey = serde_json::from_value(json!({ name: value }))
                    .map_err(|error| error.to_string())?;
                Ok(serde_json::to_value(key).unwrap()[name].take())
            }),
        });
    }
    shapes
}

pub(super) fn answers(document: &Document) -> Vec<Shape> {
    let full = answer_shapes(document, true);
    let bare = answer_shapes(document, false);
    let both = full.into_iter().zip(bare).map(|(full, bare)| Shape {
        samples: [full.samples, bare.samples].concat(),
        ..full
    });
    both.collect()
}

/// Every type of answer, with all that it can have or with as little as it can.
#[expect(clippy::too_many_lines, reason = "one entry for each type of answer")]
fn answer_shapes(document: &Document, full: bool) -> Vec<Shape> {
    fn list<T>(full: bool, value: T) -> Vec<T> {
        full.then_some(value).into_iter().collect()
    }
    let text = || "text".to_owned();
    let some_text = || full.then(text);
    let remote = || full.then(|| "192.0.2.7:51820".parse().unwrap());
    let some_path = || full.then(|| path(Some(1.5)));
    let rtt = full.then_some(12.25);
    let count = if full { u64::MAX } else { 0 };
    let small = if full { u32::MAX } else { 0 };
    let port = full.then_some(u16::MAX);
    let ip = || "2001:db8::1".parse().unwrap();
    let id_view = || id_view(full.then_some("100.64.1.2"));
    let mapping = || full.then_some(Mapping::EndpointIndependent.into());
    let filtering = || full.then_some(Filtering::EndpointIndependent.into());
    let allocation = || full.then_some(Allocation::Random.into());
    let candidate = || CandidateView {
        kind: PathKind::PortMapped.into(),
        address: "192.0.2.7:51820".parse().unwrap(),
    };
    let network = || NetworkView {
        port_v4: port,
        port_v6: port,
        nat64: some_text(),
        tcp_port_v4: port,
        tcp_port_v6: port,
        candidates: list(full, candidate()),
    };
    let server = || ServerView {
        kind: ServerKind::Signal.into(),
        address: text(),
        proxy: some_text(),
        fixed: full,
        state: ServerState::Connecting.into(),
        trouble: some_text(),
    };
    let heard = || HeardView {
        peer: db(),
        address: "192.0.2.7:45117".parse().unwrap(),
    };
    let lan = || LanView {
        links: list(full, text()),
        heard: list(full, heard()),
        trouble: some_text(),
        sent: count,
        taken: count,
        strangers: count,
        refused: count,
    };
    let dht = || DhtView {
        nodes: count,
        answered_s: full.then_some(count),
        address: full.then(|| "192.0.2.7".parse().unwrap()),
        sent: count,
        received: count,
        lookups: count,
        stored: count,
        found: count,
        vantage: count,
        trouble: some_text(),
    };
    let refused = || RefusedView {
        reason: RefusalReason::NotWanted.into(),
        clock_ahead_s: full.then_some(i64::MAX),
        ago_s: 0.5,
        message: text(),
    };
    let relayed = || RelayedView {
        present: full,
        from_bytes: count,
        to_bytes: count,
        refused_packets: count,
    };
    let peer = || PeerView {
        name: db(),
        id: full.then(id),
        wireguard: WIREGUARD.to_owned(),
        ipv4: full.then(|| "100.64.1.2".parse().unwrap()),
        ipv6: full.then(|| "fd70::2".parse().unwrap()),
        up: full,
        rights: RightsView {
            host: full,
            relay: full,
            relayed: full.then(relayed),
            meeting: full.then(|| ServerState::Connected.into()),
        },
        direct_only: full,
        state: PeerState::Connected.into(),
        path: some_path(),
        refused: full.then(refused),
        received_bytes: count,
        sent_bytes: count,
        last_handshake_s: full.then_some(count),
        note: some_text(),
    };
    let trouble = || ForwardTrouble {
        at_ms: count,
        message: text(),
    };
    let forward = || ForwardView {
        protocol: Protocol::Udp.into(),
        ports: "53".parse().unwrap(),
        target: Target::local(53),
        peers: list(full, db()),
        open: count,
        total: count,
        failed: count,
        refused: count,
        trouble: full.then(trouble),
    };
    let stranger = || StrangerView {
        id: id(),
        asked: small,
        last_s: count,
    };
    let probe = || ProbeView {
        server: "198.51.100.1:3478".parse().unwrap(),
        probe: ProbeKind::AnswerThroughOpening { ttl: 3 }.into(),
        mapped: remote(),
        rtt_ms: rtt,
    };
    let ports = || PortsView {
        capacity: full.then_some(u32::MAX),
        used_up: full,
    };
    let port_mapping = || PortMappingView {
        protocol: full.then_some(MappingProtocol::NatPmp.into()),
        external: remote(),
        trouble: some_text(),
        double_nat: full,
    };
    let nat = || NatView {
        summary: text(),
        mapping: mapping(),
        filtering: filtering(),
        allocation: allocation(),
        addresses: list(full, ip()),
    };
    let step = || StepView {
        step: Step::Birthday.into(),
        chance: 0.25,
        typical_s: 4.5,
        expected_s: rtt,
        outcome: StepOutcome::Running.into(),
        mappings: small,
        packets: small,
        peak_rate: small,
        refused_sockets: small,
        took_s: 1.5,
    };
    let budget = || BudgetView {
        name: Budget::Normal.into(),
        mappings: small,
        packets_per_s: small,
        packets_per_address: small,
        duration_s: count,
    };
    let plain = || PlainView {
        endpoint: remote(),
        last_handshake_s: full.then_some(count),
        received_bytes: count,
        sent_bytes: count,
        public_key: WIREGUARD.to_owned(),
        allowed_ips: list(full, text()),
    };
    let error = || ApiError::new(ErrorCode::Conflict, "text");
    let mut shapes = vec![
        shape("Id", vec![id_view()]),
        shape(
            "Key",
            vec![KeyView {
                id: id(),
                wireguard: WIREGUARD.to_owned(),
                file: text(),
            }],
        ),
        shape(
            "Status",
            vec![Status {
                version: text(),
                id: id_view(),
                interface: text(),
                uptime_s: count,
                network: network(),
                servers: list(full, server()),
                lan: full.then(lan),
                dht: full.then(dht),
                public: full.then_some(true),
                peers: list(full, peer()),
                forwards: list(full, forward()),
                warnings: list(full, text()),
                strangers: list(full, stranger()),
                dropped: list(full, ("refused".to_owned(), count))
                    .into_iter()
                    .collect(),
            }],
        ),
        shape(
            "Change",
            vec![Changed {
                view: (),
                unchanged: full,
                warning: some_text(),
            }],
        ),
        shape(
            "Met",
            vec![MetView {
                name: some_text(),
                ..met()
            }],
        ),
        shape("Lan", vec![lan()]),
        shape("Heard", vec![heard()]),
        shape("Stranger", vec![stranger()]),
        shape("Network", vec![network()]),
        shape("Candidate", vec![candidate()]),
        shape("Server", vec![server()]),
        shape("Dht", vec![dht()]),
        shape("ForwardKey", vec![shared()]),
        shape("Pairing", vec![pairing(full)]),
        shape(
            "Invitation",
            vec![InvitationView {
                code: Secret::new(text()),
                pairing: pairing(full),
            }],
        ),
        shape("Peer", vec![peer()]),
        shape("Relayed", vec![relayed()]),
        shape("Refused", vec![refused()]),
        shape("Path", vec![path(rtt)]),
        shape("Loss", vec![loss()]),
        shape("Detour", vec![detour()]),
        shape("Forward", vec![forward()]),
        shape("ForwardTrouble", vec![trouble()]),
        shape(
            "Paste",
            vec![PasteView {
                peer: "db".parse().unwrap(),
                step: PasteStep::Offered.into(),
                line: full.then(|| "punch-offer1a".to_owned()),
                expires_in_s: full.then_some(600),
            }],
        ),
        shape(
            "Ping",
            vec![PingView {
                address: ip(),
                rtt_ms: 3.5,
                path: some_path(),
            }],
        ),
        shape(
            "Netcheck",
            vec![NetcheckView {
                family: if full {
                    AddressFamily::Ipv4
                } else {
                    AddressFamily::Ipv6
                }
                .into(),
                udp_blocked: full,
                public: remote(),
                addresses: list(full, ip()),
                mapping: mapping(),
                filtering: filtering(),
                preserves_port: full.then_some(true),
                allocation: allocation(),
                ports: ports(),
                hairpinning: full.then_some(true),
                lifetime_s: full.then_some(count),
                opening_ttl: full.then_some(u8::MAX),
                double_nat: full.then_some(true),
                evidence: list(full, probe()),
                port_mapping: full.then(port_mapping),
            }],
        ),
        shape("PortMapping", vec![port_mapping()]),
        shape("Ports", vec![ports()]),
        shape("Probe", vec![probe()]),
        shape(
            "Why",
            vec![WhyView {
                peer: db(),
                state: PeerState::Connecting.into(),
                path: some_path(),
                summary: text(),
                refused: full.then(refused),
                obstacle: full.then(|| Obstacle::Silent.into()),
                plain: full.then(plain),
                mine: full.then(nat),
                theirs: full.then(nat),
                steps: list(full, step()),
                failures: if full { u8::MAX } else { 0 },
                retry_in_s: rtt,
                budget: budget(),
                advice: list(full, text()),
            }],
        ),
        shape("Plain", vec![plain()]),
        shape("Nat", vec![nat()]),
        shape("Step", vec![step()]),
        shape("Budget", vec![budget()]),
        shape("Error", vec![error()]),
        shape("ErrorBody", vec![ErrorBody { error: error() }]),
    ];
    for model in allocations() {
        let name = member(
            document,
            "Allocation",
            &serde_json::to_value(model).unwrap(),
        );
        shapes.push(shape(&name, vec![model]));
    }
    for mut kind in event_kinds() {
        match &mut kind {
            EventKind::Path { reason, .. } | EventKind::Relayed { reason, .. } => {
                *reason = full.then(|| PathReason::Silent.into());
            }
            EventKind::Peer { met_over, .. } => *met_over = full.then(met),
            EventKind::Mtu { before, .. } => *before = full.then_some(u16::MAX),
            EventKind::Refused { clock_ahead_s, .. } => {
                *clock_ahead_s = clock_ahead_s.filter(|_| full);
            }
            _ => {}
        }
        let event = Event {
            at_ms: count,
            kind,
            message: text(),
        };
        let name = member(document, "Event", &serde_json::to_value(&event).unwrap());
        let mut samples = vec![event.clone()];
        if let EventKind::Overlay { address, used, .. } = event.kind {
            let kind = EventKind::Overlay {
                peer: None,
                address,
                used,
            };
            samples.push(Event { kind, ..event });
        }
        shapes.push(shape(&name, samples));
    }
    shapes
}
