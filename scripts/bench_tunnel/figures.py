"""What is measured, and the arithmetic of it."""

import statistics

from .processes import Failed

MTU = 1420

# 1420 less the IPv4 and the UDP header, so that no packet is cut in two; a multiple of 8 for no reason but habit.
LARGE, SMALL = 1392, 64

# What a search counts as "no loss".
LOSS = 0.01


class Figure:
    """One column of the tables."""

    def __init__(self, key, title, unit, digits=0, more_is_better=False):
        self.key, self.title, self.unit, self.digits, self.more_is_better = key, title, unit, digits, more_is_better

    def text(self, value):
        return "-" if value is None else f"{value:,.{self.digits}f}"


FIGURES = [
    Figure("tcp_ab", "TCP a→b", "Mbit/s", more_is_better=True),
    Figure("tcp_ba", "TCP b→a", "Mbit/s", more_is_better=True),
    Figure("tcp_4", "TCP ×4", "Mbit/s", more_is_better=True),
    Figure("udp_large", f"UDP {LARGE} B", "Mbit/s", more_is_better=True),
    Figure("udp_small", f"UDP {SMALL} B", "kpps", more_is_better=True),
    Figure("cpu_send", "CPU send", "s/GB", 2),
    Figure("cpu_recv", "CPU recv", "s/GB", 2),
    Figure("ping_idle", "ping idle p50", "µs"),
    Figure("ping_load_p50", "ping load p50", "ms", 2),
    Figure("ping_load_p99", "ping load p99", "ms", 2),
    Figure("rss_idle", "RSS idle", "MiB", 1),
    Figure("rss_load", "RSS load", "MiB", 1),
    Figure("rss_peak", "RSS peak", "MiB", 1),
]

PEER_FIGURES = [
    Figure("total", "TCP total", "Mbit/s", more_is_better=True),
    Figure("cpu_hub", "CPU hub", "s/GB", 2),
    Figure("rss_hub", "RSS hub", "MiB", 1),
    Figure("tun_dropped", "TUN dropped", "packets"),
    Figure("udp_dropped", "UDP dropped", "packets"),
    Figure("retransmits", "retransmits", "segments"),
    Figure("round_trip", "round trip", "ms", 2),
    Figure("slowest", "slowest peer", "Mbit/s", 1, more_is_better=True),
    Figure("fastest", "fastest peer", "Mbit/s", 1, more_is_better=True),
]

CONFIGURED_FIGURES = [figure for figure in FIGURES if figure.key in ("tcp_ab", "cpu_send", "cpu_recv", "rss_load")]

GROUPS = {
    "tcp": ["tcp_ab", "tcp_ba", "cpu_send", "cpu_recv"],
    "streams": ["tcp_4"],
    "ping": ["ping_idle"],
    "load": ["ping_load_p50", "ping_load_p99", "rss_idle", "rss_load", "rss_peak"],
    "udp": ["udp_large", "udp_small"],
}


def on_off(offloads):
    return "on" if offloads else "off"


def percentile(values, percent):
    """The smallest value that at least so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def spread(values):
    """Median, smallest and largest; None without values."""
    return (statistics.median(values), min(values), max(values)) if values else None


def paired_ratios(rows, key, one, other):
    """one : other for every round in which both have the figure."""
    by_name = {name: {row["turn"]: row["values"].get(key) for row in rows if row["contender"] == name} for name in (one, other)}
    pairs = ((value, by_name[other].get(turn)) for turn, value in by_name[one].items())
    return [mine / theirs for mine, theirs in pairs if mine is not None and theirs]


def highest_rate(probe, limit=LOSS):
    """The best rate received at an offered rate that loses less than `limit`. probe(rate) returns (received, loss); rate 0 is
    as fast as the sender can. A rate is given up only after it has failed twice: others use this machine too."""

    def received_without_loss(rate):
        for _ in range(2):
            received, loss = probe(rate)
            if loss < limit:
                return received
        return None

    received, loss = probe(0)
    if loss < limit:
        return received
    best = low = high = None
    rate = received
    for _ in range(14):
        passed = received_without_loss(rate)
        if passed is None:
            high = rate
        else:
            low, best = rate, max(best or 0, passed)
        if low and high and high / low < 1.05:
            break
        if low and high:
            rate = (low + high) / 2
        else:
            rate = low * 1.6 if low else high / 2
    if best is None:
        raise Failed(f"every rate down to {rate * 2:,.0f} bit/s lost {limit:.0%} or more")
    return best
