"""Every target by its name: what is called with bytes, and the valid inputs to begin with."""

from collections.abc import Callable
from typing import NamedTuple

from tests.fuzz import decoders, machines, stream


class Target(NamedTuple):
    """``work`` raises nothing but what is a finding."""

    work: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS = {
    "client": Target(decoders.client, decoders.client_seeds),
    "batch": Target(decoders.batch, decoders.batch_seeds),
    "control": Target(decoders.control, decoders.control_seeds),
    "bulk": Target(decoders.bulk, decoders.bulk_seeds),
    "shipment": Target(decoders.shipped, decoders.shipment_seeds),
    "journal": Target(decoders.journal, decoders.journal_seeds),
    "death": Target(decoders.datagram, decoders.death_seeds),
    "beat": Target(decoders.datagram, decoders.beat_seeds),
    "state": Target(decoders.node_state, decoders.state_seeds),
    "service": Target(machines.service, machines.conversation_seeds),
    "broker": Target(machines.broker, machines.broker_seeds),
    "peer": Target(machines.peer, machines.peer_seeds),
    "replica": Target(stream.replica, stream.seeds),
}
