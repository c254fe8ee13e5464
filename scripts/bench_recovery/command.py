"""The command line."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from bench_tunnel.command import positive

from . import __doc__ as about
from .faults import FAULTS

NAME = "bench recovery"
PROGRAMS = ("punchd", "punchctl", "punch-signal", "punch-stun", "lab-nat")


def arguments():
    description, epilog = about.split("\n\n", 1)
    names = [fault.name for fault in FAULTS]
    epilog += "\nFaults:\n" + "\n".join(f"  {fault.name:<18}{fault.title}" for fault in FAULTS)
    parser = argparse.ArgumentParser(prog=f"scripts/{NAME}", description=description, epilog=epilog,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=20, metavar="N", help="of each fault; default 20")
    parser.add_argument("--fault", action="append", choices=names, metavar="NAME", help="only this one; may be given several times")
    parser.add_argument("--json", metavar="FILE", help="write every single value there")
    parser.add_argument("--logs", metavar="DIR", help="keep what the programs have logged there, by fault")
    parser.add_argument("--punch-at", dest="bin", metavar="DIR", type=lambda text: Path(text).resolve(),
                        default=Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve() / "release",
                        help="take the programs from there and build none")
    parser.add_argument("--self-test", action="store_true", help="test the script's own arithmetic; needs no root")
    options = parser.parse_args()
    if options.json and not os.access(Path(options.json).resolve().parent, os.W_OK):
        parser.error(f"'{options.json}' cannot be written: make its directory first")
    return options


def need(options):
    if os.geteuid():
        sys.exit(f"{NAME}: needs root to make network namespaces: sudo scripts/{NAME}")
    if lacking := [tool for tool in ("ip", "nft", "setpriv") if not shutil.which(tool)]:
        sys.exit(f"{NAME}: {', '.join(lacking)} not found: sudo scripts/install-tools installs what is missing")
    if lacking := [program for program in PROGRAMS if not os.access(options.bin / program, os.X_OK)]:
        sys.exit(f"{NAME}: there is no {options.bin / lacking[0]}: build it with cargo build --release --bins, or name a place by --punch-at")
