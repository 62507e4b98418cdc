"""A follower of a ``SourceStore``: made by a full copy, fed with shipments."""

from pathlib import Path

import xxhash
from source_store import SourceStore

from zmqha.core import shipment
from zmqha.core.shipment import Shipment
from zmqha.store.copy_target import CopyTarget
from zmqha.store.replica import Replica


def copied(source: SourceStore, directory: Path, segment_bytes: int) -> Replica:
    """A replica made by a full copy of what the source holds now."""
    directory.mkdir(exist_ok=True)
    target = CopyTarget(directory, segment_bytes)
    target.begin(source.meta.psize)
    runs = source.reader.live_runs(source.meta)
    pages = source.reader.read_runs(runs, source.meta.psize)
    target.pages(runs, pages, xxhash.xxh3_64_intdigest(pages))
    assert target.copied_bytes == len(pages)
    return target.adopt(source.position, source.meta.body, target.copied_bytes)


def take(replica: Replica, ship: Shipment) -> None:
    """All chunks of one shipment."""
    *some, last = shipment.chunks(ship)
    assert not any(replica.take(chunk) for chunk in some)
    assert replica.take(last)


def reopened(directory: Path, segment_bytes: int) -> Replica:
    """What a restart finds."""
    replica = Replica.open(directory, segment_bytes)
    assert replica is not None
    return replica
