"""Measures the data path of punch beside other userspace WireGuards and tunnels, in network namespaces of its own.

  sudo scripts/bench tunnel                       builds punch, then every contender that is on PATH, in turns
  sudo scripts/bench tunnel --only punch,gotatun --rounds 5
  sudo scripts/bench tunnel --peers 16,64         punch alone: one hub, and 1, 16 and 64 peers that send at the same time
  sudo scripts/bench tunnel --configured 1,10,1000
                                                  punch alone: what peers and forwards cost that are only configured
  sudo scripts/bench tunnel --profile             punch alone: where both ends spend their time, by perf, as Markdown
  sudo scripts/bench tunnel --congestion bbr      the TCP senders of iperf3 use this instead of cubic; goes with all above

Two namespaces are joined by one veth pair with an MTU of 1500; inside the tunnels it is 1420. Each contender gets fresh
namespaces in every round, and the rounds go A B C, A B C. scripts/README.md tells how the contenders are installed.
"""
