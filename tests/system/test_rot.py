"""A bit flips on one disk while both servers run: found within a cycle, repaired from the other, nothing lost."""

import mmap
from pathlib import Path

import pytest

from tests.system.pair import Pair, pair
from tests.system.stores import assert_equal_offline
from zmqha.store.page_file import STORE_FILE

BODIES = [b"message %04d " % number * 100 for number in range(200)]
BATCH = 5  # 6.6 KB: fits into the first part of a log value, so that each body stands in one piece in the file
CYCLE_S = 40.0  # pause, cycle, and much patience


def flip(file: Path, near: bytes) -> None:
    """One bit, inside the only place where ``near`` stands, in the file as the kernel holds it."""
    with file.open("r+b", buffering=0) as store:
        with mmap.mmap(store.fileno(), 0, prot=mmap.PROT_READ) as view:
            at = view.find(near)
            assert at > 0, "the message is in the store's file"
            byte = view[at + 50]
        store.seek(at + 50)
        store.write(bytes([byte ^ 0x10]))


def scrubbed(both: Pair, name: str) -> dict[str, float]:
    return both.row(name).get("scrub") or {}


def fill(both: Pair) -> None:
    """Messages on both disks, and both know the sums of all pages."""
    with both.connect() as client:
        for first in range(0, len(BODIES), BATCH):
            client.send_many("q", BODIES[first : first + BATCH])
    for name in "ab":
        both.wait(lambda name=name: scrubbed(both, name).get("digest") == 1.0, f"sums of {name}")  # type: ignore[misc]
        file = both[name].data / STORE_FILE
        both.wait(lambda file=file: BODIES[-1] in file.read_bytes(), "the last message is applied")  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("role", ["active", "passive"])
def test_a_flipped_bit_is_found_and_repaired_and_nothing_is_lost(role: str) -> None:
    with pair() as both:
        both.rotten = True
        fill(both)
        damaged = both.active() if role == "active" else both.passive()
        sound = "b" if damaged == "a" else "a"

        flip(both[damaged].data / STORE_FILE, BODIES[77])

        both.wait(lambda: bool(both[damaged].events("store.rotten")), "the scrub finds it", CYCLE_S)
        both.wait(lambda: both.state(sound) in ("ACTIVE", "STANDALONE"), "the sound server serves")
        assert both.row(damaged).get("state") not in ("ACTIVE", "STANDALONE")
        assert any(
            "does not hold what was written" in line
            for line in both[damaged].events("ha.behind") + both[damaged].events("ha.waiting")
        )
        both.wait_in_sync()
        assert both.active() == sound
        with both.connect() as client:
            got = [message.body for message in client.consume("q", timeout=3)]
        assert got == BODIES
        both.assert_equal_stores()
        both.wait(lambda: scrubbed(both, damaged).get("digest") == 1.0, "the new copy is counted")
        assert (scrubbed(both, damaged)["damaged"], scrubbed(both, sound)["damaged"]) == (1, 0)
        assert not both[sound].events("store.rotten")
        both.kill_both()
        assert_equal_offline(both, sound)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_server_alone_whose_store_rots_serves_nobody_until_an_operator_says_so() -> None:
    with pair() as both:
        both.rotten = True
        fill(both)
        both[both.passive()].kill()
        alone = both.active()
        other = "b" if alone == "a" else "a"
        with both.connect() as client:
            client.send("q", b"confirmed alone")

        flip(both[alone].data / STORE_FILE, BODIES[77])

        both.wait(lambda: both.state(alone) == "WAITING", "it stops", CYCLE_S)
        both[other].start()
        both.wait_settled_waiting(other)
        both.wait(lambda: bool((both.status(alone) or {}).get("needs_operator")), "it asks for an operator")
        status = both.status(alone)
        assert status is not None and "page" in status["sentence"] and "promote" in status["sentence"]
        assert both.state(other) == "WAITING", "the older store does not serve"
        both.admin(alone, "promote", accept_loss_of_peer=True)
        both.wait_in_sync()
        with both.connect() as client:
            got = [message.body for message in client.consume("q", timeout=3)]
        assert len(got) == len(BODIES) + 1 and got[-1] == b"confirmed alone"
        assert sum(one != other for one, other in zip(got, BODIES, strict=False)) == 1, "served as it is"
