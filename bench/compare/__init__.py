"""zmqha beside the message systems that Debian packages: the same work, the same machine, by turns. ``run`` is the command."""
