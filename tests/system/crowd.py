"""Many clients in one process: ``crowd.py URL COUNT``. Connects them all, says ``ready``; at each line of its input every one sends a
message, and once all are confirmed a line of JSON says when each was."""

import json
import sys
import time

import zmqha

QUEUE = "crowd"


def main(url: str, count: int) -> None:
    clients = [zmqha.connect(url, failover_timeout=-1, connect_timeout=60) for _ in range(count)]
    for client in clients:
        client.send(QUEUE, b"here")
    print("ready", flush=True)
    for _ in sys.stdin:
        open_ones = {client.send_nowait(QUEUE, b"again") for client in clients}
        times = []
        while open_ones:
            done = {handle for handle in open_ones if handle.done()}
            times += [time.monotonic()] * len(done)
            open_ones -= done
            time.sleep(0.01)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
