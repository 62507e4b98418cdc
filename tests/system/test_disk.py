"""A full disk under the active: producers are refused by name, consumers drain, it goes on by itself (root: a small tmpfs)."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.pair import Pair
from zmqha.errors import NoSpace

MIB = 1 << 20
BODY = os.urandom(64 * 1024)


@contextmanager
def small_disks(directory: Path, mebibytes: dict[str, int]) -> Iterator[None]:
    """A tmpfs under each data directory."""
    mounted = []
    try:
        for name, size in mebibytes.items():
            place = directory / name / "data"
            place.mkdir(parents=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(place)], capture_output=True, text=True
            )
            if done.returncode:
                pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


def fill(both: Pair) -> int:
    """Send until it is refused; how many were confirmed. Of the call that is refused up to three may be stored besides."""
    confirmed = 0
    with both.connect() as client, pytest.raises(NoSpace, match="takes no more messages"):
        for _ in range(4000):
            client.send_many("q", [BODY] * 4)
            confirmed += 4
    return confirmed


@contextmanager
def pair_on_small_disks(directory: Path, mebibytes: dict[str, int]) -> Iterator[Pair]:
    """A pair in sync, on disks of these sizes."""
    both = Pair(directory, limits={"disk_reserve_bytes": 8 * MIB, "journal_segment_bytes": 4 * MIB})
    try:
        with small_disks(directory, mebibytes):
            try:
                yield both.start()
            except BaseException:
                both.keep_logs()
                raise
            finally:
                both.close()
    finally:
        both.close()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


@needs_root
@pytest.mark.timeout(120)
def test_a_full_disk_refuses_producers_and_lets_consumers_drain(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pair_on_small_disks(tmp_path_factory.mktemp("full"), {"a": 64, "b": 128}) as both:
        first = {name: both[name].pid for name in "ab"}
        confirmed = fill(both)
        assert confirmed * len(BODY) > 10 * MIB
        with both.connect() as client:
            with pytest.raises(NoSpace) as refusal:
                client.send("q", b"one more")
            assert "free disk space" in refusal.value.cure
            got = sum(1 for message in client.consume("q", timeout=2) if message.body == BODY)
            assert 0 <= got - confirmed <= 3
        wait_for_room(both)
        confirmed = fill(both)
        with both.connect() as client:
            got = sum(1 for _ in client.consume("q", timeout=2))
            assert 0 <= got - (confirmed + 1) <= 3
        assert {name: both[name].pid for name in "ab"} == first and all(both[name].running for name in "ab")
        both.assert_equal_stores()


def wait_for_room(both: Pair) -> None:
    """Until a message is taken again."""

    def taken() -> bool:
        try:
            client.send("q", b"again")
        except NoSpace:
            return False
        return True

    with both.connect() as client:
        both.wait(taken, "room for a message", 5)


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_passive_without_space_leaves_and_comes_back_when_there_is_some(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pair_on_small_disks(tmp_path_factory.mktemp("passive"), {"b": 160}) as both:
        assert both.active() == "a"
        ballast = both["b"].data / "ballast"
        ballast.write_bytes(bytes(120 * MIB))
        first = both["b"].pid
        with both.connect() as client:
            for _ in range(120):
                client.send_many("q", [BODY] * 8)
            both.wait(lambda: both.state("a") == "STANDALONE", "the active going alone")
            assert both.state("b") == "WAITING" and "disk is full" in both.row("b")["reason"], both.row("b")
            assert client.send("q", b"alone").durability == 1
            ballast.unlink()
            both.wait_in_sync()
            assert both["b"].pid == first and both["b"].running
            assert client.send("q", b"both").durability == 2
            assert sum(1 for _ in client.consume("q", timeout=2)) == 962
        both.assert_equal_stores()
