"""The line from accepted to durable, without a service around it."""

from zmqha.core.commits import AcceptedSend, Commits, MergeMark
from zmqha.core.log_index import ValueTable
from zmqha.core.merge_report import MergeReport
from zmqha.core.position import Epoch
from zmqha.core.producers import Producers, Sequence
from zmqha.core.queues import Queue
from zmqha.core.work import DestinationRow, ProducerRow

KEPT, REMOVED = Queue(DestinationRow(1, "kept", 0, 0)), Queue(DestinationRow(2, "removed", 0, 0))
REPORT = MergeReport(1, 0, "winner", 1, "loser", Epoch(1, 1), 1)


def accept(commits: Commits, *queues: Queue) -> None:
    for first, queue in enumerate(queues, 1):
        commits.accept(AcceptedSend(b"", 0, queue, Sequence(), producer=queue.number, first=first, count=1, batch=bytes(1000)))


def test_what_was_forgotten_in_a_refused_work_is_forgotten_in_the_next_and_a_new_pair_is_unknown_again() -> None:
    producers = Producers(1)
    commits = Commits(ValueTable(), producers, 0)
    producers.restore([ProducerRow(7, 1, 57)])
    accept(commits, KEPT)
    producers.keep(KEPT.number, KEPT.number, Sequence())
    work = commits.take(1000, 0)
    assert work is not None and work.dropped_producers == ((7, 1),)
    commits.undo(work.number)
    accept(commits, REMOVED)

    again = commits.take(1000, 1)

    assert again is not None and set(again.dropped_producers) == {(7, 1), (KEPT.number, KEPT.number)}
    assert len(producers) == 0


def test_a_merge_mark_goes_with_the_last_send_before_it_whatever_is_removed_around_it() -> None:
    commits = Commits(ValueTable(), Producers(10), 0)
    accept(commits, KEPT, REMOVED, KEPT, REMOVED, KEPT)
    commits.mark(MergeMark("attempt", 1, REPORT, end=True))
    accept(commits, REMOVED, REMOVED, KEPT)
    commits.drop(REMOVED)

    works = [commits.take(1000, now_ms) for now_ms in range(4)]

    assert [len(work.appends) for work in works if work] == [1, 1, 1, 1]
    assert [len(work.reports) for work in works if work] == [0, 0, 1, 0]
