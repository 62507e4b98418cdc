"""Starts one server for a test: ``serve.py CONFIG NAME``. As ``zmqha-server`` does, without click's start-up time.

SIGUSR2 makes its loop stand still for 2 s, as a bug would; its other threads go on.
"""

import signal
import sys
import time

from zmqha.errors import ConfigError
from zmqha.server import config
from zmqha.server.main import main

signal.signal(signal.SIGUSR2, lambda *_: time.sleep(2.0))
try:
    sys.exit(main(config.load(sys.argv[1], sys.argv[2])))
except ConfigError as error:
    print(error.explain(), file=sys.stderr)
    sys.exit(78)
