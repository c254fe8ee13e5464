"""What is measured: punch and other tunnels, and how each is brought up."""

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from .figures import MTU
from .measure import iperf
from .processes import Failed, run, say, wait_until
from .stage import PORT

ROOT = Path(__file__).resolve().parent.parent.parent

UAPI = Path("/var/run/wireguard")


class Link:
    """A way from a to b: where a client in a connects, where a server in b listens, and whose CPU and memory it costs."""

    def __init__(self, stage, target, bind, sender, receiver):
        self.stage, self.target, self.bind, self.sender, self.receiver = stage, target, bind, sender, receiver

    def must_run(self):
        self.sender.must_run()
        self.receiver.must_run()


class Contender:
    """Something that carries TCP from a to b."""

    # Whether whole IP packets go through it: then UDP, ping and memory are measured too.
    tunnel = True

    def __init__(self, name, programs):
        self.name, self.programs = name, programs

    def missing(self):
        return [program for program in self.programs if not shutil.which(program)]

    def version(self):
        text = run([self.programs[0], "--version"], check=False)
        found = re.search(r"v?(\d+\.\d+[\w.+-]*)", text)
        return found[1] if found else "?"

    def connect(self, stage):
        raise NotImplementedError


class WireGuard(Contender):
    """A program that makes a device which `wg` configures."""

    def __init__(self, name, arguments):
        super().__init__(name, [name, "wg"])
        self.arguments = arguments

    def connect(self, stage):
        # Control sockets lie in one directory for all namespaces, so the names of the devices must differ.
        devices = {side: f"pb{os.getpid()}{side}" for side in "ab"}
        places = {"a": stage.a, "b": stage.b}
        keys, programs = {}, {}
        UAPI.mkdir(exist_ok=True)
        for side in "ab":
            secret = run(["wg", "genkey"])
            (stage.dir / f"{side}.key").write_text(secret)
            keys[side] = run(["wg", "pubkey"], given=secret).strip()
        for side, device in devices.items():
            stage.files.append(UAPI / f"{device}.sock")
            programs[side] = stage.start(
                places[side], f"{self.name}-{side}", [self.name, *self.arguments, device],
                env={"LOG_LEVEL": "error", "WG_LOG_LEVEL": "error"},
            )
            wait_until(f"the control socket of {self.name}", (UAPI / f"{device}.sock").exists, needs=[programs[side]])
        for number, (side, other) in enumerate(("ab", "ba"), 1):
            endpoint = stage.address(3 - number)
            endpoint = f"[{endpoint}]:51820" if stage.options.ipv6 else f"{endpoint}:51820"
            stage.run(places[side], ["wg", "set", devices[side], "listen-port", "51820",
                                     "private-key", stage.dir / f"{side}.key", "peer", keys[other],
                                     "allowed-ips", "10.9.0.0/24", "endpoint", endpoint])
            for command in (f"address add 10.9.0.{number}/24 dev {devices[side]}", f"link set {devices[side]} mtu {MTU} up"):
                run(["ip", "-n", places[side], *command.split()])
        link = Link(stage, "10.9.0.2", "10.9.0.2", programs["a"], programs["b"])
        wait_until(f"a ping through {self.name}", lambda: pings(stage, link.target), needs=programs.values())
        return link


def pings(stage, target):
    return " 0% packet loss" in stage.run(stage.a, ["ping", "-c", "1", "-W", "1", target], check=False)


