"""Measurements through one tunnel."""

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import time
from pathlib import Path

from .figures import FIGURES, LARGE, SMALL, highest_rate, percentile
from .processes import cpu_seconds, Failed, family, machine_shares, machine_ticks, memory_mib, one_line, wait_until
from .stage import PORT


def congestion_controls():
    """Those that the kernel has now."""
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


def has_congestion_control(name):
    """Asks the kernel, because it loads those that are modules only when somebody wants them."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, os.fsencode(name))
        return True
    return False


def iperf_result(text, program, congestion=None):
    try:
        # Warnings may stand before it.
        result = json.loads(text[max(0, text.find("{")):])
    except ValueError:
        raise Failed(f"{program}: {one_line(text) or 'no output'}") from None
    if "error" in result:
        raise Failed(f"iperf3: {result['error']}")
    # With -R the sender is the server, which only warns where it cannot do what the client has asked of it.
    if congestion and (used := result["end"].get("sender_tcp_congestion")) != congestion:
        raise Failed(f"iperf3 sent with the congestion control {used or '(unknown)'} instead of {congestion}")
    return result


def iperf(link, arguments, seconds, meanwhile=None, patience=15):
    """One run of iperf3 from a to b; its JSON. meanwhile() is called as soon as it has begun."""
    stage = link.stage
    congestion = None if "-u" in arguments else stage.options.congestion
    arguments = [*arguments, *(["-C", congestion] if congestion else [])]
    link.must_run()
    server = stage.start(stage.b, "iperf3-server", ["iperf3", "-s", "-1", "-B", link.bind, "-p", PORT])
    client = None
    try:
        wait_until("iperf3 -s", lambda: stage.listening(stage.b, PORT), needs=[server])
        client = stage.start(stage.a, "iperf3", ["iperf3", "-J", "-c", link.target, "-p", PORT, "--connect-timeout", "5000", *arguments])
        if meanwhile:
            meanwhile()
        try:
            client.popen.wait(seconds + patience)
        except subprocess.TimeoutExpired:
            link.must_run()
            raise Failed(f"iperf3 {' '.join(arguments)}: no end within {seconds + patience} s") from None
        return iperf_result(client.text(), "iperf3", congestion)
    finally:
        stage.stop(server, *([client] if client else []))


def payload(result):
    """Every byte of the run, those of the omitted first second too, because the CPU time includes them."""
    return sum(interval["sum"]["bytes"] for interval in result["intervals"])


def mbits(result):
    return result["end"]["sum_received"]["bits_per_second"] / 1e6


def streams_figures(results):
    """Of streams that ran at the same time, from iperf3's JSON of each."""
    rates, ends = [mbits(result) for result in results], [result["end"] for result in results]
    return {"total": sum(rates), "slowest": min(rates), "fastest": max(rates),
            "retransmits": sum(end["sum_sent"]["retransmits"] for end in ends),
            "round_trip": statistics.median(end["streams"][0]["sender"]["mean_rtt"] for end in ends) / 1e3}


def tcp_arguments(seconds, *more):
    return ["-t", str(seconds), "-O", "1", *more]


def one_stream(link, seconds, reverse):
    """Throughput, CPU of both sides for each GB, and how idle the machine was beside it."""
    pids = {"a": family(link.sender.pid), "b": family(link.receiver.pid)}
    before, ticks = {side: cpu_seconds(pids[side]) for side in pids}, machine_ticks()
    result = iperf(link, tcp_arguments(seconds, *(["-R"] if reverse else [])), seconds + 1)
    ticks = machine_shares(ticks, machine_ticks())
    gigabytes = payload(result) / 1e9
    if not gigabytes:
        raise Failed("no byte came through")
    cost = {side: (cpu_seconds(pids[side]) - before[side]) / gigabytes for side in pids}
    if reverse:
        return {"tcp_ba": mbits(result), "cpu_send_ba": cost["b"], "cpu_recv_ba": cost["a"]}
    return {"tcp_ab": mbits(result), "cpu_send": cost["a"], "cpu_recv": cost["b"], **ticks}


