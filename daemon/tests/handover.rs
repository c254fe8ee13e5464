//! A process of punchd is replaced by another one, and the tunnels go on: by a service manager, after a crash, and by
//! `--take-over`. The servers are gone in most of these tests, so that nothing but what was handed over leads to the peer. Nothing here
//! is judged by how long it takes.
#![allow(clippy::print_stderr, reason = "for whoever looks into a failure")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a test")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use punch_platform::handover;

use harness::{Echo, Host, Kinds, Lab, PATIENCE, Program, Server, program, tool, wait_until};

/// A user that is not root's.
const SOMEBODY: &str = "65534";

/// Host a has its punchd run by a service manager.
struct Managed {
    lab: Lab,
    socket: PathBuf,
}

impl Managed {
    fn start(hint: &str, kinds: (&str, &str)) -> Self {
        let mut lab = Lab::bare(hint, Kinds::Apart(kinds.0, kinds.1), &[]);
        let socket = lab.dir.join("notify");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service_manager.py");
        let manager = [
            tool("python3", "python3"),
            script.to_owned(),
            socket.display().to_string(),
        ];
        let plain = std::mem::take(&mut lab.a.punchd.argv);
        lab.a.punchd.argv = [manager.to_vec(), plain].concat();
        Self {
            lab: lab.start_all(),
            socket,
        }
    }

    /// Has the manager do something, and waits until a new process serves.
    #[track_caller]
    fn have(&self, what: &str) {
        let before = self.starts();
        let order = UnixDatagram::unbound().unwrap();
        let order_text = format!("DO={what}");
        order.send_to(order_text.as_bytes(), &self.socket).unwrap();
        wait_until(PATIENCE, &format!("punchd serves after {what}"), || {
            self.starts() > before
        });
        wait_until(PATIENCE, "it answers", || self.lab.a.ctl(&["id"]).success());
    }

    fn starts(&self) -> usize {
        self.lab.a.punchd.log_text().matches("INFO ready").count()
    }
}

/// A TCP connection between the two kernels, on which only the far end speaks, and one on which the near end is answered.
struct Talks {
    near: TcpStream,
    /// Carries milliseconds since then.
    far: TcpStream,
    began: Instant,
    _servers: [Server; 2],
}

