"""A Beat as a datagram, and what a repeated one is worth."""

from zmqha.core import beat_notice
from zmqha.core.contact import LONG_AGO, Contact, Path
from zmqha.core.death_notice import DATAGRAM_BYTES_MAX
from zmqha.core.peer_protocol import NO_SESSION, Beat, Echo, Hello, Session, Standing, State, Sub, encode
from zmqha.core.position import NOWHERE, Epoch

SECRET = b"secret of the cluster"
ME, PEER = Session(7, 1), Session(9, 1)


def beat(seq: int = 1, reason: str = "in sync") -> Beat:
    return Beat(
        PEER, seq, 1000, State.PASSIVE, Sub.NONE, reason, Standing.PAIRED, Epoch(3, 4), NOWHERE, True, False, True, 5, False,
        (ME, 2), ME,
    )  # fmt: skip


def hello() -> Hello:
    return Hello(PEER, 1, 1, "cluster", "b", False, 4096, 1, True, (), "b:7400")


def test_a_beat_survives_the_way_and_anything_else_is_nothing() -> None:
    datagram = beat_notice.encode("cluster", 1, encode(beat()), SECRET)
    assert datagram is not None
    assert beat_notice.verify(datagram, SECRET, "cluster") == (1, beat())
    assert beat_notice.verify(datagram, b"another secret", "cluster") is None
    assert beat_notice.verify(datagram, SECRET, "another cluster") is None
    for at in range(len(datagram)):
        forged = bytearray(datagram)
        forged[at] ^= 1
        assert beat_notice.verify(bytes(forged), SECRET, "cluster") is None
        assert beat_notice.verify(datagram[:at], SECRET, "cluster") is None
    assert beat_notice.verify(datagram + b"\0" * DATAGRAM_BYTES_MAX, SECRET, "cluster") is None


def test_only_beats_are_taken_and_a_long_one_is_left_to_the_sockets() -> None:
    echo = beat_notice.encode("cluster", 0, encode(Echo(PEER, ME, 1, 1000)), SECRET)
    junk = beat_notice.encode("cluster", 0, b"\xc1", SECRET)
    assert echo is not None and junk is not None
    assert beat_notice.verify(echo, SECRET, "cluster") is None
    assert beat_notice.verify(junk, SECRET, "cluster") is None
    assert beat_notice.encode("cluster", 0, encode(beat(reason="x" * DATAGRAM_BYTES_MAX)), SECRET) is None


def test_a_beat_counts_once_per_path_as_a_sign_of_life() -> None:
    contact = Contact("cluster", "b", ME, [Path(), Path()])
    contact.hear_hello(0, hello(), 0, 600)
    contact.paths[0].heard_ms = LONG_AGO
    assert contact.peer_session == PEER != NO_SESSION
    assert contact.hear_beat(0, beat(5), 100)
    assert not contact.hear_beat(1, beat(5), 110)  # no news, but life on the other path
    assert not contact.hear_beat(0, beat(5), 200)  # by datagram as well
    assert not contact.hear_beat(1, beat(4), 200)  # an old one again
    assert [path.heard_ms for path in contact.paths] == [100, 110]
    assert contact.hear_beat(1, beat(6), 300)
    assert contact.heard_ms == 300
