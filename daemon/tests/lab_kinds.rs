//! The routers of scripts/lab behave as their kinds say.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use harness::{Kinds, Lab, Namespace, PATIENCE};

/// How long a datagram is waited for that must not arrive. One that must is waited for with [`PATIENCE`].
const MOMENT: Duration = Duration::from_millis(200);

/// Which of a server's three endpoints share something: with the first one, the second shares the address only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    Address,
    Port,
}
use Reach::{Address, All, Port};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Kept,
    Random,
    Block(u16, u16),
    Counting(u16),
}
use Ports::{Block, Counting, Kept, Random};

/// Kind, routers before the internet, mapping, filtering, allocation.
type Kind = (&'static str, u32, Reach, Reach, Ports);

const KINDS: [Kind; 30] = [
    ("open", 0, All, All, Kept),
    ("firewall", 1, All, Port, Kept),
    ("full-cone", 1, All, All, Kept),
    ("address-restricted", 1, All, Address, Kept),
    ("port-restricted", 1, All, Port, Kept),
    ("port-restricted-stateful", 1, All, Port, Kept),
    ("port-restricted-sequential", 1, All, Port, Counting(1)),
    ("port-restricted-random", 1, All, Port, Random),
    ("address-dependent", 1, Address, Address, Random),
    ("symmetric", 1, Port, Port, Random),
    ("symmetric-block", 1, Port, Port, Block(40_000, 41_023)),
    ("sequential", 1, Port, Port, Counting(1)),
    ("sequential-8", 1, Port, Port, Counting(8)),
    ("table-1000", 1, Port, Port, Random),
    ("exclusive-256", 1, Port, Port, Block(40_000, 40_255)),
    ("exclusive-2048", 1, Port, Port, Block(40_000, 42_047)),
    ("entries-400", 1, All, Port, Kept),
    ("sessions-1000", 1, Port, Port, Random),
    ("double-full-cone", 2, All, Port, Kept),
    ("double-address-restricted", 2, All, Port, Kept),
    ("double-port-restricted", 2, All, Port, Kept),
    ("double-symmetric", 2, Port, Port, Random),
    (
        "double-symmetric-block",
        2,
        Port,
        Port,
        Block(40_000, 41_023),
    ),
    ("double-sequential-2", 2, Port, Port, Counting(2)),
    ("full-cone+hairpin", 1, All, All, Kept),
    ("address-restricted+hairpin", 1, All, Address, Kept),
    ("port-restricted+hairpin", 1, All, Port, Kept),
    (
        "symmetric-block+hairpin",
        1,
        Port,
        Port,
        Block(40_000, 41_023),
    ),
    ("symmetric+ipv6", 1, Port, Port, Random),
    ("sequential+ipv6+9s", 1, Port, Port, Counting(1)),
];

fn socket(host: &Namespace, address: &str) -> UdpSocket {
    let socket = host.inside(|| UdpSocket::bind(address).expect(address));
    socket.set_nonblocking(false).unwrap();
    socket
}

/// The source that `to` sees, if it hears `from` at all, as is expected or not.
fn seen(from: &UdpSocket, to: &UdpSocket, at: SocketAddr, expected: bool) -> Option<SocketAddr> {
    let patience = if expected { PATIENCE } else { MOMENT };
    to.set_read_timeout(Some(patience)).unwrap();
    from.send_to(b"datagram", at).unwrap();
    let mut buffer = [0; 100];
    to.recv_from(&mut buffer).ok().map(|(_, source)| source)
}

/// A host of a lab, and the sockets of its server: two on one address, one on another.
struct Bench<'a> {
    kind: &'a str,
    host: &'a Namespace,
    servers: [UdpSocket; 3],
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab, host: &'a Namespace, kind: &'a str, port: u16) -> Self {
        let (main, other) = (lab.env("SERVER_IPV4"), lab.env("SERVER_IPV4_ALT"));
        let servers = [(main, port), (main, port + 1), (other, port)]
            .map(|(ip, port)| socket(&lab.server, &format!("{ip}:{port}")));
        Self {
            kind,
            host,
            servers,
        }
    }

    fn fresh(&self) -> UdpSocket {
        socket(self.host, "0.0.0.0:0")
    }

    /// What a server sees of a host's socket, if anything is expected to come through.
    fn out(&self, from: &UdpSocket, server: usize, expected: bool) -> Option<SocketAddr> {
        let to = &self.servers[server];
        seen(from, to, to.local_addr().unwrap(), expected)
    }

    #[track_caller]
    fn mapped(&self, from: &UdpSocket, server: usize) -> SocketAddr {
        let source = self.out(from, server, true);
        source.unwrap_or_else(|| panic!("{}: nothing came through", self.kind))
    }

    /// A server's datagram comes in, or does not.
    #[track_caller]
    fn expect_in(
        &self,
        server: usize,
        at: SocketAddr,
        host: &UdpSocket,
        expected: bool,
        why: &str,
    ) {
        let source = seen(&self.servers[server], host, at, expected);
        assert_eq!(source.is_some(), expected, "{}: {why}", self.kind);
    }

    fn mapping(&self) -> Reach {
        let host = self.fresh();
        let [first, second, third] = [0, 1, 2].map(|server| self.mapped(&host, server));
        assert_eq!(self.mapped(&host, 0), first, "{}: mappings stay", self.kind);
        reach([first == second, first == third])
    }

    #[track_caller]
    fn expect_filtering(&self, expected: Reach) {
        let host = self.fresh();
        let at = self.mapped(&host, 0);
        self.expect_in(0, at, &host, true, "answers come in");
        let why = format!("filtering: {expected:?}");
        self.expect_in(1, at, &host, expected != Port, &why);
        self.expect_in(2, at, &host, expected == All, &why);
    }

    #[track_caller]
    fn expect_ports(&self, expected: Ports) {
        let (kind, hosts) = (self.kind, [(); 6].map(|()| self.fresh()));
        let own = hosts
            .each_ref()
            .map(|host| host.local_addr().unwrap().port());
        let got = hosts.each_ref().map(|host| self.mapped(host, 0).port());
        let steps: Vec<_> = got
            .windows(2)
            .map(|two| two[1].wrapping_sub(two[0]))
            .collect();
        let random = got != own && steps.iter().any(|step| *step != steps[0]);
        let right = match expected {
            Kept => got == own,
            Random => random,
            Block(low, high) => random && got.iter().all(|port| (low..=high).contains(port)),
            // They may begin anew at 1024.
            Counting(by) => steps.iter().filter(|step| **step != by).count() <= 1,
        };
        assert!(right, "{kind}: {own:?} became {got:?}");
    }

    /// A TTL that dies on the internet opens the own NAT, and one more arrives.
    #[track_caller]
    fn expect_hops(&self, routers: u32, opens: bool) {
        let (kind, host) = (self.kind, self.fresh());
        let at = self.mapped(&host, 1);
        host.set_ttl(routers + 1).unwrap();
        assert_eq!(
            self.out(&host, 0, false),
            None,
            "{kind}: it dies on the way"
        );
        if opens {
            self.expect_in(0, at, &host, true, "it opens the NAT");
        }
        host.set_ttl(routers + 2).unwrap();
        self.mapped(&host, 0);
    }
}