class Punchd:
    """One punchd, and how it is asked."""

    def __init__(self, stage, binaries, namespace, name, tun="punch0"):
        self.stage, self.binaries, self.namespace, self.name = stage, binaries, namespace, name
        self.socket, self.state, self.config = (stage.dir / f"{name}{end}" for end in (".sock", "", ".toml"))
        self.config.write_text(f'[nat]\nport_mapping = false\n[tun]\nname = "{tun}"\n')
        self.start()

    def start(self):
        self.program = self.stage.start(self.namespace, f"punchd-{self.name}", [
            self.binaries / "punchd", "--config", self.config, "--state-dir", self.state, "--socket", self.socket,
        ])

    def ctl(self, *arguments, timeout=30):
        return run([str(self.binaries / "punchctl"), "--socket", str(self.socket), *arguments], timeout=timeout)

    def ready(self):
        wait_until("punchd's control socket", self.answers, needs=[self.program])
        self.id = json.loads(self.ctl("id", "--json"))

    def answers(self):
        try:
            return bool(self.ctl("id"))
        except Failed:
            return False

    def use_servers(self, server):
        self.ctl("server", "add", "signal", f"ws://{server}:8080")
        self.ctl("server", "add", "stun", server)

    def has_servers(self):
        states = [entry["state"] for entry in json.loads(self.ctl("server", "list", "--json"))]
        return len(states) >= 2 and all(state == "connected" for state in states)

    def fill_up(self, count):
        """Restarts it with so many peers, all but one of them down, and so many forwards. Through punchctl a thousand of each
        would take minutes, so one of each is made like that, and the others are written after its example."""
        first, *others = identities(self.stage, self.binaries, count - 1)
        self.ctl("peer", "add", "peer0", first)
        self.ctl("forward", "tcp", "20000")
        self.stage.stop(self.program)
        file = self.state / "state.json"
        try:
            text = file.read_text()
            state = json.loads(text)
            peer, forward = json.dumps(state["peers"]["peer0"]), json.dumps(state["forwards"][0])
            for number, key in enumerate(others, 1):
                state["peers"][f"peer{number}"] = json.loads(peer.replace(first, key))
            state["forwards"] = [json.loads(forward.replace("20000", str(20000 + number))) for number in range(count)]
            file.write_text(json.dumps(state))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Failed(f"{file.name} no longer is what this script knows: {error!r}") from None
        self.start()
        self.ready()
        found = [len(json.loads(self.ctl(what, "--json"))) for what in ("peers", "forwards")]
        if found != [count, count]:
            raise Failed(f"punchd has {found[0]} peers and {found[1]} forwards instead of {count}")


# Of each directory of programs: the keys that its punchd has made.
MADE = {}
# So many of them are made at a time.
KEYS_AT_ONCE = 8


def identities(stage, binaries, count):
    """So many keys of machines that nobody will meet, no two with the same overlay address: each is what a punchd says that starts
    for the first time. They are kept for the next rounds."""
    made = MADE.setdefault(binaries, {})
    namespace = None
    while len(made) < count:
        if namespace is None:
            say(f"starting punchd {count - len(made):,} times for the keys of so many peers")
            namespace = stage.namespace("keys")
        names = [f"key{number}" for number in range(min(KEYS_AT_ONCE, count - len(made)))]
        punchds = [Punchd(stage, binaries, namespace, name, name) for name in names]
        for punchd in punchds:
            punchd.ready()
            made.setdefault(punchd.id["ipv4"], punchd.id["id"])
        stage.stop(*(punchd.program for punchd in punchds))
        for punchd in punchds:
            shutil.rmtree(punchd.state)
    return list(made.values())[:count]


def start_servers(stage, binaries, namespace, number):
    """punch-signal and punch-stun; returns how clients call them."""
    server = f"[{stage.address(number)}]" if stage.options.ipv6 else stage.address(number)
    programs = [
        stage.start(namespace, "punch-signal", [binaries / "punch-signal", "--listen", "[::]:8080"]),
        stage.start(namespace, "punch-stun", [binaries / "punch-stun", "--listen", f"{server}:3478"]),
    ]
    wait_until("punch-signal", lambda: stage.listening(namespace, 8080), needs=programs)
    wait_until("punch-stun", lambda: stage.listening(namespace, 3478, "-u"), needs=programs)
    return server


class Punch(Contender):
    """punchd at both ends, punch-signal and punch-stun beside b."""

    NAMES = ("punchd", "punchctl", "punch-signal", "punch-stun")

    def __init__(self, name="punch", binaries=ROOT / "target/release", configured=1):
        super().__init__(name, [str(binaries / program) for program in self.NAMES])
        self.binaries, self.configured = binaries, configured

    def version(self):
        git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
        own = self.binaries == ROOT / "target/release"
        return super().version() + (f" ({git.stdout.strip()})" if own and git.stdout.strip() else "")

    def connect(self, stage):
        server = start_servers(stage, self.binaries, stage.b, 2)
        a, b = (Punchd(stage, self.binaries, namespace, name) for namespace, name in ((stage.a, "a"), (stage.b, "b")))
        for punchd in (a, b):
            punchd.ready()
            punchd.use_servers(server)
        for punchd, name, other in ((a, "db", b), (b, "laptop", a)):
            punchd.ctl("peer", "add", name, other.id["id"])
            punchd.ctl("allow", name, "--host")
            if self.configured > 1:
                punchd.fill_up(self.configured)
        for punchd in (a, b):
            wait_until("the servers' answers", punchd.has_servers, needs=[punchd.program])
        a.ctl("up", "db", "--timeout", "30", timeout=40)
        link = Link(stage, b.id["ipv4"], b.id["ipv4"], a.program, b.program)
        wait_until("a ping through punch", lambda: pings(stage, link.target), needs=[a.program, b.program])
        return link


