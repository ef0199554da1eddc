"""check: what may be asked of a task, read and written back, and errors that name the field."""

from __future__ import annotations

import pytest

from protocol.check import CheckSpec, split_address
from protocol.errors import JobSpecError
from protocol.jobtype import JobType
from protocol.tree import Node, Plain


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ({"Exec": ["./well.sh", 1]}, CheckSpec(command=("./well.sh", "1"))),
        (
            {"Http": "http://127.0.0.1:8080/health", "Every": "1m", "Failures": 5},
            CheckSpec(url="http://127.0.0.1:8080/health", every_s=60, failures=5),
        ),
        (
            {"tcp": "[::1]:1883", "every": 2},
            CheckSpec(address="[::1]:1883", every_s=2, timeout_s=2),
        ),
        ({"Tcp": "broker:1883", "Timeout": "1s"}, CheckSpec(address="broker:1883", timeout_s=1)),
    ],
)
def test_it_reads_back(fields: dict[str, Plain], read: CheckSpec) -> None:
    assert CheckSpec.read(Node({**fields}), JobType.DAEMON) == read
    assert CheckSpec.read(Node(read.to_plain()), JobType.SERVICE) == read


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "none of Exec, Http, Tcp given; give exactly one, such as Check: {Http:"),
        ({"Exec": ["a"], "Tcp": "a:1"}, "Exec and Tcp of Exec, Http, Tcp given"),
        ({"Exec": []}, "Exec: no command"),
        ({"Exec": [""]}, "Exec: no command"),
        ({"Http": "file:///etc/passwd"}, "Http: 'file:///etc/passwd' is no address of a web page"),
        ({"Http": "http://"}, "is no address of a web page"),
        ({"Http": "http://host:no/"}, "is no address of a web page"),
        ({"Http": "http://host/a b"}, "is no address of a web page"),
        ({"Tcp": "host"}, "Tcp: 'host' is no host and port; write 127.0.0.1:1883"),
        ({"Tcp": "host:0"}, "is no host and port"),
        ({"Tcp": "user@host:1"}, "is no host and port"),
        ({"Tcp": "host:1/path"}, "is no host and port"),
        ({"Tcp": "host:99999"}, "is no host and port"),
        ({"Tcp": "a:1", "Every": 0}, "Every: 0 is out of range; allowed: 1s to 1d"),
        ({"Tcp": "a:1", "Every": 2, "Timeout": 3}, "Timeout: longer than Every, which is 2s"),
        ({"Tcp": "a:1", "Failures": 0}, "Failures: 0 is out of range"),
        ({"Tcp": "a:1", "Interval": 5}, "Interval: unknown key"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Plain], message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        CheckSpec.read(Node({**fields}), JobType.DAEMON)
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", [JobType.BATCH, JobType.OPS])
def test_what_ends_by_itself_has_none(kind: JobType) -> None:
    with pytest.raises(JobSpecError, match="its exit code tells; leave Check out"):
        CheckSpec.read(Node({"Tcp": "a:1"}), kind)


def test_an_address_has_two_parts() -> None:
    assert split_address("[fe80::1]:80") == ("fe80::1", 80)
    assert split_address("localhost:1883") == ("localhost", 1883)
