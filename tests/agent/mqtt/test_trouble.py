"""Sentences for what can go wrong with a broker, each with its way out, and none told twice."""

from __future__ import annotations

import socket
import ssl

import pytest

from agent.mqtt.settings import BrokerSettings, LoginError
from agent.mqtt.trouble import ConnectRefused, TakenOverError, Told, explain

SETTINGS = BrokerSettings("mqtts://broker:8884")


@pytest.mark.parametrize(
    ("error", "kind", "text", "fix"),
    [
        (ConnectionRefusedError(), "refused", "nothing listens at broker:8884", "start the broker"),
        (TimeoutError(), "silent", "broker:8884 does not answer", "firewall"),
        (socket.gaierror(-2, "x"), "host", "no device is known as broker", "url"),
        (ssl.SSLError(1, "wrong version"), "tls", "no TLS with broker:8884", "cert_file"),
        (FileNotFoundError(2, "No such file", "/ca"), "system", "/ca: no such file", "files in"),
        (LoginError("/p: no such file"), "login", "/p: no such file", "password_file"),
        (ConnectRefused(134, "Bad user name or password"), "password", "bad user name", "user"),
        (ConnectRefused(135, "Not authorized"), "authorized", "not authorized", "user"),
        (ConnectRefused(132, "Unsupported protocol version"), "version", "unsupp", '"3.1.1"'),
        (ConnectRefused(133, "Client identifier not valid"), "client", "client", "client_id"),
        (ConnectRefused(137, "Server busy"), "code137", "server busy", "own log"),
        (TakenOverError(), "taken", "another connection", "client_id"),
        (RuntimeError("odd"), "lost", "odd", "own log"),
    ],
)
def test_each_has_a_sentence_and_a_way_out(
    error: Exception, kind: str, text: str, fix: str
) -> None:
    trouble = explain(error, "home", SETTINGS)
    assert trouble.kind == kind
    assert text in trouble.text and fix in trouble.fix


def test_a_certificate_that_is_not_trusted_says_so() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    trouble = explain(error, "home", SETTINGS)
    assert trouble.kind == "certificate"
    assert "self-signed certificate" in trouble.text and "[mqtt.brokers.home]" in trouble.fix


def test_a_kind_is_told_once_in_ten_minutes() -> None:
    now = 0.0
    told = Told(lambda: now)
    assert told.fresh("refused") and told.fresh("password")
    assert not told.fresh("refused")
    now = 601.0
    assert told.fresh("refused") and not told.fresh("refused")
