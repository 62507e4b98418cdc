"""Kept stores: what the loser of a divergence held, before its store is copied over. The durable salvage list (O6).

::

    kept/<branch>/store.mdb       another name of the store's file: whoever copies writes a new file, so this one stays as it is
    kept/<branch>/manifest.json   merging, merged or discarded; what, from where, how much, when

The link is made and flushed before anything is sent, and says ``merging`` until the winner has confirmed everything durable. The store
must be closed and settled. A store whose file has such a second name is never written in place: ``release`` comes before LMDB opens it.
One of the two without the other is what a crash left of a ``keep`` or a ``release``; ``expire`` deletes it. Driven by the store thread,
decides nothing about roles.
"""

import errno
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from zmqha.core.branch import Survey
from zmqha.core.events import KeptBranch
from zmqha.core.limits import KEPT_BYTES_MAX, KEPT_DAYS
from zmqha.core.position import NO_EPOCH, Epoch, Lineage, Position
from zmqha.errors import NoSpace, StoreFull
from zmqha.store.crash import crash_point
from zmqha.store.node_state import sync_directory, sync_file
from zmqha.store.page_file import STORE_FILE

KEPT_FILES = "kept"  # a directory
MANIFEST_FILE = "manifest.json"
MERGING, MERGED, DISCARDED = "merging", "merged", "discarded"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
_DAY_S = 86_400


class Kept:
    """The kept stores of one data directory."""

    def __init__(self, directory: Path, node_id: str) -> None:
        self._data = directory
        self._node_id = node_id
        self._root = directory / KEPT_FILES

    # --- the store that stands here -----------------------------------------------------------------------------------------

    def present(self) -> KeptBranch:
        """What a manifest says of the store that is the data directory's now; no name: it is not kept."""
        place = self._place()
        if place is None:
            return KeptBranch()
        manifest = _read(place)
        into = manifest.get("merged_into")
        return KeptBranch(str(manifest.get("state", MERGING)), Epoch(*into) if into else NO_EPOCH)

    def path(self) -> Path | None:
        """The second name of the store's file."""
        place = self._place()
        return place / STORE_FILE if place is not None else None

    def keep(self, position: Position, lineage: Lineage, survey: Survey) -> None:
        """Give the store its second name, durable. Nothing happens if it has one. Raises NoSpace, ZmqhaError."""
        if self._place() is not None:
            return
        place = self._root / f"epoch-{position.epoch.counter}-{position.epoch.nonce:016x}"
        try:
            if place.exists():  # of a crash before its manifest, or of the same branch that served again since
                shutil.rmtree(place)
            place.mkdir(parents=True)
            crash_point("before_keep_link")
            os.link(self._data / STORE_FILE, place / STORE_FILE)
            sync_file(place / STORE_FILE)
            crash_point("before_keep_manifest")
            _write(place, self._manifest(position, lineage, survey))
            for directory in (place, self._root, self._data):
                sync_directory(directory)
            crash_point("after_keep")
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise _refused(error, place) from error

    def settle(self, into: Epoch) -> bool:
        """The winner, serving under ``into``, holds everything; False if the store is not kept any more. Raises StoreFull."""
        place = self._place()
        if place is None:
            return False
        crash_point("before_salvage_settled")
        _say(place, state=MERGED, merged_into=list(into))
        crash_point("after_salvage_settled")
        return True

    def discard(self) -> None:
        """The operator gave this branch up. Raises StoreFull."""
        place = self._place()
        if place is not None:
            _say(place, state=DISCARDED)

    def release(self) -> None:
        """The store is about to be written again: what was kept of it is the store itself, and no salvage list any more."""
        for place in self._second_names():
            (place / STORE_FILE).unlink()  # first: what a crash leaves must not hold the store's room
            shutil.rmtree(place)
            sync_directory(self._root)

    # --- all of them --------------------------------------------------------------------------------------------------------

    def expire(self) -> list[str]:
        """Delete what is half, older than KEPT_DAYS or above KEPT_BYTES_MAX, oldest first; which. Never one whose merge is not over."""
        gone = [place for place in self._places() if not _is_whole(place)]  # of a crash: none is in the making now
        total = 0
        for wall_ms, size, place in self._over():
            total += size
            if total > KEPT_BYTES_MAX or wall_ms < (time.time() - KEPT_DAYS * _DAY_S) * 1000:
                gone.append(place)
        for place in gone:
            shutil.rmtree(place)
        return [place.name for place in gone]

    # --- inside -------------------------------------------------------------------------------------------------------------

    def _places(self) -> list[Path]:
        """Every directory made here; whatever else lies beside them is an operator's."""
        return [place for place in self._root.glob("epoch-*") if place.is_dir()]

    def _second_names(self) -> list[Path]:
        """The directories that hold the present store, with a manifest or without."""
        store = self._data / STORE_FILE
        if not store.exists():
            return []
        return [place for place in self._places() if (other := place / STORE_FILE).exists() and other.samefile(store)]

    def _place(self) -> Path | None:
        """The one of them that says so."""
        return next(filter(_is_whole, self._second_names()), None)

    def _over(self) -> list[tuple[int, int, Path]]:
        """(when it was kept, bytes, directory) of those whose merge is over, but the present store; the newest first."""
        found = []
        present = self._place()
        for place in self._places():
            manifest = _read(place)
            if place != present and _is_whole(place) and manifest.get("state") in (MERGED, DISCARDED):
                found.append((int(manifest.get("wall_ms", 0)), (place / STORE_FILE).stat().st_blocks * 512, place))
        return sorted(found, reverse=True)

    def _manifest(self, position: Position, lineage: Lineage, survey: Survey) -> dict[str, Any]:
        beyond = [entry for entry in lineage if entry.first_txn > survey.common_txn]
        return {
            "what": "the store of the server that lost a divergence; it is merged into the other server's and kept for a while",
            "state": MERGING,
            "server": self._node_id,
            "position": str(position),
            "common_txn": survey.common_txn,
            "lineage_beyond": [
                {"epoch": entry.epoch.counter, "mode": entry.mode.value, "txn": entry.first_txn, "server": entry.writer}
                for entry in beyond
            ],
            "queues": {queue.name: {"messages": queue.messages, "acknowledged": queue.acknowledged} for queue in survey.queues},
            "wall_ms": int(time.time() * 1000),
            "merged_into": None,
        }


