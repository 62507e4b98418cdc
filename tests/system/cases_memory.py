"""P11: a server that gets no more memory."""

import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.system.loaded import SERVING, loaded, other, random_phase
from tests.system.matrix import Run, case
from tests.system.pair import Pair


@case("P11", "no memory: address space limited, the N-th allocation fails", quick=4, full=40, timeout_s=300)
def out_of_memory(run: Run) -> None:
    """Either it goes on as if nothing had been, or it is gone; never anything between."""
    with tempfile.TemporaryDirectory(prefix="zmqha-shim-") as place, loaded(run) as (both, load, _):
        shim = build_shim(Path(place))
        for number in run.rounds():
            random_phase(run, both, load)
            name = (both.active, both.passive)[number // 2 % 2]()
            pid = both[name].pid
            large = load.pin(both.url, rate=20, size=300_000, failover_timeout=-1)
            if number % 2:
                limit_address_space(both, name, run.chance.choice((0, 1, 4)) * MIB)
            else:
                at = int(10 ** run.chance.uniform(4, 5.2))  # the start takes some thirty thousand; then it serves
                both[name].kill()
                both.wait(lambda name=name: both.state(other(name)) in SERVING, "the other serving")
                both[name].start(LD_PRELOAD=str(shim), FAIL_ALLOCATION=f"{at} {run.chance.choice((1, 1000, 1 << 40))}")
                pid = both[name].pid
            end = time.monotonic() + WEDGED_S
            seen_well = 0.0
            while time.monotonic() < end and both[name].running and seen_well < 3:
                seen_well = seen_well + 0.2 if both.state(name) in HEALTHY else 0.0
                time.sleep(0.2)
            large.stop()
            went_on = both[name].running
            run.note("it", f"went on as {both.state(name)}" if went_on else f"ended with {both[name].wait()}")
            run.expect(not went_on or seen_well >= 3, f"{name} hangs: {both.state(name)} for {WEDGED_S} s")
            load.wait_confirmed(20, 30)
            if went_on:
                assert both[name].pid == pid
                both[name].kill()
                both.wait(lambda name=name: both.state(other(name)) in SERVING, "the other serving")
            both[name].start()


MIB = 1 << 20
WEDGED_S = 30  # a store thread that stands still is noticed after 20 s
HEALTHY = ("ACTIVE", "STANDALONE", "PASSIVE")


def limit_address_space(both: Pair, name: str, more_bytes: int) -> None:
    """From now on no more than what it has and this."""
    pages = int(Path(f"/proc/{both[name].pid}/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + more_bytes
    resource.prlimit(both[name].pid, resource.RLIMIT_AS, (bound, bound))


def build_shim(place: Path) -> Path:
    """A library that makes allocations fail; skips where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the shim")
    shim = place / "fail_allocation.so"
    source = Path(__file__).with_name("fail_allocation.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(shim), str(source), "-ldl"], check=True, timeout=60)
    return shim
