"""B8, B9, B13-B16: wrong keys, replays, forged and old frames and notices, a cloned server."""

import shutil
import socket
import subprocess
import sys
import time

import pytest
import zmq

from tests.system.by_hand import MINE, Talker, connected, refused
from tests.system.cases_process import SERVING, other
from tests.system.load import Load
from tests.system.matrix import Run, case
from tests.system.pair import ROOT, Pair, pair
from tests.system.siege import siege
from tests.system.test_bad_input import ask, open_frames
from zmqha.core import beat_notice, death_notice, peer_protocol
from zmqha.core.client_protocol import Ack, Confirm, Send
from zmqha.core.message import batch_of
from zmqha.core.peer_protocol import NO_SESSION, Beat, Follow, Piece, Session, Standing, State, Stored, Sub
from zmqha.core.position import NOWHERE, Epoch, Position
from zmqha.errors import OutOfSequence, WrongState
from zmqha.server.config import load
from zmqha.server.keyring import load_keys

CLUSTER = "5f2c91ab5f2c91ab"


@case("B8", "wrong passwords, unknown users, other users' queues")
def passwords(run: Run) -> None:
    pytest.skip("this version knows no users, passwords or rights: who holds a client key may do everything")


@case("B16", "somebody else answers for the gateway")
def gateway_spoofed(run: Run) -> None:
    pytest.skip("a documented limit: whoever answers the ping is the gateway")


@case("B9", "keys: none, wrong, zero, the other port's; handshakes and death notices forged and replayed", timeout_s=180)
def wrong_keys(run: Run) -> None:
    with siege(run, curve=True) as both:
        for name in "ab":
            client, bulk = both.ports[name], both.peer_ports[name] + 1
            for port, server, own in (
                (client, "", ""), (client, "cluster/client_port", ""), (client, "client/client", "client/client"),
                (client, "cluster/client_port", f"{name}/peer"), (bulk, f"{name}/peer", "client/client"), (bulk, f"{name}/peer", ""),
                (bulk, "", ""),
            ):  # fmt: skip
                run.expect(
                    ask(both, zmq.DEALER, port, open_frames(), server, own) is None, f"{server}, {own} at {port} was answered"
                )
                run.runs += 1
        run.expect(zero_key_answers(both) is None, "the key of all zeros was answered")
        replay_handshake(run, both)
        forged_notices(run, both)
        passive = both.passive()  # the peer's place was not taken: it is found again
        run.expect(
            ask(both, zmq.DEALER, both.ports[both.active()], open_frames(), **MINE) is not None, "the right key is not served"
        )
        run.note("peer's place", f"{passive} kept it")


