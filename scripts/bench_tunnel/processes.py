"""Programs, how they are run and stopped, and what they cost."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

NAME = "bench tunnel"


class Failed(Exception):
    """Something could not be measured; the text says why, for people."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(argv, timeout=30, given=None, check=True):
    """Runs a command to its end; its standard output."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, input=given)
    except subprocess.TimeoutExpired:
        raise Failed(f"{shlex.join(argv)}: no end within {timeout} s") from None
    if check and done.returncode:
        raise Failed(f"{shlex.join(argv)}: {one_line(done.stderr or done.stdout) or f'exit status {done.returncode}'}")
    return done.stdout


def one_line(text, length=300):
    text = " ".join(text.split())
    return text if len(text) <= length else "…" + text[-length:]


def wait_until(what, condition, seconds=15, needs=()):
    """Polls; fails at once when one of the programs that it needs has ended."""
    end = time.monotonic() + seconds
    while not condition():
        for program in needs:
            program.must_run()
        if time.monotonic() > end:
            logs = "".join(f"; {program.name}: {program.tail()}" for program in needs)
            raise Failed(f"{what} did not come within {seconds} s{logs}")
        time.sleep(0.02)


class Program:
    """A process that stays, with its log."""

    def __init__(self, name, argv, log, env=None, stdin=subprocess.DEVNULL):
        self.name, self.log = name, log
        # Its own session: Ctrl-C is for the script, which ends its programs in order. Should the script be killed, they go too.
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *argv],
                stdin=stdin, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, start_new_session=True,
            )
        self.pid = self.popen.pid

    def text(self):
        return self.log.read_text(errors="replace")

    def tail(self):
        return one_line(self.text()) or "(its log is empty)"

    def must_run(self):
        if self.popen.poll() is not None:
            raise Failed(f"{self.name} ended with status {self.popen.returncode}: {self.tail()}")

    def stop(self, seconds=3):
        stop_all([self], seconds)


def stop_all(programs, seconds=3):
    for program in programs:
        if program.popen.poll() is None:
            program.popen.terminate()
    end = time.monotonic() + seconds
    for program in programs:
        try:
            program.popen.wait(max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            program.popen.kill()
            program.popen.wait()


def stat_fields(pid):
    # The name in parentheses may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def family(pid):
    """The process and all that descend from it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry)] = int(stat_fields(entry)[1])
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = stat_fields(pid)
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def memory_mib(pid, key):
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) / 1024 if found else None


def machine_ticks():
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def machine_shares(before, after):
    """Of all cores' time: idle, and taken away by the host below (steal)."""
    spent = [b - a for a, b in zip(before, after)]
    total = sum(spent) or 1
    return {"idle_percent": 100 * (spent[3] + spent[4]) / total, "steal_percent": 100 * spent[7] / total}
