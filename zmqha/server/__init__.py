"""The server process: configuration, start, the one loop, logs."""
