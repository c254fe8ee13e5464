"""A router that says what it is told to say. Usage: fake_router.py MODE [ADDRESS]

  pcp ADDRESS        grants by PCP, and names ADDRESS as its own; whoever has another nonce is refused (RFC 6887 section 11.3)
  nat-pmp ADDRESS    knows no PCP, and grants by NAT-PMP
  upnp ADDRESS       grants by UPnP IGD, but only permanent leases
  pcp-refuses        refuses by PCP, with a long lifetime of the refusal
  pcp-nothing        grants a lifetime and a port of 0
  garbage            answers everything with random bytes of all sizes
  endless            describes itself in XML that does not end
  many               describes itself in a MiB of XML that has no end of elements, and is well-formed
  deep               describes itself in XML that is nested deeply
  bomb               describes itself in XML whose entities grow
  slow               begins to describe itself, a byte a second
  elsewhere          says that its description is at 127.0.0.1

It listens on all addresses, on the ports that a router has, and prints what it is asked.
"""

import http.server
import os
import random
import socket
import struct
import sys
import threading
import time

MODE = sys.argv[1]
ADDRESS = sys.argv[2] if len(sys.argv) > 2 else "203.0.113.10"
HTTP = 5000
NONCES = {}


def say(text):
    print(text, flush=True)


def pcp_answer(request, result, lifetime, port, address):
    mapped = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(address)
    head = struct.pack("!BBBBII", 2, 0x81, 0, result, lifetime, 1000) + b"\0" * 12
    return head + request[24:42] + struct.pack("!H", port) + mapped


def port_5351(request):
    if MODE == "garbage":
        kind = random.randrange(4)
        if kind == 0:
            return os.urandom(random.choice([0, 1, 3, 4, 8, 12, 16, 24, 60, 1100, 1101, 4000]))
        # Right at the beginning, and then less and less so.
        head = bytes([request[0], request[1] | 0x80, 0, 0])
        return head + os.urandom(random.choice([0, 4, 8, 12, 20, 40, 56, 60, 1096, 3000]))
    version = request[0]
    if version == 2 and len(request) >= 60:
        lifetime = struct.unpack("!I", request[4:8])[0]
        say("PCP MAP lifetime %d" % lifetime)
        if request[36] == 6:
            say("TCP by PCP, lifetime %d" % lifetime)
        port = struct.unpack("!H", request[42:44])[0] or 5555
        if MODE == "pcp":
            # Each mapping has its nonce: one of UDP and one of TCP for the same port are two.
            inside, nonce = request[36:37] + request[40:42], request[24:36]
            if NONCES.setdefault(inside, nonce) != nonce:
                say("refused: another nonce")
                return pcp_answer(request, 2, 60, port, ADDRESS)
            if lifetime == 0:
                del NONCES[inside]
            return pcp_answer(request, 0, lifetime, port, ADDRESS)
        if MODE == "pcp-refuses":
            return pcp_answer(request, 2, 0xFFFFFFFF, port, ADDRESS)
        if MODE == "pcp-nothing":
            return pcp_answer(request, 0, 0, 0, ADDRESS)
    if MODE != "nat-pmp":
        return None
    if version != 0:
        return struct.pack("!BBHI", 0, 0x80, 1, 1000)
    if request[1] == 0:
        return struct.pack("!BBHI", 0, 0x80, 0, 1000) + socket.inet_aton(ADDRESS)
    inside, outside, lifetime = struct.unpack("!HHI", request[4:12])
    say("NAT-PMP MAP %d lifetime %d" % (inside, lifetime))
    if request[1] == 2:
        say("TCP by NAT-PMP, lifetime %d" % lifetime)
    return struct.pack("!BBHIHHI", 0, 0x80 | request[1], 0, 1000, inside, outside, lifetime)


