"""The client library: one session with the pair, kept through failovers. See ``client.client``."""
