"""B10, B11, B17, B18: names, bombs, fields out of range, full queues, said by a client with the right key."""

import unicodedata

import msgspec

from tests.system.by_hand import Talker, refused
from tests.system.matrix import Run, case
from tests.system.siege import siege
from zmqha.core import limits
from zmqha.core.client_protocol import HEADER, Admin, Code, Confirm, Failure, Open, Opened, Ping, Pong, Reply, Send, Subscribe
from zmqha.core.message import HEADER as BATCH
from zmqha.core.message import batch_of
from zmqha.errors import BadName, LimitReached, OperationFailed, OutOfSequence, ProtocolError, QueueFull

NAMES = (
    "../x", "/etc/passwd", "a/../b", "a//b", ".", "..", "a/.", "", "nul\0", "line\nline", "a" * 201, "a" * 65_000, "*", "a.>", "a b",
    "é", unicodedata.normalize("NFD", "é"), "\u202eright-to-left", "\ufeffbom", "a\u200bb", "%2e%2e", "a\\b", "\ud7ff", "name;drop",
)  # fmt: skip


@case("B10", "names that are none", timeout_s=120)
def names(run: Run) -> None:
    with siege(run, curve=True) as both:
        talker = Talker(both).opened()
        for number, name in enumerate(NAMES):
            shown = repr(name[:30])
            answers = {
                "SEND": talker.say(Send(name, batch_of([b"x"], producer=1000 + number, first=1))),
                "SUBSCRIBE": talker.say(Subscribe(number, name, 1, 1)) if talker.say(Ping()) == Pong() else "the session is over",
                "queue.add": talker.say(Admin("queue.add", {"name": name})),
            }
            for verb, answer in answers.items():
                if answer == "the session is over":  # a name of 64 KiB is a breach of the grammar
                    continue
                refused(run, answer, BadName, ProtocolError, OperationFailed, what=f"{verb} of {shown}")  # type: ignore[arg-type]
            if not isinstance(talker.say(Ping()), Pong):
                talker.close()
                talker = Talker(both).opened()
            run.runs += 1
        twins = [talker.say(Admin("queue.add", {"name": name})) for name in ("Twin", "twin", "a" * 200, "a.b/c-d_e")]
        run.expect(all(isinstance(answer, Reply) for answer in twins), f"{twins}")
        listed = talker.say(Admin("queue.ls"))
        assert isinstance(listed, Reply)
        run.expect({"Twin", "twin"} <= {row["name"] for row in listed.result["queues"]}, "names that differ in case are two")
        known = {path.name for name in "ab" for path in both[name].data.iterdir()}
        run.expect(not any("win" in name for name in known), f"a name became a file: {known}")
        talker.close()


def nested(depth: int) -> bytes:
    return b"\x82\xa4verb\xaaswitchover\xa9arguments\x81\xa2to" + b"\x91" * depth + b"\xc0"


def admin(body: bytes) -> list[bytes]:
    return [HEADER.pack(0x5A, 1, Code.ADMIN, 0, 1, 0, 0) + body]


@case("B11", "deep, large, doubled and odd values in commands", timeout_s=120)
def bombs(run: Run) -> None:
    """Clients speak MessagePack, not JSON: the same bombs in its words."""
    many = msgspec.msgpack.encode({f"k{number}": 0 for number in range(1 << 15)})
    wrong = [
        *(nested(depth) for depth in (100, 900, 1000, 30_000, 60_000)), b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff" * 1000,
        b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", many, b"\x82\xa4verb\xa6status\xa4verb\xa9queue.add",
        b"\x82\xa4verb\xa6status\xa9arguments\x81\xa1x\xcb\x7f\xf8" + bytes(6), b"\x81\xa4verb\xa3\xed\xa0\x80", b"\xc1", b"",
        b"\x82\xa4verb\xa9queue.add\xa9arguments\x82\xa4name\xa1q\xacmax_messages\xcf" + b"\xff" * 8,
        b"\x82\xa4verb\xa9queue.add\xa9arguments\x82\xa4name\xa1q\xacmax_messages\xd3\x80" + bytes(7), bytes(1 << 20),
        b"\x82\xa4verb\xa9queue.add\xa9arguments\x81\xa4name\xc7\x03\x05abc", b"\x83" + b"\xa4verb\xa6status" * 3,
    ]  # fmt: skip
    with siege(run, curve=True, growth_mib=100) as both:
        for body in wrong:
            for name in "ab":
                talker = Talker(both, name)
                answer = talker.say(admin(body))
                run.expect(isinstance(answer, Failure | Reply), f"{body[:20]!r} was answered with {answer}")
                for said in (Subscribe, Open):
                    code = Code.SUBSCRIBE if said is Subscribe else Code.OPEN
                    answer = talker.say([HEADER.pack(0x5A, 1, code, 0, 1, 0, 0) + body])
                    run.expect(not isinstance(answer, Opened), f"{body[:20]!r} opened a session")
                talker.close()
                run.runs += 1


