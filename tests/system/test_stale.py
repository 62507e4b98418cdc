"""A server whose disk may be old, or that diverged, never serves by itself, says why, and is helped by its peer or an operator."""

import time

import pytest

from tests.system.pair import Pair, pair
from tests.system.stores import assert_equal_offline, standing
from zmqha.errors import FailoverTimeout, OperationFailed


def make_stale(both: Pair) -> tuple[str, str]:
    """Kill the active, let the other confirm alone, kill that too; (stale, fresh)."""
    stale = both.active()
    fresh = "b" if stale == "a" else "a"
    with both.connect() as client:
        client.send_many("q", [b"both %d" % number for number in range(100)])
        both[stale].kill()
        client.send_many("q", [b"alone %d" % number for number in range(100)])
    both[fresh].kill()
    assert (standing(both, stale), standing(both, fresh)) == ("paired", "sole")
    return stale, fresh


def bodies(both: Pair) -> list[bytes]:
    """Everything in the queue."""
    with both.connect() as client, client.consume("q", timeout=1.5) as messages:
        return [message.body for message in messages]


@pytest.mark.timeout(90)
def test_a_stale_server_waits_and_the_fresh_one_brings_everything_back() -> None:
    with pair() as both:
        stale, fresh = make_stale(both)
        both[stale].start()
        both.wait(lambda: both.state(stale) == "WAITING", "the stale server's answer")
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert both.state(stale) == "WAITING"
            time.sleep(0.1)
        status = both.status(stale)
        assert status is not None and status["gateway"]["own"] is True, status
        assert f"{fresh} may have gone on alone" in status["sentence"] and f"waits for {fresh}" in status["sentence"], status
        with pytest.raises(FailoverTimeout, match="no active server"):
            both.connect(connect_timeout=0.5)
        both[fresh].start()
        both.wait_in_sync()
        assert both.state(fresh) == "ACTIVE" and both.state(stale) == "PASSIVE"
        both.assert_equal_stores()
        assert bodies(both) == [b"both %d" % n for n in range(100)] + [b"alone %d" % n for n in range(100)]
        both.assert_equal_stores()
        both.kill_both()
        assert_equal_offline(both, fresh)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_the_fresh_server_alone_serves_again_once_its_gateway_answers() -> None:
    with pair() as both:
        stale, fresh = make_stale(both)
        both.gateway.mute()
        both[fresh].start()
        both.wait(lambda: both.state(fresh) == "WAITING", "the fresh server's answer")
        time.sleep(1.5)
        status = both.status(fresh)
        assert status is not None and "waits for its gateway" in status["sentence"], status
        both.gateway.speak()
        both.wait(lambda: both.state(fresh) == "STANDALONE", "the fresh server serving")
        both[stale].start()
        both.wait_in_sync()
        assert len(bodies(both)) == 200


@pytest.mark.timeout(120)
def test_two_branches_are_told_apart_and_the_loser_copies_only_when_told() -> None:
    """Both confirmed alone: the stale one was promoted although the other held more."""
    with pair(on_divergence="stop") as both:
        stale, fresh = make_stale(both)
        both[stale].start()
        both.wait_settled_waiting(stale)
        with pytest.raises(OperationFailed, match="accept-loss-of-peer"):
            both.admin(stale, "promote")
        both.admin(stale, "promote", accept_loss_of_peer=True)
        both.wait(lambda: both.state(stale) == "STANDALONE", "the promoted server serving")
        with both.connect() as client:
            client.send_many("q", [b"promoted %d" % number for number in range(50)])
        before = set((both[fresh].data).iterdir())
        both[fresh].start()
        both.wait(lambda: "hold confirmed messages" in sentence(both, fresh), "the divergence being told")
        assert "resync --discard-own" in sentence(both, fresh)
        time.sleep(1)
        assert both.state(fresh) == "WAITING" and both.state(stale) == "STANDALONE"
        assert standing(both, fresh) == "behind"
        both.admin(fresh, "resync", discard_own=True)
        both.wait_in_sync()
        assert both.state(stale) == "ACTIVE"
        kept = [path.name for path in set(both[fresh].data.iterdir()) - before if ".damaged-" in path.name]
        assert any(name.startswith("store.mdb.") for name in kept), kept
        assert bodies(both) == [b"both %d" % n for n in range(100)] + [b"promoted %d" % n for n in range(50)]
        both.assert_equal_stores()
        history = both.admin(stale, "history")["entries"]
        assert any("promoted by" in entry["reason"] for entry in history), history


def sentence(both: Pair, name: str) -> str:
    """What a server says of the pair."""
    status = both.status(name)
    return str(status["sentence"]) if status else ""
