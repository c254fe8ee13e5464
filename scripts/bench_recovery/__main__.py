"""Runs what the command line asks for, and reports it."""

import json
import os
import signal
import sys
from pathlib import Path

from bench_tunnel.__main__ import machine
from bench_tunnel.processes import Failed, say

from .command import NAME, arguments, need
from .faults import FAULTS, failed, one_run
from .report import print_report, summary
from .self_test import self_test
from .stage import Stage, sweep


def new_stage(options, fault):
    stage = Stage(options, fault.kinds)
    if fault.path == "relayed":
        stage.part()
    stage.begin()
    return stage


def runs_of(options, fault):
    """All runs of a fault, in one lab for as long as they come to rest."""
    stage = None
    for number in range(1, options.runs + 1):
        try:
            stage = stage or new_stage(options, fault)
            result = one_run(stage, fault, number)
        except Failed as error:
            result = failed(number, error)
        say(f"{fault.name} {number}/{options.runs}: " + (result.get("failure") or f"silence {result['silence_s']} s, lost {result['lost']}"
            + ("" if result["tcp_lives"] else ", the TCP connection has ended") + ("" if result["back"] else ", NOT BACK")))
        yield result
        if stage and (not result["back"] or number == options.runs):
            if options.logs:
                stage.keep_logs(Path(options.logs) / f"{fault.name}-{number}")
            stage.close()
            stage = None


def main():
    options = arguments()
    if options.self_test:
        return self_test()
    need(options)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    facts = machine()
    if facts["load_begin"][0] > 0.5 * facts["cores"]:
        say(f"{NAME}: WARNING: others use this machine now (load average {facts['load_begin'][0]:.2f}); the figures will be worse than it could do")
    results = []
    try:
        sweep()
        for fault in FAULTS:
            if not options.fault or fault.name in options.fault:
                each = list(runs_of(options, fault))
                results.append({**summary(fault, each), "target_p50_s": fault.p50, "target_p95_s": fault.p95, "target_lost": fault.lost, "each": each})
    finally:
        for stage in list(Stage.alive):
            stage.close()
    facts["load_end"] = os.getloadavg()
    print_report(results, f"{options.runs} run{'s' * (options.runs > 1)} each; {facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}")
    print(f"\nLoad average {facts['load_begin'][0]:.2f} at the beginning, {facts['load_end'][0]:.2f} at the end.")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": facts, "faults": results}, indent=1, ensure_ascii=False) + "\n")
    return int(any(not run["back"] for result in results for run in result["each"]))


if __name__ == "__main__":
    sys.exit(main())
