"""What the parts of the messaging core share while this server is active: tables, what waits for a commit, what goes out.

``Service`` owns the one ``Desk``; ``intake`` (producers), ``consumers`` and ``queue_admin`` (operators) work at it.
"""

from dataclasses import dataclass

from zmqha.core import client_protocol as wire
from zmqha.core import limits
from zmqha.core.actions import Fetch, SendToClient
from zmqha.core.client_protocol import Command, Durability, Refused
from zmqha.core.commits import Answer, Commits
from zmqha.core.delivery import Delivery
from zmqha.core.log_index import ValueTable
from zmqha.core.merge_report import MergeReport
from zmqha.core.message import check_name
from zmqha.core.position import NO_EPOCH, Epoch
from zmqha.core.producers import Producers
from zmqha.core.queues import Queue, Queues
from zmqha.core.session import Session
from zmqha.errors import ZmqhaError

Action = SendToClient | Fetch


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What the configuration says about messaging. Sizes in bytes, times in milliseconds."""

    server: str
    cluster: str
    endpoints: tuple[str, str]  # client endpoints of primary and secondary
    max_message_bytes: int = limits.MESSAGE_BYTES_MAX
    queue_messages: int = limits.QUEUE_MESSAGES_MAX  # limit of a queue that has none of its own
    queue_bytes: int = limits.QUEUE_BYTES_MAX
    queues: int = limits.DESTINATIONS_MAX
    sessions: int = limits.SESSIONS_MAX
    producers: int = limits.PRODUCER_ROWS_MAX
    cache_bytes: int = limits.CACHE_BYTES
    session_silence_ms: int = limits.SESSION_SILENCE_MS
    ping_ms: int = 1000


class Desk:
    """``clear`` makes it that of a server that serves nobody yet."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.epoch = NO_EPOCH
        self.epochs: tuple[
            Epoch, ...
        ] = ()  # of this store's history, the last LINEAGE_ENTRIES: offsets of these mean the same here
        self.actions: list[Action] = []
        self.delivery = Delivery(settings.cache_bytes)
        self.hold: ZmqhaError | None = None  # why sends are refused now: a property of the disk, it stays over ``clear``
        self.clear(0)

    def clear(self, last_value: int) -> None:
        """Forget everything that belongs to a term of being active."""
        self.sessions: dict[bytes, Session] = {}
        self.queues = Queues(self.settings.queues)
        self.values = ValueTable()
        self.producers = Producers(self.settings.producers)
        self.commits = Commits(self.values, self.producers, last_value)
        self.delivery.reset(self.settings.cache_bytes)
        self.durability = Durability.ONE_DISK  # what a confirm of something released earlier may promise
        self.refusal: Refused | None = None  # a switchover is under way
        self.reports: list[MergeReport] = []  # of merges, durable, oldest first

    def reconfigure(self, settings: ServiceSettings) -> None:
        """Other bounds, from now on."""
        self.settings = settings
        self.queues.most = settings.queues
        self.producers.most = settings.producers
        self.delivery.cache.resize(settings.cache_bytes)

    def send(self, client: bytes, request: int, command: Command) -> None:
        """A command for a client, under the present epoch; nobody waits for what a merge took in."""
        if not client:
            return
        self.actions.append(SendToClient(client, wire.encode(command, request=request, epoch=self.epoch)))

    def answer(self, answer: Answer) -> None:
        """An answer, as soon as everything so far is durable."""
        if not self.commits.answer_later(answer):
            self.send(*answer)

    def create(self, name: str, *, beyond: bool = False) -> Queue:
        """A new queue; raises BadName, LimitReached (not ``beyond`` the limit: for messages that were confirmed)."""
        queue = self.queues.create(check_name(name), beyond=beyond)
        self.commits.describe(queue)
        return queue