def _is_whole(place: Path) -> bool:
    return (place / STORE_FILE).exists() and (place / MANIFEST_FILE).exists()


def _read(place: Path) -> dict[str, Any]:
    """A manifest that is not readable says nothing."""
    try:
        found = json.loads((place / MANIFEST_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _say(place: Path, **news: Any) -> None:
    """Something new of a kept store; all else in its manifest stays."""
    try:
        _write(place, {**_read(place), **news})
    except OSError as error:
        raise _no_room(error, place, "say what became of the kept store") from error


def _write(place: Path, manifest: dict[str, Any]) -> None:
    """Durable; the old one or the new one is there, whatever happens."""
    new = place / f"{MANIFEST_FILE}.new"
    new.write_text(json.dumps(manifest, indent=2) + "\n")
    sync_file(new)
    new.rename(place / MANIFEST_FILE)
    sync_directory(place)


def _refused(error: OSError, place: Path) -> Exception:
    """A file system without links is no damage."""
    if error.errno in _NO_LINKS:
        return NoSpace(
            f"the store cannot be kept in {place}", cause=f"the file system makes no hard links ({error})",
            cure="put the data directory on ext4 or xfs, or give this branch up: zmqha resync --discard-own",
        )  # fmt: skip
    return _no_room(error, place, "keep the store")


def _no_room(error: OSError, place: Path, what: str) -> Exception:
    """A full disk is no damage; anything else is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"there is no room to {what}", cause=str(error), cure=f"free some space under {place.parent}")
    return error
