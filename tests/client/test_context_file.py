"""The file that ``zmqha init`` writes for clients leads Python to the pair as it leads the command line there."""

from pathlib import Path

import pytest

import zmqha
from zmqha.cli import contexts
from zmqha.cli.provision import Plan, single_machine_pair, write
from zmqha.client import context_file
from zmqha.errors import ConfigError, UrlError

NOT_FILES = ["zmqha://a,b", "zmqha://a?curve_key_file=x.toml", "zmqha://host.toml", ["zmqha://a", "zmqha://b"]]
TEXT = 'url = "zmqha://a,b:7400?prefetch=5&curve_key_file=client.key_secret"\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "client" / "context.toml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("given", [str, Path])
def test_a_path_leads_to_the_url_and_the_key_beside_the_file(file, given, monkeypatch):
    monkeypatch.chdir(file.parent.parent)

    url = context_file.url_of(given("client/context.toml"))

    assert url == f"zmqha://a,b:7400?prefetch=5&curve_key_file={file.parent}/client.key_secret"


@pytest.mark.parametrize("place", NOT_FILES)
def test_urls_are_left_as_they_are(place):
    assert context_file.url_of(place) is place


def test_the_home_directory_is_found(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parent))

    assert str(context_file.url_of("~/context.toml")).startswith("zmqha://a,b:7400")


@pytest.mark.parametrize("text", ["", "url = \n", "url = 1\n", 'url = "zmqha://a"\nother = 1\n', "\N{SNOWMAN}"])
def test_what_is_no_context_file_is_refused_with_a_cure(file, text):
    file.write_text(text)

    with pytest.raises(ConfigError) as error:
        context_file.url_of(file)

    assert str(file) in error.value.what and error.value.cause and "zmqha://" in error.value.cure


def test_a_file_that_is_not_there_says_where_relative_paths_count_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as error:
        zmqha.connect("nowhere/context.toml")

    assert "nowhere/context.toml" in error.value.what
    assert "current directory" in error.value.cause and "zmqha init" in error.value.cure


def test_a_url_in_the_file_that_cannot_be_understood_is_a_url_error(file):
    file.write_text('url = "http://a"\n')

    with pytest.raises(UrlError):
        zmqha.connect(file)


def test_python_takes_what_init_writes_with_its_keys_also_from_the_environment(tmp_path, monkeypatch):
    first, second = single_machine_pair(("a", "b"), 27400)
    place = write(Plan(tmp_path / "pair", first, second, "pair", single_machine=True)).parent / "client"
    monkeypatch.setenv("ZMQHA_URL", str(place / "context.toml"))

    for given in (place / "context.toml", str(place / "context.toml"), None):
        with zmqha.Client(given, prefetch=7) as client:  # the keys are read here; nobody need answer
            assert str(client.url.hosts[0]) == "127.0.0.1:27400"
            assert client.options.curve_key_file == str(place / "client.key_secret") and client.options.prefetch == 7


def test_the_command_line_reads_the_same(file):
    assert contexts.read(str(file)).url == context_file.read(file)
