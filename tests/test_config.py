"""The configuration: what is refused says what, why and cure; what is legal comes out resolved."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq.auth
from msgspec.structs import replace

from zmqha.cli import provision
from zmqha.errors import ConfigError, OperationFailed
from zmqha.server.config import Address, Config, SystemNetwork, load, names, not_here
from zmqha.server.keyring import load_keys
from zmqha.server.reread import changed_at_runtime, with_runtime_changes

KEY = "5@d<}+rpXdIRgyT{muuDAJy65p.Nb.2iCZII.r{b"
TEXT = f"""
[cluster]
name = "plant-7"
id = "5f2c91ab00112233"
secret_file = "cluster/secret"

[gateway]
addresses = ["10.0.7.1"]

[timers]

[limits]

[log]

[security]
client_port_key_file = "cluster/client_port.key_secret"
client_keys = ["{KEY}"]

[server.edge-a]
role = "primary"
data_dir = "data/edge-a"
client = "edge-a:7400"
peer = "10.78.0.1:7410"
peer_key_file = "edge-a/peer.key_secret"
peer_public_key = "{KEY}"

[server.edge-b]
role = "secondary"
data_dir = "/srv/edge-b"
client = "10.0.7.12:7400"
peer = "10.78.0.2:7410"
peer_key_file = "edge-b/peer.key_secret"
peer_public_key = "{KEY}"
"""


class Lan:
    """A machine's network: names, and the addresses packets leave from. This machine is edge-a."""

    here = True
    hosts = {"edge-a": ("10.0.7.11",), "loop": ("127.0.1.1",)}
    own = ("10.0.7.11", "10.78.0.1")

    def resolve(self, host: str) -> tuple[str, ...]:
        return self.hosts.get(host, ()) or ((host,) if host[0].isdigit() or ":" in host else ())

    def source_for(self, address: str) -> str:
        return address if address in self.own else "10.78.0.1" if address.startswith("10.78.") else "10.0.7.11"


def read(tmp_path: Path, text: str = TEXT, name: str = "edge-a", environ: dict[str, str] | None = None) -> Config:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return load(path, name, environ=environ or {}, network=Lan())


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def under(section: str, line: str) -> Callable[[str], str]:
    return swap(f"[{section}]\n", f"[{section}]\n{line}\n")


def without_second(text: str) -> str:
    return text[: text.index("[server.edge-b]")]


