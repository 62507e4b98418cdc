"""D7, D8, D10: bits that flip, files that are cut or gone, a disk of yesterday."""

import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest

from tests.fuzz import stream
from tests.system.bit_flips import relayed
from tests.system.cases_process import SERVING, loaded, other
from tests.system.load import Load, settle
from tests.system.matrix import Run, case
from tests.system.pair import Pair, pair
from tests.system.stores import assert_equal_offline, standing
from zmqha.store.node_state import STATE_FILE
from zmqha.store.page_file import STORE_FILE

KIB = 1 << 10


@case("D7", "bits flipped in the stream of pages", quick=3, full=20, timeout_s=240)
def flipped_stream(run: Run) -> None:
    """All of them are caught: whatever copies and follows through it has the same store in the end, and nobody serves a wrong page."""
    for data in stream.flips(run.pick(2000, 50_000), run.chance):
        stream.replica(data)  # each bit alone, on the passive's own code
    run.note("single bits in a recorded stream, all caught", run.pick(2000, 50_000))
    with tempfile.TemporaryDirectory(prefix="zmqha-pair-") as place, relayed(Path(place), random.Random(run.seed)) as both:
        load = Load(both.url, rate=100)
        load.wait_confirmed()
        for _ in run.rounds():
            both.wait_in_sync(90)
            passive = both.passive()
            both.flip(200 * KIB)
            both[passive].kill()
            both[passive].start()  # it copies, and follows
            time.sleep(run.pick(6, 10))
            run.expect(all(both[name].running for name in "ab"), "a server ended of it")
            both.flip(0)
            both.wait_in_sync(90)
            load.wait_confirmed()
        run.note("bits flipped in a live stream", both.flipped)
        refusals = sum(line.count("refused") for name in "ab" for line in both[name].log_text().splitlines())
        run.note("refusals in the logs", refusals)
        run.expect(both.flipped > 5 * run.runs and refusals > 0, f"{both.flipped} bits were flipped, {refusals} refusals told")
        run.judge(settle(load.producers, load.readers))
        both.assert_equal_stores()
        active = both.active()
        both.kill_both()
        assert_equal_offline(both, active)


MARK = b"a page that must not rot "


@case("D7r", "bits flipped at rest, in 1, 10, 100 pages of one side", quick=1, full=3, timeout_s=240)
def rotten_pages(run: Run) -> None:
    """The scrub finds them, and the damaged server never serves."""
    with pair(limits={"scrub_mib_per_s": 64}) as both:
        if "scrub" not in both.row("a"):
            pytest.skip("status has no counter of a scrub: this version does not look for damage at rest")
        both.rotten = True
        load = Load(both.url, rate=50)
        with both.connect() as client:
            for _ in range(30):
                client.send_many("kept", [MARK * 400] * 20)
        load.wait_confirmed()
        for pages in (1, 10, 100) * run.count:
            both.wait_in_sync(60)
            passive = both.passive()
            both.wait(lambda passive=passive: both.row(passive)["scrub"]["digest"] == 1.0, "the sums being built", 60)
            flip_pages(both[passive].data / STORE_FILE, pages, run.chance)
            moment, told = time.monotonic(), len(both[passive].log_text())
            both.wait(lambda passive=passive: both.state(passive) != "PASSIVE", f"{pages} rotten pages being found", 60)
            run.note(f"{pages} rotten pages found after, s", time.monotonic() - moment)
            run.expect(both.state(passive) not in SERVING, f"{passive} serves with {pages} rotten pages")
            run.expect("ha.standalone" not in both[passive].log_text()[told:], f"{passive} served")
            if not both[passive].running:
                both[passive].start()
            run.runs += 1
        both.wait_in_sync(90)
        run.judge(load.settle())
        both.assert_equal_stores()


def flip_pages(store: Path, pages: int, chance: random.Random) -> None:
    """One bit each in so many pages of a message that is kept, of a store that is in use."""
    raw = store.read_bytes()
    places = [at for at in range(8192, len(raw), 4096) if raw[at + 1000 : at + 2000].count(MARK) > 10]
    assert len(places) >= pages, f"only {len(places)} pages with the mark"
    with store.open("r+b") as file:
        for at in chance.sample(places, pages):
            where = at + chance.randrange(1000, 2000)
            file.seek(where)
            file.write(bytes([raw[where] ^ 1 << chance.randrange(8)]))


# --- D8 ---------------------------------------------------------------------------------------------------------------------------

DAMAGES = (
    "store gone",
    "store cut",
    "store empty",
    "state gone",
    "state cut",
    "state wrong",
    "store and state cut",
    "journal wrong",
)