fn reach(same: [bool; 2]) -> Reach {
    match same {
        [true, true] => All,
        [true, false] => Address,
        _ => Port,
    }
}

#[test]
fn mapping_filtering_allocation_and_hops_are_those_of_the_kind() {
    need_lab!();
    for pair in KINDS.chunks(2) {
        let lab = Lab::bare("kind", Kinds::Apart(pair[0].0, pair[1].0), &[]);
        for ((kind, routers, mapping, filtering, ports), host) in pair.iter().zip([&lab.a, &lab.b])
        {
            let bench = Bench::new(&lab, host, kind, if host.name == "a" { 4000 } else { 5000 });
            assert_eq!(bench.mapping(), *mapping, "{kind}: mapping");
            bench.expect_filtering(*filtering);
            bench.expect_ports(*ports);
            bench.expect_hops(*routers, *mapping == All);
            let public = lab.env(&format!("{}_PUBLIC_IPV4", host.name.to_uppercase()));
            assert_eq!(bench.mapped(&bench.fresh(), 0).ip().to_string(), public);
            expect_tcp(&lab, host, kind);
        }
    }
}

fn expect_tcp(lab: &Lab, host: &Namespace, kind: &str) {
    let server = lab.env("SERVER_IPV4");
    let listener = lab
        .server
        .inside(|| TcpListener::bind((server, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    let connected = host.inside(|| TcpStream::connect_timeout(&at, PATIENCE).is_ok());
    assert!(connected, "{kind}: TCP goes out");
}

#[test]
fn ipv6_is_behind_a_firewall_whatever_ipv4_is_behind() {
    need_lab!();
    let lab = Lab::bare("six", Kinds::Apart("sequential+ipv6", "ipv6-firewall"), &[]);
    let server = socket(&lab.server, &format!("[{}]:4000", lab.env("SERVER_IPV6")));
    let other = socket(
        &lab.server,
        &format!("[{}]:4000", lab.env("SERVER_IPV6_ALT")),
    );
    for (host, address) in [(&lab.a, lab.env("A_IPV6")), (&lab.b, lab.env("B_IPV6"))] {
        let host = socket(host, &format!("[{address}]:7000"));
        let own = host.local_addr().unwrap();
        let to = server.local_addr().unwrap();
        assert_eq!(seen(&host, &server, to, true), Some(own));
        assert_eq!(seen(&server, &host, own, true), Some(to));
        assert_eq!(seen(&other, &host, own, false), None);
    }
}

#[test]
fn a_translator_leads_from_ipv6_to_ipv4() {
    need_lab!();
    let lab = Lab::bare("trans", Kinds::Apart("nat64", "open"), &[]);
    assert!(!lab.has("A_IPV4"));
    let server = socket(&lab.server, &format!("{}:4000", lab.env("SERVER_IPV4")));
    let other = socket(&lab.server, &format!("{}:4000", lab.env("SERVER_IPV4_ALT")));
    let host = socket(&lab.a, &format!("[{}]:7000", lab.env("A_IPV6")));
    let public = format!("{}:7000", lab.env("A_PUBLIC_IPV4"))
        .parse()
        .unwrap();
    let to = "[2001:db8:64::cb00:7101]:4000".parse().unwrap();
    assert_eq!(seen(&host, &server, to, true), Some(public));
    assert_eq!(seen(&server, &host, public, true), Some(to));
    assert_eq!(seen(&other, &host, public, false), None);
    let names = lab.a.exec_ok(&["getent", "ahostsv6", "ipv4only.arpa"]);
    assert!(names.contains("2001:db8:64::c000:aa"), "{names}");
}

#[test]
fn a_state_that_a_stranger_has_left_moves_the_mapping() {
    need_lab!();
    let kinds = Kinds::Apart("port-restricted", "port-restricted-stateful");
    let lab = Lab::bare("early", kinds, &[]);
    for (host, kind, moves) in [
        (&lab.a, "port-restricted", false),
        (&lab.b, "stateful", true),
    ] {
        let bench = Bench::new(&lab, host, kind, if moves { 4000 } else { 5000 });
        let socket = socket(host, "0.0.0.0:7000");
        let public = lab.env(if moves {
            "B_PUBLIC_IPV4"
        } else {
            "A_PUBLIC_IPV4"
        });
        let at = format!("{public}:7000").parse().unwrap();
        assert_eq!(bench.mapped(&socket, 1), at, "{kind}: as STUN tells it");
        bench.expect_in(0, at, &socket, false, "too early");
        assert_eq!(bench.mapped(&socket, 0) != at, moves, "{kind}");
        assert_eq!(bench.mapped(&socket, 1), at, "{kind}: STUN sees no change");
    }
}

#[test]
fn mappings_end_after_the_time_of_the_kind() {
    need_lab!();
    let lab = Lab::bare(
        "time",
        Kinds::Apart("port-restricted+2s", "sequential+2s"),
        &[],
    );
    let full = Lab::bare(
        "time",
        Kinds::Apart("full-cone", "double-symmetric+2s"),
        &[("LAB_UDP_TIMEOUT", "2")],
    );
    for (lab, host) in [
        (&lab, &lab.a),
        (&lab, &lab.b),
        (&full, &full.a),
        (&full, &full.b),
    ] {
        let bench = Bench::new(
            lab,
            host,
            &host.name,
            if host.name == "a" { 4000 } else { 5000 },
        );
        let socket = bench.fresh();
        let at = bench.mapped(&socket, 0);
        bench.expect_in(0, at, &socket, true, "the mapping is young");
        sleep(Duration::from_millis(3000));
        bench.expect_in(0, at, &socket, false, "the mapping has ended");
    }
}

#[test]
fn a_full_table_lets_nothing_new_out_and_other_users_take_ports() {
    need_lab!();
    let lab = Lab::bare("full", Kinds::Apart("table-3", "sequential+200others"), &[]);
    let bench = Bench::new(&lab, &lab.a, "table-3", 4000);
    let hosts = [(); 4].map(|()| bench.fresh());
    for (host, fits) in hosts.iter().zip([true, true, true, false]) {
        assert_eq!(bench.out(host, 0, fits).is_some(), fits);
    }
    let bench = Bench::new(&lab, &lab.b, "sequential+200others", 5000);
    let socket = bench.fresh();
    let first = bench.mapped(&socket, 0).port();
    sleep(Duration::from_millis(500));
    let second = bench.mapped(&socket, 1).port();
    let between = second.wrapping_sub(first);
    assert!(
        between >= 100 && (between < 2000 || second < first),
        "{first} {second}"
    );
}

#[test]
fn ports_and_entries_that_are_used_up_let_nothing_new_out_and_what_lives_lives_on() {
    need_lab!();
    for (a, b) in [
        ("exclusive-3+3s", "entries-3+3s"),
        ("sessions-3+3s", "open"),
    ] {
        let lab = Lab::bare("used", Kinds::Apart(a, b), &[]);
        for (kind, host, port) in [(a, &lab.a, 4000), (b, &lab.b, 5000)] {
            if kind == "open" {
                continue;
            }
            let bench = Bench::new(&lab, host, kind, port);
            // Three destinations of one socket; closing it frees nothing.
            let socket = bench.fresh();
            let at = [0, 1, 2].map(|server| bench.mapped(&socket, server));
            let distinct: std::collections::BTreeSet<_> = at.iter().collect();
            let expected = if kind.starts_with("entries") { 1 } else { 3 };
            assert_eq!(distinct.len(), expected, "{kind}: {at:?}");
            let fresh = bench.fresh();
            assert_eq!(bench.out(&fresh, 0, false), None, "{kind}: it is full");
            assert_eq!(bench.mapped(&socket, 0), at[0], "{kind}: it lives on");
            drop(socket);
            assert_eq!(
                bench.out(&fresh, 0, false),
                None,
                "{kind}: closed, not free"
            );
            sleep(Duration::from_millis(4000));
            bench.mapped(&fresh, 0);
        }
    }
}

#[test]
fn only_a_nat_that_does_hairpinning_joins_its_own_hosts() {
    need_lab!();
    for (kinds, works) in [
        (Kinds::SameCarrier("port-restricted"), false),
        (Kinds::SameCarrier("symmetric"), false),
        (Kinds::SameCarrier("full-cone+hairpin"), true),
        (Kinds::SameLan("full-cone"), false),
        (Kinds::SameLan("port-restricted+hairpin"), true),
    ] {
        let lab = Lab::bare("pin", kinds, &[]);
        assert_eq!(lab.env("A_PUBLIC_IPV4"), lab.env("B_PUBLIC_IPV4"));
        let benches = [(&lab.a, 4000), (&lab.b, 5000)]
            .map(|(host, port)| Bench::new(&lab, host, "pin", port));
        let [a, b] = benches.each_ref().map(|bench| bench.fresh());
        let (at_a, at_b) = (benches[0].mapped(&a, 0), benches[1].mapped(&b, 0));
        seen(&a, &b, at_b, false);
        let heard = [seen(&b, &a, at_a, works), seen(&a, &b, at_b, works)];
        let expected = if works {
            [Some(at_b), Some(at_a)]
        } else {
            [None; 2]
        };
        assert_eq!(heard, expected, "{kinds:?}");
    }
}

#[test]
fn daemons_connect_through_carriers_and_our_own_nats() {
    need_lab!();
    for (a, b) in [
        ("double-port-restricted", "port-restricted"),
        ("port-restricted-sequential", "port-restricted-random"),
    ] {
        Lab::connected("pair", a, b);
    }
}

#[test]
fn nothing_is_left_of_a_lab() {
    need_lab!();
    let lab = Lab::bare("gone", Kinds::SameCarrier("sequential"), &[]);
    let running = harness::run(std::process::Command::new("ip").args([
        "netns",
        "pids",
        &lab.namespace("ca").namespace,
    ]))
    .ok();
    let pids: Vec<_> = running.split_whitespace().map(str::to_owned).collect();
    assert_eq!(pids.len(), 1, "lab-nat runs in the carrier's namespace");
    let name = lab.name.clone();
    drop(lab);
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(
            !status.contains("lab-nat") || status.contains(") Z "),
            "{status}"
        );
    }
    for host in ["a", "b", "server", "inet", "ra", "rb", "ca", "cb"] {
        assert!(!Path::new(&format!("/run/netns/punch-{name}-{host}")).exists());
    }
}

#[test]
fn kinds_that_make_no_sense_are_refused() {
    need_lab!();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab");
    for kind in [
        "cone",
        "double-open",
        "double-firewall",
        "double-symmetric+ipv6",
        "double-double-symmetric",
        "sequential-9",
        "sequential-",
        "table-0",
        "exclusive-0",
        "exclusive-30000",
        "entries-",
        "sessions-many",
        "open+15s",
        "open+",
        "symmetric+5others",
        "symmetric+0s",
        "firewall+hairpin",
        "ipv6-firewall+ipv6",
        "nat64+ipv6",
        "double-nat64",
        "port-restricted-stateful+hairpin",
    ] {
        let mut up = std::process::Command::new(&script);
        let refused = harness::run(up.args(["up", "--name", "never-made", "--a", kind]));
        assert_eq!(refused.status, 1, "{kind}: {refused:?}");
        assert!(
            refused.stderr.contains("unknown kind"),
            "{kind}: {refused:?}"
        );
    }
}