REFUSED: list[tuple[str, Callable[[str], str], str]] = [
    ("not TOML", swap('"plant-7"', "plant 7"), "is not TOML"),
    ("unknown section", lambda text: text + "[timer]\n", "did you mean 'timers'?"),
    ("unknown key", under("timers", "heartbeet_ms = 250"), "did you mean 'heartbeat_ms'?"),
    ("unknown key of a server", swap("data_dir", "data_dirr"), "did you mean 'data_dir'?"),
    ("wrong type", under("timers", 'heartbeat_ms = "250"'), "timers.heartbeat_ms: Expected `int`, got `str`"),
    ("wrong choice", under("log", 'level = "loud"'), "log.level"),
    ("missing key", swap('name = "plant-7"\n', ""), "cluster.name: missing"),
    ("missing key of a server", swap('role = "secondary"\n', ""), "server.edge-b.role"),
    ("bad cluster name", swap("plant-7", "plant 7"), "is no name"),
    ("bad cluster id", swap("5f2c91ab00112233", "xyz"), "is no cluster id"),
    ("unknown policy", under("cluster", 'on_divergence = "newest"'), "cluster.on_divergence"),
    ("resume_alone", under("cluster", 'resume_alone = "always"'), "resume_alone"),
    ("no secret", swap('secret_file = "cluster/secret"\n', ""), "cluster.secret_file: missing"),
    ("no server", lambda text: text[: text.index("[server")], "no server block"),
    ("three servers", lambda text: text + text[text.index("[server.edge-b]") :].replace("edge-b", "edge-c"), "3 servers"),
    ("both primary", swap('"secondary"', '"primary"'), "the roles are primary and primary"),
    ("one secondary alone", lambda text: swap('"primary"', '"secondary"')(without_second(text)), "the roles are secondary"),
    ("reserved name", swap("[server.edge-b]", "[server.client]"), "cannot name a server"),
    ("data of nobody", swap("data/edge-a", "~nosuch/x"), "server.edge-a.data_dir: '~nosuch/x' leads nowhere"),
    ("a zero byte", swap("data/edge-a", r"data\u0000"), "leads nowhere"),
    ("no port", swap('"edge-a:7400"', '"edge-a"'), "is no host:port"),
    ("port too large", swap("10.78.0.1:7410", "10.78.0.1:65535"), "is no host:port"),
    ("no peer address", swap('peer = "10.78.0.2:7410"\n', ""), "server.edge-b.peer: missing"),
    ("own name unknown", swap('"edge-a:7400"', '"edge-x:7400"'), "cannot be resolved"),
    ("loopback", swap('"edge-a:7400"', '"127.0.0.1:7400"'), "is loopback"),
    ("own name is loopback", swap('"edge-a:7400"', '"loop:7400"'), "/etc/hosts"),
    ("wildcard", swap('"edge-a:7400"', '"0.0.0.0:7400"'), "means every interface"),
    ("one address for both", swap('"10.0.7.12:7400"', '"10.0.7.11:7401"'), "both servers have the address 10.0.7.11"),
    ("port used twice", swap("10.78.0.1:7410", "10.0.7.11:7399"), "is used twice"),
    ("started as the other", swap("role", "role"), "belongs to this machine"),
    ("no CURVE", under("security", "curve = false"), "single machine only"),
    (
        "no client port key",
        swap('client_port_key_file = "cluster/client_port.key_secret"\n', ""),
        "client_port_key_file: missing",
    ),
    ("no clients", swap(f'client_keys = ["{KEY}"]', "client_keys = []"), "security.client_keys: empty"),
    ("bad client key", swap(f'client_keys = ["{KEY}"]', 'client_keys = ["short"]'), "is no public key"),
    ("client key out of range", swap(f'client_keys = ["{KEY}"]', f'client_keys = ["{"#" * 40}"]'), "is no public key"),
    ("no peer key", swap('peer_key_file = "edge-b/peer.key_secret"\n', ""), "edge-b.peer_key_file: missing"),
    ("bad peer key", swap(f'peer_public_key = "{KEY}"', 'peer_public_key = ""'), "is no public key"),
    ("peer key out of range", swap(f'peer_public_key = "{KEY}"', f'peer_public_key = "{"#" * 40}"'), "is no public key"),
    ("no gateway", swap('addresses = ["10.0.7.1"]', "addresses = []"), "0 addresses"),
    ("three gateways", swap('["10.0.7.1"]', '["10.0.7.1", "10.0.7.2", "10.0.7.3"]'), "3 addresses"),
    ("gateway is a name", swap('["10.0.7.1"]', '["router"]'), "is no IP address"),
    ("gateway is loopback", swap('["10.0.7.1"]', '["127.0.0.1"]'), "loopback"),
    ("gateway is this server", swap('["10.0.7.1"]', '["10.0.7.11"]'), "is this machine"),
    ("gateway is the peer", swap('["10.0.7.1"]', '["10.0.7.12"]'), "is the peer, edge-b"),
    ("gateway is the peer's link", swap('["10.0.7.1"]', '["10.78.0.2"]'), "is the peer, edge-b"),
    ("gateway is loopback, mapped", swap('["10.0.7.1"]', '["::ffff:127.0.0.1"]'), "loopback"),
    ("gateway is this server, mapped", swap('["10.0.7.1"]', '["::ffff:10.0.7.11"]'), "is this machine"),
    (
        "gateway is the peer, written in another way",
        lambda text: swap("10.0.7.12:7400", "[2001:DB8:0::12]:7400")(swap('["10.0.7.1"]', '["2001:db8::12"]')(text)),
        "is the peer, edge-b",
    ),
    (
        "one address for both, mapped",
        swap("10.0.7.12:7400", "[::ffff:10.0.7.11]:7401"),
        "both servers have the address 10.0.7.11",
    ),
    ("gateway over the peer link", swap('["10.0.7.1"]', '["10.78.0.254"]'), "reached over the peer link"),
    ("gateway without port", under("gateway", 'kind = "tcp"'), "is no host:port"),
    ("command asks nobody", under("gateway", 'command = "ping -c 1 10.0.7.1"'), "places to fill in"),
    ("command with a strange place", under("gateway", 'command = "ping {address} {hosts}"'), "places to fill in"),
    ("command with an open quote", under("gateway", 'command = "ping \'{address}"'), "cannot be split"),
    ("message too large", under("limits", "max_message_bytes = 99999999"), "is out of range"),
    ("no sessions", under("limits", "sessions_max = 0"), "is out of range"),
    ("huge timer", under("timers", "slow_ms = 999999999"), "timers.slow_ms"),
    (
        "HB < T_FRESH",
        under("timers", "heartbeat_ms = 400\nlost_ms = 810\ndecide_ms = 900\nisolated_ms = 900"),
        "heartbeat_ms < fresh",
    ),
    ("2 HB < T_LOST", under("timers", "heartbeat_ms = 300"), "2 * heartbeat_ms < lost_ms"),
    ("T_LOST < T_DECIDE", under("timers", "lost_ms = 750"), "lost_ms < decide_ms"),
    ("T_DECIDE <= T_ISO", under("timers", "isolated_ms = 700"), "decide_ms <= isolated_ms"),
    ("T_SILENT <= T_LOST", under("timers", "silent_ms = 601"), "silent_ms <= lost_ms"),
    ("T_FRESH + 300 < T_DECIDE", under("timers", "fresh_ms = 450"), "fresh_ms + 300 < decide_ms"),
    ("T_PAUSE + HB + 100 < T_DECIDE", under("timers", "pause_ms = 400"), "pause_ms + heartbeat_ms + 100 < decide_ms"),
]