def port_1900(request):
    if not request.startswith(b"M-SEARCH"):
        return None
    if MODE == "garbage":
        return random.choice(
            [
                os.urandom(1400),
                b"HTTP/1.1 200 OK\r\nLOCATION: http://\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nLOCATION: http://[::1/\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nLOCATION: http://\xff\xfe/\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nLOCATION: http://10.1.1.1:%d/root.xml\r\n\r\n" % HTTP,
            ]
        )
    if MODE == "elsewhere":
        return b"HTTP/1.1 200 OK\r\nLOCATION: http://127.0.0.1:%d/root.xml\r\n\r\n" % HTTP
    if MODE in ("upnp", "many", "endless", "deep", "bomb", "slow"):
        return b"HTTP/1.1 200 OK\r\nLOCATION: http://10.1.1.1:%d/root.xml\r\n\r\n" % HTTP
    return None


def serve(port, answer):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", port))
    if port == 1900:
        group = socket.inet_aton("239.255.255.250") + socket.inet_aton("10.1.1.1")
        server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    while True:
        request, who = server.recvfrom(4096)
        reply = answer(request)
        if reply is not None:
            server.sendto(reply, who)


SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
ROOT = """<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><serviceList><service>
<serviceType>%s</serviceType><controlURL>/control</controlURL><SCPDURL>/scpd.xml</SCPDURL>
</service></serviceList></device></root>""" % SERVICE


def action(name, arguments):
    each = "".join(
        "<argument><name>%s</name><direction>in</direction></argument>" % a for a in arguments
    )
    return "<action><name>%s</name><argumentList>%s</argumentList></action>" % (name, each)


ADD = "NewRemoteHost NewExternalPort NewProtocol NewInternalPort NewInternalClient NewEnabled NewPortMappingDescription NewLeaseDuration"
SCPD = """<?xml version="1.0"?><scpd xmlns="urn:schemas-upnp-org:service-1-0"><actionList>%s%s</actionList></scpd>""" % (
    action("AddPortMapping", ADD.split()),
    action("DeletePortMapping", ADD.split()[:3]),
)


def envelope(body):
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>%s</s:Body></s:Envelope>'
        % body
    )


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def reply(self, text, status=200):
        body = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        say("GET %s" % self.path)
        if MODE == "garbage":
            self.wfile.write(os.urandom(random.choice([0, 10, 10000])))
        elif MODE == "endless":
            self.send_response(200)
            self.end_headers()
            try:
                self.wfile.write(b"<root>")
                while True:
                    self.wfile.write(b"<a/>" * 10000)
            except OSError:
                say("the endless description was cut off")
        elif MODE == "many":
            self.reply("<root>" + "<a/>" * (((1 << 20) - 13) // 4) + "</root>")
        elif MODE == "deep":
            self.reply("<root>" + "<device>" * 100000)
        elif MODE == "bomb":
            entities = "".join(
                '<!ENTITY e%d "%s">' % (n, ("&e%d;" % (n - 1)) * 10 if n else "x" * 100)
                for n in range(12)
            )
            self.reply("<!DOCTYPE root [%s]><root>&e11;</root>" % entities)
        elif MODE == "slow":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"<")
                    self.wfile.flush()
                    time.sleep(1)
            except OSError:
                pass
        else:
            self.reply(ROOT if self.path == "/root.xml" else SCPD)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        asked = self.headers.get("SOAPAction", "").strip('"').split("#")[-1]
        lease = body.split("<NewLeaseDuration>")[-1].split("<")[0] if "NewLease" in body else ""
        say("%s %s" % (asked, lease))
        if "<NewProtocol>TCP<" in body:
            say("TCP by UPnP, %s %s" % (asked, lease))
        if asked == "GetExternalIPAddress":
            inner = "<NewExternalIPAddress>%s</NewExternalIPAddress>" % ADDRESS
        elif asked == "AddPortMapping" and lease != "0":
            fault = "<s:Fault><detail><UPnPError><errorCode>725</errorCode><errorDescription>OnlyPermanentLeasesSupported</errorDescription></UPnPError></detail></s:Fault>"
            self.reply(envelope(fault), 500)
            return
        else:
            inner = ""
        self.reply(envelope('<u:%sResponse xmlns:u="%s">%s</u:%sResponse>' % (asked, SERVICE, inner, asked)))


threading.Thread(target=serve, args=(5351, port_5351), daemon=True).start()
threading.Thread(target=serve, args=(1900, port_1900), daemon=True).start()
server = http.server.ThreadingHTTPServer(("0.0.0.0", HTTP), Handler)
say("ready")
server.serve_forever()
