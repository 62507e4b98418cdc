"""Starts one server for a test: ``serve.py CONFIG NAME``. As ``zmqha-server`` does, without click's start-up time."""

import sys

from zmqha.errors import ConfigError
from zmqha.server import config
from zmqha.server.main import main

try:
    sys.exit(main(config.load(sys.argv[1], sys.argv[2])))
except ConfigError as error:
    print(error.explain(), file=sys.stderr)
    sys.exit(78)
