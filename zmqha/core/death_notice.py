"""The death notice: "the process with this incarnation is gone", one UDP datagram, authentic by the cluster secret.

::

    "ZHAD" | u8 version = 1 | u64 incarnation | u8 length, cluster id | u8 length, node id | HMAC-SHA256 of all before, 32 bytes

Little-endian. Only the watcher that saw the process leave the kernel may send it (assumption A6). Only a node in session with
exactly this incarnation obeys it (T8e), so a replayed one is void.
"""

import hashlib
import hmac
import struct

DATAGRAM_BYTES_MAX = 1200  # more than any notice, or Beat (beat_notice); below every MTU
ID_BYTES_MAX = 200

_MAGIC = b"ZHAD"
_VERSION = 1
_HEAD = struct.Struct("<4sBQ")
_MAC_BYTES = hashlib.sha256().digest_size


def encode(cluster_id: str, node_id: str, incarnation: int, secret: bytes) -> bytes:
    """The datagram. Raises ValueError for an id that is too long, and for an empty secret."""
    body = _HEAD.pack(_MAGIC, _VERSION, incarnation) + _text(cluster_id) + _text(node_id)
    return body + _mac(body, secret)


def verify(datagram: bytes, secret: bytes, cluster_id: str) -> tuple[str, int] | None:
    """(node id, incarnation) of an authentic notice of this cluster; None for anything else."""
    if not _HEAD.size + 2 + _MAC_BYTES <= len(datagram) <= DATAGRAM_BYTES_MAX:
        return None
    body, mac = datagram[:-_MAC_BYTES], datagram[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(body, secret)):
        return None
    magic, version, incarnation = _HEAD.unpack_from(body)
    cluster, rest = _split(body[_HEAD.size :])
    node, rest = _split(rest)
    if (magic, version, cluster, rest) != (_MAGIC, _VERSION, cluster_id.encode(), b""):
        return None
    return node.decode(errors="replace"), incarnation


def _mac(body: bytes, secret: bytes) -> bytes:
    if not secret:
        raise ValueError("an empty cluster secret protects nothing")
    return hmac.digest(secret, body, "sha256")


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > ID_BYTES_MAX:
        raise ValueError(f"an id of {len(raw)} bytes, allowed are {ID_BYTES_MAX}")
    return bytes([len(raw)]) + raw


def _split(raw: bytes) -> tuple[bytes, bytes]:
    size = raw[0] if raw else 0
    return raw[1 : 1 + size], raw[1 + size :]
