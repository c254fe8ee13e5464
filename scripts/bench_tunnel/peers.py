"""One hub with many peers."""

import shlex
import subprocess
import time

from .contenders import ROOT, Punchd, start_servers
from .measure import iperf_result, payload, streams_figures
from .processes import cpu_seconds, Failed, memory_mib, run, say, wait_until
from .stage import PORT, Stage


class Hub:
    """A punchd that is the peer of many, each in a namespace of its own, all on one bridge."""

    def __init__(self, stage, count):
        self.stage = stage
        binaries = ROOT / "target/release"
        switch = stage.namespace("sw")
        for command in ("link add bridge type bridge", "link set bridge up"):
            run(["ip", "-n", switch, *command.split()])
        self.namespace = self.plug(switch, "hub", 1)
        server = start_servers(stage, binaries, self.namespace, 1)
        self.punchd = Punchd(stage, binaries, self.namespace, "hub")
        self.punchd.ready()
        self.punchd.use_servers(server)
        self.places, peers = [], []
        for number in range(1, count + 1):
            self.places.append(self.plug(switch, f"p{number}", number + 1))
            peers.append(Punchd(stage, binaries, self.places[-1], f"p{number}"))
        for number, peer in enumerate(peers, 1):
            peer.ready()
            peer.use_servers(server)
            peer.ctl("peer", "add", "hub", self.punchd.id["id"])
            self.punchd.ctl("peer", "add", f"p{number}", peer.id["id"])
            self.punchd.ctl("allow", f"p{number}", "--host")
        for peer in (self.punchd, *peers):
            wait_until("the servers' answers", peer.has_servers, 60, [peer.program])
        for peer in peers:
            peer.ctl("up", "hub", "--timeout", "60", timeout=70)

    def plug(self, switch, short, number):
        namespace = self.stage.namespace(short)
        run(["ip", "-n", namespace, "link", "add", "under", "type", "veth", "peer", "name", short, "netns", switch])
        run(["ip", "-n", switch, "link", "set", short, "master", "bridge", "up"])
        self.stage.equip(namespace, "under", number)
        return namespace

    def streams(self, count, seconds):
        """So many peers send at once, a stream each; all begin within some milliseconds."""
        stage, target, omitted = self.stage, self.punchd.id["ipv4"], 2
        congestion = stage.options.congestion
        ports = range(PORT, PORT + count)
        servers = [stage.start(self.namespace, f"server-{port}", ["iperf3", "-s", "-1", "-p", port]) for port in ports]
        clients = []
        try:
            for port, server in zip(ports, servers):
                wait_until("iperf3 -s", lambda port=port: stage.listening(self.namespace, port), needs=[server])
            for port, place in zip(ports, self.places):
                go = f"read go; exec iperf3 -J -c {target} -p {port} -t {seconds} -O {omitted} -C {shlex.quote(congestion)} --connect-timeout 20000"
                clients.append(stage.start(place, f"client-{port}", ["sh", "-c", go], stdin=subprocess.PIPE))
            before, dropped = cpu_seconds([self.punchd.program.pid]), self.dropped()
            for client in clients:
                client.popen.stdin.write(b"\n")
                client.popen.stdin.close()
            end = time.monotonic() + seconds + omitted + 60
            for client in clients:
                try:
                    client.popen.wait(max(0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise Failed(f"a stream had not ended {60} s after its time") from None
            spent = cpu_seconds([self.punchd.program.pid]) - before
            results = [iperf_result(client.text(), "iperf3", congestion) for client in clients]
            dropped = {key: count - dropped[key] for key, count in self.dropped().items()}
        finally:
            stage.stop(*servers, *clients)
        return {**streams_figures(results), "cpu_hub": spent / (sum(map(payload, results)) / 1e9),
                "rss_hub": memory_mib(self.punchd.program.pid, "VmRSS"), **dropped}

    def dropped(self):
        """Packets that found a queue of the hub full: of those that its kernel has for the tunnel, and of those that have come by it."""
        text = self.stage.run(self.namespace, ["cat", "/sys/class/net/punch0/statistics/tx_dropped", "/proc/net/snmp"])
        names, counts = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
        return {"tun_dropped": int(text.split()[0]), "udp_dropped": int(counts[names.index("RcvbufErrors")])}


def compare_peers(options):
    rows = []
    for turn in range(1, options.rounds + 1):
        say(f"round {turn}/{options.rounds}: starting {options.peers[-1]} peers")
        with Stage(options) as stage:
            fresh = [{"turn": turn, "contender": f"{count} peer{'s' * (count > 1)}", "offloads": True, "values": {}, "failures": {}}
                     for count in options.peers]
            rows += fresh
            try:
                hub = Hub(stage, options.peers[-1])
            except Failed as error:
                for row in fresh:
                    row["failures"]["setup"] = str(error)
                say(f"round {turn}/{options.rounds}: failed: {error}")
                continue
            time.sleep(5)
            for count, row in zip(options.peers, fresh):
                label = f"round {turn}/{options.rounds}: {row['contender']}: "
                try:
                    row["values"] = hub.streams(count, options.seconds)
                    say(f"{label}{row['values']['total']:,.0f} Mbit/s in all")
                except Failed as error:
                    row["failures"]["streams"] = str(error)
                    say(f"{label}failed: {error}")
    return rows
