//! A lab: the simulated internet of scripts/lab with the programs on it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::host::{Host, Namespace};
use super::process::{Child, Janitor, Program, run, tail};
use super::{PATIENCE, program, wait_until};

/// Keeps punch-signal from relaying packets.
const NO_RELAY: &str = "--no-relay";

/// What stands between the hosts and the internet; the names are those of scripts/lab.
#[derive(Debug, Clone, Copy)]
pub enum Kinds<'a> {
    /// Each host behind a router of its own.
    Apart(&'a str, &'a str),
    /// Both behind one router.
    SameLan(&'a str),
    /// Each behind a home router, both behind one carrier's NAT.
    SameCarrier(&'a str),
}

/// Two hosts, a server, the routers between. Removed when dropped.
#[derive(Debug)]
pub struct Lab {
    pub a: Host,
    pub b: Host,
    /// The machine that punch-signal and punch-stun run on.
    pub server: Namespace,
    pub signal: Program,
    pub stun: Program,
    /// The lab's own temporary directory: logs, state, whatever a test wants to put there.
    pub dir: PathBuf,
    /// As scripts/lab knows it.
    pub name: String,
    env: BTreeMap<String, String>,
    /// Goes last: it removes namespaces and directory.
    _janitor: Janitor,
}

impl Lab {
    /// Hosts behind a router each; servers and punchd run, and the hosts know each other as `a` and `b`.
    #[track_caller]
    pub fn new(hint: &str, a: &str, b: &str) -> Self {
        Self::started(Self::bare(hint, Kinds::Apart(a, b), &[]))
    }

    /// The same with both hosts behind one router.
    #[track_caller]
    pub fn same_lan(hint: &str, kind: &str) -> Self {
        Self::started(Self::bare(hint, Kinds::SameLan(kind), &[]))
    }

    /// A lab whose hosts are connected already.
    #[track_caller]
    pub fn connected(hint: &str, a: &str, b: &str) -> Self {
        let lab = Self::new(hint, a, b);
        lab.connect();
        lab
    }

    /// Everybody may send to these two hosts, which know each other but no server, and log what an administrator sees.
    #[track_caller]
    pub fn exposed(hint: &str) -> Self {
        let mut lab = Self::bare(hint, Kinds::Apart("full-cone", "open"), &[]);
        lab.start_servers();
        for host in [&mut lab.a, &mut lab.b] {
            *host
                .punchd
                .argv
                .last_mut()
                .expect("it ends with the log level") = "info".to_owned();
            host.start();
        }
        lab.introduce();
        lab
    }

    fn started(lab: Self) -> Self {
        lab.start_all()
    }

    /// Starts everything in a bare lab; the hosts know each other as `a` and `b`.
    #[track_caller]
    pub fn start_all(mut self) -> Self {
        self.start_servers();
        self.a.start();
        self.b.start();
        self.add_servers();
        self.introduce();
        self
    }

    /// Another program on host a, with a log of its own.
    pub fn program_on_a(&self, argv: Vec<String>) -> Program {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.join(format!("a-{number}.log"));
        Program::new(&self.a.namespace, argv, log)
    }

    /// Namespaces only: nothing runs yet. `env` is for scripts/lab (LAB_UDP_TIMEOUT).
    #[track_caller]
    pub fn bare(hint: &str, kinds: Kinds<'_>, env: &[(&str, &str)]) -> Self {
        let name = unique_name(hint);
        let dir = std::env::temp_dir().join(format!("punch-test-{name}"));
        let script = format!(
            "'{}' down --name {name}; rm -rf '{}'",
            lab_script().display(),
            dir.display()
        );
        let janitor = Janitor::hire(&script);
        fs::create_dir(&dir).expect("the temporary directory can be written");
        let owner = std::process::id().to_string();
        let mut up = lab_command(&["up", "--name", &name, "--owner", &owner]);
        match kinds {
            Kinds::Apart(a, b) => up.args(["--a", a, "--b", b]),
            Kinds::SameLan(kind) => up.args(["--same-lan", kind]),
            Kinds::SameCarrier(kind) => up.args(["--same-carrier", kind]),
        };
        run(up.envs(env.iter().copied())).ok();
        let text = run(&mut lab_command(&["env", "--name", &name])).ok();
        let env: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let namespace = |host: &str| Namespace {
            namespace: format!("punch-{name}-{host}"),
            dir: dir.clone(),
        };
        let server = namespace("server");
        let at = |family: &str| env[&format!("SERVER_{family}")].clone();
        let signal = [
            program("punch-signal"),
            "--listen".into(),
            "[::]:8080".into(),
            // What is tested are direct paths, unless a test says otherwise.
            NO_RELAY.into(),
        ];
        let mut stun = vec![program("punch-stun")];
        for (option, value) in [
            ("--listen", format!("{}:3478", at("IPV4"))),
            ("--alternate", at("IPV4_ALT")),
            ("--listen", format!("[{}]:3478", at("IPV6"))),
            ("--alternate", at("IPV6_ALT")),
        ] {
            stun.extend([option.to_owned(), value]);
        }
        Self {
            a: Host::new("a", namespace("a")),
            b: Host::new("b", namespace("b")),
            signal: Program::new(&server.namespace, signal.into(), dir.join("signal.log")),
            stun: Program::new(&server.namespace, stun, dir.join("stun.log")),
            server,
            dir,
            name,
            env,
            _janitor: janitor,
        }
    }

    /// The signalling server relays, too, from its next start on.
    pub fn relay(&mut self) {
        self.signal.argv.retain(|argument| argument != NO_RELAY);
    }

    /// Starts punch-signal and punch-stun and waits until they answer.
    #[track_caller]
    pub fn start_servers(&mut self) {
        self.start_signal();
        self.stun.start();
        let to: SocketAddr = format!("{}:3478", self.env("SERVER_IPV4")).parse().unwrap();
        self.server.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            // A Binding request of RFC 8489 without attributes.
            let mut request = [0; 20];
            request[1] = 1;
            request[4..8].copy_from_slice(&0x2112_a442_u32.to_be_bytes());
            wait_until(PATIENCE, "punch-stun answers", || {
                let _ = socket.send_to(&request, to);
                socket.recv(&mut [0; 1500]).is_ok()
            });
        });
    }

    /// Starts punch-signal and waits until it accepts.
    #[track_caller]
    pub fn start_signal(&mut self) {
        self.signal.start();
        self.server.inside(|| {
            wait_until(PATIENCE, "punch-signal accepts", || {
                TcpStream::connect("127.0.0.1:8080").is_ok()
            });
        });
    }

    /// Starts one more punch-signal beside the lab's, on another port, and waits until it accepts.
    #[track_caller]
    pub fn another_signal(&self, port: u16) -> Child {
        let listen = format!("[::]:{port}");
        let argv = [&program("punch-signal"), "--listen", &listen, NO_RELAY];
        let child = self.server.spawn(&format!("signal {port}"), &argv);
        self.server.inside(|| {
            wait_until(PATIENCE, "the other punch-signal accepts", || {
                TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
        });
        child
    }

    /// Starts a DHT of so many nodes, up to 200, on the machine of the servers, each at an address of its own: 192.0.2.1 and so on.
    /// Returns it and the node at which to begin.
    #[track_caller]
    pub fn dht(&self, nodes: u8) -> (Child, String) {
        let server = self.env("SERVER_IPV4");
        let net = "192.0.2.0/24";
        // The whole network is the machine's own; others get there over it.
        self.server
            .exec_ok(&["ip", "route", "add", "local", net, "dev", "lo"]);
        self.namespace("inet")
            .exec_ok(&["ip", "route", "add", net, "via", server]);
        let program = super::example("lab-dht");
        let nodes_text = nodes.to_string();
        let child = self
            .server
            .spawn("dht", &[&program, "192.0.2.1", &nodes_text]);
        wait_until(PATIENCE, "the DHT's nodes have their ports", || {
            let sockets = self.server.exec_ok(&["ss", "-Hnul"]);
            sockets.matches("192.0.2.").count() >= usize::from(nodes)
        });
        (child, "192.0.2.1:6881".to_owned())
    }

    /// Tells both hosts of the servers, and waits until they are on the signalling server.
    #[track_caller]
    pub fn add_servers(&self) {
        for host in self.hosts() {
            host.ctl_ok(&["server", "add", "signal", &self.signal_url(&host.name)]);
            let v6 = format!("[{}]:3478", self.env("SERVER_IPV6"));
            for stun in [self.env("SERVER_IPV4"), &v6] {
                host.ctl_ok(&["server", "add", "stun", stun]);
            }
        }
        for host in self.hosts() {
            host.wait_for_signal();
        }
    }

    /// A third host, on the machine of the servers; nothing runs yet.
    pub fn home(&self) -> Host {
        Host::new("home", self.namespace("server"))
    }

    /// The signalling server as this host can reach it.
    pub fn signal_url(&self, host: &str) -> String {
        let ipv4 = self.has(&format!("{}_IPV4", host.to_uppercase()));
        let server = if ipv4 {
            self.env("SERVER_IPV4").to_owned()
        } else {
            format!("[{}]", self.env("SERVER_IPV6"))
        };
        format!("ws://{server}:8080")
    }

    /// Servers and daemons run, these with their configurations, and know each other.
    #[track_caller]
    pub fn start_with(&mut self, configs: [&str; 2]) {
        self.start_servers();
        for (host, config) in [&mut self.a, &mut self.b].into_iter().zip(configs) {
            host.configure(config);
            host.start();
        }
        self.add_servers();
        self.introduce();
    }

    /// Drops all that the two routers send to each other, until [`Self::heal`]: no direct path can be found.
    #[track_caller]
    pub fn part(&self) {
        let rules = format!(
            "table ip apart {{ chain here {{ type filter hook forward priority 0; ip saddr {a} ip daddr {b} drop; ip saddr {b} ip daddr {a} drop; }}; }}",
            a = self.env("A_PUBLIC_IPV4"),
            b = self.env("B_PUBLIC_IPV4")
        );
        self.namespace("inet").exec_ok(&["nft", &rules]);
    }

    /// Lets the two routers reach each other again.
    #[track_caller]
    pub fn heal(&self) {
        self.namespace("inet")
            .exec_ok(&["nft", "delete", "table", "ip", "apart"]);
    }

    /// Makes each host a peer of the other.
    #[track_caller]
    pub fn introduce(&self) {
        self.a.ctl_ok(&["peer", "add", "b", self.b.key()]);
        self.b.ctl_ok(&["peer", "add", "a", self.a.key()]);
    }

    /// `punchctl up b` on a, and waits until both ends are connected.
    #[track_caller]
    pub fn connect(&self) {
        self.a.ctl_ok(&["up", "b", "--timeout", "60"]);
        self.b.wait_for_peer_state("a", "connected");
    }

    pub fn hosts(&self) -> [&Host; 2] {
        [&self.a, &self.b]
    }

    /// A value that `scripts/lab env` prints, such as `A_PUBLIC_IPV4`.
    #[track_caller]
    pub fn env(&self, key: &str) -> &str {
        self.env
            .get(key)
            .unwrap_or_else(|| panic!("this lab has no {key}: {:#?}", self.env))
    }

    pub fn has(&self, key: &str) -> bool {
        self.env.contains_key(key)
    }

    /// Any machine of the lab: `a`, `b`, `server`, `inet`, `ra`, `rb`.
    pub fn namespace(&self, host: &str) -> Namespace {
        Namespace {
            namespace: format!("punch-{}-{host}", self.name),
            dir: self.dir.clone(),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- lab {}: the ends of its logs", self.name);
            let mut logs: Vec<_> = fs::read_dir(&self.dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect();
            logs.retain(|path| path.extension().is_some_and(|end| end == "log"));
            logs.sort();
            for log in logs {
                eprintln!("--- {}\n{}", log.display(), tail(&log, 40));
            }
        }
    }
}

fn lab_script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/lab")
}

fn lab_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(lab_script());
    command.args(arguments);
    // For the kinds that nftables cannot make; where it is not built, scripts/lab does it.
    let lab_nat = Path::new(env!("CARGO_BIN_EXE_punchd")).with_file_name("lab-nat");
    if lab_nat.is_file() {
        command.env("LAB_NAT", lab_nat);
    }
    command
}

/// At most 12 letters and digits: a hint, this process, a counter.
fn unique_name(hint: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let hint: String = hint
        .chars()
        .filter(char::is_ascii_lowercase)
        .take(4)
        .collect();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{hint}-{}-{}", base36(std::process::id()), base36(count))
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        digits.push(char::from_digit(number % 36, 36).unwrap());
        number /= 36;
    }
    digits.iter().rev().collect()
}
