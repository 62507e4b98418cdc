"""A Beat as a datagram: what a server still says to its peer when TCP cannot say it.

::

    "ZHBT" | u8 version = 1 | u8 path | u8 length, cluster id | Beat as on the control socket | HMAC-SHA256 of all before, 32 bytes

TCP needs both directions: where only one is cut, it falls silent in the other as well once the first retransmission is due (after
200 ms), and the hearing server could not learn that the other one is deaf (F6). So while contact is in doubt every Beat also goes by
UDP to the peer port. Answers do not: contact stays proven by the sockets that carry the rest. Replays are void by the sequence (F4).
"""

import hashlib
import hmac
import struct

from zmqha.core.death_notice import DATAGRAM_BYTES_MAX
from zmqha.core.peer_protocol import Beat, decode_control
from zmqha.errors import ProtocolError

_MAGIC = b"ZHBT"
_VERSION = 1
_HEAD = struct.Struct("<4sBBB")
_MAC_BYTES = hashlib.sha256().digest_size


def encode(cluster_id: str, path: int, frame: bytes, secret: bytes) -> bytes | None:
    """The datagram; None where it would be too long, which only a very long reason can cause: the sockets carry that Beat alone."""
    cluster = cluster_id.encode()
    body = _HEAD.pack(_MAGIC, _VERSION, path, len(cluster)) + cluster + frame
    return body + hmac.digest(secret, body, "sha256") if len(body) + _MAC_BYTES <= DATAGRAM_BYTES_MAX else None


def verify(datagram: bytes, secret: bytes, cluster_id: str) -> tuple[int, Beat] | None:
    """(path, Beat) of an authentic datagram of this cluster; None for anything else."""
    if not _HEAD.size + _MAC_BYTES < len(datagram) <= DATAGRAM_BYTES_MAX:
        return None
    body, mac = datagram[:-_MAC_BYTES], datagram[-_MAC_BYTES:]
    if not hmac.compare_digest(mac, hmac.digest(secret, body, "sha256")):
        return None
    magic, version, path, size = _HEAD.unpack_from(body)
    cluster, frame = body[_HEAD.size : _HEAD.size + size], body[_HEAD.size + size :]
    if (magic, version, cluster) != (_MAGIC, _VERSION, cluster_id.encode()):
        return None
    try:
        message = decode_control(frame)
    except ProtocolError:
        return None
    return (path, message) if isinstance(message, Beat) else None
