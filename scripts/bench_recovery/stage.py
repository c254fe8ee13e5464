"""A lab with servers, two daemons, the probe and its echo; leaving it removes all of it."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from bench_tunnel.processes import Failed, Program, run, stop_all, wait_until
from bench_tunnel.stage import undisturbed

from .record import Record

HERE = Path(__file__).resolve().parent
LAB = HERE.parent / "lab"
PORT = 7007
PIDFD_GETFD = 438

# Whatever the namespace's NAT of the kernel remembers (IPCTNL_MSG_CT_DELETE without attributes) is forgotten.
FORGET = """
import socket, struct
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
    netlink.bind((0, 0))
    netlink.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 5, 1, 0, 0, 0, 0))
    error = struct.unpack_from("=i", netlink.recv(4096), 16)[0]
    assert error == 0, error
"""


class Stage:
    """Two hosts, connected by punchd."""

    alive = []
    count = 0

    def __init__(self, options, kinds):
        Stage.count += 1
        self.bin = options.bin
        self.name = f"rec{os.getpid() % 100000}-{Stage.count}"
        self.programs, self.number = {}, 0
        self.dir = Path(tempfile.mkdtemp(prefix=f"punch-recovery-{os.getpid()}-"))
        self.dir.chmod(0o755)
        self.record, self.read, self.probed = Record(), 0, None
        # When the last fault came, or the servers were reached first.
        self.struck = time.monotonic()
        # Of the ten addresses that each router may have, those that were its last.
        self.addresses = {"ra": 0, "rb": 0}
        Stage.alive.append(self)
        environment = {**os.environ, "LAB_NAT": str(self.bin / "lab-nat")}
        lab = [LAB, "up", "--name", self.name, "--a", kinds[0], "--b", kinds[1], "--owner", os.getpid()]
        run(["env", f"LAB_NAT={environment['LAB_NAT']}", *map(str, lab)], timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with undisturbed():
            stop_all(list(self.programs.values())[::-1])
            run([str(LAB), "down", "--name", self.name], check=False, timeout=60)
            shutil.rmtree(self.dir, ignore_errors=True)
            if self in Stage.alive:
                Stage.alive.remove(self)

    def keep_logs(self, place):
        place.mkdir(parents=True, exist_ok=True)
        for log in self.dir.glob("*.log"):
            shutil.copy(log, place / log.name)

    # --- programs ---

    def namespace(self, host):
        return f"punch-{self.name}-{host}"

    def inside(self, host, argv):
        return ["ip", "netns", "exec", self.namespace(host), *map(str, argv)]

    def exec(self, host, argv, **more):
        return run(self.inside(host, argv), **more)

    def start(self, host, name, argv):
        self.number += 1
        program = Program(name, self.inside(host, argv), self.dir / f"{self.number:02}-{name}.log")
        self.programs[name] = program
        return program

    def start_signal(self):
        self.start("server", "signal", [self.bin / "punch-signal", "--listen", "[::]:8080"])

    def start_punchd(self, host):
        (self.dir / f"{host}.toml").write_text("[nat]\nport_mapping = false\n")
        program = self.start(host, f"punchd-{host}", [
            self.bin / "punchd", "--config", self.dir / f"{host}.toml", "--state-dir", self.dir / host,
            "--socket", self.dir / f"{host}.sock", "--log", "debug"])
        wait_until(f"punchd on {host}", lambda: self.ctl(host, "id", check=False), needs=[program])

    def end(self, name, number):
        """Ends a program by a signal, and waits for it."""
        program = self.programs.pop(name)
        program.popen.send_signal(number)
        program.popen.wait(15)

    def ctl(self, host, *arguments, **more):
        return run([str(self.bin / "punchctl"), "--socket", str(self.dir / f"{host}.sock"), *arguments], timeout=90, **more)

    def ask(self, host, *arguments):
        """The answer as a value; nothing while punchd does not answer."""
        text = self.ctl(host, *arguments, "--json", check=False)
        return json.loads(text) if text else None

    def begin(self):
        """Everything runs, and the hosts are connected."""
        self.start_signal()
        self.start("server", "stun", [self.bin / "punch-stun", "--listen", "203.0.113.1:3478", "--alternate", "203.0.113.2"])
        for host in "ab":
            self.start_punchd(host)
        keys = {host: self.ask(host, "id") for host in "ab"}
        for host, name, other in (("a", "db", "b"), ("b", "laptop", "a")):
            self.ctl(host, "server", "add", "signal", "ws://203.0.113.1:8080")
            self.ctl(host, "server", "add", "stun", "203.0.113.1")
            self.ctl(host, "peer", "add", name, keys[other]["id"])
            self.ctl(host, "netcheck")
        self.ctl("b", "allow", "laptop", "--host")
        self.ctl("a", "up", "db", "--timeout", "60")
        echo = self.start("b", "echo", ["python3", "-u", HERE / "probe.py", "echo", PORT])
        wait_until("the echo server", lambda: "listening" in echo.text(), needs=[echo])
        self.probed = self.start("a", "probe", ["python3", "-u", HERE / "probe.py", "send", keys["b"]["ipv4"], PORT])

    # --- what is seen ---

    def look(self):
        """What the probe has written since the last look."""
        with open(self.probed.log, "rb") as log:
            log.seek(self.read)
            lines, _, _ = log.read().rpartition(b"\n")
        self.read += len(lines) + bool(lines)
        self.record.take(lines.decode(errors="replace").splitlines())
        return self.record

    def path(self, host):
        """direct, relayed or none."""
        peers = self.ask(host, "peers")
        path = peers[0]["path"] if peers else None
        return "none" if path is None else "relayed" if path["via"] else "direct"

    def paths(self):
        return {self.path(host) for host in "ab"}

    def servers_are_there(self):
        lists = [self.ask(host, "server", "list") for host in "ab"]
        return all(servers and all(server["state"] == "connected" for server in servers) for servers in lists)

    def is_at_rest(self, path):
        now = time.monotonic()
        return (self.look().is_steady(now - 2, now, 0.15) and self.paths() == {path} and self.servers_are_there()
                and self.record.talked and now - self.record.talked[-1] < 1)

    def wait_for(self, what, condition, seconds):
        end = time.monotonic() + seconds
        while not condition():
            for program in self.programs.values():
                program.must_run()
            if time.monotonic() > end:
                raise Failed(f"{what} has not come within {seconds} s")
            time.sleep(0.05)

    # --- faults ---

    def part(self):
        """The two routers do not reach each other."""
        nets = {"a": "203.0.113.10-203.0.113.19", "b": "203.0.113.20-203.0.113.29"}
        rules = " ".join(f"ip saddr {nets[x]} ip daddr {nets[y]} drop;" for x, y in ("ab", "ba"))
        self.exec("inet", ["nft", f"table ip apart {{ chain here {{ type filter hook forward priority 0; {rules} }}; }}"])

    def heal(self):
        self.exec("inet", ["nft", "delete", "table", "ip", "apart"], check=False)

    def forget(self, router):
        """The router has restarted: it knows no flow any more."""
        pids = run(["ip", "netns", "pids", self.namespace(router)]).split()
        for pid in map(int, pids):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            if argv and Path(argv[0].decode()).name == "lab-nat":
                self.restart_lab_nat(router, pid, [part.decode() for part in argv])
        self.exec(router, ["python3", "-c", FORGET])

    def restart_lab_nat(self, router, pid, argv):
        """A new lab-nat takes the device of the one that runs."""
        pidfd = os.pidfd_open(pid)
        device = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, 0, 0)
        os.close(pidfd)
        if device < 0:
            raise Failed(f"the device of lab-nat cannot be taken over: {os.strerror(ctypes.get_errno())}")
        os.kill(pid, signal.SIGKILL)
        self.number += 1
        log = self.dir / f"{self.number:02}-lab-nat.log"
        try:
            self.programs["lab-nat"] = Program("lab-nat", self.inside(router, argv), log, stdin=device)
        finally:
            os.close(device)

    def another_public_address(self, router):
        """What the router has on the internet changes; nobody behind it is told."""
        self.addresses[router] = self.addresses[router] % 9 + 1
        self.renumber(router, "wan", f"203.0.113.{1 if router == 'ra' else 2}{self.addresses[router]}/24", "203.0.113.254")
        self.exec(router, ["python3", "-c", FORGET])

    def move(self, number):
        """Host a is in another network: another address of its own, another one outside, and no mapping."""
        self.another_public_address("ra")
        self.renumber("a", "eth0", f"10.1.1.{50 + number % 100}/24", "10.1.1.1")

    def renumber(self, host, device, address, gateway):
        lines = f"address flush dev {device} scope global\naddress add {address} dev {device}\nroute replace default via {gateway}\n"
        self.exec(host, ["ip", "-4", "-batch", "-"], given=lines)

    def link(self, up):
        self.exec("a", ["ip", "link", "set", "eth0", "up" if up else "down"])
        if up:
            self.exec("a", ["ip", "route", "replace", "default", "via", "10.1.1.1"])


def sweep():
    """What runs have left that were killed before they could clean up; their labs went with them."""
    for place in Path(tempfile.gettempdir()).glob("punch-recovery-*"):
        pid = place.name.split("-")[2]
        if not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                shutil.rmtree(place)
