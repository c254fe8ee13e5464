//! A host of a lab: its network namespace, and its punchd.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use punch_api::{NetcheckView, WhyView};
use serde_json::Value;

use super::process::{Child, Output, Program, run};
use super::{PATIENCE, program, wait_for, wait_until};

/// A network namespace of a lab.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// As `ip netns` calls it.
    pub namespace: String,
    /// The lab's directory.
    pub dir: PathBuf,
}

impl Namespace {
    /// A command that will run there.
    pub fn command(&self, argv: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .args(argv)
            .current_dir(&self.dir);
        command
    }

    /// Runs a command there to its end.
    #[track_caller]
    pub fn exec(&self, argv: &[&str]) -> Output {
        run(&mut self.command(argv))
    }

    /// Runs a command there, which must succeed; returns its output.
    #[track_caller]
    pub fn exec_ok(&self, argv: &[&str]) -> String {
        let output = self.exec(argv);
        assert!(
            output.success(),
            "{argv:?} on {}: {output:#?}",
            self.namespace
        );
        output.stdout
    }

    /// Counts packets from now on that pass a hook (`input`, `output`, `forward`) of this host and match a rule of nftables.
    #[track_caller]
    pub fn count(&self, hook: &str, rule: &str) -> Count {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let table = format!("count{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let text = format!(
            "table inet {table} {{ chain here {{ type filter hook {hook} priority -300; {rule} counter; }}; }}"
        );
        self.exec_ok(&["nft", &text]);
        Count {
            net: self.clone(),
            table,
        }
    }

    /// Starts a command there; what it says goes to `NAME.log` in the lab's directory. It is killed when dropped.
    #[track_caller]
    pub fn spawn(&self, name: &str, argv: &[&str]) -> Child {
        Child::start(
            &mut self.command(argv),
            &self.dir.join(format!("{name}.log")),
        )
    }

    /// Runs a closure on a thread in that namespace: sockets that it makes belong there for good, also when they are
    /// returned, and so do threads that it starts.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.namespace);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let namespace = File::open(path).expect("the namespace exists");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// A rule that counts.
#[derive(Debug)]
pub struct Count {
    net: Namespace,
    table: String,
}

impl Count {
    /// Packets so far.
    #[track_caller]
    pub fn packets(&self) -> u64 {
        let text = self
            .net
            .exec_ok(&["nft", "list", "table", "inet", &self.table]);
        let mut words = text.split_whitespace();
        words
            .find(|word| *word == "packets")
            .and_then(|_| words.next()?.parse().ok())
            .unwrap_or_else(|| panic!("no counter: {text}"))
    }
}

#[derive(Debug, Clone)]
struct Id {
    key: String,
    ipv4: Option<Ipv4Addr>,
    ipv6: Ipv6Addr,
}

/// A host with punchd. It dereferences to its namespace.
#[derive(Debug)]
pub struct Host {
    /// `a` or `b`; also what the other host calls this peer.
    pub name: String,
    pub net: Namespace,
    pub punchd: Program,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    /// Its punchd.toml, empty unless [`Host::configure`]d.
    pub config: PathBuf,
    id: OnceLock<Id>,
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.net
    }
}

impl Host {
    pub(super) fn new(name: &str, net: Namespace) -> Self {
        let at = |end: &str| net.dir.join(format!("{name}{end}"));
        let (state_dir, socket, config) = (at(""), at(".sock"), at(".toml"));
        std::fs::write(&config, "").expect("the lab's directory can be written");
        let log = std::env::var("PUNCH_TEST_LOG").unwrap_or_else(|_| "debug".to_owned());
        let mut argv = vec![program("punchd")];
        for (option, value) in [
            ("--config", &config),
            ("--state-dir", &state_dir),
            ("--socket", &socket),
        ] {
            argv.extend([option.to_owned(), value.display().to_string()]);
        }
        argv.extend(["--log".to_owned(), log]);
        Self {
            name: name.to_owned(),
            punchd: Program::new(&net.namespace, argv, at(".log")),
            net,
            state_dir,
            socket,
            config,
            id: OnceLock::new(),
        }
    }

