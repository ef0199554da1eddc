"""Agents that several tests share: starting three of them takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dockerhost import DockerHost
from tests.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three agents; who uses them leaves them all running, and no job behind."""
    with Lab(3) as lab:
        yield lab


@pytest.fixture(scope="session")
def docker() -> Iterator[DockerHost]:
    """A docker engine; who stops or freezes it starts it again."""
    with DockerHost() as host:
        yield host
