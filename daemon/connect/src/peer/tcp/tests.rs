//! Two ends and the network between them: who connects to whom, when, and what serves.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::path::TcpId;
use crate::start::start;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn address(host: u8) -> SocketAddr {
    ([198, 51, 100, host], 41_820).into()
}

fn passive(host: u8) -> Candidate {
    Candidate::new(CandidateKind::TcpPassive, address(host))
}

/// What has arrived at an end.
enum Arrival {
    Connected(TcpPath),
    Message(TcpPath, Vec<u8>),
    Closed(TcpPath),
}

/// Two ends, and a network that takes 20 ms from one to the other.
struct Rig {
    ends: [Tcp; 2],
    /// What each tells, and of all that the addresses at which the other end really listens.
    candidates: [Vec<Candidate>; 2],
    listening: BTreeSet<SocketAddr>,
    /// Addresses at which somebody else listens, who says nothing.
    strangers: BTreeSet<SocketAddr>,
    /// Whether the other end has taken a connection.
    taken: BTreeMap<TcpId, bool>,
    under_way: BTreeMap<(Instant, u64), (usize, Arrival)>,
    /// Each dial, when and by whom.
    dials: Vec<(Duration, usize, SocketAddr)>,
    /// Messages to strangers.
    strange: Vec<Vec<u8>>,
    cut: BTreeSet<TcpId>,
    count: u64,
    began: Instant,
    now: Instant,
}

impl Rig {
    fn new(edit: impl Fn(&mut TcpConfig)) -> Self {
        let credentials = [3, 4].map(|byte| Credentials {
            fragment: [byte; 8],
            password: [byte; 32],
        });
        let [one, two] = credentials;
        let began = start();
        let end = |credentials: [Credentials; 2], offered: bool| {
            let mut config = TcpConfig {
                enabled: true,
                offered,
                heard: Vec::new(),
                udp_blocked: false,
                credentials,
                seed: u64::from(offered),
            };
            edit(&mut config);
            Tcp::new(config, began)
        };
        Self {
            ends: [
                end([one.clone(), two.clone()], true),
                end([two, one], false),
            ],
            candidates: [Vec::new(), Vec::new()],
            listening: BTreeSet::new(),
            strangers: BTreeSet::new(),
            taken: BTreeMap::new(),
            under_way: BTreeMap::new(),
            dials: Vec::new(),
            strange: Vec::new(),
            cut: BTreeSet::new(),
            count: 0,
            began,
            now: began,
        }
    }

    /// The end of this number takes connections there.
    fn listens(&mut self, end: usize, host: u8) {
        self.candidates[end].push(passive(host));
        self.listening.insert(address(host));
    }

    fn arrive(&mut self, delay: Duration, end: usize, arrival: Arrival) {
        self.count += 1;
        self.under_way
            .insert((self.now + delay, self.count), (end, arrival));
    }

    fn paths(&self) -> [Option<u32>; 2] {
        [0, 1].map(|end: usize| self.ends[end].path().map(|path| path.connection.0))
    }

    fn give(&mut self, end: usize) {
        while let Some(due) = self.ends[end].poll_due(self.now) {
            match due {
                Due::Tell => {
                    let told = self.candidates[end].clone();
                    self.ends[1 - end].handle_candidates(&told);
                }
                Due::Dial(remote) => {
                    let connection = TcpId(self.dials.len() as u32);
                    let path = TcpPath { connection, remote };
                    self.dials.push((self.now - self.began, end, remote));
                    self.ends[end].handle_dial(path);
                    if self.listening.contains(&remote) || self.strangers.contains(&remote) {
                        self.arrive(ms(40), end, Arrival::Connected(path));
                    }
                }
            }
        }
        while let Some((path, message)) = self.ends[end].poll_message() {
            if self.strangers.contains(&path.remote) {
                self.strange.push(message);
            } else if !self.cut.contains(&path.connection) {
                self.arrive(ms(20), 1 - end, Arrival::Message(path, message));
            }
        }
        while let Some(path) = self.ends[end].poll_closing() {
            self.arrive(ms(20), 1 - end, Arrival::Closed(path));
        }
    }

    fn take(&mut self, end: usize, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::Connected(path) => {
                self.ends[end].handle_connected(path, now);
            }
            Arrival::Closed(path) => {
                self.ends[end].handle_closed(path, now);
            }
            Arrival::Message(path, bytes) => {
                let message = Message::parse(&bytes).unwrap();
                let is_known = self.taken.contains_key(&path.connection)
                    || !self.ends[end].links.paths().all(|other| other != path);
                if is_known {
                    self.ends[end].handle_message(path, &message, now);
                } else {
                    assert!(self.ends[end].handle_call(path, &message, now));
                    self.taken.insert(path.connection, true);
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            [0, 1].into_iter().for_each(|end| self.give(end));
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let due = self.ends.iter().filter_map(Tcp::poll_timeout);
            let next = due.chain(arrival).min().unwrap_or(end);
            if next >= end {
                break;
            }
            self.now = next.max(self.now);
            while let Some(entry) = self.under_way.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let (index, arrival) = entry.remove();
                self.take(index, arrival);
            }
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
        }
        self.now = end;
    }
}

