"""Agents, engines and brokers that several tests share: starting three agents takes seconds."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engines.docker_client import DockerClient
from tests.dockerhost import PEER, DockerHost
from tests.dockerproxy import DockerProxy
from tests.lab import Lab
from tests.mosquitto import Mosquitto
from tests.mqttlistener import Holding


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three agents; who uses them leaves them all running, and no job behind."""
    with Lab(3) as lab:
        yield lab


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[Mosquitto]:
    """A broker for the tests of one file; who stops it starts it again."""
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="module")
def holding(mosquitto: Mosquitto) -> Iterator[Holding]:
    """A way to it; who holds or mutes it lets it go."""
    way = Holding(mosquitto.port)
    yield way
    way.close()


@pytest.fixture(scope="session")
def docker() -> Iterator[DockerHost]:
    """A docker engine; who stops or freezes it starts it again."""
    with DockerHost() as host:
        yield host


@pytest.fixture
def root(tmp_path: Path, docker: DockerHost) -> Iterator[Path]:
    """A place for an engine's directories. No container of ours is left behind."""
    path = tmp_path / "containers"
    path.mkdir()
    yield path
    gc.collect()  # what is collected later is another test's failure
    docker.remove_ours()


@pytest.fixture
def proxy(docker: DockerHost) -> Iterator[DockerProxy]:
    proxy = DockerProxy(docker.root / "proxy.sock", docker.socket)
    yield proxy
    proxy.close()


@pytest.fixture
def client(root: Path, proxy: DockerProxy) -> Iterator[DockerClient]:
    client = DockerClient(proxy.path, PEER)
    yield client
    client.close()
