"""Kill either server: nothing that was confirmed is lost."""

import time

from tests.system.pair import pair


def test_a_killed_active_is_replaced_and_comes_back_as_copy() -> None:
    with pair() as both, both.connect() as client:
        first = both.active()
        for number in range(200):
            client.send("orders", b"%d" % number)
        both[first].kill()
        client.send("orders", b"200")
        assert both.active() != first
        both[first].start()
        both.assert_equal_stores()
        received = [int(message.body) for message in client.consume("orders", timeout=2)]
        assert received == list(range(201))


def test_the_active_goes_on_alone_when_the_passive_is_killed() -> None:
    with pair() as both, both.connect() as client:
        passive = both.passive()
        client.send("orders", b"before")
        both[passive].kill()
        began = time.monotonic()
        receipt = client.send("orders", b"after")
        assert time.monotonic() - began < 5
        assert receipt.durability == 1
        both[passive].start()
        both.assert_equal_stores()
