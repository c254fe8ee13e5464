"""Checks the arithmetic, the command line, the report, and what is read from other programs. Needs no root."""

import contextlib
import io
import json
import unittest
from unittest import mock

from . import contenders
from .command import arguments, several
from .figures import Figure, highest_rate, paired_ratios, percentile, spread
from .measure import iperf_result, streams_figures
from .picture import draw, panels_of
from .processes import Failed, machine_shares
from .profile import read_profile
from .report import all_ratios, print_report

# Three rounds; in the last one the second contender failed.
ROWS = [{"turn": turn, "contender": name, "offloads": True, "values": {"x": value} if value else {},
         "failures": {} if value else {"x": "no byte came through"}}
        for turn, pair in enumerate([(10, 5), (9, 3), (4, None)]) for name, value in zip("pq", pair)]
FIGURE = Figure("x", "throughput", "Mbit/s", more_is_better=True)


def stream(rate, retransmits, microseconds):
    return {"end": {"sum_received": {"bits_per_second": rate * 1e6}, "sum_sent": {"retransmits": retransmits},
                    "streams": [{"sender": {"mean_rtt": microseconds}}], "sender_tcp_congestion": "cubic"}}


class Arithmetic(unittest.TestCase):
    def test_a_percentile_is_one_of_the_values(self):
        self.assertEqual([percentile([5, 1, 3], 50), percentile(range(1, 101), 99), percentile([7], 99), percentile([1, 2, 3, 4], 50)],
                         [3, 99, 7, 2])

    def test_the_spread_of_nothing_is_nothing(self):
        self.assertEqual((spread([3, 1, 2]), spread([])), ((2, 1, 3), None))

    def test_ratios_are_those_of_rounds_that_both_have(self):
        self.assertEqual(paired_ratios(ROWS, "x", "p", "q"), [2, 3])
        self.assertEqual(paired_ratios(ROWS, "x", "q", "p"), [1 / 2, 1 / 3])

    def test_shares_are_those_of_the_time_between(self):
        self.assertEqual(machine_shares([0] * 8, [10, 0, 10, 60, 0, 0, 0, 20]), {"idle_percent": 60, "steal_percent": 20})

    def test_a_link_that_loses_what_is_over_its_rate(self):
        found = highest_rate(lambda rate: (min(rate or 500, 100), 1 - min(1, 100 / (rate or 500))))
        self.assertTrue(95 < found <= 101, found)

    def test_a_link_that_breaks_down_in_a_flood(self):
        found = highest_rate(lambda rate: (rate, 0) if 0 < rate <= 300 else (20, 0.9))
        self.assertTrue(280 < found <= 300, found)

    def test_a_link_that_the_sender_cannot_fill(self):
        self.assertEqual(highest_rate(lambda rate: (77, 0.002)), 77)

    def test_a_link_that_always_loses(self):
        with self.assertRaises(Failed):
            highest_rate(lambda rate: (50, 0.5))


class Iperf(unittest.TestCase):
    def test_streams_at_the_same_time_are_summed(self):
        found = streams_figures([stream(30, 5, 9000), stream(10, 0, 500), stream(20, 7, 1500)])
        self.assertEqual(found, {"total": 60, "slowest": 10, "fastest": 30, "retransmits": 12, "round_trip": 1.5})

    def test_warnings_may_stand_before_the_result(self):
        text = "warning: something\n" + json.dumps(stream(1, 0, 1))
        self.assertEqual(iperf_result(text, "x", "cubic"), stream(1, 0, 1))
        self.assertEqual(iperf_result(text, "x"), stream(1, 0, 1))

    def test_another_congestion_control_an_error_and_silence_are_failures(self):
        for text, asked in ((json.dumps(stream(1, 0, 1)), "reno"), (json.dumps({"end": {}}), "cubic"),
                            (json.dumps({"end": {}, "error": "x"}), None), ("", None)):
            with self.subTest(text=text), self.assertRaises(Failed):
                iperf_result(text, "x", asked)


class Perf(unittest.TestCase):
    def test_every_symbol_has_a_part(self):
        parts, symbols = read_profile("# x\n  30.50%  [.] ring_core_0_17_14__chacha20_poly1305_seal\n   9.00%  [k] tun_do_read\n"
                                      "   2.00%  [.] <punch_engine::A as core::B>::c\n   0.25%  [.] tokio::park\n")
        self.assertEqual(parts, {"cipher": 30.5, "kernel": 9, "own code": 2, "libraries": 0.25})
        self.assertEqual(len(symbols), 4)


class CommandLine(unittest.TestCase):
    def parse(self, *words):
        with mock.patch("sys.argv", ["tunnel", *words]):
            return arguments()

    def test_what_is_given_is_what_is_done(self):
        options = self.parse("--only", "punch,ssh", "--rounds", "5", "--offloads", "both", "--punch-at", "punch-old=/tmp")
        self.assertEqual((options.only, options.rounds, options.offloads, options.punch_at),
                         (["punch", "ssh"], 5, [True, False], ["punch-old=/tmp"]))
        self.assertEqual(self.parse("--peers", "64,16").peers, [1, 16, 64])
        self.assertEqual(several("16,64"), [16, 64])

    def test_what_makes_no_sense_is_refused(self):
        for words in (["--only", "strange"], ["--rounds", "0"], ["--peers", "251"], ["--punch-at", "old=/tmp"], ["--peers", "2", "--profile"],
                      ["--json", "/nowhere/x"]):
            with self.subTest(words=words), self.assertRaises(SystemExit) as refused, contextlib.redirect_stderr(io.StringIO()):
                self.parse(*words)
            self.assertEqual(refused.exception.code, 2)


class Report(unittest.TestCase):
    def test_the_tables_tell_medians_ratios_and_failures(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            print_report(ROWS, [FIGURE], {"p": "1.0", "q": "2.0"}, "p", "Tunnels")
        for line in ("p      1.0           9", "q      2.0           4", "q          2.50", "  q, round 2, x: no byte came through"):
            self.assertIn(line, out.getvalue().splitlines())

    def test_every_pair_has_its_ratio_once_each_way(self):
        found = [(entry["one"], round(entry["median"], 3)) for entry in all_ratios(ROWS, [FIGURE], ["p", "q"])]
        self.assertEqual(found, [("p", 2.5), ("q", 0.417)])

    def test_the_chart_has_a_bar_for_each_contender(self):
        picture = draw("A & B", "below", panels_of(ROWS, [FIGURE], ["p", "q"]), ["p", "q"])
        self.assertIn("A &amp; B", picture)
        self.assertEqual(picture.count('text-anchor="end"'), 2)


class Keys(unittest.TestCase):
    def test_no_two_peers_have_one_address(self):
        addresses = iter(["100.64.0.1", "100.64.0.2", "100.64.0.1", "100.64.0.3", "100.64.0.4"])

        def start(*_):
            address = next(addresses)
            return mock.Mock(id={"ipv4": address, "id": f"key of {address}"})

        with mock.patch.multiple(contenders, Punchd=start, say=mock.Mock(), shutil=mock.Mock(), MADE={}):
            self.assertEqual(contenders.identities(mock.Mock(), "programs", 2), ["key of 100.64.0.1", "key of 100.64.0.2"])
            self.assertEqual(contenders.identities(mock.Mock(), "programs", 3), [f"key of 100.64.0.{number}" for number in (1, 2, 3)])


def self_test():
    suite = unittest.defaultTestLoader.loadTestsFromModule(__import__(__name__, fromlist=["*"]))
    return int(not unittest.TextTestRunner(verbosity=0).run(suite).wasSuccessful())
