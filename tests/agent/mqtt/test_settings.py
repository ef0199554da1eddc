"""Brokers in the configuration, logins in files, and what MQTT may command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.configload import load
from agent.mqtt.settings import (
    BrokerSettings,
    LoginError,
    check_allowed,
    read_brokers,
    read_prefix,
)
from agent.settings import ConfigError


def test_brokers_are_read_from_sections_and_urls(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[mqtt]\nprefix = "lab/shoal"\nallow = ["template/collect", "template/lab-*"]\n'
        '[mqtt.brokers]\nhall = "mqtt://hall"\n'
        '[mqtt.brokers.home]\nurl = "mqtts://10.0.0.5:8884"\nversion = "3.1.1"\nuser = "pi"\n'
        'password_file = "/etc/shoal/p"\nca_file = "/etc/shoal/ca.pem"\nreport = false\n'
    )
    found = load({}, {"SHOAL_DATA_DIR": str(tmp_path)})
    mqtt = found.config.mqtt
    hall, home = mqtt.brokers["hall"], mqtt.brokers["home"]
    assert (hall.host, hall.port, hall.tls, hall.version) == ("hall", 1883, False, "5")
    assert (home.host, home.port, home.tls, home.version) == ("10.0.0.5", 8884, True, "3.1.1")
    assert (mqtt.prefix, home.report, hall.report) == ("lab/shoal", False, True)
    shown: Any = found.view()["mqtt.brokers"]["value"]
    assert shown["home"]["url"] == "mqtts://10.0.0.5:8884"


def test_brokers_come_from_a_variable_too() -> None:
    assert read_brokers("a=mqtt://x, b=mqtts://y") == {
        "a": BrokerSettings("mqtt://x"),
        "b": BrokerSettings("mqtts://y"),
    }


def test_one_broker_may_have_two_names_under_two_client_ids() -> None:
    read_brokers({"a": "mqtt://x", "b": {"url": "mqtt://x", "client_id": "b"}, "c": "mqtt://x:1"})


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"a b": "mqtt://x"}, "'a b' is no name of a broker"),
        ({"a": {}}, "a: url is needed"),
        ({"a": {"url": "http://x"}}, "allowed: mqtt://HOST[:PORT]"),
        ({"a": {"url": "mqtt://x:port"}}, "allowed: mqtt://HOST[:PORT]"),
        ({"a": {"url": "mqtt://u:p@x"}}, "user and password do not belong into url"),
        ({"a": {"url": "mqtt://x", "passwd": "y"}}, "unknown key 'passwd'; allowed: url"),
        ({"a": {"url": "mqtt://x", "version": "4"}}, "version: allowed: 5, 3.1.1"),
        ({"a": {"url": "mqtt://x", "user": 3}}, "user: allowed: a text in quotes"),
        ({"a": {"url": "mqtt://x", "ca_file": "/y"}}, "certificates are for mqtts://"),
        ({"a": {"url": "mqtt://x", "keepalive_s": 1}}, "keepalive_s: allowed: 5 to 3600"),
        ({"a": {"url": "mqtt://x", "session_s": 59}}, "session_s: allowed: 60 to 31536000"),
        ({"a": {"url": "mqtt://x", "session_s": True}}, "session_s: allowed: 60 to 31536000"),
        ({"a": {"url": "mqtt://x", "report": 1}}, "report: allowed: true, false"),
        ({"a": {"url": "mqtt://x", "home_assistant": "yes"}}, "home_assistant: allowed: true"),
        (
            {"a": {"url": "mqtt://x", "home_assistant": True, "report": False}},
            "home_assistant shows what report = true has told",
        ),
        (
            {"a": {"url": "mqtt://x", "home_assistant_prefix": "a/#"}},
            "home_assistant_prefix: allowed: the beginning of topics",
        ),
        ({"a": {"url": "mqtt://x", "home_assistant_prefix": 3}}, "allowed: a text in quotes"),
        ({"a": {"url": "mqtts://x", "key_file": "/y"}}, "the certificate in cert_file"),
        ({"a": {"url": "mqtt://x", "credential": "../y"}}, "the name of a credential"),
        (
            {"a": {"url": "mqtt://x", "credential": "y", "password_file": "z"}},
            "password_file and credential name the same",
        ),
        ({"a": "mqtt://x", "b": "mqtts://y", "c": "mqtt://X:1883/"}, "a and c are one broker"),
        (
            {name: {"url": "mqtt://x", "client_id": "me"} for name in ("a", "b")},
            "a and b are one broker, x:1883, under one client id; leave one out",
        ),
        ({str(number): "mqtt://x" for number in range(9)}, "9 brokers; allowed: 8"),
    ],
)
def test_wrong_brokers_are_refused_by_name_and_key(table: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_brokers(table)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    "word", ["template/look", "template/*", "daemon/look*", "daemon/lab/*", "template/word count"]
)
def test_templates_and_daemons_may_be_commanded(word: str) -> None:
    check_allowed(word)


@pytest.mark.parametrize("word", ["", "look", "job/look", "daemon/", "daemons/*", "*", "daemon/*a"])
def test_nothing_else_may(word: str) -> None:
    with pytest.raises(ValueError, match="allowed: template/NAME, daemon/NAME"):
        check_allowed(word)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[mqtt]\nallow = ["service/look"]\n')
    with pytest.raises(ConfigError, match=r"mqtt\.allow: .*allowed: template/NAME"):
        load({}, {"SHOAL_DATA_DIR": str(tmp_path)})


@pytest.mark.parametrize("prefix", ["", "/a", "a/", "a/+", "#", "$SYS", "a\0", 3])
def test_prefixes_that_are_none(prefix: Any) -> None:
    with pytest.raises(ValueError, match="without"):
        read_prefix(prefix)


def test_a_login_is_read_whenever_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "login"
    file.write_text("pi\nsecret\n")
    assert BrokerSettings("mqtt://x").login() is None
    assert BrokerSettings("mqtt://x", user="pi").login() == ("pi", "")
    assert BrokerSettings("mqtt://x", password_file=str(file)).login() == ("pi", "secret")
    assert BrokerSettings("mqtt://x", user="u", password_file=str(file)).login() == ("u", "pi")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert BrokerSettings("mqtt://x", credential="login").login() == ("pi", "secret")


def test_logins_that_cannot_be_read_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_text("pi\n")
    (tmp_path / "binary").write_bytes(b"\xff\n")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for settings, text in (
        (BrokerSettings("mqtt://x", password_file=f"{tmp_path}/one"), "two lines"),
        (BrokerSettings("mqtt://x", password_file=f"{tmp_path}/binary"), "no text"),
        (BrokerSettings("mqtt://x", password_file=f"{tmp_path}"), "is a directory"),
        (BrokerSettings("mqtt://x", credential="login"), "LoadCredential="),
    ):
        with pytest.raises(LoginError, match=text):
            settings.login()
