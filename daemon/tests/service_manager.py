"""What systemd does with a service that has Type=notify and FileDescriptorStoreMax=, for tests.

    service_manager.py SOCKET PROGRAM [ARGUMENT...]

Listens at SOCKET (NOTIFY_SOCKET of the service), keeps the descriptors that it is given (FDSTORE=1, FDSTOREREMOVE=1), starts PROGRAM
and passes them on (LISTEN_FDS). A test sends to the same socket:

    DO=restart      SIGTERM, and a new start          DO=kill         SIGKILL, and a new start
    DO=drop NAME    close what is kept as NAME        DO=foreign      keep what nobody has asked for, under names of the service's
    DO=version      another version's state           DO=garbage      a state that is none

SIGTERM: the service is stopped, and nothing is kept.
"""

import ctypes
import os
import select
import signal
import socket
import sys

path, command = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind(path)
os.chmod(path, 0o666)
# Name and descriptor, in order.
kept = []
child = None


def start():
    """Starts the service with what is kept, which stays kept."""
    global child
    child = os.fork()
    if child:
        return
    # The service does not outlive this program.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    copies = [os.dup(descriptor) for _, descriptor in kept]
    # Above everything that is open, and then down to 3.
    import fcntl

    high = [fcntl.fcntl(copy, fcntl.F_DUPFD, 1000) for copy in copies]
    for number, copy in enumerate(high, 3):
        os.dup2(copy, number, inheritable=True)
    os.closerange(3 + len(high), 2000)
    environment = dict(os.environ, NOTIFY_SOCKET=path, FDSTORE="512")
    if kept:
        environment["LISTEN_PID"] = str(os.getpid())
        environment["LISTEN_FDS"] = str(len(kept))
        environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)
    os.execve(command[0], command, environment)


def end(how):
    os.kill(child, how)
    os.waitpid(child, 0)
    # What it has said last.
    while select.select([notify], [], [], 0)[0]:
        hear()


def drop(name):
    for entry in [entry for entry in kept if entry[0] == name]:
        kept.remove(entry)
        os.close(entry[1])


def keep(name, descriptor):
    """A descriptor of the same file is not kept twice."""
    this = os.fstat(descriptor)
    for other_name, other in kept:
        that = os.fstat(other)
        if other_name == name and (this.st_dev, this.st_ino) == (that.st_dev, that.st_ino):
            return os.close(descriptor)
    kept.append((name, descriptor))


def memory(contents):
    descriptor = os.memfd_create("foreign", os.MFD_ALLOW_SEALING)
    os.write(descriptor, contents)
    return descriptor


def foreign():
    for name in {name for name, _ in kept}:
        drop(name)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    bound.bind(("::1", 0))
    keep("interface", os.open("/dev/null", os.O_RDWR))
    keep("udp4", listener.detach())
    keep("udp6", bound.detach())
    keep("path4-7", os.open("/dev/zero", os.O_RDONLY))
    keep("state", os.open("/etc/hostname", os.O_RDONLY))
    keep("somebody", os.open("/dev/null", os.O_RDONLY))


def state(change):
    descriptor = next(descriptor for name, descriptor in kept if name == "state")
    for page in (0, 8 * 1024 * 1024):
        os.pwrite(descriptor, change, page + 8)


def hear():
    text, descriptors, _, _ = socket.recv_fds(notify, 65536, 16)
    lines = text.decode().split("\n")
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    name = fields.get("FDNAME", "stored")
    if fields.get("FDSTORE") == "1":
        for descriptor in descriptors:
            keep(name, descriptor)
        return
    for descriptor in descriptors:
        os.close(descriptor)
    if fields.get("FDSTOREREMOVE") == "1":
        drop(name)
    word, _, rest = fields.get("DO", "").partition(" ")
    if word == "drop":
        return drop(rest)
    if not word:
        return
    end(signal.SIGKILL if word == "kill" else signal.SIGTERM)
    {
        "foreign": foreign,
        "version": lambda: state(b"\x7f\xff"),
        "garbage": lambda: state(b"\0\2 nothing that a punchd has written"),
    }.get(word, lambda: None)()
    start()


def stop(*_):
    end(signal.SIGTERM)
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
start()
while True:
    if select.select([notify], [], [], 0.5)[0]:
        hear()
    # A service that ends by itself is not started again.
    if os.waitpid(child, os.WNOHANG) != (0, 0):
        sys.exit(1)
