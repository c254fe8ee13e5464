"""Where the time goes, by perf."""

import re
import time

from .contenders import Punch
from .figures import LARGE
from .measure import iperf, mbits, tcp_arguments
from .processes import run
from .stage import Stage

PARTS = ("cipher", "kernel", "own code", "libraries")


def part_of(space, symbol):
    """Whose a symbol of perf's is: what punchd's crates define, or a library's code made for them, is our own."""
    if space == "k":
        return "kernel"
    if re.search(r"chacha20|poly1305|ring::aead", symbol):
        return "cipher"
    return "own code" if "punch" in symbol else "libraries"


def read_profile(text):
    """Percent of each part, and of each symbol, from `perf report --sort sym`."""
    found = re.findall(r"^\s*([\d.]+)%\s+\[(.)\]\s+(.+?)\s*$", text, re.M)
    symbols = [(float(share), part_of(space, symbol), symbol) for share, space, symbol in found]
    return {part: sum(share for share, of, _ in symbols if of == part) for part in PARTS}, symbols


def profile(options):
    """perf on both ends of one TCP stream and of UDP in full packets; prints Markdown."""
    fighter, loads = Punch(), {
        "TCP, one stream": tcp_arguments(options.seconds),
        f"UDP of {LARGE} bytes at 1 Gbit/s": ["-u", "-b", "1G", "-l", LARGE, "-t", options.seconds],
    }
    with Stage(options) as stage:
        stage.pair(True)
        link = fighter.connect(stage)
        for load, arguments in loads.items():
            files = {"sender": (link.sender.pid, stage.dir / "sender"), "receiver": (link.receiver.pid, stage.dir / "receiver")}
            records = []

            def meanwhile():
                time.sleep(1)
                for pid, file in files.values():
                    argv = ["perf", "record", "-q", "-F", "1999", "-p", pid, "-o", file, "--", "sleep", options.seconds - 1]
                    records.append(stage.start(stage.a, "perf", argv))

            result = iperf(link, arguments, options.seconds + 1, meanwhile, patience=30)
            for record in records:
                record.popen.wait(30)
            ends = {end: read_profile(run(["perf", "report", "-i", file, "--stdio", "--no-children", "--sort", "sym"], timeout=120))
                    for end, (_, file) in files.items()}
            print(f"\n## {load} ({mbits(result):,.0f} Mbit/s while perf was looking)\n")
            print("| share of the cycles of | " + " | ".join(ends) + " |\n|---|" + "--:|" * len(ends))
            for part in PARTS:
                print(f"| {part} | " + " | ".join(f"{parts[part]:.1f} %" for parts, _ in ends.values()) + " |")
            for end, (_, symbols) in ends.items():
                print(f"\n{end.capitalize()}, from 1 % on: "
                      + ", ".join(f"`{symbol}` {share:.1f} % ({part})" for share, part, symbol in symbols if share >= 1) + ".")
    return 0
