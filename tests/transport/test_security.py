"""Keys in files, and what the gate refuses to be told."""

import stat
from pathlib import Path

import pytest

from tests.transport.conftest import Party
from zmqha.errors import ConfigError
from zmqha.transport.security import KeyGate, Keys, load_all_public, load_public


def test_keys_come_back_from_their_files_and_only_the_owner_reads_the_secret(tmp_path: Path) -> None:
    made = Keys.create(tmp_path, "node-a")
    assert Keys.load(tmp_path, "node-a") == made
    assert load_public(tmp_path / "node-a.key") == made.public
    assert load_all_public(tmp_path) == {made.public: "node-a"}
    assert stat.S_IMODE((tmp_path / "node-a.key_secret").stat().st_mode) == 0o600


def test_a_secret_is_never_shown(party: Party) -> None:
    assert party.own.secret.decode() not in repr(party.own)


@pytest.mark.parametrize("text", ["", "curve\n", 'public-key = "short"\n', 'public-key = "%s"\n' % ("~" * 40)])
def test_a_damaged_key_file_is_a_config_error_that_names_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.key").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.key"):
        load_public(tmp_path / "x.key")


def test_a_missing_secret_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Keys.load(tmp_path, "nobody")
    Keys.create(tmp_path, "x")
    (tmp_path / "x.key_secret").write_text((tmp_path / "x.key").read_text())
    with pytest.raises(ConfigError, match="no secret key"):
        Keys.load(tmp_path, "x")


def test_the_peers_key_cannot_be_a_clients_key_too(gate: KeyGate, party: Party) -> None:
    with pytest.raises(ConfigError, match="also a client key"):
        gate.admit_clients([party.client.public, party.peer.public])
