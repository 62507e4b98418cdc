"""De-duplication: the last sequence of each (producer, destination), accepted and released.

A batch carries consecutive sequences; only the next one is taken. When the table is full, the pair that was idle longest is forgotten,
here and, with the next Works, in the store: a producer that comes back after that is told to number from 1. No clock is asked: the next
server, whatever its clock says, knows the pairs that this one knew, in the order in which they were used.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from zmqha.core.work import ProducerRow

Pair = tuple[int, int]  # producer, destination


class Sequence:
    """One (producer, destination): ``accepted`` <= what a Work will hold, ``released`` = what may be confirmed."""

    __slots__ = ("accepted", "released")

    def __init__(self, last: int = 0) -> None:
        self.accepted = last
        self.released = last


class Producers:
    """All pairs, least recently used first."""

    __slots__ = ("_forgotten", "_rows", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._rows: OrderedDict[Pair, Sequence | int] = OrderedDict()  # a number: as it was in the store, not used since
        self._forgotten: dict[Pair, None] = {}  # still in the store

    def __len__(self) -> int:
        return len(self._rows)

    def restore(self, rows: Iterable[ProducerRow]) -> None:
        """Those of the store, least recently used first."""
        self._rows = OrderedDict(((producer, destination), last) for producer, destination, last in rows)
        self._forget_surplus()

    def find(self, producer: int, destination: int) -> Sequence:
        """The pair's sequence; a new pair expects 1 and is not kept before ``keep``."""
        key = (producer, destination)
        found = self._rows.get(key)
        if found is None:
            return Sequence()
        if isinstance(found, int):
            found = self._rows[key] = Sequence(found)
        self._rows.move_to_end(key)
        return found

    def keep(self, producer: int, destination: int, sequence: Sequence) -> None:
        """Remember a pair of which something was accepted."""
        self._rows[producer, destination] = sequence
        self._forgotten.pop((producer, destination), None)
        self._forget_surplus()

    def take_back(self, producer: int, destination: int) -> None:
        """Of a pair that was new nothing was stored after all."""
        self._rows.pop((producer, destination), None)
        self._forgotten[producer, destination] = None

    def forget(self, destination: int) -> None:
        """The destination is removed."""
        for key in [key for key in self._rows if key[1] == destination]:
            del self._rows[key]

    def collect(self, most: int) -> tuple[Pair, ...]:
        """Up to so many forgotten pairs whose rows the store is to delete now."""
        taken = tuple(islice(self._forgotten, most))
        for key in taken:
            del self._forgotten[key]
        return taken

    def put_back(self, pairs: Iterable[Pair]) -> None:
        """Their rows were not deleted after all."""
        self._forgotten.update((pair, None) for pair in pairs if pair not in self._rows)

    def _forget_surplus(self) -> None:
        while len(self._rows) > self.most:
            key, _ = self._rows.popitem(last=False)
            self._forgotten[key] = None
