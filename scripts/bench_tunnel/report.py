"""Tables and ratios, as text."""

import statistics

from .figures import on_off, paired_ratios, spread


def table(head, lines):
    """Left-aligned names, right-aligned figures."""
    widths = [max(len(line[column]) for line in (*head, *lines)) for column in range(len(head[0]))]
    return "\n".join("  ".join(
        cell.ljust(width) if column < 1 else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths))
    ).rstrip() for line in (*head, *lines))


def summary(rows, figures, names):
    """{name: {key: (median, min, max)}}"""
    return {name: {figure.key: spread([row["values"][figure.key] for row in rows
                                       if row["contender"] == name and row["values"].get(figure.key) is not None])
                   for figure in figures} for name in names}


def print_report(rows, figures, versions, baseline, title):
    names = list(versions)
    found = summary(rows, figures, names)
    shown = [figure for figure in figures if any(found[name][figure.key] for name in names)]
    if not shown:
        print(f"\n{title}: nothing was measured")
        return
    head = [["", "version", *(figure.title for figure in shown)], ["", "", *(figure.unit for figure in shown)]]
    if not any(versions.values()):
        head = [[line[0], *line[2:]] for line in head]

    def lines(cell):
        for name in names:
            version = [versions[name]] if any(versions.values()) else []
            yield [name, *version, *(cell(figure, found[name][figure.key]) for figure in shown)]

    rounds = len({row["turn"] for row in rows})
    print(f"\n{title}; medians of {rounds} round{'s' * (rounds > 1)}\n")
    print(table(head, list(lines(lambda figure, value: figure.text(value and value[0])))))
    if rounds > 1:
        print("\nsmallest to largest\n")
        print(table(head, list(lines(lambda figure, value: value and f"{figure.text(value[1])}–{figure.text(value[2])}" or "-"))))
    others = [name for name in names if name != baseline]
    if baseline in names and others:
        print(f"\n{baseline} : other, medians of the rounds' ratios (better for {baseline}: above 1 with +, below 1 with −)\n")
        head = [["", *(f"{figure.title} {'+' if figure.more_is_better else '−'}" for figure in shown)]]
        ratios = [[name, *(ratio_text(paired_ratios(rows, figure.key, baseline, name)) for figure in shown)] for name in others]
        print(table(head, ratios))
    failures = [(row["contender"], row["turn"], key, reason) for row in rows for key, reason in row["failures"].items()]
    if failures:
        print("\nfailed")
        for name, turn, key, reason in failures:
            print(f"  {name}, round {turn}, {key}: {reason}")


def ratio_text(ratios):
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def all_ratios(rows, figures, names):
    """For the JSON: every pair of contenders."""
    return [{"offloads": on_off(offloads), "figure": figure.key, "one": one, "other": other, "median": statistics.median(ratios), "rounds": ratios}
            for offloads in (True, False) for figure in figures for one in names for other in names
            if one != other and (ratios := paired_ratios([row for row in rows if row["offloads"] == offloads], figure.key, one, other))]
