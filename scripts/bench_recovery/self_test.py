"""Checks the arithmetic, the command line and the report. Needs no root."""

import contextlib
import io
import unittest
from unittest import mock

from .command import arguments
from .faults import FAULTS
from .record import Record
from .report import print_report, summary


def record(replies, sent=None):
    """Packet N is sent at N hundredths of a second; those in `replies` come back at the same time."""
    made = Record()
    made.take([*(f"S {number} {number / 100}" for number in sent or replies), *(f"R {number} {number / 100}" for number in replies)])
    return made


def a_run(silence, lost=0, back=True, tcp=True):
    return {"run": 1, "back": back, "silence_s": silence, "lost": lost, "sent": 100, "tcp_lives": tcp, "took_s": 5}


class Arithmetic(unittest.TestCase):
    def test_silence_is_the_longest_gap_since_the_last_reply_before(self):
        found = record([*range(0, 100, 2), *range(150, 300, 2)])
        self.assertAlmostEqual(found.silence(0.99, 2.98), 1.50 - 0.98)
        self.assertAlmostEqual(found.silence(2.0, 2.98), 0.02)

    def test_silence_goes_on_to_the_end(self):
        self.assertAlmostEqual(record(range(0, 100, 2)).silence(0.5, 9.98), 9.0)
        self.assertAlmostEqual(record([]).silence(1, 4), 3)

    def test_what_lies_before_does_not_count(self):
        found = record([0, 2, 1100, 1102])
        self.assertAlmostEqual(found.silence(0.5, 11.02, 10.5), 0.5)

    def test_lost_packets_are_those_of_that_time(self):
        self.assertEqual(record([2, 4, 10], sent=range(0, 12, 2)).lost(0.02, 0.10), (2, 4))

    def test_a_repeated_reply_counts_once(self):
        found = record([1, 2])
        found.take(["R 2 9.0", "T 1.5", "X reset"])
        self.assertEqual((found.replied[2], found.talked, found.ended), (0.02, [1.5], 1))

    def test_steady_means_no_gap(self):
        found = record([*range(0, 100, 2), *range(150, 300, 2)])
        self.assertTrue(found.is_steady(0, 0.98))
        self.assertFalse(found.is_steady(0, 2))
        self.assertFalse(record([]).is_steady(0, 0.1))

    def test_a_run_that_does_not_come_back_counts_with_the_limit(self):
        found = summary(FAULTS[0], [a_run(0.1), a_run(0.2), a_run(3, back=False, tcp=False)])
        self.assertEqual((found["silence_p50_s"], found["silence_p95_s"], found["back"], found["tcp_lived"]), (0.2, 60, 2, 2))


class Words(unittest.TestCase):
    def test_each_fault_has_its_line(self):
        results = [{**summary(fault, [a_run(0.5, lost=3)]), "each": [a_run(0.5, lost=3)]} for fault in FAULTS]
        results[0]["each"] = [{**a_run(None, back=False), "failure": "no rest"}]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            print_report(results, "here")
        text = out.getvalue()
        self.assertTrue(all(fault.title in text for fault in FAULTS), text)
        self.assertIn("no rest", text)
        self.assertIn("0 of 1 without (target 0 in each), at most 3", text)

    def test_the_command_line(self):
        def read(*words):
            with mock.patch("sys.argv", ["recovery", *words]):
                return arguments()
        self.assertEqual(read("--runs", "5", "--fault", "cut", "--fault", "move").fault, ["cut", "move"])
        self.assertEqual(read().runs, 20)
        for wrong in (["--runs", "0"], ["--fault", "fire"], ["--json", "/nowhere/x"], ["x"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                read(*wrong)


def self_test():
    loaded = unittest.defaultTestLoader.loadTestsFromTestCase
    suite = unittest.TestSuite([loaded(Arithmetic), loaded(Words)])
    return int(not unittest.TextTestRunner(verbosity=0).run(suite).wasSuccessful())