def zero_key_answers(both: Pair) -> list[bytes] | None:
    """A client whose own keys are zeros."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.RCVTIMEO, 500)
    zeros = zmq.utils.z85.encode(bytes(32))
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, zeros)
    dealer.setsockopt(zmq.CURVE_SECRETKEY, zeros)
    dealer.setsockopt(zmq.CURVE_SERVERKEY, both.public_key("cluster/client_port").encode())
    dealer.connect(f"tcp://127.0.0.1:{both.ports[both.active()]}")
    try:
        dealer.send_multipart(open_frames())
        return dealer.recv_multipart()
    except zmq.Again:
        return None
    finally:
        context.destroy(linger=0)


def replay_handshake(run: Run, both: Pair) -> None:
    """What an honest client sent, sent again on another connection: no answer of the application."""
    target = both.ports[both.active()]
    listener = socket.create_server(("127.0.0.1", 0))
    talker = Talker.__new__(Talker)
    keys = zmq.auth.load_certificate(both.directory / "keys" / "client" / "client.key_secret")
    super(Talker, talker).__init__(  # through the listener, which takes notes
        zmq.DEALER, listener.getsockname()[1], server_key=both.public_key("cluster/client_port"), keys=keys  # type: ignore[arg-type]
    )  # fmt: skip
    near, far = listener.accept()[0], connected(target)
    said = bytearray()
    talker.socket.send_multipart(open_frames())
    end = time.monotonic() + 2
    heard = 0
    for each in (near, far):
        each.setblocking(False)
    while time.monotonic() < end:
        for source, sink, notes in ((near, far, said), (far, near, None)):
            try:
                data = source.recv(65536)
            except BlockingIOError:
                continue
            sink.sendall(data)
            if notes is None:
                heard += len(data)
            else:
                notes += data
        time.sleep(0.001)
    talker.close()
    again = connected(target)
    again.settimeout(2)
    answered = b""
    try:
        again.sendall(bytes(said))
        while data := again.recv(65536):
            answered += data
    except OSError:
        pass
    run.note("bytes heard by the honest one, by the replay", [heard, len(answered)])
    run.expect(heard > 300 and b"MESSAGE" not in answered, f"a replayed handshake was answered with {answered[-60:]!r}")
    for each in (near, far, again, listener):
        each.close()


def forged_notices(run: Run, both: Pair) -> None:
    """Deaths and Beats by UDP: of strangers, of the past, of other clusters."""
    secret = load_keys(load(both.config, "a")).mac_secret
    active, passive = both.active(), both.passive()
    incarnation = max(int(line.split("incarnation=")[1]) for line in both[passive].events("server.start"))
    beat = Beat(
        Session(incarnation - 1, 1), 10**9, 1, State.STANDALONE, Sub.NONE, "forged", Standing.SOLE, Epoch(99, 1), NOWHERE, True, True,
        True, 1, False, (NO_SESSION, 0), NO_SESSION,
    )  # fmt: skip
    old = beat_notice.encode(CLUSTER, 0, peer_protocol.encode(beat), secret)
    mine = beat_notice.encode(CLUSTER, 0, peer_protocol.encode(beat), b"f" * 32)
    assert old is not None and mine is not None
    datagrams = [
        death_notice.encode(CLUSTER, passive, incarnation, b"f" * 32), death_notice.encode("another", passive, incarnation, secret),
        death_notice.encode(CLUSTER, passive, incarnation - 1, secret), death_notice.encode(CLUSTER, active, incarnation, secret),
        death_notice.encode(CLUSTER, passive, incarnation + 1, secret), old, mine, b"", run.chance.randbytes(100), bytes(1200),
    ]  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(30):
            for datagram in datagrams:
                for host in ("127.0.0.1", "127.0.0.2"):
                    sender.sendto(datagram, (host, both.peer_ports[active]))
            time.sleep(0.02)
    time.sleep(0.5)
    run.expect(both.state(active) == "ACTIVE" and both.state(passive) == "PASSIVE", "a forged or old notice was believed")


@case("B13", "publishes and acknowledgements recorded and sent again", timeout_s=120)
def replays(run: Run) -> None:
    """The same (producer, sequence) is a duplicate wherever it comes from; an acknowledgement belongs to its session."""
    with siege(run, curve=True) as both:
        batch = batch_of([b"one", b"two"], producer=4711, first=1)
        talker = Talker(both).opened()
        run.expect(talker.say(Send("b13", batch)) == Confirm("b13", 4711, 2, 2), "the first is confirmed")
        thief = Talker(both).opened()
        for who in (talker, thief, talker):
            run.expect(who.say(Send("b13", batch)) == Confirm("b13", 4711, 2, 2), "a duplicate is confirmed as such")
        refused(run, thief.say(Send("b13", batch_of([b"x"], producer=4711, first=9))), OutOfSequence, what="a jump")
        refused(run, thief.say(Ack(1, ((0, 1),))), WrongState, what="another session's ACK")
        thief.close()
        talker.close()
        with both.connect() as client:
            bodies = [message.body for message in client.consume("b13", timeout=1)]
        run.expect(bodies == [b"one", b"two"], f"stored: {bodies}")
        run.note("admin nonces", "skipped: this version knows no users")
        run.runs += 5


@case("B14", "frames of the peer, old, of other sessions and epochs, out of order", timeout_s=120)
def old_peer_frames(run: Run) -> None:
    """By a holder of the peer's key, at the bulk port: nothing of it counts."""
    with siege(run, curve=True) as both:
        active, passive = both.active(), both.passive()
        peer = {"server": f"{active}/peer", "own": f"{passive}/peer"}
        incarnation = max(int(line.split("incarnation=")[1]) for line in both[passive].events("server.start"))
        mine = max(int(line.split("incarnation=")[1]) for line in both[active].events("server.start"))
        position = Position(Epoch(1, 1), 1 << 40, bytes(32))
        for session in (Session(incarnation - 1, 1), Session(incarnation, 0), Session(incarnation + 1, 1), NO_SESSION):
            for to in (Session(mine, 0), Session(mine - 1, 1), NO_SESSION):
                for message in (
                    Follow(session, to, NOWHERE, 1 << 40),
                    Stored(session, to, 1, position, 1 << 60),
                    Piece(session, to, position, 0, 1),
                ):
                    ask(both, zmq.DEALER, both.peer_ports[active] + 1, [peer_protocol.encode(message)], **peer)
                    run.runs += 1
        run.expect(both.state(active) == "ACTIVE" and both.state(passive) == "PASSIVE", "an old frame changed a role")
        run.note("pages of other epochs, beyond the map, meta pages as data", "the fuzz targets peer and replica")


