"""The URL: a table of vectors, and what is refused."""

import pytest

from zmqha.client.url import Host, Options, default_url, masked, parse
from zmqha.errors import UrlError

HOSTS = [
    ("zmqha://a", "a:7400"),
    ("zmqha://a:1", "a:1"),
    ("zmqha://a,b", "a:7400 b:7400"),
    ("zmqha://a,b:7401", "a:7401 b:7401"),
    ("zmqha://a:1,b:2", "a:1 b:2"),
    ("zmqha://a:1,b", "a:1 b:7400"),
    ("zmqha://a,b:1,c:2", "a:7400 b:1 c:2"),
    ("zmqha://[::1]", "[::1]:7400"),
    ("zmqha://[::1]:5,[fe80::1%eth0]:6", "[::1]:5 [fe80::1%eth0]:6"),
    ("zmqha://[::1],b:9", "[::1]:9 b:9"),
    ("zmqha://10.0.7.11,10.0.7.12:7400/", "10.0.7.11:7400 10.0.7.12:7400"),
    ("zmqha://a:1;zmqha://b:2", "a:1 b:2"),
    (["zmqha://a:1", "zmqha://b:2"], "a:1 b:2"),
    ("zmqha://a:1;zmqha://a:1", "a:1"),
    (" zmqha://a:1 ; ", "a:1"),
    ("zmqha://a,b?prefetch=5", "a:7400 b:7400"),
]


@pytest.mark.parametrize(("text", "hosts"), HOSTS)
def test_hosts_and_ports_follow_libpq(text, hosts):
    assert " ".join(map(str, parse(text).hosts)) == hosts


def test_the_endpoint_is_what_zeromq_wants():
    assert Host("::1", 5).endpoint == "tcp://[::1]:5"
    assert Host("edge-a", 5).endpoint == "tcp://edge-a:5"


@pytest.mark.parametrize(
    "text", ["zmqha://ann@h", "zmqha://ann:secret@h", "zmqha://:secret@h", "zmqha://a,b:7400/plant?prefetch=1"]
)
def test_users_and_namespaces_are_refused_rather_than_ignored(text):
    with pytest.raises(UrlError) as error:
        parse(text)
    assert error.value.what == "users and namespaces do not exist in this version"
    assert "curve_key_file" in error.value.cure and "secret" not in error.value.explain()


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("connect_timeout=5s", "connect_timeout", 5.0),
        ("connect_timeout=250ms", "connect_timeout", 0.25),
        ("failover_timeout=2m", "failover_timeout", 120.0),
        ("failover_timeout=-1", "failover_timeout", -1.0),
        ("failover_timeout=0", "failover_timeout", 0.0),
        ("reconnect_min=10ms", "reconnect_min", 0.01),
        ("reconnect_max=0.5", "reconnect_max", 0.5),
        ("heartbeat=1", "heartbeat", 1.0),
        ("prefetch=7", "prefetch", 7),
        ("ack=manual", "ack", "manual"),
        ("client_id=a%20b", "client_id", "a b"),
        ("name=x", "name", "x"),
        ("curve_server_key=" + "a%26" * 10 + "b" * 20, "curve_server_key", "a&" * 10 + "b" * 20),
    ],
)
def test_options(query, name, value):
    assert getattr(parse(f"zmqha://a?{query}").options, name) == value


def test_keywords_win_over_the_url_and_none_means_not_given():
    options = parse("zmqha://a?prefetch=7&ack=manual", prefetch=9, ack=None).options
    assert (options.prefetch, options.ack) == (9, "manual")


@pytest.mark.parametrize(
    "text",
    [
        "", ";", "a", "http://a", "zmqha://", "zmqha:///x", "zmqha://a,", "zmqha://,a", "zmqha://a:", "zmqha://a:0", "zmqha://a:65536",
        "zmqha://a:x", "zmqha://a:٣", "zmqha://[::1", "zmqha://[::1]5", "zmqha://[zz]", "zmqha://a b", "zmqha://::1",
        "zmqha://a?prefetch", "zmqha://a?prefetch=x", "zmqha://a?prefetch=0", "zmqha://a?ack=never", "zmqha://a?connect_timeout=soon",
        "zmqha://a?prefetch=1&prefetch=2", "zmqha://a?failover_timeout=-2", "zmqha://a?curve_server_key=short",
        "zmqha://a?curve_server_key=" + "~" * 40, "zmqha://a?curve_server_key=" + "%23" * 40, "zmqha://a?curve_server_key=" + "٣" * 40,
        "zmqha://a?connect_timeout=0", "zmqha://a?reconnect_min=0", "zmqha://a?heartbeat=-1", "zmqha://a?client_id=" + "x" * 300,
        "zmqha://a?name=" + "x" * 300, "zmqha://a?nothing=1", "zmqha://a?curve_key_file=x", "zmqha://a?reconnect_min=2s",
        "zmqha://" + ",".join(f"h{i}" for i in range(9)),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_a_url_error_with_a_cure(text):
    with pytest.raises(UrlError) as error:
        parse(text)
    assert error.value.cure


@pytest.mark.parametrize(("wrong", "right"), [("prefech", "prefetch"), ("failover", "failover_timeout"), ("Ack", "ack")])
def test_an_unknown_option_names_the_nearest(wrong, right):
    with pytest.raises(UrlError) as error:
        parse(f"zmqha://a?{wrong}=1")
    assert repr(right) in error.value.cure


@pytest.mark.parametrize("text", ["zmqha://u:secret@a:x", "http://u:secret@a", "zmqha://u:secret@a,,b"])
def test_errors_do_not_show_the_password(text):
    with pytest.raises(UrlError) as error:
        parse(text)
    assert "secret" not in error.value.explain()
    assert "secret" not in masked(text)


@pytest.mark.parametrize(("text", "_"), HOSTS)
def test_the_normal_form_means_the_same(text, _):
    url = parse(text)
    assert parse(str(url)).hosts == url.hosts
    assert str(parse(str(url))) == str(url)


def test_the_default_comes_from_the_environment():
    assert default_url({}) == "zmqha://127.0.0.1:7400"
    assert default_url({"ZMQHA_URL": "zmqha://x"}) == "zmqha://x"
    assert parse(default_url({})).options == Options()
