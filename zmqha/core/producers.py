"""De-duplication: the last sequence of each (producer, destination), accepted and released.

A batch carries consecutive sequences; only the next one is taken. When the table is full, the pair that was idle longest is
forgotten: a producer that comes back after that is told to number from 1. Its row in the store is deleted some time after it was
idle for ``limits.PRODUCER_IDLE_DAYS`` when a server opened the store.
"""

from collections import OrderedDict


class Sequence:
    """One (producer, destination): ``accepted`` <= what a Work will hold, ``released`` = what may be confirmed."""

    __slots__ = ("accepted", "released")

    def __init__(self, last: int = 0) -> None:
        self.accepted = last
        self.released = last


class Producers:
    """All pairs, least recently used first."""

    __slots__ = ("_rows", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._rows: OrderedDict[tuple[int, int], Sequence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def restore(self, producer: int, destination: int, last: int) -> None:
        """A row of the store."""
        self._rows[producer, destination] = Sequence(last)
        if len(self._rows) > self.most:
            self._rows.popitem(last=False)

    def find(self, producer: int, destination: int) -> Sequence:
        """The pair's sequence; a new pair expects 1 and is not kept before ``keep``."""
        key = (producer, destination)
        found = self._rows.get(key)
        if found is None:
            return Sequence()
        self._rows.move_to_end(key)
        return found

    def keep(self, producer: int, destination: int, sequence: Sequence) -> None:
        """Remember a pair of which something was accepted."""
        self._rows[producer, destination] = sequence
        if len(self._rows) > self.most:
            self._rows.popitem(last=False)

    def forget(self, destination: int) -> None:
        """The destination is removed."""
        for key in [key for key in self._rows if key[1] == destination]:
            del self._rows[key]
