"""The table beside the targets."""

from bench_tunnel.figures import percentile
from bench_tunnel.report import table

from .faults import FAULTS, LIMIT


def summary(fault, runs):
    """The figures of all runs of a fault: what is counted are seconds of silence, or packets that were lost."""
    counted = [run for run in runs if "failure" not in run]
    silences = [run["silence_s"] if run["back"] else max(run["silence_s"], LIMIT) for run in counted]
    lost = [run["lost"] for run in counted]
    at = lambda values, percent: percentile(values, percent) if values else None
    return {"fault": fault.name, "runs": len(runs), "measured": len(counted), "back": sum(run["back"] for run in counted),
            "silence_p50_s": at(silences, 50), "silence_p95_s": at(silences, 95), "lost_p50": at(lost, 50), "lost_max": max(lost, default=None),
            "without_loss": sum(run["lost"] == 0 for run in counted), "tcp_lived": sum(bool(run["tcp_lives"]) for run in counted)}


def seconds(value):
    return "-" if value is None else f"{value:.2f} s"


def ratio(value, target):
    return "" if value is None or not target else f"{value / target:.1f}"


def row(fault, found):
    of = f"{found['tcp_lived']} of {found['measured']}"
    if fault.lost is not None:
        share = f"{found['without_loss']} of {found['measured']} without"
        return [fault.title, share, f"{fault.lost} in each", "", f"at most {found['lost_max']}", "", seconds(found["silence_p50_s"]), of]
    wanted = [seconds(fault.p50), seconds(fault.p95) if fault.p95 else "-"]
    return [fault.title, seconds(found["silence_p50_s"]), wanted[0], ratio(found["silence_p50_s"], fault.p50),
            seconds(found["silence_p95_s"]), wanted[1], ratio(found["silence_p95_s"], fault.p95), of]


def print_report(results, place):
    """Of each fault its summary and its runs."""
    known = {fault.name: fault for fault in FAULTS}
    print(f"\nThe longest silence of 50 packets a second, {place}\n")
    head = [["", "p50", "target", "ratio", "p95", "target", "ratio", "TCP lives on"]]
    silent = [row(known[result["fault"]], result) for result in results if known[result["fault"]].lost is None]
    counted = [row(known[result["fault"]], result) for result in results if known[result["fault"]].lost is not None]
    if silent:
        print(table(head, silent))
    for title, share, target, _, most, _, silence, tcp in counted:
        print(f"\n{title}: {share} (target {target}), {most}; silence p50 {silence}; TCP lives on in {tcp}")
    for result in results:
        missing = [run for run in result["each"] if not run["back"]]
        for run in missing:
            why = run.get("failure") or f"not back within {known[result['fault']].limit:.0f} s"
            print(f"{result['fault']}, run {run['run']}: {why}")
