"""B20: mutated messages to a running pair, by a client with the right key and by a holder of the peer's key.

An honest client is served meanwhile (``siege``).
"""

import random
import time

import zmq

from tests.fuzz.decoders import bulk_frames, control_seeds
from tests.fuzz.frames import join, split
from tests.fuzz.machines import commands
from tests.fuzz.mutation import mutated
from tests.system.by_hand import Talker
from tests.system.matrix import Run, case
from tests.system.pair import Pair
from tests.system.siege import siege
from tests.system.test_bad_input import Stranger
from zmqha.core.client_protocol import Open, encode

PIPELINED = 20  # messages on one connection before the next
ORDERS = ("switchover", "promote", "resync")  # operators' verbs that change roles: allowed to a client, so not mutated here


def client_seeds() -> list[bytes]:
    """What clients say, as joined frames."""
    said = [command for command in commands() if getattr(command, "verb", "") not in ORDERS]
    return [join(encode(command, request=number)) for number, command in enumerate(said)]


def one_client(both: Pair, chance: random.Random, seeds: list[bytes]) -> int:
    """A connection with valid and mutated messages mixed."""
    talker = Talker(both, chance.choice("ab"))
    sent = 0
    try:
        talker.socket.setsockopt(zmq.SNDTIMEO, 200)
        talker.socket.send_multipart(encode(Open((1, 1), "fuzz"), request=1))
        for _ in range(PIPELINED):
            frames = split(mutated(seeds, chance), 4) or [b""]
            if not any(order.encode() in frame for order in ORDERS for frame in frames):
                talker.socket.send_multipart(frames)
                sent += 1
        talker.hear(20)
    except zmq.Again:
        pass
    talker.close()
    return sent


def one_peer(both: Pair, chance: random.Random, seeds: list[bytes], active: str) -> int:
    """A connection to the active's bulk port with the passive's key."""
    passive = "b" if active == "a" else "a"
    keys = zmq.auth.load_certificate(both.directory / "keys" / passive / "peer.key_secret")
    stranger = Stranger(zmq.DEALER, both.peer_ports[active] + 1, server_key=both.public_key(f"{active}/peer"), keys=keys)  # type: ignore[arg-type]
    sent = 0
    try:
        stranger.socket.setsockopt(zmq.SNDTIMEO, 200)
        for _ in range(PIPELINED):
            stranger.socket.send_multipart([mutated(seeds, chance), b"head", b"piece"][: chance.choice((1, 1, 2, 3))])
            sent += 1
        stranger.socket.poll(20)
    except zmq.Again:
        pass
    stranger.close()
    return sent


@case("B20", "mutated messages with the right keys, at both ports", quick=10, full=120, timeout_s=120)
def live_fuzz(run: Run) -> None:
    """For as many seconds as there are rounds."""
    with siege(run, curve=True, growth_mib=100) as both:
        active, seeds = both.active(), client_seeds()
        peer_seeds = bulk_frames() + [seed[1:] for seed in control_seeds()]
        end = time.monotonic() + run.count
        clients = peers = 0
        while time.monotonic() < end:
            clients += one_client(both, run.chance, seeds)
            peers += one_peer(both, run.chance, peer_seeds, active)
        run.note("messages of clients, of peers", [clients, peers])
        run.runs = clients + peers