impl Talks {
    #[track_caller]
    fn begin(lab: &Lab) -> Self {
        lab.b.ctl_ok(&["allow", "a", "--host"]);
        let echo = Echo::start(&lab.b, "[::]:7000");
        let began = Instant::now();
        let ticks = Server::start(&lab.b, "[::]:7001", move |mut stream| {
            let now = || began.elapsed().as_millis() as u64;
            while stream.write_all(&now().to_be_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let to = |port| SocketAddr::new(lab.b.ipv6(), port);
        let mut talks = Self {
            near: lab.a.connect_tcp(to(7000)).unwrap(),
            far: lab.a.connect_tcp(to(7001)).unwrap(),
            began,
            _servers: [echo, ticks],
        };
        talks.go_on("at first");
        talks
    }

    /// Both connections carry what is said from now on.
    #[track_caller]
    fn go_on(&mut self, when: &str) {
        let began = Instant::now();
        for number in 0..20_u8 {
            let mut back = [0];
            self.near
                .write_all(&[number])
                .and_then(|()| self.near.read_exact(&mut back))
                .unwrap_or_else(|error| panic!("{when}: the connection is broken: {error}"));
            assert_eq!(back, [number], "{when}");
        }
        let now = self.began.elapsed().as_millis() as u64;
        let mut said = [0; 8];
        while u64::from_be_bytes(said) <= now {
            self.far
                .read_exact(&mut said)
                .unwrap_or_else(|error| panic!("{when}: the server's is broken: {error}"));
        }
        eprintln!("{when}: {:.2} s", began.elapsed().as_secs_f64());
    }
}

/// What must be the same afterwards: the interface's number, and the main ports.
fn ground(host: &Host) -> (String, String) {
    let link = host.exec_ok(&["ip", "-o", "link", "show", "dev", "punch0"]);
    let index = link.split(':').next().unwrap().to_owned();
    let log = host.punchd.log_text();
    let ports = log.rsplit_once("INFO ready ").unwrap().1;
    (index, ports.lines().next().unwrap().to_owned())
}

fn without_servers(lab: &mut Lab) {
    lab.signal.kill();
    lab.stun.kill();
}

#[test]
fn connections_live_on_over_restarts_and_crashes_under_a_service_manager() {
    need_lab!();
    for (hint, kinds) in [
        ("mgr", ("port-restricted", "port-restricted")),
        // The path leaves from a socket that a search has opened.
        ("mgrs", ("symmetric", "port-restricted")),
    ] {
        let mut managed = Managed::start(hint, kinds);
        managed.lab.connect();
        let mut talks = Talks::begin(&managed.lab);
        // What a crash leaves is a few seconds old.
        std::thread::sleep(Duration::from_secs(7));
        let before = ground(&managed.lab.a);
        without_servers(&mut managed.lab);
        // What comes in the first moments waits, and is not refused.
        let refusals = "iifname punch0 icmp type destination-unreachable";
        let refusals = managed.lab.a.count("input", refusals);
        let to = managed.lab.b.ipv4().to_string();
        let ping = ["ping", "-q", "-i", "0.005", &to];
        let _ping = managed.lab.a.spawn("ping", &ping);
        for what in ["restart", "kill", "restart", "kill"] {
            managed.have(what);
            talks.go_on(&format!("{kinds:?} after {what}"));
            let lab = &managed.lab;
            assert_eq!(ground(&lab.a), before, "{what}");
            for (host, peer) in [(&lab.a, "b"), (&lab.b, "a")] {
                assert_eq!(host.peer_state(peer), "connected", "{what}");
            }
        }
        assert_eq!(refusals.packets(), 0);
        // What needs servers works again.
        managed.lab.start_servers();
        for host in managed.lab.hosts() {
            host.wait_for_signal();
        }
        talks.go_on("with servers again");
        managed.lab.a.ctl_ok(&["down", "b"]);
        managed.lab.b.wait_for_peer_state("a", "down");
    }
}

#[test]
fn a_service_that_is_stopped_has_said_goodbye_when_the_peer_has_waited() {
    need_lab!();
    let mut managed = Managed::start("mgrx", ("open", "open"));
    managed.lab.connect();
    assert_eq!(managed.lab.a.stop(), 0);
    let lab = &managed.lab;
    let link = lab.a.exec(&["ip", "link", "show", "dev", "punch0"]);
    assert!(!link.success(), "the interface is gone");
    assert!(!lab.a.socket.exists(), "the control socket is gone");
    lab.b.wait_for_peer_state("a", "down");
}

#[test]
fn foreign_and_stale_descriptors_are_closed_and_everything_is_opened_anew() {
    need_lab!();
    let managed = Managed::start("mgrf", ("open", "open"));
    let lab = &managed.lab;
    lab.connect();
    let said = |words: &[&str]| {
        let log = lab.a.punchd.log_text();
        for words in words {
            assert!(log.contains(words), "{words}: {log}");
        }
    };
    let works = |after: &str| {
        wait_until(PATIENCE, &format!("b answers after {after}"), || {
            lab.a.ctl(&["ping", "b", "-c", "1"]).success()
        });
    };
    managed.have("foreign");
    said(&[
        "not a TUN device",
        "not a UDP socket of this address family",
        "a UDP socket that is not on all addresses",
        "not memory of a punchd's",
        "not a name of punchd's",
    ]);
    works("foreign descriptors");

    // Interface and sockets are used, and the tunnels are made anew.
    std::thread::sleep(Duration::from_secs(2));
    let before = ground(&lab.a);
    managed.have("version");
    said(&["it is of version 32767"]);
    works("another version's state");
    assert_eq!(ground(&lab.a), before);
    std::thread::sleep(Duration::from_secs(2));
    managed.have("garbage");
    said(&["it is damaged"]);
    works("a damaged state");
    assert_eq!(ground(&lab.a).0, before.0);

    // Another name and another port than what is kept.
    std::thread::sleep(Duration::from_secs(2));
    lab.a
        .configure("[tun]\nname = \"other0\"\n[underlay]\nport = 51999\n");
    managed.have("restart");
    said(&["the interface punch0 instead of other0", "and not 51999"]);
    let link = lab.a.exec(&["ip", "link", "show", "dev", "punch0"]);
    assert!(!link.success(), "the interface that is not wanted is gone");
    works("another name and another port");
}

/// The new process of a take-over, and how it ended if it did.
fn successor(lab: &Lab, more: &[&str]) -> Program {
    let mut argv = lab.a.punchd.argv.clone();
    argv.retain(|argument| argument != "--take-over");
    argv.push("--take-over".to_owned());
    argv.extend(more.iter().map(|argument| (*argument).to_owned()));
    lab.program_on_a(argv)
}

/// The port on which peers may connect was free when it was opened again.
fn assert_has_tcp_port(punchd: &Program) {
    let text = punchd.log_text();
    assert!(!text.contains("taken on another port"), "{text}");
}

#[test]
fn connections_live_on_when_a_new_process_takes_over() {
    need_lab!();
    let mut lab = Lab::connected("take", "port-restricted", "symmetric");
    let mut talks = Talks::begin(&lab);
    let before = ground(&lab.a);
    without_servers(&mut lab);
    for round in 0..3 {
        let mut new = successor(&lab, &[]);
        new.start();
        new.wait_for_log("INFO ready");
        assert_eq!(lab.a.punchd.wait(), 0, "the earlier one has ended");
        assert!(lab.a.socket.exists());
        assert_has_tcp_port(&new);
        talks.go_on(&format!("take-over {round}"));
        lab.a.punchd = new;
        assert_eq!(ground(&lab.a), before);
        assert_eq!(lab.a.peer_state("b"), "connected");
        assert_eq!(lab.b.peer_state("a"), "connected");
    }
    // The last one cleans up like any other.
    assert_eq!(lab.a.stop(), 0);
    assert!(!lab.a.socket.exists());
}

#[test]
fn a_take_over_that_fails_or_is_not_allowed_costs_nothing() {
    need_lab!();
    let mut lab = Lab::connected("tkno", "open", "open");
    let mut talks = Talks::begin(&lab);
    without_servers(&mut lab);
    let ends = |lab: &Lab| {
        let mut new = successor(lab, &[]);
        new.start();
        let status = new.wait();
        (status, new.log_text())
    };

    // Whoever may use the control socket may not have what is behind it.
    std::fs::set_permissions(&lab.a.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(&lab.dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = lab.dir.join("punchd");
    std::fs::copy(program("punchd"), &copy).unwrap();
    let mut new = successor(&lab, &[]);
    new.argv[0] = copy.display().to_string();
    // It may not even look at the state of this one.
    let state_dir = new.argv.iter().position(|word| word == "--state-dir");
    new.argv[state_dir.unwrap() + 1] = "/nonexistent".to_owned();
    let setpriv = tool("setpriv", "util-linux");
    let prefix = [
        &*setpriv,
        "--reuid",
        SOMEBODY,
        "--regid",
        SOMEBODY,
        "--clear-groups",
    ];
    new.argv.splice(0..0, prefix.map(str::to_owned));
    new.start();
    assert_eq!(new.wait(), 1);
    let text = new.log_text();
    assert!(text.contains("only root and user 0"), "{text}");
    talks.go_on("after another user has asked");

    // A configuration that is refused is so before anybody is asked.
    let bad = lab.dir.join("bad.toml");
    std::fs::write(&bad, "[tun]\nmtu = 1\n").unwrap();
    let config = lab.a.config.clone();
    lab.a.punchd.argv.iter_mut().for_each(|word| {
        if *word == config.display().to_string() {
            *word = bad.display().to_string();
        }
    });
    assert_eq!(ends(&lab).0, 78);
    talks.go_on("after a bad configuration");

    // What can be seen only on the way: the other one goes on with what it has passed on.
    std::fs::write(&bad, "[underlay]\nport = 3478\n").unwrap();
    let taken = lab
        .a
        .net
        .inside(|| std::net::UdpSocket::bind("0.0.0.0:3478").unwrap());
    let (status, text) = ends(&lab);
    assert_eq!(status, 1);
    assert!(text.contains("UDP port 3478 is taken"), "{text}");
    drop(taken);
    lab.a
        .punchd
        .wait_for_log("the process that was to take over does not serve");
    wait_until(PATIENCE, "it answers again", || {
        lab.a.ctl(&["id"]).success()
    });
    talks.go_on("after a take-over that failed");

    // A process that takes everything and is gone.
    let begun = raw_request(&lab);
    assert!(begun.starts_with("HTTP/1.1 101 "), "{begun}");
    wait_until(PATIENCE, "it answers again", || {
        lab.a.punchd.log_text().matches("INFO ready").count() == 3 && lab.a.ctl(&["id"]).success()
    });
    talks.go_on("after a process that took everything and was gone");
    assert_has_tcp_port(&lab.a.punchd);
    assert_eq!(lab.a.peer_state("b"), "connected");

    // Where nobody runs there is nothing to take over.
    assert_eq!(lab.a.stop(), 0);
    let (status, text) = ends(&lab);
    assert_eq!(status, 1);
    assert!(text.contains("start without --take-over"), "{text}");
}

/// The running one has ended by itself on the way, and taken the file of the control socket along.
#[test]
fn the_control_socket_is_there_when_the_earlier_process_has_removed_it() {
    need_lab!();
    let mut lab = Lab::bare("tkrm", Kinds::Apart("open", "open"), &[]);
    let place = lab.a.socket.clone();
    let old = UnixListener::bind(&place).unwrap();
    lab.a.punchd.argv.push("--take-over".to_owned());
    lab.a.punchd.start();
    let (mut stream, _) = old.accept().unwrap();
    let mut asked = [0; 4096];
    assert!(stream.read(&mut asked).unwrap() > 0);
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        .unwrap();
    let names = handover::sealed(b"control\n").unwrap();
    handover::send(&stream, &[names.as_fd(), old.as_fd()]).unwrap();
    std::fs::remove_file(&place).unwrap();
    drop((stream, old));
    lab.a.punchd.wait_for_log("INFO ready");
    assert!(lab.a.ctl(&["id"]).success());
    assert_eq!(lab.a.stop(), 0);
    assert!(!place.exists());
}

/// The process that did not come to serve is still there, and has the state directory.
#[test]
fn a_process_that_was_not_taken_over_from_waits_until_the_other_one_has_ended() {
    need_lab!();
    let mut lab = Lab::connected("tkhg", "open", "open");
    let mut talks = Talks::begin(&lab);
    without_servers(&mut lab);
    let hold = || {
        let (_, stream) = begin(&lab);
        let file = std::fs::File::open(lab.a.state_dir.join("lock")).unwrap();
        file.try_lock().unwrap();
        drop(stream);
        file
    };
    let waits = "and has the state directory";
    let holding = hold();
    lab.a.punchd.wait_for_log(waits);
    std::thread::sleep(Duration::from_secs(3));
    drop(holding);
    wait_until(PATIENCE, "it answers again", || {
        lab.a.ctl(&["id"]).success()
    });
    talks.go_on("after a process that held the state directory for long");

    // A signal is heard meanwhile.
    let _holding = hold();
    wait_until(PATIENCE, "it waits again", || {
        lab.a.punchd.log_text().matches(waits).count() == 2
    });
    assert_eq!(lab.a.stop(), 0);
}

/// Without room for copies of what is to be passed on it says so while it can still go on.
#[test]
fn a_punchd_that_can_open_no_more_files_goes_on_and_says_so() {
    need_lab!();
    let lab = Lab::connected("tkfd", "open", "open");
    let mut talks = Talks::begin(&lab);
    let process = lab.a.punchd.pid().to_string();
    let limit = |soft: &str| {
        let limit = format!("--nofile={soft}:");
        lab.a
            .exec_ok(&[&tool("prlimit", "util-linux"), "--pid", &process, &limit]);
    };
    // Room for the connection and one file more.
    let open: Vec<u64> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    let free = (0..)
        .filter(|number| !open.contains(number))
        .nth(2)
        .unwrap();
    limit(&free.to_string());
    let mut new = successor(&lab, &[]);
    new.start();
    assert_eq!(new.wait(), 1);
    let text = new.log_text();
    assert!(text.contains("has passed on nothing and goes on"), "{text}");
    lab.a.punchd.wait_for_log("no descriptor can be copied");
    limit("1024");
    talks.go_on("after a take-over for which there was no room");
    assert_eq!(lab.a.punchd.log_text().matches("INFO ready").count(), 1);
    assert_eq!(lab.a.peer_state("b"), "connected");
}

/// The end of process 1 is the end of its container.
#[test]
fn process_1_is_not_taken_over_from() {
    need_lab!();
    let mut lab = Lab::bare("tkp1", Kinds::Apart("open", "open"), &[]);
    let plain = lab.a.punchd.argv.clone();
    let unshare = tool("unshare", "util-linux");
    let prefix = [&*unshare, "--pid", "--fork", "--kill-child"].map(str::to_owned);
    lab.a.punchd.argv = [prefix.to_vec(), plain.clone()].concat();
    lab.a.punchd.start();
    lab.a.punchd.wait_for_log("INFO ready");
    let mut new = lab.program_on_a([plain, vec!["--take-over".to_owned()]].concat());
    new.start();
    assert_eq!(new.wait(), 1);
    let text = new.log_text();
    assert!(text.contains("first process of its container"), "{text}");
    assert!(lab.a.ctl(&["id"]).success());
}

#[test]
fn a_service_is_not_taken_over_from() {
    need_lab!();
    let managed = Managed::start("tksv", ("open", "open"));
    let argv = managed.lab.a.punchd.argv[3..].to_vec();
    let mut new = managed
        .lab
        .program_on_a([argv, vec!["--take-over".to_owned()]].concat());
    new.start();
    assert_eq!(new.wait(), 1);
    assert!(new.log_text().contains("systemctl restart punchd"));
    assert!(managed.lab.a.ctl(&["id"]).success());
}

/// Asks for a take-over without being a punchd, takes what is sent and goes; returns the answer.
fn raw_request(lab: &Lab) -> String {
    begin(lab).0
}

/// Asks for a take-over without being a punchd; returns the answer, once there is more, and the connection.
fn begin(lab: &Lab) -> (String, UnixStream) {
    let request = "POST /v1/take-over HTTP/1.1\r\nHost: punchd\r\nConnection: upgrade\r\nUpgrade: punch-take-over\r\nContent-Length: 0\r\n\r\n";
    let mut stream = UnixStream::connect(&lab.a.socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    let _ = stream.read(&mut [0]);
    (
        String::from_utf8_lossy(&answer[..length]).into_owned(),
        stream,
    )
}
