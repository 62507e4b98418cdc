"""The client port and the bulk port: whole messages, honest answers about what became of them, bounded turns."""

import socket

import pytest
import zmq

from tests.transport.conftest import Party, dial, endpoint_of, until
from zmqha.core import limits
from zmqha.errors import ConfigError
from zmqha.transport.bulk import BulkFollower, BulkSource
from zmqha.transport.clients import Clients, Sent
from zmqha.transport.security import KeyGate
from zmqha.transport.sockets import CURVE_BYTES, Context

ANYWHERE = ["tcp://127.0.0.1:*"]


@pytest.fixture
def clients(context: Context) -> Clients:
    return Clients(context, ANYWHERE)


def taken(clients: Clients, count: int, budget: int = 64) -> list[tuple[bytes, list[bytes]]]:
    got: list[tuple[bytes, list[bytes]]] = []
    until(lambda: len(got) >= count, lambda: got.extend(clients.receive(budget)))
    return got


def test_messages_of_one_and_two_frames_go_both_ways(clients: Clients, outside: Context) -> None:
    client = dial(outside, zmq.DEALER, endpoint_of(clients.socket))
    client.send(b"open")
    client.send_multipart([b"send", bytes(limits.BATCH_BYTES_MAX)])

    (name, first), (_, second) = taken(clients, 2)
    assert first == [b"open"]
    assert second == [b"send", bytes(limits.BATCH_BYTES_MAX)]

    assert clients.send(name, [b"opened"]) is Sent.OK
    assert clients.send(name, [b"deliver", b"x" * limits.DELIVER_BYTES_TARGET]) is Sent.OK
    assert client.recv_multipart() == [b"opened"]
    assert client.recv_multipart() == [b"deliver", b"x" * limits.DELIVER_BYTES_TARGET]


def test_a_turn_takes_no_more_than_its_budget(clients: Clients, outside: Context) -> None:
    client = dial(outside, zmq.DEALER, endpoint_of(clients.socket))
    for _ in range(30):
        client.send(b"ping")
    assert until(lambda: clients.socket.poll(0))
    sizes: list[int] = []
    until(lambda: sum(sizes) == 30, lambda: sizes.append(len(clients.receive(7))))
    assert max(sizes) <= 7


def test_a_client_that_left_is_gone(clients: Clients, outside: Context) -> None:
    client = dial(outside, zmq.DEALER, endpoint_of(clients.socket))
    client.send(b"open")
    ((name, _),) = taken(clients, 1)
    client.close()
    assert until(lambda: clients.send(name, [b"x"]) is Sent.GONE)
    assert clients.send(b"never seen", [b"x", b"y"]) is Sent.GONE


def test_a_client_that_does_not_read_is_full_and_others_are_served(clients: Clients, outside: Context) -> None:
    lazy, eager = (dial(outside, zmq.DEALER, endpoint_of(clients.socket)) for _ in range(2))
    lazy.setsockopt(zmq.RCVHWM, 1)
    lazy.send(b"lazy")
    ((lazy_name, _),) = taken(clients, 1)
    eager.send(b"eager")
    ((eager_name, _),) = taken(clients, 1)

    sent = 0
    while clients.send(lazy_name, [b"deliver", bytes(limits.KIB)]) is Sent.OK:
        sent += 1
        assert sent < 50_000
    assert sent >= limits.CREDIT_MESSAGES_MAX  # all that one consumer may have outstanding fits
    assert clients.send(lazy_name, [b"small"]) is Sent.FULL
    assert clients.send(eager_name, [b"confirm"]) is Sent.OK
    assert eager.recv() == b"confirm"


def test_too_many_frames_are_cut_and_the_next_message_is_whole(clients: Clients, outside: Context) -> None:
    client = dial(outside, zmq.DEALER, endpoint_of(clients.socket))
    client.send_multipart([b"f"] * 10_000)
    client.send_multipart([b"a", b"b", b"c"])
    client.send(b"honest")
    (_, first), (_, second), (_, third) = taken(clients, 3)
    assert len(first) == 3
    assert second == [b"a", b"b", b"c"]
    assert third == [b"honest"]
    assert clients.cut == 1