#[test]
fn whoever_hears_of_an_address_connects_after_a_second_and_the_connection_serves_both() {
    for listens in [0, 1] {
        let mut rig = Rig::new(|_| {});
        rig.listens(listens, 9);
        rig.run(ms(950));
        assert_eq!(rig.dials, []);
        rig.run(ms(1000));
        assert_eq!(rig.paths(), [Some(0), Some(0)]);
        let turn = ms(1000 + 500 * (1 - listens as u64));
        assert_eq!(rig.dials, [(turn, 1 - listens, address(9))]);
        assert!(rig.ends.iter().all(Tcp::answers));
        assert_eq!(rig.ends[0].round_trip(), Some(ms(40)));
    }
}

#[test]
fn where_both_take_connections_one_is_made() {
    let mut rig = Rig::new(|_| {});
    rig.listens(0, 8);
    rig.listens(1, 9);
    rig.run(Duration::from_secs(3600));
    assert_eq!(rig.dials.len(), 1);
    assert_eq!(rig.paths(), [Some(0), Some(0)]);
}

#[test]
fn whoever_knows_that_udp_is_blocked_does_not_wait() {
    let mut rig = Rig::new(|config| config.udp_blocked = true);
    rig.listens(1, 9);
    rig.run(ms(200));
    assert_eq!(rig.paths(), [Some(0), Some(0)]);
}

#[test]
fn four_addresses_are_tried_in_turn_until_one_answers_and_the_rest_is_left() {
    let mut rig = Rig::new(|_| {});
    rig.candidates[1] = [1, 2, 3].map(passive).to_vec();
    rig.listens(1, 4);
    rig.listens(1, 5);
    rig.run(Duration::from_secs(60));
    let times: Vec<_> = rig.dials.iter().map(|(at, ..)| *at).collect();
    assert_eq!(times, [ms(1000), ms(1300), ms(1600), ms(1900)]);
    assert_eq!(rig.paths(), [Some(3), Some(3)]);
    assert!(rig.ends[0].dials.is_empty() && rig.ends[0].links.len() == 1);
}

/// The address that a NAT has for the other end comes late, and behind addresses that lead nowhere.
#[test]
fn what_the_peer_connects_from_has_its_turn_at_once_and_places_of_its_own() {
    let mut rig = Rig::new(|_| {});
    rig.candidates[1] = (1..=8).map(passive).collect();
    rig.run(ms(1350));
    assert_eq!(rig.dials.len(), 2);
    let simultaneous = |host| Candidate::new(CandidateKind::TcpSimultaneous, address(host));
    let heard = [
        passive(2),
        simultaneous(2),
        simultaneous(20),
        simultaneous(21),
        simultaneous(22),
    ];
    rig.ends[0].handle_candidates(&heard);
    rig.run(Duration::from_secs(10));
    let to = rig.dials.iter().map(|(.., to)| *to);
    let hosts = [1, 2, 21, 20, 3, 4].map(address);
    assert_eq!(to.collect::<Vec<_>>(), hosts);
    let spacing = rig.dials.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(spacing.into_iter().all(|pause| pause == ms(300)));
}

/// Each end has connected to the other, and both hold it for theirs.
#[test]
fn a_connection_that_both_have_made_serves_both() {
    let mut rig = Rig::new(|_| {});
    let path = TcpPath {
        connection: TcpId(77),
        remote: address(1),
    };
    let now = rig.now;
    for end in &mut rig.ends {
        end.handle_dial(path);
        assert!(end.handle_connected(path, now));
    }
    rig.run(ms(100));
    assert_eq!(rig.paths(), [Some(77), Some(77)]);
    assert!(rig.ends.iter().all(Tcp::answers));
}

#[test]
fn a_stranger_gets_one_check_and_is_closed_after_five_seconds() {
    let mut rig = Rig::new(|_| {});
    rig.candidates[1].push(passive(25));
    rig.strangers.insert(address(25));
    rig.run(Duration::from_secs(5));
    assert_eq!(rig.ends[0].links.len(), 1);
    rig.run(Duration::from_secs(3600));
    assert_eq!((rig.dials.len(), rig.strange.len()), (1, 1));
    assert!(rig.ends[0].links.len() == 0);
    assert_eq!(rig.paths(), [None, None]);
}

