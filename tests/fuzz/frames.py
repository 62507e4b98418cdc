"""Several frames, or messages of several frames, in one piece of bytes, so that a mutator sees one string.

::

    joined = *( u16 length, bytes ) bytes       the last frame has no length: it is what is left
"""

import struct

_LENGTH = struct.Struct("<H")


def join(frames: list[bytes]) -> bytes:
    """The one string. A frame above 64 KiB can only be the last."""
    *some, last = frames or [b""]
    return b"".join([_LENGTH.pack(len(frame)) + frame for frame in some]) + _LENGTH.pack(0xFFFF) + last


def split(joined: bytes, most: int) -> list[bytes]:
    """What ``join`` joined; for any other bytes, some frames of it."""
    frames: list[bytes] = []
    at = 0
    while at + _LENGTH.size <= len(joined) and len(frames) < most:
        size = _LENGTH.unpack_from(joined, at)[0]
        at += _LENGTH.size
        if size == 0xFFFF:
            return [*frames, joined[at:]]
        frames.append(joined[at : at + size])
        at += size
    return frames
