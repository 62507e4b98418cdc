"""What a configuration that was read again changes in a server that runs; the rest waits for its next start."""

import msgspec

from zmqha.server.config import Config
from zmqha.server.settings import Gateway, fields


def changed_at_runtime(old: Config, new: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a re-read changes: (takes effect at once, needs a restart), each as ``section.key: old -> new``."""
    running = with_runtime_changes(old, new)
    applied: list[str] = []
    restart: list[str] = []
    for section in ("cluster", "gateway", "timers", "limits", "security", "log", "own", "peer"):
        before, now, after = (getattr(config, section) for config in (old, running, new))
        if before is None or after is None:
            if before is not after:
                restart.append(f"{section}: {'added' if before is None else 'removed'}")
            continue
        for key in fields(type(before)):
            was, becomes = getattr(before, key), getattr(after, key)
            if was != becomes:
                (applied if getattr(now, key) == becomes else restart).append(f"{section}.{key}: {was} -> {becomes}")
    return tuple(applied), tuple(restart)


def with_runtime_changes(old: Config, new: Config) -> Config:
    """``old`` with those parts of ``new`` that may change while the server runs."""
    return msgspec.structs.replace(
        old,
        limits=msgspec.structs.replace(new.limits, journal_segment_bytes=old.limits.journal_segment_bytes),
        log=msgspec.structs.replace(old.log, level=new.log.level),
        gateway=new.gateway if _asked_alike(old.gateway, new.gateway) else old.gateway,
    )


def _asked_alike(old: Gateway, new: Gateway) -> bool:
    """Addresses change alone or not at all: those of another kind, asked in the old way, or none would never answer, and a lone
    server would stop."""
    return bool(new.addresses) and msgspec.structs.replace(new, addresses=old.addresses) == old
