"""Pages in use, found by walking every tree: slow, and independent of the free list. The cross-check of ``lmdb_page``."""

import struct

from zmqha.core.lmdb_page import Meta

NO_PAGE = (1 << 64) - 1  # root of an empty database


def live_pages(image: bytes | memoryview, meta: Meta) -> set[int]:
    """Every page reachable from the two roots of a snapshot."""
    found: set[int] = set()
    for root in (meta.free_root, meta.main_root):
        _walk(image, meta.psize, root, found)
    return found


def changed(image: bytes | memoryview, old: set[int], new: Meta) -> list[int]:
    """What the commits between two snapshots wrote; ``old`` was walked while it could not be reused."""
    return sorted(live_pages(image, new) - old)


def _walk(image: bytes | memoryview, psize: int, page: int, found: set[int]) -> None:
    if page == NO_PAGE:
        return
    at = page * psize
    number, _, flags, lower, _ = struct.unpack_from("<QHHHH", image, at)
    assert number == page and page not in found
    found.add(page)
    if flags & 0x20:  # LEAF2: keys without nodes
        return
    for node in struct.unpack_from(f"<{(lower - 16) // 2}H", image, at + 16):
        if flags == 1:
            _walk(image, psize, struct.unpack_from("<Q", image, at + node)[0] & ((1 << 48) - 1), found)
            continue
        _, _, kind, ksize = struct.unpack_from("<HHHH", image, at + node)
        data = at + node + 8 + ksize
        if kind & 1:
            first = struct.unpack_from("<Q", image, data)[0]
            count = struct.unpack_from("<I", image, first * psize + 12)[0]
            assert found.isdisjoint(range(first, first + count))
            found.update(range(first, first + count))
        elif kind & 2:
            _walk(image, psize, struct.unpack_from("<Q", image, data + 40)[0], found)
