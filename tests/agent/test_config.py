"""Settings from defaults, file, environment and flags, and what is said of wrong ones."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent import configload
from agent.config import (
    SECTIONS,
    SETTINGS,
    SYSTEM_DATA_DIR,
    SYSTEM_SOCKET,
    Accept,
    Config,
    Offer,
)
from agent.configload import Loaded, example_text, find_socket, load
from agent.settings import ConfigError
from protocol.config import PolicyConfig


def loaded(
    tmp_path: Path, toml: str = "", env: dict[str, str] | None = None, **flags: Any
) -> Loaded:
    (tmp_path / "config.toml").write_text(toml)
    keys = {name.replace("__", "."): value for name, value in flags.items()}
    return load(keys, {"SHOAL_DATA_DIR": str(tmp_path), **(env or {})})


def test_a_later_source_wins_and_is_named(tmp_path: Path) -> None:
    toml = 'name = "a"\nmdns = false\npreset = "wan"\n[offer]\ncpu = "50%"\n'
    env = {"SHOAL_PRESET": "metered", "SHOAL_OFFER_CPU": "2", "SHOAL_LISTEN": "/ip4/a, /ip4/b"}
    found = loaded(tmp_path, toml, env, offer__cpu="500m")
    config, view = found.config, found.view()
    assert (config.name, config.mdns, config.preset, config.offer.cpu) == (
        "a",
        False,
        "metered",
        "500m",
    )
    assert config.listen == ("/ip4/a", "/ip4/b")
    assert view["name"] == {"value": "a", "source": f"file {tmp_path / 'config.toml'}"}
    assert view["preset"]["source"] == "env SHOAL_PRESET"
    assert view["offer.cpu"]["source"] == "flag --offer-cpu"
    assert view["accept.roles"] == {"value": ["submit"], "source": "default"}
    assert set(view) == {setting.key for setting in SETTINGS}
    json.dumps(view)


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    found = load({}, {"SHOAL_DATA_DIR": str(tmp_path)})
    assert found.file is None
    assert found.config == Config(data_dir=tmp_path)
    assert found.config.socket_path == tmp_path / "shoal.sock"


def test_the_default_directory_is_the_systems_for_root_and_the_users_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load({}, {}).config.data_dir == SYSTEM_DATA_DIR
    assert load({}, {}).config.socket_path == SYSTEM_SOCKET
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({}, {}).config.data_dir == tmp_path / ".local/share/shoal"
    assert load({}, {"XDG_DATA_HOME": "/x"}).config.data_dir == Path("/x/shoal")


def test_a_client_asks_its_own_agent_or_the_systems(tmp_path: Path) -> None:
    own = loaded(tmp_path, "")
    assert find_socket(own) == tmp_path / "shoal.sock"
    assert find_socket(load({}, {"SHOAL_SOCKET": "/x/y"})) == Path("/x/y")


def test_where_the_service_is_installed_it_is_asked_also_while_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, unit = tmp_path / "home", tmp_path / "shoal.service"
    monkeypatch.setattr(configload, "default_data_dir", lambda _: own)
    monkeypatch.setattr(configload, "SYSTEM_SOCKET", tmp_path / "run" / "shoal.sock")
    monkeypatch.setattr(configload, "SYSTEM_UNIT", unit)
    assert find_socket(load({}, {})) == own / "shoal.sock"
    unit.touch()
    assert find_socket(load({}, {})) == tmp_path / "run" / "shoal.sock"
    own.mkdir()
    (own / "shoal.sock").touch()
    assert find_socket(load({}, {})) == own / "shoal.sock", "one's own comes first"


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("[log]\npreset = 'wan'", "'log.preset': unknown key, but 'preset' is there: put it above"),
        ("nmae = 'x'", "'nmae': unknown key, did you mean 'name'?"),
        ("[offer]\nmemry = '1'", "'offer.memry': unknown key, did you mean 'offer.memory'?"),
        ("[log]\ncolour = 1", "allowed: log.format, log.level"),
        ("[ofer]\ncpu = '1'", "unknown key, did you mean"),
        ("offer = 3", "offer: allowed: a section [offer]"),
        ("name = 3", "name: 3 is not possible; allowed: a text in quotes"),
        ('name = "a\\nb"', "is not possible"),
        ("mdns = 'perhaps'", "mdns: 'perhaps' is not possible; allowed: true, false"),
        ("listen = [1]", 'allowed: a list of texts such as ["a", "b"]'),
        ("preset = 'fast'", "allowed: lan, wan, metered"),
        ("[offer]\ncpu = '120%'", "offer.cpu: '120%' is not possible; allowed: 0% to 100%"),
        ("[offer]\nmemory = 'much'", "is not a size"),
        ("[accept]\nexecutions_max = 0", "allowed: 1 to 10000"),
        ("[accept]\ntemperature_max_c = true", "allowed: 0 to 150"),
        ("[accept]\njob_timeout_max_s = 'soon'", "is not a duration"),
        ("labels = {a = 1.5}", "labels"),
        ("labels = {arch = 'vax'}", "the label arch is the agent's own"),
        ("[accept]\ntypes = ['cron']", "allowed: *, batch, ops, daemon, service"),
        ("[accept]\ntypes = []", 'allowed: at least one; "*" is all of them'),
        ("[accept]\nnamespaces = []", 'allowed: at least one; "*" is all of them'),
        ("[accept]\ntopics = ['a/#/b']", "'a/#/b' is no topic filter; allowed: levels"),
        ("[accept]\ntopics = ['a/b+']", "'a/b+' is no topic filter"),
        ("[accept]\nengines = ['java']", "allowed: *, process, docker, wasm"),
        ("[accept]\nhours = ['night']", "'night' are no hours; allowed: from and to as"),
        ("[accept]\nhours = ['06:00-06:00']", "for the whole day leave it out"),
        ("[accept]\nmains_only = 'perhaps'", "allowed: true, false"),
        ("name = ", "not TOML"),
        ("data_dir = '/elsewhere'", "the file lies in another one"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_by_key_and_with_what_is_allowed(
    tmp_path: Path, toml: str, text: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, toml)
    assert text in str(refused.value)
    assert str(tmp_path / "config.toml") in str(refused.value)


def test_wrong_variables_and_flags_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SHOAL_MDNS: 'maybe' is not possible"):
        loaded(tmp_path, "", {"SHOAL_MDNS": "maybe"})
    with pytest.raises(ConfigError, match=r"--label: .*name=value"):
        loaded(tmp_path, "", labels=["novalue"])
    with pytest.raises(ConfigError, match="there is no such file"):
        load({}, {}, tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="directory"):
        load({}, {}, tmp_path)


def test_a_named_file_may_name_the_data_directory(tmp_path: Path) -> None:
    file = tmp_path / "else.toml"
    file.write_text(f'data_dir = "{tmp_path}/data"\n')
    found = load({}, {"SHOAL_CONFIG": str(file)})
    assert found.config.data_dir == tmp_path / "data"
    assert found.file == file


def test_labels_come_as_a_table_as_pairs_and_as_flags(tmp_path: Path) -> None:
    assert loaded(tmp_path, "labels = {room = 'attic', n = 3}").config.labels == {
        "room": "attic", "n": "3",
    }  # fmt: skip
    assert loaded(tmp_path, "", {"SHOAL_LABELS": "a=b, c=d=e"}).config.labels == {
        "a": "b", "c": "d=e",
    }  # fmt: skip
    assert loaded(tmp_path, "", labels=["a=b", "c="]).config.labels == {"a": "b", "c": ""}


def test_the_commented_example_is_complete_and_says_the_defaults(tmp_path: Path) -> None:
    text = example_text()
    assert tomllib.loads(text) == {name: {} for name in SECTIONS}
    bare = "\n".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line
        for line in text.splitlines()
    )
    file = tmp_path / "all.toml"
    file.write_text(bare)
    found = load({}, {}, file)
    assert {source.split(" ")[0] for source in found.sources.values()} == {"file"}
    assert found.config == Config()
    for setting in SETTINGS:
        assert len(setting.why) > 20, setting.key


def test_offers_are_parts_of_the_device_or_amounts_of_it() -> None:
    assert Offer().cpu_m(4000) == 3200
    assert Offer(cpu="2").cpu_m(4000) == 2000
    assert Offer(cpu="8").cpu_m(4000) == 4000  # more than there is cannot be offered
    assert Offer(memory="512Mi").memory_bytes(2**30) == 2**29
    assert Offer(disk="25%").disk_bytes(1000) == 250


def test_the_default_policy_is_the_protocols() -> None:
    assert Accept().policy() == PolicyConfig()
    assert Accept(authors=("x",)).policy().authors == ("x",)


def test_what_the_owner_takes_is_read_from_file_variable_and_flag(tmp_path: Path) -> None:
    toml = '[accept]\ntypes = ["batch", "ops"]\nhours = ["22:00-06:00", "12:00-13:00"]\n'
    env = {"SHOAL_ACCEPT_MAINS_ONLY": "yes"}
    found = loaded(tmp_path, toml, env, accept__engines=["process", "docker"])
    accept = found.config.accept
    assert (accept.types, accept.hours) == (("batch", "ops"), ("22:00-06:00", "12:00-13:00"))
    assert accept.mains_only and accept.policy().mains_only
    assert found.view()["accept.hours"]["value"] == ["22:00-06:00", "12:00-13:00"]


@pytest.mark.parametrize("listen", ["", "127.0.0.1:9464", "[::1]:9464", "0.0.0.0:0"])
def test_the_metrics_address_is_an_ip_and_a_port(tmp_path: Path, listen: str) -> None:
    assert loaded(tmp_path, f'[metrics]\nlisten = "{listen}"\n').config.metrics.listen == listen


@pytest.mark.parametrize(
    "listen",
    ["9464", ":9464", "::1:9464", "pi:9464", "127.0.0.1:", "127.0.0.1:70000", "[1.2.3.4]:1"],
)
def test_a_metrics_address_that_is_none_is_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen.*127\.0\.0\.1:9464"):
        loaded(tmp_path, f'[metrics]\nlisten = "{listen}"\n')


def test_docker_is_where_the_file_or_dockers_own_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert loaded(tmp_path, "").config.docker.path() == Path("/var/run/docker.sock")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/podman/podman.sock")
    assert loaded(tmp_path, "").config.docker.path() == Path("/run/podman/podman.sock")
    found = loaded(tmp_path, '[docker]\nsocket = "/run/d.sock"\n')
    assert found.config.docker.path() == Path("/run/d.sock")
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert loaded(tmp_path, "").config.docker.path() == Path("/var/run/docker.sock"), (
        "another machine's engine is not this device's"
    )


def test_the_installed_services_file_is_where_people_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, etc = tmp_path / "data", tmp_path / "etc.toml"
    data.mkdir()
    (data / "config.toml").write_text('name = "inside"\n')
    monkeypatch.setattr("agent.configload.SYSTEM_DATA_DIR", data)
    monkeypatch.setattr("agent.configload.SYSTEM_CONFIG", etc)
    assert load({"data_dir": str(data)}, {}).config.name == "inside", "it is not installed"
    etc.write_text('name = "outside"\n[task]\nspawner = "/run/tasks.sock"\n')
    loaded = load({"data_dir": str(data)}, {})
    assert (loaded.config.name, loaded.file) == ("outside", etc)
    assert loaded.config.task.spawner == Path("/run/tasks.sock")
    (tmp_path / "own").mkdir()
    assert load({"data_dir": str(tmp_path / "own")}, {}).config.name == ""