#[test]
fn nothing_is_told_or_connected_to_while_udp_serves_or_where_it_is_switched_off() {
    let mut off = Rig::new(|config| config.enabled = false);
    let mut udp = Rig::new(|_| {});
    for end in &mut udp.ends {
        end.set_behind(true, udp.now);
    }
    for rig in [&mut off, &mut udp] {
        rig.listens(0, 8);
        rig.listens(1, 9);
        let told = [rig.candidates[0].clone(), rig.candidates[1].clone()];
        rig.ends[0].handle_candidates(&told[1]);
        rig.run(Duration::from_secs(3600));
        assert_eq!(rig.dials, []);
    }
    // It dies.
    for end in &mut udp.ends {
        end.set_behind(false, udp.now);
    }
    udp.run(ms(200));
    assert_eq!(udp.paths(), [Some(0), Some(0)]);
}

#[test]
fn a_connection_over_which_nothing_comes_any_more_is_closed() {
    let mut rig = Rig::new(|_| {});
    rig.listens(1, 9);
    rig.run(Duration::from_secs(5));
    assert_eq!(rig.paths(), [Some(0), Some(0)]);
    rig.cut.insert(TcpId(0));
    rig.run(Duration::from_secs(60));
    assert_eq!(rig.paths(), [None, None]);
    assert!(rig.ends.iter().all(|end| end.links.len() == 0));
}

#[test]
fn a_connection_that_is_in_doubt_counts_as_answering_only_when_it_is_answered_again() {
    for cut in [false, true] {
        let mut rig = Rig::new(|_| {});
        rig.listens(1, 9);
        rig.run(Duration::from_secs(5));
        assert!(rig.ends.iter().all(Tcp::answers));
        if cut {
            rig.cut.insert(TcpId(0));
        }
        let now = rig.now;
        rig.ends.iter_mut().for_each(|end| end.verify(now));
        // It still serves where there is nothing else.
        assert_eq!(rig.paths(), [Some(0), Some(0)]);
        assert!(!rig.ends.iter().any(Tcp::answers));
        rig.run(ms(100));
        assert!(rig.ends.iter().all(|end| end.answers() != cut));
        rig.run(Duration::from_secs(60));
        assert_eq!(rig.paths() == [None, None], cut);
    }
}

#[test]
fn a_connection_that_nothing_was_asked_of_for_long_is_in_doubt_when_it_is_to_serve() {
    for (seconds, cut) in [(3600, false), (3600, true), (10, false), (10, true)] {
        let mut rig = Rig::new(|_| {});
        rig.listens(1, 9);
        rig.run(Duration::from_secs(5));
        let now = rig.now;
        let all = |rig: &mut Rig, behind, now| {
            let ends = rig.ends.iter_mut();
            ends.for_each(|end| end.set_behind(behind, now));
        };
        all(&mut rig, true, now);
        rig.run(Duration::from_secs(seconds));
        if cut {
            rig.cut.insert(TcpId(0));
        }
        let now = rig.now;
        all(&mut rig, false, now);
        // An answer of a moment ago still says something.
        assert!(rig.ends.iter().all(|end| end.answers() == (seconds == 10)));
        rig.run(ms(100));
        let answers = !cut || seconds == 10;
        assert!(rig.ends.iter().all(|end| end.answers() == answers));
    }
}

#[test]
fn only_the_peers_own_check_makes_a_connection_the_peers() {
    let mut rig = Rig::new(|_| {});
    let remote = address(7);
    let path = |number| TcpPath {
        connection: TcpId(number),
        remote,
    };
    let forged = punch_stun_protocol::Writer::new(
        punch_stun_protocol::Class::Request,
        punch_stun_protocol::TransactionId([9; 12]),
    )
    .username(b"0303030303030303:0404040404040404")
    .finish_with_integrity(&[9; 32]);
    let message = Message::parse(&forged).unwrap();
    assert!(!rig.ends[0].handle_call(path(1), &message, rig.now));
    assert!(rig.ends[0].links.len() == 0 && rig.ends[0].poll_message().is_none());

    // The one that was connected to says nothing that counts before its answer.
    rig.ends[0].handle_dial(path(2));
    assert!(rig.ends[0].handle_connected(path(2), rig.now));
    assert!(!rig.ends[0].handle_message(path(2), &message, rig.now));
    assert!(!rig.ends[0].is_authentic(path(2)));
}

#[test]
fn addresses_that_no_peer_has_are_passed_over() {
    let mut rig = Rig::new(|_| {});
    for address in [
        "127.0.0.1:80",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "169.254.1.1:80",
        "198.51.100.1:0",
        "[::1]:80",
        "[ff02::1]:80",
        "[fe80::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        let address = address.parse().unwrap();
        rig.candidates[1].push(Candidate::new(CandidateKind::TcpPassive, address));
    }
    rig.run(Duration::from_secs(60));
    assert_eq!(rig.dials, []);
}
