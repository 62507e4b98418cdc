"""Recent batches of all queues, so that delivery does not read the store: bounded in bytes and in number, oldest out first."""

from collections import OrderedDict

from zmqha.core import limits

Key = tuple[int, int]  # destination, first offset of the batch


class BatchCache:
    """The newest batch always stays, whatever its size, so a batch just read from the store can be delivered."""

    __slots__ = ("_batches", "bytes", "most")

    def __init__(self, most_bytes: int) -> None:
        self._batches: OrderedDict[Key, bytes] = OrderedDict()
        self.most = most_bytes
        self.bytes = 0

    def get(self, key: Key) -> bytes | None:
        return self._batches.get(key)

    def put(self, key: Key, batch: bytes) -> None:
        """Add a batch as the newest; older ones go as needed."""
        self.drop(key)
        self._batches[key] = batch
        self.bytes += len(batch)
        self._shrink()

    def resize(self, most_bytes: int) -> None:
        """Another bound, from now on."""
        self.most = most_bytes
        self._shrink()

    def _shrink(self) -> None:
        while (self.bytes > self.most or len(self._batches) > limits.CACHE_BATCHES) and len(self._batches) > 1:
            self.bytes -= len(self._batches.popitem(last=False)[1])

    def drop(self, key: Key) -> None:
        """Its messages are done."""
        batch = self._batches.pop(key, None)
        if batch is not None:
            self.bytes -= len(batch)
