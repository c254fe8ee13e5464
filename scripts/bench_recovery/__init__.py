"""Measures how long traffic stops when something breaks, with real programs in a lab (scripts/lab).

  sudo scripts/bench recovery                          every fault, 20 runs each: an hour and a half
  sudo scripts/bench recovery --runs 5 --fault cut --fault punchd-killed
  sudo scripts/bench recovery --json result.json --logs logs

A probe inside the tunnel sends 50 packets a second from a to an echo server on b. Its silence is the longest time between two
replies; a TCP connection of the same kernels runs beside it. Both ends run behind a NAT each, with a signalling server that relays.
Each run begins from rest: the path is as it should be, the servers are connected, and every packet of two seconds was answered.
"""
