"""One line per event in fixed columns: tick, node, state, epoch, transaction, event. Formatted only when somebody reads it."""

from collections import deque

KEPT = 4000  # lines before a failure that are printed at most


class Trace:
    """What happened, in order."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str, str, int, int, str]] = deque(maxlen=KEPT)

    def add(self, now_ms: int, node: str, state: str, epoch: int, txn: int, event: str) -> None:
        """One line."""
        self._lines.append((now_ms, node, state, epoch, txn, event))

    def text(self, last: int = KEPT) -> str:
        """The newest lines."""
        lines = list(self._lines)[-last:]
        head = f"{'ms':>8}  {'node':<4} {'state':<12} {'epoch':>5} {'txn':>6}  event"
        rows = (f"{ms:>8}  {node:<4} {state:<12} {epoch:>5} {txn:>6}  {what}" for ms, node, state, epoch, txn, what in lines)
        return "\n".join([head, *rows])
