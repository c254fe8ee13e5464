"""The faults, what is to be reached, and how one is measured."""

import signal
import time
from dataclasses import dataclass
from typing import Callable, Optional

from bench_tunnel.processes import Failed

EASY = ("port-restricted", "port-restricted")

# A run in which traffic is not back by then counts with this time.
LIMIT = 60
# So long is looked at least, and so long everything must have been answered in the end.
LEAST, CALM = 5, 2
# TCP sends again after growing pauses.
TCP_LIMIT = 30


@dataclass(frozen=True)
class Fault:
    """A fault, and what the issue wants of it."""

    name: str
    title: str
    strike: Callable
    # Seconds of silence; without a p95, only the p50 is asked for.
    p50: Optional[float] = None
    p95: Optional[float] = None
    kinds: tuple = EASY
    # The path before: direct, or relayed where the two routers do not reach each other.
    path: str = "direct"
    # The path that must serve in the end, if it matters.
    after: Optional[str] = None
    # Whether packets are counted instead: so many may be lost.
    lost: Optional[int] = None
    limit: float = LIMIT
    # Seconds of rest before it: clients of a server that comes and goes pause longer and longer until a connection has held for 30 s.
    rest: float = 0


def nat_forgets(stage, number):
    stage.forget("ra")


def address_changes(stage, number):
    stage.another_public_address("ra")


def host_moves(stage, number):
    stage.move(number)


def ten_seconds_without(stage, number):
    stage.link(False)
    time.sleep(10)
    stage.link(True)
    return time.monotonic()


def direct_path_is_cut(stage, number):
    stage.part()


def direct_path_comes(stage, number):
    stage.heal()


def signal_restarts(stage, number):
    stage.end("signal", signal.SIGKILL)
    stage.start_signal()


def punchd_restarts(how):
    """Host a and host b in turns."""
    def strike(stage, number):
        host = "ab"[number % 2]
        stage.end(f"punchd-{host}", how)
        stage.start_punchd(host)
    return strike


FAULTS = [
    Fault("nat-fixed", "a NAT forgets all mappings, fixed ports", nat_forgets, 0.4),
    Fault("nat-random", "a NAT forgets all mappings, random ports", nat_forgets, 2, kinds=("port-restricted-random", "port-restricted")),
    Fault("address", "the router gets another public address, silently", address_changes, 2, 3),
    Fault("move", "a host moves to another network", host_moves, 0.5, 1.5),
    Fault("offline", "10 s without network, counted after it", ten_seconds_without, 1),
    Fault("cut", "direct path cut, relay reachable", direct_path_is_cut, 3, 7, after="relayed"),
    Fault("promotion", "relay to direct: packets lost", direct_path_comes, path="relayed", after="direct", lost=0, limit=150),
    Fault("signal-direct", "punch-signal killed and restarted, direct", signal_restarts, 0.1, rest=31),
    Fault("signal-relayed", "punch-signal killed and restarted, relayed", signal_restarts, 2, path="relayed", after="relayed", rest=31),
    Fault("punchd-restarted", "punchd restarted (SIGTERM), either end in turns", punchd_restarts(signal.SIGTERM), 0.5),
    Fault("punchd-killed", "punchd killed (SIGKILL) and started, either end in turns", punchd_restarts(signal.SIGKILL), 0.5),
]


def rest(stage, fault):
    """Everything is as it is to be before the fault."""
    if fault.path == "direct":
        stage.heal()
    elif stage.paths() != {"relayed"}:
        stage.heal()
        stage.part()
    stage.wait_for("rest before the fault", lambda: stage.is_at_rest(fault.path), 150)
    time.sleep(max(0, stage.struck + fault.rest - time.monotonic()))
    stage.wait_for("rest before the fault", lambda: stage.is_at_rest(fault.path), 150)
    stage.record.trim(time.monotonic() - 5)


def measure(stage, fault, number):
    """One run: its figures."""
    rest(stage, fault)
    ended = stage.record.ended
    struck = stage.struck = time.monotonic()
    counted = fault.strike(stage, number)
    end = (counted or struck) + fault.limit

    def is_over():
        now = time.monotonic()
        calm = stage.look().is_steady(now - CALM, now) and now - (counted or struck) > LEAST
        return calm and (fault.after is None or stage.paths() == {fault.after})

    back = True
    while not is_over():
        if time.monotonic() > end:
            back = False
            break
        time.sleep(0.05)
    until = time.monotonic()
    # What is still on its way.
    time.sleep(0.5)
    record = stage.look()
    lost, sent = record.lost(struck, until - 0.2)
    lives = back and tcp_lives(stage, ended)
    return {"run": number, "back": back, "silence_s": round(record.silence(struck, until, counted), 3), "lost": lost, "sent": sent,
            "tcp_lives": lives, "took_s": round(until - struck, 1)}


def tcp_lives(stage, ended):
    """Whether the connection that was there before the fault goes on."""
    since, end = time.monotonic(), time.monotonic() + TCP_LIMIT
    while time.monotonic() < end:
        record = stage.look()
        if record.ended > ended:
            return False
        if record.talked and record.talked[-1] > since:
            return True
        time.sleep(0.1)
    return False


def failed(number, error):
    return {"run": number, "back": False, "silence_s": None, "lost": None, "sent": None, "tcp_lives": None, "took_s": None, "failure": str(error)}


def one_run(stage, fault, number):
    try:
        return measure(stage, fault, number)
    except Failed as error:
        return failed(number, error)
