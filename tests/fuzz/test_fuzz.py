"""A short blind run of every target with a fixed seed, and the inputs that once were findings."""

import random

import pytest

from tests.fuzz import mutation, stream
from tests.fuzz.frames import join, split
from tests.fuzz.targets import TARGETS

EXECUTIONS = {"peer": 300, "broker": 1500, "service": 4000, "replica": 600, "state": 2000}

KEPT = {
    # Text that is not UTF-8: msgspec raises a UnicodeDecodeError of Python's own.
    "control": [
        "0085a474797065a4656368a773650080696f6e920702aa746f5f73657373696f6e920901a373657104a773656e745f6d73cd03e7" + "00" * 8
    ],
    "bulk": ["0086a474797065a57069a474797065a57069656365a773657373696f6e920702" + "00" * 8],
    "state": [
        "005a4e53543c00000054000000000000004786d7ffff20044897b03566326339316162356632633962a1610192034da6706169726564a377687991b7707261"
        "a377687991b77072a377687991b770726f6d6f74656420627972a377687991b770726f6d6f746564206279"
    ],
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_stands_a_blind_run(name: str) -> None:
    target = TARGETS[name]
    assert mutation.run(target.work, target.seeds(), seed=7, seconds=60, executions=EXECUTIONS.get(name, 8000)) > 100


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, kept in KEPT.items() for data in kept])
def test_what_was_a_finding_is_none_any_more(name: str, data: str) -> None:
    TARGETS[name].work(bytes.fromhex(data))


def test_every_bit_flipped_in_the_stream_is_caught_or_without_effect() -> None:
    stream.replica(b"")
    for data in stream.flips(1500, random.Random(3)):
        stream.replica(data)


def test_frames_joined_are_split_again() -> None:
    for frames in ([b""], [b"a"], [b"", b"x" * 70_000], [b"1", b"", b"3"]):
        assert split(join(frames), 9) == frames


def test_the_plain_fuzzer_finds_a_planted_bug_and_names_the_input() -> None:
    def planted(data: bytes) -> None:
        assert data[:2] != b"\xffZ"

    with pytest.raises(AssertionError) as found:
        mutation.run(planted, [b"aZcd", b"xyz"], seed=1, seconds=60)
    assert "ff5a" in found.value.__notes__[0]
    assert mutation.mutated([b"abc"], random.Random(5)) == mutation.mutated([b"abc"], random.Random(5))
