"""Network namespaces, with what runs in them."""

import contextlib
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from .processes import Failed, Program, run, stop_all

PREFIX = "punch-bench-"

PORT = 5201


class Stage:
    """Namespaces, programs and files of one turn; leaving it removes them all."""

    alive = []

    def __init__(self, options):
        self.options, self.programs, self.namespaces, self.files = options, [], [], []
        self.dir = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.dir.chmod(0o755)
        self.number = 0
        Stage.alive.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with undisturbed():
            stop_all(self.programs[::-1])
            for namespace in self.namespaces:
                # What a program has left behind, in a namespace that is this script's own.
                for pid in run(["ip", "netns", "pids", namespace], check=False).split():
                    with contextlib.suppress(OSError):
                        os.kill(int(pid), signal.SIGKILL)
                run(["ip", "netns", "del", namespace], check=False)
            for file in self.files:
                file.unlink(missing_ok=True)
            shutil.rmtree(self.dir, ignore_errors=True)
            self.programs, self.namespaces, self.files = [], [], []
            if self in Stage.alive:
                Stage.alive.remove(self)

    def namespace(self, short):
        name = f"{PREFIX}{os.getpid()}-{short}"
        self.namespaces.append(name)
        run(["ip", "netns", "add", name])
        run(["ip", "-n", name, "link", "set", "lo", "up"])
        return name

    def address(self, number):
        return f"2001:db8::{number:x}" if self.options.ipv6 else f"192.0.2.{number}"

    def equip(self, namespace, device, number):
        where = f"{self.address(number)}/{64 if self.options.ipv6 else 24}"
        run(["ip", "-n", namespace, "address", "add", where, "dev", device, *(["nodad"] if self.options.ipv6 else [])])
        run(["ip", "-n", namespace, "link", "set", device, "mtu", "1500", "up"])

    def pair(self, offloads):
        """Two namespaces, joined by a veth pair."""
        self.a, self.b = self.namespace("a"), self.namespace("b")
        run(["ip", "-n", self.a, "link", "add", "under", "type", "veth", "peer", "name", "under", "netns", self.b])
        for number, namespace in enumerate((self.a, self.b), 1):
            self.equip(namespace, "under", number)
            if not offloads:
                offloads_off(namespace, "under")

    def in_namespace(self, namespace, argv):
        return ["ip", "netns", "exec", namespace, *map(str, argv)]

    def run(self, namespace, argv, **more):
        return run(self.in_namespace(namespace, argv), **more)

    def start(self, namespace, name, argv, **more):
        self.number += 1
        program = Program(name, self.in_namespace(namespace, argv), self.dir / f"{self.number}-{name}.log", **more)
        self.programs.append(program)
        return program

    def stop(self, *programs):
        stop_all(programs)
        self.programs = [program for program in self.programs if program not in programs]

    def listening(self, namespace, port, kind="-t"):
        return bool(self.run(namespace, ["ss", "-Hln", kind, f"sport = :{port}"]).strip())


def offloads_off(namespace, device):
    """Whatever the device lets be turned off."""
    inside = ["ip", "netns", "exec", namespace]

    def still_on():
        # Indented lines are parts of the feature above; "requested on" are off for want of another one.
        lines = run([*inside, "ethtool", "-k", device]).splitlines()[1:]
        return [line.split(":")[0].strip() for line in lines if re.search(r": on\s*$", line)]

    for feature in still_on():
        if not re.search("vlan|highdma", feature):
            run([*inside, "ethtool", "-K", device, feature, "off"], check=False)
    left = [feature for feature in still_on() if re.search("segmentation|receive-offload|checksum", feature)]
    if left:
        raise Failed(f"ethtool could not turn off {', '.join(left)}")


@contextlib.contextmanager
def undisturbed():
    """Ctrl-C waits until what is inside is done."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def sweep():
    """What runs have left that were killed before they could clean up."""
    def is_left(name):
        found = re.match(rf"{PREFIX}(\d+)-", name)
        return found and not Path(f"/proc/{found[1]}").exists()

    for line in run(["ip", "netns", "list"]).splitlines():
        if is_left(line):
            run(["ip", "netns", "del", line.split()[0]], check=False)
    for place in Path(tempfile.gettempdir()).iterdir():
        if is_left(place.name):
            shutil.rmtree(place, ignore_errors=True)
