"""What a demo or a drill has left of itself: files in the TMPDIR that it was given, and processes that know it."""

from pathlib import Path


def left_behind(place: Path) -> list[str]:
    """Processes that know the directory of this run, and what is in it."""
    found = [str(path) for path in (place / "tmp").iterdir()]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in command:
            found.append(f"{entry.name}: {command}")
    return found
