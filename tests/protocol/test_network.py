"""network: what a task may reach and where it is reached, read as Bacalhau's files have it."""

from __future__ import annotations

import pytest

from protocol.asks import asks_of, not_allowed
from protocol.config import PolicyConfig
from protocol.errors import JobSpecError
from protocol.network import NetworkSpec, Port
from protocol.tree import Node, Plain
from tests.protocol.jobs import task_spec


def read(**fields: Plain) -> NetworkSpec:
    return NetworkSpec.read(Node({**fields}, "Network"))


def port(static: Plain = 8080, **fields: Plain) -> Plain:
    return {"Name": "web", "Static": static, **fields}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, NetworkSpec()),
        ({"Type": "None"}, NetworkSpec("none")),
        ({"type": "Full"}, NetworkSpec("host")),
        ({"Ports": [port(Target=80)]}, NetworkSpec("default", (Port("web", 8080, 80),))),
        ({"Type": "bridge", "ports": [port()]}, NetworkSpec("bridge", (Port("web", 8080, 8080),))),
        ({"Ports": [{"Name": "web"}]}, NetworkSpec("default", (Port("web", 0, 0),))),
        ({"Ports": [port(0, target=80)]}, NetworkSpec("default", (Port("web", 0, 80),))),
        (
            {"Ports": [{"Name": "a"}, {"Name": "b"}]},
            NetworkSpec("default", (Port("a", 0, 0), Port("b", 0, 0))),
        ),
    ],
)
def test_networks_are_read_and_written(fields: dict[str, Plain], found: NetworkSpec) -> None:
    assert read(**fields) == found
    assert NetworkSpec.read(Node(found.to_plain())) == found


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"Type": "HTTP", "Domains": ["x"]}, "Network.Domains", "filtering by domain"),
        ({"Type": "http"}, "Network.Type", "allowed: default, none, host, bridge"),
        ({"Type": "none", "Ports": [port()]}, "Network.Ports", "is reached at none"),
        ({"Ports": [{"Target": 80}]}, "Network.Ports[0].Name", "missing"),
        ({"Ports": [port(65536)]}, "Network.Ports[0].Static", "allowed: 0 to 65535"),
        ({"Ports": [port(Target=65536)]}, "Network.Ports[0].Target", "out of range"),
        ({"Ports": [port(), port(81)]}, "Network.Ports[1]", "the name 'web' is taken"),
        ({"Ports": [port(), port(Name="b")]}, "Network.Ports[1]", "port 8080 is taken"),
        ({"Ports": [port(HostNetwork="x")]}, "Network.Ports[0].HostNetwork", "every address"),
    ],
)
def test_errors_name_the_place(fields: dict[str, Plain], path: str, message: str) -> None:
    with pytest.raises(JobSpecError) as caught:
        read(**fields)
    assert (caught.value.path, message in caught.value.message) == (path, True), caught.value


def test_a_devices_owner_says_at_which_ports() -> None:
    engine: Plain = {"Type": "docker", "Params": {"Image": "busybox"}}
    asks = asks_of(task_spec(Engine=engine, Network={"Ports": [port()]}).task)
    assert asks == ("network bridge", "port 8080")
    assert not_allowed(PolicyConfig(), asks) == ""
    assert not_allowed(PolicyConfig(ports=("80*",)), asks) == ""
    assert not_allowed(PolicyConfig(ports=("443",)), asks) == (
        'policy: port 8080 is not allowed here ([accept] ports = ["443"])'
    )
    chosen: Plain = {"Ports": [{"Name": "a", "Target": 80}, {"Name": "b", "Target": 81}]}
    asks = asks_of(task_spec(Engine=engine, Network=chosen).task)
    assert asks == ("network bridge", "port dynamic")
    assert not_allowed(PolicyConfig(), asks) == ""
    assert not_allowed(PolicyConfig(ports=("80*", "dynamic")), asks) == ""
    assert "port dynamic is not allowed here" in not_allowed(PolicyConfig(ports=("80*",)), asks)