def four_streams(link, seconds):
    return {"tcp_4": mbits(iperf(link, tcp_arguments(seconds, "-P", "4"), seconds + 1))}


def ping(link, count):
    """The round trips in ms."""
    text = link.stage.run(link.stage.a, ["ping", "-n", "-i", "0.01", "-c", count, "-w", count // 100 * 2 + 3, link.target],
                          timeout=count // 50 + 20, check=False)
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", text)]
    if not times:
        raise Failed("no ping was answered")
    return times


def ping_idle(link):
    return {"ping_idle": percentile(ping(link, 500), 50) * 1000}


def largest(link, key):
    return max(memory_mib(program.pid, key) for program in (link.sender, link.receiver))


def under_load(link, seconds):
    """Pings and memory while four streams run."""
    values = {"rss_idle": largest(link, "VmRSS")}

    def meanwhile():
        time.sleep(1.5)
        times = ping(link, seconds * 100)
        values.update(ping_load_p50=percentile(times, 50), ping_load_p99=percentile(times, 99), ping_load_answered=len(times),
                      rss_load=largest(link, "VmRSS"), rss_peak=largest(link, "VmHWM"))

    # Longer than the pings take, which come later when the queues are full.
    length = seconds + 4
    iperf(link, tcp_arguments(length, "-P", "4"), length + 1, meanwhile, patience=seconds + 20)
    return values


def udp_probe(link, length, rate, buffers):
    """(bits received a second, lost share) with so many bits a second offered; 0 is no limit."""
    asked = ["-u", "-b", str(int(rate)), "-l", str(length), "-t", "2", "-w", str(buffers), "--pacing-timer", "250"]
    try:
        result = iperf(link, asked, 2)
    except Failed:
        # Its control connection goes through the same queues and may not live through a flood.
        result = iperf(link, asked, 2)
    sent = sum(interval["sum"]["packets"] for interval in result["intervals"])
    # Old versions have one sum for both ends.
    arrived = result["end"].get("sum_received", result["end"]["sum"])
    received = arrived["packets"] - arrived["lost_packets"]
    if not sent or not received:
        raise Failed(f"no datagram of {length} bytes came through")
    return received * length * 8 / arrived["seconds"], 1 - received / sent


def udp(link, length, key, scale):
    limits = [int(Path(f"/proc/sys/net/core/{name}").read_text()) for name in ("rmem_max", "wmem_max")]
    rate = highest_rate(lambda rate: udp_probe(link, length, rate, min(4 << 20, *limits)))
    return {key: rate / scale}


def measure(link, groups, seconds, row, show):
    """Fills row["values"], and row["failures"] for what could not be measured."""
    steps = []
    if "ping" in groups:
        steps.append((["ping_idle"], lambda: ping_idle(link)))
    if "load" in groups:
        row["values"]["rss_idle"] = largest(link, "VmRSS")
    if "tcp" in groups:
        steps.append((["tcp_ab", "cpu_send", "cpu_recv"], lambda: one_stream(link, seconds, False)))
        steps.append((["tcp_ba"], lambda: one_stream(link, seconds, True)))
    if "streams" in groups:
        steps.append((["tcp_4"], lambda: four_streams(link, seconds)))
    if "load" in groups:
        steps.append((["ping_load_p50", "ping_load_p99", "rss_load", "rss_peak"],
                      lambda: {**under_load(link, seconds), "rss_idle": row["values"]["rss_idle"]}))
    if "udp" in groups:
        steps.append((["udp_large"], lambda: udp(link, LARGE, "udp_large", 1e6)))
        steps.append((["udp_small"], lambda: udp(link, SMALL, "udp_small", SMALL * 8 * 1e3)))
    for keys, step in steps:
        try:
            values = step()
        except Failed as error:
            row["failures"].update({key: str(error) for key in keys})
            show(f"{', '.join(keys)} failed: {error}")
            continue
        row["values"].update(values)
        known = {figure.key: figure for figure in FIGURES}
        show(", ".join(f"{known[key].title} {known[key].text(values[key])} {known[key].unit}" for key in keys))
