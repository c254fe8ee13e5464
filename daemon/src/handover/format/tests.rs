//! The state of an earlier process: whole, damaged, and of another version.

use punch_signal_protocol::Identity;

use super::*;

fn state() -> State {
    let credentials = |byte| Credentials {
        fragment: [byte; 8],
        password: [byte; 32],
    };
    let v4 = SocketAddr::from(([203, 0, 113, 7], 4711));
    let v6 = SocketAddr::new("2001:db8::7".parse().unwrap(), 4711);
    let id = |seed| Identity::from_seed(&[seed; 32]).id();
    let path = |remote, rtt, peer_range| PathBequest {
        proven: ProvenPath {
            role: Role::Controlled,
            local: credentials(1),
            remote: credentials(2),
            path: DirectPath {
                socket: SocketId(17),
                remote,
            },
            kind: CandidateKind::PeerReflexive,
            priority: 7,
            rtt,
            keepalive: Duration::from_secs(12),
        },
        exchange: ExchangeKeys {
            preshared: PresharedKey::inherited(Zeroizing::new([3; 32])),
            relay: RelayToken([4; 16]),
            links: [credentials(5), credentials(6)],
            notes: [[7; 32], [8; 32]].map(Zeroizing::new),
            next: 9,
            highest: rtt.map(|_| 10),
            seen: 11,
        },
        relay: true,
        waits: false,
        whole: rtt.is_some(),
        peer_range,
    };
    let range = Ipv4Range::new(Ipv4Addr::new(100, 64, 0, 0), 10).ok();
    let paths = [
        None,
        Some(path(v4, None, range)),
        Some(path(v6, Some(Duration::from_millis(3)), None)),
    ];
    let peers = paths.into_iter().zip(1..).map(|(path, seed)| Bequest {
        id: id(seed),
        stamps: (u64::from(seed), u64::MAX),
        path,
    });
    State {
        identity: [9; 32],
        heritage: Heritage {
            peers: peers.collect(),
            plain: vec![PlainBequest {
                public: [5; 32],
                endpoint: v6,
            }],
            flows: vec![FlowBequest {
                public: [6; 32],
                flow: Flow {
                    protocol: Protocol::Tcp,
                    source: v6,
                    destination: v4,
                },
                since: Duration::from_secs(1),
                used: Duration::ZERO,
            }],
        },
        nat64: Some(Nat64::WELL_KNOWN),
        sockets: vec![PathSocket {
            id: SocketId(17),
            family: Family::V4,
            port: 5000,
        }],
    }
}

/// The only way to compare: secrets have no other.
fn same(one: &State, other: &State) -> bool {
    page(one, 0) == page(other, 0)
}

#[test]
fn what_is_written_is_read() {
    for state in [State::default(), state()] {
        let (read, generation) = newest(&page(&state, 3)).unwrap();
        assert!(same(&read, &state));
        let whole = |state: &State| -> Vec<_> {
            let paths = state.heritage.peers.iter();
            paths
                .map(|peer| peer.path.as_ref().map(|path| path.whole))
                .collect()
        };
        assert_eq!(whole(&read), whole(&state));
        assert_eq!(read.nat64, state.nat64);
        assert_eq!(generation, 3);
    }
}

#[test]
fn the_newest_page_that_is_whole_counts() {
    let (older, newer) = (page(&State::default(), 1), page(&state(), 2));
    let memory = |first: &[u8], second: &[u8]| {
        let mut memory = first.to_vec();
        memory.resize(PAGE, 0);
        memory.extend_from_slice(second);
        memory
    };
    for both in [memory(&older, &newer), memory(&newer, &older)] {
        assert_eq!(newest(&both).unwrap().1, 2);
    }
    let mut torn = newer.clone();
    *torn.last_mut().unwrap() ^= 1;
    assert_eq!(newest(&memory(&torn, &older)).unwrap().1, 1);
    assert_eq!(newest(&memory(&older, &torn)).unwrap().1, 1);
    assert_eq!(newest(&torn).err(), Some(NoState::Damaged));
}

#[test]
fn another_versions_state_is_told_from_a_foreign_and_from_a_damaged_one() {
    let mut other = page(&state(), 1);
    other[9] = 3;
    assert_eq!(newest(&other).err(), Some(NoState::Version(3)));
    for foreign in [
        &b""[..],
        b"punch",
        b"something that nobody of ours has written",
    ] {
        assert_eq!(newest(foreign).err(), Some(NoState::Foreign));
    }
    assert_eq!(newest(&other[..9]).err(), Some(NoState::Damaged));
}

/// Every cut, and every byte changed with a checksum that fits: an error or a state, never a panic and no memory to speak of.
#[test]
fn whatever_the_bytes_are_reading_them_ends() {
    let whole = page(&state(), 1);
    for length in 0..whole.len() {
        assert!(newest(&whole[..length]).is_err());
    }
    let (mut read, mut refused) = (0, 0);
    for at in HEADER..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = whole.to_vec();
            changed[at] = value;
            let sum = crc32fast::hash(&changed[HEADER..]);
            changed[HEADER - 4..HEADER].copy_from_slice(&sum.to_be_bytes());
            match newest(&changed) {
                Ok(_) => read += 1,
                Err(error) => {
                    assert_eq!(error, NoState::Damaged);
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 0 && refused > 0, "{read} {refused}");
}

#[test]
fn a_state_that_is_too_long_leaves_the_flows_out() {
    let mut long = state();
    let flow = long.heritage.flows[0];
    long.heritage.flows = vec![flow; MAX_FLOWS_LEFT + 1];
    assert_eq!(
        newest(&page(&long, 1)).unwrap().0.heritage.flows.len(),
        MAX_FLOWS_LEFT
    );
    let peer = long.heritage.peers[1].clone();
    long.heritage.peers = vec![peer; MAX_ENTRIES];
    let memory = page(&long, 1);
    assert!(memory.len() <= PAGE);
    let read = newest(&memory).unwrap().0;
    assert_eq!(read.heritage.peers.len(), MAX_ENTRIES);
    assert!(read.heritage.flows.is_empty());
}
