"""The pure core: everything that is decided, nothing that is done. No sockets, files, clock, threads, logging.

::

    client --SEND--> transport.clients --frames--> Broker.receive(ClientIn)
                                                      |   service: access, sequence, offset; batches collect
                                                      v
                                      Commit(work)    one group commit at a time, up to two in the store thread
                                                      |
    store thread: one LMDB transaction, the pages it wrote --> Committed(shipment); then one flush --> Flushed(txn)
                                                      |                                                   |
                                      SendBulk(Piece) to the peer: journal record, one flush --> Stored(position)
                                                      v
                       GroupCommit.durable_txn: what may be confirmed now --> CONFIRM to the producer, DELIVER to consumers

Every machine here (``Broker``, and inside it ``HA``, ``Source``, ``Follower``, ``Service``) is driven by the same four verbs:

    receive(event, now_ms)   something happened (``events``)
    tick(now_ms)             time passed: decide, expire, hand out
    deadline_ms(now_ms)      when ``tick`` is needed next: the poll timeout
    take_actions()           ordered work (``actions``): the node carries it out, the simulator is another node

The guarantees, and where each is kept and asserted:

1. At most one server is active per epoch. Every Beat and every frame to a client carries the epoch, every message to the peer its
   session; what is older is dropped in one place each (``contact`` for the peer, ``client.failover`` for clients).
2. No confirm leaves before its transaction is as durable as the state promises: ``GroupCommit.durable_txn``, the only place.
3. Pages are applied only on exactly the base position (epoch, transaction, chain digest); otherwise copy: ``store.replica``.
4. A queue message is in exactly one of ready, in flight, done: ``cursor``.
5. Never active for longer than isolated_ms when neither peer nor gateway can be reached; a cut peer link alone never makes two
   actives: rows T8 and T17 of ``ha``; pages then take the other path, ``follower``.
6. Every turn of the loop and every buffer is bounded by a name in ``limits``.
"""
