"""B1-B7: garbage, wrong frames, too much, too slow, too many, at the ports of a running pair."""

import contextlib
import socket
import struct
import time

import zmq

from tests.system.by_hand import GREETING, MINE, Talker, closed_after, connected, joined, ports, refused
from tests.system.matrix import Run, case
from tests.system.pair import Pair
from tests.system.siege import siege
from tests.system.test_bad_input import ask, open_frames, wrong_messages
from zmqha.core import limits
from zmqha.core.client_protocol import (
    HEADER,
    Ack,
    Acked,
    Code,
    Confirm,
    Deliver,
    Failure,
    Open,
    Opened,
    Send,
    Subscribe,
    decode,
    encode,
)
from zmqha.core.message import batch_of
from zmqha.errors import LimitReached, ProtocolError, VersionMismatch, WrongState

HELD = 50  # connections at once


@case("B1", "random bytes on thousands of connections", quick=2000, full=100_000, timeout_s=300)
def random_bytes(run: Run) -> None:
    for curve in (True, False):
        # Without CURVE libzmq takes some garbage for a peer of its first version, and forgets to close what the other side has closed.
        with siege(run, curve=curve, descriptors=8 if curve else run.count // 10) as both:
            held: list[socket.socket] = []
            for number in range(run.count // 2):
                raw = connected(run.chance.choice(ports(both)))
                held.append(raw)
                size = min(1 << 20, int(2 ** (run.chance.random() * 20)))
                with contextlib.suppress(OSError):
                    raw.settimeout(0.5)
                    raw.sendall((GREETING[:12] if number % 5 == 0 else b"") + run.chance.randbytes(size))
                if len(held) >= HELD:
                    held.pop(run.chance.randrange(HELD)).close()
                run.runs += 1
            for raw in held:
                raw.close()
            answer = ask(both, zmq.DEALER, both.ports[both.active()], open_frames(), **(MINE if curve else {}))
            run.expect(answer is not None, "nobody is served afterwards")


@case("B2", "valid ZMTP, wrong messages", quick=20, full=300, timeout_s=180)
def wrong_frames(run: Run) -> None:
    """Frame counts, empty frames, 10,000 frames, truncated headers, wrong types; by clients, and by a holder of the peer's key."""
    # A second connection to a PAIR is kept by libzmq until the link is rebuilt; only a holder of the peer's key can make one.
    with siege(run, curve=True, descriptors=8 + run.count) as both:
        active, passive = both.active(), both.passive()
        peer = {"server": f"{active}/peer", "own": f"{passive}/peer"}
        for _ in run.rounds():
            wrong = [
                *wrong_messages(run.chance),
                [b""] * 10_000,
                [open_frames()[0][:-1]],
                [b"\xc1"],
                [b"", run.chance.randbytes(50)],
            ]
            for frames in run.chance.sample(wrong, 6):
                stranger = Talker(both, run.chance.choice("ab"))
                stranger.ask(frames, 50)
                stranger.close()
            ask(both, zmq.DEALER, both.peer_ports[active] + 1, run.chance.choice(wrong), **peer)
            ask(both, zmq.PAIR, both.peer_ports["a"], run.chance.choice(wrong), **peer)


@case("B3", "frames of 4 GiB; messages below, at and above the limit", timeout_s=120)
def large_frames(run: Run) -> None:
    with siege(run, curve=False, growth_mib=150) as both:
        for name in "ab":
            for port in (both.ports[name], both.peer_ports[name] + 1):
                raw = joined(port)
                raw.sendall(b"\x02" + struct.pack(">Q", 4 << 30) + b"x" * 1000)
                after = closed_after(raw, 3)
                run.expect(after is not None, f"a frame of 4 GiB at port {port} did not close the connection")
                raw.close()
                run.runs += 1
        talker = Talker(both).opened()
        for size, taken in (
            (limits.MESSAGE_BYTES_MAX - 1, True),
            (limits.MESSAGE_BYTES_MAX, True),
            (limits.MESSAGE_BYTES_MAX + 1, False),
        ):
            answer = talker.say(Send(f"large-{size}", batch_of([bytes(size)], producer=size, first=1)), 10_000)
            run.expect(isinstance(answer, Confirm) is taken, f"a message of {size} bytes was answered with {str(answer)[:100]}")
        talker.close()
        beyond = Talker(both)
        run.expect(
            beyond.say([open_frames()[0], bytes(limits.CLIENT_FRAME_BYTES_MAX + 100)]) is None,
            "a frame above the limit was answered",
        )
        beyond.close()


@case("B4", "other versions, unknown commands, the wrong state", timeout_s=120)
def wrong_state(run: Run) -> None:
    """Answered by name; what the pair is does not change."""
    with siege(run, curve=True) as both:
        for version in (0, 2, 255):
            talker = Talker(both)
            refused(run, talker.say([bytes([0x5A, version]) + open_frames()[0][2:]]), VersionMismatch, what=f"version {version}")
            refused(run, talker.say(Open((version or 256, 256), "x")), VersionMismatch, what=f"OPEN of {version}")
            talker.close()
        for code in (0, 13, 14, 15, 22, 99, 255):
            talker = Talker(both).opened()
            refused(run, talker.say([HEADER.pack(0x5A, 1, code, 0, 1, 0, 0)]), ProtocolError, what=f"command {code}")
            talker.close()
        talker = Talker(both)
        for command in (Send("q", batch_of([b"x"], producer=5, first=1)), Subscribe(1, "q", 1, 1), Ack(1, ((0, 1),))):
            refused(run, talker.say(command), WrongState, what=f"{type(command).__name__} before OPEN")
        for words in (Opened("s", "c", ("", ""), 1, 1, 1, 1, 1), Confirm("q", 1, 1, 2), Acked(1, ())):
            server = Talker(both).opened()
            refused(run, server.say(words), ProtocolError, what=f"a client's {type(words).__name__}")
            server.close()
        refused(
            run,
            talker.say([HEADER.pack(0x5A, 1, Code.SEND, 0, 1, 0, 0) + b"q", b""]),
            WrongState,
            ProtocolError,
            what="empty SEND",
        )
        talker.close()
        run.runs += 20


@case("B5", "one byte at a time", timeout_s=180)
def slowly(run: Run) -> None:
    """A slow handshake ends at HANDSHAKE_MS; a slow message holds nobody up but its own connection."""
    for curve in (True, False):
        with siege(run, curve=curve) as both:
            slow = {port: connected(port) for port in ports(both)}
            ends: dict[int, float] = {}
            began = time.monotonic()
            for byte in GREETING * 2:
                for port, raw in slow.items():
                    if port in ends:
                        continue
                    try:
                        raw.sendall(bytes([byte]))
                    except OSError:
                        ends[port] = time.monotonic() - began
                if len(ends) == len(slow) or time.monotonic() - began > 10:
                    break
                time.sleep(0.25)
            for port, raw in slow.items():
                run.expect(ends.get(port, 99) < 5, f"a slow handshake at port {port} was not ended: {ends}")
                raw.close()
            run.note("slow handshakes ended after", round(max(ends.values(), default=99.0), 2))
            if not curve:
                dripping = [joined(both.ports[name]) for name in "ab"]
                for raw in dripping:
                    raw.sendall(b"\x02" + struct.pack(">Q", 1 << 20))
                for _ in range(run.pick(6, 45)):
                    for raw in dripping:
                        with contextlib.suppress(OSError):
                            raw.sendall(b"x")
                    time.sleep(1)
                run.note(
                    "slow messages", "bounded by the client's frame limit and the number of connections; no deadline of their own"
                )
                for raw in dripping:
                    raw.close()
            run.runs += 1


@case("B6", "a consumer that never reads, never acknowledges, acknowledges what is not its own", timeout_s=180)
def bad_consumers(run: Run) -> None:
    with siege(run, curve=False, growth_mib=150) as both:
        with both.connect() as sender:
            for _ in range(40):
                sender.send_many("b6", [bytes(50_000)] * 20)
        deaf = Talker(both)
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        deaf.opened()
        deaf.socket.send_multipart(encode(Subscribe(1, "b6", 10_000, limits.CREDIT_BYTES_MAX), request=2))
        time.sleep(1)
        silent = Talker(both).opened()
        silent.say(Subscribe(1, "b6", 5, 10 << 20))
        first = silent.hear()
        held = first.command.first if first is not None and isinstance(first.command, Deliver) else None
        for strange in (((10_000, 10_001),), ((0, 1 << 62),), ((5, 2),)):
            talker = Talker(both).opened()
            talker.say(Subscribe(1, "empty", 5, 1000))
            refused(run, talker.say(Ack(1, strange)), WrongState, ProtocolError, what=f"ACK of {strange}")
            refused(run, talker.say(Ack(7, ((0, 1),))), WrongState, what="ACK of a subscription of its own that is not open")
            if held is not None:
                other = talker.say(Subscribe(2, "b6", 0, 0))
                run.expect(not isinstance(other, Failure), f"{other}")
                refused(run, talker.say(Ack(2, ((held, held + 1),))), WrongState, what="ACK of another's message")
            talker.close()
        deaf.close()
        silent.close()
        twice(run, both)
        deadline = time.monotonic() + 2 * limits.SESSION_SILENCE_MS / 1000
        got = 0
        with both.connect(prefetch=200) as client:
            while got < 800 and time.monotonic() < deadline:
                got += sum(1 for _ in client.consume("b6", timeout=1))
        run.expect(got == 800, f"{got} of 800 messages came back from consumers that went away")
        run.runs += 1


def twice(run: Run, both: Pair) -> None:
    """The same acknowledgement again is answered again."""
    with both.connect() as client:
        client.send("twice", b"x")
    talker = Talker(both).opened()
    talker.socket.send_multipart(encode(Subscribe(1, "twice", 5, 1000), request=2))
    heard = [talker.hear(1000), talker.hear(1000)]
    offset = next((one.command.first for one in heard if one is not None and isinstance(one.command, Deliver)), 0)
    answers = [talker.say(Ack(1, ((offset, offset + 1),))) for _ in range(2)]
    run.expect(all(isinstance(answer, Acked) for answer in answers), f"acknowledged twice: {answers}")
    talker.close()


@case("B7", "more connections, sessions and subscriptions than allowed", quick=1000, full=5000, timeout_s=240)
def too_many(run: Run) -> None:
    """Limits hold, nobody else is disturbed, descriptors come back."""
    most = run.count // 2
    with siege(run, curve=False, limits={"sessions_max": most}, growth_mib=200) as both:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, 10_000)
        sockets, answers, port = [], {"opened": 0, "refused": 0}, both.ports[both.active()]
        began = time.monotonic()
        for _ in range(run.count):
            socket_ = context.socket(zmq.DEALER)
            socket_.setsockopt(zmq.LINGER, 0)
            socket_.setsockopt(zmq.RCVTIMEO, 5000)
            socket_.connect(f"tcp://127.0.0.1:{port}")
            socket_.send_multipart(encode(Open((1, 1), "one of many"), request=1))
            sockets.append(socket_)
            run.runs += 1
        for socket_ in sockets:
            command = decode(socket_.recv_multipart()).command
            if isinstance(command, Opened):
                answers["opened"] += 1
            elif isinstance(command, Failure) and command.code == LimitReached.code:
                answers["refused"] += 1
        run.note("sessions opened, refused", [answers["opened"], answers["refused"]])
        run.note("seconds", round(time.monotonic() - began, 1))
        run.expect(answers["opened"] + answers["refused"] == run.count, f"{answers} of {run.count}")
        run.expect(most - 20 <= answers["opened"] <= most, f"{answers['opened']} sessions, the limit is {most}")
        first = sockets[0]
        said = []
        for number in range(limits.SUBSCRIPTIONS_PER_SESSION + 20):
            first.send_multipart(encode(Subscribe(number, "many", 1, 1000), request=1))
            said.append(decode(first.recv_multipart()).command)
        over = [one for one in said if isinstance(one, Failure)]
        run.expect(len(over) == 20 and all(one.code == LimitReached.code for one in over), f"{len(over)} subscriptions refused")
        context.destroy(linger=0)
        run.note("per user and address", "skipped: this version knows no users; the limits are the server's")