def with_fields(batch: bytes, **changes: int) -> bytes:
    """A batch of one message with other fields in its head."""
    names_ = ("version", "flags", "mode", "priority", "count", "producer", "first", "expiry", "deliver_at", "base", "zero")
    fields = dict(zip(names_, BATCH.unpack_from(batch), strict=True)) | changes
    return BATCH.pack(*fields.values()) + batch[BATCH.size :]


@case("B17", "fields of a batch out of range, sequences that jump", timeout_s=120)
def out_of_range(run: Run) -> None:
    with siege(run, curve=True) as both:
        batch = batch_of([b"x"], producer=1, first=1)
        huge = (1 << 64) - 1
        wrong = {
            "priority": (10, 255), "mode": (0, 9), "count": (0, 1001, 1 << 31), "first": (0, 1 << 63, huge), "base": (7,),
            "version": (0, 2),
        }  # fmt: skip
        for changes in ({name: value} for name, values in wrong.items() for value in values):
            talker = Talker(both).opened()
            refused(run, talker.say(Send("b17", with_fields(batch, **changes))), ProtocolError, what=f"{changes}")
            talker.close()
            run.runs += 1
        talker = Talker(both).opened()
        for number, changes in enumerate(({"expiry": huge}, {"deliver_at": huge}, {"expiry": 1})):
            answer = talker.say(Send("b17", with_fields(batch_of([b"y"], producer=50 + number, first=1), **changes)))
            run.expect(isinstance(answer, Confirm | Failure), f"{changes} was answered with {answer}")
            run.note(f"{changes}", type(answer).__name__ + ": not looked at in this version" * isinstance(answer, Confirm))
        talker.say(Send("b17", batch_of([b"1", b"2", b"3"], producer=9, first=1)))
        run.expect(
            talker.say(Send("b17", batch_of([b"2"], producer=9, first=2))) == Confirm("b17", 9, 3, 2), "backwards is a duplicate"
        )
        for jump in (5, 1 << 40, (1 << 63) - 5):
            refused(
                run, talker.say(Send("b17", batch_of([b"z"], producer=9, first=jump))), OutOfSequence, what=f"a jump to {jump}"
            )
        talker.close()
        run.note("time to live, priorities of a queue", "skipped: not in this version")


@case("B18", "a queue filled to its limit", timeout_s=120)
def full_queue(run: Run) -> None:
    with siege(run, curve=True) as both:
        talker = Talker(both).opened()
        talker.say(Admin("queue.add", {"name": "small", "max_messages": 1000}))
        talker.say(Admin("queue.add", {"name": "thin", "max_bytes": 100_000}))
        stored = 0
        for first in range(1, 1301, 100):
            answer = talker.say(Send("small", batch_of([b"x"] * 100, producer=3, first=first)))
            if isinstance(answer, Confirm):
                stored = answer.up_to
            else:
                refused(run, answer, QueueFull, OutOfSequence, what="one beyond the limit")
        run.expect(stored == 1000, f"{stored} of 1000 messages were taken")
        refused(run, talker.say(Send("thin", batch_of([bytes(200_000)], producer=3, first=1))), QueueFull, what="too many bytes")
        run.expect(
            isinstance(talker.say(Send("next", batch_of([b"x"], producer=3, first=1))), Confirm), "another queue is affected"
        )
        for number in range(limits.SUBSCRIPTIONS_PER_SESSION):
            talker.say(Subscribe(number, "small", 0, 0))
        refused(run, talker.say(Subscribe(200, "small", 1, 1)), LimitReached, what="one subscription more")
        talker.close()
        with both.connect(prefetch=100) as client:
            run.expect(sum(1 for _ in client.consume("small", timeout=1)) == 1000, "not all came back")
        run.note("fan-out to many subscribers", "skipped: this version has no topics")
        run.runs += 1
