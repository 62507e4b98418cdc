"""The command: ``python -m tests.fuzz [NAME ...] [--seconds 60]``. Exits with 1 at a finding, and prints the input that made it.

With atheris (``pip install atheris``) the code's own branches guide the search; without it, or with ``--plain``, inputs are mutated
blindly. Nothing of this needs a network or a running server.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

INPUT_BYTES_MAX = 1 << 16


def plain(name: str, seconds: float, seed: int) -> bool:
    """Mutate blindly; True if nothing was found."""
    from tests.fuzz import mutation
    from tests.fuzz.targets import TARGETS

    try:
        done = mutation.run(TARGETS[name].work, TARGETS[name].seeds(), seed=seed, seconds=seconds)
    except Exception:
        traceback.print_exc()
        return False
    print(f"{name}: {done} executions in {seconds:g} s, plain, seed {seed}: nothing found", flush=True)
    return True


def guided(name: str, seconds: float, seed: int) -> bool:
    """In a process of its own: libFuzzer ends its process when it is done. True if nothing was found."""
    with tempfile.TemporaryDirectory(prefix=f"zmqha-fuzz-{name}-") as place:
        command = [sys.executable, "-m", "tests.fuzz", name, "--inside", place, "--seconds", str(seconds), "--seed", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        found = [path for path in Path(place).iterdir() if path.name.startswith(("crash", "timeout", "oom"))]
        said = done.stderr.splitlines()
        last = [line for line in said if " cov: " in line][-1:] + [line for line in said if line.startswith("Done ")]
        print(f"{name}: {'; '.join(last)}", flush=True)
        if done.returncode == 0 and not found:
            return True
        print(
            done.stdout[-6000:],
            done.stderr[-3000:],
            *(f"{path.name}: {path.read_bytes().hex()}" for path in found),
            sep="\n",
            flush=True,
        )
        return False


def inside(name: str, place: Path, seconds: float, seed: int) -> None:
    """libFuzzer's own process."""
    import atheris

    with atheris.instrument_imports(include=["zmqha.core", "zmqha.store"]):
        from tests.fuzz.targets import TARGETS
    corpus = place / "corpus"
    corpus.mkdir()
    for number, data in enumerate(TARGETS[name].seeds()):
        (corpus / str(number)).write_bytes(data)
    work, end, done = TARGETS[name].work, time.monotonic() + seconds, 0

    def one(data: bytes) -> None:
        nonlocal done
        if time.monotonic() > end:  # ended from here: libFuzzer takes its own end for a crash of the target
            print(f"Done {done} executions in {seconds:g} s, seed {seed}", file=sys.stderr, flush=True)
            os._exit(0)
        done += 1
        work(data)

    options = [f"-seed={seed}", f"-max_len={INPUT_BYTES_MAX}", f"-artifact_prefix={place}/", "-timeout=10", "-rss_limit_mb=1024"]
    atheris.Setup([name, *options, str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """All targets, or those named."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name", nargs="*", help=f"of {', '.join(TARGETS)}; none: all")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris, even where it is installed")
    given = parser.parse_args()
    if unknown := set(given.name) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    how = plain if given.plain or find_spec("atheris") is None else guided
    results = [how(name, given.seconds, given.seed) for name in given.name or TARGETS]
    return int(not all(results))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    if "--inside" in sys.argv:  # before anything of zmqha is imported: atheris instruments what is imported
        _, target, _, where, _, duration, _, number = sys.argv
        inside(target, Path(where), float(duration), int(number))
    sys.exit(main())
