"""What the gate refuses to be told."""

import pytest

from tests.transport.conftest import Party
from zmqha.errors import ConfigError
from zmqha.transport.security import KeyGate


def test_a_secret_is_never_shown(party: Party) -> None:
    assert party.own.secret.decode() not in repr(party.own)


def test_the_peers_key_cannot_be_a_clients_key_too(gate: KeyGate, party: Party) -> None:
    with pytest.raises(ConfigError, match="also a client key"):
        gate.admit_clients([party.client.public, party.peer.public])