def test_a_frame_above_the_limit_closes_only_its_connection(clients: Clients, outside: Context) -> None:
    greedy, honest = (dial(outside, zmq.DEALER, endpoint_of(clients.socket)) for _ in range(2))
    greedy.send(bytes(limits.CLIENT_FRAME_BYTES_MAX + CURVE_BYTES + 1))
    honest.send(b"honest")
    assert [frames for _, frames in taken(clients, 1)] == [[b"honest"]]


def test_only_client_keys_are_admitted_and_refusals_make_one_line_a_second(
    context: Context, outside: Context, party: Party, gate: KeyGate
) -> None:
    clients = Clients(context, ANYWHERE, party.own)
    where = endpoint_of(clients.socket)
    refused = [dial(outside, zmq.DEALER, where, keys, party.own.public) for keys in (party.peer, party.stranger)]
    bare = dial(outside, zmq.DEALER, where)
    honest = dial(outside, zmq.DEALER, where, party.client, party.own.public)
    for one in (*refused, bare, honest):
        one.send(b"x")
    got: list[object] = []
    assert until(lambda: got and gate.refusals >= 2, gate.receive, lambda: got.extend(clients.receive(9)))
    until(lambda: False, gate.receive, lambda: got.extend(clients.receive(9)), within_s=0.1)
    assert len(got) == 1

    line = gate.line(5000)
    assert line is not None
    assert "127.0.0.1 on the client port: unknown key" in line
    gate.refusals += 1
    assert gate.line(5999) is None
    assert gate.line(6000) is not None


def test_a_port_that_is_taken_is_a_config_error(context: Context) -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        with pytest.raises(ConfigError, match="cannot listen"):
            Clients(context, [f"tcp://127.0.0.1:{taker.getsockname()[1]}"])


def test_an_address_that_is_not_here_does_not_keep_the_others_from_serving(context: Context, outside: Context) -> None:
    clients = Clients(context, ["tcp://240.0.0.1:7001", *ANYWHERE])
    clients.tick(1000)
    assert clients.waiting == ["tcp://240.0.0.1:7001"]
    client = dial(outside, zmq.DEALER, endpoint_of(clients.socket))
    client.send(b"x")
    assert len(taken(clients, 1)) == 1


# --- bulk -------------------------------------------------------------------------------------------------------------------


def test_a_follower_that_connects_again_has_a_new_name_and_the_old_one_takes_nothing(
    context: Context, outside: Context, party: Party, gate: KeyGate
) -> None:
    source = BulkSource(context, ANYWHERE, party.own)
    follower = BulkFollower(outside, party.peer, party.own.public)
    assert not follower.send([b"too early"])
    names: list[bytes] = []
    chunk = [b"piece", b"head", bytes(limits.CHUNK_BYTES_MAX)]
    for _ in range(2):
        follower.connect(endpoint_of(source.socket))
        assert until(lambda: follower.send([b"follow"]), gate.receive)
        got: list[tuple[bytes, list[bytes]]] = []
        assert until(lambda g=got: g, lambda g=got: g.extend(source.receive(9)))
        assert got[0][1] == [b"follow"]
        names.append(got[0][0])
        assert source.send(names[-1], chunk)
        pieces: list[list[bytes]] = []
        assert until(lambda p=pieces: p, lambda p=pieces: p.extend(follower.receive(9)))
        assert pieces == [chunk]
    assert names[0] != names[1]
    assert until(lambda: not source.send(names[0], [b"old"]))
    assert source.send(names[1], [b"new"])


def test_a_follower_that_does_not_read_makes_the_source_say_no(context: Context, outside: Context) -> None:
    source = BulkSource(context, ANYWHERE)
    follower = BulkFollower(outside)
    follower.connect(endpoint_of(source.socket))
    assert until(lambda: follower.send([b"follow"]))
    got: list[tuple[bytes, list[bytes]]] = []
    assert until(lambda: got, lambda: got.extend(source.receive(9)))
    sent = 0
    while source.send(got[0][0], [b"copy", bytes(16 * limits.KIB)]):
        sent += 1
        assert sent < 5000
    assert sent >= 256


def test_a_clients_key_does_not_follow(context: Context, outside: Context, party: Party, gate: KeyGate) -> None:
    source = BulkSource(context, ANYWHERE, party.own)
    follower = BulkFollower(outside, party.client, party.own.public)
    follower.connect(endpoint_of(source.socket))
    assert not until(lambda: follower.send([b"follow"]), gate.receive, within_s=0.2)
    assert gate.refusals > 0