class Ssh(Contender):
    """ssh -L, with an sshd of its own."""

    tunnel = False

    def __init__(self):
        super().__init__("ssh", ["ssh", "sshd", "ssh-keygen", "unshare"])

    def version(self):
        done = subprocess.run(["ssh", "-V"], capture_output=True, text=True)
        return done.stderr.split(",")[0].replace("OpenSSH_", "").split()[0]

    def connect(self, stage):
        for key in ("host", "user"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stage.dir / key)])
        # Where root's password is locked only PAM lets it in; where PAM is not set up for sshd only the other way works.
        try:
            return self.attempt(stage, "no")
        except Failed:
            return self.attempt(stage, "yes")

    def attempt(self, stage, pam):
        config = stage.dir / "sshd_config"
        config.write_text(f"""Port 2222
ListenAddress {stage.address(2)}
HostKey {stage.dir}/host
AuthorizedKeysFile {stage.dir}/user.pub
PasswordAuthentication no
PermitRootLogin yes
StrictModes no
UsePAM {pam}
PidFile none
""")
        # sshd insists on its directory in /run; it gets one in a mount namespace of its own.
        inner = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec {shutil.which('sshd')} -D -e -f {config}"
        sshd = stage.start(stage.b, "sshd", ["unshare", "-m", "sh", "-c", inner])
        wait_until("sshd", lambda: stage.listening(stage.b, 2222), needs=[sshd])
        options = ["IdentitiesOnly=yes", "UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "BatchMode=yes",
                   "ExitOnForwardFailure=yes", "ControlPath=none", "ConnectTimeout=10"]
        ssh = stage.start(stage.a, "ssh", [
            "ssh", "-N", "-F", "none", "-p", "2222", "-i", stage.dir / "user", *(f"-o{option}" for option in options),
            "-L", f"127.0.0.1:{PORT}:127.0.0.1:{PORT}", f"root@{stage.address(2)}",
        ])
        try:
            wait_until("ssh's forward", lambda: stage.listening(stage.a, PORT), needs=[ssh, sshd])
        except Failed:
            stage.stop(ssh, sshd)
            raise
        return Link(stage, "127.0.0.1", "127.0.0.1", ssh, sshd)


class Dumbpipe(Contender):
    """dumbpipe listen-tcp and connect-tcp. Nobody answers for its relays and its DNS in a namespace; the ticket holds addresses."""

    tunnel = False

    def __init__(self):
        super().__init__("dumbpipe", ["dumbpipe"])

    def connect(self, stage):
        listener = stage.start(stage.b, "dumbpipe-b", ["dumbpipe", "listen-tcp", "--host", f"127.0.0.1:{PORT}"])
        ticket = functools.partial(re.search, r"^dumbpipe connect-tcp (\S+)$", flags=re.M)
        wait_until("dumbpipe's ticket", lambda: ticket(listener.text()), 40, [listener])
        connector = stage.start(stage.a, "dumbpipe-a", [
            "dumbpipe", "connect-tcp", "--addr", f"127.0.0.1:{PORT}", ticket(listener.text())[1],
        ])
        wait_until("dumbpipe's forward", lambda: stage.listening(stage.a, PORT), 40, [connector, listener])
        link = Link(stage, "127.0.0.1", "127.0.0.1", connector, listener)
        try:
            iperf(link, ["-t", "1"], 1, patience=30)
        except Failed as error:
            raise Failed(f"no connection in a closed network ({error})") from None
        return link


def contenders():
    return [
        Punch(),
        # Else they change to the user behind sudo and can then no longer configure.
        WireGuard("gotatun", ["--foreground", "--disable-drop-privileges"]),
        WireGuard("boringtun-cli", ["--foreground", "--disable-drop-privileges"]),
        WireGuard("wireguard-go", ["--foreground"]),
        Ssh(),
        Dumbpipe(),
    ]
