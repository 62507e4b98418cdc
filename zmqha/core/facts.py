"""What a node must remember about itself across a restart, apart from its store: the content of ``node.state``.

Never inside the replicated store: copying pages would overwrite it. Values only; written by ``store.node_state``, decided on by
``ha``.
"""

from typing import NamedTuple

from zmqha.core.peer_protocol import Standing
from zmqha.core.position import NO_EPOCH, Epoch

AUDIT_ENTRIES = 4  # operator acts kept
AUDIT_TEXT_MAX = 200  # characters of one
REASON_TEXT_MAX = 120


class NodeFacts(NamedTuple):
    """Identity and the last durable decision."""

    cluster_id: str
    node_id: str
    incarnation: int = 0  # +1 at each start
    epoch: Epoch = NO_EPOCH
    standing: Standing = Standing.NEW
    reason: str = ""  # of the last change of standing
    audit: tuple[str, ...] = ()  # last operator acts, oldest first
    doubted: bool = False  # BEHIND: the store was found not to hold what was written; its position says nothing about its bytes

    def bounded(self) -> "NodeFacts":
        """The same with everything that grows cut to its limit, oldest first."""
        return self._replace(
            reason=self.reason[:REASON_TEXT_MAX],
            audit=tuple(act[:AUDIT_TEXT_MAX] for act in self.audit[-AUDIT_ENTRIES:]),
        )