@pytest.mark.parametrize(("change", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_wrong_is_refused_with_what_why_and_cure(tmp_path: Path, change: Callable[[str], str], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read(tmp_path, change(TEXT), "edge-b" if "belongs" in said else "edge-a")

    error = refusal.value
    assert str(tmp_path) in error.what
    assert error.what and error.cause and error.cure
    assert said in f"{error.what} {error.cause} {error.cure}"


def test_a_refusal_names_the_line(tmp_path: Path) -> None:
    text = under("timers", "heartbeet_ms = 250")(TEXT)
    line = text[: text.index("heartbeet_ms")].count("\n") + 1

    with pytest.raises(ConfigError, match=f"server.toml:{line}: timers.heartbeet_ms"):
        read(tmp_path, text)


def test_a_missing_file_and_a_missing_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as no_file:
        load(tmp_path / "absent.toml", "a")
    with pytest.raises(ConfigError) as no_name:
        read(tmp_path, TEXT, "")
    with pytest.raises(ConfigError) as near_name:
        read(tmp_path, TEXT, "edge-aa")

    assert "zmqha init" in no_file.value.cure
    assert no_name.value.cure == "--name edge-a or --name edge-b"
    assert near_name.value.cure.startswith("did you mean --name edge-")


def test_a_good_file_comes_out_resolved(tmp_path: Path) -> None:
    config = read(tmp_path)

    assert config.name == "edge-a" and config.own.primary and config.peer is not None
    assert config.own.data_dir == tmp_path / "data/edge-a"
    assert config.peer.data_dir == Path("/srv/edge-b")
    assert config.secret_file == tmp_path / "cluster/secret"
    assert str(config.own.client) == "edge-a:7400"
    assert config.own.client_bind == Address("10.0.7.11", 7400)
    assert [(route.name, route.here.tcp, route.there.bulk.tcp) for route in config.routes] == [
        ("peer", "tcp://10.78.0.1:7410", "tcp://10.78.0.2:7411"),
        ("lan", "tcp://10.0.7.11:7410", "tcp://10.0.7.12:7411"),
    ]
    assert config.endpoints == ("edge-a:7400", "10.0.7.12:7400")
    assert config.probe_source == "10.0.7.11"
    assert config.gateway.argv("10.0.7.1", timeout_ms=200, source="10.0.7.11")[-5:] == [
        "-W",
        "0.2",
        "-I",
        "10.0.7.11",
        "10.0.7.1",
    ]
    assert config.warnings == ()


def test_one_server_runs_without_peer_and_gateway(tmp_path: Path) -> None:
    text = without_second(swap('addresses = ["10.0.7.1"]\n', "")(TEXT))

    config = read(tmp_path, text, "")

    assert config.peer is None and config.routes == () and config.endpoints == ("edge-a:7400", "")


def test_what_is_unwise_is_a_warning(tmp_path: Path) -> None:
    alone = read(tmp_path, under("cluster", 'resume_alone = "available"')(TEXT))
    one_cable = read(tmp_path, swap("10.78.0.1:7410", "10.0.7.11:7410")(TEXT))

    assert "old store" in alone.warnings[0]
    assert "no second heartbeat path" in one_cable.warnings[0] and one_cable.own.lan is None
    assert [route.name for route in one_cable.routes] == ["peer"]


def test_a_peer_whose_name_is_unknown_is_refused_since_the_loop_must_not_wait_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'edge-b' cannot be resolved") as refusal:
        read(tmp_path, swap('"10.0.7.12:7400"', '"edge-b:7400"')(TEXT))
    assert "/etc/hosts" in refusal.value.cure


def test_an_own_address_that_is_not_here_is_a_warning_of_the_check(tmp_path: Path) -> None:
    text = TEXT.replace("edge-a:7400", "240.0.0.1:7400").replace("10.78.0.1", "240.0.0.1")
    assert not_here(read(tmp_path, text)) == ("server.edge-a.client: 240.0.0.1 is no address of this machine now",)
    here = read(tmp_path)
    home = here.own.client_bind._replace(host="127.0.0.1")
    assert not_here(replace(here, own=replace(here.own, client_bind=home, peer=home, lan=None))) == ()


def test_a_third_machine_can_check_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text(TEXT.replace("edge-a:7400", "no-such-host.invalid:7400"))

    assert names(path, environ={}) == ("edge-a", "edge-b")
    assert load(path, "edge-a", environ={}, network=SystemNetwork(here=False)).name == "edge-a"


def test_the_environment_overrides_and_is_checked(tmp_path: Path) -> None:
    environ = {
        "ZMQHA_URL": "zmqha://ignored",
        "ZMQHA_TIMERS__SLOW_MS": "3000",
        "ZMQHA_GATEWAY__ADDRESSES": "10.0.7.1,10.0.7.2",
        "ZMQHA_LOG__LEVEL": "debug",
        "ZMQHA_SERVER__EDGE_A__DATA_DIR": "/srv/a",
        "ZMQHA_CLUSTER__SINGLE_MACHINE": "false",
    }
    config = read(tmp_path, environ=environ)

    assert (config.timers.slow_ms, config.log.level, config.own.data_dir) == (3000, "debug", Path("/srv/a"))
    assert config.gateway.addresses == ("10.0.7.1", "10.0.7.2")
    for variable, said in (
        ("ZMQHA_TIMERS__SLOW", "slow_ms"), ("ZMQHA_TIMER__SLOW_MS", "timers"), ("ZMQHA_SERVER__EDGE_Z__ROLE", "edge-"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as refusal:
            read(tmp_path, environ={variable: "1"})
        assert variable in refusal.value.what and f"did you mean '{said}" in refusal.value.cure
    with pytest.raises(ConfigError, match=r"timers\.slow_ms"):
        read(tmp_path, environ={"ZMQHA_TIMERS__SLOW_MS": "soon"})


def test_a_reload_applies_some_settings_and_names_the_others(tmp_path: Path) -> None:
    old = read(tmp_path)
    changed = under("log", 'level = "debug"')(under("limits", "sessions_max = 5")(swap("10.0.7.1", "10.0.7.9")(TEXT)))
    new = read(tmp_path, under("timers", "slow_ms = 3000")(swap("data/edge-a", "data/x")(changed)))

    applied, restart = changed_at_runtime(old, new)
    running = with_runtime_changes(old, new)

    assert sorted(line.split(":")[0] for line in applied) == ["gateway.addresses", "limits.sessions_max", "log.level"]
    assert [line.split(":")[0] for line in restart] == ["timers.slow_ms", "own.data_dir"]
    assert (running.limits.sessions_max, running.log.level, running.timers.slow_ms) == (5, "debug", 2000)
    assert changed_at_runtime(old, old) == ((), ())


@pytest.mark.parametrize("change", [
    lambda text: under("gateway", 'kind = "tcp"')(swap('"10.0.7.1"', '"10.0.7.9:80"')(text)),
    lambda text: under("gateway", 'command = "fping {address}"')(swap('"10.0.7.1"', '"10.0.7.9"')(text)),
    lambda text: without_second(swap('addresses = ["10.0.7.1"]\n', "")(text)),
], ids=["another kind", "another command", "no peer and no gateway"])  # fmt: skip
def test_a_gateway_that_is_asked_in_another_way_waits_for_a_restart_whole(tmp_path: Path, change: Callable[[str], str]) -> None:
    old, new = read(tmp_path), read(tmp_path, change(TEXT))

    applied, restart = changed_at_runtime(old, new)

    assert with_runtime_changes(old, new).gateway == old.gateway
    assert applied == () and "gateway.addresses" in [line.split(":")[0] for line in restart]


def test_what_waits_for_a_restart_is_told_at_every_reload(tmp_path: Path) -> None:
    old, new = read(tmp_path), read(tmp_path, under("limits", "journal_segment_bytes = 2097152")(TEXT))
    running = with_runtime_changes(old, new)
    assert changed_at_runtime(running, new)[1] == ("limits.journal_segment_bytes: 67108864 -> 2097152",)


# --- the directory of zmqha init, and the keys in it ------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    plan = provision.Plan(
        tmp_path / "pair", *provision.single_machine_pair(("a", "b"), 17400), cluster="demo",
        gateway_addresses=("127.0.0.1",), single_machine=True,
    )  # fmt: skip
    return provision.write(plan)


def test_init_writes_what_both_servers_load(pair: Path) -> None:
    rings = {name: load_keys(load(pair, name, environ={})) for name in names(pair, environ={})}

    assert rings["a"].client_port == rings["b"].client_port
    assert rings["a"].peer_port is not None and rings["a"].peer_port.public == rings["b"].peer_public
    assert rings["a"].peer_port != rings["b"].peer_port
    assert rings["a"].mac_secret == rings["b"].mac_secret and len(rings["a"].mac_secret) == 64
    assert len(rings["a"].client_keys) == 1
    secrets = [*pair.parent.rglob("*.key_secret"), pair.parent / "cluster" / "secret"]
    assert len(secrets) == 5 and all(path.stat().st_mode & 0o777 == 0o600 for path in secrets)
    assert not list(pair.parent.rglob("node.state"))


def test_a_directory_is_never_overwritten(pair: Path) -> None:
    before = pair.read_text()
    plan = provision.Plan(pair.parent, *provision.single_machine_pair(("a", "b"), 17400), cluster="demo")

    with pytest.raises(OperationFailed, match="exists already"):
        provision.write(plan)

    assert pair.read_text() == before and list(pair.parent.parent.iterdir()) == [pair.parent]


def test_keys_that_do_not_fit_are_refused(pair: Path) -> None:
    config = load(pair, "a", environ={})
    key_file = pair.parent / "a" / "peer.key_secret"
    good = key_file.read_bytes()
    own, other = (zmq.auth.load_certificate(pair.parent / name / "peer.key_secret") for name in "ab")
    assert own[1] and other[1]
    foreign, impossible = good.replace(own[1], other[1]), good.replace(own[1], b"#" * 40)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: key_file.chmod(0o644), "can be read by others"),
        (lambda: key_file.write_bytes((pair.parent / "b" / "peer.key_secret").read_bytes()), "is not the key of server.a"),
        (lambda: key_file.write_bytes((pair.parent / "a" / "peer.key").read_bytes()), "holds no secret key"),
        (lambda: key_file.write_bytes(foreign), "is no pair of keys"),
        (lambda: key_file.write_bytes(impossible), "is no pair of keys"),
        (lambda: key_file.write_bytes(good.replace(own[0], b"#" * 40)), "is no pair of keys"),
        (lambda: key_file.write_bytes(b"nothing"), "cannot read the key file"),
        (lambda: key_file.unlink(), "cannot read the key file"),
    ]
    for damage, said in cases:
        key_file.write_bytes(good)
        key_file.chmod(0o600)
        damage()
        with pytest.raises(ConfigError, match=said) as refusal:
            load_keys(config)
        assert refusal.value.cause and refusal.value.cure


def test_a_directory_of_the_other_server_that_is_closed_is_no_matter(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root would leave it: the server's user cannot look into it."""
    config = load(pair, "a", environ={})
    assert config.peer is not None
    two_machines = replace(config, cluster=replace(config.cluster, single_machine=False))
    assert "is the secret of the other server" in load_keys(two_machines).warnings[0]
    closed, stat = config.peer.peer_key_file, os.stat

    def ask(path: Any, **how: Any) -> os.stat_result:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **how)

    monkeypatch.setattr(os, "stat", ask)
    assert load_keys(two_machines).warnings == ()
