"""A server for the watcher's tests: starts a watcher, says so, waits. ``PORT SECRET planned|forever``."""

import signal
import sys

from zmqha.core import death_notice
from zmqha.transport.watcher import start_watcher, stop_watcher


def main(port: str, secret: str, end: str) -> None:
    notice = death_notice.encode("test", "a", 7, secret.encode())
    watcher = start_watcher(notice, [("127.0.0.1", int(port)), ("::1", int(port))])
    print(watcher, flush=True)
    if end == "planned":
        stop_watcher(watcher)
        stop_watcher(watcher)
        return
    signal.pause()


main(*sys.argv[1:])