def damage(both: Pair, name: str, what: str) -> None:
    """Damage one server's files while it is down."""
    store, state = both[name].data / STORE_FILE, both[name].data / STATE_FILE
    if what.startswith("store"):
        if "gone" in what:
            store.unlink()
        else:
            store.write_bytes(b"" if "empty" in what else store.read_bytes()[: 2 * 4096 + 100])
    if "state" in what:
        if "gone" in what:
            state.unlink()
        else:
            state.write_bytes(bytes(8192) if "wrong" in what else state.read_bytes()[:100])
    if what.startswith("journal"):
        for segment in both[name].data.glob("journal.*"):
            raw = bytearray(segment.read_bytes())
            raw[200:20_000] = random.Random(1).randbytes(19_800)
            segment.write_bytes(raw)


@case("D8", "store or node.state cut or gone on one side, on both", timeout_s=400)
def damaged_files(run: Run) -> None:
    """One side: BEHIND, it copies. Both: nobody serves, and says why."""
    with loaded(run) as (both, load, _):
        for what in run.pick(DAMAGES, DAMAGES * 3):
            for was_active in (False, True):
                both.wait_in_sync(90)
                load.wait_confirmed()
                name = both.active() if was_active else both.passive()
                both[name].kill()
                both.wait(lambda name=name: both.state(other(name)) in SERVING, f"{other(name)} serving")
                damage(both, name, what)
                both[name].start()
                seen = set()
                end = time.monotonic() + 60
                while both.state(name) != "PASSIVE" and time.monotonic() < end:
                    seen.add(both.state(name))
                    time.sleep(0.05)
                run.expect(both.state(name) == "PASSIVE", f"{what} of {'active' if was_active else 'passive'}: {both.row(name)}")
                run.expect(not seen & set(SERVING), f"{name} served with {what}")
                run.runs += 1
    with pair() as both:
        with both.connect() as client:
            for number in range(20):
                client.send("q", bytes(20_000 + number))
        both.kill_both()
        for name in "ab":
            damage(both, name, "store cut")
            both[name].start()
        for name in "ab":
            both.wait(lambda name=name: both.row(name).get("state") == "WAITING", f"{name} WAITING")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            run.expect(all(both.state(name) == "WAITING" for name in "ab"), "one serves a damaged store")
            time.sleep(0.1)
        run.expect(all(both.row(name)["standing"] == "behind" for name in "ab"), f"standings {[both.row(n) for n in 'ab']}")
        status = both.status("a")
        run.note("both damaged", status["sentence"] if status else "no answer")


# --- D10 --------------------------------------------------------------------------------------------------------------------------


@case("D10", "yesterday's disk of one server", timeout_s=300)
def old_disk(run: Run) -> None:
    """On contact it is BEHIND and copies; it never leads, whatever its node.state says of itself."""
    for alone in (False, True):
        for restored in "ab":
            yesterday(run, restored, alone=alone)
            run.runs += 1


def yesterday(run: Run, restored: str, *, alone: bool) -> None:
    """``alone``: the old disk is of a day on which this server served alone (SOLE)."""
    with pair() as both, tempfile.TemporaryDirectory(prefix="zmqha-yesterday-") as attic:
        load = Load(both.url, rate=100)
        load.wait_confirmed()
        if alone:
            both[other(restored)].kill()
            both.wait(lambda: both.state(restored) == "STANDALONE", f"{restored} STANDALONE")
            load.wait_confirmed()
        both[restored].kill()
        old = Path(attic) / "data"
        shutil.copytree(both[restored].data, old)
        for name in "ab":
            if not both[name].running:
                both[name].start()
        both.wait_in_sync(60)
        load.wait_confirmed()
        for producer in load.producers:
            producer.paused.set()
        time.sleep(0.5)
        both.kill_both()
        shutil.rmtree(both[restored].data)
        shutil.copytree(old, both[restored].data)
        run.expect(
            standing(both, restored) == ("sole" if alone else "paired"), f"yesterday's standing is {standing(both, restored)}"
        )
        both[other(restored)].start()
        both[restored].start()
        states = set()
        end = time.monotonic() + 60
        while {both.state("a"), both.state("b")} != {"ACTIVE", "PASSIVE"} and time.monotonic() < end:
            states.add(both.state(restored))
            time.sleep(0.02)
        run.expect(
            not states & set(SERVING), f"{restored} served with yesterday's disk ({'alone' if alone else 'paired'}): {states}"
        )
        both.wait_in_sync(60)
        for producer in load.producers:
            producer.paused.clear()
        load.wait_confirmed()
        run.judge(load.settle())
        both.assert_equal_stores()
