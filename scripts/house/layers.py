"""What scripts/layers checks."""

import re
import sys
from pathlib import Path

from . import budgets, crates

ROOT = Path(__file__).resolve().parent.parent.parent
# What was over a budget when the budgets came. Lines may only go.
KNOWN = Path(__file__).resolve().parent / "known-offenders"


def imports_of(crate, rooms, pure, impure):
    """What a crate lists and must not."""
    if crate.name not in rooms:
        yield f"{crate.name} is not a room of the house; add it to daemon/DESIGN.md and to scripts/layers"
        return
    for dependency in crate.dependencies:
        if dependency.startswith("punch"):
            if dependency not in rooms[crate.name].split():
                yield f"{crate.name} must not import {dependency}"
        elif crate.name in pure and dependency in impure:
            yield f"{crate.name} is a pure room and must not import {dependency}"
    if (crate.name in pure) != crate.pure:
        yield f"{crate.name} is {'a' if crate.name in pure else 'no'} pure room, and its clippy.toml says otherwise"


def named_elsewhere(files, tests, only):
    """Code that only one place may have, found in another. `tests` are the paths of files that are not shipped."""
    for pattern, within, allowed, tests_are_free, text in only:
        looked_in = list(files)
        if not tests_are_free:
            # Few are read whole.
            looked_in += [crates.File(path, shown) for path, shown in tests if re.search(pattern, path.read_text(encoding="utf-8"))]
        for file in looked_in:
            if file.shown.startswith(within) and not file.shown.startswith(allowed):
                for line, code in file.code(tests=not tests_are_free):
                    if re.search(pattern, code):
                        yield f"{file.shown}:{line}: {text}: {code}"


def known_offenders():
    lines = KNOWN.read_text(encoding="utf-8").splitlines() if KNOWN.exists() else []
    return {line for line in lines if line and not line.startswith("#")}


def complaints(found, tests, rooms, pure, impure, only, long_functions, known):
    """Everything that is wrong with the crates."""
    for crate in found:
        yield from imports_of(crate, rooms, pure, impure)
    yield from named_elsewhere([file for crate in found for file in crate.files], tests, only)
    offences = [offence for crate in found for offence in budgets.offences(crate, long_functions)]
    yield from (offence.text for offence in offences if offence.key not in known)
    for key in sorted(known - {offence.key for offence in offences}):
        yield f"{KNOWN.name}: '{key}' is mended: remove its line"
    all_functions = {f"{function.path} {function.name}" for crate in found for function in budgets.functions(crate)
                     if function.lines > budgets.FUNCTION_LINES}
    for name in sorted(set(long_functions) - all_functions):
        yield f"scripts/layers: '{name}' is no longer a long function: remove its exception"


def main(rooms, pure, impure, only, long_functions):
    if sys.argv[1:] not in ([], ["--self-test"]):
        sys.exit("usage: scripts/layers [--self-test]")
    if sys.argv[1:]:
        from . import self_test

        return self_test.main()
    try:
        found = crates.workspace(ROOT)
    except crates.Unreadable as error:
        sys.exit(f"layers: {error}")
    failed = False
    for complaint in complaints(found, crates.test_files(ROOT, found), rooms, pure, impure, only, long_functions, known_offenders()):
        print(f"layers: {complaint}", file=sys.stderr)
        failed = True
    if not failed:
        print("layers: ok")
    return int(failed)
