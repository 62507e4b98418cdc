"""``python -m zmqha.cli``: the command line."""

from zmqha.cli import main

main()
