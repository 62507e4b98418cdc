"""The wires: ZeroMQ sockets, the gateway probe, the death notice, and the hand-over from the store thread.

Thin on purpose: nothing here decides, nothing here waits. Everything but ``mailbox.Mailbox.put`` belongs to the reactor's thread.
"""
