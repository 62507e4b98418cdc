"""The disk: LMDB, pages out and in, journal, node.state, and the thread that owns them all."""
