"""Runs inside a host of the lab: `probe.py echo PORT` answers UDP and TCP; `probe.py send ADDRESS PORT` sends and writes down, a line each:

  S NUMBER TIME    a packet was sent       R NUMBER TIME    its reply has come       T TIME    the TCP connection has echoed
  X REASON         the TCP connection has ended

Times are of the monotonic clock, which all namespaces share.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import time

EVERY = 0.02
TCP_EVERY = 0.1


def note(text):
    """A line as one piece: threads write side by side."""
    os.write(1, f"{text}\n".encode())


def echo(port):
    server = socket.create_server(("0.0.0.0", port), backlog=64)
    threading.Thread(target=echo_tcp, args=(server,), daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering:
        answering.bind(("0.0.0.0", port))
        print("listening", flush=True)
        while True:
            data, sender = answering.recvfrom(100)
            # The way back may be missing for a while.
            with contextlib.suppress(OSError):
                answering.sendto(data, sender)


def echo_tcp(server):
    while True:
        client, _ = server.accept()
        threading.Thread(target=echo_one, args=(client,), daemon=True).start()


def echo_one(client):
    with contextlib.suppress(OSError):
        while data := client.recv(4096):
            client.sendall(data)


def send(address, port):
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    threading.Thread(target=talk, args=(address, port), daemon=True).start()
    threading.Thread(target=listen, args=(probe,), daemon=True).start()
    began, number = time.monotonic(), 0
    while True:
        number += 1
        note(f"S {number} {time.monotonic():.4f}")
        with contextlib.suppress(OSError):
            probe.sendto(struct.pack("!Q", number) + bytes(56), (address, port))
        time.sleep(max(0, began + number * EVERY - time.monotonic()))


def listen(probe):
    while True:
        try:
            data = probe.recv(100)
        except OSError:
            # An error of a packet before, as ICMP tells it; or nothing was sent yet.
            time.sleep(0.001)
            continue
        note(f"R {struct.unpack_from('!Q', data)[0]} {time.monotonic():.4f}")


def talk(address, port):
    """Connections, one after the other: each for as long as it lives."""
    while True:
        try:
            with socket.create_connection((address, port), timeout=5) as stream:
                stream.settimeout(None)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    stream.sendall(b"x")
                    if not stream.recv(1):
                        raise OSError("closed")
                    note(f"T {time.monotonic():.4f}")
                    time.sleep(TCP_EVERY)
        except OSError as error:
            note(f"X {error}")
            time.sleep(0.5)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(int(sys.argv[2]))
    else:
        send(sys.argv[2], int(sys.argv[3]))
