"""sd_notify by hand: what systemd is told, and that it hears of life only while there is life."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agent.notify import keep_patting, notify, watchdog_s

WITHIN_S = 60.0


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


async def heard(manager: socket.socket) -> str:
    with trio.fail_after(WITHIN_S):
        await trio.lowlevel.wait_readable(manager.fileno())
    return manager.recv(1000).decode()


def test_a_state_is_one_datagram(manager: socket.socket) -> None:
    notify("READY=1\nSTATUS=well")
    assert manager.recv(100) == b"READY=1\nSTATUS=well"


def test_an_abstract_socket_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0shoal-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@shoal-test-{os.getpid()}")
        notify("STOPPING=1")
        assert listening.recv(100) == b"STOPPING=1"


def test_nothing_is_told_where_nobody_asked(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_who_asks_for_it(environment: dict[str, str], wanted: float | None) -> None:
    assert watchdog_s(environment) == wanted


async def test_it_is_patted_while_there_is_life_and_not_after(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    lives, asked = [None, None, None], trio.Event()

    async def alive() -> None:
        if lives:
            lives.pop()
            return
        asked.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_patting, alive)
        for _ in range(3):
            assert await heard(manager) == "WATCHDOG=1"
        with trio.fail_after(WITHIN_S):
            await asked.wait()
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        nursery.cancel_scope.cancel()


async def test_nobody_is_patted_without_a_watchdog(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with trio.fail_after(WITHIN_S):
        await keep_patting(trio.sleep_forever)  # which it therefore does not call