    /// Writes punchd.toml; counts from the next start on.
    pub fn configure(&self, text: &str) {
        std::fs::write(&self.config, text).expect("the configuration can be written");
    }

    /// Starts punchd and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        self.punchd.start();
        let what = format!("punchd answers on {}", self.name);
        let punchd = &mut self.punchd;
        let socket = self.socket.display().to_string();
        wait_until(PATIENCE, &what, || {
            assert!(
                punchd.is_running(),
                "punchd ended at its start: {}",
                punchd.log_text()
            );
            run(Command::new(program("punchctl")).args(["--socket", &socket, "id"])).success()
        });
    }

    /// SIGTERM; returns punchd's exit status.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        self.punchd.stop()
    }

    /// SIGKILL.
    #[track_caller]
    pub fn kill(&mut self) {
        self.punchd.kill();
    }

    /// SIGTERM and a new start.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Runs punchctl.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("punchctl"));
        run(command.arg("--socket").arg(&self.socket).args(arguments))
    }

    /// What punchctl is started with, for one that is to run beside the test.
    pub fn ctl_argv(&self) -> Vec<String> {
        let socket = self.socket.display().to_string();
        vec![program("punchctl"), "--socket".to_owned(), socket]
    }

    /// Runs punchctl, which must succeed; returns its output.
    #[track_caller]
    pub fn ctl_ok(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert!(
            output.success(),
            "punchctl {arguments:?} on {}: {output:#?}",
            self.name
        );
        output.stdout
    }

    /// Runs punchctl, which must fail with exit status 1; returns what it says.
    #[track_caller]
    pub fn ctl_refused(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_eq!(
            output.status, 1,
            "punchctl {arguments:?} on {}: {output:#?}",
            self.name
        );
        output.stderr
    }

    /// Runs punchctl with `--json`, which must succeed.
    #[track_caller]
    pub fn ctl_json(&self, arguments: &[&str]) -> Value {
        let text = self.ctl_ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("punchctl {arguments:?}: {error}: {text}"))
    }

    fn id(&self) -> &Id {
        self.id.get_or_init(|| {
            let view = self.ctl_json(&["id"]);
            let text = |key: &str| view[key].as_str().map(str::to_owned);
            Id {
                key: text("id").expect("there is an id"),
                ipv4: text("ipv4").map(|text| text.parse().unwrap()),
                ipv6: text("ipv6").unwrap().parse().unwrap(),
            }
        })
    }

    /// `punch1…`.
    pub fn key(&self) -> &str {
        &self.id().key
    }

    /// The overlay IPv4 address.
    pub fn ipv4(&self) -> IpAddr {
        self.id().ipv4.expect("overlay IPv4 is on").into()
    }

    /// The overlay IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.id().ipv6.into()
    }

    /// What this host shows of a peer, as `punchctl peers --json` does.
    #[track_caller]
    pub fn peer(&self, name: &str) -> Value {
        let peers = self.ctl_json(&["peers"]);
        let found = peers
            .as_array()
            .unwrap()
            .iter()
            .find(|peer| peer["name"] == name);
        found
            .unwrap_or_else(|| panic!("{} has no peer {name}: {peers:#}", self.name))
            .clone()
    }

    /// `down`, `refused`, `waiting`, `connecting` or `connected`.
    #[track_caller]
    pub fn peer_state(&self, name: &str) -> String {
        self.peer(name)["state"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn wait_for_peer_state(&self, name: &str, state: &str) {
        let what = format!("{name} is {state} on {}", self.name);
        wait_until(PATIENCE, &what, || self.peer_state(name) == state);
    }

    /// Waits until punchd has its signalling server.
    #[track_caller]
    pub fn wait_for_signal(&self) {
        wait_until(
            PATIENCE,
            &format!("{} reaches the signalling server", self.name),
            || {
                let servers = self.ctl_json(&["server", "list"]);
                servers
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|server| server["kind"] == "signal" && server["state"] == "connected")
            },
        );
    }

    /// What punchd says of a server, if it knows it.
    #[track_caller]
    pub fn server(&self, address: &str) -> Option<Value> {
        let servers = self.ctl_json(&["server", "list"]);
        let mut servers = servers.as_array().unwrap().iter();
        servers.find(|server| server["address"] == address).cloned()
    }

    /// Waits until a server that punchd knows is reached.
    #[track_caller]
    pub fn wait_for_server(&self, address: &str) {
        wait_until(PATIENCE, &format!("{address} is reached"), || {
            self.server(address).unwrap()["state"] == "connected"
        });
    }

    /// Waits until punchd names this trouble with a server, which it must not reach meanwhile.
    #[track_caller]
    pub fn wait_for_trouble(&self, address: &str, words: &str) {
        wait_until(PATIENCE, &format!("{address} has trouble: {words}"), || {
            let server = self.server(address).unwrap();
            assert_ne!(server["state"], "connected", "{server}");
            let trouble = server["trouble"].as_str().unwrap_or_default();
            trouble.contains(words)
        });
    }

    /// What `punchctl status` says of what is not saved; empty if all is.
    #[track_caller]
    pub fn not_saved(&self) -> String {
        let status = self.ctl_json(&["status"]);
        let warnings = status["warnings"].as_array().unwrap();
        let warnings: Vec<_> = warnings.iter().filter_map(Value::as_str).collect();
        let said = warnings
            .iter()
            .find_map(|text| text.strip_prefix("not saved: "));
        said.unwrap_or_default().to_owned()
    }

    /// Waits until all that is in force is saved.
    #[track_caller]
    pub fn wait_until_saved(&self) {
        let what = format!("all is saved on {}", self.name);
        wait_until(PATIENCE, &what, || self.not_saved().is_empty());
    }

    /// How many packets or envelopes were not let through for this reason.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> u64 {
        let dropped = &self.ctl_json(&["status"])["dropped"];
        dropped[reason]
            .as_u64()
            .unwrap_or_else(|| panic!("no {reason} in {dropped}"))
    }

    /// What `punchctl why --json` says of a peer.
    #[track_caller]
    pub fn why(&self, name: &str) -> WhyView {
        let view = self.ctl_json(&["why", name]);
        serde_json::from_value(view.clone()).unwrap_or_else(|error| panic!("{error}: {view:#}"))
    }

    /// What `punchctl netcheck --json` measures over IPv4.
    #[track_caller]
    pub fn netcheck(&self) -> NetcheckView {
        let views = self.ctl_json(&["netcheck"]);
        let views: Vec<NetcheckView> = serde_json::from_value(views.clone())
            .unwrap_or_else(|error| panic!("{error}: {views:#}"));
        let v4 = views
            .into_iter()
            .find(|view| view.family == punch_api::AddressFamily::Ipv4);
        v4.expect("there is IPv4")
    }

    /// The UDP sockets that are open on this host: all of them are punchd's.
    pub fn udp_sockets(&self) -> usize {
        ["udp", "udp6"]
            .iter()
            .map(|table| {
                let path = format!("/proc/{}/net/{table}", self.punchd.pid());
                std::fs::read_to_string(path).map_or(0, |text| text.lines().count() - 1)
            })
            .sum()
    }

    /// Files, sockets and whatever else punchd has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.punchd.pid())).map_or(0, Iterator::count)
    }

    /// The state file as it is; `None` before the first change.
    pub fn state_file(&self) -> Option<String> {
        std::fs::read_to_string(self.state_dir.join("state.json")).ok()
    }
}
