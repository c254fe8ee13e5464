#!/usr/bin/env python3
"""Runs a command on a terminal of its own and types, as a person would: what punchctl asks is asked only there.

    terminal.py COLUMNS [TEXT KEYS]... -- COMMAND...

Once TEXT has been shown, behind what was waited for before, KEYS are typed (\\r, \\x03 for Ctrl-C, \\x04 for Ctrl-D). What the terminal
has shown is printed; the exit status is the command's. A command that has not ended after a minute is killed, which is status 124.
"""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

PATIENCE = 60


def main():
    columns, *rest = sys.argv[1:]
    end = rest.index("--")
    script, command = rest[:end], rest[end + 1 :]
    steps = [
        (text.encode(), keys.encode().decode("unicode_escape").encode())
        for text, keys in zip(script[::2], script[1::2])
    ]
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, int(columns), 0, 0))
        os.environ["TERM"] = "xterm"
        os.execvp(command[0], command)
    shown, past, until = b"", 0, time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # Linux tells so that the other end is closed.
                break
        while steps and (at := shown.find(steps[0][0], past)) >= 0:
            past = at + len(steps[0][0])
            os.write(terminal, steps.pop(0)[1])
    else:
        os.kill(child, signal.SIGKILL)
        shown += b"\nterminal.py: it has not ended\n"
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.buffer.write(shown)
    sys.exit(124 if status < 0 else status)


main()
