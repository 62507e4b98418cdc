"""A peer in a process of its own: sends every frame back, rebuilds its link like a server does. ``ENDPOINT bind|connect``."""

import sys
import time

import zmq

from zmqha.transport.peer_link import PeerLink

LOST_MS = 300


def main(endpoint: str, side: str) -> None:
    link = PeerLink(zmq.Context(), endpoint, binds=side == "bind", path_name="test")
    heard = time.monotonic()
    print("up", flush=True)
    while True:
        for frame in link.receive(16):
            heard = time.monotonic()
            link.send(frame)
        now = time.monotonic()
        if now - heard > LOST_MS / 1000:
            link.rebuild(int(now * 1000))
            heard = now
        link.tick(int(now * 1000))
        time.sleep(0.002)


main(*sys.argv[1:])
