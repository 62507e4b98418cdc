"""A bad cable: loss, delay, jitter, duplicates on the peer link, by a cable in user space."""

import os
import time

import pytest

from tests.system.lab import lab
from tests.system.wire import write_settings

pytestmark = pytest.mark.lab

BAD = {
    "10 % loss": {"loss": 0.1, "delay": 2, "jitter": 2},
    "delay and jitter": {"delay": 60, "jitter": 30},
    "30 % loss": {"loss": 0.3},
    "200 ms": {"delay": 200},
    "duplicates and corruption": {"twice": 0.05, "corrupt": 0.01},
}
ALWAYS = ("10 % loss", "delay and jitter")


@pytest.mark.parametrize("kind", list(BAD) if os.environ.get("ZMQHA_FULL") else ALWAYS)
def test_a_bad_peer_link_loses_nothing(kind: str) -> None:
    with lab(wire=True) as net_lab:
        began = time.monotonic()
        write_settings(net_lab.wire_settings, left=BAD[kind], right=BAD[kind])
        net_lab.stay(6)
        net_lab.note(f"{kind}: confirms in 6 s", net_lab.confirms_since(began))
        net_lab.note("gap, s", net_lab.gap(began))
        for name in ("a", "b"):
            net_lab.note(name, net_lab.states_since(name, began))
        assert net_lab.confirms_since(began) > 50
        write_settings(net_lab.wire_settings)
        net_lab.settle()
