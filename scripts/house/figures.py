"""What scripts/figures prints: the figures of the source, tests aside."""

import json
import re
import statistics
import sys

from . import budgets, crates
from .imports import cycles
from .layers import ROOT

LARGEST = 6
CLOCKS = r"\b(Instant|SystemTime)::now\b|\.elapsed\("
RANDOM = r"\b(OsRng|SysRng|ThreadRng|thread_rng|getrandom|from_entropy|from_os_rng|rand::(rng|random))\b"


def count(files, pattern):
    return sum(len(re.findall(pattern, code)) for file in files for _, code in file.code())


def nearest(values, percent):
    """The smallest value that at least so many percent do not exceed."""
    return values[max(0, -(-len(values) * percent // 100) - 1)]


def is_program(file):
    """Whether a file belongs to a program beside a library, and reads the clock for it."""
    return "/src/bin/" in file.shown


def collect(found, lock):
    """{key: value}, in the order of the table."""
    files = [file for crate in found for file in crate.files]
    inside = [file for crate in found if crate.pure for file in crate.files if not is_program(file)]
    lines = sorted(file.lines for file in files)
    functions = sorted((function for crate in found for function in budgets.functions(crate)), key=lambda function: -function.lines)
    structs = sorted(((fields, name) for crate in found for _, name, _, fields in budgets.structs(crate)), reverse=True)
    public = [docs for crate in found for _, _, _, docs in budgets.public_items(crate)]
    documented = [docs for docs in public if budgets.words(docs)]
    comments = [file.comments() for file in files]
    circles = [group for crate in found for _, _, group, _ in cycles(crate)]
    return {
        "files": len(files),
        "lines": sum(lines),
        "file_median": round(statistics.median(lines)),
        "file_p90": nearest(lines, 90),
        "file_largest": lines[-1],
        "files_over": sum(count > budgets.FILE_LINES for count in lines),
        "functions": len(functions),
        "functions_over": [f"{function.path}::{function.name} {function.lines}" for function in functions
                           if function.lines > budgets.FUNCTION_LINES],
        "function_longest": functions[0].lines if functions else 0,
        "structs_largest": [f"{name} {fields}" for fields, name in structs[:LARGEST]],
        "structs_over": [f"{name} {fields}" for fields, name in structs if fields > budgets.STRUCT_FIELDS],
        "spread": [f"{path}::{name} {len(files)}" for crate in found for (path, name), files in budgets.homes(crate).items() if len(files) > 1],
        "cycles": [", ".join(group) for group in circles],
        "public_items": len(public),
        "documented_percent": round(100 * len(documented) / max(1, len(public)), 1),
        "short_docs_percent": round(100 * sum(len(budgets.words(docs)) < 3 for docs in documented) / max(1, len(documented)), 1),
        "comment_percent": round(100 * sum(all_lines for all_lines, _ in comments) / max(1, sum(lines)), 1),
        "plain_comment_percent": round(100 * sum(plain for _, plain in comments) / max(1, sum(lines)), 1),
        "unsafe": count(files, r"\bunsafe (\{|impl|fn|trait)"),
        "unwrap_expect": count(files, r"\.(unwrap|expect)\("),
        "pure_crates": sum(crate.pure for crate in found),
        "clock_in_pure": count(inside, CLOCKS),
        "random_in_pure": count(inside, RANDOM),
        "locked_crates": lock.count("[[package]]"),
    }


def table(values):
    """The table, as (name, text) rows."""
    def listed(entries):
        return f"{len(entries)}" + (f" ({'; '.join(entries)})" if entries else "")

    yield "files / lines (not tests)", f"{values['files']} / {values['lines']:,}"
    yield "median / p90 / largest file", f"{values['file_median']} / {values['file_p90']} / {values['file_largest']}"
    yield f"files over {budgets.FILE_LINES} lines", str(values["files_over"])
    over = listed(values["functions_over"]).split(" ", 1)
    yield f"functions over {budgets.FUNCTION_LINES} lines / all", f"{over[0]} / {values['functions']:,} {' '.join(over[1:])}".rstrip()
    yield "longest function", str(values["function_longest"])
    yield "largest structs, fields", ", ".join(values["structs_largest"])
    yield f"structs over {budgets.STRUCT_FIELDS} fields", listed(values["structs_over"])
    yield "types with methods in several files", listed(values["spread"])
    yield "module cycles inside crates", listed(values["cycles"])
    yield "public items / with documentation", f"{values['public_items']:,} / {values['documented_percent']} %"
    yield "documentation of one or two words", f"{values['short_docs_percent']} %"
    yield "comments, share of lines (plain //)", f"{values['comment_percent']} % ({values['plain_comment_percent']} %)"
    yield "unsafe", str(values["unsafe"])
    yield "unwrap, expect", str(values["unwrap_expect"])
    yield "calls of clock / global random source in pure crates", \
        f"{values['clock_in_pure']} / {values['random_in_pure']} in {values['pure_crates']} crates"
    yield "crates in Cargo.lock", str(values["locked_crates"])


def main():
    if sys.argv[1:] not in ([], ["--json"]):
        sys.exit("usage: scripts/figures [--json]")
    try:
        values = collect(crates.workspace(ROOT), (ROOT / "Cargo.lock").read_text(encoding="utf-8"))
    except crates.Unreadable as error:
        sys.exit(f"figures: {error}")
    if sys.argv[1:]:
        print(json.dumps(values, indent=1, ensure_ascii=False))
        return 0
    rows = list(table(values))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    return 0
