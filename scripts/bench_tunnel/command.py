"""The command line."""

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from . import __doc__ as about
from .contenders import Punch, contenders
from .figures import GROUPS
from .measure import congestion_controls, has_congestion_control
from .processes import NAME


def positive(text):
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"'{text}': give a whole number, 1 or more")
    return int(text)


def several(text):
    return [positive(part) for part in text.split(",")]


def one_of(known):
    def check(text):
        chosen = text.split(",")
        if strange := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(strange)}; there are {', '.join(known)}")
        return chosen
    return check


def arguments():
    description, epilog = about.split("\n\n", 1)
    parser = argparse.ArgumentParser(prog=f"scripts/{NAME}", description=description, epilog=epilog,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [fighter.name for fighter in contenders()]
    parser.add_argument("--only", type=one_of(names), default=names, metavar="NAMES", help=f"of {','.join(names)}; default all")
    parser.add_argument("--punch-at", action="append", default=[], metavar="NAME=DIR",
                        help="one more contender: another build of punch, from DIR; its name must begin with `punch-`")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="default 3")
    parser.add_argument("--seconds", type=positive, default=8, metavar="N", help="of each TCP run and of the pings under load; default 8")
    parser.add_argument("--offloads", choices=["on", "off", "both"], default="both",
                        help="of the veth pair; with off only one TCP stream is measured; default both")
    parser.add_argument("--figures", type=one_of(list(GROUPS)), default=list(GROUPS), metavar="GROUPS",
                        help=f"of {','.join(GROUPS)}; default all")
    parser.add_argument("--ipv6", action="store_true", help="IPv6 under the tunnels, IPv4 inside as always")
    parser.add_argument("--congestion", default="cubic", metavar="NAME",
                        help="the TCP congestion control of iperf3's senders, whatever the kernel's default is; default cubic")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--peers", type=several, metavar="N,N,…",
                      help="punch alone: one peer against N, up to 250, that send to one hub; all are up while fewer send")
    mode.add_argument("--profile", action="store_true", help="punch alone: where both ends spend their time, by perf")
    mode.add_argument("--configured", type=several, metavar="N,N,…",
                      help="punch alone: with N peers and forwards configured, up to 9,999")
    parser.add_argument("--json", metavar="FILE", help="write every single value there")
    parser.add_argument("--svg", metavar="FILE", help="draw a chart there")
    parser.add_argument("--self-test", action="store_true", help="test the script's own arithmetic; needs no root")
    options = parser.parse_args()
    options.offloads = {"on": [True], "off": [False], "both": [True, False]}[options.offloads]
    if options.peers:
        options.peers = sorted({1, *options.peers})
        if options.peers[-1] > 250:
            parser.error("--peers: there are addresses for 250")
    for entry in options.punch_at:
        if not re.fullmatch(r"punch-[\w.-]+=.+", entry):
            parser.error(f"--punch-at '{entry}': give punch-NAME=DIR")
    for path in (options.json, options.svg):
        if path and not os.access(Path(path).resolve().parent, os.W_OK):
            parser.error(f"'{path}' cannot be written: make its directory first")
    return options


def need(options):
    if os.geteuid():
        sys.exit(f"{NAME}: needs root to make network namespaces: sudo scripts/bench tunnel")
    tools = ["ip", "ss", "iperf3", "ping", "setpriv", *(["ethtool"] if not all(options.offloads) else [])]
    if lacking := [tool for tool in tools if not shutil.which(tool)]:
        sys.exit(f"{NAME}: {', '.join(lacking)} not found: sudo scripts/install-tools installs what is missing")
    if options.profile and not shutil.which("perf"):
        sys.exit(f"{NAME}: perf not found: apt-get install linux-perf")
    if not has_congestion_control(options.congestion):
        sys.exit(f"{NAME}: --congestion '{options.congestion}': this kernel does not have it; there are {', '.join(congestion_controls())}")
    if lacking := Punch().missing():
        if options.profile or options.peers or options.configured or "punch" in options.only:
            sys.exit(f"{NAME}: there is no {lacking[0]}: build it with sudo scripts/bench tunnel, or cargo build --release --bins")


def chosen(options):
    """The contenders that are asked for and there."""
    fighters = [fighter for fighter in contenders() if fighter.name in options.only]
    for entry in options.punch_at:
        name, _, place = entry.partition("=")
        fighters.append(Punch(name, Path(place).resolve()))
    present = []
    for fighter in fighters:
        if lacking := fighter.missing():
            print(f"SKIPPED {fighter.name}: {', '.join(lacking)} not found; scripts/README.md tells how to install it", flush=True)
        else:
            present.append(fighter)
    if not present:
        sys.exit(f"{NAME}: none of the contenders is installed")
    return present
