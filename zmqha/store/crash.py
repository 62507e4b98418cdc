"""Named points at which a test may kill this process, as power or an operator would.

``ZMQHA_CRASH_AT=name`` kills at the first passage of that point, ``name:3`` at the third. Without the variable a point costs one
comparison. Not a fault of the disk (tests write torn files for that), only a death in between. Called by ``store``.
"""

import os
import signal

_NAME, _, _count = os.environ.get("ZMQHA_CRASH_AT", "").partition(":")
_left = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here if this is the point that was asked for."""
    if name != _NAME:
        return
    global _left
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
