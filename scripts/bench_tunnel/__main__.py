"""Runs what the command line asks for, and reports it."""

import datetime
import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from .command import arguments, chosen, need
from .contenders import Punch
from .figures import CONFIGURED_FIGURES, FIGURES, LARGE, LOSS, MTU, PEER_FIGURES, on_off
from .peers import compare_peers
from .picture import draw, panels_of
from .processes import NAME, run, say
from .profile import profile
from .report import all_ratios, print_report
from .rounds import compare, compare_configured
from .self_test import self_test
from .stage import Stage, sweep


@dataclass
class Outcome:
    """All rounds, and how they are told."""

    rows: list
    figures: list
    # Of each contender, in the order of the tables.
    versions: dict
    # What the others are compared with.
    baseline: str
    title: str


def machine():
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {"kernel": os.uname().release, "architecture": os.uname().machine, "cores": len(os.sched_getaffinity(0)),
            "cpu": cpu[1] if cpu else "?", "iperf3": run(["iperf3", "--version"]).split("\n")[0],
            "begun": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), "load_begin": os.getloadavg()}


def place_of(facts, options):
    return f"{facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}, TCP with {options.congestion}"


def under_of(options):
    return "IPv6" if options.ipv6 else "IPv4"


def tell_load(cores):
    load = os.getloadavg()[0]
    say(f"load average {load:.2f} on {cores} cores")
    if load > 0.5 * cores:
        say(f"{NAME}: WARNING: others use this machine now; the figures will be lower and less even than it could do")


def measured(options):
    if options.peers:
        rows, figures, title = compare_peers(options), PEER_FIGURES, "punch, peers that send to one hub at the same time, one stream each"
    elif options.configured:
        rows, figures = compare_configured(options), CONFIGURED_FIGURES
        title = "punch, so many peers (but one down) and forwards configured at both ends"
    else:
        fighters = chosen(options)
        versions = {fighter.name: fighter.version() for fighter in fighters}
        return Outcome(compare(options, fighters), FIGURES, versions, fighters[0].name, "Tunnels side by side")
    return Outcome(rows, figures, {row["contender"]: "" for row in rows}, rows[-1]["contender"], title)


def report(outcome, options, facts):
    """Tables, and what their words mean."""
    for offloads in (True, False):
        part = [row for row in outcome.rows if row["offloads"] == offloads]
        if part:
            print_report(part, outcome.figures, outcome.versions, outcome.baseline,
                         f"{outcome.title}, {under_of(options)} below, offloads of the link {on_off(offloads)}, {place_of(facts, options)}")
    own = options.peers or options.configured
    print("\nCPU: of the program at that end, with what the kernel does in its name, for 10^9 bytes of payload. RSS: resident memory"
          + ("." if own else " of the larger end."))
    if options.peers:
        print("Dropped: at full queues of the hub, of its TUN and of its UDP sockets. Retransmits: of all streams, after the omitted\n"
              "first seconds. Round trip: the median of the streams' means, which hold those seconds too.")
    elif not own:
        print(f"UDP: the highest rate with less than {LOSS:.0%} lost; {LARGE} B is what fits into an MTU of {MTU}. ssh and dumbpipe carry "
              "the bytes of connections, not packets: less work.")
    print(f"Load average {facts['load_begin'][0]:.2f} at the beginning, {facts['load_end'][0]:.2f} at the end.")


def write_files(outcome, options, facts):
    """The JSON and the chart, where they are asked for."""
    names = list(outcome.versions)
    if options.json:
        Path(options.json).write_text(json.dumps({
            "machine": facts, "versions": outcome.versions, "title": outcome.title, "under": under_of(options),
            "congestion": options.congestion, "seconds": options.seconds,
            "rows": [{**row, "offloads": on_off(row["offloads"])} for row in outcome.rows],
            "ratios": all_ratios(outcome.rows, outcome.figures, names),
        }, indent=1, ensure_ascii=False) + "\n")
    if options.svg:
        rounds = f"{options.rounds} round{'s' * (options.rounds > 1)}"
        subtitle = f"{place_of(facts, options)}; {under_of(options)} below; medians of {rounds}, whiskers from smallest to largest"
        Path(options.svg).write_text(draw(outcome.title, subtitle, panels_of(outcome.rows, outcome.figures, names), names))


def main():
    options = arguments()
    if options.self_test:
        return self_test()
    need(options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    facts = machine()
    tell_load(facts["cores"])
    try:
        sweep()
        if options.profile:
            print(f"{place_of(facts, options)}; {Punch().version()}")
            return profile(options)
        outcome = measured(options)
    finally:
        for stage in list(Stage.alive):
            stage.close()
    facts["load_end"] = os.getloadavg()
    report(outcome, options, facts)
    write_files(outcome, options, facts)
    own = options.peers or options.configured
    return int(any(row["failures"] for row in outcome.rows if own or row["contender"] == "punch"))


if __name__ == "__main__":
    sys.exit(main())