@case("B15", "a clone of the passive, with its key and its disk", timeout_s=180)
def cloned_server(run: Run) -> None:
    """The pair keeps its roles and loses nothing; the clone never serves."""
    with pair(curve=True) as both:
        load = Load(both.url, rate=50)
        load.wait_confirmed()
        original = "b"
        if both.active() == original:
            both.admin(original, "switchover")
            both.wait(lambda: both.state("a") in SERVING, "a serving")
            both.wait_in_sync()
        both[original].kill()
        shutil.copytree(both[original].data, both.directory / "clone" / "data")
        both[original].start()
        both.wait_in_sync(60)
        process = start_clone(both, original)
        try:
            seen = []
            end = time.monotonic() + run.pick(6, 30)
            while time.monotonic() < end:
                seen.append((both.state("a"), both.state(original)))
                run.expect(process.poll() is None, f"the clone ended with {process.poll()}")
                time.sleep(0.1)
            log = (both.directory / "clone.log").read_text()
            run.expect(" ha.standalone " not in log and " ha.active " not in log, "the clone served")
            serving = [sum(state in SERVING for state in states) for states in seen]
            run.expect(max(serving) <= 1, "two served")
            run.note("states beside a clone", sorted({"/".join(states) for states in seen}))
        finally:
            process.kill()
            process.wait()
        both.wait_in_sync(90)
        load.wait_confirmed()
        run.judge(load.settle())
        both.assert_equal_stores()
        run.expect(both.state(other(original)) in SERVING, "the roles changed for good")
        run.runs += 1


def start_clone(both: Pair, name: str) -> "subprocess.Popen[bytes]":
    """A third process that says it is ``name``, on other ports."""
    text = both.config.read_text()
    spare = both.ports["b"] + 2  # the last two of the pair's block of eight are free
    for port, instead in ((both.ports[name], spare + 1), (both.peer_ports[name], spare + 400)):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{instead}")
    text = text.replace(f'data_dir = "{name}/data"', 'data_dir = "clone/data"')
    file = both.directory / "clone.toml"
    file.write_text(text)
    with (both.directory / "clone.log").open("wb") as log:
        command = [sys.executable, str(ROOT / "tests" / "system" / "serve.py"), str(file), name]
        return subprocess.Popen(command, stdout=log, stderr=log, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
