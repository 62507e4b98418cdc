"""The plain fuzzer: takes valid inputs, changes them a little, and looks what happens. For quick runs, and where atheris is missing.

Blind: it keeps no input because it went another way. Deterministic: the same seed gives the same inputs.
"""

import random
import time
from collections.abc import Callable, Sequence

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
BYTES_MAX = 1 << 16


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """A neighbour of a valid input."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 1, 1, 2, 4, 16))):
        _change(data, seeds, chance)
    return bytes(data[:BYTES_MAX])


def _change(data: bytearray, seeds: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    match chance.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        case 1 if data:
            data[at % len(data)] = chance.randrange(256)
        case 2:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 8, 64)))
        case 3:
            del data[at : at + chance.choice((1, 2, 8, 64, 1 << 16))]
        case 4:
            size = chance.choice((1, 2, 4, 8))
            data[at : at + size] = (chance.choice(EDGES) % (1 << 8 * size)).to_bytes(size, chance.choice(("little", "big")))
        case 5:
            other = chance.choice(seeds)
            start = chance.randrange(len(other) + 1)
            data[at:at] = other[start : start + chance.choice((4, 32, 1 << 16))]
        case 6:
            end = at + chance.choice((1, 8, 64, 512))
            data[at:at] = data[at:end] * chance.choice((1, 2, 40))
        case _:
            del data[at:]


def run(target: Callable[[bytes], None], seeds: Sequence[bytes], *, seed: int, seconds: float, executions: int = 1 << 60) -> int:
    """Every seed as it is, then mutations, until time or count is over; how many were run. What the target raises goes through,
    with the input in a note."""
    chance, end, done = random.Random(seed), time.monotonic() + seconds, 0
    while done < executions and (done % 64 or time.monotonic() < end):
        data = seeds[done] if done < len(seeds) else mutated(seeds, chance)
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"input {done} of seed {seed}: {data.hex()}")
            raise
        done += 1
    return done
