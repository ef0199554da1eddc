"""A whole agent in this process: real store, node, transport, engine and control socket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from agent.configload import load
from agent.main import Agent
from agent.membership import load_member
from agent.settings import Value
from agent.shoalroot import create_shoal
from agent.store import Store

WITHIN_S = 60.0


@asynccontextmanager
async def running_agent(data_dir: Path, **flags: Value) -> AsyncIterator[Agent]:
    """The only member of a shoal of its own; by `flags` as on the command line, `.` as `__`."""
    if not (data_dir / "membership").exists():
        create_shoal(data_dir, "lab", "a passphrase for tests", device="alone")
    given = {key.replace("__", "."): value for key, value in flags.items()}
    fixed: dict[str, Value] = {
        "data_dir": str(data_dir),
        "listen": ["/ip4/127.0.0.1/tcp/0"],
        "mdns": False,
        "docker.socket": str(data_dir / "docker.sock"),
    }
    if os.geteuid() == 0:
        os.chmod(data_dir, 0o711)  # noqa: S103 -- as agent.main does
    store = Store.open(data_dir)
    agent = Agent(load({**fixed, **given}, {}), load_member(data_dir), store)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            await until(agent.config.socket_path.exists)
            yield agent
            agent.stop()
    finally:
        store.close()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(WITHIN_S):
        while not condition():  # noqa: ASYNC110 -- of many kinds, without an event in common
            await trio.sleep(0.005)


def open_directory() -> Path:
    """As root, tasks of another user pass through it; pytest's own are closed above."""
    made = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    made.chmod(0o711)
    return made
