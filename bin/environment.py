"""Makes or renews a private environment of a checkout: ``environment.py ROOT run|test|compare``. Standard library only.

``.venv`` is for run and test; what bench/compare needs on top goes into ``.venv-compare``, so that nothing else gets to depend on it.

One process at a time (a lock on the checkout's directory); the stamp is written last, so an interrupted attempt is repeated.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

LISTS = {"run": ["run.txt"], "test": ["run.txt", "test.txt"], "compare": ["run.txt", "compare.txt"]}  # in requirements/
PLACES = {"run": ".venv", "test": ".venv", "compare": ".venv-compare"}


def main() -> int:
    """0, or 1 after three lines on stderr."""
    root, kind = Path(sys.argv[1]), sys.argv[2]
    place = root / PLACES[kind]
    if not os.access(place if place.exists() else root, os.W_OK):
        return complain(
            f"cannot write to {root}", "the private environment goes there", f"run it once as its owner, or: pip install {root}"
        )
    lock = os.open(root, os.O_RDONLY)  # held until the process ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    fits = {name: is_current(root, place, name) for name in LISTS if PLACES[name] == PLACES[kind]}
    if not (fits[base(kind)] and works(place)):
        print(f"zmqha: making a private environment in {place} (once, about a minute)", file=sys.stderr, flush=True)
        failed = make(place)
    elif fits[kind]:
        failed = 0
    else:
        print(f"zmqha: adding what the tests need to {place} (once)", file=sys.stderr, flush=True)
        failed = 0
    if not failed and not (fits[kind] and works(place)):
        failed = install(root, place, kind)
    if not failed:
        for name in (base(kind), kind):
            (place / f"zmqha-stamp-{name}").write_text(digest(root, name))  # last; newer than the files it was made from
    return failed


def base(kind: str) -> str:
    """What an environment holds at least; tests only come on top of what the programs need."""
    return "run" if kind == "test" else kind


def is_current(root: Path, place: Path, kind: str) -> bool:
    """Was it made from these files?"""
    stamp = place / f"zmqha-stamp-{kind}"
    return stamp.exists() and stamp.read_text() == digest(root, kind)


def digest(root: Path, kind: str) -> str:
    """Of everything the environment is made from."""
    parts = [kind.encode(), sys.version.encode(), str(root).encode()]
    parts += [(root / "requirements" / name).read_bytes() for name in (*LISTS[kind], "constraints.txt")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest() + "\n"


def works(place: Path) -> bool:
    """The Python in it may be gone after an upgrade of the system."""
    try:
        return (
            subprocess.run([place / "bin" / "python", "-c", "import zmq, lmdb"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def make(place: Path) -> int:
    """A new, empty environment; the old one goes first."""
    if place.exists():
        shutil.rmtree(place)
    done = subprocess.run([sys.executable, "-m", "venv", place], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(place, ignore_errors=True)
        return complain(
            "python3 -m venv failed",
            last_line(done.stdout + done.stderr),
            "install venv and pip for this Python (Debian: apt-get install python3-venv)",
        )
    return 0


def install(root: Path, place: Path, kind: str) -> int:
    """What the lists name, in the exact versions of constraints.txt; and the checkout itself."""
    lists = root / "requirements"
    command = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["-c", lists / "constraints.txt", *(word for name in LISTS[kind] for word in ("-r", lists / name))]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        return complain(
            "pip could not install what zmqha needs",
            "its own words are above",
            "check the network and pip's settings (pip config list), then run this again",
        )
    link_checkout(root, place)
    return 0


def link_checkout(root: Path, place: Path) -> None:
    """The checkout itself becomes importable in the environment."""
    paths = {"base": str(place), "platbase": str(place)}
    library = Path(sysconfig.get_path("purelib", "venv", paths))
    (library / "zmqha.pth").write_text(f"{root}\n")


def last_line(text: str) -> str:
    """The line that usually holds the reason."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def complain(what: str, why: str, fix: str) -> int:
    """Three lines; the exit code."""
    print(f"error: {what}\nwhy:  {why}\nfix:  {fix}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
